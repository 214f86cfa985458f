package llm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// reply is what the model has to say.
type reply struct {
	content string
	calls   []toolCall
	finish  string
	output  int // tokens
}

// chatCompletion is OpenAI's object, whole or a chunk of a stream.
type chatCompletion struct {
	ID      string   `json:"id"`
	Object  string   `json:"object"`
	Created int64    `json:"created"`
	Model   string   `json:"model"`
	Choices []choice `json:"choices"`
	Usage   *usage   `json:"usage,omitempty"`
}

type choice struct {
	Index        int     `json:"index"`
	Message      *said   `json:"message,omitempty"`
	Delta        *said   `json:"delta,omitempty"`
	FinishReason *string `json:"finish_reason"`
}

type said struct {
	Role      string     `json:"role,omitempty"`
	Content   *string    `json:"content,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

func (s *Server) chat(w http.ResponseWriter, r *http.Request, struck strikes) bool {
	var q chatRequest
	if failure := decodeBody(r, &q); failure != nil {
		failure.write(w)
		return true
	}
	used, failure := q.check()
	if failure != nil {
		failure.write(w)
		return true
	}
	if body, err := json.Marshal(q); err == nil {
		s.questions.keep(string(body))
	}
	if struck.before(r.Context(), w) {
		return false
	}
	answer := q.answer(struck)
	s.counters.input.Add(int64(used))
	template := chatCompletion{
		ID: fmt.Sprintf("chatcmpl-%016x", hash('i', q.lastUser(), fmt.Sprint(len(q.Messages)))), Created: time.Now().Unix(), Model: q.Model,
	}
	spent := &usage{PromptTokens: used, CompletionTokens: answer.output, TotalTokens: used + answer.output}
	if !q.Stream {
		s.counters.output.Add(int64(answer.output))
		template.Object, template.Usage = "chat.completion", spent
		template.Choices = []choice{{
			Message:      &said{Role: "assistant", Content: contentOf(answer), ToolCalls: answer.calls},
			FinishReason: &answer.finish,
		}}
		writeJSON(w, http.StatusOK, template)
		return true
	}
	template.Object = "chat.completion.chunk"
	out := &stream{server: s, w: w, ctx: r.Context(), template: template, struck: struck}
	if q.StreamOptions != nil && q.StreamOptions.IncludeUsage {
		out.usage = spent
	}
	return out.write(answer)
}

// contentOf is null beside tool calls, as OpenAI's is.
func contentOf(r reply) *string {
	if r.content == "" && len(r.calls) > 0 {
		return nil
	}
	return &r.content
}

// answer thinks, and breaks the result where a fault asks for it.
func (q *chatRequest) answer(struck strikes) reply {
	var r reply
	switch {
	case struck.has(UnknownTool) && len(q.Tools) > 0 && q.rounds() == 0:
		r.calls = []toolCall{q.call("delete_all_orders", map[string]any{"confirm": true})}
	case struck.has(ToolLoop) && len(q.Tools) > 0:
		r.calls = []toolCall{q.loop()}
	default:
		r = q.think(struck.has(Obedient))
	}
	if struck.has(BadJSON) {
		for i := range r.calls {
			r.calls[i].Function.Arguments = broken(r.calls[i].Function.Arguments)
		}
		if q.ResponseFormat != nil && q.ResponseFormat.Type != "text" {
			r.content = "Sure! Here is your JSON: " + broken(r.content)
		}
	}
	return q.limit(r)
}

func broken(text string) string { return text[:len(text)/2] + "," }

// loop calls a tool as if it had never been called.
func (q *chatRequest) loop() toolCall {
	t := &q.Tools[0]
	for i := range q.Tools {
		if strings.Contains(q.Tools[i].Function.Name, "search") {
			t = &q.Tools[i]
		}
	}
	return q.call(t.Function.Name, fill(t, wanted{query: fmt.Sprintf("books, page %d", q.rounds()+1)}))
}

// limit cuts an answer at the limit of tokens. The arguments of a call are cut as
// everything else is.
func (q *chatRequest) limit(r reply) reply {
	r.finish = "stop"
	if len(r.calls) > 0 {
		r.finish = "tool_calls"
	}
	limit := max(q.MaxTokens, q.MaxCompletionTokens)
	if limit == 0 {
		limit = maxContext
	}
	take := func(text string) string {
		pieces := tokens(text)
		if len(pieces) > limit-r.output {
			pieces = pieces[:max(limit-r.output, 0)]
			r.finish = "length"
		}
		r.output += len(pieces)
		return strings.Join(pieces, "")
	}
	r.content = take(r.content)
	for i := range r.calls {
		r.output += len(tokens(r.calls[i].Function.Name))
		r.calls[i].Function.Arguments = take(r.calls[i].Function.Arguments)
	}
	return r
}

// stream writes server-sent events.
type stream struct {
	server   *Server
	w        http.ResponseWriter
	ctx      context.Context //nolint:containedctx // the request's, for the length of the handler
	template chatCompletion
	usage    *usage // nil when nobody asked
	struck   strikes
	sent     int // tokens
}

// write sends an answer. It reports whether all of it was sent.
func (s *stream) write(r reply) bool {
	s.w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	s.w.Header().Set("Cache-Control", "no-cache")
	empty := ""
	first := &said{Role: "assistant", Content: &empty}
	if len(r.calls) > 0 {
		first.Content = nil
	}
	if !s.send(first, nil) || !s.pieces(r) || !s.send(&said{}, &r.finish) {
		return false
	}
	if s.usage != nil {
		chunk := s.template
		chunk.Choices, chunk.Usage = []choice{}, s.usage
		if !s.event(chunk) {
			return false
		}
	}
	return s.line("[DONE]")
}

// pieces sends the tokens one by one. It reports whether the stream goes on.
func (s *stream) pieces(r reply) bool {
	for _, piece := range tokens(r.content) {
		if !s.token(&said{Content: &piece}) {
			return false
		}
	}
	for i, call := range r.calls {
		head := call
		head.Index, head.Function.Arguments = &i, ""
		if !s.send(&said{ToolCalls: []toolCall{head}}, nil) {
			return false
		}
		for _, piece := range tokens(call.Function.Arguments) {
			if !s.token(&said{ToolCalls: []toolCall{{Index: &i, Function: functionCall{Arguments: piece}}}}) {
				return false
			}
		}
	}
	return true
}

// token sends one token, or what a fault makes of it.
func (s *stream) token(delta *said) bool {
	if f, ok := s.struck[CutStream]; ok && s.sent >= f.Tokens {
		panic(http.ErrAbortHandler)
	}
	if f, ok := s.struck[NoFinish]; ok && s.sent >= f.Tokens {
		return false
	}
	if f, ok := s.struck[Garbage]; ok && s.sent >= f.Tokens {
		s.line(`{"choices":[{"delta":{"content":`)
		return false
	}
	if !pause(s.ctx, s.struck[SlowTokens].Delay) || !s.send(delta, nil) {
		return false
	}
	s.sent++
	s.server.counters.output.Add(1)
	return true
}

func (s *stream) send(delta *said, finish *string) bool {
	chunk := s.template
	chunk.Choices = []choice{{Delta: delta, FinishReason: finish}}
	return s.event(chunk)
}

func (s *stream) event(chunk chatCompletion) bool {
	body, err := json.Marshal(chunk)
	return err == nil && s.line(string(body))
}

func (s *stream) line(data string) bool {
	if _, err := fmt.Fprintf(s.w, "data: %s\n\n", data); err != nil {
		return false
	}
	return http.NewResponseController(s.w).Flush() == nil
}
