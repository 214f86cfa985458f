package rpc

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"

	"bookworm/internal/fault"
)

// Header returns a header of the call being served, or "". The name's case does
// not matter.
func Header(ctx context.Context, name string) string {
	if info, ok := connect.CallInfoForServerContext(ctx); ok {
		return info.RequestHeader().Get(name)
	}
	return ""
}

// SetHeader sets a header of the answer to the call being served. It has no
// effect after the first message of a stream was sent, or outside a call.
func SetHeader(ctx context.Context, name, value string) {
	if info, ok := connect.CallInfoForServerContext(ctx); ok {
		info.ResponseHeader().Set(name, value)
	}
}

// maxIdempotencyKey is the longest Idempotency-Key, in bytes.
const maxIdempotencyKey = 255

// IdempotencyKey returns the Idempotency-Key header of the call being served,
// which may be a quoted string (RFC 8941) or the bare key: "a1" and a1 are the
// same key. Errors: IDEMPOTENCY_KEY_MISSING, INVALID_ARGUMENT for a key that is
// not 1 to 255 visible ASCII characters.
func IdempotencyKey(ctx context.Context) (string, error) {
	return parseIdempotencyKey(Header(ctx, "Idempotency-Key"))
}

func parseIdempotencyKey(header string) (string, error) {
	header = strings.Trim(header, " \t")
	if header == "" {
		return "", fault.New(fault.ReasonKeyMissing, "Send an Idempotency-Key header, for example a UUID of your own.")
	}
	key, ok := header, true
	if strings.HasPrefix(header, `"`) {
		key, ok = unquote(header)
	}
	if !ok || key == "" || len(key) > maxIdempotencyKey || strings.ContainsFunc(key, invisible) {
		const problem = "must be 1 to 255 visible ASCII characters, bare or in double quotes"
		return "", fault.New(fault.ReasonInvalidArgument, "The Idempotency-Key header %s.", problem).
			WithField("Idempotency-Key", problem)
	}
	return key, nil
}

func invisible(r rune) bool { return r <= ' ' || r > '~' }

// unquote reads an sf-string of RFC 8941: a backslash escapes a quote or a
// backslash and nothing else.
func unquote(header string) (string, bool) {
	var key strings.Builder
	for rest := header[1:]; rest != ""; rest = rest[1:] {
		switch rest[0] {
		case '"':
			return key.String(), rest == `"`
		case '\\':
			rest = rest[1:]
			if rest == "" || (rest[0] != '"' && rest[0] != '\\') {
				return "", false
			}
		}
		key.WriteByte(rest[0])
	}
	return "", false
}

// Services returns the full names of the services registered on a server, sorted.
func Services(server *connect.Server) []string {
	var names []string
	for spec := range server.Specs() {
		name, _, _ := strings.Cut(strings.TrimPrefix(spec.Procedure, "/"), "/")
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
