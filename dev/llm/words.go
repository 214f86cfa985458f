package llm

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kljensen/snowball/english"
	"golang.org/x/text/unicode/norm"
)

// words returns the words of a text in lower case, without accents and
// apostrophes.
func words(text string) []string {
	if !isASCII(text) {
		text = norm.NFKD.String(text)
	}
	var list []string
	word := make([]byte, 0, 32)
	flush := func() {
		if len(word) > 0 {
			list = append(list, string(word))
			word = word[:0]
		}
	}
	for _, r := range text {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			word = utf8.AppendRune(word, r)
		case r >= 'A' && r <= 'Z':
			word = utf8.AppendRune(word, r|0x20)
		case r == '\'' || r == '’' || unicode.Is(unicode.Mn, r) || unicode.Is(unicode.Cf, r):
		case r >= utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r)):
			word = utf8.AppendRune(word, unicode.ToLower(r))
		default:
			flush()
		}
	}
	flush()
	return list
}

func isASCII(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

func stem(word string) string { return english.Stem(word, true) }

func set(text string) map[string]bool {
	m := make(map[string]bool)
	for w := range strings.FieldsSeq(text) {
		m[w] = true
	}
	return m
}

// stopWords carry no topic anywhere, shopWords none in a bookshop.
var (
	stopWords = set(`a about above after again all also am an and any are as at be because been before being below between both but by can
		cannot cant could couldnt did didnt do does doesnt doing dont down during each else ever few first for from further get got had has have having he
		her here hers him his how i id if ill im in into is isnt it its ive just let lets like me might more most much my no nor not now of off on once
		one ones only or other others our ours out over own same she should so some such than that thats the their theirs them then there theres these
		they this those through to too under until up us very was we well were what whats when where which while who whom whose why will with
		would wouldnt you your yours youre`)
	shopWords = set(`answer ask available best better book books bookshop bookstore bookworm buy bookseller called catalogue catalog cheap
		cheaper cheapest compare comparison copy copies cost costs difference end explain find gift give good great hello help hey hi interested
		know library look looking many maybe mind money more named need new novel novels number order orders paperback please price prices
		purchase read reader readers reading reads recommend recommendation recommendations say sell sells shop show similar someone
		something anything stock store stories story suggest suggestion suggestions tell thank thanks think title titled titles want wanted
		written writes wrote author authors review reviews rating ratings rated stars star there today work works dollars usd eur max
		maximum less least than under below above over around basket cart bag put add place take send question thing things kind sort favourite
		favorite popular go make recommended love loved enjoy enjoyed liked perfect nice possible two three four five six
		describe edition published publisher translated friend mother father sister brother`)
)

func topical(word string) bool { return len(word) > 1 && !stopWords[word] && !shopWords[word] }

// spelled is a text as its words alone, for finding one text in another.
func spelled(text string) string { return " " + strings.Join(words(text), " ") + " " }

// sentences cuts a text into sentences, without their final full stop.
func sentences(text string) []string {
	var list []string
	add := func(s string) {
		if s = strings.TrimSpace(s); s != "" {
			list = append(list, s)
		}
	}
	for _, line := range strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }) {
		start := 0
		for i, r := range line {
			if r != '.' && r != '!' && r != '?' {
				continue
			}
			next := strings.TrimLeft(line[i+utf8.RuneLen(r):], `"'”’)`)
			skipped := len(line) - i - utf8.RuneLen(r) - len(next)
			if next == "" || (next[0] == ' ' && !abbreviation(line[start:i])) {
				add(strings.TrimSuffix(line[start:i+utf8.RuneLen(r)+skipped], "."))
				start = i + utf8.RuneLen(r) + skipped
			}
		}
		if start < len(line) {
			add(line[start:])
		}
	}
	return list
}

// abbreviation reports whether the text before a full stop ends with one that
// does not end a sentence: an initial or a title.
func abbreviation(before string) bool {
	last := before[strings.LastIndexByte(before, ' ')+1:]
	return len(last) == 1 && unicode.IsUpper(rune(last[0])) || slices.Contains([]string{"Mr", "Mrs", "Ms", "Dr", "St", "vs", "etc", "e.g", "i.e"}, last)
}

// tokens cuts a text into what the stand-in counts and streams as tokens: up to
// six letters of a word, with the space before it, or another character. Joined
// they are the text.
func tokens(text string) []string {
	var list []string
	start, letters := 0, 0
	for i, r := range text {
		letter := unicode.IsLetter(r) || unicode.IsDigit(r)
		if i > start && (!letter || letters == 6 || letters == 0 && text[start:i] != " ") {
			list = append(list, text[start:i])
			start, letters = i, 0
		}
		if letter {
			letters++
		}
	}
	if start < len(text) {
		list = append(list, text[start:])
	}
	return list
}

// near reports whether two words are one letter apart, or two when they are long:
// a typo. Both are in lower case.
func near(a, b string) bool {
	allowed := 1
	if min(len(a), len(b)) >= 8 {
		allowed = 2
	}
	if min(len(a), len(b)) < 5 || max(len(a), len(b)) > 40 || max(len(a), len(b))-min(len(a), len(b)) > allowed {
		return false
	}
	// Optimal string alignment distance, three rows of the table at a time.
	older, old, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range old {
		old[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(old[j]+1, row[j-1]+1, old[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], older[j-2]+1)
			}
		}
		older, old, row = old, row, older
	}
	return old[len(b)] <= allowed
}
