package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5" //nolint:gosec // a checksum of what the database returns
	"embed"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stripe/stripe-go/v85/webhook"
	"golang.org/x/sync/errgroup"

	"bookworm/dev/folder"
	"bookworm/dev/shop"
	"bookworm/dev/shopper"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/rpc"
	"bookworm/internal/telemetry"
)

// The tables: what is sent, and what must come back. See hostileRequest.
//
//go:embed hostile/*.json
var hostileTables embed.FS

// goodOrigin is the one web page that may call the stage's shop.
const goodOrigin = "https://shop.example"

// hostileTable is one file of hostile/. What a request leaves out is the table's.
type hostileTable struct {
	About    string           `json:"about"`
	Requests []hostileRequest `json:"requests"`
	hostileRequest
}

// hostileRequest is one request. Path, headers, body, method and raw are templates
// in << >>, see stage.write.
type hostileRequest struct {
	Name string `json:"name"`
	// As is who sends it: alice, bob, ops, or "-" for nobody.
	As      string   `json:"as"`
	Method  string   `json:"method"`
	Path    string   `json:"path"`
	Headers []string `json:"headers"`
	Body    string   `json:"body"`
	// Raw replaces all of the above: the bytes of a connection.
	Raw string `json:"raw"`
	// Via is "h2" for HTTP/2.
	Via string `json:"via"`
	// Want is what may come back: "refused", an error of the caller's; "text", that or
	// a success, because the payload may be meant; "rpc", the same in JSON-RPC.
	Want string `json:"want"`
	// Ends says that the client sends nothing after it, and says so.
	Ends bool `json:"ends"`
	// Status narrows it.
	Status []int `json:"status"`
	// NoCORS says that no page of the origin may read the answer.
	NoCORS bool `json:"noCORS"`
	// Absent must not be in the answer.
	Absent string `json:"absent"`

	group, payload string
}

func loadHostile(t *testing.T) (requests, stored []hostileRequest) {
	t.Helper()
	files, err := hostileTables.ReadDir("hostile")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if file.Name() == "payloads.json" || file.Name() == "places.json" {
			continue
		}
		var table hostileTable
		readTable(t, file.Name(), &table)
		for _, r := range table.Requests {
			r.group = strings.TrimSuffix(file.Name(), ".json")
			inherit(&r.As, table.As)
			inherit(&r.As, "bob")
			inherit(&r.Method, table.Method)
			inherit(&r.Path, table.Path)
			inherit(&r.Want, table.Want)
			inherit(&r.Via, table.Via)
			if r.Headers == nil {
				r.Headers = table.Headers
			}
			requests = append(requests, r)
		}
	}
	var payloads struct {
		About    string                        `json:"about"`
		Payloads []struct{ Name, Text string } `json:"payloads"`
	}
	var places struct {
		About  string           `json:"about"`
		Places []hostileRequest `json:"places"`
		Stored []hostileRequest `json:"stored"`
	}
	readTable(t, "payloads.json", &payloads)
	readTable(t, "places.json", &places)
	cross := func(places []hostileRequest) (crossed []hostileRequest) {
		for _, place := range places {
			for _, p := range payloads.Payloads {
				r := place
				r.group, r.Name, r.payload = place.Name, p.Name, p.Text
				inherit(&r.As, "bob")
				crossed = append(crossed, r)
			}
		}
		return crossed
	}
	return append(requests, cross(places.Places)...), cross(places.Stored)
}

func readTable(t *testing.T, name string, into any) {
	t.Helper()
	content, err := hostileTables.ReadFile("hostile/" + name)
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(content))
		d.DisallowUnknownFields()
		err = d.Decode(into)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func inherit(value *string, from string) {
	if *value == "" {
		*value = from
	}
}

// stage is a shop of its own for hostile requests, so that a look at all its data
// tells whether one of them changed something.
type stage struct {
	shop    *shop.Shop
	log     *logBuffer
	folder  *folder.Folder
	db      *pgxpool.Pool
	redis   redis.UniversalClient
	gateway string // host:port
	tokens  map[string]string
	h2      *http.Client

	// What the templates may name.
	AliceSubject, AliceBook, AliceOrder, AliceReview, AliceConversation, AliceTurn, AlicePage, AliceKey string
	BobBook, BobOrder, BobReview, BobConversation, BobTurn                                              string
	Book, Order, Event                                                                                  string
}

// canary is in everything that alice has written, and in no request.
const canary = "Canarybird"

func openStage(t *testing.T) *stage {
	t.Helper()
	// So many requests are what this is about.
	s := openShop(t, append([]string{"BOOKWORM_CORS_ORIGINS=" + goodOrigin, "BOOKWORM_LIMIT_WEBHOOK=0"}, shop.Unlimited...)...)
	s.furnish(t)
	s.tokens = hostileTokens(t, s.shop.Identity, s.shop.Addresses["BOOKWORM_ISSUER_URL"])
	return s
}

// openShop opens a shop of the test's own, on infrastructure of its own.
func openShop(t *testing.T, environ ...string) *stage {
	t.Helper()
	dir := t.TempDir()
	stop, addresses, err := start(t.Context(), "infra", filepath.Join(dir, "infra"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	s := &stage{log: &logBuffer{}, h2: &http.Client{Transport: rpc.Transport()}}
	if s.folder, err = folder.Open(filepath.Join(dir, "shop")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.folder.Close() })
	tel, err := telemetry.Setup(t.Context(), telemetry.Config{Service: "bookworm", LogLevel: slog.LevelDebug, LogWriter: s.log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tel.Shutdown(context.Background()) })
	s.shop, err = shop.Start(t.Context(), s.folder, addresses, shop.Options{
		Logger: slog.New(slog.DiscardHandler), Telemetry: tel, Environ: environ,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.shop.Stop(); err != nil {
			t.Error(err)
		}
	})
	if s.db, err = pgxpool.New(t.Context(), addresses["BOOKWORM_DATABASE_URL"]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.db.Close)
	options, err := redis.ParseURL(addresses["BOOKWORM_REDIS_URL"])
	if err != nil {
		t.Fatal(err)
	}
	s.redis = redis.NewClient(options)
	t.Cleanup(func() { _ = s.redis.Close() })
	s.gateway = strings.TrimPrefix(s.shop.Addresses["BOOKWORM_GATEWAY_URL"], "http://")
	return s
}

// furnish gives alice and bob something to lose.
func (s *stage) furnish(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	person := func(name string) *shopper.Shopper {
		token, err := s.shop.Identity.IssueWith(name, nil)
		must(err)
		return &shopper.Shopper{Gateway: "http://" + s.gateway, Token: token}
	}
	alice, bob := person("alice"), person("bob")
	s.AliceSubject = subjectOf(t, alice.Token)
	books, err := alice.Books(ctx, "in_stock=true&page_size=5")
	must(err)
	s.AliceBook, s.BobBook, s.Book = books[0].GetId(), books[1].GetId(), books[2].GetId()

	buy := func(who *shopper.Shopper, name, key string, ids ...string) string {
		for _, id := range ids {
			_, err := who.Put(ctx, id, 1)
			must(err)
		}
		request := shopper.Request("pm_card_visa")
		request.ShippingAddress.Recipient, request.ShippingAddress.Line1 = name, name+" Street"
		order, _, err := who.Place(ctx, key, request)
		must(err)
		_, err = who.AwaitOrder(ctx, order.GetId(), orderingv1.Order_CONFIRMED)
		must(err)
		_, err = who.AwaitEmptyBasket(ctx)
		must(err)
		return order.GetId()
	}
	s.AliceKey = uuid.NewString()
	buy(alice, canary, uuid.NewString(), books[3].GetId())
	s.AliceOrder = buy(alice, canary, s.AliceKey, s.AliceBook)
	s.BobOrder = buy(bob, "Bob", uuid.NewString(), s.BobBook)

	review := func(who *shopper.Shopper, book, text string) string {
		_, err := who.Review(ctx, book, 5, "Well told", text)
		must(err)
		published, err := who.AwaitReview(ctx, book, ratingv1.Review_PUBLISHED)
		must(err)
		return published.GetId()
	}
	s.AliceReview = review(alice, s.AliceBook, "A book that stays with its reader for a long time.")
	s.BobReview = review(bob, s.BobBook, "A book that one reads twice.")
	// The index learns of the new stars, and of the stock that was sold.
	_, err = shopper.Await(ctx, func(ctx context.Context) (n int, err error) {
		err = s.db.QueryRow(ctx, "select count(*) from catalog.index_pending").Scan(&n)
		return n, err
	}, func(n int) bool { return n == 0 })
	must(err)
	talk := func(who *shopper.Shopper, text string) (conversation, turn string) {
		begun, err := who.Say(ctx, "", uuid.NewString(), text)
		must(err)
		_, err = begun.Each(func(string) {})
		must(err)
		return begun.ConversationID, begun.ID
	}
	s.AliceConversation, s.AliceTurn = talk(alice, "Have you a book about a "+canary+"?")
	s.BobConversation, s.BobTurn = talk(bob, "Have you a book about the sea?")
	_, err = alice.Put(ctx, s.Book, 2)
	must(err)
	page := &orderingv1.ListOrdersResponse{}
	_, err = alice.Do(ctx, http.MethodGet, "/api/v1/orders?page_size=1", nil, page)
	must(err)
	s.AlicePage = page.GetNextPageToken()
	s.Order = `{"shipping_address":{"recipient":"B","line1":"1 Lane","city":"C","postal_code":"62701","country_code":"US"},"payment_method":"pm_card_visa"}`
	s.Event = `{"id":"evt_1","object":"event","type":"payment_intent.succeeded","data":{"object":{"id":"pi_1","metadata":{"order_id":"` + s.AliceOrder + `"}}}}`
	if s.AlicePage == "" || s.AliceTurn == "" || s.BobTurn == "" {
		t.Fatal("the stage is not furnished")
	}
	_, err = shopper.Await(ctx, func(ctx context.Context) (int, error) {
		mails, err := shopper.Mails(ctx, s.shop.Addresses["BOOKWORM_INBOX_URL"], "", "")
		return len(mails), err
	}, func(n int) bool { return n == 3 })
	must(err)
}

// write fills a template of the tables.
func (s *stage) write(t *testing.T, r hostileRequest, text string) string {
	t.Helper()
	if !strings.Contains(text, "<<") {
		return text
	}
	at := func(seconds int64) time.Time { return time.Now().Add(time.Duration(seconds) * time.Second) }
	signed := func(body, secret string, at time.Time) string {
		return webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: []byte(body), Secret: secret, Timestamp: at}).Header
	}
	secret := s.folder.Secrets.WebhookSecret
	tmpl, err := template.New("").Delims("<<", ">>").Funcs(template.FuncMap{
		"repeat": func(n int, text string) string { return strings.Repeat(text, n) },
		"repeatHex": func(n int, text string) (string, error) {
			b, err := hex.DecodeString(text)
			return strings.Repeat(string(b), n), err
		},
		"hex": func(text string) (string, error) { b, err := hex.DecodeString(text); return string(b), err },
		"lines": func(n int, format string) string {
			var lines []string
			for i := range n {
				lines = append(lines, fmt.Sprintf(format, i))
			}
			return strings.Join(lines, "\r\n")
		},
		"uuid":  uuid.NewString,
		"upper": strings.ToUpper,
		"isbn":  newISBN,
		"token": func(name string) (string, error) {
			if s.tokens[name] == "" {
				return "", fmt.Errorf("no token %q", name)
			}
			return s.tokens[name], nil
		},
		"query":   url.QueryEscape,
		"segment": url.PathEscape,
		"header":  func(text string) string { return text },
		"json": func(text string) (string, error) {
			var b bytes.Buffer
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			err := e.Encode(text)
			return strings.TrimSpace(b.String()), err
		},
		"frame": func(flags int, parts ...string) string {
			text := strings.Join(parts, "")
			return string(binary.BigEndian.AppendUint32([]byte{byte(flags)}, uint32(len(text)))) + text //nolint:gosec // small
		},
		"gzip":   func(n int, text string) string { return string(zipped(n, text)) },
		"gzip64": func(n int, text string) string { return base64.RawURLEncoding.EncodeToString(zipped(n, text)) },
		"gzipFrame": func(n int, text string) string {
			z := zipped(n, text)
			return string(binary.BigEndian.AppendUint32([]byte{1}, uint32(len(z)))) + string(z)
		}, //nolint:gosec // small
		"now":        func() int64 { return time.Now().Unix() },
		"signature":  func() string { _, v1, _ := strings.Cut(signed(s.Event, "whsec_forged", time.Now()), "v1="); return v1 },
		"signed":     func(age int64) string { return signed(s.Event, secret, at(age)) },
		"signedAt":   func(unix int64) string { return signed(s.Event, secret, time.Unix(unix, 0)) },
		"signedWith": func(other string) string { return signed(s.Event, other, time.Now()) },
		"signedBody": func(body string) string { return signed(body, secret, time.Now()) },
	}).Parse(text)
	if err != nil {
		t.Fatalf("%s: %s: %v", r.group, r.Name, err)
	}
	var filled strings.Builder
	if err := tmpl.Execute(&filled, struct {
		*stage
		Payload string
	}{s, r.payload}); err != nil {
		t.Fatalf("%s: %s: %v", r.group, r.Name, err)
	}
	return filled.String()
}

// zipped compresses n times a text.
func zipped(n int, text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	chunk := strings.Repeat(text, min(n, 1<<16))
	for left := n * len(text); left > 0; left -= len(chunk) {
		_, _ = io.WriteString(w, chunk[:min(left, len(chunk))])
	}
	_ = w.Close()
	return b.Bytes()
}

// hostileAnswer is what came back.
type hostileAnswer struct {
	status  int // 0: the connection was closed without an answer
	header  http.Header
	trailer http.Header
	body    string
	more    string // what came after it on the same connection
}

// errCut is a connection that the shop closed in the middle of a request, which is a
// way to refuse it.
var errCut = errors.New("cut")

func (s *stage) send(t *testing.T, r hostileRequest) (hostileAnswer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if r.Via == "h2" {
		return s.sendH2(ctx, t, r)
	}
	var raw string
	method := s.write(t, r, r.Method)
	if r.Raw != "" {
		raw = s.write(t, r, r.Raw)
		method = http.MethodGet
		if strings.HasPrefix(raw, "HEAD ") {
			method = http.MethodHead
		}
	} else {
		var b strings.Builder
		body := s.write(t, r, r.Body)
		fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", method, s.write(t, r, r.Path))
		host := true
		for _, line := range r.Headers {
			host = host && !strings.HasPrefix(line, "Host:")
		}
		if host {
			fmt.Fprintf(&b, "Host: %s\r\n", s.gateway)
		}
		if r.As != "-" {
			fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", s.tokens[r.As])
		}
		if body != "" || r.Body != "" {
			fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
		}
		for _, line := range r.Headers {
			b.WriteString(s.write(t, r, line) + "\r\n")
		}
		b.WriteString("\r\n" + body)
		raw = b.String()
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.gateway)
	if err != nil {
		return hostileAnswer{}, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	written := make(chan struct{})
	go func() { // the shop may answer before it has read everything
		defer close(written)
		_, _ = io.WriteString(conn, raw)
		if half, ok := conn.(*net.TCPConn); ok && r.Ends {
			_ = half.CloseWrite()
		}
	}()
	defer func() { _ = conn.Close(); <-written }()
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, &http.Request{Method: method}) //nolint:bodyclose // closed below
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), isReset(err):
		return hostileAnswer{}, errCut
	case err != nil:
		return hostileAnswer{}, fmt.Errorf("no answer: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil && !isReset(err) {
		return hostileAnswer{}, fmt.Errorf("the answer of %d: %w", response.StatusCode, err)
	}
	answer := hostileAnswer{status: response.StatusCode, header: response.Header, trailer: response.Trailer, body: string(body)}
	if r.Raw != "" && !response.Close {
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		rest, _ := io.ReadAll(reader)
		answer.more = string(rest)
	}
	return answer, nil
}

func isReset(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "connection reset") || strings.Contains(err.Error(), "broken pipe"))
}

func (s *stage) sendH2(ctx context.Context, t *testing.T, r hostileRequest) (hostileAnswer, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, r.Method, "http://"+s.gateway+s.write(t, r, r.Path), strings.NewReader(s.write(t, r, r.Body)))
	if err != nil {
		return hostileAnswer{}, err
	}
	if r.As != "-" {
		request.Header.Set("Authorization", "Bearer "+s.tokens[r.As])
	}
	for _, line := range r.Headers {
		name, value, _ := strings.Cut(s.write(t, r, line), ": ")
		request.Header.Set(name, value)
	}
	response, err := s.h2.Do(request)
	if err != nil {
		return hostileAnswer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return hostileAnswer{}, err
	}
	return hostileAnswer{status: response.StatusCode, header: response.Header, trailer: response.Trailer, body: string(body)}, nil
}

// leaks is what no answer may tell: where the shop's code stands, what it runs on,
// what it asked of its stores, and what is alice's.
var leaks = regexp.MustCompile(`(?i)goroutine \d|\.go:\d|panic|runtime error|nil pointer|SQLSTATE|syntax error at|pgx|pgconn|relation "|duplicate key|` +
	`bookworm/(internal|api|workflows|dev)|connectrpc|grpc-gateway|protoreflect|protobuf/|errors\.errorString|\*[a-z]+v1\.|[a-z]+v1\.\w+Request\b|` +
	`Go (value|struct)|strconv\.|/(usr|root|home|tmp|work|var|proc)/(?:[a-z])|redis:|WRONGTYPE|temporal|workflowservice|dial tcp|connection refused|` +
	`127\.0\.0\.1:\d|\[::1\]|localhost:\d|hostname|_secret_|whsec_|sk_test|pm_card_|root:x:|` + canary)

// judge says what is wrong with an answer.
func (s *stage) judge(t *testing.T, r hostileRequest, a hostileAnswer) (problems []string) {
	t.Helper()
	complain := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	outcome, known := rpcOutcome(a)
	switch {
	case len(r.Status) > 0 && !slices.Contains(r.Status, a.status):
		complain("got %d, want one of %v", a.status, r.Status)
	case a.status >= http.StatusInternalServerError && !slices.Contains(r.Status, a.status):
		complain("got %d", a.status)
	case r.Want == "refused" && !known && a.status < http.StatusBadRequest:
		complain("got %d, want a refusal", a.status)
	case r.Want == "refused" && known && outcome == "":
		complain("the call succeeded, want a refusal")
	case slices.Contains([]string{"internal", "unknown", "data_loss", "unavailable"}, outcome):
		complain("the call's code is %s", outcome)
	case r.Want != "refused" && r.Want != "text" && r.Want != "rpc":
		complain("the table wants %q", r.Want)
	}
	if strings.Contains(a.body, "-32603") {
		complain("JSON-RPC: internal error")
	}
	// What the caller sent comes back in a problem's detail; that is theirs.
	told := a.body
	if path := s.write(t, r, r.Path); len(path) > 8 {
		told = strings.ReplaceAll(told, path, "")
	}
	if r.payload != "" {
		for _, form := range []string{r.payload, strings.Trim(fmt.Sprintf("%q", r.payload), `"`), s.write(t, r, "<<json .Payload>>"), strings.ToLower(r.payload)} {
			told = strings.ReplaceAll(told, strings.Trim(form, `"`), "")
		}
	}
	for _, sent := range []string{s.gateway, "http://" + s.gateway} { // its own address is no secret
		told = strings.ReplaceAll(told, sent, "")
	}
	if found := leaks.FindString(told); found != "" {
		complain("the answer tells %q", found)
	}
	for name, values := range a.header {
		for _, value := range values {
			if found := leaks.FindString(strings.ReplaceAll(value, s.gateway, "")); found != "" {
				complain("the header %s tells %q", name, found)
			}
		}
	}
	if a.header.Get("X-Injected") != "" || a.header.Get("Set-Cookie") != "" || a.header.Get("Server") != "" || a.header.Get("X-Powered-By") != "" {
		complain("the headers are %v", a.header)
	}
	kind := a.header.Get("Content-Type")
	switch {
	case strings.HasPrefix(kind, "application/json"), strings.HasPrefix(kind, "application/problem+json"):
		if r.Method != http.MethodHead && !json.Valid([]byte(a.body)) {
			complain("the body is no JSON")
		}
	case strings.HasPrefix(kind, "text/html"):
		complain("the answer is a page")
	case strings.Contains(a.body, "<script") && !strings.HasPrefix(kind, "application/") && !strings.HasPrefix(kind, "text/event-stream"):
		complain("the payload comes back as %s", kind)
	}
	// What the HTTP server refuses itself never gets to the shop.
	own := strings.HasPrefix(kind, "text/plain") && (strings.HasPrefix(a.body, fmt.Sprint(a.status)) || strings.HasPrefix(a.body, "Unsupported transfer encoding")) ||
		kind == "" && a.body == "" && a.header.Get("X-Request-Id") == "" && (a.status == http.StatusBadRequest || a.status == http.StatusExpectationFailed ||
			r.Method == http.MethodOptions && r.Path == "*")
	if !own {
		if a.header.Get("X-Request-Id") == "" || a.header.Get("X-Content-Type-Options") != "nosniff" || a.header.Get("Content-Security-Policy") == "" {
			complain("the headers of every answer are missing: %v", a.header)
		}
	}
	if allowed := a.header.Get("Access-Control-Allow-Origin"); r.NoCORS && allowed != "" {
		complain("a page of %q may read the answer", allowed)
	}
	if a.header.Get("Access-Control-Allow-Credentials") != "" || a.header.Get("Access-Control-Allow-Origin") == "*" {
		complain("any page may call with cookies: %v", a.header)
	}
	if r.Absent != "" && strings.Contains(a.body, r.Absent) {
		complain("the answer has %q", r.Absent)
	}
	if strings.HasPrefix(a.more, "HTTP/") {
		complain("what was hidden was answered: %.60q", a.more)
	}
	return problems
}

// rpcOutcome reads the code of a call's error where it is not the HTTP status: ""
// for a success. known is false where the status says it all.
func rpcOutcome(a hostileAnswer) (code string, known bool) {
	codes := []string{
		"", "canceled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists", "permission_denied", "resource_exhausted",
		"failed_precondition", "aborted", "out_of_range", "unimplemented", "internal", "unavailable", "data_loss", "unauthenticated",
	}
	named := func(number string) (string, bool) {
		var n int
		if _, err := fmt.Sscan(number, &n); err != nil || n < 0 || n >= len(codes) {
			return "unknown", true
		}
		return codes[n], true
	}
	kind := a.header.Get("Content-Type")
	switch {
	case a.status != http.StatusOK:
		return "", false
	case a.header.Get("Grpc-Status") != "":
		return named(a.header.Get("Grpc-Status"))
	case a.trailer.Get("Grpc-Status") != "":
		return named(a.trailer.Get("Grpc-Status"))
	case strings.HasPrefix(kind, "application/grpc-web"):
		body := a.body
		if strings.HasPrefix(kind, "application/grpc-web-text") {
			decoded, _ := base64.StdEncoding.DecodeString(body)
			body = string(decoded)
		}
		if found := regexp.MustCompile(`(?i)grpc-status: ?(\d+)`).FindStringSubmatch(body); found != nil {
			return named(found[1])
		}
		return "unknown", true
	case strings.HasPrefix(kind, "application/connect+"):
		if found := regexp.MustCompile(`"code":"(\w+)"`).FindStringSubmatch(a.body); found != nil {
			return found[1], true
		}
		return "", true
	}
	return "", false
}

// fingerprint is of every row in every table and of every basket.
func (s *stage) fingerprint(t *testing.T) map[string]string {
	t.Helper()
	rows, err := s.db.Query(t.Context(), `select format('%I.%I', table_schema, table_name) from information_schema.tables
		where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')`)
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, table)
	}
	if err := rows.Err(); err != nil || len(tables) < 15 {
		t.Fatalf("found %d tables: %v", len(tables), err)
	}
	found := make(map[string]string)
	for _, table := range tables {
		var sum string
		if err := s.db.QueryRow(t.Context(), `select count(*) || ' ' || coalesce(md5(string_agg(r::text, '|' order by r::text)), '') from `+table+` r`).Scan(&sum); err != nil {
			t.Fatal(err)
		}
		found[table] = sum
	}
	baskets := s.redis.Scan(t.Context(), 0, "basket:*", 1000).Iterator()
	for baskets.Next(t.Context()) {
		fields, err := s.redis.HGetAll(t.Context(), baskets.Val()).Result()
		if err != nil {
			t.Fatal(err)
		}
		found[baskets.Val()] = fmt.Sprintf("%x", md5.Sum(fmt.Append(nil, fields))) //nolint:gosec // as above
	}
	if err := baskets.Err(); err != nil {
		t.Fatal(err)
	}
	found["effects at the payment provider"] = fmt.Sprint(len(s.shop.Payments.Effects()))
	mails, err := shopper.Mails(t.Context(), s.shop.Addresses["BOOKWORM_INBOX_URL"], "", "")
	if err != nil {
		t.Fatal(err)
	}
	found["mails"] = fmt.Sprint(len(mails))
	return found
}

// settle returns a fingerprint that stays the same: what the furnishing left to do
// in the background is done.
func (s *stage) settle(t *testing.T) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	last := s.fingerprint(t)
	same := 0
	_, err := shopper.Await(ctx, func(context.Context) (int, error) {
		now := s.fingerprint(t) //nolint:contextcheck // it is the test's
		if same++; len(differences(last, now)) > 0 {
			same = 0
		}
		last = now
		return same, nil
	}, func(same int) bool { return same == 40 }) // longer than the index waits between two looks
	if err != nil {
		t.Fatal(err)
	}
	return last
}

func differences(before, after map[string]string) (changed []string) {
	for name, sum := range after {
		if before[name] != sum {
			changed = append(changed, fmt.Sprintf("%s: %q, before %q", name, sum, before[name]))
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			changed = append(changed, name+" is gone")
		}
	}
	slices.Sort(changed)
	return changed
}

// TestHostileRequests sends everything in hostile/ to a running shop. None may get a
// 5xx, learn something that is not its business, or change a row; and the shop still
// sells books afterwards.
func TestHostileRequests(t *testing.T) { //nolint:paralleltest // its groups look at what each has changed, one after the other
	s := openStage(t)
	requests, stored := loadHostile(t)
	t.Logf("%d requests, and %d whose text may be kept", len(requests), len(stored))
	if len(requests) < 400 {
		t.Errorf("only %d hostile requests", len(requests))
	}
	before := s.settle(t)
	began := time.Now()
	for len(requests) > 0 {
		group := requests[0].group
		n := slices.IndexFunc(requests, func(r hostileRequest) bool { return r.group != group })
		if n < 0 {
			n = len(requests)
		}
		t.Run(group, func(t *testing.T) {
			s.sendAll(t, 8, requests[:n])
			after := s.fingerprint(t)
			for _, changed := range differences(before, after) {
				t.Errorf("one of these changed %s", changed)
			}
			before = after
		})
		requests = requests[n:]
	}
	t.Run("HTTP/2 frames", func(t *testing.T) { //nolint:paralleltest // as above
		for _, tc := range hostileFrames {
			t.Run(tc.name, func(t *testing.T) { s.frames(t, tc) }) //nolint:paralleltest // as above
		}
		for _, changed := range differences(before, s.fingerprint(t)) {
			t.Errorf("one of these changed %s", changed)
		}
	})
	// One after the other, because they write the same review.
	t.Run("kept as text", func(t *testing.T) { s.sendAll(t, 1, stored) }) //nolint:paralleltest // as above
	t.Logf("took %v", time.Since(began).Round(time.Millisecond))
	s.stillSells(t)
	s.loggedNothing(t)
}

func (s *stage) sendAll(t *testing.T, atOnce int, requests []hostileRequest) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, r := range requests {
		group.Go(func() error {
			began := time.Now()
			answer, err := s.send(t, r)
			switch {
			case errors.Is(err, errCut) && (r.Raw != "" || r.Want == "refused"):
			case err != nil:
				t.Errorf("%s: %s: %v", r.group, r.Name, err)
			default:
				for _, problem := range s.judge(t, r, answer) {
					t.Errorf("%s: %s: %s: %d %v %.300s", r.group, r.Name, problem, answer.status, answer.trailer, answer.body)
					if id := answer.header.Get("X-Request-Id"); answer.status >= 500 && id != "" {
						s.log.lines(func(line string) {
							if strings.Contains(line, id) {
								t.Logf("%.600s", line)
							}
						})
					}
				}
			}
			if took := time.Since(began); took > patience {
				t.Errorf("%s: %s: took %v", r.group, r.Name, took)
			}
			return nil
		})
	}
	_ = group.Wait()
}

// stillSells buys a book after all that.
func (s *stage) stillSells(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	alice := &shopper.Shopper{Gateway: "http://" + s.gateway, Token: s.tokens["alice"]}
	basket, err := alice.Basket(ctx)
	if err != nil || len(basket.GetItems()) != 1 || basket.GetItems()[0].GetQuantity() != 2 {
		t.Fatalf("alice's basket is %v, %v", basket, err)
	}
	order, _, err := alice.Place(ctx, uuid.NewString(), shopper.Request("pm_card_visa"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alice.AwaitOrder(ctx, order.GetId(), orderingv1.Order_CONFIRMED); err != nil {
		t.Error(err)
	}
}

// loggedNothing reads the log of all this: invariant A3.
func (s *stage) loggedNothing(t *testing.T) {
	t.Helper()
	secrets := []string{canary, "alice@", "bob@", "whsec_", "pm_card_", "_secret_", "evil.example", "?query=", "connect=v1", "etc/passwd"}
	for name, token := range s.tokens {
		if len(token) > 60 && len(token) < 4000 && name != "zeros" {
			secrets = append(secrets, token[len(token)-40:])
		}
	}
	lines, told := 0, 0
	s.log.lines(func(line string) {
		lines++
		// An activity that is tried again is no failure of a request.
		if strings.Contains(line, `"level":"ERROR"`) && !strings.Contains(line, `"msg":"Activity error."`) || strings.Contains(line, "panicked") {
			t.Errorf("an error was logged: %.500s", line)
		}
		for _, secret := range secrets {
			if strings.Contains(line, secret) && told < 20 {
				told++
				t.Errorf("logged %q: %.500s", secret, line)
			}
		}
	})
	if lines < 400 {
		t.Errorf("only %d lines were logged, so this proves nothing", lines)
	}
}
