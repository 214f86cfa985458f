package workers

import (
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/finance"
	"bookworm/workflows/payment"
)

// Finance runs payments. It is the only worker with credentials for the payment
// provider.
func Finance(c client.Client, a *activities.Activities) worker.Worker {
	o := options()
	// Stripe allows about 100 calls a second in live mode and a charge makes three;
	// the rest waits in the task queue, where the scaler sees it.
	o.MaxConcurrentActivityExecutionSize = 50
	w := worker.New(c, activities.TaskQueue, o)
	w.RegisterWorkflowWithOptions(payment.Workflow, workflow.RegisterOptions{Name: payment.Name})
	w.RegisterActivity(a)
	return w
}
