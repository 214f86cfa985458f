package chat

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"bookworm/internal/llm"
)

// asked is what the model was asked, as it went over the wire.
type asked struct {
	Messages []struct {
		Role       string `json:"role"`
		Content    string `json:"content"`
		ToolCallID string `json:"tool_call_id"`
	} `json:"messages"`
	Tools          []json.RawMessage `json:"tools"`
	ResponseFormat json.RawMessage   `json:"response_format"`
	Stream         bool              `json:"stream"`
	MaxTokens      int               `json:"max_tokens"`
	raw            string
}

// last returns the last message.
func (a asked) last() string { return a.Messages[len(a.Messages)-1].Content }

// model is an endpoint that speaks OpenAI's protocol and says what a test tells it
// to.
type model struct {
	*httptest.Server

	mu    sync.Mutex
	calls []asked
}

// newModel answers each call, numbered from 0, with what a script says.
func newModel(t *testing.T, script func(n int, a asked, say *speaker)) *model {
	t.Helper()
	m := &model{}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var a asked
		var raw strings.Builder
		if err := json.NewDecoder(struct{ tee }{tee{r, &raw}}).Decode(&a); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		a.raw = raw.String()
		m.mu.Lock()
		n := len(m.calls)
		m.calls = append(m.calls, a)
		m.mu.Unlock()
		script(n, a, &speaker{w: w, r: r, in: len(a.raw) / 4})
	}))
	t.Cleanup(m.Close)
	return m
}

type tee struct {
	r    *http.Request
	copy *strings.Builder
}

func (t tee) Read(p []byte) (int, error) {
	n, err := t.r.Body.Read(p)
	t.copy.Write(p[:n])
	return n, err
}

func (m *model) asked() []asked {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]asked(nil), m.calls...)
}

func (m *model) client(t *testing.T) *llm.Client {
	t.Helper()
	client, err := llm.New(llm.Config{BaseURL: m.URL + "/v1", ChatModel: "scripted"})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// speaker writes one answer.
type speaker struct {
	w     http.ResponseWriter
	r     *http.Request
	in    int
	out   int
	begun bool
}

func (s *speaker) event(delta map[string]any, finish any) {
	if !s.begun {
		s.w.Header().Set("Content-Type", "text/event-stream")
		s.begun = true
	}
	raw, err := json.Marshal(map[string]any{
		"id": "c", "object": "chat.completion.chunk", "model": "scripted",
		"choices": []any{map[string]any{"index": 0, "delta": delta, "finish_reason": finish}},
	})
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(s.w, "data: %s\n\n", raw)
	s.w.(http.Flusher).Flush()
}

// say writes text, a word at a time.
func (s *speaker) say(text string) *speaker {
	for word := range strings.SplitAfterSeq(text, " ") {
		s.out++
		s.event(map[string]any{"role": "assistant", "content": word}, nil)
	}
	return s
}

// call asks for a tool.
func (s *speaker) call(n int, name, arguments string) *speaker {
	s.out += 5
	s.event(map[string]any{"role": "assistant", "tool_calls": []any{map[string]any{
		"index": n, "id": fmt.Sprintf("call-%s-%d", name, n), "type": "function",
		"function": map[string]any{"name": name, "arguments": arguments},
	}}}, nil)
	return s
}

// done ends the answer.
func (s *speaker) done() {
	s.event(map[string]any{}, "stop")
	fmt.Fprintf(s.w, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\ndata: [DONE]\n\n",
		s.in, s.out, s.in+s.out)
}

// json answers a call that does not stream.
func (s *speaker) json(text string) {
	s.w.Header().Set("Content-Type", "application/json")
	raw, err := json.Marshal(map[string]any{
		"id": "c", "object": "chat.completion", "model": "scripted",
		"choices": []any{map[string]any{"index": 0, "message": map[string]any{"role": "assistant", "content": text}, "finish_reason": "stop"}},
		"usage":   map[string]any{"prompt_tokens": s.in, "completion_tokens": 9, "total_tokens": s.in + 9},
	})
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(s.w, "%s", raw)
}
