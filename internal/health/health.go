// Package health tells whoever runs a process whether it lives and whether it
// can serve.
package health

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"bookworm/internal/telemetry"
)

// Check says whether a dependency answers. It must return when ctx ends. Its
// error goes to the log and never to the caller.
type Check func(ctx context.Context) error

const (
	// checkTimeout bounds all checks of one look together.
	checkTimeout = time.Second
	// cacheTime is how long a result is given again, so that probes cost a
	// dependency at most one check a second.
	cacheTime = time.Second
	// optionalTimeout bounds the optional checks of one look together, and optionalTime
	// is how long their results are given again.
	optionalTimeout = 2 * time.Second
	optionalTime    = 5 * time.Second
)

// Health serves /health/live and /health/ready of one process. It is safe for
// concurrent use.
type Health struct {
	checks   map[string]Check
	logger   *slog.Logger
	version  string
	started  time.Time
	draining atomic.Bool

	mu     sync.Mutex // held during a look, so that others wait for its result
	last   map[string]result
	lastAt time.Time

	optional   map[string]Check
	optionalMu sync.Mutex
	// beside are the results of the optional checks, as of the last look at them.
	beside    map[string]result
	besideAt  time.Time
	besideNow bool // a look is under way
}

// result is what one check said.
type result struct {
	err   error
	took  time.Duration
	since time.Time // when it began to pass, or to fail
}

// New returns the health of a process that depends on what is checked, by name.
// A nil logger is slog's default.
func New(checks map[string]Check, logger *slog.Logger) *Health {
	if logger == nil {
		logger = slog.Default()
	}
	return &Health{checks: checks, logger: logger, started: time.Now()}
}

// Optional adds checks of what the process can do without: where one fails, the
// process is degraded, and still ready. They are looked at beside the probes, every
// few seconds while there are any, so none waits for them. Call it before Register.
func (h *Health) Optional(checks map[string]Check) { h.optional = checks }

// Version names the build, for the status page. Call it before Register.
func (h *Health) Version(version string) { h.version = version }

// Drain makes the process not ready for good: it is about to end.
func (h *Health) Drain() { h.draining.Store(true) }

// Register adds /health/live and /health/ready to a mux.
func (h *Health) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /health/live", h.Live)
	mux.HandleFunc("GET /health/ready", h.Ready)
}

// The states of a process and of a check.
const (
	StatusOK       = "ok"
	StatusDegraded = "degraded" // a process whose optional check fails
	StatusFailing  = "failing"
	StatusDraining = "draining" // a process that is about to end
	StatusUnknown  = "unknown"  // an optional check that has not been looked at yet
)

// Report is the answer of /health/ready, which the status page reads too.
type Report struct {
	Status  string           `json:"status"`
	Version string           `json:"version,omitempty"`
	Started time.Time        `json:"start_time,omitzero"`
	Checks  map[string]State `json:"checks,omitempty"`
}

// State is what one check of a report says.
type State struct {
	Status   string    `json:"status"`
	Optional bool      `json:"optional,omitempty"`
	Millis   float64   `json:"duration_ms"`
	Since    time.Time `json:"since,omitzero"`
}

// Live answers 200 for as long as the process can answer at all. It checks
// nothing: restarting a process does not mend what it depends on.
func (h *Health) Live(w http.ResponseWriter, _ *http.Request) {
	h.write(w, http.StatusOK, Report{Status: StatusOK})
}

// Ready answers 200 when every check passed within the last second, and 503 when
// one failed or the process drains. The answer names the checks, not their errors.
func (h *Health) Ready(w http.ResponseWriter, r *http.Request) {
	answer, code := Report{Status: StatusOK, Version: h.version, Started: h.started.UTC(), Checks: make(map[string]State)}, http.StatusOK
	for name, found := range h.lookBeside(r.Context()) {
		answer.Checks[name] = found.state(true)
		if found.err != nil {
			answer.Status = StatusDegraded
		}
	}
	for name, found := range h.look(r.Context()) {
		answer.Checks[name] = found.state(false)
		if found.err != nil {
			answer.Status, code = StatusFailing, http.StatusServiceUnavailable
		}
	}
	if h.draining.Load() {
		answer.Status, code = StatusDraining, http.StatusServiceUnavailable
	}
	h.write(w, code, answer)
}

func (r result) state(optional bool) State {
	s := State{Status: StatusOK, Optional: optional, Millis: float64(r.took.Microseconds()) / 1000, Since: r.since.UTC()}
	switch {
	case r.since.IsZero():
		s.Status = StatusUnknown
	case r.err != nil:
		s.Status = StatusFailing
	}
	return s
}

// look returns each check's result, fresh or up to a second old. The checks do
// not end with the probe that caused them, because others get their results too.
func (h *Health) look(ctx context.Context) map[string]result {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last != nil && time.Since(h.lastAt) < cacheTime {
		return h.last
	}
	h.last = h.run(context.WithoutCancel(ctx), h.checks, checkTimeout, h.last)
	h.lastAt = time.Now()
	return h.last
}

// lookBeside returns the last result of each optional check, and begins another
// look when that is old. A dependency that hangs must not make a probe late.
func (h *Health) lookBeside(ctx context.Context) map[string]result {
	h.optionalMu.Lock()
	defer h.optionalMu.Unlock()
	if h.beside == nil {
		h.beside = make(map[string]result)
		for name := range h.optional {
			h.beside[name] = result{}
		}
	}
	if len(h.optional) > 0 && !h.besideNow && time.Since(h.besideAt) >= optionalTime {
		h.besideNow = true
		last := h.beside
		go func() { // ends within the checks' timeout
			found := h.run(context.WithoutCancel(ctx), h.optional, optionalTimeout, last)
			h.optionalMu.Lock()
			defer h.optionalMu.Unlock()
			h.beside, h.besideAt, h.besideNow = found, time.Now(), false
		}()
	}
	return h.beside
}

// run runs checks side by side until all have answered or the time is over.
func (h *Health) run(ctx context.Context, checks map[string]Check, timeout time.Duration, last map[string]result) map[string]result {
	ctx, cancel := context.WithTimeout(telemetry.Untraced(ctx), timeout)
	defer cancel()
	type answer struct {
		name string
		result
	}
	began := time.Now()
	answers := make(chan answer, len(checks)) // room for all, so that a late check never waits
	for name, run := range checks {
		go func() {
			err := guarded(ctx, run)
			answers <- answer{name, result{err: err, took: time.Since(began)}}
		}()
	}
	found := make(map[string]result, len(checks))
	for range checks {
		select {
		case a := <-answers:
			found[a.name] = a.result
		case <-ctx.Done():
		}
	}
	for name := range checks {
		r, answered := found[name]
		if !answered {
			r = result{err: fmt.Errorf("no answer within %v: %w", timeout, ctx.Err()), took: timeout}
		}
		before := last[name]
		r.since = before.since
		if r.since.IsZero() || (before.err == nil) != (r.err == nil) {
			r.since = time.Now()
		}
		h.report(name, before, r)
		found[name] = r
	}
	return found
}

// report logs a check whose result changed, so that a long outage is two lines.
func (h *Health) report(name string, before, now result) {
	switch {
	case now.err != nil && before.err == nil:
		h.logger.Error("health check fails", "check", name, "error", now.err)
	case now.err == nil && before.err != nil:
		h.logger.Info("health check passes again", "check", name)
	}
}

func guarded(ctx context.Context, run Check) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("the check panicked: %v", value)
		}
	}()
	return run(ctx)
}

func (h *Health) write(w http.ResponseWriter, code int, answer Report) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		h.logger.Debug("health answer not sent", "error", err) // the prober went away
	}
}
