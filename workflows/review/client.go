package review

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	activities "bookworm/activities/rating"
	"bookworm/internal/fault"
	"bookworm/internal/process"
)

// WorkflowID is the id of a review's process.
func WorkflowID(reviewID uuid.UUID) string { return "review/" + reviewID.String() }

// Ref names a review and its author, who operators can search for.
type Ref struct {
	ID, BookID uuid.UUID
	Subject    string
}

// Submit lets a stored submission take effect and answers when it has. The process
// that moderates it starts, or goes on, with it.
//
// Errors: the fault that refused it (PURCHASE_REQUIRED, BOOK_NOT_FOUND,
// STALE_VERSION); UNAVAILABLE when there was no answer in time, after which it may
// come to take effect.
func Submit(ctx context.Context, c client.Client, r Ref, requestID uuid.UUID) (activities.Stored, error) {
	return update(ctx, c, r, SubmitUpdate, requestID.String(), requestID)
}

// Delete takes a review away; seen is the version that is meant, 0 for whichever
// there is. Errors: STALE_VERSION; UNAVAILABLE as with Submit.
func Delete(ctx context.Context, c client.Client, r Ref, seen int64) (activities.Stored, error) {
	return update(ctx, c, r, DeleteUpdate, uuid.NewString(), seen)
}

// Decide lets an operator's stored decision take effect. A process that is gone
// starts with it. Errors: REVIEW_NOT_FOUND, STALE_VERSION; UNAVAILABLE as with
// Submit.
func Decide(ctx context.Context, c client.Client, r Ref, requestID uuid.UUID) (activities.Stored, error) {
	return update(ctx, c, r, DecideUpdate, requestID.String(), requestID)
}

// maxTries is how often a change meets a process that ends at that moment before
// it gives up. The server tries twice by itself.
const maxTries = 5

// update starts the review's process, or joins the one that runs. Each call has
// an update id of its own: the server answers from the outcome of an earlier
// update with the same id, also one of a run that has ended.
func update(ctx context.Context, c client.Client, r Ref, name, id string, arg any) (activities.Stored, error) {
	for try := 1; ; {
		// A start operation is used once, so each try makes its own.
		handle, err := c.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
			StartWorkflowOperation: c.NewWithStartWorkflowOperation(start(r), Name, Input{ReviewID: r.ID, BookID: r.BookID}),
			UpdateOptions: client.UpdateWorkflowOptions{
				UpdateID: id, UpdateName: name, Args: []any{arg}, WaitForStage: client.WorkflowUpdateStageCompleted,
			},
		})
		var stored activities.Stored
		if err == nil {
			err = handle.Get(ctx, &stored)
		}
		if err == nil {
			return stored, nil
		}
		if f := process.Fault(err); f != nil {
			return activities.Stored{}, f
		}
		// The wait timed out, not the change: ask again under the same id.
		if _, timeout := errors.AsType[*client.WorkflowUpdateServiceTimeoutOrCanceledError](err); timeout && ctx.Err() == nil {
			continue
		}
		// The run ended before it saw the update, or wanted to in the task in which the
		// update came, which fails then: another run takes it, or another task.
		_, ended := errors.AsType[*serviceerror.NotFound](err)
		_, ending := errors.AsType[*serviceerror.WorkflowNotReady](err)
		if (ended || ending) && ctx.Err() == nil && try < maxTries {
			try++
			continue
		}
		return activities.Stored{}, fault.New(fault.ReasonUnavailable, "The review's process did not answer.").
			WithCause(fmt.Errorf("%s review: %w", name, err))
	}
}

func start(r Ref) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{
		ID:                       WorkflowID(r.ID),
		TaskQueue:                activities.TaskQueue,
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		WorkflowIDReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		StaticSummary:            "review " + r.ID.String(),
		TypedSearchAttributes:    temporal.NewSearchAttributes(process.Customer.ValueSet(r.Subject), process.Step.ValueSet(StepModeration)),
	}
}

// Look makes the review's process look at the row, starting it when there is none.
// It does not wait. Errors: UNAVAILABLE.
func Look(ctx context.Context, c client.Client, r Ref) error {
	options := start(r)
	_, err := c.SignalWithStartWorkflow(ctx, options.ID, LookSignal, nil, options, Name, Input{ReviewID: r.ID, BookID: r.BookID})
	if err != nil {
		return fault.New(fault.ReasonUnavailable, "The review's process cannot be reached.").WithCause(fmt.Errorf("wake review: %w", err))
	}
	return nil
}

// Starter starts processes from others, as activities.
type Starter struct{ Client client.Client }

// RefreshSummary makes the process that summarizes a book's reviews run, and does
// not wait for it.
func (s *Starter) RefreshSummary(ctx context.Context, bookID uuid.UUID) error {
	_, err := s.Client.SignalWithStartWorkflow(ctx, SummaryID(bookID), RefreshSignal, nil, client.StartWorkflowOptions{
		ID: SummaryID(bookID), TaskQueue: activities.TaskQueue,
		StaticSummary: "summary of the reviews of book " + bookID.String(),
	}, SummaryName, bookID)
	if err != nil {
		return fmt.Errorf("start review summary: %w", err)
	}
	return nil
}

// LookAtReviews makes the process of each review look at its row.
func (s *Starter) LookAtReviews(ctx context.Context, waiting activities.Waiting) error {
	for _, w := range waiting.Reviews {
		if err := Look(ctx, s.Client, Ref{ID: w.ReviewID, BookID: w.BookID, Subject: w.Subject}); err != nil {
			return err
		}
	}
	return nil
}
