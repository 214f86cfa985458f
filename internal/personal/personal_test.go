package personal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestA3_TextNeverPrints(t *testing.T) {
	t.Parallel()
	secret := Text("alice@bookworm.example")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "who", secret, "nested", struct{ Email Text }{secret})
	encoded, err := json.Marshal(map[string]any{"email": secret})
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{log.String(), string(encoded), fmt.Sprintf("%v %s %+v %#v %q", secret, secret, secret, secret, secret)} {
		if strings.Contains(printed, "alice") || !strings.Contains(printed, redacted) {
			t.Errorf("printed %q", printed)
		}
	}
}

func TestSealedOpensOnlyWithItsKeyAndLabel(t *testing.T) {
	t.Parallel()
	newSealer := func() *Sealer {
		s, err := NewSealer(NewKey())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := newSealer()
	sealed, err := s.Seal("order-1", map[string]string{"email": "alice@bookworm.example"})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("alice")) {
		t.Fatal("the sealed value is readable")
	}
	var got map[string]string
	if err := s.Open("order-1", sealed, &got); err != nil || got["email"] != "alice@bookworm.example" {
		t.Fatalf("got %v, %v", got, err)
	}
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	for name, open := range map[string]func() error{
		"another label": func() error { return s.Open("order-2", sealed, &got) },
		"another key":   func() error { return newSealer().Open("order-1", sealed, &got) },
		"changed":       func() error { return s.Open("order-1", changed, &got) },
		"empty":         func() error { return s.Open("order-1", nil, &got) },
	} {
		if err := open(); !errors.Is(err, ErrSealed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestNewSealerRefusesBadKeys(t *testing.T) {
	t.Parallel()
	for _, key := range []Text{"", "short", "bm90IDMyIGJ5dGVz", "%%%"} {
		if _, err := NewSealer(key); err == nil {
			t.Errorf("%q was taken", string(key))
		}
	}
}
