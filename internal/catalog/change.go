package catalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"bookworm/internal/catalog/seed"
	"bookworm/internal/fault"
	"bookworm/internal/money"
	"bookworm/internal/postgres"
)

// Details is what administrators write of a book.
type Details struct {
	ISBN13      string
	Title       string
	Subtitle    string
	Authors     []string
	Description string
	Publisher   string
	Year        int32
	Language    string
	Pages       int32
	Categories  []string
	Price       money.Money
}

// DetailFields are the names of the fields of Details, as the contract has them.
var DetailFields = []string{
	"isbn13", "title", "subtitle", "authors", "description", "publisher", "publication_year", "language", "page_count",
	"categories", "price",
}

// MaxPrice is the highest price of a book in minor units.
const MaxPrice = 10_000_000

// Check says what is wrong with the named fields beyond what the contract itself
// demands. Each field is named with the prefix. Errors: CURRENCY_MISMATCH,
// INVALID_ARGUMENT.
func (d Details) Check(prefix string, fields []string) error {
	var faults []fault.Field
	bad := func(name, problem string) {
		faults = append(faults, fault.Field{Name: prefix + name, Problem: problem})
	}
	for _, field := range fields {
		switch field {
		case "isbn13":
			if !seed.ValidISBN13(d.ISBN13) {
				bad(field, "is not an ISBN-13 with its check digit")
			}
		case "title":
			if titleKey(d.Title) == "" {
				bad(field, "has no letter or digit")
			}
		case "authors":
			checkEach(field, d.Authors, bad)
		case "categories":
			checkEach(field, d.Categories, bad)
		case "price":
			if d.Price.Currency != Currency {
				return fault.New(fault.ReasonCurrencyMismatch, "The shop sells in %s.", Currency).
					WithField(prefix+"price.currency_code", "must be "+Currency)
			}
			if d.Price.Minor < 0 || d.Price.Minor > MaxPrice {
				bad("price.amount_minor", fmt.Sprintf("must be from 0 to %d", MaxPrice))
			}
		}
		for _, text := range d.texts(field) {
			if strings.ContainsFunc(text, unprintable) {
				bad(field, "has a control character")
				break
			}
		}
	}
	if len(faults) == 0 {
		return nil
	}
	f := fault.New(fault.ReasonInvalidArgument, "The field %s %s.", faults[0].Name, faults[0].Problem)
	f.Fields = faults
	return f
}

// checkEach refuses names that are empty, and those that come twice.
func checkEach(field string, names []string, bad func(name, problem string)) {
	var seen []string
	for i, name := range names {
		key := fold(name)
		switch {
		case key == "":
			bad(fmt.Sprintf("%s[%d]", field, i), "has no letter or digit")
		case slices.Contains(seen, key):
			bad(fmt.Sprintf("%s[%d]", field, i), "is there twice")
		}
		seen = append(seen, key)
	}
}

func (d Details) texts(field string) []string {
	switch field {
	case "title":
		return []string{d.Title}
	case "subtitle":
		return []string{d.Subtitle}
	case "authors":
		return d.Authors
	case "description":
		return []string{d.Description}
	case "publisher":
		return []string{d.Publisher}
	}
	return nil
}

// unprintable reports characters that no text of a book has. PostgreSQL cannot even
// keep a NUL.
func unprintable(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }

// with returns the details with the named fields of others.
func (d Details) with(from Details, fields []string) Details {
	for _, field := range fields {
		switch field {
		case "isbn13":
			d.ISBN13 = from.ISBN13
		case "title":
			d.Title = from.Title
		case "subtitle":
			d.Subtitle = from.Subtitle
		case "authors":
			d.Authors = from.Authors
		case "description":
			d.Description = from.Description
		case "publisher":
			d.Publisher = from.Publisher
		case "publication_year":
			d.Year = from.Year
		case "language":
			d.Language = from.Language
		case "page_count":
			d.Pages = from.Pages
		case "categories":
			d.Categories = from.Categories
		case "price":
			d.Price = from.Price
		}
	}
	return d
}

func (d Details) equal(o Details) bool {
	return d.ISBN13 == o.ISBN13 && d.Title == o.Title && d.Subtitle == o.Subtitle && slices.Equal(d.Authors, o.Authors) &&
		d.Description == o.Description && d.Publisher == o.Publisher && d.Year == o.Year && d.Language == o.Language &&
		d.Pages == o.Pages && slices.Equal(d.Categories, o.Categories) && d.Price == o.Price
}

func (b Book) details() Details {
	return Details{
		ISBN13: b.ISBN13, Title: b.Title, Subtitle: b.Subtitle, Authors: b.Authors, Description: b.Description, Publisher: b.Publisher,
		Year: b.Year, Language: b.Language, Pages: b.Pages, Categories: b.Categories, Price: b.Price,
	}
}

// bookSpace is the namespace of the ids of books that administrators create (RFC
// 9562, version 5).
var bookSpace = uuid.MustParse("b2f2a6c1-3f0e-4d52-8f4b-0f6b8d1c7e42")

// BookID derives a new book's id from who creates it and with which idempotency key,
// so that a repeated request can only ever meet the same book.
func BookID(subject, idempotencyKey string) uuid.UUID {
	return uuid.NewSHA1(bookSpace, []byte(subject+"\x00"+idempotencyKey))
}

// Fingerprint identifies a request, so that a key reused with another request is
// noticed. encoded must be a deterministic encoding of the whole request.
func Fingerprint(encoded []byte) []byte {
	sum := sha256.Sum256(encoded)
	return sum[:]
}

// NewBook is a book to create.
type NewBook struct {
	ID              uuid.UUID // see BookID
	Fingerprint     []byte    // see Fingerprint
	Details         Details
	OpeningQuantity int32
}

// Create adds a book with its first copies. For a book that the same request has
// created already it changes nothing and answers true. Errors: ISBN_TAKEN,
// IDEMPOTENCY_KEY_REUSED when another request created the book of this id.
func (s *Store) Create(ctx context.Context, n NewBook) (replayed bool, err error) {
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		d := n.Details
		// Waits for another call with the same id or ISBN. A conflict of the id alone
		// would not do: PostgreSQL may find the ISBN's first, and that would be an error.
		created, err := tx.Exec(ctx, `
			INSERT INTO book (id, isbn13, title, subtitle, authors, description, publisher, publication_year,
				language, page_count, categories, price_minor, currency, title_key, author_keys, search_text)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
			ON CONFLICT DO NOTHING`,
			n.ID, d.ISBN13, d.Title, d.Subtitle, d.Authors, d.Description, d.Publisher, d.Year,
			d.Language, d.Pages, d.Categories, d.Price.Minor, d.Price.Currency,
			titleKey(d.Title), authorKeys(d.Authors), searchText(d.ISBN13, d.Title, d.Subtitle, d.Authors))
		if err != nil {
			return err
		}
		if created.RowsAffected() == 0 {
			replayed, err = s.created(ctx, tx, n.ID, n.Fingerprint)
			if err == nil && !replayed {
				return isbnTaken(d.ISBN13)
			}
			return err
		}
		batch := &pgx.Batch{}
		batch.Queue(`INSERT INTO stock (book_id, on_hand) VALUES ($1, $2)`, n.ID, n.OpeningQuantity)
		batch.Queue(insertMovement, n.ID, movementOpening, n.OpeningQuantity, "created")
		batch.Queue(`INSERT INTO book_change (change_id, book_id, version, fingerprint) VALUES ($1, $1, 1, $2)`, n.ID, n.Fingerprint)
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return false, fmt.Errorf("create book: %w", err)
	}
	return replayed, nil
}

// Created reports whether the request with this fingerprint has created the book.
// Errors: IDEMPOTENCY_KEY_REUSED when another one has.
func (s *Store) Created(ctx context.Context, id uuid.UUID, fingerprint []byte) (bool, error) {
	return s.created(ctx, s.db, id, fingerprint)
}

func (s *Store) created(ctx context.Context, db querier, id uuid.UUID, fingerprint []byte) (bool, error) {
	var stored []byte
	err := db.QueryRow(ctx, `SELECT fingerprint FROM book_change WHERE change_id = $1`, id).Scan(&stored)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the request that created a book: %w", err)
	}
	if !bytes.Equal(stored, fingerprint) {
		return false, fault.New(fault.ReasonKeyReused, "The key was used with another request; take a new one.")
	}
	return true, nil
}

// Edit is a change of a book.
type Edit struct {
	ID      uuid.UUID // of the change: it is made once
	BookID  uuid.UUID
	Details Details
	Fields  []string // which of the details change, of DetailFields
	Archive bool     // take the book off sale
	Version int64    // the book's version that is meant; 0 for any
}

// Edit changes a book. A change that was made before, and one after which the book
// is what it was, have no effect. Errors: BOOK_NOT_FOUND, STALE_VERSION, ISBN_TAKEN.
func (s *Store) Edit(ctx context.Context, e Edit) error {
	err := postgres.Transact(ctx, s.db, func(tx pgx.Tx) error { return edit(ctx, tx, e) })
	if err != nil {
		return fmt.Errorf("change book: %w", err)
	}
	return nil
}

func edit(ctx context.Context, tx pgx.Tx, e Edit) error {
	rows, err := tx.Query(ctx, `SELECT `+bookColumns+` FROM `+bookTables+` WHERE b.id = $1 FOR UPDATE OF b`, e.BookID)
	if err != nil {
		return err
	}
	book, err := pgx.CollectExactlyOneRow(rows, scanBook)
	if errors.Is(err, pgx.ErrNoRows) {
		return notFound(e.BookID)
	}
	if err != nil {
		return err
	}
	var done bool
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM book_change WHERE change_id = $1)`, e.ID).Scan(&done)
	if err != nil || done {
		return err
	}
	if e.Version != 0 && e.Version != book.Version {
		return fault.New(fault.ReasonStaleVersion, "The book has changed since you read it.").With("version", fmt.Sprint(book.Version))
	}
	d := book.details().with(e.Details, e.Fields)
	version := book.Version
	if !d.equal(book.details()) || e.Archive && !book.Archived {
		version++
		_, err = tx.Exec(ctx, `
			UPDATE book SET isbn13 = $2, title = $3, subtitle = $4, authors = $5, description = $6, publisher = $7,
				publication_year = $8, language = $9, page_count = $10, categories = $11, price_minor = $12, currency = $13,
				title_key = $14, author_keys = $15, search_text = $16,
				archived_at = CASE WHEN $17 THEN coalesce(archived_at, now()) ELSE archived_at END,
				version = $18, updated_at = now()
			WHERE id = $1`,
			e.BookID, d.ISBN13, d.Title, d.Subtitle, d.Authors, d.Description, d.Publisher,
			d.Year, d.Language, d.Pages, d.Categories, d.Price.Minor, d.Price.Currency,
			titleKey(d.Title), authorKeys(d.Authors), searchText(d.ISBN13, d.Title, d.Subtitle, d.Authors), e.Archive, version)
		if err != nil {
			return taken(err, d.ISBN13)
		}
	}
	_, err = tx.Exec(ctx, `INSERT INTO book_change (change_id, book_id, version) VALUES ($1, $2, $3)`, e.ID, e.BookID, version)
	return err
}

func authorKeys(authors []string) []string {
	keys := make([]string, len(authors))
	for i, author := range authors {
		keys[i] = fold(author)
	}
	return keys
}

const codeUniqueViolation = "23505"

// taken turns the database's refusal of a second book with an ISBN into a fault.
func taken(err error, isbn13 string) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pg.Code != codeUniqueViolation || pg.ConstraintName != "book_isbn13_key" {
		return err
	}
	return isbnTaken(isbn13)
}

func isbnTaken(isbn13 string) error {
	return fault.New(fault.ReasonISBNTaken, "Another book has the ISBN %s.", isbn13).WithField("isbn13", "is another book's")
}
