// Package notification is the process that tells a shopper of an event of their
// order, or of what became of a request for their data, by mail. It is started by
// those processes and lives on its own.
package notification

import (
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/notification"
	"bookworm/internal/notification"
	"bookworm/internal/process"
)

// Name is the workflow's registered name.
const Name = "notification"

// RetrySignal is an operator's word that a parked mail is to be sent (again). It
// carries nothing. Signals that come while the mail is not parked have no effect.
const RetrySignal = "retry"

// The mails there are.
const (
	OrderConfirmed = notification.OrderConfirmed
	OrderCancelled = notification.OrderCancelled
	PaymentFailed  = notification.PaymentFailed
	OrderExpired   = notification.OrderExpired
	ExportReady    = notification.ExportReady
	ErasureDone    = notification.ErasureDone
)

type (
	// Mail is what to tell.
	Mail = activities.Mail
	// Request is a request for a person's data in a Mail.
	Request = activities.Request
	// Line is a book in a Mail.
	Line = activities.Line
	// Result is what became of a Mail.
	Result = activities.Result
)

// giveUp is how long a relay that is down, or that puts us off, is tried.
const giveUp = 72 * time.Hour

// WorkflowID is the id of the process that sends one mail about one order, or one
// request for a person's data.
func WorkflowID(about, template string) string {
	return "notification/" + about + "/" + template
}

// activity names the activities by type; its methods are never called here.
var activity *activities.Activities

// Workflow sends the mail. It completes when the relay has it or the shopper does
// not want it. A mail that the relay refuses for good, or puts off for three days,
// or may or may not have accepted, parks: the workflow stays open and says why in
// its details, until an operator signals retry or cancels it.
func Workflow(ctx workflow.Context, m Mail) (Result, error) {
	orders := workflow.GetSignalChannel(ctx, RetrySignal)
	for {
		show(ctx, m, "is being sent", "")
		result, err := send(ctx, m)
		if ctx.Err() != nil {
			return result, ctx.Err()
		}
		unknown := err == nil && result.State == string(notification.Unknown)
		if err == nil && !unknown {
			show(ctx, m, result.State, "")
			return result, nil
		}
		if err := park(ctx, m, orders, problem(result, err)); err != nil {
			return result, err
		}
		if unknown {
			if err := local(ctx, activity.ReleaseOrderMail, m).Get(ctx, nil); err != nil {
				return result, fmt.Errorf("release the mail: %w", err)
			}
		}
	}
}

func send(ctx workflow.Context, m Mail) (Result, error) {
	var result Result
	err := local(ctx, activity.SendOrderMail, m).Get(ctx, &result)
	return result, err
}

// local runs an activity in the worker that runs the workflow, without a write at
// the server. Retries start within a second and slow down to one in half an hour;
// those that wait for more than a workflow task's ten seconds are timers of the
// server, so a worker that stops in between loses nothing.
func local(ctx workflow.Context, step any, m Mail) workflow.Future {
	return workflow.ExecuteLocalActivity(workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		StartToCloseTimeout:    activities.MaxSend + 5*time.Second,
		ScheduleToCloseTimeout: giveUp,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 30 * time.Minute,
		},
		Summary: m.Template,
	}), step, m)
}

// problem says to an operator why a mail did not go out.
func problem(result Result, err error) string {
	if err == nil {
		return "The connection was lost after the mail was handed over. The relay may have accepted it: look in its log for `" +
			result.MessageID + "`. Retry only if it is not there."
	}
	message := err.Error()
	app, ok := errors.AsType[*temporal.ApplicationError](err)
	if ok {
		message = app.Message()
	}
	if ok && app.NonRetryable() {
		return message
	}
	return fmt.Sprintf("Not sent in %.0f hours: %s", giveUp.Hours(), message)
}

// park waits for an operator, and returns an error when that one cancels the
// workflow.
func park(ctx workflow.Context, m Mail, orders workflow.ReceiveChannel, why string) error {
	// An order given before anybody could know why the mail is parked is not one.
	for orders.ReceiveAsync(nil) {
	}
	workflow.GetLogger(ctx).Warn("mail is parked", "about", m.About(), "template", m.Template, "problem", why)
	show(ctx, m, "parked", why+
		"\n\nSignal `"+RetrySignal+"` to send it, or cancel this workflow to leave it at that.")
	if err := step(ctx, "mail is parked"); err != nil {
		return err
	}
	selector := workflow.NewSelector(ctx)
	selector.AddReceive(ctx.Done(), func(workflow.ReceiveChannel, bool) {})
	selector.AddReceive(orders, func(orders workflow.ReceiveChannel, _ bool) { orders.Receive(ctx, nil) })
	selector.Select(ctx)
	if ctx.Err() != nil {
		show(ctx, m, "left unsent by an operator", why)
		return ctx.Err()
	}
	return step(ctx, "mail is sent again")
}

// step makes the process findable by where it stands. Only parked mails pay for
// this write.
func step(ctx workflow.Context, s string) error {
	if err := workflow.UpsertTypedSearchAttributes(ctx, process.Step.ValueSet(s)); err != nil {
		return fmt.Errorf("show the step: %w", err)
	}
	return nil
}

// show puts the mail's state where operators look first.
func show(ctx workflow.Context, m Mail, state, more string) {
	what := "order"
	if m.Request != nil {
		what = "request"
	}
	details := fmt.Sprintf("**%s** of %s `%s`: %s", m.Template, what, m.About(), state)
	if more != "" {
		details += "\n\n" + more
	}
	workflow.SetCurrentDetails(ctx, details)
}

// Send begins to send a mail as a child of the calling process, which may wait for
// it. It goes on when its parent ends. The mail that is on its way already is
// another's child, and an error of the future.
func Send(ctx workflow.Context, m Mail) workflow.ChildWorkflowFuture {
	return workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:            WorkflowID(m.About(), m.Template),
		TaskQueue:             activities.TaskQueue,
		ParentClosePolicy:     enumspb.PARENT_CLOSE_POLICY_ABANDON,
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		StaticSummary:         m.Template + " mail",
		TypedSearchAttributes: temporal.NewSearchAttributes(process.Customer.ValueSet(m.Subject)),
	}), Name, m)
}
