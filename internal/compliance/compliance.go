// Package compliance is what the law and auditors ask of the shop: people's
// requests for their own data, the key with which each shopper's data is sealed,
// and the log of what the shop's staff did.
package compliance

import (
	"embed"

	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is what the context keeps in the database.
var Schema = postgres.Schema{Name: "compliance", Migrations: migrations}

// Store keeps requests, keys and the audit log in PostgreSQL. It is safe for
// concurrent use, also by several processes.
type Store struct{ db *pgxpool.Pool }

// NewStore returns a store over a pool opened for Schema.
func NewStore(db *pgxpool.Pool) *Store { return &Store{db: db} }
