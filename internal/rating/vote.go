package rating

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/fault"
	"bookworm/internal/postgres"
)

// Vote says that somebody found a published review helpful, or takes that back,
// and returns how many find it helpful now. The same again has no effect.
// Errors: REVIEW_NOT_FOUND, OWN_REVIEW.
func (s *Store) Vote(ctx context.Context, id uuid.UUID, subject string, helpful bool) (votes int32, err error) {
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		review, err := ofOthers(ctx, tx, id, subject)
		if err != nil {
			return err
		}
		if review.Status != Published {
			return notFound(id)
		}
		statement, step := `delete from vote where review_id = $1 and subject = $2`, int32(-1)
		if helpful {
			statement, step = `insert into vote (review_id, subject) values ($1, $2) on conflict do nothing`, 1
		}
		done, err := tx.Exec(ctx, statement, id, subject)
		if err != nil {
			return err
		}
		votes = review.Helpful
		if done.RowsAffected() == 0 {
			return nil
		}
		return tx.QueryRow(ctx, `update review set helpful_count = helpful_count + $2 where id = $1 returning helpful_count`, id, step).
			Scan(&votes)
	})
	if err != nil {
		return 0, fmt.Errorf("vote on review: %w", err)
	}
	return votes, nil
}

// Ground is what is wrong with a review.
type Ground string

// The grounds of a report.
const (
	Spam     Ground = "SPAM"
	Abuse    Ground = "ABUSE"
	Spoiler  Ground = "SPOILER"
	Privacy  Ground = "PRIVACY"
	OffTopic Ground = "OFF_TOPIC"
)

// Report is what a shopper has against a review.
type Report struct {
	Ground    Ground
	Comment   string // or empty
	CreatedAt time.Time
}

// Report stores what somebody has against a published review, and says whether
// enough others have reported it too for its process to hide it: also when it is
// told so again, because the process may not have heard of it. One report each;
// another one replaces it, and counts again only if the review has changed since.
// Errors: REVIEW_NOT_FOUND, OWN_REVIEW.
func (s *Store) Report(ctx context.Context, id uuid.UUID, subject string, ground Ground, comment string) (hide bool, review Review, err error) {
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		hide = false
		review, err = ofOthers(ctx, tx, id, subject)
		if err != nil {
			return err
		}
		if review.Status != Published {
			// It may have been this report that hid it.
			var known bool
			err := tx.QueryRow(ctx, `select exists (select from report where review_id = $1 and subject = $2)`, id, subject).Scan(&known)
			if err == nil && !known {
				err = notFound(id)
			}
			return err
		}
		_, err = tx.Exec(ctx, `
			insert into report (review_id, subject, ground, comment, version) values ($1, $2, $3, $4, $5)
			on conflict (review_id, subject) do update set
				ground = excluded.ground, comment = excluded.comment, version = excluded.version,
				settled = report.settled and report.version = excluded.version`,
			id, subject, ground, comment, review.Version)
		if err != nil {
			return err
		}
		reports, err := unsettled(ctx, tx, id)
		hide = reports >= MaxReports
		return err
	})
	if err != nil {
		return false, Review{}, fmt.Errorf("report review: %w", err)
	}
	return hide, review, nil
}

// ofOthers locks a review that somebody else has written. Errors:
// REVIEW_NOT_FOUND, OWN_REVIEW.
func ofOthers(ctx context.Context, tx pgx.Tx, id uuid.UUID, subject string) (Review, error) {
	review, found, err := lock(ctx, tx, id)
	switch {
	case err != nil:
		return Review{}, err
	case !found:
		return Review{}, notFound(id)
	case review.Subject == subject:
		return Review{}, fault.New(fault.ReasonOwnReview, "The review %s is your own.", id).With("review_id", id.String())
	}
	return review, nil
}

// Reports returns the reports of reviews that no operator has settled, the oldest
// first.
func (s *Store) Reports(ctx context.Context, reviews []uuid.UUID) (map[uuid.UUID][]Report, error) {
	rows, err := s.db.Query(ctx, `
		select review_id, ground, comment, created_at from report
		where review_id = any ($1) and not settled order by created_at, subject`, reviews)
	if err != nil {
		return nil, fmt.Errorf("list reports: %w", err)
	}
	found := make(map[uuid.UUID][]Report)
	var id uuid.UUID
	var r Report
	_, err = pgx.ForEachRow(rows, []any{&id, &r.Ground, &r.Comment, &r.CreatedAt}, func() error {
		r.CreatedAt = r.CreatedAt.UTC()
		found[id] = append(found[id], r)
		return nil
	})
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("list reports: %w", err)
	}
	return found, nil
}
