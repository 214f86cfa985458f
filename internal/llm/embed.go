package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/sashabaranov/go-openai"
)

const (
	// maxBatch is the number of texts in one request.
	maxBatch = 96
	// maxBatchTokens keeps a request below OpenAI's limit of 300,000 tokens, with room
	// for what the estimate is wrong by.
	maxBatchTokens = 150_000
	// maxTextTokens is OpenAI's limit of 8,192 for one text, with the same room.
	maxTextTokens = 6_000
)

// EmbeddingName names the model with its dimension, for example
// "text-embedding-3-small/1536". Vectors compare only with those of the same name.
func (c *Client) EmbeddingName() string { return fmt.Sprintf("%s/%d", c.embeddingModel, c.dimension) }

// Embed returns a vector for each text, in their order, as the model made them:
// OpenAI's have length 1, others may not. No text may be empty. Of a text that is
// longer than the model takes, the beginning counts.
// Errors: UNAVAILABLE, ErrDimension, ErrInvalidAnswer.
func (c *Client) Embed(ctx context.Context, texts []string) ([][]float32, error) {
	if c.embeddingModel == "" {
		return nil, errors.New("embed texts: no embedding model is configured")
	}
	inputs := make([]string, len(texts))
	for i, text := range texts {
		if text == "" {
			return nil, fmt.Errorf("embed texts: text %d is empty", i)
		}
		inputs[i] = beginning(text, maxTextTokens)
	}
	vectors := make([][]float32, 0, len(inputs))
	for len(inputs) > 0 {
		n := batch(inputs)
		some, err := c.embedBatch(ctx, inputs[:n])
		if err != nil {
			return nil, fmt.Errorf("embed texts: %w", err)
		}
		vectors = append(vectors, some...)
		inputs = inputs[n:]
	}
	return vectors, nil
}

// batch returns how many of the texts, at least one, fit into the next request.
func batch(texts []string) int {
	tokens := 0
	for i, text := range texts {
		tokens += EstimateTokens(text)
		if i == maxBatch || (i > 0 && tokens > maxBatchTokens) {
			return i
		}
	}
	return len(texts)
}

// beginning cuts text after about the given tokens, between two characters.
func beginning(text string, tokens int) string {
	if len(text) <= tokens { // a token has at least one byte
		return text
	}
	e := estimate{}
	for i, r := range text {
		e.add(r)
		if e.tokens() > tokens {
			return text[:i]
		}
	}
	return text
}

func (c *Client) embedBatch(ctx context.Context, texts []string) ([][]float32, error) {
	started := time.Now()
	var answer openai.EmbeddingResponse
	err := retry(ctx, c.embeddingBreaker, func(ctx context.Context) (err error) {
		answer, err = c.createEmbeddings(ctx, texts)
		return err
	})
	c.meters.call(ctx, operationEmbeddings, c.embeddingModel, started, Usage{Input: int64(answer.Usage.PromptTokens)}, err)
	if err != nil {
		return nil, err
	}
	return c.vectors(answer, len(texts))
}

// createEmbeddings makes one request, and further ones without what the endpoint
// does not know.
func (c *Client) createEmbeddings(ctx context.Context, texts []string) (openai.EmbeddingResponse, error) {
	for {
		request := openai.EmbeddingRequestStrings{
			Input: texts, Model: openai.EmbeddingModel(c.embeddingModel),
			Dimensions: c.dimension, EncodingFormat: openai.EmbeddingEncodingFormatBase64,
		}
		if c.noDimensions.Load() {
			request.Dimensions = 0
		}
		if c.noBase64.Load() {
			request.EncodingFormat = openai.EmbeddingEncodingFormatFloat
		}
		answer, err := c.api.CreateEmbeddings(ctx, request)
		switch {
		case request.Dimensions > 0 && refuses(err, "dimensions"):
			c.noDimensions.Store(true)
		case request.EncodingFormat == openai.EmbeddingEncodingFormatBase64 && (refuses(err, "encoding_format") || wroteFloats(err)):
			c.noBase64.Store(true)
		default:
			return answer, err
		}
	}
}

// wroteFloats reports whether the endpoint ignored the encoding asked for.
func wroteFloats(err error) bool {
	shape, ok := errors.AsType[*json.UnmarshalTypeError](err)
	return ok && shape.Value == "array"
}

// vectors checks an answer and puts it into the order of the texts.
func (c *Client) vectors(answer openai.EmbeddingResponse, texts int) ([][]float32, error) {
	if len(answer.Data) != texts {
		return nil, fmt.Errorf("%w: %d vectors for %d texts", ErrInvalidAnswer, len(answer.Data), texts)
	}
	vectors := make([][]float32, texts)
	for _, e := range answer.Data {
		switch {
		case e.Index < 0 || e.Index >= texts || vectors[e.Index] != nil:
			return nil, fmt.Errorf("%w: vector with the index %d", ErrInvalidAnswer, e.Index)
		case len(e.Embedding) != c.dimension:
			return nil, fmt.Errorf("%w: %s answers %d numbers, configured are %d", ErrDimension, c.embeddingModel, len(e.Embedding), c.dimension)
		}
		vectors[e.Index] = e.Embedding
	}
	return vectors, nil
}

// EstimateTokens estimates, without the model's own tokenizer, how many tokens a
// text has: four ASCII letters or digits make one, as does every other visible
// character. English prose comes out a little above what OpenAI's models count.
func EstimateTokens(text string) int {
	e := estimate{}
	for _, r := range text {
		e.add(r)
	}
	return e.tokens()
}

type estimate struct{ letters, others int }

func (e *estimate) add(r rune) {
	switch {
	case r == ' ':
	case r < utf8.RuneSelf && (r|0x20 >= 'a' && r|0x20 <= 'z' || r >= '0' && r <= '9'):
		e.letters++
	default:
		e.others++
	}
}

func (e *estimate) tokens() int { return (e.letters+3)/4 + e.others }

// messageTokens is what a message costs beside its text.
const messageTokens = 4

func estimateRequest(r Request) int64 {
	n := 0
	for _, m := range r.Messages {
		n += messageTokens + EstimateTokens(m.Content)
		for _, call := range m.ToolCalls {
			n += EstimateTokens(call.Name) + EstimateTokens(call.Arguments)
		}
	}
	for _, tool := range r.Tools {
		n += EstimateTokens(tool.Name) + EstimateTokens(tool.Description) + EstimateTokens(string(tool.Parameters))
	}
	return int64(n)
}
