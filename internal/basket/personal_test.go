package basket_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"bookworm/internal/basket"
)

func TestA1_BasketIsExportedAndErasedForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s shelf) {
		t.Helper()
		holder := basket.Personal{Baskets: s.Store}
		bob := uuid.NewString()
		books := []uuid.UUID{uuid.New(), uuid.New()}
		for i, book := range books {
			for _, subject := range []string{s.subject, bob} {
				if _, err := s.Set(t.Context(), subject, book, int32(i+1), nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := s.Set(t.Context(), bob, uuid.New(), 9, nil); err != nil {
			t.Fatal(err)
		}
		bobs, err := s.Get(t.Context(), bob)
		if err != nil {
			t.Fatal(err)
		}

		sections, next, err := holder.Export(t.Context(), s.subject, "")
		if err != nil || next != "" || len(sections) != 1 || len(sections[0].Records) != 2 {
			t.Fatalf("%v, %q, %v", sections, next, err)
		}
		for i, record := range sections[0].Records {
			if record["book_id"] != books[i].String() || record["quantity"] != float64(i+1) {
				t.Errorf("item %d is %v", i, record)
			}
		}

		for i, want := range []int64{1, 0} {
			if got, err := holder.Erase(t.Context(), s.subject, "erased-1"); err != nil || got.Erased != want || got.Kept != 0 {
				t.Errorf("erasure %d: %+v, %v", i, got, err)
			}
			left, err := s.redis.Keys(t.Context(), "*"+s.subject+"*").Result()
			if err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		}
		if sections, _, err := holder.Export(t.Context(), s.subject, ""); len(sections) > 0 || err != nil {
			t.Errorf("after the erasure there is %v, %v", sections, err)
		}
		// An order that was under way clears the basket that it was made of.
		if cleared, err := s.ClearVersion(t.Context(), s.subject, bobs.Version); cleared || err != nil {
			t.Errorf("cleared %v, %v", cleared, err)
		}
		if left, err := s.redis.Exists(t.Context(), "basket:{"+s.subject+"}").Result(); left != 0 || err != nil {
			t.Errorf("clearing made a basket: %d, %v", left, err)
		}
		if now, err := s.Get(t.Context(), bob); err != nil || now.Version != bobs.Version || !slices.Equal(now.Items, bobs.Items) {
			t.Errorf("bob's basket is %v, %v", now, err)
		}
	})
}
