package eval

import (
	"errors"
	"fmt"
	"strconv"

	"bookworm/internal/personal"
)

// Endpoint is where the models are.
type Endpoint struct {
	BaseURL        string
	APIKey         personal.Text
	EmbeddingModel string
	Dimension      int
	// ChatModel is empty for an endpoint of embeddings alone: the embedded model talks.
	ChatModel string
	// Genuine says that these are real models, not the embedded ones.
	Genuine bool
}

// The names and size of the embedded models; any would do.
const (
	embeddedEmbedding = "bookworm-hashing"
	embeddedChat      = "bookworm-extraction"
	embeddedDimension = 1536
)

// EndpointFrom reads the OPENAI_TEST_... variables through lookup (os.Getenv). Without
// OPENAI_TEST_BASE_URL it is the zero Endpoint, which stands for the embedded models.
func EndpointFrom(lookup func(string) string) (Endpoint, error) {
	e := Endpoint{
		BaseURL: lookup("OPENAI_TEST_BASE_URL"), APIKey: personal.Text(lookup("OPENAI_TEST_API_KEY")),
		EmbeddingModel: lookup("OPENAI_TEST_EMBEDDING_MODEL"), ChatModel: lookup("OPENAI_TEST_CHAT_MODEL"), Genuine: true,
	}
	if e.BaseURL == "" {
		return Endpoint{}, nil
	}
	var problems []error
	if e.EmbeddingModel == "" {
		problems = append(problems, errors.New("OPENAI_TEST_EMBEDDING_MODEL is not set"))
	}
	var err error
	if e.Dimension, err = strconv.Atoi(lookup("OPENAI_TEST_EMBEDDING_DIMENSION")); err != nil || e.Dimension < 1 {
		problems = append(problems, errors.New("OPENAI_TEST_EMBEDDING_DIMENSION is not a number of 1 or more"))
	}
	if len(problems) > 0 {
		return Endpoint{}, fmt.Errorf("the endpoint to evaluate: %w", errors.Join(problems...))
	}
	return e, nil
}
