package catalog_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"

	"bookworm/internal/catalog"
	"bookworm/internal/fault"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/llm"
	"bookworm/internal/vector"
)

// alone is a searcher that reaches neither the index nor the model; with them,
// dev/catalogtest searches.
func alone(t *testing.T, store *catalog.Store) *catalog.Searcher {
	t.Helper()
	vectors, err := vector.Open(vector.Config{Address: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vectors.Close() })
	embedder, err := llm.New(llm.Config{BaseURL: "http://127.0.0.1:1/v1", EmbeddingModel: "none", Dimension: 8, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	searcher, err := catalog.NewSearcher(store, vectors, embedder, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return searcher
}

// taste stands for what ordering and rating know of the one customer.
type taste struct {
	bought []string
	stars  map[string]int32
	// The services that are away.
	orderingAway, ratingAway bool
}

func (s *taste) ListPurchases(_ context.Context, req *orderingv1.ListPurchasesRequest) (*orderingv1.ListPurchasesResponse, error) {
	if s.orderingAway || req.GetSubject() != "ROLE_CUSTOMER" {
		return nil, errors.New("ordering does not answer")
	}
	answer := &orderingv1.ListPurchasesResponse{}
	for _, id := range s.bought {
		answer.Purchases = append(answer.Purchases, &orderingv1.Purchase{BookId: id})
	}
	return answer, nil
}

func (s *taste) ListStars(_ context.Context, req *ratingv1.ListStarsRequest) (*ratingv1.ListStarsResponse, error) {
	if s.ratingAway || req.GetSubject() != "ROLE_CUSTOMER" {
		return nil, errors.New("rating does not answer")
	}
	answer := &ratingv1.ListStarsResponse{}
	for id, stars := range s.stars {
		answer.Stars = append(answer.Stars, &ratingv1.Stars{BookId: id, Stars: stars})
	}
	return answer, nil
}

func TestSearchBooks(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	ctx, info := connect.NewClientContext(t.Context())
	answer, err := shop.SearchBooks(ctx, &catalogv1.SearchBooksRequest{Query: shop.seeded[0].Title + " " + shop.seeded[0].Authors[0], PageSize: 3})
	if err != nil || answer.GetMode() != catalogv1.SearchMode_SEARCH_MODE_LEXICAL {
		t.Fatalf("%s, %v", answer.GetMode(), err)
	}
	if len(answer.GetHits()) == 0 || len(answer.GetHits()) > 3 || answer.GetHits()[0].GetBook().GetId() != shop.id(0) || !answer.GetHits()[0].GetExact() {
		t.Errorf("got %v", answer.GetHits())
	}
	if got := info.ResponseHeader().Get("Cache-Control"); !strings.HasPrefix(got, "public") {
		t.Errorf("Cache-Control is %q", got)
	}
	for name, test := range map[string]struct {
		field string
		req   *catalogv1.SearchBooksRequest
	}{
		"empty":         {"query", &catalogv1.SearchBooksRequest{}},
		"nothing in it": {"query", &catalogv1.SearchBooksRequest{Query: "?!"}},
		"NUL":           {"query", &catalogv1.SearchBooksRequest{Query: "a\x00b"}},
		"endless":       {"query", &catalogv1.SearchBooksRequest{Query: strings.Repeat("a", 100_000)}},
		"too many":      {"page_size", &catalogv1.SearchBooksRequest{Query: "a", PageSize: 51}},
		"NUL category":  {"category", &catalogv1.SearchBooksRequest{Query: "a", Category: "\x00"}},
		"NUL language":  {"language", &catalogv1.SearchBooksRequest{Query: "a", Language: "\x00"}},
		"score":         {"min_score", &catalogv1.SearchBooksRequest{Query: "a", MinScore: 6}},
	} {
		_, err := shop.SearchBooks(t.Context(), test.req)
		if f := refuse(t, err, fault.ReasonInvalidArgument); len(f.Fields) != 1 || f.Fields[0].Name != test.field {
			t.Errorf("%s: names %v", name, f.Fields)
		}
	}
}

func TestRatingsAreShown(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	set := &catalogv1.SetBookRatingRequest{BookId: shop.id(3), Version: 4, Histogram: []int32{1, 0, 0, 0, 3}, Score: 3.9}
	if _, err := shop.ratings.SetBookRating(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	got, err := shop.GetBook(t.Context(), &catalogv1.GetBookRequest{Id: shop.id(3)})
	if r := got.GetBook().GetRating(); err != nil || r.GetReviewCount() != 4 || r.GetAverageStars() != 4 || r.GetScore() != 3.9 {
		t.Errorf("%v, %v", r, err)
	}
	list, err := shop.ratings.ListBookRatings(t.Context(), &catalogv1.ListBookRatingsRequest{})
	if err != nil || len(list.GetRatings()) != 1 || list.GetRatings()[0].GetVersion() != 4 || !slices.Equal(list.GetRatings()[0].GetHistogram(), set.GetHistogram()) {
		t.Errorf("%v, %v", list, err)
	}
	// The last review is taken away.
	set.Version, set.Histogram, set.Score = 5, make([]int32, 5), 0
	if _, err := shop.ratings.SetBookRating(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	if got, err := shop.GetBook(t.Context(), &catalogv1.GetBookRequest{Id: shop.id(3)}); err != nil || got.GetBook().GetRating() != nil {
		t.Errorf("%v, %v", got.GetBook().GetRating(), err)
	}
	set.BookId = uuid.NewString()
	_, err = shop.ratings.SetBookRating(t.Context(), set)
	refuse(t, err, fault.ReasonBookNotFound)
	set.Histogram = []int32{1}
	_, err = shop.ratings.SetBookRating(t.Context(), set)
	refuse(t, err, fault.ReasonInvalidArgument)
}

func TestRecommendForMe(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	recommend := func() []*catalogv1.Recommendation {
		t.Helper()
		ctx, info := connect.NewClientContext(t.Context())
		answer, err := shop.me.RecommendForMe(ctx, &catalogv1.RecommendForMeRequest{PageSize: 50})
		if err != nil {
			t.Fatal(err)
		}
		if got := info.ResponseHeader().Get("Cache-Control"); got != "private, no-store" {
			t.Errorf("Cache-Control is %q", got)
		}
		return answer.GetRecommendations()
	}
	because := func(all []*catalogv1.Recommendation, id string) int {
		n := 0
		for _, r := range all {
			if r.GetBecauseOfBookId() == id {
				n++
			}
		}
		return n
	}
	has := func(all []*catalogv1.Recommendation, id string) bool {
		return slices.ContainsFunc(all, func(r *catalogv1.Recommendation) bool { return r.GetBook().GetId() == id })
	}
	bought, loved, hated, soso := shop.id(0), shop.id(7), shop.id(8), shop.id(9)
	shop.taste.bought = []string{bought, loved, hated, soso}
	shop.taste.stars = map[string]int32{loved: 5, hated: 1, soso: 3}
	all := recommend()
	if because(all, bought) == 0 || because(all, loved) == 0 || because(all, hated) != 0 || because(all, soso) != 0 {
		t.Errorf("because of: bought %d, loved %d, hated %d, so-so %d", because(all, bought), because(all, loved), because(all, hated), because(all, soso))
	}
	for _, id := range shop.taste.bought {
		if has(all, id) {
			t.Errorf("an owned book is recommended: %s", id)
		}
	}
	shop.taste.ratingAway = true
	if all = recommend(); because(all, bought) == 0 || has(all, bought) || has(all, hated) {
		t.Error("without ratings it does not go by purchases")
	}
	shop.taste.ratingAway, shop.taste.orderingAway = false, true
	if all = recommend(); because(all, loved) == 0 || has(all, loved) || has(all, hated) {
		t.Error("without purchases it does not go by ratings")
	}
	shop.taste.ratingAway = true
	if all = recommend(); len(all) != 50 || because(all, "") != 50 {
		t.Errorf("without both there are %d", len(all))
	}
	_, err := shop.RecommendForMe(t.Context(), &catalogv1.RecommendForMeRequest{})
	refuse(t, err, fault.ReasonTokenMissing)
}

func TestShelves(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	categories, err := shop.ListCategories(t.Context(), &catalogv1.ListCategoriesRequest{})
	if err != nil || len(categories.GetCategories()) == 0 || categories.GetCategories()[0].GetBookCount() == 0 {
		t.Errorf("%v, %v", categories, err)
	}
	req := &catalogv1.ListAuthorsRequest{PageSize: 10}
	first, err := shop.ListAuthors(t.Context(), req)
	if err != nil || len(first.GetAuthors()) != 10 || first.GetNextPageToken() == "" {
		t.Fatalf("%v, %v", first, err)
	}
	req.PageToken = first.GetNextPageToken()
	second, err := shop.ListAuthors(t.Context(), req)
	if err != nil || len(second.GetAuthors()) != 10 || second.GetAuthors()[0].GetName() == first.GetAuthors()[9].GetName() {
		t.Errorf("%v, %v", second, err)
	}
	req.Query = "a"
	_, err = shop.ListAuthors(t.Context(), req)
	refuse(t, err, fault.ReasonPageTokenInvalid)
	similar, err := shop.SimilarBooks(t.Context(), &catalogv1.SimilarBooksRequest{Id: shop.id(0), PageSize: 4})
	if err != nil || len(similar.GetBooks()) != 4 || similar.GetMode() != catalogv1.SearchMode_SEARCH_MODE_LEXICAL {
		t.Errorf("%v, %v", similar, err)
	}
	_, err = shop.SimilarBooks(t.Context(), &catalogv1.SimilarBooksRequest{Id: uuid.NewString()})
	refuse(t, err, fault.ReasonBookNotFound)
}
