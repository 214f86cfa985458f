package chat

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"bookworm/internal/chat"
	"bookworm/internal/fault"
	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
)

// ConfirmAction does what a confirmation card proposed, or drops it.
func (h *conversations) ConfirmAction(ctx context.Context, req *chatv1.ConfirmActionRequest) (*chatv1.ConfirmActionResponse, error) {
	subject, id, err := callerAnd(ctx, "action_id", req.GetActionId())
	if err != nil {
		return nil, err
	}
	if !req.GetAccept() {
		return h.drop(ctx, subject, id)
	}
	text, err := h.confirm(ctx, subject, id)
	if err != nil {
		return nil, err
	}
	return &chatv1.ConfirmActionResponse{Text: text}, nil
}

func (h *conversations) drop(ctx context.Context, subject string, id uuid.UUID) (*chatv1.ConfirmActionResponse, error) {
	action, err := h.Store.Drop(ctx, subject, id)
	if err != nil {
		return nil, err
	}
	if action.State != chat.Dropped { // it was confirmed before
		return nil, unconfirmable(id)
	}
	return &chatv1.ConfirmActionResponse{Text: "Nothing was changed."}, nil
}

func unconfirmable(id uuid.UUID) error {
	return fault.New(fault.ReasonActionNotFound, "There is no action %s, or it can no longer be confirmed.", id)
}

const (
	// confirmTries is how often a basket that changes meanwhile is read again.
	confirmTries = 4
	// putTime bounds the change of the basket, so that it is over before the claim's
	// hold is.
	putTime = 4 * time.Second
	// confirmPause is between two looks at an action that somebody else does.
	confirmPause = 50 * time.Millisecond
	// settleTime bounds what is noted of a change after the caller has gone.
	settleTime = 3 * time.Second
)

// confirm puts the copies of an action into the basket, at most once. The claim
// says, before it is done, for which version of the basket the action is and how
// many copies are in it then. A basket is in each version once, so when a holder
// died and nobody knows what it did, the same change can be sent again.
func (h *conversations) confirm(ctx context.Context, subject string, id uuid.UUID) (string, error) {
	action, err := h.Store.Action(ctx, subject, id)
	for tries := 0; err == nil && tries < confirmTries; {
		switch action.State {
		case chat.Did:
			return action.Result, nil
		case chat.Dropped:
			return "", unconfirmable(id)
		case chat.Proposed, chat.Claimed:
		}
		var mine bool
		known := action.State == chat.Proposed // nobody has done anything yet
		if known {
			action, mine, err = h.claim(ctx, subject, action)
		} else {
			action, mine, err = h.Store.TakeOver(ctx, subject, id)
		}
		switch {
		case err != nil:
		case mine:
			tries++
			action, err = h.put(ctx, subject, action, known)
		case action.State == chat.Claimed:
			if err = pause(ctx, confirmPause); err == nil {
				action, err = h.Store.Action(ctx, subject, id)
			}
		}
	}
	if err != nil {
		return "", err
	}
	return "", fault.New(fault.ReasonStaleVersion, "The basket changes too fast; confirm again.")
}

// put changes the basket for the holder of a claim, and returns the action as it is
// then: done, or free to be claimed again. known says that the claim is fresh, and
// so that what is refused now has not been done before.
func (h *conversations) put(ctx context.Context, subject string, action chat.Action, known bool) (chat.Action, error) {
	bounded, cancel := context.WithTimeout(ctx, putTime)
	defer cancel()
	answer, err := h.Baskets.SetItem(bounded, &basketv1.SetItemRequest{
		BookId: action.BookID.String(), Quantity: action.Target, Etag: action.ETag,
	})
	// What became of it is noted also for a caller that has gone.
	ctx, end := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer end()
	stale := fault.Is(err, fault.ReasonStaleVersion)
	switch {
	case err == nil:
		return h.Store.Settle(ctx, subject, action.ID, done(action, answer.GetBasket()))
	case known && (stale || refused(err)):
		if release := h.Store.Release(ctx, subject, action.ID, action.ETag); release != nil {
			return chat.Action{}, release
		}
		if !stale {
			return chat.Action{}, err
		}
		return h.Store.Action(ctx, subject, action.ID)
	case stale:
		return h.settleUnknown(ctx, subject, action)
	}
	if yield := h.Store.Yield(ctx, subject, action.ID); yield != nil {
		return chat.Action{}, yield
	}
	return chat.Action{}, fmt.Errorf("put into the basket: %w", err)
}

// settleUnknown is for a basket that has moved on since a claim whose holder died:
// by that holder, or by somebody else. It is not done a second time.
func (h *conversations) settleUnknown(ctx context.Context, subject string, action chat.Action) (chat.Action, error) {
	basket, err := h.basket(ctx)
	if err != nil {
		return chat.Action{}, err
	}
	text := "Your basket has changed meanwhile, and I cannot tell whether this was done; please look at it."
	if inBasket(basket, action.BookID) == action.Target {
		text = done(action, basket)
	}
	return h.Store.Settle(ctx, subject, action.ID, text)
}

func done(action chat.Action, basket *basketv1.Basket) string {
	for _, item := range basket.GetItems() {
		if item.GetBookId() == action.BookID.String() {
			return fmt.Sprintf("Done: your basket has %s of “%s” now.", copies(item.GetQuantity()), item.GetTitle())
		}
	}
	return "Done."
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// refused reports whether an error says that nothing was done.
func refused(err error) bool {
	switch fault.KindOf(err) {
	case fault.Invalid, fault.NotFound, fault.Precondition, fault.Denied, fault.Unauthenticated:
		return true
	default:
		return false
	}
}

// claim binds an action to the basket as it is now.
func (h *conversations) claim(ctx context.Context, subject string, action chat.Action) (chat.Action, bool, error) {
	basket, err := h.basket(ctx)
	if err != nil {
		return chat.Action{}, false, err
	}
	target := inBasket(basket, action.BookID) + action.Quantity
	if target > maxCopies {
		const problem = "would make more than 99 copies of one book"
		return chat.Action{}, false, fault.New(fault.ReasonInvalidArgument, "This %s.", problem).WithField("action_id", problem)
	}
	return h.Store.Claim(ctx, subject, action.ID, basket.GetEtag(), target)
}

const maxCopies = 99

func (h *conversations) basket(ctx context.Context) (*basketv1.Basket, error) {
	answer, err := h.Baskets.GetBasket(ctx, &basketv1.GetBasketRequest{})
	if err != nil {
		return nil, fmt.Errorf("read the basket: %w", err)
	}
	return answer.GetBasket(), nil
}

func inBasket(basket *basketv1.Basket, book uuid.UUID) int32 {
	for _, item := range basket.GetItems() {
		if item.GetBookId() == book.String() {
			return item.GetQuantity()
		}
	}
	return 0
}
