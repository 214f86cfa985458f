package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"bookworm/dev/shopper"
)

// TestBadInputIsNamedAndChangesNothing sends everything that a shop gets to see
// and looks at the answer: the status, the reason, the field where there is one;
// and that basket, orders and stock are as before.
func TestBadInputIsNamedAndChangesNothing(t *testing.T) { //nolint:tparallel // looks at what all of them have left
	t.Parallel()
	v := enter(t)
	inBasket, other, archived := book(t, 1299, 5), book(t, 999, 5), book(t, 999, 5)
	if _, err := dbs.Exec(v.ctx, `update catalog.book set archived_at = now() where id = $1`, archived); err != nil {
		t.Fatal(err)
	}
	// Somebody else's order, to reach for.
	stranger := enter(t)
	stranger.fill(other)
	foreign := stranger.order("pm_card_visa")
	v.fill(inBasket)
	used := "used-" + uuid.NewString()
	first, _, err := v.Place(v.ctx, used, shopper.Request("pm_card_visa"))
	if err != nil {
		t.Fatal(err)
	}
	v.mails(first.GetId(), 1) // the basket's turn is over
	before := v.fill(inBasket)
	stockBefore := v.available(inBasket)

	good := `{"shipping_address":{"recipient":"A","line1":"1 Lane","city":"C","postal_code":"62701","country_code":"US"},"payment_method":"pm_card_visa"}`
	with := func(old, replacement string) string { return strings.Replace(good, old, replacement, 1) }
	item := "/api/v1/basket/items/"
	fresh := func() []string { return []string{"Idempotency-Key", uuid.NewString()} }
	expired := issue(t, map[string]any{"sub": v.subject, "exp": time.Now().Add(-time.Hour)})
	forged, err := theShop.Identity.IssueForged("alice", map[string]any{"sub": v.subject})
	if err != nil {
		t.Fatal(err)
	}
	huge := `{"payment_method":"` + strings.Repeat("a", 2<<20) + `"}`

	for _, tc := range []struct { //nolint:paralleltest // as above
		name, method, path, body string
		headers                  []string
		status                   int
		reason, field            string
	}{
		{"unknown book", "PUT", item + uuid.NewString(), `{"quantity":1}`, nil, 404, "BOOK_NOT_FOUND", ""},
		{"unknown book, read", "GET", "/api/v1/books/" + uuid.NewString(), "", nil, 404, "BOOK_NOT_FOUND", ""},
		{"book id that is none", "GET", "/api/v1/books/xyz", "", nil, 400, "INVALID_ARGUMENT", "id"},
		{"book id that is none, in the basket", "PUT", item + "xyz", `{"quantity":1}`, nil, 400, "INVALID_ARGUMENT", "book_id"},
		{"archived book", "PUT", item + archived, `{"quantity":1}`, nil, 409, "BOOK_ARCHIVED", ""},
		{"quantity 0", "PUT", item + other, `{"quantity":0}`, nil, 400, "INVALID_ARGUMENT", "quantity"},
		{"quantity missing", "PUT", item + other, `{}`, nil, 400, "INVALID_ARGUMENT", "quantity"},
		{"quantity 100", "PUT", item + other, `{"quantity":100}`, nil, 400, "INVALID_ARGUMENT", "quantity"},
		{"quantity far beyond", "PUT", item + other, `{"quantity":2147483647}`, nil, 400, "INVALID_ARGUMENT", "quantity"},
		{"quantity negative", "PUT", item + other, `{"quantity":-1}`, nil, 400, "INVALID_ARGUMENT", "quantity"},
		{"quantity over 32 bits", "PUT", item + other, `{"quantity":99999999999}`, nil, 400, "MALFORMED_REQUEST", ""},
		{"quantity that is text", "PUT", item + other, `{"quantity":"many"}`, nil, 400, "MALFORMED_REQUEST", ""},
		{"fractional quantity", "PUT", item + other, `{"quantity":1.5}`, nil, 400, "MALFORMED_REQUEST", ""},
		{"stale etag", "PUT", item + other, `{"quantity":1}`, []string{"If-Match", `"v1"`}, 412, "STALE_VERSION", ""},
		{"etag that is none", "PUT", item + other, `{"quantity":1}`, []string{"If-Match", `"rubbish"`}, 400, "INVALID_ARGUMENT", "etag"},
		{"invalid JSON", "PUT", item + other, `{"quantity":`, nil, 400, "MALFORMED_REQUEST", ""},
		{"unknown field", "PUT", item + other, `{"quantity":1,"price":1}`, nil, 400, "MALFORMED_REQUEST", ""},
		{"unknown field in an order", "POST", "/api/v1/orders", with(`{"ship`, `{"total":1,"ship`), fresh(), 400, "MALFORMED_REQUEST", ""},
		{"invalid JSON in an order", "POST", "/api/v1/orders", good + "}", fresh(), 400, "MALFORMED_REQUEST", ""},
		{"no key", "POST", "/api/v1/orders", good, nil, 400, "IDEMPOTENCY_KEY_MISSING", ""},
		{"empty key", "POST", "/api/v1/orders", good, []string{"Idempotency-Key", `""`}, 400, "INVALID_ARGUMENT", "Idempotency-Key"},
		{"key with another request", "POST", "/api/v1/orders", with("1 Lane", "2 Lane"), []string{"Idempotency-Key", used}, 422, "IDEMPOTENCY_KEY_REUSED", ""},
		{"no address", "POST", "/api/v1/orders", `{"payment_method":"pm_card_visa"}`, fresh(), 400, "INVALID_ARGUMENT", "shipping_address"},
		{"no city", "POST", "/api/v1/orders", with(`"city":"C"`, `"city":""`), fresh(), 400, "INVALID_ARGUMENT", "shipping_address.city"},
		{"postal code of wild letters", "POST", "/api/v1/orders", with("62701", "<script>"), fresh(), 400, "INVALID_ARGUMENT", "shipping_address.postal_code"},
		{"country that is none", "POST", "/api/v1/orders", with(`"US"`, `"usa"`), fresh(), 400, "INVALID_ARGUMENT", "shipping_address.country_code"},
		{"recipient too long", "POST", "/api/v1/orders", with(`"A"`, `"`+strings.Repeat("A", 201)+`"`), fresh(), 400, "INVALID_ARGUMENT", "shipping_address.recipient"},
		{"no payment method", "POST", "/api/v1/orders", with("pm_card_visa", ""), fresh(), 400, "INVALID_ARGUMENT", "payment_method"},
		{"payment method that is none", "POST", "/api/v1/orders", with("pm_card_visa", "4242 4242"), fresh(), 400, "INVALID_ARGUMENT", "payment_method"},
		{"changed price since the quote", "POST", "/api/v1/orders", with(`{"ship`, `{"expected_total":{"currency_code":"USD","amount_minor":"1"},"ship`), fresh(), 409, "PRICE_CHANGED", ""},
		{"wrong currency", "POST", "/api/v1/orders", with(`{"ship`, `{"expected_total":{"currency_code":"EUR","amount_minor":"1798"},"ship`), fresh(), 400, "CURRENCY_MISMATCH", "expected_total.currency_code"},
		{"currency that is none", "POST", "/api/v1/orders", with(`{"ship`, `{"expected_total":{"currency_code":"dollar","amount_minor":"1798"},"ship`), fresh(), 400, "", "expected_total.currency_code"},
		{"another basket than seen", "POST", "/api/v1/orders", with(`{"ship`, `{"basket_etag":"v1","ship`), fresh(), 412, "STALE_VERSION", "basket_etag"},
		{"quote without a country", "POST", "/api/v1/orders:quote", `{}`, nil, 400, "INVALID_ARGUMENT", "country_code"},
		{"another's order", "GET", "/api/v1/orders/" + foreign.GetId(), "", nil, 404, "ORDER_NOT_FOUND", ""},
		{"another's order, cancelled", "POST", "/api/v1/orders/" + foreign.GetId() + ":cancel", `{}`, nil, 404, "ORDER_NOT_FOUND", ""},
		{"another's payment", "GET", "/api/v1/orders/" + foreign.GetId() + "/payment", "", nil, 404, "PAYMENT_NOT_FOUND", ""},
		{"unknown order", "GET", "/api/v1/orders/" + uuid.NewString(), "", nil, 404, "ORDER_NOT_FOUND", ""},
		{"order id that is none", "POST", "/api/v1/orders/xyz:cancel", `{}`, nil, 400, "INVALID_ARGUMENT", "id"},
		{"page token that is none", "GET", "/api/v1/orders?page_token=rubbish", "", nil, 400, "PAGE_TOKEN_INVALID", "page_token"},
		{"page too large", "GET", "/api/v1/books?page_size=101", "", nil, 400, "INVALID_ARGUMENT", "page_size"},
		{"page negative", "GET", "/api/v1/books?page_size=-1", "", nil, 400, "INVALID_ARGUMENT", "page_size"},
		{"sort that is none", "GET", "/api/v1/books?sort=SIDEWAYS", "", nil, 400, "MALFORMED_REQUEST", ""},
		{"unknown query parameter", "GET", "/api/v1/books?colour=red", "", nil, 400, "MALFORMED_REQUEST", ""},
		{"no token", "GET", "/api/v1/basket", "", []string{"Authorization", ""}, 401, "TOKEN_MISSING", ""},
		{"expired token", "GET", "/api/v1/basket", "", []string{"Authorization", "Bearer " + expired}, 401, "TOKEN_INVALID", ""},
		{"forged token", "POST", "/api/v1/orders", good, append(fresh(), "Authorization", "Bearer "+forged), 401, "TOKEN_INVALID", ""},
		{"token of another scheme", "GET", "/api/v1/basket", "", []string{"Authorization", "Basic YTpi"}, 401, "", ""},
		{"oversized body", "POST", "/api/v1/orders", huge, fresh(), 413, "REQUEST_TOO_LARGE", ""},
		{"search for nothing", "GET", "/api/v1/books:search", "", nil, 400, "INVALID_ARGUMENT", "query"},
		{"search for punctuation", "GET", "/api/v1/books:search?query=%3F%21", "", nil, 400, "INVALID_ARGUMENT", "query"},
		{"search with a control character", "GET", "/api/v1/books:search?query=dune%00", "", nil, 400, "INVALID_ARGUMENT", "query"},
		{"search too long", "GET", "/api/v1/books:search?query=" + strings.Repeat("a", 501), "", nil, 400, "INVALID_ARGUMENT", "query"},
		{"search for too many", "GET", "/api/v1/books:search?query=dune&page_size=51", "", nil, 400, "INVALID_ARGUMENT", "page_size"},
		{"like a book that is none", "GET", "/api/v1/books/" + uuid.NewString() + "/similar", "", nil, 404, "BOOK_NOT_FOUND", ""},
		{"a book of a customer", "POST", "/api/v1/books", `{}`, fresh(), 403, "ACCESS_DENIED", ""},
		{"review without stars", "PUT", "/api/v1/books/" + inBasket + "/reviews/mine", `{"title":"A"}`, nil, 400, "INVALID_ARGUMENT", "stars"},
		{"review with six stars", "PUT", "/api/v1/books/" + inBasket + "/reviews/mine", `{"stars":6,"title":"A"}`, nil, 400, "INVALID_ARGUMENT", "stars"},
		{"review without a title", "PUT", "/api/v1/books/" + inBasket + "/reviews/mine", `{"stars":5}`, nil, 400, "INVALID_ARGUMENT", "title"},
		{"review too long", "PUT", "/api/v1/books/" + inBasket + "/reviews/mine", `{"stars":5,"title":"A","text":"` + strings.Repeat("a", 5001) + `"}`, nil, 400, "INVALID_ARGUMENT", "text"},
		{"review of a book not bought", "PUT", "/api/v1/books/" + other + "/reviews/mine", `{"stars":5,"title":"A"}`, nil, 409, "PURCHASE_REQUIRED", ""},
		{"vote for a review that is none", "PUT", "/api/v1/reviews/" + uuid.NewString() + "/vote", `{"helpful":true}`, nil, 404, "REVIEW_NOT_FOUND", ""},
		{"report without a ground", "PUT", "/api/v1/reviews/" + uuid.NewString() + "/report", `{}`, nil, 400, "INVALID_ARGUMENT", "ground"},
		{"saying nothing", "POST", "/api/v1/chat/messages", `{"text":""}`, fresh(), 400, "INVALID_ARGUMENT", "text"},
		{"saying only control characters", "POST", "/api/v1/chat/messages", `{"text":"\u0001\u0002"}`, fresh(), 400, "INVALID_ARGUMENT", "text"},
		{"saying 100,000 characters", "POST", "/api/v1/chat/messages", `{"text":"` + strings.Repeat("a", 100_000) + `"}`, fresh(), 400, "INVALID_ARGUMENT", "text"},
		{"saying something without a key", "POST", "/api/v1/chat/messages", `{"text":"Hello"}`, nil, 400, "IDEMPOTENCY_KEY_MISSING", ""},
		{"saying something to nobody", "POST", "/api/v1/chat/messages", `{"text":"Hello","conversation_id":"` + uuid.NewString() + `"}`, fresh(), 404, "CONVERSATION_NOT_FOUND", ""},
		{"talking without a token", "POST", "/api/v1/chat/messages", `{"text":"Hello"}`, append(fresh(), "Authorization", ""), 401, "TOKEN_MISSING", ""},
		{"turn that is none", "GET", "/api/v1/chat/turns/" + uuid.NewString() + "/events", "", nil, 404, "TURN_NOT_FOUND", ""},
		{"event id that is none", "GET", "/api/v1/chat/turns/" + uuid.NewString() + "/events", "", []string{"Last-Event-ID", "x"}, 400, "MALFORMED_REQUEST", "Last-Event-ID"},
		{"action that is none", "POST", "/api/v1/chat/actions/" + uuid.NewString() + ":confirm", `{"accept":true}`, nil, 404, "ACTION_NOT_FOUND", ""},
		{"unknown path", "GET", "/api/v1/nothing", "", nil, 404, "NOT_FOUND", ""},
		{"wrong method", "DELETE", "/api/v1/books", "", nil, 405, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var body io.Reader = http.NoBody
			if tc.body != "" {
				body = strings.NewReader(tc.body)
			}
			status, header, content, err := v.Raw(v.ctx, tc.method, tc.path, body, tc.headers...)
			if err != nil {
				t.Fatal(err)
			}
			var problem shopper.ProblemError
			if err := json.Unmarshal(content, &problem); err != nil {
				t.Fatalf("%d, not a problem document: %s", status, content)
			}
			if status != tc.status || problem.Status != tc.status || (tc.reason != "" && problem.Reason != tc.reason) {
				t.Errorf("got %d %s, want %d %s: %s", status, problem.Reason, tc.status, tc.reason, content)
			}
			if problem.Reason == "" || problem.Title == "" || problem.Detail == "" || problem.Type == "" {
				t.Errorf("the problem document lacks something: %s", content)
			}
			if got := header.Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("content type %q", got)
			}
			if tc.field != "" {
				fields := fmt.Sprint(problem.Errors)
				named := false
				for _, e := range problem.Errors {
					named = named || e.Field == tc.field
				}
				if !named {
					t.Errorf("the field %s is not named, only %s", tc.field, fields)
				}
			}
		})
	}
	after, err := v.Basket(v.ctx)
	if err != nil || !proto.Equal(after, before) {
		t.Errorf("the basket is %v, %v; before %v", after, err, before)
	}
	if left := v.available(inBasket); left != stockBefore {
		t.Errorf("%d copies are left, before %d", left, stockBefore)
	}
	var n int
	if err := dbs.QueryRow(v.ctx, `select count(*) from ordering.orders where subject = $1`, v.subject).Scan(&n); err != nil || n != 1 {
		t.Errorf("%d orders, %v; want the first one alone", n, err)
	}
}

func TestEmptyBasketAndStockShortAreRefused(t *testing.T) {
	t.Parallel()
	v := enter(t)
	if _, _, err := v.Place(v.ctx, uuid.NewString(), shopper.Request("pm_card_visa")); shopper.Reason(err) != "BASKET_EMPTY" {
		t.Errorf("place: got %v", err)
	}
	if _, err := v.Quote(v.ctx, "US"); shopper.Reason(err) != "BASKET_EMPTY" {
		t.Errorf("quote: got %v", err)
	}
	scarce, gone := book(t, 1299, 2), book(t, 1299, 2)
	if _, err := v.Put(v.ctx, scarce, 3); err != nil {
		t.Fatal(err)
	}
	if _, _, err := v.Place(v.ctx, uuid.NewString(), shopper.Request("pm_card_visa")); shopper.Reason(err) != "OUT_OF_STOCK" {
		t.Errorf("short: got %v", err)
	}
	v.fill(scarce, gone)
	if _, err := dbs.Exec(v.ctx, `update catalog.book set archived_at = now() where id = $1`, gone); err != nil {
		t.Fatal(err)
	}
	if _, _, err := v.Place(v.ctx, uuid.NewString(), shopper.Request("pm_card_visa")); shopper.Reason(err) != "BOOK_ARCHIVED" {
		t.Errorf("archived since: got %v", err)
	}
	if left := v.available(scarce); left != 2 {
		t.Errorf("%d copies are left after the refusals, want 2", left)
	}
}
