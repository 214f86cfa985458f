package llm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/sashabaranov/go-openai"
)

// JSON asks the model for an answer in JSON that fits the schema, and decodes it
// into out. An answer that doesn't fit is given back to the model once, with what
// is wrong. The usage is of both tries, also when the error is ErrInvalidAnswer.
//
// name says what the answer is, in letters, digits, _ and -. A schema whose top
// says "additionalProperties": false is sent as strict; then every object of it
// must say so and require all its properties, or OpenAI refuses it.
// Errors: UNAVAILABLE, ErrInvalidAnswer, ErrTooLong.
func (c *Client) JSON(ctx context.Context, r Request, name string, schema json.RawMessage, out any) (Usage, error) {
	if c.chatModel == "" {
		return Usage{}, errors.New("ask the model for JSON: no chat model is configured")
	}
	compiled, strict, err := compile(schema)
	if err != nil {
		return Usage{}, fmt.Errorf("ask the model for JSON: %w", err)
	}
	request := c.chatRequest(r)
	request.ResponseFormat = &openai.ChatCompletionResponseFormat{
		Type:       openai.ChatCompletionResponseFormatTypeJSONSchema,
		JSONSchema: &openai.ChatCompletionResponseFormatJSONSchema{Name: name, Schema: schema, Strict: strict},
	}
	answer, usage, err := c.complete(ctx, request)
	if err != nil {
		return usage, fmt.Errorf("ask the model for JSON: %w", err)
	}
	problem := decode(compiled, answer, out)
	if problem == nil {
		return usage, nil
	}
	if answer == "" {
		answer = "(nothing)" // a message must have content
	}
	request.Messages = append(request.Messages,
		openai.ChatCompletionMessage{Role: openai.ChatMessageRoleAssistant, Content: answer},
		openai.ChatCompletionMessage{
			Role:    openai.ChatMessageRoleUser,
			Content: "That is not a valid answer: " + problem.Error() + ". Answer again, with valid JSON that fits the schema and nothing else.",
		})
	answer, more, err := c.complete(ctx, request)
	usage = usage.Plus(more)
	if err != nil {
		return usage, fmt.Errorf("ask the model to repair its JSON: %w", err)
	}
	if decode(compiled, answer, out) != nil {
		// The problem's text quotes the answer: it is for the model alone.
		return usage, fmt.Errorf("ask the model for JSON: %w: it does not fit the schema %s", ErrInvalidAnswer, name)
	}
	return usage, nil
}

func compile(schema json.RawMessage) (compiled *jsonschema.Schema, strict bool, err error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, false, fmt.Errorf("read the schema: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(jsonschema.SchemeURLLoader{}) // a schema stands alone
	if err := compiler.AddResource("answer.json", document); err != nil {
		return nil, false, fmt.Errorf("read the schema: %w", err)
	}
	if compiled, err = compiler.Compile("answer.json"); err != nil {
		return nil, false, fmt.Errorf("compile the schema: %w", err)
	}
	if top, ok := document.(map[string]any); ok {
		strict = top["additionalProperties"] == false
	}
	return compiled, strict, nil
}

// decode checks answer against the schema and decodes it into out, which an answer
// that does not fit leaves as it was.
func decode(schema *jsonschema.Schema, answer string, out any) error {
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(answer))
	if err != nil {
		return fmt.Errorf("it is no JSON: %w", err)
	}
	if err := schema.Validate(value); err != nil {
		return fmt.Errorf("it does not fit the schema: %w", err)
	}
	if err := json.Unmarshal([]byte(answer), out); err != nil {
		return fmt.Errorf("it has another shape: %w", err)
	}
	return nil
}

// complete asks for a whole answer. An answer that the model refused to give or
// did not finish is returned as it is: it will not fit the schema.
func (c *Client) complete(ctx context.Context, request openai.ChatCompletionRequest) (string, Usage, error) {
	started := time.Now()
	var answer openai.ChatCompletionResponse
	err := retry(ctx, c.chatBreaker, func(ctx context.Context) error {
		return c.sendWithLimit(request, func(r openai.ChatCompletionRequest) (err error) {
			answer, err = c.api.CreateChatCompletion(ctx, r)
			return err
		})
	})
	usage := Usage{Input: int64(answer.Usage.PromptTokens), Output: int64(answer.Usage.CompletionTokens)}
	c.meters.call(ctx, operationChat, c.chatModel, started, usage, err)
	if err != nil {
		return "", usage, err
	}
	if len(answer.Choices) == 0 {
		return "", usage, nil
	}
	message := answer.Choices[0].Message
	return message.Content + message.Refusal, usage, nil
}
