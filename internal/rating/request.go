package rating

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/fault"
)

// Submission is a review as its author wants it.
type Submission struct {
	BookID  uuid.UUID `json:"book_id"`
	Subject string    `json:"subject"`
	Stars   int32     `json:"stars"`
	Title   string    `json:"title"`
	Text    string    `json:"text"`
	Seen    *int64    `json:"seen,omitempty"` // the version that it replaces; nil for whichever there is
}

// Decision is what an operator says about a review.
type Decision struct {
	Publish bool   `json:"publish"` // or reject
	Version int64  `json:"version"` // the one that the operator has seen
	Reason  string `json:"reason"`  // for the author
}

// keepRequests is how long a submission or decision waits for its process: whoever
// made it has given up long before.
const keepRequests = time.Hour

// Ask stores a Submission or a Decision for the review's process and returns the
// request's id, which is all that the process is told. One that is not taken
// within an hour vanishes with a later call.
func (s *Store) Ask(ctx context.Context, reviewID uuid.UUID, what any) (uuid.UUID, error) {
	body, err := json.Marshal(what)
	if err != nil {
		return uuid.Nil, fmt.Errorf("encode request: %w", err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.Nil, fmt.Errorf("make request id: %w", err)
	}
	_, err = s.db.Exec(ctx, `
		with old as (delete from request where created_at < now() - $4::interval)
		insert into request (id, review_id, body) values ($1, $2, $3)`, id, reviewID, body, keepRequests)
	if err != nil {
		return uuid.Nil, fmt.Errorf("store request: %w", err)
	}
	return id, nil
}

// Withdraw forgets a request that was refused. No error when it is not there.
func (s *Store) Withdraw(ctx context.Context, id uuid.UUID) error {
	_, err := s.db.Exec(ctx, `delete from request where id = $1`, id)
	return wrap("withdraw request", err)
}

// Submission returns a submission that was not taken yet; ok is false when there
// is none.
func (s *Store) Submission(ctx context.Context, requestID uuid.UUID) (sub Submission, ok bool, err error) {
	var body []byte
	err = s.db.QueryRow(ctx, `select body from request where id = $1`, requestID).Scan(&body)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Submission{}, false, nil
	case err != nil:
		return Submission{}, false, fmt.Errorf("read submission: %w", err)
	}
	return sub, true, wrap("decode submission", json.Unmarshal(body, &sub))
}

// take removes a request in the transaction in which it takes effect, and decodes
// it. ok is false when it is not there: taken before, or too old.
func take(ctx context.Context, tx pgx.Tx, requestID uuid.UUID, what any) (ok bool, err error) {
	var body []byte
	err = tx.QueryRow(ctx, `delete from request where id = $1 returning body`, requestID).Scan(&body)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, json.Unmarshal(body, what)
}

// taken answers a request that is no longer there: with the review when it has
// taken effect and is the last that did. Errors: UNAVAILABLE otherwise.
func taken(ctx context.Context, tx pgx.Tx, reviewID, requestID uuid.UUID) (Review, error) {
	review, found, err := lock(ctx, tx, reviewID)
	if err != nil {
		return Review{}, err
	}
	var last uuid.UUID
	if found {
		if err := tx.QueryRow(ctx, `select request_id from review where id = $1`, reviewID).Scan(&last); err != nil {
			return Review{}, err
		}
	}
	if last != requestID {
		return Review{}, fault.New(fault.ReasonUnavailable, "The request was lost. Send it again.")
	}
	return review, nil
}
