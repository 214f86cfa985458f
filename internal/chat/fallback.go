package chat

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"bookworm/internal/llm"
)

// fallbackTime bounds the look-up of an answer without the model. With
// Limits.FirstWord it is the time in which a shopper has an answer at the latest.
const fallbackTime = 800 * time.Millisecond

var (
	aboutOrders = regexp.MustCompile(`(?i)\b(?:my|last|latest|recent)\s+(?:\w+\s+)?(?:orders?|parcel|package|delivery|purchases?)\b|` +
		`\border (?:status|number)\b|\bwhere(?:'s|’s| is) my\b|\bstatus of\b|\btrack(?:ing)?\b`)
	aboutRules = regexp.MustCompile(`(?i)\b(?:returns?|refunds?|shipping|deliver\w*|payments?|pay|privacy|gifts?|exchanges?|damaged|cancel\w*|polic(?:y|ies)|warranty|tax|customer service)\b`)
	bookish    = regexp.MustCompile(aboutBooks)
)

// withoutModel answers by itself: with what was found in this turn until now, else
// with what it finds by simple rules. It says that it is not the bookseller who
// speaks.
func (t *talk) withoutModel(ctx context.Context) Outcome {
	if len(t.results) == 0 {
		bounded, cancel := context.WithTimeout(ctx, fallbackTime)
		defer cancel()
		t.findSimply(bounded)
	}
	if ctx.Err() != nil {
		return ""
	}
	opening := "I'm sorry, I can't think along just now."
	if t.said.Len() > 0 {
		opening = "\n\n" + opening
	}
	t.say(ctx, t.check.Write(opening))
	if len(t.results) == 0 {
		t.say(ctx, t.check.Write(" I have found nothing by a simple search either; please try again in a moment."))
		return Fallback
	}
	t.say(ctx, t.check.Write(" Here is what a simple search found:\n"))
	for _, r := range t.results[:min(5, len(t.results))] {
		t.say(ctx, t.check.Write("\n- "+plainly(r)))
	}
	return Fallback
}

// findSimply calls the tool that the question's words point to.
func (t *talk) findSimply(ctx context.Context) {
	question := t.redact(t.turn.question)
	name, argument := SearchBooks, map[string]string{"query": beginning(question, 200)}
	switch {
	case aboutOrders.MatchString(question):
		name, argument = MyOrders, map[string]string{}
	case aboutRules.MatchString(question) && !bookish.MatchString(question):
		name, argument = StorePolicy, map[string]string{"question": beginning(question, 200)}
	}
	if _, ok := t.e.box.tools[name]; !ok {
		return
	}
	arguments, err := json.Marshal(argument)
	if err != nil {
		return // no string fails to encode
	}
	// This call is not the model's: the limit of those does not count.
	t.calls = min(t.calls, t.e.limits.ToolCalls-1)
	t.call(ctx, llm.ToolCall{ID: "call_fallback", Name: name, Arguments: string(arguments)})
}

// plainly says what a result is, in one sentence for each of its facts.
func plainly(r *Result) string {
	mark := fmt.Sprintf(" [%d]", r.ref)
	switch {
	case r.Card != nil && r.Card.Book != nil:
		book := r.Card.Book
		by := ""
		if authors, ok := r.Fields["authors"].([]string); ok && len(authors) > 0 {
			by = " by " + strings.Join(authors, ", ")
		}
		stock := "it is out of stock"
		if book.Available > 0 {
			stock = fmt.Sprintf("%d in stock", book.Available)
		}
		return fmt.Sprintf("%s%s, %s, %s%s.", r.Title, by, book.Price, stock, mark)
	case r.Card != nil && r.Card.Order != nil:
		order := r.Card.Order
		return fmt.Sprintf("The order of %s, %s, is %s%s.", order.CreatedAt.Format(time.DateOnly), order.Total, order.Status, mark)
	case r.Kind == KindPolicy:
		return r.Title + mark + ". " + strings.TrimSpace(sentenceEnd.ReplaceAllString(r.Text+" ", mark+"$1 "))
	}
	return r.Title + mark + "."
}

var sentenceEnd = regexp.MustCompile(`([.!?])\s+`)
