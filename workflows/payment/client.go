package payment

import (
	"context"
	"errors"
	"fmt"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
)

// TellProviderEvent tells an order's payment process that the provider has news.
// It is no error when the process has ended.
func TellProviderEvent(ctx context.Context, c client.Client, orderID string) error {
	err := c.SignalWorkflow(ctx, WorkflowID(orderID), "", ProviderEventSignal, nil)
	if _, gone := errors.AsType[*serviceerror.NotFound](err); err != nil && !gone {
		return fmt.Errorf("signal payment: %w", err)
	}
	return nil
}
