package rating

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/fault"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func migrate(ctx context.Context, adminURL string) error {
	return postgres.Migrate(ctx, adminURL, Schema)
}

// fixture is a store over a database of its own.
type fixture struct {
	*Store

	t    *testing.T
	book uuid.UUID
}

func setup(t *testing.T) *fixture {
	t.Helper()
	pool, err := postgres.Open(t.Context(), pgtest.DB(t, migrate), Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &fixture{NewStore(pool), t, uuid.New()}
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) ask(id uuid.UUID, what any) uuid.UUID {
	f.t.Helper()
	request, err := f.Ask(f.t.Context(), id, what)
	f.must(err)
	return request
}

// write submits a review of the fixture's book.
func (f *fixture) write(subject string, stars int32, text string) Review {
	f.t.Helper()
	return f.writeOf(f.book, subject, stars, text)
}

func (f *fixture) writeOf(book uuid.UUID, subject string, stars int32, text string) Review {
	f.t.Helper()
	id := ReviewID(book, subject)
	request := f.ask(id, Submission{BookID: book, Subject: subject, Stars: stars, Title: "Title", Text: text})
	review, _, err := f.Submit(f.t.Context(), id, request, true)
	f.must(err)
	return review
}

// publish submits a review and lets moderation pass it.
func (f *fixture) publish(subject string, stars int32, text string) Review {
	f.t.Helper()
	review := f.write(subject, stars, text)
	f.must(f.Settle(f.t.Context(), review.ID, review.Version, Published, ""))
	return f.get(review.ID)
}

func (f *fixture) get(id uuid.UUID) Review {
	f.t.Helper()
	review, err := f.Get(f.t.Context(), id)
	f.must(err)
	return review
}

func (f *fixture) decide(r Review, publish bool) error {
	f.t.Helper()
	_, err := f.Decide(f.t.Context(), r.ID, f.ask(r.ID, Decision{Publish: publish, Version: r.Version, Reason: "because"}))
	return err
}

func (f *fixture) rating() Rating {
	f.t.Helper()
	r, err := f.Rating(f.t.Context(), f.book)
	f.must(err)
	return r
}

// want checks status and the book's histogram and version.
func (f *fixture) want(id uuid.UUID, status Status, h Histogram, version int64) {
	f.t.Helper()
	if got := f.get(id).Status; got != status {
		f.t.Errorf("review is %s, want %s", got, status)
	}
	if got := f.rating(); got.Histogram != h || got.Version != version {
		f.t.Errorf("rating %v in version %d, want %v in %d", got.Histogram, got.Version, h, version)
	}
}

func TestOneReviewForEachShopperAndBook(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var id uuid.UUID
	for range 10 { // the first ones of a book race
		f.book = uuid.New()
		id = ReviewID(f.book, "alice")
		var requests []uuid.UUID
		for i := range 8 {
			requests = append(requests, f.ask(id, Submission{BookID: f.book, Subject: "alice", Stars: int32(i%5 + 1), Title: "T", Text: fmt.Sprint(i)}))
		}
		var group errgroup.Group
		for _, request := range requests {
			group.Go(func() error {
				review, _, err := f.Submit(t.Context(), id, request, true)
				if err == nil && (review.ID != id || review.Subject != "alice") {
					err = fmt.Errorf("got %v", review)
				}
				return err
			})
		}
		f.must(group.Wait())
	}
	f.write("bob", 1, "")
	f.writeOf(uuid.New(), "alice", 1, "")
	var n int
	f.must(f.db.QueryRow(t.Context(), `select count(*) from review where book_id = $1 and subject = 'alice'`, f.book).Scan(&n))
	if n != 1 {
		t.Errorf("%d reviews of one book by one shopper", n)
	}
	// Also when the id is not the derived one.
	_, err := f.db.Exec(t.Context(), `insert into review (id, book_id, subject, stars, title, text, version, status, verified_purchase, request_id)
		select gen_random_uuid(), book_id, subject, stars, title, text, version, status, true, request_id from review where id = $1`, id)
	if err == nil {
		t.Error("a second review of one book by one shopper could be inserted")
	}
}

func TestSameContentHasNoEffect(t *testing.T) {
	t.Parallel()
	f := setup(t)
	first := f.publish("alice", 4, "Good.")
	old := first.Version - 1
	again := f.ask(first.ID, Submission{BookID: f.book, Subject: "alice", Stars: 4, Title: "Title", Text: "Good.", Seen: &old})
	got, changed, err := f.Submit(t.Context(), first.ID, again, true)
	if err != nil || changed || got != first {
		t.Errorf("got %+v, changed %t, %v", got, changed, err)
	}
	f.want(first.ID, Published, Histogram{0, 0, 0, 1, 0}, 1)
}

func TestSubmitIsIdempotentByRequest(t *testing.T) {
	t.Parallel()
	f := setup(t)
	id := ReviewID(f.book, "alice")
	request := f.ask(id, Submission{BookID: f.book, Subject: "alice", Stars: 4, Title: "T"})
	first, changed, err := f.Submit(t.Context(), id, request, true)
	if err != nil || !changed || first.Status != Pending || !first.VerifiedPurchase {
		t.Fatalf("got %+v, changed %t, %v", first, changed, err)
	}
	again, changed, err := f.Submit(t.Context(), id, request, true)
	if err != nil || changed || again != first {
		t.Errorf("got %+v, changed %t, %v", again, changed, err)
	}
	f.write("alice", 1, "")
	if _, _, err := f.Submit(t.Context(), id, request, true); !fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("a request that another has replaced: %v", err)
	}
	if _, _, err := f.Submit(t.Context(), id, uuid.New(), true); !fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("a request that never was: %v", err)
	}
}

func TestConditionalChanges(t *testing.T) {
	t.Parallel()
	f := setup(t)
	review := f.write("alice", 4, "Good.")
	submit := func(text string, seen int64) (Review, error) {
		request := f.ask(review.ID, Submission{BookID: f.book, Subject: "alice", Stars: 4, Title: "Title", Text: text, Seen: &seen})
		got, _, err := f.Submit(t.Context(), review.ID, request, true)
		return got, err
	}
	edited, err := submit("Better.", review.Version)
	if err != nil || edited.Version <= review.Version || edited.CreatedAt != review.CreatedAt || !edited.UpdatedAt.After(review.UpdatedAt) {
		t.Errorf("got %+v, %v", edited, err)
	}
	_, err = submit("Best.", review.Version)
	if !fault.Is(err, fault.ReasonStaleVersion) || fault.As(err).Metadata["etag"] != edited.ETag() {
		t.Errorf("an edit of an old version: %v", err)
	}
	if _, err := f.Delete(t.Context(), review.ID, &review.Version); !fault.Is(err, fault.ReasonStaleVersion) {
		t.Errorf("a deletion of an old version: %v", err)
	}
	if f.get(review.ID).Text != "Better." {
		t.Error("a refused change took effect")
	}
	if found, err := f.Delete(t.Context(), review.ID, &edited.Version); err != nil || !found {
		t.Errorf("delete: %t, %v", found, err)
	}
	if found, err := f.Delete(t.Context(), review.ID, nil); err != nil || found {
		t.Errorf("delete again: %t, %v", found, err)
	}
	if _, err := submit("Back.", edited.Version); !fault.Is(err, fault.ReasonStaleVersion) {
		t.Errorf("an edit of what was deleted: %v", err)
	}
}

func TestModerationOfAnotherVersionHasNoEffect(t *testing.T) {
	t.Parallel()
	f := setup(t)
	first := f.write("alice", 4, "one")
	second := f.write("alice", 4, "two")
	f.must(f.Settle(t.Context(), first.ID, first.Version, Published, ""))
	f.want(first.ID, Pending, Histogram{}, 0)
	_, err := f.Delete(t.Context(), first.ID, nil)
	f.must(err)
	f.must(f.Settle(t.Context(), first.ID, second.Version, Published, ""))
	third := f.write("alice", 4, "three")
	f.must(f.Settle(t.Context(), first.ID, second.Version, Published, ""))
	f.must(f.Settle(t.Context(), first.ID, first.Version, Published, ""))
	f.want(first.ID, Pending, Histogram{}, 0)
	f.must(f.Settle(t.Context(), first.ID, third.Version, Rejected, "no"))
	// What is settled stays so, whatever comes late.
	f.must(f.Settle(t.Context(), first.ID, third.Version, Published, ""))
	f.want(first.ID, Rejected, Histogram{}, 0)
}

func TestDeletedReviewLeavesNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const secret = "zanzibar"
	review := f.publish("alice", 4, "I lived in "+secret+".")
	_, err := f.Vote(t.Context(), review.ID, "bob", true)
	f.must(err)
	_, _, err = f.Report(t.Context(), review.ID, "bob", Spam, secret)
	f.must(err)
	f.ask(review.ID, Submission{BookID: f.book, Subject: "alice", Stars: 1, Title: secret})
	stored, err := f.StoreSummary(t.Context(), Summary{BookID: f.book, Text: secret + " [1]", Reviews: 1, Rating: 1}, []Review{review})
	if err != nil || !stored {
		t.Fatalf("stored %t, %v", stored, err)
	}
	left := func() (rows []string) {
		for _, table := range []string{"review", "vote", "report", "request", "summary", "book_rating"} {
			found, err := f.db.Query(t.Context(), `select '`+table+`: ' || t::text from `+table+` t where t::text like '%zanzibar%' or t::text like '%alice%' or t::text like '%bob%'`)
			f.must(err)
			texts, err := pgx.CollectRows(found, pgx.RowTo[string])
			f.must(err)
			rows = append(rows, texts...)
		}
		return rows
	}
	if n := len(left()); n != 5 { // each table but the rating
		t.Fatalf("before: %d rows: %q", n, left())
	}
	_, err = f.Delete(t.Context(), review.ID, nil)
	f.must(err)
	if rows := left(); len(rows) > 0 {
		t.Errorf("left: %q", rows)
	}
}

func TestAggregateCountsEachChangeOnce(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := t.Context()
	a := f.write("alice", 5, "one")
	f.want(a.ID, Pending, Histogram{}, 0)
	for range 2 {
		f.must(f.Settle(ctx, a.ID, a.Version, Published, ""))
		f.want(a.ID, Published, Histogram{0, 0, 0, 0, 1}, 1)
	}
	b := f.publish("bob", 2, "")
	f.want(b.ID, Published, Histogram{0, 1, 0, 0, 1}, 2)
	// An edit hides, and counts its new stars once it is passed.
	a = f.write("alice", 3, "one")
	f.want(a.ID, Pending, Histogram{0, 1, 0, 0, 0}, 3)
	f.must(f.Settle(ctx, a.ID, a.Version, InQueue, "hm"))
	f.want(a.ID, InQueue, Histogram{0, 1, 0, 0, 0}, 3)
	for range 2 {
		f.must(f.decide(a, true))
		f.want(a.ID, Published, Histogram{0, 1, 1, 0, 0}, 4)
	}
	for range 2 {
		f.must(f.decide(a, false))
		f.want(a.ID, Rejected, Histogram{0, 1, 0, 0, 0}, 5)
	}
	if got := f.get(a.ID).Reason; got != "because" {
		t.Errorf("reason %q", got)
	}
	f.must(f.decide(a, true))
	f.want(a.ID, Published, Histogram{0, 1, 1, 0, 0}, 6)
	_, err := f.Delete(ctx, a.ID, nil)
	f.must(err)
	f.want(b.ID, Published, Histogram{0, 1, 0, 0, 0}, 7)
	_, err = f.Delete(ctx, a.ID, nil)
	f.must(err)
	f.want(b.ID, Published, Histogram{0, 1, 0, 0, 0}, 7)
	if got, want := f.rating().Score, Score(Histogram{0, 1}, 2); got != want {
		t.Errorf("score %f, want %f", got, want)
	}
}

func TestDecisionNeedsTheCurrentVersion(t *testing.T) {
	t.Parallel()
	f := setup(t)
	first := f.write("alice", 5, "one")
	f.write("alice", 5, "two")
	if err := f.decide(first, true); !fault.Is(err, fault.ReasonStaleVersion) {
		t.Errorf("got %v", err)
	}
	if err := f.decide(Review{ID: uuid.New(), Version: 1}, true); !fault.Is(err, fault.ReasonReviewNotFound) {
		t.Errorf("got %v", err)
	}
	current := f.get(first.ID)
	request := f.ask(first.ID, Decision{Publish: true, Version: current.Version})
	for i := range 2 {
		if changed, err := f.Decide(t.Context(), first.ID, request); err != nil || changed != (i == 0) {
			t.Errorf("try %d: changed %t, %v", i, changed, err)
		}
	}
	f.want(first.ID, Published, Histogram{0, 0, 0, 0, 1}, 1)
}

func TestVotes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	review := f.publish("alice", 4, "")
	var group errgroup.Group
	for i := range 30 {
		group.Go(func() error {
			_, err := f.Vote(t.Context(), review.ID, fmt.Sprintf("voter %d", i%10), true)
			return err
		})
	}
	f.must(group.Wait())
	for i, helpful := range []bool{true, false, false, true} {
		votes, err := f.Vote(t.Context(), review.ID, "voter 1", helpful)
		if want := int32(9); err != nil || (helpful && votes != want+1) || (!helpful && votes != want) {
			t.Errorf("vote %d: %d, %v", i, votes, err)
		}
	}
	if _, err := f.Vote(t.Context(), review.ID, "alice", true); !fault.Is(err, fault.ReasonOwnReview) {
		t.Errorf("own review: %v", err)
	}
	if _, err := f.Vote(t.Context(), uuid.New(), "bob", true); !fault.Is(err, fault.ReasonReviewNotFound) {
		t.Errorf("no review: %v", err)
	}
	f.must(f.decide(review, false))
	if _, err := f.Vote(t.Context(), review.ID, "bob", true); !fault.Is(err, fault.ReasonReviewNotFound) {
		t.Errorf("a review that is not shown: %v", err)
	}
	if got := f.get(review.ID).Helpful; got != 10 {
		t.Errorf("%d votes, want 10", got)
	}
}

func TestReportsHideAndAreSettled(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := t.Context()
	review := f.publish("alice", 4, "one")
	report := func(subject string, hides bool) {
		t.Helper()
		hide, _, err := f.Report(ctx, review.ID, subject, Spam, "about "+subject)
		if err != nil || hide != hides {
			t.Errorf("report of %s: hides %t, %v; want %t", subject, hide, err, hides)
		}
	}
	report("a", false)
	report("b", false)
	report("b", false)
	f.must(f.Hide(ctx, review.ID))
	f.want(review.ID, Published, Histogram{0, 0, 0, 1, 0}, 1)
	report("c", true)
	report("c", true) // the process may not have heard of it
	for range 2 {
		f.must(f.Hide(ctx, review.ID))
		f.want(review.ID, InQueue, Histogram{}, 2)
	}
	report("c", false)
	if _, _, err := f.Report(ctx, review.ID, "d", Spam, ""); !fault.Is(err, fault.ReasonReviewNotFound) {
		t.Errorf("a hidden review: %v", err)
	}
	if _, _, err := f.Report(ctx, review.ID, "alice", Spam, ""); !fault.Is(err, fault.ReasonOwnReview) {
		t.Errorf("own review: %v", err)
	}
	reports, err := f.Reports(ctx, []uuid.UUID{review.ID})
	if err != nil || len(reports[review.ID]) != 3 || reports[review.ID][0].Comment != "about a" {
		t.Errorf("reports %v, %v", reports, err)
	}

	// An edit does not launder it.
	edited := f.write("alice", 4, "two")
	f.must(f.Settle(ctx, edited.ID, edited.Version, Published, ""))
	f.want(edited.ID, InQueue, Histogram{}, 2)

	f.must(f.decide(edited, true))
	f.want(edited.ID, Published, Histogram{0, 0, 0, 1, 0}, 3)
	stands, found, err := f.Standing(ctx, edited.ID)
	if err != nil || !found || stands.Reported {
		t.Errorf("after the decision: %+v, %v", stands, err)
	}
	for _, subject := range []string{"a", "b", "c"} {
		report(subject, false)
	}
	// What was settled was this text, not the next one.
	edited = f.write("alice", 4, "three")
	f.must(f.Settle(ctx, edited.ID, edited.Version, Published, ""))
	report("a", false)
	report("b", false)
	report("c", true)
}

func TestCopied(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const text = "I could not put it down until the very last page."
	first := f.write("alice", 4, text)
	check := func(r Review, want bool) {
		t.Helper()
		if got, err := f.Copied(t.Context(), r); err != nil || got != want {
			t.Errorf("copied %t, %v; want %t", got, err, want)
		}
	}
	check(first, false)
	check(f.writeOf(uuid.New(), "alice", 5, "i could NOT put it down, until the very-last page!"), true)
	check(f.writeOf(uuid.New(), "bob", 5, text), false)
	f.writeOf(uuid.New(), "carol", 5, "Great book")
	check(f.writeOf(uuid.New(), "carol", 5, "Great book"), false)
}

func TestPagesAreCompleteUnderTies(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const n = 60
	for i := range n {
		r := f.write(fmt.Sprint("shopper ", i), int32(i%3+2), "")
		if i%10 == 9 { // not shown
			continue
		}
		f.must(f.Settle(t.Context(), r.ID, r.Version, Published, ""))
	}
	_, err := f.db.Exec(t.Context(), `
		update review set helpful_count = stars % 2, created_at = date_trunc('hour', now()) + (hashtext(subject) % 2) * interval '1 minute'`)
	f.must(err)
	f.writeOf(uuid.New(), "elsewhere", 5, "")
	for _, sort := range []Sort{SortHelpful, SortNewest, SortRatingDesc, SortRatingAsc} {
		for _, stars := range []int32{0, 3} {
			var all []Review
			token := ""
			for {
				reviews, next, err := f.List(t.Context(), f.book, sort, stars, 7, token)
				f.must(err)
				all = append(all, reviews...)
				if token = next; token == "" {
					break
				}
			}
			want := n - n/10
			if stars != 0 {
				want = 18
			}
			seen := make(map[uuid.UUID]bool)
			for _, r := range all {
				if seen[r.ID] || r.Status != Published || (stars != 0 && r.Stars != stars) {
					t.Errorf("%s %d: unexpected %+v", sort, stars, r)
				}
				seen[r.ID] = true
			}
			if len(seen) != want {
				t.Errorf("%s %d: %d reviews, want %d", sort, stars, len(seen), want)
			}
			if !slices.IsSortedFunc(all, func(a, b Review) int {
				if c := int(sorts[sort].key(b)) - int(sorts[sort].key(a)); c != 0 {
					return c
				}
				return b.CreatedAt.Compare(a.CreatedAt)
			}) {
				t.Errorf("%s %d is not in order", sort, stars)
			}
		}
	}
	_, token, err := f.List(t.Context(), f.book, SortHelpful, 0, 7, "")
	f.must(err)
	for name, err := range map[string]error{
		"another book":  second(f.List(t.Context(), uuid.New(), SortHelpful, 0, 7, token)),
		"another order": second(f.List(t.Context(), f.book, SortNewest, 0, 7, token)),
		"other stars":   second(f.List(t.Context(), f.book, SortHelpful, 1, 7, token)),
		"garbled":       second(f.List(t.Context(), f.book, SortHelpful, 0, 7, token[1:])),
		"the queue":     second(f.Queue(t.Context(), 7, token)),
	} {
		if !fault.Is(err, fault.ReasonPageTokenInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ []Review, _ string, err error) error { return err }

func TestQueuePagesAreCompleteUnderTies(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for i := range 23 {
		r := f.write(fmt.Sprint("shopper ", i), 3, "")
		f.must(f.Settle(t.Context(), r.ID, r.Version, InQueue, "hm"))
	}
	_, err := f.db.Exec(t.Context(), `update review set status_at = date_trunc('hour', now()) + (hashtext(subject) % 3) * interval '1 minute'`)
	f.must(err)
	oldest := f.write("first in line", 3, "")
	f.must(f.Settle(t.Context(), oldest.ID, oldest.Version, InQueue, "hm"))
	_, err = f.db.Exec(t.Context(), `update review set status_at = now() - interval '1 day' where id = $1`, oldest.ID)
	f.must(err)
	var ids []string
	token := ""
	for {
		reviews, next, err := f.Queue(t.Context(), 5, token)
		f.must(err)
		for _, r := range reviews {
			ids = append(ids, r.ID.String())
		}
		if token = next; token == "" {
			break
		}
	}
	if len(ids) == 0 || ids[0] != oldest.ID.String() {
		t.Error("the oldest is not the first")
	}
	slices.Sort(ids)
	if ids = slices.Compact(ids); len(ids) != 24 {
		t.Errorf("%d reviews, want 24", len(ids))
	}
}

func TestStarsBy(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var want []Stars
	for i := range 4 {
		r := f.writeOf(uuid.New(), "alice", int32(i+1), "")
		want = slices.Insert(want, 0, Stars{r.BookID, r.Stars})
	}
	f.write("bob", 1, "")
	got, err := f.StarsBy(t.Context(), "alice", 3)
	if err != nil || !slices.Equal(got, want[:3]) {
		t.Errorf("got %v, %v; want %v", got, err, want[:3])
	}
}

// TestRatingAggregateIsRebuiltEqual does what shoppers, moderation and operators
// do, at random, concurrently, twice and late, and counts afterwards.
func TestRatingAggregateIsRebuiltEqual(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := t.Context()
	books := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	shoppers := []string{"a", "b", "c", "d", "e"}
	var group errgroup.Group
	for worker := range 8 {
		group.Go(func() error {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for range 60 {
				book, subject := books[random.IntN(len(books))], shoppers[random.IntN(len(shoppers))]
				id := ReviewID(book, subject)
				review, err := f.Get(ctx, id)
				if err != nil && !fault.Is(err, fault.ReasonReviewNotFound) {
					return err
				}
				err = nil
				switch action := random.IntN(8); action {
				case 0, 1, 2:
					var request uuid.UUID
					if request, err = f.Ask(ctx, id, Submission{BookID: book, Subject: subject, Stars: random.Int32N(5) + 1, Title: "T"}); err != nil {
						return err
					}
					for range random.IntN(2) + 1 {
						_, _, err = f.Submit(ctx, id, request, true)
					}
				case 3, 4:
					for range random.IntN(2) + 1 {
						err = f.Settle(ctx, id, review.Version, []Status{Published, Published, Rejected, InQueue}[random.IntN(4)], "")
					}
				case 5:
					_, err = f.Delete(ctx, id, nil)
				case 6:
					var request uuid.UUID
					if request, err = f.Ask(ctx, id, Decision{Publish: random.IntN(3) > 0, Version: review.Version}); err != nil {
						return err
					}
					for range random.IntN(2) + 1 {
						_, err = f.Decide(ctx, id, request)
					}
				case 7:
					if _, err = f.Vote(ctx, id, "voter", random.IntN(2) == 0); err == nil {
						_, _, err = f.Report(ctx, id, fmt.Sprint("reporter ", random.IntN(4)), Spam, "")
					}
					if err == nil {
						err = f.Hide(ctx, id)
					}
				}
				if err != nil && fault.As(err) == nil {
					return err
				}
				// Beside it, a recount that must find nothing.
				if random.IntN(20) == 0 {
					found, err := f.Recount(ctx, uuid.Nil, 100)
					if err != nil {
						return err
					}
					if found.Mended > 0 {
						return fmt.Errorf("a recount among changes found %+v", found)
					}
				}
			}
			return nil
		})
	}
	f.must(group.Wait())
	for _, book := range books {
		stored, err := f.Rating(ctx, book)
		f.must(err)
		var counted Histogram
		rows, err := f.db.Query(ctx, `select stars from review where book_id = $1 and status = 'PUBLISHED'`, book)
		f.must(err)
		stars, err := pgx.CollectRows(rows, pgx.RowTo[int32])
		f.must(err)
		for _, n := range stars {
			counted[n-1]++
		}
		if counted != stored.Histogram {
			t.Errorf("book %s: stored %v, counted %v", book, stored.Histogram, counted)
		}
		if stored.Version == 0 {
			t.Errorf("book %s was never published: the test does nothing", book)
		}
	}
	var wrong int
	f.must(f.db.QueryRow(ctx, `
		select count(*) from review r where helpful_count <> (select count(*) from vote where review_id = r.id)`).Scan(&wrong))
	if wrong > 0 {
		t.Errorf("%d reviews have another number of votes", wrong)
	}
}

func TestRecountMends(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := t.Context()
	f.publish("alice", 4, "")
	other := f.writeOf(uuid.New(), "bob", 2, "")
	f.must(f.Settle(ctx, other.ID, other.Version, Published, ""))
	f.write("carol", 1, "") // pending: counts nothing

	for _, corrupt := range []string{
		`update book_rating set n1 = 7, n4 = 0 where book_id = $1`,
		`delete from book_rating where book_id = $1`,
	} {
		_, err := f.db.Exec(ctx, corrupt, f.book)
		f.must(err)
		before := f.rating().Version
		found, err := f.Recount(ctx, uuid.Nil, 10)
		if err != nil || found.Books != 2 || found.Mended != 1 {
			t.Errorf("%s: found %+v, %v", corrupt, found, err)
		}
		if got := f.rating(); got.Histogram != (Histogram{0, 0, 0, 1, 0}) || got.Version != before+1 {
			t.Errorf("%s: mended to %+v", corrupt, got)
		}
	}

	// A score that rests on an old mean is renewed, and only that one.
	_, err := f.db.Exec(ctx, `update book_rating set score = score + 2 * $2::float8 where book_id = $1`, f.book, MaxDrift)
	f.must(err)
	found, err := f.Recount(ctx, uuid.Nil, 10)
	if err != nil || found.Mended != 0 || found.Rescored != 1 {
		t.Errorf("found %+v, %v", found, err)
	}
	found, err = f.Recount(ctx, uuid.Nil, 10)
	if err != nil || found.Mended != 0 || found.Rescored != 0 {
		t.Errorf("again: found %+v, %v", found, err)
	}

	// In batches, each book once, to the end.
	var books int
	for after := uuid.Nil; ; {
		found, err := f.Recount(ctx, after, 1)
		f.must(err)
		if found.Books == 0 {
			break
		}
		books += found.Books
		after = found.Last
	}
	if books != 2 {
		t.Errorf("%d books in batches, want 2", books)
	}
}

func TestToldAndOutdo(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.publish("alice", 4, "")
	f.must(f.Told(t.Context(), f.book, 1))
	f.must(f.Told(t.Context(), f.book, 0))
	if got := f.rating().Told; got != 1 {
		t.Errorf("told %d", got)
	}
	got, err := f.Outdo(t.Context(), f.book, 7)
	if err != nil || got.Version != 8 || got.Histogram != (Histogram{0, 0, 0, 1, 0}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err = f.Outdo(t.Context(), f.book, 3); err != nil || got.Version != 9 {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err = f.Outdo(t.Context(), uuid.New(), 3); err != nil || got.Version != 4 || got.Histogram.Count() != 0 {
		t.Errorf("a book without reviews: %+v, %v", got, err)
	}
	ratings, err := f.Ratings(t.Context(), uuid.Nil, 10)
	if err != nil || len(ratings) != 2 {
		t.Errorf("ratings %v, %v", ratings, err)
	}
}

func TestSummaryIsOwedWhenEnoughIsNew(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := t.Context()
	owed := func(want bool) {
		t.Helper()
		if got, err := f.SummaryOwed(ctx, f.book); err != nil || got != want {
			t.Errorf("owed %t, %v; want %t", got, err, want)
		}
	}
	store := func(text string, sources ...Review) {
		t.Helper()
		rated, err := f.Rating(ctx, f.book)
		f.must(err)
		stored, err := f.StoreSummary(ctx, Summary{BookID: f.book, Text: text, Reviews: rated.Histogram.Count(), Rating: rated.Version}, sources)
		if err != nil || !stored {
			t.Fatalf("stored %t, %v", stored, err)
		}
		owed(false)
	}
	owed(false)
	first := f.publish("a", 4, "one")
	f.publish("b", 4, "two")
	owed(false)
	last := f.publish("c", 4, "three")
	owed(true)
	store("Good [1].", first, last)
	f.publish("d", 4, "four")
	f.publish("e", 4, "five")
	owed(false)
	f.publish("f", 4, "six")
	owed(true)
	store("") // nothing could be made of them
	if _, ok, err := f.Summary(ctx, f.book); ok || err != nil {
		t.Errorf("an empty summary is shown: %v", err)
	}
	for i := range 14 {
		f.publish(fmt.Sprint("more ", i), 4, "")
	}
	owed(true)
	store("Good [1].", last) // of 20 reviews: 4 changes are a fifth
	for i := range 3 {
		owed(false)
		f.publish(fmt.Sprint("even more ", i), 4, "")
	}
	owed(false)
	f.publish("the last straw", 4, "")
	owed(true)
	store("Good [1].", last)

	// A source that vanishes takes the summary along.
	got, ok, err := f.Summary(ctx, f.book)
	if err != nil || !ok || got.Text != "Good [1]." || !slices.Equal(got.Sources, []uuid.UUID{last.ID}) || got.Reviews != 24 {
		t.Errorf("got %+v, %t, %v", got, ok, err)
	}
	f.must(f.decide(first, false))
	if _, ok, _ := f.Summary(ctx, f.book); !ok {
		t.Error("a review that is no source took the summary along")
	}
	f.must(f.decide(last, false))
	if _, ok, _ := f.Summary(ctx, f.book); ok {
		t.Error("a summary is shown whose source is hidden")
	}
	owed(true)
}

func TestSummaryIsNotStoredWhenASourceHasChanged(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := t.Context()
	a, b := f.publish("a", 4, "one"), f.publish("b", 4, "two")
	sources, rated, err := f.SummarySources(ctx, f.book, 10)
	if err != nil || len(sources) != 2 || rated.Version != 2 {
		t.Fatalf("sources %v, %v", sources, err)
	}
	summary := Summary{BookID: f.book, Text: "Good [1].", Reviews: 2, Rating: 2}
	edited := f.write("a", 4, "changed")
	f.must(f.Settle(ctx, a.ID, edited.Version, Published, ""))
	if stored, err := f.StoreSummary(ctx, summary, []Review{b, a}); stored || err != nil {
		t.Errorf("with a source that was edited: stored %t, %v", stored, err)
	}
	if stored, err := f.StoreSummary(ctx, summary, []Review{b}); !stored || err != nil {
		t.Errorf("without it: stored %t, %v", stored, err)
	}
	newer := summary
	newer.Rating = 4
	if stored, err := f.StoreSummary(ctx, newer, []Review{b}); !stored || err != nil {
		t.Errorf("a newer one: stored %t, %v", stored, err)
	}
	if stored, err := f.StoreSummary(ctx, summary, []Review{b}); stored || err != nil {
		t.Errorf("an older one: stored %t, %v", stored, err)
	}
}

func TestSummarySourcesAreTheHelpfulAndTheNewest(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var all []Review
	for i := range 8 {
		all = append(all, f.publish(fmt.Sprint("shopper ", i), 4, fmt.Sprint("text ", i)))
	}
	f.publish("silent", 1, "")
	_, err := f.Vote(t.Context(), all[0].ID, "voter", true)
	f.must(err)
	sources, _, err := f.SummarySources(t.Context(), f.book, 2)
	f.must(err)
	var texts []string
	for _, s := range sources {
		texts = append(texts, s.Text)
	}
	if want := []string{"text 0", "text 7", "text 6"}; !slices.Equal(texts, want) {
		t.Errorf("sources %q, want %q", texts, want)
	}
}

func TestUnsettledReviewsAreListed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx := t.Context()
	want := []string{f.write("pending", 3, "").ID.String()}
	queued := f.write("queued", 3, "")
	f.must(f.Settle(ctx, queued.ID, queued.Version, InQueue, ""))
	reported := f.publish("reported", 3, "")
	for i := range MaxReports {
		_, _, err := f.Report(ctx, reported.ID, fmt.Sprint(i), Spam, "")
		f.must(err)
	}
	f.publish("published", 3, "")
	rejected := f.write("rejected", 3, "")
	f.must(f.Settle(ctx, rejected.ID, rejected.Version, Rejected, ""))
	want = append(want, queued.ID.String(), reported.ID.String())
	slices.Sort(want)
	var got []string
	for after := uuid.Nil; ; {
		batch, err := f.Unsettled(ctx, after, 2)
		f.must(err)
		if len(batch) == 0 {
			break
		}
		for _, r := range batch {
			got = append(got, r.ID.String())
		}
		after = batch[len(batch)-1].ID
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRequestsVanish(t *testing.T) {
	t.Parallel()
	f := setup(t)
	id := ReviewID(f.book, "alice")
	old := f.ask(id, Submission{BookID: f.book, Subject: "alice", Stars: 3, Title: "T", Text: strings.Repeat("x", 5000)})
	withdrawn := f.ask(id, Submission{})
	f.must(f.Withdraw(t.Context(), withdrawn))
	_, err := f.db.Exec(t.Context(), `update request set created_at = now() - interval '61 minutes'`)
	f.must(err)
	kept := f.ask(id, Submission{Title: "kept"})
	for _, gone := range []uuid.UUID{old, withdrawn} {
		if _, ok, err := f.Submission(t.Context(), gone); ok || err != nil {
			t.Errorf("%s is there, %v", gone, err)
		}
	}
	if got, ok, err := f.Submission(t.Context(), kept); !ok || got.Title != "kept" || err != nil {
		t.Errorf("got %+v, %t, %v", got, ok, err)
	}
}

func TestReviewThatIsNotThere(t *testing.T) {
	t.Parallel()
	f := setup(t)
	_, err := f.Get(t.Context(), uuid.New())
	if !fault.Is(err, fault.ReasonReviewNotFound) {
		t.Errorf("got %v", err)
	}
	if _, found, err := f.Standing(t.Context(), uuid.New()); found || err != nil {
		t.Errorf("standing: %t, %v", found, err)
	}
	if err := errors.Join(f.Hide(t.Context(), uuid.New()), f.Settle(t.Context(), uuid.New(), 1, Published, "")); err != nil {
		t.Errorf("got %v", err)
	}
	if got := f.rating(); got.Histogram.Count() != 0 || got.Score != 0 || got.Version != 0 {
		t.Errorf("rating %+v", got)
	}
}
