package vector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/qdrant/go-client/qdrant"
)

// Filter narrows a search to the points for which every condition of Must holds
// and none of MustNot. The zero Filter holds for all.
type Filter struct {
	Must    []Condition
	MustNot []Condition
}

// Condition is one test of a point's payload or id. A payload field that holds a
// list passes when one of its elements does; one that is missing does not pass.
type Condition struct {
	condition *qdrant.Condition
}

// Keyword holds when the field is one of the values.
func Keyword(key string, values ...string) Condition {
	return Condition{qdrant.NewMatchKeywords(key, values...)}
}

// AtLeast holds when the field is a number of at least least.
func AtLeast(key string, least float64) Condition {
	return Condition{qdrant.NewRange(key, &qdrant.Range{Gte: &least})}
}

// AtMost holds when the field is a number of at most most.
func AtMost(key string, most float64) Condition {
	return Condition{qdrant.NewRange(key, &qdrant.Range{Lte: &most})}
}

// IsTrue holds when the field is true.
func IsTrue(key string) Condition { return Condition{qdrant.NewMatchBool(key, true)} }

// HasID holds when the point is one of these.
func HasID(ids ...uuid.UUID) Condition { return Condition{qdrant.NewHasID(toIDs(ids)...)} }

func (f Filter) toQdrant() *qdrant.Filter {
	if len(f.Must) == 0 && len(f.MustNot) == 0 {
		return nil
	}
	filter := &qdrant.Filter{}
	for _, c := range f.Must {
		filter.Must = append(filter.Must, c.condition)
	}
	for _, c := range f.MustNot {
		filter.MustNot = append(filter.MustNot, c.condition)
	}
	return filter
}

// Query asks a collection, or an alias, for the points nearest to a vector.
type Query struct {
	Collection string
	Dense      []float32 // empty: by words only
	Sparse     Sparse    // empty: by meaning only
	Filter     Filter
	Limit      int // at least 1
}

// Hit is a point that was found, with its score: the cosine for a dense query, BM25
// for a sparse one, the fused ranks for both. Only scores of one search compare.
type Hit struct {
	ID    uuid.UUID
	Score float32
}

const (
	// rrfK is the constant of reciprocal rank fusion, 60 in Cormack, Clarke and
	// Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank
	// Learning Methods" (SIGIR 2009). Qdrant counts ranks from 0, the paper from 1.
	rrfK = 61
	// minPrefetch is how deep each leg of a fused search goes at least: a point
	// gains from its rank in the other leg even where that is low.
	minPrefetch = 100
)

// Search returns the best hits, best first and by id where scores are equal. A
// query with both vectors fuses the ranks of two searches, by meaning and by
// words. Errors: ErrNoCollection, ErrDimension, ErrVector; a query without any
// vector is one of them too.
func (c *Client) Search(ctx context.Context, q Query) ([]Hit, error) {
	operation := "search " + q.Collection
	request, err := q.toQdrant()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	found, err := c.qdrant.Query(ctx, request)
	if err != nil {
		return nil, translate(operation, err)
	}
	hits := make([]Hit, len(found))
	for i, f := range found {
		id, err := fromID(f.GetId())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", operation, err)
		}
		hits[i] = Hit{ID: id, Score: f.GetScore()}
	}
	slices.SortFunc(hits, func(a, b Hit) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), compareIDs(a.ID, b.ID))
	})
	return hits, nil
}

func (q Query) toQdrant() (*qdrant.QueryPoints, error) {
	if q.Limit < 1 {
		return nil, fmt.Errorf("a limit of %d", q.Limit)
	}
	if len(q.Dense) > 0 {
		if err := checkDense(q.Dense); err != nil {
			return nil, err
		}
	}
	if err := checkSparse(q.Sparse); err != nil {
		return nil, err
	}
	limit := uint64(q.Limit)
	dense := func() *qdrant.Query { return qdrant.NewQueryDense(q.Dense) }
	sparse := func() *qdrant.Query { return qdrant.NewQuerySparse(q.Sparse.Indices, q.Sparse.Values) }
	request := &qdrant.QueryPoints{
		CollectionName: q.Collection, Limit: &limit, Filter: q.Filter.toQdrant(),
		WithPayload: qdrant.NewWithPayload(false), WithVectors: qdrant.NewWithVectors(false),
	}
	switch {
	case len(q.Dense) > 0 && len(q.Sparse.Indices) > 0:
		deep := max(limit, minPrefetch)
		request.Query = qdrant.NewQueryRRF(&qdrant.Rrf{K: new(uint32(rrfK))})
		// In each leg, or one that is full of what the filter drops finds too little.
		// Qdrant passes the outer filter on only since 1.10 (qdrant/qdrant#4427).
		request.Prefetch = []*qdrant.PrefetchQuery{
			{Query: dense(), Using: new(denseName), Filter: q.Filter.toQdrant(), Limit: &deep},
			{Query: sparse(), Using: new(sparseName), Filter: q.Filter.toQdrant(), Limit: &deep},
		}
	case len(q.Dense) > 0:
		request.Query, request.Using = dense(), new(denseName)
	case len(q.Sparse.Indices) > 0:
		request.Query, request.Using = sparse(), new(sparseName)
	default:
		return nil, fmt.Errorf("%w: %w", ErrVector, errors.New("the query has none"))
	}
	return request, nil
}
