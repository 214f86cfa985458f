package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/catalog"
	"bookworm/internal/fault"
)

func TestS1_SQLRefusesImpossibleStock(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book := shop.add(t, 3)[0]
	for _, set := range []string{"on_hand = -1", "reserved = -1", "reserved = 4", "on_hand = 1, reserved = 2"} {
		_, err := shop.db.Exec(t.Context(), `UPDATE stock SET `+set+` WHERE book_id = $1`, book)
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "23514" {
			t.Errorf("%s: got %v, want a check violation", set, err)
		}
	}
}

func TestS1_HoldsNeverExceedStock(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book := shop.add(t, 5)[0]
	shop.hold(t, uuid.New(), line(book, 3))
	_, err := shop.HoldStock(t.Context(), uuid.New(), []catalog.StockLine{line(book, 3)}, soon())
	f := refuse(t, err, fault.ReasonOutOfStock)
	if f.Metadata["book_id"] != book.String() || f.Metadata["requested"] != "3" || f.Metadata["available"] != "2" {
		t.Errorf("metadata is %v", f.Metadata)
	}
	shop.stock(t, book, 5, 3)
	shop.hold(t, uuid.New(), line(book, 2))
	shop.stock(t, book, 5, 5)
	shop.audit(t)
}

// TestS2_MovementsExplainStock does random things to few books at the same time,
// each of them also twice, and then counts.
func TestS2_MovementsExplainStock(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	books := shop.add(t, 20, 5, 0, 50)
	ctx := t.Context()
	const shoppers, orders = 8, 25
	var shipped atomic.Int32
	var group errgroup.Group
	for shopper := range shoppers {
		random := rand.New(rand.NewPCG(2, uint64(shopper)))
		group.Go(func() error {
			for n := range orders {
				hold := uuid.New()
				var lines []catalog.StockLine
				for range 1 + random.IntN(4) {
					lines = append(lines, line(books[random.IntN(len(books))], 1+random.Int32N(3)))
				}
				expires := soon()
				if random.IntN(4) == 0 {
					expires = past()
				}
				ship := false
				steps := []func() error{
					func() error { _, err := shop.HoldStock(ctx, hold, lines, expires); return err },
					func() error { return shop.CommitHold(ctx, hold) },
					func() error {
						err := shop.ShipHold(ctx, hold)
						ship = ship || err == nil
						return err
					},
					func() error { return shop.ReleaseHold(ctx, hold) },
					func() error { _, err := shop.ReleaseExpired(ctx, 3); return err },
					func() error {
						return shop.Receive(ctx, lines[0].BookID, 2, fmt.Sprintf("delivery %d of %d", n%10, shopper))
					},
					func() error {
						if !ship {
							return nil
						}
						return shop.Return(ctx, lines[0].BookID, 1, hold.String())
					},
				}
				// Mostly in the order of an order's life, with things left out,
				// repeated and swapped.
				life := []int{0, 1, 2, 3, 4, 5, 6}
				for range random.IntN(3) {
					i, j := random.IntN(len(life)), random.IntN(len(life))
					life[i], life[j] = life[j], life[i]
				}
				for _, i := range life[:1+random.IntN(len(life))] {
					for range 1 + random.IntN(2) {
						if err := steps[i](); err != nil && fault.KindOf(err) != fault.Precondition {
							return err
						}
					}
				}
				if ship {
					shipped.Add(1)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if shipped.Load() == 0 {
		t.Error("nothing was shipped: the test shows nothing")
	}
	shop.audit(t)
}

func TestS2_ShippedStockLeavesOnce(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	books := shop.add(t, 5, 5)
	hold := uuid.New()
	shop.hold(t, hold, line(books[0], 2), line(books[1], 1))
	refuse(t, shop.ShipHold(t.Context(), hold), fault.ReasonHoldReleased) // not committed
	if err := shop.CommitHold(t.Context(), hold); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := shop.ShipHold(t.Context(), hold); err != nil {
			t.Fatal(err)
		}
	}
	shop.stock(t, books[0], 3, 0)
	shop.stock(t, books[1], 4, 0)
	refuse(t, shop.ReleaseHold(t.Context(), hold), fault.ReasonHoldShipped)
	if err := shop.CommitHold(t.Context(), hold); err != nil {
		t.Errorf("commit after shipping, as a retry would: %v", err)
	}
	refuse(t, shop.ShipHold(t.Context(), uuid.New()), fault.ReasonHoldReleased)
	for range 2 {
		if err := shop.Receive(t.Context(), books[0], 7, "delivery 1"); err != nil {
			t.Fatal(err)
		}
		if err := shop.Return(t.Context(), books[0], 1, hold.String()); err != nil {
			t.Fatal(err)
		}
	}
	shop.stock(t, books[0], 11, 0)
	refuse(t, shop.Receive(t.Context(), uuid.New(), 1, "delivery 2"), fault.ReasonBookNotFound)
	refuse(t, shop.Receive(t.Context(), books[0], 0, "delivery 2"), fault.ReasonInvalidArgument)
	shop.audit(t)
}

func TestS2_MovementsAreAppendOnly(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	shop.add(t, 1)
	for _, sql := range []string{`UPDATE stock_movement SET quantity = 9`, `DELETE FROM stock_movement`, `TRUNCATE stock_movement`} {
		if _, err := shop.db.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s was done", sql)
		}
	}
}

func TestS3_LastCopySoldOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ shoppers, copies int }{{2, 1}, {24, 1}, {24, 7}, {6, 10}} {
		t.Run(fmt.Sprintf("%d shoppers, %d copies", test.shoppers, test.copies), func(t *testing.T) {
			t.Parallel()
			shop := setup(t)
			book := shop.add(t, test.copies)[0]
			var held atomic.Int32
			var group errgroup.Group
			start := make(chan struct{})
			for range test.shoppers {
				group.Go(func() error {
					<-start
					_, err := shop.HoldStock(t.Context(), uuid.New(), []catalog.StockLine{line(book, 1)}, soon())
					if fault.Is(err, fault.ReasonOutOfStock) {
						return nil
					}
					held.Add(1)
					return err
				})
			}
			close(start)
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
			if want := min(test.shoppers, test.copies); int(held.Load()) != want {
				t.Errorf("%d shoppers got a copy, want %d", held.Load(), want)
			}
			shop.audit(t)
		})
	}
}

func TestS4_CommitAndExpiryHaveOneWinner(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	const rounds = 40
	book := shop.add(t, rounds)[0]
	committed := 0
	for range rounds {
		hold := uuid.New()
		if _, err := shop.HoldStock(t.Context(), hold, []catalog.StockLine{line(book, 1)}, past()); err != nil {
			t.Fatal(err)
		}
		var commit error
		var expired int
		var group errgroup.Group
		group.Go(func() error { commit = shop.CommitHold(t.Context(), hold); return nil })
		group.Go(func() (err error) { expired, err = shop.ReleaseExpired(t.Context(), 10); return err })
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		switch {
		case commit == nil && expired == 0:
			committed++
		case fault.Is(commit, fault.ReasonHoldReleased) && expired == 1:
		default:
			t.Fatalf("commit said %v and %d expired", commit, expired)
		}
	}
	t.Logf("%d of %d were committed first", committed, rounds)
	shop.stock(t, book, rounds, committed)
	shop.audit(t)
}

func TestS4_ExpiredHoldStaysUntilReleased(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book := shop.add(t, 3)[0]
	late, gone := uuid.New(), uuid.New()
	for _, hold := range []uuid.UUID{late, gone} {
		if _, err := shop.HoldStock(t.Context(), hold, []catalog.StockLine{line(book, 1)}, past()); err != nil {
			t.Fatal(err)
		}
	}
	shop.hold(t, uuid.New(), line(book, 1)) // not expired
	if err := shop.CommitHold(t.Context(), late); err != nil {
		t.Errorf("an expired hold that nobody released: %v", err)
	}
	if n, err := shop.ReleaseExpired(t.Context(), 10); err != nil || n != 1 {
		t.Errorf("released %d, %v; want 1", n, err)
	}
	refuse(t, shop.CommitHold(t.Context(), gone), fault.ReasonHoldReleased)
	if err := shop.CommitHold(t.Context(), late); err != nil {
		t.Errorf("commit again: %v", err)
	}
	refuse(t, shop.CommitHold(t.Context(), uuid.New()), fault.ReasonHoldReleased) // never held
	shop.stock(t, book, 3, 2)
	shop.audit(t)
}

func TestSweepExpiredReleasesAndStops(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	books := shop.add(t, 300, 300)
	var group errgroup.Group
	group.SetLimit(4)
	for range 120 { // more than one batch
		group.Go(func() error {
			_, err := shop.HoldStock(t.Context(), uuid.New(), []catalog.StockLine{line(books[1], 1), line(books[0], 2)}, past())
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	for range 2 { // as two processes do
		group.Go(func() error {
			shop.SweepExpired(ctx, time.Millisecond, slog.New(slog.DiscardHandler))
			return nil
		})
	}
	for shop.count(t, `SELECT count(*) FROM hold WHERE state = 'held'`) > 0 {
		if ctx.Err() != nil {
			t.Fatal("holds are left")
		}
	}
	stop()
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	shop.stock(t, books[0], 300, 0)
	shop.audit(t)
}

func TestS5_SameBookLinesAddUp(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	books := shop.add(t, 3, 150)
	// Each line alone would fit.
	_, err := shop.HoldStock(t.Context(), uuid.New(), []catalog.StockLine{line(books[0], 2), line(books[1], 1), line(books[0], 2)}, soon())
	f := refuse(t, err, fault.ReasonOutOfStock)
	if f.Metadata["requested"] != "4" || f.Metadata["available"] != "3" {
		t.Errorf("metadata is %v", f.Metadata)
	}
	shop.stock(t, books[0], 3, 0)
	shop.stock(t, books[1], 150, 0)

	held := shop.hold(t, uuid.New(), line(books[0], 1), line(books[1], 99), line(books[0], 2), line(books[1], 50))
	if len(held) != 2 {
		t.Fatalf("held %v, want one line for each book", held)
	}
	shop.stock(t, books[0], 3, 3)
	shop.stock(t, books[1], 150, 149)

	// A sum that overflows what a quantity can be is still too much.
	huge := slices.Repeat([]catalog.StockLine{line(books[1], 1<<31-1)}, 5)
	_, err = shop.HoldStock(t.Context(), uuid.New(), huge, soon())
	refuse(t, err, fault.ReasonOutOfStock)
	shop.audit(t)
}

func TestHoldNamesEveryProblem(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	books := shop.add(t, 1, 0, 9, 9)
	shop.exec(t, `UPDATE book SET archived_at = now() WHERE id = $1`, books[3])
	unknown := uuid.New()
	for _, test := range []struct {
		name   string
		lines  []catalog.StockLine
		reason fault.Reason
		books  []uuid.UUID
	}{
		{"short", []catalog.StockLine{line(books[0], 2), line(books[1], 1), line(books[2], 1)}, fault.ReasonOutOfStock, books[:2]},
		{"unknown", []catalog.StockLine{line(books[2], 1), line(unknown, 1)}, fault.ReasonBookNotFound, []uuid.UUID{unknown}},
		{"archived", []catalog.StockLine{line(books[2], 1), line(books[3], 1)}, fault.ReasonBookArchived, books[3:]},
		{"nothing", nil, fault.ReasonInvalidArgument, nil},
		{"none", []catalog.StockLine{line(books[2], 0)}, fault.ReasonInvalidArgument, nil},
		{"negative", []catalog.StockLine{line(books[2], 2), line(books[2], -1)}, fault.ReasonInvalidArgument, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			hold := uuid.New()
			_, err := shop.HoldStock(t.Context(), hold, test.lines, soon())
			f := refuse(t, err, test.reason)
			var named []string
			for _, id := range test.books {
				named = append(named, id.String())
			}
			slices.Sort(named)
			if got := strings.Join(named, ","); f.Metadata["book_ids"] != got {
				t.Errorf("names %q, want %q", f.Metadata["book_ids"], got)
			}
			if n := shop.count(t, `SELECT count(*) FROM hold WHERE hold_id = $1`, hold); n != 0 {
				t.Error("the refused hold left a hold")
			}
			shop.stock(t, books[2], 9, 0)
		})
	}
}

func TestHoldIsIdempotent(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	books := shop.add(t, 9, 9)
	hold := uuid.New()
	first := shop.hold(t, hold, line(books[0], 2), line(books[1], 1))
	if first[0].UnitPrice.Currency != "USD" || first[0].Title == "" || first[0].ISBN13 == "" {
		t.Errorf("the snapshot is %+v", first[0])
	}
	// The snapshot is of the first call's moment.
	shop.exec(t, `UPDATE book SET price_minor = 1, title = 'Another'`)
	for _, state := range []string{"held", "committed", "shipped"} {
		again := shop.hold(t, hold, line(books[0], 5))
		if !reflect.DeepEqual(again, first) {
			t.Errorf("%s: got %+v, want %+v", state, again, first)
		}
		if err := shop.CommitHold(t.Context(), hold); err != nil {
			t.Fatal(err)
		}
		if state == "committed" {
			if err := shop.ShipHold(t.Context(), hold); err != nil {
				t.Fatal(err)
			}
		}
	}
	shop.stock(t, books[0], 7, 0)
	shop.audit(t)
}

func TestHoldIsIdempotentAtTheSameTime(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book := shop.add(t, 9)[0]
	hold := uuid.New()
	var group errgroup.Group
	for range 8 {
		group.Go(func() error {
			held, err := shop.HoldStock(t.Context(), hold, []catalog.StockLine{line(book, 2)}, soon())
			if err == nil && (len(held) != 1 || held[0].Quantity != 2) {
				return fmt.Errorf("held %v", held)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	shop.stock(t, book, 9, 2)
}

func TestHoldThatFailedCanSucceedLater(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book := shop.add(t, 1)[0]
	hold := uuid.New()
	_, err := shop.HoldStock(t.Context(), hold, []catalog.StockLine{line(book, 2)}, soon())
	refuse(t, err, fault.ReasonOutOfStock)
	if err := shop.Receive(t.Context(), book, 1, "delivery"); err != nil {
		t.Fatal(err)
	}
	shop.hold(t, hold, line(book, 2))
	shop.stock(t, book, 2, 2)
}

func TestReleaseGivesBackOnce(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	books := shop.add(t, 5, 5)
	held, committed := uuid.New(), uuid.New()
	shop.hold(t, held, line(books[0], 2), line(books[1], 1))
	shop.hold(t, committed, line(books[0], 1))
	shop.hold(t, uuid.New(), line(books[0], 1))
	if err := shop.CommitHold(t.Context(), committed); err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	for range 4 {
		group.Go(func() error { return shop.ReleaseHold(t.Context(), held) })
		group.Go(func() error { return shop.ReleaseHold(t.Context(), committed) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	shop.stock(t, books[0], 5, 1)
	shop.stock(t, books[1], 5, 0)
	_, err := shop.HoldStock(t.Context(), held, []catalog.StockLine{line(books[0], 2)}, soon())
	refuse(t, err, fault.ReasonHoldReleased)
	refuse(t, shop.CommitHold(t.Context(), committed), fault.ReasonHoldReleased)
	refuse(t, shop.ShipHold(t.Context(), committed), fault.ReasonHoldReleased)
	shop.audit(t)
}

// A hold that timed out may land after its compensation.
func TestReleaseBarsALateHold(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book := shop.add(t, 5)[0]
	hold := uuid.New()
	for range 2 {
		if err := shop.ReleaseHold(t.Context(), hold); err != nil {
			t.Fatal(err)
		}
	}
	_, err := shop.HoldStock(t.Context(), hold, []catalog.StockLine{line(book, 1)}, soon())
	refuse(t, err, fault.ReasonHoldReleased)
	shop.stock(t, book, 5, 0)

	for range 30 {
		hold := uuid.New()
		var group errgroup.Group
		group.Go(func() error {
			_, err := shop.HoldStock(t.Context(), hold, []catalog.StockLine{line(book, 1)}, soon())
			if fault.Is(err, fault.ReasonHoldReleased) {
				return nil
			}
			return err
		})
		group.Go(func() error { return shop.ReleaseHold(t.Context(), hold) })
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	shop.stock(t, book, 5, 0)
	shop.audit(t)
}

// Orders of the same books in different orders must not wait for each other.
func TestHoldsDoNotDeadlock(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	books := shop.add(t, 1000, 1000, 1000, 1000, 1000)
	var group errgroup.Group
	for shopper := range 8 {
		random := rand.New(rand.NewPCG(5, uint64(shopper)))
		group.Go(func() error {
			for range 15 {
				var lines []catalog.StockLine
				for _, i := range random.Perm(len(books)) {
					lines = append(lines, line(books[i], 1))
				}
				hold := uuid.New()
				if _, err := shop.HoldStock(t.Context(), hold, lines, past()); err != nil {
					return err
				}
				if err := shop.ReleaseHold(t.Context(), hold); err != nil {
					return err
				}
				if _, err := shop.ReleaseExpired(t.Context(), 5); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	// The server counts a transaction's end when it is idle for a moment.
	shop.exec(t, `SELECT pg_stat_clear_snapshot()`)
	if n := shop.count(t, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
	shop.audit(t)
}
