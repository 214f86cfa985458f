package catalog

import (
	"strings"
	"testing"

	"bookworm/internal/catalog/seed"
)

func TestParseISBN(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"9780134190440": "9780134190440", "978-0-13-419044-0": "9780134190440", " 978 0 13 419044 0 ": "9780134190440",
		"0134190440": "9780134190440", "0-13-419044-0": "9780134190440", "ISBN 0134190440": "9780134190440",
		"isbn-13: 978-0-13-419044-0": "9780134190440", "ISBN-10: 0-13-419044-0": "9780134190440", "isbn:0134190440": "9780134190440",
		"080442957X": "9780804429573", "080442957x": "9780804429573",
		"0134190441": "", "9780134190441": "", "X134190440": "", "978013419044": "", "": "", "isbn": "", "97801341904400": "",
	} {
		got, ok := parseISBN(text)
		if ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q, %t; want %q", text, got, ok, want)
		}
	}
}

func FuzzParseISBN(f *testing.F) {
	f.Add("978-0-13-419044-0")
	f.Add("ISBN 080442957X")
	f.Fuzz(func(t *testing.T, text string) {
		if got, ok := parseISBN(text); ok && (!seed.ValidISBN13(got) || strings.TrimSpace(got) != got) {
			t.Errorf("%q is read as %q", text, got)
		}
	})
}

// TestTokensOfOtherLanguages has a Spanish book that the shop describes in English.
func TestTokensOfOtherLanguages(t *testing.T) {
	t.Parallel()
	spanish := Book{Title: "Los libros", Language: "es", Description: "The house of the spirits."}
	have := make(map[string]bool)
	for _, token := range documentTokens(spanish) {
		have[token] = true
	}
	if have["the"] || have["of"] {
		t.Errorf("stop words of English are words of a Spanish book: %v", have)
	}
	for _, query := range []string{"libro", "libros", "houses", "spirit"} {
		found := false
		for _, token := range queryTokens(query) {
			found = found || have[token]
		}
		if !found {
			t.Errorf("%q does not find it: %v in %v", query, queryTokens(query), have)
		}
	}
	english := Book{Title: "Running houses", Language: "en-GB"}
	if got := documentTokens(english); strings.Join(got, " ") != "run hous" {
		t.Errorf("English has tokens %q", got)
	}
}
