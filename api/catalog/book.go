// Package catalog serves books to shoppers, and stock to the shop's own services.
package catalog

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bookworm/internal/catalog"
	"bookworm/internal/fault"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	"bookworm/internal/gen/bookworm/ordering/v1/orderingv1connect"
	"bookworm/internal/gen/bookworm/rating/v1/ratingv1connect"
	"bookworm/internal/rpc"
)

// Deps is what the catalogue's handlers need. The clients carry the service's own
// credential.
type Deps struct {
	Books    *catalog.Store
	Searcher *catalog.Searcher
	Indexer  *catalog.Indexer // to say how the index is; the catalogue's worker keeps it
	Temporal client.Client
	// What shoppers bought and how they rated it, for recommendations.
	Purchases orderingv1connect.PurchaseServiceClient
	Reviewers ratingv1connect.ReviewerServiceClient
	Logger    *slog.Logger
}

// Register adds the catalogue's services to a server.
func Register(server *connect.Server, d Deps) {
	catalogv1connect.RegisterCatalogServiceHandler(server, &books{store: d.Books, deps: d})
	catalogv1connect.RegisterCatalogAdminServiceHandler(server, &admin{d})
	catalogv1connect.RegisterBookRatingServiceHandler(server, &ratings{d.Books})
	catalogv1connect.RegisterStockServiceHandler(server, &stock{d.Books})
}

type books struct {
	store *catalog.Store
	deps  Deps
}

const pageSize = 20

// cacheControl lets anyone keep a book or a list for a moment: its number of
// copies moves with every order.
const cacheControl = "public, max-age=5"

// ListBooks lists the books on sale, a page at a time.
func (h *books) ListBooks(ctx context.Context, req *catalogv1.ListBooksRequest) (*catalogv1.ListBooksResponse, error) {
	filter := catalog.Filter{
		Query:    req.GetQuery(),
		Category: req.GetCategory(),
		Author:   req.GetAuthor(),
		Language: req.GetLanguage(),
		MinPrice: req.GetMinPriceMinor(),
		MaxPrice: req.GetMaxPriceMinor(),
		InStock:  req.GetInStock(),
	}
	if err := checkFilter(filter); err != nil {
		return nil, err
	}
	found, next, err := h.store.List(ctx, filter, sorts[req.GetSort()], size(req.GetPageSize(), pageSize), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	rpc.SetHeader(ctx, "Cache-Control", cacheControl)
	return &catalogv1.ListBooksResponse{Books: protos(found), NextPageToken: next}, nil
}

var sorts = map[catalogv1.ListBooksRequest_Sort]catalog.Sort{
	catalogv1.ListBooksRequest_SORT_UNSPECIFIED: catalog.SortTitle,
	catalogv1.ListBooksRequest_TITLE:            catalog.SortTitle,
	catalogv1.ListBooksRequest_PRICE_ASC:        catalog.SortPriceAsc,
	catalogv1.ListBooksRequest_PRICE_DESC:       catalog.SortPriceDesc,
	catalogv1.ListBooksRequest_NEWEST:           catalog.SortNewest,
}

// GetBook returns one book, also an archived one.
func (h *books) GetBook(ctx context.Context, req *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
	id, err := parseID("id", req.GetId())
	if err != nil {
		return nil, err
	}
	book, err := h.store.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	rpc.SetHeader(ctx, "Cache-Control", cacheControl)
	rpc.SetHeader(ctx, "ETag", strconv.Quote(etag(book.Version)))
	return &catalogv1.GetBookResponse{Book: toProto(book)}, nil
}

// BatchGetBooks returns the books of the ids, in the order of the ids.
func (h *books) BatchGetBooks(ctx context.Context, req *catalogv1.BatchGetBooksRequest) (*catalogv1.BatchGetBooksResponse, error) {
	ids := make([]uuid.UUID, len(req.GetIds()))
	for i, text := range req.GetIds() {
		id, err := parseID(fmt.Sprintf("ids[%d]", i), text)
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	found, err := h.store.BatchGet(ctx, ids)
	if err != nil {
		return nil, err
	}
	answer := &catalogv1.BatchGetBooksResponse{Books: protos(found)}
	there := make(map[uuid.UUID]bool, len(found))
	for _, book := range found {
		there[book.ID] = true
	}
	for i, id := range ids {
		if !there[id] {
			answer.MissingIds = append(answer.MissingIds, req.GetIds()[i])
		}
	}
	rpc.SetHeader(ctx, "Cache-Control", cacheControl)
	return answer, nil
}

func etag(version int64) string { return "v" + strconv.FormatInt(version, 10) }

func protos(found []catalog.Book) []*catalogv1.Book {
	all := make([]*catalogv1.Book, len(found))
	for i, book := range found {
		all[i] = toProto(book)
	}
	return all
}

func toProto(b catalog.Book) *catalogv1.Book {
	return &catalogv1.Book{
		Id:                b.ID.String(),
		Isbn13:            b.ISBN13,
		Title:             b.Title,
		Subtitle:          b.Subtitle,
		Authors:           b.Authors,
		Description:       b.Description,
		Publisher:         b.Publisher,
		PublicationYear:   b.Year,
		Language:          b.Language,
		PageCount:         b.Pages,
		Categories:        b.Categories,
		Price:             b.Price.Proto(),
		AvailableQuantity: b.Available,
		Archived:          b.Archived,
		Etag:              etag(b.Version),
		UpdateTime:        timestamppb.New(b.UpdatedAt),
		Rating:            ratingProto(b.Rating),
	}
}

// ratingProto is absent for a book without reviews.
func ratingProto(r catalog.Rating) *catalogv1.Rating {
	if r.Count() == 0 {
		return nil
	}
	return &catalogv1.Rating{ReviewCount: r.Count(), AverageStars: r.Average(), Score: r.Score}
}

func parseID(field, text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.UUID{}, invalid(field, "must be a UUID")
	}
	return id, nil
}

func invalid(field, problem string) *fault.Error {
	return fault.New(fault.ReasonInvalidArgument, "The field %s %s.", field, problem).WithField(field, problem)
}
