package llm

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// A result is relevant when it has enough of what is asked for.
const (
	enoughWords = 0.4 // part of the topic's words
	// leastWords of them there must be, when there are so many: one word in common is
	// a coincidence. It is less than 2 because a near match counts less than 1.
	leastWords  = 1.6
	enoughNames = 0.6 // part of the names and numbers, which nothing else can stand for
)

// relevant returns the results that have what a query asks for, the best first
// and those that are alike in the order they came. A query without a topic fits
// everything.
func relevant(query string, results []result) []result {
	type rated struct {
		result
		score float64
	}
	asked := askedFor(query)
	var list []rated
	for _, r := range results {
		if score, ok := asked.in(r); ok {
			list = append(list, rated{r, score})
		}
	}
	slices.SortStableFunc(list, func(a, b rated) int {
		switch {
		case a.score > b.score+0.01:
			return -1
		case b.score > a.score+0.01:
			return 1
		}
		return 0
	})
	found := make([]result, len(list))
	for i := range list {
		found[i] = list[i].result
	}
	return found
}

// term is a word asked for.
type term struct {
	word, stem string
	name       bool // a name or a number: its place is not taken by another word
}

type asked struct {
	terms []term
	text  string // spelled
}

var asWritten = regexp.MustCompile(`[\p{L}\p{N}'’]+`)

// askedFor takes a query apart. A capital letter, but for the first word of a
// sentence, makes a name; a query in capitals has none.
func askedFor(query string) asked {
	list := asked{text: spelled(query)}
	seen := map[string]bool{}
	for _, sentence := range sentences(query) {
		written := asWritten.FindAllString(sentence, -1)
		capitals := 0
		for _, w := range written {
			if unicode.IsUpper([]rune(w)[0]) {
				capitals++
			}
		}
		for i, w := range written {
			for _, word := range words(w) {
				if !topical(word) || seen[word] {
					continue
				}
				seen[word] = true
				first := []rune(w)[0]
				initials := len(w) > 1 && strings.ToUpper(w) == w
				name := unicode.IsDigit(first) ||
					unicode.IsUpper(first) && (i > 0 || capitals > 1 || len(written) <= 2 || initials) && strings.ToUpper(sentence) != sentence
				list.terms = append(list.terms, term{word, stem(word), name})
			}
		}
	}
	return list
}

// in says how much of what is asked for a result has, and whether that is enough.
// It is in [0, 1], and more for a result whose title is asked for by all of its
// words.
func (a asked) in(r result) (score float64, ok bool) {
	if len(words(r.title)) > 1 && strings.Contains(a.text, spelled(r.title)) {
		return 2, true
	}
	if len(a.terms) == 0 {
		return 0, true
	}
	everything, title := indexOf(r.everything()), indexOf(r.title)
	var has, hasName, names float64
	inTitle := 0
	for _, t := range a.terms {
		match := everything.match(t)
		has += match
		if t.name {
			names++
			hasName += match
		}
		if title.match(t) > 0.5 {
			inTitle++
		}
	}
	all := float64(len(a.terms))
	ok = has >= max(enoughWords*all, min(leastWords, all-0.4)) && hasName >= enoughNames*names
	score = has / all
	if n := len(topics(r.title)); n > 0 && inTitle >= n {
		score++
	}
	return score, ok
}

// everything is all that a result says, as text.
func (r result) everything() string {
	var s strings.Builder
	s.WriteString(r.title + " " + r.text)
	for _, name := range sortedKeys(r.fields) {
		s.WriteString(" " + flat(r.fields[name]))
	}
	return s.String()
}

// flat writes a JSON value as words.
func flat(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return number(v)
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			parts[i] = flat(v[i])
		}
		return strings.Join(parts, ", ")
	case map[string]any:
		var parts []string
		for _, name := range sortedKeys(v) {
			parts = append(parts, flat(v[name]))
		}
		return strings.Join(parts, " ")
	}
	return ""
}

func number(v float64) string {
	if v == float64(int64(v)) {
		return fmt.Sprint(int64(v))
	}
	return fmt.Sprint(v)
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// index knows the words of a text.
type index struct {
	words []string
	stems map[string]bool
}

func indexOf(text string) index {
	x := index{words: words(text), stems: map[string]bool{}}
	for _, w := range x.words {
		x.stems[stem(w)] = true
	}
	return x
}

// match is 1 for the word in any form, less for one of the same family or with a
// typo, 0 for none.
func (x index) match(t term) float64 {
	if x.stems[t.stem] {
		return 1
	}
	for _, w := range x.words {
		if near(t.word, w) {
			return 0.8
		}
	}
	if t.name {
		return 0
	}
	for _, w := range x.words {
		if n := min(len(w), len(t.word)); n >= 6 && sharedPrefix(w, t.word) >= max(5, n-2) {
			return 0.7
		}
	}
	return 0
}

func sharedPrefix(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}
