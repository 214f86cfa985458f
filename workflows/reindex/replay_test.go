package reindex_test

import (
	"path/filepath"
	"testing"

	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"bookworm/workflows/reindex"
)

// TestReplay runs today's code over recorded histories. One that does not replay
// is a workflow in production that would stop: version the change instead of
// recording anew.
func TestReplay(t *testing.T) {
	t.Parallel()
	histories, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(histories) == 0 {
		t.Fatal("there are no recorded histories in testdata")
	}
	for _, history := range histories {
		t.Run(filepath.Base(history), func(t *testing.T) {
			t.Parallel()
			replayer := worker.NewWorkflowReplayer()
			replayer.RegisterWorkflowWithOptions(reindex.Workflow, workflow.RegisterOptions{Name: reindex.Name})
			replayer.RegisterWorkflowWithOptions(reindex.Check, workflow.RegisterOptions{Name: reindex.DriftName})
			if err := replayer.ReplayWorkflowHistoryFromJSONFile(nil, history); err != nil {
				t.Error(err)
			}
		})
	}
}
