// Package datarequest is what exports and erasures have in common: a person's
// request that is written down by its process, shows how far it is, and is joined
// by those who ask again.
package datarequest

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/compliance"
	"bookworm/internal/compliance"
	"bookworm/internal/fault"
	"bookworm/internal/personal"
	"bookworm/internal/process"
)

// BeginUpdate asks for a request to be written down, or joins one that is. It
// answers the request's id.
const BeginUpdate = "begin"

// Input is what a person asks for.
type Input struct {
	RequestID uuid.UUID
	Subject   string
	// Contact is an activities/notification.Contact, sealed for the subject under the
	// request's id. Empty for somebody without an address.
	Contact personal.Sealed `json:",omitempty"`
	// Steps is how far a run was that this one goes on from. Empty for the first.
	Steps []compliance.Step `json:",omitempty"`
}

// Run is the state of one run of a request's process.
type Run struct {
	Request activities.Request
	Steps   []compliance.Step

	begun   *activities.Begun
	refused error
}

// activity names the activities by type; its methods are never called here.
var activity *activities.Activities

// Begin takes the askers' updates and writes the request down with the steps it
// will take. It reports true when nothing is left to do.
func Begin(ctx workflow.Context, in Input, kind compliance.Kind, steps []string) (r *Run, done bool, err error) {
	r = &Run{Request: activities.Request{ID: in.RequestID, Subject: in.Subject, Kind: kind}, Steps: in.Steps}
	if len(r.Steps) == 0 {
		for _, name := range steps {
			r.Steps = append(r.Steps, compliance.Step{Context: name})
		}
	}
	if err := workflow.SetUpdateHandler(ctx, BeginUpdate, r.awaitBegun); err != nil {
		return r, false, fmt.Errorf("take begin updates: %w", err)
	}
	var begun activities.Begun
	if err := Local(ctx, activity.BeginRequest, r.Request, r.Steps).Get(ctx, &begun); err != nil {
		f := process.Fault(err)
		if f == nil {
			f = fault.New(fault.ReasonUnavailable, "The request could not be written down.")
		}
		r.refused = process.Refused(f)
		return r, false, r.refused
	}
	r.begun = &begun
	return r, begun.Done, nil
}

func (r *Run) awaitBegun(ctx workflow.Context) (uuid.UUID, error) {
	if err := workflow.Await(ctx, func() bool { return r.begun != nil || r.refused != nil }); err != nil {
		return uuid.Nil, err
	}
	if r.refused != nil {
		return uuid.Nil, r.refused
	}
	return r.begun.ID, nil
}

// Finish lets every asker have their answer, out of reach of a cancellation.
func (r *Run) Finish(ctx workflow.Context) error {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
		return fmt.Errorf("finish handlers: %w", err)
	}
	return nil
}

// Show writes down where the request stands, for the person and for operators.
func (r *Run) Show(ctx workflow.Context, state compliance.State) error {
	r.Describe(ctx, string(state))
	if err := Local(ctx, activity.ShowProgress, r.Request, state, r.Steps).Get(ctx, nil); err != nil {
		return fmt.Errorf("write progress down: %w", err)
	}
	return nil
}

// Describe tells operators where the request stands.
func (r *Run) Describe(ctx workflow.Context, state string) {
	lines := []string{
		fmt.Sprintf("**%s** of request `%s`: %s", strings.ToLower(string(r.Request.Kind)), r.Request.ID, state), "",
		"| context | done | records | kept | note |", "|---|---|---|---|---|",
	}
	for _, s := range r.Steps {
		lines = append(lines, fmt.Sprintf("| %s | %t | %d | %d | %s |", s.Context, s.Done, s.Records, s.Kept, s.Note))
	}
	workflow.SetCurrentDetails(ctx, strings.Join(lines, "\n"))
}

// Proof returns the proof of what was done.
func (r *Run) Proof() string { return compliance.Prove(r.Request.ID, r.Request.Kind, r.Steps) }

// Local runs a short idempotent step in the worker that runs the workflow, until
// it succeeds or is refused.
func Local(ctx workflow.Context, step any, args ...any) workflow.Future {
	return workflow.ExecuteLocalActivity(workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		StartToCloseTimeout:    5 * time.Second,
		ScheduleToCloseTimeout: 365 * 24 * time.Hour, // zero would mean the length of one attempt
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: 100 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: 30 * time.Second},
	}), step, args...)
}
