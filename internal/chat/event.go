package chat

import (
	"time"

	"github.com/google/uuid"

	"bookworm/internal/fault"
	"bookworm/internal/money"
)

// Event is one thing that happens in a turn. Exactly one of the fields after
// Sequence is set. Its JSON form is what the database keeps.
type Event struct {
	Sequence int64     `json:"-"` // from 1, without gaps
	Delta    string    `json:"delta,omitempty"`
	Tool     *ToolUse  `json:"tool,omitempty"`
	Citation *Citation `json:"citation,omitempty"`
	Card     *Card     `json:"card,omitempty"`
	Error    *Trouble  `json:"error,omitempty"`
	Done     *Done     `json:"done,omitempty"` // the last event
}

// UseState is how a call of a tool stands.
type UseState string

// The states of a call.
const (
	Started   UseState = "STARTED"
	Succeeded UseState = "SUCCEEDED"
	Failed    UseState = "FAILED"
)

// ToolUse says that something is looked up, or was.
type ToolUse struct {
	CallID  string   `json:"call_id"`
	Name    string   `json:"name"`
	State   UseState `json:"state"`
	Summary string   `json:"summary"` // for people; nothing in it comes from the model
}

// Citation says what a mark in the text rests on.
type Citation struct {
	Number int    `json:"number"` // 1 for [1]
	CallID string `json:"call_id"`
	Kind   Kind   `json:"kind"`
	ID     string `json:"id"` // of the book, review, order or policy
	Title  string `json:"title"`
}

// Card is something to show beside the text; one of its fields is set.
type Card struct {
	Book         *BookCard         `json:"book,omitempty"`
	Order        *OrderCard        `json:"order,omitempty"`
	Confirmation *ConfirmationCard `json:"confirmation,omitempty"`
}

// BookCard is a book to show.
type BookCard struct {
	BookID    string      `json:"book_id"`
	Title     string      `json:"title"`
	Authors   []string    `json:"authors"`
	Price     money.Money `json:"price"`
	Available int32       `json:"available"` // copies that can be ordered now
}

// OrderCard is an order of the caller to show.
type OrderCard struct {
	OrderID   string      `json:"order_id"`
	Status    string      `json:"status"`
	Total     money.Money `json:"total"`
	CreatedAt time.Time   `json:"created_at"`
}

// ConfirmationCard is something the bookseller would do if the caller agrees.
type ConfirmationCard struct {
	ActionID  uuid.UUID `json:"action_id"`
	Text      string    `json:"text"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Trouble is something that went wrong in a turn.
type Trouble struct {
	Reason  fault.Reason `json:"reason"`
	Message string       `json:"message"` // for people
}

// Outcome is how a turn ended; empty while it runs.
type Outcome string

// The outcomes.
const (
	Answered  Outcome = "ANSWERED"  // by the model
	Fallback  Outcome = "FALLBACK"  // without the model, which could not be reached
	Refused   Outcome = "REFUSED"   // the question is none that the bookseller answers
	Cancelled Outcome = "CANCELLED" // by the caller, or because the client went away
	Broken    Outcome = "FAILED"    // without an answer, or with half of one
)

// Done ends a turn.
type Done struct {
	Outcome Outcome `json:"outcome"`
	Input   int64   `json:"input_tokens"`
	Output  int64   `json:"output_tokens"`
	Uncited int     `json:"uncited_sentences"` // each is marked in Text
	Text    string  `json:"text"`              // the answer as it stands in the conversation
}
