package personaltest

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"

	"github.com/google/uuid"

	"bookworm/internal/personal"
)

// Keys are shoppers' keys in memory. They are safe for concurrent use.
type Keys struct {
	mu      sync.Mutex
	current map[string]personal.Key
	refusal error
}

var _ personal.Keys = (*Keys)(nil)

// Sealer returns a sealer with keys of its own, and these.
func Sealer(tb testing.TB) (*personal.ShopperSealer, *Keys) {
	tb.Helper()
	legacy, err := personal.NewSealer(personal.NewKey())
	if err != nil {
		tb.Fatal(err)
	}
	keys := &Keys{}
	return personal.NewShopperSealer(keys, legacy), keys
}

// Current implements personal.Keys.
func (k *Keys) Current(_ context.Context, subject string) (personal.Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refusal != nil {
		return personal.Key{}, k.refusal
	}
	if key, ok := k.current[subject]; ok {
		return key, nil
	}
	raw := make([]byte, personal.KeySize)
	if _, err := rand.Read(raw); err != nil {
		return personal.Key{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return personal.Key{}, err
	}
	key, err := personal.NewShopperKey(id, raw)
	if err != nil {
		return personal.Key{}, err
	}
	if k.current == nil {
		k.current = make(map[string]personal.Key)
	}
	k.current[subject] = key
	return key, nil
}

// ByID implements personal.Keys.
func (k *Keys) ByID(_ context.Context, subject string, id uuid.UUID) (personal.Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refusal != nil {
		return personal.Key{}, k.refusal
	}
	key := k.current[subject]
	if key.ID != id {
		return personal.Key{}, personal.ErrErased
	}
	return key, nil
}

// Destroy destroys a shopper's key.
func (k *Keys) Destroy(subject string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.current, subject)
}

// Refuse makes every question fail with an error, or answers again after nil.
func (k *Keys) Refuse(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refusal = err
}
