package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"bookworm/internal/fault"
	"bookworm/internal/rpc"
)

const (
	// publicCache is for answers that are the same for everybody: half a minute
	// of an old price is no harm, because an order is priced when it is placed.
	publicCache = "public, max-age=30"
	// maxAnswer is the largest answer taken from a backend, in bytes.
	maxAnswer = 16 << 20
	// replayed is the header of an answer that was given before.
	replayed = "Idempotent-Replayed"
)

// written is how messages are written as JSON.
var written = protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}

// dial makes the connection over which REST calls reach a backend. It connects
// when first used and again within a second after a backend came back.
func dial(base *url.URL, breaker *rpc.Breaker) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if base.Scheme == "https" {
		transport = credentials.NewTLS(nil)
	}
	connection, err := grpc.NewClient(base.Host,
		grpc.WithTransportCredentials(transport),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithUnaryInterceptor(unaryBehind(breaker)),
		grpc.WithStreamInterceptor(streamBehind(breaker)),
	)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", base.Host, err)
	}
	return connection, nil
}

func unaryBehind(b *rpc.Breaker) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, in, out any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
		return behind(ctx, b, func() error { return invoke(ctx, method, in, out, c, o...) })
	}
}

// streamBehind asks the breaker when a stream is opened. What happens to it later
// says little of the service.
func streamBehind(b *rpc.Breaker) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, c *grpc.ClientConn, method string, open grpc.Streamer, o ...grpc.CallOption) (
		stream grpc.ClientStream, err error,
	) {
		err = behind(ctx, b, func() error {
			stream, err = open(ctx, desc, c, method, o...)
			return err
		})
		return stream, err
	}
}

// behind makes a call behind a breaker. An error that the service gave, which has
// a reason, shows that it is there.
func behind(ctx context.Context, breaker *rpc.Breaker, call func() error) error {
	done, err := breaker.Allow()
	if err != nil {
		return status.Error(codes.Unavailable, "the breaker is open")
	}
	err = call()
	switch answer := status.Convert(err); {
	case errors.Is(ctx.Err(), context.Canceled):
		done(context.Canceled)
	case answer.Code() == codes.DeadlineExceeded, answer.Code() == codes.Unavailable && len(answer.Details()) == 0:
		done(err)
	default:
		done(nil)
	}
	return err
}

// translator makes the mux that turns REST into gRPC.
func (g *gateway) translator() *runtime.ServeMux {
	return runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &marshaler{runtime.JSONPb{MarshalOptions: written}}),
		runtime.WithIncomingHeaderMatcher(func(name string) (string, bool) {
			switch name {
			case "Idempotency-Key", "If-Match", "Traceparent", "Tracestate": // Authorization goes by itself
				return strings.ToLower(name), true
			}
			return "", false
		}),
		runtime.WithOutgoingHeaderMatcher(func(name string) (string, bool) {
			return replayed, strings.EqualFold(name, replayed)
		}),
		runtime.WithOutgoingTrailerMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithForwardResponseOption(conditional),
		runtime.WithMiddlewares(g.checked),
		runtime.WithErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
			g.failed(w, r, err)
		}),
		runtime.WithRoutingErrorHandler(g.unrouted),
		runtime.WithDisablePathLengthFallback(), // and with it X-HTTP-Method-Override
	)
}

// serveREST answers below /api/v1. HEAD is GET without the body; a stream has none.
func (g *gateway) serveREST(w http.ResponseWriter, r *http.Request) {
	if !utf8.ValidString(r.URL.Path) {
		g.refuse(w, r, fault.New(fault.ReasonMalformedRequest, "The path is not UTF-8."))
		return
	}
	out := r.WithContext(r.Context())
	out.Header = r.Header.Clone()
	for _, header := range []string{"Grpc-Timeout", "Te"} { // mean something to the translator, and nothing in REST
		out.Header.Del(header)
	}
	rewriteHeaders(r.Context(), out.Header)
	if out.Method == http.MethodHead {
		for _, known := range g.routes {
			if known.streams() && known.matches(r.URL.Path) {
				if f := g.countStranger(w, r); f != nil {
					g.refuse(w, r, f)
				} else {
					g.refuseMethod(w, r, known.verb)
				}
				return
			}
		}
		out.Method = http.MethodGet
	}
	g.rest.ServeHTTP(w, out)
}

// unrouted answers where the translator has no procedure.
func (g *gateway) unrouted(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	if f := g.countStranger(w, r); f != nil {
		g.refuse(w, r, f)
		return
	}
	switch code {
	case http.StatusMethodNotAllowed:
		var allowed []string
		for _, known := range g.routes {
			if !known.matches(r.URL.Path) {
				continue
			}
			allowed = append(allowed, known.verb)
			if known.verb == http.MethodGet && !known.streams() {
				allowed = append(allowed, http.MethodHead)
			}
		}
		if len(allowed) == 0 {
			g.refuse(w, r, fault.New(fault.ReasonNotFound, "There is nothing at this path."))
			return
		}
		slices.Sort(allowed)
		g.refuseMethod(w, r, slices.Compact(allowed)...)
	case http.StatusNotFound:
		g.refuse(w, r, fault.New(fault.ReasonNotFound, "There is nothing at this path."))
	default:
		g.refuseWith(w, r, code, fault.New(fault.ReasonMalformedRequest, "The path cannot be read."))
	}
}

func (g *gateway) refuseMethod(w http.ResponseWriter, r *http.Request, allowed ...string) {
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	g.refuseWith(w, r, http.StatusMethodNotAllowed, fault.New(fault.ReasonNotFound, "This path does not take %s.", r.Method))
}

// checked stands before every REST call: access by the procedure's rule, then
// the body and the query. A call with one answer has until the timeout; one with a
// stream of them is answered here.
func (g *gateway) checked(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, parameters map[string]string) {
		pattern, _ := runtime.HTTPPattern(r.Context())
		known, ok := g.routes[r.Method+" "+pattern.String()]
		if !ok { // no rule is known for it, so nobody may
			g.refuse(w, r, fault.New(fault.ReasonInternal, "").WithCause(fmt.Errorf("no route for %s %s", r.Method, pattern)))
			return
		}
		// To the translator the verb of another route is part of the last variable.
		if strings.Contains(path.Base(r.URL.Path), ":") && !known.matches(r.URL.Path) {
			g.unrouted(r.Context(), nil, nil, w, r, http.StatusMethodNotAllowed)
			return
		}
		g.named(r, known.template)
		timed, cancel := context.WithTimeout(r.Context(), g.timeout)
		defer cancel()
		caller, f := g.access(w, r.WithContext(timed), known.method, g.classOf(known.method))
		if f != nil {
			g.refuse(w, r, f)
			return
		}
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil { // the translator would leave out what it cannot read
			g.refuse(w, r, fault.New(fault.ReasonMalformedRequest, "The query cannot be read.").WithCause(err))
			return
		}
		for name, values := range query {
			if !utf8.ValidString(strings.Join(values, "")) {
				g.refuse(w, r, fault.New(fault.ReasonMalformedRequest, "The query parameter %q is not UTF-8.", name).WithField(name, "is not UTF-8"))
				return
			}
			if !known.hasQuery(name) {
				g.refuse(w, r, fault.New(fault.ReasonMalformedRequest, "unknown query parameter %q", name).
					WithField(name, "is not a query parameter of this request"))
				return
			}
		}
		if err := plainHeaders(r.Header); err != nil {
			g.refuse(w, r, err)
			return
		}
		if known.body == "" {
			r.Body = http.NoBody
		} else if !g.readable(w, r) {
			return
		}
		end, f := g.begin(r, known.streams(), rpc.LimitOf(known.method), callerOf(r, caller))
		if f != nil {
			g.refuse(w, r, f)
			return
		}
		defer end()
		if known.streams() {
			g.stream(w, r, known, parameters)
			return
		}
		ctx := context.WithValue(timed, conditionKey{}, condition{known, r.Header.Get("If-None-Match")})
		next(w, r.WithContext(ctx), parameters)
	}
}

// plainHeaders says whether the headers that decide what a call does arrive as they
// were sent: nil or the fault. The translator drops a value that gRPC cannot carry, and
// without its If-Match a change would be made to whichever version there is.
func plainHeaders(header http.Header) *fault.Error {
	for _, name := range []string{"Idempotency-Key", "If-Match"} {
		values := header.Values(name)
		unfit := func(r rune) bool { return r < ' ' || r > '~' }
		if len(values) > 1 || len(values) == 1 && strings.ContainsFunc(values[0], unfit) {
			const problem = "must be one value of visible ASCII characters"
			return fault.New(fault.ReasonInvalidArgument, "The %s header %s.", name, problem).WithField(name, problem)
		}
	}
	return nil
}

// readable checks the body's type and reads it whole, up to the limit. Where it
// is not to be read, it has answered.
func (g *gateway) readable(w http.ResponseWriter, r *http.Request) bool {
	kind := r.Header.Get("Content-Type")
	if media, _, err := mime.ParseMediaType(kind); kind != "" && (err != nil || media != "application/json") {
		w.Header().Set("Accept", "application/json")
		g.refuseWith(w, r, http.StatusUnsupportedMediaType, fault.New(fault.ReasonMalformedRequest, "The body must be application/json."))
		return false
	}
	if coding := r.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		g.refuseWith(w, r, http.StatusUnsupportedMediaType, fault.New(fault.ReasonMalformedRequest, "The body must not be compressed."))
		return false
	}
	size, f := g.settle(w, r, rpc.MaxRequest)
	if f != nil {
		g.refuse(w, r, f)
		return false
	}
	if size > 0 && kind == "" {
		g.refuseWith(w, r, http.StatusUnsupportedMediaType, fault.New(fault.ReasonMalformedRequest, "Say Content-Type: application/json."))
		return false
	}
	return true
}

// marshaler is protobuf JSON under the field names of the contract, zero values
// written out. It reads strictly: what follows the first JSON value, and a field
// that the request does not have, are errors.
type marshaler struct{ runtime.JSONPb }

// NewDecoder implements runtime.Marshaler.
func (m *marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		body, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("read the body: %w", err)
		}
		if len(body) == 0 {
			return io.EOF // to the translator an empty request
		}
		if err := m.Unmarshal(masked(body), v); err != nil {
			return err //nolint:wrapcheck // its text is what the caller reads
		}
		if !json.Valid(body) {
			return errors.New("there is more after the JSON value")
		}
		return nil
	})
}

var underscored = regexp.MustCompile(`_[a-z0-9]`)

// masked lets an update mask name fields as the contract and all JSON here do.
// Protobuf's JSON knows the names in a mask in lowerCamelCase alone, which stay
// good. What is no JSON object with a mask is returned as it is.
func masked(body []byte) []byte {
	reader := json.NewDecoder(bytes.NewReader(body))
	if token, err := reader.Token(); err != nil || token != json.Delim('{') {
		return body
	}
	for reader.More() {
		key, err := reader.Token()
		if err != nil {
			return body
		}
		var value json.RawMessage
		if err := reader.Decode(&value); err != nil {
			return body
		}
		if key == "update_mask" || key == "updateMask" {
			end := int(reader.InputOffset())
			camel := underscored.ReplaceAllFunc(value, func(found []byte) []byte { return bytes.ToUpper(found[1:]) })
			return slices.Concat(body[:end-len(value)], camel, body[end:])
		}
	}
	return body
}

// condition is what a request asks of the version of its answer.
type condition struct {
	route       route
	ifNoneMatch string
}

type conditionKey struct{}

// conditional sets ETag and Cache-Control on an answer that was a success, and
// answers 304 where the client has that version. The version is the message's
// own etag; a public answer without one gets its digest.
func conditional(ctx context.Context, w http.ResponseWriter, answer proto.Message) error {
	asked, _ := ctx.Value(conditionKey{}).(condition)
	read := asked.route.verb == http.MethodGet
	tag := etagOf(answer)
	if read && isPublic(asked.route.method) {
		w.Header().Set("Cache-Control", publicCache)
		if tag == "" {
			var err error
			if tag, err = digest(answer); err != nil {
				return err
			}
		}
	}
	if tag == "" {
		return nil
	}
	w.Header().Set("ETag", `"`+tag+`"`)
	if read && matches(asked.ifNoneMatch, tag) {
		w.WriteHeader(http.StatusNotModified) // what the translator writes after it is dropped
	}
	return nil
}

// etagOf returns the etag of the message that makes the answer's body, or "".
func etagOf(answer proto.Message) string {
	var body any = answer
	if wrapped, ok := answer.(interface{ XXX_ResponseBody() any }); ok {
		body = wrapped.XXX_ResponseBody()
	}
	versioned, ok := body.(interface{ GetEtag() string })
	if !ok {
		return ""
	}
	tag := versioned.GetEtag()
	if strings.ContainsFunc(tag, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }) {
		return "" // not to be put into a header
	}
	return tag
}

func digest(answer proto.Message) (string, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(answer)
	if err != nil {
		return "", fmt.Errorf("digest the answer: %w", err)
	}
	sum := sha256.Sum256(raw)
	return base64.RawURLEncoding.EncodeToString(sum[:12]), nil
}

// matches reports whether an If-None-Match header names the version (RFC 9110,
// section 13.1.2: a list, compared weakly, or a star).
func matches(ifNoneMatch, tag string) bool {
	for candidate := range strings.SplitSeq(ifNoneMatch, ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || strings.TrimPrefix(candidate, "W/") == `"`+tag+`"` {
			return true
		}
	}
	return false
}
