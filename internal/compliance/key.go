package compliance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/fault"
	"bookworm/internal/personal"
)

var _ personal.Keys = (*PrivacyStore)(nil)

// ShopperKey is one key of a shopper. It must not be logged or stored.
type ShopperKey struct {
	ID  uuid.UUID
	Key personal.Text // personal.KeySize bytes
}

// CurrentKey returns the key that a shopper's data is sealed with now. Where there
// is none it makes one if create is set; of any number of concurrent callers all
// get the same. Errors: SHOPPER_KEY_NOT_FOUND where there is none;
// ERASURE_IN_PROGRESS while the shopper's data is being erased, when nothing more
// is to be sealed.
func (s *PrivacyStore) CurrentKey(ctx context.Context, subject string, create bool) (ShopperKey, error) {
	key, erasing, err := s.currentKey(ctx, subject, create)
	if erasing {
		return ShopperKey{}, erasureInProgress()
	}
	return key, err
}

func erasureInProgress() error {
	return fault.New(fault.ReasonErasureInProgress, "Your data is being erased. Come back when that is done.")
}

func (s *PrivacyStore) currentKey(ctx context.Context, subject string, create bool) (key ShopperKey, erasing bool, err error) {
	hash := s.subject(subject)
	for {
		var id *uuid.UUID
		var wrapped []byte
		err := s.db.QueryRow(ctx, `
			select k.id, k.wrapped, exists (
				select from data_request r where r.subject_hash = $1 and r.kind = 'ERASURE' and r.completed_at is null)
			from (select) as one left join shopper_key k on k.subject_hash = $1 and k.wrapped is not null`, hash).Scan(&id, &wrapped, &erasing)
		switch {
		case err != nil:
			return ShopperKey{}, false, fmt.Errorf("read a shopper's key: %w", err)
		case id != nil:
			key, err := s.unwrap(*id, hash, wrapped)
			return key, erasing, err
		case !create:
			return ShopperKey{}, erasing, noKey()
		}
		// Whoever comes second reads the first one's, in the next round.
		if err := s.makeKey(ctx, hash); err != nil {
			return ShopperKey{}, false, err
		}
	}
}

func (s *PrivacyStore) makeKey(ctx context.Context, hash []byte) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make a key's id: %w", err)
	}
	raw := make([]byte, personal.KeySize)
	if _, err := rand.Read(raw); err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	_, err = s.db.Exec(ctx, `
		insert into shopper_key (id, subject_hash, wrapped) values ($1, $2, $3)
		on conflict (subject_hash) where wrapped is not null do nothing`,
		id, hash, s.wrap.Seal(nil, nil, raw, wrapLabel(id, hash))) //nolint:gosec // the mode makes a random nonce itself and takes none
	if err != nil {
		return fmt.Errorf("insert a shopper's key: %w", err)
	}
	return nil
}

// KeyByID returns a shopper's key that sealed something. Errors:
// SHOPPER_KEY_NOT_FOUND for one that was destroyed, or is not theirs.
func (s *PrivacyStore) KeyByID(ctx context.Context, subject string, id uuid.UUID) (ShopperKey, error) {
	hash := s.subject(subject)
	var wrapped []byte
	err := s.db.QueryRow(ctx, `select wrapped from shopper_key where id = $1 and subject_hash = $2 and wrapped is not null`, id, hash).Scan(&wrapped)
	if errors.Is(err, pgx.ErrNoRows) {
		return ShopperKey{}, noKey()
	}
	if err != nil {
		return ShopperKey{}, fmt.Errorf("read a shopper's key: %w", err)
	}
	return s.unwrap(id, hash, wrapped)
}

func noKey() error {
	return fault.New(fault.ReasonShopperKeyNotFound, "The shopper has no such key.")
}

func (s *PrivacyStore) unwrap(id uuid.UUID, hash, wrapped []byte) (ShopperKey, error) {
	raw, err := s.wrap.Open(nil, nil, wrapped, wrapLabel(id, hash))
	if err != nil {
		return ShopperKey{}, fmt.Errorf("unwrap the shopper's key %s: %w", id, personal.ErrSealed)
	}
	return ShopperKey{ID: id, Key: personal.Text(raw)}, nil
}

// wrapLabel binds a wrapped key to its row.
func wrapLabel(id uuid.UUID, hash []byte) []byte { return append(id[:], hash...) }

// CountKeys returns how many keys a shopper has that open something.
func (s *PrivacyStore) CountKeys(ctx context.Context, subject string) (n int64, err error) {
	err = s.db.QueryRow(ctx, `select count(*) from shopper_key where subject_hash = $1 and wrapped is not null`, s.subject(subject)).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count a shopper's keys: %w", err)
	}
	return n, nil
}

// Current implements personal.Keys for the compliance context itself, which seals
// also while an erasure is under way: it is the one that erases.
func (s *PrivacyStore) Current(ctx context.Context, subject string) (personal.Key, error) {
	key, _, err := s.currentKey(ctx, subject, true)
	return shopperKey(key, err)
}

// ByID implements personal.Keys.
func (s *PrivacyStore) ByID(ctx context.Context, subject string, id uuid.UUID) (personal.Key, error) {
	key, err := shopperKey(s.KeyByID(ctx, subject, id))
	if fault.Is(err, fault.ReasonShopperKeyNotFound) {
		return personal.Key{}, personal.ErrErased
	}
	return key, err
}

func shopperKey(found ShopperKey, err error) (personal.Key, error) {
	if err != nil {
		return personal.Key{}, err
	}
	return personal.NewShopperKey(found.ID, []byte(found.Key))
}
