package compliance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/fault"
	"bookworm/internal/postgres"
)

// Kind is what a person asks for.
type Kind string

// The kinds of request.
const (
	Export  Kind = "EXPORT"
	Erasure Kind = "ERASURE"
)

// State is where a request stands.
type State string

// The states of a request. It is under way in the first two.
const (
	Running State = "RUNNING"
	Waiting State = "WAITING" // for something to end; the steps say for what
	Done    State = "DONE"
	Expired State = "EXPIRED" // what an export collected is deleted again
)

// Step is one context's share of a request.
type Step struct {
	Context string `json:"context"`
	Done    bool   `json:"done"`
	Records int64  `json:"records"`        // collected or erased
	Kept    int64  `json:"kept,omitempty"` // stay under a pseudonym
	Note    string `json:"note,omitempty"` // what it waits for, or why records stay
}

// Request is a person's request for their data.
type Request struct {
	ID          uuid.UUID
	Kind        Kind
	State       State
	Steps       []Step
	RequestedAt time.Time
	CompletedAt time.Time // zero while it is under way
	ExpiresAt   time.Time // zero unless it is an export that is done
	Proof       string    // see Prove; empty while it is under way
}

// Prove returns the SHA-256 of what was done for a request, in hexadecimal:
// of a line with its id, one with its kind, and one for each step with context,
// records, kept and note between tabs. Each line ends with a line feed.
func Prove(id uuid.UUID, kind Kind, steps []Step) string {
	lines := []string{id.String(), string(kind)}
	for _, s := range steps {
		lines = append(lines, fmt.Sprintf("%s\t%d\t%d\t%s", s.Context, s.Records, s.Kept, s.Note))
	}
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n") + "\n"))
	return hex.EncodeToString(sum[:])
}

const (
	// exportFresh is how long an export that is done answers another request.
	exportFresh = time.Hour
	// maxListed is how many requests a person is shown.
	maxListed = 100
)

// Begin writes a request down, and returns it as it stands: repeated, it finds the
// row of the first time. An export that is fresh stands for another one, and comes
// back in its place, done. For an erasure it makes the pseudonym.
//
// Errors: ERASURE_IN_PROGRESS for an export beside an erasure; UNAVAILABLE when
// another request of the kind is under way.
func (s *PrivacyStore) Begin(ctx context.Context, subject string, id uuid.UUID, kind Kind, steps []Step) (Request, error) {
	hash := s.subject(subject)
	var begun Request
	err := postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		// Requests of one person begin one after the other, so that an export does not
		// slip in beside an erasure.
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended(encode($1, 'hex'), 0))`, hash); err != nil {
			return err
		}
		known, err := queryRequests(ctx, tx, `subject_hash = $1 order by id desc`, hash)
		if err != nil {
			return err
		}
		if at := slices.IndexFunc(known, func(r Request) bool { return r.ID == id }); at >= 0 {
			begun = known[at]
			return nil
		}
		for _, r := range known {
			underWay := r.CompletedAt.IsZero()
			fresh := r.State == Done && time.Since(r.RequestedAt) < exportFresh && time.Now().Before(r.ExpiresAt)
			switch {
			case kind == Export && r.Kind == Export && fresh:
				begun = r
				return nil
			case underWay && r.Kind == kind:
				return fault.New(fault.ReasonUnavailable, "Another request is under way.")
			case underWay && r.Kind == Erasure:
				return erasureInProgress()
			}
		}
		var pseudonym *string
		if kind == Erasure {
			random := "erased-" + uuid.NewString()
			pseudonym = &random
		}
		begun = Request{ID: id, Kind: kind, State: Running, Steps: steps}
		return tx.QueryRow(ctx, `
			insert into data_request (id, subject_hash, kind, state, steps, pseudonym) values ($1, $2, $3, 'RUNNING', $4, $5)
			returning requested_at`, id, hash, kind, steps, pseudonym).Scan(&begun.RequestedAt)
	})
	if err != nil {
		return Request{}, fmt.Errorf("begin a request for data: %w", err)
	}
	return begun, nil
}

// Pseudonym returns what stands in the subject's place, for an erasure that is
// under way.
func (s *PrivacyStore) Pseudonym(ctx context.Context, id uuid.UUID) (pseudonym string, err error) {
	err = s.db.QueryRow(ctx, `select pseudonym from data_request where id = $1 and pseudonym is not null`, id).Scan(&pseudonym)
	if err != nil {
		return "", fmt.Errorf("read the pseudonym: %w", err)
	}
	return pseudonym, nil
}

// Progress writes down where a request that is under way stands. It has no effect
// on one that is completed.
func (s *PrivacyStore) Progress(ctx context.Context, id uuid.UUID, state State, steps []Step) error {
	_, err := s.db.Exec(ctx, `update data_request set state = $2, steps = $3 where id = $1 and completed_at is null`, id, state, steps)
	if err != nil {
		return fmt.Errorf("write progress down: %w", err)
	}
	return nil
}

// CompleteExport makes an export ready to be fetched for a week, and returns
// until when. Repeated, it changes nothing.
func (s *PrivacyStore) CompleteExport(ctx context.Context, id uuid.UUID, steps []Step) (expiresAt time.Time, err error) {
	_, err = s.db.Exec(ctx, `
		update data_request set state = 'DONE', steps = $2, proof = $3, completed_at = now(), expires_at = now() + $4::interval
		where id = $1 and completed_at is null`, id, steps, Prove(id, Export, steps), keepExport)
	if err == nil {
		err = s.db.QueryRow(ctx, `select expires_at from data_request where id = $1`, id).Scan(&expiresAt)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("complete the export: %w", err)
	}
	return expiresAt.UTC(), nil
}

// CompleteErasure destroys every key of the shopper and completes the request, in
// one transaction: from then on a key may be made anew, for somebody who comes
// back. Repeated, it changes nothing.
func (s *PrivacyStore) CompleteErasure(ctx context.Context, subject string, id uuid.UUID, steps []Step) error {
	err := postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			update data_request set state = 'DONE', steps = $2, proof = $3, pseudonym = null, completed_at = now()
			where id = $1 and completed_at is null`, id, steps, Prove(id, Erasure, steps))
		if err != nil || tag.RowsAffected() == 0 { // completed before: a key that is there now is a new one
			return err
		}
		_, err = tx.Exec(ctx, `update shopper_key set wrapped = null, destroyed_at = now() where subject_hash = $1 and wrapped is not null`, s.subject(subject))
		return err
	})
	if err != nil {
		return fmt.Errorf("complete the erasure: %w", err)
	}
	return nil
}

// Request returns one of a person's requests. Errors: DATA_REQUEST_NOT_FOUND, also
// for somebody else's.
func (s *PrivacyStore) Request(ctx context.Context, subject string, id uuid.UUID) (Request, error) {
	found, err := queryRequests(ctx, s.db, `subject_hash = $1 and id = $2`, s.subject(subject), id)
	if err != nil {
		return Request{}, fmt.Errorf("read a request for data: %w", err)
	}
	if len(found) == 0 {
		return Request{}, fault.New(fault.ReasonDataRequestNotFound, "There is no request %s.", id)
	}
	return found[0], nil
}

// Requests returns a person's latest requests, newest first.
func (s *PrivacyStore) Requests(ctx context.Context, subject string) ([]Request, error) {
	found, err := queryRequests(ctx, s.db, `subject_hash = $1 order by id desc limit $2`, s.subject(subject), maxListed)
	if err != nil {
		return nil, fmt.Errorf("read requests for data: %w", err)
	}
	return found, nil
}

// UnderWay returns the person's request of a kind that is under way. Errors:
// DATA_REQUEST_NOT_FOUND when there is none.
func (s *PrivacyStore) UnderWay(ctx context.Context, subject string, kind Kind) (Request, error) {
	found, err := queryRequests(ctx, s.db, `subject_hash = $1 and kind = $2 and completed_at is null`, s.subject(subject), kind)
	if err != nil {
		return Request{}, fmt.Errorf("read requests for data: %w", err)
	}
	if len(found) == 0 {
		return Request{}, fault.New(fault.ReasonDataRequestNotFound, "No such request is under way.")
	}
	return found[0], nil
}

func queryRequests(ctx context.Context, db querier, where string, args ...any) ([]Request, error) {
	rows, err := db.Query(ctx, `
		select id, kind, state, steps, requested_at, completed_at, expires_at, proof from data_request where `+where, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Request, error) {
		var r Request
		var completed, expires *time.Time
		err := row.Scan(&r.ID, &r.Kind, &r.State, &r.Steps, &r.RequestedAt, &completed, &expires, &r.Proof)
		if err == nil && completed != nil {
			r.CompletedAt = completed.UTC()
		}
		if err == nil && expires != nil {
			r.ExpiresAt = expires.UTC()
		}
		r.RequestedAt = r.RequestedAt.UTC()
		return r, err
	})
}
