package rpc_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"golang.org/x/oauth2"
	"google.golang.org/protobuf/proto"

	"bookworm/internal/fault"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/gen/bookworm/ordering/v1/orderingv1connect"
	typev1 "bookworm/internal/gen/bookworm/type/v1"
	"bookworm/internal/identity"
	"bookworm/internal/identity/identitytest"
	"bookworm/internal/rpc"
)

// logbook is an audit log that can be away.
type logbook struct {
	mu      sync.Mutex
	entries []*compliancev1.AuditEntry
	away    func(*compliancev1.AuditEntry) bool // nil: never
	taken   chan struct{}                       // gets a value for each entry, if there is room
}

func (l *logbook) AppendAuditEntry(_ context.Context, r *compliancev1.AppendAuditEntryRequest) (*compliancev1.AppendAuditEntryResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away != nil && l.away(r.GetEntry()) {
		return nil, fault.New(fault.ReasonUnavailable, "away")
	}
	l.entries = append(l.entries, proto.CloneOf(r.GetEntry()))
	select {
	case l.taken <- struct{}{}:
	default:
	}
	return &compliancev1.AppendAuditEntryResponse{Sequence: int64(len(l.entries))}, nil
}

func (l *logbook) set(away func(*compliancev1.AuditEntry) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = away
}

func (l *logbook) all() []*compliancev1.AuditEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries)
}

// outcomes says what the log holds, in short.
func (l *logbook) outcomes() (short []string) {
	for _, e := range l.all() {
		short = append(short, strings.TrimSuffix(e.GetOutcome().String()+" "+e.GetReason(), " "))
	}
	return short
}

func always(*compliancev1.AuditEntry) bool { return true }
func settled(e *compliancev1.AuditEntry) bool {
	return e.GetOutcome() != compliancev1.AuditEntry_ATTEMPTED
}
func aborting(context.Context) (string, error) { panic(http.ErrAbortHandler) }

// desk is a server with procedures of the staff, whose handlers the test gives.
type desk struct {
	catalogv1connect.UnimplementedCatalogAdminServiceHandler
	orderingv1connect.UnimplementedOrderServiceHandler
	compliancev1connect.UnimplementedAuditServiceHandler

	log      *logbook
	provider *identitytest.Provider
	url      string
	logged   *buffer
	audit    *rpc.Audit

	mu    sync.Mutex
	calls int
	act   func(context.Context) (id string, err error)
}

func (d *desk) run(ctx context.Context) (string, error) {
	d.mu.Lock()
	d.calls++
	act := d.act
	d.mu.Unlock()
	if act == nil {
		return "", nil
	}
	return act(ctx)
}

func (d *desk) ran() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls
}

func (d *desk) ArchiveBook(ctx context.Context, _ *catalogv1.ArchiveBookRequest) (*catalogv1.ArchiveBookResponse, error) {
	_, err := d.run(ctx)
	return &catalogv1.ArchiveBookResponse{}, err
}

func (d *desk) CreateBook(ctx context.Context, r *catalogv1.CreateBookRequest) (*catalogv1.CreateBookResponse, error) {
	id, err := d.run(ctx)
	return &catalogv1.CreateBookResponse{Book: &catalogv1.Book{Id: id, Title: r.GetTitle()}}, err
}

func (d *desk) GetSearchIndex(ctx context.Context, _ *catalogv1.GetSearchIndexRequest) (*catalogv1.GetSearchIndexResponse, error) {
	_, err := d.run(ctx)
	return &catalogv1.GetSearchIndexResponse{}, err
}

func (d *desk) GetOrder(ctx context.Context, r *orderingv1.GetOrderRequest) (*orderingv1.GetOrderResponse, error) {
	_, err := d.run(ctx)
	return &orderingv1.GetOrderResponse{Order: &orderingv1.Order{Id: r.GetId()}}, err
}

func (d *desk) CancelOrder(ctx context.Context, r *orderingv1.CancelOrderRequest) (*orderingv1.CancelOrderResponse, error) {
	_, err := d.run(ctx)
	return &orderingv1.CancelOrderResponse{Order: &orderingv1.Order{Id: r.GetId()}}, err
}

func (d *desk) ListOrders(ctx context.Context, _ *orderingv1.ListOrdersRequest) (*orderingv1.ListOrdersResponse, error) {
	_, err := d.run(ctx)
	return &orderingv1.ListOrdersResponse{}, err
}

func (d *desk) ExportAuditLog(
	ctx context.Context, _ *compliancev1.ExportAuditLogRequest, stream compliancev1connect.AuditServiceExportAuditLogServerStream,
) error {
	for range 2 {
		if err := stream.Send(&compliancev1.ExportAuditLogResponse{Entry: &compliancev1.AuditEntry{Id: aBook}}); err != nil {
			return err
		}
	}
	_, err := d.run(ctx)
	return err
}

func staffed(t *testing.T) *desk {
	t.Helper()
	d := &desk{log: &logbook{taken: make(chan struct{}, 100)}, provider: identitytest.New(t), logged: &buffer{}}
	logger := slog.New(slog.NewJSONHandler(d.logged, nil))
	d.audit = rpc.NewAudit(d.log, logger)
	d.serve(t, d.audit)
	return d
}

func (d *desk) serve(t *testing.T, audit *rpc.Audit) {
	t.Helper()
	verifier, err := identity.NewVerifier(t.Context(), identity.VerifierConfig{Issuer: d.provider.Issuer, Audience: identitytest.Audience})
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rpc.ServerOptions{Verifier: verifier, Logger: slog.New(slog.NewJSONHandler(d.logged, nil)), Audit: audit})
	if err != nil {
		t.Fatal(err)
	}
	catalogv1connect.RegisterCatalogAdminServiceHandler(server, d)
	orderingv1connect.RegisterOrderServiceHandler(server, d)
	compliancev1connect.RegisterAuditServiceHandler(server, d)
	d.url = serve(t, rpc.Handler(server))
}

// as returns a client of somebody with these roles.
func (d *desk) as(subject string, roles ...string) *connect.Client {
	return rpc.NewClient(rpc.ClientOptions{
		BaseURL: d.url, Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: d.provider.Token(subject, roles...)}),
	})
}

func TestStaffActionIsRecordedBeforeAndAfter(t *testing.T) {
	t.Parallel()
	d := staffed(t)
	d.act = func(context.Context) (string, error) {
		if got := fmt.Sprint(d.log.outcomes()); got != "[ATTEMPTED]" {
			t.Errorf("while the handler runs the log holds %s", got)
		}
		return "", nil
	}
	request := &catalogv1.ArchiveBookRequest{Id: aBook}
	if _, err := catalogv1connect.NewCatalogAdminServiceClient(d.as("ops", "admin", "customer")).ArchiveBook(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	entries := d.log.all()
	if got := fmt.Sprint(d.log.outcomes()); got != "[ATTEMPTED SUCCEEDED]" {
		t.Fatalf("the log holds %s", got)
	}
	plain, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(plain)
	for _, e := range entries {
		if e.GetActor() != "ops" || !slices.Equal(e.GetRoles(), []string{"admin", "customer"}) ||
			e.GetProcedure() != "/bookworm.catalog.v1.CatalogAdminService/ArchiveBook" || !maps.Equal(e.GetTarget(), map[string]string{"id": aBook}) ||
			e.GetRequestHash() != hex.EncodeToString(sum[:]) || e.GetActionId() != entries[0].GetActionId() || uuid.Validate(e.GetActionId()) != nil ||
			e.GetTraceId() == "" {
			t.Errorf("recorded %v", e)
		}
	}
	if entries[0].GetId() == entries[1].GetId() {
		t.Error("both entries have one id")
	}
}

func TestFailuresOfStaffActionsSayWhy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		act  func(context.Context) (string, error)
		want string
	}{
		"a fault":     {func(context.Context) (string, error) { return "", fault.New(fault.ReasonBookNotFound, "No.") }, "FAILED BOOK_NOT_FOUND"},
		"its own":     {func(context.Context) (string, error) { return "", errors.New("disk full") }, "FAILED INTERNAL"},
		"no time":     {func(context.Context) (string, error) { return "", context.DeadlineExceeded }, "FAILED UNAVAILABLE"},
		"a panic":     {func(context.Context) (string, error) { panic("nil map") }, "FAILED INTERNAL"},
		"an aborting": {aborting, "FAILED INTERNAL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := staffed(t)
			d.act = c.act
			_, err := catalogv1connect.NewCatalogAdminServiceClient(d.as("ops", "admin")).ArchiveBook(t.Context(), &catalogv1.ArchiveBookRequest{Id: aBook})
			if err == nil {
				t.Fatal("it succeeded")
			}
			<-d.log.taken
			select { // an aborted answer reaches the client before the handler has ended
			case <-d.log.taken:
			case <-time.After(10 * time.Second):
			}
			if got := d.log.outcomes(); !slices.Equal(got, []string{"ATTEMPTED", c.want}) {
				t.Errorf("recorded %v", got)
			}
		})
	}
}

// TestWhoseCallsAreRecorded walks the rule: which roles, which procedures.
func TestWhoseCallsAreRecorded(t *testing.T) {
	t.Parallel()
	orders := func(call func(orderingv1connect.OrderServiceClient, context.Context) error) func(context.Context, *connect.Client) error {
		return func(ctx context.Context, c *connect.Client) error {
			return call(orderingv1connect.NewOrderServiceClient(c), ctx)
		}
	}
	get := orders(func(c orderingv1connect.OrderServiceClient, ctx context.Context) error {
		_, err := c.GetOrder(ctx, &orderingv1.GetOrderRequest{Id: aBook})
		return err
	})
	cancel := orders(func(c orderingv1connect.OrderServiceClient, ctx context.Context) error {
		_, err := c.CancelOrder(ctx, &orderingv1.CancelOrderRequest{Id: aBook})
		return err
	})
	list := orders(func(c orderingv1connect.OrderServiceClient, ctx context.Context) error {
		_, err := c.ListOrders(ctx, &orderingv1.ListOrdersRequest{})
		return err
	})
	index := func(ctx context.Context, c *connect.Client) error {
		_, err := catalogv1connect.NewCatalogAdminServiceClient(c).GetSearchIndex(ctx, &catalogv1.GetSearchIndexRequest{})
		return err
	}
	export := func(ctx context.Context, c *connect.Client) error {
		stream, err := compliancev1connect.NewAuditServiceClient(c).ExportAuditLog(ctx, &compliancev1.ExportAuditLogRequest{})
		for err == nil {
			_, err = stream.Receive()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	for name, c := range map[string]struct {
		roles []string
		call  func(context.Context, *connect.Client) error
		want  []string
	}{
		"a customer cancels":                {[]string{"customer"}, cancel, nil},
		"a customer reads":                  {[]string{"customer"}, get, nil},
		"support cancels":                   {[]string{"support"}, cancel, []string{"ATTEMPTED", "SUCCEEDED"}},
		"support reads an order":            {[]string{"support"}, get, []string{"SUCCEEDED"}},
		"an admin who buys reads an order":  {[]string{"customer", "admin"}, get, []string{"SUCCEEDED"}},
		"an admin who buys lists their own": {[]string{"customer", "admin"}, list, nil},
		"a reporter reads the shop's":       {[]string{"reporter"}, index, nil},
		"a reporter exports the log":        {[]string{"reporter"}, export, []string{"ATTEMPTED", "SUCCEEDED"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := staffed(t)
			if err := c.call(t.Context(), d.as("somebody", c.roles...)); err != nil {
				t.Fatal(err)
			}
			if got := d.log.outcomes(); !slices.Equal(got, c.want) || d.ran() != 1 {
				t.Errorf("recorded %v in %d calls", got, d.ran())
			}
			for _, e := range d.log.all() {
				if want := (e.GetProcedure() == "/bookworm.compliance.v1.AuditService/ExportAuditLog"); want != (len(e.GetTarget()) == 0) {
					t.Errorf("the target is %v", e.GetTarget())
				}
			}
		})
	}
}

// TestEveryStaffProcedureIsRecorded walks all contracts: whatever only the staff
// may do with an effect, and whatever reaches a customer's things, is recorded.
func TestEveryStaffProcedureIsRecorded(t *testing.T) {
	t.Parallel()
	got := make(map[string][]string)
	for _, method := range methods() {
		for _, role := range []string{"admin", "support", "reporter", "customer", "service"} {
			if how := rpc.Recorded(role, method); how != "" {
				name := string(method.FullName().Name())
				got[name] = append(got[name], role+" "+how)
			}
		}
	}
	acted := func(roles ...string) (want []string) {
		for _, role := range roles {
			want = append(want, role+" acting")
		}
		return want
	}
	want := map[string][]string{
		"CreateBook": acted("admin"), "UpdateBook": acted("admin"), "ArchiveBook": acted("admin"), "RebuildSearchIndex": acted("admin"),
		"CancelOrder": acted("admin", "support"), "DecideReview": acted("admin", "support"), "RebuildRatings": acted("admin"),
		"ExportAuditLog": acted("admin", "reporter"),
		"GetOrder":       {"admin reading", "support reading"}, "GetPayment": {"admin reading", "support reading"},
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("recorded are\n%v, want\n%v", got, want)
	}
}

func TestNothingHappensUnrecorded(t *testing.T) {
	t.Parallel()
	for name, audit := range map[string]func(*desk) *rpc.Audit{
		"the log is away": func(d *desk) *rpc.Audit { return d.audit }, "no log is configured": func(*desk) *rpc.Audit { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := staffed(t)
			d.serve(t, audit(d))
			d.log.set(always)
			_, err := catalogv1connect.NewCatalogAdminServiceClient(d.as("ops", "admin")).ArchiveBook(t.Context(), &catalogv1.ArchiveBookRequest{Id: aBook})
			if !fault.Is(err, fault.ReasonUnavailable) || d.ran() != 0 {
				t.Errorf("got %v, and the handler ran %d times", err, d.ran())
			}
			orders := orderingv1connect.NewOrderServiceClient(d.as("support", "support"))
			if answer, err := orders.GetOrder(t.Context(), &orderingv1.GetOrderRequest{Id: aBook}); !fault.Is(err, fault.ReasonUnavailable) || answer != nil {
				t.Errorf("an unrecorded reading got %v, %v", answer, err)
			}
			// A customer needs no log.
			if _, err := orderingv1connect.NewOrderServiceClient(d.as("alice", "customer")).
				GetOrder(t.Context(), &orderingv1.GetOrderRequest{Id: aBook}); err != nil {
				t.Errorf("a customer's reading: %v", err)
			}
		})
	}
}

func TestRefusedCallsAreNoActions(t *testing.T) {
	t.Parallel()
	d := staffed(t)
	if _, err := catalogv1connect.NewCatalogAdminServiceClient(d.as("alice", "customer")).
		ArchiveBook(t.Context(), &catalogv1.ArchiveBookRequest{Id: aBook}); err == nil || !strings.Contains(err.Error(), string(fault.ReasonAccessDenied)) {
		t.Errorf("a customer: %v", err)
	}
	if _, err := catalogv1connect.NewCatalogAdminServiceClient(d.as("ops", "admin")).
		ArchiveBook(t.Context(), &catalogv1.ArchiveBookRequest{Id: "x"}); !fault.Is(err, fault.ReasonInvalidArgument) {
		t.Errorf("a request that is not valid: %v", err)
	}
	if got := d.log.outcomes(); len(got) != 0 || d.ran() != 0 {
		t.Errorf("recorded %v", got)
	}
}

// TestA3_TheAuditLogHoldsNoContent creates a book with words everywhere.
func TestA3_TheAuditLogHoldsNoContent(t *testing.T) {
	t.Parallel()
	d := staffed(t)
	made := uuid.NewString()
	d.act = func(context.Context) (string, error) { return made, nil }
	_, err := catalogv1connect.NewCatalogAdminServiceClient(d.as("ops", "admin")).CreateBook(t.Context(), &catalogv1.CreateBookRequest{
		Isbn13: "9780000000002", Title: uuid.NewString(), Subtitle: "secret", Authors: []string{"Secret Author"}, Description: "secret", Publisher: "secret",
		Language: "en", PageCount: 1, Categories: []string{"secret"}, Price: &typev1.Money{CurrencyCode: "USD", AmountMinor: 1999},
	})
	if err != nil {
		t.Fatal(err)
	}
	entries := d.log.all()
	if len(entries) != 2 || len(entries[0].GetTarget()) != 0 || !maps.Equal(entries[1].GetTarget(), map[string]string{"book.id": made}) {
		t.Fatalf("recorded %v", entries)
	}
	if text := strings.ToLower(fmt.Sprint(entries)); strings.Contains(text, "secret") {
		t.Errorf("recorded %s", text)
	}
}

func TestOutcomesWaitForTheLog(t *testing.T) {
	t.Parallel()
	d := staffed(t)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { d.audit.Run(ctx) })
	defer running.Wait()
	defer cancel()
	d.log.set(settled)
	archive := catalogv1connect.NewCatalogAdminServiceClient(d.as("ops", "admin"))
	if _, err := archive.ArchiveBook(t.Context(), &catalogv1.ArchiveBookRequest{Id: aBook}); err != nil {
		t.Fatalf("what was done is told to have failed: %v", err)
	}
	<-d.log.taken
	action := d.log.all()[0].GetActionId()
	if text := d.logged.String(); !strings.Contains(text, action) || !strings.Contains(text, `"level":"ERROR"`) {
		t.Errorf("the missing outcome of %s is not in\n%s", action, text)
	}
	d.log.set(nil)
	select {
	case <-d.log.taken:
	case <-time.After(20 * time.Second):
	}
	if entries := d.log.all(); len(entries) != 2 || entries[1].GetOutcome() != compliancev1.AuditEntry_SUCCEEDED || entries[1].GetActionId() != action {
		t.Errorf("recorded %v", entries)
	}
}

// TestOutcomesThatAreLostAreLogged ends the process while the log is away.
func TestOutcomesThatAreLostAreLogged(t *testing.T) {
	t.Parallel()
	d := staffed(t)
	ctx, cancel := context.WithCancel(t.Context())
	d.log.set(settled)
	if _, err := catalogv1connect.NewCatalogAdminServiceClient(d.as("ops", "admin")).
		ArchiveBook(t.Context(), &catalogv1.ArchiveBookRequest{Id: aBook}); err != nil {
		t.Fatal(err)
	}
	cancel()
	d.audit.Run(ctx)
	if text := d.logged.String(); !strings.Contains(text, "outcome is missing in the audit log") || !strings.Contains(text, d.log.all()[0].GetActionId()) {
		t.Errorf("logged\n%s", text)
	}
}
