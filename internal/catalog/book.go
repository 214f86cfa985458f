package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/fault"
	"bookworm/internal/money"
)

// Book is a title the shop sells or has sold.
type Book struct {
	ID          uuid.UUID
	ISBN13      string // digits only
	Title       string
	Subtitle    string // or empty
	Authors     []string
	Description string
	Publisher   string
	Year        int32 // of first publication; negative before the common era
	Language    string
	Pages       int32
	Categories  []string
	Price       money.Money
	Available   int32 // copies that can be ordered now
	Archived    bool  // no longer sold
	Version     int64 // grows with each change of the book, not of its stock or rating
	UpdatedAt   time.Time
	Rating      Rating
}

// bookColumns and bookTables are the head of every query that scanBook reads.
const (
	bookColumns = `b.id, b.isbn13, b.title, b.subtitle, b.authors, b.description, b.publisher,
		b.publication_year, b.language, b.page_count, b.categories, b.currency, b.price_minor,
		s.on_hand - s.reserved, b.archived_at IS NOT NULL, b.version, b.updated_at,
		coalesce(r.version, 0), coalesce(r.stars, '{0,0,0,0,0}'), coalesce(r.score, 0)`
	bookTables = `book b JOIN stock s ON s.book_id = b.id LEFT JOIN book_rating r ON r.book_id = b.id`
)

func scanBook(row pgx.CollectableRow) (Book, error) {
	var b Book
	err := row.Scan(&b.ID, &b.ISBN13, &b.Title, &b.Subtitle, &b.Authors, &b.Description, &b.Publisher,
		&b.Year, &b.Language, &b.Pages, &b.Categories, &b.Price.Currency, &b.Price.Minor,
		&b.Available, &b.Archived, &b.Version, &b.UpdatedAt, &b.Rating.Version, &b.Rating.Stars, &b.Rating.Score)
	b.UpdatedAt = b.UpdatedAt.UTC()
	return b, err
}

// Get returns a book, also an archived one. Errors: BOOK_NOT_FOUND.
func (s *Store) Get(ctx context.Context, id uuid.UUID) (Book, error) {
	rows, err := s.db.Query(ctx, `SELECT `+bookColumns+` FROM `+bookTables+` WHERE b.id = $1`, id)
	if err != nil {
		return Book{}, fmt.Errorf("get book: %w", err)
	}
	book, err := pgx.CollectExactlyOneRow(rows, scanBook)
	if errors.Is(err, pgx.ErrNoRows) {
		return Book{}, notFound(id)
	}
	if err != nil {
		return Book{}, fmt.Errorf("get book: %w", err)
	}
	return book, nil
}

// BatchGet returns the books of the ids that there are, archived ones too, in
// the order of the ids. An id that comes twice gives its book twice.
func (s *Store) BatchGet(ctx context.Context, ids []uuid.UUID) ([]Book, error) {
	rows, err := s.db.Query(ctx, `
		SELECT `+bookColumns+`
		FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (id, place)
		JOIN `+bookTables+` ON b.id = wanted.id
		ORDER BY wanted.place`, ids)
	if err != nil {
		return nil, fmt.Errorf("get books: %w", err)
	}
	books, err := pgx.CollectRows(rows, scanBook)
	if err != nil {
		return nil, fmt.Errorf("get books: %w", err)
	}
	return books, nil
}

func notFound(id uuid.UUID) *fault.Error {
	return fault.New(fault.ReasonBookNotFound, "There is no book %s.", id).With("book_id", id.String())
}
