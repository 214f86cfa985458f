package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	"bookworm/internal/rpc"
	"bookworm/internal/telemetry"
)

// importance is what calls are shed by: each has places of its own, so that a
// crowd of readers keeps nobody from ordering.
type importance int

const (
	reading importance = iota
	writing
	ordering
	importances
)

func (i importance) String() string { return [...]string{"read", "write", "order"}[i] }

// importanceOf returns that of a class of calls.
func importanceOf(class accessv1.Limit) importance {
	switch class {
	case accessv1.Limit_LIMIT_CHECKOUT:
		return ordering
	case accessv1.Limit_LIMIT_WRITE:
		return writing
	default:
		return reading
	}
}

// placesFor returns the least and the most number of calls of each importance at
// once on so many processors. Between them the number follows what calls take.
func placesFor(processors int) [importances]struct{ least, most uint } {
	n := uint(max(processors, 1))
	return [importances]struct{ least, most uint }{
		reading:  {4 * n, 256 * n},
		writing:  {4 * n, 128 * n},
		ordering: {16 * n, 128 * n},
	}
}

// baseline is how many looks of a second or more make what calls used to take. A
// short memory would take an overload of minutes for how things are.
const baseline = 100

// patience is how long a call waits for a place: a burst of ordinary pages is
// served a few milliseconds later and not turned away. No more calls wait than
// there are places.
const patience = 50 * time.Millisecond

// shedder turns calls away at once that would only wait. How many calls may be
// under way follows their times: while they grow against what they used to be, the
// shop has more than it can do, and fewer get in.
type shedder struct {
	limiters [importances]adaptivelimiter.AdaptiveLimiter[any]
	turned   metric.Int64Counter
	logger   *slog.Logger
	told     atomic.Int64 // when the log last heard of it, in Unix seconds
}

func newShedder(logger *slog.Logger, meter metric.Meter) (*shedder, error) {
	s := &shedder{logger: logger}
	for i, n := range placesFor(runtime.GOMAXPROCS(0)) {
		s.limiters[i] = adaptivelimiter.NewBuilder[any]().WithLimits(n.least, n.most, n.least).WithBaselineWindow(baseline).Build()
	}
	var err error
	if s.turned, err = meter.Int64Counter("bookworm_gateway_shed",
		metric.WithDescription("Calls turned away because too many were under way, by importance.")); err != nil {
		return nil, fmt.Errorf("make the counter of shed calls: %w", err)
	}
	_, err = meter.Int64ObservableGauge("bookworm_gateway_places",
		metric.WithDescription("Calls that may be under way at once, and those that are (state limit, taken), by importance."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			for i, limiter := range s.limiters {
				for state, n := range map[string]int{"limit": limiter.Limit(), "taken": limiter.Inflight()} {
					o.Observe(int64(n), metric.WithAttributes(attribute.String("importance", importance(i).String()), attribute.String("state", state)))
				}
			}
			return nil
		}))
	if err != nil {
		return nil, fmt.Errorf("make the gauge of places: %w", err)
	}
	return s, nil
}

// full reports whether a call would be turned away now.
func (s *shedder) full(i importance) bool {
	limiter := s.limiters[i]
	return !limiter.CanAcquirePermit() && limiter.Queued() >= limiter.Limit()
}

// take takes a place for a call. Whoever has one calls leave when the call ended,
// and says whether what it took shows how the shop does.
func (s *shedder) take(ctx context.Context, i importance) (leave func(telling bool), f *fault.Error) {
	permit, ok := s.limiters[i].TryAcquirePermit()
	if !ok && !s.full(i) {
		var err error
		permit, err = s.limiters[i].AcquirePermitWithMaxWait(ctx, patience)
		ok = err == nil
	}
	if !ok {
		return nil, s.turnAway(ctx, i)
	}
	return func(telling bool) {
		if telling {
			permit.Record()
		} else {
			permit.Drop()
		}
	}, nil
}

// tellEvery is how often the log hears that calls are turned away, in seconds. A
// line for each would be work that there is too much of already.
const tellEvery = 10

func (s *shedder) turnAway(ctx context.Context, i importance) *fault.Error {
	s.turned.Add(ctx, 1, metric.WithAttributeSet(attribute.NewSet(attribute.String("importance", i.String()))))
	now, last := time.Now().Unix(), s.told.Load()
	if now >= last+tellEvery && s.told.CompareAndSwap(last, now) {
		s.logger.WarnContext(ctx, "calls are turned away", "importance", i.String(), "under_way", s.limiters[i].Inflight())
	}
	return fault.New(fault.ReasonOverloaded, "")
}

// shed turns a request away before anything is done for it when there is no place
// for it anyway. Requests that get past it and find none later are told so then.
func (g *gateway) shed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := g.guess(r)
		if !g.shedder.full(i) {
			next.ServeHTTP(w, r)
			return
		}
		ctx := telemetry.EnsureTrace(r.Context())
		r = r.WithContext(ctx)
		dress(ctx, w.Header(), g.hsts)
		if g.cors != nil {
			g.cors.HandlerFunc(w, r)
		}
		g.refuseRPC(w, r, g.shedder.turnAway(ctx, i))
	})
}

// guess returns the importance of a request from its path alone.
func (g *gateway) guess(r *http.Request) importance {
	if called, ok := g.procedures[r.URL.Path]; ok {
		return importanceOf(rpc.LimitOf(called.method))
	}
	if r.URL.Path == webhookPath {
		return writing
	}
	for _, p := range g.prefixes[r.Method] {
		if strings.HasPrefix(r.URL.Path, p.path) {
			return p.importance
		}
	}
	return reading
}

// prefix is how the paths of routes begin.
type prefix struct {
	path       string
	importance importance
}

// prefixesOf returns the prefixes of routes by HTTP method, the longest first.
func prefixesOf(routes map[string]route) map[string][]prefix {
	all := make(map[string][]prefix)
	for _, r := range routes {
		path, _, _ := strings.Cut(r.template, "{")
		all[r.verb] = append(all[r.verb], prefix{path, importanceOf(rpc.LimitOf(r.method))})
	}
	for _, of := range all {
		slices.SortFunc(of, func(a, b prefix) int { return len(b.path) - len(a.path) })
	}
	return all
}

// begin takes the place that a call needs while it is answered: one of the
// shedder's, or one of the caller's streams. Whoever has it calls end.
func (g *gateway) begin(r *http.Request, streaming bool, class accessv1.Limit, caller string) (end func(), f *fault.Error) {
	seen := recordOf(r.Context())
	if streaming {
		seen.streams = true
		return g.streams.begin(caller)
	}
	leave, f := g.shedder.take(r.Context(), importanceOf(class))
	if f != nil {
		return nil, f
	}
	return func() {
		// A refusal is fast and a call whose caller left is cut short: neither shows
		// what the shop's work takes.
		leave(seen.status < http.StatusBadRequest && r.Context().Err() == nil)
	}, nil
}
