package mail_test

import (
	"context"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	netmail "net/mail"
	"strings"
	"sync/atomic"
	"testing"

	"bookworm/internal/mail"
	"bookworm/internal/mail/mailtest"
	"bookworm/internal/personal"
)

const recipient = "alice@example.com"

func message() mail.Message {
	return mail.Message{
		To:        recipient,
		Subject:   "Your order – thank you",
		Text:      "Thank you.\n.\nThe shop",
		HTML:      "<p>Thank you.</p>",
		MessageID: "0123abc@bookworm.example",
	}
}

func setup(t *testing.T) (*mail.Sender, *mailtest.Relay) {
	t.Helper()
	relay := mailtest.New(t)
	sender, err := mail.New(mail.Config{URL: relay.URL(), From: "BookWorm <orders@bookworm.example>"})
	if err != nil {
		t.Fatal(err)
	}
	return sender, relay
}

// parts returns the decoded parts of a message by content type.
func parts(t *testing.T, m *netmail.Message) map[string]string {
	t.Helper()
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("content type %q: %v", kind, err)
	}
	bodies := make(map[string]string)
	reader := multipart.NewReader(m.Body, params["boundary"])
	for {
		part, err := reader.NextRawPart()
		if errors.Is(err, io.EOF) {
			return bodies
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(quotedprintable.NewReader(part))
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := strings.Cut(part.Header.Get("Content-Type"), ";")
		bodies[kind] = strings.ReplaceAll(string(body), "\r\n", "\n")
	}
}

func TestSend(t *testing.T) {
	t.Parallel()
	sender, relay := setup(t)
	if err := sender.Send(t.Context(), message()); err != nil {
		t.Fatal(err)
	}
	accepted := relay.Accepted()
	if len(accepted) != 1 || accepted[0].To != recipient || accepted[0].From != "orders@bookworm.example" {
		t.Fatalf("accepted %+v", accepted)
	}
	got, err := netmail.ReadMessage(strings.NewReader(accepted[0].Data))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(got.Header.Get("Subject"))
	if err != nil || subject != message().Subject {
		t.Errorf("subject %q, %v", subject, err)
	}
	for name, want := range map[string]string{
		"Message-Id":     "<0123abc@bookworm.example>",
		"From":           `"BookWorm" <orders@bookworm.example>`,
		"To":             "<alice@example.com>",
		"Auto-Submitted": "auto-generated",
	} {
		if got.Header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.Header.Get(name), want)
		}
	}
	if _, err := got.Header.Date(); err != nil {
		t.Errorf("date: %v", err)
	}
	bodies := parts(t, got)
	if strings.TrimSpace(bodies["text/plain"]) != message().Text || strings.TrimSpace(bodies["text/html"]) != message().HTML {
		t.Errorf("bodies %q", bodies)
	}
	if sender.Domain() != "bookworm.example" {
		t.Errorf("domain %q", sender.Domain())
	}
}

// TestOutcomes walks every place where a delivery can end.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	const quoting = " <alice@example.com> is not wanted here"
	for name, test := range map[string]struct {
		stage, reply string
		want         mail.Outcome
		code         int
		accepted     int
	}{
		"greeting refused":             {"GREETING", "554 no service", mail.Deferred, 554, 0},
		"dropped at the greeting":      {"GREETING", mailtest.Drop, mail.Deferred, 0, 0},
		"sender refused":               {"MAIL", "550 5.7.1" + quoting, mail.Refused, 550, 0},
		"sender deferred":              {"MAIL", "451 4.3.0 later", mail.Deferred, 451, 0},
		"recipient refused":            {"RCPT", "550 5.1.1" + quoting, mail.Refused, 550, 0},
		"recipient deferred":           {"RCPT", "450 4.2.1" + quoting, mail.Deferred, 450, 0},
		"dropped at the recipient":     {"RCPT", mailtest.Drop, mail.Deferred, 0, 0},
		"data refused":                 {"DATA", "554 5.7.1 no", mail.Refused, 554, 0},
		"dropped at data":              {"DATA", mailtest.Drop, mail.Deferred, 0, 0},
		"message refused":              {"BEFORE", "552 5.3.4 too big", mail.Refused, 552, 0},
		"message deferred":             {"BEFORE", "421 4.3.2 shutting down", mail.Deferred, 421, 0},
		"lost before it was accepted":  {"BEFORE", mailtest.Drop, mail.Unknown, 0, 0},
		"lost after it was accepted":   {"AFTER", mailtest.Drop, mail.Unknown, 0, 1},
		"nonsense after the message":   {"AFTER", "what?", mail.Unknown, 0, 1},
		"lost after the last exchange": {"QUIT", mailtest.Drop, -1, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sender, relay := setup(t)
			relay.Reply(func(stage, _ string) string {
				if stage == test.stage {
					return test.reply
				}
				return ""
			})
			err := sender.Send(t.Context(), message())
			if got := len(relay.Accepted()); got != test.accepted {
				t.Errorf("%d accepted, want %d", got, test.accepted)
			}
			if test.want == -1 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			failed, ok := errors.AsType[*mail.Error](err)
			if !ok {
				t.Fatalf("error %v", err)
			}
			if failed.Outcome != test.want || failed.Code != test.code {
				t.Errorf("%v with %d, want %v with %d", failed.Outcome, failed.Code, test.want, test.code)
			}
			// A3: what the relay says quotes the recipient, and ends in histories.
			if strings.Contains(err.Error(), "alice") || errors.Unwrap(err) != nil {
				t.Errorf("the error repeats what the relay said: %v", err)
			}
		})
	}
}

func TestUnreachableRelayIsDeferred(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	sender, err := mail.New(mail.Config{URL: "smtp://" + listener.Addr().String(), From: "a@b.example"})
	if err != nil {
		t.Fatal(err)
	}
	failed, ok := errors.AsType[*mail.Error](sender.Send(t.Context(), message()))
	if !ok || failed.Outcome != mail.Deferred || !strings.Contains(failed.Detail, "refused") {
		t.Errorf("error %v", failed)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	failed, ok = errors.AsType[*mail.Error](sender.Send(ctx, message()))
	if !ok || failed.Outcome != mail.Deferred {
		t.Errorf("after the end of ctx: %v", failed)
	}
}

func TestNothingBecomesAHeaderOrACommand(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*mail.Message){
		"line break in the address":     func(m *mail.Message) { m.To = "a@b.example>\r\nRCPT TO:<eve@b.example" },
		"two addresses":                 func(m *mail.Message) { m.To = "a@b.example, eve@b.example" },
		"a name with the address":       func(m *mail.Message) { m.To = "Eve <a@b.example>" },
		"no address":                    func(m *mail.Message) { m.To = "alice" },
		"empty address":                 func(m *mail.Message) { m.To = "" },
		"a very long address":           func(m *mail.Message) { m.To = personal.Text(strings.Repeat("a", 260) + "@b.example") },
		"line break in the message id":  func(m *mail.Message) { m.MessageID = "a@b>\r\nBcc: <eve@b.example" },
		"no message id":                 func(m *mail.Message) { m.MessageID = "" },
		"control character in the name": func(m *mail.Message) { m.To = "\"a\x00b\"@b.example" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sender, relay := setup(t)
			m := message()
			change(&m)
			failed, ok := errors.AsType[*mail.Error](sender.Send(t.Context(), m))
			if !ok || failed.Outcome != mail.Refused {
				t.Errorf("error %v", failed)
			}
			if got := relay.Accepted(); len(got) != 0 {
				t.Errorf("accepted %+v", got)
			}
		})
	}
	t.Run("line break in the subject", func(t *testing.T) {
		t.Parallel()
		sender, relay := setup(t)
		m := message()
		m.Subject = "Hi\r\nBcc: eve@b.example\r\n\r\n<b>body</b>"
		if err := sender.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		got, err := netmail.ReadMessage(strings.NewReader(relay.Accepted()[0].Data))
		if err != nil {
			t.Fatal(err)
		}
		if got.Header.Get("Bcc") != "" || len(parts(t, got)) != 2 {
			t.Errorf("header %v", got.Header)
		}
		if !strings.Contains(got.Header.Get("Subject"), "Hi  Bcc: eve@b.example") {
			t.Errorf("subject %q", got.Header.Get("Subject"))
		}
	})
}

func TestPasswordNeedsTLS(t *testing.T) {
	t.Parallel()
	relay := mailtest.New(t)
	var signIns atomic.Int32
	relay.Reply(func(stage, _ string) string {
		switch stage {
		case "EHLO":
			return "250-test\r\n250 AUTH PLAIN LOGIN"
		case "AUTH":
			signIns.Add(1)
			return "235 2.7.0 welcome"
		}
		return ""
	})
	sender, err := mail.New(mail.Config{
		URL: strings.Replace(relay.URL(), "smtp://", "smtp://shop:hunter2@", 1), From: "a@b.example",
	})
	if err != nil {
		t.Fatal(err)
	}
	failed, ok := errors.AsType[*mail.Error](sender.Send(t.Context(), message()))
	if !ok || failed.Outcome != mail.Deferred {
		t.Errorf("error %v", failed)
	}
	if signIns.Load() != 0 {
		t.Error("signed in over an open line")
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]mail.Config{
		"no URL":         {From: "a@b.example"},
		"another scheme": {URL: "http://shop:hunter2@relay:25", From: "a@b.example"},
		"no host":        {URL: "smtp://", From: "a@b.example"},
		"a broken URL":   {URL: "smtp://shop:hunter2@relay:port", From: "a@b.example"},
		"no sender":      {URL: "smtp://relay:25"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := mail.New(c)
			if err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %v", err)
			}
		})
	}
}
