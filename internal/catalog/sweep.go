package catalog

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/postgres"
)

// ReleaseExpired gives back up to limit holds whose time is over and returns how
// many it was. It passes over holds that another transaction is working on, and
// several processes may run it at once.
func (s *Store) ReleaseExpired(ctx context.Context, limit int) (n int, err error) {
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			WITH expired AS MATERIALIZED (
				SELECT hold_id FROM hold
				WHERE state = 'held' AND expires_at <= now()
				ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
			)
			UPDATE hold SET state = 'released', updated_at = now()
			FROM expired WHERE hold.hold_id = expired.hold_id
			RETURNING hold.hold_id`, limit)
		if err != nil {
			return err
		}
		expired, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return err
		}
		n = len(expired)
		if n == 0 {
			return nil
		}
		return unreserve(ctx, tx, expired...)
	})
	if err != nil {
		return 0, fmt.Errorf("release expired holds: %w", err)
	}
	return n, nil
}

// sweepBatch bounds how many holds one transaction of SweepExpired locks.
const sweepBatch = 100

// SweepExpired releases expired holds every interval until ctx is done, and logs
// what goes wrong: an order whose process died gives its copies back that way.
// It blocks; the caller waits for it.
func (s *Store) SweepExpired(ctx context.Context, interval time.Duration, logger *slog.Logger) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		n, err := s.ReleaseExpired(ctx, sweepBatch)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			logger.ErrorContext(ctx, "expired holds were not released", "error", err)
		case n > 0:
			logger.InfoContext(ctx, "released expired holds", "count", n)
		}
		if n == sweepBatch {
			continue // there are more
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
