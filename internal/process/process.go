// Package process holds what the shop's workflows share: how faults cross the
// Temporal boundary, what operators can search for, and compensation. All of it
// is deterministic.
package process

import (
	"errors"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"bookworm/internal/fault"
)

// Search attributes of the shop's processes. They are stored in clear text, so
// they never hold personal data: a customer is the opaque subject.
var (
	OrderID     = temporal.NewSearchAttributeKeyKeyword("BookwormOrderId")
	Customer    = temporal.NewSearchAttributeKeyKeyword("BookwormCustomer")
	OrderStatus = temporal.NewSearchAttributeKeyKeyword("BookwormOrderStatus")
	OrderTotal  = temporal.NewSearchAttributeKeyKeyword("BookwormOrderTotal")
	Step        = temporal.NewSearchAttributeKeyKeyword("BookwormStep")
)

// SearchAttributes are the attributes a namespace must know.
var SearchAttributes = map[string]enumspb.IndexedValueType{
	OrderID.GetName():     OrderID.GetValueType(),
	Customer.GetName():    Customer.GetValueType(),
	OrderStatus.GetName(): OrderStatus.GetValueType(),
	OrderTotal.GetName():  OrderTotal.GetValueType(),
	Step.GetName():        Step.GetValueType(),
}

// retryable lists the kinds of fault for which the same call may succeed later.
var retryable = map[fault.Kind]bool{fault.Internal: true, fault.Unavailable: true}

// details is a fault as it travels through Temporal.
type details struct {
	Message  string            `json:"message"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Fields   []fault.Field     `json:"fields,omitempty"`
}

// Refusal makes of a fault that no retry can cure an application error that
// Temporal does not retry and does not count as a failure of the system. Other
// errors, also nil, are returned as they are and are retried. Activities call it
// on the way out.
func Refusal(err error) error {
	f := fault.As(err)
	if f == nil || retryable[f.Kind()] {
		return err
	}
	return Refused(f)
}

// Refused makes of a fault the application error that callers of a process turn
// back with Fault, whatever its kind.
func Refused(f *fault.Error) error {
	return temporal.NewApplicationErrorWithOptions(f.Message, string(f.Reason), temporal.ApplicationErrorOptions{
		NonRetryable: true,
		Category:     temporal.ApplicationErrorCategoryBenign,
		Details:      []any{details{Message: f.Message, Metadata: f.Metadata, Fields: f.Fields}},
	})
}

// Fault returns the fault that Refusal made err of, or nil.
func Fault(err error) *fault.Error {
	app, ok := errors.AsType[*temporal.ApplicationError](err)
	if !ok {
		return nil
	}
	reason := fault.Reason(app.Type())
	if _, known := fault.Reasons[reason]; !known {
		return nil
	}
	f := &fault.Error{Reason: reason, Message: app.Message()}
	var d details
	if app.HasDetails() && app.Details(&d) == nil {
		f.Message, f.Metadata, f.Fields = d.Message, d.Metadata, d.Fields
	}
	return f
}

// Compensations undoes what a process did, the last step first. A step registers
// its compensation before the call it undoes, because a call that seems to have
// failed may have landed; so each one must be a no-op when there is nothing to
// undo.
type Compensations struct {
	undo []func(workflow.Context) error
}

// Add registers a compensation.
func (c *Compensations) Add(undo func(workflow.Context) error) { c.undo = append(c.undo, undo) }

// Run runs all compensations, each once, out of reach of the workflow's own
// cancellation, and forgets them. One that fails does not stop the others; their
// errors are joined.
func (c *Compensations) Run(ctx workflow.Context) error {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	var failed []error
	for len(c.undo) > 0 {
		last := c.undo[len(c.undo)-1]
		c.undo = c.undo[:len(c.undo)-1]
		if err := last(ctx); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
