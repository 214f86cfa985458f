package catalogchange

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	activities "bookworm/activities/catalog"
	"bookworm/internal/fault"
	"bookworm/internal/process"
)

// WorkflowID is the id of a book's process.
func WorkflowID(bookID uuid.UUID) string { return "catalog/" + bookID.String() }

// Apply makes a change of a book and answers when its row is written and the search
// index has it, or cannot be reached. It may be called again with the same change,
// which is made once.
//
// Errors: the fault that refused the change; UNAVAILABLE when there was no answer in
// time, after which the change may come to be.
func Apply(ctx context.Context, c client.Client, change Change) (Answer, error) {
	// One for each call: the server would answer a repeated id from the outcome of
	// before, also with another change and from a run that has ended.
	updateID := uuid.NewString()
	for {
		// A start operation is used once, so each try makes its own.
		start := c.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
			ID:                       WorkflowID(change.BookID()),
			TaskQueue:                activities.TaskQueue,
			WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
			WorkflowIDReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
			StaticSummary:            "changes of book " + change.BookID().String(),
		}, Name, change.BookID())
		handle, err := c.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
			StartWorkflowOperation: start,
			UpdateOptions: client.UpdateWorkflowOptions{
				UpdateID: updateID, UpdateName: ChangeUpdate, Args: []any{change}, WaitForStage: client.WorkflowUpdateStageCompleted,
			},
		})
		var answer Answer
		if err == nil {
			err = handle.Get(ctx, &answer)
		}
		if err == nil {
			return answer, nil
		}
		if f := process.Fault(err); f != nil {
			return Answer{}, f
		}
		// The wait timed out, not the change: ask again under the same update id.
		if _, timeout := errors.AsType[*client.WorkflowUpdateServiceTimeoutOrCanceledError](err); timeout && ctx.Err() == nil {
			continue
		}
		return Answer{}, fault.New(fault.ReasonUnavailable, "the catalogue's process did not answer").
			WithCause(fmt.Errorf("change book: %w", err))
	}
}
