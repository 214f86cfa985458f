package ordering

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/fault"
	"bookworm/internal/money"
	"bookworm/internal/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is the context's part of the database.
var Schema = postgres.Schema{Name: "ordering", Migrations: migrations}

// Store keeps orders in PostgreSQL. It is safe for concurrent use.
type Store struct{ pool *pgxpool.Pool }

// NewStore returns a store over a pool opened for Schema.
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

// Create inserts an order in state Placed with the first event of its log. It is
// idempotent by id: when the order is there already it is returned as it is.
func (s *Store) Create(ctx context.Context, o Order) (Order, error) {
	o.CreatedAt = o.CreatedAt.Truncate(time.Microsecond) // as the database keeps it, so that every later answer is the same
	bookIDs, titles, isbns := make([]string, len(o.Lines)), make([]string, len(o.Lines)), make([]string, len(o.Lines))
	quantities, units := make([]int32, len(o.Lines)), make([]int64, len(o.Lines))
	for i, l := range o.Lines {
		bookIDs[i], titles[i], isbns[i], quantities[i], units[i] = l.BookID, l.Title, l.ISBN13, l.Quantity, l.UnitPrice.Minor
	}
	// One statement, so one round trip and one transaction: the lines and the
	// event are inserted only where the order was.
	const insert = `
		with placed as (
			insert into orders (id, subject, status, currency, subtotal_minor, shipping_minor, tax_minor, discount_minor,
				total_minor, country, details, fingerprint, basket_version, created_at, updated_at)
			values ($1, $2, 'PLACED', $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)
			on conflict (id) do nothing
			returning id
		), lines as (
			insert into order_line (order_id, book_id, title, isbn13, quantity, unit_minor)
			select placed.id, l.* from placed, unnest($14::uuid[], $15::text[], $16::text[], $17::int[], $18::bigint[]) as l
		), event as (
			insert into order_event (order_id, seq, status, at) select id, 1, 'PLACED', $13 from placed
		)
		select count(*) from placed`
	var inserted int
	err := s.pool.QueryRow(ctx, insert, o.ID, o.Subject, o.Totals.Total.Currency, o.Totals.Subtotal.Minor,
		o.Totals.Shipping.Minor, o.Totals.Tax.Minor, o.Totals.Discount.Minor, o.Totals.Total.Minor, o.Country, []byte(o.Details),
		o.Fingerprint, o.BasketVersion, o.CreatedAt, bookIDs, titles, isbns, quantities, units).Scan(&inserted)
	if err != nil {
		return Order{}, fmt.Errorf("insert order: %w", err)
	}
	if inserted == 1 {
		o.Status, o.Version, o.UpdatedAt = Placed, 1, o.CreatedAt
		return o, nil
	}
	return s.Get(ctx, o.ID)
}

// Step moves an order to another state and appends the step to its log, in one
// transaction. Taking the same step twice is no error. Errors: ORDER_NOT_FOUND,
// ILLEGAL_TRANSITION.
func (s *Store) Step(ctx context.Context, id string, next Status, reason string, at time.Time) error {
	err := postgres.Transact(ctx, s.pool, func(tx pgx.Tx) error {
		var status Status
		var version int64
		err := tx.QueryRow(ctx, `select status, version from orders where id = $1 for update`, id).Scan(&status, &version)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return fault.New(fault.ReasonOrderNotFound, "order %s does not exist", id)
		case err != nil:
			return err
		case status == next:
			return nil
		case !status.CanBecome(next):
			return fault.New(fault.ReasonIllegalTransition, "a %s order cannot become %s", status, next).With("status", string(status))
		}
		var batch pgx.Batch
		batch.Queue(`update orders set status = $2, reason = $3, version = $4, updated_at = $5 where id = $1`, id, next, reason, version+1, at)
		batch.Queue(`insert into order_event (order_id, seq, status, reason, at) values ($1, $2, $3, $4, $5)`, id, version+1, next, reason, at)
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err != nil {
		return fmt.Errorf("step order to %s: %w", next, err)
	}
	return nil
}

// Event is one entry of an order's log.
type Event struct {
	Seq    int64
	Status Status
	Reason string
	At     time.Time
}

// Events returns an order's log, oldest first.
func (s *Store) Events(ctx context.Context, id string) ([]Event, error) {
	rows, err := s.pool.Query(ctx, `select seq, status, reason, at from order_event where order_id = $1 order by seq`, id)
	if err != nil {
		return nil, fmt.Errorf("read order events: %w", err)
	}
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Event])
	if err != nil {
		return nil, fmt.Errorf("read order events: %w", err)
	}
	return events, nil
}

const selectOrders = `
	select o.id, o.subject, o.status, o.reason, o.currency, o.subtotal_minor, o.shipping_minor, o.tax_minor, o.discount_minor,
		o.total_minor, o.country, o.details, o.fingerprint, o.basket_version, o.version, o.created_at, o.updated_at, l.*
	from orders o, lateral (
		select array_agg(book_id order by book_id), array_agg(title order by book_id), array_agg(isbn13 order by book_id),
			array_agg(quantity order by book_id), array_agg(unit_minor order by book_id)
		from order_line where order_id = o.id
	) l `

// Get returns an order. Errors: ORDER_NOT_FOUND.
func (s *Store) Get(ctx context.Context, id string) (Order, error) {
	rows, err := s.pool.Query(ctx, selectOrders+`where o.id = $1`, id)
	if err != nil {
		return Order{}, fmt.Errorf("read order: %w", err)
	}
	o, err := pgx.CollectExactlyOneRow(rows, scanOrder)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Order{}, fault.New(fault.ReasonOrderNotFound, "order %s does not exist", id)
	case err != nil:
		return Order{}, fmt.Errorf("read order: %w", err)
	}
	return o, nil
}

// Position is where a page of orders ended.
type Position struct {
	CreatedAt time.Time `json:"t"`
	ID        string    `json:"i"`
}

// List returns up to limit of a subject's orders, newest first, those after the
// given position; nil for the first page.
func (s *Store) List(ctx context.Context, subject string, after *Position, limit int) ([]Order, error) {
	query, args := selectOrders+`where o.subject = $1 order by o.created_at desc, o.id desc limit $2`, []any{subject, limit}
	if after != nil {
		query = selectOrders + `where o.subject = $1 and (o.created_at, o.id) < ($3, $4) order by o.created_at desc, o.id desc limit $2`
		args = append(args, after.CreatedAt, after.ID)
	}
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list orders: %w", err)
	}
	orders, err := pgx.CollectRows(rows, scanOrder)
	if err != nil {
		return nil, fmt.Errorf("list orders: %w", err)
	}
	return orders, nil
}

func scanOrder(row pgx.CollectableRow) (Order, error) {
	var o Order
	var currency string
	var subtotal, shipping, tax, discount, total int64
	var bookIDs, titles, isbns []string
	var quantities []int32
	var units []int64
	err := row.Scan(&o.ID, &o.Subject, &o.Status, &o.Reason, &currency, &subtotal, &shipping, &tax, &discount, &total, &o.Country,
		(*[]byte)(&o.Details), &o.Fingerprint, &o.BasketVersion, &o.Version, &o.CreatedAt, &o.UpdatedAt,
		&bookIDs, &titles, &isbns, &quantities, &units)
	if err != nil {
		return Order{}, err
	}
	o.Totals = Totals{
		Subtotal: money.New(currency, subtotal), Shipping: money.New(currency, shipping), Tax: money.New(currency, tax),
		Discount: money.New(currency, discount), Total: money.New(currency, total),
	}
	o.Lines = make([]Line, len(bookIDs))
	for i := range bookIDs {
		unit := money.New(currency, units[i])
		lineTotal, err := unit.Times(int64(quantities[i]))
		if err != nil {
			return Order{}, fmt.Errorf("line total: %w", err)
		}
		o.Lines[i] = Line{BookID: bookIDs[i], Title: titles[i], ISBN13: isbns[i], Quantity: quantities[i], UnitPrice: unit, Total: lineTotal}
	}
	o.CreatedAt, o.UpdatedAt = o.CreatedAt.UTC(), o.UpdatedAt.UTC()
	return o, nil
}
