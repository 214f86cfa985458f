package review

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/testsuite"
)

// summarizer stands for the activity, and says how often it was called.
type summarizer struct {
	calls int
	err   error
}

func (s *summarizer) Summarize(context.Context, uuid.UUID) (bool, error) {
	s.calls++
	return s.err == nil, s.err
}

func summarize(t *testing.T, s *summarizer, refresh ...time.Duration) (stored int) {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.RegisterActivity(s)
	for _, at := range refresh {
		env.RegisterDelayedCallback(func() { env.SignalWorkflow(RefreshSignal, nil) }, at)
	}
	env.ExecuteWorkflow(SummaryWorkflow, uuid.New())
	if err := env.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	if err := env.GetWorkflowResult(&stored); err != nil {
		t.Fatal(err)
	}
	return stored
}

func TestChangesThatComeTogetherMakeOneSummary(t *testing.T) {
	t.Parallel()
	var s summarizer
	if stored := summarize(t, &s, 0, time.Second, 50*time.Second); stored != 1 || s.calls != 1 {
		t.Errorf("%d stored in %d calls", stored, s.calls)
	}
}

func TestModelThatDoesNotAnswerIsGivenUp(t *testing.T) {
	t.Parallel()
	s := summarizer{err: errors.New("away")}
	if stored := summarize(t, &s, 0); stored != 0 || s.calls != int(summaryOptions.RetryPolicy.MaximumAttempts) {
		t.Errorf("%d stored in %d calls", stored, s.calls)
	}
}

func TestChangeWhileTheModelWritesMakesAnother(t *testing.T) {
	t.Parallel()
	// The retries of the first take longer than the second change needs to come.
	s := summarizer{err: errors.New("away")}
	summarize(t, &s, 0, settleFor+20*time.Second)
	if s.calls != 2*int(summaryOptions.RetryPolicy.MaximumAttempts) {
		t.Errorf("%d calls", s.calls)
	}
}
