package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	// headerTimeout bounds how long a client may take to send its headers.
	headerTimeout = 5 * time.Second
	// idleTimeout ends a connection without requests.
	idleTimeout = 2 * time.Minute
	// drainTimeout bounds how long requests in flight may go on after the end.
	drainTimeout = 15 * time.Second
	// maxHeader is the largest request header, in bytes.
	maxHeader = 64 << 10
)

// Serve answers HTTP/1.1 and HTTP/2 without TLS on the listener until ctx ends.
// Then it calls drain (health.Drain; may be nil), takes no new connections, and
// waits up to 15 seconds for the requests in flight, whose contexts do not end
// with ctx. It returns nil after a clean drain. The listener is closed.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, drain func()) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:           handler,
		Protocols:         &protocols,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		// What it says is about clients that break the protocol, with their addresses.
		ErrorLog:       slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
		MaxHeaderBytes: maxHeader,
		HTTP2:          &http.HTTP2Config{MaxConcurrentStreams: 1000},
		BaseContext:    func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	if drain != nil {
		drain()
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return fmt.Errorf("drain %s: %w", listener.Addr(), errors.Join(err, server.Close()))
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	}
	return nil
}
