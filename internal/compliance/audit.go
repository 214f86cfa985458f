package compliance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/fault"
	"bookworm/internal/page"
	"bookworm/internal/postgres"
)

// Hash is a SHA-256. As text it is in hexadecimal.
type Hash [sha256.Size]byte

// String returns the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// The outcomes of an action.
const (
	OutcomeAttempted = "ATTEMPTED"
	OutcomeSucceeded = "SUCCEEDED"
	OutcomeFailed    = "FAILED"
)

// AuditEntry is one entry of the log of what the shop's staff did. The contract's
// AuditEntry says what the fields mean.
type AuditEntry struct {
	Sequence     int64 // from 1, without gaps
	ID           uuid.UUID
	RecordedAt   time.Time // UTC, whole microseconds
	Actor        string
	Roles        []string
	Procedure    string
	Target       map[string]string
	RequestHash  Hash
	Outcome      string
	Reason       string
	ActionID     uuid.UUID
	TraceID      string
	PreviousHash Hash // zero for the first entry
	Hash         Hash
}

// recordedFormat is RFC 3339 in UTC with exactly six digits of a second.
const recordedFormat = "2006-01-02T15:04:05.000000Z"

// digest returns the entry's hash: the SHA-256 over its fields, each as a
// netstring (its length in bytes in decimal, a colon, the bytes, a comma), in the
// order of the contract, a list or map after its count. docs/audit.md is written
// for those who check it elsewhere; neither may ever change.
func (e *AuditEntry) digest() Hash {
	encoded := make([]byte, 0, 1024)
	add := func(text string) {
		encoded = strconv.AppendInt(encoded, int64(len(text)), 10)
		encoded = append(append(append(encoded, ':'), text...), ',')
	}
	add(e.PreviousHash.String())
	add(strconv.FormatInt(e.Sequence, 10))
	add(e.ID.String())
	add(e.RecordedAt.UTC().Format(recordedFormat))
	add(e.Actor)
	add(strconv.Itoa(len(e.Roles)))
	for _, role := range e.Roles {
		add(role)
	}
	add(e.Procedure)
	add(strconv.Itoa(len(e.Target)))
	for _, field := range slices.Sorted(maps.Keys(e.Target)) {
		add(field)
		add(e.Target[field])
	}
	add(e.RequestHash.String())
	add(e.Outcome)
	add(e.Reason)
	add(e.ActionID.String())
	add(e.TraceID)
	return sha256.Sum256(encoded)
}

// sameContent reports whether the two are the same but for what the log sets.
func (e *AuditEntry) sameContent(other *AuditEntry) bool {
	a, b := *e, *other
	for _, entry := range []*AuditEntry{&a, &b} {
		entry.Sequence, entry.RecordedAt, entry.PreviousHash = 0, time.Time{}, Hash{}
	}
	return a.digest() == b.digest()
}

const entryColumns = `sequence, id, recorded_at, actor, roles, procedure, target, request_hash, outcome, reason, action_id, trace_id,
	previous_hash, hash`

func scanEntry(row pgx.CollectableRow) (AuditEntry, error) {
	var (
		e                       AuditEntry
		request, previous, hash []byte
	)
	err := row.Scan(&e.Sequence, &e.ID, &e.RecordedAt, &e.Actor, &e.Roles, &e.Procedure, &e.Target, &request, &e.Outcome, &e.Reason,
		&e.ActionID, &e.TraceID, &previous, &hash)
	if err != nil {
		return AuditEntry{}, fmt.Errorf("read an audit entry: %w", err)
	}
	e.RecordedAt = e.RecordedAt.UTC()
	copy(e.RequestHash[:], request)
	copy(e.PreviousHash[:], previous)
	copy(e.Hash[:], hash)
	return e, nil
}

// AuditHead is the end of the log. Whoever keeps one elsewhere can tell later
// whether the log still contains it.
type AuditHead struct {
	Sequence int64 // how many entries there are
	Hash     Hash  // zero for an empty log
}

// AppendAudit adds an entry, durably, and returns its place. It sets sequence,
// time and hashes. An entry whose id is in the log already is not added again.
// Writers, of all processes, wait for each other.
// Errors: IDEMPOTENCY_KEY_REUSED when another entry has the id.
func (s *Store) AppendAudit(ctx context.Context, e AuditEntry) (sequence int64, err error) {
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		// The lock comes before the question for the id, or two of the same would
		// both find none.
		head, err := auditHead(ctx, tx, `FOR UPDATE`)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT `+entryColumns+` FROM audit_entry WHERE id = $1`, e.ID)
		if err != nil {
			return fmt.Errorf("look for the entry: %w", err)
		}
		known, err := pgx.CollectExactlyOneRow(rows, scanEntry)
		switch {
		case err == nil && !known.sameContent(&e):
			return fault.New(fault.ReasonKeyReused, "Another entry has the id %s.", e.ID)
		case err == nil:
			sequence = known.Sequence
			return nil
		case !errors.Is(err, pgx.ErrNoRows):
			return fmt.Errorf("look for the entry: %w", err)
		}
		next := e
		next.Sequence, next.PreviousHash = head.Sequence+1, head.Hash
		next.RecordedAt = time.Now().UTC().Truncate(time.Microsecond) // as precise as the column
		next.Hash = next.digest()
		sequence = next.Sequence
		return insertAudit(ctx, tx, &next)
	})
	if err != nil {
		return 0, fmt.Errorf("append to the audit log: %w", err)
	}
	return sequence, nil
}

func insertAudit(ctx context.Context, tx pgx.Tx, e *AuditEntry) error {
	batch := &pgx.Batch{}
	batch.Queue(`INSERT INTO audit_entry (`+entryColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
		e.Sequence, e.ID, e.RecordedAt, e.Actor, orEmpty(e.Roles), e.Procedure, orEmptyMap(e.Target), e.RequestHash[:], e.Outcome, e.Reason,
		e.ActionID, e.TraceID, e.PreviousHash[:], e.Hash[:])
	batch.Queue(`UPDATE audit_head SET sequence = $1, hash = $2`, e.Sequence, e.Hash[:])
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("write the entry: %w", err)
	}
	return nil
}

func orEmpty(roles []string) []string {
	if roles == nil {
		return []string{}
	}
	return roles
}

func orEmptyMap(target map[string]string) map[string]string {
	if target == nil {
		return map[string]string{}
	}
	return target
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func auditHead(ctx context.Context, q querier, lock string) (AuditHead, error) {
	var (
		head AuditHead
		hash []byte
	)
	if err := q.QueryRow(ctx, `SELECT sequence, hash FROM audit_head `+lock).Scan(&head.Sequence, &hash); err != nil {
		return AuditHead{}, fmt.Errorf("read the head of the audit log: %w", err)
	}
	copy(head.Hash[:], hash)
	return head, nil
}

// AuditHead returns the end of the log.
func (s *Store) AuditHead(ctx context.Context) (AuditHead, error) { return auditHead(ctx, s.db, ``) }

// AuditFilter says which entries a list has; the zero one is for all.
type AuditFilter struct {
	Actor     string // only of this subject
	Procedure string // only of this procedure
}

const auditList = "audit entries"

// ListAudit returns a page of entries, newest first, and the token of the next
// page: "" on the last one. Errors: PAGE_TOKEN_INVALID.
func (s *Store) ListAudit(ctx context.Context, f AuditFilter, size int, token string) ([]AuditEntry, string, error) {
	before := int64(1) << 62
	if token != "" {
		if err := page.Decode(token, auditList, f, &before); err != nil {
			return nil, "", err //nolint:wrapcheck // a fault, said as it is
		}
	}
	rows, err := s.db.Query(ctx, `
		SELECT `+entryColumns+` FROM audit_entry
		WHERE sequence < $1 AND ($2 = '' OR actor = $2) AND ($3 = '' OR procedure = $3)
		ORDER BY sequence DESC LIMIT $4`, before, f.Actor, f.Procedure, size+1)
	if err != nil {
		return nil, "", fmt.Errorf("list audit entries: %w", err)
	}
	entries, err := pgx.CollectRows(rows, scanEntry)
	if err != nil {
		return nil, "", fmt.Errorf("list audit entries: %w", err)
	}
	if len(entries) <= size {
		return entries, "", nil
	}
	entries = entries[:size]
	next, err := page.Encode(auditList, f, entries[size-1].Sequence)
	return entries, next, err
}

// auditPage is how many entries are read at once where all are.
const auditPage = 1000

// Audit returns the entries from a sequence on, oldest first, up to the one that
// was the last when it began. No transaction is open between the entries, so the
// reader may take its time. It ends after an error.
func (s *Store) Audit(ctx context.Context, from int64) iter.Seq2[AuditEntry, error] {
	return func(yield func(AuditEntry, error) bool) {
		head, err := s.AuditHead(ctx)
		if err != nil {
			yield(AuditEntry{}, err)
			return
		}
		for e, err := range auditRange(ctx, s.db, from, head.Sequence) {
			if !yield(e, err) {
				return
			}
		}
	}
}

// auditRange reads entries a page at a time.
func auditRange(ctx context.Context, q querier, from, to int64) iter.Seq2[AuditEntry, error] {
	return func(yield func(AuditEntry, error) bool) {
		for from <= to {
			rows, err := q.Query(ctx, `SELECT `+entryColumns+` FROM audit_entry WHERE sequence BETWEEN $1 AND $2 ORDER BY sequence LIMIT $3`,
				from, to, auditPage)
			if err != nil {
				yield(AuditEntry{}, fmt.Errorf("read audit entries: %w", err))
				return
			}
			entries, err := pgx.CollectRows(rows, scanEntry)
			if err != nil {
				yield(AuditEntry{}, fmt.Errorf("read audit entries: %w", err))
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
			if len(entries) < auditPage {
				return
			}
			from = entries[len(entries)-1].Sequence + 1
		}
	}
}

// AuditVerdict says whether the log is what was written.
type AuditVerdict struct {
	Head AuditHead
	// BrokenAt is the first sequence whose entry is missing or is not what was
	// written, or of which there should be none; 0 when the chain holds.
	BrokenAt int64
}

// VerifyAudit computes the chain anew, over the log as it is at one moment. Who can
// write both tables can write a chain that holds: only a head that was kept
// elsewhere tells of that.
func (s *Store) VerifyAudit(ctx context.Context) (AuditVerdict, error) {
	tx, err := s.db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return AuditVerdict{}, fmt.Errorf("verify the audit log: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // it changes nothing
	head, err := auditHead(ctx, tx, ``)
	if err != nil {
		return AuditVerdict{}, err
	}
	last := AuditHead{}
	for e, err := range auditRange(ctx, tx, 1, 1<<62) {
		if err != nil {
			return AuditVerdict{}, err
		}
		expected := last.Sequence + 1
		if e.Sequence != expected || expected > head.Sequence || e.PreviousHash != last.Hash || e.Hash != e.digest() {
			return AuditVerdict{Head: head, BrokenAt: expected}, nil
		}
		last = AuditHead{Sequence: e.Sequence, Hash: e.Hash}
	}
	switch {
	case last.Sequence < head.Sequence:
		return AuditVerdict{Head: head, BrokenAt: last.Sequence + 1}, nil
	case last.Hash != head.Hash: // the last one was changed together with its hash
		return AuditVerdict{Head: head, BrokenAt: last.Sequence}, nil
	}
	return AuditVerdict{Head: head}, nil
}
