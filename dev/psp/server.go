package psp

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/stripe/stripe-go/v85"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/loopback"
)

// maxBody is the largest request body that is read, in bytes.
const maxBody = 1 << 20

// Options configure a Server. The zero value of each field but DataDir works.
type Options struct {
	// DataDir is the folder that keeps the provider's state; it is created when missing.
	DataDir string
	// Port to listen on at 127.0.0.1; 0 picks a free one.
	Port int
	// Logger gets failures and webhook retries. It defaults to slog.Default.
	Logger *slog.Logger
	// SecretKey is the one accepted API key. Empty accepts every key that starts with sk_test_.
	SecretKey string
	// WebhookURL receives the events. Empty keeps them until SetWebhook names one.
	WebhookURL string
	// WebhookSecret signs the deliveries to WebhookURL.
	WebhookSecret string
}

// Server is a running stand-in. Its methods are safe for concurrent use.
type Server struct {
	log       *slog.Logger
	url       string
	secretKey string

	http   *http.Server
	cancel context.CancelFunc
	group  *errgroup.Group
	stop   sync.Once

	faults  faults
	webhook webhook

	mu       sync.Mutex // guards state, journal and inFlight
	state    state
	journal  *journal
	inFlight map[string]bool // idempotency keys of running requests
}

// Start loads the state kept in opts.DataDir and serves until Stop. ctx bounds
// the start alone: cancelling it later has no effect.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.DataDir == "" {
		return nil, errors.New("psp: DataDir is empty")
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	s := &Server{
		log:       opts.Logger.With("part", "psp"),
		secretKey: opts.SecretKey,
		inFlight:  map[string]bool{},
		state:     newState(),
	}
	journal, err := openJournal(opts.DataDir, s.state.apply)
	if err != nil {
		return nil, fmt.Errorf("open payment journal: %w", err)
	}
	s.journal = journal
	listener, err := loopback.Listen(ctx, opts.Port)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for payments: %w", err), journal.close())
	}
	s.url = "http://" + listener.Addr().String()

	lifetime, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return lifetime },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.webhook.init(opts.WebhookURL, opts.WebhookSecret)
	s.group = &errgroup.Group{}
	s.group.Go(func() error { return s.http.Serve(listener) })
	s.group.Go(func() error { s.deliverEvents(lifetime); return nil })
	return s, nil
}

// URL is the base address, without a trailing slash: what stripe-go takes as BackendConfig.URL.
func (s *Server) URL() string { return s.url }

// Stop ends the server and waits for its goroutines. Further calls do nothing.
func (s *Server) Stop() {
	s.stop.Do(func() {
		s.cancel() // wakes slow requests and the deliveries
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		if err := s.http.Shutdown(ctx); err != nil {
			err = errors.Join(err, s.http.Close())
			s.log.Warn("payments stopped with open connections", "error", err)
		}
		if err := s.group.Wait(); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("serve payments", "error", err)
		}
		if err := s.journal.close(); err != nil {
			s.log.Error("close payment journal", "error", err)
		}
	})
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/payment_intents", s.write("create", s.createIntent))
	mux.Handle("POST /v1/payment_intents/{id}/confirm", s.write("confirm", s.confirmIntent))
	mux.Handle("POST /v1/payment_intents/{id}/capture", s.write("capture", s.captureIntent))
	mux.Handle("POST /v1/payment_intents/{id}/cancel", s.write("cancel", s.cancelIntent))
	mux.Handle("POST /v1/refunds", s.write("refund", s.createRefund))
	mux.Handle("GET /v1/payment_intents", s.read("list", s.listIntents))
	mux.Handle("GET /v1/payment_intents/search", s.read("search", s.searchIntents))
	mux.Handle("GET /v1/payment_intents/{id}", s.read("retrieve", s.retrieveIntent))
	mux.Handle("GET /v1/charges/{id}", s.read("retrieve_charge", s.retrieveCharge))
	mux.Handle("GET /v1/refunds", s.read("list_refunds", s.listRefunds))
	mux.Handle("GET /v1/refunds/{id}", s.read("retrieve_refund", s.retrieveRefund))
	mux.Handle("GET /v1/events", s.read("list_events", s.listEvents))
	mux.Handle("GET /v1/events/{id}", s.read("retrieve_event", s.retrieveEvent))
	mux.Handle("/v1/", s.read("unknown", func(c *call) (any, *apiError) {
		return nil, &apiError{
			Status: http.StatusNotFound, Type: typeInvalidRequest,
			Message: fmt.Sprintf("Unrecognized request URL (%s: %s).", c.method, c.path),
		}
	}))
	mux.HandleFunc("GET /3ds/{id}", s.showChallenge)
	mux.HandleFunc("POST /3ds/{id}", s.answerChallenge)
	mux.HandleFunc("GET /_dev/faults", s.serveFaults)
	mux.HandleFunc("POST /_dev/faults", s.injectFault)
	mux.HandleFunc("DELETE /_dev/faults", s.clearFaults)
	mux.HandleFunc("GET /_dev/log", s.serveEffects)
	mux.HandleFunc("POST /_dev/events/{id}/resend", s.resendEvent)
	mux.HandleFunc("GET /{$}", s.showIntents)
	return mux
}

// call is one authenticated API request.
type call struct {
	op        string
	method    string
	path      string
	id        string // the {id} of the path
	form      form
	requestID string
	key       string // Idempotency-Key
}

// begin writes the common headers, authenticates and decodes the request.
func (s *Server) begin(w http.ResponseWriter, r *http.Request, op string) (*call, *apiError) {
	c := &call{
		op: op, method: r.Method, path: r.URL.Path, id: r.PathValue("id"),
		requestID: newID("req_", 14), key: strings.TrimSpace(r.Header.Get("Idempotency-Key")),
	}
	version := r.Header.Get("Stripe-Version")
	if version == "" {
		version = stripe.APIVersion
	}
	w.Header().Set("Stripe-Version", version)
	w.Header().Set("Request-Id", c.requestID)
	if err := s.authenticate(r); err != nil {
		return c, err
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		return c, invalidParam("", "", "Invalid request body: "+err.Error())
	}
	c.form = form(r.Form)
	return c, nil
}

func (s *Server) authenticate(r *http.Request) *apiError {
	key, _, ok := r.BasicAuth()
	if !ok {
		key, ok = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	}
	switch {
	case !ok || key == "":
		return &apiError{
			Status: http.StatusUnauthorized, Type: typeInvalidRequest,
			Message: "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
		}
	case !strings.HasPrefix(key, "sk_test_"),
		s.secretKey != "" && subtle.ConstantTimeCompare([]byte(key), []byte(s.secretKey)) != 1:
		return &apiError{Status: http.StatusUnauthorized, Type: typeInvalidRequest, Message: "Invalid API Key provided."}
	}
	return nil
}

// read serves an operation without effects. run is called with mu held.
func (s *Server) read(op string, run func(*call) (any, *apiError)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, failure := s.begin(w, r, op)
		if failure != nil {
			s.send(w, c, failure.answer(c))
			return
		}
		s.send(w, c, s.underFault(r, c, func() answer {
			s.mu.Lock()
			body, failure := run(c)
			s.mu.Unlock()
			if failure != nil {
				return failure.answer(c)
			}
			return newAnswer(http.StatusOK, body)
		}))
	})
}

// write serves an operation with effects, once per idempotency key. run is
// called with mu held and only describes the change; the change and the answer
// are in the journal, as one line, before the answer leaves.
func (s *Server) write(op string, run func(*call) (change, any, *apiError)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, failure := s.begin(w, r, op)
		if failure == nil && len(c.key) > 255 {
			failure = invalidParam("", "", "Idempotency keys can be at most 255 characters long.")
		}
		if failure != nil {
			s.send(w, c, failure.answer(c))
			return
		}
		replay, failure := s.acquireKey(c)
		if failure != nil {
			s.send(w, c, failure.answer(c))
			return
		}
		a := s.underFault(r, c, func() answer {
			if replay != nil {
				w.Header().Set("Idempotent-Replayed", "true")
				return *replay
			}
			return s.execute(c, run)
		})
		// Before the answer: the caller may repeat the request as soon as it has it.
		s.releaseKey(c)
		s.send(w, c, a)
	})
}

// execute runs the operation and records what it changed together with its answer.
func (s *Server) execute(c *call, run func(*call) (change, any, *apiError)) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	ch, body, failure := run(c)
	a := newAnswer(http.StatusOK, body)
	if failure != nil {
		a = failure.answer(c)
		if !failure.Remember {
			return a
		}
	}
	if c.key != "" {
		kept := a
		kept.Key, kept.Fingerprint = c.key, c.fingerprint()
		ch.Answer = &kept
	}
	if err := s.commit(ch); err != nil {
		s.log.Error("record payment change", "operation", c.op, "error", err)
		return (&apiError{Status: http.StatusInternalServerError, Type: typeAPI, Message: "An unknown error occurred."}).answer(c)
	}
	return a
}

// commit writes the change to the journal and then applies it. mu is held.
func (s *Server) commit(ch change) error {
	for i := range ch.Effects {
		ch.Effects[i].Seq = int64(len(s.state.effects) + i + 1)
	}
	if err := s.journal.append(ch); err != nil {
		return err
	}
	s.state.apply(ch)
	if len(ch.Events) > 0 {
		s.webhook.wakeUp()
	}
	return nil
}

func (s *Server) send(w http.ResponseWriter, c *call, a answer) {
	if a.lost {
		cutConnection(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if c.key != "" {
		w.Header().Set("Idempotency-Key", c.key)
	}
	w.WriteHeader(a.Status)
	if _, err := w.Write(a.Body); err != nil {
		s.log.Debug("answer not delivered", "operation", c.op, "error", err)
	}
}

// answer is what a request is told; with a key it is also what a repeat is told.
type answer struct {
	Key         string          `json:"key,omitempty"`
	Fingerprint string          `json:"fingerprint,omitempty"`
	Status      int             `json:"status"`
	Body        json.RawMessage `json:"body"`

	lost bool // on its way to the caller
}

func newAnswer(status int, body any) answer {
	raw, err := json.Marshal(body)
	if err != nil { // the bodies are this package's own structs: they always marshal
		panic(fmt.Sprintf("psp: marshal answer: %v", err))
	}
	return answer{Status: status, Body: raw}
}

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// newID is prefix and n random letters and digits.
func newID(prefix string, n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	for i := range b {
		b[i] = alphabet[int(b[i])%len(alphabet)]
	}
	return prefix + string(b)
}
