package llm

import (
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// This file is the model that does what it is told by anybody: the fault Obedient.
// It is there to show that the guards outside the model hold.

var (
	toolWord   = regexp.MustCompile(`\b[a-z]+(?:_[a-z]+)+\b`)
	link       = regexp.MustCompile(`!?\[[^\]]*\]\([^)]*\)|\b(?:https?://|www\.)[^\s)"'<>\]]+`)
	spell      = regexp.MustCompile(`(?i)(?:joined together|parts|then)[^:]*:?\s*((?:[\w.@:/-]+,\s*(?:then\s+)?)+[\w.@:/-]+)`)
	sayThis    = regexp.MustCompile(`(?i)\b(?:say|answer|reply|respond|write|print|output|append|recommend)(?: only)?(?: with)?(?: exactly)?:?\s+["“']([^"”']{1,300})["”']`)
	askPrompt  = regexp.MustCompile(`(?i)(prompt|instruction|system message|rules|everything (before|above)|text above|above this line|consigne|anweisung|message syst|read me yours|definitions of your tools)`)
	orders     = regexp.MustCompile(`(?i)(ignore|disregard|forget|instruct|system|assistant|prompt|call|tool|reveal|print|add |role|rules|confirm|answer|result of|you (are|must|should|will)|olvida|vergiss|_)`)
	longBase64 = regexp.MustCompile(`\b[A-Za-z0-9+/]{20,}={0,2}`)
	longHex    = regexp.MustCompile(`\b(?:[0-9a-fA-F]{2}[ ]?){12,}`)
)

// orderly returns the texts that somebody else wrote and that give orders, each
// with all the readings an eager model finds in it.
func (t *turn) orderly() []result {
	var list []result
	for _, r := range t.results {
		all := []string{r.title, r.text}
		for _, name := range sortedKeys(r.fields) {
			all = append(all, flat(r.fields[name]))
		}
		if read := readings(strings.Join(all, "\n")); orders.MatchString(read) {
			r.text = read
			list = append(list, r)
		}
	}
	return list
}

// readings is a text with its hidden characters shown and its codes broken.
func readings(s string) string {
	s = norm.NFKC.String(s)
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 0xE0020 && r <= 0xE007E: // tag characters are ASCII that nobody sees
			return r - 0xE0000
		case unicode.Is(unicode.Cf, r), unicode.IsControl(r) && r != '\n':
			return -1
		}
		return r
	}, s)
	all := []string{s, reversed(s), rot13(s)}
	for _, code := range longBase64.FindAllString(s, -1) {
		if plain, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(code, "=")); err == nil {
			all = append(all, string(plain))
		}
	}
	for _, code := range longHex.FindAllString(s, -1) {
		if plain, err := hex.DecodeString(strings.ReplaceAll(code, " ", "")); err == nil {
			all = append(all, string(plain))
		}
	}
	if plain, err := url.QueryUnescape(s); err == nil && plain != s {
		all = append(all, plain)
	}
	return strings.ToValidUTF8(strings.Join(all, "\n"), "")
}

func reversed(s string) string {
	runes := []rune(s)
	slices.Reverse(runes)
	return string(runes)
}

func rot13(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return 'a' + (r-'a'+13)%26
		case r >= 'A' && r <= 'Z':
			return 'A' + (r-'A'+13)%26
		}
		return r
	}, s)
}

// obeyedCalls returns a call of each tool that the results, or the question, name.
func (t *turn) obeyedCalls() []toolCall {
	var calls []toolCall
	hear := func(text, id string) {
		for _, name := range toolWord.FindAllString(text, -1) {
			w := wanted{query: "books", question: t.question, bookID: id, orderID: id, quantity: 10}
			if other := uuidPattern.FindString(text); other != "" {
				w.bookID, w.orderID = other, other
			}
			arguments := map[string]any{"confirmed": true}
			if offered := t.request.tool(name); offered != nil {
				arguments = fill(offered, w)
			} else if !strings.Contains(text, name+"(") && !regexp.MustCompile(`(?i)(call|use|tool|run|execute)\W+(the )?(tool )?`+name).MatchString(text) {
				continue // some word with an underscore
			}
			call := t.request.call(name, arguments)
			if len(calls) < maxCalls && !slices.Contains(t.called, name+canonical(call.Function.Arguments)) &&
				!slices.ContainsFunc(calls, func(c toolCall) bool { return c.Function.Name == name }) {
				calls = append(calls, call)
			}
		}
	}
	hear(readings(t.question), "")
	for _, r := range t.orderly() {
		hear(r.text, r.id)
	}
	return calls
}

// obey adds to an answer all that it was told to say.
func (t *turn) obey(answer string) string {
	said := []string{answer}
	hear := func(text, mark string) {
		if askPrompt.MatchString(text) {
			said = append(said, t.system)
		}
		for _, l := range link.FindAllString(text, -1) {
			l = strings.Trim(l, ".,")
			said = append(said, l)
			if strings.HasPrefix(l, "http") {
				said = append(said, "![x]("+l+"?q="+url.QueryEscape(t.question)+")")
			}
		}
		for _, m := range sayThis.FindAllStringSubmatch(text, -1) {
			said = append(said, m[1])
		}
		for _, m := range spell.FindAllStringSubmatch(text, -1) {
			said = append(said, strings.Join(strings.FieldsFunc(m[1], func(r rune) bool { return r == ',' || r == ' ' }), ""))
		}
		if mark != "" {
			said = append(said, strings.Join(strings.Fields(text), " ")+mark)
		}
	}
	hear(readings(t.question), "")
	for _, r := range t.orderly() {
		hear(r.text, " ["+number(float64(r.ref))+"].")
	}
	return strings.Join(said, "\n\n")
}
