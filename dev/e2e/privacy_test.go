package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/encoding/protojson"

	"bookworm/dev/shopper"
	"bookworm/internal/compliance"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/ordering"
	"bookworm/internal/personal"
	"bookworm/internal/personal/personaltest"
	"bookworm/internal/postgres"
	"bookworm/workflows/checkout"
	"bookworm/workflows/dataexport"
	"bookworm/workflows/erasure"
	"bookworm/workflows/retention"
)

// life is all that a shopper leaves in the shop.
type life struct {
	*visit

	book, order, conversation string
	words                     []string // that are theirs and nobody else's
}

// lives lets a new shopper order, review and talk.
func lives(t *testing.T) life {
	t.Helper()
	// An erasure lets the shop's caches run out first.
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancel)
	l := life{visit: enter(t), book: book(t, 1299, 5)}
	l.ctx = ctx
	mark := strings.ReplaceAll(l.subject, "-", "")[:12]
	request := shopper.Request("pm_card_visa")
	request.ShippingAddress.Line1 = mark + " Address Street"
	request.ShippingAddress.Recipient = mark + " Recipient"
	l.fill(l.book)
	order, _, err := l.Place(ctx, uuid.NewString(), request)
	if err != nil {
		t.Fatal(err)
	}
	l.order = l.becomes(order, orderingv1.Order_CONFIRMED).GetId()
	l.mails(l.order, 1)
	if _, err := l.Review(ctx, l.book, 4, "Review by "+mark, "The second half is slow, and then the harbour scene pays for all of it, says "+mark); err != nil {
		t.Fatal(err)
	}
	if _, err := l.AwaitReview(ctx, l.book, ratingv1.Review_PUBLISHED); err != nil {
		t.Fatal(err)
	}
	l.conversation = l.say("", "Do you have something about the harbour of "+mark+"?").conversation
	l.fill(book(t, 999, 5)) // and leaves something in the basket
	l.words = []string{l.subject, l.email, "Reader " + l.subject[:8], mark}
	return l
}

// histories returns everything that Temporal stores of a shopper's processes.
func (l life) histories() map[string]string {
	l.t.Helper()
	all := make(map[string]string)
	query := "BookwormCustomer = '" + l.subject + "'"
	list, err := orders.ListWorkflow(l.ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: query})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, execution := range list.GetExecutions() {
		id := execution.GetExecution().GetWorkflowId()
		var text strings.Builder
		events := orders.GetWorkflowHistory(l.ctx, id, execution.GetExecution().GetRunId(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for events.HasNext() {
			event, err := events.Next()
			if err != nil {
				l.t.Fatal(err)
			}
			text.WriteString(protojson.Format(event) + decoded(event))
		}
		all[id] = text.String()
	}
	return all
}

// sealedIn returns what the shopper gave to the process of their order.
func (l life) sealedIn() checkout.Input {
	l.t.Helper()
	events := orders.GetWorkflowHistory(l.ctx, checkout.WorkflowID(l.order), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	started, err := events.Next()
	if err != nil {
		l.t.Fatal(err)
	}
	var in checkout.Input
	if err := json.Unmarshal(started.GetWorkflowExecutionStartedEventAttributes().GetInput().GetPayloads()[0].GetData(), &in); err != nil {
		l.t.Fatal(err)
	}
	return in
}

// keys opens what the shop has sealed, as somebody can who has its database and its
// key.
func keys(t *testing.T) *compliance.PrivacyStore {
	t.Helper()
	pool, err := postgres.Open(t.Context(), theShop.Addresses["BOOKWORM_DATABASE_URL"], compliance.Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store, err := compliance.NewPrivacyStore(pool, personal.Text(personalDataKey))
	if err != nil {
		t.Fatal(err)
	}
	return store
}

var schemas = []string{"catalog", "ordering", "finance", "notification", "rating", "chat", "compliance"}

func TestExportHasAllOfAShopperAndNothingOfAnother(t *testing.T) {
	t.Parallel()
	alice, bob := lives(t), lives(t)
	asked, err := alice.Export(alice.ctx)
	if err != nil {
		t.Fatal(err)
	}
	done, err := alice.AwaitDataRequest(alice.ctx, asked.GetId(), compliancev1.DataRequest_DONE)
	if err != nil {
		t.Fatal(err)
	}
	if id := uuid.MustParse(done.GetId()); done.GetProof() != compliance.Prove(id, compliance.Export, steps(done)) {
		t.Errorf("the proof %s is not of the steps %v", done.GetProof(), done.GetSteps())
	}
	export, err := alice.Download(alice.ctx, asked.GetId())
	if err != nil {
		t.Fatal(err)
	}
	text := protojson.Format(export)
	for _, want := range append(alice.words[1:], alice.order, alice.book, alice.conversation, "Address Street", "Review by", "harbour of") {
		if !strings.Contains(text, want) {
			t.Errorf("the export lacks %q", want)
		}
	}
	for _, other := range append(bob.words, bob.order, bob.conversation) {
		if strings.Contains(text, other) {
			t.Errorf("the export has %q, which is somebody else's", other)
		}
	}
	sections := make(map[string]int)
	for _, section := range export.GetSections() {
		sections[section.GetContext()] += len(section.GetRecords())
	}
	for _, step := range done.GetSteps() {
		if int64(sections[step.GetContext()]) != step.GetRecords() || !step.GetDone() {
			t.Errorf("the step %v, and %d records", step, sections[step.GetContext()])
		}
	}
	for _, context := range []string{"ordering", "finance", "basket", "rating", "chat", "compliance"} {
		if sections[context] == 0 {
			t.Errorf("the export has nothing of %s", context)
		}
	}
	process := dataexport.WorkflowID(keys(t).Pseudonymous(alice.subject))
	alice.told("data is ready", done.GetProof())
	recordOne(t, "dataexport", "collected", process)
	if again, err := alice.Export(alice.ctx); err != nil || again.GetId() != asked.GetId() {
		t.Errorf("asked again: %v, %v", again, err)
	}
	recordOne(t, "dataexport", "fresh", process)
	// A1: it is nobody else's.
	if _, err := bob.DataRequest(bob.ctx, asked.GetId()); shopper.Reason(err) != "DATA_REQUEST_NOT_FOUND" {
		t.Errorf("bob got %v", err)
	}
	if _, err := bob.Download(bob.ctx, asked.GetId()); shopper.Reason(err) != "DATA_REQUEST_NOT_FOUND" {
		t.Errorf("bob got %v", err)
	}
	for id, history := range alice.histories() {
		for _, word := range alice.words[1:] {
			if strings.Contains(history, word) {
				t.Errorf("A3: the history of %s has %q", id, word)
			}
		}
	}
}

// told waits for a mail with words in the subject, and looks for something in it.
func (l life) told(subject, what string) {
	l.t.Helper()
	mails, err := shopper.Await(l.ctx, func(ctx context.Context) ([]shopper.Mail, error) {
		return shopper.Mails(ctx, theShop.Addresses["BOOKWORM_INBOX_URL"], l.email, subject)
	}, func(mails []shopper.Mail) bool { return len(mails) > 0 })
	if err != nil {
		l.t.Fatal(err)
	}
	inbox := &shopper.Shopper{Gateway: theShop.Addresses["BOOKWORM_INBOX_URL"]}
	_, _, body, err := inbox.Raw(l.ctx, http.MethodGet, "/api/messages/"+mails[0].ID, http.NoBody)
	if err != nil || len(mails) != 1 || !strings.Contains(string(body), what) {
		l.t.Errorf("%d mails, %v, the first one: %s", len(mails), err, body)
	}
}

func steps(r *compliancev1.DataRequest) []compliance.Step {
	var all []compliance.Step
	for _, s := range r.GetSteps() {
		all = append(all, compliance.Step{Context: s.GetContext(), Done: s.GetDone(), Records: s.GetRecords(), Kept: s.GetKept(), Note: s.GetNote()})
	}
	return all
}

// TestErasureEndsAllOfAShopper follows one from the request, while an order is
// under way, to the last look for what is left.
func TestErasureEndsAllOfAShopper(t *testing.T) {
	t.Parallel()
	alice, bob := lives(t), lives(t)
	export, err := alice.Export(alice.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alice.AwaitDataRequest(alice.ctx, export.GetId(), compliancev1.DataRequest_DONE); err != nil {
		t.Fatal(err)
	}
	privacy, before := keys(t), alice.sealedIn()
	sealer := privacy.Sealer()
	var details ordering.Details
	if err := sealer.Open(alice.ctx, alice.subject, alice.order, before.Details, &details); err != nil || details.Email != alice.email {
		t.Fatalf("before: %v, %v", details, err)
	}
	if found := alice.found(); len(found) == 0 {
		t.Fatal("nothing is found of somebody who has not asked for an erasure, so the search proves nothing")
	}

	asked, err := alice.Erase(alice.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := alice.Erase(alice.ctx); err != nil || again.GetId() != asked.GetId() {
		t.Errorf("asked again: %v, %v", again, err)
	}
	waits, err := alice.AwaitDataRequest(alice.ctx, asked.GetId(), compliancev1.DataRequest_WAITING)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(protojson.Format(waits), alice.order) {
		t.Errorf("waits for %v, not the order %s", waits.GetSteps(), alice.order)
	}
	alice.refused()
	if err := orders.SignalWorkflow(alice.ctx, checkout.WorkflowID(alice.order), "", checkout.ShipSignal, nil); err != nil {
		t.Fatal(err)
	}
	done, err := alice.AwaitDataRequest(alice.ctx, asked.GetId(), compliancev1.DataRequest_DONE)
	if err != nil {
		t.Fatal(err)
	}
	if id := uuid.MustParse(done.GetId()); done.GetProof() != compliance.Prove(id, compliance.Erasure, steps(done)) {
		t.Errorf("the proof %s is not of the steps %v", done.GetProof(), done.GetSteps())
	}
	alice.told("data is erased", done.GetProof())
	alice.isGone(export.GetId())
	if found := alice.found(); len(found) > 0 {
		t.Errorf("the database still has %v", found)
	}
	// The key reaches what nobody can rewrite.
	for name, sealed := range map[string]personal.Sealed{"address": before.Details, "contact": before.Contact, "payment method": before.PaymentMethod} {
		var opened map[string]any
		if err := sealer.Open(alice.ctx, alice.subject, alice.order, sealed, &opened); !errors.Is(err, personal.ErrErased) {
			t.Errorf("the %s in the history opens: %v", name, err)
		}
	}
	histories := alice.histories()
	if len(histories) < 5 {
		t.Errorf("looked at %d histories only", len(histories))
	}
	for id, history := range histories {
		for _, word := range alice.words[1:] {
			if strings.Contains(history, word) {
				t.Errorf("A3: the history of %s has %q", id, word)
			}
		}
		if strings.Contains(history, "erased-") {
			t.Errorf("the history of %s leads to the pseudonym", id)
		}
	}
	alice.booksAreRight()
	bob.isThere()
	recordOne(t, "erasure", "waited", erasure.WorkflowID(privacy.Pseudonymous(alice.subject)))

	// Who comes back is somebody new.
	alice.fill(alice.book)
	alice.becomes(alice.visit.order("pm_card_visa"), orderingv1.Order_CONFIRMED)
	if list, err := alice.DataRequest(alice.ctx, asked.GetId()); err != nil || list.GetState() != compliancev1.DataRequest_DONE {
		t.Errorf("the request says %v, %v", list, err)
	}
}

// found returns where the database has a word of the shopper's.
func (l life) found() (places []string) {
	l.t.Helper()
	for _, schema := range schemas {
		places = append(places, personaltest.Find(l.t, dbs, schema, l.words...)...)
	}
	return places
}

// refused tries what somebody cannot do whose data is being erased.
func (l life) refused() {
	l.t.Helper()
	l.fill(l.book)
	_, _, err := l.Place(l.ctx, uuid.NewString(), shopper.Request("pm_card_visa"))
	if shopper.Reason(err) != "ERASURE_IN_PROGRESS" {
		l.t.Errorf("an order beside the erasure: %v", err)
	}
	if _, err := l.Export(l.ctx); shopper.Reason(err) != "ERASURE_IN_PROGRESS" {
		l.t.Errorf("an export beside the erasure: %v", err)
	}
}

// isGone asks every API for what the shopper had.
func (l life) isGone(export string) {
	l.t.Helper()
	for path, reason := range map[string]string{
		"/api/v1/orders/" + l.order:                                  "ORDER_NOT_FOUND",
		"/api/v1/orders/" + l.order + "/payment":                     "PAYMENT_NOT_FOUND",
		"/api/v1/chat/conversations/" + l.conversation + "/messages": "CONVERSATION_NOT_FOUND",
		"/api/v1/privacy/exports/" + export + ":download":            "EXPORT_NOT_READY",
		"/api/v1/books/" + l.book + "/reviews/mine":                  "REVIEW_NOT_FOUND",
	} {
		_, err := l.Do(l.ctx, http.MethodGet, path, nil, nil)
		if shopper.Reason(err) != reason {
			l.t.Errorf("%s answers %v, not %s", path, err, reason)
		}
	}
	list := &orderingv1.ListOrdersResponse{}
	if _, err := l.Do(l.ctx, http.MethodGet, "/api/v1/orders", nil, list); err != nil || len(list.GetOrders()) > 0 {
		l.t.Errorf("the orders are %v, %v", list, err)
	}
	if basket, err := l.Basket(l.ctx); err != nil || len(basket.GetItems()) > 0 {
		l.t.Errorf("the basket holds %v, %v", basket, err)
	}
	reviews, err := l.Reviews(l.ctx, l.book, "")
	if err != nil || len(reviews.GetReviews()) > 0 {
		l.t.Errorf("the book's reviews are %v, %v", reviews, err)
	}
	// An operator sees what the law keeps: an order of nobody's, sent to a country.
	order, err := operator(l.t).Order(l.ctx, l.order)
	if err != nil || order.GetShippingAddress().GetLine1() != "" || order.GetShippingAddress().GetCountryCode() != "US" {
		l.t.Errorf("the order is %v, %v", order, err)
	}
	var subject string
	if err := dbs.QueryRow(l.ctx, `select subject from ordering.orders where id = $1`, l.order).Scan(&subject); err != nil || !strings.HasPrefix(subject, "erased-") {
		l.t.Errorf("the order is %q's, %v", subject, err)
	}
	var payer string
	if err := dbs.QueryRow(l.ctx, `select subject from finance.payment where order_id = $1`, l.order).Scan(&payer); err != nil || payer != subject {
		l.t.Errorf("the payment is %q's and the order %q's, %v", payer, subject, err)
	}
}

// booksAreRight checks the invariants M1 and S2 for the order that stayed.
func (l life) booksAreRight() {
	l.t.Helper()
	var balance, entries int64
	err := dbs.QueryRow(l.ctx, `select coalesce(sum(debit_minor - credit_minor), 0), count(*) from finance.ledger_entry where order_id = $1`, l.order).
		Scan(&balance, &entries)
	if err != nil || balance != 0 || entries == 0 {
		l.t.Errorf("the ledger is off by %d in %d entries, %v", balance, entries, err)
	}
	if copies := l.available(l.book); copies != 4 {
		l.t.Errorf("%d of 5 copies are left of a book that was shipped once", copies)
	}
}

// isThere checks that somebody else's data is as it was.
func (l life) isThere() {
	l.t.Helper()
	order, err := l.Order(l.ctx, l.order)
	if err != nil || !strings.HasSuffix(order.GetShippingAddress().GetLine1(), "Address Street") {
		l.t.Errorf("the order is %v, %v", order, err)
	}
	if messages, err := l.Messages(l.ctx, l.conversation); err != nil || len(messages) == 0 {
		l.t.Errorf("the conversation is %v, %v", messages, err)
	}
	if _, err := l.MyReview(l.ctx, l.book); err != nil {
		l.t.Error(err)
	}
	if basket, err := l.Basket(l.ctx); err != nil || len(basket.GetItems()) != 1 {
		l.t.Errorf("the basket holds %v, %v", basket, err)
	}
}

// TestRetentionRunsOverEveryContext triggers the schedule's run.
func TestRetentionRunsOverEveryContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	schedule := orders.ScheduleClient().GetHandle(ctx, retention.ScheduleID)
	if err := schedule.Trigger(ctx, client.ScheduleTriggerOptions{}); err != nil {
		t.Fatal(err)
	}
	described, err := shopper.Await(ctx, func(ctx context.Context) (*client.ScheduleDescription, error) { return schedule.Describe(ctx) },
		func(d *client.ScheduleDescription) bool { return len(d.Info.RecentActions) > 0 })
	if err != nil {
		t.Fatal(err)
	}
	var deleted map[string]map[string]int64
	run := described.Info.RecentActions[0].StartWorkflowResult
	if err := orders.GetWorkflow(ctx, run.WorkflowID, run.FirstExecutionRunID).Get(ctx, &deleted); err != nil {
		t.Fatal(err)
	}
	recordOne(t, "retention", "applied", run.WorkflowID)
	for _, context := range []string{"basket", "ordering", "finance", "rating", "chat", "notification", "compliance"} {
		if _, asked := deleted[context]; !asked {
			t.Errorf("%s was not asked: %v", context, deleted)
		}
	}
}
