package llm_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"bookworm/dev/llm"
	client "bookworm/internal/llm"
)

// What holds for the stand-in alone.

func embedded(t *testing.T) (endpoint, *llm.Server) {
	t.Helper()
	server := start(t)
	return endpoint{url: server.URL(), key: testKey, chat: "c", embedding: "e", dimension: 64, patience: 10e9}, server
}

func TestAnswersAreDeterministic(t *testing.T) {
	t.Parallel()
	e, _ := embedded(t)
	body := map[string]any{"model": "c", "messages": []map[string]string{{"role": "user", "content": "Do you have Dune?"}}, "tools": []any{map[string]any{
		"type": "function", "function": map[string]any{"name": "search_books", "parameters": map[string]any{"type": "object", "properties": map[string]any{"query": map[string]string{"type": "string"}}}},
	}}}
	seen := map[string]bool{}
	for range 5 {
		_, answer := e.post(t, "/chat/completions", testKey, body)
		before, created, _ := strings.Cut(string(answer), `"created":`)
		_, after, _ := strings.Cut(created, ",")
		seen[before+after] = true
	}
	if len(seen) != 1 {
		t.Errorf("%d answers to one question: %v", len(seen), seen)
	}
	vectors, err := e.client(t).Embed(t.Context(), []string{"a whale", "a whale"})
	if err != nil || !slices.Equal(vectors[0], vectors[1]) {
		t.Errorf("%v", err)
	}
}

func TestEmbeddingDimensions(t *testing.T) {
	t.Parallel()
	e, _ := embedded(t)
	for _, test := range []struct {
		model string
		asked any
		want  int
	}{{"text-embedding-3-small", nil, 1536}, {"text-embedding-3-large", nil, 3072}, {"x", 7, 7}} {
		body := map[string]any{"model": test.model, "input": "whale"}
		if test.asked != nil {
			body["dimensions"] = test.asked
		}
		_, answer := e.post(t, "/embeddings", testKey, body)
		var vectors struct {
			Data []struct {
				Embedding []float32 `json:"embedding"`
			} `json:"data"`
		}
		if err := json.Unmarshal(answer, &vectors); err != nil || len(vectors.Data) != 1 || len(vectors.Data[0].Embedding) != test.want {
			t.Errorf("%s: %.100s %v", test.model, answer, err)
		}
	}
	for _, wrong := range []int{0, -1, 65537} {
		e.wantFailure(t, "/embeddings", testKey, map[string]any{"model": "x", "input": "a", "dimensions": wrong}, http.StatusBadRequest, "dimensions")
	}
}

func TestContextLength(t *testing.T) {
	t.Parallel()
	e, server := embedded(t)
	c := e.client(t)
	long := strings.Repeat("whale ", 130_000)
	if _, err := c.Stream(t.Context(), client.Request{Messages: []client.Message{{Role: client.User, Content: long}}}); !errors.Is(err, client.ErrTooLong) {
		t.Errorf("error = %v", err)
	}
	if _, err := c.Embed(t.Context(), []string{long}); err != nil { // the client cuts it
		t.Errorf("error = %v", err)
	}
	e.wantFailure(t, "/embeddings", testKey, map[string]any{"model": "x", "input": long}, http.StatusBadRequest, "context_length_exceeded")
	hundred := strings.Repeat("x", 100_000)
	s, err := c.Stream(t.Context(), client.Request{Messages: []client.Message{{Role: client.User, Content: hundred}}, Tools: tools})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := read(t, s); err != nil {
		t.Errorf("100,000 letters: %v", err)
	}
	if server.Counters().InputTokens < 16_000 {
		t.Errorf("counters = %+v", server.Counters())
	}
}

// TestManyAtOnce is for the race detector: streams side by side do not meet.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	e, server := embedded(t)
	c := e.client(t)
	var group errgroup.Group
	for range 50 {
		group.Go(func() error {
			s, err := c.Stream(t.Context(), hello())
			if err != nil {
				return err
			}
			text, err := read(t, s)
			if err == nil && !strings.HasPrefix(text, "Hello! I can look for books") {
				err = errors.New(text)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	eventually(t, "all are served", func() bool { return server.Counters().InFlight == 0 })
	if n := server.Counters(); n.Requests != 50 || n.Cancelled != 0 {
		t.Errorf("counters = %+v", n)
	}
}

func TestToolChoice(t *testing.T) {
	t.Parallel()
	e, _ := embedded(t)
	offered := []any{
		map[string]any{"type": "function", "function": map[string]any{"name": "search_books", "parameters": map[string]any{"type": "object", "required": []string{"query"}, "properties": map[string]any{"query": map[string]string{"type": "string"}}}}},
		map[string]any{"type": "function", "function": map[string]any{"name": "get_time"}},
	}
	for name, test := range map[string]struct {
		question string
		choice   any
		says     string
		not      string
	}{
		"none":     {"Do you have Dune?", "none", `"content":"`, "tool_calls"},
		"auto":     {"Do you have Dune?", "auto", "search_books", "get_time"},
		"required": {"Hello!", "required", "search_books", "get_time"},
		"named":    {"Do you have Dune?", map[string]any{"type": "function", "function": map[string]string{"name": "get_time"}}, "get_time", "search_books"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, answer := e.post(t, "/chat/completions", testKey, map[string]any{
				"model": "c", "messages": []map[string]string{{"role": "user", "content": test.question}}, "tools": offered, "tool_choice": test.choice,
			})
			if !strings.Contains(string(answer), test.says) || strings.Contains(string(answer), test.not) {
				t.Errorf("%s", answer)
			}
		})
	}
	e.wantFailure(t, "/chat/completions", testKey, map[string]any{
		"model": "c", "messages": []map[string]string{{"role": "user", "content": "x"}}, "tools": offered,
		"tool_choice": map[string]any{"type": "function", "function": map[string]string{"name": "fly"}},
	}, http.StatusBadRequest, "fly")
}

func TestAnyKeyWithoutOne(t *testing.T) {
	t.Parallel()
	server, err := llm.Start(t.Context(), llm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	if _, err := newClient(t, server, func(c *client.Config) { c.APIKey = "" }).Embed(t.Context(), []string{"a"}); err != nil {
		t.Error(err)
	}
}
