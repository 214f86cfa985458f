package inbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/smtp"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wneessen/go-mail"

	"bookworm/dev/inbox"
)

func start(t *testing.T, dir string) *inbox.Server {
	t.Helper()
	server, err := inbox.Start(t.Context(), inbox.Options{DataDir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(server.Stop)
	return server
}

// compose is a mail as the shop sends it.
func compose(t *testing.T, to, subject string) *mail.Msg {
	t.Helper()
	m := mail.NewMsg()
	if err := errors.Join(m.FromFormat("BookWorm", "orders@bookworm.example"), m.To(to)); err != nil {
		t.Fatal(err)
	}
	m.Subject(subject)
	m.SetMessageIDWithValue("order-1.confirmed@bookworm.example")
	m.SetDate()
	m.SetBodyString(mail.TypeTextPlain, "Thank you for “Dune”.\n")
	m.AddAlternativeString(mail.TypeTextHTML, "<p>Thank you for <b>“Dune”</b>.</p><script>alert(1)</script>\n")
	return m
}

// send delivers with the client that the shop uses.
func send(ctx context.Context, server *inbox.Server, m *mail.Msg, opts ...mail.Option) error {
	host, port, err := net.SplitHostPort(server.SMTPAddress())
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	client, err := mail.NewClient(host, append([]mail.Option{
		mail.WithPort(n), mail.WithTLSPolicy(mail.NoTLS), mail.WithTimeout(5 * time.Second), mail.WithHELO("shop.localhost"),
	}, opts...)...)
	if err != nil {
		return err
	}
	return client.DialAndSendWithContext(ctx, m)
}

func mustSend(t *testing.T, server *inbox.Server, m *mail.Msg, opts ...mail.Option) {
	t.Helper()
	if err := send(t.Context(), server, m, opts...); err != nil {
		t.Fatalf("send: %v", err)
	}
}

func get(t *testing.T, address string) (int, string, http.Header) {
	t.Helper()
	return request(t, http.MethodGet, address, "")
}

func request(t *testing.T, method, address, body string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // it has been read
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(raw), res.Header
}

func decode[T any](t *testing.T, raw string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		t.Fatalf("decode %q: %v", raw, err)
	}
	return v
}

func TestReceive(t *testing.T) {
	t.Parallel()
	server := start(t, t.TempDir())
	m := compose(t, "alice@bookworm.example", "Your order — confirmed")
	if err := m.Bcc("ops@bookworm.example"); err != nil {
		t.Fatal(err)
	}
	if err := m.AttachReader("invoice.txt", strings.NewReader("12.50 EUR")); err != nil {
		t.Fatal(err)
	}
	mustSend(t, server, m)

	_, raw, _ := get(t, server.URL()+"/api/messages")
	list := decode[[]inbox.Summary](t, raw)
	if len(list) != 1 {
		t.Fatalf("%d messages, want 1", len(list))
	}
	_, raw, _ = get(t, server.URL()+"/api/messages/"+list[0].ID)
	got := decode[inbox.Message](t, raw)
	if got.Subject != "Your order — confirmed" || got.From != "orders@bookworm.example" || got.MessageID != "order-1.confirmed@bookworm.example" {
		t.Errorf("summary = %+v", got.Summary)
	}
	if !slices.Equal(got.To, []string{"alice@bookworm.example", "ops@bookworm.example"}) {
		t.Errorf("to = %v", got.To)
	}
	if age := time.Since(got.Date); age < -2*time.Second || age > time.Minute {
		t.Errorf("date = %v", got.Date)
	}
	if strings.TrimSpace(got.Text) != "Thank you for “Dune”." || !strings.Contains(got.HTML, "<b>“Dune”</b>") {
		t.Errorf("text %q, html %q", got.Text, got.HTML)
	}
	if len(got.Attachments) != 1 || got.Attachments[0].Filename != "invoice.txt" || got.Attachments[0].Size != len("12.50 EUR") {
		t.Errorf("attachments = %+v", got.Attachments)
	}
	if got.Headers["Subject"][0] != got.Subject || got.Problem != "" {
		t.Errorf("headers = %v, problem = %q", got.Headers, got.Problem)
	}

	_, page, _ := get(t, server.URL())
	if !strings.Contains(page, "Your order — confirmed") {
		t.Errorf("list page: %s", page)
	}
	_, page, _ = get(t, server.URL()+"/messages/"+got.ID)
	if !strings.Contains(page, `<iframe sandbox="allow-popups"`) || !strings.Contains(page, "Thank you for “Dune”.") || strings.Contains(page, "<script>") {
		t.Errorf("message page: %s", page)
	}
	_, page, header := get(t, server.URL()+"/messages/"+got.ID+"/html")
	if !strings.Contains(page, "<b>“Dune”</b>") || !strings.HasPrefix(header.Get("Content-Security-Policy"), "sandbox") {
		t.Errorf("HTML: %s %v", page, header)
	}
	_, source, header := get(t, server.URL()+"/messages/"+got.ID+"/source")
	if !strings.HasPrefix(source, "Return-Path: <orders@bookworm.example>\r\n") || header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("source: %s %v", source, header)
	}
	for _, path := range []string{"/messages/nope", "/messages/nope/html", "/messages/nope/source", "/api/messages/nope", "/api/messages/..%2f..%2fetc%2fpasswd"} {
		if status, _, _ := get(t, server.URL()+path); status != http.StatusNotFound {
			t.Errorf("%s: %d", path, status)
		}
	}
}

func TestFilterAndDelete(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := start(t, dir)
	for _, subject := range []string{"Order one confirmed", "Order two confirmed", "Order two cancelled"} {
		mustSend(t, server, compose(t, "alice@bookworm.example", subject))
	}
	mustSend(t, server, compose(t, "bob@bookworm.example", "Order three confirmed"))
	for query, want := range map[string][]string{
		"": {"Order three confirmed", "Order two cancelled", "Order two confirmed", "Order one confirmed"},
		"?to=ALICE@bookworm.example&subject=CONFIRMED": {"Order two confirmed", "Order one confirmed"},
		"?to=alice":                  {},
		"?subject=two":               {"Order two cancelled", "Order two confirmed"},
		"?to=bob%40bookworm.example": {"Order three confirmed"},
	} {
		_, raw, _ := get(t, server.URL()+"/api/messages"+query)
		subjects := []string{}
		for _, m := range decode[[]inbox.Summary](t, raw) {
			subjects = append(subjects, m.Subject)
		}
		if !slices.Equal(subjects, want) {
			t.Errorf("%q lists %q, want %q", query, subjects, want)
		}
	}
	if status, _, _ := request(t, http.MethodDelete, server.URL()+"/api/messages", ""); status != http.StatusNoContent {
		t.Errorf("delete: %d", status)
	}
	if _, raw, _ := get(t, server.URL()+"/api/messages"); raw != "[]" {
		t.Errorf("after delete: %s", raw)
	}
	if left, err := filepath.Glob(dir + "/*"); err != nil || len(left) > 0 {
		t.Errorf("files left: %v %v", left, err)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, dir)
	for _, subject := range []string{"First", "Second"} {
		mustSend(t, first, compose(t, "alice@bookworm.example", subject))
	}
	before := first.Messages("", "")
	first.Stop()
	first.Stop()
	// What a kill during a write leaves behind.
	if err := os.WriteFile(filepath.Join(dir, "half.new"), []byte("Subject: ha"), 0o600); err != nil {
		t.Fatal(err)
	}
	second := start(t, dir)
	after := second.Messages("", "")
	if len(after) != 2 || after[0].ID != before[0].ID || after[0].Subject != "Second" || !slices.Equal(after[1].To, before[1].To) {
		t.Errorf("messages\n got %+v\nwant %+v", after, before)
	}
	mustSend(t, second, compose(t, "alice@bookworm.example", "Third"))
	if got := second.Messages("", ""); got[0].Subject != "Third" {
		t.Errorf("newest = %+v", got[0])
	}
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	server := start(t, t.TempDir())
	mustSend(t, server, compose(t, "alice@bookworm.example", "With a password"),
		mail.WithSMTPAuth(mail.SMTPAuthPlainNoEnc), mail.WithUsername("anyone"), mail.WithPassword("anything"))
}

func TestExtensionsAndSize(t *testing.T) {
	t.Parallel()
	server := start(t, t.TempDir())
	client := dial(t, server)
	for _, extension := range []string{"8BITMIME", "SMTPUTF8", "SIZE", "AUTH"} {
		if ok, _ := client.Extension(extension); !ok {
			t.Errorf("no %s", extension)
		}
	}
	if _, size := client.Extension("SIZE"); size != "10485760" {
		t.Errorf("size = %q", size)
	}
	if err := deliver(client, "jörg@bücher.example", []byte("Subject: Grüße\r\n\r\nKäse\r\n")); err != nil {
		t.Fatalf("mail in UTF-8: %v", err)
	}
	if got := server.Messages("jörg@bücher.example", "grüße"); len(got) != 1 {
		t.Errorf("messages = %+v", server.Messages("", ""))
	}
	// Declared, so that the test need not send it.
	if _, _, err := command(client, "MAIL FROM:<shop@bookworm.example> SIZE=10485761"); err == nil {
		t.Error("a message above the limit is welcome")
	} else {
		wantCode(t, err, 552)
	}
}

// command sends one line and expects success.
func command(client *smtp.Client, line string) (int, string, error) {
	id, err := client.Text.Cmd("%s", line)
	if err != nil {
		return 0, "", err
	}
	client.Text.StartResponse(id)
	defer client.Text.EndResponse(id)
	return client.Text.ReadResponse(250)
}

func dial(t *testing.T, server *inbox.Server) *smtp.Client {
	t.Helper()
	client, err := smtp.Dial(server.SMTPAddress())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() }) //nolint:errcheck,gosec // the server may have closed it
	return client
}

// deliver sends raw bytes, well-formed or not.
func deliver(client *smtp.Client, to string, content []byte) error {
	if err := client.Mail("shop@bookworm.example"); err != nil {
		return err
	}
	if err := client.Rcpt(to); err != nil {
		return err
	}
	w, err := client.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	return w.Close()
}

func wantCode(t *testing.T, err error, code int) {
	t.Helper()
	var refused *textproto.Error
	if !errors.As(err, &refused) || refused.Code != code {
		t.Errorf("error = %v, want %d", err, code)
	}
}

func TestBrokenMail(t *testing.T) {
	t.Parallel()
	server := start(t, t.TempDir())
	client := dial(t, server)
	for _, content := range []string{
		"", "no header", "Subject: only\r\n", "Content-Type: multipart/mixed\r\n\r\nno boundary",
		"Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nunfinished",
		"Content-Type: text/plain; charset=no-such\r\n\r\n\xff\xfe",
		"Content-Transfer-Encoding: base64\r\n\r\n****",
	} {
		if err := deliver(client, "alice@bookworm.example", []byte(content)); err != nil {
			t.Fatalf("deliver %q: %v", content, err)
		}
		newest := server.Messages("alice@bookworm.example", "")[0]
		for _, path := range []string{"/messages/", "/api/messages/"} {
			if status, body, _ := get(t, server.URL()+path+newest.ID); status != http.StatusOK {
				t.Errorf("%s of %q: %d %s", path, content, status, body)
			}
		}
	}
	if n := len(server.Messages("alice@bookworm.example", "")); n != 7 {
		t.Errorf("%d messages, want 7", n)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	server := start(t, t.TempDir())
	inject := func(f inbox.Fault) {
		t.Helper()
		if err := server.Inject(f); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		for kind, code := range map[inbox.FaultKind]int{inbox.Reject451: 451, inbox.Reject550: 550} {
			to := string(kind) + "@bookworm.example"
			inject(inbox.Fault{Kind: kind, Count: 2, To: to})
			client := dial(t, server)
			for range 2 {
				wantCode(t, deliver(client, to, []byte("Subject: x\r\n\r\nbody\r\n")), code)
			}
			if n := len(server.Messages(to, "")); n != 0 {
				t.Errorf("%d refused messages kept", n)
			}
			if err := deliver(client, to, []byte("Subject: x\r\n\r\nbody\r\n")); err != nil {
				t.Errorf("after the fault: %v", err)
			}
		}
	})
	t.Run("lost answer", func(t *testing.T) {
		t.Parallel()
		const to = "lost@bookworm.example"
		inject(inbox.Fault{Kind: inbox.DropAfterData, To: to})
		err := send(t.Context(), server, compose(t, to, "Lost"))
		if err == nil {
			t.Error("the sender heard of the delivery")
		}
		if n := len(server.Messages(to, "")); n != 1 {
			t.Errorf("%d messages, want 1", n)
		}
		mustSend(t, server, compose(t, to, "Again"))
	})
	t.Run("slow", func(t *testing.T) {
		t.Parallel()
		const to = "slow@bookworm.example"
		inject(inbox.Fault{Kind: inbox.Slow, To: to, Delay: 150 * time.Millisecond})
		began := time.Now()
		mustSend(t, server, compose(t, to, "Slow"))
		if took := time.Since(began); took < 150*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

func TestFaultsOverHTTP(t *testing.T) {
	t.Parallel()
	server := start(t, t.TempDir())
	address := server.URL() + "/_dev/faults"
	for _, bad := range []string{"{", `{"kind":"flood"}`, `{"kind":"slow","colour":1}`, `{"kind":"slow","count":-1}`} {
		if status, _, _ := request(t, http.MethodPost, address, bad); status != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, status)
		}
	}
	if status, body, _ := request(t, http.MethodPost, address, `{"kind":"reject_451","count":3}`); status != http.StatusNoContent {
		t.Errorf("inject: %d %s", status, body)
	}
	wantCode(t, deliver(dial(t, server), "alice@bookworm.example", []byte("Subject: x\r\n\r\n")), 451)
	if _, body, _ := get(t, address); body != `[{"kind":"reject_451","count":2,"delay_ms":0}]` {
		t.Errorf("waiting: %s", body)
	}
	if status, _, _ := request(t, http.MethodDelete, address, ""); status != http.StatusNoContent {
		t.Errorf("clear: %d", status)
	}
	mustSend(t, server, compose(t, "alice@bookworm.example", "After"))
}

func TestConcurrentSenders(t *testing.T) {
	t.Parallel()
	server := start(t, t.TempDir())
	var group sync.WaitGroup
	for i := range 16 {
		m := compose(t, "alice@bookworm.example", "Number "+strconv.Itoa(i))
		group.Go(func() {
			if err := send(t.Context(), server, m); err != nil {
				t.Errorf("send: %v", err)
			}
		})
	}
	group.Wait()
	_, raw, _ := get(t, server.URL()+"/api/messages?"+url.Values{"to": {"alice@bookworm.example"}}.Encode())
	if n := len(decode[[]inbox.Summary](t, raw)); n != 16 {
		t.Errorf("%d messages, want 16", n)
	}
}
