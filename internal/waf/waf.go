// Package waf looks for attacks in requests before anything else reads them: the
// OWASP Core Rule Set, run by Coraza, over the request line, the query, the headers
// and bodies in JSON. It is one more layer and no replacement for any: the shop
// validates what it takes and never puts it into SQL, a shell or a page.
package waf

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	coreruleset "github.com/corazawaf/coraza-coreruleset/v4"
	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/types"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Mode says what becomes of a request that looks like an attack.
type Mode string

// The modes.
const (
	Off    Mode = "off"    // nobody looks
	Detect Mode = "detect" // it is logged and goes on
	Block  Mode = "block"  // it is logged and refused
)

//go:embed rules.conf
var rules string

//go:embed exclusions.conf
var exclusions string

// blocking is the rule that matches when the others' scores reach the threshold.
const blocking = 949110

// firstAttack is the first rule that looks for something; those before it only
// prepare.
const firstAttack = 910000

// Firewall looks at requests. It is safe for concurrent use.
type Firewall struct {
	rules   coraza.WAF
	mode    Mode
	logger  *slog.Logger
	matches metric.Int64Counter
}

// New returns a firewall; nil for Off.
func New(mode Mode, logger *slog.Logger, meter metric.Meter) (*Firewall, error) {
	switch mode {
	case Off:
		return nil, nil //nolint:nilnil // a door without a firewall is one
	case Detect, Block:
	default:
		return nil, fmt.Errorf("%q is no mode of the firewall", mode)
	}
	compiled, err := coraza.NewWAF(coraza.NewWAFConfig().WithRootFS(coreruleset.FS).
		WithDirectives(rules + "\nInclude @owasp_crs/REQUEST-*.conf\n" + exclusions))
	if err != nil {
		return nil, fmt.Errorf("read the firewall's rules: %w", err)
	}
	matches, err := meter.Int64Counter("bookworm.waf.matches", metric.WithDescription("Rules that matched in requests that look like attacks."))
	if err != nil {
		return nil, fmt.Errorf("measure the firewall: %w", err)
	}
	return &Firewall{rules: compiled, mode: mode, logger: logger, matches: matches}, nil
}

// Guard looks at each request before next gets it, and hands one that is refused to
// refuse. Bodies in JSON are read whole, up to limit bytes, and within patience;
// from a longer one on, and in other types, a body is not looked at. What is
// streamed to the client is untouched.
func (f *Firewall) Guard(next http.Handler, refuse http.HandlerFunc, limit int64, patience time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		message, err := readMessage(w, r, limit, patience)
		if err == nil {
			var matched []int
			if matched, err = f.inspect(r, message); len(matched) > 0 {
				f.report(r.Context(), matched)
				if f.mode == Block {
					refuse(w, r)
					return
				}
			}
		}
		if err != nil {
			// Whoever reads the request next says what is wrong with it.
			f.logger.DebugContext(r.Context(), "request was not looked at whole", "error", err)
		}
		next.ServeHTTP(w, r)
	})
}

// report says which rules matched and never what they matched, which may be
// somebody's words.
func (f *Firewall) report(ctx context.Context, matched []int) {
	f.logger.WarnContext(ctx, "request looks like an attack", "rules", matched, "blocked", f.mode == Block)
	for _, rule := range matched {
		f.matches.Add(ctx, 1, metric.WithAttributes(attribute.Int("rule", rule), attribute.Bool("blocked", f.mode == Block)))
	}
}

// inspect returns the rules that matched when together they say that the request is
// an attack; none otherwise.
func (f *Firewall) inspect(r *http.Request, message []byte) (matched []int, err error) {
	tx := f.rules.NewTransaction()
	defer func() { err = errors.Join(err, tx.Close()) }()
	tx.ProcessURI(uriOf(r), r.Method, r.Proto)
	for name, values := range r.Header {
		if message != nil && name == "Content-Type" {
			values = []string{"application/json"} // of the message, whatever carries it
		}
		for _, value := range values {
			tx.AddRequestHeader(name, value)
		}
	}
	tx.AddRequestHeader("Host", r.Host)
	if message != nil && r.Header.Get("Content-Type") == "" {
		tx.AddRequestHeader("Content-Type", "application/json")
	}
	tx.ProcessRequestHeaders()
	if message != nil {
		if _, _, err := tx.WriteRequestBody(message); err != nil {
			return nil, fmt.Errorf("hand over the body: %w", err)
		}
	}
	if _, err := tx.ProcessRequestBody(); err != nil {
		return nil, fmt.Errorf("look at the request: %w", err)
	}
	return verdict(tx.MatchedRules()), nil
}

// verdict returns the attacks among matched rules if the blocking one is there too.
func verdict(matched []types.MatchedRule) []int {
	var attacks []int
	blocked := false
	for _, m := range matched {
		id := m.Rule().ID()
		blocked = blocked || id == blocking
		if id >= firstAttack && m.Message() != "" && id/1000 != blocking/1000 {
			attacks = append(attacks, id)
		}
	}
	if !blocked {
		return nil
	}
	slices.Sort(attacks)
	return slices.Compact(attacks)
}

// uriOf returns the request's path and query, without the message of a Connect GET,
// which is looked at as the body that it is.
func uriOf(r *http.Request) string {
	if _, is := connectGet(r); !is {
		return r.URL.RequestURI()
	}
	query := r.URL.Query()
	query.Del("message")
	query.Del("base64") // which the rules take for the command
	u := *r.URL
	u.RawQuery = query.Encode()
	return u.RequestURI()
}

// connectGet returns the query of a call over Connect's GET with a message in JSON.
func connectGet(r *http.Request) (url.Values, bool) {
	if r.Method != http.MethodGet || !strings.Contains(r.URL.RawQuery, "message=") {
		return nil, false
	}
	query := r.URL.Query()
	return query, query.Get("encoding") == "json"
}

// readMessage returns the JSON that the request carries, nil for none, and puts the
// body back.
func readMessage(w http.ResponseWriter, r *http.Request, limit int64, patience time.Duration) ([]byte, error) {
	if query, is := connectGet(r); is {
		message := []byte(query.Get("message"))
		if query.Get("base64") == "1" {
			decoded, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(string(message), "="))
			if err != nil {
				return nil, fmt.Errorf("decode the message: %w", err)
			}
			message = decoded
		}
		return decompress(message, query.Get("compression"), limit)
	}
	framed, is := inJSON(r)
	if !is || r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	body, err := readBody(w, r, limit, patience)
	if err != nil {
		return nil, err
	}
	if !framed {
		return decompress(body, r.Header.Get("Content-Encoding"), limit)
	}
	// A call has one message: five bytes of flags and length before it. What follows
	// is refused by the service.
	const prefix = 5
	if len(body) < prefix {
		return nil, errors.New("the body ends in its first frame")
	}
	size := int64(binary.BigEndian.Uint32(body[1:prefix]))
	message := body[prefix:min(int64(len(body)), prefix+size)]
	if body[0]&1 == 0 {
		return message, nil
	}
	coding := r.Header.Get("Connect-Content-Encoding") + r.Header.Get("Grpc-Encoding")
	return decompress(message, coding, limit)
}

// inJSON reports whether the body is JSON, and whether it comes in frames.
func inJSON(r *http.Request) (framed, is bool) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err != nil:
		return false, false
	case media == "application/json":
		return false, true
	}
	return true, media == "application/connect+json" || media == "application/grpc+json" || media == "application/grpc-web+json"
}

// readBody reads the body up to the limit and puts it back.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, patience time.Duration) ([]byte, error) {
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(patience)); err == nil {
		defer func() { _ = control.SetReadDeadline(time.Time{}) }() // who reads on sets its own
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	r.Body = &replayed{io.MultiReader(bytes.NewReader(body), &rest{r.Body, err}), r.Body}
	if err != nil {
		return nil, fmt.Errorf("read the body: %w", err)
	}
	if int64(len(body)) > limit {
		return nil, errors.New("the body is too long")
	}
	return body, nil
}

// replayed is a body that was read, and what is left of it.
type replayed struct {
	io.Reader
	io.Closer
}

// rest is the part of a body that was not read yet. A body that failed fails again.
type rest struct {
	body   io.Reader
	failed error
}

// Read reads on.
func (r *rest) Read(p []byte) (int, error) {
	if r.failed != nil {
		return 0, r.failed
	}
	return r.body.Read(p) //nolint:wrapcheck // a reader in a chain
}

// decompress returns the message in plain.
func decompress(message []byte, coding string, limit int64) ([]byte, error) {
	switch coding {
	case "", "identity":
		return message, nil
	case "gzip":
	default:
		return nil, fmt.Errorf("the coding %q is not known", coding)
	}
	from, err := gzip.NewReader(bytes.NewReader(message))
	if err != nil {
		return nil, fmt.Errorf("decompress the message: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(from, limit))
	if err != nil {
		return nil, fmt.Errorf("decompress the message: %w", err)
	}
	return plain, nil
}
