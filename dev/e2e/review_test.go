package e2e

import (
	"context"
	"net/http"
	"testing"

	"github.com/google/uuid"

	"bookworm/dev/shopper"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/workflows/ratings"
	"bookworm/workflows/review"
)

// reader brings a new shopper into the shop who has bought a book.
func reader(t *testing.T, book string) *visit {
	t.Helper()
	v := enter(t)
	v.fill(book)
	v.becomes(v.order("pm_card_visa"), orderingv1.Order_CONFIRMED)
	return v
}

// operator is the administrator of the shop.
func operator(t *testing.T) *shopper.Shopper {
	t.Helper()
	token, err := shopper.Token(t.Context(), theShop.Addresses["BOOKWORM_ISSUER_URL"], "ops")
	if err != nil {
		t.Fatal(err)
	}
	return &shopper.Shopper{Gateway: theShop.Addresses["BOOKWORM_GATEWAY_URL"], Token: token}
}

// doubtful is a review that the rules leave to an operator.
const doubtful = "What bullshit the villain talks, and I could not put it down."

// rated waits until the catalogue shows a number of reviews and their average.
func rated(t *testing.T, v *visit, book string, count int32, average float64) {
	t.Helper()
	got, err := shopper.Await(v.ctx, func(ctx context.Context) (*catalogv1.Book, error) { return v.Book(ctx, book) },
		func(b *catalogv1.Book) bool {
			return b.GetRating().GetReviewCount() == count && b.GetRating().GetAverageStars() == average
		})
	if err != nil {
		t.Fatalf("the catalogue shows %v, want %d reviews of %g stars: %v", got.GetRating(), count, average, err)
	}
}

func TestReviewIsPublishedAndTheCatalogueFollows(t *testing.T) {
	t.Parallel()
	title := book(t, 1999, 9)
	v := reader(t, title)
	written, err := v.Review(v.ctx, title, 4, "Quietly good", "The second half is slow, and then the harbour scene pays for all of it.")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.AwaitReview(v.ctx, title, ratingv1.Review_PUBLISHED); err != nil {
		t.Fatal(err)
	}
	rated(t, v, title, 1, 4)
	recordOne(t, "review", "published", review.WorkflowID(uuid.MustParse(written.GetId())))
	list, err := v.Reviews(v.ctx, title, "sort=NEWEST")
	if err != nil || len(list.GetReviews()) != 1 || list.GetReviews()[0].GetText() != written.GetText() || !list.GetReviews()[0].GetVerifiedPurchase() {
		t.Errorf("the list is %v, %v", list, err)
	}
	// The same words again change nothing; other stars do.
	again, err := v.Review(v.ctx, title, 4, written.GetTitle(), written.GetText())
	if err != nil || again.GetEtag() != written.GetEtag() {
		t.Errorf("the same review has the version %s, was %s: %v", again.GetEtag(), written.GetEtag(), err)
	}
	if _, err := v.Review(v.ctx, title, 2, written.GetTitle(), written.GetText()); err != nil {
		t.Fatal(err)
	}
	rated(t, v, title, 1, 2)
	if _, err := v.Do(v.ctx, http.MethodDelete, "/api/v1/books/"+title+"/reviews/mine", nil, nil); err != nil {
		t.Fatal(err)
	}
	rated(t, v, title, 0, 0)
	recordOne(t, "review", "edited-and-deleted", review.WorkflowID(uuid.MustParse(written.GetId())))
	if _, err := v.MyReview(v.ctx, title); shopper.Reason(err) != "REVIEW_NOT_FOUND" {
		t.Errorf("the deleted review: %v", err)
	}
}

func TestOnlyBuyersReview(t *testing.T) {
	t.Parallel()
	title := book(t, 1999, 9)
	v := enter(t)
	if _, err := v.Review(v.ctx, title, 5, "Great", "I heard."); shopper.Reason(err) != "PURCHASE_REQUIRED" {
		t.Errorf("without a purchase: %v", err)
	}
	if _, err := v.Review(v.ctx, uuid.NewString(), 5, "Great", "I heard."); err == nil {
		t.Error("a book that does not exist was reviewed")
	}
	// An order that was cancelled is no purchase.
	v.fill(title)
	order := v.becomes(v.order("pm_card_visa"), orderingv1.Order_CONFIRMED)
	if _, err := v.Cancel(v.ctx, order.GetId()); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Review(v.ctx, title, 5, "Great", "I heard."); shopper.Reason(err) != "PURCHASE_REQUIRED" {
		t.Errorf("after a cancelled purchase: %v", err)
	}
}

func TestDoubtfulReviewWaitsForAnOperator(t *testing.T) {
	t.Parallel()
	title := book(t, 1999, 9)
	ops := operator(t)
	for decision, want := range map[ratingv1.DecideReviewRequest_Decision]ratingv1.Review_Status{
		ratingv1.DecideReviewRequest_PUBLISH: ratingv1.Review_PUBLISHED, ratingv1.DecideReviewRequest_REJECT: ratingv1.Review_REJECTED,
	} {
		v := reader(t, title)
		if _, err := v.Review(v.ctx, title, 5, "Splendid", doubtful); err != nil {
			t.Fatal(err)
		}
		waits, err := v.AwaitReview(v.ctx, title, ratingv1.Review_IN_QUEUE)
		if err != nil {
			t.Fatal(err)
		}
		id := review.WorkflowID(uuid.MustParse(waits.GetId()))
		v.finds(`WorkflowId = "` + id + `" AND BookwormStep = "` + review.StepOperator + `"`)
		decided := &ratingv1.Review{}
		_, err = ops.Do(v.ctx, http.MethodPost, "/api/v1/moderation/reviews/"+waits.GetId()+":decide",
			&ratingv1.DecideReviewRequest{Decision: decision, Etag: waits.GetEtag(), Reason: "Looked at."}, decided)
		if err != nil || decided.GetStatus() != want {
			t.Errorf("%s made it %s, %v", decision, decided.GetStatus(), err)
		}
		if _, err := v.AwaitReview(v.ctx, title, want); err != nil {
			t.Error(err)
		}
		recordOne(t, "review", "operator-"+decision.String(), id)
	}
}

func TestA1_ReviewsVotesAndQueueAreNobodyElses(t *testing.T) {
	t.Parallel()
	title := book(t, 1999, 9)
	author, other := reader(t, title), enter(t)
	if _, err := author.Review(author.ctx, title, 3, "So so", "Neither here nor there, all things told."); err != nil {
		t.Fatal(err)
	}
	mine, err := author.AwaitReview(author.ctx, title, ratingv1.Review_PUBLISHED)
	if err != nil {
		t.Fatal(err)
	}
	vote := "/api/v1/reviews/" + mine.GetId() + "/vote"
	if _, err := author.Do(author.ctx, http.MethodPut, vote, &ratingv1.VoteReviewRequest{Helpful: true}, nil); shopper.Reason(err) != "OWN_REVIEW" {
		t.Errorf("a vote for oneself: %v", err)
	}
	for range 2 { // one vote each, however often
		votes := &ratingv1.VoteReviewResponse{}
		if _, err := other.Do(other.ctx, http.MethodPut, vote, &ratingv1.VoteReviewRequest{Helpful: true}, votes); err != nil || votes.GetHelpfulCount() != 1 {
			t.Errorf("%d votes, %v", votes.GetHelpfulCount(), err)
		}
	}
	if _, err := other.MyReview(other.ctx, title); shopper.Reason(err) != "REVIEW_NOT_FOUND" {
		t.Errorf("somebody else's review as one's own: %v", err)
	}
	if _, err := other.Do(other.ctx, http.MethodDelete, "/api/v1/books/"+title+"/reviews/mine", nil, nil); err != nil {
		t.Error(err)
	}
	if still, err := author.MyReview(author.ctx, title); err != nil || still.GetStatus() != ratingv1.Review_PUBLISHED {
		t.Errorf("after another's deletion it is %v, %v", still, err)
	}
	if _, err := other.Do(other.ctx, http.MethodGet, "/api/v1/moderation/reviews", nil, nil); shopper.Reason(err) != "ACCESS_DENIED" {
		t.Errorf("the queue to a customer: %v", err)
	}
	_, err = other.Do(other.ctx, http.MethodPost, "/api/v1/moderation/reviews/"+mine.GetId()+":decide",
		&ratingv1.DecideReviewRequest{Decision: ratingv1.DecideReviewRequest_REJECT, Etag: mine.GetEtag(), Reason: "No."}, nil)
	if shopper.Reason(err) != "ACCESS_DENIED" {
		t.Errorf("a decision of a customer: %v", err)
	}
}

// TestRatingsAreRebuiltEqual spoils the numbers on both sides and has them counted
// anew.
func TestRatingsAreRebuiltEqual(t *testing.T) {
	t.Parallel()
	title := book(t, 1999, 9)
	v := reader(t, title)
	if _, err := v.Review(v.ctx, title, 5, "A joy", "From the first page to the last, and then once more."); err != nil {
		t.Fatal(err)
	}
	rated(t, v, title, 1, 5)
	for _, spoil := range []string{
		`update rating.book_rating set n1 = 7, n5 = 0 where book_id = $1`,
		`update catalog.book_rating set stars = '{0,3,0,0,0}', version = version + 5 where book_id = $1`,
	} {
		if _, err := dbs.Exec(v.ctx, spoil, title); err != nil {
			t.Fatal(err)
		}
	}
	answer := &ratingv1.RebuildRatingsResponse{}
	if _, err := operator(t).Do(v.ctx, http.MethodPost, "/api/v1/moderation/ratings:rebuild", &ratingv1.RebuildRatingsRequest{}, answer); err != nil {
		t.Fatal(err)
	}
	if err := orders.GetWorkflow(v.ctx, answer.GetWorkflowId(), "").Get(v.ctx, nil); err != nil {
		t.Fatal(err)
	}
	rated(t, v, title, 1, 5)
	if summary, err := v.Rating(v.ctx, title); err != nil || summary.GetReviewCount() != 1 || summary.GetHistogram()[4] != 1 {
		t.Errorf("the reviews say %v, %v", summary, err)
	}
	recordOne(t, "ratings", "mended", ratings.WorkflowID)
}

// TestReviewWhoseProcessWasTerminatedGoesOn is an operator's mistake in the Web UI.
func TestReviewWhoseProcessWasTerminatedGoesOn(t *testing.T) {
	t.Parallel()
	title := book(t, 1999, 9)
	v := reader(t, title)
	if _, err := v.Review(v.ctx, title, 5, "Splendid", doubtful); err != nil {
		t.Fatal(err)
	}
	waits, err := v.AwaitReview(v.ctx, title, ratingv1.Review_IN_QUEUE)
	if err != nil {
		t.Fatal(err)
	}
	id := review.WorkflowID(uuid.MustParse(waits.GetId()))
	if err := orders.TerminateWorkflow(v.ctx, id, "", "a mistake"); err != nil {
		t.Fatal(err)
	}
	decided := &ratingv1.Review{}
	_, err = operator(t).Do(v.ctx, http.MethodPost, "/api/v1/moderation/reviews/"+waits.GetId()+":decide",
		&ratingv1.DecideReviewRequest{Decision: ratingv1.DecideReviewRequest_PUBLISH, Etag: waits.GetEtag()}, decided)
	if err != nil || decided.GetStatus() != ratingv1.Review_PUBLISHED {
		t.Errorf("decided: %v, %v", decided, err)
	}
	rated(t, v, title, 1, 5)
}
