// Package reindex holds the processes of the search index as a whole: the rebuild,
// which makes a new one beside the one in use and switches over, and the drift check,
// which compares the one in use with the books. docs/search.md tells about both.
package reindex

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/catalog"
)

// The workflows' registered names.
const (
	Name      = "reindex"
	DriftName = "catalog-drift"
)

// WorkflowID is the id of the rebuild: there is one at a time.
const WorkflowID = "catalog/reindex"

// ProgressQuery answers a Progress.
const ProgressQuery = "progress"

const (
	// maxCollections is how many collections one rebuild begins. A second one is needed
	// when the first is lost, or when the embedding model changes meanwhile.
	maxCollections = 5
	// maxRounds is how often a collection is compared with the books until nothing
	// differs. The first round finds nothing, unless the index lost something.
	maxRounds = 5
)

// Progress is how far a rebuild is.
type Progress struct {
	Collection string
	Step       string
	Books      int64 // to bring to the collection
	Left       int64 // of them, those that it has not got yet
}

// activity names the activities by type; its methods are never called here.
var activity *activities.Activities

// rebuild is the state of one run.
type rebuild struct{ Progress }

// Workflow makes a new collection, brings all books to it, compares it with them,
// puts it in use and drops the others. What changes meanwhile is brought to both. It
// goes on where it stopped after the death of any process, and waits for an index or
// an embedding model that is away.
func Workflow(ctx workflow.Context) (Progress, error) {
	r := &rebuild{}
	if err := workflow.SetQueryHandler(ctx, ProgressQuery, func() (Progress, error) { return r.Progress, nil }); err != nil {
		return Progress{}, fmt.Errorf("answer queries: %w", err)
	}
	for n := 1; ; n++ {
		err := r.run(ctx, n)
		if err == nil || !lost(err) || n == maxCollections {
			return r.Progress, err
		}
		workflow.GetLogger(ctx).Warn("the collection that was being built is lost, another one is begun", "collection", r.Collection, "error", err)
	}
}

// run is the story of one collection.
func (r *rebuild) run(ctx workflow.Context, n int) error {
	r.show(ctx, "a new collection is made")
	tag := fmt.Sprintf("%s-%d", strconv.FormatInt(workflow.Now(ctx).UnixMilli(), 36), n)
	var begun activities.Rebuild
	if err := run(ctx, activity.BeginRebuild, tag).Get(ctx, &begun); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	r.Collection, r.Books, r.Left = begun.Collection, begun.Books, begun.Books
	for range maxRounds {
		if err := r.fill(ctx); err != nil {
			return err
		}
		r.show(ctx, "the collection is compared with the books")
		var drift activities.Drift
		if err := run(ctx, activity.VerifyIndex, r.Collection).Get(ctx, &drift); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		if !drift.Clean() {
			workflow.GetLogger(ctx).Warn("the collection is not what the books are, it is mended", "drift", drift)
			continue
		}
		if err := run(ctx, activity.SwitchIndex, r.Collection).Get(ctx, nil); err != nil {
			return fmt.Errorf("switch: %w", err)
		}
		r.show(ctx, "the collection is in use")
		return nil
	}
	return fmt.Errorf("%s differs from the books after %d rounds", r.Collection, maxRounds)
}

// fill works off what is pending for the collection.
func (r *rebuild) fill(ctx workflow.Context) error {
	for {
		r.show(ctx, "books are brought to it")
		if err := run(ctx, activity.FillIndex, r.Collection).Get(ctx, &r.Left); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
		if r.Left == 0 {
			return nil
		}
	}
}

// lost reports that only a new collection helps.
func lost(err error) bool {
	app, ok := errors.AsType[*temporal.ApplicationError](err)
	return ok && app.Type() == activities.ErrRebuild
}

// run runs an activity of the index until it succeeds. A worker that died is noticed
// by its heartbeats; the next one goes on with what is left.
func run(ctx workflow.Context, step any, args ...any) workflow.Future {
	return workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 10 * time.Minute,
		HeartbeatTimeout:    30 * time.Second,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: 500 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: 30 * time.Second},
	}), step, args...)
}

// show puts the progress where operators look first.
func (r *rebuild) show(ctx workflow.Context, step string) {
	r.Step = step
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("**%s**\n\n%d of %d books; %s", r.Collection, r.Books-r.Left, r.Books, step))
}

// Check compares the index in use with the books and mends what differs. When only a
// rebuild helps, it begins one and does not wait for it.
func Check(ctx workflow.Context) (activities.Drift, error) {
	var drift activities.Drift
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 5 * time.Minute,
		HeartbeatTimeout:    30 * time.Second,
		// The next check comes soon.
		ScheduleToCloseTimeout: checkInterval - time.Minute,
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: time.Minute},
	}), activity.CheckIndex).Get(ctx, &drift)
	if err != nil && lost(err) {
		workflow.SetCurrentDetails(ctx, "the search index has to be rebuilt: `"+WorkflowID+"`")
		return drift, begin(ctx)
	}
	if err != nil {
		return drift, fmt.Errorf("check the search index: %w", err)
	}
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("%d compared: %d missing, %d stale, %d orphaned; all mended",
		drift.Checked, drift.Missing, drift.Stale, drift.Orphans))
	return drift, nil
}

// begin starts the rebuild on its own; one that runs already will do.
func begin(ctx workflow.Context) error {
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: WorkflowID, TaskQueue: activities.TaskQueue, ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_ABANDON,
		StaticSummary: summary,
	}), Name)
	err := child.GetChildWorkflowExecution().Get(ctx, nil)
	if temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("begin the rebuild: %w", err)
	}
	return nil
}
