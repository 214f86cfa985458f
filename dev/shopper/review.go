package shopper

import (
	"context"
	"maps"
	"net/http"
	"net/url"

	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
)

// Search finds books by what somebody says; more is further query parameters, or
// nil.
func (s *Shopper) Search(ctx context.Context, query string, more url.Values) (*catalogv1.SearchBooksResponse, error) {
	values := url.Values{"query": {query}}
	maps.Copy(values, more)
	found := &catalogv1.SearchBooksResponse{}
	_, err := s.Do(ctx, http.MethodGet, "/api/v1/books:search?"+values.Encode(), nil, found)
	return found, err
}

// Recommended returns books for the shopper.
func (s *Shopper) Recommended(ctx context.Context) (*catalogv1.RecommendForMeResponse, error) {
	found := &catalogv1.RecommendForMeResponse{}
	_, err := s.Do(ctx, http.MethodGet, "/api/v1/books:recommended", nil, found)
	return found, err
}

// Review writes or replaces the shopper's review of a book.
func (s *Shopper) Review(ctx context.Context, bookID string, stars int32, title, text string) (*ratingv1.Review, error) {
	review := &ratingv1.Review{}
	_, err := s.Do(ctx, http.MethodPut, "/api/v1/books/"+bookID+"/reviews/mine",
		&ratingv1.SubmitReviewRequest{Stars: stars, Title: title, Text: text}, review)
	return review, err
}

// MyReview returns the shopper's review of a book.
func (s *Shopper) MyReview(ctx context.Context, bookID string) (*ratingv1.Review, error) {
	review := &ratingv1.Review{}
	_, err := s.Do(ctx, http.MethodGet, "/api/v1/books/"+bookID+"/reviews/mine", nil, review)
	return review, err
}

// AwaitReview waits until the shopper's review of a book has a status.
func (s *Shopper) AwaitReview(ctx context.Context, bookID string, status ratingv1.Review_Status) (*ratingv1.Review, error) {
	return await(ctx, s.pause(), func(ctx context.Context) (*ratingv1.Review, error) { return s.MyReview(ctx, bookID) },
		func(r *ratingv1.Review) bool { return r.GetStatus() == status })
}

// Reviews returns the first page of a book's published reviews; query is what
// follows the question mark.
func (s *Shopper) Reviews(ctx context.Context, bookID, query string) (*ratingv1.ListReviewsResponse, error) {
	found := &ratingv1.ListReviewsResponse{}
	_, err := s.Do(ctx, http.MethodGet, "/api/v1/books/"+bookID+"/reviews?"+query, nil, found)
	return found, err
}

// Rating returns what the reviews of a book say together.
func (s *Shopper) Rating(ctx context.Context, bookID string) (*ratingv1.GetRatingSummaryResponse, error) {
	summary := &ratingv1.GetRatingSummaryResponse{}
	_, err := s.Do(ctx, http.MethodGet, "/api/v1/books/"+bookID+"/rating", nil, summary)
	return summary, err
}
