package qdrant

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"github.com/viterin/vek/vek32"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// hit is a point that was found.
type hit struct {
	point *point
	score float32
}

// Query finds the points nearest to a vector, or fuses several such searches.
func (s *points) Query(_ context.Context, r *qdrant.QueryPoints) (*qdrant.QueryResponse, error) {
	start := time.Now()
	err := only(r, "collection_name", "prefetch", "query", "using", "filter", "params", "limit", "offset",
		"with_payload", "with_vectors", "read_consistency", "timeout")
	if err != nil {
		return nil, err
	}
	limit, err := limitOf(r.Limit)
	if err != nil {
		return nil, err
	}
	show, err := newSelection(r.GetWithPayload(), false, r.GetWithVectors())
	if err != nil {
		return nil, err
	}
	response := &qdrant.QueryResponse{}
	err = s.catalog.read(r.GetCollectionName(), func(c *collection) error {
		hits, err := c.query(r)
		if err != nil {
			return err
		}
		hits = hits[min(r.GetOffset(), uint64(len(hits))):]
		for _, h := range hits[:min(limit, uint64(len(hits)))] {
			response.Result = append(response.Result, &qdrant.ScoredPoint{
				Id: h.point.key.id(), Score: h.score, Payload: show.payloadOf(h.point), Vectors: show.vectorsOf(h.point),
			})
		}
		return nil
	})
	response.Time = since(start)
	return response, err
}

func limitOf(limit *uint64) (uint64, error) {
	if limit == nil {
		return defaultLimit, nil
	}
	if *limit == 0 {
		return 0, errLimit
	}
	return *limit, nil
}

// query returns all hits, best first.
func (c *collection) query(r *qdrant.QueryPoints) ([]hit, error) {
	if err := checkParams(r.GetParams()); err != nil {
		return nil, err
	}
	k, weights, fused, err := fusion(r.GetQuery())
	switch {
	case err != nil:
		return nil, err
	case !fused && len(r.GetPrefetch()) > 0:
		return nil, unimplemented("QueryPoints.prefetch for another query than fusion")
	case !fused:
		return c.nearest(r.GetQuery(), r.GetUsing(), r.GetFilter())
	case len(r.GetPrefetch()) == 0:
		return nil, status.Error(codes.InvalidArgument, "Bad request: a fusion query needs prefetches")
	case weights != nil && len(weights) != len(r.GetPrefetch()):
		return nil, badInput("Number of weights in RRF should match number of pre-fetches: got %d, expected %d", len(weights), len(r.GetPrefetch()))
	}
	legs := make([][]hit, len(r.GetPrefetch()))
	for i, p := range r.GetPrefetch() {
		if legs[i], err = c.prefetch(p, r.GetFilter()); err != nil {
			return nil, err
		}
	}
	return fuse(legs, k, weights), nil
}

// checkParams takes what asks for a faster or a more exact search.
func checkParams(p *qdrant.SearchParams) error {
	return only(p, "hnsw_ef", "exact", "quantization", "indexed_only", "acorn")
}

// prefetch searches one leg. The outer filter holds for it too
// (github.com/qdrant/qdrant/pull/4427).
func (c *collection) prefetch(p *qdrant.PrefetchQuery, outer *qdrant.Filter) ([]hit, error) {
	if err := only(p, "query", "using", "filter", "params", "limit"); err != nil {
		return nil, err
	}
	if err := checkParams(p.GetParams()); err != nil {
		return nil, err
	}
	limit, err := limitOf(p.Limit)
	if err != nil {
		return nil, err
	}
	hits, err := c.nearest(p.GetQuery(), p.GetUsing(), both(outer, p.GetFilter()))
	if err != nil {
		return nil, err
	}
	return hits[:min(limit, uint64(len(hits)))], nil
}

// defaultK is Qdrant's constant of reciprocal rank fusion.
const defaultK = 2

// fusion returns the parameters of a fusion query; weights are nil where all legs
// count the same.
func fusion(q *qdrant.Query) (k float64, weights []float32, fused bool, err error) {
	switch v := q.GetVariant().(type) {
	case *qdrant.Query_Fusion:
		if v.Fusion != qdrant.Fusion_RRF {
			return 0, nil, false, unimplemented("Query.fusion " + v.Fusion.String())
		}
		return defaultK, nil, true, nil
	case *qdrant.Query_Rrf:
		if err := only(v.Rrf, "k", "weights"); err != nil {
			return 0, nil, false, err
		}
		if v.Rrf.K == nil {
			return defaultK, v.Rrf.GetWeights(), true, nil
		}
		if v.Rrf.GetK() == 0 {
			return 0, nil, false, status.Error(codes.InvalidArgument, "Validation error in body: [rrf.k: value 0 invalid, must be 1 or larger]")
		}
		return float64(v.Rrf.GetK()), v.Rrf.GetWeights(), true, nil
	}
	return 0, nil, false, nil
}

// fuse adds up, for each point, 1/((rank+1)/weight + k - 1) over the legs it is in,
// where ranks count from 0: with the weight 1 that is 1/(rank + k)
// (lib/segment/src/common/reciprocal_rank_fusion.rs of github.com/qdrant/qdrant).
func fuse(legs [][]hit, k float64, weights []float32) []hit {
	scores := make(map[*point]float64)
	for i, leg := range legs {
		weight := 1.0
		if weights != nil {
			weight = float64(weights[i])
		}
		for rank, h := range leg {
			score := 0.0
			if weight > 0 {
				score = 1 / (float64(rank+1)/weight + k - 1)
			}
			scores[h.point] += score
		}
	}
	fused := make([]hit, 0, len(scores))
	for p, score := range scores {
		fused = append(fused, hit{p, float32(score)})
	}
	sortHits(fused)
	return fused
}

func sortHits(hits []hit) {
	slices.SortFunc(hits, func(a, b hit) int {
		return cmp.Or(cmp.Compare(b.score, a.score), a.point.key.compare(b.point.key))
	})
}

// nearest returns all points that pass the filter and have the vector, best first.
func (c *collection) nearest(q *qdrant.Query, using string, f *qdrant.Filter) ([]hit, error) {
	if q == nil {
		return nil, unimplemented("a query without Query.query")
	}
	if err := only(q, "nearest"); err != nil {
		return nil, err
	}
	if err := only(q.GetNearest(), "dense", "sparse"); err != nil {
		return nil, err
	}
	passes, err := compileFilter(f)
	if err != nil {
		return nil, err
	}
	var hits []hit
	switch v := q.GetNearest().GetVariant().(type) {
	case *qdrant.VectorInput_Dense:
		hits, err = c.nearestDense(using, v.Dense, passes)
	case *qdrant.VectorInput_Sparse:
		hits, err = c.nearestSparse(using, v.Sparse, passes)
	default:
		return nil, status.Error(codes.InvalidArgument, "VectorInput is missing")
	}
	sortHits(hits)
	return hits, err
}

func (c *collection) nearestDense(name string, query *qdrant.DenseVector, passes predicate) ([]hit, error) {
	unit, err := c.checkDense(name, query)
	if err != nil {
		return nil, err
	}
	var hits []hit
	for _, p := range c.points {
		if v := p.dense[name]; v != nil && passes(p) {
			hits = append(hits, hit{p, vek32.Dot(unit, v)})
		}
	}
	return hits, nil
}

// nearestSparse compares by dot product. Points that share no index with the query
// are not found.
func (c *collection) nearestSparse(name string, query *qdrant.SparseVector, passes predicate) ([]hit, error) {
	weighted, err := c.checkSparse(name, query)
	if err != nil {
		return nil, err
	}
	if c.sparse[name].idf {
		for i, index := range weighted.indices {
			weighted.values[i] *= float32(c.sparse[name].inverseFrequency(index))
		}
	}
	var hits []hit
	for _, p := range c.points {
		if score, common := dot(weighted, p.sparse[name]); common && passes(p) {
			hits = append(hits, hit{p, score})
		}
	}
	return hits, nil
}

// inverseFrequency is ln((n - df + 0.5)/(df + 0.5) + 1), where n is the number of
// points with the vector and df that of those with the element
// (github.com/qdrant/qdrant/pull/4126).
func (s *statistics) inverseFrequency(index uint32) float64 {
	n, df := float64(s.vectors), float64(s.frequencies[index])
	return math.Log((n-df+0.5)/(df+0.5) + 1)
}

// dot multiplies a short vector with a long one.
func dot(query, v sparseVector) (product float32, common bool) {
	at := 0
	for i, index := range query.indices {
		step, found := slices.BinarySearch(v.indices[at:], index)
		at += step
		if found {
			product += query.values[i] * v.values[at]
			common = true
		}
	}
	return product, common
}
