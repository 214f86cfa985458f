package compliance

import (
	"context"
	"fmt"
	"time"

	"bookworm/internal/personal"
)

const (
	// keepExport is how long what an export collected is kept: whoever asked for it
	// has a week to fetch it, and may ask for another.
	keepExport = 7 * 24 * time.Hour
	// keepRequests is how long a request and the ids of the keys it destroyed are
	// kept: as long as somebody may doubt that it was answered.
	keepRequests = 3 * 365 * 24 * time.Hour
)

// retainBatch is how many rows of a kind go at once.
const retainBatch = 500

var _ personal.Holder = (*PrivacyStore)(nil)

// Export returns the person's requests.
func (s *PrivacyStore) Export(ctx context.Context, subject, _ string) ([]personal.Section, string, error) {
	requests, err := s.Requests(ctx, subject)
	if err != nil || len(requests) == 0 {
		return nil, "", err
	}
	section := personal.Section{Name: "data_requests"}
	for _, r := range requests {
		record := map[string]any{
			"id": r.ID.String(), "kind": string(r.Kind), "state": string(r.State), "requested_at": r.RequestedAt.Format(time.RFC3339),
		}
		if !r.CompletedAt.IsZero() {
			record["completed_at"], record["proof"] = r.CompletedAt.Format(time.RFC3339), r.Proof
		}
		section.Records = append(section.Records, record)
	}
	return []personal.Section{section}, "", nil
}

// Erase deletes what exports have collected. It waits for one that is under way.
// Requests stay: they name nobody, and are what proves the erasure.
func (s *PrivacyStore) Erase(ctx context.Context, subject, _ string) (personal.Erasure, error) {
	requests, err := s.Requests(ctx, subject)
	if err != nil {
		return personal.Erasure{}, err
	}
	erasure := personal.Erasure{Note: "Requests for data stay as the proof that they were answered; they name nobody."}
	for _, r := range requests {
		if r.Kind == Export && r.CompletedAt.IsZero() {
			return personal.Erasure{WaitingFor: []string{"export " + r.ID.String()}}, nil
		}
	}
	erasure.Kept = int64(len(requests))
	tag, err := s.db.Exec(ctx, `
		with over as (update data_request set state = 'EXPIRED' where subject_hash = $1 and kind = 'EXPORT' and state = 'DONE')
		delete from export_page using data_request r where request_id = r.id and r.subject_hash = $1`, s.subject(subject))
	if err != nil {
		return personal.Erasure{}, fmt.Errorf("erase exports: %w", err)
	}
	erasure.Erased = tag.RowsAffected()
	return erasure, nil
}

// Retain ends exports that have expired, and deletes requests, with the traces of
// the keys they destroyed, whose time is over.
func (s *PrivacyStore) Retain(ctx context.Context) (deleted map[string]int64, more bool, err error) {
	deleted = make(map[string]int64)
	for _, what := range []struct {
		kind, sql string
		args      []any
	}{
		// The pages first: a crash in between leaves an export that has nothing in it,
		// and is found again.
		{"pages of exports", `
			delete from export_page where (request_id, context, page) in (
				select request_id, context, page from export_page p join data_request r on r.id = p.request_id
				where r.expires_at < now() limit $1)`, nil},
		{"exports", `
			update data_request set state = 'EXPIRED' where id in (
				select id from data_request r where state = 'DONE' and expires_at < now()
					and not exists (select from export_page where request_id = r.id) limit $1)`, nil},
		{"requests", `
			delete from data_request where id in (
				select id from data_request where completed_at < now() - $2::interval limit $1)`, []any{keepRequests}},
		{"destroyed keys", `
			delete from shopper_key where id in (
				select id from shopper_key where destroyed_at < now() - $2::interval limit $1)`, []any{keepRequests}},
	} {
		tag, err := s.db.Exec(ctx, what.sql, append([]any{retainBatch}, what.args...)...)
		if err != nil {
			return nil, false, fmt.Errorf("delete %s: %w", what.kind, err)
		}
		deleted[what.kind] = tag.RowsAffected()
		more = more || tag.RowsAffected() == retainBatch
	}
	return deleted, more, nil
}
