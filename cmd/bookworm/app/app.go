// Package app wires the shop's processes. Each function runs one process until
// its context ends; the command calls one of them, and the embedded stack calls
// all of them in one process.
package app

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"golang.org/x/sync/errgroup"

	catalogactivities "bookworm/activities/catalog"
	complianceactivities "bookworm/activities/compliance"
	financeactivities "bookworm/activities/finance"
	notificationactivities "bookworm/activities/notification"
	orderingactivities "bookworm/activities/ordering"
	ratingactivities "bookworm/activities/rating"
	basketapi "bookworm/api/basket"
	catalogapi "bookworm/api/catalog"
	chatapi "bookworm/api/chat"
	complianceapi "bookworm/api/compliance"
	financeapi "bookworm/api/finance"
	"bookworm/api/gateway"
	"bookworm/api/gateway/status"
	notificationapi "bookworm/api/notification"
	orderingapi "bookworm/api/ordering"
	ratingapi "bookworm/api/rating"
	"bookworm/internal/basket"
	"bookworm/internal/catalog"
	"bookworm/internal/catalog/seed"
	"bookworm/internal/chat"
	"bookworm/internal/compliance"
	"bookworm/internal/finance"
	"bookworm/internal/gen/bookworm/basket/v1/basketv1connect"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	"bookworm/internal/gen/bookworm/chat/v1/chatv1connect"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
	"bookworm/internal/gen/bookworm/ordering/v1/orderingv1connect"
	"bookworm/internal/gen/bookworm/rating/v1/ratingv1connect"
	"bookworm/internal/mail"
	"bookworm/internal/notification"
	"bookworm/internal/ordering"
	"bookworm/internal/postgres"
	"bookworm/internal/process"
	"bookworm/internal/rating"
	"bookworm/internal/redis"
	"bookworm/internal/rpc"
	"bookworm/internal/telemetry"
	"bookworm/internal/temporal"
	"bookworm/internal/waf"
	"bookworm/workers"
	"bookworm/workflows/reindex"
	"bookworm/workflows/retention"
)

// sweepInterval is how often holds of orders whose process died are released.
const sweepInterval = 15 * time.Second

// indexInterval is how often the search index learns of changes that nobody waits
// for, such as the sale of a last copy.
const indexInterval = time.Second

// headInterval is how often the end of the audit log is logged.
const headInterval = time.Hour

const usage = `usage:
  bookworm api <context>...     serve the APIs of contexts: catalog basket ordering finance notification rating chat compliance
  bookworm worker <context>...  run the workflows and activities of contexts: catalog ordering finance notification rating compliance
  bookworm gateway              the one public door
  bookworm migrate [-seed]      prepare the database and the Temporal namespace; -seed loads the catalogue
`

// Main runs the command until ctx ends or the work is done. Errors: flag.ErrHelp
// after printing how to call it.
func Main(ctx context.Context, args, environ []string, stderr io.Writer) error {
	if len(args) == 0 {
		return help(stderr)
	}
	config, err := LoadConfig(environ)
	if err != nil {
		return fmt.Errorf("configuration:\n%w", err)
	}
	tel, err := telemetry.Setup(ctx, telemetry.Config{
		Service: "bookworm-" + strings.Join(args, "-"), Version: version(), OTLPEndpoint: config.OTLPEndpoint,
		LogLevel: config.LogLevel, LogFormat: config.LogFormat, LogWriter: stderr,
	})
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	// What is still queued is sent also after the signal that ended ctx.
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := tel.Shutdown(last); err != nil {
			tel.Logger.Warn("telemetry was not flushed", "error", err)
		}
	}()
	if args[0] == "migrate" {
		flags := flag.NewFlagSet("migrate", flag.ContinueOnError)
		flags.SetOutput(stderr)
		withSeed := flags.Bool("seed", false, "load the seed catalogue")
		if err := flags.Parse(args[1:]); err != nil {
			return flag.ErrHelp
		}
		return Migrate(ctx, config, tel, *withSeed)
	}
	run := map[string]func(context.Context, Config, *telemetry.Telemetry, []string, net.Listener) error{
		"api": API, "worker": Worker, "gateway": Gateway,
	}[args[0]]
	if run == nil {
		return help(stderr)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", config.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	metrics, err := new(net.ListenConfig).Listen(ctx, "tcp", config.MetricsListen)
	if err != nil {
		return errors.Join(fmt.Errorf("listen for metrics: %w", err), listener.Close())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return run(ctx, config, tel, args[1:], listener) })
	group.Go(func() error { return Metrics(ctx, tel, metrics) })
	return group.Wait()
}

func help(w io.Writer) error {
	if _, err := io.WriteString(w, usage); err != nil {
		return fmt.Errorf("print usage: %w", err)
	}
	return flag.ErrHelp
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "dev"
}

// Metrics serves /metrics of this process to its operators.
func Metrics(ctx context.Context, tel *telemetry.Telemetry, listener net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", tel.Metrics)
	return rpc.Serve(ctx, listener, mux, nil)
}

// Migrate brings every context's schema and the Temporal namespace's search
// attributes up to date, and loads the seed catalogue when asked. It is
// idempotent and safe to run from several places at once.
func Migrate(ctx context.Context, c Config, tel *telemetry.Telemetry, withSeed bool) error {
	if err := c.require("DATABASE_URL", "TEMPORAL_ADDRESS"); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	p := open(ctx, c, tel)
	defer p.close()
	err := postgres.Migrate(ctx, string(c.DatabaseURL), catalog.Schema, ordering.Schema, finance.Schema, notification.Schema,
		rating.Schema, chat.Schema, compliance.Schema)
	if err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	temporalClient, err := p.temporal()
	if err != nil {
		return err
	}
	err = temporal.RegisterSearchAttributes(ctx, temporalClient, c.TemporalNamespace, process.SearchAttributes)
	if err != nil || !withSeed {
		return err
	}
	books, err := seed.Books()
	if err != nil {
		return fmt.Errorf("read the seed catalogue: %w", err)
	}
	db, err := p.postgres(catalog.Schema)
	if err != nil {
		return err
	}
	added, err := catalog.NewStore(db).Seed(ctx, books)
	if err != nil {
		return fmt.Errorf("load the seed catalogue: %w", err)
	}
	tel.Logger.InfoContext(ctx, "seed catalogue loaded", "books", len(books), "added", added)
	return nil
}

// API serves the APIs of the named contexts on the listener.
func API(ctx context.Context, c Config, tel *telemetry.Telemetry, contexts []string, listener net.Listener) error {
	serve := map[string]struct {
		needs    []string
		register func(*parts, *connect.Server, *http.ServeMux) error
	}{
		"catalog": {[]string{
			"DATABASE_URL", "TEMPORAL_ADDRESS", "QDRANT_ADDRESS", "OPENAI_BASE_URL", "ORDERING_URL", "RATING_URL", "COMPLIANCE_URL",
			"TOKEN_URL", "CLIENT_SECRET",
		}, registerCatalog},
		"basket":   {[]string{"REDIS_URL", "CATALOG_URL", "TOKEN_URL", "CLIENT_SECRET"}, registerBasket},
		"ordering": {append([]string{"DATABASE_URL", "TEMPORAL_ADDRESS", "CATALOG_URL", "BASKET_URL"}, sealerNeeds...), registerOrdering},
		"finance": {[]string{
			"DATABASE_URL", "TEMPORAL_ADDRESS", "STRIPE_WEBHOOK_SECRET", "COMPLIANCE_URL", "TOKEN_URL", "CLIENT_SECRET",
		}, registerFinance},
		"notification": {[]string{"DATABASE_URL", "PERSONAL_DATA_KEY"}, registerNotification},
		"rating":       {[]string{"DATABASE_URL", "TEMPORAL_ADDRESS", "COMPLIANCE_URL", "TOKEN_URL", "CLIENT_SECRET"}, registerRating},
		"chat": {[]string{
			"DATABASE_URL", "OPENAI_BASE_URL", "CATALOG_URL", "BASKET_URL", "ORDERING_URL", "RATING_URL", "CHAT_URL", "TOKEN_URL", "CLIENT_SECRET",
		}, registerChat},
		"compliance": {[]string{
			"DATABASE_URL", "TEMPORAL_ADDRESS", "COMPLIANCE_URL", "TOKEN_URL", "CLIENT_SECRET", "PERSONAL_DATA_KEY",
		}, registerCompliance},
	}
	needs := []string{"ISSUER_URL"}
	for _, name := range contexts {
		needs = append(needs, serve[name].needs...)
	}
	if err := errors.Join(known("api", contexts, maps.Keys(serve)), c.require(needs...)); err != nil {
		return errors.Join(err, listener.Close())
	}
	p := open(ctx, c, tel)
	defer p.close()
	verifier, err := p.verifier()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	server, err := rpc.NewServer(rpc.ServerOptions{
		Audit: p.audit(), Verifier: verifier, Logger: tel.Logger, TracerProvider: tel.TracerProvider, MeterProvider: tel.MeterProvider,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("make the server: %w", err), listener.Close())
	}
	mux := http.NewServeMux()
	for _, name := range contexts {
		if err := serve[name].register(p, server, mux); err != nil {
			return errors.Join(fmt.Errorf("serve %s: %w", name, err), listener.Close())
		}
	}
	if len(p.holders) > 0 {
		complianceapi.RegisterHolders(server, p.holders)
	}
	mux.Handle("/", rpc.Handler(server))
	return p.serve(mux, listener)
}

func registerCatalog(p *parts, server *connect.Server, _ *http.ServeMux) error {
	indexer, err := p.indexer()
	if err != nil {
		return err
	}
	temporalClient, err := p.temporal()
	if err != nil {
		return err
	}
	searcher, err := catalog.NewSearcher(indexer.Store, indexer.Vectors, indexer.Embedder, p.tel.Logger)
	if err != nil {
		return fmt.Errorf("make the searcher: %w", err)
	}
	catalogapi.Register(server, catalogapi.Deps{
		Books: indexer.Store, Searcher: searcher, Indexer: indexer, Temporal: temporalClient, Logger: p.tel.Logger,
		Purchases: orderingv1connect.NewPurchaseServiceClient(p.client(p.config.OrderingURL, p.tokens())),
		Reviewers: ratingv1connect.NewReviewerServiceClient(p.client(p.config.RatingURL, p.tokens())),
	})
	p.background(func(ctx context.Context) error {
		indexer.Store.SweepExpired(ctx, sweepInterval, p.tel.Logger)
		return nil
	})
	return nil
}

func registerBasket(p *parts, server *connect.Server, _ *http.ServeMux) error {
	db, err := redis.Open(p.ctx, string(p.config.RedisURL))
	if err != nil {
		return fmt.Errorf("open redis: %w", err)
	}
	p.onClose(db.Close)
	p.checks["redis"] = func(ctx context.Context) error { return db.Ping(ctx).Err() }
	store := basket.NewStore(db)
	p.holders["basket"] = basket.Personal{Baskets: store}
	basketapi.Register(server, store, catalogv1connect.NewCatalogServiceClient(p.client(p.config.CatalogURL, nil)))
	return nil
}

func registerOrdering(p *parts, server *connect.Server, _ *http.ServeMux) error {
	db, err := p.postgres(ordering.Schema)
	if err != nil {
		return err
	}
	temporalClient, err := p.temporal()
	if err != nil {
		return err
	}
	sealer, err := p.sealer()
	if err != nil {
		return err
	}
	fingerprintKey, err := p.derivedKey("order requests")
	if err != nil {
		return err
	}
	store := ordering.NewStore(db)
	p.holders["ordering"] = &ordering.Personal{Orders: store, Open: sealer.Open}
	orderingapi.Register(server, orderingapi.Deps{
		Orders: store, Temporal: temporalClient, Sealer: sealer, FingerprintKey: fingerprintKey,
		Baskets: basketv1connect.NewBasketCheckoutServiceClient(p.client(p.config.BasketURL, p.tokens())),
		Books:   catalogv1connect.NewCatalogServiceClient(p.client(p.config.CatalogURL, nil)),

		PaymentWindow: p.config.PaymentWindow,
	})
	return nil
}

func registerFinance(p *parts, server *connect.Server, mux *http.ServeMux) error {
	db, err := p.postgres(finance.Schema)
	if err != nil {
		return err
	}
	temporalClient, err := p.temporal()
	if err != nil {
		return err
	}
	store := finance.NewStore(db)
	p.holders["finance"] = finance.Personal{Payments: store}
	financeapi.Register(server, store)
	mux.Handle("POST "+financeapi.WebhookPath, &financeapi.Webhook{
		Store: store, Temporal: temporalClient, Secret: p.config.StripeWebhookSecret, Logger: p.tel.Logger,
	})
	return nil
}

func registerNotification(p *parts, server *connect.Server, _ *http.ServeMux) error {
	store, err := p.notifications()
	if err != nil {
		return err
	}
	p.holders["notification"] = notification.Personal{Store: store}
	notificationapi.Register(server, store)
	return nil
}

func registerRating(p *parts, server *connect.Server, _ *http.ServeMux) error {
	db, err := p.postgres(rating.Schema)
	if err != nil {
		return err
	}
	temporalClient, err := p.temporal()
	if err != nil {
		return err
	}
	deps := ratingapi.Deps{Reviews: rating.NewStore(db), Temporal: temporalClient}
	p.holders["rating"] = ratingapi.Holder(deps)
	ratingapi.Register(server, deps)
	return nil
}

func registerChat(p *parts, server *connect.Server, mux *http.ServeMux) error {
	db, err := p.postgres(chat.Schema)
	if err != nil {
		return err
	}
	model, err := p.model()
	if err != nil {
		return err
	}
	verifier, err := p.verifier()
	if err != nil {
		return err
	}
	// None calls for itself: each calls for the caller of the call that is served, so
	// a tool can do what its caller may.
	books := catalogv1connect.NewCatalogServiceClient(p.client(p.config.CatalogURL, nil))
	reviews := ratingv1connect.NewRatingServiceClient(p.client(p.config.RatingURL, nil))
	store := chat.NewStore(db)
	p.holders["chat"] = chat.Personal{Store: store}
	deps := chatapi.Deps{
		Store: store, Model: model, Books: books, Reviews: reviews,
		Orders:  orderingv1connect.NewOrderServiceClient(p.client(p.config.OrderingURL, nil)),
		Baskets: basketv1connect.NewBasketServiceClient(p.client(p.config.BasketURL, nil)),
		Limits:  chat.Limits{DayTokens: p.config.ChatDayTokens, InputPrice: p.config.ChatInputPrice, OutputPrice: p.config.ChatOutputPrice},
		Logger:  p.tel.Logger, Meter: p.tel.MeterProvider.Meter("bookworm/chat"),
	}
	engine, err := chatapi.NewEngine(deps)
	if err != nil {
		return err
	}
	p.untilDrain(engine.Run)
	chatapi.Register(server, deps, engine)
	mux.Handle(chatapi.MCPPath, chatapi.MCPHandler(chatapi.MCPDeps{Catalog: books, Ratings: reviews, Verifier: verifier, Logger: p.tel.Logger}))
	mux.Handle(chatapi.A2APath, chatapi.A2AHandler(chatapi.A2ADeps{
		Chat: chatv1connect.NewChatServiceClient(p.client(p.config.ChatURL, nil)), Verifier: verifier, Logger: p.tel.Logger,
	}))
	card := ""
	if p.config.PublicURL != "" {
		card = strings.TrimRight(p.config.PublicURL, "/") + chatapi.A2APath
	}
	mux.Handle(chatapi.AgentCardPath, chatapi.AgentCardHandler(card))
	return nil
}

func registerCompliance(p *parts, server *connect.Server, _ *http.ServeMux) error {
	db, err := p.postgres(compliance.Schema)
	if err != nil {
		return err
	}
	privacy, err := p.privacy()
	if err != nil {
		return err
	}
	temporalClient, err := p.temporal()
	if err != nil {
		return err
	}
	p.holders["compliance"] = privacy
	store := compliance.NewStore(db)
	complianceapi.Register(server, complianceapi.Deps{Store: store, Privacy: privacy, Temporal: temporalClient})
	p.background(func(ctx context.Context) error {
		complianceapi.LogAuditHead(ctx, store, headInterval, p.tel.Logger)
		return nil
	})
	return nil
}

// Worker runs the workflows and activities of the named contexts. The listener
// serves its health.
func Worker(ctx context.Context, c Config, tel *telemetry.Telemetry, contexts []string, listener net.Listener) error {
	run := map[string]struct {
		needs []string
		make  func(*parts, client.Client) (worker.Worker, error)
	}{
		"catalog":      {[]string{"DATABASE_URL", "QDRANT_ADDRESS", "OPENAI_BASE_URL"}, catalogWorker},
		"ordering":     {[]string{"DATABASE_URL", "CATALOG_URL", "BASKET_URL", "TOKEN_URL", "CLIENT_SECRET"}, orderingWorker},
		"finance":      {append([]string{"DATABASE_URL", "STRIPE_SECRET_KEY"}, sealerNeeds...), financeWorker},
		"notification": {append([]string{"DATABASE_URL", "SMTP_URL"}, sealerNeeds...), notificationWorker},
		"rating":       {[]string{"DATABASE_URL", "CATALOG_URL", "ORDERING_URL", "TOKEN_URL", "CLIENT_SECRET"}, ratingWorker},
		"compliance": {[]string{
			"DATABASE_URL", "PERSONAL_DATA_KEY", "TOKEN_URL", "CLIENT_SECRET", "BASKET_URL", "ORDERING_URL", "FINANCE_URL", "NOTIFICATION_URL",
			"RATING_URL", "CHAT_URL", "COMPLIANCE_URL",
		}, complianceWorker},
	}
	needs := []string{"TEMPORAL_ADDRESS"}
	for _, name := range contexts {
		needs = append(needs, run[name].needs...)
	}
	if err := errors.Join(known("worker", contexts, maps.Keys(run)), c.require(needs...)); err != nil {
		return errors.Join(err, listener.Close())
	}
	p := open(ctx, c, tel)
	defer p.close()
	temporalClient, err := p.temporal()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	for _, name := range contexts {
		w, err := run[name].make(p, temporalClient)
		if err == nil {
			err = w.Start()
		}
		if err != nil {
			return errors.Join(fmt.Errorf("run worker %s: %w", name, err), listener.Close())
		}
		// Stops polling and waits for what is under way, see workers.options.
		p.onClose(func() error { w.Stop(); return nil })
	}
	return p.serve(http.NewServeMux(), listener)
}

func catalogWorker(p *parts, c client.Client) (worker.Worker, error) {
	indexer, err := p.indexer()
	if err != nil {
		return nil, err
	}
	if err := reindex.EnsureSchedule(p.ctx, c); err != nil {
		return nil, err
	}
	p.background(func(ctx context.Context) error {
		indexer.KeepCurrent(ctx, indexInterval, func(ctx context.Context) error { return reindex.Begin(ctx, c) })
		return nil
	})
	return workers.Catalog(c, &catalogactivities.Activities{Books: indexer.Store, Index: indexer}), nil
}

func orderingWorker(p *parts, c client.Client) (worker.Worker, error) {
	db, err := p.postgres(ordering.Schema)
	if err != nil {
		return nil, err
	}
	return workers.Ordering(c, &orderingactivities.Activities{
		Orders:  ordering.NewStore(db),
		Baskets: basketv1connect.NewBasketCheckoutServiceClient(p.client(p.config.BasketURL, p.tokens())),
		Stock:   catalogv1connect.NewStockServiceClient(p.client(p.config.CatalogURL, p.tokens())),
	}), nil
}

func financeWorker(p *parts, c client.Client) (worker.Worker, error) {
	db, err := p.postgres(finance.Schema)
	if err != nil {
		return nil, err
	}
	sealer, err := p.sealer()
	if err != nil {
		return nil, err
	}
	p.optional["payment provider"] = answers(cmp.Or(p.config.StripeURL, "https://api.stripe.com"), "")
	return workers.Finance(c, &financeactivities.Activities{
		Payments: finance.NewStore(db), Sealer: sealer,
		Provider: finance.NewProvider(finance.ProviderConfig{
			SecretKey: p.config.StripeSecretKey, BaseURL: p.config.StripeURL, ReturnURL: p.config.PaymentReturnURL,
			HTTPClient: p.outbound(20 * time.Second), // below the activity's own 30 s
		}),
	}), nil
}

func notificationWorker(p *parts, c client.Client) (worker.Worker, error) {
	store, err := p.notifications()
	if err != nil {
		return nil, err
	}
	sealer, err := p.sealer()
	if err != nil {
		return nil, err
	}
	sender, err := mail.New(mail.Config{URL: string(p.config.SMTPURL), From: p.config.MailFrom})
	if err != nil {
		return nil, fmt.Errorf("make the mail sender: %w", err)
	}
	p.optional["mail"] = sender.Reach
	activities, err := notificationactivities.New(store, sender, sealer, p.tel.Logger, p.tel.MeterProvider)
	if err != nil {
		return nil, err
	}
	return workers.Notification(c, activities), nil
}

func ratingWorker(p *parts, c client.Client) (worker.Worker, error) {
	db, err := p.postgres(rating.Schema)
	if err != nil {
		return nil, err
	}
	model, err := p.model()
	if err != nil {
		return nil, err
	}
	books := p.client(p.config.CatalogURL, p.tokens())
	return workers.Rating(c, &ratingactivities.Activities{
		Reviews: rating.NewStore(db), Model: model,
		Purchases: orderingv1connect.NewPurchaseServiceClient(p.client(p.config.OrderingURL, p.tokens())),
		Books:     catalogv1connect.NewCatalogServiceClient(books),
		Ratings:   catalogv1connect.NewBookRatingServiceClient(books),
	}), nil
}

func complianceWorker(p *parts, c client.Client) (worker.Worker, error) {
	db, err := p.postgres(compliance.Schema)
	if err != nil {
		return nil, err
	}
	privacy, err := p.privacy()
	if err != nil {
		return nil, err
	}
	if err := retention.EnsureSchedule(p.ctx, c); err != nil {
		return nil, err
	}
	holders := make(map[string]compliancev1connect.PersonalDataServiceClient)
	for name, url := range map[string]string{
		"basket": p.config.BasketURL, "ordering": p.config.OrderingURL, "finance": p.config.FinanceURL, "rating": p.config.RatingURL,
		"chat": p.config.ChatURL, "notification": p.config.NotificationURL, "compliance": p.config.ComplianceURL,
	} {
		holders[name] = compliancev1connect.NewPersonalDataServiceClient(p.client(url, p.tokens()))
	}
	return workers.Compliance(c, &complianceactivities.Activities{Privacy: privacy, Log: compliance.NewStore(db), Holders: holders}), nil
}

// publicStreams is how many requests at once a stranger may have on one connection.
const publicStreams = 250

// Gateway is the one public door.
func Gateway(ctx context.Context, c Config, tel *telemetry.Telemetry, args []string, listener net.Listener) error {
	err := c.require("ISSUER_URL", "CATALOG_URL", "BASKET_URL", "ORDERING_URL", "FINANCE_URL", "NOTIFICATION_URL", "RATING_URL", "CHAT_URL", "COMPLIANCE_URL",
		"REDIS_URL", "LIMIT_KEY")
	if len(args) > 0 {
		err = errors.Join(err, fmt.Errorf("gateway takes no argument, not %q", args))
	}
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	p := open(ctx, c, tel)
	defer p.close()
	p.streams = publicStreams
	verifier, err := p.verifier()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	backends := map[string]string{
		"catalog": c.CatalogURL, "basket": c.BasketURL, "ordering": c.OrderingURL, "finance": c.FinanceURL, "notification": c.NotificationURL,
		"rating": c.RatingURL, "chat": c.ChatURL, "compliance": c.ComplianceURL,
	}
	limiter, err := p.limiter()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	breakers, err := p.breakers()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	firewall, err := waf.New(waf.Mode(c.WAF), tel.Logger, tel.MeterProvider.Meter("bookworm/waf"))
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	board := status.New(status.Options{
		Targets: c.targets(backends), Version: version(), Started: time.Now(), Breakers: breakers.States, Logger: tel.Logger,
	})
	p.background(board.Run)
	door, err := gateway.New(ctx, gateway.Options{
		Status:   board,
		Backends: backends, Verifier: verifier, Logger: tel.Logger, TracerProvider: tel.TracerProvider, MeterProvider: tel.MeterProvider,
		CORSOrigins: c.CORSOrigins, TrustedProxies: c.TrustedProxies, Breakers: breakers, Limiter: limiter,
		Limits: gateway.Limits{
			Browse: c.LimitBrowse, Search: c.LimitSearch, Write: c.LimitWrite, Checkout: c.LimitCheckout, Chat: c.LimitChat,
			Webhook: c.LimitWebhook, Token: c.LimitToken,
		},
		Firewall: firewall, HSTS: c.TLSCertFile != "" || strings.HasPrefix(c.PublicURL, "https:"),
	})
	if err != nil {
		return errors.Join(fmt.Errorf("make the gateway: %w", err), listener.Close())
	}
	probe := p.outbound(time.Second)
	for name, url := range backends {
		p.checks[name] = func(ctx context.Context) error { return live(ctx, probe, url) }
	}
	return p.serve(door, listener)
}

// targets are the parts of the shop on the status page: the contexts' APIs in the
// order in which shoppers meet them, then the other processes as they are set.
func (c Config) targets(backends map[string]string) []status.Target {
	var targets []status.Target
	for _, name := range []string{"catalog", "basket", "ordering", "finance", "notification", "rating", "chat", "compliance"} {
		targets = append(targets, status.Target{Name: name, Kind: "api", URL: backends[name]})
	}
	for _, setting := range c.StatusURLs {
		name, address, _ := strings.Cut(setting, "=")
		kind := "process"
		if strings.Contains(name, "worker") {
			kind = "worker"
		}
		targets = append(targets, status.Target{Name: strings.TrimSpace(name), Kind: kind, URL: strings.TrimSpace(address)})
	}
	return targets
}

// live asks whether a backend answers at all. Whether it is ready is for the
// orchestrator to act on: a door that closes because one context is away would
// take all others with it.
func live(ctx context.Context, c *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/health/live", http.NoBody)
	if err != nil {
		return fmt.Errorf("ask backend: %w", err)
	}
	res, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("ask backend: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		err = fmt.Errorf("backend answered %s", res.Status)
	}
	return errors.Join(err, res.Body.Close())
}

func known(role string, names []string, all func(func(string) bool)) error {
	valid := slices.Sorted(all)
	if len(names) == 0 {
		return fmt.Errorf("%s needs the name of a context: %s", role, strings.Join(valid, ", "))
	}
	var problems []error
	for i, name := range names {
		switch {
		case !slices.Contains(valid, name):
			problems = append(problems, fmt.Errorf("%s does not know the context %q, only %s", role, name, strings.Join(valid, ", ")))
		case slices.Contains(names[:i], name):
			problems = append(problems, fmt.Errorf("the context %s is named twice", name))
		}
	}
	return errors.Join(problems...)
}
