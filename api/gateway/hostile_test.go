package gateway_test

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"bookworm/internal/fault"
)

// TestNoCallerOpensABreaker sends what a transport refuses to send on. Were it taken
// for a failure of the context, a few such requests would close the shop to everybody.
func TestNoCallerOpensABreaker(t *testing.T) {
	t.Parallel()
	handler := door(t)
	const book = "/bookworm.catalog.v1.CatalogService/GetBook"
	large := make(http.Header)
	for i := range 115 {
		large.Set(fmt.Sprintf("X-Filler-%d", i), strings.Repeat("a", 500))
	}
	for name, spoil := range map[string]func(*http.Request){
		"a method that is none": func(r *http.Request) { r.Method = "GE(T" },
		"headers that leave no room": func(r *http.Request) {
			maps.Copy(r.Header, large)
		},
		"a long query and headers": func(r *http.Request) {
			r.RequestURI = book + "?connect=v1&message=" + strings.Repeat("a", 62<<10)
			r.URL.RawQuery = r.RequestURI[len(book)+1:]
		},
	} {
		for range 10 {
			request := knockAt(http.MethodPost, book, `{"id":"`+aBook+`"}`)
			request.Header.Set("Content-Type", "application/json")
			spoil(request)
			if got := knock(t, handler, request); got.Code < 400 || got.Code > 499 {
				t.Fatalf("%s: got %d %s", name, got.Code, got.Body)
			}
		}
		request := knockAt(http.MethodPost, book, `{"id":"`+aBook+`"}`)
		request.Header.Set("Content-Type", "application/json")
		if got := knock(t, handler, request); got.Code != http.StatusOK {
			t.Fatalf("after %s: got %d %s", name, got.Code, got.Body)
		}
	}
}

func TestWhatIsMissingIsNotAFailureOfTheShop(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if got := b.send(t, http.MethodPost, "/bookworm.catalog.v1.CatalogService/DropBooks", "{}"); got.status != http.StatusNotFound || got.json(t)["code"] != "unimplemented" {
		t.Errorf("an unknown procedure: %d %s", got.status, got.body)
	}
	got := b.send(t, http.MethodPost, "/bookworm.catalog.v1.CatalogService/GetBook", "{}", "Content-Encoding", "br")
	if got.status != http.StatusUnsupportedMediaType || got.json(t)["code"] != "unimplemented" {
		t.Errorf("an unknown coding: %d %s", got.status, got.body)
	}
	if got := b.send(t, http.MethodPost, "/bookworm.catalog.v1.CatalogService/GetBook", `{"id":"`+aBook+`"}`, "Connection", "Upgrade", "Upgrade", "websocket"); got.status != http.StatusOK {
		t.Errorf("an upgrade: %d %s", got.status, got.body)
	}
	for _, query := range []string{"?page_size=%zz", "?query=%ff", "?a;b"} {
		if got := b.send(t, http.MethodGet, "/api/v1/books"+query, ""); got.status != http.StatusBadRequest || problemOf(t, got)["reason"] != string(fault.ReasonMalformedRequest) {
			t.Errorf("%s: %d %s", query, got.status, got.body)
		}
	}
	if got := b.send(t, http.MethodGet, "/api/v1/books/%ff", ""); got.status != http.StatusBadRequest {
		t.Errorf("a path that is no UTF-8: %d %s", got.status, got.body)
	}
}

// TestHeadersOfEveryAnswer looks at answers of each kind: a success, problems, and
// errors of RPC.
func TestHeadersOfEveryAnswer(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, got := range map[string]answer{
		"success":           b.send(t, http.MethodGet, "/api/v1/books", ""),
		"nothing there":     b.send(t, http.MethodGet, "/nothing", ""),
		"no token":          b.send(t, http.MethodGet, "/api/v1/basket", ""),
		"other method":      b.send(t, "PROPFIND", "/api/v1/books", ""),
		"RPC, success":      b.send(t, http.MethodPost, "/bookworm.catalog.v1.CatalogService/GetBook", `{"id":"`+aBook+`"}`),
		"RPC, not found":    b.send(t, http.MethodPost, "/bookworm.catalog.v1.CatalogService/X", `{}`),
		"RPC, no token":     b.send(t, http.MethodPost, "/bookworm.basket.v1.BasketService/GetBasket", `{}`),
		"RPC, bad timeout":  b.send(t, http.MethodPost, "/bookworm.catalog.v1.CatalogService/GetBook", `{}`, "Connect-Timeout-Ms", "soon"),
		"REST, no document": b.send(t, http.MethodPost, "/api/v1/orders:quote", `{`, b.as("alice", "customer")...),
	} {
		for header, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin",
			"Cross-Origin-Resource-Policy": "same-site", "Server": "", "X-Powered-By": "", "Access-Control-Allow-Origin": "",
		} {
			if got.header.Get(header) != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got.header.Get(header), want)
			}
		}
		if len(got.header.Get("X-Request-Id")) != 32 || !strings.Contains(got.header.Get("Content-Security-Policy"), "default-src 'none'") || got.header.Get("Permissions-Policy") == "" {
			t.Errorf("%s: %v", name, got.header)
		}
	}
	if got := b.send(t, "PROPFIND", "/api/v1/books", ""); got.status != http.StatusMethodNotAllowed || strings.Contains(b.log.String(), "PROPFIND") {
		t.Errorf("another method: %d, and the log has its name: %t", got.status, strings.Contains(b.log.String(), "PROPFIND"))
	}
}
