// Package ordering is what an order is: its lines at the prices the shopper
// agreed to, what it costs, and the states it goes through.
package ordering

import (
	"crypto/hmac"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/google/uuid"

	"bookworm/internal/money"
	"bookworm/internal/personal"
)

// Status is where an order stands.
type Status string

// The states of an order. docs/processes/checkout.md draws them.
const (
	Placed        Status = "PLACED"         // durable, priced, stock held; payment is under way
	Confirmed     Status = "CONFIRMED"      // paid, stock committed; waits for shipment
	Shipped       Status = "SHIPPED"        // on its way
	Cancelled     Status = "CANCELLED"      // final; nothing is owed
	PaymentFailed Status = "PAYMENT_FAILED" // final; declined by the provider
	Expired       Status = "EXPIRED"        // final; payment not completed in time
)

// transitions lists the legal steps. A state without an entry is final.
var transitions = map[Status][]Status{
	"":        {Placed},
	Placed:    {Confirmed, Cancelled, PaymentFailed, Expired},
	Confirmed: {Shipped, Cancelled},
}

// CanBecome reports whether an order may step from s to next.
func (s Status) CanBecome(next Status) bool { return slices.Contains(transitions[s], next) }

// Final reports whether an order in state s never changes again.
func (s Status) Final() bool { return len(transitions[s]) == 0 }

// Item is a number of copies of one book, as the shopper asks for them.
type Item struct {
	BookID   string
	Quantity int32
}

// Line is a number of copies of one book, at the price of the moment the order
// was placed.
type Line struct {
	BookID    string      `json:"book_id"`
	Title     string      `json:"title"`
	ISBN13    string      `json:"isbn13"`
	Quantity  int32       `json:"quantity"`
	UnitPrice money.Money `json:"unit_price"`
	Total     money.Money `json:"total"` // UnitPrice times Quantity, set by Price
}

// Details is what an order holds of a person. It leaves the process only sealed,
// under the order's id as the label.
type Details struct {
	Address       Address `json:"address"`
	Email         string  `json:"email"`
	Name          string  `json:"name"`
	PaymentMethod string  `json:"payment_method"` // the provider's token
}

// Address is where a parcel goes.
type Address struct {
	Recipient   string `json:"recipient"`
	Line1       string `json:"line1"`
	Line2       string `json:"line2"`
	City        string `json:"city"`
	Region      string `json:"region"`
	PostalCode  string `json:"postal_code"`
	CountryCode string `json:"country_code"` // ISO 3166-1 alpha-2
}

// Order is what a shopper bought.
type Order struct {
	ID            string
	Subject       string
	Status        Status
	Reason        string // why it ended, a stable upper-case word, or empty
	Lines         []Line // sorted by book id
	Totals        Totals
	Country       string
	Details       personal.Sealed // a Details
	Fingerprint   []byte          // of the request that placed it
	BasketVersion int64
	Version       int64 // counts the order's events
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// orderSpace is the namespace of order ids (RFC 9562, version 5).
var orderSpace = uuid.MustParse("6f1b9a52-9d0c-4d0a-8a6e-2c8d1f6f3b17")

// ID derives the order's id from who asks and with which idempotency key, so
// that a repeated request can only ever meet the same order.
func ID(subject, idempotencyKey string) string {
	return uuid.NewSHA1(orderSpace, []byte(subject+"\x00"+idempotencyKey)).String()
}

// Fingerprint identifies a request, so that a key reused with another request is
// noticed. encoded must be a deterministic encoding of the whole request. It stands
// in histories and rows in clear: without the key, nobody can tell by it whether an
// address that they guess is the right one (HMAC-SHA-256, RFC 2104).
func Fingerprint(key personal.Text, encoded []byte) []byte {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(encoded)
	return mac.Sum(nil)
}
