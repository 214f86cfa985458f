package ordering_test

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"golang.org/x/oauth2"
	"google.golang.org/protobuf/proto"

	api "bookworm/api/ordering"
	"bookworm/internal/fault"
	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	"bookworm/internal/gen/bookworm/basket/v1/basketv1connect"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/gen/bookworm/ordering/v1/orderingv1connect"
	"bookworm/internal/money"
	"bookworm/internal/ordering"
	"bookworm/internal/personal/personaltest"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
	"bookworm/internal/rpc"
)

// fullBasket is a basket service with something in every basket.
type fullBasket struct {
	basketv1connect.BasketCheckoutServiceClient
}

func (fullBasket) GetBasketSnapshot(context.Context, *basketv1.GetBasketSnapshotRequest) (*basketv1.GetBasketSnapshotResponse, error) {
	return &basketv1.GetBasketSnapshotResponse{
		Items: []*basketv1.SnapshotItem{{BookId: "11111111-1111-4111-8111-111111111111", Quantity: 1}}, Version: 7,
	}, nil
}

// endlessLog is an audit log that takes every entry.
type endlessLog struct {
	compliancev1connect.AuditLogServiceClient
}

func (endlessLog) AppendAuditEntry(context.Context, *compliancev1.AppendAuditEntryRequest) (*compliancev1.AppendAuditEntryResponse, error) {
	return &compliancev1.AppendAuditEntryResponse{Sequence: 1}, nil
}

// TestO2_RequestOfAnErasedShopperIsToldThatItsKeyIsUsed also has an operator look
// at what is left. There is no Temporal behind the server: a request that went on to
// place an order would fail otherwise.
func TestO2_RequestOfAnErasedShopperIsToldThatItsKeyIsUsed(t *testing.T) {
	t.Parallel()
	pool, err := postgres.Open(t.Context(), pgtest.DB(t, migrate), ordering.Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := ordering.NewStore(pool)
	audit := rpc.NewAudit(endlessLog{}, slog.New(slog.DiscardHandler))
	server, err := rpc.NewServer(rpc.ServerOptions{Verifier: roles{}, Audit: audit})
	if err != nil {
		t.Fatal(err)
	}
	sealer, _ := personaltest.Sealer(t)
	api.Register(server, api.Deps{Orders: store, Baskets: fullBasket{}, Sealer: sealer})
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
	as := func(role string) orderingv1connect.OrderServiceClient {
		return orderingv1connect.NewOrderServiceClient(rpc.NewClient(rpc.ClientOptions{
			BaseURL: "http://" + listener.Addr().String(), Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: role}),
		}))
	}

	const subject, key = "ROLE_CUSTOMER", "k"
	lines, totals, err := ordering.Price([]ordering.Line{
		{BookID: "11111111-1111-4111-8111-111111111111", Title: "A", ISBN13: "9780000000001", Quantity: 1, UnitPrice: money.New(ordering.Currency, 999)},
	}, "US")
	if err != nil {
		t.Fatal(err)
	}
	request := &orderingv1.PlaceOrderRequest{PaymentMethod: "pm_card_visa", ShippingAddress: &orderingv1.Address{
		Recipient: "A", Line1: "1", City: "B", PostalCode: "1", CountryCode: "US",
	}}
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	order, err := store.Create(t.Context(), ordering.Order{
		ID: ordering.ID(subject, key), Subject: subject, Lines: lines, Totals: totals, Country: "US", Details: []byte("x"), CreatedAt: now,
		Fingerprint: ordering.Fingerprint("", encoded),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Step(t.Context(), order.ID, ordering.Cancelled, "", now); err != nil {
		t.Fatal(err)
	}
	if _, err := (&ordering.Personal{Orders: store}).Erase(t.Context(), subject, "erased-1"); err != nil {
		t.Fatal(err)
	}

	place, call := connect.NewClientContext(t.Context())
	call.RequestHeader().Set("Idempotency-Key", key)
	_, err = as(subject).PlaceOrder(place, request)
	if !fault.Is(err, fault.ReasonKeyReused) {
		t.Errorf("the request is answered with %v", err)
	}
	if _, err := as(subject).GetOrder(t.Context(), &orderingv1.GetOrderRequest{Id: order.ID}); !fault.Is(err, fault.ReasonOrderNotFound) {
		t.Errorf("who was erased still sees the order: %v", err)
	}
	if listed, err := as(subject).ListOrders(t.Context(), &orderingv1.ListOrdersRequest{}); err != nil || len(listed.GetOrders()) > 0 {
		t.Errorf("who was erased still has %v, %v", listed, err)
	}
	seen, err := as("ROLE_ADMIN").GetOrder(t.Context(), &orderingv1.GetOrderRequest{Id: order.ID})
	if err != nil || seen.GetOrder().GetShippingAddress().GetCountryCode() != "US" || seen.GetOrder().GetShippingAddress().GetLine1() != "" {
		t.Errorf("an operator sees %v, %v", seen, err)
	}
}
