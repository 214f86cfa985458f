package rating

import (
	"context"

	"bookworm/internal/personal"
	"bookworm/internal/rating"
	"bookworm/workflows/review"
)

// Holder returns the context's share of what people may ask of their own data.
// Reviews are deleted by their processes, as when their authors delete them.
func Holder(d Deps) personal.Holder {
	return rating.Personal{Reviews: d.Reviews, Delete: func(ctx context.Context, r rating.Review, pseudonym string) error {
		_, err := review.Delete(ctx, d.Temporal, review.Ref{ID: r.ID, BookID: r.BookID, Subject: pseudonym}, 0)
		return err
	}}
}
