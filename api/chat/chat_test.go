package chat_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"golang.org/x/oauth2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	api "bookworm/api/chat"
	"bookworm/internal/chat"
	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	"bookworm/internal/gen/bookworm/basket/v1/basketv1connect"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
	"bookworm/internal/gen/bookworm/chat/v1/chatv1connect"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	"bookworm/internal/gen/bookworm/ordering/v1/orderingv1connect"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/gen/bookworm/rating/v1/ratingv1connect"
	typev1 "bookworm/internal/gen/bookworm/type/v1"
	"bookworm/internal/identity"
	"bookworm/internal/llm"
	"bookworm/internal/postgres"
	"bookworm/internal/postgres/pgtest"
	"bookworm/internal/rpc"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const patience = 20 * time.Second

// people is a verifier for which a token is a name; "admin" also administers.
type people struct{}

func (people) Verify(_ context.Context, token string) (identity.Caller, error) {
	caller := identity.Caller{Subject: token, Roles: []accessv1.Role{accessv1.Role_ROLE_CUSTOMER}}
	if token == "admin" {
		caller.Roles = append(caller.Roles, accessv1.Role_ROLE_ADMIN)
	}
	return caller, nil
}

// shop is the chat's API beside small stand-ins of the contexts it asks.
type shop struct {
	t       *testing.T
	url     string
	store   *chat.Store
	baskets *baskets
	called  *record
	model   *script
}

// record notes who called what.
type record struct {
	mu    sync.Mutex
	calls []string
}

func (r *record) note(ctx context.Context, what string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	subject := identity.FromContext(ctx).Subject
	r.calls = append(r.calls, subject+" "+what)
	return subject
}

func (r *record) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.calls, "; ")
}

var duneID = uuid.MustParse("0190f3a2-7b1c-7d3e-9f40-0000000000d1").String()

func dune() *catalogv1.Book {
	return &catalogv1.Book{
		Id: duneID, Title: "Dune", Authors: []string{"Frank Herbert"}, Isbn13: "9780441172719", Description: "A desert planet and its spice.",
		Price: &typev1.Money{CurrencyCode: "USD", AmountMinor: 999}, AvailableQuantity: 30, PublicationYear: 1965,
		Rating: &catalogv1.Rating{ReviewCount: 12, AverageStars: 4.5},
	}
}

type books struct {
	catalogv1connect.UnimplementedCatalogServiceHandler

	called *record
}

func (b books) SearchBooks(ctx context.Context, req *catalogv1.SearchBooksRequest) (*catalogv1.SearchBooksResponse, error) {
	b.called.note(ctx, fmt.Sprintf("search %q max %d", req.GetQuery(), req.GetMaxPriceMinor()))
	return &catalogv1.SearchBooksResponse{Hits: []*catalogv1.SearchHit{{Book: dune()}}, Mode: catalogv1.SearchMode_SEARCH_MODE_LEXICAL}, nil
}

func (b books) GetBook(ctx context.Context, req *catalogv1.GetBookRequest) (*catalogv1.GetBookResponse, error) {
	b.called.note(ctx, "get "+req.GetId())
	if req.GetId() != duneID {
		return nil, fault.New(fault.ReasonBookNotFound, "There is no book %s.", req.GetId())
	}
	return &catalogv1.GetBookResponse{Book: dune()}, nil
}

type reviews struct {
	ratingv1connect.UnimplementedRatingServiceHandler

	called *record
}

func (r reviews) ListReviews(ctx context.Context, req *ratingv1.ListReviewsRequest) (*ratingv1.ListReviewsResponse, error) {
	r.called.note(ctx, "reviews of "+req.GetBookId())
	return &ratingv1.ListReviewsResponse{Reviews: []*ratingv1.Review{
		{Id: uuid.NewString(), BookId: req.GetBookId(), Stars: 5, Title: "Great", Text: "The worms!", CreateTime: timestamppb.Now()},
	}}, nil
}

type orders struct {
	orderingv1connect.UnimplementedOrderServiceHandler

	called *record
}

func orderID(subject string) string { return uuid.NewSHA1(uuid.Nil, []byte(subject)).String() }

func (o orders) ListOrders(ctx context.Context, _ *orderingv1.ListOrdersRequest) (*orderingv1.ListOrdersResponse, error) {
	subject := o.called.note(ctx, "orders")
	return &orderingv1.ListOrdersResponse{Orders: []*orderingv1.Order{{
		Id: orderID(subject), Status: orderingv1.Order_SHIPPED, Total: &typev1.Money{CurrencyCode: "USD", AmountMinor: 2199},
		CreateTime: timestamppb.New(time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)), UpdateTime: timestamppb.Now(),
		ShippingAddress: &orderingv1.Address{Recipient: "Recipient " + subject, Line1: "1 Secret Street", City: "Hidden", PostalCode: "12345", CountryCode: "US"},
		Lines:           []*orderingv1.OrderLine{{BookId: duneID, Title: "Dune", Quantity: 2, UnitPrice: &typev1.Money{CurrencyCode: "USD", AmountMinor: 999}}},
	}}}, nil
}

func (o orders) GetOrder(ctx context.Context, req *orderingv1.GetOrderRequest) (*orderingv1.GetOrderResponse, error) {
	o.called.note(ctx, "any order "+req.GetId()) // an administrator would get it
	return &orderingv1.GetOrderResponse{Order: &orderingv1.Order{Id: req.GetId(), Status: orderingv1.Order_PLACED}}, nil
}

// baskets is what the basket service promises: versions, and etags that fit one.
type baskets struct {
	basketv1connect.UnimplementedBasketServiceHandler

	mu      sync.Mutex
	bySub   map[string]*basketv1.Basket
	changes int
	before  func(n int) error // of the n-th change, from 1
	after   func(n int) error
	tries   int
}

func (b *baskets) of(ctx context.Context) *basketv1.Basket {
	subject := identity.FromContext(ctx).Subject
	if b.bySub[subject] == nil {
		b.bySub[subject] = &basketv1.Basket{Etag: "v0"}
	}
	return b.bySub[subject]
}

func (b *baskets) GetBasket(ctx context.Context, _ *basketv1.GetBasketRequest) (*basketv1.GetBasketResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &basketv1.GetBasketResponse{Basket: proto.CloneOf(b.of(ctx))}, nil
}

func (b *baskets) SetItem(ctx context.Context, req *basketv1.SetItemRequest) (*basketv1.SetItemResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tries++
	if b.before != nil {
		if err := b.before(b.tries); err != nil {
			return nil, err
		}
	}
	basket := b.of(ctx)
	if req.GetEtag() != "" && req.GetEtag() != basket.GetEtag() {
		return nil, fault.New(fault.ReasonStaleVersion, "The basket has changed since you read it.")
	}
	b.set(basket, req.GetBookId(), req.GetQuantity())
	b.changes++
	if b.after != nil {
		if err := b.after(b.tries); err != nil {
			return nil, err
		}
	}
	return &basketv1.SetItemResponse{Basket: proto.CloneOf(basket)}, nil
}

func (b *baskets) set(basket *basketv1.Basket, book string, quantity int32) {
	basket.Version++
	basket.Etag = fmt.Sprintf("v%d", basket.GetVersion())
	for _, item := range basket.GetItems() {
		if item.GetBookId() == book {
			item.Quantity = quantity
			return
		}
	}
	basket.Items = append(basket.Items, &basketv1.BasketItem{BookId: book, Quantity: quantity, Title: "Dune"})
}

func (b *baskets) quantity(subject string) int32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if basket := b.bySub[subject]; basket != nil {
		for _, item := range basket.GetItems() {
			return item.GetQuantity()
		}
	}
	return 0
}

// script is a model: a list of answers, text or "tool arguments"; the last one
// stays.
type script struct {
	mu    sync.Mutex
	lines []string
	seen  []string
	hold  chan struct{}
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	line := s.lines[min(len(s.seen), len(s.lines)-1)]
	s.seen = append(s.seen, string(raw))
	s.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream")
	event := func(delta map[string]any, finish any) {
		chunk, err := json.Marshal(map[string]any{"choices": []any{map[string]any{"index": 0, "delta": delta, "finish_reason": finish}}})
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(w, "data: %s\n\n", chunk)
		w.(http.Flusher).Flush()
	}
	if tool, arguments, ok := strings.Cut(line, " {"); ok {
		event(map[string]any{"tool_calls": []any{map[string]any{"index": 0, "id": "c1", "type": "function", "function": map[string]any{"name": tool, "arguments": "{" + arguments}}}}, nil)
	} else {
		for word := range strings.SplitAfterSeq(line, " ") {
			event(map[string]any{"content": word}, nil)
		}
	}
	if s.hold != nil {
		select {
		case <-s.hold:
		case <-r.Context().Done():
			return
		}
	}
	event(map[string]any{}, "stop")
	fmt.Fprint(w, "data: [DONE]\n\n")
}

func setup(t *testing.T, lines ...string) *shop {
	t.Helper()
	s := &shop{t: t, called: &record{}, baskets: &baskets{bySub: make(map[string]*basketv1.Basket)}, model: &script{lines: lines}}
	db, err := postgres.Open(t.Context(), pgtest.DB(t, func(ctx context.Context, url string) error {
		return postgres.Migrate(ctx, url, chat.Schema)
	}), chat.Schema.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	s.store = chat.NewStore(db)
	endpoint := httptest.NewServer(s.model)
	t.Cleanup(endpoint.Close)
	model, err := llm.New(llm.Config{BaseURL: endpoint.URL, ChatModel: "scripted"})
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rpc.ServerOptions{Verifier: people{}})
	if err != nil {
		t.Fatal(err)
	}
	var handler http.Handler // once everything is registered
	s.url = listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	same := func(_ context.Context, token string) (string, error) { return token, nil } // there is no provider
	client := rpc.NewClient(rpc.ClientOptions{BaseURL: s.url, OnBehalf: same})
	d := api.Deps{
		Store: s.store, Model: model, Books: catalogv1connect.NewCatalogServiceClient(client), Reviews: ratingv1connect.NewRatingServiceClient(client),
		Orders: orderingv1connect.NewOrderServiceClient(client), Baskets: basketv1connect.NewBasketServiceClient(client),
		Limits: chat.Limits{Drain: time.Millisecond}, Logger: slog.New(slog.DiscardHandler),
	}
	engine, err := api.NewEngine(d)
	if err != nil {
		t.Fatal(err)
	}
	api.Register(server, d, engine)
	catalogv1connect.RegisterCatalogServiceHandler(server, books{called: s.called})
	ratingv1connect.RegisterRatingServiceHandler(server, reviews{called: s.called})
	orderingv1connect.RegisterOrderServiceHandler(server, orders{called: s.called})
	basketv1connect.RegisterBasketServiceHandler(server, s.baskets)
	handler = rpc.Handler(server)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return s
}

// listen serves a handler for as long as the test.
func listen(t *testing.T, handler http.Handler) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rpc.Serve(ctx, listener, handler, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return "http://" + listener.Addr().String()
}

func (s *shop) as(who string) chatv1connect.ChatServiceClient {
	options := rpc.ClientOptions{BaseURL: s.url}
	if who != "" {
		options.Tokens = oauth2.StaticTokenSource(&oauth2.Token{AccessToken: who})
	}
	return chatv1connect.NewChatServiceClient(rpc.NewClient(options))
}

func keyed(ctx context.Context, key string) (context.Context, *connect.CallInfo) {
	ctx, info := connect.NewClientContext(ctx)
	if key != "" {
		info.RequestHeader().Set("Idempotency-Key", key)
	}
	return ctx, info
}

// say sends a message and reads the answer to its end.
func (s *shop) say(who, conversation, text string) ([]*chatv1.SendMessageResponse, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	ctx, _ = keyed(ctx, uuid.NewString())
	return read(s.as(who).SendMessage(ctx, &chatv1.SendMessageRequest{ConversationId: conversation, Text: text}))
}

func read(stream chatv1connect.ChatServiceSendMessageClientStream, err error) ([]*chatv1.SendMessageResponse, error) {
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	var all []*chatv1.SendMessageResponse
	for {
		answer, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, answer)
	}
}

func doneOf(t *testing.T, answers []*chatv1.SendMessageResponse) *chatv1.Done {
	t.Helper()
	if len(answers) == 0 || answers[len(answers)-1].GetEvent().GetDone() == nil {
		t.Fatalf("the stream ended without a done event: %v", answers)
	}
	return answers[len(answers)-1].GetEvent().GetDone()
}

func refuse(t *testing.T, err error, reason fault.Reason) *fault.Error {
	t.Helper()
	if !fault.Is(err, reason) {
		t.Fatalf("got %v, want %s", err, reason)
	}
	return fault.As(err)
}

func TestConversation(t *testing.T) {
	t.Parallel()
	s := setup(t, `search_books {"query":"dune","max_price":20}`, "Dune costs USD 9.99 [1].")
	ctx, _ := keyed(t.Context(), "k1")
	alice := s.as("alice")
	req := &chatv1.SendMessageRequest{Text: "Do you have Dune under 20?"}
	answers, err := read(alice.SendMessage(ctx, req))
	if err != nil {
		t.Fatal(err)
	}
	done := doneOf(t, answers)
	var said strings.Builder
	var citation *chatv1.Citation
	var card *chatv1.BookCard
	for i, a := range answers {
		said.WriteString(a.GetDelta())
		if a.GetEvent().GetSequence() != int64(i)+1 || a.GetEvent().GetDelta() != a.GetDelta() || a.GetConversationId() != answers[0].GetConversationId() {
			t.Errorf("event %d is %v", i, a)
		}
		if c := a.GetEvent().GetCitation(); c != nil {
			citation = c
		}
		if c := a.GetEvent().GetCard().GetBook(); c != nil {
			card = c
		}
	}
	if done.GetOutcome() != chatv1.Done_ANSWERED || done.GetText() != "Dune costs USD 9.99 [1]." || said.String() != done.GetText() {
		t.Errorf("got %v, said %q", done, said.String())
	}
	if citation.GetBookId() != duneID || citation.GetNumber() != 1 || citation.GetTitle() != "Dune" || card.GetPrice().GetAmountMinor() != 999 {
		t.Errorf("cites %v, shows %v", citation, card)
	}
	if got := s.called.all(); got != `alice search "dune" max 2000` {
		t.Errorf("called %s", got)
	}

	ctx, info := keyed(t.Context(), "k1")
	again, err := read(alice.SendMessage(ctx, req))
	if err != nil || len(again) != len(answers) || info.ResponseHeader().Get("Idempotent-Replayed") != "true" {
		t.Errorf("the replay has %d events, %v", len(again), err)
	}
	ctx, _ = keyed(t.Context(), "k1")
	_, err = read(alice.SendMessage(ctx, &chatv1.SendMessageRequest{Text: "Another"}))
	refuse(t, err, fault.ReasonKeyReused)
	_, err = read(alice.SendMessage(t.Context(), req))
	refuse(t, err, fault.ReasonKeyMissing)

	// Resumed after the event of a header, and of the message.
	turn := answers[0].GetEvent().GetTurnId()
	for name, test := range map[string]struct {
		after  int64
		header string
	}{"message": {2, ""}, "header": {0, "2"}, "both": {1, "2"}} {
		ctx, info := connect.NewClientContext(t.Context())
		info.RequestHeader().Set("Last-Event-ID", test.header)
		stream, err := alice.ResumeTurn(ctx, &chatv1.ResumeTurnRequest{TurnId: turn, AfterSequence: test.after})
		if err != nil {
			t.Fatal(err)
		}
		for want := int64(3); want <= int64(len(answers)); want++ {
			a, err := stream.Receive()
			if err != nil || a.GetEvent().GetSequence() != want {
				t.Errorf("%s: got %v, %v, want event %d", name, a, err, want)
			}
		}
		if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: got %v after the end", name, err)
		}
		stream.Close()
	}

	conversation := answers[0].GetConversationId()
	renamed, err := alice.RenameConversation(t.Context(), &chatv1.RenameConversationRequest{ConversationId: conversation, Title: "Deserts"})
	if err != nil || renamed.GetConversation().GetTitle() != "Deserts" {
		t.Errorf("got %v, %v", renamed, err)
	}
	list, err := alice.ListConversations(t.Context(), &chatv1.ListConversationsRequest{})
	if err != nil || len(list.GetConversations()) != 1 || list.GetConversations()[0].GetTitle() != "Deserts" {
		t.Errorf("got %v, %v", list, err)
	}
	messages, err := alice.ListMessages(t.Context(), &chatv1.ListMessagesRequest{ConversationId: conversation})
	if err != nil || len(messages.GetMessages()) != 2 || messages.GetMessages()[1].GetAuthor() != chatv1.Message_BOOKSELLER ||
		messages.GetMessages()[1].GetOutcome() != chatv1.Done_ANSWERED || messages.GetMessages()[1].GetCitations()[0].GetBookId() != duneID {
		t.Errorf("got %v, %v", messages, err)
	}
	export, err := alice.ExportConversation(t.Context(), &chatv1.ExportConversationRequest{ConversationId: conversation})
	if err != nil || !strings.Contains(export.GetMarkdown(), "# Deserts") || !strings.HasSuffix(export.GetFileName(), ".md") {
		t.Errorf("got %v, %v", export, err)
	}
	if _, err := alice.DeleteConversation(t.Context(), &chatv1.DeleteConversationRequest{ConversationId: conversation}); err != nil {
		t.Error(err)
	}
	_, err = alice.ListMessages(t.Context(), &chatv1.ListMessagesRequest{ConversationId: conversation})
	refuse(t, err, fault.ReasonConversationNotFound)
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	s := setup(t, "Hello.")
	for text, reason := range map[string]fault.Reason{
		"": fault.ReasonInvalidArgument, "\x00\x01\x02": fault.ReasonInvalidArgument,
		strings.Repeat("x", 4001): fault.ReasonInvalidArgument, strings.Repeat("x", 100_000): fault.ReasonInvalidArgument,
	} {
		_, err := s.say("alice", "", text)
		if f := refuse(t, err, reason); len(f.Fields) != 1 || f.Fields[0].Name != "text" {
			t.Errorf("%.10q: names %v", text, f.Fields)
		}
	}
	_, err := s.say("alice", "not a uuid", "Hello")
	if f := refuse(t, err, fault.ReasonInvalidArgument); f.Fields[0].Name != "conversation_id" {
		t.Errorf("names %v", f.Fields)
	}
	_, err = s.say("", "", "Hello")
	refuse(t, err, fault.ReasonTokenMissing)
	ctx, info := connect.NewClientContext(t.Context())
	info.RequestHeader().Set("Last-Event-ID", "x")
	stream, err := s.as("alice").ResumeTurn(ctx, &chatv1.ResumeTurnRequest{TurnId: uuid.NewString()})
	if err == nil {
		_, err = stream.Receive()
	}
	if f := refuse(t, err, fault.ReasonInvalidArgument); f.Fields[0].Name != "Last-Event-ID" {
		t.Errorf("names %v", f.Fields)
	}
}

func TestA1_ToolsSeeTheCallersOwn(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"alice", "admin"} {
		s := setup(t,
			`order_status {"order_id":"`+orderID("bob")+`"}`, `order_status {"order_id":"`+orderID(who)+`"}`, `my_orders {}`,
			`list_reviews {"book_id":"`+duneID+`"}`, `store_policy {"question":"returns"}`, "That is all I know.")
		answers, err := s.say(who, "", "How does everything stand?")
		if err != nil || doneOf(t, answers).GetOutcome() != chatv1.Done_ANSWERED {
			t.Fatal(answers, err)
		}
		for call := range strings.SplitSeq(s.called.all(), "; ") {
			if !strings.HasPrefix(call, who+" ") || strings.Contains(call, "any order") {
				t.Errorf("%s: called %q", who, call)
			}
		}
		last := s.model.seen[len(s.model.seen)-1]
		if !strings.Contains(last, "has no such order") || !strings.Contains(last, orderID(who)) || !strings.Contains(last, "SHIPPED") {
			t.Errorf("%s: the model was told %s", who, last)
		}
		for _, private := range []string{"Secret Street", "Recipient", "Hidden", "12345"} {
			if strings.Contains(last, private) {
				t.Errorf("%s: the model was told %q", who, private)
			}
		}
		for _, want := range []string{"The worms!", `policy`, "4.5 of 5 stars, 12 reviews"} {
			if !strings.Contains(last, want) {
				t.Errorf("%s: the model was not told %q", who, want)
			}
		}
	}
}

func TestA1_ConversationsAreTheCallersOwn(t *testing.T) {
	t.Parallel()
	s := setup(t, `add_to_basket {"book_id":"`+duneID+`","quantity":2}`, "I can put Dune into your basket [1].")
	answers, err := s.say("alice", "", "Two of Dune")
	if err != nil {
		t.Fatal(err)
	}
	conversation, turn, action := answers[0].GetConversationId(), answers[0].GetEvent().GetTurnId(), actionOf(t, answers)
	bob := s.as("bob")
	_, err = s.say("bob", conversation, "Hello")
	refuse(t, err, fault.ReasonConversationNotFound)
	_, err = bob.ListMessages(t.Context(), &chatv1.ListMessagesRequest{ConversationId: conversation})
	refuse(t, err, fault.ReasonConversationNotFound)
	_, err = bob.RenameConversation(t.Context(), &chatv1.RenameConversationRequest{ConversationId: conversation, Title: "x"})
	refuse(t, err, fault.ReasonConversationNotFound)
	_, err = bob.ExportConversation(t.Context(), &chatv1.ExportConversationRequest{ConversationId: conversation})
	refuse(t, err, fault.ReasonConversationNotFound)
	_, err = bob.CancelTurn(t.Context(), &chatv1.CancelTurnRequest{TurnId: turn})
	refuse(t, err, fault.ReasonTurnNotFound)
	stream, err := bob.ResumeTurn(t.Context(), &chatv1.ResumeTurnRequest{TurnId: turn})
	if err == nil {
		_, err = stream.Receive()
	}
	refuse(t, err, fault.ReasonTurnNotFound)
	for _, accept := range []bool{true, false} {
		_, err = bob.ConfirmAction(t.Context(), &chatv1.ConfirmActionRequest{ActionId: action, Accept: accept})
		refuse(t, err, fault.ReasonActionNotFound)
	}
	if s.baskets.tries != 0 {
		t.Error("a basket was touched")
	}
	if _, err := bob.DeleteConversation(t.Context(), &chatv1.DeleteConversationRequest{ConversationId: conversation}); err != nil {
		t.Error(err)
	}
	if list, err := s.as("alice").ListConversations(t.Context(), &chatv1.ListConversationsRequest{}); err != nil || len(list.GetConversations()) != 1 {
		t.Errorf("alice has %v, %v", list, err)
	}
}

func actionOf(t *testing.T, answers []*chatv1.SendMessageResponse) string {
	t.Helper()
	for _, a := range answers {
		if card := a.GetEvent().GetCard().GetConfirmation(); card != nil {
			if !strings.Contains(card.GetText(), "Dune") || !card.GetExpireTime().IsValid() {
				t.Errorf("the card is %v", card)
			}
			return card.GetActionId()
		}
	}
	t.Fatal("there is no confirmation card")
	return ""
}

func TestClientThatGoesAwayIsNotTheEnd(t *testing.T) {
	t.Parallel()
	s := setup(t, "Well, well. ")
	s.model.hold = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ctx, _ = keyed(ctx, "k")
	stream, err := s.as("alice").SendMessage(ctx, &chatv1.SendMessageRequest{Text: "Tell me something"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Receive()
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	stream.Close()
	resumed, err := s.as("alice").ResumeTurn(t.Context(), &chatv1.ResumeTurnRequest{TurnId: first.GetEvent().GetTurnId(), AfterSequence: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer resumed.Close()
	close(s.model.hold)
	for {
		a, err := resumed.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if done := a.GetEvent().GetDone(); done != nil {
			if done.GetOutcome() != chatv1.Done_ANSWERED {
				t.Errorf("got %v", done)
			}
			return
		}
	}
}
