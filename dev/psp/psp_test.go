package psp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stripe/stripe-go/v85"
	"github.com/stripe/stripe-go/v85/webhook"

	"bookworm/dev/psp"
)

const (
	testKey    = "sk_test_bookworm"
	testSecret = "whsec_bookworm"
)

func start(t *testing.T, opts psp.Options) *psp.Server {
	t.Helper()
	if opts.DataDir == "" {
		opts.DataDir = t.TempDir()
	}
	opts.SecretKey = testKey
	opts.Logger = slog.New(slog.DiscardHandler)
	server, err := psp.Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(server.Stop)
	return server
}

func clientOf(server *psp.Server) provider {
	return provider{client: newClient(server.URL(), testKey)}
}

func inject(t *testing.T, server *psp.Server, f psp.Fault) {
	t.Helper()
	if err := server.Inject(f); err != nil {
		t.Fatalf("inject: %v", err)
	}
}

// effects counts the effects of a kind on an order.
func effects(server *psp.Server, kind psp.EffectKind, orderID string) int {
	n := 0
	for _, e := range server.Effects() {
		if e.Kind == kind && e.OrderID == orderID {
			n++
		}
	}
	return n
}

func captureWithKey(ctx context.Context, p provider, id, key string) (*stripe.PaymentIntent, error) {
	params := &stripe.PaymentIntentCaptureParams{}
	params.SetIdempotencyKey(key)
	return p.client.V1PaymentIntents.Capture(ctx, id, params)
}

func TestLostResponseIsReplayed(t *testing.T) {
	t.Parallel()
	server := start(t, psp.Options{})
	p := clientOf(server)
	params := purchase("pm_card_visa", 1999)
	order := params.Metadata["order_id"]
	in := p.create(t, params)
	inject(t, server, psp.Fault{Operation: "capture", Kind: psp.TimeoutAfterEffect, Count: 2, OrderID: order})

	for range 2 {
		_, err := captureWithKey(t.Context(), p, in.ID, order+"/capture")
		var e *stripe.Error
		if err == nil || errors.As(err, &e) {
			t.Fatalf("error = %v, want a broken connection", err)
		}
	}
	equal(t, "captures", effects(server, psp.EffectCapture, order), 1)
	got, err := captureWithKey(t.Context(), p, in.ID, order+"/capture")
	if err != nil {
		t.Fatalf("capture: %v", err)
	}
	equal(t, "replayed", got.LastResponse.Header.Get("Idempotent-Replayed"), "true")
	equal(t, "status", got.Status, stripe.PaymentIntentStatusSucceeded)
	equal(t, "captures", effects(server, psp.EffectCapture, order), 1)
}

func TestFaultsBeforeTheEffect(t *testing.T) {
	t.Parallel()
	server := start(t, psp.Options{})
	p := clientOf(server)
	for kind, status := range map[psp.FaultKind]int{psp.TimeoutBeforeEffect: 0, psp.Error500: 500, psp.RateLimit429: 429} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			params := purchase("pm_card_visa", 1999)
			order := params.Metadata["order_id"]
			params.SetIdempotencyKey(order)
			inject(t, server, psp.Fault{Operation: "authorize", Kind: kind, OrderID: order})
			_, err := p.client.V1PaymentIntents.Create(t.Context(), params)
			if e, ok := errors.AsType[*stripe.Error](err); ok {
				equal(t, "status", e.HTTPStatusCode, status)
			} else if err == nil || status != 0 {
				t.Fatalf("error = %v, want status %d", err, status)
			}
			equal(t, "effects", effects(server, psp.EffectAuthorize, order), 0)
			equal(t, "status", p.create(t, params).Status, stripe.PaymentIntentStatusRequiresCapture)
		})
	}
}

func TestFaultsOverHTTP(t *testing.T) {
	t.Parallel()
	server := start(t, psp.Options{})
	p := clientOf(server)
	send := func(method, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL()+"/_dev/faults", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		return do(t, http.DefaultClient, req)
	}
	for _, bad := range []string{`{`, `{"operation":"nap","kind":"slow"}`, `{"operation":"capture","kind":"flood"}`, `{"operation":"capture","kind":"slow","colour":1}`} {
		status, _ := send(http.MethodPost, bad)
		equal(t, "status of "+bad, status, http.StatusBadRequest)
	}
	status, _ := send(http.MethodPost, `{"operation":"create","kind":"error_500","count":3,"delay_ms":1}`)
	equal(t, "status", status, http.StatusNoContent)
	_, err := p.client.V1PaymentIntents.Create(t.Context(), purchase("pm_card_visa", 1000))
	wantError(t, err, http.StatusInternalServerError, stripe.ErrorTypeAPI, "")
	_, waiting := send(http.MethodGet, "")
	equal(t, "waiting", strings.TrimSpace(waiting), `[{"operation":"create","kind":"error_500","count":2,"delay_ms":1}]`)
	status, _ = send(http.MethodDelete, "")
	equal(t, "status", status, http.StatusNoContent)
	p.create(t, purchase("pm_card_visa", 1000))
}

func TestConcurrentUseOfAKey(t *testing.T) {
	t.Parallel()
	server := start(t, psp.Options{})
	p := clientOf(server)
	params := purchase("pm_card_visa", 1999)
	order := params.Metadata["order_id"]
	params.SetIdempotencyKey(order)
	inject(t, server, psp.Fault{Operation: "create", Kind: psp.Slow, Delay: 300 * time.Millisecond})
	var done, refused atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			same := *params
			_, err := p.client.V1PaymentIntents.Create(t.Context(), &same)
			var e *stripe.Error
			switch {
			case err == nil:
				done.Add(1)
			case errors.As(err, &e) && e.HTTPStatusCode == http.StatusConflict && e.Code == stripe.ErrorCodeIdempotencyKeyInUse:
				refused.Add(1)
			default:
				t.Errorf("create: %v", err)
			}
		})
	}
	group.Wait()
	equal(t, "answers", done.Load()+refused.Load(), 8)
	if done.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d done and %d refused, want some of both", done.Load(), refused.Load())
	}
	equal(t, "authorizations", effects(server, psp.EffectAuthorize, order), 1)
}

// TestRacingRefunds holds M2 at the provider: refunds never exceed what was captured.
func TestRacingRefunds(t *testing.T) {
	t.Parallel()
	server := start(t, psp.Options{})
	p := clientOf(server)
	params := purchase("pm_card_visa", 1000)
	in := p.capture(t, p.create(t, params).ID, 0)
	var accepted atomic.Int64
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			if _, err := p.client.V1Refunds.Create(t.Context(), &stripe.RefundCreateParams{PaymentIntent: &in.ID, Amount: stripe.Int64(300)}); err == nil {
				accepted.Add(300)
			}
		})
	}
	group.Wait()
	equal(t, "refunded", accepted.Load(), 900)
	equal(t, "refunds", effects(server, psp.EffectRefund, params.Metadata["order_id"]), 3)
}

// TestRacingCaptureAndCancel has one winner.
func TestRacingCaptureAndCancel(t *testing.T) {
	t.Parallel()
	server := start(t, psp.Options{})
	p := clientOf(server)
	for range 20 {
		params := purchase("pm_card_visa", 1000)
		in := p.create(t, params)
		var group sync.WaitGroup
		var won atomic.Int64
		for _, step := range []func() error{
			func() error { _, err := p.client.V1PaymentIntents.Capture(t.Context(), in.ID, nil); return err },
			func() error { _, err := p.client.V1PaymentIntents.Cancel(t.Context(), in.ID, nil); return err },
		} {
			group.Go(func() {
				if step() == nil {
					won.Add(1)
				}
			})
		}
		group.Wait()
		order := params.Metadata["order_id"]
		equal(t, "winners", won.Load(), 1)
		equal(t, "effects", effects(server, psp.EffectCapture, order)+effects(server, psp.EffectVoid, order), 1)
	}
}

// endpoint is a webhook receiver that refuses its first deliveries.
type endpoint struct {
	*httptest.Server
	mu      sync.Mutex
	events  []stripe.Event
	refuse  int
	invalid []error
}

func newEndpoint(t *testing.T, refuse int) *endpoint {
	t.Helper()
	e := &endpoint{refuse: refuse}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		payload, err := io.ReadAll(r.Body)
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.refuse > 0 {
			e.refuse--
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var got stripe.Event
		if err == nil {
			got, err = webhook.ConstructEvent(payload, r.Header.Get("Stripe-Signature"), testSecret)
		}
		if err != nil {
			e.invalid = append(e.invalid, err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		e.events = append(e.events, got)
	}))
	t.Cleanup(e.Close)
	return e
}

// kinds are the types of the events about an intent, as a set.
func (e *endpoint) kinds(intentID string) map[stripe.EventType]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := map[stripe.EventType]int{}
	for _, got := range e.events {
		if got.GetObjectValue("id") == intentID || got.GetObjectValue("payment_intent") == intentID {
			seen[got.Type]++
		}
	}
	return seen
}

func TestWebhooks(t *testing.T) {
	t.Parallel()
	sink := newEndpoint(t, 3)
	server := start(t, psp.Options{WebhookURL: sink.URL, WebhookSecret: testSecret})
	p := clientOf(server)
	ctx := t.Context()

	paid := p.capture(t, p.create(t, purchase("pm_card_visa", 1000)).ID, 0)
	if _, err := p.client.V1Refunds.Create(ctx, &stripe.RefundCreateParams{PaymentIntent: &paid.ID}); err != nil {
		t.Fatal(err)
	}
	_, err := p.client.V1PaymentIntents.Create(ctx, purchase("pm_card_visa_chargeDeclined", 1000))
	declined := wantError(t, err, http.StatusPaymentRequired, stripe.ErrorTypeCard, "").PaymentIntent
	waiting := p.create(t, purchase("pm_card_threeDSecure2Required", 1000))
	if _, err := p.client.V1PaymentIntents.Cancel(ctx, waiting.ID, nil); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string][]stripe.EventType{
		paid.ID:     {"payment_intent.amount_capturable_updated", "payment_intent.succeeded", "charge.refunded"},
		declined.ID: {"payment_intent.payment_failed"},
		waiting.ID:  {"payment_intent.requires_action", "payment_intent.canceled"},
	} {
		eventually(t, 5*time.Second, "events are delivered", func() bool { return len(sink.kinds(id)) == len(want) })
		for _, kind := range want {
			equal(t, "deliveries of "+string(kind), sink.kinds(id)[kind], 1)
		}
	}
	sink.mu.Lock()
	first := sink.events[0]
	if len(sink.invalid) > 0 {
		t.Errorf("invalid deliveries: %v", sink.invalid)
	}
	sink.mu.Unlock()
	if err := server.Resend(first.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the event comes again", func() bool {
		sink.mu.Lock()
		defer sink.mu.Unlock()
		return sink.events[len(sink.events)-1].ID == first.ID && len(sink.events) > 1
	})
	if server.Resend("evt_nope") == nil {
		t.Error("an unknown event was resent")
	}
}

func TestDeliveriesSurviveARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, psp.Options{DataDir: dir, WebhookURL: "http://127.0.0.1:1/closed", WebhookSecret: testSecret})
	in := clientOf(first).create(t, purchase("pm_card_visa", 1000))
	first.Stop()
	first.Stop()

	sink := newEndpoint(t, 0)
	second := start(t, psp.Options{DataDir: dir})
	second.SetWebhook(sink.URL, testSecret)
	eventually(t, 5*time.Second, "the old event is delivered", func() bool {
		return sink.kinds(in.ID)["payment_intent.amount_capturable_updated"] == 1
	})
	eventually(t, 5*time.Second, "the delivery is recorded", func() bool {
		e, err := clientOf(second).client.V1Events.Retrieve(t.Context(), sink.events[0].ID, nil)
		return err == nil && e.PendingWebhooks == 0
	})
	second.Stop()
	third := start(t, psp.Options{DataDir: dir, WebhookURL: sink.URL, WebhookSecret: testSecret})
	probe := clientOf(third).create(t, purchase("pm_card_visa", 1000))
	eventually(t, 5*time.Second, "the new event is delivered", func() bool { return len(sink.kinds(probe.ID)) == 1 })
	equal(t, "deliveries of the old event", sink.kinds(in.ID)["payment_intent.amount_capturable_updated"], 1)
}

// TestKilled runs the stand-in in a process of its own, kills it and starts it
// again on the same data.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	url, kill := startProcess(t, dir)
	p := provider{client: newClient(url, testKey)}
	params := purchase("pm_card_visa", 1999)
	order := params.Metadata["order_id"]
	params.SetIdempotencyKey(order + "/authorize")
	in := p.create(t, params)
	kill()

	url, _ = startProcess(t, dir)
	p = provider{client: newClient(url, testKey)}
	again := p.create(t, params)
	equal(t, "intent", again.ID, in.ID)
	equal(t, "replayed", again.LastResponse.Header.Get("Idempotent-Replayed"), "true")
	equal(t, "status", p.capture(t, in.ID, 0).Status, stripe.PaymentIntentStatusSucceeded)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/_dev/log", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, log := do(t, http.DefaultClient, req)
	var kinds []string
	for line := range strings.Lines(log) {
		var e psp.Effect
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		equal(t, "order", e.OrderID, order)
		kinds = append(kinds, string(e.Kind))
	}
	equal(t, "log", strings.Join(kinds, " "), "authorize capture")
}

// TestMain lets the test binary be the process that TestKilled kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("PSP_TEST_DATA"); dir != "" {
		server, err := psp.Start(context.Background(), psp.Options{DataDir: dir, SecretKey: testKey})
		if err != nil {
			panic(err)
		}
		if _, err := os.Stdout.WriteString(server.URL() + "\n"); err != nil {
			panic(err)
		}
		select {}
	}
	os.Exit(m.Run())
}

func startProcess(t *testing.T, dir string) (string, func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "PSP_TEST_DATA="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	kill := func() {
		once.Do(func() {
			if err := cmd.Process.Kill(); err != nil {
				t.Errorf("kill: %v", err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("the process ended by itself")
			}
		})
	}
	t.Cleanup(kill)
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("read address: %v", err)
	}
	return strings.TrimSpace(url), kill
}

func TestTornJournalLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, psp.Options{DataDir: dir})
	in := clientOf(first).create(t, purchase("pm_card_visa", 1000))
	first.Stop()
	path := dir + "/journal.jsonl"
	whole, err := os.ReadFile(path) //nolint:gosec // the test's own file
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(bytes.Clone(whole), `{"intent":{"id":"pi_torn`...), 0o600); err != nil {
		t.Fatal(err)
	}
	second := start(t, psp.Options{DataDir: dir})
	p := clientOf(second)
	equal(t, "status", p.capture(t, in.ID, 0).Status, stripe.PaymentIntentStatusSucceeded)
	second.Stop()
	third := start(t, psp.Options{DataDir: dir})
	equal(t, "status", clientOf(third).retrieve(t, in.ID).Status, stripe.PaymentIntentStatusSucceeded)
}

func TestChallengePage(t *testing.T) {
	t.Parallel()
	server := start(t, psp.Options{})
	p := clientOf(server)
	for decision, want := range map[string]stripe.PaymentIntentStatus{
		"approve": stripe.PaymentIntentStatusRequiresCapture, "decline": stripe.PaymentIntentStatusRequiresPaymentMethod,
	} {
		t.Run(decision, func(t *testing.T) {
			t.Parallel()
			params := purchase("pm_card_threeDSecure2Required", 4200)
			params.ReturnURL = stripe.String("http://shop.example/return?order=7")
			in := p.create(t, params)
			back := answerChallenge(t, in.NextAction.RedirectToURL.URL, decision)
			equal(t, "order", back.Query().Get("order"), "7")
			equal(t, "intent", back.Query().Get("payment_intent"), in.ID)
			in = p.retrieve(t, in.ID, "latest_charge")
			equal(t, "status", in.Status, want)
			if decision == "decline" {
				equal(t, "redirect status", back.Query().Get("redirect_status"), "failed")
				equal(t, "last error", in.LastPaymentError.Code, stripe.ErrorCodePaymentIntentAuthenticationFailure)
				return
			}
			equal(t, "redirect status", back.Query().Get("redirect_status"), "succeeded")
			equal(t, "result", in.LatestCharge.PaymentMethodDetails.Card.ThreeDSecure.Result, "authenticated")
		})
	}
	t.Run("wrong secret", func(t *testing.T) {
		t.Parallel()
		in := p.create(t, purchase("pm_card_threeDSecure2Required", 4200))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL()+"/3ds/"+in.ID+"?client_secret=x", nil)
		if err != nil {
			t.Fatal(err)
		}
		status, _ := do(t, http.DefaultClient, req)
		equal(t, "status", status, http.StatusNotFound)
	})
}

var secretField = regexp.MustCompile(`name="client_secret" value="([^"]+)"`)

// answerChallenge presses a button on the bank's page and returns where it leads.
func answerChallenge(t *testing.T, page, decision string) *url.URL {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, page, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, html := do(t, browser, req)
	field := secretField.FindStringSubmatch(html)
	if field == nil || !strings.Contains(html, "$42.00") {
		t.Fatalf("page shows no question: %s", html)
	}
	form := url.Values{"client_secret": {field[1]}, "decision": {decision}}
	req, err = http.NewRequestWithContext(t.Context(), http.MethodPost, page, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := browser.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // nothing is read from it
	equal(t, "status", res.StatusCode, http.StatusSeeOther)
	back, err := res.Location()
	if err != nil {
		t.Fatal(err)
	}
	return back
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	server := start(t, psp.Options{})
	p := clientOf(server)
	in := p.create(t, purchase("pm_card_authenticationRequired", 1000))
	equal(t, "next action", in.NextAction.Type, stripe.PaymentIntentNextActionTypeUseStripeSDK)
	if err := server.Authenticate(in.ID, true); err != nil {
		t.Fatal(err)
	}
	if server.Authenticate(in.ID, true) == nil {
		t.Error("approved twice")
	}
	equal(t, "status", p.capture(t, in.ID, 0).Status, stripe.PaymentIntentStatusSucceeded)
}

func TestProcessing(t *testing.T) {
	t.Parallel()
	p := clientOf(start(t, psp.Options{}))
	params := purchase("pm_usBankAccount_processing", 1000)
	params.PaymentMethodTypes, params.CaptureMethod = []*string{stripe.String("us_bank_account")}, nil
	in := p.create(t, params)
	equal(t, "status", in.Status, stripe.PaymentIntentStatusProcessing)
	_, err := p.client.V1PaymentIntents.Capture(t.Context(), in.ID, nil)
	wantError(t, err, http.StatusBadRequest, stripe.ErrorTypeInvalidRequest, stripe.ErrorCodePaymentIntentUnexpectedState)
	in, err = p.client.V1PaymentIntents.Cancel(t.Context(), in.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "status", in.Status, stripe.PaymentIntentStatusCanceled)
}

func TestKeys(t *testing.T) {
	t.Parallel()
	server := start(t, psp.Options{})
	for header, want := range map[string]int{
		"": http.StatusUnauthorized, "Bearer pk_test_x": http.StatusUnauthorized, "Bearer sk_test_other": http.StatusUnauthorized,
		"Bearer " + testKey: http.StatusOK,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL()+"/v1/payment_intents", nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			req.Header.Set("Authorization", header)
		}
		status, _ := do(t, http.DefaultClient, req)
		equal(t, "status with "+header, status, want)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL()+"/v1/payment_intents", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(testKey, "")
	status, _ := do(t, http.DefaultClient, req)
	equal(t, "status with basic auth", status, http.StatusOK)
}

func TestIntentsPage(t *testing.T) {
	t.Parallel()
	server := start(t, psp.Options{})
	params := purchase("pm_card_visa", 1999)
	params.Metadata["order_id"] = `<script>` + uuid.NewString()
	clientOf(server).create(t, params)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	status, html := do(t, http.DefaultClient, req)
	equal(t, "status", status, http.StatusOK)
	if !strings.Contains(html, "requires_capture") || !strings.Contains(html, "$19.99") || strings.Contains(html, "<script>") {
		t.Errorf("page: %s", html)
	}
}

func do(t *testing.T, client *http.Client, req *http.Request) (int, string) {
	t.Helper()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // it has been read
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}
