package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"bookworm/dev/folder"
)

// bare is the floor under an order: a workflow with the shape of checkout whose
// activities do nothing.
type bare struct {
	client  client.Client
	workers []worker.Worker
}

const (
	bareQueue = "bare"
	bareChild = "bare-child"
)

func nothing(context.Context) error { return nil }

// confirmations holds a channel for each bare order that is under way, closed
// when it is confirmed. Waiting on it costs the server nothing.
var confirmations sync.Map

func confirm(_ context.Context, workflowID string) error {
	if c, ok := confirmations.LoadAndDelete(workflowID); ok {
		close(c.(chan struct{})) //nolint:forcetypeassert // run stores nothing else
	}
	return nil
}

// bareOrder places with a local activity, pays with a child of one activity,
// confirms with a local activity, and tells with a child that is left alone.
func bareOrder(ctx workflow.Context) error {
	placed := false
	if err := workflow.SetUpdateHandler(ctx, "place", func(ctx workflow.Context) error {
		return workflow.Await(ctx, func() bool { return placed })
	}); err != nil {
		return err
	}
	local := workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{StartToCloseTimeout: time.Second})
	if err := workflow.ExecuteLocalActivity(local, nothing).Get(ctx, nil); err != nil {
		return err
	}
	placed = true
	child := func(queue string, policy enumspb.ParentClosePolicy) workflow.ChildWorkflowFuture {
		return workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
			TaskQueue: queue, ParentClosePolicy: policy,
		}), bareChild, policy == enumspb.PARENT_CLOSE_POLICY_ABANDON)
	}
	if err := child(bareQueue+"-pay", enumspb.PARENT_CLOSE_POLICY_TERMINATE).Get(ctx, nil); err != nil {
		return err
	}
	if err := workflow.ExecuteLocalActivity(local, confirm, workflow.GetInfo(ctx).WorkflowExecution.ID).Get(ctx, nil); err != nil {
		return err
	}
	return child(bareQueue+"-tell", enumspb.PARENT_CLOSE_POLICY_ABANDON).GetChildWorkflowExecution().Get(ctx, nil)
}

func bareStep(ctx workflow.Context, isLocal bool) error {
	if isLocal {
		ctx = workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{StartToCloseTimeout: time.Second})
		return workflow.ExecuteLocalActivity(ctx, nothing).Get(ctx, nil)
	}
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Second})
	return workflow.ExecuteActivity(ctx, nothing).Get(ctx, nil)
}

func startBare(ctx context.Context, a folder.Addresses) (*bare, error) {
	c, err := client.DialContext(ctx, client.Options{HostPort: a["BOOKWORM_TEMPORAL_ADDRESS"], Namespace: a["BOOKWORM_TEMPORAL_NAMESPACE"], Logger: quiet{}})
	if err != nil {
		return nil, fmt.Errorf("connect to temporal: %w", err)
	}
	b := &bare{client: c}
	for _, queue := range []string{bareQueue, bareQueue + "-pay", bareQueue + "-tell"} {
		pollers := worker.NewPollerBehaviorSimpleMaximum(worker.PollerBehaviorSimpleMaximumOptions{MaximumNumberOfPollers: 8})
		w := worker.New(c, queue, worker.Options{WorkflowTaskPollerBehavior: pollers, ActivityTaskPollerBehavior: pollers})
		w.RegisterWorkflowWithOptions(bareOrder, workflow.RegisterOptions{Name: bareQueue})
		w.RegisterWorkflowWithOptions(bareStep, workflow.RegisterOptions{Name: bareChild})
		w.RegisterActivity(nothing)
		w.RegisterActivity(confirm)
		if err := w.Start(); err != nil {
			return nil, fmt.Errorf("start worker: %w", err)
		}
		b.workers = append(b.workers, w)
	}
	return b, nil
}

func (b *bare) stop() {
	for _, w := range b.workers {
		w.Stop()
	}
	b.client.Close()
}

// run places one bare order and waits for its confirmation.
func (b *bare) run(ctx context.Context) (trip, error) {
	id := uuid.NewString()
	confirmed := make(chan struct{})
	confirmations.Store("bare/"+id, confirmed)
	began := time.Now()
	handle, err := b.client.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: b.client.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
			ID: "bare/" + id, TaskQueue: bareQueue, WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		}, bareQueue),
		UpdateOptions: client.UpdateWorkflowOptions{UpdateID: id, UpdateName: "place", WaitForStage: client.WorkflowUpdateStageCompleted},
	})
	if err == nil {
		err = handle.Get(ctx, nil)
	}
	if err != nil {
		return trip{}, fmt.Errorf("bare order: %w", err)
	}
	placed := time.Since(began)
	select {
	case <-confirmed:
	case <-ctx.Done():
		return trip{}, fmt.Errorf("await bare order: %w", context.Cause(ctx))
	}
	return trip{placed, time.Since(began)}, nil
}

// quiet drops the SDK's log.
type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}
