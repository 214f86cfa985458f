package rating

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/page"
)

// Sort is the order of a list of reviews.
type Sort string

// The orders of a list. Reviews that are equal in it come the newest first.
const (
	SortHelpful    Sort = "helpful" // found helpful by most
	SortNewest     Sort = "newest"
	SortRatingDesc Sort = "rating_desc" // most stars first
	SortRatingAsc  Sort = "rating_asc"  // fewest stars first
)

// sorts are the first columns of the orders, all descending. Each has its index.
var sorts = map[Sort]struct {
	column string
	key    func(Review) int32
}{
	SortHelpful:    {"helpful_count", func(r Review) int32 { return r.Helpful }},
	SortNewest:     {"0", func(Review) int32 { return 0 }},
	SortRatingDesc: {"stars", func(r Review) int32 { return r.Stars }},
	SortRatingAsc:  {"(-stars)", func(r Review) int32 { return -r.Stars }},
}

// List returns up to size published reviews of a book, with the given stars if not
// 0, and the token of the next page, empty on the last one. The token is that of
// the page before, of the same book, order and stars, or empty. A review that is
// published, edited or voted on while somebody reads on may be missed or seen
// twice; no other is. Errors: PAGE_TOKEN_INVALID.
func (s *Store) List(ctx context.Context, book uuid.UUID, sort Sort, stars int32, size int, token string) ([]Review, string, error) {
	const list = "rating.reviews"
	filters := []any{book, sort, stars}
	order := sorts[sort]
	where, args := `book_id = $1 and status = 'PUBLISHED' and ($2 = 0 or stars = $2)`, []any{book, stars, size + 1}
	if token != "" {
		var key int32
		var created time.Time
		var id uuid.UUID
		if err := page.Decode(token, list, filters, &key, &created, &id); err != nil {
			return nil, "", err
		}
		where += ` and (` + order.column + `, created_at, id) < ($4, $5, $6)`
		args = append(args, key, created, id)
	}
	by := order.column + ` desc, created_at desc, id desc`
	if sort == SortNewest { // a constant is no order
		by = `created_at desc, id desc`
	}
	// One more than the page shows whether there is a next one.
	rows, err := s.db.Query(ctx, `select `+reviewColumns+` from review where `+where+` order by `+by+` limit $3`, args...)
	if err != nil {
		return nil, "", fmt.Errorf("list reviews: %w", err)
	}
	reviews, err := pgx.CollectRows(rows, scanReview)
	if err != nil {
		return nil, "", fmt.Errorf("list reviews: %w", err)
	}
	if len(reviews) <= size {
		return reviews, "", nil
	}
	reviews = reviews[:size]
	last := reviews[size-1]
	next, err := page.Encode(list, filters, order.key(last), last.CreatedAt, last.ID)
	return reviews, next, err
}

// Queue returns up to size reviews that wait for an operator, the one that waits
// longest first, and the token of the next page, as List does. Errors:
// PAGE_TOKEN_INVALID.
func (s *Store) Queue(ctx context.Context, size int, token string) ([]Review, string, error) {
	const list = "rating.queue"
	query, args := `select `+reviewColumns+`, status_at from review where status = 'IN_QUEUE'`, []any{size + 1}
	if token != "" {
		var since time.Time
		var id uuid.UUID
		if err := page.Decode(token, list, nil, &since, &id); err != nil {
			return nil, "", err
		}
		query += ` and (status_at, id) > ($2, $3)`
		args = append(args, since, id)
	}
	rows, err := s.db.Query(ctx, query+` order by status_at, id limit $1`, args...)
	if err != nil {
		return nil, "", fmt.Errorf("list moderation queue: %w", err)
	}
	var since []time.Time
	reviews, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Review, error) {
		var at time.Time
		r, err := scanReview(also{row, &at})
		since = append(since, at)
		return r, err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list moderation queue: %w", err)
	}
	if len(reviews) <= size {
		return reviews, "", nil
	}
	next, err := page.Encode(list, nil, since[size-1].UTC(), reviews[size-1].ID)
	return reviews[:size], next, err
}

// also is a row with one more column than its reader asks for.
type also struct {
	pgx.CollectableRow

	last any
}

// Scan reads the last column too.
func (r also) Scan(dest ...any) error { return r.CollectableRow.Scan(append(dest, r.last)...) }

// Stars is how somebody rated a book.
type Stars struct {
	BookID uuid.UUID
	Stars  int32
}

// StarsBy returns how a shopper rated books, the latest first, at most limit.
// What moderation says of the words does not matter for it.
func (s *Store) StarsBy(ctx context.Context, subject string, limit int) ([]Stars, error) {
	rows, err := s.db.Query(ctx, `
		select book_id, stars from review where subject = $1 order by updated_at desc, id desc limit $2`, subject, limit)
	if err != nil {
		return nil, fmt.Errorf("list a shopper's stars: %w", err)
	}
	stars, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Stars])
	return stars, wrap("list a shopper's stars", err)
}
