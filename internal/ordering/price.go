package ordering

import (
	"cmp"
	"fmt"
	"slices"

	"bookworm/internal/money"
)

// Currency is the one currency the shop sells in.
const Currency = "USD"

// Shipping fees in minor units of Currency.
const (
	homeCountry       = "US"
	homeShipping      = 499
	foreignShipping   = 1499
	freeShippingAbove = 5000 // subtotal from which shipping at home is free
)

// bookTaxBasisPoints is the tax on printed books by country of delivery, where
// the shop collects it. A country that is not listed pays at its own customs.
var bookTaxBasisPoints = map[string]int64{
	"AT": 1000, "BE": 600, "DE": 700, "ES": 400, "FR": 550, "IE": 0, "IT": 400, "LU": 300, "NL": 900, "PL": 500, "PT": 600,
}

// Totals is what an order costs, in parts: Total = Subtotal + Shipping + Tax -
// Discount.
type Totals struct {
	Subtotal money.Money `json:"subtotal"`
	Shipping money.Money `json:"shipping"`
	Tax      money.Money `json:"tax"`
	Discount money.Money `json:"discount"`
	Total    money.Money `json:"total"`
}

// Price computes what lines cost when sent to a country (ISO 3166-1 alpha-2). It
// returns the lines with their totals, sorted by book id. Tax is taken once, on
// the subtotal, so neither the order of lines nor splitting one changes a total.
//
// Errors: money.ErrCurrency when a line is in another currency, money.ErrOverflow.
func Price(lines []Line, country string) ([]Line, Totals, error) {
	priced := slices.Clone(lines)
	slices.SortFunc(priced, func(a, b Line) int { return cmp.Compare(a.BookID, b.BookID) })
	subtotal := money.New(Currency, 0)
	for i := range priced {
		total, err := priced[i].UnitPrice.Times(int64(priced[i].Quantity))
		if err != nil {
			return nil, Totals{}, fmt.Errorf("price of book %s: %w", priced[i].BookID, err)
		}
		priced[i].Total = total
		if subtotal, err = subtotal.Add(total); err != nil {
			return nil, Totals{}, fmt.Errorf("subtotal with book %s: %w", priced[i].BookID, err)
		}
	}
	t := Totals{Subtotal: subtotal, Shipping: shipping(subtotal, country), Discount: money.New(Currency, 0)}
	var err error
	if t.Tax, err = subtotal.BasisPoints(bookTaxBasisPoints[country]); err != nil {
		return nil, Totals{}, fmt.Errorf("tax: %w", err)
	}
	t.Total = subtotal
	for _, part := range []money.Money{t.Shipping, t.Tax, money.New(Currency, -t.Discount.Minor)} {
		if t.Total, err = t.Total.Add(part); err != nil {
			return nil, Totals{}, fmt.Errorf("total: %w", err)
		}
	}
	return priced, t, nil
}

func shipping(subtotal money.Money, country string) money.Money {
	switch {
	case country != homeCountry:
		return money.New(Currency, foreignShipping)
	case subtotal.Minor >= freeShippingAbove:
		return money.New(Currency, 0)
	default:
		return money.New(Currency, homeShipping)
	}
}
