// Package shop runs the whole shop in one process, with the production binary's
// own constructors, on stand-ins for the systems of other people: the payment
// provider, the mail relay, the identity provider and the model.
package shop

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"bookworm/cmd/bookworm/app"
	"bookworm/dev/folder"
	"bookworm/dev/identity"
	"bookworm/dev/inbox"
	"bookworm/dev/llm"
	"bookworm/dev/psp"
	"bookworm/internal/loopback"
	"bookworm/internal/telemetry"
)

// StripeKey is what the stand-in takes for a secret key.
const StripeKey = "sk_test_bookworm"

// ModelKey is what the stand-in takes for an API key.
const ModelKey = "sk-bookworm"

// Shop is a running shop. Its stand-ins are there for tests to steer.
type Shop struct {
	Addresses folder.Addresses
	Payments  *psp.Server
	Inbox     *inbox.Server
	Identity  *identity.Server
	Model     *llm.Server

	parts []part
	tel   *telemetry.Telemetry // its own; nil when it was handed one
}

// part is one process of the shop, here a goroutine.
type part struct {
	name string
	stop context.CancelFunc
	done chan error // gets one value
}

// Unlimited turns the limits of calls off, for measurements and tests in which few
// people do what many would.
var Unlimited = []string{
	"BOOKWORM_LIMIT_BROWSE=0", "BOOKWORM_LIMIT_SEARCH=0", "BOOKWORM_LIMIT_WRITE=0", "BOOKWORM_LIMIT_CHECKOUT=0", "BOOKWORM_LIMIT_CHAT=0",
	"BOOKWORM_LIMIT_TOKEN=0",
}

// Options says how to run a shop.
type Options struct {
	Logger *slog.Logger // for the stand-ins
	// Config changes settings before the shop starts; nil for none. For tests.
	Config func(map[string]string)
	// Environ is where settings beyond the stack's own come from, "NAME=value".
	Environ []string
	// Telemetry stays the caller's; nil sets one up from the settings.
	Telemetry *telemetry.Telemetry
}

// Start runs the shop on the given infrastructure and returns when all of it is
// ready.
func Start(ctx context.Context, f *folder.Folder, infra folder.Addresses, o Options) (*Shop, error) {
	s := &Shop{}
	if err := s.start(ctx, f, infra, o); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Shop) start(ctx context.Context, f *folder.Folder, infra folder.Addresses, o Options) error {
	ports := make(map[string]int)
	for name, preferred := range map[string]int{
		"gateway": 8080, "api": 8081, "worker": 8082, "identity": 8083, "psp": 8084, "inbox": 8025, "smtp": 1025, "metrics": 9464,
		"llm": 8085,
	} {
		var err error
		if ports[name], err = f.Port(ctx, name, preferred); err != nil {
			return err
		}
	}
	address := func(part string) string { return "http://" + loopback.HostPort(ports[part]) }
	if err := s.standIns(ctx, f, ports, address("gateway"), o.Logger); err != nil {
		return err
	}
	s.Addresses = maps.Clone(infra)
	maps.Copy(s.Addresses, folder.Addresses{
		"BOOKWORM_GATEWAY_URL": address("gateway"), "BOOKWORM_ISSUER_URL": s.Identity.URL(), "BOOKWORM_INBOX_URL": s.Inbox.URL(),
		"BOOKWORM_PSP_URL": s.Payments.URL(), "BOOKWORM_METRICS_URL": address("metrics") + "/metrics",
		"BOOKWORM_MODEL_URL": s.Model.URL(),
	})
	limitKey, err := hkdf.Key(sha256.New, []byte(f.Secrets.PersonalDataKey), nil, "limits", sha256.Size)
	if err != nil {
		return fmt.Errorf("derive the key of the limits: %w", err)
	}
	settings := map[string]string{
		"BOOKWORM_LIMIT_KEY":  hex.EncodeToString(limitKey),
		"BOOKWORM_LOG_FORMAT": "text", "BOOKWORM_LOG_LEVEL": "warn",
		"BOOKWORM_TOKEN_URL": s.Identity.URL() + "/protocol/openid-connect/token", "BOOKWORM_CLIENT_SECRET": f.Secrets.ServiceSecret,
		"BOOKWORM_CATALOG_URL": address("api"), "BOOKWORM_BASKET_URL": address("api"), "BOOKWORM_ORDERING_URL": address("api"),
		"BOOKWORM_FINANCE_URL": address("api"), "BOOKWORM_NOTIFICATION_URL": address("api"),
		"BOOKWORM_RATING_URL": address("api"), "BOOKWORM_CHAT_URL": address("api"),
		"BOOKWORM_STATUS_URLS":     "workers=" + address("worker"),
		"BOOKWORM_COMPLIANCE_URL":  address("api"),
		"BOOKWORM_OPENAI_BASE_URL": s.Model.URL(), "BOOKWORM_OPENAI_API_KEY": ModelKey,
		"BOOKWORM_STRIPE_URL": s.Payments.URL(), "BOOKWORM_STRIPE_SECRET_KEY": StripeKey,
		"BOOKWORM_STRIPE_WEBHOOK_SECRET": f.Secrets.WebhookSecret, "BOOKWORM_PAYMENT_RETURN_URL": address("gateway") + "/health/live",
		"BOOKWORM_SMTP_URL": "smtp://" + s.Inbox.SMTPAddress(), "BOOKWORM_PERSONAL_DATA_KEY": f.Secrets.PersonalDataKey,
	}
	// The stand-in's models have names of their own: an index made by its embedder is
	// rebuilt when another endpoint takes its place.
	if !slices.ContainsFunc(o.Environ, func(line string) bool { return strings.HasPrefix(line, "BOOKWORM_OPENAI_BASE_URL=") }) {
		settings["BOOKWORM_CHAT_MODEL"], settings["BOOKWORM_EMBEDDING_MODEL"] = "bookworm-extraction", "bookworm-hashing"
	}
	maps.Copy(settings, s.Addresses)
	for _, line := range o.Environ {
		if name, value, ok := strings.Cut(line, "="); ok {
			if _, own := s.Addresses[name]; !own {
				settings[name] = value
			}
		}
	}
	if o.Config != nil {
		o.Config(settings)
	}
	environ := make([]string, 0, len(settings))
	for name, value := range settings {
		environ = append(environ, name+"="+value)
	}
	config, err := app.LoadConfig(environ)
	if err != nil {
		return fmt.Errorf("configure the shop: %w", err)
	}
	tel := o.Telemetry
	if tel == nil {
		tel, err = telemetry.Setup(ctx, telemetry.Config{
			Service: "bookworm", Version: "dev", OTLPEndpoint: config.OTLPEndpoint, LogLevel: config.LogLevel, LogFormat: config.LogFormat,
		})
		if err != nil {
			return fmt.Errorf("telemetry: %w", err)
		}
		s.tel = tel
	}
	if err := app.Migrate(ctx, config, tel, true); err != nil {
		return err
	}
	// In the order in which they depend on each other; stopped the other way round.
	for _, p := range []struct {
		name string
		run  func(context.Context, net.Listener) error
	}{
		{"metrics", func(ctx context.Context, l net.Listener) error { return app.Metrics(ctx, tel, l) }},
		{"api", func(ctx context.Context, l net.Listener) error {
			return app.API(ctx, config, tel, []string{"catalog", "basket", "ordering", "finance", "notification", "rating", "chat", "compliance"}, l)
		}},
		{"worker", func(ctx context.Context, l net.Listener) error {
			return app.Worker(ctx, config, tel, []string{"catalog", "ordering", "finance", "notification", "rating", "compliance"}, l)
		}},
		{"gateway", func(ctx context.Context, l net.Listener) error { return app.Gateway(ctx, config, tel, nil, l) }},
	} {
		if err := s.run(ctx, p.name, ports[p.name], p.run); err != nil {
			return err
		}
	}
	return s.awaitReady(ctx, address("api"), address("worker"), address("gateway"))
}

// standIns starts what stands for other people's systems.
func (s *Shop) standIns(ctx context.Context, f *folder.Folder, ports map[string]int, gateway string, logger *slog.Logger) error {
	var err error
	if s.Identity, err = identity.Start(ctx, identity.Options{
		DataDir: f.Sub("identity"), Port: ports["identity"], Logger: logger, ServiceSecret: f.Secrets.ServiceSecret,
	}); err != nil {
		return fmt.Errorf("start the identity provider: %w", err)
	}
	if s.Inbox, err = inbox.Start(ctx, inbox.Options{DataDir: f.Sub("inbox"), Port: ports["inbox"], SMTPPort: ports["smtp"], Logger: logger}); err != nil {
		return fmt.Errorf("start the inbox: %w", err)
	}
	if s.Model, err = llm.Start(ctx, llm.Options{Port: ports["llm"], APIKey: ModelKey, Logger: logger}); err != nil {
		return fmt.Errorf("start the model: %w", err)
	}
	if s.Payments, err = psp.Start(ctx, psp.Options{
		DataDir: f.Sub("psp"), Port: ports["psp"], Logger: logger, SecretKey: StripeKey,
		WebhookURL: gateway + "/webhooks/stripe", WebhookSecret: f.Secrets.WebhookSecret,
	}); err != nil {
		return fmt.Errorf("start the payment provider: %w", err)
	}
	return nil
}

func (s *Shop) run(ctx context.Context, name string, port int, run func(context.Context, net.Listener) error) error {
	listener, err := loopback.Listen(ctx, port)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	// A part lives until Stop, whatever becomes of the context of its start.
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	p := part{name: name, stop: stop, done: make(chan error, 1)}
	go func() { p.done <- run(life, listener) }()
	s.parts = append(s.parts, p)
	return nil
}

// awaitReady returns when every part says that it is ready, or with the error of
// the first that ended.
func (s *Shop) awaitReady(ctx context.Context, addresses ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	for _, address := range addresses {
		group.Go(func() error {
			for {
				if ready(ctx, address) {
					return nil
				}
				for _, p := range s.parts {
					select {
					case err := <-p.done:
						p.done <- err
						return fmt.Errorf("%s ended while starting: %w", p.name, err)
					default:
					}
				}
				select {
				case <-ctx.Done():
					return fmt.Errorf("%s did not become ready: %w", address, context.Cause(ctx))
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	return group.Wait()
}

func ready(ctx context.Context, address string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/health/ready", http.NoBody)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	return res.Body.Close() == nil && res.StatusCode == http.StatusOK
}

// Stop ends the shop, its public door first.
func (s *Shop) Stop() error {
	var errs []error
	for _, p := range slices.Backward(s.parts) {
		p.stop()
		if err := <-p.done; err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	s.parts = nil
	if s.Payments != nil {
		s.Payments.Stop()
	}
	if s.Model != nil {
		s.Model.Stop()
	}
	if s.Inbox != nil {
		s.Inbox.Stop()
	}
	if s.Identity != nil {
		s.Identity.Stop()
	}
	if s.tel != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		errs = append(errs, s.tel.Shutdown(ctx))
	}
	return errors.Join(errs...)
}

// Wait returns with the error of the first part that ends, or when ctx ends.
func (s *Shop) Wait(ctx context.Context) error {
	ended := make(chan error, len(s.parts))
	for _, p := range s.parts {
		go func() {
			select {
			case err := <-p.done:
				p.done <- err
				ended <- fmt.Errorf("%s ended: %w", p.name, err)
			case <-ctx.Done():
			}
		}()
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}
