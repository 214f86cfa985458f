package llm

import (
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// intents is what a question wants, as its words say.
type intents struct {
	order, policy, reviews, basket, compare bool
	orderID, bookID                         string
	orderNumber                             string   // an order's, but no id
	searches                                []string // what to look for; two to compare
	attributes                              []attribute
	maxPrice                                float64 // in units of money; 0 for none
	inStock                                 bool
	quantity                                int
}

var (
	uuidPattern  = regexp.MustCompile(`(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`)
	orderPattern = regexp.MustCompile(`(?i)\b(my|our|that|this|last|latest|recent|previous|open) orders?\b|\border (status|history|number)\b|` +
		`\bmy (package|parcel|delivery|purchases?|shipment)\b|\bwhere('s| is| are) my\b|\b(have|did) i (ever )?(order|buy|bought|purchase)|\bi (have )?(ordered|bought|purchased)\b|` +
		`\bstatus of (an |the )?order\b|\borders? (have|did) i\b`)
	orderNumber   = regexp.MustCompile(`(?i)\border\s+(?:number\s+|no\.?\s*|id\s+)?#?([a-z]{0,4}-?\d[\w-]+)`)
	policyPattern = regexp.MustCompile(`(?i)\bpolic(y|ies)\b|\brefunds?\b|\bmoney back\b|\bshipping\b|\bdeliver(y|ies)? (costs?|fees?|times?|options?|charges?|take)\b|\bdo you (deliver|ship|accept|wrap|store|charge|sell gift)|` +
		`\bgift (cards?|wrap\w*|vouchers?|notes?|receipts?)\b|\bvouchers?\b|\bcoupons?\b|\bdiscounts?\b|\b(my|personal) data\b|\bprivacy\b|\bpayment methods?\b|\bpay (with|by|in|using)\b|\bpaypal\b|` +
		`\bcredit cards?\b|\bopening hours\b|\bcustomer service\b|\bcontact (you|us|support|somebody|someone|a person)\b|\bdamaged\b|\b(return|exchange|send back|cancel)(ing|s)? (a|an|any|my|the|this|these|it|them|books?|items?|orders?|something)\b|` +
		`\bsend (it|them|books?|a book) back\b|\breturns\b|\bsales tax\b|\b(write|edit|delete|post) (a |my )?reviews?\b|\bhow do i (pay|order|check out)\b|\bship (to|abroad|internationally)\b`)
	// topicPattern: the words of a policy may be the subject of a book.
	topicPattern  = regexp.MustCompile(`(?i)\b(books?|novels?|stories|titles?|guides?|something|anything|read)\s+(about|on|dealing|concerning)\b|\brecommend|\bcalled\b|\bby [A-Z]`)
	reviewPattern = regexp.MustCompile(`(?i)\breviews?\b|\b(readers?|people|others|customers?) (think|say|write|like)\b|\bwell (rated|received)\b|\bopinions?\b`)
	basketPattern = regexp.MustCompile(`(?i)\b(add|put|place|drop)\b.*\b(basket|cart|bag)\b|\b(i'?ll take|i will take|i want to buy|i'?d like to (buy|order)|i would like to (buy|order)|let me buy|buy me|order me)\b`)
	greetingOnly  = regexp.MustCompile(`(?i)^\W*(hi|hello|hey|good (morning|evening|afternoon)|thanks?( you)?( very much| a lot| so much)?|thank you|bye|goodbye|ok(ay)?|great|perfect)[\s,.!]*(there|bookseller)?\W*$`)
	pricePattern  = regexp.MustCompile(`(?i)\b(?:under|below|less than|cheaper than|at most|up to|no more than|maximum|max|within)\s*(?:of\s*)?[$€£]?\s*(\d+(?:\.\d{1,2})?)\s*(?:dollars|usd|euros?|eur|\$|€|£)?`)
	stockPattern  = regexp.MustCompile(`(?i)\bin stock\b|\bavailable (now|right now|today)\b`)
	countPattern  = regexp.MustCompile(`(?i)\b(\d{1,2}|two|three|four|five|six)\s+(copies|times|x)\b|\b(?:add|buy|take|put|order)\s+(\d{1,2}|two|three|four|five|six)\b`)
	comparisons   = []*regexp.Regexp{
		regexp.MustCompile(`(?i)\bcompare\s+(.+?)\s+(?:and|with|to|against|&)\s+(.+)`),
		regexp.MustCompile(`(?i)\bdifferences?\s+between\s+(.+?)\s+and\s+(.+)`),
		regexp.MustCompile(`(?i)^(.+?)\s+(?:vs\.?|versus)\s+(.+)`),
		regexp.MustCompile(`(?i)\b(?:which|what)\b.*\b(?:better|longer|shorter|cheaper|newer|older)\b[,:]?\s*(.+?)\s+or\s+(.+)`),
	}
	isbnPattern = regexp.MustCompile(`\b97[89](?:[ -]?\d){10}\b`)
	numberWords = map[string]int{"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
)

// intentsOf reads a question. before is what was said last: "it" and "the second
// one" point there.
func intentsOf(question, before string) intents {
	var w intents
	if greetingOnly.MatchString(question) {
		return w
	}
	w.basket = basketPattern.MatchString(question)
	w.policy = policyPattern.MatchString(question) && (!topicPattern.MatchString(question) || strings.Contains(strings.ToLower(question), "polic"))
	w.order = !w.basket && orderPattern.MatchString(question) && !strings.Contains(strings.ToLower(question), "cancel")
	if id := uuidPattern.FindString(question); id != "" {
		if strings.Contains(strings.ToLower(question), "order") && !w.basket {
			w.order, w.orderID = true, strings.ToLower(id)
		} else {
			w.bookID = strings.ToLower(id)
		}
	} else if number := orderNumber.FindStringSubmatch(question); number != nil && !w.basket {
		w.order, w.orderNumber = true, number[1]
	}
	w.reviews = !w.policy && reviewPattern.MatchString(question)
	w.inStock = stockPattern.MatchString(question)
	w.quantity = count(question)
	if m := pricePattern.FindStringSubmatch(question); m != nil {
		w.maxPrice, _ = strconv.ParseFloat(m[1], 64) // the pattern takes only numbers
	}
	for _, a := range attributes {
		if a.asked.MatchString(question) {
			w.attributes = append(w.attributes, a)
		}
	}
	if w.order || w.policy || w.bookID != "" {
		return w
	}
	if isbn := isbnPattern.FindString(question); isbn != "" {
		w.searches = []string{strings.NewReplacer("-", "", " ", "").Replace(isbn)}
		return w
	}
	for _, a := range w.attributes { // what is asked of the book is not what it is about
		question = a.asked.ReplaceAllString(question, " ")
	}
	w.searches, w.compare = searches(question, before)
	return w
}

func count(question string) int {
	m := countPattern.FindStringSubmatch(question)
	if m == nil {
		return 1
	}
	word := strings.ToLower(m[1] + m[3])
	if n, ok := numberWords[word]; ok {
		return n
	}
	n, err := strconv.Atoi(word)
	if err != nil || n < 1 {
		return 1
	}
	return n
}

// searches returns what to search for: one subject, or the two of a comparison.
// Where it cannot be told which "and" stands between the two, it is both at once.
func searches(question, before string) (list []string, compare bool) {
	question = strings.TrimSpace(question)
	for _, pattern := range comparisons {
		m := pattern.FindStringSubmatch(question)
		if m == nil {
			continue
		}
		left, right := subject(m[1]), subject(m[2])
		switch {
		case left == "" || right == "":
		case strings.Contains(" "+right, " and ") || strings.Contains(left, " and "):
			return []string{left + " and " + right}, true
		default:
			return []string{left, right}, true
		}
	}
	if said := pointedAt(question, before); said != "" {
		return []string{said}, false
	}
	if s := subject(question); s != "" {
		return []string{s}, false
	}
	return nil, false
}

var (
	pointing = regexp.MustCompile(`(?i)\b(it|that one|this one|that book|this book|the (first|second|third|last)( one| book)?|them|its)\b`)
	quoted   = regexp.MustCompile(`“([^”]+)”|"([^"]+)"`)
)

// pointedAt is the title that a question without a subject of its own means.
func pointedAt(question, before string) string {
	m := pointing.FindStringSubmatch(question)
	if m == nil || before == "" || len(topics(pointing.ReplaceAllString(question, ""))) > 0 {
		return ""
	}
	titles := titlesIn(before)
	if len(titles) == 0 {
		return ""
	}
	switch strings.ToLower(m[2]) {
	case "second":
		return titles[min(1, len(titles)-1)]
	case "third":
		return titles[min(2, len(titles)-1)]
	case "last":
		return titles[len(titles)-1]
	}
	return titles[0]
}

// titlesIn returns the quoted titles in a text, each once.
func titlesIn(text string) []string {
	var titles []string
	for _, m := range quoted.FindAllStringSubmatch(text, -1) {
		if title := m[1] + m[2]; !slices.Contains(titles, title) {
			titles = append(titles, title)
		}
	}
	return titles
}

var (
	leadIn = regexp.MustCompile(`(?i)^(?:\W|\b(?:hi|hello|hey|thanks|thank you|please|kindly|can|could|would|will|do|does|did|have|has|is|are|may|you|we|i|i'?m|am|i'?d|me|us|we|there|` +
		`looking|look|search|searching|find|show|tell|give|recommend|suggest|want|wants|need|like|likes|love|loves|loved|know|got|get|sell|carry|stock|have|offer|buy|read|reading|add|put|place|order|take|` +
		`to|for|up|out|about|of|on|with|by|what|whats|what's|which|who|how|much|many|more|any|some|a|an|the book|the novel|a book|books?|novels?|titles?|stor(?:y|ies)|called|titled|named|something|anything|someone|` +
		`that|are|is|in|your|copy|copies|good|great|nice|reviews?|readers|people|think|say|price|cost|costs|does|one|two|three|\d{1,2}|explain|describe|was|were|edition|difference|between|compare|wrote|written|author|cheap|cheapest|best)\b)+`)
	tail = regexp.MustCompile(`(?i)[\s,]*(?:\b(?:to|in|into|onto) (?:my|the) (?:shopping )?(?:basket|cart|bag)|\bplease|\bfor me|\bin stock|\bfrom you|\bif you have it|\bright now|\bnow|\btoday|\bcosts?|\babout|\b(?:do|have) you (?:have|got|sell|stock|carry)|\band (?:what|how much|is it|does it)\b.*|\bis it\b.*|\bare (?:there|left)|\bavailable|[?!.,;:])+\s*$`)
)

// subject is what a question is about, in its own words: without the courtesies
// around it, the limits of price and what is asked of it.
func subject(question string) string {
	if m := quoted.FindStringSubmatch(question); m != nil {
		return clean(m[1] + m[2])
	}
	question = pricePattern.ReplaceAllString(clean(question), " ")
	var parts []string
	for _, sentence := range sentences(question) {
		if len(topics(sentence)) > 0 {
			parts = append(parts, sentence)
		}
	}
	joined := strings.Join(parts, ". ")
	for range 3 { // one strip may lay the next open
		stripped := tail.ReplaceAllString(leadIn.ReplaceAllString(joined, ""), "")
		if len(topics(stripped)) < len(topics(joined)) { // nothing with a meaning is stripped
			break
		}
		joined = stripped
	}
	return strings.TrimSpace(joined)
}

// topics returns the words of a text that carry its topic.
func topics(text string) []string {
	var list []string
	for _, w := range words(text) {
		if topical(w) {
			list = append(list, w)
		}
	}
	return list
}

// wanted is what a call is to say, for the parameters of the tool to take from.
type wanted struct {
	query, question, bookID, orderID string
	maxPrice                         float64
	inStock                          bool
	quantity                         int
}

// parameter is what a JSON schema says of one property.
type parameter struct {
	Type        any    `json:"type"`
	Description string `json:"description"`
	Enum        []any  `json:"enum"`
	Minimum     *int   `json:"minimum"`
	MaxLength   *int   `json:"maxLength"`
}

// fill writes the arguments of a call: what is known and has a parameter, and
// something for each other parameter that is required.
func fill(t *tool, w wanted) map[string]any {
	var schema struct {
		Properties map[string]parameter `json:"properties"`
		Required   []string             `json:"required"`
	}
	arguments := map[string]any{}
	if json.Unmarshal(t.Function.Parameters, &schema) != nil {
		return arguments
	}
	for name, p := range schema.Properties {
		value := w.value(strings.ToLower(name), p)
		if value == nil && slices.Contains(schema.Required, name) {
			value = p.anything(w)
		}
		if s, ok := value.(string); ok && p.MaxLength != nil {
			runes := []rune(s)
			value = string(runes[:min(len(runes), *p.MaxLength)])
		}
		if value != nil {
			arguments[name] = value
		}
	}
	return arguments
}

// value is what is known for a parameter of that name; nil for nothing.
func (w wanted) value(name string, p parameter) any {
	minor := minorUnits.MatchString(name + " " + p.Description)
	switch {
	case len(p.Enum) > 0:
		return closest(w.question, p.Enum)
	case name == "query" || name == "q" || name == "text" || name == "keywords" || name == "search":
		return orNil(w.query)
	case name == "topic" || name == "policy" || name == "name" || name == "section" || name == "question":
		return orNil(w.question)
	case name == "order_id" || name == "order" || name == "number" || name == "order_number" || name == "id" && w.orderID != "":
		return orNil(w.orderID)
	case name == "book_id" || name == "book" || name == "id":
		return orNil(w.bookID)
	case name == "quantity" || name == "copies":
		if w.quantity > 0 {
			return w.quantity
		}
	case strings.HasPrefix(name, "max_price") || strings.HasPrefix(name, "price_max"):
		switch {
		case w.maxPrice == 0:
		case p.Type == "string":
			return strconv.FormatFloat(w.maxPrice, 'f', 2, 64)
		case minor:
			return int64(math.Round(w.maxPrice * 100))
		case p.Type == "number":
			return w.maxPrice
		case p.Type == "integer":
			return int64(math.Ceil(w.maxPrice))
		}
	case strings.HasPrefix(name, "in_stock") || name == "available":
		if w.inStock {
			return true
		}
	}
	return nil
}

var minorUnits = regexp.MustCompile(`minor|cents`)

func orNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// anything is a value of the parameter's type.
func (p parameter) anything(w wanted) any {
	switch p.Type {
	case "integer", "number":
		if p.Minimum != nil {
			return *p.Minimum
		}
		return 1
	case "boolean":
		return false
	case "array":
		return []any{}
	case "object":
		return map[string]any{}
	}
	if w.query != "" {
		return w.query
	}
	return w.question
}

// closest is the value whose words the question has most of; nil when it has none.
func closest(question string, values []any) any {
	asked := map[string]bool{}
	for _, word := range words(question) {
		asked[stem(word)] = true
	}
	var best any
	most := 0
	for _, value := range values {
		n := 0
		for _, word := range words(text(value)) {
			if !stopWords[word] && asked[stem(word)] {
				n++
			}
		}
		if n > most {
			best, most = value, n
		}
	}
	return best
}
