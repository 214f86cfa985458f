package dataexport

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/mock"
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

var (
	id      = uuid.MustParse("0198f3c2-7d41-7a35-9c1e-2f6a1b0c9d8e")
	request = activities.Request{ID: id, Subject: "alice", Kind: compliance.Export}
	expires = time.Date(2026, 1, 8, 0, 0, 0, 0, time.UTC)
)

func input() datarequest.Input {
	return datarequest.Input{RequestID: id, Subject: "alice", Contact: personal.Sealed("sealed")}
}

func setup(t *testing.T) *testsuite.TestWorkflowEnvironment {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(slog.New(slog.DiscardHandler))
	env := suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(10 * time.Second)
	env.RegisterWorkflowWithOptions(Workflow, workflow.RegisterOptions{Name: Name})
	env.RegisterActivity(&activities.Activities{})
	env.RegisterActivity(&notification.Starter{})
	t.Cleanup(func() { env.AssertExpectations(t) })
	return env
}

func finish(t *testing.T, env *testsuite.TestWorkflowEnvironment, in datarequest.Input) error {
	t.Helper()
	env.ExecuteWorkflow(Name, in)
	if !env.IsWorkflowCompleted() {
		t.Fatal("the workflow did not end")
	}
	return env.GetWorkflowError()
}

func TestEveryContextIsAskedOnceInOrder(t *testing.T) {
	t.Parallel()
	if !slices.Equal(slices.Sorted(slices.Values(contexts)), slices.Sorted(slices.Values(activities.Contexts))) {
		t.Fatalf("asks %v of %v", contexts, activities.Contexts)
	}
	env := setup(t)
	env.OnActivity(activity.BeginRequest, mock.Anything, request, mock.Anything).Return(activities.Begun{ID: id}, nil).Once()
	shows, away := 0, 3
	env.OnActivity(activity.ShowProgress, mock.Anything, request, compliance.Running, mock.Anything).Return(
		func(_ context.Context, _ activities.Request, _ compliance.State, steps []compliance.Step) error {
			for i, s := range steps {
				if s.Done != (i < shows) {
					t.Errorf("shown %v after %d contexts", steps, shows)
				}
			}
			shows++
			return nil
		})
	var asked []string
	env.OnActivity(activity.CollectData, mock.Anything, request, mock.Anything).Return(
		func(_ context.Context, _ activities.Request, from string) (compliance.Step, error) {
			if from == "rating" && away > 0 {
				away--
				return compliance.Step{}, fault.New(fault.ReasonUnavailable, "away")
			}
			asked = append(asked, from)
			return compliance.Step{Context: from, Done: true, Records: int64(len(asked))}, nil
		})
	var proof string
	env.OnActivity(activity.CompleteExport, mock.Anything, request, mock.Anything).Return(
		func(_ context.Context, _ activities.Request, steps []compliance.Step) (time.Time, error) {
			proof = compliance.Prove(id, compliance.Export, steps)
			if len(steps) != len(contexts) || steps[6].Records != 7 {
				t.Errorf("completed with %v", steps)
			}
			return expires, nil
		}).Once()
	env.OnActivity(activity.RecordProof, mock.Anything, request, mock.Anything).Return(nil).Once()
	env.OnActivity(starter.StartNotification, mock.Anything, mock.Anything).Return(func(_ context.Context, m notification.Mail) error {
		want := notification.Request{ID: id.String(), Proof: proof, ExpiresAt: expires}
		if m.Template != notification.ExportReady || m.EventID != id.String() || string(m.Contact) != "sealed" || m.Subject != "alice" || *m.Request != want {
			t.Errorf("the mail is %+v", m)
		}
		return nil
	}).Once()
	if err := finish(t, env, input()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(asked, contexts) || proof == "" {
		t.Errorf("asked %v", asked)
	}
}

func TestFreshExportStandsForAnother(t *testing.T) {
	t.Parallel()
	env := setup(t)
	earlier := uuid.New()
	env.OnActivity(activity.BeginRequest, mock.Anything, request, mock.Anything).Return(activities.Begun{ID: earlier, Done: true}, nil).Once()
	var answer any
	env.RegisterDelayedCallback(func() {
		env.UpdateWorkflow(datarequest.BeginUpdate, "u", &testsuite.TestUpdateCallback{
			OnAccept: func() {}, OnReject: func(err error) { t.Error(err) }, OnComplete: func(result any, _ error) { answer = result },
		})
	}, 0)
	if err := finish(t, env, input()); err != nil || answer != any(earlier) {
		t.Errorf("%v, answered %v", err, answer)
	}
}

func TestExportBesideAnErasureIsRefused(t *testing.T) {
	t.Parallel()
	env := setup(t)
	env.OnActivity(activity.BeginRequest, mock.Anything, request, mock.Anything).
		Return(activities.Begun{}, process.Refusal(fault.New(fault.ReasonErasureInProgress, "being erased"))).Once()
	if f := process.Fault(finish(t, env, input())); f == nil || f.Reason != fault.ReasonErasureInProgress {
		t.Errorf("ended with %v", f)
	}
}
