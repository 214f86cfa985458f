package review

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	sdk "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/rating"
	"bookworm/internal/fault"
	"bookworm/internal/process"
)

// world stands for the row and everything else outside the process. Every effect
// goes to its log, in order, with the version it is about; looks and questions are
// no effects. Its methods have the names of the activities they stand for.
type world struct {
	mu      sync.Mutex
	log     []string
	errs    map[string][]error // what an effect fails with, one for each call
	version int64
	need    activities.Need
	told    bool // the catalogue knows what is published
	owed    bool // a summary
	model   func(ctx context.Context, version int64) error
	looks   int
}

func (w *world) did(effect string) error {
	w.log = append(w.log, effect)
	name, _, _ := strings.Cut(effect, " ")
	if errs := w.errs[name]; len(errs) > 0 {
		w.errs[name] = errs[1:]
		return process.Refusal(errs[0])
	}
	return nil
}

func (w *world) do(effect string, change func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.did(effect); err != nil {
		return err
	}
	change()
	return nil
}

func (w *world) StoreReview(context.Context, uuid.UUID, uuid.UUID) (stored activities.Stored, err error) {
	err = w.do("StoreReview", func() {
		w.version++
		w.need, w.told, stored = activities.NeedModeration, false, activities.Stored{Version: w.version, Changed: true}
	})
	return stored, err
}

func (w *world) DeleteReview(context.Context, uuid.UUID, int64) (activities.Stored, error) {
	return activities.Stored{Changed: true}, w.do("DeleteReview", func() { w.need, w.told = activities.NeedNothing, false })
}

func (w *world) DecideReview(context.Context, uuid.UUID, uuid.UUID) (activities.Stored, error) {
	return activities.Stored{Changed: true}, w.do("DecideReview", func() { w.need, w.told = activities.NeedNothing, false })
}

func (w *world) LookAtReview(context.Context, uuid.UUID) (activities.Standing, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	return activities.Standing{Need: w.need, Version: w.version}, nil
}

// settle ends the moderation of a version, if it is the current one.
func (w *world) settle(effect string, version int64, need activities.Need) error {
	return w.do(effect+" "+string(rune('0'+version)), func() {
		if version == w.version && w.need == activities.NeedModeration {
			w.need, w.told = need, false
		}
	})
}

func (w *world) CheckRules(_ context.Context, _ uuid.UUID, version int64) (bool, error) {
	if w.model != nil {
		return true, w.do("CheckRules "+string(rune('0'+version)), func() {})
	}
	return false, w.settle("CheckRules", version, activities.NeedNothing)
}

func (w *world) AskModel(ctx context.Context, _ uuid.UUID, version int64) error {
	err := w.model(ctx, version)
	if errors.Is(err, sdk.ErrResultPending) {
		return sdk.ErrResultPending
	}
	if err != nil {
		return errors.Join(err, w.do("AskModel failed", func() {}))
	}
	return w.settle("AskModel", version, activities.NeedNothing)
}

func (w *world) QueueReview(_ context.Context, _ uuid.UUID, version int64) error {
	return w.settle("QueueReview", version, activities.NeedOperator)
}

func (w *world) HideReview(context.Context, uuid.UUID) error {
	return w.do("HideReview", func() { w.need, w.told = activities.NeedOperator, false })
}

func (w *world) TellRating(context.Context, uuid.UUID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.told {
		return nil
	}
	if err := w.did("TellRating"); err != nil {
		return err
	}
	w.told = true
	return nil
}

func (w *world) OwesSummary(context.Context, uuid.UUID) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.owed, nil
}

func (w *world) RefreshSummary(context.Context, uuid.UUID) error {
	return w.do("RefreshSummary", func() { w.owed = false })
}

var input = Input{
	ReviewID: uuid.MustParse("0b0e7f0a-3a0c-5d0e-9d52-7d1f5c6a0001"), BookID: uuid.MustParse("0b0e7f0a-3a0c-5d0e-9d52-7d1f5c6a0002"),
}

// reviewTest is a run in the time-skipping test environment.
type reviewTest struct {
	*testsuite.TestWorkflowEnvironment

	world *world
}

func setup() *reviewTest {
	var suite testsuite.WorkflowTestSuite
	r := &reviewTest{suite.NewTestWorkflowEnvironment(), &world{errs: make(map[string][]error), told: true}}
	r.RegisterActivity(r.world)
	r.SetTestTimeout(time.Minute)
	return r
}

// send sends an update at a time after the start and returns its answer.
func (r *reviewTest) send(at time.Duration, name string, arg any) *answer {
	a := &answer{}
	r.RegisterDelayedCallback(func() { r.UpdateWorkflow(name, uuid.NewString(), a, arg) }, at)
	return a
}

func (r *reviewTest) signal(at time.Duration) {
	r.RegisterDelayedCallback(func() { r.SignalWorkflow(LookSignal, nil) }, at)
}

// run runs the process to its end and compares its effects, in order.
func (r *reviewTest) run(t *testing.T, want ...string) {
	t.Helper()
	r.ExecuteWorkflow(Workflow, input)
	if !r.IsWorkflowCompleted() || r.GetWorkflowError() != nil {
		t.Fatalf("the process ended with %v", r.GetWorkflowError())
	}
	if !slices.Equal(r.world.log, want) {
		t.Errorf("effects\n got %q\nwant %q", r.world.log, want)
	}
}

// answer takes the answer of an update.
type answer struct {
	done  bool
	value any
	err   error
}

func (a *answer) Accept()          {}
func (a *answer) Reject(err error) { a.done, a.err = true, err }
func (a *answer) Complete(value any, err error) {
	a.done, a.value, a.err = true, value, err
}

func (a *answer) want(t *testing.T, reason fault.Reason) {
	t.Helper()
	f := process.Fault(a.err)
	if !a.done || (reason == "" && a.err != nil) || (reason != "" && (f == nil || f.Reason != reason)) {
		t.Errorf("answered %t with %v, want %q", a.done, a.err, reason)
	}
}

func TestReviewIsStoredModeratedAndTold(t *testing.T) {
	t.Parallel()
	r := setup()
	submit := r.send(0, SubmitUpdate, uuid.New())
	begun := r.Now()
	r.run(t, "StoreReview", "CheckRules 1", "TellRating")
	submit.want(t, "")
	if took := r.Now().Sub(begun); took >= startWithin { // as it would if it did not hear of the submission
		t.Errorf("it took %s", took)
	}
	if stored, ok := submit.value.(activities.Stored); !ok || stored.Version != 1 {
		t.Errorf("answered %v", submit.value)
	}
}

func TestModelIsAskedWhenTheRulesPass(t *testing.T) {
	t.Parallel()
	r := setup()
	r.world.model = func(context.Context, int64) error { return nil }
	r.send(0, SubmitUpdate, uuid.New())
	r.run(t, "StoreReview", "CheckRules 1", "AskModel 1", "TellRating")
}

func TestModelThatIsDownForAMomentIsAskedAgain(t *testing.T) {
	t.Parallel()
	r := setup()
	fails := 3
	r.world.model = func(context.Context, int64) error {
		if fails--; fails >= 0 {
			return errors.New("overloaded")
		}
		return nil
	}
	r.send(0, SubmitUpdate, uuid.New())
	r.run(t, "StoreReview", "CheckRules 1", "AskModel failed", "AskModel failed", "AskModel failed", "AskModel 1", "TellRating")
}

func TestModelThatStaysDownLeavesItToAnOperator(t *testing.T) {
	t.Parallel()
	r := setup()
	r.world.model = func(context.Context, int64) error { return errors.New("no answer") }
	r.send(0, SubmitUpdate, uuid.New())
	decide := r.send(48*time.Hour, DecideUpdate, uuid.New())
	r.run(t, "StoreReview", "CheckRules 1", "AskModel failed", "AskModel failed", "AskModel failed", "AskModel failed", "AskModel failed",
		"QueueReview 1", "TellRating", "DecideReview", "TellRating")
	decide.want(t, "")
}

// asked is a model that answers only when it is told to.
type asked struct {
	mu     sync.Mutex
	tokens [][]byte
}

func (a *asked) model(ctx context.Context, _ int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens = append(a.tokens, sdk.GetInfo(ctx).TaskToken)
	return sdk.ErrResultPending
}

func TestChangeWhileTheModelThinksSupersedesIt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		update string
		want   []string
	}{
		"edit":     {SubmitUpdate, []string{"StoreReview", "CheckRules 2", "AskModel 2", "TellRating"}},
		"delete":   {DeleteUpdate, []string{"DeleteReview", "TellRating"}},
		"decision": {DecideUpdate, []string{"DecideReview", "TellRating"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := setup()
			var model asked
			r.world.model = model.model
			r.send(0, SubmitUpdate, uuid.New())
			var arg any = uuid.New()
			if test.update == DeleteUpdate {
				arg = int64(0)
			}
			change := r.send(10*time.Second, test.update, arg)
			// The second version is judged at once.
			r.RegisterDelayedCallback(func() { r.world.model = func(context.Context, int64) error { return nil } }, 5*time.Second)
			r.run(t, append([]string{"StoreReview", "CheckRules 1"}, test.want...)...)
			change.want(t, "")
			if len(model.tokens) != 1 {
				t.Errorf("the model began %d times", len(model.tokens))
			}
		})
	}
}

func TestLookWhileTheModelThinksDoesNotDisturbIt(t *testing.T) {
	t.Parallel()
	r := setup()
	var model asked
	r.world.model = model.model
	r.send(0, SubmitUpdate, uuid.New())
	r.signal(5 * time.Second)
	r.RegisterDelayedCallback(func() {
		if err := r.world.settle("AskModel", 1, activities.NeedNothing); err != nil {
			t.Error(err)
		}
		if err := r.CompleteActivity(model.tokens[0], nil, nil); err != nil {
			t.Error(err)
		}
	}, 10*time.Second)
	r.run(t, "StoreReview", "CheckRules 1", "AskModel 1", "TellRating")
	if len(model.tokens) != 1 {
		t.Errorf("the model was asked %d times", len(model.tokens))
	}
}

func TestReportedReviewIsHiddenAndWaits(t *testing.T) {
	t.Parallel()
	r := setup()
	r.world.need = activities.NeedHiding
	r.signal(0)
	decide := r.send(time.Hour, DecideUpdate, uuid.New())
	r.run(t, "HideReview", "TellRating", "DecideReview", "TellRating")
	decide.want(t, "")
}

func TestEditOfAReviewThatWaitsIsModerated(t *testing.T) {
	t.Parallel()
	r := setup()
	r.world.need = activities.NeedOperator
	r.signal(0)
	r.send(time.Hour, SubmitUpdate, uuid.New())
	r.run(t, "StoreReview", "CheckRules 1", "TellRating")
}

func TestDeletion(t *testing.T) {
	t.Parallel()
	r := setup()
	deletion := r.send(0, DeleteUpdate, int64(3))
	r.run(t, "DeleteReview", "TellRating")
	deletion.want(t, "")
}

func TestRefusalReachesTheShopperAndEndsTheRun(t *testing.T) {
	t.Parallel()
	for _, reason := range []fault.Reason{fault.ReasonPurchaseRequired, fault.ReasonBookNotFound, fault.ReasonStaleVersion} {
		r := setup()
		r.world.errs["StoreReview"] = []error{fault.New(reason, "no")}
		submit := r.send(0, SubmitUpdate, uuid.New())
		r.run(t, "StoreReview")
		submit.want(t, reason)
	}
}

func TestStoreThatIsDownIsUnavailable(t *testing.T) {
	t.Parallel()
	r := setup()
	r.world.errs["StoreReview"] = slices.Repeat([]error{errors.New("connection refused: alice's password")}, 1000)
	submit := r.send(0, SubmitUpdate, uuid.New())
	r.ExecuteWorkflow(Workflow, input)
	submit.want(t, fault.ReasonUnavailable)
	if strings.Contains(submit.err.Error(), "alice") {
		t.Errorf("the shopper reads %v", submit.err)
	}
}

func TestCatalogueThatIsAwayIsToldLater(t *testing.T) {
	t.Parallel()
	r := setup()
	r.world.errs["TellRating"] = slices.Repeat([]error{errors.New("away")}, 40)
	r.send(0, SubmitUpdate, uuid.New())
	r.ExecuteWorkflow(Workflow, input)
	if got := len(r.world.log); got != 43 || !r.world.told || r.GetWorkflowError() != nil {
		t.Errorf("%d effects, told %t, %v", got, r.world.told, r.GetWorkflowError())
	}
}

func TestCatalogueThatIsAwayDoesNotHoldUpAnEdit(t *testing.T) {
	t.Parallel()
	r := setup()
	// Only the moderation of the edit brings the catalogue back.
	r.world.errs["TellRating"] = slices.Repeat([]error{errors.New("away")}, 10000)
	r.send(0, SubmitUpdate, uuid.New())
	edit := r.send(10*time.Minute, SubmitUpdate, uuid.New())
	var moderated bool
	r.RegisterDelayedCallback(func() {
		moderated = slices.Contains(r.world.log, "CheckRules 2")
		r.world.errs["TellRating"] = nil
	}, 11*time.Minute)
	r.ExecuteWorkflow(Workflow, input)
	edit.want(t, "")
	if !moderated || !r.world.told || r.GetWorkflowError() != nil {
		t.Errorf("moderated %t, told %t, %v", moderated, r.world.told, r.GetWorkflowError())
	}
}

func TestBookThatTheCatalogueDoesNotKnowEndsTheRun(t *testing.T) {
	t.Parallel()
	r := setup()
	r.world.errs["TellRating"] = []error{fault.New(fault.ReasonBookNotFound, "no")}
	r.send(0, SubmitUpdate, uuid.New())
	r.run(t, "StoreReview", "CheckRules 1", "TellRating")
}

func TestSummaryIsRefreshedWhenOwed(t *testing.T) {
	t.Parallel()
	r := setup()
	r.world.owed = true
	r.send(0, SubmitUpdate, uuid.New())
	r.run(t, "StoreReview", "CheckRules 1", "TellRating", "RefreshSummary")
}

func TestOutageIsWaitedOut(t *testing.T) {
	t.Parallel()
	r := setup()
	for _, step := range []string{"CheckRules", "TellRating", "RefreshSummary"} {
		r.world.errs[step] = slices.Repeat([]error{errors.New("down")}, 20)
	}
	r.world.owed = true
	r.send(0, SubmitUpdate, uuid.New())
	r.ExecuteWorkflow(Workflow, input)
	if r.GetWorkflowError() != nil || !r.world.told || r.world.owed || r.world.need != activities.NeedNothing {
		t.Errorf("ended with %v, %q", r.GetWorkflowError(), r.world.log)
	}
}

func TestRunWhoseMessageWasLostEnds(t *testing.T) {
	t.Parallel()
	r := setup()
	r.world.need, r.world.version = activities.NeedModeration, 1
	r.run(t, "CheckRules 1", "TellRating")
}

func TestCancelledRunAnswersItsCallers(t *testing.T) {
	t.Parallel()
	r := setup()
	r.world.errs["StoreReview"] = slices.Repeat([]error{errors.New("down")}, 1000)
	submit := r.send(0, SubmitUpdate, uuid.New())
	r.RegisterDelayedCallback(r.CancelWorkflow, time.Second)
	r.ExecuteWorkflow(Workflow, input)
	if !temporal.IsCanceledError(errors.Unwrap(r.GetWorkflowError())) {
		t.Errorf("ended with %v", r.GetWorkflowError())
	}
	submit.want(t, fault.ReasonUnavailable)
}

func TestCancelledRunInTheQueueEnds(t *testing.T) {
	t.Parallel()
	r := setup()
	r.world.need = activities.NeedOperator
	r.signal(0)
	r.RegisterDelayedCallback(r.CancelWorkflow, time.Hour)
	r.ExecuteWorkflow(Workflow, input)
	if !temporal.IsCanceledError(errors.Unwrap(r.GetWorkflowError())) {
		t.Errorf("ended with %v", r.GetWorkflowError())
	}
}

func TestLongHistoryContinuesAsNew(t *testing.T) {
	t.Parallel()
	r := setup()
	r.world.need = activities.NeedOperator
	r.SetContinueAsNewSuggested(true)
	r.signal(0)
	r.signal(time.Hour)
	r.ExecuteWorkflow(Workflow, input)
	again, ok := errors.AsType[*workflow.ContinueAsNewError](r.GetWorkflowError())
	if !ok {
		t.Fatalf("ended with %v", r.GetWorkflowError())
	}
	var next Input
	if err := converter.GetDefaultDataConverter().FromPayloads(again.Input, &next); err != nil || next != input {
		t.Errorf("continues with %v, %v", next, err)
	}
}
