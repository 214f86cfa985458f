// Package seed holds the catalogue a new shop starts with: real books with
// their real ISBNs, described in our own words, checked in as data.
package seed

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

//go:embed books.json
var booksJSON []byte

// Categories are the slugs a book may be filed under, in alphabetical order.
var Categories = []string{
	"art",
	"biography",
	"business",
	"children",
	"classics",
	"computing",
	"cookery",
	"economics",
	"fantasy",
	"fiction",
	"graphic-novels",
	"historical-fiction",
	"history",
	"horror",
	"mystery",
	"philosophy",
	"poetry",
	"psychology",
	"romance",
	"science",
	"science-fiction",
	"self-help",
	"thriller",
	"travel",
	"young-adult",
}

// Book is one edition of a book as the shop sells it.
type Book struct {
	// ISBN13 is thirteen digits without hyphens.
	ISBN13 string `json:"isbn13"`
	Title  string `json:"title"`
	// Subtitle is empty when the book has none.
	Subtitle string `json:"subtitle"`
	// Authors includes translators and illustrators whom the edition credits.
	Authors []string `json:"authors"`
	// Year is when the work was first published, not this edition; for a
	// work of antiquity it is the year of the translation.
	Year int `json:"year"`
	// Language is the BCP 47 tag of the language the edition is printed in.
	Language string `json:"language"`
	Pages    int    `json:"pages"`
	// Categories are one to three of the package's Categories, the closest first.
	Categories []string `json:"categories"`
	Publisher  string   `json:"publisher"`
	// Description is plain English text, whatever the edition's language.
	Description string `json:"description"`
	// PriceMinor is the price in the currency's minor unit, such as cents.
	PriceMinor int64 `json:"price_minor"`
	// Currency is the ISO 4217 code of the price.
	Currency string `json:"currency"`
	// Stock is the number of copies on hand when the shop opens.
	Stock int `json:"stock"`
}

// Books returns the seed catalogue sorted by title. Each call decodes it
// anew, so that the caller may change what it gets. It fails on an unknown
// field, and on a field that a shop could not sell by; the error names the
// book and the field.
func Books() ([]Book, error) {
	books, err := decode(booksJSON)
	if err != nil {
		return nil, fmt.Errorf("read seed catalogue: %w", err)
	}
	return books, nil
}

// ValidISBN13 reports whether s is thirteen digits that begin with 978 or 979
// and end with the right check digit. Hyphens are not accepted.
func ValidISBN13(s string) bool {
	if len(s) != 13 || !strings.HasPrefix(s, "978") && !strings.HasPrefix(s, "979") {
		return false
	}
	sum := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		weight := 1
		if i%2 == 1 {
			weight = 3
		}
		sum += weight * int(s[i]-'0')
	}
	return sum%10 == 0
}

func decode(data []byte) ([]Book, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var books []Book
	if err := dec.Decode(&books); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more data after the list of books")
	}

	seen := make(map[string]string, len(books))
	for i, b := range books {
		if err := b.validate(); err != nil {
			return nil, fmt.Errorf("book %d %q: %w", i, b.Title, err)
		}
		if first, ok := seen[b.ISBN13]; ok {
			return nil, fmt.Errorf("book %d %q: isbn13 %s is also that of %q", i, b.Title, b.ISBN13, first)
		}
		seen[b.ISBN13] = b.Title
	}
	return books, nil
}

func (b *Book) validate() error {
	if !ValidISBN13(b.ISBN13) {
		return fmt.Errorf("isbn13 %q is not an ISBN-13", b.ISBN13)
	}
	for _, f := range []struct{ name, value string }{
		{"title", b.Title},
		{"language", b.Language},
		{"publisher", b.Publisher},
		{"description", b.Description},
	} {
		if err := checkText(f.name, f.value); err != nil {
			return err
		}
	}
	if b.Subtitle != "" {
		if err := checkText("subtitle", b.Subtitle); err != nil {
			return err
		}
	}
	if len(b.Authors) == 0 {
		return errors.New("authors are missing")
	}
	for _, a := range b.Authors {
		if err := checkText("authors", a); err != nil {
			return err
		}
	}
	if n := len(b.Categories); n < 1 || n > 3 {
		return fmt.Errorf("categories number %d, not 1 to 3", n)
	}
	for i, c := range b.Categories {
		if !slices.Contains(Categories, c) {
			return fmt.Errorf("categories has the unknown %q", c)
		}
		if slices.Contains(b.Categories[:i], c) {
			return fmt.Errorf("categories has %q twice", c)
		}
	}
	switch {
	case b.Year <= 0:
		return fmt.Errorf("year %d is not positive", b.Year)
	case b.Pages <= 0:
		return fmt.Errorf("pages %d is not positive", b.Pages)
	case b.PriceMinor <= 0:
		return fmt.Errorf("price_minor %d is not positive", b.PriceMinor)
	case len(b.Currency) != 3 || strings.Trim(b.Currency, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "":
		return fmt.Errorf("currency %q is not an ISO 4217 code", b.Currency)
	case b.Stock < 0:
		return fmt.Errorf("stock %d is negative", b.Stock)
	}
	return nil
}

func checkText(field, s string) error {
	switch {
	case strings.TrimSpace(s) == "":
		return fmt.Errorf("%s is missing", field)
	case strings.TrimSpace(s) != s:
		return fmt.Errorf("%s has space around it", field)
	case !utf8.ValidString(s) || strings.ContainsRune(s, utf8.RuneError):
		return fmt.Errorf("%s is not clean UTF-8", field)
	}
	return nil
}
