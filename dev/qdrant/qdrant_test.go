package qdrant_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/qdrant/go-client/qdrant"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	server "bookworm/dev/qdrant"
	"bookworm/internal/fault"
	"bookworm/internal/vector"
)

func is(err, target error) bool { return errors.Is(err, target) }

// childEnv makes the test binary a process that serves the data folder it names,
// prints its address, and lives until it is killed.
const childEnv = "BOOKWORM_TEST_QDRANT_CHILD"

func TestMain(m *testing.M) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := server.Start(context.Background(), server.Options{DataDir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, s.Address())
	select {}
}

func TestKilledServerKeepsAllThatItAcknowledged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	process := exec.CommandContext(t.Context(), os.Args[0])
	process.Env = append(os.Environ(), childEnv+"="+dir)
	process.Stderr = t.Output()
	out, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("the process did not start")
	}
	before := open(t, lines.Text())
	ctx := t.Context()
	if err := before.CreateCollection(ctx, "books", 2, map[string]vector.IndexKind{"n": vector.IndexInteger}); err != nil {
		t.Fatal(err)
	}
	if err := before.SwitchAlias(ctx, "shop", "books"); err != nil {
		t.Fatal(err)
	}
	before.upsert(t, "books", vector.Point{ID: id(0), Dense: []float32{1, 1}, Sparse: words("gone")})
	if err := before.Delete(ctx, "books", ids(0)); err != nil {
		t.Fatal(err)
	}
	// Killed in the middle of writing: whatever was acknowledged until then counts.
	acknowledged := 0
	for n := 1; ; n++ {
		err := before.Upsert(ctx, "books", []vector.Point{{
			ID: id(n), Dense: []float32{1, float32(n)}, Sparse: words("word " + strconv.Itoa(n)), Payload: map[string]any{"n": int64(n)},
		}})
		if err != nil {
			break
		}
		if acknowledged = n; n == 20 {
			if err := process.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = process.Wait() // reports the kill

	after := open(t, start(t, dir, 0).Address())
	count, err := after.Count(ctx, "shop")
	if err != nil || count < int64(acknowledged) || count > int64(acknowledged)+1 {
		t.Fatalf("%d points (%v), want %d, or one more whose answer was lost", count, err, acknowledged)
	}
	info, err := after.raw.GetCollectionInfo(ctx, "books")
	if err != nil || info.GetPayloadSchema()["n"].GetDataType() != qdrant.PayloadSchemaType_Integer {
		t.Errorf("the index is lost: %v (%v)", info, err)
	}
	points, _, err := after.Scroll(ctx, "books", uuid.Nil, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range points {
		if p.ID != id(i+1) || p.Payload["n"] != int64(i+1) {
			t.Errorf("point %d is %v", i+1, p)
		}
	}
	// The statistics are counted again: one word is in all points, the other in one.
	hits := after.search(t, vector.Query{Collection: "shop", Sparse: query("word 7"), Limit: 1})
	n := float64(count)
	want := math.Log(0.5/(n+0.5)+1) + math.Log((n-1+0.5)/1.5+1)
	if len(hits) != 1 || hits[0].ID != id(7) || !near(float64(hits[0].Score), want) {
		t.Errorf("%v, want 7 with %v", hits, want)
	}
	if hits := after.search(t, vector.Query{Collection: "shop", Sparse: query("gone"), Limit: 1}); len(hits) != 0 {
		t.Errorf("the deleted point is back: %v", hits)
	}
}

func TestDroppedCollectionStaysDropped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, dir, 0)
	s := open(t, first.Address())
	for _, name := range []string{"kept", "dropped"} {
		if err := s.CreateCollection(t.Context(), name, 1, nil); err != nil {
			t.Fatal(err)
		}
		s.upsert(t, name, vector.Point{ID: id(1), Dense: []float32{1}})
	}
	if err := s.SwitchAlias(t.Context(), "alias", "dropped"); err != nil {
		t.Fatal(err)
	}
	if err := s.DropCollection(t.Context(), "dropped"); err != nil {
		t.Fatal(err)
	}
	first.Stop()
	first.Stop() // once more does nothing

	s = open(t, start(t, dir, 0).Address())
	if names, err := s.Collections(t.Context()); err != nil || strings.Join(names, " ") != "kept" {
		t.Errorf("collections %v (%v)", names, err)
	}
	_, err := s.Alias(t.Context(), "alias")
	wantIs(t, "its alias", err, vector.ErrNoCollection)
	if err := s.CreateCollection(t.Context(), "dropped", 5, nil); err != nil {
		t.Error("its name cannot be used again:", err)
	}
	if n, err := s.Count(t.Context(), "dropped"); n != 0 || err != nil {
		t.Errorf("its points are back: %d (%v)", n, err)
	}
}

func TestDataFolderIsForOneServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir, 0)
	if s, err := server.Start(t.Context(), server.Options{DataDir: dir}); err == nil {
		s.Stop()
		t.Error("two servers share a data folder")
	}
	if _, err := server.Start(t.Context(), server.Options{}); err == nil {
		t.Error("started without a data folder")
	}
}

func TestClientComesBackAfterARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, dir, 0)
	s := open(t, first.Address())
	name := "books"
	if err := s.CreateCollection(t.Context(), name, 1, nil); err != nil {
		t.Fatal(err)
	}
	first.Stop()
	if err := s.Health(t.Context()); !fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("a server that is away: %v", err)
	}
	_, port, _ := strings.Cut(first.Address(), ":")
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	start(t, dir, number)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		_, err := s.Count(ctx, name)
		if err == nil {
			return
		}
		if !fault.Is(err, fault.ReasonUnavailable) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// What the stand-in does not know it says, and it names the field.
func TestUnknownRequestsAreNotAnswered(t *testing.T) {
	t.Parallel()
	s := open(t, start(t, t.TempDir(), 0).Address())
	name := s.collection(t, 1, nil)
	ctx := t.Context()
	dense := qdrant.NewQueryDense([]float32{1})
	ask := func(q *qdrant.QueryPoints) error {
		q.CollectionName, q.Using = name, new("dense")
		_, err := s.raw.Query(ctx, q)
		return err
	}
	filter := func(c *qdrant.Condition) error {
		return ask(&qdrant.QueryPoints{Query: dense, Filter: &qdrant.Filter{Must: []*qdrant.Condition{c}}})
	}
	create := func(c *qdrant.CreateCollection) error {
		c.CollectionName = "other"
		return s.raw.CreateCollection(ctx, c)
	}
	vectors := func(p *qdrant.VectorParams) *qdrant.VectorsConfig {
		return qdrant.NewVectorsConfigMap(map[string]*qdrant.VectorParams{"dense": p})
	}
	upsert := func(u *qdrant.UpsertPoints) error {
		u.CollectionName = name
		_, err := s.raw.Upsert(ctx, u)
		return err
	}
	for want, err := range map[string]error{
		"QueryPoints.score_threshold": ask(&qdrant.QueryPoints{Query: dense, ScoreThreshold: new(float32(0.5))}),
		"QueryPoints.lookup_from":     ask(&qdrant.QueryPoints{Query: dense, LookupFrom: &qdrant.LookupLocation{CollectionName: name}}),
		"QueryPoints.prefetch":        ask(&qdrant.QueryPoints{Query: dense, Prefetch: []*qdrant.PrefetchQuery{{Query: dense}}}),
		"Query.query":                 ask(&qdrant.QueryPoints{}),
		"Query.order_by":              ask(&qdrant.QueryPoints{Query: qdrant.NewQueryOrderBy(&qdrant.OrderBy{Key: "x"})}),
		"Query.recommend":             ask(&qdrant.QueryPoints{Query: qdrant.NewQueryRecommend(&qdrant.RecommendInput{})}),
		"Query.fusion DBSF":           ask(&qdrant.QueryPoints{Query: qdrant.NewQueryFusion(qdrant.Fusion_DBSF), Prefetch: []*qdrant.PrefetchQuery{{Query: dense}}}),
		"VectorInput.id":              ask(&qdrant.QueryPoints{Query: qdrant.NewQueryID(qdrant.NewIDNum(1))}),
		"PrefetchQuery.prefetch": ask(&qdrant.QueryPoints{
			Query: qdrant.NewQueryFusion(qdrant.Fusion_RRF), Prefetch: []*qdrant.PrefetchQuery{{Query: dense, Prefetch: []*qdrant.PrefetchQuery{{Query: dense}}}},
		}),
		"WithPayloadSelector.exclude":     ask(&qdrant.QueryPoints{Query: dense, WithPayload: qdrant.NewWithPayloadExclude("x")}),
		"Filter.min_should":               ask(&qdrant.QueryPoints{Query: dense, Filter: &qdrant.Filter{MinShould: &qdrant.MinShould{MinCount: 1}}}),
		"Condition.is_empty":              filter(qdrant.NewIsEmpty("x")),
		"Condition.nested":                filter(qdrant.NewNestedFilter("x", &qdrant.Filter{})),
		"Match.text":                      filter(qdrant.NewMatchText("x", "y")),
		"Match.except_keywords":           filter(qdrant.NewMatchExcept("x", "y")),
		"FieldCondition.geo_radius":       filter(qdrant.NewGeoRadius("x", 1, 2, 3)),
		"FieldCondition.values_count":     filter(qdrant.NewValuesCount("x", &qdrant.ValuesCount{})),
		"the payload key a.b":             filter(qdrant.NewMatch("a.b", "x")),
		"UpsertPoints.update_mode":        upsert(&qdrant.UpsertPoints{UpdateMode: qdrant.UpdateMode_InsertOnly.Enum()}),
		"UpsertPoints.shard_key_selector": upsert(&qdrant.UpsertPoints{ShardKeySelector: &qdrant.ShardKeySelector{}}),
		"Vectors.vector":                  upsert(&qdrant.UpsertPoints{Points: []*qdrant.PointStruct{{Id: qdrant.NewIDNum(1), Vectors: qdrant.NewVectors(1)}}}),
		"Vector.multi_dense": upsert(&qdrant.UpsertPoints{Points: []*qdrant.PointStruct{{
			Id: qdrant.NewIDNum(1), Vectors: qdrant.NewVectorsMap(map[string]*qdrant.Vector{"dense": qdrant.NewVectorMulti([][]float32{{1}})}),
		}}}),
		"CreateCollection.quantization_config": create(&qdrant.CreateCollection{QuantizationConfig: qdrant.NewQuantizationBinary(&qdrant.BinaryQuantization{})}),
		"VectorsConfig.params":                 create(&qdrant.CreateCollection{VectorsConfig: qdrant.NewVectorsConfig(&qdrant.VectorParams{Size: 1, Distance: qdrant.Distance_Cosine})}),
		"VectorParams.distance Euclid":         create(&qdrant.CreateCollection{VectorsConfig: vectors(&qdrant.VectorParams{Size: 1, Distance: qdrant.Distance_Euclid})}),
		"VectorParams.datatype":                create(&qdrant.CreateCollection{VectorsConfig: vectors(&qdrant.VectorParams{Size: 1, Distance: qdrant.Distance_Cosine, Datatype: qdrant.Datatype_Float16.Enum()})}),
		"method SetPayload": func() error {
			_, err := s.raw.SetPayload(ctx, &qdrant.SetPayloadPoints{CollectionName: name})
			return err
		}(),
		"field_type FieldTypeText": func() error {
			_, err := s.raw.CreateFieldIndex(ctx, &qdrant.CreateFieldIndexCollection{CollectionName: name, FieldName: "x", FieldType: qdrant.FieldType_FieldTypeText.Enum()})
			return err
		}(),
	} {
		if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if exists, err := s.raw.CollectionExists(ctx, "other"); exists || err != nil {
		t.Errorf("a refused collection was made: %v (%v)", exists, err)
	}
}

// Qdrant takes such vectors, see doc.go; this server does not.
func TestVectorsWithoutANumberAreRefused(t *testing.T) {
	t.Parallel()
	s := open(t, start(t, t.TempDir(), 0).Address())
	name := s.collection(t, 1, nil)
	for _, x := range []float32{float32(math.NaN()), float32(math.Inf(1))} {
		for _, vectors := range []map[string]*qdrant.Vector{
			{"dense": qdrant.NewVectorDense([]float32{x})}, {"bm25": qdrant.NewVectorSparse([]uint32{1}, []float32{x})},
		} {
			_, err := s.raw.Upsert(t.Context(), &qdrant.UpsertPoints{
				CollectionName: name, Points: []*qdrant.PointStruct{{Id: qdrant.NewIDNum(1), Vectors: qdrant.NewVectorsMap(vectors)}},
			})
			wantCode(t, "upsert", err, codes.InvalidArgument)
		}
		_, err := s.raw.Query(t.Context(), &qdrant.QueryPoints{CollectionName: name, Query: qdrant.NewQueryDense([]float32{x}), Using: new("dense")})
		wantCode(t, "query", err, codes.InvalidArgument)
	}
}

// In Qdrant the statistics follow when segments are merged
// (github.com/qdrant/qdrant/issues/6735), here at once.
func TestStatisticsFollowDeletedPoints(t *testing.T) {
	t.Parallel()
	s := open(t, start(t, t.TempDir(), 0).Address())
	name := s.collection(t, 1, nil)
	for n := range 3 {
		s.upsert(t, name, vector.Point{ID: id(n), Dense: []float32{1}, Sparse: words("whale")})
	}
	s.upsert(t, name, vector.Point{ID: id(2), Dense: []float32{1}, Sparse: words("ship")}) // replaced
	_, err := s.raw.Upsert(t.Context(), &qdrant.UpsertPoints{CollectionName: name, Points: []*qdrant.PointStruct{{
		Id: qdrant.NewIDNum(1), Vectors: qdrant.NewVectorsMap(map[string]*qdrant.Vector{"bm25": qdrant.NewVectorSparse(nil, nil)}),
	}}}) // counts for nothing
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), name, ids(1)); err != nil {
		t.Fatal(err)
	}
	hits := s.search(t, vector.Query{Collection: name, Sparse: query("whale"), Limit: 5})
	if want := math.Log((2-1+0.5)/1.5 + 1); len(hits) != 1 || !near(float64(hits[0].Score), want) {
		t.Errorf("%v, want one hit with %v: it is in one of two", hits, want)
	}
}

// As doc.go says, so that what is found, and cut off, is the same every time.
func TestEqualScoresComeInTheOrderOfIDs(t *testing.T) {
	t.Parallel()
	s := open(t, start(t, t.TempDir(), 0).Address())
	name := s.collection(t, 1, nil)
	for _, n := range []int{3, 1, 4, 2} {
		s.upsert(t, name, vector.Point{ID: id(n), Dense: []float32{1}})
	}
	found, err := s.raw.Query(t.Context(), &qdrant.QueryPoints{
		CollectionName: name, Query: qdrant.NewQueryDense([]float32{1}), Using: new("dense"), Limit: new(uint64(3)),
	})
	if err != nil || len(found) != 3 {
		t.Fatalf("%v (%v)", found, err)
	}
	for i, f := range found {
		if f.GetId().GetUuid() != id(i+1).String() {
			t.Errorf("hit %d is %v", i, f.GetId())
		}
	}
}

func TestReadersAndWritersTogether(t *testing.T) {
	t.Parallel()
	s := open(t, start(t, t.TempDir(), 0).Address())
	name := s.collection(t, 2, map[string]vector.IndexKind{"n": vector.IndexInteger})
	group, ctx := errgroup.WithContext(t.Context())
	for writer := range 2 {
		group.Go(func() error {
			for n := range 50 {
				p := vector.Point{ID: id(writer*1000 + n), Dense: []float32{1, float32(n)}, Sparse: words("book"), Payload: map[string]any{"n": int64(n)}}
				if err := s.Upsert(ctx, name, []vector.Point{p}); err != nil {
					return err
				}
				if n%5 == 4 {
					if err := s.Delete(ctx, name, []uuid.UUID{p.ID}); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	for range 3 {
		group.Go(func() error {
			for range 50 {
				q := vector.Query{Collection: name, Dense: []float32{1, 0}, Sparse: query("book"), Limit: 10, Filter: vector.Filter{Must: []vector.Condition{vector.AtLeast("n", 0)}}}
				if _, err := s.Search(ctx, q); err != nil {
					return err
				}
				if _, _, err := s.Scroll(ctx, name, uuid.Nil, 100); err != nil {
					return err
				}
				if _, err := s.raw.GetCollectionInfo(ctx, name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Count(t.Context(), name); n != 80 || err != nil {
		t.Errorf("%d points (%v), want 80", n, err)
	}
}

func randomPoints(n, dimension int) []vector.Point {
	random := rand.New(rand.NewPCG(1, 2))
	vocabulary := 20_000
	points := make([]vector.Point, n)
	for i := range points {
		p := vector.Point{ID: id(i), Dense: make([]float32, dimension), Payload: map[string]any{
			"category": []string{"fiction", "crime"}, "language": "en", "price": int64(i), "in_stock": i%2 == 0,
		}}
		for d := range p.Dense {
			p.Dense[d] = float32(random.NormFloat64())
		}
		tokens := make([]string, 100)
		for w := range tokens {
			tokens[w] = strconv.Itoa(int(float64(vocabulary) * math.Pow(random.Float64(), 3)))
		}
		p.Sparse = vector.BM25{AverageLength: 100}.Document(tokens)
		points[i] = p
	}
	return points
}

func BenchmarkUpsert1000(b *testing.B) {
	s := open(b, start(b, b.TempDir(), 0).Address())
	name := s.collection(b, 1536, nil)
	points := randomPoints(1000, 1536)
	for b.Loop() {
		s.upsert(b, name, points...)
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "points/s")
}

func BenchmarkSearch(b *testing.B) {
	for _, size := range []int{338, 10_000} {
		s := open(b, start(b, b.TempDir(), 0).Address())
		name := s.collection(b, 1536, nil)
		points := randomPoints(size, 1536)
		s.upsert(b, name, points...)
		sparse := vector.BM25{}.Query([]string{"1", "17", "256", "4096", "16384"})
		filter := vector.Filter{Must: []vector.Condition{vector.Keyword("category", "crime"), vector.IsTrue("in_stock")}}
		for _, c := range []struct {
			name string
			q    vector.Query
		}{
			{"dense", vector.Query{Dense: points[7].Dense}},
			{"sparse", vector.Query{Sparse: sparse}},
			{"hybrid", vector.Query{Dense: points[7].Dense, Sparse: sparse}},
			{"filtered", vector.Query{Dense: points[7].Dense, Sparse: sparse, Filter: filter}},
		} {
			b.Run(fmt.Sprintf("%s/%d", c.name, size), func(b *testing.B) {
				c.q.Collection, c.q.Limit = name, 10
				for b.Loop() {
					s.search(b, c.q)
				}
			})
		}
	}
}
