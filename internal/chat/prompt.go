package chat

import (
	_ "embed" // the prompt
	"regexp"
	"strings"

	"bookworm/internal/llm"
)

//go:embed prompt.txt
var promptText string

// prompt returns the messages of a turn: the instructions, what was said before,
// and the question, all of it without personal data.
func (t *talk) prompt() []llm.Message {
	messages := []llm.Message{{Role: llm.System, Content: strings.TrimSpace(promptText)}}
	if summary := t.redact(t.turn.summary); summary != "" {
		messages = append(messages, llm.Message{Role: llm.User, Content: "(Notes on the earlier conversation, for reference: " + summary + ")"},
			llm.Message{Role: llm.Assistant, Content: "(Noted.)"})
	}
	for _, e := range recent(t.turn.history, t.e.limits.HistoryTokens) {
		messages = append(messages, llm.Message{Role: llm.User, Content: t.redact(e.question)})
		if answer := t.redact(e.answer); answer != "" {
			messages = append(messages, llm.Message{Role: llm.Assistant, Content: answer})
		}
	}
	return append(messages, llm.Message{Role: llm.User, Content: t.redact(t.turn.question)})
}

// redact makes what was said in the conversation fit for the model. Marks of
// earlier answers would point to nothing in this turn; inert takes them apart.
func (t *talk) redact(text string) string {
	return inert(t.redactor.Redact(withoutMarks(text)))
}

var marksBehind = regexp.MustCompile(`\s?\[\d+\]`)

func withoutMarks(text string) string {
	return strings.ReplaceAll(marksBehind.ReplaceAllString(text, ""), unverified, "")
}

// recent returns the latest exchanges that fit the budget of tokens; the older
// ones are dropped.
func recent(history []exchange, budget int) []exchange {
	from := len(history)
	for used := 0; from > 0; from-- {
		used += tokensOf(history[from-1])
		if used > budget {
			break
		}
	}
	return history[from:]
}

func tokensOf(e exchange) int { return llm.EstimateTokens(e.question) + llm.EstimateTokens(e.answer) }
