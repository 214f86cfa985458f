package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"bookworm/api/gateway"
	"bookworm/internal/gen/bookworm/basket/v1/basketv1connect"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/chat/v1/chatv1connect"
	"bookworm/internal/rpc"
)

// raw opens a connection to the gateway and sends text over it.
func (b *bundle) raw(t *testing.T, text string) net.Conn {
	t.Helper()
	connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	if err := connection.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(connection, text); err != nil {
		t.Fatal(err)
	}
	return connection
}

// A client that does not send its body whole is told so in time; nothing reaches
// a backend, and no breaker takes it for one that is away.
func TestSlowBodiesAreCut(t *testing.T) {
	t.Parallel()
	breakers, err := rpc.NewBreakers(slog.New(slog.DiscardHandler), noop.Meter{})
	if err != nil {
		t.Fatal(err)
	}
	b := setupWith(t, hasty(200*time.Millisecond, time.Minute, time.Second), func(o *gateway.Options) { o.Breakers = breakers })
	alice := b.as("alice", "customer")[1]
	for name, test := range map[string]struct{ path, kind string }{
		"REST":            {"/api/v1/orders:quote", "application/json"},
		"a stream":        {messages, "application/json"},
		"Connect":         {basketv1connect.BasketServiceSetItemProcedure, "application/json"},
		"Connect, stream": {chatv1connect.ChatServiceSendMessageProcedure, "application/connect+json"},
		"gRPC-Web":        {basketv1connect.BasketServiceSetItemProcedure, "application/grpc-web+proto"},
		"a webhook":       {"/webhooks/stripe", "application/json"},
		"MCP":             {"/mcp", "application/json"},
		"A2A":             {"/a2a", "application/json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 6 {
				connection := b.raw(t, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: shop\r\nAuthorization: %s\r\nContent-Type: %s\r\nContent-Length: 100\r\n\r\n{", test.path, alice, test.kind))
				response, err := http.ReadResponse(bufio.NewReader(connection), nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(response.Body)
				_ = response.Body.Close()
				said := string(body) + response.Trailer.Get("Grpc-Message") + response.Header.Get("Grpc-Message")
				if err != nil || !strings.Contains(said, "did not arrive whole") {
					t.Errorf("got %d %q, %v", response.StatusCode, said, err)
				}
			}
		})
	}
	t.Cleanup(func() {
		if behind := b.behind.Load(); behind != 0 {
			t.Errorf("%d calls went through", behind)
		}
		for name, state := range breakers.States() {
			if state != "closed" {
				t.Errorf("the breaker of %s is %s", name, state)
			}
		}
	})
}

// A client that does not take its answer is given up, and the call ends with it.
func TestClientsThatDoNotTakeTheirAnswer(t *testing.T) {
	t.Parallel()
	b := setupWith(t, hasty(time.Minute, time.Minute, 300*time.Millisecond))
	text := strings.Repeat("x", 15<<20) // more than sockets hold
	b.shop.answerBook(func(context.Context, *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
		return &catalogv1.GetBookResponse{Book: &catalogv1.Book{Description: text}}, nil
	})
	for _, path := range []string{"/api/v1/books/" + aBook, "/bookworm.catalog.v1.CatalogService/GetBook?encoding=json&message=%7B%22id%22%3A%22" + aBook + "%22%7D"} {
		lines := strings.Count(b.log.String(), `"msg":"request"`)
		b.raw(t, "GET "+path+" HTTP/1.1\r\nHost: shop\r\n\r\n")
		for end := time.Now().Add(15 * time.Second); strings.Count(b.log.String(), `"msg":"request"`) == lines; {
			if time.Now().After(end) {
				t.Fatalf("%s is still answered to somebody who does not read", path)
			}
		}
	}
}

func TestHeaderLinesAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for lines, want := range map[int]int{100: 200, 200: 431} {
		connection := b.raw(t, "GET /api/v1/books/"+aBook+" HTTP/1.1\r\nHost: shop\r\n"+strings.Repeat("X-A: 1\r\n", lines)+"\r\n")
		response, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%d lines: got %d", lines, response.StatusCode)
		}
	}
}

// A backend that is away is not asked by everybody, over any way in, and is asked
// again when it may be back.
func TestBreakersBeforeTheBackends(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]struct{ backend, method, path string }{
		"REST":      {"basket", http.MethodGet, "/api/v1/basket"},
		"Connect":   {"basket", http.MethodPost, basketv1connect.BasketServiceGetBasketProcedure},
		"a stream":  {"chat", http.MethodPost, messages},
		"a webhook": {"finance", http.MethodPost, "/webhooks/stripe"},
		"MCP":       {"chat", http.MethodPost, "/mcp"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			breakers, err := rpc.NewBreakers(slog.New(slog.DiscardHandler), noop.Meter{})
			if err != nil {
				t.Fatal(err)
			}
			dead, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			if err := dead.Close(); err != nil {
				t.Fatal(err)
			}
			b := setup(t, func(o *gateway.Options) {
				o.Backends[ask.backend], o.Breakers = "http://"+dead.Addr().String(), breakers
			})
			alice, body := b.as("alice", "customer"), ""
			if ask.method == http.MethodPost {
				body = "{}"
			}
			for i := range 6 {
				got := b.send(t, ask.method, ask.path, body, alice...)
				if got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, "UNAVAILABLE") || got.header.Get("Retry-After") != "1" {
					t.Errorf("call %d: got %d %v %s", i+1, got.status, got.header, got.body)
				}
			}
			if states := breakers.States(); states[ask.backend] != "open" || states["catalog"] != "closed" {
				t.Errorf("states %v", states)
			}
			if got := b.send(t, http.MethodGet, "/api/v1/books/"+aBook, ""); got.status != http.StatusOK {
				t.Errorf("another backend: %d", got.status)
			}
			for end := time.Now().Add(5 * time.Second); breakers.States()[ask.backend] != "half-open"; {
				if time.Now().After(end) {
					t.Fatal("the backend is never asked again")
				}
			}
		})
	}
}
