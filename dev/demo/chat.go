package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"

	"bookworm/dev/folder"
	"bookworm/dev/shopper"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
)

// conversationPatience is how long the conversation may take; a real model takes
// seconds for each turn.
const conversationPatience = 5 * time.Minute

// Chat holds a conversation with the bookseller as alice: she looks for a book,
// compares two, asks about her order and about the shop, and has a book put into
// her basket. Each answer is printed with its sources. It returns an error as soon
// as anything is not as it should be.
func Chat(ctx context.Context, a folder.Addresses, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, conversationPatience)
	defer cancel()
	token, err := shopper.Token(ctx, a["BOOKWORM_ISSUER_URL"], "alice")
	if err != nil {
		return err
	}
	alice := &shopper.Shopper{Gateway: a["BOOKWORM_GATEWAY_URL"], Token: token}
	if err := anOrder(ctx, alice, out); err != nil {
		return err
	}
	c := &conversation{out: out, alice: alice}
	for _, turn := range []struct {
		text    string
		sources bool
	}{
		{"I am looking for Dune by Frank Herbert. Do you have it, and what does it cost?", true},
		{"Compare Dune and Foundation for me.", true},
		{"What is the status of my order?", true},
		{"Can I return a book that I do not like?", true},
		{"Do you have a washing machine manual?", false},
	} {
		answer, err := c.say(ctx, turn.text)
		if err != nil {
			return err
		}
		if turn.sources && len(answer.citations) == 0 {
			return fmt.Errorf("the answer to %q names no source", turn.text)
		}
		if !turn.sources && len(answer.citations) > 0 {
			return fmt.Errorf("the answer to %q names sources for what the shop does not have", turn.text)
		}
	}
	return c.buy(ctx, "Please add Dune to my basket.")
}

// anOrder makes sure that there is an order to talk about.
func anOrder(ctx context.Context, alice *shopper.Shopper, out io.Writer) error {
	books, err := alice.Books(ctx, "category=mystery&in_stock=true&page_size=1")
	if err != nil {
		return fmt.Errorf("list books: %w", err)
	}
	if len(books) == 0 {
		return errors.New("there is no mystery in stock to order")
	}
	if err := alice.Clear(ctx); err != nil {
		return fmt.Errorf("clear basket: %w", err)
	}
	if _, err := alice.Put(ctx, books[0].GetId(), 1); err != nil {
		return fmt.Errorf("fill basket: %w", err)
	}
	order, _, err := alice.Place(ctx, uuid.NewString(), shopper.Request("pm_card_visa"))
	if err != nil {
		return fmt.Errorf("place: %w", err)
	}
	if _, err := alice.AwaitOrder(ctx, order.GetId(), orderingv1.Order_CONFIRMED); err != nil {
		return fmt.Errorf("await confirmation: %w", err)
	}
	if _, err := alice.AwaitEmptyBasket(ctx); err != nil {
		return fmt.Errorf("await the empty basket: %w", err)
	}
	fmt.Fprintf(out, "alice has ordered %s (order %s)\n", books[0].GetTitle(), order.GetId())
	return nil
}

type conversation struct {
	out   io.Writer
	alice *shopper.Shopper
	id    string
}

// answer is what came of a turn.
type answer struct {
	citations     []*chatv1.Citation
	confirmations []*chatv1.ConfirmationCard
	done          *chatv1.Done
}

// say says something and prints what is answered as it comes.
func (c *conversation) say(ctx context.Context, text string) (got answer, err error) {
	fmt.Fprintf(c.out, "\nalice: %s\n", text)
	began := time.Now()
	turn, err := c.alice.Say(ctx, c.id, uuid.NewString(), text)
	if err != nil {
		return answer{}, fmt.Errorf("say %q: %w", text, err)
	}
	defer func() { err = errors.Join(err, turn.Close()) }()
	var first time.Duration
	for got.done == nil {
		event, err := turn.Next()
		if err != nil {
			return got, fmt.Errorf("the answer to %q: %w", text, err)
		}
		c.id = turn.ConversationID
		switch e := event.GetEvent().(type) {
		case *chatv1.TurnEvent_Tool:
			if e.Tool.GetState() != chatv1.ToolEvent_STARTED {
				fmt.Fprintf(c.out, "   (%s: %s)\n", e.Tool.GetName(), e.Tool.GetSummary())
			}
		case *chatv1.TurnEvent_Delta:
			if first == 0 {
				first = time.Since(began)
			}
		case *chatv1.TurnEvent_Citation:
			got.citations = append(got.citations, e.Citation)
		case *chatv1.TurnEvent_Card:
			if card := e.Card.GetConfirmation(); card != nil {
				got.confirmations = append(got.confirmations, card)
			}
		case *chatv1.TurnEvent_Error:
			fmt.Fprintf(c.out, "   (%s: %s)\n", e.Error.GetReason(), e.Error.GetMessage())
		case *chatv1.TurnEvent_Done:
			got.done = e.Done
		}
	}
	fmt.Fprintf(c.out, "bookseller: %s\n", strings.ReplaceAll(got.done.GetText(), "\n", "\n            "))
	for _, citation := range got.citations {
		fmt.Fprintf(c.out, "   [%d] %s\n", citation.GetNumber(), source(citation))
	}
	fmt.Fprintf(c.out, "   %s, first words after %d ms, %d + %d tokens\n", strings.ToLower(got.done.GetOutcome().String()),
		first.Milliseconds(), got.done.GetInputTokens(), got.done.GetOutputTokens())
	if outcome := got.done.GetOutcome(); outcome != chatv1.Done_ANSWERED {
		return got, fmt.Errorf("the answer to %q ended %s", text, outcome)
	}
	return got, nil
}

func source(c *chatv1.Citation) string {
	kind := "policy " + c.GetPolicy()
	switch s := c.GetSource().(type) {
	case *chatv1.Citation_BookId:
		kind = "book " + s.BookId
	case *chatv1.Citation_ReviewId:
		kind = "review " + s.ReviewId
	case *chatv1.Citation_OrderId:
		kind = "order " + s.OrderId
	}
	return fmt.Sprintf("%s (%s)", c.GetTitle(), kind)
}

// buy asks for a book in the basket, which needs a yes.
func (c *conversation) buy(ctx context.Context, text string) error {
	got, err := c.say(ctx, text)
	if err != nil {
		return err
	}
	if len(got.confirmations) != 1 {
		return fmt.Errorf("%q was followed by %d confirmation cards, not 1", text, len(got.confirmations))
	}
	basket, err := c.alice.Basket(ctx)
	if err != nil {
		return fmt.Errorf("read basket: %w", err)
	}
	if len(basket.GetItems()) > 0 {
		return errors.New("something is in the basket that nobody confirmed")
	}
	fmt.Fprintf(c.out, "   ? %s\nalice: yes\n", got.confirmations[0].GetText())
	done, err := c.alice.Confirm(ctx, got.confirmations[0].GetActionId(), true)
	if err != nil {
		return fmt.Errorf("confirm: %w", err)
	}
	if basket, err = c.alice.Basket(ctx); err != nil {
		return fmt.Errorf("read basket: %w", err)
	}
	if len(basket.GetItems()) != 1 {
		return fmt.Errorf("%d books are in the basket, not the one that was confirmed", len(basket.GetItems()))
	}
	fmt.Fprintf(c.out, "   %s\n", done)
	return nil
}
