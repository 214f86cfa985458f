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
