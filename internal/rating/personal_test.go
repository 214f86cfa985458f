package rating

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"bookworm/internal/fault"
	"bookworm/internal/personal/personaltest"
)

func TestEveryColumnIsClassified(t *testing.T) {
	t.Parallel()
	personaltest.Classify(t, setup(t).db, Schema.Name, personaltest.Classes{
		Erased: `review.id review.book_id review.subject review.stars review.title review.text review.digest review.version review.status
			review.status_reason review.status_at review.verified_purchase review.helpful_count review.request_id review.created_at review.updated_at
			vote.review_id vote.subject vote.created_at
			report.review_id report.subject report.ground report.comment report.version report.settled report.created_at
			request.id request.review_id request.body request.created_at
			summary.book_id summary.text summary.source_ids summary.review_count summary.rating_version summary.created_at`,
		NotOfAny: `book_rating.book_id book_rating.n1 book_rating.n2 book_rating.n3 book_rating.n4 book_rating.n5 book_rating.score
			book_rating.version book_rating.told_version`,
	})
}

// holder deletes without a process, and remembers for whom.
func (f *fixture) holder() (Personal, *sync.Map) {
	var asked sync.Map
	return Personal{Reviews: f.Store, Delete: func(ctx context.Context, r Review, pseudonym string) error {
		asked.Store(r.ID, pseudonym)
		_, err := f.Delete(ctx, r.ID, nil)
		return err
	}}, &asked
}

func TestA1_ExportHasOnePersonsReviewsVotesAndReports(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const many = exportPage + 2
	want := make(map[string]bool)
	for i := range many {
		want[f.writeOf(uuid.New(), "alice", 4, fmt.Sprintf("alice wrote %d", i)).ID.String()] = true
	}
	bobs := f.publish("bob", 5, "bob wrote")
	_, err := f.Vote(t.Context(), bobs.ID, "alice", true)
	f.must(err)
	_, _, err = f.Report(t.Context(), bobs.ID, "alice", Spam, "alice says so")
	f.must(err)
	_, _, err = f.Report(t.Context(), bobs.ID, "carol", Abuse, "carol says so")
	f.must(err)
	f.ask(uuid.New(), Submission{BookID: f.book, Subject: "alice", Stars: 1, Title: "alice asks", Text: "x"})
	f.ask(uuid.New(), Submission{BookID: f.book, Subject: "bob", Stars: 1, Title: "bob asks", Text: "x"})

	holder, _ := f.holder()
	records := make(map[string]int)
	second := ""
	for token, pages := "", 0; ; pages++ {
		sections, next, err := holder.Export(t.Context(), "alice", token)
		f.must(err)
		for _, section := range sections {
			records[section.Name] += len(section.Records)
			for _, record := range section.Records {
				text, err := json.Marshal(record)
				if err != nil || strings.Contains(string(text), "bob") || strings.Contains(string(text), "carol") {
					t.Errorf("%s: %s, %v", section.Name, text, err)
				}
				switch section.Name {
				case "reviews":
					id, _ := record["id"].(string)
					if !want[id] || !strings.HasPrefix(fmt.Sprint(record["text"]), "alice wrote") || record["stars"] != 4.0 {
						t.Errorf("review %s is not alice's, or comes twice", text)
					}
					delete(want, id)
				case "reports":
					if record["comment"] != "alice says so" || record["ground"] != "SPAM" {
						t.Errorf("report %s", text)
					}
				}
			}
		}
		if second == "" {
			second = next
		}
		if token = next; token == "" {
			break
		}
		if pages > 10 {
			t.Fatal("the export does not end")
		}
	}
	if len(want) > 0 || records["reviews"] != many || records["helpful votes"] != 1 || records["reports"] != 1 || records["submissions that wait"] != 1 {
		t.Errorf("exported %v, %d reviews are missing", records, len(want))
	}
	if _, _, err := holder.Export(t.Context(), "bob", second); !fault.Is(err, fault.ReasonPageTokenInvalid) {
		t.Errorf("bob reads on where alice was: %v", err)
	}
	if sections, next, err := holder.Export(t.Context(), "nobody", ""); len(sections) > 0 || next != "" || err != nil {
		t.Errorf("nobody has %v, %q, %v", sections, next, err)
	}
}

func TestErasureTakesReviewsVotesAndReportsBack(t *testing.T) {
	t.Parallel()
	f := setup(t)
	other := f.publish("carol", 2, "carol wrote")
	bobs := f.publish("bob", 5, "bob wrote")
	_, err := f.Vote(t.Context(), bobs.ID, "carol", true)
	f.must(err)
	_, _, err = f.Report(t.Context(), bobs.ID, "carol", Abuse, "carol says so")
	f.must(err)
	f.ask(uuid.New(), Submission{BookID: f.book, Subject: "bob", Stars: 1, Title: "bob asks", Text: "x"})
	// What alice changes of others is how a book is rated, and how many find a review helpful.
	before := personaltest.Rows(t, f.db, Schema.Name)
	rated := f.rating()

	const many = eraseMany + 2
	var alices []Review
	for range many {
		alices = append(alices, f.writeOf(uuid.New(), "alice", 4, "alice wrote"))
	}
	shown := f.publish("alice", 1, "alice wrote of Rabbits")
	_, err = f.Vote(t.Context(), shown.ID, "bob", true)
	f.must(err)
	stored, err := f.StoreSummary(t.Context(), Summary{BookID: f.book, Text: "Rabbits [1]", Sources: []uuid.UUID{shown.ID}, Reviews: 3, Rating: f.rating().Version}, []Review{shown})
	if err != nil || !stored {
		t.Fatal(stored, err)
	}
	for _, r := range []Review{bobs, other} {
		_, err := f.Vote(t.Context(), r.ID, "alice", true)
		f.must(err)
		_, _, err = f.Report(t.Context(), r.ID, "alice", Spam, "alice says so")
		f.must(err)
	}
	f.ask(uuid.New(), Submission{BookID: f.book, Subject: "alice", Stars: 1, Title: "alice asks", Text: "x"})

	holder, asked := f.holder()
	got, err := holder.Erase(t.Context(), "alice", "erased-1")
	if err != nil || got.Erased != many+1+2+2+1 || got.Kept != 0 || got.Note != "" || len(got.WaitingFor) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if found := personaltest.Find(t, f.db, Schema.Name, "alice", "rabbits"); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
	for _, r := range append(alices, shown) {
		if pseudonym, ok := asked.Load(r.ID); !ok || pseudonym != "erased-1" {
			t.Errorf("review %s was deleted for %v", r.ID, pseudonym)
		}
	}
	if now := f.rating(); now.Histogram != rated.Histogram || now.Version <= rated.Version {
		t.Errorf("the book is rated %+v, before it was %+v", now, rated)
	}
	if found, err := f.Recount(t.Context(), uuid.Nil, 1000); err != nil || found.Mended != 0 {
		t.Errorf("the count differs: %+v, %v", found, err)
	}
	// All rows of others are as they were, but for the rating's version.
	var others []string
	for _, row := range before {
		if !strings.HasPrefix(row, "book_rating ") {
			others = append(others, row)
		}
	}
	personaltest.Untouched(t, f.db, Schema.Name, others)
	after := personaltest.Rows(t, f.db, Schema.Name)
	if again, err := holder.Erase(t.Context(), "alice", "erased-1"); err != nil || again.Erased != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
	personaltest.Untouched(t, f.db, Schema.Name, after)
}

func TestErasureThatFailsGoesOnFromThere(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for range 10 {
		f.writeOf(uuid.New(), "alice", 4, "alice wrote")
	}
	holder, _ := f.holder()
	works := holder.Delete
	var mu sync.Mutex
	left := 3
	holder.Delete = func(ctx context.Context, r Review, pseudonym string) error {
		mu.Lock()
		defer mu.Unlock()
		if left--; left < 0 {
			return fault.New(fault.ReasonUnavailable, "no")
		}
		return works(ctx, r, pseudonym)
	}
	if _, err := holder.Erase(t.Context(), "alice", "erased-1"); !fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("got %v", err)
	}
	holder.Delete = works
	if got, err := holder.Erase(t.Context(), "alice", "erased-1"); err != nil || got.Erased != 7 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestErasureBesideWritesEndsInOneState(t *testing.T) {
	t.Parallel()
	f := setup(t)
	holder, _ := f.holder()
	var theirs []Review
	for range 5 {
		theirs = append(theirs, func() Review {
			r := f.writeOf(uuid.New(), "bob", 4, "bob wrote")
			f.must(f.Settle(t.Context(), r.ID, r.Version, Published, ""))
			return r
		}())
	}
	var group errgroup.Group
	group.Go(func() error {
		for range 20 {
			if _, err := holder.Erase(t.Context(), "alice", "erased-1"); err != nil {
				return err
			}
		}
		return nil
	})
	for range 3 {
		group.Go(func() error {
			for i := range 15 {
				r := theirs[i%len(theirs)]
				if _, err := f.Vote(t.Context(), r.ID, "alice", i%3 != 0); err != nil {
					return err
				}
				if _, _, err := f.Report(t.Context(), r.ID, "alice", Spam, "alice says so"); err != nil {
					return err
				}
				book := uuid.New()
				id := ReviewID(book, "alice")
				request, err := f.Ask(t.Context(), id, Submission{BookID: book, Subject: "alice", Stars: 3, Title: "alice", Text: "alice"})
				if err != nil {
					return err
				}
				review, _, err := f.Submit(t.Context(), id, request, true)
				if err != nil && !fault.Is(err, fault.ReasonUnavailable) {
					return err
				}
				if err := f.Settle(t.Context(), id, review.Version, Published, ""); err != nil {
					return err
				}
			}
			return nil
		})
	}
	f.must(group.Wait())
	_, err := holder.Erase(t.Context(), "alice", "erased-1")
	f.must(err)
	if found := personaltest.Find(t, f.db, Schema.Name, "alice"); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
	for _, r := range theirs {
		if now := f.get(r.ID); now.Helpful != 0 {
			t.Errorf("%d find it helpful", now.Helpful)
		}
	}
	if found, err := f.Recount(t.Context(), uuid.Nil, 1000); err != nil || found.Mended != 0 {
		t.Errorf("the count differs: %+v, %v", found, err)
	}
}

func TestOldRejectedReviewsReportsAndSubmissionsGo(t *testing.T) {
	t.Parallel()
	f := setup(t)
	shown := f.publish("bob", 5, "bob wrote")
	waits := f.write("carol", 5, "carol wrote")
	f.must(f.Settle(t.Context(), waits.ID, waits.Version, InQueue, "?"))
	rejected := f.write("alice", 5, "alice wrote")
	f.must(f.Settle(t.Context(), rejected.ID, rejected.Version, Rejected, "no"))
	_, _, err := f.Report(t.Context(), shown.ID, "alice", Spam, "alice says so")
	f.must(err)
	f.must(f.decide(shown, true))
	_, _, err = f.Report(t.Context(), shown.ID, "carol", Spam, "not settled")
	f.must(err)
	f.ask(uuid.New(), Submission{BookID: f.book, Subject: "alice", Stars: 1, Title: "x", Text: "x"})
	holder, _ := f.holder()
	retain := func(reviews, reports, submissions int64) {
		t.Helper()
		deleted, more, err := holder.Retain(t.Context())
		if err != nil || more || deleted["rejected reviews"] != reviews || deleted["settled reports"] != reports || deleted["submissions"] != submissions {
			t.Errorf("deleted %v, %v, %v; want %d, %d and %d", deleted, more, err, reviews, reports, submissions)
		}
	}
	age := func(by string) {
		t.Helper()
		for _, statement := range []string{
			`update review set status_at = status_at - $1::interval`, `update report set created_at = created_at - $1::interval`,
			`update request set created_at = created_at - $1::interval`,
		} {
			_, err := f.db.Exec(t.Context(), statement, by)
			f.must(err)
		}
	}
	rated := f.rating()
	retain(0, 0, 0)
	age("2 hours")
	retain(0, 0, 1)
	age("364 days")
	retain(0, 0, 0)
	age("1 day")
	retain(1, 1, 0)
	retain(0, 0, 0)
	if _, err := f.Get(t.Context(), rejected.ID); !fault.Is(err, fault.ReasonReviewNotFound) {
		t.Errorf("the rejected review: %v", err)
	}
	f.get(shown.ID)
	f.get(waits.ID)
	if reports, err := f.Reports(t.Context(), []uuid.UUID{shown.ID}); err != nil || len(reports[shown.ID]) != 1 {
		t.Errorf("the reports are %v, %v", reports, err)
	}
	if now := f.rating(); now != rated {
		t.Errorf("the rating went from %+v to %+v", rated, now)
	}
}
