package psp

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// FaultKind is a way for a request to go wrong.
type FaultKind string

// The kinds of fault.
const (
	// TimeoutAfterEffect applies the effect and cuts the connection without an
	// answer: the lost response. The answer is kept under the idempotency key.
	TimeoutAfterEffect FaultKind = "timeout_after_effect"
	// TimeoutBeforeEffect cuts the connection before anything happens.
	TimeoutBeforeEffect FaultKind = "timeout_before_effect"
	// Error500 answers 500 before anything happens; the key is not used up.
	Error500 FaultKind = "error_500"
	// RateLimit429 answers 429 before anything happens; the key is not used up.
	RateLimit429 FaultKind = "rate_limit_429"
	// Slow waits for Delay first and then goes on as usual. The key is locked meanwhile.
	Slow FaultKind = "slow"
)

// Fault makes the next Count matching requests go wrong. Faults are not kept across a restart.
type Fault struct {
	// Operation is create, confirm, capture, cancel, refund, retrieve, list,
	// search, retrieve_charge, retrieve_refund, list_refunds, retrieve_event or
	// list_events. "authorize" means create or confirm, "void" means cancel, "*" all.
	Operation string
	Kind      FaultKind
	// Count of requests that go wrong; 0 means 1.
	Count int
	// Delay before a Slow request goes on, or before any other kind strikes.
	Delay time.Duration
	// OrderID limits the fault to requests about the intent with this
	// metadata[order_id]. Empty matches every order.
	OrderID string
}

// faultJSON is a Fault at /_dev/faults.
type faultJSON struct {
	Operation string    `json:"operation"`
	Kind      FaultKind `json:"kind"`
	Count     int       `json:"count"`
	DelayMS   int64     `json:"delay_ms"`
	OrderID   string    `json:"order_id,omitempty"`
}

var operations = []string{
	"create", "confirm", "capture", "cancel", "refund", "retrieve", "list", "search", "retrieve_charge",
	"retrieve_refund", "list_refunds", "retrieve_event", "list_events", "authorize", "void", "*",
}

type faults struct {
	mu   sync.Mutex
	list []Fault
}

// Inject queues f behind the faults injected before. It fails on an unknown operation or kind.
func (s *Server) Inject(f Fault) error {
	if !slices.Contains(operations, f.Operation) {
		return fmt.Errorf("psp: unknown operation %q", f.Operation)
	}
	if !slices.Contains([]FaultKind{TimeoutAfterEffect, TimeoutBeforeEffect, Error500, RateLimit429, Slow}, f.Kind) {
		return fmt.Errorf("psp: unknown kind of fault %q", f.Kind)
	}
	if f.Count < 0 || f.Delay < 0 {
		return fmt.Errorf("psp: negative count %d or delay %v", f.Count, f.Delay)
	}
	f.Count = max(f.Count, 1)
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

// take uses up one strike of the first fault that matches.
func (fs *faults) take(op, orderID string) Fault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for i := range fs.list {
		f := &fs.list[i]
		if !f.matches(op) || f.OrderID != "" && f.OrderID != orderID {
			continue
		}
		struck := *f
		if f.Count--; f.Count == 0 {
			fs.list = slices.Delete(fs.list, i, i+1)
		}
		return struck
	}
	return Fault{}
}

func (f *Fault) matches(op string) bool {
	switch f.Operation {
	case "*":
		return true
	case "authorize":
		return op == "create" || op == "confirm"
	case "void":
		return op == "cancel"
	}
	return f.Operation == op
}

// underFault runs the operation, or what a waiting fault makes of it.
func (s *Server) underFault(r *http.Request, c *call, run func() answer) answer {
	f := s.faults.take(c.op, s.orderOf(c))
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
		}
	}
	switch f.Kind {
	case TimeoutBeforeEffect:
		return answer{lost: true}
	case Error500:
		return (&apiError{Status: http.StatusInternalServerError, Type: typeAPI, Message: "An unknown error occurred."}).answer(c)
	case RateLimit429:
		return (&apiError{
			Status: http.StatusTooManyRequests, Type: typeInvalidRequest, Code: "rate_limit",
			DocURL: docURL("rate_limit"), Message: "Request rate limit exceeded. Learn more at https://stripe.com/docs/rate-limits.",
		}).answer(c)
	case Slow, TimeoutAfterEffect, "":
	}
	a := run()
	a.lost = f.Kind == TimeoutAfterEffect
	return a
}

// cutConnection breaks off in the middle of the status line. Closing without a
// byte would let net/http resend the request on its own on a reused connection,
// and the caller would never notice the loss.
func cutConnection(w http.ResponseWriter) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // also cuts the connection
	}
	defer conn.Close() //nolint:errcheck // it is being cut
	if _, err := buffered.WriteString("HTTP/1.1 2"); err == nil {
		buffered.Flush() //nolint:errcheck,gosec // it is being cut
	}
}

// orderOf is the order that a request is about, as far as it can be told.
func (s *Server) orderOf(c *call) string {
	id := c.id
	if id == "" {
		id = c.form.get("payment_intent")
	}
	if id == "" {
		return c.form.get("metadata[order_id]")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if in, ok := s.state.intent[id]; ok {
		return in.Metadata["order_id"]
	}
	return ""
}

func (s *Server) injectFault(w http.ResponseWriter, r *http.Request) {
	var f faultJSON
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	body.DisallowUnknownFields()
	if err := body.Decode(&f); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	err := s.Inject(Fault{
		Operation: f.Operation, Kind: f.Kind, Count: f.Count,
		Delay: time.Duration(f.DelayMS) * time.Millisecond, OrderID: f.OrderID,
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
		waiting = append(waiting, faultJSON{f.Operation, f.Kind, f.Count, f.Delay.Milliseconds(), f.OrderID})
	}
	s.faults.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(waiting); err != nil {
		s.log.Debug("faults not delivered", "error", err)
	}
}

func (s *Server) clearFaults(w http.ResponseWriter, _ *http.Request) {
	s.ClearFaults()
	w.WriteHeader(http.StatusNoContent)
}
