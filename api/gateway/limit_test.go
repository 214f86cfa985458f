package gateway_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/alicebob/miniredis/v2"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	"bookworm/api/gateway"
	"bookworm/internal/gen/bookworm/basket/v1/basketv1connect"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
	"bookworm/internal/gen/bookworm/chat/v1/chatv1connect"
	"bookworm/internal/identity"
	"bookworm/internal/limit"
	"bookworm/internal/redis"
	"bookworm/internal/rpc"
)

const limitPolicy, limitLeft = "Ratelimit-Policy", "Ratelimit"

// limited gives a gateway limits, and a Redis to count in.
func limited(t *testing.T, limits gateway.Limits) func(*gateway.Options) {
	t.Helper()
	client, err := redis.Dial("redis://" + miniredis.RunT(t).Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	limiter, err := limit.New(limit.Config{Redis: client, Key: "0123456789abcdef", Meter: noop.Meter{}})
	if err != nil {
		t.Fatal(err)
	}
	return func(o *gateway.Options) { o.Limiter, o.Limits = limiter, limits }
}

func TestLimitsOverEveryProtocol(t *testing.T) {
	t.Parallel()
	const calls = 3
	b := setup(t, limited(t, gateway.Limits{Browse: calls}))
	callers := b.callers(t)
	callers["REST"] = func(_ context.Context, token string) (*catalogv1.GetBookResponse, error) {
		got := b.send(t, http.MethodGet, "/api/v1/books/"+aBook, "", "Authorization", "Bearer "+token) //nolint:contextcheck // the test's own
		if got.status == http.StatusTooManyRequests && problemOf(t, got)["reason"] == "RATE_LIMITED" {
			return nil, errLimited
		}
		return nil, nil //nolint:nilnil // the callers' form
	}
	for name, call := range callers {
		token := b.provider.Token("reader by "+name, "customer")
		for i := range calls {
			if _, err := call(t.Context(), token); err != nil {
				t.Errorf("%s: call %d: %v", name, i+1, err)
			}
		}
		_, err := call(t.Context(), token)
		if reason := reasonOf(err); reason != "RATE_LIMITED" && !errors.Is(err, errLimited) {
			t.Errorf("%s: one too many: %v", name, err)
		}
	}
	if behind := b.behind.Load(); behind != int64(calls*len(callers)) {
		t.Errorf("%d calls went through", behind)
	}
}

var errLimited = errors.New("limited over REST")

func TestWhatALimitSays(t *testing.T) {
	t.Parallel()
	b := setup(t, limited(t, gateway.Limits{Browse: 600, Write: 2}))
	alice := b.as("alice", "customer")
	got := b.send(t, http.MethodGet, "/api/v1/basket", "", alice...)
	if got.status != 200 || got.header.Get(limitPolicy) != `"browse";q=600;w=60` || got.header.Get(limitLeft) != `"browse";r=599;t=1` || got.header.Get("Retry-After") != "" {
		t.Errorf("a read: %d %v", got.status, got.header)
	}
	const item, body = "/api/v1/basket/items/" + aBook, `{"quantity":1}`
	for want := range 2 {
		got = b.send(t, http.MethodPut, item, body, alice...)
		if said := fmt.Sprintf(`"write";r=%d;t=%d`, 1-want, 30*(want+1)); got.status != 200 || got.header.Get(limitLeft) != said {
			t.Errorf("a write: %d %q, not %q", got.status, got.header.Get(limitLeft), said)
		}
	}
	got = b.send(t, http.MethodPut, item, body, alice...)
	problemOf(t, got)
	seconds, err := strconv.Atoi(got.header.Get("Retry-After"))
	if got.status != 429 || err != nil || seconds < 28 || seconds > 30 || got.header.Get(limitLeft) != fmt.Sprintf(`"write";r=0;t=%d`, seconds) || got.header.Get(limitPolicy) != `"write";q=2;w=60` {
		t.Errorf("one too many: %d %v", got.status, got.header)
	}
	if got := b.send(t, http.MethodPut, item, body, b.as("bob", "customer")...); got.status != 200 {
		t.Errorf("bob pays for alice: %d %s", got.status, got.body)
	}
	if got := b.send(t, http.MethodGet, "/api/v1/basket", "", alice...); got.status != 200 {
		t.Errorf("alice cannot read any more: %d %s", got.status, got.body)
	}
	over := b.send(t, http.MethodPost, basketv1connect.BasketServiceSetItemProcedure, `{"bookId":"`+aBook+`","quantity":1}`, alice...)
	if over.status != 429 || over.json(t)["code"] != "resource_exhausted" || over.header.Get("Retry-After") == "" || over.header.Get(limitLeft) == "" {
		t.Errorf("Connect: %d %v %s", over.status, over.header, over.body)
	}
	var found bool
	for _, detail := range over.json(t)["details"].([]any) {
		said := detail.(map[string]any)
		if said["type"] != "google.rpc.RetryInfo" {
			continue
		}
		raw, err := base64.RawStdEncoding.DecodeString(said["value"].(string))
		var info errdetails.RetryInfo
		if err != nil || proto.Unmarshal(raw, &info) != nil || info.GetRetryDelay().GetSeconds() < 28 {
			t.Errorf("RetryInfo %v, %v", &info, err)
		}
		found = true
	}
	if !found {
		t.Errorf("no RetryInfo in %s", over.body)
	}
}

func TestStrangersAreCountedByAddress(t *testing.T) {
	t.Parallel()
	limits := limited(t, gateway.Limits{Browse: 2})
	b := setup(t, limits)
	const book = "/api/v1/books/" + aBook
	for i := range 4 { // whoever it says it is
		got := b.send(t, http.MethodGet, book, "", "X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i), "Forwarded", "for=192.0.2.9")
		if want := []int{200, 200, 429, 429}[i]; got.status != want {
			t.Errorf("request %d: got %d, want %d", i, got.status, want)
		}
	}
	behind := setup(t, limited(t, gateway.Limits{Browse: 2}), func(o *gateway.Options) { o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	for i := range 4 {
		if got := behind.send(t, http.MethodGet, book, "", "X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i)); got.status != 200 {
			t.Errorf("client %d behind a proxy: got %d", i, got.status)
		}
		got := behind.send(t, http.MethodGet, book, "", "X-Forwarded-For", fmt.Sprintf("2001:db8::%d", i))
		if want := []int{200, 200, 429, 429}[i]; got.status != want {
			t.Errorf("address %d of a household: got %d, want %d", i, got.status, want)
		}
	}
}

func TestEverythingAtTheDoorIsCounted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		limits       gateway.Limits
		method, path string
		class        string
	}{
		"a page that is not there": {gateway.Limits{Browse: 1}, "GET", "/wp-admin", "browse"},
		"a route that is not":      {gateway.Limits{Browse: 1}, "GET", "/api/v1/nothing", "browse"},
		"a method that is not":     {gateway.Limits{Browse: 1}, "DELETE", "/api/v1/orders", "browse"},
		"HEAD of a stream":         {gateway.Limits{Browse: 1}, "HEAD", events, "browse"},
		"a procedure that is not":  {gateway.Limits{Browse: 1}, "POST", "/bookworm.catalog.v1.CatalogService/Nothing", "browse"},
		"a browser at a procedure": {gateway.Limits{Browse: 1}, "GET", "/bookworm.catalog.v1.CatalogService/Nothing", "browse"},
		"one of the shop's own":    {gateway.Limits{Browse: 1}, "POST", "/bookworm.catalog.v1.StockService/Hold", "browse"},
		"reflection":               {gateway.Limits{Browse: 1}, "POST", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "browse"},
		"a webhook":                {gateway.Limits{Webhook: 1}, "POST", "/webhooks/stripe", "webhook"},
		"MCP":                      {gateway.Limits{Search: 1}, "POST", "/mcp", "search"},
		"A2A":                      {gateway.Limits{Chat: 1}, "POST", "/a2a", "chat"},
		"the agent's card":         {gateway.Limits{Browse: 1}, "GET", "/.well-known/agent-card.json", "browse"},
		"search":                   {gateway.Limits{Search: 1}, "GET", "/api/v1/books:search?query=x", "search"},
		"a token that is missing":  {gateway.Limits{Browse: 1}, "GET", "/api/v1/basket", "browse"},
		"an order without a token": {gateway.Limits{Checkout: 1}, "POST", "/api/v1/orders", "checkout"},
		"a message without one":    {gateway.Limits{Chat: 1}, "POST", messages, "chat"},
	} {
		b := setup(t, limited(t, test.limits))
		b.shop.webhook, b.shop.agent = func(http.ResponseWriter, *http.Request) {}, func(http.ResponseWriter, *http.Request) {}
		body := ""
		if test.method == http.MethodPost {
			body = "{}"
		}
		first, second := b.send(t, test.method, test.path, body), b.send(t, test.method, test.path, body)
		if first.status == 429 || second.status != 429 || second.header.Get(limitPolicy) != fmt.Sprintf("%q;q=1;w=60", test.class) {
			t.Errorf("%s: got %d, then %d %v", name, first.status, second.status, second.header)
		}
	}
}

// counting is a verifier that knows what it was asked.
type counting struct {
	rpc.Verifier
	asked *atomic.Int64
}

func (c counting) Verify(ctx context.Context, token string) (identity.Caller, error) {
	c.asked.Add(1)
	return c.Verifier.Verify(ctx, token) //nolint:wrapcheck // as it is
}

func TestGuessersOfTokensAreBarredBeforeAnythingIsVerified(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	b := setup(t, limited(t, gateway.Limits{Browse: 600, Token: 3}), func(o *gateway.Options) { o.Verifier = counting{o.Verifier, &asked} })
	alice, bob := b.as("alice", "customer"), b.as("bob", "customer")
	if got := b.send(t, http.MethodGet, "/api/v1/basket", "", alice...); got.status != 200 {
		t.Fatalf("alice: %d %s", got.status, got.body)
	}
	for i := range 3 {
		got := b.send(t, http.MethodGet, "/api/v1/basket", "", "Authorization", "Bearer guess"+strconv.Itoa(i))
		if got.status != 401 || !strings.HasPrefix(got.header.Get(limitLeft), fmt.Sprintf(`"token";r=%d;`, 2-i)) {
			t.Errorf("guess %d: %d %v", i, got.status, got.header)
		}
	}
	if got := b.send(t, http.MethodGet, "/api/v1/basket", "", "Authorization", "Bearer guess3"); got.status != 429 {
		t.Errorf("one too many: %d", got.status)
	}
	before := asked.Load()
	for i := range 5 {
		if got := b.send(t, http.MethodGet, "/api/v1/basket", "", "Authorization", "Bearer more"+strconv.Itoa(i)); got.status != 429 || got.header.Get("Retry-After") == "" {
			t.Errorf("barred, and got %d %v", got.status, got.header)
		}
	}
	if got := b.send(t, http.MethodGet, "/api/v1/basket", "", bob...); got.status != 429 {
		t.Errorf("a token nobody has seen yet: %d", got.status)
	}
	if asked.Load() != before {
		t.Errorf("%d tokens were verified for a barred address", asked.Load()-before)
	}
	if got := b.send(t, http.MethodGet, "/api/v1/basket", "", alice...); got.status != 200 {
		t.Errorf("alice, whose token was good before, is barred with her neighbour: %d %s", got.status, got.body)
	}
	if got := b.send(t, http.MethodGet, "/api/v1/books/"+aBook, ""); got.status != 200 {
		t.Errorf("a reader without a token is barred: %d", got.status)
	}
}

// An office behind one address has room for twenty who all use up their limit.
func TestAnOfficeFitsBehindOneAddress(t *testing.T) {
	t.Parallel()
	b := setup(t, limited(t, gateway.Limits{Browse: 1}))
	for i := range 20 {
		if got := b.send(t, http.MethodGet, "/api/v1/basket", "", b.as(fmt.Sprint("clerk ", i), "customer")...); got.status != 200 {
			t.Fatalf("clerk %d: %d %v", i, got.status, got.header)
		}
	}
	if got := b.send(t, http.MethodGet, "/api/v1/basket", "", b.as("one more", "customer")...); got.status != 429 || got.header.Get(limitPolicy) != `"browse-address";q=20;w=60` {
		t.Errorf("a farm of accounts: %d %v", got.status, got.header)
	}
	if got := b.send(t, http.MethodGet, "/api/v1/books/"+aBook, ""); got.status != 200 {
		t.Errorf("the office's visitors: %d %v", got.status, got.header)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	b := setupWith(t, gateway.NewFor(3, 2))
	hold := make(chan struct{})
	b.shop.answerTurn(func(ctx context.Context, _ proto.Message, send func(*chatv1.TurnEvent) error) error {
		if err := send(delta(1, "first")); err != nil {
			return err
		}
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil
	})
	alice, bob := b.as("alice", "customer"), b.as("bob", "customer")
	_, first := b.open(t, http.DefaultClient, http.MethodPost, messages, `{"text":"x"}`, alice...)
	if _, err := readFrame(t, first); err != nil {
		t.Fatal(err)
	}
	ctx, info := connect.NewClientContext(t.Context())
	info.RequestHeader().Set("Authorization", alice[1])
	stream, err := chatv1connect.NewChatServiceClient(connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: rpc.Transport()}, b.url, connecthttp.WithGRPC()))).
		SendMessage(ctx, &chatv1.SendMessageRequest{Text: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Receive(); err != nil {
		t.Fatal(err)
	}
	if got := b.send(t, http.MethodPost, messages, `{"text":"x"}`, alice...); got.status != 429 || problemOf(t, got)["reason"] != "RATE_LIMITED" || got.header.Get("Retry-After") != "1" {
		t.Errorf("alice's third: %d %s", got.status, got.body)
	}
	_, third := b.open(t, http.DefaultClient, http.MethodPost, messages, `{"text":"x"}`, bob...)
	if _, err := readFrame(t, third); err != nil {
		t.Fatal(err)
	}
	if got := b.send(t, http.MethodPost, messages, `{"text":"x"}`, bob...); got.status != 503 || problemOf(t, got)["reason"] != "OVERLOADED" {
		t.Errorf("the fourth of all: %d %s", got.status, got.body)
	}
	close(hold)
	for {
		if _, err := readFrame(t, first); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
	}
	for end := time.Now().Add(5 * time.Second); ; { // the place is free a moment after the answer's end
		if got := b.send(t, http.MethodPost, messages, `{"text":"x"}`, alice...); got.status == 200 {
			return
		} else if time.Now().After(end) {
			t.Fatalf("a stream that ended keeps its place: %d %s", got.status, got.body)
		}
	}
}
