package catalog_test

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/catalog"
	"bookworm/internal/catalog/seed"
	"bookworm/internal/fault"
	"bookworm/internal/llm"
	"bookworm/internal/vector"
)

// alone returns a searcher of the shop that reaches neither the index nor the model.
// With them, dev/catalogtest searches.
func (s shop) alone(t testing.TB) *catalog.Searcher {
	t.Helper()
	vectors, err := vector.Open(vector.Config{Address: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vectors.Close() })
	embedder, err := llm.New(llm.Config{BaseURL: "http://127.0.0.1:1/v1", EmbeddingModel: "none", Dimension: 8, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	searcher, err := catalog.NewSearcher(s.Store, vectors, embedder, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return searcher
}

func TestSearchByWordsAlone(t *testing.T) {
	t.Parallel()
	shop, _ := library(t)
	_, err := shop.Seed(t.Context(), []seed.Book{{
		ISBN13: "9780000000002", Title: "Azoteas", Authors: []string{"Nadie"}, Language: "es-AR", Categories: []string{"fiction"}, Currency: "USD",
		Description: "Los gatos corren por los tejados de la ciudad.",
	}})
	if err != nil {
		t.Fatal(err)
	}
	searcher := shop.alone(t)
	for query, want := range map[string]string{
		"hary poter":                         "Harry Potter and the Philosopher's Stone", // misspelt
		"pirde and prejudise":                "Pride and Prejudice",
		"tolkein hobit":                      "The Hobbit", //nolint:misspell // on purpose
		"dostoyevski crime":                  "Crime and Punishment",
		"gabriel garcia marquez soledad":     "Cien años de soledad", // without accents
		"a whale hunting captain":            "Moby-Dick",            // words of the description, not all of them
		"hunted whales":                      "Moby-Dick",            // stems
		"correr":                             "Azoteas",              // stems of another language
		"Tolkien, J.R.R.: the hobbit":        "The Hobbit",
		"The Hobbit\tJ.R.R. Tolkien\r\n":     "The Hobbit",
		"one hundrd years of solitde":        "One Hundred Years of Solitude",
		strings.Repeat("whale captain ", 35): "Moby-Dick",
	} {
		hits, mode, err := searcher.Search(t.Context(), catalog.Query{Text: query, Size: 5})
		if err != nil || mode != catalog.ModeLexical || len(hits) == 0 || hits[0].Book.Title != want {
			var found []string
			for _, hit := range hits {
				found = append(found, hit.Book.Title)
			}
			t.Errorf("%q finds %q, %s, %v", query, found, mode, err)
		}
	}
	for _, nothing := range []string{"qwxz zzkp", "the of and", "\u4e2d\u6587"} {
		if hits, _, err := searcher.Search(t.Context(), catalog.Query{Text: nothing, Size: 5}); err != nil || len(hits) != 0 {
			t.Errorf("%q finds %d books, %v", nothing, len(hits), err)
		}
	}
}

func TestSearchRefusesWhatNothingCanBeLookedForWith(t *testing.T) {
	t.Parallel()
	searcher := setup(t).alone(t)
	for name, query := range map[string]string{
		"empty": "", "blank": " \t\n ", "punctuation": "?!... '%_\\", "symbols": "☃ €", "NUL": "whale\x00", "escape": "\x1b[31m whale",
		"delete": "whale\x7f", "not UTF-8": "whale\xff", "too long": strings.Repeat("x", catalog.MaxQuery+1), "huge": strings.Repeat("whale ", 20_000),
	} {
		_, _, err := searcher.Search(t.Context(), catalog.Query{Text: query, Size: 5})
		f := refuse(t, err, fault.ReasonInvalidArgument)
		if len(f.Fields) != 1 || f.Fields[0].Name != "query" || f.Message == "" {
			t.Errorf("%s: %v", name, f)
		}
	}
}

func FuzzSearch(f *testing.F) {
	for _, seed := range []string{"whale", "' OR 1=1", "978-0-13-419044-0", "a & b | !c <-> d:*", "\\", "ſ İ ß ﬁ", "о'бриен", "\u0301", "x\u200b"} {
		f.Add(seed)
	}
	shop := setup(f)
	shop.add(f, 1, 1)
	searcher := shop.alone(f)
	f.Fuzz(func(t *testing.T, text string) {
		hits, _, err := searcher.Search(t.Context(), catalog.Query{Text: text, Size: 3})
		if err != nil && !fault.Is(err, fault.ReasonInvalidArgument) {
			t.Errorf("%q: %v", text, err)
		}
		if len(hits) > 3 {
			t.Errorf("%q finds %d", text, len(hits))
		}
	})
}

func TestExactTitles(t *testing.T) {
	t.Parallel()
	shop, _ := library(t)
	searcher := shop.alone(t)
	for query, exact := range map[string]bool{
		"dune": true, "DUNE!": true, "Dune by Frank Herbert": true, "frank herbert dune": true, "dune herbert": true, "Herbert: Dune": true,
		"sapiens a brief history of humankind": true,
		"dune sea":                             false, "a book like dune": false, "dune by jane austen": false, "frank herbert": false,
		"9780134190440": true, "0-13-419044-0": true, "0134190440": true, "ISBN-13: 978-0-13-419044-0": true, "isbn 0134190440": true,
		"0134190441": false, "9780134190441": false,
	} {
		hits, _, err := searcher.Search(t.Context(), catalog.Query{Text: query, Size: 3})
		if err != nil || exact != (len(hits) > 0 && hits[0].Exact) {
			t.Errorf("%q: %v, want exact %t; %v", query, hits, exact, err)
		}
	}
	hits, _, err := searcher.Search(t.Context(), catalog.Query{Text: "dune", Size: 3, Filter: catalog.Filter{Language: "fr"}})
	if err != nil || slices.ContainsFunc(hits, func(h catalog.Hit) bool { return h.Exact }) {
		t.Errorf("an exact title passes the filter: %v", err)
	}
}

func TestCategoriesAndAuthors(t *testing.T) {
	t.Parallel()
	shop, seeded := library(t)
	shop.exec(t, `UPDATE book SET archived_at = now() WHERE id = $1`, catalog.SeedID(seeded[0].ISBN13))
	inCategory, by := make(map[string]int32), make(map[string]int32)
	for _, b := range seeded[1:] {
		for _, c := range b.Categories {
			inCategory[c]++
		}
		for _, a := range b.Authors {
			by[a]++
		}
	}
	categories, err := shop.Categories(t.Context())
	if err != nil || len(categories) != len(inCategory) {
		t.Fatalf("%d categories, want %d; %v", len(categories), len(inCategory), err)
	}
	for i, c := range categories {
		if c.Books != inCategory[c.Slug] || i > 0 && categories[i-1].Slug >= c.Slug {
			t.Errorf("%+v, want %d", c, inCategory[c.Slug])
		}
	}
	authors := func(query string, size int) []catalog.Author {
		t.Helper()
		var all []catalog.Author
		for token := ""; ; {
			some, next, err := shop.Authors(t.Context(), query, size, token)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, some...)
			if token = next; token == "" {
				return all
			}
		}
	}
	all := authors("", 50)
	if len(all) != len(by) {
		t.Errorf("%d authors, want %d", len(all), len(by))
	}
	for _, a := range all {
		if a.Books != by[a.Name] {
			t.Errorf("%+v, want %d", a, by[a.Name])
		}
	}
	if got := authors("GARCIA mar", 10); len(got) != 1 || got[0].Name != "Gabriel García Márquez" {
		t.Errorf("by beginnings of words: %v", got)
	}
	if got := authors("arcia", 10); len(got) != 0 {
		t.Errorf("by the middle of a word: %v", got)
	}
	if got := authors("%", 500); len(got) != len(by) { // nothing is left of it
		t.Errorf("a wildcard finds %d", len(got))
	}
	_, token, err := shop.Authors(t.Context(), "a", 1, "")
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = shop.Authors(t.Context(), "b", 1, token)
	refuse(t, err, fault.ReasonPageTokenInvalid)
}

// TestRatingsCountOnceInWhateverOrder plays a book's changes in a mixed order, with
// repetitions.
func TestRatingsCountOnceInWhateverOrder(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book := shop.add(t, 1)[0]
	for _, version := range []int64{2, 1, 2, 5, 3, 5, 4} {
		r := catalog.Rating{Version: version, Stars: [5]int32{0, 0, 0, int32(version), 1}, Score: 4}
		if err := shop.SetRating(t.Context(), book, r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := shop.Get(t.Context(), book)
	if err != nil || got.Rating.Version != 5 || got.Rating.Stars != [5]int32{0, 0, 0, 5, 1} || got.Rating.Count() != 6 ||
		math.Abs(got.Rating.Average()-25.0/6) > 1e-9 {
		t.Errorf("%+v, %v", got.Rating, err)
	}
	ratings, err := shop.Ratings(t.Context(), uuid.Nil, 10)
	if err != nil || len(ratings) != 1 || ratings[0].BookID != book || ratings[0].Rating != got.Rating {
		t.Errorf("%+v, %v", ratings, err)
	}
	if ratings, err = shop.Ratings(t.Context(), book, 10); err != nil || len(ratings) != 0 {
		t.Errorf("after the last one: %+v, %v", ratings, err)
	}
	refuse(t, shop.SetRating(t.Context(), uuid.New(), catalog.Rating{Version: 1}), fault.ReasonBookNotFound)
	if r := (catalog.Rating{}); r.Average() != 0 {
		t.Errorf("the average of nothing is %f", r.Average())
	}
}

// TestOnlyWhatTheIndexHoldsIsPending changes one thing after the other.
func TestOnlyWhatTheIndexHoldsIsPending(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book := shop.add(t, 2)[0]
	shop.exec(t, `INSERT INTO search_index (collection, state, embedding, average_length) VALUES ('live', 'live', 'e', 1), ('new', 'building', 'e', 1)`)
	order := uuid.New()
	for _, step := range []struct {
		what    string
		do      func() error
		pending int // in each collection
	}{
		{"a new book", func() error {
			_, err := shop.Seed(t.Context(), []seed.Book{{
				ISBN13: "9789999999991", Title: "T", Authors: []string{"A"}, Language: "en", Categories: []string{"x"}, Currency: "USD",
			}})
			return err
		}, 1},
		{"one of two copies held", func() error {
			_, err := shop.HoldStock(t.Context(), uuid.New(), []catalog.StockLine{line(book, 1)}, soon())
			return err
		}, 0},
		{"the last one held", func() error {
			_, err := shop.HoldStock(t.Context(), order, []catalog.StockLine{line(book, 1)}, soon())
			return err
		}, 1},
		{"given back", func() error { return shop.ReleaseHold(t.Context(), order) }, 1},
		{"delivered", func() error { return shop.Receive(t.Context(), book, 5, "d") }, 0},
		{"rated", func() error { return shop.SetRating(t.Context(), book, catalog.Rating{Version: 2, Score: 4}) }, 1},
		{"rated late", func() error { return shop.SetRating(t.Context(), book, catalog.Rating{Version: 1, Score: 3}) }, 0},
		{"retitled", func() error {
			return shop.Edit(t.Context(), catalog.Edit{ID: uuid.New(), BookID: book, Fields: []string{"title"}, Details: catalog.Details{Title: "New"}})
		}, 1},
		{"retitled as it is", func() error {
			return shop.Edit(t.Context(), catalog.Edit{ID: uuid.New(), BookID: book, Fields: []string{"title"}, Details: catalog.Details{Title: "New"}})
		}, 0},
		{"archived", func() error { return shop.Edit(t.Context(), catalog.Edit{ID: uuid.New(), BookID: book, Archive: true}) }, 1},
	} {
		shop.exec(t, `DELETE FROM index_pending`)
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		for _, collection := range []string{"live", "new"} {
			if n := shop.count(t, `SELECT count(*) FROM index_pending WHERE collection = $1`, collection); n != step.pending {
				t.Errorf("%s: %d books are pending for %s, want %d", step.what, n, collection, step.pending)
			}
		}
	}
	// What is rolled back is not pending.
	shop.exec(t, `DELETE FROM index_pending`)
	tx, err := shop.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `UPDATE book SET version = version + 1`); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := shop.count(t, `SELECT count(*) FROM index_pending`); n != 0 {
		t.Errorf("%d books are pending after a rollback", n)
	}
}

// TestSaleDoesNotWaitForTheIndex holds stock while a writer of the index has the book.
func TestSaleDoesNotWaitForTheIndex(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book := shop.add(t, 1)[0]
	shop.exec(t, `INSERT INTO search_index (collection, state, embedding, average_length) VALUES ('live', 'live', 'e', 1)`)
	shop.exec(t, `INSERT INTO index_pending (collection, book_id, text_changed, claimed_until) VALUES ('live', $1, true, now() + interval '1 hour')`, book)
	started := time.Now()
	shop.hold(t, uuid.New(), line(book, 1))
	if d := time.Since(started); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
	if n := shop.count(t, `SELECT count(*) FROM index_pending WHERE claimed_until > now()`); n != 1 {
		t.Error("the change took the writer's claim away")
	}
}

func TestEdits(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book := shop.add(t, 1, 1)[0]
	change := catalog.Edit{ID: uuid.New(), BookID: book, Version: 1, Fields: []string{"title"}, Details: catalog.Details{Title: "Été"}}
	for range 2 { // the second is the retry of one whose answer was lost
		if err := shop.Edit(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	got, err := shop.Get(t.Context(), book)
	if err != nil || got.Version != 2 || got.Title != "Été" {
		t.Errorf("%+v, %v", got, err)
	}
	if found := titles(shop.walk(t, catalog.Filter{Query: "ete"}, catalog.SortTitle, 5)); len(found) != 1 {
		t.Errorf("by its new title it is found as %q", found)
	}
	change.ID = uuid.New()
	refuse(t, shop.Edit(t.Context(), change), fault.ReasonStaleVersion)
	refuse(t, shop.Edit(t.Context(), catalog.Edit{ID: uuid.New(), BookID: uuid.New()}), fault.ReasonBookNotFound)
	refuse(t, shop.Edit(t.Context(), catalog.Edit{
		ID: uuid.New(), BookID: book, Fields: []string{"isbn13"}, Details: catalog.Details{ISBN13: "9780000000001"},
	}), fault.ReasonISBNTaken)
}

// TestCreateAtOnce has the same request several times at once: none is told that the
// ISBN is taken, which is its own.
func TestCreateAtOnce(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	for round := range 50 {
		book := catalog.NewBook{
			ID: uuid.New(), Fingerprint: catalog.Fingerprint([]byte("a")),
			Details: catalog.Details{ISBN13: fmt.Sprintf("9780000%06d", round), Title: "T", Authors: []string{"A"}, Categories: []string{"x"}, Language: "en"},
		}
		book.Details.Price.Currency = catalog.Currency
		var group errgroup.Group
		var first atomic.Int32
		for range 6 {
			group.Go(func() error {
				replayed, err := shop.Create(t.Context(), book)
				if !replayed {
					first.Add(1)
				}
				return err
			})
		}
		if err := group.Wait(); err != nil || first.Load() != 1 {
			t.Fatalf("round %d: %d were first, %v", round, first.Load(), err)
		}
	}
}

func TestCreateIsRememberedByItsKey(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	book := catalog.NewBook{
		ID: catalog.BookID("admin", "k"), Fingerprint: catalog.Fingerprint([]byte("a")), OpeningQuantity: 4,
		Details: catalog.Details{ISBN13: "9780000000002", Title: "T", Authors: []string{"A"}, Categories: []string{"x"}, Language: "en"},
	}
	book.Details.Price.Currency = catalog.Currency
	for n := range 2 {
		replayed, err := shop.Create(t.Context(), book)
		if err != nil || replayed != (n == 1) {
			t.Errorf("call %d: replayed %t, %v", n, replayed, err)
		}
	}
	shop.stock(t, book.ID, 4, 0)
	shop.audit(t)
	book.Fingerprint = catalog.Fingerprint([]byte("b"))
	_, err := shop.Create(t.Context(), book)
	refuse(t, err, fault.ReasonKeyReused)
	book.ID = catalog.BookID("another", "k")
	_, err = shop.Create(t.Context(), book)
	refuse(t, err, fault.ReasonISBNTaken)
	if n := shop.count(t, `SELECT count(*) FROM book`); n != 1 {
		t.Errorf("%d books", n)
	}
}
