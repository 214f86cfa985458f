package e2e

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"bookworm/dev/shopper"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
)

// collector takes traces over OTLP/HTTP. It is safe for concurrent use.
type collector struct {
	mu    sync.Mutex
	spans map[string]*tracev1.Span // by span id in hex
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(r.Body)
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

func TestOneTraceForAnOrder(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	received := &collector{spans: map[string]*tracev1.Span{}}
	server := httptest.NewServer(received)
	t.Cleanup(server.Close)
	stack, a, err := launch(ctx, "run", filepath.Join(t.TempDir(), "stack"), "BOOKWORM_OTLP_ENDPOINT="+server.URL, "OTEL_BSP_SCHEDULE_DELAY=100")
	if err != nil {
		t.Fatal(err)
	}
	alice := signIn(t, ctx, a)
	books, err := alice.Books(ctx, "in_stock=true&page_size=1")
	if err != nil || len(books) != 1 {
		t.Fatalf("found %v, %v", books, err)
	}
	if _, err := alice.Put(ctx, books[0].GetId(), 1); err != nil {
		t.Fatal(err)
	}
	trace, parent := hexID(32), hexID(16)
	order := &orderingv1.Order{}
	if _, err := alice.Do(ctx, http.MethodPost, "/api/v1/orders", shopper.Request("pm_card_visa"), order,
		"Idempotency-Key", uuid.NewString(), "Traceparent", "00-"+trace+"-"+parent+"-01"); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.AwaitOrder(ctx, order.GetId(), orderingv1.Order_CONFIRMED); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	received.dump(trace, parent, "")
	fmt.Println("ORPHANS")
	for id, s := range received.spans {
		p := hex.EncodeToString(s.ParentSpanId)
		if hex.EncodeToString(s.TraceId) == trace && received.spans[p] == nil && p != parent {
			fmt.Println(id, p)
			received.dump(trace, p, "  ")
		}
	}
	fmt.Println("OTHERS")
	for _, s := range received.spans {
		if hex.EncodeToString(s.TraceId) != trace && len(s.ParentSpanId) == 0 {
			fmt.Println(s.Name, s.Attributes)
		}
	}
	stack.cmd.Process.Kill()
	stack.wait()
}

func (c *collector) dump(trace, parent, indent string) {
	for id, s := range c.spans {
		if hex.EncodeToString(s.TraceId) == trace && hex.EncodeToString(s.ParentSpanId) == parent {
			fmt.Println(indent, s.Name, s.Kind, (s.EndTimeUnixNano-s.StartTimeUnixNano)/1000, "us", s.Attributes, s.Status, s.Events)
			c.dump(trace, id, indent+"  ")
		}
	}
}

func hexID(n int) string { return hex.EncodeToString([]byte(uuid.NewString()))[:n] }
