package catalogtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	model "bookworm/dev/llm"
	"bookworm/internal/catalog"
	"bookworm/internal/catalog/seed"
	"bookworm/internal/money"
)

// TestNoChangeIsLostDuringRebuilds changes books in every way while others keep the
// index and rebuild it, again and again. In the end the index must be what the books
// are.
func TestNoChangeIsLostDuringRebuilds(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	changing, still := context.WithCancel(ctx)
	defer still()
	var group errgroup.Group
	for writer := range 3 {
		group.Go(func() error {
			random := rand.New(rand.NewPCG(uint64(writer), 7))
			pace := time.NewTicker(2 * time.Millisecond)
			defer pace.Stop()
			for n := int64(1); changing.Err() == nil; n++ {
				<-pace.C
				id := catalog.SeedID(books[random.IntN(60)].ISBN13)
				var err error
				switch random.IntN(5) {
				case 0:
					err = l.Edit(ctx, catalog.Edit{
						ID: uuid.New(), BookID: id, Fields: []string{"description"},
						Details: catalog.Details{Description: fmt.Sprintf("Told anew by %d for the time %d.", writer, n)},
					})
				case 1:
					err = l.Edit(ctx, catalog.Edit{
						ID: uuid.New(), BookID: id, Fields: []string{"price"}, Details: catalog.Details{Price: money.New("USD", 1000+n)},
					})
				case 2:
					err = l.SetRating(ctx, id, catalog.Rating{Version: time.Now().UnixNano(), Stars: [5]int32{0, 0, 0, 0, 1}, Score: 4})
				case 3:
					_, err = l.db.Exec(ctx, `UPDATE stock SET reserved = CASE reserved WHEN on_hand THEN 0 ELSE on_hand END WHERE book_id = $1`, id)
				case 4:
					if random.IntN(10) == 0 {
						err = l.Edit(ctx, catalog.Edit{ID: uuid.New(), BookID: id, Archive: true})
					}
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	for range 2 { // two workers
		group.Go(func() error {
			l.indexer.KeepCurrent(changing, 5*time.Millisecond, func(context.Context) error { return errors.New("no rebuild is needed") })
			return nil
		})
	}
	for n := range 3 {
		collection, _, err := l.indexer.BeginRebuild(ctx, fmt.Sprint(n), alive)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.indexer.FillIndex(ctx, collection, time.Now().Add(patience), func(int) {}); err != nil {
			t.Fatal(err)
		}
		if err := l.indexer.SwitchIndex(ctx, collection); err != nil {
			t.Fatal(err)
		}
	}
	still()
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	// Only what is pending: the check would find and mend whatever was lost.
	await(t, "nothing is pending", func() bool {
		if _, err := l.indexer.FillIndex(t.Context(), l.state(t).Collection, time.Now().Add(time.Second), func(int) {}); err != nil {
			t.Fatal(err)
		}
		return l.state(t).Pending == 0
	})
	drift, err := l.indexer.Compare(t.Context(), l.state(t).Collection, catalog.Place{}, func(catalog.Place) {})
	if err != nil || !drift.Clean() {
		t.Errorf("the index is not what the books are: %+v, %v", drift, err)
	}
	if n := l.log.count("not current") + l.log.count("is rebuilt"); n > 0 {
		t.Errorf("keeping it current failed %d times: %q", n, l.log.lines)
	}
	// The last change may have left something for a collection that is gone; the next
	// rebuild forgets it.
	l.rebuild(t, l.indexer, "last")
	var left int
	if err := l.db.QueryRow(ctx, `SELECT count(*) FROM index_pending`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d rows are left, %v", left, err)
	}
}

// TestChangeUnderWayWhenARebuildBegins has a change that began before the rebuild,
// and saw nothing of it, and commits only afterwards.
func TestChangeUnderWayWhenARebuildBegins(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	id := bookID(t, books, "Dune")
	tx, err := l.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // ends it when the test fails
	if _, err := tx.Exec(t.Context(), `UPDATE book SET description = 'Worms.', version = version + 1 WHERE id = $1`, id); err != nil {
		t.Fatal(err)
	}
	begun := make(chan error, 1)
	waiting := make(chan struct{}, 1000)
	var collection string
	go func() {
		var err error
		collection, _, err = l.indexer.BeginRebuild(t.Context(), "late", func() { waiting <- struct{}{} })
		begun <- err
	}()
	// It waits for the change, and goes on once that is there.
	for range 3 {
		select {
		case <-waiting:
		case err := <-begun:
			t.Fatalf("the rebuild began beside a change: %v", err)
		case <-time.After(patience):
			t.Fatal("the rebuild neither waits nor begins")
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	if _, err := l.indexer.FillIndex(t.Context(), collection, time.Now().Add(patience), func(int) {}); err != nil {
		t.Fatal(err)
	}
	drift, err := l.indexer.Compare(t.Context(), collection, catalog.Place{}, func(catalog.Place) {})
	if err != nil || !drift.Clean() {
		t.Errorf("%+v, %v", drift, err)
	}
}

// TestKilledRebuildGoesOn stops a rebuild in the middle, as a kill does, and goes on
// with another indexer.
func TestKilledRebuildGoesOn(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	before := l.state(t).Collection
	collection, total, err := l.indexer.BeginRebuild(t.Context(), "second", alive)
	if err != nil || total != int64(len(books)) {
		t.Fatalf("%d books, %v", total, err)
	}
	killed, kill := context.WithCancel(t.Context())
	_, err = l.indexer.FillIndex(killed, collection, time.Now().Add(patience), func(int) { kill() })
	if err == nil {
		t.Fatal("it was not killed")
	}
	state := l.state(t)
	if !state.Rebuilding || state.Collection != before || state.Rebuilt == 0 || state.Rebuilt == total {
		t.Fatalf("after the kill: %+v", state)
	}
	embedded := l.model.Counters().Requests
	other := l.newIndexer(t, embedding, dimension)
	if again, _, err := other.BeginRebuild(t.Context(), "second", alive); err != nil || again != collection {
		t.Fatalf("it goes on with %s, %v", again, err)
	}
	left, err := other.FillIndex(t.Context(), collection, time.Now().Add(patience), func(int) {})
	if err != nil || left != 0 {
		t.Fatalf("%d are left, %v", left, err)
	}
	if n := l.model.Counters().Requests - embedded; n == 0 {
		t.Error("nothing was left to do")
	}
	for range 2 { // the second time is the retry of one whose answer was lost
		if err := other.SwitchIndex(t.Context(), collection); err != nil {
			t.Fatal(err)
		}
	}
	state = l.state(t)
	if state.Collection != collection || state.Rebuilding || state.Indexed != total || state.Pending != 0 {
		t.Errorf("in the end: %+v", state)
	}
	names, err := l.vectors.Collections(t.Context())
	if err != nil || len(names) != 1 {
		t.Errorf("collections %q are left, %v", names, err)
	}
}

// TestChangesWaitForQdrant has a change while Qdrant is away.
func TestChangesWaitForQdrant(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	id := bookID(t, books, "Dune")
	l.outage(t, func() {
		l.edit(t, catalog.Edit{BookID: id, Fields: []string{"description"}, Details: catalog.Details{Description: "Zyzzogeton in the sand."}})
		if err := l.indexer.Index(t.Context(), id); err == nil || errors.Is(err, catalog.ErrRebuild) {
			t.Errorf("indexing says %v", err)
		}
	})
	if n := l.state(t).Pending; n != 1 {
		t.Fatalf("%d changes are pending, want 1", n)
	}
	await(t, "it is indexed", func() bool { return l.indexer.Index(t.Context(), id) == nil })
	if hits, _ := l.search(t, catalog.Query{Text: "zyzzogeton", Leg: catalog.Sparse}); !has(hits, id) {
		t.Errorf("the index finds %q", titles(hits))
	}
}

// TestOnlyTextIsEmbeddedAnew counts what the model is asked.
func TestOnlyTextIsEmbeddedAnew(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	id := bookID(t, books, "Dune")
	asked := func(f func()) int64 {
		t.Helper()
		before := l.model.Counters().Requests
		f()
		if err := l.indexer.Index(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if n := l.state(t).Pending; n != 0 {
			t.Errorf("%d are pending", n)
		}
		return l.model.Counters().Requests - before
	}
	if n := asked(func() { l.exec(t, `UPDATE stock SET reserved = on_hand WHERE book_id = $1`, id) }); n != 0 {
		t.Errorf("selling out embeds %d times", n)
	}
	if hits, _ := l.search(t, catalog.Query{Text: "Dune", Leg: catalog.Sparse, Filter: catalog.Filter{InStock: true}}); has(hits, id) {
		t.Error("a book that is sold out is in stock")
	}
	if n := asked(func() {
		l.edit(t, catalog.Edit{BookID: id, Fields: []string{"price"}, Details: catalog.Details{Price: money.New("USD", 1)}})
	}); n != 0 {
		t.Errorf("a price embeds %d times", n)
	}
	if n := asked(func() {
		l.edit(t, catalog.Edit{BookID: id, Fields: []string{"subtitle"}, Details: catalog.Details{Subtitle: "Of sand"}})
	}); n != 1 {
		t.Errorf("a text embeds %d times", n)
	}
	// The text, and then something else before the index has it.
	if n := asked(func() {
		l.edit(t, catalog.Edit{BookID: id, Fields: []string{"subtitle"}, Details: catalog.Details{Subtitle: "Of spice"}})
		l.exec(t, `UPDATE stock SET reserved = 0 WHERE book_id = $1`, id)
	}); n != 1 {
		t.Errorf("a text and stock embed %d times", n)
	}
}

// TestOneWriterAtATime has a second writer while the first one waits for the model
// with what the book was before: the older text must not arrive last.
func TestOneWriterAtATime(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	id := bookID(t, books, "Dune")
	describe := func(text string) {
		l.edit(t, catalog.Edit{BookID: id, Fields: []string{"description"}, Details: catalog.Details{Description: text}})
	}
	if err := l.model.Inject(model.Fault{Operation: "embeddings", Kind: model.Slow, Delay: time.Second}); err != nil {
		t.Fatal(err)
	}
	describe("Zyzzogeton.")
	slow := make(chan error, 1)
	asked := l.model.Counters().Requests
	go func() { slow <- l.indexer.Index(t.Context(), id) }()
	await(t, "the first writer waits for the model", func() bool { return l.model.Counters().Requests > asked })
	describe("Quokka.")
	if err := l.indexer.Index(t.Context(), id); !errors.Is(err, catalog.ErrBusy) {
		t.Errorf("the second writer: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.indexer.KeepCurrent(ctx, time.Millisecond, func(context.Context) error { return nil })
	}()
	if err := <-slow; err != nil {
		t.Fatal(err)
	}
	await(t, "nothing is pending", func() bool { return l.state(t).Pending == 0 })
	stop()
	<-done
	for text, want := range map[string]bool{"quokka": true, "zyzzogeton": false} {
		if hits, _ := l.search(t, catalog.Query{Text: text, Leg: catalog.Sparse}); has(hits, id) != want {
			t.Errorf("%q finds the book: %t", text, !want)
		}
	}
}

// TestWorkerNoticesThatARebuildIsNeeded starts the loop of a worker with no index,
// and with one of another model.
func TestWorkerNoticesThatARebuildIsNeeded(t *testing.T) {
	t.Parallel()
	l := setup(t)
	if _, err := l.Seed(t.Context(), []seed.Book{{
		ISBN13: "9780000000002", Title: "T", Authors: []string{"A"}, Language: "en", Categories: []string{"fiction"}, Description: "D",
		Publisher: "P", Currency: "USD",
	}}); err != nil {
		t.Fatal(err)
	}
	for i, x := range []*catalog.Indexer{l.indexer, l.newIndexer(t, "other", dimension)} {
		ctx, stop := context.WithCancel(t.Context())
		asked := 0
		x.KeepCurrent(ctx, time.Millisecond, func(context.Context) error {
			if asked++; asked == 3 {
				stop()
			}
			return nil
		})
		stop()
		if asked != 3 {
			t.Errorf("worker %d asked for a rebuild %d times", i, asked)
		}
		l.rebuild(t, l.indexer, fmt.Sprint(i))
	}
	if n := l.log.count("is rebuilt"); n != 2 {
		t.Errorf("the log says it %d times, want once for each", n)
	}
}

// BenchmarkIndexing fills an index with books like those of the seed; books/s must be
// 500 or more.
func BenchmarkIndexing(b *testing.B) {
	l := setup(b)
	l.indexer = l.newIndexer(b, embedding, 1536)
	books, err := seed.Books()
	if err != nil {
		b.Fatal(err)
	}
	var many []seed.Book
	for n := range 10 {
		for i, book := range books {
			book.ISBN13 = fmt.Sprintf("978%010d", n*len(books)+i)
			many = append(many, book)
		}
	}
	if _, err := l.Seed(b.Context(), many); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for n := range b.N {
		l.rebuild(b, l.indexer, fmt.Sprint(n))
	}
	b.ReportMetric(float64(b.N*len(many))/b.Elapsed().Seconds(), "books/s")
}
