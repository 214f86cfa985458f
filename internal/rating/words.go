package rating

import (
	"crypto/sha256"
	_ "embed"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Verdict is what the rules say of a review.
type Verdict struct {
	// Status is Published when no rule objects, Rejected for what the author can mend
	// without anybody's judgement, and InQueue for what needs some.
	Status Status
	Reason string // for the author; empty when no rule objects
}

const (
	// maxRepeat is how often a character may follow itself.
	maxRepeat = 9
	// shoutFrom is how many letters a text needs before its capitals are counted, and
	// shoutShare the share of them that is shouting.
	shoutFrom  = 20
	shoutShare = 0.7
	// copiedFrom is how many words make it worth looking for the same text elsewhere:
	// "Great book" is said of many.
	copiedFrom = 8
)

// Check applies the rules to a review's words. copied says whether the shopper has
// written the same about another book.
func Check(title, text string, copied bool) Verdict {
	words := title + "\n" + text
	switch {
	case text != "" && !strings.ContainsFunc(text, letterOrDigit):
		return Verdict{Rejected, "The text has no words."}
	case longWord.MatchString(words):
		return Verdict{Rejected, "A word is too long."}
	case repeats(words):
		return Verdict{Rejected, "A character is repeated too often."}
	case HasContact(words):
		return Verdict{Rejected, "Links, e-mail addresses and phone numbers are not allowed."}
	case shouts(words):
		return Verdict{Rejected, "Please do not write in capital letters."}
	case profane(words):
		return Verdict{InQueue, "A word may offend."}
	case copied:
		return Verdict{InQueue, "You have written the same about another book."}
	}
	return Verdict{Status: Published}
}

func letterOrDigit(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

// longWord is a run of more than 60 letters of a script that puts spaces between
// words.
var longWord = regexp.MustCompile(`[\p{Latin}\p{Greek}\p{Cyrillic}0-9]{61,}`)

// repeats reports whether a character follows itself more than maxRepeat times.
// Rules and rows of stars are made of some.
func repeats(text string) bool {
	var last rune
	run := 0
	for _, r := range text {
		if r != last {
			last, run = r, 0
		}
		run++
		if run > maxRepeat && !unicode.IsSpace(r) && !strings.ContainsRune("-_=*.~", r) {
			return true
		}
	}
	return false
}

var (
	// Bare names only with endings that begin no sentence whose space was forgotten.
	link  = regexp.MustCompile(`(?i)\b(?:https?://|www\.)\S|\b[a-z0-9-]+\.(?:com|net|org|info|biz|xyz|ru|fr|uk|eu|io)\b(?:/|\s|$|[,.;:!?)])`)
	email = regexp.MustCompile(`(?i)[\p{L}\p{N}._%+-]+\s?(?:@|\(at\)|\[at\])\s?[\p{L}\p{N}-]+(?:\.|\s?\(dot\)\s?|\s?\[dot\]\s?)[\p{L}]{2,}`)
	phone = regexp.MustCompile(`(?:\+|\b00|\(0|\b)\d(?:[ ()./-]{0,2}\d){7,14}\b`)
)

// HasContact reports whether a text has a link, an e-mail address or a phone
// number: advertising, or somebody's personal data.
func HasContact(text string) bool {
	if link.MatchString(text) || email.MatchString(text) {
		return true
	}
	for _, match := range phone.FindAllString(isbn.ReplaceAllString(text, ""), -1) {
		if !harmlessNumber(match) {
			return true
		}
	}
	return false
}

// harmlessNumber tells what reviews of books quote from a phone number: ISBNs,
// dates, and years in a list or as a range.
func harmlessNumber(text string) bool {
	return years.MatchString(text) || date.MatchString(text) || isbn13.MatchString(text)
}

var (
	years  = regexp.MustCompile(`^[12]\d{3}(?:[ ()./-]{1,2}[12]\d{3})+$`)
	date   = regexp.MustCompile(`^(?:\d{1,2}[./-]\d{1,2}[./-]\d{4}|\d{4}-\d{2}-\d{2})$`)
	isbn13 = regexp.MustCompile(`^97[89](?:[ -]?\d){10}$`)
	// Old ISBNs have ten digits, as many phone numbers do, so they must say what they
	// are.
	isbn = regexp.MustCompile(`(?i)\bisbn(?:-1[03])?:?\s*\d(?:[ -]?[\dx]){9}\b`)
)

// shouts reports whether most letters are capitals.
func shouts(text string) bool {
	var upper, cased float64
	for _, r := range text {
		if unicode.IsUpper(r) {
			upper++
		}
		if unicode.IsUpper(r) || unicode.IsLower(r) {
			cased++
		}
	}
	return cased >= shoutFrom && upper/cased > shoutShare
}

//go:embed lexicon.txt
var lexiconText string

// lexicon holds folded words.
var lexicon = func() map[string]bool {
	words := make(map[string]bool)
	for line := range strings.Lines(lexiconText) {
		if word := strings.TrimSpace(line); word != "" && !strings.HasPrefix(word, "#") {
			words[word] = true
		}
	}
	return words
}()

// disguises are characters that stand for letters in words that hide from a
// lexicon.
var disguises = strings.NewReplacer("0", "o", "1", "i", "3", "e", "4", "a", "5", "s", "7", "t", "@", "a", "$", "s", "!", "i")

// profane reports whether a word of the text is in the lexicon, also disguised.
func profane(text string) bool {
	for _, try := range []string{text, disguises.Replace(text)} {
		for word := range strings.FieldsSeq(fold(try)) {
			if lexicon[word] {
				return true
			}
		}
	}
	return false
}

// fold returns a text as its words are compared: lower case, without accents, one
// space between words.
func fold(text string) string {
	var folded strings.Builder
	folded.Grow(len(text))
	gap := false
	for _, r := range norm.NFKD.String(text) {
		switch {
		case unicode.Is(unicode.Mn, r), unicode.Is(unicode.Cf, r), r == '\'', r == '’': // Cf: what cannot be seen
		case letterOrDigit(r):
			if gap && folded.Len() > 0 {
				folded.WriteByte(' ')
			}
			gap = false
			folded.WriteRune(unicode.ToLower(r))
		default:
			gap = true
		}
	}
	return folded.String()
}

// digest stands for a text's words, to find the same elsewhere; nil when they are
// few. Scripts without spaces have few words and many letters.
func digest(text string) []byte {
	words := fold(text)
	if strings.Count(words, " ") < copiedFrom-1 && utf8.RuneCountInString(words) < 10*copiedFrom {
		return nil
	}
	sum := sha256.Sum256([]byte(words))
	return sum[:]
}
