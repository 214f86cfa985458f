// Package basket serves shoppers their own baskets, and checkout what it needs of
// them.
package basket

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"

	"bookworm/internal/basket"
	"bookworm/internal/fault"
	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	"bookworm/internal/gen/bookworm/basket/v1/basketv1connect"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	"bookworm/internal/identity"
	"bookworm/internal/money"
	"bookworm/internal/rpc"
)

// Register adds BasketService and BasketCheckoutService to a server. The
// catalogue says what books there are and what they cost.
func Register(server *connect.Server, store *basket.Store, books catalogv1connect.CatalogServiceClient) {
	basketv1connect.RegisterBasketServiceHandler(server, &baskets{store, catalogue{books}})
	basketv1connect.RegisterBasketCheckoutServiceHandler(server, &checkout{store})
}

type baskets struct {
	store *basket.Store
	books catalogue
}

// GetBasket returns the caller's basket with today's prices.
func (h *baskets) GetBasket(ctx context.Context, _ *basketv1.GetBasketRequest) (*basketv1.GetBasketResponse, error) {
	subject, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	b, err := h.store.Get(ctx, subject)
	if err != nil {
		return nil, err
	}
	shown, err := h.show(ctx, b, nil)
	return &basketv1.GetBasketResponse{Basket: shown}, err
}

// SetItem sets the number of copies of a book.
func (h *baskets) SetItem(ctx context.Context, req *basketv1.SetItemRequest) (*basketv1.SetItemResponse, error) {
	subject, seen, err := callerAndVersion(ctx, req.GetEtag())
	if err != nil {
		return nil, err
	}
	book, err := parseID(req.GetBookId())
	if err != nil {
		return nil, err
	}
	// The basket as it is now says which books the answer will show, so that
	// one call to the catalogue checks this book and prices all of them.
	before, err := h.store.Get(ctx, subject)
	if err != nil {
		return nil, err
	}
	known, err := h.books.get(ctx, append([]uuid.UUID{book}, bookIDs(before)...))
	if err != nil {
		return nil, err
	}
	switch listed := known[book]; {
	case listed == nil:
		return nil, fault.New(fault.ReasonBookNotFound, "There is no book %s.", book).With("book_id", book.String())
	case listed.GetArchived():
		return nil, fault.New(fault.ReasonBookArchived, "The book %q is no longer sold.", listed.GetTitle()).With("book_id", book.String())
	}
	after, err := h.store.Set(ctx, subject, book, req.GetQuantity(), seen)
	if err != nil {
		return nil, err
	}
	shown, err := h.show(ctx, after, known)
	return &basketv1.SetItemResponse{Basket: shown}, err
}

// RemoveItem takes a book out.
func (h *baskets) RemoveItem(ctx context.Context, req *basketv1.RemoveItemRequest) (*basketv1.RemoveItemResponse, error) {
	subject, seen, err := callerAndVersion(ctx, req.GetEtag())
	if err != nil {
		return nil, err
	}
	book, err := parseID(req.GetBookId())
	if err != nil {
		return nil, err
	}
	after, err := h.store.Remove(ctx, subject, book, seen)
	if err != nil {
		return nil, err
	}
	shown, err := h.show(ctx, after, nil)
	return &basketv1.RemoveItemResponse{Basket: shown}, err
}

// ClearBasket takes everything out.
func (h *baskets) ClearBasket(ctx context.Context, req *basketv1.ClearBasketRequest) (*basketv1.ClearBasketResponse, error) {
	subject, seen, err := callerAndVersion(ctx, req.GetEtag())
	if err != nil {
		return nil, err
	}
	after, err := h.store.Clear(ctx, subject, seen)
	if err != nil {
		return nil, err
	}
	shown, err := h.show(ctx, after, nil)
	return &basketv1.ClearBasketResponse{Basket: shown}, err
}

// show prices a basket and sets the headers of the answer. Books that are not
// known yet are asked for.
func (h *baskets) show(ctx context.Context, b basket.Basket, known map[uuid.UUID]*catalogv1.Book) (*basketv1.Basket, error) {
	var unknown []uuid.UUID
	for _, id := range bookIDs(b) {
		if known[id] == nil {
			unknown = append(unknown, id)
		}
	}
	more, err := h.books.get(ctx, unknown)
	if err != nil {
		return nil, err
	}
	shown, err := price(b, func(id uuid.UUID) *catalogv1.Book {
		if book := known[id]; book != nil {
			return book
		}
		return more[id]
	})
	if err != nil {
		return nil, fmt.Errorf("price basket: %w", err)
	}
	rpc.SetHeader(ctx, "ETag", strconv.Quote(shown.GetEtag()))
	rpc.SetHeader(ctx, "Cache-Control", "private, no-store")
	return shown, nil
}

// price returns the basket as its owner sees it. The subtotal has only what can
// be bought now; it is absent when that is nothing.
func price(b basket.Basket, find func(uuid.UUID) *catalogv1.Book) (*basketv1.Basket, error) {
	shown := &basketv1.Basket{Version: b.Version, Etag: b.ETag()}
	var subtotal money.Money
	for _, item := range b.Items {
		book := find(item.BookID)
		if book == nil {
			// The catalogue forgot it; the shopper should see that it must go.
			shown.Items = append(shown.Items, &basketv1.BasketItem{BookId: item.BookID.String(), Quantity: item.Quantity, Archived: true})
			continue
		}
		shown.Items = append(shown.Items, &basketv1.BasketItem{
			BookId:            item.BookID.String(),
			Quantity:          item.Quantity,
			Title:             book.GetTitle(),
			UnitPrice:         book.GetPrice(),
			AvailableQuantity: book.GetAvailableQuantity(),
			Archived:          book.GetArchived(),
		})
		if book.GetArchived() || book.GetAvailableQuantity() < item.Quantity {
			continue
		}
		line, err := money.FromProto(book.GetPrice()).Times(int64(item.Quantity))
		if err != nil {
			return nil, err
		}
		if subtotal, err = subtotal.Add(line); err != nil {
			return nil, err
		}
	}
	if subtotal.Currency != "" {
		shown.Subtotal = subtotal.Proto()
	}
	return shown, nil
}

// catalogue is the catalogue's API.
type catalogue struct {
	client catalogv1connect.CatalogServiceClient
}

// batch is how many books the catalogue gives in one call.
const batch = 100

// get returns the books of the ids by id; those that there are not are not in it.
func (c catalogue) get(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]*catalogv1.Book, error) {
	found := make(map[uuid.UUID]*catalogv1.Book, len(ids))
	for len(ids) > 0 {
		req := &catalogv1.BatchGetBooksRequest{}
		for _, id := range ids[:min(batch, len(ids))] {
			req.Ids = append(req.Ids, id.String())
		}
		ids = ids[len(req.GetIds()):]
		answer, err := c.client.BatchGetBooks(ctx, req)
		if err != nil {
			return nil, fmt.Errorf("get the basket's books: %w", err)
		}
		for _, book := range answer.GetBooks() {
			id, err := uuid.Parse(book.GetId())
			if err != nil {
				return nil, fmt.Errorf("get the basket's books: %w", err)
			}
			found[id] = book
		}
	}
	return found, nil
}

func bookIDs(b basket.Basket) []uuid.UUID {
	ids := make([]uuid.UUID, len(b.Items))
	for i, item := range b.Items {
		ids[i] = item.BookID
	}
	return ids
}

// caller returns whose basket the call is about: always the caller's own.
func caller(ctx context.Context) (string, error) {
	subject := identity.FromContext(ctx).Subject
	if subject == "" {
		return "", errors.New("a call about a basket came without a caller")
	}
	return subject, nil
}

// callerAndVersion returns also the version that the caller has seen, from the
// message or the If-Match header; nil for any.
func callerAndVersion(ctx context.Context, etag string) (subject string, seen *int64, err error) {
	subject, err = caller(ctx)
	if err != nil {
		return "", nil, err
	}
	header := strings.TrimSpace(rpc.Header(ctx, "If-Match"))
	if header == "*" { // there is always a basket
		header = ""
	}
	for _, text := range []string{header, etag} {
		if text == "" {
			continue
		}
		version, err := basket.ParseETag(text)
		if err != nil {
			return "", nil, err
		}
		if seen != nil && *seen != version {
			const problem = "contradicts the If-Match header"
			return "", nil, fault.New(fault.ReasonInvalidArgument, "The etag %s.", problem).WithField("etag", problem)
		}
		seen = &version
	}
	return subject, seen, nil
}

func parseID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.UUID{}, fault.New(fault.ReasonInvalidArgument, "The field book_id must be a UUID.").WithField("book_id", "must be a UUID")
	}
	return id, nil
}
