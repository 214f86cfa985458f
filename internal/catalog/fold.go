package catalog

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// fold returns a text as it is compared: lower case, without accents, each run
// of anything but letters and digits one space. Apostrophes and points vanish,
// so that O'Brien is one word and J.R.R. is too.
func fold(text string) string {
	var folded strings.Builder
	gap := false
	for _, r := range norm.NFKD.String(text) {
		switch {
		case unicode.Is(unicode.Mn, r), r == '\'', r == '’', r == '.':
		case unicode.IsLetter(r), unicode.IsDigit(r):
			if gap && folded.Len() > 0 {
				folded.WriteByte(' ')
			}
			gap = false
			folded.WriteString(foldLetter(r))
		default:
			gap = true
		}
	}
	return folded.String()
}

// foldLetter lowers a letter, and spells out those that have no decomposition.
func foldLetter(r rune) string {
	switch r = unicode.ToLower(r); r {
	case 'ß':
		return "ss"
	case 'æ':
		return "ae"
	case 'œ':
		return "oe"
	case 'ø':
		return "o"
	case 'đ':
		return "d"
	case 'ł':
		return "l"
	}
	return string(r)
}

// maxTitleKey bounds the key by title, so that it fits into a page token.
const maxTitleKey = 200

// titleKey is what the list by title is ordered by.
func titleKey(title string) string {
	key := []rune(fold(title))
	return string(key[:min(len(key), maxTitleKey)])
}

// searchText is what the words of a query are looked for in.
func searchText(isbn13, title, subtitle string, authors []string) string {
	parts := append([]string{isbn13, title, subtitle}, authors...)
	return fold(strings.Join(parts, " "))
}

// searchWords returns the words of a query, folded. An ISBN may be written with
// hyphens or spaces.
func searchWords(query string) string {
	if isbn := strings.NewReplacer("-", "", " ", "").Replace(query); len(isbn) == 13 && strings.Trim(isbn, "0123456789") == "" {
		return isbn
	}
	return fold(query)
}
