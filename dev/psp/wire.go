package psp

import (
	"fmt"
	"slices"
	"time"
)

// intentWire is Stripe's payment_intent object. Fields without a value here are null there too.
type intentWire struct {
	ID                                string            `json:"id"`
	Object                            string            `json:"object"`
	Amount                            int64             `json:"amount"`
	AmountCapturable                  int64             `json:"amount_capturable"`
	AmountDetails                     map[string]any    `json:"amount_details"`
	AmountReceived                    int64             `json:"amount_received"`
	Application                       any               `json:"application"`
	ApplicationFeeAmount              *int64            `json:"application_fee_amount"`
	AutomaticPaymentMethods           *automaticWire    `json:"automatic_payment_methods"`
	CanceledAt                        *int64            `json:"canceled_at"`
	CancellationReason                *string           `json:"cancellation_reason"`
	CaptureMethod                     string            `json:"capture_method"`
	ClientSecret                      string            `json:"client_secret"`
	ConfirmationMethod                string            `json:"confirmation_method"`
	Created                           int64             `json:"created"`
	Currency                          string            `json:"currency"`
	Customer                          any               `json:"customer"`
	Description                       *string           `json:"description"`
	LastPaymentError                  *apiError         `json:"last_payment_error"`
	LatestCharge                      any               `json:"latest_charge"`
	Livemode                          bool              `json:"livemode"`
	Metadata                          map[string]string `json:"metadata"`
	NextAction                        *nextActionWire   `json:"next_action"`
	OnBehalfOf                        any               `json:"on_behalf_of"`
	PaymentMethod                     any               `json:"payment_method"`
	PaymentMethodConfigurationDetails any               `json:"payment_method_configuration_details"`
	PaymentMethodOptions              map[string]any    `json:"payment_method_options"`
	PaymentMethodTypes                []string          `json:"payment_method_types"`
	Processing                        any               `json:"processing"`
	ReceiptEmail                      *string           `json:"receipt_email"`
	Review                            any               `json:"review"`
	SetupFutureUsage                  any               `json:"setup_future_usage"`
	Shipping                          any               `json:"shipping"`
	StatementDescriptor               any               `json:"statement_descriptor"`
	StatementDescriptorSuffix         any               `json:"statement_descriptor_suffix"`
	Status                            status            `json:"status"`
	TransferData                      any               `json:"transfer_data"`
	TransferGroup                     any               `json:"transfer_group"`
}

type automaticWire struct {
	AllowRedirects string `json:"allow_redirects"`
	Enabled        bool   `json:"enabled"`
}

type nextActionWire struct {
	Type          string         `json:"type"`
	RedirectToURL *redirectWire  `json:"redirect_to_url,omitempty"`
	UseStripeSDK  map[string]any `json:"use_stripe_sdk,omitempty"`
}

type redirectWire struct {
	ReturnURL string `json:"return_url"`
	URL       string `json:"url"`
}

// wire renders the intent. prefix is what the expanded paths start with: "data." in lists.
func (in *intent) wire(s *Server, expand []string, prefix string) *intentWire {
	w := &intentWire{
		ID: in.ID, Object: "payment_intent", Amount: in.Amount, AmountCapturable: in.capturable(),
		AmountDetails: map[string]any{"tip": map[string]any{}}, AmountReceived: in.Received,
		CanceledAt: orNull(in.CanceledAt), CancellationReason: orNull(in.CancelReason),
		CaptureMethod: in.CaptureMethod, ClientSecret: in.ClientSecret, ConfirmationMethod: in.ConfirmationMethod,
		Created: in.Created, Currency: in.Currency, Description: orNull(in.Description), LastPaymentError: in.LastError,
		Metadata: in.Metadata, NextAction: in.nextAction(s), PaymentMethodTypes: in.Methods,
		PaymentMethodOptions: map[string]any{kindCard: map[string]any{
			"installments": nil, "mandate_options": nil, "network": nil, "request_three_d_secure": "automatic",
		}},
		ReceiptEmail: orNull(in.ReceiptEmail), Status: in.Status,
	}
	if in.Automatic {
		w.AutomaticPaymentMethods = &automaticWire{AllowRedirects: in.AllowRedirects, Enabled: true}
	}
	if last := in.latest(); last != nil {
		w.LatestCharge = last.ID
		if expands(expand, prefix+"latest_charge") {
			w.LatestCharge = last.wire(s, in, expand, prefix+"latest_charge.")
		}
	}
	if in.PaymentMethod != "" {
		w.PaymentMethod = in.PaymentMethod
		if expands(expand, prefix+"payment_method") {
			w.PaymentMethod = paymentMethods[in.PaymentMethod].wire(in.Created)
		}
	}
	return w
}

func (in *intent) nextAction(s *Server) *nextActionWire {
	if in.Status != requiresAction {
		return nil
	}
	page := s.url + "/3ds/" + in.ID + "?client_secret=" + in.ClientSecret
	if in.ReturnURL == "" {
		return &nextActionWire{Type: "use_stripe_sdk", UseStripeSDK: map[string]any{"type": "three_d_secure_redirect", "stripe_js": page}}
	}
	return &nextActionWire{Type: "redirect_to_url", RedirectToURL: &redirectWire{ReturnURL: in.ReturnURL, URL: page}}
}

type chargeWire struct {
	ID                            string            `json:"id"`
	Object                        string            `json:"object"`
	Amount                        int64             `json:"amount"`
	AmountCaptured                int64             `json:"amount_captured"`
	AmountRefunded                int64             `json:"amount_refunded"`
	Application                   any               `json:"application"`
	ApplicationFee                any               `json:"application_fee"`
	ApplicationFeeAmount          any               `json:"application_fee_amount"`
	BalanceTransaction            any               `json:"balance_transaction"`
	BillingDetails                billingWire       `json:"billing_details"`
	CalculatedStatementDescriptor string            `json:"calculated_statement_descriptor"`
	Captured                      bool              `json:"captured"`
	Created                       int64             `json:"created"`
	Currency                      string            `json:"currency"`
	Customer                      any               `json:"customer"`
	Description                   *string           `json:"description"`
	Disputed                      bool              `json:"disputed"`
	FailureBalanceTransaction     any               `json:"failure_balance_transaction"`
	FailureCode                   *string           `json:"failure_code"`
	FailureMessage                *string           `json:"failure_message"`
	FraudDetails                  map[string]any    `json:"fraud_details"`
	Livemode                      bool              `json:"livemode"`
	Metadata                      map[string]string `json:"metadata"`
	OnBehalfOf                    any               `json:"on_behalf_of"`
	Outcome                       outcomeWire       `json:"outcome"`
	Paid                          bool              `json:"paid"`
	PaymentIntent                 string            `json:"payment_intent"`
	PaymentMethod                 string            `json:"payment_method"`
	PaymentMethodDetails          map[string]any    `json:"payment_method_details"`
	ReceiptEmail                  *string           `json:"receipt_email"`
	ReceiptNumber                 any               `json:"receipt_number"`
	ReceiptURL                    any               `json:"receipt_url"`
	Refunded                      bool              `json:"refunded"`
	Refunds                       *listWire         `json:"refunds,omitempty"`
	Review                        any               `json:"review"`
	Shipping                      any               `json:"shipping"`
	SourceTransfer                any               `json:"source_transfer"`
	StatementDescriptor           any               `json:"statement_descriptor"`
	StatementDescriptorSuffix     any               `json:"statement_descriptor_suffix"`
	Status                        string            `json:"status"`
	TransferData                  any               `json:"transfer_data"`
	TransferGroup                 any               `json:"transfer_group"`
}

type billingWire struct {
	Address struct {
		City       any `json:"city"`
		Country    any `json:"country"`
		Line1      any `json:"line1"`
		Line2      any `json:"line2"`
		PostalCode any `json:"postal_code"`
		State      any `json:"state"`
	} `json:"address"`
	Email any `json:"email"`
	Name  any `json:"name"`
	Phone any `json:"phone"`
	TaxID any `json:"tax_id"`
}

type outcomeWire struct {
	AdviceCode         any    `json:"advice_code"`
	NetworkAdviceCode  any    `json:"network_advice_code"`
	NetworkDeclineCode any    `json:"network_decline_code"`
	NetworkStatus      string `json:"network_status"`
	Reason             any    `json:"reason"`
	RiskLevel          string `json:"risk_level"`
	RiskScore          int64  `json:"risk_score"`
	SellerMessage      string `json:"seller_message"`
	Type               string `json:"type"`
}

func (ch *charge) wire(s *Server, in *intent, expand []string, prefix string) *chargeWire {
	method := paymentMethods[ch.PaymentMethod]
	w := &chargeWire{
		ID: ch.ID, Object: "charge", Amount: in.Amount, AmountCaptured: ch.Captured,
		CalculatedStatementDescriptor: "BOOKWORM", Captured: ch.Captured > 0, Created: ch.Created, Currency: in.Currency,
		Description: orNull(in.Description), FailureCode: orNull(ch.FailureCode), FailureMessage: orNull(ch.Failure),
		FraudDetails: map[string]any{}, Metadata: in.Metadata, PaymentIntent: in.ID, PaymentMethod: ch.PaymentMethod,
		PaymentMethodDetails: map[string]any{"type": method.kind()}, ReceiptEmail: orNull(in.ReceiptEmail),
	}
	switch {
	case ch.FailureCode != "":
		w.Status = "failed"
		w.Outcome = outcomeWire{
			NetworkStatus: "declined_by_network", Reason: ch.DeclineCode, RiskLevel: "normal", RiskScore: 32,
			SellerMessage: "The bank did not return any further details with this decline.", Type: "issuer_declined",
		}
	case ch.Pending:
		w.Status, w.Paid = "pending", false
		w.Outcome = outcomeWire{NetworkStatus: "approved_by_network", RiskLevel: "not_assessed", SellerMessage: "Payment complete.", Type: "authorized"}
	default:
		w.Status, w.Paid = "succeeded", true
		w.Outcome = outcomeWire{
			NetworkStatus: "approved_by_network", RiskLevel: "normal", RiskScore: 20,
			SellerMessage: "Payment complete.", Type: "authorized",
		}
	}
	if ch.Captured > 0 {
		w.AmountRefunded = in.Refunded
		w.Refunded = in.Refunded == ch.Captured
	}
	if ch.Voided { // Stripe shows a released authorization as refunded
		w.AmountRefunded, w.Refunded = in.Amount, true
	}
	if !method.bank {
		w.PaymentMethodDetails[kindCard] = ch.card(method, in)
	}
	if expands(expand, prefix+"refunds") {
		w.Refunds = &listWire{Object: "list", URL: "/v1/charges/" + ch.ID + "/refunds", Data: []any{}}
		for _, r := range slices.Backward(s.state.refunds) {
			if r.Charge == ch.ID {
				w.Refunds.Data = append(w.Refunds.Data, r.wire(s, in, nil, ""))
			}
		}
	}
	return w
}

// card is payment_method_details.card of a charge.
func (ch *charge) card(method *paymentMethod, in *intent) map[string]any {
	card := method.card()
	delete(card, "display_brand")
	delete(card, "networks")
	delete(card, "three_d_secure_usage")
	card["amount_authorized"] = in.Amount
	card["network"] = method.brand
	card["installments"] = nil
	card["mandate"] = nil
	card["three_d_secure"] = nil
	if ch.Authenticated {
		card["three_d_secure"] = map[string]any{"authentication_flow": "challenge", "result": "authenticated", "result_reason": nil, "version": "2.2.0"}
	}
	if in.CaptureMethod == captureManual && ch.FailureCode == "" {
		card["capture_before"] = ch.Created + int64(7*24*time.Hour/time.Second)
	}
	return card
}

type paymentMethodWire struct {
	ID             string            `json:"id"`
	Object         string            `json:"object"`
	BillingDetails billingWire       `json:"billing_details"`
	Card           map[string]any    `json:"card,omitempty"`
	Created        int64             `json:"created"`
	Customer       any               `json:"customer"`
	Livemode       bool              `json:"livemode"`
	Metadata       map[string]string `json:"metadata"`
	Type           string            `json:"type"`
}

func (m *paymentMethod) wire(created int64) *paymentMethodWire {
	w := &paymentMethodWire{ID: m.id, Object: "payment_method", Created: created, Metadata: map[string]string{}, Type: m.kind()}
	if !m.bank {
		w.Card = m.card()
	}
	return w
}

func (m *paymentMethod) card() map[string]any {
	expiry := time.Now().UTC().Year() + 1
	if m.decline != nil && m.decline.code == "expired_card" {
		expiry -= 2
	}
	return map[string]any{
		"brand": m.brand, "display_brand": m.brand, "last4": m.last4, "country": "US", "funding": "credit",
		"exp_month": 12, "exp_year": expiry, "fingerprint": "test" + m.last4, "wallet": nil,
		"checks":               map[string]any{"address_line1_check": nil, "address_postal_code_check": nil, "cvc_check": "pass"},
		"networks":             map[string]any{"available": []string{m.brand}, "preferred": nil},
		"three_d_secure_usage": map[string]any{"supported": true},
	}
}

type refundWire struct {
	ID                     string            `json:"id"`
	Object                 string            `json:"object"`
	Amount                 int64             `json:"amount"`
	BalanceTransaction     any               `json:"balance_transaction"`
	Charge                 any               `json:"charge"`
	Created                int64             `json:"created"`
	Currency               string            `json:"currency"`
	DestinationDetails     map[string]any    `json:"destination_details"`
	Metadata               map[string]string `json:"metadata"`
	PaymentIntent          any               `json:"payment_intent"`
	Reason                 *string           `json:"reason"`
	ReceiptNumber          any               `json:"receipt_number"`
	SourceTransferReversal any               `json:"source_transfer_reversal"`
	Status                 string            `json:"status"`
	TransferReversal       any               `json:"transfer_reversal"`
}

func (r *refund) wire(s *Server, in *intent, expand []string, prefix string) *refundWire {
	w := &refundWire{
		ID: r.ID, Object: "refund", Amount: r.Amount, Charge: r.Charge, Created: r.Created, Currency: r.Currency,
		DestinationDetails: map[string]any{"type": kindCard, kindCard: map[string]any{
			"reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund",
		}},
		Metadata: r.Metadata, PaymentIntent: r.Intent, Reason: orNull(r.Reason), Status: "succeeded",
	}
	if expands(expand, prefix+"charge") {
		w.Charge = in.latest().wire(s, in, expand, prefix+"charge.")
	}
	if expands(expand, prefix+"payment_intent") {
		w.PaymentIntent = in.wire(s, expand, prefix+"payment_intent.")
	}
	return w
}

// expands says whether path, or something below it, is to be expanded.
func expands(expand []string, path string) bool {
	return slices.ContainsFunc(expand, func(e string) bool {
		return e == path || len(e) > len(path) && e[:len(path)+1] == path+"."
	})
}

// orNull is a pointer to v, or null on the wire for the zero value.
func orNull[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// money formats minor units for people.
func money(amount int64, currency string) string {
	if currency == "jpy" {
		return fmt.Sprintf("%d %s", amount, "JPY")
	}
	symbols := map[string]string{"usd": "$", "eur": "€", "gbp": "£"}
	if symbol, ok := symbols[currency]; ok {
		return fmt.Sprintf("%s%d.%02d", symbol, amount/100, amount%100)
	}
	return fmt.Sprintf("%d.%02d %s", amount/100, amount%100, currency)
}
