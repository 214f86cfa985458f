package personal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"bookworm/internal/personal"
	"bookworm/internal/personal/personaltest"
)

type card struct {
	Email string `json:"email"`
}

func TestShoppersValueOpensForThemAndItsLabelOnly(t *testing.T) {
	t.Parallel()
	s, _ := personaltest.Sealer(t)
	sealed, err := s.Seal(t.Context(), "alice", "order-1", card{"alice@bookworm.example"})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("alice")) {
		t.Fatal("the sealed value is readable")
	}
	var got card
	if err := s.Open(t.Context(), "alice", "order-1", sealed, &got); err != nil || got.Email != "alice@bookworm.example" {
		t.Fatalf("got %v, %v", got, err)
	}
	// Bob's own key exists, and does not help.
	if _, err := s.Seal(t.Context(), "bob", "order-1", card{}); err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	for name, tc := range map[string]struct {
		subject, label string
		sealed         personal.Sealed
		want           error
	}{
		"another label":   {"alice", "order-2", sealed, personal.ErrSealed},
		"another subject": {"bob", "order-1", sealed, personal.ErrErased}, // who never had that key
		"changed":         {"alice", "order-1", changed, personal.ErrSealed},
		"cut short":       {"alice", "order-1", sealed[:20], personal.ErrSealed},
		"only a version":  {"alice", "order-1", sealed[:1], personal.ErrSealed},
		"emptied":         {"alice", "order-1", nil, personal.ErrErased},
	} {
		if err := s.Open(t.Context(), tc.subject, tc.label, tc.sealed, &got); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
}

// oneKey gives everybody the same key.
type oneKey struct{ personal.Key }

func (k oneKey) Current(context.Context, string) (personal.Key, error)         { return k.Key, nil }
func (k oneKey) ByID(context.Context, string, uuid.UUID) (personal.Key, error) { return k.Key, nil }

func TestSubjectIsPartOfWhatIsSealed(t *testing.T) {
	t.Parallel()
	key, err := personal.NewShopperKey(uuid.New(), make([]byte, personal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	legacy, err := personal.NewSealer(personal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	s := personal.NewShopperSealer(oneKey{key}, legacy)
	sealed, err := s.Seal(t.Context(), "alice", "order-1", card{"x"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(t.Context(), "bob", "order-1", sealed, &card{}); !errors.Is(err, personal.ErrSealed) {
		t.Errorf("bob opens with the right key: %v", err)
	}
}

func TestNothingOpensOnceTheKeyIsDestroyed(t *testing.T) {
	t.Parallel()
	s, keys := personaltest.Sealer(t)
	sealed, err := s.Seal(t.Context(), "alice", "order-1", card{"x"})
	if err != nil {
		t.Fatal(err)
	}
	keys.Destroy("alice")
	if err := s.Open(t.Context(), "alice", "order-1", sealed, &card{}); !errors.Is(err, personal.ErrErased) {
		t.Errorf("after the destruction: %v", err)
	}
	// Who comes back has a new key, which does not bring the old data back.
	if _, err := s.Seal(t.Context(), "alice", "order-2", card{"y"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Open(t.Context(), "alice", "order-1", sealed, &card{}); !errors.Is(err, personal.ErrErased) {
		t.Errorf("with a new key: %v", err)
	}
}

// TestValuesOfTheEarlierKeyOpen seals until the random nonce has begun with the
// version of the new values a few times.
func TestValuesOfTheEarlierKeyOpen(t *testing.T) {
	t.Parallel()
	legacy, err := personal.NewSealer(personal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	keys := &personaltest.Keys{}
	s := personal.NewShopperSealer(keys, legacy)
	lookalikes := 0
	for i := 0; lookalikes < 3; i++ {
		want := card{fmt.Sprint(i)}
		sealed, err := legacy.Seal("order-1", want)
		if err != nil {
			t.Fatal(err)
		}
		var got card
		if err := s.Open(t.Context(), "alice", "order-1", sealed, &got); err != nil || got != want {
			t.Fatalf("value %x: got %v, %v", sealed[0], got, err)
		}
		if sealed[0] == 1 {
			lookalikes++
		}
		if err := s.Open(t.Context(), "alice", "order-2", sealed, &got); err == nil {
			t.Fatal("opens under another label")
		}
	}
}

func TestA3_KeyNeverPrints(t *testing.T) {
	t.Parallel()
	raw := bytes.Repeat([]byte("k"), personal.KeySize)
	key, err := personal.NewShopperKey(uuid.MustParse("0198f3c2-7d41-7a35-9c1e-2f6a1b0c9d8e"), raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, key); got != "key 0198f3c2-7d41-7a35-9c1e-2f6a1b0c9d8e" {
			t.Errorf("%s prints %q", format, got)
		}
	}
	if _, err := personal.NewShopperKey(uuid.New(), raw[1:]); err == nil {
		t.Error("took a short key")
	}
}
