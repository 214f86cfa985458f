// Package ordering serves orders: quote, place, read, cancel.
package ordering

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bookworm/activities/finance"
	"bookworm/activities/notification"
	"bookworm/internal/fault"
	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	"bookworm/internal/gen/bookworm/basket/v1/basketv1connect"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/gen/bookworm/ordering/v1/orderingv1connect"
	"bookworm/internal/identity"
	"bookworm/internal/money"
	"bookworm/internal/ordering"
	"bookworm/internal/page"
	"bookworm/internal/personal"
	"bookworm/internal/rpc"
	"bookworm/workflows/checkout"
)

// Deps is what the order handlers need. The clients carry the service's own
// credential.
type Deps struct {
	Orders   *ordering.Store
	Temporal client.Client
	Sealer   *personal.ShopperSealer
	// FingerprintKey keys the fingerprints of requests; the same in every replica.
	FingerprintKey personal.Text

	Baskets basketv1connect.BasketCheckoutServiceClient
	Books   catalogv1connect.CatalogServiceClient
	// PaymentWindow is how long a shopper may take to pay.
	PaymentWindow time.Duration
}

// Register adds OrderService and PurchaseService to a server.
func Register(server *connect.Server, d Deps) {
	orderingv1connect.RegisterOrderServiceHandler(server, &orders{d})
	orderingv1connect.RegisterPurchaseServiceHandler(server, &purchases{d.Orders})
}

type orders struct{ Deps }

const pageSize = 20

// QuoteOrder prices the basket as it is, with what the catalogue says now.
func (h *orders) QuoteOrder(ctx context.Context, req *orderingv1.QuoteOrderRequest) (*orderingv1.QuoteOrderResponse, error) {
	basket, err := h.basket(ctx)
	if err != nil {
		return nil, err
	}
	ask := &catalogv1.BatchGetBooksRequest{}
	quantity := make(map[string]int32)
	for _, item := range basket.GetItems() {
		ask.Ids = append(ask.Ids, item.GetBookId())
		quantity[item.GetBookId()] = item.GetQuantity()
	}
	books, err := h.Books.BatchGetBooks(ctx, ask)
	if err != nil {
		return nil, fmt.Errorf("read books: %w", err)
	}
	if missing := books.GetMissingIds(); len(missing) > 0 {
		return nil, fault.New(fault.ReasonBookNotFound, "book %s does not exist", missing[0]).With("book_id", missing[0])
	}
	lines := make([]ordering.Line, len(books.GetBooks()))
	for i, b := range books.GetBooks() {
		want := quantity[b.GetId()]
		switch {
		case b.GetArchived():
			return nil, fault.New(fault.ReasonBookArchived, "%q is no longer sold", b.GetTitle()).With("book_id", b.GetId())
		case b.GetAvailableQuantity() < want:
			return nil, fault.New(fault.ReasonOutOfStock, "%d copies of %q are wanted and %d available", want, b.GetTitle(), b.GetAvailableQuantity()).
				With("book_id", b.GetId()).With("available", strconv.Itoa(int(b.GetAvailableQuantity())))
		}
		lines[i] = ordering.Line{
			BookID: b.GetId(), Title: b.GetTitle(), ISBN13: b.GetIsbn13(), Quantity: want, UnitPrice: money.FromProto(b.GetPrice()),
		}
	}
	lines, totals, err := ordering.Price(lines, req.GetCountryCode())
	if err != nil {
		return nil, fmt.Errorf("price basket: %w", err)
	}
	return &orderingv1.QuoteOrderResponse{Quote: &orderingv1.Quote{
		Lines: linesProto(lines), Totals: totalsProto(totals), Total: totals.Total.Proto(), BasketEtag: basket.GetEtag(),
	}}, nil
}

// basket returns what the caller means to buy. Errors: BASKET_EMPTY.
func (h *orders) basket(ctx context.Context) (*basketv1.GetBasketSnapshotResponse, error) {
	basket, err := h.Baskets.GetBasketSnapshot(ctx, &basketv1.GetBasketSnapshotRequest{Subject: identity.FromContext(ctx).Subject})
	if err != nil {
		return nil, fmt.Errorf("read basket: %w", err)
	}
	if len(basket.GetItems()) == 0 {
		return nil, fault.New(fault.ReasonBasketEmpty, "there is nothing in the basket")
	}
	return basket, nil
}

// PlaceOrder starts the order's process, or answers the order that the same
// request made before.
func (h *orders) PlaceOrder(ctx context.Context, req *orderingv1.PlaceOrderRequest) (*orderingv1.PlaceOrderResponse, error) {
	key, err := rpc.IdempotencyKey(ctx)
	if err != nil {
		return nil, err
	}
	if total := req.GetExpectedTotal(); total != nil && total.GetCurrencyCode() != ordering.Currency {
		return nil, fault.New(fault.ReasonCurrencyMismatch, "the shop sells in %s", ordering.Currency).
			WithField("expected_total.currency_code", "must be "+ordering.Currency)
	}
	caller := identity.FromContext(ctx)
	orderID := ordering.ID(caller.Subject, key)
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("fingerprint request: %w", err)
	}
	fingerprint := ordering.Fingerprint(h.FingerprintKey, encoded)

	// The row outlives the workflow's retention, so it answers first. The basket and
	// the shopper's key, which only a new order needs, are fetched beside it.
	var known ordering.Order
	var basket *basketv1.GetBasketSnapshotResponse
	var knownErr, basketErr, keyErr error
	var reads sync.WaitGroup
	reads.Go(func() { known, knownErr = h.Orders.Get(ctx, orderID) })
	reads.Go(func() { basket, basketErr = h.basket(ctx) })
	reads.Go(func() { keyErr = h.Sealer.Prepare(ctx, caller.Subject) })
	reads.Wait()
	switch {
	case knownErr == nil:
		return h.replay(ctx, known, fingerprint)
	case !fault.Is(knownErr, fault.ReasonOrderNotFound):
		return nil, knownErr
	case basketErr != nil:
		return nil, basketErr
	case keyErr != nil:
		return nil, keyErr
	}
	if etag := req.GetBasketEtag(); etag != "" && etag != basket.GetEtag() {
		return nil, fault.New(fault.ReasonStaleVersion, "the basket has changed since you saw it").
			With("etag", basket.GetEtag()).WithField("basket_etag", "is not the basket's current version")
	}
	in, details, err := h.input(ctx, caller, orderID, fingerprint, req)
	if err != nil {
		return nil, err
	}
	in.BasketVersion = basket.GetVersion()
	for _, item := range basket.GetItems() {
		in.Items = append(in.Items, ordering.Item{BookID: item.GetBookId(), Quantity: item.GetQuantity()})
	}
	snapshot, err := checkout.Place(ctx, h.Temporal, in)
	if err != nil {
		return nil, err
	}
	// Another request with the same key may have been quicker.
	if !bytes.Equal(snapshot.Fingerprint, fingerprint) {
		return nil, keyReused()
	}
	return &orderingv1.PlaceOrderResponse{Order: orderProto(ordering.Order{
		ID: orderID, Status: ordering.Placed, Lines: snapshot.Lines, Totals: snapshot.Totals, Version: 1,
		CreatedAt: snapshot.PlacedAt, UpdatedAt: snapshot.PlacedAt,
	}, details.Address)}, nil
}

func (h *orders) replay(ctx context.Context, known ordering.Order, fingerprint []byte) (*orderingv1.PlaceOrderResponse, error) {
	if !bytes.Equal(known.Fingerprint, fingerprint) {
		return nil, keyReused()
	}
	rpc.SetHeader(ctx, "Idempotent-Replayed", "true")
	order, err := h.proto(ctx, known)
	if err != nil {
		return nil, err
	}
	return &orderingv1.PlaceOrderResponse{Order: order}, nil
}

func keyReused() error {
	return fault.New(fault.ReasonKeyReused, "the key was used with another request; take a new one")
}

// input seals what is personal, so that only ciphertext reaches the workflow's
// history.
func (h *orders) input(
	ctx context.Context, caller identity.Caller, orderID string, fingerprint []byte, req *orderingv1.PlaceOrderRequest,
) (checkout.Input, ordering.Details, error) {
	a := req.GetShippingAddress()
	details := ordering.Details{
		Address: ordering.Address{
			Recipient: a.GetRecipient(), Line1: a.GetLine1(), Line2: a.GetLine2(), City: a.GetCity(), Region: a.GetRegion(),
			PostalCode: a.GetPostalCode(), CountryCode: a.GetCountryCode(),
		},
		Email: string(caller.Email), Name: string(caller.Name),
	}
	in := checkout.Input{
		OrderID: orderID, Subject: caller.Subject, Country: a.GetCountryCode(), Fingerprint: fingerprint,
		PaymentWindow: h.PaymentWindow,
	}
	if req.GetExpectedTotal() != nil {
		total := money.FromProto(req.GetExpectedTotal())
		in.ExpectedTotal = &total
	}
	for sealed, plain := range map[*personal.Sealed]any{
		&in.Details:       details,
		&in.Contact:       notification.Contact{Email: details.Email, Name: details.Name},
		&in.PaymentMethod: finance.PaymentMethod{Token: req.GetPaymentMethod()},
	} {
		var err error
		if *sealed, err = h.Sealer.Seal(ctx, caller.Subject, orderID, plain); err != nil {
			return checkout.Input{}, ordering.Details{}, fmt.Errorf("seal order: %w", err)
		}
	}
	return in, details, nil
}

// GetOrder returns an order of the caller's, or any to staff.
func (h *orders) GetOrder(ctx context.Context, req *orderingv1.GetOrderRequest) (*orderingv1.GetOrderResponse, error) {
	known, err := h.own(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	order, err := h.proto(ctx, known)
	if err != nil {
		return nil, err
	}
	return &orderingv1.GetOrderResponse{Order: order}, nil
}

// own returns the order if the caller may see it. Somebody else's order looks as
// if it did not exist.
func (h *orders) own(ctx context.Context, id string) (ordering.Order, error) {
	order, err := h.Orders.Get(ctx, id)
	if err != nil {
		return ordering.Order{}, err
	}
	if !rpc.Reaches(ctx, order.Subject) {
		return ordering.Order{}, fault.New(fault.ReasonOrderNotFound, "order %s does not exist", id)
	}
	return order, nil
}

// ListOrders returns a page of the caller's orders.
func (h *orders) ListOrders(ctx context.Context, req *orderingv1.ListOrdersRequest) (*orderingv1.ListOrdersResponse, error) {
	const list = "orders"
	subject := identity.FromContext(ctx).Subject
	size := int(req.GetPageSize())
	if size == 0 {
		size = pageSize
	}
	var after *ordering.Position
	if req.GetPageToken() != "" {
		after = &ordering.Position{}
		if err := page.Decode(req.GetPageToken(), list, subject, &after.CreatedAt, &after.ID); err != nil {
			return nil, err
		}
	}
	found, err := h.Orders.List(ctx, subject, after, size+1) // one more tells whether there is another page
	if err != nil {
		return nil, err
	}
	res := &orderingv1.ListOrdersResponse{}
	if len(found) > size {
		found = found[:size]
		last := found[size-1]
		if res.NextPageToken, err = page.Encode(list, subject, last.CreatedAt, last.ID); err != nil {
			return nil, err
		}
	}
	for _, o := range found {
		order, err := h.proto(ctx, o)
		if err != nil {
			return nil, err
		}
		res.Orders = append(res.Orders, order)
	}
	return res, nil
}

// CancelOrder ends an order that has not been shipped.
func (h *orders) CancelOrder(ctx context.Context, req *orderingv1.CancelOrderRequest) (*orderingv1.CancelOrderResponse, error) {
	known, err := h.own(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	if known.Status != ordering.Cancelled {
		reason := checkout.ReasonByShopper
		if known.Subject != identity.FromContext(ctx).Subject {
			reason = checkout.ReasonByOperator
		}
		if err := checkout.Cancel(ctx, h.Temporal, known.ID, reason); err != nil && !errors.Is(err, checkout.ErrEnded) {
			return nil, err
		}
		if known, err = h.Orders.Get(ctx, known.ID); err != nil {
			return nil, err
		}
		if known.Status != ordering.Cancelled {
			return nil, fault.New(fault.ReasonNotCancellable, "the order is %s", known.Status).With("status", string(known.Status))
		}
	}
	order, err := h.proto(ctx, known)
	if err != nil {
		return nil, err
	}
	return &orderingv1.CancelOrderResponse{Order: order}, nil
}

// proto opens what is sealed in an order. Of an address whose time is over, or whose
// shopper was erased, the country is left.
func (h *orders) proto(ctx context.Context, o ordering.Order) (*orderingv1.Order, error) {
	var details ordering.Details
	err := h.Sealer.Open(ctx, o.Subject, o.ID, o.Details, &details)
	if errors.Is(err, personal.ErrErased) {
		return orderProto(o, ordering.Address{CountryCode: o.Country}), nil
	}
	if err != nil {
		return nil, fmt.Errorf("open order details: %w", err)
	}
	return orderProto(o, details.Address), nil
}

var statusProto = map[ordering.Status]orderingv1.Order_Status{
	ordering.Placed:        orderingv1.Order_PLACED,
	ordering.Confirmed:     orderingv1.Order_CONFIRMED,
	ordering.Shipped:       orderingv1.Order_SHIPPED,
	ordering.Cancelled:     orderingv1.Order_CANCELLED,
	ordering.PaymentFailed: orderingv1.Order_PAYMENT_FAILED,
	ordering.Expired:       orderingv1.Order_EXPIRED,
}

func orderProto(o ordering.Order, a ordering.Address) *orderingv1.Order {
	return &orderingv1.Order{
		Id: o.ID, Status: statusProto[o.Status], StatusReason: o.Reason, Lines: linesProto(o.Lines), Totals: totalsProto(o.Totals),
		Total: o.Totals.Total.Proto(), CreateTime: timestamppb.New(o.CreatedAt), UpdateTime: timestamppb.New(o.UpdatedAt),
		Etag: "v" + strconv.FormatInt(o.Version, 10),
		ShippingAddress: &orderingv1.Address{
			Recipient: a.Recipient, Line1: a.Line1, Line2: a.Line2, City: a.City, Region: a.Region, PostalCode: a.PostalCode,
			CountryCode: a.CountryCode,
		},
	}
}

func linesProto(lines []ordering.Line) []*orderingv1.OrderLine {
	out := make([]*orderingv1.OrderLine, len(lines))
	for i, l := range lines {
		out[i] = &orderingv1.OrderLine{
			BookId: l.BookID, Title: l.Title, Isbn13: l.ISBN13, Quantity: l.Quantity, UnitPrice: l.UnitPrice.Proto(), LineTotal: l.Total.Proto(),
		}
	}
	return out
}

func totalsProto(t ordering.Totals) *orderingv1.Totals {
	return &orderingv1.Totals{
		Subtotal: t.Subtotal.Proto(), Shipping: t.Shipping.Proto(), Tax: t.Tax.Proto(), Discount: t.Discount.Proto(), Total: t.Total.Proto(),
	}
}
