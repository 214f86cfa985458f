package workers

import (
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/ordering"
	"bookworm/workflows/checkout"
	"bookworm/workflows/notification"
)

// Ordering runs checkout. Its activities are local ones, so they take no slots of
// the activity poller and are bounded by the workflow tasks that call them.
func Ordering(c client.Client, a *activities.Activities) worker.Worker {
	o := options()
	// A place or a confirmation holds its slot while it talks to the catalogue, the
	// basket and the database.
	o.MaxConcurrentWorkflowTaskExecutionSize = 200
	o.MaxConcurrentLocalActivityExecutionSize = 200
	o.LocalActivityWorkerOnly = true
	w := worker.New(c, activities.TaskQueue, o)
	w.RegisterWorkflowWithOptions(checkout.Workflow, workflow.RegisterOptions{Name: checkout.Name})
	w.RegisterActivity(a)
	w.RegisterActivity(&notification.Starter{Client: c})
	return w
}
