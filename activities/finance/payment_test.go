package finance_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/uuid"

	activities "bookworm/activities/finance"
	"bookworm/internal/finance"
	"bookworm/internal/money"
	"bookworm/internal/personal/personaltest"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// TestErasedPaymentMethodDeclines has the shopper's key end before the payment is
// opened: it must end cleanly, without a call to the provider and without a retry.
func TestErasedPaymentMethodDeclines(t *testing.T) {
	t.Parallel()
	pool, err := postgres.Open(t.Context(), pgtest.DB(t, func(ctx context.Context, adminURL string) error {
		return postgres.Migrate(ctx, adminURL, finance.Schema)
	}), finance.Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("asked the provider: %s %s", r.Method, r.URL)
		w.WriteHeader(http.StatusInternalServerError)
	}))
	t.Cleanup(provider.Close)
	sealer, keys := personaltest.Sealer(t)
	a := &activities.Activities{
		Payments: finance.NewStore(pool), Sealer: sealer,
		Provider: finance.NewProvider(finance.ProviderConfig{SecretKey: "sk_test_x", BaseURL: provider.URL, HTTPClient: provider.Client()}),
	}
	for name, call := range map[string]func(context.Context, activities.Payment) (activities.State, error){"charge": a.Charge, "reverse": a.Reverse} {
		id := uuid.NewString()
		method, err := sealer.Seal(t.Context(), "alice", id, activities.PaymentMethod{Token: "pm_card_visa"})
		if err != nil {
			t.Fatal(err)
		}
		keys.Destroy("alice")
		due := activities.Payment{OrderID: id, Subject: "alice", Amount: money.New("USD", 1299), Method: method}
		for try := range 2 {
			state, err := call(t.Context(), due)
			if err != nil || (state.Status != finance.Declined && state.Status != finance.Voided) {
				t.Errorf("%s, try %d: %+v, %v", name, try, state, err)
			}
		}
	}
}
