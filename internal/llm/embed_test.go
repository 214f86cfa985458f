package llm

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestEmbedBatchesInOrder(t *testing.T) {
	t.Parallel()
	var sizes []int
	c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		var request struct {
			Input          []string `json:"input"`
			Model          string   `json:"model"`
			Dimensions     int      `json:"dimensions"`
			EncodingFormat string   `json:"encoding_format"`
		}
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			t.Error(err)
		}
		if request.Model != "test-embedding" || request.Dimensions != 3 || request.EncodingFormat != "base64" {
			t.Errorf("request = %+v", request)
		}
		sizes = append(sizes, len(request.Input))
		var data []string
		for i, text := range slices.Backward(request.Input) {
			raw := make([]byte, 0, 12)
			for _, v := range []float32{float32(len(text)), 1, 2} {
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
			}
			data = append(data, fmt.Sprintf(`{"index":%d,"embedding":%q}`, i, base64.StdEncoding.EncodeToString(raw)))
		}
		fmt.Fprintf(w, `{"data":[%s]}`, strings.Join(data, ","))
	}).URL, nil)
	texts := make([]string, 2*maxBatch+1)
	for i := range texts {
		texts[i] = strings.Repeat("x", i+1)
	}
	vectors, err := c.Embed(t.Context(), texts)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range vectors {
		if !slices.Equal(v, []float32{float32(i + 1), 1, 2}) {
			t.Errorf("vector %d = %v", i, v)
		}
	}
	if !slices.Equal(sizes, []int{maxBatch, maxBatch, 1}) {
		t.Errorf("batches = %v", sizes)
	}
	if none, err := c.Embed(t.Context(), nil); err != nil || len(none) != 0 {
		t.Errorf("nothing embeds to %v, %v", none, err)
	}
	if _, err := c.Embed(t.Context(), []string{"a", ""}); err == nil || !strings.Contains(err.Error(), "text 1") {
		t.Errorf("an empty text: %v", err)
	}
}

func TestEmbedDoesWithoutWhatTheEndpointDoesNotKnow(t *testing.T) {
	t.Parallel()
	refused := map[string]string{
		"dimensions":      `{"error":{"message":"Model does not support matryoshka dimensions"}}`,
		"encoding_format": `{"detail":[{"loc":["body","encoding_format"],"msg":"extra fields not permitted"}]}`,
	}
	for name, test := range map[string]struct {
		refuses []string
		calls   int
	}{
		"ignores base64":     {nil, 2},
		"refuses dimensions": {[]string{"dimensions"}, 3},
		"refuses both":       {[]string{"dimensions", "encoding_format"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
				calls++
				var request map[string]any
				if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
					t.Error(err)
				}
				for _, parameter := range test.refuses {
					if value, ok := request[parameter]; ok && value != "float" {
						refuse(map[string]int{"dimensions": 400, "encoding_format": 422}[parameter], "", refused[parameter])(w, r)
						return
					}
				}
				fmt.Fprint(w, `{"data":[{"index":0,"embedding":[1,2,3]}]}`)
			}).URL, nil)
			for range 2 { // learnt once
				vectors, err := c.Embed(t.Context(), []string{"a"})
				if err != nil || !slices.Equal(vectors[0], []float32{1, 2, 3}) {
					t.Fatalf("%v, %v", vectors, err)
				}
			}
			if calls != test.calls+1 {
				t.Errorf("%d calls, want %d", calls, test.calls+1)
			}
		})
	}
}

func TestEmbedChecksTheAnswer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		data string
		want error
		says string
	}{
		"dimension":  {`{"index":0,"embedding":[1,2,3]},{"index":1,"embedding":[1,2,3,4]}`, ErrDimension, "4 numbers, configured are 3"},
		"one less":   {`{"index":0,"embedding":[1,2,3]}`, ErrInvalidAnswer, "1 vectors for 2 texts"},
		"one twice":  {`{"index":0,"embedding":[1,2,3]},{"index":0,"embedding":[1,2,3]}`, ErrInvalidAnswer, "index 0"},
		"none of us": {`{"index":0,"embedding":[1,2,3]},{"index":7,"embedding":[1,2,3]}`, ErrInvalidAnswer, "index 7"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"data":[%s]}`, test.data) }).URL, nil)
			if _, err := c.Embed(t.Context(), []string{"a", "b"}); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error = %v", err)
			}
		})
	}
}

func TestLongTextsAreCutAndBatchesBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("wörter ", 20_000)
	short := beginning(long, maxTextTokens)
	if !strings.HasPrefix(long, short) || !utf8.ValidString(short) || EstimateTokens(short) > maxTextTokens || EstimateTokens(short) < maxTextTokens-10 {
		t.Errorf("cut to %d bytes, %d tokens", len(short), EstimateTokens(short))
	}
	texts := slices.Repeat([]string{short}, 60)
	if n := batch(texts); n*EstimateTokens(short) > maxBatchTokens || n < 20 {
		t.Errorf("batch of %d texts", n)
	}
	c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > 60_000 {
			t.Errorf("%d bytes were sent", r.ContentLength)
		}
		floats(w, r)
	}).URL, nil)
	if _, err := c.Embed(t.Context(), []string{long}); err != nil {
		t.Error(err)
	}
	if n := batch([]string{strings.Repeat("\u8a9e", maxBatchTokens+1), "a"}); n != 1 {
		t.Errorf("a text that is too long alone makes a batch of %d", n)
	}
}

func TestEmbeddingName(t *testing.T) {
	t.Parallel()
	if name := newClient(t, "http://model.invalid", nil).EmbeddingName(); name != "test-embedding/3" {
		t.Errorf("name = %q", name)
	}
}

// TestEstimateTokens compares with what OpenAI's o200k tokenizer counts.
func TestEstimateTokens(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]int{
		"": {0, 0},
		"The quick brown fox jumps over the lazy dog.":     {9, 13}, // 10
		`{"query":"whales","limit":5}`:                     {8, 20}, // 9
		"\u543e\u8f29\u306f\u732b\u3067\u3042\u308b\u3002": {4, 10},
	} {
		if n := EstimateTokens(text); n < want[0] || n > want[1] {
			t.Errorf("%q has %d tokens, want %v", text, n, want)
		}
	}
}

func FuzzBeginning(f *testing.F) {
	f.Add("wörter", 2)
	f.Add("\xff\xfe", 1)
	f.Fuzz(func(t *testing.T, text string, tokens int) {
		if tokens < 0 {
			return
		}
		short := beginning(text, tokens)
		if !strings.HasPrefix(text, short) || EstimateTokens(short) > max(tokens, len(text)) || utf8.ValidString(text) && !utf8.ValidString(short) {
			t.Errorf("%q of %q", short, text)
		}
	})
}
