package catalog

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"bookworm/internal/catalog"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/identity"
	"bookworm/internal/rpc"
)

const (
	// hits is how many books a search answers when nobody says.
	hits = 10
	// shelfCacheControl is for what changes with the catalogue and not with orders.
	shelfCacheControl = "public, max-age=60"
	// tasteTimeout bounds each question to another service for a recommendation, which
	// does without the answer.
	tasteTimeout = 700 * time.Millisecond
)

var modes = map[catalog.Mode]catalogv1.SearchMode{
	catalog.ModeHybrid:  catalogv1.SearchMode_SEARCH_MODE_HYBRID,
	catalog.ModeLexical: catalogv1.SearchMode_SEARCH_MODE_LEXICAL,
}

func size(pageSize int32, otherwise int) int {
	if pageSize == 0 {
		return otherwise
	}
	return int(pageSize)
}

// SearchBooks finds the books that fit what somebody says, the best first.
func (h *books) SearchBooks(ctx context.Context, req *catalogv1.SearchBooksRequest) (*catalogv1.SearchBooksResponse, error) {
	filter := catalog.Filter{
		Category: req.GetCategory(),
		Author:   req.GetAuthor(),
		Language: req.GetLanguage(),
		MinPrice: req.GetMinPriceMinor(),
		MaxPrice: req.GetMaxPriceMinor(),
		InStock:  req.GetInStock(),
		MinScore: req.GetMinScore(),
	}
	if err := checkFilter(filter); err != nil {
		return nil, err
	}
	found, mode, err := h.deps.Searcher.Search(ctx, catalog.Query{Text: req.GetQuery(), Filter: filter, Size: size(req.GetPageSize(), hits)})
	if err != nil {
		return nil, err
	}
	answer := &catalogv1.SearchBooksResponse{Mode: modes[mode]}
	for _, hit := range found {
		answer.Hits = append(answer.Hits, &catalogv1.SearchHit{Book: toProto(hit.Book), Exact: hit.Exact})
	}
	rpc.SetHeader(ctx, "Cache-Control", cacheControl)
	return answer, nil
}

// checkFilter refuses what PostgreSQL's text cannot hold.
func checkFilter(f catalog.Filter) error {
	for _, field := range []struct{ name, value string }{{"category", f.Category}, {"language", f.Language}} {
		if strings.ContainsRune(field.value, 0) {
			return invalid(field.name, "must not contain a NUL character")
		}
	}
	return nil
}

// SimilarBooks finds books that are like one book.
func (h *books) SimilarBooks(ctx context.Context, req *catalogv1.SimilarBooksRequest) (*catalogv1.SimilarBooksResponse, error) {
	id, err := parseID("id", req.GetId())
	if err != nil {
		return nil, err
	}
	found, mode, err := h.deps.Searcher.Similar(ctx, id, size(req.GetPageSize(), hits))
	if err != nil {
		return nil, err
	}
	rpc.SetHeader(ctx, "Cache-Control", cacheControl)
	return &catalogv1.SimilarBooksResponse{Books: protos(found), Mode: modes[mode]}, nil
}

// RecommendForMe finds books for the caller.
func (h *books) RecommendForMe(ctx context.Context, req *catalogv1.RecommendForMeRequest) (*catalogv1.RecommendForMeResponse, error) {
	taste := h.taste(ctx, identity.FromContext(ctx).Subject)
	found, mode, err := h.deps.Searcher.Recommend(ctx, taste, size(req.GetPageSize(), hits))
	if err != nil {
		return nil, err
	}
	answer := &catalogv1.RecommendForMeResponse{Mode: modes[mode]}
	for _, r := range found {
		recommendation := &catalogv1.Recommendation{Book: toProto(r.Book)}
		if r.Because != uuid.Nil {
			recommendation.BecauseOfBookId = r.Because.String()
		}
		answer.Recommendations = append(answer.Recommendations, recommendation)
	}
	rpc.SetHeader(ctx, "Cache-Control", "private, no-store")
	return answer, nil
}

const (
	liked    = 4 // stars from which on somebody wants more of the kind
	disliked = 2 // stars up to which somebody wants less of it
)

// taste asks what the shopper bought and how they rated it. A service that does not
// answer leaves its part out.
func (h *books) taste(ctx context.Context, subject string) catalog.Taste {
	ctx, cancel := context.WithTimeout(ctx, tasteTimeout)
	defer cancel()
	var purchases *orderingv1.ListPurchasesResponse
	var stars *ratingv1.ListStarsResponse
	var purchasesErr, starsErr error
	var asking sync.WaitGroup
	asking.Go(func() {
		purchases, purchasesErr = h.deps.Purchases.ListPurchases(ctx, &orderingv1.ListPurchasesRequest{Subject: subject})
	})
	asking.Go(func() {
		stars, starsErr = h.deps.Reviewers.ListStars(ctx, &ratingv1.ListStarsRequest{Subject: subject})
	})
	asking.Wait()
	for what, err := range map[string]error{"purchases": purchasesErr, "ratings": starsErr} {
		if err != nil {
			h.deps.Logger.WarnContext(ctx, "recommending without a part of what is known", "missing", what, "error", err)
		}
	}
	var t catalog.Taste
	rated := make(map[string]bool)
	for _, s := range stars.GetStars() {
		id, err := uuid.Parse(s.GetBookId())
		if err != nil {
			continue
		}
		rated[s.GetBookId()] = true
		t.Owned = append(t.Owned, id) // only buyers rate
		switch {
		case s.GetStars() >= liked:
			t.Liked = append(t.Liked, id)
		case s.GetStars() <= disliked:
			t.Disliked = append(t.Disliked, id)
		}
	}
	for _, p := range purchases.GetPurchases() {
		id, err := uuid.Parse(p.GetBookId())
		if err != nil || rated[p.GetBookId()] {
			continue
		}
		t.Owned = append(t.Owned, id)
		t.Liked = append(t.Liked, id)
	}
	return t
}

// ListCategories lists the categories of the books on sale.
func (h *books) ListCategories(ctx context.Context, _ *catalogv1.ListCategoriesRequest) (*catalogv1.ListCategoriesResponse, error) {
	categories, err := h.store.Categories(ctx)
	if err != nil {
		return nil, err
	}
	answer := &catalogv1.ListCategoriesResponse{}
	for _, c := range categories {
		answer.Categories = append(answer.Categories, &catalogv1.Category{Slug: c.Slug, BookCount: c.Books})
	}
	rpc.SetHeader(ctx, "Cache-Control", shelfCacheControl)
	return answer, nil
}

// ListAuthors lists the authors of the books on sale, a page at a time.
func (h *books) ListAuthors(ctx context.Context, req *catalogv1.ListAuthorsRequest) (*catalogv1.ListAuthorsResponse, error) {
	authors, next, err := h.store.Authors(ctx, req.GetQuery(), size(req.GetPageSize(), pageSize), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &catalogv1.ListAuthorsResponse{NextPageToken: next}
	for _, a := range authors {
		answer.Authors = append(answer.Authors, &catalogv1.Author{Name: a.Name, BookCount: a.Books})
	}
	rpc.SetHeader(ctx, "Cache-Control", shelfCacheControl)
	return answer, nil
}

// ratings serves BookRatingService.
type ratings struct{ store *catalog.Store }

// SetBookRating stores how a book is rated, unless something newer is stored.
func (h *ratings) SetBookRating(ctx context.Context, req *catalogv1.SetBookRatingRequest) (*catalogv1.SetBookRatingResponse, error) {
	id, err := parseID("book_id", req.GetBookId())
	if err != nil {
		return nil, err
	}
	rating := catalog.Rating{Version: req.GetVersion(), Score: req.GetScore()}
	if copy(rating.Stars[:], req.GetHistogram()) != len(rating.Stars) {
		return nil, invalid("histogram", fmt.Sprintf("must have %d numbers", len(rating.Stars)))
	}
	if err := h.store.SetRating(ctx, id, rating); err != nil {
		return nil, err
	}
	return &catalogv1.SetBookRatingResponse{}, nil
}

// ratingsPage is how many ratings a page has when nobody says.
const ratingsPage = 500

// ListBookRatings returns the ratings as the catalogue has them.
func (h *ratings) ListBookRatings(ctx context.Context, req *catalogv1.ListBookRatingsRequest) (*catalogv1.ListBookRatingsResponse, error) {
	after := uuid.Nil
	if req.GetAfterBookId() != "" {
		var err error
		if after, err = parseID("after_book_id", req.GetAfterBookId()); err != nil {
			return nil, err
		}
	}
	found, err := h.store.Ratings(ctx, after, size(req.GetPageSize(), ratingsPage))
	if err != nil {
		return nil, err
	}
	answer := &catalogv1.ListBookRatingsResponse{}
	for _, r := range found {
		answer.Ratings = append(answer.Ratings, &catalogv1.BookRating{BookId: r.BookID.String(), Version: r.Version, Histogram: r.Stars[:]})
	}
	return answer, nil
}
