package chat

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

// actionLife is how long an action can be confirmed.
const actionLife = 10 * time.Minute

// ActionState is how an action stands.
type ActionState string

// The states of an action. Nothing leads out of Done and Dropped.
const (
	Proposed ActionState = "PROPOSED"
	Claimed  ActionState = "CLAIMED" // somebody does it, or died doing it
	Did      ActionState = "DONE"
	Dropped  ActionState = "DROPPED"
)

// Action is what the bookseller would do if the shopper agrees: put copies of a
// book into the basket.
type Action struct {
	ID       uuid.UUID
	BookID   uuid.UUID
	Quantity int32
	Text     string // what would be done, for people
	State    ActionState
	// ETag and Target are set once it is claimed: the basket that it changes, and the
	// copies of the book that are in it then.
	ETag   string
	Target int32
	Result string // what was done, for people
}

func noAction(id uuid.UUID) error {
	return fault.New(fault.ReasonActionNotFound, "There is no action %s, or it can no longer be confirmed.", id)
}

// propose writes an action down.
func (s *Store) propose(ctx context.Context, t turn, p Proposal) (ConfirmationCard, error) {
	card := ConfirmationCard{ActionID: uuid.Must(uuid.NewV7()), Text: p.Text}
	err := s.db.QueryRow(ctx, `
		insert into action (id, conversation_id, turn_id, subject, book_id, quantity, text, expires_at)
		values ($1, $2, $3, $4, $5, $6, $7, now() + $8::interval) returning expires_at`,
		card.ActionID, t.conversation, t.id, t.subject, p.BookID, p.Quantity, p.Text, actionLife).Scan(&card.ExpiresAt)
	if err != nil {
		return ConfirmationCard{}, fmt.Errorf("propose action: %w", err)
	}
	card.ExpiresAt = card.ExpiresAt.UTC()
	return card, nil
}

// Action returns a subject's action. Errors: ACTION_NOT_FOUND, also for one that
// was only proposed and has expired.
func (s *Store) Action(ctx context.Context, subject string, id uuid.UUID) (Action, error) {
	a, err := scanAction(s.db.QueryRow(ctx, `select `+actionColumns+` from action
		where id = $1 and subject = $2 and (state <> 'PROPOSED' or expires_at > now())`, id, subject))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Action{}, noAction(id)
	case err != nil:
		return Action{}, fmt.Errorf("read action: %w", err)
	}
	return a, nil
}

const actionColumns = `id, book_id, quantity, text, state, etag, target, result`

func scanAction(row pgx.Row) (Action, error) {
	var a Action
	err := row.Scan(&a.ID, &a.BookID, &a.Quantity, &a.Text, &a.State, &a.ETag, &a.Target, &a.Result)
	return a, err
}

// claimHold is how long a claim is its holder's alone.
const claimHold = 6 * time.Second

// Claim binds an action to the basket that it changes, before it is done, and
// returns it as it is then. Of concurrent claims one wins, which has the action for
// itself for six seconds; the others get the winner's.
// Errors: ACTION_NOT_FOUND, also for one that has expired.
func (s *Store) Claim(ctx context.Context, subject string, id uuid.UUID, etag string, target int32) (a Action, won bool, err error) {
	return s.move(ctx, subject, id, `
		update action set state = 'CLAIMED', held_until = now() + $5::interval, etag = $3, target = $4
		where id = $1 and subject = $2 and state = 'PROPOSED' and expires_at > now()`, etag, target, claimHold)
}

// TakeOver makes a claim whose holder gave it up, or died, the caller's. Nobody
// knows whether that holder did what it claimed: it can be done again, for the
// same basket, because a basket is in each version once.
func (s *Store) TakeOver(ctx context.Context, subject string, id uuid.UUID) (a Action, won bool, err error) {
	return s.move(ctx, subject, id, `
		update action set held_until = now() + $3::interval
		where id = $1 and subject = $2 and state = 'CLAIMED' and held_until <= now()`, claimHold)
}

// Yield lets others take a claim over, for a holder that does not know whether
// what it did had an effect.
func (s *Store) Yield(ctx context.Context, subject string, id uuid.UUID) error {
	_, err := s.db.Exec(ctx, `update action set held_until = now() where id = $1 and subject = $2 and state = 'CLAIMED'`, id, subject)
	if err != nil {
		return fmt.Errorf("yield action: %w", err)
	}
	return nil
}

// Release gives a claim back of which its holder knows that nothing was done, so
// that the action can be claimed for another basket.
func (s *Store) Release(ctx context.Context, subject string, id uuid.UUID, etag string) error {
	_, err := s.db.Exec(ctx, `
		update action set state = 'PROPOSED', etag = '', target = 0
		where id = $1 and subject = $2 and state = 'CLAIMED' and etag = $3`, id, subject, etag)
	if err != nil {
		return fmt.Errorf("release action: %w", err)
	}
	return nil
}

// Settle notes that a claimed action has been done.
func (s *Store) Settle(ctx context.Context, subject string, id uuid.UUID, result string) (Action, error) {
	a, _, err := s.move(ctx, subject, id, `
		update action set state = 'DONE', result = $3 where id = $1 and subject = $2 and state = 'CLAIMED'`, result)
	return a, err
}

// Drop makes an action one that never happens. Errors: ACTION_NOT_FOUND.
func (s *Store) Drop(ctx context.Context, subject string, id uuid.UUID) (Action, error) {
	a, _, err := s.move(ctx, subject, id, `
		update action set state = 'DROPPED' where id = $1 and subject = $2 and state = 'PROPOSED'`)
	return a, err
}

// move runs an update of one action and returns the action as it is after it, and
// whether the update applied.
func (s *Store) move(ctx context.Context, subject string, id uuid.UUID, update string, args ...any) (a Action, applied bool, err error) {
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, update, append([]any{id, subject}, args...)...)
		if err != nil {
			return err
		}
		applied = tag.RowsAffected() == 1
		a, err = scanAction(tx.QueryRow(ctx, `select `+actionColumns+` from action
			where id = $1 and subject = $2 and (state <> 'PROPOSED' or expires_at > now())`, id, subject))
		if errors.Is(err, pgx.ErrNoRows) {
			return noAction(id)
		}
		return err
	})
	if err != nil {
		return Action{}, false, fmt.Errorf("change action: %w", err)
	}
	return a, applied, nil
}
