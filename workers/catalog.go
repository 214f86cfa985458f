package workers

import (
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/catalog"
	"bookworm/workflows/catalogchange"
	"bookworm/workflows/reindex"
)

// Catalog runs the changes of books, the rebuild of the search index and its drift
// check. Queue: catalog. The caller starts and stops it, and beside it runs
// Indexer.KeepCurrent.
func Catalog(c client.Client, a *activities.Activities) worker.Worker {
	o := options()
	// Each may embed a batch of books: what the embedding model's own limit is for. A
	// rebuild takes one of them.
	o.MaxConcurrentActivityExecutionSize = 16
	w := worker.New(c, activities.TaskQueue, o)
	w.RegisterWorkflowWithOptions(catalogchange.Workflow, workflow.RegisterOptions{Name: catalogchange.Name})
	w.RegisterWorkflowWithOptions(reindex.Workflow, workflow.RegisterOptions{Name: reindex.Name})
	w.RegisterWorkflowWithOptions(reindex.Check, workflow.RegisterOptions{Name: reindex.DriftName})
	w.RegisterActivity(a)
	return w
}
