package ordering

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/ordering"
)

type purchases struct{ orders *ordering.Store }

// maxPurchases is how many books of a shopper are told.
const maxPurchases = 1000

// ListPurchases returns what a shopper bought, for the shop's own services.
func (h *purchases) ListPurchases(ctx context.Context, req *orderingv1.ListPurchasesRequest) (*orderingv1.ListPurchasesResponse, error) {
	bought, err := h.orders.Purchases(ctx, req.GetSubject(), req.GetBookIds(), maxPurchases)
	if err != nil {
		return nil, err
	}
	answer := &orderingv1.ListPurchasesResponse{}
	for _, p := range bought {
		answer.Purchases = append(answer.Purchases, &orderingv1.Purchase{BookId: p.BookID, OrderTime: timestamppb.New(p.OrderedAt)})
	}
	return answer, nil
}
