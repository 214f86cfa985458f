package histories

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/sdk/client"
	temporalsdk "go.temporal.io/sdk/temporal"

	activities "bookworm/activities/notification"
	"bookworm/dev/temporal"
	"bookworm/internal/mail"
	"bookworm/internal/mail/mailtest"
	"bookworm/internal/money"
	domain "bookworm/internal/notification"
	"bookworm/internal/personal"
	"bookworm/internal/personal/personaltest"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
	"bookworm/internal/process"
	"bookworm/workers"
	"bookworm/workflows/notification"
)

var record = flag.Bool("record", false, "write the histories to the replay tests' testdata")

func TestMain(m *testing.M) { pgtest.Main(m) }

func migrateNotification(ctx context.Context, adminURL string) error {
	return postgres.Migrate(ctx, adminURL, domain.Schema)
}

// mailroom is the notification process on the real server.
type mailroom struct {
	client client.Client
	store  *domain.Store
	sealer *personal.ShopperSealer
	relay  *mailtest.Relay
}

func TestNotification(t *testing.T) {
	t.Parallel()
	room := &mailroom{relay: mailtest.New(t)}
	room.start(t)

	paths := []struct {
		name string
		// reply is the relay's for the n-th time that a stage is reached with this
		// path's recipient.
		reply func(stage string, n int) string
		// operate is what an operator does; nil when none is needed.
		operate func(t *testing.T, run client.WorkflowRun)
		off     bool // the shopper wants no order mails
		want    domain.State
		sent    int
	}{
		{name: "sent", want: domain.Sent, sent: 1},
		{name: "suppressed", off: true, want: domain.Suppressed},
		{
			name: "retried", want: domain.Sent, sent: 1,
			reply: func(stage string, n int) string {
				if stage == "RCPT" && n <= 3 {
					return "451 4.3.0 later"
				}
				return ""
			},
		},
		{
			name: "parked", want: domain.Sent, sent: 1, operate: room.retry,
			reply: func(stage string, n int) string {
				if stage == "RCPT" && n == 1 {
					return "550 5.1.1 unknown"
				}
				return ""
			},
		},
		{
			name: "unknown", want: domain.Sent, sent: 2, operate: room.retry,
			reply: func(stage string, n int) string {
				if stage == "AFTER" && n == 1 {
					return mailtest.Drop
				}
				return ""
			},
		},
		{
			name: "cancelled", operate: room.cancel,
			reply: func(stage string, _ int) string {
				if stage == "RCPT" {
					return "550 5.1.1 unknown"
				}
				return ""
			},
		},
	}
	var mu sync.Mutex
	seen := make(map[string]int) // by stage and recipient
	room.relay.Reply(func(stage, recipient string) string {
		mu.Lock()
		defer mu.Unlock()
		for _, path := range paths {
			if path.reply != nil && recipient == path.name+"@example.com" {
				seen[stage+recipient]++
				return path.reply(stage, seen[stage+recipient])
			}
		}
		return ""
	})

	for _, path := range paths {
		t.Run(path.name, func(t *testing.T) {
			t.Parallel()
			if path.off {
				off := false
				_, err := room.store.UpdatePreferences(t.Context(), path.name, domain.Change{OrderEmails: &off})
				if err != nil {
					t.Fatal(err)
				}
			}
			run := room.send(t, path.name)
			if path.operate != nil {
				path.operate(t, run)
			}
			var result notification.Result
			err := run.Get(t.Context(), &result)
			switch {
			case path.want == "":
				if !temporalsdk.IsCanceledError(err) {
					t.Errorf("result %+v, %v", result, err)
				}
			case err != nil || result.State != string(path.want):
				t.Errorf("result %+v, %v; want %s", result, err, path.want)
			}
			if got := room.accepted(path.name); got != path.sent {
				t.Errorf("the relay accepted %d, want %d", got, path.sent)
			}
			history := fetch(t, room.client, run)
			if strings.Contains(history, path.name+"@") || strings.Contains(history, "Alice") {
				t.Error("A3: the history names the recipient")
			}
			if *record {
				file := filepath.Join("..", "..", "workflows", "notification", "testdata", path.name+".json")
				if err := os.WriteFile(file, []byte(history), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func (r *mailroom) start(t *testing.T) {
	t.Helper()
	pool, err := postgres.Open(t.Context(), pgtest.DB(t, migrateNotification), domain.Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if r.store, err = domain.NewStore(pool, personal.NewKey()); err != nil {
		t.Fatal(err)
	}
	r.sealer, _ = personaltest.Sealer(t)
	sender, err := mail.New(mail.Config{URL: r.relay.URL(), From: "BookWorm <orders@bookworm.example>"})
	if err != nil {
		t.Fatal(err)
	}
	a, err := activities.New(r.store, sender, r.sealer, slog.New(slog.DiscardHandler), noop.NewMeterProvider())
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	server, err := temporal.Start(ctx, temporal.Options{DataDir: t.TempDir(), SearchAttributes: process.SearchAttributes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	r.client, err = client.DialContext(ctx, client.Options{
		HostPort: server.Address(), Identity: "recorder", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.Close)
	w := workers.Notification(r.client, a)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
}

// send starts the process for the order named name. Its workflow tasks are short,
// so that the second retry waits by a timer, as all later ones do.
func (r *mailroom) send(t *testing.T, name string) client.WorkflowRun {
	t.Helper()
	contact, err := r.sealer.Seal(t.Context(), name, name, activities.Contact{Email: name + "@example.com", Name: "Alice"})
	if err != nil {
		t.Fatal(err)
	}
	price := money.New("USD", 1299)
	run, err := r.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID: notification.WorkflowID(name, notification.OrderConfirmed), TaskQueue: activities.TaskQueue,
		WorkflowTaskTimeout: time.Second,
	}, notification.Name, notification.Mail{
		OrderID: name, Subject: name, Template: notification.OrderConfirmed, EventID: name, Contact: contact,
		Lines:    []notification.Line{{Title: "Dune", Quantity: 1, UnitPrice: price, LineTotal: price}},
		Subtotal: price, Shipping: money.New("USD", 0), Tax: money.New("USD", 0), Discount: money.New("USD", 0), Total: price,
	})
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// accepted counts the mails that the relay accepted for an order.
func (r *mailroom) accepted(name string) (n int) {
	for _, m := range r.relay.Accepted() {
		if m.To == name+"@example.com" {
			n++
		}
	}
	return n
}

func (r *mailroom) retry(t *testing.T, run client.WorkflowRun) {
	t.Helper()
	r.awaitParked(t, run)
	if err := r.client.SignalWorkflow(t.Context(), run.GetID(), "", notification.RetrySignal, nil); err != nil {
		t.Fatal(err)
	}
}

func (r *mailroom) cancel(t *testing.T, run client.WorkflowRun) {
	t.Helper()
	r.awaitParked(t, run)
	if err := r.client.CancelWorkflow(t.Context(), run.GetID(), ""); err != nil {
		t.Fatal(err)
	}
}

// awaitParked finds the mail the way operators do: by its step.
func (r *mailroom) awaitParked(t *testing.T, run client.WorkflowRun) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		description, err := r.client.DescribeWorkflow(ctx, run.GetID(), "")
		if err != nil {
			t.Fatal(err)
		}
		if step, ok := description.TypedSearchAttributes.GetKeyword(process.Step); ok && step == "mail is parked" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not parked: %+v", description.WorkflowExecutionMetadata)
		case <-tick.C:
		}
	}
}

// fetch returns the history as JSON.
func fetch(t *testing.T, c client.Client, run client.WorkflowRun) string {
	t.Helper()
	var history historypb.History
	events := c.GetWorkflowHistory(t.Context(), run.GetID(), run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		if err != nil {
			t.Fatal(err)
		}
		history.Events = append(history.Events, event)
	}
	out, err := temporalproto.CustomJSONMarshalOptions{Indent: "  "}.Marshal(&history)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
