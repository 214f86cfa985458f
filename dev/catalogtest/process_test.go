package catalogtest

import (
	"context"
	"flag"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"golang.org/x/oauth2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	activities "bookworm/activities/catalog"
	api "bookworm/api/catalog"
	"bookworm/dev/temporal"
	"bookworm/internal/catalog"
	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	typev1 "bookworm/internal/gen/bookworm/type/v1"
	"bookworm/internal/identity"
	"bookworm/internal/rpc"
	"bookworm/internal/rpc/rpctest"
	"bookworm/workers"
	"bookworm/workflows/catalogchange"
	"bookworm/workflows/reindex"
)

// office is a library with its API and its processes on a real Temporal server.
type office struct {
	*library
	catalogv1connect.CatalogAdminServiceClient

	shop     catalogv1connect.CatalogServiceClient
	temporal client.Client
	worker   worker.Worker
	// fillTime is that of the activities.
	fillTime time.Duration
}

// roles is a verifier for which a token is a role.
type roles struct{}

func (roles) Verify(_ context.Context, token string) (identity.Caller, error) {
	return identity.Caller{Subject: token, Roles: []accessv1.Role{accessv1.Role(accessv1.Role_value[token])}}, nil
}

func open(t *testing.T, l *library) *office {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	server, err := temporal.Start(ctx, temporal.Options{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	o := &office{library: l}
	o.temporal, err = client.DialContext(ctx, client.Options{HostPort: server.Address(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.temporal.Close)
	o.work(t)
	t.Cleanup(func() { o.worker.Stop() })

	rpcServer, err := rpc.NewServer(rpc.ServerOptions{Audit: rpctest.Audit(), Verifier: roles{}})
	if err != nil {
		t.Fatal(err)
	}
	api.Register(rpcServer, api.Deps{
		Books: l.Store, Searcher: l.searcher, Indexer: l.indexer, Temporal: o.temporal, Logger: slog.New(l.log),
	})
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- rpc.Serve(serving, listener, rpc.Handler(rpcServer), nil) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	as := func(role string) *connect.Client {
		return rpc.NewClient(rpc.ClientOptions{
			BaseURL: "http://" + listener.Addr().String(), Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: role}),
		})
	}
	o.CatalogAdminServiceClient = catalogv1connect.NewCatalogAdminServiceClient(as("ROLE_ADMIN"))
	o.shop = catalogv1connect.NewCatalogServiceClient(as("ROLE_CUSTOMER"))
	return o
}

// work starts a worker; the one before must have stopped.
func (o *office) work(t *testing.T) {
	t.Helper()
	o.worker = workers.Catalog(o.temporal, &activities.Activities{Books: o.Store, Index: o.indexer, FillTime: o.fillTime})
	if err := o.worker.Start(); err != nil {
		t.Fatal(err)
	}
}

var recording = flag.Bool("record", false, "write the histories to the replay tests' testdata")

// record keeps the history of a process for the replay test of its workflow.
func (o *office) record(t *testing.T, process, name, workflowID, runID string) {
	t.Helper()
	if !*recording {
		return
	}
	var history historypb.History
	events := o.temporal.GetWorkflowHistory(t.Context(), workflowID, runID, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		if err != nil {
			t.Fatal(err)
		}
		history.Events = append(history.Events, event)
	}
	out, err := temporalproto.CustomJSONMarshalOptions{Indent: "  "}.Marshal(&history)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join("..", "..", "workflows", process, "testdata")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, name+".json"), out, 0o600); err != nil {
		t.Fatal(err)
	}
}

func newBook() *catalogv1.CreateBookRequest {
	return &catalogv1.CreateBookRequest{
		Isbn13: "9780000000002", Title: "The Zyzzyva Keeper", Authors: []string{"Ada Quill"}, Description: "A weevil is kept.",
		Publisher: "A House", PublicationYear: 2020, Language: "en", PageCount: 100, Categories: []string{"fiction"},
		Price: &typev1.Money{CurrencyCode: "USD", AmountMinor: 1999}, OpeningQuantity: 3,
	}
}

// create calls CreateBook with a key and says whether the answer was a replay.
func (o *office) create(ctx context.Context, key string, req *catalogv1.CreateBookRequest) (*catalogv1.Book, bool, error) {
	ctx, info := connect.NewClientContext(ctx)
	info.RequestHeader().Set("Idempotency-Key", key)
	answer, err := o.CreateBook(ctx, req)
	if err != nil {
		return nil, false, err
	}
	return answer.GetBook(), info.ResponseHeader().Get("Idempotent-Replayed") == "true", nil
}

func (o *office) finds(t *testing.T, text string, leg catalog.Leg, id string) bool {
	t.Helper()
	hits, _ := o.search(t, catalog.Query{Text: text, Leg: leg})
	return has(hits, uuid.MustParse(id))
}

func refuse(t *testing.T, err error, reason fault.Reason) *fault.Error {
	t.Helper()
	if !fault.Is(err, reason) {
		t.Fatalf("got %v, want %s", err, reason)
	}
	return fault.As(err)
}

func TestABookIsCreatedChangedAndArchived(t *testing.T) {
	t.Parallel()
	l, _ := seeded(t)
	o := open(t, l)
	ctx := t.Context()
	_, err := o.CreateBook(ctx, newBook())
	refuse(t, err, fault.ReasonKeyMissing)

	book, replayed, err := o.create(ctx, "k1", newBook())
	if err != nil || replayed {
		t.Fatalf("replayed %t, %v", replayed, err)
	}
	if book.GetAvailableQuantity() != 3 || book.GetEtag() != "v1" || book.GetArchived() || book.GetRating() != nil {
		t.Errorf("created %v", book)
	}
	for name, leg := range legs {
		if !o.finds(t, "zyzzyva", leg, book.GetId()) {
			t.Errorf("%s does not find the new book when the call has answered", name)
		}
	}

	again, replayed, err := o.create(ctx, `"k1"`, newBook())
	if err != nil || !replayed || again.GetId() != book.GetId() {
		t.Errorf("the same request again: %v, replayed %t, %v", again.GetId(), replayed, err)
	}
	other := newBook()
	other.Title = "Another"
	_, _, err = o.create(ctx, "k1", other)
	refuse(t, err, fault.ReasonKeyReused)
	_, _, err = o.create(ctx, "k2", newBook())
	refused := catalog.BookID("ROLE_ADMIN", "k2").String()
	o.ended(t, refused)
	o.record(t, "catalogchange", "refused", catalogchange.WorkflowID(uuid.MustParse(refused)), "")
	f := refuse(t, err, fault.ReasonISBNTaken)
	if len(f.Fields) != 1 || f.Fields[0].Name != "isbn13" {
		t.Errorf("names %v", f.Fields)
	}
	// A refused request has not used up its key.
	other.Isbn13 = "9780000000019"
	if _, replayed, err = o.create(ctx, "k2", other); err != nil || replayed {
		t.Errorf("after a refusal: replayed %t, %v", replayed, err)
	}

	update := &catalogv1.UpdateBookRequest{
		Id: book.GetId(), Etag: book.GetEtag(), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"title", "price"}},
		Book: &catalogv1.BookChange{
			Title: "The Quokka Keeper", Price: &typev1.Money{CurrencyCode: "USD", AmountMinor: 5}, Subtitle: "ignored",
		},
	}
	changed, err := o.UpdateBook(ctx, update)
	if err != nil {
		t.Fatal(err)
	}
	if b := changed.GetBook(); b.GetTitle() != "The Quokka Keeper" || b.GetPrice().GetAmountMinor() != 5 || b.GetEtag() != "v2" ||
		b.GetSubtitle() != "" || b.GetIsbn13() != book.GetIsbn13() || b.GetAvailableQuantity() != 3 {
		t.Errorf("changed to %v", b)
	}
	if !o.finds(t, "quokka", catalog.Sparse, book.GetId()) || o.finds(t, "zyzzyva", catalog.Sparse, book.GetId()) {
		t.Error("the index has the old title")
	}
	_, err = o.UpdateBook(ctx, update)
	if f := refuse(t, err, fault.ReasonStaleVersion); f.Metadata["etag"] != "v2" {
		t.Errorf("the current etag is %q", f.Metadata["etag"])
	}
	update.Etag = ""
	if changed, err = o.UpdateBook(ctx, update); err != nil || changed.GetBook().GetEtag() != "v2" {
		t.Errorf("the same change again makes %s, %v", changed.GetBook().GetEtag(), err)
	}
	// As If-Match.
	matching, info := connect.NewClientContext(ctx)
	info.RequestHeader().Set("If-Match", `"v1"`)
	_, err = o.UpdateBook(matching, update)
	refuse(t, err, fault.ReasonStaleVersion)

	for range 2 {
		archived, err := o.ArchiveBook(ctx, &catalogv1.ArchiveBookRequest{Id: book.GetId()})
		if err != nil || !archived.GetBook().GetArchived() || archived.GetBook().GetEtag() != "v3" {
			t.Errorf("archived %v, %v", archived.GetBook(), err)
		}
	}
	points, err := o.vectors.Vectors(ctx, catalog.Alias, []uuid.UUID{uuid.MustParse(book.GetId())})
	if err != nil || len(points) != 0 {
		t.Errorf("the index has the archived book: %v", err)
	}
	if got, err := o.shop.GetBook(ctx, &catalogv1.GetBookRequest{Id: book.GetId()}); err != nil || !got.GetBook().GetArchived() {
		t.Errorf("the archived book cannot be read: %v", err)
	}
	_, err = o.ArchiveBook(ctx, &catalogv1.ArchiveBookRequest{Id: uuid.NewString()})
	refuse(t, err, fault.ReasonBookNotFound)
	o.ended(t, book.GetId())
}

// ended waits until the book's process has ended.
func (o *office) ended(t *testing.T, bookID string) {
	t.Helper()
	await(t, "the process of the book has ended", func() bool {
		d, err := o.temporal.DescribeWorkflowExecution(t.Context(), catalogchange.WorkflowID(uuid.MustParse(bookID)), "")
		return err == nil && d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
	})
}

func TestOneKeyMakesOneBookHoweverConcurrently(t *testing.T) {
	t.Parallel()
	l, _ := seeded(t)
	o := open(t, l)
	var group errgroup.Group
	var mu sync.Mutex
	ids := make(map[string]int)
	first := 0
	for range 30 {
		group.Go(func() error {
			book, replayed, err := o.create(t.Context(), "key", newBook())
			// More than ten at a time are put off, without harm.
			for fault.Is(err, fault.ReasonUnavailable) && t.Context().Err() == nil {
				book, replayed, err = o.create(t.Context(), "key", newBook())
			}
			mu.Lock()
			defer mu.Unlock()
			ids[book.GetId()]++
			if !replayed {
				first++
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	// Whoever made it may have been put off with the rest, and find it made.
	if len(ids) != 1 || first > 1 {
		t.Errorf("made %v, %d of them the first", ids, first)
	}
}

// TestManyChangesOfOneBook come at once; each is made once.
func TestManyChangesOfOneBook(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	o := open(t, l)
	id := bookID(t, books, "Dune")
	var group errgroup.Group
	for n := range 25 {
		group.Go(func() error {
			for {
				_, err := o.UpdateBook(t.Context(), &catalogv1.UpdateBookRequest{
					Id: id.String(), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"page_count"}},
					Book: &catalogv1.BookChange{PageCount: int32(1000 + n)},
				})
				if !fault.Is(err, fault.ReasonUnavailable) || t.Context().Err() != nil {
					return err
				}
			}
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	o.ended(t, id.String())
	o.record(t, "catalogchange", "many", catalogchange.WorkflowID(id), "")
	if book, err := o.Get(t.Context(), id); err != nil || book.Version != 26 {
		t.Errorf("version %d, %v", book.Version, err)
	}
	if state := o.state(t); state.Pending != 0 {
		t.Errorf("%+v", state)
	}
}

func TestQdrantDownDoesNotKeepAnAdministratorWaiting(t *testing.T) {
	t.Parallel()
	l, _ := seeded(t)
	o := open(t, l)
	var book *catalogv1.Book
	o.outage(t, func() {
		started := time.Now()
		var err error
		if book, _, err = o.create(t.Context(), "k", newBook()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(started); d > 3*time.Second {
			t.Errorf("the call took %s", d)
		}
		answer, err := o.shop.SearchBooks(t.Context(), &catalogv1.SearchBooksRequest{Query: "zyzzyva keeper"})
		if err != nil || answer.GetMode() != catalogv1.SearchMode_SEARCH_MODE_LEXICAL ||
			len(answer.GetHits()) == 0 || answer.GetHits()[0].GetBook().GetId() != book.GetId() {
			t.Errorf("the new book is not found by words: %v, %v", answer, err)
		}
		d, err := o.temporal.DescribeWorkflowExecution(t.Context(), catalogchange.WorkflowID(uuid.MustParse(book.GetId())), "")
		if err != nil || d.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
			t.Errorf("the process gave up: %v", err)
		}
	})
	o.ended(t, book.GetId())
	o.record(t, "catalogchange", "index-away", catalogchange.WorkflowID(uuid.MustParse(book.GetId())), "")
	if !o.finds(t, "zyzzyva", catalog.Sparse, book.GetId()) {
		t.Error("the index never got the book")
	}
}

// TestRebuildSurvivesItsWorkers kills the worker in the middle of a rebuild.
func TestRebuildSurvivesItsWorkers(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	o := open(t, l)
	before := o.state(t).Collection
	// The model is slow, so that the worker dies while books are filled in.
	slow := func() {
		if err := l.model.Inject(slowEmbeddings); err != nil {
			t.Error(err)
		}
	}
	slow()
	answer, err := o.RebuildSearchIndex(t.Context(), &catalogv1.RebuildSearchIndexRequest{})
	if err != nil || answer.GetWorkflowId() != reindex.WorkflowID {
		t.Fatalf("%v, %v", answer, err)
	}
	if _, err := o.RebuildSearchIndex(t.Context(), &catalogv1.RebuildSearchIndexRequest{}); err != nil {
		t.Errorf("while one runs: %v", err)
	}
	index := func() *catalogv1.GetSearchIndexResponse {
		t.Helper()
		index, err := o.GetSearchIndex(t.Context(), &catalogv1.GetSearchIndexRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return index
	}
	await(t, "a part is done", func() bool {
		i := index()
		return i.GetRebuilding() && i.GetRebuiltCount() > 0 && i.GetRebuiltCount() < i.GetBookCount()
	})
	// A kill: nothing that it was doing is finished or given back.
	o.db.Close()
	o.worker.Stop()
	if o.db, err = reopen(t, o.url); err != nil {
		t.Fatal(err)
	}
	*o.Store = *catalog.NewStore(o.db)
	if i := index(); !i.GetRebuilding() || i.GetCollection() != before {
		t.Fatalf("after the kill: %v", i)
	}
	l.model.ClearFaults()
	o.work(t)
	run := o.temporal.GetWorkflow(t.Context(), reindex.WorkflowID, "")
	// A change in the meantime is in the new index, too.
	o.edit(t, catalog.Edit{
		BookID: bookID(t, books, "Dune"), Fields: []string{"description"}, Details: catalog.Details{Description: "Zyzzogeton."},
	})
	waiting, cancel := context.WithTimeout(t.Context(), 3*patience) // the dead worker's claims and heartbeats have to run out
	defer cancel()
	var progress reindex.Progress
	if err := run.Get(waiting, &progress); err != nil {
		t.Fatal(err)
	}
	o.record(t, "reindex", "worker-killed", reindex.WorkflowID, "")
	i := index()
	if i.GetCollection() == before || i.GetCollection() != progress.Collection || i.GetRebuilding() || i.GetIndexedCount() != int64(len(books)) {
		t.Errorf("in the end: %v, %+v", i, progress)
	}
	o.current(t)
	if !o.finds(t, "zyzzogeton", catalog.Sparse, bookID(t, books, "Dune").String()) {
		t.Error("a change during the rebuild is lost")
	}
	switches := 0
	history := o.temporal.GetWorkflowHistory(t.Context(), reindex.WorkflowID, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for history.HasNext() {
		event, err := history.Next()
		if err != nil {
			t.Fatal(err)
		}
		if event.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName() == "SwitchIndex" {
			switches++
		}
	}
	if switches != 1 {
		t.Errorf("the alias was switched %d times", switches)
	}
}

// TestCollectionLostDuringARebuild drops the new collection while it is filled.
func TestCollectionLostDuringARebuild(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	o := open(t, l)
	before := o.state(t).Collection
	if err := l.model.Inject(slowEmbeddings); err != nil {
		t.Fatal(err)
	}
	if _, err := o.RebuildSearchIndex(t.Context(), &catalogv1.RebuildSearchIndexRequest{}); err != nil {
		t.Fatal(err)
	}
	var doomed string
	await(t, "the new collection is there", func() bool {
		names, err := o.vectors.Collections(t.Context())
		for _, name := range names {
			if name != before {
				doomed = name
			}
		}
		return err == nil && doomed != "" && o.state(t).Rebuilt > 0
	})
	if err := o.vectors.DropCollection(t.Context(), doomed); err != nil {
		t.Fatal(err)
	}
	l.model.ClearFaults()
	var progress reindex.Progress
	if err := o.temporal.GetWorkflow(t.Context(), reindex.WorkflowID, "").Get(t.Context(), &progress); err != nil {
		t.Fatal(err)
	}
	o.record(t, "reindex", "collection-lost", reindex.WorkflowID, "")
	state := o.state(t)
	if state.Collection == before || state.Collection == doomed || state.Indexed != int64(len(books)) || state.Rebuilding {
		t.Errorf("in the end: %+v", state)
	}
}

func TestDriftCheckIsScheduledOnce(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	o := open(t, l)
	for range 2 {
		if err := reindex.EnsureSchedule(t.Context(), o.temporal); err != nil {
			t.Fatal(err)
		}
	}
	schedule := o.temporal.ScheduleClient().GetHandle(t.Context(), reindex.ScheduleID)
	d, err := schedule.Describe(t.Context())
	if err != nil || d.Schedule.Policy.Overlap != enumspb.SCHEDULE_OVERLAP_POLICY_SKIP || d.Schedule.Policy.CatchupWindow != 10*time.Minute {
		t.Fatalf("%+v, %v", d.Schedule.Policy, err)
	}
	dune := bookID(t, books, "Dune")
	check := func(name string) {
		t.Helper()
		before, err := schedule.Describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := schedule.Trigger(t.Context(), client.ScheduleTriggerOptions{}); err != nil {
			t.Fatal(err)
		}
		await(t, "the check has run", func() bool {
			d, err := schedule.Describe(t.Context())
			return err == nil && d.Info.NumActions > before.Info.NumActions && len(d.Info.RunningWorkflows) == 0
		})
		after, err := schedule.Describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		run := after.Info.RecentActions[len(after.Info.RecentActions)-1].StartWorkflowResult
		o.record(t, "reindex", name, run.WorkflowID, run.FirstExecutionRunID)
	}
	if err := o.vectors.Delete(t.Context(), catalog.Alias, []uuid.UUID{dune}); err != nil {
		t.Fatal(err)
	}
	check("check-mends")
	points, err := o.vectors.Vectors(t.Context(), catalog.Alias, []uuid.UUID{dune})
	if err != nil || len(points) != 1 {
		t.Errorf("the check has not mended the index: %v", err)
	}
	// The whole collection is lost: the check begins a rebuild.
	lost := o.state(t).Collection
	if err := o.vectors.DropCollection(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	check("check-rebuilds")
	await(t, "the index is built anew", func() bool {
		state, err := o.indexer.State(t.Context())
		return err == nil && state.Collection != lost && state.Indexed == int64(len(books))
	})
}

// TestUpdatesNameTheirBadFields sends what the rules of a new book forbid.
func TestUpdatesNameTheirBadFields(t *testing.T) {
	t.Parallel()
	l, books := seeded(t)
	o := open(t, l)
	id := bookID(t, books, "Dune").String()
	for name, test := range map[string]struct {
		mask   string
		book   *catalogv1.BookChange
		field  string
		reason fault.Reason
	}{
		"no mask":         {"", &catalogv1.BookChange{}, "update_mask", fault.ReasonInvalidArgument},
		"unknown field":   {"etag", &catalogv1.BookChange{}, "update_mask", fault.ReasonInvalidArgument},
		"inner field":     {"price.amount_minor", &catalogv1.BookChange{}, "update_mask", fault.ReasonInvalidArgument},
		"no title":        {"title", &catalogv1.BookChange{}, "book.title", fault.ReasonInvalidArgument},
		"blank title":     {"title", &catalogv1.BookChange{Title: " ☃ "}, "book.title", fault.ReasonInvalidArgument},
		"long title":      {"title", &catalogv1.BookChange{Title: strings.Repeat("x", 301)}, "book.title", fault.ReasonInvalidArgument},
		"NUL":             {"description", &catalogv1.BookChange{Description: "a\x00"}, "book.description", fault.ReasonInvalidArgument},
		"no authors":      {"authors", &catalogv1.BookChange{}, "book.authors", fault.ReasonInvalidArgument},
		"empty author":    {"authors", &catalogv1.BookChange{Authors: []string{"A", ""}}, "book.authors[1]", fault.ReasonInvalidArgument},
		"author twice":    {"authors", &catalogv1.BookChange{Authors: []string{"Ann", "ANN"}}, "book.authors[1]", fault.ReasonInvalidArgument},
		"bad category":    {"categories", &catalogv1.BookChange{Categories: []string{"Sci Fi"}}, "book.categories[0]", fault.ReasonInvalidArgument},
		"bad language":    {"language", &catalogv1.BookChange{Language: "english!"}, "book.language", fault.ReasonInvalidArgument},
		"no ISBN":         {"isbn13", &catalogv1.BookChange{Isbn13: "978"}, "book.isbn13", fault.ReasonInvalidArgument},
		"check digit":     {"isbn13", &catalogv1.BookChange{Isbn13: "9780000000003"}, "book.isbn13", fault.ReasonInvalidArgument},
		"no price":        {"price", &catalogv1.BookChange{}, "book.price", fault.ReasonInvalidArgument},
		"negative price":  {"price", &catalogv1.BookChange{Price: &typev1.Money{CurrencyCode: "USD", AmountMinor: -1}}, "book.price.amount_minor", fault.ReasonInvalidArgument},
		"dear price":      {"price", &catalogv1.BookChange{Price: &typev1.Money{CurrencyCode: "USD", AmountMinor: 10_000_001}}, "book.price.amount_minor", fault.ReasonInvalidArgument},
		"other currency":  {"price", &catalogv1.BookChange{Price: &typev1.Money{CurrencyCode: "EUR", AmountMinor: 1}}, "book.price.currency_code", fault.ReasonCurrencyMismatch},
		"year":            {"publication_year", &catalogv1.BookChange{PublicationYear: 3000}, "book.publication_year", fault.ReasonInvalidArgument},
		"negative pages":  {"page_count", &catalogv1.BookChange{PageCount: -1}, "book.page_count", fault.ReasonInvalidArgument},
		"another's ISBN":  {"isbn13", &catalogv1.BookChange{Isbn13: books[0].ISBN13}, "isbn13", fault.ReasonISBNTaken},
		"too many at all": {"categories", &catalogv1.BookChange{Categories: strings.Split("a,b,c,d,e,f,g,h,i,j,k", ",")}, "book.categories", fault.ReasonInvalidArgument},
	} {
		mask := &fieldmaskpb.FieldMask{}
		if test.mask != "" {
			mask.Paths = []string{test.mask}
		}
		_, err := o.UpdateBook(t.Context(), &catalogv1.UpdateBookRequest{Id: id, UpdateMask: mask, Book: test.book})
		if !fault.Is(err, test.reason) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if f := fault.As(err); len(f.Fields) != 1 || f.Fields[0].Name != test.field {
			t.Errorf("%s: names %v, want %s", name, f.Fields, test.field)
		}
	}
	for name, change := range map[string]func(*catalogv1.CreateBookRequest){
		"isbn13":              func(r *catalogv1.CreateBookRequest) { r.Isbn13 = "9780000000003" },
		"title":               func(r *catalogv1.CreateBookRequest) { r.Title = "..." },
		"price.amount_minor":  func(r *catalogv1.CreateBookRequest) { r.Price.AmountMinor = 1 << 40 },
		"price.currency_code": func(r *catalogv1.CreateBookRequest) { r.Price.CurrencyCode = "EUR" },
		"categories[1]":       func(r *catalogv1.CreateBookRequest) { r.Categories = []string{"a", "a"} },
	} {
		req := newBook()
		change(req)
		_, _, err := o.create(t.Context(), name, req)
		if f := fault.As(err); f == nil || len(f.Fields) != 1 || f.Fields[0].Name != name {
			t.Errorf("create with a bad %s: %v", name, err)
		}
	}
	book, err := o.Get(t.Context(), uuid.MustParse(id))
	if err != nil || book.Version != 1 {
		t.Errorf("refused changes made version %d, %v", book.Version, err)
	}
}
