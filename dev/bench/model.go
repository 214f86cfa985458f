package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"bookworm/internal/loopback"
)

// The pace of the model.
const (
	thinking = 50 * time.Millisecond // before the first byte of each answer
	pace     = 20 * time.Millisecond // between words
	sentence = 6                     // words in one
)

// model is an endpoint of OpenAI's protocol that answers at a fixed pace and notes
// when it sent which word. When the last message of the user asks it to look, it
// calls search_books first. It says a sentence, or many when it is asked to talk at
// length. Embeddings are another endpoint's.
type model struct {
	server *http.Server
	url    string

	mu    sync.Mutex
	sent  map[string]time.Time // by word
	spent time.Duration        // before the first words of answers, since the last look
	count int
}

// startModel runs a model. The caller stops it.
func startModel(ctx context.Context, embeddings string) (*model, error) {
	base, err := url.Parse(strings.TrimSuffix(embeddings, "/v1"))
	if err != nil {
		return nil, fmt.Errorf("start the model: %w", err)
	}
	listener, err := loopback.Listen(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("start the model: %w", err)
	}
	m := &model{url: "http://" + listener.Addr().String() + "/v1", sent: make(map[string]time.Time)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", m.answer)
	mux.Handle("/", httputil.NewSingleHostReverseProxy(base))
	m.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = m.server.Serve(listener) }() // ends with stop
	return m, nil
}

func (m *model) stop() { _ = m.server.Close() }

type completion struct {
	Messages []struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	} `json:"messages"`
	Tools []json.RawMessage `json:"tools"`
}

func (m *model) answer(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	var in completion
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || len(in.Messages) == 0 {
		http.Error(w, `{"error": {"message": "no messages"}}`, http.StatusBadRequest)
		return
	}
	wait(r.Context(), thinking)
	w.Header().Set("Content-Type", "text/event-stream")
	last := in.Messages[len(in.Messages)-1]
	if last.Role == "user" && len(in.Tools) > 0 && strings.Contains(last.Content, "look") {
		m.send(w, `{"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "search_books", "arguments": "{\"query\": \"dune\"}"}}]}`, "")
		m.end(w, "tool_calls")
		m.mu.Lock()
		m.spent += time.Since(began)
		m.mu.Unlock()
		return
	}
	length := sentence
	if strings.Contains(last.Content, "at length") {
		length = words
	}
	for n := range length {
		if n > 0 {
			wait(r.Context(), pace)
		}
		if r.Context().Err() != nil {
			return
		}
		word := m.word(n == 0, began)
		if n%sentence == 0 {
			word = strings.ToUpper(word[:1]) + word[1:]
		}
		if n%sentence == sentence-1 {
			word += "."
		}
		m.send(w, "", word+" ")
	}
	m.end(w, "stop")
}

// word makes up a word that was never said before, and notes the time.
func (m *model) word(first bool, began time.Time) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count++
	letters := []byte("oooooo")
	for n, i := m.count, len(letters)-1; n > 0; n, i = n/10, i-1 {
		letters[i] = "obcdefghij"[n%10]
	}
	word := string(letters)
	now := time.Now()
	m.sent[word] = now
	if first {
		m.spent += now.Sub(began)
	}
	return word
}

func (m *model) send(w http.ResponseWriter, delta, content string) {
	if delta == "" {
		text, _ := json.Marshal(content) //nolint:errchkjson // a string
		delta = `{"role": "assistant", "content": ` + string(text) + `}`
	}
	m.chunk(w, `"choices": [{"index": 0, "delta": `+delta+`}]`)
}

func (m *model) end(w http.ResponseWriter, reason string) {
	m.chunk(w, `"choices": [{"index": 0, "delta": {}, "finish_reason": "`+reason+`"}]`)
	m.chunk(w, `"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 100, "total_tokens": 200}`)
	fmt.Fprint(w, "data: [DONE]\n\n")
}

func (m *model) chunk(w http.ResponseWriter, fields string) {
	fmt.Fprintf(w, "data: {\"id\": \"c\", \"object\": \"chat.completion.chunk\", \"model\": \"bench\", %s}\n\n", fields)
	_ = http.NewResponseController(w).Flush()
}

// own returns what the model itself took before the first words, and forgets it.
func (m *model) own() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	spent := m.spent
	m.spent = 0
	return spent
}

// ages returns how long ago each word of a text was sent, in its order.
func (m *model) ages(text string, now time.Time) []time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ages []time.Duration
	for word := range strings.FieldsSeq(text) {
		if sent, known := m.sent[strings.ToLower(strings.Trim(word, "."))]; known {
			ages = append(ages, now.Sub(sent))
		}
	}
	return ages
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
