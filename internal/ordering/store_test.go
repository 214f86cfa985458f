package ordering

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/fault"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func migrate(ctx context.Context, adminURL string) error {
	return postgres.Migrate(ctx, adminURL, Schema)
}

func setup(t *testing.T) *Store {
	t.Helper()
	pool, err := postgres.Open(t.Context(), pgtest.DB(t, migrate), Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return NewStore(pool)
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func order(t *testing.T, key string) Order {
	t.Helper()
	lines, totals, err := Price([]Line{
		{BookID: "22222222-2222-4222-8222-222222222222", Title: "B", ISBN13: "9780000000002", Quantity: 2, UnitPrice: usd(1299)},
		{BookID: "11111111-1111-4111-8111-111111111111", Title: "A", ISBN13: "9780000000001", Quantity: 1, UnitPrice: usd(999)},
	}, "US")
	if err != nil {
		t.Fatal(err)
	}
	return Order{
		ID: ID("alice", key), Subject: "alice", Lines: lines, Totals: totals, Country: "US", Details: []byte("sealed"),
		Fingerprint: Fingerprint("", []byte(key)), BasketVersion: 3, CreatedAt: noon,
	}
}

func create(t *testing.T, s *Store, o Order) Order {
	t.Helper()
	stored, err := s.Create(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func TestOrderReadsBackAsItWasPlaced(t *testing.T) {
	t.Parallel()
	s := setup(t)
	want := create(t, s, order(t, "k"))
	got, err := s.Get(t.Context(), want.ID)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v, %v\nwant %v", got, err, want)
	}
	if _, err := s.Get(t.Context(), uuid.NewString()); !fault.Is(err, fault.ReasonOrderNotFound) {
		t.Errorf("an order that is not there: %v", err)
	}
}

func TestO2_SameIDIsOneOrderHoweverConcurrent(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var answers [16]Order
	var group errgroup.Group
	for i := range answers {
		group.Go(func() (err error) {
			o := order(t, "k")
			o.Fingerprint = []byte{byte(i)}
			answers[i], err = s.Create(t.Context(), o)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, answer := range answers {
		if !bytes.Equal(answer.Fingerprint, answers[0].Fingerprint) {
			t.Errorf("one call answers the order of request %v, another that of %v", answers[0].Fingerprint, answer.Fingerprint)
		}
	}
	if events, err := s.Events(t.Context(), ID("alice", "k")); len(events) != 1 || err != nil {
		t.Errorf("the order has %d events, %v", len(events), err)
	}
}

func TestO2_KeysOfDifferentShoppersAreDifferentOrders(t *testing.T) {
	t.Parallel()
	first, again := ID("alice", "k"), ID("alice", "k")
	if first != again || first == ID("bob", "k") || ID("a", "lice") == ID("al", "ice") {
		t.Error("order ids do not separate shoppers and keys")
	}
}

func TestO1_OnlyLegalTransitionsAndFinalStatesAbsorb(t *testing.T) {
	t.Parallel()
	all := []Status{Placed, Confirmed, Shipped, Cancelled, PaymentFailed, Expired}
	// How to come to each state.
	paths := map[Status][]Status{
		Placed: {}, Confirmed: {Confirmed}, Shipped: {Confirmed, Shipped}, Cancelled: {Cancelled},
		PaymentFailed: {PaymentFailed}, Expired: {Expired},
	}
	legal := map[Status][]Status{Placed: {Confirmed, Cancelled, PaymentFailed, Expired}, Confirmed: {Shipped, Cancelled}}
	s := setup(t)
	for from, path := range paths {
		for _, next := range all {
			o := create(t, s, order(t, string(from+next)))
			for _, step := range path {
				if err := s.Step(t.Context(), o.ID, step, "", noon); err != nil {
					t.Fatal(err)
				}
			}
			err := s.Step(t.Context(), o.ID, next, "R", noon.Add(time.Hour))
			got, getErr := s.Get(t.Context(), o.ID)
			if getErr != nil {
				t.Fatal(getErr)
			}
			switch {
			case next == from:
				if err != nil {
					t.Errorf("%s again: %v", from, err)
				}
			case slices.Contains(legal[from], next):
				if err != nil || got.Status != next {
					t.Errorf("%s to %s: %v, %v", from, next, got.Status, err)
				}
			case !fault.Is(err, fault.ReasonIllegalTransition) || got.Status != from:
				t.Errorf("%s to %s was let through: now %s, %v", from, next, got.Status, err)
			}
		}
	}
}

func TestO1_EventLogReplaysToTheRow(t *testing.T) {
	t.Parallel()
	s := setup(t)
	o := create(t, s, order(t, "k"))
	// Steps from many sides at once, legal and not: whatever wins, log and row agree.
	var group errgroup.Group
	for i, next := range []Status{Confirmed, Cancelled, Expired, Shipped, PaymentFailed, Cancelled, Confirmed, Shipped} {
		group.Go(func() error {
			err := s.Step(t.Context(), o.ID, next, fmt.Sprint(i), noon.Add(time.Duration(i)*time.Minute))
			if err != nil && !fault.Is(err, fault.ReasonIllegalTransition) {
				return err
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	row, err := s.Get(t.Context(), o.ID)
	events, eventsErr := s.Events(t.Context(), o.ID)
	if err := errors.Join(err, eventsErr); err != nil {
		t.Fatal(err)
	}
	var replayed Event
	for i, e := range events {
		if e.Seq != int64(i+1) || !replayed.Status.CanBecome(e.Status) {
			t.Errorf("event %d (%s) does not follow %s", e.Seq, e.Status, replayed.Status)
		}
		replayed = e
	}
	if replayed.Status != row.Status || replayed.Reason != row.Reason || replayed.Seq != row.Version || !replayed.At.Equal(row.UpdatedAt) {
		t.Errorf("the log ends in %v, the row says %v %v %d %v", replayed, row.Status, row.Reason, row.Version, row.UpdatedAt)
	}
}

func TestO1_EventLogIsAppendOnly(t *testing.T) {
	t.Parallel()
	s := setup(t)
	create(t, s, order(t, "k"))
	for _, statement := range []string{`update order_event set status = 'SHIPPED'`, `delete from order_event`} {
		if _, err := s.pool.Exec(t.Context(), statement); err == nil {
			t.Errorf("%q was let through", statement)
		}
	}
}

func TestM4_TotalThatIsNotTheSumIsRefusedBySQL(t *testing.T) {
	t.Parallel()
	s := setup(t)
	o := order(t, "k")
	o.Totals.Total.Minor--
	if _, err := s.Create(t.Context(), o); err == nil {
		t.Error("an order whose total is not the sum of its parts was stored")
	}
}

func TestA1_ListHoldsOnlyTheSubjectsOrdersInPages(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var want []string
	for i := range 7 {
		o := order(t, fmt.Sprint(i))
		o.CreatedAt = noon.Add(time.Duration(i/2) * time.Minute) // pairs of the same time
		want = append(want, create(t, s, o).ID)
		foreign := order(t, fmt.Sprint(i))
		foreign.ID, foreign.Subject, foreign.CreatedAt = ID("bob", fmt.Sprint(i)), "bob", o.CreatedAt
		create(t, s, foreign)
	}
	slices.Sort(want)
	var got []string
	var after *Position
	for {
		page, err := s.List(t.Context(), "alice", after, 3)
		if err != nil {
			t.Fatal(err)
		}
		for i, o := range page {
			if o.Subject != "alice" || (i > 0 && o.CreatedAt.After(page[i-1].CreatedAt)) {
				t.Errorf("order %s of %s is in the wrong place", o.ID, o.Subject)
			}
			got = append(got, o.ID)
		}
		if len(page) < 3 {
			break
		}
		after = &Position{page[2].CreatedAt, page[2].ID}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("pages hold %d orders, want %d", len(got), len(want))
	}
}

func TestA3_FingerprintsSayNothingWithoutTheKey(t *testing.T) {
	t.Parallel()
	request := []byte("1 Main Street")
	own := Fingerprint("a key", request)
	if !bytes.Equal(own, Fingerprint("a key", request)) {
		t.Error("the same request has two fingerprints")
	}
	plain := sha256.Sum256(request)
	if bytes.Equal(own, plain[:]) || bytes.Equal(own, Fingerprint("another key", request)) || bytes.Equal(own, Fingerprint("a key", []byte("2 Main Street"))) {
		t.Error("somebody who guesses the request can tell")
	}
}
