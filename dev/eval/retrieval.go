package eval

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/dev/qdrant"
	"bookworm/internal/catalog"
	"bookworm/internal/catalog/seed"
	"bookworm/internal/llm"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/cluster"
	"bookworm/internal/vector"
)

// Leg is a way of searching, alone or all together, as the table names it.
type Leg string

// The legs, in the order of the table.
const (
	Lexical Leg = "lexical"
	Sparse  Leg = "sparse"
	Dense   Leg = "dense"
	Hybrid  Leg = "hybrid"
)

// Legs are all of them.
var Legs = []Leg{Lexical, Sparse, Dense, Hybrid}

var catalogLegs = map[Leg]catalog.Leg{Lexical: catalog.Lexical, Sparse: catalog.Sparse, Dense: catalog.Dense, Hybrid: catalog.Hybrid}

// Answer is what one leg found for one query.
type Answer struct {
	Query  Query
	Ranked []string // ISBNs, the best first
	Measures
}

// library is a catalogue with its index and nothing else of the shop.
type library struct {
	cluster  *cluster.Cluster
	qdrant   *qdrant.Server
	pool     *pgxpool.Pool
	vectors  *vector.Client
	searcher *catalog.Searcher
}

// openLibrary runs PostgreSQL and the stand-in for Qdrant in a folder, loads the
// seed catalogue and indexes it with the endpoint's embedding model.
func openLibrary(ctx context.Context, dir string, e Endpoint, logger *slog.Logger) (*library, error) {
	l := &library{}
	if err := l.open(ctx, dir, e, logger); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *library) open(ctx context.Context, dir string, e Endpoint, logger *slog.Logger) (err error) {
	if l.cluster, err = cluster.Start(ctx, cluster.Options{DataDir: filepath.Join(dir, "postgres"), Fast: true}); err != nil {
		return fmt.Errorf("start postgresql: %w", err)
	}
	if l.qdrant, err = qdrant.Start(ctx, qdrant.Options{DataDir: filepath.Join(dir, "qdrant"), Logger: logger}); err != nil {
		return fmt.Errorf("start qdrant: %w", err)
	}
	if err := postgres.Migrate(ctx, l.cluster.URL(), catalog.Schema); err != nil {
		return fmt.Errorf("migrate the catalogue: %w", err)
	}
	if l.pool, err = postgres.Open(ctx, l.cluster.URL(), catalog.Schema.Name); err != nil {
		return fmt.Errorf("open the catalogue: %w", err)
	}
	if l.vectors, err = vector.Open(vector.Config{Address: l.qdrant.Address()}); err != nil {
		return err
	}
	embedder, err := llm.New(llm.Config{
		BaseURL: e.BaseURL, APIKey: e.APIKey, EmbeddingModel: e.EmbeddingModel, Dimension: e.Dimension, Logger: logger,
	})
	if err != nil {
		return err
	}
	store := catalog.NewStore(l.pool)
	books, err := seed.Books()
	if err != nil {
		return err
	}
	if _, err := store.Seed(ctx, books); err != nil {
		return err
	}
	indexer := &catalog.Indexer{Store: store, Vectors: l.vectors, Embedder: embedder, Dimension: e.Dimension, Logger: logger}
	if err := build(ctx, indexer); err != nil {
		return err
	}
	l.searcher, err = catalog.NewSearcher(store, l.vectors, embedder, logger)
	return err
}

// indexPatience is how long an endpoint may take for all books; a local model on a
// processor takes minutes.
const indexPatience = 15 * time.Minute

func build(ctx context.Context, x *catalog.Indexer) error {
	collection, _, err := x.BeginRebuild(ctx, "eval", func() {})
	if err != nil {
		return err
	}
	left, err := x.FillIndex(ctx, collection, time.Now().Add(indexPatience), func(int) {})
	if err != nil {
		return err
	}
	if left > 0 {
		return fmt.Errorf("%d books were not indexed in %s", left, indexPatience)
	}
	return x.SwitchIndex(ctx, collection)
}

func (l *library) close() error {
	var errs []error
	if l.vectors != nil {
		errs = append(errs, l.vectors.Close())
	}
	if l.pool != nil {
		l.pool.Close()
	}
	if l.qdrant != nil {
		l.qdrant.Stop()
	}
	if l.cluster != nil {
		errs = append(errs, l.cluster.Stop())
	}
	return errors.Join(errs...)
}

// answers runs every query that has an answer through every leg.
func (l *library) answers(ctx context.Context, queries []Query) (map[Leg][]Answer, error) {
	answers := make(map[Leg][]Answer)
	for _, q := range queries {
		if q.Stratum == Unanswerable {
			continue
		}
		for _, leg := range Legs {
			ranked, err := l.search(ctx, q, leg)
			if err != nil {
				return nil, fmt.Errorf("search %s for %s: %w", leg, q.ID, err)
			}
			answers[leg] = append(answers[leg], Answer{q, ranked, Measure(ranked, q.Relevant)})
		}
	}
	return answers, nil
}

// attempts is how often a query is asked of an index or a model that does not
// answer in time: here the ranking counts, not the time it takes.
const attempts = 4

func (l *library) search(ctx context.Context, q Query, leg Leg) ([]string, error) {
	query := catalog.Query{Text: q.Text, Size: Depth, Leg: catalogLegs[leg], Filter: catalog.Filter{
		Category: q.Filter.Category, Author: q.Filter.Author, Language: q.Filter.Language,
		MinPrice: q.Filter.MinPriceMinor, MaxPrice: q.Filter.MaxPriceMinor, InStock: q.Filter.InStock,
	}}
	var failed error
	for range attempts {
		hits, mode, err := l.searcher.Search(ctx, query)
		switch {
		case err != nil:
			failed = err
		case mode == catalog.ModeLexical:
			failed = errors.New("it was answered by words alone")
		default:
			ranked := make([]string, len(hits))
			for i, hit := range hits {
				ranked[i] = hit.Book.ISBN13
			}
			return ranked, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}
