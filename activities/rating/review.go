// Package rating holds the activities of the review processes, on the rating task
// queue. All are idempotent: each looks at what is stored and does what that
// needs. They take and return ids, versions and states only: the words of a review
// are personal and stay out of histories, so an activity reads them where they are
// stored. What belongs to another context is asked of that context's API.
package rating

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"bookworm/internal/fault"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/gen/bookworm/ordering/v1/orderingv1connect"
	"bookworm/internal/llm"
	"bookworm/internal/process"
	"bookworm/internal/rating"
)

// TaskQueue is where the review processes run.
const TaskQueue = "rating"

// Activities is what the rating activities need. The clients carry the service's
// own credential.
type Activities struct {
	Reviews   *rating.Store
	Purchases orderingv1connect.PurchaseServiceClient
	Books     catalogv1connect.CatalogServiceClient
	Ratings   catalogv1connect.BookRatingServiceClient
	// Model moderates and summarizes; nil when none is configured.
	Model *llm.Client
}

// Stored is what became of a submission, a deletion or a decision.
type Stored struct {
	Version int64 `json:",omitempty"` // of the review, after a submission
	Changed bool  // false when it had no effect
}

// StoreReview lets a submission take effect, if its author bought the book.
// Errors: PURCHASE_REQUIRED, BOOK_NOT_FOUND, STALE_VERSION.
func (a *Activities) StoreReview(ctx context.Context, reviewID, requestID uuid.UUID) (Stored, error) {
	submission, waiting, err := a.Reviews.Submission(ctx, requestID)
	if err != nil {
		return Stored{}, err
	}
	if waiting { // or taken by an attempt whose answer was lost
		if err := a.bought(ctx, submission); err != nil {
			return Stored{}, process.Refusal(err)
		}
	}
	review, changed, err := a.Reviews.Submit(ctx, reviewID, requestID, true)
	if err != nil {
		return Stored{}, process.Refusal(err)
	}
	return Stored{Version: review.Version, Changed: changed}, nil
}

func (a *Activities) bought(ctx context.Context, submission rating.Submission) error {
	book := submission.BookID.String()
	bought, err := a.Purchases.ListPurchases(ctx, &orderingv1.ListPurchasesRequest{Subject: submission.Subject, BookIds: []string{book}})
	if err != nil {
		return fmt.Errorf("ask for the purchase: %w", err)
	}
	if len(bought.GetPurchases()) > 0 {
		return nil
	}
	if _, err := a.Books.GetBook(ctx, &catalogv1.GetBookRequest{Id: book}); err != nil {
		return fmt.Errorf("look for the book: %w", err)
	}
	return fault.New(fault.ReasonPurchaseRequired, "Only somebody who bought the book here can review it.").With("book_id", book)
}

// DeleteReview takes a review away; seen is the version that is meant, 0 for
// whichever there is. Errors: STALE_VERSION.
func (a *Activities) DeleteReview(ctx context.Context, reviewID uuid.UUID, seen int64) (Stored, error) {
	var version *int64
	if seen != 0 {
		version = &seen
	}
	found, err := a.Reviews.Delete(ctx, reviewID, version)
	return Stored{Changed: found}, process.Refusal(err)
}

// DecideReview lets an operator's decision take effect. Errors: REVIEW_NOT_FOUND,
// STALE_VERSION.
func (a *Activities) DecideReview(ctx context.Context, reviewID, requestID uuid.UUID) (Stored, error) {
	changed, err := a.Reviews.Decide(ctx, reviewID, requestID)
	return Stored{Changed: changed}, process.Refusal(err)
}

// Need is what a review needs of its process.
type Need string

// What a review can need.
const (
	NeedNothing    Need = ""
	NeedModeration Need = "moderation" // its words are new
	NeedHiding     Need = "hiding"     // it is published, and shoppers have reported it
	NeedOperator   Need = "operator"   // it waits for a decision
)

// Standing is where a review stands.
type Standing struct {
	Need    Need
	Version int64
}

// LookAtReview says what a review needs; nothing when it is gone.
func (a *Activities) LookAtReview(ctx context.Context, reviewID uuid.UUID) (Standing, error) {
	stands, found, err := a.Reviews.Standing(ctx, reviewID)
	if err != nil || !found {
		return Standing{}, err
	}
	standing := Standing{Version: stands.Version}
	switch {
	case stands.Status == rating.Pending:
		standing.Need = NeedModeration
	case stands.Status == rating.InQueue:
		standing.Need = NeedOperator
	case stands.Status == rating.Published && stands.Reported:
		standing.Need = NeedHiding
	}
	return standing, nil
}

// HideReview takes a reported review out of sight until an operator has looked.
func (a *Activities) HideReview(ctx context.Context, reviewID uuid.UUID) error {
	return a.Reviews.Hide(ctx, reviewID)
}
