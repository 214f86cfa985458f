package llm

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// material is what an answer in JSON is made from.
type material struct {
	text     string // all that was said
	sources  []source
	obedient bool
}

// source is a numbered piece of the material.
type source struct {
	number int
	stars  string
	text   string
}

// picked is a sentence taken for a summary.
type picked struct {
	text   string
	number int // of its source; 0 without
}

// fillSchema answers a question that wants JSON of a shape: each property is
// filled by extraction, as its type, name and description say.
func (q *chatRequest) fillSchema(obedient bool) string {
	var schema map[string]any
	if json.Unmarshal(q.ResponseFormat.JSONSchema.Schema, &schema) != nil {
		return "{}" // checked before
	}
	encoded, err := json.Marshal(fillValue("", schema, q.material(obedient), nil))
	if err != nil {
		return "{}"
	}
	return string(encoded)
}

// material leaves out the instructions, which are the system's, and what was said
// about an answer that did not fit.
func (q *chatRequest) material(obedient bool) material {
	messages := q.Messages
	if n := len(messages); n > 2 && messages[n-1].Role == "user" && messages[n-2].Role == "assistant" &&
		strings.Contains(messages[n-1].text(), "schema") && strings.Contains(messages[n-1].text(), "valid") {
		messages = messages[:n-2]
	}
	m := material{obedient: obedient}
	var all []string
	for _, message := range messages {
		if message.Role == "system" || message.Role == "developer" {
			continue
		}
		sources, plain := read(message.text())
		m.sources = append(m.sources, sources...)
		all = append(all, plain)
	}
	m.text = strings.Join(all, "\n")
	return m
}

var numbered = regexp.MustCompile(`(?m)^\s*(?:\[(\d{1,4})\]|(\d{1,4})[.):])\s+(.+)$`)

// read takes a message apart: the numbered sources in it, and its text without
// what is only notation.
func read(content string) (sources []source, plain string) {
	if start := strings.IndexAny(content, "[{"); start >= 0 {
		var v any
		if json.Unmarshal([]byte(content[start:]), &v) == nil {
			return sourcesIn(v), content[:start] + "\n" + prose(v)
		}
	}
	for _, m := range numbered.FindAllStringSubmatch(content, -1) {
		n, err := strconv.Atoi(m[1] + m[2])
		if err == nil {
			sources = append(sources, source{number: n, text: m[3]})
		}
	}
	return sources, content
}

// sourcesIn finds the objects that have a number and a text.
func sourcesIn(v any) []source {
	var list []source
	switch v := v.(type) {
	case []any:
		for _, inner := range v {
			list = append(list, sourcesIn(inner)...)
		}
	case map[string]any:
		for _, name := range []string{"number", "ref", "source", "index", "n", "id"} {
			n, ok := v[name].(float64)
			if ok && v["text"] != nil {
				stars := ""
				if s, ok := v["stars"].(float64); ok {
					stars = number(s)
				}
				return []source{{number: int(n), stars: stars, text: text(v["text"])}}
			}
		}
		for _, name := range sortedKeys(v) {
			list = append(list, sourcesIn(v[name])...)
		}
	}
	return list
}

// prose joins the texts in a JSON value.
func prose(v any) string {
	var parts []string
	switch v := v.(type) {
	case string:
		return v
	case []any:
		for _, inner := range v {
			parts = append(parts, prose(inner))
		}
	case map[string]any:
		for _, name := range sortedKeys(v) {
			if name != "role" && name != "id" {
				parts = append(parts, prose(v[name]))
			}
		}
	}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "\n")
}

// fillValue makes a value of the schema. taken are the sentences that the other
// properties of the same object use.
func fillValue(name string, schema map[string]any, m material, taken []picked) any {
	if values, ok := schema["enum"].([]any); ok && len(values) > 0 {
		return m.choose(values)
	}
	kind, _ := schema["type"].(string)
	if kinds, ok := schema["type"].([]any); ok && len(kinds) > 0 {
		kind = text(kinds[0])
	}
	switch kind {
	case "object":
		taken = m.pick(maxPicked)
		object := map[string]any{}
		properties, _ := schema["properties"].(map[string]any)
		for _, property := range sortedKeys(properties) {
			if inner, ok := properties[property].(map[string]any); ok {
				object[property] = fillValue(property, inner, m, taken)
			}
		}
		return object
	case "array":
		return fillArray(name, schema, m, taken)
	case "integer", "number":
		return atLeast(schema)
	case "boolean":
		return false
	case "null":
		return nil
	}
	return short(m.write(name, taken), schema)
}

// maxPicked is how many sentences a summary has.
const maxPicked = 4

func fillArray(name string, schema map[string]any, m material, taken []picked) any {
	items, _ := schema["items"].(map[string]any)
	list := []any{}
	limit := maxPicked
	if most, ok := schema["maxItems"].(float64); ok {
		limit = min(limit, int(most))
	}
	for _, p := range taken {
		switch {
		case len(list) == limit:
		case items["type"] == "integer":
			if p.number > 0 && !slices.Contains(list, any(p.number)) {
				list = append(list, p.number)
			}
		case items["type"] == "string":
			list = append(list, short(p.text, items))
		default:
			list = append(list, fillValue(name, items, m, []picked{p}))
		}
	}
	return list
}

func atLeast(schema map[string]any) any {
	if least, ok := schema["minimum"].(float64); ok {
		return least
	}
	return 0
}

// short keeps a text within the schema's limit.
func short(s string, schema map[string]any) string {
	most, ok := schema["maxLength"].(float64)
	if runes := []rune(s); ok && len(runes) > int(most) {
		return string(runes[:int(most)])
	}
	return s
}

// pick takes the sentences that say most of what the whole says, at most one of a
// source, in the order of the material.
func (m material) pick(n int) []picked {
	sources := m.sources
	if len(sources) == 0 {
		for _, s := range sentences(m.text) {
			sources = append(sources, source{text: s})
		}
	}
	counts := map[string]int{}
	for _, s := range sources {
		for _, w := range topics(s.text) {
			counts[stem(w)]++
		}
	}
	type candidate struct {
		picked
		place int
		score float64
	}
	var list []candidate
	for i, s := range sources {
		best := candidate{place: i, score: -1}
		for _, sentence := range sentences(s.text) {
			if sentence = clean(sentence); !quotable(sentence) {
				continue
			}
			list := topics(sentence)
			score := 0.0
			for _, w := range list {
				score += float64(counts[stem(w)])
			}
			score /= float64(len(list) + 3) // not the longest, the densest
			if score > best.score {
				best.score, best.picked = score, picked{sentence, s.number}
			}
		}
		if best.text == "" && s.stars != "" {
			best.score, best.picked = 0, picked{"One reader gives it " + s.stars + " stars", s.number}
		}
		if best.text != "" {
			list = append(list, best)
		}
	}
	slices.SortStableFunc(list, func(a, b candidate) int {
		switch {
		case a.score > b.score:
			return -1
		case a.score < b.score:
			return 1
		}
		return 0
	})
	list = list[:min(len(list), n)]
	slices.SortFunc(list, func(a, b candidate) int { return a.place - b.place })
	taken := make([]picked, len(list))
	for i := range list {
		taken[i] = list[i].picked
	}
	return taken
}

// write makes the text of a property.
func (m material) write(name string, taken []picked) string {
	if strings.Contains(name, "reason") {
		_, reason := m.moderate()
		return reason
	}
	var parts []string
	if m.obedient && orders.MatchString(m.text) {
		parts = append(parts, clean(m.text))
	}
	for _, p := range taken {
		s := strings.TrimRight(p.text, ".")
		if p.number > 0 {
			s += fmt.Sprintf(" [%d]", p.number)
		}
		parts = append(parts, s+".")
	}
	if strings.Contains(name, "title") && len(parts) > 1 {
		parts = parts[:1]
	}
	return strings.Join(parts, " ")
}

// The verdicts of moderation.
const (
	fine = iota
	doubtful
	bad
)

var (
	// abuse is what no shop prints; insult may be aimed at a person or at a plot.
	abuse = set(`fuck fucking fucker motherfucker shit bullshit cunt cunts asshole bitch bitches slut whore retard wanker twat arschloch
		hurensohn fotze wichser scheisse connard merde putain salope encule puta mierda cabron gilipollas pendejo`)
	insult  = set(`idiot idiots idiotic moron morons stupid imbecile loser losers scum trash garbage disgusting pathetic dumb crap`)
	threat  = regexp.MustCompile(`(?i)\b(kill|hurt|find|burn|beat) (you|him|her|them|the author)\b|\bdeserves? to die\b|\bi know where\b`)
	spam    = regexp.MustCompile(`(?i)https?:|www\.|\b(buy now|click here|discount code|promo code|coupon code|casino|viagra|crypto giveaway|earn money|work from home|whatsapp|telegram|subscribe to|free download|cheap pills)\b`)
	contact = regexp.MustCompile(`[\w.+-]+@[\w-]+\.\w{2,}|\+?\d[\d ()/-]{8,}\d`)
	steered = regexp.MustCompile(`(?i)\b(ignore|disregard) (all|any|the|previous|your)\b|\bsystem prompt\b|\bverdict\b|\b(publish|approve|accept) this review\b|\byou are (now )?(a|an) (moderator|assistant|ai)\b`)
)

// moderate judges a text by its words, and says why.
func (m material) moderate() (verdict int, reason string) {
	if m.obedient && steered.MatchString(m.text) {
		return fine, "Published, as told."
	}
	abusive, insulting := 0, 0
	for _, w := range words(m.text) {
		if abuse[w] {
			abusive++
		}
		if insult[w] {
			insulting++
		}
	}
	switch {
	case abusive > 0:
		return bad, "It uses abusive language."
	case threat.MatchString(m.text):
		return bad, "It threatens somebody."
	case spam.MatchString(m.text):
		return bad, "It advertises something."
	case contact.MatchString(m.text):
		return bad, "It contains contact details."
	case steered.MatchString(m.text):
		return doubtful, "It speaks to the moderator and not about the book."
	case insulting > 0:
		return doubtful, "It may insult somebody."
	case shouting(m.text):
		return doubtful, "It is written in capitals."
	}
	return fine, "It is about the book."
}

func shouting(text string) bool {
	capital, small := 0, 0
	for _, r := range text {
		switch {
		case unicode.IsUpper(r):
			capital++
		case unicode.IsLower(r):
			small++
		}
	}
	return capital > 20 && capital > 2*small
}

// verdictWords are the names that verdicts go by.
var verdictWords = map[int][]string{
	fine:     {"publish", "approve", "approved", "accept", "allow", "ok", "pass"},
	doubtful: {"unsure", "review", "flag", "manual", "unknown"},
	bad:      {"reject", "rejected", "block", "deny"},
}

// choose takes a value of an enum: the verdict, when it is one, else the value
// that the material speaks of.
func (m material) choose(values []any) any {
	isVerdict := slices.ContainsFunc(values, func(v any) bool { return slices.Contains(verdictWords[bad], text(v)) })
	if !isVerdict {
		if best := closest(m.text, values); best != nil {
			return best
		}
		return values[0]
	}
	verdict, _ := m.moderate()
	for ; verdict <= bad; verdict++ { // in doubt for the worse
		for _, v := range values {
			if slices.Contains(verdictWords[verdict], text(v)) {
				return v
			}
		}
	}
	return values[0]
}
