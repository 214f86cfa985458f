package basket

import (
	"context"

	"bookworm/internal/basket"
	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
)

type checkout struct{ store *basket.Store }

// GetBasketSnapshot returns what is in a shopper's basket and in which version.
func (h *checkout) GetBasketSnapshot(ctx context.Context, req *basketv1.GetBasketSnapshotRequest) (*basketv1.GetBasketSnapshotResponse, error) {
	b, err := h.store.Get(ctx, req.GetSubject())
	if err != nil {
		return nil, err
	}
	answer := &basketv1.GetBasketSnapshotResponse{Version: b.Version, Etag: b.ETag()}
	for _, item := range b.Items {
		answer.Items = append(answer.Items, &basketv1.SnapshotItem{BookId: item.BookID.String(), Quantity: item.Quantity})
	}
	return answer, nil
}

// ClearOrderedBasket empties the basket if it is still in the version that was
// ordered.
func (h *checkout) ClearOrderedBasket(ctx context.Context, req *basketv1.ClearOrderedBasketRequest) (*basketv1.ClearOrderedBasketResponse, error) {
	cleared, err := h.store.ClearVersion(ctx, req.GetSubject(), req.GetVersion())
	if err != nil {
		return nil, err
	}
	return &basketv1.ClearOrderedBasketResponse{Cleared: cleared}, nil
}
