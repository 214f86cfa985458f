package catalog

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/postgres"
)

const (
	// lease is how long a writer of the index keeps others from a book. One that died
	// is followed by the next after this time.
	lease = 30 * time.Second
	// writeTimeout bounds a write to the index. It is below the lease, so that no write
	// arrives after that of the next writer.
	writeTimeout = 20 * time.Second
)

// claimed is a book that one writer has to bring to a collection.
type claimed struct {
	bookID      uuid.UUID
	revision    int64 // of the change that was pending when it was claimed
	textChanged bool
	since       time.Time // by the database's clock
}

const claim = `
	UPDATE index_pending p SET claimed_until = clock_timestamp() + $2
	FROM due WHERE p.collection = $1 AND p.book_id = due.book_id
	RETURNING p.book_id, p.revision, p.text_changed, p.since`

// claimBatch takes up to limit pending books of a collection, the longest waiting
// first. It passes over those that another writer has or is just taking.
func (s *Store) claimBatch(ctx context.Context, collection string, limit int) ([]claimed, error) {
	return s.claim(ctx, `
		WITH due AS MATERIALIZED (
			SELECT book_id FROM index_pending WHERE collection = $1 AND claimed_until < clock_timestamp()
			ORDER BY since LIMIT $3 FOR UPDATE SKIP LOCKED
		)`+claim, collection, lease, limit)
}

// claimBook takes one book, if it is pending and no other writer has it.
func (s *Store) claimBook(ctx context.Context, collection string, id uuid.UUID) ([]claimed, error) {
	return s.claim(ctx, `
		WITH due AS MATERIALIZED (
			SELECT book_id FROM index_pending WHERE collection = $1 AND book_id = $3 AND claimed_until < clock_timestamp()
			FOR UPDATE
		)`+claim, collection, lease, id)
}

func (s *Store) claim(ctx context.Context, sql string, args ...any) ([]claimed, error) {
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("claim pending books: %w", err)
	}
	books, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (claimed, error) {
		var c claimed
		err := row.Scan(&c.bookID, &c.revision, &c.textChanged, &c.since)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("claim pending books: %w", err)
	}
	return books, nil
}

// settle ends the claims. What was indexed is no longer pending; what has changed
// since it was claimed is so anew, behind all others. What was not indexed is free for
// the next writer.
//
// Rows that a change is just working on are left to the end and taken one by one: a
// change of several books locks them in an order of its own.
func (s *Store) settle(ctx context.Context, collection string, books []claimed, indexed bool) error {
	left, err := s.settleSome(ctx, collection, books, indexed, "SKIP LOCKED")
	for i := 0; i < len(left) && err == nil; i++ {
		_, err = s.settleSome(ctx, collection, left[i:i+1], indexed, "")
	}
	if err != nil {
		return fmt.Errorf("settle pending books: %w", err)
	}
	return nil
}

func (s *Store) settleSome(ctx context.Context, collection string, books []claimed, indexed bool, locked string) (left []claimed, err error) {
	ids, revisions := make([]uuid.UUID, len(books)), make([]int64, len(books))
	for i, b := range books {
		ids[i], revisions[i] = b.bookID, b.revision
	}
	if !indexed {
		revisions = []int64{}
	}
	rows, err := s.db.Query(ctx, `
		WITH mine AS MATERIALIZED (
			SELECT book_id, revision = ANY ($3) AS done FROM index_pending
			WHERE collection = $1 AND book_id = ANY ($2) FOR UPDATE `+locked+`
		), done AS (
			DELETE FROM index_pending p USING mine WHERE p.collection = $1 AND p.book_id = mine.book_id AND mine.done
		), again AS (
			UPDATE index_pending p
			SET claimed_until = '-infinity', since = CASE WHEN $4 THEN clock_timestamp() ELSE since END FROM mine
			WHERE p.collection = $1 AND p.book_id = mine.book_id AND NOT mine.done
		)
		SELECT book_id FROM mine`, collection, ids, revisions, indexed)
	if err != nil {
		return nil, err
	}
	settled, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, err
	}
	for _, b := range books {
		if !slices.Contains(settled, b.bookID) {
			left = append(left, b)
		}
	}
	return left, nil
}

// pending returns how many books a collection has not got yet as they were at a
// moment.
func (s *Store) pending(ctx context.Context, collection string, at time.Time) (n int64, err error) {
	err = s.db.QueryRow(ctx, `SELECT count(*) FROM index_pending WHERE collection = $1 AND since <= $2`, collection, at).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count pending books: %w", err)
	}
	return n, nil
}

// isPending reports whether a collection has not got a book yet in its newest
// version.
func (s *Store) isPending(ctx context.Context, collection string, id uuid.UUID) (pending bool, err error) {
	err = s.db.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM index_pending WHERE collection = $1 AND book_id = $2)`, collection, id).Scan(&pending)
	if err != nil {
		return false, fmt.Errorf("look for a pending book: %w", err)
	}
	return pending, nil
}

// markPending puts books on a collection's list, whatever it has of them.
func (s *Store) markPending(ctx context.Context, collection string, ids []uuid.UUID) error {
	err := postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO index_pending (collection, book_id, text_changed) SELECT $1, id, true FROM unnest($2::uuid[]) AS id
			ON CONFLICT (collection, book_id) DO UPDATE SET revision = nextval('index_revision'), text_changed = true`, collection, ids)
		return err
	})
	if err != nil {
		return fmt.Errorf("mark books pending: %w", err)
	}
	return nil
}

// markAllPending puts all books on sale on a collection's list, some at a time: a
// change of several books may have to wait for it.
func (s *Store) markAllPending(ctx context.Context, collection string, alive func()) (books int64, err error) {
	for after := uuid.Nil; ; alive() {
		var ids []uuid.UUID
		rows, err := s.db.Query(ctx, `SELECT id FROM book WHERE id > $1 AND archived_at IS NULL ORDER BY id LIMIT $2`, after, comparePage)
		if err == nil {
			ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		}
		if err != nil {
			return 0, fmt.Errorf("list the books to index: %w", err)
		}
		if err := s.markPending(ctx, collection, ids); err != nil {
			return 0, err
		}
		books += int64(len(ids))
		if len(ids) < comparePage {
			return books, nil
		}
		after = ids[len(ids)-1]
	}
}

// forgetOthers empties the lists of collections that are neither built nor in use. A
// change that was under way when one was given up may have left rows.
func (s *Store) forgetOthers(ctx context.Context) error {
	_, err := s.db.Exec(ctx, `
		DELETE FROM index_pending p USING (
			SELECT collection, book_id FROM index_pending
			WHERE collection NOT IN (SELECT collection FROM search_index) FOR UPDATE SKIP LOCKED
		) AS dead
		WHERE p.collection = dead.collection AND p.book_id = dead.book_id`)
	if err != nil {
		return fmt.Errorf("forget given up collections: %w", err)
	}
	return nil
}
