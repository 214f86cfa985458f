package llm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// FaultKind is a way for a request to go wrong.
type FaultKind string

// The kinds of fault. Several that wait for the same request strike together, as
// far as they can.
const (
	// RateLimit429 answers 429; Delay becomes the Retry-After header.
	RateLimit429 FaultKind = "rate_limit_429"
	// Error500 and Error503 answer so.
	Error500 FaultKind = "error_500"
	Error503 FaultKind = "error_503"
	// Reset cuts the connection before a byte of the answer.
	Reset FaultKind = "reset"
	// Hang never answers; it ends when the caller leaves.
	Hang FaultKind = "hang"
	// Slow waits for Delay before the first byte of the answer.
	Slow FaultKind = "slow"
	// SlowTokens waits for Delay before each token of a stream.
	SlowTokens FaultKind = "slow_tokens"
	// CutStream cuts the connection after Tokens tokens of a stream.
	CutStream FaultKind = "cut_stream"
	// NoFinish ends a stream in good order after Tokens tokens, without a finish reason.
	NoFinish FaultKind = "no_finish"
	// Garbage sends an event that is no JSON after Tokens tokens of a stream.
	Garbage FaultKind = "garbage"
	// BadJSON breaks the JSON of tool arguments and of JSON answers.
	BadJSON FaultKind = "bad_json"
	// UnknownTool calls a tool that was not offered.
	UnknownTool FaultKind = "unknown_tool"
	// ToolLoop calls a tool again and again and never answers.
	ToolLoop FaultKind = "tool_loop"
	// WrongDimension answers embeddings with one number too many.
	WrongDimension FaultKind = "wrong_dimension"
	// Obedient follows the instructions it finds in tool results, in reviews and in
	// the question: it calls the tools they name, prints the system prompt, repeats
	// links and whatever else it is told to say.
	Obedient FaultKind = "obedient"
)

var kinds = []FaultKind{
	RateLimit429, Error500, Error503, Reset, Hang, Slow, SlowTokens, CutStream, NoFinish, Garbage, BadJSON, UnknownTool, ToolLoop,
	WrongDimension, Obedient,
}

// Always is the Count of a fault that stays until ClearFaults.
const Always = -1

// Fault makes matching requests go wrong.
type Fault struct {
	// Operation is chat, embeddings, models or "*" for all.
	Operation string
	Kind      FaultKind
	// Count of requests that go wrong; 0 means 1.
	Count  int
	Delay  time.Duration
	Tokens int
}

// faultJSON is a Fault at /_dev/faults.
type faultJSON struct {
	Operation string    `json:"operation"`
	Kind      FaultKind `json:"kind"`
	Count     int       `json:"count"`
	DelayMS   int64     `json:"delay_ms"`
	Tokens    int       `json:"tokens,omitempty"`
}

type faults struct {
	mu   sync.Mutex
	list []Fault
}

// Inject queues f behind the faults injected before. It fails on an unknown operation or kind.
func (s *Server) Inject(f Fault) error {
	if !slices.Contains([]string{opChat, opEmbeddings, opModels, "*"}, f.Operation) {
		return fmt.Errorf("llm: unknown operation %q", f.Operation)
	}
	if !slices.Contains(kinds, f.Kind) {
		return fmt.Errorf("llm: unknown kind of fault %q", f.Kind)
	}
	if f.Count < Always || f.Delay < 0 || f.Tokens < 0 {
		return fmt.Errorf("llm: negative count %d, delay %v or tokens %d", f.Count, f.Delay, f.Tokens)
	}
	if f.Count == 0 {
		f.Count = 1
	}
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.list = append(s.faults.list, f)
	return nil
}

// ClearFaults forgets the faults that have not struck yet.
func (s *Server) ClearFaults() {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.list = nil
}

// strikes are the faults of one request, at most one of each kind.
type strikes map[FaultKind]Fault

// take uses up one strike of the first fault of each kind that matches.
func (fs *faults) take(op string) strikes {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	struck := strikes{}
	fs.list = slices.DeleteFunc(fs.list, func(f Fault) bool { return f.Count == 0 })
	for i := range fs.list {
		f := &fs.list[i]
		if _, already := struck[f.Kind]; already || (f.Operation != "*" && f.Operation != op) {
			continue
		}
		struck[f.Kind] = *f
		if f.Count > 0 {
			f.Count--
		}
	}
	return struck
}

func (s strikes) has(kind FaultKind) bool {
	_, ok := s[kind]
	return ok
}

// before does what goes wrong before an answer. It reports whether that was all.
func (s strikes) before(ctx context.Context, w http.ResponseWriter) (over bool) {
	if s.has(Hang) {
		<-ctx.Done()
		return true
	}
	if !pause(ctx, s[Slow].Delay) {
		return true
	}
	switch {
	case s.has(Reset):
		panic(http.ErrAbortHandler)
	case s.has(RateLimit429):
		code := "rate_limit_exceeded"
		(&apiError{
			Status: http.StatusTooManyRequests, Type: typeRateLimit, Code: &code, RetryAfter: s[RateLimit429].Delay,
			Message: "Rate limit reached for requests. Please try again later.",
		}).write(w)
	case s.has(Error500):
		(&apiError{
			Status: http.StatusInternalServerError, Type: typeServer, Message: "The server had an error while processing your request. Sorry about that!",
		}).write(w)
	case s.has(Error503):
		(&apiError{Status: http.StatusServiceUnavailable, Type: typeServer, Message: "The engine is currently overloaded, please try again later."}).write(w)
	default:
		return false
	}
	return true
}

// pause waits and reports whether the caller is still there.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Server) injectFault(w http.ResponseWriter, r *http.Request) {
	var f faultJSON
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	body.DisallowUnknownFields()
	if err := body.Decode(&f); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	err := s.Inject(Fault{
		Operation: f.Operation, Kind: f.Kind, Count: f.Count, Delay: time.Duration(f.DelayMS) * time.Millisecond, Tokens: f.Tokens,
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) serveFaults(w http.ResponseWriter, _ *http.Request) {
	s.faults.mu.Lock()
	waiting := make([]faultJSON, 0, len(s.faults.list))
	for _, f := range s.faults.list {
		if f.Count != 0 {
			waiting = append(waiting, faultJSON{f.Operation, f.Kind, f.Count, f.Delay.Milliseconds(), f.Tokens})
		}
	}
	s.faults.mu.Unlock()
	writeJSON(w, http.StatusOK, waiting)
}

func (s *Server) clearFaults(w http.ResponseWriter, _ *http.Request) {
	s.ClearFaults()
	w.WriteHeader(http.StatusNoContent)
}
