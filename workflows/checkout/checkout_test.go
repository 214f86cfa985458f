package checkout

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	finance "bookworm/activities/finance"
	activities "bookworm/activities/ordering"
	"bookworm/internal/fault"
	paid "bookworm/internal/finance"
	"bookworm/internal/money"
	"bookworm/internal/ordering"
	"bookworm/internal/process"
	"bookworm/workflows/notification"
	"bookworm/workflows/payment"
)

// world stands for everything outside a checkout. Every effect goes to its log,
// in order. Its methods have the names of the activities they stand for.
type world struct {
	mu   sync.Mutex
	log  []string
	errs map[string][]error // what an effect fails with, one for each call
}

func (w *world) did(effect string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, effect)
	if errs := w.errs[effect]; len(errs) > 0 {
		w.errs[effect] = errs[1:]
		return process.Refusal(errs[0])
	}
	return nil
}

func (w *world) HoldStock(context.Context, activities.Hold) ([]ordering.Line, error) {
	return []ordering.Line{{BookID: "b", Quantity: 2, UnitPrice: money.New("USD", 1299)}}, w.did("HoldStock")
}

func (w *world) CreateOrder(_ context.Context, n activities.NewOrder) (activities.Snapshot, error) {
	return activities.Snapshot{Lines: n.Lines, Totals: ordering.Totals{Total: total}}, w.did("CreateOrder")
}

func (w *world) CommitStock(context.Context, string) error  { return w.did("CommitStock") }
func (w *world) ReleaseStock(context.Context, string) error { return w.did("ReleaseStock") }
func (w *world) ShipStock(context.Context, string) error    { return w.did("ShipStock") }

func (w *world) StepOrder(_ context.Context, s activities.Step) error {
	return w.did(strings.TrimSpace(string(s.Status) + " " + s.Reason))
}

func (w *world) ClearBasket(_ context.Context, _ string, version int64) error {
	if version != 7 {
		return errors.New("this is not the version that was ordered")
	}
	return w.did("ClearBasket")
}

func (w *world) StartNotification(_ context.Context, m notification.Mail) error {
	return w.did("Mail " + m.Template)
}

// cashier stands for the finance activities.
type cashier struct{ *world }

func (c cashier) Reverse(context.Context, finance.Payment) (finance.State, error) {
	return finance.State{Status: paid.Voided}, c.did("Reverse")
}

var input = Input{OrderID: "0b0e7f0a-3a0c-5d0e-9d52-7d1f5c6a0001", Subject: "alice", Country: "US", PaymentWindow: 15 * time.Minute, BasketVersion: 7}

var total = money.New("USD", 2598)

// checkoutTest is a checkout in the time-skipping test environment.
type checkoutTest struct {
	*testsuite.TestWorkflowEnvironment

	world *world
	// charge stands for the payment process.
	charge func(ctx workflow.Context) (payment.Result, error)
	place  *answer
	cancel *answer
}

func setup(t *testing.T) *checkoutTest {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	c := &checkoutTest{
		TestWorkflowEnvironment: suite.NewTestWorkflowEnvironment(), world: &world{errs: make(map[string][]error)},
		place: &answer{}, cancel: &answer{},
	}
	c.charge = func(workflow.Context) (payment.Result, error) { return payment.Result{Status: paid.Captured}, nil }
	c.RegisterActivity(c.world)
	c.RegisterActivity(cashier{c.world}.Reverse)
	c.RegisterWorkflowWithOptions(func(ctx workflow.Context, _ finance.Payment) (payment.Result, error) {
		return c.charge(ctx)
	}, workflow.RegisterOptions{Name: payment.Name})
	c.RegisterDelayedCallback(func() { c.UpdateWorkflow(PlaceUpdate, "place", c.place) }, 0)
	return c
}

// run runs the checkout to its end and compares its effects, in order.
func (c *checkoutTest) run(t *testing.T, want ...string) Result {
	t.Helper()
	c.ExecuteWorkflow(Workflow, input)
	if !c.IsWorkflowCompleted() {
		t.Fatal("the checkout did not end")
	}
	if !slices.Equal(c.world.log, want) {
		t.Errorf("effects\n got %q\nwant %q", c.world.log, want)
	}
	var result Result
	if err := c.GetWorkflowError(); err == nil {
		if err := c.GetWorkflowResult(&result); err != nil {
			t.Fatal(err)
		}
	}
	return result
}

// after calls back once the order had time to settle in its state.
func (c *checkoutTest) after(d time.Duration, do func()) { c.RegisterDelayedCallback(do, d) }

// answer takes the answer of an update.
type answer struct {
	done bool
	err  error
}

func (a *answer) Accept()          {}
func (a *answer) Reject(err error) { a.done, a.err = true, err }
func (a *answer) Complete(_ any, err error) {
	a.done, a.err = true, err
}

var placed = []string{"HoldStock", "CreateOrder"}

func with(more ...string) []string { return append(slices.Clone(placed), more...) }

func TestOrderIsConfirmedAndShipped(t *testing.T) {
	t.Parallel()
	c := setup(t)
	c.after(24*time.Hour, func() { c.SignalWorkflow(ShipSignal, nil) })
	result := c.run(t, with("CommitStock", "CONFIRMED", "ClearBasket", "Mail order_confirmed", "ShipStock", "SHIPPED")...)
	if result.Status != ordering.Shipped || !c.place.done || c.place.err != nil {
		t.Errorf("got %v, placed: %v", result, c.place)
	}
}

func TestRefusalUndoesAndNamesItsReason(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		effect string
		err    *fault.Error
		want   []string
	}{
		{"HoldStock", fault.New(fault.ReasonOutOfStock, "short").With("book_id", "b"), []string{"HoldStock", "ReleaseStock"}},
		{"CreateOrder", fault.New(fault.ReasonPriceChanged, "dearer"), with("ReleaseStock")},
	} {
		t.Run(string(tc.err.Reason), func(t *testing.T) {
			t.Parallel()
			c := setup(t)
			c.world.errs[tc.effect] = []error{tc.err}
			c.run(t, tc.want...)
			for name, err := range map[string]error{"the update": c.place.err, "the workflow": c.GetWorkflowError()} {
				f := process.Fault(err)
				if f == nil || f.Reason != tc.err.Reason || f.Metadata["book_id"] != tc.err.Metadata["book_id"] {
					t.Errorf("%s failed with %v, want %v", name, err, tc.err)
				}
			}
		})
	}
}

func TestPlacementThatCannotBeDecidedIsRefusedAsUnavailable(t *testing.T) {
	t.Parallel()
	c := setup(t)
	c.world.errs["HoldStock"] = slices.Repeat([]error{errors.New("catalog is away")}, 100)
	c.ExecuteWorkflow(Workflow, input)
	if f := process.Fault(c.place.err); f == nil || f.Reason != fault.ReasonUnavailable {
		t.Errorf("got %v", c.place.err)
	}
	// A hold that seems to have failed may have landed.
	if got := c.world.log[len(c.world.log)-1]; got != "ReleaseStock" {
		t.Errorf("ended with %s", got)
	}
}

func TestDeclineReleasesTheStock(t *testing.T) {
	t.Parallel()
	c := setup(t)
	c.charge = func(workflow.Context) (payment.Result, error) {
		return payment.Result{Status: paid.Declined, DeclineCode: "insufficient_funds"}, nil
	}
	result := c.run(t, with("Reverse", "ReleaseStock", "PAYMENT_FAILED PAYMENT_DECLINED", "Mail payment_failed")...)
	if result.Status != ordering.PaymentFailed {
		t.Errorf("got %v", result)
	}
}

// slow is a payment that waits for the shopper, and is voided when cancelled.
func slow(ctx workflow.Context) (payment.Result, error) {
	if err := workflow.Sleep(ctx, 365*24*time.Hour); err != nil {
		return payment.Result{Status: paid.Voided}, nil //nolint:nilerr // cancelled, so voided
	}
	return payment.Result{Status: paid.Captured}, nil
}

func TestUnpaidOrderExpires(t *testing.T) {
	t.Parallel()
	c := setup(t)
	c.charge = slow
	result := c.run(t, with("Reverse", "ReleaseStock", "EXPIRED PAYMENT_NOT_COMPLETED", "Mail order_expired")...)
	if result.Status != ordering.Expired {
		t.Errorf("got %v", result)
	}
}

func TestCancelWhilePaying(t *testing.T) {
	t.Parallel()
	c := setup(t)
	c.charge = slow
	c.after(time.Minute, func() { c.UpdateWorkflow(CancelUpdate, "cancel", c.cancel, ReasonByShopper) })
	result := c.run(t, with("Reverse", "ReleaseStock", "CANCELLED CANCELLED_BY_SHOPPER", "Mail order_cancelled")...)
	if result.Status != ordering.Cancelled || !c.cancel.done || c.cancel.err != nil {
		t.Errorf("got %v, cancel: %v", result, c.cancel)
	}
}

func TestO3_CancelThatCrossesTheCaptureRefunds(t *testing.T) {
	t.Parallel()
	c := setup(t)
	c.charge = func(ctx workflow.Context) (payment.Result, error) {
		// The capture landed before the cancellation could stop it.
		err := workflow.Sleep(ctx, time.Hour)
		return payment.Result{Status: paid.Captured}, map[bool]error{true: errors.New("not cancelled")}[err == nil]
	}
	c.after(time.Minute, func() { c.UpdateWorkflow(CancelUpdate, "cancel", c.cancel, ReasonByShopper) })
	result := c.run(t, with("Reverse", "ReleaseStock", "CANCELLED CANCELLED_BY_SHOPPER", "Mail order_cancelled")...)
	if result.Status != ordering.Cancelled || c.cancel.err != nil {
		t.Errorf("got %v, cancel: %v", result, c.cancel)
	}
}

func TestCancelAfterConfirmationRefunds(t *testing.T) {
	t.Parallel()
	c := setup(t)
	c.after(time.Hour, func() { c.UpdateWorkflow(CancelUpdate, "cancel", c.cancel, ReasonByShopper) })
	result := c.run(t, with("CommitStock", "CONFIRMED", "ClearBasket", "Mail order_confirmed",
		"Reverse", "ReleaseStock", "CANCELLED CANCELLED_BY_SHOPPER", "Mail order_cancelled")...)
	if result.Status != ordering.Cancelled || c.cancel.err != nil {
		t.Errorf("got %v, cancel: %v", result, c.cancel)
	}
}

func TestParcelThatHasLeftIsNotCancelled(t *testing.T) {
	t.Parallel()
	c := setup(t)
	c.after(time.Hour, func() {
		c.SignalWorkflow(ShipSignal, nil)
		c.UpdateWorkflow(CancelUpdate, "cancel", c.cancel, ReasonByShopper)
	})
	result := c.run(t, with("CommitStock", "CONFIRMED", "ClearBasket", "Mail order_confirmed", "ShipStock", "SHIPPED")...)
	if f := process.Fault(c.cancel.err); result.Status != ordering.Shipped || f == nil || f.Reason != fault.ReasonNotCancellable {
		t.Errorf("got %v, cancel: %v", result, c.cancel.err)
	}
}

func TestO1_EndThatIsWrittenStands(t *testing.T) {
	t.Parallel()
	c := setup(t)
	c.charge = slow
	c.after(time.Minute, func() { c.UpdateWorkflow(CancelUpdate, "cancel", c.cancel, ReasonByShopper) })
	c.world.errs["CANCELLED CANCELLED_BY_SHOPPER"] = []error{fault.New(fault.ReasonIllegalTransition, "no").With("status", string(ordering.Expired))}
	result := c.run(t, with("Reverse", "ReleaseStock", "CANCELLED CANCELLED_BY_SHOPPER", "Mail order_expired")...)
	if f := process.Fault(c.cancel.err); result.Status != ordering.Expired || f == nil || f.Reason != fault.ReasonNotCancellable {
		t.Errorf("got %v, cancel: %v", result, c.cancel.err)
	}
}

func TestS4_HoldThatRanOutBeforeTheCommitRefunds(t *testing.T) {
	t.Parallel()
	c := setup(t)
	c.world.errs["CommitStock"] = []error{fault.New(fault.ReasonHoldReleased, "too late")}
	result := c.run(t, with("CommitStock", "Reverse", "ReleaseStock", "CANCELLED OUT_OF_STOCK", "Mail order_cancelled")...)
	if result.Reason != ReasonOutOfStock {
		t.Errorf("got %v", result)
	}
}

func TestBasketThatCannotBeClearedDoesNotStopTheOrder(t *testing.T) {
	t.Parallel()
	c := setup(t)
	c.world.errs["ClearBasket"] = []error{fault.New(fault.ReasonAccessDenied, "no")}
	c.after(time.Hour, func() { c.SignalWorkflow(ShipSignal, nil) })
	if result := c.run(t, with("CommitStock", "CONFIRMED", "ClearBasket", "Mail order_confirmed", "ShipStock", "SHIPPED")...); result.Status != ordering.Shipped {
		t.Errorf("got %v", result)
	}
}

func TestOperatorCancelsTheWorkflow(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		charge func(workflow.Context) (payment.Result, error)
		before []string
	}{
		"while paying":      {slow, nil},
		"after the payment": {func(workflow.Context) (payment.Result, error) { return payment.Result{Status: paid.Captured}, nil }, []string{"CommitStock", "CONFIRMED", "ClearBasket", "Mail order_confirmed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := setup(t)
			c.charge = tc.charge
			c.after(time.Minute, c.CancelWorkflow)
			want := append(with(tc.before...), "Reverse", "ReleaseStock", "CANCELLED CANCELLED_BY_OPERATOR", "Mail order_cancelled")
			if result := c.run(t, want...); result.Reason != ReasonByOperator {
				t.Errorf("got %v", result)
			}
		})
	}
}

func TestPaymentThatBreaksEndsTheOrder(t *testing.T) {
	t.Parallel()
	c := setup(t)
	c.charge = func(workflow.Context) (payment.Result, error) {
		return payment.Result{}, temporal.NewNonRetryableApplicationError("mismatch", string(fault.ReasonPaymentMismatch), nil)
	}
	if result := c.run(t, with("Reverse", "ReleaseStock", "CANCELLED PAYMENT_ERROR", "Mail order_cancelled")...); result.Reason != ReasonPayment {
		t.Errorf("got %v", result)
	}
}

func TestO4_OutageAfterPlacementIsWaitedOut(t *testing.T) {
	t.Parallel()
	c := setup(t)
	c.world.errs["CommitStock"] = slices.Repeat([]error{errors.New("catalog is away")}, 40)
	c.after(24*time.Hour, func() { c.SignalWorkflow(ShipSignal, nil) })
	c.ExecuteWorkflow(Workflow, input)
	if !slices.Contains(c.world.log, "CONFIRMED") || slices.Contains(c.world.log, "Reverse") {
		t.Errorf("the order was given up: %q", c.world.log)
	}
}
