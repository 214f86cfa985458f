// Package finance is the money side of orders: payments at the provider, and the
// ledger of what was taken and given back.
package finance

import (
	"time"

	"bookworm/internal/money"
)

// Status is where a payment stands.
type Status string

// The states of a payment.
const (
	Pending        Status = "PENDING"         // the provider has not answered yet
	RequiresAction Status = "REQUIRES_ACTION" // the shopper must act at the provider
	Authorized     Status = "AUTHORIZED"      // reserved, not yet taken
	Captured       Status = "CAPTURED"        // taken
	Declined       Status = "DECLINED"        // final: refused by the provider
	Voided         Status = "VOIDED"          // final: given up before anything was taken
	Refunded       Status = "REFUNDED"        // final: taken and given back
)

// Payment is the money side of one order. 0 <= Refunded <= Captured <=
// Authorized <= Amount.
type Payment struct {
	OrderID     string
	Subject     string
	IntentID    string // the provider's id; empty until it is known
	Status      Status
	Amount      money.Money
	Authorized  money.Money
	Captured    money.Money
	Refunded    money.Money
	DeclineCode string
	ActionURL   string
	UpdatedAt   time.Time
}

// Intent is what the provider says of a payment.
type Intent struct {
	ID          string
	OrderID     string
	Status      Status
	Unconfirmed bool // opened, and Authorize was not called yet; Status is Pending
	Amount      money.Money
	Authorized  money.Money
	Captured    money.Money
	Refunded    money.Money
	DeclineCode string
	ActionURL   string
}
