package qdrant

import (
	"testing"

	"github.com/google/uuid"
	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Whatever bytes a client sends, the answer is a result or an error with a code,
// and never a panic, which would take the whole embedded stack along.
func FuzzRequests(f *testing.F) {
	dense, sparse := qdrant.NewQueryDense([]float32{1, 0}), qdrant.NewQuerySparse([]uint32{1, 2}, []float32{1, 1})
	filter := &qdrant.Filter{
		Must:    []*qdrant.Condition{qdrant.NewMatchKeywords("a", "x"), qdrant.NewRange("n", &qdrant.Range{Gte: new(1.0)})},
		MustNot: []*qdrant.Condition{qdrant.NewHasID(qdrant.NewIDNum(1)), qdrant.NewMatchBool("b", true)},
		Should:  []*qdrant.Condition{qdrant.NewFilterAsCondition(&qdrant.Filter{}), qdrant.NewMatchInt("n", 3)},
	}
	id := qdrant.NewIDUUID(uuid.Max.String())
	for kind, seed := range []proto.Message{
		&qdrant.QueryPoints{CollectionName: "c", Query: dense, Using: new("dense"), Filter: filter, Limit: new(uint64(3)), Offset: new(uint64(1))},
		&qdrant.UpsertPoints{CollectionName: "c", Points: []*qdrant.PointStruct{{
			Id: id, Payload: qdrant.NewValueMap(map[string]any{"a": "x", "n": 2, "l": []any{"x"}}),
			Vectors: qdrant.NewVectorsMap(map[string]*qdrant.Vector{
				"dense": qdrant.NewVectorDense([]float32{1, 2}), "bm25": qdrant.NewVectorSparse([]uint32{2, 1}, []float32{1, 2}),
			}),
		}}},
		&qdrant.ScrollPoints{CollectionName: "c", Filter: filter, Offset: id, Limit: new(uint32(2))},
		&qdrant.DeletePoints{CollectionName: "c", Points: qdrant.NewPointsSelectorFilter(filter)},
		&qdrant.CreateCollection{
			CollectionName: "d", VectorsConfig: qdrant.NewVectorsConfigMap(map[string]*qdrant.VectorParams{"v": {Size: 3, Distance: qdrant.Distance_Cosine}}),
			SparseVectorsConfig: qdrant.NewSparseVectorsConfig(map[string]*qdrant.SparseVectorParams{"s": {Modifier: new(qdrant.Modifier_Idf)}}),
		},
		&qdrant.ChangeAliases{Actions: []*qdrant.AliasOperations{qdrant.NewAliasDelete("a"), qdrant.NewAliasCreate("a", "c"), qdrant.NewAliasRename("a", "b")}},
		&qdrant.GetPoints{CollectionName: "c", Ids: []*qdrant.PointId{id}, WithVectors: qdrant.NewWithVectors(true)},
		&qdrant.QueryPoints{CollectionName: "c", Query: qdrant.NewQueryRRF(&qdrant.Rrf{K: new(uint32(9)), Weights: []float32{1, 2}}), Prefetch: []*qdrant.PrefetchQuery{
			{Query: dense, Using: new("dense"), Limit: new(uint64(2))}, {Query: sparse, Using: new("bm25"), Filter: filter},
		}},
	} {
		raw, err := proto.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(kind), raw) //nolint:gosec // there are eight
	}
	cat, err := openCatalog(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	cat.db.NoSync = true
	f.Cleanup(func() {
		if err := cat.close(); err != nil {
			f.Error(err)
		}
	})
	if err := cat.create("c", &qdrant.CollectionInfo{Config: &qdrant.CollectionConfig{Params: &qdrant.CollectionParams{
		VectorsConfig:       qdrant.NewVectorsConfigMap(map[string]*qdrant.VectorParams{"dense": {Size: 2, Distance: qdrant.Distance_Cosine}}),
		SparseVectorsConfig: qdrant.NewSparseVectorsConfig(map[string]*qdrant.SparseVectorParams{"bm25": {Modifier: new(qdrant.Modifier_Idf)}}),
	}}}); err != nil {
		f.Fatal(err)
	}
	c, p := &collections{catalog: cat}, &points{catalog: cat}
	f.Fuzz(func(t *testing.T, kind uint8, raw []byte) {
		if err := handle(t, c, p, kind, raw); err != nil {
			if code := status.Code(err); code == codes.Unknown || code == codes.Internal {
				t.Error(err)
			}
		}
	})
}

func handle(t *testing.T, c *collections, p *points, kind uint8, raw []byte) error {
	t.Helper()
	var err error
	switch kind % 8 {
	case 1:
		if r := new(qdrant.UpsertPoints); proto.Unmarshal(raw, r) == nil {
			_, err = p.Upsert(t.Context(), r)
		}
	case 2:
		if r := new(qdrant.ScrollPoints); proto.Unmarshal(raw, r) == nil {
			_, err = p.Scroll(t.Context(), r)
		}
	case 3:
		if r := new(qdrant.DeletePoints); proto.Unmarshal(raw, r) == nil {
			_, err = p.Delete(t.Context(), r)
		}
	case 4:
		if r := new(qdrant.CreateCollection); proto.Unmarshal(raw, r) == nil {
			_, err = c.Create(t.Context(), r)
		}
	case 5:
		if r := new(qdrant.ChangeAliases); proto.Unmarshal(raw, r) == nil {
			_, err = c.UpdateAliases(t.Context(), r)
		}
	case 6:
		if r := new(qdrant.GetPoints); proto.Unmarshal(raw, r) == nil {
			_, err = p.Get(t.Context(), r)
		}
	default:
		if r := new(qdrant.QueryPoints); proto.Unmarshal(raw, r) == nil {
			_, err = p.Query(t.Context(), r)
		}
	}
	return err
}
