package notification

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"bookworm/internal/personal"
)

// State is what became of a mail.
type State string

// The states of a delivery.
//
//	          claim                relay accepts
//	(none) ----------> sending -------------------> sent
//	                    ^   | \   no answer, crash
//	              claim |   |  `------------------> unknown
//	                    |   v relay refuses            |
//	                   failed <------------------------'
//	                             an operator releases it
const (
	// Sending is claimed by one attempt. The relay may have the mail already.
	Sending State = "sending"
	// Sent was accepted by the relay. Final.
	Sent State = "sent"
	// Failed was refused by the relay: nobody has the mail, and it may be claimed again.
	Failed State = "failed"
	// Unknown may or may not have been accepted. Only an operator, who can look
	// for the message id in the relay's log, may release it.
	Unknown State = "unknown"
	// Suppressed was not wanted. Final.
	Suppressed State = "suppressed"
)

// lease is how long a claim is taken for an attempt that is still running. It is
// several times what one takes (mail.MaxSend); a claim that is older belongs to a
// process that died.
const lease = 2 * time.Minute

// ErrInFlight is returned by Claim while another attempt is sending the mail.
var ErrInFlight = errors.New("another attempt is sending this mail")

// Mail identifies a mail: one recipient is told of one event, in one template, at
// most once.
type Mail struct {
	Recipient personal.Text
	Template  string
	EventID   string
	Subject   string // whose the mail is; no part of its identity
}

// Claim is the result of asking for a mail.
type Claim struct {
	// State is Sending for the one attempt that may send, and otherwise Sent,
	// Unknown or Suppressed.
	State State
	// Attempt counts the claims of the mail and tells them apart.
	Attempt int
	// MessageID is the local part of the mail's message id, the same for every attempt.
	MessageID string
}

// Claim asks for the mail, in a transaction of its own, right before it is handed
// to the relay. Of any number of concurrent callers at most one gets it (State
// Sending) and must Settle it. A claim that was never settled, because its process
// died in between, becomes Unknown when its lease is over: the relay may have the
// mail, so nobody gets it again. Errors: ErrInFlight.
//
// This is the window of invariant N3. Between the relay's acceptance and Settle
// nothing can make the two one; a process that dies there leaves a mail that was
// sent and says Unknown. The shop errs on the side of one mail too few, and shows
// it to its operators.
func (s *Store) Claim(ctx context.Context, m Mail) (Claim, error) {
	hash := s.hash(normalize(m.Recipient))
	var c Claim
	err := s.pool.QueryRow(ctx, `
		insert into delivery as d (recipient_hash, template, event_id, state, attempts, message_id, subject_hash)
		values ($1, $2, $3, 'sending', 1, $4, $6)
		on conflict (recipient_hash, template, event_id) do update set
			state = case d.state when 'failed' then 'sending' else 'unknown' end,
			attempts = case d.state when 'failed' then d.attempts + 1 else d.attempts end,
			last_error = case d.state when 'failed' then d.last_error else 'interrupted' end,
			updated_at = now()
		where d.state = 'failed' or (d.state = 'sending' and d.updated_at < now() - $5::interval)
		returning state, attempts, message_id`,
		hash, m.Template, m.EventID, s.messageID(m), lease, s.subjectHash(m.Subject)).Scan(&c.State, &c.Attempt, &c.MessageID)
	if !errors.Is(err, pgx.ErrNoRows) {
		if err != nil {
			return Claim{}, fmt.Errorf("claim mail: %w", err)
		}
		return c, nil
	}
	// The row is there, and not to be had.
	err = s.pool.QueryRow(ctx, `
		select state, attempts, message_id from delivery
		where recipient_hash = $1 and template = $2 and event_id = $3`,
		hash, m.Template, m.EventID).Scan(&c.State, &c.Attempt, &c.MessageID)
	if err != nil {
		return Claim{}, fmt.Errorf("read mail: %w", err)
	}
	if c.State == Sending || c.State == Failed { // Failed: settled between the two statements
		return Claim{}, ErrInFlight
	}
	return c, nil
}

// Settle records what became of a claimed mail: Sent, Failed or Unknown. It has
// no effect when the mail was claimed again meanwhile. The truth may come late: an
// attempt that outlived its lease still settles what it made Unknown. lastError
// must hold nothing personal.
func (s *Store) Settle(ctx context.Context, m Mail, c Claim, state State, lastError string) error {
	_, err := s.pool.Exec(ctx, `
		update delivery set state = $5, last_error = $6, updated_at = now()
		where recipient_hash = $1 and template = $2 and event_id = $3
			and attempts = $4 and state in ('sending', 'unknown')`,
		s.hash(normalize(m.Recipient)), m.Template, m.EventID, c.Attempt, state, lastError)
	if err != nil {
		return fmt.Errorf("settle mail as %s: %w", state, err)
	}
	return nil
}

// Suppress records that a mail is not wanted and returns what holds now:
// Suppressed, or the state of a mail that an attempt got hold of before.
func (s *Store) Suppress(ctx context.Context, m Mail) (State, error) {
	var state State
	// A mail that was refused so far has gone to nobody; it is not wanted any more.
	// The update without effect makes the statement return the row.
	err := s.pool.QueryRow(ctx, `
		insert into delivery as d (recipient_hash, template, event_id, state, attempts, message_id, subject_hash)
		values ($1, $2, $3, 'suppressed', 0, $4, $5)
		on conflict (recipient_hash, template, event_id) do update set
			state = case d.state when 'failed' then 'suppressed' else d.state end
		returning state`,
		s.hash(normalize(m.Recipient)), m.Template, m.EventID, s.messageID(m), s.subjectHash(m.Subject)).Scan(&state)
	if err != nil {
		return "", fmt.Errorf("suppress mail: %w", err)
	}
	return state, nil
}

// Release lets an Unknown mail be claimed again, on the word of an operator that
// it was not accepted. It has no effect on a mail in another state.
func (s *Store) Release(ctx context.Context, m Mail) error {
	_, err := s.pool.Exec(ctx, `
		update delivery set state = 'failed', last_error = 'released by an operator', updated_at = now()
		where recipient_hash = $1 and template = $2 and event_id = $3 and state = 'unknown'`,
		s.hash(normalize(m.Recipient)), m.Template, m.EventID)
	if err != nil {
		return fmt.Errorf("release mail: %w", err)
	}
	return nil
}

// messageID depends on the mail alone, so that a relay or a reader that gets it
// twice can see that it is the same.
func (s *Store) messageID(m Mail) string {
	return hex.EncodeToString(s.hash(normalize(m.Recipient), m.Template, m.EventID)[:16])
}
