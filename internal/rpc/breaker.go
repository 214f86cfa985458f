package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"bookworm/internal/fault"
)

const (
	// breakerFailures in a row open a breaker, for breakerOpen. Then one call tries.
	breakerFailures = 5
	breakerOpen     = time.Second
)

// Breakers are the circuit breakers of a process before the services it calls, by
// name. They are safe for concurrent use.
type Breakers struct {
	logger *slog.Logger
	mu     sync.Mutex
	byName map[string]*Breaker
}

// NewBreakers returns a set without breakers, which reports their states as
// bookworm_breaker_state: 0 closed, 1 half-open, 2 open. A nil logger is slog's
// default.
func NewBreakers(logger *slog.Logger, meter metric.Meter) (*Breakers, error) {
	if logger == nil {
		logger = slog.Default()
	}
	b := &Breakers{logger: logger, byName: make(map[string]*Breaker)}
	_, err := meter.Int64ObservableGauge("bookworm_breaker_state",
		metric.WithDescription("Circuit breaker before a service: 0 closed, 1 half-open, 2 open."),
		metric.WithInt64Callback(func(_ context.Context, observer metric.Int64Observer) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			for name, breaker := range b.byName {
				observer.Observe(int64(breaker.circuit.State()), metric.WithAttributes(attribute.String("backend", name)))
			}
			return nil
		}))
	if err != nil {
		return nil, fmt.Errorf("make the gauge of breakers: %w", err)
	}
	return b, nil
}

// Of returns the breaker of a name, which is made when first asked for.
func (b *Breakers) Of(name string) *Breaker {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byName[name] == nil {
		b.byName[name] = newBreaker(name, b.logger)
	}
	return b.byName[name]
}

// States returns "closed", "half-open" or "open" for each name.
func (b *Breakers) States() map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	states := make(map[string]string, len(b.byName))
	for name, breaker := range b.byName {
		states[name] = breaker.circuit.State().String()
	}
	return states
}

// Breaker stops calls to a service that cannot be reached, so that its callers
// are answered at once and it is not met by all of them when it comes back. What a
// service answers, an error too, shows that it is there.
type Breaker struct {
	circuit *gobreaker.TwoStepCircuitBreaker[struct{}]
}

func newBreaker(name string, logger *slog.Logger) *Breaker {
	return &Breaker{gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        name,
		Timeout:     breakerOpen,
		ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= breakerFailures },
		IsExcluded:  func(err error) bool { return errors.Is(err, context.Canceled) }, // the caller left
		OnStateChange: func(name string, _, to gobreaker.State) {
			logger.Warn("breaker changed", "backend", name, "state", to.String())
		},
	})}
}

// Allow asks whether a call may be made. Whoever may calls done with nil, or with
// what kept the service from answering; context.Canceled says nothing about it.
// Error: UNAVAILABLE.
func (b *Breaker) Allow() (done func(error), err error) {
	done, err = b.circuit.Allow()
	if err != nil {
		return nil, fault.New(fault.ReasonUnavailable, "A part of the shop cannot be reached.").WithCause(err)
	}
	return done, nil
}

// Transport returns next behind the breaker.
func (b *Breaker) Transport(next http.RoundTripper) http.RoundTripper {
	return &guarded{b, next}
}

type guarded struct {
	breaker *Breaker
	next    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (g *guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	done, err := g.breaker.Allow()
	if err != nil {
		if r.Body != nil {
			err = errors.Join(err, r.Body.Close()) // as every RoundTripper must
		}
		return nil, err
	}
	response, err := g.next.RoundTrip(r)
	switch {
	case errors.Is(r.Context().Err(), context.Canceled):
		done(context.Canceled)
	case err == nil && (response.StatusCode == http.StatusBadGateway || response.StatusCode == http.StatusGatewayTimeout):
		done(fmt.Errorf("a proxy on the way answered %s", response.Status))
	default:
		done(err)
	}
	return response, err
}
