package compliance_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	api "bookworm/api/compliance"
	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
	"bookworm/internal/identity"
	"bookworm/internal/personal"
	"bookworm/internal/rpc"
)

// roles is a verifier for which a token is a role.
type roles struct{}

func (roles) Verify(_ context.Context, token string) (identity.Caller, error) {
	return identity.Caller{Subject: token, Roles: []accessv1.Role{accessv1.Role(accessv1.Role_value[token])}}, nil
}

// shelf is a context that has one record of everybody.
type shelf struct{ name string }

func (s shelf) Export(_ context.Context, subject, token string) ([]personal.Section, string, error) {
	records, err := personal.Records(map[string]any{"of": subject, "in": s.name, "n": 7, "list": []string{"x"}})
	if token != "" {
		return nil, "", err
	}
	return []personal.Section{{Name: "things", Records: records}}, "more", err
}

func (s shelf) Erase(_ context.Context, subject, pseudonym string) (personal.Erasure, error) {
	if s.name == "waiting" {
		return personal.Erasure{WaitingFor: []string{"order 1"}}, nil
	}
	return personal.Erasure{Erased: 2, Kept: 1, Note: subject + " is " + pseudonym}, nil
}

func (s shelf) Retain(context.Context) (map[string]int64, bool, error) {
	return map[string]int64{s.name: 3}, true, nil
}

func setup(t *testing.T) func(role string) compliancev1connect.PersonalDataServiceClient {
	t.Helper()
	server, err := rpc.NewServer(rpc.ServerOptions{Verifier: roles{}})
	if err != nil {
		t.Fatal(err)
	}
	api.RegisterHolders(server, map[string]personal.Holder{"basket": shelf{"basket"}, "waiting": shelf{"waiting"}})
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
	return func(role string) compliancev1connect.PersonalDataServiceClient {
		return compliancev1connect.NewPersonalDataServiceClient(rpc.NewClient(rpc.ClientOptions{
			BaseURL: "http://" + listener.Addr().String(), Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: role}),
		}))
	}
}

func TestEachContextAnswersForItself(t *testing.T) {
	t.Parallel()
	shop := setup(t)("ROLE_SERVICE")
	for _, name := range []string{"basket", "waiting"} {
		exported, err := shop.ExportPersonalData(t.Context(), &compliancev1.ExportPersonalDataRequest{Subject: "alice", Context: name})
		if err != nil {
			t.Fatal(err)
		}
		section := exported.GetSections()[0]
		record := section.GetRecords()[0].AsMap()
		if section.GetContext() != name || section.GetName() != "things" || record["of"] != "alice" || record["in"] != name || record["n"] != 7.0 ||
			exported.GetNextPageToken() != "more" {
			t.Errorf("%s exports %v", name, exported)
		}
		kept, err := shop.ApplyRetention(t.Context(), &compliancev1.ApplyRetentionRequest{Context: name})
		if err != nil || kept.GetDeleted()[name] != 3 || !kept.GetMore() {
			t.Errorf("%s: %v, %v", name, kept, err)
		}
	}
	last, err := shop.ExportPersonalData(t.Context(), &compliancev1.ExportPersonalDataRequest{Subject: "alice", Context: "basket", PageToken: "more"})
	if err != nil || len(last.GetSections()) > 0 || last.GetNextPageToken() != "" {
		t.Errorf("the last page is %v, %v", last, err)
	}
	erased, err := shop.ErasePersonalData(t.Context(), &compliancev1.ErasePersonalDataRequest{Subject: "alice", Pseudonym: "p", Context: "basket"})
	if err != nil || erased.GetErased() != 2 || erased.GetKept() != 1 || erased.GetNote() != "alice is p" || len(erased.GetWaitingFor()) > 0 {
		t.Errorf("%v, %v", erased, err)
	}
	erased, err = shop.ErasePersonalData(t.Context(), &compliancev1.ErasePersonalDataRequest{Subject: "alice", Pseudonym: "p", Context: "waiting"})
	if err != nil || len(erased.GetWaitingFor()) != 1 || erased.GetWaitingFor()[0] != "order 1" || erased.GetErased() != 0 {
		t.Errorf("%v, %v", erased, err)
	}
}

func TestBadRequestsForPersonalData(t *testing.T) {
	t.Parallel()
	shop := setup(t)("ROLE_SERVICE")
	for field, call := range map[string]func() error{
		"context": func() error {
			_, err := shop.ExportPersonalData(t.Context(), &compliancev1.ExportPersonalDataRequest{Subject: "alice", Context: "catalog"})
			return err
		},
		"context ": func() error {
			_, err := shop.ErasePersonalData(t.Context(), &compliancev1.ErasePersonalDataRequest{Subject: "alice", Pseudonym: "p", Context: "catalog"})
			return err
		},
		"context  ": func() error {
			_, err := shop.ApplyRetention(t.Context(), &compliancev1.ApplyRetentionRequest{Context: "catalog"})
			return err
		},
		"pseudonym": func() error {
			_, err := shop.ErasePersonalData(t.Context(), &compliancev1.ErasePersonalDataRequest{Subject: "alice", Pseudonym: "alice", Context: "basket"})
			return err
		},
		"subject": func() error {
			_, err := shop.ErasePersonalData(t.Context(), &compliancev1.ErasePersonalDataRequest{Pseudonym: "p", Context: "basket"})
			return err
		},
	} {
		err := call()
		f := fault.As(err)
		if f == nil || f.Reason != fault.ReasonInvalidArgument || len(f.Fields) != 1 || f.Fields[0].Name != strings.TrimSpace(field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestA2_PersonalDataIsForServices(t *testing.T) {
	t.Parallel()
	as := setup(t)
	for _, role := range []string{"ROLE_CUSTOMER", "ROLE_ADMIN", "ROLE_SUPPORT", "ROLE_REPORTER"} {
		_, exported := as(role).ExportPersonalData(t.Context(), &compliancev1.ExportPersonalDataRequest{Subject: role, Context: "basket"})
		_, erased := as(role).ErasePersonalData(t.Context(), &compliancev1.ErasePersonalDataRequest{Subject: role, Pseudonym: "p", Context: "basket"})
		_, retained := as(role).ApplyRetention(t.Context(), &compliancev1.ApplyRetentionRequest{Context: "basket"})
		for _, err := range []error{exported, erased, retained} {
			if err == nil || !strings.Contains(err.Error(), string(fault.ReasonAccessDenied)) {
				t.Errorf("%s: %v", role, err)
			}
		}
	}
}
