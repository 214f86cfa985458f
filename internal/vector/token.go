package vector

import (
	"iter"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kljensen/snowball/english"
	"github.com/kljensen/snowball/french"
	"github.com/kljensen/snowball/spanish"
	"golang.org/x/text/unicode/norm"
)

// maxToken bounds a token in bytes. What is longer is no word, and is cut.
const maxToken = 64

// Tokens returns the words of a text as BM25 compares them: lower case, without
// accents, without the language's stop words, and reduced to their stem by the
// Snowball algorithms (snowballstem.org). The language is a BCP 47 tag. English,
// Spanish and French have stop words and stems, German has stop words, and texts
// of other languages keep all words as they are. A text and the queries for it have
// to be taken for the same language.
//
// Accents go before the stem is taken, unlike in Snowball's own order, so that a
// query typed without them finds the same tokens.
func Tokens(text, language string) []string {
	base, _, _ := strings.Cut(strings.ToLower(language), "-")
	rules := languages[base]
	var tokens []string
	for word := range words(text, rules.elides) {
		token := fold(word)
		if token == "" || rules.stop != nil && (rules.stop(word) || rules.stop(token)) {
			continue
		}
		if rules.stem != nil && isASCIIWord(token) {
			token = rules.stem(token, true)
		}
		tokens = append(tokens, token)
	}
	return tokens
}

// rules are what a language does with its words. Stop words are asked for with
// and without accents.
type rules struct {
	stop   func(word string) bool
	stem   func(word string, stopWordsToo bool) string
	elides bool // a word before an apostrophe is one of its own: l'amour
}

var languages = map[string]rules{
	"en": {stop: english.IsStopWord, stem: english.Stem},
	"es": {stop: spanish.IsStopWord, stem: spanish.Stem},
	"fr": {stop: isFrenchStopWord, stem: french.Stem, elides: true},
	"de": {stop: func(word string) bool { return germanStopWords[word] }},
}

// isFrenchStopWord also knows what is left of a word before an apostrophe.
func isFrenchStopWord(word string) bool {
	switch word {
	case "l", "d", "j", "qu", "n", "s", "c", "m", "t":
		return true
	}
	return french.IsStopWord(word)
}

var germanStopWords = set(`aber alle allem allen aller alles als also am an auch auf aus bei bin bis bist da damit dann
	das dass dasselbe dein deine dem den denn der des dich die dies diese diesem diesen dieser dieses dir doch dort du durch
	ein eine einem einen einer eines er es etwas euch für gegen habe haben hat hatte hier hin hinter ich ihm ihn ihnen ihr
	ihre im in ist ja jede jeder jedes jene jetzt kann kein keine können machen man mein meine mich mir mit nach nicht nichts
	noch nun nur ob oder ohne sehr sein seine selbst sich sie sind so solche soll sondern über um und uns unser unter vom von
	vor war waren warum was weil welche wenn wer werden wie wieder will wir wird wo zu zum zur zwar zwischen`)

func set(words string) map[string]bool {
	members := make(map[string]bool)
	for word := range strings.FieldsSeq(words) {
		members[word] = true
	}
	return members
}

// words splits a text into runs of letters and digits, in lower case and with
// their accents composed. An apostrophe ends a word where the language elides, and
// vanishes elsewhere.
func words(text string, elides bool) iter.Seq[string] {
	return func(yield func(string) bool) {
		var word strings.Builder
		for _, r := range norm.NFC.String(text) {
			switch {
			case unicode.IsLetter(r), unicode.IsDigit(r), unicode.IsMark(r):
				word.WriteRune(unicode.ToLower(r))
			case (r == '\'' || r == '’') && !elides:
			case word.Len() > 0:
				if !yield(word.String()) {
					return
				}
				word.Reset()
			}
		}
		if word.Len() > 0 {
			yield(word.String())
		}
	}
}

// fold takes a word's accents away, and spells out the letters that have no
// decomposition.
func fold(word string) string {
	var folded strings.Builder
	for _, r := range norm.NFKD.String(word) {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			continue
		}
		r = unicode.ToLower(r)
		letters := spelled[r]
		if letters == "" {
			letters = string(r)
		}
		if folded.Len()+len(letters) > maxToken {
			break
		}
		folded.WriteString(letters)
	}
	return folded.String()
}

var spelled = map[rune]string{'ß': "ss", 'æ': "ae", 'œ': "oe", 'ø': "o", 'đ': "d", 'ł': "l"}

func isASCIIWord(token string) bool {
	for i := range len(token) {
		if token[i] >= utf8.RuneSelf || unicode.IsDigit(rune(token[i])) {
			return false
		}
	}
	return true
}
