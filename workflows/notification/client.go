package notification

import (
	"context"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	activities "bookworm/activities/notification"
	"bookworm/internal/process"
)

// Starter starts the process from another one.
type Starter struct{ Client client.Client }

// StartNotification begins to send a mail and does not wait for it. Starting the
// same mail again is no error and has no effect.
//
// Checkout runs it as a local activity. A child workflow would come to the same,
// but tell its parent when it has started and when it has ended: six writes more
// at the server for every order.
func (s *Starter) StartNotification(ctx context.Context, m Mail) error {
	attributes := []temporal.SearchAttributeUpdate{process.Customer.ValueSet(m.Subject)}
	if m.OrderID != "" {
		attributes = append(attributes, process.OrderID.ValueSet(m.OrderID))
	}
	_, err := s.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:        WorkflowID(m.About(), m.Template),
		TaskQueue: activities.TaskQueue,
		// The client takes the answer that it is there already for success.
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		StaticSummary:         m.Template + " mail",
		TypedSearchAttributes: temporal.NewSearchAttributes(attributes...),
	}, Name, m)
	if err != nil {
		return fmt.Errorf("start notification: %w", err)
	}
	return nil
}
