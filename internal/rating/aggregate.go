package rating

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/postgres"
)

// Histogram counts reviews with 1, 2, 3, 4 and 5 stars, in this order.
type Histogram [5]int32

// Count is the number of reviews.
func (h Histogram) Count() int32 {
	return h[0] + h[1] + h[2] + h[3] + h[4]
}

// sum is the number of stars in all reviews.
func (h Histogram) sum() int64 {
	var stars int64
	for i, n := range h {
		stars += int64(i+1) * int64(n)
	}
	return stars
}

// Average is the mean of the stars, 0 without a review.
func (h Histogram) Average() float64 {
	if h.Count() == 0 {
		return 0
	}
	return float64(h.sum()) / float64(h.Count())
}

// The Bayesian average of Score.
const (
	// PriorWeight is C, how many reviews the prior mean counts for: with fewer, a
	// book's score says more of the shop than of the book.
	PriorWeight = 10
	// DefaultPrior is m while the shop has no review at all: the middle of the scale.
	DefaultPrior = 3.0
)

// Score is the Bayesian average (C*m + sum of stars) / (C + number of reviews)
// with C = PriorWeight and the prior mean m, so that one review of five stars does
// not beat a hundred of 4.8; 0 without a review. Source: "Bayesian average",
// https://en.wikipedia.org/wiki/Bayesian_average.
//
// m is the mean of all published reviews of the shop and moves with each. A book's
// score is computed when its own reviews change and is part of that version; until
// the next change, or a rebuild that finds it off by more than MaxDrift, it rests
// on the m of then.
func Score(h Histogram, prior float64) float64 {
	if h.Count() == 0 {
		return 0
	}
	return (PriorWeight*prior + float64(h.sum())) / (PriorWeight + float64(h.Count()))
}

// MaxDrift is how far a score may be from what it would be today before a rebuild
// computes it anew.
const MaxDrift = 0.05

// Rating is how the published reviews of a book rate it.
type Rating struct {
	BookID    uuid.UUID
	Histogram Histogram
	Score     float64 // of Score
	Version   int64   // grows with each change; 0 when there was never a review
	Told      int64   // the last version that the catalogue is known to have
}

const ratingColumns = `book_id, n1, n2, n3, n4, n5, score, version, told_version`

func scanRating(row pgx.CollectableRow) (Rating, error) {
	var r Rating
	h := &r.Histogram
	err := row.Scan(&r.BookID, &h[0], &h[1], &h[2], &h[3], &h[4], &r.Score, &r.Version, &r.Told)
	return r, err
}

// Rating returns a book's rating, an empty one when it was never reviewed.
func (s *Store) Rating(ctx context.Context, book uuid.UUID) (Rating, error) {
	rows, err := s.db.Query(ctx, `select `+ratingColumns+` from book_rating where book_id = $1`, book)
	if err != nil {
		return Rating{}, fmt.Errorf("read rating: %w", err)
	}
	rating, err := pgx.CollectExactlyOneRow(rows, scanRating)
	if errors.Is(err, pgx.ErrNoRows) {
		return Rating{BookID: book}, nil
	}
	return rating, wrap("read rating", err)
}

// Ratings returns up to limit ratings of books after the given one, by id, that
// were reviewed at some time.
func (s *Store) Ratings(ctx context.Context, after uuid.UUID, limit int) ([]Rating, error) {
	rows, err := s.db.Query(ctx, `
		select `+ratingColumns+` from book_rating where book_id > $1 and version > 0 order by book_id limit $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list ratings: %w", err)
	}
	ratings, err := pgx.CollectRows(rows, scanRating)
	return ratings, wrap("list ratings", err)
}

// Told notes that the catalogue has a version of a book's rating.
func (s *Store) Told(ctx context.Context, book uuid.UUID, version int64) error {
	_, err := s.db.Exec(ctx, `update book_rating set told_version = greatest(told_version, $2) where book_id = $1`, book, version)
	return wrap("note what the catalogue has", err)
}

// count and uncount change the rating of a review's book in the transaction that
// publishes or hides it.
func count(ctx context.Context, tx pgx.Tx, r Review) error { return add(ctx, tx, r.BookID, r.Stars, 1) }

func uncount(ctx context.Context, tx pgx.Tx, r Review) error {
	if err := add(ctx, tx, r.BookID, r.Stars, -1); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `delete from summary where book_id = $1 and $2 = any (source_ids)`, r.BookID, r.ID)
	return err
}

func add(ctx context.Context, tx pgx.Tx, book uuid.UUID, stars int32, n int) error {
	var change [5]int
	change[stars-1] = n
	if _, err := tx.Exec(ctx, `insert into book_rating (book_id) values ($1) on conflict do nothing`, book); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `
		update book_rating set n1 = n1 + $2, n2 = n2 + $3, n3 = n3 + $4, n4 = n4 + $5, n5 = n5 + $6, version = version + 1
		where book_id = $1
		returning `+ratingColumns, book, change[0], change[1], change[2], change[3], change[4])
	if err != nil {
		return err
	}
	rating, err := pgx.CollectExactlyOneRow(rows, scanRating)
	if err != nil {
		return err
	}
	m, err := prior(ctx, tx)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `update book_rating set score = $2 where book_id = $1`, book, Score(rating.Histogram, m))
	return err
}

// prior returns m. It adds up all books' ratings; with 100,000 of them that takes
// PostgreSQL some 10 ms.
func prior(ctx context.Context, tx pgx.Tx) (m float64, err error) {
	err = tx.QueryRow(ctx, `
		select coalesce(sum(n1 + 2*n2 + 3*n3 + 4*n4 + 5*n5)::float8 / nullif(sum(n1 + n2 + n3 + n4 + n5), 0), $1)
		from book_rating`, DefaultPrior).Scan(&m)
	return m, err
}

// Recount is what counting anew has found.
type Recount struct {
	Last     uuid.UUID // the last book that was counted
	Books    int       // how many were; none at the end
	Mended   int       // those whose rating was not what their reviews say
	Rescored int       // those whose score had drifted
}

// Recount counts the published reviews of up to limit books after the given one,
// by id, and mends ratings that differ. It may run beside any change of reviews.
func (s *Store) Recount(ctx context.Context, after uuid.UUID, limit int) (found Recount, err error) {
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		found = Recount{Last: after}
		rows, err := tx.Query(ctx, `
			(select book_id from book_rating where book_id > $1 order by book_id limit $2)
			union (select distinct book_id from review where book_id > $1 and status = 'PUBLISHED' order by book_id limit $2)
			order by book_id limit $2`, after, limit)
		if err != nil {
			return err
		}
		books, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil || len(books) == 0 {
			return err
		}
		found.Last, found.Books = books[len(books)-1], len(books)
		return recount(ctx, tx, books, &found)
	})
	return found, wrap("count reviews anew", err)
}

func recount(ctx context.Context, tx pgx.Tx, books []uuid.UUID, found *Recount) error {
	// In the order of the ids, as a second recount would.
	_, err := tx.Exec(ctx, `
		insert into book_rating (book_id) select id from unnest($1::uuid[]) as book (id) order by id on conflict do nothing`, books)
	if err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `
		select `+ratingColumns+` from book_rating where book_id = any ($1) order by book_id for update`, books)
	if err != nil {
		return err
	}
	stored, err := pgx.CollectRows(rows, scanRating)
	if err != nil {
		return err
	}
	// The count begins when the ratings are locked: what changes a review and is not
	// through yet waits for its rating, and is in neither number.
	counted := make(map[uuid.UUID]Histogram)
	rows, err = tx.Query(ctx, `
		select book_id, stars, count(*) from review
		where book_id = any ($1) and status = 'PUBLISHED' group by book_id, stars`, books)
	if err != nil {
		return err
	}
	var book uuid.UUID
	var stars, n int32
	_, err = pgx.ForEachRow(rows, []any{&book, &stars, &n}, func() error {
		h := counted[book]
		h[stars-1] = n
		counted[book] = h
		return nil
	})
	if err != nil {
		return err
	}
	mended := make(map[uuid.UUID]bool)
	var mend pgx.Batch
	for _, r := range stored {
		if h := counted[r.BookID]; h != r.Histogram {
			mended[r.BookID] = true
			mend.Queue(`update book_rating set n1 = $2, n2 = $3, n3 = $4, n4 = $5, n5 = $6 where book_id = $1`,
				r.BookID, h[0], h[1], h[2], h[3], h[4])
		}
	}
	if err := tx.SendBatch(ctx, &mend).Close(); err != nil {
		return err
	}
	found.Mended = len(mended)
	// The shop's mean comes after, or it would rest on what was wrong.
	m, err := prior(ctx, tx)
	if err != nil {
		return err
	}
	var rescore pgx.Batch
	for _, r := range stored {
		score := Score(counted[r.BookID], m)
		if !mended[r.BookID] {
			if math.Abs(score-r.Score) <= MaxDrift {
				continue
			}
			found.Rescored++
		}
		rescore.Queue(`update book_rating set score = $2, version = version + 1 where book_id = $1`, r.BookID, score)
	}
	return tx.SendBatch(ctx, &rescore).Close()
}

// Outdo gives a book's rating a version above the given one, with which the
// catalogue holds something else, and returns the rating.
func (s *Store) Outdo(ctx context.Context, book uuid.UUID, version int64) (Rating, error) {
	rows, err := s.db.Query(ctx, `
		insert into book_rating (book_id, version) values ($1, $2 + 1)
		on conflict (book_id) do update set version = greatest(book_rating.version, $2) + 1
		returning `+ratingColumns, book, version)
	if err != nil {
		return Rating{}, fmt.Errorf("outdo the catalogue's rating: %w", err)
	}
	rating, err := pgx.CollectExactlyOneRow(rows, scanRating)
	return rating, wrap("outdo the catalogue's rating", err)
}
