// Package catalog holds the activities that change books and keep the search index.
// They are idempotent. The one that writes a book's row is short and runs as a local
// activity; those of the index talk to the index and the embedding model, and are
// regular ones.
package catalog

import (
	"context"
	"time"

	"github.com/google/uuid"

	"bookworm/internal/catalog"
	"bookworm/internal/process"
)

// TaskQueue is where the catalogue's processes run.
const TaskQueue = "catalog"

// Activities is what the catalogue's activities need.
type Activities struct {
	Books *catalog.Store
	Index *catalog.Indexer
	// FillTime is how long one FillIndex works before it reports; 5 s when 0.
	FillTime time.Duration
}

// Change is a change of one book: exactly one of its fields is set.
type Change struct {
	Create *catalog.NewBook `json:",omitempty"`
	Edit   *catalog.Edit    `json:",omitempty"`
}

// BookID names the book that changes.
func (c Change) BookID() uuid.UUID {
	if c.Create != nil {
		return c.Create.ID
	}
	return c.Edit.BookID
}

// WriteBook writes the change to the database, and in the same transaction puts the
// book on the list of the search index. A change that was written before has no
// effect; replayed says so for a book that was to be created.
// Errors: BOOK_NOT_FOUND, STALE_VERSION, ISBN_TAKEN, IDEMPOTENCY_KEY_REUSED.
func (a *Activities) WriteBook(ctx context.Context, c Change) (replayed bool, err error) {
	if c.Create != nil {
		replayed, err = a.Books.Create(ctx, *c.Create)
	} else {
		err = a.Books.Edit(ctx, *c.Edit)
	}
	return replayed, process.Refusal(err)
}

// IndexBook brings a book to the search index and returns when that has it as it was
// at the call, or newer. It fails, and can be called again, while the index, the
// embedding model or another writer stands in the way.
func (a *Activities) IndexBook(ctx context.Context, id uuid.UUID) error {
	return a.Index.Index(ctx, id)
}
