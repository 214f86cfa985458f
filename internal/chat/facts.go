package chat

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// evidence is what a result proves.
type evidence struct {
	words    string          // everything in it, folded
	title    string          // lower case, or empty for one too common to look for
	numbers  map[string]bool // anywhere in it
	solid    map[string]bool // in the shop's own records of it
	amounts  map[string]bool // of money, in the shop's own records
	isbns    map[string]bool
	copies   int64 // that can be ordered; -1 when it does not say
	official bool  // a rule of the shop, or an order
}

// prove reads a result. Nothing that a stranger wrote counts as a record of the
// shop: not a price in a review, not a number of copies in a description.
func (r *Result) prove() *evidence {
	e := &evidence{
		numbers: make(map[string]bool), solid: make(map[string]bool), amounts: make(map[string]bool), isbns: make(map[string]bool),
		copies: -1, official: r.Kind == KindPolicy || r.Kind == KindOrder,
	}
	var records strings.Builder
	for name, value := range r.Fields {
		text := fmt.Sprint(value)
		if list, ok := value.([]string); ok {
			text = strings.Join(list, "; ")
		}
		records.WriteString(" " + text + " ;")
		if n, ok := value.(int32); ok && name == Available {
			e.copies = int64(n)
		}
	}
	if r.Kind == KindPolicy {
		records.WriteString(r.Text)
	}
	known := records.String()
	everything := r.Title + " ; " + r.Text + " ; " + known + " ; " + r.ID
	e.words = fold(everything)
	e.title = strings.ToLower(r.Title)
	for _, n := range numberText.FindAllString(everything, -1) {
		e.numbers[number(n)] = true
	}
	for _, n := range numberText.FindAllString(known, -1) {
		e.solid[number(n)] = true
	}
	for _, a := range amountText.FindAllString(known, -1) {
		e.amounts[number(numberText.FindString(a))] = true
	}
	for _, run := range isbnText.FindAllString(known, -1) {
		e.isbns[digitsOf(run)] = true
	}
	return e
}

var (
	numberText = regexp.MustCompile(`\d+(?:[.,]\d+)*`)
	isbnText   = regexp.MustCompile(`\b97[89](?:[ -]?\d){10}\b`)
	amountText = regexp.MustCompile(`(?i)(?:[$€£¥]|\b(?:USD|EUR|GBP|CHF|JPY|CAD|AUD)|US\$)\s?\d+(?:[.,]\d+)*|` +
		`\d+(?:[.,]\d+)*\s?(?:[$€£¥]|(?:USD|EUR|GBP|CHF|JPY|CAD|AUD|dollars?|euros?|pounds?|cents?|bucks)\b)`)
	quoted      = regexp.MustCompile(`"([^"]{3,200})"|“([^”]{3,200})”|«([^»]{3,200})»|„([^“”]{3,200})[“”]`)
	mixed       = regexp.MustCompile(`[\p{L}\p{N}_-]*(?:\p{L}\d|\d\p{L})[\p{L}\p{N}_-]*`)
	ordinal     = regexp.MustCompile(`(?i)^\d+(?:st|nd|rd|th|s)(?:-\p{L}+)*$`)
	properName  = regexp.MustCompile(`\p{Lu}\p{Ll}[\p{L}'’]*(?:\s+(?:\p{Lu}\.|\p{Lu}\p{Ll}[\p{L}'’]*|de|da|del|van|von|der|le|la))*\s+\p{Lu}\p{Ll}[\p{L}'’]*`)
	listNumeral = regexp.MustCompile(`^\s*(?:[-*•]\s*)?\d{1,3}[.)]\s`)
	countable   = regexp.MustCompile(`(?i)\b(\d+|` + numeralWords + `)\s+(?:\p{L}+\s+)?(?:books?|titles?|results?|reviews?|orders?|options?|matches|suggestions?|of them)\b`)
	countWords  = regexp.MustCompile(`(?i)\b(` + numeralWords + `)\s+(copy|copies|stars?|pages?|reviews?|days?|weeks?|months?|years?)\b`)

	noStock   = regexp.MustCompile(`(?i)\b(?:out of stock|not (?:currently |now )?(?:in stock|available)|sold out|unavailable|no copies|no longer (?:sold|available|in stock))\b`)
	someStock = regexp.MustCompile(`(?i)\b(?:in stock|available|copies|can be ordered)\b`)
	ratings   = regexp.MustCompile(`(?i)\b(?:stars?|rated|ratings?|reviews?|reviewers?)\b`)
	terms     = regexp.MustCompile(`(?i)\b(?:refund\w*|return(?:s|ed|ing)?|discount\w*|coupon\w*|vouchers?|codes?|shipping|deliver\w*|warranty|guarantee\w*|tax|offer|free|off)\b|%`)
	claims    = regexp.MustCompile(`(?i)\b(?:costs?|prices?|priced|cheap\w*|expensive|published|publisher|written by|authors?|pages|ISBN|bestsell\w*|deliver(?:y|ed|s)|` +
		`ship(?:s|ped|ping)|refund\w*|returns?|orders?|paid|poison|recalled)\b`)
	// process sentences say what the bookseller does or does not find.
	process = regexp.MustCompile(`(?i)^[\s*_-]*(?:I|I'm|I’m|I've|I’ve|let me|let's|shall|should|sorry|unfortunately|of course|sure|certainly|please|` +
		`here (?:is|are)|here's|hello|hi|thanks?|thank|you're welcome|tell me|if you|would you|do you|no (?:book|result|order|review|policy|rule)s?)\b`)
)

const numeralWords = `one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve`

// facts are what a sentence claims.
type facts struct {
	amounts, numbers, isbns, mixed, quoted, names []string
	titles                                        []string // of results of the turn, lower case
	stock                                         int      // 1: there is some, -1: there is none, 0: nothing is said of it
	strict                                        bool     // its numbers must stand in the shop's records
	terms                                         bool     // it is about the shop's rules
	factual                                       bool
}

// judge says which of a sentence's marks stay, and whether the sentence may stand
// without a warning: it claims nothing, or what it claims is in what it cites.
func judge(text string, refs []int, results []*Result, asked string) (kept map[int]bool, ok bool) {
	f := read(text, results, asked)
	var cited []*Result
	for _, r := range results {
		if slices.Contains(refs, r.ref) {
			cited = append(cited, r)
		}
	}
	kept = make(map[int]bool)
	if f.factual && !f.provedBy(cited) {
		return kept, false
	}
	some := false
	for _, r := range cited {
		kept[r.ref] = f.touches(r, text)
		some = some || kept[r.ref]
	}
	if f.factual && !some { // proved by what has no word in common with it, such as a number of copies
		for _, r := range cited {
			kept[r.ref] = true
		}
	}
	return kept, true
}

// read finds the facts of a sentence.
func read(text string, results []*Result, asked string) facts {
	var f facts
	rest := listNumeral.ReplaceAllString(text, "")
	f.titles, rest = takeTitles(rest, results)
	rest = countWords.ReplaceAllStringFunc(rest, func(found string) string {
		word, noun, _ := strings.Cut(found, " ")
		return fmt.Sprint(slices.Index(strings.Split(numeralWords, "|"), strings.ToLower(word))+1) + " " + noun
	})
	for _, m := range quoted.FindAllStringSubmatch(rest, -1) {
		f.quoted = append(f.quoted, fold(strings.Join(m[1:], "")))
	}
	rest = take(isbnText, rest, func(found string) { f.isbns = append(f.isbns, digitsOf(found)) })
	rest = take(amountText, rest, func(found string) { f.amounts = append(f.amounts, number(numberText.FindString(found))) })
	rest = countable.ReplaceAllStringFunc(rest, func(found string) string {
		if n := count(found); n > 0 && n <= len(results) && !ratings.MatchString(found) {
			return " " // how many of them are listed
		}
		return found
	})
	rest = take(mixed, rest, func(found string) {
		if !ordinal.MatchString(found) {
			f.mixed = append(f.mixed, fold(found))
		}
	})
	for _, n := range numberText.FindAllString(rest, -1) {
		f.numbers = append(f.numbers, number(n))
	}
	for _, name := range properName.FindAllString(strings.TrimLeft(rest, " *_-"), -1) {
		f.names = append(f.names, fold(name))
	}
	switch {
	case noStock.MatchString(rest):
		f.stock = -1
	case someStock.MatchString(rest):
		f.stock = 1
	}
	told := len(f.amounts)+len(f.numbers)+len(f.isbns)+len(f.mixed)+len(f.quoted) > 0
	f.terms = terms.MatchString(rest) && told
	f.strict = f.stock != 0 || f.terms || (ratings.MatchString(rest) && told)
	f.factual = f.claims(rest, told, asked)
	return f
}

// claims says whether the sentence is one of facts. Questions and sentences about
// the search itself are not, unless they have numbers or names that the shopper did
// not say.
func (f *facts) claims(rest string, told bool, asked string) bool {
	if strings.HasSuffix(strings.TrimRight(rest, " \"'”’)*_"), "?") || process.MatchString(rest) {
		return !f.echoes(asked) || (f.stock != 0 && !strings.HasSuffix(strings.TrimSpace(rest), "?") && len(f.titles) > 0)
	}
	return told || f.stock != 0 || len(f.titles) > 0 || claims.MatchString(rest)
}

// echoes reports whether all that the sentence names was said by the shopper.
func (f *facts) echoes(asked string) bool {
	said := make(map[string]bool)
	for _, n := range numberText.FindAllString(asked, -1) {
		said[number(n)] = true
	}
	words := fold(asked)
	for _, n := range slices.Concat(f.amounts, f.numbers) {
		if !said[n] {
			return false
		}
	}
	for _, text := range slices.Concat(f.quoted, f.mixed, f.isbns) {
		if !contains(words, text) {
			return false
		}
	}
	return true
}

// provedBy reports whether all facts stand in the results together.
func (f *facts) provedBy(cited []*Result) bool {
	if len(cited) == 0 {
		return false
	}
	in := func(has func(*evidence) bool) bool {
		return slices.ContainsFunc(cited, func(r *Result) bool { return has(r.proof) })
	}
	for _, a := range f.amounts {
		if !in(func(e *evidence) bool { return e.amounts[a] && (!f.terms || e.official || e.copies >= 0) }) {
			return false
		}
	}
	for _, n := range f.numbers {
		if !in(func(e *evidence) bool { return f.allows(e, n) }) {
			return false
		}
	}
	for _, n := range f.isbns {
		if !in(func(e *evidence) bool { return e.isbns[n] }) {
			return false
		}
	}
	for _, name := range f.names {
		_, tail, _ := strings.Cut(strings.TrimSpace(name), " ") // the first word may only begin the sentence
		if !in(func(e *evidence) bool { return contains(e.words, name) || contains(e.words, tail) }) {
			return false
		}
	}
	for _, text := range slices.Concat(f.mixed, f.quoted, f.titles) {
		if !in(func(e *evidence) bool { return contains(e.words, fold(text)) }) {
			return false
		}
	}
	switch f.stock {
	case 1:
		return in(func(e *evidence) bool { return e.copies > 0 || e.official })
	case -1:
		return in(func(e *evidence) bool { return e.copies == 0 || e.official })
	}
	return true
}

// allows reports whether a number of the sentence may rest on the evidence.
func (f *facts) allows(e *evidence, n string) bool {
	switch {
	case f.terms && f.stock == 0:
		return e.solid[n] && e.official
	case f.strict:
		return e.solid[n]
	}
	return e.numbers[n]
}

// touches reports whether a result has anything to do with the sentence.
func (f *facts) touches(r *Result, text string) bool {
	e := r.proof
	for _, n := range slices.Concat(f.numbers, f.amounts) {
		if e.numbers[n] {
			return true
		}
	}
	for word := range strings.FieldsSeq(fold(text)) {
		if len([]rune(word)) >= 4 && contains(e.words, word) {
			return true
		}
	}
	return slices.Contains(f.titles, e.title) || slices.ContainsFunc(f.isbns, func(n string) bool { return e.isbns[n] })
}

// takeTitles finds the titles of the turn's results in a sentence, the longest
// first, and takes them out.
func takeTitles(text string, results []*Result) (titles []string, rest string) {
	known := make([]string, 0, len(results))
	for _, r := range results {
		if r.Kind == KindBook && r.Title != "" && !slices.Contains(known, r.Title) {
			known = append(known, r.Title)
		}
	}
	slices.SortStableFunc(known, func(a, b string) int { return len(b) - len(a) })
	rest = text
	for _, title := range known {
		if len([]rune(title)) <= 3 && !strings.ContainsAny(text, `"“«*_`) {
			continue // "It" is a title only where it is set off
		}
		if at := wordIndex(rest, title); at >= 0 {
			titles = append(titles, strings.ToLower(title))
			rest = rest[:at] + " \u00b7 " + rest[at+len(title):]
		}
	}
	return titles, rest
}

// wordIndex finds a title in a text where it stands as words of its own; the case
// of its letters counts, or all words that begin with the same letters would.
func wordIndex(text, title string) int {
	for from := 0; ; {
		at := strings.Index(text[from:], title)
		if at < 0 {
			return -1
		}
		at += from
		before, after := lastRune(text[:at]), firstRune(text[at+len(title):])
		if !isWord(before) && !isWord(after) {
			return at
		}
		from = at + len(title)
	}
}

func firstRune(s string) rune {
	for _, r := range s {
		return r
	}
	return ' '
}

func lastRune(s string) rune {
	runes := []rune(s)
	if len(runes) == 0 {
		return ' '
	}
	return runes[len(runes)-1]
}

func isWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

// take calls f for every match and takes it out.
func take(pattern *regexp.Regexp, text string, f func(string)) string {
	return pattern.ReplaceAllStringFunc(text, func(found string) string { f(found); return " " })
}

func count(found string) int {
	word := strings.ToLower(strings.Fields(found)[0])
	if at := slices.Index(strings.Split(numeralWords, "|"), word); at >= 0 {
		return at + 1
	}
	n := 0
	for _, r := range word {
		n = n*10 + int(r-'0')
		if n > 1000 {
			return 0
		}
	}
	return n
}

// number writes a number in one way: no thousands separators, a point, no zeros at
// the end of a fraction or the beginning of the whole.
func number(text string) string {
	last := strings.LastIndexAny(text, ".,")
	whole, fraction := text, ""
	if last >= 0 && (len(text)-last-1 != 3 || strings.Count(text, ".")+strings.Count(text, ",") == 1 && text[last] == '.' && text[0] == '0') {
		whole, fraction = text[:last], strings.TrimRight(text[last+1:], "0")
	}
	whole = strings.TrimLeft(digitsOf(whole), "0")
	if whole == "" {
		whole = "0"
	}
	if fraction != "" {
		return whole + "." + fraction
	}
	return whole
}

// fold writes a text in lower case, its words with one space between and around.
func fold(text string) string {
	var b strings.Builder
	b.WriteByte(' ')
	between := true
	for _, r := range strings.ToLower(text) {
		switch {
		case isWord(r) || unicode.Is(unicode.Mn, r):
			b.WriteRune(r)
			between = false
		case r == '\'' || r == '’': // within a word
		case !between:
			b.WriteByte(' ')
			between = true
		}
	}
	return strings.TrimRight(b.String(), " ") + " "
}

// contains reports whether folded words occur in a folded text.
func contains(folded, words string) bool {
	words = strings.TrimSpace(words)
	return words == "" || strings.Contains(folded, " "+words+" ")
}
