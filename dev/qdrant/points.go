package qdrant

import (
	"context"
	"slices"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// points answers the Points service. All writes are applied and on disk before
// their answer, so that wait and ordering ask for nothing more; there is one node,
// so that every read is consistent.
type points struct {
	qdrant.UnimplementedPointsServer

	catalog *catalog
}

func updated(start time.Time) *qdrant.PointsOperationResponse {
	return &qdrant.PointsOperationResponse{Result: &qdrant.UpdateResult{Status: qdrant.UpdateStatus_Completed}, Time: since(start)}
}

func (s *points) Upsert(_ context.Context, r *qdrant.UpsertPoints) (*qdrant.PointsOperationResponse, error) {
	start := time.Now()
	if err := only(r, "collection_name", "wait", "points", "ordering", "timeout"); err != nil {
		return nil, err
	}
	if err := s.catalog.upsert(r.GetCollectionName(), r.GetPoints()); err != nil {
		return nil, err
	}
	return updated(start), nil
}

func (s *points) Delete(_ context.Context, r *qdrant.DeletePoints) (*qdrant.PointsOperationResponse, error) {
	start := time.Now()
	if err := only(r, "collection_name", "wait", "points", "ordering", "timeout"); err != nil {
		return nil, err
	}
	err := s.catalog.remove(r.GetCollectionName(), func(c *collection) ([]pointKey, error) {
		switch selector := r.GetPoints().GetPointsSelectorOneOf().(type) {
		case *qdrant.PointsSelector_Points:
			return toKeys(selector.Points.GetIds())
		case *qdrant.PointsSelector_Filter:
			passes, err := compileFilter(selector.Filter)
			if err != nil {
				return nil, err
			}
			var keys []pointKey
			for _, p := range c.points {
				if passes(p) {
					keys = append(keys, p.key)
				}
			}
			return keys, nil
		default:
			return nil, status.Error(codes.InvalidArgument, "PointsSelector is missing")
		}
	})
	if err != nil {
		return nil, err
	}
	return updated(start), nil
}

func (s *points) CreateFieldIndex(_ context.Context, r *qdrant.CreateFieldIndexCollection) (*qdrant.PointsOperationResponse, error) {
	start := time.Now()
	if err := only(r, "collection_name", "wait", "field_name", "field_type", "ordering", "timeout"); err != nil {
		return nil, err
	}
	if err := checkKey(r.GetFieldName()); err != nil {
		return nil, err
	}
	if r.FieldType == nil {
		return nil, badInput("field_type is missing")
	}
	var kind qdrant.PayloadSchemaType
	switch r.GetFieldType() {
	case qdrant.FieldType_FieldTypeKeyword:
		kind = qdrant.PayloadSchemaType_Keyword
	case qdrant.FieldType_FieldTypeInteger:
		kind = qdrant.PayloadSchemaType_Integer
	case qdrant.FieldType_FieldTypeFloat:
		kind = qdrant.PayloadSchemaType_Float
	case qdrant.FieldType_FieldTypeBool:
		kind = qdrant.PayloadSchemaType_Bool
	default:
		return nil, unimplemented("CreateFieldIndexCollection.field_type " + r.GetFieldType().String())
	}
	if err := s.catalog.index(r.GetCollectionName(), r.GetFieldName(), kind); err != nil {
		return nil, err
	}
	return updated(start), nil
}

func (s *points) Count(_ context.Context, r *qdrant.CountPoints) (*qdrant.CountResponse, error) {
	start := time.Now()
	if err := only(r, "collection_name", "filter", "exact", "read_consistency", "timeout"); err != nil {
		return nil, err
	}
	passes, err := compileFilter(r.GetFilter())
	if err != nil {
		return nil, err
	}
	var count uint64
	err = s.catalog.read(r.GetCollectionName(), func(c *collection) error {
		for _, p := range c.points {
			if passes(p) {
				count++
			}
		}
		return nil
	})
	return &qdrant.CountResponse{Result: &qdrant.CountResult{Count: count}, Time: since(start)}, err
}

// defaultLimit is Qdrant's for a request that names none.
const defaultLimit = 10

func (s *points) Scroll(_ context.Context, r *qdrant.ScrollPoints) (*qdrant.ScrollResponse, error) {
	start := time.Now()
	if err := only(r, "collection_name", "filter", "offset", "limit", "with_payload", "with_vectors", "read_consistency", "timeout"); err != nil {
		return nil, err
	}
	limit := defaultLimit
	if r.Limit != nil {
		limit = int(r.GetLimit())
	}
	if limit < 1 {
		return nil, errLimit
	}
	passes, err := compileFilter(r.GetFilter())
	if err != nil {
		return nil, err
	}
	var from pointKey // the first there can be
	if r.GetOffset() != nil {
		if from, err = toKey(r.GetOffset()); err != nil {
			return nil, err
		}
	}
	// Unlike elsewhere, a scroll returns the payload unless it is told not to.
	show, err := newSelection(r.GetWithPayload(), true, r.GetWithVectors())
	if err != nil {
		return nil, err
	}
	response := &qdrant.ScrollResponse{}
	err = s.catalog.read(r.GetCollectionName(), func(c *collection) error {
		first, _ := c.find(from)
		for _, p := range c.points[first:] {
			if !passes(p) {
				continue
			}
			if len(response.GetResult()) == limit {
				response.NextPageOffset = p.key.id()
				break
			}
			response.Result = append(response.Result, show.retrieved(p))
		}
		return nil
	})
	response.Time = since(start)
	return response, err
}

var errLimit = status.Error(codes.InvalidArgument, "Validation error in body: [limit: value 0 invalid, must be 1 or larger]")

func (s *points) Get(_ context.Context, r *qdrant.GetPoints) (*qdrant.GetResponse, error) {
	start := time.Now()
	if err := only(r, "collection_name", "ids", "with_payload", "with_vectors", "read_consistency", "timeout"); err != nil {
		return nil, err
	}
	keys, err := toKeys(r.GetIds())
	if err != nil {
		return nil, err
	}
	show, err := newSelection(r.GetWithPayload(), true, r.GetWithVectors())
	if err != nil {
		return nil, err
	}
	slices.SortFunc(keys, pointKey.compare)
	response := &qdrant.GetResponse{}
	err = s.catalog.read(r.GetCollectionName(), func(c *collection) error {
		for _, key := range slices.Compact(keys) {
			if i, found := c.find(key); found {
				response.Result = append(response.Result, show.retrieved(c.points[i]))
			}
		}
		return nil
	})
	response.Time = since(start)
	return response, err
}

// selection says which parts of a point an answer has.
type selection struct {
	payload func(key string) bool
	vectors func(name string) bool
}

func newSelection(payload *qdrant.WithPayloadSelector, payloadByDefault bool, vectors *qdrant.WithVectorsSelector) (selection, error) {
	show := selection{
		payload: func(string) bool { return payloadByDefault },
		vectors: func(string) bool { return false },
	}
	switch o := payload.GetSelectorOptions().(type) {
	case nil:
	case *qdrant.WithPayloadSelector_Enable:
		show.payload = func(string) bool { return o.Enable }
	case *qdrant.WithPayloadSelector_Include:
		for _, key := range o.Include.GetFields() {
			if err := checkKey(key); err != nil {
				return show, err
			}
		}
		show.payload = func(key string) bool { return slices.Contains(o.Include.GetFields(), key) }
	default:
		return show, unimplemented("WithPayloadSelector.exclude")
	}
	switch o := vectors.GetSelectorOptions().(type) {
	case nil:
	case *qdrant.WithVectorsSelector_Enable:
		show.vectors = func(string) bool { return o.Enable }
	case *qdrant.WithVectorsSelector_Include:
		show.vectors = func(name string) bool { return slices.Contains(o.Include.GetNames(), name) }
	}
	return show, nil
}

func (s selection) retrieved(p *point) *qdrant.RetrievedPoint {
	return &qdrant.RetrievedPoint{Id: p.key.id(), Payload: s.payloadOf(p), Vectors: s.vectorsOf(p)}
}

func (s selection) payloadOf(p *point) map[string]*qdrant.Value {
	shown := make(map[string]*qdrant.Value)
	for key, value := range p.payload {
		if s.payload(key) {
			shown[key] = value
		}
	}
	return shown
}

func (s selection) vectorsOf(p *point) *qdrant.VectorsOutput {
	shown := make(map[string]*qdrant.VectorOutput)
	for name, v := range p.dense {
		if s.vectors(name) {
			shown[name] = &qdrant.VectorOutput{Vector: &qdrant.VectorOutput_Dense{Dense: &qdrant.DenseVector{Data: v}}}
		}
	}
	for name, v := range p.sparse {
		if s.vectors(name) {
			shown[name] = &qdrant.VectorOutput{Vector: &qdrant.VectorOutput_Sparse{
				Sparse: &qdrant.SparseVector{Indices: v.indices, Values: v.values},
			}}
		}
	}
	if len(shown) == 0 {
		return nil
	}
	return &qdrant.VectorsOutput{VectorsOptions: &qdrant.VectorsOutput_Vectors{Vectors: &qdrant.NamedVectorsOutput{Vectors: shown}}}
}
