package basket_test

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"golang.org/x/oauth2"

	api "bookworm/api/basket"
	"bookworm/internal/basket"
	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	"bookworm/internal/gen/bookworm/basket/v1/basketv1connect"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	"bookworm/internal/identity"
	"bookworm/internal/money"
	"bookworm/internal/rpc"
)

// shelf is a catalogue of a few books.
type shelf struct {
	catalogv1connect.CatalogServiceClient
	calls atomic.Int32
	mu    sync.Mutex
	books map[string]*catalogv1.Book
}

func (s *shelf) BatchGetBooks(_ context.Context, req *catalogv1.BatchGetBooksRequest) (*catalogv1.BatchGetBooksResponse, error) {
	s.calls.Add(1)
	if n := len(req.GetIds()); n < 1 || n > 100 {
		return nil, fault.New(fault.ReasonInvalidArgument, "%d ids", n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := &catalogv1.BatchGetBooksResponse{}
	for _, id := range req.GetIds() {
		if book := s.books[id]; book != nil {
			answer.Books = append(answer.Books, book)
		} else {
			answer.MissingIds = append(answer.MissingIds, id)
		}
	}
	return answer, nil
}

// add puts a book on sale and returns its id.
func (s *shelf) add(price int64, available int32) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := uuid.NewString()
	s.books[id] = &catalogv1.Book{Id: id, Title: "Book " + id[:4], Price: money.New("USD", price).Proto(), AvailableQuantity: available}
	return id
}

func (s *shelf) archive(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.books[id].Archived = true
}

// roles is a verifier for which a token is a subject and a role.
type roles struct{}

func (roles) Verify(_ context.Context, token string) (identity.Caller, error) {
	subject, role, _ := strings.Cut(token, "/")
	return identity.Caller{Subject: subject, Roles: []accessv1.Role{accessv1.Role(accessv1.Role_value[role])}}, nil
}

// shop is the basket's API over a Redis of its own.
type shop struct {
	url    string
	books  *shelf
	alice  basketv1connect.BasketServiceClient
	bob    basketv1connect.BasketServiceClient
	orders basketv1connect.BasketCheckoutServiceClient // as a service of the shop
}

func setup(t *testing.T) shop {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = client.Close() })
	server, err := rpc.NewServer(rpc.ServerOptions{Verifier: roles{}})
	if err != nil {
		t.Fatal(err)
	}
	s := shop{books: &shelf{books: make(map[string]*catalogv1.Book)}}
	api.Register(server, basket.NewStore(client), s.books)
	s.url = serve(t, rpc.Handler(server))
	s.alice = basketv1connect.NewBasketServiceClient(s.as("alice/ROLE_CUSTOMER"))
	s.bob = basketv1connect.NewBasketServiceClient(s.as("bob/ROLE_CUSTOMER"))
	s.orders = basketv1connect.NewBasketCheckoutServiceClient(s.as("ordering/ROLE_SERVICE"))
	return s
}

func (s shop) as(token string) *connect.Client {
	return rpc.NewClient(rpc.ClientOptions{BaseURL: s.url, Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token})})
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

// set puts a book into alice's basket.
func (s shop) set(t *testing.T, book string, quantity int32) *basketv1.Basket {
	t.Helper()
	answer, err := s.alice.SetItem(t.Context(), &basketv1.SetItemRequest{BookId: book, Quantity: quantity})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetBasket()
}

// get reads alice's basket.
func (s shop) get(t *testing.T) *basketv1.Basket {
	t.Helper()
	answer, err := s.alice.GetBasket(t.Context(), &basketv1.GetBasketRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetBasket()
}

// want asserts the books of a basket in their order.
func want(t *testing.T, b *basketv1.Basket, books ...string) {
	t.Helper()
	var got []string
	for _, item := range b.GetItems() {
		got = append(got, item.GetBookId())
	}
	if !slices.Equal(got, books) {
		t.Errorf("the basket has %v, want %v", got, books)
	}
}

func refuse(t *testing.T, err error, reason fault.Reason) *fault.Error {
	t.Helper()
	if !fault.Is(err, reason) {
		t.Fatalf("got %v, want %s", err, reason)
	}
	return fault.As(err)
}

func TestBasketIsPricedToday(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	if b := shop.get(t); len(b.GetItems()) != 0 || b.GetSubtotal() != nil || b.GetEtag() == "" {
		t.Errorf("a new shopper has %v", b)
	}
	plenty, scarce, gone := shop.books.add(1250, 9), shop.books.add(300, 1), shop.books.add(10, 9)
	shop.set(t, plenty, 3)
	shop.set(t, gone, 1)
	b := shop.set(t, scarce, 2)
	want(t, b, plenty, gone, scarce)
	// The scarce book cannot be bought in that number.
	if got := money.FromProto(b.GetSubtotal()); got != money.New("USD", 3760) {
		t.Errorf("the subtotal is %s", got)
	}
	shop.books.archive(gone)
	b = shop.get(t)
	if got := money.FromProto(b.GetSubtotal()); got != money.New("USD", 3750) {
		t.Errorf("without the archived book the subtotal is %s", got)
	}
	item := b.GetItems()[0]
	if item.GetQuantity() != 3 || item.GetTitle() == "" || item.GetUnitPrice().GetAmountMinor() != 1250 || item.GetAvailableQuantity() != 9 || !b.GetItems()[1].GetArchived() {
		t.Errorf("items are %v", b.GetItems())
	}

	removed, err := shop.alice.RemoveItem(t.Context(), &basketv1.RemoveItemRequest{BookId: plenty})
	if err != nil {
		t.Fatal(err)
	}
	want(t, removed.GetBasket(), gone, scarce)
	cleared, err := shop.alice.ClearBasket(t.Context(), &basketv1.ClearBasketRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want(t, cleared.GetBasket())
}

func TestSetItemBadInput(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book, archived := shop.books.add(1, 1), shop.books.add(1, 1)
	shop.books.archive(archived)
	before := shop.set(t, book, 1)
	for name, test := range map[string]struct {
		reason fault.Reason
		field  string
		req    *basketv1.SetItemRequest
	}{
		"unknown book":   {fault.ReasonBookNotFound, "", &basketv1.SetItemRequest{BookId: uuid.NewString(), Quantity: 1}},
		"archived book":  {fault.ReasonBookArchived, "", &basketv1.SetItemRequest{BookId: archived, Quantity: 1}},
		"no UUID":        {fault.ReasonInvalidArgument, "book_id", &basketv1.SetItemRequest{BookId: "1", Quantity: 1}},
		"quantity 0":     {fault.ReasonInvalidArgument, "quantity", &basketv1.SetItemRequest{BookId: book}},
		"quantity 100":   {fault.ReasonInvalidArgument, "quantity", &basketv1.SetItemRequest{BookId: book, Quantity: 100}},
		"garbled etag":   {fault.ReasonInvalidArgument, "etag", &basketv1.SetItemRequest{BookId: book, Quantity: 2, Etag: "x"}},
		"endless etag":   {fault.ReasonInvalidArgument, "etag", &basketv1.SetItemRequest{BookId: book, Quantity: 2, Etag: strings.Repeat("1", 65)}},
		"etag of before": {fault.ReasonStaleVersion, "", &basketv1.SetItemRequest{BookId: book, Quantity: 2, Etag: "v1"}},
	} {
		_, err := shop.alice.SetItem(t.Context(), test.req)
		if !fault.Is(err, test.reason) {
			t.Errorf("%s: got %v, want %s", name, err, test.reason)
			continue
		}
		if fields := fault.As(err).Fields; test.field != "" && (len(fields) != 1 || fields[0].Name != test.field) {
			t.Errorf("%s: names %v", name, fields)
		}
	}
	if after := shop.get(t); after.GetVersion() != before.GetVersion() {
		t.Error("a refused change was made")
	}
}

func TestStaleEtagIsRefused(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book := shop.books.add(1, 9)
	seen := shop.set(t, book, 1)
	current := shop.set(t, book, 2)

	call := func(ifMatch, etag string) (*connect.CallInfo, error) {
		ctx, info := connect.NewClientContext(t.Context())
		if ifMatch != "" {
			info.RequestHeader().Set("If-Match", ifMatch)
		}
		_, err := shop.alice.SetItem(ctx, &basketv1.SetItemRequest{BookId: book, Quantity: 5, Etag: etag})
		return info, err
	}
	for name, sent := range map[string][2]string{
		"in the message": {"", seen.GetEtag()},
		"as If-Match":    {`"` + seen.GetEtag() + `"`, ""},
		"as both":        {`"` + seen.GetEtag() + `"`, seen.GetEtag()},
	} {
		_, err := call(sent[0], sent[1])
		if f := refuse(t, err, fault.ReasonStaleVersion); f.Metadata["etag"] != current.GetEtag() {
			t.Errorf("%s: the current etag is %q, want %q", name, f.Metadata["etag"], current.GetEtag())
		}
	}
	_, err := shop.alice.RemoveItem(t.Context(), &basketv1.RemoveItemRequest{BookId: book, Etag: seen.GetEtag()})
	refuse(t, err, fault.ReasonStaleVersion)
	_, err = shop.alice.ClearBasket(t.Context(), &basketv1.ClearBasketRequest{Etag: seen.GetEtag()})
	refuse(t, err, fault.ReasonStaleVersion)
	for name, sent := range map[string][2]string{
		"contradicting": {`"` + seen.GetEtag() + `"`, current.GetEtag()},
		"garbled":       {`"abc"`, ""},
		"a list":        {`"v1", "v2"`, ""},
	} {
		if _, err := call(sent[0], sent[1]); !fault.Is(err, fault.ReasonInvalidArgument) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if got := shop.get(t); got.GetVersion() != current.GetVersion() {
		t.Fatal("a refused change was made")
	}

	info, err := call(`"`+current.GetEtag()+`"`, "")
	if err != nil {
		t.Fatal(err)
	}
	after := shop.get(t)
	if got := info.ResponseHeader().Get("ETag"); got != `"`+after.GetEtag()+`"` || after.GetEtag() == current.GetEtag() {
		t.Errorf("ETag is %s, the basket's %s", got, after.GetEtag())
	}
	if got := info.ResponseHeader().Get("Cache-Control"); got != "private, no-store" {
		t.Errorf("Cache-Control is %q", got)
	}
	if _, err := call("*", ""); err != nil {
		t.Errorf("If-Match: *: %v", err)
	}
}

func TestFullBasket(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	first := shop.books.add(1, 9)
	shop.set(t, first, 1)
	for range basket.MaxItems - 1 {
		shop.set(t, shop.books.add(1, 9), 1)
	}
	_, err := shop.alice.SetItem(t.Context(), &basketv1.SetItemRequest{BookId: shop.books.add(1, 9), Quantity: 1})
	refuse(t, err, fault.ReasonBasketFull)
	if b := shop.set(t, first, 2); len(b.GetItems()) != basket.MaxItems || b.GetItems()[0].GetQuantity() != 2 {
		t.Errorf("%d items", len(b.GetItems()))
	}
}

func TestAChangeAsksTheCatalogueOnce(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	for range 20 {
		book := shop.books.add(1, 9)
		before := shop.books.calls.Load()
		shop.set(t, book, 1)
		if n := shop.books.calls.Load() - before; n != 1 {
			t.Fatalf("%d calls to the catalogue", n)
		}
	}
	before := shop.books.calls.Load()
	shop.get(t)
	if n := shop.books.calls.Load() - before; n != 1 {
		t.Errorf("%d calls to the catalogue to read", n)
	}
}

func TestO5_ClearOrderedBasket(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book, late := shop.books.add(1, 9), shop.books.add(1, 9)
	shown := shop.set(t, book, 2)
	snapshot, err := shop.orders.GetBasketSnapshot(t.Context(), &basketv1.GetBasketSnapshotRequest{Subject: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	if snapshot.GetVersion() != shown.GetVersion() || snapshot.GetEtag() != shown.GetEtag() ||
		len(snapshot.GetItems()) != 1 || snapshot.GetItems()[0].GetBookId() != book || snapshot.GetItems()[0].GetQuantity() != 2 {
		t.Errorf("the snapshot is %v", snapshot)
	}
	clearOrdered := func(version int64, cleared bool) {
		t.Helper()
		answer, err := shop.orders.ClearOrderedBasket(t.Context(), &basketv1.ClearOrderedBasketRequest{Subject: "alice", Version: version})
		if err != nil || answer.GetCleared() != cleared {
			t.Errorf("cleared %t, %v; want %t", answer.GetCleared(), err, cleared)
		}
	}
	changed := shop.set(t, late, 1)
	clearOrdered(snapshot.GetVersion(), false)
	want(t, shop.get(t), book, late)
	clearOrdered(changed.GetVersion(), true)
	want(t, shop.get(t))
	shop.set(t, late, 1)
	clearOrdered(changed.GetVersion(), true) // a late retry
	want(t, shop.get(t), late)
}

func TestA1_BasketIsTheCallersOwn(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book := shop.books.add(1, 9)
	mine := shop.set(t, book, 1)

	theirs, err := shop.bob.GetBasket(t.Context(), &basketv1.GetBasketRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want(t, theirs.GetBasket())
	if _, err := shop.bob.SetItem(t.Context(), &basketv1.SetItemRequest{BookId: book, Quantity: 7}); err != nil {
		t.Fatal(err)
	}
	if _, err := shop.bob.RemoveItem(t.Context(), &basketv1.RemoveItemRequest{BookId: book}); err != nil {
		t.Fatal(err)
	}
	if _, err := shop.bob.ClearBasket(t.Context(), &basketv1.ClearBasketRequest{}); err != nil {
		t.Fatal(err)
	}
	after := shop.get(t)
	want(t, after, book)
	if after.GetVersion() != mine.GetVersion() {
		t.Error("bob changed alice's basket")
	}

	// The calls that name a subject are for services.
	asBob := basketv1connect.NewBasketCheckoutServiceClient(rpc.NewClient(rpc.ClientOptions{
		BaseURL: shop.url, Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "bob/ROLE_CUSTOMER"}),
	}))
	_, err = asBob.GetBasketSnapshot(t.Context(), &basketv1.GetBasketSnapshotRequest{Subject: "alice"})
	if err == nil || !strings.Contains(err.Error(), string(fault.ReasonAccessDenied)) {
		t.Errorf("got %v", err)
	}
	_, err = asBob.ClearOrderedBasket(t.Context(), &basketv1.ClearOrderedBasketRequest{Subject: "alice", Version: mine.GetVersion()})
	if err == nil || !strings.Contains(err.Error(), string(fault.ReasonAccessDenied)) {
		t.Errorf("got %v", err)
	}
}
