package notification

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"bookworm/internal/page"
	"bookworm/internal/personal"
	"bookworm/internal/postgres"
)

const (
	// keepDeliveries is how long the record of a mail is kept: for questions about
	// it, and so that it goes out at most once (N3). A process tries for three days;
	// one that waits for an operator longer than this is let go by that one's word.
	keepDeliveries = 90 * 24 * time.Hour
	// settledFor is how long after its end the process of a mail may still ask
	// again: the three days that one lasts, and a day.
	settledFor = 4 * 24 * time.Hour
)

const (
	exportPage  = 200  // mails
	retainBatch = 1000 // mails
)

// Personal is what the context has of a person, as the law lets them ask.
type Personal struct{ Store *Store }

var _ personal.Holder = Personal{}

// subjectHash is what a subject's mails are found by; nil for none.
func (s *Store) subjectHash(subject string) []byte {
	if subject == "" {
		return nil
	}
	return s.hash("subject", subject)
}

type exportedPreferences struct {
	OrderEmails     bool      `json:"order_emails"`
	MarketingEmails bool      `json:"marketing_emails"`
	UpdatedAt       time.Time `json:"updated_at"`
}

// exportedMail is the record of a mail. Its recipient and words are not kept.
type exportedMail struct {
	Template  string    `json:"template"`
	EventID   string    `json:"event_id"`
	State     State     `json:"state"`
	Attempts  int       `json:"attempts"`
	MessageID string    `json:"message_id"`
	LastError string    `json:"last_error,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Export returns a person's preferences, and a page of the record of their mails,
// oldest first. Errors: PAGE_TOKEN_INVALID.
func (p Personal) Export(ctx context.Context, subject, token string) ([]personal.Section, string, error) {
	const list = "notification.export"
	after, key := exportedMail{}, []byte{}
	var sections []personal.Section
	if token != "" {
		if err := page.Decode(token, list, subject, &after.CreatedAt, &after.EventID, &after.Template, &key); err != nil {
			return nil, "", err
		}
	} else {
		found, err := p.Store.exportPreferences(ctx, subject)
		if err != nil {
			return nil, "", err
		}
		sections = append(sections, found...)
	}
	mails, keys, err := p.Store.exportMails(ctx, subject, after, key)
	if err != nil || len(mails) == 0 {
		return sections, "", err
	}
	next := ""
	if len(mails) > exportPage {
		mails = mails[:exportPage]
		last := mails[exportPage-1]
		if next, err = page.Encode(list, subject, last.CreatedAt, last.EventID, last.Template, keys[exportPage-1]); err != nil {
			return nil, "", err
		}
	}
	records, err := personal.Records(mails...)
	return append(sections, personal.Section{Name: "mails", Records: records}), next, err
}

func (s *Store) exportPreferences(ctx context.Context, subject string) ([]personal.Section, error) {
	var p exportedPreferences
	err := s.pool.QueryRow(ctx, `select order_emails, marketing_emails, updated_at from preferences where subject = $1`, subject).
		Scan(&p.OrderEmails, &p.MarketingEmails, &p.UpdatedAt)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read preferences: %w", err)
	}
	p.UpdatedAt = p.UpdatedAt.UTC()
	records, err := personal.Records(p)
	return []personal.Section{{Name: "preferences", Records: records}}, err
}

// exportMails returns the mails after one, and one more than fit a page when there
// are, with the last part of the key of each.
func (s *Store) exportMails(ctx context.Context, subject string, after exportedMail, key []byte) ([]exportedMail, [][]byte, error) {
	rows, err := s.pool.Query(ctx, `
		select template, event_id, state, attempts, message_id, last_error, created_at, updated_at, recipient_hash from delivery
		where subject_hash = $1 and (created_at, event_id, template, recipient_hash) > ($2, $3, $4, $5)
		order by created_at, event_id, template, recipient_hash limit $6`,
		s.subjectHash(subject), after.CreatedAt, after.EventID, after.Template, key, exportPage+1)
	if err != nil {
		return nil, nil, fmt.Errorf("list mails: %w", err)
	}
	var keys [][]byte
	mails, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m exportedMail, err error) {
		var key []byte
		err = row.Scan(&m.Template, &m.EventID, &m.State, &m.Attempts, &m.MessageID, &m.LastError, &m.CreatedAt, &m.UpdatedAt, &key)
		m.CreatedAt, m.UpdatedAt = m.CreatedAt.UTC(), m.UpdatedAt.UTC()
		keys = append(keys, key)
		return m, err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list mails: %w", err)
	}
	return mails, keys, nil
}

// Erase removes a person's preferences and the record of their mails. What a
// process may still ask for stays, so that no mail goes out twice: the hash of its
// address, under that of the pseudonym, until its time is over.
func (p Personal) Erase(ctx context.Context, subject, pseudonym string) (personal.Erasure, error) {
	var e personal.Erasure
	err := postgres.Transact(ctx, p.Store.pool, func(tx pgx.Tx) error {
		e = personal.Erasure{}
		for _, statement := range []struct {
			text string
			args []any
		}{
			{`delete from preferences where subject = $1`, []any{subject}},
			{
				`delete from delivery where subject_hash = $1 and state in ('sent', 'suppressed') and updated_at < now() - $2::interval`,
				[]any{p.Store.subjectHash(subject), settledFor},
			},
			{`update delivery set subject_hash = $2 where subject_hash = $1`, []any{p.Store.subjectHash(subject), p.Store.subjectHash(pseudonym)}},
		} {
			tag, err := tx.Exec(ctx, statement.text, statement.args...)
			if err != nil {
				return err
			}
			e.Erased += tag.RowsAffected()
		}
		return tx.QueryRow(ctx, `select count(*) from delivery where subject_hash = $1`, p.Store.subjectHash(pseudonym)).Scan(&e.Kept)
	})
	if err != nil {
		return personal.Erasure{}, fmt.Errorf("erase preferences and mails: %w", err)
	}
	if e.Kept > 0 {
		e.Note = fmt.Sprintf("The hashes of recent mails stay for %.0f days, so that none goes out twice.", keepDeliveries.Hours()/24)
	}
	return e, nil
}

// Retain deletes the record of mails whose time is over.
func (p Personal) Retain(ctx context.Context) (deleted map[string]int64, more bool, err error) {
	tag, err := p.Store.pool.Exec(ctx, `
		delete from delivery where (recipient_hash, template, event_id) in (
			select recipient_hash, template, event_id from delivery
			where created_at < now() - $1::interval and state <> 'sending'
			order by created_at limit $2 for update skip locked)`, keepDeliveries, retainBatch)
	if err != nil {
		return nil, false, fmt.Errorf("delete the record of old mails: %w", err)
	}
	return map[string]int64{"mails": tag.RowsAffected()}, tag.RowsAffected() == retainBatch, nil
}
