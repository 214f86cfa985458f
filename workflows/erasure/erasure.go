// Package erasure is the process that ends all data of a person.
// docs/processes/erasure.md tells it step by step, with what a crash at each step
// leaves behind.
package erasure

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/compliance"
	"bookworm/internal/compliance"
	"bookworm/internal/personal"
	"bookworm/workflows/datarequest"
	"bookworm/workflows/notification"
)

// Name is the workflow's registered name.
const Name = "erasure"

// Keys is the last step: the end of the shopper's keys.
const Keys = "keys"

const (
	// settle is how long the process waits before it looks at what there is. From its
	// beginning no service gets the shopper's key for sealing any more; those that
	// remember it have forgotten it by then.
	settle = personal.SealLife + 5*time.Second

	// What must end first is asked for again after firstPause, which doubles up to
	// lastPause.
	firstPause = 5 * time.Second
	lastPause  = time.Hour

	// mailWithin is how long the end of the key waits for the mail that says so. The
	// mail cannot be sent after it.
	mailWithin = 24 * time.Hour

	// maxWaits is how many of the things that are waited for a person is shown.
	maxWaits = 3
)

// activity names the activities by type; its methods are never called here.
var activity *activities.Activities

// Workflow erases what every context has, one after the other, tells the person,
// and destroys their keys. It waits for as long as something must end first, and
// continues as new when its history gets long.
func Workflow(ctx workflow.Context, in datarequest.Input) error {
	r, done, err := datarequest.Begin(ctx, in, compliance.Erasure, append(slices.Clone(activities.Contexts), Keys))
	if err == nil && !done {
		err = run(ctx, r, in)
	}
	if err := r.Finish(ctx); err != nil {
		return err
	}
	return err
}

func run(ctx workflow.Context, r *datarequest.Run, in datarequest.Input) error {
	if err := r.Show(ctx, compliance.Running); err != nil {
		return err
	}
	if err := workflow.Sleep(ctx, settle); err != nil {
		return err
	}
	// The second time over finds what came in while the first was under way.
	for range 2 {
		for i := range activities.Contexts {
			if err := erase(ctx, r, in, &r.Steps[i]); err != nil {
				return err
			}
		}
	}
	keys := &r.Steps[len(r.Steps)-1]
	if err := datarequest.Local(ctx, activity.CountKeys, r.Request).Get(ctx, &keys.Records); err != nil {
		return err
	}
	if err := tell(ctx, r, in); err != nil {
		return err
	}
	keys.Done = true
	if err := datarequest.Local(ctx, activity.CompleteErasure, r.Request, r.Steps).Get(ctx, nil); err != nil {
		return err
	}
	r.Describe(ctx, string(compliance.Done))
	return datarequest.Local(ctx, activity.RecordProof, r.Request, r.Proof()).Get(ctx, nil)
}

// erase erases what a context has, when nothing there has to end first any more.
func erase(ctx workflow.Context, r *datarequest.Run, in datarequest.Input, step *compliance.Step) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		var erased activities.Erased
		if err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			StartToCloseTimeout: 2 * time.Minute,
			RetryPolicy:         &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: time.Minute},
			Summary:             step.Context,
		}), activity.EraseData, r.Request, step.Context).Get(ctx, &erased); err != nil {
			return err
		}
		if len(erased.WaitingFor) == 0 {
			step.Done, step.Note = true, erased.Note
			step.Records += erased.Erased
			step.Kept = max(step.Kept, erased.Kept)
			return r.Show(ctx, compliance.Running)
		}
		step.Done, step.Note = false, waitsFor(erased.WaitingFor)
		if err := r.Show(ctx, compliance.Waiting); err != nil {
			return err
		}
		if err := workflow.Sleep(ctx, pause); err != nil {
			return err
		}
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			in.Steps = r.Steps
			return workflow.NewContinueAsNewError(ctx, Name, in)
		}
	}
}

func waitsFor(what []string) string {
	more := ""
	if len(what) > maxWaits {
		what, more = what[:maxWaits], fmt.Sprintf(" and %d more", len(what)-maxWaits)
	}
	return "Waits for " + strings.Join(what, ", ") + more + "."
}

// tell sends the last mail and waits until it is out, or cannot be.
func tell(ctx workflow.Context, r *datarequest.Run, in datarequest.Input) error {
	if len(in.Contact) == 0 {
		return nil
	}
	r.Describe(ctx, "the last mail is being sent")
	mail := notification.Send(ctx, notification.Mail{
		Subject: in.Subject, Template: notification.ErasureDone, EventID: r.Request.ID.String(), Contact: in.Contact,
		Request: &notification.Request{ID: r.Request.ID.String(), Proof: r.Proof()},
	})
	sent, err := workflow.AwaitWithTimeout(ctx, mailWithin, mail.IsReady)
	if err != nil {
		return err
	}
	if !sent {
		workflow.GetLogger(ctx).Warn("the mail about an erasure was not sent in time", "request_id", r.Request.ID)
		return nil
	}
	if err := mail.Get(ctx, nil); err != nil {
		workflow.GetLogger(ctx).Warn("the mail about an erasure was not sent", "request_id", r.Request.ID, "error", err)
	}
	return nil
}
