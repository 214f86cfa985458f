package inbox

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-message"
	_ "github.com/emersion/go-message/charset" // decodes charsets other than UTF-8
	"github.com/emersion/go-message/mail"
)

// Summary is a message in the list.
type Summary struct {
	ID string `json:"id"`
	// MessageID is the Message-ID header without its angle brackets.
	MessageID string `json:"message_id"`
	// From is the address of the From header, else that of the envelope.
	From string `json:"from"`
	// To are the recipients of the envelope: blind copies too.
	To      []string `json:"to"`
	Subject string   `json:"subject"`
	// Date is that of the Date header, else the time of arrival; in UTC.
	Date time.Time `json:"date"`
}

// Message is a message with its content.
type Message struct {
	Summary
	Text        string              `json:"text"`
	HTML        string              `json:"html"`
	Headers     map[string][]string `json:"headers"`
	Attachments []Attachment        `json:"attachments"`
	// Problem says what of the message could not be read; it is empty for a well-formed one.
	Problem string `json:"problem,omitempty"`
}

// Attachment describes a part that is neither the text nor the HTML.
type Attachment struct {
	Filename    string `json:"filename"`
	ContentType string `json:"content_type"`
	Size        int    `json:"size"` // bytes
}

// Messages returns the messages delivered to the address and with the text in
// their subject, newest first. Empty matches all; case doesn't matter.
func (s *Server) Messages(to, subject string) []Summary { return s.store.list(to, subject) }

// Message returns one message with its content. It fails when there is none with this id.
func (s *Server) Message(id string) (Message, error) {
	content, err := s.store.source(id)
	if err != nil {
		return Message{}, err
	}
	return parse(id, content), nil
}

// Clear removes all messages.
func (s *Server) Clear() error { return s.store.clear() }

// parse reads what it can: mail is someone else's input, and an unreadable
// message is shown with its problem instead of being lost.
func parse(id string, content []byte) Message {
	m := Message{Summary: Summary{ID: id, To: []string{}}, Headers: map[string][]string{}, Attachments: []Attachment{}}
	r, err := mail.CreateReader(bytes.NewReader(content))
	if err != nil && !message.IsUnknownCharset(err) {
		m.Problem = err.Error()
		return m
	}
	defer r.Close() //nolint:errcheck // it reads from memory
	m.readHeader(r.Header)
	for {
		part, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return m
		}
		if err != nil && !message.IsUnknownCharset(err) {
			m.Problem = err.Error()
			return m
		}
		body, err := io.ReadAll(part.Body)
		if err != nil {
			m.Problem = err.Error()
		}
		m.addPart(part.Header, body)
	}
}

func (m *Message) readHeader(h mail.Header) {
	for fields := h.Fields(); fields.Next(); {
		value, err := fields.Text()
		if err != nil {
			value = fields.Value() // as it came
		}
		m.Headers[fields.Key()] = append(m.Headers[fields.Key()], value)
	}
	for _, address := range m.Headers["Delivered-To"] {
		if !slices.Contains(m.To, address) {
			m.To = append(m.To, address)
		}
	}
	if from, err := h.AddressList("From"); err == nil && len(from) > 0 {
		m.From = from[0].Address
	} else {
		m.From = strings.Trim(h.Get("Return-Path"), "<>")
	}
	var err error
	if m.MessageID, err = h.MessageID(); err != nil {
		m.MessageID = strings.Trim(h.Get("Message-Id"), "<>")
	}
	if m.Subject, err = h.Subject(); err != nil {
		m.Subject = h.Get("Subject")
	}
	m.Date = m.date(h)
}

func (m *Message) date(h mail.Header) time.Time {
	if date, err := h.Date(); err == nil && !date.IsZero() {
		return date.UTC()
	}
	_, arrival, _ := strings.Cut(h.Get("Received"), ";")
	if date, err := time.Parse(time.RFC1123Z, strings.TrimSpace(arrival)); err == nil {
		return date.UTC()
	}
	return time.Time{}
}

func (m *Message) addPart(header mail.PartHeader, body []byte) {
	switch h := header.(type) {
	case *mail.InlineHeader:
		kind, _, err := h.ContentType()
		switch {
		case err == nil && kind == "text/html" && m.HTML == "":
			m.HTML = string(body)
		case (err != nil || kind == "text/plain") && m.Text == "":
			m.Text = string(body)
		default:
			m.Attachments = append(m.Attachments, Attachment{ContentType: kind, Size: len(body)})
		}
	case *mail.AttachmentHeader:
		a := Attachment{Size: len(body)}
		var err error
		if a.Filename, err = h.Filename(); err != nil {
			m.Problem = err.Error()
		}
		if a.ContentType, _, err = h.ContentType(); err != nil {
			m.Problem = err.Error()
		}
		m.Attachments = append(m.Attachments, a)
	}
}
