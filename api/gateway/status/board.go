// Package status is the shop's health page: every service and dependency, as a
// page for people and as JSON for programs.
//
// A board asks each process for its health in the background and keeps what they
// said for an hour. A request is answered from a page that is ready, so that many
// of them cost next to nothing, and so does nobody's.
package status

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"bookworm/internal/health"
	"bookworm/internal/telemetry"
)

// Target is a part of the shop that is asked for its health.
type Target struct {
	// Name is the context's, or what operators call the process.
	Name string
	// Kind is "api", "worker" or the like, as people read it.
	Kind string
	// URL is the address of the process, whose /health/ready is asked. Several parts
	// may be in one process, which is asked once.
	URL string
}

// Options is what a board needs.
type Options struct {
	Targets []Target
	// Version and Started are the gateway's own.
	Version string
	Started time.Time
	// Breakers returns the state of each circuit breaker by name ("closed", "open",
	// "half-open"); nil: none are shown.
	Breakers func() map[string]string
	// Client asks; nil: one of the board's own.
	Client *http.Client
	// Logger gets what changes. Nil: slog's default.
	Logger *slog.Logger
}

const (
	// watched is the time between two looks while somebody reads the page, quiet while
	// nobody does, and watching how long a reader counts.
	watched  = 5 * time.Second
	quiet    = 30 * time.Second
	watching = time.Minute
	// askTimeout bounds one look at one process.
	askTimeout = 2 * time.Second
	// maxReport bounds what is read of a process's answer, in bytes.
	maxReport = 64 << 10
	// minutes is how much of the past is kept.
	minutes = 60
)

// Board is the health page. Run keeps it up to date; it is safe for concurrent use.
type Board struct {
	options Options
	client  *http.Client
	logger  *slog.Logger

	page     atomic.Pointer[page] // nil before the first look
	first    chan struct{}        // closed after it
	wake     chan struct{}
	lastRead atomic.Int64 // unix nanoseconds

	// Of Run alone.
	past  map[string]*past
	known map[string]Level
	since map[string]time.Time
}

// New returns a board that has not looked yet.
func New(options Options) *Board {
	b := &Board{
		options: options, client: options.Client, logger: options.Logger,
		first: make(chan struct{}), wake: make(chan struct{}, 1),
		past: make(map[string]*past), known: make(map[string]Level), since: make(map[string]time.Time),
	}
	if b.client == nil {
		b.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: 2 * quiet, ResponseHeaderTimeout: askTimeout}}
	}
	if b.logger == nil {
		b.logger = slog.Default()
	}
	return b
}

// Run looks at the shop until ctx ends: every few seconds while somebody reads the
// page, else twice a minute.
func (b *Board) Run(ctx context.Context) error {
	for {
		if err := b.look(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it ends as it should
		}
		pause := time.NewTimer(b.pause())
		for waits := true; waits; {
			select {
			case <-ctx.Done():
				pause.Stop()
				return nil
			case <-b.wake: // somebody came: the next look is sooner
				if left := time.Until(b.page.Load().at.Add(watched)); left > 0 {
					pause.Reset(left)
					continue
				}
				waits = false
			case <-pause.C:
				waits = false
			}
		}
		pause.Stop()
	}
}

func (b *Board) pause() time.Duration {
	if time.Since(time.Unix(0, b.lastRead.Load())) < watching {
		return watched
	}
	return quiet
}

// answer is what a process said.
type answer struct {
	report health.Report
	took   time.Duration
	err    error
}

// look asks every process and makes a new page.
func (b *Board) look(ctx context.Context) error {
	answers := make(map[string]answer)
	var mu sync.Mutex
	var group errgroup.Group
	for _, address := range b.addresses() {
		group.Go(func() error {
			a := b.ask(ctx, address)
			mu.Lock()
			defer mu.Unlock()
			answers[address] = a
			return nil
		})
	}
	_ = group.Wait() // none of them fails
	if ctx.Err() != nil {
		return nil //nolint:nilerr // half a look is none
	}
	p, err := b.draw(time.Now(), answers)
	if err != nil {
		return fmt.Errorf("draw the status page: %w", err)
	}
	if b.page.Swap(p) == nil {
		close(b.first)
	}
	return nil
}

func (b *Board) addresses() []string {
	var addresses []string
	for _, t := range b.options.Targets {
		addresses = append(addresses, t.URL)
	}
	slices.Sort(addresses)
	return slices.Compact(addresses)
}

// ask asks a process, twice where it does not answer: one lost packet is no outage.
func (b *Board) ask(ctx context.Context, address string) (a answer) {
	for range 2 {
		began := time.Now()
		a.report, a.err = b.askOnce(ctx, address)
		if a.took = time.Since(began); a.err == nil {
			return a
		}
	}
	return a
}

func (b *Board) askOnce(ctx context.Context, address string) (report health.Report, err error) {
	ctx, cancel := context.WithTimeout(telemetry.Untraced(ctx), askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(address, "/")+"/health/ready", http.NoBody)
	if err != nil {
		return report, fmt.Errorf("ask for health: %w", err)
	}
	response, err := b.client.Do(request)
	if err != nil {
		return report, fmt.Errorf("ask for health: %w", err)
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxReport))
	if err != nil {
		return report, fmt.Errorf("read a health report: %w", err)
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusServiceUnavailable {
		return report, fmt.Errorf("asked for health, got %s", response.Status) //nolint:err113 // goes to the log
	}
	if err := json.Unmarshal(body, &report); err != nil {
		return report, fmt.Errorf("read a health report: %w", err)
	}
	return report, nil
}

// page is one look at the shop, ready to be sent.
type page struct {
	at         time.Time
	code       int
	html, json []byte
}

// ServeHTTP answers GET /status and /status.json: 200 while the shop is ok or
// degraded, and 503 when it is down, for those who watch by the status alone. The
// page is for who accepts text/html first; others get JSON.
func (b *Board) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.lastRead.Store(time.Now().UnixNano())
	select {
	case b.wake <- struct{}{}:
	default:
	}
	select { // the first look takes milliseconds, and a dead process two seconds
	case <-b.first:
	case <-r.Context().Done():
		return
	case <-time.After(2 * askTimeout):
	}
	p := b.page.Load()
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Vary", "Accept")
	switch {
	case p == nil:
		header.Set("Content-Type", "application/json")
		header.Set("Retry-After", "2")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"status":"unknown"}`+"\n") // who does not take it has left
	case wantsJSON(r):
		header.Set("Content-Type", "application/json")
		b.send(w, p.code, p.json)
	default:
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Security-Policy", pagePolicy)
		b.send(w, p.code, p.html)
	}
}

func (b *Board) send(w http.ResponseWriter, code int, body []byte) {
	w.WriteHeader(code)
	if _, err := w.Write(body); err != nil {
		b.logger.Debug("status not sent", "error", err) // the reader went away
	}
}

// wantsJSON tells programs from browsers: these accept text/html before anything
// else.
func wantsJSON(r *http.Request) bool {
	if strings.HasSuffix(r.URL.Path, ".json") {
		return true
	}
	accept := r.Header.Get("Accept")
	page := strings.Index(accept, "text/html")
	return page < 0 || cmp.Compare(strings.Index(accept, "application/json"), page) < 0 && strings.Contains(accept, "application/json")
}
