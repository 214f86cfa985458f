package rating_test

import (
	"slices"
	"testing"

	api "bookworm/api/rating"
	"bookworm/internal/fault"
	"bookworm/internal/personal/personaltest"
	"bookworm/internal/rating"
)

func TestErasedReviewsAreDeletedByTheirProcesses(t *testing.T) {
	t.Parallel()
	s := setup(t)
	written := s.submit("alice", 4, "alice wrote this, and liked it")
	s.submit("bob", 2, "bob wrote that, and did not")
	deps := api.Deps{Reviews: rating.NewStore(s.db), Temporal: s.processes}
	before := len(s.processes.started)

	s.processes.err = fault.New(fault.ReasonUnavailable, "no")
	if _, err := api.Holder(deps).Erase(t.Context(), "alice", "erased-1"); !fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("without processes: %v", err)
	}
	if got := s.mine("alice"); got.GetId() != written.GetId() {
		t.Errorf("the review is %v", got)
	}
	s.processes.err = nil
	got, err := api.Holder(deps).Erase(t.Context(), "alice", "erased-1")
	if err != nil || got.Erased != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if started := s.processes.started[before:]; !slices.Equal(started, []string{"review/" + written.GetId()}) {
		t.Errorf("started %v", started)
	}
	// The history that deletes a review does not say who wrote it.
	if customers := s.processes.customers[before:]; !slices.Equal(customers, []string{"erased-1"}) {
		t.Errorf("operators find them as %v", customers)
	}
	if found := personaltest.Find(t, s.db, rating.Schema.Name, "alice"); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
	if left := s.list().GetReviews(); len(left) != 1 || left[0].GetStars() != 2 {
		t.Errorf("the list is %v", left)
	}
}
