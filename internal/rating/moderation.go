package rating

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/postgres"
)

// MaxReports is how many shoppers may report a published review before it is
// hidden until an operator has looked.
const MaxReports = 3

// reasonReported is what the author of a hidden review reads.
const reasonReported = "Other shoppers have reported it."

// Standing is where a review stands.
type Standing struct {
	Status   Status
	Version  int64
	Reported bool // by MaxReports shoppers or more, and no operator has looked since
}

// Standing returns where a review stands; found is false when it is gone.
func (s *Store) Standing(ctx context.Context, id uuid.UUID) (standing Standing, found bool, err error) {
	err = s.db.QueryRow(ctx, `
		select status, version, (select count(*) from report where review_id = review.id and not settled) >= $2
		from review where id = $1`, id, MaxReports).Scan(&standing.Status, &standing.Version, &standing.Reported)
	if errors.Is(err, pgx.ErrNoRows) {
		return Standing{}, false, nil
	}
	return standing, err == nil, wrap("read review's standing", err)
}

// Settle ends the moderation of one version of a review. It has no effect on
// another version, nor when the review does not wait for moderation any more: an
// edit or an operator was quicker. A review that is to be published although
// MaxReports shoppers have reported it goes to the queue.
func (s *Store) Settle(ctx context.Context, id uuid.UUID, version int64, to Status, reason string) error {
	err := postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		review, found, err := lock(ctx, tx, id)
		if err != nil || !found || review.Version != version || review.Status != Pending {
			return err
		}
		if to != Published {
			return move(ctx, tx, review, to, reason)
		}
		reports, err := unsettled(ctx, tx, id)
		switch {
		case err != nil:
			return err
		case reports >= MaxReports:
			return move(ctx, tx, review, InQueue, reasonReported)
		}
		return move(ctx, tx, review, Published, "")
	})
	return wrap("settle review", err)
}

// Hide takes a published review that MaxReports shoppers have reported out of
// sight and into the queue. It has no effect on any other.
func (s *Store) Hide(ctx context.Context, id uuid.UUID) error {
	err := postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		review, found, err := lock(ctx, tx, id)
		if err != nil || !found || review.Status != Published {
			return err
		}
		// Reports lock the review, so they cannot change before the end.
		reports, err := unsettled(ctx, tx, id)
		if err != nil || reports < MaxReports {
			return err
		}
		return move(ctx, tx, review, InQueue, reasonReported)
	})
	return wrap("hide review", err)
}

func unsettled(ctx context.Context, tx pgx.Tx, id uuid.UUID) (reports int, err error) {
	err = tx.QueryRow(ctx, `select count(*) from report where review_id = $1 and not settled`, id).Scan(&reports)
	return reports, err
}

// Decide lets an operator's decision take effect, from whatever status, and
// reports whether it changed anything. Publishing settles the reports there are:
// they do not count again. It is idempotent by request.
// Errors: REVIEW_NOT_FOUND, STALE_VERSION, UNAVAILABLE for a request that is not
// there.
func (s *Store) Decide(ctx context.Context, reviewID, requestID uuid.UUID) (changed bool, err error) {
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		changed = false
		var decision Decision
		ok, err := take(ctx, tx, requestID, &decision)
		if err != nil {
			return err
		}
		if !ok {
			_, err := taken(ctx, tx, reviewID, requestID)
			return err
		}
		review, found, err := lock(ctx, tx, reviewID)
		switch {
		case err != nil:
			return err
		case !found:
			return notFound(reviewID)
		case review.Version != decision.Version:
			return stale(review)
		}
		if _, err := tx.Exec(ctx, `update review set request_id = $2 where id = $1`, reviewID, requestID); err != nil {
			return err
		}
		to, reason := Rejected, decision.Reason
		if decision.Publish {
			to, reason = Published, ""
			if _, err := tx.Exec(ctx, `update report set settled = true, version = $2 where review_id = $1`, reviewID, review.Version); err != nil {
				return err
			}
		}
		changed = review.Status != to
		return move(ctx, tx, review, to, reason)
	})
	if err != nil {
		return false, fmt.Errorf("decide on review: %w", err)
	}
	return changed, nil
}

// Copied reports whether another review by the same shopper has the same words.
func (s *Store) Copied(ctx context.Context, r Review) (copied bool, err error) {
	err = s.db.QueryRow(ctx, `
		select exists (select from review where subject = $1 and digest = $2 and id <> $3)`,
		r.Subject, digest(r.Text), r.ID).Scan(&copied)
	return copied, wrap("look for copies of a review", err)
}

// Unsettled returns up to limit reviews after the given id, by id, that a process
// should be taking care of: those in moderation, in the queue, and published ones
// that enough shoppers have reported.
func (s *Store) Unsettled(ctx context.Context, after uuid.UUID, limit int) ([]Review, error) {
	rows, err := s.db.Query(ctx, `
		select `+reviewColumns+` from review
		where id > $1 and (status in ('PENDING', 'IN_QUEUE') or status = 'PUBLISHED' and id in (
			select review_id from report where not settled group by review_id having count(*) >= $3))
		order by id limit $2`, after, limit, MaxReports)
	if err != nil {
		return nil, fmt.Errorf("list unsettled reviews: %w", err)
	}
	reviews, err := pgx.CollectRows(rows, scanReview)
	return reviews, wrap("list unsettled reviews", err)
}
