// Package mail hands messages to an SMTP relay and says what became of each:
// accepted, refused, or unknown.
package mail

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"net/textproto"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"bookworm/internal/personal"
)

const (
	// stageTimeout bounds each of the two stages of a delivery: reaching the relay
	// (connection, TLS, sign-in) and handing over the message.
	stageTimeout = 15 * time.Second
	// MaxSend is the longest that Send takes.
	MaxSend = 2 * stageTimeout
	// maxAddress is the longest address SMTP knows (RFC 5321, 4.5.3.1.3), in bytes.
	maxAddress = 254
)

// Config says which relay takes the shop's mail.
type Config struct {
	// URL is smtp://user:password@host:port or smtps:// (TLS from the first byte).
	// smtp uses STARTTLS where the relay offers it, and insists on it when there
	// is a user: no password goes over an open line. The port defaults to 25 and 465.
	URL string
	// From is the sender, an address with or without a name.
	From string
}

// Message is one mail to one recipient.
type Message struct {
	To      personal.Text // a bare address, without a name
	Subject string
	Text    string // the plain text part
	HTML    string // the HTML part; may be empty
	// MessageID is the part between the angle brackets, for example id@host. A
	// mail that is sent twice under one id can be told from two mails.
	MessageID string
}

// Outcome is what became of a message that Send could not hand over.
type Outcome int

const (
	// Unknown means the relay may have accepted the message: the connection ended
	// after the data was handed over and before the answer came. SMTP has no way
	// to ask. Sending again may deliver twice. It is the zero Outcome because it
	// is the one that must never be taken for another.
	Unknown Outcome = iota
	// Deferred means nothing was accepted and a later try may succeed.
	Deferred
	// Refused means nothing was accepted and no later try of the same message
	// will succeed.
	Refused
)

// String is the word for logs and metrics.
func (o Outcome) String() string {
	switch o {
	case Deferred:
		return "deferred"
	case Refused:
		return "refused"
	case Unknown:
	}
	return "unknown"
}

// Error is a message that was not handed over, or not for certain. It never
// repeats what the relay said, which usually quotes the recipient, and has
// nothing to unwrap for the same reason.
type Error struct {
	Outcome Outcome
	Stage   string // for example "recipient"
	Code    int    // SMTP reply code, 0 when there was none
	Status  string // enhanced status code, for example "5.1.1"; may be empty
	Detail  string // what happened to the connection; may be empty
}

// Error says the outcome, the stage and the codes.
func (e *Error) Error() string {
	s := "mail " + e.Outcome.String() + " at " + e.Stage
	if e.Code != 0 {
		s += " with " + strings.TrimSpace(strconv.Itoa(e.Code)+" "+e.Status)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// Sender sends through one relay. It is safe for concurrent use; each message
// has a connection of its own.
type Sender struct {
	host    string
	port    int
	tls     bool
	options []gomail.Option
	from    *netmail.Address
}

// Reach reports whether the relay answers. It sends nothing.
func (s *Sender) Reach(ctx context.Context) (err error) {
	var dial interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = &net.Dialer{}
	if s.tls {
		dial = &tls.Dialer{Config: &tls.Config{ServerName: s.host, MinVersion: tls.VersionTLS12}}
	}
	conn, err := dial.DialContext(ctx, "tcp", net.JoinHostPort(s.host, strconv.Itoa(s.port)))
	if err != nil {
		return fmt.Errorf("reach the mail relay: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return fmt.Errorf("reach the mail relay: %w", err)
		}
	}
	text := textproto.NewConn(conn)
	if _, _, err := text.ReadResponse(220); err != nil { // its greeting (RFC 5321, section 4.2)
		return fmt.Errorf("reach the mail relay: %w", err)
	}
	if err := text.PrintfLine("QUIT"); err != nil {
		return fmt.Errorf("leave the mail relay: %w", err)
	}
	return nil
}

// New checks the configuration. It does not connect.
func New(c Config) (*Sender, error) {
	from, err := netmail.ParseAddress(c.From)
	if err != nil {
		return nil, errors.New("the mail sender is not an address")
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Hostname() == "" { // the parser's error would repeat the password
		return nil, errors.New("the mail URL is not smtp://host:port or smtps://host:port")
	}
	s := &Sender{host: u.Hostname(), from: from, tls: u.Scheme == "smtps"}
	policy := gomail.TLSOpportunistic
	if u.User != nil {
		password, _ := u.User.Password()
		policy = gomail.TLSMandatory
		s.options = append(s.options,
			gomail.WithUsername(u.User.Username()), gomail.WithPassword(password),
			gomail.WithOpportunisticSMTPAuth(
				gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin))
	}
	switch u.Scheme {
	case "smtp":
		s.port = 25
		s.options = append(s.options, gomail.WithTLSPolicy(policy))
	case "smtps":
		s.port = 465
		s.options = append(s.options, gomail.WithSSL())
	default:
		return nil, fmt.Errorf("the mail URL's scheme is %q, not smtp or smtps", u.Scheme)
	}
	if u.Port() != "" {
		if s.port, err = strconv.Atoi(u.Port()); err != nil {
			return nil, errors.New("the mail URL's port is not a number")
		}
	}
	s.options = append(s.options, gomail.WithPort(s.port), gomail.WithTimeout(stageTimeout),
		// One message a connection: no check of an idle one before, no reset after.
		gomail.WithoutNoop(), gomail.WithoutRset())
	return s, nil
}

// Domain is the part of the sender's address after the @.
func (s *Sender) Domain() string {
	return s.from.Address[strings.LastIndexByte(s.from.Address, '@')+1:]
}

// Send hands the message to the relay and returns nil once the relay has
// accepted it. Every error is an *Error.
//
// Send looks at ctx only until it is connected. After that it goes on to the end,
// for MaxSend at most, because to break off in the middle is what makes a message
// Unknown.
func (s *Sender) Send(ctx context.Context, m Message) error {
	ctx, span := otel.Tracer("bookworm/internal/mail").Start(ctx, "mail send",
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(
			attribute.String("server.address", s.host),
			attribute.Int("server.port", s.port),
			attribute.String("mail.message_id", m.MessageID),
		))
	defer span.End()
	if failed := s.send(ctx, m); failed != nil {
		span.SetAttributes(attribute.String("mail.outcome", failed.Outcome.String()))
		span.SetStatus(codes.Error, failed.Error())
		return failed
	}
	span.SetAttributes(attribute.String("mail.outcome", "accepted"))
	return nil
}

func (s *Sender) send(ctx context.Context, m Message) *Error {
	message, failed := s.compose(m)
	if failed != nil {
		return failed
	}
	// The client closes nothing when the greeting, TLS or the sign-in fails.
	var connection net.Conn
	defer func() {
		if connection != nil {
			_ = connection.Close() // whatever happened, it has been decided by now
		}
	}()
	client, err := gomail.NewClient(s.host, append([]gomail.Option{
		gomail.WithDialContextFunc(func(ctx context.Context, network, address string) (_ net.Conn, err error) {
			connection, err = s.dial(ctx, network, address)
			return connection, err
		}),
	}, s.options...)...)
	if err != nil {
		return &Error{Outcome: Deferred, Stage: "set-up", Detail: err.Error()}
	}
	session, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return unreachable(err)
	}
	if err := client.SendWithSMTPClient(session, message); err != nil {
		return classify(err)
	}
	_ = session.Quit() // the message is the relay's now, however the farewell goes
	return nil
}

func (s *Sender) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if s.tls {
		dialer := tls.Dialer{Config: &tls.Config{ServerName: s.host, MinVersion: tls.VersionTLS12}}
		return dialer.DialContext(ctx, network, address)
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// messageID is what may stand between the angle brackets.
var messageID = regexp.MustCompile(`^[A-Za-z0-9._+-]+@[A-Za-z0-9.-]+$`)

// compose builds the message. Nothing of the input can become a header or an SMTP
// command: the recipient must be exactly one bare address, the id has an alphabet,
// and control characters in the subject become spaces.
func (s *Sender) compose(m Message) (*gomail.Msg, *Error) {
	to, err := netmail.ParseAddress(string(m.To))
	if err != nil || to.Address != string(m.To) || len(to.Address) > maxAddress ||
		strings.ContainsFunc(to.Address, isControl) {
		return nil, &Error{Outcome: Refused, Stage: "address", Detail: "the recipient is not an address"}
	}
	if !messageID.MatchString(m.MessageID) {
		return nil, &Error{Outcome: Refused, Stage: "message id", Detail: "the message id is not one"}
	}
	message := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	message.FromMailAddress(s.from)
	message.ToMailAddress(to)
	message.SetMessageIDWithValue(m.MessageID)
	message.SetDate()
	message.Subject(strings.Map(func(r rune) rune {
		if isControl(r) {
			return ' '
		}
		return r
	}, m.Subject))
	// No out-of-office replies, please (RFC 3834).
	message.SetGenHeader("Auto-Submitted", "auto-generated")
	message.SetBodyString(gomail.TypeTextPlain, m.Text)
	if m.HTML != "" {
		message.AddAlternativeString(gomail.TypeTextHTML, m.HTML)
	}
	return message, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' }

// unreachable classifies an error before the message was mentioned. Even a reply
// like 535 (wrong password) says nothing about the message, and operators mend it.
func unreachable(err error) *Error {
	failed := &Error{Outcome: Deferred, Stage: "connection"}
	if reply, ok := errors.AsType[*textproto.Error](err); ok {
		failed.Code = reply.Code
		return failed
	}
	if network, ok := errors.AsType[net.Error](err); ok {
		failed.Detail = network.Error()
	}
	return failed
}

// classify decides what an error during the handing over means. After the relay's
// go-ahead for the data, only a reply of 4xx or 5xx is a refusal; everything else
// is unknown.
func classify(err error) *Error {
	sending, ok := errors.AsType[*gomail.SendError](err)
	if !ok {
		return &Error{Outcome: Unknown, Stage: "delivery"}
	}
	failed := &Error{Code: sending.ErrorCode(), Status: sending.EnhancedStatusCode()}
	handedOver := false
	switch sending.Reason {
	case gomail.ErrConnCheck:
		failed.Stage = "connection"
	case gomail.ErrSMTPMailFrom:
		failed.Stage = "sender"
	case gomail.ErrSMTPRcptTo:
		failed.Stage = "recipient"
	case gomail.ErrSMTPData:
		failed.Stage = "data"
	case gomail.ErrGetSender, gomail.ErrGetRcpts, gomail.ErrNoUnencoded:
		failed.Stage, failed.Outcome = "message", Refused
		return failed
	case gomail.ErrWriteContent, gomail.ErrSMTPDataClose, gomail.ErrSMTPReset, gomail.ErrAmbiguous:
		failed.Stage, handedOver = "delivery", true
	default:
		failed.Stage, handedOver = "delivery", true
	}
	switch {
	case failed.Code >= 500:
		failed.Outcome = Refused
	case failed.Code >= 400 || !handedOver:
		failed.Outcome = Deferred
	default:
		failed.Outcome = Unknown
	}
	return failed
}
