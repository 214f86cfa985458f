package ordering

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"bookworm/internal/page"
	"bookworm/internal/personal"
	"bookworm/internal/postgres"
)

const (
	// keepDetails is how long an order that has ended keeps its address, e-mail
	// and name: claims from a sale come up for three years after it.
	keepDetails = 3 * 365 * 24 * time.Hour
	// keepOwner is how long an order keeps whose it was: the law wants the records
	// of a sale for ten years, from the end of the year in which it was made. What
	// was sold, for how much and to which country stays, as nobody's.
	keepOwner = 11 * 365 * 24 * time.Hour
)

const (
	exportPage  = 50  // orders
	retainBatch = 500 // orders
)

// Personal is the orders of a person, as the law lets them ask.
type Personal struct {
	Orders *Store
	// Open opens what was sealed for a shopper under a label.
	Open func(ctx context.Context, subject, label string, sealed personal.Sealed, v any) error
}

var _ personal.Holder = (*Personal)(nil)

// exported is an order in an export.
type exported struct {
	ID              string          `json:"id"`
	PlacedAt        time.Time       `json:"placed_at"`
	Status          Status          `json:"status"`
	StatusReason    string          `json:"status_reason,omitempty"`
	Lines           []Line          `json:"lines"`
	Totals          Totals          `json:"totals"`
	CountryCode     string          `json:"country_code"`
	ShippingAddress *Address        `json:"shipping_address,omitempty"`
	Email           string          `json:"email,omitempty"`
	Name            string          `json:"name,omitempty"`
	PaymentMethod   string          `json:"payment_method,omitempty"`
	History         []exportedEvent `json:"history"`
}

type exportedEvent struct {
	Status Status    `json:"status"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// Export returns a page of a person's orders, newest first: lines, totals,
// address and history. Errors: PAGE_TOKEN_INVALID.
func (p *Personal) Export(ctx context.Context, subject, token string) ([]personal.Section, string, error) {
	const list = "ordering.export"
	var after *Position
	if token != "" {
		after = &Position{}
		if err := page.Decode(token, list, subject, &after.CreatedAt, &after.ID); err != nil {
			return nil, "", err
		}
	}
	orders, err := p.Orders.List(ctx, subject, after, exportPage+1)
	if err != nil {
		return nil, "", err
	}
	next := ""
	if len(orders) > exportPage {
		orders = orders[:exportPage]
		last := orders[exportPage-1]
		if next, err = page.Encode(list, subject, last.CreatedAt, last.ID); err != nil {
			return nil, "", err
		}
	}
	histories, err := p.Orders.histories(ctx, orders)
	if err != nil {
		return nil, "", err
	}
	out := make([]exported, len(orders))
	for i, o := range orders {
		out[i] = exported{
			ID: o.ID, PlacedAt: o.CreatedAt, Status: o.Status, StatusReason: o.Reason, Lines: o.Lines, Totals: o.Totals,
			CountryCode: o.Country, History: histories[o.ID],
		}
		if len(o.Details) == 0 { // their time was over
			continue
		}
		var d Details
		if err := p.Open(ctx, subject, o.ID, o.Details, &d); err != nil {
			return nil, "", fmt.Errorf("open the details of order %s: %w", o.ID, err)
		}
		out[i].ShippingAddress, out[i].Email, out[i].Name, out[i].PaymentMethod = &d.Address, d.Email, d.Name, d.PaymentMethod
	}
	records, err := personal.Records(out...)
	if err != nil || len(records) == 0 {
		return nil, "", err
	}
	return []personal.Section{{Name: "orders", Records: records}}, next, nil
}

// histories returns the logs of orders.
func (s *Store) histories(ctx context.Context, orders []Order) (map[string][]exportedEvent, error) {
	ids := make([]string, len(orders))
	for i, o := range orders {
		ids[i] = o.ID
	}
	rows, err := s.pool.Query(ctx, `select order_id, status, reason, at from order_event where order_id = any ($1) order by order_id, seq`, ids)
	if err != nil {
		return nil, fmt.Errorf("read order events: %w", err)
	}
	found := make(map[string][]exportedEvent)
	var id string
	var e exportedEvent
	_, err = pgx.ForEachRow(rows, []any{&id, &e.Status, &e.Reason, &e.At}, func() error {
		e.At = e.At.UTC()
		found[id] = append(found[id], e)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read order events: %w", err)
	}
	return found, nil
}

// unfinished are the states that something still follows.
var unfinished = slices.Sorted(maps.Keys(transitions))

// Erase empties the details of a person's orders and puts the pseudonym in the
// subject's place. It waits for orders that have not ended. The fingerprint of the
// request goes too, so that the request, should it come again under its key, is
// told that the key is used: it finds nothing and makes nothing.
func (p *Personal) Erase(ctx context.Context, subject, pseudonym string) (personal.Erasure, error) {
	var e personal.Erasure
	err := postgres.Transact(ctx, p.Orders.pool, func(tx pgx.Tx) error {
		e = personal.Erasure{Note: "The law wants the records of a sale to be kept; nothing in them says whose it was."}
		// A step of one of the orders waits here, or is through.
		rows, err := tx.Query(ctx, `select id, status from orders where subject = $1 order by created_at, id for update`, subject)
		if err != nil {
			return err
		}
		var ids []string
		var id string
		var status Status
		_, err = pgx.ForEachRow(rows, []any{&id, &status}, func() error {
			ids = append(ids, id)
			if !status.Final() {
				e.WaitingFor = append(e.WaitingFor, "order "+id)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(e.WaitingFor) > 0 {
			e.Note = ""
			return nil
		}
		var batch pgx.Batch
		batch.Queue(forget+`where id = any ($1)`, ids, pseudonym)
		batch.Queue(forgetReasons, ids)
		batch.Queue(`select count(*) from orders where subject = $1`, pseudonym).QueryRow(func(row pgx.Row) error { return row.Scan(&e.Kept) })
		e.Erased = int64(len(ids))
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err != nil {
		return personal.Erasure{}, fmt.Errorf("erase orders: %w", err)
	}
	if e.Kept == 0 {
		e.Note = ""
	}
	return e, nil
}

// forget takes from orders what is of a person, and gives them to $2. A reason
// that is no word of ours was typed by somebody.
const forget = `
	update orders set subject = $2, details = '', fingerprint = '', reason = case when reason ~ '^[A-Z_]*$' then reason else 'ERASED' end `

const forgetReasons = `update order_event set reason = 'ERASED' where order_id = any ($1) and reason !~ '^[A-Z_]*$'`

// Retain empties the details of orders whose time is over, and takes the owner
// from those that the law no longer wants to be somebody's.
func (p *Personal) Retain(ctx context.Context) (deleted map[string]int64, more bool, err error) {
	return p.Orders.retain(ctx, time.Now())
}

func (s *Store) retain(ctx context.Context, now time.Time) (map[string]int64, bool, error) {
	tag, err := s.pool.Exec(ctx, `
		update orders set details = '' where id in (
			select id from orders where details <> '' and created_at < $1 and status <> all ($2)
			order by created_at limit $3 for update skip locked)`, now.Add(-keepDetails), unfinished, retainBatch)
	if err != nil {
		return nil, false, fmt.Errorf("empty the details of old orders: %w", err)
	}
	details, owners := tag.RowsAffected(), int64(0)
	err = postgres.Transact(ctx, s.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			select id from orders where subject <> '' and created_at < $1 and status <> all ($2)
			order by created_at limit $3 for update skip locked`, now.Add(-keepOwner), unfinished, retainBatch)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(ids) == 0 {
			return err
		}
		owners = int64(len(ids))
		var batch pgx.Batch
		batch.Queue(forget+`where id = any ($1)`, ids, "")
		batch.Queue(forgetReasons, ids)
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err != nil {
		return nil, false, fmt.Errorf("take the owners from old orders: %w", err)
	}
	return map[string]int64{"details of orders": details, "owners of orders": owners}, details == retainBatch || owners == retainBatch, nil
}
