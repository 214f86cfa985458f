package chat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/a2aproject/a2a-go/a2a"
	"github.com/a2aproject/a2a-go/a2asrv"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"bookworm/internal/fault"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
	"bookworm/internal/gen/bookworm/chat/v1/chatv1connect"
	"bookworm/internal/rpc"
)

const (
	// A2APath is where the shop's agent answers other agents.
	A2APath = "/a2a"
	// AgentCardPath is where they find out about it (A2A 0.3, section 5.3).
	AgentCardPath = a2asrv.WellKnownAgentCardPath
	// a2aVersion is the protocol that the library speaks.
	a2aVersion = "0.3.0"
)

// A2ADeps is what the A2A endpoint needs of its process.
type A2ADeps struct {
	// Chat is asked with the token of the request that is served; make it without a
	// credential of its own.
	Chat chatv1connect.ChatServiceClient
	// Verifier tells whose an access token is.
	Verifier rpc.Verifier
	// Logger gets what is the shop's own fault. Nil: slog's default.
	Logger *slog.Logger
}

// A2AHandler serves the Agent2Agent protocol as JSON-RPC over HTTP: another agent
// talks with the bookseller for a signed-in customer, whose token it sends. A
// context is a conversation, a task is a turn in it, and a message's id is its
// Idempotency-Key, so that a message sent twice is answered once.
//
// Nothing of a task is kept here: its id leads to the turn in the chat, whichever
// replica is asked. message/send and tasks/get answer when the turn has ended, at
// most a minute later; message/stream and tasks/resubscribe tell it as it happens.
// A client that leaves stops the model like any other of the chat's.
func A2AHandler(deps A2ADeps) http.Handler {
	if deps.Logger == nil {
		deps.Logger = slog.Default()
	}
	rule := chatv1.File_bookworm_chat_v1_chat_proto.Services().ByName("ChatService").Methods().ByName("SendMessage")
	return agentDoor(deps.Verifier, rule, a2asrv.NewJSONRPCHandler(&bookseller{deps}))
}

// AgentCardHandler serves the card. The url is the public address of A2APath, for
// example https://shop.example/a2a; when it is empty, it is made of the name under
// which the gateway was asked.
func AgentCardHandler(url string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		address := url
		if address == "" {
			host, scheme := r.Host, "http"
			if forwarded := r.Header.Get("X-Forwarded-Host"); forwarded != "" {
				host = forwarded
			}
			if r.Header.Get("X-Forwarded-Proto") == "https" {
				scheme = "https"
			}
			address = scheme + "://" + host + A2APath
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(agentCard(address)) // who does not take it has left
	})
}

func agentCard(url string) *a2a.AgentCard {
	return &a2a.AgentCard{
		Name: "BookWorm bookseller", Version: "1", ProtocolVersion: a2aVersion, URL: url, PreferredTransport: a2a.TransportProtocolJSONRPC,
		Description: "Talks with a customer of the BookWorm bookshop about books, about the shop's rules and about the customer's own " +
			"orders. What it says of a book, a price or stock rests on sources that it names.",
		Capabilities:      a2a.AgentCapabilities{Streaming: true},
		DefaultInputModes: []string{"text/plain"}, DefaultOutputModes: []string{"text/plain", "application/json"},
		SecuritySchemes: a2a.NamedSecuritySchemes{
			"customer": a2a.HTTPAuthSecurityScheme{Scheme: "bearer", BearerFormat: "JWT", Description: "An access token of a customer of the shop."},
		},
		Security: []a2a.SecurityRequirements{{"customer": {}}},
		Skills: []a2a.AgentSkill{
			{
				ID: "find-books", Name: "Find books", Tags: []string{"books", "search", "recommendation"},
				Description: "Finds books by title, author, theme or mood, compares them, and says what reviewers think.",
				Examples:    []string{"A short novel about the sea for a rainy weekend", "Something like Moby-Dick, but funny"},
			},
			{
				ID: "orders-and-rules", Name: "Orders and rules", Tags: []string{"orders", "shipping", "returns"},
				Description: "Says how the customer's orders stand, and what the shop's rules are.",
				Examples:    []string{"Where is my last order?", "Can I send a book back after two weeks?"},
			},
		},
	}
}

// bookseller answers the methods of A2A with calls of the chat.
type bookseller struct{ A2ADeps }

// OnSendMessage implements a2asrv.RequestHandler.
func (b *bookseller) OnSendMessage(ctx context.Context, params *a2a.MessageSendParams) (a2a.SendMessageResult, error) {
	turn := &a2aTurn{}
	for _, err := range b.sent(ctx, params, turn) {
		if err != nil {
			return nil, err
		}
	}
	return turn.whole()
}

// OnSendMessageStream implements a2asrv.RequestHandler.
func (b *bookseller) OnSendMessageStream(ctx context.Context, params *a2a.MessageSendParams) iter.Seq2[a2a.Event, error] {
	return b.sent(ctx, params, &a2aTurn{})
}

// OnGetTask implements a2asrv.RequestHandler. It waits for the end of a turn that
// goes on.
func (b *bookseller) OnGetTask(ctx context.Context, query *a2a.TaskQueryParams) (*a2a.Task, error) {
	turn := &a2aTurn{}
	for _, err := range b.resumed(ctx, query.ID, turn) {
		if err != nil {
			return nil, err
		}
	}
	return turn.whole()
}

// OnResubscribeToTask implements a2asrv.RequestHandler. It tells the turn from its
// beginning.
func (b *bookseller) OnResubscribeToTask(ctx context.Context, params *a2a.TaskIDParams) iter.Seq2[a2a.Event, error] {
	return b.resumed(ctx, params.ID, &a2aTurn{})
}

// OnCancelTask implements a2asrv.RequestHandler.
func (b *bookseller) OnCancelTask(ctx context.Context, params *a2a.TaskIDParams) (*a2a.Task, error) {
	if _, err := b.Chat.CancelTurn(onBehalf(ctx), &chatv1.CancelTurnRequest{TurnId: string(params.ID)}); err != nil {
		return nil, b.failure(ctx, err)
	}
	task, err := b.OnGetTask(ctx, &a2a.TaskQueryParams{ID: params.ID})
	if err == nil && task.Status.State != a2a.TaskStateCanceled {
		return nil, fmt.Errorf("the turn has ended: %w", a2a.ErrTaskNotCancelable)
	}
	return task, err
}

// sent is a new turn, as its events tell it.
func (b *bookseller) sent(ctx context.Context, params *a2a.MessageSendParams, turn *a2aTurn) iter.Seq2[a2a.Event, error] {
	return func(yield func(a2a.Event, error) bool) {
		text, err := textOf(params)
		if err != nil {
			yield(nil, err)
			return
		}
		ctx, cancel := context.WithCancel(onBehalf(ctx))
		defer cancel()
		if call, ok := connect.CallInfoForClientContext(ctx); ok {
			call.RequestHeader().Set("Idempotency-Key", params.Message.ID)
		}
		stream, err := b.Chat.SendMessage(ctx, &chatv1.SendMessageRequest{ConversationId: params.Message.ContextID, Text: text})
		if err != nil {
			yield(nil, b.failure(ctx, err))
			return
		}
		b.tell(ctx, turn, func() (turnMessage, error) { return stream.Receive() }, yield)
	}
}

// resumed is a turn from its beginning.
func (b *bookseller) resumed(ctx context.Context, id a2a.TaskID, turn *a2aTurn) iter.Seq2[a2a.Event, error] {
	return func(yield func(a2a.Event, error) bool) {
		ctx, cancel := context.WithCancel(onBehalf(ctx))
		defer cancel()
		stream, err := b.Chat.ResumeTurn(ctx, &chatv1.ResumeTurnRequest{TurnId: string(id)})
		if err != nil {
			yield(nil, b.failure(ctx, err))
			return
		}
		b.tell(ctx, turn, func() (turnMessage, error) { return stream.Receive() }, yield)
	}
}

// turnMessage is what the streams of the chat consist of.
type turnMessage interface {
	GetConversationId() string
	GetEvent() *chatv1.TurnEvent
}

// tell yields a turn's events up to its last one.
func (b *bookseller) tell(ctx context.Context, turn *a2aTurn, receive func() (turnMessage, error), yield func(a2a.Event, error) bool) {
	for {
		message, err := receive()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			yield(nil, b.failure(ctx, err))
			return
		}
		for _, event := range turn.take(message.GetConversationId(), message.GetEvent()) {
			if !yield(event, nil) {
				return
			}
		}
	}
}

// textOf returns what a message says, or why it cannot be taken.
func textOf(params *a2a.MessageSendParams) (string, error) {
	if params.Message == nil || params.Message.ID == "" {
		return "", fmt.Errorf("a message with a messageId is required: %w", a2a.ErrInvalidParams)
	}
	if params.Message.TaskID != "" {
		return "", fmt.Errorf("a turn takes one message; leave taskId out to go on in the same context: %w", a2a.ErrInvalidParams)
	}
	if config := params.Config; config != nil {
		if config.PushConfig != nil {
			return "", a2a.ErrPushNotificationNotSupported
		}
		if modes := config.AcceptedOutputModes; len(modes) > 0 && !slices.Contains(modes, "text/plain") && !slices.Contains(modes, "text") {
			return "", fmt.Errorf("answers are text/plain: %w", a2a.ErrUnsupportedContentType)
		}
	}
	var texts []string
	for _, part := range params.Message.Parts {
		text, ok := part.(a2a.TextPart)
		if !ok {
			return "", fmt.Errorf("messages are text: %w", a2a.ErrUnsupportedContentType)
		}
		texts = append(texts, text.Text)
	}
	return strings.Join(texts, "\n"), nil
}

// failure is an error in the protocol's terms, with the shop's reason in its data.
func (b *bookseller) failure(ctx context.Context, err error) error {
	f := fault.As(err)
	switch {
	case f != nil:
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		f = fault.New(fault.ReasonUnavailable, "It took too long.")
	default:
		f = fault.New(fault.ReasonInternal, "").WithCause(err)
	}
	kind := a2a.ErrServerError
	switch f.Kind() {
	case fault.Internal:
		b.Logger.ErrorContext(ctx, "A2A request failed", "error", err)
		return fmt.Errorf("%s: %w", said(fault.New(fault.ReasonInternal, "")), a2a.ErrInternalError)
	case fault.Unavailable:
		b.Logger.WarnContext(ctx, "A2A request not served", "error", err)
	case fault.Invalid, fault.Conflict, fault.TooLarge:
		kind = a2a.ErrInvalidParams
	case fault.NotFound:
		kind = a2a.ErrInvalidParams
		if f.Reason == fault.ReasonTurnNotFound {
			kind = a2a.ErrTaskNotFound
		}
	default:
	}
	return fmt.Errorf("%s: %w", said(f), kind)
}

// The artifacts of a turn.
const (
	answerArtifact  = "answer"  // text
	sourcesArtifact = "sources" // a JSON object for each citation
	cardsArtifact   = "cards"   // a JSON object for each thing to show
)

// a2aTurn is a turn as A2A's task.
type a2aTurn struct {
	task    *a2a.Task // nil before the first event
	text    string    // of the answer so far
	trouble string    // what went wrong last
}

// whole returns the task as it is.
func (t *a2aTurn) whole() (*a2a.Task, error) {
	if t.task == nil {
		return nil, a2a.ErrInvalidAgentResponse
	}
	return t.task, nil
}

// take adds an event of the turn to the task and returns what that is in A2A.
func (t *a2aTurn) take(conversation string, event *chatv1.TurnEvent) []a2a.Event {
	var events []a2a.Event
	if t.task == nil {
		t.task = &a2a.Task{ID: a2a.TaskID(event.GetTurnId()), ContextID: conversation, Status: a2a.TaskStatus{State: a2a.TaskStateWorking, Timestamp: now()}}
		first := *t.task // the library writes it while this one grows
		events = append(events, &first)
	}
	switch happened := event.GetEvent().(type) {
	case *chatv1.TurnEvent_Delta:
		t.text += happened.Delta
		events = append(events, t.add(answerArtifact, a2a.TextPart{Text: happened.Delta}))
	case *chatv1.TurnEvent_Tool:
		if happened.Tool.GetState() == chatv1.ToolEvent_STARTED {
			events = append(events, t.status(a2a.TaskStateWorking, happened.Tool.GetSummary()))
		}
	case *chatv1.TurnEvent_Citation:
		events = append(events, t.add(sourcesArtifact, dataPart(happened.Citation)))
	case *chatv1.TurnEvent_Card:
		events = append(events, t.add(cardsArtifact, dataPart(happened.Card)))
	case *chatv1.TurnEvent_Error:
		t.trouble = happened.Error.GetReason() + ": " + happened.Error.GetMessage()
		events = append(events, t.status(a2a.TaskStateWorking, t.trouble))
	case *chatv1.TurnEvent_Done:
		events = append(events, t.end(happened.Done)...)
	}
	return events
}

// end replaces the text where it was changed, and says how the turn ended.
func (t *a2aTurn) end(done *chatv1.Done) []a2a.Event {
	var events []a2a.Event
	if text := done.GetText(); text != "" && text != t.text {
		t.text = text
		t.task.Artifacts = slices.DeleteFunc(t.task.Artifacts, func(a *a2a.Artifact) bool { return a.ID == answerArtifact })
		events = append(events, t.add(answerArtifact, a2a.TextPart{Text: text}))
	}
	why := ""
	if done.GetOutcome() == chatv1.Done_FAILED {
		why = t.trouble
	}
	last := t.status(outcomeStates[done.GetOutcome()], why)
	last.Final = true
	return append(events, last)
}

var outcomeStates = map[chatv1.Done_Outcome]a2a.TaskState{
	chatv1.Done_OUTCOME_UNSPECIFIED: a2a.TaskStateUnknown,
	chatv1.Done_ANSWERED:            a2a.TaskStateCompleted,
	chatv1.Done_FALLBACK:            a2a.TaskStateCompleted,
	chatv1.Done_REFUSED:             a2a.TaskStateRejected,
	chatv1.Done_CANCELLED:           a2a.TaskStateCanceled,
	chatv1.Done_FAILED:              a2a.TaskStateFailed,
}

// add puts a part at the end of an artifact. Pieces of the answer become one part.
func (t *a2aTurn) add(id a2a.ArtifactID, part a2a.Part) *a2a.TaskArtifactUpdateEvent {
	update := &a2a.TaskArtifactUpdateEvent{
		TaskID: t.task.ID, ContextID: t.task.ContextID, Artifact: &a2a.Artifact{ID: id, Name: string(id), Parts: a2a.ContentParts{part}},
	}
	at := slices.IndexFunc(t.task.Artifacts, func(a *a2a.Artifact) bool { return a.ID == id })
	if at < 0 {
		t.task.Artifacts = append(t.task.Artifacts, &a2a.Artifact{ID: id, Name: string(id), Parts: a2a.ContentParts{part}})
		return update
	}
	update.Append = true
	if there := t.task.Artifacts[at]; id == answerArtifact {
		there.Parts = a2a.ContentParts{a2a.TextPart{Text: t.text}}
	} else {
		there.Parts = append(there.Parts, part)
	}
	return update
}

func (t *a2aTurn) status(state a2a.TaskState, text string) *a2a.TaskStatusUpdateEvent {
	t.task.Status = a2a.TaskStatus{State: state, Timestamp: now()}
	if text != "" {
		t.task.Status.Message = a2a.NewMessageForTask(a2a.MessageRoleAgent, t.task, a2a.TextPart{Text: text})
	}
	return &a2a.TaskStatusUpdateEvent{TaskID: t.task.ID, ContextID: t.task.ContextID, Status: t.task.Status}
}

func now() *time.Time {
	at := time.Now().UTC()
	return &at
}

// dataPart is a message as JSON, under the names of the contract.
func dataPart(message proto.Message) a2a.DataPart {
	part := a2a.DataPart{}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err == nil {
		err = json.Unmarshal(raw, &part.Data)
	}
	if err != nil { // only text that is not UTF-8, which does not come over the wire
		part.Data = map[string]any{}
	}
	return part
}

// OnGetExtendedAgentCard implements a2asrv.RequestHandler: there is one card.
func (b *bookseller) OnGetExtendedAgentCard(context.Context) (*a2a.AgentCard, error) {
	return nil, a2a.ErrAuthenticatedExtendedCardNotConfigured
}

// OnGetTaskPushConfig implements a2asrv.RequestHandler: nothing is pushed.
func (b *bookseller) OnGetTaskPushConfig(context.Context, *a2a.GetTaskPushConfigParams) (*a2a.TaskPushConfig, error) {
	return nil, a2a.ErrPushNotificationNotSupported
}

// OnListTaskPushConfig implements a2asrv.RequestHandler: nothing is pushed.
func (b *bookseller) OnListTaskPushConfig(context.Context, *a2a.ListTaskPushConfigParams) ([]*a2a.TaskPushConfig, error) {
	return nil, a2a.ErrPushNotificationNotSupported
}

// OnSetTaskPushConfig implements a2asrv.RequestHandler: nothing is pushed.
func (b *bookseller) OnSetTaskPushConfig(context.Context, *a2a.TaskPushConfig) (*a2a.TaskPushConfig, error) {
	return nil, a2a.ErrPushNotificationNotSupported
}

// OnDeleteTaskPushConfig implements a2asrv.RequestHandler: nothing is pushed.
func (b *bookseller) OnDeleteTaskPushConfig(context.Context, *a2a.DeleteTaskPushConfigParams) error {
	return a2a.ErrPushNotificationNotSupported
}
