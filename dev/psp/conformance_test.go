package psp_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stripe/stripe-go/v85"

	"bookworm/dev/psp"
)

// provider is what the conformance suite runs against.
type provider struct {
	client *stripe.Client
	// searchLag is how long a write may stay invisible to search.
	searchLag time.Duration
}

func newClient(url, key string) *stripe.Client {
	return stripe.NewClient(key, stripe.WithBackends(stripe.NewBackendsWithConfig(&stripe.BackendConfig{
		URL:               stripe.String(url),
		HTTPClient:        &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}},
		MaxNetworkRetries: stripe.Int64(0),
		EnableTelemetry:   new(false),
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull},
	})))
}

// TestConformance holds what the shop relies on: the stand-in behaves like
// Stripe's test mode for every case below.
func TestConformance(t *testing.T) {
	t.Parallel()
	t.Run("standin", func(t *testing.T) {
		t.Parallel()
		server := start(t, psp.Options{})
		conform(t, provider{client: newClient(server.URL(), testKey), searchLag: time.Second})
	})
	key, url := os.Getenv("STRIPE_TEST_SECRET_KEY"), os.Getenv("STRIPE_TEST_BASE_URL")
	if key == "" || url == "" {
		return
	}
	t.Run("stripe", func(t *testing.T) {
		t.Parallel()
		conform(t, provider{client: newClient(url, key), searchLag: 2 * time.Minute})
	})
}

func conform(t *testing.T, p provider) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, provider){
		"manual capture":              conformManualCapture,
		"automatic capture":           conformAutomaticCapture,
		"partial capture":             conformPartialCapture,
		"separate confirmation":       conformSeparateConfirmation,
		"return url is needed":        conformReturnURL,
		"declines":                    conformDeclines,
		"retry after a decline":       conformRetryAfterDecline,
		"authentication":              conformAuthentication,
		"off session authentication":  conformOffSession,
		"cancel":                      conformCancel,
		"illegal transitions":         conformIllegalTransitions,
		"refunds":                     conformRefunds,
		"idempotency":                 conformIdempotency,
		"idempotency keeps a decline": conformIdempotentDecline,
		"refused parameters":          conformRefusedParameters,
		"missing objects":             conformMissing,
		"list":                        conformList,
		"search":                      conformSearch,
		"events":                      conformEvents,
		"wrong key":                   conformWrongKey,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, p)
		})
	}
}

// purchase is a confirmed card payment with manual capture, as the shop makes it.
func purchase(method string, amount int64) *stripe.PaymentIntentCreateParams {
	params := &stripe.PaymentIntentCreateParams{
		Amount:             new(amount),
		Currency:           stripe.String("usd"),
		PaymentMethod:      stripe.String(method),
		PaymentMethodTypes: []*string{stripe.String("card")},
		CaptureMethod:      stripe.String("manual"),
		Confirm:            new(true),
		Description:        stripe.String("BookWorm conformance"),
	}
	params.AddMetadata("order_id", uuid.NewString())
	return params
}

func (p provider) create(t *testing.T, params *stripe.PaymentIntentCreateParams) *stripe.PaymentIntent {
	t.Helper()
	in, err := p.client.V1PaymentIntents.Create(t.Context(), params)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return in
}

func (p provider) capture(t *testing.T, id string, amount int64) *stripe.PaymentIntent {
	t.Helper()
	params := &stripe.PaymentIntentCaptureParams{}
	if amount > 0 {
		params.AmountToCapture = new(amount)
	}
	in, err := p.client.V1PaymentIntents.Capture(t.Context(), id, params)
	if err != nil {
		t.Fatalf("capture: %v", err)
	}
	return in
}

func (p provider) retrieve(t *testing.T, id string, expand ...string) *stripe.PaymentIntent {
	t.Helper()
	params := &stripe.PaymentIntentRetrieveParams{}
	for _, path := range expand {
		params.AddExpand(path)
	}
	in, err := p.client.V1PaymentIntents.Retrieve(t.Context(), id, params)
	if err != nil {
		t.Fatalf("retrieve: %v", err)
	}
	return in
}

func conformManualCapture(t *testing.T, p provider) {
	params := purchase("pm_card_visa", 2599)
	params.AddExpand("latest_charge")
	in := p.create(t, params)
	equal(t, "status", in.Status, stripe.PaymentIntentStatusRequiresCapture)
	equal(t, "amount", in.Amount, 2599)
	equal(t, "capturable", in.AmountCapturable, 2599)
	equal(t, "received", in.AmountReceived, 0)
	equal(t, "currency", in.Currency, "usd")
	equal(t, "order", in.Metadata["order_id"], params.Metadata["order_id"])
	equal(t, "capture method", in.CaptureMethod, "manual")
	equal(t, "charge captured", in.LatestCharge.Captured, false)
	equal(t, "charge status", in.LatestCharge.Status, stripe.ChargeStatusSucceeded)
	equal(t, "charge amount", in.LatestCharge.Amount, 2599)
	equal(t, "card", in.LatestCharge.PaymentMethodDetails.Card.Last4, "4242")
	if in.LatestCharge.PaymentMethodDetails.Card.CaptureBefore <= in.LatestCharge.Created {
		t.Errorf("capture_before = %d, want after %d", in.LatestCharge.PaymentMethodDetails.Card.CaptureBefore, in.LatestCharge.Created)
	}

	in = p.capture(t, in.ID, 0)
	equal(t, "status", in.Status, stripe.PaymentIntentStatusSucceeded)
	equal(t, "capturable", in.AmountCapturable, 0)
	equal(t, "received", in.AmountReceived, 2599)

	in = p.retrieve(t, in.ID, "latest_charge")
	equal(t, "charge captured", in.LatestCharge.Captured, true)
	equal(t, "charge amount captured", in.LatestCharge.AmountCaptured, 2599)
	equal(t, "charge's intent", in.LatestCharge.PaymentIntent.ID, in.ID)

	unexpanded := p.retrieve(t, in.ID)
	equal(t, "charge id", unexpanded.LatestCharge.ID, in.LatestCharge.ID)
	equal(t, "unexpanded charge's amount", unexpanded.LatestCharge.Amount, 0)
}

func conformAutomaticCapture(t *testing.T, p provider) {
	params := purchase("pm_card_mastercard", 1000)
	params.CaptureMethod = stripe.String("automatic")
	in := p.create(t, params)
	equal(t, "status", in.Status, stripe.PaymentIntentStatusSucceeded)
	equal(t, "received", in.AmountReceived, 1000)
}

func conformPartialCapture(t *testing.T, p provider) {
	in := p.create(t, purchase("pm_card_visa", 5000))
	_, err := p.client.V1PaymentIntents.Capture(t.Context(), in.ID, &stripe.PaymentIntentCaptureParams{AmountToCapture: stripe.Int64(5001)})
	wantError(t, err, http.StatusBadRequest, stripe.ErrorTypeInvalidRequest, stripe.ErrorCodeAmountTooLarge)
	in = p.capture(t, in.ID, 3000)
	equal(t, "status", in.Status, stripe.PaymentIntentStatusSucceeded)
	equal(t, "received", in.AmountReceived, 3000)
	equal(t, "capturable", in.AmountCapturable, 0)
	_, err = p.client.V1Refunds.Create(t.Context(), &stripe.RefundCreateParams{PaymentIntent: &in.ID, Amount: stripe.Int64(3001)})
	wantError(t, err, http.StatusBadRequest, stripe.ErrorTypeInvalidRequest, "")
}

func conformSeparateConfirmation(t *testing.T, p provider) {
	in := p.create(t, &stripe.PaymentIntentCreateParams{
		Amount: stripe.Int64(700), Currency: stripe.String("eur"), PaymentMethodTypes: []*string{stripe.String("card")},
	})
	equal(t, "status", in.Status, stripe.PaymentIntentStatusRequiresPaymentMethod)
	if in.ClientSecret == "" {
		t.Error("no client secret")
	}
	in, err := p.client.V1PaymentIntents.Confirm(t.Context(), in.ID, &stripe.PaymentIntentConfirmParams{PaymentMethod: stripe.String("pm_card_visa")})
	if err != nil {
		t.Fatalf("confirm: %v", err)
	}
	equal(t, "status", in.Status, stripe.PaymentIntentStatusSucceeded)

	in = p.create(t, &stripe.PaymentIntentCreateParams{
		Amount: stripe.Int64(700), Currency: stripe.String("eur"), PaymentMethodTypes: []*string{stripe.String("card")},
		PaymentMethod: stripe.String("pm_card_visa"),
	})
	equal(t, "status", in.Status, stripe.PaymentIntentStatusRequiresConfirmation)
}

func conformReturnURL(t *testing.T, p provider) {
	params := purchase("pm_card_visa", 900)
	params.PaymentMethodTypes = nil // methods chosen by the provider may redirect
	_, err := p.client.V1PaymentIntents.Create(t.Context(), params)
	wantError(t, err, http.StatusBadRequest, stripe.ErrorTypeInvalidRequest, "")
	params = purchase("pm_card_visa", 900)
	params.PaymentMethodTypes = nil
	params.AutomaticPaymentMethods = &stripe.PaymentIntentCreateAutomaticPaymentMethodsParams{
		Enabled: new(true), AllowRedirects: stripe.String("never"),
	}
	in := p.create(t, params)
	equal(t, "status", in.Status, stripe.PaymentIntentStatusRequiresCapture)
	equal(t, "automatic", in.AutomaticPaymentMethods.Enabled, true)
}

func conformDeclines(t *testing.T, p provider) {
	for method, want := range map[string]struct {
		code    stripe.ErrorCode
		decline stripe.DeclineCode
	}{
		"pm_card_visa_chargeDeclined":                  {stripe.ErrorCodeCardDeclined, "generic_decline"},
		"pm_card_visa_chargeDeclinedInsufficientFunds": {stripe.ErrorCodeCardDeclined, "insufficient_funds"},
		"pm_card_visa_chargeDeclinedLostCard":          {stripe.ErrorCodeCardDeclined, "lost_card"},
		"pm_card_chargeDeclinedExpiredCard":            {stripe.ErrorCodeExpiredCard, ""},
		"pm_card_chargeDeclinedIncorrectCvc":           {stripe.ErrorCodeIncorrectCVC, ""},
		"pm_card_chargeDeclinedProcessingError":        {stripe.ErrorCodeProcessingError, ""},
	} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			_, err := p.client.V1PaymentIntents.Create(t.Context(), purchase(method, 1234))
			e := wantError(t, err, http.StatusPaymentRequired, stripe.ErrorTypeCard, want.code)
			if want.decline != "" {
				equal(t, "decline code", e.DeclineCode, want.decline)
			}
			if _, ok := errors.AsType[*stripe.CardError](err); !ok {
				t.Errorf("error is no CardError: %v", err)
			}
			if e.PaymentIntent == nil {
				t.Fatal("the error carries no intent")
			}
			in := p.retrieve(t, e.PaymentIntent.ID, "latest_charge")
			equal(t, "status", in.Status, stripe.PaymentIntentStatusRequiresPaymentMethod)
			equal(t, "last error", in.LastPaymentError.Code, want.code)
			equal(t, "charge", in.LatestCharge.ID, e.ChargeID)
			equal(t, "charge status", in.LatestCharge.Status, stripe.ChargeStatusFailed)
			equal(t, "charge paid", in.LatestCharge.Paid, false)
			equal(t, "received", in.AmountReceived, 0)
		})
	}
}

func conformRetryAfterDecline(t *testing.T, p provider) {
	_, err := p.client.V1PaymentIntents.Create(t.Context(), purchase("pm_card_visa_chargeDeclined", 1234))
	e := wantError(t, err, http.StatusPaymentRequired, stripe.ErrorTypeCard, stripe.ErrorCodeCardDeclined)
	in, err := p.client.V1PaymentIntents.Confirm(t.Context(), e.PaymentIntent.ID, &stripe.PaymentIntentConfirmParams{PaymentMethod: stripe.String("pm_card_visa")})
	if err != nil {
		t.Fatalf("confirm with another card: %v", err)
	}
	equal(t, "status", in.Status, stripe.PaymentIntentStatusRequiresCapture)
	if in.LastPaymentError != nil {
		t.Errorf("last error stays: %v", in.LastPaymentError)
	}
}

func conformAuthentication(t *testing.T, p provider) {
	for _, method := range []string{"pm_card_threeDSecure2Required", "pm_card_authenticationRequired"} {
		params := purchase(method, 4200)
		params.ReturnURL = stripe.String("https://shop.example/return?order=1")
		in := p.create(t, params)
		equal(t, "status", in.Status, stripe.PaymentIntentStatusRequiresAction)
		equal(t, "next action", in.NextAction.Type, stripe.PaymentIntentNextActionTypeRedirectToURL)
		equal(t, "return url", in.NextAction.RedirectToURL.ReturnURL, *params.ReturnURL)
		if in.NextAction.RedirectToURL.URL == "" {
			t.Error("no page to send the shopper to")
		}
		_, err := p.client.V1PaymentIntents.Capture(t.Context(), in.ID, nil)
		wantError(t, err, http.StatusBadRequest, stripe.ErrorTypeInvalidRequest, stripe.ErrorCodePaymentIntentUnexpectedState)
		in, err = p.client.V1PaymentIntents.Cancel(t.Context(), in.ID, nil)
		if err != nil {
			t.Fatalf("cancel: %v", err)
		}
		equal(t, "status", in.Status, stripe.PaymentIntentStatusCanceled)
	}
}

func conformOffSession(t *testing.T, p provider) {
	params := purchase("pm_card_threeDSecure2Required", 4200)
	params.OffSession = new(true)
	_, err := p.client.V1PaymentIntents.Create(t.Context(), params)
	wantError(t, err, http.StatusPaymentRequired, stripe.ErrorTypeCard, stripe.ErrorCodeAuthenticationRequired)
}

func conformCancel(t *testing.T, p provider) {
	in := p.create(t, purchase("pm_card_visa", 1500))
	in, err := p.client.V1PaymentIntents.Cancel(t.Context(), in.ID, &stripe.PaymentIntentCancelParams{CancellationReason: stripe.String("requested_by_customer")})
	if err != nil {
		t.Fatalf("cancel: %v", err)
	}
	equal(t, "status", in.Status, stripe.PaymentIntentStatusCanceled)
	equal(t, "reason", in.CancellationReason, stripe.PaymentIntentCancellationReasonRequestedByCustomer)
	equal(t, "capturable", in.AmountCapturable, 0)
	if in.CanceledAt == 0 {
		t.Error("no time of cancellation")
	}
	in = p.retrieve(t, in.ID, "latest_charge")
	equal(t, "charge captured", in.LatestCharge.Captured, false)
	equal(t, "charge refunded", in.LatestCharge.Refunded, true)
}

func conformIllegalTransitions(t *testing.T, p provider) {
	captured := p.capture(t, p.create(t, purchase("pm_card_visa", 1000)).ID, 0)
	canceled := p.create(t, purchase("pm_card_visa", 1000))
	if _, err := p.client.V1PaymentIntents.Cancel(t.Context(), canceled.ID, nil); err != nil {
		t.Fatalf("cancel: %v", err)
	}
	authorized := p.create(t, purchase("pm_card_visa", 1000))
	ctx, intents := t.Context(), p.client.V1PaymentIntents
	for name, step := range map[string]func() error{
		"capture twice":           func() error { _, err := intents.Capture(ctx, captured.ID, nil); return err },
		"capture after cancel":    func() error { _, err := intents.Capture(ctx, canceled.ID, nil); return err },
		"cancel after capture":    func() error { _, err := intents.Cancel(ctx, captured.ID, nil); return err },
		"cancel twice":            func() error { _, err := intents.Cancel(ctx, canceled.ID, nil); return err },
		"confirm after capture":   func() error { _, err := intents.Confirm(ctx, captured.ID, nil); return err },
		"confirm after cancel":    func() error { _, err := intents.Confirm(ctx, canceled.ID, nil); return err },
		"confirm after authorize": func() error { _, err := intents.Confirm(ctx, authorized.ID, nil); return err },
	} {
		t.Run(name, func(t *testing.T) {
			e := wantError(t, step(), http.StatusBadRequest, stripe.ErrorTypeInvalidRequest, stripe.ErrorCodePaymentIntentUnexpectedState)
			if e.PaymentIntent == nil {
				t.Error("the error carries no intent")
			}
		})
	}
}

func conformRefunds(t *testing.T, p provider) {
	ctx := t.Context()
	in := p.capture(t, p.create(t, purchase("pm_card_visa", 3000)).ID, 0)
	params := &stripe.RefundCreateParams{PaymentIntent: &in.ID, Amount: stripe.Int64(1000), Reason: stripe.String("requested_by_customer")}
	params.AddMetadata("return_id", "r1")
	first, err := p.client.V1Refunds.Create(ctx, params)
	if err != nil {
		t.Fatalf("refund: %v", err)
	}
	equal(t, "amount", first.Amount, 1000)
	equal(t, "status", first.Status, stripe.RefundStatusSucceeded)
	equal(t, "intent", first.PaymentIntent.ID, in.ID)
	equal(t, "metadata", first.Metadata["return_id"], "r1")

	got, err := p.client.V1Refunds.Retrieve(ctx, first.ID, nil)
	if err != nil {
		t.Fatalf("retrieve refund: %v", err)
	}
	equal(t, "amount", got.Amount, 1000)
	equal(t, "currency", got.Currency, "usd")

	_, err = p.client.V1Refunds.Create(ctx, &stripe.RefundCreateParams{PaymentIntent: &in.ID, Amount: stripe.Int64(2001)})
	wantError(t, err, http.StatusBadRequest, stripe.ErrorTypeInvalidRequest, "")

	rest, err := p.client.V1Refunds.Create(ctx, &stripe.RefundCreateParams{PaymentIntent: &in.ID})
	if err != nil {
		t.Fatalf("refund the rest: %v", err)
	}
	equal(t, "rest", rest.Amount, 2000)
	_, err = p.client.V1Refunds.Create(ctx, &stripe.RefundCreateParams{PaymentIntent: &in.ID})
	wantError(t, err, http.StatusBadRequest, stripe.ErrorTypeInvalidRequest, stripe.ErrorCodeChargeAlreadyRefunded)

	in = p.retrieve(t, in.ID, "latest_charge.refunds")
	equal(t, "status", in.Status, stripe.PaymentIntentStatusSucceeded)
	equal(t, "refunded", in.LatestCharge.AmountRefunded, 3000)
	equal(t, "fully refunded", in.LatestCharge.Refunded, true)
	equal(t, "refunds", len(in.LatestCharge.Refunds.Data), 2)

	var listed []string
	for r, err := range p.client.V1Refunds.List(ctx, &stripe.RefundListParams{PaymentIntent: &in.ID}).All(ctx) {
		if err != nil {
			t.Fatalf("list refunds: %v", err)
		}
		listed = append(listed, r.ID)
	}
	equal(t, "listed refunds", fmt.Sprint(listed), fmt.Sprint([]string{rest.ID, first.ID}))
}

func conformIdempotency(t *testing.T, p provider) {
	ctx, key := t.Context(), uuid.NewString()
	create := func(change func(*stripe.PaymentIntentCreateParams)) (*stripe.PaymentIntent, error) {
		params := purchase("pm_card_visa", 2000)
		params.Metadata["order_id"] = key
		params.SetIdempotencyKey(key + "/authorize")
		change(params)
		return p.client.V1PaymentIntents.Create(ctx, params)
	}
	same := func(*stripe.PaymentIntentCreateParams) {}
	first, err := create(same)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	equal(t, "replayed", first.LastResponse.Header.Get("Idempotent-Replayed"), "")
	second, err := create(same)
	if err != nil {
		t.Fatalf("create again: %v", err)
	}
	equal(t, "intent", second.ID, first.ID)
	equal(t, "replayed", second.LastResponse.Header.Get("Idempotent-Replayed"), "true")
	_, err = create(func(params *stripe.PaymentIntentCreateParams) { params.Amount = stripe.Int64(2001) })
	wantError(t, err, http.StatusBadRequest, stripe.ErrorTypeIdempotency, "")

	capture := func() *stripe.PaymentIntent {
		params := &stripe.PaymentIntentCaptureParams{}
		params.SetIdempotencyKey(key + "/capture")
		in, err := p.client.V1PaymentIntents.Capture(ctx, first.ID, params)
		if err != nil {
			t.Fatalf("capture: %v", err)
		}
		return in
	}
	equal(t, "replayed", capture().LastResponse.Header.Get("Idempotent-Replayed"), "")
	again := capture()
	equal(t, "replayed", again.LastResponse.Header.Get("Idempotent-Replayed"), "true")
	equal(t, "received", again.AmountReceived, 2000)

	// A request refused before processing leaves its key unused.
	params := purchase("pm_card_visa", 2000)
	params.Currency = stripe.String("zzz")
	params.SetIdempotencyKey(key + "/refused")
	_, err = p.client.V1PaymentIntents.Create(ctx, params)
	wantError(t, err, http.StatusBadRequest, stripe.ErrorTypeInvalidRequest, "")
	params = purchase("pm_card_visa", 2000)
	params.SetIdempotencyKey(key + "/refused")
	equal(t, "status", p.create(t, params).Status, stripe.PaymentIntentStatusRequiresCapture)
}

func conformIdempotentDecline(t *testing.T, p provider) {
	params := purchase("pm_card_visa_chargeDeclined", 2000)
	params.SetIdempotencyKey(uuid.NewString())
	_, err := p.client.V1PaymentIntents.Create(t.Context(), params)
	first := wantError(t, err, http.StatusPaymentRequired, stripe.ErrorTypeCard, stripe.ErrorCodeCardDeclined)
	_, err = p.client.V1PaymentIntents.Create(t.Context(), params)
	second := wantError(t, err, http.StatusPaymentRequired, stripe.ErrorTypeCard, stripe.ErrorCodeCardDeclined)
	equal(t, "intent", second.PaymentIntent.ID, first.PaymentIntent.ID)
	equal(t, "replayed", second.LastResponse.Header.Get("Idempotent-Replayed"), "true")
}

func conformRefusedParameters(t *testing.T, p provider) {
	for name, test := range map[string]struct {
		change func(*stripe.PaymentIntentCreateParams)
		param  string
		code   stripe.ErrorCode
	}{
		"no amount":      {func(c *stripe.PaymentIntentCreateParams) { c.Amount = nil }, "amount", stripe.ErrorCodeParameterMissing},
		"no currency":    {func(c *stripe.PaymentIntentCreateParams) { c.Currency = nil }, "currency", stripe.ErrorCodeParameterMissing},
		"zero":           {func(c *stripe.PaymentIntentCreateParams) { c.Amount = stripe.Int64(0) }, "amount", stripe.ErrorCodeParameterInvalidInteger},
		"too little":     {func(c *stripe.PaymentIntentCreateParams) { c.Amount = stripe.Int64(10) }, "", stripe.ErrorCodeAmountTooSmall},
		"unknown method": {func(c *stripe.PaymentIntentCreateParams) { c.PaymentMethod = stripe.String("pm_nope") }, "payment_method", stripe.ErrorCodeResourceMissing},
		"unknown param":  {func(c *stripe.PaymentIntentCreateParams) { c.AddExtra("colour", "red") }, "colour", stripe.ErrorCodeParameterUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			params := purchase("pm_card_visa", 1000)
			test.change(params)
			_, err := p.client.V1PaymentIntents.Create(t.Context(), params)
			e := wantError(t, err, http.StatusBadRequest, stripe.ErrorTypeInvalidRequest, test.code)
			if test.param != "" {
				equal(t, "param", e.Param, test.param)
			}
		})
	}
}

func conformMissing(t *testing.T, p provider) {
	_, err := p.client.V1PaymentIntents.Retrieve(t.Context(), "pi_nope", nil)
	wantError(t, err, http.StatusNotFound, stripe.ErrorTypeInvalidRequest, stripe.ErrorCodeResourceMissing)
	_, err = p.client.V1PaymentIntents.Capture(t.Context(), "pi_nope", nil)
	wantError(t, err, http.StatusNotFound, stripe.ErrorTypeInvalidRequest, stripe.ErrorCodeResourceMissing)
	_, err = p.client.V1Refunds.Retrieve(t.Context(), "re_nope", nil)
	wantError(t, err, http.StatusNotFound, stripe.ErrorTypeInvalidRequest, stripe.ErrorCodeResourceMissing)
}

func conformList(t *testing.T, p provider) {
	ctx, want := t.Context(), map[string]bool{}
	since := time.Now().Add(-time.Minute).Unix()
	for range 5 {
		want[p.create(t, purchase("pm_card_visa", 1000)).ID] = true
	}
	params := &stripe.PaymentIntentListParams{CreatedRange: &stripe.RangeQueryParams{GreaterThanOrEqual: since}}
	params.Limit = stripe.Int64(2) // more than one page
	var last int64 = 1 << 62
	for in, err := range p.client.V1PaymentIntents.List(ctx, params).All(ctx) {
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		if in.Created > last {
			t.Errorf("%s is newer than the one before it", in.ID)
		}
		last = in.Created
		delete(want, in.ID)
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
}

func conformSearch(t *testing.T, p provider) {
	ctx := t.Context()
	params := purchase("pm_card_visa", 1000)
	in := p.create(t, params)
	query := &stripe.PaymentIntentSearchParams{}
	query.Query = "metadata['order_id']:'" + params.Metadata["order_id"] + "'"
	eventually(t, p.searchLag, "search finds the intent", func() bool {
		var found []string
		for hit, err := range p.client.V1PaymentIntents.Search(ctx, query).All(ctx) {
			if err != nil {
				t.Fatalf("search: %v", err)
			}
			found = append(found, hit.ID)
		}
		return len(found) == 1 && found[0] == in.ID
	})
	query.Query = "colour is red"
	for _, err := range p.client.V1PaymentIntents.Search(ctx, query).All(ctx) {
		wantError(t, err, http.StatusBadRequest, stripe.ErrorTypeInvalidRequest, "")
		return
	}
	t.Error("a malformed query was answered")
}

func conformEvents(t *testing.T, p provider) {
	ctx := t.Context()
	in := p.capture(t, p.create(t, purchase("pm_card_visa", 1000)).ID, 0)
	params := &stripe.EventListParams{Types: []*string{
		stripe.String("payment_intent.succeeded"), stripe.String("payment_intent.amount_capturable_updated"),
	}}
	params.CreatedRange = &stripe.RangeQueryParams{GreaterThanOrEqual: in.Created}
	eventually(t, p.searchLag, "both events are listed", func() bool {
		seen := map[stripe.EventType]bool{}
		for e, err := range p.client.V1Events.List(ctx, params).All(ctx) {
			if err != nil {
				t.Fatalf("list events: %v", err)
			}
			if e.GetObjectValue("id") == in.ID {
				seen[e.Type] = true
			}
		}
		return len(seen) == 2
	})
}

func conformWrongKey(t *testing.T, p provider) {
	params := purchase("pm_card_visa", 1000)
	params.Headers = http.Header{"Authorization": {"Bearer sk_live_nope"}}
	_, err := p.client.V1PaymentIntents.Create(t.Context(), params)
	wantError(t, err, http.StatusUnauthorized, stripe.ErrorTypeInvalidRequest, "")
}

// equal reports a difference; want is an untyped constant or a value of got's type.
func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// wantError checks the provider's error; an empty code matches every code.
func wantError(t *testing.T, err error, status int, kind stripe.ErrorType, code stripe.ErrorCode) *stripe.Error {
	t.Helper()
	var e *stripe.Error
	if !errors.As(err, &e) {
		t.Fatalf("error = %v, want one of the provider's", err)
	}
	equal(t, "http status", e.HTTPStatusCode, status)
	equal(t, "error type", e.Type, kind)
	if code != "" {
		equal(t, "error code", e.Code, code)
	}
	if e.Msg == "" || e.RequestID == "" {
		t.Errorf("error without message or request id: %+v", e)
	}
	return e
}

// eventually asks until ok or the limit; it asks at least once.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(max(limit/200, 5*time.Millisecond))
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", limit, what)
		case <-tick.C:
		}
	}
}
