package eval

import (
	"slices"
	"strings"
	"testing"

	"bookworm/internal/catalog/seed"
)

func TestSentences(t *testing.T) {
	t.Parallel()
	tests := map[string][]sentence{
		"Dune costs 10.99 USD [1]. We have 88 copies. [2]":      {{"Dune costs 10.99 USD .", []int{1}}, {"We have 88 copies.", []int{2}}},
		"Mrs Dalloway is by Virginia Woolf [3][4]":              {{"Mrs Dalloway is by Virginia Woolf", []int{3, 4}}},
		"1. Dune [1]\n2. Emma [2]":                              {{"Dune", []int{1}}, {"Emma", []int{2}}},
		"It costs 9.99 USD.\n[1]":                               {{"It costs 9.99 USD.", []int{1}}},
		"“Holes” is there.” [1] “Emma” is too [2].":             {{"“Holes” is there.”", []int{1}}, {"“Emma” is too .", []int{2}}},
		"I don't know.":                                         {{"I don't know.", nil}},
		"J.R.R. Tolkien wrote it [1], and it is 14.99 USD.":     {{"J.R.R. Tolkien wrote it , and it is 14.99 USD.", []int{1}}},
		"- The Hobbit, 95 copies [1]\n- Beowulf, 16 copies [2]": {{"The Hobbit, 95 copies", []int{1}}, {"Beowulf, 16 copies", []int{2}}},
	}
	for answer, want := range tests {
		got := sentences(answer)
		same := func(a, b sentence) bool {
			return strings.Join(strings.Fields(a.text), " ") == b.text && slices.Equal(a.marks, b.marks)
		}
		if !slices.EqualFunc(got, want, same) {
			t.Errorf("sentences of %q = %v, want %v", answer, got, want)
		}
	}
}

func TestUnsupported(t *testing.T) {
	t.Parallel()
	_, books := labelled(t)
	catalogue, err := seed.Books()
	if err != nil {
		t.Fatal(err)
	}
	dune, foundation, gatsby := books["9780441172719"], books["9780553293357"], books["9780743273565"]
	soldOut := dune
	soldOut.Stock = 0
	tests := map[string]struct {
		text  string
		cited []seed.Book
		want  string // part of the reason; empty for supported
	}{
		"price":                  {"Dune costs 10.99 USD.", []seed.Book{dune}, ""},
		"another price":          {"Dune costs 0.01 USD.", []seed.Book{dune}, "0.01"},
		"stock, year, pages":     {"Of Dune (1965, 604 pages) we have 88 copies.", []seed.Book{dune}, ""},
		"another stock":          {"Of Dune we have 89 copies.", []seed.Book{dune}, "89"},
		"ISBN with hyphens":      {"Its ISBN is 978-0-441-17271-9.", []seed.Book{dune}, ""},
		"another book's ISBN":    {"Its ISBN is 978-0-553-29335-7.", []seed.Book{dune}, "9780553293357"},
		"two books":              {"Dune costs 10.99 USD and Foundation 8.99 USD.", []seed.Book{dune, foundation}, ""},
		"a price of the other":   {"Dune costs 8.99 USD.", []seed.Book{dune}, "8.99"},
		"round price":            {"The Great Gatsby costs $17.", []seed.Book{gatsby}, ""},
		"thousands":              {"It came out in 1,925.", []seed.Book{gatsby}, ""},
		"another title":          {"The Great Gatsby is by F. Scott Fitzgerald.", []seed.Book{dune}, "The Great Gatsby"},
		"another author":         {"Dune is by Isaac Asimov.", []seed.Book{dune}, "Isaac Asimov"},
		"a title in its text":    {"The narrator is devoted to Robinson Crusoe.", []seed.Book{books["9780375757853"]}, ""},
		"words of its own":       {"Ecology, prophecy and dynastic murder on a desert planet.", []seed.Book{dune}, ""},
		"in stock":               {"It is in stock.", []seed.Book{dune}, ""},
		"not sold out":           {"It is sold out.", []seed.Book{dune}, "stock"},
		"sold out":               {"It is not in stock.", []seed.Book{soldOut}, ""},
		"not in stock":           {"It is available.", []seed.Book{soldOut}, "stock"},
		"publisher":              {"Its publisher is Ace Books.", []seed.Book{dune}, ""},
		"another publisher":      {"Its publisher is Scribner.", []seed.Book{dune}, "nothing in it"},
		"language":               {"It is in English.", []seed.Book{dune}, ""},
		"another language":       {"It is in French.", []seed.Book{dune}, "nothing in it"},
		"nothing of it":          {"It is a most pleasant evening.", []seed.Book{dune}, "nothing in it"},
		"one of two has no part": {"Dune costs 10.99 USD.", []seed.Book{dune, gatsby}, "nothing in it is of \"The Great Gatsby\""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := unsupported(test.text, test.cited, catalogue)
			if (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
				t.Errorf("unsupported(%q) = %q, want %q", test.text, got, test.want)
			}
		})
	}
}
