package catalog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/llm"
	"bookworm/internal/vector"
)

// Alias is the name under which searches find the collection in use.
const Alias = "books"

// The states of a collection.
const (
	stateBuilding = "building"
	stateLive     = "live"
)

// collectionPrefix begins the name of every collection that this version of the
// shop, with this embedding, can search. The rest of the name is when it was made.
func collectionPrefix(embedding string) string {
	sum := sha256.Sum256([]byte(embedding))
	return fmt.Sprintf("%s-%d-%s-", Alias, documentVersion, hex.EncodeToString(sum[:4]))
}

// Collection is one version of the search index.
type Collection struct {
	Name          string
	Embedding     string // model and dimension
	AverageLength float64
}

// collection returns the collection in a state; the zero Collection when there is
// none.
func (s *Store) collection(ctx context.Context, state string) (Collection, error) {
	var c Collection
	err := s.db.QueryRow(ctx, `SELECT collection, embedding, average_length FROM search_index WHERE state = $1`, state).
		Scan(&c.Name, &c.Embedding, &c.AverageLength)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return Collection{}, fmt.Errorf("read the search index's state: %w", err)
	}
	return c, nil
}

// Indexer brings books to the search index. It is safe for concurrent use, also by
// several processes: each book is written by one of them at a time, see pending.go.
type Indexer struct {
	Store    *Store
	Vectors  *vector.Client
	Embedder *llm.Client
	// Dimension of the embedder's vectors.
	Dimension int
	Logger    *slog.Logger
}

// ErrBusy is returned when another process is bringing the book to the index.
var ErrBusy = errors.New("another process is indexing the book")

// ErrReplaced is returned when another collection was put in use meanwhile. It is as
// current as this one was: try again.
var ErrReplaced = errors.New("another collection is in use now")

// ErrRebuild is returned when the index in use cannot be kept current: there is none,
// it is gone, or it was made by another embedding model or version of the shop. A
// rebuild cures it.
var ErrRebuild = errors.New("the search index has to be rebuilt")

// batchSize is how many books are embedded and written at once.
const batchSize = 96

// Index brings one book to the index in use and answers once that has all changes
// of it that were committed before the call. Errors: ErrBusy, ErrReplaced, ErrRebuild; others
// when the index or the embedder cannot be reached. In every case the change stays
// on the list.
func (x *Indexer) Index(ctx context.Context, id uuid.UUID) error {
	live, err := x.live(ctx)
	if err != nil {
		return err
	}
	books, err := x.Store.claimBook(ctx, live.Name, id)
	if err != nil {
		return err
	}
	if len(books) == 0 {
		waiting, err := x.Store.isPending(ctx, live.Name, id)
		if err == nil && waiting {
			err = ErrBusy
		}
		return err
	}
	return x.write(ctx, live, books)
}

// live returns the collection in use if this process can write to it.
func (x *Indexer) live(ctx context.Context) (Collection, error) {
	live, err := x.Store.collection(ctx, stateLive)
	if err != nil {
		return Collection{}, err
	}
	switch {
	case live.Name == "":
		return Collection{}, fmt.Errorf("%w: there is none", ErrRebuild)
	case !strings.HasPrefix(live.Name, collectionPrefix(x.Embedder.EmbeddingName())):
		return Collection{}, fmt.Errorf("%w: %s is of the embedding %s, not %s", ErrRebuild, live.Name, live.Embedding, x.Embedder.EmbeddingName())
	}
	return live, nil
}

// drain brings up to one batch of pending books to a collection and returns what it
// was.
func (x *Indexer) drain(ctx context.Context, c Collection) ([]claimed, error) {
	books, err := x.Store.claimBatch(ctx, c.Name, batchSize)
	if err != nil || len(books) == 0 {
		return nil, err
	}
	return books, x.write(ctx, c, books)
}

// write brings claimed books to a collection as they are now and settles the claims.
func (x *Indexer) write(ctx context.Context, c Collection, books []claimed) error {
	writing, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err := x.upsert(writing, c, books)
	// The claims end also for a caller that is gone.
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	err = errors.Join(err, x.Store.settle(settling, c.Name, books, err == nil))
	if !errors.Is(err, vector.ErrNoCollection) && !errors.Is(err, vector.ErrDimension) {
		return err
	}
	// A rebuild that has just ended drops what was in use before.
	if _, _, gone := x.building(settling, c.Name); errors.Is(gone, ErrRebuild) {
		return fmt.Errorf("%w: %w", ErrReplaced, err)
	}
	return fmt.Errorf("%w: %w", ErrRebuild, err)
}

func (x *Indexer) upsert(ctx context.Context, c Collection, claims []claimed) error {
	ids := make([]uuid.UUID, len(claims))
	unchanged := make([]uuid.UUID, 0, len(claims)) // in their text
	for i, claim := range claims {
		ids[i] = claim.bookID
		if !claim.textChanged {
			unchanged = append(unchanged, claim.bookID)
		}
	}
	books, err := x.Store.BatchGet(ctx, ids)
	if err != nil {
		return err
	}
	gone := slices.Clone(ids)
	books = slices.DeleteFunc(books, func(b Book) bool { return b.Archived })
	for _, b := range books {
		gone = slices.DeleteFunc(gone, func(id uuid.UUID) bool { return id == b.ID })
	}
	if err := x.Vectors.Delete(ctx, c.Name, gone); err != nil {
		return fmt.Errorf("take books out of the index: %w", err)
	}
	points, err := x.points(ctx, c, books, unchanged)
	if err != nil || len(points) == 0 {
		return err
	}
	if err := x.Vectors.Upsert(ctx, c.Name, points); err != nil {
		return fmt.Errorf("write books to the index: %w", err)
	}
	return nil
}

// points makes the points of books. Those whose text has not changed keep their
// vectors, because embedding costs time and money.
func (x *Indexer) points(ctx context.Context, c Collection, books []Book, unchanged []uuid.UUID) ([]vector.Point, error) {
	kept := make(map[uuid.UUID]vector.Point)
	if len(unchanged) > 0 {
		have, err := x.Vectors.Vectors(ctx, c.Name, unchanged)
		if err != nil {
			return nil, fmt.Errorf("read vectors: %w", err)
		}
		for _, p := range have {
			kept[p.ID] = p
		}
	}
	points := make([]vector.Point, len(books))
	var texts []string
	var fresh []int
	bm25 := vector.BM25{AverageLength: c.AverageLength}
	for i, b := range books {
		p, ok := kept[b.ID]
		if !ok {
			p = vector.Point{ID: b.ID, Sparse: bm25.Document(documentTokens(b))}
			texts, fresh = append(texts, documentText(b)), append(fresh, i)
		}
		p.Payload = payload(b)
		points[i] = p
	}
	if len(texts) == 0 {
		return points, nil
	}
	embeddings, err := x.Embedder.Embed(ctx, texts)
	if err != nil {
		return nil, fmt.Errorf("embed books: %w", err)
	}
	for n, i := range fresh {
		points[i].Dense = embeddings[n]
	}
	return points, nil
}

// KeepCurrent brings pending books to the index in use, every interval and as long
// as there are any, until ctx is done: changes of stock and ratings, and those whose
// own process could not. When the index needs a rebuild, it begins one. It logs what
// goes wrong. It blocks; the caller waits for it.
func (x *Indexer) KeepCurrent(ctx context.Context, interval time.Duration, rebuild func(context.Context) error) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	failing, rebuilding := false, false // so that the log says it once
	for {
		n, err := x.catchUp(ctx)
		if errors.Is(err, ErrReplaced) {
			continue
		}
		needed := errors.Is(err, ErrRebuild)
		if needed {
			if !rebuilding {
				x.Logger.WarnContext(ctx, "the search index is rebuilt", "reason", err)
			}
			err = rebuild(ctx)
		}
		rebuilding = needed
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			x.Logger.ErrorContext(ctx, "the search index is not current", "error", err)
		case err == nil && failing:
			x.Logger.InfoContext(ctx, "the search index is current again")
		}
		failing = err != nil
		if err == nil && n == batchSize {
			continue // there are more
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// catchUp brings one batch to the index in use, after a look whether that is there.
func (x *Indexer) catchUp(ctx context.Context) (int, error) {
	live, err := x.live(ctx)
	if err != nil {
		return 0, err
	}
	if err := x.checkAlias(ctx, live.Name); err != nil {
		return 0, err
	}
	books, err := x.drain(ctx, live)
	return len(books), err
}

// checkAlias makes sure that searches use the collection in use, or the one that is
// just being put in use.
func (x *Indexer) checkAlias(ctx context.Context, live string) error {
	name, err := x.Vectors.Alias(ctx, Alias)
	if errors.Is(err, vector.ErrNoCollection) {
		return fmt.Errorf("%w: the alias %s is gone", ErrRebuild, Alias)
	}
	if err != nil {
		return fmt.Errorf("look for the index in use: %w", err)
	}
	if name == live {
		return nil
	}
	var known bool
	err = x.Store.db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM search_index WHERE collection = $1)`, name).Scan(&known)
	if err == nil && !known {
		err = fmt.Errorf("%w: the alias %s stands for %s, not %s", ErrRebuild, Alias, name, live)
	}
	return err
}

// IndexState says how the search index is.
type IndexState struct {
	Collection string // in use; empty for none
	Indexed    int64  // books in it
	Books      int64  // books that should be in it
	Pending    int64  // changes that have not reached it
	Rebuilding bool
	Rebuilt    int64 // books that the running rebuild has done
}

// State returns how the index is. Errors: UNAVAILABLE when the index cannot be
// reached.
func (x *Indexer) State(ctx context.Context) (IndexState, error) {
	var s IndexState
	var building string
	var toBuild int64
	err := x.Store.db.QueryRow(ctx, `
		SELECT coalesce(live.collection, ''), coalesce(building.collection, ''),
			(SELECT count(*) FROM book WHERE archived_at IS NULL),
			(SELECT count(*) FROM index_pending WHERE collection = live.collection),
			(SELECT count(*) FROM index_pending WHERE collection = building.collection)
		FROM (SELECT 1) AS one
		LEFT JOIN search_index live ON live.state = 'live'
		LEFT JOIN search_index building ON building.state = 'building'`).
		Scan(&s.Collection, &building, &s.Books, &s.Pending, &toBuild)
	if err != nil {
		return IndexState{}, fmt.Errorf("read the search index's state: %w", err)
	}
	if s.Rebuilding = building != ""; s.Rebuilding {
		s.Rebuilt = max(0, s.Books-toBuild)
	}
	if s.Collection == "" {
		s.Pending = s.Books
		return s, nil
	}
	s.Indexed, err = x.Vectors.Count(ctx, s.Collection)
	if err != nil && !errors.Is(err, vector.ErrNoCollection) {
		return IndexState{}, err
	}
	return s, nil
}
