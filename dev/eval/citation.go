package eval

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"bookworm/internal/catalog/seed"
	"bookworm/internal/vector"
)

// The checks here are made from the seed's own data and share nothing with the
// bookseller's: neither its splitting of sentences nor its idea of support.

// sentence is one with what it cites.
type sentence struct {
	text  string // without marks
	marks []int
}

var (
	mark     = regexp.MustCompile(`\[(\d+)\]`)
	listItem = regexp.MustCompile(`(?m)^\s*(?:[-*•]|\d+[.)])\s+`)
	// A sentence ends at a stop, with the quotes and marks that follow it, before a
	// blank and a capital, digit or quote.
	boundary = regexp.MustCompile(`([.!?]["”’»)*]*(?:\s*\[\d+\])*)\s+(["“‘«(*]*[\p{Lu}\d])`)
	// After these a stop ends no sentence: J.R.R. Tolkien, Mr. Feynman, Vol. 1.
	abbreviated = regexp.MustCompile(`(?:\b\p{Lu}|\b(?:Mr|Mrs|Dr|St|Jr|Vol|No))\.$`)
)

// sentences splits an answer into its sentences. Marks after a stop belong to what
// stands before it.
func sentences(answer string) []sentence {
	var all []sentence
	for line := range strings.Lines(listItem.ReplaceAllString(answer, "")) {
		open := false // the part before ends with an abbreviation
		for part := range strings.SplitSeq(boundary.ReplaceAllString(strings.TrimSpace(line), "$1\x00$2"), "\x00") {
			s := sentence{text: strings.TrimSpace(mark.ReplaceAllString(part, " "))}
			for _, m := range mark.FindAllStringSubmatch(part, -1) {
				n, _ := strconv.Atoi(m[1]) // too large a number is the largest there is, and cites nothing
				s.marks = append(s.marks, n)
			}
			if last := len(all) - 1; last >= 0 && (open || s.text == "") { // or marks on a line of their own
				all[last].text = strings.TrimSpace(all[last].text + " " + s.text)
				all[last].marks = append(all[last].marks, s.marks...)
			} else if s.text != "" {
				all = append(all, s)
			}
			open = abbreviated.MatchString(part)
		}
	}
	return all
}

// unsupported says what in a sentence the cited books do not bear out, or "" when
// they do: every number must be one of theirs, what it says about stock must hold,
// every title and author of the catalogue that it names must be theirs or occur in
// their text, and each cited book must have something of its own in the sentence.
func unsupported(text string, cited, catalogue []seed.Book) string {
	for _, n := range numbers(text) {
		if !slices.ContainsFunc(cited, func(b seed.Book) bool { return slices.Contains(facts(b), n) }) {
			return fmt.Sprintf("the number %s is in none of the cited books", n)
		}
	}
	if inStock, claimed := stockClaim(text); claimed && !slices.ContainsFunc(cited, func(b seed.Book) bool { return (b.Stock > 0) == inStock }) {
		return "it is wrong about the stock"
	}
	var records []string
	for _, b := range cited {
		records = append(records, record(b))
	}
	known := strings.Join(records, "\n")
	for _, b := range catalogue {
		for _, name := range append([]string{b.Title}, b.Authors...) {
			if telling(name) && names(text, name) && !names(known, name) {
				return fmt.Sprintf("it names %q, which is in none of the cited books", name)
			}
		}
	}
	for _, b := range cited {
		if !bears(text, b) {
			return fmt.Sprintf("nothing in it is of %q", b.Title)
		}
	}
	return ""
}

// bears reports whether a sentence says anything that is of a book: its title,
// subtitle or publisher, an author's last name, its language, whether it is in stock,
// a number, or three words of its text.
func bears(text string, b seed.Book) bool {
	own := []string{b.Title, b.Subtitle, b.Publisher, languages[b.Language]}
	for _, author := range b.Authors {
		own = append(own, author[strings.LastIndexByte(author, ' ')+1:])
	}
	if slices.ContainsFunc(own, func(name string) bool { return name != "" && names(text, name) }) {
		return true
	}
	if _, claimed := stockClaim(text); claimed {
		return true
	}
	if slices.ContainsFunc(numbers(text), func(n string) bool { return slices.Contains(facts(b), n) }) {
		return true
	}
	return len(common(content(text), content(record(b)))) >= 3
}

var languages = map[string]string{"en": "English", "es": "Spanish", "fr": "French", "de": "German"}

// stockClaim returns what a sentence says about stock, if it does.
func stockClaim(text string) (inStock, claimed bool) {
	switch {
	case names(text, "out of stock"), names(text, "sold out"), names(text, "not in stock"), names(text, "not available"):
		return false, true
	case names(text, "in stock"), names(text, "available"):
		return true, true
	}
	return false, false
}

var number = regexp.MustCompile(`\d+(?:[.,]\d+)*`)

// numbers returns the numbers of a text as they are compared: a comma between
// thousands is gone, hyphens of an ISBN too.
func numbers(text string) []string {
	text = isbnHyphens.ReplaceAllStringFunc(text, func(s string) string { return strings.NewReplacer("-", "", " ", "").Replace(s) })
	var all []string
	for _, n := range number.FindAllString(text, -1) {
		all = append(all, thousands.ReplaceAllString(n, "$1"))
	}
	return all
}

var (
	isbnHyphens = regexp.MustCompile(`97[89](?:[- ]?\d){10}`)
	thousands   = regexp.MustCompile(`,(\d{3})`)
)

// facts are the numbers that a book bears out: price, stock, year, pages, ISBN, and
// those of its text.
func facts(b seed.Book) []string {
	all := append(numbers(record(b)), strconv.Itoa(b.Stock), strconv.Itoa(b.Year), strconv.Itoa(b.Pages), b.ISBN13,
		fmt.Sprintf("%d.%02d", b.PriceMinor/100, b.PriceMinor%100))
	if b.PriceMinor%100 == 0 {
		all = append(all, strconv.FormatInt(b.PriceMinor/100, 10))
	}
	return all
}

// record is the book's text.
func record(b seed.Book) string {
	return strings.Join([]string{b.Title, b.Subtitle, strings.Join(b.Authors, ", "), b.Publisher, b.Description}, "\n")
}

// telling reports whether a name, where it occurs, can only be meant as that: "Emma"
// and "Wild" are also words.
func telling(name string) bool { return strings.ContainsRune(name, ' ') }

// names reports whether a text has a name as whole words; case and accents do not
// matter.
func names(text, name string) bool {
	return strings.Contains(plain(text), plain(name))
}

func plain(text string) string { return " " + strings.Join(vector.Tokens(text, ""), " ") + " " }

// asking are words of a request, not of what is asked for.
var asking = vector.Tokens("book books novel like similar something someone anything more other as if what who which whoever get getting make making go one another story stories about", "en")

// content returns the stems of a text's content words.
func content(text string) []string {
	words := slices.Compact(slices.Sorted(slices.Values(vector.Tokens(text, "en"))))
	return slices.DeleteFunc(words, func(w string) bool {
		return slices.Contains(asking, w) || strings.Trim(w, "0123456789") == "" && len(w) < 3
	})
}

func common(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(w string) bool { return !slices.Contains(b, w) })
}
