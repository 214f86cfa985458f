package ordering

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestPurchasesAreBooksOfOrdersThatStand(t *testing.T) {
	t.Parallel()
	s := setup(t)
	place := func(subject, key string, at time.Time, books []string, steps ...Status) {
		t.Helper()
		o := order(t, key)
		o.ID, o.Subject, o.CreatedAt, o.Lines = ID(subject, key), subject, at, nil
		for _, book := range books {
			o.Lines = append(o.Lines, Line{BookID: book, Title: "T", ISBN13: "9780000000001", Quantity: 2, UnitPrice: usd(999)})
		}
		create(t, s, o)
		for _, step := range steps {
			if err := s.Step(t.Context(), o.ID, step, "", at); err != nil {
				t.Fatal(err)
			}
		}
	}
	a, b, c, d, e := uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString()
	place("alice", "1", noon, []string{a, b}, Confirmed, Shipped)
	place("alice", "2", noon.Add(time.Hour), []string{b, c}, Confirmed)
	place("alice", "3", noon.Add(2*time.Hour), []string{d}, Confirmed, Cancelled)
	place("alice", "4", noon.Add(3*time.Hour), []string{e})
	place("alice", "5", noon.Add(4*time.Hour), []string{e}, PaymentFailed)
	place("bob", "1", noon, []string{d, e}, Confirmed)

	bc := []string{b, c}
	slices.Sort(bc) // equal in time
	for _, test := range []struct {
		name    string
		subject string
		books   []string
		limit   int
		want    []string
	}{
		{"all", "alice", nil, 10, append(slices.Clone(bc), a)},
		{"the latest", "alice", nil, 2, bc},
		{"one of them", "alice", []string{a, d}, 10, []string{a}},
		{"none of them", "alice", []string{d, e}, 10, nil},
		{"somebody else", "carol", nil, 10, nil},
	} {
		got, err := s.Purchases(t.Context(), test.subject, test.books, test.limit)
		if err != nil {
			t.Fatal(err)
		}
		var books []string
		for _, p := range got {
			books = append(books, p.BookID)
		}
		if !slices.Equal(books, test.want) {
			t.Errorf("%s: %v, want %v", test.name, books, test.want)
		}
	}
	got, err := s.Purchases(t.Context(), "alice", []string{b}, 10)
	if err != nil || fmt.Sprint(got) != fmt.Sprint([]Purchase{{b, noon.Add(time.Hour)}}) {
		t.Errorf("bought twice: %v, %v", got, err)
	}
}
