package e2e

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"bookworm/dev/shopper"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	financev1 "bookworm/internal/gen/bookworm/finance/v1"
	notificationv1 "bookworm/internal/gen/bookworm/notification/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/rpc"
)

// belongings are the names of what somebody has in the shop.
type belongings struct {
	order, read, wanted        string // an order, the book in it, the book in the basket
	conversation, turn, action string
	export                     string
	key                        string // the Idempotency-Key of the order and of the turn
	basketEtag, reviewEtag     string
}

// nothings are names of what never was. The books are there, but are nobody's.
func nothings(t *testing.T) belongings {
	t.Helper()
	id := uuid.NewString
	return belongings{id(), book(t, 1299, 9), book(t, 899, 9), id(), id(), id(), id(), id(), "v1", "v1"}
}

// moveIn gives a new shopper one of everything that a shopper can have, all of it
// at rest.
func moveIn(t *testing.T) (*visit, belongings) {
	t.Helper()
	v := enter(t)
	has := belongings{read: book(t, 1299, 9), wanted: book(t, 899, 9), key: uuid.NewString()}
	v.fill(has.read)
	order, _, err := v.Place(v.ctx, has.key, placed())
	if err != nil {
		t.Fatal(err)
	}
	has.order = order.GetId()
	v.becomes(order, orderingv1.Order_CONFIRMED)
	if _, err := v.AwaitEmptyBasket(v.ctx); err != nil {
		t.Fatal(err)
	}
	has.basketEtag = v.fill(has.wanted).GetEtag()
	if _, err := v.Review(v.ctx, has.read, 5, "Mine", "The harbour scene pays for all of it."); err != nil {
		t.Fatal(err)
	}
	review, err := v.AwaitReview(v.ctx, has.read, ratingv1.Review_PUBLISHED)
	if err != nil {
		t.Fatal(err)
	}
	has.reviewEtag = review.GetEtag()
	turn, err := v.Say(v.ctx, "", has.key, wish)
	if err != nil {
		t.Fatal(err)
	}
	heard := v.hear(turn)
	if heard.confirmation() == nil {
		t.Fatalf("nothing to confirm in %v", heard.events)
	}
	has.conversation, has.turn, has.action = heard.conversation, heard.turn, heard.confirmation().GetActionId()
	v.must("notification.v1.PreferenceService.UpdatePreferences", preferring(true))
	requested := v.must("compliance.v1.PrivacyService.RequestExport", &compliancev1.RequestExportRequest{})
	has.export = requested.(*compliancev1.RequestExportResponse).GetRequest().GetId()
	if _, err := shopper.Await(v.ctx, func(context.Context) (compliancev1.DataRequest_State, error) {
		now := v.must("compliance.v1.PrivacyService.GetDataRequest", &compliancev1.GetDataRequestRequest{Id: has.export}) //nolint:contextcheck // it has the visit's
		return now.(*compliancev1.GetDataRequestResponse).GetRequest().GetState(), nil
	}, func(state compliancev1.DataRequest_State) bool { return state == compliancev1.DataRequest_DONE }); err != nil {
		t.Fatal(err)
	}
	return v, has
}

const wish = "Please add Dune by Frank Herbert to my basket."

func placed() *orderingv1.PlaceOrderRequest { return shopper.Request("pm_card_visa") }

func preferring(news bool) *notificationv1.UpdatePreferencesRequest {
	return &notificationv1.UpdatePreferencesRequest{
		Preferences: &notificationv1.Preferences{MarketingEmails: news}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"marketing_emails"}},
	}
}

// procedure returns one procedure by its name without "bookworm.".
func procedure(t *testing.T, name string) protoreflect.MethodDescriptor {
	t.Helper()
	all := procedures()
	i := slices.IndexFunc(all, func(m protoreflect.MethodDescriptor) bool { return string(m.FullName()) == "bookworm."+name })
	if i < 0 {
		t.Fatalf("there is no procedure %s", name)
	}
	return all[i]
}

// ask calls a procedure at the gateway.
func (v *visit) ask(name string, request proto.Message, headers ...string) *answer {
	v.t.Helper()
	body, err := protojson.Marshal(request)
	if err != nil {
		v.t.Fatal(err)
	}
	return call(v.t, v.Gateway, procedure(v.t, name), v.Token, string(body), headers...)
}

// must calls a procedure that has to work, and returns what it answered.
func (v *visit) must(name string, request proto.Message, headers ...string) proto.Message {
	v.t.Helper()
	got := v.ask(name, request, headers...)
	if got.code != "" || len(got.messages) == 0 {
		v.t.Fatalf("%s: %s", name, got)
	}
	return got.messages[0]
}

// everything is what a shopper reads of their own.
func (v *visit) everything(has belongings) map[string][]proto.Message {
	v.t.Helper()
	all := make(map[string][]proto.Message)
	for name, request := range map[string]proto.Message{
		"basket.v1.BasketService.GetBasket":                &basketv1.GetBasketRequest{},
		"chat.v1.ChatService.ListConversations":            &chatv1.ListConversationsRequest{},
		"chat.v1.ChatService.ListMessages":                 &chatv1.ListMessagesRequest{ConversationId: has.conversation},
		"chat.v1.ChatService.ResumeTurn":                   &chatv1.ResumeTurnRequest{TurnId: has.turn},
		"compliance.v1.PrivacyService.DownloadExport":      &compliancev1.DownloadExportRequest{Id: has.export},
		"compliance.v1.PrivacyService.ListDataRequests":    &compliancev1.ListDataRequestsRequest{},
		"finance.v1.PaymentService.GetPayment":             &financev1.GetPaymentRequest{OrderId: has.order},
		"notification.v1.PreferenceService.GetPreferences": &notificationv1.GetPreferencesRequest{},
		"ordering.v1.OrderService.GetOrder":                &orderingv1.GetOrderRequest{Id: has.order},
		"ordering.v1.OrderService.ListOrders":              &orderingv1.ListOrdersRequest{},
		"rating.v1.RatingService.GetMyReview":              &ratingv1.GetMyReviewRequest{BookId: has.read},
	} {
		got := v.ask(name, request)
		if got.code != "" {
			v.t.Fatalf("%s: %s", name, got)
		}
		all[name] = got.messages
	}
	return all
}

// trespass is a call with the names of somebody else's belongings.
type trespass struct {
	request func(has belongings) proto.Message
	// hidden is the reason that says that there is no such thing; "" where the call
	// works, because it is no error when there is nothing, or about the caller's own.
	hidden string
	// own checks what the call answers of the caller's own; nil where it must answer
	// what it answers about what never was.
	own func(has belongings, got proto.Message) bool
}

// trespasses has one for each procedure whose rule has an ownership.
var trespasses = map[string]trespass{
	"basket.v1.BasketService.GetBasket": {
		request: func(belongings) proto.Message { return &basketv1.GetBasketRequest{} },
		own: func(_ belongings, got proto.Message) bool {
			return len(got.(*basketv1.GetBasketResponse).GetBasket().GetItems()) == 0
		},
	},
	"basket.v1.BasketService.SetItem": {
		request: func(has belongings) proto.Message { return &basketv1.SetItemRequest{BookId: has.wanted, Quantity: 7} },
		own: func(has belongings, got proto.Message) bool {
			items := got.(*basketv1.SetItemResponse).GetBasket().GetItems()
			return len(items) == 1 && items[0].GetBookId() == has.wanted && items[0].GetQuantity() == 7
		},
	},
	"basket.v1.BasketService.RemoveItem": {
		request: func(has belongings) proto.Message { return &basketv1.RemoveItemRequest{BookId: has.wanted} },
	},
	"basket.v1.BasketService.ClearBasket": {
		request: func(belongings) proto.Message { return &basketv1.ClearBasketRequest{} },
	},
	"catalog.v1.CatalogService.RecommendForMe": {
		request: func(belongings) proto.Message { return &catalogv1.RecommendForMeRequest{} },
		own: func(_ belongings, got proto.Message) bool {
			// Who bought nothing has no book because of which another is there.
			books := got.(*catalogv1.RecommendForMeResponse).GetRecommendations()
			return !slices.ContainsFunc(books, func(r *catalogv1.Recommendation) bool { return r.GetBecauseOfBookId() != "" })
		},
	},
	"chat.v1.ChatService.SendMessage": {
		request: func(has belongings) proto.Message {
			return &chatv1.SendMessageRequest{ConversationId: has.conversation, Text: "What did I say?"}
		},
		hidden: "CONVERSATION_NOT_FOUND",
	},
	"chat.v1.ChatService.ResumeTurn": {
		request: func(has belongings) proto.Message { return &chatv1.ResumeTurnRequest{TurnId: has.turn} },
		hidden:  "TURN_NOT_FOUND",
	},
	"chat.v1.ChatService.CancelTurn": {
		request: func(has belongings) proto.Message { return &chatv1.CancelTurnRequest{TurnId: has.turn} },
		hidden:  "TURN_NOT_FOUND",
	},
	"chat.v1.ChatService.ConfirmAction": {
		request: func(has belongings) proto.Message {
			return &chatv1.ConfirmActionRequest{ActionId: has.action, Accept: true}
		},
		hidden: "ACTION_NOT_FOUND",
	},
	"chat.v1.ChatService.ListConversations": {
		request: func(belongings) proto.Message { return &chatv1.ListConversationsRequest{} },
		own: func(_ belongings, got proto.Message) bool {
			return len(got.(*chatv1.ListConversationsResponse).GetConversations()) == 0
		},
	},
	"chat.v1.ChatService.ListMessages": {
		request: func(has belongings) proto.Message {
			return &chatv1.ListMessagesRequest{ConversationId: has.conversation}
		},
		hidden: "CONVERSATION_NOT_FOUND",
	},
	"chat.v1.ChatService.RenameConversation": {
		request: func(has belongings) proto.Message {
			return &chatv1.RenameConversationRequest{ConversationId: has.conversation, Title: "Mine now"}
		},
		hidden: "CONVERSATION_NOT_FOUND",
	},
	"chat.v1.ChatService.DeleteConversation": {
		request: func(has belongings) proto.Message {
			return &chatv1.DeleteConversationRequest{ConversationId: has.conversation}
		},
	},
	"chat.v1.ChatService.ExportConversation": {
		request: func(has belongings) proto.Message {
			return &chatv1.ExportConversationRequest{ConversationId: has.conversation}
		},
		hidden: "CONVERSATION_NOT_FOUND",
	},
	"compliance.v1.PrivacyService.RequestExport": {
		request: func(belongings) proto.Message { return &compliancev1.RequestExportRequest{} },
		own: func(has belongings, got proto.Message) bool {
			return got.(*compliancev1.RequestExportResponse).GetRequest().GetId() != has.export
		},
	},
	"compliance.v1.PrivacyService.RequestErasure": {
		request: func(belongings) proto.Message { return &compliancev1.RequestErasureRequest{Confirm: true} },
		own: func(has belongings, got proto.Message) bool {
			return got.(*compliancev1.RequestErasureResponse).GetRequest().GetId() != has.export
		},
	},
	"compliance.v1.PrivacyService.GetDataRequest": {
		request: func(has belongings) proto.Message { return &compliancev1.GetDataRequestRequest{Id: has.export} },
		hidden:  "DATA_REQUEST_NOT_FOUND",
	},
	"compliance.v1.PrivacyService.ListDataRequests": {
		request: func(belongings) proto.Message { return &compliancev1.ListDataRequestsRequest{} },
		own: func(_ belongings, got proto.Message) bool {
			return len(got.(*compliancev1.ListDataRequestsResponse).GetRequests()) == 0
		},
	},
	"compliance.v1.PrivacyService.DownloadExport": {
		request: func(has belongings) proto.Message { return &compliancev1.DownloadExportRequest{Id: has.export} },
		hidden:  "DATA_REQUEST_NOT_FOUND",
	},
	"finance.v1.PaymentService.GetPayment": {
		request: func(has belongings) proto.Message { return &financev1.GetPaymentRequest{OrderId: has.order} },
		hidden:  "PAYMENT_NOT_FOUND",
	},
	"notification.v1.PreferenceService.GetPreferences": {
		request: func(belongings) proto.Message { return &notificationv1.GetPreferencesRequest{} },
		own: func(_ belongings, got proto.Message) bool {
			return !got.(*notificationv1.GetPreferencesResponse).GetPreferences().GetMarketingEmails()
		},
	},
	"notification.v1.PreferenceService.UpdatePreferences": {
		request: func(belongings) proto.Message { return preferring(false) },
	},
	"ordering.v1.OrderService.QuoteOrder": {
		request: func(belongings) proto.Message { return &orderingv1.QuoteOrderRequest{CountryCode: "US"} },
		hidden:  "BASKET_EMPTY",
	},
	// The very request and key that made the order.
	"ordering.v1.OrderService.PlaceOrder": {
		request: func(belongings) proto.Message { return placed() },
		hidden:  "BASKET_EMPTY",
	},
	"ordering.v1.OrderService.GetOrder": {
		request: func(has belongings) proto.Message { return &orderingv1.GetOrderRequest{Id: has.order} },
		hidden:  "ORDER_NOT_FOUND",
	},
	"ordering.v1.OrderService.ListOrders": {
		request: func(belongings) proto.Message { return &orderingv1.ListOrdersRequest{} },
		own: func(_ belongings, got proto.Message) bool {
			return len(got.(*orderingv1.ListOrdersResponse).GetOrders()) == 0
		},
	},
	"ordering.v1.OrderService.CancelOrder": {
		request: func(has belongings) proto.Message { return &orderingv1.CancelOrderRequest{Id: has.order} },
		hidden:  "ORDER_NOT_FOUND",
	},
	"rating.v1.RatingService.GetMyReview": {
		request: func(has belongings) proto.Message { return &ratingv1.GetMyReviewRequest{BookId: has.read} },
		hidden:  "REVIEW_NOT_FOUND",
	},
	"rating.v1.RatingService.SubmitReview": {
		request: func(has belongings) proto.Message {
			return &ratingv1.SubmitReviewRequest{BookId: has.read, Stars: 1, Title: "Not mine", Text: "Never read it.", Etag: has.reviewEtag}
		},
		hidden: "PURCHASE_REQUIRED",
	},
	"rating.v1.RatingService.DeleteReview": {
		request: func(has belongings) proto.Message { return &ratingv1.DeleteReviewRequest{BookId: has.read} },
	},
}

// TestA1_NobodyReachesWhatIsAnothers calls every procedure that reaches somebody's
// own things with the names of alice's, as somebody else: it looks as if they did
// not exist, and nothing of hers changes.
func TestA1_NobodyReachesWhatIsAnothers(t *testing.T) {
	t.Parallel()
	for _, method := range procedures() {
		name := strings.TrimPrefix(string(method.FullName()), "bookworm.")
		if _, tried := trespasses[name]; tried == (rpc.RuleOf(method).GetOwnership() == accessv1.Ownership_OWNERSHIP_UNSPECIFIED) {
			t.Errorf("%s has ownership %s, and a case here: %t", name, rpc.RuleOf(method).GetOwnership(), tried)
		}
	}
	alice, has := moveIn(t)
	before := alice.everything(has)
	never := nothings(t)
	for name, call := range trespasses {
		bob, stranger := enter(t), enter(t)
		got := bob.ask(name, call.request(has), "Idempotency-Key", has.key)
		if got.reason != call.hidden || (got.code == "") != (call.hidden == "") {
			t.Errorf("%s with what is alice's: %s, want %q", name, got, call.hidden)
		} else if call.own != nil {
			if !call.own(has, got.messages[0]) {
				t.Errorf("%s does not answer with what is bob's own: %s", name, got)
			}
		} else if nothing := stranger.ask(name, call.request(never), "Idempotency-Key", never.key); !alike(got, nothing) {
			t.Errorf("%s tells what is alice's from what never was: %s, and %s", name, got, nothing)
		}
		after := alice.everything(has)
		for of, was := range before {
			now := after[of]
			if !slices.EqualFunc(was, now, proto.Equal) {
				t.Errorf("%s as bob changed what %s shows alice, from %v to %v", name, of, was, now)
			}
		}
		before = after
	}
	// The card is still hers to confirm.
	alice.must("chat.v1.ChatService.ConfirmAction", &chatv1.ConfirmActionRequest{ActionId: has.action, Accept: true})
}

var anyID = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// alike reports whether two answers are the same but for the ids they are about.
func alike(a, b *answer) bool {
	return a.code == b.code && a.reason == b.reason && anyID.ReplaceAllString(a.text, "") == anyID.ReplaceAllString(b.text, "") &&
		slices.EqualFunc(a.messages, b.messages, proto.Equal)
}

// TestA1_StaffReachesOrdersAndNothingElse looks at the staff's side of ownership.
func TestA1_StaffReachesOrdersAndNothingElse(t *testing.T) {
	t.Parallel()
	owner, has := moveIn(t)
	staff := func(name string) *visit {
		token, err := theShop.Identity.Token(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		v := enter(t)
		v.Shopper = &shopper.Shopper{Gateway: owner.Gateway, HTTP: owner.HTTP, Token: token}
		return v
	}
	for name, call := range trespasses {
		rule := rpc.RuleOf(procedure(t, name))
		if name == "ordering.v1.OrderService.CancelOrder" {
			continue // below, when all has been read
		}
		for who, role := range map[string]accessv1.Role{"sam": accessv1.Role_ROLE_SUPPORT, "rita": accessv1.Role_ROLE_REPORTER} {
			got := staff(who).ask(name, call.request(has), "Idempotency-Key", has.key)
			want := "ACCESS_DENIED"
			if slices.Contains(rule.GetRoles(), role) {
				want = ""
			}
			if got.reason != want || (got.code == "") != (want == "") {
				t.Errorf("%s as %s: %s, want %q", name, who, got, want)
			}
		}
	}
	if got := staff("ops").ask("ordering.v1.OrderService.GetOrder", &orderingv1.GetOrderRequest{Id: has.order}); got.code != "" {
		t.Errorf("an administrator cannot read an order: %s", got)
	}
	// ops is a customer too, and as one has no more than others.
	ops := staff("ops").must("ordering.v1.OrderService.ListOrders", &orderingv1.ListOrdersRequest{PageSize: 100})
	for _, order := range ops.(*orderingv1.ListOrdersResponse).GetOrders() {
		if order.GetId() == has.order {
			t.Error("an administrator's own orders have somebody else's among them")
		}
	}
	cancel := &orderingv1.CancelOrderRequest{Id: has.order}
	if got := staff("rita").ask("ordering.v1.OrderService.CancelOrder", cancel); got.reason != "ACCESS_DENIED" {
		t.Errorf("a reporter cancels an order: %s", got)
	}
	cancelled := staff("sam").must("ordering.v1.OrderService.CancelOrder", cancel).(*orderingv1.CancelOrderResponse).GetOrder()
	if cancelled.GetStatus() != orderingv1.Order_CANCELLED || cancelled.GetStatusReason() != "CANCELLED_BY_OPERATOR" {
		t.Errorf("support cancelled, and the order is %s, %s", cancelled.GetStatus(), cancelled.GetStatusReason())
	}
	if now, err := owner.Order(owner.ctx, has.order); err != nil || now.GetStatus() != orderingv1.Order_CANCELLED {
		t.Errorf("the owner sees %v, %v", now, err)
	}
}
