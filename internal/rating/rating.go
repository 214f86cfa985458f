// Package rating is what shoppers think of books: reviews, their moderation, and
// how they rate a book together.
package rating

import (
	"embed"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/fault"
	"bookworm/internal/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is what the context keeps in the database.
var Schema = postgres.Schema{Name: "rating", Migrations: migrations}

// Store keeps reviews in PostgreSQL. It is safe for concurrent use, also by
// several processes.
//
// Every transaction locks reviews first, then ratings, then summaries, several of a
// kind in the order of their ids, so that no two wait for each other.
type Store struct{ db *pgxpool.Pool }

// NewStore returns a store over a pool opened for Schema.
func NewStore(db *pgxpool.Pool) *Store { return &Store{db: db} }

// Review is one shopper's opinion of one book.
type Review struct {
	ID               uuid.UUID
	BookID           uuid.UUID
	Subject          string // its author, who is never shown to others
	Stars            int32  // 1 to 5
	Title, Text      string
	Version          int64 // grows with each change of words or stars; not with moderation
	Status           Status
	Reason           string // why it was rejected or waits, for its author and operators
	VerifiedPurchase bool
	Helpful          int32
	CreatedAt        time.Time
	UpdatedAt        time.Time // when words or stars last changed
}

// Status is where a review is in moderation.
type Status string

// The states of a review. Any may follow any: an edit leads back to Pending, a
// decision of an operator from everywhere to Published or Rejected.
const (
	Pending   Status = "PENDING"   // rules and model look at it
	InQueue   Status = "IN_QUEUE"  // waits for an operator
	Published Status = "PUBLISHED" // the only state that others see and that counts
	Rejected  Status = "REJECTED"
)

// space is the namespace of review ids.
var space = uuid.MustParse("6f2b4a57-5b0b-4a6e-9b0a-3a7f0b5d8c11")

// ReviewID returns the id of a shopper's review of a book. It is derived, so there
// can be no second one.
func ReviewID(book uuid.UUID, subject string) uuid.UUID {
	return uuid.NewSHA1(space, append(book[:], subject...))
}

// ETag is the review's version as clients see it.
func (r Review) ETag() string { return "v" + strconv.FormatInt(r.Version, 10) }

// ParseETag reads what ETag made, also in the double quotes of a header. Errors:
// INVALID_ARGUMENT.
func ParseETag(text string) (int64, error) {
	bare := strings.TrimSuffix(strings.TrimPrefix(text, `"`), `"`)
	version, err := strconv.ParseInt(strings.TrimPrefix(bare, "v"), 10, 64)
	if err != nil || version < 1 || bare != (Review{Version: version}).ETag() {
		const problem = "is not an etag of a review"
		return 0, fault.New(fault.ReasonInvalidArgument, "The etag %s.", problem).WithField("etag", problem)
	}
	return version, nil
}

func notFound(id uuid.UUID) *fault.Error {
	return fault.New(fault.ReasonReviewNotFound, "There is no review %s.", id).With("review_id", id.String())
}

func stale(current Review) *fault.Error {
	return fault.New(fault.ReasonStaleVersion, "The review has changed since you read it.").
		With("etag", current.ETag()).WithField("etag", "is not the review's current version")
}

// wrap adds what was attempted to an error, and leaves nil as it is.
func wrap(attempt string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", attempt, err)
}
