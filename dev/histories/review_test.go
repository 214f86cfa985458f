package histories

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"go.temporal.io/sdk/client"
	"golang.org/x/oauth2"

	activities "bookworm/activities/rating"
	api "bookworm/api/rating"
	"bookworm/dev/temporal"
	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/gen/bookworm/ordering/v1/orderingv1connect"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/gen/bookworm/rating/v1/ratingv1connect"
	"bookworm/internal/identity"
	"bookworm/internal/llm"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
	"bookworm/internal/process"
	domain "bookworm/internal/rating"
	"bookworm/internal/rpc"
	"bookworm/internal/rpc/rpctest"
	"bookworm/workers"
	"bookworm/workflows/ratings"
	"bookworm/workflows/review"
)

func migrateRating(ctx context.Context, adminURL string) error {
	return postgres.Migrate(ctx, adminURL, domain.Schema)
}

// reviewers is the rating context on the real server: its API, its worker, and
// what stands for the catalogue, ordering and the model.
type reviewers struct {
	client client.Client
	url    string
	base   *activities.Activities

	mu      sync.Mutex
	ratings map[string]*catalogv1.SetBookRatingRequest
	hold    chan struct{} // a model that is asked about "think" answers when it is closed
}

// roleAndSubject is a verifier for which a token is a subject and a role.
type roleAndSubject struct{}

func (roleAndSubject) Verify(_ context.Context, token string) (identity.Caller, error) {
	subject, role, _ := strings.Cut(token, "/")
	return identity.Caller{Subject: subject, Roles: []accessv1.Role{accessv1.Role(accessv1.Role_value[role])}}, nil
}

type bookshelf struct {
	catalogv1connect.CatalogServiceHandler
	*reviewers
}

func (bookshelf) GetBook(context.Context, *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
	return &catalogv1.GetBookResponse{}, nil
}

func (r *reviewers) SetBookRating(_ context.Context, req *catalogv1.SetBookRatingRequest) (*catalogv1.SetBookRatingResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ratings[req.GetBookId()].GetVersion() < req.GetVersion() {
		r.ratings[req.GetBookId()] = req
	}
	return &catalogv1.SetBookRatingResponse{}, nil
}

func (r *reviewers) ListBookRatings(_ context.Context, req *catalogv1.ListBookRatingsRequest) (*catalogv1.ListBookRatingsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	answer := &catalogv1.ListBookRatingsResponse{}
	for _, id := range slices.Sorted(maps.Keys(r.ratings)) {
		if id > req.GetAfterBookId() {
			answer.Ratings = append(answer.Ratings, &catalogv1.BookRating{BookId: id, Version: r.ratings[id].GetVersion(), Histogram: r.ratings[id].GetHistogram()})
		}
	}
	return answer, nil
}

func (*reviewers) ListPurchases(_ context.Context, req *orderingv1.ListPurchasesRequest) (*orderingv1.ListPurchasesResponse, error) {
	answer := &orderingv1.ListPurchasesResponse{}
	if !strings.HasPrefix(req.GetSubject(), "visitor") {
		answer.Purchases = []*orderingv1.Purchase{{BookId: req.GetBookIds()[0]}}
	}
	return answer, nil
}

// model answers as the last word of the review says.
func (r *reviewers) model(w http.ResponseWriter, req *http.Request) {
	var request struct {
		Messages []struct {
			Content string `json:"content"`
		} `json:"messages"`
	}
	if err := json.NewDecoder(req.Body).Decode(&request); err != nil {
		http.Error(w, "{}", http.StatusBadRequest)
		return
	}
	about := request.Messages[1].Content
	content := `{"verdict": "publish", "reason": ""}`
	switch {
	case strings.HasPrefix(about, "["):
		content = `{"summary": "Readers like it [1][2].", "sources": [1, 2]}`
	case strings.Contains(about, "down"):
		http.Error(w, "{}", http.StatusBadRequest)
		return
	case strings.Contains(about, "think"):
		select {
		case <-r.hold:
		case <-req.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"choices": [{"message": {"role": "assistant", "content": %s}, "finish_reason": "stop"}]}`, strconv.Quote(content))
}

func startReviewers(t *testing.T) *reviewers {
	t.Helper()
	r := &reviewers{ratings: make(map[string]*catalogv1.SetBookRatingRequest), hold: make(chan struct{})}
	pool, err := postgres.Open(t.Context(), pgtest.DB(t, migrateRating), domain.Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	server, err := temporal.Start(ctx, temporal.Options{DataDir: t.TempDir(), SearchAttributes: process.SearchAttributes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	r.client, err = client.DialContext(ctx, client.Options{HostPort: server.Address(), Identity: "recorder", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.Close)

	store := domain.NewStore(pool)
	edge, err := rpc.NewServer(rpc.ServerOptions{Audit: rpctest.Audit(), Verifier: roleAndSubject{}})
	if err != nil {
		t.Fatal(err)
	}
	api.Register(edge, api.Deps{Reviews: store, Temporal: r.client})
	catalogv1connect.RegisterCatalogServiceHandler(edge, bookshelf{reviewers: r})
	catalogv1connect.RegisterBookRatingServiceHandler(edge, r)
	orderingv1connect.RegisterPurchaseServiceHandler(edge, r)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rpc.Serve(serving, listener, rpc.Handler(edge), nil) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	r.url = "http://" + listener.Addr().String()
	shop := r.as("shop", "ROLE_SERVICE")
	r.base = &activities.Activities{
		Reviews: store, Purchases: orderingv1connect.NewPurchaseServiceClient(shop), Books: catalogv1connect.NewCatalogServiceClient(shop),
		Ratings: catalogv1connect.NewBookRatingServiceClient(shop),
	}
	return r
}

func (r *reviewers) as(subject, role string) *connect.Client {
	return rpc.NewClient(rpc.ClientOptions{BaseURL: r.url, Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: subject + "/" + role})})
}

// one is one shopper's review of one book.
type one struct {
	*reviewers

	t       *testing.T
	subject string
	book    string
	api     ratingv1connect.RatingServiceClient
}

func (r *reviewers) one(t *testing.T, subject string) *one {
	return &one{r, t, subject, uuid.NewString(), ratingv1connect.NewRatingServiceClient(r.as(subject, "ROLE_CUSTOMER"))}
}

func (o *one) workflowID() string {
	return review.WorkflowID(domain.ReviewID(uuid.MustParse(o.book), o.subject))
}

func (o *one) submit(text string) *ratingv1.Review {
	o.t.Helper()
	answer, err := o.api.SubmitReview(o.t.Context(), &ratingv1.SubmitReviewRequest{BookId: o.book, Stars: 4, Title: "Title", Text: text})
	if err != nil {
		o.t.Fatal(err)
	}
	return answer.GetReview()
}

func (o *one) await(status ratingv1.Review_Status) *ratingv1.Review {
	o.t.Helper()
	var got *ratingv1.Review
	o.until(func(ctx context.Context) bool {
		answer, err := o.api.GetMyReview(ctx, &ratingv1.GetMyReviewRequest{BookId: o.book})
		if err != nil {
			o.t.Fatal(err)
		}
		got = answer.GetReview()
		return got.GetStatus() == status
	})
	return got
}

func (o *one) awaitStep(want string) {
	o.t.Helper()
	o.until(func(ctx context.Context) bool {
		description, err := o.client.DescribeWorkflow(ctx, o.workflowID(), "")
		if err != nil {
			o.t.Fatal(err)
		}
		step, ok := description.TypedSearchAttributes.GetKeyword(process.Step)
		return ok && step == want
	})
}

func (o *one) awaitRating(histogram ...int32) {
	o.t.Helper()
	o.until(func(context.Context) bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return slices.Equal(o.ratings[o.book].GetHistogram(), histogram)
	})
}

func (o *one) until(done func(context.Context) bool) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done(ctx) {
		select {
		case <-ctx.Done():
			o.t.Fatal("it did not come about")
		case <-tick.C:
		}
	}
}

func (o *one) decide(r *ratingv1.Review, decision ratingv1.DecideReviewRequest_Decision) {
	o.t.Helper()
	moderation := ratingv1connect.NewModerationServiceClient(o.as("root", "ROLE_ADMIN"))
	answer, err := moderation.DecideReview(o.t.Context(), &ratingv1.DecideReviewRequest{
		ReviewId: r.GetId(), Decision: decision, Etag: r.GetEtag(), Reason: "a secret reason",
	})
	if err != nil || answer.GetReview().GetStatus() == ratingv1.Review_IN_QUEUE {
		o.t.Fatal(answer, err)
	}
}

// end waits for the last run and records it.
func (o *one) end(process, path, id string) {
	o.t.Helper()
	run := o.client.GetWorkflow(o.t.Context(), id, "")
	if err := run.Get(o.t.Context(), nil); err != nil {
		o.t.Errorf("%s ended with %v", id, err)
	}
	history := fetch(o.t, o.client, run)
	var read strings.Builder
	read.WriteString(history)
	for _, data := range payload.FindAllStringSubmatch(history, -1) {
		if decoded, err := base64.StdEncoding.DecodeString(data[1]); err == nil {
			read.Write(decoded)
		}
	}
	plain := read.String()
	for _, word := range []string{"words", "Title", "secret"} {
		if strings.Contains(plain, word) {
			o.t.Errorf("A3: the history says %q", word)
		}
	}
	if !strings.Contains(plain, o.book) && process == "review" {
		o.t.Error("the payloads were not read")
	}
	if *record && path != "closing" { // the runs of that one differ from time to time
		if err := os.WriteFile(filepath.Join("..", "..", "workflows", process, "testdata", path+".json"), []byte(history), 0o600); err != nil {
			o.t.Fatal(err)
		}
	}
}

// payload finds the data of payloads.
var payload = regexp.MustCompile(`"data": *"([^"]*)"`)

// run goes every path, with a worker that has these activities, and records it.
func (r *reviewers) run(t *testing.T, a *activities.Activities, paths map[string]func(*one)) {
	t.Helper()
	w := workers.Rating(r.client, a)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	t.Run("paths", func(t *testing.T) {
		for path, do := range paths {
			t.Run(path, func(t *testing.T) {
				t.Parallel()
				o := r.one(t, path)
				do(o)
				id := o.workflowID()
				if path == "summarized" {
					id = review.SummaryID(uuid.MustParse(o.book))
				}
				o.end("review", path, id)
			})
		}
	})
}

func TestReview(t *testing.T) { //nolint:tparallel // its paths run in parallel, below run
	t.Parallel()
	r := startReviewers(t)
	r.run(t, r.base, map[string]func(*one){
		"published": func(o *one) {
			o.submit("words")
			o.awaitRating(0, 0, 0, 1, 0)
		},
		"rejected": func(o *one) {
			o.submit("words to me@example.org")
			if got := o.await(ratingv1.Review_REJECTED); got.GetStatusReason() == "" {
				o.t.Error("no reason")
			}
		},
		"refused": func(o *one) {
			o.subject, o.api = "visitor", ratingv1connect.NewRatingServiceClient(o.as("visitor", "ROLE_CUSTOMER"))
			_, err := o.api.SubmitReview(o.t.Context(), &ratingv1.SubmitReviewRequest{BookId: o.book, Stars: 4, Title: "Title"})
			if !fault.Is(err, fault.ReasonPurchaseRequired) {
				o.t.Error(err)
			}
		},
		"edited": func(o *one) {
			first := o.submit("Bullshit words.")
			o.await(ratingv1.Review_IN_QUEUE)
			o.awaitStep(review.StepOperator)
			if again := o.submit("Better words."); again.GetId() != first.GetId() || again.GetEtag() == first.GetEtag() {
				o.t.Errorf("got %v", again)
			}
			o.awaitRating(0, 0, 0, 1, 0)
			o.await(ratingv1.Review_PUBLISHED)
		},
		"queued-and-decided": func(o *one) {
			o.submit("Bullshit words.")
			waiting := o.await(ratingv1.Review_IN_QUEUE)
			o.awaitStep(review.StepOperator)
			o.decide(waiting, ratingv1.DecideReviewRequest_PUBLISH)
			o.awaitRating(0, 0, 0, 1, 0)
		},
		"deleted": func(o *one) {
			o.submit("words")
			o.awaitRating(0, 0, 0, 1, 0)
			if _, err := o.api.DeleteReview(o.t.Context(), &ratingv1.DeleteReviewRequest{BookId: o.book}); err != nil {
				o.t.Fatal(err)
			}
			o.awaitRating(0, 0, 0, 0, 0)
		},
		"reported": func(o *one) {
			first := o.submit("words")
			o.awaitRating(0, 0, 0, 1, 0)
			for i := range domain.MaxReports {
				reporter := ratingv1connect.NewRatingServiceClient(o.as(fmt.Sprint("reporter ", i), "ROLE_CUSTOMER"))
				_, err := reporter.ReportReview(o.t.Context(), &ratingv1.ReportReviewRequest{ReviewId: first.GetId(), Ground: ratingv1.ReportReviewRequest_SPAM})
				if err != nil {
					o.t.Fatal(err)
				}
			}
			waiting := o.await(ratingv1.Review_IN_QUEUE)
			o.awaitRating(0, 0, 0, 0, 0)
			o.awaitStep(review.StepOperator)
			o.decide(waiting, ratingv1.DecideReviewRequest_REJECT)
			o.await(ratingv1.Review_REJECTED)
		},
	})

	r.mu.Lock()
	for id := range r.ratings {
		delete(r.ratings, id)
		break
	}
	r.mu.Unlock()
	moderation := ratingv1connect.NewModerationServiceClient(r.as("root", "ROLE_ADMIN"))
	for _, behind := range []int{1, 0} {
		if _, err := moderation.RebuildRatings(t.Context(), &ratingv1.RebuildRatingsRequest{}); err != nil {
			t.Fatal(err)
		}
		var found ratings.Result
		err := r.client.GetWorkflow(t.Context(), ratings.WorkflowID, "").Get(t.Context(), &found)
		if err != nil || found.Behind != behind || found.Mended != 0 || found.Contradicted != 0 || found.Waiting != 0 {
			t.Errorf("found %+v, %v", found, err)
		}
	}
	o := r.one(t, "rebuild")
	o.end("ratings", "rebuilt", ratings.WorkflowID)
}

func TestReviewWithModel(t *testing.T) { //nolint:tparallel // as above
	t.Parallel()
	r := startReviewers(t)
	model := httptest.NewServer(http.HandlerFunc(r.model))
	t.Cleanup(model.Close)
	t.Cleanup(func() { close(r.hold) })
	var err error
	if r.base.Model, err = llm.New(llm.Config{BaseURL: model.URL, ChatModel: "test"}); err != nil {
		t.Fatal(err)
	}
	r.run(t, r.base, map[string]func(*one){
		"model-judged": func(o *one) {
			o.submit("words")
			o.awaitRating(0, 0, 0, 1, 0)
		},
		"model-down": func(o *one) {
			o.submit("words down")
			waiting := o.await(ratingv1.Review_IN_QUEUE)
			o.awaitStep(review.StepOperator)
			o.decide(waiting, ratingv1.DecideReviewRequest_PUBLISH)
			o.awaitRating(0, 0, 0, 1, 0)
		},
		"superseded": func(o *one) {
			o.submit("words think")
			o.submit("words")
			o.await(ratingv1.Review_PUBLISHED)
			o.awaitRating(0, 0, 0, 1, 0)
		},
		"summarized": func(o *one) {
			o.submit("words")
			o.await(ratingv1.Review_PUBLISHED)
			for i := range 2 {
				other := *o
				other.subject = fmt.Sprint("also ", i)
				other.api = ratingv1connect.NewRatingServiceClient(o.as(other.subject, "ROLE_CUSTOMER"))
				other.submit("words")
				other.await(ratingv1.Review_PUBLISHED)
			}
			o.until(func(ctx context.Context) bool {
				answer, err := o.api.GetRatingSummary(ctx, &ratingv1.GetRatingSummaryRequest{BookId: o.book})
				if err != nil {
					o.t.Fatal(err)
				}
				return len(answer.GetSummary().GetSourceReviewIds()) == 2
			})
		},
		"closing": func(o *one) { // changes that meet runs which end
			for i := range 40 {
				o.submit(fmt.Sprint("words ", i))
			}
			o.await(ratingv1.Review_PUBLISHED)
			o.awaitRating(0, 0, 0, 1, 0)
		},
	})
}
