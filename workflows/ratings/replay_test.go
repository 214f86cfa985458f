package ratings

import (
	"log/slog"
	"testing"

	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// TestReplay runs the recorded history through today's code. When it fails, the
// change breaks a rebuild that is under way: version it.
func TestReplay(t *testing.T) {
	t.Parallel()
	replayer := worker.NewWorkflowReplayer()
	replayer.RegisterWorkflowWithOptions(Workflow, workflow.RegisterOptions{Name: Name})
	if err := replayer.ReplayWorkflowHistoryFromJSONFile(slog.New(slog.DiscardHandler), "testdata/rebuilt.json"); err != nil {
		t.Error(err)
	}
}
