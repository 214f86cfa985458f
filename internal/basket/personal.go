package basket

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"bookworm/internal/personal"
)

// Personal is the baskets of people, as the law lets them ask.
type Personal struct{ Baskets *Store }

var _ personal.Holder = Personal{}

// exported is an item of a basket in an export.
type exported struct {
	BookID   uuid.UUID `json:"book_id"`
	Quantity int32     `json:"quantity"`
}

// Export returns what is in a person's basket, all on one page.
func (p Personal) Export(ctx context.Context, subject, _ string) ([]personal.Section, string, error) {
	basket, err := p.Baskets.Get(ctx, subject)
	if err != nil || len(basket.Items) == 0 {
		return nil, "", err
	}
	items := make([]exported, len(basket.Items))
	for i, item := range basket.Items {
		items[i] = exported(item)
	}
	records, err := personal.Records(items...)
	if err != nil {
		return nil, "", err
	}
	return []personal.Section{{Name: "basket", Records: records}}, "", nil
}

// Erase removes a person's basket. Nothing of it is kept.
func (p Personal) Erase(ctx context.Context, subject, _ string) (personal.Erasure, error) {
	erased, err := p.Baskets.redis.Del(ctx, key(subject)).Result()
	if err != nil {
		return personal.Erasure{}, fmt.Errorf("erase basket: %w", err)
	}
	return personal.Erasure{Erased: erased}, nil
}

// Retain has nothing to do: Redis itself removes a basket when it was not changed
// for as long as keep says.
func (Personal) Retain(context.Context) (deleted map[string]int64, more bool, err error) {
	return nil, false, nil
}
