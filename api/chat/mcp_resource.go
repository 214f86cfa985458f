package chat

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/fault"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
)

const (
	booksURI      = "bookworm://books/" // and the book's UUID
	categoriesURI = "bookworm://categories"
	jsonType      = "application/json"
	// categoryBooks is how many books the resource of a category has.
	categoryBooks = 100
)

func (m *mcpServer) addResources(server *mcp.Server) {
	server.AddResource(&mcp.Resource{
		URI: categoriesURI, Name: "categories", Title: "Categories", MIMEType: jsonType,
		Description: "The categories of the books on sale, as list_categories gives them.",
	}, m.resource(func(ctx context.Context, _ string) (any, error) { return m.listCategories(ctx, listCategoriesInput{}) }))
	server.AddResourceTemplate(&mcp.ResourceTemplate{
		URITemplate: categoriesURI + "/{slug}", Name: "category", Title: "Category", MIMEType: jsonType,
		Description: fmt.Sprintf("A category and its books on sale by title, at most %d; search_books finds the others.", categoryBooks),
	}, m.resource(func(ctx context.Context, uri string) (any, error) { return m.category(ctx, lastSegment(uri)) }))
	server.AddResourceTemplate(&mcp.ResourceTemplate{
		URITemplate: booksURI + "{id}", Name: "book", Title: "Book", MIMEType: jsonType,
		Description: "A book, as get_book gives it.",
	}, m.resource(func(ctx context.Context, uri string) (any, error) {
		return m.getBook(ctx, getBookInput{lastSegment(uri)})
	}))
}

// resource answers a read with JSON. What is not there, or could not be, is not
// found.
func (m *mcpServer) resource(read func(ctx context.Context, uri string) (any, error)) mcp.ResourceHandler {
	return func(ctx context.Context, request *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		content, err := read(ctx, request.Params.URI)
		if kind := fault.KindOf(err); kind == fault.NotFound || kind == fault.Invalid {
			return nil, mcp.ResourceNotFoundError(request.Params.URI)
		}
		if err != nil {
			return nil, m.rpcError(ctx, err)
		}
		text, err := json.Marshal(content)
		if err != nil {
			return nil, m.rpcError(ctx, fmt.Errorf("write the resource as JSON: %w", err))
		}
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: request.Params.URI, MIMEType: jsonType, Text: string(text)}}}, nil
	}
}

// lastSegment returns what fills the template of a resource.
func lastSegment(uri string) string {
	segment := uri[strings.LastIndexByte(uri, '/')+1:]
	if plain, err := url.PathUnescape(segment); err == nil {
		return plain
	}
	return segment
}

type categoryOutput struct {
	mcpCategory

	Books []mcpBook `json:"books"`
}

func (m *mcpServer) category(ctx context.Context, slug string) (categoryOutput, error) {
	var all listCategoriesOutput
	var books *catalogv1.ListBooksResponse
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { all, err = m.listCategories(ctx, listCategoriesInput{}); return err })
	group.Go(func() (err error) {
		books, err = m.Catalog.ListBooks(onBehalf(ctx), &catalogv1.ListBooksRequest{Category: slug, PageSize: categoryBooks})
		return err
	})
	if err := group.Wait(); err != nil {
		return categoryOutput{}, err
	}
	for _, c := range all.Categories {
		if c.Slug != slug {
			continue
		}
		out := categoryOutput{mcpCategory: c, Books: make([]mcpBook, 0, len(books.GetBooks()))}
		for _, b := range books.GetBooks() {
			out.Books = append(out.Books, bookExcerpt(b))
		}
		return out, nil
	}
	return categoryOutput{}, fault.New(fault.ReasonNotFound, "There is no category %q.", slug)
}
