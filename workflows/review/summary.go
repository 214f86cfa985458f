package review

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

// SummaryName is the registered name of SummaryWorkflow.
const SummaryName = "review-summary"

// RefreshSignal says that a book's reviews have changed enough for another
// summary; it carries nothing.
const RefreshSignal = "refresh"

// SummaryID is the id of the process that summarizes a book's reviews.
func SummaryID(bookID uuid.UUID) string { return "review-summary/" + bookID.String() }

// settleFor is how long changes are gathered before a summary is written: when
// many come at once, one summary is enough.
const settleFor = time.Minute

// summaryOptions bound the model.
var summaryOptions = workflow.ActivityOptions{
	StartToCloseTimeout: 2 * time.Minute,
	RetryPolicy:         &temporal.RetryPolicy{InitialInterval: 10 * time.Second, BackoffCoefficient: 3, MaximumAttempts: 5},
	Summary:             "the model summarizes reviews",
}

// SummaryWorkflow lets the model summarize a book's reviews, a while after the
// first change, and again for changes that come while it does. When the model
// cannot answer, the book stays without, or with the summary it has, until its
// reviews change again. It returns how many summaries were stored.
func SummaryWorkflow(ctx workflow.Context, bookID uuid.UUID) (stored int, err error) {
	refresh := workflow.GetSignalChannel(ctx, RefreshSignal)
	for {
		workflow.SetCurrentDetails(ctx, "Changes are being gathered.")
		if err := workflow.Sleep(ctx, settleFor); err != nil {
			return stored, err
		}
		for refresh.ReceiveAsync(nil) {
		}
		workflow.SetCurrentDetails(ctx, "The model summarizes the reviews.")
		var shown bool
		err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, summaryOptions), activity.Summarize, bookID).Get(ctx, &shown)
		switch {
		case ctx.Err() != nil:
			return stored, ctx.Err()
		case err != nil:
			workflow.GetLogger(ctx).Warn("reviews were not summarized", "book_id", bookID.String(), "error", err)
			workflow.SetCurrentDetails(ctx, fmt.Sprintf("The model did not answer: %v", err))
		case shown:
			stored++
		}
		if refresh.Len() == 0 {
			return stored, nil
		}
	}
}
