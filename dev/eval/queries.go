package eval

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
)

//go:embed queries.json
var queriesJSON []byte

// Stratum is a kind of query.
type Stratum string

// The strata.
const (
	Exact        Stratum = "exact"        // a title or ISBN, as people type it: one book is meant
	Author       Stratum = "author"       // a name
	Typo         Stratum = "typo"         // a title or name with mistakes
	Theme        Stratum = "theme"        // what a book is about, in other words than its own
	Constraint   Stratum = "constraint"   // words and filters
	LikeThis     Stratum = "like-this"    // another book is named; that book itself is no answer
	Unanswerable Stratum = "unanswerable" // nothing in the catalogue fits
)

// Strata are all of them, in the order of the table.
var Strata = []Stratum{Exact, Author, Typo, Theme, LikeThis, Constraint, Unanswerable}

// The grades of relevance.
const (
	Related = 1
	Good    = 2
	Perfect = 3
)

// Query is what somebody looks for, and which books of the seed catalogue fit. The
// labels were written by hand from the catalogue's text and from what the books are
// known for, before any search had run, and are never changed to suit one.
type Query struct {
	ID      string  `json:"id"`
	Stratum Stratum `json:"stratum"`
	Text    string  `json:"query"`
	Filter  Filter  `json:"filter"`
	// Relevant holds the grade of each book that fits, by ISBN-13. All others are
	// irrelevant.
	Relevant map[string]int `json:"relevant"`
	// Question asks the bookseller for it; of unanswerable queries only.
	Question string `json:"question"`
}

// Filter is that of a search; its zero value takes every book.
type Filter struct {
	Category      string `json:"category"`
	Author        string `json:"author"`
	Language      string `json:"language"`
	MinPriceMinor int64  `json:"min_price_minor"`
	MaxPriceMinor int64  `json:"max_price_minor"`
	InStock       bool   `json:"in_stock"`
}

// Queries returns the labelled queries, by stratum.
func Queries() ([]Query, error) {
	var queries []Query
	if err := decode(queriesJSON, &queries); err != nil {
		return nil, fmt.Errorf("read queries: %w", err)
	}
	return queries, nil
}

//go:embed questions.json
var questionsJSON []byte

// Question is one for the bookseller that the catalogue answers.
type Question struct {
	ID    string   `json:"id"`
	Text  string   `json:"question"`
	About []string `json:"about"` // ISBN-13 of the books that it is about, at least one
}

// Questions returns the questions that have an answer.
func Questions() ([]Question, error) {
	var questions []Question
	if err := decode(questionsJSON, &questions); err != nil {
		return nil, fmt.Errorf("read questions: %w", err)
	}
	return questions, nil
}

// decode refuses unknown fields, so that a misspelt one is noticed.
func decode(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}
