package psp

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// status is where an intent stands.
type status string

const (
	requiresPaymentMethod status = "requires_payment_method"
	requiresConfirmation  status = "requires_confirmation"
	requiresAction        status = "requires_action"
	requiresCapture       status = "requires_capture"
	processing            status = "processing"
	succeeded             status = "succeeded"
	canceled              status = "canceled"
)

const (
	captureManual         = "manual"
	captureAutomatic      = "automatic"
	captureAutomaticAsync = "automatic_async"
)

// intent is a payment intent as the journal keeps it. Amounts are minor units.
type intent struct {
	ID                 string            `json:"id"`
	ClientSecret       string            `json:"client_secret"`
	Created            int64             `json:"created"`
	Status             status            `json:"status"`
	Amount             int64             `json:"amount"`
	Currency           string            `json:"currency"`
	CaptureMethod      string            `json:"capture_method"`
	ConfirmationMethod string            `json:"confirmation_method"`
	Methods            []string          `json:"methods"`
	Automatic          bool              `json:"automatic"`
	AllowRedirects     string            `json:"allow_redirects,omitempty"`
	Metadata           map[string]string `json:"metadata"`
	Description        string            `json:"description,omitempty"`
	ReceiptEmail       string            `json:"receipt_email,omitempty"`
	PaymentMethod      string            `json:"payment_method,omitempty"`
	ReturnURL          string            `json:"return_url,omitempty"`
	Received           int64             `json:"received"`
	Refunded           int64             `json:"refunded"`
	CanceledAt         int64             `json:"canceled_at,omitempty"`
	CancelReason       string            `json:"cancel_reason,omitempty"`
	Charges            []charge          `json:"charges,omitempty"` // one per attempt, oldest first
	LastError          *apiError         `json:"last_error,omitempty"`
}

// charge is one attempt to move the money of an intent.
type charge struct {
	ID            string `json:"id"`
	Created       int64  `json:"created"`
	PaymentMethod string `json:"payment_method"`
	Captured      int64  `json:"captured"`
	Voided        bool   `json:"voided,omitempty"`
	Pending       bool   `json:"pending,omitempty"`
	FailureCode   string `json:"failure_code,omitempty"`
	DeclineCode   string `json:"decline_code,omitempty"`
	Failure       string `json:"failure,omitempty"`
	Authenticated bool   `json:"authenticated,omitempty"`
}

// clone is a copy that shares nothing that an operation changes.
func (in *intent) clone() *intent {
	c := *in
	c.Charges = slices.Clone(in.Charges)
	return &c
}

func (in *intent) latest() *charge {
	if len(in.Charges) == 0 {
		return nil
	}
	return &in.Charges[len(in.Charges)-1]
}

// capturable is what is authorized and not captured yet.
func (in *intent) capturable() int64 {
	if in.Status == requiresCapture {
		return in.Amount
	}
	return 0
}

// minimum is the smallest charge in each currency, in minor units.
var minimum = map[string]int64{
	"aud": 50, "brl": 50, "cad": 50, "chf": 50, "czk": 1500, "dkk": 250, "eur": 50, "gbp": 30, "hkd": 400,
	"huf": 17500, "inr": 50, "jpy": 50, "mxn": 1000, "nok": 300, "nzd": 50, "pln": 200, "ron": 200, "sek": 300,
	"sgd": 50, "usd": 50,
}

// confirmParams are what a confirmation takes, on its own or as part of a creation.
var confirmParams = []string{
	"payment_method", "return_url", "off_session", "error_on_requires_action", "capture_method", "receipt_email",
	"setup_future_usage", "shipping", "payment_method_options", "payment_method_types", "radar_options", "mandate", "use_stripe_sdk",
}

func (s *Server) createIntent(c *call) (change, any, *apiError) {
	f := c.form
	if err := f.only(append([]string{
		"amount", "currency", "confirm", "metadata", "automatic_payment_methods", "description", "confirmation_method",
		"customer", "statement_descriptor", "statement_descriptor_suffix", "transfer_group",
	}, confirmParams...)...); err != nil {
		return change{}, nil, err
	}
	in := &intent{
		ID: newID("pi_3", 23), Created: time.Now().Unix(), Status: requiresPaymentMethod,
		Description: f.get("description"), ReceiptEmail: f.get("receipt_email"), ReturnURL: f.get("return_url"),
	}
	in.ClientSecret = in.ID + newID("_secret_", 25)
	if err := in.readTerms(f); err != nil {
		return change{}, nil, err
	}
	method, err := readPaymentMethod(f, in)
	if err != nil {
		return change{}, nil, err
	}
	if method != nil {
		in.PaymentMethod, in.Status = method.id, requiresConfirmation
	}
	confirm, err := f.boolean("confirm")
	if err != nil {
		return change{}, nil, err
	}
	if !confirm {
		for _, name := range []string{"off_session", "return_url", "error_on_requires_action"} {
			if f.has(name) {
				return change{}, nil, invalidParam(name, "", "You cannot provide `"+name+"` without also setting `confirm` to `true`.")
			}
		}
		return change{Intent: in}, in.wire(s, f.list("expand"), ""), nil
	}
	if method == nil {
		return change{}, nil, in.unexpected(s, "You cannot confirm this PaymentIntent because it's missing a payment method. To confirm the PaymentIntent with a payment method, pass it as `payment_method`.", false)
	}
	return s.attempt(c, in, method)
}

// readTerms validates what is paid and how.
func (in *intent) readTerms(f form) *apiError {
	for _, name := range []string{"amount", "currency"} {
		if f.get(name) == "" {
			return missingParam(name)
		}
	}
	var err *apiError
	if in.Amount, err = f.integer("amount", 0); err != nil {
		return err
	}
	in.Currency = strings.ToLower(f.get("currency"))
	least, known := minimum[in.Currency]
	switch {
	case !known:
		return invalidParam("currency", "", "Invalid currency: "+in.Currency+".")
	case in.Amount < 1:
		return invalidParam("amount", "parameter_invalid_integer", "This value must be greater than or equal to 1.")
	case in.Amount < least:
		return invalidParam("amount", "amount_too_small", "Amount must convert to at least the minimum charge of its currency.")
	case in.Amount > 99999999:
		return invalidParam("amount", "amount_too_large", "Amount must be no more than 99999999.")
	}
	if in.CaptureMethod, err = f.oneOf("capture_method", captureAutomaticAsync, captureAutomatic, captureManual); err != nil {
		return err
	}
	if in.ConfirmationMethod, err = f.oneOf("confirmation_method", "automatic", "manual"); err != nil {
		return err
	}
	if in.Metadata, err = f.metadata(); err != nil {
		return err
	}
	in.Methods = f.list("payment_method_types")
	apm := f.dict("automatic_payment_methods")
	in.Automatic = len(in.Methods) == 0 && apm["enabled"] != "false"
	if len(in.Methods) > 0 && apm["enabled"] == "true" {
		return invalidParam("", "", "You may only specify one of these parameters: automatic_payment_methods, payment_method_types.")
	}
	if in.Automatic {
		in.Methods = []string{kindCard, "link"}
		in.AllowRedirects = apm["allow_redirects"]
		if in.AllowRedirects == "" {
			in.AllowRedirects = "always"
		}
	}
	if len(in.Methods) == 0 {
		in.Methods = []string{kindCard}
	}
	return nil
}

// readPaymentMethod returns the named payment method, or nil when none is named.
func readPaymentMethod(f form, in *intent) (*paymentMethod, *apiError) {
	id := f.get("payment_method")
	if id == "" {
		return nil, nil
	}
	method := paymentMethods[id]
	if method == nil {
		return nil, missingResource(http.StatusBadRequest, "payment_method", "PaymentMethod", id)
	}
	if !in.Automatic && !slices.Contains(in.Methods, method.kind()) {
		return nil, invalidParam("payment_method", "", "The PaymentMethod provided ("+method.kind()+") is not allowed for this PaymentIntent.")
	}
	return method, nil
}

func (s *Server) confirmIntent(c *call) (change, any, *apiError) {
	if err := c.form.only(confirmParams...); err != nil {
		return change{}, nil, err
	}
	in, err := s.find(c)
	if err != nil {
		return change{}, nil, err
	}
	switch in.Status {
	case requiresPaymentMethod, requiresConfirmation, requiresAction:
	case succeeded:
		return change{}, nil, in.unexpected(s, "You cannot confirm this PaymentIntent because it has already succeeded after being previously confirmed.", true)
	case requiresCapture, processing, canceled:
		return change{}, nil, in.unexpected(s, "You cannot confirm this PaymentIntent because it has a status of "+string(in.Status)+". Only a PaymentIntent with one of the following statuses may be confirmed: requires_confirmation, requires_action.", true)
	}
	method, err := readPaymentMethod(c.form, in)
	if err != nil {
		return change{}, nil, err
	}
	if method == nil {
		method = paymentMethods[in.PaymentMethod]
	}
	if method == nil {
		return change{}, nil, in.unexpected(s, "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update the PaymentIntent with a payment method and then confirm it again, or confirm it again directly with a payment method or ConfirmationToken.", true)
	}
	if in.CaptureMethod, err = c.form.oneOf("capture_method", in.CaptureMethod, captureAutomaticAsync, captureAutomatic, captureManual); err != nil {
		return change{}, nil, err
	}
	if url := c.form.get("return_url"); url != "" {
		in.ReturnURL = url
	}
	return s.attempt(c, in, method)
}

// attempt is a confirmation: it ends authorized, captured, waiting or declined.
func (s *Server) attempt(c *call, in *intent, method *paymentMethod) (change, any, *apiError) {
	if in.Automatic && in.AllowRedirects == "always" && in.ReturnURL == "" {
		return change{}, nil, invalidParam("", "", "This PaymentIntent is configured to accept payment methods enabled in your Dashboard. Because some of these payment methods might redirect your customer off of your page, you must provide a `return_url`. If you don't want to accept redirect-based payment methods, set `automatic_payment_methods[enabled]` to `true` and `automatic_payment_methods[allow_redirects]` to `never` when creating Setup Intents and Payment Intents.")
	}
	if method.bank && (in.CaptureMethod == captureManual || in.Currency != "usd") {
		return change{}, nil, invalidParam("payment_method", "payment_intent_incompatible_payment_method",
			"us_bank_account takes automatic capture in usd only.")
	}
	offSession := c.form.get("off_session") == "true" || c.form.get("off_session") == "one_off"
	in.LastError = nil
	in.PaymentMethod = method.id
	var ch change
	switch {
	case method.decline != nil:
		ch = s.decline(c, in, method, *method.decline)
	case method.challenge && (offSession || c.form.get("error_on_requires_action") == "true"):
		ch = s.decline(c, in, method, decline{
			code: "authentication_required", reason: "authentication_required",
			message: "Your card was declined. This transaction requires authentication.",
		})
	case method.challenge:
		in.Status = requiresAction
		ch = change{Intent: in, Events: []event{s.intentEvent("payment_intent.requires_action", in, c)}}
	case method.bank:
		in.Status = processing
		in.Charges = append(in.Charges, charge{ID: newID("py_3", 23), Created: time.Now().Unix(), PaymentMethod: method.id, Pending: true})
		ch = change{Intent: in}
	default:
		ch = s.authorize(c, in, method, false)
	}
	if in.LastError == nil {
		return ch, in.wire(s, c.form.list("expand"), ""), nil
	}
	failure := *in.LastError
	failure.Status, failure.Remember = http.StatusPaymentRequired, true
	failure.PaymentIntent = in.wire(s, nil, "")
	return ch, nil, &failure
}

// authorize sets the money aside and, unless capture is manual, takes it.
func (s *Server) authorize(c *call, in *intent, method *paymentMethod, authenticated bool) change {
	in.Charges = append(in.Charges, charge{
		ID: newID("ch_3", 23), Created: time.Now().Unix(), PaymentMethod: method.id, Authenticated: authenticated,
	})
	effects := []Effect{in.effect(EffectAuthorize, in.Amount, c)}
	if in.CaptureMethod == captureManual {
		in.Status = requiresCapture
		return change{Intent: in, Effects: effects, Events: []event{s.intentEvent("payment_intent.amount_capturable_updated", in, c)}}
	}
	in.take(in.Amount)
	effects = append(effects, in.effect(EffectCapture, in.Amount, c))
	return change{Intent: in, Effects: effects, Events: []event{s.intentEvent("payment_intent.succeeded", in, c)}}
}

// take captures amount of the latest charge.
func (in *intent) take(amount int64) {
	in.Status, in.Received = succeeded, amount
	in.latest().Captured = amount
}

// decline records the bank's no to an attempted charge.
func (s *Server) decline(c *call, in *intent, method *paymentMethod, d decline) change {
	in.Charges = append(in.Charges, charge{
		ID: newID("ch_3", 23), Created: time.Now().Unix(), PaymentMethod: method.id,
		FailureCode: d.code, DeclineCode: d.reason, Failure: d.message,
	})
	return s.refuse(c, in, apiError{
		Type: typeCard, Code: d.code, DeclineCode: d.reason, DocURL: docURL(d.code), Message: d.message, Param: d.param,
		Charge: in.latest().ID, PaymentMethod: method.wire(in.Created),
	})
}

// refuse sends the intent back to where it takes another payment method.
func (s *Server) refuse(c *call, in *intent, why apiError) change {
	in.Status, in.PaymentMethod, in.LastError = requiresPaymentMethod, "", &why
	return change{
		Intent:  in,
		Effects: []Effect{in.effect(EffectDecline, in.Amount, c)},
		Events:  []event{s.intentEvent("payment_intent.payment_failed", in, c)},
	}
}

func (s *Server) captureIntent(c *call) (change, any, *apiError) {
	if err := c.form.only("amount_to_capture", "final_capture", "metadata", "statement_descriptor", "statement_descriptor_suffix"); err != nil {
		return change{}, nil, err
	}
	in, err := s.find(c)
	if err != nil {
		return change{}, nil, err
	}
	if in.Status != requiresCapture {
		return change{}, nil, in.unexpected(s, "This PaymentIntent could not be captured because it has a status of "+string(in.Status)+". Only a PaymentIntent with one of the following statuses may be captured: requires_capture.", true)
	}
	amount, err := c.form.integer("amount_to_capture", in.capturable())
	if err != nil {
		return change{}, nil, err
	}
	switch {
	case amount < 1:
		return change{}, nil, invalidParam("amount_to_capture", "parameter_invalid_integer", "This value must be greater than or equal to 1.")
	case amount > in.capturable():
		return change{}, nil, &apiError{
			Status: http.StatusBadRequest, Remember: true, Type: typeInvalidRequest, Code: "amount_too_large",
			DocURL: docURL("amount_too_large"), Param: "amount_to_capture",
			Message: fmt.Sprintf("The capture amount %d is greater than the remaining capturable amount %d.", amount, in.capturable()),
		}
	}
	if err := in.mergeMetadata(c.form); err != nil {
		return change{}, nil, err
	}
	in.take(amount)
	return change{
		Intent:  in,
		Effects: []Effect{in.effect(EffectCapture, amount, c)},
		Events:  []event{s.intentEvent("payment_intent.succeeded", in, c)},
	}, in.wire(s, c.form.list("expand"), ""), nil
}

// mergeMetadata sets the given keys; an empty value removes its key.
func (in *intent) mergeMetadata(f form) *apiError {
	given, err := f.metadata()
	if err != nil {
		return err
	}
	in.Metadata = maps.Clone(in.Metadata)
	for key, value := range given {
		if value == "" {
			delete(in.Metadata, key)
			continue
		}
		in.Metadata[key] = value
	}
	return nil
}

func (s *Server) cancelIntent(c *call) (change, any, *apiError) {
	if err := c.form.only("cancellation_reason"); err != nil {
		return change{}, nil, err
	}
	in, err := s.find(c)
	if err != nil {
		return change{}, nil, err
	}
	reason := c.form.get("cancellation_reason")
	if reason != "" && !slices.Contains([]string{"duplicate", "fraudulent", "requested_by_customer", "abandoned"}, reason) {
		return change{}, nil, invalidParam("cancellation_reason", "", "Invalid cancellation_reason: must be one of duplicate, fraudulent, requested_by_customer, or abandoned")
	}
	if in.Status == succeeded || in.Status == canceled {
		return change{}, nil, in.unexpected(s, "You cannot cancel this PaymentIntent because it has a status of "+string(in.Status)+". Only a PaymentIntent with one of the following statuses may be canceled: requires_payment_method, requires_capture, requires_confirmation, requires_action, processing.", true)
	}
	var effects []Effect
	if in.Status == requiresCapture {
		in.latest().Voided = true
		effects = append(effects, in.effect(EffectVoid, in.Amount, c))
	}
	if in.Status == processing {
		last := in.latest()
		last.Pending, last.FailureCode, last.Failure = false, "payment_intent_canceled", "The payment was canceled."
	}
	in.Status, in.CancelReason, in.CanceledAt = canceled, reason, time.Now().Unix()
	return change{Intent: in, Effects: effects, Events: []event{s.intentEvent("payment_intent.canceled", in, c)}},
		in.wire(s, c.form.list("expand"), ""), nil
}

// find returns a copy of the intent that the path names. mu is held.
func (s *Server) find(c *call) (*intent, *apiError) {
	in, ok := s.state.intent[c.id]
	if !ok {
		return nil, missingResource(http.StatusNotFound, "intent", "payment_intent", c.id)
	}
	return in.clone(), nil
}

// unexpected refuses a transition that the status doesn't allow.
func (in *intent) unexpected(s *Server, message string, remember bool) *apiError {
	e := &apiError{
		Status: http.StatusBadRequest, Remember: remember, Type: typeInvalidRequest,
		Code: "payment_intent_unexpected_state", DocURL: docURL("payment_intent_unexpected_state"), Message: message,
	}
	if remember {
		e.PaymentIntent = in.wire(s, nil, "")
	}
	return e
}

func (s *Server) retrieveIntent(c *call) (any, *apiError) {
	if err := c.form.only("client_secret"); err != nil {
		return nil, err
	}
	in, err := s.find(c)
	if err != nil {
		return nil, err
	}
	return in.wire(s, c.form.list("expand"), ""), nil
}

func (s *Server) retrieveCharge(c *call) (any, *apiError) {
	for _, in := range s.state.intents {
		for i := range in.Charges {
			if in.Charges[i].ID == c.id {
				return in.Charges[i].wire(s, in, c.form.list("expand"), ""), nil
			}
		}
	}
	return nil, missingResource(http.StatusNotFound, "id", "charge", c.id)
}

func (s *Server) listIntents(c *call) (any, *apiError) {
	if err := c.form.only("limit", "starting_after", "ending_before", "created", "customer"); err != nil {
		return nil, err
	}
	p, err := c.form.page()
	if err != nil {
		return nil, err
	}
	return orError(paged(s.state.intents, p, "/v1/payment_intents",
		func(in *intent) string { return in.ID },
		func(in *intent) int64 { return in.Created },
		func(in *intent) any { return in.wire(s, c.form.list("expand"), "data.") }))
}

// orError keeps a nil page from becoming a non-nil answer.
func orError(list *listWire, err *apiError) (any, *apiError) {
	if err != nil {
		return nil, err
	}
	return list, nil
}

// searchClause is one comparison of Stripe's search language. Only exact matches are known here.
var searchClause = regexp.MustCompile(`^\s*(?:metadata\[(?:'([^']+)'|"([^"]+)")\]|(status|currency))\s*:\s*(?:'([^']*)'|"([^"]*)")\s*$`)

var searchAnd = regexp.MustCompile(`(?i)\s+AND\s+`)

// searchIntents answers metadata['key']:'value', status:'...' and currency:'...', joined by AND.
func (s *Server) searchIntents(c *call) (any, *apiError) {
	if err := c.form.only("query", "limit", "page"); err != nil {
		return nil, err
	}
	if c.form.get("query") == "" {
		return nil, missingParam("query")
	}
	p, err := c.form.page()
	if err != nil {
		return nil, err
	}
	found := slices.Clone(s.state.intents)
	for _, clause := range searchAnd.Split(c.form.get("query"), -1) {
		m := searchClause.FindStringSubmatch(clause)
		if m == nil {
			return nil, invalidParam("query", "",
				"We were unable to parse your search query. Try using the format `metadata[\"key\"]:\"value\"` to query for metadata.")
		}
		key, field, value := m[1]+m[2], m[3], m[4]+m[5]
		found = slices.DeleteFunc(found, func(in *intent) bool {
			switch field {
			case "status":
				return string(in.Status) != value
			case "currency":
				return in.Currency != value
			}
			return in.Metadata[key] != value
		})
	}
	p.startingAfter = c.form.get("page") // the page token is the last id of the page before
	list, err := paged(found, p, "/v1/payment_intents/search",
		func(in *intent) string { return in.ID },
		func(in *intent) int64 { return in.Created },
		func(in *intent) any { return in.wire(s, c.form.list("expand"), "data.") })
	if err != nil {
		return nil, err
	}
	result := searchWire{Object: "search_result", URL: list.URL, HasMore: list.HasMore, Data: list.Data}
	if list.HasMore {
		result.NextPage = &list.last
	}
	return result, nil
}

type searchWire struct {
	Object   string  `json:"object"`
	URL      string  `json:"url"`
	HasMore  bool    `json:"has_more"`
	NextPage *string `json:"next_page"`
	Data     []any   `json:"data"`
}
