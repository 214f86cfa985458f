package llm

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"bookworm/internal/loopback"
)

// The operations that faults are injected into.
const (
	opChat       = "chat"
	opEmbeddings = "embeddings"
	opModels     = "models"
)

// maxBody is the largest request body that is read, in bytes.
const maxBody = 16 << 20

// Options configure a Server. The zero value works.
type Options struct {
	// Port to listen on at 127.0.0.1; 0 picks a free one.
	Port int
	// Logger gets failures, without content. It defaults to slog.Default.
	Logger *slog.Logger
	// APIKey is the one accepted key. Empty accepts every caller.
	APIKey string
}

// Server is a running stand-in. It keeps nothing but its counters and the last
// questions. Its methods are safe for concurrent use.
type Server struct {
	log    *slog.Logger
	url    string
	apiKey string

	http   *http.Server
	cancel context.CancelFunc
	group  *errgroup.Group
	stop   sync.Once

	faults    faults
	counters  counters
	questions questions
}

// Start serves until Stop. ctx bounds the start alone: cancelling it later has no
// effect.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	listener, err := loopback.Listen(ctx, opts.Port)
	if err != nil {
		return nil, fmt.Errorf("listen for questions: %w", err)
	}
	s := &Server{
		log: opts.Logger.With("part", "llm"), apiKey: opts.APIKey,
		url: "http://" + listener.Addr().String(),
	}
	lifetime, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return lifetime },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.group = &errgroup.Group{}
	s.group.Go(func() error { return s.http.Serve(listener) })
	return s, nil
}

// URL is the base address of the API, with its version and without a trailing
// slash: what clients take as base URL.
func (s *Server) URL() string { return s.url + "/v1" }

// Stop ends the server and waits for its goroutines. Further calls do nothing.
func (s *Server) Stop() {
	s.stop.Do(func() {
		s.cancel() // wakes slow answers
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		if err := s.http.Shutdown(ctx); err != nil {
			err = errors.Join(err, s.http.Close())
			s.log.Warn("model stopped with open connections", "error", err)
		}
		if err := s.group.Wait(); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("serve model", "error", err)
		}
	})
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/chat/completions", s.serve(opChat, s.chat))
	mux.Handle("POST /v1/embeddings", s.serve(opEmbeddings, s.embeddings))
	mux.Handle("GET /v1/models", s.serve(opModels, s.models))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		e := invalid("", "unknown_url", "Unknown request URL: %s %s. Please check the URL for typos, or see the docs at https://platform.openai.com/docs/api-reference/.", r.Method, r.URL.Path)
		e.Status = http.StatusNotFound
		e.write(w)
	})
	mux.HandleFunc("GET /_dev/faults", s.serveFaults)
	mux.HandleFunc("POST /_dev/faults", s.injectFault)
	mux.HandleFunc("DELETE /_dev/faults", s.clearFaults)
	mux.HandleFunc("GET /_dev/counters", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, s.Counters()) })
	return mux
}

// serve wraps an operation with what all have: the key, the counters and the
// faults. run says whether it gave all of its answer: a caller who has it may leave
// before the handler ends.
func (s *Server) serve(op string, run func(http.ResponseWriter, *http.Request, strikes) (whole bool)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.counters.requests.Add(1)
		s.counters.inFlight.Add(1)
		defer s.counters.inFlight.Add(-1)
		if failure := s.authenticate(r); failure != nil {
			failure.write(w)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if !run(w, r, s.faults.take(op)) && r.Context().Err() != nil {
			s.counters.cancelled.Add(1)
		}
	})
}

func (s *Server) authenticate(r *http.Request) *apiError {
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case s.apiKey == "":
		return nil
	case !ok || key == "":
		e := invalid("", "", "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).")
		e.Status = http.StatusUnauthorized
		return e
	case subtle.ConstantTimeCompare([]byte(key), []byte(s.apiKey)) != 1:
		e := invalid("", "invalid_api_key", "Incorrect API key provided.")
		e.Status = http.StatusUnauthorized
		return e
	}
	return nil
}

// Counters is what the server has done since its start.
type Counters struct {
	Requests     int64 `json:"requests"`
	InFlight     int64 `json:"in_flight"`
	Cancelled    int64 `json:"cancelled"` // requests whose caller left before the end
	InputTokens  int64 `json:"input_tokens"`
	OutputTokens int64 `json:"output_tokens"` // those that were really sent
}

type counters struct{ requests, inFlight, cancelled, input, output atomic.Int64 }

// Counters returns the counters as they are now.
func (s *Server) Counters() Counters {
	return Counters{
		Requests: s.counters.requests.Load(), InFlight: s.counters.inFlight.Load(), Cancelled: s.counters.cancelled.Load(),
		InputTokens: s.counters.input.Load(), OutputTokens: s.counters.output.Load(),
	}
}

// keptQuestions is how many questions are kept for tests to look at.
const keptQuestions = 32

type questions struct {
	mu   sync.Mutex
	list []string
}

func (q *questions) keep(body string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) == keptQuestions {
		q.list = append(q.list[:0], q.list[1:]...)
	}
	q.list = append(q.list, body)
}

// Questions returns the bodies of the last chat requests, at most 32, oldest
// first: what the model got to see.
func (s *Server) Questions() []string {
	s.questions.mu.Lock()
	defer s.questions.mu.Unlock()
	return append([]string(nil), s.questions.list...)
}

// models lists the two names that say what is behind every name.
func (s *Server) models(w http.ResponseWriter, r *http.Request, struck strikes) bool {
	if struck.before(r.Context(), w) {
		return false
	}
	type model struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": []model{
		{"bookworm-extraction", "model", 1767225600, "bookworm"},
		{"bookworm-hashing", "model", 1767225600, "bookworm"},
	}})
	return true
}
