package chat

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/google/uuid"

	"bookworm/internal/chat"
	"bookworm/internal/fault"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/money"
)

// Tools returns what the bookseller can look up and propose. Every call goes to
// the shop's API with the credential of the shopper's message: no argument says
// whose data is meant, and none could.
func Tools(d Deps) []chat.Tool {
	return []chat.Tool{
		{
			Name: chat.SearchBooks, Doing: "Searching the catalogue",
			Description: "Find books on sale by title, ISBN, author, theme, mood or \"books like ...\". Gives price, stock and rating.",
			Parameters: json.RawMessage(`{"type":"object","properties":{
				"query":{"type":"string","minLength":1,"maxLength":300,"description":"What is looked for, in the shopper's words, without prices."},
				"category":{"type":"string","maxLength":64,"description":"Category slug, for example science-fiction."},
				"author":{"type":"string","maxLength":200,"description":"Full name."},
				"language":{"type":"string","maxLength":35,"description":"BCP 47 tag, for example en."},
				"min_price":{"type":"number","minimum":0,"maximum":100000,"description":"Lowest price, for example 5.50."},
				"max_price":{"type":"number","minimum":0,"maximum":100000,"description":"Highest price, for example 20."},
				"in_stock":{"type":"boolean","description":"Only books that can be ordered now."},
				"limit":{"type":"integer","minimum":1,"maximum":8}
			},"required":["query"],"additionalProperties":false}`),
			Run: typed(d.searchBooks),
		},
		{
			Name: "get_book", Doing: "Looking the book up",
			Description: "Everything the shop knows of one book, by its id.",
			Parameters: json.RawMessage(`{"type":"object","properties":{
				"book_id":{"type":"string","minLength":36,"maxLength":36,"description":"The id of a book that a search found."}
			},"required":["book_id"],"additionalProperties":false}`),
			Run: typed(d.getBook),
		},
		{
			Name: "list_reviews", Doing: "Reading reviews",
			Description: "What other shoppers wrote about a book, the most helpful first, and how it is rated.",
			Parameters: json.RawMessage(`{"type":"object","properties":{
				"book_id":{"type":"string","minLength":36,"maxLength":36},
				"stars":{"type":"integer","minimum":1,"maximum":5,"description":"Only reviews with so many stars."},
				"limit":{"type":"integer","minimum":1,"maximum":6}
			},"required":["book_id"],"additionalProperties":false}`),
			Run: typed(d.listReviews),
		},
		{
			Name: chat.MyOrders, Doing: "Looking at your orders",
			Description: "The shopper's own orders, the newest first.",
			Parameters: json.RawMessage(`{"type":"object","properties":{
				"limit":{"type":"integer","minimum":1,"maximum":8}
			},"additionalProperties":false}`),
			Run: typed(d.myOrders),
		},
		{
			Name: "order_status", Doing: "Looking at your order",
			Description: "How one of the shopper's own orders stands, by its id.",
			Parameters: json.RawMessage(`{"type":"object","properties":{
				"order_id":{"type":"string","minLength":36,"maxLength":36}
			},"required":["order_id"],"additionalProperties":false}`),
			Run: typed(d.orderStatus),
		},
		{
			Name: chat.StorePolicy, Doing: "Looking at the shop's rules",
			Description: "The shop's rules: " + strings.Join(chat.PolicyNames(), ", ") + ".",
			Parameters: json.RawMessage(`{"type":"object","properties":{
				"question":{"type":"string","minLength":1,"maxLength":300,"description":"What is asked, or the name of a rule."}
			},"required":["question"],"additionalProperties":false}`),
			Run: typed(d.storePolicy),
		},
		{
			Name: "add_to_basket", Doing: "Preparing your basket",
			Description: "Show the shopper a card on which they can confirm that copies of a book go into their basket. Changes nothing by itself.",
			Parameters: json.RawMessage(`{"type":"object","properties":{
				"book_id":{"type":"string","minLength":36,"maxLength":36},
				"quantity":{"type":"integer","minimum":1,"maximum":99}
			},"required":["book_id","quantity"],"additionalProperties":false}`),
			Run: typed(d.addToBasket),
		},
	}
}

// typed reads the arguments of a tool, which fit its schema.
func typed[T any](run func(context.Context, T) (chat.Found, error)) func(context.Context, json.RawMessage) (chat.Found, error) {
	return func(ctx context.Context, raw json.RawMessage) (chat.Found, error) {
		var arguments T
		if err := json.Unmarshal(raw, &arguments); err != nil {
			return chat.Found{}, fault.New(fault.ReasonInvalidArgument, "The arguments do not fit.").WithCause(err)
		}
		return run(ctx, arguments)
	}
}

const (
	usualBooks   = 5
	usualReviews = 4
	usualOrders  = 5
	usualRules   = 3
)

func or(n, usual int32) int32 {
	if n == 0 {
		return usual
	}
	return n
}

type searchArguments struct {
	Query    string  `json:"query"`
	Category string  `json:"category"`
	Author   string  `json:"author"`
	Language string  `json:"language"`
	MinPrice float64 `json:"min_price"`
	MaxPrice float64 `json:"max_price"`
	InStock  bool    `json:"in_stock"`
	Limit    int32   `json:"limit"`
}

func (d Deps) searchBooks(ctx context.Context, a searchArguments) (chat.Found, error) {
	answer, err := d.Books.SearchBooks(ctx, &catalogv1.SearchBooksRequest{
		Query: a.Query, PageSize: or(a.Limit, usualBooks), Category: a.Category, Author: a.Author, Language: a.Language,
		MinPriceMinor: cents(a.MinPrice), MaxPriceMinor: cents(a.MaxPrice), InStock: a.InStock,
	})
	if err != nil {
		return chat.Found{}, fmt.Errorf("search books: %w", err)
	}
	found := chat.Found{Summary: counted(len(answer.GetHits()), "book")}
	for _, hit := range answer.GetHits() {
		found.Results = append(found.Results, bookResult(hit.GetBook()))
	}
	switch {
	case len(answer.GetHits()) == 0:
		found.Note = "Nothing in the catalogue fits."
	case answer.GetMode() == catalogv1.SearchMode_SEARCH_MODE_LEXICAL:
		found.Note = "Found by words alone; a theme or a mood may have been missed."
	}
	return found, nil
}

func cents(amount float64) int64 { return int64(math.Round(amount * 100)) }

func counted(n int, what string) string {
	switch n {
	case 0:
		return "No " + what + "s found"
	case 1:
		return "1 " + what + " found"
	}
	return fmt.Sprintf("%d %ss found", n, what)
}

// bookResult is a book as the bookseller knows it.
func bookResult(b *catalogv1.Book) chat.Result {
	price := money.FromProto(b.GetPrice())
	r := chat.Result{
		Kind: chat.KindBook, ID: b.GetId(), Title: b.GetTitle(), Text: strings.TrimSpace(b.GetSubtitle() + "\n" + b.GetDescription()),
		Fields: map[string]any{
			"authors": b.GetAuthors(), "price": price.String(), chat.Available: b.GetAvailableQuantity(), "in_stock": b.GetAvailableQuantity() > 0,
			"isbn13": b.GetIsbn13(), "publisher": b.GetPublisher(), "publication_year": b.GetPublicationYear(), "language": b.GetLanguage(),
			"page_count": b.GetPageCount(), "categories": b.GetCategories(),
		},
		Card: &chat.Card{Book: &chat.BookCard{
			BookID: b.GetId(), Title: b.GetTitle(), Authors: b.GetAuthors(), Price: price, Available: b.GetAvailableQuantity(),
		}},
	}
	if b.GetArchived() {
		r.Fields["no_longer_sold"] = true
		r.Fields[chat.Available], r.Fields["in_stock"] = int32(0), false
		r.Card.Book.Available = 0
	}
	if rating := b.GetRating(); rating.GetReviewCount() > 0 {
		r.Fields["rating"] = fmt.Sprintf("%.1f of 5 stars, %d reviews", rating.GetAverageStars(), rating.GetReviewCount())
	}
	return r
}

type bookArguments struct {
	BookID string `json:"book_id"`
}

func (d Deps) getBook(ctx context.Context, a bookArguments) (chat.Found, error) {
	book, err := d.book(ctx, a.BookID)
	if err != nil {
		return chat.Found{}, err
	}
	return chat.Found{Results: []chat.Result{bookResult(book)}, Summary: "Found"}, nil
}

func (d Deps) book(ctx context.Context, id string) (*catalogv1.Book, error) {
	answer, err := d.Books.GetBook(ctx, &catalogv1.GetBookRequest{Id: id})
	if err != nil {
		return nil, fmt.Errorf("get book: %w", err)
	}
	return answer.GetBook(), nil
}

type reviewArguments struct {
	BookID string `json:"book_id"`
	Stars  int32  `json:"stars"`
	Limit  int32  `json:"limit"`
}

func (d Deps) listReviews(ctx context.Context, a reviewArguments) (chat.Found, error) {
	book, err := d.book(ctx, a.BookID)
	if err != nil {
		return chat.Found{}, err
	}
	answer, err := d.Reviews.ListReviews(ctx, &ratingv1.ListReviewsRequest{
		BookId: a.BookID, PageSize: or(a.Limit, usualReviews), Stars: a.Stars, Sort: ratingv1.ListReviewsRequest_HELPFUL,
	})
	if err != nil {
		return chat.Found{}, fmt.Errorf("list reviews: %w", err)
	}
	found := chat.Found{Results: []chat.Result{bookResult(book)}, Summary: counted(len(answer.GetReviews()), "review")}
	for _, review := range answer.GetReviews() {
		found.Results = append(found.Results, chat.Result{
			Kind: chat.KindReview, ID: review.GetId(), Title: review.GetTitle(), Text: review.GetText(),
			Fields: map[string]any{
				"book_id": review.GetBookId(), "book_title": book.GetTitle(), "stars": review.GetStars(), "helpful_votes": review.GetHelpfulCount(),
				"verified_purchase": review.GetVerifiedPurchase(), "written": day(review.GetCreateTime().AsTime()),
			},
		})
	}
	if len(answer.GetReviews()) == 0 {
		found.Note = "There are no such reviews."
	}
	return found, nil
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

type ordersArguments struct {
	Limit int32 `json:"limit"`
}

func (d Deps) myOrders(ctx context.Context, a ordersArguments) (chat.Found, error) {
	answer, err := d.Orders.ListOrders(ctx, &orderingv1.ListOrdersRequest{PageSize: or(a.Limit, usualOrders)})
	if err != nil {
		return chat.Found{}, fmt.Errorf("list orders: %w", err)
	}
	found := chat.Found{Summary: counted(len(answer.GetOrders()), "order")}
	for _, order := range answer.GetOrders() {
		found.Results = append(found.Results, orderResult(order))
	}
	switch {
	case len(answer.GetOrders()) == 0:
		found.Note = "The shopper has not ordered anything yet."
	case answer.GetNextPageToken() != "":
		found.Note = "There are older orders."
	}
	return found, nil
}

// orderResult is an order without its address: the bookseller needs none.
func orderResult(o *orderingv1.Order) chat.Result {
	placed, total := o.GetCreateTime().AsTime(), money.FromProto(o.GetTotal())
	items := make([]string, len(o.GetLines()))
	for i, line := range o.GetLines() {
		items[i] = fmt.Sprintf("%d x %s, %s each", line.GetQuantity(), line.GetTitle(), money.FromProto(line.GetUnitPrice()))
	}
	fields := map[string]any{
		"status": o.GetStatus().String(), "total": total.String(), "items": items, "placed": day(placed), "changed": day(o.GetUpdateTime().AsTime()),
	}
	if o.GetStatusReason() != "" {
		fields["status_reason"] = o.GetStatusReason()
	}
	return chat.Result{
		Kind: chat.KindOrder, ID: o.GetId(), Title: "Order of " + day(placed), Fields: fields,
		Card: &chat.Card{Order: &chat.OrderCard{OrderID: o.GetId(), Status: o.GetStatus().String(), Total: total, CreatedAt: placed}},
	}
}

type orderArguments struct {
	OrderID string `json:"order_id"`
}

// orderPages bounds how far back an order is looked for.
const (
	orderPages    = 5
	orderPageSize = 100
)

// orderStatus looks among the shopper's own orders. GetOrder would show an
// administrator any order, and the bookseller serves administrators as shoppers.
func (d Deps) orderStatus(ctx context.Context, a orderArguments) (chat.Found, error) {
	req := &orderingv1.ListOrdersRequest{PageSize: orderPageSize}
	for range orderPages {
		answer, err := d.Orders.ListOrders(ctx, req)
		if err != nil {
			return chat.Found{}, fmt.Errorf("find order: %w", err)
		}
		for _, order := range answer.GetOrders() {
			if strings.EqualFold(order.GetId(), a.OrderID) {
				return chat.Found{Results: []chat.Result{orderResult(order)}, Summary: "Found"}, nil
			}
		}
		if req.PageToken = answer.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	return chat.Found{}, fault.New(fault.ReasonOrderNotFound, "The shopper has no such order.")
}

type policyArguments struct {
	Question string `json:"question"`
}

func (d Deps) storePolicy(_ context.Context, a policyArguments) (chat.Found, error) {
	rules := chat.FindPolicies(a.Question, usualRules)
	found := chat.Found{Summary: counted(len(rules), "rule")}
	for _, rule := range rules {
		found.Results = append(found.Results, chat.Result{Kind: chat.KindPolicy, ID: rule.Name, Title: rule.Title, Text: rule.Text})
	}
	if len(rules) == 0 {
		found.Note = "The shop has no rule about this."
	}
	return found, nil
}

type basketArguments struct {
	BookID   string `json:"book_id"`
	Quantity int32  `json:"quantity"`
}

func (d Deps) addToBasket(ctx context.Context, a basketArguments) (chat.Found, error) {
	id, err := uuid.Parse(a.BookID)
	if err != nil {
		return chat.Found{}, fault.New(fault.ReasonInvalidArgument, "The book_id is no id of a book.")
	}
	book, err := d.book(ctx, id.String())
	switch {
	case err != nil:
		return chat.Found{}, err
	case book.GetArchived():
		return chat.Found{}, fault.New(fault.ReasonBookArchived, "The book is no longer sold.")
	case book.GetAvailableQuantity() < a.Quantity:
		return chat.Found{}, fault.New(fault.ReasonOutOfStock, "Only %d copies can be ordered now.", book.GetAvailableQuantity())
	}
	result := bookResult(book)
	result.Fields["quantity"] = a.Quantity
	return chat.Found{
		Results: []chat.Result{result}, Summary: "Waiting for you to confirm",
		Note: "A card now asks the shopper to confirm. Nothing is in the basket yet; say so.",
		Proposal: &chat.Proposal{
			BookID: id, Quantity: a.Quantity,
			Text: fmt.Sprintf("Put %s of “%s” into your basket (%s each)?", copies(a.Quantity), book.GetTitle(), money.FromProto(book.GetPrice())),
		},
	}, nil
}

func copies(n int32) string {
	if n == 1 {
		return "1 copy"
	}
	return fmt.Sprintf("%d copies", n)
}
