package catalog

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"bookworm/internal/catalog"
)

// ErrRebuild is the type of the error for which no retry helps: the collection is
// gone, or made by another embedding model. A new one has to be begun.
const ErrRebuild = "SEARCH_INDEX_REBUILD"

// fillTime is how long one FillIndex works. It bounds the history of a rebuild: at 500
// books a second, a million of them are 400 activities.
const fillTime = 5 * time.Second

// Rebuild is a collection in the making.
type Rebuild struct {
	Collection string
	Books      int64 // to bring to it
}

// BeginRebuild makes a collection and puts every book on its list. The tag belongs to
// the rebuild: the same one goes on with the same collection.
func (a *Activities) BeginRebuild(ctx context.Context, tag string) (Rebuild, error) {
	collection, books, err := a.Index.BeginRebuild(ctx, tag, func() { activity.RecordHeartbeat(ctx) })
	return Rebuild{collection, books}, final(err)
}

// FillIndex brings books to a collection for a few seconds and returns how many are
// left. What it has done stays done, however it ends. Errors: ErrRebuild.
func (a *Activities) FillIndex(ctx context.Context, collection string) (left int64, err error) {
	d := a.FillTime
	if d == 0 {
		d = fillTime
	}
	left, err = a.Index.FillIndex(ctx, collection, time.Now().Add(d), func(done int) { activity.RecordHeartbeat(ctx, done) })
	return left, final(err)
}

// VerifyIndex compares a collection with the books and puts what differs on its list.
// Errors: ErrRebuild.
func (a *Activities) VerifyIndex(ctx context.Context, collection string) (catalog.Drift, error) {
	drift, err := a.Index.Compare(ctx, collection, place(ctx), func(p catalog.Place) { activity.RecordHeartbeat(ctx, p) })
	return drift, final(err)
}

// SwitchIndex puts a collection in use and drops all others. Errors: ErrRebuild.
func (a *Activities) SwitchIndex(ctx context.Context, collection string) error {
	return final(a.Index.SwitchIndex(ctx, collection))
}

// CheckIndex compares the index in use with the books and mends what differs.
// Errors: ErrRebuild when only a rebuild helps.
func (a *Activities) CheckIndex(ctx context.Context) (catalog.Drift, error) {
	drift, err := a.Index.CheckIndex(ctx, place(ctx), func(p catalog.Place) { activity.RecordHeartbeat(ctx, p) })
	return drift, final(err)
}

// place is where the try before this one came to.
func place(ctx context.Context) catalog.Place {
	var p catalog.Place
	if activity.HasHeartbeatDetails(ctx) && activity.GetHeartbeatDetails(ctx, &p) != nil {
		return catalog.Place{}
	}
	return p
}

// final marks the errors that only a new collection cures.
func final(err error) error {
	if !errors.Is(err, catalog.ErrRebuild) {
		return err
	}
	return temporal.NewApplicationErrorWithOptions(err.Error(), ErrRebuild, temporal.ApplicationErrorOptions{
		NonRetryable: true, Category: temporal.ApplicationErrorCategoryBenign,
	})
}

// Drift is how a collection differs from the books.
type Drift = catalog.Drift
