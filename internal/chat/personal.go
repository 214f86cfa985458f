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

	"bookworm/internal/personal"
	"bookworm/internal/personal/export"
	"bookworm/internal/postgres"
)

const (
	// keepConversations is how long a conversation is kept after something was last
	// said in it: whoever comes back within a year can go on with it.
	keepConversations = 365 * 24 * time.Hour
	// keepEvents is how long the events of a turn, a row for each word, are kept after
	// its end: they are there for streams that broke off, which come back within
	// minutes. The question and the answer stay in the turn.
	keepEvents = 7 * 24 * time.Hour
	// keepUsageOwner is how long what the bookseller cost is kept by shopper: for
	// questions about a bill of the model's provider. Then it is everybody's together.
	keepUsageOwner = 400 * 24 * time.Hour
)

const (
	// personalPage is how many records of one kind an export has on a page.
	personalPage = 50
	// eraseBatch is how many conversations are deleted in one statement, each with its
	// turns and their events.
	eraseBatch = 20
	// eventlessBatch is of how many turns the events are deleted in one statement.
	eventlessBatch = 200
	// cancelTime is how long an erasure waits for turns that it has cancelled.
	// Their engines look every tenth of a second.
	cancelTime = 5 * time.Second
)

// Personal is the conversations of people, as the law lets them ask.
type Personal struct{ Store *Store }

var _ personal.Holder = Personal{}

// parts are what an export has, in this order.
var parts = []export.Part{
	{Name: "conversations", Query: `
		select id, 0::bigint, json_build_object('id', id, 'title', title, 'summary', summary,
			'created_at', ` + export.UTC("created_at") + `, 'updated_at', ` + export.UTC("updated_at") + `)
		from conversation where subject = $1 and (id, 0::bigint) > ($2, $3) order by id limit $4`},
	// A delta is a word of the answer.
	{Name: "turns", Query: `
		select t.conversation_id, t.number, json_build_object('id', t.id, 'conversation_id', t.conversation_id, 'number', t.number,
			'question', question, 'answer', answer, 'citations', citations, 'outcome', outcome,
			'input_tokens', input_tokens, 'output_tokens', output_tokens,
			'created_at', ` + export.UTC("t.created_at") + `, 'ended_at', ` + export.UTC("ended_at") + `,
			'events', (select json_agg(event order by sequence) from turn_event where turn_id = t.id and event->'delta' is null))
		from turn t join conversation c on c.id = t.conversation_id
		where c.subject = $1 and (t.conversation_id, t.number) > ($2, $3) order by t.conversation_id, t.number limit $4`},
	{Name: "proposals", Query: `
		select a.id, 0::bigint, json_build_object('id', a.id, 'conversation_id', conversation_id, 'turn_id', turn_id, 'book_id', book_id,
			'quantity', quantity, 'text', text, 'state', state, 'result', result, 'created_at', ` + export.UTC("a.created_at") + `)
		from action a join conversation c on c.id = a.conversation_id
		where c.subject = $1 and (a.id, 0::bigint) > ($2, $3) order by a.id limit $4`},
	{Name: "usage", Query: `
		select '00000000-0000-0000-0000-000000000000'::uuid, day - date '1970-01-01', json_build_object('day', day, 'turns', turns,
			'input_tokens', input_tokens, 'output_tokens', output_tokens, 'cost_micros', cost_micros)
		from usage where subject = $1 and ('00000000-0000-0000-0000-000000000000'::uuid, (day - date '1970-01-01')::bigint) > ($2, $3)
		order by day limit $4`},
}

// Export returns a page of what a person and the bookseller said to each other, of
// what it proposed, and of what that took. Errors: PAGE_TOKEN_INVALID.
func (p Personal) Export(ctx context.Context, subject, token string) ([]personal.Section, string, error) {
	return export.Page(ctx, p.Store.db, "chat.export", parts, subject, token, personalPage)
}

// Erase deletes a person's conversations with all that was said in them, and puts
// the pseudonym in the subject's place in what they cost. Turns that run are
// cancelled first; should one not end within seconds, it is waited for.
func (p Personal) Erase(ctx context.Context, subject, pseudonym string) (personal.Erasure, error) {
	running, err := p.Store.stop(ctx, subject)
	if err != nil {
		return personal.Erasure{}, err
	}
	if len(running) > 0 {
		return personal.Erasure{WaitingFor: running}, nil
	}
	var e personal.Erasure
	for {
		n, err := p.Store.deleteConversations(ctx, `subject = $1`, subject)
		if err != nil {
			return personal.Erasure{}, err
		}
		if e.Erased += n; n < eraseBatch {
			break
		}
	}
	// Usage comes last, in a transaction of its own: who still writes some holds the
	// conversation and is through now, or finds it gone.
	err = postgres.Transact(ctx, p.Store.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `with gone as (delete from usage where subject = $1 returning *) `+addUsage, subject, pseudonym); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `select count(*) from usage where subject = $1`, pseudonym).Scan(&e.Kept)
	})
	if err != nil {
		return personal.Erasure{}, fmt.Errorf("put usage under the pseudonym: %w", err)
	}
	if e.Kept > 0 {
		e.Note = "What the bookseller cost stays in the accounts; nothing in it says who it talked with."
	}
	return e, nil
}

// addUsage adds rows of usage that are gone from their subjects to those of $2.
const addUsage = `
	insert into usage as u (subject, day, turns, input_tokens, output_tokens, cost_micros)
	select $2, day, sum(turns), sum(input_tokens), sum(output_tokens), sum(cost_micros) from gone group by day
	on conflict (subject, day) do update set turns = u.turns + excluded.turns, input_tokens = u.input_tokens + excluded.input_tokens,
		output_tokens = u.output_tokens + excluded.output_tokens, cost_micros = u.cost_micros + excluded.cost_micros`

// stop cancels the turns of a subject and waits until they have ended. It returns
// those that have not.
func (s *Store) stop(ctx context.Context, subject string) ([]string, error) {
	if _, err := s.db.Exec(ctx, `update turn set cancelled = true where subject = $1 and outcome is null`, subject); err != nil {
		return nil, fmt.Errorf("cancel turns: %w", err)
	}
	for end := time.Now().Add(cancelTime); ; {
		rows, err := s.db.Query(ctx, `select id, lease_until < now() from turn where subject = $1 and outcome is null order by id`, subject)
		if err != nil {
			return nil, fmt.Errorf("look after turns: %w", err)
		}
		var running []string
		var dead []uuid.UUID
		var id uuid.UUID
		var isDead bool
		_, err = pgx.ForEachRow(rows, []any{&id, &isDead}, func() error {
			running = append(running, "turn "+id.String())
			if isDead {
				dead = append(dead, id)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look after turns: %w", err)
		}
		for _, id := range dead {
			if err := s.endAbandoned(ctx, id); err != nil {
				return nil, err
			}
		}
		switch {
		case len(running) == 0:
			return nil, nil
		case len(running) == len(dead):
			continue
		case time.Now().After(end):
			return running, nil
		}
		pause := time.NewTimer(lookEvery)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil, ctx.Err()
		case <-pause.C:
		}
	}
}

// deleteConversations deletes up to eraseBatch conversations for which a condition
// holds, with all that was said in them.
func (s *Store) deleteConversations(ctx context.Context, where string, args ...any) (int64, error) {
	tag, err := s.db.Exec(ctx, `
		delete from conversation where id in (
			select id from conversation where `+where+` limit `+fmt.Sprint(eraseBatch)+` for update)`, args...)
	if err != nil {
		return 0, fmt.Errorf("delete conversations: %w", err)
	}
	return tag.RowsAffected(), nil
}

// Retain deletes conversations in which nothing was said for long, and the events
// of turns that nobody can still be listening to, and takes the owner from old usage.
func (p Personal) Retain(ctx context.Context) (deleted map[string]int64, more bool, err error) {
	return p.Store.retain(ctx, time.Now())
}

func (s *Store) retain(ctx context.Context, now time.Time) (map[string]int64, bool, error) {
	conversations, err := s.deleteConversations(ctx, `updated_at < $1 and not exists (
		select from turn where conversation_id = conversation.id and outcome is null)`, now.Add(-keepConversations))
	if err != nil {
		return nil, false, err
	}
	var turns, events int64
	err = s.db.QueryRow(ctx, `
		with old as (
			select id from turn where outcome is not null and not eventless and ended_at < $1 order by ended_at limit $2 for update skip locked
		), marked as (
			update turn set eventless = true where id in (select id from old)
		), gone as (
			delete from turn_event where turn_id in (select id from old) returning turn_id
		)
		select (select count(*) from old), (select count(*) from gone)`, now.Add(-keepEvents), eventlessBatch).Scan(&turns, &events)
	if err != nil {
		return nil, false, fmt.Errorf("delete the events of old turns: %w", err)
	}
	owners, err := s.db.Exec(ctx, `
		with old as (
			select subject, day from usage where subject <> '' and day < $1::date order by day limit $3 for update skip locked
		), gone as (
			delete from usage u using old where u.subject = old.subject and u.day = old.day returning u.*
		) `+addUsage, now.UTC().Add(-keepUsageOwner), "", eventlessBatch)
	if err != nil {
		return nil, false, fmt.Errorf("take the owners from old usage: %w", err)
	}
	return map[string]int64{"conversations": conversations, "turn events": events, "days of usage": owners.RowsAffected()},
		conversations == eraseBatch || turns == eventlessBatch || owners.RowsAffected() > 0, nil
}

// endOf returns how a turn that has ended, and has no events any more, ended; for
// who has seen none of them also what was said. Nothing when there is no turn.
func (s *Store) endOf(ctx context.Context, id uuid.UUID, after int64) ([]Event, error) {
	var done Done
	var citations []byte
	err := s.db.QueryRow(ctx, `select outcome, answer, citations, input_tokens, output_tokens from turn where id = $1 and outcome is not null`, id).
		Scan(&done.Outcome, &done.Text, &citations, &done.Input, &done.Output)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read turn: %w", err)
	}
	done.Uncited = strings.Count(done.Text, unverified)
	var events []Event
	if after == 0 && done.Text != "" {
		events = append(events, Event{Delta: done.Text})
		var cited []Citation
		if err := json.Unmarshal(citations, &cited); err != nil {
			return nil, fmt.Errorf("decode citations: %w", err)
		}
		for i := range cited {
			events = append(events, Event{Citation: &cited[i]})
		}
	}
	events = append(events, Event{Done: &done})
	for i := range events {
		events[i].Sequence = after + int64(i) + 1
	}
	return events, nil
}
