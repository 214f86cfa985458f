package workers

import (
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/rating"
	"bookworm/workflows/ratings"
	"bookworm/workflows/review"
)

// Rating runs reviews: their moderation, their summaries, and the rebuild of
// ratings. It is the only worker that asks the model about reviews.
func Rating(c client.Client, a *activities.Activities) worker.Worker {
	o := options()
	// Most of these wait for the model, which sets its own limits; the rest waits in
	// the task queue. Shoppers wait for local activities, which have slots of their own.
	o.MaxConcurrentActivityExecutionSize = 20
	w := worker.New(c, activities.TaskQueue, o)
	w.RegisterWorkflowWithOptions(review.Workflow, workflow.RegisterOptions{Name: review.Name})
	w.RegisterWorkflowWithOptions(review.SummaryWorkflow, workflow.RegisterOptions{Name: review.SummaryName})
	w.RegisterWorkflowWithOptions(ratings.Workflow, workflow.RegisterOptions{Name: ratings.Name})
	w.RegisterActivity(a)
	w.RegisterActivity(&review.Starter{Client: c})
	return w
}
