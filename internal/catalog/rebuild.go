package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/postgres"
	"bookworm/internal/vector"
)

// A rebuild makes a new collection beside the one in use: begin, fill, verify,
// switch. From its beginning on, every change of a book is pending for both, in the
// change's own transaction; filling is nothing but working off what is pending for
// the new one. So a rebuild that dies goes on where it stopped, and no change that
// comes meanwhile is lost.

// BeginRebuild makes a collection and puts every book on its list. The tag tells
// collections apart; called again with the same one it goes on with that collection.
// A rebuild of another tag is given up. alive is called now and then.
func (x *Indexer) BeginRebuild(ctx context.Context, tag string, alive func()) (collection string, books int64, err error) {
	embedding := x.Embedder.EmbeddingName()
	collection = collectionPrefix(embedding) + tag
	average, err := x.averageLength(ctx, alive)
	if err != nil {
		return "", 0, err
	}
	if err := x.Vectors.CreateCollection(ctx, collection, x.Dimension, indexes); err != nil {
		return "", 0, fmt.Errorf("begin rebuild: %w", err)
	}
	err = postgres.Transact(ctx, x.Store.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM search_index WHERE state = $1 AND collection <> $2`, stateBuilding, collection); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO search_index (collection, state, embedding, average_length) VALUES ($1, $2, $3, $4)
			ON CONFLICT (collection) DO NOTHING`, collection, stateBuilding, embedding, average)
		return err
	})
	if err != nil {
		return "", 0, fmt.Errorf("begin rebuild: %w", err)
	}
	if err := x.Store.awaitOlder(ctx, alive); err != nil {
		return "", 0, err
	}
	if err := x.Store.forgetOthers(ctx); err != nil {
		return "", 0, err
	}
	books, err = x.Store.markAllPending(ctx, collection, alive)
	return collection, books, err
}

// awaitOlder waits until every transaction that was writing when it was called has
// ended. Those may have changed a book without seeing the new collection; all later
// ones see it. A lock on the books would do too, and would stop the sale.
func (s *Store) awaitOlder(ctx context.Context, alive func()) error {
	var mine string
	if err := s.db.QueryRow(ctx, `SELECT pg_current_xact_id()::text`).Scan(&mine); err != nil {
		return fmt.Errorf("await older changes: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var over bool
		err := s.db.QueryRow(ctx, `SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8`, mine).Scan(&over)
		if err != nil {
			return fmt.Errorf("await older changes: %w", err)
		}
		if over {
			return nil
		}
		alive()
		select {
		case <-ctx.Done():
			return fmt.Errorf("await older changes: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// averageLength returns the mean number of tokens of the books on sale.
func (x *Indexer) averageLength(ctx context.Context, alive func()) (float64, error) {
	var books, tokens int
	for after := uuid.Nil; ; {
		rows, err := x.Store.db.Query(ctx, `
			SELECT `+bookColumns+` FROM `+bookTables+` WHERE b.id > $1 AND b.archived_at IS NULL ORDER BY b.id LIMIT $2`, after, comparePage)
		if err != nil {
			return 0, fmt.Errorf("measure books: %w", err)
		}
		some, err := pgx.CollectRows(rows, scanBook)
		if err != nil {
			return 0, fmt.Errorf("measure books: %w", err)
		}
		for _, b := range some {
			tokens += len(documentTokens(b))
			after = b.ID
		}
		books += len(some)
		if len(some) < comparePage {
			break
		}
		alive()
	}
	if books == 0 {
		return 0, nil
	}
	return float64(tokens) / float64(books), nil
}

// FillIndex brings to a collection what was pending for it at the call, or as much of
// that as it can until the time is up, and returns how much is left. Books that another
// process has are waited for. Changes that come meanwhile may stay: shoppers make them
// without end. progress is called after each batch with what was done. Errors:
// ErrRebuild when the collection is gone or of another embedding: a new one has to be
// begun.
func (x *Indexer) FillIndex(ctx context.Context, collection string, until time.Time, progress func(done int)) (left int64, err error) {
	c, begun, err := x.building(ctx, collection)
	if err != nil {
		return 0, err
	}
	for done := 0; time.Now().Before(until); {
		books, err := x.drain(ctx, c)
		if err != nil {
			return 0, fmt.Errorf("fill %s: %w", collection, err)
		}
		done += len(books)
		progress(done)
		if slices.ContainsFunc(books, func(b claimed) bool { return !b.since.After(begun) }) {
			continue // they come in their order: there may be more
		}
		if left, err = x.Store.pending(ctx, collection, begun); err != nil || left == 0 {
			return left, err
		}
		wait := time.NewTimer(100 * time.Millisecond)
		select {
		case <-ctx.Done():
			wait.Stop()
			return left, ctx.Err()
		case <-wait.C:
		}
	}
	return x.Store.pending(ctx, collection, begun)
}

// building returns a collection that is being built or in use, and what time it is in
// the database.
func (x *Indexer) building(ctx context.Context, collection string) (c Collection, now time.Time, err error) {
	c.Name = collection
	err = x.Store.db.QueryRow(ctx, `
		SELECT embedding, average_length, clock_timestamp() FROM search_index WHERE collection = $1`, collection).
		Scan(&c.Embedding, &c.AverageLength, &now)
	if errors.Is(err, pgx.ErrNoRows) {
		return Collection{}, now, fmt.Errorf("%w: %s is no longer built", ErrRebuild, collection)
	}
	if err != nil {
		return Collection{}, now, fmt.Errorf("read the search index's state: %w", err)
	}
	if c.Embedding != x.Embedder.EmbeddingName() {
		return Collection{}, now, fmt.Errorf("%w: %s is of the embedding %s", ErrRebuild, collection, c.Embedding)
	}
	return c, now, nil
}

// SwitchIndex puts a collection in use, at once for all searches, and drops all
// others. Called again, it has no further effect. Errors: ErrRebuild when the
// collection is gone.
func (x *Indexer) SwitchIndex(ctx context.Context, collection string) error {
	if _, _, err := x.building(ctx, collection); err != nil {
		return err
	}
	current, err := x.Vectors.Alias(ctx, Alias)
	if err != nil && !errors.Is(err, vector.ErrNoCollection) {
		return fmt.Errorf("switch the search index: %w", err)
	}
	if current != collection {
		if err := x.Vectors.SwitchAlias(ctx, Alias, collection); errors.Is(err, vector.ErrNoCollection) {
			return fmt.Errorf("%w: %w", ErrRebuild, err)
		} else if err != nil {
			return fmt.Errorf("switch the search index: %w", err)
		}
	}
	// Between the two, changes are pending for both, as before.
	err = postgres.Transact(ctx, x.Store.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM search_index WHERE collection <> $1`, collection); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE search_index SET state = $2 WHERE collection = $1`, collection, stateLive)
		return err
	})
	if err != nil {
		return fmt.Errorf("switch the search index: %w", err)
	}
	if err := x.Store.forgetOthers(ctx); err != nil {
		return err
	}
	return x.dropOthers(ctx, collection)
}

func (x *Indexer) dropOthers(ctx context.Context, collection string) error {
	names, err := x.Vectors.Collections(ctx)
	if err != nil {
		return fmt.Errorf("drop old collections: %w", err)
	}
	for _, name := range names {
		if name == collection || !strings.HasPrefix(name, Alias+"-") {
			continue
		}
		if err := x.Vectors.DropCollection(ctx, name); err != nil {
			return fmt.Errorf("drop old collections: %w", err)
		}
	}
	return nil
}
