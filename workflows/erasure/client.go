package erasure

import (
	"context"

	"github.com/google/uuid"
	"go.temporal.io/sdk/client"

	"bookworm/workflows/datarequest"
)

// WorkflowID is the id of a person's erasures, of which one runs at a time. The
// person is the hash that they are known under.
func WorkflowID(person string) string { return "erasure/" + person }

// Request starts an erasure, or joins the one that runs, and returns its id; see
// datarequest.Ask. Errors: UNAVAILABLE.
func Request(ctx context.Context, c client.Client, person string, in datarequest.Input) (uuid.UUID, error) {
	return datarequest.Ask(ctx, c, datarequest.Start{WorkflowID: WorkflowID(person), Name: Name, Summary: "erasure of a person's data"}, in)
}
