package llm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"bookworm/dev/llm"
	client "bookworm/internal/llm"
)

const testKey = "sk-test"

func start(t *testing.T) *llm.Server {
	t.Helper()
	server, err := llm.Start(t.Context(), llm.Options{APIKey: testKey, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(server.Stop)
	return server
}

func inject(t *testing.T, server *llm.Server, f llm.Fault) {
	t.Helper()
	if err := server.Inject(f); err != nil {
		t.Fatalf("inject: %v", err)
	}
}

func newClient(t *testing.T, server *llm.Server, change func(*client.Config)) *client.Client {
	t.Helper()
	c := client.Config{
		BaseURL: server.URL(), APIKey: testKey, ChatModel: "any-chat", EmbeddingModel: "any-embedding", Dimension: 256,
		Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&c)
	}
	made, err := client.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// read takes a stream to its end.
func read(t *testing.T, s *client.Stream) (string, error) {
	t.Helper()
	defer s.Close()
	var text strings.Builder
	for {
		chunk, err := s.Next()
		if errors.Is(err, io.EOF) {
			return text.String(), nil
		}
		if err != nil {
			return text.String(), err
		}
		text.WriteString(chunk.Delta)
	}
}

// eventually asks until ok or ten seconds are over.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within 10s: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

func object(properties, required string) json.RawMessage {
	return json.RawMessage(`{"type":"object","properties":{` + properties + `},"required":[` + required + `]}`)
}

// tools are a bookseller's.
var tools = []client.Tool{
	{
		Name: "search_books", Description: "Finds books by title, author, subject or mood.",
		Parameters: object(`"query":{"type":"string","maxLength":300},"max_price_minor":{"type":"integer","description":"in minor units"},"in_stock":{"type":"boolean"}`, `"query"`),
	},
	{Name: "get_book", Description: "All about one book.", Parameters: object(`"book_id":{"type":"string"}`, `"book_id"`)},
	{Name: "list_reviews", Description: "Reviews of a book.", Parameters: object(`"book_id":{"type":"string"},"limit":{"type":"integer"}`, `"book_id"`)},
	{Name: "my_orders", Description: "The shopper's own orders.", Parameters: object(``, ``)},
	{Name: "order_status", Description: "How one order stands.", Parameters: object(`"order_id":{"type":"string"}`, `"order_id"`)},
	{Name: "store_policy", Description: "The shop's policies.", Parameters: object(`"topic":{"type":"string","enum":["returns","shipping","privacy","payment","gifts"]}`, `"topic"`)},
	{Name: "add_to_basket", Description: "Puts a book into the basket.", Parameters: object(`"book_id":{"type":"string"},"quantity":{"type":"integer","minimum":1}`, `"book_id","quantity"`)},
}

// found is a result as a tool writes it.
type found map[string]any

var books = []found{
	{"kind": "book", "id": "b-dune", "title": "Dune", "authors": []string{"Frank Herbert"}, "price": "$9.99", "available": 4, "year": 1965, "isbn13": "9780441172719", "text": "On the desert planet Arrakis a noble family fights for the spice. Sandworms guard it. A boy becomes a prophet."},
	{"kind": "book", "id": "b-foundation", "title": "Foundation", "authors": []string{"Isaac Asimov"}, "price": "$8.50", "available": 0, "year": 1951, "text": "A mathematician foresees the fall of a galactic empire. He hides scholars at the edge of the galaxy."},
	{"kind": "book", "id": "b-whale", "title": "Moby-Dick", "authors": []string{"Herman Melville"}, "price": "$12.00", "available": 2, "year": 1851, "text": "A captain hunts the white whale that took his leg. The crew pays for his obsession."},
	{"kind": "book", "id": "b-emma", "title": "Emma", "authors": []string{"Jane Austen"}, "price": "$7.00", "available": 9, "year": 1815, "text": "A clever young woman in a village arranges marriages and misreads everyone, herself most of all."},
	{"kind": "book", "id": "b-bread", "title": "The Bread Baker's Companion", "authors": []string{"Ann Miller"}, "price": "$30.00", "available": 1, "year": 2011, "text": "Sourdough, rye and baguettes, explained step by step for the home baker."},
}

// shop answers the calls of a model as the chat engine does, with the same results
// for every search: a search always finds something.
type shop struct {
	t       *testing.T
	model   *client.Client
	answers map[string][]found // by tool; those of search_books are the books
	system  string
	history []client.Message

	refs  int
	calls []string // as name and arguments
}

func (s *shop) results(call client.ToolCall) []found {
	var arguments struct {
		BookID string `json:"book_id"`
	}
	if err := json.Unmarshal([]byte(call.Arguments), &arguments); err != nil {
		return nil
	}
	if results, ok := s.answers[call.Name]; ok {
		return results
	}
	switch call.Name {
	case "search_books":
		return books
	case "get_book", "add_to_basket":
		for _, b := range books {
			if b["id"] == arguments.BookID {
				return []found{b}
			}
		}
	}
	return nil
}

// ask runs a turn: calls are answered until the model speaks.
func (s *shop) ask(question string) (string, error) {
	s.t.Helper()
	s.calls = nil
	messages := []client.Message{{Role: client.System, Content: "You are a bookseller. " + s.system}}
	messages = append(messages, s.history...)
	messages = append(messages, client.Message{Role: client.User, Content: question})
	for range 10 {
		stream, err := s.model.Stream(s.t.Context(), client.Request{Messages: messages, Tools: tools})
		if err != nil {
			return "", err
		}
		text, err := read(s.t, stream)
		calls := stream.ToolCalls()
		if err != nil || len(calls) == 0 {
			s.history = append(s.history, client.Message{Role: client.User, Content: question}, client.Message{Role: client.Assistant, Content: text})
			return text, err
		}
		messages = append(messages, client.Message{Role: client.Assistant, ToolCalls: calls})
		for _, call := range calls {
			s.calls = append(s.calls, call.Name+" "+call.Arguments)
			messages = append(messages, client.Message{Role: client.ToolResult, ToolCallID: call.ID, Content: s.numbered(call)})
		}
	}
	return "", fmt.Errorf("the model never answers: %v", s.calls)
}

func (s *shop) numbered(call client.ToolCall) string {
	results := []found{}
	for _, r := range s.results(call) {
		s.refs++
		numbered := found{"ref": s.refs}
		maps.Copy(numbered, r)
		results = append(results, numbered)
	}
	content, err := json.Marshal(map[string]any{"call_id": call.ID, "results": results, "note": ""})
	if err != nil {
		s.t.Fatal(err)
	}
	return string(content)
}
