package e2e

import (
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	"bookworm/internal/gen/bookworm/basket/v1/basketv1connect"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	notificationv1 "bookworm/internal/gen/bookworm/notification/v1"
	"bookworm/internal/gen/bookworm/notification/v1/notificationv1connect"
)

// TestOneDoorSpeaksEveryProtocol fills one basket over Connect (JSON and binary),
// gRPC-Web and gRPC, and reads it over REST: they all reach the same one.
func TestOneDoorSpeaksEveryProtocol(t *testing.T) {
	t.Parallel()
	v := enter(t)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	over := func(options ...connecthttp.Option) basketv1connect.BasketServiceClient {
		transport := connecthttp.NewTransport(&http.Client{Transport: &http.Transport{Protocols: protocols}}, v.Gateway, options...)
		return basketv1connect.NewBasketServiceClient(connect.NewClient(transport))
	}
	for name, client := range map[string]basketv1connect.BasketServiceClient{
		"Connect, binary": over(), "Connect, JSON": over(connecthttp.WithProtoJSON()),
		"gRPC": over(connecthttp.WithGRPC()), "gRPC-Web": over(connecthttp.WithGRPCWeb()),
	} {
		ctx, call := connect.NewClientContext(v.ctx)
		call.RequestHeader().Set("Authorization", "Bearer "+v.Token)
		res, err := client.SetItem(ctx, &basketv1.SetItemRequest{BookId: book(t, 1299, 5), Quantity: 2})
		if err != nil || len(res.GetBasket().GetItems()) == 0 {
			t.Errorf("%s: %v, %v", name, res, err)
		}
	}
	conn, err := grpc.NewClient(strings.TrimPrefix(v.Gateway, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(v.ctx, "authorization", "Bearer "+v.Token)
	got, err := basketv1.NewBasketServiceClient(conn).GetBasket(ctx, &basketv1.GetBasketRequest{})
	if err != nil || len(got.GetBasket().GetItems()) != 4 {
		t.Errorf("grpc-go: %v, %v", got, err)
	}
	if basket, err := v.Basket(v.ctx); err != nil || basket.GetVersion() != got.GetBasket().GetVersion() {
		t.Errorf("REST: %v, %v", basket, err)
	}
	// The inner services are not for the public, whoever asks.
	_, err = catalogv1.NewStockServiceClient(conn).ReleaseHold(ctx, &catalogv1.ReleaseHoldRequest{HoldId: v.subject})
	if code := status.Code(err); code != codes.Unimplemented && code != codes.PermissionDenied && code != codes.NotFound {
		t.Errorf("the stock service answered the public: %v", err)
	}
	// Connect GET reads what has no side effects.
	if code, _, body, err := v.Raw(v.ctx, http.MethodGet,
		"/bookworm.catalog.v1.CatalogService/ListBooks?connect=v1&encoding=json&message=%7B%22page_size%22%3A1%7D", http.NoBody); err != nil || code != http.StatusOK {
		t.Errorf("Connect GET: %d %s %v", code, body, err)
	}
}

func TestPreferencesDecideWhoIsWrittenTo(t *testing.T) {
	t.Parallel()
	v := enter(t)
	transport := connecthttp.NewTransport(http.DefaultClient, v.Gateway)
	client := notificationv1connect.NewPreferenceServiceClient(connect.NewClient(transport))
	ctx, call := connect.NewClientContext(v.ctx)
	call.RequestHeader().Set("Authorization", "Bearer "+v.Token)
	before, err := client.GetPreferences(ctx, &notificationv1.GetPreferencesRequest{})
	if err != nil || !before.GetPreferences().GetOrderEmails() || before.GetPreferences().GetMarketingEmails() {
		t.Fatalf("the defaults are %v, %v", before, err)
	}
	status, _, body, err := v.Raw(v.ctx, http.MethodPatch, "/api/v1/preferences?update_mask=order_emails", strings.NewReader(`{"order_emails":false}`))
	if err != nil || status != http.StatusOK || !strings.Contains(string(body), `"order_emails":false`) {
		t.Fatalf("%d %s %v", status, body, err)
	}
	v.fill(book(t, 1299, 5))
	order := v.order("pm_card_visa")
	v.finds("WorkflowType = 'notification' and ExecutionStatus = 'Completed' and BookwormOrderId = '" + order.GetId() + "'")
	if mails := v.mails(order.GetId(), 0); len(mails) != 0 {
		t.Errorf("the shopper got %v against their will", mails)
	}
}
