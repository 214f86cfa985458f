package workers

import (
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/compliance"
	"bookworm/workflows/dataexport"
	"bookworm/workflows/erasure"
	"bookworm/workflows/notification"
	"bookworm/workflows/retention"
)

// Compliance runs people's requests for their data, and the daily deletion of what
// was kept long enough. Queue: compliance.
func Compliance(c client.Client, a *activities.Activities) worker.Worker {
	o := options()
	// Each reads through a person's data or a context's tables; they are to go on
	// beside the shop, not instead of it. The rest waits in the task queue.
	o.MaxConcurrentActivityExecutionSize = 8
	w := worker.New(c, activities.TaskQueue, o)
	w.RegisterWorkflowWithOptions(dataexport.Workflow, workflow.RegisterOptions{Name: dataexport.Name})
	w.RegisterWorkflowWithOptions(erasure.Workflow, workflow.RegisterOptions{Name: erasure.Name})
	w.RegisterWorkflowWithOptions(retention.Workflow, workflow.RegisterOptions{Name: retention.Name})
	w.RegisterActivity(a)
	w.RegisterActivity(&notification.Starter{Client: c})
	return w
}
