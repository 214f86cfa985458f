package chat

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// live is a turn that this process runs, with all of its events. What is appended
// is there for its subscriptions at once, whatever becomes of the database.
type live struct {
	turn   turn
	cancel context.CancelCauseFunc
	// input and output are the tokens used until now.
	input, output atomic.Int64

	mu          sync.Mutex
	events      []Event
	written     int           // how many of them are in the database
	changed     chan struct{} // closed when something changes, and replaced
	watchers    int
	lonelySince time.Time // when the last of them left; it was never alone while it is zero
	ended       bool      // no more events come
	lost        bool      // somebody else ended it: read on in the database
}

func newLive(t turn, cancel context.CancelCauseFunc) *live {
	return &live{turn: t, cancel: cancel, changed: make(chan struct{}), lonelySince: time.Now()}
}

// append numbers an event and hands it out.
func (l *live) append(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Sequence = int64(len(l.events)) + 1
	l.events = append(l.events, e)
	l.wake()
}

func (l *live) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// unwritten returns the events that are not known to be in the database.
func (l *live) unwritten() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events[l.written:len(l.events):len(l.events)]
}

// wrote notes that events up to a number are in the database.
func (l *live) wrote(sequence int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written = max(l.written, int(sequence))
}

// end hands out the last event; lost says that the real one is in the database.
func (l *live) end(done Event, lost bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !lost {
		l.events = append(l.events, done)
	}
	l.ended, l.lost = !lost, lost
	l.wake()
}

func (l *live) join() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers++
}

func (l *live) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watchers--; l.watchers == 0 {
		l.lonelySince = time.Now()
	}
}

// alone reports whether nobody has followed the turn for a while.
func (l *live) alone(grace time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.watchers == 0 && time.Since(l.lonelySince) > grace
}

// after returns the events after one, whether the turn has ended or was lost, and
// what is closed when that changes.
func (l *live) after(sequence int64) (events []Event, ended, lost bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := int64(len(l.events)); sequence < n {
		events = l.events[sequence:n:n]
	}
	return events, l.ended, l.lost, l.changed
}

// Subscription follows one turn. It is for one goroutine. The caller closes it:
// a turn that nobody follows is stopped after a while.
type Subscription struct {
	TurnID         uuid.UUID
	ConversationID uuid.UUID
	// Replayed says that the message had been sent before.
	Replayed bool

	engine *Engine
	live   *live // nil: another process runs the turn, or it has ended
	queue  []Event
	after  int64
	over   bool // the queue is all that comes
	closed bool
}

// followEvery is how often a turn that another process runs is asked for more.
const followEvery = 100 * time.Millisecond

// Next returns the next event, and io.EOF after the done event. It waits until
// there is one, or ctx ends. A subscription that begins at or behind the end of a
// turn gets the done event again: a stream always ends with one.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for len(s.queue) == 0 {
		if s.over {
			return Event{}, io.EOF
		}
		if err := s.fetch(ctx); err != nil {
			return Event{}, err
		}
	}
	e := s.queue[0]
	s.queue = s.queue[1:]
	s.after = max(s.after, e.Sequence)
	s.over = s.over || e.Done != nil
	return e, nil
}

func (s *Subscription) fetch(ctx context.Context) error {
	if s.live == nil {
		return s.follow(ctx)
	}
	events, ended, lost, changed := s.live.after(s.after)
	switch {
	case len(events) > 0:
		s.queue = events
	case lost:
		s.live.leave()
		s.live = nil
	case ended:
		s.queue, s.over = s.live.last(), true
	default:
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (l *live) last() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events[len(l.events)-1:]
}

// follow reads the events from the database, where another process writes them.
func (s *Subscription) follow(ctx context.Context) error {
	for {
		events, ended, err := s.engine.store.follow(ctx, s.TurnID, s.after, s.engine.limits.Grace)
		if err != nil {
			return err
		}
		if len(events) > 0 {
			s.queue = events
			return nil
		}
		if ended {
			s.over = true
			s.queue, err = s.engine.store.lastEvent(ctx, s.TurnID, s.after)
			return err
		}
		pause := time.NewTimer(followEvery)
		select {
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-pause.C:
		}
	}
}

// Close ends the subscription. Further calls do nothing.
func (s *Subscription) Close() {
	if s.closed {
		return
	}
	s.closed = true
	if s.live != nil {
		s.live.leave()
	}
}

// Collect reads a turn to its end. It returns its events, also with an error.
func (s *Subscription) Collect(ctx context.Context) ([]Event, error) {
	var events []Event
	for {
		e, err := s.Next(ctx)
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return events, err
		}
		events = append(events, e)
	}
}
