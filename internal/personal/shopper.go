package personal

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// ErrErased is returned by ShopperSealer.Open for a value that nobody can open any
// more, because it was emptied or the key that it was sealed with was destroyed.
var ErrErased = errors.New("sealed value is erased")

const (
	// OpenLife is how long a key may be remembered for opening: how long after its
	// end somewhere in the shop may still open with it.
	OpenLife = 5 * time.Minute
	// SealLife is how long a key may be remembered as the shopper's current one: how
	// long after an erasure began something may still be sealed.
	SealLife = 10 * time.Second
)

// Key is one key of a shopper. It prints as its id.
type Key struct {
	ID   uuid.UUID
	aead cipher.AEAD
}

// NewShopperKey makes a key of its KeySize bytes.
func NewShopperKey(id uuid.UUID, raw []byte) (Key, error) {
	if len(raw) != KeySize {
		return Key{}, fmt.Errorf("a shopper's key has %d bytes, not %d", len(raw), KeySize)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return Key{}, fmt.Errorf("make the cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return Key{}, fmt.Errorf("make the cipher mode: %w", err)
	}
	return Key{ID: id, aead: aead}, nil
}

// String returns the key's id.
func (k Key) String() string { return "key " + k.ID.String() }

// GoString returns what String returns, for %#v.
func (k Key) GoString() string { return k.String() }

// Keys are where shoppers' keys come from. They are safe for concurrent use.
type Keys interface {
	// Current returns the key that the shopper's data is sealed with now, made where
	// there is none. Errors: the fault ERASURE_IN_PROGRESS, UNAVAILABLE.
	Current(ctx context.Context, subject string) (Key, error)
	// ByID returns the key that sealed something of the shopper's. Errors: ErrErased
	// for one that was destroyed, or never was; UNAVAILABLE.
	ByID(ctx context.Context, subject string, id uuid.UUID) (Key, error)
}

// ShopperSealer seals what is a shopper's with a key of theirs alone, so that the
// end of the key is the end of the data, wherever it is kept. It is safe for
// concurrent use.
//
// A sealed value is a byte with the version, the 16 bytes of the key's id, and
// what AES-256-GCM makes under a random nonce. Subject and label are its
// associated data.
type ShopperSealer struct {
	keys   Keys
	legacy *Sealer
}

// NewShopperSealer returns a sealer with shoppers' keys. What was sealed by legacy,
// before shoppers had keys, opens too; nothing is sealed by it any more.
func NewShopperSealer(keys Keys, legacy *Sealer) *ShopperSealer {
	return &ShopperSealer{keys: keys, legacy: legacy}
}

// shopperVersion begins a value sealed with a shopper's key. One of an earlier
// Sealer begins with its random nonce, which may look the same.
const shopperVersion = 1

const shopperHeader = 1 + len(uuid.UUID{})

// Prepare fetches the shopper's key, so that a Seal right after it does not wait.
// Errors: those of Keys.Current.
func (s *ShopperSealer) Prepare(ctx context.Context, subject string) error {
	_, err := s.keys.Current(ctx, subject)
	return err
}

// Seal encrypts v's JSON with the shopper's current key. The label says what it is
// for, as with Sealer.Seal. Errors: those of Keys.Current.
func (s *ShopperSealer) Seal(ctx context.Context, subject, label string, v any) (Sealed, error) {
	key, err := s.keys.Current(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("seal %T: %w", v, err)
	}
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("seal %T: %w", v, err)
	}
	header := append([]byte{shopperVersion}, key.ID[:]...)
	//nolint:gosec // the mode makes a random nonce itself and takes none
	return key.aead.Seal(header, nil, plain, associated(subject, label)), nil
}

// Open decrypts a sealed value into v. Errors: ErrErased; ErrSealed for a value
// that was not sealed for this subject and label, or was changed since; those of
// Keys.ByID.
func (s *ShopperSealer) Open(ctx context.Context, subject, label string, sealed Sealed, v any) error {
	if len(sealed) == 0 {
		return ErrErased
	}
	if len(sealed) < shopperHeader || sealed[0] != shopperVersion {
		return s.legacy.Open(label, sealed, v)
	}
	id, err := uuid.FromBytes(sealed[1:shopperHeader])
	if err != nil {
		return ErrSealed
	}
	key, err := s.keys.ByID(ctx, subject, id)
	if errors.Is(err, ErrErased) {
		// One in 256 of the earlier values begins with this version too. No shopper's
		// key has the id that follows there, and what opens it is its own key.
		if s.legacy.Open(label, sealed, v) == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("open a sealed %T: %w", v, err)
	}
	plain, err := key.aead.Open(nil, nil, sealed[shopperHeader:], associated(subject, label))
	if err != nil {
		return ErrSealed
	}
	if err := json.Unmarshal(plain, v); err != nil {
		return fmt.Errorf("open a sealed %T: %w", v, err)
	}
	return nil
}

// associated binds a value to what it is for and whose it is. A zero byte between
// them keeps ("a", "bc") from being ("ab", "c").
func associated(subject, label string) []byte {
	return []byte(label + "\x00" + subject)
}
