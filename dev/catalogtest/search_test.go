package catalogtest

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	model "bookworm/dev/llm"
	"bookworm/internal/catalog"
	"bookworm/internal/catalog/seed"
	"bookworm/internal/fault"
	"bookworm/internal/money"
)

var legs = map[string]catalog.Leg{"hybrid": catalog.Hybrid, "lexical": catalog.Lexical, "sparse": catalog.Sparse, "dense": catalog.Dense}

func TestEveryLegFindsBooksAlone(t *testing.T) {
	t.Parallel()
	l, _ := seeded(t)
	for name, leg := range legs {
		hits, mode := l.search(t, catalog.Query{Text: "a captain obsessed with a white whale", Leg: leg, Size: 5})
		if !slices.Contains(titles(hits), "Moby-Dick") || mode != catalog.ModeHybrid {
			t.Errorf("%s: %q, %s", name, titles(hits), mode)
		}
	}
}

func TestExactTitlesAndISBNsComeFirst(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	for i, b := range books {
		texts := []string{b.Title, b.ISBN13}
		if i%10 == 0 {
			texts = append(texts, strings.ToUpper(b.Title), b.Title+" by "+b.Authors[0],
				b.ISBN13[:3]+"-"+b.ISBN13[3:4]+"-"+b.ISBN13[4:12]+"-"+b.ISBN13[12:])
		}
		for _, text := range texts {
			hits, _ := l.search(t, catalog.Query{Text: text, Size: 3})
			if len(hits) == 0 || hits[0].Book.ID != catalog.SeedID(b.ISBN13) || !hits[0].Exact {
				t.Errorf("%q finds %q", text, titles(hits))
			}
			if len(hits) > 1 && hits[1].Exact {
				t.Errorf("%q is also %q", text, hits[1].Book.Title)
			}
		}
	}
	// The Go Programming Language as ISBN-10.
	hits, _ := l.search(t, catalog.Query{Text: "ISBN 0-13-419044-0"})
	if len(hits) != 1 || hits[0].Book.ISBN13 != "9780134190440" || !hits[0].Exact {
		t.Errorf("as ISBN-10: %q", titles(hits))
	}
	hits, _ = l.search(t, catalog.Query{Text: "9780000000002"}) // a valid ISBN that no book has
	if len(hits) != 0 {
		t.Errorf("an unknown ISBN finds %q", titles(hits))
	}
}

func TestFiltersHoldInEveryLeg(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	rated := bookID(t, books, "Dune")
	if err := l.SetRating(t.Context(), rated, catalog.Rating{Version: 1, Stars: [5]int32{0, 0, 0, 0, 3}, Score: 4.4}); err != nil {
		t.Fatal(err)
	}
	sold := bookID(t, books, "Foundation")
	l.exec(t, `UPDATE stock SET reserved = on_hand WHERE book_id = $1`, sold)
	l.current(t)
	matching := func(match func(catalog.Book) bool) int {
		n := 0
		for _, b := range books {
			book, err := l.Get(t.Context(), catalog.SeedID(b.ISBN13))
			if err != nil {
				t.Fatal(err)
			}
			if match(book) {
				n++
			}
		}
		return n
	}
	for name, test := range map[string]struct {
		filter catalog.Filter
		match  func(catalog.Book) bool
	}{
		"category": {catalog.Filter{Category: "science-fiction"}, func(b catalog.Book) bool { return slices.Contains(b.Categories, "science-fiction") }},
		"author":   {catalog.Filter{Author: "isaac ASIMOV"}, func(b catalog.Book) bool { return slices.Contains(b.Authors, "Isaac Asimov") }},
		"language": {catalog.Filter{Language: "ES"}, func(b catalog.Book) bool { return b.Language == "es" }},
		"price": {catalog.Filter{MinPrice: 1000, MaxPrice: 1500}, func(b catalog.Book) bool {
			return b.Price.Minor >= 1000 && b.Price.Minor <= 1500
		}},
		"in stock": {catalog.Filter{InStock: true}, func(b catalog.Book) bool { return b.Available > 0 }},
		"score":    {catalog.Filter{MinScore: 4.2}, func(b catalog.Book) bool { return b.ID == rated }},
	} {
		for legName, leg := range legs {
			hits, _ := l.search(t, catalog.Query{
				Text: "a novel about the foundation of an empire on a desert planet, la casa", Filter: test.filter, Leg: leg, Size: 50,
			})
			if len(hits) == 0 {
				t.Errorf("%s, %s: nothing", name, legName)
			}
			// Meaning ranks all books, so all that match are there: the index itself
			// filters.
			if n := matching(test.match); leg == catalog.Dense && len(hits) != min(n, 50) {
				t.Errorf("%s, %s: %d of %d", name, legName, len(hits), n)
			}
			for _, hit := range hits {
				if !test.match(hit.Book) {
					t.Errorf("%s, %s: finds %q", name, legName, hit.Book.Title)
				}
			}
		}
	}
}

// TestStaleIndexShowsNothingWrong changes rows behind the index's back.
func TestStaleIndexShowsNothingWrong(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	gone, dear := bookID(t, books, "Moby-Dick"), bookID(t, books, "Dune")
	l.edit(t, catalog.Edit{BookID: gone, Archive: true})
	l.edit(t, catalog.Edit{BookID: dear, Details: catalog.Details{Price: money.New("USD", 99_999)}, Fields: []string{"price"}})
	if n := l.state(t).Pending; n != 2 {
		t.Fatalf("%d changes are pending, want 2", n)
	}
	for name, leg := range legs {
		for _, text := range []string{"white whale captain", "Moby-Dick", "9780142437247"} {
			if hits, _ := l.search(t, catalog.Query{Text: text, Leg: leg}); has(hits, gone) {
				t.Errorf("%s: %q finds an archived book", name, text)
			}
		}
		if hits, _ := l.search(t, catalog.Query{Text: "Dune desert planet spice", Leg: leg, Filter: catalog.Filter{MaxPrice: 5000}}); has(hits, dear) {
			t.Errorf("%s: a stale price passes the filter", name)
		}
	}
	similar, _, err := l.searcher.Similar(t.Context(), dear, 50)
	if err != nil || slices.ContainsFunc(similar, func(b catalog.Book) bool { return b.ID == gone }) {
		t.Errorf("an archived book is similar: %v", err)
	}
	// Once it is current, the index itself has it no more.
	l.current(t)
	ids, err := l.vectors.Vectors(t.Context(), catalog.Alias, []uuid.UUID{gone})
	if err != nil || len(ids) != 0 {
		t.Errorf("the index still has the archived book: %v", err)
	}
}

// TestOneEditionOfAWork adds a second edition of a book.
func TestOneEditionOfAWork(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	at := slices.IndexFunc(books, func(b seed.Book) bool { return b.Title == "Dune" })
	second := books[at]
	second.ISBN13, second.Title, second.Publisher = "9780000000002", "DUNE", "Another House"
	if _, err := l.Seed(t.Context(), []seed.Book{second}); err != nil {
		t.Fatal(err)
	}
	l.current(t)
	for name, leg := range legs {
		hits, _ := l.search(t, catalog.Query{Text: "Dune Frank Herbert", Leg: leg})
		n := 0
		for _, hit := range hits {
			if strings.EqualFold(hit.Book.Title, "Dune") {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s: %d editions in %q", name, n, titles(hits))
		}
	}
	if hits, _ := l.search(t, catalog.Query{Text: second.ISBN13}); len(hits) != 1 || hits[0].Book.Publisher != "Another House" {
		t.Errorf("the second edition's ISBN finds %q", titles(hits))
	}
}

func TestQdrantDownSearchesWords(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	whale := bookID(t, books, "Moby-Dick")
	query := catalog.Query{Text: "captain hunting a white whale"}
	l.outage(t, func() {
		started := time.Now()
		for range 3 {
			hits, mode := l.search(t, query)
			if mode != catalog.ModeLexical || !has(hits, whale) {
				t.Errorf("%s finds %q", mode, titles(hits))
			}
		}
		if d := time.Since(started) / 3; d > 1500*time.Millisecond {
			t.Errorf("a search takes %s", d)
		}
		similar, mode, err := l.searcher.Similar(t.Context(), whale, 5)
		if err != nil || mode != catalog.ModeLexical || len(similar) != 5 {
			t.Errorf("%d similar books, %s, %v", len(similar), mode, err)
		}
		if _, _, err := l.searcher.Search(t.Context(), catalog.Query{Text: "whale", Size: 1, Leg: catalog.Sparse}); !fault.Is(err, fault.ReasonUnavailable) {
			t.Errorf("the leg alone: %v", err)
		}
	})
	if n := l.log.count("answered by words alone"); n != 1 {
		t.Errorf("the log says it %d times, want once", n)
	}
	await(t, "searches are hybrid again", func() bool { _, mode := l.search(t, query); return mode == catalog.ModeHybrid })
	if hits, _ := l.search(t, query); !has(hits, whale) || l.log.count("use the index again") != 1 {
		t.Errorf("afterwards: %q", titles(hits))
	}
}

func TestEmbedderDownOrSlowSearchesWords(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	whale := bookID(t, books, "Moby-Dick")
	for _, kind := range []model.FaultKind{model.Hang, model.Error503, model.WrongDimension} {
		if err := l.model.Inject(model.Fault{Operation: "embeddings", Kind: kind, Count: model.Always}); err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		hits, mode := l.search(t, catalog.Query{Text: "captain hunting a white whale, " + string(kind)})
		if mode != catalog.ModeLexical || !has(hits, whale) {
			t.Errorf("%s: %s finds %q", kind, mode, titles(hits))
		}
		if d := time.Since(started); d > 1500*time.Millisecond {
			t.Errorf("%s: a search takes %s", kind, d)
		}
		l.model.ClearFaults()
	}
}

// TestIndexOfAnotherEmbeddingIsNotCompared has a model with vectors as long as those
// of the index, and one with longer ones.
func TestIndexOfAnotherEmbeddingIsNotCompared(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	whale := bookID(t, books, "Moby-Dick")
	for name, x := range map[string]*catalog.Indexer{
		"same length": l.newIndexer(t, "other", dimension), "longer": l.newIndexer(t, embedding, 2*dimension),
	} {
		l.searcher = l.newSearcher(t, x.Embedder)
		hits, mode := l.search(t, catalog.Query{Text: "captain hunting a white whale"})
		if mode != catalog.ModeLexical || !has(hits, whale) {
			t.Errorf("%s: %s finds %q", name, mode, titles(hits))
		}
		if err := x.Index(t.Context(), whale); !errors.Is(err, catalog.ErrRebuild) {
			t.Errorf("%s: indexing: %v", name, err)
		}
		l.rebuild(t, x, strings.ReplaceAll(name, " ", "-"))
		l.searcher = l.newSearcher(t, x.Embedder)
		if _, mode := l.search(t, catalog.Query{Text: "captain hunting a white whale"}); mode != catalog.ModeHybrid {
			t.Errorf("%s: after the rebuild: %s", name, mode)
		}
	}
	if n := l.log.count("answered by words alone"); n != 2 {
		t.Errorf("the log says it %d times, want once for each", n)
	}
	names, err := l.vectors.Collections(t.Context())
	if err != nil || len(names) != 1 {
		t.Errorf("collections %q are left, %v", names, err)
	}
}

func TestMissingCollectionSearchesWords(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	if err := l.vectors.DropCollection(t.Context(), l.state(t).Collection); err != nil {
		t.Fatal(err)
	}
	hits, mode := l.search(t, catalog.Query{Text: "captain hunting a white whale"})
	if mode != catalog.ModeLexical || !has(hits, bookID(t, books, "Moby-Dick")) || l.log.count("answered by words alone") != 1 {
		t.Errorf("%s finds %q", mode, titles(hits))
	}
	if _, err := l.indexer.CheckIndex(t.Context(), catalog.Place{}, func(catalog.Place) {}); !errors.Is(err, catalog.ErrRebuild) {
		t.Errorf("the check says %v", err)
	}
	if state := l.state(t); state.Indexed != 0 {
		t.Errorf("%+v", state)
	}
}

func TestSimilarBooks(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	hobbit := bookID(t, books, "The Hobbit")
	similar, mode, err := l.searcher.Similar(t.Context(), hobbit, 10)
	if err != nil || mode != catalog.ModeHybrid || len(similar) != 10 {
		t.Fatalf("%d books, %s, %v", len(similar), mode, err)
	}
	same := 0
	for _, b := range similar {
		if b.ID == hobbit {
			t.Error("a book is similar to itself")
		}
		if slices.Contains(b.Authors, "J.R.R. Tolkien") {
			same++
		}
	}
	if same < 2 {
		t.Errorf("of its author there are %d", same)
	}
	if _, _, err := l.searcher.Similar(t.Context(), uuid.New(), 10); !fault.Is(err, fault.ReasonBookNotFound) {
		t.Errorf("an unknown book: %v", err)
	}
}

func TestRecommendations(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	id := func(title string) uuid.UUID { return bookID(t, books, title) }
	hobbit, ring, silmarillion := id("The Hobbit"), id("The Fellowship of the Ring"), id("The Silmarillion")
	recommend := func(taste catalog.Taste) []catalog.Recommendation {
		t.Helper()
		found, mode, err := l.searcher.Recommend(t.Context(), taste, 20)
		if err != nil || mode != catalog.ModeHybrid || len(found) != 20 {
			t.Fatalf("%d books, %s, %v", len(found), mode, err)
		}
		return found
	}
	place := func(found []catalog.Recommendation, book uuid.UUID) int {
		return slices.IndexFunc(found, func(r catalog.Recommendation) bool { return r.Book.ID == book })
	}

	taste := catalog.Taste{Liked: []uuid.UUID{hobbit}, Owned: []uuid.UUID{hobbit, ring}}
	found := recommend(taste)
	if place(found, hobbit) >= 0 || place(found, ring) >= 0 {
		t.Error("a book that is owned is recommended")
	}
	at := place(found, silmarillion)
	if at < 0 || at > 2 || found[at].Because != hobbit {
		t.Errorf("the next of the kind is at %d", at)
	}
	// An edition of a work that is owned is owned.
	second := books[slices.IndexFunc(books, func(b seed.Book) bool { return b.Title == "The Fellowship of the Ring" })]
	second.ISBN13 = "9780000000002"
	if _, err := l.Seed(t.Context(), []seed.Book{second}); err != nil {
		t.Fatal(err)
	}
	l.current(t)
	if found = recommend(taste); place(found, catalog.SeedID(second.ISBN13)) >= 0 {
		t.Error("another edition of a book that is owned is recommended")
	}
	// What is disliked pushes its like away.
	disliked := id("Foundation")
	taste = catalog.Taste{Liked: []uuid.UUID{id("Dune")}, Owned: []uuid.UUID{id("Dune"), disliked}}
	before := recommend(taste)
	taste.Disliked = []uuid.UUID{disliked}
	after := recommend(taste)
	if place(before, disliked) >= 0 || place(after, disliked) >= 0 {
		t.Error("a book that is owned is recommended")
	}
	its, _, err := l.searcher.Similar(t.Context(), disliked, 10)
	if err != nil {
		t.Fatal(err)
	}
	down := 0
	for _, b := range its {
		was, is := place(before, b.ID), place(after, b.ID)
		if was >= 0 && is >= 0 && after[is].Because != uuid.Nil && is < was {
			t.Errorf("%q, which is like a disliked book, rises from %d to %d", b.Title, was, is)
		}
		if was >= 0 && (is < 0 || is > was) {
			down++
		}
	}
	if down == 0 {
		t.Error("a dislike changes nothing")
	}
	// Without a history, the best rated come first and are no one's like.
	if err := l.SetRating(t.Context(), silmarillion, catalog.Rating{Version: 1, Stars: [5]int32{0, 0, 0, 1, 9}, Score: 4.7}); err != nil {
		t.Fatal(err)
	}
	if found = recommend(catalog.Taste{}); found[0].Book.ID != silmarillion || found[0].Because != uuid.Nil {
		t.Errorf("without a history: %q", found[0].Book.Title)
	}
	// Without the index, what shares author and category.
	l.outage(t, func() {
		found, mode, err := l.searcher.Recommend(t.Context(), catalog.Taste{Liked: []uuid.UUID{hobbit}, Owned: []uuid.UUID{hobbit}}, 5)
		at := slices.IndexFunc(found, func(r catalog.Recommendation) bool { return r.Book.Title == "The Fellowship of the Ring" })
		if err != nil || mode != catalog.ModeLexical || len(found) != 5 || at < 0 || found[at].Because != hobbit {
			t.Errorf("%d books, %s, %v", len(found), mode, err)
		}
	})
}

func TestDriftIsMended(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	collection := l.state(t).Collection
	missing, stale, archived := bookID(t, books, "Dune"), bookID(t, books, "Foundation"), bookID(t, books, "Moby-Dick")
	orphan := uuid.New()
	if err := l.vectors.Delete(t.Context(), collection, []uuid.UUID{missing}); err != nil {
		t.Fatal(err)
	}
	points, err := l.vectors.Vectors(t.Context(), collection, []uuid.UUID{stale})
	if err != nil || len(points) != 1 {
		t.Fatal(err)
	}
	points = append(points, points[0])
	points[0].Payload = map[string]any{"version": int64(99)}
	points[1].ID, points[1].Payload = orphan, map[string]any{"version": int64(1)}
	if err := l.vectors.Upsert(t.Context(), collection, points); err != nil {
		t.Fatal(err)
	}
	l.edit(t, catalog.Edit{BookID: archived, Archive: true})
	l.exec(t, `DELETE FROM index_pending`) // as if the list had lost it
	check := func() catalog.Drift {
		t.Helper()
		drift, err := l.indexer.CheckIndex(t.Context(), catalog.Place{}, func(catalog.Place) {})
		if err != nil {
			t.Fatal(err)
		}
		return drift
	}
	if d := check(); d.Missing != 1 || d.Stale != 1 || d.Orphans != 2 {
		t.Errorf("the first check finds %+v", d)
	}
	if d := check(); !d.Clean() || d.Checked == 0 {
		t.Errorf("the second check finds %+v", d)
	}
	left, err := l.vectors.Vectors(t.Context(), collection, []uuid.UUID{missing, stale, archived, orphan})
	if err != nil || len(left) != 2 {
		t.Errorf("%d of the points are there, %v", len(left), err)
	}
}
