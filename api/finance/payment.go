// Package finance serves payments to their owners, and takes the payment
// provider's events.
package finance

import (
	"context"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bookworm/internal/fault"
	"bookworm/internal/finance"
	financev1 "bookworm/internal/gen/bookworm/finance/v1"
	"bookworm/internal/gen/bookworm/finance/v1/financev1connect"
	"bookworm/internal/rpc"
)

// Register adds PaymentService to a server.
func Register(server *connect.Server, store *finance.Store) {
	financev1connect.RegisterPaymentServiceHandler(server, &payments{store})
}

type payments struct{ store *finance.Store }

// GetPayment returns the payment of an order of the caller's, or any to staff.
// Somebody else's payment looks as if it did not exist.
func (h *payments) GetPayment(ctx context.Context, req *financev1.GetPaymentRequest) (*financev1.GetPaymentResponse, error) {
	p, err := h.store.Get(ctx, req.GetOrderId())
	if err != nil {
		return nil, err
	}
	if !rpc.Reaches(ctx, p.Subject) {
		return nil, fault.New(fault.ReasonPaymentNotFound, "order %s has no payment", req.GetOrderId())
	}
	res := &financev1.Payment{
		OrderId: p.OrderID, Status: statusProto[p.Status], Amount: p.Amount.Proto(), Authorized: p.Authorized.Proto(),
		Captured: p.Captured.Proto(), Refunded: p.Refunded.Proto(), DeclineCode: p.DeclineCode, UpdateTime: timestamppb.New(p.UpdatedAt),
	}
	if p.Status == finance.RequiresAction {
		res.ActionUrl = p.ActionURL
	}
	return &financev1.GetPaymentResponse{Payment: res}, nil
}

var statusProto = map[finance.Status]financev1.Payment_Status{
	finance.Pending:        financev1.Payment_PENDING,
	finance.RequiresAction: financev1.Payment_REQUIRES_ACTION,
	finance.Authorized:     financev1.Payment_AUTHORIZED,
	finance.Captured:       financev1.Payment_CAPTURED,
	finance.Declined:       financev1.Payment_DECLINED,
	finance.Voided:         financev1.Payment_VOIDED,
	finance.Refunded:       financev1.Payment_REFUNDED,
}
