package psp

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

// EffectKind says what an Effect did to the shopper's money.
type EffectKind string

// The kinds of effect.
const (
	EffectAuthorize EffectKind = "authorize" // set aside
	EffectCapture   EffectKind = "capture"   // taken
	EffectVoid      EffectKind = "void"      // an authorization released
	EffectRefund    EffectKind = "refund"    // given back
	EffectDecline   EffectKind = "decline"   // refused by the bank: nothing moved
)

// Effect is one line of the provider's own record: what really happened, whatever
// the caller heard of it. A replayed request adds none.
type Effect struct {
	Seq            int64      `json:"seq"` // 1, 2, 3 ... in order of effect
	Time           time.Time  `json:"time"`
	Kind           EffectKind `json:"kind"`
	Intent         string     `json:"intent"`
	OrderID        string     `json:"order_id"` // metadata[order_id] of the intent
	Amount         int64      `json:"amount"`   // minor units
	Currency       string     `json:"currency"`
	IdempotencyKey string     `json:"idempotency_key,omitempty"`
}

func (in *intent) effect(kind EffectKind, amount int64, c *call) Effect {
	return Effect{
		Time: time.Now().UTC(), Kind: kind, Intent: in.ID, OrderID: in.Metadata["order_id"],
		Amount: amount, Currency: in.Currency, IdempotencyKey: c.key,
	}
}

// Effects returns every effect so far, oldest first.
func (s *Server) Effects() []Effect {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.state.effects)
}

func (s *Server) serveEffects(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines := json.NewEncoder(w)
	for _, e := range s.Effects() {
		if err := lines.Encode(e); err != nil {
			return // the reader went away
		}
	}
}
