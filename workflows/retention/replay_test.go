package retention

import (
	"log/slog"
	"path/filepath"
	"testing"

	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// paths are the ways through the process that must have a recorded history.
var paths = []string{"applied"}

// TestReplay runs the recorded histories through today's code. One that fails says
// that the change breaks what is under way: version it. Histories of new paths are
// recorded by the end-to-end tests with BOOKWORM_RECORD=new.
func TestReplay(t *testing.T) {
	t.Parallel()
	for _, path := range paths {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			replayer := worker.NewWorkflowReplayer()
			replayer.RegisterWorkflowWithOptions(Workflow, workflow.RegisterOptions{Name: Name})
			if err := replayer.ReplayWorkflowHistoryFromJSONFile(slog.New(slog.DiscardHandler), filepath.Join("testdata", path+".json")); err != nil {
				t.Error(err)
			}
		})
	}
}
