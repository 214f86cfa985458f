package chat

import (
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// unverified is put behind a sentence of facts that rest on nothing.
const unverified = " (unverified)"

// removed stands for what may not be said. In round brackets it could make a link
// of the brackets before it.
const removed = "[removed]"

// check lets a model's text through piece by piece and sees to it that
//   - a sentence of facts about a book, a price, stock, an order or the shop's rules
//     carries marks such as [1] that refer to results of this turn in which those
//     facts stand, and is marked as unverified otherwise;
//   - other marks are gone;
//   - there are no links but to the shop's own pages, no images, no HTML, no
//     addresses, phone, card or account numbers but the shop's own;
//   - the instructions are not told.
//
// What was let through is never taken back, so all that cannot be put right behind
// the words is held until it is whole: a word, a run of digits, a mark, a link, a
// tag. From its first mark on, a sentence is held until its end; a model that puts
// marks there, as it is told to, is delayed by one word. A sentence without marks
// flows, and gets its "(unverified)" at its end: facts may be read for a moment
// before that.
//
// It is for one goroutine.
type check struct {
	results func() []*Result // of the turn until now, by ref
	asked   string           // what the shopper said
	cited   func(*Result)    // called before the first mark of a result is let through

	in    string   // not yet split up
	long  bool     // in is the rest of a word that is too long
	run   []string // words that may be one number together
	space string   // before the next word
	// runSpace is the space before the run.
	runSpace string
	s        sentence
	leak     leakGuard
	said     strings.Builder // all that was let through
	taken    int             // how much of it Write has returned

	uncited int
	stopped bool         // the instructions were about to be told
	marked  map[int]bool // the results whose citation is known
}

// sentence is the one that is being said.
type sentence struct {
	text  strings.Builder // its words, for the facts
	refs  []int           // the marks in it
	tail  []piece         // what is held of it: from the first mark, or the final stop, on
	ended bool            // the final stop was seen; only marks may follow
}

// piece is text, or a mark with the space before it.
type piece struct {
	text string
	ref  int
}

// Write takes a piece of the model's text and returns what can be said now.
func (c *check) Write(text string) string {
	if c.stopped {
		return ""
	}
	c.in += strings.Map(sayable, text)
	c.split(false)
	return c.take()
}

// Close ends the text and returns the rest.
func (c *check) Close() string {
	if !c.stopped {
		c.split(true)
		c.flushRun()
		c.endSentence()
	}
	return c.take()
}

// Text returns all that was let through.
func (c *check) Text() string { return c.said.String() }

func (c *check) take() string {
	text := c.said.String()[c.taken:]
	c.taken = c.said.Len()
	return text
}

// put lets text through.
func (c *check) put(text string) {
	if c.stopped || text == "" {
		return
	}
	if !c.leak.pass(text) {
		c.stopped = true
		return
	}
	c.said.WriteString(text)
}

// sayable drops what cannot be seen.
func sayable(r rune) rune {
	switch r {
	case '\u200d', '\ufe0f': // parts of emoji
		return r
	case '\t', '\r':
		return ' '
	}
	return visible(r)
}

// split takes whole tokens off the text; at its end, also what is not whole.
func (c *check) split(final bool) {
	for more := true; more && c.in != "" && !c.stopped; {
		r, size := utf8.DecodeRuneInString(c.in)
		switch {
		case r == '\n':
			c.newline()
			c.in = c.in[size:]
		case unicode.IsSpace(r):
			c.blank()
			c.in = c.in[size:]
		case r == '[':
			more = c.bracket(final)
		case strings.HasPrefix(c.in, "!["):
			more = c.image(final)
		case r == '!' && len(c.in) == 1 && !final:
			more = false
		case r == '<':
			more = c.tag(final)
		default:
			more = c.word(final)
		}
	}
}

func (c *check) newline() {
	c.flushRun()
	c.endSentence()
	c.space, c.long = "", false
	c.put("\n")
}

func (c *check) blank() {
	c.long = false
	c.space = " "
}

const (
	maxLabel    = 300 // of a link, in bytes, and so on
	maxTarget   = 600
	maxTag      = 600
	maxWord     = 60 // in characters; no word of a language that has spaces is longer
	maxSentence = 1500
)

var (
	refList    = regexp.MustCompile(`^\s*\d{1,4}(?:\s*[,;]\s*\d{1,4})*\s*$`)
	oneRef     = regexp.MustCompile(`\d+`)
	ownPage    = regexp.MustCompile(`^/[A-Za-z0-9][A-Za-z0-9/_-]*$`)
	plainLabel = regexp.MustCompile(`^[\p{L}\p{N} ,.'’:-]+$`)
)

// labelled reads the brackets at the beginning of text: [label], and what follows.
// wait says that more must come to tell.
func labelled(text string, final bool) (label, rest string, ok, wait bool) {
	end := strings.IndexAny(text, "]\n")
	switch {
	case end < 0 && !final && len(text) <= maxLabel:
		return "", "", false, true
	case end < 0 || text[end] == '\n' || end > maxLabel:
		return "", "", false, false
	case len(text) == end+1 && !final:
		return "", "", false, true
	}
	return text[1:end], text[end+1:], true, false
}

// target reads the (target) of a link at the beginning of text. One that does not
// end is taken for one that begins here and is nothing.
func target(text string, final bool) (where, rest string, wait bool) {
	end := strings.IndexAny(text, ")\n")
	switch {
	case end < 0 && !final && len(text) <= maxTarget:
		return "", "", true
	case end < 0 || text[end] == '\n':
		return "", " " + text[1:], false
	}
	return text[1:end], text[end+1:], false
}

// bracket takes a mark, a link, or a bracket that is nothing else. It reports
// whether it could.
func (c *check) bracket(final bool) bool {
	label, rest, ok, wait := labelled(c.in, final)
	switch {
	case wait:
		return false
	case ok && strings.HasPrefix(rest, "("):
		where, after, wait := target(rest, final)
		if wait {
			return false
		}
		if ownPage.MatchString(where) && plainLabel.MatchString(label) {
			c.flushRun()
			c.say("[" + label + "](" + where + ")")
			c.in = after
			return true
		}
		// The words of a link stay, and are looked at like all others; the space keeps
		// them from growing together with those before.
		c.space = " "
		c.in = label + after
	case ok && refList.MatchString(label):
		c.flushRun()
		for _, number := range oneRef.FindAllString(label, -1) {
			c.mark(number)
		}
		c.in = rest
	default:
		c.flushRun()
		c.say("[")
		c.in = c.in[1:]
	}
	return true
}

// image drops an image.
func (c *check) image(final bool) bool {
	_, rest, ok, wait := labelled(c.in[1:], final)
	switch {
	case wait:
		return false
	case ok && strings.HasPrefix(rest, "("):
		_, after, wait := target(rest, final)
		if wait {
			return false
		}
		c.space = " "
		c.in = after
	default:
		c.flushRun()
		c.say("!")
		c.space = " "
		c.in = c.in[1:]
	}
	return true
}

// tag drops an HTML tag, or what looks like one.
func (c *check) tag(final bool) bool {
	if len(c.in) == 1 && !final {
		return false
	}
	next, _ := utf8.DecodeRuneInString(c.in[1:])
	if !unicode.IsLetter(next) && !strings.ContainsRune("/!?|", next) {
		c.flushRun()
		c.say("<")
		c.in = c.in[1:]
		return true
	}
	end := strings.IndexByte(c.in, '>')
	if end < 0 && !final && len(c.in) <= maxTag {
		return false
	}
	if end < 0 || end > maxTag {
		end = 0
	}
	c.space = " "
	c.in = c.in[end+1:]
	return true
}

// word takes a word.
func (c *check) word(final bool) bool {
	if c.s.ended { // what follows is no mark
		c.endSentence()
	}
	end := strings.IndexFunc(c.in, func(r rune) bool { return unicode.IsSpace(r) || r == '[' || r == '<' })
	whole := end >= 0 || final
	if end < 0 {
		end = len(c.in)
	}
	if at := strings.IndexFunc(c.in[:end], unspaced); at >= 0 {
		// A letter of a script without spaces is a word for itself.
		end, whole = at, true
		if at == 0 {
			_, end = utf8.DecodeRuneInString(c.in)
		}
	}
	word := c.in[:end]
	if utf8.RuneCountInString(word) > maxWord {
		if !c.long {
			c.flushRun()
			c.say(removed)
		}
		c.long, whole = true, true
		word = ""
	}
	if !whole {
		return false
	}
	c.in = c.in[end:]
	switch {
	case c.long || word == "":
	case c.extendRun(word):
	default:
		c.flushRun()
		c.say(c.sanitized(word))
	}
	return true
}

func unspaced(r rune) bool {
	return unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar) ||
		strings.ContainsRune("。！？、，", r)
}

var (
	runWord     = regexp.MustCompile(`^[+(]{0,2}[0-9A-Z][0-9A-Z()./-]*[,;:.!?]*$`)
	runLetters  = regexp.MustCompile(`^[A-Z]{1,4}$`)
	oneDigit    = regexp.MustCompile(`\d`)
	endOfRun    = regexp.MustCompile(`[,;:.!?]$`)
	maxRunWords = 14
)

// extendRun holds a word that may be a part of a number.
func (c *check) extendRun(word string) bool {
	if !runWord.MatchString(word) || (!oneDigit.MatchString(word) && (len(c.run) == 0 || !runLetters.MatchString(word))) {
		return false
	}
	if len(c.run) > 0 && c.space == "" {
		c.flushRun()
	}
	if len(c.run) > 0 {
		c.run = append(c.run, word)
	} else {
		c.run, c.runSpace = []string{word}, c.space
	}
	c.space = ""
	if endOfRun.MatchString(word) || len(c.run) >= maxRunWords {
		c.flushRun()
	}
	return true
}

// flushRun lets the words of a run through, or says that they were removed.
func (c *check) flushRun() {
	if len(c.run) == 0 {
		return
	}
	words, behind := c.run, c.space
	c.run, c.space = nil, c.runSpace
	joined := strings.Join(words, " ")
	if isNumberOfSomebody(joined) && !c.trusts(joined) {
		words = []string{removed}
	}
	for i, word := range words {
		if i > 0 {
			c.space = " "
		}
		c.say(word)
	}
	c.space = behind
}

var (
	link = regexp.MustCompile(`(?i)://|^\W*//|\]\(|\bwww\.|\d{1,3}(?:\.\d{1,3}){3}|\b(?:javascript|vbscript):|\b(?:data|mailto|tel|file|blob):\S|` +
		`\.(?:com|net|org|info|biz|io|co|ai|app|dev|me|tv|xyz|top|shop|store|online|site|club|link|click|live|page|web|cloud|ru|cn|uk|de|fr|es|it|eu|us|` +
		`nl|ch|at|be|br|in|jp|au|ca|example|test|invalid|localhost|onion)(?:$|[^\p{L}\p{N}])`)
	secret = regexp.MustCompile(`(?i)\b(?:sk|pk|rk)[-_][a-z0-9_-]{8,}|\beyJ[a-z0-9_-]{8,}|\bBearer\b|\b(?:ghp|xox[abp])[-_][a-z0-9-]{8,}`)
)

// sanitized returns a word, or what stands for one that may not be said.
func (c *check) sanitized(word string) string {
	bad := link.MatchString(word) || emailAddress.MatchString(word) || secret.MatchString(word) || isNumberOfSomebody(word)
	if !bad || c.trusts(strings.Trim(word, ".,;:!?()\"'")) {
		return word
	}
	return removed
}

// trusts reports whether the shop's own rules, as this turn looked them up, have a
// text.
func (c *check) trusts(text string) bool {
	for _, r := range c.results() {
		if r.Kind == KindPolicy && strings.Contains(r.Text, text) {
			return true
		}
	}
	return false
}

// mark takes a mark that refers to a result.
func (c *check) mark(number string) {
	ref, err := strconv.Atoi(number)
	if err != nil || ref < 1 {
		return
	}
	c.s.refs = append(c.s.refs, ref)
	c.s.tail = append(c.s.tail, piece{text: c.space + "[" + number + "]", ref: ref})
	c.space = ""
}

// say takes a word that may be said.
func (c *check) say(word string) {
	if c.s.ended || c.s.text.Len() > maxSentence {
		c.endSentence()
	}
	space := c.space
	c.space = ""
	body, stop := splitStop(word, c.s.text.Len() == 0)
	c.s.text.WriteString(space + word)
	c.s.ended = stop != ""
	if len(c.s.tail) > 0 {
		c.s.tail = append(c.s.tail, piece{text: space + word})
		return
	}
	c.put(space + body)
	if stop != "" {
		c.s.tail = append(c.s.tail, piece{text: stop})
	}
}

var (
	finalStop     = regexp.MustCompile(`[.!?…。！？]+["'”’»)*_]*$`)
	abbreviations = map[string]bool{
		"mr": true, "mrs": true, "ms": true, "dr": true, "st": true, "prof": true, "jr": true, "sr": true, "vs": true, "vol": true, "vols": true,
		"no": true, "ed": true, "eds": true, "e.g": true, "i.e": true, "p": true, "pp": true, "ca": true, "approx": true, "z.b": true, "bzw": true,
	}
	initials = regexp.MustCompile(`^\p{Lu}(?:\.\p{Lu})*$`)
	numeral  = regexp.MustCompile(`^\d{1,3}$`)
)

// splitStop splits the end of a sentence off a word.
func splitStop(word string, first bool) (body, stop string) {
	at := finalStop.FindStringIndex(word)
	if at == nil {
		return word, ""
	}
	body, stop = word[:at[0]], word[at[0]:]
	bare := strings.TrimLeft(body, "(\"'“‘«*_")
	if stop == "." && (abbreviations[strings.ToLower(bare)] || initials.MatchString(bare) || (first && numeral.MatchString(bare))) {
		return word, ""
	}
	return body, stop
}

var trailingStop = regexp.MustCompile(`[.!?…:;,。！？]*["'”’»)*_]*\s*$`)

// endSentence judges the sentence and lets through what is held of it.
func (c *check) endSentence() {
	s := c.s
	c.s = sentence{}
	text := s.text.String()
	if text == "" {
		return // marks behind nothing
	}
	kept, ok := judge(text, s.refs, c.results(), c.asked)
	var out strings.Builder
	shown := make(map[int]bool)
	for _, p := range s.tail {
		if p.ref == 0 || (kept[p.ref] && !shown[p.ref]) {
			out.WriteString(p.text)
			shown[p.ref] = true
		}
	}
	rest := out.String()
	if !ok {
		c.uncited++
		stop := trailingStop.FindStringIndex(rest)[0]
		rest = rest[:stop] + unverified + rest[stop:]
	}
	for _, r := range c.results() {
		if shown[r.ref] && !c.marked[r.ref] {
			c.marked[r.ref] = true
			c.cited(r)
		}
	}
	c.put(rest)
}
