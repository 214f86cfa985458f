package catalog_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"bookworm/internal/catalog"
	"bookworm/internal/catalog/seed"
	"bookworm/internal/fault"
)

// library is a shop with the seed catalogue.
func library(t *testing.T) (shop, []seed.Book) {
	t.Helper()
	shop := setup(t)
	books, err := seed.Books()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := shop.Seed(t.Context(), books); err != nil || n != len(books) {
		t.Fatalf("seeded %d of %d: %v", n, len(books), err)
	}
	return shop, books
}

func titles(books []catalog.Book) []string {
	var all []string
	for _, b := range books {
		all = append(all, b.Title)
	}
	return all
}

// walk reads a list page by page.
func (s shop) walk(t *testing.T, f catalog.Filter, sort catalog.Sort, size int) []catalog.Book {
	t.Helper()
	var all []catalog.Book
	token := ""
	for {
		books, next, err := s.List(t.Context(), f, sort, size, token)
		if err != nil {
			t.Fatal(err)
		}
		if len(books) > size || next != "" && len(books) < size {
			t.Fatalf("%d books on a page of %d with a next page %t", len(books), size, next != "")
		}
		all = append(all, books...)
		if next == "" {
			return all
		}
		token = next
	}
}

var sorts = []catalog.Sort{catalog.SortTitle, catalog.SortPriceAsc, catalog.SortPriceDesc, catalog.SortNewest}

func TestListPagesAreTheWholeList(t *testing.T) {
	t.Parallel()
	shop, seeded := library(t)
	shop.exec(t, `UPDATE stock SET reserved = on_hand WHERE book_id IN (SELECT id FROM book ORDER BY id LIMIT 20)`)
	shop.exec(t, `UPDATE book SET archived_at = now() WHERE id = $1`, catalog.SeedID(seeded[3].ISBN13))
	on := func(b *catalog.Book) bool { return b.ISBN13 != seeded[3].ISBN13 }
	author := seeded[0].Authors[0]
	word := strings.ToLower(strings.Fields(seeded[10].Title)[0])
	for name, test := range map[string]struct {
		filter catalog.Filter
		match  func(*catalog.Book) bool // besides being on sale; nil where only pages are compared
	}{
		"all":      {catalog.Filter{}, func(*catalog.Book) bool { return true }},
		"category": {catalog.Filter{Category: "classics"}, func(b *catalog.Book) bool { return slices.Contains(b.Categories, "classics") }},
		"author": {catalog.Filter{Author: strings.ToUpper(author)}, func(b *catalog.Book) bool {
			return slices.Contains(b.Authors, author)
		}},
		"language": {catalog.Filter{Language: "EN"}, func(b *catalog.Book) bool { return b.Language == "en" }},
		"price": {catalog.Filter{MinPrice: 1200, MaxPrice: 1800}, func(b *catalog.Book) bool {
			return b.Price.Minor >= 1200 && b.Price.Minor <= 1800
		}},
		"in stock": {catalog.Filter{InStock: true}, func(b *catalog.Book) bool { return b.Available > 0 }},
		"query":    {catalog.Filter{Query: word}, nil},
		"several": {catalog.Filter{Category: "fiction", Language: "en", MinPrice: 1, InStock: true}, func(b *catalog.Book) bool {
			return slices.Contains(b.Categories, "fiction") && b.Language == "en" && b.Available > 0
		}},
		"nothing": {catalog.Filter{Category: "no-such"}, func(*catalog.Book) bool { return false }},
	} {
		for _, sort := range sorts {
			t.Run(name+" by "+string(sort), func(t *testing.T) {
				t.Parallel()
				whole := shop.walk(t, test.filter, sort, 1000)
				for _, size := range []int{1, 7, 100} {
					if size == 1 && len(whole) > 100 {
						continue // slow
					}
					if got := shop.walk(t, test.filter, sort, size); !slices.Equal(titles(got), titles(whole)) {
						t.Errorf("pages of %d: %d books, not the %d of the whole list in their order", size, len(got), len(whole))
					}
				}
				compare := map[catalog.Sort]func(a, b catalog.Book) int{
					catalog.SortTitle:     func(_, _ catalog.Book) int { return 0 }, // see TestListByTitle
					catalog.SortPriceAsc:  func(a, b catalog.Book) int { return cmp.Compare(a.Price.Minor, b.Price.Minor) },
					catalog.SortPriceDesc: func(a, b catalog.Book) int { return cmp.Compare(b.Price.Minor, a.Price.Minor) },
					catalog.SortNewest:    func(a, b catalog.Book) int { return cmp.Compare(b.Year, a.Year) },
				}[sort]
				if !slices.IsSortedFunc(whole, compare) {
					t.Error("the list is not sorted")
				}
				if test.match == nil {
					if len(whole) == 0 {
						t.Error("the list is empty")
					}
					return
				}
				want := 0
				for _, b := range shop.walk(t, catalog.Filter{}, sort, 1000) {
					if on(&b) && test.match(&b) {
						want++
					}
				}
				for _, b := range whole {
					if !on(&b) || !test.match(&b) {
						t.Errorf("%q does not match", b.Title)
					}
				}
				if len(whole) != want || want == 0 && name != "nothing" {
					t.Errorf("%d books match, want %d", len(whole), want)
				}
			})
		}
	}
}

func TestListByTitle(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	books := shop.add(t, 1, 1, 1, 1, 1, 1)
	for i, title := range []string{"émile", "Emma", "“Zadig”", "É", "emil and the Detectives", "1984"} {
		shop.exec(t, `UPDATE book SET title = $2 WHERE id = $1`, books[i], title)
	}
	// Written anew, as a store that changes titles does.
	for title, key := range map[string]string{
		"émile": "emile", "Emma": "emma", "“Zadig”": "zadig", "É": "e", "emil and the Detectives": "emil and the detectives", "1984": "1984",
	} {
		shop.exec(t, `UPDATE book SET title_key = $2 WHERE title = $1`, title, key)
	}
	want := []string{"1984", "É", "emil and the Detectives", "émile", "Emma", "“Zadig”"}
	if got := titles(shop.walk(t, catalog.Filter{}, catalog.SortTitle, 2)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestListTieBreak(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	shop.add(t, make([]int, 23)...)
	shop.exec(t, `UPDATE book SET title = 'Same', title_key = 'same', price_minor = 5, publication_year = 1900`)
	for _, sort := range sorts {
		seen := make(map[uuid.UUID]bool)
		for _, b := range shop.walk(t, catalog.Filter{}, sort, 4) {
			seen[b.ID] = true
		}
		if len(seen) != 23 {
			t.Errorf("%s: saw %d of 23 books", sort, len(seen))
		}
	}
}

func TestListFindsWords(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	_, err := shop.Seed(t.Context(), []seed.Book{
		{ISBN13: "9780000000001", Title: "Cien años de soledad", Authors: []string{"Gabriel García Márquez"}, Language: "es", Categories: []string{"fiction"}, Currency: "USD"},
		{ISBN13: "9780000000002", Title: "The Hobbit", Subtitle: "There and Back Again", Authors: []string{"J.R.R. Tolkien"}, Language: "en", Categories: []string{"fiction"}, Currency: "USD"},
		{ISBN13: "9780000000003", Title: "Don't Make Me Think", Authors: []string{"Steve O’Brien"}, Language: "en", Categories: []string{"fiction"}, Currency: "USD"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string][]string{
		"anos garcia":            {"Cien años de soledad"},
		"AÑOS":                   {"Cien años de soledad"},
		"hobbit":                 {"The Hobbit"},
		"tolkien, again":         {"The Hobbit"},
		"JRR Tolkien":            {"The Hobbit"},
		"the":                    {"The Hobbit"},
		"dont obrien":            {"Don't Make Me Think"},
		"O'Brien":                {"Don't Make Me Think"},
		"978-0-00-000000-2":      {"The Hobbit"},
		"9780000000003":          {"Don't Make Me Think"},
		"hobbit garcia":          nil,
		"hob":                    nil,
		`'); DROP TABLE book;--`: nil,
		"a & ! | ( : * hobbit":   nil,
		"& hobbit !":             {"The Hobbit"},
	} {
		if got := titles(shop.walk(t, catalog.Filter{Query: query}, catalog.SortTitle, 5)); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", query, got, want)
		}
	}
	for author, want := range map[string]int{"gabriel garcia marquez": 1, "GABRIEL GARCÍA MÁRQUEZ": 1, "Marquez": 0, "j.r.r. tolkien": 1} {
		if got := shop.walk(t, catalog.Filter{Author: author}, catalog.SortTitle, 5); len(got) != want {
			t.Errorf("author %q: got %d books, want %d", author, len(got), want)
		}
	}
}

func TestListRefusesAForeignToken(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	shop.add(t, 1, 1, 1)
	_, token, err := shop.List(t.Context(), catalog.Filter{Language: "en"}, catalog.SortTitle, 2, "")
	if err != nil || token == "" {
		t.Fatalf("token %q, %v", token, err)
	}
	for name, list := range map[string]func() error{
		"garbled": func() error {
			_, _, err := shop.List(t.Context(), catalog.Filter{Language: "en"}, catalog.SortTitle, 2, token+"x")
			return err
		},
		"other filter": func() error {
			_, _, err := shop.List(t.Context(), catalog.Filter{}, catalog.SortTitle, 2, token)
			return err
		},
		"other sort": func() error {
			_, _, err := shop.List(t.Context(), catalog.Filter{Language: "en"}, catalog.SortNewest, 2, token)
			return err
		},
	} {
		if err := list(); !fault.Is(err, fault.ReasonPageTokenInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestListPlansWithoutSorting(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	shop.exec(t, `
		INSERT INTO book (id, isbn13, title, subtitle, authors, description, publisher, publication_year, language,
			page_count, categories, price_minor, currency, title_key, author_keys, search_text)
		SELECT gen_random_uuid(), lpad(n::text, 13, '0'), 'T' || n, '', '{}', '', '', 1900 + n % 100, 'en', 1, '{}', n % 3000, 'USD', 't' || n, '{}', ''
		FROM generate_series(1, 5000) n`)
	shop.exec(t, `INSERT INTO stock (book_id, on_hand) SELECT id, 1 FROM book`)
	shop.exec(t, `ANALYZE book, stock`)
	for _, order := range []string{"title_key, b.id", "price_minor, b.id", "price_minor DESC, b.id DESC", "publication_year DESC, b.id DESC"} {
		rows, err := shop.db.Query(t.Context(), fmt.Sprintf(`EXPLAIN SELECT b.title, b.description FROM book b JOIN stock s ON s.book_id = b.id
			WHERE archived_at IS NULL ORDER BY %s LIMIT 21`, order))
		if err != nil {
			t.Fatal(err)
		}
		var plan []string
		for rows.Next() {
			var step string
			if err := rows.Scan(&step); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, step)
		}
		if rows.Err() != nil {
			t.Fatal(rows.Err())
		}
		if text := strings.Join(plan, "\n"); strings.Contains(text, "Sort") {
			t.Errorf("by %s:\n%s", order, text)
		}
	}
}

func TestGetAndBatchGet(t *testing.T) {
	t.Parallel()
	shop := setup(t)
	ids := shop.add(t, 5, 5, 5)
	shop.hold(t, uuid.New(), line(ids[1], 2))
	shop.exec(t, `UPDATE book SET archived_at = now(), version = 2 WHERE id = $1`, ids[2])
	book, err := shop.Get(t.Context(), ids[1])
	if err != nil {
		t.Fatal(err)
	}
	if book.ID != ids[1] || book.Title != "Book 1" || book.Available != 3 || book.Price.String() != "USD 10.01" ||
		book.Version != 1 || book.Archived || book.UpdatedAt.IsZero() || !slices.Equal(book.Authors, []string{"An Author"}) {
		t.Errorf("got %+v", book)
	}
	unknown := uuid.New()
	_, err = shop.Get(t.Context(), unknown)
	if f := refuse(t, err, fault.ReasonBookNotFound); f.Metadata["book_id"] != unknown.String() {
		t.Errorf("metadata is %v", f.Metadata)
	}
	books, err := shop.BatchGet(t.Context(), []uuid.UUID{ids[2], unknown, ids[0], ids[2]})
	if err != nil {
		t.Fatal(err)
	}
	if got := titles(books); !slices.Equal(got, []string{"Book 2", "Book 0", "Book 2"}) || !books[0].Archived {
		t.Errorf("got %q", got)
	}
	if books, err := shop.BatchGet(t.Context(), nil); err != nil || len(books) != 0 {
		t.Errorf("no ids: got %d books, %v", len(books), err)
	}
}

func TestSeedIsIdempotent(t *testing.T) {
	t.Parallel()
	shop, books := library(t)
	first := books[0]
	id := catalog.SeedID(first.ISBN13)
	shop.hold(t, uuid.New(), line(id, 1))
	if err := shop.Receive(t.Context(), id, 4, "delivery"); err != nil {
		t.Fatal(err)
	}
	shop.exec(t, `UPDATE book SET price_minor = 77 WHERE id = $1`, id)
	books[0].Stock, books[0].Title = 1000, "Another"

	if n, err := shop.Seed(t.Context(), books); err != nil || n != 0 {
		t.Errorf("seeded %d again, %v", n, err)
	}
	for _, table := range []string{"book", "stock"} {
		if n := shop.count(t, `SELECT count(*) FROM `+table); n != len(books) {
			t.Errorf("%d rows in %s, want %d", n, table, len(books))
		}
	}
	shop.stock(t, id, first.Stock+4, 1)
	if n := shop.count(t, `SELECT price_minor FROM book WHERE id = $1 AND title = $2`, id, first.Title); n != 77 {
		t.Errorf("the price is %d", n)
	}
	shop.audit(t)
}
