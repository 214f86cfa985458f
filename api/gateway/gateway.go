// Package gateway is the shop's one public door. On one port it takes Connect,
// gRPC and gRPC-Web calls and hands them to the context that owns the service,
// translates REST under /api/v1 into the same calls (streams into server-sent
// events), and passes on the payment provider's webhooks and what other people's
// agents say over MCP and A2A. It owns no data.
//
// Every call is checked here by the rule of its procedure before it goes any
// further, and again by the service: nobody has to trust that a request came
// through the door.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"connectrpc.com/connect/v2/connecthttp"
	connectcors "connectrpc.com/cors"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/rs/cors"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"bookworm/internal/fault"
	"bookworm/internal/limit"
	"bookworm/internal/rpc"
	"bookworm/internal/telemetry"
	"bookworm/internal/waf"
)

// Options is what the gateway needs of its process.
type Options struct {
	// Backends are the addresses of the contexts by name, for example "catalog":
	// "http://127.0.0.1:8081". A context that is not named is not served.
	Backends map[string]string
	// Verifier tells whose an access token is. Required.
	Verifier rpc.Verifier
	// Logger gets one line a request, and errors. Nil: slog's default.
	Logger *slog.Logger
	// TracerProvider and MeterProvider; nil: the global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	// CORSOrigins are the web pages that may call, for example
	// https://shop.example; none when empty.
	CORSOrigins []string
	// Timeout bounds a REST call with one answer; 10 s when 0. Calls of the other
	// protocols bring their own deadline or get the service's.
	Timeout time.Duration
	// Limiter counts calls; nil: nobody is limited. Limits are how many there may be.
	Limiter *limit.Limiter
	Limits  Limits
	// Breakers gets a circuit breaker for each of Backends, under its name. Nil: the
	// gateway makes its own.
	Breakers *rpc.Breakers
	// TrustedProxies are the networks of the proxies before the gateway, which say in
	// X-Forwarded-For for whom they ask. Nobody else is believed.
	TrustedProxies []netip.Prefix
	// Firewall looks for attacks in what comes in; nil: nobody looks.
	Firewall *waf.Firewall
	// Status serves the health page, /status and /status.json; nil: there is none.
	Status http.Handler
	// HSTS tells browsers to come by TLS only.
	HSTS bool
}

const defaultTimeout = 10 * time.Second

// limits are the times nobody needs to set; tests shorten them.
type limits struct {
	// unary bounds a call with one answer that is handed on, whatever deadline it
	// brings. Streams last as long as the service lets them.
	unary time.Duration
	// heartbeat is how often a silent stream of events shows that it is alive.
	heartbeat time.Duration
	// body is how long a client may take to send its body.
	body time.Duration
	// write is how long a client may take to accept a piece of an answer before it is
	// given up.
	write time.Duration
	// streams and streamsEach bound the streams at once, of all and of one caller.
	streams, streamsEach int
}

var usual = limits{
	unary: time.Minute, heartbeat: 15 * time.Second, body: 20 * time.Second, write: 30 * time.Second, streams: 5000, streamsEach: 16,
}

// gateway holds what the handlers share; it does not change after New.
type gateway struct {
	logger   *slog.Logger
	verifier rpc.Verifier
	timeout  time.Duration
	limits   limits
	hsts     bool
	proxies  proxies
	counter  *counter
	shedder  *shedder
	streams  *streams
	breakers *rpc.Breakers

	procedures map[string]procedure // by path
	routes     map[string]route     // by the translator's name of the pattern
	prefixes   map[string][]prefix  // of routes, by HTTP method
	reflection http.Handler
	pages      map[string]page // the OpenAPI document and the page to read it, by path
	rest       *runtime.ServeMux
	status     http.Handler // nil: no page
	webhooks   http.Handler // nil without the finance context
	agents     http.Handler // nil without the chat context
	cors       *cors.Cors   // nil: no web page may call
	rpcErrors  *connecthttp.ErrorWriter
}

// New returns the gateway's handler. It does not wait for the backends; calls to
// one that is away are UNAVAILABLE. Connections to backends last as long as the
// process.
func New(ctx context.Context, options Options) (http.Handler, error) {
	return within(ctx, options, usual)
}

func within(ctx context.Context, options Options, limits limits) (http.Handler, error) {
	if options.Verifier == nil {
		return nil, errors.New("the gateway needs a verifier of access tokens")
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Timeout == 0 {
		options.Timeout = defaultTimeout
	}
	g := &gateway{
		logger: options.Logger, verifier: options.Verifier, timeout: options.Timeout, limits: limits,
		hsts: options.HSTS, status: options.Status, proxies: options.TrustedProxies,
		streams:    &streams{most: limits.streams, each: limits.streamsEach, byCaller: make(map[string]int)},
		procedures: make(map[string]procedure), routes: make(map[string]route),
		rpcErrors: connecthttp.NewErrorWriter(),
	}
	var err error
	if g.pages, err = pages(); err != nil {
		return nil, err
	}
	if err := g.protect(options); err != nil {
		return nil, err
	}
	if err := g.connect(ctx, options.Backends); err != nil {
		return nil, err
	}
	return g.around(options), nil
}

// protect makes what keeps callers from taking the shop from each other.
func (g *gateway) protect(options Options) (err error) {
	provider := options.MeterProvider
	if provider == nil {
		provider = otel.GetMeterProvider()
	}
	meter := provider.Meter("bookworm/gateway")
	if g.counter, err = newCounter(options.Limiter, options.Limits); err != nil {
		return err
	}
	if g.shedder, err = newShedder(g.logger, meter); err != nil {
		return err
	}
	if g.breakers = options.Breakers; g.breakers == nil {
		g.breakers, err = rpc.NewBreakers(g.logger, meter)
	}
	return err
}

// connect makes the ways to the backends.
func (g *gateway) connect(ctx context.Context, backends map[string]string) error {
	g.rest = g.translator()
	shared := rpc.Transport()
	for name, address := range backends {
		known, ok := contracts[name]
		if !ok {
			return fmt.Errorf("the gateway knows no context %q", name)
		}
		base, err := url.Parse(address)
		if err != nil {
			return fmt.Errorf("parse the address of %s: %w", name, err)
		}
		if base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
			return fmt.Errorf("the address %q of %s is not an http address", address, name)
		}
		breaker := g.breakers.Of(name)
		connection, err := dial(base, breaker)
		if err != nil {
			return fmt.Errorf("make the connection to %s: %w", name, err)
		}
		transport := breaker.Transport(shared)
		proxy := g.proxy(base, transport)
		for _, method := range known.methods() {
			g.procedures[procedureOf(method)] = procedure{method: method, proxy: proxy}
			if r, ok := routeOf(method, connection); ok {
				g.routes[r.key()] = r
			}
		}
		for _, register := range known.rest {
			if err := register(ctx, g.rest, connection); err != nil {
				return fmt.Errorf("register the REST routes of %s: %w", name, err)
			}
		}
		switch name {
		case "finance":
			g.webhooks = g.plainProxy(base, transport)
		case "chat":
			g.agents = g.plainProxy(base, transport)
		}
	}
	g.reflection = g.reflect()
	g.prefixes = prefixesOf(g.routes)
	return nil
}

// around adds what every request gets, whatever it asks for.
func (g *gateway) around(options Options) http.Handler {
	var handler http.Handler = http.HandlerFunc(g.route)
	if options.Firewall != nil {
		handler = g.guarded(options.Firewall, handler)
	}
	if len(options.CORSOrigins) > 0 { // the library takes an empty list for everyone
		g.cors = cors.New(cors.Options{
			AllowedOrigins: options.CORSOrigins,
			AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete},
			AllowedHeaders: append(connectcors.AllowedHeaders(), "Authorization", "Idempotency-Key", "If-Match", "If-None-Match", "Traceparent",
				"Last-Event-Id", "Mcp-Method", "Mcp-Name", "Mcp-Protocol-Version"),
			ExposedHeaders: append(connectcors.ExposedHeaders(), "ETag", "Idempotent-Replayed", "Retry-After", "WWW-Authenticate", requestID,
				limitPolicy, limitLeft),
			MaxAge: 7200,
		})
		handler = g.cors.Handler(handler)
	}
	handler = g.observe(handler)
	tracing := []otelhttp.Option{
		otelhttp.WithPropagators(telemetry.Propagator()),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return methodOf(r) }),
		otelhttp.WithServerName("gateway"), // not the Host header, with which a stranger could make a series each
	}
	if options.TracerProvider != nil {
		tracing = append(tracing, otelhttp.WithTracerProvider(options.TracerProvider))
	}
	if options.MeterProvider != nil {
		tracing = append(tracing, otelhttp.WithMeterProvider(options.MeterProvider))
	}
	handler = g.shed(otelhttp.NewHandler(handler, "gateway", tracing...))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = g.proxies.decided(r)
		r.Pattern = "" // of a mux around the gateway; the route is what named says
		handler.ServeHTTP(w, r)
	})
}

// route sends a request to the part that answers it.
func (g *gateway) route(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 {
		// A length beside the chunks is gone by now. Where a proxy in front believed it,
		// the two disagree on where the next request begins, so there is none (RFC 9112,
		// section 6.3).
		w.Header().Set("Connection", "close")
	}
	if methodOf(r) == "_OTHER" { // over HTTP/2 it may be no method at all, which no transport sends on
		g.refuseMethod(w, r, http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPatch, http.MethodPost, http.MethodPut)
		return
	}
	if f := checkHeaders(r); f != nil {
		if strings.HasPrefix(r.URL.Path, "/bookworm.") {
			g.refuseRPC(w, r, f)
			return
		}
		g.refuse(w, r, f)
		return
	}
	if asked, ok := g.pages[r.URL.Path]; ok {
		g.servePage(w, r, asked)
		return
	}
	switch path := r.URL.Path; {
	case strings.HasPrefix(path, "/bookworm."):
		g.serveRPC(w, r)
	case strings.HasPrefix(path, "/grpc.reflection."):
		g.named(r, path)
		g.serveReflection(w, r)
	case strings.HasPrefix(path, "/api/v1/"):
		g.serveREST(w, r)
	case (path == "/status" || path == "/status.json") && g.status != nil:
		g.serveStatus(w, r)
	case path == webhookPath && g.webhooks != nil:
		g.serveWebhook(w, r)
	case isAgentPath(path) && g.agents != nil:
		g.serveAgent(w, r)
	default:
		g.refuseStranger(w, r, fault.New(fault.ReasonNotFound, "There is nothing at this path."))
	}
}

// guarded has a firewall look at requests before they are routed. The provider's
// webhooks are signed, and hold what others wrote.
func (g *gateway) guarded(firewall *waf.Firewall, next http.Handler) http.Handler {
	guard := firewall.Guard(next, func(w http.ResponseWriter, r *http.Request) {
		f := g.countStranger(w, r)
		if f == nil {
			f = fault.New(fault.ReasonRequestBlocked, "")
		}
		if strings.HasPrefix(r.URL.Path, "/bookworm.") {
			g.refuseRPC(w, r, f)
			return
		}
		g.refuse(w, r, f)
	}, rpc.MaxRequest, g.limits.body)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == webhookPath {
			next.ServeHTTP(w, r)
			return
		}
		guard.ServeHTTP(w, r)
	})
}

// serveStatus answers with the health page, which is ready: it costs no more than
// the refusal of one who asks too often.
func (g *gateway) serveStatus(w http.ResponseWriter, r *http.Request) {
	g.named(r, r.URL.Path)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		g.refuseMethod(w, r, http.MethodGet, http.MethodHead)
		return
	}
	g.status.ServeHTTP(w, r)
}

// refuseStranger answers a request for what is not there, and counts it.
func (g *gateway) refuseStranger(w http.ResponseWriter, r *http.Request, f *fault.Error) {
	if limited := g.countStranger(w, r); limited != nil {
		f = limited
	}
	g.refuse(w, r, f)
}

// requestID is the response header that carries the trace's id, by which the
// shop's logs and traces of a request are found.
const requestID = "X-Request-Id"

// unsaid blanks what the tracing library notes of the path and the caller.
var unsaid = []attribute.KeyValue{
	attribute.String("url.path", ""), attribute.String("client.address", ""), attribute.String("network.peer.address", ""),
	attribute.String("user_agent.original", ""),
}

// observe gives each request a trace id, the headers of every answer and a line
// in the log. Line and span say nothing of the path beyond its template, nothing
// of the query and nothing of the caller.
func (g *gateway) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		seen := &record{ResponseWriter: w, patience: g.limits.write}
		ctx := context.WithValue(telemetry.EnsureTrace(r.Context()), recordKey{}, seen)
		r = r.WithContext(ctx)
		trace.SpanFromContext(ctx).SetAttributes(unsaid...)

		dress(ctx, w.Header(), g.hsts)
		if tooMany(r) {
			g.refuseWith(seen, r, http.StatusRequestHeaderFieldsTooLarge,
				fault.New(fault.ReasonMalformedRequest, "The request has more than %d headers, or more than %d KiB of them.", maxHeaders, maxHeaderSize>>10))
			return
		}
		defer seen.done()

		defer func() {
			value := recover()
			if value != nil && value != http.ErrAbortHandler { //nolint:errorlint // the HTTP server compares it the same way
				g.logger.ErrorContext(ctx, "gateway panicked", "route", seen.route, "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
				if seen.status == 0 {
					g.refuse(seen, r, fault.New(fault.ReasonInternal, ""))
				}
			}
			g.logger.InfoContext(ctx, "request", "method", methodOf(r), "route", seen.route, "status", seen.status,
				"duration_ms", float64(time.Since(started).Microseconds())/1000)
			if value == http.ErrAbortHandler { //nolint:errorlint // as above
				panic(value)
			}
		}()
		next.ServeHTTP(seen, r)
	})
}

// dress sets the headers of every answer.
func dress(ctx context.Context, header http.Header, hsts bool) {
	header.Set(requestID, telemetry.TraceID(ctx))
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	header.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-site") // pages that may call by CORS still may
	header.Set("Cache-Control", "private, no-store")
	if hsts {
		header.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// maxHeaders is the most header lines of a request. Browsers send some thirty, and
// proxies add a few.
const maxHeaders = 128

// maxHeaderSize is the most that address and headers may take, as HTTP/2 counts them
// (RFC 9113, section 6.5.2). It is below what a context takes, with what is added on
// the way: what the transport refuses to send counts as a failure of the context.
const maxHeaderSize = 60 << 10

func tooMany(r *http.Request) bool {
	lines, size := 0, len(r.RequestURI)+len(r.Host)
	for name, values := range r.Header {
		lines += len(values)
		for _, value := range values {
			size += len(name) + len(value) + 32
		}
	}
	return lines > maxHeaders || size > maxHeaderSize
}

// record notes what the log says of a request, and gives a client up that does
// not take its answer.
type record struct {
	http.ResponseWriter
	patience time.Duration // for a piece of the answer; 0: no end of it
	streams  bool          // the answer may be silent for as long as it likes
	status   int
	route    string // procedure or path template; "" where nothing matched
}

type recordKey struct{}

// recordOf returns the request's record; an idle one outside of a request.
func recordOf(ctx context.Context) *record {
	if seen, ok := ctx.Value(recordKey{}).(*record); ok {
		return seen
	}
	return &record{}
}

// WriteHeader notes the status.
func (w *record) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write notes the status that is implied.
func (w *record) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.limit(w.patience)
	defer w.lift()
	return w.ResponseWriter.Write(p) //nolint:wrapcheck // a writer in a chain
}

// Flush sends what was written, for handlers that ask for an http.Flusher by name,
// as gRPC's reflection does.
func (w *record) Flush() {
	_ = w.FlushError() // a connection that is gone shows when it is written to
}

// FlushError sends what was written.
func (w *record) FlushError() error {
	w.limit(w.patience)
	defer w.lift()
	return http.NewResponseController(w.ResponseWriter).Flush() //nolint:wrapcheck // as above
}

// done limits how long the rest of the answer may take, which the server sends
// after the handler.
func (w *record) done() { w.limit(w.patience) }

// lift ends the limit of a stream: over HTTP/2 one that passes ends the stream,
// also while nothing is sent.
func (w *record) lift() {
	if w.streams {
		w.limit(0)
	}
}

// limit bounds how long the client may take from now on; 0 for no bound. A
// connection that cannot be limited, as in tests without one, or is gone, is not.
func (w *record) limit(d time.Duration) {
	var end time.Time
	if d > 0 {
		end = time.Now().Add(d)
	}
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(end) // see above
}

// Unwrap lets http.ResponseController reach the connection.
func (w *record) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// methodOf names a request's method, if it is one that the shop knows; any other
// is the caller's words.
func methodOf(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	}
	return "_OTHER"
}

// named tells the log, the trace and the metrics what a request asks for.
func (g *gateway) named(r *http.Request, route string) {
	recordOf(r.Context()).route = route
	span := trace.SpanFromContext(r.Context())
	span.SetName(methodOf(r) + " " + route)
	span.SetAttributes(attribute.String("http.route", route))
	if labeler, ok := otelhttp.LabelerFromContext(r.Context()); ok {
		labeler.Add(attribute.String("http.route", route))
	}
}

// boundBody limits how long the client may take to send the body. A connection
// that cannot be limited, as in tests without one, is not.
func (g *gateway) boundBody(w http.ResponseWriter, r *http.Request) {
	g.readUntil(w, r, time.Now().Add(g.limits.body))
}

// readUntil sets the time until which the client may send; the zero time is no
// limit. Over HTTP/1.1 the server reads on beside the handler, to notice that the
// client goes away, and takes a limit that passes for that.
func (g *gateway) readUntil(w http.ResponseWriter, r *http.Request, end time.Time) {
	err := http.NewResponseController(w).SetReadDeadline(end)
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		g.logger.DebugContext(r.Context(), "body is not limited in time", "error", err)
	}
}

// newProxy returns a reverse proxy that keeps streams flowing and trailers whole.
func (g *gateway) newProxy(base *url.URL, transport http.RoundTripper) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(g.logger.Handler(), slog.LevelDebug),
		Rewrite: func(request *httputil.ProxyRequest) {
			request.SetURL(base)
			request.SetXForwarded()
			request.Out.Header.Del("Connection") // no context speaks another protocol after an upgrade
			request.Out.Header.Del("Upgrade")
			rewriteHeaders(request.Out.Context(), request.Out.Header)
		},
	}
}
