package notification_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/fault"
	"bookworm/internal/notification"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func migrate(ctx context.Context, adminURL string) error {
	return postgres.Migrate(ctx, adminURL, notification.Schema)
}

func setup(t *testing.T) (*notification.Store, *pgxpool.Pool) {
	t.Helper()
	pool, err := postgres.Open(t.Context(), pgtest.DB(t, migrate), notification.Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store, err := notification.NewStore(pool, "a key for tests, of 32 bytes or more")
	if err != nil {
		t.Fatal(err)
	}
	return store, pool
}

func mail() notification.Mail {
	return notification.Mail{Recipient: "alice@example.com", Template: notification.OrderConfirmed, EventID: "order-1"}
}

// claim claims the mail and fails the test unless it gets the state.
func claim(t *testing.T, s *notification.Store, m notification.Mail, want notification.State) notification.Claim {
	t.Helper()
	c, err := s.Claim(t.Context(), m)
	if err != nil || c.State != want {
		t.Fatalf("claim: %+v, %v; want %s", c, err, want)
	}
	return c
}

// expire ends the lease of every claim, as two minutes would.
func expire(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), `update delivery set updated_at = updated_at - interval '3 minutes'`); err != nil {
		t.Fatal(err)
	}
}

func TestPreferences(t *testing.T) {
	t.Parallel()
	store, _ := setup(t)
	yes, no := true, false
	version := func(n int64) *int64 { return &n }
	want := notification.Preferences{OrderEmails: true}
	check := func(step string, got notification.Preferences, err error) {
		t.Helper()
		if err != nil || got != want {
			t.Fatalf("%s: %+v, %v; want %+v", step, got, err, want)
		}
		if got, err = store.Preferences(t.Context(), "alice"); err != nil || got != want {
			t.Fatalf("after %s: %+v, %v; want %+v", step, got, err, want)
		}
	}
	update := func(c notification.Change) (notification.Preferences, error) {
		return store.UpdatePreferences(t.Context(), "alice", c)
	}

	got, err := store.Preferences(t.Context(), "alice")
	check("the defaults", got, err)

	_, err = update(notification.Change{MarketingEmails: &yes, Version: version(1)})
	if !fault.Is(err, fault.ReasonStaleVersion) {
		t.Fatalf("a version that never was: %v", err)
	}
	got, err = update(notification.Change{MarketingEmails: &yes, Version: version(0)})
	want = notification.Preferences{OrderEmails: true, MarketingEmails: true, Version: 1}
	check("the first change", got, err)

	got, err = update(notification.Change{OrderEmails: &no})
	want = notification.Preferences{MarketingEmails: true, Version: 2}
	check("a change of one field", got, err)

	for _, stale := range []int64{0, 1, 3} {
		if _, err = update(notification.Change{OrderEmails: &yes, Version: version(stale)}); !fault.Is(err, fault.ReasonStaleVersion) {
			t.Fatalf("version %d: %v", stale, err)
		}
	}
	got, err = update(notification.Change{OrderEmails: &yes, MarketingEmails: &no, Version: version(2)})
	want = notification.Preferences{OrderEmails: true, Version: 3}
	check("a change of the current version", got, err)

	// A1: nobody else's preferences moved.
	if bob, err := store.Preferences(t.Context(), "bob"); err != nil || bob != (notification.Preferences{OrderEmails: true}) {
		t.Errorf("bob's: %+v, %v", bob, err)
	}
}

func TestConcurrentConditionalUpdatesHaveOneWinner(t *testing.T) {
	t.Parallel()
	store, _ := setup(t)
	for base := range int64(2) {
		var wins sync.Map
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				on := i%2 == 0
				_, err := store.UpdatePreferences(t.Context(), "alice", notification.Change{OrderEmails: &on, Version: &base})
				if err == nil {
					wins.Store(i, true)
				} else if !fault.Is(err, fault.ReasonStaleVersion) {
					t.Error(err)
				}
			})
		}
		group.Wait()
		won := 0
		wins.Range(func(any, any) bool { won++; return true })
		if won != 1 {
			t.Errorf("version %d: %d winners", base, won)
		}
	}
}

// TestN3_OneClaimAtATime races for one mail; nobody settles it.
func TestN3_OneClaimAtATime(t *testing.T) {
	t.Parallel()
	store, _ := setup(t)
	var winners, waiters int
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			c, err := store.Claim(t.Context(), mail())
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && c.State == notification.Sending:
				winners++
			case errors.Is(err, notification.ErrInFlight):
				waiters++
			default:
				t.Errorf("claim: %+v, %v", c, err)
			}
		})
	}
	group.Wait()
	if winners != 1 || waiters != 31 {
		t.Errorf("%d winners, %d waiters", winners, waiters)
	}
}

func TestDeliveryStates(t *testing.T) {
	t.Parallel()
	settle := func(t *testing.T, s *notification.Store, c notification.Claim, state notification.State) {
		t.Helper()
		if err := s.Settle(t.Context(), mail(), c, state, "for the test"); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("sent is final", func(t *testing.T) {
		t.Parallel()
		store, pool := setup(t)
		first := claim(t, store, mail(), notification.Sending)
		settle(t, store, first, notification.Sent)
		expire(t, pool)
		second := claim(t, store, mail(), notification.Sent)
		if second.MessageID != first.MessageID || second.Attempt != 1 {
			t.Errorf("claims %+v and %+v", first, second)
		}
		if state, err := store.Suppress(t.Context(), mail()); err != nil || state != notification.Sent {
			t.Errorf("suppress: %s, %v", state, err)
		}
		settle(t, store, first, notification.Failed)
		claim(t, store, mail(), notification.Sent)
	})
	t.Run("failed frees the claim, under the same message id", func(t *testing.T) {
		t.Parallel()
		store, _ := setup(t)
		first := claim(t, store, mail(), notification.Sending)
		settle(t, store, first, notification.Failed)
		second := claim(t, store, mail(), notification.Sending)
		if second.MessageID != first.MessageID || second.Attempt != 2 {
			t.Errorf("claims %+v and %+v", first, second)
		}
		settle(t, store, first, notification.Sent) // the first attempt has nothing to say any more
		if _, err := store.Claim(t.Context(), mail()); !errors.Is(err, notification.ErrInFlight) {
			t.Errorf("claim: %v", err)
		}
	})
	t.Run("a crash in between is unknown until an operator releases it", func(t *testing.T) {
		t.Parallel()
		store, pool := setup(t)
		claim(t, store, mail(), notification.Sending)
		expire(t, pool)
		claim(t, store, mail(), notification.Unknown)
		expire(t, pool)
		claim(t, store, mail(), notification.Unknown)
		if err := store.Release(t.Context(), mail()); err != nil {
			t.Fatal(err)
		}
		second := claim(t, store, mail(), notification.Sending)
		if second.Attempt != 2 {
			t.Errorf("claim %+v", second)
		}
		if err := store.Release(t.Context(), mail()); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Claim(t.Context(), mail()); !errors.Is(err, notification.ErrInFlight) {
			t.Errorf("an operator released a running attempt: %v", err)
		}
	})
	t.Run("the truth may come late", func(t *testing.T) {
		t.Parallel()
		store, pool := setup(t)
		slow := claim(t, store, mail(), notification.Sending)
		expire(t, pool)
		claim(t, store, mail(), notification.Unknown)
		settle(t, store, slow, notification.Sent)
		claim(t, store, mail(), notification.Sent)
	})
	t.Run("suppressed is final", func(t *testing.T) {
		t.Parallel()
		store, _ := setup(t)
		for range 2 {
			if state, err := store.Suppress(t.Context(), mail()); err != nil || state != notification.Suppressed {
				t.Errorf("suppress: %s, %v", state, err)
			}
		}
		claim(t, store, mail(), notification.Suppressed)
	})
	t.Run("recipient, template and event make a mail", func(t *testing.T) {
		t.Parallel()
		store, _ := setup(t)
		ids := make(map[string]notification.Mail)
		for _, m := range []notification.Mail{
			mail(),
			{Recipient: "bob@example.com", Template: mail().Template, EventID: mail().EventID},
			{Recipient: mail().Recipient, Template: notification.OrderCancelled, EventID: mail().EventID},
			{Recipient: mail().Recipient, Template: mail().Template, EventID: "order-2"},
		} {
			id := claim(t, store, m, notification.Sending).MessageID
			if other, taken := ids[id]; taken {
				t.Errorf("%+v and %+v share a message id", m, other)
			}
			ids[id] = m
		}
		same := mail()
		same.Recipient = " Alice@Example.COM "
		if _, err := store.Claim(t.Context(), same); !errors.Is(err, notification.ErrInFlight) {
			t.Errorf("another spelling of the address: %v", err)
		}
	})
}

// TestA3_DeliveriesHoldNoAddress reads the table as somebody who stole it.
func TestA3_DeliveriesHoldNoAddress(t *testing.T) {
	t.Parallel()
	store, pool := setup(t)
	claim(t, store, mail(), notification.Sending)
	var row string
	if err := pool.QueryRow(t.Context(), `select delivery::text from delivery`).Scan(&row); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(row, "alice") || strings.Contains(row, fmt.Sprintf("%x", "alice")) {
		t.Errorf("row %s", row)
	}
	if _, err := notification.NewStore(pool, "short"); err == nil {
		t.Error("took a short key")
	}
	other, err := notification.NewStore(pool, "another key for tests, also 32 bytes")
	if err != nil {
		t.Fatal(err)
	}
	claim(t, other, mail(), notification.Sending) // under another key it is another hash
}
