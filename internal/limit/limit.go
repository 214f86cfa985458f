// Package limit counts how often callers call, so that nobody takes the shop from
// everybody else. The counts are in Redis, shared by all replicas; while Redis is
// away each replica counts for itself.
package limit

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"bookworm/internal/personal"
)

// Window is what every limit is counted over.
const Window = time.Minute

const (
	// redisTimeout bounds one decision. Redis answers in well under a millisecond,
	// and a caller must not wait for a count that can be had here.
	redisTimeout = 50 * time.Millisecond
	// Redis is left alone for breakerOpen after so many failures in a row.
	breakerFailures = 3
	breakerOpen     = time.Second
	// keyPrefix keeps the counts apart from what else is in Redis. Each has one key,
	// so a cluster spreads them.
	keyPrefix = "limit:"
	// minKey is the shortest key that hides callers, in bytes.
	minKey = 16
)

// Class is a kind of calls that are counted together.
type Class struct {
	// Name stands in headers, metrics and Redis keys: lower-case letters.
	Name string
	// Calls is how many one caller may make within the Window, in one burst or
	// spread. 0: as many as they like, and nothing is counted.
	Calls int
}

// Decision is what was decided of one call.
type Decision struct {
	Class
	Allowed bool
	// Remaining is how many calls the caller could make right now.
	Remaining int
	// RetryAfter is when the next call would be allowed; 0 for a call that is.
	RetryAfter time.Duration
	// Reset is when the caller has all Calls again.
	Reset time.Duration
}

// Config is what a Limiter needs.
type Config struct {
	// Redis is where the counts are shared. It need not answer.
	Redis redis.UniversalClient
	// Key hides who calls from whoever reads Redis; the same for all replicas. At
	// least 16 bytes.
	Key personal.Text
	// Logger hears when Redis goes and comes back. Nil: slog's default.
	Logger *slog.Logger
	Meter  metric.Meter
}

// Limiter decides by the generic cell rate algorithm: a caller has Calls at once,
// and gets one back every Window/Calls. It is safe for concurrent use.
type Limiter struct {
	redis     redis.UniversalClient
	alone     *local
	breaker   *gobreaker.CircuitBreaker[taken]
	key       []byte
	timeout   time.Duration // redisTimeout, but in tests
	decisions metric.Int64Counter
	duration  metric.Float64Histogram
}

// New returns a limiter. It does not ask Redis for anything yet.
func New(c Config) (*Limiter, error) {
	if len(c.Key) < minKey {
		return nil, fmt.Errorf("the limiter's key has %d bytes, not at least %d", len(c.Key), minKey)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	alone, err := newLocal()
	if err != nil {
		return nil, err
	}
	decisions, err := c.Meter.Int64Counter("bookworm_limit_decisions",
		metric.WithDescription("Calls that were counted, by class, outcome (allowed, limited) and where (redis, replica)."))
	if err != nil {
		return nil, fmt.Errorf("make the counter of decisions: %w", err)
	}
	duration, err := c.Meter.Float64Histogram("bookworm_limit_duration", metric.WithUnit("s"),
		metric.WithDescription("Time of a decision, by where it was made."),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1))
	if err != nil {
		return nil, fmt.Errorf("make the histogram of decisions: %w", err)
	}
	return &Limiter{
		redis: c.Redis, alone: alone, breaker: newBreaker(c.Logger), key: []byte(c.Key),
		timeout: redisTimeout, decisions: decisions, duration: duration,
	}, nil
}

func newBreaker(logger *slog.Logger) *gobreaker.CircuitBreaker[taken] {
	return gobreaker.NewCircuitBreaker[taken](gobreaker.Settings{
		Name:        "limits in redis",
		Timeout:     breakerOpen,
		ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= breakerFailures },
		IsExcluded:  func(err error) bool { return errors.Is(err, context.Canceled) }, // the caller left
		OnStateChange: func(_ string, from, to gobreaker.State) {
			switch {
			case from == gobreaker.StateClosed:
				logger.Warn("redis does not answer; this replica counts calls for itself")
			case to == gobreaker.StateClosed:
				logger.Warn("redis answers again; replicas count calls together")
			}
		},
	})
}

// Take counts one call of a caller and decides. It costs at most one round trip
// to Redis and never fails: while Redis is away the same limit holds for each
// replica alone.
func (l *Limiter) Take(ctx context.Context, class Class, caller string) Decision {
	if class.Calls <= 0 {
		return Decision{Class: class, Allowed: true}
	}
	started, where := time.Now(), "redis"
	key := class.Name + ":" + l.hidden(caller)
	result, err := l.breaker.Execute(func() (taken, error) { return l.ask(ctx, key, class) })
	var decision Decision
	if err == nil {
		decision = result.decision(class)
	} else {
		where, decision = "replica", l.alone.take(time.Now(), class, key)
	}
	l.note(ctx, decision, where)
	l.duration.Record(ctx, time.Since(started).Seconds(), metric.WithAttributeSet(attribute.NewSet(attribute.String("where", where))))
	return decision
}

// TakeHere counts one call on this replica alone, whatever Redis does: for limits
// so wide that they need not be exact.
func (l *Limiter) TakeHere(ctx context.Context, class Class, caller string) Decision {
	if class.Calls <= 0 {
		return Decision{Class: class, Allowed: true}
	}
	decision := l.alone.take(time.Now(), class, class.Name+":"+l.hidden(caller))
	l.note(ctx, decision, "replica")
	return decision
}

// take is the algorithm. Of each caller Redis keeps the one instant at which all
// calls are paid back; it is now or later. All times are whole microseconds, of
// Redis's own clock, so that a burst gets exactly its calls on every replica.
var take = redis.NewScript(`
local interval, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
local paid = math.max(now, tonumber(redis.call("GET", KEYS[1]) or 0))
if paid + interval - now > window then
  return {0, paid - now}
end
paid = paid + interval
redis.call("SET", KEYS[1], string.format("%.0f", paid), "PX", math.ceil((paid - now) / 1000))
return {1, paid - now}`)

// taken is the script's answer.
type taken struct {
	allowed bool
	debt    time.Duration // until all calls are paid back
}

func (l *Limiter) ask(ctx context.Context, key string, class Class) (taken, error) {
	timed, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	answer, err := take.Run(timed, l.redis, []string{keyPrefix + key}, class.interval().Microseconds(), Window.Microseconds()).Int64Slice()
	switch {
	case ctx.Err() != nil:
		return taken{}, context.Cause(ctx)
	case err != nil:
		return taken{}, fmt.Errorf("count in redis: %w", err)
	}
	return taken{answer[0] == 1, time.Duration(answer[1]) * time.Microsecond}, nil
}

// interval is the time after which a caller has one more call.
func (c Class) interval() time.Duration {
	return (Window / time.Duration(c.Calls)).Truncate(time.Microsecond)
}

func (t taken) decision(class Class) Decision {
	interval := class.interval()
	d := Decision{Class: class, Allowed: t.allowed, Remaining: int((Window - t.debt) / interval), Reset: t.debt}
	if !t.allowed {
		d.Remaining, d.RetryAfter = 0, t.debt+interval-Window
	}
	return d
}

func (l *Limiter) note(ctx context.Context, d Decision, where string) {
	outcome := "allowed"
	if !d.Allowed {
		outcome = "limited"
	}
	l.decisions.Add(ctx, 1, metric.WithAttributeSet(attribute.NewSet(
		attribute.String("class", d.Name), attribute.String("outcome", outcome), attribute.String("where", where))))
}

// hidden returns what stands for a caller in Redis.
func (l *Limiter) hidden(caller string) string {
	mac := hmac.New(sha256.New, l.key)
	mac.Write([]byte(caller))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}
