package rpc

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
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

// ServeOptions is how a listener is served.
type ServeOptions struct {
	// Drain is called when the process is about to end (health.Drain); may be nil.
	Drain func()
	// TLS turns TLS on, see LoadTLS. HTTP/2 is then agreed by ALPN.
	TLS *tls.Config
	// Connections bounds the open connections; what comes on top is closed at once.
	// One peer may have a quarter of them. 0: no bound.
	Connections int
	// Trusted tells the proxies, which speak for many and may have all connections;
	// nil for none.
	Trusted func(netip.Addr) bool
	// Streams bounds the concurrent requests of one HTTP/2 connection; 1000 when 0.
	Streams int
}

const defaultStreams = 1000

// Serve is ServeWith without TLS and without a bound of connections.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, drain func()) error {
	return ServeWith(ctx, listener, handler, ServeOptions{Drain: drain})
}

// ServeWith answers HTTP/1.1 and HTTP/2 on the listener until ctx ends. Then it
// drains, takes no new connections, and waits up to 15 seconds for the requests in
// flight, whose contexts do not end with ctx. It returns nil after a clean drain.
// The listener is closed. A client has 5 seconds to send its headers, and an answer
// an hour at most; how long a body may take is the handler's to say.
func ServeWith(ctx context.Context, listener net.Listener, handler http.Handler, o ServeOptions) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(o.TLS == nil)
	protocols.SetHTTP2(o.TLS != nil)
	server := &http.Server{
		Handler:           handler,
		Protocols:         &protocols,
		TLSConfig:         o.TLS,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		// What it says is about clients that break the protocol, with their addresses.
		ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
		// A handler that sets a shorter limit for its answer leaves it on the
		// connection. This one replaces it when the next request begins.
		WriteTimeout:   streamTimeout,
		MaxHeaderBytes: maxHeader,
		HTTP2:          &http.HTTP2Config{MaxConcurrentStreams: cmp.Or(o.Streams, defaultStreams)},
		BaseContext:    func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	if o.Connections > 0 {
		listener = bound(listener, o.Connections, o.Trusted)
	}
	failed := make(chan error, 1)
	go func() {
		if o.TLS != nil {
			failed <- server.ServeTLS(listener, "", "")
			return
		}
		failed <- server.Serve(listener)
	}()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	if o.Drain != nil {
		o.Drain()
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
