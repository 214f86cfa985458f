package notification

import (
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"strings"
	texttemplate "text/template"
	"time"

	"bookworm/internal/money"
)

// The templates of mails about orders.
const (
	OrderConfirmed = "order_confirmed"
	OrderCancelled = "order_cancelled"
	PaymentFailed  = "payment_failed"
	OrderExpired   = "order_expired"
)

// The templates of notices about a person's data. They are sent whatever mails the
// person wants: the law asks for them.
const (
	ExportReady = "export_ready"
	ErasureDone = "erasure_done"
)

// Templates lists every template of a mail about an order, Notices every other.
var (
	Templates = []string{OrderConfirmed, OrderCancelled, PaymentFailed, OrderExpired}
	Notices   = []string{ExportReady, ErasureDone}
)

// ErrTemplate is returned for a template that does not exist.
var ErrTemplate = errors.New("unknown mail template")

// Order is what a mail says of an order.
type Order struct {
	ID                                       string
	Name                                     string // of the recipient; may be empty
	Lines                                    []Line
	Subtotal, Shipping, Tax, Discount, Total money.Money
	Reason                                   string // why it ended, a stable upper-case word; may be empty
}

// Line is one book of an order.
type Line struct {
	Title                string
	Quantity             int32
	UnitPrice, LineTotal money.Money
}

// Notice is what a mail says of a person's request for their data.
type Notice struct {
	ID        string // the request's
	Name      string // of the recipient; may be empty
	Proof     string // of what was done
	ExpiresAt time.Time
}

// Message is a written mail.
type Message struct{ Subject, Text, HTML string }

//go:embed templates
var templates embed.FS

// wording is one template, parsed twice: into the layout that is plain text, and
// into the one that is HTML and escapes what it is given.
type wording struct {
	text *texttemplate.Template
	page *htmltemplate.Template
}

var (
	orderWordings  = parse("order", Templates)
	noticeWordings = parse("notice", Notices)
)

// parse reads the templates of mails about one kind of thing.
func parse(kind string, names []string) map[string]wording {
	functions := map[string]any{"because": because, "printable": printable, "day": day}
	parsed := make(map[string]wording)
	for _, name := range names {
		file := "templates/" + name + ".tmpl"
		parsed[name] = wording{
			text: texttemplate.Must(texttemplate.New("layout.txt").Funcs(functions).
				ParseFS(templates, "templates/layout.txt", "templates/"+kind+".txt", file)),
			page: htmltemplate.Must(htmltemplate.New("layout.html").Funcs(functions).
				ParseFS(templates, "templates/layout.html", "templates/"+kind+".html", file)),
		}
	}
	return parsed
}

// Write writes a mail about an order. Errors: ErrTemplate.
func Write(template string, o Order) (Message, error) { return write(orderWordings, template, o) }

// WriteNotice writes a mail about a person's data. Errors: ErrTemplate.
func WriteNotice(template string, n Notice) (Message, error) {
	return write(noticeWordings, template, n)
}

func write(wordings map[string]wording, template string, about any) (Message, error) {
	w, ok := wordings[template]
	if !ok {
		return Message{}, fmt.Errorf("write mail %q: %w", template, ErrTemplate)
	}
	var subject, text, page strings.Builder
	err := errors.Join(
		w.text.ExecuteTemplate(&subject, "subject", about),
		w.text.Execute(&text, about),
		w.page.Execute(&page, about),
	)
	if err != nil {
		return Message{}, fmt.Errorf("write mail %q: %w", template, err)
	}
	return Message{Subject: strings.TrimSpace(subject.String()), Text: text.String(), HTML: page.String()}, nil
}

// day returns the day of a time, in words that every reader takes for the same one.
func day(t time.Time) string { return t.UTC().Format("2 January 2006") }

// reasons are the words for why an order ended. A reason that is not here is not
// shown: it may have been an operator's own, not meant for the shopper.
var reasons = map[string]string{
	"OUT_OF_STOCK":          "because a book is no longer in stock",
	"PAYMENT_ERROR":         "because the payment could not be completed",
	"CANCELLED_BY_SHOPPER":  "as you asked",
	"CANCELLED_BY_OPERATOR": "by our staff",
}

// because returns the reason as part of a sentence, with a space before it.
func because(reason string) string {
	if words := reasons[reason]; words != "" {
		return " " + words
	}
	return ""
}

// printable returns s on one line: without it, a title with line breaks could
// pass for another part of a plain text mail.
func printable(s string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s)), " ")
}
