package psp

import (
	"fmt"
	"net/http"
	"slices"
	"time"
)

// refund is money given back, as the journal keeps it. Amount is in minor units.
type refund struct {
	ID       string            `json:"id"`
	Created  int64             `json:"created"`
	Amount   int64             `json:"amount"`
	Currency string            `json:"currency"`
	Intent   string            `json:"intent"`
	Charge   string            `json:"charge"`
	Reason   string            `json:"reason,omitempty"`
	Metadata map[string]string `json:"metadata"`
}

func (s *Server) createRefund(c *call) (change, any, *apiError) {
	f := c.form
	if err := f.only("payment_intent", "charge", "amount", "reason", "metadata"); err != nil {
		return change{}, nil, err
	}
	known, err := s.refundedIntent(f)
	if err != nil {
		return change{}, nil, err
	}
	in := known.clone()
	metadata, err := f.metadata()
	if err != nil {
		return change{}, nil, err
	}
	reason := f.get("reason")
	if reason != "" && !slices.Contains([]string{"duplicate", "fraudulent", "requested_by_customer"}, reason) {
		return change{}, nil, invalidParam("reason", "", "Invalid reason: must be one of duplicate, fraudulent, or requested_by_customer")
	}
	left := in.Received - in.Refunded
	amount, err := f.integer("amount", left)
	if err != nil {
		return change{}, nil, err
	}
	switch {
	case in.Status != succeeded:
		return change{}, nil, in.unexpected(s, "This PaymentIntent ("+in.ID+") does not have a successful charge to refund.", true)
	case left == 0:
		return change{}, nil, &apiError{
			Status: http.StatusBadRequest, Remember: true, Type: typeInvalidRequest,
			Code: "charge_already_refunded", DocURL: docURL("charge_already_refunded"),
			Message: "Charge " + in.latest().ID + " has already been refunded.",
		}
	case amount < 1:
		return change{}, nil, invalidParam("amount", "parameter_invalid_integer", "This value must be greater than or equal to 1.")
	case amount > left:
		return change{}, nil, &apiError{
			Status: http.StatusBadRequest, Remember: true, Type: typeInvalidRequest, Param: "amount",
			Message: fmt.Sprintf("Refund amount (%s) is greater than unrefunded amount on charge (%s)", money(amount, in.Currency), money(left, in.Currency)),
		}
	}
	r := &refund{
		ID: newID("re_3", 23), Created: time.Now().Unix(), Amount: amount, Currency: in.Currency,
		Intent: in.ID, Charge: in.latest().ID, Reason: reason, Metadata: metadata,
	}
	in.Refunded += amount
	return change{
		Intent: in, Refund: r,
		Effects: []Effect{in.effect(EffectRefund, amount, c)},
		Events:  []event{s.newEvent("charge.refunded", in.latest().wire(s, in, nil, ""), c)},
	}, r.wire(s, in, f.list("expand"), ""), nil
}

// refundedIntent is the intent that the request names, directly or by its charge.
func (s *Server) refundedIntent(f form) (*intent, *apiError) {
	id, chargeID := f.get("payment_intent"), f.get("charge")
	if id != "" {
		if in, ok := s.state.intent[id]; ok {
			return in, nil
		}
		return nil, missingResource(http.StatusNotFound, "payment_intent", "payment_intent", id)
	}
	if chargeID == "" {
		return nil, invalidParam("", "parameter_missing", "One of the following params should be provided for this request: payment_intent or charge.")
	}
	for _, in := range s.state.intents {
		if last := in.latest(); last != nil && last.ID == chargeID {
			return in, nil
		}
	}
	return nil, missingResource(http.StatusNotFound, "charge", "charge", chargeID)
}

func (s *Server) retrieveRefund(c *call) (any, *apiError) {
	for _, r := range s.state.refunds {
		if r.ID == c.id {
			return r.wire(s, s.state.intent[r.Intent], c.form.list("expand"), ""), nil
		}
	}
	return nil, missingResource(http.StatusNotFound, "refund", "refund", c.id)
}

func (s *Server) listRefunds(c *call) (any, *apiError) {
	if err := c.form.only("payment_intent", "charge", "limit", "starting_after", "ending_before", "created"); err != nil {
		return nil, err
	}
	p, err := c.form.page()
	if err != nil {
		return nil, err
	}
	intentID, chargeID := c.form.get("payment_intent"), c.form.get("charge")
	matching := slices.DeleteFunc(slices.Clone(s.state.refunds), func(r *refund) bool {
		return intentID != "" && r.Intent != intentID || chargeID != "" && r.Charge != chargeID
	})
	return orError(paged(matching, p, "/v1/refunds",
		func(r *refund) string { return r.ID },
		func(r *refund) int64 { return r.Created },
		func(r *refund) any { return r.wire(s, s.state.intent[r.Intent], c.form.list("expand"), "data.") }))
}
