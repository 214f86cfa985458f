package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/fault"
	"bookworm/internal/llm"
	"bookworm/internal/vector"
)

// Leg is one way of searching. The evaluation runs each one alone.
type Leg int

// The legs, and all of them together.
const (
	Hybrid  Leg = iota // all, fused, with exact titles and ISBNs first: what shoppers get
	Lexical            // PostgreSQL: weighted stems and trigrams
	Sparse             // the index: BM25
	Dense              // the index: the embedding model
)

// Query says what is looked for.
type Query struct {
	Text   string
	Filter Filter // its own Query is not used
	Size   int    // most hits to answer, at least 1
	// Leg is the only way to search, for the evaluation: what that one ranks, without
	// help from the others. Shoppers' searches leave it at Hybrid.
	Leg Leg
}

// Mode says which ways of searching answered.
type Mode string

// The modes.
const (
	ModeHybrid  Mode = "hybrid"
	ModeLexical Mode = "lexical" // words alone: the index or the embedding model is away
)

// Hit is a book that was found.
type Hit struct {
	Book  Book
	Exact bool // the query is this book's very title or ISBN
}

// MaxQuery is the longest query in characters.
const MaxQuery = 500

const (
	// indexTimeout bounds each call to the index and to the embedding model. What takes
	// longer is answered without.
	indexTimeout = 400 * time.Millisecond
	// legDepth is how many books each leg ranks: more than any answer holds, because a
	// book that is low in one leg may be high in another.
	legDepth = 100
	// rrfK is the constant of reciprocal rank fusion (Cormack, Clarke and Büttcher,
	// SIGIR 2009): a book's score is the sum of 1/(k + rank) over the legs.
	rrfK = 60
	// cachedQueries bounds the cache of embeddings of queries: at 1,536 dimensions it
	// takes 6 MB. Books do not change it.
	cachedQueries = 1000
	// indexTTL is how long the index in use is taken for known.
	indexTTL = 2 * time.Second
)

// Searcher finds books. It is safe for concurrent use.
type Searcher struct {
	store    *Store
	vectors  *vector.Client
	embedder *llm.Client
	logger   *slog.Logger

	embeddings *lru.Cache[string, []float32]
	degraded   atomic.Bool // so that the log says it once

	index struct {
		sync.Mutex

		name  string
		known time.Time
	}
}

// NewSearcher returns a searcher. Neither the index nor the embedding model needs to
// be reachable, then or later: words are always searched.
func NewSearcher(store *Store, vectors *vector.Client, embedder *llm.Client, logger *slog.Logger) (*Searcher, error) {
	embeddings, err := lru.New[string, []float32](cachedQueries)
	if err != nil {
		return nil, fmt.Errorf("make the cache of queries: %w", err)
	}
	return &Searcher{store: store, vectors: vectors, embedder: embedder, logger: logger, embeddings: embeddings}, nil
}

// Search returns the books on sale that fit the query and match its filter, best
// first, one for each work, and which ways of searching answered. The filter holds in
// every leg and for the rows that are answered, so that an index that is behind shows
// nothing that is archived or filtered out. Errors: INVALID_ARGUMENT, naming query;
// with a Leg of the index, also that it cannot be reached.
func (s *Searcher) Search(ctx context.Context, q Query) ([]Hit, Mode, error) {
	if err := checkQuery(q.Text); err != nil {
		return nil, "", err
	}
	if q.Leg != Hybrid {
		ids, err := s.leg(ctx, q.Leg, q)
		if err != nil {
			return nil, "", err
		}
		hits, err := s.hits(ctx, nil, ids, q)
		return hits, ModeHybrid, err
	}
	exact, isbn, err := s.store.exact(ctx, q.Text, q.Filter)
	if err != nil {
		return nil, "", err
	}
	if isbn { // there is no other book of that name
		return first(oneOfEachWork(exactHits(exact)), q.Size), ModeHybrid, nil
	}
	legs := []Leg{Lexical, Sparse, Dense}
	rankings, errs := make([][]uuid.UUID, len(legs)), make([]error, len(legs))
	var searching sync.WaitGroup
	for i, leg := range legs {
		searching.Go(func() { rankings[i], errs[i] = s.leg(ctx, leg, q) })
	}
	searching.Wait()
	if errs[0] != nil {
		return nil, "", errs[0]
	}
	mode := s.mode(ctx, errors.Join(errs[1:]...))
	hits, err := s.hits(ctx, exact, fuse(rankings, nil), q)
	return hits, mode, err
}

// checkQuery refuses a query that nothing can be looked for with.
func checkQuery(text string) error {
	var problem string
	switch {
	case utf8.RuneCountInString(text) > MaxQuery:
		problem = fmt.Sprintf("is longer than %d characters", MaxQuery)
	case !utf8.ValidString(text):
		problem = "is not UTF-8"
	case strings.ContainsFunc(text, func(r rune) bool { return unprintable(r) && r != '\r' }):
		problem = "has a control character"
	case fold(text) == "":
		problem = "has no letter or digit"
	default:
		return nil
	}
	return fault.New(fault.ReasonInvalidArgument, "The field query %s.", problem).WithField("query", problem)
}

func (s *Searcher) leg(ctx context.Context, leg Leg, q Query) ([]uuid.UUID, error) {
	switch leg {
	case Sparse:
		return s.sparse(ctx, q)
	case Dense:
		return s.dense(ctx, q)
	case Lexical, Hybrid:
	}
	return s.store.lexical(ctx, q.Text, q.Filter, legDepth)
}

func (s *Searcher) sparse(ctx context.Context, q Query) ([]uuid.UUID, error) {
	words := vector.BM25{}.Query(queryTokens(q.Text))
	if len(words.Indices) == 0 {
		return nil, nil // only stop words
	}
	return s.near(ctx, vector.Query{Collection: Alias, Sparse: words, Filter: indexFilter(q.Filter), Limit: legDepth})
}

func (s *Searcher) dense(ctx context.Context, q Query) ([]uuid.UUID, error) {
	if err := s.comparable(ctx); err != nil {
		return nil, err
	}
	embedding, err := s.embed(ctx, q.Text)
	if err != nil {
		return nil, err
	}
	return s.near(ctx, vector.Query{Collection: Alias, Dense: embedding, Filter: indexFilter(q.Filter), Limit: legDepth})
}

// near asks the index, and takes no longer than indexTimeout.
func (s *Searcher) near(ctx context.Context, q vector.Query) ([]uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, indexTimeout)
	defer cancel()
	found, err := s.vectors.Search(ctx, q)
	if err != nil {
		return nil, err
	}
	ids := make([]uuid.UUID, len(found))
	for i, hit := range found {
		ids[i] = hit.ID
	}
	return ids, nil
}

// indexFilter is a filter as the index knows it.
func indexFilter(f Filter) vector.Filter {
	filter := vector.Filter{MustNot: []vector.Condition{vector.IsTrue(fieldArchived)}}
	must := func(c vector.Condition) { filter.Must = append(filter.Must, c) }
	if f.Category != "" {
		must(vector.Keyword(fieldCategory, f.Category))
	}
	if f.Author != "" {
		must(vector.Keyword(fieldAuthor, fold(f.Author)))
	}
	if f.Language != "" {
		must(vector.Keyword(fieldLanguage, strings.ToLower(f.Language)))
	}
	if f.MinPrice > 0 {
		must(vector.AtLeast(fieldPrice, float64(f.MinPrice)))
	}
	if f.MaxPrice > 0 {
		must(vector.AtMost(fieldPrice, float64(f.MaxPrice)))
	}
	if f.InStock {
		must(vector.IsTrue(fieldInStock))
	}
	if f.MinScore > 0 {
		must(vector.AtLeast(fieldScore, f.MinScore))
	}
	return filter
}

// embed returns the vector of a query's text.
func (s *Searcher) embed(ctx context.Context, text string) ([]float32, error) {
	text = strings.Join(strings.Fields(text), " ")
	if embedding, ok := s.embeddings.Get(text); ok {
		return embedding, nil
	}
	ctx, cancel := context.WithTimeout(ctx, indexTimeout)
	defer cancel()
	embeddings, err := s.embedder.Embed(ctx, []string{text})
	if err != nil {
		return nil, fmt.Errorf("embed query: %w", err)
	}
	s.embeddings.Add(text, embeddings[0])
	return embeddings[0], nil
}

// comparable reports whether the index in use has the embedder's vectors: those of
// another model may be as long, and mean nothing to it.
func (s *Searcher) comparable(ctx context.Context) error {
	s.index.Lock()
	name, fresh := s.index.name, time.Since(s.index.known) < indexTTL
	s.index.Unlock()
	if !fresh {
		ctx, cancel := context.WithTimeout(ctx, indexTimeout)
		defer cancel()
		var err error
		if name, err = s.vectors.Alias(ctx, Alias); err != nil {
			return err
		}
		s.index.Lock()
		s.index.name, s.index.known = name, time.Now()
		s.index.Unlock()
	}
	if !strings.HasPrefix(name, collectionPrefix(s.embedder.EmbeddingName())) {
		return fmt.Errorf("%w: %s is not of the embedding %s", ErrRebuild, name, s.embedder.EmbeddingName())
	}
	return nil
}

// mode says how a search was answered, given what went wrong in the index's legs.
func (s *Searcher) mode(ctx context.Context, err error) Mode {
	switch {
	case err == nil:
		if s.degraded.Swap(false) {
			s.logger.InfoContext(ctx, "searches use the index again")
		}
		return ModeHybrid
	case ctx.Err() == nil && !s.degraded.Swap(true):
		s.logger.WarnContext(ctx, "searches are answered by words alone", "error", err)
	}
	return ModeLexical
}

// fuse merges rankings into one by reciprocal rank fusion; books of the same score
// are ordered by id, those of none or less are left out. Each ranking counts by its
// weight, 1 where there are none.
func fuse(rankings [][]uuid.UUID, weights []float64) []uuid.UUID {
	scores := make(map[uuid.UUID]float64)
	var ids []uuid.UUID
	for i, ranking := range rankings {
		weight := 1.0
		if weights != nil {
			weight = weights[i]
		}
		for rank, id := range ranking {
			if _, seen := scores[id]; !seen {
				ids = append(ids, id)
			}
			scores[id] += weight / float64(rrfK+rank+1)
		}
	}
	ids = slices.DeleteFunc(ids, func(id uuid.UUID) bool { return scores[id] <= 0 })
	slices.SortFunc(ids, func(a, b uuid.UUID) int {
		return cmp.Or(cmp.Compare(scores[b], scores[a]), slices.Compare(a[:], b[:]))
	})
	return ids
}

// hits reads the ranked books, the exact ones first, as far as they are on sale,
// match the filter and are no editions of the works in except.
func (s *Searcher) hits(ctx context.Context, exact []Book, ranked []uuid.UUID, q Query, except ...string) ([]Hit, error) {
	hits := oneOfEachWork(exactHits(exact))
	// Mostly the first chunk will do: few are second editions, or stale.
	for chunk := range slices.Chunk(ranked, q.Size+5) {
		if len(hits) >= q.Size {
			break
		}
		books, err := s.store.onSale(ctx, chunk, q.Filter)
		if err != nil {
			return nil, err
		}
		for _, b := range books {
			hits = append(hits, Hit{Book: b})
		}
		hits = oneOfEachWork(hits, except...)
	}
	return first(hits, q.Size), nil
}

func exactHits(books []Book) []Hit {
	hits := make([]Hit, len(books))
	for i, b := range books {
		hits[i] = Hit{Book: b, Exact: true}
	}
	return hits
}

// onSale returns the books of the ids that are on sale and match the filter, in the
// order of the ids.
func (s *Store) onSale(ctx context.Context, ids []uuid.UUID, f Filter) ([]Book, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	q := query{args: []any{ids}}
	q.match(f)
	rows, err := s.db.Query(ctx, `
		SELECT `+bookColumns+`
		FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (id, place)
		JOIN book b ON b.id = wanted.id JOIN stock s ON s.book_id = b.id LEFT JOIN book_rating r ON r.book_id = b.id
		WHERE b.archived_at IS NULL`+q.where.String()+`
		ORDER BY wanted.place`, q.args...)
	if err != nil {
		return nil, fmt.Errorf("read found books: %w", err)
	}
	books, err := pgx.CollectRows(rows, scanBook)
	if err != nil {
		return nil, fmt.Errorf("read found books: %w", err)
	}
	return books, nil
}

// oneOfEachWork keeps the first edition of each work, and none of those in except.
func oneOfEachWork(hits []Hit, except ...string) []Hit {
	seen := make(map[string]bool, len(hits)+len(except))
	for _, key := range except {
		seen[key] = true
	}
	return slices.DeleteFunc(hits, func(h Hit) bool {
		key := work(h.Book)
		defer func() { seen[key] = true }()
		return seen[key]
	})
}

func first[T any](all []T, n int) []T { return all[:min(n, len(all))] }
