package llm

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// maxShown is how many books, orders or reviews an answer tells of.
const maxShown = 3

// answer writes the answer from what was found. Every sentence that says
// something of a book, an order, a review or a policy ends with the mark of the
// result it is taken from.
func (t *turn) answer() string {
	want := intentsOf(t.question, t.before)
	var parts []string
	add := func(part string) {
		if part != "" {
			parts = append(parts, part)
		}
	}
	switch {
	case greetingOnly.MatchString(t.question):
		return "Hello! I can look for books, compare them, read reviews, see how orders stand and explain our policies. What are you after?"
	case len(t.request.Tools) == 0 && len(t.results) == 0:
		return t.withoutTools()
	}
	if want.order {
		add(t.orders(want))
	}
	if want.policy {
		add(t.policies())
	}
	switch {
	case want.bookID != "":
		add(t.books("", t.ofKind("book"), want))
	case len(want.searches) > 0:
		add(t.searched(want))
	}
	if len(parts) == 0 {
		if len(t.results) == 0 && t.rounds == 0 {
			return "What would you like to read? Tell me a title, an author or a subject, and I will look for it."
		}
		return t.nothing()
	}
	return strings.Join(parts, "\n\n")
}

// searched tells of the books that were looked for, or of their reviews, or that
// one is on its way into the basket.
func (t *turn) searched(want intents) string {
	var parts []string
	for _, query := range want.searches {
		books := affordable(relevant(query, t.ofKind("book")), want.maxPrice)
		switch {
		case want.compare && len(want.searches) == 1 && len(t.titled(query)) > 1:
			parts = append(parts, t.books("", t.titled(query), want))
			continue
		case len(books) == 0:
			parts = append(parts, t.nothing())
			continue
		case want.basket && slices.ContainsFunc(t.tools, func(name string) bool { return strings.Contains(name, "basket") }):
			parts = append(parts, t.toBasket(books[0]))
			continue
		case want.reviews:
			parts = append(parts, t.reviews(books[0]))
			continue
		case len(want.searches) > 1:
			books = books[:1]
		}
		parts = append(parts, t.books(query, books, want))
	}
	slices.Sort(parts)
	parts = slices.Compact(parts)
	return strings.Join(parts, "\n\n")
}

// titled returns the books whose whole titles stand in a text, but for a title
// that is a part of another one's.
func (t *turn) titled(text string) []result {
	var list []result
	for _, b := range t.ofKind("book") {
		if len(topics(b.title)) > 0 && strings.Contains(spelled(text), spelled(b.title)) {
			list = append(list, b)
		}
	}
	return slices.DeleteFunc(slices.Clone(list), func(b result) bool {
		return slices.ContainsFunc(list, func(other result) bool {
			return len(other.title) > len(b.title) && strings.Contains(spelled(other.title), spelled(b.title))
		})
	})
}

// nothing says that there is no answer. It has no mark: it says nothing that
// could be looked up.
func (t *turn) nothing() string {
	return "I'm sorry, I don't know: I found nothing suitable for that here."
}

func affordable(books []result, limit float64) []result {
	if limit == 0 {
		return books
	}
	return slices.DeleteFunc(books, func(r result) bool {
		amount, ok := r.amount()
		return ok && amount > limit
	})
}

// books tells of up to three books: what each is, costs and what it is about.
func (t *turn) books(query string, books []result, want intents) string {
	if len(books) == 0 {
		return t.nothing()
	}
	if score, _ := askedFor(query).in(books[0]); score > 1 { // asked for by its title
		books = books[:1]
	}
	var lines []string
	for _, b := range books[:min(len(books), maxShown)] {
		lines = append(lines, t.book(b, query, want))
	}
	return strings.Join(lines, "\n")
}

func (t *turn) book(b result, query string, want intents) string {
	name := b.name()
	var said []string
	say := func(format string, args ...any) {
		said = append(said, fmt.Sprintf(format, args...)+fmt.Sprintf(" [%d].", b.ref))
	}
	if by := b.people(); by != "" {
		name += " by " + by
	}
	if price := b.price(); price != "" {
		say("%s costs %s", name, price)
	} else {
		say("We have %s", name)
	}
	if available, known := b.available(); known {
		if available {
			say("It is in stock")
		} else {
			say("It is out of stock at the moment")
		}
	}
	for _, a := range want.attributes {
		if value := b.field(a.keys...); value != "" {
			say(a.sentence, value)
		} else {
			said = append(said, "I don't know "+a.unknown+".")
		}
	}
	for _, s := range bestSentences(query, b.text, 1) {
		say("%s", s)
	}
	return strings.Join(said, " ")
}

// attribute is something that may be asked of a book beside its price.
type attribute struct {
	asked    *regexp.Regexp
	keys     []string
	sentence string
	unknown  string
}

var attributes = []attribute{
	{
		regexp.MustCompile(`(?i)\bhow (long|many pages)\b|\bpages\b|\blonger\b|\bshorter\b`),
		[]string{"page_count", "pages"},
		"It has %s pages", "how many pages it has",
	},
	{regexp.MustCompile(`(?i)\bwhen\b|\bwhat year\b|\bpublished\b|\bhow old\b|\bnewer\b|\bolder\b`), []string{"year", "published", "publication_year"}, "It was published in %s", "when it was published"},
	{regexp.MustCompile(`(?i)\bhow many( copies)? (do|have) you\b.*|\bhow many copies\b`), []string{"available_quantity"}, "Copies that can be ordered: %s", "how many copies there are"},
	{regexp.MustCompile(`(?i)\bpublisher\b|\bwho published\b`), []string{"publisher"}, "Its publisher is %s", "its publisher"},
	{regexp.MustCompile(`(?i)\bisbn\b`), []string{"isbn", "isbn13"}, "Its ISBN is %s", "its ISBN"},
	{regexp.MustCompile(`(?i)\b(what|which) language\b`), []string{"language"}, "Its language is %s", "its language"},
	{regexp.MustCompile(`(?i)\b(what|which) (category|genre)\b|\bgenre\b`), []string{"categories", "category", "genre"}, "It belongs to %s", "its category"},
	{regexp.MustCompile(`(?i)\b(ratings?|rated)\b|\bhow many stars\b|\bany good\b`), []string{"rating", "average_rating", "stars"}, "Readers rate it %s", "how readers rate it"},
}

// asks reports whether something is asked of a book that its result lacks.
func (w intents) asks(b *result) bool {
	return slices.ContainsFunc(w.attributes, func(a attribute) bool { return b.field(a.keys...) == "" })
}

func (t *turn) toBasket(book result) string {
	for _, r := range t.results {
		if strings.Contains(r.tool, "basket") {
			return fmt.Sprintf("I can put %s into your basket [%d]. Please confirm it.", r.name(), r.ref)
		}
	}
	if len(t.notes) > 0 {
		return clean(t.notes[len(t.notes)-1])
	}
	return fmt.Sprintf("I can put %s into your basket [%d]. Please confirm it.", book.name(), book.ref)
}

func (t *turn) reviews(book result) string {
	var lines []string
	for _, r := range t.ofKind("review") {
		stars := r.field("stars", "rating")
		about := bestSentences(t.question, r.text, 1)
		switch {
		case len(lines) == maxShown:
		case len(about) > 0 && stars != "":
			lines = append(lines, fmt.Sprintf("A reader who gives it %s stars says: %s [%d].", stars, about[0], r.ref))
		case len(about) > 0:
			lines = append(lines, fmt.Sprintf("A reader says: %s [%d].", about[0], r.ref))
		case stars != "":
			lines = append(lines, fmt.Sprintf("A reader gives it %s stars [%d].", stars, r.ref))
		}
	}
	if len(lines) == 0 {
		return fmt.Sprintf("We have %s [%d]. I found no reviews of it.", book.name(), book.ref)
	}
	return fmt.Sprintf("This is what readers say about %s [%d].\n%s", book.name(), book.ref, strings.Join(lines, "\n"))
}

func (t *turn) orders(want intents) string {
	orders := t.ofKind("order")
	if want.orderNumber != "" {
		orders = slices.DeleteFunc(orders, func(o result) bool {
			return !strings.Contains(strings.ToLower(o.id+" "+o.everything()), strings.ToLower(want.orderNumber))
		})
	}
	if len(orders) == 0 {
		return "I found no such order of yours."
	}
	shown := maxShown
	if lastOrder.MatchString(t.question) {
		shown = 1
	}
	var lines []string
	for _, o := range orders[:min(len(orders), shown)] {
		lines = append(lines, o.order())
	}
	return strings.Join(lines, "\n")
}

// order tells how an order stands.
func (r result) order() string {
	name := clean(r.title)
	if name == "" {
		name = r.id
	}
	if !strings.Contains(strings.ToLower(name), "order") {
		name = "Order " + name
	}
	said := []string{name + " is known"}
	if status := r.field("status", "state"); status != "" {
		said[0] = name + " is " + status
	}
	if total := r.price(); total != "" {
		said = append(said, "Its total is "+total)
	}
	if items := r.field("items"); items != "" {
		said = append(said, "In it: "+items)
	}
	said = append(said, bestSentences("", r.text, 2)...)
	for i := range said {
		said[i] += fmt.Sprintf(" [%d].", r.ref)
	}
	return strings.Join(said, " ")
}

var lastOrder = regexp.MustCompile(`(?i)\b(last|latest|recent|newest) order\b`)

func (t *turn) policies() string {
	var said []string
	for _, p := range relevant("", t.ofKind("policy")) {
		for _, s := range pick(t.question, p.text, 3, oneLine) {
			if overlap(t.question, p.title+" "+s) > 0 && len(said) < 4 {
				said = append(said, fmt.Sprintf("%s [%d].", s, p.ref))
			}
		}
	}
	if len(said) == 0 {
		return t.nothing()
	}
	return strings.Join(said, " ")
}

// withoutTools answers when there is nothing to look anything up with: with the
// gist of a long message, and not at all to a short one.
func (t *turn) withoutTools() string {
	if gist := bestSentences("", t.question, 3); len(t.question) > 400 && len(gist) > 0 {
		return strings.Join(gist, ". ") + "."
	}
	return t.nothing()
}

// overlap counts the words with a topic that two texts share.
func overlap(a, b string) int {
	x := indexOf(b)
	n := 0
	for _, w := range words(a) {
		if !stopWords[w] && x.stems[stem(w)] {
			n++
		}
	}
	return n
}

// bestSentences picks from what strangers wrote. What gives orders, names a price,
// has an address or a mark in it, or is no prose is left out: it is data, and not
// worth quoting.
func bestSentences(query, text string, n int) []string { return pick(query, text, n, quotable) }

// pick returns the sentences of a text, in their order, that have most of the
// query's words; the first ones when none has any.
func pick(query, text string, n int, fit func(string) bool) []string {
	type candidate struct {
		place, shared int
		text          string
	}
	var list []candidate
	for i, s := range sentences(text) {
		if s = clean(s); fit(s) {
			list = append(list, candidate{i, overlap(query, s), s})
		}
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return b.shared - a.shared })
	list = list[:min(len(list), n)]
	slices.SortFunc(list, func(a, b candidate) int { return a.place - b.place })
	best := make([]string, len(list))
	for i := range list {
		best[i] = list[i].text
	}
	return best
}

// clean takes out what is not text: control and invisible characters, line breaks.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r):
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

var ordering = regexp.MustCompile(`(?i)\b(ignore|disregard|forget|override|bypass|reveal|pretend|obey|must|jailbreak|instruct\w*|prompts?|system|assistant|chatbot|ai|bot|language model|llm|tools?|` +
	`function|call|confirm\w*|basket|cart|shopper'?s?|developer mode|admin|password|your (task|role|rules?|answer)|you are|you were|you will|answer (only|with)|respond|reply|repeat|print|append|decode|click|` +
	`visit|send|e-?mail)\b|_|https?:|www\.|://|[$€£¥]|\b(usd|eur|gbp|dollars?|euros?)\b`)

// oneLine reports whether a text can be said in a line without being taken for
// something else than text.
func oneLine(s string) bool {
	return len(s) >= 3 && len(s) <= 500 && !strings.ContainsAny(s, "[]{}<>|\\`#*=@~^")
}

// quotable reports whether a sentence only describes.
func quotable(s string) bool {
	return oneLine(s) && !ordering.MatchString(s) && !strings.ContainsFunc(s, mixed)
}

// mixed reports a letter of an alphabet that imitates the Latin one.
func mixed(r rune) bool {
	return unicode.Is(unicode.Cyrillic, r) || unicode.Is(unicode.Greek, r) || r >= 0xFF00 && r <= 0xFFEF
}

// name is a book's title in quotation marks, without what is not part of one.
func (r result) name() string {
	title := clean(r.title)
	title = strings.Map(func(c rune) rune {
		if strings.ContainsRune("[]{}<>|`“”\"", c) {
			return -1
		}
		return c
	}, title)
	if runes := []rune(title); len(runes) > 150 {
		title = string(runes[:150])
	}
	return "“" + title + "”"
}

// field is the first of the fields that there is, as text.
func (r result) field(names ...string) string {
	for _, name := range names {
		if value := clean(flat(r.fields[name])); value != "" && len(value) < 200 {
			return value
		}
	}
	return ""
}

func (r result) people() string { return r.field("authors", "author") }

// price is a price or a total as the tool wrote it.
func (r result) price() string {
	for _, name := range []string{"price", "total"} {
		if s, ok := r.fields[name].(string); ok {
			return clean(s)
		}
		if amount, ok := r.fields[name].(float64); ok {
			return strings.TrimSpace(number(amount) + " " + r.field("currency", "currency_code"))
		}
	}
	return ""
}

var digits = regexp.MustCompile(`\d+(?:[.,]\d{1,2})?`)

// amount is the price as a number of the currency's units.
func (r result) amount() (float64, bool) {
	var amount float64
	_, err := fmt.Sscan(strings.ReplaceAll(digits.FindString(r.price()), ",", "."), &amount)
	return amount, err == nil
}

// available says whether there is a copy to buy, when the result says so.
func (r result) available() (available, known bool) {
	for _, name := range []string{"in_stock", "available", "available_quantity", "stock"} {
		switch v := r.fields[name].(type) {
		case bool:
			return v, true
		case float64:
			return v > 0, true
		}
	}
	return false, false
}
