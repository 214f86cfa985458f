package chat

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"bookworm/internal/fault"
	"bookworm/internal/identity"
	"bookworm/internal/llm"
)

// talk is a turn while it is answered. It is for one goroutine.
type talk struct {
	e        *Engine
	live     *live
	turn     turn
	user     string // the caller, as the model's endpoint knows them
	redactor *Redactor
	began    time.Time

	check     *check
	said      strings.Builder
	results   []*Result // by ref
	citations []Citation
	calls     int
	usage     llm.Usage
}

func newTalk(e *Engine, l *live, caller identity.Caller) *talk {
	sum := sha256.Sum256([]byte("bookworm chat " + caller.Subject))
	t := &talk{
		e: e, live: l, turn: l.turn, user: hex.EncodeToString(sum[:16]), redactor: NewRedactor(caller), began: time.Now(),
	}
	t.check = &check{
		results: func() []*Result { return t.results }, asked: t.turn.question, cited: t.cite, marked: make(map[int]bool),
	}
	return t
}

// run answers the question and ends the turn.
func (t *talk) run(ctx context.Context) {
	t.e.meters.running.Add(ctx, 1)
	defer t.e.meters.running.Add(context.WithoutCancel(ctx), -1)
	outcome := t.answerWithin(ctx)
	t.say(ctx, t.check.Close())
	t.finish(context.WithoutCancel(ctx), outcome)
	if outcome == Answered || outcome == Fallback {
		t.compact(context.WithoutCancel(ctx), t.said.String())
	}
}

// answerWithin answers within the turn's time and says why when it does not. A
// defect here ends this turn alone.
func (t *talk) answerWithin(ctx context.Context) (outcome Outcome) {
	defer func() {
		if value := recover(); value != nil {
			t.e.logger.ErrorContext(ctx, "a turn panicked", "turn", t.turn.id, "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
			t.trouble(fault.ReasonInternal, "Something went wrong on our side.")
			outcome = Broken
		}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, t.e.limits.Turn, errTooLong)
	defer cancel()
	if outcome = t.answer(ctx); outcome != "" {
		return outcome
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errTooLong):
		t.trouble(fault.ReasonUnavailable, "The answer took too long and was stopped.")
		return Broken
	case errors.Is(cause, errClosing):
		t.trouble(fault.ReasonUnavailable, "The answer was stopped: the server that gives it restarts. Ask again.")
	}
	return Cancelled
}

// answer talks with the model until it has answered. It returns "" when ctx ended
// first.
func (t *talk) answer(ctx context.Context) Outcome {
	if text := refuse(t.turn.question); text != "" {
		t.say(ctx, text)
		return Refused
	}
	messages := t.prompt()
	for {
		tools := t.e.box.offered
		if t.calls >= t.e.limits.ToolCalls {
			tools = nil // now it has to answer
		}
		r, err := t.ask(ctx, messages, tools)
		switch {
		case ctx.Err() != nil:
			return ""
		case t.check.stopped:
			t.say(ctx, "… "+notMyRules)
			return Refused
		case errors.Is(err, errBudget):
			t.trouble(fault.ReasonBudgetSpent, "This turn has used the words it may use.")
			return t.withoutModel(ctx)
		case err != nil && r.text != "":
			t.e.logger.WarnContext(ctx, "the model's answer broke off", "turn", t.turn.id, "error", err)
			t.trouble(fault.ReasonUnavailable, "The answer broke off. Ask again for the rest.")
			return Broken
		case err != nil:
			t.e.logger.WarnContext(ctx, "the model did not answer", "turn", t.turn.id, "error", err)
			return t.withoutModel(ctx)
		case len(r.calls) == 0 && r.text == "", tools == nil && len(r.calls) > 0 && r.text == "":
			t.e.logger.WarnContext(ctx, "the model said nothing", "turn", t.turn.id)
			return t.withoutModel(ctx)
		case len(r.calls) == 0, tools == nil:
			return Answered
		}
		messages = append(messages, llm.Message{Role: llm.Assistant, Content: r.text, ToolCalls: r.calls})
		for _, call := range r.calls {
			messages = append(messages, t.call(ctx, call))
		}
		if ctx.Err() != nil {
			return ""
		}
	}
}

// reply is one answer of the model: text, calls of tools, or both.
type reply struct {
	text  string
	calls []llm.ToolCall
}

// errBudget is returned by ask when the turn has no tokens left.
var errBudget = errors.New("the turn's tokens are used up")

// minAnswerTokens is what must be left for an answer.
const minAnswerTokens = 60

// ask asks the model once and says what it says. An answer that has begun is in
// the reply also with an error.
func (t *talk) ask(ctx context.Context, messages []llm.Message, tools []llm.Tool) (reply, error) {
	left := t.turn.reserved - t.usage.Input - t.usage.Output - estimate(messages, tools)
	if left < minAnswerTokens {
		return reply{}, errBudget
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// With this cause the silence counts against the endpoint.
	patience := time.AfterFunc(t.e.limits.FirstWord, func() { cancel(context.DeadlineExceeded) })
	defer patience.Stop()
	stream, err := t.e.model.Stream(ctx, llm.Request{
		Messages: messages, Tools: tools, MaxTokens: int(min(left, int64(t.e.limits.AnswerTokens))), User: t.user,
	})
	if err != nil {
		return reply{}, err
	}
	var text strings.Builder
	for {
		patience.Reset(t.e.limits.Stall)
		var chunk llm.Chunk
		chunk, err = stream.Next()
		if err != nil {
			break
		}
		text.WriteString(chunk.Delta)
		t.say(ctx, t.check.Write(chunk.Delta))
		if t.check.stopped || text.Len() > maxAnswer {
			err = io.EOF
			break
		}
	}
	r := reply{text: text.String()}
	if errors.Is(err, io.EOF) {
		r.calls, err = stream.ToolCalls(), nil
	}
	t.use(stream.Usage())
	if closing := stream.Close(); closing != nil {
		t.e.logger.DebugContext(ctx, "the model's answer did not close", "error", closing)
	}
	return r, err
}

// maxAnswer bounds what is read of one answer, in bytes, whatever the model thinks
// of its limit.
const maxAnswer = 32 << 10

func (t *talk) use(u llm.Usage) {
	t.usage = t.usage.Plus(u)
	t.live.input.Store(t.usage.Input)
	t.live.output.Store(t.usage.Output)
}

func estimate(messages []llm.Message, tools []llm.Tool) int64 {
	n := 0
	for _, m := range messages {
		n += llm.EstimateTokens(m.Content) + 4
		for _, call := range m.ToolCalls {
			n += llm.EstimateTokens(call.Arguments) + 8
		}
	}
	for _, tool := range tools {
		n += llm.EstimateTokens(tool.Description) + llm.EstimateTokens(string(tool.Parameters))
	}
	return int64(n)
}

// say lets text out, without a check.
func (t *talk) say(ctx context.Context, text string) {
	if text == "" {
		return
	}
	if t.said.Len() == 0 {
		t.e.meters.first.Record(context.WithoutCancel(ctx), time.Since(t.began).Seconds())
	}
	t.said.WriteString(text)
	t.live.append(Event{Delta: text})
}

func (t *talk) trouble(reason fault.Reason, message string) {
	t.live.append(Event{Error: &Trouble{Reason: reason, Message: message}})
}

// cite says what a mark rests on, and shows it.
func (t *talk) cite(r *Result) {
	c := Citation{Number: r.ref, CallID: r.callID, Kind: r.Kind, ID: r.ID, Title: r.Title}
	t.citations = append(t.citations, c)
	t.live.append(Event{Citation: &c})
	if r.Card != nil {
		t.live.append(Event{Card: r.Card})
	}
}

var callID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// toolTime bounds one call of a tool.
const toolTime = 5 * time.Second

// call makes a call of the model's, if it is one that may be made, and returns what
// the model is told.
func (t *talk) call(ctx context.Context, call llm.ToolCall) llm.Message {
	t.calls++
	id := call.ID
	if !callID.MatchString(id) {
		id = fmt.Sprintf("call_%d", t.calls)
	}
	message := toolMessage{CallID: id, Results: []*Result{}}
	if t.calls > t.e.limits.ToolCalls {
		message.Note = "No more look-ups in this turn. Answer with what there is."
		return llm.Message{Role: llm.ToolResult, ToolCallID: call.ID, Content: encodeMessage(message)}
	}
	use := ToolUse{CallID: id, Name: "unknown", State: Started, Summary: "Looking something up"}
	tool, err := t.e.box.find(call)
	if known, ok := t.e.box.tools[call.Name]; ok {
		use.Name, use.Summary = known.Name, known.Doing
	}
	t.tell(ctx, use)
	switch {
	case err != nil:
		message.Note = "Not done: " + err.Error() + "."
		use.State, use.Summary = Failed, "That did not work"
	default:
		message, use = t.lookUp(ctx, tool, call, message, use)
	}
	t.tell(ctx, use)
	return llm.Message{Role: llm.ToolResult, ToolCallID: call.ID, Content: encodeMessage(message)}
}

func (t *talk) tell(ctx context.Context, use ToolUse) {
	t.live.append(Event{Tool: &use})
	t.e.meters.tool(ctx, use.Name, use.State)
}

// lookUp runs a tool whose arguments fit.
func (t *talk) lookUp(ctx context.Context, tool checkedTool, call llm.ToolCall, message toolMessage, use ToolUse) (toolMessage, ToolUse) {
	ctx, cancel := context.WithTimeout(ctx, toolTime)
	defer cancel()
	found, err := tool.Run(ctx, json.RawMessage(call.Arguments))
	if err != nil {
		if fault.KindOf(err) == fault.Internal || fault.KindOf(err) == fault.Unavailable {
			t.e.logger.WarnContext(ctx, "a tool failed", "tool", tool.Name, "turn", t.turn.id, "error", err)
		}
		message.Note = toldModel(err)
		use.State, use.Summary = Failed, "That could not be looked up"
		return message, use
	}
	for _, r := range found.Results {
		message.Results = append(message.Results, t.add(r, message.CallID))
	}
	message.Note = found.Note
	use.State, use.Summary = Succeeded, found.Summary
	if found.Proposal != nil {
		card, err := t.e.store.propose(ctx, t.turn, *found.Proposal)
		if err != nil {
			t.e.logger.WarnContext(ctx, "an action was not proposed", "turn", t.turn.id, "error", err)
			message.Note = toldModel(err)
			use.State, use.Summary = Failed, "That could not be prepared"
			return message, use
		}
		t.live.append(Event{Card: &Card{Confirmation: &card}})
	}
	return message, use
}

// add gives a result its number in the turn. The same thing found again keeps its
// number, and is known as it was found last.
func (t *talk) add(r Result, callID string) *Result {
	r.clean()
	r.callID = callID
	r.proof = r.prove()
	at := slices.IndexFunc(t.results, func(o *Result) bool { return o.Kind == r.Kind && o.ID == r.ID && o.Title == r.Title })
	if at < 0 {
		at = len(t.results)
		t.results = append(t.results, nil)
	}
	r.ref = at + 1
	t.results[at] = &r
	return &r
}

func encodeMessage(m toolMessage) string {
	raw, err := json.Marshal(m)
	if err != nil {
		return `{"results":[],"note":"The look-up failed."}` // no result fails to encode
	}
	return string(raw)
}

// finish ends the turn in the database, and then for those who follow it.
func (t *talk) finish(ctx context.Context, outcome Outcome) {
	done := Done{
		Outcome: outcome, Input: t.usage.Input, Output: t.usage.Output, Uncited: t.check.uncited, Text: t.said.String(),
	}
	cost := t.e.limits.cost(t.usage)
	last := Event{Done: &done}
	t.live.mu.Lock()
	last.Sequence = int64(len(t.live.events)) + 1
	t.live.mu.Unlock()
	err := t.store(ctx, ending{
		turn: t.turn, owner: t.e.id, events: append(t.live.unwritten(), last), citations: t.citations, cost: cost,
	})
	t.e.mu.Lock()
	delete(t.e.turns, t.turn.id)
	t.e.mu.Unlock()
	if err != nil && !errors.Is(err, errLost) {
		// The lease ends the row. Those who listen learn of the text that is not kept.
		t.e.logger.ErrorContext(ctx, "the end of a turn was not written down", "turn", t.turn.id, "error", err)
		t.trouble(fault.ReasonInternal, "The answer could not be kept.")
		last.Sequence++
		done.Outcome = Broken
	}
	t.live.end(last, errors.Is(err, errLost))
	t.e.meters.turn(ctx, done, time.Since(t.began), cost)
}

// storeTries is how often the end of a turn is tried to be written, each time
// within storeTime.
const storeTries = 3

func (t *talk) store(ctx context.Context, e ending) error {
	for try := 1; ; try++ {
		bounded, cancel := context.WithTimeout(ctx, storeTime)
		err := t.e.store.finish(bounded, e)
		cancel()
		if err == nil || errors.Is(err, errLost) || try == storeTries {
			return err
		}
	}
}
