package shopper

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
)

// Turn is a turn of a conversation whose events arrive, as text/event-stream.
type Turn struct {
	// ConversationID and ID are known from the first event on.
	ConversationID, ID string

	body  io.ReadCloser
	lines *bufio.Scanner
}

// Say adds a message to a conversation, or begins one when conversation is "", and
// returns the turn. The caller closes it. Errors: *ProblemError.
func (s *Shopper) Say(ctx context.Context, conversation, key, text string) (*Turn, error) {
	body, err := json.Marshal(map[string]string{"conversation_id": conversation, "text": text})
	if err != nil {
		return nil, fmt.Errorf("say: %w", err)
	}
	return s.stream(ctx, http.MethodPost, "/api/v1/chat/messages", body, "Idempotency-Key", key)
}

// Resume returns the events of a turn after the one with a number. The caller
// closes it. Errors: *ProblemError.
func (s *Shopper) Resume(ctx context.Context, turn string, after int64) (*Turn, error) {
	return s.stream(ctx, http.MethodGet, "/api/v1/chat/turns/"+turn+"/events", nil, "Last-Event-ID", strconv.FormatInt(after, 10))
}

func (s *Shopper) stream(ctx context.Context, method, path string, body []byte, headers ...string) (*Turn, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.Gateway+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "text/event-stream")
	if s.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.Token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := s.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		problem := &ProblemError{Status: res.StatusCode}
		if err := json.NewDecoder(res.Body).Decode(problem); err != nil {
			return nil, fmt.Errorf("%s %s: %d without a problem document: %w", method, path, res.StatusCode, err)
		}
		return nil, problem
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	return &Turn{body: res.Body, lines: lines}, nil
}

// Next waits for the next event. It returns io.EOF after the last one.
func (t *Turn) Next() (*chatv1.TurnEvent, error) {
	var data []string
	for t.lines.Scan() {
		line := t.lines.Text()
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "" && len(data) > 0:
			return t.event(strings.Join(data, "\n"))
		case name == "data":
			data = append(data, value)
		}
	}
	if err := t.lines.Err(); err != nil {
		return nil, fmt.Errorf("read event: %w", err)
	}
	return nil, io.EOF
}

func (t *Turn) event(data string) (*chatv1.TurnEvent, error) {
	var whose struct {
		ConversationID string `json:"conversation_id"`
	}
	event := &chatv1.TurnEvent{}
	err := json.Unmarshal([]byte(data), &whose)
	if err == nil {
		err = (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(data), event)
	}
	if err != nil {
		return nil, fmt.Errorf("read event %q: %w", data, err)
	}
	t.ConversationID, t.ID = whose.ConversationID, event.GetTurnId()
	return event, nil
}

// Close ends the stream.
func (t *Turn) Close() error {
	if err := t.body.Close(); err != nil {
		return fmt.Errorf("end the stream: %w", err)
	}
	return nil
}

// Each calls back with each piece of text until the turn is done, closes it and
// returns the done event. Errors: one when the turn ends without.
func (t *Turn) Each(piece func(delta string)) (done *chatv1.Done, err error) {
	defer func() { err = errors.Join(err, t.Close()) }()
	for {
		event, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, errors.New("the turn ended without a done event")
		case err != nil:
			return nil, err
		case event.GetDone() != nil:
			return event.GetDone(), nil
		case event.GetDelta() != "":
			piece(event.GetDelta())
		}
	}
}

// Confirm answers a confirmation card.
func (s *Shopper) Confirm(ctx context.Context, actionID string, accept bool) (string, error) {
	answer := &chatv1.ConfirmActionResponse{}
	_, err := s.Do(ctx, http.MethodPost, "/api/v1/chat/actions/"+actionID+":confirm", &chatv1.ConfirmActionRequest{Accept: accept}, answer)
	return answer.GetText(), err
}

// Messages returns what was said in a conversation, the first page.
func (s *Shopper) Messages(ctx context.Context, conversation string) ([]*chatv1.Message, error) {
	page := &chatv1.ListMessagesResponse{}
	_, err := s.Do(ctx, http.MethodGet, "/api/v1/chat/conversations/"+conversation+"/messages", nil, page)
	return page.GetMessages(), err
}
