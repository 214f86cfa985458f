package app

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"bookworm/internal/personal"
	"bookworm/internal/waf"
)

// Config is everything that can be set, by environment variables. A process needs
// only the settings of the parts it runs. A secret may also be given as the path
// of a file that holds it, in the variable's name with _FILE at its end.
type Config struct {
	// Listen is where the process answers, host:port.
	Listen string `env:"LISTEN" envDefault:":8080"`
	// MetricsListen is where /metrics and the health endpoints answer for the
	// operators; not for the public.
	MetricsListen string `env:"METRICS_LISTEN" envDefault:":9464"`

	// TLSCertFile and TLSKeyFile are PEM files, as cert-manager mounts them. With them
	// the process answers by TLS 1.3 only; new files are taken up while it runs.
	TLSCertFile string `env:"TLS_CERT_FILE"`
	TLSKeyFile  string `env:"TLS_KEY_FILE"`
	// MaxConnections bounds the open connections of a process.
	MaxConnections int `env:"MAX_CONNECTIONS" envDefault:"10000"`
	// TrustedProxies are the networks (10.0.0.0/8) of the proxies before the gateway,
	// which are believed when they say in X-Forwarded-For for whom they ask.
	TrustedProxies []netip.Prefix `env:"TRUSTED_PROXIES"`
	// LimitBrowse and so on are how many calls of a class a subject may make in a
	// minute, or an address without a token. 0: as many as they like.
	LimitBrowse   int `env:"LIMIT_BROWSE" envDefault:"600"`
	LimitSearch   int `env:"LIMIT_SEARCH" envDefault:"120"`
	LimitWrite    int `env:"LIMIT_WRITE" envDefault:"60"`
	LimitCheckout int `env:"LIMIT_CHECKOUT" envDefault:"20"`
	LimitChat     int `env:"LIMIT_CHAT" envDefault:"20"`
	// LimitWebhook is how many reports an address may send in a minute, LimitToken how
	// many bad tokens.
	LimitWebhook int `env:"LIMIT_WEBHOOK" envDefault:"6000"`
	LimitToken   int `env:"LIMIT_TOKEN" envDefault:"60"`
	// LimitKey hides in Redis who calls: at least 16 characters, the same for all
	// gateways.
	LimitKey personal.Text `env:"LIMIT_KEY"`

	// DatabaseURL is PostgreSQL. The login must be a member of the role of each
	// context that the process serves (bookworm_<context>); for migrate it must be
	// allowed to create roles and schemas.
	DatabaseURL personal.Text `env:"DATABASE_URL"`
	// RedisURL is redis://host:port, where baskets live and the gateway counts calls.
	RedisURL personal.Text `env:"REDIS_URL"`

	// TemporalAddress is host:port of the Temporal frontend.
	TemporalAddress string `env:"TEMPORAL_ADDRESS"`
	// TemporalNamespace holds the shop's workflows.
	TemporalNamespace string `env:"TEMPORAL_NAMESPACE" envDefault:"bookworm"`
	// TemporalTLS turns TLS on, as Temporal Cloud needs it.
	TemporalTLS bool `env:"TEMPORAL_TLS"`
	// TemporalAPIKey is for Temporal Cloud.
	TemporalAPIKey personal.Text `env:"TEMPORAL_API_KEY"`

	// IssuerURL is the identity provider's public address, which its tokens name.
	IssuerURL string `env:"ISSUER_URL"`
	// JWKSURL is where the provider's keys are fetched, when that differs from what
	// discovery at IssuerURL says (inside a cluster, for example).
	JWKSURL string `env:"JWKS_URL"`
	// Audience must be in every token.
	Audience string `env:"AUDIENCE" envDefault:"bookworm-api"`
	// TokenURL gives this service its own tokens, by client credentials, and those
	// with which it calls others for a person, by token exchange.
	TokenURL string `env:"TOKEN_URL"`
	// ClientID and ClientSecret are the service's own credential, one for each process.
	ClientID     string        `env:"CLIENT_ID" envDefault:"bookworm-service"`
	ClientSecret personal.Text `env:"CLIENT_SECRET"`

	// Where the contexts' APIs answer, http://host:port.
	CatalogURL      string `env:"CATALOG_URL"`
	BasketURL       string `env:"BASKET_URL"`
	OrderingURL     string `env:"ORDERING_URL"`
	FinanceURL      string `env:"FINANCE_URL"`
	NotificationURL string `env:"NOTIFICATION_URL"`
	RatingURL       string `env:"RATING_URL"`
	ChatURL         string `env:"CHAT_URL"`
	ComplianceURL   string `env:"COMPLIANCE_URL"`

	// QdrantAddress is host:port of Qdrant's gRPC API, where the search index is.
	QdrantAddress string `env:"QDRANT_ADDRESS"`
	// QdrantTLS turns TLS on, QdrantAPIKey is Qdrant's.
	QdrantTLS    bool          `env:"QDRANT_TLS"`
	QdrantAPIKey personal.Text `env:"QDRANT_API_KEY"`

	// OpenAIBaseURL and OpenAIAPIKey are any endpoint that speaks OpenAI's protocol,
	// for example https://api.openai.com/v1 or http://127.0.0.1:11434/v1. Moderation
	// of reviews does without one.
	OpenAIBaseURL string        `env:"OPENAI_BASE_URL"`
	OpenAIAPIKey  personal.Text `env:"OPENAI_API_KEY"`
	// ChatModel answers, EmbeddingModel turns texts into vectors of EmbeddingDimension
	// numbers. Another model or dimension makes a new search index.
	ChatModel          string `env:"CHAT_MODEL" envDefault:"gpt-4o-mini"`
	EmbeddingModel     string `env:"EMBEDDING_MODEL" envDefault:"text-embedding-3-small"`
	EmbeddingDimension int    `env:"EMBEDDING_DIMENSION" envDefault:"1536"`
	// ChatDayTokens is how many tokens the model may read and write for a shopper in a
	// day (UTC). ChatInputPrice and ChatOutputPrice are what a million of them cost, in
	// millionths of a US dollar, for the accounts.
	ChatDayTokens   int   `env:"CHAT_DAY_TOKENS" envDefault:"400000"`
	ChatInputPrice  int64 `env:"CHAT_INPUT_PRICE" envDefault:"150000"`
	ChatOutputPrice int64 `env:"CHAT_OUTPUT_PRICE" envDefault:"600000"`

	// StripeSecretKey and StripeWebhookSecret are the payment provider's.
	StripeSecretKey     personal.Text `env:"STRIPE_SECRET_KEY"`
	StripeWebhookSecret personal.Text `env:"STRIPE_WEBHOOK_SECRET"`
	// StripeURL replaces Stripe's own address, for tests.
	StripeURL string `env:"STRIPE_URL"`
	// PaymentReturnURL is where shoppers land after confirming a payment with their
	// bank.
	PaymentReturnURL string `env:"PAYMENT_RETURN_URL"`
	// PaymentWindow is how long a shopper may take to pay.
	PaymentWindow time.Duration `env:"PAYMENT_WINDOW" envDefault:"15m"`

	// SMTPURL is smtp://[user:password@]host:port, or smtps://.
	SMTPURL personal.Text `env:"SMTP_URL"`
	// MailFrom is the sender of the shop's e-mails.
	MailFrom string `env:"MAIL_FROM" envDefault:"BookWorm <orders@bookworm.example>"`

	// PersonalDataKey encrypts personal data in workflow histories and orders: 32
	// bytes in base64.
	PersonalDataKey personal.Text `env:"PERSONAL_DATA_KEY"`

	// PublicURL is the gateway's public address, which the card of the shop's agent
	// names. Empty: the name under which the gateway was asked, by plain HTTP.
	PublicURL string `env:"PUBLIC_URL"`
	// StatusURLs are processes that the status page shows beside the contexts' APIs, as
	// name=http://host:port of their health. A name with the word worker is a worker.
	StatusURLs []string `env:"STATUS_URLS"`
	// CORSOrigins are the web pages that may call the gateway from a browser.
	CORSOrigins []string `env:"CORS_ORIGINS"`
	// WAF says what becomes of requests that look like attacks: off (nobody looks),
	// detect (they are logged) or block. docs/security.md says what it costs.
	WAF string `env:"WAF" envDefault:"off"`

	// OTLPEndpoint takes traces, for example http://collector:4318 or
	// grpc://collector:4317. Empty: nothing is exported.
	OTLPEndpoint string `env:"OTLP_ENDPOINT"`
	// LogLevel is debug, info, warn or error.
	LogLevel slog.Level `env:"LOG_LEVEL" envDefault:"info"`
	// LogFormat is json or text.
	LogFormat string `env:"LOG_FORMAT" envDefault:"json"`
}

// prefix begins the name of every variable.
const prefix = "BOOKWORM_"

// paths are the settings that are paths themselves, and no secret in a file.
var paths = []string{prefix + "TLS_CERT_FILE", prefix + "TLS_KEY_FILE"}

// maxCalls is the highest limit of a class; more is none at all.
const maxCalls = 1_000_000

// LoadConfig reads the configuration from variables in the form "NAME=value". All
// mistakes are reported at once.
func LoadConfig(environ []string) (Config, error) {
	vars := env.ToMap(environ)
	var problems []error
	for name, path := range vars {
		target, isFile := strings.CutSuffix(name, "_FILE")
		if !isFile || !strings.HasPrefix(name, prefix) || slices.Contains(paths, name) {
			continue
		}
		if _, both := vars[target]; both {
			problems = append(problems, fmt.Errorf("%s and %s are both set", target, name))
			continue
		}
		content, err := os.ReadFile(path) //nolint:gosec // the operator names the file
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
			continue
		}
		vars[target] = strings.TrimRight(string(content), "\r\n")
	}
	c, err := env.ParseAsWithOptions[Config](env.Options{Environment: vars, Prefix: prefix})
	if aggregate, ok := errors.AsType[env.AggregateError](err); ok {
		problems = append(problems, aggregate.Errors...)
	} else if err != nil {
		problems = append(problems, err)
	}
	for name, text := range map[string]string{
		"ISSUER_URL": c.IssuerURL, "JWKS_URL": c.JWKSURL, "TOKEN_URL": c.TokenURL, "CATALOG_URL": c.CatalogURL, "BASKET_URL": c.BasketURL,
		"ORDERING_URL": c.OrderingURL, "FINANCE_URL": c.FinanceURL, "NOTIFICATION_URL": c.NotificationURL, "STRIPE_URL": c.StripeURL,
		"PAYMENT_RETURN_URL": c.PaymentReturnURL, "RATING_URL": c.RatingURL, "CHAT_URL": c.ChatURL, "COMPLIANCE_URL": c.ComplianceURL,
		"OPENAI_BASE_URL": c.OpenAIBaseURL,
		"PUBLIC_URL":      c.PublicURL,
	} {
		if u, err := url.Parse(text); text != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https")) {
			problems = append(problems, fmt.Errorf("%s%s is not an http or https address", prefix, name))
		}
	}
	if key, err := base64.StdEncoding.DecodeString(string(c.PersonalDataKey)); err != nil || (len(key) != personal.KeySize && len(key) != 0) {
		problems = append(problems, fmt.Errorf("%sPERSONAL_DATA_KEY is not %d bytes in base64", prefix, personal.KeySize))
	}
	problems = append(problems, c.doorProblems()...)
	if c.EmbeddingDimension < 1 || c.EmbeddingDimension > 65536 {
		problems = append(problems, fmt.Errorf("%sEMBEDDING_DIMENSION is %d, not 1 to 65536", prefix, c.EmbeddingDimension))
	}
	if c.ChatDayTokens <= 0 {
		problems = append(problems, fmt.Errorf("%sCHAT_DAY_TOKENS is not more than 0", prefix))
	}
	if c.ChatInputPrice < 0 || c.ChatOutputPrice < 0 {
		problems = append(problems, fmt.Errorf("%sCHAT_INPUT_PRICE or %[1]sCHAT_OUTPUT_PRICE is less than 0", prefix))
	}
	if c.PaymentWindow <= 0 {
		problems = append(problems, fmt.Errorf("%sPAYMENT_WINDOW is not longer than 0", prefix))
	}
	if !slices.Contains([]waf.Mode{waf.Off, waf.Detect, waf.Block}, waf.Mode(c.WAF)) {
		problems = append(problems, fmt.Errorf("%sWAF is %q, not off, detect or block", prefix, c.WAF))
	}
	if !slices.Contains([]string{"json", "text"}, c.LogFormat) {
		problems = append(problems, fmt.Errorf("%sLOG_FORMAT is %q, not json or text", prefix, c.LogFormat))
	}
	if err := joinSorted(problems); err != nil {
		return Config{}, err
	}
	return c, nil
}

// doorProblems are the mistakes in what protects a process from its callers.
func (c Config) doorProblems() (problems []error) {
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		problems = append(problems, fmt.Errorf("%sTLS_CERT_FILE and %[1]sTLS_KEY_FILE are set together or not at all", prefix))
	}
	if c.MaxConnections < 4 {
		problems = append(problems, fmt.Errorf("%sMAX_CONNECTIONS is %d, not at least 4", prefix, c.MaxConnections))
	}
	for name, calls := range map[string]int{
		"BROWSE": c.LimitBrowse, "SEARCH": c.LimitSearch, "WRITE": c.LimitWrite, "CHECKOUT": c.LimitCheckout, "CHAT": c.LimitChat,
		"WEBHOOK": c.LimitWebhook, "TOKEN": c.LimitToken,
	} {
		if calls < 0 || calls > maxCalls {
			problems = append(problems, fmt.Errorf("%sLIMIT_%s is %d, not 0 to %d", prefix, name, calls, maxCalls))
		}
	}
	if len(c.LimitKey) > 0 && len(c.LimitKey) < 16 {
		problems = append(problems, fmt.Errorf("%sLIMIT_KEY has fewer than 16 characters", prefix))
	}
	for _, setting := range c.StatusURLs {
		name, address, _ := strings.Cut(setting, "=")
		u, err := url.Parse(strings.TrimSpace(address))
		if strings.TrimSpace(name) == "" || err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			problems = append(problems, fmt.Errorf("%sSTATUS_URLS has %q, which is not name=http://host:port", prefix, setting))
		}
	}
	return problems
}

// require reports every named setting that is empty.
func (c Config) require(names ...string) error {
	set := map[string]bool{
		"DATABASE_URL": c.DatabaseURL != "", "REDIS_URL": c.RedisURL != "", "TEMPORAL_ADDRESS": c.TemporalAddress != "",
		"ISSUER_URL": c.IssuerURL != "", "TOKEN_URL": c.TokenURL != "", "CLIENT_SECRET": c.ClientSecret != "",
		"CATALOG_URL": c.CatalogURL != "", "BASKET_URL": c.BasketURL != "", "ORDERING_URL": c.OrderingURL != "",
		"FINANCE_URL": c.FinanceURL != "", "NOTIFICATION_URL": c.NotificationURL != "",
		"STRIPE_SECRET_KEY": c.StripeSecretKey != "", "STRIPE_WEBHOOK_SECRET": c.StripeWebhookSecret != "",
		"SMTP_URL": c.SMTPURL != "", "PERSONAL_DATA_KEY": c.PersonalDataKey != "",
		"RATING_URL": c.RatingURL != "", "CHAT_URL": c.ChatURL != "", "COMPLIANCE_URL": c.ComplianceURL != "", "QDRANT_ADDRESS": c.QdrantAddress != "",
		"OPENAI_BASE_URL": c.OpenAIBaseURL != "", "LIMIT_KEY": c.LimitKey != "",
	}
	var problems []error
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if !set[name] {
			problems = append(problems, fmt.Errorf("%s%s is not set", prefix, name))
		}
	}
	return joinSorted(problems)
}

func joinSorted(problems []error) error {
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(problems...)
}
