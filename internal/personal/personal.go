// Package personal keeps personal data and secrets out of logs, traces and
// workflow histories, by type and not by remembering.
//
// Text holds a value in memory and prints as "***" everywhere. Sealed is a value
// encrypted for a place where others read, such as a workflow's history.
package personal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
)

const redacted = "***"

// Text is a string that must not be printed: an e-mail address, a name, a token.
// Convert it with string(t) where it is really needed.
type Text string

// String returns "***", or "" for an empty Text.
func (t Text) String() string {
	if t == "" {
		return ""
	}
	return redacted
}

// GoString returns what String returns, for %#v.
func (t Text) GoString() string { return t.String() }

// LogValue makes slog print "***".
func (t Text) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalJSON writes "***": a Text that reaches a serialiser has lost its way.
func (t Text) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }

// Sealed is an encrypted JSON value. It may be stored and shown: without the key
// it says nothing.
type Sealed []byte

// ErrSealed is returned by Open for a value that was not sealed with this key and
// label, or was changed since.
var ErrSealed = errors.New("sealed value cannot be opened")

// Sealer encrypts with AES-256-GCM (NIST SP 800-38D) under a random nonce. It is
// safe for concurrent use.
type Sealer struct{ aead cipher.AEAD }

// KeySize is the length of a key in bytes.
const KeySize = 32

// NewSealer takes a base64 key of KeySize bytes.
func NewSealer(key Text) (*Sealer, error) {
	raw, err := base64.StdEncoding.DecodeString(string(key))
	if err != nil {
		return nil, fmt.Errorf("decode the personal data key as base64: %w", err)
	}
	if len(raw) != KeySize {
		return nil, fmt.Errorf("the personal data key has %d bytes, not %d", len(raw), KeySize)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, fmt.Errorf("make the cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make the cipher mode: %w", err)
	}
	return &Sealer{aead: aead}, nil
}

// NewKey returns a random key in the form NewSealer takes.
func NewKey() Text {
	raw := make([]byte, KeySize)
	if _, err := rand.Read(raw); err != nil {
		panic(err) // crypto/rand.Read never fails on the systems Go supports
	}
	return Text(base64.StdEncoding.EncodeToString(raw))
}

// Seal encrypts v's JSON. The label says what it is for (for example the order's
// id) and must be the same when it is opened, so that a sealed value cannot be
// moved to another place.
func (s *Sealer) Seal(label string, v any) (Sealed, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("seal %T: %w", v, err)
	}
	return s.aead.Seal(nil, nil, plain, []byte(label)), nil //nolint:gosec // the mode makes a random nonce itself and takes none
}

// Open decrypts a sealed value into v. Errors: ErrSealed.
func (s *Sealer) Open(label string, sealed Sealed, v any) error {
	plain, err := s.aead.Open(nil, nil, sealed, []byte(label))
	if err != nil {
		return ErrSealed
	}
	if err := json.Unmarshal(plain, v); err != nil {
		return fmt.Errorf("open a sealed %T: %w", v, err)
	}
	return nil
}
