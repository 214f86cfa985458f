package chat

import (
	"context"
	"fmt"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"github.com/google/jsonschema-go/jsonschema"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/reflect/protoreflect"

	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	typev1 "bookworm/internal/gen/bookworm/type/v1"
)

// excerptLength is how much of a description a list of books has, in characters.
const excerptLength = 300

func (m *mcpServer) addTools(server *mcp.Server) {
	addTool(m, server, "search_books", "Search books",
		"Finds books on sale that fit a title, an ISBN, an author, a theme, a mood, or words such as \"books like ...\". The best comes first.",
		&catalogv1.SearchBooksRequest{}, m.searchBooks)
	addTool(m, server, "get_book", "Get a book",
		"Returns one book with its description, price, copies that can be ordered, and rating.",
		&catalogv1.GetBookRequest{}, m.getBook)
	addTool(m, server, "list_categories", "List categories",
		"Lists the categories of the books on sale, with the number of books in each.",
		&catalogv1.ListCategoriesRequest{}, m.listCategories)
	addTool(m, server, "list_authors", "List authors",
		"Lists the authors of the books on sale by name, a page at a time.",
		&catalogv1.ListAuthorsRequest{}, m.listAuthors)
	addTool(m, server, "get_book_reviews", "Get a book's reviews",
		"Returns how a book is rated and what its reviewers say, a page at a time.",
		&ratingv1.ListReviewsRequest{}, m.getBookReviews)
}

// addTool offers a call as a tool. The input takes what the procedure with the given
// request takes, by the same names and within the same limits.
func addTool[In, Out any](
	m *mcpServer, server *mcp.Server, name, title, description string, request protoreflect.ProtoMessage, call func(context.Context, In) (Out, error),
) {
	closed := false
	tool := &mcp.Tool{
		Name: name, Title: title, Description: description,
		Annotations: &mcp.ToolAnnotations{Title: title, ReadOnlyHint: true, IdempotentHint: true, DestructiveHint: &closed, OpenWorldHint: &closed},
		InputSchema: limited[In](request.ProtoReflect().Descriptor()),
	}
	mcp.AddTool(server, tool, func(ctx context.Context, _ *mcp.CallToolRequest, in In) (*mcp.CallToolResult, Out, error) {
		out, err := call(ctx, in)
		if err != nil {
			err = &toolError{said(m.public(ctx, err))}
		}
		return nil, out, err
	})
}

// limited returns the JSON schema of an input, with the limits that the contract
// sets to the fields of the same names. It panics when the two do not fit: both are
// in the code.
func limited[In any](request protoreflect.MessageDescriptor) *jsonschema.Schema {
	schema, err := jsonschema.For[In](nil)
	if err != nil {
		panic(fmt.Sprintf("the input of %s: %v", request.FullName(), err))
	}
	for name, property := range schema.Properties {
		field := request.Fields().ByName(protoreflect.Name(name))
		if field == nil {
			panic(fmt.Sprintf("%s has no field %s", request.FullName(), name))
		}
		if err := limitBy(property, field); err != nil {
			panic(fmt.Sprintf("the limits of %s: %v", field.FullName(), err))
		}
	}
	return schema
}

func limitBy(property *jsonschema.Schema, field protoreflect.FieldDescriptor) error {
	if enum := field.Enum(); enum != nil {
		for i := range enum.Values().Len() {
			if value := enum.Values().Get(i); value.Number() != 0 { // 0 is what is not said
				property.Enum = append(property.Enum, string(value.Name()))
			}
		}
	}
	rules, err := protovalidate.ResolveFieldRules(field)
	if err != nil || rules == nil {
		return err
	}
	if text := rules.GetString(); text != nil {
		if text.HasMinLen() {
			property.MinLength = new(int(text.GetMinLen())) //nolint:gosec // a limit of the contract
		}
		if text.HasMaxLen() {
			property.MaxLength = new(int(text.GetMaxLen())) //nolint:gosec // a limit of the contract
		}
		if text.GetUuid() {
			property.Format = "uuid"
		}
	}
	switch {
	case rules.GetInt32() != nil:
		property.Minimum = bound(rules.GetInt32().HasGte(), rules.GetInt32().GetGte())
		property.Maximum = bound(rules.GetInt32().HasLte(), rules.GetInt32().GetLte())
	case rules.GetInt64() != nil:
		property.Minimum = bound(rules.GetInt64().HasGte(), rules.GetInt64().GetGte())
		property.Maximum = bound(rules.GetInt64().HasLte(), rules.GetInt64().GetLte())
	case rules.GetDouble() != nil:
		property.Minimum = bound(rules.GetDouble().HasGte(), rules.GetDouble().GetGte())
		property.Maximum = bound(rules.GetDouble().HasLte(), rules.GetDouble().GetLte())
	}
	return nil
}

func bound[N int32 | int64 | float64](set bool, value N) *float64 {
	if !set {
		return nil
	}
	return new(float64(value))
}

type searchBooksInput struct {
	Query         string  `json:"query" jsonschema:"what is looked for, in any words"`
	PageSize      int32   `json:"page_size,omitempty" jsonschema:"most books to answer; 10 when 0"`
	Category      string  `json:"category,omitempty" jsonschema:"only books of this category; a slug of list_categories"`
	Author        string  `json:"author,omitempty" jsonschema:"only books of the author with this full name, case ignored"`
	Language      string  `json:"language,omitempty" jsonschema:"only books in this language; a BCP 47 tag such as en"`
	MinPriceMinor int64   `json:"min_price_minor,omitempty" jsonschema:"lowest price in minor units, inclusive; 0 for none"`
	MaxPriceMinor int64   `json:"max_price_minor,omitempty" jsonschema:"highest price in minor units, inclusive; 0 for none"`
	InStock       bool    `json:"in_stock,omitempty" jsonschema:"only books that can be ordered now"`
	MinScore      float64 `json:"min_score,omitempty" jsonschema:"lowest rating from 1 to 5; 0 for any"`
}

type searchBooksOutput struct {
	Hits []mcpHit `json:"hits" jsonschema:"the best first; empty when nothing fits"`
	Mode string   `json:"mode" jsonschema:"SEARCH_MODE_HYBRID, or SEARCH_MODE_LEXICAL while only words can be searched and themes and moods are found less well"`
}

type mcpHit struct {
	mcpBook

	Exact bool `json:"exact" jsonschema:"whether the query is this book's very title or ISBN"`
}

func (m *mcpServer) searchBooks(ctx context.Context, in searchBooksInput) (searchBooksOutput, error) {
	found, err := m.Catalog.SearchBooks(onBehalf(ctx), &catalogv1.SearchBooksRequest{
		Query: in.Query, PageSize: in.PageSize, Category: in.Category, Author: in.Author, Language: in.Language,
		MinPriceMinor: in.MinPriceMinor, MaxPriceMinor: in.MaxPriceMinor, InStock: in.InStock, MinScore: in.MinScore,
	})
	if err != nil {
		return searchBooksOutput{}, err
	}
	out := searchBooksOutput{Hits: make([]mcpHit, 0, len(found.GetHits())), Mode: found.GetMode().String()}
	for _, hit := range found.GetHits() {
		out.Hits = append(out.Hits, mcpHit{mcpBook: bookExcerpt(hit.GetBook()), Exact: hit.GetExact()})
	}
	return out, nil
}

type getBookInput struct {
	ID string `json:"id" jsonschema:"the book's UUID, as search_books gives it"`
}

func (m *mcpServer) getBook(ctx context.Context, in getBookInput) (mcpBook, error) {
	found, err := m.Catalog.GetBook(onBehalf(ctx), &catalogv1.GetBookRequest{Id: in.ID})
	if err != nil {
		return mcpBook{}, err
	}
	return wholeBook(found.GetBook()), nil
}

type listCategoriesInput struct{}

type listCategoriesOutput struct {
	Categories []mcpCategory `json:"categories"`
}

type mcpCategory struct {
	Slug      string `json:"slug" jsonschema:"for example science-fiction"`
	BookCount int32  `json:"book_count" jsonschema:"books on sale in it"`
	URI       string `json:"uri" jsonschema:"the resource with its books"`
}

func (m *mcpServer) listCategories(ctx context.Context, _ listCategoriesInput) (listCategoriesOutput, error) {
	found, err := m.Catalog.ListCategories(onBehalf(ctx), &catalogv1.ListCategoriesRequest{})
	if err != nil {
		return listCategoriesOutput{}, err
	}
	out := listCategoriesOutput{Categories: make([]mcpCategory, 0, len(found.GetCategories()))}
	for _, c := range found.GetCategories() {
		out.Categories = append(out.Categories, mcpCategory{Slug: c.GetSlug(), BookCount: c.GetBookCount(), URI: categoriesURI + "/" + c.GetSlug()})
	}
	return out, nil
}

type listAuthorsInput struct {
	Query     string `json:"query,omitempty" jsonschema:"words or beginnings of words of the name, case and accents ignored; empty for all"`
	PageSize  int32  `json:"page_size,omitempty" jsonschema:"authors a page; 20 when 0"`
	PageToken string `json:"page_token,omitempty" jsonschema:"next_page_token of the page before, with the same query; empty for the first page"`
}

type listAuthorsOutput struct {
	Authors       []mcpAuthor `json:"authors"`
	NextPageToken string      `json:"next_page_token" jsonschema:"empty on the last page"`
}

type mcpAuthor struct {
	Name      string `json:"name"`
	BookCount int32  `json:"book_count" jsonschema:"books on sale"`
}

func (m *mcpServer) listAuthors(ctx context.Context, in listAuthorsInput) (listAuthorsOutput, error) {
	found, err := m.Catalog.ListAuthors(onBehalf(ctx), &catalogv1.ListAuthorsRequest{Query: in.Query, PageSize: in.PageSize, PageToken: in.PageToken})
	if err != nil {
		return listAuthorsOutput{}, err
	}
	out := listAuthorsOutput{Authors: make([]mcpAuthor, 0, len(found.GetAuthors())), NextPageToken: found.GetNextPageToken()}
	for _, a := range found.GetAuthors() {
		out.Authors = append(out.Authors, mcpAuthor{Name: a.GetName(), BookCount: a.GetBookCount()})
	}
	return out, nil
}

type getBookReviewsInput struct {
	BookID    string `json:"book_id" jsonschema:"the book's UUID, as search_books gives it"`
	PageSize  int32  `json:"page_size,omitempty" jsonschema:"reviews a page; 20 when 0"`
	PageToken string `json:"page_token,omitempty" jsonschema:"next_page_token of the page before, with the same other fields; empty for the first page"`
	Sort      string `json:"sort,omitempty" jsonschema:"order of the reviews; HELPFUL when empty"`
	Stars     int32  `json:"stars,omitempty" jsonschema:"only reviews with this many stars; 0 for all"`
}

type getBookReviewsOutput struct {
	ReviewCount   int32       `json:"review_count" jsonschema:"published reviews of the book"`
	AverageStars  float64     `json:"average_stars" jsonschema:"mean of their stars, 1 to 5; 0 without a review"`
	Score         float64     `json:"score" jsonschema:"Bayesian average, 1 to 5, for comparing books; 0 without a review"`
	Histogram     []int32     `json:"histogram" jsonschema:"reviews with 1, 2, 3, 4 and 5 stars"`
	Summary       string      `json:"summary,omitempty" jsonschema:"what the reviews say together, by a model, between ⟦data⟧ and ⟦/data⟧"`
	Reviews       []mcpReview `json:"reviews"`
	NextPageToken string      `json:"next_page_token" jsonschema:"empty on the last page"`
}

type mcpReview struct {
	ID               string `json:"id"`
	Stars            int32  `json:"stars"`
	Title            string `json:"title" jsonschema:"the reviewer's words, between ⟦data⟧ and ⟦/data⟧"`
	Text             string `json:"text" jsonschema:"the reviewer's words, between ⟦data⟧ and ⟦/data⟧"`
	VerifiedPurchase bool   `json:"verified_purchase"`
	HelpfulCount     int32  `json:"helpful_count" jsonschema:"shoppers who found it helpful"`
	UpdateTime       string `json:"update_time" jsonschema:"RFC 3339"`
}

// getBookReviews asks for the rating and the page at once.
func (m *mcpServer) getBookReviews(ctx context.Context, in getBookReviewsInput) (getBookReviewsOutput, error) {
	var rating *ratingv1.GetRatingSummaryResponse
	var page *ratingv1.ListReviewsResponse
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		rating, err = m.Ratings.GetRatingSummary(onBehalf(ctx), &ratingv1.GetRatingSummaryRequest{BookId: in.BookID})
		return err
	})
	group.Go(func() (err error) {
		page, err = m.Ratings.ListReviews(onBehalf(ctx), &ratingv1.ListReviewsRequest{
			BookId: in.BookID, PageSize: in.PageSize, PageToken: in.PageToken, Stars: in.Stars,
			Sort: ratingv1.ListReviewsRequest_Sort(ratingv1.ListReviewsRequest_Sort_value[in.Sort]), // the schema knows no other words
		})
		return err
	})
	if err := group.Wait(); err != nil {
		return getBookReviewsOutput{}, err
	}
	out := getBookReviewsOutput{
		ReviewCount: rating.GetReviewCount(), AverageStars: rating.GetAverageStars(), Score: rating.GetScore(),
		Histogram: append([]int32{}, rating.GetHistogram()...), Summary: quoted(rating.GetSummary().GetText()),
		Reviews: make([]mcpReview, 0, len(page.GetReviews())), NextPageToken: page.GetNextPageToken(),
	}
	for _, r := range page.GetReviews() {
		out.Reviews = append(out.Reviews, mcpReview{
			ID: r.GetId(), Stars: r.GetStars(), Title: quoted(r.GetTitle()), Text: quoted(r.GetText()), VerifiedPurchase: r.GetVerifiedPurchase(),
			HelpfulCount: r.GetHelpfulCount(), UpdateTime: r.GetUpdateTime().AsTime().Format(time.RFC3339),
		})
	}
	return out, nil
}

// mcpBook is a book as tools and resources show it.
type mcpBook struct {
	ID                string     `json:"id" jsonschema:"UUID"`
	URI               string     `json:"uri" jsonschema:"the resource with the book"`
	ISBN13            string     `json:"isbn13"`
	Title             string     `json:"title"`
	Subtitle          string     `json:"subtitle,omitempty"`
	Authors           []string   `json:"authors"`
	Description       string     `json:"description,omitempty" jsonschema:"what the publisher says, between ⟦data⟧ and ⟦/data⟧; the beginning in lists"`
	Publisher         string     `json:"publisher,omitempty"`
	PublicationYear   int32      `json:"publication_year" jsonschema:"of the first publication; negative before the common era"`
	Language          string     `json:"language" jsonschema:"BCP 47 tag"`
	PageCount         int32      `json:"page_count"`
	Categories        []string   `json:"categories" jsonschema:"slugs"`
	Price             mcpPrice   `json:"price"`
	AvailableQuantity int32      `json:"available_quantity" jsonschema:"copies that can be ordered now"`
	Archived          bool       `json:"archived" jsonschema:"whether the book is no longer sold"`
	Rating            *mcpRating `json:"rating,omitempty" jsonschema:"absent until somebody has reviewed the book"`
}

type mcpPrice struct {
	CurrencyCode string `json:"currency_code" jsonschema:"ISO 4217"`
	AmountMinor  int64  `json:"amount_minor" jsonschema:"minor units such as cents, without tax"`
}

func toPrice(m *typev1.Money) mcpPrice {
	return mcpPrice{CurrencyCode: m.GetCurrencyCode(), AmountMinor: m.GetAmountMinor()}
}

type mcpRating struct {
	ReviewCount  int32   `json:"review_count"`
	AverageStars float64 `json:"average_stars" jsonschema:"1 to 5"`
	Score        float64 `json:"score" jsonschema:"Bayesian average, 1 to 5, for comparing books"`
}

// wholeBook is a book with all of its description.
func wholeBook(b *catalogv1.Book) mcpBook {
	book := mcpBook{
		ID: b.GetId(), URI: booksURI + b.GetId(), ISBN13: b.GetIsbn13(), Title: b.GetTitle(), Subtitle: b.GetSubtitle(),
		Authors: append([]string{}, b.GetAuthors()...), Description: quoted(b.GetDescription()), Publisher: b.GetPublisher(),
		PublicationYear: b.GetPublicationYear(), Language: b.GetLanguage(), PageCount: b.GetPageCount(),
		Categories: append([]string{}, b.GetCategories()...), Price: toPrice(b.GetPrice()),
		AvailableQuantity: b.GetAvailableQuantity(), Archived: b.GetArchived(),
	}
	if r := b.GetRating(); r.GetReviewCount() > 0 {
		book.Rating = &mcpRating{ReviewCount: r.GetReviewCount(), AverageStars: r.GetAverageStars(), Score: r.GetScore()}
	}
	return book
}

// bookExcerpt is a book with the beginning of its description.
func bookExcerpt(b *catalogv1.Book) mcpBook {
	book := wholeBook(b)
	if text := []rune(b.GetDescription()); len(text) > excerptLength {
		book.Description = quoted(strings.TrimSpace(string(text[:excerptLength])) + "…")
	}
	return book
}
