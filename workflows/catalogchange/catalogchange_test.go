package catalogchange

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/testsuite"

	activities "bookworm/activities/catalog"
	"bookworm/internal/catalog"
	"bookworm/internal/fault"
	"bookworm/internal/process"
)

// world stands for the database and the index. Its methods have the names of the
// activities they stand for.
type world struct {
	mu      sync.Mutex
	refuse  error
	index   func(try int) error
	written []uuid.UUID // ids of changes
	tries   int         // of IndexBook
	indexed int         // changes that were written when the index got the book
}

func (w *world) WriteBook(_ context.Context, c activities.Change) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		return false, process.Refusal(w.refuse)
	}
	w.written = append(w.written, c.Edit.ID)
	return false, nil
}

func (w *world) IndexBook(_ context.Context, id uuid.UUID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tries++
	if id != bookID {
		return errors.New("another book")
	}
	if w.index != nil {
		if err := w.index(w.tries); err != nil {
			return err
		}
	}
	w.indexed = len(w.written)
	return nil
}

var bookID = uuid.MustParse("0b0e7f0a-3a0c-5d0e-9d52-7d1f5c6a0001")

// answer is what an update's caller gets.
type answer struct {
	rejected error
	done     bool
	at       time.Time
	answer   Answer
	err      error
	now      func() time.Time
}

func (a *answer) Accept()          {}
func (a *answer) Reject(err error) { a.rejected = err }
func (a *answer) Complete(result any, err error) {
	a.done, a.err, a.at = true, err, a.now()
	if err == nil {
		a.answer = result.(Answer)
	}
}

type run struct {
	*testsuite.TestWorkflowEnvironment

	world   *world
	started time.Time
}

func setup(t *testing.T) *run {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	r := &run{TestWorkflowEnvironment: suite.NewTestWorkflowEnvironment(), world: &world{}}
	r.RegisterActivity(r.world)
	r.started = r.Now()
	return r
}

// change sends a change after some time.
func (r *run) change(after time.Duration) *answer {
	a := &answer{now: r.Now}
	r.RegisterDelayedCallback(func() {
		id := uuid.New()
		r.UpdateWorkflow(ChangeUpdate, id.String(), a, Change{Edit: &catalog.Edit{ID: id, BookID: bookID}})
	}, after)
	return a
}

func (r *run) finish(t *testing.T) {
	t.Helper()
	r.ExecuteWorkflow(Workflow, bookID)
	if !r.IsWorkflowCompleted() || r.GetWorkflowError() != nil {
		t.Fatalf("completed %t, %v", r.IsWorkflowCompleted(), r.GetWorkflowError())
	}
}

func TestChangeIsAnsweredWhenTheIndexHasIt(t *testing.T) {
	t.Parallel()
	r := setup(t)
	a := r.change(0)
	r.finish(t)
	if !a.done || a.err != nil || !a.answer.Indexed || len(r.world.written) != 1 || r.world.indexed != 1 {
		t.Errorf("%+v, %+v", a, r.world)
	}
}

func TestRefusedChangeLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.world.refuse = fault.New(fault.ReasonStaleVersion, "It has changed.")
	a := r.change(0)
	r.finish(t)
	if f := process.Fault(a.err); f == nil || f.Reason != fault.ReasonStaleVersion || r.world.tries != 0 {
		t.Errorf("%+v, %+v", a, r.world)
	}
}

func TestCallerDoesNotWaitForAnIndexThatIsAway(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.world.index = func(int) error {
		if r.Now().Sub(r.started) < 40*time.Second { // the suite makes ten tries at most
			return errors.New("the index does not answer")
		}
		return nil
	}
	a := r.change(0)
	r.finish(t)
	if !a.done || a.err != nil || a.answer.Indexed || a.at.Sub(r.started) > 2*time.Second {
		t.Errorf("%+v after %s", a, a.at.Sub(r.started))
	}
	if r.world.indexed != 1 || r.world.tries < 5 {
		t.Errorf("indexed %d changes with %d tries", r.world.indexed, r.world.tries)
	}
}

// TestChangesMeetInOneProcess has a second change while the first one's index is
// away, and one that comes when all is done.
func TestChangesMeetInOneProcess(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.world.index = func(int) error {
		if r.Now().Sub(r.started) < 30*time.Second {
			return errors.New("the index does not answer")
		}
		return nil
	}
	all := []*answer{r.change(0), r.change(0), r.change(10 * time.Second), r.change(29 * time.Second)}
	r.finish(t)
	for i, a := range all {
		if !a.done || a.err != nil {
			t.Errorf("change %d: %+v", i, a)
		}
	}
	if len(r.world.written) != 4 || r.world.indexed != 4 {
		t.Errorf("%d written, %d of them indexed", len(r.world.written), r.world.indexed)
	}
}

// TestChangeWrittenWhileTheIndexGetsAnother may have been missed by that writing.
func TestChangeWrittenWhileTheIndexGetsAnother(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.OnActivity(activity.IndexBook, mock.Anything, bookID).Return(r.world.IndexBook).After(5 * time.Second)
	first, second := r.change(0), r.change(2*time.Second)
	r.finish(t)
	if first.err != nil || second.err != nil || r.world.tries != 2 {
		t.Errorf("%+v, %+v, indexed %d times", first, second, r.world.tries)
	}
}
