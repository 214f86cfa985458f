package datarequest

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	activities "bookworm/activities/compliance"
	"bookworm/internal/fault"
	"bookworm/internal/process"
)

// Start says which process takes a request.
type Start struct {
	WorkflowID string // one for all requests of a kind of a person
	Name       string
	Summary    string
}

// maxTries is how often a request meets a process that ends at that moment before
// it gives up.
const maxTries = 5

// Ask starts the person's process, or joins the one that runs, and returns the id
// of its request once that is written down.
//
// Errors: the fault that refused it; UNAVAILABLE when there was no answer in time,
// after which it may come to be.
func Ask(ctx context.Context, c client.Client, s Start, in Input) (uuid.UUID, error) {
	// Each call has an update id of its own: the server answers from the outcome of an
	// earlier update with the same id, also one of a run that has ended.
	updateID := uuid.NewString()
	for try := 1; ; {
		// A start operation is used once, so each try makes its own.
		start := c.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
			ID:                       s.WorkflowID,
			TaskQueue:                activities.TaskQueue,
			WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
			WorkflowIDReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
			StaticSummary:            s.Summary,
			TypedSearchAttributes:    temporal.NewSearchAttributes(process.Customer.ValueSet(in.Subject)),
		}, s.Name, in)
		handle, err := c.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
			StartWorkflowOperation: start,
			UpdateOptions: client.UpdateWorkflowOptions{
				UpdateID: updateID, UpdateName: BeginUpdate, WaitForStage: client.WorkflowUpdateStageCompleted,
			},
		})
		var id uuid.UUID
		if err == nil {
			err = handle.Get(ctx, &id)
		}
		if err == nil {
			return id, nil
		}
		if f := process.Fault(err); f != nil {
			return uuid.Nil, f
		}
		// The wait timed out, not the request: ask again under the same id.
		if _, timeout := errors.AsType[*client.WorkflowUpdateServiceTimeoutOrCanceledError](err); timeout && ctx.Err() == nil {
			continue
		}
		// The run ended before it saw the update: another one takes it.
		if _, ended := errors.AsType[*serviceerror.NotFound](err); ended && ctx.Err() == nil && try < maxTries {
			try++
			continue
		}
		return uuid.Nil, fault.New(fault.ReasonUnavailable, "The request's process did not answer.").WithCause(fmt.Errorf("ask for %s: %w", s.Name, err))
	}
}
