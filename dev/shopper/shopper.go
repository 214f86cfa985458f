// Package shopper uses the shop as its customers do: over REST at the gateway,
// with an access token. The demo, the benchmarks and the end-to-end tests are
// written with it.
package shopper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	financev1 "bookworm/internal/gen/bookworm/finance/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
)

// Token signs a person of the embedded identity provider in and returns the
// access token.
func Token(ctx context.Context, issuer, user string) (string, error) {
	form := url.Values{
		"grant_type": {"password"}, "client_id": {"bookworm-cli"}, "username": {user}, "password": {user}, "scope": {"openid profile email"},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, issuer+"/protocol/openid-connect/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("sign %s in: %w", user, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("sign %s in: %w", user, err)
	}
	defer res.Body.Close()
	var answer struct {
		AccessToken      string `json:"access_token"`
		ErrorDescription string `json:"error_description"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return "", fmt.Errorf("sign %s in: %w", user, err)
	}
	if answer.AccessToken == "" {
		return "", fmt.Errorf("sign %s in: %s %s", user, res.Status, answer.ErrorDescription)
	}
	return answer.AccessToken, nil
}

// Shopper is one person at the shop.
type Shopper struct {
	Gateway string
	Token   string
	HTTP    *http.Client // nil for the default
	// Patience is the pause between two looks at an order that is awaited; 2 ms when
	// 0.
	Patience time.Duration
}

// ProblemError is an error answer of the shop (RFC 9457).
type ProblemError struct {
	Status   int               `json:"status"`
	Type     string            `json:"type"`
	Title    string            `json:"title"`
	Detail   string            `json:"detail"`
	Reason   string            `json:"reason"`
	TraceID  string            `json:"trace_id"`
	Metadata map[string]string `json:"metadata"`
	Errors   []struct {
		Field   string `json:"field"`
		Message string `json:"message"`
	} `json:"errors"`
}

// Error says status, reason and detail.
func (p *ProblemError) Error() string { return fmt.Sprintf("%d %s: %s", p.Status, p.Reason, p.Detail) }

// Reason returns the reason of a ProblemError in err's chain, or "".
func Reason(err error) string {
	if p, ok := errors.AsType[*ProblemError](err); ok {
		return p.Reason
	}
	return ""
}

// Do makes a request and decodes the answer into out, a message or nil. Header
// pairs are name, value, name, value... Errors: *ProblemError.
func (s *Shopper) Do(ctx context.Context, method, path string, in, out proto.Message, headers ...string) (http.Header, error) {
	var body io.Reader = http.NoBody
	if in != nil {
		encoded, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(encoded)
	}
	status, header, content, err := s.Raw(ctx, method, path, body, headers...)
	if err != nil {
		return nil, err
	}
	if status >= http.StatusBadRequest {
		problem := &ProblemError{Status: status}
		if err := json.Unmarshal(content, problem); err != nil {
			return header, fmt.Errorf("%s %s: %d without a problem document: %w", method, path, status, err)
		}
		return header, problem
	}
	if out != nil {
		if err := protojson.Unmarshal(content, out); err != nil {
			return header, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	return header, nil
}

// Raw makes a request and returns the answer as it is.
func (s *Shopper) Raw(ctx context.Context, method, path string, body io.Reader, headers ...string) (int, http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.Gateway+path, body)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if s.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.Token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := s.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return res.StatusCode, res.Header, content, nil
}

// Books returns the first page of a list; query is what follows the question
// mark.
func (s *Shopper) Books(ctx context.Context, query string) ([]*catalogv1.Book, error) {
	var page catalogv1.ListBooksResponse
	_, err := s.Do(ctx, http.MethodGet, "/api/v1/books?"+query, nil, &page)
	return page.GetBooks(), err
}

// Book returns one book.
func (s *Shopper) Book(ctx context.Context, id string) (*catalogv1.Book, error) {
	book := &catalogv1.Book{}
	_, err := s.Do(ctx, http.MethodGet, "/api/v1/books/"+id, nil, book)
	return book, err
}

// Put puts copies of a book into the basket.
func (s *Shopper) Put(ctx context.Context, bookID string, quantity int32) (*basketv1.Basket, error) {
	basket := &basketv1.Basket{}
	_, err := s.Do(ctx, http.MethodPut, "/api/v1/basket/items/"+bookID, &basketv1.SetItemRequest{Quantity: quantity}, basket)
	return basket, err
}

// Clear empties the basket.
func (s *Shopper) Clear(ctx context.Context) error {
	_, err := s.Do(ctx, http.MethodDelete, "/api/v1/basket", nil, nil)
	return err
}

// Basket returns the basket.
func (s *Shopper) Basket(ctx context.Context) (*basketv1.Basket, error) {
	basket := &basketv1.Basket{}
	_, err := s.Do(ctx, http.MethodGet, "/api/v1/basket", nil, basket)
	return basket, err
}

// Quote returns what the basket would cost, sent to a country.
func (s *Shopper) Quote(ctx context.Context, country string) (*orderingv1.Quote, error) {
	quote := &orderingv1.Quote{}
	_, err := s.Do(ctx, http.MethodPost, "/api/v1/orders:quote", &orderingv1.QuoteOrderRequest{CountryCode: country}, quote)
	return quote, err
}

// Request returns a request to place an order that is sent home and paid with a
// card.
func Request(paymentMethod string) *orderingv1.PlaceOrderRequest {
	return &orderingv1.PlaceOrderRequest{
		ShippingAddress: &orderingv1.Address{
			Recipient: "Alice Reader", Line1: "1 Library Lane", City: "Springfield", Region: "IL", PostalCode: "62701", CountryCode: "US",
		},
		PaymentMethod: paymentMethod,
	}
}

// Place places an order. replayed tells that it was there before.
func (s *Shopper) Place(ctx context.Context, key string, req *orderingv1.PlaceOrderRequest) (order *orderingv1.Order, replayed bool, err error) {
	order = &orderingv1.Order{}
	header, err := s.Do(ctx, http.MethodPost, "/api/v1/orders", req, order, "Idempotency-Key", key)
	return order, header.Get("Idempotent-Replayed") == "true", err
}

// Order returns an order.
func (s *Shopper) Order(ctx context.Context, id string) (*orderingv1.Order, error) {
	order := &orderingv1.Order{}
	_, err := s.Do(ctx, http.MethodGet, "/api/v1/orders/"+id, nil, order)
	return order, err
}

// Cancel cancels an order.
func (s *Shopper) Cancel(ctx context.Context, id string) (*orderingv1.Order, error) {
	order := &orderingv1.Order{}
	_, err := s.Do(ctx, http.MethodPost, "/api/v1/orders/"+id+":cancel", &orderingv1.CancelOrderRequest{}, order)
	return order, err
}

// Payment returns the payment of an order.
func (s *Shopper) Payment(ctx context.Context, orderID string) (*financev1.Payment, error) {
	payment := &financev1.Payment{}
	_, err := s.Do(ctx, http.MethodGet, "/api/v1/orders/"+orderID+"/payment", nil, payment)
	return payment, err
}

// Await asks every few milliseconds until the condition holds, and returns the
// last answer. Errors: the question's own, or one when ctx ends first.
func Await[T any](ctx context.Context, ask func(context.Context) (T, error), holds func(T) bool) (T, error) {
	return await(ctx, 5*time.Millisecond, ask, holds)
}

func await[T any](ctx context.Context, pause time.Duration, ask func(context.Context) (T, error), holds func(T) bool) (T, error) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		answer, err := ask(ctx)
		if err != nil || holds(answer) {
			return answer, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return answer, fmt.Errorf("waited in vain, the last answer was %v: %w", answer, context.Cause(ctx))
		}
	}
}

// AwaitOrder waits until an order has a status.
func (s *Shopper) AwaitOrder(ctx context.Context, id string, status orderingv1.Order_Status) (*orderingv1.Order, error) {
	return await(ctx, s.pause(), func(ctx context.Context) (*orderingv1.Order, error) { return s.Order(ctx, id) },
		func(o *orderingv1.Order) bool { return o.GetStatus() == status })
}

// AwaitEmptyBasket waits until there is nothing in the basket.
func (s *Shopper) AwaitEmptyBasket(ctx context.Context) (*basketv1.Basket, error) {
	return await(ctx, s.pause(), s.Basket, func(b *basketv1.Basket) bool { return len(b.GetItems()) == 0 })
}

func (s *Shopper) pause() time.Duration {
	if s.Patience == 0 {
		return 2 * time.Millisecond
	}
	return s.Patience
}

// Mail is a message in the inbox.
type Mail struct {
	ID      string `json:"id"`
	To      any    `json:"to"`
	Subject string `json:"subject"`
}

// Mails returns the messages in the inbox to an address with a word in the
// subject.
func Mails(ctx context.Context, inbox, to, subject string) ([]Mail, error) {
	address := inbox + "/api/messages?" + url.Values{"to": {to}, "subject": {subject}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("read the inbox: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read the inbox: %w", err)
	}
	defer res.Body.Close()
	var mails []Mail
	if err := json.NewDecoder(res.Body).Decode(&mails); err != nil {
		return nil, fmt.Errorf("read the inbox: %w", err)
	}
	return mails, nil
}
