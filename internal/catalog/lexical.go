package catalog

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const (
	// maxWords is how many different words of a query count; a question in two
	// sentences has fewer.
	maxWords = 32
	// minWordSimilarity is how alike (0 to 1, pg_trgm's word_similarity) a word of a
	// book must be to one that no book has. Two letters that changed places in a word
	// of five leave 0.33; in long words they matter less, see lexicalSQL.
	minWordSimilarity = "0.3"
)

// lexicalSQL ranks books by the words of the query, none of which must occur.
//
// A word that some book has counts as in BM25: more the rarer it is (the inverse
// document frequency of Lucene), and with a rank that saturates. ts_rank_cd of a
// single word is the sum of the weights of its places (A 1, B 0.4, C 0.2, D 0.1), and
// normalization 32 makes it rank/(rank+1). A word that no book has is taken for a
// misspelt one of a title or an author's name and counts by its likeness. So does the
// query as a whole, for titles that are nearly right.
//
// $1 is the words, $2 the query; both are folded.
const lexicalSQL = `
	WITH shop AS MATERIALIZED (
		SELECT count(*)::float8 AS books FROM book WHERE archived_at IS NULL
	), word AS MATERIALIZED (
		SELECT word FROM unnest($1::text[]) AS word
		WHERE ts_lexize('english_stem', word) <> '{}' -- no stop word
	), stem AS MATERIALIZED (
		SELECT DISTINCT word, ('''' || stem || '''')::tsquery AS stem
		FROM word,
			unnest('{english_stem,spanish_stem,french_stem,german_stem}'::regdictionary[]) AS language,
			unnest(ts_lexize(language, word)) AS stem
	), weight AS MATERIALIZED (
		SELECT word, stem, ln(1 + (books - n + 0.5) / (n + 0.5)) AS idf
		FROM shop, (SELECT word, stem, (SELECT count(*) FROM book WHERE archived_at IS NULL AND document @@ stem) AS n FROM stem) AS known
		WHERE n > 0
	), found AS (
		SELECT b.id, w.word, max(w.idf * ts_rank_cd('{0.1,0.2,0.4,1}', b.document, w.stem, 32)) AS score
		FROM weight w JOIN book b ON b.document @@ w.stem
		GROUP BY b.id, w.word
		UNION ALL
		SELECT b.id, w.word, ln(1 + books) * 0.5 * word_similarity(w.word, b.search_text) ^ 2
		FROM shop, word w JOIN book b ON b.search_text %> w.word
		WHERE length(w.word) > 3 AND w.word NOT IN (SELECT word FROM weight)
			AND (length(w.word) < 7 OR word_similarity(w.word, b.search_text) >= 0.45)
		UNION ALL
		SELECT b.id, '', ln(1 + books) * word_similarity($2, b.search_text) ^ 3
		FROM shop, book b
		WHERE b.search_text %> $2 AND EXISTS (SELECT FROM word)
			AND word_similarity($2, b.search_text) >= 0.6 -- pg_trgm's own measure of alike
	)
	SELECT b.id
	FROM (SELECT id, sum(score) AS score FROM found GROUP BY id) AS ranked JOIN ` + bookTables + ` ON b.id = ranked.id
	WHERE b.archived_at IS NULL`

// lexical returns up to limit books on sale that the filter lets through, best first.
func (s *Store) lexical(ctx context.Context, text string, f Filter, limit int) ([]uuid.UUID, error) {
	folded := fold(text)
	words := distinct(strings.Fields(folded))
	q := query{args: []any{words[:min(len(words), maxWords)], folded}}
	q.match(f)
	sql := lexicalSQL + q.where.String() + ` ORDER BY ranked.score DESC, b.id LIMIT ` + q.arg(limit)

	// One implicit transaction, for which the setting holds.
	batch := &pgx.Batch{}
	batch.Queue(`SELECT set_config('pg_trgm.word_similarity_threshold', $1, true)`, minWordSimilarity)
	var ids []uuid.UUID
	batch.Queue(sql, q.args...).Query(func(rows pgx.Rows) (err error) {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	})
	if err := s.db.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("search words: %w", err)
	}
	return ids, nil
}

func distinct(words []string) []string {
	var all []string
	for _, word := range words {
		if !slices.Contains(all, word) {
			all = append(all, word)
		}
	}
	return all
}

// exact returns the books on sale that the filter lets through and whose very ISBN
// or title the query is, the latter also together with an author or the subtitle.
// Those of the title alone come first, then the better rated ones. isbn reports
// whether the query is an ISBN, which means no other book.
func (s *Store) exact(ctx context.Context, text string, f Filter) (books []Book, isbn bool, err error) {
	var q query
	isbn13, isbn := parseISBN(text)
	folded := fold(text)
	if isbn {
		q.and(`b.isbn13 = ?`, isbn13)
	} else {
		q.and(`b.title_key = ANY (?)`, titlesWithin(folded))
	}
	q.match(f)
	rows, err := s.db.Query(ctx, `SELECT `+bookColumns+` FROM `+bookTables+`
		WHERE b.archived_at IS NULL`+q.where.String()+` ORDER BY coalesce(r.score, 0) DESC, b.id`, q.args...)
	if err != nil {
		return nil, isbn, fmt.Errorf("search titles: %w", err)
	}
	books, err = pgx.CollectRows(rows, scanBook)
	if err != nil {
		return nil, isbn, fmt.Errorf("search titles: %w", err)
	}
	if isbn {
		return books, true, nil
	}
	books = slices.DeleteFunc(books, func(b Book) bool { return !named(b, folded) })
	slices.SortStableFunc(books, func(a, b Book) int {
		return cmp.Compare(len(fold(b.Title)), len(fold(a.Title))) // the more of the query is title, the better
	})
	return books, false, nil
}

// maxTitleWords bounds what is tried as a title.
const maxTitleWords = 40

// titlesWithin returns the keys of the titles that a query may begin or end with.
func titlesWithin(folded string) []string {
	words := strings.Fields(folded)
	if len(words) > maxTitleWords {
		return []string{}
	}
	var keys []string
	for i := range words {
		keys = append(keys, titleKey(strings.Join(words[:i+1], " ")), titleKey(strings.Join(words[i:], " ")))
	}
	return distinct(keys)
}

// named reports whether a folded query is a book's title, alone or with its
// subtitle, or an author's full or last name.
func named(b Book, query string) bool {
	title := fold(b.Title)
	if query == title {
		return true
	}
	rest, atStart := strings.CutPrefix(query, title+" ")
	if !atStart {
		var atEnd bool
		if rest, atEnd = strings.CutSuffix(query, " "+title); !atEnd {
			return false
		}
	}
	if rest == fold(b.Subtitle) {
		return true
	}
	for _, word := range []string{"by ", "von ", "de ", "par "} {
		rest = strings.TrimPrefix(rest, word)
	}
	authors := authorKeys(b.Authors)
	if rest == strings.Join(authors, " ") || rest == strings.Join(authors, " and ") {
		return true
	}
	for _, author := range authors {
		if rest == author || rest == author[strings.LastIndexByte(author, ' ')+1:] {
			return true
		}
	}
	return false
}
