package catalog

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Rating is what the published reviews of a book say together. The zero Rating is
// that of a book without reviews.
type Rating struct {
	Version int64    // of the book's reviews; grows with each change of them
	Stars   [5]int32 // reviews with 1, 2, 3, 4 and 5 stars
	Score   float64  // Bayesian average, 1 to 5; 0 without a review
}

// Count is the number of reviews.
func (r Rating) Count() int32 {
	var n int32
	for _, stars := range r.Stars {
		n += stars
	}
	return n
}

// Average is the mean of the stars; 0 without a review.
func (r Rating) Average() float64 {
	n := r.Count()
	if n == 0 {
		return 0
	}
	var sum int64
	for i, stars := range r.Stars {
		sum += int64(i+1) * int64(stars)
	}
	return float64(sum) / float64(n)
}

// BookRating is the rating of one book.
type BookRating struct {
	BookID uuid.UUID
	Rating
}

// SetRating stores how a book is rated. One whose version is not newer than what is
// stored has no effect, so that each change counts once in whatever order they
// come. Errors: BOOK_NOT_FOUND.
func (s *Store) SetRating(ctx context.Context, bookID uuid.UUID, r Rating) error {
	_, err := s.db.Exec(ctx, `
		INSERT INTO book_rating (book_id, version, stars, score) VALUES ($1, $2, $3, $4)
		ON CONFLICT (book_id) DO UPDATE SET version = excluded.version, stars = excluded.stars, score = excluded.score
		WHERE book_rating.version < excluded.version`, bookID, r.Version, r.Stars[:], r.Score)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == codeForeignKeyViolation {
		return notFound(bookID)
	}
	if err != nil {
		return fmt.Errorf("set rating: %w", err)
	}
	return nil
}

const codeForeignKeyViolation = "23503"

// Ratings returns up to limit ratings of books after the given id, by id; from the
// first for uuid.Nil.
func (s *Store) Ratings(ctx context.Context, after uuid.UUID, limit int) ([]BookRating, error) {
	rows, err := s.db.Query(ctx, `
		SELECT book_id, version, stars, score FROM book_rating WHERE book_id > $1 ORDER BY book_id LIMIT $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list ratings: %w", err)
	}
	ratings, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (BookRating, error) {
		var r BookRating
		err := row.Scan(&r.BookID, &r.Version, &r.Stars, &r.Score)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("list ratings: %w", err)
	}
	return ratings, nil
}
