package keyring

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"bookworm/internal/fault"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	"bookworm/internal/personal"
)

// service is the compliance context, which has one key for everybody.
type service struct {
	id      uuid.UUID
	asked   atomic.Int32
	refusal error
	answer  func(context.Context) error // before it does; nil for at once
}

func (s *service) GetShopperKey(ctx context.Context, req *compliancev1.GetShopperKeyRequest) (*compliancev1.GetShopperKeyResponse, error) {
	s.asked.Add(1)
	if s.answer != nil {
		if err := s.answer(ctx); err != nil {
			return nil, err
		}
	}
	if s.refusal != nil {
		return nil, s.refusal
	}
	if req.GetKeyId() != "" && req.GetKeyId() != s.id.String() {
		return nil, fault.New(fault.ReasonShopperKeyNotFound, "")
	}
	return &compliancev1.GetShopperKeyResponse{KeyId: s.id.String(), Key: make([]byte, personal.KeySize)}, nil
}

func setup(t *testing.T) (*Ring, *service) {
	t.Helper()
	s := &service{id: uuid.New()}
	ring, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return ring, s
}

// wait lets the bubble's time pass.
func wait(d time.Duration) { <-time.After(d) }

func TestKeysAreRememberedForTheirLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ring, s := setup(t)
		ask := func(what string, asks int32, call func() (personal.Key, error)) {
			t.Helper()
			before := s.asked.Load()
			key, err := call()
			if err != nil || key.ID != s.id || s.asked.Load()-before != asks {
				t.Fatalf("%s: %v, %v, asked %d times, want %d", what, key, err, s.asked.Load()-before, asks)
			}
		}
		current := func() (personal.Key, error) { return ring.Current(t.Context(), "alice") }
		byID := func() (personal.Key, error) { return ring.ByID(t.Context(), "alice", s.id) }
		ask("the first time", 1, current)
		ask("again", 0, current)
		ask("what it sealed opens", 0, byID)
		ask("somebody else's", 1, func() (personal.Key, error) { return ring.Current(t.Context(), "bob") })
		wait(personal.SealLife - time.Second)
		ask("just before its end", 0, current)
		wait(time.Second)
		ask("for sealing, after its life", 1, current)
		ask("for opening, before its life is over", 0, byID)
		wait(personal.OpenLife)
		ask("for opening, after its life", 1, byID)

		s.refusal = fault.New(fault.ReasonUnavailable, "")
		ask("while compliance is away", 0, byID)
		if _, err := current(); !fault.Is(err, fault.ReasonUnavailable) {
			t.Errorf("unknown while compliance is away: %v", err)
		}
		s.refusal = nil
		ask("a failure is not remembered", 1, current)
	})
}

func TestDestroyedKeyIsErased(t *testing.T) {
	t.Parallel()
	ring, s := setup(t)
	if _, err := ring.ByID(t.Context(), "alice", uuid.New()); !errors.Is(err, personal.ErrErased) {
		t.Errorf("got %v", err)
	}
	s.refusal = fault.New(fault.ReasonErasureInProgress, "")
	if _, err := ring.Current(t.Context(), "alice"); !fault.Is(err, fault.ReasonErasureInProgress) {
		t.Errorf("got %v", err)
	}
}

func TestThoseWhoAskTogetherAskOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ring, s := setup(t)
		release := make(chan struct{})
		s.answer = func(ctx context.Context) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		impatient, giveUp := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() {
			if _, err := ring.Current(impatient, "alice"); !fault.Is(err, fault.ReasonUnavailable) {
				t.Errorf("who gave up got %v", err)
			}
		})
		synctest.Wait()
		for range 10 {
			group.Go(func() {
				if key, err := ring.Current(t.Context(), "alice"); err != nil || key.ID != s.id {
					t.Errorf("got %v, %v", key, err)
				}
			})
		}
		synctest.Wait()
		giveUp() // the first, for whom it was asked
		synctest.Wait()
		close(release)
		group.Wait()
		if n := s.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestSilenceEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ring, s := setup(t)
		s.answer = func(ctx context.Context) error {
			<-ctx.Done()
			return fault.New(fault.ReasonUnavailable, "")
		}
		start := time.Now()
		if _, err := ring.Current(t.Context(), "alice"); !fault.Is(err, fault.ReasonUnavailable) || time.Since(start) != callTimeout {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}
