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
)

// Health serves /health/live and /health/ready of one process. It is safe for
// concurrent use.
type Health struct {
	checks   map[string]Check
	logger   *slog.Logger
	draining atomic.Bool

	mu     sync.Mutex // held during a look, so that others wait for its result
	last   map[string]error
	lastAt time.Time
}

// New returns the health of a process that depends on what is checked, by name.
// A nil logger is slog's default.
func New(checks map[string]Check, logger *slog.Logger) *Health {
	if logger == nil {
		logger = slog.Default()
	}
	return &Health{checks: checks, logger: logger}
}

// Drain makes the process not ready for good: it is about to end.
func (h *Health) Drain() { h.draining.Store(true) }

// Register adds /health/live and /health/ready to a mux.
func (h *Health) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /health/live", h.Live)
	mux.HandleFunc("GET /health/ready", h.Ready)
}

const (
	statusOK       = "ok"
	statusFailing  = "failing"
	statusDraining = "draining"
)

type report struct {
	Status string           `json:"status"`
	Checks map[string]check `json:"checks,omitempty"`
}

type check struct {
	Status string `json:"status"`
}

// Live answers 200 for as long as the process can answer at all. It checks
// nothing: restarting a process does not mend what it depends on.
func (h *Health) Live(w http.ResponseWriter, _ *http.Request) {
	h.write(w, http.StatusOK, report{Status: statusOK})
}

// Ready answers 200 when every check passed within the last second, and 503 when
// one failed or the process drains. The answer names the checks, not their errors.
func (h *Health) Ready(w http.ResponseWriter, r *http.Request) {
	answer, code := report{Status: statusOK, Checks: make(map[string]check)}, http.StatusOK
	for name, err := range h.look(r.Context()) {
		answer.Checks[name] = check{Status: statusOK}
		if err != nil {
			answer.Checks[name] = check{Status: statusFailing}
			answer.Status, code = statusFailing, http.StatusServiceUnavailable
		}
	}
	if h.draining.Load() {
		answer.Status, code = statusDraining, http.StatusServiceUnavailable
	}
	h.write(w, code, answer)
}

// look returns each check's result, fresh or up to a second old. The checks do
// not end with the probe that caused them, because others get their results too.
func (h *Health) look(ctx context.Context) map[string]error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last != nil && time.Since(h.lastAt) < cacheTime {
		return h.last
	}
	ctx, cancel := context.WithTimeout(telemetry.Untraced(context.WithoutCancel(ctx)), checkTimeout)
	defer cancel()

	type result struct {
		name string
		err  error
	}
	results := make(chan result, len(h.checks)) // room for all, so that a late check never waits
	for name, run := range h.checks {
		go func() { results <- result{name, guarded(ctx, run)} }()
	}
	found := make(map[string]error, len(h.checks))
	for range h.checks {
		select {
		case r := <-results:
			found[r.name] = r.err
		case <-ctx.Done():
		}
	}
	for name := range h.checks {
		if _, answered := found[name]; !answered {
			found[name] = fmt.Errorf("no answer within %v: %w", checkTimeout, ctx.Err())
		}
	}
	h.report(found)
	h.last, h.lastAt = found, time.Now()
	return found
}

// report logs checks whose result changed, so that a long outage is two lines.
func (h *Health) report(found map[string]error) {
	for name, err := range found {
		failedBefore := h.last[name] != nil
		switch {
		case err != nil && !failedBefore:
			h.logger.Error("health check fails", "check", name, "error", err)
		case err == nil && failedBefore:
			h.logger.Info("health check passes again", "check", name)
		}
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

func (h *Health) write(w http.ResponseWriter, code int, answer report) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		h.logger.Debug("health answer not sent", "error", err) // the prober went away
	}
}
