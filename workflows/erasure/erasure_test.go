package erasure

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/mock"
	"go.temporal.io/api/sdk/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/compliance"
	"bookworm/internal/compliance"
	"bookworm/internal/fault"
	"bookworm/internal/personal"
	"bookworm/internal/process"
	"bookworm/workflows/datarequest"
	"bookworm/workflows/notification"
)

// office is the workflow in a suite, with what its activities did.
type office struct {
	*testsuite.TestWorkflowEnvironment

	t   *testing.T
	in  datarequest.Input
	did []string // in their order
	// erase answers for a context; nil for nothing to erase.
	erase func(context string) (activities.Erased, error)
	// mail is what becomes of the last mail; nil for sent at once.
	mail  func(ctx workflow.Context, m notification.Mail) (notification.Result, error)
	final []compliance.Step
	proof string
	shown map[string]compliance.State // the state in which a note was shown

	destroyed time.Time // when the keys were
}

func setup(t *testing.T) *office {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(slog.New(slog.DiscardHandler))
	o := &office{TestWorkflowEnvironment: suite.NewTestWorkflowEnvironment(), t: t, shown: make(map[string]compliance.State)}
	o.SetTestTimeout(20 * time.Second)
	o.in = datarequest.Input{RequestID: uuid.MustParse("0198f3c2-7d41-7a35-9c1e-2f6a1b0c9d8e"), Subject: "alice", Contact: personal.Sealed("sealed")}
	o.RegisterWorkflowWithOptions(Workflow, workflow.RegisterOptions{Name: Name})
	o.RegisterWorkflowWithOptions(func(ctx workflow.Context, m notification.Mail) (notification.Result, error) {
		o.did = append(o.did, "mail")
		if m.Template != notification.ErasureDone || string(m.Contact) != "sealed" || m.Subject != "alice" || m.Request.ID != o.in.RequestID.String() {
			t.Errorf("the mail is %+v", m)
		}
		o.proof = m.Request.Proof
		if o.mail != nil {
			return o.mail(ctx, m)
		}
		return notification.Result{}, nil
	}, workflow.RegisterOptions{Name: notification.Name})
	o.RegisterActivity(&activities.Activities{})
	request := activities.Request{ID: o.in.RequestID, Subject: "alice", Kind: compliance.Erasure}
	o.OnActivity(activity.ShowProgress, mock.Anything, request, mock.Anything, mock.Anything).Return(
		func(_ context.Context, _ activities.Request, state compliance.State, steps []compliance.Step) error {
			for _, s := range steps {
				o.shown[s.Note] = state
			}
			return nil
		}).Maybe()
	o.OnActivity(activity.EraseData, mock.Anything, request, mock.Anything).Return(
		func(_ context.Context, _ activities.Request, from string) (activities.Erased, error) {
			o.did = append(o.did, from)
			if o.erase == nil {
				return activities.Erased{}, nil
			}
			return o.erase(from)
		}).Maybe()
	o.OnActivity(activity.CountKeys, mock.Anything, request).Return(int64(2), nil).Maybe()
	o.OnActivity(activity.CompleteErasure, mock.Anything, request, mock.Anything).Return(
		func(_ context.Context, _ activities.Request, steps []compliance.Step) error {
			o.did, o.final, o.destroyed = append(o.did, "destroy"), steps, o.Now()
			return nil
		}).Maybe()
	o.OnActivity(activity.RecordProof, mock.Anything, request, mock.Anything).Return(
		func(_ context.Context, _ activities.Request, proof string) error {
			o.did = append(o.did, "log")
			if want := compliance.Prove(o.in.RequestID, compliance.Erasure, o.final); proof != want {
				t.Errorf("the log has the proof %s, want %s", proof, want)
			}
			return nil
		}).Maybe()
	return o
}

// begins lets the request be written down.
func (o *office) begins() *office {
	o.OnActivity(activity.BeginRequest, mock.Anything, mock.Anything, mock.Anything).Return(activities.Begun{ID: o.in.RequestID}, nil)
	return o
}

func (o *office) run() error {
	o.t.Helper()
	o.ExecuteWorkflow(Name, o.in)
	if !o.IsWorkflowCompleted() {
		o.t.Fatal("the workflow did not end")
	}
	return o.GetWorkflowError()
}

func (o *office) details() string {
	o.t.Helper()
	value, err := o.QueryWorkflow("__temporal_workflow_metadata")
	if err != nil {
		o.t.Fatal(err)
	}
	var metadata sdk.WorkflowMetadata
	if err := value.Get(&metadata); err != nil {
		o.t.Error(err)
	}
	return metadata.GetCurrentDetails()
}

// whole is what an erasure does that nothing holds up.
var whole = slices.Concat(activities.Contexts, activities.Contexts, []string{"mail", "destroy", "log"})

func TestEveryContextIsErasedTwiceAndTheKeyLast(t *testing.T) {
	t.Parallel()
	o := setup(t).begins()
	start := o.Now()
	var first time.Time
	o.erase = func(from string) (activities.Erased, error) {
		if first.IsZero() {
			first = o.Now()
		}
		if from == "ordering" {
			return activities.Erased{Erased: 3, Kept: 5, Note: "the law"}, nil
		}
		return activities.Erased{}, nil
	}
	if err := o.run(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(o.did, whole) {
		t.Errorf("did %v", o.did)
	}
	if waited := first.Sub(start); waited <= personal.SealLife {
		t.Errorf("looked after %v, while keys may still be remembered", waited)
	}
	for _, s := range o.final {
		want := compliance.Step{Context: s.Context, Done: true}
		switch s.Context {
		case "ordering":
			want.Records, want.Kept, want.Note = 6, 5, "the law"
		case Keys:
			want.Records = 2
		}
		if s != want {
			t.Errorf("step %+v, want %+v", s, want)
		}
	}
	if want := compliance.Prove(o.in.RequestID, compliance.Erasure, o.final); o.proof != want {
		t.Errorf("the mail has the proof %s, want %s", o.proof, want)
	}
	if details := o.details(); !strings.Contains(details, "DONE") || !strings.Contains(details, "| keys | true | 2 |") {
		t.Errorf("details %s", details)
	}
}

func TestErasureWaitsForWhatMustEndFirst(t *testing.T) {
	t.Parallel()
	o := setup(t).begins()
	var asked []time.Time
	o.erase = func(from string) (activities.Erased, error) {
		if from != "ordering" {
			return activities.Erased{}, nil
		}
		asked = append(asked, o.Now())
		if asked[len(asked)-1].Sub(asked[0]) < 24*time.Hour {
			return activities.Erased{WaitingFor: []string{"order 1", "order 2", "order 3", "order 4"}}, nil
		}
		return activities.Erased{Erased: 4}, nil
	}
	o.RegisterDelayedCallback(func() {
		if got := o.shown["Waits for order 1, order 2, order 3 and 1 more."]; got != compliance.Waiting {
			t.Errorf("shown as %s: %v", got, o.shown)
		}
		if slices.Contains(o.did, "mail") || slices.Contains(o.did, "destroy") || slices.Contains(o.did, "finance") {
			t.Errorf("went on: %v", o.did)
		}
	}, 12*time.Hour)
	if err := o.run(); err != nil {
		t.Fatal(err)
	}
	// 5 s, 10 s, ... an hour, and then every hour.
	if len(asked) < 30 || len(asked) > 40 || asked[1].Sub(asked[0]) != firstPause || asked[20].Sub(asked[19]) != lastPause {
		t.Errorf("asked %d times: %v", len(asked), asked)
	}
	if o.final[slices.Index(activities.Contexts, "ordering")].Note != "" {
		t.Errorf("the steps are %v", o.final)
	}
}

// TestOrderThatSlippedInIsWaitedFor has an order appear after ordering was erased,
// as one that was under way with a remembered key.
func TestOrderThatSlippedInIsWaitedFor(t *testing.T) {
	t.Parallel()
	o := setup(t).begins()
	asked := 0
	o.erase = func(from string) (activities.Erased, error) {
		if from == "ordering" {
			if asked++; asked == 2 {
				return activities.Erased{WaitingFor: []string{"order 9"}}, nil
			}
			return activities.Erased{Erased: 1}, nil
		}
		return activities.Erased{}, nil
	}
	if err := o.run(); err != nil {
		t.Fatal(err)
	}
	if asked != 3 || o.did[len(o.did)-2] != "destroy" || o.final[slices.Index(activities.Contexts, "ordering")].Records != 2 {
		t.Errorf("asked %d times, did %v, %v", asked, o.did, o.final)
	}
}

func TestContextThatIsAwayIsAskedAgain(t *testing.T) {
	t.Parallel()
	o := setup(t).begins()
	const away = 8 // the suite gives up after ten
	tries := 0
	o.erase = func(from string) (activities.Erased, error) {
		if from == "chat" && tries < away {
			tries++
			return activities.Erased{}, fault.New(fault.ReasonUnavailable, "away")
		}
		return activities.Erased{}, nil
	}
	if err := o.run(); err != nil || tries != away || !slices.Equal(slices.Compact(o.did), whole) {
		t.Errorf("%v after %d tries: %v", err, tries, o.did)
	}
}

func TestMailDoesNotHoldUpTheKeysEndForEver(t *testing.T) {
	t.Parallel()
	for name, mail := range map[string]func(workflow.Context, notification.Mail) (notification.Result, error){
		"parked": func(ctx workflow.Context, _ notification.Mail) (notification.Result, error) {
			return notification.Result{}, workflow.Sleep(ctx, 30*24*time.Hour)
		},
		"failed": func(workflow.Context, notification.Mail) (notification.Result, error) {
			return notification.Result{}, errors.New("cancelled by an operator")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := setup(t).begins()
			o.mail = mail
			start := o.Now()
			if err := o.run(); err != nil {
				t.Fatal(err)
			}
			destroyed := o.destroyed.Sub(start)
			if o.final == nil || destroyed > mailWithin+time.Minute || (name == "parked" && destroyed < mailWithin) {
				t.Errorf("destroyed after %v: %v", destroyed, o.final)
			}
		})
	}
}

func TestSomebodyWithoutAnAddressGetsNoMail(t *testing.T) {
	t.Parallel()
	o := setup(t).begins()
	o.in.Contact = nil
	if err := o.run(); err != nil || slices.Contains(o.did, "mail") || !slices.Contains(o.did, "destroy") {
		t.Errorf("%v: %v", err, o.did)
	}
}

func TestEverybodyWhoAsksIsAnswered(t *testing.T) {
	t.Parallel()
	o := setup(t).begins()
	answers := make(map[string]uuid.UUID)
	ask := func(id string) {
		o.UpdateWorkflow(datarequest.BeginUpdate, id, &testsuite.TestUpdateCallback{
			OnAccept: func() {}, OnReject: func(err error) { t.Errorf("%s: %v", id, err) },
			OnComplete: func(result any, err error) {
				if err != nil {
					t.Errorf("%s: %v", id, err)
				}
				answers[id], _ = result.(uuid.UUID)
			},
		})
	}
	o.RegisterDelayedCallback(func() { ask("first") }, 0)
	o.RegisterDelayedCallback(func() { ask("second") }, 5*time.Second)
	if err := o.run(); err != nil {
		t.Fatal(err)
	}
	if len(answers) != 2 || answers["first"] != o.in.RequestID || answers["second"] != o.in.RequestID {
		t.Errorf("answers %v", answers)
	}
}

func TestRefusedRequestFailsAndSaysWhy(t *testing.T) {
	t.Parallel()
	o := setup(t)
	o.OnActivity(activity.BeginRequest, mock.Anything, mock.Anything, mock.Anything).
		Return(activities.Begun{}, process.Refused(fault.New(fault.ReasonUnavailable, "another is under way")))
	var answer error
	o.RegisterDelayedCallback(func() {
		o.UpdateWorkflow(datarequest.BeginUpdate, "u", &testsuite.TestUpdateCallback{
			OnAccept: func() {}, OnReject: func(err error) { t.Error(err) }, OnComplete: func(_ any, err error) { answer = err },
		})
	}, 0)
	err := o.run()
	if f := process.Fault(err); f == nil || f.Reason != fault.ReasonUnavailable {
		t.Errorf("the workflow ended with %v", err)
	}
	if f := process.Fault(answer); f == nil || f.Reason != fault.ReasonUnavailable {
		t.Errorf("the answer is %v", answer)
	}
	if len(o.did) > 0 {
		t.Errorf("did %v", o.did)
	}
}

func TestCompletedRequestIsNotRunAgain(t *testing.T) {
	t.Parallel()
	o := setup(t)
	o.OnActivity(activity.BeginRequest, mock.Anything, mock.Anything, mock.Anything).Return(activities.Begun{ID: o.in.RequestID, Done: true}, nil)
	if err := o.run(); err != nil || len(o.did) > 0 {
		t.Errorf("%v: did %v", err, o.did)
	}
}

func TestLongWaitContinuesAsNewWithItsSteps(t *testing.T) {
	t.Parallel()
	o := setup(t).begins()
	o.SetContinueAsNewSuggested(true)
	o.erase = func(from string) (activities.Erased, error) {
		if from == "ordering" {
			return activities.Erased{WaitingFor: []string{"order 1"}}, nil
		}
		return activities.Erased{Erased: 1}, nil
	}
	err := o.run()
	anew, ok := errors.AsType[*workflow.ContinueAsNewError](err)
	if !ok {
		t.Fatalf("ended with %v", err)
	}
	var in datarequest.Input
	if err := o.decode(anew, &in); err != nil || len(in.Steps) != len(activities.Contexts)+1 || in.Steps[0].Records != 1 || in.RequestID != o.in.RequestID {
		t.Errorf("goes on with %+v, %v", in, err)
	}
}

func (o *office) decode(anew *workflow.ContinueAsNewError, in *datarequest.Input) error {
	if anew.WorkflowType.Name != Name {
		return fmt.Errorf("as %s", anew.WorkflowType.Name)
	}
	return converter.GetDefaultDataConverter().FromPayloads(anew.Input, in)
}

func TestOperatorsCancellationIsNoErasure(t *testing.T) {
	t.Parallel()
	o := setup(t).begins()
	o.RegisterDelayedCallback(o.CancelWorkflow, time.Second)
	if err := o.run(); !temporal.IsCanceledError(err) || len(o.did) > 0 {
		t.Errorf("%v: did %v", err, o.did)
	}
}
