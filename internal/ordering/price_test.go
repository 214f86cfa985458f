package ordering

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"bookworm/internal/money"
)

func usd(minor int64) money.Money { return money.New("USD", minor) }

func TestPrice(t *testing.T) {
	t.Parallel()
	line := func(minor int64, n int32) Line { return Line{BookID: "b", Quantity: n, UnitPrice: usd(minor)} }
	for _, tc := range []struct {
		name                           string
		lines                          []Line
		country                        string
		subtotal, shipping, tax, total int64
	}{
		{"at home", []Line{line(1299, 2)}, "US", 2598, 499, 0, 3097},
		{"at home, shipping is free from 50.00", []Line{line(2500, 2)}, "US", 5000, 0, 0, 5000},
		{"one cent below", []Line{line(4999, 1)}, "US", 4999, 499, 0, 5498},
		{"abroad, shipping is never free, books are taxed", []Line{line(2500, 2)}, "DE", 5000, 1499, 350, 6849},
		{"tax rounds half up", []Line{line(1290, 1)}, "FR", 1290, 1499, 71, 2860},
		{"a country without tax", []Line{line(1000, 1)}, "JP", 1000, 1499, 0, 2499},
	} {
		_, got, err := Price(tc.lines, tc.country)
		want := Totals{usd(tc.subtotal), usd(tc.shipping), usd(tc.tax), usd(0), usd(tc.total)}
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v; want %v", tc.name, got, err, want)
		}
	}
}

func TestM4_OrderAndSplitOfLinesNeverChangeTotal(t *testing.T) {
	t.Parallel()
	for seed := range uint64(500) {
		random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // repeatable on purpose
		country := []string{"US", "DE", "FR", "JP"}[random.IntN(4)]
		var lines, split []Line
		for i := range 1 + random.IntN(8) {
			l := Line{BookID: fmt.Sprint(i), Quantity: 1 + random.Int32N(20), UnitPrice: usd(random.Int64N(9999))}
			lines = append(lines, l)
			for l.Quantity > 0 {
				part := l
				part.Quantity = 1 + random.Int32N(l.Quantity)
				l.Quantity -= part.Quantity
				split = append(split, part)
			}
		}
		random.Shuffle(len(split), func(i, j int) { split[i], split[j] = split[j], split[i] })
		_, whole, err := Price(lines, country)
		if err != nil {
			t.Fatal(err)
		}
		_, parts, err := Price(split, country)
		if err != nil || whole != parts {
			t.Errorf("seed %d: %v split costs %v (%v)", seed, whole, parts, err)
		}
		if sum := whole.Subtotal.Minor + whole.Shipping.Minor + whole.Tax.Minor - whole.Discount.Minor; sum != whole.Total.Minor {
			t.Errorf("seed %d: the parts make %d, the total is %d", seed, sum, whole.Total.Minor)
		}
	}
}

func TestPriceRefuses(t *testing.T) {
	t.Parallel()
	if _, _, err := Price([]Line{{Quantity: 1, UnitPrice: money.New("EUR", 100)}}, "US"); !errors.Is(err, money.ErrCurrency) {
		t.Errorf("another currency: got %v", err)
	}
	if _, _, err := Price([]Line{{Quantity: 99, UnitPrice: usd(math.MaxInt64 / 2)}}, "US"); !errors.Is(err, money.ErrOverflow) {
		t.Errorf("overflow: got %v", err)
	}
}
