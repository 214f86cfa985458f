package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"bookworm/dev/folder"
	"bookworm/dev/psp"
	"bookworm/dev/shopper"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
)

// TestO4_KilledStackLosesNoOrder kills the whole stack, servers and all, after
// the shopper was told that the order is placed and before it is confirmed. The
// next start finishes the order, with one capture.
func TestO4_KilledStackLosesNoOrder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "stack")
	for name, operation := range map[string]string{"before the authorization": "confirm", "in the capture": "capture"} {
		// One after the other on one folder: each round starts what the last one left.
		killOnce(t, dir, name, operation)
	}
}

func killOnce(t *testing.T, dir, name, operation string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	stack, a, err := launch(ctx, "run", dir)
	if err != nil {
		t.Fatal(err)
	}
	alice := signIn(t, ctx, a)
	books, err := alice.Books(ctx, "in_stock=true&page_size=1")
	if err != nil || len(books) != 1 {
		t.Fatalf("found %v, %v", books, err)
	}
	if _, err := alice.Put(ctx, books[0].GetId(), 1); err != nil {
		t.Fatal(err)
	}
	// The payment hangs, so the kill lands between place and confirmed for certain.
	fault := fmt.Sprintf(`{"operation":%q,"kind":"slow","count":1,"delay_ms":60000}`, operation)
	psps := &shopper.Shopper{Gateway: a["BOOKWORM_PSP_URL"]}
	if status, _, body, err := psps.Raw(ctx, http.MethodPost, "/_dev/faults", strings.NewReader(fault)); err != nil || status >= 300 {
		t.Fatalf("inject: %d %s %v", status, body, err)
	}
	key := uuid.NewString()
	placed, _, err := alice.Place(ctx, key, shopper.Request("pm_card_visa"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(-stack.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = stack.wait() // killed, as it should be

	stop, a, err := start(ctx, "run", dir)
	if err != nil {
		t.Fatalf("%s: the stack does not start after a kill: %v", name, err)
	}
	defer stop()
	alice = signIn(t, ctx, a)
	order, err := alice.AwaitOrder(ctx, placed.GetId(), orderingv1.Order_CONFIRMED)
	if err != nil {
		t.Fatalf("%s: order %s: %v", name, placed.GetId(), err)
	}
	if again, replayed, err := alice.Place(ctx, key, shopper.Request("pm_card_visa")); err != nil || !replayed || again.GetId() != order.GetId() {
		t.Errorf("%s: the key now answers %v, %v, %v", name, again.GetId(), replayed, err)
	}
	psps.Gateway = a["BOOKWORM_PSP_URL"]
	_, _, log, err := psps.Raw(ctx, http.MethodGet, "/_dev/log", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	captures := 0
	for line := range strings.Lines(string(log)) {
		var e psp.Effect
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.OrderID == order.GetId() && e.Kind == psp.EffectCapture {
			captures++
		}
	}
	if captures != 1 {
		t.Errorf("%s: %d captures", name, captures)
	}
	if _, err := shopper.Await(ctx, func(ctx context.Context) ([]shopper.Mail, error) {
		return shopper.Mails(ctx, a["BOOKWORM_INBOX_URL"], "alice@bookworm.example", order.GetId())
	}, func(m []shopper.Mail) bool { return len(m) == 1 }); err != nil {
		t.Errorf("%s: e-mail: %v", name, err)
	}
}

// TestKilledStackKeepsReviewsIndexAndConversations kills the whole stack while the
// bookseller speaks. The next start has the index, the review and the conversation,
// whose turn has ended and does not keep the next one waiting.
func TestKilledStackKeepsReviewsIndexAndConversations(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "stack")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	stack, a, err := launch(ctx, "run", dir)
	if err != nil {
		t.Fatal(err)
	}
	alice := signIn(t, ctx, a)
	indexed := func(alice *shopper.Shopper) *catalogv1.SearchBooksResponse {
		t.Helper()
		found, err := shopper.Await(ctx, func(ctx context.Context) (*catalogv1.SearchBooksResponse, error) {
			return alice.Search(ctx, "Dune", nil)
		},
			func(r *catalogv1.SearchBooksResponse) bool {
				return r.GetMode() == catalogv1.SearchMode_SEARCH_MODE_HYBRID
			})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	dune := indexed(alice).GetHits()[0].GetBook().GetId()
	if _, err := alice.Put(ctx, dune, 1); err != nil {
		t.Fatal(err)
	}
	order, _, err := alice.Place(ctx, uuid.NewString(), shopper.Request("pm_card_visa"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alice.AwaitOrder(ctx, order.GetId(), orderingv1.Order_CONFIRMED); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.Review(ctx, dune, 5, "Sand everywhere", "I could taste the spice, and that is meant as praise."); err != nil {
		t.Fatal(err)
	}
	// The model speaks slowly, so the kill lands in the middle for certain.
	models := &shopper.Shopper{Gateway: strings.TrimSuffix(a["BOOKWORM_MODEL_URL"], "/v1")}
	fault := `{"operation":"chat","kind":"slow_tokens","count":-1,"delay_ms":500}`
	if status, _, body, err := models.Raw(ctx, http.MethodPost, "/_dev/faults", strings.NewReader(fault)); err != nil || status >= 300 {
		t.Fatalf("inject: %d %s %v", status, body, err)
	}
	turn, err := alice.Say(ctx, "", uuid.NewString(), "Good day to you")
	if err != nil {
		t.Fatal(err)
	}
	for heard := false; !heard; {
		event, err := turn.Next()
		if err != nil {
			t.Fatal(err)
		}
		heard = event.GetDelta() != ""
	}
	id, conversation := turn.ID, turn.ConversationID
	if err := syscall.Kill(-stack.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = stack.wait() // killed, as it should be
	turn.Close()

	stop, a, err := start(ctx, "run", dir)
	if err != nil {
		t.Fatalf("the stack does not start after a kill: %v", err)
	}
	defer stop()
	alice = signIn(t, ctx, a)
	if again := indexed(alice).GetHits()[0].GetBook(); again.GetId() != dune {
		t.Errorf("the index finds %v", again)
	}
	if _, err := alice.AwaitReview(ctx, dune, ratingv1.Review_PUBLISHED); err != nil {
		t.Error(err)
	}
	resumed, err := alice.Resume(ctx, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	done, err := resumed.Each(func(string) {})
	if err != nil || done.GetOutcome() != chatv1.Done_FAILED {
		t.Errorf("the turn ended %v, %v", done, err)
	}
	next, err := alice.Say(ctx, conversation, uuid.NewString(), "Do you have Dune by Frank Herbert?")
	if err != nil {
		t.Fatal(err)
	}
	if done, err := next.Each(func(string) {}); err != nil || done.GetOutcome() != chatv1.Done_ANSWERED {
		t.Errorf("the next turn ended %v, %v", done, err)
	}
}

func signIn(t *testing.T, ctx context.Context, a folder.Addresses) *shopper.Shopper { //nolint:revive // the context is not the test's
	t.Helper()
	token, err := shopper.Token(ctx, a["BOOKWORM_ISSUER_URL"], "alice")
	if err != nil {
		t.Fatal(err)
	}
	return &shopper.Shopper{Gateway: a["BOOKWORM_GATEWAY_URL"], Token: token}
}

// TestPrintedAddressesAnswer opens every page of the table that a start prints.
func TestPrintedAddressesAnswer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stack, _, err := launch(ctx, "run", filepath.Join(t.TempDir(), "stack"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(stack.cmd.Process.Signal(syscall.SIGTERM), stack.wait()); err != nil {
			t.Error(err)
		}
	})
	table, err := shopper.Await(ctx, func(context.Context) (string, error) { return stack.stdout.String(), nil },
		func(table string) bool { return strings.Contains(table, "make demo") })
	if err != nil {
		t.Fatal(err)
	}
	pages := regexp.MustCompile(`http://\S+`).FindAllString(table, -1)
	// Two are for programs that speak a protocol, and no pages.
	pages = slices.DeleteFunc(pages, func(address string) bool {
		return strings.HasSuffix(address, "/mcp") || strings.HasSuffix(address, "/v1")
	})
	if len(pages) != 7 {
		t.Errorf("the table has %d pages: %s", len(pages), table)
	}
	for _, page := range pages {
		visitor := &shopper.Shopper{Gateway: page}
		if status, _, body, err := visitor.Raw(ctx, http.MethodGet, "", http.NoBody); err != nil || status != http.StatusOK || len(body) == 0 {
			t.Errorf("%s answers %d, %v", page, status, err)
		}
	}
}

func TestSecondStackOnTheSameFolderIsRefused(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dir := filepath.Join(t.TempDir(), "stack")
	stop, _, err := start(ctx, "run", dir)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if _, _, err := start(ctx, "run", dir); err == nil || !strings.Contains(err.Error(), "a stack runs here already") {
		t.Errorf("got %v", err)
	}
}
