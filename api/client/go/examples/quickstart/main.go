// The quick start finds a book, buys it and talks about it:
//
//	BOOKWORM_GATEWAY_URL=http://127.0.0.1:8080 BOOKWORM_TOKEN=$(make token USER=alice) go run ./examples/quickstart
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/oauth2"

	"bookworm/client"
	basketv1 "bookworm/client/gen/bookworm/basket/v1"
	catalogv1 "bookworm/client/gen/bookworm/catalog/v1"
	chatv1 "bookworm/client/gen/bookworm/chat/v1"
	orderingv1 "bookworm/client/gen/bookworm/ordering/v1"
	typev1 "bookworm/client/gen/bookworm/type/v1"
)

func main() {
	shop := client.New(cmp.Or(os.Getenv("BOOKWORM_GATEWAY_URL"), "http://127.0.0.1:8080"), client.Options{
		Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: os.Getenv("BOOKWORM_TOKEN")}),
	})
	if err := buy(context.Background(), shop); err != nil {
		fmt.Fprintln(os.Stderr, err, client.Reason(err))
		os.Exit(1)
	}
}

// buy goes through the shop as its customers do.
func buy(ctx context.Context, shop *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()

	// Browse.
	found, err := shop.Catalog.ListBooks(ctx, &catalogv1.ListBooksRequest{Category: "science-fiction", InStock: true, PageSize: 3})
	if err != nil {
		return fmt.Errorf("list books: %w", err)
	}
	if len(found.GetBooks()) == 0 {
		return errors.New("the shop has no science fiction")
	}
	book := found.GetBooks()[0]
	fmt.Printf("found    %q by %s, %s\n", book.GetTitle(), strings.Join(book.GetAuthors(), ", "), format(book.GetPrice()))

	// Fill the basket, with nothing of an earlier visit in it.
	if _, err := shop.Basket.ClearBasket(ctx, &basketv1.ClearBasketRequest{}); err != nil {
		return fmt.Errorf("clear the basket: %w", err)
	}
	filled, err := shop.Basket.SetItem(ctx, &basketv1.SetItemRequest{BookId: book.GetId(), Quantity: 1})
	if err != nil {
		return fmt.Errorf("fill the basket: %w", err)
	}
	fmt.Printf("basket   %d book, %s\n", len(filled.GetBasket().GetItems()), format(filled.GetBasket().GetSubtotal()))

	// What would it cost?
	quoted, err := shop.Orders.QuoteOrder(ctx, &orderingv1.QuoteOrderRequest{CountryCode: "US"})
	if err != nil {
		return fmt.Errorf("quote: %w", err)
	}
	fmt.Printf("quote    %s with shipping and tax\n", format(quoted.GetQuote().GetTotal()))

	// An error says why, and which fields.
	_, err = shop.Orders.QuoteOrder(ctx, &orderingv1.QuoteOrderRequest{CountryCode: "usa"})
	for _, field := range client.Fields(err) {
		fmt.Printf("refused  %s: %s %s\n", client.Reason(err), field.Name, field.Problem)
	}

	if err := order(ctx, shop, quoted.GetQuote()); err != nil {
		return err
	}
	return ask(ctx, shop, fmt.Sprintf("Which books are like %q?", book.GetTitle()))
}

// order places an order at the quoted price and no other, and waits until it is
// confirmed.
func order(ctx context.Context, shop *client.Client, quote *orderingv1.Quote) error {
	request := &orderingv1.PlaceOrderRequest{
		PaymentMethod: "pm_card_visa", ExpectedTotal: quote.GetTotal(), BasketEtag: quote.GetBasketEtag(),
		ShippingAddress: &orderingv1.Address{
			Recipient: "Alice Appleby", Line1: "1 Main Street", City: "Springfield", Region: "IL", PostalCode: "62701", CountryCode: "US",
		},
	}
	// The same key with the same request is the same order.
	key := uuid.NewString()
	placed, err := shop.Orders.PlaceOrder(client.WithIdempotencyKey(ctx, key), request)
	if err != nil {
		return fmt.Errorf("place the order: %w", err)
	}
	again, err := shop.Orders.PlaceOrder(client.WithIdempotencyKey(ctx, key), request)
	if err != nil {
		return fmt.Errorf("place the order again: %w", err)
	}
	id := placed.GetOrder().GetId()
	if again.GetOrder().GetId() != id {
		return errors.New("the same request made another order")
	}
	fmt.Printf("order    %s is %s\n", id, placed.GetOrder().GetStatus())

	// Payment and confirmation follow by themselves.
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := shop.Orders.GetOrder(ctx, &orderingv1.GetOrderRequest{Id: id})
		if err != nil {
			return fmt.Errorf("read the order: %w", err)
		}
		if status := got.GetOrder().GetStatus(); status != orderingv1.Order_PLACED {
			fmt.Printf("order    %s is %s\n", id, status)
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the order: %w", ctx.Err())
		}
	}
}

// ask asks the bookseller; the answer arrives in pieces.
func ask(ctx context.Context, shop *client.Client, text string) error {
	answer, err := shop.Chat.SendMessage(client.WithIdempotencyKey(ctx, uuid.NewString()), &chatv1.SendMessageRequest{Text: text})
	if err != nil {
		return fmt.Errorf("ask the bookseller: %w", err)
	}
	defer answer.Close() //nolint:errcheck // what was heard was heard
	var sources strings.Builder
	fmt.Print("answer   ")
	for {
		piece, err := answer.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("hear the bookseller: %w", err)
		}
		switch event := piece.GetEvent().GetEvent().(type) {
		case *chatv1.TurnEvent_Delta:
			fmt.Print(event.Delta)
		case *chatv1.TurnEvent_Citation:
			fmt.Fprintf(&sources, "source   [%d] %s\n", event.Citation.GetNumber(), event.Citation.GetTitle())
		case *chatv1.TurnEvent_Done:
			fmt.Printf("\n%sdone     %s\n", sources.String(), event.Done.GetOutcome())
		}
	}
}

// format is an amount for people. The shop's currency has two decimal places.
func format(m *typev1.Money) string {
	return fmt.Sprintf("%s %d.%02d", m.GetCurrencyCode(), m.GetAmountMinor()/100, m.GetAmountMinor()%100)
}
