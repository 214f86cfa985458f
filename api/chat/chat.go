// Package chat serves the bookseller that shoppers talk to. Handlers translate
// between the wire and internal/chat; the tools of the bookseller call the shop's
// own API as the shopper who asks.
package chat

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"strings"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bookworm/internal/chat"
	"bookworm/internal/fault"
	"bookworm/internal/gen/bookworm/basket/v1/basketv1connect"
	"bookworm/internal/gen/bookworm/catalog/v1/catalogv1connect"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
	"bookworm/internal/gen/bookworm/chat/v1/chatv1connect"
	"bookworm/internal/gen/bookworm/ordering/v1/orderingv1connect"
	"bookworm/internal/gen/bookworm/rating/v1/ratingv1connect"
	"bookworm/internal/identity"
	"bookworm/internal/llm"
	"bookworm/internal/rpc"
)

// Deps is what the chat needs. The clients must call for the caller of the call being
// served (rpc.ClientOptions.OnBehalf): what the bookseller looks up is looked
// up as the shopper.
type Deps struct {
	Store   *chat.Store
	Model   *llm.Client
	Books   catalogv1connect.CatalogServiceClient
	Reviews ratingv1connect.RatingServiceClient
	Orders  orderingv1connect.OrderServiceClient
	Baskets basketv1connect.BasketServiceClient
	Limits  chat.Limits
	Logger  *slog.Logger // slog.Default when nil
	Meter   metric.Meter // none when nil
}

// NewEngine returns the engine that answers, with the bookseller's tools. Its Run
// must run for as long as the process serves.
func NewEngine(d Deps) (*chat.Engine, error) {
	return chat.New(chat.Config{
		Store: d.Store, Model: d.Model, Tools: Tools(d), Limits: d.Limits, Logger: d.Logger, Meter: d.Meter,
	})
}

// Register adds ChatService to a server.
func Register(server *connect.Server, d Deps, engine *chat.Engine) {
	chatv1connect.RegisterChatServiceHandler(server, &conversations{Deps: d, engine: engine})
}

type conversations struct {
	Deps

	engine *chat.Engine
}

const (
	conversationPage = 20
	messagePage      = 50
)

// SendMessage begins a turn and streams its events.
func (h *conversations) SendMessage(
	ctx context.Context, req *chatv1.SendMessageRequest, stream chatv1connect.ChatServiceSendMessageServerStream,
) error {
	key, err := rpc.IdempotencyKey(ctx)
	if err != nil {
		return err
	}
	question := chat.Question{Key: key, Text: req.GetText()}
	if req.GetConversationId() != "" {
		if question.ConversationID, err = parseID("conversation_id", req.GetConversationId()); err != nil {
			return err
		}
	}
	turn, err := h.engine.Send(ctx, question)
	if err != nil {
		return err
	}
	defer turn.Close()
	rpc.SetHeader(ctx, "Cache-Control", "private, no-store")
	if turn.Replayed {
		rpc.SetHeader(ctx, "Idempotent-Replayed", "true")
	}
	conversation, id := turn.ConversationID.String(), turn.TurnID.String()
	return each(ctx, turn, func(e chat.Event) error {
		return stream.Send(&chatv1.SendMessageResponse{ConversationId: conversation, Delta: e.Delta, Event: EventProto(id, e)})
	})
}

// ResumeTurn streams a turn's events after one.
func (h *conversations) ResumeTurn(
	ctx context.Context, req *chatv1.ResumeTurnRequest, stream chatv1connect.ChatServiceResumeTurnServerStream,
) error {
	id, err := parseID("turn_id", req.GetTurnId())
	if err != nil {
		return err
	}
	after, err := resumeAfter(req.GetAfterSequence(), rpc.Header(ctx, "Last-Event-ID"))
	if err != nil {
		return err
	}
	subject, err := caller(ctx)
	if err != nil {
		return err
	}
	turn, err := h.engine.Resume(ctx, subject, id, after)
	if err != nil {
		return err
	}
	defer turn.Close()
	rpc.SetHeader(ctx, "Cache-Control", "private, no-store")
	conversation := turn.ConversationID.String()
	return each(ctx, turn, func(e chat.Event) error {
		return stream.Send(&chatv1.ResumeTurnResponse{ConversationId: conversation, Event: EventProto(id.String(), e)})
	})
}

// resumeAfter is what the message and the header of a stream that reconnects say.
func resumeAfter(sequence int64, header string) (int64, error) {
	if header = strings.TrimSpace(header); header == "" {
		return sequence, nil
	}
	const problem = "must be the number of an event"
	last, err := strconv.ParseInt(header, 10, 64)
	if err != nil || last < 0 {
		return 0, fault.New(fault.ReasonInvalidArgument, "The Last-Event-ID header %s.", problem).WithField("Last-Event-ID", problem)
	}
	return max(sequence, last), nil
}

// each hands the events of a turn on until its end.
func each(ctx context.Context, turn *chat.Subscription, send func(chat.Event) error) error {
	for {
		event, err := turn.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := send(event); err != nil {
			return err
		}
	}
}

// CancelTurn stops a turn.
func (h *conversations) CancelTurn(ctx context.Context, req *chatv1.CancelTurnRequest) (*chatv1.CancelTurnResponse, error) {
	subject, id, err := callerAnd(ctx, "turn_id", req.GetTurnId())
	if err != nil {
		return nil, err
	}
	return &chatv1.CancelTurnResponse{}, h.engine.Cancel(ctx, subject, id)
}

// ListConversations lists the caller's conversations.
func (h *conversations) ListConversations(
	ctx context.Context, req *chatv1.ListConversationsRequest,
) (*chatv1.ListConversationsResponse, error) {
	subject, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	size := int(req.GetPageSize())
	if size == 0 {
		size = conversationPage
	}
	found, next, err := h.Store.Conversations(ctx, subject, size, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &chatv1.ListConversationsResponse{NextPageToken: next}
	for _, c := range found {
		answer.Conversations = append(answer.Conversations, conversationProto(c))
	}
	return private(ctx, answer), nil
}

// ListMessages lists what was said in a conversation.
func (h *conversations) ListMessages(ctx context.Context, req *chatv1.ListMessagesRequest) (*chatv1.ListMessagesResponse, error) {
	subject, id, err := callerAnd(ctx, "conversation_id", req.GetConversationId())
	if err != nil {
		return nil, err
	}
	size := int(req.GetPageSize())
	if size == 0 {
		size = messagePage
	}
	found, next, err := h.Store.Messages(ctx, subject, id, size, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &chatv1.ListMessagesResponse{NextPageToken: next}
	for _, m := range found {
		answer.Messages = append(answer.Messages, messageProto(m))
	}
	return private(ctx, answer), nil
}

// RenameConversation gives a conversation a title.
func (h *conversations) RenameConversation(
	ctx context.Context, req *chatv1.RenameConversationRequest,
) (*chatv1.RenameConversationResponse, error) {
	subject, id, err := callerAnd(ctx, "conversation_id", req.GetConversationId())
	if err != nil {
		return nil, err
	}
	c, err := h.Store.Rename(ctx, subject, id, req.GetTitle())
	if err != nil {
		return nil, err
	}
	return private(ctx, &chatv1.RenameConversationResponse{Conversation: conversationProto(c)}), nil
}

// DeleteConversation removes a conversation.
func (h *conversations) DeleteConversation(
	ctx context.Context, req *chatv1.DeleteConversationRequest,
) (*chatv1.DeleteConversationResponse, error) {
	subject, id, err := callerAnd(ctx, "conversation_id", req.GetConversationId())
	if err != nil {
		return nil, err
	}
	return &chatv1.DeleteConversationResponse{}, h.Store.Delete(ctx, subject, id)
}

// ExportConversation returns a conversation as Markdown.
func (h *conversations) ExportConversation(
	ctx context.Context, req *chatv1.ExportConversationRequest,
) (*chatv1.ExportConversationResponse, error) {
	subject, id, err := callerAnd(ctx, "conversation_id", req.GetConversationId())
	if err != nil {
		return nil, err
	}
	name, markdown, err := h.Store.Export(ctx, subject, id)
	if err != nil {
		return nil, err
	}
	return private(ctx, &chatv1.ExportConversationResponse{FileName: name, Markdown: markdown}), nil
}

// private keeps an answer out of caches.
func private[T any](ctx context.Context, answer T) T {
	rpc.SetHeader(ctx, "Cache-Control", "private, no-store")
	return answer
}

// caller returns whose conversations the call is about: always the caller's own.
func caller(ctx context.Context) (string, error) {
	subject := identity.FromContext(ctx).Subject
	if subject == "" {
		return "", errors.New("a call about a conversation came without a caller")
	}
	return subject, nil
}

func callerAnd(ctx context.Context, field, text string) (string, uuid.UUID, error) {
	subject, err := caller(ctx)
	if err != nil {
		return "", uuid.Nil, err
	}
	id, err := parseID(field, text)
	return subject, id, err
}

func parseID(field, text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.Nil, fault.New(fault.ReasonInvalidArgument, "The field %s must be a UUID.", field).WithField(field, "must be a UUID")
	}
	return id, nil
}

func conversationProto(c chat.Conversation) *chatv1.Conversation {
	return &chatv1.Conversation{
		Id: c.ID.String(), Title: c.Title, CreateTime: timestamppb.New(c.CreatedAt), UpdateTime: timestamppb.New(c.UpdatedAt),
	}
}

func messageProto(m chat.Message) *chatv1.Message {
	p := &chatv1.Message{
		TurnId: m.TurnID.String(), Author: chatv1.Message_Author(chatv1.Message_Author_value[string(m.Author)]), Text: m.Text,
		CreateTime: timestamppb.New(m.At), Outcome: outcomeProto(m.Outcome),
	}
	for _, c := range m.Citations {
		p.Citations = append(p.Citations, citationProto(c))
	}
	return p
}
