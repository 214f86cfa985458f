package compliance_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/compliance"
	"bookworm/internal/fault"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
)

// auditLog is a log in a database of its own.
type auditLog struct {
	*compliance.Store
	db  *pgxpool.Pool // as the context's role
	url string        // of a superuser
}

func migrateCompliance(ctx context.Context, url string) error {
	return postgres.Migrate(ctx, url, compliance.Schema)
}

func openLog(t testing.TB, options ...postgres.Option) auditLog {
	t.Helper()
	url := pgtest.DB(t, migrateCompliance)
	db, err := postgres.Open(t.Context(), url, compliance.Schema.Name, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return auditLog{compliance.NewStore(db), db, url}
}

// action returns an entry as a service sends it.
func action(i int) compliance.AuditEntry {
	return compliance.AuditEntry{
		ID: uuid.Must(uuid.NewV7()), Actor: fmt.Sprintf("ops-%d", i%2), Roles: []string{"admin", "customer"},
		Procedure: []string{"/a.A/Archive", "/a.A/Cancel", "/a.A/Decide"}[i%3], Target: map[string]string{"order_id": uuid.NewString(), "id": fmt.Sprint(i)},
		RequestHash: compliance.Hash{1, byte(i)}, Outcome: compliance.OutcomeAttempted, ActionID: uuid.Must(uuid.NewV7()), TraceID: "abc",
	}
}

// write appends n entries.
func (l auditLog) write(t testing.TB, n int) []compliance.AuditEntry {
	t.Helper()
	written := make([]compliance.AuditEntry, n)
	for i := range n {
		written[i] = action(i)
		if _, err := l.AppendAudit(t.Context(), written[i]); err != nil {
			t.Fatal(err)
		}
	}
	return written
}

func (l auditLog) verdict(t testing.TB) compliance.AuditVerdict {
	t.Helper()
	verdict, err := l.VerifyAudit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return verdict
}

// tamper runs SQL as a superuser whom no trigger stops.
func (l auditLog) tamper(t *testing.T, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), l.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), `SET session_replication_role = replica; SET search_path = compliance`); err != nil {
		t.Fatal(err)
	}
	tag, err := conn.Exec(t.Context(), sql, args...)
	if err != nil || tag.RowsAffected() == 0 {
		t.Fatalf("%s: %s, %v", sql, tag, err)
	}
}

func TestAuditLogIsAChain(t *testing.T) {
	t.Parallel()
	l := openLog(t)
	if verdict := l.verdict(t); verdict != (compliance.AuditVerdict{}) {
		t.Errorf("the empty log: %+v", verdict)
	}
	before := time.Now().Add(-time.Second)
	written := l.write(t, 5)
	previous := compliance.Hash{}
	n := 0
	for e, err := range l.Audit(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		want := written[n]
		n++
		if e.Sequence != int64(n) || e.PreviousHash != previous || e.Hash == previous || e.ID != want.ID || e.Actor != want.Actor ||
			!slices.Equal(e.Roles, want.Roles) || e.Procedure != want.Procedure || !maps.Equal(e.Target, want.Target) ||
			e.RequestHash != want.RequestHash || e.Outcome != want.Outcome || e.ActionID != want.ActionID || e.TraceID != want.TraceID ||
			e.RecordedAt.Before(before) || e.RecordedAt.After(time.Now()) {
			t.Errorf("entry %d is %+v, not %+v", n, e, want)
		}
		previous = e.Hash
	}
	if verdict := l.verdict(t); n != 5 || verdict != (compliance.AuditVerdict{Head: compliance.AuditHead{Sequence: 5, Hash: previous}}) {
		t.Errorf("%d entries, %+v", n, verdict)
	}
}

func TestAuditEntryIsAddedOnce(t *testing.T) {
	t.Parallel()
	l := openLog(t)
	l.write(t, 2)
	e := action(7)
	for range 2 {
		if sequence, err := l.AppendAudit(t.Context(), e); err != nil || sequence != 3 {
			t.Errorf("at %d, %v", sequence, err)
		}
	}
	other := e
	other.Actor = "somebody else"
	if _, err := l.AppendAudit(t.Context(), other); !fault.Is(err, fault.ReasonKeyReused) {
		t.Errorf("another entry with the id: %v", err)
	}
	if head, err := l.AuditHead(t.Context()); err != nil || head.Sequence != 3 {
		t.Errorf("%+v, %v", head, err)
	}
}

func TestAuditWritersDoNotForkTheChain(t *testing.T) {
	t.Parallel()
	l := openLog(t)
	const writers, each = 8, 25
	same := action(1)
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for i := range each {
				if _, err := l.AppendAudit(t.Context(), action(i)); err != nil {
					t.Error(err)
				}
			}
			if _, err := l.AppendAudit(t.Context(), same); err != nil { // a retry that meets itself
				t.Error(err)
			}
		})
	}
	group.Wait()
	if verdict := l.verdict(t); verdict.BrokenAt != 0 || verdict.Head.Sequence != writers*each+1 {
		t.Errorf("%+v", verdict)
	}
}

func TestAuditLogIsAppendOnly(t *testing.T) {
	t.Parallel()
	l := openLog(t)
	l.write(t, 1)
	super, err := pgx.Connect(t.Context(), l.url)
	if err != nil {
		t.Fatal(err)
	}
	defer super.Close(context.WithoutCancel(t.Context()))
	for _, sql := range []string{
		`UPDATE compliance.audit_entry SET actor = 'nobody'`, `DELETE FROM compliance.audit_entry`, `TRUNCATE compliance.audit_entry`,
		`DELETE FROM compliance.audit_head`, `TRUNCATE compliance.audit_head`,
	} {
		if _, err := l.db.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%s as the context: %v", sql, err)
		}
		if _, err := super.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "only ever added to") {
			t.Errorf("%s as a superuser: %v", sql, err)
		}
	}
	if verdict := l.verdict(t); verdict.BrokenAt != 0 || verdict.Head.Sequence != 1 {
		t.Errorf("%+v", verdict)
	}
}

func TestTamperedAuditLogShowsWhere(t *testing.T) {
	t.Parallel()
	const copied = `INSERT INTO audit_entry SELECT %s, gen_random_uuid(), recorded_at, actor, roles, procedure, target, request_hash, outcome, reason,
		action_id, trace_id, %s, hash FROM audit_entry WHERE sequence = 5`
	for name, c := range map[string]struct {
		sql    []string
		broken int64
	}{
		"actor":         {[]string{`UPDATE audit_entry SET actor = 'mallory' WHERE sequence = 4`}, 4},
		"roles":         {[]string{`UPDATE audit_entry SET roles = '{"admin,customer"}' WHERE sequence = 4`}, 4},
		"time":          {[]string{`UPDATE audit_entry SET recorded_at = recorded_at + interval '1 microsecond' WHERE sequence = 4`}, 4},
		"procedure":     {[]string{`UPDATE audit_entry SET procedure = '/a.A/Read' WHERE sequence = 4`}, 4},
		"target":        {[]string{`UPDATE audit_entry SET target = target - 'id' WHERE sequence = 4`}, 4},
		"request":       {[]string{`UPDATE audit_entry SET request_hash = sha256('x') WHERE sequence = 4`}, 4},
		"outcome":       {[]string{`UPDATE audit_entry SET outcome = 'FAILED' WHERE sequence = 4`}, 4},
		"reason":        {[]string{`UPDATE audit_entry SET reason = 'BOOK_NOT_FOUND' WHERE sequence = 4`}, 4},
		"action":        {[]string{`UPDATE audit_entry SET action_id = gen_random_uuid() WHERE sequence = 4`}, 4},
		"trace":         {[]string{`UPDATE audit_entry SET trace_id = '' WHERE sequence = 4`}, 4},
		"id":            {[]string{`UPDATE audit_entry SET id = gen_random_uuid() WHERE sequence = 4`}, 4},
		"hash":          {[]string{`UPDATE audit_entry SET hash = sha256('x') WHERE sequence = 4`}, 4},
		"previous hash": {[]string{`UPDATE audit_entry SET previous_hash = sha256('x') WHERE sequence = 4`}, 4},
		"last entry":    {[]string{`UPDATE audit_entry SET actor = 'mallory' WHERE sequence = 9`}, 9},
		"deleted":       {[]string{`DELETE FROM audit_entry WHERE sequence = 4`}, 4},
		"first deleted": {[]string{`DELETE FROM audit_entry WHERE sequence = 1`}, 1},
		"deleted and closed up": {[]string{
			`DELETE FROM audit_entry WHERE sequence = 4`,
			`UPDATE audit_entry SET sequence = sequence - 100 + 99 WHERE sequence = 5`,
		}, 4},
		"inserted": {[]string{
			`UPDATE audit_entry SET sequence = sequence + 100 WHERE sequence > 4`,
			`UPDATE audit_entry SET sequence = sequence - 99 WHERE sequence > 100`,
			strings.ReplaceAll(fmt.Sprintf(copied, "5", "sha256('x')"), "sequence = 5", "sequence = 6"),
		}, 5},
		"appended": {[]string{fmt.Sprintf(copied, "10", "(SELECT hash FROM audit_head)")}, 10},
		"reordered": {[]string{
			`UPDATE audit_entry SET sequence = 100 WHERE sequence = 4`, `UPDATE audit_entry SET sequence = 4 WHERE sequence = 5`,
			`UPDATE audit_entry SET sequence = 5 WHERE sequence = 100`,
		}, 4},
		"tail cut off":  {[]string{`DELETE FROM audit_entry WHERE sequence > 7`}, 8},
		"all deleted":   {[]string{`DELETE FROM audit_entry`}, 1},
		"head rewound":  {[]string{`UPDATE audit_head SET sequence = 7, hash = (SELECT hash FROM audit_entry WHERE sequence = 7)`}, 8},
		"head replaced": {[]string{`UPDATE audit_head SET hash = sha256('x')`}, 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLog(t)
			l.write(t, 9)
			if verdict := l.verdict(t); verdict.BrokenAt != 0 {
				t.Fatalf("before: %+v", verdict)
			}
			for _, sql := range c.sql {
				l.tamper(t, sql)
			}
			if verdict := l.verdict(t); verdict.BrokenAt != c.broken {
				t.Errorf("broken at %d, want %d", verdict.BrokenAt, c.broken)
			}
		})
	}
}

// TestEntryThatWasHashedAnewShowsAtTheNext changes an entry as somebody does who
// knows how the hash is made.
func TestEntryThatWasHashedAnewShowsAtTheNext(t *testing.T) {
	t.Parallel()
	l := openLog(t)
	l.write(t, 9)
	for e, err := range l.Audit(t.Context(), 4) {
		if err != nil {
			t.Fatal(err)
		}
		e.Actor = "mallory"
		hash := e.Digest()
		l.tamper(t, `UPDATE audit_entry SET actor = $1, hash = $2 WHERE sequence = 4`, e.Actor, hash[:])
		break
	}
	if verdict := l.verdict(t); verdict.BrokenAt != 5 {
		t.Errorf("%+v", verdict)
	}
}

// TestTheEncodingNeverChanges has the hash of an entry as docs/verify_audit.py
// computes it.
func TestTheEncodingNeverChanges(t *testing.T) {
	t.Parallel()
	e := compliance.AuditEntry{
		Sequence: 2, ID: uuid.MustParse("0190f5a1-0000-7000-8000-000000000001"), RecordedAt: time.Date(2026, 11, 24, 19, 0, 0, 120_000_000, time.UTC),
		Actor: "zoë", Roles: []string{"admin", "customer"}, Procedure: "/a.A/B", Target: map[string]string{"order_id": "x", "book.id": "y"},
		RequestHash: compliance.Hash{1}, Outcome: compliance.OutcomeFailed, Reason: "BOOK_NOT_FOUND",
		ActionID: uuid.MustParse("0190f5a1-0000-7000-8000-000000000002"), TraceID: "abc", PreviousHash: compliance.Hash{2},
	}
	if got := e.Digest().String(); got != "42cab2aa68ea18a701eaae991baf12d6e61c1c79fef71d95edcf5e3900c35dfd" {
		t.Errorf("the hash is %s", got)
	}
}

// TestTruncatedAuditLogShowsOnlyAgainstAKeptHead is the limit that docs/audit.md
// states: who cuts off the tail and moves the head leaves a chain that holds.
func TestTruncatedAuditLogShowsOnlyAgainstAKeptHead(t *testing.T) {
	t.Parallel()
	l := openLog(t)
	l.write(t, 9)
	kept := l.verdict(t).Head
	l.tamper(t, `UPDATE audit_head SET sequence = 7, hash = (SELECT hash FROM audit_entry WHERE sequence = 7)`)
	l.tamper(t, `DELETE FROM audit_entry WHERE sequence > 7`)
	verdict := l.verdict(t)
	if verdict.BrokenAt != 0 || verdict.Head.Sequence >= kept.Sequence {
		t.Errorf("%+v", verdict)
	}
}

func TestListAudit(t *testing.T) {
	t.Parallel()
	l := openLog(t)
	l.write(t, 25)
	read := func(f compliance.AuditFilter) (got []int64) {
		for token := ""; ; {
			entries, next, err := l.ListAudit(t.Context(), f, 4, token)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if (f.Actor != "" && e.Actor != f.Actor) || (f.Procedure != "" && e.Procedure != f.Procedure) {
					t.Errorf("%+v has %s by %s", f, e.Procedure, e.Actor)
				}
				got = append(got, e.Sequence)
			}
			if token = next; token == "" {
				return got
			}
			if len(entries) != 4 {
				t.Fatalf("%d on a page", len(entries))
			}
		}
	}
	for f, want := range map[compliance.AuditFilter]int{
		{}: 25, {Actor: "ops-0"}: 13, {Procedure: "/a.A/Cancel"}: 8, {Actor: "ops-1", Procedure: "/a.A/Archive"}: 4, {Actor: "nobody"}: 0,
	} {
		got := read(f)
		if len(got) != want || !slices.IsSortedFunc(got, func(a, b int64) int { return int(b - a) }) {
			t.Errorf("%+v: %v, want %d newest first", f, got, want)
		}
	}
	_, token, err := l.ListAudit(t.Context(), compliance.AuditFilter{}, 4, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.ListAudit(t.Context(), compliance.AuditFilter{Actor: "ops-0"}, 4, token); !fault.Is(err, fault.ReasonPageTokenInvalid) {
		t.Errorf("another list's token: %v", err)
	}
}

// TestAuditIsReadInPages reads and verifies more than one page of entries.
func TestAuditIsReadInPages(t *testing.T) {
	t.Parallel()
	l := openLog(t)
	l.write(t, 2001)
	next := int64(990)
	for e, err := range l.Audit(t.Context(), next) {
		if err != nil || e.Sequence != next {
			t.Fatalf("got %d, %v, not %d", e.Sequence, err, next)
		}
		next++
	}
	if verdict := l.verdict(t); next != 2002 || verdict.BrokenAt != 0 || verdict.Head.Sequence != 2001 {
		t.Errorf("read up to %d, %+v", next, verdict)
	}
	l.tamper(t, `UPDATE audit_entry SET reason = 'x' WHERE sequence = 2001`)
	if verdict := l.verdict(t); verdict.BrokenAt != 2001 {
		t.Errorf("%+v", verdict)
	}
}

func BenchmarkAppendAudit(b *testing.B) {
	for _, writers := range []int{1, 8} {
		b.Run(fmt.Sprintf("%d writers", writers), func(b *testing.B) {
			l := openLog(b)
			work := make(chan compliance.AuditEntry)
			var group sync.WaitGroup
			for range writers {
				group.Go(func() {
					for e := range work {
						if _, err := l.AppendAudit(b.Context(), e); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for i := 0; b.Loop(); i++ {
				work <- action(i)
			}
			close(work)
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

func BenchmarkVerifyAudit(b *testing.B) {
	l := openLog(b)
	l.write(b, 5000)
	for b.Loop() {
		if verdict := l.verdict(b); verdict.BrokenAt != 0 {
			b.Fatalf("%+v", verdict)
		}
	}
	b.ReportMetric(float64(b.N)*5000/b.Elapsed().Seconds(), "entries/s")
}
