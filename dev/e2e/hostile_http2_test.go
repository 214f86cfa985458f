package e2e

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// hostileConn is a raw HTTP/2 connection after its preface.
type hostileConn struct {
	*http2.Framer

	token string
	net.Conn
}

// open sends the headers of a request on a stream.
func (c hostileConn) open(stream uint32, end bool, fields ...string) error {
	return c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block(fields...), EndHeaders: true, EndStream: end})
}

// block encodes pairs of names and values, whatever they are.
func block(fields ...string) []byte {
	var b bytes.Buffer
	encoder := hpack.NewEncoder(&b)
	for i := 0; i+1 < len(fields); i += 2 {
		_ = encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

// good begins the fields of a request that would be taken.
func good(more ...string) []string {
	return append([]string{":method", "GET", ":scheme", "http", ":authority", "shop", ":path", "/api/v1/basket"}, more...)
}

// hostileFrames are what a client can do that writes frames itself. Each ends its
// stream or connection, or gets a refusal (RFC 9113, 8.1.1 and 8.3); the token in
// them is alice's.
var hostileFrames = []struct {
	name  string
	write func(hostileConn) error
	// ignored says that the protocol has the server ignore it, so that the request
	// behind it is answered.
	ignored bool
}{
	{name: "no path", write: func(c hostileConn) error {
		return c.open(1, true, ":method", "DELETE", ":scheme", "http", ":authority", "shop", "authorization", c.token)
	}},
	{name: "no method", write: func(c hostileConn) error {
		return c.open(1, true, ":scheme", "http", ":authority", "shop", ":path", "/api/v1/basket")
	}},
	{name: "no scheme", write: func(c hostileConn) error { return c.open(1, true, ":method", "GET", ":path", "/api/v1/basket") }},
	{name: "empty path", write: func(c hostileConn) error {
		return c.open(1, true, ":method", "GET", ":scheme", "http", ":path", "")
	}},
	{name: "path without a slash", write: func(c hostileConn) error {
		return c.open(1, true, ":method", "GET", ":scheme", "http", ":authority", "shop", ":path", "api/v1/basket")
	}},
	{name: "two paths", write: func(c hostileConn) error { return c.open(1, true, good(":path", "/api/v1/orders")...) }},
	{name: "two methods", write: func(c hostileConn) error { return c.open(1, true, good(":method", "DELETE")...) }},
	{name: "unknown pseudo-header", write: func(c hostileConn) error { return c.open(1, true, good(":evil", "1")...) }},
	{name: "status in a request", write: func(c hostileConn) error { return c.open(1, true, good(":status", "200")...) }},
	{name: "pseudo-header after a header", write: func(c hostileConn) error {
		return c.open(1, true, ":method", "GET", ":scheme", "http", "x", "y", ":path", "/api/v1/basket")
	}},
	{name: "name in capitals", write: func(c hostileConn) error { return c.open(1, true, good("Authorization", c.token)...) }},
	{name: "name with a colon", write: func(c hostileConn) error { return c.open(1, true, good("x:y", "z")...) }},
	{name: "name with a line break", write: func(c hostileConn) error { return c.open(1, true, good("x\r\ny", "z")...) }},
	{name: "empty name", write: func(c hostileConn) error { return c.open(1, true, good("", "z")...) }},
	{name: "value with a line break", write: func(c hostileConn) error { return c.open(1, true, good("x", "a\r\nauthorization: "+c.token)...) }},
	{name: "value with NUL", write: func(c hostileConn) error { return c.open(1, true, good("x", "a\x00b")...) }},
	{name: "path with a line break", write: func(c hostileConn) error {
		return c.open(1, true, ":method", "GET", ":scheme", "http", ":authority", "shop", ":path", "/api/v1/books HTTP/1.1\r\nHost: x\r\n\r\nDELETE /api/v1/basket")
	}},
	{name: "method with a line break", write: func(c hostileConn) error {
		return c.open(1, true, ":method", "GET /x HTTP/1.1\r\n\r\nDELETE", ":scheme", "http", ":authority", "shop", ":path", "/api/v1/basket")
	}},
	{name: "authority with a user", write: func(c hostileConn) error {
		return c.open(1, true, ":method", "GET", ":scheme", "http", ":authority", "a@b/../c", ":path", "/api/v1/basket")
	}},
	{name: "transfer coding", write: func(c hostileConn) error { return c.open(1, true, good("transfer-encoding", "chunked")...) }},
	{name: "connection header", write: func(c hostileConn) error { return c.open(1, true, good("connection", "close")...) }},
	{name: "upgrade", write: func(c hostileConn) error { return c.open(1, true, good("upgrade", "h2c")...) }},
	{name: "te other than trailers", write: func(c hostileConn) error { return c.open(1, true, good("te", "gzip")...) }},
	{name: "length larger than the body", write: func(c hostileConn) error {
		err := c.open(1, false, ":method", "POST", ":scheme", "http", ":authority", "shop", ":path", "/api/v1/orders:quote", "content-type", "application/json",
			"content-length", "100", "authorization", c.token)
		return errors.Join(err, c.WriteData(1, true, []byte("{}")))
	}},
	{name: "length smaller than the body", write: func(c hostileConn) error {
		err := c.open(1, false, ":method", "POST", ":scheme", "http", ":authority", "shop", ":path", "/api/v1/orders:quote", "content-type", "application/json",
			"content-length", "1", "authorization", c.token)
		return errors.Join(err, c.WriteData(1, true, []byte("{}")))
	}},
	{name: "two lengths", write: func(c hostileConn) error {
		return c.open(1, true, good("content-length", "0", "content-length", "5")...)
	}},
	{name: "length negative", write: func(c hostileConn) error { return c.open(1, true, good("content-length", "-1")...) }},
	{name: "CONNECT with a path", write: func(c hostileConn) error {
		return c.open(1, true, ":method", "CONNECT", ":scheme", "http", ":authority", "shop", ":path", "/")
	}},
	{name: "extended CONNECT", write: func(c hostileConn) error {
		return c.open(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "shop", ":path", "/api/v1/basket")
	}},
	{name: "PRI", write: func(c hostileConn) error {
		return c.open(1, true, ":method", "PRI", ":scheme", "http", ":authority", "shop", ":path", "*")
	}},
	{name: "even stream", write: func(c hostileConn) error { return c.open(2, true, good()...) }},
	{name: "stream 0", write: func(c hostileConn) error {
		return c.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, 0, block(good()...))
	}},
	{name: "streams backwards", write: func(c hostileConn) error {
		return errors.Join(c.open(5, false, good()...), c.open(3, true, good()...))
	}},
	{name: "data on an idle stream", write: func(c hostileConn) error {
		return c.WriteRawFrame(http2.FrameData, http2.FlagDataEndStream, 7, []byte("x"))
	}},
	{name: "headers that are no HPACK", write: func(c hostileConn) error {
		return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true, EndStream: true})
	}},
	{name: "index beyond the table", write: func(c hostileConn) error {
		return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xfe}, EndHeaders: true, EndStream: true})
	}},
	{name: "headers of 1 MB", write: func(c hostileConn) error {
		return writeLong(c, block(good("x", strings.Repeat("a", 1<<20))...))
	}},
	{name: "HPACK bomb", write: func(c hostileConn) error {
		fields := good("x", strings.Repeat("a", 4000)) // is put into the table, and named by one byte from then on
		for range 5000 {
			fields = append(fields, "x", strings.Repeat("a", 4000))
		}
		return writeLong(c, block(fields...))
	}},
	{name: "continuation without end", write: func(c hostileConn) error {
		if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(good()...), EndStream: true}); err != nil {
			return err
		}
		for range 20_000 {
			if err := c.WriteContinuation(1, false, block("x", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")); err != nil {
				return nil // it was cut, as it should be
			}
		}
		return nil
	}},
	{name: "another frame within the headers", write: func(c hostileConn) error {
		return errors.Join(c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(good()...), EndStream: true}), c.WritePing(false, [8]byte{}))
	}},
	{name: "frame larger than allowed", write: func(c hostileConn) error {
		return errors.Join(c.open(1, false, good()...), c.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 1<<21)))
	}},
	{name: "settings of an odd length", write: func(c hostileConn) error { return c.WriteRawFrame(http2.FrameSettings, 0, 0, []byte{1, 2, 3}) }},
	{name: "window of 0 added", write: func(c hostileConn) error { return c.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, []byte{0, 0, 0, 0}) }},
	{name: "window overflows", write: func(c hostileConn) error {
		return errors.Join(c.WriteWindowUpdate(0, 1<<31-1), c.WriteWindowUpdate(0, 1<<31-1))
	}},
	{name: "padding longer than the frame", write: func(c hostileConn) error {
		return errors.Join(c.open(1, false, good()...), c.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, []byte{200, 1}))
	}},
	{name: "push from the client", write: func(c hostileConn) error {
		return c.WriteRawFrame(http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, 1, append([]byte{0, 0, 0, 2}, block(good()...)...))
	}},
	{name: "rapid reset", write: func(c hostileConn) error {
		for i := range uint32(3000) {
			if errors.Join(c.open(2*i+1, true, good("authorization", "Bearer x")...), c.WriteRSTStream(2*i+1, http2.ErrCodeCancel)) != nil {
				return nil // it was cut, as it should be
			}
		}
		return c.open(6001, true, good("authorization", "Bearer x")...)
	}},
	{name: "flood of pings", write: func(c hostileConn) error {
		for range 20_000 {
			if c.WritePing(false, [8]byte{}) != nil {
				return nil // as above
			}
		}
		return c.open(1, true, good()...)
	}},
	{name: "flood of settings", write: func(c hostileConn) error {
		for range 20_000 {
			if c.WriteSettings() != nil {
				return nil // as above
			}
		}
		return c.open(1, true, good()...)
	}},
	{name: "unknown frame", ignored: true, write: func(c hostileConn) error {
		return errors.Join(c.WriteRawFrame(0xbe, 0xff, 1, []byte("evil")), c.open(1, true, good("authorization", c.token)...))
	}},
	{name: "depends on itself", write: func(c hostileConn) error {
		return c.WriteRawFrame(http2.FramePriority, 0, 1, []byte{0, 0, 0, 1, 16})
	}},
}

func writeLong(c hostileConn, fragment []byte) error {
	const piece = 16 << 10
	first := min(piece, len(fragment))
	err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fragment[:first], EndStream: true, EndHeaders: first == len(fragment)})
	for rest := fragment[first:]; err == nil && len(rest) > 0; {
		n := min(piece, len(rest))
		err = c.WriteContinuation(1, n == len(rest), rest[:n])
		rest = rest[n:]
	}
	if err != nil {
		return nil //nolint:nilerr // it was cut, as it should be
	}
	return nil
}

// frames plays one of hostileFrames and reads what the shop makes of it: an answer's
// status, or the end of stream or connection.
func (s *stage) frames(t *testing.T, tc struct {
	name    string
	write   func(hostileConn) error
	ignored bool
},
) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.gateway)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	c := hostileConn{http2.NewFramer(conn, conn), "Bearer " + s.tokens["alice"], conn}
	c.AllowIllegalWrites = true
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- tc.write(c) }()
	defer func() { _ = conn.Close(); <-written }()
	for {
		frame, err := c.ReadFrame()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("neither answered nor refused")
			return
		}
		if err != nil {
			if tc.ignored {
				t.Errorf("was cut: %v", err)
			}
			return // cut
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			status := frame.PseudoValue("status")
			if ok := strings.HasPrefix(status, "2"); status >= "500" || ok != tc.ignored {
				t.Errorf("got %s", status)
			}
			return
		case *http2.GoAwayFrame, *http2.RSTStreamFrame:
			if tc.ignored {
				t.Errorf("was refused: %v", frame)
			}
			return
		}
	}
}
