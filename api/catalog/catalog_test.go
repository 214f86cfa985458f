package catalog_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"golang.org/x/oauth2"
	"google.golang.org/protobuf/types/known/timestamppb"

	api "bookworm/api/catalog"
	"bookworm/internal/catalog"
	"bookworm/internal/catalog/seed"
	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	"bookworm/internal/identity"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
	"bookworm/internal/rpc"
	"bookworm/internal/rpc/rpctest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// shop is the catalogue's API over a database of its own, with the seed books.
type shop struct {
	catalogv1connect.CatalogServiceClient
	stock  catalogv1connect.StockServiceClient // as a service of the shop
	public catalogv1connect.StockServiceClient // as a customer

	ratings catalogv1connect.BookRatingServiceClient // as a service of the shop
	me      catalogv1connect.CatalogServiceClient    // as a customer
	taste   *taste
	seeded  []seed.Book
}

// roles is a verifier for which a token is a role.
type roles struct{}

func (roles) Verify(_ context.Context, token string) (identity.Caller, error) {
	return identity.Caller{Subject: token, Roles: []accessv1.Role{accessv1.Role(accessv1.Role_value[token])}}, nil
}

func setup(t *testing.T) shop {
	t.Helper()
	db, err := postgres.Open(t.Context(), pgtest.DB(t, func(ctx context.Context, url string) error {
		return postgres.Migrate(ctx, url, catalog.Schema)
	}), catalog.Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	store := catalog.NewStore(db)
	books, err := seed.Books()
	if err != nil {
		t.Fatal(err)
	}
	books = books[:60]
	books[0].Stock, books[1].Stock = 3, 0
	if _, err := store.Seed(t.Context(), books); err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rpc.ServerOptions{Audit: rpctest.Audit(), Verifier: roles{}})
	if err != nil {
		t.Fatal(err)
	}
	taste := &taste{}
	api.Register(server, api.Deps{Books: store, Searcher: alone(t, store), Purchases: taste, Reviewers: taste, Logger: slog.New(slog.DiscardHandler)})
	url := serve(t, rpc.Handler(server))
	as := func(role string) *connect.Client {
		return rpc.NewClient(rpc.ClientOptions{BaseURL: url, Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: role})})
	}
	return shop{
		CatalogServiceClient: catalogv1connect.NewCatalogServiceClient(rpc.NewClient(rpc.ClientOptions{BaseURL: url})),
		stock:                catalogv1connect.NewStockServiceClient(as("ROLE_SERVICE")),
		public:               catalogv1connect.NewStockServiceClient(as("ROLE_CUSTOMER")),
		ratings:              catalogv1connect.NewBookRatingServiceClient(as("ROLE_SERVICE")),
		me:                   catalogv1connect.NewCatalogServiceClient(as("ROLE_CUSTOMER")),
		taste:                taste,
		seeded:               books,
	}
}

// serve runs a handler for as long as the test.
func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rpc.Serve(ctx, listener, handler, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return "http://" + listener.Addr().String()
}

func (s shop) id(book int) string { return catalog.SeedID(s.seeded[book].ISBN13).String() }

func refuse(t *testing.T, err error, reason fault.Reason) *fault.Error {
	t.Helper()
	if !fault.Is(err, reason) {
		t.Fatalf("got %v, want %s", err, reason)
	}
	return fault.As(err)
}

func TestListBooks(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	var isbns []string
	req := &catalogv1.ListBooksRequest{Sort: catalogv1.ListBooksRequest_NEWEST}
	for pages := 1; ; pages++ {
		answer, err := shop.ListBooks(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, book := range answer.GetBooks() {
			isbns = append(isbns, book.GetIsbn13())
		}
		if answer.GetNextPageToken() == "" {
			if pages != 3 {
				t.Errorf("%d pages of 20, want 3", pages)
			}
			break
		}
		req.PageToken = answer.GetNextPageToken()
	}
	slices.Sort(isbns)
	if isbns = slices.Compact(isbns); len(isbns) != len(shop.seeded) {
		t.Errorf("saw %d books, want %d", len(isbns), len(shop.seeded))
	}
	for name, req := range map[string]*catalogv1.ListBooksRequest{
		"category": {Category: shop.seeded[0].Categories[0]},
		"author":   {Author: shop.seeded[0].Authors[0]},
		"language": {Language: shop.seeded[0].Language, PageSize: 100},
		"price":    {MinPriceMinor: shop.seeded[0].PriceMinor, MaxPriceMinor: shop.seeded[0].PriceMinor},
		"query":    {Query: shop.seeded[0].Title},
		"in stock": {InStock: true, PageSize: 100, Sort: catalogv1.ListBooksRequest_PRICE_DESC},
		"sort":     {PageSize: 100, Sort: catalogv1.ListBooksRequest_PRICE_ASC},
	} {
		answer, err := shop.ListBooks(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(answer.GetBooks(), func(b *catalogv1.Book) bool { return b.GetId() == shop.id(0) }) {
			t.Errorf("%s: the book is not in the list", name)
		}
	}
}

func TestListBooksBadInput(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	first, err := shop.ListBooks(t.Context(), &catalogv1.ListBooksRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		field  string
		reason fault.Reason
		req    *catalogv1.ListBooksRequest
	}{
		{"page_size", fault.ReasonInvalidArgument, &catalogv1.ListBooksRequest{PageSize: 101}},
		{"page_size", fault.ReasonInvalidArgument, &catalogv1.ListBooksRequest{PageSize: -1}},
		{"page_token", fault.ReasonPageTokenInvalid, &catalogv1.ListBooksRequest{PageToken: "garbled"}},
		{"page_token", fault.ReasonPageTokenInvalid, &catalogv1.ListBooksRequest{PageToken: first.GetNextPageToken(), InStock: true}},
		{"page_token", fault.ReasonInvalidArgument, &catalogv1.ListBooksRequest{PageToken: strings.Repeat("x", 1025)}},
		{"query", fault.ReasonInvalidArgument, &catalogv1.ListBooksRequest{Query: strings.Repeat("x", 201)}},
		{"category", fault.ReasonInvalidArgument, &catalogv1.ListBooksRequest{Category: "a\x00"}},
		{"language", fault.ReasonInvalidArgument, &catalogv1.ListBooksRequest{Language: "\x00"}},
		{"min_price_minor", fault.ReasonInvalidArgument, &catalogv1.ListBooksRequest{MinPriceMinor: -1}},
		{"sort", fault.ReasonInvalidArgument, &catalogv1.ListBooksRequest{Sort: 99}},
	} {
		_, err := shop.ListBooks(t.Context(), test.req)
		f := refuse(t, err, test.reason)
		if len(f.Fields) != 1 || f.Fields[0].Name != test.field {
			t.Errorf("%s: names %v", test.field, f.Fields)
		}
	}
	for _, odd := range []string{"\x00", "%", "\\", "'", "☃", "!!! ???", strings.Repeat("a ", 100)} {
		if _, err := shop.ListBooks(t.Context(), &catalogv1.ListBooksRequest{Query: odd, Author: odd}); err != nil {
			t.Errorf("%q: %v", odd, err)
		}
	}
}

func TestGetBook(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	ctx, info := connect.NewClientContext(t.Context())
	answer, err := shop.GetBook(ctx, &catalogv1.GetBookRequest{Id: shop.id(0)})
	if err != nil {
		t.Fatal(err)
	}
	book, want := answer.GetBook(), shop.seeded[0]
	if book.GetTitle() != want.Title || book.GetIsbn13() != want.ISBN13 || !slices.Equal(book.GetAuthors(), want.Authors) ||
		book.GetPrice().GetAmountMinor() != want.PriceMinor || book.GetPrice().GetCurrencyCode() != want.Currency ||
		book.GetAvailableQuantity() != 3 || book.GetArchived() || !book.GetUpdateTime().IsValid() {
		t.Errorf("got %v", book)
	}
	if got := info.ResponseHeader().Get("ETag"); got != `"`+book.GetEtag()+`"` {
		t.Errorf("ETag is %s, the book's %s", got, book.GetEtag())
	}
	if got := info.ResponseHeader().Get("Cache-Control"); !strings.HasPrefix(got, "public") {
		t.Errorf("Cache-Control is %q", got)
	}
	_, err = shop.GetBook(t.Context(), &catalogv1.GetBookRequest{Id: uuid.NewString()})
	refuse(t, err, fault.ReasonBookNotFound)
	_, err = shop.GetBook(t.Context(), &catalogv1.GetBookRequest{Id: "1"})
	refuse(t, err, fault.ReasonInvalidArgument)
}

func TestBatchGetBooks(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	unknown := uuid.NewString()
	answer, err := shop.BatchGetBooks(t.Context(), &catalogv1.BatchGetBooksRequest{
		Ids: []string{shop.id(5), unknown, strings.ToUpper(shop.id(2))},
	})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, book := range answer.GetBooks() {
		ids = append(ids, book.GetId())
	}
	if !slices.Equal(ids, []string{shop.id(5), shop.id(2)}) || !slices.Equal(answer.GetMissingIds(), []string{unknown}) {
		t.Errorf("got %v, missing %v", ids, answer.GetMissingIds())
	}
	_, err = shop.BatchGetBooks(t.Context(), &catalogv1.BatchGetBooksRequest{})
	refuse(t, err, fault.ReasonInvalidArgument)
	_, err = shop.BatchGetBooks(t.Context(), &catalogv1.BatchGetBooksRequest{Ids: slices.Repeat([]string{unknown}, 101)})
	refuse(t, err, fault.ReasonInvalidArgument)
}

func TestStockOfAnOrder(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	ctx := t.Context()
	order := uuid.NewString()
	hold := &catalogv1.HoldStockRequest{
		HoldId:     order,
		Lines:      []*catalogv1.StockLine{{BookId: shop.id(0), Quantity: 1}, {BookId: shop.id(0), Quantity: 1}},
		ExpireTime: timestamppb.New(time.Now().Add(time.Hour)),
	}
	held, err := shop.stock.HoldStock(ctx, hold)
	if err != nil {
		t.Fatal(err)
	}
	if len(held.GetLines()) != 1 || held.GetLines()[0].GetQuantity() != 2 || held.GetLines()[0].GetTitle() != shop.seeded[0].Title ||
		held.GetLines()[0].GetUnitPrice().GetAmountMinor() != shop.seeded[0].PriceMinor {
		t.Errorf("held %v", held)
	}
	if _, err := shop.stock.CommitHold(ctx, &catalogv1.CommitHoldRequest{HoldId: order}); err != nil {
		t.Error(err)
	}

	hold.HoldId = uuid.NewString()
	_, err = shop.stock.HoldStock(ctx, hold)
	f := refuse(t, err, fault.ReasonOutOfStock)
	if f.Metadata["book_id"] != shop.id(0) || f.Metadata["requested"] != "2" || f.Metadata["available"] != "1" {
		t.Errorf("metadata is %v", f.Metadata)
	}
	if _, err := shop.stock.ReleaseHold(ctx, &catalogv1.ReleaseHoldRequest{HoldId: hold.GetHoldId()}); err != nil {
		t.Error(err)
	}
	_, err = shop.stock.HoldStock(ctx, hold)
	refuse(t, err, fault.ReasonHoldReleased)
	_, err = shop.stock.CommitHold(ctx, &catalogv1.CommitHoldRequest{HoldId: hold.GetHoldId()})
	refuse(t, err, fault.ReasonHoldReleased)

	if _, err := shop.stock.ShipHold(ctx, &catalogv1.ShipHoldRequest{HoldId: order}); err != nil {
		t.Error(err)
	}
	_, err = shop.stock.ReleaseHold(ctx, &catalogv1.ReleaseHoldRequest{HoldId: order})
	refuse(t, err, fault.ReasonHoldShipped)
}

func TestStockBadInput(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	soon := timestamppb.New(time.Now().Add(time.Hour))
	lines := func(book string, quantity int32) []*catalogv1.StockLine {
		return []*catalogv1.StockLine{{BookId: book, Quantity: quantity}}
	}
	for name, test := range map[string]struct {
		reason fault.Reason
		req    *catalogv1.HoldStockRequest
	}{
		"unknown book":  {fault.ReasonBookNotFound, &catalogv1.HoldStockRequest{HoldId: uuid.NewString(), Lines: lines(uuid.NewString(), 1), ExpireTime: soon}},
		"quantity 0":    {fault.ReasonInvalidArgument, &catalogv1.HoldStockRequest{HoldId: uuid.NewString(), Lines: lines(shop.id(0), 0), ExpireTime: soon}},
		"quantity 100":  {fault.ReasonInvalidArgument, &catalogv1.HoldStockRequest{HoldId: uuid.NewString(), Lines: lines(shop.id(0), 100), ExpireTime: soon}},
		"no lines":      {fault.ReasonInvalidArgument, &catalogv1.HoldStockRequest{HoldId: uuid.NewString(), ExpireTime: soon}},
		"no order":      {fault.ReasonInvalidArgument, &catalogv1.HoldStockRequest{Lines: lines(shop.id(0), 1), ExpireTime: soon}},
		"no expiry":     {fault.ReasonInvalidArgument, &catalogv1.HoldStockRequest{HoldId: uuid.NewString(), Lines: lines(shop.id(0), 1)}},
		"absurd expiry": {fault.ReasonInvalidArgument, &catalogv1.HoldStockRequest{HoldId: uuid.NewString(), Lines: lines(shop.id(0), 1), ExpireTime: &timestamppb.Timestamp{Seconds: 1 << 60}}},
	} {
		_, err := shop.stock.HoldStock(t.Context(), test.req)
		if !fault.Is(err, test.reason) {
			t.Errorf("%s: got %v, want %s", name, err, test.reason)
		}
	}
}

func TestA2_StockIsForServices(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	_, err := shop.public.ReleaseHold(t.Context(), &catalogv1.ReleaseHoldRequest{HoldId: uuid.NewString()})
	if err == nil || !strings.Contains(err.Error(), string(fault.ReasonAccessDenied)) {
		t.Errorf("got %v", err)
	}
}
