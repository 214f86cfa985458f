// Package client calls the BookWorm bookshop from outside of it.
//
// The services and messages are generated from the shop's contract (package gen
// and below); what is here by hand connects to the shop, repeats what can safely
// be repeated, and reads the shop's errors.
//
// A program must not import this module and the shop's own packages: both register
// the same contract.
package client

import (
	"context"
	"fmt"
	"net/http"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"golang.org/x/oauth2"

	"bookworm/client/gen/bookworm/basket/v1/basketv1connect"
	"bookworm/client/gen/bookworm/catalog/v1/catalogv1connect"
	"bookworm/client/gen/bookworm/chat/v1/chatv1connect"
	"bookworm/client/gen/bookworm/compliance/v1/compliancev1connect"
	"bookworm/client/gen/bookworm/finance/v1/financev1connect"
	"bookworm/client/gen/bookworm/notification/v1/notificationv1connect"
	"bookworm/client/gen/bookworm/ordering/v1/orderingv1connect"
	"bookworm/client/gen/bookworm/rating/v1/ratingv1connect"
)

// Options says who calls, and how. The zero value calls anonymously, which is
// enough to read the catalogue.
type Options struct {
	// Tokens is where the caller's access tokens come from; it is asked before every
	// call, so it should keep a token while it is good (oauth2.ReuseTokenSource).
	// Nil: calls are anonymous.
	Tokens oauth2.TokenSource
	// HTTPClient makes the requests. Its Timeout, if any, covers all attempts of a
	// call, and whole streams. Nil: http.DefaultClient.
	HTTPClient *http.Client
}

// Client is the shop's services. It is safe for concurrent use.
//
// Calls return errors that Reason, Fields and Metadata read. A call without side
// effects, and one that the contract calls idempotent, is made up to four times
// when the shop cannot be reached, and when it answers "unavailable" or "too
// often" and says in Retry-After when to come back. The deadline of the context
// ends that; a context without one may wait as long as the shop says.
type Client struct {
	// Catalog finds books.
	Catalog catalogv1connect.CatalogServiceClient
	// CatalogAdmin changes the catalogue; for administrators.
	CatalogAdmin catalogv1connect.CatalogAdminServiceClient
	// Basket is the caller's basket.
	Basket basketv1connect.BasketServiceClient
	// Orders quotes, places, reads and cancels orders.
	Orders orderingv1connect.OrderServiceClient
	// Payments tells how orders are paid.
	Payments financev1connect.PaymentServiceClient
	// Preferences is what the caller wants to hear by e-mail.
	Preferences notificationv1connect.PreferenceServiceClient
	// Ratings reads and writes reviews.
	Ratings ratingv1connect.RatingServiceClient
	// Moderation decides on reviews; for the shop's staff.
	Moderation ratingv1connect.ModerationServiceClient
	// Chat is the bookseller.
	Chat chatv1connect.ChatServiceClient
	// Privacy exports and erases the caller's own data.
	Privacy compliancev1connect.PrivacyServiceClient
	// Audit is the log of what the shop's staff did; for administrators and reporters.
	Audit compliancev1connect.AuditServiceClient
}

// New returns the services of the shop whose gateway is at baseURL, for example
// https://shop.example. It does not connect; an address that is none shows as an
// error of the calls.
func New(baseURL string, options Options) *Client {
	transport := connecthttp.NewTransport(retrying(options.HTTPClient), baseURL, connecthttp.WithHTTPGet())
	c := connect.NewClient(transport, repeatable, authorize(options.Tokens))
	return &Client{
		Catalog:      catalogv1connect.NewCatalogServiceClient(c),
		CatalogAdmin: catalogv1connect.NewCatalogAdminServiceClient(c),
		Basket:       basketv1connect.NewBasketServiceClient(c),
		Orders:       orderingv1connect.NewOrderServiceClient(c),
		Payments:     financev1connect.NewPaymentServiceClient(c),
		Preferences:  notificationv1connect.NewPreferenceServiceClient(c),
		Ratings:      ratingv1connect.NewRatingServiceClient(c),
		Moderation:   ratingv1connect.NewModerationServiceClient(c),
		Chat:         chatv1connect.NewChatServiceClient(c),
		Privacy:      compliancev1connect.NewPrivacyServiceClient(c),
		Audit:        compliancev1connect.NewAuditServiceClient(c),
	}
}

// authorize sends an access token with each call.
func authorize(tokens oauth2.TokenSource) connect.ClientInterceptor {
	return func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			if tokens == nil {
				return next(ctx, spec)
			}
			token, err := tokens.Token()
			if err != nil {
				return nil, fmt.Errorf("fetch an access token: %w", err)
			}
			ctx, info := callInfo(ctx)
			info.RequestHeader().Set("Authorization", "Bearer "+token.AccessToken)
			return next(ctx, spec)
		}
	}
}

// WithIdempotencyKey returns a context for one call that carries an
// Idempotency-Key, which PlaceOrder, CreateBook and SendMessage need: 1 to 255
// visible ASCII characters, for example a new UUID. Keep the key and make the same
// call with it again when its answer got lost: it has its effect once.
func WithIdempotencyKey(ctx context.Context, key string) context.Context {
	ctx, info := connect.NewClientContext(ctx)
	info.RequestHeader().Set("Idempotency-Key", key)
	return ctx
}

// callInfo returns the call's headers; a context without any gets them.
func callInfo(ctx context.Context) (context.Context, *connect.CallInfo) {
	if info, ok := connect.CallInfoForClientContext(ctx); ok {
		return ctx, info
	}
	return connect.NewClientContext(ctx)
}
