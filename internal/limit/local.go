package limit

import (
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// localCallers bounds the callers that a replica remembers. One that is forgotten,
// because so many others called since, begins anew.
const localCallers = 1 << 16

// local counts in the memory of this process, as Redis does.
type local struct {
	buckets *lru.Cache[string, *rate.Limiter]
}

func newLocal() (*local, error) {
	buckets, err := lru.New[string, *rate.Limiter](localCallers)
	if err != nil {
		return nil, fmt.Errorf("make the replica's own counts: %w", err)
	}
	return &local{buckets}, nil
}

func (l *local) take(now time.Time, class Class, key string) Decision {
	bucket, ok := l.buckets.Get(key)
	if !ok {
		fresh := rate.NewLimiter(rate.Limit(float64(class.Calls)/Window.Seconds()), class.Calls)
		if bucket, ok, _ = l.buckets.PeekOrAdd(key, fresh); !ok {
			bucket = fresh
		}
	}
	allowed := bucket.AllowN(now, 1)
	tokens := bucket.TokensAt(now)
	d := Decision{Class: class, Allowed: allowed, Remaining: max(int(tokens), 0), Reset: l.until(class, float64(class.Calls)-tokens)}
	if !allowed {
		d.Remaining, d.RetryAfter = 0, l.until(class, 1-tokens)
	}
	return d
}

// until is how long it takes to get so many calls back.
func (l *local) until(class Class, calls float64) time.Duration {
	return time.Duration(max(calls, 0) / float64(class.Calls) * float64(Window))
}
