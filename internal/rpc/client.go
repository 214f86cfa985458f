package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/otelconnect"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/oauth2"

	"bookworm/internal/fault"
)

// ClientOptions is what a client of another service needs.
type ClientOptions struct {
	// BaseURL is the service's address, for example http://127.0.0.1:8081.
	BaseURL string
	// Tokens is the service's own credential, for calls that the service makes for
	// itself.
	Tokens oauth2.TokenSource
	// OnBehalf, where Tokens is nil, turns the access token of the call being served
	// into the one to send (identity.Exchanger), so that the other service sees the
	// same person. Calls served without a token stay anonymous, and without either
	// all calls do.
	OnBehalf func(ctx context.Context, token string) (string, error)
	// HTTPClient replaces the default, which speaks HTTP/2 without TLS.
	HTTPClient *http.Client
	// Breaker stands before the default HTTPClient. Nil: every call is tried.
	Breaker *Breaker
	// TracerProvider and MeterProvider; nil: the global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
}

// NewClient returns a client to pass to the generated constructors. It is safe
// for concurrent use; make one for each service and keep it, because it owns the
// connections.
//
// Calls return the faults that the other service returned, with reason, message,
// metadata and fields. A service that cannot be reached is UNAVAILABLE. A refusal
// of the service's own credential is unclassified: it is no fault of the person
// for whom the call is made. A deadline of the context travels with the call.
//
// It cannot fail: options that do not work, such as an address that is none,
// show as errors of the calls.
func NewClient(options ClientOptions) *connect.Client {
	if options.HTTPClient == nil {
		var transport http.RoundTripper = Transport()
		if options.Breaker != nil {
			transport = options.Breaker.Transport(transport)
		}
		options.HTTPClient = &http.Client{Transport: transport}
	}
	tracing, err := otelconnect.NewClientInterceptor(telemetryOptions(options.TracerProvider, options.MeterProvider)...)
	if err != nil {
		tracing = failing(fmt.Errorf("make the client's telemetry: %w", err))
	}
	transport := connecthttp.NewTransport(options.HTTPClient, options.BaseURL)
	return connect.NewClient(transport, decoding(options.Tokens != nil), tracing, credential(options))
}

func failing(err error) connect.ClientInterceptor {
	return func(connect.ClientFunc) connect.ClientFunc {
		return func(context.Context, connect.Spec) (connect.ClientStream, error) { return nil, err }
	}
}

// Transport returns an HTTP transport between services: HTTP/2, without TLS
// where the address says http, a dead peer noticed within half a minute.
func Transport() *http.Transport {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	protocols.SetHTTP2(true)
	return &http.Transport{
		Protocols:           &protocols,
		DialContext:         (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		IdleConnTimeout:     90 * time.Second,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}
}

// credential sends an access token with each call.
func credential(options ClientOptions) connect.ClientInterceptor {
	return func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			token, err := accessToken(ctx, options)
			if err != nil {
				return nil, err
			}
			if info, ok := connect.CallInfoForClientContext(ctx); ok {
				info.RequestHeader().Delete("Authorization")
				if token != "" {
					info.RequestHeader().Set("Authorization", "Bearer "+token)
				}
			}
			return next(ctx, spec)
		}
	}
}

// accessToken returns what a call carries, "" for nothing.
func accessToken(ctx context.Context, options ClientOptions) (string, error) {
	if options.Tokens != nil {
		token, err := options.Tokens.Token()
		if err != nil {
			return "", fault.New(fault.ReasonUnavailable, "A part of the shop cannot be reached.").
				WithCause(fmt.Errorf("fetch the service's token: %w", err))
		}
		return token.AccessToken, nil
	}
	authorization := Header(ctx, "Authorization")
	if info, ok := connect.CallInfoForClientContext(ctx); ok && authorization == "" {
		authorization = info.RequestHeader().Get("Authorization") // of a request that is no call, such as MCP's
	}
	if authorization == "" || options.OnBehalf == nil {
		return "", nil
	}
	token, err := bearer(authorization)
	if err != nil {
		return "", err
	}
	return options.OnBehalf(ctx, token)
}

// decoding turns remote errors into faults.
func decoding(ownCredential bool) connect.ClientInterceptor {
	decode := func(err error) error {
		if err == nil || errors.Is(err, io.EOF) {
			return err
		}
		err = decoded(err)
		if kind := fault.KindOf(err); ownCredential && (kind == fault.Unauthenticated || kind == fault.Denied) {
			return errors.New("the service's own credential was refused: " + err.Error())
		}
		return err
	}
	return func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			stream, err := next(ctx, spec)
			if err != nil {
				return nil, decode(err)
			}
			return &decodingStream{ClientStream: stream, decode: decode}, nil
		}
	}
}

type decodingStream struct {
	connect.ClientStream
	decode func(error) error
}

func (s *decodingStream) SendHeaders() error    { return s.decode(s.ClientStream.SendHeaders()) }
func (s *decodingStream) Send(msg any) error    { return s.decode(s.ClientStream.Send(msg)) }
func (s *decodingStream) CloseSend() error      { return s.decode(s.ClientStream.CloseSend()) }
func (s *decodingStream) Receive(msg any) error { return s.decode(s.ClientStream.Receive(msg)) }
func (s *decodingStream) Close() error          { return s.decode(s.ClientStream.Close()) }
