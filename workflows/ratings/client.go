package ratings

import (
	"context"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	activities "bookworm/activities/rating"
	"bookworm/internal/fault"
)

// Start begins a rebuild and does not wait for it; while one runs it does nothing.
// Errors: UNAVAILABLE.
func Start(ctx context.Context, c client.Client) error {
	_, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: WorkflowID, TaskQueue: activities.TaskQueue,
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		WorkflowIDReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		StaticSummary:            "all reviews are counted anew",
	}, Name, Progress{})
	if err != nil {
		return fault.New(fault.ReasonUnavailable, "The rebuild could not be started.").WithCause(fmt.Errorf("start rebuild of ratings: %w", err))
	}
	return nil
}
