// Package finance holds the activities that move money. They run on the finance
// task queue, with the only credentials for the payment provider.
package finance

import (
	"context"
	"errors"
	"fmt"

	"bookworm/internal/finance"
	"bookworm/internal/money"
	"bookworm/internal/personal"
	"bookworm/internal/process"
)

// TaskQueue is where the payment process and these activities run.
const TaskQueue = "finance"

// Activities is what the payment activities need.
type Activities struct {
	Payments *finance.Store
	Provider *finance.Provider
	Sealer   *personal.ShopperSealer
}

// Payment names an order's payment. It must be the same in every call for an
// order, because the provider compares it with the first one.
type Payment struct {
	OrderID string
	Subject string
	Amount  money.Money
	// Method is a PaymentMethod sealed for Subject under OrderID.
	Method personal.Sealed
}

// PaymentMethod is what Payment.Method seals.
type PaymentMethod struct {
	Token string `json:"payment_method"` // the provider's
}

// State is how far a payment got.
type State struct {
	Status      finance.Status
	DeclineCode string `json:",omitempty"`
}

// Charge takes the payment as far as it goes by itself: it opens the payment
// intent, authorizes it and captures it. It answers Captured, Declined, Voided
// when the payment was reversed first, RequiresAction when the shopper must act,
// or Pending when the provider needs time; after those two it is called again and
// goes on from where the provider stands.
//
// Any error means "unknown" and is retried: each step has its own idempotency key
// at the provider (order/<id>/intent, .../authorize, .../capture).
func (a *Activities) Charge(ctx context.Context, p Payment) (State, error) {
	payment, err := a.Payments.Open(ctx, p.OrderID, p.Subject, p.Amount)
	if err != nil {
		return State{}, process.Refusal(err)
	}
	switch payment.Status {
	case finance.Captured, finance.Declined, finance.Voided, finance.Refunded:
		return State{payment.Status, payment.DeclineCode}, nil
	case finance.Pending, finance.RequiresAction, finance.Authorized:
	}
	intent, err := a.intent(ctx, p, payment)
	if code := unusable(err); code != "" {
		return State{finance.Declined, code}, a.Payments.Decline(ctx, p.OrderID, code)
	}
	if err != nil {
		return State{}, err
	}
	if intent.Unconfirmed {
		if intent, err = a.Provider.Authorize(ctx, intent); err != nil {
			return State{}, err
		}
	}
	if intent.Status == finance.Authorized {
		if intent, err = a.Provider.Capture(ctx, intent); err != nil {
			return State{}, err
		}
	}
	return a.record(ctx, p.OrderID, intent)
}

// Reverse makes sure that nothing is owed: it voids a payment that was not
// captured and refunds one that was. It is a no-op when there is nothing to
// undo. A Charge that is still on its way cannot land afterwards: either it was
// barred before its first call, or the provider refuses to go on with a voided
// intent.
func (a *Activities) Reverse(ctx context.Context, p Payment) (State, error) {
	payment, err := a.Payments.Bar(ctx, p.OrderID, p.Subject, p.Amount)
	if err != nil {
		return State{}, process.Refusal(err)
	}
	switch payment.Status {
	case finance.Declined, finance.Voided, finance.Refunded:
		return State{payment.Status, payment.DeclineCode}, nil
	case finance.Pending, finance.RequiresAction, finance.Authorized, finance.Captured:
	}
	// Where a Charge is still in its first call, this answers the very intent it
	// makes, and voiding that stops it.
	intent, err := a.intent(ctx, p, payment)
	if code := unusable(err); code != "" {
		return State{Status: finance.Declined}, a.Payments.Decline(ctx, p.OrderID, code)
	}
	if err != nil {
		return State{}, err
	}
	switch intent.Status {
	case finance.Captured:
		intent, err = a.Provider.Refund(ctx, intent)
	case finance.Pending, finance.RequiresAction, finance.Authorized, finance.Declined:
		// Also a declined one: at the provider it could still be confirmed.
		intent, err = a.Provider.Void(ctx, intent)
	case finance.Voided, finance.Refunded:
	}
	if err != nil {
		return State{}, err // unknown, or captured in between: the retry asks again
	}
	return a.record(ctx, p.OrderID, intent)
}

// unusable returns the code of a decline of our own: nobody can pay with what the
// shopper gave, or it was erased before it was used. It is "" for other errors.
func unusable(err error) string {
	switch {
	case errors.Is(err, finance.ErrPaymentMethod):
		return "payment_method_unknown"
	case errors.Is(err, personal.ErrErased):
		return "payment_method_erased"
	default:
		return ""
	}
}

// intent returns the payment's intent at the provider as it is now, opening it
// the first time. Its id is stored before any money can move: the provider
// forgets idempotency keys after a day, and an outage may be longer.
func (a *Activities) intent(ctx context.Context, p Payment, payment finance.Payment) (finance.Intent, error) {
	if payment.IntentID != "" {
		return a.Provider.Get(ctx, payment.IntentID)
	}
	var method PaymentMethod
	if err := a.Sealer.Open(ctx, p.Subject, p.OrderID, p.Method, &method); err != nil {
		return finance.Intent{}, fmt.Errorf("read the payment method: %w", err)
	}
	created, err := a.Provider.Create(ctx, p.OrderID, p.Amount, personal.Text(method.Token))
	if err != nil {
		return finance.Intent{}, err
	}
	stored, err := a.Payments.Record(ctx, p.OrderID, created)
	if err != nil {
		return finance.Intent{}, err
	}
	// Create replays its first answer; where others were quicker, only Get says
	// how far they got.
	if stored.Status != finance.Pending {
		return a.Provider.Get(ctx, created.ID)
	}
	return created, nil
}

func (a *Activities) record(ctx context.Context, orderID string, intent finance.Intent) (State, error) {
	payment, err := a.Payments.Record(ctx, orderID, intent)
	if err != nil {
		return State{}, process.Refusal(err)
	}
	return State{payment.Status, payment.DeclineCode}, nil
}
