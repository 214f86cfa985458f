package finance

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/money"
	"bookworm/internal/page"
	"bookworm/internal/personal"
	"bookworm/internal/postgres"
)

const (
	// keepOwner is how long a payment keeps whose it was: the law wants the accounts
	// of ten years, from the end of the year of an entry. The payment and its ledger
	// entries stay, as nobody's: entries are append-only (M1).
	keepOwner = 11 * 365 * 24 * time.Hour
	// keepEvents is how long the ids of the provider's events are kept: it repeats one
	// for three days, and shows what it sent for thirty to who looks for a fault.
	keepEvents = 90 * 24 * time.Hour
)

const (
	exportPage  = 100  // payments
	retainBatch = 1000 // payments, or events
)

// Personal is the payments of people, as the law lets them ask.
type Personal struct{ Payments *Store }

var _ personal.Holder = Personal{}

// exported is a payment in an export, with what it moved in the ledger.
type exported struct {
	OrderID     string          `json:"order_id"`
	IntentID    string          `json:"provider_id,omitempty"`
	Status      Status          `json:"status"`
	Amount      money.Money     `json:"amount"`
	Authorized  money.Money     `json:"authorized"`
	Captured    money.Money     `json:"captured"`
	Refunded    money.Money     `json:"refunded"`
	DeclineCode string          `json:"decline_code,omitempty"`
	CreatedAt   time.Time       `json:"created_at"`
	UpdatedAt   time.Time       `json:"updated_at"`
	Ledger      []exportedEntry `json:"ledger"`
}

type exportedEntry struct {
	Key     string      `json:"key"`
	Account string      `json:"account"`
	Debit   money.Money `json:"debit"`
	Credit  money.Money `json:"credit"`
	At      time.Time   `json:"at"`
}

// Export returns a page of a person's payments, newest first, with their ledger
// entries. Errors: PAGE_TOKEN_INVALID.
func (p Personal) Export(ctx context.Context, subject, token string) ([]personal.Section, string, error) {
	const list = "finance.export"
	before, id := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), uuid.Max
	if token != "" {
		if err := page.Decode(token, list, subject, &before, &id); err != nil {
			return nil, "", err
		}
	}
	payments, err := p.Payments.export(ctx, subject, before, id)
	if err != nil || len(payments) == 0 {
		return nil, "", err
	}
	next := ""
	if len(payments) > exportPage {
		payments = payments[:exportPage]
		last := payments[exportPage-1]
		if next, err = page.Encode(list, subject, last.CreatedAt, last.OrderID); err != nil {
			return nil, "", err
		}
	}
	if err := p.Payments.addLedger(ctx, payments); err != nil {
		return nil, "", err
	}
	records, err := personal.Records(payments...)
	return []personal.Section{{Name: "payments", Records: records}}, next, err
}

// export returns payments without their ledger entries, one more than fit a page
// when there are.
func (s *Store) export(ctx context.Context, subject string, before time.Time, id uuid.UUID) ([]exported, error) {
	rows, err := s.pool.Query(ctx, `select `+columns+`, created_at from payment
		where subject = $1 and (created_at, order_id) < ($2, $3) order by created_at desc, order_id desc limit $4`, subject, before, id, exportPage+1)
	if err != nil {
		return nil, fmt.Errorf("list payments: %w", err)
	}
	payments, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (exported, error) {
		var createdAt time.Time
		p, err := scanPayment(also{row, &createdAt})
		return exported{
			OrderID: p.OrderID, IntentID: p.IntentID, Status: p.Status, Amount: p.Amount, Authorized: p.Authorized, Captured: p.Captured,
			Refunded: p.Refunded, DeclineCode: p.DeclineCode, CreatedAt: createdAt.UTC(), UpdatedAt: p.UpdatedAt, Ledger: []exportedEntry{},
		}, err
	})
	if err != nil {
		return nil, fmt.Errorf("list payments: %w", err)
	}
	return payments, nil
}

// also is a row with one more column than its reader asks for.
type also struct {
	pgx.CollectableRow

	last any
}

// Scan reads the last column too.
func (r also) Scan(dest ...any) error { return r.CollectableRow.Scan(append(dest, r.last)...) }

func (s *Store) addLedger(ctx context.Context, payments []exported) error {
	ids := make([]string, len(payments))
	place := make(map[string]int)
	for i, p := range payments {
		ids[i] = p.OrderID
		place[p.OrderID] = i
	}
	rows, err := s.pool.Query(ctx, `
		select order_id, key, account, currency, debit_minor, credit_minor, at from ledger_entry where order_id = any ($1) order by id`, ids)
	if err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	var order, currency string
	var e exportedEntry
	_, err = pgx.ForEachRow(rows, []any{&order, &e.Key, &e.Account, &currency, &e.Debit.Minor, &e.Credit.Minor, &e.At}, func() error {
		e.Debit.Currency, e.Credit.Currency, e.At = currency, currency, e.At.UTC()
		p := &payments[place[order]]
		p.Ledger = append(p.Ledger, e)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	return nil
}

// Erase puts the pseudonym in the subject's place in a person's payments. It waits
// for payments that the provider has not decided on.
func (p Personal) Erase(ctx context.Context, subject, pseudonym string) (personal.Erasure, error) {
	var e personal.Erasure
	err := postgres.Transact(ctx, p.Payments.pool, func(tx pgx.Tx) error {
		e = personal.Erasure{}
		// What the provider says of one of the payments waits here, or is through.
		rows, err := tx.Query(ctx, `select order_id, status from payment where subject = $1 order by created_at, order_id for update`, subject)
		if err != nil {
			return err
		}
		var ids []string
		var id string
		var status Status
		_, err = pgx.ForEachRow(rows, []any{&id, &status}, func() error {
			ids = append(ids, id)
			if status == Pending || status == RequiresAction || status == Authorized {
				e.WaitingFor = append(e.WaitingFor, "payment of order "+id)
			}
			return nil
		})
		if err != nil || len(e.WaitingFor) > 0 {
			return err
		}
		e.Erased = int64(len(ids))
		if _, err := tx.Exec(ctx, `update payment set subject = $2, action_url = '' where order_id = any ($1)`, ids, pseudonym); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `select count(*) from payment where subject = $1`, pseudonym).Scan(&e.Kept)
	})
	if err != nil {
		return personal.Erasure{}, fmt.Errorf("erase payments: %w", err)
	}
	if e.Kept > 0 {
		e.Note = "The law wants the accounts to be kept; nothing in them says whose a payment was."
	}
	return e, nil
}

// Retain takes the owner from payments that the law no longer wants to be
// somebody's, and deletes the ids of old events.
func (p Personal) Retain(ctx context.Context) (deleted map[string]int64, more bool, err error) {
	return p.Payments.retain(ctx, time.Now())
}

func (s *Store) retain(ctx context.Context, now time.Time) (map[string]int64, bool, error) {
	owners, err := s.pool.Exec(ctx, `
		update payment set subject = '', action_url = '' where order_id in (
			select order_id from payment where subject <> '' and created_at < $1 and status not in ('PENDING', 'REQUIRES_ACTION', 'AUTHORIZED')
			order by created_at limit $2 for update skip locked)`, now.Add(-keepOwner), retainBatch)
	if err != nil {
		return nil, false, fmt.Errorf("take the owners from old payments: %w", err)
	}
	events, err := s.pool.Exec(ctx, `
		delete from provider_event where (provider, event_id) in (
			select provider, event_id from provider_event where received_at < $1 order by received_at limit $2 for update skip locked)`,
		now.Add(-keepEvents), retainBatch)
	if err != nil {
		return nil, false, fmt.Errorf("delete old events of the provider: %w", err)
	}
	return map[string]int64{"owners of payments": owners.RowsAffected(), "provider events": events.RowsAffected()},
		owners.RowsAffected() == retainBatch || events.RowsAffected() == retainBatch, nil
}
