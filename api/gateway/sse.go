package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"bookworm/internal/fault"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
)

// lastEventID is the header in which a client that comes back says the id of the
// last event it has seen.
const lastEventID = "Last-Event-ID"

// turnMessage is what a stream of the chat consists of.
type turnMessage interface {
	proto.Message
	GetConversationId() string
	GetEvent() *chatv1.TurnEvent
}

// sent is an event on its way: id and kind may be empty.
type sent struct {
	id, kind string
	data     []byte // JSON
}

// eventOf returns a message as an event.
func eventOf(message proto.Message) (sent, error) {
	switch message := message.(type) {
	case turnMessage:
		event := message.GetEvent()
		return turnEvent(strconv.FormatInt(event.GetSequence(), 10), message.GetConversationId(), event)
	case *compliancev1.ExportAuditLogResponse:
		data, err := written.Marshal(message)
		if err != nil {
			return sent{}, fmt.Errorf("write the entry as JSON: %w", err)
		}
		return sent{strconv.FormatInt(message.GetEntry().GetSequence(), 10), "entry", data}, nil
	}
	return sent{}, fmt.Errorf("%T is no event", message)
}

// stream answers a procedure that streams with server-sent events (WHATWG HTML,
// section 9.2): id is the event's number, event its kind, data its JSON, for a turn
// with the conversation's id. An error is a problem while nothing was sent, afterwards an
// event of the kind error, without an id, and the end. The backend's call ends
// with the request. A client that reads slowly slows the backend down, and one
// that does not read at all is given up; nothing is kept for either.
func (g *gateway) stream(w http.ResponseWriter, r *http.Request, known route, parameters map[string]string) {
	request, answer, err := messagesOf(known.method)
	if err != nil {
		g.refuse(w, r, fault.New(fault.ReasonInternal, "").WithCause(err))
		return
	}
	if f := g.readRequest(r, known, parameters, request); f != nil {
		g.refuse(w, r, f)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	var reader sync.WaitGroup
	defer func() { cancel(); reader.Wait() }()
	call, err := g.call(ctx, r, known, request)
	if err != nil {
		g.failed(w, r, err)
		return
	}
	type received struct {
		message proto.Message
		err     error
	}
	arrivals := make(chan received)
	reader.Go(func() {
		for {
			next := received{message: answer()}
			next.err = call.RecvMsg(next.message)
			select {
			case arrivals <- next:
			case <-ctx.Done():
				return
			}
			if next.err != nil {
				return
			}
		}
	})

	out := &eventWriter{w: w, control: http.NewResponseController(w), last: answer()}
	heartbeat := time.NewTicker(g.limits.heartbeat)
	defer heartbeat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-heartbeat.C:
			err = out.comment("alive")
		case next := <-arrivals:
			switch {
			case next.err == nil:
				if !out.begun {
					passReplayed(w.Header(), call)
				}
				err = out.event(next.message)
			case errors.Is(next.err, io.EOF):
				err = errors.Join(out.begin(), io.EOF)
			case !out.begun:
				g.failed(w, r, next.err)
				return
			default:
				f, entry := faultOf(next.err)
				err = errors.Join(out.fail(g.public(r.Context(), f, entry), entry), io.EOF)
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				g.logger.DebugContext(r.Context(), "event not sent", "error", err) // the client went away, or does not read
			}
			return
		}
	}
}

// messagesOf returns an empty request of a streaming procedure and what makes its
// answers.
func messagesOf(method protoreflect.MethodDescriptor) (proto.Message, func() proto.Message, error) {
	input, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
	if err != nil {
		return nil, nil, fmt.Errorf("find the request of %s: %w", method.FullName(), err)
	}
	output, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		return nil, nil, fmt.Errorf("find the answer of %s: %w", method.FullName(), err)
	}
	if _, err := eventOf(output.New().Interface()); err != nil {
		return nil, nil, fmt.Errorf("answer of %s: %w", method.FullName(), err)
	}
	answer := func() proto.Message { return output.New().Interface() }
	return input.New().Interface(), answer, nil
}

// readRequest fills the request from body, path, query and Last-Event-ID, as the
// translator does for other calls.
func (g *gateway) readRequest(r *http.Request, known route, parameters map[string]string, request proto.Message) *fault.Error {
	malformed := func(err error) *fault.Error {
		f, _ := faultOf(status.Error(codes.InvalidArgument, err.Error()))
		return f
	}
	if known.body != "" {
		_, reading := runtime.MarshalerForRequest(g.rest, r)
		if err := reading.NewDecoder(r.Body).Decode(request); err != nil && !errors.Is(err, io.EOF) {
			return malformed(err)
		}
	}
	for name, value := range parameters {
		if err := runtime.PopulateFieldFromPath(request, name, value); err != nil {
			return malformed(fmt.Errorf("type mismatch, parameter: %s, error: %w", name, err))
		}
	}
	if err := runtime.PopulateQueryParameters(request, r.URL.Query(), utilities.NewDoubleArray(nil)); err != nil {
		return malformed(err)
	}
	resumed := known.method.Input().Fields().ByName("after_sequence")
	if seen := r.Header.Get(lastEventID); seen != "" && resumed != nil {
		number, err := strconv.ParseUint(seen, 10, 63) // without a sign, as ids are written
		if err != nil {
			return fault.New(fault.ReasonMalformedRequest, "The %s header is not the id of an event.", lastEventID).
				WithField(lastEventID, "is not a number")
		}
		// It is newer than the address, which a browser repeats as it was.
		request.ProtoReflect().Set(resumed, protoreflect.ValueOfInt64(int64(number)))
	}
	return nil
}

// call begins the call at the backend, with the headers that the translator sends.
func (g *gateway) call(ctx context.Context, r *http.Request, known route, request proto.Message) (grpc.ClientStream, error) {
	procedure := procedureOf(known.method)
	ctx, err := runtime.AnnotateContext(ctx, g.rest, r, procedure, runtime.WithHTTPPathPattern(known.template))
	if err != nil {
		return nil, fmt.Errorf("annotate %s: %w", procedure, err)
	}
	call, err := known.backend.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, procedure)
	if err != nil {
		return nil, err //nolint:wrapcheck // faultOf reads it as it is
	}
	// Where sending fails, receiving says why.
	if err := call.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		return nil, err //nolint:wrapcheck // as above
	}
	if err := call.CloseSend(); err != nil {
		return nil, err //nolint:wrapcheck // as above
	}
	return call, nil
}

// passReplayed says whether the answer was given before.
func passReplayed(header http.Header, call grpc.ClientStream) {
	if metadata, err := call.Header(); err == nil {
		if values := metadata.Get(replayed); len(values) > 0 {
			header.Set(replayed, values[0])
		}
	}
}

// eventWriter writes server-sent events, each at once.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
	last    proto.Message // an empty one before the first event
}

// begin sends the headers, once.
func (e *eventWriter) begin() error {
	if e.begun {
		return nil
	}
	e.begun = true
	e.w.Header().Set("Content-Type", "text/event-stream")
	e.w.Header().Set("X-Accel-Buffering", "no") // or nginx collects events before it passes them on
	e.w.WriteHeader(http.StatusOK)
	return e.flush()
}

// event sends one message as an event.
func (e *eventWriter) event(message proto.Message) error {
	e.last = message
	event, err := eventOf(message)
	if err != nil {
		return err
	}
	return e.send(event)
}

// fail sends an error that no backend put into the stream. It has no id, so that a
// client which comes back asks for what follows the last event.
func (e *eventWriter) fail(f *fault.Error, entry fault.Entry) error {
	problem := &chatv1.TurnError{Reason: string(f.Reason), Message: cmp.Or(f.Message, entry.Title)}
	if last, ok := e.last.(turnMessage); ok {
		event, err := turnEvent("", last.GetConversationId(),
			&chatv1.TurnEvent{TurnId: last.GetEvent().GetTurnId(), Event: &chatv1.TurnEvent_Error{Error: problem}})
		if err != nil {
			return err
		}
		return e.send(event)
	}
	data, err := json.Marshal(map[string]string{"reason": problem.GetReason(), "message": problem.GetMessage()})
	if err != nil {
		return fmt.Errorf("write the error as JSON: %w", err)
	}
	return e.send(sent{kind: "error", data: data})
}

// turnEvent returns an event of a turn.
func turnEvent(id, conversation string, event *chatv1.TurnEvent) (sent, error) {
	data, err := written.Marshal(event)
	if err != nil {
		return sent{}, fmt.Errorf("write the event as JSON: %w", err)
	}
	whose, err := json.Marshal(conversation)
	if err != nil {
		return sent{}, fmt.Errorf("write the conversation's id as JSON: %w", err)
	}
	out := sent{id: id, data: fmt.Appendf(nil, `{"conversation_id":%s,%s`, whose, data[1:])}
	reflected := event.ProtoReflect()
	if kind := reflected.WhichOneof(reflected.Descriptor().Oneofs().ByName("event")); kind != nil {
		out.kind = string(kind.Name())
	}
	return out, nil
}

func (e *eventWriter) send(event sent) error {
	var frame []byte
	if event.id != "" {
		frame = fmt.Appendf(frame, "id: %s\n", event.id)
	}
	if event.kind != "" {
		frame = fmt.Appendf(frame, "event: %s\n", event.kind)
	}
	// JSON has no line breaks outside of strings, and none inside them.
	frame = fmt.Appendf(frame, "data: %s\n\n", event.data)
	return e.write(frame)
}

// comment sends what clients ignore and every proxy on the way sees.
func (e *eventWriter) comment(text string) error {
	return e.write(fmt.Appendf(nil, ": %s\n\n", text))
}

func (e *eventWriter) write(frame []byte) error {
	if err := e.begin(); err != nil {
		return err
	}
	if _, err := e.w.Write(frame); err != nil {
		return fmt.Errorf("write the event: %w", err)
	}
	return e.flush()
}

func (e *eventWriter) flush() error {
	if err := e.control.Flush(); err != nil {
		return fmt.Errorf("send the event: %w", err)
	}
	return nil
}
