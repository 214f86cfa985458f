// Package notification holds the activity that sends a mail about an order, or
// about a person's data. It is short and idempotent, and runs as a local activity
// on the notification task queue.
package notification

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"bookworm/internal/fault"
	"bookworm/internal/mail"
	"bookworm/internal/money"
	"bookworm/internal/notification"
	"bookworm/internal/personal"
	"bookworm/internal/process"
)

// TaskQueue is where the notification process runs.
const TaskQueue = "notification"

// MaxSend is the longest that SendOrderMail takes: the relay's time and that of
// the database around it.
const MaxSend = mail.MaxSend + settleTimeout + 10*time.Second

// settleTimeout bounds the writing down of what became of a mail. It has its own
// time because it matters most when the time of the attempt is up.
const settleTimeout = 5 * time.Second

// Activities is what the notification activities need.
type Activities struct {
	store      *notification.Store
	sender     *mail.Sender
	sealer     *personal.ShopperSealer
	logger     *slog.Logger
	deliveries metric.Int64Counter
}

// New returns the activities. The sealer must be the one that contacts are sealed
// with. The metric bookworm_notification_deliveries counts attempts by template
// and outcome; "unknown" and "refused" are what operators are woken for.
func New(
	store *notification.Store, sender *mail.Sender, sealer *personal.ShopperSealer, logger *slog.Logger, meters metric.MeterProvider,
) (*Activities, error) {
	deliveries, err := meters.Meter("bookworm/activities/notification").Int64Counter("bookworm_notification_deliveries",
		metric.WithDescription("Attempts to send a mail, by template and outcome."))
	if err != nil {
		return nil, fmt.Errorf("make the delivery counter: %w", err)
	}
	return &Activities{store: store, sender: sender, sealer: sealer, logger: logger, deliveries: deliveries}, nil
}

// Contact is whom to write to. It is personal, so it travels sealed for the
// shopper, under the id of the order or request: seal it with
// personal.ShopperSealer.Seal(ctx, subject, id, Contact{...}).
type Contact struct {
	Email string `json:"email"`
	Name  string `json:"name"`
}

// Mail is one mail about one event of one order, or of one request for a person's
// data. It stands in the workflow's history in clear text, apart from the contact.
type Mail struct {
	OrderID                                  string // empty when it is about a Request
	Subject                                  string // the shopper's opaque id, whose preferences hold
	Template                                 string
	EventID                                  string // the same for every repetition of the event
	Contact                                  personal.Sealed
	Lines                                    []Line
	Subtotal, Shipping, Tax, Discount, Total money.Money
	Reason                                   string   `json:",omitempty"` // why the order ended
	Request                                  *Request `json:",omitempty"`
}

// Request is a person's request for their data.
type Request struct {
	ID        string
	Proof     string
	ExpiresAt time.Time // when an export is deleted
}

// About returns the id of what the mail is about.
func (m Mail) About() string {
	if m.Request != nil {
		return m.Request.ID
	}
	return m.OrderID
}

// Line is one book of the order.
type Line struct {
	Title                string
	Quantity             int32
	UnitPrice, LineTotal money.Money
}

// Result is what became of the mail: sent, suppressed or unknown (see
// internal/notification.State).
type Result struct {
	State     string
	MessageID string // what to look for in the relay's log; empty when suppressed
}

// Types of the errors for which a retry does not help.
const (
	// ErrRefused: the relay will never take this mail. A person must look at it.
	ErrRefused = string(fault.ReasonRecipientMalformed)
	// ErrInvalid: the mail cannot be written, a defect of ours.
	ErrInvalid = string(fault.ReasonInvalidArgument)
)

// SendOrderMail sends the mail unless its recipient got it before or does not want
// it, and says what holds now. A recipient whose data was erased counts as one who
// does not want it. Running it any number of times, also concurrently,
// makes the relay accept at most one mail (invariant N3); the window is described
// at internal/notification.Store.Claim.
//
// Errors: RECIPIENT_MALFORMED when the relay refuses the mail for good and
// INVALID_ARGUMENT when it cannot be written, both not retryable. Any other error
// means that nobody has the mail and it should be tried again.
func (a *Activities) SendOrderMail(ctx context.Context, m Mail) (Result, error) {
	id, message, err := a.open(ctx, m)
	if errors.Is(err, personal.ErrErased) {
		return a.result(ctx, m, notification.Suppressed, ""), nil // nobody is left to write to
	}
	if err != nil {
		return Result{}, err
	}
	preferences, err := a.store.Preferences(ctx, m.Subject)
	if err != nil {
		return Result{}, err
	}
	if !preferences.OrderEmails && m.Request == nil {
		state, err := a.store.Suppress(ctx, id)
		if err != nil {
			return Result{}, err
		}
		if state != notification.Sending {
			return a.result(ctx, m, state, ""), nil
		}
		// An attempt got hold of it before the shopper changed their mind; the claim
		// below waits for it or finds out that it died.
	}
	claim, err := a.store.Claim(ctx, id)
	if err != nil {
		return Result{}, err
	}
	message.MessageID = claim.MessageID + "@" + a.sender.Domain()
	if claim.State != notification.Sending {
		return a.result(ctx, m, claim.State, message.MessageID), nil
	}
	return a.deliver(ctx, m, id, claim, message)
}

// deliver hands the claimed mail to the relay and settles the claim.
func (a *Activities) deliver(
	ctx context.Context, m Mail, id notification.Mail, claim notification.Claim, message mail.Message,
) (Result, error) {
	sendErr := a.sender.Send(ctx, message)
	state, detail := notification.Sent, ""
	var failed *mail.Error
	if errors.As(sendErr, &failed) {
		state, detail = notification.Failed, failed.Error()
		if failed.Outcome == mail.Unknown {
			state = notification.Unknown
		}
	}
	// The attempt's own time may be up; what happened has happened. Should this
	// fail, the claim's lease ends as unknown, which is right.
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := a.store.Settle(settling, id, claim, state, detail); err != nil {
		return Result{}, err
	}
	if state != notification.Failed {
		return a.result(ctx, m, state, message.MessageID), nil
	}
	a.count(ctx, m, failed.Outcome.String())
	if failed.Outcome == mail.Refused {
		return Result{}, process.Refused(fault.New(fault.ReasonRecipientMalformed, "%s", detail))
	}
	return Result{}, failed
}

// ReleaseOrderMail lets a mail whose fate is unknown be sent again. Only an
// operator's word leads here.
func (a *Activities) ReleaseOrderMail(ctx context.Context, m Mail) error {
	id, _, err := a.open(ctx, m)
	if errors.Is(err, personal.ErrErased) {
		return nil // nothing is left to release
	}
	if err != nil {
		return err
	}
	return a.store.Release(ctx, id)
}

// open turns a Mail into the mail's identity and its text, without a
// message id. It comes before the claim: a mail that cannot be written must not
// hold one.
func (a *Activities) open(ctx context.Context, m Mail) (notification.Mail, mail.Message, error) {
	if len(m.Contact) == 0 {
		return notification.Mail{}, mail.Message{}, invalid("there is no contact")
	}
	var contact Contact
	err := a.sealer.Open(ctx, m.Subject, m.About(), m.Contact, &contact)
	switch {
	case errors.Is(err, personal.ErrSealed):
		return notification.Mail{}, mail.Message{}, invalid("the contact cannot be opened")
	case err != nil:
		return notification.Mail{}, mail.Message{}, fmt.Errorf("open the contact: %w", err)
	case m.EventID == "":
		return notification.Mail{}, mail.Message{}, invalid("the event has no id")
	}
	written, err := write(m, contact.Name)
	if err != nil {
		return notification.Mail{}, mail.Message{}, invalid("the mail cannot be written: " + err.Error())
	}
	to := personal.Text(contact.Email)
	return notification.Mail{Recipient: to, Template: m.Template, EventID: m.EventID, Subject: m.Subject},
		mail.Message{To: to, Subject: written.Subject, Text: written.Text, HTML: written.HTML}, nil
}

func write(m Mail, name string) (notification.Message, error) {
	if m.Request != nil {
		return notification.WriteNotice(m.Template, notification.Notice{
			ID: m.Request.ID, Name: name, Proof: m.Request.Proof, ExpiresAt: m.Request.ExpiresAt,
		})
	}
	order := notification.Order{
		ID: m.OrderID, Name: name, Reason: m.Reason,
		Subtotal: m.Subtotal, Shipping: m.Shipping, Tax: m.Tax, Discount: m.Discount, Total: m.Total,
	}
	for _, l := range m.Lines {
		order.Lines = append(order.Lines, notification.Line(l))
	}
	return notification.Write(m.Template, order)
}

func invalid(problem string) error {
	return process.Refused(fault.New(fault.ReasonInvalidArgument, "%s", problem))
}

func (a *Activities) result(ctx context.Context, m Mail, state notification.State, messageID string) Result {
	a.count(ctx, m, string(state))
	if state == notification.Unknown {
		a.logger.WarnContext(ctx, "it is unknown whether the relay accepted a mail",
			"about", m.About(), "template", m.Template, "message_id", messageID)
	}
	return Result{State: string(state), MessageID: messageID}
}

func (a *Activities) count(ctx context.Context, m Mail, outcome string) {
	a.deliveries.Add(ctx, 1, metric.WithAttributes(
		attribute.String("template", m.Template), attribute.String("outcome", outcome)))
}
