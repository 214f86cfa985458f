package vector

import (
	"math"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ language, text, want string }{
		{"en", "The Running of the Bulls", "run bull"},
		{"en-GB", "RUNNING runner's, runs!", "run runner run"},
		{"EN", "Don't stop; O’Brien's well-known 1984 (2nd ed.)", "dont stop obrien well known 1984 2nd ed"},
		{"en", "J.K.R. Tolkien", "j k r tolkien"},
		{"en", "Brontë Æsop œuvre Łódź", "bront aesop oeuvr lodz"},
		{"en", "Bronte", "bront"},
		{"en", "to be or not to be", ""},
		{"es", "Cien años de soledad", "cien anos soled"},
		{"es", "CIEN ANOS DE SOLEDAD", "cien anos soled"},
		{"es", "las canciones más bonitas", "cancion bonit"},
		{"es", "ma\u0301s libros", "libr"}, // "más", decomposed
		{"fr", "À la recherche du temps perdu", "recherch temp perdu"},
		{"fr", "L’Étranger d'Albert", "etrang albert"},
		{"fr", "l'etranger d’albert", "etrang albert"},
		{"de", "Die unendliche Geschichte über Straßen für Müller", "unendliche geschichte strassen muller"},
		{"pl", "Nad Niemnem i to", "nad niemnem i to"}, // no rules for Polish
		{"", "The Bulls", "the bulls"},
		{"en", "", ""},
		{"en", " \t\n…!?'’—", ""},
		{"en", "ไทย Москва", "ไทย москва"},
		{"en", "a\x00b\xffc\u202ed", "b c d"}, // controls and bytes that are no text separate
		{"en", strings.Repeat("x", 100_000), strings.Repeat("x", 64)},
		{"en", strings.Repeat("я", 100), strings.Repeat("я", 32)}, // cut between letters
		{"en", "ﬁne e\u0301cole", "fine ecol"},
	} {
		if got := strings.Join(Tokens(c.text, c.language), " "); got != c.want {
			t.Errorf("%s %.50q: %q, want %q", c.language, c.text, got, c.want)
		}
	}
}

func FuzzTokens(f *testing.F) {
	for _, language := range []string{"en", "es", "fr", "de", "ja", ""} {
		f.Add("The L’Étranger's Straße, años; J.R.R. ไทย ﬁ \xff\x00", language)
	}
	f.Fuzz(func(t *testing.T, text, language string) {
		tokens := Tokens(text, language)
		for _, token := range tokens {
			if token == "" || len(token) > maxToken || !utf8.ValidString(token) {
				t.Fatalf("token %q", token)
			}
			for _, r := range token {
				if !unicode.IsLetter(r) && !unicode.IsDigit(r) || unicode.ToLower(r) != r {
					t.Fatalf("token %q holds %q", token, r)
				}
			}
		}
		// However accents are written, the tokens are the same.
		if utf8.ValidString(text) && !slices.Equal(tokens, Tokens(norm.NFD.String(text), language)) {
			t.Errorf("%q and its decomposition differ", text)
		}
		for _, s := range []Sparse{BM25{AverageLength: 3}.Document(tokens), BM25{}.Query(tokens)} {
			if err := checkSparse(s); err != nil || !slices.IsSorted(s.Indices) {
				t.Errorf("%v: %v", s, err)
			}
			for _, v := range s.Values {
				if v <= 0 {
					t.Errorf("a value of %v", v)
				}
			}
		}
	})
}

// By hand, with k1 = 1.2 and b = 0.75, for a text of 4 tokens where 5 are average:
// the length counts 1 - 0.75 + 0.75·4/5 = 0.85, so that the word in it twice weighs
// 2·2.2/(2 + 1.2·0.85) = 1.456954 and one in it once 2.2/(1 + 1.02) = 1.089109.
func TestBM25Document(t *testing.T) {
	t.Parallel()
	got := BM25{AverageLength: 5}.Document([]string{"whale", "ship", "whale", "sea"})
	want := map[string]float64{"whale": 1.456954, "ship": 1.089109, "sea": 1.089109}
	if len(got.Indices) != len(want) || len(got.Values) != len(want) || !slices.IsSorted(got.Indices) {
		t.Fatalf("%v", got)
	}
	for token, weight := range want {
		i := slices.Index(got.Indices, index(token))
		if i < 0 || math.Abs(float64(got.Values[i])-weight) > 1e-6 {
			t.Errorf("%s in %v: want %v", token, got, weight)
		}
	}
	// Without an average every text has it: 2·2.2/(2 + 1.2) = 1.375.
	if got := (BM25{}).Document([]string{"a", "a"}); len(got.Values) != 1 || math.Abs(float64(got.Values[0])-1.375) > 1e-6 {
		t.Errorf("%v, want 1.375", got)
	}
	if got := (BM25{AverageLength: 5}).Document(nil); len(got.Indices) != 0 || len(got.Values) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestBM25Query(t *testing.T) {
	t.Parallel()
	got := BM25{AverageLength: 5}.Query([]string{"whale", "ship", "whale"})
	if len(got.Indices) != 2 || !slices.Equal(got.Values, []float32{1, 1}) ||
		!slices.Contains(got.Indices, index("whale")) || !slices.Contains(got.Indices, index("ship")) {
		t.Errorf("%v", got)
	}
}

// The hash is part of what is stored: were it another, nothing would be found. The
// value is from the test vectors of FNV-1a (draft-eastlake-fnv, "foobar").
func TestIndexOfATokenNeverChanges(t *testing.T) {
	t.Parallel()
	if got := index("foobar"); got != 0xbf9cf968 {
		t.Errorf("%x", got)
	}
}

// costarring and liquid have the same 32-bit FNV-1a hash.
func TestTokensWithOneIndexAddUp(t *testing.T) {
	t.Parallel()
	pair := []string{"costarring", "liquid"}
	if index(pair[0]) != index(pair[1]) {
		t.Fatal("they do not collide")
	}
	if got := (BM25{}).Query(pair); !slices.Equal(got.Values, []float32{2}) {
		t.Errorf("query %v, want 2", got)
	}
	if got := (BM25{}).Document(pair); len(got.Values) != 1 || math.Abs(float64(got.Values[0])-2) > 1e-6 {
		t.Errorf("document %v, want 1 + 1", got)
	}
}

func TestEveryLegHasTheFilter(t *testing.T) {
	t.Parallel()
	request, err := Query{
		Dense: []float32{1}, Sparse: Sparse{Indices: []uint32{1}, Values: []float32{1}}, Limit: 1,
		Filter: Filter{Must: []Condition{IsTrue("in_stock")}},
	}.toQdrant()
	if err != nil {
		t.Fatal(err)
	}
	if len(request.GetPrefetch()) != 2 {
		t.Fatalf("%d legs", len(request.GetPrefetch()))
	}
	for _, leg := range request.GetPrefetch() {
		if leg.GetFilter().GetMust()[0].GetField().GetKey() != "in_stock" {
			t.Errorf("the leg %s has the filter %v", leg.GetUsing(), leg.GetFilter())
		}
	}
}
