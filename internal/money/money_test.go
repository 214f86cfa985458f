package money

import (
	"errors"
	"math"
	"testing"
)

func TestAdd(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		a, b Money
		want Money
		err  error
	}{
		{"same currency", New("USD", 1), New("USD", 2), New("USD", 3), nil},
		{"zero takes the other's currency", Money{}, New("EUR", 2), New("EUR", 2), nil},
		{"currencies do not mix", New("USD", 1), New("EUR", 1), Money{}, ErrCurrency},
		{"overflow", New("USD", math.MaxInt64), New("USD", 1), Money{}, ErrOverflow},
		{"underflow", New("USD", math.MinInt64), New("USD", -1), Money{}, ErrOverflow},
		{"negative", New("USD", 5), New("USD", -7), New("USD", -2), nil},
	} {
		got, err := tc.a.Add(tc.b)
		if !errors.Is(err, tc.err) || got != tc.want {
			t.Errorf("%s: got %v, %v", tc.name, got, err)
		}
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	if got, err := New("USD", 1299).Times(3); err != nil || got.Minor != 3897 {
		t.Errorf("got %v, %v", got, err)
	}
	for _, n := range []int64{2, -2} {
		if _, err := New("USD", math.MaxInt64).Times(n); !errors.Is(err, ErrOverflow) {
			t.Errorf("times %d: got %v, want overflow", n, err)
		}
	}
}

func TestBasisPointsRoundsHalfAwayFromZero(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ minor, points, want int64 }{
		{1000, 700, 70},
		{1, 5000, 1},
		{-1, 5000, -1},
		{1, 4999, 0},
		{1299, 550, 71},
		{0, 700, 0},
		{math.MaxInt64, 10_000, math.MaxInt64},
	} {
		got, err := New("EUR", tc.minor).BasisPoints(tc.points)
		if err != nil || got.Minor != tc.want {
			t.Errorf("%d bp of %d: got %v, %v; want %d", tc.points, tc.minor, got, err, tc.want)
		}
	}
	for _, m := range []Money{New("USD", math.MaxInt64), New("USD", math.MinInt64)} {
		if _, err := m.BasisPoints(20_000); !errors.Is(err, ErrOverflow) {
			t.Errorf("%v: got %v, want overflow", m, err)
		}
	}
}

func TestString(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		m    Money
		want string
	}{
		{New("USD", 1299), "USD 12.99"},
		{New("USD", -5), "USD -0.05"},
		{New("JPY", 500), "JPY 500"},
		{New("KWD", 1), "KWD 0.001"},
		{New("EUR", 0), "EUR 0.00"},
	} {
		if got := tc.m.String(); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}
