package notification

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"bookworm/internal/fault"
)

// Preferences is what a shopper wants to hear by e-mail.
type Preferences struct {
	OrderEmails     bool
	MarketingEmails bool
	Version         int64 // 0: the shopper has never set any
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
// Errors: STALE_VERSION.
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
		return Preferences{}, fault.New(fault.ReasonStaleVersion, "The preferences have changed since you read them.")
	}
	if err != nil {
		return Preferences{}, fmt.Errorf("update preferences: %w", err)
	}
	return p, nil
}

func scanPreferences(row pgx.Row) (p Preferences, err error) {
	err = row.Scan(&p.OrderEmails, &p.MarketingEmails, &p.Version)
	return p, err //nolint:wrapcheck // the callers know what they did
}
