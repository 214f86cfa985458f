package e2e

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"google.golang.org/protobuf/proto"

	"bookworm/dev/psp"
	"bookworm/dev/shopper"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/workflows/checkout"
)

// oneTrace is what the trace of an order shows, from the door inwards. There may be
// more spans between two that are named.
var oneTrace = [][]string{
	{"POST /api/v1/orders", "bookworm.ordering.v1.OrderService/PlaceOrder", "bookworm.basket.v1.BasketCheckoutService/GetBasketSnapshot", "hgetall"},
	{"bookworm.ordering.v1.OrderService/PlaceOrder", "SELECT"},
	{"bookworm.ordering.v1.OrderService/PlaceOrder", "UpdateWithStartWorkflow:place", "HandleUpdate:place"},
	{"UpdateWithStartWorkflow:place", "RunWorkflow:checkout", "RunActivity:HoldStock", "bookworm.catalog.v1.StockService/HoldStock", "UPDATE"},
	{"RunWorkflow:checkout", "RunActivity:CreateOrder", "WITH"},
	{"RunWorkflow:checkout", "RunActivity:CommitStock", "bookworm.catalog.v1.StockService/CommitHold", "UPDATE"},
	{"RunWorkflow:checkout", "RunActivity:ClearBasket", "bookworm.basket.v1.BasketCheckoutService/ClearOrderedBasket", "evalsha"},
	{"RunWorkflow:checkout", "StartChildWorkflow:payment", "RunWorkflow:payment", "RunActivity:Charge", "HTTP POST"},
	{"RunWorkflow:payment", "RunActivity:Charge", "INSERT"},
	{"RunWorkflow:checkout", "RunActivity:StartNotification", "StartWorkflow:notification", "RunWorkflow:notification", "RunActivity:SendOrderMail", "mail send"},
	{"RunWorkflow:notification", "RunActivity:SendOrderMail", "INSERT"},
}

// TestOneTraceForAnOrder follows an order from the caller's own trace to SQL, Redis,
// the payment provider and the mail relay, in a stack that exports to the test.
func TestOneTraceForAnOrder(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	received := &collector{spans: make(map[string]*tracev1.Span)}
	server := httptest.NewServer(received)
	t.Cleanup(server.Close)
	stop, a, err := start(ctx, "run", filepath.Join(t.TempDir(), "stack"),
		"BOOKWORM_OTLP_ENDPOINT="+server.URL, "OTEL_BSP_SCHEDULE_DELAY=100")
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(stop)
	t.Cleanup(stop)

	alice := signIn(t, ctx, a)
	books, err := alice.Books(ctx, "in_stock=true&page_size=1")
	if err != nil || len(books) != 1 {
		t.Fatalf("found %v, %v", books, err)
	}
	// Paths and queries are the caller's words.
	for _, path := range []string{"/alice@bookworm.example", "/api/v1/books?query=alice%40bookworm.example"} {
		if _, _, _, err := alice.Raw(ctx, http.MethodGet, path, http.NoBody); err != nil {
			t.Fatal(err)
		}
	}
	// The provider's errors hold secrets too.
	provider := &shopper.Shopper{Gateway: a["BOOKWORM_PSP_URL"]}
	fault := fmt.Sprintf(`{"operation":"capture","kind":%q,"count":1}`, psp.Error500)
	if status, _, body, err := provider.Raw(ctx, http.MethodPost, "/_dev/faults", strings.NewReader(fault)); err != nil || status >= 300 {
		t.Fatalf("inject: %d %s %v", status, body, err)
	}
	if _, err := alice.Put(ctx, books[0].GetId(), 1); err != nil {
		t.Fatal(err)
	}
	trace, caller := strings.ReplaceAll(uuid.NewString(), "-", ""), strings.ReplaceAll(uuid.NewString(), "-", "")[:16]
	request, order := shopper.Request("pm_card_visa"), &orderingv1.Order{}
	request.ShippingAddress.PostalCode = "WC2N 5DU" // five digits alone are part of many a number
	header, err := alice.Do(ctx, http.MethodPost, "/api/v1/orders", request, order,
		"Idempotency-Key", uuid.NewString(), "Traceparent", "00-"+trace+"-"+caller+"-01")
	if err != nil || header.Get("X-Request-Id") != trace {
		t.Fatalf("placed under trace %q, want %q: %v", header.Get("X-Request-Id"), trace, err)
	}
	// The trace is whole while the order still waits for its shipment.
	lacks, err := shopper.Await(ctx, func(context.Context) ([]string, error) {
		return received.lacks(trace, caller), nil
	}, func(lacks []string) bool { return len(lacks) == 0 })
	if err != nil {
		t.Fatalf("%v\n%s", strings.Join(lacks, "\n"), strings.Join(received.paths(trace, caller), "\n"))
	}
	stop() // sends what is left
	if lacks := received.lacks(trace, caller); len(lacks) != 0 {
		t.Errorf("once all is sent: %v", lacks)
	}

	address := request.GetShippingAddress()
	secrets := []string{
		"alice", alice.Token, "_secret_", address.GetRecipient(), address.GetLine1(), address.GetCity(), address.GetPostalCode(), request.GetPaymentMethod(),
	}
	for _, span := range received.spans {
		text := span.String() // with its attributes, events and status
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("a span tells %q: %s", secret, text)
			}
		}
		if (strings.Contains(text, "db.system") && (strings.Contains(text, order.GetId()) || strings.Contains(text, books[0].GetId()))) ||
			strings.Contains(text, "pgx.query.parameters") {
			t.Errorf("a span tells the arguments of a statement: %s", text)
		}
		if strings.Contains(text, "/health/") {
			t.Errorf("a health check is traced: %s", text)
		}
	}
}

// collector takes traces over OTLP/HTTP. It is safe for concurrent use.
type collector struct {
	mu    sync.Mutex
	spans map[string]*tracev1.Span // by id
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unzipped
	}
	content, err := io.ReadAll(body)
	var request collectorv1.ExportTraceServiceRequest
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(content, &request) != nil {
		http.Error(w, "not OTLP", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans[hex.EncodeToString(span.GetSpanId())] = span
			}
		}
	}
}

// paths returns the names of a trace's spans with those above them, like
// "caller > POST > INSERT". A path that does not begin with the caller has a gap.
func (c *collector) paths(trace, caller string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var paths []string
	for _, span := range c.spans {
		if hex.EncodeToString(span.GetTraceId()) != trace {
			continue
		}
		path := span.GetName()
		for parent := hex.EncodeToString(span.GetParentSpanId()); ; {
			if parent == caller {
				path = "caller > " + path
				break
			}
			above := c.spans[parent]
			if above == nil {
				break
			}
			path = above.GetName() + " > " + path
			parent = hex.EncodeToString(above.GetParentSpanId())
		}
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

// lacks says what is missing in an order's trace.
func (c *collector) lacks(trace, caller string) []string {
	paths := c.paths(trace, caller)
	lacks := make(map[string]bool)
	for _, path := range paths {
		if !strings.HasPrefix(path, "caller > ") {
			lacks["a parent of "+path] = true
		}
	}
	for _, want := range oneTrace {
		if !slices.ContainsFunc(paths, func(path string) bool { return leads(strings.Split(path, " > "), want) }) {
			lacks[strings.Join(want, " > ")] = true
		}
	}
	return slices.Sorted(maps.Keys(lacks))
}

// leads tells whether a path ends with the last of the wanted names, and has the
// others above it in their order.
func leads(path, want []string) bool {
	if path[len(path)-1] != want[len(want)-1] {
		return false
	}
	for _, name := range path {
		if len(want) > 0 && name == want[0] {
			want = want[1:]
		}
	}
	return len(want) == 0
}

// TestWithoutEndpointNothingIsTraced looks at what tracing would leave in an order's
// history.
func TestWithoutEndpointNothingIsTraced(t *testing.T) {
	t.Parallel()
	v := enter(t)
	v.fill(book(t, 1299, 3))
	order := v.becomes(v.order("pm_card_visa"), orderingv1.Order_CONFIRMED)
	events := orders.GetWorkflowHistory(v.ctx, checkout.WorkflowID(order.GetId()), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(event.String(), "_tracer-data") {
			t.Errorf("the history carries a trace: %v", event)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	v := enter(t)
	v.fill(book(t, 1299, 3))
	order := v.becomes(v.order("pm_card_visa"), orderingv1.Order_CONFIRMED)
	v.mails(order.GetId(), 1)
	operator := &shopper.Shopper{Gateway: theShop.Addresses["BOOKWORM_METRICS_URL"]}
	lacks, err := shopper.Await(v.ctx, func(ctx context.Context) ([]string, error) {
		status, header, body, err := operator.Raw(ctx, http.MethodGet, "", http.NoBody)
		if err == nil && (status != http.StatusOK || !strings.HasPrefix(header.Get("Content-Type"), "text/plain")) {
			err = fmt.Errorf("got %d %s", status, header.Get("Content-Type"))
		}
		return slices.DeleteFunc(slices.Clone(metrics), func(line string) bool {
			return regexp.MustCompile(`(?m)^` + line).Match(body)
		}), err
	}, func(lacks []string) bool { return len(lacks) == 0 })
	if err != nil {
		t.Errorf("%v, without %q", err, lacks)
	}
}

// metrics are the beginnings of lines that operators count on.
var metrics = []string{
	`http_server_request_duration_seconds_count{.*http_route="/api/v1/orders",`,
	`rpc_server_call_duration_seconds_count{.*rpc_method="bookworm.ordering.v1.OrderService/PlaceOrder"`,
	`rpc_client_call_duration_seconds_count{.*rpc_method="bookworm.catalog.v1.StockService/HoldStock"`,
	`http_client_request_duration_seconds_count{.*http_request_method="POST"`,
	`db_client_operation_duration_seconds_count{.*db_system_name="postgresql"`,
	`pgxpool_acquired_connections{.*pool_name="catalog"`,
	`pgxpool_acquired_connections{.*pool_name="ordering"`,
	`db_client_connections_use_time_milliseconds_count{.*db_system="redis"`,
	`temporal_workflow_task_schedule_to_start_latency_seconds_count{.*task_queue="ordering"`,
	`temporal_local_activity_execution_latency_seconds_count{.*activity_type="HoldStock"`,
	`temporal_workflow_completed{.*workflow_type="payment"`,
	`bookworm_notification_deliveries_total{.*outcome="sent"`,
	`go_goroutines `,
	`process_resident_memory_bytes `,
}
