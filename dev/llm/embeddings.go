package llm

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"net/http"
	"strings"
)

const (
	defaultDimension = 1536
	maxDimension     = 65536
	maxInputs        = 2048
	maxInputTokens   = 8192
)

type embeddingsRequest struct {
	Input          json.RawMessage `json:"input"`
	Model          string          `json:"model"`
	Dimensions     *int            `json:"dimensions"`
	EncodingFormat string          `json:"encoding_format"`
	User           string          `json:"user"`
}

func (s *Server) embeddings(w http.ResponseWriter, r *http.Request, struck strikes) bool {
	var request embeddingsRequest
	if failure := decodeBody(r, &request); failure != nil {
		failure.write(w)
		return true
	}
	texts, used, failure := request.check()
	if failure != nil {
		failure.write(w)
		return true
	}
	if struck.before(r.Context(), w) {
		return false
	}
	dimension := defaultDimension
	switch {
	case request.Dimensions != nil:
		dimension = *request.Dimensions
	case strings.HasSuffix(request.Model, "-large"):
		dimension = 2 * defaultDimension
	}
	if struck.has(WrongDimension) {
		dimension++
	}
	type embedding struct {
		Object    string `json:"object"`
		Index     int    `json:"index"`
		Embedding any    `json:"embedding"`
	}
	data := make([]embedding, len(texts))
	for i, text := range texts {
		data[i] = embedding{Object: "embedding", Index: i}
		vector := embed(text, dimension)
		if request.EncodingFormat == "base64" {
			data[i].Embedding = encodeVector(vector)
		} else {
			data[i].Embedding = vector
		}
		if r.Context().Err() != nil {
			return false // nobody waits for the rest
		}
	}
	s.counters.input.Add(int64(used))
	writeJSON(w, http.StatusOK, map[string]any{
		"object": "list", "data": data, "model": request.Model, "usage": map[string]int{"prompt_tokens": used, "total_tokens": used},
	})
	return true
}

// check returns the texts with the number of their tokens.
func (q embeddingsRequest) check() (texts []string, used int, failure *apiError) {
	if q.Model == "" {
		return nil, 0, invalid("model", "", "you must provide a model parameter")
	}
	var one string
	switch {
	case len(q.Input) == 0:
		return nil, 0, invalid("input", "missing_required_parameter", "Missing required parameter: 'input'.")
	case json.Unmarshal(q.Input, &one) == nil:
		texts = []string{one}
	case json.Unmarshal(q.Input, &texts) != nil:
		return nil, 0, invalid("input", "", "'$.input' is invalid: this endpoint takes a string or an array of strings.")
	}
	if len(texts) == 0 || len(texts) > maxInputs {
		return nil, 0, invalid("input", "", "'$.input' is invalid: it has %d texts, not 1 to %d.", len(texts), maxInputs)
	}
	if q.Dimensions != nil && (*q.Dimensions < 1 || *q.Dimensions > maxDimension) {
		return nil, 0, invalid("dimensions", "invalid_value", "Invalid value for 'dimensions' = %d. Must be between 1 and %d.", *q.Dimensions, maxDimension)
	}
	switch q.EncodingFormat {
	case "", "float", "base64":
	default:
		return nil, 0, invalid("encoding_format", "invalid_value", "Invalid value: '%s'. Supported values are: 'float' and 'base64'.", q.EncodingFormat)
	}
	for _, text := range texts {
		n := len(tokens(text))
		if n == 0 {
			return nil, 0, invalid("input", "", "'$.input' is invalid: it has an empty string.")
		}
		if n > maxInputTokens {
			return nil, 0, invalid("", "context_length_exceeded",
				"This model's maximum context length is %d tokens, however you requested %d tokens. Please reduce your prompt.", maxInputTokens, n)
		}
		used += n
	}
	return texts, used, nil
}

// encodeVector writes the numbers as little-endian float32 in base64.
func encodeVector(vector []float32) string {
	raw := make([]byte, 0, 4*len(vector))
	for _, v := range vector {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return base64.StdEncoding.EncodeToString(raw)
}
