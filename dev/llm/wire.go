package llm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// maxContext is how many tokens the messages of a request may have.
const maxContext = 128_000

// chatRequest is the part of OpenAI's request that means something here. The
// others are known and without effect.
type chatRequest struct {
	Model               string          `json:"model"`
	Messages            []message       `json:"messages"`
	Tools               []tool          `json:"tools"`
	ToolChoice          json.RawMessage `json:"tool_choice"`
	ResponseFormat      *responseFormat `json:"response_format"`
	Stream              bool            `json:"stream"`
	StreamOptions       *streamOptions  `json:"stream_options"`
	MaxTokens           int             `json:"max_tokens"`
	MaxCompletionTokens int             `json:"max_completion_tokens"`
	N                   *int            `json:"n"`

	User              json.RawMessage `json:"user"`
	Temperature       json.RawMessage `json:"temperature"`
	TopP              json.RawMessage `json:"top_p"`
	Seed              json.RawMessage `json:"seed"`
	ParallelToolCalls json.RawMessage `json:"parallel_tool_calls"`
	Store             json.RawMessage `json:"store"`
	Metadata          json.RawMessage `json:"metadata"`
	SafetyIdentifier  json.RawMessage `json:"safety_identifier"`
	ReasoningEffort   json.RawMessage `json:"reasoning_effort"`
	Verbosity         json.RawMessage `json:"verbosity"`
	ServiceTier       json.RawMessage `json:"service_tier"`
	Stop              json.RawMessage `json:"stop"`
	PresencePenalty   json.RawMessage `json:"presence_penalty"`
	FrequencyPenalty  json.RawMessage `json:"frequency_penalty"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

type message struct {
	Role       string     `json:"role"`
	Content    *content   `json:"content"`
	ToolCalls  []toolCall `json:"tool_calls,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
	Name       string     `json:"name,omitempty"`
}

func (m message) text() string {
	if m.Content == nil {
		return ""
	}
	return string(*m.Content)
}

// content is text, written as a string or as an array of text parts.
type content string

// UnmarshalJSON reads both forms.
func (c *content) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*c = content(one)
		return nil
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if err := json.Unmarshal(data, &parts); err != nil {
		return errors.New("content is neither a string nor an array of parts")
	}
	var text strings.Builder
	for _, p := range parts {
		if p.Type != "text" {
			return fmt.Errorf("content parts of type %q are not supported", p.Type)
		}
		text.WriteString(p.Text)
	}
	*c = content(text.String())
	return nil
}

type toolCall struct {
	Index    *int         `json:"index,omitempty"` // in streams only
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type,omitempty"`
	Function functionCall `json:"function"`
}

type functionCall struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

type tool struct {
	Type     string `json:"type"`
	Function struct {
		Name        string          `json:"name"`
		Description string          `json:"description"`
		Parameters  json.RawMessage `json:"parameters"`
		Strict      bool            `json:"strict"`
	} `json:"function"`
}

type responseFormat struct {
	Type       string `json:"type"`
	JSONSchema *struct {
		Name        string          `json:"name"`
		Description string          `json:"description"`
		Schema      json.RawMessage `json:"schema"`
		Strict      bool            `json:"strict"`
	} `json:"json_schema"`
}

// decodeBody reads one JSON object with nothing unknown in it.
func decodeBody(r *http.Request, v any) *apiError {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		e := invalid("", "", "The request cannot be read.")
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			e.Status = http.StatusRequestEntityTooLarge
		}
		return e
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	err = decoder.Decode(v)
	if err == nil && decoder.More() {
		err = errors.New("more than one value")
	}
	if err != nil {
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			name = strings.Trim(name, `"`)
			return invalid(name, "unknown_parameter", "Unknown parameter: '%s'.", name)
		}
		return invalid("", "", "We could not parse the JSON body of your request: %s", err)
	}
	return nil
}

var functionName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// check refuses what OpenAI refuses. It returns the number of input tokens.
func (q *chatRequest) check() (int, *apiError) {
	switch {
	case q.Model == "":
		return 0, invalid("model", "", "you must provide a model parameter")
	case len(q.Messages) == 0:
		return 0, invalid("messages", "missing_required_parameter", "Missing required parameter: 'messages'.")
	case q.N != nil && *q.N != 1:
		return 0, invalid("n", "invalid_value", "Only n = 1 is supported.")
	case q.StreamOptions != nil && !q.Stream:
		return 0, invalid("stream_options", "", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
	case q.MaxTokens < 0 || q.MaxCompletionTokens < 0:
		return 0, invalid("max_tokens", "integer_below_min_value", "Invalid 'max_tokens': integer below minimum value. Expected a value >= 1.")
	case q.MaxTokens > 0 && q.MaxCompletionTokens > 0:
		return 0, invalid("max_tokens", "", "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
	}
	for _, check := range []func() *apiError{q.checkMessages, q.checkTools, q.checkFormat} {
		if failure := check(); failure != nil {
			return 0, failure
		}
	}
	used := q.inputTokens()
	if used > maxContext {
		return 0, invalid("messages", "context_length_exceeded",
			"This model's maximum context length is %d tokens. However, your messages resulted in %d tokens. Please reduce the length of the messages.", maxContext, used)
	}
	return used, nil
}

// checkMessages holds calls and results together: each call is answered once,
// right after it.
func (q *chatRequest) checkMessages() *apiError {
	open := map[string]bool{}
	for i, m := range q.Messages {
		where := fmt.Sprintf("messages.[%d].role", i)
		if m.Role != "tool" && len(open) > 0 {
			return unanswered(open)
		}
		switch m.Role {
		case "system", "developer", "user":
			if m.Content == nil {
				return invalid(fmt.Sprintf("messages.[%d].content", i), "", "Invalid value for 'content': expected a string, got null.")
			}
		case "assistant":
			if m.Content == nil && len(m.ToolCalls) == 0 {
				return invalid(fmt.Sprintf("messages.[%d].content", i), "", "Invalid value for 'content': expected a string, got null.")
			}
			for _, call := range m.ToolCalls {
				if call.ID == "" || call.Type != "function" || call.Function.Name == "" {
					return invalid(fmt.Sprintf("messages.[%d].tool_calls", i), "missing_required_parameter",
						"A tool call needs an id, the type 'function' and a name.")
				}
				open[call.ID] = true
			}
		case "tool":
			if m.Content == nil {
				return invalid(fmt.Sprintf("messages.[%d].content", i), "", "Invalid value for 'content': expected a string, got null.")
			}
			if !open[m.ToolCallID] {
				return invalid(where, "", "Invalid parameter: messages with role 'tool' must be a response to a preceding message with 'tool_calls'.")
			}
			delete(open, m.ToolCallID)
		default:
			return invalid(where, "invalid_value", "Invalid value: '%s'. Supported values are: 'system', 'assistant', 'user', 'tool', and 'developer'.", m.Role)
		}
	}
	if len(open) > 0 {
		return unanswered(open)
	}
	return nil
}

func unanswered(open map[string]bool) *apiError {
	ids := make([]string, 0, len(open))
	for id := range open {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return invalid("messages", "", "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "+
		"The following tool_call_ids did not have response messages: %s", strings.Join(ids, ", "))
}

func (q *chatRequest) checkTools() *apiError {
	for i, t := range q.Tools {
		if t.Type != "function" || !functionName.MatchString(t.Function.Name) {
			return invalid(fmt.Sprintf("tools[%d].function.name", i), "invalid_value",
				"Invalid tool: a function with a name of letters, digits, _ and - is expected.")
		}
		if len(t.Function.Parameters) == 0 {
			continue
		}
		var schema struct {
			Type string `json:"type"`
		}
		if json.Unmarshal(t.Function.Parameters, &schema) != nil || schema.Type != "object" {
			return invalid(fmt.Sprintf("tools[%d].function.parameters", i), "invalid_function_parameters",
				"Invalid schema for function '%s': schema must be a JSON Schema of 'type: \"object\"'.", t.Function.Name)
		}
	}
	_, failure := q.choice()
	return failure
}

// choice is none, auto, required or the name of one tool.
func (q *chatRequest) choice() (string, *apiError) {
	if len(q.ToolChoice) == 0 || string(q.ToolChoice) == "null" {
		return "auto", nil
	}
	if len(q.Tools) == 0 {
		return "", invalid("tool_choice", "", "'tool_choice' is only allowed when 'tools' are specified.")
	}
	var word string
	if json.Unmarshal(q.ToolChoice, &word) == nil {
		if !slices.Contains([]string{"none", "auto", "required"}, word) {
			return "", invalid("tool_choice", "invalid_value", "Invalid value: '%s'. Supported values are: 'none', 'auto', and 'required'.", word)
		}
		return word, nil
	}
	var named tool
	if json.Unmarshal(q.ToolChoice, &named) != nil || q.tool(named.Function.Name) == nil {
		return "", invalid("tool_choice", "invalid_value", "Tool choice '%s' not found in 'tools' parameter.", named.Function.Name)
	}
	return named.Function.Name, nil
}

func (q *chatRequest) tool(name string) *tool {
	for i := range q.Tools {
		if q.Tools[i].Function.Name == name {
			return &q.Tools[i]
		}
	}
	return nil
}

func (q *chatRequest) checkFormat() *apiError {
	if q.ResponseFormat == nil {
		return nil
	}
	switch q.ResponseFormat.Type {
	case "text":
		return nil
	case "json_object":
		for _, m := range q.Messages {
			if strings.Contains(strings.ToLower(m.text()), "json") {
				return nil
			}
		}
		return invalid("messages", "", "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.")
	case "json_schema":
	default:
		return invalid("response_format.type", "invalid_value",
			"Invalid value: '%s'. Supported values are: 'json_object', 'json_schema', and 'text'.", q.ResponseFormat.Type)
	}
	f := q.ResponseFormat.JSONSchema
	if f == nil {
		return invalid("response_format.json_schema", "missing_required_parameter", "Missing required parameter: 'response_format.json_schema'.")
	}
	if !functionName.MatchString(f.Name) {
		return invalid("response_format.json_schema.name", "invalid_value", "Invalid 'response_format.json_schema.name': expected letters, digits, _ and -.")
	}
	var schema map[string]any
	if err := json.Unmarshal(f.Schema, &schema); err != nil || schema == nil {
		return invalid("response_format.json_schema.schema", "", "Missing or invalid parameter: 'response_format.json_schema.schema'.")
	}
	if f.Strict {
		if problem := notStrict(schema, ""); problem != "" {
			return invalid("response_format", "", "Invalid schema for response_format '%s': %s", f.Name, problem)
		}
	}
	return nil
}

// notStrict says what keeps a schema from being a strict one: each object closes
// its properties and requires them all.
func notStrict(schema map[string]any, at string) string {
	if properties, ok := schema["properties"].(map[string]any); ok {
		if schema["additionalProperties"] != false {
			return fmt.Sprintf("In context=(%s), 'additionalProperties' is required to be supplied and to be false.", at)
		}
		required, _ := schema["required"].([]any)
		for name, property := range properties {
			if !slices.Contains(required, any(name)) {
				return fmt.Sprintf("In context=(%s), 'required' is required to be supplied and to be an array including every key in properties. Missing '%s'.", at, name)
			}
			if inner, ok := property.(map[string]any); ok {
				if problem := notStrict(inner, at+"/properties/"+name); problem != "" {
					return problem
				}
			}
		}
	}
	if items, ok := schema["items"].(map[string]any); ok {
		return notStrict(items, at+"/items")
	}
	return ""
}

func (q *chatRequest) inputTokens() int {
	n := 0
	for _, m := range q.Messages {
		n += 4 + len(tokens(m.text()))
		for _, call := range m.ToolCalls {
			n += len(tokens(call.Function.Name)) + len(tokens(call.Function.Arguments))
		}
	}
	for _, t := range q.Tools {
		n += len(tokens(t.Function.Name)) + len(tokens(t.Function.Description)) + len(tokens(string(t.Function.Parameters)))
	}
	return n
}
