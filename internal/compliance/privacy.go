package compliance

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"bookworm/internal/personal"
)

// PrivacyStore keeps shoppers' keys, people's requests for their data, and what
// exports collected, in PostgreSQL. A person is a keyed hash there. It is safe for
// concurrent use, also by several processes.
type PrivacyStore struct {
	db     *pgxpool.Pool
	wrap   cipher.AEAD
	hash   []byte // the key of subjects' hashes
	sealer *personal.ShopperSealer
}

// NewPrivacyStore returns a store over a pool opened for Schema. The key is the
// deployment's personal data key, from which those for wrapping shoppers' keys and
// for hashing subjects are derived: with another one nothing opens.
func NewPrivacyStore(db *pgxpool.Pool, key personal.Text) (*PrivacyStore, error) {
	legacy, err := personal.NewSealer(key) // checks the key, too
	if err != nil {
		return nil, err
	}
	master, err := base64.StdEncoding.DecodeString(string(key))
	if err != nil {
		return nil, fmt.Errorf("decode the personal data key: %w", err)
	}
	derive := func(use string) ([]byte, error) { return hkdf.Key(sha256.New, master, nil, use, personal.KeySize) }
	wrapping, err := derive("compliance: wrapping of shoppers' keys")
	if err != nil {
		return nil, fmt.Errorf("derive the wrapping key: %w", err)
	}
	hash, err := derive("compliance: hashes of subjects")
	if err != nil {
		return nil, fmt.Errorf("derive the hashing key: %w", err)
	}
	block, err := aes.NewCipher(wrapping)
	if err != nil {
		return nil, fmt.Errorf("make the wrapping cipher: %w", err)
	}
	wrap, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make the wrapping cipher: %w", err)
	}
	s := &PrivacyStore{db: db, wrap: wrap, hash: hash}
	s.sealer = personal.NewShopperSealer(s, legacy)
	return s, nil
}

// Sealer seals with the keys that are kept here.
func (s *PrivacyStore) Sealer() *personal.ShopperSealer { return s.sealer }

// Pseudonymous returns the keyed hash under which a subject is known here, in
// hexadecimal. It may stand where the subject may not.
func (s *PrivacyStore) Pseudonymous(subject string) string {
	return hex.EncodeToString(s.subject(subject))
}

func (s *PrivacyStore) subject(subject string) []byte {
	h := hmac.New(sha256.New, s.hash)
	h.Write([]byte(subject)) // a hash's Write never fails
	return h.Sum(nil)
}
