package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// home is the folder of one cluster: data/ is PostgreSQL's, beside it are the
// superuser's password, the server's log and a lock that is held by the process
// that runs the cluster.
type home struct {
	dir   string
	data  string
	owner *syscall.Credential // nil when the server runs as the caller
	lock  *os.File
}

// openHome makes the folder if needed and locks it.
func openHome(ctx context.Context, dir string) (*home, error) {
	if dir == "" {
		return nil, errors.New("no data folder given")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // parents made here must let the server's user through
		return nil, err
	}
	h := &home{dir: dir}
	if os.Geteuid() == 0 {
		if h.owner, err = serverUser(); err != nil {
			return nil, err
		}
		if h.dir, err = reachableDir(ctx, dir, h.owner); err != nil {
			return nil, err
		}
		if err := os.Chown(h.dir, int(h.owner.Uid), int(h.owner.Gid)); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(h.dir, 0o700); err != nil { //nolint:gosec // a folder needs the x bit
		return nil, err
	}
	if err := h.open(); err != nil {
		return nil, err
	}
	return h, nil
}

// open takes the lock.
func (h *home) open() (err error) {
	h.data = filepath.Join(h.dir, "data")
	if h.lock, err = os.OpenFile(filepath.Join(h.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	if err := syscall.Flock(int(h.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = h.lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("%s: %w", h.dir, ErrInUse)
		}
		return err
	}
	return nil
}

// close gives up the lock.
func (h *home) close() { _ = h.lock.Close() }

// Remove deletes a cluster's folder with everything in it, stopping a server
// that a killed process left running there. It returns ErrInUse, and removes
// nothing, when a living process runs the cluster.
func Remove(ctx context.Context, dataDir string) error {
	h, err := openHome(ctx, dataDir)
	if err != nil {
		return fmt.Errorf("open postgres folder: %w", err)
	}
	if err := errors.Join(h.remove(ctx), os.RemoveAll(dataDir)); err != nil {
		return fmt.Errorf("remove postgres folder: %w", err)
	}
	return nil
}

// remove deletes an open home.
func (h *home) remove(ctx context.Context) error {
	defer h.close()
	if err := h.stopOrphan(ctx); err != nil {
		return err
	}
	return os.RemoveAll(h.dir)
}

// serverUser returns whom the server runs as when the caller is root.
func serverUser() (*syscall.Credential, error) {
	for _, name := range []string{server, "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("postgres cannot run as root, and there is neither a user postgres nor nobody")
}

// reachableDir returns the folder itself, or where its content goes because the
// user cannot pass one of its parents.
func reachableDir(ctx context.Context, dir string, owner *syscall.Credential) (string, error) {
	link := filepath.Join(dir, "moved")
	if target, err := os.Readlink(link); err == nil {
		if _, err := os.Stat(target); err == nil {
			return target, nil
		}
		if err := os.Remove(link); err != nil {
			return "", err
		}
	}
	ok, err := canReach(dir, owner)
	if ok || err != nil {
		return dir, err
	}
	sweepMoved(ctx, owner)
	target, err := os.MkdirTemp(movedDir, movedPrefix)
	if err != nil {
		return "", err
	}
	return target, errors.Join(
		os.WriteFile(filepath.Join(target, "origin"), []byte(link), 0o600),
		os.Symlink(target, link),
	)
}

const (
	movedDir    = "/var/tmp"
	movedPrefix = "bookworm-postgres-"
)

// sweepMoved removes the content of folders that are no more: nothing else does
// when a folder is deleted by hand. What cannot be removed is left to the next
// time.
func sweepMoved(ctx context.Context, owner *syscall.Credential) {
	dirs, err := filepath.Glob(filepath.Join(movedDir, movedPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() {
			continue
		}
		// Anyone may put a folder there. A young one may still get its link.
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok || stat.Uid != owner.Uid || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		link, err := os.ReadFile(filepath.Join(dir, "origin")) //nolint:gosec // a folder of ours
		if err != nil {
			continue
		}
		if target, err := os.Readlink(string(link)); err == nil && target == dir {
			continue
		}
		h := &home{dir: dir, owner: owner}
		if h.open() == nil {
			_ = h.remove(ctx) // see above
		}
	}
}

// canReach reports whether the user may pass all parents of a folder.
func canReach(dir string, owner *syscall.Credential) (bool, error) {
	for parent := filepath.Dir(dir); ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err != nil {
			return false, err
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return false, fmt.Errorf("no owner known of %s", parent)
		}
		pass := os.FileMode(0o001)
		switch {
		case stat.Uid == owner.Uid:
			pass = 0o100
		case stat.Gid == owner.Gid:
			pass = 0o010
		}
		if info.Mode()&pass == 0 {
			return false, nil
		}
		if parent == filepath.Dir(parent) {
			return true, nil
		}
	}
}

// version returns the major version that made the data, or "".
func (h *home) version() string {
	v, err := os.ReadFile(filepath.Join(h.data, "PG_VERSION"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(v))
}

// password returns the superuser's password, made up on first use.
func (h *home) password() (string, error) {
	file := filepath.Join(h.dir, "password")
	password, err := os.ReadFile(file) //nolint:gosec // the folder is the caller's own
	if err == nil && len(password) > 0 {
		return string(password), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	made := rand.Text()
	if err := os.WriteFile(file, []byte(made), 0o600); err != nil {
		return "", err
	}
	return made, h.giveAway(file)
}

// giveAway makes the server's user the owner of a file.
func (h *home) giveAway(file string) error {
	if h.owner == nil {
		return nil
	}
	return os.Chown(file, int(h.owner.Uid), int(h.owner.Gid))
}

// initialize makes the cluster unless it is there. It is made beside its place
// and moved there, so that one cut short is never taken for a whole one.
func (h *home) initialize(ctx context.Context, o Options) error {
	if _, err := os.Stat(h.data); err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	unfinished := h.data + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	locale := "C.UTF-8"
	if runtime.GOOS == "darwin" {
		locale = "en_US.UTF-8"
	}
	args := []string{
		"--pgdata=" + unfinished,
		"--username=" + superuser,
		"--pwfile=" + filepath.Join(h.dir, "password"),
		"--auth=scram-sha-256",
		"--encoding=UTF8",
		"--locale=" + locale,
		"--no-instructions",
	}
	if o.Fast {
		args = append(args, "--no-sync")
	}
	if out, err := h.command(ctx, o.BinDir, "initdb", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, lastLine(out))
	}
	return os.Rename(unfinished, h.data)
}

// command runs one of PostgreSQL's programs as its user. Of the environment it
// gets what it needs; a PGPORT or the like must not leak in.
func (h *home) command(ctx context.Context, binDir, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, program), args...) //nolint:gosec // found by Find or named by the caller
	cmd.Dir = h.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TZ=UTC", "LC_MESSAGES=C"}
	cmd.SysProcAttr = procAttr(h.owner)
	return cmd
}

// openLog opens the server's log to append to it; one grown large is begun
// afresh.
func (h *home) openLog() (*os.File, error) {
	const large = 8 << 20
	file := filepath.Join(h.dir, "postgres.log")
	flags := os.O_CREATE | os.O_APPEND | os.O_WRONLY
	if info, err := os.Stat(file); err == nil && info.Size() > large {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(file, flags, 0o600) //nolint:gosec // the folder is the caller's own
}

// logSince returns the last line the server logged after an offset.
func (h *home) logSince(offset int64) string {
	file, err := os.Open(filepath.Join(h.dir, "postgres.log"))
	if err != nil {
		return err.Error()
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.NewSectionReader(file, offset, 1<<16))
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "could not bind") || strings.Contains(line, "FATAL:") {
			return strings.TrimSpace(line)
		}
	}
	return lastLine(text)
}

func lastLine(text []byte) string {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(lines[len(lines)-1])
}

// stopOrphan ends a server that still runs on the data although the process
// that started it is gone (this one holds the lock), and waits for it.
func (h *home) stopOrphan(ctx context.Context) error {
	pid, err := h.orphan(ctx)
	if pid == 0 || err != nil {
		return err
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if still, err := h.orphan(ctx); err != nil || still != pid {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("postgres with pid %d still runs on %s: %w", pid, h.data, ctx.Err())
		case <-tick.C:
		}
	}
}

// orphan returns the pid of a living server on the data, or 0. A pid file that
// was left behind may name a process that has nothing to do with it by now, so
// the process must have the folder on its command line.
func (h *home) orphan(ctx context.Context) (int, error) {
	text, err := os.ReadFile(filepath.Join(h.data, "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 {
		return 0, nil //nolint:nilerr // half written: nobody finished a start here
	}
	if !strings.Contains(commandLine(ctx, pid), h.data) {
		return 0, nil
	}
	return pid, nil
}
