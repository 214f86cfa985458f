// Package ratings is the process that counts all reviews anew and mends what
// differs: the ratings beside the reviews, those in the catalogue, and reviews
// that no process takes care of.
package ratings

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/rating"
	"bookworm/workflows/review"
)

// Name is the workflow's registered name, WorkflowID the id of its only run.
const (
	Name       = "ratings"
	WorkflowID = "ratings/rebuild"
)

// Result counts what was found. All but Books are zero when nothing was amiss.
type Result struct {
	Books        int // with reviews, now or once
	Mended       int // whose rating was not what the reviews say
	Rescored     int // whose score rested on a shop's mean that has moved since
	Behind       int // of which the catalogue had an older rating, or none
	Contradicted int // of which the catalogue had another rating, or one that was never ours
	Unknown      int // that the catalogue does not have
	Waiting      int // reviews that waited for something and whose process was made to look
}

// Progress is how far a rebuild is; the zero Progress begins one.
type Progress struct {
	Found     Result
	After     uuid.UUID // the last book, or review, that was looked at
	Recounted bool
	Compared  bool
}

// activity and starter name the activities by type; their methods are never
// called here.
var (
	activity *activities.Activities
	starter  *review.Starter
)

// Workflow rebuilds, a batch at a time. It can run beside any change of reviews.
// When it is stopped, another one begins anew, which changes nothing that is right.
func Workflow(ctx workflow.Context, p Progress) (Result, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 2 * time.Minute,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: time.Minute},
	})
	for {
		p.show(ctx)
		done, err := p.next(ctx)
		if err != nil || done {
			p.show(ctx)
			return p.Found, err
		}
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			return p.Found, workflow.NewContinueAsNewError(ctx, Name, p)
		}
	}
}

// next takes the next batch: first all books are counted, then all are compared,
// then all reviews that wait are looked at.
func (p *Progress) next(ctx workflow.Context) (done bool, err error) {
	switch {
	case !p.Recounted:
		var batch activities.Recounted
		if err := workflow.ExecuteActivity(ctx, activity.RecountRatings, p.After).Get(ctx, &batch); err != nil {
			return false, fmt.Errorf("recount: %w", err)
		}
		p.Found.Books += batch.Books
		p.Found.Mended += batch.Mended
		p.Found.Rescored += batch.Rescored
		if p.After = batch.Last; batch.Books == 0 {
			p.Recounted, p.After = true, uuid.Nil
		}
	case !p.Compared:
		var batch activities.Compared
		if err := workflow.ExecuteActivity(ctx, activity.CompareRatings, p.After).Get(ctx, &batch); err != nil {
			return false, fmt.Errorf("compare: %w", err)
		}
		p.Found.Behind += batch.Behind
		p.Found.Contradicted += batch.Contradicted
		p.Found.Unknown += batch.Unknown
		if p.After = batch.Last; batch.Done {
			p.Compared, p.After = true, uuid.Nil
		}
	default:
		var batch activities.Waiting
		if err := workflow.ExecuteActivity(ctx, activity.ListUnsettled, p.After).Get(ctx, &batch); err != nil {
			return false, fmt.Errorf("list waiting reviews: %w", err)
		}
		if len(batch.Reviews) == 0 {
			return true, nil
		}
		if err := workflow.ExecuteActivity(ctx, starter.LookAtReviews, batch).Get(ctx, nil); err != nil {
			return false, fmt.Errorf("wake waiting reviews: %w", err)
		}
		p.Found.Waiting += len(batch.Reviews)
		p.After = batch.Reviews[len(batch.Reviews)-1].ReviewID
	}
	return false, nil
}

// show puts what was found so far where operators look first.
func (p *Progress) show(ctx workflow.Context) {
	f := p.Found
	workflow.SetCurrentDetails(ctx, fmt.Sprintf(`| | |
|---|---|
| books counted | %d |
| ratings mended | %d |
| scores renewed | %d |
| catalogue behind | %d |
| catalogue contradicted | %d |
| unknown to the catalogue | %d |
| reviews that wait | %d |`, f.Books, f.Mended, f.Rescored, f.Behind, f.Contradicted, f.Unknown, f.Waiting))
}
