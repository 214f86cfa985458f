package notification_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"golang.org/x/oauth2"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	api "bookworm/api/notification"
	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	notificationv1 "bookworm/internal/gen/bookworm/notification/v1"
	"bookworm/internal/gen/bookworm/notification/v1/notificationv1connect"
	"bookworm/internal/identity"
	"bookworm/internal/notification"
	"bookworm/internal/personal"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
	"bookworm/internal/rpc"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func migrate(ctx context.Context, adminURL string) error {
	return postgres.Migrate(ctx, adminURL, notification.Schema)
}

// roles is a verifier for which a token is a subject and a role.
type roles struct{}

func (roles) Verify(_ context.Context, token string) (identity.Caller, error) {
	subject, role, _ := strings.Cut(token, "/")
	return identity.Caller{Subject: subject, Roles: []accessv1.Role{accessv1.Role(accessv1.Role_value[role])}}, nil
}

// setup serves the API over a database of its own and returns its address.
func setup(t *testing.T) string {
	t.Helper()
	pool, err := postgres.Open(t.Context(), pgtest.DB(t, migrate), notification.Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store, err := notification.NewStore(pool, personal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rpc.ServerOptions{Verifier: roles{}})
	if err != nil {
		t.Fatal(err)
	}
	api.Register(server, store)

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
	return "http://" + listener.Addr().String()
}

// as returns a client that calls with a token; none when it is empty.
func as(url, token string) notificationv1connect.PreferenceServiceClient {
	options := rpc.ClientOptions{BaseURL: url}
	if token != "" {
		options.Tokens = oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token})
	}
	return notificationv1connect.NewPreferenceServiceClient(rpc.NewClient(options))
}

const customer = "/ROLE_CUSTOMER"

func change(order, marketing bool, etag string, paths ...string) *notificationv1.UpdatePreferencesRequest {
	return &notificationv1.UpdatePreferencesRequest{
		Preferences: &notificationv1.Preferences{OrderEmails: order, MarketingEmails: marketing, Etag: etag},
		UpdateMask:  &fieldmaskpb.FieldMask{Paths: paths},
	}
}

// want checks preferences as they were answered.
func want(t *testing.T, p *notificationv1.Preferences, err error, order, marketing bool) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if p.GetOrderEmails() != order || p.GetMarketingEmails() != marketing || p.GetEtag() == "" {
		t.Fatalf("preferences %v, want order %t, marketing %t", p, order, marketing)
	}
	return p.GetEtag()
}

func TestPreferences(t *testing.T) {
	t.Parallel()
	url := setup(t)
	alice := as(url, "alice"+customer)
	read := func(order, marketing bool) string {
		t.Helper()
		answer, err := alice.GetPreferences(t.Context(), &notificationv1.GetPreferencesRequest{})
		return want(t, answer.GetPreferences(), err, order, marketing)
	}
	first := read(true, false)

	// Only what the mask names changes, whatever else the message says.
	answer, err := alice.UpdatePreferences(t.Context(), change(false, true, first, "marketing_emails"))
	second := want(t, answer.GetPreferences(), err, true, true)
	if second == first || read(true, true) != second {
		t.Errorf("etags %q, %q", first, second)
	}
	answer, err = alice.UpdatePreferences(t.Context(), change(false, false, "", "order_emails", "marketing_emails"))
	want(t, answer.GetPreferences(), err, false, false)

	// A version seen before is refused with the one that holds now.
	for _, stale := range []string{first, second} {
		_, err = alice.UpdatePreferences(t.Context(), change(true, true, stale, "order_emails"))
		if !fault.Is(err, fault.ReasonStaleVersion) || fault.As(err).Metadata["etag"] != read(false, false) {
			t.Errorf("etag %q: %v", stale, err)
		}
	}
}

func TestIfMatch(t *testing.T) {
	t.Parallel()
	alice := as(setup(t), "alice"+customer)
	update := func(ifMatch, etag string, on bool) (*notificationv1.UpdatePreferencesResponse, error) {
		ctx, info := connect.NewClientContext(t.Context())
		info.RequestHeader().Set("If-Match", ifMatch)
		return alice.UpdatePreferences(ctx, change(on, false, etag, "order_emails"))
	}
	answer, err := update("*", "", false)
	current := want(t, answer.GetPreferences(), err, false, false)
	if _, err := update(`"v0"`, "", true); !fault.Is(err, fault.ReasonStaleVersion) {
		t.Errorf("a stale header: %v", err)
	}
	if _, err := update(`"v0"`, current, true); !fault.Is(err, fault.ReasonInvalidArgument) {
		t.Errorf("a header that contradicts the message: %v", err)
	}
	answer, err = update(`"`+current+`"`, current, true)
	want(t, answer.GetPreferences(), err, true, false)
}

func TestBadUpdatesChangeNothing(t *testing.T) {
	t.Parallel()
	alice := as(setup(t), "alice"+customer)
	for name, req := range map[string]*notificationv1.UpdatePreferencesRequest{
		"no mask":         {Preferences: &notificationv1.Preferences{}},
		"an empty mask":   change(false, true, ""),
		"only the etag":   change(false, true, "v0", "etag"),
		"another field":   change(false, true, "", "order_emails", "subject"),
		"no preferences":  {UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"order_emails"}}},
		"a foreign etag":  change(false, true, "W/1", "order_emails"),
		"an endless etag": change(false, true, strings.Repeat("1", 65), "order_emails"),
	} {
		_, err := alice.UpdatePreferences(t.Context(), req)
		if f := fault.As(err); f == nil || f.Kind() != fault.Invalid || len(f.Fields) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	answer, err := alice.GetPreferences(t.Context(), &notificationv1.GetPreferencesRequest{})
	if etag := want(t, answer.GetPreferences(), err, true, false); etag != "v0" {
		t.Errorf("etag %q", etag)
	}
}

// TestA1_PreferencesAreTheCallersOwn also covers A2: nobody without the role.
func TestA1_PreferencesAreTheCallersOwn(t *testing.T) {
	t.Parallel()
	url := setup(t)
	answer, err := as(url, "alice"+customer).UpdatePreferences(t.Context(), change(false, true, "", "order_emails", "marketing_emails"))
	want(t, answer.GetPreferences(), err, false, true)
	bobs, err := as(url, "bob"+customer).GetPreferences(t.Context(), &notificationv1.GetPreferencesRequest{})
	want(t, bobs.GetPreferences(), err, true, false)

	for token, reason := range map[string]fault.Reason{
		"":                  fault.ReasonTokenMissing,
		"shop/ROLE_SERVICE": fault.ReasonAccessDenied,
	} {
		client := as(url, token)
		// The shop's client makes its own refused credential an error of the shop's,
		// which still tells the reason.
		_, err := client.GetPreferences(t.Context(), &notificationv1.GetPreferencesRequest{})
		if err == nil || !strings.Contains(err.Error(), string(reason)) {
			t.Errorf("get as %q: %v", token, err)
		}
		_, err = client.UpdatePreferences(t.Context(), change(true, false, "", "order_emails"))
		if err == nil || !strings.Contains(err.Error(), string(reason)) {
			t.Errorf("update as %q: %v", token, err)
		}
	}
}
