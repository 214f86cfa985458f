package compliance_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"google.golang.org/protobuf/types/known/structpb"

	activities "bookworm/activities/compliance"
	"bookworm/internal/compliance"
	"bookworm/internal/fault"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
	"bookworm/internal/personal"
	"bookworm/internal/personal/personaltest"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
	"bookworm/internal/process"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// shelf is a context with pages of a person's data.
type shelf struct {
	compliancev1connect.PersonalDataServiceClient

	pages  []string // a record each
	failAt int      // this page fails, the first time; -1 for none
	erase  *compliancev1.ErasePersonalDataRequest
	rounds int // of retention that are left
}

func (s *shelf) ExportPersonalData(_ context.Context, req *compliancev1.ExportPersonalDataRequest) (*compliancev1.ExportPersonalDataResponse, error) {
	if req.GetSubject() != "alice" || req.GetContext() != "chat" {
		return nil, fmt.Errorf("asked %v", req)
	}
	at := len(req.GetPageToken()) // a token of n letters asks for page n
	if at == s.failAt {
		s.failAt = -1
		return nil, fault.New(fault.ReasonUnavailable, "away")
	}
	answer := &compliancev1.ExportPersonalDataResponse{}
	if at < len(s.pages) {
		record, err := structpb.NewStruct(map[string]any{"text": s.pages[at], "n": 1.5, "list": []any{"x", nil, true}})
		if err != nil {
			return nil, err
		}
		answer.Sections = []*compliancev1.DataSection{{Name: "turns", Records: []*structpb.Struct{record}}}
	}
	if at+1 < len(s.pages) {
		answer.NextPageToken = strings.Repeat("p", at+1)
	}
	return answer, nil
}

func (s *shelf) ErasePersonalData(_ context.Context, req *compliancev1.ErasePersonalDataRequest) (*compliancev1.ErasePersonalDataResponse, error) {
	s.erase = req
	return &compliancev1.ErasePersonalDataResponse{Erased: 4, Kept: 2, Note: "the law", WaitingFor: []string{"order 1"}}, nil
}

func (s *shelf) ApplyRetention(context.Context, *compliancev1.ApplyRetentionRequest) (*compliancev1.ApplyRetentionResponse, error) {
	s.rounds--
	return &compliancev1.ApplyRetentionResponse{Deleted: map[string]int64{"turns": 10}, More: s.rounds > 0}, nil
}

type office struct {
	*activities.Activities

	env     *testsuite.TestActivityEnvironment
	pool    *pgxpool.Pool
	shelf   *shelf
	request activities.Request
}

func setup(t *testing.T, kind compliance.Kind) office {
	t.Helper()
	pool, err := postgres.Open(t.Context(), pgtest.DB(t, func(ctx context.Context, adminURL string) error {
		return postgres.Migrate(ctx, adminURL, compliance.Schema)
	}), compliance.Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	privacy, err := compliance.NewPrivacyStore(pool, personal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	var suite testsuite.WorkflowTestSuite
	o := office{env: suite.NewTestActivityEnvironment(), pool: pool, shelf: &shelf{failAt: -1}}
	o.Activities = &activities.Activities{
		Privacy: privacy, Log: compliance.NewStore(pool), Holders: map[string]compliancev1connect.PersonalDataServiceClient{"chat": o.shelf},
	}
	o.env.RegisterActivity(o.Activities)
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	o.request = activities.Request{ID: id, Subject: "alice", Kind: kind}
	begun, err := o.BeginRequest(t.Context(), o.request, []compliance.Step{{Context: "chat"}})
	if err != nil || begun.ID != id || begun.Done {
		t.Fatalf("%+v, %v", begun, err)
	}
	return o
}

func (o office) collect(t *testing.T) (step compliance.Step, err error) {
	t.Helper()
	value, err := o.env.ExecuteActivity(o.CollectData, o.request, "chat")
	if err != nil {
		return step, err
	}
	return step, value.Get(&step)
}

func (o office) collected(t *testing.T) []compliance.Section {
	t.Helper()
	if _, err := o.CompleteExport(t.Context(), o.request, []compliance.Step{{Context: "chat", Done: true}}); err != nil {
		t.Fatal(err)
	}
	_, sections, err := o.Privacy.Collected(t.Context(), "alice", o.request.ID)
	if err != nil {
		t.Fatal(err)
	}
	return sections
}

// TestCollectionThatBrokeBeginsAnew breaks it at the last page, when the first ones
// are stored, and has fewer pages the second time.
func TestCollectionThatBrokeBeginsAnew(t *testing.T) {
	t.Parallel()
	o := setup(t, compliance.Export)
	o.shelf.pages, o.shelf.failAt = []string{"a", "b", "c"}, 2
	if _, err := o.collect(t); err == nil {
		t.Fatal("it did not break")
	}
	o.shelf.pages = []string{"unmistakable"}
	step, err := o.collect(t)
	if err != nil || step != (compliance.Step{Context: "chat", Done: true, Records: 1}) {
		t.Errorf("%+v, %v", step, err)
	}
	sections := o.collected(t)
	if len(sections) != 1 || len(sections[0].Records) != 1 || sections[0].Context != "chat" || sections[0].Records[0]["text"] != "unmistakable" ||
		fmt.Sprint(sections[0].Records[0]["list"]) != "[x <nil> true]" {
		t.Errorf("collected %v", sections)
	}
	if places := personaltest.Find(t, o.pool, compliance.Schema.Name, "unmistakable", "alice"); len(places) > 0 {
		t.Errorf("readable in %v", places)
	}
}

func TestWhatDoesNotFitIsSaid(t *testing.T) {
	t.Parallel()
	o := setup(t, compliance.Export)
	half := string(bytes.Repeat([]byte("x"), compliance.MaxExport/2-100))
	o.shelf.pages = []string{half, half, half, half}
	step, err := o.collect(t)
	if err != nil || !step.Done || step.Records != 2 || !strings.Contains(step.Note, "12 MiB") {
		t.Errorf("%+v, %v", step, err)
	}
	if sections := o.collected(t); len(sections) != 1 || len(sections[0].Records) != 2 {
		t.Errorf("collected %d sections", len(sections))
	}
}

func TestErasureHandsThePseudonymOn(t *testing.T) {
	t.Parallel()
	o := setup(t, compliance.Erasure)
	first := ""
	for range 2 {
		erased, err := o.EraseData(t.Context(), o.request, "chat")
		if err != nil || erased.Erased != 4 || erased.Kept != 2 || erased.Note != "the law" || len(erased.WaitingFor) != 1 {
			t.Fatalf("%+v, %v", erased, err)
		}
		asked := o.shelf.erase
		if asked.GetSubject() != "alice" || asked.GetContext() != "chat" || !strings.HasPrefix(asked.GetPseudonym(), "erased-") {
			t.Errorf("asked %v", asked)
		}
		if first == "" {
			first = asked.GetPseudonym()
		}
		if asked.GetPseudonym() != first {
			t.Error("the pseudonym changed")
		}
	}
	if _, err := o.EraseData(t.Context(), o.request, "catalog"); err == nil {
		t.Error("a context without data of people was asked")
	}
}

func TestProofIsLoggedOnceAndNamesNobody(t *testing.T) {
	t.Parallel()
	o := setup(t, compliance.Erasure)
	for range 2 {
		if err := o.RecordProof(t.Context(), o.request, "the proof"); err != nil {
			t.Fatal(err)
		}
	}
	entries, _, err := o.Log.ListAudit(t.Context(), compliance.AuditFilter{}, 10, "")
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	e := entries[0]
	if e.Target["proof"] != "the proof" || e.Target["request_id"] != o.request.ID.String() || e.Procedure != "/bookworm.compliance.v1.PrivacyService/RequestErasure" {
		t.Errorf("logged %+v", e)
	}
	if places := personaltest.Find(t, o.pool, compliance.Schema.Name, "alice"); len(places) > 0 {
		t.Errorf("the subject is in %v", places)
	}
}

func TestRetentionGoesOnUntilNothingIsLeft(t *testing.T) {
	t.Parallel()
	o := setup(t, compliance.Export)
	o.shelf.rounds = 3
	value, err := o.env.ExecuteActivity(o.ApplyRetention, "chat")
	if err != nil {
		t.Fatal(err)
	}
	var deleted map[string]int64
	if err := value.Get(&deleted); err != nil || deleted["turns"] != 30 {
		t.Errorf("deleted %v, %v", deleted, err)
	}
}

func TestRequestsThatCannotBeginAreRefusedForGood(t *testing.T) {
	t.Parallel()
	o := setup(t, compliance.Erasure)
	next := activities.Request{ID: uuid.New(), Subject: "alice", Kind: compliance.Export}
	_, err := o.BeginRequest(t.Context(), next, nil)
	app, ok := errors.AsType[*temporal.ApplicationError](err)
	if f := process.Fault(err); f == nil || f.Reason != fault.ReasonErasureInProgress || !ok || !app.NonRetryable() {
		t.Errorf("got %v", err)
	}
}
