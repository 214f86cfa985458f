package ordering_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/oauth2"

	api "bookworm/api/ordering"
	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/gen/bookworm/ordering/v1/orderingv1connect"
	"bookworm/internal/identity"
	"bookworm/internal/money"
	"bookworm/internal/ordering"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
	"bookworm/internal/rpc"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func migrate(ctx context.Context, adminURL string) error {
	return postgres.Migrate(ctx, adminURL, ordering.Schema)
}

// roles is a verifier for which a token is a role.
type roles struct{}

func (roles) Verify(_ context.Context, token string) (identity.Caller, error) {
	return identity.Caller{Subject: token, Roles: []accessv1.Role{accessv1.Role(accessv1.Role_value[token])}}, nil
}

func TestPurchasesAreForServices(t *testing.T) {
	t.Parallel()
	pool, err := postgres.Open(t.Context(), pgtest.DB(t, migrate), ordering.Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := ordering.NewStore(pool)
	server, err := rpc.NewServer(rpc.ServerOptions{Verifier: roles{}})
	if err != nil {
		t.Fatal(err)
	}
	api.Register(server, api.Deps{Orders: store})
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rpc.Serve(ctx, listener, rpc.Handler(server), nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	as := func(role string) orderingv1connect.PurchaseServiceClient {
		return orderingv1connect.NewPurchaseServiceClient(rpc.NewClient(rpc.ClientOptions{
			BaseURL: "http://" + listener.Addr().String(), Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: role}),
		}))
	}

	at := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	book, other := uuid.NewString(), uuid.NewString()
	lines, totals, err := ordering.Price([]ordering.Line{
		{BookID: book, Title: "A", ISBN13: "9780000000001", Quantity: 2, UnitPrice: money.New(ordering.Currency, 999)},
		{BookID: other, Title: "B", ISBN13: "9780000000002", Quantity: 1, UnitPrice: money.New(ordering.Currency, 999)},
	}, "US")
	if err != nil {
		t.Fatal(err)
	}
	order, err := store.Create(t.Context(), ordering.Order{
		ID: uuid.NewString(), Subject: "alice", Lines: lines, Totals: totals, Country: "US", Details: []byte("x"), Fingerprint: []byte("x"), CreatedAt: at,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Step(t.Context(), order.ID, ordering.Confirmed, "", at); err != nil {
		t.Fatal(err)
	}

	shop := as("ROLE_SERVICE")
	answer, err := shop.ListPurchases(t.Context(), &orderingv1.ListPurchasesRequest{Subject: "alice"})
	var books []string
	for _, p := range answer.GetPurchases() {
		books = append(books, p.GetBookId())
		if !p.GetOrderTime().AsTime().Equal(at) {
			t.Errorf("ordered at %v", p.GetOrderTime())
		}
	}
	want := []string{book, other}
	slices.Sort(want)
	if err != nil || !slices.Equal(books, want) {
		t.Errorf("bought %v, %v; want %v", books, err, want)
	}
	answer, err = shop.ListPurchases(t.Context(), &orderingv1.ListPurchasesRequest{Subject: "alice", BookIds: []string{book}})
	if err != nil || len(answer.GetPurchases()) != 1 || answer.GetPurchases()[0].GetBookId() != book {
		t.Errorf("got %v, %v", answer, err)
	}
	answer, err = shop.ListPurchases(t.Context(), &orderingv1.ListPurchasesRequest{Subject: "bob"})
	if err != nil || len(answer.GetPurchases()) != 0 {
		t.Errorf("got %v, %v", answer, err)
	}
	for name, req := range map[string]*orderingv1.ListPurchasesRequest{
		"no subject": {}, "no book": {Subject: "alice", BookIds: []string{"1"}},
		"too many books": {Subject: "alice", BookIds: slices.Repeat([]string{book}, 101)},
	} {
		if _, err := shop.ListPurchases(t.Context(), req); !fault.Is(err, fault.ReasonInvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A2: no shopper learns what another bought.
	for _, role := range []string{"ROLE_CUSTOMER", "ROLE_ADMIN"} {
		_, err := as(role).ListPurchases(t.Context(), &orderingv1.ListPurchasesRequest{Subject: "alice"})
		if err == nil || !strings.Contains(err.Error(), string(fault.ReasonAccessDenied)) {
			t.Errorf("%s: %v", role, err)
		}
	}
}
