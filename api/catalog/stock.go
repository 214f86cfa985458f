package catalog

import (
	"context"
	"fmt"

	"bookworm/internal/catalog"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
)

type stock struct{ store *catalog.Store }

// HoldStock sets an order's copies aside.
func (h *stock) HoldStock(ctx context.Context, req *catalogv1.HoldStockRequest) (*catalogv1.HoldStockResponse, error) {
	order, err := parseID("hold_id", req.GetHoldId())
	if err != nil {
		return nil, err
	}
	if err := req.GetExpireTime().CheckValid(); err != nil {
		return nil, invalid("expire_time", "must be a moment").WithCause(err)
	}
	lines := make([]catalog.StockLine, len(req.GetLines()))
	for i, line := range req.GetLines() {
		book, err := parseID(fmt.Sprintf("lines[%d].book_id", i), line.GetBookId())
		if err != nil {
			return nil, err
		}
		lines[i] = catalog.StockLine{BookID: book, Quantity: line.GetQuantity()}
	}
	held, err := h.store.HoldStock(ctx, order, lines, req.GetExpireTime().AsTime())
	if err != nil {
		return nil, err
	}
	answer := &catalogv1.HoldStockResponse{}
	for _, line := range held {
		answer.Lines = append(answer.Lines, &catalogv1.HeldLine{
			BookId:    line.BookID.String(),
			Quantity:  line.Quantity,
			Title:     line.Title,
			Isbn13:    line.ISBN13,
			UnitPrice: line.UnitPrice.Proto(),
		})
	}
	return answer, nil
}

// CommitHold makes an order's hold permanent.
func (h *stock) CommitHold(ctx context.Context, req *catalogv1.CommitHoldRequest) (*catalogv1.CommitHoldResponse, error) {
	order, err := parseID("hold_id", req.GetHoldId())
	if err != nil {
		return nil, err
	}
	return &catalogv1.CommitHoldResponse{}, h.store.CommitHold(ctx, order)
}

// ReleaseHold gives an order's copies back.
func (h *stock) ReleaseHold(ctx context.Context, req *catalogv1.ReleaseHoldRequest) (*catalogv1.ReleaseHoldResponse, error) {
	order, err := parseID("hold_id", req.GetHoldId())
	if err != nil {
		return nil, err
	}
	return &catalogv1.ReleaseHoldResponse{}, h.store.ReleaseHold(ctx, order)
}

// ShipHold takes an order's copies out of stock.
func (h *stock) ShipHold(ctx context.Context, req *catalogv1.ShipHoldRequest) (*catalogv1.ShipHoldResponse, error) {
	order, err := parseID("hold_id", req.GetHoldId())
	if err != nil {
		return nil, err
	}
	return &catalogv1.ShipHoldResponse{}, h.store.ShipHold(ctx, order)
}
