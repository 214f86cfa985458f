package qdrant_test

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/qdrant/go-client/qdrant"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	server "bookworm/dev/qdrant"
	"bookworm/internal/vector"
)

// realEnv is the host:port of a real Qdrant, without an API key, that the suite
// also runs against.
const realEnv = "QDRANT_TEST_ADDRESS"

// target is a server with both clients: the shop's, and the library's own for what
// the shop does not ask.
type target struct {
	*vector.Client

	raw *qdrant.Client
}

// conform runs a test against the stand-in and, where there is one, a real server.
func conform(t *testing.T, test func(t *testing.T, s target)) {
	t.Helper()
	t.Run("standin", func(t *testing.T) {
		t.Parallel()
		test(t, open(t, start(t, t.TempDir(), 0).Address()))
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		address := os.Getenv(realEnv)
		if address == "" {
			t.Skip(realEnv + " is not set: not tested against a real Qdrant")
		}
		test(t, open(t, address))
	})
}

func start(t testing.TB, dir string, port int) *server.Server {
	t.Helper()
	s, err := server.Start(t.Context(), server.Options{DataDir: dir, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func open(t testing.TB, address string) target {
	t.Helper()
	client, err := vector.Open(vector.Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := qdrant.NewClient(&qdrant.Config{Host: host, Port: number, SkipCompatibilityCheck: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	return target{client, raw}
}

// name returns a name for a collection or alias that no other test uses; the
// collection is dropped at the end.
func (s target) name(t testing.TB) string {
	t.Helper()
	name := "test-" + uuid.NewString()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := s.DropCollection(ctx, name); err != nil {
			t.Errorf("drop %s: %v", name, err)
		}
	})
	return name
}

// collection makes an empty collection.
func (s target) collection(t testing.TB, dimension int, indexes map[string]vector.IndexKind) string {
	t.Helper()
	name := s.name(t)
	if err := s.CreateCollection(t.Context(), name, dimension, indexes); err != nil {
		t.Fatal(err)
	}
	return name
}

func (s target) upsert(t testing.TB, collection string, points ...vector.Point) {
	t.Helper()
	if err := s.Upsert(t.Context(), collection, points); err != nil {
		t.Fatal(err)
	}
}

func (s target) search(t testing.TB, q vector.Query) []vector.Hit {
	t.Helper()
	hits, err := s.Search(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return hits
}

func id(n int) uuid.UUID { return uuid.MustParse(fmt.Sprintf("00000000-0000-7000-8000-%012d", n)) }

func ids(numbers ...int) []uuid.UUID {
	list := make([]uuid.UUID, len(numbers))
	for i, n := range numbers {
		list[i] = id(n)
	}
	return list
}

func idsOf(hits []vector.Hit) []uuid.UUID {
	list := make([]uuid.UUID, len(hits))
	for i, h := range hits {
		list[i] = h.ID
	}
	return list
}

func pointIDs(points []vector.Point) []uuid.UUID {
	list := make([]uuid.UUID, len(points))
	for i, p := range points {
		list[i] = p.ID
	}
	return list
}

func sorted(list []uuid.UUID) []uuid.UUID {
	return slices.SortedFunc(slices.Values(list), func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
}

func words(text string) vector.Sparse { return vector.BM25{}.Document(vector.Tokens(text, "en")) }

func query(text string) vector.Sparse { return vector.BM25{}.Query(vector.Tokens(text, "en")) }

func near(a, b float64) bool { return math.Abs(a-b) < 1e-4 }

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v, want %v: %v", what, got, want, err)
	}
}

func wantIs(t *testing.T, what string, err, want error) {
	t.Helper()
	if !is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		if err := s.Health(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestCreateCollectionMayBeRepeated(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 3, map[string]vector.IndexKind{"category": vector.IndexKeyword})
		s.upsert(t, name, vector.Point{ID: id(1), Dense: []float32{1, 0, 0}})
		all := map[string]vector.IndexKind{
			"category": vector.IndexKeyword, "year": vector.IndexInteger, "rating": vector.IndexFloat, "archived": vector.IndexBool,
		}
		if err := s.CreateCollection(t.Context(), name, 3, all); err != nil {
			t.Fatal("the same layout with more indexes:", err)
		}
		if n, err := s.Count(t.Context(), name); n != 1 || err != nil {
			t.Errorf("%d points (%v), want the 1 of before", n, err)
		}
		info, err := s.raw.GetCollectionInfo(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]qdrant.PayloadSchemaType{
			"category": qdrant.PayloadSchemaType_Keyword, "year": qdrant.PayloadSchemaType_Integer,
			"rating": qdrant.PayloadSchemaType_Float, "archived": qdrant.PayloadSchemaType_Bool,
		}
		for field, kind := range want {
			if got := info.GetPayloadSchema()[field].GetDataType(); got != kind {
				t.Errorf("%s is indexed as %v, want %v", field, got, kind)
			}
		}
		if info.GetConfig().GetParams().GetSparseVectorsConfig().GetMap()["bm25"].GetModifier() != qdrant.Modifier_Idf {
			t.Error("the sparse vector has no IDF modifier")
		}
		err = s.CreateCollection(t.Context(), name, 4, nil)
		wantIs(t, "another dimension", err, vector.ErrLayout)
		err = s.CreateCollection(t.Context(), name, 3, map[string]vector.IndexKind{"year": vector.IndexKeyword})
		wantIs(t, "another index", err, vector.ErrLayout)
		err = s.CreateCollection(t.Context(), s.name(t), 0, nil)
		wantIs(t, "no dimension", err, vector.ErrDimension)
	})
}

func TestCollectionsOfOtherLayoutsAreNotTaken(t *testing.T) {
	t.Parallel()
	dense := func(name string) *qdrant.VectorsConfig {
		return qdrant.NewVectorsConfigMap(map[string]*qdrant.VectorParams{name: {Size: 3, Distance: qdrant.Distance_Cosine}})
	}
	sparse := func(name string, modifier qdrant.Modifier) *qdrant.SparseVectorConfig {
		return qdrant.NewSparseVectorsConfig(map[string]*qdrant.SparseVectorParams{name: {Modifier: &modifier}})
	}
	conform(t, func(t *testing.T, s target) {
		for what, other := range map[string]*qdrant.CreateCollection{
			"another dense name":  {VectorsConfig: dense("text"), SparseVectorsConfig: sparse("bm25", qdrant.Modifier_Idf)},
			"another sparse name": {VectorsConfig: dense("dense"), SparseVectorsConfig: sparse("words", qdrant.Modifier_Idf)},
			"no IDF":              {VectorsConfig: dense("dense"), SparseVectorsConfig: sparse("bm25", qdrant.Modifier_None)},
			"no sparse vector":    {VectorsConfig: dense("dense")},
		} {
			other.CollectionName = s.name(t)
			if err := s.raw.CreateCollection(t.Context(), other); err != nil {
				t.Fatal(err)
			}
			wantIs(t, what, s.CreateCollection(t.Context(), other.GetCollectionName(), 3, nil), vector.ErrLayout)
		}
	})
}

func TestNamesOfCollections(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name, alias := s.collection(t, 3, nil), s.name(t)
		if err := s.SwitchAlias(t.Context(), alias, name); err != nil {
			t.Fatal(err)
		}
		create := func(name string) error {
			return s.raw.CreateCollection(t.Context(), &qdrant.CreateCollection{
				CollectionName: name,
				VectorsConfig:  qdrant.NewVectorsConfigMap(map[string]*qdrant.VectorParams{"dense": {Size: 3, Distance: qdrant.Distance_Cosine}}),
			})
		}
		wantCode(t, "a collection twice", create(name), codes.AlreadyExists)
		wantCode(t, "an alias's name", create(alias), codes.InvalidArgument)
		wantCode(t, "no name", create(""), codes.InvalidArgument)
		wantCode(t, "a path", create("../x"), codes.InvalidArgument)

		names, err := s.Collections(t.Context())
		if err != nil || !slices.Contains(names, name) || slices.Contains(names, alias) || !slices.IsSorted(names) {
			t.Errorf("collections %v (%v), want %s and not %s, sorted", names, err, name, alias)
		}
		for _, what := range []string{"once", "again"} {
			if err := s.DropCollection(t.Context(), name); err != nil {
				t.Errorf("drop %s: %v", what, err)
			}
		}
		if names, err := s.Collections(t.Context()); err != nil || slices.Contains(names, name) {
			t.Errorf("dropped, but still there: %v (%v)", names, err)
		}
		_, err = s.Alias(t.Context(), alias)
		wantIs(t, "the alias of a dropped collection", err, vector.ErrNoCollection)
	})
}

func TestUpsertReplacesAndDeleteRemoves(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 2, nil)
		s.upsert(t, name,
			vector.Point{ID: id(1), Dense: []float32{1, 0}, Sparse: words("whale"), Payload: map[string]any{"a": "before", "b": "before"}},
			vector.Point{ID: id(2), Dense: []float32{0, 1}, Sparse: words("whale"), Payload: map[string]any{"a": "other"}})
		s.upsert(t, name, vector.Point{ID: id(1), Dense: []float32{0, 1}, Payload: map[string]any{"a": "after"}})

		points, _, err := s.Scroll(t.Context(), name, uuid.Nil, 10)
		if err != nil || len(points) != 2 {
			t.Fatalf("%d points (%v), want 2", len(points), err)
		}
		if got := points[0].Payload; len(got) != 1 || got["a"] != "after" {
			t.Errorf("payload %v is not the new one alone", got)
		}
		hits := s.search(t, vector.Query{Collection: name, Sparse: query("whale"), Limit: 10})
		if got := idsOf(hits); !slices.Equal(got, ids(2)) {
			t.Errorf("by words %v: the replaced point kept its old ones", got)
		}
		hits = s.search(t, vector.Query{Collection: name, Dense: []float32{0, 1}, Limit: 10})
		if len(hits) != 2 || !near(float64(hits[0].Score), 1) || !near(float64(hits[1].Score), 1) {
			t.Errorf("%v, want both points in this direction", hits)
		}

		if err := s.Delete(t.Context(), name, ids(2, 99)); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Count(t.Context(), name); n != 1 || err != nil {
			t.Errorf("%d points (%v), want 1", n, err)
		}
		if hits := s.search(t, vector.Query{Collection: name, Sparse: query("whale"), Limit: 10}); len(hits) != 0 {
			t.Errorf("the deleted point is found: %v", hits)
		}
	})
}

func TestUpsertOfManyPoints(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 2, nil)
		points := make([]vector.Point, 600) // more than go in one call
		for i := range points {
			points[i] = vector.Point{ID: id(i), Dense: []float32{1, float32(i)}}
		}
		s.upsert(t, name, points...)
		if n, err := s.Count(t.Context(), name); n != 600 || err != nil {
			t.Errorf("%d points (%v), want 600", n, err)
		}
		s.upsert(t, name) // none at all
	})
}

func TestPayloadRoundTrip(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 1, nil)
		payload := map[string]any{
			"text": "Ça « va »? \x01 \u202e 😀", "empty": "", "list": []string{"a", "b", ""}, "none": []string{},
			"integer": int64(math.MinInt64), "float": 4.25, "whole": 5.0, "true": true, "false": false,
		}
		s.upsert(t, name, vector.Point{ID: id(1), Dense: []float32{1}, Payload: payload})
		points, _, err := s.Scroll(t.Context(), name, uuid.Nil, 1)
		if err != nil || len(points) != 1 {
			t.Fatalf("%v (%v)", points, err)
		}
		if got := fmt.Sprintf("%#v", points[0].Payload); got != fmt.Sprintf("%#v", payload) {
			t.Errorf("got  %s\nwant %#v", got, payload)
		}
		for what, v := range map[string]any{"a number of another size": int32(1), "a list of numbers": []int64{1}, "nothing": nil, "bad UTF-8": "\xff"} {
			err := s.Upsert(t.Context(), name, []vector.Point{{ID: id(2), Dense: []float32{1}, Payload: map[string]any{"x": v}}})
			if err == nil {
				t.Errorf("%s was taken", what)
			}
		}
	})
}

func TestScrollReturnsEveryPointOnceInOrder(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 1, nil)
		var want []uuid.UUID
		for n := range 50 {
			point := vector.Point{ID: uuid.New(), Dense: []float32{1}, Payload: map[string]any{"n": int64(n), "other": "x"}}
			want = append(want, point.ID)
			s.upsert(t, name, point)
		}
		want = sorted(want)
		for _, limit := range []int{1, 7, 25, 49, 50, 51, 1000} {
			var got []uuid.UUID
			after := uuid.Nil
			for pages := 0; ; pages++ {
				points, next, err := s.Scroll(t.Context(), name, after, limit, "n")
				if err != nil {
					t.Fatal(err)
				}
				if len(points) > limit || pages > 50 {
					t.Fatalf("limit %d: %d points on page %d", limit, len(points), pages)
				}
				for _, p := range points {
					if _, ok := p.Payload["n"].(int64); !ok || len(p.Payload) != 1 {
						t.Fatalf("payload %v, want n alone", p.Payload)
					}
				}
				got = append(got, pointIDs(points)...)
				if after = next; after == uuid.Nil {
					break
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("limit %d: %d points, not all once and in order", limit, len(got))
			}
		}
		// The point that a page ended with may be deleted before the next is read.
		if err := s.Delete(t.Context(), name, want[9:10]); err != nil {
			t.Fatal(err)
		}
		points, _, err := s.Scroll(t.Context(), name, want[9], 2)
		if err != nil || !slices.Equal(pointIDs(points), want[10:12]) {
			t.Errorf("behind a deleted point: %v (%v)", pointIDs(points), err)
		}
		for _, limit := range []int{0, -1, math.MaxInt} {
			if _, _, err := s.Scroll(t.Context(), name, uuid.Nil, limit); err == nil {
				t.Errorf("a limit of %d was taken", limit)
			}
		}
		empty, next, err := s.Scroll(t.Context(), s.collection(t, 1, nil), uuid.Nil, 5)
		if len(empty) != 0 || next != uuid.Nil || err != nil {
			t.Errorf("an empty collection: %v, %v, %v", empty, next, err)
		}
	})
}

func TestNumbersComeBeforeUUIDs(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 1, nil)
		wanted := []*qdrant.PointId{qdrant.NewIDNum(2), qdrant.NewIDNum(10), qdrant.NewIDUUID(id(1).String())}
		var points []*qdrant.PointStruct
		for _, id := range []int{2, 0, 1} {
			points = append(points, &qdrant.PointStruct{
				Id: wanted[id], Vectors: qdrant.NewVectorsMap(map[string]*qdrant.Vector{"dense": qdrant.NewVectorDense([]float32{1})}),
			})
		}
		if _, err := s.raw.Upsert(t.Context(), &qdrant.UpsertPoints{CollectionName: name, Wait: new(true), Points: points}); err != nil {
			t.Fatal(err)
		}
		got, next, err := s.raw.ScrollAndOffset(t.Context(), &qdrant.ScrollPoints{CollectionName: name, Limit: new(uint32(2))})
		if err != nil || len(got) != 2 || got[0].GetId().GetNum() != 2 || got[1].GetId().GetNum() != 10 || next.GetUuid() != id(1).String() {
			t.Errorf("%v, next %v (%v)", got, next, err)
		}
		for _, bad := range []*qdrant.PointId{nil, {}, qdrant.NewIDUUID("no-uuid")} {
			_, err := s.raw.Upsert(t.Context(), &qdrant.UpsertPoints{CollectionName: name, Points: []*qdrant.PointStruct{{Id: bad, Vectors: points[0].GetVectors()}}})
			wantCode(t, fmt.Sprintf("the id %v", bad), err, codes.InvalidArgument)
		}
	})
}

func TestVectorsAreReturned(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 2, nil)
		s.upsert(t, name,
			vector.Point{ID: id(2), Dense: []float32{3, 4}, Sparse: vector.Sparse{Indices: []uint32{7, 4294967295}, Values: []float32{0.5, 1.5}}, Payload: map[string]any{"x": "y"}},
			vector.Point{ID: id(1), Dense: []float32{0, -2}})
		points, err := s.Vectors(t.Context(), name, ids(2, 3, 1))
		if err != nil || !slices.Equal(pointIDs(points), ids(1, 2)) {
			t.Fatalf("%v (%v), want the two that exist", points, err)
		}
		if d := points[0].Dense; len(d) != 2 || !near(float64(d[0]), 0) || !near(float64(d[1]), -1) || len(points[0].Sparse.Indices) != 0 {
			t.Errorf("%+v", points[0])
		}
		if d := points[1].Dense; len(d) != 2 || !near(float64(d[0]), 0.6) || !near(float64(d[1]), 0.8) {
			t.Errorf("dense %v, want the vector of length one", d)
		}
		if got := points[1].Sparse; !slices.Equal(got.Indices, []uint32{7, 4294967295}) || !slices.Equal(got.Values, []float32{0.5, 1.5}) {
			t.Errorf("sparse %v", got)
		}
		if points, err := s.Vectors(t.Context(), name, nil); err != nil || len(points) != 0 {
			t.Errorf("of nothing: %v (%v)", points, err)
		}
	})
}

// shelf is a collection of six books that filters are tried on. All have the same
// direction but for a tilt that grows with their number, and the same word.
func shelf(t *testing.T, s target) string {
	t.Helper()
	name := s.collection(t, 2, map[string]vector.IndexKind{
		"category": vector.IndexKeyword, "language": vector.IndexKeyword, "price": vector.IndexInteger,
		"rating": vector.IndexFloat, "in_stock": vector.IndexBool,
	})
	for n, payload := range []map[string]any{
		{"category": []string{"fiction", "crime"}, "language": "en", "price": int64(500), "rating": 4.5, "in_stock": true},
		{"category": []string{"fiction"}, "language": "es", "price": int64(1000), "rating": 3.0, "in_stock": true},
		{"category": []string{"history"}, "language": "en", "price": int64(1500), "rating": 4.0, "in_stock": false},
		{"category": []string{}, "language": "fr", "price": int64(2000), "rating": 5.0, "in_stock": true},
		{"category": []string{"crime"}, "language": "en", "price": int64(2500), "in_stock": false}, // nobody has rated it
		{}, // nothing is known of it
	} {
		s.upsert(t, name, vector.Point{ID: id(n + 1), Dense: []float32{1, 0.1 * float32(n)}, Sparse: words("book"), Payload: payload})
	}
	return name
}

func TestFiltersHoldInEverySearch(t *testing.T) {
	t.Parallel()
	must := func(c ...vector.Condition) vector.Filter { return vector.Filter{Must: c} }
	mustNot := func(c ...vector.Condition) vector.Filter { return vector.Filter{MustNot: c} }
	cases := map[string]struct {
		filter vector.Filter
		want   []int
	}{
		"none":                     {vector.Filter{}, []int{1, 2, 3, 4, 5, 6}},
		"keyword in a list":        {must(vector.Keyword("category", "crime")), []int{1, 5}},
		"keyword":                  {must(vector.Keyword("language", "en")), []int{1, 3, 5}},
		"one of several keywords":  {must(vector.Keyword("language", "es", "fr", "xx")), []int{2, 4}},
		"a keyword nobody has":     {must(vector.Keyword("language", "EN")), nil},
		"no keyword to choose":     {must(vector.Keyword("language")), nil},
		"at least, integer":        {must(vector.AtLeast("price", 1500)), []int{3, 4, 5}},
		"at most, integer":         {must(vector.AtMost("price", 1000)), []int{1, 2}},
		"between":                  {must(vector.AtLeast("price", 999.5), vector.AtMost("price", 2000)), []int{2, 3, 4}},
		"at least, float":          {must(vector.AtLeast("rating", 4)), []int{1, 3, 4}},
		"true":                     {must(vector.IsTrue("in_stock")), []int{1, 2, 4}},
		"ids":                      {must(vector.HasID(ids(2, 6, 77)...)), []int{2, 6}},
		"no ids":                   {must(vector.HasID()), nil},
		"not a keyword":            {mustNot(vector.Keyword("category", "fiction")), []int{3, 4, 5, 6}},
		"not cheap":                {mustNot(vector.AtMost("price", 1000)), []int{3, 4, 5, 6}},
		"not true":                 {mustNot(vector.IsTrue("in_stock")), []int{3, 5, 6}},
		"not these":                {mustNot(vector.HasID(ids(1, 2, 3)...)), []int{4, 5, 6}},
		"all of several, and none": {vector.Filter{Must: []vector.Condition{vector.Keyword("language", "en"), vector.AtMost("price", 2000)}, MustNot: []vector.Condition{vector.HasID(id(1))}}, []int{3}},
		"a field of another kind":  {must(vector.Keyword("price", "500")), nil},
		"a field nobody has":       {must(vector.Keyword("color", "red")), nil},
	}
	conform(t, func(t *testing.T, s target) {
		name := shelf(t, s)
		for what, c := range cases {
			for leg, q := range map[string]vector.Query{
				"dense": {Dense: []float32{1, 0}}, "sparse": {Sparse: query("book")}, "hybrid": {Dense: []float32{1, 0}, Sparse: query("book")},
			} {
				q.Collection, q.Filter, q.Limit = name, c.filter, 10
				if got := sorted(idsOf(s.search(t, q))); !slices.Equal(got, ids(c.want...)) {
					t.Errorf("%s, %s: %v, want %v", what, leg, got, c.want)
				}
			}
		}
	})
}

// A leg is filtered before it is cut, or the fused search would find too little.
func TestFiltersHoldInsideTheLegs(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 2, nil)
		points := make([]vector.Point, 300) // more than a leg takes
		for i := range points {
			points[i] = vector.Point{ID: id(i), Dense: []float32{1, float32(i)}, Sparse: words("book"), Payload: map[string]any{"last": i >= 295}}
		}
		s.upsert(t, name, points...)
		hits := s.search(t, vector.Query{
			Collection: name, Dense: []float32{1, 0}, Sparse: query("book"), Limit: 10,
			Filter: vector.Filter{Must: []vector.Condition{vector.IsTrue("last")}},
		})
		if got := sorted(idsOf(hits)); !slices.Equal(got, ids(295, 296, 297, 298, 299)) {
			t.Errorf("%v, want the last five", got)
		}
		hits = s.search(t, vector.Query{Collection: name, Dense: []float32{1, 0}, Sparse: query("book"), Limit: 250})
		if len(hits) != 250 {
			t.Errorf("%d hits, want 250", len(hits))
		}
	})
}

func TestFiltersOfTheProtocol(t *testing.T) {
	t.Parallel()
	is := qdrant.NewMatchKeyword
	cases := map[string]struct {
		filter *qdrant.Filter
		want   []int
	}{
		"integer":          {&qdrant.Filter{Must: []*qdrant.Condition{qdrant.NewMatchInt("price", 500)}}, []int{1}},
		"integers":         {&qdrant.Filter{Must: []*qdrant.Condition{qdrant.NewMatchInts("price", 500, 2500, 7)}}, []int{1, 5}},
		"false":            {&qdrant.Filter{Must: []*qdrant.Condition{qdrant.NewMatchBool("in_stock", false)}}, []int{3, 5}},
		"open range":       {&qdrant.Filter{Must: []*qdrant.Condition{qdrant.NewRange("price", &qdrant.Range{Gt: new(500.0), Lt: new(2000.0)})}}, []int{2, 3}},
		"should":           {&qdrant.Filter{Should: []*qdrant.Condition{is("language", "fr"), is("category", "crime")}}, []int{1, 4, 5}},
		"should and must":  {&qdrant.Filter{Should: []*qdrant.Condition{is("language", "fr"), is("category", "crime")}, Must: []*qdrant.Condition{is("language", "en")}}, []int{1, 5}},
		"filter in filter": {&qdrant.Filter{MustNot: []*qdrant.Condition{qdrant.NewFilterAsCondition(&qdrant.Filter{Should: []*qdrant.Condition{is("language", "en"), is("language", "es")}})}}, []int{4, 6}},
	}
	conform(t, func(t *testing.T, s target) {
		name := shelf(t, s)
		for what, c := range cases {
			found, err := s.raw.Scroll(t.Context(), &qdrant.ScrollPoints{CollectionName: name, Filter: c.filter})
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			var got []uuid.UUID
			for _, f := range found {
				got = append(got, uuid.MustParse(f.GetId().GetUuid()))
			}
			if !slices.Equal(got, ids(c.want...)) {
				t.Errorf("%s: %v, want %v", what, got, c.want)
			}
			count, err := s.raw.Count(t.Context(), &qdrant.CountPoints{CollectionName: name, Filter: c.filter, Exact: new(true)})
			if err != nil || count != uint64(len(c.want)) {
				t.Errorf("%s: %d points (%v), want %d", what, count, err, len(c.want))
			}
		}
		_, err := s.raw.Delete(t.Context(), &qdrant.DeletePoints{
			CollectionName: name, Wait: new(true), Points: qdrant.NewPointsSelectorFilter(cases["should"].filter),
		})
		if err != nil {
			t.Fatal(err)
		}
		left, _, err := s.Scroll(t.Context(), name, uuid.Nil, 10)
		if err != nil || !slices.Equal(pointIDs(left), ids(2, 3, 6)) {
			t.Errorf("after a delete by filter: %v (%v)", pointIDs(left), err)
		}
	})
}

// ranks is a collection where the dense order for (1, 0) is 1 2 3 4, and the order
// for the word whale is 4 3 2 and not 1.
func ranks(t *testing.T, s target) string {
	t.Helper()
	name := s.collection(t, 2, nil)
	whale := query("whale").Indices
	for n, weight := range []float32{0, 1, 2, 3} {
		p := vector.Point{ID: id(n + 1), Dense: []float32{1, 0.2 * float32(n)}, Payload: map[string]any{"n": int64(n + 1)}}
		if weight > 0 {
			p.Sparse = vector.Sparse{Indices: whale, Values: []float32{weight}}
		}
		s.upsert(t, name, p)
	}
	return name
}

// The ranks from 0: by meaning 1:0 2:1 3:2 4:3, by words 4:0 3:1 2:2. With k:
//
//	point     k = 61 (the shop's)         k = 2 (Qdrant's)
//	1         1/61          = 0.016393    1/2        = 0.500000
//	2         1/62 + 1/63   = 0.032002    1/3 + 1/4  = 0.583333
//	3         1/63 + 1/62   = 0.032002    1/4 + 1/3  = 0.583333
//	4         1/64 + 1/61   = 0.032018    1/5 + 1/2  = 0.700000
func TestFusionByRank(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := ranks(t, s)
		hits := s.search(t, vector.Query{Collection: name, Dense: []float32{1, 0}, Sparse: query("whale"), Limit: 10})
		if got := idsOf(hits); !slices.Equal(got, ids(4, 2, 3, 1)) {
			t.Errorf("order %v, want 4 2 3 1", got)
		}
		// 4 is the best only because its place in the other leg is known as well.
		best := s.search(t, vector.Query{Collection: name, Dense: []float32{1, 0}, Sparse: query("whale"), Limit: 1})
		if got := idsOf(best); !slices.Equal(got, ids(4)) {
			t.Errorf("the best is %v, want 4", got)
		}
		for i, want := range []float64{0.032018, 0.032002, 0.032002, 0.016393} {
			if i < len(hits) && math.Abs(float64(hits[i].Score)-want) > 1e-6 {
				t.Errorf("score %d is %v, want %v", i, hits[i].Score, want)
			}
		}

		legs := func(limit uint64) []*qdrant.PrefetchQuery {
			sparse := query("whale")
			return []*qdrant.PrefetchQuery{
				{Query: qdrant.NewQueryDense([]float32{1, 0}), Using: new("dense"), Limit: &limit},
				{Query: qdrant.NewQuerySparse(sparse.Indices, sparse.Values), Using: new("bm25"), Limit: &limit},
			}
		}
		for what, c := range map[string]struct {
			query *qdrant.Query
			legs  []*qdrant.PrefetchQuery
			want  map[int]float64
		}{
			"Qdrant's k":  {qdrant.NewQueryFusion(qdrant.Fusion_RRF), legs(10), map[int]float64{1: 0.5, 2: 0.583333, 3: 0.583333, 4: 0.7}},
			"no k":        {qdrant.NewQueryRRF(&qdrant.Rrf{}), legs(10), map[int]float64{1: 0.5, 2: 0.583333, 3: 0.583333, 4: 0.7}},
			"k 1":         {qdrant.NewQueryRRF(&qdrant.Rrf{K: new(uint32(1))}), legs(10), map[int]float64{1: 1, 2: 0.833333, 3: 0.833333, 4: 1.25}},
			"short legs":  {qdrant.NewQueryFusion(qdrant.Fusion_RRF), legs(2), map[int]float64{1: 0.5, 2: 0.333333, 3: 0.333333, 4: 0.5}},
			"one leg":     {qdrant.NewQueryFusion(qdrant.Fusion_RRF), legs(2)[1:], map[int]float64{4: 0.5, 3: 0.333333}},
			"leg's limit": {qdrant.NewQueryFusion(qdrant.Fusion_RRF), legs(1), map[int]float64{1: 0.5, 4: 0.5}},
			// 1/((rank+1)/weight + k - 1): with 3 by meaning 1/(1/3+1) and so on, with 1 by words as before.
			"weights": {
				qdrant.NewQueryRRF(&qdrant.Rrf{Weights: []float32{3, 1}}), legs(10),
				map[int]float64{1: 0.75, 2: 0.6 + 0.25, 3: 0.5 + 1.0/3, 4: 1/(4.0/3+1) + 0.5},
			},
		} {
			found, err := s.raw.Query(t.Context(), &qdrant.QueryPoints{CollectionName: name, Prefetch: c.legs, Query: c.query})
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			if len(found) != len(c.want) {
				t.Errorf("%s: %d hits, want %d", what, len(found), len(c.want))
			}
			for n, want := range c.want {
				i := slices.IndexFunc(found, func(p *qdrant.ScoredPoint) bool { return p.GetId().GetUuid() == id(n).String() })
				if i < 0 || !near(float64(found[i].GetScore()), want) {
					t.Errorf("%s: %v, want %v for %d", what, found, want, n)
				}
			}
			if !slices.IsSortedFunc(found, func(a, b *qdrant.ScoredPoint) int { return cmp.Compare(b.GetScore(), a.GetScore()) }) {
				t.Errorf("%s: not the best first: %v", what, found)
			}
		}

		for what, r := range map[string]*qdrant.QueryPoints{
			"k 0":             {Query: qdrant.NewQueryRRF(&qdrant.Rrf{K: new(uint32(0))}), Prefetch: legs(10)},
			"too few weights": {Query: qdrant.NewQueryRRF(&qdrant.Rrf{Weights: []float32{1}}), Prefetch: legs(10)},
			"no legs":         {Query: qdrant.NewQueryFusion(qdrant.Fusion_RRF)},
		} {
			r.CollectionName = name
			_, err := s.raw.Query(t.Context(), r)
			wantCode(t, what, err, codes.InvalidArgument)
		}
	})
}

// The outer filter of a fused query holds in its legs too.
func TestOuterFilterReachesTheLegs(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := ranks(t, s)
		found, err := s.raw.Query(t.Context(), &qdrant.QueryPoints{
			CollectionName: name, Query: qdrant.NewQueryFusion(qdrant.Fusion_RRF),
			Filter: &qdrant.Filter{MustNot: []*qdrant.Condition{qdrant.NewMatchInts("n", 1, 2)}},
			Prefetch: []*qdrant.PrefetchQuery{{
				Query: qdrant.NewQueryDense([]float32{1, 0}), Using: new("dense"), Limit: new(uint64(1)),
				Filter: &qdrant.Filter{MustNot: []*qdrant.Condition{qdrant.NewMatchInt("n", 3)}},
			}},
		})
		if err != nil || len(found) != 1 || found[0].GetId().GetUuid() != id(4).String() {
			t.Errorf("%v (%v), want point 4 alone", found, err)
		}
	})
}

func TestRareWordsCountMore(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 1, nil)
		// Ten books: "novel" is in nine of them, "ambergris" in one, the tenth has neither
		// and no words at all, so that it does not count.
		for n := range 9 {
			text := "novel"
			if n == 8 {
				text = "novel ambergris"
			}
			s.upsert(t, name, vector.Point{ID: id(n), Dense: []float32{1}, Sparse: words(text)})
		}
		s.upsert(t, name, vector.Point{ID: id(9), Dense: []float32{1}})

		hits := s.search(t, vector.Query{Collection: name, Sparse: query("novel ambergris"), Limit: 20})
		if len(hits) != 9 || hits[0].ID != id(8) {
			t.Fatalf("%v, want the nine with a word, 8 first", hits)
		}
		// A word that occurs once in a text of average length weighs 1·2.2/(1+1.2) = 1.
		novel := math.Log(0.5/(9+0.5) + 1) // 9 - 9 do not have it
		ambergris := math.Log((9-1+0.5)/(1+0.5) + 1)
		if got := float64(hits[0].Score); !near(got, novel+ambergris) {
			t.Errorf("score %v, want %v", got, novel+ambergris)
		}
		if got := float64(hits[1].Score); !near(got, novel) {
			t.Errorf("score %v, want %v", got, novel)
		}
		// Alone, ten times as often in its text, the frequent word still loses.
		often := words(strings.Repeat("novel ", 10))
		s.upsert(t, name, vector.Point{ID: id(9), Dense: []float32{1}, Sparse: often})
		hits = s.search(t, vector.Query{Collection: name, Sparse: query("novel ambergris"), Limit: 20})
		if len(hits) != 10 || hits[0].ID != id(8) || hits[1].ID != id(9) {
			t.Errorf("%v, want 8 then 9", hits)
		}
	})
}

func TestCosineIgnoresLength(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 2, nil)
		s.upsert(t, name,
			vector.Point{ID: id(1), Dense: []float32{0.001, 0.001}},
			vector.Point{ID: id(2), Dense: []float32{1000, 0}},
			vector.Point{ID: id(3), Dense: []float32{-5, 0}})
		hits := s.search(t, vector.Query{Collection: name, Dense: []float32{30, 40}, Limit: 10})
		if got := idsOf(hits); !slices.Equal(got, ids(1, 2, 3)) {
			t.Errorf("order %v, want 1 2 3", got)
		}
		for i, want := range []float64{0.989949, 0.6, -0.6} {
			if !near(float64(hits[i].Score), want) {
				t.Errorf("cosine %d is %v, want %v", i, hits[i].Score, want)
			}
		}
	})
}

func TestAliases(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		blue, green, alias := s.collection(t, 1, nil), s.collection(t, 1, nil), s.name(t)
		s.upsert(t, blue, vector.Point{ID: id(1), Dense: []float32{1}})
		s.upsert(t, green, vector.Point{ID: id(2), Dense: []float32{1}})

		_, err := s.Alias(t.Context(), alias)
		wantIs(t, "an alias that is not there", err, vector.ErrNoCollection)
		wantIs(t, "an alias for nothing", s.SwitchAlias(t.Context(), alias, s.name(t)), vector.ErrNoCollection)
		for n, collection := range []string{blue, green, green, blue} {
			if err := s.SwitchAlias(t.Context(), alias, collection); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Alias(t.Context(), alias); got != collection || err != nil {
				t.Errorf("switch %d: %s (%v), want %s", n, got, err, collection)
			}
			hits := s.search(t, vector.Query{Collection: alias, Dense: []float32{1}, Limit: 1})
			if want := map[string]uuid.UUID{blue: id(1), green: id(2)}[collection]; len(hits) != 1 || hits[0].ID != want {
				t.Errorf("switch %d: %v, want %v", n, hits, want)
			}
		}
		wantIs(t, "a switch to nothing", s.SwitchAlias(t.Context(), alias, s.name(t)), vector.ErrNoCollection)
		if got, err := s.Alias(t.Context(), alias); got != blue || err != nil {
			t.Errorf("after a refused switch: %s (%v), want %s", got, err, blue)
		}
		// An alias serves in every call, not only in searches.
		s.upsert(t, alias, vector.Point{ID: id(3), Dense: []float32{1}})
		if n, err := s.Count(t.Context(), blue); n != 2 || err != nil {
			t.Errorf("%d points (%v), want 2", n, err)
		}
		wantCode(t, "an alias for nothing", s.raw.CreateAlias(t.Context(), alias, s.name(t)), codes.NotFound)
		wantCode(t, "an alias with a collection's name", s.raw.CreateAlias(t.Context(), green, blue), codes.AlreadyExists)
		if err := s.raw.RenameAlias(t.Context(), alias, alias+"2"); err != nil {
			t.Error(err)
		}
		wantCode(t, "rename an alias that is not there", s.raw.RenameAlias(t.Context(), alias, alias+"3"), codes.NotFound)
		if got, err := s.raw.ListCollectionAliases(t.Context(), blue); err != nil || !slices.Equal(got, []string{alias + "2"}) {
			t.Errorf("aliases of blue: %v (%v)", got, err)
		}
		if err := s.raw.DeleteAlias(t.Context(), alias+"2"); err != nil {
			t.Error(err)
		}
	})
}

func TestSearchesNeverFailWhileTheAliasIsSwitched(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		blue, green, alias := s.collection(t, 1, nil), s.collection(t, 1, nil), s.name(t)
		s.upsert(t, blue, vector.Point{ID: id(1), Dense: []float32{1}, Sparse: words("book")})
		s.upsert(t, green, vector.Point{ID: id(1), Dense: []float32{1}, Sparse: words("book")})
		if err := s.SwitchAlias(t.Context(), alias, blue); err != nil {
			t.Fatal(err)
		}
		var searches atomic.Int64
		done := make(chan struct{})
		group, ctx := errgroup.WithContext(t.Context())
		for range 4 {
			group.Go(func() error {
				for {
					select {
					case <-done:
						return nil
					default:
					}
					hits, err := s.Search(ctx, vector.Query{Collection: alias, Dense: []float32{1}, Sparse: query("book"), Limit: 1})
					if err != nil {
						return err
					}
					if len(hits) != 1 {
						return fmt.Errorf("%d hits", len(hits))
					}
					searches.Add(1)
				}
			})
		}
		group.Go(func() error {
			defer close(done)
			for n := 0; n < 50 || searches.Load() < 200; n++ {
				if err := s.SwitchAlias(ctx, alias, []string{green, blue}[n%2]); err != nil {
					return err
				}
			}
			return nil
		})
		if err := group.Wait(); err != nil {
			t.Errorf("after %d searches: %v", searches.Load(), err)
		}
	})
}

func TestWrongDimension(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 3, nil)
		for _, dense := range [][]float32{{1}, {1, 2}, {1, 2, 3, 4}} {
			err := s.Upsert(t.Context(), name, []vector.Point{{ID: id(1), Dense: []float32{1, 2, 3}}, {ID: id(2), Dense: dense}})
			wantIs(t, fmt.Sprintf("upsert of %d", len(dense)), err, vector.ErrDimension)
			_, err = s.Search(t.Context(), vector.Query{Collection: name, Dense: dense, Limit: 1})
			wantIs(t, fmt.Sprintf("search for %d", len(dense)), err, vector.ErrDimension)
			_, err = s.Search(t.Context(), vector.Query{Collection: name, Dense: dense, Sparse: query("x"), Limit: 1})
			wantIs(t, fmt.Sprintf("hybrid search for %d", len(dense)), err, vector.ErrDimension)
		}
		_, err := s.raw.Query(t.Context(), &qdrant.QueryPoints{CollectionName: name, Query: qdrant.NewQueryDense(nil), Using: new("dense")})
		wantCode(t, "an empty vector", err, codes.InvalidArgument)
	})
}

func TestWrongVectorNames(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 1, nil)
		for what, vectors := range map[string]map[string]*qdrant.Vector{
			"unknown":          {"text": qdrant.NewVectorDense([]float32{1})},
			"dense for sparse": {"bm25": qdrant.NewVectorDense([]float32{1})},
			"sparse for dense": {"dense": qdrant.NewVectorSparse([]uint32{1}, []float32{1})},
		} {
			_, err := s.raw.Upsert(t.Context(), &qdrant.UpsertPoints{
				CollectionName: name, Wait: new(true),
				Points: []*qdrant.PointStruct{{Id: qdrant.NewIDNum(1), Vectors: qdrant.NewVectorsMap(vectors)}},
			})
			wantCode(t, "upsert "+what, err, codes.InvalidArgument)
		}
		for what, q := range map[string]*qdrant.QueryPoints{
			"unknown":          {Query: qdrant.NewQueryDense([]float32{1}), Using: new("text")},
			"no name":          {Query: qdrant.NewQueryDense([]float32{1})},
			"dense for sparse": {Query: qdrant.NewQueryDense([]float32{1}), Using: new("bm25")},
			"sparse for dense": {Query: qdrant.NewQuerySparse([]uint32{1}, []float32{1}), Using: new("dense")},
		} {
			q.CollectionName = name
			_, err := s.raw.Query(t.Context(), q)
			wantCode(t, "query "+what, err, codes.InvalidArgument)
		}
	})
}

func TestMissingCollection(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.name(t)
		ctx := t.Context()
		for what, call := range map[string]func() error{
			"upsert":  func() error { return s.Upsert(ctx, name, []vector.Point{{ID: id(1), Dense: []float32{1}}}) },
			"delete":  func() error { return s.Delete(ctx, name, ids(1)) },
			"count":   func() error { _, err := s.Count(ctx, name); return err },
			"scroll":  func() error { _, _, err := s.Scroll(ctx, name, uuid.Nil, 1); return err },
			"vectors": func() error { _, err := s.Vectors(ctx, name, ids(1)); return err },
			"dense": func() error {
				_, err := s.Search(ctx, vector.Query{Collection: name, Dense: []float32{1}, Limit: 1})
				return err
			},
			"hybrid": func() error {
				_, err := s.Search(ctx, vector.Query{Collection: name, Dense: []float32{1}, Sparse: query("x"), Limit: 1})
				return err
			},
		} {
			wantIs(t, what, call(), vector.ErrNoCollection)
		}
		_, err := s.raw.CreateFieldIndex(ctx, &qdrant.CreateFieldIndexCollection{
			CollectionName: name, FieldName: "x", FieldType: qdrant.FieldType_FieldTypeKeyword.Enum(), Wait: new(true),
		})
		wantCode(t, "index", err, codes.NotFound)
		_, err = s.raw.GetCollectionInfo(ctx, name)
		wantCode(t, "info", err, codes.NotFound)
		if exists, err := s.raw.CollectionExists(ctx, name); exists || err != nil {
			t.Errorf("exists: %v (%v)", exists, err)
		}
	})
}

func TestLimits(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 2, nil)
		points := make([]vector.Point, 30)
		for i := range points {
			points[i] = vector.Point{ID: id(i), Dense: []float32{1, float32(i)}, Sparse: vector.Sparse{Indices: []uint32{1}, Values: []float32{float32(30 - i)}}}
		}
		s.upsert(t, name, points...)
		both := vector.Query{Collection: name, Dense: []float32{1, 0}, Sparse: vector.Sparse{Indices: []uint32{1}, Values: []float32{1}}}
		for _, q := range []vector.Query{{Collection: name, Dense: both.Dense}, {Collection: name, Sparse: both.Sparse}, both} {
			for limit, want := range map[int]int{1: 1, 29: 29, 30: 30, 31: 30, 5000: 30} {
				q.Limit = limit
				hits := s.search(t, q)
				if len(hits) != want || hits[0].ID != id(0) {
					t.Errorf("limit %d: %d hits, want %d, 0 first", limit, len(hits), want)
				}
			}
			for _, limit := range []int{0, -1} {
				q.Limit = limit
				if _, err := s.Search(t.Context(), q); err == nil {
					t.Errorf("a limit of %d was taken", limit)
				}
			}
		}
		ask := func(limit, offset *uint64) ([]*qdrant.ScoredPoint, error) {
			return s.raw.Query(t.Context(), &qdrant.QueryPoints{
				CollectionName: name, Query: qdrant.NewQueryDense([]float32{1, 0}), Using: new("dense"), Limit: limit, Offset: offset,
			})
		}
		if found, err := ask(nil, nil); err != nil || len(found) != 10 {
			t.Errorf("without a limit: %d hits (%v), want 10", len(found), err)
		}
		if found, err := ask(new(uint64(5)), new(uint64(27))); err != nil || len(found) != 3 || found[0].GetId().GetUuid() != id(27).String() {
			t.Errorf("from 27: %v (%v)", found, err)
		}
		if found, err := ask(nil, new(uint64(1000))); err != nil || len(found) != 0 {
			t.Errorf("behind the end: %v (%v)", found, err)
		}
		_, err := ask(new(uint64(0)), nil)
		wantCode(t, "a limit of 0", err, codes.InvalidArgument)
		_, err = s.raw.Scroll(t.Context(), &qdrant.ScrollPoints{CollectionName: name, Limit: new(uint32(0))})
		wantCode(t, "a scroll of 0", err, codes.InvalidArgument)
	})
}

func TestAnswersHoldWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := ranks(t, s)
		ask := func(payload *qdrant.WithPayloadSelector, vectors *qdrant.WithVectorsSelector) *qdrant.ScoredPoint {
			t.Helper()
			found, err := s.raw.Query(t.Context(), &qdrant.QueryPoints{
				CollectionName: name, Query: qdrant.NewQueryDense([]float32{1, 0}), Using: new("dense"),
				WithPayload: payload, WithVectors: vectors, Filter: &qdrant.Filter{Must: []*qdrant.Condition{qdrant.NewMatchInt("n", 4)}},
			})
			if err != nil || len(found) != 1 {
				t.Fatalf("%v (%v)", found, err)
			}
			return found[0]
		}
		if p := ask(nil, nil); len(p.GetPayload()) != 0 || p.GetVectors() != nil {
			t.Errorf("nothing was asked for: %v", p)
		}
		if p := ask(qdrant.NewWithPayload(true), qdrant.NewWithVectors(true)); p.GetPayload()["n"].GetIntegerValue() != 4 ||
			len(p.GetVectors().GetVectors().GetVectors()["dense"].GetDenseVector().GetData()) != 2 ||
			len(p.GetVectors().GetVectors().GetVectors()["bm25"].GetSparseVector().GetIndices()) != 1 {
			t.Errorf("all was asked for: %v", p)
		}
		if p := ask(qdrant.NewWithPayloadInclude("other"), qdrant.NewWithVectorsInclude("bm25")); len(p.GetPayload()) != 0 ||
			len(p.GetVectors().GetVectors().GetVectors()) != 1 {
			t.Errorf("the sparse vector alone was asked for: %v", p)
		}
	})
}

func TestMalformedVectors(t *testing.T) {
	t.Parallel()
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 2, nil)
		good := []float32{1, 0}
		for what, c := range map[string]struct {
			dense  []float32
			sparse vector.Sparse
			want   error
		}{
			"NaN":                 {[]float32{nan, 1}, vector.Sparse{}, vector.ErrVector},
			"infinity":            {[]float32{inf, 1}, vector.Sparse{}, vector.ErrVector},
			"minus infinity":      {[]float32{1, -inf}, vector.Sparse{}, vector.ErrVector},
			"too long to square":  {[]float32{math.MaxFloat32, 1}, vector.Sparse{}, vector.ErrVector},
			"zero":                {[]float32{0, 0}, vector.Sparse{}, vector.ErrVector},
			"NaN, sparse":         {good, vector.Sparse{Indices: []uint32{1}, Values: []float32{nan}}, vector.ErrVector},
			"infinity, sparse":    {good, vector.Sparse{Indices: []uint32{1}, Values: []float32{-inf}}, vector.ErrVector},
			"an index twice":      {good, vector.Sparse{Indices: []uint32{1, 2, 1}, Values: []float32{1, 1, 1}}, vector.ErrVector},
			"fewer values":        {good, vector.Sparse{Indices: []uint32{1, 2}, Values: []float32{1}}, vector.ErrVector},
			"values only, sparse": {good, vector.Sparse{Values: []float32{1}}, vector.ErrVector},
		} {
			err := s.Upsert(t.Context(), name, []vector.Point{{ID: id(1), Dense: c.dense, Sparse: c.sparse}})
			wantIs(t, "upsert "+what, err, c.want)
			_, err = s.Search(t.Context(), vector.Query{Collection: name, Dense: c.dense, Sparse: c.sparse, Limit: 1})
			wantIs(t, "search "+what, err, c.want)
		}
		wantIs(t, "upsert of nothing", s.Upsert(t.Context(), name, []vector.Point{{ID: id(1)}}), vector.ErrDimension)
		_, err := s.Search(t.Context(), vector.Query{Collection: name, Limit: 1})
		wantIs(t, "search for nothing", err, vector.ErrVector)

		for what, v := range map[string]*qdrant.Vector{
			"an index twice": qdrant.NewVectorSparse([]uint32{1, 1}, []float32{1, 2}),
			"fewer values":   qdrant.NewVectorSparse([]uint32{1, 2}, []float32{1}),
		} {
			_, err := s.raw.Upsert(t.Context(), &qdrant.UpsertPoints{
				CollectionName: name, Wait: new(true),
				Points: []*qdrant.PointStruct{{Id: qdrant.NewIDNum(1), Vectors: qdrant.NewVectorsMap(map[string]*qdrant.Vector{"bm25": v})}},
			})
			wantCode(t, "raw upsert "+what, err, codes.InvalidArgument)
		}
		if n, err := s.Count(t.Context(), name); n != 0 || err != nil {
			t.Errorf("%d points (%v): some of that was stored", n, err)
		}
	})
}

// A sparse vector without elements is stored and found by nothing
// (github.com/qdrant/qdrant/pull/3057).
func TestEmptySparseVectors(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T, s target) {
		name := s.collection(t, 1, nil)
		_, err := s.raw.Upsert(t.Context(), &qdrant.UpsertPoints{
			CollectionName: name, Wait: new(true),
			Points: []*qdrant.PointStruct{{Id: qdrant.NewIDNum(1), Vectors: qdrant.NewVectorsMap(map[string]*qdrant.Vector{
				"dense": qdrant.NewVectorDense([]float32{1}), "bm25": qdrant.NewVectorSparse(nil, nil),
			})}},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range []vector.Sparse{{}, query("anything")} {
			found, err := s.raw.Query(t.Context(), &qdrant.QueryPoints{
				CollectionName: name, Query: qdrant.NewQuerySparse(q.Indices, q.Values), Using: new("bm25"),
			})
			if err != nil || len(found) != 0 {
				t.Errorf("%v: %v (%v), want no hits", q, found, err)
			}
		}
	})
}
