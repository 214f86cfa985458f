package rating

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/fault"
	"bookworm/internal/postgres"
)

const reviewColumns = `id, book_id, subject, stars, title, text, version, status, status_reason, verified_purchase,
	helpful_count, created_at, updated_at`

func scanReview(row pgx.CollectableRow) (Review, error) {
	var r Review
	err := row.Scan(&r.ID, &r.BookID, &r.Subject, &r.Stars, &r.Title, &r.Text, &r.Version, &r.Status, &r.Reason,
		&r.VerifiedPurchase, &r.Helpful, &r.CreatedAt, &r.UpdatedAt)
	r.CreatedAt, r.UpdatedAt = r.CreatedAt.UTC(), r.UpdatedAt.UTC()
	return r, err
}

// Get returns a review in whatever state. Errors: REVIEW_NOT_FOUND.
func (s *Store) Get(ctx context.Context, id uuid.UUID) (Review, error) {
	rows, err := s.db.Query(ctx, `select `+reviewColumns+` from review where id = $1`, id)
	if err != nil {
		return Review{}, fmt.Errorf("read review: %w", err)
	}
	review, err := pgx.CollectExactlyOneRow(rows, scanReview)
	if errors.Is(err, pgx.ErrNoRows) {
		return Review{}, notFound(id)
	}
	return review, wrap("read review", err)
}

// lock returns a review and keeps others from changing it until the transaction
// ends.
func lock(ctx context.Context, tx pgx.Tx, id uuid.UUID) (review Review, found bool, err error) {
	rows, err := tx.Query(ctx, `select `+reviewColumns+` from review where id = $1 for update`, id)
	if err != nil {
		return Review{}, false, err
	}
	review, err = pgx.CollectExactlyOneRow(rows, scanReview)
	if errors.Is(err, pgx.ErrNoRows) {
		return Review{}, false, nil
	}
	return review, err == nil, err
}

// Submit lets a submission take effect and returns the review as stored, and
// whether it changed. A review whose words or stars change is Pending again. It is
// idempotent by request; the same content as before has no effect, whatever
// version was seen.
// Errors: STALE_VERSION, UNAVAILABLE for a request that is not there.
func (s *Store) Submit(ctx context.Context, reviewID, requestID uuid.UUID, verified bool) (review Review, changed bool, err error) {
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		review, changed = Review{}, false
		var sub Submission
		ok, err := take(ctx, tx, requestID, &sub)
		if err != nil {
			return err
		}
		if !ok {
			review, err = taken(ctx, tx, reviewID, requestID)
			return err
		}
		review, changed, err = submit(ctx, tx, reviewID, requestID, sub, verified)
		return err
	})
	if err != nil {
		return Review{}, false, fmt.Errorf("submit review: %w", err)
	}
	return review, changed, nil
}

func submit(ctx context.Context, tx pgx.Tx, id, requestID uuid.UUID, sub Submission, verified bool) (Review, bool, error) {
	before, found, err := lock(ctx, tx, id)
	switch {
	case err != nil:
		return Review{}, false, err
	case !found && sub.Seen != nil:
		return Review{}, false, fault.New(fault.ReasonStaleVersion, "The review was deleted since you read it.").
			WithField("etag", "is not the review's current version")
	case !found:
		return insert(ctx, tx, id, requestID, sub, verified)
	case before.Stars == sub.Stars && before.Title == sub.Title && before.Text == sub.Text:
		_, err := tx.Exec(ctx, `update review set request_id = $2 where id = $1`, id, requestID)
		return before, false, err
	case sub.Seen != nil && *sub.Seen != before.Version:
		return Review{}, false, stale(before)
	}
	if err := move(ctx, tx, before, Pending, ""); err != nil {
		return Review{}, false, err
	}
	rows, err := tx.Query(ctx, `
		update review set stars = $2, title = $3, text = $4, digest = $5, version = nextval('review_version'),
			verified_purchase = $6, request_id = $7, updated_at = now()
		where id = $1
		returning `+reviewColumns, id, sub.Stars, sub.Title, sub.Text, digest(sub.Text), verified, requestID)
	if err != nil {
		return Review{}, false, err
	}
	review, err := pgx.CollectExactlyOneRow(rows, scanReview)
	return review, true, err
}

func insert(ctx context.Context, tx pgx.Tx, id, requestID uuid.UUID, sub Submission, verified bool) (Review, bool, error) {
	rows, err := tx.Query(ctx, `
		insert into review (id, book_id, subject, stars, title, text, digest, version, status, verified_purchase, request_id)
		values ($1, $2, $3, $4, $5, $6, $7, nextval('review_version'), 'PENDING', $8, $9)
		on conflict do nothing
		returning `+reviewColumns,
		id, sub.BookID, sub.Subject, sub.Stars, sub.Title, sub.Text, digest(sub.Text), verified, requestID)
	if err != nil {
		return Review{}, false, err
	}
	review, err := pgx.CollectExactlyOneRow(rows, scanReview)
	if errors.Is(err, pgx.ErrNoRows) {
		// Another submission was quicker; its transaction is through, so its review can
		// be locked.
		return submit(ctx, tx, id, requestID, sub, verified)
	}
	return review, true, err
}

// Delete takes a review away, with its votes, reports and requests: nothing of its
// words stays. It reports whether there was one. With seen, it must be in that
// version. Errors: STALE_VERSION.
func (s *Store) Delete(ctx context.Context, id uuid.UUID, seen *int64) (found bool, err error) {
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		var review Review
		if review, found, err = lock(ctx, tx, id); err != nil || !found {
			return err
		}
		if seen != nil && *seen != review.Version {
			return stale(review)
		}
		if review.Status == Published {
			if err := uncount(ctx, tx, review); err != nil {
				return err
			}
		}
		var batch pgx.Batch
		batch.Queue(`delete from review where id = $1`, id)
		batch.Queue(`delete from request where review_id = $1`, id)
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err != nil {
		return false, fmt.Errorf("delete review: %w", err)
	}
	return found, nil
}

// move brings a locked review to a status. All that depends on what is published
// follows here and in Delete, in the same transaction.
func move(ctx context.Context, tx pgx.Tx, r Review, to Status, reason string) error {
	if r.Status == to && r.Reason == reason {
		return nil
	}
	_, err := tx.Exec(ctx, `
		update review set status = $2, status_reason = $3, status_at = case when status = $2 then status_at else now() end
		where id = $1`, r.ID, to, reason)
	switch {
	case err != nil:
		return err
	case r.Status != Published && to == Published:
		return count(ctx, tx, r)
	case r.Status == Published && to != Published:
		return uncount(ctx, tx, r)
	}
	return nil
}
