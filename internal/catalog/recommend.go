package catalog

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/vector"
)

// Similar returns up to size books on sale that are like a book, the nearest first,
// none of them an edition of the book itself. Errors: BOOK_NOT_FOUND.
func (s *Searcher) Similar(ctx context.Context, id uuid.UUID, size int) ([]Book, Mode, error) {
	book, err := s.store.Get(ctx, id)
	if err != nil {
		return nil, "", err
	}
	rankings, mode, err := s.like(ctx, []Book{book}, []string{work(book)})
	if err != nil {
		return nil, "", err
	}
	hits, err := s.hits(ctx, nil, rankings[0], Query{Size: size}, work(book))
	if err != nil {
		return nil, "", err
	}
	books := make([]Book, len(hits))
	for i, hit := range hits {
		books[i] = hit.Book
	}
	return books, mode, nil
}

// like ranks, for each of the books, what is like it, without editions of the works
// given. Without the index, what shares authors and categories is.
func (s *Searcher) like(ctx context.Context, books []Book, except []string) ([][]uuid.UUID, Mode, error) {
	rankings, err := s.neighbours(ctx, books, except)
	if mode := s.mode(ctx, err); mode == ModeHybrid {
		return rankings, mode, nil
	}
	rankings = make([][]uuid.UUID, len(books))
	for i, b := range books {
		related, err := s.store.related(ctx, b, legDepth)
		if err != nil {
			return nil, "", err
		}
		for _, r := range related {
			rankings[i] = append(rankings[i], r.ID)
		}
	}
	return rankings, ModeLexical, nil
}

// neighbours asks the index for what is near to each of the books, in meaning and in
// words. A book that is not in it has none.
func (s *Searcher) neighbours(ctx context.Context, books []Book, except []string) ([][]uuid.UUID, error) {
	ids := make([]uuid.UUID, len(books))
	for i, b := range books {
		ids[i] = b.ID
	}
	reading, cancel := context.WithTimeout(ctx, indexTimeout)
	defer cancel()
	points, err := s.vectors.Vectors(reading, Alias, ids)
	if err != nil {
		return nil, fmt.Errorf("read vectors: %w", err)
	}
	filter := indexFilter(Filter{})
	if len(except) > 0 {
		filter.MustNot = append(filter.MustNot, vector.Keyword(fieldWork, except...))
	}
	rankings := make([][]uuid.UUID, len(books))
	for i, id := range ids {
		at := slices.IndexFunc(points, func(p vector.Point) bool { return p.ID == id })
		if at < 0 {
			continue
		}
		rankings[i], err = s.near(ctx, vector.Query{
			Collection: Alias, Dense: points[at].Dense, Sparse: points[at].Sparse, Filter: filter, Limit: legDepth,
		})
		if err != nil {
			return nil, err
		}
	}
	return rankings, nil
}

// related returns books on sale that share authors or categories with a book, those
// that share most first.
func (s *Store) related(ctx context.Context, b Book, limit int) ([]Book, error) {
	rows, err := s.db.Query(ctx, `
		SELECT `+bookColumns+`
		FROM `+bookTables+`,
			LATERAL (SELECT count(*) AS n FROM unnest(b.author_keys) AS key WHERE key = ANY ($2)) AS authors,
			LATERAL (SELECT count(*) AS n FROM unnest(b.categories) AS slug WHERE slug = ANY ($3)) AS categories
		WHERE b.archived_at IS NULL AND b.id <> $1 AND (b.author_keys && $2 OR b.categories && $3)
		ORDER BY 3 * authors.n + categories.n DESC, coalesce(r.score, 0) DESC, b.id
		LIMIT $4`, b.ID, authorKeys(b.Authors), b.Categories, limit)
	if err != nil {
		return nil, fmt.Errorf("list related books: %w", err)
	}
	books, err := pgx.CollectRows(rows, scanBook)
	if err != nil {
		return nil, fmt.Errorf("list related books: %w", err)
	}
	return books, nil
}

// Taste is what is known of a shopper.
type Taste struct {
	Liked    []uuid.UUID // books, what matters most first
	Disliked []uuid.UUID
	Owned    []uuid.UUID // books not to recommend, in whatever edition
}

// Recommendation is a book for somebody.
type Recommendation struct {
	Book    Book
	Because uuid.UUID // the liked book that it is like; uuid.Nil for one that is there for its rating
}

// maxSeeds bounds how many liked, and how many disliked, books a recommendation
// looks around. Each one is a search.
const maxSeeds = 8

// Recommend returns up to size books on sale for a taste, the best guess first: those
// that are like what was liked, less so what was disliked, filled up with the best
// rated ones. None is an edition of a work that is owned, liked or disliked.
func (s *Searcher) Recommend(ctx context.Context, t Taste, size int) ([]Recommendation, Mode, error) {
	known, err := s.store.BatchGet(ctx, slices.Concat(t.Liked, t.Disliked, t.Owned))
	if err != nil {
		return nil, "", err
	}
	except := []string{}
	byID := make(map[uuid.UUID]Book, len(known))
	for _, b := range known {
		except = append(except, work(b))
		byID[b.ID] = b
	}
	var seeds []Book
	var weights []float64
	for _, side := range []struct {
		ids    []uuid.UUID
		weight float64
	}{{t.Liked, 1}, {t.Disliked, -1}} {
		for _, id := range first(side.ids, maxSeeds) {
			if b, ok := byID[id]; ok {
				seeds, weights = append(seeds, b), append(weights, side.weight)
			}
		}
	}
	var rankings [][]uuid.UUID
	mode := ModeHybrid
	if len(seeds) > 0 {
		if rankings, mode, err = s.like(ctx, seeds, except); err != nil {
			return nil, "", err
		}
	}
	hits, err := s.hits(ctx, nil, fuse(rankings, weights), Query{Size: size}, except...)
	if err != nil {
		return nil, "", err
	}
	recommended := make([]Recommendation, 0, size)
	for _, hit := range hits {
		recommended = append(recommended, Recommendation{hit.Book, because(hit.Book.ID, seeds, weights, rankings)})
	}
	if len(recommended) == size {
		return recommended, mode, nil
	}
	best, err := s.store.bestRated(ctx, size+len(known))
	if err != nil {
		return nil, "", err
	}
	for _, r := range recommended {
		except = append(except, work(r.Book))
	}
	for _, b := range best {
		if len(recommended) < size && !slices.Contains(except, work(b)) {
			recommended = append(recommended, Recommendation{Book: b})
			except = append(except, work(b))
		}
	}
	return recommended, mode, nil
}

// because returns the liked book in whose ranking a book is highest.
func because(id uuid.UUID, seeds []Book, weights []float64, rankings [][]uuid.UUID) uuid.UUID {
	best, why := legDepth+1, uuid.Nil
	for i, ranking := range rankings {
		if rank := slices.Index(ranking, id); weights[i] > 0 && rank >= 0 && rank < best {
			best, why = rank, seeds[i].ID
		}
	}
	return why
}

// bestRated returns books on sale, the best rated first and the newest where nobody
// has rated them.
func (s *Store) bestRated(ctx context.Context, limit int) ([]Book, error) {
	rows, err := s.db.Query(ctx, `
		SELECT `+bookColumns+` FROM `+bookTables+` WHERE b.archived_at IS NULL
		ORDER BY coalesce(r.score, 0) DESC, b.publication_year DESC, b.id LIMIT $1`, limit)
	if err != nil {
		return nil, fmt.Errorf("list the best rated books: %w", err)
	}
	books, err := pgx.CollectRows(rows, scanBook)
	if err != nil {
		return nil, fmt.Errorf("list the best rated books: %w", err)
	}
	return books, nil
}
