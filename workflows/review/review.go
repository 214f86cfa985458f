// Package review is the life of one shopper's review of one book: it is stored,
// moderated, published or left to an operator, edited, reported, deleted, and the
// catalogue and the book's summary follow. docs/processes/review.md tells it step
// by step, with what a crash at each step leaves behind.
//
// The words of a review are not in the histories: messages carry ids, and the
// activities read the rows. The row says what a review needs, whoever changed it,
// so a run begins and goes on with a look at it, and ends when it needs nothing.
package review

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/rating"
	"bookworm/internal/fault"
	"bookworm/internal/process"
)

// Name is the workflow's registered name.
const Name = "review"

// The messages a review takes. The updates answer an activities/rating.Stored
// when the change is stored.
const (
	SubmitUpdate = "submit" // takes the id of a stored submission
	DeleteUpdate = "delete" // takes the version that is meant, 0 for whichever there is
	DecideUpdate = "decide" // takes the id of an operator's stored decision
	LookSignal   = "look"   // says that the row may need something; carries nothing
)

// What operators search for as the step of a review.
const (
	StepModeration = "review is moderated"
	StepOperator   = "review waits for an operator"
)

// Input names the review.
type Input struct{ ReviewID, BookID uuid.UUID }

// review is the state of one run.
type review struct {
	in   Input
	log  log.Logger
	look workflow.ReceiveChannel

	touched    bool   // something came since the row was looked at last
	superseded bool   // a change took effect since the model was asked
	step       string // as operators can search for it
}

// activity and starter name the activities by type; their methods are never
// called here.
var (
	activity *activities.Activities
	starter  *Starter
)

// Workflow runs from a message to the review until the review needs nothing more,
// and continues as new when its history gets long.
func Workflow(ctx workflow.Context, in Input) error {
	r := &review{in: in, log: workflow.GetLogger(ctx), look: workflow.GetSignalChannel(ctx, LookSignal), step: StepModeration}
	for _, update := range []struct {
		name    string
		handler any
	}{{SubmitUpdate, r.submit}, {DeleteUpdate, r.remove}, {DecideUpdate, r.decide}} {
		if err := workflow.SetUpdateHandler(ctx, update.name, update.handler); err != nil {
			return fmt.Errorf("take %s updates: %w", update.name, err)
		}
	}
	err := r.run(ctx)
	// Out of reach of a cancellation, so that every caller gets its answer.
	done, _ := workflow.NewDisconnectedContext(ctx)
	if waitErr := workflow.Await(done, func() bool { return workflow.AllHandlersFinished(done) }); waitErr != nil {
		return fmt.Errorf("finish handlers: %w", waitErr)
	}
	return err
}

// startWithin is how long a run waits for the message it was started with. Should
// that be lost, it looks at the row all the same.
const startWithin = time.Minute

// run is the story of a review.
func (r *review) run(ctx workflow.Context) error {
	waiting, come := workflow.WithCancel(ctx) // the timer stays otherwise
	_, err := workflow.AwaitWithTimeout(waiting, startWithin, func() bool { return r.called(ctx) })
	if come(); err != nil {
		return err
	}
	for {
		r.hear()
		waits, err := r.settle(ctx)
		if err != nil {
			return err
		}
		if err := workflow.Await(ctx, func() bool {
			return r.called(ctx) || (!waits && workflow.AllHandlersFinished(ctx))
		}); err != nil {
			return err
		}
		switch {
		case !r.called(ctx):
			return nil
		case workflow.GetInfo(ctx).GetContinueAsNewSuggested():
			return workflow.NewContinueAsNewError(ctx, Name, r.in)
		}
	}
}

// called reports whether something has come since the last look, and is through.
func (r *review) called(ctx workflow.Context) bool {
	return (r.touched || r.look.Len() > 0) && workflow.AllHandlersFinished(ctx)
}

// hear takes all that has come. It comes before the look that sees its effect.
func (r *review) hear() {
	r.touched = false
	for r.look.ReceiveAsync(nil) {
	}
}

// settle gives the review what it needs, and those who follow it the result. It
// reports whether the review waits for an operator. It returns early when
// something has come meanwhile.
func (r *review) settle(ctx workflow.Context) (waits bool, err error) {
	stands, err := r.work(ctx)
	if err != nil {
		return false, err
	}
	waits = stands.Need == activities.NeedOperator
	if waits {
		if err := r.show(ctx, StepOperator, fmt.Sprintf(
			"Version %d **waits for an operator**. Decide on it in the moderation queue; it has the reason and the reports.", stands.Version)); err != nil {
			return false, err
		}
	} else if err := r.show(ctx, StepModeration, "Nothing is left to do."); err != nil {
		return false, err
	}
	told, err := r.tell(ctx)
	if err != nil || !told {
		return waits, err
	}
	return waits, r.refresh(ctx)
}

// work gives the review what it needs until that is nothing, or an operator, and
// returns where it stands then.
func (r *review) work(ctx workflow.Context) (activities.Standing, error) {
	for {
		var stands activities.Standing
		if err := r.local(ctx, lasting, activity.LookAtReview, r.in.ReviewID).Get(ctx, &stands); err != nil {
			return stands, fmt.Errorf("look at the review: %w", err)
		}
		var err error
		switch stands.Need {
		case activities.NeedModeration:
			err = r.moderate(ctx, stands.Version)
		case activities.NeedHiding:
			err = r.local(ctx, lasting, activity.HideReview, r.in.ReviewID).Get(ctx, nil)
		case activities.NeedOperator, activities.NeedNothing:
			return stands, nil
		}
		if err != nil {
			return stands, fmt.Errorf("%s: %w", stands.Need, err)
		}
	}
}

// moderate judges one version: by the rules, by the model where the rules pass it
// and there is one, and leaves it to an operator when the model cannot. What it
// finds has no effect on another version.
func (r *review) moderate(ctx workflow.Context, version int64) error {
	if err := r.show(ctx, StepModeration, fmt.Sprintf("Version %d is being moderated.", version)); err != nil {
		return err
	}
	r.superseded = false
	var askModel bool
	if err := r.local(ctx, lasting, activity.CheckRules, r.in.ReviewID, version).Get(ctx, &askModel); err != nil || !askModel {
		return err
	}
	asking, stop := workflow.WithCancel(ctx)
	defer stop()
	judged := workflow.ExecuteActivity(workflow.WithActivityOptions(asking, modelOptions), activity.AskModel, r.in.ReviewID, version)
	if err := workflow.Await(ctx, func() bool { return judged.IsReady() || r.superseded }); err != nil {
		return err
	}
	if !judged.IsReady() { // an edit, a deletion or an operator was quicker
		return nil
	}
	if err := judged.Get(ctx, nil); err != nil {
		r.log.Warn("the model did not judge a review, an operator will", "error", err)
		return r.local(ctx, lasting, activity.QueueReview, r.in.ReviewID, version).Get(ctx, nil)
	}
	return nil
}

// modelOptions bound the model: its client retries too, for half a minute, so all
// of it takes some minutes at most.
var modelOptions = workflow.ActivityOptions{
	StartToCloseTimeout: time.Minute,
	RetryPolicy:         &temporal.RetryPolicy{InitialInterval: 2 * time.Second, BackoffCoefficient: 2, MaximumAttempts: 5},
	Summary:             "the model judges a review",
}

// tell makes the catalogue follow. It does not hold up what comes meanwhile, while
// the catalogue is away, and reports false then.
func (r *review) tell(ctx workflow.Context) (told bool, err error) {
	telling, stop := workflow.WithCancel(ctx)
	defer stop()
	done := r.local(telling, lasting, activity.TellRating, r.in.BookID)
	if err := workflow.Await(ctx, func() bool { return done.IsReady() || r.called(ctx) }); err != nil {
		return false, err
	}
	if !done.IsReady() {
		return false, nil
	}
	err = done.Get(ctx, nil)
	if f := process.Fault(err); f != nil {
		r.log.Warn("the catalogue does not take a book's rating", "book_id", r.in.BookID.String(), "reason", string(f.Reason))
		return true, nil
	}
	return err == nil, err
}

// refresh starts the process that summarizes the book's reviews, where one is
// owed.
func (r *review) refresh(ctx workflow.Context) error {
	var owed bool
	if err := r.local(ctx, lasting, activity.OwesSummary, r.in.BookID).Get(ctx, &owed); err != nil || !owed {
		return err
	}
	return r.local(ctx, lasting, starter.RefreshSummary, r.in.BookID).Get(ctx, nil)
}

func (r *review) submit(ctx workflow.Context, requestID uuid.UUID) (activities.Stored, error) {
	return r.change(ctx, activity.StoreReview, r.in.ReviewID, requestID)
}

func (r *review) remove(ctx workflow.Context, seen int64) (activities.Stored, error) {
	return r.change(ctx, activity.DeleteReview, r.in.ReviewID, seen)
}

func (r *review) decide(ctx workflow.Context, requestID uuid.UUID) (activities.Stored, error) {
	return r.change(ctx, activity.DecideReview, r.in.ReviewID, requestID)
}

// change stores what somebody wants, who waits for the answer. Two that come
// together are told apart by the database.
func (r *review) change(ctx workflow.Context, step any, args ...any) (activities.Stored, error) {
	var stored activities.Stored
	err := r.local(ctx, brief, step, args...).Get(ctx, &stored)
	// Also when it failed: it may have landed, and a run that was started for it ends.
	r.touched = true
	if err != nil {
		f := process.Fault(err)
		if f == nil {
			r.log.Warn("a review could not be changed", "error", err)
			f = fault.New(fault.ReasonUnavailable, "The review cannot be changed right now.")
		}
		return activities.Stored{}, process.Refused(f)
	}
	r.superseded = r.superseded || stored.Changed
	return stored, nil
}

// show puts the review's state where operators look first. The step is a write at
// the server's visibility store and made only where it changes: for reviews that
// wait for an operator.
func (r *review) show(ctx workflow.Context, step, details string) error {
	workflow.SetCurrentDetails(ctx, details)
	if step == r.step {
		return nil
	}
	r.step = step
	if err := workflow.UpsertTypedSearchAttributes(ctx, process.Step.ValueSet(step)); err != nil {
		return fmt.Errorf("show the step: %w", err)
	}
	return nil
}

// patience is how long a local activity is retried, overall. While it waits
// longer than a few seconds, the SDK sets timers instead of holding the task.
type patience time.Duration

const (
	brief = patience(5 * time.Second) // somebody waits for the answer
	// Until it succeeds. Zero would mean the length of one attempt.
	lasting = patience(365 * 24 * time.Hour)
)

// local runs a short idempotent step in the worker that runs the workflow: no
// write at the server, no hop.
func (r *review) local(ctx workflow.Context, p patience, step any, args ...any) workflow.Future {
	return workflow.ExecuteLocalActivity(workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		StartToCloseTimeout:    5 * time.Second,
		ScheduleToCloseTimeout: time.Duration(p),
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: 50 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: 30 * time.Second,
		},
	}), step, args...)
}
