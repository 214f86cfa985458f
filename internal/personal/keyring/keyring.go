// Package keyring has shoppers' keys at hand: it asks the compliance context for
// them, and remembers them for a while.
package keyring

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"bookworm/internal/fault"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
	"bookworm/internal/personal"
)

const (
	size = 10_000 // keys that are remembered, a few hundred bytes each

	// callTimeout bounds one question; those who wait for it may give up earlier.
	callTimeout = 5 * time.Second
)

// Ring is shoppers' keys from the compliance context. It is safe for concurrent
// use. While that context is away what is remembered goes on, and all else is
// UNAVAILABLE.
type Ring struct {
	service compliancev1connect.ShopperKeyServiceClient
	current *lru.Cache[string, remembered]
	byID    *lru.Cache[whose, remembered]
	asking  singleflight.Group
}

var _ personal.Keys = (*Ring)(nil)

type whose struct {
	subject string
	id      uuid.UUID
}

type remembered struct {
	key   personal.Key
	until time.Time
}

// New returns an empty ring. The client carries the service's own credential.
func New(service compliancev1connect.ShopperKeyServiceClient) (*Ring, error) {
	current, err := lru.New[string, remembered](size)
	if err != nil {
		return nil, fmt.Errorf("make the ring of keys: %w", err)
	}
	byID, err := lru.New[whose, remembered](size)
	if err != nil {
		return nil, fmt.Errorf("make the ring of keys: %w", err)
	}
	return &Ring{service: service, current: current, byID: byID}, nil
}

// Current implements personal.Keys.
func (r *Ring) Current(ctx context.Context, subject string) (personal.Key, error) {
	if found, ok := r.current.Get(subject); ok && time.Now().Before(found.until) {
		return found.key, nil
	}
	return r.ask(ctx, &compliancev1.GetShopperKeyRequest{Subject: subject, Create: true})
}

// ByID implements personal.Keys.
func (r *Ring) ByID(ctx context.Context, subject string, id uuid.UUID) (personal.Key, error) {
	if found, ok := r.byID.Get(whose{subject, id}); ok && time.Now().Before(found.until) {
		return found.key, nil
	}
	key, err := r.ask(ctx, &compliancev1.GetShopperKeyRequest{Subject: subject, KeyId: id.String()})
	if fault.Is(err, fault.ReasonShopperKeyNotFound) {
		return personal.Key{}, personal.ErrErased
	}
	return key, err
}

// ask fetches a key and remembers it. Those who ask for the same at the same time
// ask once, and none of them can call it off for the others.
func (r *Ring) ask(ctx context.Context, req *compliancev1.GetShopperKeyRequest) (personal.Key, error) {
	answer := r.asking.DoChan(req.GetSubject()+"\x00"+req.GetKeyId(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		// Before the call: what it answers may be of that time.
		now := time.Now()
		found, err := r.service.GetShopperKey(ctx, req)
		if err != nil {
			return nil, fmt.Errorf("ask for a shopper's key: %w", err)
		}
		id, err := uuid.Parse(found.GetKeyId())
		if err != nil {
			return nil, fmt.Errorf("read the id of a shopper's key: %w", err)
		}
		key, err := personal.NewShopperKey(id, found.GetKey())
		if err != nil {
			return nil, err
		}
		if req.GetKeyId() == "" {
			r.current.Add(req.GetSubject(), remembered{key, now.Add(personal.SealLife)})
		}
		r.byID.Add(whose{req.GetSubject(), id}, remembered{key, now.Add(personal.OpenLife)})
		return key, nil
	})
	select {
	case <-ctx.Done():
		return personal.Key{}, fault.New(fault.ReasonUnavailable, "A part of the shop cannot be reached.").WithCause(context.Cause(ctx))
	case got := <-answer:
		if got.Err != nil {
			return personal.Key{}, got.Err
		}
		return got.Val.(personal.Key), nil //nolint:forcetypeassert // the function above returns nothing else
	}
}
