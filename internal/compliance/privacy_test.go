package compliance_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/compliance"
	"bookworm/internal/fault"
	"bookworm/internal/personal"
	"bookworm/internal/personal/personaltest"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
)

const subject = "1f0c2c9a-alice"

// office is the context over a database of its own.
type office struct {
	*compliance.PrivacyStore

	pool *pgxpool.Pool
}

func open(t *testing.T) office {
	t.Helper()
	pool, err := postgres.Open(t.Context(), pgtest.DB(t, func(ctx context.Context, adminURL string) error {
		return postgres.Migrate(ctx, adminURL, compliance.Schema)
	}), compliance.Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store, err := compliance.NewPrivacyStore(pool, personal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	return office{store, pool}
}

func newID(t *testing.T) uuid.UUID {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (o office) begin(t *testing.T, who string, kind compliance.Kind) compliance.Request {
	t.Helper()
	r, err := o.Begin(t.Context(), who, newID(t), kind, []compliance.Step{{Context: "chat"}, {Context: "ordering"}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (o office) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := o.pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func TestKeyIsMadeOnceHoweverManyAsk(t *testing.T) {
	t.Parallel()
	o := open(t)
	if _, err := o.CurrentKey(t.Context(), subject, false); !fault.Is(err, fault.ReasonShopperKeyNotFound) {
		t.Fatalf("without create: %v", err)
	}
	var mu sync.Mutex
	seen := make(map[compliance.ShopperKey]int)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			key, err := o.CurrentKey(t.Context(), subject, true)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			seen[key]++
		})
	}
	group.Wait()
	if len(seen) != 1 {
		t.Fatalf("%d keys", len(seen))
	}
	for key := range seen {
		if len(key.Key) != personal.KeySize {
			t.Errorf("a key of %d bytes", len(key.Key))
		}
		if again, err := o.KeyByID(t.Context(), subject, key.ID); err != nil || again != key {
			t.Errorf("by id: %v, %v", again, err)
		}
		// A1: it is nobody else's.
		if _, err := o.KeyByID(t.Context(), "bob", key.ID); !fault.Is(err, fault.ReasonShopperKeyNotFound) {
			t.Errorf("for bob: %v", err)
		}
		var wrapped []byte
		if err := o.pool.QueryRow(t.Context(), `select wrapped from shopper_key`).Scan(&wrapped); err != nil || bytes.Contains(wrapped, []byte(key.Key)) {
			t.Errorf("the row has the key as it is, %v", err)
		}
	}
	if places := personaltest.Find(t, o.pool, compliance.Schema.Name, subject); len(places) > 0 {
		t.Errorf("the subject stands in %v", places)
	}
}

func TestKeyNeedsTheDeploymentsKeyAndItsRow(t *testing.T) {
	t.Parallel()
	o := open(t)
	key, err := o.CurrentKey(t.Context(), subject, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := compliance.NewPrivacyStore(o.pool, "short"); err == nil {
		t.Error("took a short key")
	}
	other, err := compliance.NewPrivacyStore(o.pool, personal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.KeyByID(t.Context(), subject, key.ID); err == nil {
		t.Error("another deployment's key finds it")
	}
	// Somebody with the database moves alice's wrapped key to bob's row.
	bob, err := o.CurrentKey(t.Context(), "bob", true)
	if err != nil {
		t.Fatal(err)
	}
	o.exec(t, `update shopper_key set wrapped = (select wrapped from shopper_key where id = $1) where id = $2`, key.ID, bob.ID)
	if _, err := o.KeyByID(t.Context(), "bob", bob.ID); !errors.Is(err, personal.ErrSealed) {
		t.Errorf("a key that was moved: %v", err)
	}
}

func TestErasureBarsTheKeyAndDestroysIt(t *testing.T) {
	t.Parallel()
	o := open(t)
	key, err := o.CurrentKey(t.Context(), subject, true)
	if err != nil {
		t.Fatal(err)
	}
	bob, err := o.CurrentKey(t.Context(), "bob", true)
	if err != nil {
		t.Fatal(err)
	}
	erasure := o.begin(t, subject, compliance.Erasure)
	pseudonym, err := o.Pseudonym(t.Context(), erasure.ID)
	if err != nil || !strings.HasPrefix(pseudonym, "erased-") {
		t.Fatalf("pseudonym %q, %v", pseudonym, err)
	}
	if _, err := o.CurrentKey(t.Context(), subject, true); !fault.Is(err, fault.ReasonErasureInProgress) {
		t.Errorf("for sealing beside the erasure: %v", err)
	}
	if _, err := o.KeyByID(t.Context(), subject, key.ID); err != nil {
		t.Errorf("for opening beside the erasure: %v", err)
	}
	if again, err := o.CurrentKey(t.Context(), "bob", true); err != nil || again != bob {
		t.Errorf("bob's: %v, %v", again, err)
	}
	// The process itself still seals.
	sealed, err := o.Sealer().Seal(t.Context(), subject, "x", 1)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := o.CountKeys(t.Context(), subject); err != nil || n != 1 {
		t.Errorf("%d keys, %v", n, err)
	}
	steps := []compliance.Step{{Context: "chat", Done: true, Records: 3}, {Context: "keys", Done: true, Records: 1}}
	if err := o.CompleteErasure(t.Context(), subject, erasure.ID, steps); err != nil {
		t.Fatal(err)
	}
	if _, err := o.KeyByID(t.Context(), subject, key.ID); !fault.Is(err, fault.ReasonShopperKeyNotFound) {
		t.Errorf("for opening after it: %v", err)
	}
	var n int
	if err := o.Sealer().Open(t.Context(), subject, "x", sealed, &n); !errors.Is(err, personal.ErrErased) {
		t.Errorf("what was sealed: %v", err)
	}
	// Who comes back has another key, which a repeated completion leaves alone.
	next, err := o.CurrentKey(t.Context(), subject, true)
	if err != nil || next.ID == key.ID || next.Key == key.Key {
		t.Fatalf("the next key: %v, %v", next.ID, err)
	}
	if err := o.CompleteErasure(t.Context(), subject, erasure.ID, steps); err != nil {
		t.Fatal(err)
	}
	if _, err := o.KeyByID(t.Context(), subject, next.ID); err != nil {
		t.Errorf("the next key after a repeated completion: %v", err)
	}
	if _, err := o.KeyByID(t.Context(), "bob", bob.ID); err != nil {
		t.Errorf("bob's key: %v", err)
	}
	done, err := o.Request(t.Context(), subject, erasure.ID)
	if err != nil || done.State != compliance.Done || done.Proof != compliance.Prove(erasure.ID, compliance.Erasure, steps) || done.CompletedAt.IsZero() {
		t.Errorf("the request is %+v, %v", done, err)
	}
	if places := personaltest.Find(t, o.pool, compliance.Schema.Name, subject, pseudonym); len(places) > 0 {
		t.Errorf("something leads from subject to pseudonym: %v", places)
	}
}

func TestRequestBeginsOnce(t *testing.T) {
	t.Parallel()
	o := open(t)
	first := o.begin(t, subject, compliance.Export)
	again, err := o.Begin(t.Context(), subject, first.ID, compliance.Export, nil)
	if err != nil || again.ID != first.ID || len(again.Steps) != 2 || again.State != compliance.Running {
		t.Errorf("repeated: %+v, %v", again, err)
	}
	if _, err := o.Begin(t.Context(), subject, newID(t), compliance.Export, nil); !fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("another one beside it: %v", err)
	}
	if underWay, err := o.UnderWay(t.Context(), subject, compliance.Export); err != nil || underWay.ID != first.ID {
		t.Errorf("under way: %v, %v", underWay, err)
	}
	if _, err := o.CompleteExport(t.Context(), first.ID, first.Steps); err != nil {
		t.Fatal(err)
	}
	if fresh, err := o.Begin(t.Context(), subject, newID(t), compliance.Export, nil); err != nil || fresh.ID != first.ID || fresh.State != compliance.Done {
		t.Errorf("a fresh one stands for the next: %+v, %v", fresh, err)
	}
	o.exec(t, `update data_request set requested_at = requested_at - interval '61 minutes'`)
	second := o.begin(t, subject, compliance.Export)
	if second.ID == first.ID {
		t.Error("an old one stands for the next")
	}
	if erasure := o.begin(t, subject, compliance.Erasure); erasure.ID == second.ID {
		t.Error("an export stands for an erasure")
	}
	if _, err := o.Begin(t.Context(), subject, second.ID, compliance.Export, nil); err != nil {
		t.Errorf("one that began before the erasure: %v", err)
	}
	if _, err := o.CompleteExport(t.Context(), second.ID, second.Steps); err != nil {
		t.Fatal(err)
	}
	o.exec(t, `update data_request set requested_at = requested_at - interval '61 minutes'`)
	if _, err := o.Begin(t.Context(), subject, newID(t), compliance.Export, nil); !fault.Is(err, fault.ReasonErasureInProgress) {
		t.Errorf("an export beside an erasure: %v", err)
	}
	all, err := o.Requests(t.Context(), subject)
	if err != nil || len(all) != 3 || all[2].ID != first.ID {
		t.Errorf("all: %v, %v", all, err)
	}
}

func TestA1_RequestsAreNobodyElses(t *testing.T) {
	t.Parallel()
	o := open(t)
	r := o.begin(t, subject, compliance.Export)
	if _, err := o.PutPage(t.Context(), subject, r.ID, "chat", 0, []compliance.Section{{Context: "chat", Name: "x"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.CompleteExport(t.Context(), r.ID, r.Steps); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Request(t.Context(), "bob", r.ID); !fault.Is(err, fault.ReasonDataRequestNotFound) {
		t.Errorf("bob reads it: %v", err)
	}
	if _, _, err := o.Collected(t.Context(), "bob", r.ID); !fault.Is(err, fault.ReasonDataRequestNotFound) {
		t.Errorf("bob fetches it: %v", err)
	}
	if all, err := o.Requests(t.Context(), "bob"); err != nil || len(all) > 0 {
		t.Errorf("bob lists %v, %v", all, err)
	}
	if _, err := o.UnderWay(t.Context(), "bob", compliance.Export); !fault.Is(err, fault.ReasonDataRequestNotFound) {
		t.Errorf("bob's under way: %v", err)
	}
}

func section(name string, values ...string) compliance.Section {
	s := compliance.Section{Context: "chat", Name: name}
	for _, v := range values {
		s.Records = append(s.Records, map[string]any{"v": v})
	}
	return s
}

func TestExportIsCollectedSealedAndFetched(t *testing.T) {
	t.Parallel()
	o := open(t)
	r := o.begin(t, subject, compliance.Export)
	put := func(page int, want bool, sections ...compliance.Section) {
		t.Helper()
		if fits, err := o.PutPage(t.Context(), subject, r.ID, "chat", page, sections); err != nil || fits != want {
			t.Fatalf("page %d: %t, %v", page, fits, err)
		}
	}
	put(0, true, section("of an attempt before", "x"))
	if err := o.ClearPages(t.Context(), r.ID, "chat"); err != nil {
		t.Fatal(err)
	}
	put(0, true, section("turns", "unmistakable", "b"))
	put(1, true, section("turns", "c"), section("titles", "d"))
	put(2, false, section("turns", strings.Repeat("x", compliance.MaxExport)))
	if _, _, err := o.Collected(t.Context(), subject, r.ID); !fault.Is(err, fault.ReasonExportNotReady) {
		t.Errorf("while it is collected: %v", err)
	}
	const week = 7 * 24 * time.Hour
	expires, err := o.CompleteExport(t.Context(), r.ID, r.Steps)
	if err != nil || time.Until(expires) < week-time.Minute || time.Until(expires) > week {
		t.Errorf("expires at %v, %v", expires, err)
	}
	put(3, false, section("too late", "x"))
	_, sections, err := o.Collected(t.Context(), subject, r.ID)
	if err != nil || len(sections) != 2 || len(sections[0].Records) != 3 || sections[0].Records[0]["v"] != "unmistakable" || sections[1].Name != "titles" {
		t.Errorf("got %v, %v", sections, err)
	}
	if places := personaltest.Find(t, o.pool, compliance.Schema.Name, "unmistakable", subject); len(places) > 0 {
		t.Errorf("readable in %v", places)
	}

	// Retention ends it when its time is over, and not before.
	if deleted, more, err := o.Retain(t.Context()); err != nil || more || deleted["pages of exports"]+deleted["exports"]+deleted["requests"] != 0 {
		t.Errorf("too early: %v, %t, %v", deleted, more, err)
	}
	o.exec(t, `update data_request set expires_at = now() - interval '1 second'`)
	deleted, more, err := o.Retain(t.Context())
	if err != nil || more || deleted["pages of exports"] != 2 || deleted["exports"] != 1 {
		t.Errorf("deleted %v, %t, %v", deleted, more, err)
	}
	if _, _, err := o.Collected(t.Context(), subject, r.ID); !fault.Is(err, fault.ReasonExportNotReady) {
		t.Errorf("after its time: %v", err)
	}
	if r, err := o.Request(t.Context(), subject, r.ID); err != nil || r.State != compliance.Expired || r.Proof == "" {
		t.Errorf("after its time: %+v, %v", r, err)
	}
	o.exec(t, `update data_request set completed_at = now() - interval '1096 days'`)
	if deleted, _, err := o.Retain(t.Context()); err != nil || deleted["requests"] != 1 {
		t.Errorf("after three years: %v, %v", deleted, err)
	}
}

func TestErasureOfWhatExportsCollected(t *testing.T) {
	t.Parallel()
	o := open(t)
	mine, bobs := o.begin(t, subject, compliance.Export), o.begin(t, "bob", compliance.Export)
	for who, r := range map[string]compliance.Request{subject: mine, "bob": bobs} {
		if _, err := o.PutPage(t.Context(), who, r.ID, "chat", 0, []compliance.Section{section("turns", who)}); err != nil {
			t.Fatal(err)
		}
	}
	if e, err := o.Erase(t.Context(), subject, "erased-1"); err != nil || len(e.WaitingFor) != 1 || !strings.Contains(e.WaitingFor[0], mine.ID.String()) {
		t.Errorf("while it is collected: %+v, %v", e, err)
	}
	for _, r := range []compliance.Request{mine, bobs} {
		if _, err := o.CompleteExport(t.Context(), r.ID, r.Steps); err != nil {
			t.Fatal(err)
		}
	}
	for try, want := range []int64{1, 0} {
		if e, err := o.Erase(t.Context(), subject, "erased-1"); err != nil || e.Erased != want || e.Kept != 1 || len(e.WaitingFor) > 0 {
			t.Errorf("try %d: %+v, %v", try, e, err)
		}
	}
	if _, _, err := o.Collected(t.Context(), subject, mine.ID); !fault.Is(err, fault.ReasonExportNotReady) {
		t.Errorf("after the erasure: %v", err)
	}
	if _, sections, err := o.Collected(t.Context(), "bob", bobs.ID); err != nil || len(sections) != 1 {
		t.Errorf("bob's: %v, %v", sections, err)
	}
	exported, next, err := o.Export(t.Context(), subject, "")
	if err != nil || next != "" || len(exported) != 1 || exported[0].Records[0]["state"] != "EXPIRED" {
		t.Errorf("exported %v, %v", exported, err)
	}
}

// TestProof pins the form that docs/processes/erasure.md describes.
func TestProof(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("0198f3c2-7d41-7a35-9c1e-2f6a1b0c9d8e")
	steps := []compliance.Step{{Context: "ordering", Done: true, Records: 2, Kept: 1, Note: "the law"}, {Context: "keys", Records: 1}}
	// printf '%s\nERASURE\nordering\t2\t1\tthe law\nkeys\t1\t0\t\n' 0198f3c2-7d41-7a35-9c1e-2f6a1b0c9d8e | sha256sum
	const want = "40f1d1b14aa974310d9bece129cb9131f8244fa2c4833710b76b5f8168bb6c73"
	if got := compliance.Prove(id, compliance.Erasure, steps); got != want {
		t.Errorf("got %s", got)
	}
	steps[0].Records = 3
	if got := compliance.Prove(id, compliance.Erasure, steps); got == want {
		t.Error("the proof does not depend on the steps")
	}
}

func TestEveryColumnIsClassified(t *testing.T) {
	t.Parallel()
	personaltest.Classify(t, open(t).pool, compliance.Schema.Name, personaltest.Classes{
		Erased: `shopper_key.wrapped data_request.pseudonym
			export_page.request_id export_page.context export_page.page export_page.size export_page.sealed`,
		// Of the keyed hash of a subject: the proof that a request was answered.
		Kept: `shopper_key.id shopper_key.subject_hash shopper_key.created_at shopper_key.destroyed_at
			data_request.id data_request.subject_hash data_request.kind data_request.state data_request.steps data_request.proof
			data_request.requested_at data_request.completed_at data_request.expires_at`,
		// The log is of the shop's staff, not of shoppers; a request of somebody's data is in it by its id.
		NotOfAny: `audit_head.one audit_head.sequence audit_head.hash
			audit_entry.sequence audit_entry.id audit_entry.recorded_at audit_entry.actor audit_entry.roles audit_entry.procedure
			audit_entry.target audit_entry.request_hash audit_entry.outcome audit_entry.reason audit_entry.action_id audit_entry.trace_id
			audit_entry.previous_hash audit_entry.hash`,
	})
}
