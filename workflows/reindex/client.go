package reindex

import (
	"context"
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	activities "bookworm/activities/catalog"
)

const summary = "rebuild of the search index"

// Begin starts a rebuild, or leaves the one that runs to itself, and does not wait
// for it.
func Begin(ctx context.Context, c client.Client) error {
	_, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: WorkflowID, TaskQueue: activities.TaskQueue, StaticSummary: summary,
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		WorkflowIDReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
	}, Name)
	if err != nil {
		return fmt.Errorf("begin the rebuild: %w", err)
	}
	return nil
}

// ScheduleID is the id of the drift check's schedule.
const ScheduleID = "catalog/drift"

const (
	checkInterval = 10 * time.Minute
	// checkCatchUp is how late a check is still made. Those that a longer outage of
	// Temporal swallowed are not made up for: one check sees all there is.
	checkCatchUp = checkInterval
)

// EnsureSchedule makes the schedule of the drift check, or brings the one that is
// there up to date. It may be called by every process that starts.
func EnsureSchedule(ctx context.Context, c client.Client) error {
	spec := client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: checkInterval}}}
	action := &client.ScheduleWorkflowAction{
		ID: ScheduleID, Workflow: DriftName, TaskQueue: activities.TaskQueue, StaticSummary: "drift check of the search index",
	}
	_, err := c.ScheduleClient().Create(ctx, client.ScheduleOptions{
		ID: ScheduleID, Spec: spec, Action: action,
		Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: checkCatchUp,
	})
	if err == nil {
		return nil
	}
	if !errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
		return fmt.Errorf("make the schedule %s: %w", ScheduleID, err)
	}
	err = c.ScheduleClient().GetHandle(ctx, ScheduleID).Update(ctx, client.ScheduleUpdateOptions{
		DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
			schedule := in.Description.Schedule // whether an operator paused it stays
			schedule.Spec, schedule.Action = &spec, action
			schedule.Policy = &client.SchedulePolicies{Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: checkCatchUp}
			return &client.ScheduleUpdate{Schedule: &schedule}, nil
		},
	})
	if err != nil {
		return fmt.Errorf("update the schedule %s: %w", ScheduleID, err)
	}
	return nil
}
