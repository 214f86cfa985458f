package rating

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"bookworm/internal/postgres"
)

// When a summary is written: at minSummarized published reviews, and again when as
// many changes as refreshShare of the reviews it knew, but at least minChanges,
// have happened. An edit of a published review hides and publishes it: two changes.
const (
	minSummarized = 3
	minChanges    = 3
	refreshShare  = 0.2
)

// Summary is what a model made of a book's reviews.
type Summary struct {
	BookID    uuid.UUID
	Text      string      // [1] is the first source; empty when nothing could be made
	Sources   []uuid.UUID // reviews
	Reviews   int32       // published when it was written
	Rating    int64       // version of the book's rating then
	CreatedAt time.Time
}

// Summary returns a book's summary; ok is false when there is none to show.
func (s *Store) Summary(ctx context.Context, book uuid.UUID) (summary Summary, ok bool, err error) {
	summary.BookID = book
	err = s.db.QueryRow(ctx, `
		select text, source_ids, review_count, rating_version, created_at from summary where book_id = $1 and text <> ''`, book).
		Scan(&summary.Text, &summary.Sources, &summary.Reviews, &summary.Rating, &summary.CreatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return Summary{}, false, nil
	}
	summary.CreatedAt = summary.CreatedAt.UTC()
	return summary, err == nil, wrap("read summary", err)
}

// SummaryOwed reports whether enough is new for another summary of a book.
func (s *Store) SummaryOwed(ctx context.Context, book uuid.UUID) (owed bool, err error) {
	err = s.db.QueryRow(ctx, `
		select r.n1 + r.n2 + r.n3 + r.n4 + r.n5 >= $2
			and (s.book_id is null or r.version - s.rating_version >= greatest($3, s.review_count * $4::float8))
		from book_rating r left join summary s using (book_id)
		where book_id = $1`, book, minSummarized, minChanges, refreshShare).Scan(&owed)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return owed, wrap("ask whether a summary is owed", err)
}

// SummarySources returns the published reviews with words that a summary should
// rest on, the n most helpful and the n newest, and how the book is rated.
func (s *Store) SummarySources(ctx context.Context, book uuid.UUID, n int) ([]Review, Rating, error) {
	// The rating first: a review that is published in between makes the next summary
	// come sooner.
	rating, err := s.Rating(ctx, book)
	if err != nil {
		return nil, Rating{}, err
	}
	rows, err := s.db.Query(ctx, `
		with helpful as (
			select id from review where book_id = $1 and status = 'PUBLISHED' and text <> ''
			order by helpful_count desc, created_at desc, id desc limit $2
		), newest as (
			select id from review where book_id = $1 and status = 'PUBLISHED' and text <> ''
			order by created_at desc, id desc limit $2
		)
		select `+reviewColumns+` from review
		where id in (select id from helpful union select id from newest)
		order by helpful_count desc, created_at desc, id desc`, book, n)
	if err != nil {
		return nil, Rating{}, fmt.Errorf("read reviews to summarize: %w", err)
	}
	reviews, err := pgx.CollectRows(rows, scanReview)
	return reviews, rating, wrap("read reviews to summarize", err)
}

// StoreSummary keeps a summary, unless one of its sources has changed or vanished
// since it was read; then it reports false. From here on the summary vanishes with
// each of its sources.
func (s *Store) StoreSummary(ctx context.Context, summary Summary, sources []Review) (stored bool, err error) {
	ids, versions := make([]uuid.UUID, len(sources)), make([]int64, len(sources))
	for i, source := range sources {
		ids[i], versions[i] = source.ID, source.Version
	}
	err = postgres.Transact(ctx, s.db, func(tx pgx.Tx) error {
		stored = false
		rows, err := tx.Query(ctx, `
			select review.id from review join unnest($1::uuid[], $2::bigint[]) as source (id, version)
				on review.id = source.id and review.version = source.version
			where status = 'PUBLISHED' order by review.id for share of review`, ids, versions)
		if err != nil {
			return err
		}
		still, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil || len(still) < len(sources) {
			return err
		}
		done, err := tx.Exec(ctx, `
			insert into summary (book_id, text, source_ids, review_count, rating_version) values ($1, $2, $3, $4, $5)
			on conflict (book_id) do update set text = excluded.text, source_ids = excluded.source_ids,
				review_count = excluded.review_count, rating_version = excluded.rating_version, created_at = now()
			where summary.rating_version <= excluded.rating_version`,
			summary.BookID, summary.Text, ids, summary.Reviews, summary.Rating)
		stored = done.RowsAffected() == 1
		return err
	})
	return stored, wrap("store summary", err)
}

// maxSummary bounds a summary's length, in characters.
const maxSummary = 1500

// A sentence ends with its mark of punctuation, a closing quote, and what it cites.
var (
	sentence = regexp.MustCompile(`(?s)^.*?[.!?…。！？]+["'”’»)]*((?:\s*\[[^\[\]]*\])+|\s+|$)`)
	citation = regexp.MustCompile(`\[([^\[\]]*)\]`)
	// abbreviation has points that end no sentence: titles, and initials such as J.R.R.
	abbreviation = regexp.MustCompile(`\b(?:(?:Mr|Mrs|Ms|Dr|St|Prof)\.|(?:\p{Lu}\.){2,})`)
)

// Cite checks what a model wrote about reviews that it was given as 1 to given:
// every sentence must cite at least one of them as [n], and nothing else may be in
// brackets. It returns the text with the citations numbered anew, in the order in
// which they occur, and the given numbers that they had, so that used[0] is [1].
func Cite(text string, given int) (cited string, used []int, err error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return "", nil, errors.New("it is empty")
	case !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' }):
		return "", nil, errors.New("it has control characters")
	case utf8.RuneCountInString(text) > maxSummary:
		return "", nil, fmt.Errorf("it is longer than %d characters", maxSummary)
	}
	rest := abbreviation.ReplaceAllStringFunc(text, func(s string) string { return strings.ReplaceAll(s, ".", "") })
	for rest != "" {
		next := sentence.FindString(rest)
		if next == "" { // no punctuation at the end
			next = rest
		}
		cites, says := citation.MatchString(next), strings.ContainsFunc(citation.ReplaceAllString(next, ""), letterOrDigit)
		if cites != says { // neither is punctuation that was left over, as in "A gem! [1]."
			return "", nil, errors.New("a sentence cites no review, or cites without saying anything")
		}
		rest = strings.TrimSpace(rest[len(next):])
	}
	number := make(map[int]int)
	cited = citation.ReplaceAllStringFunc(text, func(mark string) string {
		n, convErr := strconv.Atoi(mark[1 : len(mark)-1])
		if convErr != nil || n < 1 || n > given {
			err = errors.New("it cites what is no review")
			return mark
		}
		if number[n] == 0 {
			used = append(used, n)
			number[n] = len(used)
		}
		return fmt.Sprintf("[%d]", number[n])
	})
	if len(used) == 0 && err == nil {
		err = errors.New("it says nothing")
	}
	if err == nil && strings.ContainsAny(citation.ReplaceAllString(cited, ""), "[]") {
		err = errors.New("it has a bracket without its other half")
	}
	if err != nil {
		return "", nil, err
	}
	return cited, used, nil
}
