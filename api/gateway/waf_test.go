package gateway_test

import (
	"encoding/binary"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/metric/noop"

	"bookworm/api/gateway"
	"bookworm/internal/waf"
)

// TestFirewallRefusesAttacksAtTheDoor asks over every protocol, with an attack and
// without.
func TestFirewallRefusesAttacksAtTheDoor(t *testing.T) {
	t.Parallel()
	const attack = "' OR '1'='1' UNION SELECT password FROM users -- "
	firewall, err := waf.New(waf.Block, slog.New(slog.DiscardHandler), noop.NewMeterProvider().Meter("test"))
	if err != nil {
		t.Fatal(err)
	}
	b := setup(t, func(o *gateway.Options) { o.Firewall = firewall })
	const list = "/bookworm.catalog.v1.CatalogService/ListBooks"
	framed := func(message string) string {
		return string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))) + message
	}
	for name, c := range map[string]struct {
		method string
		path   func(query string) string
		body   func(query string) string // nil: none
		kind   string
		status int // of an attack
	}{
		"REST": {http.MethodGet, func(q string) string { return "/api/v1/books?query=" + url.QueryEscape(q) }, nil, "", http.StatusForbidden},
		"Connect": {
			http.MethodPost, func(string) string { return list }, func(q string) string { return `{"query":"` + q + `"}` },
			"application/json", http.StatusForbidden,
		},
		"Connect GET": {
			http.MethodGet, func(q string) string {
				return list + "?connect=v1&encoding=json&message=" + url.QueryEscape(`{"query":"`+q+`"}`)
			}, nil,
			"", http.StatusForbidden,
		},
		"gRPC-Web": { // which says it in the trailers
			http.MethodPost, func(string) string { return list }, func(q string) string { return framed(`{"query":"` + q + `"}`) },
			"application/grpc-web+json", http.StatusOK,
		},
	} {
		send := func(query string) (through bool, got answer) {
			body, headers := "", b.as("alice", "customer")
			if c.body != nil {
				body, headers = c.body(query), append(headers, "Content-Type", c.kind)
			}
			b.behind.Store(0)
			got = b.send(t, c.method, c.path(query), body, headers...)
			return b.behind.Load() != 0, got
		}
		through, got := send(attack)
		if through || got.status != c.status || strings.Contains(got.body, "password") ||
			c.status == http.StatusForbidden && !strings.Contains(got.body, "REQUEST_BLOCKED") {
			t.Errorf("%s: an attack got %d %s", name, got.status, got.body)
		}
		if through, got = send("a whale"); !through || got.status != http.StatusOK {
			t.Errorf("%s: an innocent request got %d %s", name, got.status, got.body)
		}
	}
	if got := b.send(t, http.MethodGet, "/.env", ""); got.status != http.StatusForbidden || problemOf(t, got)["reason"] != "REQUEST_BLOCKED" {
		t.Errorf("a file of secrets: %d %s", got.status, got.body)
	}
	// The provider's reports are for the finance context to judge.
	b.shop.webhook = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }
	if got := b.send(t, http.MethodPost, "/webhooks/stripe", `{"description":"`+attack+`"}`); got.status != http.StatusOK {
		t.Errorf("a webhook got %d %s", got.status, got.body)
	}
}
