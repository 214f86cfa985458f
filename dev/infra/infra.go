// Package infra runs the parts of the embedded stack that keep data: PostgreSQL,
// Redis where it is installed and Temporal with its Web UI, each the real thing,
// and the stand-in for Qdrant. It is apart from the shop so that tests can run the
// shop with the race detector against servers built without it.
package infra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"bookworm/dev/folder"
	"bookworm/dev/qdrant"
	"bookworm/dev/redis"
	"bookworm/dev/temporal"
	"bookworm/internal/postgres/cluster"
	"bookworm/internal/process"
)

// Namespace is the Temporal namespace of the embedded stack.
const Namespace = "bookworm"

// Infra is the running set.
type Infra struct {
	Addresses folder.Addresses
	RedisKind string // "redis 7.0.15" or "miniredis"

	postgres *cluster.Cluster
	qdrant   *qdrant.Server
	redis    *redis.Server
	temporal *temporal.Server
}

// Start runs all parts on the folder and returns when they answer. What was
// started is stopped again when one of them fails.
func Start(ctx context.Context, f *folder.Folder, logger *slog.Logger) (*Infra, error) {
	ports := make(map[string]int)
	for part, preferred := range map[string]int{
		"postgres": 5433, "redis": 6380, "temporal": 7233, "temporal-http": 7243, "temporal-ui": 8233, "temporal-metrics": 7253,
		"qdrant": 6334,
	} {
		var err error
		if ports[part], err = f.Port(ctx, part, preferred); err != nil {
			return nil, err
		}
	}
	i := &Infra{}
	// Not errgroup.WithContext: a part must not die with the context of its start.
	var group errgroup.Group
	group.Go(func() (err error) {
		i.postgres, err = cluster.Start(ctx, cluster.Options{DataDir: f.Sub("postgres"), Port: ports["postgres"]})
		return wrap("start postgresql", err)
	})
	group.Go(func() (err error) {
		i.qdrant, err = qdrant.Start(ctx, qdrant.Options{DataDir: f.Sub("qdrant"), Port: ports["qdrant"], Logger: logger})
		return wrap("start qdrant", err)
	})
	group.Go(func() (err error) {
		i.redis, err = redis.Start(ctx, redis.Options{DataDir: f.Sub("redis"), Port: ports["redis"], Logger: logger})
		return wrap("start redis", err)
	})
	group.Go(func() (err error) {
		i.temporal, err = temporal.Start(ctx, temporal.Options{
			DataDir: f.Sub("temporal"), Namespace: Namespace, SearchAttributes: process.SearchAttributes, Logger: logger,
			FrontendPort: ports["temporal"], HTTPPort: ports["temporal-http"], UIPort: ports["temporal-ui"], MetricsPort: ports["temporal-metrics"],
		})
		return wrap("start temporal", err)
	})
	if err := group.Wait(); err != nil {
		return nil, errors.Join(err, i.Stop())
	}
	i.RedisKind = i.redis.Kind()
	i.Addresses = folder.Addresses{
		"BOOKWORM_DATABASE_URL":         i.postgres.URL(),
		"BOOKWORM_QDRANT_ADDRESS":       i.qdrant.Address(),
		"BOOKWORM_REDIS_URL":            "redis://" + i.redis.Address(),
		"BOOKWORM_TEMPORAL_ADDRESS":     i.temporal.Address(),
		"BOOKWORM_TEMPORAL_NAMESPACE":   Namespace,
		"BOOKWORM_TEMPORAL_UI_URL":      i.temporal.UIURL(),
		"BOOKWORM_TEMPORAL_METRICS_URL": i.temporal.MetricsURL(),
	}
	return i, nil
}

// Stop ends all parts.
func (i *Infra) Stop() error {
	var errs []error
	if i.temporal != nil {
		i.temporal.Stop()
	}
	if i.qdrant != nil {
		i.qdrant.Stop()
	}
	if i.redis != nil {
		errs = append(errs, wrap("stop redis", i.redis.Stop()))
	}
	if i.postgres != nil {
		errs = append(errs, wrap("stop postgresql", i.postgres.Stop()))
	}
	return errors.Join(errs...)
}

func wrap(op string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}
