package client

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/hashicorp/go-retryablehttp"
)

// attempts is how often a call is made at most.
const attempts = 4

type repeatableKey struct{}

// repeatable marks the calls that may be made again: one message each way, and no
// other effect the second time.
func repeatable(next connect.ClientFunc) connect.ClientFunc {
	return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
		if spec.StreamType == connect.StreamTypeUnary && spec.IdempotencyLevel != connect.IdempotencyUnknown {
			ctx = context.WithValue(ctx, repeatableKey{}, true)
		}
		return next(ctx, spec)
	}
}

// retrying returns a client that makes the marked calls again.
func retrying(given *http.Client) *http.Client {
	if given == nil {
		given = http.DefaultClient
	}
	once := given.Transport
	if once == nil {
		once = http.DefaultTransport
	}
	retry := retryablehttp.NewClient()
	retry.HTTPClient = &http.Client{Transport: once}
	retry.Logger = nil
	retry.RetryMax = attempts - 1
	retry.RetryWaitMin, retry.RetryWaitMax = 100*time.Millisecond, 2*time.Second // where the shop says nothing
	retry.CheckRetry = worthwhile
	retry.ErrorHandler = retryablehttp.PassthroughErrorHandler
	client := *given
	client.Transport = transport{once: once, again: &retryablehttp.RoundTripper{Client: retry}}
	return &client
}

// worthwhile says whether to ask again after this answer. The shop says when in
// Retry-After; without it, asking again is of no use (a request that is too large
// has the status of one that comes too often).
func worthwhile(ctx context.Context, answer *http.Response, err error) (bool, error) {
	if err != nil {
		return retryablehttp.DefaultRetryPolicy(ctx, answer, err)
	}
	busy := answer.StatusCode == http.StatusServiceUnavailable || answer.StatusCode == http.StatusTooManyRequests
	return busy && answer.Header.Get("Retry-After") != "", ctx.Err()
}

type transport struct{ once, again http.RoundTripper }

// RoundTrip makes a request once, or again where the call may be.
func (t transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if marked, _ := request.Context().Value(repeatableKey{}).(bool); marked {
		// Of its own: it rewinds the body, which a transport must not do to its caller's.
		return t.again.RoundTrip(request.Clone(request.Context())) //nolint:wrapcheck // a transport in a chain
	}
	return t.once.RoundTrip(request) //nolint:wrapcheck // as above
}
