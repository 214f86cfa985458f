package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"golang.org/x/oauth2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	"bookworm/client"
	catalogv1 "bookworm/client/gen/bookworm/catalog/v1"
	"bookworm/client/gen/bookworm/catalog/v1/catalogv1connect"
	chatv1 "bookworm/client/gen/bookworm/chat/v1"
	"bookworm/client/gen/bookworm/chat/v1/chatv1connect"
	orderingv1 "bookworm/client/gen/bookworm/ordering/v1"
	"bookworm/client/gen/bookworm/ordering/v1/orderingv1connect"
	ratingv1 "bookworm/client/gen/bookworm/rating/v1"
)

// door is a shop's gateway that answers from a script, and keeps what it was sent.
type door struct {
	catalogv1connect.UnimplementedCatalogServiceHandler
	orderingv1connect.UnimplementedOrderServiceHandler
	chatv1connect.UnimplementedChatServiceHandler

	url   string
	close func()

	mu       sync.Mutex
	requests []*http.Request
	refusals []refusal // the next answers, before those of the handlers
}

// refusal is an answer of the gateway itself.
type refusal struct {
	status     int
	retryAfter string
}

func open(t *testing.T, refusals ...refusal) *door {
	t.Helper()
	d := newDoor(refusals...)
	t.Cleanup(d.close)
	return d
}

func newDoor(refusals ...refusal) *door {
	d := &door{refusals: refusals}
	server := connect.NewServer()
	catalogv1connect.RegisterCatalogServiceHandler(server, d)
	orderingv1connect.RegisterOrderServiceHandler(server, d)
	chatv1connect.RegisterChatServiceHandler(server, d)
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server)
	listening := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		d.requests = append(d.requests, r)
		var next refusal
		if len(d.refusals) > 0 {
			next, d.refusals = d.refusals[0], d.refusals[1:]
		}
		d.mu.Unlock()
		if next.status == 0 {
			mux.ServeHTTP(w, r)
			return
		}
		if next.retryAfter != "" {
			w.Header().Set("Retry-After", next.retryAfter)
		}
		w.WriteHeader(next.status)
	}))
	d.url, d.close = listening.URL, listening.Close
	return d
}

// seen returns the requests so far.
func (d *door) seen() []*http.Request {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.requests)
}

func (*door) GetBook(_ context.Context, request *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
	return &catalogv1.GetBookResponse{Book: &catalogv1.Book{Id: request.GetId()}}, nil
}

func (*door) PlaceOrder(context.Context, *orderingv1.PlaceOrderRequest) (*orderingv1.PlaceOrderResponse, error) {
	refused := connect.Errorf(connect.CodeFailedPrecondition, "There are not enough copies.")
	for _, message := range []proto.Message{
		&errdetails.ErrorInfo{Reason: "ELSEWHERE", Domain: "proxy.example"},
		&errdetails.ErrorInfo{Reason: "OUT_OF_STOCK", Domain: "bookworm", Metadata: map[string]string{"book_id": "b1"}},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "basket_etag", Description: "is old"}}},
	} {
		detail, err := connectproto.NewErrorDetail(message)
		if err != nil {
			return nil, err
		}
		refused = refused.WithDetail(detail)
	}
	return nil, refused
}

func (*door) SendMessage(_ context.Context, request *chatv1.SendMessageRequest, stream chatv1connect.ChatServiceSendMessageServerStream) error {
	for word := range strings.FieldsSeq(request.GetText()) {
		if err := stream.Send(&chatv1.SendMessageResponse{Delta: word}); err != nil {
			return err
		}
	}
	return nil
}

func TestCallsCarryTheCaller(t *testing.T) {
	t.Parallel()
	d := open(t)
	tokens := oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "a-token"})
	got, err := client.New(d.url, client.Options{Tokens: tokens}).Catalog.GetBook(t.Context(), &catalogv1.GetBookRequest{Id: "b1"})
	if err != nil || got.GetBook().GetId() != "b1" {
		t.Fatalf("got %v, %v", got, err)
	}
	if _, err := client.New(d.url, client.Options{}).Catalog.GetBook(t.Context(), &catalogv1.GetBookRequest{Id: "b1"}); err != nil {
		t.Fatal(err)
	}
	sent := d.seen()
	if sent[0].Method != http.MethodGet || sent[0].Header.Get("Authorization") != "Bearer a-token" || sent[1].Header.Get("Authorization") != "" {
		t.Errorf("sent %s with %q, then %q", sent[0].Method, sent[0].Header.Get("Authorization"), sent[1].Header.Get("Authorization"))
	}
}

// broken is a source that has no token.
type broken struct{}

var errNoToken = errors.New("the provider is away")

func (broken) Token() (*oauth2.Token, error) { return nil, errNoToken }

func TestNoCallWithoutTheTokenItNeeds(t *testing.T) {
	t.Parallel()
	d := open(t)
	_, err := client.New(d.url, client.Options{Tokens: broken{}}).Catalog.GetBook(t.Context(), &catalogv1.GetBookRequest{})
	if !errors.Is(err, errNoToken) || len(d.seen()) != 0 {
		t.Errorf("got %v after %d requests", err, len(d.seen()))
	}
}

func TestErrorsSayWhy(t *testing.T) {
	t.Parallel()
	d := open(t)
	shop := client.New(d.url, client.Options{Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "a-token"})})
	_, err := shop.Orders.PlaceOrder(client.WithIdempotencyKey(t.Context(), "k1"), &orderingv1.PlaceOrderRequest{})
	if client.Reason(err) != "OUT_OF_STOCK" || client.Metadata(err)["book_id"] != "b1" ||
		!slices.Equal(client.Fields(err), []client.Field{{Name: "basket_etag", Problem: "is old"}}) {
		t.Errorf("%v says %q, %v, %v", err, client.Reason(err), client.Metadata(err), client.Fields(err))
	}
	sent := d.seen()
	if len(sent) != 1 || sent[0].Header.Get("Idempotency-Key") != "k1" || sent[0].Header.Get("Authorization") != "Bearer a-token" {
		t.Errorf("sent %d requests, the first with %v", len(sent), sent[0].Header)
	}
	for _, other := range []error{nil, errNoToken, connect.Errorf(connect.CodeUnavailable, "x")} {
		if client.Reason(other) != "" || client.Fields(other) != nil || client.Metadata(other) != nil {
			t.Errorf("%v says %q", other, client.Reason(other))
		}
	}
}

func TestSafeCallsAreMadeAgain(t *testing.T) {
	t.Parallel()
	busy, often := refusal{http.StatusServiceUnavailable, "0"}, refusal{http.StatusTooManyRequests, "0"}
	tooLarge := refusal{status: http.StatusTooManyRequests}
	book := func(ctx context.Context, shop *client.Client) error {
		_, err := shop.Catalog.GetBook(ctx, &catalogv1.GetBookRequest{Id: "b1"})
		return err
	}
	place := func(ctx context.Context, shop *client.Client) error {
		_, err := shop.Orders.PlaceOrder(client.WithIdempotencyKey(ctx, "k1"), &orderingv1.PlaceOrderRequest{})
		return err
	}
	review := func(ctx context.Context, shop *client.Client) error {
		_, err := shop.Ratings.SubmitReview(ctx, &ratingv1.SubmitReviewRequest{})
		return err
	}
	for name, test := range map[string]struct {
		call     func(context.Context, *client.Client) error
		refusals []refusal
		requests int
		code     connect.Code // 0: it works
	}{
		"a read":                    {book, []refusal{busy, often}, 3, 0},
		"with an Idempotency-Key":   {place, []refusal{busy}, 2, connect.CodeFailedPrecondition},
		"not for ever":              {book, []refusal{busy, busy, busy, busy, busy}, 4, connect.CodeUnavailable},
		"what never fits":           {book, []refusal{tooLarge}, 1, connect.CodeUnavailable},
		"what may have two effects": {review, []refusal{busy}, 1, connect.CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := open(t, test.refusals...)
			err := test.call(t.Context(), client.New(d.url, client.Options{}))
			var code connect.Code
			if err != nil {
				code = connect.CodeOf(err)
			}
			if code != test.code || len(d.seen()) != test.requests {
				t.Errorf("%d requests, then %v", len(d.seen()), err)
			}
		})
	}
}

func TestADeadlineEndsTheWait(t *testing.T) {
	t.Parallel()
	d := open(t, refusal{http.StatusServiceUnavailable, "3600"})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := client.New(d.url, client.Options{}).Catalog.GetBook(ctx, &catalogv1.GetBookRequest{Id: "b1"})
	if connect.CodeOf(err) != connect.CodeDeadlineExceeded || len(d.seen()) != 1 {
		t.Errorf("%d requests, then %v", len(d.seen()), err)
	}
}

func TestTheClientsOwnTimesAndTransportAreUsed(t *testing.T) {
	t.Parallel()
	d := open(t, refusal{http.StatusServiceUnavailable, "3600"})
	given := &http.Client{Timeout: 50 * time.Millisecond, Transport: &http.Transport{}}
	_, err := client.New(d.url, client.Options{HTTPClient: given}).Catalog.GetBook(t.Context(), &catalogv1.GetBookRequest{Id: "b1"})
	if err == nil || len(d.seen()) != 1 {
		t.Errorf("%d requests, then %v", len(d.seen()), err)
	}
	if _, own := given.Transport.(*http.Transport); !own {
		t.Error("the caller's client was changed")
	}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	d := open(t)
	answer, err := client.New(d.url, client.Options{}).Chat.SendMessage(client.WithIdempotencyKey(t.Context(), "k1"), &chatv1.SendMessageRequest{Text: "one two"})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	for _, want := range []string{"one", "two"} {
		if piece, err := answer.Receive(); err != nil || piece.GetDelta() != want {
			t.Errorf("heard %v, %v", piece, err)
		}
	}
}

// Reading the catalogue needs no token.
func Example() {
	gateway := newDoor()
	defer gateway.close()

	shop := client.New(gateway.url, client.Options{})
	found, err := shop.Catalog.GetBook(context.Background(), &catalogv1.GetBookRequest{Id: "0197a3c0-0000-7000-8000-000000000001"})
	if err != nil {
		fmt.Println(client.Reason(err), client.Fields(err))
		return
	}
	fmt.Println(found.GetBook().GetId())
	// Output: 0197a3c0-0000-7000-8000-000000000001
}

// The same call with the same key may be made again: it has its effect once.
func ExampleWithIdempotencyKey() {
	gateway := newDoor()
	defer gateway.close()

	shop := client.New(gateway.url, client.Options{Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "a-token"})})
	ctx := client.WithIdempotencyKey(context.Background(), "one-key-for-one-order")
	_, err := shop.Orders.PlaceOrder(ctx, &orderingv1.PlaceOrderRequest{PaymentMethod: "pm_card_visa"})
	fmt.Println(client.Reason(err), client.Metadata(err))
	// Output: OUT_OF_STOCK map[book_id:b1]
}
