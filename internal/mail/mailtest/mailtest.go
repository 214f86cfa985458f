// Package mailtest is an SMTP relay for tests that misbehaves on demand.
package mailtest

import (
	"bufio"
	"io"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"testing"
)

// Drop is the reply that closes the connection instead.
const Drop = "drop"

// Accepted is a message that the relay took responsibility for.
type Accepted struct {
	From, To string // from the envelope
	Data     string // headers and body, with lines ending in \n
}

// Relay accepts mail on a loopback port. It is safe for concurrent use.
type Relay struct {
	listener net.Listener
	sessions sync.WaitGroup

	mu       sync.Mutex
	accepted []Accepted
	open     map[net.Conn]struct{}
	reply    func(stage, argument string) string
}

// New starts a relay that accepts everything and ends with the test.
func New(t testing.TB) *Relay {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{listener: listener, open: make(map[net.Conn]struct{})}
	r.sessions.Go(r.listen)
	t.Cleanup(r.stop)
	return r
}

func (r *Relay) stop() {
	_ = r.listener.Close() // ends listen; its error is the point
	r.mu.Lock()
	for connection := range r.open {
		_ = connection.Close() // ends its session
	}
	r.mu.Unlock()
	r.sessions.Wait()
}

// URL is the relay's address as mail.Config takes it.
func (r *Relay) URL() string { return "smtp://" + r.listener.Addr().String() }

// Reply makes f answer from now on. It is asked before each reply, by several
// sessions at once, with the stage and its argument: GREETING, EHLO, MAIL, RCPT,
// DATA (before the data), and then either BEFORE (the data is here and not yet
// accepted) and AFTER (it is accepted). It returns a reply line, Drop, or "" for
// the usual. A relay that drops at AFTER has accepted the message.
func (r *Relay) Reply(f func(stage, argument string) string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reply = f
}

// Accepted returns what was accepted so far.
func (r *Relay) Accepted() []Accepted {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Accepted(nil), r.accepted...)
}

func (r *Relay) listen() {
	for {
		connection, err := r.listener.Accept()
		if err != nil {
			return // closed by stop
		}
		r.mu.Lock()
		r.open[connection] = struct{}{}
		r.mu.Unlock()
		r.sessions.Go(func() {
			session{relay: r, connection: connection, in: textproto.NewReader(bufio.NewReader(connection))}.run()
			_ = connection.Close() // the client may have closed it first
			r.mu.Lock()
			delete(r.open, connection)
			r.mu.Unlock()
		})
	}
}

type session struct {
	relay      *Relay
	connection net.Conn
	in         *textproto.Reader
}

// say answers a stage. It returns false when the session is over, and whether the
// usual was answered.
func (s session) say(stage, argument, usual string) (open, asUsual bool) {
	s.relay.mu.Lock()
	reply := s.relay.reply
	s.relay.mu.Unlock()
	line := ""
	if reply != nil {
		line = reply(stage, argument)
	}
	switch line {
	case Drop:
		return false, false
	case "":
		line, asUsual = usual, true
	}
	if line == "" {
		return true, asUsual // nothing to say at this stage
	}
	_, err := io.WriteString(s.connection, line+"\r\n")
	return err == nil, asUsual
}

func (s session) run() {
	if open, usual := s.say("GREETING", "", "220 test relay"); !open || !usual {
		return
	}
	var mail Accepted
	for {
		line, err := s.in.ReadLine()
		if err != nil {
			return
		}
		verb, argument, _ := strings.Cut(line, " ")
		verb = strings.ToUpper(verb)
		var open, usual bool
		switch verb {
		case "EHLO", "HELO":
			open, _ = s.say("EHLO", argument, "250-test\r\n250-ENHANCEDSTATUSCODES\r\n250 8BITMIME")
		case "MAIL":
			mail = Accepted{From: envelope(argument)}
			open, _ = s.say("MAIL", mail.From, "250 2.1.0 ok")
		case "RCPT":
			mail.To = envelope(argument)
			open, _ = s.say("RCPT", mail.To, "250 2.1.5 ok")
		case "DATA":
			if open, usual = s.say("DATA", mail.To, "354 go ahead"); open && usual {
				open = s.data(&mail)
			}
		case "QUIT":
			s.say("QUIT", "", "221 bye")
			return
		default:
			open, _ = s.say(verb, argument, "250 ok")
		}
		if !open {
			return
		}
	}
}

// data reads the message and accepts it unless told otherwise.
func (s session) data(mail *Accepted) (open bool) {
	lines, err := s.in.ReadDotLines()
	if err != nil {
		return false
	}
	mail.Data = strings.Join(lines, "\n")
	if open, usual := s.say("BEFORE", mail.To, ""); !open || !usual {
		return open
	}
	s.relay.mu.Lock()
	s.relay.accepted = append(s.relay.accepted, *mail)
	s.relay.mu.Unlock()
	open, _ = s.say("AFTER", mail.To, "250 2.0.0 accepted")
	return open
}

// envelope returns the address of FROM:<address> or TO:<address>.
func envelope(argument string) string {
	_, rest, _ := strings.Cut(argument, "<")
	address, _, _ := strings.Cut(rest, ">")
	return address
}
