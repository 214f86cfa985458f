// Package payment is the process that takes the money for one order. It runs as
// a child of checkout, on the finance task queue.
package payment

import (
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/finance"
	"bookworm/internal/finance"
	"bookworm/internal/process"
)

// Name is the workflow's registered name.
const Name = "payment"

// ProviderEventSignal tells the process that the provider has news. It carries
// nothing: the process asks the provider.
const ProviderEventSignal = "provider-event"

// pollInterval is how often the provider is asked while the shopper must act,
// should its events not reach us.
const pollInterval = time.Minute

// WorkflowID is the id of an order's payment process.
func WorkflowID(orderID string) string { return "payment/" + orderID }

// Result is how a payment ended: Captured, Declined, Voided or Refunded.
type Result = activities.State

// Workflow charges the order. When the shopper must act at the provider it waits
// for that. Cancelling it reverses whatever was done, and then the result says
// what that was: Voided, Refunded or Declined.
func Workflow(ctx workflow.Context, p activities.Payment) (Result, error) {
	news := workflow.GetSignalChannel(ctx, ProviderEventSignal)
	for {
		var state activities.State
		err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options("authorize and capture "+p.Amount.String())),
			activity.Charge, p).Get(ctx, &state)
		if ctx.Err() != nil {
			return reverse(ctx, p)
		}
		if err != nil {
			return Result{}, fmt.Errorf("charge: %w", err)
		}
		if state.Status != finance.RequiresAction && state.Status != finance.Pending {
			workflow.SetCurrentDetails(ctx, fmt.Sprintf("**%s** %s %s", state.Status, p.Amount, state.DeclineCode))
			return state, nil
		}
		waiting := "waits for the shopper at the payment provider"
		if state.Status == finance.Pending {
			waiting = "waits for the payment provider"
		}
		workflow.SetCurrentDetails(ctx, fmt.Sprintf("**%s** %s: %s", state.Status, p.Amount, waiting))
		if err := workflow.UpsertTypedSearchAttributes(ctx, process.Step.ValueSet(waiting)); err != nil {
			return Result{}, fmt.Errorf("show the step: %w", err)
		}
		if err := await(ctx, news); err != nil {
			return reverse(ctx, p)
		}
	}
}

// activity names the activities by type; its methods are never called here.
var activity *activities.Activities

// await returns when the provider has news or the poll is due, or with an error
// when the process is cancelled.
func await(ctx workflow.Context, news workflow.ReceiveChannel) error {
	for news.ReceiveAsync(nil) {
		// All news up to now are answered by one question to the provider.
	}
	_, err := workflow.AwaitWithTimeout(ctx, pollInterval, func() bool { return news.Len() > 0 })
	for news.ReceiveAsync(nil) {
	}
	return err
}

func reverse(ctx workflow.Context, p activities.Payment) (Result, error) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	state, err := Reverse(ctx, p)
	if err != nil {
		return Result{}, err
	}
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("**%s** after cancellation", state.Status))
	return state, nil
}

// Reverse makes sure that nothing is owed for an order, see
// activities/finance.Activities.Reverse. Checkout calls it as a compensation.
func Reverse(ctx workflow.Context, p activities.Payment) (Result, error) {
	var state activities.State
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options("void or refund "+p.Amount.String())),
		activity.Reverse, p).Get(ctx, &state)
	if err != nil {
		return Result{}, fmt.Errorf("reverse payment: %w", err)
	}
	return state, nil
}

// options never give up: while the provider is away the state of the money is
// unknown, and only the provider can tell. A person sees the retries in the Web
// UI.
func options(summary string) workflow.ActivityOptions {
	return workflow.ActivityOptions{
		TaskQueue:           activities.TaskQueue,
		StartToCloseTimeout: 30 * time.Second,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: 500 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: time.Minute},
		Summary:             summary,
	}
}

// Start begins the payment of an order as a child of the calling process. The
// child is cancelled with its parent's context, and its result is worth waiting
// for also then.
func Start(ctx workflow.Context, p activities.Payment) workflow.ChildWorkflowFuture {
	return workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:          WorkflowID(p.OrderID),
		TaskQueue:           activities.TaskQueue,
		WaitForCancellation: true,
		// A checkout that is terminated or times out must not leave a charge behind.
		ParentClosePolicy:     enumspb.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY,
		StaticSummary:         "payment of " + p.Amount.String(),
		TypedSearchAttributes: temporal.NewSearchAttributes(process.OrderID.ValueSet(p.OrderID), process.Customer.ValueSet(p.Subject)),
	}), Name, p)
}
