package gateway

import (
	"context"
	"net/http"
	"time"

	"bookworm/api/gateway/openapi"
	"bookworm/internal/fault"
)

// NewWithin is New with times of the test's own.
func NewWithin(ctx context.Context, options Options, unary, heartbeat, write time.Duration) (http.Handler, error) {
	own := usual
	own.unary, own.body, own.heartbeat, own.write = unary, unary, heartbeat, write
	return within(ctx, options, own)
}

// Operations are the routes of every context, as the OpenAPI document describes
// them.
func Operations() []openapi.Operation {
	var operations []openapi.Operation
	for _, known := range contracts {
		for _, method := range known.methods() {
			if r, ok := routeOf(method, nil); ok {
				operations = append(operations, openapi.Operation{Method: r.method, Verb: r.verb, Path: r.template, Body: r.body})
			}
		}
	}
	return operations
}

// StatusOf returns the HTTP status in which a reason is given.
func StatusOf(reason fault.Reason) int { return statuses[fault.Reasons[reason].Kind] }

// NewFor makes a New with bounds of streams of the test's own: of all, and of each
// caller.
func NewFor(streams, each int) func(context.Context, Options) (http.Handler, error) {
	return func(ctx context.Context, options Options) (http.Handler, error) {
		own := usual
		own.streams, own.streamsEach = streams, each
		return within(ctx, options, own)
	}
}
