package chat

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"bookworm/internal/identity"
)

// Redactor replaces personal data in what a model will read: e-mail addresses,
// phone, card and account numbers, street addresses, and the caller's own name.
// It looks at form alone: it also takes what only looks so ("84 Charing Cross
// Road" is a title and an address), and a name that is nobody's it does not see.
type Redactor struct{ own *regexp.Regexp }

// NewRedactor returns a redactor for what the caller says.
func NewRedactor(caller identity.Caller) *Redactor {
	var own []string
	name := strings.Fields(string(caller.Name))
	if len(name) > 0 {
		own = append(own, strings.Join(quoteAll(name), `\s+`))
	}
	for _, part := range name {
		if utf8.RuneCountInString(part) > 2 {
			own = append(own, regexp.QuoteMeta(part))
		}
	}
	if len(own) == 0 {
		return &Redactor{}
	}
	return &Redactor{own: regexp.MustCompile(`(?i)(^|[^\p{L}\p{N}])(?:` + strings.Join(own, "|") + `)($|[^\p{L}\p{N}])`)}
}

func quoteAll(words []string) []string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = regexp.QuoteMeta(word)
	}
	return quoted
}

var (
	emailAddress = regexp.MustCompile(`(?i)[\p{L}\p{N}._%+'-]+\s?@\s?[\p{L}\p{N}-]+(?:\s?\.\s?[\p{L}\p{N}-]+)*\.?[\p{L}]{2,}`)
	spelledEmail = regexp.MustCompile(
		`(?i)[\p{L}\p{N}._%+-]+\s*(?:\(at\)|\[at\]|\{at\}|\sat\s)\s*[\p{L}\p{N}-]+(?:\s*(?:\(dot\)|\[dot\]|\{dot\}|\sdot\s|\.)\s*[\p{L}\p{N}-]+)*\s*(?:\(dot\)|\[dot\]|\{dot\}|\sdot\s|\.)\s*[\p{L}]{2,}`)
	accountNumber = regexp.MustCompile(`(?i)\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}\b`)
	digitRun      = regexp.MustCompile(`[+(]{0,2}\d(?:[ \t().\x{2013}\x{2014}/-]{0,3}\d){5,24}`)
	// Orders and books are named by these. An ISBN-10 must say that it is one: one phone
	// number in eleven has the check digit of one.
	idText    = regexp.MustCompile(`(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|\bisbn(?:-10)?:?\s*\d(?:[- ]?\d){8}[- ]?[\dx]\b`)
	yearRange = regexp.MustCompile(`^(?:1\d|20)\d{2}(?:\s*[-/,.\x{2013}\x{2014}]\s*|\s+)(?:1\d|20)\d{2}$`)
	amounts   = regexp.MustCompile(`^[1-9]\d{0,3}[.,]\d{2}(?:[\s/\x{2013}\x{2014}-]+[1-9]\d{0,3}[.,]\d{2})*$`)
	isoDate   = regexp.MustCompile(`^(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})$`)
	streets   = []*regexp.Regexp{
		// 221b Baker Street
		regexp.MustCompile(`(?i)\b\d{1,5}\s?[a-z]?,?\s+(?:[\p{L}'.-]+\s+){1,4}(?:street|avenue|ave|road|rd|lane|drive|boulevard|blvd|court|square|terrace|crescent|highway|alley|parkway)\b\.?`),
		regexp.MustCompile(`\b\d{1,5}\s?[a-z]?,?\s+(?:\p{Lu}[\p{L}'.-]*\s+){1,4}(?:St|Dr|Ct|Pl|Place|Way|Close|Row)\b\.?`),
		// Musterstraße 12a
		regexp.MustCompile(`(?i)\b[\p{L}-]*(?:straße|strasse|str\.|gasse|platz|allee|damm|ufer)\s*\d{1,4}\s?[a-z]?\b`),
		// 12 rue de Rivoli, Calle Mayor 5
		regexp.MustCompile(`(?i)\b\d{1,4}\s?(?:bis|ter)?,?\s+(?:rue|avenue|boulevard|place|chemin|impasse|quai)\s+(?:[\p{L}'’-]+\s?){1,5}`),
		regexp.MustCompile(`(?i)\b(?:calle|avenida|plaza|paseo|via|viale|piazza)\s+(?:[\p{L}'’-]+\s+){1,5}\d{1,4}\b`),
		regexp.MustCompile(`(?i)\bp\.?\s?o\.?\s?box\s+\d+\b`),
	}
)

// Redact returns the text with placeholders.
func (r *Redactor) Redact(text string) string {
	text = strings.Map(visible, text) // an invisible mark must not break up an address
	text = emailAddress.ReplaceAllString(text, "[EMAIL]")
	text = spelledEmail.ReplaceAllString(text, "[EMAIL]")
	text = accountNumber.ReplaceAllStringFunc(text, redactAccount)
	text = outside(idText, text, func(part string) string { return digitRun.ReplaceAllStringFunc(part, redactDigits) })
	for _, street := range streets {
		text = street.ReplaceAllString(text, "[ADDRESS]")
	}
	if r.own != nil {
		// Twice: names that share the character between them.
		text = r.own.ReplaceAllString(r.own.ReplaceAllString(text, "${1}[NAME]${2}"), "${1}[NAME]${2}")
	}
	return text
}

// redactAccount looks for an account number at the beginning of what was found:
// words that follow it have the same form.
func redactAccount(found string) string {
	for end := len(found); end >= 15; end-- {
		if last := found[end-1]; last != ' ' && last != '-' && isIBAN(found[:end]) {
			return "[IBAN]" + found[end:]
		}
	}
	return found
}

// outside applies f to the text between the matches.
func outside(kept *regexp.Regexp, text string, f func(string) string) string {
	var b strings.Builder
	from := 0
	for _, m := range kept.FindAllStringIndex(text, -1) {
		b.WriteString(f(text[from:m[0]]) + text[m[0]:m[1]])
		from = m[1]
	}
	b.WriteString(f(text[from:]))
	return b.String()
}

// redactDigits says what a run of digits is.
func redactDigits(run string) string {
	digits := digitsOf(run)
	switch {
	case isISBN(digits), yearRange.MatchString(run), amounts.MatchString(run), isoDate.MatchString(run):
		return run
	case len(digits) >= 13 && len(digits) <= 19 && luhn(digits):
		return "[CARD]"
	case len(digits) > 16:
		return "[NUMBER]"
	case looksLikePhone(run, digits):
		return "[PHONE]"
	}
	return run
}

// isNumberOfSomebody reports whether a text has a phone, card or account number.
func isNumberOfSomebody(text string) bool {
	if accountNumber.MatchString(text) && accountNumber.ReplaceAllStringFunc(text, redactAccount) != text {
		return true
	}
	redacted := outside(idText, text, func(part string) string { return digitRun.ReplaceAllStringFunc(part, redactDigits) })
	return redacted != text
}

func looksLikePhone(run, digits string) bool {
	n := len(digits)
	switch {
	case strings.HasPrefix(strings.TrimLeft(run, "("), "+"):
		return n >= 7
	case digits[0] == '0':
		return n >= 7
	case strings.ContainsAny(run, " -./()"):
		return n >= 7
	}
	return n >= 9
}

func digitsOf(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, text)
}

// isISBN checks the digit of an ISBN-13 (ISO 2108).
func isISBN(digits string) bool {
	if len(digits) != 13 || (!strings.HasPrefix(digits, "978") && !strings.HasPrefix(digits, "979")) {
		return false
	}
	sum := 0
	for i, d := range digits {
		sum += int(d-'0') * (1 + 2*(i%2))
	}
	return sum%10 == 0
}

// luhn checks a card number's digit (ISO/IEC 7812-1).
func luhn(digits string) bool {
	sum := 0
	for i := range len(digits) {
		d := int(digits[len(digits)-1-i] - '0')
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

// isIBAN checks an account number's digits (ISO 13616): modulo 97 it is 1.
func isIBAN(text string) bool {
	text = strings.ToUpper(strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return -1
	}, text))
	if len(text) < 15 || len(text) > 34 {
		return false
	}
	rest := 0
	for _, r := range text[4:] + text[:4] {
		switch {
		case r >= '0' && r <= '9':
			rest = (rest*10 + int(r-'0')) % 97
		case r >= 'A' && r <= 'Z':
			rest = (rest*100 + int(r-'A') + 10) % 97
		default:
			return false
		}
	}
	return rest == 1
}
