package llm

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// result is one entry of a tool's results; its text is data, never an instruction.
type result struct {
	tool   string // that found it
	ref    int
	kind   string
	id     string
	title  string
	text   string
	fields map[string]any // all others
}

// turn is what the model knows when it is asked: the last question, and what was
// called and found since.
type turn struct {
	request  *chatRequest
	system   string
	question string
	before   string   // what the assistant said last, before the question
	called   []string // calls since the question, as tool and arguments
	tools    []string // their tools
	results  []result
	notes    []string // notes of tools that found nothing
	rounds   int      // answers since the question that were calls
}

// maxRounds is how often the model looks something up before it answers.
const maxRounds = 4

// think decides: calls of tools while something is to be looked up, then text.
func (q *chatRequest) think(obedient bool) reply {
	if q.ResponseFormat != nil && q.ResponseFormat.Type == "json_schema" {
		return reply{content: q.fillSchema(obedient)}
	}
	t := q.turn()
	choice, _ := q.choice() // checked with the request
	if t.request.tool(choice) != nil {
		return reply{calls: t.forced(choice)}
	}
	if choice != "none" && t.rounds < maxRounds {
		if obedient {
			if calls := t.obeyedCalls(); len(calls) > 0 {
				return reply{calls: calls}
			}
		}
		if calls := t.plan(); len(calls) > 0 {
			return reply{calls: calls}
		}
	}
	if choice == "required" {
		return reply{calls: t.forced(choice)}
	}
	answer := t.answer()
	if obedient {
		answer = t.obey(answer)
	}
	return reply{content: answer}
}

// forced calls a tool because tool_choice says so.
func (t *turn) forced(choice string) []toolCall {
	chosen := t.request.tool(choice)
	if chosen == nil { // required: any
		if chosen = t.find("search_books", "search"); chosen == nil {
			chosen = &t.request.Tools[0]
		}
	}
	return []toolCall{t.request.call(chosen.Function.Name, fill(chosen, wanted{query: subject(t.question), question: t.question}))}
}

func (q *chatRequest) turn() *turn {
	t := &turn{request: q}
	last := q.lastUserIndex()
	for _, m := range q.Messages[:max(last, 0)] {
		switch m.Role {
		case "system", "developer":
			t.system += m.text() + "\n"
		case "assistant":
			if text := m.text(); text != "" {
				t.before = text
			}
		}
	}
	t.question = q.lastUser()
	name := map[string]string{}
	for _, m := range q.Messages[last+1:] {
		switch m.Role {
		case "assistant":
			if len(m.ToolCalls) > 0 {
				t.rounds++
			}
			for _, call := range m.ToolCalls {
				name[call.ID] = call.Function.Name
				t.called = append(t.called, call.Function.Name+canonical(call.Function.Arguments))
				t.tools = append(t.tools, call.Function.Name)
			}
		case "tool":
			t.learn(name[m.ToolCallID], m.text())
		}
	}
	return t
}

// learn takes in what a tool answered. What has another shape than the contract's
// is no result.
func (t *turn) learn(toolName, content string) {
	var answer struct {
		Results []map[string]any `json:"results"`
		Note    string           `json:"note"`
	}
	if json.Unmarshal([]byte(content), &answer) != nil {
		return
	}
	for _, fields := range answer.Results {
		ref, ok := fields["ref"].(float64)
		if !ok {
			continue
		}
		r := result{tool: toolName, ref: int(ref), fields: fields}
		r.kind, r.id, r.title, r.text = text(fields["kind"]), text(fields["id"]), text(fields["title"]), text(fields["text"])
		for _, known := range []string{"ref", "kind", "id", "title", "text"} {
			delete(fields, known)
		}
		t.results = append(t.results, r)
	}
	if len(answer.Results) == 0 && answer.Note != "" {
		t.notes = append(t.notes, answer.Note)
	}
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func (q *chatRequest) lastUserIndex() int {
	for i, m := range slices.Backward(q.Messages) {
		if m.Role == "user" {
			return i
		}
	}
	return -1
}

func (q *chatRequest) lastUser() string {
	if i := q.lastUserIndex(); i >= 0 {
		return q.Messages[i].text()
	}
	return ""
}

// rounds counts the answers since the question that were calls of tools.
func (q *chatRequest) rounds() int {
	n := 0
	for _, m := range q.Messages[q.lastUserIndex()+1:] {
		if len(m.ToolCalls) > 0 {
			n++
		}
	}
	return n
}

// call makes a call whose id is the same whenever the conversation is.
func (q *chatRequest) call(name string, arguments map[string]any) toolCall {
	encoded, err := json.Marshal(arguments)
	if err != nil {
		encoded = []byte("{}")
	}
	id := fmt.Sprintf("call_%016x", hash('i', name+string(encoded), fmt.Sprint(len(q.Messages))))
	return toolCall{ID: id, Type: "function", Function: functionCall{Name: name, Arguments: string(encoded)}}
}

// canonical makes equal arguments equal strings.
func canonical(arguments string) string {
	var v any
	if json.Unmarshal([]byte(arguments), &v) != nil {
		return arguments
	}
	encoded, err := json.Marshal(v)
	if err != nil {
		return arguments
	}
	return string(encoded)
}

// find returns the offered tool of that name, or one whose name contains the word.
func (t *turn) find(name, word string) *tool {
	if found := t.request.tool(name); found != nil {
		return found
	}
	for i := range t.request.Tools {
		if word != "" && strings.Contains(strings.ToLower(t.request.Tools[i].Function.Name), word) {
			return &t.request.Tools[i]
		}
	}
	return nil
}

// plan returns the calls to make next: those that the question wants and that were
// not made yet.
func (t *turn) plan() []toolCall {
	want := intentsOf(t.question, t.before)
	var calls []toolCall
	add := func(chosen *tool, w wanted) {
		if chosen == nil || len(calls) == maxCalls {
			return
		}
		w.question = t.question
		call := t.request.call(chosen.Function.Name, fill(chosen, w))
		if !slices.Contains(t.called, chosen.Function.Name+canonical(call.Function.Arguments)) &&
			!slices.ContainsFunc(calls, func(c toolCall) bool { return c.ID == call.ID }) {
			calls = append(calls, call)
		}
	}
	if want.order {
		if want.orderID != "" {
			add(t.find("order_status", "order_status"), wanted{orderID: want.orderID})
		} else {
			add(t.find("my_orders", "orders"), wanted{})
		}
	}
	if want.policy {
		add(t.find("store_policy", "policy"), wanted{})
	}
	if want.bookID != "" {
		add(t.find("get_book", "get_book"), wanted{bookID: want.bookID})
	}
	for _, query := range want.searches {
		add(t.find("search_books", "search"), wanted{query: query, maxPrice: want.maxPrice, inStock: want.inStock})
	}
	if len(calls) > 0 || t.rounds == 0 {
		return calls
	}
	// What needs a book that was found first.
	for _, query := range want.searches {
		book := t.best(query)
		if book == nil {
			continue
		}
		switch {
		case want.reviews:
			add(t.find("list_reviews", "review"), wanted{bookID: book.id})
		case want.basket:
			add(t.find("add_to_basket", "basket"), wanted{bookID: book.id, quantity: want.quantity})
		case want.asks(book):
			add(t.find("get_book", "get_book"), wanted{bookID: book.id})
		}
	}
	return calls
}

// maxCalls is how many tools the model calls at once.
const maxCalls = 3

// best is the found book that fits a query best, or nil when none does.
func (t *turn) best(query string) *result {
	books := relevant(query, t.ofKind("book"))
	if len(books) == 0 {
		return nil
	}
	return &books[0]
}

// ofKind returns the results of a kind, each thing once: of a book that was found
// twice the one with more fields.
func (t *turn) ofKind(kind string) []result {
	var list []result
	for _, r := range t.results {
		if r.kind != kind {
			continue
		}
		i := slices.IndexFunc(list, func(known result) bool { return known.id == r.id && r.id != "" })
		switch {
		case i < 0:
			list = append(list, r)
		case len(r.fields) > len(list[i].fields):
			list[i] = r
		}
	}
	return list
}
