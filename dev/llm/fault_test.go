package llm_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"bookworm/dev/llm"
	"bookworm/internal/fault"
	client "bookworm/internal/llm"
)

func hello() client.Request {
	return client.Request{Messages: []client.Message{{Role: client.User, Content: "hello"}}, Tools: tools}
}

func TestFaultsOfTransport(t *testing.T) {
	t.Parallel()
	for kind, tries := range map[llm.FaultKind]int64{llm.Error500: 2, llm.Error503: 2, llm.Reset: 2, llm.RateLimit429: 2} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			server := start(t)
			c := newClient(t, server, nil)
			inject(t, server, llm.Fault{Operation: "*", Kind: kind, Delay: 10 * time.Millisecond})
			s, err := c.Stream(t.Context(), hello())
			if err != nil {
				t.Fatal(err)
			}
			if text, err := read(t, s); err != nil || !strings.HasPrefix(text, "Hello!") || server.Counters().Requests != tries {
				t.Errorf("%q after %d requests: %v", text, server.Counters().Requests, err)
			}
		})
	}
}

func TestFaultsInStreams(t *testing.T) {
	t.Parallel()
	for kind, want := range map[llm.FaultKind]error{llm.CutStream: client.ErrCut, llm.NoFinish: client.ErrCut, llm.Garbage: client.ErrInvalidAnswer} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			server := start(t)
			c := newClient(t, server, nil)
			inject(t, server, llm.Fault{Operation: "chat", Kind: kind, Tokens: 3})
			s, err := c.Stream(t.Context(), hello())
			if err != nil {
				t.Fatal(err)
			}
			text, err := read(t, s)
			if !errors.Is(err, want) || text != "Hello! I" && kind != llm.CutStream || server.Counters().OutputTokens != 3 {
				t.Errorf("%q: %v, %+v", text, err, server.Counters())
			}
		})
	}
}

func TestSlowTokensAndCancellation(t *testing.T) {
	t.Parallel()
	server := start(t)
	c := newClient(t, server, nil)
	inject(t, server, llm.Fault{Operation: "chat", Kind: llm.SlowTokens, Delay: 20 * time.Millisecond, Count: llm.Always})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := time.Now() // before the first token may have been sent
	s, err := c.Stream(ctx, hello())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 3 {
		if _, err := s.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 40*time.Millisecond {
		t.Errorf("three slow tokens took %v", took)
	}
	cancel()
	for err == nil {
		_, err = s.Next()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
	eventually(t, "the model stops", func() bool { return server.Counters().InFlight == 0 })
	if n := server.Counters(); n.Cancelled != 1 {
		t.Errorf("counters = %+v", n)
	}
}

func TestHangEndsWithTheCaller(t *testing.T) {
	t.Parallel()
	server := start(t)
	c := newClient(t, server, nil)
	inject(t, server, llm.Fault{Operation: "chat", Kind: llm.Hang})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Stream(ctx, hello()); !fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("error = %v", err)
	}
	eventually(t, "the hanging request ends", func() bool { return server.Counters().InFlight == 0 && server.Counters().Cancelled == 1 })
}

func TestSlowFirstByte(t *testing.T) {
	t.Parallel()
	server := start(t)
	inject(t, server, llm.Fault{Operation: "*", Kind: llm.Slow, Delay: 50 * time.Millisecond})
	began := time.Now()
	if _, err := newClient(t, server, nil).Embed(t.Context(), []string{"a"}); err != nil || time.Since(began) < 50*time.Millisecond {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

func TestWrongDimension(t *testing.T) {
	t.Parallel()
	server := start(t)
	inject(t, server, llm.Fault{Operation: "embeddings", Kind: llm.WrongDimension})
	c := newClient(t, server, nil)
	if _, err := c.Embed(t.Context(), []string{"a"}); !errors.Is(err, client.ErrDimension) || !strings.Contains(err.Error(), "257 numbers, configured are 256") {
		t.Errorf("error = %v", err)
	}
	if _, err := c.Embed(t.Context(), []string{"a"}); err != nil {
		t.Errorf("one fault struck twice: %v", err)
	}
}

func TestFaultsOverHTTP(t *testing.T) {
	t.Parallel()
	server := start(t)
	base := strings.TrimSuffix(server.URL(), "/v1")
	call := func(method, path, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
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
		return resp.StatusCode, strings.TrimSpace(string(answer))
	}
	for body, want := range map[string]int{
		`{"operation":"chat","kind":"slow","count":-1,"delay_ms":7}`: 204, `{"operation":"paint","kind":"slow"}`: 400,
		`{"operation":"chat","kind":"odd"}`: 400, `{"operation":"chat","kind":"slow","count":-2}`: 400, `{"oops":1}`: 400, `{`: 400,
	} {
		if status, answer := call(http.MethodPost, "/_dev/faults", body); status != want {
			t.Errorf("%s: %d %s", body, status, answer)
		}
	}
	if _, list := call(http.MethodGet, "/_dev/faults", ""); list != `[{"operation":"chat","kind":"slow","count":-1,"delay_ms":7}]` {
		t.Errorf("faults = %s", list)
	}
	call(http.MethodDelete, "/_dev/faults", "")
	if _, list := call(http.MethodGet, "/_dev/faults", ""); list != `[]` {
		t.Errorf("after clearing: %s", list)
	}
	if _, counters := call(http.MethodGet, "/_dev/counters", ""); !strings.Contains(counters, `"in_flight":0`) {
		t.Errorf("counters = %s", counters)
	}
}

func TestQuestionsAreKept(t *testing.T) {
	t.Parallel()
	server := start(t)
	c := newClient(t, server, nil)
	for range 40 {
		s, err := c.Stream(t.Context(), hello())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := read(t, s); err != nil {
			t.Fatal(err)
		}
	}
	if kept := server.Questions(); len(kept) != 32 || !strings.Contains(kept[31], `"hello"`) {
		t.Errorf("%d kept: %v", len(kept), kept)
	}
}

func TestStopTwice(t *testing.T) {
	t.Parallel()
	server := start(t)
	inject(t, server, llm.Fault{Operation: "chat", Kind: llm.Hang})
	asked := make(chan error, 1)
	go func() {
		_, err := newClient(t, server, nil).Stream(t.Context(), hello())
		asked <- err
	}()
	eventually(t, "the question arrives", func() bool { return server.Counters().InFlight == 1 })
	server.Stop()
	server.Stop()
	if err := <-asked; !fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("error = %v", err)
	}
}
