package app

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/sdk/client"
	"golang.org/x/oauth2"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/catalog"
	"bookworm/internal/compliance"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
	"bookworm/internal/health"
	"bookworm/internal/identity"
	"bookworm/internal/limit"
	"bookworm/internal/llm"
	"bookworm/internal/notification"
	"bookworm/internal/personal"
	"bookworm/internal/personal/keyring"
	"bookworm/internal/postgres"
	"bookworm/internal/redis"
	"bookworm/internal/rpc"
	"bookworm/internal/telemetry"
	"bookworm/internal/temporal"
	"bookworm/internal/vector"
)

// parts are the things a process is made of: connections that are opened when
// first asked for, once, and closed together in reverse order.
type parts struct {
	ctx    context.Context //nolint:containedctx // the life of the process, see open
	config Config
	tel    *telemetry.Telemetry
	checks map[string]health.Check
	// optional are checks of what the process can do without.
	optional map[string]health.Check
	// holders are the contexts with data of people that this process serves.
	holders map[string]personal.Holder

	// streams bounds the requests at once of one HTTP/2 connection; 0: as many as
	// the shop's own services need between them.
	streams int

	loops        *errgroup.Group
	stopLoops    context.CancelFunc
	loopsCtx     context.Context //nolint:containedctx // the life of the background loops
	closers      []func() error
	pools        map[string]*pgxpool.Pool
	temporalOnce func() (client.Client, error)
	tokensOnce   func() oauth2.TokenSource
	exchanger    *identity.Exchanger
	verifierOnce func() (*identity.Verifier, error)
	modelOnce    func() (*llm.Client, error)
	vectorsOnce  func() (*vector.Client, error)
	breakersOnce func() (*rpc.Breakers, error)
	sealerOnce   func() (*personal.ShopperSealer, error)
}

// open returns the parts of a process that lives until ctx ends. The caller
// closes them.
func open(ctx context.Context, c Config, tel *telemetry.Telemetry) *parts {
	p := &parts{
		ctx: ctx, config: c, tel: tel, checks: make(map[string]health.Check), optional: make(map[string]health.Check),
		holders: make(map[string]personal.Holder), pools: make(map[string]*pgxpool.Pool),
	}
	// The loops outlive ctx by the time it takes to drain, like the connections.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stopLoops = stop
	p.loops, p.loopsCtx = errgroup.WithContext(background)
	p.temporalOnce = sync.OnceValues(p.dialTemporal)
	p.verifierOnce = sync.OnceValues(p.makeVerifier)
	p.modelOnce = sync.OnceValues(p.makeModel)
	p.vectorsOnce = sync.OnceValues(p.openVectors)
	p.sealerOnce = sync.OnceValues(p.makeSealer)
	own := identity.ServiceConfig{TokenURL: c.TokenURL, ClientID: c.ClientID, ClientSecret: c.ClientSecret}
	p.tokensOnce = sync.OnceValue(func() oauth2.TokenSource { return identity.ServiceTokens(context.WithoutCancel(ctx), own) })
	p.exchanger = identity.NewExchanger(own)
	p.breakersOnce = sync.OnceValues(func() (*rpc.Breakers, error) {
		return rpc.NewBreakers(tel.Logger, tel.MeterProvider.Meter("bookworm/rpc"))
	})
	return p
}

// onClose registers what ends a part.
func (p *parts) onClose(end func() error) { p.closers = append(p.closers, end) }

// background runs a loop that ends with its context.
func (p *parts) background(loop func(context.Context) error) {
	p.loops.Go(func() error { return loop(p.loopsCtx) })
}

// untilDrain runs a loop that hears of the process's end when it begins to drain,
// and not only when it is over.
func (p *parts) untilDrain(loop func(context.Context) error) {
	p.loops.Go(func() error {
		ctx, cancel := context.WithCancel(p.loopsCtx)
		defer cancel()
		defer context.AfterFunc(p.ctx, cancel)()
		return loop(ctx)
	})
}

// close ends the loops and then every part, the last one first.
func (p *parts) close() {
	p.stopLoops()
	errs := []error{p.loops.Wait()}
	for _, end := range slices.Backward(p.closers) {
		errs = append(errs, end())
	}
	if err := errors.Join(errs...); err != nil && !errors.Is(err, context.Canceled) {
		p.tel.Logger.Warn("not everything was closed cleanly", "error", err)
	}
}

// postgres returns the pool of a context's schema.
func (p *parts) postgres(s postgres.Schema) (*pgxpool.Pool, error) {
	if pool := p.pools[s.Name]; pool != nil {
		return pool, nil
	}
	pool, err := postgres.Open(p.ctx, string(p.config.DatabaseURL), s.Name)
	if err != nil {
		return nil, fmt.Errorf("open the %s database: %w", s.Name, err)
	}
	p.pools[s.Name] = pool
	p.onClose(func() error { pool.Close(); return nil })
	p.checks["postgres "+s.Name] = pool.Ping
	return pool, nil
}

// temporal returns the process's one Temporal client.
func (p *parts) temporal() (client.Client, error) { return p.temporalOnce() }

func (p *parts) dialTemporal() (client.Client, error) {
	const scope = "bookworm/temporal"
	var tracer trace.Tracer
	if p.config.OTLPEndpoint != "" { // without export, spans would only cost
		tracer = p.tel.TracerProvider.Tracer(scope)
	}
	c, err := temporal.Dial(p.ctx, temporal.Config{
		Address: p.config.TemporalAddress, Namespace: p.config.TemporalNamespace, APIKey: p.config.TemporalAPIKey,
		TLS: p.config.TemporalTLS, Logger: p.tel.Logger, Tracer: tracer, Meter: p.tel.MeterProvider.Meter(scope),
	})
	if err != nil {
		return nil, err
	}
	p.onClose(func() error { c.Close(); return nil })
	p.checks["temporal"] = func(ctx context.Context) error {
		_, err := c.CheckHealth(ctx, &client.CheckHealthRequest{})
		return err
	}
	return c, nil
}

// tokens returns the service's own credential.
func (p *parts) tokens() oauth2.TokenSource { return p.tokensOnce() }

// model returns the process's one client of the language model; nil when none is
// configured.
func (p *parts) model() (*llm.Client, error) { return p.modelOnce() }

func (p *parts) makeModel() (*llm.Client, error) {
	if p.config.OpenAIBaseURL == "" {
		return nil, nil //nolint:nilnil // a shop without a model is one
	}
	c, err := llm.New(llm.Config{
		BaseURL: p.config.OpenAIBaseURL, APIKey: p.config.OpenAIAPIKey, ChatModel: p.config.ChatModel,
		EmbeddingModel: p.config.EmbeddingModel, Dimension: p.config.EmbeddingDimension,
		HTTPClient: p.outbound(0), Logger: p.tel.Logger, Meter: p.tel.MeterProvider.Meter("bookworm/llm"),
	})
	if err != nil {
		return nil, fmt.Errorf("make the model's client: %w", err)
	}
	p.optional["model"] = answers(strings.TrimRight(p.config.OpenAIBaseURL, "/")+"/models", p.config.OpenAIAPIKey)
	return c, nil
}

// vectors returns the process's one client of the search index. Its health is no
// check of the process: without it words are searched.
func (p *parts) vectors() (*vector.Client, error) { return p.vectorsOnce() }

func (p *parts) openVectors() (*vector.Client, error) {
	c, err := vector.Open(vector.Config{Address: p.config.QdrantAddress, APIKey: p.config.QdrantAPIKey, TLS: p.config.QdrantTLS})
	if err != nil {
		return nil, fmt.Errorf("open the search index: %w", err)
	}
	p.onClose(c.Close)
	p.optional["search index"] = c.Health
	return c, nil
}

// indexer returns what brings the catalogue's books to the search index.
func (p *parts) indexer() (*catalog.Indexer, error) {
	db, err := p.postgres(catalog.Schema)
	if err != nil {
		return nil, err
	}
	vectors, err := p.vectors()
	if err != nil {
		return nil, err
	}
	model, err := p.model()
	if err != nil {
		return nil, err
	}
	return &catalog.Indexer{
		Store: catalog.NewStore(db), Vectors: vectors, Embedder: model, Dimension: p.config.EmbeddingDimension, Logger: p.tel.Logger,
	}, nil
}

// breakers returns the process's circuit breakers.
func (p *parts) breakers() (*rpc.Breakers, error) { return p.breakersOnce() }

// limiter returns what counts calls. Redis is no check of the process: without it
// each replica counts alone.
func (p *parts) limiter() (*limit.Limiter, error) {
	db, err := redis.Dial(string(p.config.RedisURL))
	if err != nil {
		return nil, err
	}
	p.onClose(db.Close)
	p.optional["redis"] = func(ctx context.Context) error { return db.Ping(ctx).Err() }
	return limit.New(limit.Config{
		Redis: db, Key: p.config.LimitKey, Logger: p.tel.Logger, Meter: p.tel.MeterProvider.Meter("bookworm/limit"),
	})
}

// client returns a client of another context's API. With tokens the process calls
// for itself, without for the caller of the call being served; a process that has
// such a client needs TOKEN_URL and CLIENT_SECRET all the same.
func (p *parts) client(address string, tokens oauth2.TokenSource) *connect.Client {
	options := rpc.ClientOptions{
		BaseURL: address, Tokens: tokens, OnBehalf: p.exchanger.Exchange, TracerProvider: p.tel.TracerProvider, MeterProvider: p.tel.MeterProvider,
	}
	breakers, err := p.breakers()
	if err != nil {
		p.tel.Logger.Warn("calls are made without breakers", "error", err)
	} else {
		options.Breaker = breakers.Of(strings.TrimPrefix(strings.TrimPrefix(address, "http://"), "https://"))
	}
	return rpc.NewClient(options)
}

// audit returns what records the calls of the shop's staff; nil in a process whose
// contexts have none, which needs no address of the log.
func (p *parts) audit() *rpc.Audit {
	if p.config.ComplianceURL == "" {
		return nil
	}
	audit := rpc.NewAudit(compliancev1connect.NewAuditLogServiceClient(p.client(p.config.ComplianceURL, p.tokens())), p.tel.Logger)
	p.background(func(ctx context.Context) error {
		audit.Run(ctx)
		return nil
	})
	return audit
}

// answers checks that somebody else's HTTP server answers. It does not when it
// fails, or when it refuses the key; without one it may refuse.
func answers(address string, key personal.Text) health.Check {
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
		if err != nil {
			return fmt.Errorf("ask for an answer: %w", err)
		}
		if key != "" {
			req.Header.Set("Authorization", "Bearer "+string(key))
		}
		res, err := c.Do(req)
		if err != nil {
			return fmt.Errorf("ask for an answer: %w", err)
		}
		refused := key != "" && (res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden)
		if refused || res.StatusCode >= http.StatusInternalServerError {
			err = fmt.Errorf("answered %s", res.Status)
		}
		return errors.Join(err, res.Body.Close())
	}
}

// outbound returns a traced client for other people's HTTP servers. A timeout of 0
// leaves it to the context of each request, as streams need it.
func (p *parts) outbound(timeout time.Duration) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is one, documented
	transport.MaxIdleConnsPerHost = 64                           // for many conversations at once; the default is 2
	return &http.Client{
		Timeout: timeout,
		Transport: otelhttp.NewTransport(transport,
			otelhttp.WithTracerProvider(p.tel.TracerProvider), otelhttp.WithMeterProvider(p.tel.MeterProvider)),
	}
}

// verifier returns the process's one verifier of access tokens, which keeps the
// provider's keys.
func (p *parts) verifier() (*identity.Verifier, error) { return p.verifierOnce() }

func (p *parts) makeVerifier() (*identity.Verifier, error) {
	v, err := identity.NewVerifier(p.ctx, identity.VerifierConfig{
		Issuer: p.config.IssuerURL, JWKSURL: p.config.JWKSURL, Audience: p.config.Audience,
	})
	if err != nil {
		return nil, fmt.Errorf("verify access tokens: %w", err)
	}
	p.optional["identity provider"] = answers(cmp.Or(p.config.JWKSURL, strings.TrimRight(p.config.IssuerURL, "/")+"/.well-known/openid-configuration"), "")
	return v, nil
}

// sealer returns the process's one sealer of what is a shopper's, which remembers
// their keys.
func (p *parts) sealer() (*personal.ShopperSealer, error) { return p.sealerOnce() }

// sealerNeeds are the settings of a sealer.
var sealerNeeds = []string{"PERSONAL_DATA_KEY", "COMPLIANCE_URL", "TOKEN_URL", "CLIENT_SECRET"}

func (p *parts) makeSealer() (*personal.ShopperSealer, error) {
	legacy, err := personal.NewSealer(p.config.PersonalDataKey)
	if err != nil {
		return nil, err
	}
	ring, err := keyring.New(compliancev1connect.NewShopperKeyServiceClient(p.client(p.config.ComplianceURL, p.tokens())))
	if err != nil {
		return nil, err
	}
	return personal.NewShopperSealer(ring, legacy), nil
}

// privacy returns the store of people's requests and shoppers' keys.
func (p *parts) privacy() (*compliance.PrivacyStore, error) {
	db, err := p.postgres(compliance.Schema)
	if err != nil {
		return nil, err
	}
	return compliance.NewPrivacyStore(db, p.config.PersonalDataKey)
}

// notifications returns the store of the notification context.
func (p *parts) notifications() (*notification.Store, error) {
	db, err := p.postgres(notification.Schema)
	if err != nil {
		return nil, err
	}
	key, err := p.derivedKey("notification recipients")
	if err != nil {
		return nil, err
	}
	return notification.NewStore(db, key)
}

// derivedKey returns a key for one use alone, made from the deployment's: one key,
// one use (HKDF, RFC 5869).
func (p *parts) derivedKey(use string) (personal.Text, error) {
	key, err := hkdf.Key(sha256.New, []byte(p.config.PersonalDataKey), nil, use, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive the key of %s: %w", use, err)
	}
	return personal.Text(key), nil
}

// serve answers on the listener, with the health of the process beside the given
// routes, until the process's context ends, and drains.
func (p *parts) serve(handler http.Handler, listener net.Listener) error {
	h := health.New(maps.Clone(p.checks), p.tel.Logger)
	h.Optional(maps.Clone(p.optional))
	h.Version(version())
	// Not routes of one mux: it would answer for the handler where a path is not clean,
	// with a redirect.
	own := http.NewServeMux()
	h.Register(own)
	routed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/health/live", "/health/ready":
			own.ServeHTTP(w, r)
		default:
			handler.ServeHTTP(w, r)
		}
	})
	options := rpc.ServeOptions{
		Drain: h.Drain, Connections: p.config.MaxConnections, Streams: p.streams,
		Trusted: func(peer netip.Addr) bool {
			return slices.ContainsFunc(p.config.TrustedProxies, func(network netip.Prefix) bool { return network.Contains(peer) })
		},
	}
	if p.config.TLSCertFile != "" {
		var err error
		if options.TLS, err = rpc.LoadTLS(p.config.TLSCertFile, p.config.TLSKeyFile, p.tel.Logger); err != nil {
			return errors.Join(err, listener.Close())
		}
	}
	return rpc.ServeWith(p.ctx, listener, routed, options)
}
