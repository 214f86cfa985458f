package e2e

import (
	"context"
	"net/http"
	"slices"
	"testing"

	"github.com/google/uuid"

	ratingapi "bookworm/api/rating"
	"bookworm/dev/shopper"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/personal/personaltest"
	"bookworm/internal/postgres"
	"bookworm/internal/rating"
)

// TestErasedReviewsLeaveTheCatalogueEqual has the share of the rating context in an
// erasure done by the real processes.
func TestErasedReviewsLeaveTheCatalogueEqual(t *testing.T) {
	t.Parallel()
	titles := []string{book(t, 1999, 9), book(t, 1999, 9)}
	gone, stays := reader(t, titles[0]), reader(t, titles[0])
	gone.fill(titles[1])
	gone.order("pm_card_visa")
	words := []string{ // the same twice would wait for an operator
		"The lighthouse keeper deserved better than that ending, all told.",
		"Long on weather and short on people, though the people are good.",
	}
	for i, title := range titles {
		if _, err := shopper.Await(gone.ctx, func(ctx context.Context) (*ratingv1.Review, error) {
			r, err := gone.Review(ctx, title, int32(i+1), "So so", words[i])
			if shopper.Reason(err) == "PURCHASE_REQUIRED" { // the order is being confirmed
				return &ratingv1.Review{}, nil
			}
			return r, err
		}, func(r *ratingv1.Review) bool { return r.GetId() != "" }); err != nil {
			t.Fatal(err)
		}
	}
	theirs, err := stays.Review(stays.ctx, titles[0], 4, "Quietly good", "It took its time, and so did I, and neither of us minds.")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stays.AwaitReview(stays.ctx, titles[0], ratingv1.Review_PUBLISHED); err != nil {
		t.Fatal(err)
	}
	vote := "/api/v1/reviews/" + theirs.GetId() + "/vote"
	if _, err := gone.Do(gone.ctx, http.MethodPut, vote, &ratingv1.VoteReviewRequest{Helpful: true}, nil); err != nil {
		t.Fatal(err)
	}
	rated(t, stays, titles[0], 2, 2.5)
	rated(t, stays, titles[1], 1, 2)

	pool, err := postgres.Open(t.Context(), theShop.Addresses["BOOKWORM_DATABASE_URL"], rating.Schema.Name, postgres.WithMaxConns(2))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := rating.NewStore(pool)
	erased, err := ratingapi.Holder(ratingapi.Deps{Reviews: store, Temporal: orders}).Erase(gone.ctx, gone.subject, "erased-"+uuid.NewString())
	if err != nil || erased.Erased != 3 || erased.Kept != 0 {
		t.Errorf("%+v, %v", erased, err)
	}
	if found := personaltest.Find(t, pool, rating.Schema.Name, gone.subject, words[0], words[1]); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
	rated(t, stays, titles[0], 1, 4)
	rated(t, stays, titles[1], 0, 0)
	for _, title := range titles {
		ours, err := store.Rating(stays.ctx, uuid.MustParse(title))
		if err != nil {
			t.Fatal(err)
		}
		var stars []int32
		var version int64
		same := func(ctx context.Context) (bool, error) {
			err := dbs.QueryRow(ctx, `select stars, version from catalog.book_rating where book_id = $1`, title).Scan(&stars, &version)
			return version == ours.Version && slices.Equal(stars, ours.Histogram[:]), err
		}
		if _, err := shopper.Await(stays.ctx, same, func(equal bool) bool { return equal }); err != nil {
			t.Errorf("the catalogue has %v in version %d, the reviews say %v in %d: %v", stars, version, ours.Histogram, ours.Version, err)
		}
	}
	var seen *catalogv1.Book
	if seen, err = stays.Book(stays.ctx, titles[1]); err != nil || seen.GetRating().GetReviewCount() != 0 {
		t.Errorf("the book shows %v, %v", seen.GetRating(), err)
	}
	if mine, err := stays.MyReview(stays.ctx, titles[0]); err != nil || mine.GetHelpfulCount() != 0 || mine.GetText() != theirs.GetText() {
		t.Errorf("the other's review is %v, %v", mine, err)
	}
}
