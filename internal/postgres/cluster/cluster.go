// Package cluster runs a private PostgreSQL cluster from the binaries installed
// on this machine, for the embedded stack and for tests.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"bookworm/internal/loopback"
)

const (
	superuser = "bookworm"
	server    = "postgres" // the program, and whom it runs as for root
	// stopTimeout is how long a server may take to write its last checkpoint
	// before it is told to drop everything; it then recovers at the next start.
	stopTimeout = 15 * time.Second
)

// ErrInUse says that another process runs the cluster in that folder.
var ErrInUse = errors.New("cluster is in use by another process")

// Options says what to run and where.
type Options struct {
	// DataDir holds everything the cluster owns and is created if missing.
	//
	// PostgreSQL refuses to run as root. A caller that is root has it run as
	// postgres (or nobody), who then owns the folder and must be able to reach
	// it; where a parent folder denies that, the data goes to a folder under
	// /var/tmp instead, to which the link "moved" in DataDir points.
	DataDir string
	// Port to listen on, on 127.0.0.1; 0 takes a free one.
	Port int
	// BinDir holds initdb and postgres; empty means to look for them (Find).
	BinDir string
	// Fast gives up durability for speed: a crash of the machine may destroy
	// the data. For tests.
	Fast bool
}

// Cluster is a running PostgreSQL server. Its methods may be called concurrently.
type Cluster struct {
	home    *home
	url     string
	process *os.Process
	exited  chan struct{} // closed once exit is set
	exit    error
	stop    sync.Once
	stopErr error
}

// Start makes the cluster if there is none in the folder, runs it and returns
// once it answers. The context bounds the start only; call Stop to end it. On
// Linux the server also ends, cleanly, when this process dies.
//
// What an earlier process that was killed left behind is dealt with: a server
// that still runs on the folder is stopped first, and a cluster that was cut
// short while it was made is made again.
//
// It returns ErrInUse when another living process runs the cluster.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	h, err := openHome(ctx, o.DataDir)
	if err != nil {
		return nil, fmt.Errorf("open postgres folder: %w", err)
	}
	c, err := start(ctx, o, h)
	if err != nil {
		h.close()
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	return c, nil
}

func start(ctx context.Context, o Options, h *home) (*Cluster, error) {
	if o.BinDir == "" {
		var err error
		if o.BinDir, err = find(ctx, h.version()); err != nil {
			return nil, err
		}
	}
	if err := h.stopOrphan(ctx); err != nil {
		return nil, err
	}
	password, err := h.password()
	if err != nil {
		return nil, err
	}
	if err := h.initialize(ctx, o); err != nil {
		return nil, err
	}

	return h.run(ctx, o, password)
}

// run starts the server process and waits until it answers.
func (h *home) run(ctx context.Context, o Options, password string) (*Cluster, error) {
	port, err := loopback.Port(ctx, o.Port)
	if err != nil {
		return nil, err
	}
	log, err := h.openLog()
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the server has its own handle

	// The server outlives the context of its start.
	cmd := h.command(context.WithoutCancel(ctx), o.BinDir, server, settings(h.data, port, o.Fast)...)
	cmd.Stdout, cmd.Stderr = log, log
	offset, err := log.Seek(0, 2)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		home:   h,
		url:    databaseURL(password, port),
		exited: make(chan struct{}),
	}
	started := make(chan error, 1)
	go func() {
		// The death signal is sent when the thread that started the server
		// ends, so this thread is kept for as long as the server runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.exit = cmd.Wait()
			close(c.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	c.process = cmd.Process
	if err := c.awaitReady(ctx); err != nil {
		_ = c.halt() // the error below says what went wrong first
		return nil, fmt.Errorf("%w; its log says: %s", err, h.logSince(offset))
	}
	return c, nil
}

// URL returns the address of the cluster's "postgres" database for its
// superuser, password included.
func (c *Cluster) URL() string { return c.url }

// Stop shuts the server down, ending open connections, and waits for it.
// Stopping again returns the first outcome.
func (c *Cluster) Stop() error {
	c.stop.Do(func() {
		defer c.home.close()
		if err := c.halt(); err != nil {
			c.stopErr = fmt.Errorf("stop postgres: %w", err)
		}
	})
	return c.stopErr
}

// halt ends the server: it may finish its shutdown, and is made to recover at
// the next start when that takes too long.
func (c *Cluster) halt() error {
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	if err := c.process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.exited:
		return c.exit
	case <-timer.C:
	}
	if err := c.process.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-c.exited
	return fmt.Errorf("no clean shutdown within %v", stopTimeout)
}

func (c *Cluster) awaitReady(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last error
	for {
		select {
		case <-c.exited:
			return fmt.Errorf("server ended at once: %w", c.exit)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), last)
		case <-timer.C:
		}
		if last = ping(ctx, c.url); last == nil {
			return nil
		}
		if refused, ok := errors.AsType[*pgconn.PgError](last); ok && strings.HasPrefix(refused.Code, "28") {
			return last // the password file is not the one the cluster was made with
		}
		timer.Reset(10 * time.Millisecond)
	}
}

func ping(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// settings returns the server's command line. They are small: the embedded
// stack shares a laptop with its developer.
func settings(data string, port int, fast bool) []string {
	values := []string{
		"listen_addresses=" + loopback.Host,
		"port=" + strconv.Itoa(port),
		"unix_socket_directories=", // TCP only: socket paths have a short limit
		"max_connections=200",
		"shared_buffers=32MB",
		"max_wal_size=256MB",
		"min_wal_size=32MB",
		"wal_level=minimal", // nothing replicates from here
		"max_wal_senders=0",
		"max_logical_replication_workers=0",
		"max_parallel_workers_per_gather=0",
		"jit=off",
		"timezone=UTC",
		"log_timezone=UTC",
		"log_checkpoints=off",
		// Statements and details hold what shoppers entered.
		"log_min_error_statement=panic",
		"log_error_verbosity=terse",
	}
	if fast {
		values = append(values, "fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off")
	}
	args := make([]string, 0, 2+2*len(values))
	args = append(args, "-D", data)
	for _, v := range values {
		args = append(args, "-c", v)
	}
	return args
}

func databaseURL(password string, port int) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(superuser, password),
		Host:     loopback.HostPort(port),
		Path:     "postgres", // the database that is always there
		RawQuery: "sslmode=disable",
	}
	return u.String()
}
