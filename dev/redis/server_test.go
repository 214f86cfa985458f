package redis

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"bookworm/internal/loopback"
)

// childEnv makes the test binary run a server in the folder it names until its
// standard input ends: that is an owner that can be killed. embeddedEnv makes
// that the in-process server.
const (
	childEnv    = "BOOKWORM_TEST_REDIS_CHILD"
	embeddedEnv = "BOOKWORM_TEST_REDIS_EMBEDDED"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := serveChild(dir, os.Getenv(embeddedEnv) != ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serveChild(dir string, inProcess bool) error {
	ctx := context.Background()
	program, version := find(ctx)
	if inProcess {
		program = ""
	}
	s, err := start(ctx, Options{DataDir: dir}, program, version)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, s.Address())
	if err == nil {
		_, err = io.Copy(io.Discard, os.Stdin)
	}
	return errors.Join(err, s.Stop())
}

// forEachKind runs a test on the real server, where there is one, and on the
// in-process one.
func forEachKind(t *testing.T, test func(t *testing.T, program, version string)) {
	t.Helper()
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		program, version := find(t.Context())
		if program == "" {
			t.Skip("redis is not installed")
		}
		test(t, program, version)
	})
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		test(t, "", "")
	})
}

func startServer(t *testing.T, o Options, program, version string) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	begin := time.Now()
	s, err := start(ctx, o, program, version)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() })
	t.Logf("%s started in %v", s.Kind(), time.Since(begin).Round(time.Millisecond))
	return s
}

func connect(t *testing.T, address string) *redis.Client {
	t.Helper()
	c := newClient(address)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// eventually repeats a check until it holds.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within 20 s", what)
		case <-tick.C:
		}
	}
}

const binary = "\x00\xff\r\n\"é"

func put(t *testing.T, c *redis.Client) {
	t.Helper()
	ctx := t.Context()
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, "basket/1", "version", 7, "item", binary)
		p.Expire(ctx, "basket/1", time.Hour)
		p.Set(ctx, "plain", binary, 0)
		p.Set(ctx, "gone", "x", 0)
		p.Del(ctx, "gone")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkPut(t *testing.T, c *redis.Client) {
	t.Helper()
	ctx := t.Context()
	basket, err := c.HGetAll(ctx, "basket/1").Result()
	if err != nil || basket["version"] != "7" || basket["item"] != binary {
		t.Errorf("basket %q, %v", basket, err)
	}
	if ttl, err := c.TTL(ctx, "basket/1").Result(); err != nil || ttl <= 59*time.Minute || ttl > time.Hour+time.Second {
		t.Errorf("basket lives for %v, %v", ttl, err)
	}
	if plain, err := c.Get(ctx, "plain").Result(); err != nil || plain != binary {
		t.Errorf("plain %q, %v", plain, err)
	}
	if ttl, err := c.TTL(ctx, "plain").Result(); err != nil || ttl != -1 {
		t.Errorf("plain lives for %v, %v; want for ever", ttl, err)
	}
	if n, err := c.Exists(ctx, "gone").Result(); err != nil || n != 0 {
		t.Errorf("a deleted key is back: %d, %v", n, err)
	}
}

func TestStopAndRestart(t *testing.T) {
	t.Parallel()
	forEachKind(t, func(t *testing.T, program, version string) {
		o := Options{DataDir: t.TempDir()}
		s := startServer(t, o, program, version)
		put(t, connect(t, s.Address()))
		if _, err := start(t.Context(), o, program, version); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("second start on the folder: %v", err)
		}
		if err := errors.Join(s.Stop(), s.Stop()); err != nil {
			t.Fatal(err)
		}
		checkPut(t, connect(t, startServer(t, o, program, version).Address()))
	})
}

func TestOwnerKilled(t *testing.T) {
	t.Parallel()
	forEachKind(t, func(t *testing.T, program, version string) {
		dir := t.TempDir()
		address, kill := startChild(t, dir, program == "")
		put(t, connect(t, address))
		if program == "" {
			// A kill may cost the last second: wait until it is in the file.
			eventually(t, "data in the file", func() bool {
				text, err := os.ReadFile(filepath.Join(dir, "miniredis.json"))
				return err == nil && bytes.Contains(text, []byte("hash"))
			})
		}
		kill()
		checkPut(t, connect(t, startServer(t, Options{DataDir: dir}, program, version).Address()))
	})
}

func startChild(t *testing.T, dir string, inProcess bool) (address string, kill func()) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	if inProcess {
		cmd.Env = append(cmd.Env, embeddedEnv+"=1")
	}
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

func TestKeysExpire(t *testing.T) {
	t.Parallel()
	forEachKind(t, func(t *testing.T, program, version string) {
		c := connect(t, startServer(t, Options{DataDir: t.TempDir()}, program, version).Address())
		if err := c.Set(t.Context(), "brief", "x", time.Second).Err(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "expiry", func() bool { return c.Get(t.Context(), "brief").Err() == redis.Nil }) //nolint:errorlint // go-redis returns it bare
	})
}

func TestTakenPort(t *testing.T) {
	t.Parallel()
	forEachKind(t, func(t *testing.T, program, version string) {
		l, err := loopback.Listen(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		s, err := start(t.Context(), Options{DataDir: t.TempDir(), Port: l.Addr().(*net.TCPAddr).Port}, program, version)
		if err == nil {
			_ = s.Stop()
			t.Error("started on a taken port")
		}
	})
}

// TestOrphan finds a server of the folder running without its owner, as on
// systems that have no death signal.
func TestOrphan(t *testing.T) {
	t.Parallel()
	program, version := find(t.Context())
	if program == "" {
		t.Skip("redis is not installed")
	}
	dir := t.TempDir()
	o := Options{DataDir: dir}
	orphan, err := startReal(t.Context(), o, program, version) // without the lock
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = orphan.Stop() })
	put(t, connect(t, orphan.Address()))
	checkPut(t, connect(t, startServer(t, o, program, version).Address()))
}

func TestUnsavableTypeIsLoud(t *testing.T) {
	t.Parallel()
	var log logBuffer
	s := startServer(t, Options{DataDir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&log, nil))}, "", "")
	if err := connect(t, s.Address()).LPush(t.Context(), "queue", "x").Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an error in the log", func() bool { return strings.Contains(log.String(), "a list cannot be saved") })
	if err := s.Stop(); err == nil {
		t.Error("stopping says nothing of data that is lost")
	}
}

func TestMalformedFile(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"cut off":      `[{"key":"`,
		"unknown type": `[{"key":"YQ==","type":"list","value":["YQ=="]}]`,
		"odd hash":     `[{"key":"YQ==","type":"hash","value":["YQ=="]}]`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "miniredis.json"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if s, err := start(t.Context(), Options{DataDir: dir}, "", ""); err == nil {
				_ = s.Stop()
				t.Error("started on a malformed file")
			}
		})
	}
}

// logBuffer may be written and read at the same time.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
