package notification_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/fault"
	"bookworm/internal/notification"
	"bookworm/internal/personal/personaltest"
)

const schema = "notification"

func TestEveryColumnIsClassified(t *testing.T) {
	t.Parallel()
	_, pool := setup(t)
	personaltest.Classify(t, pool, schema, personaltest.Classes{
		Erased:    `preferences.subject preferences.order_emails preferences.marketing_emails preferences.version preferences.updated_at`,
		Pseudonym: `delivery.subject_hash`,
		// Until the record's time is over (N3).
		Kept: `delivery.recipient_hash delivery.template delivery.event_id delivery.state delivery.attempts delivery.message_id
			delivery.last_error delivery.created_at delivery.updated_at`,
	})
}

func mailOf(subject, event string) notification.Mail {
	return notification.Mail{
		Recipient: "both@example.com", Template: notification.OrderConfirmed, EventID: event, Subject: subject,
	}
}

// send makes the record of a mail that the relay took.
func send(t *testing.T, s *notification.Store, m notification.Mail) {
	t.Helper()
	if err := s.Settle(t.Context(), m, claim(t, s, m, notification.Sending), notification.Sent, ""); err != nil {
		t.Fatal(err)
	}
}

func prefer(t *testing.T, s *notification.Store, subject string) {
	t.Helper()
	yes := true
	if _, err := s.UpdatePreferences(t.Context(), subject, notification.Change{MarketingEmails: &yes}); err != nil {
		t.Fatal(err)
	}
}

func age(t *testing.T, pool *pgxpool.Pool, event, by string) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `update delivery set created_at = created_at - $2::interval, updated_at = updated_at - $2::interval where event_id = $1`, event, by)
	if err != nil {
		t.Fatal(err)
	}
}

func TestA1_ExportHasOnePersonsPreferencesAndMails(t *testing.T) {
	t.Parallel()
	s, pool := setup(t)
	const many = 205
	prefer(t, s, "alice")
	prefer(t, s, "bob")
	want := make(map[string]bool)
	for i := range many {
		event := fmt.Sprintf("alice-%d", i)
		want[event] = true
		send(t, s, mailOf("alice", event))
	}
	// All at one time, as those of one transaction are.
	if _, err := pool.Exec(t.Context(), `update delivery set created_at = '2026-01-02'`); err != nil {
		t.Fatal(err)
	}
	send(t, s, mailOf("bob", "bob-1"))

	holder := notification.Personal{Store: s}
	preferences, first := 0, ""
	for token := ""; ; {
		sections, next, err := holder.Export(t.Context(), "alice", token)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(fmt.Sprint(sections), "bob") {
			t.Errorf("alice's export has something of bob's: %v", sections)
		}
		for _, section := range sections {
			for _, record := range section.Records {
				switch section.Name {
				case "preferences":
					preferences++
					if record["marketing_emails"] != true || record["order_emails"] != true {
						t.Errorf("preferences %v", record)
					}
				case "mails":
					event, _ := record["event_id"].(string)
					if !want[event] || record["state"] != "sent" || record["template"] != notification.OrderConfirmed {
						t.Errorf("mail %v is not alice's, or comes twice", record)
					}
					delete(want, event)
				}
			}
		}
		if first == "" {
			first = next
		}
		if token = next; token == "" {
			break
		}
	}
	if preferences != 1 || len(want) > 0 || first == "" {
		t.Errorf("%d preferences, %d mails are missing, the second page is %q", preferences, len(want), first)
	}
	if _, _, err := holder.Export(t.Context(), "bob", first); !fault.Is(err, fault.ReasonPageTokenInvalid) {
		t.Errorf("bob reads on where alice was: %v", err)
	}
	if sections, next, err := holder.Export(t.Context(), "nobody", ""); len(sections) > 0 || next != "" || err != nil {
		t.Errorf("nobody has %v, %q, %v", sections, next, err)
	}
}

func TestN3_ErasureKeepsWhatAProcessMayAskFor(t *testing.T) {
	t.Parallel()
	s, pool := setup(t)
	prefer(t, s, "bob")
	send(t, s, mailOf("bob", "b"))
	bob := personaltest.Rows(t, pool, schema)
	prefer(t, s, "alice")
	send(t, s, mailOf("alice", "long ago"))
	age(t, pool, "long ago", "5 days")
	send(t, s, mailOf("alice", "just now"))
	inFlight := mailOf("alice", "in flight")
	flying := claim(t, s, inFlight, notification.Sending)

	holder := notification.Personal{Store: s}
	got, err := holder.Erase(t.Context(), "alice", "erased-1")
	if err != nil || got.Erased != 4 || got.Kept != 2 || got.Note == "" || len(got.WaitingFor) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if found := personaltest.Find(t, pool, schema, "alice", "both@example.com", "long ago"); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
	if sections, _, err := holder.Export(t.Context(), "alice", ""); len(sections) > 0 || err != nil {
		t.Errorf("an export after the erasure has %v, %v", sections, err)
	}
	// The process of a mail ends as it would have, and nothing goes out twice.
	if err := s.Settle(t.Context(), inFlight, flying, notification.Sent, ""); err != nil {
		t.Fatal(err)
	}
	claim(t, s, inFlight, notification.Sent)
	claim(t, s, mailOf("alice", "just now"), notification.Sent)

	after := personaltest.Rows(t, pool, schema)
	if again, err := holder.Erase(t.Context(), "alice", "erased-1"); err != nil || again.Erased != 0 || again.Kept != 2 {
		t.Errorf("again: %+v, %v", again, err)
	}
	personaltest.Untouched(t, pool, schema, after)
	personaltest.Untouched(t, pool, schema, bob)
}

func TestErasureBesideWritesEndsInOneState(t *testing.T) {
	t.Parallel()
	s, pool := setup(t)
	holder := notification.Personal{Store: s}
	var group errgroup.Group
	group.Go(func() error {
		for range 30 {
			if _, err := holder.Erase(t.Context(), "alice", "erased-1"); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range 4 {
		group.Go(func() error {
			for j := range 10 {
				yes := true
				if _, err := s.UpdatePreferences(t.Context(), "alice", notification.Change{OrderEmails: &yes}); err != nil {
					return err
				}
				if _, err := s.Claim(t.Context(), mailOf("alice", fmt.Sprint(i, " ", j))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, err := holder.Erase(t.Context(), "alice", "erased-1"); err != nil || got.Kept != 40 {
		t.Errorf("%+v, %v", got, err)
	}
	if found := personaltest.Find(t, pool, schema, "alice"); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
}

func TestRecordsOfOldMailsGo(t *testing.T) {
	t.Parallel()
	s, pool := setup(t)
	holder := notification.Personal{Store: s}
	for _, event := range []string{"young", "old", "parked"} {
		send(t, s, mailOf("alice", event))
	}
	claim(t, s, mailOf("alice", "being sent"), notification.Sending)
	if _, err := pool.Exec(t.Context(), `update delivery set state = 'unknown' where event_id = 'parked'`); err != nil {
		t.Fatal(err)
	}
	age(t, pool, "young", "89 days")
	for _, event := range []string{"old", "parked", "being sent"} {
		age(t, pool, event, "91 days")
	}
	for _, want := range []int64{2, 0} {
		if deleted, more, err := holder.Retain(t.Context()); err != nil || more || deleted["mails"] != want {
			t.Errorf("deleted %v, %v, %v; want %d", deleted, more, err, want)
		}
	}
	left := personaltest.Find(t, pool, schema, "old", "parked", "young", "being sent")
	if len(left) != 2 || strings.Join(left, ", ") != "delivery.event_id has young, delivery.event_id has being sent" {
		t.Errorf("left: %v", left)
	}
	prefer(t, s, "alice")
	if _, _, err := holder.Retain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p, err := s.Preferences(t.Context(), "alice"); err != nil || p.Version != 1 {
		t.Errorf("the preferences are %+v, %v", p, err)
	}
}
