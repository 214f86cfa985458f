package finance_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stripe/stripe-go/v85/webhook"

	"bookworm/api/finance"
)

// FuzzWebhook: whatever is sent without the provider's signature is refused before
// anything is stored; there is no store here.
func FuzzWebhook(f *testing.F) {
	const event = `{"id":"evt_1","object":"event","type":"payment_intent.succeeded"}`
	forged := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: []byte(event), Secret: "whsec_other"})
	f.Add(forged.Header, event)
	f.Add("", "")
	f.Add("t=1,v1=00", "{")
	f.Add("t=9223372036854775808,v1=zz,v0=,,=", "[]")
	f.Add(strings.Repeat("v1=00,", 1000), `null`)
	handler := &finance.Webhook{Secret: "whsec_right", Logger: slog.New(slog.DiscardHandler)}
	f.Fuzz(func(t *testing.T, signature, body string) {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, finance.WebhookPath, strings.NewReader(body))
		request.Header.Set("Stripe-Signature", signature)
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		if recorder.Code != http.StatusBadRequest || strings.Contains(recorder.Body.String(), "whsec") {
			t.Errorf("%q: got %d %s", signature, recorder.Code, recorder.Body)
		}
	})
}
