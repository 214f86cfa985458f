package notification_test

import (
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"bookworm/internal/money"
	"bookworm/internal/notification"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func usd(minor int64) money.Money { return money.New("USD", minor) }

func order() notification.Order {
	return notification.Order{
		ID:   "0198f3c2-7d41-7a35-9c1e-2f6a1b0c9d8e",
		Name: "Alice Liddell",
		Lines: []notification.Line{
			{Title: "Alice's Adventures in Wonderland & Through the Looking-Glass", Quantity: 1, UnitPrice: usd(1299), LineTotal: usd(1299)},
			{Title: "Dune", Quantity: 2, UnitPrice: usd(1050), LineTotal: usd(2100)},
		},
		Subtotal: usd(3399), Shipping: usd(499), Tax: usd(280), Discount: usd(500), Total: usd(3678),
		Reason: "OUT_OF_STOCK",
	}
}

// TestWrite compares each mail with its golden file; `go test -update` rewrites
// them.
func TestWrite(t *testing.T) {
	t.Parallel()
	for _, template := range notification.Templates {
		t.Run(template, func(t *testing.T) {
			t.Parallel()
			m, err := notification.Write(template, order())
			if err != nil {
				t.Fatal(err)
			}
			golden(t, template+".txt", "Subject: "+m.Subject+"\n\n"+m.Text)
			golden(t, template+".html", m.HTML)
		})
	}
}

func TestWriteNotice(t *testing.T) {
	t.Parallel()
	notice := notification.Notice{
		ID: "0198f3c2-7d41-7a35-9c1e-2f6a1b0c9d8e", Name: "Alice <Liddell>", Proof: strings.Repeat("0123456789abcdef", 4),
		ExpiresAt: time.Date(2026, 12, 31, 23, 59, 0, 0, time.UTC),
	}
	for _, template := range notification.Notices {
		t.Run(template, func(t *testing.T) {
			t.Parallel()
			m, err := notification.WriteNotice(template, notice)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, template+".txt", "Subject: "+m.Subject+"\n\n"+m.Text)
			golden(t, template+".html", m.HTML)
			if strings.Contains(m.HTML, "<Liddell>") || !strings.Contains(m.Text, notice.Proof) {
				t.Errorf("got %s\n%s", m.HTML, m.Text)
			}
		})
	}
	if _, err := notification.WriteNotice(notification.OrderConfirmed, notice); !errors.Is(err, notification.ErrTemplate) {
		t.Errorf("a mail about an order as a notice: %v", err)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s", name, got)
	}
}

func TestWriteSaysTheTotalsAndLeavesOutNoDiscount(t *testing.T) {
	t.Parallel()
	o := order()
	o.Discount = usd(0)
	o.Name = ""
	m, err := notification.Write(notification.OrderConfirmed, o)
	if err != nil {
		t.Fatal(err)
	}
	for part, body := range map[string]string{"text": m.Text, "HTML": m.HTML} {
		for _, want := range []string{o.ID, "USD 36.78", "USD 4.99", "USD 2.80", "USD 33.99", "USD 10.50", "Hello,"} {
			if !strings.Contains(body, want) {
				t.Errorf("the %s does not say %q", part, want)
			}
		}
		if strings.Contains(body, "Discount") {
			t.Errorf("the %s mentions a discount of nothing", part)
		}
	}
}

// TestHostileTitles writes mails whose every text tries to be something else.
func TestHostileTitles(t *testing.T) {
	t.Parallel()
	for _, evil := range []string{
		`<script>alert(1)</script>`,
		`"><img src=x onerror=alert(1)>`,
		`</td></tr></table><a href="https://evil.example">log in here</a>`,
		"Dune\n\nTotal:    USD 0.00\r\nBcc: eve@b.example",
		`{{.Total}}{{template "next"}}`,
		"javascript:alert(1)",
		`' style='position:fixed`,
		"\u2028\u2029\x00\x1b[31m",
	} {
		o := order()
		o.Name, o.ID, o.Reason = evil, evil, evil
		for i := range o.Lines {
			o.Lines[i].Title = evil
		}
		for _, template := range notification.Templates {
			m, err := notification.Write(template, o)
			if err != nil {
				t.Fatal(err)
			}
			clean, err := notification.Write(template, order())
			if err != nil {
				t.Fatal(err)
			}
			if got, want := elements(t, m.HTML), elements(t, clean.HTML); got != want {
				t.Errorf("%s with %q: elements %s, want %s", template, evil, got, want)
			}
			if strings.ContainsAny(m.Subject, "\r\n\x00\x1b") {
				t.Errorf("%s with %q: subject %q", template, evil, m.Subject)
			}
			if got, want := strings.Count(m.Text, "\nTotal:"), 1; got != want {
				t.Errorf("%s with %q: %d totals", template, evil, got)
			}
			if strings.ContainsAny(m.Text, "\r\x00\x1b\u2028\u2029") {
				t.Errorf("%s with %q: control characters in the text", template, evil)
			}
			if !strings.Contains(m.Text, "USD 36.78") {
				t.Errorf("%s with %q: the total is gone", template, evil)
			}
		}
	}
}

// elements lists the start tags of a page with their attributes, in order.
func elements(t *testing.T, page string) string {
	t.Helper()
	var list strings.Builder
	tokens := html.NewTokenizer(strings.NewReader(page))
	for {
		switch tokens.Next() {
		case html.ErrorToken:
			if err := tokens.Err(); !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			return list.String()
		case html.StartTagToken, html.SelfClosingTagToken:
			list.WriteString(tokens.Token().String())
		case html.TextToken, html.EndTagToken, html.CommentToken, html.DoctypeToken:
		}
	}
}

func TestReasonsOfOperatorsAreNotShown(t *testing.T) {
	t.Parallel()
	o := order()
	o.Reason = "SUSPECTED_FRAUD"
	m, err := notification.Write(notification.OrderCancelled, o)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(m.Text+m.HTML, "FRAUD") || !strings.Contains(m.Text, "was cancelled. Nothing") {
		t.Errorf("text: %s", m.Text)
	}
}

func TestUnknownTemplate(t *testing.T) {
	t.Parallel()
	if _, err := notification.Write("../secrets", order()); !errors.Is(err, notification.ErrTemplate) {
		t.Errorf("error %v", err)
	}
}
