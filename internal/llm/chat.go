package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/sashabaranov/go-openai"
)

// Role says who speaks in a message.
type Role string

// The roles.
const (
	System     Role = "system"
	User       Role = "user"
	Assistant  Role = "assistant"
	ToolResult Role = "tool"
)

// Message is one message of a conversation with the model.
type Message struct {
	Role    Role
	Content string
	// ToolCalls are what an Assistant asked for. The ToolResult messages that answer
	// them, one each, come next.
	ToolCalls []ToolCall
	// ToolCallID is the call that a ToolResult answers.
	ToolCallID string
}

// ToolCall is the model's wish to call a tool. Nothing of it can be trusted: the
// name may be unknown and the arguments no JSON.
type ToolCall struct {
	ID, Name  string
	Arguments string // raw JSON as the model wrote it
}

// Tool is offered to the model.
type Tool struct {
	Name, Description string
	Parameters        json.RawMessage // JSON schema of an object
}

// Request is what is asked of the model.
type Request struct {
	Messages []Message
	Tools    []Tool
	// MaxTokens bounds the answer; 0 leaves it to the model.
	MaxTokens int
	// User tells the endpoint's abuse detection one user from another: an opaque
	// hash, no personal data.
	User string
}

// Usage counts tokens.
type Usage struct{ Input, Output int64 }

// Plus returns the sum.
func (u Usage) Plus(other Usage) Usage {
	return Usage{Input: u.Input + other.Input, Output: u.Output + other.Output}
}

// maxToolCalls bounds the tool calls of one answer. A model that makes more is
// broken.
const maxToolCalls = 64

// Stream asks the model and returns when the answer begins. Until then the call
// is retried; after that a failure is an error of Next.
//
// ctx bounds the whole answer: cancelling it stops the model at once. A caller
// that gives up because the endpoint is slow cancels with the cause
// context.DeadlineExceeded, so that it counts against the endpoint.
// Errors: UNAVAILABLE, ErrTooLong.
func (c *Client) Stream(ctx context.Context, r Request) (*Stream, error) {
	if c.chatModel == "" {
		return nil, errors.New("ask the model: no chat model is configured")
	}
	request := c.chatRequest(r)
	request.StreamOptions = &openai.StreamOptions{IncludeUsage: true}
	s := &Stream{client: c, ctx: ctx, started: time.Now(), asked: estimateRequest(r)}
	err := retry(ctx, c.chatBreaker, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		if err := c.sendWithLimit(request, func(r openai.ChatCompletionRequest) error { return s.open(ctx, r) }); err != nil {
			cancel()
			return err
		}
		s.cancel = cancel
		return nil
	})
	if err != nil {
		c.meters.call(ctx, operationChat, c.chatModel, s.started, Usage{}, err)
		return nil, fmt.Errorf("ask the model: %w", err)
	}
	return s, nil
}

func (c *Client) chatRequest(r Request) openai.ChatCompletionRequest {
	request := openai.ChatCompletionRequest{
		Model: c.chatModel, User: r.User, MaxCompletionTokens: r.MaxTokens,
		Messages: make([]openai.ChatCompletionMessage, 0, len(r.Messages)),
	}
	for _, m := range r.Messages {
		message := openai.ChatCompletionMessage{Role: string(m.Role), Content: m.Content, ToolCallID: m.ToolCallID}
		for _, call := range m.ToolCalls {
			message.ToolCalls = append(message.ToolCalls, openai.ToolCall{
				ID: call.ID, Type: openai.ToolTypeFunction, Function: openai.FunctionCall{Name: call.Name, Arguments: call.Arguments},
			})
		}
		request.Messages = append(request.Messages, message)
	}
	for _, tool := range r.Tools {
		request.Tools = append(request.Tools, openai.Tool{
			Type:     openai.ToolTypeFunction,
			Function: &openai.FunctionDefinition{Name: tool.Name, Description: tool.Description, Parameters: tool.Parameters},
		})
	}
	return request
}

// sendWithLimit calls send with the limit of tokens under the name that the
// endpoint knows: OpenAI's newer models refuse max_tokens, many other endpoints
// ignore max_completion_tokens without a word.
func (c *Client) sendWithLimit(r openai.ChatCompletionRequest, send func(openai.ChatCompletionRequest) error) error {
	if r.MaxCompletionTokens == 0 || c.newLimitName.Load() || limitedByNewName.MatchString(r.Model) {
		return send(r)
	}
	old := r
	old.MaxTokens, old.MaxCompletionTokens = r.MaxCompletionTokens, 0 //nolint:staticcheck // deprecated by OpenAI, not by the others
	err := send(old)
	if !refuses(err, "max_tokens") {
		return err
	}
	c.newLimitName.Store(true)
	return send(r)
}

// limitedByNewName are the models for which go-openai itself refuses max_tokens.
var limitedByNewName = regexp.MustCompile(`^(o[134]|gpt-[5-9])`)

// Stream is an answer that is being written. It is for one goroutine; another one
// stops it by cancelling the context.
type Stream struct {
	client  *Client
	ctx     context.Context //nolint:containedctx // it bounds the stream, which outlives the call that made it
	cancel  context.CancelFunc
	started time.Time
	events  *openai.ChatCompletionStream
	first   *openai.ChatCompletionStreamResponse // read already, to know that the answer has begun

	calls  []*partialCall
	said   int // estimate of the output's tokens
	finish openai.FinishReason
	usage  *Usage
	asked  int64 // estimate of the input's tokens
	err    error // what ended the stream; it stays
	closed bool
}

// Chunk is a piece of the answer.
type Chunk struct{ Delta string }

// open starts the request and reads the first event.
func (s *Stream) open(ctx context.Context, request openai.ChatCompletionRequest) error {
	events, err := s.client.api.CreateChatCompletionStream(ctx, request)
	if err != nil {
		return err
	}
	first, err := events.Recv()
	if err != nil {
		return errors.Join(cut(err), events.Close())
	}
	s.events, s.first = events, &first
	return nil
}

// Next returns the next piece of text, and io.EOF when the model has finished;
// then ToolCalls is complete. A piece is never empty.
// Errors: ErrCut, ErrInvalidAnswer, the context's.
func (s *Stream) Next() (Chunk, error) {
	for s.err == nil {
		event, err := s.receive()
		if err != nil {
			s.end(err)
			break
		}
		if delta := s.take(event); delta != "" {
			return Chunk{Delta: delta}, nil
		}
	}
	return Chunk{}, s.err
}

func (s *Stream) receive() (openai.ChatCompletionStreamResponse, error) {
	if s.first != nil {
		event := *s.first
		s.first = nil
		return event, nil
	}
	return s.events.Recv()
}

// take adds an event to what is known, and returns its text.
func (s *Stream) take(event openai.ChatCompletionStreamResponse) string {
	if event.Usage != nil {
		s.usage = &Usage{Input: int64(event.Usage.PromptTokens), Output: int64(event.Usage.CompletionTokens)}
	}
	if len(event.Choices) == 0 {
		return ""
	}
	choice := event.Choices[0]
	if choice.FinishReason != "" {
		s.finish = choice.FinishReason
	}
	for _, piece := range choice.Delta.ToolCalls {
		if err := s.addCall(piece); err != nil {
			s.end(err)
			return ""
		}
	}
	delta := choice.Delta.Content + choice.Delta.Refusal
	s.said += EstimateTokens(delta)
	return delta
}

// partialCall is a tool call whose pieces come in one by one.
type partialCall struct {
	index     int
	id, name  string
	arguments strings.Builder
}

// addCall puts a piece to its call, by index. Some endpoints leave the index out;
// then a piece with an id begins a call and others continue the last.
func (s *Stream) addCall(piece openai.ToolCall) error {
	var call *partialCall
	switch {
	case piece.Index != nil:
		for _, c := range s.calls {
			if c.index == *piece.Index {
				call = c
			}
		}
	case piece.ID == "" && len(s.calls) > 0:
		call = s.calls[len(s.calls)-1]
	}
	if call == nil {
		if len(s.calls) == maxToolCalls {
			return fmt.Errorf("%w: more than %d tool calls", ErrInvalidAnswer, maxToolCalls)
		}
		call = &partialCall{index: len(s.calls)}
		if piece.Index != nil {
			call.index = *piece.Index
		}
		s.calls = append(s.calls, call)
	}
	if call.id == "" {
		call.id = piece.ID
	}
	if call.name == "" {
		call.name = piece.Function.Name
	}
	call.arguments.WriteString(piece.Function.Arguments)
	s.said += EstimateTokens(piece.Function.Name + piece.Function.Arguments)
	return nil
}

// end fixes what the stream ended with.
func (s *Stream) end(err error) {
	switch {
	case errors.Is(err, ErrInvalidAnswer):
	case errors.Is(err, io.EOF) && s.finish != "":
		err = io.EOF
	case s.ctx.Err() != nil:
		err = stopped(s.ctx)
	default:
		err = s.broken(err)
	}
	s.err = err
}

// broken says what is wrong with a stream that the endpoint ended.
func (s *Stream) broken(err error) error {
	if r := refusalOf(err); r != nil {
		return cut(r)
	}
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("%w: an event of the stream is no JSON", ErrInvalidAnswer)
	}
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%w: an event of the stream has another shape", ErrInvalidAnswer)
	}
	return cut(err)
}

// ToolCalls returns the calls that the model asks for, in its order. They are
// complete after io.EOF. Every call has an id, made up where the endpoint gave
// none.
func (s *Stream) ToolCalls() []ToolCall {
	calls := make([]ToolCall, 0, len(s.calls))
	for _, c := range s.calls {
		if c.id == "" {
			c.id = "call_" + uuid.NewString()
		}
		calls = append(calls, ToolCall{ID: c.id, Name: c.name, Arguments: c.arguments.String()})
	}
	return calls
}

// Truncated reports whether the model stopped because of a limit of length or was
// stopped by a content filter, and not because it had said what it wanted.
func (s *Stream) Truncated() bool {
	return s.finish == openai.FinishReasonLength || s.finish == openai.FinishReasonContentFilter
}

// Usage returns the tokens that the endpoint counted, or an estimate when it said
// nothing of them: so it is for a stream that was cut or closed early.
func (s *Stream) Usage() Usage {
	if s.usage != nil {
		return *s.usage
	}
	return Usage{Input: s.asked, Output: int64(s.said)}
}

// Close ends the call, which stops a model that still writes. Further calls do
// nothing.
func (s *Stream) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.events.Close()
	s.cancel()
	failure := s.err
	if errors.Is(failure, io.EOF) {
		failure = nil
	}
	s.client.meters.call(s.ctx, operationChat, s.client.chatModel, s.started, s.Usage(), failure)
	if s.err == nil {
		s.err = errClosed
	}
	if err != nil {
		return fmt.Errorf("close the model's answer: %w", err)
	}
	return nil
}

// errClosed is what Next says after Close.
var errClosed = errors.New("the stream is closed")
