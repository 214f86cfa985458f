// Package ordering holds the activities of checkout. They are short, idempotent
// by the id of the order or of its hold, and run as local activities on the
// ordering task queue. What belongs to another context is asked of that context's API.
package ordering

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"bookworm/internal/fault"
	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	"bookworm/internal/gen/bookworm/basket/v1/basketv1connect"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	"bookworm/internal/money"
	"bookworm/internal/ordering"
	"bookworm/internal/personal"
	"bookworm/internal/process"
)

// TaskQueue is where the checkout process runs.
const TaskQueue = "ordering"

// Activities is what the checkout activities need. The clients carry the
// service's own credential.
type Activities struct {
	Orders  *ordering.Store
	Baskets basketv1connect.BasketCheckoutServiceClient
	Stock   catalogv1connect.StockServiceClient
}

// Hold asks for stock.
type Hold struct {
	ID         string // of the hold, a UUID
	Items      []ordering.Item
	ExpireTime time.Time
}

// HoldStock sets copies aside and returns them as lines at today's prices.
// Errors: BOOK_NOT_FOUND, BOOK_ARCHIVED, OUT_OF_STOCK, HOLD_RELEASED.
func (a *Activities) HoldStock(ctx context.Context, h Hold) ([]ordering.Line, error) {
	req := &catalogv1.HoldStockRequest{HoldId: h.ID, ExpireTime: timestamppb.New(h.ExpireTime)}
	for _, item := range h.Items {
		req.Lines = append(req.Lines, &catalogv1.StockLine{BookId: item.BookID, Quantity: item.Quantity})
	}
	held, err := a.Stock.HoldStock(ctx, req)
	if err != nil {
		return nil, process.Refusal(fmt.Errorf("hold stock: %w", err))
	}
	lines := make([]ordering.Line, len(held.GetLines()))
	for i, l := range held.GetLines() {
		lines[i] = ordering.Line{
			BookID: l.GetBookId(), Title: l.GetTitle(), ISBN13: l.GetIsbn13(), Quantity: l.GetQuantity(),
			UnitPrice: money.FromProto(l.GetUnitPrice()),
		}
	}
	return lines, nil
}

// ReleaseStock gives a hold's copies back, and bars a HoldStock of it that is
// still on its way. No-op when nothing is held.
func (a *Activities) ReleaseStock(ctx context.Context, holdID string) error {
	if _, err := a.Stock.ReleaseHold(ctx, &catalogv1.ReleaseHoldRequest{HoldId: holdID}); err != nil {
		return process.Refusal(fmt.Errorf("release stock: %w", err))
	}
	return nil
}

// CommitStock makes a hold permanent. Errors: HOLD_RELEASED.
func (a *Activities) CommitStock(ctx context.Context, holdID string) error {
	if _, err := a.Stock.CommitHold(ctx, &catalogv1.CommitHoldRequest{HoldId: holdID}); err != nil {
		return process.Refusal(fmt.Errorf("commit stock: %w", err))
	}
	return nil
}

// ShipStock takes a hold's copies out of stock. Errors: HOLD_RELEASED.
func (a *Activities) ShipStock(ctx context.Context, holdID string) error {
	if _, err := a.Stock.ShipHold(ctx, &catalogv1.ShipHoldRequest{HoldId: holdID}); err != nil {
		return process.Refusal(fmt.Errorf("ship stock: %w", err))
	}
	return nil
}

// NewOrder is what becomes an order.
type NewOrder struct {
	OrderID       string
	Subject       string
	Country       string // ISO 3166-1 alpha-2, where the parcel goes
	Lines         []ordering.Line
	ExpectedTotal *money.Money // what the shopper agreed to; nil when they were not asked
	BasketVersion int64
	Fingerprint   []byte
	Details       personal.Sealed // an ordering.Details
	PlacedAt      time.Time
}

// Snapshot is the order as the shopper agreed to it.
type Snapshot struct {
	Lines       []ordering.Line
	Totals      ordering.Totals
	Fingerprint []byte
	PlacedAt    time.Time
}

// CreateOrder prices the lines and writes the order. Errors: PRICE_CHANGED,
// CURRENCY_MISMATCH.
func (a *Activities) CreateOrder(ctx context.Context, n NewOrder) (Snapshot, error) {
	lines, totals, err := ordering.Price(n.Lines, n.Country)
	if err != nil {
		return Snapshot{}, process.Refusal(fault.New(fault.ReasonCurrencyMismatch, "the basket cannot be priced in %s", ordering.Currency).WithCause(err))
	}
	if want := n.ExpectedTotal; want != nil && *want != totals.Total {
		return Snapshot{}, process.Refusal(fault.New(fault.ReasonPriceChanged, "the order now costs %s, not %s", totals.Total, want).
			With("total_minor", fmt.Sprint(totals.Total.Minor)).With("currency_code", totals.Total.Currency))
	}
	stored, err := a.Orders.Create(ctx, ordering.Order{
		ID: n.OrderID, Subject: n.Subject, Lines: lines, Totals: totals, Country: n.Country, Details: n.Details,
		Fingerprint: n.Fingerprint, BasketVersion: n.BasketVersion, CreatedAt: n.PlacedAt,
	})
	if err != nil {
		return Snapshot{}, process.Refusal(err)
	}
	return Snapshot{Lines: stored.Lines, Totals: stored.Totals, Fingerprint: stored.Fingerprint, PlacedAt: stored.CreatedAt}, nil
}

// Step is a step of an order to another state.
type Step struct {
	OrderID string
	Status  ordering.Status
	Reason  string
	At      time.Time
}

// StepOrder moves an order to another state; no-op when it is there already.
// Errors: ORDER_NOT_FOUND, ILLEGAL_TRANSITION.
func (a *Activities) StepOrder(ctx context.Context, s Step) error {
	return process.Refusal(a.Orders.Step(ctx, s.OrderID, s.Status, s.Reason, s.At))
}

// ClearBasket empties the shopper's basket if it is still in the version that was
// ordered.
func (a *Activities) ClearBasket(ctx context.Context, subject string, version int64) error {
	if _, err := a.Baskets.ClearOrderedBasket(ctx, &basketv1.ClearOrderedBasketRequest{Subject: subject, Version: version}); err != nil {
		return process.Refusal(fmt.Errorf("clear basket: %w", err))
	}
	return nil
}
