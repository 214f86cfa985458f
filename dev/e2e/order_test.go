package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	enumspb "go.temporal.io/api/enums/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"bookworm/activities/finance"
	"bookworm/activities/notification"
	"bookworm/dev/demo"
	"bookworm/dev/psp"
	"bookworm/dev/shop"
	"bookworm/dev/shopper"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/ordering"
	"bookworm/internal/personal"
	"bookworm/workflows/checkout"
	notifications "bookworm/workflows/notification"
)

func TestDemo(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := demo.Run(t.Context(), theShop.Addresses, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"CONFIRMED", "e-mail", "workflow"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo does not say %q:\n%s", want, out.String())
		}
	}
}

func TestOrderIsPaidConfirmedAndTold(t *testing.T) {
	t.Parallel()
	v := enter(t)
	first, second := book(t, 1299, 5), book(t, 2000, 5)
	v.fill(first, second)
	order := v.order("pm_card_visa")
	if order.GetStatus() != orderingv1.Order_PLACED || len(order.GetLines()) != 2 || order.GetTotal().GetAmountMinor() != 3299+499 {
		t.Errorf("placed %v", order)
	}
	v.becomes(order, orderingv1.Order_CONFIRMED)
	if v.available(first) != 4 || v.available(second) != 4 {
		t.Errorf("%d and %d copies are left, want 4 and 4", v.available(first), v.available(second))
	}
	if got := effects(order.GetId()); got[psp.EffectCapture] != 1 || got[psp.EffectRefund]+got[psp.EffectVoid] != 0 {
		t.Errorf("the provider did %v", got)
	}
	mails := v.mails(order.GetId(), 1)
	if !strings.Contains(mails[0].Subject, "confirmed") {
		t.Errorf("the e-mail says %q", mails[0].Subject)
	}
	// What operators see in the Web UI.
	v.finds(fmt.Sprintf("BookwormOrderId = '%s' and BookwormOrderStatus = 'CONFIRMED' and WorkflowType = 'checkout'", order.GetId()))
	details, err := orders.QueryWorkflow(v.ctx, checkout.WorkflowID(order.GetId()), "", "__temporal_workflow_metadata")
	if err != nil {
		t.Fatal(err)
	}
	var shown sdkpb.WorkflowMetadata
	if err := details.Get(&shown); err != nil || !strings.Contains(shown.GetCurrentDetails(), "**CONFIRMED** USD 37.98") {
		t.Errorf("operators see %q, %v", shown.GetCurrentDetails(), err)
	}
	record(t, "confirmed", order.GetId())
}

// mails waits for the e-mails about an order.
func (v *visit) mails(orderID string, atLeast int) []shopper.Mail {
	v.t.Helper()
	mails, err := shopper.Await(v.ctx, func(ctx context.Context) ([]shopper.Mail, error) {
		return shopper.Mails(ctx, theShop.Addresses["BOOKWORM_INBOX_URL"], v.email, orderID)
	}, func(m []shopper.Mail) bool { return len(m) >= atLeast })
	if err != nil {
		v.t.Fatal(err)
	}
	return mails
}

// finds waits until operators find exactly one workflow by a query.
func (v *visit) finds(query string) {
	v.t.Helper()
	if _, err := shopper.Await(v.ctx, func(ctx context.Context) (int64, error) {
		return count(ctx, query)
	}, func(n int64) bool { return n == 1 }); err != nil {
		v.t.Errorf("%s: %v", query, err)
	}
}

func TestM3_LostAnswersOfTheProviderCaptureOnce(t *testing.T) {
	t.Parallel()
	for _, operation := range []string{"create", "confirm", "capture"} {
		for _, kind := range []psp.FaultKind{psp.TimeoutAfterEffect, psp.TimeoutBeforeEffect, psp.Error500, psp.RateLimit429} {
			t.Run(operation+" "+string(kind), func(t *testing.T) {
				t.Parallel()
				v := enter(t)
				key := uuid.NewString()
				id := orderID(v.subject, key)
				fault := psp.Fault{Operation: operation, Kind: kind, Count: 2, OrderID: id}
				if err := theShop.Payments.Inject(fault); err != nil {
					t.Fatal(err)
				}
				v.fill(book(t, 1299, 3))
				order, _, err := v.Place(v.ctx, key, shopper.Request("pm_card_visa"))
				if err != nil || order.GetId() != id {
					t.Fatalf("placed %v, %v", order, err)
				}
				v.becomes(order, orderingv1.Order_CONFIRMED)
				if got := effects(id); got[psp.EffectAuthorize] != 1 || got[psp.EffectCapture] != 1 || len(got) != 2 {
					t.Errorf("the provider did %v", got)
				}
				if n := v.intents(id); n != 1 {
					t.Errorf("the provider has %d payment intents of one order", n)
				}
			})
		}
	}
}

// intents returns how many payment intents the provider has of an order, also
// those that never moved money.
func (v *visit) intents(orderID string) int {
	v.t.Helper()
	provider := &shopper.Shopper{Gateway: theShop.Payments.URL(), Token: shop.StripeKey}
	query := url.Values{"query": {"metadata['order_id']:'" + orderID + "'"}}
	status, _, content, err := provider.Raw(v.ctx, http.MethodGet, "/v1/payment_intents/search?"+query.Encode(), http.NoBody)
	var found struct {
		Data []json.RawMessage `json:"data"`
	}
	if err == nil {
		err = json.Unmarshal(content, &found)
	}
	if err != nil || status != http.StatusOK {
		v.t.Fatalf("search payment intents: %d %s, %v", status, content, err)
	}
	return len(found.Data)
}

func TestM4_ChargedIsWhatWasAgreed(t *testing.T) {
	t.Parallel()
	for i := range 6 {
		v := enter(t)
		for n := range i + 1 {
			if _, err := v.Put(v.ctx, book(t, int64(101+n*997), 20), int32(1+(n*i)%5)); err != nil {
				t.Fatal(err)
			}
		}
		country := []string{"US", "DE", "FR"}[i%3]
		quote, err := v.Quote(v.ctx, country)
		if err != nil {
			t.Fatal(err)
		}
		request := shopper.Request("pm_card_visa")
		request.ShippingAddress.CountryCode = country
		request.ExpectedTotal, request.BasketEtag = quote.GetTotal(), quote.GetBasketEtag()
		order, _, err := v.Place(v.ctx, uuid.NewString(), request)
		if err != nil {
			t.Fatal(err)
		}
		v.becomes(order, orderingv1.Order_CONFIRMED)
		var sum int64
		for _, l := range order.GetLines() {
			sum += l.GetUnitPrice().GetAmountMinor() * int64(l.GetQuantity())
		}
		totals := order.GetTotals()
		sum += totals.GetShipping().GetAmountMinor() + totals.GetTax().GetAmountMinor() - totals.GetDiscount().GetAmountMinor()
		var captured int64
		for _, e := range theShop.Payments.Effects() {
			if e.OrderID == order.GetId() && e.Kind == psp.EffectCapture {
				captured += e.Amount
			}
		}
		if agreed := quote.GetTotal().GetAmountMinor(); captured != agreed || sum != agreed {
			t.Errorf("%s: agreed on %d, the parts make %d, captured %d", country, agreed, sum, captured)
		}
	}
}

func TestM4_AnotherPriceThanAgreedIsRefused(t *testing.T) {
	t.Parallel()
	v := enter(t)
	id := book(t, 1299, 3)
	v.fill(id)
	quote, err := v.Quote(v.ctx, "US")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dbs.Exec(v.ctx, `update catalog.book set price_minor = 1399, version = version + 1 where id = $1`, id); err != nil {
		t.Fatal(err)
	}
	request := shopper.Request("pm_card_visa")
	request.ExpectedTotal = quote.GetTotal()
	key := uuid.NewString()
	if _, _, err := v.Place(v.ctx, key, request); shopper.Reason(err) != "PRICE_CHANGED" {
		t.Fatalf("got %v", err)
	}
	if left := v.available(id); left != 3 {
		t.Errorf("%d copies are left after the refusal, want 3", left)
	}
	record(t, "refused", orderID(v.subject, key))
	// The refusal left the key free, also for the changed request.
	request.ExpectedTotal = nil
	order, _, err := v.Place(v.ctx, key, request)
	if err != nil || order.GetTotal().GetAmountMinor() != 1399+499 {
		t.Errorf("got %v, %v", order, err)
	}
}

func TestS3_LastCopySoldOnce(t *testing.T) {
	t.Parallel()
	for range 20 {
		last := book(t, 1500, 1)
		racers := []*visit{enter(t), enter(t)}
		for _, v := range racers {
			v.fill(last)
		}
		keys := []string{uuid.NewString(), uuid.NewString()}
		errs := make([]error, len(racers))
		var start, done sync.WaitGroup
		start.Add(1)
		for i, v := range racers {
			done.Go(func() {
				start.Wait()
				_, _, errs[i] = v.Place(v.ctx, keys[i], shopper.Request("pm_card_visa"))
			})
		}
		start.Done()
		done.Wait()
		winner := slices.Index(errs, nil)
		if winner < 0 || shopper.Reason(errs[1-winner]) != "OUT_OF_STOCK" {
			t.Fatalf("the racers got %v", errs)
		}
		v := racers[winner]
		order := &orderingv1.Order{Id: orderID(v.subject, keys[winner])}
		v.becomes(order, orderingv1.Order_CONFIRMED)
		loser := orderID(racers[1-winner].subject, keys[1-winner])
		if got := effects(loser); len(got) != 0 {
			t.Errorf("the one who got nothing was charged: %v", got)
		}
		if left := v.available(last); left != 0 {
			t.Errorf("%d copies are left of one that was sold", left)
		}
	}
}

func TestO2_SameKeySameOrderHoweverConcurrent(t *testing.T) {
	t.Parallel()
	v := enter(t)
	id := book(t, 1299, 50)
	v.fill(id, book(t, 999, 50))
	key := uuid.NewString()
	got := make([]*orderingv1.Order, 12)
	var group errgroup.Group
	for i := range got {
		group.Go(func() (err error) {
			got[i], _, err = v.Place(v.ctx, key, shopper.Request("pm_card_visa"))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, order := range got {
		if !sameButForProgress(order, got[0]) {
			t.Errorf("one key got different orders: %v\n%v", order, got[0])
		}
	}
	v.becomes(got[0], orderingv1.Order_CONFIRMED)
	if left := v.available(id); left != 49 {
		t.Errorf("%d copies are left, want 49", left)
	}
	if n := effects(got[0].GetId())[psp.EffectCapture]; n != 1 {
		t.Errorf("%d captures", n)
	}
	order, replayed, err := v.Place(v.ctx, `"`+key+`"`, shopper.Request("pm_card_visa")) // a quoted key is the same key
	if err != nil || !replayed || !sameButForProgress(order, got[0]) {
		t.Errorf("a replay got %v, %v, %v\nand not %v", order, replayed, err, got[0])
	}
	if _, _, err := v.Place(v.ctx, key, shopper.Request("pm_card_mastercard")); shopper.Reason(err) != "IDEMPOTENCY_KEY_REUSED" {
		t.Errorf("the key with another request: %v", err)
	}
}

// sameButForProgress compares orders in all that was agreed when they were placed.
func sameButForProgress(a, b *orderingv1.Order) bool {
	agreed := func(o *orderingv1.Order) *orderingv1.Order {
		o = proto.CloneOf(o)
		o.Status, o.StatusReason, o.UpdateTime, o.Etag = 0, "", nil, ""
		return o
	}
	return proto.Equal(agreed(a), agreed(b))
}

func TestO2_RefusalLeavesTheKeyFree(t *testing.T) {
	t.Parallel()
	v := enter(t)
	key := uuid.NewString()
	for range 2 {
		if _, _, err := v.Place(v.ctx, key, shopper.Request("pm_card_visa")); shopper.Reason(err) != "BASKET_EMPTY" {
			t.Fatalf("got %v", err)
		}
	}
	v.fill(book(t, 1299, 1))
	order, replayed, err := v.Place(v.ctx, key, shopper.Request("pm_card_visa"))
	if err != nil || replayed {
		t.Fatalf("got %v, %v", replayed, err)
	}
	v.becomes(order, orderingv1.Order_CONFIRMED)
}

func TestO5_BasketIsClearedOnlyInTheOrderedVersion(t *testing.T) {
	t.Parallel()
	v := enter(t)
	ordered, later := book(t, 1299, 5), book(t, 999, 5)
	v.fill(ordered)
	key := uuid.NewString()
	// The payment takes long enough for the shopper to go on shopping.
	err := theShop.Payments.Inject(psp.Fault{Operation: "capture", Kind: psp.Slow, Delay: time.Second, OrderID: orderID(v.subject, key)})
	if err != nil {
		t.Fatal(err)
	}
	order, _, err := v.Place(v.ctx, key, shopper.Request("pm_card_visa"))
	if err != nil {
		t.Fatal(err)
	}
	v.fill(later)
	v.becomes(order, orderingv1.Order_CONFIRMED)
	v.mails(order.GetId(), 1) // sent after the basket's turn
	basket, err := v.Basket(v.ctx)
	if err != nil || len(basket.GetItems()) != 2 {
		t.Errorf("the basket that went on changing was cleared: %v, %v", basket, err)
	}
	// The next order takes the basket in its version, and that one is cleared.
	second := v.order("pm_card_visa")
	v.becomes(second, orderingv1.Order_CONFIRMED)
	v.mails(second.GetId(), 1)
	if basket, err := v.Basket(v.ctx); err != nil || len(basket.GetItems()) != 0 {
		t.Errorf("the ordered basket was not cleared: %v, %v", basket, err)
	}
}

func TestN3_OneMailForEachOrderAndEvent(t *testing.T) {
	t.Parallel()
	v := enter(t)
	v.fill(book(t, 1299, 5))
	order := v.order("pm_card_visa")
	v.becomes(order, orderingv1.Order_CONFIRMED)
	v.mails(order.GetId(), 1)
	v.fill(book(t, 1299, 5))
	if _, err := v.Cancel(v.ctx, order.GetId()); err != nil {
		t.Fatal(err)
	}
	mails := v.mails(order.GetId(), 2)
	subjects := []string{mails[0].Subject, mails[1].Subject}
	if len(mails) != 2 || subjects[0] == subjects[1] {
		t.Errorf("the shopper got %q", subjects)
	}
	// A step of checkout that is repeated after a crash starts the same mail again.
	again := notification.Mail{OrderID: order.GetId(), Subject: v.subject, Template: notifications.OrderConfirmed}
	if err := (&notifications.Starter{Client: orders}).StartNotification(v.ctx, again); err != nil {
		t.Error(err)
	}
	if n, err := count(v.ctx, "BookwormOrderId = '"+order.GetId()+"' and WorkflowType = 'notification'"); err != nil || n != 2 {
		t.Errorf("%d notifications, %v", n, err)
	}
}

func TestDeclinedPaymentGivesTheStockBack(t *testing.T) {
	t.Parallel()
	for method, code := range map[string]string{
		"pm_card_visa_chargeDeclinedInsufficientFunds": "insufficient_funds",
		"pm_there_is_no_such_card":                     "payment_method_unknown",
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			v := enter(t)
			id := book(t, 1299, 2)
			v.fill(id)
			order := v.order(method)
			failed := v.becomes(order, orderingv1.Order_PAYMENT_FAILED)
			if failed.GetStatusReason() != checkout.ReasonDeclined || v.available(id) != 2 {
				t.Errorf("ended for %q with %d copies left", failed.GetStatusReason(), v.available(id))
			}
			if payment, err := v.Payment(v.ctx, order.GetId()); err != nil || payment.GetDeclineCode() != code {
				t.Errorf("the payment says %v, %v", payment, err)
			}
			if got := effects(order.GetId()); got[psp.EffectCapture]+got[psp.EffectAuthorize] != 0 {
				t.Errorf("the provider did %v", got)
			}
			if basket, err := v.Basket(v.ctx); err != nil || len(basket.GetItems()) != 1 {
				t.Errorf("the basket did not stay for another try: %v, %v", basket, err)
			}
			v.mails(order.GetId(), 1)
			record(t, "declined", order.GetId())
		})
	}
}

// actionNeeded waits until the shopper must act at the provider and returns the
// payment intent.
func (v *visit) actionNeeded(order *orderingv1.Order) (intent string) {
	v.t.Helper()
	if _, err := shopper.Await(v.ctx, func(ctx context.Context) (string, error) {
		payment, err := v.Payment(ctx, order.GetId())
		if shopper.Reason(err) == "PAYMENT_NOT_FOUND" {
			return "", nil
		}
		return payment.GetActionUrl(), err
	}, func(url string) bool { return strings.HasPrefix(url, theShop.Payments.URL()) }); err != nil {
		v.t.Fatal(err)
	}
	if err := dbs.QueryRow(v.ctx, `select intent_id from finance.payment where order_id = $1`, order.GetId()).Scan(&intent); err != nil {
		v.t.Fatal(err)
	}
	return intent
}

func TestShopperConfirmsThePaymentAtTheBank(t *testing.T) {
	t.Parallel()
	for approve, status := range map[bool]orderingv1.Order_Status{true: orderingv1.Order_CONFIRMED, false: orderingv1.Order_PAYMENT_FAILED} {
		t.Run(strconv.FormatBool(approve), func(t *testing.T) {
			t.Parallel()
			v := enter(t)
			v.fill(book(t, 1299, 2))
			order := v.order("pm_card_threeDSecure2Required")
			intent := v.actionNeeded(order)
			v.finds(fmt.Sprintf("BookwormOrderId = '%s' and BookwormStep = 'waits for the shopper at the payment provider'", order.GetId()))
			if err := theShop.Payments.Authenticate(intent, approve); err != nil {
				t.Fatal(err)
			}
			v.becomes(order, status)
			if n := effects(order.GetId())[psp.EffectCapture]; (n == 1) != approve {
				t.Errorf("approved %v, captured %d times", approve, n)
			}
			v.mails(order.GetId(), 1)
			record(t, map[bool]string{true: "authenticated", false: "not-authenticated"}[approve], order.GetId())
		})
	}
}

func TestCancelWhileTheShopperShouldActVoids(t *testing.T) {
	t.Parallel()
	v := enter(t)
	id := book(t, 1299, 2)
	v.fill(id)
	order := v.order("pm_card_threeDSecure2Required")
	intent := v.actionNeeded(order)
	cancelled, err := v.Cancel(v.ctx, order.GetId())
	if err != nil || cancelled.GetStatus() != orderingv1.Order_CANCELLED || v.available(id) != 2 {
		t.Errorf("got %v, %v, %d copies left", cancelled.GetStatus(), err, v.available(id))
	}
	if err := theShop.Payments.Authenticate(intent, true); err == nil {
		t.Error("the provider still takes the shopper's confirmation")
	}
	if got := effects(order.GetId()); got[psp.EffectCapture] != 0 {
		t.Errorf("the provider did %v", got)
	}
	if again, err := v.Cancel(v.ctx, order.GetId()); err != nil || again.GetStatus() != orderingv1.Order_CANCELLED {
		t.Errorf("cancelled again: %v, %v", again.GetStatus(), err)
	}
	v.mails(order.GetId(), 1)
	record(t, "cancelled-while-paying", order.GetId())
}

func TestCancelAfterConfirmationRefundsAndReturnsTheStock(t *testing.T) {
	t.Parallel()
	v := enter(t)
	id := book(t, 1299, 2)
	v.fill(id)
	order := v.order("pm_card_visa")
	v.becomes(order, orderingv1.Order_CONFIRMED)
	if cancelled, err := v.Cancel(v.ctx, order.GetId()); err != nil || cancelled.GetStatus() != orderingv1.Order_CANCELLED {
		t.Fatalf("got %v, %v", cancelled.GetStatus(), err)
	}
	if got := effects(order.GetId()); got[psp.EffectCapture] != 1 || got[psp.EffectRefund] != 1 || v.available(id) != 2 {
		t.Errorf("the provider did %v, %d copies left", got, v.available(id))
	}
	payment, err := v.Payment(v.ctx, order.GetId())
	if err != nil || payment.GetRefunded().GetAmountMinor() != order.GetTotal().GetAmountMinor() {
		t.Errorf("the payment says %v, %v", payment, err)
	}
	// Invariant M1: what came in went out again.
	var balance int64
	err = dbs.QueryRow(v.ctx, `select sum(debit_minor - credit_minor) from finance.ledger_entry where order_id = $1 and account = 'provider'`,
		order.GetId()).Scan(&balance)
	if err != nil || balance != 0 {
		t.Errorf("the provider's account is off by %d, %v", balance, err)
	}
	v.mails(order.GetId(), 2)
	record(t, "cancelled-after-confirmation", order.GetId())
}

func TestO3_CancelRacingCaptureIsNeverPaidAndNotRefunded(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		v := enter(t)
		v.fill(book(t, 1299, 2))
		key := uuid.NewString()
		id := orderID(v.subject, key)
		err := theShop.Payments.Inject(psp.Fault{Operation: "capture", Kind: psp.Slow, Delay: time.Duration(i) * 20 * time.Millisecond, OrderID: id})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := v.Place(v.ctx, key, shopper.Request("pm_card_visa")); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Cancel(v.ctx, id); err != nil {
			t.Fatal(err)
		}
		order, err := v.Order(v.ctx, id)
		got := effects(id)
		if err != nil || order.GetStatus() != orderingv1.Order_CANCELLED || got[psp.EffectCapture] != got[psp.EffectRefund] {
			t.Errorf("round %d: %v, %v, the provider did %v", i, order.GetStatus(), err, got)
		}
	}
}

func TestUnpaidOrderExpires(t *testing.T) {
	t.Parallel()
	v := enter(t)
	id := book(t, 1299, 2)
	basket := v.fill(id)
	key := uuid.NewString()
	request := shopper.Request("pm_card_threeDSecure2Required")
	// The shop's own window is long; the process is started as its API does, with a
	// short one.
	seal := func(plain any) personal.Sealed {
		sealer, err := personal.NewSealer(personal.Text(personalDataKey))
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := sealer.Seal(orderID(v.subject, key), plain)
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	order := &orderingv1.Order{Id: orderID(v.subject, key)}
	if _, err := checkout.Place(v.ctx, orders, checkout.Input{
		OrderID: order.GetId(), Subject: v.subject, Country: "US", Fingerprint: []byte{1}, PaymentWindow: 2 * time.Second,
		Items: []ordering.Item{{BookID: id, Quantity: 1}}, BasketVersion: basket.GetVersion(),
		Details: seal(ordering.Details{}), Contact: seal(notification.Contact{Email: v.email}),
		PaymentMethod: seal(finance.PaymentMethod{Token: request.GetPaymentMethod()}),
	}); err != nil {
		t.Fatal(err)
	}
	v.becomes(order, orderingv1.Order_EXPIRED)
	if got := effects(order.GetId()); got[psp.EffectCapture] != 0 || v.available(id) != 2 {
		t.Errorf("the provider did %v, %d copies left", got, v.available(id))
	}
	v.mails(order.GetId(), 1)
	record(t, "expired", order.GetId())
}

func TestShippedOrderCannotBeCancelled(t *testing.T) {
	t.Parallel()
	v := enter(t)
	id := book(t, 1299, 2)
	v.fill(id)
	order := v.order("pm_card_visa")
	v.becomes(order, orderingv1.Order_CONFIRMED)
	if err := orders.SignalWorkflow(v.ctx, checkout.WorkflowID(order.GetId()), "", checkout.ShipSignal, nil); err != nil {
		t.Fatal(err)
	}
	v.becomes(order, orderingv1.Order_SHIPPED)
	if _, err := v.Cancel(v.ctx, order.GetId()); shopper.Reason(err) != "ORDER_NOT_CANCELLABLE" {
		t.Errorf("got %v", err)
	}
	if n := effects(order.GetId())[psp.EffectRefund]; n != 0 || v.available(id) != 1 {
		t.Errorf("%d refunds, %d copies left", n, v.available(id))
	}
	record(t, "shipped", order.GetId())
}

func TestOperatorCancelsInTheWebUI(t *testing.T) {
	t.Parallel()
	v := enter(t)
	id := book(t, 1299, 2)
	v.fill(id)
	order := v.order("pm_card_visa")
	v.becomes(order, orderingv1.Order_CONFIRMED)
	if err := orders.CancelWorkflow(v.ctx, checkout.WorkflowID(order.GetId()), ""); err != nil {
		t.Fatal(err)
	}
	cancelled := v.becomes(order, orderingv1.Order_CANCELLED)
	if cancelled.GetStatusReason() != checkout.ReasonByOperator || effects(order.GetId())[psp.EffectRefund] != 1 {
		t.Errorf("ended for %q, the provider did %v", cancelled.GetStatusReason(), effects(order.GetId()))
	}
	v.mails(order.GetId(), 2)
	record(t, "cancelled-by-operator", order.GetId())
}

func TestForgedPaymentEventIsRefused(t *testing.T) {
	t.Parallel()
	v := enter(t)
	v.fill(book(t, 1299, 2))
	order := v.order("pm_card_threeDSecure2Required")
	v.actionNeeded(order)
	event := `{"id":"evt_forged","object":"event","type":"payment_intent.succeeded","data":{"object":{"metadata":{"order_id":"` + order.GetId() + `"}}}}`
	for name, signature := range map[string]string{"none": "", "garbage": "t=1,v1=00"} {
		status, _, content, err := v.Raw(v.ctx, http.MethodPost, "/webhooks/stripe", strings.NewReader(event), "Stripe-Signature", signature)
		if err != nil || status != http.StatusBadRequest {
			t.Errorf("signature %s: %d %s, %v", name, status, content, err)
		}
	}
	if now, err := v.Order(v.ctx, order.GetId()); err != nil || now.GetStatus() != orderingv1.Order_PLACED {
		t.Errorf("a forged event made the order %v, %v", now.GetStatus(), err)
	}
	if _, err := v.Cancel(v.ctx, order.GetId()); err != nil {
		t.Error(err)
	}
}

func TestListOfOrdersIsPaged(t *testing.T) {
	t.Parallel()
	v := enter(t)
	var want []string
	for range 3 {
		v.fill(book(t, 500, 1))
		order := v.order("pm_card_visa")
		v.becomes(order, orderingv1.Order_CONFIRMED)
		v.mails(order.GetId(), 1)
		want = append([]string{order.GetId()}, want...)
	}
	var got []string
	token := ""
	for range 5 {
		var page orderingv1.ListOrdersResponse
		if _, err := v.Do(v.ctx, http.MethodGet, "/api/v1/orders?page_size=2&page_token="+token, nil, &page); err != nil {
			t.Fatal(err)
		}
		for _, o := range page.GetOrders() {
			got = append(got, o.GetId())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestA1_NobodyReachesAnothersOrder(t *testing.T) {
	t.Parallel()
	alice, bob := enter(t), enter(t)
	alice.fill(book(t, 1299, 2))
	order := alice.order("pm_card_visa")
	alice.becomes(order, orderingv1.Order_CONFIRMED)
	_, orderErr := bob.Order(bob.ctx, order.GetId())
	_, paymentErr := bob.Payment(bob.ctx, order.GetId())
	_, cancelErr := bob.Cancel(bob.ctx, order.GetId())
	for what, got := range map[string]struct {
		err  error
		want string
	}{"order": {orderErr, "ORDER_NOT_FOUND"}, "payment": {paymentErr, "PAYMENT_NOT_FOUND"}, "cancel": {cancelErr, "ORDER_NOT_FOUND"}} {
		if shopper.Reason(got.err) != got.want {
			t.Errorf("%s: got %v, want %s", what, got.err, got.want)
		}
	}
	if basket, err := bob.Basket(bob.ctx); err != nil || len(basket.GetItems()) != 0 {
		t.Errorf("bob's basket holds %v, %v", basket, err)
	}
	if now, err := alice.Order(alice.ctx, order.GetId()); err != nil || now.GetStatus() != orderingv1.Order_CONFIRMED {
		t.Errorf("alice's order is %v, %v", now.GetStatus(), err)
	}
	// An administrator may look.
	ops := enter(t)
	ops.Token = issue(t, map[string]any{"sub": uuid.NewString(), "realm_access": map[string]any{"roles": []string{"admin"}}})
	if _, err := ops.Order(ops.ctx, order.GetId()); err != nil {
		t.Errorf("an administrator got %v", err)
	}
}

func TestA3_HistoriesAndLogsHoldNoPersonalData(t *testing.T) {
	t.Parallel()
	v := enter(t)
	v.fill(book(t, 1299, 2))
	request := shopper.Request("pm_card_mastercard")
	request.ShippingAddress.Line1 = "77 Unmistakable Street"
	request.ShippingAddress.Recipient = "Xaviera Unmistakable"
	request.ShippingAddress.PostalCode = "WC2N 5DU"
	// The provider's errors hold secrets too.
	key := uuid.NewString()
	if err := theShop.Payments.Inject(psp.Fault{Operation: "capture", Kind: psp.Error500, OrderID: orderID(v.subject, key)}); err != nil {
		t.Fatal(err)
	}
	order, _, err := v.Place(v.ctx, key, request)
	if err != nil {
		t.Fatal(err)
	}
	v.becomes(order, orderingv1.Order_CONFIRMED)
	v.mails(order.GetId(), 1)
	secrets := []string{v.email, "_secret_", "Unmistakable", "pm_card_mastercard", v.Token[len(v.Token)-40:], request.GetShippingAddress().GetLine1(), "WC2N 5DU"}
	for _, id := range workflowIDs(order.GetId()) {
		events := 0
		history := orders.GetWorkflowHistory(v.ctx, id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for history.HasNext() {
			event, err := history.Next()
			if err != nil {
				break // not every order has every process
			}
			events++
			// As it is stored: payloads in base64 would hide from a search in JSON.
			text := protojson.Format(event) + decoded(event)
			for _, secret := range secrets {
				if strings.Contains(text, secret) {
					t.Errorf("event %d of %s holds %q", event.GetEventId(), id, secret)
				}
			}
		}
		if strings.HasPrefix(id, "order/") && events < 5 {
			t.Errorf("looked at %d events of %s only", events, id)
		}
	}
	lines := 0
	theLog.lines(func(line string) {
		lines++
		for _, secret := range secrets {
			if strings.Contains(line, secret) {
				t.Errorf("logged %q: %s", secret, line)
			}
		}
	})
	if lines == 0 {
		t.Error("the shop logged nothing, so this proves nothing")
	}
}

func TestA2_ForgedAndForeignTokensAreRefused(t *testing.T) {
	t.Parallel()
	forged, err := theShop.Identity.IssueForged("alice", nil)
	if err != nil {
		t.Fatal(err)
	}
	genuine := issue(t, nil)
	for name, tc := range map[string]struct{ token, reason string }{
		"none":             {"", "TOKEN_MISSING"},
		"garbage":          {"garbage", "TOKEN_INVALID"},
		"expired":          {issue(t, map[string]any{"exp": time.Now().Add(-time.Hour)}), "TOKEN_INVALID"},
		"another key":      {forged, "TOKEN_INVALID"},
		"another issuer":   {issue(t, map[string]any{"iss": "https://elsewhere.example"}), "TOKEN_INVALID"},
		"another audience": {issue(t, map[string]any{"aud": "elsewhere"}), "TOKEN_INVALID"},
		"changed":          {genuine[:len(genuine)-4] + "AAAA", "TOKEN_INVALID"},
		"no role":          {issue(t, map[string]any{"realm_access": map[string]any{"roles": []string{}}}), "ACCESS_DENIED"},
	} {
		v := enter(t)
		v.Token = tc.token
		if _, err := v.Basket(v.ctx); shopper.Reason(err) != tc.reason {
			t.Errorf("%s: got %v, want %s", name, err, tc.reason)
		}
		if _, _, err := v.Place(v.ctx, uuid.NewString(), shopper.Request("pm_card_visa")); shopper.Reason(err) != tc.reason {
			t.Errorf("%s: placing got %v, want %s", name, err, tc.reason)
		}
	}
}
