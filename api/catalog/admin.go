package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"buf.build/go/protovalidate"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"bookworm/internal/catalog"
	"bookworm/internal/fault"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	typev1 "bookworm/internal/gen/bookworm/type/v1"
	"bookworm/internal/identity"
	"bookworm/internal/money"
	"bookworm/internal/rpc"
	"bookworm/workflows/catalogchange"
	"bookworm/workflows/reindex"
)

// admin serves CatalogAdminService.
type admin struct{ deps Deps }

// CreateBook starts the new book's process, or answers the book that the same request
// created before.
func (h *admin) CreateBook(ctx context.Context, req *catalogv1.CreateBookRequest) (*catalogv1.CreateBookResponse, error) {
	key, err := rpc.IdempotencyKey(ctx)
	if err != nil {
		return nil, err
	}
	details := createDetails(req)
	if err := details.Check("", catalog.DetailFields); err != nil {
		return nil, err
	}
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("fingerprint request: %w", err)
	}
	book := catalog.NewBook{
		ID: catalog.BookID(identity.FromContext(ctx).Subject, key), Fingerprint: catalog.Fingerprint(encoded),
		Details: details, OpeningQuantity: req.GetOpeningQuantity(),
	}
	// The row outlives the workflow's retention, so it answers first.
	replayed, err := h.deps.Books.Created(ctx, book.ID, book.Fingerprint)
	if err != nil {
		return nil, err
	}
	if !replayed {
		answer, err := catalogchange.Apply(ctx, h.deps.Temporal, catalogchange.Change{Create: &book})
		if err != nil {
			return nil, err
		}
		replayed = answer.Replayed
	}
	if replayed {
		rpc.SetHeader(ctx, "Idempotent-Replayed", "true")
	}
	created, err := h.read(ctx, book.ID)
	return &catalogv1.CreateBookResponse{Book: created}, err
}

func createDetails(r *catalogv1.CreateBookRequest) catalog.Details {
	return catalog.Details{
		ISBN13: r.GetIsbn13(), Title: r.GetTitle(), Subtitle: r.GetSubtitle(), Authors: r.GetAuthors(), Description: r.GetDescription(),
		Publisher: r.GetPublisher(), Year: r.GetPublicationYear(), Language: r.GetLanguage(), Pages: r.GetPageCount(),
		Categories: r.GetCategories(), Price: money.FromProto(r.GetPrice()),
	}
}

// UpdateBook changes the fields that the mask names.
func (h *admin) UpdateBook(ctx context.Context, req *catalogv1.UpdateBookRequest) (*catalogv1.UpdateBookResponse, error) {
	fields := req.GetUpdateMask().GetPaths()
	if len(fields) == 0 {
		return nil, invalid("update_mask", "names no field")
	}
	for _, field := range fields {
		if !slices.Contains(catalog.DetailFields, field) {
			return nil, invalid("update_mask", fmt.Sprintf("names %q, which is no field that can change", field))
		}
	}
	changed, err := merged(req.GetBook(), fields)
	if err != nil {
		return nil, err
	}
	edit := catalog.Edit{Details: createDetails(changed), Fields: fields}
	if err := edit.Details.Check("book.", fields); err != nil {
		return nil, err
	}
	book, err := h.edit(ctx, req.GetId(), req.GetEtag(), edit)
	return &catalogv1.UpdateBookResponse{Book: book}, err
}

// merged returns the fields of a change in a message that has the rules of a new
// book, after checking them by these. What does not change is filled with something
// valid.
func merged(change *catalogv1.BookChange, fields []string) (*catalogv1.CreateBookRequest, error) {
	book := &catalogv1.CreateBookRequest{
		Isbn13: "9780000000002", Title: "-", Authors: []string{"-"}, Language: "en", Categories: []string{"x"},
		Price: &typev1.Money{CurrencyCode: catalog.Currency},
	}
	from, to := change.ProtoReflect(), book.ProtoReflect()
	for _, field := range fields {
		name := protoreflect.Name(field)
		source, target := from.Descriptor().Fields().ByName(name), to.Descriptor().Fields().ByName(name)
		to.Clear(target)
		if from.Has(source) {
			to.Set(target, from.Get(source))
		}
	}
	err := protovalidate.Validate(book)
	if violated, ok := errors.AsType[*protovalidate.ValidationError](err); ok {
		return nil, violation(violated)
	}
	if err != nil {
		return nil, fmt.Errorf("check the book: %w", err)
	}
	return book, nil
}

func violation(violated *protovalidate.ValidationError) error {
	f := fault.New(fault.ReasonInvalidArgument, "").WithCause(violated)
	var problems []string
	for _, v := range violated.Violations {
		name, problem := "book."+protovalidate.FieldPathString(v.Proto.GetField()), v.Proto.GetMessage()
		problems = append(problems, name+" "+problem)
		f.WithField(name, problem)
	}
	f.Message = strings.Join(problems, "; ")
	return f
}

// ArchiveBook takes a book off sale.
func (h *admin) ArchiveBook(ctx context.Context, req *catalogv1.ArchiveBookRequest) (*catalogv1.ArchiveBookResponse, error) {
	book, err := h.edit(ctx, req.GetId(), req.GetEtag(), catalog.Edit{Archive: true})
	return &catalogv1.ArchiveBookResponse{Book: book}, err
}

// edit runs the book's process and returns the book as it is then.
func (h *admin) edit(ctx context.Context, bookID, etag string, e catalog.Edit) (*catalogv1.Book, error) {
	var err error
	if e.BookID, err = parseID("id", bookID); err != nil {
		return nil, err
	}
	if e.Version, err = wantedVersion(ctx, etag); err != nil {
		return nil, err
	}
	if e.ID, err = uuid.NewV7(); err != nil {
		return nil, fmt.Errorf("make a change id: %w", err)
	}
	// A workflow for a book that there is not would be of no use.
	if _, err := h.deps.Books.Get(ctx, e.BookID); err != nil {
		return nil, err
	}
	if _, err := catalogchange.Apply(ctx, h.deps.Temporal, catalogchange.Change{Edit: &e}); err != nil {
		if f := fault.As(err); f != nil && f.Reason == fault.ReasonStaleVersion {
			return nil, f.With("etag", "v"+f.Metadata["version"])
		}
		return nil, err
	}
	return h.read(ctx, e.BookID)
}

// read returns a book with its ETag, also for the header.
func (h *admin) read(ctx context.Context, id uuid.UUID) (*catalogv1.Book, error) {
	book, err := h.deps.Books.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	rpc.SetHeader(ctx, "ETag", strconv.Quote(etag(book.Version)))
	return toProto(book), nil
}

// wantedVersion returns the version that the caller has seen, from the message or the
// If-Match header; 0 for any.
func wantedVersion(ctx context.Context, inMessage string) (int64, error) {
	header := strings.TrimSpace(rpc.Header(ctx, "If-Match"))
	if header == "*" { // whichever there is
		header = ""
	}
	var wanted int64
	for _, text := range []string{header, inMessage} {
		if text == "" {
			continue
		}
		version, err := parseETag(text)
		if err != nil {
			return 0, err
		}
		if wanted != 0 && wanted != version {
			return 0, invalid("etag", "contradicts the If-Match header")
		}
		wanted = version
	}
	return wanted, nil
}

// parseETag reads what etag wrote, with or without quotes.
func parseETag(text string) (int64, error) {
	bare := text
	if len(bare) >= 2 && strings.HasPrefix(bare, `"`) && strings.HasSuffix(bare, `"`) {
		bare = bare[1 : len(bare)-1]
	}
	version, err := strconv.ParseInt(strings.TrimPrefix(bare, "v"), 10, 64)
	if err != nil || version < 1 || bare != etag(version) {
		return 0, invalid("etag", "is not an etag of a book")
	}
	return version, nil
}

// RebuildSearchIndex begins a rebuild, or names the one that runs.
func (h *admin) RebuildSearchIndex(ctx context.Context, _ *catalogv1.RebuildSearchIndexRequest) (*catalogv1.RebuildSearchIndexResponse, error) {
	if err := reindex.Begin(ctx, h.deps.Temporal); err != nil {
		return nil, fault.New(fault.ReasonUnavailable, "The rebuild could not be started.").WithCause(err)
	}
	return &catalogv1.RebuildSearchIndexResponse{WorkflowId: reindex.WorkflowID}, nil
}

// GetSearchIndex says how the index is.
func (h *admin) GetSearchIndex(ctx context.Context, _ *catalogv1.GetSearchIndexRequest) (*catalogv1.GetSearchIndexResponse, error) {
	s, err := h.deps.Indexer.State(ctx)
	if err != nil {
		return nil, err
	}
	rpc.SetHeader(ctx, "Cache-Control", "private, no-store")
	return &catalogv1.GetSearchIndexResponse{
		Collection: s.Collection, IndexedCount: s.Indexed, BookCount: s.Books, PendingCount: s.Pending,
		Rebuilding: s.Rebuilding, RebuiltCount: s.Rebuilt,
	}, nil
}
