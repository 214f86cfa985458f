package psp

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/stripe/stripe-go/v85"
	stripewebhook "github.com/stripe/stripe-go/v85/webhook"
	"golang.org/x/sync/errgroup"
)

const (
	firstRetry    = 100 * time.Millisecond
	lastRetry     = 10 * time.Second
	deliveryLimit = 10 * time.Second // one attempt
	deliveryLanes = 8                // attempts at the same time
)

// event is Stripe's event object: on the wire and in the journal.
type event struct {
	ID              string       `json:"id"`
	Object          string       `json:"object"`
	APIVersion      string       `json:"api_version"`
	Created         int64        `json:"created"`
	Data            eventData    `json:"data"`
	Livemode        bool         `json:"livemode"`
	PendingWebhooks int          `json:"pending_webhooks"`
	Request         eventRequest `json:"request"`
	Type            string       `json:"type"`
}

type eventData struct {
	Object json.RawMessage `json:"object"`
}

type eventRequest struct {
	ID             *string `json:"id"`
	IdempotencyKey *string `json:"idempotency_key"`
}

func (s *Server) intentEvent(kind string, in *intent, c *call) event {
	return s.newEvent(kind, in.wire(s, nil, ""), c)
}

func (s *Server) newEvent(kind string, object any, c *call) event {
	return event{
		ID: newID("evt_3", 23), Object: "event", APIVersion: stripe.APIVersion, Created: time.Now().Unix(),
		Data: eventData{Object: newAnswer(http.StatusOK, object).Body}, PendingWebhooks: 1,
		Request: eventRequest{ID: orNull(c.requestID), IdempotencyKey: orNull(c.key)}, Type: kind,
	}
}

// webhook is the endpoint that takes the events, and when to try each again.
type webhook struct {
	mu     sync.Mutex
	url    string
	secret string
	due    map[string]attempt // by event id

	wake   chan struct{} // holds at most one
	client *http.Client
}

type attempt struct {
	running bool
	after   time.Time
	backoff time.Duration
}

func (wh *webhook) init(url, secret string) {
	wh.url, wh.secret = url, secret
	wh.due = map[string]attempt{}
	wh.wake = make(chan struct{}, 1)
	wh.client = &http.Client{Timeout: deliveryLimit, Transport: &http.Transport{MaxIdleConnsPerHost: deliveryLanes}}
}

func (wh *webhook) wakeUp() {
	select {
	case wh.wake <- struct{}{}:
	default:
	}
}

// SetWebhook names the endpoint that takes the events from now on and the secret
// that signs them. Events not delivered yet go to it at once. An empty url holds
// all events back.
func (s *Server) SetWebhook(url, secret string) {
	s.webhook.mu.Lock()
	s.webhook.url, s.webhook.secret = url, secret
	for id, a := range s.webhook.due {
		a.after, a.backoff = time.Time{}, 0
		s.webhook.due[id] = a
	}
	s.webhook.mu.Unlock()
	s.webhook.wakeUp()
}

// Resend delivers an event once more, as a provider may at any time. It fails
// when there is no such event.
func (s *Server) Resend(eventID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.state.events, func(e event) bool { return e.ID == eventID })
	if i < 0 {
		return fmt.Errorf("psp: no event %q", eventID)
	}
	if !slices.ContainsFunc(s.state.pending, func(e event) bool { return e.ID == eventID }) {
		s.state.pending = append(s.state.pending, s.state.events[i])
	}
	s.webhook.wakeUp()
	return nil
}

// deliverEvents posts events until ctx ends: each at least once, in no certain
// order, again and again until the endpoint answers 2xx.
func (s *Server) deliverEvents(ctx context.Context) {
	var lanes errgroup.Group
	lanes.SetLimit(deliveryLanes)
	defer lanes.Wait() //nolint:errcheck // the lanes return none
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.webhook.wake:
		case <-timer.C:
		}
		claimed, url, secret, next := s.claimEvents()
		for _, e := range claimed {
			lanes.Go(func() error {
				s.deliver(ctx, e, url, secret)
				return nil
			})
		}
		timer.Reset(next)
	}
}

// claimEvents reserves the events that are due for one attempt each, and says
// when to look again. mu comes before webhook.mu, everywhere.
func (s *Server) claimEvents() (claimed []event, url, secret string, next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wh := &s.webhook
	wh.mu.Lock()
	defer wh.mu.Unlock()
	next = lastRetry
	if wh.url == "" {
		return nil, "", "", next
	}
	for _, e := range s.state.pending {
		a := wh.due[e.ID]
		if a.running {
			continue
		}
		if wait := time.Until(a.after); wait > 0 {
			next = min(next, wait)
			continue
		}
		a.running = true
		wh.due[e.ID] = a
		claimed = append(claimed, e)
	}
	return claimed, wh.url, wh.secret, next
}

func (s *Server) deliver(ctx context.Context, e event, url, secret string) {
	err := s.post(ctx, e, url, secret)
	if err == nil {
		s.mu.Lock()
		err = s.commit(change{Delivered: e.ID})
		s.mu.Unlock()
	}
	s.webhook.mu.Lock()
	defer s.webhook.mu.Unlock()
	if err == nil {
		delete(s.webhook.due, e.ID)
		return
	}
	a := s.webhook.due[e.ID]
	a.running = false
	a.backoff = min(max(2*a.backoff, firstRetry), lastRetry)
	a.after = time.Now().Add(a.backoff)
	s.webhook.due[e.ID] = a
	s.webhook.wakeUp() // so that the loop sees the new time
	if ctx.Err() == nil {
		s.log.Warn("webhook not delivered", "event", e.ID, "type", e.Type, "retry_in", a.backoff, "error", err)
	}
}

func (s *Server) post(ctx context.Context, e event, url, secret string) error {
	payload, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(payload))
	if err != nil {
		return fmt.Errorf("prepare delivery: %w", err)
	}
	now := time.Now()
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
	req.Header.Set("Stripe-Signature", "t="+strconv.FormatInt(now.Unix(), 10)+
		",v1="+hex.EncodeToString(stripewebhook.ComputeSignature(now, payload, secret)))
	res, err := s.webhook.client.Do(req)
	if err != nil {
		return fmt.Errorf("post event: %w", err)
	}
	if err := res.Body.Close(); err != nil {
		return fmt.Errorf("post event: %w", err)
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("post event: endpoint answered %s", res.Status)
	}
	return nil
}

func (s *Server) listEvents(c *call) (any, *apiError) {
	if err := c.form.only("type", "types", "limit", "starting_after", "ending_before", "created", "delivery_success"); err != nil {
		return nil, err
	}
	p, err := c.form.page()
	if err != nil {
		return nil, err
	}
	kinds := c.form.list("types")
	if kind := c.form.get("type"); kind != "" {
		kinds = append(kinds, kind)
	}
	events := slices.DeleteFunc(slices.Clone(s.state.events), func(e event) bool {
		return len(kinds) > 0 && !slices.Contains(kinds, e.Type)
	})
	return orError(paged(events, p, "/v1/events",
		func(e event) string { return e.ID },
		func(e event) int64 { return e.Created },
		func(e event) any { return s.withPending(e) }))
}

func (s *Server) retrieveEvent(c *call) (any, *apiError) {
	for _, e := range s.state.events {
		if e.ID == c.id {
			return s.withPending(e), nil
		}
	}
	return nil, missingResource(http.StatusNotFound, "id", "event", c.id)
}

// withPending is the event with the number of deliveries that it waits for now.
func (s *Server) withPending(e event) event {
	e.PendingWebhooks = 0
	if slices.ContainsFunc(s.state.pending, func(p event) bool { return p.ID == e.ID }) {
		e.PendingWebhooks = 1
	}
	return e
}

func (s *Server) resendEvent(w http.ResponseWriter, r *http.Request) {
	if err := s.Resend(r.PathValue("id")); err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}
