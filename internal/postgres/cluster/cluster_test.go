package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"bookworm/internal/loopback"
)

// childEnv makes the test binary run a cluster in the folder it names until its
// standard input ends: that is an owner that can be killed.
const childEnv = "BOOKWORM_TEST_CLUSTER_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := serveChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serveChild(dir string) error {
	c, err := Start(context.Background(), Options{DataDir: dir})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, c.URL())
	if err == nil {
		_, err = io.Copy(io.Discard, os.Stdin)
	}
	return errors.Join(err, c.Stop())
}

// dataDir returns a folder for a cluster, which is removed with everything that
// a failed test leaves running on it.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "postgres")
	t.Cleanup(func() {
		if err := Remove(context.WithoutCancel(t.Context()), dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func startCluster(t *testing.T, o Options) *Cluster {
	t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	t.Logf("started in %v", time.Since(begin).Round(time.Millisecond))
	return c
}

// query runs statements and returns the last one's single value.
func query(t *testing.T, url string, statements ...string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	last := len(statements) - 1
	for _, s := range statements[:last] {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	var value string
	if err := conn.QueryRow(t.Context(), statements[last]).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestStopAndRestart(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	c := startCluster(t, Options{DataDir: dir})
	got := query(t, c.URL(),
		"CREATE TABLE book (title text)", "INSERT INTO book VALUES ('Émile')",
		"SELECT current_setting('fsync') || lower(title) FROM book")
	if want := "onémile"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}

	if _, err := Start(t.Context(), Options{DataDir: dir}); !errors.Is(err, ErrInUse) {
		t.Errorf("second start on the folder: %v, want ErrInUse", err)
	}
	if err := Remove(t.Context(), dir); !errors.Is(err, ErrInUse) {
		t.Errorf("remove while it runs: %v, want ErrInUse", err)
	}
	if err := errors.Join(c.Stop(), c.Stop()); err != nil {
		t.Fatal(err)
	}

	c = startCluster(t, Options{DataDir: dir, Fast: true})
	if got, want := query(t, c.URL(), "SELECT current_setting('fsync') || title FROM book"), "offÉmile"; got != want {
		t.Errorf("after the restart: got %q, want %q", got, want)
	}
	if runtime.GOOS == "linux" {
		checkPrivate(t, c)
	}
}

// checkPrivate checks that the server listens on loopback only and asks for the
// password.
func checkPrivate(t *testing.T, c *Cluster) {
	t.Helper()
	u, err := url.Parse(c.URL())
	if err != nil {
		t.Fatal(err)
	}
	if host := u.Hostname(); !net.ParseIP(host).IsLoopback() {
		t.Errorf("listens on %s", host)
	}
	u.User = url.UserPassword(superuser, "guess")
	if conn, err := pgx.Connect(t.Context(), u.String()); err == nil {
		_ = conn.Close(t.Context())
		t.Error("a wrong password was let in")
	}
}

// TestOwnerKilled kills the process that runs the cluster while the database
// has committed and uncommitted work.
func TestOwnerKilled(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	childURL, kill := startChild(t, dir)
	query(t, childURL, "CREATE TABLE book (title text)", "INSERT INTO book VALUES ('Emma')", "SELECT ''")
	tx, err := pgx.Connect(t.Context(), childURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Close(context.WithoutCancel(t.Context())) })
	if _, err := tx.Exec(t.Context(), "BEGIN; INSERT INTO book VALUES ('Persuasion')"); err != nil {
		t.Fatal(err)
	}
	kill()

	c := startCluster(t, Options{DataDir: dir})
	if got := query(t, c.URL(), "SELECT string_agg(title, ',') FROM book"); got != "Emma" {
		t.Errorf("after the kill: %q, want what was committed", got)
	}
}

// TestServerKilled kills the server itself, which leaves its pid file behind.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	c := startCluster(t, Options{DataDir: dir})
	query(t, c.URL(), "CREATE TABLE book (title text)", "INSERT INTO book VALUES ('Emma')", "SELECT ''")
	if err := c.process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(); err == nil {
		t.Error("stopping a server that was killed reports nothing")
	}
	c = startCluster(t, Options{DataDir: dir})
	if got := query(t, c.URL(), "SELECT title FROM book"); got != "Emma" {
		t.Errorf("after the kill: %q", got)
	}
}

func startChild(t *testing.T, dir string) (url string, kill func()) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = t.Output()
	if _, err := cmd.StdinPipe(); err != nil { // ends with this process
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill() // has ended already when this fails
		_ = cmd.Wait()         // reports the kill
	}
	t.Cleanup(kill)
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("child ended before it served")
	}
	return lines.Text(), kill
}

func TestInterruptedSetup(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "data.unfinished", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	startCluster(t, Options{DataDir: dir, Fast: true})
}

// TestStalePid leaves a pid file that names a living process which is no
// PostgreSQL: it must not be touched.
func TestStalePid(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	if err := startCluster(t, Options{DataDir: dir, Fast: true}).Stop(); err != nil {
		t.Fatal(err)
	}
	h, err := openHome(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	pid := filepath.Join(h.data, "postmaster.pid")
	if err := os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := h.orphan(t.Context()); got != 0 || err != nil {
		t.Errorf("orphan: %d, %v", got, err)
	}
}

func TestUnreachableFolder(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root runs the server as another user")
	}
	private := filepath.Join(t.TempDir(), "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(private, "postgres")
	c := startCluster(t, Options{DataDir: dir, Fast: true})
	query(t, c.URL(), "CREATE TABLE book ()", "SELECT ''")
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	c = startCluster(t, Options{DataDir: dir, Fast: true})
	if got := query(t, c.URL(), "SELECT count(*)::text FROM book"); got != "0" {
		t.Errorf("after the restart: %q", got)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	moved, err := os.Readlink(filepath.Join(dir, "moved"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Remove(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, moved} {
		if _, err := os.Stat(d); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s after Remove: %v", d, err)
		}
	}
}

// TestSweepMoved deletes folders whose content went elsewhere.
func TestSweepMoved(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root runs the server as another user")
	}
	owner, err := serverUser()
	if err != nil {
		t.Fatal(err)
	}
	moved := func() (dir, target string) {
		private := filepath.Join(t.TempDir(), "private")
		if err := os.Mkdir(private, 0o700); err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(private, "postgres")
		h, err := openHome(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		h.close()
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(h.dir, old, old); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(h.dir) })
		return dir, h.dir
	}
	_, kept := moved()
	deleted, left := moved()
	if err := os.RemoveAll(deleted); err != nil {
		t.Fatal(err)
	}

	sweepMoved(t.Context(), owner)
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("content of a deleted folder: %v", err)
	}
}

func TestTakenPort(t *testing.T) {
	t.Parallel()
	l, err := loopback.Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if c, err := Start(t.Context(), Options{DataDir: dataDir(t), Port: l.Addr().(*net.TCPAddr).Port, Fast: true}); err == nil {
		_ = c.Stop()
		t.Error("started on a taken port")
	}
}

func TestMissingBinaries(t *testing.T) {
	t.Setenv("BOOKWORM_POSTGRES_BIN", t.TempDir())
	if _, err := Find(); err == nil || !strings.Contains(err.Error(), "BOOKWORM_POSTGRES_BIN") {
		t.Errorf("Find: %v", err)
	}
	if hint := installHint(); strings.Contains(hint, "\n") || !strings.Contains(hint, "install") {
		t.Errorf("hint: %q", hint)
	}
}

func TestDataOfMissingVersion(t *testing.T) {
	t.Parallel()
	if os.Getenv("BOOKWORM_POSTGRES_BIN") != "" {
		t.Skip("the binaries are given")
	}
	if _, err := find(t.Context(), "12"); err == nil || !strings.Contains(err.Error(), "PostgreSQL 12") {
		t.Errorf("find: %v", err)
	}
}
