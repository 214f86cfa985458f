package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/go-jose/go-jose/v4"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"bookworm/api/gateway"
	"bookworm/internal/fault"
	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	"bookworm/internal/gen/bookworm/basket/v1/basketv1connect"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
	"bookworm/internal/gen/bookworm/chat/v1/chatv1connect"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
	"bookworm/internal/gen/bookworm/finance/v1/financev1connect"
	notificationv1 "bookworm/internal/gen/bookworm/notification/v1"
	"bookworm/internal/gen/bookworm/notification/v1/notificationv1connect"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/gen/bookworm/ordering/v1/orderingv1connect"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/gen/bookworm/rating/v1/ratingv1connect"
	typev1 "bookworm/internal/gen/bookworm/type/v1"
	"bookworm/internal/identity"
	"bookworm/internal/identity/identitytest"
	"bookworm/internal/rpc"
	"bookworm/internal/rpc/rpctest"
	"bookworm/internal/telemetry"
)

const aBook = "01890a5d-ac96-774b-bcce-b302099a8057"

// shop is every context of the shop, with answers that a test can change.
type shop struct {
	catalogv1connect.UnimplementedCatalogServiceHandler
	catalogv1connect.UnimplementedCatalogAdminServiceHandler
	catalogv1connect.UnimplementedBookRatingServiceHandler
	catalogv1connect.UnimplementedStockServiceHandler
	basketv1connect.UnimplementedBasketServiceHandler
	basketv1connect.UnimplementedBasketCheckoutServiceHandler
	orderingv1connect.UnimplementedOrderServiceHandler
	orderingv1connect.UnimplementedPurchaseServiceHandler
	financev1connect.UnimplementedPaymentServiceHandler
	notificationv1connect.UnimplementedPreferenceServiceHandler
	ratingv1connect.UnimplementedRatingServiceHandler
	ratingv1connect.UnimplementedModerationServiceHandler
	ratingv1connect.UnimplementedReviewerServiceHandler
	chatv1connect.UnimplementedChatServiceHandler
	compliancev1connect.UnimplementedPrivacyServiceHandler
	compliancev1connect.UnimplementedAuditServiceHandler
	compliancev1connect.UnimplementedAuditLogServiceHandler
	compliancev1connect.UnimplementedShopperKeyServiceHandler
	compliancev1connect.UnimplementedPersonalDataServiceHandler

	mu      sync.Mutex
	getBook func(context.Context, *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error)

	turn    turn // nil: one delta
	webhook http.HandlerFunc
	agent   http.HandlerFunc // of MCP and A2A
}

// turn answers a message of the chat, or the rest of a turn.
type turn func(ctx context.Context, request proto.Message, send func(*chatv1.TurnEvent) error) error

func (s *shop) answerBook(answer func(context.Context, *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.getBook = answer
}

func (s *shop) GetBook(ctx context.Context, request *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
	s.mu.Lock()
	answer := s.getBook
	s.mu.Unlock()
	if answer != nil {
		return answer(ctx, request)
	}
	return &catalogv1.GetBookResponse{Book: &catalogv1.Book{
		Id: request.GetId(), Title: "Moby-Dick", Price: &typev1.Money{CurrencyCode: "USD", AmountMinor: 1299}, Etag: "v7",
	}}, nil
}

func (s *shop) ExportAuditLog(
	_ context.Context, request *compliancev1.ExportAuditLogRequest, stream compliancev1connect.AuditServiceExportAuditLogServerStream,
) error {
	for sequence := request.GetAfterSequence() + 1; sequence <= 3; sequence++ {
		err := stream.Send(&compliancev1.ExportAuditLogResponse{Entry: &compliancev1.AuditEntry{Sequence: sequence, Actor: "ops"}})
		if err != nil {
			return err
		}
	}
	if request.GetAfterSequence() == 1 {
		return fault.New(fault.ReasonUnavailable, "Wait.")
	}
	return nil
}

func (s *shop) ListBooks(_ context.Context, request *catalogv1.ListBooksRequest) (*catalogv1.ListBooksResponse, error) {
	return &catalogv1.ListBooksResponse{NextPageToken: fmt.Sprint(request.GetPageSize(), request.GetQuery(), request.GetSort())}, nil
}

func (s *shop) GetBasket(ctx context.Context, _ *basketv1.GetBasketRequest) (*basketv1.GetBasketResponse, error) {
	return &basketv1.GetBasketResponse{Basket: &basketv1.Basket{Version: 3, Etag: identity.FromContext(ctx).Subject}}, nil
}

func (s *shop) SetItem(ctx context.Context, request *basketv1.SetItemRequest) (*basketv1.SetItemResponse, error) {
	return &basketv1.SetItemResponse{Basket: &basketv1.Basket{
		Items: []*basketv1.BasketItem{{BookId: request.GetBookId(), Quantity: request.GetQuantity(), Title: rpc.Header(ctx, "If-Match")}}, Etag: "v4",
	}}, nil
}

func (s *shop) PlaceOrder(ctx context.Context, _ *orderingv1.PlaceOrderRequest) (*orderingv1.PlaceOrderResponse, error) {
	key, err := rpc.IdempotencyKey(ctx)
	if err != nil {
		return nil, err
	}
	rpc.SetHeader(ctx, "Idempotent-Replayed", "true")
	rpc.SetHeader(ctx, "X-Internal", "secret")
	return &orderingv1.PlaceOrderResponse{Order: &orderingv1.Order{Id: key, Etag: "o1"}}, nil
}

func (s *shop) UpdatePreferences(_ context.Context, request *notificationv1.UpdatePreferencesRequest) (*notificationv1.UpdatePreferencesResponse, error) {
	request.GetPreferences().Etag = strings.Join(request.GetUpdateMask().GetPaths(), "+")
	return &notificationv1.UpdatePreferencesResponse{Preferences: request.GetPreferences()}, nil
}

func (s *shop) answerTurn(answer turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn = answer
}

const (
	aConversation = "01890a5d-ac96-774b-bcce-b302099a8001"
	aTurn         = "01890a5d-ac96-774b-bcce-b302099a8002"
)

func delta(sequence int64, text string) *chatv1.TurnEvent {
	return &chatv1.TurnEvent{TurnId: aTurn, Sequence: sequence, Event: &chatv1.TurnEvent_Delta{Delta: text}}
}

func (s *shop) talk(ctx context.Context, request proto.Message, send func(*chatv1.TurnEvent) error) error {
	s.mu.Lock()
	answer := s.turn
	s.mu.Unlock()
	if answer != nil {
		return answer(ctx, request, send)
	}
	return send(delta(1, "first"))
}

func (s *shop) SendMessage(ctx context.Context, request *chatv1.SendMessageRequest, stream chatv1connect.ChatServiceSendMessageServerStream) error {
	return s.talk(ctx, request, func(event *chatv1.TurnEvent) error {
		return stream.Send(&chatv1.SendMessageResponse{ConversationId: aConversation, Delta: event.GetDelta(), Event: event})
	})
}

func (s *shop) ResumeTurn(ctx context.Context, request *chatv1.ResumeTurnRequest, stream chatv1connect.ChatServiceResumeTurnServerStream) error {
	return s.talk(ctx, request, func(event *chatv1.TurnEvent) error {
		return stream.Send(&chatv1.ResumeTurnResponse{ConversationId: aConversation, Event: event})
	})
}

func (s *shop) UpdateBook(ctx context.Context, request *catalogv1.UpdateBookRequest) (*catalogv1.UpdateBookResponse, error) {
	return &catalogv1.UpdateBookResponse{Book: &catalogv1.Book{
		Id: request.GetId(), Title: request.GetBook().GetTitle(), PageCount: request.GetBook().GetPageCount(),
		Subtitle: strings.Join(request.GetUpdateMask().GetPaths(), "+"), Publisher: rpc.Header(ctx, "If-Match"), Etag: "v8",
	}}, nil
}

func (s *shop) CreateBook(ctx context.Context, request *catalogv1.CreateBookRequest) (*catalogv1.CreateBookResponse, error) {
	key, err := rpc.IdempotencyKey(ctx)
	if err != nil {
		return nil, err
	}
	return &catalogv1.CreateBookResponse{Book: &catalogv1.Book{Id: key, Title: request.GetTitle(), Etag: "v1"}}, nil
}

func (s *shop) ArchiveBook(_ context.Context, request *catalogv1.ArchiveBookRequest) (*catalogv1.ArchiveBookResponse, error) {
	return &catalogv1.ArchiveBookResponse{Book: &catalogv1.Book{Id: request.GetId(), Archived: true, Etag: "v9"}}, nil
}

func (s *shop) SearchBooks(_ context.Context, request *catalogv1.SearchBooksRequest) (*catalogv1.SearchBooksResponse, error) {
	return &catalogv1.SearchBooksResponse{Hits: []*catalogv1.SearchHit{{Book: &catalogv1.Book{Title: request.GetQuery()}}}, Mode: catalogv1.SearchMode_SEARCH_MODE_LEXICAL}, nil
}

func (s *shop) ListReviews(_ context.Context, request *ratingv1.ListReviewsRequest) (*ratingv1.ListReviewsResponse, error) {
	return &ratingv1.ListReviewsResponse{NextPageToken: fmt.Sprint(request.GetBookId(), request.GetSort(), request.GetStars())}, nil
}

func (s *shop) GetRatingSummary(context.Context, *ratingv1.GetRatingSummaryRequest) (*ratingv1.GetRatingSummaryResponse, error) {
	return &ratingv1.GetRatingSummaryResponse{ReviewCount: 3, AverageStars: 4.5, Histogram: []int32{0, 0, 0, 1, 2}}, nil
}

func (s *shop) GetMyReview(ctx context.Context, request *ratingv1.GetMyReviewRequest) (*ratingv1.GetMyReviewResponse, error) {
	return &ratingv1.GetMyReviewResponse{Review: &ratingv1.Review{BookId: request.GetBookId(), Title: identity.FromContext(ctx).Subject, Etag: "r1"}}, nil
}

func (s *shop) SubmitReview(ctx context.Context, request *ratingv1.SubmitReviewRequest) (*ratingv1.SubmitReviewResponse, error) {
	return &ratingv1.SubmitReviewResponse{Review: &ratingv1.Review{
		BookId: request.GetBookId(), Stars: request.GetStars(), Title: request.GetTitle(), Text: rpc.Header(ctx, "If-Match"), Etag: "r2",
	}}, nil
}

func (s *shop) DecideReview(_ context.Context, request *ratingv1.DecideReviewRequest) (*ratingv1.DecideReviewResponse, error) {
	return &ratingv1.DecideReviewResponse{Review: &ratingv1.Review{Id: request.GetReviewId(), Title: request.GetDecision().String(), Etag: "r3"}}, nil
}

func (s *shop) ExportConversation(_ context.Context, request *chatv1.ExportConversationRequest) (*chatv1.ExportConversationResponse, error) {
	return &chatv1.ExportConversationResponse{FileName: request.GetConversationId()}, nil
}

// bundle is a gateway before the whole shop, over real HTTP.
type bundle struct {
	provider *identitytest.Provider
	shop     *shop
	url      string // of the gateway
	backend  string
	behind   atomic.Int64 // requests that reached the backend
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

func setup(t testing.TB, change ...func(*gateway.Options)) *bundle {
	t.Helper()
	return setupWith(t, gateway.New, change...)
}

func setupWith(t testing.TB, open func(context.Context, gateway.Options) (http.Handler, error), change ...func(*gateway.Options)) *bundle {
	t.Helper()
	b := &bundle{
		provider: identitytest.New(t), shop: &shop{}, log: &buffer{}, spans: tracetest.NewSpanRecorder(),
	}
	verifier, err := identity.NewVerifier(t.Context(), identity.VerifierConfig{Issuer: b.provider.Issuer, Audience: identitytest.Audience})
	if err != nil {
		t.Fatal(err)
	}
	traces := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(b.spans))
	server, err := rpc.NewServer(rpc.ServerOptions{Audit: rpctest.Audit(), Verifier: verifier, Logger: slog.New(slog.DiscardHandler), TracerProvider: traces})
	if err != nil {
		t.Fatal(err)
	}
	catalogv1connect.RegisterCatalogServiceHandler(server, b.shop)
	catalogv1connect.RegisterCatalogAdminServiceHandler(server, b.shop)
	catalogv1connect.RegisterBookRatingServiceHandler(server, b.shop)
	catalogv1connect.RegisterStockServiceHandler(server, b.shop)
	basketv1connect.RegisterBasketServiceHandler(server, b.shop)
	basketv1connect.RegisterBasketCheckoutServiceHandler(server, b.shop)
	orderingv1connect.RegisterOrderServiceHandler(server, b.shop)
	orderingv1connect.RegisterPurchaseServiceHandler(server, b.shop)
	financev1connect.RegisterPaymentServiceHandler(server, b.shop)
	notificationv1connect.RegisterPreferenceServiceHandler(server, b.shop)
	ratingv1connect.RegisterRatingServiceHandler(server, b.shop)
	ratingv1connect.RegisterModerationServiceHandler(server, b.shop)
	ratingv1connect.RegisterReviewerServiceHandler(server, b.shop)
	chatv1connect.RegisterChatServiceHandler(server, b.shop)
	compliancev1connect.RegisterPrivacyServiceHandler(server, b.shop)
	compliancev1connect.RegisterAuditServiceHandler(server, b.shop)
	compliancev1connect.RegisterAuditLogServiceHandler(server, b.shop)
	compliancev1connect.RegisterShopperKeyServiceHandler(server, b.shop)
	compliancev1connect.RegisterPersonalDataServiceHandler(server, b.shop)
	mux := http.NewServeMux()
	mux.Handle("/", rpc.Handler(server))
	mux.HandleFunc("POST /webhooks/stripe", func(w http.ResponseWriter, r *http.Request) { b.shop.webhook(w, r) })
	for _, path := range []string{"/mcp", "/a2a", "/.well-known/agent-card.json"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { b.shop.agent(w, r) })
	}
	b.backend = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.behind.Add(1)
		mux.ServeHTTP(w, r)
	}))

	options := gateway.Options{
		Backends: map[string]string{}, Verifier: verifier, Logger: slog.New(traced{slog.NewJSONHandler(b.log, nil)}), TracerProvider: traces,
	}
	for _, name := range []string{"catalog", "basket", "ordering", "finance", "notification", "rating", "chat", "compliance"} {
		options.Backends[name] = b.backend
	}
	for _, c := range change {
		c(&options)
	}
	door, err := open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	b.url = serve(t, door)
	return b
}

func serve(t testing.TB, handler http.Handler) string {
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

// answer is what came back over HTTP.
type answer struct {
	status int
	header http.Header
	body   string
}

// json returns the body's JSON.
func (a answer) json(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("answered %d %q: %v", a.status, a.body, err)
	}
	return v
}

// send sends a request to the gateway; headers come in pairs.
func (b *bundle) send(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	return send(t, b.url, method, path, body, headers...)
}

func send(t *testing.T, base, method, path, body string, headers ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
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
	return answer{response.StatusCode, response.Header, string(raw)}
}

func (b *bundle) as(subject string, roles ...string) []string {
	return []string{"Authorization", "Bearer " + b.provider.Token(subject, roles...)}
}

// callers returns GetBook over every protocol through the gateway; errors come
// back as faults where the protocol's client of the shop decodes them.
func (b *bundle) callers(t *testing.T) map[string]func(context.Context, string) (*catalogv1.GetBookResponse, error) {
	t.Helper()
	callers := make(map[string]func(context.Context, string) (*catalogv1.GetBookResponse, error))
	h2 := &http.Client{Transport: rpc.Transport()}
	for name, transport := range map[string]connect.Transport{
		"connect proto":     connecthttp.NewTransport(http.DefaultClient, b.url),
		"connect JSON":      connecthttp.NewTransport(http.DefaultClient, b.url, connecthttp.WithProtoJSON()),
		"connect GET":       connecthttp.NewTransport(http.DefaultClient, b.url, connecthttp.WithHTTPGet()),
		"connect over h2":   connecthttp.NewTransport(h2, b.url, connecthttp.WithSendGzip()),
		"gRPC by connect":   connecthttp.NewTransport(h2, b.url, connecthttp.WithGRPC()),
		"gRPC-Web":          connecthttp.NewTransport(http.DefaultClient, b.url, connecthttp.WithGRPCWeb()),
		"gRPC-Web JSON, h2": connecthttp.NewTransport(h2, b.url, connecthttp.WithGRPCWeb(), connecthttp.WithProtoJSON()),
	} {
		client := catalogv1connect.NewCatalogServiceClient(connect.NewClient(transport))
		callers[name] = func(ctx context.Context, token string) (*catalogv1.GetBookResponse, error) {
			ctx, info := connect.NewClientContext(ctx)
			if token != "" {
				info.RequestHeader().Set("Authorization", "Bearer "+token)
			}
			return client.GetBook(ctx, &catalogv1.GetBookRequest{Id: aBook})
		}
	}
	connection, err := grpc.NewClient(strings.TrimPrefix(b.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	callers["gRPC by grpc-go"] = func(ctx context.Context, token string) (*catalogv1.GetBookResponse, error) {
		if token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
		}
		return catalogv1.NewCatalogServiceClient(connection).GetBook(ctx, &catalogv1.GetBookRequest{Id: aBook})
	}
	return callers
}

func TestOneCallOverEveryProtocol(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, call := range b.callers(t) {
		got, err := call(t.Context(), b.provider.Token("alice", "customer"))
		if err != nil || got.GetBook().GetTitle() != "Moby-Dick" || got.GetBook().GetPrice().GetAmountMinor() != 1299 {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	got := b.send(t, http.MethodGet, "/api/v1/books/"+aBook, "")
	book := got.json(t)
	if got.status != http.StatusOK || book["title"] != "Moby-Dick" || book["price"].(map[string]any)["amount_minor"] != "1299" {
		t.Errorf("REST: got %d %s", got.status, got.body)
	}
	if _, there := book["page_count"]; !there {
		t.Error("REST: a zero value is left out")
	}
}

// problemOf checks the form that every problem has and returns it.
func problemOf(t *testing.T, a answer) map[string]any {
	t.Helper()
	p := a.json(t)
	if a.header.Get("Content-Type") != "application/problem+json" || p["status"] != float64(a.status) {
		t.Errorf("not a problem: %d %s %s", a.status, a.header.Get("Content-Type"), a.body)
	}
	reason, _ := p["reason"].(string)
	if p["type"] != "https://bookworm.example/problems/"+strings.ReplaceAll(strings.ToLower(reason), "_", "-") || p["title"] != fault.Reasons[fault.Reason(reason)].Title {
		t.Errorf("type %v, title %v for %s", p["type"], p["title"], reason)
	}
	if p["trace_id"] == "" || p["trace_id"] != a.header.Get("X-Request-Id") {
		t.Errorf("trace_id %v, header %q", p["trace_id"], a.header.Get("X-Request-Id"))
	}
	if a.header.Get("Cache-Control") != "private, no-store" {
		t.Errorf("a problem may be cached: %q", a.header.Get("Cache-Control"))
	}
	return p
}

func TestEveryFaultOverEveryProtocol(t *testing.T) {
	t.Parallel()
	b := setup(t)
	status := map[fault.Kind]int{
		fault.Internal: 500, fault.Invalid: 400, fault.Unauthenticated: 401, fault.Denied: 403, fault.NotFound: 404, fault.Stale: 412,
		fault.Conflict: 422, fault.Precondition: 409, fault.TooLarge: 413, fault.Unavailable: 503,
		fault.Limited: 429,
	}
	callers := b.callers(t)
	for reason, entry := range fault.Reasons {
		b.shop.answerBook(func(context.Context, *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
			return nil, fault.New(reason, "said of %s", reason).With("book_id", aBook).WithField("a.b", "is wrong").WithCause(errors.New("secret"))
		})
		for name, call := range callers {
			_, err := call(t.Context(), "")
			if got := reasonOf(err); got != string(reason) {
				t.Errorf("%s over %s: got %q, %v", reason, name, got, err)
			}
		}
		got := b.send(t, http.MethodGet, "/api/v1/books/"+aBook, "")
		p := problemOf(t, got)
		details, _ := p["metadata"].(map[string]any)
		if got.status != status[entry.Kind] || p["reason"] != string(reason) || (details["book_id"] == aBook) != (entry.Kind != fault.Internal) {
			t.Errorf("%s over REST: got %d %s", reason, got.status, got.body)
		}
		if entry.Kind != fault.Internal && (p["detail"] != "said of "+string(reason) || fmt.Sprint(p["errors"]) != "[map[field:a.b message:is wrong]]") {
			t.Errorf("%s over REST: got %s", reason, got.body)
		}
		if strings.Contains(got.body, "secret") || entry.Kind == fault.Internal && strings.Contains(got.body, "said of") {
			t.Errorf("%s over REST tells too much: %s", reason, got.body)
		}
		if (got.header.Get("WWW-Authenticate") == "Bearer") != (got.status == 401) || (got.header.Get("Retry-After") == "1") != (got.status == 503 || got.status == 429) {
			t.Errorf("%s over REST: headers %v", reason, got.header)
		}
	}
	b.shop.answerBook(func(context.Context, *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		return nil, fault.New("A_REASON_OF_LATER", "new").WithCause(errors.New("secret"))
	})
	if got := b.send(t, http.MethodGet, "/api/v1/books/"+aBook, ""); got.status != 500 || strings.Contains(got.body, "secret") {
		t.Errorf("an unknown reason: %d %s", got.status, got.body)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	b := setup(t)
	spoiled := func(key string, value any) string {
		claims := b.provider.Claims("alice", "customer")
		claims[key] = value
		return b.provider.Sign(claims)
	}
	public, err := json.Marshal(jose.JSONWebKey{Key: b.provider.PublicKey()})
	if err != nil {
		t.Fatal(err)
	}
	good := b.provider.Token("alice", "customer")
	parts := strings.Split(good, ".")
	claims := b.provider.Claims("alice", "customer")
	for name, token := range map[string]string{
		"expired":        spoiled("exp", time.Now().Add(-time.Minute).Unix()),
		"other audience": spoiled("aud", "account"),
		"other issuer":   spoiled("iss", "https://evil.example"),
		"none":           "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + parts[1] + ".",
		"HS256":          identitytest.SignWith(t, jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: public, KeyID: "first"}}, claims),
		"unknown key":    identitytest.SignWith(t, jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: identitytest.NewKey(t, jose.RS256), KeyID: "x"}}, claims),
		"garbage":        "garbage",
	} {
		for path, got := range map[string]answer{
			"REST":         b.send(t, http.MethodGet, "/api/v1/basket", "", "Authorization", "Bearer "+token),
			"REST, public": b.send(t, http.MethodGet, "/api/v1/books/"+aBook, "", "Authorization", "Bearer "+token),
			"REST, bad":    b.send(t, http.MethodPut, "/api/v1/basket/items/x", "{", "Authorization", "Bearer "+token),
			"Connect":      b.send(t, http.MethodPost, basketv1connect.BasketServiceGetBasketProcedure, "{}", "Authorization", "Bearer "+token),
		} {
			if got.status != http.StatusUnauthorized || !strings.Contains(got.body, "TOKEN_INVALID") {
				t.Errorf("%s by %s: got %d %s", name, path, got.status, got.body)
			}
			if got.header.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%s by %s: no WWW-Authenticate", name, path)
			}
		}
		for protocol, call := range b.callers(t) {
			if _, err := call(t.Context(), token); reasonOf(err) != "TOKEN_INVALID" {
				t.Errorf("%s by %s: got %v", name, protocol, err)
			}
		}
	}
	if behind := b.behind.Load(); behind != 0 {
		t.Errorf("%d calls with a forged token went through the door", behind)
	}
	if got := send(t, b.backend, http.MethodPost, basketv1connect.BasketServiceGetBasketProcedure, "{}", "Authorization", "Bearer garbage"); !strings.Contains(got.body, "TOKEN_INVALID") {
		t.Errorf("the service trusts the door: %d %s", got.status, got.body)
	}
	if got := b.send(t, http.MethodGet, "/api/v1/basket", "", "Authorization", "Bearer "+good); got.status != 200 || got.json(t)["etag"] != "alice" {
		t.Errorf("a good token: got %d %s", got.status, got.body)
	}
	if got := b.send(t, http.MethodGet, "/api/v1/basket", ""); got.status != 401 || problemOf(t, got)["reason"] != "TOKEN_MISSING" {
		t.Errorf("no token: got %d %s", got.status, got.body)
	}
}

func TestBadInputOverREST(t *testing.T) {
	t.Parallel()
	b := setup(t)
	alice := b.as("alice", "customer")
	item := "/api/v1/basket/items/" + aBook
	for name, test := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		reason, field      string
	}{
		"unknown field":        {"PUT", item, `{"quantity":1,"prize":2}`, nil, 400, "MALFORMED_REQUEST", "prize"},
		"nested unknown field": {"POST", "/api/v1/orders", `{"shipping_address":{"planet":"x"}}`, nil, 400, "MALFORMED_REQUEST", "planet"},
		"wrong type":           {"PUT", item, `{"quantity":"many"}`, nil, 400, "MALFORMED_REQUEST", "quantity"},
		"not JSON":             {"PUT", item, `{"quantity":`, nil, 400, "MALFORMED_REQUEST", ""},
		"two values":           {"PUT", item, `{"quantity":1} {"quantity":2}`, nil, 400, "MALFORMED_REQUEST", ""},
		"duplicate field":      {"PUT", item, `{"quantity":1,"quantity":2}`, nil, 400, "MALFORMED_REQUEST", ""},
		"an array":             {"PUT", item, `[]`, nil, 400, "MALFORMED_REQUEST", ""},
		"quantity 0":           {"PUT", item, `{}`, nil, 400, "INVALID_ARGUMENT", "quantity"},
		"empty body":           {"PUT", item, ``, nil, 400, "INVALID_ARGUMENT", "quantity"},
		"quantity 100":         {"PUT", item, `{"quantity":100}`, nil, 400, "INVALID_ARGUMENT", "quantity"},
		"no UUID":              {"PUT", "/api/v1/basket/items/x", `{"quantity":1}`, nil, 400, "INVALID_ARGUMENT", "book_id"},
		"unknown parameter":    {"GET", "/api/v1/books?page=2", "", nil, 400, "MALFORMED_REQUEST", "page"},
		"parameter in a body":  {"PUT", item + "?quantity=3", `{"quantity":1}`, nil, 400, "MALFORMED_REQUEST", "quantity"},
		"path as parameter":    {"GET", "/api/v1/books/" + aBook + "?id=x", "", nil, 400, "MALFORMED_REQUEST", "id"},
		"bad number":           {"GET", "/api/v1/books?page_size=many", "", nil, 400, "MALFORMED_REQUEST", "page_size"},
		"bad enum":             {"GET", "/api/v1/books?sort=UP", "", nil, 400, "MALFORMED_REQUEST", "sort"},
		"two of one":           {"GET", "/api/v1/books?page_size=1&pageSize=2", "", nil, 400, "MALFORMED_REQUEST", "page_size"},
		"out of range":         {"GET", "/api/v1/books?page_size=101", "", nil, 400, "INVALID_ARGUMENT", "page_size"},
		"form":                 {"PUT", item, `quantity=1`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "MALFORMED_REQUEST", ""},
		"no type":              {"PUT", item, `{"quantity":1}`, []string{"Content-Type", ""}, 415, "MALFORMED_REQUEST", ""},
		"strange type":         {"PUT", item, `{"quantity":1}`, []string{"Content-Type", "a/b; ="}, 415, "MALFORMED_REQUEST", ""},
		"compressed":           {"PUT", item, `x`, []string{"Content-Encoding", "gzip"}, 415, "MALFORMED_REQUEST", ""},
		"too large":            {"PUT", item, `{"etag":"` + strings.Repeat("x", 1<<20) + `"}`, nil, 413, "REQUEST_TOO_LARGE", ""},
		"key missing":          {"POST", "/api/v1/orders", order, nil, 400, "IDEMPOTENCY_KEY_MISSING", ""},
		"bad key":              {"POST", "/api/v1/orders", order, []string{"Idempotency-Key", `"open`}, 400, "INVALID_ARGUMENT", "Idempotency-Key"},
		"unknown path":         {"GET", "/api/v1/bookz", "", nil, 404, "NOT_FOUND", ""},
		"unknown root":         {"GET", "/", "", nil, 404, "NOT_FOUND", ""},
		"unknown verb":         {"POST", "/api/v1/orders:steal", "{}", nil, 404, "NOT_FOUND", ""},
		"no path segment":      {"GET", "/api/v1/books/", "", nil, 400, "INVALID_ARGUMENT", "id"},
		"not implemented yet":  {"GET", "/api/v1/orders", "", nil, 404, "NOT_FOUND", ""},
		"method override":      {"POST", "/api/v1/basket", "{}", []string{"X-HTTP-Method-Override", "DELETE", "Content-Type", "application/x-www-form-urlencoded"}, 405, "NOT_FOUND", ""},
	} {
		b.behind.Store(0)
		got := b.send(t, test.method, test.path, test.body, append(alice, test.headers...)...)
		p := problemOf(t, got)
		if got.status > http.StatusNotFound && b.behind.Load() != 0 {
			t.Errorf("%s went through the door", name)
		}
		if got.status != test.status || p["reason"] != test.reason {
			t.Errorf("%s: got %d %s", name, got.status, got.body)
		}
		if test.field != "" && !strings.Contains(fmt.Sprint(p["errors"]), "field:"+test.field+" ") {
			t.Errorf("%s: %s is not named: %s", name, test.field, got.body)
		}
		if strings.Contains(got.body, "proto:") || strings.Contains(got.body, "rpc error") {
			t.Errorf("%s: the machinery speaks: %s", name, got.body)
		}
	}
}

const order = `{"shipping_address":{"recipient":"A","line1":"1 Way","city":"C","postal_code":"1","country_code":"US"},"payment_method":"pm_card_visa"}`

func TestMethodsNotAllowed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for path, want := range map[string]string{
		"/api/v1/basket":                       "DELETE, GET, HEAD",
		"/api/v1/basket/items/" + aBook:        "DELETE, PUT",
		"/api/v1/orders:quote":                 "POST",
		"/api/v1/orders/" + aBook:              "GET, HEAD",
		"/api/v1/books:batchGet":               "GET, HEAD",
		"/api/v1/orders/x:cancel":              "POST",
		"/webhooks/stripe":                     "POST",
		"/api/v1/preferences":                  "GET, HEAD, PATCH",
		"/api/v1/orders/" + aBook + "/payment": "GET, HEAD",

		"/api/v1/books":                            "GET, HEAD, POST",
		"/api/v1/books/" + aBook:                   "GET, HEAD, PATCH",
		"/api/v1/books/" + aBook + ":archive":      "POST",
		"/api/v1/books/" + aBook + "/reviews/mine": "DELETE, GET, HEAD, PUT",
		"/api/v1/chat/messages":                    "POST",
	} {
		got := b.send(t, http.MethodOptions, path, "")
		p := problemOf(t, got)
		allow := got.header.Get("Allow")
		if got.status != http.StatusMethodNotAllowed || p["reason"] != "NOT_FOUND" || allow != want {
			t.Errorf("%s: got %d, Allow %q, want %q", path, got.status, allow, want)
		}
	}
	// A verb is not part of the id before it.
	if got := b.send(t, http.MethodGet, "/api/v1/orders/"+aBook+":cancel", "", b.as("alice", "customer")...); got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") != "POST" {
		t.Errorf("GET of a verb: got %d, Allow %q", got.status, got.header.Get("Allow"))
	}
	if got := b.send(t, http.MethodGet, "/api/v1/orders/"+aBook+":steal", "", b.as("alice", "customer")...); got.status != http.StatusNotFound {
		t.Errorf("GET of an unknown verb: got %d", got.status)
	}
}

func TestHeadersThroughREST(t *testing.T) {
	t.Parallel()
	b := setup(t)
	alice := b.as("alice", "customer")

	for condition, want := range map[string]string{`"v3"`: "v3", `v3`: "v3", `W/"v3"`: "v3", `*`: "", ``: ""} {
		got := b.send(t, http.MethodPut, "/api/v1/basket/items/"+aBook, `{"quantity":2}`, append(alice, "If-Match", condition)...)
		if got.status != http.StatusOK || got.header.Get("ETag") != `"v4"` {
			t.Fatalf("got %d %v", got.status, got.header)
		}
		item := got.json(t)["items"].([]any)[0].(map[string]any)
		if item["title"] != want || item["quantity"] != float64(2) || item["book_id"] != aBook {
			t.Errorf("If-Match %s: the handler saw %v", condition, item)
		}
		if cache := got.header.Get("Cache-Control"); cache != "private, no-store" {
			t.Errorf("a basket may be cached: %q", cache)
		}
	}

	// What the translator would drop on the way must not become a change of any version.
	for _, condition := range []string{"v3\tv4", "v\u00fc", "\"v3\u2028\""} {
		got := b.send(t, http.MethodPut, "/api/v1/basket/items/"+aBook, `{"quantity":2}`, append(alice, "If-Match", condition)...)
		if got.status != http.StatusBadRequest || fieldsOf(t, got) != "If-Match" {
			t.Errorf("If-Match %q: got %d %s", condition, got.status, got.body)
		}
	}
	got := b.send(t, http.MethodPut, "/api/v1/basket/items/"+aBook, `{"quantity":2}`, append(alice, "If-Match", `""`)...)
	if got.status != http.StatusOK || got.json(t)["items"].([]any)[0].(map[string]any)["title"] != `""` {
		t.Errorf("an empty version: the service got %s", got.body)
	}
	got = b.send(t, http.MethodPost, "/api/v1/orders", order, append(alice, "Idempotency-Key", "k\u00fc")...)
	if got.status != http.StatusBadRequest || fieldsOf(t, got) != "Idempotency-Key" {
		t.Errorf("a key that cannot be passed on: got %d %s", got.status, got.body)
	}

	got = b.send(t, http.MethodPost, "/api/v1/orders", order, append(alice, "Idempotency-Key", `"k-1"`)...)
	if got.status != http.StatusOK || got.json(t)["id"] != "k-1" || got.header.Get("Idempotent-Replayed") != "true" || got.header.Get("ETag") != `"o1"` {
		t.Errorf("got %d %v %s", got.status, got.header, got.body)
	}
	if got.header.Get("X-Internal") != "" {
		t.Error("a header of the inside went out")
	}

	got = b.send(t, http.MethodPatch, "/api/v1/preferences?update_mask=order_emails", `{"order_emails":true}`, alice...)
	if got.status != http.StatusOK || got.json(t)["etag"] != "order_emails" {
		t.Errorf("PATCH: got %d %s", got.status, got.body)
	}
	got = b.send(t, http.MethodPatch, "/api/v1/preferences", `{"marketing_emails":true}`, alice...)
	if got.status != http.StatusOK || got.json(t)["etag"] != "marketing_emails" {
		t.Errorf("PATCH by body: got %d %s", got.status, got.body)
	}
	got = b.send(t, http.MethodGet, "/api/v1/books?page_size=5&query=whale%26co&sort=PRICE_ASC", "")
	if got.status != http.StatusOK || got.json(t)["next_page_token"] != "5whale&coPRICE_ASC" && got.json(t)["next_page_token"] != "5 whale&co PRICE_ASC" {
		t.Errorf("list: got %d %s", got.status, got.body)
	}
}

// fieldsOf returns the fields that a problem names.
func fieldsOf(t *testing.T, got answer) string {
	t.Helper()
	var names []string
	errors, _ := problemOf(t, got)["errors"].([]any)
	for _, each := range errors {
		names = append(names, each.(map[string]any)["field"].(string))
	}
	return strings.Join(names, " ")
}

// A book with both names of its fields, an administrator and the version that is
// meant.
func TestCatalogAdministrationOverREST(t *testing.T) {
	t.Parallel()
	b := setup(t)
	admin := b.as("root", "admin")
	const book = "/api/v1/books/" + aBook
	for name, test := range map[string]struct{ body, mask string }{
		"camel":      {`{"update_mask":"title,pageCount","book":{"title":"New","page_count":7}}`, "title+page_count"},
		"by name":    {`{"update_mask":"title,page_count","book":{"title":"New","page_count":7}}`, "title+page_count"},
		"camel name": {`{"book":{"title":"New","pageCount":7},"updateMask":"page_count"}`, "page_count"},
	} {
		got := b.send(t, http.MethodPatch, book, test.body, append(admin, "If-Match", `"v7"`)...)
		if changed := got.json(t); got.status != 200 || changed["subtitle"] != test.mask || changed["title"] != "New" || changed["page_count"] != 7.0 ||
			changed["publisher"] != "v7" || got.header.Get("ETag") != `"v8"` || got.header.Get("Cache-Control") != "private, no-store" {
			t.Errorf("PATCH, %s: got %d %v %s", name, got.status, got.header, got.body)
		}
	}
	for body, reason := range map[string]string{
		`{"update_mask":"title","update_mask":"isbn13","book":{}}`: "MALFORMED_REQUEST",
		`{"update_mask":7,"book":{}}`:                              "MALFORMED_REQUEST",
		`{"update_mask":"a_b","book":{"title":"x"}} {}`:            "MALFORMED_REQUEST",
		`{"update_mask":"pages","book":{"pages":1}}`:               "MALFORMED_REQUEST",
		`{"book":{"title":"x"}}`:                                   "INVALID_ARGUMENT",
		`{"update_mask":"title"}`:                                  "INVALID_ARGUMENT",
		`["update_mask"]`:                                          "MALFORMED_REQUEST",
		`{"update_mask"`:                                           "MALFORMED_REQUEST",
	} {
		if got := b.send(t, http.MethodPatch, book, body, admin...); got.status != 400 || problemOf(t, got)["reason"] != reason {
			t.Errorf("PATCH %s: got %d %s", body, got.status, got.body)
		}
	}
	const newBook = `{"isbn13":"9780142437247","title":"Moby-Dick","authors":["Herman Melville"],"language":"en","categories":["fiction"],"price":{"currency_code":"USD","amount_minor":"1299"}}`
	if got := b.send(t, http.MethodPost, "/api/v1/books", newBook, append(admin, "Idempotency-Key", "k-9")...); got.status != 200 || got.json(t)["id"] != "k-9" || got.header.Get("ETag") != `"v1"` {
		t.Errorf("POST: got %d %v %s", got.status, got.header, got.body)
	}
	if got := b.send(t, http.MethodPost, "/api/v1/books", newBook, admin...); got.status != 400 || problemOf(t, got)["reason"] != "IDEMPOTENCY_KEY_MISSING" {
		t.Errorf("POST without a key: got %d %s", got.status, got.body)
	}
	if got := b.send(t, http.MethodPost, book+":archive", "{}", admin...); got.status != 200 || got.json(t)["archived"] != true || got.json(t)["id"] != aBook {
		t.Errorf("archive: got %d %s", got.status, got.body)
	}
	got := b.send(t, http.MethodGet, "/api/v1/books:search?query=a+white+whale", "")
	if hits := fmt.Sprint(got.json(t)["hits"]); got.status != 200 || !strings.Contains(hits, "title:a white whale") || got.json(t)["mode"] != "SEARCH_MODE_LEXICAL" || got.header.Get("Cache-Control") != "public, max-age=30" {
		t.Errorf("search: got %d %v %s", got.status, got.header, got.body)
	}
}

func TestReviewsOverREST(t *testing.T) {
	t.Parallel()
	b := setup(t)
	alice := b.as("alice", "customer")
	const reviews = "/api/v1/books/" + aBook + "/reviews"
	for path, want := range map[string]string{reviews + "?sort=NEWEST&stars=4": `"` + aBook + `NEWEST 4"`, "/api/v1/books/" + aBook + "/rating": "4.5"} {
		got := b.send(t, http.MethodGet, path, "")
		if got.status != 200 || !strings.Contains(strings.ReplaceAll(got.body, " NEWEST", "NEWEST"), want) || got.header.Get("Cache-Control") != "public, max-age=30" {
			t.Errorf("GET %s: got %d %v %s", path, got.status, got.header, got.body)
		}
		if again := b.send(t, http.MethodGet, path, "", "If-None-Match", got.header.Get("ETag")); again.status != 304 || got.header.Get("ETag") == "" {
			t.Errorf("GET %s again: got %d", path, again.status)
		}
	}
	mine := b.send(t, http.MethodGet, reviews+"/mine", "", alice...)
	if mine.status != 200 || mine.json(t)["title"] != "alice" || mine.header.Get("Cache-Control") != "private, no-store" || mine.header.Get("ETag") != `"r1"` {
		t.Errorf("mine: got %d %v %s", mine.status, mine.header, mine.body)
	}
	put := b.send(t, http.MethodPut, reviews+"/mine", `{"stars":5,"title":"Whale of a time"}`, append(alice, "If-Match", `"r1"`)...)
	if put.status != 200 || put.json(t)["stars"] != 5.0 || put.json(t)["text"] != "r1" || put.header.Get("ETag") != `"r2"` {
		t.Errorf("PUT: got %d %v %s", put.status, put.header, put.body)
	}
	if got := b.send(t, http.MethodPut, reviews+"/mine", `{"stars":6,"title":"x"}`, alice...); got.status != 400 || problemOf(t, got)["reason"] != "INVALID_ARGUMENT" {
		t.Errorf("six stars: got %d %s", got.status, got.body)
	}
	decided := b.send(t, http.MethodPost, "/api/v1/moderation/reviews/"+aBook+":decide", `{"decision":"REJECT","etag":"r2","reason":"spam"}`, b.as("root", "admin")...)
	if decided.status != 200 || decided.json(t)["title"] != "REJECT" || decided.json(t)["id"] != aBook {
		t.Errorf("decide: got %d %s", decided.status, decided.body)
	}
	if got := b.send(t, http.MethodGet, "/api/v1/chat/conversations/"+aConversation+":export", "", alice...); got.status != 200 || got.json(t)["file_name"] != aConversation {
		t.Errorf("export: got %d %s", got.status, got.body)
	}
}

func TestConditionalReads(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const book = "/api/v1/books/" + aBook
	first := b.send(t, http.MethodGet, book, "")
	if first.header.Get("ETag") != `"v7"` || first.header.Get("Cache-Control") != "public, max-age=30" {
		t.Fatalf("got %v", first.header)
	}
	for condition, want := range map[string]int{`"v7"`: 304, `W/"v7"`: 304, `"v6", "v7"`: 304, `*`: 304, `"v6"`: 200, `v7`: 200, ``: 200} {
		got := b.send(t, http.MethodGet, book, "", "If-None-Match", condition)
		if got.status != want || want == 304 && (got.body != "" || got.header.Get("ETag") != `"v7"` || got.header.Get("Cache-Control") != "public, max-age=30") {
			t.Errorf("If-None-Match %s: got %d %v", condition, got.status, got.header)
		}
	}
	list := b.send(t, http.MethodGet, "/api/v1/books", "")
	tag := list.header.Get("ETag")
	if tag == "" || list.header.Get("Cache-Control") != "public, max-age=30" {
		t.Errorf("list: got %v", list.header)
	}
	if got := b.send(t, http.MethodGet, "/api/v1/books", "", "If-None-Match", tag); got.status != 304 {
		t.Errorf("the same list: got %d", got.status)
	}
	if got := b.send(t, http.MethodGet, "/api/v1/books?page_size=2", "", "If-None-Match", tag); got.status != 200 {
		t.Errorf("another list: got %d", got.status)
	}
	if got := b.send(t, http.MethodHead, book, ""); got.status != 200 || got.body != "" || got.header.Get("ETag") != `"v7"` {
		t.Errorf("HEAD: got %d %v", got.status, got.header)
	}
	private := b.send(t, http.MethodGet, "/api/v1/basket", "", append(b.as("alice", "customer"), "If-None-Match", `"alice"`)...)
	if private.status != 304 || private.header.Get("Cache-Control") != "private, no-store" {
		t.Errorf("basket: got %d %v", private.status, private.header)
	}
	get := catalogv1connect.CatalogServiceGetBookProcedure + "?encoding=json&message=%7B%22id%22%3A%22" + aBook + "%22%7D"
	if got := b.send(t, http.MethodGet, get, ""); got.status != 200 || got.header.Get("Cache-Control") != "public, max-age=30" {
		t.Errorf("Connect GET: got %d %v %s", got.status, got.header, got.body)
	}
	// By GET a public answer has an ETag, the service's own or its digest, and a client that has it gets none.
	lists := catalogv1connect.CatalogServiceListBooksProcedure + "?encoding=json&message=%7B%22pageSize%22%3A"
	for name, path := range map[string]string{"own": get, "digest": lists + "7%7D"} {
		first := b.send(t, http.MethodGet, path, "")
		tag := first.header.Get("ETag")
		again := b.send(t, http.MethodGet, path, "", "If-None-Match", tag)
		if first.status != 200 || tag == "" || again.status != 304 || again.body != "" || again.header.Get("ETag") != tag || again.header.Get("Cache-Control") != "public, max-age=30" {
			t.Errorf("Connect GET, %s version: %d %q, again %d %v", name, first.status, tag, again.status, again.header)
		}
		if other := b.send(t, http.MethodGet, lists+"8%7D", "", "If-None-Match", tag); other.status != 200 || other.body == "" {
			t.Errorf("Connect GET, %s version for another answer: %d", name, other.status)
		}
	}
	if wrong := b.send(t, http.MethodGet, catalogv1connect.CatalogServiceGetBookProcedure+"?encoding=json&message=%7B%22id%22%3A%22x%22%7D", ""); wrong.header.Get("Cache-Control") != "private, no-store" || wrong.header.Get("ETag") != "" {
		t.Errorf("an error may be cached: %v", wrong.header)
	}
	mine := b.send(t, http.MethodGet, basketv1connect.BasketServiceGetBasketProcedure+"?encoding=json&message=%7B%7D", "", b.as("alice", "customer")...)
	if mine.status != 200 || mine.header.Get("Cache-Control") != "private, no-store" {
		t.Errorf("Connect GET of a basket: %d %v", mine.status, mine.header)
	}
	post := b.send(t, http.MethodPost, catalogv1connect.CatalogServiceGetBookProcedure, `{"id":"`+aBook+`"}`)
	if cache := post.header.Values("Cache-Control"); len(cache) != 1 || cache[0] != "private, no-store" {
		t.Errorf("Connect POST: %v", cache)
	}
}

func TestBadInputOverConnect(t *testing.T) {
	t.Parallel()
	b := setup(t)
	alice := b.as("alice", "customer")
	const setItem = basketv1connect.BasketServiceSetItemProcedure
	for name, test := range map[string]struct{ body, reason string }{
		"unknown field": {`{"quantity":1,"prize":2}`, "MALFORMED_REQUEST"},
		"not JSON":      {`{`, "MALFORMED_REQUEST"},
		"invalid":       {`{"quantity":100}`, "INVALID_ARGUMENT"},
		"too large":     {`{"etag":"` + strings.Repeat("x", 1<<20) + `"}`, "REQUEST_TOO_LARGE"},
	} {
		if got := b.send(t, http.MethodPost, setItem, test.body, alice...); !strings.Contains(got.body, `"`+test.reason+`"`) {
			t.Errorf("%s: got %d %s", name, got.status, got.body)
		}
	}
	if got := b.send(t, http.MethodGet, "/bookworm.basket.v1.BasketService/Nothing", ""); got.status != 404 || problemOf(t, got)["reason"] != "NOT_FOUND" {
		t.Errorf("a browser at an unknown procedure: %d %s", got.status, got.body)
	}
	if got := b.send(t, http.MethodPost, "/bookworm.basket.v1.BasketService/Nothing", "{}"); got.json(t)["code"] != "unimplemented" || !strings.Contains(got.body, "NOT_FOUND") {
		t.Errorf("an unknown procedure: %d %s", got.status, got.body)
	}
}

func TestStreamsFlow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	arrived := make(chan struct{})
	b.shop.answerTurn(func(ctx context.Context, _ proto.Message, send func(*chatv1.TurnEvent) error) error {
		if err := send(delta(1, "first")); err != nil {
			return err
		}
		select {
		case <-arrived:
			return send(delta(2, "second"))
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	for name, option := range map[string]connecthttp.Option{
		"gRPC": connecthttp.WithGRPC(), "gRPC-Web": connecthttp.WithGRPCWeb(), "Connect": connecthttp.WithProtoJSON(),
	} {
		client := connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: rpc.Transport()}, b.url, option))
		ctx, info := connect.NewClientContext(t.Context())
		info.RequestHeader().Set("Authorization", b.as("alice", "customer")[1])
		stream, err := chatv1connect.NewChatServiceClient(client).SendMessage(ctx, &chatv1.SendMessageRequest{Text: "hello"})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		first, err := stream.Receive() // the second is not sent before the first arrived
		if err != nil || first.GetDelta() != "first" {
			t.Fatalf("%s: %v, %v", name, first, err)
		}
		arrived <- struct{}{}
		if second, err := stream.Receive(); err != nil || second.GetDelta() != "second" {
			t.Errorf("%s: %v, %v", name, second, err)
		}
		if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCancellationReachesTheBackend(t *testing.T) {
	t.Parallel()
	b := setup(t)
	entered, left := make(chan struct{}, 1), make(chan struct{}, 1)
	b.shop.answerBook(func(ctx context.Context, _ *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		entered <- struct{}{}
		<-ctx.Done()
		left <- struct{}{}
		return nil, ctx.Err()
	})
	callers := b.callers(t)
	callers["REST"] = func(ctx context.Context, _ string) (*catalogv1.GetBookResponse, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/api/v1/books/"+aBook, nil)
		if err != nil {
			return nil, err
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			_ = response.Body.Close()
		}
		return nil, err
	}
	for name, call := range callers {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-entered; cancel() }()
		if _, err := call(ctx, ""); err == nil {
			t.Errorf("%s: no error", name)
		}
		select {
		case <-left:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: the backend was left working", name)
		}
		cancel()
	}
}

func TestDeadlinesAndOutages(t *testing.T) {
	t.Parallel()
	dead, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	b := setup(t, func(o *gateway.Options) {
		o.Backends["basket"], o.Backends["finance"] = "http://"+dead.Addr().String(), "http://"+dead.Addr().String()
		o.Timeout = 50 * time.Millisecond
	})
	alice := b.as("alice", "customer")
	b.send(t, http.MethodGet, "/api/v1/books/"+aBook, "", alice...) // fetches the keys
	got := b.send(t, http.MethodGet, "/api/v1/basket", "", alice...)
	if p := problemOf(t, got); got.status != 503 || p["reason"] != "UNAVAILABLE" || got.header.Get("Retry-After") != "1" || strings.Contains(got.body, "dial") {
		t.Errorf("REST: got %d %v %s", got.status, got.header, got.body)
	}
	got = b.send(t, http.MethodPost, basketv1connect.BasketServiceGetBasketProcedure, "{}", alice...)
	if got.status != 503 || !strings.Contains(got.body, "UNAVAILABLE") || strings.Contains(got.body, "dial") {
		t.Errorf("Connect: got %d %s", got.status, got.body)
	}
	got = b.send(t, http.MethodPost, "/webhooks/stripe", "{}")
	if p := problemOf(t, got); got.status != 503 || p["reason"] != "UNAVAILABLE" {
		t.Errorf("webhook: got %d %s", got.status, got.body)
	}
	b.shop.answerBook(func(ctx context.Context, _ *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	started := time.Now()
	got = b.send(t, http.MethodGet, "/api/v1/books/"+aBook, "")
	if p := problemOf(t, got); got.status != 503 || p["detail"] == nil || p["reason"] != "UNAVAILABLE" || time.Since(started) > 5*time.Second { // the service's own is 10 s
		t.Errorf("slow: got %d %s", got.status, got.body)
	}
}

func TestWebhookGoesThroughRaw(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var body, signature, authorization string
	b.shop.webhook = func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		body, signature, authorization = string(raw), r.Header.Get("Stripe-Signature"), r.Header.Get("X-Forwarded-For")
		w.WriteHeader(http.StatusAccepted)
	}
	const raw = "{ \"id\" :\t\"evt_1\",\n\"id\":\"evt_1\"} "
	got := b.send(t, http.MethodPost, "/webhooks/stripe", raw, "Stripe-Signature", "t=1,v1=abc", "X-Forwarded-For", "10.0.0.66")
	if got.status != http.StatusAccepted || body != raw || signature != "t=1,v1=abc" || authorization != "127.0.0.1" {
		t.Errorf("got %d, the backend saw %q %q from %q", got.status, body, signature, authorization)
	}
	got = b.send(t, http.MethodPost, "/webhooks/stripe", strings.Repeat("x", 1<<20+1))
	if got.status != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: got %d %s", got.status, got.body)
	}
	if got := b.send(t, http.MethodPost, "/webhooks/paypal", "{}"); got.status != http.StatusNotFound {
		t.Errorf("another webhook: got %d", got.status)
	}
}

func TestOneTraceFromTheDoor(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const trace = "0af7651916cd43dd8448eb211c80319c"
	for _, path := range []string{"/api/v1/books/" + aBook, catalogv1connect.CatalogServiceGetBookProcedure} {
		method, body := http.MethodGet, ""
		if !strings.HasPrefix(path, "/api") {
			method, body = http.MethodPost, `{"id":"`+aBook+`"}`
		}
		got := b.send(t, method, path, body, "traceparent", "00-"+trace+"-b7ad6b7169203331-01")
		if got.header.Get("X-Request-Id") != trace {
			t.Errorf("%s: request id %q", path, got.header.Get("X-Request-Id"))
		}
	}
	names := make(map[string]string)
	for end := time.Now().Add(5 * time.Second); len(names) < 3 && time.Now().Before(end); { // spans end after the answer
		for _, span := range b.spans.Ended() {
			if span.SpanContext().TraceID().String() == trace {
				names[span.Name()] = span.Parent().SpanID().String()
			}
		}
	}
	for _, want := range []string{"GET /api/v1/books/{id}", "POST /bookworm.catalog.v1.CatalogService/GetBook", "bookworm.catalog.v1.CatalogService/GetBook"} {
		if _, ok := names[want]; !ok {
			t.Errorf("no span %q among %v", want, names)
		}
	}
	if names["GET /api/v1/books/{id}"] != "b7ad6b7169203331" || names["bookworm.catalog.v1.CatalogService/GetBook"] == "b7ad6b7169203331" {
		t.Errorf("parents: %v", names)
	}
}

func TestA3_AccessLogTellsNothingPersonal(t *testing.T) {
	t.Parallel()
	b := setup(t)
	alice := b.as("alice", "customer")
	b.send(t, http.MethodGet, "/api/v1/books?query=alice%40bookworm.example", "", alice...)
	b.send(t, http.MethodGet, "/api/v1/orders/"+aBook, "", alice...)
	b.send(t, http.MethodGet, "/alice@bookworm.example", "")
	b.send(t, http.MethodPost, basketv1connect.BasketServiceGetBasketProcedure, "{}", alice...)
	var lines []map[string]any
	for end := time.Now().Add(5 * time.Second); len(lines) < 4 && time.Now().Before(end); {
		lines = nil
		for line := range strings.Lines(b.log.String()) {
			var entry map[string]any
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				t.Fatal(err)
			}
			if entry["msg"] == "request" {
				lines = append(lines, entry)
			}
		}
	}
	log := b.log.String()
	for _, secret := range []string{"alice", "bookworm.example", aBook, strings.TrimPrefix(alice[1], "Bearer ")} {
		if strings.Contains(log, secret) {
			t.Errorf("the log tells %q: %s", secret, log)
		}
	}
	want := []string{"GET /api/v1/books 200", "GET /api/v1/orders/{id} 404", "GET  404", "POST /bookworm.basket.v1.BasketService/GetBasket 200"}
	for i, line := range lines {
		if got := fmt.Sprintf("%v %v %v", line["method"], line["route"], line["status"]); got != want[i] || line["trace_id"] == "" || line["duration_ms"] == nil {
			t.Errorf("line %d: %v", i, line)
		}
	}
}

func TestCORS(t *testing.T) {
	t.Parallel()
	preflight := []string{"Origin", "https://shop.example", "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "authorization,content-type,idempotency-key,last-event-id,mcp-protocol-version"}
	b := setup(t)
	if got := b.send(t, http.MethodOptions, "/api/v1/basket", "", preflight...); got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("allowed by default: %v", got.header)
	}
	b = setup(t, func(o *gateway.Options) { o.CORSOrigins = []string{"https://shop.example"} })
	if got := b.send(t, http.MethodOptions, "/api/v1/basket", "", preflight...); got.status != http.StatusNoContent || got.header.Get("Access-Control-Allow-Origin") != "https://shop.example" {
		t.Errorf("got %d %v", got.status, got.header)
	}
	preflight[1] = "https://evil.example"
	if got := b.send(t, http.MethodOptions, "/api/v1/basket", "", preflight...); got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another origin: %v", got.header)
	}
	got := b.send(t, http.MethodGet, "/api/v1/books", "", "Origin", "https://shop.example")
	if got.status != 200 || got.header.Get("Access-Control-Allow-Origin") != "https://shop.example" || !strings.Contains(strings.ToLower(got.header.Get("Access-Control-Expose-Headers")), "etag") {
		t.Errorf("got %v", got.header)
	}
}

func TestSecurityHeaders(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, got := range []answer{b.send(t, http.MethodGet, "/api/v1/books", ""), b.send(t, http.MethodGet, "/nothing", ""), b.send(t, http.MethodPost, catalogv1connect.CatalogServiceListBooksProcedure, "{}")} {
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"} {
			if values := got.header.Values(name); len(values) != 1 || values[0] != want {
				t.Errorf("%s: %v", name, values)
			}
		}
	}
}

func TestNewRefusesBadOptions(t *testing.T) {
	t.Parallel()
	verifier := refusing{}
	for name, options := range map[string]gateway.Options{
		"no verifier":     {Backends: map[string]string{"catalog": "http://127.0.0.1:1"}},
		"unknown context": {Verifier: verifier, Backends: map[string]string{"catalogue": "http://127.0.0.1:1"}},
		"no address":      {Verifier: verifier, Backends: map[string]string{"catalog": ""}},
		"no URL":          {Verifier: verifier, Backends: map[string]string{"catalog": "127.0.0.1:1"}},
	} {
		if _, err := gateway.New(t.Context(), options); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

type refusing struct{}

func (refusing) Verify(context.Context, string) (identity.Caller, error) {
	return identity.Caller{}, fault.New(fault.ReasonTokenInvalid, "no")
}
