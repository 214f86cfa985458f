package catalog

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/catalog/seed"
	"bookworm/internal/postgres"
)

// seedSpace is the name space of the ids of seeded books.
var seedSpace = uuid.MustParse("7c5f3a52-5f0c-4d0e-9d0e-6a3b1c9a7e11")

// SeedID returns the id of a seeded book: the same ISBN has the same id in every
// shop.
func SeedID(isbn13 string) uuid.UUID { return uuid.NewSHA1(seedSpace, []byte(isbn13)) }

// Seed adds the books that are not there yet, by ISBN, with their opening stock,
// and returns how many it was. Books that are there keep what they are: text,
// price and stock.
func (s *Store) Seed(ctx context.Context, books []seed.Book) (added int, err error) {
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		for _, b := range books {
			// One statement, so that a book, its stock and its movement
			// are there together or not at all.
			batch.Queue(`
				WITH new_book AS (
					INSERT INTO book (id, isbn13, title, subtitle, authors, description, publisher,
						publication_year, language, page_count, categories, price_minor, currency,
						title_key, author_keys, search_text)
					VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
					ON CONFLICT DO NOTHING
					RETURNING id
				), new_stock AS (
					INSERT INTO stock (book_id, on_hand) SELECT id, $17 FROM new_book
				)
				INSERT INTO stock_movement (book_id, kind, quantity, reference)
				SELECT id, $18, $17, 'seed' FROM new_book`,
				SeedID(b.ISBN13), b.ISBN13, b.Title, b.Subtitle, b.Authors, b.Description, b.Publisher,
				b.Year, b.Language, b.Pages, b.Categories, b.PriceMinor, b.Currency,
				titleKey(b.Title), authorKeys(b.Authors), searchText(b.ISBN13, b.Title, b.Subtitle, b.Authors),
				b.Stock, movementOpening)
		}
		results := tx.SendBatch(ctx, batch)
		added = 0
		for range books {
			one, err := results.Exec()
			if err != nil {
				_ = results.Close() // reports the same error
				return err
			}
			added += int(one.RowsAffected())
		}
		return results.Close()
	})
	if err != nil {
		return 0, fmt.Errorf("seed catalogue: %w", err)
	}
	return added, nil
}
