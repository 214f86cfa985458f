// Package demo buys two books through the public API and says what happens.
package demo

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/google/uuid"

	"bookworm/dev/folder"
	"bookworm/dev/shopper"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/money"
)

// patience is how long the demo waits for anything.
const patience = 15 * time.Second

// Run buys two books as alice on the stack at the addresses, and narrates it.
// It returns an error as soon as anything is not as it should be.
func Run(ctx context.Context, a folder.Addresses, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d := &demo{out: out, last: time.Now()}

	token, err := shopper.Token(ctx, a["BOOKWORM_ISSUER_URL"], "alice")
	if err != nil {
		return err
	}
	d.sayf("alice signs in")
	alice := &shopper.Shopper{Gateway: a["BOOKWORM_GATEWAY_URL"], Token: token}

	books, err := alice.Books(ctx, "category=science-fiction&in_stock=true&page_size=2")
	if err != nil {
		return fmt.Errorf("list books: %w", err)
	}
	if len(books) != 2 {
		return fmt.Errorf("list books: want 2 to buy, found %d", len(books))
	}
	d.sayf("she finds %s and %s", name(books[0]), name(books[1]))

	if err := d.fill(ctx, alice, books); err != nil {
		return err
	}
	quote, err := alice.Quote(ctx, "US")
	if err != nil {
		return fmt.Errorf("quote: %w", err)
	}
	total := money.FromProto(quote.GetTotal())
	d.sayf("the quote: %s with shipping and tax", total)

	request := shopper.Request("pm_card_visa")
	request.ExpectedTotal, request.BasketEtag = quote.GetTotal(), quote.GetBasketEtag()
	key := uuid.NewString()
	order, _, err := alice.Place(ctx, key, request)
	if err != nil {
		return fmt.Errorf("place: %w", err)
	}
	d.sayf("she places order %s: %s", order.GetId(), order.GetStatus())

	confirmed, err := alice.AwaitOrder(ctx, order.GetId(), orderingv1.Order_CONFIRMED)
	if err != nil {
		return fmt.Errorf("await confirmation: %w", err)
	}
	if got := money.FromProto(confirmed.GetTotal()); got != total {
		return fmt.Errorf("the order costs %s, but %s was agreed", got, total)
	}
	d.sayf("the order is %s: paid, and its stock is hers", confirmed.GetStatus())

	if err := d.check(ctx, alice, key, request, confirmed); err != nil {
		return err
	}
	mails, err := shopper.Await(ctx, func(ctx context.Context) ([]shopper.Mail, error) {
		return shopper.Mails(ctx, a["BOOKWORM_INBOX_URL"], "alice@bookworm.example", order.GetId())
	}, func(m []shopper.Mail) bool { return len(m) > 0 })
	if err != nil {
		return fmt.Errorf("await the e-mail: %w", err)
	}
	d.sayf("the e-mail is there: %q", mails[0].Subject)

	_, err = fmt.Fprintf(out, "\n  e-mail    %s/messages/%s\n  workflow  %s/namespaces/%s/workflows/%s\n",
		a["BOOKWORM_INBOX_URL"], mails[0].ID, a["BOOKWORM_TEMPORAL_UI_URL"], a["BOOKWORM_TEMPORAL_NAMESPACE"],
		url.PathEscape("order/"+order.GetId()))
	return err
}

type demo struct {
	out  io.Writer
	last time.Time
}

// sayf prints a step with the time since the last one.
func (d *demo) sayf(format string, args ...any) {
	now := time.Now()
	fmt.Fprintf(d.out, "%8.1f ms  %s\n", float64(now.Sub(d.last).Microseconds())/1000, fmt.Sprintf(format, args...))
	d.last = time.Now()
}

func (d *demo) fill(ctx context.Context, alice *shopper.Shopper, books []*catalogv1.Book) error {
	// What an earlier visit left in the basket stays out of this order.
	basket, err := alice.Basket(ctx)
	if err != nil {
		return fmt.Errorf("read basket: %w", err)
	}
	if len(basket.GetItems()) > 0 {
		if err := alice.Clear(ctx); err != nil {
			return fmt.Errorf("clear basket: %w", err)
		}
	}
	for _, b := range books {
		if basket, err = alice.Put(ctx, b.GetId(), 1); err != nil {
			return fmt.Errorf("fill basket: %w", err)
		}
	}
	d.sayf("both are in her basket: %s", money.FromProto(basket.GetSubtotal()))
	return nil
}

// check looks at what a shopper relies on: asking again changes nothing, the
// basket is empty, the payment is what was agreed.
func (d *demo) check(ctx context.Context, alice *shopper.Shopper, key string, req *orderingv1.PlaceOrderRequest, order *orderingv1.Order) error {
	again, replayed, err := alice.Place(ctx, key, req)
	if err != nil {
		return fmt.Errorf("place again: %w", err)
	}
	if again.GetId() != order.GetId() || !replayed {
		return fmt.Errorf("the same request made another order: %s", again.GetId())
	}
	d.sayf("the same request again answers the same order")
	payment, err := alice.Payment(ctx, order.GetId())
	if err != nil {
		return fmt.Errorf("read payment: %w", err)
	}
	if captured := money.FromProto(payment.GetCaptured()); captured != money.FromProto(order.GetTotal()) {
		return fmt.Errorf("captured %s of an order of %s", captured, money.FromProto(order.GetTotal()))
	}
	d.sayf("the payment is %s: %s", payment.GetStatus(), money.FromProto(payment.GetCaptured()))
	basket, err := alice.AwaitEmptyBasket(ctx)
	if err != nil {
		return fmt.Errorf("await the empty basket: %w", err)
	}
	d.sayf("her basket is empty again (version %d)", basket.GetVersion())
	return nil
}

func name(b *catalogv1.Book) string {
	return fmt.Sprintf("%q (%s)", b.GetTitle(), money.FromProto(b.GetPrice()))
}
