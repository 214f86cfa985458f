package vector

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/google/uuid"
	"github.com/qdrant/go-client/qdrant"
)

// Sparse is a vector of which most elements are zero: the values at the indices,
// each of which occurs once.
type Sparse struct {
	Indices []uint32
	Values  []float32
}

// Point is what a collection holds.
type Point struct {
	ID     uuid.UUID
	Dense  []float32
	Sparse Sparse // may be empty: no query by words finds the point then
	// Payload holds values of the types string, []string, int64, float64 and bool.
	// An empty list reads back as an empty []string.
	Payload map[string]any
}

// maxBatch bounds the points of one call: with 3,072 dimensions they are 3 MB,
// where Qdrant takes 32.
const maxBatch = 256

// Upsert stores points, replacing those of the same id as a whole, and returns
// when searches see them. Many points go in several calls: after an error some of
// them may be stored, and the same Upsert may be repeated. Errors:
// ErrNoCollection, ErrDimension, ErrVector.
func (c *Client) Upsert(ctx context.Context, collection string, points []Point) error {
	converted := make([]*qdrant.PointStruct, len(points))
	for i, p := range points {
		var err error
		if converted[i], err = toQdrant(p); err != nil {
			return fmt.Errorf("upsert point %s into %s: %w", p.ID, collection, err)
		}
	}
	for batch := range slices.Chunk(converted, maxBatch) {
		_, err := c.qdrant.Upsert(ctx, &qdrant.UpsertPoints{CollectionName: collection, Wait: new(true), Points: batch})
		if err != nil {
			return translate(fmt.Sprintf("upsert %d points into %s", len(points), collection), err)
		}
	}
	return nil
}

func toQdrant(p Point) (*qdrant.PointStruct, error) {
	if err := checkDense(p.Dense); err != nil {
		return nil, err
	}
	if err := checkSparse(p.Sparse); err != nil {
		return nil, err
	}
	vectors := map[string]*qdrant.Vector{denseName: qdrant.NewVectorDense(p.Dense)}
	if len(p.Sparse.Indices) > 0 {
		vectors[sparseName] = qdrant.NewVectorSparse(p.Sparse.Indices, p.Sparse.Values)
	}
	payload, err := toPayload(p.Payload)
	if err != nil {
		return nil, err
	}
	return &qdrant.PointStruct{Id: toID(p.ID), Vectors: qdrant.NewVectorsMap(vectors), Payload: payload}, nil
}

// checkDense looks for what Qdrant takes and then cannot compare: such a point
// ends up on top of every search (github.com/qdrant/qdrant/issues/9201).
func checkDense(dense []float32) error {
	if len(dense) == 0 {
		return fmt.Errorf("%w: the vector is empty", ErrDimension)
	}
	var squares float64
	for _, x := range dense {
		squares += float64(x) * float64(x)
	}
	if math.IsNaN(squares) || squares > math.MaxFloat32 {
		return fmt.Errorf("%w: it holds NaN, or is longer than its numbers can say", ErrVector)
	}
	if squares == 0 {
		return fmt.Errorf("%w: it has no direction", ErrVector)
	}
	return nil
}

func checkSparse(s Sparse) error {
	if len(s.Indices) != len(s.Values) {
		return fmt.Errorf("%w: %d indices, %d values", ErrVector, len(s.Indices), len(s.Values))
	}
	for _, x := range s.Values {
		if f := float64(x); math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("%w: it holds NaN or infinity", ErrVector)
		}
	}
	sorted := slices.Sorted(slices.Values(s.Indices))
	if len(slices.Compact(sorted)) != len(s.Indices) {
		return fmt.Errorf("%w: an index occurs twice", ErrVector)
	}
	return nil
}

func toPayload(payload map[string]any) (map[string]*qdrant.Value, error) {
	values := make(map[string]*qdrant.Value, len(payload))
	for key, v := range payload {
		if list, ok := v.([]string); ok {
			elements := make([]any, len(list))
			for i, s := range list {
				elements[i] = s
			}
			v = elements
		}
		switch v.(type) {
		case string, []any, int64, float64, bool:
		default:
			return nil, fmt.Errorf("payload %q is of type %T", key, v)
		}
		value, err := qdrant.NewValue(v)
		if err != nil {
			return nil, fmt.Errorf("payload %q: %w", key, err)
		}
		values[key] = value
	}
	return values, nil
}

func fromPayload(values map[string]*qdrant.Value) (map[string]any, error) {
	payload := make(map[string]any, len(values))
	for key, value := range values {
		switch v := value.GetKind().(type) {
		case *qdrant.Value_StringValue:
			payload[key] = v.StringValue
		case *qdrant.Value_IntegerValue:
			payload[key] = v.IntegerValue
		case *qdrant.Value_DoubleValue:
			payload[key] = v.DoubleValue
		case *qdrant.Value_BoolValue:
			payload[key] = v.BoolValue
		case *qdrant.Value_ListValue:
			list := make([]string, len(v.ListValue.GetValues()))
			for i, element := range v.ListValue.GetValues() {
				s, ok := element.GetKind().(*qdrant.Value_StringValue)
				if !ok {
					return nil, fmt.Errorf("payload %q is a list of %T", key, element.GetKind())
				}
				list[i] = s.StringValue
			}
			payload[key] = list
		default:
			return nil, fmt.Errorf("payload %q is of type %T", key, v)
		}
	}
	return payload, nil
}

func toID(id uuid.UUID) *qdrant.PointId { return qdrant.NewIDUUID(id.String()) }

func toIDs(ids []uuid.UUID) []*qdrant.PointId {
	converted := make([]*qdrant.PointId, len(ids))
	for i, id := range ids {
		converted[i] = toID(id)
	}
	return converted
}

func fromID(id *qdrant.PointId) (uuid.UUID, error) {
	parsed, err := uuid.Parse(id.GetUuid())
	if err != nil {
		return uuid.Nil, fmt.Errorf("the point's id %v is not a UUID: %w", id, err)
	}
	return parsed, nil
}

// Delete removes points; those that are not there are no error. Errors:
// ErrNoCollection.
func (c *Client) Delete(ctx context.Context, collection string, ids []uuid.UUID) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := c.qdrant.Delete(ctx, &qdrant.DeletePoints{
		CollectionName: collection, Wait: new(true), Points: qdrant.NewPointsSelectorIDs(toIDs(ids)),
	})
	return translate(fmt.Sprintf("delete %d points from %s", len(ids), collection), err)
}

// Count returns how many points a collection holds, exactly. Errors:
// ErrNoCollection.
func (c *Client) Count(ctx context.Context, collection string) (int64, error) {
	count, err := c.qdrant.Count(ctx, &qdrant.CountPoints{CollectionName: collection, Exact: new(true)})
	if err != nil {
		return 0, translate("count points of "+collection, err)
	}
	return int64(count), nil //nolint:gosec // points are fewer
}

// Scroll returns up to limit points in the order of their ids, without vectors:
// those behind the id after, from the first for uuid.Nil. keys names the payload
// fields to return, all for none. next is what to pass as after for the next
// points, uuid.Nil when there are no more. Errors: ErrNoCollection.
func (c *Client) Scroll(ctx context.Context, collection string, after uuid.UUID, limit int, keys ...string) (points []Point, next uuid.UUID, err error) {
	operation := "scroll " + collection
	if limit < 1 || limit >= math.MaxInt32 {
		return nil, uuid.Nil, fmt.Errorf("%s: a limit of %d", operation, limit)
	}
	request := &qdrant.ScrollPoints{
		CollectionName: collection,
		Limit:          new(uint32(limit + 1)), // the server starts with the id after itself
		WithPayload:    qdrant.NewWithPayload(true), WithVectors: qdrant.NewWithVectors(false),
	}
	if after != uuid.Nil {
		request.Offset = toID(after)
	}
	if len(keys) > 0 {
		request.WithPayload = qdrant.NewWithPayloadInclude(keys...)
	}
	found, more, err := c.qdrant.ScrollAndOffset(ctx, request)
	if err != nil {
		return nil, uuid.Nil, translate(operation, err)
	}
	for _, f := range found {
		p := Point{}
		if p.ID, err = fromID(f.GetId()); err != nil {
			return nil, uuid.Nil, fmt.Errorf("%s: %w", operation, err)
		}
		if p.ID == after {
			continue
		}
		if p.Payload, err = fromPayload(f.GetPayload()); err != nil {
			return nil, uuid.Nil, fmt.Errorf("%s: point %s: %w", operation, p.ID, err)
		}
		points = append(points, p)
	}
	if len(points) > limit || more != nil && len(points) > 0 {
		points = points[:min(limit, len(points))]
		next = points[len(points)-1].ID
	}
	return points, next, nil
}

// Vectors returns the vectors of points, without payload, in the order of their
// ids; those that are not there are left out. Dense vectors come back as Qdrant
// keeps them for comparison by cosine, of length one. Errors: ErrNoCollection.
func (c *Client) Vectors(ctx context.Context, collection string, ids []uuid.UUID) ([]Point, error) {
	operation := fmt.Sprintf("get vectors of %d points of %s", len(ids), collection)
	points := make([]Point, 0, len(ids))
	for batch := range slices.Chunk(ids, maxBatch) {
		found, err := c.qdrant.Get(ctx, &qdrant.GetPoints{
			CollectionName: collection, Ids: toIDs(batch),
			WithPayload: qdrant.NewWithPayload(false), WithVectors: qdrant.NewWithVectors(true),
		})
		if err != nil {
			return nil, translate(operation, err)
		}
		for _, f := range found {
			id, err := fromID(f.GetId())
			if err != nil {
				return nil, fmt.Errorf("%s: %w", operation, err)
			}
			named := f.GetVectors().GetVectors().GetVectors()
			p := Point{ID: id, Dense: named[denseName].GetDenseVector().GetData()}
			if sparse := named[sparseName].GetSparseVector(); sparse != nil {
				p.Sparse = Sparse{Indices: sparse.GetIndices(), Values: sparse.GetValues()}
			}
			points = append(points, p)
		}
	}
	slices.SortFunc(points, func(a, b Point) int { return compareIDs(a.ID, b.ID) })
	return points, nil
}

func compareIDs(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }
