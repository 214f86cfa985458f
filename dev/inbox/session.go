package inbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// session is one connection of a sender; it implements smtp.AuthSession.
type session struct {
	server *Server
	conn   *smtp.Conn
	from   string
	to     []string
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

// Auth takes every password: there is nothing here to protect.
func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, _, _ string) error { return nil }), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}

func (s *session) Reset() { s.from, s.to = "", nil }

func (s *session) Logout() error { return nil }

// Data keeps the message, unless a fault refuses it.
func (s *session) Data(r io.Reader) error {
	var content bytes.Buffer
	if _, err := content.ReadFrom(r); err != nil {
		return err // among others that it is too large, in SMTP's words
	}
	fault := s.server.faults.take(s.to)
	if fault.Delay > 0 {
		select {
		case <-time.After(fault.Delay):
		case <-s.server.lifetime.Done():
			return errors.New("the server is stopping")
		}
	}
	switch fault.Kind {
	case Reject451:
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "Try again later"}
	case Reject550:
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "No such mailbox"}
	case DropAfterData, Slow, "":
	}
	if err := s.server.store.add(s.from, s.to, s.conn.Hostname(), content.Bytes()); err != nil {
		s.server.log.Error("keep message", "error", err)
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "The message could not be stored"}
	}
	if fault.Kind == DropAfterData {
		if err := s.conn.Conn().Close(); err != nil {
			return fmt.Errorf("drop connection: %w", err)
		}
	}
	return nil
}
