package psp_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stripe/stripe-go/v85"
	"github.com/stripe/stripe-mock/embedded"
	"github.com/stripe/stripe-mock/spec"

	"bookworm/dev/psp"
)

// TestWireShapes compares every kind of answer with Stripe's published OpenAPI
// description (required, unknown and mistyped fields, enums) and with the
// structs that stripe-go decodes into.
func TestWireShapes(t *testing.T) {
	t.Parallel()
	var published struct {
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(embedded.OpenAPISpec, &published); err != nil {
		t.Fatalf("read Stripe's description: %v", err)
	}
	decoded := map[string]*spec.Schema{}
	check := func(name, schema string, raw []byte, into any) {
		t.Helper()
		var value any
		if err := json.Unmarshal(raw, &value); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		w := wireCheck{raw: published.Components.Schemas, decoded: decoded}
		w.schema(name, &spec.Schema{Ref: "#/components/schemas/" + schema}, value)
		w.decodes(name, reflect.TypeOf(into), value)
		for _, problem := range w.problems {
			t.Error(problem)
		}
	}

	server := start(t, psp.Options{})
	p := clientOf(server)
	expanded := []string{"latest_charge", "latest_charge.refunds", "payment_method"}
	shape := func(name, id string) {
		t.Helper()
		check(name, "payment_intent", p.retrieve(t, id).LastResponse.RawJSON, stripe.PaymentIntent{})
		full := p.retrieve(t, id, expanded...)
		check(name+" expanded", "payment_intent", full.LastResponse.RawJSON, stripe.PaymentIntent{})
		if full.LatestCharge == nil {
			return
		}
		charge, err := p.client.V1Charges.Retrieve(t.Context(), full.LatestCharge.ID, nil)
		if err != nil {
			t.Fatalf("retrieve charge: %v", err)
		}
		check(name+" charge", "charge", charge.LastResponse.RawJSON, stripe.Charge{})
	}
	declinedWith := func(method string) string {
		t.Helper()
		_, err := p.client.V1PaymentIntents.Create(t.Context(), purchase(method, 1000))
		e := wantError(t, err, 402, stripe.ErrorTypeCard, "")
		check(method+" error", "error", e.LastResponse.RawJSON, struct {
			Error *stripe.Error `json:"error"`
		}{})
		return e.PaymentIntent.ID
	}

	shape("new", p.create(t, &stripe.PaymentIntentCreateParams{Amount: stripe.Int64(900), Currency: stripe.String("gbp")}).ID)
	authorized := p.create(t, purchase("pm_card_visa", 1000)).ID
	shape("authorized", authorized)
	p.capture(t, authorized, 0)
	shape("captured", authorized)
	refund, err := p.client.V1Refunds.Create(t.Context(), &stripe.RefundCreateParams{PaymentIntent: &authorized})
	if err != nil {
		t.Fatal(err)
	}
	check("refund", "refund", refund.LastResponse.RawJSON, stripe.Refund{})
	shape("refunded", authorized)
	shape("declined", declinedWith("pm_card_visa_chargeDeclined"))
	shape("expired", declinedWith("pm_card_chargeDeclinedExpiredCard"))
	redirect := purchase("pm_card_threeDSecure2Required", 1000)
	redirect.ReturnURL = stripe.String("https://shop.example/")
	waiting := p.create(t, redirect).ID
	shape("requires action", waiting)
	if err := server.Authenticate(waiting, true); err != nil {
		t.Fatal(err)
	}
	shape("authenticated", waiting)
	failed := p.create(t, purchase("pm_card_threeDSecure2Required", 1000)).ID
	if err := server.Authenticate(failed, false); err != nil {
		t.Fatal(err)
	}
	shape("failed authentication", failed)
	voided := p.create(t, purchase("pm_card_amex", 1000)).ID
	if _, err := p.client.V1PaymentIntents.Cancel(t.Context(), voided, nil); err != nil {
		t.Fatal(err)
	}
	shape("canceled", voided)
	bank := purchase("pm_usBankAccount_processing", 1000)
	bank.PaymentMethodTypes, bank.CaptureMethod = []*string{stripe.String("us_bank_account")}, nil
	shape("processing", p.create(t, bank).ID)

	events := 0
	for e, err := range p.client.V1Events.List(t.Context(), nil).All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		events++
		one, err := p.client.V1Events.Retrieve(t.Context(), e.ID, nil)
		if err != nil {
			t.Fatal(err)
		}
		check(string(e.Type), "event", one.LastResponse.RawJSON, stripe.Event{})
	}
	if events < 8 {
		t.Errorf("%d events checked, want 8 or more", events)
	}
}

// wireCheck collects where a JSON value differs from what is expected.
type wireCheck struct {
	raw      map[string]json.RawMessage
	decoded  map[string]*spec.Schema // of raw, as far as they were needed: all of it takes long
	problems []string
}

func (w *wireCheck) reportf(format string, args ...any) {
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

func (w *wireCheck) schema(path string, s *spec.Schema, value any) {
	if s.Ref != "" {
		name := strings.TrimPrefix(s.Ref, "#/components/schemas/")
		target, err := w.named(name)
		if err != nil {
			w.reportf("%s: schema %s: %v", path, name, err)
			return
		}
		if value == nil && s.Nullable {
			return
		}
		w.schema(path, target, value)
		return
	}
	if value == nil {
		if !s.Nullable {
			w.reportf("%s: null is not allowed", path)
		}
		return
	}
	if len(s.AnyOf) > 0 {
		w.anyOf(path, s, value)
		return
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, value) {
		w.reportf("%s: %v is none of %v", path, value, s.Enum)
	}
	switch v := value.(type) {
	case map[string]any:
		w.object(path, s, v)
	case []any:
		if s.Type != "array" {
			w.reportf("%s: array, want %s", path, s.Type)
			return
		}
		for i, item := range v {
			w.schema(fmt.Sprintf("%s[%d]", path, i), s.Items, item)
		}
	case string:
		w.kind(path, s, "string")
	case bool:
		w.kind(path, s, "boolean")
	case float64:
		if s.Type != "number" {
			w.kind(path, s, "integer")
		}
	}
}

func (w *wireCheck) named(name string) (*spec.Schema, error) {
	if known, ok := w.decoded[name]; ok {
		return known, nil
	}
	s := &spec.Schema{}
	if err := json.Unmarshal(w.raw[name], s); err != nil {
		return nil, err
	}
	w.decoded[name] = s
	return s, nil
}

func (w *wireCheck) kind(path string, s *spec.Schema, got string) {
	if s.Type != got {
		w.reportf("%s: %s, want %s", path, got, s.Type)
	}
}

func (w *wireCheck) object(path string, s *spec.Schema, value map[string]any) {
	if s.Type != "object" {
		w.reportf("%s: object, want %s", path, s.Type)
		return
	}
	for _, name := range s.Required {
		if _, ok := value[name]; !ok {
			w.reportf("%s.%s: missing", path, name)
		}
	}
	if s.AdditionalProperties != nil || len(s.Properties) == 0 {
		return // a dictionary
	}
	for name, field := range value {
		if known, ok := s.Properties[name]; ok {
			w.schema(path+"."+name, known, field)
		} else {
			w.reportf("%s.%s: unknown", path, name)
		}
	}
}

// anyOf takes the alternative with the fewest problems.
func (w *wireCheck) anyOf(path string, s *spec.Schema, value any) {
	var best []string
	for i, alternative := range s.AnyOf {
		try := wireCheck{raw: w.raw, decoded: w.decoded}
		try.schema(path, alternative, value)
		if i == 0 || len(try.problems) < len(best) {
			best = try.problems
		}
	}
	w.problems = append(w.problems, best...)
}

// decodes reports fields that the Go type has no place for.
func (w *wireCheck) decodes(path string, t reflect.Type, value any) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := value.(type) {
	case map[string]any:
		if t.Kind() != reflect.Struct {
			return // a map, or raw JSON
		}
		for name, field := range v {
			if goField, ok := fieldByTag(t, name); ok {
				w.decodes(path+"."+name, goField, field)
			} else if name != "object" { // lists decode without it
				w.reportf("%s.%s: stripe-go doesn't decode it", path, name)
			}
		}
	case []any:
		if t.Kind() == reflect.Slice {
			for i, item := range v {
				w.decodes(fmt.Sprintf("%s[%d]", path, i), t.Elem(), item)
			}
		}
	}
}

func fieldByTag(t reflect.Type, name string) (reflect.Type, bool) {
	for _, f := range reflect.VisibleFields(t) {
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag == name {
			return f.Type, true
		}
	}
	return nil, false
}
