// Package money is an amount in the minor unit of one currency. There is no
// floating point in it.
package money

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strings"

	typev1 "bookworm/internal/gen/bookworm/type/v1"
)

// ErrOverflow is returned when an amount does not fit an int64.
var ErrOverflow = errors.New("amount out of range")

// ErrCurrency is returned when two currencies meet in one sum.
var ErrCurrency = errors.New("different currencies")

// Money is an amount of one currency. The zero value has no currency and adds to
// any.
type Money struct {
	Currency string `json:"currency"` // ISO 4217, upper case
	Minor    int64  `json:"minor"`    // minor units, for example cents
}

// New returns minor units of a currency.
func New(currency string, minor int64) Money { return Money{Currency: currency, Minor: minor} }

// FromProto reads the wire's money; nil is the zero Money.
func FromProto(m *typev1.Money) Money {
	return Money{Currency: m.GetCurrencyCode(), Minor: m.GetAmountMinor()}
}

// Proto writes the wire's money.
func (m Money) Proto() *typev1.Money {
	return &typev1.Money{CurrencyCode: m.Currency, AmountMinor: m.Minor}
}

// Add returns m + n. Errors: ErrCurrency, ErrOverflow.
func (m Money) Add(n Money) (Money, error) {
	currency := m.Currency
	switch {
	case currency == "":
		currency = n.Currency
	case n.Currency != "" && n.Currency != currency:
		return Money{}, fmt.Errorf("add %s to %s: %w", n.Currency, m.Currency, ErrCurrency)
	}
	sum := m.Minor + n.Minor
	if (n.Minor > 0) != (sum > m.Minor) && n.Minor != 0 {
		return Money{}, fmt.Errorf("add %d and %d: %w", m.Minor, n.Minor, ErrOverflow)
	}
	return Money{Currency: currency, Minor: sum}, nil
}

// Times returns m multiplied by a count. Errors: ErrOverflow.
func (m Money) Times(n int64) (Money, error) {
	if m.Minor == 0 || n == 0 {
		return Money{Currency: m.Currency}, nil
	}
	product := m.Minor * n
	if product/n != m.Minor || (m.Minor == math.MinInt64 && n == -1) {
		return Money{}, fmt.Errorf("multiply %d by %d: %w", m.Minor, n, ErrOverflow)
	}
	return Money{Currency: m.Currency, Minor: product}, nil
}

// BasisPoints returns m times points / 10,000, rounded half away from zero, as
// tax is. points must not be negative. Errors: ErrOverflow.
func (m Money) BasisPoints(points int64) (Money, error) {
	minor, negative := m.Minor, false
	if minor < 0 {
		minor, negative = -minor, true
	}
	if points < 0 || minor < 0 {
		return Money{}, fmt.Errorf("%d basis points of %d: %w", points, m.Minor, ErrOverflow)
	}
	hi, lo := bits.Mul64(uint64(minor), uint64(points))
	lo, carry := bits.Add64(lo, 5_000, 0)
	hi += carry
	if hi >= 10_000 {
		return Money{}, fmt.Errorf("%d basis points of %d: %w", points, m.Minor, ErrOverflow)
	}
	quotient, _ := bits.Div64(hi, lo, 10_000)
	if quotient > math.MaxInt64 {
		return Money{}, fmt.Errorf("%d basis points of %d: %w", points, m.Minor, ErrOverflow)
	}
	result := int64(quotient)
	if negative {
		result = -result
	}
	return Money{Currency: m.Currency, Minor: result}, nil
}

// exponents lists the currencies whose minor unit is not a hundredth (ISO 4217).
var exponents = map[string]int{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0,
	"UGX": 0, "VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
	"BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3,
}

// String writes the amount as people read it, for example "USD 12.99".
func (m Money) String() string {
	exponent, ok := exponents[m.Currency]
	if !ok {
		exponent = 2
	}
	sign, digits := "", fmt.Sprintf("%d", m.Minor)
	if m.Minor < 0 {
		sign, digits = "-", digits[1:]
	}
	if exponent > 0 {
		if missing := exponent + 1 - len(digits); missing > 0 {
			digits = strings.Repeat("0", missing) + digits
		}
		point := len(digits) - exponent
		digits = digits[:point] + "." + digits[point:]
	}
	return strings.TrimSpace(m.Currency + " " + sign + digits)
}
