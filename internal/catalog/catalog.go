// Package catalog is the shop's books and their stock.
package catalog

import (
	"embed"

	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is what the catalogue keeps in the database.
var Schema = postgres.Schema{Name: "catalog", Migrations: migrations, Extensions: []string{"pg_trgm"}}

// Currency is what the shop sells in.
const Currency = "USD"

// Store keeps books and stock in PostgreSQL. It is safe for concurrent use, also
// by several processes.
type Store struct{ db *pgxpool.Pool }

// NewStore returns a store over a pool opened for Schema.
func NewStore(db *pgxpool.Pool) *Store { return &Store{db: db} }
