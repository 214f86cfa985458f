package catalog

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/page"
)

// Filter says which books a list holds. All that is set must match; the zero
// Filter matches every book on sale.
type Filter struct {
	Query    string // words that must occur in title, subtitle, authors or ISBN
	Category string // slug
	Author   string // full name; case, accents and punctuation do not matter
	Language string // BCP 47 tag; case does not matter
	MinPrice int64  // minor units, inclusive; 0 for none
	MaxPrice int64  // minor units, inclusive; 0 for none
	InStock  bool   // only books that can be ordered now
	// MinScore is the lowest Bayesian average, 1 to 5; 0 for any, also for books
	// without reviews.
	MinScore float64 `json:",omitempty"`
}

// Sort is the order of a list. Books that are equal in it are ordered by id.
type Sort string

// The orders of a list.
const (
	SortTitle     Sort = "title"      // A first, without case, accents and punctuation
	SortPriceAsc  Sort = "price_asc"  // cheapest first
	SortPriceDesc Sort = "price_desc" // dearest first
	SortNewest    Sort = "newest"     // latest publication first
)

const listName = "catalog.books"

// List returns up to size books that are on sale and match, and the token of
// the next page, empty on the last one. The token is that of the page before,
// of the same filter and sort, or empty. A book that is added or whose price
// changes while someone reads on may be missed or seen twice; no other is.
// Errors: PAGE_TOKEN_INVALID.
func (s *Store) List(ctx context.Context, f Filter, sort Sort, size int, token string) ([]Book, string, error) {
	var query query
	query.match(f)
	column, descending := sort.column()
	if token != "" {
		if err := query.startAfter(token, f, sort); err != nil {
			return nil, "", err
		}
	}
	direction := ""
	if descending {
		direction = " DESC"
	}
	// One more than the page shows whether there is a next one.
	rows, err := s.db.Query(ctx, `SELECT `+bookColumns+` FROM `+bookTables+`
		WHERE b.archived_at IS NULL`+query.where.String()+`
		ORDER BY `+column+direction+`, b.id`+direction+`
		LIMIT `+query.arg(size+1), query.args...)
	if err != nil {
		return nil, "", fmt.Errorf("list books: %w", err)
	}
	books, err := pgx.CollectRows(rows, scanBook)
	if err != nil {
		return nil, "", fmt.Errorf("list books: %w", err)
	}

	if len(books) <= size {
		return books, "", nil
	}
	books = books[:size]
	next, err := nextToken(books[size-1], f, sort)
	return books, next, err
}

func (s Sort) column() (name string, descending bool) {
	switch s {
	case SortPriceAsc:
		return "b.price_minor", false
	case SortPriceDesc:
		return "b.price_minor", true
	case SortNewest:
		return "b.publication_year", true
	case SortTitle:
	}
	return "b.title_key", false
}

// filters are what a token of the list is bound to.
func filters(f Filter, sort Sort) any { return []any{f, sort} }

// nextToken returns the token of the page after a book.
func nextToken(last Book, f Filter, sort Sort) (string, error) {
	var key any = titleKey(last.Title)
	switch sort {
	case SortPriceAsc, SortPriceDesc:
		key = last.Price.Minor
	case SortNewest:
		key = last.Year
	case SortTitle:
	}
	return page.Encode(listName, filters(f, sort), key, last.ID)
}

// query is a WHERE clause in the making. Only what is asked for is in it, so
// that PostgreSQL plans for that.
type query struct {
	where strings.Builder
	args  []any
}

func (q *query) arg(value any) string {
	q.args = append(q.args, value)
	return fmt.Sprintf("$%d", len(q.args))
}

// and adds a condition with one argument, which takes the place of the ?.
func (q *query) and(condition string, value any) {
	q.where.WriteString(" AND " + strings.Replace(condition, "?", q.arg(value), 1))
}

func (q *query) match(f Filter) {
	if words := searchWords(f.Query); words != "" {
		q.and(`b.search @@ plainto_tsquery('simple', ?)`, words)
	}
	if f.Category != "" {
		q.and(`b.categories @> ARRAY[?::text]`, f.Category)
	}
	if f.Author != "" {
		q.and(`b.author_keys @> ARRAY[?::text]`, fold(f.Author))
	}
	if f.Language != "" {
		q.and(`lower(b.language) = lower(?)`, f.Language)
	}
	if f.MinPrice > 0 {
		q.and(`b.price_minor >= ?`, f.MinPrice)
	}
	if f.MaxPrice > 0 {
		q.and(`b.price_minor <= ?`, f.MaxPrice)
	}
	if f.InStock {
		q.where.WriteString(` AND s.on_hand > s.reserved`)
	}
	if f.MinScore > 0 {
		q.and(`r.score >= ?`, f.MinScore)
	}
}

// startAfter adds the condition that a row comes after the token's.
func (q *query) startAfter(token string, f Filter, sort Sort) error {
	var (
		title string
		price int64
		year  int32
		id    uuid.UUID
		key   any = &title
	)
	switch sort {
	case SortPriceAsc, SortPriceDesc:
		key = &price
	case SortNewest:
		key = &year
	case SortTitle:
	}
	if err := page.Decode(token, listName, filters(f, sort), key, &id); err != nil {
		return err
	}
	column, descending := sort.column()
	comparison := ">"
	if descending {
		comparison = "<"
	}
	fmt.Fprintf(&q.where, " AND (%s, b.id) %s (%s, %s)", column, comparison, q.arg(key), q.arg(id))
	return nil
}
