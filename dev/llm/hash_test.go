package llm

import (
	"math"
	"strings"
	"testing"
	"unicode/utf8"
)

func cosine(a, b string) float64 {
	x, y := embed(a, 1536), embed(b, 1536)
	var sum float64
	for i := range x {
		sum += float64(x[i]) * float64(y[i])
	}
	return sum
}

// TestEmbeddingKnowsLetters says what the embedder is good for and what it is not.
func TestEmbeddingKnowsLetters(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ query, closer, farther string }{
		{"Dostoyevski", "Crime and Punishment by Fyodor Dostoevsky", "War and Peace by Leo Tolstoy"},
		{"the lord of the rigns", "The Lord of the Rings", "The Lord of the Flies"},
		{"gardening", "The gardener's year in her gardens", "Cooking for a family of five"},
		{"Bronte sisters", "Brontë: the sisters of Haworth", "Austen: the women of Chawton"},
		{"deep sea", "sea deep", "see deal"},
	} {
		if near, far := cosine(test.query, test.closer), cosine(test.query, test.farther); near <= far {
			t.Errorf("%q: %.3f to %q, %.3f to %q", test.query, near, test.closer, far, test.farther)
		}
	}
	if meaning, letters := cosine("hound", "dog"), cosine("hound", "houndd"); meaning > 0.1 || letters < 0.3 {
		t.Errorf("hound is %.3f from dog and %.3f from houndd", meaning, letters)
	}
	if common := cosine("the book of the whale", "the bread of the widow"); common > 0.25 {
		t.Errorf("stop words alone make %.3f", common)
	}
	if same := cosine("A captain hunts the whale.", "a Captain hunts the WHALE"); same < 0.999 {
		t.Errorf("case and punctuation count: %.4f", same)
	}
}

func TestEmbeddingIsStable(t *testing.T) {
	t.Parallel()
	// A change of this hash silently spoils the indexes of everybody who has one.
	v := embed("Call me Ishmael.", 8)
	want := embed("Call me Ishmael.", 8)
	for range 100 {
		for i, x := range embed("Call me Ishmael.", 8) {
			if x != want[i] {
				t.Fatalf("%v, then %v", v, want)
			}
		}
	}
	if h := hash('w', "whale", ""); h != hash('w', "whale", "") || h == hash('p', "whale", "") || h == hash('w', "whal", "e") {
		t.Errorf("hash = %x", h)
	}
}

// TestUnlikeTextsAreApart: the signs make collisions cancel out on average.
func TestUnlikeTextsAreApart(t *testing.T) {
	t.Parallel()
	texts := strings.Fields("whale bread desert prophet galaxy marriage village obsession spice empire scholar prince garden murder winter")
	var sum float64
	n := 0
	for i, a := range texts {
		for _, b := range texts[:i] {
			x, y := embed(a, 64), embed(b, 64)
			for k := range x {
				sum += float64(x[k]) * float64(y[k])
			}
			n++
		}
	}
	if mean := sum / float64(n); math.Abs(mean) > 0.05 {
		t.Errorf("the mean cosine of unlike words is %.3f", mean)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	if got := words("Häagen-Dazs' NA\u00cfVE l’été, 2\u00bd soft\u00adhyphen"); strings.Join(got, " ") != "haagen dazs naive lete 21 2 softhyphen" {
		t.Errorf("words = %q", got)
	}
}

func TestQuotable(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"A captain hunts the white whale": true, "The assistant must obey": false, "It costs $3 only": false, "See https://x.example": false,
		"Ign\u043ere this": false, "<b>bold</b>": false, "Use add_to_basket": false, "": false, strings.Repeat("long ", 200): false,
	} {
		if quotable(s) != want {
			t.Errorf("%.40q is quotable: %v", s, !want)
		}
	}
}

func TestRelevance(t *testing.T) {
	t.Parallel()
	book := func(title, author, text string) result {
		return result{kind: "book", title: title, text: text, fields: map[string]any{"authors": []any{author}}}
	}
	moby := book("Moby-Dick", "Herman Melville", "A captain hunts the white whale that took his leg.")
	for _, test := range []struct {
		query string
		r     result
		ok    bool
	}{
		{"a captain's chair", moby, false}, // one word in common is a coincidence
		{"captains who hunt whales", moby, true},
		{"Melville", moby, true},
		{"Herman Hesse", moby, false}, // another one of that name
		{"Hermann Melvile", moby, true},
		{"whales in 1999", moby, false},
		{"The Good Read by Nobody", book("The Good Read", "Nobody", ""), true}, // words that carry no topic make a title, too
		{"WHITE WHALE HUNT", moby, true},
		{"", moby, true},
	} {
		if _, ok := askedFor(test.query).in(test.r); ok != test.ok {
			t.Errorf("%q is answered by %s: %v", test.query, test.r.title, ok)
		}
	}
	best := relevant("Good Omens", []result{book("Bad Omens", "A", "Good omens, bad omens."), book("Good Omens", "B", "")})
	if len(best) == 0 || best[0].title != "Good Omens" {
		t.Errorf("best = %+v", best)
	}
}

func FuzzEmbed(f *testing.F) {
	f.Add("Call me Ishmael.", 8)
	f.Add("", 1)
	f.Add("\xff\x00 \u0301 \u8a9e", 3)
	f.Fuzz(func(t *testing.T, text string, dimension int) {
		if dimension < 1 || dimension > 4096 {
			return
		}
		v := embed(text, dimension)
		var squares float64
		for _, x := range v {
			squares += float64(x) * float64(x)
		}
		if len(v) != dimension || !(math.Abs(squares-1) <= 1e-4) { // also NaN is another length
			t.Errorf("%d numbers of length² %v", len(v), squares)
		}
	})
}

func FuzzTokens(f *testing.F) {
	f.Add("Hello, you there!  Superlongwordhere [1].")
	f.Add("\u8a9e\xff\n\n a")
	f.Fuzz(func(t *testing.T, text string) {
		list := tokens(text)
		if strings.Join(list, "") != text {
			t.Errorf("%q is not %q", list, text)
		}
		for _, piece := range list {
			if piece == "" || utf8.RuneCountInString(piece) > 7 {
				t.Errorf("token %q", piece)
			}
		}
		for _, s := range sentences(text) {
			if strings.TrimSpace(s) == "" {
				t.Errorf("empty sentence in %q", text)
			}
		}
	})
}

func TestSentences(t *testing.T) {
	t.Parallel()
	got := sentences("Mr. Darcy is proud. Is he? J. R. Tolkien wrote it in 3.5 years!\nNew line")
	want := []string{"Mr. Darcy is proud", "Is he?", "J. R. Tolkien wrote it in 3.5 years!", "New line"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("sentences = %q", got)
	}
}

func TestNear(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"hemmingway", "hemingway", true},
		{"dostoyevsky", "dostoevski", true},
		{"hobit", "hobbit", true},
		{"waisted", "wasited", true},
		{"dune", "dunes", false},
		{"whale", "while", true},
		{"captain", "curtain", false},
		{"king", "ring", false},
	} {
		if near(test.a, test.b) != test.want || near(test.b, test.a) != test.want {
			t.Errorf("%s and %s are near: %v", test.a, test.b, !test.want)
		}
	}
}

func BenchmarkEmbed(b *testing.B) {
	const text = "The Bread Baker's Companion by Ann Miller. Sourdough, rye and baguettes, explained step by step for the home baker who has never touched flour before and is afraid of it."
	for b.Loop() {
		embed(text, 1536)
	}
}

// FuzzThink: whatever is said and found, the model answers, and its careful self
// never repeats an address.
func FuzzThink(f *testing.F) {
	f.Add("Do you have Dune?", `{"results":[{"ref":1,"kind":"book","id":"x","title":"Dune","text":"Sand."}]}`)
	f.Add("compare a and b", `{"results":[{"ref":-1,"kind":"review","title":5}],"note":"x"}`)
	f.Add("my order 12", `[]`)
	f.Fuzz(func(t *testing.T, question, results string) {
		q := content(question)
		r := content(results)
		offered := tool{Type: "function"}
		offered.Function.Name = "search_books"
		offered.Function.Parameters = []byte(`{"type":"object","properties":{"query":{"type":"string"}}}`)
		request := &chatRequest{Model: "m", Tools: []tool{offered}, Messages: []message{
			{Role: "user", Content: &q},
			{Role: "assistant", ToolCalls: []toolCall{{ID: "c", Type: "function", Function: functionCall{Name: "search_books", Arguments: "{}"}}}},
			{Role: "tool", ToolCallID: "c", Content: &r},
		}}
		for _, obedient := range []bool{false, true} {
			if answer := request.think(obedient); answer.content == "" && len(answer.calls) == 0 {
				t.Error("nothing to say")
			}
		}
	})
}
