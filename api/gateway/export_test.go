package gateway

import (
	"context"
	"net/http"
	"time"
)

// NewWithin is New with times of the test's own.
func NewWithin(ctx context.Context, options Options, unary, heartbeat, write time.Duration) (http.Handler, error) {
	return within(ctx, options, limits{unary: unary, heartbeat: heartbeat, write: write})
}
