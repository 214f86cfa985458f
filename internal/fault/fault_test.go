package fault

import (
	"errors"
	"fmt"
	"testing"
)

func TestEveryReasonHasTitle(t *testing.T) {
	t.Parallel()
	for reason, entry := range Reasons {
		if entry.Title == "" {
			t.Errorf("%s has no title", reason)
		}
	}
}

func TestFaultSurvivesWrapping(t *testing.T) {
	t.Parallel()
	cause := errors.New("row locked")
	err := fmt.Errorf("hold stock: %w", New(ReasonOutOfStock, "only %d left", 1).With("book_id", "b").WithCause(cause))
	if !Is(err, ReasonOutOfStock) || KindOf(err) != Precondition || !errors.Is(err, cause) {
		t.Errorf("lost on the way: %v", err)
	}
	if KindOf(cause) != Internal || Is(cause, ReasonOutOfStock) {
		t.Error("an unclassified error has a class")
	}
}
