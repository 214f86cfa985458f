package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"bookworm/internal/loopback"
)

// stopTimeout is how long a server may take to write its data and end.
const stopTimeout = 10 * time.Second

// startReal runs the installed server with an append-only file.
func startReal(ctx context.Context, o Options, program, version string) (*Server, error) {
	// The server's address, for whoever finds it running without its owner.
	addressFile := filepath.Join(o.DataDir, "address")
	if err := stopOrphan(ctx, addressFile, o.DataDir); err != nil {
		return nil, err
	}
	port, err := loopback.Port(ctx, o.Port)
	if err != nil {
		return nil, err
	}
	address := loopback.HostPort(port)
	if err := os.WriteFile(addressFile, []byte(address), 0o600); err != nil {
		return nil, err
	}

	// The server outlives the context of its start.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, //nolint:gosec // found in PATH
		"--bind", loopback.Host,
		"--port", strconv.Itoa(port),
		"--dir", o.DataDir,
		"--appendonly", "yes",
		"--appendfsync", "everysec",
		"--save", "",
		"--logfile", filepath.Join(o.DataDir, "redis.log"),
		"--loglevel", "warning",
	)
	cmd.Dir = o.DataDir
	cmd.SysProcAttr = procAttr()
	p := &process{exited: make(chan struct{})}
	if err := p.start(cmd); err != nil {
		return nil, err
	}
	if err := p.awaitReady(ctx, address); err != nil {
		return nil, errors.Join(err, p.halt())
	}
	return &Server{
		address: address,
		kind:    strings.TrimSuffix(filepath.Base(program), "-server") + " " + version,
		stop:    sync.OnceValue(p.halt),
	}, nil
}

// process is a started program.
type process struct {
	os     *os.Process
	exited chan struct{} // closed once exit is set
	exit   error
}

func (p *process) start(cmd *exec.Cmd) error {
	started := make(chan error, 1)
	go func() {
		// The death signal is sent when the thread that started the program
		// ends, so this thread is kept for as long as the program runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.exit = cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	p.os = cmd.Process
	return nil
}

// halt lets the server write its data and end, and kills it if it does not.
func (p *process) halt() error {
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	if err := p.os.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited:
		return p.exit
	case <-timer.C:
	}
	if err := p.os.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.exited
	return fmt.Errorf("no clean end within %v", stopTimeout)
}

func (p *process) awaitReady(ctx context.Context, address string) error {
	client := newClient(address)
	defer func() { _ = client.Close() }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		last := errors.New("it does not listen")
		if listens(ctx, address) {
			last = client.Ping(ctx).Err() // an error too while the server reads its data
		}
		if last == nil {
			return nil
		}
		select {
		case <-p.exited:
			return errors.New("server ended at once, see redis.log in its data folder")
		case <-ctx.Done():
			return errors.Join(ctx.Err(), last)
		case <-tick.C:
		}
	}
}

// stopOrphan ends a server that still runs on the folder although the process
// that started it is gone (this one holds the lock), and waits for it.
func stopOrphan(ctx context.Context, addressFile, dir string) error {
	address, err := os.ReadFile(addressFile) //nolint:gosec // the folder is the caller's own
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	client := newClient(string(address))
	defer func() { _ = client.Close() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if !listens(ctx, string(address)) {
			return ctx.Err()
		}
		// By now anyone may listen there: only a server on our folder counts.
		if at, err := client.ConfigGet(ctx, "dir").Result(); err != nil || at["dir"] != dir {
			return ctx.Err()
		}
		_ = client.ShutdownSave(ctx) // the next round tells whether it worked
		select {
		case <-ctx.Done():
			return fmt.Errorf("a server still runs on %s: %w", dir, ctx.Err())
		case <-tick.C:
		}
	}
}

// listens reports whether somebody accepts connections. The client could tell
// too, but logs each failure.
func listens(ctx context.Context, address string) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was said on it
	return true
}

// newClient returns a client that tells at once when there is no server.
func newClient(address string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: address, MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second, DisableIdentity: true,
	})
}
