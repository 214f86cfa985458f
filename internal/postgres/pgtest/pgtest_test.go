package pgtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"bookworm/internal/postgres/cluster"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) { Main(m) }

var migrations atomic.Int32

// migrateBooks forgets to close a connection, as real ones may.
func migrateBooks(ctx context.Context, adminURL string) error {
	migrations.Add(1)
	conn, err := pgx.Connect(ctx, adminURL)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE TABLE book (title text); INSERT INTO book VALUES ('Emma')")
	return err
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// TestParallel has many tests write to what would be one table.
func TestParallel(t *testing.T) { //nolint:tparallel // the outer one waits for all of the inner ones
	t.Parallel()
	t.Run("tests", func(t *testing.T) {
		for range 12 {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				conn := connect(t, DB(t, migrateBooks))
				var books int
				err := conn.QueryRow(t.Context(), "WITH gone AS (DELETE FROM book RETURNING *) SELECT count(*) FROM gone").Scan(&books)
				if err != nil || books != 1 {
					t.Errorf("%d books, %v; want the template's one", books, err)
				}
			})
		}
	})
	if n := migrations.Load(); n != 1 {
		t.Errorf("migrated %d times, want once", n)
	}
}

func TestDropped(t *testing.T) { //nolint:tparallel // goes on when the inner one has ended
	t.Parallel()
	var url string
	t.Run("test", func(t *testing.T) {
		url = DB(t, nil)
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	}) // the connection is still open
	if conn, err := pgx.Connect(t.Context(), url); err == nil {
		_ = conn.Close(t.Context())
		t.Error("the database is there after its test")
	}
}

func TestFailedMigration(t *testing.T) {
	t.Parallel()
	s, err := shared.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	migrate := func(context.Context, string) error { return broken }
	for range 2 {
		if _, err := s.template(t.Context(), migrate); !errors.Is(err, broken) {
			t.Errorf("template: %v", err)
		}
	}
}

// TestSweep leaves folders as a killed run and a living one do.
func TestSweep(t *testing.T) {
	t.Parallel()
	folder := func() string {
		dir := filepath.Join(os.TempDir(), prefix+random())
		if err := os.MkdirAll(filepath.Join(dir, "postgres", "data"), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		return dir
	}
	age := func(dir string) {
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	dead, young, alive := folder(), folder(), folder()
	if err := os.RemoveAll(filepath.Join(alive, "postgres")); err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(t.Context(), cluster.Options{DataDir: filepath.Join(alive, "postgres"), Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Stop() }()
	age(dead)
	age(alive)

	sweep(t.Context())
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dead run's folder: %v", err)
	}
	for _, dir := range []string{young, alive} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	connect(t, c.URL())
}

func TestExternalServer(t *testing.T) {
	own, err := shared.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(externalEnv, own.url.String())
	s, err := startServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	name, err := s.template(t.Context(), migrateExternal)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	var left int
	err = own.pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_database WHERE datname = $1", name).Scan(&left)
	if err != nil || left != 0 {
		t.Errorf("%d templates left on the server, %v", left, err)
	}
}

func migrateExternal(context.Context, string) error { return nil }
