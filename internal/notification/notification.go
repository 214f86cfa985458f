// Package notification is what the shop tells its shoppers: their preferences,
// the mails it writes, and the record of what became of each.
package notification

import (
	"crypto/hmac"
	"crypto/sha256"
	"embed"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/personal"
	"bookworm/internal/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is the context's part of the database.
var Schema = postgres.Schema{Name: "notification", Migrations: migrations}

// Store keeps preferences and deliveries in PostgreSQL. It is safe for concurrent
// use by any number of processes.
type Store struct {
	pool *pgxpool.Pool
	key  []byte
}

// minKey is the shortest key that makes guessing it harder than guessing
// addresses, in bytes.
const minKey = 32

// NewStore returns a store over a pool opened for Schema. The key (32 bytes or
// more, of any kind) turns addresses into the hashes that deliveries are kept
// under. It belongs to the deployment: with another key the store knows none of
// the mails sent before, and the promise of at most one starts anew.
func NewStore(pool *pgxpool.Pool, key personal.Text) (*Store, error) {
	if len(key) < minKey {
		return nil, errors.New("the notification key has fewer than 32 bytes")
	}
	return &Store{pool: pool, key: []byte(key)}, nil
}

// hash is the keyed hash of texts. An address is hashed in lower case: mail
// systems that tell Alice@ from alice@ are of the past, and shoppers who type both
// are not.
func (s *Store) hash(texts ...string) []byte {
	h := hmac.New(sha256.New, s.key)
	for _, text := range texts {
		h.Write([]byte(text)) // a hash's Write never fails
		h.Write([]byte{0})    // so that ("a", "bc") is not ("ab", "c")
	}
	return h.Sum(nil)
}

func normalize(address personal.Text) string {
	return strings.ToLower(strings.TrimSpace(string(address)))
}
