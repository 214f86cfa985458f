package telemetry

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
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"bookworm/internal/personal"
)

func setup(t *testing.T, c Config) *Telemetry {
	t.Helper()
	if c.LogWriter == nil {
		c.LogWriter = io.Discard
	}
	telemetry, err := Setup(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := telemetry.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return telemetry
}

// logLine logs one line and returns it decoded.
func logLine(t *testing.T, log func(*slog.Logger)) (map[string]any, string) {
	t.Helper()
	var out bytes.Buffer
	log(setup(t, Config{LogWriter: &out}).Logger)
	line := make(map[string]any)
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	return line, out.String()
}

func TestLogCarriesTheTrace(t *testing.T) {
	t.Parallel()
	ctx := EnsureTrace(t.Context())
	line, _ := logLine(t, func(l *slog.Logger) { l.With("order_id", "o1").InfoContext(ctx, "placed") })
	span := trace.SpanContextFromContext(ctx)
	if line["trace_id"] != span.TraceID().String() || line["span_id"] != span.SpanID().String() {
		t.Errorf("trace_id, span_id = %v, %v; want those of the context", line["trace_id"], line["span_id"])
	}
	if line["order_id"] != "o1" || line["trace_id"] != TraceID(ctx) {
		t.Errorf("line = %v", line)
	}
	line, _ = logLine(t, func(l *slog.Logger) { l.InfoContext(t.Context(), "placed") })
	if _, ok := line["trace_id"]; ok {
		t.Error("a trace id without a trace")
	}
}

func TestEnsureTraceKeepsATrace(t *testing.T) {
	t.Parallel()
	ctx := EnsureTrace(t.Context())
	if again := EnsureTrace(ctx); TraceID(again) != TraceID(ctx) || TraceID(ctx) == "" {
		t.Errorf("trace id %q became %q", TraceID(ctx), TraceID(again))
	}
}

// TestA3_LogsHoldNoPersonalData covers the three lines of defence: the type, the
// attribute's name, and addresses inside any text.
func TestA3_LogsHoldNoPersonalData(t *testing.T) {
	t.Parallel()
	const leak = "alice@example.com"
	type person struct{ Email personal.Text }
	for name, attr := range map[string]slog.Attr{
		"by type":                slog.Any("recipient", personal.Text(leak)),
		"by type in a struct":    slog.Any("person", person{leak}),
		"by name":                slog.String("email", leak),
		"by a part of the name":  slog.String("Customer-E-Mail", leak),
		"by the group's name":    slog.Group("email", slog.String("value", leak)),
		"in a text":              slog.String("detail", "550 no such user <alice@example.com>"),
		"in an error":            slog.Any("error", fmt.Errorf("send to %s: %w", leak, errors.New("refused"))),
		"in a URL":               slog.String("url", "smtp://shop:alice@example.com:25"),
		"bytes under a bad name": slog.Any("token", []byte(leak)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, out := logLine(t, func(l *slog.Logger) { l.Info("mail", attr) })
			if strings.Contains(out, "alice") || strings.Contains(out, "YWxpY2") {
				t.Errorf("leaks: %s", out)
			}
			if !strings.Contains(out, "***") {
				t.Errorf("nothing masked: %s", out)
			}
		})
	}
	t.Run("in the message", func(t *testing.T) {
		t.Parallel()
		_, out := logLine(t, func(l *slog.Logger) { l.Info("wrote to " + leak) })
		if strings.Contains(out, "alice") {
			t.Errorf("leaks: %s", out)
		}
	})
}

func TestLogKeepsWhatGivesNothingAway(t *testing.T) {
	t.Parallel()
	line, _ := logLine(t, func(l *slog.Logger) { l.Info("answered", "prompt_tokens", 12, "order_id", "o1", "at", "a @ b") })
	if line["prompt_tokens"] != 12.0 || line["order_id"] != "o1" || line["at"] != "a @ b" {
		t.Errorf("line = %v", line)
	}
}

func TestTextFormatAndLevel(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	telemetry := setup(t, Config{LogFormat: "text", LogLevel: slog.LevelWarn, LogWriter: &out})
	telemetry.Logger.Info("quiet")
	telemetry.Logger.Warn("loud", "password", "hunter2")
	if got := out.String(); strings.Contains(got, "quiet") || !strings.Contains(got, "msg=loud password=***") {
		t.Errorf("log = %q", got)
	}
}

func TestSetupRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Config{
		"an unknown log format": {LogFormat: "xml"},
		"an unknown scheme":     {OTLPEndpoint: "ftp://localhost:4317"},
		"an endpoint without a host, and does not print its secrets": {OTLPEndpoint: "localhost:4317"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Setup(t.Context(), c); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestNoEndpointNoTracer(t *testing.T) {
	t.Parallel()
	telemetry := setup(t, Config{Service: "test"})
	if _, ok := telemetry.TracerProvider.(noop.TracerProvider); !ok {
		t.Errorf("tracer provider is a %T", telemetry.TracerProvider)
	}
	// A caller's trace is handed on all the same.
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	ctx := Propagator().Extract(t.Context(), propagation.MapCarrier{"traceparent": parent})
	ctx, span := telemetry.TracerProvider.Tracer("test").Start(ctx, "work")
	defer span.End()
	out := propagation.MapCarrier{}
	Propagator().Inject(ctx, out)
	if out["traceparent"] != parent {
		t.Errorf("traceparent = %q, want %q", out["traceparent"], parent)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	telemetry := setup(t, Config{Service: "test", Version: "v1"})
	meter := telemetry.MeterProvider.Meter("test")
	counter, err := meter.Int64Counter("mails_sent")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 3)
	duration, err := meter.Float64Histogram("mail_duration", metric.WithUnit("s"))
	if err != nil {
		t.Fatal(err)
	}
	duration.Record(t.Context(), 0.02)

	answer := httptest.NewRecorder()
	telemetry.Metrics.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	body := answer.Body.String()
	for _, want := range []string{
		`mails_sent_total{`, `go_goroutines `, `service_name="test"`,
		`le="0.025"`, // the bounds are made for seconds
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
}

// sink counts the spans that a collector receives.
type sink struct {
	collector.UnimplementedTraceServiceServer
	names chan string
}

func (s *sink) take(request *collector.ExportTraceServiceRequest) {
	for _, r := range request.GetResourceSpans() {
		for _, scope := range r.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				s.names <- span.GetName()
			}
		}
	}
}

func (s *sink) Export(
	_ context.Context, request *collector.ExportTraceServiceRequest,
) (*collector.ExportTraceServiceResponse, error) {
	s.take(request)
	return &collector.ExportTraceServiceResponse{}, nil
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var request collector.ExportTraceServiceRequest
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &request) != nil {
		http.Error(w, "not OTLP", http.StatusBadRequest)
		return
	}
	s.take(&request)
}

func TestTracesAreExported(t *testing.T) {
	t.Parallel()
	received := &sink{names: make(chan string, 1)}

	overHTTP := httptest.NewServer(received)
	t.Cleanup(overHTTP.Close)

	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, received)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})

	for _, endpoint := range []string{overHTTP.URL, "grpc://" + listener.Addr().String()} {
		telemetry, err := Setup(t.Context(), Config{Service: "test", OTLPEndpoint: endpoint, LogWriter: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		_, span := telemetry.TracerProvider.Tracer("test").Start(t.Context(), "place order")
		span.End()
		for range 2 { // the second call does nothing
			if err := telemetry.Shutdown(t.Context()); err != nil {
				t.Fatalf("%s: %v", endpoint, err)
			}
		}
		select {
		case name := <-received.names:
			if name != "place order" {
				t.Errorf("%s received %q", endpoint, name)
			}
		default:
			t.Errorf("%s received no span", endpoint)
		}
	}
}
