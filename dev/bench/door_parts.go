package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/metric/noop"

	"bookworm/internal/identity"
	"bookworm/internal/limit"
	"bookworm/internal/redis"
)

// parts measures what the door does for each request, one call at a time.
func (d *door) parts(ctx context.Context, out io.Writer) (err error) {
	verifier, err := identity.NewVerifier(ctx, identity.VerifierConfig{Issuer: d.shop.Identity.URL(), Audience: "bookworm-api"})
	if err != nil {
		return err
	}
	tokens := make([]string, calls)
	for n := range tokens {
		if tokens[n], err = d.shop.Identity.IssueWith("alice", map[string]any{"sub": uuid.NewString(), "exp": time.Now().Add(time.Hour).Unix()}); err != nil {
			return fmt.Errorf("make a token: %w", err)
		}
	}
	cache, err := redis.Open(ctx, d.settings["BOOKWORM_REDIS_URL"])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cache.Close()) }()
	limiter, err := limit.New(limit.Config{Redis: cache, Key: "a key of the benchmark", Meter: noop.Meter{}})
	if err != nil {
		return fmt.Errorf("make a limiter: %w", err)
	}
	browse := limit.Class{Name: "bench", Calls: 1_000_000}
	verify := func(n int) error {
		_, err := verifier.Verify(ctx, tokens[n])
		return err
	}
	fmt.Fprintf(out, "\nWhat the door does for each request, %d calls, one at a time:\n\n", calls)
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tp50 µs\tp99 µs\tgoal p50\t")
	for _, part := range []struct {
		name, goal string
		call       func(n int) error
	}{
		{"a token seen for the first time", "<= 100", verify},
		{"a token seen before", "<= 100", func(int) error { return verify(calls - 1) }},
		{"a limit's decision", "<= 500", func(n int) error {
			if decision := limiter.Take(ctx, browse, tokens[n%100]); !decision.Allowed {
				return errors.New("refused")
			}
			return nil
		}},
		{"Redis, PING", "", func(int) error { return cache.Ping(ctx).Err() }},
	} {
		took := make([]time.Duration, 0, calls)
		for n := range calls {
			began := time.Now()
			if err := part.call(n); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%s\t\n", part.name, 1000*ms(at(took, 0.5)), 1000*ms(at(took, 0.99)), part.goal)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
