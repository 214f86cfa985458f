package llm_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"bookworm/internal/fault"
	client "bookworm/internal/llm"
	"bookworm/internal/personal"
)

// endpoint is what the conformance suite runs against.
type endpoint struct {
	url, key        string
	chat, embedding string
	dimension       int
	// patience is how long one question may take.
	patience time.Duration
}

// TestConformance holds what the shop relies on: the stand-in behaves like an
// endpoint with real models in every case below.
func TestConformance(t *testing.T) {
	t.Parallel()
	t.Run("standin", func(t *testing.T) {
		t.Parallel()
		conform(t, endpoint{url: start(t).URL(), key: testKey, chat: "any-chat", embedding: "any-embedding", dimension: 256, patience: 10 * time.Second})
	})
	url := os.Getenv("OPENAI_TEST_BASE_URL")
	if url == "" {
		return
	}
	remote := endpoint{
		url: url, key: os.Getenv("OPENAI_TEST_API_KEY"), chat: "gpt-4o-mini", embedding: "text-embedding-3-small", dimension: 1536, patience: 2 * time.Minute,
	}
	if name := os.Getenv("OPENAI_TEST_CHAT_MODEL"); name != "" {
		remote.chat = name
	}
	if name := os.Getenv("OPENAI_TEST_EMBEDDING_MODEL"); name != "" {
		remote.embedding = name
	}
	if text := os.Getenv("OPENAI_TEST_EMBEDDING_DIMENSION"); text != "" {
		dimension, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("OPENAI_TEST_EMBEDDING_DIMENSION: %v", err)
		}
		remote.dimension = dimension
	}
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		conform(t, remote)
	})
}

func conform(t *testing.T, e endpoint) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, endpoint){
		"stream":             conformStream,
		"limit of tokens":    conformLimit,
		"tool call":          conformToolCall,
		"JSON answer":        conformJSON,
		"embeddings":         conformEmbeddings,
		"embedding formats":  conformFormats,
		"wrong key":          conformWrongKey,
		"bad requests":       conformBadRequests,
		"open tool call":     conformOpenToolCall,
		"stream on the wire": conformWire,
		"no usage unasked":   conformNoUsage,
		"unknown address":    conformUnknown,
		"models":             conformModels,
		"cancellation":       conformCancellation,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, e)
		})
	}
}

func (e endpoint) client(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{
		BaseURL: e.url, APIKey: personal.Text(e.key), ChatModel: e.chat, EmbeddingModel: e.embedding, Dimension: e.dimension,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (e endpoint) ctx(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), e.patience)
	t.Cleanup(cancel)
	return ctx
}

// post sends a raw request and returns the answer.
func (e endpoint) post(t *testing.T, path, key string, body any) (*http.Response, []byte) {
	t.Helper()
	encoded, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(e.ctx(t), http.MethodPost, e.url+path, bytes.NewReader(encoded))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, answer
}

func conformStream(t *testing.T, e endpoint) {
	s, err := e.client(t).Stream(e.ctx(t), client.Request{Messages: []client.Message{
		{Role: client.System, Content: "You are a bookseller. Greet back in one sentence."}, {Role: client.User, Content: "Hello!"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := read(t, s)
	if err != nil || text == "" || s.Truncated() || len(s.ToolCalls()) > 0 {
		t.Errorf("said %q, truncated %v, calls %v: %v", text, s.Truncated(), s.ToolCalls(), err)
	}
	if u := s.Usage(); u.Input < 5 || u.Output < 1 || u.Input > 200 {
		t.Errorf("usage = %+v", u)
	}
}

func conformLimit(t *testing.T, e endpoint) {
	s, err := e.client(t).Stream(e.ctx(t), client.Request{
		Messages:  []client.Message{{Role: client.User, Content: "Hello!"}, {Role: client.Assistant, Content: "Hello."}, {Role: client.User, Content: "Hello there!"}},
		MaxTokens: 2, Tools: tools,
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := read(t, s)
	if err != nil || !s.Truncated() || len(text) > 40 {
		t.Errorf("two tokens are %q, truncated %v: %v", text, s.Truncated(), err)
	}
}

// conformToolCall is the round trip of a tool: call, result, answer.
func conformToolCall(t *testing.T, e endpoint) {
	c := e.client(t)
	messages := []client.Message{
		{Role: client.System, Content: "You are a bookseller. Look books up with search_books; answer from its results alone and end sentences with the mark [n] of their result's ref."},
		{Role: client.User, Content: "Do you have Dune by Frank Herbert, and what does it cost?"},
	}
	request := client.Request{Messages: messages, Tools: tools[:1]}
	s, err := c.Stream(e.ctx(t), request)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := read(t, s); err != nil || len(s.ToolCalls()) == 0 {
		t.Fatalf("said %q instead of calling: %v", text, err)
	}
	call := s.ToolCalls()[0]
	var arguments struct {
		Query string `json:"query"`
	}
	if err := json.Unmarshal([]byte(call.Arguments), &arguments); err != nil || call.Name != "search_books" || call.ID == "" || !strings.Contains(arguments.Query, "Dune") {
		t.Fatalf("call = %+v: %v", call, err)
	}
	request.Messages = append(request.Messages, client.Message{Role: client.Assistant, ToolCalls: s.ToolCalls()})
	for _, call := range s.ToolCalls() {
		request.Messages = append(request.Messages, client.Message{
			Role: client.ToolResult, ToolCallID: call.ID,
			Content: `{"results":[{"ref":1,"kind":"book","id":"b1","title":"Dune","authors":["Frank Herbert"],"price":"$9.99","available":3,"text":"Sand and spice."}]}`,
		})
	}
	if s, err = c.Stream(e.ctx(t), request); err != nil {
		t.Fatal(err)
	}
	if text, err := read(t, s); err != nil || !strings.Contains(text, "9.99") || !strings.Contains(text, "[1]") {
		t.Errorf("said %q: %v", text, err)
	}
}

func conformJSON(t *testing.T, e endpoint) {
	var out verdict
	usage, err := e.client(t).JSON(e.ctx(t), client.Request{Messages: []client.Message{
		{Role: client.System, Content: "You moderate reviews of books. Reject abuse and advertising, publish opinions."},
		{Role: client.User, Content: `{"title":"Loved it","text":"A slow start, then I could not stop reading. The ending is sad.","stars":5}`},
	}}, "moderation", verdictSchema, &out)
	if err != nil || out.Verdict != "publish" || out.Reason == "" || usage.Input == 0 || usage.Output == 0 {
		t.Errorf("%+v with %+v: %v", out, usage, err)
	}
}

func conformEmbeddings(t *testing.T, e endpoint) {
	c := e.client(t)
	texts := []string{"A captain hunts the white whale.", "The captain hunts a white whale!", "Sourdough bread for beginners"}
	vectors, err := c.Embed(e.ctx(t), texts)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range vectors {
		if length := math.Sqrt(dot(v, v)); math.Abs(length-1) > 1e-3 || len(v) != e.dimension {
			t.Errorf("vector %d has %d numbers and the length %v", i, len(v), length)
		}
	}
	if near, far := dot(vectors[0], vectors[1]), dot(vectors[0], vectors[2]); near <= far {
		t.Errorf("like texts are at %.3f, unlike ones at %.3f", near, far)
	}
	again, err := c.Embed(e.ctx(t), texts[2:])
	if err != nil {
		t.Fatal(err)
	}
	if same := dot(vectors[2], again[0]); same < 0.999 {
		t.Errorf("the same text is at %.4f of itself", same)
	}
}

func dot(a, b []float32) float64 {
	var sum float64
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

// conformFormats: base64 is the same numbers as float, little-endian.
func conformFormats(t *testing.T, e endpoint) {
	var answers [2]struct {
		Data []struct {
			Embedding json.RawMessage `json:"embedding"`
		} `json:"data"`
		Model string `json:"model"`
		Usage struct {
			Prompt int `json:"prompt_tokens"`
			Total  int `json:"total_tokens"`
		} `json:"usage"`
	}
	for i, format := range []string{"float", "base64"} {
		resp, body := e.post(t, "/embeddings", e.key, map[string]any{"model": e.embedding, "input": "whale", "encoding_format": format})
		if err := json.Unmarshal(body, &answers[i]); err != nil || resp.StatusCode != http.StatusOK || len(answers[i].Data) != 1 {
			t.Fatalf("%s: %d %.200s %v", format, resp.StatusCode, body, err)
		}
		if u := answers[i].Usage; u.Prompt == 0 || u.Prompt != u.Total || answers[i].Model == "" {
			t.Errorf("%s: usage %+v of model %q", format, u, answers[i].Model)
		}
	}
	var floats []float32
	var encoded string
	if err := errors.Join(json.Unmarshal(answers[0].Data[0].Embedding, &floats), json.Unmarshal(answers[1].Data[0].Embedding, &encoded)); err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) != 4*len(floats) {
		t.Fatalf("%d bytes for %d numbers: %v", len(raw), len(floats), err)
	}
	for i, f := range floats {
		if g := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])); math.Abs(float64(f-g)) > 1e-3 {
			t.Fatalf("number %d is %v and %v", i, f, g)
		}
	}
}

// failure is OpenAI's error object.
type failure struct {
	Error struct {
		Message string `json:"message"`
		Type    string `json:"type"`
	} `json:"error"`
}

func (e endpoint) wantFailure(t *testing.T, path, key string, body any, status int, says string) {
	t.Helper()
	resp, answer := e.post(t, path, key, body)
	var f failure
	err := json.Unmarshal(answer, &f)
	if err != nil || resp.StatusCode != status || f.Error.Message == "" || f.Error.Type == "" || !strings.Contains(string(answer), says) {
		t.Errorf("%s %v: %d %s %v", path, body, resp.StatusCode, answer, err)
	}
}

func conformWrongKey(t *testing.T, e endpoint) {
	body := map[string]any{"model": e.chat, "messages": []map[string]string{{"role": "user", "content": "hi"}}}
	e.wantFailure(t, "/chat/completions", "sk-wrong", body, http.StatusUnauthorized, "invalid_api_key")
	e.wantFailure(t, "/chat/completions", "", body, http.StatusUnauthorized, "API key")
	wrong := e
	wrong.key = "sk-wrong"
	if _, err := wrong.client(t).Embed(e.ctx(t), []string{"a"}); err == nil || fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("error = %v", err)
	}
}

func conformBadRequests(t *testing.T, e endpoint) {
	user := []map[string]string{{"role": "user", "content": "hi"}}
	for name, test := range map[string]struct {
		path string
		body map[string]any
		says string
	}{
		"no messages":       {"/chat/completions", map[string]any{"model": e.chat}, "messages"},
		"empty messages":    {"/chat/completions", map[string]any{"model": e.chat, "messages": []any{}}, "messages"},
		"unknown role":      {"/chat/completions", map[string]any{"model": e.chat, "messages": []map[string]string{{"role": "king", "content": "hi"}}}, "king"},
		"no model":          {"/chat/completions", map[string]any{"messages": user}, "model"},
		"usage, no stream":  {"/chat/completions", map[string]any{"model": e.chat, "messages": user, "stream_options": map[string]bool{"include_usage": true}}, "stream_options"},
		"choice, no tools":  {"/chat/completions", map[string]any{"model": e.chat, "messages": user, "tool_choice": "required"}, "tool_choice"},
		"lax strict schema": {"/chat/completions", map[string]any{"model": e.chat, "messages": user, "response_format": map[string]any{"type": "json_schema", "json_schema": map[string]any{"name": "x", "strict": true, "schema": map[string]any{"type": "object", "properties": map[string]any{"a": map[string]string{"type": "string"}}}}}}, "additionalProperties"},
		"unknown parameter": {"/chat/completions", map[string]any{"model": e.chat, "messages": user, "colour": "red"}, "colour"},
		"no input":          {"/embeddings", map[string]any{"model": e.embedding}, "input"},
		"empty input":       {"/embeddings", map[string]any{"model": e.embedding, "input": []string{}}, "input"},
		"odd format":        {"/embeddings", map[string]any{"model": e.embedding, "input": "a", "encoding_format": "roman"}, "encoding_format"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e.wantFailure(t, test.path, e.key, test.body, http.StatusBadRequest, test.says)
		})
	}
}

// conformOpenToolCall: calls and results belong together.
func conformOpenToolCall(t *testing.T, e endpoint) {
	call := []map[string]any{{"id": "c1", "type": "function", "function": map[string]string{"name": "search_books", "arguments": "{}"}}}
	user := map[string]any{"role": "user", "content": "hi"}
	e.wantFailure(t, "/chat/completions", e.key, map[string]any{"model": e.chat, "messages": []any{
		user, map[string]any{"role": "assistant", "tool_calls": call}, user,
	}}, http.StatusBadRequest, "tool_call")
	e.wantFailure(t, "/chat/completions", e.key, map[string]any{"model": e.chat, "messages": []any{
		user, map[string]any{"role": "tool", "tool_call_id": "c1", "content": "{}"},
	}}, http.StatusBadRequest, "tool")
	e.wantFailure(t, "/chat/completions", e.key, map[string]any{"model": e.chat, "messages": []any{
		user, map[string]any{"role": "assistant", "tool_calls": call}, user, map[string]any{"role": "tool", "tool_call_id": "c1", "content": "{}"},
	}}, http.StatusBadRequest, "tool")
}

// conformWire looks at the events themselves: the role first, one finish reason,
// usage in an event of its own, [DONE] last.
func conformWire(t *testing.T, e endpoint) {
	resp, body := e.post(t, "/chat/completions", e.key, map[string]any{
		"model": e.chat, "stream": true, "stream_options": map[string]bool{"include_usage": true},
		"messages": []map[string]string{{"role": "user", "content": "Hello!"}},
	})
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatalf("%d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	type event struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Choices []struct {
			Delta struct {
				Role    string `json:"role"`
				Content string `json:"content"`
			} `json:"delta"`
			Finish *string `json:"finish_reason"`
		} `json:"choices"`
		Usage *struct {
			Prompt     int `json:"prompt_tokens"`
			Completion int `json:"completion_tokens"`
			Total      int `json:"total_tokens"`
		} `json:"usage"`
	}
	var events []event
	lines := strings.Split(strings.TrimSpace(string(body)), "\n\n")
	for _, line := range lines[:len(lines)-1] {
		var v event
		if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &v); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		events = append(events, v)
	}
	if last := lines[len(lines)-1]; last != "data: [DONE]" || len(events) < 3 {
		t.Fatalf("%d events, the last line is %q", len(events), last)
	}
	finishes := 0
	var text strings.Builder
	for _, v := range events {
		if v.Object != "chat.completion.chunk" || v.ID != events[0].ID {
			t.Errorf("event %+v", v)
		}
		for _, c := range v.Choices {
			text.WriteString(c.Delta.Content)
			if c.Finish != nil {
				finishes++
				if *c.Finish != "stop" {
					t.Errorf("finish reason %q", *c.Finish)
				}
			}
		}
	}
	if events[0].Choices[0].Delta.Role != "assistant" || finishes != 1 || text.Len() == 0 {
		t.Errorf("role %q, %d finish reasons, text %q", events[0].Choices[0].Delta.Role, finishes, text.String())
	}
	u := events[len(events)-1]
	if u.Usage == nil || len(u.Choices) != 0 || u.Usage.Prompt+u.Usage.Completion != u.Usage.Total || u.Usage.Completion == 0 {
		t.Errorf("usage = %+v", u)
	}
}

// conformNoUsage: nobody asked for it.
func conformNoUsage(t *testing.T, e endpoint) {
	_, body := e.post(t, "/chat/completions", e.key, map[string]any{
		"model": e.chat, "stream": true, "messages": []map[string]string{{"role": "user", "content": "Hello!"}},
	})
	if strings.Contains(string(body), `"prompt_tokens"`) || !strings.HasSuffix(strings.TrimSpace(string(body)), "data: [DONE]") {
		t.Errorf("%s", body)
	}
}

func conformUnknown(t *testing.T, e endpoint) {
	if resp, body := e.post(t, "/no/such/thing", e.key, map[string]string{}); resp.StatusCode != http.StatusNotFound {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func conformModels(t *testing.T, e endpoint) {
	r, err := http.NewRequestWithContext(e.ctx(t), http.MethodGet, e.url+"/models", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+e.key)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list struct {
		Object string `json:"object"`
		Data   []struct {
			Object string `json:"object"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || list.Object != "list" || len(list.Data) == 0 || list.Data[0].Object != "model" {
		t.Errorf("%+v: %v", list, err)
	}
}

func conformCancellation(t *testing.T, e endpoint) {
	ctx, cancel := context.WithCancel(e.ctx(t))
	s, err := e.client(t).Stream(ctx, client.Request{Messages: []client.Message{{Role: client.User, Content: "Hello! " + strings.Repeat("Tell me a long story. ", 40)}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Next(); err != nil {
		t.Fatal(err)
	}
	cancel()
	for err == nil {
		_, err = s.Next()
	}
	if !errors.Is(err, context.Canceled) && !errors.Is(err, io.EOF) { // it may have been quicker
		t.Errorf("error = %v", err)
	}
}
