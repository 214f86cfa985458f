package catalog

import (
	"slices"
	"strings"

	"bookworm/internal/vector"
)

// documentVersion is part of a collection's name: another one makes a new index. It
// grows when what is indexed of a book changes: its text, its tokens or its payload.
const documentVersion = 1

// The payload fields of a book in the index.
const (
	fieldCategory = "category"
	fieldAuthor   = "author" // folded names
	fieldLanguage = "language"
	fieldPrice    = "price_minor"
	fieldInStock  = "in_stock"
	fieldScore    = "score"
	fieldArchived = "archived"
	fieldWork     = "work"
	fieldVersion  = "version"
	fieldRating   = "rating_version"
)

// indexes are the fields that filters ask for.
var indexes = map[string]vector.IndexKind{
	fieldCategory: vector.IndexKeyword, fieldAuthor: vector.IndexKeyword, fieldLanguage: vector.IndexKeyword,
	fieldPrice: vector.IndexInteger, fieldInStock: vector.IndexBool, fieldScore: vector.IndexFloat,
	fieldArchived: vector.IndexBool, fieldWork: vector.IndexKeyword,
}

// payload is what filters and the drift check read.
func payload(b Book) map[string]any {
	return map[string]any{
		fieldCategory: b.Categories, fieldAuthor: authorKeys(b.Authors), fieldLanguage: strings.ToLower(b.Language),
		fieldPrice: b.Price.Minor, fieldInStock: b.Available > 0, fieldScore: b.Rating.Score, fieldArchived: b.Archived,
		fieldWork: work(b), fieldVersion: b.Version, fieldRating: b.Rating.Version,
	}
}

// current reports whether a payload is that of the book as it is.
func current(payload map[string]any, b Book) bool {
	return payload[fieldVersion] == b.Version && payload[fieldRating] == b.Rating.Version && payload[fieldInStock] == (b.Available > 0)
}

// work names what all editions of a book have in common: title and first author.
func work(b Book) string {
	key := titleKey(b.Title)
	if len(b.Authors) > 0 {
		key += "/" + fold(b.Authors[0])
	}
	return key
}

// documentText is what the embedding model reads of a book.
func documentText(b Book) string {
	var text strings.Builder
	text.WriteString(b.Title)
	if b.Subtitle != "" {
		text.WriteString(": " + b.Subtitle)
	}
	if len(b.Authors) > 0 {
		text.WriteString("\nby " + strings.Join(b.Authors, ", "))
	}
	if len(b.Categories) > 0 {
		text.WriteString("\n" + strings.ReplaceAll(strings.Join(b.Categories, ", "), "-", " "))
	}
	if b.Description != "" {
		text.WriteString("\n" + b.Description)
	}
	return text.String()
}

// documentTokens are a book's words for BM25: as English, because the shop describes
// in English, and for a book in another language also as that language.
func documentTokens(b Book) []string { return tokens(documentText(b), b.Language) }

// queryTokens are a query's words in every language the shop stems.
func queryTokens(text string) []string { return tokens(text, "es", "fr", "de") }

// tokens returns the words of a text as English ones, and beside them those that
// come out differently in the other languages. A stop word of English is none of
// theirs: in a Spanish text it would pass for a rare word.
func tokens(text string, languages ...string) []string {
	var all []string
	for word := range strings.FieldsSeq(text) {
		english := vector.Tokens(word, "en")
		all = append(all, english...)
		if len(english) == 0 {
			continue
		}
		seen := english
		for _, language := range languages {
			for _, token := range vector.Tokens(word, language) {
				if !slices.Contains(seen, token) {
					seen = append(slices.Clip(seen), token)
					all = append(all, token)
				}
			}
		}
	}
	return all
}
