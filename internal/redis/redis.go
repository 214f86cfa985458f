// Package redis opens the shop's Redis.
package redis

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/redis/go-redis/extra/redisotel/v9"
	"github.com/redis/go-redis/v9"
)

const (
	dialTimeout = 2 * time.Second
	// callTimeout bounds one command whose caller has more time; Redis answers
	// in under a millisecond.
	callTimeout = time.Second
)

// Open returns a client for a URL such as redis://127.0.0.1:6379/0, rediss:// for
// TLS. With addr parameters, redis://node1:6379?addr=node2:6379, it speaks to a
// cluster. Traces name commands and never their arguments.
//
// Open asks for an answer once, so that a wrong address fails here. The client is
// safe for concurrent use; the caller closes it. A command whose answer was lost
// is sent again, so that it may take effect twice.
func Open(ctx context.Context, rawURL string) (redis.UniversalClient, error) {
	client, err := Dial(rawURL)
	if err != nil {
		return nil, err
	}
	if err := client.Ping(ctx).Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("open redis: %w", err), client.Close())
	}
	return client, nil
}

// Dial is Open for those who can do without Redis: it asks for nothing, and a
// server that is away shows as errors of the commands.
func Dial(rawURL string) (redis.UniversalClient, error) {
	client, err := open(rawURL)
	if err != nil {
		return nil, fmt.Errorf("open redis: %w", err)
	}
	if err := instrument(client); err != nil {
		return nil, errors.Join(fmt.Errorf("open redis: %w", err), client.Close())
	}
	return client, nil
}

func open(rawURL string) (redis.UniversalClient, error) {
	// The parser's own errors repeat the URL, with its password.
	errURL := errors.New("the address is not of the form redis://[user:password@]host:port[/db]")
	parsed, err := url.Parse(rawURL)
	if err != nil {
		return nil, errURL
	}
	if parsed.Query().Has("addr") {
		options, err := redis.ParseClusterURL(rawURL)
		if err != nil {
			return nil, errURL
		}
		options.DialTimeout, options.ReadTimeout, options.WriteTimeout = dialTimeout, callTimeout, callTimeout
		options.ContextTimeoutEnabled = true
		return redis.NewClusterClient(options), nil
	}
	options, err := redis.ParseURL(rawURL)
	if err != nil {
		return nil, errURL
	}
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout = dialTimeout, callTimeout, callTimeout
	options.ContextTimeoutEnabled = true
	return redis.NewClient(options), nil
}

func instrument(client redis.UniversalClient) error {
	// Arguments hold who has what in the basket.
	if err := redisotel.InstrumentTracing(client, redisotel.WithDBStatement(false), redisotel.WithCallerEnabled(false)); err != nil {
		return fmt.Errorf("trace redis: %w", err)
	}
	if err := redisotel.InstrumentMetrics(client); err != nil {
		return fmt.Errorf("measure redis: %w", err)
	}
	return nil
}
