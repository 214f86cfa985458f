// Package vector is the shop's vector store, a Qdrant: collections of points,
// each with a dense and a sparse vector and a payload, behind aliases.
//
// The dense vector finds what means the same (cosine); the sparse one, made by
// BM25, finds the same words. Search fuses both.
package vector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"bookworm/internal/fault"
	"bookworm/internal/personal"
)

// What the store cannot do, apart from faults: one that cannot be reached, or
// does not answer in time, is fault.ReasonUnavailable.
var (
	// ErrNoCollection is returned for a collection or alias that does not exist.
	ErrNoCollection = errors.New("no such collection")
	// ErrLayout is returned when a collection exists with other vectors or indexes.
	ErrLayout = errors.New("the collection exists with another layout")
	// ErrDimension is returned for a dense vector that is not as long as the
	// collection's, or that is empty.
	ErrDimension = errors.New("wrong vector dimension")
	// ErrVector is returned for a vector that cannot be compared: it holds NaN or
	// infinity, its length is zero, or a sparse one is malformed.
	ErrVector = errors.New("malformed vector")
)

const (
	// callTimeout bounds a call whose caller has set no deadline.
	callTimeout = 30 * time.Second
	// maxReconnect is the longest pause between attempts to reach a server that was
	// away. gRPC's own is two minutes.
	maxReconnect = 5 * time.Second
	// maxMessage bounds an answer, in bytes: 1,000 points of 3,072 dimensions are 12 MB.
	maxMessage = 64 << 20
)

// Config says where the store is.
type Config struct {
	// Address is host:port of the gRPC side (Qdrant's 6334).
	Address string
	// APIKey is empty for a server without one. It is sent in the clear without TLS.
	APIKey personal.Text
	TLS    bool
}

// Client speaks to the store. It is safe for concurrent use.
type Client struct {
	qdrant *qdrant.Client
}

// Open makes a client. It does not wait for the server: the first call connects,
// and a lost connection is made again by itself. The caller closes it.
func Open(config Config) (*Client, error) {
	host, port, err := net.SplitHostPort(config.Address)
	if err != nil {
		return nil, fmt.Errorf("open qdrant: the address is not of the form host:port: %w", err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return nil, fmt.Errorf("open qdrant: port %q is not a number from 1 to 65535", port)
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]" // the library joins host and port as they are
	}
	reconnect := backoff.DefaultConfig
	reconnect.MaxDelay = maxReconnect
	client, err := qdrant.NewClient(&qdrant.Config{
		Host: host, Port: int(number), APIKey: string(config.APIKey), UseTLS: config.TLS,
		SkipCompatibilityCheck: true, // it would wait for the server
		GrpcOptions: []grpc.DialOption{
			grpc.WithChainUnaryInterceptor(observe),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: maxReconnect}),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("open qdrant: %w", err)
	}
	return &Client{qdrant: client}, nil
}

// Close ends the connections.
func (c *Client) Close() error {
	if err := c.qdrant.Close(); err != nil {
		return fmt.Errorf("close qdrant: %w", err)
	}
	return nil
}

// Health reports whether the server answers.
func (c *Client) Health(ctx context.Context) error {
	_, err := c.qdrant.HealthCheck(ctx)
	return translate("ask qdrant for its health", err)
}

// observe traces a call, without its content, and bounds it.
func observe(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, span := otel.Tracer("bookworm/internal/vector").Start(ctx, "qdrant "+path.Base(method),
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("db.system.name", "qdrant"), attribute.String("db.operation.name", strings.TrimPrefix(method, "/"))))
	defer span.End()
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	err := invoke(ctx, method, req, reply, conn, opts...)
	if err != nil {
		span.SetStatus(otelcodes.Error, status.Code(err).String())
	}
	return err
}

// translate wraps the error of a call in the package's words; nil stays nil. A
// call that ran out of time is both unavailable and context.DeadlineExceeded.
func translate(operation string, err error) error {
	if err == nil {
		return nil
	}
	if _, limited := errors.AsType[*qdrant.QdrantResourceExhaustedError](err); limited {
		return unavailable(operation, err)
	}
	s, _ := status.FromError(err)
	switch s.Code() {
	case codes.Unavailable, codes.ResourceExhausted:
		return unavailable(operation, err)
	case codes.DeadlineExceeded:
		return unavailable(operation, fmt.Errorf("%w: %w", context.DeadlineExceeded, err))
	case codes.Canceled:
		return fmt.Errorf("%s: %w: %w", operation, context.Canceled, err)
	case codes.NotFound:
		return fmt.Errorf("%s: %w: %w", operation, ErrNoCollection, err)
	case codes.InvalidArgument:
		// Qdrant has one code for all that is wrong, and says which in its text.
		if strings.Contains(s.Message(), "Vector dimension error") {
			return fmt.Errorf("%s: %w: %w", operation, ErrDimension, err)
		}
	default: // nothing that callers tell apart
	}
	return fmt.Errorf("%s: %w", operation, err)
}

func unavailable(operation string, err error) error {
	return fault.New(fault.ReasonUnavailable, "The search index does not answer.").WithCause(fmt.Errorf("%s: %w", operation, err))
}
