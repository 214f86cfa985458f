package dataexport

import (
	"context"

	"github.com/google/uuid"
	"go.temporal.io/sdk/client"

	"bookworm/workflows/datarequest"
)

// WorkflowID is the id of a person's exports, of which one runs at a time. The
// person is the hash that they are known under.
func WorkflowID(person string) string { return "export/" + person }

// Request starts an export, or joins the one that runs, and returns its id; see
// datarequest.Ask. Errors: ERASURE_IN_PROGRESS, UNAVAILABLE.
func Request(ctx context.Context, c client.Client, person string, in datarequest.Input) (uuid.UUID, error) {
	return datarequest.Ask(ctx, c, datarequest.Start{WorkflowID: WorkflowID(person), Name: Name, Summary: "export of a person's data"}, in)
}
