package workers

import (
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/notification"
	"bookworm/workflows/notification"
)

// maxMails is how many mails a worker sends at once; each holds a connection to
// the relay and, for a moment, one to the database.
const maxMails = 32

// Notification runs the notification process: one mail a workflow, sent by a
// local activity. Queue: notification. The caller starts and stops it.
//
// A flood of mails (a relay that comes back after a day) waits in the workers, not
// at the relay: the limit is on local activities, because there are no others.
func Notification(c client.Client, a *activities.Activities) worker.Worker {
	o := options()
	o.MaxConcurrentLocalActivityExecutionSize = maxMails
	w := worker.New(c, activities.TaskQueue, o)
	w.RegisterWorkflowWithOptions(notification.Workflow, workflow.RegisterOptions{Name: notification.Name})
	w.RegisterActivity(a) // SendOrderMail, ReleaseOrderMail
	return w
}
