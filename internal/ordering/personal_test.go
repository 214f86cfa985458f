package ordering

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"bookworm/internal/fault"
	"bookworm/internal/personal"
	"bookworm/internal/personal/personaltest"
)

const pseudonym = "erased-1"

// holder seals with one key for all: whose key it is, is not this context's business.
type holder struct {
	*Personal
	sealer *personal.Sealer
}

func newHolder(t *testing.T, s *Store) holder {
	t.Helper()
	sealer, err := personal.NewSealer(personal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	return holder{&Personal{Orders: s, Open: func(_ context.Context, subject, label string, sealed personal.Sealed, v any) error {
		return sealer.Open(subject+label, sealed, v)
	}}, sealer}
}

// place stores an order of somebody's, with an address that has their name in it.
func (h holder) place(t *testing.T, subject, key string, at time.Time, steps ...Event) Order {
	t.Helper()
	o := order(t, key)
	o.ID, o.Subject, o.CreatedAt = ID(subject, key), subject, at
	var err error
	o.Details, err = h.sealer.Seal(subject+o.ID, Details{
		Address: Address{Recipient: subject + " Liddell", Line1: "1 Rabbit Hole", CountryCode: "US"}, Email: subject + "@bookworm.example",
	})
	if err != nil {
		t.Fatal(err)
	}
	create(t, h.Orders, o)
	for _, step := range steps {
		if err := h.Orders.Step(t.Context(), o.ID, step.Status, step.Reason, at.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

var shipped = []Event{{Status: Confirmed}, {Status: Shipped}}

func TestEveryColumnIsClassified(t *testing.T) {
	t.Parallel()
	personaltest.Classify(t, setup(t).pool, Schema.Name, personaltest.Classes{
		Erased:    `orders.details orders.fingerprint orders.reason order_event.reason`, // the reasons where they are no words of ours
		Pseudonym: `orders.subject`,
		Kept: `orders.id orders.status orders.currency orders.subtotal_minor orders.shipping_minor orders.tax_minor orders.discount_minor
			orders.total_minor orders.country orders.basket_version orders.version orders.created_at orders.updated_at
			order_line.order_id order_line.book_id order_line.title order_line.isbn13 order_line.quantity order_line.unit_minor
			order_event.order_id order_event.seq order_event.status order_event.at`,
	})
}

func TestA1_ExportHasAllOfOnePersonAndNothingOfAnother(t *testing.T) {
	t.Parallel()
	h := newHolder(t, setup(t))
	const many = exportPage + 3
	want := make(map[string]bool)
	for i := range many {
		want[h.place(t, "alice", fmt.Sprint(i), noon.Add(time.Duration(i/2)*time.Minute), shipped...).ID] = true
		h.place(t, "bob", fmt.Sprint(i), noon)
	}
	emptied := h.place(t, "alice", "old", noon)
	want[emptied.ID] = true
	if _, err := h.Orders.pool.Exec(t.Context(), `update orders set details = '' where id = $1`, emptied.ID); err != nil {
		t.Fatal(err)
	}
	pages, token := 0, ""
	for {
		sections, next, err := h.Export(t.Context(), "alice", token)
		if err != nil {
			t.Fatal(err)
		}
		pages++
		for _, record := range sections[0].Records {
			id, _ := record["id"].(string)
			if !want[id] {
				t.Errorf("order %q is not alice's, or comes twice", id)
			}
			delete(want, id)
			text, err := json.Marshal(record)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), "bob") {
				t.Errorf("alice's export has %s", text)
			}
			for _, part := range []string{"Rabbit Hole", "alice@bookworm.example", "alice Liddell", `"SHIPPED"`, `"total"`, "9780000000001", `"minor":3597`} {
				if id != emptied.ID && !strings.Contains(string(text), part) {
					t.Errorf("the export lacks %s: %s", part, text)
				}
			}
		}
		if token = next; token == "" {
			break
		}
	}
	if pages != 2 || len(want) > 0 {
		t.Errorf("%d pages, %d orders are missing", pages, len(want))
	}
	_, next, err := h.Export(t.Context(), "alice", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Export(t.Context(), "bob", next); !fault.Is(err, fault.ReasonPageTokenInvalid) {
		t.Errorf("bob reads on where alice was: %v", err)
	}
	if sections, next, err := h.Export(t.Context(), "nobody", ""); len(sections) != 0 || next != "" || err != nil {
		t.Errorf("nobody has %v, %q, %v", sections, next, err)
	}
}

func TestErasedOrdersAreNobodys(t *testing.T) {
	t.Parallel()
	h := newHolder(t, setup(t))
	h.place(t, "bob", "b", noon, shipped...)
	h.place(t, "bob", "open", noon)
	bob := personaltest.Rows(t, h.Orders.pool, Schema.Name)
	sold := h.place(t, "alice", "k", noon, shipped...)
	h.place(t, "alice", "typed", noon, Event{Status: Cancelled, Reason: "alice called, she moved"})
	h.place(t, "alice", "word", noon, Event{Status: Cancelled, Reason: "OUT_OF_STOCK"})

	got, err := h.Erase(t.Context(), "alice", pseudonym)
	if err != nil || got.Erased != 3 || got.Kept != 3 || got.Note == "" || len(got.WaitingFor) > 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if found := personaltest.Find(t, h.Orders.pool, Schema.Name, "alice", "Rabbit Hole", "moved", string(sold.Fingerprint)); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
	personaltest.Untouched(t, h.Orders.pool, Schema.Name, bob)

	after := personaltest.Rows(t, h.Orders.pool, Schema.Name)
	again, err := h.Erase(t.Context(), "alice", pseudonym)
	if err != nil || again.Erased != 0 || again.Kept != 3 {
		t.Errorf("again: %+v, %v", again, err)
	}
	personaltest.Untouched(t, h.Orders.pool, Schema.Name, after)

	if bought, err := h.Orders.Purchases(t.Context(), "alice", nil, 10); len(bought) != 0 || err != nil {
		t.Errorf("alice still bought %v, %v", bought, err)
	}
	kept, err := h.Orders.Get(t.Context(), sold.ID)
	if err != nil || kept.Subject != pseudonym || kept.Totals != sold.Totals || kept.Country != "US" || len(kept.Lines) != 2 || len(kept.Details) != 0 {
		t.Errorf("what the law wants is %+v, %v", kept, err)
	}
	if sections, _, err := h.Export(t.Context(), "alice", ""); len(sections) != 0 || err != nil {
		t.Errorf("an export after the erasure has %v, %v", sections, err)
	}
}

func TestO1_LogOfAnErasedOrderReplaysToTheRow(t *testing.T) {
	t.Parallel()
	h := newHolder(t, setup(t))
	for _, reason := range []string{"", "OUT_OF_STOCK", "she called"} {
		o := h.place(t, "alice", reason, noon, Event{Status: Confirmed}, Event{Status: Cancelled, Reason: reason})
		if _, err := h.Erase(t.Context(), "alice", pseudonym); err != nil {
			t.Fatal(err)
		}
		row, err := h.Orders.Get(t.Context(), o.ID)
		if err != nil {
			t.Fatal(err)
		}
		log, err := h.Orders.Events(t.Context(), o.ID)
		if err != nil || len(log) != 3 {
			t.Fatalf("%v, %v", log, err)
		}
		if last := log[2]; last.Status != row.Status || last.Reason != row.Reason || last.Seq != row.Version || !last.At.Equal(row.UpdatedAt) {
			t.Errorf("the log ends in %v, the row says %v %v %d", last, row.Status, row.Reason, row.Version)
		}
	}
	for _, statement := range []string{
		`update order_event set reason = 'ERASED' where reason = 'OUT_OF_STOCK'`,
		`update order_event set reason = 'other' where reason = 'ERASED'`,
		`update order_event set reason = 'ERASED', status = 'SHIPPED'`,
		`delete from order_event`,
	} {
		if tag, err := h.Orders.pool.Exec(t.Context(), statement); err == nil {
			t.Errorf("%q was let through: %s", statement, tag)
		}
	}
}

func TestErasureWaitsForOrdersUnderWay(t *testing.T) {
	t.Parallel()
	h := newHolder(t, setup(t))
	h.place(t, "alice", "done", noon, shipped...)
	placed := h.place(t, "alice", "placed", noon)
	confirmed := h.place(t, "alice", "confirmed", noon.Add(time.Minute), Event{Status: Confirmed})
	before := personaltest.Rows(t, h.Orders.pool, Schema.Name)
	got, err := h.Erase(t.Context(), "alice", pseudonym)
	want := []string{"order " + placed.ID, "order " + confirmed.ID}
	if err != nil || !slices.Equal(got.WaitingFor, want) || got.Erased != 0 || got.Kept != 0 || got.Note != "" {
		t.Errorf("%+v, %v", got, err)
	}
	personaltest.Untouched(t, h.Orders.pool, Schema.Name, before)
	for _, o := range []Order{placed, confirmed} {
		if err := h.Orders.Step(t.Context(), o.ID, Cancelled, "", noon); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := h.Erase(t.Context(), "alice", pseudonym); err != nil || got.Erased != 3 || len(got.WaitingFor) > 0 {
		t.Errorf("then %+v, %v", got, err)
	}
}

func TestO2_KeyOfAnErasedOrderMakesNoOther(t *testing.T) {
	t.Parallel()
	h := newHolder(t, setup(t))
	o := h.place(t, "alice", "k", noon, shipped...)
	if _, err := h.Erase(t.Context(), "alice", pseudonym); err != nil {
		t.Fatal(err)
	}
	again := create(t, h.Orders, o)
	if again.Subject != pseudonym || len(again.Fingerprint) != 0 || len(again.Details) != 0 {
		t.Errorf("the key brought back %+v", again)
	}
	if found := personaltest.Find(t, h.Orders.pool, Schema.Name, "alice"); len(found) > 0 {
		t.Errorf("the key brought back %v", found)
	}
}

func TestErasureBesideWritesLeavesNoHalfOfAnOrder(t *testing.T) {
	t.Parallel()
	h := newHolder(t, setup(t))
	var group errgroup.Group
	group.Go(func() error {
		for range 40 {
			if _, err := h.Erase(t.Context(), "alice", pseudonym); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range 4 {
		group.Go(func() error {
			for j := range 10 {
				o := order(t, fmt.Sprint(i, " ", j))
				if _, err := h.Orders.Create(t.Context(), o); err != nil {
					return err
				}
				for _, next := range []Status{Confirmed, Shipped} {
					if err := h.Orders.Step(t.Context(), o.ID, next, "", noon); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	var half int
	err := h.Orders.pool.QueryRow(t.Context(), `select count(*) from orders where (subject = 'alice') <> (details <> '')
		or (subject <> 'alice' and status <> 'SHIPPED')`).Scan(&half)
	if err != nil || half > 0 {
		t.Errorf("%d orders are half erased, or were before their end; %v", half, err)
	}
	if got, err := h.Erase(t.Context(), "alice", pseudonym); err != nil || got.Kept != 40 {
		t.Errorf("at the end %+v, %v", got, err)
	}
	if found := personaltest.Find(t, h.Orders.pool, Schema.Name, "alice"); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
}

func TestOldOrdersLoseDetailsThenOwner(t *testing.T) {
	t.Parallel()
	h := newHolder(t, setup(t))
	young := h.place(t, "alice", "young", noon.Add(time.Hour), shipped...)
	old := h.place(t, "alice", "old", noon.Add(-time.Hour), Event{Status: Cancelled, Reason: "typed by alice"})
	open := h.place(t, "alice", "open", noon.Add(-time.Hour))

	retain := func(now time.Time, details, owners int64) {
		t.Helper()
		deleted, more, err := h.Orders.retain(t.Context(), now)
		if err != nil || more || deleted["details of orders"] != details || deleted["owners of orders"] != owners {
			t.Errorf("retention deletes %v, %v, %v; want %d details and %d owners", deleted, more, err, details, owners)
		}
	}
	retain(noon, 0, 0)
	retain(noon.Add(keepDetails), 1, 0)
	retain(noon.Add(keepDetails), 0, 0)
	for id, empty := range map[string]bool{young.ID: false, old.ID: true, open.ID: false} {
		if o, err := h.Orders.Get(t.Context(), id); err != nil || (len(o.Details) == 0) != empty || o.Subject != "alice" {
			t.Errorf("after %v the order is %+v, %v", keepDetails, o, err)
		}
	}
	retain(noon.Add(keepOwner), 1, 1) // the young order's details, the old one's owner
	o, err := h.Orders.Get(t.Context(), old.ID)
	if err != nil || o.Subject != "" || o.Reason != "ERASED" || o.Totals != old.Totals {
		t.Errorf("after %v the order is %+v, %v", keepOwner, o, err)
	}
	if deleted, _, err := h.Retain(t.Context()); err != nil || deleted["owners of orders"] != 0 {
		t.Errorf("today %v, %v", deleted, err)
	}
}
