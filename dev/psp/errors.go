package psp

import (
	"fmt"
	"net/http"
)

// The types of error that Stripe tells apart.
const (
	typeAPI            = "api_error"
	typeCard           = "card_error"
	typeIdempotency    = "idempotency_error"
	typeInvalidRequest = "invalid_request_error"
)

// apiError is Stripe's error object with its HTTP status. It is also the
// last_payment_error of an intent.
type apiError struct {
	Status int `json:"-"`
	// Remember says that processing had started: the idempotency key keeps this answer.
	Remember bool `json:"-"`

	Charge        string             `json:"charge,omitempty"`
	Code          string             `json:"code,omitempty"`
	DeclineCode   string             `json:"decline_code,omitempty"`
	DocURL        string             `json:"doc_url,omitempty"`
	Message       string             `json:"message"`
	Param         string             `json:"param,omitempty"`
	PaymentIntent *intentWire        `json:"payment_intent,omitempty"`
	PaymentMethod *paymentMethodWire `json:"payment_method,omitempty"`
	Type          string             `json:"type"`
}

func (e *apiError) answer(*call) answer {
	return newAnswer(e.Status, struct {
		Error *apiError `json:"error"`
	}{e})
}

// invalidParam refuses a request before processing: its key is not used up.
func invalidParam(param, code, message string) *apiError {
	return &apiError{
		Status: http.StatusBadRequest, Type: typeInvalidRequest, Param: param, Code: code,
		DocURL: docURL(code), Message: message,
	}
}

func missingParam(param string) *apiError {
	return invalidParam(param, "parameter_missing", "Missing required param: "+param+".")
}

// missingResource answers an id in the path or a parameter that names nothing.
func missingResource(status int, param, noun, id string) *apiError {
	return &apiError{
		Status: status, Type: typeInvalidRequest, Code: "resource_missing", Param: param,
		DocURL: docURL("resource_missing"), Message: fmt.Sprintf("No such %s: '%s'", noun, id),
	}
}

func docURL(code string) string {
	if code == "" {
		return ""
	}
	return "https://stripe.com/docs/error-codes/" + code
}
