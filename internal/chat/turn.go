package chat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"bookworm/internal/fault"
	"bookworm/internal/postgres"
)

// The order of locks is usage, conversation, turn, in every transaction here. An
// erasure deletes conversations without usage, and then moves usage; so what writes
// usage finds its conversation gone, and takes that back, or is through by then.

// opening is what it takes to begin a turn.
type opening struct {
	id           uuid.UUID
	conversation uuid.UUID // Nil to begin one
	subject      string
	question     string
	owner        uuid.UUID
	lease        time.Duration
	turnTokens   int64
	dayTokens    int64
}

// turn is one as it stands.
type turn struct {
	id, conversation uuid.UUID
	subject          string
	number           int64
	question         string
	reserved         int64 // tokens it may use
	summary          string
	history          []exchange // the turns since the summary, the oldest first
}

// exchange is an earlier turn.
type exchange struct {
	number           int64
	question, answer string
}

// minTurnTokens is what must be left of the day's budget to begin a turn.
const minTurnTokens = 1000

// begin writes the turn down as running, or returns the one that the same message
// began before (begun is false then). A turn of the conversation whose engine
// died is ended on the way. Errors: CONVERSATION_NOT_FOUND, TURN_IN_PROGRESS,
// IDEMPOTENCY_KEY_REUSED, CHAT_BUDGET_SPENT.
func (s *Store) begin(ctx context.Context, o opening) (t turn, begun bool, err error) {
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		t, begun, err = beginIn(ctx, tx, o)
		return err
	})
	if err != nil {
		return turn{}, false, fmt.Errorf("begin turn: %w", err)
	}
	return t, begun, nil
}

func beginIn(ctx context.Context, tx pgx.Tx, o opening) (turn, bool, error) {
	digest := fingerprint(o.conversation, o.question)
	known, err := replayed(ctx, tx, o, digest)
	if err != nil || known.id != uuid.Nil {
		return known, false, err
	}
	t := turn{id: o.id, conversation: o.conversation, subject: o.subject, question: o.question}
	if t.reserved, err = reserve(ctx, tx, o); err != nil {
		return turn{}, false, err
	}
	var summarized int64
	if o.conversation == uuid.Nil {
		t.conversation = newConversationID(o.id)
		_, err = tx.Exec(ctx, `insert into conversation (id, subject, title) values ($1, $2, $3) on conflict (id) do nothing`,
			t.conversation, o.subject, titleOf(o.question))
	} else {
		err = tx.QueryRow(ctx, `select summary, summarized from conversation where id = $1 and subject = $2 for no key update`,
			o.conversation, o.subject).Scan(&t.summary, &summarized)
		if errors.Is(err, pgx.ErrNoRows) {
			return turn{}, false, noConversation(o.conversation)
		}
	}
	if err != nil {
		return turn{}, false, err
	}
	// Who held the conversation's row before may have been the same message.
	if known, err = replayed(ctx, tx, o, digest); err != nil || known.id != uuid.Nil {
		return known, false, err
	}
	if err := makeRoom(ctx, tx, t.conversation); err != nil {
		return turn{}, false, err
	}
	err = tx.QueryRow(ctx, `
		insert into turn (id, conversation_id, subject, number, fingerprint, question, reserved_tokens, owner, lease_until, watched_until)
		select $1, $2, $3, coalesce(max(number), 0) + 1, $4, $5, $6, $7, now() + $8::interval, now() from turn where conversation_id = $2
		returning number`,
		t.id, t.conversation, t.subject, digest, t.question, t.reserved, o.owner, o.lease).Scan(&t.number)
	if err != nil {
		return turn{}, false, err
	}
	if _, err := tx.Exec(ctx, `update conversation set updated_at = now() where id = $1`, t.conversation); err != nil {
		return turn{}, false, err
	}
	t.history, err = history(ctx, tx, t.conversation, summarized)
	return t, true, err
}

// replayed returns the turn of the opening's id, or a zero one when there is none.
func replayed(ctx context.Context, tx pgx.Tx, o opening, digest []byte) (turn, error) {
	t := turn{id: o.id, subject: o.subject}
	var before []byte
	err := tx.QueryRow(ctx, `select conversation_id, number, question, fingerprint from turn where id = $1`, o.id).
		Scan(&t.conversation, &t.number, &t.question, &before)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return turn{}, nil
	case err != nil:
		return turn{}, err
	case string(before) != string(digest):
		return turn{}, fault.New(fault.ReasonKeyReused, "The Idempotency-Key was used with another message.")
	}
	return t, nil
}

// reserve takes the turn's tokens from the day's budget of its subject. Its lock
// makes the beginnings of one subject's turns follow each other.
func reserve(ctx context.Context, tx pgx.Tx, o opening) (int64, error) {
	var used, reserved int64
	err := tx.QueryRow(ctx, `
		insert into usage (subject, day) values ($1, (now() at time zone 'utc')::date)
		on conflict (subject, day) do update set subject = excluded.subject
		returning input_tokens + output_tokens`, o.subject).Scan(&used)
	if err != nil {
		return 0, err
	}
	// A statement of its own: it sees what was committed while this one waited.
	err = tx.QueryRow(ctx, `select coalesce(sum(reserved_tokens), 0) from turn where subject = $1 and outcome is null`, o.subject).Scan(&reserved)
	if err != nil {
		return 0, err
	}
	left := o.dayTokens - used - reserved
	if left < min(minTurnTokens, o.turnTokens) {
		return 0, fault.New(fault.ReasonBudgetSpent, "The bookseller has talked enough with you for today; come back tomorrow (UTC).")
	}
	return min(o.turnTokens, left), nil
}

// makeRoom says TURN_IN_PROGRESS when a turn of the conversation runs, and ends
// one whose engine died.
func makeRoom(ctx context.Context, tx pgx.Tx, conversation uuid.UUID) error {
	var id uuid.UUID
	var subject string
	var dead bool
	err := tx.QueryRow(ctx, `
		select id, subject, lease_until < now() from turn where conversation_id = $1 and outcome is null for update`, conversation).
		Scan(&id, &subject, &dead)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	case !dead:
		return fault.New(fault.ReasonTurnInProgress, "The conversation is still answering; wait for it, or cancel the turn.").
			With("turn_id", id.String())
	}
	return abandon(ctx, tx, id)
}

// historyTurns bounds what a turn looks back on.
const historyTurns = 40

func history(ctx context.Context, tx pgx.Tx, conversation uuid.UUID, after int64) ([]exchange, error) {
	rows, err := tx.Query(ctx, `
		select number, question, answer from (
			select number, question, answer from turn
			where conversation_id = $1 and number > $2 and outcome is not null and outcome <> 'REFUSED'
			order by number desc limit $3
		) t order by number`, conversation, after, historyTurns)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (exchange, error) {
		var e exchange
		return e, row.Scan(&e.number, &e.question, &e.answer)
	})
}

// append adds events to turns that the engine still runs. Events that are there
// already, and those of turns that are no longer the engine's, are passed over.
func (s *Store) append(ctx context.Context, owner uuid.UUID, turns []uuid.UUID, events []Event) error {
	sequences, encoded, err := encode(events)
	if err != nil {
		return err
	}
	_, err = s.db.Exec(ctx, insertEvents, owner, turns, sequences, encoded)
	if err != nil {
		return fmt.Errorf("append events: %w", err)
	}
	return nil
}

const insertEvents = `
	insert into turn_event (turn_id, sequence, event)
	select e.turn_id, e.sequence, e.event::json from unnest($2::uuid[], $3::bigint[], $4::text[]) as e (turn_id, sequence, event)
	join turn t on t.id = e.turn_id and t.owner = $1 and t.outcome is null
	order by e.turn_id, e.sequence
	for key share of t -- waits for whoever ends the turn, and looks again
	on conflict do nothing`

func encode(events []Event) ([]int64, []string, error) {
	sequences, encoded := make([]int64, len(events)), make([]string, len(events))
	for i, e := range events {
		raw, err := json.Marshal(e)
		if err != nil {
			return nil, nil, fmt.Errorf("encode event: %w", err)
		}
		sequences[i], encoded[i] = e.Sequence, string(raw)
	}
	return sequences, encoded, nil
}

// standing is what the engine asks of the turns it runs.
type standing struct {
	cancelled, watched bool
}

// standings returns how the engine's turns stand. A turn that is not in it was
// ended by somebody else, or deleted.
func (s *Store) standings(ctx context.Context, owner uuid.UUID) (map[uuid.UUID]standing, error) {
	rows, err := s.db.Query(ctx, `select id, cancelled, watched_until > now() from turn where owner = $1 and outcome is null`, owner)
	if err != nil {
		return nil, fmt.Errorf("look after turns: %w", err)
	}
	found := make(map[uuid.UUID]standing)
	var id uuid.UUID
	var st standing
	_, err = pgx.ForEachRow(rows, []any{&id, &st.cancelled, &st.watched}, func() error {
		found[id] = st
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look after turns: %w", err)
	}
	return found, nil
}

// renew extends the leases of the engine's turns and notes the tokens used so
// far, so that they are charged also when the engine dies.
func (s *Store) renew(ctx context.Context, owner uuid.UUID, lease time.Duration, turns []uuid.UUID, input, output []int64) error {
	_, err := s.db.Exec(ctx, `
		update turn t set lease_until = now() + $2::interval, input_tokens = u.input, output_tokens = u.output
		from unnest($3::uuid[], $4::bigint[], $5::bigint[]) as u (id, input, output)
		where t.id = u.id and t.owner = $1 and t.outcome is null`, owner, lease, turns, input, output)
	if err != nil {
		return fmt.Errorf("renew leases: %w", err)
	}
	return nil
}

// ending is how a turn ended.
type ending struct {
	turn      turn
	owner     uuid.UUID
	events    []Event // those that may not be in the database; Done is the last
	citations []Citation
	cost      int64 // millionths of a US dollar
}

// errLost is returned by finish when somebody else has ended or deleted the turn.
var errLost = errors.New("the turn is no longer this engine's")

// finish ends a turn: the rest of its events, its row and what it used, in one
// transaction. Errors: errLost.
func (s *Store) finish(ctx context.Context, e ending) error {
	done := e.events[len(e.events)-1].Done
	sequences, encoded, err := encode(e.events)
	if err != nil {
		return err
	}
	if e.citations == nil {
		e.citations = []Citation{}
	}
	citations, err := json.Marshal(e.citations)
	if err != nil {
		return fmt.Errorf("encode citations: %w", err)
	}
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		var batch pgx.Batch
		charge(&batch, e.turn.subject, done.Input, done.Output, e.cost)
		batch.Queue(`update conversation set updated_at = now() where id = $1`, e.turn.conversation)
		turns := make([]uuid.UUID, len(e.events))
		for i := range turns {
			turns[i] = e.turn.id
		}
		batch.Queue(insertEvents, e.owner, turns, sequences, encoded)
		ended := false
		batch.Queue(`
			update turn set outcome = $3, answer = $4, citations = $5, input_tokens = $6, output_tokens = $7, ended_at = now()
			where id = $1 and owner = $2 and outcome is null`,
			e.turn.id, e.owner, done.Outcome, done.Text, string(citations), done.Input, done.Output).
			Exec(func(tag pgconn.CommandTag) error { ended = tag.RowsAffected() == 1; return nil })
		if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
			return err
		}
		if !ended {
			return errLost
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("finish turn: %w", err)
	}
	return nil
}

func charge(batch *pgx.Batch, subject string, input, output, cost int64) {
	batch.Queue(`
		insert into usage as u (subject, day, turns, input_tokens, output_tokens, cost_micros)
		values ($1, (now() at time zone 'utc')::date, 1, $2, $3, $4)
		on conflict (subject, day) do update set turns = u.turns + 1, input_tokens = u.input_tokens + excluded.input_tokens,
			output_tokens = u.output_tokens + excluded.output_tokens, cost_micros = u.cost_micros + excluded.cost_micros`,
		subject, input, output, cost)
}

// abandoned is what a shopper learns of a turn whose engine died.
var abandoned = Trouble{Reason: fault.ReasonUnavailable, Message: "The answer broke off: the server that gave it has stopped. Ask again."}

// EndAbandoned ends the turns whose engine no longer renews their lease, as
// failed, with what they had said. It returns how many.
func (s *Store) EndAbandoned(ctx context.Context) (int, error) {
	rows, err := s.db.Query(ctx, `select id from turn where outcome is null and lease_until < now()`)
	if err != nil {
		return 0, fmt.Errorf("find abandoned turns: %w", err)
	}
	dead, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return 0, fmt.Errorf("find abandoned turns: %w", err)
	}
	for i, id := range dead {
		if err := s.endAbandoned(ctx, id); err != nil {
			return i, err
		}
	}
	return len(dead), nil
}

func (s *Store) endAbandoned(ctx context.Context, id uuid.UUID) error {
	err := postgres.Transact(ctx, s.db, func(tx pgx.Tx) error { return abandon(ctx, tx, id) })
	if err != nil && !errors.Is(err, errLost) {
		return fmt.Errorf("end abandoned turn: %w", err)
	}
	return nil
}

// abandon ends one turn if its lease has run out. The tokens that were noted with
// its last renewal are charged; what they cost is not known any more. Errors:
// errLost when it was ended, deleted or renewed meanwhile.
func abandon(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	var subject string
	if err := tx.QueryRow(ctx, `select subject from turn where id = $1`, id).Scan(&subject); errors.Is(err, pgx.ErrNoRows) {
		return nil
	} else if err != nil {
		return err
	}
	// The lock on usage comes first, see above.
	_, err := tx.Exec(ctx, `
		insert into usage (subject, day) values ($1, (now() at time zone 'utc')::date)
		on conflict (subject, day) do update set subject = excluded.subject`, subject)
	if err != nil {
		return err
	}
	var done Done
	err = tx.QueryRow(ctx, `
		select input_tokens, output_tokens from turn where id = $1 and outcome is null and lease_until < now() for update`, id).
		Scan(&done.Input, &done.Output)
	if errors.Is(err, pgx.ErrNoRows) {
		return errLost // and takes the row of usage back
	} else if err != nil {
		return err
	}
	events, err := readEvents(ctx, tx, id, 0)
	if err != nil {
		return err
	}
	var said strings.Builder
	citations := []Citation{}
	for _, e := range events {
		said.WriteString(e.Delta)
		if e.Citation != nil {
			citations = append(citations, *e.Citation)
		}
	}
	done.Outcome, done.Text = Broken, said.String()
	last := int64(len(events))
	sequences, encoded, err := encode([]Event{{Sequence: last + 1, Error: &abandoned}, {Sequence: last + 2, Done: &done}})
	if err != nil {
		return err
	}
	marks, err := json.Marshal(citations)
	if err != nil {
		return fmt.Errorf("encode citations: %w", err)
	}
	var batch pgx.Batch
	charge(&batch, subject, done.Input, done.Output, 0)
	batch.Queue(`insert into turn_event (turn_id, sequence, event) select $1, e.sequence, e.event::json
		from unnest($2::bigint[], $3::text[]) as e (sequence, event)`, id, sequences, encoded)
	batch.Queue(`update turn set outcome = $2, answer = $3, citations = $4, ended_at = now() where id = $1`,
		id, done.Outcome, done.Text, string(marks))
	return tx.SendBatch(ctx, &batch).Close()
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// readEvents returns the events of a turn after one.
func readEvents(ctx context.Context, db querier, id uuid.UUID, after int64) ([]Event, error) {
	rows, err := db.Query(ctx, `select sequence, event from turn_event where turn_id = $1 and sequence > $2 order by sequence`, id, after)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return collectEvents(rows)
}

func collectEvents(rows pgx.Rows) ([]Event, error) {
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Event, error) {
		var e Event
		var sequence int64
		var raw []byte
		if err := row.Scan(&sequence, &raw); err != nil {
			return Event{}, err
		}
		err := json.Unmarshal(raw, &e)
		e.Sequence = sequence
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return events, nil
}

// follow returns the events of a turn after one, and whether these are the last.
// It keeps the turn going for as long as keep. A turn whose engine died is ended
// first.
func (s *Store) follow(ctx context.Context, id uuid.UUID, after int64, keep time.Duration) (events []Event, ended bool, err error) {
	// How it stands comes before the events: when it has ended then, all are there.
	var dead bool
	err = s.db.QueryRow(ctx, `
		with watched as (update turn set watched_until = now() + $2::interval
			where $2 > interval '0' and id = $1 and outcome is null and watched_until < now() + $2::interval / 2)
		select outcome is not null, lease_until < now() from turn where id = $1`, id, keep).Scan(&ended, &dead)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, true, nil // deleted
	case err != nil:
		return nil, false, fmt.Errorf("follow turn: %w", err)
	}
	if !ended && dead {
		if err := s.endAbandoned(ctx, id); err != nil {
			return nil, false, err
		}
	}
	events, err = readEvents(ctx, s.db, id, after)
	return events, ended, err
}

// lastEvent returns the done event of a turn that has ended, for who has seen its
// events up to one. Of a turn whose events are deleted it returns what endOf does.
func (s *Store) lastEvent(ctx context.Context, id uuid.UUID, after int64) ([]Event, error) {
	rows, err := s.db.Query(ctx, `select sequence, event from turn_event where turn_id = $1 order by sequence desc limit 1`, id)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	events, err := collectEvents(rows)
	if err != nil || len(events) > 0 {
		return events, err
	}
	return s.endOf(ctx, id, after)
}

// conversationOf returns the conversation of a subject's turn.
// Errors: TURN_NOT_FOUND.
func (s *Store) conversationOf(ctx context.Context, subject string, id uuid.UUID) (uuid.UUID, error) {
	var conversation uuid.UUID
	err := s.db.QueryRow(ctx, `select conversation_id from turn where id = $1 and subject = $2`, id, subject).Scan(&conversation)
	return conversation, turnError(id, err)
}

// cancel asks whoever runs a subject's turn to stop. No error when it has ended.
// Errors: TURN_NOT_FOUND.
func (s *Store) cancel(ctx context.Context, subject string, id uuid.UUID) error {
	tag, err := s.db.Exec(ctx, `update turn set cancelled = true where id = $1 and subject = $2`, id, subject)
	if err == nil && tag.RowsAffected() == 0 {
		err = pgx.ErrNoRows
	}
	return turnError(id, err)
}

func turnError(id uuid.UUID, err error) error {
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fault.New(fault.ReasonTurnNotFound, "There is no turn %s.", id)
	case err != nil:
		return fmt.Errorf("find turn: %w", err)
	}
	return nil
}

// summarize keeps a summary of a conversation up to a turn, unless one further is
// there, and charges what it took to make, unless the conversation is gone.
func (s *Store) summarize(ctx context.Context, t turn, summary string, upTo, input, output, cost int64) error {
	err := postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		var batch pgx.Batch
		batch.Queue(`
			insert into usage as u (subject, day, input_tokens, output_tokens, cost_micros)
			select $1, (now() at time zone 'utc')::date, $2, $3, $4 from conversation where id = $5 for key share
			on conflict (subject, day) do update set input_tokens = u.input_tokens + excluded.input_tokens,
				output_tokens = u.output_tokens + excluded.output_tokens, cost_micros = u.cost_micros + excluded.cost_micros`,
			t.subject, input, output, cost, t.conversation)
		if summary != "" {
			batch.Queue(`update conversation set summary = $2, summarized = $3 where id = $1 and summarized < $3`, t.conversation, summary, upTo)
		}
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err != nil {
		return fmt.Errorf("keep summary: %w", err)
	}
	return nil
}
