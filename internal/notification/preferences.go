package notification

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"bookworm/internal/fault"
)

// Preferences is what a shopper wants to hear by e-mail.
type Preferences struct {
	OrderEmails     bool
	MarketingEmails bool
	Version         int64 // 0: the shopper has never set any
}

// ETag returns the version in the form in which shoppers see it.
func (p Preferences) ETag() string { return "v" + strconv.FormatInt(p.Version, 10) }

// ParseETag returns the version of an etag; quotes around it, as in an If-Match
// header, do not matter. Errors: INVALID_ARGUMENT.
func ParseETag(etag string) (int64, error) {
	bare := etag
	if len(bare) >= 2 && strings.HasPrefix(bare, `"`) && strings.HasSuffix(bare, `"`) {
		bare = bare[1 : len(bare)-1]
	}
	version, err := strconv.ParseInt(strings.TrimPrefix(bare, "v"), 10, 64)
	if err != nil || version < 0 || bare != (Preferences{Version: version}).ETag() {
		const problem = "is not an etag of preferences"
		return 0, fault.New(fault.ReasonInvalidArgument, "The etag %s.", problem).WithField("etag", problem)
	}
	return version, nil
}

// defaults hold for a shopper who has never set any: what concerns an order is
// sent, advertising is not.
var defaults = Preferences{OrderEmails: true}

// Change is a change of preferences; nil leaves a field as it is.
type Change struct {
	OrderEmails     *bool
	MarketingEmails *bool
	// Version, when set, must be the current one.
	Version *int64
}

// Preferences returns the subject's preferences, or the defaults.
func (s *Store) Preferences(ctx context.Context, subject string) (Preferences, error) {
	row := s.pool.QueryRow(ctx,
		`select order_emails, marketing_emails, version from preferences where subject = $1`, subject)
	p, err := scanPreferences(row)
	if errors.Is(err, pgx.ErrNoRows) {
		return defaults, nil
	}
	if err != nil {
		return Preferences{}, fmt.Errorf("read preferences: %w", err)
	}
	return p, nil
}

// UpdatePreferences changes the subject's preferences and returns the new ones.
// Errors: STALE_VERSION, with the current etag.
func (s *Store) UpdatePreferences(ctx context.Context, subject string, c Change) (Preferences, error) {
	// Version 0 is that of the defaults, so the row must not be there; any other
	// version is that of a row, which must be. Both are decided in one statement.
	statement := `
		insert into preferences (subject, order_emails, marketing_emails)
		values ($1, coalesce($2, $4::boolean), coalesce($3, $5::boolean))
		on conflict (subject) do update set
			order_emails = coalesce($2, preferences.order_emails),
			marketing_emails = coalesce($3, preferences.marketing_emails),
			version = preferences.version + 1, updated_at = now()
		where $6::bigint is null
		returning order_emails, marketing_emails, version`
	args := []any{subject, c.OrderEmails, c.MarketingEmails, defaults.OrderEmails, defaults.MarketingEmails, c.Version}
	if c.Version != nil && *c.Version != 0 {
		statement = `
			update preferences set
				order_emails = coalesce($2, order_emails),
				marketing_emails = coalesce($3, marketing_emails),
				version = version + 1, updated_at = now()
			where subject = $1 and version = $4
			returning order_emails, marketing_emails, version`
		args = []any{subject, c.OrderEmails, c.MarketingEmails, *c.Version}
	}
	p, err := scanPreferences(s.pool.QueryRow(ctx, statement, args...))
	if errors.Is(err, pgx.ErrNoRows) {
		current, err := s.Preferences(ctx, subject)
		if err != nil {
			return Preferences{}, err
		}
		return Preferences{}, fault.New(fault.ReasonStaleVersion, "The preferences have changed since you read them.").
			With("etag", current.ETag())
	}
	if err != nil {
		return Preferences{}, fmt.Errorf("update preferences: %w", err)
	}
	return p, nil
}

func scanPreferences(row pgx.Row) (p Preferences, err error) {
	err = row.Scan(&p.OrderEmails, &p.MarketingEmails, &p.Version)
	return p, err
}
