package catalogtest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	model "bookworm/dev/llm"
	"bookworm/dev/qdrant"
	"bookworm/internal/catalog"
	"bookworm/internal/catalog/seed"
	"bookworm/internal/llm"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
	"bookworm/internal/vector"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func migrate(ctx context.Context, url string) error {
	return postgres.Migrate(ctx, url, catalog.Schema)
}

const (
	embedding = "letters"
	dimension = 256
	// patience is how long a test waits for what happens on its own.
	patience = 30 * time.Second
)

// library is a catalogue with its index: its own database, Qdrant and model.
type library struct {
	*catalog.Store

	db       *pgxpool.Pool
	url      string // of the database
	vectors  *vector.Client
	model    *model.Server
	indexer  *catalog.Indexer
	searcher *catalog.Searcher
	log      *logged

	dir    string
	qdrant *qdrant.Server
}

// setup is a library whose books are not indexed yet.
func setup(t testing.TB) *library {
	t.Helper()
	l := &library{dir: t.TempDir(), log: &logged{}, url: pgtest.DB(t, migrate)}
	var err error
	if l.db, err = postgres.Open(t.Context(), l.url, catalog.Schema.Name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.db.Close)
	l.startQdrant(t, 0)
	t.Cleanup(func() { l.qdrant.Stop() })
	if l.vectors, err = vector.Open(vector.Config{Address: l.qdrant.Address()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.vectors.Close() })
	if l.model, err = model.Start(t.Context(), model.Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.model.Stop)
	l.Store = catalog.NewStore(l.db)
	l.indexer = l.newIndexer(t, embedding, dimension)
	l.searcher = l.newSearcher(t, l.indexer.Embedder)
	return l
}

// seeded is a library with the seed catalogue, indexed.
func seeded(t testing.TB) (*library, []seed.Book) {
	t.Helper()
	l := setup(t)
	books, err := seed.Books()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Seed(t.Context(), books); err != nil {
		t.Fatal(err)
	}
	l.rebuild(t, l.indexer, "test")
	return l, books
}

func (l *library) startQdrant(t testing.TB, port int) {
	t.Helper()
	var err error
	l.qdrant, err = qdrant.Start(context.WithoutCancel(t.Context()), qdrant.Options{DataDir: l.dir, Port: port, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
}

// outage takes Qdrant away, lets f happen and brings it back at the same address.
func (l *library) outage(t *testing.T, f func()) {
	t.Helper()
	_, port, err := net.SplitHostPort(l.qdrant.Address())
	if err != nil {
		t.Fatal(err)
	}
	l.qdrant.Stop()
	f()
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	l.startQdrant(t, number)
	// The client keeps several connections, and each comes back in its own time.
	healthy := 0
	await(t, "qdrant is back", func() bool {
		healthy++
		if l.vectors.Health(t.Context()) != nil {
			healthy = 0
		}
		return healthy == 8
	})
}

func (l *library) newIndexer(t testing.TB, embedding string, dimension int) *catalog.Indexer {
	t.Helper()
	embedder, err := llm.New(llm.Config{
		BaseURL: l.model.URL(), EmbeddingModel: embedding, Dimension: dimension, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return &catalog.Indexer{Store: l.Store, Vectors: l.vectors, Embedder: embedder, Dimension: dimension, Logger: slog.New(l.log)}
}

func (l *library) newSearcher(t testing.TB, embedder *llm.Client) *catalog.Searcher {
	t.Helper()
	searcher, err := catalog.NewSearcher(l.Store, l.vectors, embedder, slog.New(l.log))
	if err != nil {
		t.Fatal(err)
	}
	return searcher
}

func alive() {}

// rebuild makes an index as the process does, in one go.
func (l *library) rebuild(t testing.TB, x *catalog.Indexer, tag string) {
	t.Helper()
	collection, _, err := x.BeginRebuild(t.Context(), tag, alive)
	if err != nil {
		t.Fatal(err)
	}
	left, err := x.FillIndex(t.Context(), collection, time.Now().Add(patience), func(int) {})
	if err != nil || left != 0 {
		t.Fatalf("%d books are left: %v", left, err)
	}
	drift, err := x.Compare(t.Context(), collection, catalog.Place{}, func(catalog.Place) {})
	if err != nil || !drift.Clean() {
		t.Fatalf("after the rebuild the index differs: %+v, %v", drift, err)
	}
	if err := x.SwitchIndex(t.Context(), collection); err != nil {
		t.Fatal(err)
	}
}

// current brings all that is pending to the index.
func (l *library) current(t *testing.T) {
	t.Helper()
	if _, err := l.indexer.CheckIndex(t.Context(), catalog.Place{}, func(catalog.Place) {}); err != nil {
		t.Fatal(err)
	}
}

func (l *library) state(t *testing.T) catalog.IndexState {
	t.Helper()
	state, err := l.indexer.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func (l *library) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := l.db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func (l *library) search(t *testing.T, q catalog.Query) ([]catalog.Hit, catalog.Mode) {
	t.Helper()
	if q.Size == 0 {
		q.Size = 10
	}
	hits, mode, err := l.searcher.Search(t.Context(), q)
	if err != nil {
		t.Fatalf("%q: %v", q.Text, err)
	}
	return hits, mode
}

func titles(hits []catalog.Hit) []string {
	all := make([]string, len(hits))
	for i, hit := range hits {
		all[i] = hit.Book.Title
	}
	return all
}

func has(hits []catalog.Hit, id uuid.UUID) bool {
	return slices.ContainsFunc(hits, func(h catalog.Hit) bool { return h.Book.ID == id })
}

func bookID(t *testing.T, books []seed.Book, title string) uuid.UUID {
	t.Helper()
	at := slices.IndexFunc(books, func(b seed.Book) bool { return b.Title == title })
	if at < 0 {
		t.Fatalf("the seed has no %q", title)
	}
	return catalog.SeedID(books[at].ISBN13)
}

func (l *library) edit(t *testing.T, e catalog.Edit) {
	t.Helper()
	e.ID = uuid.New()
	if err := l.Edit(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !done() {
		select {
		case <-late:
			t.Fatalf("waited %s in vain: %s", patience, what)
		case <-tick.C:
		}
	}
}

// logged keeps what was logged.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }

func (l *logged) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool { line += fmt.Sprintf(" %s=%v", a.Key, a.Value); return true })
	l.lines = append(l.lines, line)
	return nil
}

func (l *logged) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *logged) WithGroup(string) slog.Handler      { return l }

// count returns how many lines say something.
func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// slowEmbeddings makes the model take its time for each batch.
var slowEmbeddings = model.Fault{Operation: "embeddings", Kind: model.Slow, Count: model.Always, Delay: 700 * time.Millisecond}

func reopen(t *testing.T, url string) (*pgxpool.Pool, error) {
	t.Helper()
	pool, err := postgres.Open(t.Context(), url, catalog.Schema.Name)
	if err == nil {
		t.Cleanup(pool.Close)
	}
	return pool, err
}
