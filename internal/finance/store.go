package finance

import (
	"context"
	"embed"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/fault"
	"bookworm/internal/money"
	"bookworm/internal/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is the context's part of the database.
var Schema = postgres.Schema{Name: "finance", Migrations: migrations}

// Store keeps payments and the ledger in PostgreSQL. It is safe for concurrent
// use.
type Store struct{ pool *pgxpool.Pool }

// NewStore returns a store over a pool opened for Schema.
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

// Open makes sure that an order has a payment row before any call to the
// provider, and returns it. Idempotent.
// Errors: PAYMENT_MISMATCH when the order's payment is of another amount.
func (s *Store) Open(ctx context.Context, orderID, subject string, amount money.Money) (Payment, error) {
	return s.insert(ctx, orderID, subject, amount, Pending)
}

// Bar makes sure that a payment that was never opened never will be, and returns
// the row: Voided when this call made it, else what is there.
func (s *Store) Bar(ctx context.Context, orderID, subject string, amount money.Money) (Payment, error) {
	return s.insert(ctx, orderID, subject, amount, Voided)
}

func (s *Store) insert(ctx context.Context, orderID, subject string, amount money.Money, status Status) (Payment, error) {
	// The no-op update makes "returning" answer the row also when it is there.
	const insert = `
		insert into payment (order_id, subject, status, currency, amount_minor) values ($1, $2, $3, $4, $5)
		on conflict (order_id) do update set order_id = excluded.order_id
		returning ` + columns
	rows, err := s.pool.Query(ctx, insert, orderID, subject, status, amount.Currency, amount.Minor)
	if err != nil {
		return Payment{}, fmt.Errorf("open payment: %w", err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, scanPayment)
	if err != nil {
		return Payment{}, fmt.Errorf("open payment: %w", err)
	}
	if p.Amount != amount {
		return Payment{}, fault.New(fault.ReasonPaymentMismatch, "order %s has a payment of %s, not %s", orderID, p.Amount, amount)
	}
	return p, nil
}

// Record takes over what the provider says of a payment, with the ledger entries
// of what is new in it, in one transaction. What it says twice or late changes
// nothing: amounts only grow, and a final state stays.
// Errors: PAYMENT_NOT_FOUND, PAYMENT_MISMATCH when the intent is of another
// order, amount or currency.
func (s *Store) Record(ctx context.Context, orderID string, i Intent) (Payment, error) {
	var recorded Payment
	err := postgres.Transact(ctx, s.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `select `+columns+` from payment where order_id = $1 for update`, orderID)
		if err != nil {
			return err
		}
		p, err := pgx.CollectExactlyOneRow(rows, scanPayment)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return fault.New(fault.ReasonPaymentNotFound, "order %s has no payment", orderID)
		case err != nil:
			return err
		case i.OrderID != orderID || i.Amount != p.Amount || (p.IntentID != "" && p.IntentID != i.ID):
			return fault.New(fault.ReasonPaymentMismatch, "intent %s of order %s over %s is not the payment of order %s over %s",
				i.ID, i.OrderID, i.Amount, orderID, p.Amount)
		}
		captured, refunded := i.Captured.Minor-p.Captured.Minor, i.Refunded.Minor-p.Refunded.Minor
		p = merge(p, i)
		var batch pgx.Batch
		batch.Queue(`update payment set intent_id = $2, status = $3, authorized_minor = $4, captured_minor = $5, refunded_minor = $6,
			decline_code = $7, action_url = $8, updated_at = now() where order_id = $1`,
			orderID, p.IntentID, p.Status, p.Authorized.Minor, p.Captured.Minor, p.Refunded.Minor, p.DeclineCode, p.ActionURL)
		if captured > 0 {
			enter(&batch, orderID, "capture", "provider", "sales", p.Amount.Currency, captured)
		}
		if refunded > 0 {
			enter(&batch, orderID, "refund", "sales", "provider", p.Amount.Currency, refunded)
		}
		recorded = p
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err != nil {
		return Payment{}, fmt.Errorf("record payment: %w", err)
	}
	return recorded, nil
}

// merge takes over what is newer in i. The provider's answers may come late or
// twice, so nothing ever shrinks and a final state absorbs.
func merge(p Payment, i Intent) Payment {
	p.IntentID = i.ID
	p.Authorized.Minor = max(p.Authorized.Minor, i.Authorized.Minor)
	p.Captured.Minor = max(p.Captured.Minor, i.Captured.Minor)
	p.Refunded.Minor = max(p.Refunded.Minor, i.Refunded.Minor)
	rank := map[Status]int{Pending: 0, RequiresAction: 1, Authorized: 2, Captured: 3, Declined: 4, Voided: 4, Refunded: 5}
	if rank[i.Status] >= rank[p.Status] && (rank[p.Status] < rank[Declined] || i.Status == Refunded) {
		p.Status, p.DeclineCode, p.ActionURL = i.Status, i.DeclineCode, i.ActionURL
	}
	return p
}

// enter queues the two sides of one movement of money.
func enter(batch *pgx.Batch, orderID, step, debit, credit, currency string, minor int64) {
	batch.Queue(`insert into ledger_entry (order_id, key, account, currency, debit_minor, credit_minor)
		values ($1, $2, $3, $5, $6, 0), ($1, $2, $4, $5, 0, $6)`, orderID, key(orderID, step), debit, credit, currency, minor)
}

// Decline records a refusal that left no intent behind. Idempotent; a payment
// that got further stays as it is.
func (s *Store) Decline(ctx context.Context, orderID, code string) error {
	const update = `update payment set status = 'DECLINED', decline_code = $2, updated_at = now() where order_id = $1 and status = 'PENDING'`
	if _, err := s.pool.Exec(ctx, update, orderID, code); err != nil {
		return fmt.Errorf("decline payment: %w", err)
	}
	return nil
}

// Get returns the payment of an order. Errors: PAYMENT_NOT_FOUND.
func (s *Store) Get(ctx context.Context, orderID string) (Payment, error) {
	rows, err := s.pool.Query(ctx, `select `+columns+` from payment where order_id = $1`, orderID)
	if err != nil {
		return Payment{}, fmt.Errorf("read payment: %w", err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, scanPayment)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Payment{}, fault.New(fault.ReasonPaymentNotFound, "order %s has no payment", orderID)
	case err != nil:
		return Payment{}, fmt.Errorf("read payment: %w", err)
	}
	return p, nil
}

// Event is something the provider told us about a payment.
type Event struct {
	ID      string // the provider's
	Type    string
	OrderID string
}

// KeepEvent stores a provider's event, once for each id. It returns false when it
// was there already.
func (s *Store) KeepEvent(ctx context.Context, e Event) (bool, error) {
	tag, err := s.pool.Exec(ctx, `insert into provider_event (provider, event_id, type, order_id)
		values ('stripe', $1, $2, nullif($3, '')::uuid) on conflict do nothing`, e.ID, e.Type, e.OrderID)
	if err != nil {
		return false, fmt.Errorf("keep provider event: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

const columns = `order_id, subject, coalesce(intent_id, ''), status, currency, amount_minor, authorized_minor, captured_minor,
	refunded_minor, decline_code, action_url, updated_at`

func scanPayment(row pgx.CollectableRow) (Payment, error) {
	var p Payment
	var currency string
	err := row.Scan(&p.OrderID, &p.Subject, &p.IntentID, &p.Status, &currency, &p.Amount.Minor, &p.Authorized.Minor, &p.Captured.Minor,
		&p.Refunded.Minor, &p.DeclineCode, &p.ActionURL, &p.UpdatedAt)
	p.Amount.Currency, p.Authorized.Currency, p.Captured.Currency, p.Refunded.Currency = currency, currency, currency, currency
	p.UpdatedAt = p.UpdatedAt.UTC()
	return p, err
}
