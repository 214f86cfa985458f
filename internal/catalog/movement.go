package catalog

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/fault"
	"bookworm/internal/postgres"
)

// The kinds of stock movements. on_hand is opening + received - shipped +
// returned.
const (
	movementOpening  = "opening"
	movementReceived = "received"
	movementShipped  = "shipped"
	movementReturned = "returned"
)

const insertMovement = `
	INSERT INTO stock_movement (book_id, kind, quantity, reference) VALUES ($1, $2, $3, $4)
	ON CONFLICT (book_id, kind, reference) DO NOTHING`

// Receive adds copies that a supplier delivered. The reference names the
// delivery: the same one is counted once. Errors: BOOK_NOT_FOUND,
// INVALID_ARGUMENT for a quantity below 1.
func (s *Store) Receive(ctx context.Context, bookID uuid.UUID, quantity int32, reference string) error {
	return s.bring(ctx, movementReceived, bookID, quantity, reference)
}

// Return adds copies that a customer sent back in a state to be sold again. The
// reference names the return: the same one is counted once. Errors:
// BOOK_NOT_FOUND, INVALID_ARGUMENT for a quantity below 1.
func (s *Store) Return(ctx context.Context, bookID uuid.UUID, quantity int32, reference string) error {
	return s.bring(ctx, movementReturned, bookID, quantity, reference)
}

func (s *Store) bring(ctx context.Context, kind string, bookID uuid.UUID, quantity int32, reference string) error {
	if quantity < 1 {
		return fault.New(fault.ReasonInvalidArgument, "A quantity is below 1.").WithField("quantity", "must be at least 1")
	}
	err := postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		// The stock first: it waits for another call with the same reference.
		added, err := tx.Exec(ctx, `UPDATE stock SET on_hand = on_hand + $2 WHERE book_id = $1`, bookID, quantity)
		if err != nil {
			return err
		}
		if added.RowsAffected() == 0 {
			return notFound(bookID)
		}
		recorded, err := tx.Exec(ctx, insertMovement, bookID, kind, quantity, reference)
		if err != nil {
			return err
		}
		if recorded.RowsAffected() == 0 {
			_, err = tx.Exec(ctx, `UPDATE stock SET on_hand = on_hand - $2 WHERE book_id = $1`, bookID, quantity)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("record %s stock: %w", kind, err)
	}
	return nil
}
