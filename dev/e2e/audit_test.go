package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"bookworm/cmd/bookworm/app"
	"bookworm/dev/shopper"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/telemetry"
)

// member is somebody of the shop's staff, whom no other test knows.
type member struct {
	*shopper.Shopper

	subject string
}

func hire(t *testing.T, roles ...string) member {
	t.Helper()
	m := member{subject: uuid.NewString()}
	m.Shopper = &shopper.Shopper{Gateway: theShop.Addresses["BOOKWORM_GATEWAY_URL"], Token: issue(t, map[string]any{
		"sub": m.subject, "email": nil, "realm_access": map[string]any{"roles": roles}, "exp": time.Now().Add(time.Hour),
	})}
	return m
}

// recorded waits for a number of entries of somebody's and returns them, oldest
// first.
func recorded(ctx context.Context, t *testing.T, reporter member, actor string, count int) []*compliancev1.AuditEntry {
	t.Helper()
	list, err := shopper.Await(ctx, func(ctx context.Context) (*compliancev1.ListAuditEntriesResponse, error) {
		list := &compliancev1.ListAuditEntriesResponse{}
		_, err := reporter.Do(ctx, http.MethodGet, "/api/v1/audit/entries?actor="+url.QueryEscape(actor), nil, list)
		return list, err
	}, func(l *compliancev1.ListAuditEntriesResponse) bool { return len(l.GetEntries()) >= count })
	if err != nil {
		t.Fatalf("%d entries of %s: %v", count, actor, err)
	}
	entries := list.GetEntries()
	slices.Reverse(entries)
	return entries
}

// short says what matters of entries.
func short(entries []*compliancev1.AuditEntry) []string {
	var lines []string
	for _, e := range entries {
		procedure := e.GetProcedure()[strings.LastIndex(e.GetProcedure(), "/")+1:]
		lines = append(lines, strings.TrimSpace(fmt.Sprint(procedure, " ", e.GetOutcome(), " ", e.GetReason())))
	}
	return lines
}

func TestStaffActionsAreInTheAuditLog(t *testing.T) {
	t.Parallel()
	v, admin, support, reporter := enter(t), hire(t, "admin", "customer"), hire(t, "support"), hire(t, "reporter")
	title := book(t, 1999, 9)
	v.fill(title)
	first := v.becomes(v.order("pm_card_visa"), orderingv1.Order_CONFIRMED)
	v.fill(title)
	second := v.becomes(v.order("pm_card_visa"), orderingv1.Order_CONFIRMED)

	// The shopper cancels one order, support looks at the other and cancels it.
	if _, err := v.Cancel(v.ctx, first.GetId()); err != nil {
		t.Fatal(err)
	}
	if _, err := support.Order(v.ctx, second.GetId()); err != nil {
		t.Fatal(err)
	}
	if _, err := support.Cancel(v.ctx, second.GetId()); err != nil {
		t.Fatal(err)
	}
	if _, err := support.Cancel(v.ctx, uuid.NewString()); shopper.Reason(err) != "ORDER_NOT_FOUND" {
		t.Errorf("an order that does not exist: %v", err)
	}
	if _, err := admin.Do(v.ctx, http.MethodPost, "/api/v1/books/"+title+":archive", &catalogv1.ArchiveBookRequest{}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Basket(v.ctx); err != nil { // as the customer that they are, too
		t.Fatal(err)
	}

	did := recorded(v.ctx, t, reporter, support.subject, 5)
	want := []string{"GetOrder SUCCEEDED", "CancelOrder ATTEMPTED", "CancelOrder SUCCEEDED", "CancelOrder ATTEMPTED", "CancelOrder FAILED ORDER_NOT_FOUND"}
	if !slices.Equal(short(did), want) {
		t.Errorf("support did %q", short(did))
	}
	for _, e := range did[:3] {
		if e.GetTarget()["id"] != second.GetId() || e.GetActor() != support.subject || !slices.Equal(e.GetRoles(), []string{"support"}) {
			t.Errorf("recorded %v", e)
		}
	}
	if did[1].GetActionId() != did[2].GetActionId() || did[2].GetActionId() == did[3].GetActionId() {
		t.Error("the actions are mixed up")
	}
	archived := recorded(v.ctx, t, reporter, admin.subject, 2)
	if !slices.Equal(short(archived), []string{"ArchiveBook ATTEMPTED", "ArchiveBook SUCCEEDED"}) || archived[0].GetTarget()["id"] != title {
		t.Errorf("the administrator did %v", archived)
	}
	if own := recorded(v.ctx, t, reporter, v.subject, 0); len(own) != 0 {
		t.Errorf("the shopper's own cancellation is recorded: %v", own)
	}
}

func TestTheAuditLogIsForReportersAndCanBeChecked(t *testing.T) {
	t.Parallel()
	v, admin, support, reporter := enter(t), hire(t, "admin"), hire(t, "support"), hire(t, "reporter")
	for range 3 {
		if _, err := admin.Do(v.ctx, http.MethodPost, "/api/v1/books/"+uuid.NewString()+":archive", &catalogv1.ArchiveBookRequest{}, nil); err == nil {
			t.Fatal("a book that does not exist was archived")
		}
	}
	recorded(v.ctx, t, reporter, admin.subject, 6)
	for _, path := range []string{"/api/v1/audit/entries", "/api/v1/audit/entries:export", "/api/v1/audit/entries:verify"} {
		for name, who := range map[string]*shopper.Shopper{"a customer": v.Shopper, "support": support.Shopper} {
			if _, err := who.Do(v.ctx, http.MethodGet, path, nil, nil); shopper.Reason(err) != "ACCESS_DENIED" {
				t.Errorf("%s to %s: %v", path, name, err)
			}
		}
	}
	verdict := &compliancev1.VerifyAuditLogResponse{}
	if _, err := reporter.Do(v.ctx, http.MethodGet, "/api/v1/audit/entries:verify", nil, verdict); err != nil || !verdict.GetIntact() || verdict.GetEntries() < 6 {
		t.Errorf("the log is %v, %v", verdict, err)
	}
	status, _, export, err := reporter.Raw(v.ctx, http.MethodGet, "/api/v1/audit/entries:export", http.NoBody)
	if err != nil || status != http.StatusOK {
		t.Fatalf("export: %d, %v", status, err)
	}
	says, err := check(t, export)
	if err != nil || !strings.Contains(says, "intact up to entry ") || !bytes.Contains(export, []byte(verdict.GetHead())) {
		t.Errorf("the script says %q, %v", says, err)
	}
	if says, err := check(t, bytes.Replace(export, []byte(admin.subject), []byte(uuid.NewString()), 1)); err == nil || !strings.Contains(says, "broken at entry ") {
		t.Errorf("of a changed export the script says %q", says)
	}
	lines := bytes.SplitAfter(export, []byte("\n\n"))
	if says, err := check(t, bytes.Join(slices.Delete(lines, 2, 3), nil)); err == nil || !strings.Contains(says, "broken at entry 3") {
		t.Errorf("of an export without its third entry the script says %q", says)
	}
}

// check runs the script of docs/audit.md over an export.
func check(t *testing.T, export []byte) (says string, err error) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no Python here to run docs/verify_audit.py with")
	}
	script := exec.CommandContext(t.Context(), python, "../../docs/verify_audit.py")
	script.Stdin = bytes.NewReader(export)
	out, err := script.CombinedOutput()
	return string(out), err
}

// TestNothingIsDoneWhileTheAuditLogIsAway runs the catalogue and the log as
// processes of their own beside the shop, on its database, and stops the log.
func TestNothingIsDoneWhileTheAuditLogIsAway(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	listen := func(address string) net.Listener {
		listener, err := shopper.Await(ctx, func(ctx context.Context) (net.Listener, error) {
			listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
			if err != nil {
				return nil, nil //nolint:nilerr,nilnil // not yet: the port is being given back
			}
			return listener, nil
		}, func(l net.Listener) bool { return l != nil })
		if err != nil {
			t.Fatal(err)
		}
		return listener
	}
	tel, err := telemetry.Setup(ctx, telemetry.Config{Service: "audit-test", LogLevel: slog.LevelError, LogWriter: theLog})
	if err != nil {
		t.Fatal(err)
	}
	logAt, doorAt := listen("127.0.0.1:0"), listen("127.0.0.1:0")
	logAddress := logAt.Addr().String()
	settings := maps.Clone(theShop.Addresses)
	issuer, shop := theShop.Addresses["BOOKWORM_ISSUER_URL"], theShop.Addresses["BOOKWORM_GATEWAY_URL"]
	maps.Copy(settings, map[string]string{
		"BOOKWORM_TOKEN_URL": issuer + "/protocol/openid-connect/token", "BOOKWORM_CLIENT_SECRET": serviceSecret,
		"BOOKWORM_OPENAI_BASE_URL": theShop.Addresses["BOOKWORM_MODEL_URL"], "BOOKWORM_ORDERING_URL": shop, "BOOKWORM_RATING_URL": shop,
		"BOOKWORM_COMPLIANCE_URL": "http://" + logAddress, "BOOKWORM_PERSONAL_DATA_KEY": personalDataKey,
	})
	var environ []string
	for name, value := range settings {
		environ = append(environ, name+"="+value)
	}
	config, err := app.LoadConfig(environ)
	if err != nil {
		t.Fatal(err)
	}
	serve := func(listener net.Listener, name string) (stop func()) {
		life, end := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan error, 1)
		go func() { done <- app.API(life, config, tel, []string{name}, listener) }()
		return func() {
			end()
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	stopLog := serve(logAt, "compliance")
	defer serve(doorAt, "catalog")()

	admin, reporter, title := hire(t, "admin"), hire(t, "reporter"), book(t, 1999, 9)
	direct := &shopper.Shopper{Gateway: "http://" + doorAt.Addr().String(), Token: admin.Token}
	archive := func(id string) error {
		_, err := direct.Do(ctx, http.MethodPost, "/bookworm.catalog.v1.CatalogAdminService/ArchiveBook", &catalogv1.ArchiveBookRequest{Id: id}, nil)
		return err
	}
	eventually := func(what string, ask func() error) {
		t.Helper()
		if _, err := shopper.Await(ctx, func(context.Context) (error, error) { return ask(), nil }, func(err error) bool { return err == nil }); err != nil {
			t.Fatalf("%s: %v, %v", what, err, ask())
		}
	}
	eventually("archive with the log", func() error { return archive(book(t, 1999, 9)) })
	before := len(recorded(ctx, t, reporter, admin.subject, 2))

	stopLog()
	if err := archive(title); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("without the log: %v", err)
	}
	if b, err := reporter.Book(ctx, title); err != nil || b.GetArchived() {
		t.Errorf("the book is %v, %v", b, err)
	}
	if now := recorded(ctx, t, reporter, admin.subject, before); len(now) != before {
		t.Errorf("recorded %v", short(now))
	}

	defer serve(listen(logAddress), "compliance")()
	eventually("archive with the log back", func() error { return archive(title) })
	last := recorded(ctx, t, reporter, admin.subject, before+2)
	if got := short(last[before:]); !slices.Equal(got, []string{"ArchiveBook ATTEMPTED", "ArchiveBook SUCCEEDED"}) || last[before].GetTarget()["id"] != title {
		t.Errorf("recorded %q", got)
	}
}
