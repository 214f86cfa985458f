// Package telemetry sets up what a process says about itself: traces over OTLP,
// metrics for Prometheus and structured logs that carry the trace's id and no
// personal data.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Config says who the process is and where its telemetry goes.
type Config struct {
	// Service names the process in every span and metric, for example "bookworm-api".
	Service string
	// Version is the build, for example a commit.
	Version string
	// OTLPEndpoint receives the traces. The scheme chooses the protocol: http and
	// https speak OTLP over HTTP (the path defaults to /v1/traces), grpc and grpcs
	// OTLP over gRPC. Empty means no export: a no-op tracer that costs nothing and
	// still hands on the trace of a caller.
	OTLPEndpoint string
	// LogLevel is the lowest level that is written.
	LogLevel slog.Level
	// LogFormat is "json", the default, or "text".
	LogFormat string
	// LogWriter takes one line a write; nil is standard error.
	LogWriter io.Writer
}

// Telemetry is the running set. It is safe for concurrent use.
type Telemetry struct {
	Logger         *slog.Logger
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	// Metrics serves the metrics of this process in Prometheus' text format.
	Metrics http.Handler

	stop     func(context.Context) error
	stopOnce sync.Once
	stopErr  error
}

// seconds are the bounds of every histogram measured in seconds. OpenTelemetry's
// own defaults are made for milliseconds and would put all of ours in one bucket.
var seconds = []float64{
	.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60,
}

// Setup starts telemetry and makes it the process's default (the otel globals and
// W3C propagation), because instrumentation inside libraries looks there. It does
// not touch slog's default. Nothing is dialled here: an endpoint that is down
// costs dropped spans and a log line, never an error to a caller.
func Setup(ctx context.Context, c Config) (*Telemetry, error) {
	logger, err := newLogger(c)
	if err != nil {
		return nil, err
	}
	exporter, err := newExporter(ctx, c.OTLPEndpoint)
	if err != nil {
		return nil, err
	}
	describe := resource.NewSchemaless(
		attribute.String("service.name", c.Service),
		attribute.String("service.version", c.Version),
		attribute.String("service.instance.id", uuid.NewString()),
	)

	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	reader, err := otelprometheus.New(otelprometheus.WithRegisterer(registry))
	if err != nil {
		return nil, fmt.Errorf("register the metrics exporter: %w", err)
	}
	meters := sdkmetric.NewMeterProvider(
		sdkmetric.WithReader(reader),
		sdkmetric.WithResource(describe),
		sdkmetric.WithView(sdkmetric.NewView(
			sdkmetric.Instrument{Kind: sdkmetric.InstrumentKindHistogram, Unit: "s"},
			sdkmetric.Stream{Aggregation: sdkmetric.AggregationExplicitBucketHistogram{Boundaries: seconds}},
		)),
	)

	t := &Telemetry{
		Logger:         logger,
		TracerProvider: noop.NewTracerProvider(),
		MeterProvider:  meters,
		Metrics:        promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: promErrors{logger}}),
		stop:           meters.Shutdown,
	}
	if exporter != nil {
		traces := sdktrace.NewTracerProvider(
			sdktrace.WithBatcher(exporter),
			sdktrace.WithResource(describe),
			sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())),
		)
		t.TracerProvider = traces
		t.stop = func(ctx context.Context) error {
			return errors.Join(traces.Shutdown(ctx), meters.Shutdown(ctx))
		}
	}

	otel.SetTracerProvider(t.TracerProvider)
	otel.SetMeterProvider(t.MeterProvider)
	otel.SetTextMapPropagator(Propagator())
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		logger.Warn("telemetry export failed", "error", err)
	}))
	return t, nil
}

// Shutdown sends what is still queued, until ctx ends. The second call and those
// after it do nothing and return what the first returned.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	t.stopOnce.Do(func() {
		if err := t.stop(ctx); err != nil {
			t.stopErr = fmt.Errorf("stop telemetry: %w", err)
		}
	})
	return t.stopErr
}

// Propagator carries a trace across processes: W3C trace context, without baggage,
// which callers could fill with anything.
func Propagator() propagation.TextMapPropagator { return propagation.TraceContext{} }

// newExporter returns nil for an empty endpoint.
func newExporter(ctx context.Context, endpoint string) (sdktrace.SpanExporter, error) {
	if endpoint == "" {
		return nil, nil //nolint:nilnil // no endpoint, no exporter: both are fine
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		return nil, errors.New("the OTLP endpoint is not a URL with a host, for example http://localhost:4318")
	}
	var client otlptrace.Client
	switch u.Scheme {
	case "http", "https":
		if u.Path == "" || u.Path == "/" {
			u.Path = "/v1/traces"
		}
		client = otlptracehttp.NewClient(
			otlptracehttp.WithEndpointURL(u.String()), otlptracehttp.WithTimeout(exportTimeout))
	case "grpc", "grpcs":
		options := []otlptracegrpc.Option{
			otlptracegrpc.WithEndpoint(u.Host), otlptracegrpc.WithTimeout(exportTimeout),
		}
		if u.Scheme == "grpc" {
			options = append(options, otlptracegrpc.WithInsecure())
		}
		client = otlptracegrpc.NewClient(options...)
	default:
		return nil, fmt.Errorf("the OTLP endpoint's scheme is %q, not http, https, grpc or grpcs", u.Scheme)
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("start the trace exporter: %w", err)
	}
	return exporter, nil
}

const exportTimeout = 10 * time.Second

// promErrors writes a failed scrape to the log.
type promErrors struct{ logger *slog.Logger }

func (p promErrors) Println(v ...any) {
	p.logger.Warn("metrics scrape failed", "error", fmt.Sprint(v...))
}
