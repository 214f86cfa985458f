package gateway_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"

	"bookworm/api/gateway"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	"bookworm/internal/identity"
	"bookworm/internal/rpc"
)

// slowest is how long one request may take; the fuzzer's machine is busy.
const slowest = 5 * time.Second

// anybody believes every token.
type anybody struct{}

func (anybody) Verify(context.Context, string) (identity.Caller, error) {
	return identity.Caller{Subject: "alice", Roles: []accessv1.Role{accessv1.Role_ROLE_CUSTOMER, accessv1.Role_ROLE_ADMIN}}, nil
}

// door is a gateway before a shop that answers, without real connections to it.
func door(f testing.TB) http.Handler {
	f.Helper()
	b := setup(f)
	options := gateway.Options{
		Backends: map[string]string{}, Verifier: anybody{}, Logger: slog.New(slog.DiscardHandler),
	}
	for _, name := range []string{"catalog", "basket", "ordering", "finance", "notification", "rating", "chat"} {
		options.Backends[name] = b.backend
	}
	handler, err := gateway.New(f.Context(), options)
	if err != nil {
		f.Fatal(err)
	}
	b.shop.webhook = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	b.shop.agent = func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
	}
	alice := "Bearer " + b.provider.Token("alice", "customer", "admin") // the contexts do not believe every token
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Authorization", alice)
		handler.ServeHTTP(w, r)
	})
}

// knock sends a request, and looks at what every answer must be: in time, no 5xx of
// the door's own making, and JSON where it says so. Unavailable is what a shop that
// lacks a procedure may be.
func knock(t *testing.T, handler http.Handler, request *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	for _, values := range request.Header {
		if !httpguts.ValidHeaderFieldValue(strings.Join(values, "")) {
			t.Skip("the server takes no such header")
		}
	}
	recorder := httptest.NewRecorder()
	began := time.Now()
	handler.ServeHTTP(recorder, request)
	if took := time.Since(began); took > slowest {
		t.Errorf("%s took %v", request.URL, took)
	}
	if recorder.Code >= http.StatusInternalServerError {
		t.Errorf("%s %q: %d %s", request.Method, request.URL, recorder.Code, recorder.Body)
	}
	kind := recorder.Header().Get("Content-Type")
	if (kind == "application/json" || kind == "application/problem+json") && recorder.Body.Len() > 0 && !json.Valid(recorder.Body.Bytes()) {
		t.Errorf("%s %q: no JSON: %q", request.Method, request.URL, recorder.Body)
	}
	if kind == "application/problem+json" {
		var problem struct {
			Reason string `json:"reason"`
			Title  string `json:"title"`
		}
		if err := json.Unmarshal(recorder.Body.Bytes(), &problem); err != nil || problem.Reason == "" || problem.Title == "" {
			t.Errorf("no whole problem: %s", recorder.Body)
		}
	}
	if recorder.Header().Get("X-Request-Id") == "" {
		t.Errorf("%s has no request id", request.URL)
	}
	return recorder
}

// knockAt makes a request as a server would read it, or nil where none would be.
func knockAt(method, target string, body string) *http.Request {
	address, err := url.ParseRequestURI(target)
	if err != nil || strings.ContainsFunc(method, func(r rune) bool { return r <= ' ' || r > '~' }) || method == "" {
		return nil
	}
	request := &http.Request{
		Method: method, URL: address, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header), Host: "shop",
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), RequestURI: target,
	}
	return request
}

// FuzzREST translates paths, queries and bodies of every route, and of none.
func FuzzREST(f *testing.F) {
	for _, method := range methods() {
		rule, ok := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
		if !ok || rule == nil {
			continue
		}
		for verb, path := range map[string]string{"GET": rule.GetGet(), "POST": rule.GetPost(), "PUT": rule.GetPut(), "PATCH": rule.GetPatch(), "DELETE": rule.GetDelete()} {
			if path != "" {
				f.Add(verb, strings.NewReplacer("{", "", "}", "").Replace(path)+"?page_size=1", `{"quantity":1}`, "k", `"v1"`, "1")
			}
		}
	}
	f.Add("GET", "/api/v1/books/%ff?query=%zz", "", "", "", "")
	f.Add("PATCH", "/api/v1/preferences?update_mask=order_emails.a.b", `{"order_emails":1e400}`, `"`, `W/""`, "9223372036854775808")
	f.Add("POST", "/api/v1/orders", strings.Repeat("[", 11_000), "\u00e9", "\u00e9", "\u0661")
	handler := door(f)
	f.Fuzz(func(t *testing.T, verb, target, body, key, condition, seen string) {
		request := knockAt(verb, target, body)
		if request == nil {
			return
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Idempotency-Key", key)
		request.Header.Set("If-Match", condition)
		request.Header.Set("Last-Event-ID", seen)
		knock(t, handler, request)
	})
}

// FuzzConnect reads unary Connect calls in JSON and in binary, and Connect GET.
func FuzzConnect(f *testing.F) {
	const get = "/bookworm.catalog.v1.CatalogService/GetBook"
	f.Add("POST", get, "application/json", "", "1000", []byte(`{"id":"`+aBook+`"}`))
	f.Add("POST", get, "application/proto", "gzip", "", []byte{10, 1, 'a'})
	f.Add("GET", get+"?connect=v1&encoding=json&message=%7B%7D", "", "", "", []byte{})
	f.Add("GET", get+"?connect=v1&encoding=proto&base64=1&compression=gzip&message=!!", "", "", "", []byte{})
	f.Add("POST", "/bookworm.chat.v1.ChatService/SendMessage", "application/connect+json", "", "x", []byte("\x00\x00\x00\x00\x02{}"))
	handler := door(f)
	f.Fuzz(func(t *testing.T, verb, target, kind, coding, timeout string, body []byte) {
		request := knockAt(verb, target, string(body))
		if request == nil || !strings.HasPrefix(target, "/bookworm.") || len(strings.TrimLeft(timeout, "0")) < 5 && strings.Trim(timeout, "0123456789") == "" {
			return // a deadline of the caller's own that passes is 504, as the protocol says
		}
		request.Header.Set("Content-Type", kind)
		request.Header.Set("Content-Encoding", coding)
		request.Header.Set("Connect-Timeout-Ms", timeout)
		knock(t, handler, request)
	})
}

// FuzzFrames reads the envelopes of gRPC, gRPC-Web and Connect streams. What is
// broken in them is the caller's fault, and not the shop's.
func FuzzFrames(f *testing.F) {
	frame := func(flags byte, body string) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(body))), body...) //nolint:gosec // small
	}
	f.Add("application/grpc", "", frame(0, "\n\x01a"))
	f.Add("application/grpc+json", "gzip", frame(1, "{}"))
	f.Add("application/grpc-web", "", frame(0x80, "grpc-status: 0"))
	f.Add("application/grpc-web+proto", "", []byte{0, 0xff, 0xff, 0xff, 0xff})
	f.Add("application/connect+proto", "", frame(2, "{}"))
	handler := door(f)
	f.Fuzz(func(t *testing.T, kind, coding string, body []byte) {
		request := knockAt(http.MethodPost, "/bookworm.catalog.v1.CatalogService/GetBook", string(body))
		request.ProtoMajor, request.ProtoMinor, request.Proto = 2, 0, "HTTP/2.0"
		request.Header.Set("Content-Type", kind)
		request.Header.Set("Grpc-Encoding", coding)
		request.Header.Set("TE", "trailers")
		got := knock(t, handler, request)
		for _, status := range []string{got.Header().Get("Grpc-Status"), got.Result().Trailer.Get("Grpc-Status")} {
			if status == "2" || status == "13" || status == "15" {
				t.Errorf("%s %q: grpc-status %s %s", kind, body, status, got.Result().Trailer.Get("Grpc-Message"))
			}
		}
	})
}

// FuzzDoor knocks at what is neither REST nor RPC: webhooks, MCP, A2A, and paths
// that are none.
func FuzzDoor(f *testing.F) {
	f.Add("POST", "/webhooks/stripe", "t=1,v1=00", `{}`)
	f.Add("POST", "/mcp", "", `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	f.Add("POST", "/a2a", "", `[`)
	f.Add("TRACE", "/.well-known/agent-card.json", "", "")
	f.Add("GET", "//..%2f..", "", "")
	handler := door(f)
	f.Fuzz(func(t *testing.T, verb, target, signature, body string) {
		if request := knockAt(verb, target, body); request != nil {
			request.Header.Set("Stripe-Signature", signature)
			knock(t, handler, request)
		}
	})
}

// FuzzAuthorization reads Authorization headers.
func FuzzAuthorization(f *testing.F) {
	for _, seed := range []string{"", "Bearer", "Bearer x", "bearer  x ", "Basic YTpi", "Bearer a, Bearer b", "Bearer\tx"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		caller, err := rpc.Authenticate(t.Context(), anybody{}, header)
		if err == nil && caller.Anonymous() != (header == "") {
			t.Errorf("%q is %v", header, caller)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "TOKEN_INVALID") {
			t.Errorf("%q: %v", header, err)
		}
	})
}
