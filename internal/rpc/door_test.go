package rpc_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"bookworm/internal/rpc"
)

// serveWith serves a handler until the test ends, and returns its address.
func serveWith(t *testing.T, handler http.Handler, o rpc.ServeOptions) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rpc.ServeWith(ctx, listener, handler, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return listener.Addr().String()
}

func dialTCP(t *testing.T, address string) net.Conn {
	t.Helper()
	connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	if err := connection.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return connection
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })

func TestSlowHeadersAreCut(t *testing.T) {
	t.Parallel()
	address := serveWith(t, hello, rpc.ServeOptions{})
	for name, begun := range map[string]string{
		"nothing": "", "half a line": "GET / HT", "no end": "GET / HTTP/1.1\r\nHost: shop\r\nX-A: 1\r\n", "half a preface": "PRI * HTTP/2.0\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connection, began := dialTCP(t, address), time.Now()
			if _, err := io.WriteString(connection, begun); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, connection); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection stays")
			}
			if took := time.Since(began); took < 3*time.Second || took > 15*time.Second {
				t.Errorf("cut after %v", took)
			}
		})
	}
}

func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	connection := dialTCP(t, serveWith(t, hello, rpc.ServeOptions{}))
	if _, err := io.WriteString(connection, "GET / HTTP/1.1\r\nHost: shop\r\nX-A: "+strings.Repeat("a", 80<<10)+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %d", response.StatusCode)
	}
}

// asks reports whether a connection is answered.
func asks(t *testing.T, connection net.Conn) bool {
	t.Helper()
	if _, err := io.WriteString(connection, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n"); err != nil {
		return false
	}
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is neither served nor closed")
	}
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	address := serveWith(t, hello, rpc.ServeOptions{Connections: 12}) // three for each peer
	open := make([]net.Conn, 0, 3)
	for range 3 {
		open = append(open, dialTCP(t, address))
		if !asks(t, open[len(open)-1]) {
			t.Fatal("a connection within the bound is not served")
		}
	}
	if asks(t, dialTCP(t, address)) {
		t.Error("one peer has more than its share")
	}
	if err := open[0].Close(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); !asks(t, dialTCP(t, address)); {
		if time.Now().After(end) {
			t.Fatal("a closed connection keeps its place")
		}
	}
	everybody := func(netip.Addr) bool { return true }
	address = serveWith(t, hello, rpc.ServeOptions{Connections: 5, Trusted: everybody})
	for range 5 {
		if !asks(t, dialTCP(t, address)) {
			t.Fatal("a proxy does not get all there are")
		}
	}
	if asks(t, dialTCP(t, address)) {
		t.Error("more than there may be")
	}
}

// A client that opens streams and takes them back at once (CVE-2023-44487) makes
// no more work than the streams it may have, and loses its connection.
func TestRapidResets(t *testing.T) {
	t.Parallel()
	const streams = 10
	var running, most atomic.Int64
	release := make(chan struct{})
	address := serveWith(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 {
			return
		}
		now := running.Add(1)
		defer running.Add(-1)
		for seen := most.Load(); now > seen; seen = most.Load() {
			most.CompareAndSwap(seen, now)
		}
		<-release // works on, whatever becomes of its caller
	}), rpc.ServeOptions{Streams: streams})
	defer close(release)
	connection := dialTCP(t, address)
	if _, err := io.WriteString(connection, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(connection, connection)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	ask := func(id uint32) error {
		block.Reset()
		for name, value := range map[string]string{":method": "GET", ":scheme": "http", ":path": "/", ":authority": "shop"} {
			if err := encoder.WriteField(hpack.HeaderField{Name: name, Value: value}); err != nil {
				return err
			}
		}
		err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		if err == nil {
			err = framer.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		return err
	}
	ended := make(chan http2.ErrCode, 1)
	go func() {
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				ended <- 0
				return
			}
			if away, ok := frame.(*http2.GoAwayFrame); ok {
				ended <- away.ErrCode
				return
			}
		}
	}()
	for id := uint32(1); id < 20_000; id += 2 {
		if ask(id) != nil {
			break // the server has hung up
		}
	}
	select {
	case code := <-ended:
		if code != http2.ErrCodeEnhanceYourCalm && code != 0 {
			t.Errorf("ended with %v", code)
		}
	case <-time.After(10 * time.Second):
		t.Error("ten thousand resets are taken")
	}
	if most.Load() > streams {
		t.Errorf("%d handlers at once", most.Load())
	}
	if !asks(t, dialTCP(t, address)) {
		t.Error("others are not served")
	}
}

// pair writes a new self-signed certificate of a name.
func pair(t *testing.T, folder, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"shop.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: certificate}, keyFile: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// shown is the certificate that a server shows, and the protocol agreed on.
func shown(t *testing.T, address string, version uint16) (name, protocol string, err error) {
	t.Helper()
	dialer := tls.Dialer{Config: &tls.Config{
		ServerName: "shop.example", InsecureSkipVerify: true, MaxVersion: version, NextProtos: []string{"h2", "http/1.1"}, //nolint:gosec // self-signed
	}}
	connection, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		return "", "", fmt.Errorf("dial: %w", err)
	}
	defer connection.Close()
	state := connection.(*tls.Conn).ConnectionState()
	return state.PeerCertificates[0].Subject.CommonName, state.NegotiatedProtocol, nil
}

func TestTLS(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	certFile, keyFile := pair(t, folder, "first")
	var log buffer
	config, err := rpc.LoadTLS(certFile, keyFile, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	address := serveWith(t, hello, rpc.ServeOptions{TLS: config, Connections: 100})
	if name, protocol, err := shown(t, address, 0); err != nil || name != "first" || protocol != "h2" {
		t.Errorf("got %q over %q, %v", name, protocol, err)
	}
	if _, _, err := shown(t, address, tls.VersionTLS12); err == nil {
		t.Error("TLS 1.2 is taken")
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, //nolint:gosec // self-signed
	}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if said, err := io.ReadAll(response.Body); string(said) != "HTTP/2.0" {
		t.Errorf("asked over %q, %v", said, err)
	}

	pair(t, folder, "second")
	await(t, "the new certificate", func() bool { name, _, err := shown(t, address, 0); return err == nil && name == "second" })
	if err := os.WriteFile(certFile, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "a complaint in the log", func() bool {
		name, _, err := shown(t, address, 0)
		if err != nil || name != "second" {
			t.Fatalf("a broken file takes the certificate away: %q, %v", name, err)
		}
		return strings.Contains(log.String(), "was not reloaded")
	})
	pair(t, folder, "third")
	await(t, "the certificate after", func() bool { name, _, err := shown(t, address, 0); return err == nil && name == "third" })
	if _, err := rpc.LoadTLS(certFile, filepath.Join(folder, "nothing"), nil); err == nil {
		t.Error("a missing key was taken")
	}
}

func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !condition(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestBreakers(t *testing.T) {
	t.Parallel()
	dead, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := dead.Addr().String()
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	breakers, err := rpc.NewBreakers(slog.New(slog.DiscardHandler), noop.Meter{})
	if err != nil {
		t.Fatal(err)
	}
	breaker := breakers.Of("catalog")
	client := &http.Client{Transport: breaker.Transport(rpc.Transport())}
	get := func(ctx context.Context) (int, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			return 0, err //nolint:wrapcheck // the test looks at it
		}
		return response.StatusCode, response.Body.Close()
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	for range 10 { // callers who leave say nothing of the service
		if _, err := get(gone); err == nil {
			t.Fatal("answered")
		}
	}
	if states := breakers.States(); len(states) != 1 || states["catalog"] != "closed" {
		t.Errorf("states %v", states)
	}
	for range 5 {
		if _, err := get(t.Context()); err == nil {
			t.Fatal("answered")
		}
	}
	if states := breakers.States(); states["catalog"] != "open" {
		t.Errorf("states %v", states)
	}
	var answer atomic.Int64
	answer.Store(http.StatusServiceUnavailable)
	alive, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- rpc.Serve(ctx, alive, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(answer.Load())) }), nil)
	}()
	t.Cleanup(func() { cancel(); <-done })
	if _, err := get(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("an open breaker lets a call through: %v", err)
	}
	await(t, "the breaker to try again", func() bool {
		status, err := get(t.Context())
		return err == nil && status == http.StatusServiceUnavailable
	})
	for range 10 { // what the service says itself shows that it is there
		if _, err := get(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if states := breakers.States(); states["catalog"] != "closed" {
		t.Errorf("states %v", states)
	}
	answer.Store(http.StatusBadGateway) // a proxy on the way says it is not
	for range 5 {
		if _, err := get(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if states := breakers.States(); states["catalog"] != "open" {
		t.Errorf("states %v", states)
	}
}
