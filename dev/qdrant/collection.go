package qdrant

import (
	"cmp"
	"math"
	"slices"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/protobuf/proto"
)

// collection is one collection in memory. The catalog guards it; its points never
// change, they are replaced.
type collection struct {
	name   string
	info   *qdrant.CollectionInfo // configuration and payload indexes
	dense  map[string]int         // vector name to dimension
	sparse map[string]*statistics // vector name to what IDF needs
	points []*point               // by key
}

// statistics count, for one sparse vector, in how many points it and each of its
// elements occur.
type statistics struct {
	idf         bool // the modifier
	vectors     int
	frequencies map[uint32]int
}

type point struct {
	key     pointKey
	dense   map[string][]float32 // of length one
	sparse  map[string]sparseVector
	payload map[string]*qdrant.Value
}

// sparseVector has its indices sorted, and none twice.
type sparseVector struct {
	indices []uint32
	values  []float32
}

func newCollection(name string, info *qdrant.CollectionInfo) *collection {
	c := &collection{name: name, info: info, dense: make(map[string]int), sparse: make(map[string]*statistics)}
	params := info.GetConfig().GetParams()
	for vector, config := range params.GetVectorsConfig().GetParamsMap().GetMap() {
		c.dense[vector] = int(config.GetSize()) //nolint:gosec // bounded when it was created
	}
	for vector, config := range params.GetSparseVectorsConfig().GetMap() {
		c.sparse[vector] = &statistics{idf: config.GetModifier() == qdrant.Modifier_Idf, frequencies: make(map[uint32]int)}
	}
	return c
}

// convert checks a point and takes it apart.
func (c *collection) convert(p *qdrant.PointStruct) (*point, error) {
	if err := only(p, "id", "payload", "vectors"); err != nil {
		return nil, err
	}
	if err := only(p.GetVectors(), "vectors"); err != nil {
		return nil, err
	}
	key, err := toKey(p.GetId())
	if err != nil {
		return nil, err
	}
	converted := &point{
		key: key, payload: p.GetPayload(),
		dense: make(map[string][]float32), sparse: make(map[string]sparseVector),
	}
	for name, vector := range p.GetVectors().GetVectors().GetVectors() {
		if err := only(vector, "dense", "sparse"); err != nil {
			return nil, err
		}
		switch v := vector.GetVector().(type) {
		case *qdrant.Vector_Dense:
			if converted.dense[name], err = c.checkDense(name, v.Dense); err != nil {
				return nil, err
			}
		case *qdrant.Vector_Sparse:
			if converted.sparse[name], err = c.checkSparse(name, v.Sparse); err != nil {
				return nil, err
			}
		default:
			return nil, badInput("vector %s is empty", name)
		}
	}
	return converted, nil
}

// checkDense returns a vector as it is compared.
func (c *collection) checkDense(name string, v *qdrant.DenseVector) ([]float32, error) {
	dimension, ok := c.dense[name]
	if !ok {
		if _, isSparse := c.sparse[name]; isSparse {
			return nil, badInput("Wrong usage of sparse vectors")
		}
		return nil, noVectorName(name)
	}
	if len(v.GetData()) != dimension {
		return nil, wrongDimension(dimension, len(v.GetData()))
	}
	if !finite(v.GetData()) {
		return nil, badInput("vector %s holds NaN or infinity", name)
	}
	return normalize(v.GetData()), nil
}

func (c *collection) checkSparse(name string, v *qdrant.SparseVector) (sparseVector, error) {
	if _, ok := c.sparse[name]; !ok {
		if _, isDense := c.dense[name]; isDense {
			return sparseVector{}, badInput("Wrong usage of sparse vectors")
		}
		return sparseVector{}, noVectorName(name)
	}
	if len(v.GetIndices()) != len(v.GetValues()) {
		return sparseVector{}, badInput("sparse vector %s: values must be the same length as indices", name)
	}
	if !finite(v.GetValues()) {
		return sparseVector{}, badInput("sparse vector %s holds NaN or infinity", name)
	}
	order := make([]int, len(v.GetIndices()))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(v.GetIndices()[a], v.GetIndices()[b]) })
	sorted := sparseVector{indices: make([]uint32, len(order)), values: make([]float32, len(order))}
	for i, from := range order {
		sorted.indices[i], sorted.values[i] = v.GetIndices()[from], v.GetValues()[from]
		if i > 0 && sorted.indices[i] == sorted.indices[i-1] {
			return sparseVector{}, badInput("sparse vector %s: indices must be unique", name)
		}
	}
	return sorted, nil
}

func finite(values []float32) bool {
	for _, x := range values {
		if f := float64(x); math.IsNaN(f) || math.IsInf(f, 0) {
			return false
		}
	}
	return true
}

// normalize returns a vector of length one in the same direction, so that the dot
// product of two is their cosine. One without a direction stays as it is.
func normalize(v []float32) []float32 {
	var squares float64
	for _, x := range v {
		squares += float64(x) * float64(x)
	}
	unit := slices.Clone(v)
	if squares == 0 {
		return unit
	}
	length := math.Sqrt(squares)
	for i := range unit {
		unit[i] = float32(float64(unit[i]) / length)
	}
	return unit
}

func (c *collection) find(key pointKey) (position int, found bool) {
	return slices.BinarySearchFunc(c.points, key, func(p *point, key pointKey) int { return p.key.compare(key) })
}

// put adds points, replacing those with the same key.
func (c *collection) put(batch []*point) {
	for _, p := range batch {
		i, found := c.find(p.key)
		if found {
			c.count(c.points[i], -1)
			c.points[i] = p
		} else {
			c.points = slices.Insert(c.points, i, p)
		}
		c.count(p, 1)
	}
}

func (c *collection) delete(keys []pointKey) {
	gone := make(map[pointKey]bool, len(keys))
	for _, key := range keys {
		gone[key] = true
	}
	c.points = slices.DeleteFunc(c.points, func(p *point) bool {
		if gone[p.key] {
			c.count(p, -1)
		}
		return gone[p.key]
	})
}

// count adds a point to the statistics, or takes it away with -1. Empty vectors do
// not count, as in Qdrant.
func (c *collection) count(p *point, by int) {
	for name, v := range p.sparse {
		if len(v.indices) == 0 {
			continue
		}
		s := c.sparse[name]
		s.vectors += by
		for _, index := range v.indices {
			if s.frequencies[index] += by; s.frequencies[index] == 0 {
				delete(s.frequencies, index)
			}
		}
	}
}

// describe answers a request for the collection's information.
func (c *collection) describe() *qdrant.CollectionInfo {
	info := proto.CloneOf(c.info)
	info.Status = qdrant.CollectionStatus_Green
	info.OptimizerStatus = &qdrant.OptimizerStatus{Ok: true}
	info.SegmentsCount = 1
	info.PointsCount = new(uint64(len(c.points)))
	for field, schema := range info.GetPayloadSchema() {
		var indexed uint64
		for _, p := range c.points {
			if p.payload[field] != nil {
				indexed++
			}
		}
		schema.Points = &indexed
	}
	return info
}
