package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"bookworm/api/gateway/status"
	"bookworm/dev/llm"
	"bookworm/dev/shopper"
)

// TestStatusFollowsTheShop takes dependencies away from a running shop, and reads on
// its health page what that means.
func TestStatusFollowsTheShop(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	page := func(ctx context.Context, accept string) (int, http.Header, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.gateway+"/status", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", accept)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, response.Header, string(body)
	}
	type seen struct {
		code   int
		report status.Report
	}
	level := func(r status.Report, dependency string) status.Level {
		i := slices.IndexFunc(r.Dependencies, func(d status.Dependency) bool { return d.Name == dependency })
		if i < 0 {
			return ""
		}
		return r.Dependencies[i].Status
	}
	becomes := func(code int, overall status.Level, dependency string, its status.Level) status.Report {
		t.Helper()
		last, err := shopper.Await(ctx, func(ctx context.Context) (s seen, err error) {
			var body string
			s.code, _, body = page(ctx, "application/json")
			if err := json.Unmarshal([]byte(body), &s.report); err != nil {
				return s, fmt.Errorf("%d %s: %w", s.code, body, err)
			}
			return s, nil
		}, func(s seen) bool {
			return s.code == code && s.report.Status == overall && level(s.report, dependency) == its
		})
		if err != nil {
			t.Fatalf("%s is not %s: %v", dependency, its, err)
		}
		return last.report
	}

	r := becomes(http.StatusOK, status.OK, "model", status.OK)
	for _, name := range []string{"postgresql", "redis", "temporal", "payment-provider", "search-index", "mail", "identity-provider"} {
		if got := level(r, name); got != status.OK {
			t.Errorf("%s is %q", name, got)
		}
	}
	if len(r.Services) != 9 || r.Version == "" || r.UptimeSeconds < 0 || len(r.Breakers) == 0 {
		t.Errorf("the report is %+v", r)
	}
	code, header, html := page(ctx, "text/html")
	if code != http.StatusOK || !strings.Contains(html, "<h1>All good</h1>") || header.Get("Cache-Control") != "no-store" ||
		header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(header.Get("Content-Security-Policy"), "sha256-") {
		t.Errorf("the page: %d %v %.200s", code, header, html)
	}
	for name, address := range s.shop.Addresses {
		where := strings.TrimPrefix(address, "http://")
		if strings.HasPrefix(where, "127.0.0.1:") && strings.Contains(html, strings.SplitN(where, "/", 2)[0]) {
			t.Errorf("the page tells the address of %s", name)
		}
	}

	if err := s.shop.Model.Inject(llm.Fault{Operation: "models", Kind: llm.Error503, Count: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	r = becomes(http.StatusOK, status.Degraded, "model", status.Down)
	if !strings.Contains(r.Summary, "Books are sold") {
		t.Errorf("without the model: %s", r.Summary)
	}
	if code, _, html := page(ctx, "text/html"); code != http.StatusOK || !strings.Contains(html, "<h1>Degraded</h1>") {
		t.Errorf("without the model the page is %d", code)
	}
	s.shop.Model.ClearFaults()
	becomes(http.StatusOK, status.OK, "model", status.OK)

	// Redis stops to answer for a while, and goes on.
	if err := s.redis.Do(ctx, "client", "pause", (12 * time.Second).Milliseconds(), "all").Err(); err != nil {
		t.Skipf("this Redis cannot be paused: %v", err)
	}
	becomes(http.StatusServiceUnavailable, status.Down, "redis", status.Down)
	becomes(http.StatusOK, status.OK, "redis", status.OK)
}
