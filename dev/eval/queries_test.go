package eval

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"bookworm/internal/catalog/seed"
	"bookworm/internal/vector"
)

func labelled(t *testing.T) ([]Query, map[string]seed.Book) {
	t.Helper()
	queries, err := Queries()
	if err != nil {
		t.Fatal(err)
	}
	books, err := seed.Books()
	if err != nil {
		t.Fatal(err)
	}
	byISBN := make(map[string]seed.Book)
	for _, b := range books {
		byISBN[b.ISBN13] = b
	}
	return queries, byISBN
}

func TestStrataAreLargeEnough(t *testing.T) {
	t.Parallel()
	queries, _ := labelled(t)
	if len(queries) < 190 {
		t.Errorf("there are %d queries, want at least 190", len(queries))
	}
	count := make(map[Stratum]int)
	for _, q := range queries {
		count[q.Stratum]++
	}
	for _, s := range Strata {
		least := 20
		if s == Unanswerable {
			least = 25
		}
		if count[s] < least {
			t.Errorf("stratum %s has %d queries, want at least %d", s, count[s], least)
		}
		delete(count, s)
	}
	if len(count) > 0 {
		t.Errorf("unknown strata: %v", count)
	}
}

func TestQueriesAreDistinct(t *testing.T) {
	t.Parallel()
	queries, _ := labelled(t)
	ids, texts := make(map[string]bool), make(map[string]string)
	for _, q := range queries {
		if ids[q.ID] || !strings.HasPrefix(q.ID, string(q.Stratum)+"-") {
			t.Errorf("id %q is used twice, or is none of %s", q.ID, q.Stratum)
		}
		ids[q.ID] = true
		key := strings.Join(strings.Fields(strings.ToLower(q.Text)), " ")
		if key == "" || key != strings.ToLower(q.Text) {
			t.Errorf("%s: text %q is empty or not trimmed", q.ID, q.Text)
		}
		if other := texts[key]; other != "" {
			t.Errorf("%s and %s ask the same: %q", other, q.ID, q.Text)
		}
		texts[key] = q.ID
	}
}

func TestLabelsAreSound(t *testing.T) {
	t.Parallel()
	queries, books := labelled(t)
	for _, q := range queries {
		for isbn, grade := range q.Relevant {
			book, known := books[isbn]
			if !known {
				t.Errorf("%s: no book has the ISBN %s", q.ID, isbn)
			}
			if grade < Related || grade > Perfect {
				t.Errorf("%s: %q has the grade %d", q.ID, book.Title, grade)
			}
			if !q.Filter.matches(book) {
				t.Errorf("%s: %q is relevant and does not pass the filter %+v", q.ID, book.Title, q.Filter)
			}
		}
		if (q.Stratum == Unanswerable) != (q.Question != "") {
			t.Errorf("%s: unanswerable queries have a question for the bookseller, and no others do", q.ID)
		}
		switch {
		case q.Stratum == Unanswerable && len(q.Relevant) > 0:
			t.Errorf("%s is unanswerable and has relevant books", q.ID)
		case q.Stratum != Unanswerable && !slices.ContainsFunc(slices.Collect(maps.Values(q.Relevant)), func(g int) bool { return g >= Good }):
			t.Errorf("%s has no good book", q.ID)
		case q.Stratum == Exact && len(q.Relevant) != 1:
			t.Errorf("%s means %d books, want exactly one", q.ID, len(q.Relevant))
		case (q.Stratum == Constraint) != (q.Filter != Filter{}):
			t.Errorf("%s: only queries with a constraint have a filter, and all of them do", q.ID)
		}
	}
}

func (f Filter) matches(b seed.Book) bool {
	return (f.Category == "" || slices.Contains(b.Categories, f.Category)) &&
		(f.Author == "" || slices.Contains(b.Authors, f.Author)) &&
		(f.Language == "" || b.Language == f.Language) &&
		b.PriceMinor >= f.MinPriceMinor && (f.MaxPriceMinor == 0 || b.PriceMinor <= f.MaxPriceMinor) &&
		(!f.InStock || b.Stock > 0)
}

// An exact query is the title or the ISBN, but for case, accents and hyphens.
func TestExactQueriesAreExact(t *testing.T) {
	t.Parallel()
	queries, books := labelled(t)
	bare := regexp.MustCompile(`[^0-9X]`)
	for _, q := range queries {
		if q.Stratum != Exact {
			continue
		}
		for isbn := range q.Relevant {
			title := slices.Equal(vector.Tokens(q.Text, ""), vector.Tokens(books[isbn].Title, ""))
			digits := bare.ReplaceAllString(strings.TrimPrefix(q.Text, "ISBN"), "")
			number := digits == isbn || len(digits) == 10 && strings.HasPrefix(isbn, "978"+digits[:9])
			if !title && !number {
				t.Errorf("%s: %q is neither the title nor the ISBN of %q", q.ID, q.Text, books[isbn].Title)
			}
		}
	}
}

// A book whose title or ISBN an unanswerable query names must not be there, nor one
// by the author that it names.
func TestUnanswerableQueriesHaveNoAnswer(t *testing.T) {
	t.Parallel()
	queries, books := labelled(t)
	for _, q := range queries {
		if q.Stratum != Unanswerable {
			continue
		}
		text := " " + strings.Join(vector.Tokens(q.Text, ""), " ") + " "
		for isbn, b := range books {
			names := append([]string{isbn, b.Title}, b.Authors...)
			for _, name := range names {
				if strings.Contains(text, " "+strings.Join(vector.Tokens(name, ""), " ")+" ") {
					t.Errorf("%s: %q names %q", q.ID, q.Text, name)
				}
			}
		}
	}
}

func TestQuestionsAreAboutBooksThatAreThere(t *testing.T) {
	t.Parallel()
	_, books := labelled(t)
	questions, err := Questions()
	if err != nil {
		t.Fatal(err)
	}
	if len(questions) < 40 {
		t.Errorf("there are %d questions, want at least 40", len(questions))
	}
	seen := make(map[string]bool)
	for _, q := range questions {
		if seen[q.Text] || q.Text == "" || len(q.About) == 0 {
			t.Errorf("%s: %q is asked twice, empty or about nothing", q.ID, q.Text)
		}
		seen[q.Text] = true
		for _, isbn := range q.About {
			if _, known := books[isbn]; !known {
				t.Errorf("%s: no book has the ISBN %s", q.ID, isbn)
			}
		}
	}
}

// Words alone must not win: what a theme or a book that somebody names leads to
// shares no content word with its title, and few with its description.
func TestParaphrasesShareFewWords(t *testing.T) {
	t.Parallel()
	queries, books := labelled(t)
	for _, q := range queries {
		if q.Stratum != Theme && q.Stratum != LikeThis {
			continue
		}
		words := content(q.Text)
		for isbn, grade := range q.Relevant {
			b := books[isbn]
			if shared := common(words, content(b.Title+" "+b.Subtitle)); len(shared) > 0 {
				t.Errorf("%s: %q and the title %q share %v", q.ID, q.Text, b.Title, shared)
			}
			shared := common(words, content(b.Description))
			if grade == Perfect && float64(len(shared)) > float64(len(words))/3 {
				t.Errorf("%s: %q and the description of %q share %v", q.ID, q.Text, b.Title, shared)
			}
		}
	}
}
