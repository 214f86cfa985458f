// Package pgtest gives each test a database of its own on a real PostgreSQL.
//
// A test binary runs one private server, started by the first test that asks
// for a database, and each database is a copy of a template that was migrated
// once. Set BOOKWORM_TEST_DATABASE_URL, the URL of a superuser, to use a server
// that runs already.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"bookworm/internal/postgres/cluster"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	externalEnv = "BOOKWORM_TEST_DATABASE_URL"
	// timeout bounds each thing done for a test here. It is long because a whole
	// test run shares the machine.
	timeout = 2 * time.Minute
	// prefix begins the name of every server's folder.
	prefix = "bookworm-pgtest-"
	// unsweptAge is how young a folder is left alone: its owner may be about to
	// lock it.
	unsweptAge = time.Minute
)

// Main runs the tests of a package and removes what DB made for them. Call it
// from TestMain; it does not return. A package without it works as well, and
// leaves a folder in the temporary directory that a later run sweeps.
func Main(m *testing.M) {
	code := m.Run()
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// DB returns the URL, with a superuser's rights, of a fresh database that
// migrate has prepared. It is dropped when the test ends, with connections that
// are still open then. Tests that call DB may run in parallel.
//
// migrate gets the URL of a template database and runs once in the process: two
// calls with the same function share the template. Functions are told apart by
// their code, not by what a closure captures, so migrate must not depend on
// variables that differ between calls. A nil migrate gives an empty database.
func DB(tb testing.TB, migrate func(ctx context.Context, adminURL string) error) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), timeout)
	defer cancel()
	s, err := shared.start(ctx)
	if err != nil {
		tb.Fatalf("pgtest: start server: %v", err)
	}
	template, err := s.template(ctx, migrate)
	if err != nil {
		tb.Fatalf("pgtest: migrate template: %v", err)
	}
	name := "test_" + random()
	if err := s.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		tb.Fatalf("pgtest: copy template: %v", err)
	}
	tb.Cleanup(func() {
		// The test's own context has ended.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), timeout)
		defer cancel()
		if err := s.drop(ctx, name); err != nil {
			tb.Errorf("pgtest: drop database: %v", err)
		}
	})
	return s.databaseURL(name)
}

// shared is the one server of this process.
var shared holder

// holder starts a server once. A start that failed is not tried again.
type holder struct {
	mu     sync.Mutex
	tried  bool
	server *server
	err    error
}

func (h *holder) start(ctx context.Context) (*server, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.tried {
		h.tried = true
		h.server, h.err = startServer(ctx)
	}
	return h.server, h.err
}

func (h *holder) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.server == nil {
		return nil
	}
	return h.server.close()
}

// server is a running PostgreSQL with the templates made on it.
type server struct {
	url     *url.URL
	pool    *pgxpool.Pool
	cluster *cluster.Cluster // nil when the server is somebody else's
	dir     string

	mu        sync.Mutex
	templates map[uintptr]*template
}

// template is made by the first test that needs it, while others wait.
type template struct {
	once sync.Once
	name string
	err  error
}

func startServer(ctx context.Context) (*server, error) {
	s := &server{templates: make(map[uintptr]*template)}
	adminURL := os.Getenv(externalEnv)
	if adminURL == "" {
		if err := s.startCluster(ctx); err != nil {
			return nil, err
		}
		adminURL = s.cluster.URL()
	}
	var err error
	if s.url, err = url.Parse(adminURL); err != nil {
		return nil, errors.New(externalEnv + " is not a URL") // what is wrong with it may hold the password
	}
	// The pool outlives the test that starts the server.
	if s.pool, err = pgxpool.New(context.WithoutCancel(ctx), adminURL); err != nil {
		return nil, errors.Join(err, s.stopCluster(ctx))
	}
	return s, nil
}

func (s *server) startCluster(ctx context.Context) error {
	sweep(ctx)
	// The server's user must be able to pass this folder.
	s.dir = filepath.Join(os.TempDir(), prefix+random())
	if err := os.Mkdir(s.dir, 0o755); err != nil { //nolint:gosec // the cluster's own folder in it is private
		return err
	}
	var err error
	s.cluster, err = cluster.Start(ctx, cluster.Options{DataDir: filepath.Join(s.dir, "postgres"), Fast: true})
	if err != nil {
		return errors.Join(err, os.RemoveAll(s.dir))
	}
	return nil
}

func (s *server) stopCluster(ctx context.Context) error {
	if s.cluster == nil {
		return nil
	}
	return errors.Join(s.cluster.Stop(), remove(ctx, s.dir))
}

// close drops the templates, which matters on somebody else's server, and ends
// our own.
func (s *server) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var err error
	if s.cluster == nil {
		for _, t := range s.templates {
			err = errors.Join(err, s.drop(ctx, t.name))
		}
	}
	s.pool.Close()
	return errors.Join(err, s.stopCluster(ctx))
}

// sweep removes what killed test binaries left behind. A failure leaves it to
// the next run: another user's folder, or a run that sweeps at the same time.
func sweep(ctx context.Context) {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > unsweptAge {
			_ = remove(ctx, dir) // see above
		}
	}
}

func remove(ctx context.Context, dir string) error {
	if err := cluster.Remove(ctx, filepath.Join(dir, "postgres")); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// template returns the name of the database that migrate prepared.
func (s *server) template(ctx context.Context, migrate func(context.Context, string) error) (string, error) {
	if migrate == nil {
		migrate = func(context.Context, string) error { return nil }
	}
	key := reflect.ValueOf(migrate).Pointer()
	s.mu.Lock()
	t, ok := s.templates[key]
	if !ok {
		t = &template{name: "template_" + random()}
		s.templates[key] = t
	}
	s.mu.Unlock()

	t.once.Do(func() { t.err = s.makeTemplate(ctx, t.name, migrate) })
	return t.name, t.err
}

func (s *server) makeTemplate(ctx context.Context, name string, migrate func(context.Context, string) error) error {
	// template0 has no connections, ever; template1 may be in use.
	if err := s.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		return err
	}
	if err := migrate(ctx, s.databaseURL(name)); err != nil {
		return err
	}
	// A database can be copied only while nobody is connected to it: let nobody
	// in any more, and wait for those to leave whom migrate forgot to close.
	return errors.Join(
		s.exec(ctx, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false"),
		s.disconnect(ctx, name),
	)
}

func (s *server) disconnect(ctx context.Context, name string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		rows, err := s.pool.Query(ctx,
			`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1`, name)
		if err != nil {
			return err
		}
		left, err := pgx.CollectRows(rows, pgx.RowTo[bool])
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d connections to the template stay open: %w", len(left), ctx.Err())
		case <-tick.C:
		}
	}
}

func (s *server) drop(ctx context.Context, name string) error {
	return s.exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
}

func (s *server) exec(ctx context.Context, statement string) error {
	_, err := s.pool.Exec(ctx, statement)
	return err
}

func (s *server) databaseURL(name string) string {
	u := *s.url
	u.Path = "/" + name
	return u.String()
}

// random returns a name's unique part, fit for SQL without quotes.
func random() string { return strings.ToLower(rand.Text()[:12]) }
