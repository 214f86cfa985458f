package eval

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bookworm/internal/catalog"
	"bookworm/internal/catalog/seed"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
)

func TestAbstains(t *testing.T) {
	t.Parallel()
	cited := map[int]*chatv1.Citation{1: {Number: 1}}
	tests := map[string]struct {
		reply reply
		want  bool
	}{
		"says so":               {reply{text: "I'm sorry, we don't have that.", outcome: chatv1.Done_ANSWERED}, true},
		"typographic":           {reply{text: "I couldn’t find it here.", outcome: chatv1.Done_ANSWERED}, true},
		"refuses another topic": {reply{text: "I can only help with books.", outcome: chatv1.Done_REFUSED}, true},
		"says so and cites":     {reply{text: "We don't have it, but Dune [1].", outcome: chatv1.Done_ANSWERED, citations: cited}, false},
		"cites without a mark":  {reply{text: "We don't have it.", outcome: chatv1.Done_ANSWERED, citations: cited}, false},
		"a mark without event":  {reply{text: "We don't have it, but Dune [1].", outcome: chatv1.Done_ANSWERED}, false},
		"shows a book":          {reply{text: "We don't have it.", outcome: chatv1.Done_ANSWERED, books: 1}, false},
		"says something else":   {reply{text: "It costs 3 USD.", outcome: chatv1.Done_ANSWERED}, false},
		"says nothing":          {reply{outcome: chatv1.Done_ANSWERED}, false},
		"only does not know":    {reply{text: "I don't know.", outcome: chatv1.Done_ANSWERED}, false},
		"broke":                 {reply{text: "We don't have it.", outcome: chatv1.Done_FAILED}, false},
		"the model is away":     {reply{text: "I found nothing.", outcome: chatv1.Done_FALLBACK}, false},
	}
	for name, test := range tests {
		if got := abstains(test.reply); got != test.want {
			t.Errorf("%s: abstains = %v, want %v", name, got, test.want)
		}
	}
}

func TestCheckCountsCitations(t *testing.T) {
	t.Parallel()
	_, books := labelled(t)
	dune, emma := books["9780441172719"], books["9780141439587"]
	c := &counter{catalogue: []seed.Book{dune, emma}, byID: make(map[string]seed.Book)}
	citations := make(map[int]*chatv1.Citation)
	for i, b := range c.catalogue {
		id := catalog.SeedID(b.ISBN13).String()
		c.byID[id] = b
		citations[i+1] = &chatv1.Citation{Source: &chatv1.Citation_BookId{BookId: id}}
	}
	citations[3] = &chatv1.Citation{Source: &chatv1.Citation_Policy{Policy: "returns"}}
	tests := map[string]struct{ citations, wrong int }{
		"Dune costs 10.99 USD [1]. Emma costs 9.00 USD [2].":    {2, 0},
		"Dune costs 10.99 USD and Emma costs 9.00 USD [1][2].":  {2, 0},
		"Dune costs 9.00 USD [1]. Emma costs 9.00 USD [2].":     {2, 1},
		"Dune costs 10.99 USD [2].":                             {1, 1},
		"Dune costs 10.99 USD [7].":                             {1, 1}, // there is no such citation
		"Dune costs 10.99 USD [3].":                             {1, 1}, // it is of no book
		"Dune costs 10.99 USD [1][1].":                          {1, 0},
		"Dune costs 10.99 USD [99999999999999999999].":          {1, 1}, // too large for a number
		"I like books.":                                         {0, 0},
		"Dune costs 0.01 USD and Emma costs 9.00 USD [1] [2].":  {2, 2},
		"1. Dune, by Frank Herbert [1]\n2. Emma, 26 copies [2]": {2, 0},
	}
	for text, want := range tests {
		citations, wrong := c.check(reply{text: text, citations: citations})
		if citations != want.citations || len(wrong) != want.wrong {
			t.Errorf("check(%q) = %d citations, wrong %q; want %d, %d wrong", text, citations, wrong, want.citations, want.wrong)
		}
	}
	if !c.cites(reply{text: "Dune [1].", citations: citations}, []string{dune.ISBN13}) {
		t.Error("an answer that cites Dune does not count as one about Dune")
	}
	if c.cites(reply{text: "Dune. Emma [2].", citations: citations}, []string{dune.ISBN13}) {
		t.Error("an answer that cites Emma counts as one about Dune")
	}
}

func TestEndpointFrom(t *testing.T) {
	t.Parallel()
	set := map[string]string{}
	lookup := func(name string) string { return set[name] }
	if e, err := EndpointFrom(lookup); err != nil || e != (Endpoint{}) {
		t.Errorf("nothing set gives %+v, %v; want the embedded models", e, err)
	}
	set["OPENAI_TEST_BASE_URL"] = "http://127.0.0.1:11434/v1"
	set["OPENAI_TEST_EMBEDDING_DIMENSION"] = "many"
	_, err := EndpointFrom(lookup)
	if err == nil || !strings.Contains(err.Error(), "OPENAI_TEST_EMBEDDING_MODEL") || !strings.Contains(err.Error(), "OPENAI_TEST_EMBEDDING_DIMENSION") {
		t.Errorf("a half endpoint gives %v, want an error that names both variables", err)
	}
	set["OPENAI_TEST_EMBEDDING_DIMENSION"] = "0"
	if _, err := EndpointFrom(lookup); err == nil || !strings.Contains(err.Error(), "OPENAI_TEST_EMBEDDING_DIMENSION") {
		t.Errorf("the dimension 0 gives %v, want an error that names the variable", err)
	}
	set["OPENAI_TEST_EMBEDDING_MODEL"], set["OPENAI_TEST_EMBEDDING_DIMENSION"] = "nomic-embed-text", "768"
	want := Endpoint{BaseURL: "http://127.0.0.1:11434/v1", EmbeddingModel: "nomic-embed-text", Dimension: 768, Genuine: true}
	if e, err := EndpointFrom(lookup); err != nil || e != want {
		t.Errorf("endpoint = %+v, %v; want %+v", e, err, want)
	}
}

func TestWriteReplacesOnlyItsPart(t *testing.T) {
	t.Parallel()
	page := filepath.Join(t.TempDir(), "page.md")
	before := "head\n<!-- begin embedded models -->\nold\n<!-- end embedded models -->\n<!-- begin real models -->\nkept\n<!-- end real models -->\ntail\n"
	if err := os.WriteFile(page, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := write(page, Endpoint{}, "new\n"); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(before, "old", "new", 1); string(after) != want {
		t.Errorf("page = %q, want %q", after, want)
	}
	if err := os.WriteFile(page, []byte("no marks\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := write(page, Endpoint{Genuine: true}, "new\n"); err == nil || !strings.Contains(err.Error(), "begin real models") {
		t.Errorf("a page without marks gives %v, want an error that names them", err)
	}
}
