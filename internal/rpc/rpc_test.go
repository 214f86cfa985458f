package rpc_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/grpcreflect/v2"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"golang.org/x/oauth2"

	"bookworm/internal/fault"
	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	"bookworm/internal/gen/bookworm/basket/v1/basketv1connect"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/gen/bookworm/ordering/v1/orderingv1connect"
	"bookworm/internal/identity"
	"bookworm/internal/identity/identitytest"
	"bookworm/internal/rpc"
	"bookworm/internal/rpc/rpctest"
	"bookworm/internal/telemetry"
)

const aBook = "01890a5d-ac96-774b-bcce-b302099a8057"

// service is a catalogue and a basket whose answers the test gives.
type service struct {
	basketv1connect.UnimplementedBasketServiceHandler
	catalogv1connect.UnimplementedCatalogServiceHandler
	catalogv1connect.UnimplementedCatalogAdminServiceHandler
	orderingv1connect.UnimplementedOrderServiceHandler
	getBook   func(context.Context, *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error)
	getBasket func(context.Context) (*basketv1.GetBasketResponse, error)
}

func (s *service) GetBook(ctx context.Context, request *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
	return s.getBook(ctx, request)
}

func (s *service) GetBasket(ctx context.Context, _ *basketv1.GetBasketRequest) (*basketv1.GetBasketResponse, error) {
	return s.getBasket(ctx)
}

// GetOrder answers an order whose id is its owner, if the caller reaches it.
func (s *service) GetOrder(ctx context.Context, request *orderingv1.GetOrderRequest) (*orderingv1.GetOrderResponse, error) {
	if !rpc.Reaches(ctx, request.GetId()) {
		return nil, fault.New(fault.ReasonOrderNotFound, "order %s does not exist", request.GetId())
	}
	return &orderingv1.GetOrderResponse{}, nil
}

// GetSearchIndex answers what its caller reaches of alice's, by a rule of no
// ownership that names staff.
func (s *service) GetSearchIndex(ctx context.Context, _ *catalogv1.GetSearchIndexRequest) (*catalogv1.GetSearchIndexResponse, error) {
	if rpc.Reaches(ctx, "alice") {
		return nil, fault.New(fault.ReasonBasketEmpty, "reached")
	}
	return &catalogv1.GetSearchIndexResponse{}, nil
}

// bundle is a server over real HTTP and what a test needs of it.
type bundle struct {
	provider *identitytest.Provider
	service  *service
	url      string
	log      *buffer
	spans    *tracetest.SpanRecorder
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// traced adds the trace of the context, as the process's own logger does.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, record slog.Record) error {
	record.AddAttrs(slog.String("trace_id", telemetry.TraceID(ctx)))
	return h.Handler.Handle(ctx, record)
}

func setup(t *testing.T, change ...func(*rpc.ServerOptions)) *bundle {
	t.Helper()
	b := &bundle{provider: identitytest.New(t), service: &service{}, log: &buffer{}, spans: tracetest.NewSpanRecorder()}
	verifier, err := identity.NewVerifier(t.Context(), identity.VerifierConfig{Issuer: b.provider.Issuer, Audience: identitytest.Audience})
	if err != nil {
		t.Fatal(err)
	}
	options := rpc.ServerOptions{
		Audit: rpctest.Audit(), Verifier: verifier, Logger: slog.New(traced{slog.NewJSONHandler(b.log, nil)}),
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(b.spans)),
	}
	for _, c := range change {
		c(&options)
	}
	server, err := rpc.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	catalogv1connect.RegisterCatalogServiceHandler(server, b.service)
	basketv1connect.RegisterBasketServiceHandler(server, b.service)
	catalogv1connect.RegisterCatalogAdminServiceHandler(server, b.service)
	orderingv1connect.RegisterOrderServiceHandler(server, b.service)
	b.url = serve(t, rpc.Handler(server))
	return b
}

// serve runs a handler for as long as the test.
func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rpc.Serve(ctx, listener, handler, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return "http://" + listener.Addr().String()
}

func (b *bundle) catalog(tokens oauth2.TokenSource) catalogv1connect.CatalogServiceClient {
	return catalogv1connect.NewCatalogServiceClient(rpc.NewClient(rpc.ClientOptions{BaseURL: b.url, Tokens: tokens}))
}

func (b *bundle) basket(token string) basketv1connect.BasketServiceClient {
	var tokens oauth2.TokenSource
	if token != "" {
		tokens = oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token})
	}
	return basketv1connect.NewBasketServiceClient(rpc.NewClient(rpc.ClientOptions{BaseURL: b.url, Tokens: tokens}))
}

// post sends a Connect JSON request and returns status, headers and body.
func (b *bundle) post(t *testing.T, procedure, body string, headers ...string) (int, http.Header, map[string]any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+procedure, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal(raw, &answer); err != nil {
		t.Fatalf("%s answered %d %q", procedure, response.StatusCode, raw)
	}
	return response.StatusCode, response.Header, answer
}

const (
	getBook   = "/bookworm.catalog.v1.CatalogService/GetBook"
	getBasket = "/bookworm.basket.v1.BasketService/GetBasket"
	setItem   = "/bookworm.basket.v1.BasketService/SetItem"
)

// reason returns the reason of a Connect JSON error.
func reason(t *testing.T, answer map[string]any) string {
	t.Helper()
	details, _ := answer["details"].([]any)
	for _, detail := range details {
		d := detail.(map[string]any)
		if d["type"] == "google.rpc.ErrorInfo" {
			info := d["debug"].(map[string]any)
			if info["domain"] != rpc.Domain {
				t.Errorf("domain %v", info["domain"])
			}
			return info["reason"].(string)
		}
	}
	return ""
}

func TestFaultsCrossTheWireWhole(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for code, want := range fault.Reasons {
		for name, client := range b.everyProtocol(t) {
			sent := fault.New(code, "message of %s", code).With("book_id", aBook).WithField("shipping_address.city", "is empty").
				WithCause(errors.New("secret cause"))
			b.service.getBook = func(context.Context, *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
				return nil, fmt.Errorf("get book: %w", sent)
			}
			_, err := client.GetBook(t.Context(), &catalogv1.GetBookRequest{Id: aBook})
			got := fault.As(err)
			if got == nil || got.Reason != code || got.Kind() != want.Kind {
				t.Errorf("%s over %s: got %v", code, name, err)
				continue
			}
			if !maps.Equal(got.Metadata, sent.Metadata) || !slices.Equal(got.Fields, sent.Fields) {
				t.Errorf("%s over %s: got %v %v", code, name, got.Metadata, got.Fields)
			}
			if strings.Contains(err.Error(), "secret cause") {
				t.Errorf("%s over %s: the cause went out: %v", code, name, err)
			}
			if want.Kind != fault.Internal && got.Message != sent.Message || want.Kind == fault.Internal && got.Message == sent.Message {
				t.Errorf("%s over %s: message %q", code, name, got.Message)
			}
		}
	}
}

// everyProtocol returns clients that decode faults as rpc.NewClient's do.
func (b *bundle) everyProtocol(t *testing.T) map[string]catalogv1connect.CatalogServiceClient {
	t.Helper()
	clients := map[string]catalogv1connect.CatalogServiceClient{"connect": b.catalog(nil)}
	for name, option := range map[string]connecthttp.Option{
		"json": connecthttp.WithProtoJSON(), "grpc": connecthttp.WithGRPC(), "grpc-web": connecthttp.WithGRPCWeb(),
	} {
		transport := connecthttp.NewTransport(&http.Client{Transport: rpc.Transport()}, b.url, option)
		clients[name] = catalogv1connect.NewCatalogServiceClient(connect.NewClient(transport, rpc.Decoding(false)))
	}
	return clients
}

func TestUnclassifiedErrorsStayInside(t *testing.T) {
	t.Parallel()
	b := setup(t)
	remote := connect.NewError(connect.CodeNotFound, "secret remote").WithRemote()
	for name, failure := range map[string]error{
		"plain": errors.New("secret row"), "remote": remote, "wrapped": fmt.Errorf("x: %w", errors.New("secret")),
		"raw internal": connect.NewError(connect.CodeInternal, "secret state"), "raw unknown": connect.NewError(connect.CodeUnknown, "secret state"),
	} {
		b.service.getBook = func(context.Context, *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
			return nil, failure
		}
		status, _, answer := b.post(t, getBook, `{"id":"`+aBook+`"}`)
		if status != http.StatusInternalServerError || reason(t, answer) != "INTERNAL" || strings.Contains(fmt.Sprint(answer), "secret") {
			t.Errorf("%s: got %d %v", name, status, answer)
		}
	}
	if !strings.Contains(b.log.String(), "secret row") || !strings.Contains(b.log.String(), `"trace_id":"`) || strings.Contains(b.log.String(), `"trace_id":""`) {
		t.Errorf("the log lacks the error or its trace: %s", b.log)
	}
}

func TestPanicsEndOneCall(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.service.getBook = func(context.Context, *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		panic("secret nil map")
	}
	status, _, answer := b.post(t, getBook, `{"id":"`+aBook+`"}`)
	if status != http.StatusInternalServerError || reason(t, answer) != "INTERNAL" || strings.Contains(fmt.Sprint(answer), "secret") {
		t.Errorf("got %d %v", status, answer)
	}
	for _, want := range []string{"secret nil map", "rpc_test.go", `"trace_id":"`} {
		if !strings.Contains(b.log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

func TestBadRequestsNameTheField(t *testing.T) {
	t.Parallel()
	b := setup(t)
	token := "Bearer " + b.provider.Token("alice", "customer")
	for name, test := range map[string]struct{ body, code, reason, field string }{
		"unknown field":   {`{"bookId":"` + aBook + `","quantity":1,"prize":1}`, "invalid_argument", "MALFORMED_REQUEST", "prize"},
		"wrong type":      {`{"bookId":"` + aBook + `","quantity":"many"}`, "invalid_argument", "MALFORMED_REQUEST", "quantity"},
		"not JSON":        {`{"bookId":`, "invalid_argument", "MALFORMED_REQUEST", ""},
		"empty":           {``, "invalid_argument", "MALFORMED_REQUEST", ""},
		"an array":        {`[]`, "invalid_argument", "MALFORMED_REQUEST", ""},
		"two values":      {`{} {}`, "invalid_argument", "MALFORMED_REQUEST", ""},
		"invalid":         {`{"bookId":"` + aBook + `","quantity":100}`, "invalid_argument", "INVALID_ARGUMENT", "quantity"},
		"two are invalid": {`{"bookId":"x"}`, "invalid_argument", "INVALID_ARGUMENT", "book_id"},
		"too large":       {`{"etag":"` + strings.Repeat("x", 1<<20) + `"}`, "resource_exhausted", "REQUEST_TOO_LARGE", ""},
		"far too large":   {`{"etag":"` + strings.Repeat("x", 3<<20) + `"}`, "resource_exhausted", "REQUEST_TOO_LARGE", ""},
	} {
		_, _, answer := b.post(t, setItem, test.body, "Authorization", token)
		if answer["code"] != test.code || reason(t, answer) != test.reason {
			t.Errorf("%s: got %v %s: %v", name, answer["code"], reason(t, answer), answer["message"])
		}
		if test.field != "" && (!strings.Contains(answer["message"].(string), test.field) || !strings.Contains(fmt.Sprint(answer["details"]), "field:"+test.field+"]")) {
			t.Errorf("%s: %s is not named: %v", name, test.field, answer)
		}
		if message := answer["message"].(string); strings.Contains(message, "proto:") || strings.Contains(message, "unmarshal") {
			t.Errorf("%s: the decoder speaks: %q", name, message)
		}
	}
}

func TestACompressedBombIsTooLarge(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var body bytes.Buffer
	w := gzip.NewWriter(&body)
	if _, err := w.Write([]byte(`{"id":"` + strings.Repeat("x", 4<<20) + `"}`)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, answer := b.post(t, getBook, body.String(), "Content-Encoding", "gzip")
	if reason(t, answer) != "REQUEST_TOO_LARGE" {
		t.Errorf("got %v", answer)
	}
}

func TestUnknownProceduresAreRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, _, answer := b.post(t, "/bookworm.catalog.v1.CatalogService/DropBooks", `{}`)
	if answer["code"] != "unimplemented" || reason(t, answer) != "NOT_FOUND" {
		t.Errorf("got %v", answer)
	}
	_, _, answer = b.post(t, "/bookworm.catalog.v1.CatalogService/ListBooks", `{}`)
	if answer["code"] != "unimplemented" || reason(t, answer) != "NOT_FOUND" {
		t.Errorf("got %v", answer)
	}
}

func TestA2_AccessByRule(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var seen identity.Caller
	b.service.getBasket = func(ctx context.Context) (*basketv1.GetBasketResponse, error) {
		seen = identity.FromContext(ctx)
		return &basketv1.GetBasketResponse{}, nil
	}
	b.service.getBook = func(ctx context.Context, _ *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		seen = identity.FromContext(ctx)
		return &catalogv1.GetBookResponse{}, nil
	}
	expired := b.provider.Claims("alice", "customer")
	expired["exp"] = time.Now().Add(-time.Minute).Unix()
	for name, test := range map[string]struct{ procedure, body, authorization, reason, subject string }{
		"customer":               {getBasket, `{}`, "Bearer " + b.provider.Token("alice", "customer"), "", "alice"},
		"lower case scheme":      {getBasket, `{}`, "bearer  " + b.provider.Token("alice", "customer"), "", "alice"},
		"nobody":                 {getBasket, `{}`, "", "TOKEN_MISSING", ""},
		"no role":                {getBasket, `{}`, "Bearer " + b.provider.Token("alice"), "ACCESS_DENIED", ""},
		"other role":             {getBasket, `{}`, "Bearer " + b.provider.Token("ops", "admin", "service"), "ACCESS_DENIED", ""},
		"expired":                {getBasket, `{}`, "Bearer " + b.provider.Sign(expired), "TOKEN_INVALID", ""},
		"basic":                  {getBasket, `{}`, "Basic YTpi", "TOKEN_INVALID", ""},
		"empty bearer":           {getBasket, `{}`, "Bearer", "TOKEN_INVALID", ""},
		"public, nobody":         {getBook, `{"id":"` + aBook + `"}`, "", "", ""},
		"public, somebody":       {getBook, `{"id":"` + aBook + `"}`, "Bearer " + b.provider.Token("bob"), "", "bob"},
		"public, with bad token": {getBook, `{"id":"` + aBook + `"}`, "Bearer x", "TOKEN_INVALID", ""},
		"access before content":  {setItem, `{"unknown":1}`, "", "TOKEN_MISSING", ""},
	} {
		seen = identity.Caller{}
		headers := []string{}
		if test.authorization != "" {
			headers = append(headers, "Authorization", test.authorization)
		}
		status, _, answer := b.post(t, test.procedure, test.body, headers...)
		if got := reason(t, answer); got != test.reason || (status == http.StatusOK) != (test.reason == "") {
			t.Errorf("%s: got %d %s %v", name, status, got, answer["message"])
		}
		if seen.Subject != test.subject {
			t.Errorf("%s: the handler saw %q", name, seen.Subject)
		}
	}
}

func TestA2_AProcedureWithoutRuleIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	verifier, err := identity.NewVerifier(t.Context(), identity.VerifierConfig{Issuer: b.provider.Issuer, Audience: identitytest.Audience})
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rpc.ServerOptions{Verifier: verifier})
	if err != nil {
		t.Fatal(err)
	}
	const procedure = "/bookworm.test.v1.TestService/NoRule"
	called := false
	server.Register(connect.Method{
		Spec:    connect.Spec{Procedure: procedure, Schema: methodWithoutRule(t)},
		Handler: func(context.Context, connect.Spec, connect.ServerStream) error { called = true; return nil },
	})
	b.url = serve(t, rpc.Handler(server))
	_, _, answer := b.post(t, procedure, `{}`, "Authorization", "Bearer "+b.provider.Token("root", "customer", "admin", "service"))
	if reason(t, answer) != "ACCESS_DENIED" || called {
		t.Errorf("got %v", answer)
	}
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *rpc.ServerOptions) { o.Timeout = 50 * time.Millisecond })
	var left time.Duration
	b.service.getBook = func(ctx context.Context, _ *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		end, _ := ctx.Deadline()
		left = time.Until(end)
		if left < time.Minute {
			<-ctx.Done()
			return nil, errors.New("conn closed") // as stores say
		}
		return &catalogv1.GetBookResponse{}, nil
	}
	_, err := b.catalog(nil).GetBook(t.Context(), &catalogv1.GetBookRequest{Id: aBook})
	if !errors.Is(err, context.DeadlineExceeded) || left > 50*time.Millisecond {
		t.Errorf("the server's own deadline: %v, %v left", err, left)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	if _, err := b.catalog(nil).GetBook(ctx, &catalogv1.GetBookRequest{Id: aBook}); err != nil || left < 9*time.Minute {
		t.Errorf("the caller's deadline: %v, %v left", err, left)
	}
	short, cancelShort := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancelShort()
	if _, err := b.catalog(nil).GetBook(short, &catalogv1.GetBookRequest{Id: aBook}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestCancellationReachesTheHandler(t *testing.T) {
	t.Parallel()
	b := setup(t)
	entered, left := make(chan struct{}), make(chan error, 1)
	b.service.getBook = func(ctx context.Context, _ *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		close(entered)
		<-ctx.Done()
		left <- ctx.Err()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	if _, err := b.catalog(nil).GetBook(ctx, &catalogv1.GetBookRequest{Id: aBook}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	select {
	case err := <-left:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the handler saw %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the handler was left running")
	}
}

func TestClientCredentials(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var seen identity.Caller
	b.service.getBasket = func(ctx context.Context) (*basketv1.GetBasketResponse, error) {
		seen = identity.FromContext(ctx)
		return &basketv1.GetBasketResponse{}, nil
	}
	// The person being served goes along, and who calls for them.
	exchanger := identity.NewExchanger(identity.ServiceConfig{TokenURL: b.provider.Issuer + "/token", ClientID: "bookworm-catalog", ClientSecret: identitytest.Secret})
	behalf := basketv1connect.NewBasketServiceClient(rpc.NewClient(rpc.ClientOptions{BaseURL: b.url, OnBehalf: exchanger.Exchange}))
	b.service.getBook = func(ctx context.Context, _ *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		_, err := behalf.GetBasket(ctx, &basketv1.GetBasketRequest{})
		return &catalogv1.GetBookResponse{}, err
	}
	alice := "Bearer " + b.provider.Token("alice", "customer")
	if status, _, answer := b.post(t, getBook, `{"id":"`+aBook+`"}`, "Authorization", alice); status != http.StatusOK || seen.Subject != "alice" || seen.Client != "bookworm-catalog" {
		t.Errorf("got %d %v, seen %v", status, answer, seen)
	}
	if _, _, answer := b.post(t, getBook, `{"id":"`+aBook+`"}`); reason(t, answer) != "TOKEN_MISSING" {
		t.Errorf("got %v", answer)
	}
	// While the provider is away only who is known is served.
	b.provider.SetDown(true)
	if status, _, answer := b.post(t, getBook, `{"id":"`+aBook+`"}`, "Authorization", alice); status != http.StatusOK {
		t.Errorf("while the provider is away: got %d %v", status, answer)
	}
	if _, _, answer := b.post(t, getBook, `{"id":"`+aBook+`"}`, "Authorization", "Bearer "+b.provider.Token("bob", "customer")); reason(t, answer) != "UNAVAILABLE" {
		t.Errorf("while the provider is away: got %v", answer)
	}
	b.provider.SetDown(false)
	// Without a credential nobody goes along, whoever is served.
	b.service.getBook = func(ctx context.Context, _ *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		_, err := b.basket("").GetBasket(ctx, &basketv1.GetBasketRequest{})
		return &catalogv1.GetBookResponse{}, err
	}
	if _, _, answer := b.post(t, getBook, `{"id":"`+aBook+`"}`, "Authorization", alice); reason(t, answer) != "TOKEN_MISSING" {
		t.Errorf("got %v", answer)
	}
	ctx, call := connect.NewClientContext(t.Context())
	call.RequestHeader().Set("Authorization", alice)
	if _, err := b.basket("").GetBasket(ctx, &basketv1.GetBasketRequest{}); !fault.Is(err, fault.ReasonTokenMissing) {
		t.Errorf("a header of its own went along: %v", err)
	}
	// A service's own credential that is refused is not the shopper's fault.
	b.service.getBook = func(ctx context.Context, _ *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		_, err := b.basket("forged").GetBasket(ctx, &basketv1.GetBasketRequest{})
		return &catalogv1.GetBookResponse{}, err
	}
	if _, _, answer := b.post(t, getBook, `{"id":"`+aBook+`"}`); reason(t, answer) != "INTERNAL" {
		t.Errorf("got %v", answer)
	}
}

func TestAnUnreachableServiceIsUnavailable(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	failing := failingTokens{}
	for name, options := range map[string]rpc.ClientOptions{
		"nobody listens": {BaseURL: address}, "no address": {BaseURL: "::"}, "no token": {BaseURL: address, Tokens: failing},
	} {
		client := catalogv1connect.NewCatalogServiceClient(rpc.NewClient(options))
		if _, err := client.GetBook(t.Context(), &catalogv1.GetBookRequest{Id: aBook}); !fault.Is(err, fault.ReasonUnavailable) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

type failingTokens struct{}

func (failingTokens) Token() (*oauth2.Token, error) { return nil, errors.New("provider down") }

func TestOneTraceAcrossServices(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.service.getBook = func(context.Context, *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		return &catalogv1.GetBookResponse{}, nil
	}
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	b.post(t, getBook, `{"id":"`+aBook+`"}`, "traceparent", parent)
	for _, span := range b.spans.Ended() {
		if span.SpanContext().TraceID().String() == "0af7651916cd43dd8448eb211c80319c" && span.Parent().SpanID().String() == "b7ad6b7169203331" {
			return
		}
	}
	t.Error("the call is not part of the caller's trace")
}

func TestHeadersInAndOut(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.service.getBook = func(ctx context.Context, _ *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		rpc.SetHeader(ctx, "ETag", `"`+rpc.Header(ctx, "if-match")+`"`)
		return &catalogv1.GetBookResponse{}, nil
	}
	_, header, _ := b.post(t, getBook, `{"id":"`+aBook+`"}`, "If-Match", "v7")
	if header.Get("ETag") != `"v7"` {
		t.Errorf("got %v", header)
	}
	if rpc.Header(t.Context(), "If-Match") != "" {
		t.Error("a header outside a call")
	}
	rpc.SetHeader(t.Context(), "ETag", "x") // has no effect
}

func TestReflectionListsTheServices(t *testing.T) {
	t.Parallel()
	b := setup(t)
	transport := connecthttp.NewTransport(&http.Client{Transport: rpc.Transport()}, b.url, connecthttp.WithGRPC())
	stream := grpcreflect.NewClient(connect.NewClient(transport)).NewStream(t.Context())
	defer stream.Close()
	names, err := stream.ListServices()
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(names); got != "[bookworm.basket.v1.BasketService bookworm.catalog.v1.CatalogAdminService bookworm.catalog.v1.CatalogService bookworm.ordering.v1.OrderService]" {
		t.Errorf("got %s", got)
	}
}

func TestServeDrains(t *testing.T) {
	t.Parallel()
	for name, client := range map[string]*http.Client{"HTTP/1.1": {Transport: &http.Transport{}}, "HTTP/2": {Transport: rpc.Transport()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			entered, release := make(chan string, 1), make(chan struct{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			drained := make(chan struct{})
			done := make(chan error, 1)
			go func() {
				done <- rpc.Serve(ctx, listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					entered <- r.Proto
					<-release
					if err := r.Context().Err(); err != nil {
						t.Errorf("the request ended with the process: %v", err)
					}
					if _, err := io.WriteString(w, "whole"); err != nil {
						t.Error(err)
					}
				}), func() { close(drained) })
			}()
			answer := make(chan string, 1)
			go func() {
				request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listener.Addr().String(), nil)
				if err != nil {
					answer <- err.Error()
					return
				}
				response, err := client.Do(request)
				if err != nil {
					answer <- err.Error()
					return
				}
				defer response.Body.Close()
				body, err := io.ReadAll(response.Body)
				answer <- fmt.Sprint(string(body), err)
			}()
			if proto := <-entered; !strings.HasPrefix(proto, name) {
				t.Errorf("spoke %s", proto)
			}
			cancel()
			<-drained
			select {
			case err := <-done:
				t.Fatalf("ended under a running request: %v", err)
			default:
			}
			close(release)
			if got := <-answer; got != "whole<nil>" {
				t.Errorf("got %q", got)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestA1_StaffReachesWhatTheRuleSays(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const owner, getOrder = aBook, "/bookworm.ordering.v1.OrderService/GetOrder"
	b.service.getBasket = func(ctx context.Context) (*basketv1.GetBasketResponse, error) {
		if rpc.Reaches(ctx, owner) {
			return nil, fault.New(fault.ReasonBasketEmpty, "reached")
		}
		return &basketv1.GetBasketResponse{}, nil
	}
	for name, test := range map[string]struct {
		token          string
		orders, basket bool // reached
	}{
		"owner":              {b.provider.Token(owner, "customer"), true, true},
		"another customer":   {b.provider.Token("bob", "customer"), false, false},
		"support":            {b.provider.Token("sam", "support"), true, false},
		"admin":              {b.provider.Token("ops", "admin"), true, false},
		"admin and customer": {b.provider.Token("ops", "admin", "customer"), true, false}, // a basket is nobody's business
		"reporter":           {b.provider.Token("rita", "reporter", "customer"), false, false},
		"service":            {b.provider.Token("checkout", "service", "customer"), false, false},
	} {
		_, _, answer := b.post(t, getOrder, `{"id":"`+owner+`"}`, "Authorization", "Bearer "+test.token)
		if got := reason(t, answer); (got == "") != test.orders || got != "" && got != "ORDER_NOT_FOUND" {
			t.Errorf("%s asking for the order: %v", name, answer)
		}
		_, _, answer = b.post(t, getBasket, `{}`, "Authorization", "Bearer "+test.token)
		if got := reason(t, answer); (got == "BASKET_EMPTY") != test.basket {
			t.Errorf("%s asking for the basket: %v", name, answer)
		}
	}
	_, _, answer := b.post(t, "/bookworm.catalog.v1.CatalogAdminService/GetSearchIndex", `{}`, "Authorization", "Bearer "+b.provider.Token("ops", "admin"))
	if got := reason(t, answer); got != "" {
		t.Errorf("an administrator reaches what is alice's by a rule without ownership: %v", answer)
	}
	if rpc.Reaches(t.Context(), "") || rpc.Reaches(identity.WithCaller(t.Context(), identity.Caller{}), "") {
		t.Error("nobody reaches what is nobody's")
	}
}

// TestACrowdedListIsRefusedAtOnce sends more ids than may be asked for. The validator
// would look at each of them for some 20 seconds.
func TestACrowdedListIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	began := time.Now()
	status, _, answer := b.post(t, "/bookworm.catalog.v1.CatalogService/BatchGetBooks", `{"ids":["`+strings.Repeat(`","`, 100_000)+`"]}`)
	if status != http.StatusBadRequest || reason(t, answer) != "INVALID_ARGUMENT" || !strings.Contains(fmt.Sprint(answer), "ids must have at most") {
		t.Errorf("got %d %v", status, answer)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}

// TestWhatCannotBeReadIsTheCallersFault: INTERNAL is for the shop's own.
func TestWhatCannotBeReadIsTheCallersFault(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const book = "/bookworm.catalog.v1.CatalogService/GetBook"
	for name, request := range map[string]struct{ method, query, kind, body string }{
		"base64 that is none":        {http.MethodGet, "?connect=v1&encoding=proto&base64=1&message=!!!", "", ""},
		"an unfinished frame":        {http.MethodPost, "", "application/grpc-web", "\x00\x00"},
		"a frame that is compressed": {http.MethodPost, "", "application/grpc-web", "\x01\x00\x00\x00\x01a"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), request.method, b.url+book+request.query, strings.NewReader(request.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", request.kind)
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err := response.Body.Close(); err != nil {
			t.Fatal(err)
		}
		code := response.Header.Get("Grpc-Status") + string(body)
		if response.StatusCode >= 500 || !strings.Contains(code, "invalid_argument") && !strings.HasPrefix(code, "3") && !strings.Contains(code, "grpc-status: 3") {
			t.Errorf("%s: %d %q", name, response.StatusCode, code)
		}
	}
}

func TestMalformedTellsNoFunctionOfGo(t *testing.T) {
	t.Parallel()
	f := rpc.Malformed(`parsing field "after_sequence": strconv.ParseInt: parsing "x": invalid syntax`)
	if strings.Contains(f.Message, "strconv") || len(f.Fields) != 1 || f.Fields[0].Name != "after_sequence" {
		t.Errorf("got %q %v", f.Message, f.Fields)
	}
}
