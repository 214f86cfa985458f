package chat_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/a2aproject/a2a-go/a2a"
	"github.com/a2aproject/a2a-go/a2aclient"
	"github.com/a2aproject/a2a-go/a2aclient/agentcard"

	chatapi "bookworm/api/chat"
	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
	"bookworm/internal/gen/bookworm/chat/v1/chatv1connect"
	"bookworm/internal/gen/bookworm/rating/v1/ratingv1connect"
	"bookworm/internal/identity"
	"bookworm/internal/identity/identitytest"
	"bookworm/internal/rpc"
)

const (
	aConversation = "01890a5d-ac96-774b-bcce-b302099a8001"
	aTurn         = "01890a5d-ac96-774b-bcce-b302099a8002"
)

// numbered sends events as those of one turn.
func numbered(send func(string, *chatv1.TurnEvent) error, events ...*chatv1.TurnEvent) error {
	for i, event := range events {
		event.TurnId, event.Sequence = aTurn, int64(i+1)
		if err := send(aConversation, event); err != nil {
			return err
		}
	}
	return nil
}

func said(text string) *chatv1.TurnEvent {
	return &chatv1.TurnEvent{Event: &chatv1.TurnEvent_Delta{Delta: text}}
}

func ended(outcome chatv1.Done_Outcome, text string) *chatv1.TurnEvent {
	return &chatv1.TurnEvent{Event: &chatv1.TurnEvent_Done{Done: &chatv1.Done{Outcome: outcome, Text: text}}}
}

// whole is a turn with an event of each kind.
func whole() []*chatv1.TurnEvent {
	return []*chatv1.TurnEvent{
		{Event: &chatv1.TurnEvent_Tool{Tool: &chatv1.ToolEvent{CallId: "c", Name: "search_books", State: chatv1.ToolEvent_STARTED, Summary: "Looking for whales"}}},
		{Event: &chatv1.TurnEvent_Tool{Tool: &chatv1.ToolEvent{CallId: "c", Name: "search_books", State: chatv1.ToolEvent_SUCCEEDED, Summary: "2 books"}}},
		said("Read "), said("Moby-Dick [1]."),
		{Event: &chatv1.TurnEvent_Citation{Citation: &chatv1.Citation{Number: 1, CallId: "c", Source: &chatv1.Citation_BookId{BookId: aBook}, Title: "Moby-Dick"}}},
		{Event: &chatv1.TurnEvent_Citation{Citation: &chatv1.Citation{Number: 2, Source: &chatv1.Citation_Policy{Policy: "returns"}}}},
		{Event: &chatv1.TurnEvent_Card{Card: &chatv1.Card{Card: &chatv1.Card_Book{Book: &chatv1.BookCard{BookId: aBook, Title: "Moby-Dick"}}}}},
		ended(chatv1.Done_ANSWERED, "Read Moby-Dick [1]."),
	}
}

func (s *services) answerTurn(answer func(ctx context.Context, request *chatv1.SendMessageRequest, after int64, send func(string, *chatv1.TurnEvent) error) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn = answer
}

func (s *services) talk(ctx context.Context, request *chatv1.SendMessageRequest, after int64, send func(string, *chatv1.TurnEvent) error) error {
	s.called(ctx)
	s.mu.Lock()
	answer := s.turn
	s.mu.Unlock()
	if answer != nil {
		return answer(ctx, request, after, send)
	}
	return numbered(send, whole()...)
}

func (s *services) SendMessage(ctx context.Context, request *chatv1.SendMessageRequest, stream chatv1connect.ChatServiceSendMessageServerStream) error {
	key, err := rpc.IdempotencyKey(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.keys = append(s.keys, key)
	s.mu.Unlock()
	return s.talk(ctx, request, 0, func(conversation string, event *chatv1.TurnEvent) error {
		return stream.Send(&chatv1.SendMessageResponse{ConversationId: conversation, Delta: event.GetDelta(), Event: event})
	})
}

func (s *services) ResumeTurn(ctx context.Context, request *chatv1.ResumeTurnRequest, stream chatv1connect.ChatServiceResumeTurnServerStream) error {
	if request.GetTurnId() != aTurn {
		return fault.New(fault.ReasonTurnNotFound, "There is no turn %s.", request.GetTurnId())
	}
	return s.talk(ctx, nil, request.GetAfterSequence(), func(conversation string, event *chatv1.TurnEvent) error {
		return stream.Send(&chatv1.ResumeTurnResponse{ConversationId: conversation, Event: event})
	})
}

func (s *services) CancelTurn(_ context.Context, request *chatv1.CancelTurnRequest) (*chatv1.CancelTurnResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = append(s.stopped, request.GetTurnId())
	return &chatv1.CancelTurnResponse{}, nil
}

// agent finds the shop's agent by its card and returns the library's own client.
func (a *agents) agent(t *testing.T, token string) *a2aclient.Client {
	t.Helper()
	card, err := agentcard.NewResolver(http.DefaultClient).Resolve(t.Context(), a.url)
	if err != nil {
		t.Fatal(err)
	}
	client, err := a2aclient.NewFromCard(t.Context(), card, a2aclient.WithJSONRPCTransport(&http.Client{Transport: bearer(token)}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Destroy() })
	return client
}

func question(text string) *a2a.MessageSendParams {
	return &a2a.MessageSendParams{Message: a2a.NewMessage(a2a.MessageRoleUser, a2a.TextPart{Text: text})}
}

// told is a task's artifacts as text.
func told(task *a2a.Task) string {
	var all []string
	for _, artifact := range task.Artifacts {
		for _, part := range artifact.Parts {
			switch part := part.(type) {
			case a2a.TextPart:
				all = append(all, string(artifact.ID)+" "+part.Text)
			case a2a.DataPart:
				all = append(all, string(artifact.ID)+" "+fmt.Sprint(part.Data))
			}
		}
	}
	return strings.Join(all, "\n")
}

const wholeTold = "answer Read Moby-Dick [1].\n" +
	"sources map[book_id:" + aBook + " call_id:c number:1 title:Moby-Dick]\n" +
	"sources map[number:2 policy:returns]\n" +
	"cards map[book:map[book_id:" + aBook + " title:Moby-Dick]]"

func TestA2AMessage(t *testing.T) {
	t.Parallel()
	a := setupAgents(t)
	client := a.agent(t, a.provider.Token("alice", "customer"))
	params := question("a whale")
	params.Message.Parts = append(params.Message.Parts, a2a.TextPart{Text: "please"})
	params.Message.ContextID = aConversation
	var asked *chatv1.SendMessageRequest
	a.answerTurn(func(_ context.Context, request *chatv1.SendMessageRequest, _ int64, send func(string, *chatv1.TurnEvent) error) error {
		if request != nil {
			asked = request
		}
		return numbered(send, whole()...)
	})
	result, err := client.SendMessage(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	task, ok := result.(*a2a.Task)
	if !ok || task.ID != aTurn || task.ContextID != aConversation || task.Status.State != a2a.TaskStateCompleted || task.Status.Timestamp == nil || told(task) != wholeTold {
		t.Errorf("answered %+v: %s", result, told(task))
	}
	if asked.GetConversationId() != aConversation || asked.GetText() != "a whale\nplease" || fmt.Sprint(a.keys) != "["+params.Message.ID+"]" || fmt.Sprint(a.callers) != "[alice]" {
		t.Errorf("the chat was asked %v with the key %s by %s", asked, a.keys, a.callers)
	}
	got, err := client.GetTask(t.Context(), &a2a.TaskQueryParams{ID: aTurn})
	if err != nil || got.Status.State != a2a.TaskStateCompleted || told(got) != wholeTold {
		t.Errorf("the task again: %+v, %v", got, err)
	}
}

// updates reads a stream to its end; kinds say what came, and the task is what a
// client has who applies it.
func updates(t *testing.T, events func(func(a2a.Event, error) bool)) (kinds []string, task *a2a.Task) {
	t.Helper()
	for event, err := range events {
		if err != nil {
			t.Fatalf("after %v: %v", kinds, err)
		}
		switch event := event.(type) {
		case *a2a.Task:
			kinds, task = append(kinds, "task "+string(event.Status.State)), event
		case *a2a.TaskStatusUpdateEvent:
			text := ""
			if event.Status.Message != nil {
				text = " " + event.Status.Message.Parts[0].(a2a.TextPart).Text
			}
			kinds = append(kinds, fmt.Sprintf("%s%s %t", event.Status.State, text, event.Final))
			task.Status = event.Status
		case *a2a.TaskArtifactUpdateEvent:
			kinds = append(kinds, fmt.Sprintf("%s %t", event.Artifact.ID, event.Append))
			at := -1
			for i, artifact := range task.Artifacts {
				if artifact.ID == event.Artifact.ID {
					at = i
				}
			}
			switch {
			case at < 0:
				task.Artifacts = append(task.Artifacts, event.Artifact)
			case !event.Append:
				task.Artifacts[at] = event.Artifact
			default:
				task.Artifacts[at].Parts = append(task.Artifacts[at].Parts, event.Artifact.Parts...)
			}
		}
	}
	return kinds, task
}

func TestA2AStream(t *testing.T) {
	t.Parallel()
	a := setupAgents(t)
	client := a.agent(t, a.provider.Token("alice", "customer"))
	const want = "task working; working Looking for whales false; answer false; answer true; sources false; sources true; cards false; completed true"
	inPieces := strings.Replace(wholeTold, "answer Read Moby-Dick [1].", "answer Read \nanswer Moby-Dick [1].", 1)
	for name, events := range map[string]func(func(a2a.Event, error) bool){
		"sent":    client.SendStreamingMessage(t.Context(), question("a whale")),
		"resumed": client.ResubscribeToTask(t.Context(), &a2a.TaskIDParams{ID: aTurn}),
	} {
		kinds, task := updates(t, events)
		if strings.Join(kinds, "; ") != want || told(task) != inPieces || task.ID != aTurn || task.ContextID != aConversation {
			t.Errorf("%s: %s: %s", name, strings.Join(kinds, "; "), told(task))
		}
	}

	// Each event comes as it happens, and the output check's text replaces the rest.
	arrived := make(chan struct{})
	a.answerTurn(func(ctx context.Context, _ *chatv1.SendMessageRequest, _ int64, send func(string, *chatv1.TurnEvent) error) error {
		if err := send(aConversation, said("It costs 1 dollar.")); err != nil {
			return err
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return ctx.Err()
		}
		return send(aConversation, ended(chatv1.Done_ANSWERED, "It costs something (not verified)."))
	})
	kinds, task := updates(t, func(yield func(a2a.Event, error) bool) {
		for event, err := range client.SendStreamingMessage(t.Context(), question("x")) {
			if _, ok := event.(*a2a.TaskArtifactUpdateEvent); ok {
				select {
				case arrived <- struct{}{}:
				default:
				}
			}
			if !yield(event, err) {
				return
			}
		}
	})
	if strings.Join(kinds, "; ") != "task working; answer false; answer false; completed true" || told(task) != "answer It costs something (not verified)." {
		t.Errorf("%v: %s", kinds, told(task))
	}
}

func TestA2AOutcomes(t *testing.T) {
	t.Parallel()
	a := setupAgents(t)
	client := a.agent(t, a.provider.Token("alice", "customer"))
	for outcome, want := range map[chatv1.Done_Outcome]a2a.TaskState{
		chatv1.Done_ANSWERED: a2a.TaskStateCompleted, chatv1.Done_FALLBACK: a2a.TaskStateCompleted, chatv1.Done_REFUSED: a2a.TaskStateRejected,
		chatv1.Done_CANCELLED: a2a.TaskStateCanceled, chatv1.Done_FAILED: a2a.TaskStateFailed,
	} {
		a.answerTurn(func(_ context.Context, _ *chatv1.SendMessageRequest, _ int64, send func(string, *chatv1.TurnEvent) error) error {
			return numbered(send, &chatv1.TurnEvent{Event: &chatv1.TurnEvent_Error{Error: &chatv1.TurnError{Reason: "UNAVAILABLE", Message: "The model is away."}}}, ended(outcome, ""))
		})
		result, err := client.SendMessage(t.Context(), question("x"))
		if err != nil {
			t.Errorf("%s: %v", outcome, err)
			continue
		}
		task := result.(*a2a.Task)
		told := task.Status.Message != nil && task.Status.Message.Parts[0].(a2a.TextPart).Text == "UNAVAILABLE: The model is away."
		if task.Status.State != want || told != (outcome == chatv1.Done_FAILED) {
			t.Errorf("%s: %+v", outcome, task.Status)
		}
	}
	for name := range chatv1.Done_Outcome_value {
		if value := chatv1.Done_Outcome(chatv1.Done_Outcome_value[name]); chatapi.OutcomeStates[value] == "" {
			t.Errorf("no state for %s", name)
		}
	}
}

func TestA2ACancel(t *testing.T) {
	t.Parallel()
	a := setupAgents(t)
	client := a.agent(t, a.provider.Token("alice", "customer"))
	if task, err := client.CancelTask(t.Context(), &a2a.TaskIDParams{ID: aTurn}); !errors.Is(err, a2a.ErrTaskNotCancelable) {
		t.Errorf("a turn that has ended: %v, %v", task, err)
	}
	a.answerTurn(func(_ context.Context, _ *chatv1.SendMessageRequest, _ int64, send func(string, *chatv1.TurnEvent) error) error {
		return numbered(send, said("I was"), ended(chatv1.Done_CANCELLED, ""))
	})
	task, err := client.CancelTask(t.Context(), &a2a.TaskIDParams{ID: aTurn})
	if err != nil || task.Status.State != a2a.TaskStateCanceled || told(task) != "answer I was" {
		t.Errorf("%+v, %v", task, err)
	}
	if fmt.Sprint(a.stopped) != "["+aTurn+" "+aTurn+"]" {
		t.Errorf("stopped %v", a.stopped)
	}
}

func TestA2AClientThatLeavesStopsTheTurn(t *testing.T) {
	t.Parallel()
	a := setupAgents(t)
	client := a.agent(t, a.provider.Token("alice", "customer"))
	left := make(chan struct{}, 1)
	a.answerTurn(func(ctx context.Context, _ *chatv1.SendMessageRequest, _ int64, send func(string, *chatv1.TurnEvent) error) error {
		if err := numbered(send, said("I")); err != nil {
			return err
		}
		<-ctx.Done()
		left <- struct{}{}
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for event, err := range client.SendStreamingMessage(ctx, question("x")) {
		if err != nil {
			break
		}
		if _, last := event.(*a2a.TaskArtifactUpdateEvent); last {
			cancel()
		}
	}
	select {
	case <-left:
	case <-time.After(5 * time.Second):
		t.Error("the turn goes on")
	}
}

func TestA2ABadInput(t *testing.T) {
	t.Parallel()
	a := setupAgents(t)
	client := a.agent(t, a.provider.Token("alice", "customer"))
	changed := func(change func(*a2a.MessageSendParams)) func() error {
		return func() error {
			params := question("x")
			change(params)
			_, err := client.SendMessage(t.Context(), params)
			return err
		}
	}
	for name, test := range map[string]struct {
		call func() error
		want error
		text string
	}{
		"no message id":     {changed(func(p *a2a.MessageSendParams) { p.Message.ID = "" }), a2a.ErrInvalidParams, "messageId"},
		"a strange id":      {changed(func(p *a2a.MessageSendParams) { p.Message.ID = "\u2603" }), a2a.ErrInvalidParams, "INVALID_ARGUMENT"},
		"a strange context": {changed(func(p *a2a.MessageSendParams) { p.Message.ContextID = "mine" }), a2a.ErrInvalidParams, "conversation_id"},
		"a task":            {changed(func(p *a2a.MessageSendParams) { p.Message.TaskID = aTurn }), a2a.ErrInvalidParams, "taskId"},
		"no text":           {changed(func(p *a2a.MessageSendParams) { p.Message.Parts = nil }), a2a.ErrInvalidParams, "text"},
		"too much text": {changed(func(p *a2a.MessageSendParams) {
			p.Message.Parts = a2a.ContentParts{a2a.TextPart{Text: strings.Repeat("x", 4001)}}
		}), a2a.ErrInvalidParams, "text"},
		"a file": {changed(func(p *a2a.MessageSendParams) {
			p.Message.Parts = a2a.ContentParts{a2a.FilePart{File: a2a.FileURI{URI: "file:///etc/passwd"}}}
		}), a2a.ErrUnsupportedContentType, ""},
		"data": {changed(func(p *a2a.MessageSendParams) {
			p.Message.Parts = a2a.ContentParts{a2a.DataPart{Data: map[string]any{"x": 1}}}
		}), a2a.ErrUnsupportedContentType, ""},
		"pictures wanted": {changed(func(p *a2a.MessageSendParams) {
			p.Config = &a2a.MessageSendConfig{AcceptedOutputModes: []string{"image/png"}}
		}), a2a.ErrUnsupportedContentType, ""},
		"a push wanted": {changed(func(p *a2a.MessageSendParams) {
			p.Config = &a2a.MessageSendConfig{PushConfig: &a2a.PushConfig{URL: "http://169.254.169.254/"}}
		}), a2a.ErrPushNotificationNotSupported, ""},
		"no such task": {func() error { _, err := client.GetTask(t.Context(), &a2a.TaskQueryParams{ID: aBook}); return err }, a2a.ErrTaskNotFound, "TURN_NOT_FOUND"},
		"no task's id": {func() error { _, err := client.GetTask(t.Context(), &a2a.TaskQueryParams{ID: "x"}); return err }, a2a.ErrInvalidParams, "turn_id"},
	} {
		if err := test.call(); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(a.callers) != 0 {
		t.Errorf("%d turns began", len(a.callers))
	}
	for name, test := range map[string]struct {
		err    error
		want   error
		text   string
		logged bool
	}{
		"a defect":         {errors.New("secret"), a2a.ErrInternalError, "", true},
		"an outage":        {fault.New(fault.ReasonUnavailable, "Later.").WithCause(errors.New("secret")), a2a.ErrServerError, "UNAVAILABLE: Later.", true},
		"too late":         {context.DeadlineExceeded, a2a.ErrServerError, "UNAVAILABLE: It took too long.", true},
		"an empty purse":   {fault.New(fault.ReasonBudgetSpent, ""), a2a.ErrServerError, "CHAT_BUDGET_SPENT: The day's words", false},
		"a used key":       {fault.New(fault.ReasonKeyReused, ""), a2a.ErrInvalidParams, "IDEMPOTENCY_KEY_REUSED", false},
		"no conversation":  {fault.New(fault.ReasonConversationNotFound, ""), a2a.ErrInvalidParams, "CONVERSATION_NOT_FOUND", false},
		"no events at all": {nil, a2a.ErrInvalidAgentResponse, "", false},
	} {
		a.answerTurn(func(context.Context, *chatv1.SendMessageRequest, int64, func(string, *chatv1.TurnEvent) error) error {
			return test.err
		})
		before := len(a.log.String())
		_, err := client.SendMessage(t.Context(), question("x"))
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
		if logged := len(a.log.String()) > before; logged != test.logged {
			t.Errorf("%s: logged %t", name, logged)
		}
		if test.err == nil {
			continue
		}
		for _, err := range client.SendStreamingMessage(t.Context(), question("x")) {
			if !errors.Is(err, test.want) {
				t.Errorf("%s, streamed: %v", name, err)
			}
		}
	}
}

func TestA2_A2ANeedsACustomer(t *testing.T) {
	t.Parallel()
	a := setupAgents(t)
	const send = `{"jsonrpc":"2.0","id":1,"method":"message/send","params":{"message":{"messageId":"m","role":"user","parts":[{"kind":"text","text":"x"}]}}}`
	bearerOf := func(role string) []string {
		return []string{"Authorization", "Bearer " + a.provider.Token("somebody", role)}
	}
	for name, test := range map[string]struct {
		body    string
		headers []string
		status  int
		want    string
	}{
		"nobody":        {send, nil, 401, "TOKEN_MISSING"},
		"forged":        {send, []string{"Authorization", "Bearer forged"}, 401, "TOKEN_INVALID"},
		"a service":     {send, bearerOf("service"), 403, "ACCESS_DENIED"},
		"an admin":      {send, bearerOf("admin"), 403, "ACCESS_DENIED"},
		"a web page":    {send, append(bearerOf("customer"), "Origin", "http://evil.example"), 403, "ACCESS_DENIED"},
		"too large":     {strings.Repeat("x", 1<<20+1), bearerOf("customer"), 413, "REQUEST_TOO_LARGE"},
		"many at once":  {"[" + send + "]", bearerOf("customer"), 400, "MALFORMED_REQUEST"},
		"no JSON":       {"{", bearerOf("customer"), 200, "-32700"},
		"no version":    {`{"id":1,"method":"message/send"}`, bearerOf("customer"), 200, "-32600"},
		"a strange one": {`{"jsonrpc":"2.0","id":1,"method":"shop/steal"}`, bearerOf("customer"), 200, "-32601"},
		"no parameters": {`{"jsonrpc":"2.0","id":1,"method":"message/send"}`, bearerOf("customer"), 200, "-32700"},
		"null":          {`{"jsonrpc":"2.0","id":1,"method":"message/send","params":null}`, bearerOf("customer"), 200, "-32602"},
		"streamed null": {`{"jsonrpc":"2.0","id":1,"method":"message/stream","params":null}`, bearerOf("customer"), 200, "-32602"},
		"resumed null":  {`{"jsonrpc":"2.0","id":1,"method":"tasks/resubscribe","params":null}`, bearerOf("customer"), 200, "-32602"},
		"another card":  {`{"jsonrpc":"2.0","id":1,"method":"agent/getAuthenticatedExtendedCard"}`, bearerOf("customer"), 200, "-32007"},
		"a push":        {`{"jsonrpc":"2.0","id":1,"method":"tasks/pushNotificationConfig/set","params":{}}`, bearerOf("customer"), 200, "-32003"},
	} {
		status, header, body := a.post(t, "/a2a", test.body, test.headers...)
		if status != test.status || !strings.Contains(body, test.want) || (header.Get("WWW-Authenticate") == "Bearer") != (status == 401) {
			t.Errorf("%s: got %d %v %s", name, status, header, body)
		}
	}
	if len(a.callers) != 0 {
		t.Errorf("%d turns began", len(a.callers))
	}
}

func TestA2AWithoutTheChat(t *testing.T) {
	t.Parallel()
	a := setupAgents(t)
	dead, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	verifier, err := identity.NewVerifier(t.Context(), identity.VerifierConfig{Issuer: a.provider.Issuer, Audience: identitytest.Audience})
	if err != nil {
		t.Fatal(err)
	}
	behind := rpc.NewClient(rpc.ClientOptions{BaseURL: "http://" + dead.Addr().String()})
	a.url = a.front(t, verifier, catalogv1connect.NewCatalogServiceClient(behind), ratingv1connect.NewRatingServiceClient(behind), chatv1connect.NewChatServiceClient(behind))
	if _, err := a.agent(t, a.provider.Token("alice", "customer")).SendMessage(t.Context(), question("x")); !errors.Is(err, a2a.ErrServerError) || !strings.Contains(err.Error(), "UNAVAILABLE") {
		t.Errorf("got %v", err)
	}
}

func TestAgentCard(t *testing.T) {
	t.Parallel()
	a := setupAgents(t)
	read := func(handler http.Handler, headers ...string) a2a.AgentCard {
		url := a.url
		if handler != nil {
			url = serve(t, handler)
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+chatapi.AgentCardPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(headers); i += 2 {
			request.Header.Set(headers[i], headers[i+1])
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var card a2a.AgentCard
		if err := json.NewDecoder(response.Body).Decode(&card); err != nil || response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/json" {
			t.Fatalf("got %d %v, %v", response.StatusCode, response.Header, err)
		}
		return card
	}
	card := read(nil)
	if card.URL != a.url+"/a2a" || card.ProtocolVersion != "0.3.0" || !card.Capabilities.Streaming || card.Capabilities.PushNotifications || len(card.Skills) == 0 || len(card.Security) != 1 || card.SecuritySchemes["customer"] == nil {
		t.Errorf("%+v", card)
	}
	if got := read(nil, "X-Forwarded-Host", "shop.example", "X-Forwarded-Proto", "https").URL; got != "https://shop.example/a2a" {
		t.Errorf("behind the gateway: %s", got)
	}
	if got := read(chatapi.AgentCardHandler("https://books.example/a2a"), "X-Forwarded-Host", "evil.example").URL; got != "https://books.example/a2a" {
		t.Errorf("with an address of its own: %s", got)
	}
	if status, header, _ := a.post(t, chatapi.AgentCardPath, "{}"); status != 405 || header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d", status)
	}
}

// Whatever an agent sends is answered, and ends nothing.
func FuzzA2A(f *testing.F) {
	for _, seed := range []string{
		``, `{`, `null`, `{"jsonrpc":"2.0","id":1,"method":"message/send","params":{"message":{"messageId":"m","role":"user","parts":[{"kind":"text","text":"x"}]}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"message/stream","params":{"message":{"messageId":"m","parts":[null,{"kind":"file","file":{"bytes":"AA=="}}]}}}`,
		`{"jsonrpc":"2.0","method":"tasks/get","params":{"id":"` + aTurn + `","historyLength":-1}}`, `{"jsonrpc":"2.0","id":{},"method":"tasks/resubscribe","params":[]}`,
		`{"jsonrpc":"2.0","id":1,"method":"tasks/cancel","params":{"id":7}}`,
	} {
		f.Add(seed)
	}
	handler := chatapi.A2AHandler(chatapi.A2ADeps{Chat: deafChat{}, Verifier: everybody{}})
	f.Fuzz(func(t *testing.T, body string) {
		recorder := httptest.NewRecorder()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/a2a", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer x")
		handler.ServeHTTP(recorder, request)
		if strings.HasPrefix(strings.TrimLeft(body, " \t\r\n"), "[") {
			if recorder.Code != http.StatusBadRequest {
				t.Errorf("%q: got %d", body, recorder.Code)
			}
			return
		}
		answer := recorder.Body.String()
		if recorder.Code != http.StatusOK || !strings.Contains(answer, `"error"`) || !strings.Contains(answer, `"jsonrpc":"2.0"`) {
			t.Errorf("%q: got %d %s", body, recorder.Code, answer)
		}
	})
}

type everybody struct{}

func (everybody) Verify(context.Context, string) (identity.Caller, error) {
	return identity.Caller{Subject: "alice", Roles: []accessv1.Role{accessv1.Role_ROLE_CUSTOMER}}, nil
}

// deafChat refuses everything.
type deafChat struct {
	chatv1connect.ChatServiceClient
}

var errDeaf = fault.New(fault.ReasonTurnNotFound, "no")

func (deafChat) SendMessage(context.Context, *chatv1.SendMessageRequest) (chatv1connect.ChatServiceSendMessageClientStream, error) {
	return chatv1connect.ChatServiceSendMessageClientStream{}, errDeaf
}

func (deafChat) ResumeTurn(context.Context, *chatv1.ResumeTurnRequest) (chatv1connect.ChatServiceResumeTurnClientStream, error) {
	return chatv1connect.ChatServiceResumeTurnClientStream{}, errDeaf
}

func (deafChat) CancelTurn(context.Context, *chatv1.CancelTurnRequest) (*chatv1.CancelTurnResponse, error) {
	return nil, errDeaf
}
