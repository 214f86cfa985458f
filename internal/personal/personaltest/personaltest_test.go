package personaltest

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// told notes what a test is told instead of failing.
type told struct {
	testing.TB

	errors int
}

func (t *told) Errorf(string, ...any) { t.errors++ }

func setup(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), pgtest.DB(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	_, err = pool.Exec(t.Context(), `
		create schema a; create schema b; create schema c;
		create table a.migration (x text); create table b.migration (x text);
		create table a.t (plain text, bytes bytea, document jsonb, list text[], number int);
		create table b.u (plain text);
		create table c.not_a_context (plain text);
		insert into a.migration values ('alice');
		insert into a.t values ('x Alice y', 'to alice', '{"deep": {"who": ["alice"]}}', '{bob,alice}', 1), ('bob', '', '{}', '{}', 2);
		insert into b.u values ('for alice_1'), ('carol');
		insert into c.not_a_context values ('alice')`)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func TestFindLooksIntoEveryKindOfColumn(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	want := []string{"a.t.plain has alice", "a.t.bytes has alice", "a.t.document has alice", "a.t.list has alice", "b.u.plain has alice", "b.u.plain has E_1"}
	if got := FindAnywhere(t, pool, "alice", "E_1", "%", "dave"); !slices.Equal(got, want) {
		t.Errorf("found %q", got)
	}
}

func TestUntouchedAndClassifySayWhatIsWrong(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	before := Rows(t, pool, "b")
	right := Classes{Erased: "u.plain"}
	for name, check := range map[string]struct {
		errors int
		run    func(tb testing.TB)
	}{
		"nothing changed":      {0, func(tb testing.TB) { tb.Helper(); Untouched(tb, pool, "b", before) }},
		"one row more":         {1, func(tb testing.TB) { tb.Helper(); Untouched(tb, pool, "b", append(before, "u (dave)")) }},
		"all classified":       {0, func(tb testing.TB) { tb.Helper(); Classify(tb, pool, "b", right) }},
		"one not classified":   {1, func(tb testing.TB) { tb.Helper(); Classify(tb, pool, "b", Classes{}) }},
		"one classified twice": {1, func(tb testing.TB) { tb.Helper(); Classify(tb, pool, "b", Classes{Erased: "u.plain", Kept: "u.plain"}) }},
		"one that is not there": {1, func(tb testing.TB) {
			tb.Helper()
			Classify(tb, pool, "b", Classes{Erased: "u.plain", NotOfAny: "u.gone"})
		}},
	} {
		seen := &told{TB: t}
		if check.run(seen); seen.errors != check.errors {
			t.Errorf("%s: %d errors, want %d", name, seen.errors, check.errors)
		}
	}
}
