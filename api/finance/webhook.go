package finance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/google/uuid"
	"github.com/stripe/stripe-go/v85"
	"github.com/stripe/stripe-go/v85/webhook"
	"go.temporal.io/sdk/client"

	"bookworm/internal/fault"
	"bookworm/internal/finance"
	"bookworm/internal/personal"
	"bookworm/workflows/payment"
)

// WebhookPath is where the provider posts its events.
const WebhookPath = "/webhooks/stripe"

const maxWebhook = 256 << 10 // bytes; Stripe's own events stay far below

// Webhook takes Stripe's events. It answers 2xx only once the event is stored
// and a process that waits for it knows; anything else makes Stripe send the
// event again. An event says only that there is news: the process asks the
// provider what is true, so forged, late or repeated events change nothing.
type Webhook struct {
	Store    *finance.Store
	Temporal client.Client
	Secret   personal.Text // signs the events
	Logger   *slog.Logger
}

// ServeHTTP answers 204 for an event that was taken, 400 for one that cannot be
// read or is not signed, 500 for one that should be sent again.
func (h *Webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxWebhook))
	if err != nil {
		http.Error(w, "the event cannot be read", http.StatusBadRequest)
		return
	}
	event, err := webhook.ConstructEventWithOptions(body, r.Header.Get("Stripe-Signature"), string(h.Secret),
		// The account's version is pinned at the provider; we read only ids.
		webhook.ConstructEventOptions{IgnoreAPIVersionMismatch: true})
	if err != nil {
		h.Logger.WarnContext(r.Context(), "refused a payment event", "error", err)
		http.Error(w, "the event is not signed by the provider", http.StatusBadRequest)
		return
	}
	if err := h.take(r.Context(), event); err != nil {
		h.Logger.ErrorContext(r.Context(), "payment event was not taken", "event", event.ID, "type", event.Type, "error", err)
		http.Error(w, "the event could not be taken, send it again", http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *Webhook) take(ctx context.Context, event stripe.Event) error {
	orderID, err := orderOf(event)
	if err != nil {
		return err
	}
	if _, err := h.Store.KeepEvent(ctx, finance.Event{ID: event.ID, Type: string(event.Type), OrderID: orderID}); err != nil {
		return err
	}
	if orderID == "" {
		return nil
	}
	// Most events tell what the process has just done itself. Only one that waits for
	// the shopper wants to know; should it begin to wait in this very moment, it asks
	// the provider by itself within a minute.
	switch p, err := h.Store.Get(ctx, orderID); {
	case fault.Is(err, fault.ReasonPaymentNotFound):
		return nil
	case err != nil:
		return err
	case p.Status != finance.RequiresAction:
		return nil
	}
	// Also for an event that was there already: storing and signalling are two
	// steps, and the first try may have died between them.
	return payment.TellProviderEvent(ctx, h.Temporal, orderID)
}

// orderOf returns the order that an event is about; empty when it is about none
// of ours.
func orderOf(event stripe.Event) (string, error) {
	var object struct {
		Metadata map[string]string `json:"metadata"`
	}
	if event.Data == nil {
		return "", errors.New("event without data")
	}
	if err := json.Unmarshal(event.Data.Raw, &object); err != nil {
		return "", fmt.Errorf("decode event: %w", err)
	}
	id, err := uuid.Parse(object.Metadata["order_id"])
	if err != nil {
		return "", nil //nolint:nilerr // not one of our orders: nothing to do, and nothing wrong
	}
	return id.String(), nil
}
