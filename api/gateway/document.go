package gateway

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"bookworm/api"
)

const (
	documentPath = "/api/openapi.json"
	readerPath   = "/api/docs"
	// pageCache is for what changes with a release alone.
	pageCache = "public, max-age=300"
)

// readerPolicy is the Content-Security-Policy of the page at readerPath: its own
// files, and calls to the shop at its own address. The reader brings pictures in
// its styles.
const readerPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// reader is the page at readerPath and what it loads; tools/fetch-reader brings
// what is not ours.
//
//go:embed reader/*.html reader/*.js reader/*.css reader/*.gz reader/*.txt
var reader embed.FS

// page is a file that is the same for everybody.
type page struct {
	kind          string // media type
	tag           string // digest of the content
	plain, zipped []byte
}

// pages returns the OpenAPI document and the page to read it, by path.
var pages = sync.OnceValues(func() (map[string]page, error) {
	zipped, err := zip(api.OpenAPI)
	if err != nil {
		return nil, fmt.Errorf("zip the OpenAPI document: %w", err)
	}
	all := map[string]page{documentPath: newPage(documentPath, api.OpenAPI, zipped)}
	files, err := reader.ReadDir("reader")
	if err != nil {
		return nil, fmt.Errorf("list the reading page: %w", err)
	}
	for _, file := range files {
		content, err := reader.ReadFile("reader/" + file.Name())
		if err != nil {
			return nil, fmt.Errorf("read the reading page: %w", err)
		}
		name, isZipped := strings.CutSuffix(file.Name(), ".gz")
		path := strings.TrimSuffix(readerPath+"/"+name, "/index.html")
		plain, zipped := content, content
		if isZipped {
			plain, err = unzip(content)
		} else {
			zipped, err = zip(content)
		}
		if err != nil {
			return nil, fmt.Errorf("convert %s: %w", file.Name(), err)
		}
		all[path] = newPage(path, plain, zipped)
	}
	return all, nil
})

func newPage(path string, plain, zipped []byte) page {
	sum := sha256.Sum256(plain)
	return page{kindOf(path), base64.RawURLEncoding.EncodeToString(sum[:12]), plain, zipped}
}

// kindOf returns the media type of what a path names. The system's table of types
// differs between machines.
func kindOf(path string) string {
	switch {
	case strings.HasSuffix(path, ".json"):
		return "application/json"
	case strings.HasSuffix(path, ".js"):
		return "text/javascript; charset=utf-8"
	case strings.HasSuffix(path, ".css"):
		return "text/css; charset=utf-8"
	case strings.HasSuffix(path, ".txt"):
		return "text/plain; charset=utf-8"
	}
	return "text/html; charset=utf-8"
}

func unzip(content []byte) ([]byte, error) {
	zipped, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	return io.ReadAll(zipped)
}

func zip(content []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	if _, err := w.Write(content); err != nil {
		return nil, fmt.Errorf("write: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("end: %w", err)
	}
	return out.Bytes(), nil
}

// servePage answers with the OpenAPI document, or the page to read it.
func (g *gateway) servePage(w http.ResponseWriter, r *http.Request, asked page) {
	g.named(r, r.URL.Path)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		g.refuseMethod(w, r, http.MethodGet, http.MethodHead)
		return
	}
	header := w.Header()
	header.Set("Cache-Control", pageCache)
	header.Add("Vary", "Accept-Encoding")
	if r.URL.Path == documentPath {
		header.Set("Access-Control-Allow-Origin", "*") // what it says is no secret, and tools on other pages read it
	} else {
		header.Set("Content-Security-Policy", readerPolicy)
	}
	content, tag := asked.plain, asked.tag
	if acceptsGzip(r.Header.Get("Accept-Encoding")) {
		content, tag = asked.zipped, asked.tag+"-gzip" // a strong tag names one sequence of bytes
		header.Set("Content-Encoding", "gzip")
	}
	header.Set("ETag", `"`+tag+`"`)
	if matches(r.Header.Get("If-None-Match"), tag) {
		header.Del("Content-Encoding")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	header.Set("Content-Type", asked.kind)
	header.Set("Content-Length", strconv.Itoa(len(content)))
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return
	}
	if _, err := w.Write(content); err != nil {
		g.logger.DebugContext(r.Context(), "page not sent", "error", err) // the client went away
	}
}

// acceptsGzip reads an Accept-Encoding header (RFC 9110, section 12.5.3).
func acceptsGzip(header string) bool {
	for coding := range strings.SplitSeq(header, ",") {
		name, weight, _ := strings.Cut(coding, ";")
		if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
			continue
		}
		_, q, weighted := strings.Cut(weight, "=")
		quality, err := strconv.ParseFloat(strings.TrimSpace(q), 64)
		return !weighted || err == nil && quality > 0
	}
	return false
}
