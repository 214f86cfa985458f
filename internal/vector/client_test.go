package vector_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"go.opentelemetry.io/otel"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"bookworm/internal/fault"
	"bookworm/internal/loopback"
	"bookworm/internal/vector"
)

// What the client asks of a server, and what it makes of the answers, is tested in
// dev/qdrant, against the stand-in and a real Qdrant. These are the servers that do
// not answer.

func open(t *testing.T, config vector.Config) *vector.Client {
	t.Helper()
	client, err := vector.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := loopback.Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

func search(ctx context.Context, client *vector.Client) error {
	_, err := client.Search(ctx, vector.Query{Collection: "books", Dense: []float32{1}, Limit: 1})
	return err
}

func TestOpenRefusesAddresses(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "localhost", "localhost:", "localhost:http", "localhost:0", "localhost:65536", "a:b:1"} {
		if client, err := vector.Open(vector.Config{Address: address}); err == nil {
			client.Close()
			t.Errorf("%q was taken", address)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	listener := listen(t)
	client := open(t, vector.Config{Address: listener.Addr().String()})
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := search(ctx, client); !fault.Is(err, fault.ReasonUnavailable) || ctx.Err() != nil {
		t.Errorf("%v, want it to be unavailable before the deadline", err)
	}
}

// The listener takes connections and never answers.
func TestDeadlineIsKept(t *testing.T) {
	t.Parallel()
	client := open(t, vector.Config{Address: listen(t).Addr().String()})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := search(ctx, client)
	if !fault.Is(err, fault.ReasonUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want unavailable and the deadline", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if err := search(ctx, client); !errors.Is(err, context.Canceled) || fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("%v, want cancelled alone", err)
	}
}

// scripted answers health checks with what it is given.
type scripted struct {
	qdrant.UnimplementedQdrantServer

	err     error
	trailer metadata.MD
	asked   chan metadata.MD
	bounded chan bool
}

func (s *scripted) HealthCheck(ctx context.Context, _ *qdrant.HealthCheckRequest) (*qdrant.HealthCheckReply, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.asked <- md
	_, bounded := ctx.Deadline()
	s.bounded <- bounded
	if err := grpc.SetTrailer(ctx, s.trailer); err != nil {
		return nil, err
	}
	return &qdrant.HealthCheckReply{}, s.err
}

func serve(t *testing.T, s *scripted) string {
	t.Helper()
	s.asked, s.bounded = make(chan metadata.MD, 1), make(chan bool, 1)
	listener := listen(t)
	server := grpc.NewServer()
	qdrant.RegisterQdrantServer(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

func TestAnswersAreTranslated(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		err     error
		trailer metadata.MD
		want    func(error) bool
	}{
		"fine":             {nil, nil, func(err error) bool { return err == nil }},
		"unavailable":      {status.Error(codes.Unavailable, "starting"), nil, unavailable},
		"too much":         {status.Error(codes.ResourceExhausted, "rate limit"), nil, unavailable},
		"too much for now": {status.Error(codes.ResourceExhausted, "rate limit"), metadata.Pairs("retry-after", "3"), unavailable},
		"too late":         {status.Error(codes.DeadlineExceeded, "timeout"), nil, func(err error) bool { return unavailable(err) && errors.Is(err, context.DeadlineExceeded) }},
		"no collection":    {status.Error(codes.NotFound, "Not found: Collection `x` doesn't exist!"), nil, is(vector.ErrNoCollection)},
		"dimension": {
			status.Error(codes.InvalidArgument, "Wrong input: Vector dimension error: expected dim: 4, got 3"), nil, is(vector.ErrDimension),
		},
		"another fault": {status.Error(codes.InvalidArgument, "Wrong input: something"), nil, plain},
		"a bug":         {status.Error(codes.Internal, "panic"), nil, plain},
		"forbidden":     {status.Error(codes.PermissionDenied, "api key"), nil, plain},
	} {
		client := open(t, vector.Config{Address: serve(t, &scripted{err: c.err, trailer: c.trailer})})
		if err := client.Health(t.Context()); !c.want(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func unavailable(err error) bool { return fault.Is(err, fault.ReasonUnavailable) }

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) && !unavailable(err) }
}

func plain(err error) bool {
	return err != nil && fault.As(err) == nil && !errors.Is(err, vector.ErrNoCollection) && !errors.Is(err, vector.ErrDimension)
}

func TestCallsAreBoundedAndAuthorized(t *testing.T) {
	t.Parallel()
	server := &scripted{}
	client := open(t, vector.Config{Address: serve(t, server), APIKey: "hunter2"})
	if err := client.Health(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := (<-server.asked).Get("api-key"); len(got) != 1 || got[0] != "hunter2" {
		t.Errorf("api-key %v", got)
	}
	if !<-server.bounded {
		t.Error("a call without a deadline has none on its way either")
	}
}

func TestTracesNameCallsAndNothingElse(t *testing.T) { //nolint:paralleltest // the tracer is the process's
	recorder := tracetest.NewSpanRecorder()
	before := otel.GetTracerProvider()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)))
	defer otel.SetTracerProvider(before)
	client := open(t, vector.Config{Address: serve(t, &scripted{err: status.Error(codes.Internal, "secret")}), APIKey: "hunter2"})
	if err := client.Health(t.Context()); err == nil {
		t.Fatal("no error")
	}
	spans := recorder.Ended()
	if len(spans) != 1 || spans[0].Name() != "qdrant HealthCheck" || spans[0].Status().Code != otelcodes.Error || spans[0].Status().Description != "Internal" {
		t.Fatalf("%+v", spans)
	}
	for _, attribute := range spans[0].Attributes() {
		if value := attribute.Value.String(); value != "qdrant" && value != "qdrant.Qdrant/HealthCheck" {
			t.Errorf("%s = %q", attribute.Key, value)
		}
	}
}
