// Package retention is the process that deletes, every day, what each context has
// kept for as long as it is kept. docs/processes/erasure.md lists the periods.
package retention

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/compliance"
)

// Name is the workflow's registered name.
const Name = "retention"

// activity names the activities by type; its methods are never called here.
var activity *activities.Activities

// Workflow lets each context delete what is old and returns how much that was, by
// context and kind. One that cannot does not keep the others from it; the workflow
// fails when all have had their turn.
func Workflow(ctx workflow.Context) (map[string]map[string]int64, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    time.Hour,
		ScheduleToCloseTimeout: 6 * time.Hour, // the next day's run tries again
		HeartbeatTimeout:       time.Minute,
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 10 * time.Minute},
	})
	deleted := make(map[string]map[string]int64)
	var failed []error
	for _, context := range activities.Contexts {
		var here map[string]int64
		if err := workflow.ExecuteActivity(ctx, activity.ApplyRetention, context).Get(ctx, &here); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", context, err))
			continue
		}
		deleted[context] = here
		show(ctx, deleted)
	}
	return deleted, errors.Join(failed...)
}

func show(ctx workflow.Context, deleted map[string]map[string]int64) {
	lines := []string{"| context | what | deleted |", "|---|---|---|"}
	for _, context := range workflow.DeterministicKeys(deleted) {
		for _, kind := range workflow.DeterministicKeys(deleted[context]) {
			lines = append(lines, fmt.Sprintf("| %s | %s | %d |", context, kind, deleted[context][kind]))
		}
	}
	workflow.SetCurrentDetails(ctx, strings.Join(lines, "\n"))
}
