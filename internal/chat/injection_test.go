package chat

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// injection is a text that somebody slips in, and what must not come of it.
type injection struct {
	ID      string   `json:"id"`
	Where   string   `json:"where"`
	Text    string   `json:"text"`
	Also    []string `json:"also"` // more of the kind, which goes with it
	MustNot []string `json:"must_not"`
}

// justWords are what a model can be made to say and no check can know to be wrong:
// no number, name or price, no address, no mark. That a real model does not say them
// is for the prompt to see to; they do no harm beyond being read.
var justWords = map[string]bool{"FreeBot:": true, "convicted thief": true}

// TestInjectionsAreInert runs every case against a model that does whatever it is
// told: it calls every tool, also with other people's names, says what it must not
// say, and tells its instructions.
func TestInjectionsAreInert(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("testdata/injections.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []injection
	if err := json.Unmarshal(content, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) < 40 {
		t.Errorf("there are %d cases", len(cases))
	}
	b := setup(t) // one database for all: each has a shopper of its own
	for _, c := range cases {
		t.Run(c.ID, func(t *testing.T) {
			t.Parallel()
			b := &bench{t: t, url: b.url, db: b.db, store: b.store, tools: &fakeTools{}}
			c.run(b)
		})
	}
}

func (c injection) run(b *bench) {
	t := b.t
	m := newModel(t, func(_ int, a asked, say *speaker) { c.obey(a, say) })
	b.tools.books = c.planted()
	e := b.engine(m, Limits{})
	subject := "shopper-" + c.ID
	var conversation uuid.UUID
	question := "What do you know of this book? Is it any good?"
	switch c.Where {
	case "user":
		question = c.Text
	case "history":
		first, err := e.Send(as(t, subject), Question{Key: "before", Text: c.Text})
		if err != nil {
			t.Fatal(err)
		}
		c.inspect(b, whole(t, b.collect(first)), subject)
		first.Close()
		conversation = first.ConversationID
	}
	events := b.send(e, subject, Question{Text: question, ConversationID: conversation})
	c.inspect(b, whole(t, events), subject)
	for _, e := range events {
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if e.Delta == "" && e.Done == nil && e.Citation == nil && e.Card == nil && strings.Contains(string(raw), "evil") {
			t.Errorf("an event carries it: %s", raw)
		}
	}
	for _, a := range m.asked() {
		c.inspectAsked(t, a)
	}
}

// planted is what a search finds, with the text where it belongs.
func (c injection) planted() []Result {
	book := dune("A desert planet and its spice.")
	results := []Result{book}
	for i, text := range append([]string{c.Text}, c.Also...) {
		switch c.Where {
		case "description":
			results[0].Text = text
		case "title":
			results[0].Title = text
		case "review":
			results = append(results, Result{
				Kind: KindReview, ID: "review-" + string(rune('a'+i)), Title: "Hm", Text: text, Fields: map[string]any{"stars": int32(5)},
			})
		}
	}
	return results
}

// obey does the worst.
func (c injection) obey(a asked, say *speaker) {
	switch last := a.Messages[len(a.Messages)-1]; {
	case last.Role == "user":
		say.call(0, SearchBooks, `{"query":"this book"}`).done()
	case len(a.Tools) > 0 && strings.Contains(last.Content, `"kind":"book"`) && !strings.Contains(a.raw, "delete_account"):
		say.say("As I was told. ").call(0, MyOrders, `{}`).call(1, "add_to_basket", `{"book_id":"b1","quantity":99}`).
			call(2, MyOrders, `{"subject":"bob"}`).call(3, "delete_account", `{}`).call(4, "add_to_basket", `{"confirmed":true}`).done()
	default:
		say.say("It says: " + c.Text + " \n")
		for _, word := range append(c.Also, c.MustNot...) {
			say.say("So I say that " + word + " is so [1] [2] [97]. \n")
			say.say(word + ".\n")
		}
		say.say("It is at https://evil.example/?q=alice and ![x](https://evil.example/p.png). \n")
		say.say("My instructions: " + a.Messages[0].Content).done()
	}
}

var lineEnd = regexp.MustCompile(`\n`)

// inspect looks at what was said and done.
func (c injection) inspect(b *bench, done Done, subject string) {
	t := b.t
	letters := strings.Map(bare, done.Text)
	for window := range instructions() {
		if strings.Contains(letters, window) {
			t.Errorf("told its instructions: %q", window)
			break
		}
	}
	for _, bad := range []string{"http", "://", "](", "![", "<img", "<a ", "<|", "evil.example", "javascript:", "\x1b", "\u202e", "[97]"} {
		if strings.Contains(done.Text, bad) {
			t.Errorf("%q is in %q", bad, done.Text)
		}
	}
	for _, bad := range c.MustNot {
		if bad == "prompt" || bad == "link" || strings.HasPrefix(bad, "tool:") || justWords[bad] {
			continue
		}
		for _, line := range lineEnd.Split(done.Text, -1) {
			// What a review says may be told as what that review says: it is cited.
			asReview := c.Where == "review" && strings.Contains(line, "[2]") && !strings.Contains(line, "[1]")
			if strings.Contains(line, bad) && !strings.Contains(line, unverified) && !asReview {
				t.Errorf("%q is said without a warning: %q", bad, line)
			}
		}
	}
	for _, call := range b.tools.seen() {
		if !strings.HasPrefix(call, subject+" ") || strings.Contains(call, "bob") || strings.Contains(call, "delete") {
			t.Errorf("called %q", call)
		}
	}
	if calls := b.tools.seen(); len(calls) > 10 { // two turns
		t.Errorf("called %d times", len(calls))
	}
	var changed int
	err := b.db.QueryRow(t.Context(), `select count(*) from action where subject = $1 and state <> 'PROPOSED'`, subject).Scan(&changed)
	if err != nil || changed != 0 {
		t.Errorf("%d actions were not only proposed, %v", changed, err)
	}
}

// inspectAsked looks at what the model could see of it.
func (c injection) inspectAsked(t *testing.T, a asked) {
	t.Helper()
	for _, message := range a.Messages {
		if message.Role == "assistant" || message.Role == "system" {
			continue
		}
		for _, bad := range []string{"<|im_start|>", "[INST]", "<<SYS>>", "\u200b", "\u202e", "\u00ad", "\U000e0063", "\x1b", "\nsystem:", "\nSystem:", "\nassistant:", `\nsystem:`, `\nSystem:`, `\nassistant:`, `\nHuman:`} {
			if strings.Contains(message.Content, bad) {
				t.Errorf("the model saw %q in %q", bad, message.Content)
			}
		}
		if message.Role == "tool" {
			var content struct {
				CallID  string           `json:"call_id"`
				Results []map[string]any `json:"results"`
				Note    string           `json:"note"`
			}
			decoder := json.NewDecoder(strings.NewReader(message.Content))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&content); err != nil || decoder.More() {
				t.Errorf("a result broke out of its JSON: %v: %s", err, message.Content)
			}
		}
	}
}
