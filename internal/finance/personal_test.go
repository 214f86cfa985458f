package finance

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/fault"
	"bookworm/internal/personal/personaltest"
)

const pseudonym = "erased-1"

func TestEveryColumnIsClassified(t *testing.T) {
	t.Parallel()
	personaltest.Classify(t, setup(t).pool, Schema.Name, personaltest.Classes{
		Pseudonym: `payment.subject`,
		Erased:    `payment.action_url`, // of a payment that has ended it is empty already
		Kept: `payment.order_id payment.intent_id payment.status payment.currency payment.amount_minor payment.authorized_minor
			payment.captured_minor payment.refunded_minor payment.decline_code payment.created_at payment.updated_at
			ledger_entry.id ledger_entry.order_id ledger_entry.key ledger_entry.account ledger_entry.currency ledger_entry.debit_minor
			ledger_entry.credit_minor ledger_entry.at
			provider_event.order_id provider_event.event_id`,
		NotOfAny: `provider_event.provider provider_event.type provider_event.received_at`,
	})
}

// paid makes a payment of somebody's go as far as the last of the steps.
func paid(t *testing.T, s *Store, subject string, steps ...Status) string {
	t.Helper()
	id := uuid.NewString()
	if _, err := s.Open(t.Context(), id, subject, usd(2598)); err != nil {
		t.Fatal(err)
	}
	for _, i := range story(id) {
		for _, step := range steps {
			if i.Status != step {
				continue
			}
			if _, err := s.Record(t.Context(), id, i); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := s.KeepEvent(t.Context(), Event{ID: "evt_" + id, Type: "payment_intent.succeeded", OrderID: id}); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestA1_ExportHasOnePersonsPayments(t *testing.T) {
	t.Parallel()
	s := setup(t)
	const many = exportPage + 2
	want := make(map[string]bool)
	for range many {
		want[paid(t, s, "alice")] = true
	}
	returned := paid(t, s, "alice", Authorized, Captured, Refunded)
	want[returned] = true
	foreign := paid(t, s, "bob", Authorized, Captured)
	if _, err := s.pool.Exec(t.Context(), `update payment set created_at = '2026-01-02'`); err != nil { // as of one moment
		t.Fatal(err)
	}
	holder, first := Personal{s}, ""
	for token := ""; ; {
		sections, next, err := holder.Export(t.Context(), "alice", token)
		if err != nil {
			t.Fatal(err)
		}
		for _, record := range sections[0].Records {
			id, _ := record["order_id"].(string)
			if !want[id] {
				t.Errorf("payment of %s is not alice's, or comes twice", id)
			}
			delete(want, id)
			text, err := json.Marshal(record)
			if err != nil || strings.Contains(string(text), foreign) {
				t.Errorf("record %s, %v", text, err)
			}
			if id == returned && (strings.Count(string(text), `"account"`) != 4 || !strings.Contains(string(text), "pi_"+id) || record["status"] != "REFUNDED") {
				t.Errorf("the returned payment is %s", text)
			}
		}
		if first == "" {
			first = next
		}
		if token = next; token == "" {
			break
		}
	}
	if len(want) > 0 || first == "" {
		t.Errorf("%d payments are missing, the second page is %q", len(want), first)
	}
	if _, _, err := holder.Export(t.Context(), "bob", first); !fault.Is(err, fault.ReasonPageTokenInvalid) {
		t.Errorf("bob reads on where alice was: %v", err)
	}
	if sections, next, err := holder.Export(t.Context(), "nobody", ""); len(sections) > 0 || next != "" || err != nil {
		t.Errorf("nobody has %v, %q, %v", sections, next, err)
	}
}

// TestM1_ErasureLeavesTheAccounts also has a refund come after the erasure.
func TestM1_ErasureLeavesTheAccounts(t *testing.T) {
	t.Parallel()
	s := setup(t)
	paid(t, s, "bob", Authorized, Captured)
	bob := personaltest.Rows(t, s.pool, Schema.Name)
	sold := paid(t, s, "alice", Authorized, Captured)
	paid(t, s, "alice", Authorized, Captured, Refunded)
	balance := func() (debit, credit, entries int64) {
		err := s.pool.QueryRow(t.Context(), `select sum(debit_minor), sum(credit_minor), count(*) from ledger_entry`).Scan(&debit, &credit, &entries)
		if err != nil {
			t.Fatal(err)
		}
		return debit, credit, entries
	}
	debit, credit, entries := balance()

	holder := Personal{s}
	got, err := holder.Erase(t.Context(), "alice", pseudonym)
	if err != nil || got.Erased != 2 || got.Kept != 2 || got.Note == "" || len(got.WaitingFor) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if found := personaltest.Find(t, s.pool, Schema.Name, "alice"); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
	if d, c, n := balance(); d != debit || c != credit || n != entries || d != c {
		t.Errorf("the ledger has %d and %d in %d entries, before %d and %d in %d", d, c, n, debit, credit, entries)
	}
	after := personaltest.Rows(t, s.pool, Schema.Name)
	if again, err := holder.Erase(t.Context(), "alice", pseudonym); err != nil || again.Erased != 0 || again.Kept != 2 {
		t.Errorf("again: %+v, %v", again, err)
	}
	personaltest.Untouched(t, s.pool, Schema.Name, after)
	personaltest.Untouched(t, s.pool, Schema.Name, bob)
	if sections, _, err := holder.Export(t.Context(), "alice", ""); len(sections) > 0 || err != nil {
		t.Errorf("an export after the erasure has %v, %v", sections, err)
	}

	// Whoever reverses the payment says whose it was; that brings nobody back.
	if p, err := s.Bar(t.Context(), sold, "alice", usd(2598)); err != nil || p.Subject != pseudonym {
		t.Errorf("barred: %+v, %v", p, err)
	}
	if _, err := s.Record(t.Context(), sold, intent(sold, Refunded, 2598, 2598, 2598)); err != nil {
		t.Fatal(err)
	}
	if found := personaltest.Find(t, s.pool, Schema.Name, "alice"); len(found) > 0 {
		t.Errorf("the refund brought back %v", found)
	}
	if d, c, n := balance(); d != c || n != entries+2 {
		t.Errorf("after the refund the ledger has %d and %d in %d entries", d, c, n)
	}
}

func TestErasureWaitsForPaymentsUnderWay(t *testing.T) {
	t.Parallel()
	s := setup(t)
	paid(t, s, "alice", Authorized, Captured)
	open, reserved := paid(t, s, "alice"), paid(t, s, "alice", Authorized)
	before := personaltest.Rows(t, s.pool, Schema.Name)
	got, err := Personal{s}.Erase(t.Context(), "alice", pseudonym)
	if want := "payment of order " + open + ", payment of order " + reserved; err != nil || strings.Join(got.WaitingFor, ", ") != want || got.Erased != 0 || got.Kept != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	personaltest.Untouched(t, s.pool, Schema.Name, before)
	if err := s.Decline(t.Context(), open, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Record(t.Context(), reserved, intent(reserved, Voided, 2598, 0, 0)); err != nil {
		t.Fatal(err)
	}
	if got, err := (Personal{s}).Erase(t.Context(), "alice", pseudonym); err != nil || got.Erased != 3 || len(got.WaitingFor) > 0 {
		t.Errorf("then %+v, %v", got, err)
	}
}

func TestErasureBesidePaymentsEndsInOneState(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var group errgroup.Group
	group.Go(func() error {
		for range 30 {
			if _, err := (Personal{s}).Erase(t.Context(), "alice", pseudonym); err != nil {
				return err
			}
		}
		return nil
	})
	for range 4 {
		group.Go(func() error {
			for range 8 {
				id := uuid.NewString()
				if _, err := s.Open(t.Context(), id, "alice", usd(2598)); err != nil {
					return err
				}
				for _, i := range story(id) {
					if _, err := s.Record(t.Context(), id, i); err != nil {
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
	if got, err := (Personal{s}).Erase(t.Context(), "alice", pseudonym); err != nil || got.Kept != 32 {
		t.Errorf("%+v, %v", got, err)
	}
	if found := personaltest.Find(t, s.pool, Schema.Name, "alice"); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
}

func TestOldPaymentsLoseTheirOwnerAndEventsGo(t *testing.T) {
	t.Parallel()
	s := setup(t)
	ended := paid(t, s, "alice", Authorized, Captured)
	paid(t, s, "alice")
	retain := func(now time.Time, owners, events int64) {
		t.Helper()
		deleted, more, err := s.retain(t.Context(), now)
		if err != nil || more || deleted["owners of payments"] != owners || deleted["provider events"] != events {
			t.Errorf("deleted %v, %v, %v; want %d owners and %d events", deleted, more, err, owners, events)
		}
	}
	now := time.Now()
	if _, _, err := (Personal{s}).Retain(t.Context()); err != nil {
		t.Fatal(err)
	}
	retain(now.Add(keepEvents-time.Hour), 0, 0)
	retain(now.Add(keepEvents+time.Hour), 0, 2)
	retain(now.Add(keepOwner-time.Hour), 0, 0)
	retain(now.Add(keepOwner+time.Hour), 1, 0)
	p, err := s.Get(t.Context(), ended)
	if err != nil || p.Subject != "" || p.Captured != usd(2598) {
		t.Errorf("the payment is %+v, %v", p, err)
	}
	var entries int
	if err := s.pool.QueryRow(t.Context(), `select count(*) from ledger_entry`).Scan(&entries); err != nil || entries != 2 {
		t.Errorf("%d ledger entries, %v", entries, err)
	}
}
