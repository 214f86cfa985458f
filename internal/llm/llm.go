// Package llm talks to a language model and an embedding model at any endpoint
// that speaks OpenAI's HTTP API.
//
// A call is tried at most three times, with exponential back-off and jitter, on
// 429 (honouring Retry-After), on 5xx and on a connection that fails; the context
// bounds all of it. After five failures in a row a circuit breaker answers for the
// endpoint at once, for ten seconds, and then lets one call through to see. Chat
// and embeddings have a breaker each. A call that the caller cancelled and a
// request that the endpoint refused don't count as failures.
//
// What is said to a model and what it answers appears in no error, log or metric.
package llm

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/sashabaranov/go-openai"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"bookworm/internal/personal"
)

// Errors that callers branch on. An endpoint that can't answer now (unreachable,
// overloaded, breaker open, out of time) is a fault with the reason UNAVAILABLE.
var (
	// ErrInvalidAnswer: the model's answer is not what was asked for, for example no
	// valid JSON, also after it was told so.
	ErrInvalidAnswer = errors.New("the model's answer is not valid")
	// ErrDimension: the endpoint's vectors have another dimension than configured.
	ErrDimension = errors.New("wrong embedding dimension")
	// ErrCut: the stream ended before the model had finished. What was said until
	// then may be shown.
	ErrCut = errors.New("the model's answer was cut off")
	// ErrTooLong: the messages are longer than the model's context.
	ErrTooLong = errors.New("the messages are too long for the model")
)

// Config says which models to use and where. Zero values of the last three work.
type Config struct {
	// BaseURL of the API with its version, for example https://api.openai.com/v1.
	BaseURL string
	// APIKey may be empty for an endpoint that wants none.
	APIKey personal.Text
	// ChatModel answers. Empty: Stream and JSON fail.
	ChatModel string
	// EmbeddingModel makes vectors of Dimension numbers. Empty: Embed fails.
	EmbeddingModel string
	Dimension      int
	// HTTPClient carries the calls, for example with tracing. Its Timeout should be
	// zero: it would cut long answers, and the context bounds each call.
	HTTPClient *http.Client
	// Logger hears of breakers that open and close. It defaults to slog.Default.
	Logger *slog.Logger
	// Meter counts tokens (bookworm_llm_tokens) and times calls
	// (gen_ai.client.operation.duration). It defaults to none.
	Meter metric.Meter
}

// Client calls the models. It is safe for concurrent use; make one and keep it,
// because it owns the connections and the breakers.
type Client struct {
	api            *openai.Client
	chatModel      string
	embeddingModel string
	dimension      int

	chatBreaker      *breaker
	embeddingBreaker *breaker
	meters           meters

	// What the endpoint turned out not to know. They are learnt from its refusals and
	// hold for the client's life.
	noDimensions atomic.Bool
	noBase64     atomic.Bool
	newLimitName atomic.Bool
}

// New returns a client. It makes no call.
func New(c Config) (*Client, error) {
	var problems []error
	if u, err := url.Parse(c.BaseURL); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		problems = append(problems, errors.New("the base URL is not an http or https address"))
	}
	if c.ChatModel == "" && c.EmbeddingModel == "" {
		problems = append(problems, errors.New("neither a chat model nor an embedding model is named"))
	}
	if c.EmbeddingModel != "" && c.Dimension < 1 {
		problems = append(problems, fmt.Errorf("the embedding dimension is %d, not 1 or more", c.Dimension))
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("configure the model: %w", errors.Join(problems...))
	}
	if c.HTTPClient == nil {
		c.HTTPClient = &http.Client{Transport: transport()}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Meter == nil {
		c.Meter = noop.Meter{}
	}
	meters, err := newMeters(c.Meter)
	if err != nil {
		return nil, err
	}
	config := openai.DefaultConfig(string(c.APIKey))
	config.BaseURL = c.BaseURL
	config.HTTPClient = doer{c.HTTPClient}
	return &Client{
		api:              openai.NewClientWithConfig(config),
		chatModel:        c.ChatModel,
		embeddingModel:   c.EmbeddingModel,
		dimension:        c.Dimension,
		chatBreaker:      newBreaker("chat", c.Logger),
		embeddingBreaker: newBreaker("embeddings", c.Logger),
		meters:           meters,
	}, nil
}

// transport keeps enough connections for many conversations that stream at once;
// the standard library's own keeps two.
func transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is one, documented
	t.MaxIdleConnsPerHost = 64
	return t
}
