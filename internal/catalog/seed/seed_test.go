package seed

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/text/language"
)

func TestBooks(t *testing.T) {
	t.Parallel()
	books, err := Books()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(books), 250; got < want {
		t.Errorf("%d books, want %d or more", got, want)
	}

	works := make(map[string]bool, len(books))
	used := make(map[string]bool, len(Categories))
	languages := map[string]int{}
	for _, b := range books {
		if n := len(strings.Fields(b.Description)); n < 40 || n > 80 {
			t.Errorf("%s: description has %d words, want 40 to 80", b.Title, n)
		}
		if tag, err := language.Parse(b.Language); err != nil || tag.String() != b.Language {
			t.Errorf("%s: language %q is not a canonical BCP 47 tag", b.Title, b.Language)
		}
		if b.Currency != "USD" {
			t.Errorf("%s: currency %s, want USD", b.Title, b.Currency)
		}
		if b.Stock < 1 {
			t.Errorf("%s: none in stock", b.Title)
		}
		work := strings.ToLower(b.Title + "\n" + b.Authors[0])
		if works[work] {
			t.Errorf("%s by %s is listed twice", b.Title, b.Authors[0])
		}
		works[work] = true
		for _, c := range b.Categories {
			used[c] = true
		}
		languages[b.Language]++
	}
	for _, c := range Categories {
		if !used[c] {
			t.Errorf("no book in category %s", c)
		}
	}
	if len(languages) < 4 {
		t.Errorf("languages %v, want four or more", slices.Sorted(maps.Keys(languages)))
	}
	if !slices.IsSortedFunc(books, func(a, b Book) int {
		return strings.Compare(strings.ToLower(a.Title), strings.ToLower(b.Title))
	}) {
		t.Error("books are not sorted by title")
	}
}

func TestCategoriesSortedAndUnique(t *testing.T) {
	t.Parallel()
	if want := slices.Compact(slices.Sorted(slices.Values(Categories))); !slices.Equal(Categories, want) {
		t.Errorf("categories %v, want %v", Categories, want)
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	good := Book{
		ISBN13: "9780134190440", Title: "The Go Programming Language",
		Authors: []string{"Alan Donovan", "Brian W. Kernighan"},
		Year:    2015, Language: "en", Pages: 380, Categories: []string{"computing"},
		Publisher: "Addison-Wesley", Description: "How to write Go.",
		PriceMinor: 3999, Currency: "USD", Stock: 3,
	}
	encode := func(books ...Book) string {
		data, err := json.Marshal(books)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if _, err := decode([]byte(encode(good))); err != nil {
		t.Fatal(err)
	}
	with := func(change func(*Book)) string {
		b := good
		change(&b)
		return encode(b)
	}

	for name, tc := range map[string]struct{ data, want string }{
		"unknown field":    {`[{"isbn":"9780134190440"}]`, `unknown field "isbn"`},
		"trailing data":    {encode(good) + "[]", "more data"},
		"truncated":        {`[{"isbn13":`, "unexpected EOF"},
		"check digit":      {with(func(b *Book) { b.ISBN13 = "9780134190441" }), "isbn13"},
		"same book twice":  {encode(good, good), "isbn13 9780134190440 is also that of"},
		"no title":         {with(func(b *Book) { b.Title = "" }), "title"},
		"padded title":     {with(func(b *Book) { b.Title += " " }), "title"},
		"blank subtitle":   {with(func(b *Book) { b.Subtitle = " " }), "subtitle"},
		"no language":      {with(func(b *Book) { b.Language = "" }), "language"},
		"no publisher":     {with(func(b *Book) { b.Publisher = "" }), "publisher"},
		"no description":   {with(func(b *Book) { b.Description = "" }), "description"},
		"broken UTF-8":     {with(func(b *Book) { b.Title = "Caf\ufffd" }), "title"},
		"no authors":       {with(func(b *Book) { b.Authors = nil }), "authors"},
		"unnamed author":   {with(func(b *Book) { b.Authors = []string{""} }), "authors"},
		"no categories":    {with(func(b *Book) { b.Categories = nil }), "categories"},
		"unknown category": {with(func(b *Book) { b.Categories = []string{"gardening"} }), `categories has the unknown "gardening"`},
		"category twice":   {with(func(b *Book) { b.Categories = []string{"art", "art"} }), "twice"},
		"no year":          {with(func(b *Book) { b.Year = 0 }), "year"},
		"no pages":         {with(func(b *Book) { b.Pages = 0 }), "pages"},
		"free":             {with(func(b *Book) { b.PriceMinor = 0 }), "price_minor"},
		"currency":         {with(func(b *Book) { b.Currency = "usd" }), "currency"},
		"negative stock":   {with(func(b *Book) { b.Stock = -1 }), "stock"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			books, err := decode([]byte(tc.data))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			if books != nil {
				t.Errorf("books %v beside the error", books)
			}
		})
	}
}

func TestValidISBN13(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"9780134190440":     true,
		"9780141439518":     true,
		"9791034737543":     true,
		"9780134190441":     false,
		"9780134190404":     false,
		"978-0-13-419044-0": false,
		"0134190440":        false,
		"97801341904400":    false,
		"978013419044X":     false,
		"4006381333931":     false, // a valid EAN-13 that is not a book's
		"":                  false,
	} {
		if got := ValidISBN13(s); got != want {
			t.Errorf("ValidISBN13(%q) = %v, want %v", s, got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`[]`))
	f.Add([]byte(`[{"isbn13":"9780134190440","title":"Go"}]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		books, err := decode(data)
		if err != nil {
			return
		}
		for _, b := range books {
			if !ValidISBN13(b.ISBN13) || b.Title == "" || b.PriceMinor <= 0 {
				t.Errorf("accepted %+v", b)
			}
		}
	})
}
