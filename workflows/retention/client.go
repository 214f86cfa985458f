package retention

import (
	"context"
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	activities "bookworm/activities/compliance"
)

// ScheduleID is the id of the schedule.
const ScheduleID = "compliance/retention"

const (
	interval = 24 * time.Hour
	// startAt is when in the day it runs, in UTC.
	startAt = 3 * time.Hour
	// catchUp is how late a run is still made after an outage of Temporal.
	catchUp = interval
)

// EnsureSchedule makes the schedule, or brings the one that is there up to date.
// It may be called by every process that starts.
func EnsureSchedule(ctx context.Context, c client.Client) error {
	spec := client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: interval, Offset: startAt}}}
	action := &client.ScheduleWorkflowAction{
		ID: ScheduleID, Workflow: Name, TaskQueue: activities.TaskQueue, StaticSummary: "deletion of what was kept long enough",
	}
	_, err := c.ScheduleClient().Create(ctx, client.ScheduleOptions{
		ID: ScheduleID, Spec: spec, Action: action, Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: catchUp,
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
			schedule.Policy = &client.SchedulePolicies{Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: catchUp}
			return &client.ScheduleUpdate{Schedule: &schedule}, nil
		},
	})
	if err != nil {
		return fmt.Errorf("update the schedule %s: %w", ScheduleID, err)
	}
	return nil
}
