// Package temporal connects to Temporal: client, telemetry, search attributes.
package temporal

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"
	"go.temporal.io/sdk/interceptor"
	tlog "go.temporal.io/sdk/log"

	"bookworm/internal/personal"
	"bookworm/internal/telemetry"
)

// Config says how to reach Temporal.
type Config struct {
	Address   string // host:port
	Namespace string
	APIKey    personal.Text // Temporal Cloud; empty without
	TLS       bool
	Logger    *slog.Logger
	// Tracer adds spans to workflows and activities; nil for none.
	Tracer trace.Tracer
	// Meter takes the SDK's metrics; nil for none.
	Meter metric.Meter
}

// Dial connects. It fails when the server does not answer before ctx ends.
func Dial(ctx context.Context, c Config) (client.Client, error) {
	o := client.Options{HostPort: c.Address, Namespace: c.Namespace, Logger: tlog.NewStructuredLogger(c.Logger)}
	if c.TLS {
		o.ConnectionOptions.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	}
	if c.APIKey != "" {
		o.Credentials = client.NewAPIKeyStaticCredentials(string(c.APIKey))
	}
	if c.Meter != nil {
		o.MetricsHandler = opentelemetry.NewMetricsHandler(opentelemetry.MetricsHandlerOptions{
			Meter: c.Meter,
			OnError: func(err error) {
				c.Logger.Warn("temporal metric", "error", err)
			},
		})
	}
	// On the client only: workers inherit it, and twice would double the spans.
	if c.Tracer != nil {
		tracing, err := opentelemetry.NewTracingInterceptor(opentelemetry.TracerOptions{
			Tracer: c.Tracer, TextMapPropagator: telemetry.Propagator(), DisableBaggage: true, SpanStarter: startSpan,
		})
		if err != nil {
			return nil, fmt.Errorf("trace temporal calls: %w", err)
		}
		o.Interceptors = []interceptor.ClientInterceptor{tracing}
	}
	cl, err := client.DialContext(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("connect to temporal at %s: %w", c.Address, err)
	}
	return cl, nil
}

// startSpan starts a span, and ends that of a workflow in the same moment. A
// workflow outlives processes and a span does not: until the order is shipped, or
// for good when the process dies first, the spans below would have no parent.
func startSpan(ctx context.Context, tracer trace.Tracer, name string, options ...trace.SpanStartOption) trace.Span {
	_, span := tracer.Start(ctx, name, options...)
	if strings.HasPrefix(name, "RunWorkflow:") {
		started := trace.NewSpanStartConfig(options...)
		span.End(trace.WithTimestamp(started.Timestamp()))
	}
	return span
}

// RegisterSearchAttributes adds the attributes that the namespace lacks. It is
// idempotent. Errors: one when an attribute is there with another type.
func RegisterSearchAttributes(ctx context.Context, c client.Client, namespace string, attributes map[string]enumspb.IndexedValueType) error {
	have, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return fmt.Errorf("list search attributes: %w", err)
	}
	missing := maps.Clone(attributes)
	for name, want := range attributes {
		switch got, ok := have.GetCustomAttributes()[name]; {
		case ok && got != want:
			return fmt.Errorf("search attribute %s has type %s, not %s", name, got, want)
		case ok:
			delete(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	_, err = c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: missing})
	// Another replica that migrates at the same time may have been first.
	if _, exists := errors.AsType[*serviceerror.AlreadyExists](err); err != nil && !exists {
		return fmt.Errorf("add search attributes: %w", err)
	}
	return nil
}
