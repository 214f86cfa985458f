package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"bookworm/api/gateway"
)

func TestAgentsGoThrough(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *gateway.Options) { o.CORSOrigins = []string{"https://shop.example"} })
	b.shop.agent = func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		w.Header().Set("Cache-Control", "no-cache, no-transform")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, "%s %s %s auth=%t version=%s origin=%q from=%s host=%s trace=%t", r.Method, r.URL.Path, body,
			r.Header.Get("Authorization") != "", r.Header.Get("Mcp-Protocol-Version"), r.Header.Get("Origin"),
			r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Host"), r.Header.Get("Traceparent") != "")
	}
	alice := b.as("alice", "customer")
	door := strings.TrimPrefix(b.url, "http://")
	for name, test := range map[string]struct {
		method, path, body string
		headers            []string
		want               string
	}{
		"MCP, anonymous": {"POST", "/mcp", `{"x":1}`, []string{"Mcp-Protocol-Version", "2025-11-25"}, `POST /mcp {"x":1} auth=false version=2025-11-25 origin=""`},
		"MCP, signed in": {"POST", "/mcp", `{}`, alice, `POST /mcp {} auth=true version= origin=""`},
		"MCP stream":     {"GET", "/mcp", ``, nil, `GET /mcp  auth=false version= origin=""`},
		"MCP end":        {"DELETE", "/mcp", ``, nil, `DELETE /mcp  auth=false version= origin=""`},
		"MCP from a page": {
			"POST", "/mcp", `{}`, []string{"Origin", "https://shop.example", "X-Forwarded-For", "10.0.0.66", "X-Forwarded-Host", "evil.example"}, `POST /mcp {} auth=false version= origin=""`,
		},
		"A2A":  {"POST", "/a2a", `{}`, alice, `POST /a2a {} auth=true version= origin=""`},
		"card": {"GET", "/.well-known/agent-card.json", ``, nil, `GET /.well-known/agent-card.json  auth=false version= origin=""`},
	} {
		got := b.send(t, test.method, test.path, test.body, test.headers...)
		if want := test.want + " from=127.0.0.1 host=" + door + " trace=true"; got.status != http.StatusAccepted || got.body != want {
			t.Errorf("%s: got %d %s, want %s", name, got.status, got.body, want)
		}
		if cache := got.header.Values("Cache-Control"); len(cache) != 1 || cache[0] != "private, no-store" || got.header.Get("X-Content-Type-Options") != "nosniff" || got.header.Get("X-Request-Id") == "" {
			t.Errorf("%s: headers %v", name, got.header)
		}
		line := `"route":"` + test.path + `"`
		for end := time.Now().Add(5 * time.Second); !strings.Contains(b.log.String(), line) && time.Now().Before(end); { // it comes after the answer
			runtime.Gosched()
		}
		if !strings.Contains(b.log.String(), line) {
			t.Errorf("%s: no line in the log", name)
		}
	}
}

func TestA2_AgentsByTheirRules(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.shop.agent = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }
	forged := []string{"Authorization", "Bearer forged"}
	for name, test := range map[string]struct {
		method, path string
		headers      []string
		status       int
		reason       string
	}{
		"forged at MCP":      {"POST", "/mcp", forged, 401, "TOKEN_INVALID"},
		"forged at the card": {"GET", "/.well-known/agent-card.json", forged, 401, "TOKEN_INVALID"},
		"forged at A2A":      {"POST", "/a2a", forged, 401, "TOKEN_INVALID"},
		"nobody at A2A":      {"POST", "/a2a", nil, 401, "TOKEN_MISSING"},
		"service at A2A":     {"POST", "/a2a", b.as("checkout", "service"), 403, "ACCESS_DENIED"},
		"admin at A2A":       {"POST", "/a2a", b.as("root", "admin"), 403, "ACCESS_DENIED"},
		"a strange page":     {"POST", "/mcp", []string{"Origin", "http://evil.example"}, 403, "ACCESS_DENIED"},
		"rebound":            {"POST", "/mcp", []string{"Origin", b.url}, 403, "ACCESS_DENIED"},
		"no origin":          {"POST", "/a2a", append(b.as("alice", "customer"), "Origin", "null"), 403, "ACCESS_DENIED"},
		"below MCP":          {"POST", "/mcp/x", nil, 404, "NOT_FOUND"},
		"MCP and a slash":    {"POST", "/mcp/", nil, 404, "NOT_FOUND"},
		"beside the card":    {"GET", "/.well-known/agent.json", nil, 404, "NOT_FOUND"},
	} {
		got := b.send(t, test.method, test.path, "{}", test.headers...)
		if p := problemOf(t, got); got.status != test.status || p["reason"] != test.reason || (got.header.Get("WWW-Authenticate") == "Bearer") != (test.status == 401) {
			t.Errorf("%s: got %d %v %s", name, got.status, got.header, got.body)
		}
	}
	if behind := b.behind.Load(); behind != 0 {
		t.Errorf("%d requests went through", behind)
	}
	if got := b.send(t, http.MethodPost, "/mcp", strings.Repeat("x", 1<<20+1)); got.status != 413 || problemOf(t, got)["reason"] != "REQUEST_TOO_LARGE" {
		t.Errorf("too large: got %d", got.status)
	}
	b = setup(t, func(o *gateway.Options) { delete(o.Backends, "chat") })
	if got := b.send(t, http.MethodPost, "/mcp", "{}"); got.status != 404 {
		t.Errorf("a shop without a chat: got %d", got.status)
	}
}

// What an agent streams flows, for longer than any call with one answer may take,
// and ends when its client leaves.
func TestAgentStreamsFlow(t *testing.T) {
	t.Parallel()
	const unary = 50 * time.Millisecond
	b := setupWith(t, hasty(unary, time.Minute, time.Minute))
	left := make(chan struct{}, 1)
	b.shop.agent = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, wait := range []time.Duration{0, 5 * unary} {
			select {
			case <-time.After(wait):
			case <-r.Context().Done():
				return
			}
			fmt.Fprint(w, "event: message\ndata: {}\n\n")
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
		}
		<-r.Context().Done()
		left <- struct{}{}
	}
	for name, client := range clients(t) {
		for method, body := range map[string]string{http.MethodPost: "{}", http.MethodGet: ""} {
			response, reader := b.open(t, client, method, "/mcp", body)
			for i := range 2 {
				if got, err := readFrame(t, reader); err != nil || got.kind != "message" {
					t.Fatalf("%s over %s: event %d: %+v, %v", method, name, i, got, err)
				}
			}
			response.Body.Close()
			select {
			case <-left:
			case <-time.After(5 * time.Second):
				t.Errorf("%s over %s: the backend was left working", method, name)
			}
		}
	}
}
