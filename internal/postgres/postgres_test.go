package postgres_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func migrations(sql string) fstest.MapFS {
	return fstest.MapFS{"migrations/00001_start.sql": {Data: []byte("-- +goose Up\n" + sql)}}
}

var (
	left  = postgres.Schema{Name: "left_shelf", Migrations: migrations("CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL);")}
	right = postgres.Schema{Name: "right_shelf", Migrations: migrations("CREATE TABLE secret (id int PRIMARY KEY);")}
)

func migrate(ctx context.Context, url string) error {
	return postgres.Migrate(ctx, url, left, right)
}

func setup(t *testing.T) (*pgxpool.Pool, string) {
	t.Helper()
	url := pgtest.DB(t, migrate)
	return open(t, url, left.Name), url
}

func open(t *testing.T, url, schema string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), url, schema, postgres.WithMaxConns(8))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOpenActsAsTheRoleOfItsSchema(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	var role, schema string
	if err := pool.QueryRow(t.Context(), `SELECT current_user, current_schema()`).Scan(&role, &schema); err != nil {
		t.Fatal(err)
	}
	if role != "bookworm_left_shelf" || schema != "left_shelf" {
		t.Errorf("acts as %s in %s", role, schema)
	}
}

func TestOpenRefusesABadSchema(t *testing.T) {
	t.Parallel()
	_, url := setup(t)
	for _, schema := range []string{"", "no_such_context", `x"; DROP TABLE item`, "Upper"} {
		if pool, err := postgres.Open(t.Context(), url, schema); err == nil {
			pool.Close()
			t.Errorf("%q was opened", schema)
		}
	}
}

func TestRoleCannotReachAnotherSchema(t *testing.T) {
	t.Parallel()
	pool, url := setup(t)
	exec(t, open(t, url, right.Name), `INSERT INTO secret VALUES (1)`)
	for _, sql := range []string{
		`SELECT * FROM right_shelf.secret`,
		`INSERT INTO right_shelf.secret VALUES (2)`,
		`CREATE TABLE right_shelf.mine (id int)`,
		`CREATE TABLE public.mine (id int)`,
		`DROP TABLE right_shelf.secret`,
	} {
		_, err := pool.Exec(t.Context(), sql)
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "42501" {
			t.Errorf("%s: got %v, want permission denied", sql, err)
		}
	}
}

func TestMigrateIsIdempotentAndWaitsForOthers(t *testing.T) {
	t.Parallel()
	pool, url := setup(t)
	exec(t, pool, `INSERT INTO item VALUES (1, 1)`)
	more := left
	more.Migrations = fstest.MapFS{
		"migrations/00001_start.sql": left.Migrations.(fstest.MapFS)["migrations/00001_start.sql"],
		"migrations/00002_more.sql":  {Data: []byte("-- +goose Up\nALTER TABLE item ADD COLUMN more int NOT NULL DEFAULT 7;")},
	}
	var group errgroup.Group
	for range 4 {
		group.Go(func() error { return postgres.Migrate(t.Context(), url, more, right) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := count(t, pool, `SELECT more FROM item`); n != 7 {
		t.Errorf("more is %d", n)
	}
	if n := count(t, pool, `SELECT count(*) FROM migration WHERE version_id > 0`); n != 2 {
		t.Errorf("%d migrations are recorded, want 2", n)
	}
}

func TestMigrateNamesTheBrokenSchema(t *testing.T) {
	t.Parallel()
	_, url := setup(t)
	for name, schema := range map[string]postgres.Schema{
		"no migrations": {Name: "bare", Migrations: fstest.MapFS{}},
		"bad SQL":       {Name: "broken", Migrations: migrations("CREATE NONSENSE;")},
		"bad name":      {Name: "Bad Name", Migrations: migrations("SELECT 1;")},
	} {
		if err := postgres.Migrate(t.Context(), url, schema); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTransact(t *testing.T) {
	t.Parallel()
	serialization := &pgconn.PgError{Code: "40001"}
	refused := errors.New("refused")
	for _, test := range []struct {
		name    string
		fails   int // how often f fails before it succeeds
		err     error
		want    error
		tries   int
		changed int
	}{
		{"commits", 0, nil, nil, 1, 1},
		{"rolls back on an error and does not retry it", 99, refused, refused, 1, 0},
		{"runs again after a serialization failure", 2, serialization, nil, 3, 1},
		{"gives up in the end", 99, serialization, serialization, 8, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool, _ := setup(t)
			tries := 0
			err := postgres.Transact(t.Context(), pool, func(tx pgx.Tx) error {
				tries++
				if _, err := tx.Exec(t.Context(), `INSERT INTO item VALUES (1, 1)`); err != nil {
					return err
				}
				if tries <= test.fails {
					return test.err
				}
				return nil
			})
			if !errors.Is(err, test.want) {
				t.Errorf("got error %v, want %v", err, test.want)
			}
			if tries != test.tries {
				t.Errorf("ran %d times, want %d", tries, test.tries)
			}
			if n := count(t, pool, `SELECT count(*) FROM item`); n != test.changed {
				t.Errorf("%d rows, want %d", n, test.changed)
			}
		})
	}
}

func TestTransactSurvivesADeadlock(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	exec(t, pool, `INSERT INTO item VALUES (1, 0), (2, 0)`)
	var (
		group  errgroup.Group
		both   sync.WaitGroup // both transactions hold their first row
		broken atomic.Int32
	)
	both.Add(2)
	for _, order := range [][2]int{{1, 2}, {2, 1}} {
		group.Go(func() error {
			first := true
			return postgres.Transact(t.Context(), pool, func(tx pgx.Tx) error {
				if _, err := tx.Exec(t.Context(), `UPDATE item SET n = n + 1 WHERE id = $1`, order[0]); err != nil {
					return err
				}
				if first {
					first = false
					both.Done()
					both.Wait()
				} else {
					broken.Add(1)
				}
				_, err := tx.Exec(t.Context(), `UPDATE item SET n = n + 1 WHERE id = $1`, order[1])
				return err
			})
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if broken.Load() == 0 {
		t.Error("no transaction ran again: the test made no deadlock")
	}
	if n := count(t, pool, `SELECT count(*) FROM item WHERE n = 2`); n != 2 {
		t.Errorf("%d of 2 rows were changed by both", n)
	}
}

func TestTransactFreesLocksOfACallerThatWentAway(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	exec(t, pool, `INSERT INTO item VALUES (1, 0)`)
	ctx, cancel := context.WithCancel(t.Context())
	err := postgres.Transact(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE item SET n = 1`); err != nil {
			return err
		}
		cancel()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	within, done := context.WithTimeout(t.Context(), 5*time.Second)
	defer done()
	if _, err := pool.Exec(within, `UPDATE item SET n = n + 10`); err != nil {
		t.Fatalf("the row stayed locked: %v", err)
	}
	if n := count(t, pool, `SELECT n FROM item`); n != 10 {
		t.Errorf("n is %d: the change was not rolled back", n)
	}
}

func TestTransactRollsBackOnAPanic(t *testing.T) {
	t.Parallel()
	pool, _ := setup(t)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = postgres.Transact(t.Context(), pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), `INSERT INTO item VALUES (1, 1)`); err != nil {
				return err
			}
			panic("a defect")
		})
	}()
	if n := count(t, pool, `SELECT count(*) FROM item`); n != 0 {
		t.Errorf("%d rows, want 0", n)
	}
}
