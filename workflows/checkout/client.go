package checkout

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	activities "bookworm/activities/ordering"
	"bookworm/internal/fault"
	"bookworm/internal/ordering"
	"bookworm/internal/process"
)

// WorkflowID is the id of an order's process.
func WorkflowID(orderID string) string { return "order/" + orderID }

// attemptKey is where a refusal says which attempt it refused.
const attemptKey = "attempt"

// Place starts the order's process, or joins the one that runs, and answers when
// the order is durable, priced and its stock held. However often it is called for
// an order id, there is one order.
//
// Errors: the fault that kept the order from being placed, after which the id is
// free again; UNAVAILABLE when there was no answer in time, after which the order
// may come to be.
func Place(ctx context.Context, c client.Client, in Input) (activities.Snapshot, error) {
	in.Attempt = uuid.NewString()
	// Requests that come together share one update, of which a workflow takes ten at
	// a time.
	snapshot, err := place(ctx, c, in, in.OrderID)
	// The server also answers from the outcome of a run that has ended. A refusal of
	// an earlier request says nothing about this one, which asks under an id of its
	// own.
	if f := fault.As(err); f != nil && f.Metadata[attemptKey] != "" && f.Metadata[attemptKey] != in.Attempt {
		snapshot, err = place(ctx, c, in, in.Attempt)
	}
	if f := fault.As(err); f != nil {
		delete(f.Metadata, attemptKey)
	}
	return snapshot, err
}

func place(ctx context.Context, c client.Client, in Input, updateID string) (activities.Snapshot, error) {
	for {
		// A start operation is used once, so each try makes its own.
		start := c.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
			ID:                       WorkflowID(in.OrderID),
			TaskQueue:                activities.TaskQueue,
			WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
			// A run that placed nothing has failed and may be followed by another.
			WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY,
			StaticSummary:         "order " + in.OrderID,
			TypedSearchAttributes: temporal.NewSearchAttributes(process.OrderID.ValueSet(in.OrderID), process.Customer.ValueSet(in.Subject),
				process.OrderStatus.ValueSet(string(ordering.Placed)), process.Step.ValueSet("placed, payment under way")),
		}, Name, in)
		handle, err := c.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
			StartWorkflowOperation: start,
			UpdateOptions: client.UpdateWorkflowOptions{
				UpdateID: updateID, UpdateName: PlaceUpdate, WaitForStage: client.WorkflowUpdateStageCompleted,
			},
		})
		var snapshot activities.Snapshot
		if err == nil {
			err = handle.Get(ctx, &snapshot)
		}
		if err == nil {
			return snapshot, nil
		}
		if f := process.Fault(err); f != nil {
			return activities.Snapshot{}, f
		}
		// The wait timed out, not the order: ask again under the same update id.
		if _, timeout := errors.AsType[*client.WorkflowUpdateServiceTimeoutOrCanceledError](err); timeout && ctx.Err() == nil {
			continue
		}
		return activities.Snapshot{}, fault.New(fault.ReasonUnavailable, "the order process did not answer").
			WithCause(fmt.Errorf("place order: %w", err))
	}
}

// ErrEnded is returned for an order whose process is over, or was never there.
var ErrEnded = errors.New("the order's process has ended")

// Cancel asks the order's process to end it and answers when nothing is owed any
// more. Errors: ErrEnded; the fault ORDER_NOT_CANCELLABLE; UNAVAILABLE when there
// was no answer in time, after which the order is still being cancelled.
func Cancel(ctx context.Context, c client.Client, orderID, reason string) error {
	handle, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		WorkflowID: WorkflowID(orderID), UpdateID: "cancel", UpdateName: CancelUpdate, Args: []any{reason},
		WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err == nil {
		err = handle.Get(ctx, nil)
	}
	if err == nil {
		return nil
	}
	if f := process.Fault(err); f != nil {
		return f
	}
	if _, gone := errors.AsType[*serviceerror.NotFound](err); gone {
		return ErrEnded
	}
	return fault.New(fault.ReasonUnavailable, "the order is still being cancelled").WithCause(fmt.Errorf("cancel order: %w", err))
}
