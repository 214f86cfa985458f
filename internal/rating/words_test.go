package rating

import (
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Status{
		// What readers write.
		"": Published,
		"A quiet book. I read it twice, and my copy (ISBN 978-0-14-143951-8) fell apart.": Published,
		"The old edition was ISBN 0-14-143951-3, from 1966.":                              Published,
		"It covers 1914-1918 and 1939 1945, all of 1812, 1869, 1871.":                     Published,
		"Finished on 12/10/2024, begun on 2024-10-01.":                                    Published,
		"Chapters 1 2 3 4 5 are slow.":                                                    Published,
		"I loved the end.It was great. A 4.5 for me, e.g. for the prose.":                 Published,
		"WOW! A GREAT one.": Published,
		"Dick and Moby-Dick, assassins, Scunthorpe, and A Midsummer Night's ass": Published,
		"Отличная книга, прочитал за ночь.":                                      Published,
		strings.Repeat("これは素晴らしい本です。", 6):                                        Published, //nolint:gosmopolitan // a script without spaces
		"Part one\n-------------------\nfine, ***** from me ............ really": Published,
		"Terrible. Boring. I want my money back!!!":                              Published,
		// What the author can mend.
		"!!! ???":                       Rejected,
		"soooooooooooo good":            Rejected,
		"good!!!!!!!!!!":                Rejected,
		"See https://spam.example/x":    Rejected,
		"more at www.spam.example":      Rejected,
		"cheaper at books4you.com":      Rejected,
		"Visit Bücher-Laden.com!":       Rejected,
		"write to jane.doe@example.org": Rejected,
		"write to jane (at) example dot com, or jane(at)example(dot)com": Rejected,
		"call +1 (555) 010-9999":            Rejected,
		"call 0049 30 901820":               Rejected,
		"my number is 555 010 9999":         Rejected,
		"my number is 5550109999":           Rejected,
		"THIS IS THE BEST BOOK I EVER READ": Rejected,
		strings.Repeat("abcdefghij", 7):     Rejected,
		// What needs judgement.
		"What a load of bullshit.":   InQueue,
		"what a load of BuLLsH1t":    InQueue,
		"b\u00fcllsh\u00eft, really": InQueue,
		"bull\u200bshit":             InQueue,
		"So eine Scheiße.":           InQueue,
	} {
		if got := Check("A title", text, false); got.Status != want || (got.Reason == "") != (want == Published) {
			t.Errorf("%q: %+v, want %s", text, got, want)
		}
	}
	if got := Check("Call 555 010 9999", "", false); got.Status != Rejected {
		t.Errorf("the title is not checked: %+v", got)
	}
	if got := Check("A title", "fine", true); got.Status != InQueue {
		t.Errorf("a copy: %+v", got)
	}
}

func FuzzCheck(f *testing.F) {
	for _, seed := range []string{"", "fine", "a@b.co", "+1 555 010 9999", "WOW", "\u202e\u0300\xff", strings.Repeat("1-", 90)} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, title, text string) {
		got := Check(title, text, false)
		if !slices.Contains([]Status{Published, Rejected, InQueue}, got.Status) || (got.Reason == "") != (got.Status == Published) {
			t.Errorf("got %+v", got)
		}
		if again := Check(title, text, false); again != got {
			t.Errorf("%+v, then %+v", got, again)
		}
		if d := digest(text); d != nil && !slices.Equal(d, digest(" "+strings.ToUpper(text)+" ")) && fold(text) == fold(strings.ToUpper(text)) {
			t.Error("the digest depends on more than words")
		}
	})
}

func TestScore(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		h     Histogram
		prior float64
		want  float64
	}{
		{Histogram{}, 4, 0},
		{Histogram{0, 0, 0, 0, 1}, 3, 35.0 / 11},
		{Histogram{0, 0, 0, 0, 1}, 5, 5},
		{Histogram{1, 0, 0, 0, 0}, 1, 1},
		{Histogram{10, 0, 0, 0, 10}, 3, 3},
		{Histogram{0, 0, 0, 20, 80}, 3, (30.0 + 480) / 110},
	} {
		if got := Score(test.h, test.prior); math.Abs(got-test.want) > 1e-12 {
			t.Errorf("%v with %f: %f, want %f", test.h, test.prior, got, test.want)
		}
	}
	// One review of five stars does not beat a hundred of 4.8.
	if Score(Histogram{4: 1}, 3.9) >= Score(Histogram{3: 20, 4: 80}, 3.9) {
		t.Error("one review counts too much")
	}
	if got := (Histogram{1, 0, 0, 0, 3}).Average(); got != 4 {
		t.Errorf("average %f", got)
	}
}

func TestCite(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text, want string
		used       []int
	}{
		{"Many like it [2]. Some do not [1][3].", "Many like it [1]. Some do not [2][3].", []int{2, 1, 3}},
		{"Many like it. [2] Some do not. [1] [2]", "Many like it. [1] Some do not. [2] [1]", []int{2, 1}},
		{"Rated 4.5 by most [1], and loved [1]", "Rated 4.5 by most [1], and loved [1]", []int{1}},
		{" \"A gem!\" they say [3]. ", "\"A gem!\" they say [1].", nil}, // "A gem!" is a sentence of its own
		{"Сильная[1]。Длинная[2]。", "Сильная[1]。Длинная[2]。", []int{1, 2}},
		{"A gem! [2]. Slow [1].", "A gem! [1]. Slow [2].", []int{2, 1}},
		{"Mr. Darcy and Dr. J.R.R. Tolkien shine [2].", "Mr. Darcy and Dr. J.R.R. Tolkien shine [1].", []int{2}},
		{"Plan A. They like it [1].", "", nil},
		{"", "", nil},
		{".", "", nil},
		{"No source.", "", nil},
		{"One [1]. Two.", "", nil},
		{"One [1]. Two", "", nil},
		{"One [4].", "", nil},
		{"One [0].", "", nil},
		{"One [-1].", "", nil},
		{"One [a].", "", nil},
		{"One [].", "", nil},
		{"One [1, 2].", "", nil},
		{"One [1].[2].", "One [1].[2].", []int{1, 2}},
		{"One [1] and ]half.", "", nil},
		{"One [[1]].", "", nil},
		{"[1]", "", nil},
		{"One\x07 [1].", "", nil},
		{"One \xff [1].", "", nil},
		{strings.Repeat("a", maxSummary) + " [1].", "", nil},
	} {
		got, used, err := Cite(test.text, 3)
		if test.used == nil {
			if err == nil {
				t.Errorf("%q passes as %q", test.text, got)
			}
			continue
		}
		if err != nil || got != test.want || !slices.Equal(used, test.used) {
			t.Errorf("%q: %q, %v, %v", test.text, got, used, err)
		}
	}
}

func FuzzCite(f *testing.F) {
	for _, seed := range []string{"", "One [1].", "One. [2] Two [1][3].", "[[1]]", "a]b[", "…[1]!?", "1.5 [3]"} {
		f.Add(seed, 3)
	}
	f.Fuzz(func(t *testing.T, text string, given int) {
		cited, used, err := Cite(text, given)
		if err != nil {
			if cited != "" || used != nil {
				t.Error("an error with a result")
			}
			return
		}
		if !utf8.ValidString(cited) || len(used) == 0 {
			t.Fatalf("%q, %v", cited, used)
		}
		for _, n := range used {
			if n < 1 || n > given {
				t.Errorf("cites %d of %d", n, given)
			}
		}
		// What was checked passes again, with its own numbers.
		again, same, err := Cite(cited, len(used))
		if err != nil && utf8.RuneCountInString(cited) <= maxSummary {
			t.Errorf("%q does not pass again: %v", cited, err)
		}
		if err == nil && (again != cited || len(same) != len(used)) {
			t.Errorf("%q became %q", cited, again)
		}
		for i, n := range same {
			if n != i+1 {
				t.Errorf("numbered %v", same)
			}
		}
	})
}

func FuzzParseETag(f *testing.F) {
	for _, seed := range []string{"v1", `"v12"`, "", "v", "v0", "v-1", "v01", "W/\"v1\"", `"v1`, "v9223372036854775807"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		version, err := ParseETag(text)
		if err != nil {
			return
		}
		if again, err := ParseETag((Review{Version: version}).ETag()); err != nil || again != version || version < 1 {
			t.Errorf("%q is %d, again %d, %v", text, version, again, err)
		}
	})
}
