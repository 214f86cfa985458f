package rating_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"golang.org/x/oauth2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	activities "bookworm/activities/rating"
	api "bookworm/api/rating"
	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/gen/bookworm/rating/v1/ratingv1connect"
	"bookworm/internal/identity"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
	"bookworm/internal/process"
	"bookworm/internal/rating"
	"bookworm/internal/rpc"
	"bookworm/internal/rpc/rpctest"
	"bookworm/workflows/ratings"
	"bookworm/workflows/review"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func migrate(ctx context.Context, adminURL string) error {
	return postgres.Migrate(ctx, adminURL, rating.Schema)
}

// roles is a verifier for which a token is a subject and a role.
type roles struct{}

func (roles) Verify(_ context.Context, token string) (identity.Caller, error) {
	subject, role, _ := strings.Cut(token, "/")
	return identity.Caller{Subject: subject, Roles: []accessv1.Role{accessv1.Role(accessv1.Role_value[role])}}, nil
}

// processes stands for Temporal with a rating worker: it runs the real activities,
// in the order of the review process. Whether that order is right is for the
// tests of the workflow.
type processes struct {
	client.Client

	activities *activities.Activities
	mu         sync.Mutex
	started    []string
	customers  []string // whose reviews, as operators search for them
	err        error    // what it answers with, when set
	closing    int      // how many more updates meet a run that ends
}

type startOperation struct {
	client.WithStartWorkflowOperation

	options client.StartWorkflowOptions
	args    []any
}

func (p *processes) NewWithStartWorkflowOperation(options client.StartWorkflowOptions, _ any, args ...any) client.WithStartWorkflowOperation {
	return startOperation{options: options, args: args}
}

func (p *processes) UpdateWithStartWorkflow(ctx context.Context, o client.UpdateWithStartWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	start := o.StartWorkflowOperation.(startOperation)
	in := start.args[0].(review.Input)
	if start.options.ID != review.WorkflowID(in.ReviewID) || o.UpdateOptions.UpdateID == "" {
		return nil, fmt.Errorf("started as %s, update %q", start.options.ID, o.UpdateOptions.UpdateID)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	if p.closing > 0 {
		p.closing--
		return nil, serviceerror.NewNotFound("workflow update was aborted by closing workflow")
	}
	p.started = append(p.started, start.options.ID)
	customer, _ := start.options.TypedSearchAttributes.GetKeyword(process.Customer)
	p.customers = append(p.customers, customer)
	stored := activities.Stored{}
	var err error
	switch arg := o.UpdateOptions.Args[0].(type) {
	case int64:
		stored, err = p.activities.DeleteReview(ctx, in.ReviewID, arg)
	case uuid.UUID:
		if o.UpdateOptions.UpdateName == review.SubmitUpdate {
			stored, err = p.activities.StoreReview(ctx, in.ReviewID, arg)
		} else {
			stored, err = p.activities.DecideReview(ctx, in.ReviewID, arg)
		}
	}
	if err != nil {
		return handle{err: err}, nil
	}
	return handle{stored: stored}, p.work(ctx, in.ReviewID)
}

// work gives a review what it needs.
func (p *processes) work(ctx context.Context, id uuid.UUID) error {
	for {
		stands, err := p.activities.LookAtReview(ctx, id)
		if err != nil {
			return err
		}
		switch stands.Need {
		case activities.NeedModeration:
			_, err = p.activities.CheckRules(ctx, id, stands.Version)
		case activities.NeedHiding:
			err = p.activities.HideReview(ctx, id)
		default:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (p *processes) SignalWithStartWorkflow(ctx context.Context, id, signal string, _ any, _ client.StartWorkflowOptions, _ any, args ...any) (client.WorkflowRun, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	if signal != review.LookSignal {
		return nil, errors.New(signal)
	}
	p.started = append(p.started, id)
	return nil, p.work(ctx, args[0].(review.Input).ReviewID)
}

func (p *processes) ExecuteWorkflow(_ context.Context, options client.StartWorkflowOptions, _ any, _ ...any) (client.WorkflowRun, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = append(p.started, options.ID)
	return nil, p.err
}

type handle struct {
	client.WorkflowUpdateHandle

	stored activities.Stored
	err    error
}

func (h handle) Get(_ context.Context, value any) error {
	if h.err == nil {
		*value.(*activities.Stored) = h.stored
	}
	return h.err
}

// orders says that everybody but visitors bought every book.
type orders struct{}

func (orders) ListPurchases(_ context.Context, req *orderingv1.ListPurchasesRequest) (*orderingv1.ListPurchasesResponse, error) {
	answer := &orderingv1.ListPurchasesResponse{}
	if req.GetSubject() != "visitor" {
		answer.Purchases = []*orderingv1.Purchase{{BookId: req.GetBookIds()[0]}}
	}
	return answer, nil
}

// books has every book but one.
type books struct {
	catalogv1connect.CatalogServiceClient

	missing uuid.UUID
}

func (b books) GetBook(_ context.Context, req *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
	if req.GetId() == b.missing.String() {
		return nil, fault.New(fault.ReasonBookNotFound, "no")
	}
	return &catalogv1.GetBookResponse{}, nil
}

// shop is the rating API over a database of its own.
type shop struct {
	t         *testing.T
	url       string
	db        *pgxpool.Pool
	processes *processes
	book      string
	missing   uuid.UUID
}

func setup(t *testing.T) *shop {
	t.Helper()
	pool, err := postgres.Open(t.Context(), pgtest.DB(t, migrate), rating.Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := rating.NewStore(pool)
	s := &shop{t: t, db: pool, book: uuid.NewString(), missing: uuid.New()}
	s.processes = &processes{activities: &activities.Activities{Reviews: store, Purchases: orders{}, Books: books{missing: s.missing}}}
	server, err := rpc.NewServer(rpc.ServerOptions{Audit: rpctest.Audit(), Verifier: roles{}})
	if err != nil {
		t.Fatal(err)
	}
	api.Register(server, api.Deps{Reviews: store, Temporal: s.processes})

	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rpc.Serve(ctx, listener, rpc.Handler(server), nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	s.url = "http://" + listener.Addr().String()
	return s
}

// client calls with a token; without one when it is empty.
func (s *shop) client(token string) *connect.Client {
	options := rpc.ClientOptions{BaseURL: s.url}
	if token != "" {
		options.Tokens = oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token})
	}
	return rpc.NewClient(options)
}

func (s *shop) as(subject string) ratingv1connect.RatingServiceClient {
	return ratingv1connect.NewRatingServiceClient(s.client(subject + "/ROLE_CUSTOMER"))
}

func (s *shop) anonymous() ratingv1connect.RatingServiceClient {
	return ratingv1connect.NewRatingServiceClient(s.client(""))
}

func (s *shop) operator() ratingv1connect.ModerationServiceClient {
	return ratingv1connect.NewModerationServiceClient(s.client("root/ROLE_ADMIN"))
}

func (s *shop) submit(subject string, stars int32, text string) *ratingv1.Review {
	s.t.Helper()
	answer, err := s.as(subject).SubmitReview(s.t.Context(), &ratingv1.SubmitReviewRequest{BookId: s.book, Stars: stars, Title: "Title", Text: text})
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.GetReview()
}

func (s *shop) mine(subject string) *ratingv1.Review {
	s.t.Helper()
	answer, err := s.as(subject).GetMyReview(s.t.Context(), &ratingv1.GetMyReviewRequest{BookId: s.book})
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.GetReview()
}

func (s *shop) list() *ratingv1.ListReviewsResponse {
	s.t.Helper()
	answer, err := s.anonymous().ListReviews(s.t.Context(), &ratingv1.ListReviewsRequest{BookId: s.book, PageSize: 100})
	if err != nil {
		s.t.Fatal(err)
	}
	return answer
}

func refuse(t *testing.T, err error, reason fault.Reason) *fault.Error {
	t.Helper()
	if !fault.Is(err, reason) {
		t.Fatalf("got %v, want %s", err, reason)
	}
	return fault.As(err)
}

func TestReviewFromSubmissionToDeletion(t *testing.T) {
	t.Parallel()
	s := setup(t)
	ctx, info := connect.NewClientContext(t.Context())
	answer, err := s.as("alice").SubmitReview(ctx, &ratingv1.SubmitReviewRequest{BookId: s.book, Stars: 4, Title: "  A\ngem ", Text: " Fine.\r\nReally.\n"})
	if err != nil {
		t.Fatal(err)
	}
	r := answer.GetReview()
	if r.GetTitle() != "A gem" || r.GetText() != "Fine.\nReally." || r.GetStars() != 4 || !r.GetVerifiedPurchase() || r.GetBookId() != s.book ||
		!r.GetCreateTime().IsValid() || !r.GetUpdateTime().IsValid() {
		t.Errorf("got %v", r)
	}
	if got := info.ResponseHeader().Get("ETag"); got != `"`+r.GetEtag()+`"` {
		t.Errorf("ETag %s, the review's is %s", got, r.GetEtag())
	}
	if got := info.ResponseHeader().Get("Cache-Control"); got != "private, no-store" {
		t.Errorf("Cache-Control %q", got)
	}
	if got := s.mine("alice"); got.GetStatus() != ratingv1.Review_PUBLISHED || got.GetId() != r.GetId() {
		t.Errorf("got %v", got)
	}
	ctx, info = connect.NewClientContext(t.Context())
	listed, err := s.anonymous().ListReviews(ctx, &ratingv1.ListReviewsRequest{BookId: s.book})
	if err != nil || len(listed.GetReviews()) != 1 || listed.GetReviews()[0].GetTitle() != "A gem" || listed.GetReviews()[0].GetStatus() != ratingv1.Review_PUBLISHED {
		t.Errorf("listed %v, %v", listed, err)
	}
	if got := info.ResponseHeader().Get("Cache-Control"); got != "public, max-age=5" {
		t.Errorf("Cache-Control %q", got)
	}
	sum, err := s.anonymous().GetRatingSummary(t.Context(), &ratingv1.GetRatingSummaryRequest{BookId: s.book})
	if err != nil || sum.GetReviewCount() != 1 || sum.GetAverageStars() != 4 || sum.GetScore() <= 0 || !slices.Equal(sum.GetHistogram(), []int32{0, 0, 0, 1, 0}) || sum.GetSummary() != nil {
		t.Errorf("summary %v, %v", sum, err)
	}
	for range 2 {
		if _, err := s.as("alice").DeleteReview(t.Context(), &ratingv1.DeleteReviewRequest{BookId: s.book}); err != nil {
			t.Error(err)
		}
	}
	if len(s.processes.started) != 2 { // a submission and one deletion
		t.Errorf("started %q", s.processes.started)
	}
	_, err = s.as("alice").GetMyReview(t.Context(), &ratingv1.GetMyReviewRequest{BookId: s.book})
	refuse(t, err, fault.ReasonReviewNotFound)
	if got := s.list(); len(got.GetReviews()) != 0 {
		t.Errorf("listed %v", got)
	}
	sum, err = s.anonymous().GetRatingSummary(t.Context(), &ratingv1.GetRatingSummaryRequest{BookId: uuid.NewString()})
	if err != nil || sum.GetReviewCount() != 0 || sum.GetAverageStars() != 0 || sum.GetScore() != 0 || len(sum.GetHistogram()) != 5 {
		t.Errorf("a book without reviews: %v, %v", sum, err)
	}
}

func TestOnlyBuyersReview(t *testing.T) {
	t.Parallel()
	s := setup(t)
	req := &ratingv1.SubmitReviewRequest{BookId: s.book, Stars: 4, Title: "T", Text: "my words"}
	_, err := s.as("visitor").SubmitReview(t.Context(), req)
	refuse(t, err, fault.ReasonPurchaseRequired)
	req.BookId = s.missing.String()
	_, err = s.as("visitor").SubmitReview(t.Context(), req)
	refuse(t, err, fault.ReasonBookNotFound)
	var left int
	if err := s.db.QueryRow(t.Context(), `select (select count(*) from review) + (select count(*) from request)`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d rows are left of refused reviews, %v", left, err)
	}
}

func TestEditNeedsTheVersionSeen(t *testing.T) {
	t.Parallel()
	s := setup(t)
	first := s.submit("alice", 4, "one")
	submit := func(ifMatch, etag, text string) (*ratingv1.Review, error) {
		ctx, info := connect.NewClientContext(t.Context())
		info.RequestHeader().Set("If-Match", ifMatch)
		answer, err := s.as("alice").SubmitReview(ctx, &ratingv1.SubmitReviewRequest{BookId: s.book, Stars: 4, Title: "Title", Text: text, Etag: etag})
		return answer.GetReview(), err
	}
	edited, err := submit(`"`+first.GetEtag()+`"`, "", "two")
	if err != nil || edited.GetText() != "two" || edited.GetEtag() == first.GetEtag() || edited.GetId() != first.GetId() {
		t.Errorf("got %v, %v", edited, err)
	}
	_, err = submit("", first.GetEtag(), "three")
	if f := refuse(t, err, fault.ReasonStaleVersion); f.Metadata["etag"] != edited.GetEtag() {
		t.Errorf("metadata %v", f.Metadata)
	}
	_, err = submit(`"`+first.GetEtag()+`"`, edited.GetEtag(), "three")
	refuse(t, err, fault.ReasonInvalidArgument)
	_, err = submit("", "v1x", "three")
	refuse(t, err, fault.ReasonInvalidArgument)
	// The same content again has no effect, whatever was seen: the answer was lost.
	again, err := submit(`"`+first.GetEtag()+`"`, "", "two")
	if err != nil || again.GetEtag() != edited.GetEtag() {
		t.Errorf("got %v, %v", again, err)
	}
	if edited, err = submit("*", "", "four"); err != nil {
		t.Error(err)
	}
	_, err = s.as("alice").DeleteReview(t.Context(), &ratingv1.DeleteReviewRequest{BookId: s.book, Etag: first.GetEtag()})
	refuse(t, err, fault.ReasonStaleVersion)
	if _, err = s.as("alice").DeleteReview(t.Context(), &ratingv1.DeleteReviewRequest{BookId: s.book, Etag: edited.GetEtag()}); err != nil {
		t.Error(err)
	}
}

func TestBadInputChangesNothing(t *testing.T) {
	t.Parallel()
	s := setup(t)
	good := func(change func(*ratingv1.SubmitReviewRequest)) *ratingv1.SubmitReviewRequest {
		req := &ratingv1.SubmitReviewRequest{BookId: s.book, Stars: 3, Title: "T", Text: "x"}
		change(req)
		return req
	}
	for name, req := range map[string]*ratingv1.SubmitReviewRequest{
		"book_id": good(func(r *ratingv1.SubmitReviewRequest) { r.BookId = "1" }),
		"stars":   good(func(r *ratingv1.SubmitReviewRequest) { r.Stars = 6 }),
		"title":   good(func(r *ratingv1.SubmitReviewRequest) { r.Title = " \n " }),
		"text":    good(func(r *ratingv1.SubmitReviewRequest) { r.Text = strings.Repeat("x", 100_000) }),
		"etag":    good(func(r *ratingv1.SubmitReviewRequest) { r.Etag = "W/1" }),
	} {
		_, err := s.as("alice").SubmitReview(t.Context(), req)
		if f := refuse(t, err, fault.ReasonInvalidArgument); len(f.Fields) != 1 || f.Fields[0].Name != name {
			t.Errorf("%s: names %v", name, f.Fields)
		}
	}
	for _, control := range []string{"\x00", "\x1b[31m", "\x7f", "\u0085"} {
		for name, req := range map[string]*ratingv1.SubmitReviewRequest{
			"title": good(func(r *ratingv1.SubmitReviewRequest) { r.Title += control + "a" }),
			"text":  good(func(r *ratingv1.SubmitReviewRequest) { r.Text += control + "a" }),
		} {
			_, err := s.as("alice").SubmitReview(t.Context(), req)
			if f := refuse(t, err, fault.ReasonInvalidArgument); len(f.Fields) != 1 || f.Fields[0].Name != name {
				t.Errorf("%s %q: names %v", name, control, f.Fields)
			}
		}
	}
	if len(s.processes.started) != 0 {
		t.Errorf("started %q", s.processes.started)
	}
	r := s.submit("alice", 3, "")
	_, err := s.as("bob").ReportReview(t.Context(), &ratingv1.ReportReviewRequest{ReviewId: r.GetId()})
	refuse(t, err, fault.ReasonInvalidArgument)
	_, err = s.as("bob").ReportReview(t.Context(), &ratingv1.ReportReviewRequest{ReviewId: r.GetId(), Ground: ratingv1.ReportReviewRequest_SPAM, Comment: "\x00"})
	refuse(t, err, fault.ReasonInvalidArgument)
	_, err = s.as("bob").VoteReview(t.Context(), &ratingv1.VoteReviewRequest{ReviewId: "x"})
	refuse(t, err, fault.ReasonInvalidArgument)
	_, err = s.anonymous().ListReviews(t.Context(), &ratingv1.ListReviewsRequest{BookId: s.book, PageToken: "garbled"})
	refuse(t, err, fault.ReasonPageTokenInvalid)
	_, err = s.anonymous().ListReviews(t.Context(), &ratingv1.ListReviewsRequest{BookId: s.book, Stars: 6})
	refuse(t, err, fault.ReasonInvalidArgument)
	for field, req := range map[string]*ratingv1.DecideReviewRequest{
		"decision": {ReviewId: r.GetId(), Etag: r.GetEtag()},
		"etag":     {ReviewId: r.GetId(), Decision: ratingv1.DecideReviewRequest_PUBLISH},
		"reason":   {ReviewId: r.GetId(), Etag: r.GetEtag(), Decision: ratingv1.DecideReviewRequest_REJECT},
	} {
		_, err := s.operator().DecideReview(t.Context(), req)
		if f := refuse(t, err, fault.ReasonInvalidArgument); len(f.Fields) != 1 || f.Fields[0].Name != field {
			t.Errorf("%s: names %v", field, f.Fields)
		}
	}
}

func TestRejectedReviewTellsItsAuthorWhy(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.submit("alice", 4, "Write to me@example.org.")
	if got := s.mine("alice"); got.GetStatus() != ratingv1.Review_REJECTED || got.GetStatusReason() == "" {
		t.Errorf("got %v", got)
	}
	if got := s.list(); len(got.GetReviews()) != 0 {
		t.Errorf("listed %v", got)
	}
}

// TestA1_ReviewsOfOthersCannotBeChanged also covers that an author is never shown.
func TestA1_ReviewsOfOthersCannotBeChanged(t *testing.T) {
	t.Parallel()
	s := setup(t)
	const alice = "5bd0a1c6-alice"
	first := s.submit(alice, 4, "one")
	s.submit("bob", 1, "two")
	if _, err := s.as("bob").DeleteReview(t.Context(), &ratingv1.DeleteReviewRequest{BookId: s.book}); err != nil {
		t.Fatal(err)
	}
	if got := s.mine(alice); !proto.Equal(got, first) && got.GetText() != "one" {
		t.Errorf("alice's review became %v", got)
	}
	_, err := s.as("carol").GetMyReview(t.Context(), &ratingv1.GetMyReviewRequest{BookId: s.book})
	refuse(t, err, fault.ReasonReviewNotFound)
	// A review that is not shown cannot be reached by its id either.
	s.submit(alice, 4, "Call 555 010 9999.")
	_, err = s.as("bob").VoteReview(t.Context(), &ratingv1.VoteReviewRequest{ReviewId: first.GetId(), Helpful: true})
	refuse(t, err, fault.ReasonReviewNotFound)
	_, err = s.as("bob").ReportReview(t.Context(), &ratingv1.ReportReviewRequest{ReviewId: first.GetId(), Ground: ratingv1.ReportReviewRequest_SPAM})
	refuse(t, err, fault.ReasonReviewNotFound)

	s.submit(alice, 4, "Bullshit.")
	queue, err := s.operator().ListModerationQueue(t.Context(), &ratingv1.ListModerationQueueRequest{})
	if err != nil || len(queue.GetReviews()) != 1 {
		t.Fatalf("queue %v, %v", queue, err)
	}
	decided, err := s.operator().DecideReview(t.Context(), &ratingv1.DecideReviewRequest{
		ReviewId: first.GetId(), Decision: ratingv1.DecideReviewRequest_PUBLISH, Etag: queue.GetReviews()[0].GetReview().GetEtag(),
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]proto.Message{"the list": s.list(), "the queue": queue, "the decision": decided, "mine": s.mine(alice)} {
		if text := protojson.Format(m); strings.Contains(text, alice) {
			t.Errorf("%s names the author: %s", name, text)
		}
	}
}

func TestA2_RolesOfTheCalls(t *testing.T) {
	t.Parallel()
	s := setup(t)
	ctx := t.Context()
	denied := func(name string, err error, reason fault.Reason) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), string(reason)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := s.anonymous().SubmitReview(ctx, &ratingv1.SubmitReviewRequest{BookId: s.book, Stars: 1, Title: "T"})
	denied("submit", err, fault.ReasonTokenMissing)
	_, err = s.anonymous().VoteReview(ctx, &ratingv1.VoteReviewRequest{ReviewId: s.book})
	denied("vote", err, fault.ReasonTokenMissing)
	customer := s.client("alice/ROLE_CUSTOMER")
	moderation := ratingv1connect.NewModerationServiceClient(customer)
	_, err = moderation.ListModerationQueue(ctx, &ratingv1.ListModerationQueueRequest{})
	denied("queue", err, fault.ReasonAccessDenied)
	_, err = moderation.DecideReview(ctx, &ratingv1.DecideReviewRequest{ReviewId: s.book, Decision: ratingv1.DecideReviewRequest_PUBLISH, Etag: "v1"})
	denied("decide", err, fault.ReasonAccessDenied)
	_, err = moderation.RebuildRatings(ctx, &ratingv1.RebuildRatingsRequest{})
	denied("rebuild", err, fault.ReasonAccessDenied)
	_, err = ratingv1connect.NewReviewerServiceClient(customer).ListStars(ctx, &ratingv1.ListStarsRequest{Subject: "alice"})
	denied("stars", err, fault.ReasonAccessDenied)
}

func TestVotes(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r := s.submit("alice", 4, "")
	vote := func(subject string, helpful bool) (int32, error) {
		answer, err := s.as(subject).VoteReview(t.Context(), &ratingv1.VoteReviewRequest{ReviewId: r.GetId(), Helpful: helpful})
		return answer.GetHelpfulCount(), err
	}
	for _, test := range []struct {
		subject string
		helpful bool
		want    int32
	}{{"bob", true, 1}, {"bob", true, 1}, {"carol", true, 2}, {"bob", false, 1}, {"bob", false, 1}} {
		if got, err := vote(test.subject, test.helpful); err != nil || got != test.want {
			t.Errorf("%+v: %d, %v", test, got, err)
		}
	}
	_, err := vote("alice", true)
	refuse(t, err, fault.ReasonOwnReview)
	if got := s.list().GetReviews()[0].GetHelpfulCount(); got != 1 {
		t.Errorf("listed with %d", got)
	}
}

func TestReportsLeadToTheQueueAndADecisionSettlesThem(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r := s.submit("alice", 4, "")
	report := func(subject string) error {
		_, err := s.as(subject).ReportReview(t.Context(), &ratingv1.ReportReviewRequest{
			ReviewId: r.GetId(), Ground: ratingv1.ReportReviewRequest_SPOILER, Comment: "says " + subject,
		})
		return err
	}
	shown := func(want bool) {
		t.Helper()
		sum, err := s.anonymous().GetRatingSummary(t.Context(), &ratingv1.GetRatingSummaryRequest{BookId: s.book})
		if err != nil || (len(s.list().GetReviews()) == 1) != want || (sum.GetReviewCount() == 1) != want {
			t.Errorf("shown is not %t: %v, %v", want, sum, err)
		}
	}
	refuse(t, report("alice"), fault.ReasonOwnReview)
	for _, subject := range []string{"bob", "bob", "bob", "carol"} {
		if err := report(subject); err != nil {
			t.Error(err)
		}
	}
	shown(true)
	// The process cannot be told: the reporter tries again.
	s.processes.err = errors.New("away")
	refuse(t, report("dave"), fault.ReasonUnavailable)
	shown(true)
	s.processes.err = nil
	if err := report("dave"); err != nil {
		t.Error(err)
	}
	shown(false)
	if got := s.mine("alice"); got.GetStatus() != ratingv1.Review_IN_QUEUE || got.GetStatusReason() == "" {
		t.Errorf("got %v", got)
	}
	queue, err := s.operator().ListModerationQueue(t.Context(), &ratingv1.ListModerationQueueRequest{})
	if err != nil || len(queue.GetReviews()) != 1 || len(queue.GetReviews()[0].GetReports()) != 3 {
		t.Fatalf("queue %v, %v", queue, err)
	}
	if got := queue.GetReviews()[0].GetReports()[0]; got.GetGround() != ratingv1.ReportReviewRequest_SPOILER || got.GetComment() != "says bob" || !got.GetCreateTime().IsValid() {
		t.Errorf("report %v", got)
	}
	decide := func(decision ratingv1.DecideReviewRequest_Decision, etag string) (*ratingv1.Review, error) {
		answer, err := s.operator().DecideReview(t.Context(), &ratingv1.DecideReviewRequest{ReviewId: r.GetId(), Decision: decision, Etag: etag, Reason: "spoils"})
		return answer.GetReview(), err
	}
	for range 2 {
		if got, err := decide(ratingv1.DecideReviewRequest_PUBLISH, r.GetEtag()); err != nil || got.GetStatus() != ratingv1.Review_PUBLISHED {
			t.Errorf("got %v, %v", got, err)
		}
		shown(true)
		if err := report("dave"); err != nil {
			t.Error(err)
		}
		shown(true)
	}
	if got, err := decide(ratingv1.DecideReviewRequest_REJECT, r.GetEtag()); err != nil || got.GetStatus() != ratingv1.Review_REJECTED || got.GetStatusReason() != "spoils" {
		t.Errorf("got %v, %v", got, err)
	}
	shown(false)
	s.submit("alice", 5, "new")
	_, err = decide(ratingv1.DecideReviewRequest_REJECT, r.GetEtag())
	refuse(t, err, fault.ReasonStaleVersion)
	_, err = s.operator().DecideReview(t.Context(), &ratingv1.DecideReviewRequest{ReviewId: uuid.NewString(), Decision: ratingv1.DecideReviewRequest_PUBLISH, Etag: "v1"})
	refuse(t, err, fault.ReasonReviewNotFound)
}

func TestListIsPaged(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var group errgroup.Group
	for i := range 25 {
		group.Go(func() error {
			_, err := s.as(fmt.Sprint("shopper ", i)).SubmitReview(t.Context(), &ratingv1.SubmitReviewRequest{BookId: s.book, Stars: int32(i%5 + 1), Title: "T"})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for sort := range ratingv1.ListReviewsRequest_Sort_name {
		req := &ratingv1.ListReviewsRequest{BookId: s.book, Sort: ratingv1.ListReviewsRequest_Sort(sort)}
		seen := make(map[string]bool)
		pages := 0
		for {
			answer, err := s.anonymous().ListReviews(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			pages++
			for _, r := range answer.GetReviews() {
				seen[r.GetId()] = true
			}
			if req.PageToken = answer.GetNextPageToken(); req.GetPageToken() == "" {
				break
			}
		}
		if len(seen) != 25 || pages != 2 {
			t.Errorf("sort %d: %d reviews on %d pages", sort, len(seen), pages)
		}
	}
	answer, err := s.anonymous().ListReviews(t.Context(), &ratingv1.ListReviewsRequest{BookId: s.book, Sort: ratingv1.ListReviewsRequest_RATING_DESC, PageSize: 1})
	if err != nil || answer.GetReviews()[0].GetStars() != 5 {
		t.Errorf("best first: %v, %v", answer, err)
	}
	answer, err = s.anonymous().ListReviews(t.Context(), &ratingv1.ListReviewsRequest{BookId: s.book, Stars: 2})
	if err != nil || len(answer.GetReviews()) != 5 {
		t.Errorf("two stars: %v, %v", answer, err)
	}
	stars, err := ratingv1connect.NewReviewerServiceClient(s.client("shop/ROLE_SERVICE")).ListStars(t.Context(), &ratingv1.ListStarsRequest{Subject: "shopper 3"})
	if err != nil || len(stars.GetStars()) != 1 || stars.GetStars()[0].GetBookId() != s.book || stars.GetStars()[0].GetStars() != 4 {
		t.Errorf("stars %v, %v", stars, err)
	}
}

func TestProcessThatEndsMeanwhileIsStartedAgain(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.processes.closing = 2
	s.submit("alice", 4, "")
	s.processes.closing = 100
	_, err := s.as("alice").SubmitReview(t.Context(), &ratingv1.SubmitReviewRequest{BookId: s.book, Stars: 1, Title: "T"})
	refuse(t, err, fault.ReasonUnavailable)
}

func TestProcessThatDoesNotAnswerIsUnavailable(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r := s.submit("alice", 4, "")
	s.processes.err = serviceerror.NewUnavailable("away")
	_, err := s.as("alice").SubmitReview(t.Context(), &ratingv1.SubmitReviewRequest{BookId: s.book, Stars: 1, Title: "T"})
	refuse(t, err, fault.ReasonUnavailable)
	_, err = s.as("alice").DeleteReview(t.Context(), &ratingv1.DeleteReviewRequest{BookId: s.book})
	refuse(t, err, fault.ReasonUnavailable)
	_, err = s.operator().DecideReview(t.Context(), &ratingv1.DecideReviewRequest{ReviewId: r.GetId(), Decision: ratingv1.DecideReviewRequest_PUBLISH, Etag: r.GetEtag()})
	refuse(t, err, fault.ReasonUnavailable)
	_, err = s.operator().RebuildRatings(t.Context(), &ratingv1.RebuildRatingsRequest{})
	refuse(t, err, fault.ReasonUnavailable)
	if got := s.mine("alice"); got.GetStars() != 4 {
		t.Errorf("got %v", got)
	}
	// Its fate is unknown, so what was asked waits for its process.
	var waiting int
	if err := s.db.QueryRow(t.Context(), `select count(*) from request`).Scan(&waiting); err != nil || waiting != 2 {
		t.Errorf("%d requests, %v", waiting, err)
	}
}

func TestRebuildNamesItsProcess(t *testing.T) {
	t.Parallel()
	s := setup(t)
	answer, err := s.operator().RebuildRatings(t.Context(), &ratingv1.RebuildRatingsRequest{})
	if err != nil || answer.GetWorkflowId() != ratings.WorkflowID || !slices.Equal(s.processes.started, []string{ratings.WorkflowID}) {
		t.Errorf("got %v, %v; started %q", answer, err, s.processes.started)
	}
}

func TestSummaryIsShownWithItsSources(t *testing.T) {
	t.Parallel()
	s := setup(t)
	ids := make(map[string]*ratingv1.Review)
	for i := range 3 {
		r := s.submit(fmt.Sprint("shopper ", i), 4, "fine")
		ids[r.GetId()] = r
	}
	source := slices.Sorted(maps.Keys(ids))[0]
	store := s.processes.activities.Reviews
	reviews, rated, err := store.SummarySources(t.Context(), uuid.MustParse(s.book), 5)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(reviews, func(r rating.Review) bool { return r.ID.String() == source })
	stored, err := store.StoreSummary(t.Context(), rating.Summary{BookID: uuid.MustParse(s.book), Text: "Fine [1].", Reviews: 3, Rating: rated.Version}, reviews[i:i+1])
	if err != nil || !stored {
		t.Fatalf("stored %t, %v", stored, err)
	}
	answer, err := s.anonymous().GetRatingSummary(t.Context(), &ratingv1.GetRatingSummaryRequest{BookId: s.book})
	summary := answer.GetSummary()
	if err != nil || summary.GetText() != "Fine [1]." || !slices.Equal(summary.GetSourceReviewIds(), []string{source}) || summary.GetReviewCount() != 3 ||
		time.Since(summary.GetCreateTime().AsTime()) > time.Hour {
		t.Errorf("got %v, %v", answer, err)
	}
}
