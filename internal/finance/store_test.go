package finance

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/fault"
	"bookworm/internal/money"
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

func usd(minor int64) money.Money { return money.New("USD", minor) }

// opened returns an order with an open payment of 25.98.
func opened(t *testing.T, s *Store) string {
	t.Helper()
	id := uuid.NewString()
	if _, err := s.Open(t.Context(), id, "alice", usd(2598)); err != nil {
		t.Fatal(err)
	}
	return id
}

// intent is what the provider says of an order's payment.
func intent(orderID string, status Status, authorized, captured, refunded int64) Intent {
	return Intent{
		ID: "pi_" + orderID, OrderID: orderID, Status: status, Amount: usd(2598),
		Authorized: usd(authorized), Captured: usd(captured), Refunded: usd(refunded),
	}
}

// story is a payment from its opening to a refund, as the provider tells it.
func story(id string) []Intent {
	return []Intent{
		intent(id, Pending, 0, 0, 0), intent(id, Authorized, 2598, 0, 0), intent(id, Captured, 2598, 2598, 0), intent(id, Refunded, 2598, 2598, 2598),
	}
}

func TestPaymentIsOpenedOnce(t *testing.T) {
	t.Parallel()
	s := setup(t)
	id := opened(t, s)
	again, err := s.Open(t.Context(), id, "alice", usd(2598))
	if err != nil || again.Status != Pending {
		t.Errorf("opened again: %v, %v", again, err)
	}
	for _, other := range []money.Money{usd(2599), money.New("EUR", 2598)} {
		if _, err := s.Open(t.Context(), id, "alice", other); !fault.Is(err, fault.ReasonPaymentMismatch) {
			t.Errorf("opened over %s: %v", other, err)
		}
	}
}

func TestBarredPaymentIsNeverOpened(t *testing.T) {
	t.Parallel()
	s := setup(t)
	id := uuid.NewString()
	if p, err := s.Bar(t.Context(), id, "alice", usd(2598)); err != nil || p.Status != Voided {
		t.Fatalf("barred: %v, %v", p, err)
	}
	if p, err := s.Open(t.Context(), id, "alice", usd(2598)); err != nil || p.Status != Voided {
		t.Errorf("opened after that: %v, %v", p, err)
	}
	if p, err := s.Bar(t.Context(), opened(t, s), "alice", usd(2598)); err != nil || p.Status != Pending {
		t.Errorf("barring an open payment changed it: %v, %v", p, err)
	}
}

func TestN2_ProvidersWordInAnyOrderEndsTheSame(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for seed := range uint64(30) {
		id := opened(t, s)
		random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // repeatable on purpose
		// As far as a refund, a capture, or a void.
		told, want := story(id), Refunded
		switch seed % 3 {
		case 1:
			told, want = told[:3], Captured
		case 2:
			told, want = []Intent{told[0], intent(id, RequiresAction, 0, 0, 0), told[1], intent(id, Voided, 0, 0, 0)}, Voided
		default:
		}
		last := told[len(told)-1]
		told = append(told, told...)
		random.Shuffle(len(told), func(i, j int) { told[i], told[j] = told[j], told[i] })
		for _, i := range told {
			if _, err := s.Record(t.Context(), id, i); err != nil {
				t.Fatal(err)
			}
		}
		p, err := s.Get(t.Context(), id)
		if err != nil || p.Status != want || p.Captured != last.Captured || p.Refunded != last.Refunded {
			t.Errorf("seed %d: got %v, %v; want %s", seed, p, err, want)
		}
	}
}

func TestDeclinedPaymentThatIsVoidedStaysDeclined(t *testing.T) {
	t.Parallel()
	s := setup(t)
	id := opened(t, s)
	declined := intent(id, Declined, 0, 0, 0)
	declined.DeclineCode = "insufficient_funds"
	for _, i := range []Intent{declined, intent(id, Voided, 0, 0, 0)} {
		if _, err := s.Record(t.Context(), id, i); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := s.Get(t.Context(), id); err != nil || p.Status != Declined || p.DeclineCode != "insufficient_funds" {
		t.Errorf("got %v, %v", p, err)
	}
}

func TestM1_LedgerBalancesHoweverOftenItIsTold(t *testing.T) {
	t.Parallel()
	s := setup(t)
	id := opened(t, s)
	var group errgroup.Group
	for range 4 {
		for _, i := range story(id) {
			group.Go(func() error {
				_, err := s.Record(t.Context(), id, i)
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	var entries, debits, credits, provider int64
	err := s.pool.QueryRow(t.Context(), `select count(*), sum(debit_minor), sum(credit_minor),
		sum(debit_minor - credit_minor) filter (where account = 'provider') from ledger_entry where order_id = $1`, id).
		Scan(&entries, &debits, &credits, &provider)
	if err != nil || entries != 4 || debits != credits || debits != 2*2598 || provider != 0 {
		t.Errorf("%d entries, debits %d, credits %d, the provider owes %d, %v", entries, debits, credits, provider, err)
	}
}

func TestM1_SQLRefusesWhatDoesNotBalanceOrChanges(t *testing.T) {
	t.Parallel()
	s := setup(t)
	id := opened(t, s)
	if _, err := s.Record(t.Context(), id, intent(id, Captured, 2598, 2598, 0)); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`insert into ledger_entry (order_id, key, account, currency, debit_minor) select order_id, 'x', 'provider', 'USD', 1 from payment`,
		`update ledger_entry set debit_minor = debit_minor + 1 where debit_minor > 0`,
		`delete from ledger_entry`,
	} {
		if _, err := s.pool.Exec(t.Context(), statement); err == nil {
			t.Errorf("%q was let through", statement)
		}
	}
}

func TestM2_SQLRefusesImpossibleAmounts(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for name, i := range map[string][3]int64{
		"captured above authorized": {1000, 1001, 0},
		"refunded above captured":   {2598, 1000, 1001},
		"authorized above due":      {2599, 0, 0},
	} {
		id := opened(t, s)
		if _, err := s.Record(t.Context(), id, intent(id, Captured, i[0], i[1], i[2])); err == nil {
			t.Errorf("%s was recorded", name)
		}
	}
}

func TestForeignIntentIsNotTheOrdersPayment(t *testing.T) {
	t.Parallel()
	s := setup(t)
	id := opened(t, s)
	if _, err := s.Record(t.Context(), id, intent(id, Pending, 0, 0, 0)); err != nil {
		t.Fatal(err)
	}
	genuine := intent(id, Captured, 2598, 2598, 0)
	for name, change := range map[string]func(*Intent){
		"another order":    func(i *Intent) { i.OrderID = uuid.NewString() },
		"another amount":   func(i *Intent) { i.Amount = usd(1) },
		"another currency": func(i *Intent) { i.Amount.Currency = "EUR" },
		"another intent":   func(i *Intent) { i.ID = "pi_other" },
	} {
		i := genuine
		change(&i)
		if _, err := s.Record(t.Context(), id, i); !fault.Is(err, fault.ReasonPaymentMismatch) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := s.Record(t.Context(), uuid.NewString(), genuine); !fault.Is(err, fault.ReasonPaymentNotFound) {
		t.Errorf("an order without payment: %v", err)
	}
	if p, err := s.Get(t.Context(), id); err != nil || p.Status != Pending || p.Captured.Minor != 0 {
		t.Errorf("a refused intent changed the payment: %v, %v", p, err)
	}
}

func TestDeclineEndsOnlyAPendingPayment(t *testing.T) {
	t.Parallel()
	s := setup(t)
	pending, captured := opened(t, s), opened(t, s)
	if _, err := s.Record(t.Context(), captured, intent(captured, Captured, 2598, 2598, 0)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Decline(t.Context(), pending, "c"), s.Decline(t.Context(), captured, "c")); err != nil {
		t.Fatal(err)
	}
	first, err1 := s.Get(t.Context(), pending)
	second, err2 := s.Get(t.Context(), captured)
	if err := errors.Join(err1, err2); err != nil || first.Status != Declined || first.DeclineCode != "c" || second.Status != Captured {
		t.Errorf("got %v and %v, %v", first, second, err)
	}
}

func TestProviderEventIsKeptOnce(t *testing.T) {
	t.Parallel()
	s := setup(t)
	event := Event{ID: "evt_1", Type: "payment_intent.succeeded", OrderID: uuid.NewString()}
	for i, want := range []bool{true, false} {
		if kept, err := s.KeepEvent(t.Context(), event); err != nil || kept != want {
			t.Errorf("time %d: kept %v, %v", i+1, kept, err)
		}
	}
}
