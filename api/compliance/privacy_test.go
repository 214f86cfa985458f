package compliance_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"golang.org/x/oauth2"

	api "bookworm/api/compliance"
	"bookworm/internal/compliance"
	"bookworm/internal/fault"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
	"bookworm/internal/personal"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
	"bookworm/internal/rpc"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// serveStore serves the context over a database of its own, without Temporal, to callers
// whose token is their role and subject.
func serveStore(t *testing.T) (*compliance.PrivacyStore, func(role string) *connect.Client) {
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
	server, err := rpc.NewServer(rpc.ServerOptions{Verifier: roles{}})
	if err != nil {
		t.Fatal(err)
	}
	api.Register(server, api.Deps{Store: compliance.NewStore(pool), Privacy: privacy})
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
	return privacy, func(role string) *connect.Client {
		return rpc.NewClient(rpc.ClientOptions{
			BaseURL: "http://" + listener.Addr().String(), Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: role}),
		})
	}
}

func TestShopperKeyIsForServices(t *testing.T) {
	t.Parallel()
	privacy, as := serveStore(t)
	shop := compliancev1connect.NewShopperKeyServiceClient(as("ROLE_SERVICE"))
	if _, err := shop.GetShopperKey(t.Context(), &compliancev1.GetShopperKeyRequest{Subject: "alice"}); !fault.Is(err, fault.ReasonShopperKeyNotFound) {
		t.Errorf("without create: %v", err)
	}
	made, err := shop.GetShopperKey(t.Context(), &compliancev1.GetShopperKeyRequest{Subject: "alice", Create: true})
	if err != nil || len(made.GetKey()) != personal.KeySize {
		t.Fatalf("got %v, %v", made, err)
	}
	byID, err := shop.GetShopperKey(t.Context(), &compliancev1.GetShopperKeyRequest{Subject: "alice", KeyId: made.GetKeyId()})
	if err != nil || string(byID.GetKey()) != string(made.GetKey()) {
		t.Errorf("by id: %v", err)
	}
	for name, req := range map[string]*compliancev1.GetShopperKeyRequest{
		"somebody else's": {Subject: "bob", KeyId: made.GetKeyId()}, "none": {Subject: "alice", KeyId: uuid.NewString()},
	} {
		if _, err := shop.GetShopperKey(t.Context(), req); !fault.Is(err, fault.ReasonShopperKeyNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := shop.GetShopperKey(t.Context(), &compliancev1.GetShopperKeyRequest{Subject: "alice", KeyId: "1"}); !fault.Is(err, fault.ReasonInvalidArgument) {
		t.Errorf("no UUID: %v", err)
	}
	id := uuid.Must(uuid.NewV7())
	if _, err := privacy.Begin(t.Context(), "alice", id, compliance.Erasure, []compliance.Step{}); err != nil {
		t.Fatal(err)
	}
	if _, err := shop.GetShopperKey(t.Context(), &compliancev1.GetShopperKeyRequest{Subject: "alice", Create: true}); !fault.Is(err, fault.ReasonErasureInProgress) {
		t.Errorf("beside an erasure: %v", err)
	}
	if err := privacy.CompleteErasure(t.Context(), "alice", id, []compliance.Step{}); err != nil {
		t.Fatal(err)
	}
	if _, err := shop.GetShopperKey(t.Context(), &compliancev1.GetShopperKeyRequest{Subject: "alice", KeyId: made.GetKeyId()}); !fault.Is(err, fault.ReasonShopperKeyNotFound) {
		t.Errorf("after it: %v", err)
	}
	// A2: nobody else gets a key, not even their own.
	for _, role := range []string{"ROLE_CUSTOMER", "ROLE_ADMIN", "ROLE_SUPPORT", "ROLE_REPORTER"} {
		_, err := compliancev1connect.NewShopperKeyServiceClient(as(role)).GetShopperKey(t.Context(), &compliancev1.GetShopperKeyRequest{Subject: role, Create: true})
		if err == nil || !strings.Contains(err.Error(), string(fault.ReasonAccessDenied)) {
			t.Errorf("%s: %v", role, err)
		}
	}
}

func TestRequestsAreReadByWhoMadeThem(t *testing.T) {
	t.Parallel()
	const me = "ROLE_CUSTOMER"
	privacy, as := serveStore(t)
	shop := compliancev1connect.NewPrivacyServiceClient(as(me))
	mine, others := uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7())
	for id, who := range map[uuid.UUID]string{mine: me, others: "bob"} {
		if _, err := privacy.Begin(t.Context(), who, id, compliance.Export, []compliance.Step{{Context: "chat"}}); err != nil {
			t.Fatal(err)
		}
		sections := []compliance.Section{{Context: "chat", Name: "turns", Records: []map[string]any{{"of": who}}}}
		if fits, err := privacy.PutPage(t.Context(), who, id, "chat", 0, sections); err != nil || !fits {
			t.Fatal(fits, err)
		}
	}
	download := &compliancev1.DownloadExportRequest{Id: mine.String()}
	if _, err := shop.DownloadExport(t.Context(), download); !fault.Is(err, fault.ReasonExportNotReady) {
		t.Errorf("while it is collected: %v", err)
	}
	steps := []compliance.Step{{Context: "chat", Done: true, Records: 1, Kept: 2, Note: "n"}}
	for _, id := range []uuid.UUID{mine, others} {
		if _, err := privacy.CompleteExport(t.Context(), id, steps); err != nil {
			t.Fatal(err)
		}
	}
	got, err := shop.DownloadExport(t.Context(), download)
	if err != nil || len(got.GetSections()) != 1 || got.GetSections()[0].GetRecords()[0].AsMap()["of"] != me {
		t.Fatalf("got %v, %v", got, err)
	}
	r := got.GetRequest()
	if r.GetId() != mine.String() || r.GetKind() != compliancev1.DataRequest_EXPORT || r.GetState() != compliancev1.DataRequest_DONE ||
		r.GetProof() != compliance.Prove(mine, compliance.Export, steps) || !r.GetExpiresAt().IsValid() || !r.GetCompletedAt().IsValid() ||
		r.GetSteps()[0].GetRecords() != 1 || r.GetSteps()[0].GetKept() != 2 || r.GetSteps()[0].GetNote() != "n" || !r.GetSteps()[0].GetDone() {
		t.Errorf("the request is %v", r)
	}
	list, err := shop.ListDataRequests(t.Context(), &compliancev1.ListDataRequestsRequest{})
	if err != nil || len(list.GetRequests()) != 1 || list.GetRequests()[0].GetId() != mine.String() {
		t.Errorf("the list is %v, %v", list, err)
	}
	// A1: somebody else's looks as if it were not there.
	if _, err := shop.GetDataRequest(t.Context(), &compliancev1.GetDataRequestRequest{Id: others.String()}); !fault.Is(err, fault.ReasonDataRequestNotFound) {
		t.Errorf("bob's request: %v", err)
	}
	if _, err := shop.DownloadExport(t.Context(), &compliancev1.DownloadExportRequest{Id: others.String()}); !fault.Is(err, fault.ReasonDataRequestNotFound) {
		t.Errorf("bob's export: %v", err)
	}
	if _, err := shop.RequestErasure(t.Context(), &compliancev1.RequestErasureRequest{}); !fault.Is(err, fault.ReasonInvalidArgument) {
		t.Errorf("an erasure without a confirmation: %v", err)
	}
}
