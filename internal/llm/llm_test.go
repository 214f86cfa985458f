package llm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"bookworm/internal/fault"
)

const (
	testKey  = "sk-test-key"
	secret   = "my-cat-is-called-Leopold" // content: it must not be repeated anywhere
	testChat = "test-chat"
)

// direct serves requests without a network, so that synctest's clock moves.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	if w.Code == 0 || w.Header().Get("X-Break") != "" {
		return nil, errors.New("connection reset by peer")
	}
	return w.Result(), nil
}

func newClient(t *testing.T, url string, change func(*Config)) *Client {
	t.Helper()
	c := Config{
		BaseURL: url + "/v1", APIKey: testKey, ChatModel: testChat, EmbeddingModel: "test-embedding", Dimension: 3,
		Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&c)
	}
	client, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func directClient(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	return newClient(t, "http://model.invalid", func(c *Config) { c.HTTPClient = &http.Client{Transport: direct{handler}} })
}

func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// script answers the n-th request with the n-th step, and the rest with the last.
func script(calls *int, steps ...http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		step := steps[min(*calls, len(steps)-1)]
		*calls++
		step(w, r)
	}
}

func refuse(status int, header, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if name, value, ok := strings.Cut(header, ": "); ok {
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

func reset(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Break", "yes") }

// floats answers an embeddings request as an endpoint does that only writes numbers.
func floats(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Input []string `json:"input"`
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var data []string
	for i, text := range slices.Backward(request.Input) { // the index counts, not the order
		data = append(data, fmt.Sprintf(`{"index":%d,"embedding":[%d,1,2]}`, i, len(text)))
	}
	fmt.Fprintf(w, `{"data":[%s],"usage":{"prompt_tokens":5,"total_tokens":5}}`, strings.Join(data, ","))
}

func say(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		content, err := json.Marshal(text)
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(w, `{"choices":[{"message":{"role":"assistant","content":%s},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":2}}`, content)
	}
}

func events(lines ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, line := range lines {
			fmt.Fprintf(w, "data: %s\n\n", line)
		}
	}
}

func delta(content string) string {
	return fmt.Sprintf(`{"choices":[{"index":0,"delta":{"content":%q},"finish_reason":null}]}`, content)
}

const (
	finished = `{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`
	counted  = `{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":4}}`
	done     = "[DONE]"
)

func question(text string) Request {
	return Request{Messages: []Message{{Role: User, Content: text}}}
}

// readAll reads a stream to its end.
func readAll(t *testing.T, s *Stream) (string, error) {
	t.Helper()
	defer s.Close()
	var text strings.Builder
	for {
		chunk, err := s.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return text.String(), err
		}
		text.WriteString(chunk.Delta)
	}
}

func TestRateLimitIsWaitedOut(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"Retry-After: 7", "Retry-After: Sat, 01 Jan 2000 00:00:07 GMT"} { // synctest begins at 00:00:00
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			c := directClient(t, script(&calls, refuse(429, header, `{"error":{"message":"slow down","type":"requests"}}`), floats))
			began := time.Now()
			if _, err := c.Embed(t.Context(), []string{"a"}); err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(began); waited != 7*time.Second || calls < 2 {
				t.Errorf("%s: waited %v in %d calls, want 7s", header, waited, calls)
			}
		})
	}
}

func TestOutageIsRetriedWithGrowingWaits(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]http.HandlerFunc{
		"500": refuse(500, "", `{"error":{"message":"oops","type":"server_error"}}`), "503 of a proxy": refuse(503, "", "<html>"), "reset": reset,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var at []time.Time
				calls := 0
				c := directClient(t, func(w http.ResponseWriter, r *http.Request) {
					at = append(at, time.Now())
					script(&calls, outage, outage, say(`{"ok":true}`))(w, r)
				})
				var out struct{ OK bool }
				if _, err := c.JSON(t.Context(), question("?"), "x", json.RawMessage(`{"type":"object"}`), &out); err != nil || !out.OK {
					t.Fatalf("%v %v", out, err)
				}
				first, second := at[1].Sub(at[0]), at[2].Sub(at[1])
				if first < firstWait/2 || first > firstWait*3/2 || second < firstWait || second > firstWait*3 {
					t.Errorf("waited %v, then %v", first, second)
				}
			})
		})
	}
}

func TestThreeTriesThenUnavailable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		c := directClient(t, script(&calls, refuse(503, "", "")))
		_, err := c.Stream(t.Context(), question("?"))
		if !fault.Is(err, fault.ReasonUnavailable) || calls != maxTries {
			t.Errorf("after %d calls: %v", calls, err)
		}
	})
}

// TestRefusalsAreFinal also says that what was asked is not repeated: endpoints
// quote the request in their messages.
func TestRefusalsAreFinal(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer      http.HandlerFunc
		unavailable bool
		is          error
		says        string
	}{
		"bad request": {answer: refuse(400, "", `{"error":{"message":"no: `+secret+`","type":"invalid_request_error","param":"messages"}}`), says: "400 invalid_request_error messages"},
		"wrong key":   {answer: refuse(401, "", `{"error":{"message":"key `+secret+`","type":"invalid_request_error","code":"invalid_api_key"}}`), says: "invalid_api_key"},
		"other shape": {answer: refuse(404, "", `{"error":"model `+secret+`"}`), says: "404"},
		"quota":       {answer: refuse(429, "", `{"error":{"message":"pay","type":"insufficient_quota","code":"insufficient_quota"}}`), unavailable: true, says: "insufficient_quota"},
		"too long":    {answer: refuse(400, "", `{"error":{"message":"too long","code":"context_length_exceeded"}}`), is: ErrTooLong},
		"too long, in words": {
			answer: refuse(400, "", `{"error":{"message":"This model's maximum context length is 8192","code":400}}`), is: ErrTooLong,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			c := directClient(t, script(&calls, test.answer))
			for range 2 * breakerFailures { // they never open the breaker
				_, err := c.Stream(t.Context(), question(secret))
				if err == nil || fault.Is(err, fault.ReasonUnavailable) != test.unavailable || !strings.Contains(err.Error(), test.says) {
					t.Fatalf("error = %v", err)
				}
				if test.is != nil && !errors.Is(err, test.is) {
					t.Fatalf("error = %v, want %v", err, test.is)
				}
				if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), testKey) {
					t.Fatalf("the error repeats the request: %v", err)
				}
			}
			if calls != 2*breakerFailures {
				t.Errorf("%d calls for %d requests", calls, 2*breakerFailures)
			}
		})
	}
}

func TestNoWaitBeyondTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		c := directClient(t, script(&calls, refuse(429, "Retry-After: 20", "")))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		_, err := c.Embed(ctx, []string{"a"})
		if !fault.Is(err, fault.ReasonUnavailable) || time.Since(began) != 0 || calls != 1 {
			t.Errorf("after %v and %d calls: %v", time.Since(began), calls, err)
		}
		// Nor for longer than anybody would, without one.
		calls = 0
		c = directClient(t, script(&calls, refuse(429, "Retry-After: 3600", "")))
		if _, err = c.Embed(t.Context(), []string{"a"}); !fault.Is(err, fault.ReasonUnavailable) || calls != 1 {
			t.Errorf("after %d calls: %v", calls, err)
		}
	})
}

func TestBreakerOpensAndCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		calls, up := 0, false
		c := newClient(t, "http://model.invalid", func(c *Config) {
			c.Logger = slog.New(slog.NewTextHandler(&log, nil))
			c.HTTPClient = &http.Client{Transport: direct{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls++
				switch {
				case strings.HasSuffix(r.URL.Path, "/embeddings"):
					floats(w, r)
				case up:
					events(delta("hello"), finished, done)(w, r)
				default:
					reset(w, r)
				}
			})}}
		})
		ask := func() error {
			s, err := c.Stream(t.Context(), question(secret))
			if err != nil {
				return err
			}
			_, err = readAll(t, s)
			return err
		}
		for range 2 { // 3 tries, then 2 more
			if err := ask(); !fault.Is(err, fault.ReasonUnavailable) {
				t.Fatalf("error = %v", err)
			}
		}
		if calls != breakerFailures {
			t.Errorf("%d calls before the breaker opened, want %d", calls, breakerFailures)
		}
		began := time.Now()
		if err := ask(); !fault.Is(err, fault.ReasonUnavailable) || !errors.Is(err, gobreaker.ErrOpenState) {
			t.Errorf("error = %v", err)
		}
		if calls != breakerFailures || time.Since(began) != 0 {
			t.Errorf("an open breaker made %d calls in %v", calls-breakerFailures, time.Since(began))
		}
		if _, err := c.Embed(t.Context(), []string{"a"}); err != nil {
			t.Errorf("embeddings have a breaker of their own: %v", err)
		}

		<-time.After(breakerOpen + time.Nanosecond)
		calls = 0
		if err := ask(); !fault.Is(err, fault.ReasonUnavailable) || calls != 1 {
			t.Errorf("half open and still down: %d calls, %v", calls, err)
		}
		<-time.After(breakerOpen + time.Nanosecond)
		up = true
		for range 3 {
			if err := ask(); err != nil {
				t.Errorf("half open and up: %v", err)
			}
		}
		if !strings.Contains(log.String(), "state=open") || !strings.Contains(log.String(), "state=closed") || strings.Contains(log.String(), secret) {
			t.Errorf("log: %s", log.String())
		}
	})
}

func TestCallersOwnEndDoesNotCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := directClient(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		for range 2 * breakerFailures {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(errors.New("the shopper left")) })
			if _, err := c.Stream(ctx, question("?")); !errors.Is(err, context.Canceled) || fault.Is(err, fault.ReasonUnavailable) {
				t.Fatalf("error = %v", err)
			}
		}
		over, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		for range 2 * breakerFailures {
			if _, err := c.Stream(over, question("?")); !fault.Is(err, fault.ReasonUnavailable) {
				t.Fatalf("error = %v", err)
			}
		}
		if state := c.chatBreaker.State(); state != gobreaker.StateClosed {
			t.Fatalf("the breaker is %v", state)
		}
		// An endpoint that is too slow, by a deadline or by a caller who says so, is down.
		for i := range breakerFailures {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if i%2 == 0 {
				var giveUp context.CancelCauseFunc
				ctx, giveUp = context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { giveUp(context.DeadlineExceeded) })
			}
			_, err := c.Stream(ctx, question("?"))
			cancel()
			if !fault.Is(err, fault.ReasonUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("error = %v", err)
			}
		}
		if state := c.chatBreaker.State(); state != gobreaker.StateOpen {
			t.Errorf("the breaker is %v", state)
		}
	})
}

func TestStream(t *testing.T) {
	t.Parallel()
	type want struct {
		text      string
		err       error
		calls     []ToolCall
		usage     Usage
		truncated bool
	}
	call := func(index, id, name, arguments string) string {
		if index != "" {
			index = `"index":` + index + ","
		}
		return fmt.Sprintf(`{"choices":[{"delta":{"tool_calls":[{%s"id":%q,"type":"function","function":{"name":%q,"arguments":%q}}]}}]}`, index, id, name, arguments)
	}
	calls := []ToolCall{{ID: "call_a", Name: "search", Arguments: `{"q":"whales"}`}, {ID: "call_b", Name: "orders", Arguments: `{}`}}
	for name, test := range map[string]struct {
		events []string
		want   want
	}{
		"text": {
			[]string{`{"choices":[{"delta":{"role":"assistant","content":""}}]}`, delta("Hello"), delta(", you"), finished, counted, done},
			want{text: "Hello, you", usage: Usage{11, 4}},
		},
		"no usage":       {[]string{delta("Hello, you"), finished, done}, want{text: "Hello, you", usage: Usage{5, 3}}},
		"no done":        {[]string{delta("a"), finished, counted}, want{text: "a", usage: Usage{11, 4}}},
		"refusal":        {[]string{`{"choices":[{"delta":{"refusal":"I won't."}}]}`, finished, counted, done}, want{text: "I won't.", usage: Usage{11, 4}}},
		"length":         {[]string{delta("a"), `{"choices":[{"delta":{},"finish_reason":"length"}]}`, counted, done}, want{text: "a", usage: Usage{11, 4}, truncated: true}},
		"content filter": {[]string{delta("a"), `{"choices":[{"delta":{},"finish_reason":"content_filter"}]}`, counted, done}, want{text: "a", usage: Usage{11, 4}, truncated: true}},
		"calls in pieces": {
			[]string{
				call("0", "call_a", "search", ""), call("1", "call_b", "orders", ""), call("0", "", "", `{"q":`), call("1", "", "", "{}"),
				call("0", "", "", `"whales"}`), `{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}`, counted, done,
			},
			want{calls: calls, usage: Usage{11, 4}},
		},
		"calls without index": {
			[]string{call("", "call_a", "search", `{"q":`), call("", "", "", `"whales"}`), call("", "call_b", "orders", "{}"), finished, counted, done},
			want{calls: calls, usage: Usage{11, 4}},
		},
		"call that never ends": {[]string{call("0", "call_a", "search", `{"q":`)}, want{calls: []ToolCall{{"call_a", "search", `{"q":`}}, err: ErrCut, usage: Usage{5, 6}}},
		"cut":                  {[]string{delta("Hel")}, want{text: "Hel", err: ErrCut, usage: Usage{5, 1}}},
		"done too early":       {[]string{delta("Hel"), done}, want{text: "Hel", err: ErrCut, usage: Usage{5, 1}}},
		"no JSON":              {[]string{delta("Hel"), `{"choices":[{`, done}, want{text: "Hel", err: ErrInvalidAnswer, usage: Usage{5, 1}}},
		"another shape":        {[]string{delta("Hel"), `{"choices":"none"}`, done}, want{text: "Hel", err: ErrInvalidAnswer, usage: Usage{5, 1}}},
		"error in the middle":  {[]string{delta("Hel"), `{"error":{"message":"` + secret + `","type":"server_error"}}`, done}, want{text: "Hel", err: ErrCut, usage: Usage{5, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, serve(t, events(test.events...)).URL, nil)
			s, err := c.Stream(t.Context(), question("?"))
			if err != nil {
				t.Fatal(err)
			}
			text, err := readAll(t, s)
			if text != test.want.text || !errors.Is(err, test.want.err) || s.Truncated() != test.want.truncated {
				t.Errorf("got %q, %v, truncated %v", text, err, s.Truncated())
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error repeats the endpoint: %v", err)
			}
			if got := s.ToolCalls(); !slices.Equal(got, test.want.calls) {
				t.Errorf("calls = %v, want %v", got, test.want.calls)
			}
			if s.Usage() != test.want.usage {
				t.Errorf("usage = %v, want %v", s.Usage(), test.want.usage)
			}
			if _, again := s.Next(); again == nil || err != nil && !errors.Is(again, test.want.err) {
				t.Errorf("after the end Next says %v", again)
			}
		})
	}
}

func TestCallsWithoutIDGetOne(t *testing.T) {
	t.Parallel()
	c := newClient(t, serve(t, events(`{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"a","arguments":"{}"}},{"index":1,"function":{"name":"b","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}`, done)).URL, nil)
	s, err := c.Stream(t.Context(), question("?"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(t, s); err != nil {
		t.Fatal(err)
	}
	calls := s.ToolCalls()
	if len(calls) != 2 || calls[0].ID == "" || calls[0].ID == calls[1].ID || !slices.Equal(calls, s.ToolCalls()) {
		t.Errorf("calls = %v, then %v", calls, s.ToolCalls())
	}
}

func TestToolCallsAreBounded(t *testing.T) {
	t.Parallel()
	lines := make([]string, 0, 1000)
	for i := range 1000 {
		lines = append(lines, fmt.Sprintf(`{"choices":[{"delta":{"tool_calls":[{"index":%d,"id":"c%d","function":{"name":"a"}}]}}]}`, i*1000, i))
	}
	c := newClient(t, serve(t, events(lines...)).URL, nil)
	s, err := c.Stream(t.Context(), question("?"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(t, s); !errors.Is(err, ErrInvalidAnswer) || len(s.ToolCalls()) != maxToolCalls {
		t.Errorf("%d calls: %v", len(s.ToolCalls()), err)
	}
}

func TestStreamIsRetriedUntilItBegins(t *testing.T) {
	t.Parallel()
	calls := 0
	c := newClient(t, serve(t, script(&calls, refuse(502, "", ""), events(), events(delta("a"), finished, counted, done))).URL, nil)
	s, err := c.Stream(t.Context(), question("?"))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := readAll(t, s); text != "a" || err != nil || calls != 3 {
		t.Errorf("%q after %d calls: %v", text, calls, err)
	}
}

func TestRequestOnTheWire(t *testing.T) {
	t.Parallel()
	var got map[string]any
	var key string
	c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		key = r.Header.Get("Authorization")
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		events(delta("a"), finished, done)(w, r)
	}).URL, nil)
	s, err := c.Stream(t.Context(), Request{
		Messages: []Message{
			{Role: System, Content: "Be brief."},
			{Role: Assistant, ToolCalls: []ToolCall{{ID: "c1", Name: "search", Arguments: "{}"}}},
			{Role: ToolResult, Content: "{}", ToolCallID: "c1"},
		},
		Tools:     []Tool{{Name: "search", Description: "Finds.", Parameters: json.RawMessage(`{"type":"object"}`)}},
		MaxTokens: 77, User: "u1",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(t, s); err != nil {
		t.Fatal(err)
	}
	want := `{"max_tokens":77,"messages":[{"content":"Be brief.","role":"system"},` +
		`{"role":"assistant","tool_calls":[{"function":{"arguments":"{}","name":"search"},"id":"c1","type":"function"}]},` +
		`{"content":"{}","role":"tool","tool_call_id":"c1"}],"model":"test-chat","stream":true,"stream_options":{"include_usage":true},` +
		`"tools":[{"function":{"description":"Finds.","name":"search","parameters":{"type":"object"}},"type":"function"}],"user":"u1"}`
	if encoded, err := json.Marshal(got); err != nil || string(encoded) != want || key != "Bearer "+testKey {
		t.Errorf("sent %s with %q, want %s", encoded, key, want)
	}
}

func TestLimitGoesByTheNameTheEndpointKnows(t *testing.T) {
	t.Parallel()
	for model, refused := range map[string]bool{"test-chat": true, "gpt-5-mini": false} {
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			refusals := 0
			c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
				var request struct {
					Old int `json:"max_tokens"`
					New int `json:"max_completion_tokens"`
				}
				if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
					t.Error(err)
				}
				if request.Old != 0 || request.New != 5 {
					refusals++
					refuse(400, "", `{"error":{"message":"Unsupported parameter: 'max_tokens'","param":"max_tokens"}}`)(w, r)
					return
				}
				events(delta("a"), finished, done)(w, r)
			}).URL, func(c *Config) { c.ChatModel = model })
			for range 2 {
				s, err := c.Stream(t.Context(), Request{Messages: question("?").Messages, MaxTokens: 5})
				if err != nil {
					t.Fatal(err)
				}
				s.Close()
			}
			if want := map[bool]int{true: 1}[refused]; refusals != want {
				t.Errorf("%d refusals, want %d", refusals, want)
			}
		})
	}
}

// TestCancelledStreamsLeaveNothing: cancelling and closing both end the request at
// once and let go of connection and goroutines.
func TestCancelledStreamsLeaveNothing(t *testing.T) {
	t.Parallel()
	var open atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		open.Add(1)
		defer open.Add(-1)
		events(delta("a"))(w, r)
		w.(http.Flusher).Flush()
		<-r.Context().Done() // the model would go on
	}))
	var connections atomic.Int64
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			connections.Add(1)
		case http.StateClosed, http.StateHijacked:
			connections.Add(-1)
		case http.StateActive, http.StateIdle:
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	c := newClient(t, server.URL, nil)
	for i := range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel) // not before the end: Close alone must do
		s, err := c.Stream(ctx, question("?"))
		if err != nil {
			t.Fatal(err)
		}
		if chunk, err := s.Next(); err != nil || chunk.Delta != "a" {
			t.Fatalf("%v %v", chunk, err)
		}
		if i%2 == 0 {
			cancel()
			if _, err := s.Next(); !errors.Is(err, context.Canceled) || errors.Is(err, ErrCut) {
				t.Fatalf("error = %v", err)
			}
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close twice: %v", err)
		}
		if _, err := s.Next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("after Close Next says %v", err)
		}
	}
	eventually(t, "the endpoint sees every request end", func() bool { return open.Load() == 0 })
	eventually(t, "every connection is closed", func() bool { return connections.Load() == 0 })
}

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

func TestMetrics(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	failing := false
	c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case failing:
			refuse(400, "", "")(w, r)
		case strings.HasSuffix(r.URL.Path, "/embeddings"):
			floats(w, r)
		default:
			events(delta(secret), finished, counted, done)(w, r)
		}
	}).URL, func(c *Config) { c.Meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test") })
	s, err := c.Stream(t.Context(), question(secret))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(t, s); err != nil {
		t.Fatal(err)
	}
	s.Close() // once more counts nothing
	if _, err := c.Embed(t.Context(), []string{secret}); err != nil {
		t.Fatal(err)
	}
	failing = true
	if _, err := c.Stream(t.Context(), question(secret)); err == nil {
		t.Fatal("no error")
	}

	var collected metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &collected); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, m := range collected.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				got[m.Name+labels(p.Attributes)] = p.Value
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				got[m.Name+labels(p.Attributes)] = int64(p.Count)
			}
		}
	}
	want := map[string]int64{
		"bookworm_llm_tokens chat test-chat input":                   11,
		"bookworm_llm_tokens chat test-chat output":                  4,
		"bookworm_llm_tokens embeddings test-embedding input":        5,
		"gen_ai.client.operation.duration chat test-chat":            1,
		"gen_ai.client.operation.duration 400 chat test-chat":        1,
		"gen_ai.client.operation.duration embeddings test-embedding": 1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("metrics = %v, want %v", got, want)
	}
}

func labels(set attribute.Set) string {
	var s strings.Builder
	for _, kv := range set.ToSlice() {
		s.WriteString(" " + kv.Value.AsString())
	}
	return s.String()
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	_, err := New(Config{BaseURL: "model.example", APIKey: testKey, EmbeddingModel: "e"})
	if err == nil || !strings.Contains(err.Error(), "base URL") || !strings.Contains(err.Error(), "dimension is 0") || strings.Contains(err.Error(), testKey) {
		t.Errorf("error = %v", err)
	}
	c, err := New(Config{BaseURL: "http://127.0.0.1:1/v1", ChatModel: "c"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Embed(t.Context(), []string{"a"}); err == nil || fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("embedding without a model: %v", err)
	}
	if printed := fmt.Sprintf("%v %+v", Config{APIKey: testKey}, Config{APIKey: testKey}); strings.Contains(printed, testKey) {
		t.Errorf("the configuration prints its key: %s", printed)
	}
}

// FuzzStream feeds the reader of streams with what an endpoint may send.
func FuzzStream(f *testing.F) {
	f.Add("data: " + delta("a") + "\n\ndata: " + finished + "\n\ndata: [DONE]\n\n")
	f.Add("data: " + `{"choices":[{"delta":{"tool_calls":[{"index":-1,"function":{}}]}}]}` + "\n\n")
	f.Add("event: x\n: ping\ndata: {}\n\ndata: {\"error\":null}\n\n")
	f.Add("data: {\"error\":{\"message\":1}}\n\n")
	f.Fuzz(func(t *testing.T, body string) {
		c := directClient(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
		s := &Stream{client: c, ctx: t.Context(), cancel: func() {}}
		if err := s.open(t.Context(), c.chatRequest(question("?"))); err != nil {
			return
		}
		_, err := readAll(t, s)
		if err == nil && s.finish == "" {
			t.Error("a stream without a finish reason passed for whole")
		}
		for _, call := range s.ToolCalls() {
			if call.ID == "" {
				t.Error("a call without id")
			}
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, header := range []string{"", "7", "1.5", "-1", "1e300", "NaN", "Sat, 01 Jan 2000 00:00:07 GMT", "Sat, 01 Jan 1900 00:00:07 GMT"} {
		f.Add(header)
	}
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, header string) {
		if wait := retryAfter(header, now); wait < 0 {
			t.Errorf("%q waits %v", header, wait)
		}
	})
}
