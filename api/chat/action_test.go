package chat_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"bookworm/internal/fault"
	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
)

// proposed is a shop in which alice has been asked whether she wants two copies.
func proposed(t *testing.T) (*shop, string) {
	t.Helper()
	s := setup(t, `add_to_basket {"book_id":"`+duneID+`","quantity":2}`, "I can put Dune into your basket [1].")
	answers, err := s.say("alice", "", "Two of Dune, please")
	if err != nil {
		t.Fatal(err)
	}
	if s.baskets.tries != 0 || s.baskets.quantity("alice") != 0 {
		t.Fatal("the basket was touched before anybody confirmed")
	}
	return s, actionOf(t, answers)
}

func (s *shop) confirm(action string, accept bool) (string, error) {
	answer, err := s.as("alice").ConfirmAction(s.t.Context(), &chatv1.ConfirmActionRequest{ActionId: action, Accept: accept})
	return answer.GetText(), err
}

func TestActionHappensAtMostOnce(t *testing.T) {
	t.Parallel()
	s, action := proposed(t)
	const many = 12
	texts := make([]string, many)
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			var err error
			if texts[i], err = s.confirm(action, true); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, text := range texts {
		if text != "Done: your basket has 2 copies of “Dune” now." {
			t.Errorf("got %q", text)
		}
	}
	if s.baskets.changes != 1 || s.baskets.quantity("alice") != 2 {
		t.Errorf("%d changes made %d copies", s.baskets.changes, s.baskets.quantity("alice"))
	}
	_, err := s.confirm(action, false) // too late
	refuse(t, err, fault.ReasonActionNotFound)
	if text, err := s.confirm(action, true); err != nil || text != texts[0] {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestActionAddsToWhatIsThere(t *testing.T) {
	t.Parallel()
	s, action := proposed(t)
	s.baskets.bySub["alice"] = &basketv1.Basket{Etag: "v7", Version: 7, Items: []*basketv1.BasketItem{{BookId: duneID, Quantity: 3, Title: "Dune"}}}
	// Somebody else is faster, twice.
	s.baskets.before = func(n int) error {
		if n <= 2 {
			s.baskets.set(s.baskets.bySub["alice"], duneID, int32(3+n))
		}
		return nil
	}
	text, err := s.confirm(action, true)
	if err != nil || text != "Done: your basket has 7 copies of “Dune” now." || s.baskets.changes != 1 {
		t.Errorf("got %q, %v after %d changes", text, err, s.baskets.changes)
	}
}

func TestActionWhoseAnswerIsLostIsNotDoneTwice(t *testing.T) {
	t.Parallel()
	for name, meanwhile := range map[string]func(*baskets){
		"nothing else happened":     func(*baskets) {},
		"another book came":         func(b *baskets) { b.set(b.bySub["alice"], "other", 1) },
		"the copies were taken out": func(b *baskets) { b.set(b.bySub["alice"], duneID, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, action := proposed(t)
			s.baskets.after = func(n int) error {
				if n == 1 {
					return fault.New(fault.ReasonUnavailable, "lost")
				}
				return nil
			}
			_, err := s.confirm(action, true)
			refuse(t, err, fault.ReasonUnavailable)
			s.baskets.mu.Lock()
			meanwhile(s.baskets)
			s.baskets.mu.Unlock()
			text, err := s.confirm(action, true)
			if err != nil || text == "" || s.baskets.changes != 1 {
				t.Errorf("got %q, %v after %d changes", text, err, s.baskets.changes)
			}
		})
	}
}

func TestActionThatDidNotArriveIsDoneLater(t *testing.T) {
	t.Parallel()
	s, action := proposed(t)
	s.baskets.before = func(n int) error {
		if n == 1 {
			return fault.New(fault.ReasonUnavailable, "down")
		}
		return nil
	}
	_, err := s.confirm(action, true)
	refuse(t, err, fault.ReasonUnavailable)
	if text, err := s.confirm(action, true); err != nil || text != "Done: your basket has 2 copies of “Dune” now." || s.baskets.changes != 1 {
		t.Errorf("got %q, %v after %d changes", text, err, s.baskets.changes)
	}
}

func TestActionThatIsRefusedCanBeConfirmedAgain(t *testing.T) {
	t.Parallel()
	s, action := proposed(t)
	s.baskets.before = func(n int) error {
		if n == 1 {
			return fault.New(fault.ReasonBasketFull, "The basket holds no more different books.")
		}
		return nil
	}
	_, err := s.confirm(action, true)
	refuse(t, err, fault.ReasonBasketFull)
	if _, err := s.confirm(action, true); err != nil || s.baskets.quantity("alice") != 2 {
		t.Errorf("%v, %d copies", err, s.baskets.quantity("alice"))
	}
}

func TestActionThatIsDeclinedNeverHappens(t *testing.T) {
	t.Parallel()
	s, action := proposed(t)
	for range 2 {
		if text, err := s.confirm(action, false); err != nil || text != "Nothing was changed." {
			t.Errorf("got %q, %v", text, err)
		}
	}
	_, err := s.confirm(action, true)
	refuse(t, err, fault.ReasonActionNotFound)
	if s.baskets.tries != 0 {
		t.Error("the basket was touched")
	}
}

// TestActionClaimedByADeadProcess: a claim whose holder died is taken over when its
// hold is over.
func TestActionClaimedByADeadProcess(t *testing.T) {
	t.Parallel()
	s, action := proposed(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id := mustParse(t, action)
	if _, won, err := s.store.Claim(ctx, "alice", id, "v0", 2); err != nil || !won {
		t.Fatal(won, err)
	}
	if err := s.store.Yield(ctx, "alice", id); err != nil { // as the time would
		t.Fatal(err)
	}
	if text, err := s.confirm(action, true); err != nil || text == "" || s.baskets.changes != 1 || s.baskets.quantity("alice") != 2 {
		t.Errorf("got %q, %v after %d changes", text, err, s.baskets.changes)
	}
}

// TestActionIsItsHolders: while somebody does it, nobody else does.
func TestActionIsItsHolders(t *testing.T) {
	t.Parallel()
	s, action := proposed(t)
	if _, won, err := s.store.Claim(t.Context(), "alice", mustParse(t, action), "v0", 2); err != nil || !won {
		t.Fatal(won, err)
	}
	if _, won, err := s.store.Claim(t.Context(), "alice", mustParse(t, action), "v1", 9); err != nil || won {
		t.Errorf("the second claim won: %v, %v", won, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := s.as("alice").ConfirmAction(ctx, &chatv1.ConfirmActionRequest{ActionId: action, Accept: true})
	s.baskets.mu.Lock()
	defer s.baskets.mu.Unlock()
	if err == nil || s.baskets.tries != 0 {
		t.Errorf("got %v after %d tries", err, s.baskets.tries)
	}
}

func TestActionForTooManyCopies(t *testing.T) {
	t.Parallel()
	s, action := proposed(t)
	s.baskets.bySub["alice"] = &basketv1.Basket{Etag: "v7", Version: 7, Items: []*basketv1.BasketItem{{BookId: duneID, Quantity: 98}}}
	_, err := s.confirm(action, true)
	refuse(t, err, fault.ReasonInvalidArgument)
}

func mustParse(t *testing.T, text string) uuid.UUID {
	t.Helper()
	id, err := uuid.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
