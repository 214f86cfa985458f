// Package checkout is the life of one order, from placement to its end.
// docs/processes/checkout.md tells it step by step, with what a crash at each
// step leaves behind.
package checkout

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	finance "bookworm/activities/finance"
	activities "bookworm/activities/ordering"
	"bookworm/internal/fault"
	paid "bookworm/internal/finance"
	"bookworm/internal/money"
	"bookworm/internal/ordering"
	"bookworm/internal/personal"
	"bookworm/internal/process"
	"bookworm/workflows/notification"
	"bookworm/workflows/payment"
)

// Name is the workflow's registered name.
const Name = "checkout"

// The messages an order takes.
const (
	PlaceUpdate  = "place"  // answers the Snapshot once the order is durable, priced and its stock held
	CancelUpdate = "cancel" // takes a reason, answers the Status once nothing is owed
	ShipSignal   = "ship"   // an operator says that the parcel has left
)

// grace is how much longer than the payment window stock is held, so that a
// payment in time finds its stock.
const grace = 5 * time.Minute

// Why an order ended, beside the reason a canceller gives.
const (
	ReasonDeclined   = "PAYMENT_DECLINED"
	ReasonNotPaid    = "PAYMENT_NOT_COMPLETED"
	ReasonPayment    = "PAYMENT_ERROR"
	ReasonOutOfStock = "OUT_OF_STOCK"
	ReasonByOperator = "CANCELLED_BY_OPERATOR"
	ReasonByShopper  = "CANCELLED_BY_SHOPPER"
)

// Input is what the shopper asked for. What is personal in it is sealed under
// the order's id.
type Input struct {
	OrderID       string
	Attempt       string // the request that started the run, a UUID; the id of its hold
	Subject       string
	Country       string       // ISO 3166-1 alpha-2, where the parcel goes
	ExpectedTotal *money.Money `json:",omitempty"` // what the shopper agreed to, nil for any
	// Items is the basket in version BasketVersion. It is part of the input, and not
	// read by the run, because a local activity that is repeated after a crash could
	// find another basket.
	Items         []ordering.Item
	BasketVersion int64
	Fingerprint   []byte
	PaymentWindow time.Duration   // how long the shopper may take to pay
	Details       personal.Sealed // an ordering.Details
	Contact       personal.Sealed // an activities/notification.Contact
	PaymentMethod personal.Sealed // a finance.PaymentMethod
}

// Result is how an order ended.
type Result struct {
	Status ordering.Status
	Reason string `json:",omitempty"`
}

// checkout is the state of one run.
type checkout struct {
	in    Input
	undo  process.Compensations
	log   log.Logger
	order activities.Snapshot

	status       ordering.Status // "" until placed
	refused      error           // why the order was not placed
	cancelReason string          // "" until somebody cancels
	shipping     bool
	ended        bool
}

// activity and starter name the activities by type; their methods are never
// called here.
var (
	activity *activities.Activities
	starter  *notification.Starter
)

// Workflow runs one order. It fails, and leaves the order id free for another
// attempt, when nothing was placed; in every other case it completes with how the
// order ended.
func Workflow(ctx workflow.Context, in Input) (Result, error) {
	c := &checkout{in: in, log: workflow.GetLogger(ctx)}
	if err := workflow.SetUpdateHandler(ctx, PlaceUpdate, c.awaitPlaced); err != nil {
		return Result{}, fmt.Errorf("take place updates: %w", err)
	}
	if err := workflow.SetUpdateHandler(ctx, CancelUpdate, c.cancel); err != nil {
		return Result{}, fmt.Errorf("take cancel updates: %w", err)
	}
	workflow.Go(ctx, func(ctx workflow.Context) {
		workflow.GetSignalChannel(ctx, ShipSignal).Receive(ctx, nil)
		c.shipping = true
	})
	result, err := c.run(ctx)
	c.ended = true
	// Out of reach of a cancellation, so that every caller gets its answer.
	done, _ := workflow.NewDisconnectedContext(ctx)
	if waitErr := workflow.Await(done, func() bool { return workflow.AllHandlersFinished(done) }); waitErr != nil {
		return Result{}, fmt.Errorf("finish handlers: %w", waitErr)
	}
	return result, err
}

// run is the story of an order.
func (c *checkout) run(ctx workflow.Context) (Result, error) {
	if err := c.place(ctx); err != nil {
		return Result{}, c.refuse(ctx, err)
	}
	payment, err := c.pay(ctx)
	switch {
	case c.cancelReason != "":
		return c.end(ctx, ordering.Cancelled, c.cancelReason)
	case err != nil:
		c.log.Warn("payment failed for a reason of ours", "error", err)
		return c.end(ctx, ordering.Cancelled, ReasonPayment)
	case payment.Status == paid.Declined:
		return c.end(ctx, ordering.PaymentFailed, ReasonDeclined)
	case payment.Status != paid.Captured:
		return c.end(ctx, ordering.Expired, ReasonNotPaid)
	}
	switch err := c.local(ctx, lasting, activity.CommitStock, c.in.Attempt).Get(ctx, nil); {
	case c.interrupted(ctx):
		return c.end(ctx, ordering.Cancelled, c.cancelReason)
	case err != nil: // the hold ran out first: the payment goes back
		return c.end(ctx, ordering.Cancelled, ReasonOutOfStock)
	}
	if err := c.confirm(ctx); err != nil {
		return c.end(ctx, ordering.Cancelled, c.cancelReason)
	}
	return c.fulfil(ctx)
}

// place holds the stock at today's prices and writes the order. Nothing was
// accepted when it fails.
func (c *checkout) place(ctx workflow.Context) error {
	c.undo.Add(func(ctx workflow.Context) error {
		return c.local(ctx, lasting, activity.ReleaseStock, c.in.Attempt).Get(ctx, nil)
	})
	now := workflow.Now(ctx)
	var lines []ordering.Line
	hold := activities.Hold{ID: c.in.Attempt, Items: c.in.Items, ExpireTime: now.Add(c.in.PaymentWindow + grace)}
	if err := c.local(ctx, brief, activity.HoldStock, hold).Get(ctx, &lines); err != nil {
		return err
	}
	order := activities.NewOrder{
		OrderID: c.in.OrderID, Subject: c.in.Subject, Country: c.in.Country, Lines: lines, ExpectedTotal: c.in.ExpectedTotal,
		BasketVersion: c.in.BasketVersion, Fingerprint: c.in.Fingerprint, Details: c.in.Details, PlacedAt: now,
	}
	// From here on the order may be there although the call seems to fail, so this
	// one is retried until it answers.
	if err := c.local(ctx, lasting, activity.CreateOrder, order).Get(ctx, &c.order); err != nil {
		return err
	}
	c.show(ctx, ordering.Placed, "payment is under way")
	return nil
}

// awaitPlaced answers the shopper who placed the order.
func (c *checkout) awaitPlaced(ctx workflow.Context) (activities.Snapshot, error) {
	if err := workflow.Await(ctx, func() bool { return c.status != "" || c.refused != nil }); err != nil {
		return activities.Snapshot{}, err
	}
	return c.order, c.refused
}

// refuse gives back what was held and tells the shopper why there is no order.
func (c *checkout) refuse(ctx workflow.Context, cause error) error {
	f := process.Fault(cause)
	if f == nil {
		c.log.Warn("order could not be placed", "error", cause)
		f = fault.New(fault.ReasonUnavailable, "the order could not be placed, nothing was charged")
	}
	if err := c.undo.Run(ctx); err != nil {
		c.log.Warn("a hold could not be released and will expire", "error", err)
	}
	c.refused = process.Refused(f.With(attemptKey, c.in.Attempt))
	return c.refused
}

// pay waits for the payment, until it is through, somebody cancels, or the
// shopper's time is up. In the latter two cases the payment is reversed when pay
// returns.
func (c *checkout) pay(ctx workflow.Context) (payment.Result, error) {
	due := finance.Payment{OrderID: c.in.OrderID, Subject: c.in.Subject, Amount: c.order.Totals.Total, Method: c.in.PaymentMethod}
	c.undo.Add(func(ctx workflow.Context) error {
		_, err := payment.Reverse(ctx, due)
		return err
	})
	ctx, stop := workflow.WithCancel(ctx)
	defer stop() // also the timer
	child, timeUp := payment.Start(ctx, due), workflow.NewTimer(ctx, c.in.PaymentWindow)
	err := workflow.Await(ctx, func() bool { return child.IsReady() || timeUp.IsReady() || c.cancelReason != "" })
	if err != nil {
		c.cancelReason = ReasonByOperator
	}
	if !child.IsReady() {
		stop()
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	var result payment.Result
	err = child.Get(ctx, &result)
	return result, err
}

// confirm makes the order final for the shopper. It fails only when an operator
// cancelled in between.
func (c *checkout) confirm(ctx workflow.Context) error {
	step := activities.Step{OrderID: c.in.OrderID, Status: ordering.Confirmed, At: workflow.Now(ctx)}
	confirmed := c.local(ctx, lasting, activity.StepOrder, step)
	if err := confirmed.Get(ctx, nil); err != nil {
		if !c.interrupted(ctx) {
			c.cancelReason = ReasonPayment
		}
		return err
	}
	// A basket that cannot be cleared is a nuisance; the order stands.
	if err := c.local(ctx, brief, activity.ClearBasket, c.in.Subject, c.in.BasketVersion).Get(ctx, nil); err != nil {
		c.log.Warn("basket was not cleared", "error", err)
	}
	c.show(ctx, ordering.Confirmed, "waits for shipment")
	c.publish(ctx, "waits for shipment")
	c.notify(ctx, notification.OrderConfirmed, "")
	return nil
}

// fulfil waits for the parcel to leave, or for a cancellation before it does. When
// both are there, the parcel has left: that cannot be undone. It also makes the
// decision the same when it is taken twice, because a cancellation that arrives
// while the last workflow task is under way makes the server repeat that task.
func (c *checkout) fulfil(ctx workflow.Context) (Result, error) {
	if err := workflow.Await(ctx, func() bool { return c.shipping || c.cancelReason != "" }); err != nil {
		c.cancelReason = ReasonByOperator
	}
	if !c.shipping {
		return c.end(ctx, ordering.Cancelled, c.cancelReason)
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if err := c.local(ctx, lasting, activity.ShipStock, c.in.Attempt).Get(ctx, nil); err != nil {
		return Result{}, fmt.Errorf("ship: %w", err)
	}
	return c.close(ctx, ordering.Shipped, "")
}

// end undoes what was done and closes the order in a state where nothing is owed.
func (c *checkout) end(ctx workflow.Context, status ordering.Status, reason string) (Result, error) {
	c.show(ctx, c.status, "is being ended: "+reason)
	if err := c.undo.Run(ctx); err != nil {
		return Result{}, fmt.Errorf("undo order: %w", err)
	}
	return c.close(ctx, status, reason)
}

// close writes the order's last state.
func (c *checkout) close(ctx workflow.Context, status ordering.Status, reason string) (Result, error) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	step := activities.Step{OrderID: c.in.OrderID, Status: status, Reason: reason, At: workflow.Now(ctx)}
	if err := c.local(ctx, lasting, activity.StepOrder, step).Get(ctx, nil); err != nil {
		// A workflow task that is repeated may decide for another end than the one it
		// has written; nothing is owed in either, and what is written stands.
		f := process.Fault(err)
		if f == nil || !ordering.Status(f.Metadata["status"]).Final() {
			return Result{}, fmt.Errorf("close order: %w", err)
		}
		status = ordering.Status(f.Metadata["status"])
	}
	c.show(ctx, status, reason)
	c.publish(ctx, "ended")
	if template, ok := farewells[status]; ok {
		c.notify(ctx, template, reason)
	}
	return Result{Status: status, Reason: reason}, nil
}

// farewells are the e-mails of orders that end without a sale.
var farewells = map[ordering.Status]string{
	ordering.Cancelled:     notification.OrderCancelled,
	ordering.PaymentFailed: notification.PaymentFailed,
	ordering.Expired:       notification.OrderExpired,
}

// cancel answers when the order has ended, by this cancellation or otherwise.
func (c *checkout) cancel(ctx workflow.Context, reason string) (ordering.Status, error) {
	if c.cancelReason == "" {
		c.cancelReason = reason
	}
	if err := workflow.Await(ctx, func() bool { return c.ended }); err != nil {
		return c.status, err
	}
	if c.status != ordering.Cancelled {
		return c.status, process.Refused(fault.New(fault.ReasonNotCancellable, "the order is %s", c.status).With("status", string(c.status)))
	}
	return c.status, nil
}

// interrupted reports whether an operator cancelled the workflow itself.
func (c *checkout) interrupted(ctx workflow.Context) bool {
	if ctx.Err() != nil && c.cancelReason == "" {
		c.cancelReason = ReasonByOperator
	}
	return ctx.Err() != nil
}

// notify lets the notification process tell the shopper, and does not wait for
// it.
func (c *checkout) notify(ctx workflow.Context, template, reason string) {
	mail := notification.Mail{
		OrderID: c.in.OrderID, Subject: c.in.Subject, Template: template, EventID: c.in.OrderID + "/" + template, Contact: c.in.Contact,
		Subtotal: c.order.Totals.Subtotal, Shipping: c.order.Totals.Shipping, Tax: c.order.Totals.Tax,
		Discount: c.order.Totals.Discount, Total: c.order.Totals.Total, Reason: reason,
	}
	for _, l := range c.order.Lines {
		mail.Lines = append(mail.Lines, notification.Line{Title: l.Title, Quantity: l.Quantity, UnitPrice: l.UnitPrice, LineTotal: l.Total})
	}
	if err := c.local(ctx, lasting, starter.StartNotification, mail).Get(ctx, nil); err != nil {
		c.log.Warn("notification was not started", "template", template, "error", err)
	}
}

// show puts the order's state where operators look first.
func (c *checkout) show(ctx workflow.Context, status ordering.Status, step string) {
	c.status = status
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("**%s** %s\n\n%s", status, c.order.Totals.Total, step))
}

// publish updates what operators search by. Each call is a write at the server's
// visibility store, so it is made only where an order rests.
func (c *checkout) publish(ctx workflow.Context, step string) {
	err := workflow.UpsertTypedSearchAttributes(ctx, process.OrderStatus.ValueSet(string(c.status)),
		process.OrderTotal.ValueSet(c.order.Totals.Total.String()), process.Step.ValueSet(step))
	if err != nil {
		c.log.Warn("search attributes were not updated", "error", err)
	}
}

// patience is how long a local activity is retried, overall. While it waits
// longer than a few seconds, the SDK sets timers instead of holding the task.
type patience time.Duration

const (
	brief = patience(5 * time.Second) // somebody waits for the answer, or it does not matter much
	// Until it succeeds: something would be lost otherwise. Zero would mean the
	// length of one attempt.
	lasting = patience(365 * 24 * time.Hour)
)

// local runs a short idempotent step in the worker that runs the workflow: no
// write at the server, no hop.
func (c *checkout) local(ctx workflow.Context, p patience, step any, args ...any) workflow.Future {
	return workflow.ExecuteLocalActivity(workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		StartToCloseTimeout:    5 * time.Second,
		ScheduleToCloseTimeout: time.Duration(p),
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: 50 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: 30 * time.Second,
		},
	}), step, args...)
}
