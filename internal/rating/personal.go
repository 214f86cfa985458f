package rating

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/personal"
	"bookworm/internal/personal/export"
	"bookworm/internal/postgres"
)

const (
	// keepRejected is how long a review that was rejected is kept: its author may
	// object, or write it anew, within a year. Nobody else sees it.
	keepRejected = 365 * 24 * time.Hour
	// keepReports is how long a report is kept that an operator has settled: as long
	// as somebody may ask why a review stood.
	keepReports = 365 * 24 * time.Hour
)

const (
	exportPage   = 100 // records of one kind
	withdrawMany = 200 // votes and reports in one transaction
	eraseMany    = 50  // reviews looked up at once
	eraseAtOnce  = 8   // of them being deleted
	retainBatch  = 500 // reviews, or reports
)

// Personal is what people have written and said of others' words, as the law lets
// them ask.
type Personal struct {
	Reviews *Store
	// Delete has a review's process delete it, so that the catalogue and the book's
	// summary follow. Nothing that stays may say whose it was but the pseudonym.
	Delete func(ctx context.Context, r Review, pseudonym string) error
}

var _ personal.Holder = Personal{}

// parts are what an export has, in this order.
var parts = []export.Part{
	{Name: "reviews", Query: `
		select id, 0::bigint, json_build_object('id', id, 'book_id', book_id, 'stars', stars, 'title', title, 'text', text, 'status', status,
			'status_reason', status_reason, 'verified_purchase', verified_purchase, 'helpful_count', helpful_count,
			'created_at', ` + export.UTC("created_at") + `, 'updated_at', ` + export.UTC("updated_at") + `)
		from review where subject = $1 and (id, 0::bigint) > ($2, $3) order by id limit $4`},
	{Name: "helpful votes", Query: `
		select review_id, 0::bigint, json_build_object('review_id', review_id, 'created_at', ` + export.UTC("created_at") + `)
		from vote where subject = $1 and (review_id, 0::bigint) > ($2, $3) order by review_id limit $4`},
	{Name: "reports", Query: `
		select review_id, 0::bigint, json_build_object('review_id', review_id, 'ground', ground, 'comment', comment, 'settled', settled,
			'created_at', ` + export.UTC("created_at") + `)
		from report where subject = $1 and (review_id, 0::bigint) > ($2, $3) order by review_id limit $4`},
	{Name: "submissions that wait", Query: `
		select id, 0::bigint, json_build_object('review_id', review_id, 'submission', body, 'created_at', ` + export.UTC("created_at") + `)
		from request where body->>'subject' = $1 and (id, 0::bigint) > ($2, $3) order by id limit $4`},
}

// Export returns a page of a person's reviews, votes and reports. Errors:
// PAGE_TOKEN_INVALID.
func (p Personal) Export(ctx context.Context, subject, token string) ([]personal.Section, string, error) {
	return export.Page(ctx, p.Reviews.db, "rating.export", parts, subject, token, exportPage)
}

// Erase withdraws a person's submissions, votes and reports, and has their reviews
// deleted. Nothing is kept: the words are theirs. When it fails half-way it goes on
// from there the next time.
func (p Personal) Erase(ctx context.Context, subject, pseudonym string) (personal.Erasure, error) {
	var e personal.Erasure
	tag, err := p.Reviews.db.Exec(ctx, `delete from request where body->>'subject' = $1`, subject)
	if err != nil {
		return personal.Erasure{}, fmt.Errorf("withdraw submissions: %w", err)
	}
	e.Erased = tag.RowsAffected()
	for more := true; more; {
		var withdrawn int64
		if withdrawn, more, err = p.Reviews.withdraw(ctx, subject); err != nil {
			return personal.Erasure{}, fmt.Errorf("withdraw votes and reports: %w", err)
		}
		e.Erased += withdrawn
	}
	// What was submitted is a review by now, or gone with its request.
	for {
		rows, err := p.Reviews.db.Query(ctx, `select `+reviewColumns+` from review where subject = $1 order by id limit $2`, subject, eraseMany)
		if err != nil {
			return personal.Erasure{}, fmt.Errorf("list reviews to erase: %w", err)
		}
		reviews, err := pgx.CollectRows(rows, scanReview)
		if err != nil {
			return personal.Erasure{}, fmt.Errorf("list reviews to erase: %w", err)
		}
		if len(reviews) == 0 {
			return e, nil
		}
		group, groupCtx := errgroup.WithContext(ctx)
		group.SetLimit(eraseAtOnce)
		for _, r := range reviews {
			group.Go(func() error { return p.Delete(groupCtx, r, pseudonym) })
		}
		if err := group.Wait(); err != nil {
			return personal.Erasure{}, fmt.Errorf("erase review: %w", err)
		}
		e.Erased += int64(len(reviews))
	}
}

// withdraw takes back some votes and reports of a subject, and says how many and
// whether there may be more.
func (s *Store) withdraw(ctx context.Context, subject string) (withdrawn int64, more bool, err error) {
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		// Who votes or reports locks the review first.
		rows, err := tx.Query(ctx, `
			select id from review where id in (
				select review_id from vote where subject = $1 union select review_id from report where subject = $1 order by 1 limit $2)
			order by id for update`, subject, withdrawMany)
		if err != nil {
			return err
		}
		reviews, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return err
		}
		more = len(reviews) == withdrawMany
		return tx.QueryRow(ctx, `
			with votes as (
				delete from vote where subject = $1 and review_id = any ($2) returning review_id
			), reports as (
				delete from report where subject = $1 and review_id = any ($2) returning review_id
			), uncounted as (
				update review set helpful_count = helpful_count - 1 where id in (select review_id from votes)
			)
			select (select count(*) from votes) + (select count(*) from reports)`, subject, reviews).Scan(&withdrawn)
	})
	return withdrawn, more, err
}

// Retain deletes reviews that were rejected and reports that were settled long
// ago, and submissions that nobody waits for.
func (p Personal) Retain(ctx context.Context) (deleted map[string]int64, more bool, err error) {
	deleted = make(map[string]int64)
	for _, old := range []struct {
		what, statement string
		keep            time.Duration
	}{
		// It is in no rating, and its process has ended. Requests about it go by their own age.
		{"rejected reviews", `delete from review where id in (
			select id from review where status = 'REJECTED' and status_at < now() - $1::interval
			order by status_at limit $2 for update skip locked)`, keepRejected},
		{"settled reports", `delete from report where (review_id, subject) in (
			select review_id, subject from report where settled and created_at < now() - $1::interval
			order by created_at limit $2 for update skip locked)`, keepReports},
		{"submissions", `delete from request where id in (
			select id from request where created_at < now() - $1::interval order by created_at limit $2 for update skip locked)`, keepRequests},
	} {
		tag, err := p.Reviews.db.Exec(ctx, old.statement, old.keep, retainBatch)
		if err != nil {
			return nil, false, fmt.Errorf("delete old %s: %w", old.what, err)
		}
		deleted[old.what] = tag.RowsAffected()
		more = more || tag.RowsAffected() == retainBatch
	}
	return deleted, more, nil
}
