package chat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"bookworm/internal/fault"
	"bookworm/internal/identity"
	"bookworm/internal/llm"
)

// Limits bound what turns may take. Zero values mean the default.
type Limits struct {
	Turn      time.Duration // a turn; 60 s
	Grace     time.Duration // how long a turn goes on when its client has left; 5 s
	FirstWord time.Duration // until the model begins, else the answer is made without it; 4 s
	Stall     time.Duration // between two words of the model; 15 s
	Lease     time.Duration // after which a turn belongs to a process that died; 10 s
	Drain     time.Duration // how long turns may go on when the process ends; 8 s

	ToolCalls     int // in a turn; 5
	TurnTokens    int // read and written in a turn; 40,000
	DayTokens     int // of a shopper in a day (UTC); 400,000
	AnswerTokens  int // written in one answer of the model; 800
	HistoryTokens int // of the conversation that the model reads again; 3,000

	// What a million tokens cost, in millionths of a US dollar; 150,000 and 600,000,
	// as of gpt-4o-mini.
	InputPrice, OutputPrice int64
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{
		{&l.Turn, time.Minute},
		{&l.Grace, 5 * time.Second},
		{&l.FirstWord, 4 * time.Second},
		{&l.Stall, 15 * time.Second},
		{&l.Lease, 10 * time.Second},
		{&l.Drain, 8 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.usual
		}
	}
	for _, n := range []struct {
		value *int
		usual int
	}{{&l.ToolCalls, 5}, {&l.TurnTokens, 40_000}, {&l.DayTokens, 400_000}, {&l.AnswerTokens, 800}, {&l.HistoryTokens, 3_000}} {
		if *n.value == 0 {
			*n.value = n.usual
		}
	}
	if l.InputPrice == 0 && l.OutputPrice == 0 {
		l.InputPrice, l.OutputPrice = 150_000, 600_000
	}
	return l
}

// Config is what an engine is made of.
type Config struct {
	Store *Store
	Model *llm.Client
	// Tools are offered to the model. Those named SearchBooks, MyOrders and StorePolicy
	// also answer without it.
	Tools  []Tool
	Limits Limits
	Logger *slog.Logger // slog.Default when nil
	Meter  metric.Meter // none when nil
}

// Engine runs turns. Several engines, in several processes, share a database. It
// is safe for concurrent use. Run must run beside it.
type Engine struct {
	store  *Store
	model  *llm.Client
	limits Limits
	logger *slog.Logger
	meters meters
	box    *toolbox
	id     uuid.UUID // the owner in the rows of its turns

	mu      sync.Mutex
	closing bool
	turns   map[uuid.UUID]*live
	running sync.WaitGroup // turns, with what they do after their end
	renewed time.Time      // when the leases were renewed; for the loop alone
}

// New returns an engine.
func New(c Config) (*Engine, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Meter == nil {
		c.Meter = noop.Meter{}
	}
	box, err := newToolbox(c.Tools)
	if err != nil {
		return nil, fmt.Errorf("make the chat's engine: %w", err)
	}
	meters, err := newMeters(c.Meter)
	if err != nil {
		return nil, err
	}
	return &Engine{
		store: c.Store, model: c.Model, limits: c.Limits.withDefaults(), logger: c.Logger, meters: meters, box: box,
		id: uuid.New(), turns: make(map[uuid.UUID]*live),
	}, nil
}

// Why a turn is stopped, as the cause of its context.
var (
	errCancelled = errors.New("the shopper cancelled the turn")
	errLeft      = errors.New("the client went away")
	errClosing   = errors.New("the process ends")
	errTooLong   = errors.New("the turn took too long")
	errGone      = errors.New("the turn was ended or deleted elsewhere")
)

// Question is a message of a shopper.
type Question struct {
	// Key is the shopper's idempotency key.
	Key string
	// ConversationID is Nil to begin a conversation.
	ConversationID uuid.UUID
	Text           string
}

// Send begins a turn, or finds the one that the same message began before, and
// returns what follows it. The context's caller asks; the context's values, with
// the caller's credential, stay with the turn, its end does not touch it: a turn
// whose last subscription is closed goes on for Limits.Grace.
//
// Errors: INVALID_ARGUMENT, CONVERSATION_NOT_FOUND, TURN_IN_PROGRESS,
// IDEMPOTENCY_KEY_REUSED, CHAT_BUDGET_SPENT, UNAVAILABLE while the process ends.
func (e *Engine) Send(ctx context.Context, q Question) (*Subscription, error) {
	caller := identity.FromContext(ctx)
	if caller.Anonymous() {
		return nil, errors.New("a message came without a caller")
	}
	text, err := cleanQuestion(q.Text)
	if err != nil {
		return nil, err
	}
	if !e.enter() {
		return nil, fault.New(fault.ReasonUnavailable, "The bookseller is about to close; try again in a moment.")
	}
	t, begun, err := e.store.begin(ctx, opening{
		id: TurnID(caller.Subject, q.Key), conversation: q.ConversationID, subject: caller.Subject, question: text, owner: e.id,
		lease: e.limits.Lease, turnTokens: int64(e.limits.TurnTokens), dayTokens: int64(e.limits.DayTokens),
	})
	if err != nil || !begun {
		e.running.Done()
		if err != nil {
			return nil, err
		}
		return e.subscribe(t.id, t.conversation, 0, true), nil
	}
	e.start(ctx, t, caller)
	return e.subscribe(t.id, t.conversation, 0, false), nil
}

// enter reserves a place for a turn, unless the engine is closing.
func (e *Engine) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return false
	}
	e.running.Add(1)
	return true
}

func (e *Engine) start(ctx context.Context, t turn, caller identity.Caller) {
	// Subscriptions come and go; the turn is stopped by its causes alone.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	l := newLive(t, cancel)
	e.mu.Lock()
	e.turns[t.id] = l
	e.mu.Unlock()
	go func() {
		defer e.running.Done()
		defer cancel(nil)
		newTalk(e, l, caller).run(ctx)
	}()
}

// subscribe follows a turn, here if it runs here.
func (e *Engine) subscribe(id, conversation uuid.UUID, after int64, replayed bool) *Subscription {
	s := &Subscription{TurnID: id, ConversationID: conversation, Replayed: replayed, engine: e, after: after}
	e.mu.Lock()
	defer e.mu.Unlock()
	if l := e.turns[id]; l != nil {
		l.join()
		s.live = l
	}
	return s
}

// Resume follows a turn of the subject's after one of its events, wherever it
// runs. Errors: TURN_NOT_FOUND.
func (e *Engine) Resume(ctx context.Context, subject string, id uuid.UUID, after int64) (*Subscription, error) {
	conversation, err := e.store.conversationOf(ctx, subject, id)
	if err != nil {
		return nil, err
	}
	return e.subscribe(id, conversation, after, true), nil
}

// Cancel stops a turn of the subject's, wherever it runs; elsewhere it takes a
// tenth of a second. No error when it has ended. Errors: TURN_NOT_FOUND.
func (e *Engine) Cancel(ctx context.Context, subject string, id uuid.UUID) error {
	if err := e.store.cancel(ctx, subject, id); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if l := e.turns[id]; l != nil {
		l.cancel(errCancelled)
	}
	return nil
}

const (
	// writeEvery is how long an event waits to be written down.
	writeEvery = 40 * time.Millisecond
	// writeAtOnce bounds the events of one statement; the others come next time.
	writeAtOnce = 4000
	// lookEvery is how often the engine looks how its turns stand in the database.
	lookEvery = 100 * time.Millisecond
	// sweepEvery is how often it looks for turns of engines that died.
	sweepEvery = 5 * time.Second
	// storeTime bounds one thing done with the database.
	storeTime = 5 * time.Second
	// closeTime is what a stopped turn needs to end.
	closeTime = 3 * time.Second
)

// Run writes the events of running turns, renews their leases and looks who still
// follows them. When ctx ends no new turn begins; running ones have Limits.Drain to
// finish, and are stopped then. It returns when all have ended.
func (e *Engine) Run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.renewed = time.Now()
	var keepers sync.WaitGroup
	keepers.Go(func() { every(work, writeEvery, e.write) })
	keepers.Go(func() { every(work, lookEvery, e.look) })
	keepers.Go(func() { every(work, e.limits.Lease/4, e.renew) })
	keepers.Go(func() { every(work, sweepEvery, e.sweep) })
	<-ctx.Done()
	e.drain()
	stop()
	keepers.Wait()
	return nil
}

func every(ctx context.Context, pause time.Duration, f func(context.Context)) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			bounded, cancel := context.WithTimeout(ctx, storeTime)
			f(bounded)
			cancel()
		}
	}
}

func (e *Engine) drain() {
	e.mu.Lock()
	e.closing = true
	e.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		e.running.Wait()
		close(ended)
	}()
	patience := time.NewTimer(e.limits.Drain)
	defer patience.Stop()
	select {
	case <-ended:
		return
	case <-patience.C:
	}
	for _, l := range e.live() {
		l.cancel(errClosing)
	}
	patience.Reset(closeTime + storeTime)
	select {
	case <-ended:
	case <-patience.C:
		e.logger.Error("turns did not end with the process; their leases will")
	}
}

// live returns the turns that run here.
func (e *Engine) live() []*live {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Values(e.turns))
}

// write appends what has been said since the last time, of all turns together.
func (e *Engine) write(ctx context.Context) {
	var turns []uuid.UUID
	var events []Event
	upTo := make(map[*live]int64)
	for _, l := range e.live() {
		fresh := l.unwritten()
		fresh = fresh[:min(len(fresh), writeAtOnce-len(events))]
		for range fresh {
			turns = append(turns, l.turn.id)
		}
		events = append(events, fresh...)
		if len(fresh) > 0 {
			upTo[l] = fresh[len(fresh)-1].Sequence
		}
	}
	if len(events) == 0 {
		return
	}
	if err := e.store.append(ctx, e.id, turns, events); err != nil {
		if ctx.Err() == nil {
			e.logger.WarnContext(ctx, "events of turns wait for the database", "events", len(events), "error", err)
		}
		return // they are tried again, and their streams go on meanwhile
	}
	for l, sequence := range upTo {
		l.wrote(sequence)
	}
}

// look stops the turns that were cancelled, ended or deleted elsewhere, and those
// that nobody follows.
func (e *Engine) look(ctx context.Context) {
	running := e.live() // before the database is asked, so that all of them are in it
	if len(running) == 0 {
		return
	}
	standings, err := e.store.standings(ctx, e.id)
	if err != nil {
		return // the renewal says so
	}
	for _, l := range running {
		st, mine := standings[l.turn.id]
		switch {
		case !mine:
			l.cancel(errGone)
		case st.cancelled:
			l.cancel(errCancelled)
		case !st.watched && l.alone(e.limits.Grace):
			l.cancel(errLeft)
		}
	}
}

func (e *Engine) renew(ctx context.Context) {
	var turns []uuid.UUID
	var input, output []int64
	for _, l := range e.live() {
		turns, input, output = append(turns, l.turn.id), append(input, l.input.Load()), append(output, l.output.Load())
	}
	if len(turns) == 0 {
		e.renewed = time.Now()
		return
	}
	err := e.store.renew(ctx, e.id, e.limits.Lease, turns, input, output)
	if err == nil {
		e.renewed = time.Now()
		return
	}
	e.logger.WarnContext(ctx, "leases of turns were not renewed", "turns", len(turns), "error", err)
	if time.Since(e.renewed) > e.limits.Lease { // others have ended them by now
		for _, l := range e.live() {
			l.cancel(errGone)
		}
	}
}

func (e *Engine) sweep(ctx context.Context) {
	n, err := e.store.EndAbandoned(ctx)
	if err != nil && ctx.Err() == nil {
		e.logger.WarnContext(ctx, "turns whose engine died were not ended", "error", err)
	}
	if n > 0 {
		e.logger.WarnContext(ctx, "turns whose engine died were ended", "turns", n)
	}
}
