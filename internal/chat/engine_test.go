package chat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	"bookworm/internal/identity"
	"bookworm/internal/money"
	"bookworm/internal/personal"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// bench is a database with engines over it.
type bench struct {
	t     *testing.T
	url   string
	db    *pgxpool.Pool
	store *Store
	tools *fakeTools
}

func setup(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, tools: &fakeTools{}}
	b.url = pgtest.DB(t, func(ctx context.Context, url string) error { return postgres.Migrate(ctx, url, Schema) })
	b.db = b.pool()
	b.store = NewStore(b.db)
	return b
}

func (b *bench) pool() *pgxpool.Pool {
	b.t.Helper()
	pool, err := postgres.Open(b.t.Context(), b.url, Schema.Name)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(pool.Close)
	return pool
}

// engine runs one more replica, for as long as the test.
func (b *bench) engine(m *model, limits Limits) *Engine {
	b.t.Helper()
	e, _ := b.replica(m, limits, b.db)
	return e
}

// replica returns an engine over a pool, and what ends it.
func (b *bench) replica(m *model, limits Limits, db *pgxpool.Pool) (*Engine, func()) {
	b.t.Helper()
	if limits.Drain == 0 {
		limits.Drain = time.Millisecond
	}
	e, err := New(Config{
		Store: NewStore(db), Model: m.client(b.t), Tools: b.tools.tools(), Limits: limits, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				b.t.Errorf("run: %v", err)
			}
		case <-time.After(patience):
			b.t.Error("the engine does not end")
		}
	})
	b.t.Cleanup(stop)
	return e, stop
}

// as is a context of a shopper's call.
func as(t *testing.T, subject string) context.Context {
	t.Helper()
	return identity.WithCaller(t.Context(), identity.Caller{
		Subject: subject, Roles: []accessv1.Role{accessv1.Role_ROLE_CUSTOMER}, Name: "Alice Doe", Email: personal.Text(subject + "@example.com"),
	})
}

// fakeTools are a small shop. They note who called.
type fakeTools struct {
	mu    sync.Mutex
	calls []string // subject, tool and arguments
	books []Result // what a search finds; one when nil
	fail  error
	begun chan struct{} // a search waits for its context when it is set
}

func (f *fakeTools) tools() []Tool {
	note := func(ctx context.Context, name string, arguments json.RawMessage) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.calls = append(f.calls, identity.FromContext(ctx).Subject+" "+name+" "+string(arguments))
		return f.fail
	}
	object := func(properties, required string) json.RawMessage {
		return json.RawMessage(`{"type":"object","properties":{` + properties + `},"required":[` + required + `],"additionalProperties":false}`)
	}
	return []Tool{
		{
			Name: SearchBooks, Description: "Find books.", Doing: "Searching", Parameters: object(`"query":{"type":"string","minLength":1}`, `"query"`),
			Run: func(ctx context.Context, arguments json.RawMessage) (Found, error) {
				if f.begun != nil {
					f.begun <- struct{}{}
					<-ctx.Done()
					return Found{}, ctx.Err()
				}
				if err := note(ctx, SearchBooks, arguments); err != nil {
					return Found{}, err
				}
				found := Found{Summary: "Found"}
				f.mu.Lock()
				defer f.mu.Unlock()
				found.Results = append(found.Results, f.books...)
				if f.books == nil {
					found.Results = []Result{dune("A desert planet and its spice.")}
				}
				return found, nil
			},
		},
		{
			Name: MyOrders, Description: "Own orders.", Doing: "Looking at your orders", Parameters: object(``, ``),
			Run: func(ctx context.Context, arguments json.RawMessage) (Found, error) {
				if err := note(ctx, MyOrders, arguments); err != nil {
					return Found{}, err
				}
				at := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
				return Found{Results: []Result{{
					Kind: KindOrder, ID: "order-of-" + identity.FromContext(ctx).Subject, Title: "Order of 2026-11-24",
					Fields: map[string]any{"status": "SHIPPED", "total": "USD 21.99", "placed": "2026-11-24"},
					Card:   &Card{Order: &OrderCard{OrderID: "o", Status: "SHIPPED", Total: money.New("USD", 2199), CreatedAt: at}},
				}}}, nil
			},
		},
		{
			Name: StorePolicy, Description: "Rules.", Doing: "Looking at the rules", Parameters: object(`"question":{"type":"string"}`, `"question"`),
			Run: func(ctx context.Context, arguments json.RawMessage) (Found, error) {
				var found Found
				for _, p := range FindPolicies(string(arguments), 2) {
					found.Results = append(found.Results, Result{Kind: KindPolicy, ID: p.Name, Title: p.Title, Text: p.Text})
				}
				return found, note(ctx, StorePolicy, arguments)
			},
		},
		{
			Name: "add_to_basket", Description: "Propose.", Doing: "Preparing", Parameters: object(`"book_id":{"type":"string"},"quantity":{"type":"integer","minimum":1,"maximum":99}`, `"book_id","quantity"`),
			Run: func(ctx context.Context, arguments json.RawMessage) (Found, error) {
				return Found{
					Results: []Result{dune("")}, Proposal: &Proposal{BookID: uuid.New(), Quantity: 2, Text: "Put 2 copies into your basket?"},
				}, note(ctx, "add_to_basket", arguments)
			},
		},
	}
}

func (f *fakeTools) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

func dune(text string) Result {
	return Result{
		Kind: KindBook, ID: "b1", Title: "Dune", Text: text,
		Fields: map[string]any{"authors": []string{"Frank Herbert"}, "price": "USD 9.99", Available: int32(3)},
		Card:   &Card{Book: &BookCard{BookID: "b1", Title: "Dune", Authors: []string{"Frank Herbert"}, Price: money.New("USD", 999), Available: 3}},
	}
}

// send begins a turn and reads it to its end.
func (b *bench) send(e *Engine, subject string, q Question) []Event {
	b.t.Helper()
	if q.Key == "" {
		q.Key = uuid.NewString()
	}
	turn, err := e.Send(as(b.t, subject), q)
	if err != nil {
		b.t.Fatal(err)
	}
	defer turn.Close()
	return b.collect(turn)
}

func (b *bench) collect(turn *Subscription) []Event {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	events, err := turn.Collect(ctx)
	if err != nil {
		b.t.Fatalf("after %d events: %v", len(events), err)
	}
	return events
}

// whole checks what holds for the events of every turn, and returns the last.
func whole(t *testing.T, events []Event) Done {
	t.Helper()
	var said strings.Builder
	for i, e := range events {
		if e.Sequence != int64(i)+1 {
			t.Fatalf("event %d has the number %d", i, e.Sequence)
		}
		if (e.Done != nil) != (i == len(events)-1) {
			t.Fatalf("event %d of %d: done is %v", i, len(events), e.Done)
		}
		said.WriteString(e.Delta)
	}
	if len(events) == 0 {
		t.Fatal("there are no events")
	}
	done := *events[len(events)-1].Done
	if done.Text != said.String() {
		t.Errorf("done has %q, the deltas %q", done.Text, said.String())
	}
	return done
}

func refused(t *testing.T, err error, reason fault.Reason) *fault.Error {
	t.Helper()
	if !fault.Is(err, reason) {
		t.Fatalf("got %v, want %s", err, reason)
	}
	return fault.As(err)
}

// answersAboutDune searches and answers with a citation.
func answersAboutDune(_ int, a asked, say *speaker) {
	if a.Messages[len(a.Messages)-1].Role == "user" {
		say.call(0, SearchBooks, `{"query":"dune"}`).done()
		return
	}
	say.say("Yes. Dune costs USD 9.99 [1]. It is great.").done()
}

func TestTurn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	m := newModel(t, answersAboutDune)
	e := b.engine(m, Limits{})
	key := uuid.NewString()
	events := b.send(e, "alice", Question{Key: key, Text: "Do you have Dune?"})
	done := whole(t, events)
	if done.Outcome != Answered || done.Text != "Yes. Dune costs USD 9.99 [1]. It is great." || done.Input == 0 || done.Output == 0 || done.Uncited != 0 {
		t.Errorf("got %+v", done)
	}
	var kinds []string
	for _, e := range events {
		switch {
		case e.Tool != nil:
			kinds = append(kinds, "tool "+string(e.Tool.State))
		case e.Citation != nil:
			kinds = append(kinds, fmt.Sprintf("citation %d %s %s", e.Citation.Number, e.Citation.ID, e.Citation.Title))
		case e.Card != nil:
			kinds = append(kinds, "card "+e.Card.Book.Title)
		}
	}
	if got := strings.Join(kinds, ", "); got != "tool STARTED, tool SUCCEEDED, citation 1 b1 Dune, card Dune" {
		t.Errorf("got %s", got)
	}
	calls := m.asked()
	var told toolMessage
	var raw struct {
		CallID  string           `json:"call_id"`
		Results []map[string]any `json:"results"`
	}
	if err := json.Unmarshal([]byte(calls[1].last()), &raw); err != nil || raw.CallID != "call-search_books-0" || raw.Results[0]["ref"] != 1.0 ||
		raw.Results[0]["kind"] != "book" || raw.Results[0]["price"] != "USD 9.99" {
		t.Errorf("the model was told %s (%v)", calls[1].last(), told)
	}

	// The same message again is the same turn.
	again, err := e.Send(as(t, "alice"), Question{Key: key, Text: "Do you have Dune?"})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if replay := b.collect(again); !again.Replayed || len(replay) != len(events) || whole(t, replay) != done {
		t.Errorf("the replay has %d events, not %d", len(replay), len(events))
	}
	if len(m.asked()) != 2 {
		t.Errorf("the model was asked %d times", len(m.asked()))
	}
	_, err = e.Send(as(t, "alice"), Question{Key: key, Text: "Do you have Emma?"})
	refused(t, err, fault.ReasonKeyReused)

	// It stands in the conversation, which goes on.
	conversation := again.ConversationID
	messages, _, err := b.store.Messages(t.Context(), "alice", conversation, 10, "")
	if err != nil || len(messages) != 2 || messages[0].Text != "Do you have Dune?" || messages[1].Text != done.Text || len(messages[1].Citations) != 1 {
		t.Errorf("got %+v, %v", messages, err)
	}
	b.send(e, "alice", Question{ConversationID: conversation, Text: "And more?"})
	last := m.asked()[2]
	if len(last.Messages) != 4 || last.Messages[1].Content != "Do you have Dune?" || last.Messages[2].Content != "Yes. Dune costs USD 9.99. It is great." {
		t.Errorf("the model remembers %+v", last.Messages)
	}
}

func TestSendBadInput(t *testing.T) {
	t.Parallel()
	b := setup(t)
	e := b.engine(newModel(t, answersAboutDune), Limits{})
	for text, problem := range map[string]string{"": "is empty", "\x00\x01": "cannot be seen", strings.Repeat("x", 100_000): "4000"} {
		_, err := e.Send(as(t, "alice"), Question{Key: "k", Text: text})
		f := refused(t, err, fault.ReasonInvalidArgument)
		if len(f.Fields) != 1 || f.Fields[0].Name != "text" || !strings.Contains(f.Message, problem) {
			t.Errorf("%.10q: %v", text, f)
		}
	}
	_, err := e.Send(as(t, "alice"), Question{Key: "k", Text: "hi", ConversationID: uuid.New()})
	refused(t, err, fault.ReasonConversationNotFound)
	// A refusal does not burn the key.
	whole(t, b.send(e, "alice", Question{Key: "k", Text: "hi"}))
}

func TestA1_ConversationsAreTheirOwners(t *testing.T) {
	t.Parallel()
	b := setup(t)
	e := b.engine(newModel(t, answersAboutDune), Limits{})
	turn, err := e.Send(as(t, "alice"), Question{Key: "k", Text: "Do you have Dune?"})
	if err != nil {
		t.Fatal(err)
	}
	defer turn.Close()
	whole(t, b.collect(turn))
	ctx := t.Context()
	action, err := b.store.propose(ctx, turnOf(turn, "alice"), Proposal{BookID: uuid.New(), Quantity: 1, Text: "?"})
	if err != nil {
		t.Fatal(err)
	}
	for who, want := range map[string]bool{"alice": true, "bob": false} {
		check := func(what string, reason fault.Reason, err error) {
			if (err == nil) != want || (err != nil && !fault.Is(err, reason)) {
				t.Errorf("%s, %s: %v", who, what, err)
			}
		}
		list, _, err := b.store.Conversations(ctx, who, 10, "")
		if err != nil || (len(list) == 1) != want {
			t.Errorf("%s sees %v, %v", who, list, err)
		}
		_, _, err = b.store.Messages(ctx, who, turn.ConversationID, 10, "")
		check("messages", fault.ReasonConversationNotFound, err)
		_, err = b.store.Rename(ctx, who, turn.ConversationID, "Mine")
		check("rename", fault.ReasonConversationNotFound, err)
		_, _, err = b.store.Export(ctx, who, turn.ConversationID)
		check("export", fault.ReasonConversationNotFound, err)
		resumed, err := e.Resume(ctx, who, turn.TurnID, 0)
		check("resume", fault.ReasonTurnNotFound, err)
		if err == nil {
			resumed.Close()
		}
		check("cancel", fault.ReasonTurnNotFound, e.Cancel(ctx, who, turn.TurnID))
		_, err = b.store.Action(ctx, who, action.ActionID)
		check("action", fault.ReasonActionNotFound, err)
		if who == "bob" {
			_, _, err = b.store.Claim(ctx, who, action.ActionID, "v1", 1)
			check("claim", fault.ReasonActionNotFound, err)
			_, err = b.store.Drop(ctx, who, action.ActionID)
			check("drop", fault.ReasonActionNotFound, err)
		}
		_, err = e.Send(as(t, who), Question{Key: uuid.NewString(), Text: "more", ConversationID: turn.ConversationID})
		check("send", fault.ReasonConversationNotFound, err)
	}
	if err := b.store.Delete(ctx, "bob", turn.ConversationID); err != nil {
		t.Error(err)
	}
	if list, _, _ := b.store.Conversations(ctx, "alice", 10, ""); len(list) != 1 || list[0].Title != "Mine" {
		t.Errorf("after bob, alice has %v", list)
	}
	// Another's key is another turn.
	other := b.send(e, "bob", Question{Key: "k", Text: "Do you have Dune?"})
	if len(other) == 0 {
		t.Error("bob's own message is not answered")
	}
	if list, _, _ := b.store.Conversations(ctx, "bob", 10, ""); len(list) != 1 || list[0].ID == turn.ConversationID {
		t.Errorf("bob has %v", list)
	}
}

func turnOf(s *Subscription, subject string) turn {
	return turn{id: s.TurnID, conversation: s.ConversationID, subject: subject}
}

// waits says one word and then nothing until its client goes.
func waits(gone chan<- error) func(int, asked, *speaker) {
	return func(_ int, _ asked, say *speaker) {
		say.say("Well, let me ")
		<-say.r.Context().Done()
		gone <- say.r.Context().Err()
	}
}

// first reads the first event.
func (b *bench) first(turn *Subscription) Event {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	e, err := turn.Next(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

func receive[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("%s does not come", what)
	}
	panic("unreachable")
}

func TestClientThatLeavesStopsTheModelCall(t *testing.T) {
	t.Parallel()
	b := setup(t)
	gone := make(chan error, 1)
	e := b.engine(newModel(t, waits(gone)), Limits{Grace: 300 * time.Millisecond})
	turn, err := e.Send(as(t, "alice"), Question{Key: "k", Text: "Tell me something"})
	if err != nil {
		t.Fatal(err)
	}
	b.first(turn)
	turn.Close()
	left := time.Now()
	receive(t, gone, "the end of the model's call")
	if waited := time.Since(left); waited < 250*time.Millisecond {
		t.Errorf("the call was stopped after %v already", waited)
	}
	resumed, err := e.Resume(t.Context(), "alice", turn.TurnID, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer resumed.Close()
	if done := whole(t, b.collect(resumed)); done.Outcome != Cancelled || done.Text != "Well, let me" || done.Input == 0 {
		t.Errorf("got %+v", done)
	}
}

func TestClientThatComesBackInTimeKeepsTheTurn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	more := make(chan struct{})
	m := newModel(t, func(_ int, _ asked, say *speaker) {
		say.say("Well, let me ")
		select {
		case <-more:
		case <-say.r.Context().Done():
			return
		}
		say.say("think about it.").done()
	})
	limits := Limits{Grace: 1500 * time.Millisecond}
	here, elsewhere := b.engine(m, limits), b.engine(m, limits)
	turn, err := here.Send(as(t, "alice"), Question{Key: "k", Text: "Tell me something"})
	if err != nil {
		t.Fatal(err)
	}
	seen := b.first(turn)
	turn.Close()
	resumed, err := elsewhere.Resume(t.Context(), "alice", turn.TurnID, seen.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	defer resumed.Close()
	// The other replica's client keeps it going for longer than the grace.
	go func() {
		<-time.After(2 * limits.Grace)
		close(more)
	}()
	rest := b.collect(resumed)
	if done := whole(t, append([]Event{seen}, rest...)); done.Outcome != Answered || done.Text != "Well, let me think about it." {
		t.Errorf("got %+v", done)
	}
}

func TestTurnResumesAfterTheLastEventSeen(t *testing.T) {
	t.Parallel()
	b := setup(t)
	words := make(chan string)
	m := newModel(t, func(_ int, _ asked, say *speaker) {
		for word := range words {
			say.say(word)
		}
		say.done()
	})
	here, elsewhere := b.engine(m, Limits{}), b.engine(m, Limits{})
	turn, err := here.Send(as(t, "alice"), Question{Key: "k", Text: "Count, please"})
	if err != nil {
		t.Fatal(err)
	}
	defer turn.Close()
	const count = 60
	go func() {
		for i := range count {
			words <- fmt.Sprintf("w%c%c ", 'a'+rune(i/26), 'a'+rune(i%26))
		}
		close(words)
	}()
	// Four readers, here and on the other replica, break off and come back at
	// different places.
	var readers sync.WaitGroup
	all := make([][]Event, 4)
	for r := range all {
		readers.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			var last int64
			for step := 1; ; step++ {
				engine := here
				if (r+step)%2 == 0 {
					engine = elsewhere
				}
				s, err := engine.Resume(ctx, "alice", turn.TurnID, last)
				if err != nil {
					t.Error(err)
					return
				}
				for range 3 + r {
					e, err := s.Next(ctx)
					if err != nil {
						t.Errorf("reader %d: %v", r, err)
						s.Close()
						return
					}
					all[r] = append(all[r], e)
					last = e.Sequence
					if e.Done != nil {
						s.Close()
						return
					}
				}
				s.Close()
			}
		})
	}
	direct := b.collect(turn)
	readers.Wait()
	done := whole(t, direct)
	if len(strings.Fields(done.Text)) != count {
		t.Errorf("said %q", done.Text)
	}
	for r, events := range all {
		if got := whole(t, events); got.Text != done.Text || len(events) != len(direct) {
			t.Errorf("reader %d saw %d events of %d", r, len(events), len(direct))
		}
	}
	// Behind the end there is the last event again.
	for _, engine := range []*Engine{here, elsewhere} {
		s, err := engine.Resume(t.Context(), "alice", turn.TurnID, int64(len(direct)+5))
		if err != nil {
			t.Fatal(err)
		}
		if late := b.collect(s); len(late) != 1 || late[0].Done == nil {
			t.Errorf("behind the end: %v", late)
		}
		s.Close()
	}
}

func TestCancelReachesAnotherReplica(t *testing.T) {
	t.Parallel()
	for name, pick := range map[string]func(here, elsewhere *Engine) *Engine{
		"here":      func(here, _ *Engine) *Engine { return here },
		"elsewhere": func(_, elsewhere *Engine) *Engine { return elsewhere },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			gone := make(chan error, 1)
			m := newModel(t, waits(gone))
			here, elsewhere := b.engine(m, Limits{}), b.engine(m, Limits{})
			turn, err := here.Send(as(t, "alice"), Question{Key: "k", Text: "Tell me something"})
			if err != nil {
				t.Fatal(err)
			}
			defer turn.Close()
			first := b.first(turn)
			_, err = elsewhere.Send(as(t, "alice"), Question{Key: "other", Text: "And?", ConversationID: turn.ConversationID})
			if f := refused(t, err, fault.ReasonTurnInProgress); f.Metadata["turn_id"] != turn.TurnID.String() {
				t.Errorf("metadata is %v", f.Metadata)
			}
			engine := pick(here, elsewhere)
			if err := engine.Cancel(t.Context(), "alice", turn.TurnID); err != nil {
				t.Fatal(err)
			}
			receive(t, gone, "the end of the model's call")
			if done := whole(t, append([]Event{first}, b.collect(turn)...)); done.Outcome != Cancelled || done.Text != "Well, let me" {
				t.Errorf("got %+v", done)
			}
			if err := engine.Cancel(t.Context(), "alice", turn.TurnID); err != nil {
				t.Errorf("a turn that has ended: %v", err)
			}
			refused(t, engine.Cancel(t.Context(), "alice", uuid.New()), fault.ReasonTurnNotFound)
		})
	}
}

func TestDeleteStopsTheTurn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	gone := make(chan error, 1)
	e := b.engine(newModel(t, waits(gone)), Limits{Stall: time.Minute})
	turn, err := e.Send(as(t, "alice"), Question{Key: "k", Text: "Tell me something"})
	if err != nil {
		t.Fatal(err)
	}
	defer turn.Close()
	b.first(turn)
	if err := b.store.Delete(t.Context(), "alice", turn.ConversationID); err != nil {
		t.Fatal(err)
	}
	receive(t, gone, "the end of the model's call")
	b.collect(turn) // ends
	var rows int
	if err := b.db.QueryRow(t.Context(), `select (select count(*) from turn) + (select count(*) from turn_event) + (select count(*) from conversation)`).
		Scan(&rows); err != nil || rows != 0 {
		t.Errorf("%d rows are left, %v", rows, err)
	}
}

// TestKilledEngineDoesNotBlockTheConversation: an engine whose process dies writes
// nothing more. Its database is taken away, which is the same for all others.
func TestKilledEngineDoesNotBlockTheConversation(t *testing.T) {
	t.Parallel()
	b := setup(t)
	gone := make(chan error, 1)
	m := newModel(t, func(n int, a asked, say *speaker) {
		if n == 0 {
			waits(gone)(n, a, say)
			return
		}
		say.say("I am here again.").done()
	})
	limits := Limits{Lease: time.Second}
	pool := b.pool()
	dying, _ := b.replica(m, limits, pool)
	turn, err := dying.Send(as(t, "alice"), Question{Key: "k", Text: "Tell me something"})
	if err != nil {
		t.Fatal(err)
	}
	defer turn.Close()
	first := b.first(turn)
	living := b.engine(m, limits)
	follower, err := living.Resume(t.Context(), "alice", turn.TurnID, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer follower.Close()
	if seen := b.first(follower); seen.Delta != first.Delta {
		t.Errorf("the follower saw %+v", seen)
	}
	pool.Close()

	// The follower learns of it by itself, without anybody asking.
	rest := b.collect(follower)
	done := whole(t, append([]Event{first}, rest...))
	if done.Outcome != Broken || done.Text != "Well, let me" || !troubled(rest, fault.ReasonUnavailable) {
		t.Errorf("got %+v after %+v", done, rest)
	}
	if done := whole(t, b.send(living, "alice", Question{Text: "Hello?", ConversationID: turn.ConversationID})); done.Text != "I am here again." {
		t.Errorf("got %+v", done)
	}
	receive(t, gone, "the end of the dead engine's call") // it sees at the latest at its end that it owns nothing
}

func TestDeadTurnMakesRoomForTheNext(t *testing.T) {
	t.Parallel()
	b := setup(t)
	e := b.engine(newModel(t, answersAboutDune), Limits{})
	dead, begun, err := b.store.begin(t.Context(), opening{
		id: uuid.New(), subject: "alice", question: "Hello", owner: uuid.New(), lease: time.Nanosecond, turnTokens: 5000, dayTokens: 10_000,
	})
	if err != nil || !begun {
		t.Fatal(begun, err)
	}
	// Its reserved tokens come back, and its room.
	if done := whole(t, b.send(e, "alice", Question{Text: "Do you have Dune?", ConversationID: dead.conversation})); done.Outcome != Answered {
		t.Errorf("got %+v", done)
	}
	s, err := e.Resume(t.Context(), "alice", dead.id, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if done := whole(t, b.collect(s)); done.Outcome != Broken {
		t.Errorf("the dead turn ended %+v", done)
	}
}

// TestEngineThatLostItsTurnSaysNothingMore: what another replica has ended stays
// ended, whatever the old owner still has to say.
func TestEngineThatLostItsTurnSaysNothingMore(t *testing.T) {
	t.Parallel()
	b := setup(t)
	owner := uuid.New()
	dead, _, err := b.store.begin(t.Context(), opening{
		id: uuid.New(), subject: "alice", question: "Hello", owner: owner, lease: time.Nanosecond, turnTokens: 5000, dayTokens: 10_000,
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := b.store.EndAbandoned(t.Context()); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	late := []Event{{Sequence: 1, Delta: "late"}, {Sequence: 9, Delta: "later"}}
	if err := b.store.append(t.Context(), owner, []uuid.UUID{dead.id, dead.id}, late); err != nil {
		t.Error(err)
	}
	err = b.store.finish(t.Context(), ending{turn: dead, owner: owner, events: append(late, Event{Sequence: 10, Done: &Done{Outcome: Answered}})})
	if !errors.Is(err, errLost) {
		t.Errorf("got %v", err)
	}
	events, ended, err := b.store.follow(t.Context(), dead.id, 0, 0)
	if err != nil || !ended {
		t.Fatal(ended, err)
	}
	if done := whole(t, events); done.Outcome != Broken || len(events) != 2 {
		t.Errorf("got %+v", events)
	}
}

// troubled reports whether an event says that something went wrong.
func troubled(events []Event, reason fault.Reason) bool {
	return slices.ContainsFunc(events, func(e Event) bool { return e.Error != nil && e.Error.Reason == reason })
}

func TestProcessThatEndsLeavesNoTurnBehind(t *testing.T) {
	t.Parallel()
	b := setup(t)
	gone := make(chan error, 1)
	e, stop := b.replica(newModel(t, waits(gone)), Limits{Drain: 50 * time.Millisecond}, b.db)
	turn, err := e.Send(as(t, "alice"), Question{Key: "k", Text: "Tell me something"})
	if err != nil {
		t.Fatal(err)
	}
	defer turn.Close()
	first := b.first(turn)
	stop()
	receive(t, gone, "the end of the model's call")
	rest := b.collect(turn)
	done := whole(t, append([]Event{first}, rest...))
	if done.Outcome != Cancelled || !troubled(rest, fault.ReasonUnavailable) {
		t.Errorf("got %+v", rest)
	}
	var running int
	if err := b.db.QueryRow(t.Context(), `select count(*) from turn where outcome is null`).Scan(&running); err != nil || running != 0 {
		t.Errorf("%d turns run, %v", running, err)
	}
	_, err = e.Send(as(t, "alice"), Question{Key: "new", Text: "Hello"})
	refused(t, err, fault.ReasonUnavailable)
}

func TestEndlessToolLoopEnds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		last    func(*speaker)
		outcome Outcome
	}{
		"answers when it must": {func(say *speaker) { say.say("Dune costs USD 9.99 [1].").done() }, Answered},
		"never answers":        {func(say *speaker) { say.call(0, SearchBooks, `{"query":"more"}`).done() }, Fallback},
		"says nothing":         {func(say *speaker) { say.done() }, Fallback},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			m := newModel(t, func(_ int, a asked, say *speaker) {
				if len(a.Tools) == 0 {
					test.last(say)
					return
				}
				say.call(0, SearchBooks, `{"query":"more"}`).call(1, SearchBooks, `{"query":"and more"}`).done()
			})
			events := b.send(b.engine(m, Limits{}), "alice", Question{Text: "Do you have Dune?"})
			done := whole(t, events)
			if done.Outcome != test.outcome || !strings.Contains(done.Text, "USD 9.99") || !strings.Contains(done.Text, "[1]") {
				t.Errorf("got %+v", done)
			}
			if calls := b.tools.seen(); len(calls) != 5 {
				t.Errorf("%d calls were made", len(calls))
			}
			if n := len(m.asked()); n != 4 {
				t.Errorf("the model was asked %d times", n)
			}
		})
	}
}

func TestToolCallsThatCannotBeMade(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ tool, arguments, told string }{
		"TestInvalidJSON":  {SearchBooks, `{"query":`, "not valid JSON"},
		"two values":       {SearchBooks, `{"query":"a"}{"query":"b"}`, "not valid JSON"},
		"TestUnknownTool":  {"delete_account", `{}`, "no tool of this name"},
		"another type":     {SearchBooks, `{"query":5}`, "do not fit"},
		"field too many":   {SearchBooks, `{"query":"a","subject":"bob"}`, "do not fit"},
		"field too few":    {SearchBooks, `{}`, "do not fit"},
		"no object":        {SearchBooks, `[]`, "do not fit"},
		"too long":         {SearchBooks, `{"query":"` + strings.Repeat("a", 5000) + `"}`, "longer"},
		"quantity":         {"add_to_basket", `{"book_id":"x","quantity":100}`, "do not fit"},
		"somebody's order": {MyOrders, `{"subject":"bob"}`, "do not fit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			m := newModel(t, func(n int, _ asked, say *speaker) {
				if n == 0 {
					say.call(0, test.tool, test.arguments).done()
					return
				}
				say.say("I'm sorry, I don't know.").done()
			})
			events := b.send(b.engine(m, Limits{}), "alice", Question{Text: "Do you have Dune?"})
			if done := whole(t, events); done.Outcome != Answered || done.Text != "I'm sorry, I don't know." {
				t.Errorf("got %+v", done)
			}
			if calls := b.tools.seen(); len(calls) != 0 {
				t.Errorf("called %v", calls)
			}
			if told := m.asked()[1].last(); !strings.Contains(told, test.told) {
				t.Errorf("the model was told %s", told)
			}
			if events[1].Tool == nil || events[1].Tool.State != Failed {
				t.Errorf("the event is %+v", events[1])
			}
		})
	}
}

func TestToolThatFails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.tools.fail = errors.New("connection to 10.0.0.7 refused with password hunter2")
	m := newModel(t, func(n int, _ asked, say *speaker) {
		if n == 0 {
			say.call(0, SearchBooks, `{"query":"dune"}`).done()
			return
		}
		say.say("I'm sorry, I can't look right now.").done()
	})
	if done := whole(t, b.send(b.engine(m, Limits{}), "alice", Question{Text: "Do you have Dune?"})); done.Outcome != Answered {
		t.Errorf("got %+v", done)
	}
	if told := m.asked()[1].last(); strings.Contains(told, "hunter2") || !strings.Contains(told, "failed") {
		t.Errorf("the model was told %s", told)
	}
}

func TestFallbackWithinFiveSeconds(t *testing.T) {
	t.Parallel()
	silent := func(_ int, _ asked, say *speaker) { <-say.r.Context().Done() }
	for name, test := range map[string]struct {
		script   func(int, asked, *speaker)
		question string
		want     []string
		tool     string
	}{
		"silence":        {silent, "Do you have Dune?", []string{"sorry", "Dune by Frank Herbert, USD 9.99, 3 in stock [1]"}, SearchBooks},
		"silence, order": {silent, "Where is my order?", []string{"2026-11-24", "USD 21.99", "SHIPPED [1]"}, MyOrders},
		"silence, rule":  {silent, "What does shipping cost?", []string{"[1]"}, StorePolicy},
		"refuses":        {func(_ int, _ asked, say *speaker) { http.Error(say.w, "no", http.StatusUnauthorized) }, "Do you have Dune?", []string{"[1]"}, SearchBooks},
		"broken":         {func(_ int, _ asked, say *speaker) { http.Error(say.w, "no", http.StatusBadGateway) }, "Do you have Dune?", []string{"[1]"}, SearchBooks},
		"overloaded": {func(_ int, _ asked, say *speaker) {
			say.w.Header().Set("Retry-After", "120")
			http.Error(say.w, "no", http.StatusTooManyRequests)
		}, "Do you have Dune?", []string{"[1]"}, SearchBooks},
		"cut at once": {func(_ int, _ asked, say *speaker) { say.event(map[string]any{"role": "assistant"}, nil) }, "Do you have Dune?", []string{"[1]"}, SearchBooks},
		"garbage": {func(_ int, _ asked, say *speaker) {
			say.event(map[string]any{"role": "assistant"}, nil)
			fmt.Fprint(say.w, "data: {{{\n\n")
		}, "Do you have Dune?", []string{"[1]"}, SearchBooks},
		"silence after a search": {func(n int, a asked, say *speaker) {
			if n == 0 {
				answersAboutDune(n, a, say)
				return
			}
			http.Error(say.w, "no", http.StatusBadGateway)
		}, "Do you have Dune?", []string{"[1]"}, SearchBooks},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			e := b.engine(newModel(t, test.script), Limits{})
			began := time.Now()
			events := b.send(e, "alice", Question{Text: test.question})
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			done := whole(t, events)
			if done.Outcome != Fallback || done.Uncited != 0 {
				t.Errorf("got %+v", done)
			}
			for _, want := range test.want {
				if !strings.Contains(done.Text, want) {
					t.Errorf("%q is not in %q", want, done.Text)
				}
			}
			if calls := b.tools.seen(); len(calls) != 1 || !strings.HasPrefix(calls[0], "alice "+test.tool) {
				t.Errorf("called %v", calls)
			}
		})
	}
}

func TestFallbackThatFindsNothingStillAnswers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.tools.begun = make(chan struct{}, 1) // a search that hangs, too
	e := b.engine(newModel(t, func(_ int, _ asked, say *speaker) { http.Error(say.w, "no", http.StatusUnauthorized) }), Limits{})
	done := whole(t, b.send(e, "alice", Question{Text: "Do you have Dune?"}))
	if done.Outcome != Fallback || !strings.Contains(done.Text, "sorry") || !strings.Contains(done.Text, "try again") {
		t.Errorf("got %+v", done)
	}
}

func TestAnswerThatBreaksOffKeepsWhatWasSaid(t *testing.T) {
	t.Parallel()
	b := setup(t)
	e := b.engine(newModel(t, func(_ int, _ asked, say *speaker) { say.say("There are many books, for exam") }), Limits{})
	events := b.send(e, "alice", Question{Text: "What is there?"})
	done := whole(t, events)
	if done.Outcome != Broken || done.Text != "There are many books, for exam" {
		t.Errorf("got %+v", done)
	}
	if !troubled(events, fault.ReasonUnavailable) {
		t.Error("no event says what went wrong")
	}
}

func TestTurnThatTakesTooLongEnds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	gone := make(chan error, 1)
	e := b.engine(newModel(t, waits(gone)), Limits{Turn: 300 * time.Millisecond})
	if done := whole(t, b.send(e, "alice", Question{Text: "Tell me something"})); done.Outcome != Broken || done.Text != "Well, let me" {
		t.Errorf("got %+v", done)
	}
	receive(t, gone, "the end of the model's call")
}

func TestBudgetOfADay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	hold := make(chan struct{})
	m := newModel(t, func(_ int, _ asked, say *speaker) {
		say.say("Well, ")
		<-hold
		say.in, say.out = 2500, 600
		say.done()
	})
	e := b.engine(m, Limits{TurnTokens: 3000, DayTokens: 6500})
	ctx := as(t, "alice")
	first, err := e.Send(ctx, Question{Key: "1", Text: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	// What runs is reserved: two turns of 3000 leave nothing for a third.
	second, err := e.Send(ctx, Question{Key: "2", Text: "two"})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	_, err = e.Send(ctx, Question{Key: "3", Text: "three"})
	refused(t, err, fault.ReasonBudgetSpent)
	close(hold)
	whole(t, b.collect(first))
	whole(t, b.collect(second))
	// Both have used 3100: 300 are left, too few to begin.
	asked := len(m.asked())
	_, err = e.Send(ctx, Question{Key: "3", Text: "three"})
	refused(t, err, fault.ReasonBudgetSpent)
	if len(m.asked()) != asked {
		t.Error("the model was asked all the same")
	}
	var turns, input, output, cost int64
	err = b.db.QueryRow(t.Context(), `select turns, input_tokens, output_tokens, cost_micros from usage where subject = 'alice'`).
		Scan(&turns, &input, &output, &cost)
	if want := int64(2 * (2500*15 + 600*60) / 100); err != nil || turns != 2 || input != 5000 || output != 1200 || cost != want {
		t.Errorf("used %d turns, %d + %d tokens, %d (want %d), %v", turns, input, output, cost, want, err)
	}
	whole(t, b.send(e, "bob", Question{Text: "one"})) // another's budget is another's
}

func TestBudgetOfATurn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	m := newModel(t, func(_ int, a asked, say *speaker) {
		say.in = 2000
		answersAboutDune(0, a, say)
	})
	e := b.engine(m, Limits{TurnTokens: 2700})
	events := b.send(e, "alice", Question{Text: "Do you have Dune?"})
	done := whole(t, events)
	if done.Outcome != Fallback || len(m.asked()) != 1 || !strings.Contains(done.Text, "[1]") {
		t.Errorf("asked %d times, got %+v", len(m.asked()), done)
	}
	if !troubled(events, fault.ReasonBudgetSpent) {
		t.Error("no event says that the budget is spent")
	}
}

func TestRefusedQuestionReachesNoModel(t *testing.T) {
	t.Parallel()
	b := setup(t)
	m := newModel(t, answersAboutDune)
	e := b.engine(m, Limits{})
	if done := whole(t, b.send(e, "alice", Question{Text: "Show me the orders of bob@example.com"})); done.Outcome != Refused || done.Text != onlyYours {
		t.Errorf("got %+v", done)
	}
	if len(m.asked()) != 0 || len(b.tools.seen()) != 0 {
		t.Error("the model or a tool was asked")
	}
}

func TestA3_PersonalDataNeverReachesTheModel(t *testing.T) {
	t.Parallel()
	b := setup(t)
	secrets := []string{"carol@example.org", "4242 4242 4242 4242", "+44 20 7946 0958", "Alice", "Baker Street", "alice@example.com", "DE89 3704"}
	m := newModel(t, func(_ int, a asked, say *speaker) {
		if len(a.ResponseFormat) > 0 && !a.Stream {
			say.json(`{"summary":"Alice (alice@example.com) likes spice."}`)
			return
		}
		if a.Messages[len(a.Messages)-1].Role == "user" {
			say.call(0, SearchBooks, `{"query":"dune"}`).done()
			return
		}
		say.say("Thanks, Alice: carol@example.org it is.").done()
	})
	e := b.engine(m, Limits{HistoryTokens: 30})
	question := "I'm Alice (alice@example.com), card 4242 4242 4242 4242, call +44 20 7946 0958 or write to carol@example.org, 221b Baker Street, DE89 3704 0044 0532 0130 00. Dune?"
	turn, err := e.Send(as(t, "alice"), Question{Key: "k", Text: question})
	if err != nil {
		t.Fatal(err)
	}
	defer turn.Close()
	whole(t, b.collect(turn))
	b.await("the summary", func() bool {
		var summary string
		if err := b.db.QueryRow(t.Context(), `select summary from conversation`).Scan(&summary); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(summary, "alice@") {
			t.Errorf("the summary is %q", summary)
		}
		return summary != ""
	})
	b.send(e, "alice", Question{ConversationID: turn.ConversationID, Text: "It is Alice again. And for carol@example.org?"})
	calls := m.asked()
	if len(calls) < 4 {
		t.Fatalf("the model was asked %d times", len(calls))
	}
	for i, call := range calls {
		for _, secret := range secrets {
			if strings.Contains(call.raw, secret) {
				t.Errorf("call %d: %q reached the model: %s", i, secret, call.raw)
			}
		}
	}
	if !strings.Contains(calls[0].raw, "[CARD]") || !strings.Contains(calls[0].raw, "Dune?") {
		t.Errorf("the model saw %s", calls[0].raw)
	}
	// What the shopper wrote stays as it was written.
	messages, _, err := b.store.Messages(t.Context(), "alice", turn.ConversationID, 10, "")
	if err != nil || messages[0].Text != question {
		t.Errorf("kept %+v, %v", messages, err)
	}
}

func (b *bench) await(what string, condition func() bool) {
	b.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			b.t.Fatalf("%s does not come", what)
		}
	}
}

func TestHistoryIsSummarized(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]bool{"summary": false, "the model fails": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			m := newModel(t, func(_ int, a asked, say *speaker) {
				switch {
				case !a.Stream && broken:
					http.Error(say.w, "no", http.StatusBadRequest)
				case !a.Stream:
					say.json(`{"summary":"The shopper likes deserts."}`)
				default:
					say.say("I see, " + strings.Repeat("and so on ", 20) + "okay.").done()
				}
			})
			e := b.engine(m, Limits{HistoryTokens: 200})
			var conversation uuid.UUID
			for i := range 6 {
				turn, err := e.Send(as(t, "alice"), Question{Key: fmt.Sprint(i), ConversationID: conversation, Text: fmt.Sprintf("message %d, which is not short", i)})
				if err != nil {
					t.Fatal(err)
				}
				whole(t, b.collect(turn))
				turn.Close()
				conversation = turn.ConversationID
				if i == 4 && !broken {
					b.await("the summary", func() bool {
						var through int64
						err := b.db.QueryRow(t.Context(), `select summarized from conversation`).Scan(&through)
						return err == nil && through > 0
					})
				}
			}
			var last asked
			for _, a := range m.asked() {
				if a.Stream {
					last = a
				}
			}
			if strings.Contains(last.raw, "message 0,") || !strings.Contains(last.raw, "message 4,") || !strings.Contains(last.raw, "message 5,") {
				t.Errorf("the model was told %s", last.raw)
			}
			if got := strings.Contains(last.raw, "likes deserts"); got == broken {
				t.Errorf("the summary is there: %v", got)
			}
		})
	}
}

func TestProposalIsACardAndNothingElse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	m := newModel(t, func(n int, _ asked, say *speaker) {
		if n == 0 {
			say.call(0, "add_to_basket", `{"book_id":"b1","quantity":2}`).done()
			return
		}
		say.say("I can put Dune into your basket [1]. Please confirm it.").done()
	})
	events := b.send(b.engine(m, Limits{}), "alice", Question{Text: "Two of Dune, please"})
	var card *ConfirmationCard
	for _, e := range events {
		if e.Card != nil && e.Card.Confirmation != nil {
			card = e.Card.Confirmation
		}
	}
	if card == nil || card.Text == "" || time.Until(card.ExpiresAt) > actionLife || time.Until(card.ExpiresAt) < actionLife-time.Minute {
		t.Fatalf("the card is %+v", card)
	}
	if a, err := b.store.Action(t.Context(), "alice", card.ActionID); err != nil || a.State != Proposed || a.Quantity != 2 {
		t.Errorf("the action is %+v, %v", a, err)
	}
	if _, err := b.db.Exec(t.Context(), `update action set expires_at = now() - interval '1 second'`); err != nil {
		t.Fatal(err)
	}
	_, err := b.store.Action(t.Context(), "alice", card.ActionID)
	refused(t, err, fault.ReasonActionNotFound)
	_, _, err = b.store.Claim(t.Context(), "alice", card.ActionID, "v1", 2)
	refused(t, err, fault.ReasonActionNotFound)
}

// TestManyConversationsAtOnce streams two hundred at once, and looks at what each
// takes.
func TestManyConversationsAtOnce(t *testing.T) { //nolint:paralleltest // it takes the machine
	b := setup(t)
	var ready sync.WaitGroup
	const many = 200
	ready.Add(many)
	go1 := make(chan struct{})
	m := newModel(t, func(_ int, _ asked, say *speaker) {
		say.say("Well, ")
		ready.Done()
		<-go1
		say.say(strings.Repeat("word after word ", 20) + "end.").done()
	})
	e := b.engine(m, Limits{FirstWord: 30 * time.Second})
	var turns sync.WaitGroup
	for i := range many {
		turns.Go(func() {
			turn, err := e.Send(as(t, fmt.Sprint("shopper-", i)), Question{Key: "k", Text: "Tell me something"})
			if err != nil {
				t.Error(err)
				ready.Done()
				return
			}
			defer turn.Close()
			events, err := turn.Collect(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			if done := whole(t, events); done.Outcome != Answered {
				t.Errorf("ended %s", done.Outcome)
			}
		})
	}
	ready.Wait()
	close(go1)
	turns.Wait()
	var kept int
	if err := b.db.QueryRow(t.Context(), `select count(*) from turn where outcome = 'ANSWERED'`).Scan(&kept); err != nil || kept != many {
		t.Errorf("%d turns are kept, %v", kept, err)
	}
}

func TestListsPageByPage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	e := b.engine(newModel(t, func(_ int, _ asked, say *speaker) { say.say("Hm.").done() }), Limits{})
	var conversation uuid.UUID
	for i := range 5 {
		turn, err := e.Send(as(t, "alice"), Question{Key: fmt.Sprint(i), Text: fmt.Sprint("conversation ", i)})
		if err != nil {
			t.Fatal(err)
		}
		whole(t, b.collect(turn))
		turn.Close()
		conversation = turn.ConversationID
	}
	for i := range 3 {
		b.send(e, "alice", Question{ConversationID: conversation, Text: fmt.Sprint("more ", i)})
	}
	var titles []string
	for token, pages := "", 0; ; pages++ {
		list, next, err := b.store.Conversations(t.Context(), "alice", 2, token)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			titles = append(titles, c.Title)
		}
		if token = next; token == "" {
			break
		}
	}
	if got := strings.Join(titles, "; "); got != "conversation 4; conversation 3; conversation 2; conversation 1; conversation 0" {
		t.Errorf("got %s", got)
	}
	var texts []string
	for token := ""; ; {
		list, next, err := b.store.Messages(t.Context(), "alice", conversation, 3, token)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			texts = append(texts, m.Text)
		}
		if token = next; token == "" {
			break
		}
	}
	if got := strings.Join(texts, "; "); got != "conversation 4; Hm.; more 0; Hm.; more 1; Hm.; more 2; Hm." {
		t.Errorf("got %s", got)
	}
	_, _, err := b.store.Messages(t.Context(), "alice", conversation, 3, "garbled")
	refused(t, err, fault.ReasonPageTokenInvalid)
	_, _, err = b.store.Conversations(t.Context(), "alice", 3, "garbled")
	refused(t, err, fault.ReasonPageTokenInvalid)

	if _, err := b.store.Rename(t.Context(), "alice", conversation, "*Mine* [x](y)\nnow"); err != nil {
		t.Fatal(err)
	}
	name, markdown, err := b.store.Export(t.Context(), "alice", conversation)
	if err != nil || !strings.HasPrefix(name, "bookworm-chat-2") || !strings.HasPrefix(markdown, `# \*Mine\* \[x\](y) now`) ||
		strings.Count(markdown, "## You") != 4 || strings.Count(markdown, "Hm.") != 4 {
		t.Errorf("%s, %v:\n%s", name, err, markdown)
	}
	_, err = b.store.Rename(t.Context(), "alice", conversation, " \x00\n")
	refused(t, err, fault.ReasonInvalidArgument)
	if err := b.store.Delete(t.Context(), "alice", conversation); err != nil {
		t.Fatal(err)
	}
	_, _, err = b.store.Messages(t.Context(), "alice", conversation, 3, "")
	refused(t, err, fault.ReasonConversationNotFound)
}

func TestNextEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := setup(t)
	gone := make(chan error, 1)
	e := b.engine(newModel(t, waits(gone)), Limits{Grace: time.Millisecond})
	turn, err := e.Send(as(t, "alice"), Question{Key: "k", Text: "Tell me something"})
	if err != nil {
		t.Fatal(err)
	}
	b.first(turn)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for err == nil { // what is there already comes first
		_, err = turn.Next(ctx)
	}
	if !errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	turn.Close()
	turn.Close()
	receive(t, gone, "the end of the model's call")
}
