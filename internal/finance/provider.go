package finance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/stripe/stripe-go/v85"

	"bookworm/internal/money"
	"bookworm/internal/personal"
)

// ProviderConfig says how to reach Stripe.
type ProviderConfig struct {
	SecretKey  personal.Text
	BaseURL    string       // empty for Stripe itself
	ReturnURL  string       // where the shopper lands after acting at the provider
	HTTPClient *http.Client // nil for the library's own
}

// Provider takes and returns money at Stripe. Every call carries an idempotency
// key made of the order's id and the step, so a call whose answer was lost is
// repeated without a second effect. It is safe for concurrent use.
//
// An error of a method means "unknown": the effect may have happened. Only
// ErrPaymentMethod is a definite no. A refusal by the bank is no error, it is an
// Intent with Status Declined.
type Provider struct {
	client    *stripe.Client
	returnURL string
}

// ErrPaymentMethod is returned for a payment method the provider does not know.
var ErrPaymentMethod = errors.New("unknown payment method")

// NewProvider returns a provider. It makes no call.
func NewProvider(c ProviderConfig) *Provider {
	backend := &stripe.BackendConfig{
		HTTPClient: c.HTTPClient,
		// The workflow retries, with its own back-off and where operators see it.
		MaxNetworkRetries: stripe.Int64(0),
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull},
	}
	if c.BaseURL != "" {
		backend.URL = stripe.String(strings.TrimSuffix(c.BaseURL, "/"))
	}
	return &Provider{
		client:    stripe.NewClient(string(c.SecretKey), stripe.WithBackends(stripe.NewBackendsWithConfig(backend))),
		returnURL: c.ReturnURL,
	}
}

// Create opens a payment intent for an order. No money moves. Calling it again
// with the same arguments answers the first intent, as it was then.
// Errors: ErrPaymentMethod.
func (p *Provider) Create(ctx context.Context, orderID string, amount money.Money, paymentMethod personal.Text) (Intent, error) {
	params := &stripe.PaymentIntentCreateParams{
		Amount:             new(amount.Minor),
		Currency:           stripe.String(strings.ToLower(amount.Currency)),
		PaymentMethod:      stripe.String(string(paymentMethod)),
		PaymentMethodTypes: []*string{stripe.String("card")},
		CaptureMethod:      stripe.String(string(stripe.PaymentIntentCaptureMethodManual)),
		Metadata:           map[string]string{"order_id": orderID},
	}
	params.SetIdempotencyKey(key(orderID, "intent"))
	params.AddExpand("latest_charge")
	pi, err := p.client.V1PaymentIntents.Create(ctx, params)
	return p.intent("create payment intent", pi, err)
}

// Get returns an intent as it is now.
func (p *Provider) Get(ctx context.Context, intentID string) (Intent, error) {
	params := &stripe.PaymentIntentRetrieveParams{}
	params.AddExpand("latest_charge")
	pi, err := p.client.V1PaymentIntents.Retrieve(ctx, intentID, params)
	return p.intent("get payment intent", pi, err)
}

// Authorize reserves the intent's amount on the shopper's means of payment.
func (p *Provider) Authorize(ctx context.Context, i Intent) (Intent, error) {
	params := &stripe.PaymentIntentConfirmParams{}
	if p.returnURL != "" {
		params.ReturnURL = stripe.String(p.returnURL)
	}
	params.SetIdempotencyKey(key(i.OrderID, "authorize"))
	params.AddExpand("latest_charge")
	pi, err := p.client.V1PaymentIntents.Confirm(ctx, i.ID, params)
	if refused := cardError(err); refused != nil {
		i.Status, i.DeclineCode = Declined, declineCode(refused)
		return i, nil
	}
	return p.intent("authorize payment", pi, err)
}

// Capture takes the whole authorized amount.
func (p *Provider) Capture(ctx context.Context, i Intent) (Intent, error) {
	params := &stripe.PaymentIntentCaptureParams{}
	params.SetIdempotencyKey(key(i.OrderID, "capture"))
	params.AddExpand("latest_charge")
	pi, err := p.client.V1PaymentIntents.Capture(ctx, i.ID, params)
	return p.intent("capture payment", pi, err)
}

// Void gives up an intent that was not captured; from then on the provider
// refuses to authorize or capture it. It fails when it was captured.
func (p *Provider) Void(ctx context.Context, i Intent) (Intent, error) {
	params := &stripe.PaymentIntentCancelParams{}
	params.SetIdempotencyKey(key(i.OrderID, "void"))
	params.AddExpand("latest_charge")
	pi, err := p.client.V1PaymentIntents.Cancel(ctx, i.ID, params)
	return p.intent("void payment", pi, err)
}

// Refund gives back all that was captured and returns the intent as it is then.
func (p *Provider) Refund(ctx context.Context, i Intent) (Intent, error) {
	params := &stripe.RefundCreateParams{PaymentIntent: stripe.String(i.ID), Amount: new(i.Captured.Minor)}
	params.SetIdempotencyKey(key(i.OrderID, "refund"))
	if _, err := p.client.V1Refunds.Create(ctx, params); err != nil {
		return Intent{}, failure("refund payment", err)
	}
	return p.Get(ctx, i.ID)
}

// key is the idempotency key of a step of an order's payment.
func key(orderID, step string) string { return "order/" + orderID + "/" + step }

func (p *Provider) intent(op string, pi *stripe.PaymentIntent, err error) (Intent, error) {
	if err != nil {
		if refused, ok := errors.AsType[*stripe.Error](err); ok && refused.Code == stripe.ErrorCodeResourceMissing && refused.Param == "payment_method" {
			return Intent{}, fmt.Errorf("%s: %w", op, ErrPaymentMethod)
		}
		return Intent{}, failure(op, err)
	}
	currency := strings.ToUpper(string(pi.Currency))
	i := Intent{
		ID: pi.ID, OrderID: pi.Metadata["order_id"],
		Amount:   money.New(currency, pi.Amount),
		Captured: money.New(currency, pi.AmountReceived),
		Refunded: money.New(currency, 0),
	}
	if pi.LatestCharge != nil {
		// Stripe also calls an authorization that was given up refunded.
		i.Refunded.Minor = min(pi.LatestCharge.AmountRefunded, pi.AmountReceived)
	}
	// What was captured was authorized; AmountCapturable falls to zero with it.
	i.Authorized = money.New(currency, max(pi.AmountCapturable, pi.AmountReceived))
	switch pi.Status {
	case stripe.PaymentIntentStatusRequiresConfirmation:
		i.Status, i.Unconfirmed = Pending, true
	case stripe.PaymentIntentStatusProcessing:
		i.Status = Pending
	case stripe.PaymentIntentStatusRequiresAction:
		i.Status = RequiresAction
		if pi.NextAction != nil && pi.NextAction.RedirectToURL != nil {
			i.ActionURL = pi.NextAction.RedirectToURL.URL
		}
	case stripe.PaymentIntentStatusRequiresCapture:
		i.Status = Authorized
	case stripe.PaymentIntentStatusSucceeded:
		i.Status = Captured
		if i.Refunded.Minor > 0 {
			i.Status = Refunded
		}
	case stripe.PaymentIntentStatusCanceled:
		i.Status = Voided
	case stripe.PaymentIntentStatusRequiresPaymentMethod:
		// We always send a payment method, so it was tried and refused.
		i.Status, i.DeclineCode = Declined, "payment_method_refused"
		if pi.LastPaymentError != nil {
			i.DeclineCode = declineCode(pi.LastPaymentError)
		}
	default:
		return Intent{}, fmt.Errorf("%s: the provider answered the unknown status %q", op, pi.Status)
	}
	return i, nil
}

// failure keeps of the provider's error what operators need. The whole of it
// holds the intent with its client secret, and errors reach histories and logs.
func failure(op string, err error) error {
	if e, ok := errors.AsType[*stripe.Error](err); ok {
		return fmt.Errorf("%s: the provider answered %d %s %s (request %s)", op, e.HTTPStatusCode, e.Type, e.Code, e.RequestID)
	}
	return fmt.Errorf("%s: %w", op, err)
}

func cardError(err error) *stripe.Error {
	if e, ok := errors.AsType[*stripe.Error](err); ok && e.Type == stripe.ErrorTypeCard {
		return e
	}
	return nil
}

func declineCode(e *stripe.Error) string {
	if e.DeclineCode != "" {
		return string(e.DeclineCode)
	}
	return string(e.Code)
}
