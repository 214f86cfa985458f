// Package eval measures how well the shop finds books, and how truthfully the
// bookseller speaks of them, on labelled queries over the seed catalogue.
package eval
