package catalog_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/catalog"
	"bookworm/internal/catalog/seed"
	"bookworm/internal/fault"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func migrate(ctx context.Context, url string) error {
	return postgres.Migrate(ctx, url, catalog.Schema)
}

// shop is a catalogue in a database of its own.
type shop struct {
	*catalog.Store
	db *pgxpool.Pool
}

func setup(t testing.TB) shop {
	t.Helper()
	db, err := postgres.Open(t.Context(), pgtest.DB(t, migrate), catalog.Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return shop{catalog.NewStore(db), db}
}

// add puts books with these stocks on sale and returns their ids.
func (s shop) add(t testing.TB, stocks ...int) []uuid.UUID {
	t.Helper()
	books := make([]seed.Book, len(stocks))
	ids := make([]uuid.UUID, len(stocks))
	for i, stock := range stocks {
		books[i] = seed.Book{
			ISBN13: fmt.Sprintf("978%010d", i), Title: fmt.Sprintf("Book %d", i), Authors: []string{"An Author"},
			Year: 1900 + i, Language: "en", Pages: 100, Categories: []string{"fiction"}, Publisher: "A House",
			Description: "About it.", PriceMinor: int64(1000 + i), Currency: "USD", Stock: stock,
		}
		ids[i] = catalog.SeedID(books[i].ISBN13)
	}
	if _, err := s.Seed(t.Context(), books); err != nil {
		t.Fatal(err)
	}
	return ids
}

func (s shop) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := s.db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func (s shop) count(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	if err := s.db.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// stock asserts what is in the house and set aside of a book.
func (s shop) stock(t *testing.T, book uuid.UUID, onHand, reserved int) {
	t.Helper()
	if n := s.count(t, `SELECT on_hand FROM stock WHERE book_id = $1`, book); n != onHand {
		t.Errorf("%d on hand, want %d", n, onHand)
	}
	if n := s.count(t, `SELECT reserved FROM stock WHERE book_id = $1`, book); n != reserved {
		t.Errorf("%d reserved, want %d", n, reserved)
	}
}

// audit asserts what must be true of all stock at any time.
func (s shop) audit(t *testing.T) {
	t.Helper()
	for what, sql := range map[string]string{
		"S1: stock out of range": `
			SELECT count(*) FROM stock WHERE on_hand < 0 OR reserved < 0 OR reserved > on_hand`,
		"S1: reserved is not the sum of the active holds": `
			SELECT count(*) FROM stock s WHERE reserved <> (
				SELECT coalesce(sum(l.quantity), 0) FROM hold_line l JOIN hold h USING (hold_id)
				WHERE l.book_id = s.book_id AND h.state IN ('held', 'committed'))`,
		"S2: on_hand is not the sum of the movements": `
			SELECT count(*) FROM stock s WHERE on_hand <> (
				SELECT coalesce(sum(CASE kind WHEN 'shipped' THEN -quantity ELSE quantity END), 0)
				FROM stock_movement m WHERE m.book_id = s.book_id)`,
	} {
		if n := s.count(t, sql); n != 0 {
			t.Errorf("%s: %d books", what, n)
		}
	}
}

func (s shop) hold(t *testing.T, order uuid.UUID, lines ...catalog.StockLine) []catalog.HeldLine {
	t.Helper()
	held, err := s.HoldStock(t.Context(), order, lines, soon())
	if err != nil {
		t.Fatal(err)
	}
	return held
}

func line(book uuid.UUID, quantity int32) catalog.StockLine {
	return catalog.StockLine{BookID: book, Quantity: quantity}
}

func soon() time.Time { return time.Now().Add(time.Hour) }

func past() time.Time { return time.Now().Add(-time.Hour) }

func refuse(t *testing.T, err error, reason fault.Reason) *fault.Error {
	t.Helper()
	if !fault.Is(err, reason) {
		t.Fatalf("got %v, want %s", err, reason)
	}
	return fault.As(err)
}
