package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/proto"

	"bookworm/api/gateway"
	"bookworm/internal/fault"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
	"bookworm/internal/gen/bookworm/chat/v1/chatv1connect"
	"bookworm/internal/rpc"
)

const (
	messages = "/api/v1/chat/messages"
	events   = "/api/v1/chat/turns/" + aTurn + "/events"
)

// frame is one server-sent event, or a comment.
type frame struct {
	id, kind, comment string
	data              map[string]any
}

// readFrame reads up to the next blank line.
func readFrame(t *testing.T, from *bufio.Reader) (frame, error) {
	t.Helper()
	var f frame
	for {
		line, err := from.ReadString('\n')
		if err != nil {
			return f, err
		}
		line = strings.TrimSuffix(line, "\n")
		name, value, _ := strings.Cut(line, ": ")
		switch {
		case line == "":
			return f, nil
		case name == "":
			f.comment = value
		case name == "id":
			f.id = value
		case name == "event":
			f.kind = value
		case name == "data":
			if err := json.Unmarshal([]byte(value), &f.data); err != nil {
				t.Errorf("data %q: %v", value, err)
			}
		default:
			t.Errorf("a line %q", line)
		}
	}
}

// open begins a stream and returns its answer; the caller reads on.
func (b *bundle) open(t *testing.T, client *http.Client, method, path, body string, headers ...string) (*http.Response, *bufio.Reader) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response, bufio.NewReader(response.Body)
}

// clients are one of HTTP/1.1 and one of HTTP/2; connections that hang do not
// outlive the test.
func clients(t *testing.T) map[string]*http.Client {
	t.Helper()
	first, second := &http.Transport{}, rpc.Transport()
	t.Cleanup(func() { first.CloseIdleConnections(); second.CloseIdleConnections() })
	return map[string]*http.Client{"HTTP/1.1": {Transport: first}, "HTTP/2": {Transport: second}}
}

func TestStreamOverREST(t *testing.T) {
	t.Parallel()
	b := setup(t)
	arrived := make(chan struct{})
	var key, text string
	b.shop.answerTurn(func(ctx context.Context, request proto.Message, send func(*chatv1.TurnEvent) error) error {
		key, _ = rpc.IdempotencyKey(ctx)
		text = request.(*chatv1.SendMessageRequest).GetText()
		rpc.SetHeader(ctx, "Idempotent-Replayed", "true")
		rpc.SetHeader(ctx, "X-Internal", "secret")
		for i, event := range []*chatv1.TurnEvent{
			{Event: &chatv1.TurnEvent_Tool{Tool: &chatv1.ToolEvent{CallId: "c", Name: "search_books", State: chatv1.ToolEvent_STARTED}}},
			{Event: &chatv1.TurnEvent_Delta{Delta: "two\nlines\r\n\r\nand \"more\" [1]\u2028"}},
			{Event: &chatv1.TurnEvent_Citation{Citation: &chatv1.Citation{Number: 1, Source: &chatv1.Citation_BookId{BookId: aBook}}}},
			{Event: &chatv1.TurnEvent_Card{Card: &chatv1.Card{Card: &chatv1.Card_Book{Book: &chatv1.BookCard{BookId: aBook}}}}},
			{Event: &chatv1.TurnEvent_Error{Error: &chatv1.TurnError{Reason: "UNAVAILABLE", Message: "later"}}},
			{Event: &chatv1.TurnEvent_Done{Done: &chatv1.Done{Outcome: chatv1.Done_ANSWERED, OutputTokens: 12}}},
		} {
			event.TurnId, event.Sequence = aTurn, int64(i+1)
			if err := send(event); err != nil {
				return err
			}
			select {
			case <-arrived: // each is there before the next is sent
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for name, client := range clients(t) {
		response, reader := b.open(t, client, http.MethodPost, messages, `{"text":"a whale"}`, append(b.as("alice", "customer"), "Idempotency-Key", `"k-1"`)...)
		header := response.Header
		if response.StatusCode != http.StatusOK || header.Get("Content-Type") != "text/event-stream" || header.Get("Cache-Control") != "private, no-store" ||
			header.Get("X-Accel-Buffering") != "no" || header.Get("Idempotent-Replayed") != "true" || header.Get("X-Internal") != "" || header.Get("X-Request-Id") == "" {
			t.Errorf("%s: got %d %v", name, response.StatusCode, header)
		}
		for i, kind := range []string{"tool", "delta", "citation", "card", "error", "done"} {
			got, err := readFrame(t, reader)
			if err != nil {
				t.Fatalf("%s: event %d: %v", name, i+1, err)
			}
			if got.id != fmt.Sprint(i+1) || got.kind != kind || got.data["sequence"] != got.id || got.data["turn_id"] != aTurn || got.data["conversation_id"] != aConversation || got.data[kind] == nil {
				t.Errorf("%s: event %d: %+v", name, i+1, got)
			}
			if kind == "delta" && got.data["delta"] != "two\nlines\r\n\r\nand \"more\" [1]\u2028" {
				t.Errorf("%s: the text became %q", name, got.data["delta"])
			}
			if kind == "done" && got.data["done"].(map[string]any)["output_tokens"] != "12" {
				t.Errorf("%s: done: %v", name, got.data)
			}
			arrived <- struct{}{}
		}
		if rest, err := io.ReadAll(reader); err != nil || len(rest) != 0 {
			t.Errorf("%s: after the last event: %q, %v", name, rest, err)
		}
		if key != "k-1" || text != "a whale" {
			t.Errorf("%s: the backend saw %q, %q", name, key, text)
		}
	}
}

func TestResumeOverREST(t *testing.T) {
	t.Parallel()
	b := setup(t)
	alice := b.as("alice", "customer")
	b.shop.answerTurn(func(_ context.Context, request proto.Message, send func(*chatv1.TurnEvent) error) error {
		asked := request.(*chatv1.ResumeTurnRequest)
		if asked.GetTurnId() != aTurn {
			return fault.New(fault.ReasonTurnNotFound, "There is no turn %s.", asked.GetTurnId())
		}
		return send(delta(asked.GetAfterSequence()+1, "rest"))
	})
	for name, test := range map[string]struct {
		query, header, id string
	}{
		"from the beginning": {"", "", "1"},
		"query":              {"?after_sequence=4", "", "5"},
		"header":             {"", "6", "7"},
		"header over query":  {"?after_sequence=4", "6", "7"},
	} {
		headers := alice
		if test.header != "" {
			headers = append(headers, "Last-Event-ID", test.header)
		}
		if got := b.send(t, http.MethodGet, events+test.query, "", headers...); got.status != 200 || !strings.HasPrefix(got.body, "id: "+test.id+"\nevent: delta\n") {
			t.Errorf("%s: got %d %q", name, got.status, got.body)
		}
	}
	for name, test := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		reason, field      string
	}{
		"no turn":           {"GET", "/api/v1/chat/turns/" + aBook + "/events", "", alice, 404, "TURN_NOT_FOUND", ""},
		"no UUID":           {"GET", "/api/v1/chat/turns/x/events", "", alice, 400, "INVALID_ARGUMENT", "turn_id"},
		"negative":          {"GET", events + "?after_sequence=-1", "", alice, 400, "INVALID_ARGUMENT", "after_sequence"},
		"no number":         {"GET", events + "?after_sequence=x", "", alice, 400, "MALFORMED_REQUEST", "after_sequence"},
		"unknown parameter": {"GET", events + "?after=1", "", alice, 400, "MALFORMED_REQUEST", "after"},
		"bad event id":      {"GET", events, "", append(alice, "Last-Event-ID", "1; drop"), 400, "MALFORMED_REQUEST", "Last-Event-ID"},
		"negative event id": {"GET", events, "", append(alice, "Last-Event-ID", "-3"), 400, "MALFORMED_REQUEST", "Last-Event-ID"},
		"signed event id":   {"GET", events, "", append(alice, "Last-Event-ID", "+3"), 400, "MALFORMED_REQUEST", "Last-Event-ID"},
		"nobody":            {"GET", events, "", nil, 401, "TOKEN_MISSING", ""},
		"an administrator":  {"GET", events, "", b.as("root", "admin"), 403, "ACCESS_DENIED", ""},
		"bad token":         {"POST", messages, `{"text":"x"}`, []string{"Authorization", "Bearer x"}, 401, "TOKEN_INVALID", ""},
		"no text":           {"POST", messages, `{}`, alice, 400, "INVALID_ARGUMENT", "text"},
		"too much text":     {"POST", messages, `{"text":"` + strings.Repeat("x", 4001) + `"}`, alice, 400, "INVALID_ARGUMENT", "text"},
		"far too much":      {"POST", messages, `{"text":"` + strings.Repeat("x", 1<<20) + `"}`, alice, 413, "REQUEST_TOO_LARGE", ""},
		"unknown field":     {"POST", messages, `{"text":"x","role":"system"}`, alice, 400, "MALFORMED_REQUEST", "role"},
		"no JSON":           {"POST", messages, `{`, alice, 400, "MALFORMED_REQUEST", ""},
		"empty":             {"POST", messages, ``, alice, 400, "INVALID_ARGUMENT", "text"},
		"form":              {"POST", messages, `text=x`, append(alice, "Content-Type", "application/x-www-form-urlencoded"), 415, "MALFORMED_REQUEST", ""},
		"another method":    {"PUT", messages, `{}`, alice, 405, "NOT_FOUND", ""},
	} {
		got := b.send(t, test.method, test.path, test.body, test.headers...)
		p := problemOf(t, got)
		if got.status != test.status || p["reason"] != test.reason || !strings.Contains(fmt.Sprint(p["errors"]), test.field) {
			t.Errorf("%s: got %d %s", name, got.status, got.body)
		}
	}
	for _, method := range []string{http.MethodHead, http.MethodPut} {
		if got := b.send(t, method, events, "", alice...); got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") != "GET" {
			t.Errorf("%s of a stream: got %d, Allow %q", method, got.status, got.header.Get("Allow"))
		}
	}
}

func TestErrorsWithinAStream(t *testing.T) {
	t.Parallel()
	dead, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	b := setup(t)
	for name, test := range map[string]struct {
		err     error
		data    string
		message string
	}{
		"a fault":  {fault.New(fault.ReasonBudgetSpent, "Come back tomorrow."), "CHAT_BUDGET_SPENT", "Come back tomorrow."},
		"a defect": {errors.New("secret"), "INTERNAL", "Something went wrong on our side."},
		"away":     {fault.New(fault.ReasonUnavailable, "The model is away.").WithCause(errors.New("secret")), "UNAVAILABLE", "The model is away."},
	} {
		b.shop.answerTurn(func(_ context.Context, _ proto.Message, send func(*chatv1.TurnEvent) error) error {
			if err := send(delta(1, "so far")); err != nil {
				return err
			}
			return test.err
		})
		got := b.send(t, http.MethodPost, messages, `{"text":"x"}`, b.as("alice", "customer")...)
		reader := bufio.NewReader(strings.NewReader(got.body))
		if first, err := readFrame(t, reader); err != nil || first.kind != "delta" || got.status != 200 {
			t.Errorf("%s: %d %+v, %v", name, got.status, first, err)
		}
		last, err := readFrame(t, reader)
		said, _ := last.data["error"].(map[string]any)
		if err != nil || last.kind != "error" || last.id != "" || said["reason"] != test.data || said["message"] != test.message || last.data["turn_id"] != aTurn || last.data["conversation_id"] != aConversation {
			t.Errorf("%s: %+v, %v", name, last, err)
		}
		if rest, err := io.ReadAll(reader); err != nil || len(rest) != 0 {
			t.Errorf("%s: after the end: %q, %v", name, rest, err)
		}
		if strings.Contains(got.body, "secret") {
			t.Errorf("%s tells too much: %s", name, got.body)
		}
	}
	b.shop.answerTurn(func(context.Context, proto.Message, func(*chatv1.TurnEvent) error) error { return nil })
	if got := b.send(t, http.MethodPost, messages, `{"text":"x"}`, b.as("alice", "customer")...); got.status != 200 || got.body != "" || got.header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("nothing to say: got %d %v %q", got.status, got.header, got.body)
	}
	b.shop.answerTurn(func(_ context.Context, _ proto.Message, send func(*chatv1.TurnEvent) error) error {
		return send(nil) // a later version's, without anything this one knows
	})
	got := b.send(t, http.MethodPost, messages, `{"text":"x"}`, b.as("alice", "customer")...)
	if f, err := readFrame(t, bufio.NewReader(strings.NewReader(got.body))); err != nil || f.kind != "" || f.data["conversation_id"] != aConversation {
		t.Errorf("an event without a kind: %q, %v", got.body, err)
	}

	b = setup(t, func(o *gateway.Options) { o.Backends["chat"] = "http://" + dead.Addr().String() })
	got = b.send(t, http.MethodPost, messages, `{"text":"x"}`, b.as("alice", "customer")...)
	if p := problemOf(t, got); got.status != 503 || p["reason"] != "UNAVAILABLE" || got.header.Get("Retry-After") != "1" || strings.Contains(got.body, "dial") {
		t.Errorf("no backend: got %d %s", got.status, got.body)
	}
}

// hasty is a gateway whose limits pass while a test waits.
func hasty(unary, heartbeat, write time.Duration) func(context.Context, gateway.Options) (http.Handler, error) {
	return func(ctx context.Context, options gateway.Options) (http.Handler, error) {
		return gateway.NewWithin(ctx, options, unary, heartbeat, write)
	}
}

// A stream that is silent for longer than any call with one answer may take goes
// on, over every protocol.
func TestStreamsOutliveTheLimitsOfCalls(t *testing.T) {
	t.Parallel()
	const unary = 50 * time.Millisecond
	b := setupWith(t, hasty(unary, 10*time.Millisecond, 2*unary), func(o *gateway.Options) { o.Timeout = unary })
	authorization := b.as("alice", "customer")
	b.send(t, http.MethodGet, "/api/v1/basket", "", authorization...) // fetches the keys
	b.shop.answerTurn(func(ctx context.Context, _ proto.Message, send func(*chatv1.TurnEvent) error) error {
		if err := send(delta(1, "first")); err != nil {
			return err
		}
		select {
		case <-time.After(5 * unary):
			return send(delta(2, "second"))
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	over := clients(t)
	for name, client := range over {
		_, reader := b.open(t, client, http.MethodPost, messages, `{"text":"x"}`, authorization...)
		var ids []string
		comments := 0
		for {
			got, err := readFrame(t, reader)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("REST over %s after %v: %v", name, ids, err)
			}
			if got.comment != "" {
				comments++
			}
			if got.id != "" {
				ids = append(ids, got.id)
			}
		}
		if fmt.Sprint(ids) != "[1 2]" || comments == 0 {
			t.Errorf("REST over %s: events %v, %d heartbeats", name, ids, comments)
		}
	}
	for name, test := range map[string]struct {
		client *http.Client
		option connecthttp.Option
	}{
		"Connect":          {over["HTTP/1.1"], connecthttp.WithProtoJSON()},
		"Connect over h2":  {over["HTTP/2"], connecthttp.WithProtoJSON()},
		"gRPC":             {over["HTTP/2"], connecthttp.WithGRPC()},
		"gRPC-Web":         {over["HTTP/1.1"], connecthttp.WithGRPCWeb()},
		"gRPC-Web over h2": {over["HTTP/2"], connecthttp.WithGRPCWeb()},
	} {
		ctx, info := connect.NewClientContext(t.Context())
		info.RequestHeader().Set("Authorization", authorization[1])
		stream, err := chatv1connect.NewChatServiceClient(connect.NewClient(connecthttp.NewTransport(test.client, b.url, test.option))).
			SendMessage(ctx, &chatv1.SendMessageRequest{Text: "x"})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var said []string
		for {
			message, err := stream.Receive()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s after %v: %v", name, said, err)
			}
			said = append(said, message.GetDelta())
		}
		if fmt.Sprint(said) != "[first second]" {
			t.Errorf("%s: %v", name, said)
		}
	}
}

// A turn that takes long to begin is alive, and what goes wrong then is an event.
func TestHeartbeatBeforeTheFirstEvent(t *testing.T) {
	t.Parallel()
	b := setupWith(t, hasty(time.Minute, 10*time.Millisecond, time.Second))
	alive := make(chan struct{})
	b.shop.answerTurn(func(ctx context.Context, _ proto.Message, _ func(*chatv1.TurnEvent) error) error {
		select {
		case <-alive:
		case <-ctx.Done():
		}
		return fault.New(fault.ReasonTurnInProgress, "Wait.")
	})
	response, reader := b.open(t, http.DefaultClient, http.MethodPost, messages, `{"text":"x"}`, b.as("alice", "customer")...)
	if first, err := readFrame(t, reader); err != nil || first.comment == "" || response.StatusCode != http.StatusOK {
		t.Fatalf("got %d %+v, %v", response.StatusCode, first, err)
	}
	close(alive)
	for {
		got, err := readFrame(t, reader)
		if err != nil {
			t.Fatal(err)
		}
		if got.comment != "" {
			continue
		}
		if said, _ := got.data["error"].(map[string]any); got.kind != "error" || got.id != "" || said["reason"] != "TURN_IN_PROGRESS" || got.data["conversation_id"] != "" {
			t.Errorf("got %+v", got)
		}
		return
	}
}

func TestClientThatLeavesCancelsTheStream(t *testing.T) {
	t.Parallel()
	b := setup(t)
	left := make(chan struct{}, 1)
	b.shop.answerTurn(func(ctx context.Context, _ proto.Message, send func(*chatv1.TurnEvent) error) error {
		if err := send(delta(1, "first")); err != nil {
			return err
		}
		<-ctx.Done()
		left <- struct{}{}
		return ctx.Err()
	})
	for name, client := range clients(t) {
		for _, path := range []string{messages, events} {
			method, body := http.MethodGet, ""
			if path == messages {
				method, body = http.MethodPost, `{"text":"x"}`
			}
			response, reader := b.open(t, client, method, path, body, b.as("alice", "customer")...)
			if first, err := readFrame(t, reader); err != nil || first.kind != "delta" {
				t.Fatalf("%s over %s: %+v, %v", path, name, first, err)
			}
			response.Body.Close()
			select {
			case <-left:
			case <-time.After(5 * time.Second):
				t.Errorf("%s over %s: the backend was left working", path, name)
			}
		}
	}
}

// A client that does not read stops the backend after what the connections hold,
// and is given up.
func TestClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	b := setupWith(t, hasty(time.Minute, time.Minute, 300*time.Millisecond))
	const piece, most = 64 << 10, 64 << 20
	sent, ended := make(chan int, 1), make(chan struct{})
	b.shop.answerTurn(func(_ context.Context, _ proto.Message, send func(*chatv1.TurnEvent) error) error {
		defer close(ended)
		text, total := strings.Repeat("x", piece), 0
		for i := int64(1); total < most; i++ {
			if err := send(delta(i, text)); err != nil {
				break
			}
			total += piece
		}
		sent <- total
		return nil
	})
	connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	if _, err := fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: shop\r\nAuthorization: %s\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"text\":\"x\"}",
		messages, b.as("alice", "customer")[1]); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the backend still sends, or waits for a client that does not read")
	}
	if total := <-sent; total >= most {
		t.Errorf("%d bytes went to a client that reads none", total)
	}
}
