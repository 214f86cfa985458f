package notification_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/metric/noop"
	"go.temporal.io/sdk/temporal"

	activities "bookworm/activities/notification"
	"bookworm/internal/mail"
	"bookworm/internal/mail/mailtest"
	"bookworm/internal/money"
	"bookworm/internal/notification"
	"bookworm/internal/personal"
	"bookworm/internal/personal/personaltest"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func migrate(ctx context.Context, adminURL string) error {
	return postgres.Migrate(ctx, adminURL, notification.Schema)
}

const (
	email   = "alice@example.com"
	orderID = "0198f3c2-7d41-7a35-9c1e-2f6a1b0c9d8e"
)

// bundle is what a test works with: the activities over a database of their own,
// and a relay that misbehaves on demand.
type bundle struct {
	*activities.Activities
	store    *notification.Store
	pool     *pgxpool.Pool
	database string
	key      personal.Text
	relay    *mailtest.Relay
	sealer   *personal.ShopperSealer
	keys     *personaltest.Keys
	log      *bytes.Buffer
}

func setup(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{database: pgtest.DB(t, migrate), key: personal.NewKey(), relay: mailtest.New(t), log: new(bytes.Buffer)}
	b.sealer, b.keys = personaltest.Sealer(t)
	b.start(t)
	return b
}

// start makes the activities as a process that starts does.
func (b *bundle) start(t *testing.T) {
	t.Helper()
	var err error
	if b.pool, err = postgres.Open(t.Context(), b.database, notification.Schema.Name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.pool.Close)
	if b.store, err = notification.NewStore(b.pool, b.key); err != nil {
		t.Fatal(err)
	}
	sender, err := mail.New(mail.Config{URL: b.relay.URL(), From: "BookWorm <orders@bookworm.example>"})
	if err != nil {
		t.Fatal(err)
	}
	b.Activities, err = activities.New(b.store, sender, b.sealer,
		slog.New(slog.NewTextHandler(b.log, nil)), noop.NewMeterProvider())
	if err != nil {
		t.Fatal(err)
	}
}

// mail returns a mail to the recipient, with a contact sealed anew, as a repeated
// event would have it.
func (b *bundle) mail(t *testing.T, recipient string) activities.Mail {
	t.Helper()
	contact, err := b.sealer.Seal(t.Context(), "alice", orderID, activities.Contact{Email: recipient, Name: "Alice"})
	if err != nil {
		t.Fatal(err)
	}
	price := money.New("USD", 1299)
	return activities.Mail{
		OrderID: orderID, Subject: "alice", Template: notification.OrderConfirmed, EventID: orderID + "/confirmed", Contact: contact,
		Lines:    []activities.Line{{Title: "Dune", Quantity: 1, UnitPrice: price, LineTotal: price}},
		Subtotal: price, Shipping: money.New("USD", 0), Tax: money.New("USD", 0), Discount: money.New("USD", 0), Total: price,
	}
}

// at makes the relay give a reply at a stage, and its usual one elsewhere.
func (b *bundle) at(stage, reply string) {
	b.relay.Reply(func(s, _ string) string {
		if s == stage {
			return reply
		}
		return ""
	})
}

// expire ends the lease of every claim, as two minutes would.
func (b *bundle) expire(t *testing.T) {
	t.Helper()
	if _, err := b.pool.Exec(t.Context(), `update delivery set updated_at = updated_at - interval '3 minutes'`); err != nil {
		t.Fatal(err)
	}
}

// send sends once and fails the test unless it ends in the state.
func (b *bundle) send(t *testing.T, want notification.State) activities.Result {
	t.Helper()
	result, err := b.SendOrderMail(t.Context(), b.mail(t, email))
	if err != nil || result.State != string(want) {
		t.Fatalf("send: %+v, %v; want %s", result, err, want)
	}
	return result
}

func (b *bundle) accepted(t *testing.T, want int) {
	t.Helper()
	if got := len(b.relay.Accepted()); got != want {
		t.Errorf("the relay accepted %d mails, want %d", got, want)
	}
}

func (b *bundle) row(t *testing.T) (state, lastError string) {
	t.Helper()
	if err := b.pool.QueryRow(t.Context(), `select state, last_error from delivery`).Scan(&state, &lastError); err != nil {
		t.Fatal(err)
	}
	return state, lastError
}

// TestN3_AtMostOneMailPerRecipientTemplateEvent is invariant N3 under every
// schedule there is: concurrency, retries, a crash on either side of the relay's
// acceptance, and an answer that never comes.
func TestN3_AtMostOneMailPerRecipientTemplateEvent(t *testing.T) {
	t.Parallel()

	t.Run("concurrent duplicates", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		var sent atomic.Int32
		var group sync.WaitGroup
		for i := range 16 {
			m := b.mail(t, []string{email, "Alice@Example.com"}[i%2])
			group.Go(func() {
				for { // as the workflow's retries do
					result, err := b.SendOrderMail(t.Context(), m)
					if errors.Is(err, notification.ErrInFlight) {
						continue
					}
					if err != nil || result.State != string(notification.Sent) {
						t.Errorf("send: %+v, %v", result, err)
					}
					sent.Add(1)
					return
				}
			})
		}
		group.Wait()
		b.accepted(t, 1)
		if sent.Load() != 16 {
			t.Errorf("%d of 16 learnt that it was sent", sent.Load())
		}
	})

	t.Run("duplicates while the relay fails at random places", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		var turn atomic.Int32
		b.relay.Reply(func(stage, _ string) string {
			if n := turn.Add(1); n < 40 && n%3 == 0 && stage != "BEFORE" && stage != "AFTER" {
				return "451 4.3.0 later"
			}
			return ""
		})
		var group sync.WaitGroup
		for range 8 {
			m := b.mail(t, email)
			group.Go(func() {
				for t.Context().Err() == nil {
					if result, err := b.SendOrderMail(t.Context(), m); err == nil {
						if result.State != string(notification.Sent) {
							t.Errorf("result %+v", result)
						}
						return
					}
				}
			})
		}
		group.Wait()
		b.accepted(t, 1)
	})

	t.Run("a retry after each definite refusal", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		for stage, reply := range map[string]string{
			"GREETING": "421 4.3.2 busy", "MAIL": mailtest.Drop, "RCPT": "450 4.2.1 <" + email + "> is busy",
			"DATA": mailtest.Drop, "BEFORE": "451 4.3.0 later",
		} {
			b.at(stage, reply)
			_, err := b.SendOrderMail(t.Context(), b.mail(t, email))
			if err == nil || nonRetryable(err) {
				t.Fatalf("%s at %s: %v", reply, stage, err)
			}
			if strings.Contains(err.Error(), "alice") {
				t.Errorf("the error names the recipient: %v", err)
			}
			if state, _ := b.row(t); state != string(notification.Failed) {
				t.Errorf("%s at %s: state %s", reply, stage, state)
			}
		}
		b.accepted(t, 0)
		b.relay.Reply(nil)
		id := b.send(t, notification.Sent).MessageID
		if again := b.send(t, notification.Sent).MessageID; again != id {
			t.Errorf("message ids %s and %s", id, again)
		}
		b.accepted(t, 1)
		if data := b.relay.Accepted()[0].Data; !strings.Contains(data, "Message-ID: <"+id+">") {
			t.Errorf("another message id than %s in:\n%s", id, data)
		}
	})

	t.Run("an answer lost after the data", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.at("AFTER", mailtest.Drop)
		id := b.send(t, notification.Unknown).MessageID
		b.accepted(t, 1)
		b.relay.Reply(nil)
		for range 3 {
			b.send(t, notification.Unknown)
			b.expire(t)
		}
		b.accepted(t, 1)
		// Operators see it: in the table and in the log, with what to look for.
		if state, lastError := b.row(t); state != string(notification.Unknown) || lastError == "" {
			t.Errorf("row: %s, %q", state, lastError)
		}
		if log := b.log.String(); !strings.Contains(log, id) || strings.Contains(log, "alice") {
			t.Errorf("log: %s", log)
		}
		// Only their word sends it again.
		if err := b.ReleaseOrderMail(t.Context(), b.mail(t, email)); err != nil {
			t.Fatal(err)
		}
		b.send(t, notification.Sent)
		b.accepted(t, 2)
	})

	t.Run("a crash before the mail is handed over", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.crash(t)
		b.accepted(t, 0)
		if _, err := b.SendOrderMail(t.Context(), b.mail(t, email)); !errors.Is(err, notification.ErrInFlight) {
			t.Fatalf("within the lease: %v", err)
		}
		b.expire(t)
		b.send(t, notification.Unknown)
		b.accepted(t, 0)
	})

	t.Run("a crash after the mail was accepted", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		// The process dies with its connection to the database, while the relay says
		// that it has the mail.
		dying := b.pool
		b.relay.Reply(func(stage, _ string) string {
			if stage == "AFTER" {
				dying.Close()
			}
			return ""
		})
		if result, err := b.SendOrderMail(t.Context(), b.mail(t, email)); err == nil {
			t.Fatalf("settled without a database: %+v", result)
		}
		b.accepted(t, 1)
		b.relay.Reply(nil)
		b.start(t)
		if _, err := b.SendOrderMail(t.Context(), b.mail(t, email)); !errors.Is(err, notification.ErrInFlight) {
			t.Fatalf("within the lease: %v", err)
		}
		b.expire(t)
		b.send(t, notification.Unknown)
		b.accepted(t, 1)
	})

	t.Run("the attempt's time is up while the relay answers", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		b.relay.Reply(func(stage, _ string) string {
			if stage == "BEFORE" {
				cancel()
			}
			return ""
		})
		if result, err := b.SendOrderMail(ctx, b.mail(t, email)); err != nil || result.State != string(notification.Sent) {
			t.Fatalf("send: %+v, %v", result, err)
		}
		b.send(t, notification.Sent)
		b.accepted(t, 1)
	})

	t.Run("another recipient, template or event is another mail", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		cancelled, second := b.mail(t, email), b.mail(t, email)
		cancelled.Template = notification.OrderCancelled
		second.EventID = "another"
		for _, m := range []activities.Mail{b.mail(t, email), b.mail(t, "bob@example.com"), cancelled, second} {
			if result, err := b.SendOrderMail(t.Context(), m); err != nil || result.State != string(notification.Sent) {
				t.Errorf("send: %+v, %v", result, err)
			}
		}
		b.accepted(t, 4)
	})
}

// crash claims the mail as an attempt that dies before it reaches the relay.
func (b *bundle) crash(t *testing.T) {
	t.Helper()
	m := b.mail(t, email)
	c, err := b.store.Claim(t.Context(), notification.Mail{Recipient: email, Template: m.Template, EventID: m.EventID})
	if err != nil || c.State != notification.Sending {
		t.Fatalf("claim: %+v, %v", c, err)
	}
}

func TestSuppressed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	off := false
	if _, err := b.store.UpdatePreferences(t.Context(), "alice", notification.Change{OrderEmails: &off}); err != nil {
		t.Fatal(err)
	}
	b.send(t, notification.Suppressed)
	on := true
	if _, err := b.store.UpdatePreferences(t.Context(), "alice", notification.Change{OrderEmails: &on}); err != nil {
		t.Fatal(err)
	}
	b.send(t, notification.Suppressed) // the event is past
	b.accepted(t, 0)
}

func TestRefusedForGoodIsNotRetried(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.at("RCPT", "550 5.1.1 <"+email+"> unknown")
	_, err := b.SendOrderMail(t.Context(), b.mail(t, email))
	app, ok := errors.AsType[*temporal.ApplicationError](err)
	if !ok || !app.NonRetryable() || app.Type() != activities.ErrRefused || app.Category() != temporal.ApplicationErrorCategoryBenign {
		t.Fatalf("error %v", err)
	}
	if !strings.Contains(app.Message(), "550 5.1.1") || strings.Contains(err.Error(), "alice") {
		t.Errorf("message %q", app.Message())
	}
	// An operator who has mended the relay may send it.
	b.relay.Reply(nil)
	b.send(t, notification.Sent)
	b.accepted(t, 1)
}

func TestInvalidMailsAreNotRetriedAndClaimNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, change := range map[string]func(*activities.Mail){
		"contact of another order": func(m *activities.Mail) { m.OrderID = "another" },
		"no contact":               func(m *activities.Mail) { m.Contact = nil },
		"unknown template":         func(m *activities.Mail) { m.Template = "order_lost" },
		"no event":                 func(m *activities.Mail) { m.EventID = "" },
	} {
		m := b.mail(t, email)
		change(&m)
		_, err := b.SendOrderMail(t.Context(), m)
		app, ok := errors.AsType[*temporal.ApplicationError](err)
		if !ok || !app.NonRetryable() || app.Type() != activities.ErrInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	var rows int
	if err := b.pool.QueryRow(t.Context(), `select count(*) from delivery`).Scan(&rows); err != nil || rows != 0 {
		t.Errorf("%d rows, %v", rows, err)
	}
	_, err := b.SendOrderMail(t.Context(), b.mail(t, "alice@example.com\r\nRCPT TO:<eve@example.com>"))
	if !nonRetryable(err) {
		t.Errorf("malformed address: %v", err)
	}
	b.accepted(t, 0)
}

func nonRetryable(err error) bool {
	app, ok := errors.AsType[*temporal.ApplicationError](err)
	return ok && app.NonRetryable()
}

// TestMaxSend keeps the lease longer than an attempt can take.
func TestMaxSend(t *testing.T) {
	t.Parallel()
	if activities.MaxSend >= 2*time.Minute {
		t.Errorf("an attempt may take %s and outlive its claim", activities.MaxSend)
	}
}

// TestErasedRecipientEndsTheMail has a mail on its way while its recipient is
// erased, also after it has been handed over once.
func TestErasedRecipientEndsTheMail(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.at("RCPT", "451 4.3.0 later")
	m := b.mail(t, email)
	if _, err := b.SendOrderMail(t.Context(), m); err == nil {
		t.Fatal("the relay put us off, and it was sent")
	}
	b.at("", "")
	// While the keys are away nobody knows, so it is tried again.
	b.keys.Refuse(errors.New("compliance is away"))
	_, err := b.SendOrderMail(t.Context(), m)
	if app, final := errors.AsType[*temporal.ApplicationError](err); err == nil || (final && app.NonRetryable()) {
		t.Errorf("while the keys are away: %v", err)
	}
	b.keys.Refuse(nil)
	b.keys.Destroy("alice")
	if result := mustSend(t, b, m); result.State != string(notification.Suppressed) {
		t.Errorf("after the erasure: %+v", result)
	}
	if err := b.ReleaseOrderMail(t.Context(), m); err != nil {
		t.Errorf("release after the erasure: %v", err)
	}
	b.accepted(t, 0)
}

func mustSend(t *testing.T, b *bundle, m activities.Mail) activities.Result {
	t.Helper()
	result, err := b.SendOrderMail(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// TestNoticeIsSentToSomebodyWhoWantsNoMails sends what the law asks for.
func TestNoticeIsSentToSomebodyWhoWantsNoMails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	off := false
	if _, err := b.store.UpdatePreferences(t.Context(), "alice", notification.Change{OrderEmails: &off}); err != nil {
		t.Fatal(err)
	}
	const id, proof = "0198f3c2-0000-7a35-9c1e-2f6a1b0c9d8e", "a proof of sixty-four digits"
	contact, err := b.sealer.Seal(t.Context(), "alice", id, activities.Contact{Email: email, Name: "Alice"})
	if err != nil {
		t.Fatal(err)
	}
	m := activities.Mail{
		Subject: "alice", Template: notification.ErasureDone, EventID: id, Contact: contact, Request: &activities.Request{ID: id, Proof: proof},
	}
	for range 2 { // the second time nothing happens
		if result := mustSend(t, b, m); result.State != string(notification.Sent) {
			t.Errorf("got %+v", result)
		}
	}
	b.accepted(t, 1)
	if mail := b.relay.Accepted()[0]; !strings.Contains(mail.Data, proof) {
		t.Errorf("the mail lacks the proof: %s", mail.Data)
	}
	order := b.mail(t, email)
	if result := mustSend(t, b, order); result.State != string(notification.Suppressed) {
		t.Errorf("a mail about an order: %+v", result)
	}
}
