package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/fault"
	"bookworm/internal/money"
	"bookworm/internal/postgres"
)

// StockLine asks for copies of a book.
type StockLine struct {
	BookID   uuid.UUID
	Quantity int32 // at least 1
}

// HeldLine is a book that is held, as it was at the moment of the hold.
type HeldLine struct {
	BookID    uuid.UUID
	Quantity  int32
	Title     string
	ISBN13    string
	UnitPrice money.Money
}

// The states of a hold. Only held and committed holds reserve stock.
const (
	stateHeld      = "held"
	stateCommitted = "committed"
	stateReleased  = "released"
	stateShipped   = "shipped"
)

// Every transaction on holds locks its hold rows first and then its stock rows
// in the order of their book ids, so that no two of them wait for each other.

// HoldStock sets copies aside until expires and returns what is held,
// a line for each book, sorted by id. Lines with the same book add up first; all
// are held or none. For a hold that is there already it returns what that
// is, whatever the lines and the expiry are now.
// Errors: BOOK_NOT_FOUND, BOOK_ARCHIVED, OUT_OF_STOCK (each naming all books it
// applies to), HOLD_RELEASED, INVALID_ARGUMENT for no lines or a quantity below 1.
func (s *Store) HoldStock(ctx context.Context, holdID uuid.UUID, lines []StockLine, expires time.Time) ([]HeldLine, error) {
	wanted, err := addUp(lines)
	if err != nil {
		return nil, err
	}
	var held []HeldLine
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		held, err = holdStock(ctx, tx, holdID, wanted, expires)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("hold stock: %w", err)
	}
	return held, nil
}

// want is the sum of the lines with one book.
type want struct {
	bookID   uuid.UUID
	quantity int64
}

// addUp returns one want for each book, sorted by id. A sum stays in the range
// of a quantity: nobody has that many copies.
func addUp(lines []StockLine) ([]want, error) {
	if len(lines) == 0 {
		return nil, fault.New(fault.ReasonInvalidArgument, "There is nothing to hold.").WithField("lines", "must not be empty")
	}
	sums := make(map[uuid.UUID]int64, len(lines))
	for i, line := range lines {
		if line.Quantity < 1 {
			return nil, fault.New(fault.ReasonInvalidArgument, "A quantity is below 1.").
				WithField(fmt.Sprintf("lines[%d].quantity", i), "must be at least 1")
		}
		sums[line.BookID] = min(sums[line.BookID]+int64(line.Quantity), math.MaxInt32)
	}
	wanted := make([]want, 0, len(sums))
	for _, id := range slices.SortedFunc(maps.Keys(sums), func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }) {
		wanted = append(wanted, want{id, sums[id]})
	}
	return wanted, nil
}

func holdStock(ctx context.Context, tx pgx.Tx, holdID uuid.UUID, wanted []want, expires time.Time) ([]HeldLine, error) {
	ids := make([]uuid.UUID, len(wanted))
	quantities := make([]int64, len(wanted))
	for i, w := range wanted {
		ids[i], quantities[i] = w.bookID, w.quantity
	}

	// One round trip: take the hold, which waits for another call for
	// the same hold, and lock the stock.
	batch := &pgx.Batch{}
	batch.Queue(`
		INSERT INTO hold (hold_id, state, expires_at) VALUES ($1, 'held', $2)
		ON CONFLICT (hold_id) DO NOTHING`, holdID, expires)
	batch.Queue(`
		SELECT b.id, b.title, b.isbn13, b.currency, b.price_minor, b.archived_at IS NOT NULL, s.on_hand - s.reserved
		FROM book b JOIN stock s ON s.book_id = b.id
		WHERE b.id = ANY ($1)
		ORDER BY s.book_id FOR UPDATE OF s`, ids)
	results := tx.SendBatch(ctx, batch)
	taken, err := results.Exec()
	if err != nil {
		return nil, errors.Join(err, results.Close())
	}
	rows, err := results.Query()
	if err != nil {
		return nil, errors.Join(err, results.Close())
	}
	shelf, err := pgx.CollectRows(rows, scanShelf)
	if err := errors.Join(err, results.Close()); err != nil {
		return nil, err
	}
	if taken.RowsAffected() == 0 {
		return storedHold(ctx, tx, holdID)
	}
	if err := sellable(shelf, ids); err != nil {
		return nil, err
	}

	held := make([]HeldLine, len(shelf))
	titles, isbns := make([]string, len(shelf)), make([]string, len(shelf))
	currencies, prices := make([]string, len(shelf)), make([]int64, len(shelf))
	for i, b := range shelf {
		titles[i], isbns[i], currencies[i], prices[i] = b.title, b.isbn13, b.price.Currency, b.price.Minor
		held[i] = HeldLine{BookID: b.id, Quantity: int32(quantities[i]), Title: b.title, ISBN13: b.isbn13, UnitPrice: b.price} //nolint:gosec // addUp bounds it
	}
	batch = &pgx.Batch{}
	// The condition is what keeps two shoppers from the same copy, in whatever
	// way they got here.
	batch.Queue(`
		UPDATE stock SET reserved = reserved + wanted.quantity
		FROM unnest($1::uuid[], $2::bigint[]) AS wanted (book_id, quantity)
		WHERE stock.book_id = wanted.book_id AND stock.on_hand - stock.reserved >= wanted.quantity`, ids, quantities)
	batch.Queue(`
		INSERT INTO hold_line (hold_id, book_id, quantity, title, isbn13, currency, unit_price_minor)
		SELECT $1, * FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bigint[])`,
		holdID, ids, quantities, titles, isbns, currencies, prices)
	results = tx.SendBatch(ctx, batch)
	reserved, err := results.Exec()
	if err != nil {
		return nil, errors.Join(err, results.Close())
	}
	if err := results.Close(); err != nil {
		return nil, err
	}
	if reserved.RowsAffected() < int64(len(wanted)) {
		return nil, outOfStock(shelf, wanted)
	}
	return held, nil
}

// shelved is a book with its stock at the moment of a hold.
type shelved struct {
	id            uuid.UUID
	title, isbn13 string
	price         money.Money
	archived      bool
	available     int64
}

func scanShelf(row pgx.CollectableRow) (shelved, error) {
	var b shelved
	err := row.Scan(&b.id, &b.title, &b.isbn13, &b.price.Currency, &b.price.Minor, &b.archived, &b.available)
	return b, err
}

// sellable says which of the books there are not, or are no longer sold. Both
// lists are sorted by id.
func sellable(shelf []shelved, ids []uuid.UUID) error {
	var missing, archived []uuid.UUID
	for _, id := range ids {
		i, ok := slices.BinarySearchFunc(shelf, id, func(b shelved, id uuid.UUID) int { return bytes.Compare(b.id[:], id[:]) })
		switch {
		case !ok:
			missing = append(missing, id)
		case shelf[i].archived:
			archived = append(archived, id)
		}
	}
	if len(missing) > 0 {
		return naming(notFound(missing[0]), missing, "is no book")
	}
	if len(archived) > 0 {
		return naming(fault.New(fault.ReasonBookArchived, "The book %s is no longer sold.", archived[0]), archived, "is no longer sold")
	}
	return nil
}

// naming adds all books that a fault applies to.
func naming(f *fault.Error, ids []uuid.UUID, problem string) *fault.Error {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = id.String()
		f.WithField("lines["+all[i]+"]", problem)
	}
	return f.With("book_id", all[0]).With("book_ids", strings.Join(all, ","))
}

// outOfStock says of which books there are not enough copies. The lists have
// the same books in the same order.
func outOfStock(shelf []shelved, wanted []want) error {
	var f *fault.Error
	var short []string
	for i, w := range wanted {
		b := shelf[i]
		if b.available >= w.quantity {
			continue
		}
		id := b.id.String()
		if f == nil {
			f = fault.New(fault.ReasonOutOfStock, "Of %q, %d copies are left, not %d.", b.title, b.available, w.quantity).
				With("book_id", id).
				With("requested", strconv.FormatInt(w.quantity, 10)).
				With("available", strconv.FormatInt(b.available, 10))
		}
		short = append(short, id)
		f.WithField("lines["+id+"]", fmt.Sprintf("requested %d, available %d", w.quantity, b.available))
	}
	if f == nil {
		return errors.New("stock was not reserved though there is enough of it") // the rows are locked: cannot be
	}
	return f.With("book_ids", strings.Join(short, ","))
}

// storedHold returns what an earlier call held.
func storedHold(ctx context.Context, tx pgx.Tx, holdID uuid.UUID) ([]HeldLine, error) {
	state, err := holdState(ctx, tx, holdID)
	if err != nil {
		return nil, err
	}
	if state == stateReleased {
		return nil, released(holdID)
	}
	rows, err := tx.Query(ctx, `
		SELECT book_id, quantity, title, isbn13, currency, unit_price_minor
		FROM hold_line WHERE hold_id = $1 ORDER BY book_id`, holdID)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (HeldLine, error) {
		var l HeldLine
		err := row.Scan(&l.BookID, &l.Quantity, &l.Title, &l.ISBN13, &l.UnitPrice.Currency, &l.UnitPrice.Minor)
		return l, err
	})
}

// querier is a pool or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// holdState returns "" for a hold that is not there.
func holdState(ctx context.Context, db querier, holdID uuid.UUID) (state string, err error) {
	err = db.QueryRow(ctx, `SELECT state FROM hold WHERE hold_id = $1`, holdID).Scan(&state)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return state, err
}

func released(holdID uuid.UUID) *fault.Error {
	return fault.New(fault.ReasonHoldReleased, "The hold %s expired or was given back.", holdID).
		With("hold_id", holdID.String())
}

// CommitHold makes a hold permanent. Whether the hold is still there is
// decided by its state and not by the clock: until it is released it can be
// committed, also after its expiry, and of a commit and an expiry at the same
// moment the first one wins. Idempotent.
// Errors: HOLD_RELEASED, also when nothing was ever held.
func (s *Store) CommitHold(ctx context.Context, holdID uuid.UUID) error {
	committed, err := s.db.Exec(ctx, `
		UPDATE hold SET state = 'committed', updated_at = now()
		WHERE hold_id = $1 AND state = 'held'`, holdID)
	if err != nil {
		return fmt.Errorf("commit hold: %w", err)
	}
	if committed.RowsAffected() == 1 {
		return nil
	}
	state, err := holdState(ctx, s.db, holdID)
	if err != nil {
		return fmt.Errorf("commit hold: %w", err)
	}
	switch state {
	case stateCommitted, stateShipped:
		return nil
	}
	return fmt.Errorf("commit hold: %w", released(holdID))
}

// ReleaseHold gives a hold's copies back, held or committed, and bars a later
// HoldStock of it, also when nothing is held: the call to hold that timed
// out may still be on its way. Idempotent. Errors: HOLD_SHIPPED.
func (s *Store) ReleaseHold(ctx context.Context, holdID uuid.UUID) error {
	err := postgres.Transact(ctx, s.db, func(tx pgx.Tx) error { return releaseHold(ctx, tx, holdID) })
	if err != nil {
		return fmt.Errorf("release hold: %w", err)
	}
	return nil
}

func releaseHold(ctx context.Context, tx pgx.Tx, holdID uuid.UUID) error {
	// The INSERT waits for a HoldStock of this hold that is under way, so that
	// the UPDATE sees what became of it.
	barred, err := tx.Exec(ctx, `
		INSERT INTO hold (hold_id, state) VALUES ($1, 'released')
		ON CONFLICT (hold_id) DO NOTHING`, holdID)
	if err != nil || barred.RowsAffected() == 1 {
		return err
	}
	gaveBack, err := tx.Exec(ctx, `
		UPDATE hold SET state = 'released', updated_at = now()
		WHERE hold_id = $1 AND state IN ('held', 'committed')`, holdID)
	if err != nil {
		return err
	}
	if gaveBack.RowsAffected() == 1 {
		return unreserve(ctx, tx, holdID)
	}
	state, err := holdState(ctx, tx, holdID)
	if err != nil {
		return err
	}
	if state == stateShipped {
		return fault.New(fault.ReasonHoldShipped, "The copies of the hold %s have left the house.", holdID).
			With("hold_id", holdID.String())
	}
	return nil
}

// unreserve makes the copies of holds available again.
func unreserve(ctx context.Context, tx pgx.Tx, holdIDs ...uuid.UUID) error {
	sums, err := lockLines(ctx, tx, holdIDs)
	if err != nil {
		return err
	}
	for _, w := range sums {
		if _, err := tx.Exec(ctx, `UPDATE stock SET reserved = reserved - $2 WHERE book_id = $1`, w.bookID, w.quantity); err != nil {
			return err
		}
	}
	return nil
}

// lockLines locks the stock of holds' lines and returns their sum for each book.
func lockLines(ctx context.Context, tx pgx.Tx, holdIDs []uuid.UUID) ([]want, error) {
	rows, err := tx.Query(ctx, `
		SELECT s.book_id, l.quantity
		FROM (
			SELECT book_id, sum(quantity) AS quantity FROM hold_line WHERE hold_id = ANY ($1) GROUP BY book_id
		) l JOIN stock s ON s.book_id = l.book_id
		ORDER BY s.book_id FOR UPDATE OF s`, holdIDs)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (want, error) {
		var w want
		err := row.Scan(&w.bookID, &w.quantity)
		return w, err
	})
}

// ShipHold takes a hold's committed copies out of stock. Idempotent.
// Errors: HOLD_RELEASED when there is no committed hold.
func (s *Store) ShipHold(ctx context.Context, holdID uuid.UUID) error {
	err := postgres.Transact(ctx, s.db, func(tx pgx.Tx) error { return shipHold(ctx, tx, holdID) })
	if err != nil {
		return fmt.Errorf("ship hold: %w", err)
	}
	return nil
}

func shipHold(ctx context.Context, tx pgx.Tx, holdID uuid.UUID) error {
	shipped, err := tx.Exec(ctx, `
		UPDATE hold SET state = 'shipped', updated_at = now()
		WHERE hold_id = $1 AND state = 'committed'`, holdID)
	if err != nil {
		return err
	}
	if shipped.RowsAffected() == 0 {
		state, err := holdState(ctx, tx, holdID)
		if err != nil {
			return err
		}
		if state != stateShipped {
			return released(holdID)
		}
		return nil
	}
	sums, err := lockLines(ctx, tx, []uuid.UUID{holdID})
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	for _, w := range sums {
		batch.Queue(`UPDATE stock SET on_hand = on_hand - $2, reserved = reserved - $2 WHERE book_id = $1`, w.bookID, w.quantity)
		batch.Queue(insertMovement, w.bookID, movementShipped, w.quantity, holdID.String())
	}
	return tx.SendBatch(ctx, batch).Close()
}
