package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	pprofile "github.com/google/pprof/profile"

	"bookworm/dev/folder"
	"bookworm/dev/shopper"
)

// startUp starts the program on a fresh folder and again on the same one.
func startUp(ctx context.Context, program string, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "bookworm-bench-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "start of the stack\tready after s\tgoal\tidle MB\tgoal\t")
	for _, name := range []string{"first, on an empty folder", "again", "again", "again"} {
		took, memory, err := startOnce(ctx, program, dir)
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "%s\t%.2f\t<= 5\t%.0f\t< 500\t\n", name, took.Seconds(), float64(memory)/1e6)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	_, err = fmt.Fprint(out, "\nMemory is the proportional set size of the process and its children, five seconds after the start.\n\n")
	return err
}

func startOnce(ctx context.Context, program, dir string) (took time.Duration, memory int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "run")
	cmd.Env = append(os.Environ(), "BOOKWORM_DATA="+dir)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, fmt.Errorf("start the stack: %w", err)
	}
	_, err = shopper.Await(ctx, func(context.Context) (folder.Addresses, error) {
		a, err := folder.Lookup(dir)
		if errors.Is(err, folder.ErrNotRunning) {
			return folder.Addresses{}, nil // not yet
		}
		return a, err
	}, func(a folder.Addresses) bool { return a["BOOKWORM_PID"] == strconv.Itoa(cmd.Process.Pid) })
	took = time.Since(began)
	if err == nil {
		select {
		case <-time.After(5 * time.Second): // idle, as the table says
		case <-ctx.Done():
		}
		memory, err = proportionalSetSize(cmd.Process.Pid)
	}
	return took, memory, errors.Join(err, cmd.Process.Signal(syscall.SIGTERM), ignoreSignal(cmd.Wait()))
}

func ignoreSignal(err error) error {
	if _, exit := errors.AsType[*exec.ExitError](err); exit {
		return nil
	}
	return err
}

// descendants returns a process and all below it.
func descendants(root int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	children := make(map[int][]int)
	for _, path := range stats {
		pid, parent, _, ok := stat(path)
		if ok {
			children[parent] = append(children[parent], pid)
		}
	}
	tree := []int{root}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i]]...)
	}
	return tree, nil
}

// stat reads pid, parent and processor time from /proc/<pid>/stat, see proc(5).
func stat(path string) (pid, parent int, cpu time.Duration, ok bool) {
	content, err := os.ReadFile(path) //nolint:gosec // in /proc
	if err != nil {
		return 0, 0, 0, false // it has ended
	}
	head, tail, found := strings.Cut(string(content), " (")
	i := strings.LastIndex(tail, ") ")
	if !found || i < 0 {
		return 0, 0, 0, false
	}
	fields := strings.Fields(tail[i+2:])
	pid, err1 := strconv.Atoi(head)
	parent, err2 := strconv.Atoi(fields[1])
	user, err3 := strconv.ParseInt(fields[11], 10, 64)
	system, err4 := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that runs Go
	return pid, parent, time.Duration(user+system) * tick, errors.Join(err1, err2, err3, err4) == nil
}

// proportionalSetSize returns the memory of a process and its children, in bytes,
// shared pages divided among those who share them.
func proportionalSetSize(root int) (int64, error) {
	tree, err := descendants(root)
	if err != nil {
		return 0, err
	}
	var total int64
	for _, pid := range tree {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, fmt.Errorf("read memory: %w", err)
		}
		for line := range strings.Lines(string(content)) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "Pss:" {
				kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
				if err != nil {
					return 0, fmt.Errorf("read memory: %w", err)
				}
				total += kilobytes << 10
			}
		}
	}
	return total, nil
}

// usage is processor time by kind of process.
type usage struct {
	at     time.Time
	spent  map[string]time.Duration
	shares map[string]float64
	cores  float64
}

func cpuByProcess() usage {
	u := usage{at: time.Now(), spent: make(map[string]time.Duration)}
	tree, err := descendants(os.Getpid())
	if err != nil {
		return u
	}
	for _, pid := range tree {
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			continue // it has ended
		}
		name := strings.TrimSpace(string(command))
		if pid == os.Getpid() {
			name = "this process (Temporal, shop, stand-ins, clients)"
		}
		if _, _, cpu, ok := stat(fmt.Sprintf("/proc/%d/stat", pid)); ok {
			u.spent[name] += cpu
		}
	}
	return u
}

// until returns the shares of what was used between two readings.
func (u usage) until(later usage) usage {
	later.shares = make(map[string]float64)
	var total time.Duration
	for name, spent := range later.spent {
		total += spent - u.spent[name]
	}
	for name, spent := range later.spent {
		later.shares[name] = float64(spent-u.spent[name]) / float64(max(total, 1))
	}
	later.cores = total.Seconds() / later.at.Sub(u.at).Seconds()
	return later
}

// profile runs a load and returns the share of this process's processor time by
// who used it: the topmost frame of each sample that belongs to one of them.
func profile(load func() error) (map[string]float64, error) {
	var raw bytes.Buffer
	if err := pprof.StartCPUProfile(&raw); err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	err := load()
	pprof.StopCPUProfile()
	if err != nil {
		return nil, err
	}
	p, err := pprofile.Parse(&raw)
	if err != nil {
		return nil, fmt.Errorf("read profile: %w", err)
	}
	shares := make(map[string]float64)
	var total float64
	for _, sample := range p.Sample {
		value := float64(sample.Value[len(sample.Value)-1])
		total += value
		shares["  "+owner(sample)] += value
	}
	for name := range shares {
		shares[name] /= total
	}
	return shares, nil
}

// owners are looked for from the innermost frame outwards.
var owners = []struct{ prefix, name string }{
	{"modernc.org/", "SQLite under Temporal"},
	{"go.temporal.io/server", "Temporal server"},
	{"go.temporal.io/sdk", "Temporal SDK (workers, clients)"},
	{"bookworm/dev/bench", "the benchmark's clients"},
	{"bookworm/dev/shopper", "the benchmark's clients"},
	{"bookworm/dev/", "stand-ins (payments, mail, identity)"},
	{"github.com/jackc/pgx", "PostgreSQL client"},
	{"bookworm/", "the shop's own code"},
	{"connectrpc.com/", "RPC (Connect, gRPC, HTTP)"},
	{"google.golang.org/grpc", "RPC (Connect, gRPC, HTTP)"},
	{"net/http", "RPC (Connect, gRPC, HTTP)"},
}

func owner(sample *pprofile.Sample) string {
	for _, location := range sample.Location {
		for _, line := range location.Line {
			name := line.Function.Name
			if strings.HasPrefix(name, "runtime.gcBgMarkWorker") || strings.HasPrefix(name, "runtime.bgsweep") {
				return "garbage collection"
			}
			for _, o := range owners {
				if strings.HasPrefix(name, o.prefix) {
					return o.name
				}
			}
		}
	}
	return "Go runtime (scheduling, network)"
}

// writes counts what the Temporal server wrote for a number of orders.
type writes struct{ creations, updates, orders float64 }

func (w writes) perOrder(n float64) float64 { return n / max(w.orders, 1) }

// counted adds the writes of n orders to those before, after everything that the
// orders set off has settled.
func (b *bench) counted(ctx context.Context, before writes, n int, work func() error) (writes, error) {
	from, err := b.scrape(ctx)
	if err != nil {
		return writes{}, err
	}
	if err := work(); err != nil {
		return writes{}, err
	}
	if err := b.settle(ctx); err != nil {
		return writes{}, err
	}
	to, err := b.scrape(ctx)
	if err != nil {
		return writes{}, err
	}
	return writes{
		creations: before.creations + to.creations - from.creations,
		updates:   before.updates + to.updates - from.updates,
		orders:    before.orders + float64(n),
	}, nil
}

// settle waits until the server has counted no write for two and a half seconds:
// it publishes its counters once a second.
func (b *bench) settle(ctx context.Context) error {
	last, err := b.scrape(ctx)
	for quiet := 0; quiet < 25 && err == nil; {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("settle: %w", context.Cause(ctx))
		}
		var now writes
		now, err = b.scrape(ctx)
		if quiet++; now != last {
			quiet, last = 0, now
		}
	}
	return err
}

// scrape reads the server's counters.
func (b *bench) scrape(ctx context.Context) (writes, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.infra.Addresses["BOOKWORM_TEMPORAL_METRICS_URL"], http.NoBody)
	if err != nil {
		return writes{}, fmt.Errorf("read temporal's metrics: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return writes{}, fmt.Errorf("read temporal's metrics: %w", err)
	}
	defer res.Body.Close()
	var w writes
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, "persistence_requests") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return writes{}, fmt.Errorf("read temporal's metrics: %w", err)
		}
		switch {
		case strings.Contains(line, `operation="CreateWorkflowExecution"`):
			w.creations += value
		case strings.Contains(line, `operation="UpdateWorkflowExecution"`):
			w.updates += value
		}
	}
	if err := lines.Err(); err != nil {
		return writes{}, fmt.Errorf("read temporal's metrics: %w", err)
	}
	return w, nil
}

func cpuModel() string {
	content, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(content)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}
