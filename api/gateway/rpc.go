package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	"bookworm/internal/identity"
	"bookworm/internal/rpc"
	"bookworm/internal/telemetry"
)

// procedure is a call that may come from outside, and the way to its context.
type procedure struct {
	method protoreflect.MethodDescriptor
	proxy  http.Handler
}

// serveRPC hands a Connect, gRPC or gRPC-Web call to its context, if its rule lets
// the caller in. A procedure for the shop's own services does not exist here.
func (g *gateway) serveRPC(w http.ResponseWriter, r *http.Request) {
	called, ok := g.procedures[r.URL.Path]
	if !ok {
		if r.Method != http.MethodPost || !g.rpcErrors.IsSupported(r) {
			g.refuseStranger(w, r, fault.New(fault.ReasonNotFound, "There is nothing at this path."))
			return
		}
		if f := g.countStranger(w, r); f != nil {
			g.refuseRPC(w, r, f)
			return
		}
		unknown := rpc.Coded(fault.New(fault.ReasonNotFound, "There is no such procedure."))
		unimplemented := connect.NewError(connect.CodeUnimplemented, unknown.Message())
		for _, detail := range unknown.Details() {
			unimplemented = unimplemented.WithDetail(detail)
		}
		g.writeRPC(missing{w, http.StatusNotFound}, r, unimplemented)
		return
	}
	g.named(r, r.URL.Path)
	caller, f := g.access(w, r, called.method, g.classOf(called.method))
	if f != nil {
		g.refuseRPC(w, r, f)
		return
	}
	streaming := called.method.IsStreamingServer()
	if !streaming {
		ctx, cancel := context.WithTimeout(r.Context(), g.limits.unary)
		defer cancel()
		r = r.WithContext(ctx)
	}
	// The whole body first: no place is held for a client that is slow to send it.
	if _, f := g.settle(w, r, maxMessage); f != nil {
		g.refuseRPC(w, r, f)
		return
	}
	end, f := g.begin(r, streaming, rpc.LimitOf(called.method), callerOf(r, caller))
	if f != nil {
		g.refuseRPC(w, r, f)
		return
	}
	defer end()
	w.Header().Del("Cache-Control")                                        // the answer gets its own
	called.proxy.ServeHTTP(missing{w, http.StatusUnsupportedMediaType}, r) // of a known procedure only a coding can be missing
}

// missing is a writer for what the caller asked for and the shop does not have. In
// Connect's mapping unimplemented is 501, which monitors take for a failure of the
// shop; clients read the code from the body.
type missing struct {
	http.ResponseWriter

	status int
}

// WriteHeader writes the status that is in place of 501.
func (w missing) WriteHeader(status int) {
	if status == http.StatusNotImplemented {
		status = w.status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w missing) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// refuseRPC answers with a fault in the caller's protocol.
func (g *gateway) refuseRPC(w http.ResponseWriter, r *http.Request, f *fault.Error) {
	if !g.rpcErrors.IsSupported(r) {
		g.refuse(w, r, f)
		return
	}
	switch f.Kind() {
	case fault.Internal:
		g.logger.ErrorContext(r.Context(), "call failed", "procedure", r.URL.Path, "error", f)
	case fault.Unavailable:
		sayRetry(w.Header())
		if f.Reason != fault.ReasonOverloaded {
			g.logger.WarnContext(r.Context(), "call not served", "procedure", r.URL.Path, "error", f)
		}
	case fault.Limited:
		sayRetry(w.Header())
	case fault.Unauthenticated:
		w.Header().Set("WWW-Authenticate", "Bearer")
	default:
	}
	g.writeRPC(w, r, withRetry(rpc.Coded(f), w.Header().Get("Retry-After")))
}

// withRetry adds google.rpc.RetryInfo to an error whose caller may come back.
func withRetry(coded *connect.Error, seconds string) *connect.Error {
	n, err := strconv.Atoi(seconds)
	if err != nil {
		return coded
	}
	detail, err := connectproto.NewErrorDetail(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(n) * time.Second)})
	if err != nil {
		return coded // the header says it too
	}
	return coded.WithDetail(detail)
}

// maxMessage is the largest body of a call, which a message of rpc.MaxRequest with
// its framing fits into, in bytes. The service looks at each message.
const maxMessage = 2 * rpc.MaxRequest

// settle reads the body whole, within its limits of size and time, puts it back
// and returns its size. Errors: REQUEST_TOO_LARGE, MALFORMED_REQUEST.
func (g *gateway) settle(w http.ResponseWriter, r *http.Request, most int64) (size int, f *fault.Error) {
	if r.Body == http.NoBody {
		return 0, nil
	}
	g.boundBody(w, r)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return 0, fault.New(fault.ReasonRequestTooLarge, "The body has more than %d MiB.", most>>20)
	}
	if err != nil {
		return 0, fault.New(fault.ReasonMalformedRequest, "The body did not arrive whole.").WithCause(err)
	}
	g.readUntil(w, r, time.Time{}) // the answer may take longer
	r.Body = io.NopCloser(bytes.NewReader(body))
	return len(body), nil
}

// callerOf is who a request's streams are counted for.
func callerOf(r *http.Request, caller identity.Caller) string {
	if caller.Anonymous() {
		return addressOf(r)
	}
	return "subject " + caller.Subject
}

func (g *gateway) writeRPC(w http.ResponseWriter, r *http.Request, coded *connect.Error) {
	if err := g.rpcErrors.Write(w, r, coded); err != nil {
		g.logger.DebugContext(r.Context(), "answer not sent", "error", err) // the client went away
	}
}

// proxy returns the way to one context for all its procedures.
func (g *gateway) proxy(base *url.URL, transport http.RoundTripper) *httputil.ReverseProxy {
	proxy := g.newProxy(base, transport)
	proxy.ModifyResponse = func(response *http.Response) error {
		response.Header.Set("Cache-Control", "private, no-store")
		called, ok := g.procedures[recordOf(response.Request.Context()).route]
		good := response.StatusCode == http.StatusOK || response.StatusCode == http.StatusNotModified
		if ok && good && response.Request.Method == http.MethodGet && isPublic(called.method) {
			response.Header.Set("Cache-Control", publicCache)
			return cacheable(response)
		}
		return nil
	}
	proxy.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
		w.Header().Set("Cache-Control", "private, no-store")
		if errors.Is(err, context.Canceled) {
			g.writeRPC(w, r, connect.NewError(connect.CodeCanceled, "The call was cancelled.")) // mostly to nobody
			return
		}
		g.refuseRPC(w, r, fault.New(fault.ReasonUnavailable, "A part of the shop cannot be reached.").WithCause(err))
	}
	return proxy
}

// cacheable gives a public answer to a GET an ETag, the service's own or else its
// digest, and turns it into 304 where the client has that version.
func cacheable(response *http.Response) error {
	tag := strings.Trim(response.Header.Get("ETag"), `"`)
	if tag == "" {
		body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		response.Body = io.NopCloser(bytes.NewReader(body))
		sum := sha256.Sum256(body)
		tag = base64.RawURLEncoding.EncodeToString(sum[:12])
		response.Header.Set("ETag", `"`+tag+`"`)
	}
	if !matches(response.Request.Header.Get("If-None-Match"), tag) {
		return nil
	}
	if err := response.Body.Close(); err != nil {
		return fmt.Errorf("leave the answer: %w", err)
	}
	response.StatusCode, response.Body = http.StatusNotModified, http.NoBody
	for _, name := range []string{"Content-Length", "Content-Type", "Content-Encoding"} {
		response.Header.Del(name)
	}
	return nil
}

// rewriteHeaders gives a request on its way to a backend this request's trace,
// and the version it is conditional on in the form that messages use.
func rewriteHeaders(ctx context.Context, header http.Header) {
	telemetry.Propagator().Inject(ctx, propagation.HeaderCarrier(header))
	if conditions := header.Values("If-Match"); len(conditions) == 1 {
		switch version := versionOf(conditions[0]); {
		case strings.TrimSpace(conditions[0]) == "*":
			header.Del("If-Match")
		case version != "": // an empty version is no version, and the service says so
			header.Set("If-Match", version)
		}
	}
}

// serveReflection answers questions about the contract, which are streams.
func (g *gateway) serveReflection(w http.ResponseWriter, r *http.Request) {
	f := g.countStranger(w, r)
	var end func()
	if f == nil {
		end, f = g.begin(r, true, accessv1.Limit_LIMIT_BROWSE, addressOf(r))
	}
	if f != nil {
		g.refuseRPC(w, r, f)
		return
	}
	defer end()
	ctx, cancel := context.WithTimeout(r.Context(), g.limits.unary)
	defer cancel()
	g.readUntil(w, r, time.Now().Add(g.limits.unary))
	g.reflection.ServeHTTP(w, r.WithContext(ctx))
}

// reflect serves gRPC reflection of what can be called from outside.
func (g *gateway) reflect() http.Handler {
	var services []string
	for _, called := range g.procedures {
		services = append(services, string(called.method.Parent().FullName()))
	}
	slices.Sort(services)
	services = slices.Compact(services)
	return rpc.Reflection(services)
}

// webhookPath is where the payment provider reports; the finance context serves
// the same path and checks the signature over the raw body.
const webhookPath = "/webhooks/stripe"

// plainProxy returns the way to a context for requests that are no calls of its
// procedures.
func (g *gateway) plainProxy(base *url.URL, transport http.RoundTripper) http.Handler {
	proxy := g.newProxy(base, transport)
	proxy.ModifyResponse = func(response *http.Response) error {
		response.Header.Del("Cache-Control") // the gateway's own stands
		return nil
	}
	proxy.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
		g.refuse(w, r, fault.New(fault.ReasonUnavailable, "A part of the shop cannot be reached.").WithCause(err))
	}
	return proxy
}

// serveWebhook passes the provider's report on as it is. It carries a signature
// in place of an access token.
func (g *gateway) serveWebhook(w http.ResponseWriter, r *http.Request) {
	g.named(r, webhookPath)
	if r.Method != http.MethodPost {
		g.refuseMethod(w, r, http.MethodPost)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), g.limits.unary)
	defer cancel()
	r = r.WithContext(ctx)
	f := g.count(w, r, g.counter.classes.webhook, addressOf(r))
	if f == nil {
		_, f = g.settle(w, r, rpc.MaxRequest)
	}
	var end func()
	if f == nil {
		end, f = g.begin(r, false, accessv1.Limit_LIMIT_WRITE, "")
	}
	if f != nil {
		g.refuse(w, r, f)
		return
	}
	defer end()
	g.webhooks.ServeHTTP(w, r)
}

// versionOf returns the opaque version in an If-Match header, as messages carry it
// in etag.
func versionOf(condition string) string {
	return strings.Trim(strings.TrimPrefix(strings.TrimSpace(condition), "W/"), `"`)
}
