// Package page makes the tokens of lists that are read a page at a time. A token
// carries the key of the last row of a page, for the WHERE of the next one, and
// belongs to one list with one set of filters. It is opaque to clients but no
// secret and not signed: a forged one reaches only rows that the filters allow,
// because those come with each request.
package page

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"bookworm/internal/fault"
)

// maxToken bounds what Decode looks at; the contracts allow as much.
const maxToken = 1024

// token is what is inside, in JSON.
type token struct {
	List []byte            `json:"l"`
	Key  []json.RawMessage `json:"k"`
}

// Encode returns the token of the page after the row with the given key: its
// values in the order of the list's sort, the last of them unique. The filters
// are any value with a JSON form that says what the list holds: its filters,
// its sort, and the subject where it is a person's list.
func Encode(list string, filters any, key ...any) (string, error) {
	id, err := identify(list, filters)
	if err != nil {
		return "", err
	}
	t := token{List: id}
	for _, value := range key {
		raw, err := json.Marshal(value)
		if err != nil {
			return "", fmt.Errorf("encode page token: %w", err)
		}
		t.Key = append(t.Key, raw)
	}
	plain, err := json.Marshal(t)
	if err != nil {
		return "", fmt.Errorf("encode page token: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(plain), nil
}

// Decode reads a token of the same list and filters into key, pointers to the
// types that Encode was given. An empty token is no token: ask before.
// Errors: fault.ReasonPageTokenInvalid for a token that Encode did not make for
// this list; key may be half filled then.
func Decode(text, list string, filters any, key ...any) error {
	id, err := identify(list, filters)
	if err != nil {
		return err
	}
	if err := decode(text, id, key); err != nil {
		return fault.New(fault.ReasonPageTokenInvalid, "The page token does not belong to this list and its filters.").
			WithField("page_token", "is not a token of this list").WithCause(err)
	}
	return nil
}

func decode(text string, id []byte, key []any) error {
	if len(text) > maxToken {
		return fmt.Errorf("%d characters", len(text))
	}
	plain, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return err
	}
	var t token
	if err := unmarshal(plain, &t); err != nil {
		return err
	}
	if !bytes.Equal(t.List, id) {
		return errors.New("made for another list")
	}
	if len(t.Key) != len(key) {
		return fmt.Errorf("%d values, not %d", len(t.Key), len(key))
	}
	for i, raw := range t.Key {
		if string(raw) == "null" {
			return fmt.Errorf("value %d is missing", i)
		}
		if bytes.Contains(raw, []byte(`\u0000`)) { // no text of PostgreSQL's has one
			return fmt.Errorf("value %d has a NUL", i)
		}
		if err := unmarshal(raw, key[i]); err != nil {
			return err
		}
	}
	return nil
}

func unmarshal(data []byte, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more after the end")
	}
	return nil
}

// identify returns a short fingerprint of a list and its filters.
func identify(list string, filters any) ([]byte, error) {
	plain, err := json.Marshal([]any{list, filters})
	if err != nil {
		return nil, fmt.Errorf("identify list %s: %w", list, err)
	}
	sum := sha256.Sum256(plain)
	return sum[:9], nil
}
