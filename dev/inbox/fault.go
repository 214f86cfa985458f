package inbox

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// FaultKind is a way for a delivery to go wrong.
type FaultKind string

// The kinds of fault.
const (
	// Reject451 refuses the message for now; it is not kept.
	Reject451 FaultKind = "reject_451"
	// Reject550 refuses the message for good; it is not kept.
	Reject550 FaultKind = "reject_550"
	// DropAfterData keeps the message and cuts the connection before the sender
	// hears of it: the lost answer.
	DropAfterData FaultKind = "drop_after_data"
	// Slow waits for Delay and then accepts.
	Slow FaultKind = "slow"
)

// Fault makes the next Count matching messages go wrong. Faults are not kept across a restart.
type Fault struct {
	Kind FaultKind
	// Count of messages that go wrong; 0 means 1.
	Count int
	// Delay before a Slow message is accepted, or before any other kind strikes.
	Delay time.Duration
	// To limits the fault to messages for this address. Empty matches every message.
	To string
}

// faultJSON is a Fault at /_dev/faults.
type faultJSON struct {
	Kind    FaultKind `json:"kind"`
	Count   int       `json:"count"`
	DelayMS int64     `json:"delay_ms"`
	To      string    `json:"to,omitempty"`
}

type faults struct {
	mu   sync.Mutex
	list []Fault
}

// Inject queues f behind the faults injected before. It fails on an unknown kind.
func (s *Server) Inject(f Fault) error {
	if !slices.Contains([]FaultKind{Reject451, Reject550, DropAfterData, Slow}, f.Kind) {
		return fmt.Errorf("inbox: unknown kind of fault %q", f.Kind)
	}
	if f.Count < 0 || f.Delay < 0 {
		return fmt.Errorf("inbox: negative count %d or delay %v", f.Count, f.Delay)
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
func (fs *faults) take(recipients []string) Fault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for i := range fs.list {
		f := &fs.list[i]
		if f.To != "" && !holdsAddress(recipients, f.To) {
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

func holdsAddress(addresses []string, address string) bool {
	return slices.ContainsFunc(addresses, func(a string) bool { return strings.EqualFold(a, address) })
}

func (s *Server) injectFault(w http.ResponseWriter, r *http.Request) {
	var f faultJSON
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	body.DisallowUnknownFields()
	if err := body.Decode(&f); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	err := s.Inject(Fault{Kind: f.Kind, Count: f.Count, Delay: time.Duration(f.DelayMS) * time.Millisecond, To: f.To})
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
		waiting = append(waiting, faultJSON{f.Kind, f.Count, f.Delay.Milliseconds(), f.To})
	}
	s.faults.mu.Unlock()
	s.writeJSON(w, waiting)
}

func (s *Server) clearFaults(w http.ResponseWriter, _ *http.Request) {
	s.ClearFaults()
	w.WriteHeader(http.StatusNoContent)
}
