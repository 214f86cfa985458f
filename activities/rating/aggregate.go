package rating

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"bookworm/internal/fault"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/process"
	"bookworm/internal/rating"
)

// TellRating tells the catalogue how a book is rated now, unless it is known to
// know. The catalogue takes a version once, so every change counts exactly once
// however often it is told. Errors: BOOK_NOT_FOUND.
func (a *Activities) TellRating(ctx context.Context, bookID uuid.UUID) error {
	r, err := a.Reviews.Rating(ctx, bookID)
	if err != nil || r.Told >= r.Version {
		return err
	}
	return process.Refusal(a.tell(ctx, r))
}

func (a *Activities) tell(ctx context.Context, r rating.Rating) error {
	_, err := a.Ratings.SetBookRating(ctx, &catalogv1.SetBookRatingRequest{
		BookId: r.BookID.String(), Version: r.Version, Histogram: r.Histogram[:], Score: r.Score,
	})
	if err != nil {
		return fmt.Errorf("tell the catalogue: %w", err)
	}
	return a.Reviews.Told(ctx, r.BookID, r.Version)
}

// batch is how many books a step of a rebuild looks at.
const batch = 500

// Recounted is what counting a batch of books has found.
type Recounted struct {
	Last     uuid.UUID // where the next batch goes on
	Books    int       // in this batch; 0 at the end
	Mended   int       // ratings that were not what the reviews say
	Rescored int       // scores that had drifted
}

// RecountRatings counts the published reviews of a batch of books after the given
// one and mends their ratings.
func (a *Activities) RecountRatings(ctx context.Context, after uuid.UUID) (Recounted, error) {
	found, err := a.Reviews.Recount(ctx, after, batch)
	return Recounted(found), err
}

// Compared is what comparing a batch of books with the catalogue has found.
type Compared struct {
	Last  uuid.UUID
	Done  bool
	Books int
	// Behind counts books of which the catalogue had an older version, or none.
	Behind int
	// Contradicted counts those of which it had something else in our version, or a
	// version that we never had.
	Contradicted int
	// Unknown counts those that the catalogue does not sell; nothing can be done.
	Unknown int
}

// CompareRatings compares the ratings of a batch of books after the given one with
// what the catalogue has, and tells it where that differs.
func (a *Activities) CompareRatings(ctx context.Context, after uuid.UUID) (Compared, error) {
	// The catalogue's first: what it has came from us, so ours are not older. The
	// empty string stands for the beginning.
	from := ""
	if after != uuid.Nil {
		from = after.String()
	}
	listed, err := a.Ratings.ListBookRatings(ctx, &catalogv1.ListBookRatingsRequest{AfterBookId: from, PageSize: batch})
	if err != nil {
		return Compared{}, fmt.Errorf("list the catalogue's ratings: %w", err)
	}
	ours, err := a.Reviews.Ratings(ctx, after, batch)
	if err != nil {
		return Compared{}, err
	}
	theirs := make(map[uuid.UUID]*catalogv1.BookRating, len(listed.GetRatings()))
	var lastListed uuid.UUID
	for _, r := range listed.GetRatings() {
		if lastListed, err = uuid.Parse(r.GetBookId()); err != nil {
			return Compared{}, fmt.Errorf("read the catalogue's ratings: %w", err)
		}
		theirs[lastListed] = r
	}
	known := make(map[uuid.UUID]rating.Rating, len(ours))
	for _, r := range ours {
		known[r.BookID] = r
	}
	// Both lists are complete up to the smaller of their last books, and a list that
	// is not full to its end.
	found := Compared{Last: uuid.Max, Done: true}
	if len(listed.GetRatings()) == batch {
		found.Last, found.Done = lastListed, false
	}
	if len(ours) == batch && bytes.Compare(ours[batch-1].BookID[:], found.Last[:]) < 0 {
		found.Last, found.Done = ours[batch-1].BookID, false
	}
	books := maps.Clone(known)
	for id := range theirs {
		books[id] = known[id]
	}
	for _, id := range slices.SortedFunc(maps.Keys(books), func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }) {
		if bytes.Compare(id[:], found.Last[:]) > 0 {
			break
		}
		found.Books++
		if err := a.reconcile(ctx, id, known[id], theirs[id], &found); err != nil {
			return Compared{}, err
		}
	}
	return found, nil
}

// reconcile makes the catalogue hold our rating of one book.
func (a *Activities) reconcile(ctx context.Context, book uuid.UUID, ours rating.Rating, theirs *catalogv1.BookRating, found *Compared) error {
	switch {
	case theirs.GetVersion() == ours.Version && slices.Equal(theirs.GetHistogram(), ours.Histogram[:]):
		return nil
	case theirs.GetVersion() < ours.Version:
		found.Behind++
	default:
		found.Contradicted++
		var err error
		if ours, err = a.Reviews.Outdo(ctx, book, theirs.GetVersion()); err != nil {
			return err
		}
	}
	err := a.tell(ctx, ours)
	if fault.Is(err, fault.ReasonBookNotFound) {
		found.Unknown++
		return nil
	}
	return err
}

// Waiting is a batch of reviews that a process should be taking care of.
type Waiting struct {
	Reviews []WaitingReview // none at the end
}

// WaitingReview names one of them.
type WaitingReview struct {
	ReviewID, BookID uuid.UUID
	Subject          string
}

// ListUnsettled returns a batch of the reviews after the given one that wait for
// something.
func (a *Activities) ListUnsettled(ctx context.Context, after uuid.UUID) (Waiting, error) {
	reviews, err := a.Reviews.Unsettled(ctx, after, batch)
	if err != nil {
		return Waiting{}, err
	}
	var waiting Waiting
	for _, r := range reviews {
		waiting.Reviews = append(waiting.Reviews, WaitingReview{ReviewID: r.ID, BookID: r.BookID, Subject: r.Subject})
	}
	return waiting, nil
}
