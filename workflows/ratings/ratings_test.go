package ratings

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/rating"
)

// world stands for the activities: three batches to count, two to compare, two of
// waiting reviews. Each fails once.
type world struct {
	log    []string
	failed map[string]bool
}

func (w *world) did(step string, after uuid.UUID) error {
	step += " " + after.String()[:1]
	if !w.failed[step] {
		w.failed[step] = true
		return errors.New("away")
	}
	w.log = append(w.log, step)
	return nil
}

func id(n byte) uuid.UUID { return uuid.UUID{n << 4} }

func (w *world) RecountRatings(_ context.Context, after uuid.UUID) (activities.Recounted, error) {
	n := after[0]>>4 + 1
	if n == 3 {
		return activities.Recounted{Last: after}, w.did("recount", after)
	}
	return activities.Recounted{Last: id(n), Books: 2, Mended: 1, Rescored: int(n) - 1}, w.did("recount", after)
}

func (w *world) CompareRatings(_ context.Context, after uuid.UUID) (activities.Compared, error) {
	n := after[0]>>4 + 1
	return activities.Compared{Last: id(n), Done: n == 2, Books: 2, Behind: 2, Contradicted: 1, Unknown: int(n)}, w.did("compare", after)
}

func (w *world) ListUnsettled(_ context.Context, after uuid.UUID) (activities.Waiting, error) {
	n := after[0]>>4 + 1
	if n == 3 {
		return activities.Waiting{}, w.did("list", after)
	}
	return activities.Waiting{Reviews: []activities.WaitingReview{{ReviewID: id(n)}}}, w.did("list", after)
}

func (w *world) LookAtReviews(_ context.Context, waiting activities.Waiting) error {
	return w.did("look", waiting.Reviews[0].ReviewID)
}

var steps = []string{
	"recount 0", "recount 1", "recount 2", "compare 0", "compare 1", "list 0", "look 1", "list 1", "look 2", "list 2",
}

func TestRebuildGoesThroughAll(t *testing.T) {
	t.Parallel()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	w := &world{failed: make(map[string]bool)}
	env.RegisterActivity(w)
	env.ExecuteWorkflow(Workflow, Progress{})
	var got Result
	if err := errors.Join(env.GetWorkflowError(), env.GetWorkflowResult(&got)); err != nil {
		t.Fatal(err)
	}
	if want := (Result{Books: 4, Mended: 2, Rescored: 1, Behind: 4, Contradicted: 2, Unknown: 3, Waiting: 2}); got != want {
		t.Errorf("found %+v, want %+v", got, want)
	}
	if !slices.Equal(w.log, steps) {
		t.Errorf("steps\n got %q\nwant %q", w.log, steps)
	}
}

// TestRebuildGoesOnAsNew runs each step as a run of its own.
func TestRebuildGoesOnAsNew(t *testing.T) {
	t.Parallel()
	w := &world{failed: make(map[string]bool)}
	var progress Progress
	for range steps {
		var suite testsuite.WorkflowTestSuite
		env := suite.NewTestWorkflowEnvironment()
		env.RegisterActivity(w)
		env.SetContinueAsNewSuggested(true)
		env.ExecuteWorkflow(Workflow, progress)
		again, ok := errors.AsType[*workflow.ContinueAsNewError](env.GetWorkflowError())
		if !ok {
			if err := env.GetWorkflowError(); err != nil {
				t.Fatal(err)
			}
			break
		}
		if err := converter.GetDefaultDataConverter().FromPayloads(again.Input, &progress); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(w.log, steps) {
		t.Errorf("steps\n got %q\nwant %q", w.log, steps)
	}
}
