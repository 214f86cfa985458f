package compliance

import (
	"context"

	"github.com/google/uuid"

	"bookworm/internal/compliance"
	"bookworm/internal/fault"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
)

type keys struct{ privacy *compliance.PrivacyStore }

// GetShopperKey returns the key that a shopper's data is sealed with, or one that
// sealed something.
func (h *keys) GetShopperKey(ctx context.Context, req *compliancev1.GetShopperKeyRequest) (*compliancev1.GetShopperKeyResponse, error) {
	found, err := h.key(ctx, req)
	if err != nil {
		return nil, err
	}
	return &compliancev1.GetShopperKeyResponse{KeyId: found.ID.String(), Key: []byte(found.Key)}, nil
}

func (h *keys) key(ctx context.Context, req *compliancev1.GetShopperKeyRequest) (compliance.ShopperKey, error) {
	if req.GetKeyId() == "" {
		return h.privacy.CurrentKey(ctx, req.GetSubject(), req.GetCreate())
	}
	id, err := parseID("key_id", req.GetKeyId())
	if err != nil {
		return compliance.ShopperKey{}, err
	}
	return h.privacy.KeyByID(ctx, req.GetSubject(), id)
}

// parseID reads an id. The contract lets only UUIDs through.
func parseID(field, text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		const problem = "is not a UUID"
		return uuid.Nil, fault.New(fault.ReasonInvalidArgument, "The %s %s.", field, problem).WithField(field, problem)
	}
	return id, nil
}
