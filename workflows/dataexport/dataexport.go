// Package dataexport is the process that collects all data of a person.
// docs/processes/export.md tells it step by step.
//
// What is collected never passes through the history: an activity takes it from a
// context and stores it sealed, and tells how much it was.
package dataexport

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/compliance"
	"bookworm/internal/compliance"
	"bookworm/workflows/datarequest"
	"bookworm/workflows/notification"
)

// Name is the workflow's registered name.
const Name = "dataexport"

// contexts is the order in which contexts are asked: an export has an end, and
// conversations are the longest.
var contexts = []string{"ordering", "finance", "basket", "rating", "notification", "compliance", "chat"}

// activity and starter name the activities by type; their methods are never
// called here.
var (
	activity *activities.Activities
	starter  *notification.Starter
)

// Workflow collects what every context has, one after the other, and tells the
// person when it can be fetched. A context that is away is waited for.
func Workflow(ctx workflow.Context, in datarequest.Input) error {
	r, done, err := datarequest.Begin(ctx, in, compliance.Export, contexts)
	if err == nil && !done {
		err = run(ctx, r, in)
	}
	if err := r.Finish(ctx); err != nil {
		return err
	}
	return err
}

func run(ctx workflow.Context, r *datarequest.Run, in datarequest.Input) error {
	for i, step := range r.Steps {
		if err := r.Show(ctx, compliance.Running); err != nil {
			return err
		}
		if err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			StartToCloseTimeout: 15 * time.Minute,
			HeartbeatTimeout:    time.Minute, // one page takes seconds
			RetryPolicy:         &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: time.Minute},
			Summary:             step.Context,
		}), activity.CollectData, r.Request, step.Context).Get(ctx, &r.Steps[i]); err != nil {
			return err
		}
	}
	var expiresAt time.Time
	if err := datarequest.Local(ctx, activity.CompleteExport, r.Request, r.Steps).Get(ctx, &expiresAt); err != nil {
		return err
	}
	r.Describe(ctx, string(compliance.Done))
	if err := datarequest.Local(ctx, activity.RecordProof, r.Request, r.Proof()).Get(ctx, nil); err != nil {
		return err
	}
	if len(in.Contact) == 0 {
		return nil
	}
	return datarequest.Local(ctx, starter.StartNotification, notification.Mail{
		Subject: in.Subject, Template: notification.ExportReady, EventID: r.Request.ID.String(), Contact: in.Contact,
		Request: &notification.Request{ID: r.Request.ID.String(), Proof: r.Proof(), ExpiresAt: expiresAt},
	}).Get(ctx, nil)
}
