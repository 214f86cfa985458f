package e2e

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"bookworm/dev/shopper"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	typev1 "bookworm/internal/gen/bookworm/type/v1"
	"bookworm/workflows/catalogchange"
	"bookworm/workflows/reindex"
)

// found waits until a search names a book, or no longer does.
func found(t *testing.T, v *visit, query string, more url.Values, book string, want bool) {
	t.Helper()
	got, err := shopper.Await(v.ctx, func(ctx context.Context) (*catalogv1.SearchBooksResponse, error) { return v.Search(ctx, query, more) },
		func(r *catalogv1.SearchBooksResponse) bool {
			return r.GetMode() == catalogv1.SearchMode_SEARCH_MODE_HYBRID && want == slices.ContainsFunc(r.GetHits(), func(h *catalogv1.SearchHit) bool {
				return h.GetBook().GetId() == book
			})
		})
	if err != nil {
		t.Fatalf("%q: want the book found: %t; got %v: %v", query, want, got, err)
	}
}

// TestBookOfTheAdministratorIsFoundChangedAndGone is the life of a book: created,
// found at once by what it is about, changed, sold out, archived.
func TestBookOfTheAdministratorIsFoundChangedAndGone(t *testing.T) {
	t.Parallel()
	v, ops := enter(t), operator(t)
	number := newISBN()
	request := &catalogv1.CreateBookRequest{
		Isbn13: number, Title: "The Lighthouse Cartographers", Authors: []string{"Wilma Thistlewood"}, Publisher: "A House",
		Description: "Two sisters chart a quicksilver archipelago that drifts a little further every night.", PublicationYear: 2026, Language: "en", PageCount: 300,
		Categories: []string{"fiction"}, Price: &typev1.Money{CurrencyCode: "USD", AmountMinor: 1500}, OpeningQuantity: 1,
	}
	key := uuid.NewString()
	created := &catalogv1.Book{}
	if _, err := v.Do(v.ctx, http.MethodPost, "/api/v1/books", request, nil, "Idempotency-Key", key); shopper.Reason(err) != "ACCESS_DENIED" {
		t.Fatalf("a customer creates a book: %v", err)
	}
	if _, err := ops.Do(v.ctx, http.MethodPost, "/api/v1/books", request, created, "Idempotency-Key", key); err != nil {
		t.Fatal(err)
	}
	again := &catalogv1.Book{}
	header, err := ops.Do(v.ctx, http.MethodPost, "/api/v1/books", request, again, "Idempotency-Key", key)
	if err != nil || again.GetId() != created.GetId() || header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the same request again made %s, replayed %q, %v", again.GetId(), header.Get("Idempotent-Replayed"), err)
	}
	if _, err := ops.Do(v.ctx, http.MethodPost, "/api/v1/books", request, nil, "Idempotency-Key", uuid.NewString()); shopper.Reason(err) != "ISBN_TAKEN" {
		t.Errorf("the ISBN again: %v", err)
	}
	id := created.GetId()
	found(t, v, "sisters quicksilver archipelago", nil, id, true)
	recordOne(t, "catalogchange", "created", catalogchange.WorkflowID(uuid.MustParse(id)))
	// By its ISBN it comes first and alone.
	exact, err := v.Search(v.ctx, number[:3]+"-"+number[3:], nil)
	if err != nil || len(exact.GetHits()) != 1 || !exact.GetHits()[0].GetExact() || exact.GetHits()[0].GetBook().GetId() != id {
		t.Errorf("by ISBN: %v, %v", exact, err)
	}

	changed := &catalogv1.Book{}
	change := &catalogv1.UpdateBookRequest{
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description", "price"}},
		Book: &catalogv1.BookChange{
			Description: "A whalebone orchestra rehearses below the harbour.", Price: &typev1.Money{CurrencyCode: "USD", AmountMinor: 900},
		},
		Etag: created.GetEtag(),
	}
	if _, err := ops.Do(v.ctx, http.MethodPatch, "/api/v1/books/"+id, change, changed); err != nil {
		t.Fatal(err)
	}
	if changed.GetTitle() != request.GetTitle() || changed.GetPrice().GetAmountMinor() != 900 {
		t.Errorf("it became %v", changed)
	}
	if _, err := ops.Do(v.ctx, http.MethodPatch, "/api/v1/books/"+id, change, nil); shopper.Reason(err) != "STALE_VERSION" {
		t.Errorf("with the etag of before: %v", err)
	}
	found(t, v, "whalebone orchestra", url.Values{"max_price_minor": {"1000"}}, id, true)
	recordOne(t, "catalogchange", "changed", catalogchange.WorkflowID(uuid.MustParse(id)))

	// The last copy goes, and comes back.
	stocked := url.Values{"in_stock": {"true"}}
	found(t, v, "whalebone orchestra", stocked, id, true)
	v.fill(id)
	order := v.becomes(v.order("pm_card_visa"), orderingv1.Order_CONFIRMED)
	found(t, v, "whalebone orchestra", stocked, id, false)
	found(t, v, "whalebone orchestra", nil, id, true)
	// What somebody owns is not recommended to them.
	recommended, err := v.Recommended(v.ctx)
	if err != nil || len(recommended.GetRecommendations()) == 0 {
		t.Errorf("recommended: %v, %v", recommended, err)
	}
	for _, r := range recommended.GetRecommendations() {
		if r.GetBook().GetId() == id {
			t.Error("what is owned is recommended")
		}
	}
	if _, err := v.Cancel(v.ctx, order.GetId()); err != nil {
		t.Fatal(err)
	}
	found(t, v, "whalebone orchestra", stocked, id, true)

	archived := &catalogv1.Book{}
	for range 2 {
		if _, err := ops.Do(v.ctx, http.MethodPost, "/api/v1/books/"+id+":archive", &catalogv1.ArchiveBookRequest{}, archived); err != nil || !archived.GetArchived() {
			t.Fatalf("archived: %v, %v", archived, err)
		}
	}
	found(t, v, "whalebone orchestra", nil, id, false)
	recordOne(t, "catalogchange", "archived", catalogchange.WorkflowID(uuid.MustParse(id)))
	if still, err := v.Book(v.ctx, id); err != nil || !still.GetArchived() {
		t.Errorf("by its id: %v, %v", still, err)
	}
}

// TestIndexIsRebuiltBesideTheOneInUse rebuilds while searches go on.
func TestIndexIsRebuiltBesideTheOneInUse(t *testing.T) {
	t.Parallel()
	v, ops := enter(t), operator(t)
	// The first one is the shop's own; one that is asked for while it runs is that one.
	found(t, v, "desert planet spice", nil, theBook(t, v, "Dune"), true)
	if err := orders.GetWorkflow(v.ctx, reindex.WorkflowID, "").Get(v.ctx, nil); err != nil {
		t.Fatal(err)
	}
	before := &catalogv1.GetSearchIndexResponse{}
	if _, err := ops.Do(v.ctx, http.MethodGet, "/api/v1/searchIndex", nil, before); err != nil {
		t.Fatal(err)
	}
	answer := &catalogv1.RebuildSearchIndexResponse{}
	if _, err := ops.Do(v.ctx, http.MethodPost, "/api/v1/searchIndex:rebuild", &catalogv1.RebuildSearchIndexRequest{}, answer); err != nil {
		t.Fatal(err)
	}
	after := &catalogv1.GetSearchIndexResponse{}
	_, err := shopper.Await(v.ctx, func(ctx context.Context) (*catalogv1.GetSearchIndexResponse, error) {
		if hits, err := v.Search(ctx, "desert planet and its spice", nil); err != nil || hits.GetMode() != catalogv1.SearchMode_SEARCH_MODE_HYBRID {
			t.Errorf("during the rebuild a search answers %v, %v", hits.GetMode(), err)
		}
		_, err := ops.Do(ctx, http.MethodGet, "/api/v1/searchIndex", nil, after)
		return after, err
	}, func(i *catalogv1.GetSearchIndexResponse) bool {
		return i.GetCollection() != before.GetCollection() && !i.GetRebuilding()
	})
	if err != nil {
		t.Fatal(err)
	}
	if answer.GetWorkflowId() != reindex.WorkflowID {
		t.Errorf("the rebuild is %q", answer.GetWorkflowId())
	}
	recordOne(t, "reindex", "rebuilt", reindex.WorkflowID)
	found(t, v, "desert planet spice", nil, theBook(t, v, "Dune"), true)
}

// theBook returns the id of a book of the seed.
func theBook(t *testing.T, v *visit, title string) string {
	t.Helper()
	hits, err := v.Search(v.ctx, title, nil)
	if err != nil || len(hits.GetHits()) == 0 || !hits.GetHits()[0].GetExact() {
		t.Fatalf("%s: %v, %v", title, hits, err)
	}
	return hits.GetHits()[0].GetBook().GetId()
}
