package chat

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/fault"
	"bookworm/internal/personal/personaltest"
)

const pseudonym = "erased-1"

func TestEveryColumnIsClassified(t *testing.T) {
	t.Parallel()
	personaltest.Classify(t, setup(t).db, Schema.Name, personaltest.Classes{
		Erased: `conversation.id conversation.subject conversation.title conversation.summary conversation.summarized
			conversation.created_at conversation.updated_at
			turn.id turn.conversation_id turn.subject turn.number turn.fingerprint turn.question turn.answer turn.citations turn.outcome
			turn.input_tokens turn.output_tokens turn.reserved_tokens turn.owner turn.lease_until turn.watched_until turn.cancelled
			turn.created_at turn.ended_at turn.eventless
			turn_event.turn_id turn_event.sequence turn_event.event
			action.id action.conversation_id action.turn_id action.subject action.book_id action.quantity action.text action.state action.etag
			action.target action.held_until action.result action.created_at action.expires_at`,
		Pseudonym: `usage.subject`,
		Kept:      `usage.day usage.turns usage.input_tokens usage.output_tokens usage.cost_micros`,
	})
}

// said stores a turn that has ended, as an engine would, and returns it.
func (b *bench) said(subject, question, answer string) turn {
	b.t.Helper()
	t, err := said(b, subject, question, answer)
	if err != nil {
		b.t.Fatal(err)
	}
	return t
}

func said(b *bench, subject, question, answer string) (turn, error) {
	owner := uuid.New()
	t, _, err := b.store.begin(b.t.Context(), opening{
		id: uuid.New(), subject: subject, question: question, owner: owner, lease: time.Minute, turnTokens: 5000, dayTokens: 1 << 40,
	})
	if err != nil {
		return turn{}, err
	}
	return t, b.store.finish(b.t.Context(), ending{
		turn: t, owner: owner, cost: 7, citations: []Citation{{Number: 1, Kind: KindBook, ID: "b1", Title: "Dune"}},
		events: []Event{
			{Sequence: 1, Tool: &ToolUse{CallID: "c", Name: SearchBooks, State: Succeeded, Summary: "Found"}},
			{Sequence: 2, Delta: answer},
			{Sequence: 3, Citation: &Citation{Number: 1, Kind: KindBook, ID: "b1", Title: "Dune"}},
			{Sequence: 4, Done: &Done{Outcome: Answered, Input: 10, Output: 5, Text: answer}},
		},
	})
}

func TestA1_ExportHasAllThatOnePersonSaid(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const many = personalPage + 2
	want := make(map[string]bool)
	var last turn
	for i := range many {
		last = b.said("alice", fmt.Sprintf("alice asks %d", i), fmt.Sprintf("the answer to alice %d", i))
		want[last.id.String()] = true
	}
	if _, err := b.store.propose(t.Context(), last, Proposal{BookID: uuid.New(), Quantity: 2, Text: "Put Dune in"}); err != nil {
		t.Fatal(err)
	}
	bob := b.said("bob", "bob asks", "the answer to bob")

	holder := Personal{b.store}
	records := make(map[string]int)
	var second string
	for token, pages := "", 0; ; pages++ {
		sections, next, err := holder.Export(t.Context(), "alice", token)
		if err != nil {
			t.Fatal(err)
		}
		for _, section := range sections {
			records[section.Name] += len(section.Records)
			for _, record := range section.Records {
				text, err := json.Marshal(record)
				if err != nil || strings.Contains(string(text), "bob") || strings.Contains(string(text), bob.id.String()) {
					t.Errorf("%s: %s, %v", section.Name, text, err)
				}
				if section.Name != "turns" {
					continue
				}
				id, _ := record["id"].(string)
				if !want[id] {
					t.Errorf("turn %s is not alice's, or comes twice", id)
				}
				delete(want, id)
				for _, part := range []string{"alice asks", "the answer to alice", `"ANSWERED"`, `"Dune"`, `"search_books"`, `"input_tokens":10`} {
					if !strings.Contains(string(text), part) {
						t.Errorf("a turn lacks %s: %s", part, text)
					}
				}
				if _, err := time.Parse(time.RFC3339, fmt.Sprint(record["ended_at"])); err != nil || !strings.HasSuffix(fmt.Sprint(record["ended_at"]), "Z") {
					t.Errorf("ended at %v, %v", record["ended_at"], err)
				}
			}
		}
		if token = next; token == "" {
			break
		}
		if second == "" {
			second = next
		}
		if pages > 10 {
			t.Fatal("the export does not end")
		}
	}
	if records["conversations"] != many || records["turns"] != many || len(want) > 0 || records["proposals"] != 1 || records["usage"] != 1 {
		t.Errorf("exported %v, %d turns are missing", records, len(want))
	}
	if _, _, err := holder.Export(t.Context(), "bob", second); !fault.Is(err, fault.ReasonPageTokenInvalid) {
		t.Errorf("bob reads on where alice was: %v", err)
	}
	if sections, next, err := holder.Export(t.Context(), "nobody", ""); len(sections) > 0 || next != "" || err != nil {
		t.Errorf("nobody has %v, %q, %v", sections, next, err)
	}
}

func TestErasureLeavesOnlyWhatItCost(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.said("bob", "bob asks", "the answer to bob")
	bob := personaltest.Rows(t, b.db, Schema.Name)
	var last turn
	for range eraseBatch + 3 {
		last = b.said("alice", "alice asks for Rabbits", "the Rabbits of alice")
	}
	if _, err := b.store.propose(t.Context(), last, Proposal{BookID: uuid.New(), Quantity: 2, Text: "Rabbits go in"}); err != nil {
		t.Fatal(err)
	}
	if err := b.store.summarize(t.Context(), last, "alice likes Rabbits", 1, 100, 50, 3); err != nil {
		t.Fatal(err)
	}
	holder := Personal{b.store}
	got, err := holder.Erase(t.Context(), "alice", pseudonym)
	if err != nil || got.Erased != eraseBatch+3 || got.Kept != 1 || got.Note == "" || len(got.WaitingFor) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if found := personaltest.Find(t, b.db, Schema.Name, "alice", "rabbit"); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
	personaltest.Untouched(t, b.db, Schema.Name, bob)
	cost := func() (turns, tokens, micros int64) {
		err := b.db.QueryRow(t.Context(), `select turns, input_tokens + output_tokens, cost_micros from usage where subject = $1`, pseudonym).
			Scan(&turns, &tokens, &micros)
		if err != nil {
			t.Fatal(err)
		}
		return turns, tokens, micros
	}
	const n = eraseBatch + 3
	if turns, tokens, micros := cost(); turns != n || tokens != 15*n+150 || micros != 7*n+3 {
		t.Errorf("the accounts have %d turns, %d tokens and %d", turns, tokens, micros)
	}
	after := personaltest.Rows(t, b.db, Schema.Name)
	if again, err := holder.Erase(t.Context(), "alice", pseudonym); err != nil || again.Erased != 0 || again.Kept != 1 {
		t.Errorf("again: %+v, %v", again, err)
	}
	personaltest.Untouched(t, b.db, Schema.Name, after)

	// What an engine still has to say of a turn that is gone brings nobody back.
	if err := b.store.summarize(t.Context(), last, "alice likes Rabbits", 1, 100, 50, 3); err != nil {
		t.Fatal(err)
	}
	if err := b.store.endAbandoned(t.Context(), last.id); err != nil {
		t.Fatal(err)
	}
	if found := personaltest.Find(t, b.db, Schema.Name, "alice", "rabbit"); len(found) > 0 {
		t.Errorf("came back: %v", found)
	}
	// Somebody who comes back and goes again has both in one.
	b.said("alice", "alice again", "yes")
	if got, err := holder.Erase(t.Context(), "alice", pseudonym); err != nil || got.Kept != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if turns, _, _ := cost(); turns != n+1 {
		t.Errorf("the accounts have %d turns", turns)
	}
}

func TestErasureCancelsTheTurnThatRuns(t *testing.T) {
	t.Parallel()
	b := setup(t)
	gone := make(chan error, 1)
	e := b.engine(newModel(t, waits(gone)), Limits{Stall: time.Minute})
	turn, err := e.Send(as(t, "alice"), Question{Key: "k", Text: "alice asks"})
	if err != nil {
		t.Fatal(err)
	}
	defer turn.Close()
	first := b.first(turn)
	got, err := Personal{b.store}.Erase(t.Context(), "alice", pseudonym)
	if err != nil || got.Erased != 1 || len(got.WaitingFor) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	receive(t, gone, "the end of the model's call")
	if done := whole(t, append([]Event{first}, b.collect(turn)...)); done.Outcome != Cancelled {
		t.Errorf("the turn ended %+v", done)
	}
	if found := personaltest.Find(t, b.db, Schema.Name, "alice"); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
	var turns int64
	if err := b.db.QueryRow(t.Context(), `select turns from usage where subject = $1`, pseudonym).Scan(&turns); err != nil || turns != 1 {
		t.Errorf("the accounts have %d turns, %v", turns, err)
	}
}

func TestErasureWaitsForATurnThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.said("alice", "alice asks", "yes")
	running, _, err := b.store.begin(t.Context(), opening{
		id: uuid.New(), subject: "alice", question: "alice asks", owner: uuid.New(), lease: time.Hour, turnTokens: 5000, dayTokens: 1 << 40,
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Personal{b.store}.Erase(t.Context(), "alice", pseudonym)
	if err != nil || !slices.Equal(got.WaitingFor, []string{"turn " + running.id.String()}) || got.Erased != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if found, _, err := b.store.Conversations(t.Context(), "alice", 10, ""); len(found) != 2 || err != nil {
		t.Errorf("%d conversations are left, %v", len(found), err)
	}
	// Its engine has died: the erasure ends it.
	if _, err := b.db.Exec(t.Context(), `update turn set lease_until = now() - interval '1 second' where outcome is null`); err != nil {
		t.Fatal(err)
	}
	if got, err := (Personal{b.store}).Erase(t.Context(), "alice", pseudonym); err != nil || got.Erased != 2 || len(got.WaitingFor) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if found := personaltest.Find(t, b.db, Schema.Name, "alice"); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
}

// TestEndOfAnErasedTurnBringsNobodyBack has a turn whose engine died be erased in
// the middle of being ended, where its usage is about to be written.
func TestEndOfAnErasedTurnBringsNobodyBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	dead, _, err := b.store.begin(t.Context(), opening{
		id: uuid.New(), subject: "alice", question: "alice asks", owner: uuid.New(), lease: time.Nanosecond, turnTokens: 5000, dayTokens: 1 << 40,
	})
	if err != nil {
		t.Fatal(err)
	}
	watcher, err := pgx.Connect(t.Context(), b.url) // a superuser, who sees what others wait for
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = watcher.Close(context.Background()) }()
	erasure, err := b.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = erasure.Rollback(context.Background()) }()
	if _, err := erasure.Exec(t.Context(), `delete from usage where subject = 'alice'`); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- b.store.endAbandoned(t.Context(), dead.id) }()
	b.await("the end to wait for the usage", func() bool {
		var waits bool
		err := watcher.QueryRow(t.Context(), `
			select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`).Scan(&waits)
		return err == nil && waits
	})
	if _, err := erasure.Exec(t.Context(), `delete from conversation where subject = 'alice'`); err != nil {
		t.Fatal(err)
	}
	if err := erasure.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, ended, "the end"); err != nil {
		t.Error(err)
	}
	if found := personaltest.Find(t, b.db, Schema.Name, "alice"); len(found) > 0 {
		t.Errorf("came back: %v", found)
	}
}

func TestErasureBesideTurnsEndsInOneState(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var group errgroup.Group
	group.Go(func() error {
		for range 15 {
			if _, err := (Personal{b.store}).Erase(t.Context(), "alice", pseudonym); err != nil {
				return err
			}
		}
		return nil
	})
	for range 4 {
		group.Go(func() error {
			for range 10 {
				turn, err := said(b, "alice", "alice asks", "yes")
				if err != nil && !strings.Contains(err.Error(), errLost.Error()) {
					return err
				}
				if err := b.store.summarize(t.Context(), turn, "alice likes it", 1, 1, 1, 1); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, err := (Personal{b.store}).Erase(t.Context(), "alice", pseudonym); err != nil || len(got.WaitingFor) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if found := personaltest.Find(t, b.db, Schema.Name, "alice"); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
}

func TestOldConversationsEventsAndOwnersGo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	e := b.engine(newModel(t, answersAboutDune), Limits{})
	ended := b.said("alice", "alice asks", "It is Dune [1]. It is long. (unverified)")
	b.said("bob", "bob asks", "yes")
	retain := func(now time.Time, conversations, events, usage int64) {
		t.Helper()
		deleted, _, err := b.store.retain(t.Context(), now)
		if err != nil || deleted["conversations"] != conversations || deleted["turn events"] != events || deleted["days of usage"] != usage {
			t.Errorf("deleted %v, %v; want %d, %d and %d", deleted, err, conversations, events, usage)
		}
	}
	now := time.Now()
	retain(now.Add(keepEvents-time.Hour), 0, 0, 0)
	retain(now.Add(keepEvents+time.Hour), 0, 8, 0)
	retain(now.Add(keepEvents+time.Hour), 0, 0, 0)
	for after, deltas := range map[int64]int{0: 1, 3: 0, 9: 0} {
		s, err := e.Resume(t.Context(), "alice", ended.id, after)
		if err != nil {
			t.Fatal(err)
		}
		events := b.collect(s)
		s.Close()
		if last := events[len(events)-1]; last.Done == nil || last.Done.Text != "It is Dune [1]. It is long. (unverified)" || last.Done.Outcome != Answered ||
			last.Done.Uncited != 1 || last.Done.Input != 10 || last.Sequence != after+int64(len(events)) {
			t.Errorf("after %d the turn ends with %+v", after, last)
		}
		if len(events) != 1+2*deltas {
			t.Errorf("after %d there are %d events", after, len(events))
		}
		if deltas == 1 && (whole(t, events).Text == "" || events[1].Citation == nil) {
			t.Errorf("the events are %+v", events)
		}
	}
	if messages, _, err := b.store.Messages(t.Context(), "alice", ended.conversation, 10, ""); len(messages) != 2 || err != nil {
		t.Errorf("the messages are %v, %v", messages, err)
	}

	running, _, err := b.store.begin(t.Context(), opening{
		id: uuid.New(), conversation: ended.conversation, subject: "alice", question: "alice asks", owner: uuid.New(), lease: time.Hour,
		turnTokens: 5000, dayTokens: 1 << 40,
	})
	if err != nil {
		t.Fatal(err)
	}
	retain(now.Add(keepConversations-time.Hour), 0, 0, 0)
	retain(now.Add(keepConversations+time.Hour), 1, 0, 0) // bob's: alice's is being answered
	if _, err := b.store.conversation(t.Context(), "alice", running.conversation); err != nil {
		t.Error(err)
	}
	retain(now.Add(keepUsageOwner-24*time.Hour), 0, 0, 0)
	retain(now.Add(keepUsageOwner+48*time.Hour), 0, 0, 1)
	var turns int64
	if err := b.db.QueryRow(t.Context(), `select sum(turns) from usage where subject = ''`).Scan(&turns); err != nil || turns != 2 {
		t.Errorf("the accounts have %d turns of nobody, %v", turns, err)
	}
	if _, more, err := (Personal{b.store}).Retain(t.Context()); err != nil || more {
		t.Errorf("today: more %v, %v", more, err)
	}
}
