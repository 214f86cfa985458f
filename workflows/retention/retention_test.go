package retention

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/compliance"
)

func run(t *testing.T, apply func(string) (map[string]int64, error)) (deleted map[string]map[string]int64, asked []string, err error) {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(slog.New(slog.DiscardHandler))
	env := suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(10 * time.Second)
	env.RegisterWorkflowWithOptions(Workflow, workflow.RegisterOptions{Name: Name})
	env.RegisterActivity(&activities.Activities{})
	env.OnActivity(activity.ApplyRetention, mock.Anything, mock.Anything).Return(func(_ context.Context, from string) (map[string]int64, error) {
		asked = append(asked, from)
		return apply(from)
	})
	env.ExecuteWorkflow(Name)
	if !env.IsWorkflowCompleted() {
		t.Fatal("the workflow did not end")
	}
	if err := env.GetWorkflowError(); err != nil {
		return nil, asked, err
	}
	return deleted, asked, env.GetWorkflowResult(&deleted)
}

func TestEveryContextDeletesWhatIsOld(t *testing.T) {
	t.Parallel()
	deleted, asked, err := run(t, func(from string) (map[string]int64, error) { return map[string]int64{"things": int64(len(from))}, nil })
	if err != nil || !slices.Equal(asked, activities.Contexts) || len(deleted) != len(asked) || deleted["chat"]["things"] != 4 {
		t.Errorf("%v, asked %v: %v", err, asked, deleted)
	}
}

func TestContextThatCannotDoesNotKeepTheOthersFromIt(t *testing.T) {
	t.Parallel()
	_, asked, err := run(t, func(from string) (map[string]int64, error) {
		if from == "rating" {
			return nil, temporal.NewNonRetryableApplicationError("broken", "x", nil)
		}
		return map[string]int64{}, nil
	})
	if err == nil || !strings.Contains(err.Error(), "rating") || !slices.Equal(asked, activities.Contexts) {
		t.Errorf("%v, asked %v", err, asked)
	}
}
