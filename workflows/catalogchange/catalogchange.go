// Package catalogchange is the process by which one book changes: its row, then the
// search index. docs/processes/catalog-change.md tells it step by step, with what a
// crash at each step leaves behind.
package catalogchange

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/catalog"
)

// Name is the workflow's registered name.
const Name = "catalog-change"

// ChangeUpdate takes a Change and answers an Answer once the row is written and the
// index has it, or patience is over.
const ChangeUpdate = "change"

// patience is how long a caller waits for the index once the row is written. The
// index gets the change later, then.
const patience = 1500 * time.Millisecond

type (
	// Change is a change of one book.
	Change = activities.Change
	// Answer is what became of it.
	Answer struct {
		Replayed bool // the book had been created by the same request before
		Indexed  bool // the search index has it; otherwise it will
	}
)

// activity names the activities by type; its methods are never called here.
var activity *activities.Activities

// change is the state of one run.
type change struct {
	bookID  uuid.UUID
	written int // changes that have a row
	indexed int // of them, how many the index has
}

// Workflow changes one book as often as it is asked to, and ends when nobody waits
// and the index has every change. A refused change leaves nothing behind.
func Workflow(ctx workflow.Context, bookID uuid.UUID) error {
	c := &change{bookID: bookID}
	if err := workflow.SetUpdateHandler(ctx, ChangeUpdate, c.change); err != nil {
		return fmt.Errorf("take changes: %w", err)
	}
	// The change that starts the process is handled before this is reached.
	for {
		if err := workflow.Await(ctx, func() bool { return c.written > c.indexed || workflow.AllHandlersFinished(ctx) }); err != nil {
			return err
		}
		if c.written == c.indexed {
			return nil
		}
		if err := c.index(ctx); err != nil {
			return err
		}
	}
}

// change writes the row and waits a moment for the index.
func (c *change) change(ctx workflow.Context, change Change) (Answer, error) {
	var answer Answer
	if err := writing(ctx, change).Get(ctx, &answer.Replayed); err != nil {
		return Answer{}, err
	}
	c.written++
	mine := c.written
	var err error
	answer.Indexed, err = workflow.AwaitWithTimeout(ctx, patience, func() bool { return c.indexed >= mine })
	return answer, err
}

// writing writes the row in the worker that runs the workflow: one transaction.
// Somebody waits for it.
func writing(ctx workflow.Context, change Change) workflow.Future {
	return workflow.ExecuteLocalActivity(workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		StartToCloseTimeout:    5 * time.Second,
		ScheduleToCloseTimeout: 10 * time.Second,
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: 50 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: time.Second},
	}), activity.WriteBook, change)
}

// index brings all that is written to the index, for as long as that takes.
func (c *change) index(ctx workflow.Context) error {
	upTo := c.written
	c.show(ctx, "is on its way to the search index")
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 30 * time.Second,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: 100 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: 30 * time.Second},
		Summary:             c.bookID.String(),
	}), activity.IndexBook, c.bookID).Get(ctx, nil)
	if err != nil {
		return fmt.Errorf("index book: %w", err)
	}
	c.indexed = upTo
	c.show(ctx, "is in the search index")
	return nil
}

// show puts the state where operators look first.
func (c *change) show(ctx workflow.Context, step string) {
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("book `%s`: %d changes written, %d in the search index\n\nthe latest %s",
		c.bookID, c.written, c.indexed, step))
}
