package gateway_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"testing"

	"bookworm/api"
)

func TestOpenAPIDocumentIsServed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	got := b.send(t, http.MethodGet, "/api/openapi.json", "", "Accept-Encoding", "identity", "Origin", "https://elsewhere.example")
	if got.status != http.StatusOK || got.body != string(api.OpenAPI) {
		t.Fatalf("got %d, %d bytes", got.status, len(got.body))
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Cache-Control": "public, max-age=300", "Access-Control-Allow-Origin": "*",
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "X-Content-Type-Options": "nosniff",
	} {
		if got.header.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, got.header.Get(name), want)
		}
	}
	tag := got.header.Get("ETag")
	if len(tag) < 10 || strings.HasPrefix(tag, "W/") || !strings.Contains(strings.Join(got.header.Values("Vary"), ","), "Accept-Encoding") {
		t.Errorf("ETag %s, Vary %v", tag, got.header.Values("Vary"))
	}

	for accepted, zipped := range map[string]bool{"gzip": true, "br, GZIP;q=0.5": true, "gzip;q=0": false, "deflate": false, "gzip;q=x": false} {
		other := b.send(t, http.MethodGet, "/api/openapi.json", "", "Accept-Encoding", accepted)
		if (other.header.Get("Content-Encoding") == "gzip") != zipped {
			t.Errorf("%s: Content-Encoding %q", accepted, other.header.Get("Content-Encoding"))
			continue
		}
		if !zipped {
			continue
		}
		r, err := gzip.NewReader(strings.NewReader(other.body))
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(content, api.OpenAPI) {
			t.Errorf("%s: %v, %d bytes", accepted, err, len(content))
		}
		if other.header.Get("ETag") == tag {
			t.Error("two encodings have one strong ETag")
		}
	}

	if head := b.send(t, http.MethodHead, "/api/openapi.json", "", "Accept-Encoding", "identity"); head.status != http.StatusOK || len(head.body) > 0 || head.header.Get("ETag") != tag {
		t.Errorf("HEAD: %d, %d bytes, %s", head.status, len(head.body), head.header.Get("ETag"))
	}
	if again := b.send(t, http.MethodGet, "/api/openapi.json", "", "Accept-Encoding", "identity", "If-None-Match", tag); again.status != http.StatusNotModified || len(again.body) > 0 || again.header.Get("ETag") != tag {
		t.Errorf("If-None-Match: %d, %d bytes", again.status, len(again.body))
	}
	if post := b.send(t, http.MethodPost, "/api/openapi.json", "{}"); post.status != http.StatusMethodNotAllowed || post.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d, Allow %q", post.status, post.header.Get("Allow"))
	}
}

// The page loads what the gateway serves and nothing else.
func TestReadingPage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	page := b.send(t, http.MethodGet, "/api/docs", "")
	policy := page.header.Get("Content-Security-Policy")
	if page.status != http.StatusOK || page.header.Get("Content-Type") != "text/html; charset=utf-8" || strings.Contains(policy, "unsafe") || !strings.HasPrefix(policy, "default-src 'none'; script-src 'self'") {
		t.Fatalf("got %d %v", page.status, page.header)
	}
	loaded := 0
	for quoted := range strings.SplitSeq(page.body, `"`) {
		if strings.Contains(quoted, "//") {
			t.Errorf("the page names another host: %s", quoted)
		}
		if !strings.HasPrefix(quoted, "/api/") {
			continue
		}
		loaded++
		if part := b.send(t, http.MethodGet, quoted, ""); part.status != http.StatusOK || len(part.body) == 0 {
			t.Errorf("%s: got %d", quoted, part.status)
		}
	}
	if loaded < 6 {
		t.Errorf("the page loads %d files", loaded)
	}
	if got := b.send(t, http.MethodGet, "/api/docs/SHA256SUMS", ""); got.status != http.StatusNotFound {
		t.Errorf("a file that is not of the page: got %d", got.status)
	}
}

func TestReaderIsWhatNpmPublished(t *testing.T) {
	t.Parallel()
	b := setup(t)
	lines := strings.Split(strings.TrimSpace(string(read(t, "reader/SHA256SUMS"))), "\n")
	if len(lines) != 3 {
		t.Fatalf("got %q", lines)
	}
	for _, line := range lines[1:] {
		want, name, _ := strings.Cut(line, "  ")
		sum := sha256.Sum256([]byte(b.send(t, http.MethodGet, "/api/docs/"+name, "", "Accept-Encoding", "identity").body))
		if hex.EncodeToString(sum[:]) != want {
			t.Errorf("%s is not the file of tools/fetch-reader", name)
		}
	}
}
