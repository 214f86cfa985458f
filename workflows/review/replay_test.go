package review

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// paths are the ways through the process that must have a recorded history.
var paths = []string{
	"published", "rejected", "refused", "edited", "queued-and-decided", "model-judged", "model-down", "superseded", "deleted", "reported", "summarized",
}

// TestReplay runs the recorded histories through today's code. One that fails says
// that the change breaks reviews that are under way: version it. Histories of new
// paths are recorded by dev/histories.
func TestReplay(t *testing.T) {
	t.Parallel()
	for _, path := range paths {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join("testdata", path+".json")
			if _, err := os.Stat(file); err != nil {
				t.Fatal(err)
			}
			replayer := worker.NewWorkflowReplayer()
			replayer.RegisterWorkflowWithOptions(Workflow, workflow.RegisterOptions{Name: Name})
			replayer.RegisterWorkflowWithOptions(SummaryWorkflow, workflow.RegisterOptions{Name: SummaryName})
			if err := replayer.ReplayWorkflowHistoryFromJSONFile(slog.New(slog.DiscardHandler), file); err != nil {
				t.Error(err)
			}
		})
	}
}
