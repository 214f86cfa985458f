package catalog

import (
	"strings"

	"bookworm/internal/catalog/seed"
)

// parseISBN reads an ISBN-10 or ISBN-13 with a right check digit, with or without
// hyphens, spaces and the word ISBN before it, and returns it as ISBN-13. Both
// forms name the same book: ISO 2108.
func parseISBN(text string) (isbn13 string, ok bool) {
	text = strings.ToUpper(strings.TrimSpace(text))
	text = strings.TrimLeft(strings.TrimPrefix(text, "ISBN"), " :-")
	for _, form := range []string{"10", "13"} { // ISBN-13: 978...
		if rest, found := strings.CutPrefix(text, form+":"); found {
			text = rest
		}
	}
	text = strings.NewReplacer("-", "", " ", "", "\u2010", "", "\u2011", "", "\u2013", "").Replace(text)
	if len(text) == 10 {
		return fromISBN10(text)
	}
	return text, seed.ValidISBN13(text)
}

func fromISBN10(text string) (isbn13 string, ok bool) {
	sum := 0
	for i := range len(text) {
		digit := int(text[i] - '0')
		switch {
		case i == 9 && text[i] == 'X':
			digit = 10
		case text[i] < '0' || text[i] > '9':
			return "", false
		}
		sum += (10 - i) * digit
	}
	if sum%11 != 0 {
		return "", false
	}
	isbn13 = "978" + text[:9]
	sum = 0
	for i := range len(isbn13) {
		sum += int(isbn13[i]-'0') * (1 + 2*(i%2))
	}
	return isbn13 + string(rune('0'+(10-sum%10)%10)), true
}
