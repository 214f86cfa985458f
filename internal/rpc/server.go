// Package rpc is the shop's edge for Connect, gRPC and gRPC-Web: servers that
// check every call before a handler sees it, and clients with which one service
// calls another. Errors cross it as faults in both directions.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"connectrpc.com/grpcreflect/v2"
	"connectrpc.com/otelconnect"
	"connectrpc.com/validate"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"bookworm/internal/fault"
	"bookworm/internal/telemetry"
)

const (
	// MaxRequest is the largest request message, in bytes.
	MaxRequest = 1 << 20
	// maxBody bounds the whole body of a request, whose compressed messages and
	// framing come on top, in bytes.
	maxBody = 2 * MaxRequest
	// compressFrom is the smallest answer that is worth compressing, in bytes.
	compressFrom = 1 << 10
	// defaultTimeout bounds a call whose caller sets no deadline.
	defaultTimeout = 10 * time.Second
	// streamTimeout bounds a stream whose caller sets no deadline.
	streamTimeout = time.Hour
)

// ServerOptions is what a server needs of its process.
type ServerOptions struct {
	// Verifier tells whose an access token is. Required.
	Verifier Verifier
	// Logger gets the errors that are the shop's own. Nil: slog's default.
	Logger *slog.Logger
	// TracerProvider and MeterProvider; nil: the global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	// Audit records what the shop's staff does. Nil: the calls that it would record
	// are refused.
	Audit *Audit
	// Timeout bounds a unary call whose caller sets no deadline; 10 s when 0.
	Timeout time.Duration
}

// NewServer returns a server without procedures. Register the generated handlers
// on it, then pass it to Handler. Every call passes, from the outside in: tracing
// and metrics, recovery of panics, deadline, coding of errors, access, size, validation, audit.
// A handler finds the caller in identity.FromContext and returns faults; anything
// else it returns is INTERNAL to the caller and goes to the log.
func NewServer(options ServerOptions) (*connect.Server, error) {
	if options.Verifier == nil {
		return nil, errors.New("a server needs a verifier of access tokens")
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Timeout == 0 {
		options.Timeout = defaultTimeout
	}
	tracing, err := otelconnect.NewServerInterceptor(telemetryOptions(options.TracerProvider, options.MeterProvider)...)
	if err != nil {
		return nil, fmt.Errorf("make the server's telemetry: %w", err)
	}
	server := connect.NewServer(
		tracing,
		recovery(options.Logger),
		deadline(options.Timeout),
		coding(options.Logger),
		access(options.Verifier),
		receiving,
		validate.NewServerInterceptor(validate.WithoutErrorDetails()),
		auditing(options.Audit),
	)
	server.SetUnknownHandler(func(_ context.Context, spec connect.Spec, _ connect.ServerStream) error {
		return connect.Errorf(connect.CodeUnimplemented, "There is no procedure %s.", spec.Procedure)
	})
	return server, nil
}

// telemetryOptions names the shop's providers. Services trust each other's
// traces; the gateway decides whether to trust a stranger's.
func telemetryOptions(tracer trace.TracerProvider, meter metric.MeterProvider) []otelconnect.Option {
	options := []otelconnect.Option{otelconnect.WithTrustRemote(), otelconnect.WithPropagator(telemetry.Propagator())}
	if tracer != nil {
		options = append(options, otelconnect.WithTracerProvider(tracer))
	}
	if meter != nil {
		options = append(options, otelconnect.WithMeterProvider(meter))
	}
	return options
}

// recovery turns a handler's panic into an error of this call alone.
func recovery(logger *slog.Logger) connect.ServerInterceptor {
	return func(next connect.ServerFunc) connect.ServerFunc {
		return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) (err error) {
			ctx = telemetry.EnsureTrace(ctx) // the log needs an id also while nothing is traced
			defer func() {
				value := recover()
				if value == nil {
					return
				}
				if value == http.ErrAbortHandler { //nolint:errorlint // the HTTP server compares it the same way
					panic(value)
				}
				logger.ErrorContext(ctx, "handler panicked", "procedure", spec.Procedure,
					"panic", fmt.Sprint(value), "stack", string(debug.Stack()))
				err = Coded(fault.New(fault.ReasonInternal, ""))
			}()
			return next(ctx, spec, stream)
		}
	}
}

// deadline gives a call one when its caller did not.
func deadline(timeout time.Duration) connect.ServerInterceptor {
	return func(next connect.ServerFunc) connect.ServerFunc {
		return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
			if _, set := ctx.Deadline(); set {
				return next(ctx, spec, stream)
			}
			limit := timeout
			if spec.StreamType != connect.StreamTypeUnary {
				limit = streamTimeout
			}
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			return next(ctx, spec, stream)
		}
	}
}

// Handler serves the registered procedures over Connect, gRPC and gRPC-Web, and
// gRPC reflection of them. JSON with a field that the request does not have is
// refused. A request message may have 1 MiB.
func Handler(server *connect.Server) http.Handler {
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server, wire()...)

	// Reflection tells the public contract and so has no access rule; it stands
	// on a server of its own, and the one for calls knows no exception.
	connecthttp.Mount(mux, reflection(func() []string { return Services(server) }), wire()...)

	return http.MaxBytesHandler(mux, maxBody)
}

// Reflection serves gRPC reflection of the named services.
func Reflection(services []string) http.Handler {
	mux := http.NewServeMux()
	connecthttp.Mount(mux, reflection(func() []string { return services }), wire()...)
	return http.MaxBytesHandler(mux, maxBody)
}

func reflection(services func() []string) *connect.Server {
	server := connect.NewServer(coding(slog.Default()), receiving)
	grpcreflect.Register(server, grpcreflect.WithNamer(grpcreflect.NamerFunc(services)))
	return server
}

func wire() []connecthttp.Option {
	json := connectproto.NewJSONCodec()
	json.UnmarshalOptions.DiscardUnknown = false
	return []connecthttp.Option{
		connecthttp.WithCodecs(connectproto.NewBinaryCodec(), json),
		connecthttp.WithReadMaxBytes(MaxRequest),
		connecthttp.WithCompressMinBytes(compressFrom),
	}
}
