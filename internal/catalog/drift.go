package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/vector"
)

// Drift is how a collection differs from the books, apart from changes that are on
// its list anyway. A book that changes while it is looked at may be counted.
type Drift struct {
	Checked int64 // books and points
	Missing int64 // books on sale that it has not
	Stale   int64 // books that it has in another version
	Orphans int64 // points of books that are archived or that there are not
}

// Clean reports whether there is none.
func (d Drift) Clean() bool { return d.Missing+d.Stale+d.Orphans == 0 }

func (d Drift) plus(o Drift) Drift {
	return Drift{d.Checked + o.Checked, d.Missing + o.Missing, d.Stale + o.Stale, d.Orphans + o.Orphans}
}

// comparePage is how many books and points are compared at once.
const comparePage = 500

// Place is how far the comparison of a collection has come: what its next try goes
// on from.
type Place struct {
	Collection string
	After      uuid.UUID
	Drift      Drift
}

// Compare compares a collection with the books, from a place on, and puts what
// differs on the collection's list. Points that no book belongs to it deletes.
// progress is called after each page. Errors: ErrRebuild when the collection is gone.
func (x *Indexer) Compare(ctx context.Context, collection string, from Place, progress func(Place)) (Drift, error) {
	if from.Collection != collection {
		from = Place{Collection: collection}
	}
	for place := from; ; {
		next, found, err := x.comparePage(ctx, collection, place.After)
		if errors.Is(err, vector.ErrNoCollection) {
			return Drift{}, fmt.Errorf("%w: %w", ErrRebuild, err)
		}
		if err != nil {
			return Drift{}, fmt.Errorf("compare %s with the books: %w", collection, err)
		}
		place = Place{collection, next, place.Drift.plus(found)}
		if next == uuid.Nil {
			return place.Drift, nil
		}
		progress(place)
	}
}

// comparePage compares what comes after an id, and returns the id up to which it
// came, uuid.Nil when that was all.
func (x *Indexer) comparePage(ctx context.Context, collection string, after uuid.UUID) (next uuid.UUID, found Drift, err error) {
	// The points first: whatever has a point then had its row before.
	points, next, err := x.Vectors.Scroll(ctx, collection, after, comparePage, fieldVersion, fieldRating, fieldInStock)
	if err != nil {
		return uuid.Nil, Drift{}, err
	}
	books, err := x.Store.states(ctx, collection, after)
	if err != nil {
		return uuid.Nil, Drift{}, err
	}
	if n := len(books); n == comparePage && (next == uuid.Nil || less(books[n-1].ID, next)) {
		next = books[n-1].ID
	}
	inPage := func(id uuid.UUID) bool { return next == uuid.Nil || !less(next, id) }

	have := make(map[uuid.UUID]map[string]any, len(points))
	for _, p := range points {
		if inPage(p.ID) {
			have[p.ID] = p.Payload
			found.Checked++
		}
	}
	var mend []uuid.UUID
	for _, b := range books {
		if !inPage(b.ID) {
			break
		}
		found.Checked++
		indexed, ok := have[b.ID]
		delete(have, b.ID)
		switch {
		case b.pending:
		case b.Archived && ok:
			found.Orphans++
			mend = append(mend, b.ID)
		case b.Archived:
		case !ok:
			found.Missing++
			mend = append(mend, b.ID)
		case !current(indexed, b.Book):
			found.Stale++
			mend = append(mend, b.ID)
		}
	}
	if len(mend) > 0 {
		if err := x.Store.markPending(ctx, collection, mend); err != nil {
			return uuid.Nil, Drift{}, err
		}
	}
	var orphans []uuid.UUID
	for id := range have {
		orphans = append(orphans, id)
	}
	found.Orphans += int64(len(orphans))
	return next, found, x.Vectors.Delete(ctx, collection, orphans)
}

func less(a, b uuid.UUID) bool { return bytes.Compare(a[:], b[:]) < 0 }

// state is what the index must agree with: only the fields that current compares.
type state struct {
	Book

	pending bool
}

// states returns a page of books after an id, by id, archived ones too.
func (s *Store) states(ctx context.Context, collection string, after uuid.UUID) ([]state, error) {
	rows, err := s.db.Query(ctx, `
		SELECT b.id, b.version, b.archived_at IS NOT NULL, s.on_hand - s.reserved, coalesce(r.version, 0), p.book_id IS NOT NULL
		FROM `+bookTables+` LEFT JOIN index_pending p ON p.book_id = b.id AND p.collection = $1
		WHERE b.id > $2 ORDER BY b.id LIMIT $3`, collection, after, comparePage)
	if err != nil {
		return nil, fmt.Errorf("read books: %w", err)
	}
	states, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (state, error) {
		var b state
		err := row.Scan(&b.ID, &b.Version, &b.Archived, &b.Available, &b.Rating.Version, &b.pending)
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("read books: %w", err)
	}
	return states, nil
}

// CheckIndex compares the index in use with the books and mends what differs. It may
// go on from a place that an earlier try told progress. Errors: ErrRebuild when only
// a rebuild helps.
func (x *Indexer) CheckIndex(ctx context.Context, from Place, progress func(Place)) (Drift, error) {
	if _, err := x.catchUp(ctx); err != nil {
		return Drift{}, err
	}
	live, err := x.live(ctx)
	if err != nil {
		return Drift{}, err
	}
	drift, err := x.Compare(ctx, live.Name, from, progress)
	if err != nil {
		return Drift{}, err
	}
	for {
		if books, err := x.drain(ctx, live); err != nil || len(books) < batchSize {
			return drift, err
		}
	}
}
