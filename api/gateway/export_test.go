package gateway

import (
	"context"
	"net/http"
	"time"
)

// NewWithin is New with times of the test's own.
func NewWithin(ctx context.Context, options Options, unary, heartbeat, write time.Duration) (http.Handler, error) {
	own := usual
	own.unary, own.body, own.heartbeat, own.write = unary, unary, heartbeat, write
	return within(ctx, options, own)
}

// NewFor makes a New with bounds of streams of the test's own: of all, and of each
// caller.
func NewFor(streams, each int) func(context.Context, Options) (http.Handler, error) {
	return func(ctx context.Context, options Options) (http.Handler, error) {
		own := usual
		own.streams, own.streamsEach = streams, each
		return within(ctx, options, own)
	}
}
