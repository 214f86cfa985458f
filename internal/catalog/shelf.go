package catalog

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"bookworm/internal/page"
)

// Category is a kind of book.
type Category struct {
	Slug  string
	Books int32 // on sale
}

// Categories returns the categories of the books on sale, by slug.
func (s *Store) Categories(ctx context.Context) ([]Category, error) {
	rows, err := s.db.Query(ctx, `
		SELECT slug, count(*)::int FROM book b, unnest(b.categories) AS slug
		WHERE b.archived_at IS NULL GROUP BY slug ORDER BY slug COLLATE "C"`)
	if err != nil {
		return nil, fmt.Errorf("list categories: %w", err)
	}
	categories, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Category])
	if err != nil {
		return nil, fmt.Errorf("list categories: %w", err)
	}
	return categories, nil
}

// Author is somebody who wrote a book on sale.
type Author struct {
	Name  string
	Books int32 // on sale
}

const authorsName = "catalog.authors"

// Authors returns up to size authors of books on sale whose names have words that
// begin with each word of the query, all for an empty one; and the token of the
// next page, empty on the last one. They are ordered by name without case and
// accents. Spellings that differ in nothing else are one author.
// Errors: PAGE_TOKEN_INVALID.
func (s *Store) Authors(ctx context.Context, words string, size int, token string) ([]Author, string, error) {
	after := ""
	if token != "" {
		if err := page.Decode(token, authorsName, words, &after); err != nil {
			return nil, "", err
		}
	}
	// A folded word has no wildcard in it.
	patterns := []string{}
	for word := range strings.FieldsSeq(fold(words)) {
		patterns = append(patterns, "% "+word+"%")
	}
	rows, err := s.db.Query(ctx, `
		SELECT a.key, min(a.name), count(*)::int
		FROM book b, unnest(b.author_keys, b.authors) AS a (key, name)
		WHERE b.archived_at IS NULL AND a.key COLLATE "C" > $1 AND ' ' || a.key LIKE ALL ($2)
		GROUP BY a.key ORDER BY a.key COLLATE "C" LIMIT $3`, after, patterns, size+1)
	if err != nil {
		return nil, "", fmt.Errorf("list authors: %w", err)
	}
	type keyed struct {
		Key  string
		Name string
		N    int32
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[keyed])
	if err != nil {
		return nil, "", fmt.Errorf("list authors: %w", err)
	}
	next := ""
	if len(found) > size {
		found = found[:size]
		if next, err = page.Encode(authorsName, words, found[size-1].Key); err != nil {
			return nil, "", err
		}
	}
	authors := make([]Author, len(found))
	for i, f := range found {
		authors[i] = Author{f.Name, f.N}
	}
	return authors, next, nil
}
