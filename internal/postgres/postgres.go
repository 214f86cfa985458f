// Package postgres opens, migrates and uses the shop's database. Each context
// has a schema and a role of its own, and no role reads another's schema.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/attribute"
)

const (
	// statementTimeout ends a statement on the server, whatever became of its
	// caller. It is far above what any statement of the shop takes.
	statementTimeout = "15s"
	// idleTransactionTimeout frees the locks of a caller that stopped in the
	// middle of a transaction without losing its connection.
	idleTransactionTimeout = "30s"

	// maxConns bounds one pool. A process has a pool for each context it runs,
	// so the sum over all processes must stay below the server's own limit.
	maxConns = 12
)

// Option changes how Open opens a pool.
type Option func(*pgxpool.Config)

// WithMaxConns bounds the pool to n connections.
func WithMaxConns(n int32) Option {
	return func(c *pgxpool.Config) { c.MaxConns = n }
}

// schemaName is what Open and Migrate accept as a name: it becomes part of SQL
// that takes no parameters.
var schemaName = regexp.MustCompile(`^[a-z][a-z_]{0,40}$`)

// Role returns the role that owns a context's schema.
func Role(schema string) string { return "bookworm_" + schema }

// Open returns a pool whose connections act as the role of one context, with
// its schema as their search path. The login of the URL must be a member of the
// role, or a superuser. Traces carry statements and never their arguments.
//
// Open connects once, so that a wrong address or a missing role fails here and
// not in the first request. The caller closes the pool.
func Open(ctx context.Context, url, schema string, options ...Option) (*pgxpool.Pool, error) {
	if !schemaName.MatchString(schema) {
		return nil, fmt.Errorf("open database: %q is no name for a schema", schema)
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err) // pgx leaves the password out
	}
	// Parameters of the connection's first message: they cost no round trip.
	actAs(config.ConnConfig, schema)
	config.ConnConfig.RuntimeParams["statement_timeout"] = statementTimeout
	config.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = idleTransactionTimeout
	config.ConnConfig.Tracer = otelpgx.NewTracer(otelpgx.WithDisableAcquireTracer())
	config.MaxConns = maxConns
	config.MinIdleConns = 1
	config.MaxConnIdleTime = 5 * time.Minute
	config.MaxConnLifetime = time.Hour
	config.MaxConnLifetimeJitter = 10 * time.Minute
	for _, option := range options {
		option(config)
	}

	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("open database as %s: %w", Role(schema), err)
	}
	// By the schema: the library's own name, the address, is the same for all pools.
	named := otelpgx.WithStatsAttributes(attribute.String("db.client.connection.pool.name", schema))
	if err := otelpgx.RecordStats(pool, named); err != nil {
		pool.Close()
		return nil, fmt.Errorf("measure the database pool: %w", err)
	}
	return pool, nil
}

func actAs(config *pgx.ConnConfig, schema string) {
	config.RuntimeParams["role"] = Role(schema)
	config.RuntimeParams["search_path"] = schema
	config.RuntimeParams["application_name"] = Role(schema)
}

const (
	transactTries  = 8
	rollbackWithin = 5 * time.Second
)

// Transact runs f in a transaction (read committed) and commits when f returns
// nil. When PostgreSQL breaks the transaction off because of another one (a
// serialization failure or a deadlock), f runs again in a new transaction, a
// bounded number of times: f must have no effect outside its transaction, and
// must start from scratch each time. The error of f is returned as it is.
func Transact(ctx context.Context, pool *pgxpool.Pool, f func(pgx.Tx) error) error {
	for try := 1; ; try++ {
		err := transactOnce(ctx, pool, f)
		if err == nil || !retryable(err) || try == transactTries {
			return err
		}
		// The other transaction needs a moment to finish; a random one, so
		// that two that collided do not collide again.
		pause := time.NewTimer(rand.N(time.Duration(try) * 5 * time.Millisecond)) //nolint:gosec // no secret
		select {
		case <-ctx.Done():
			pause.Stop()
			return err
		case <-pause.C:
		}
	}
}

func transactOnce(ctx context.Context, pool *pgxpool.Pool, f func(pgx.Tx) error) (err error) {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	// Also after a panic of f. The caller may be gone; its locks must not stay.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackWithin)
		defer cancel()
		rollback := tx.Rollback(ctx)
		// A connection that is lost has rolled back by that.
		if rollback != nil && !errors.Is(rollback, pgx.ErrTxClosed) && !tx.Conn().IsClosed() {
			err = errors.Join(err, fmt.Errorf("roll back: %w", rollback))
		}
	}()

	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

const (
	codeSerializationFailure = "40001"
	codeDeadlock             = "40P01"
)

func retryable(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == codeSerializationFailure || pg.Code == codeDeadlock)
}
