package llm

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const verdictSchema = `{
	"type": "object", "additionalProperties": false, "required": ["verdict", "reason"],
	"properties": {"verdict": {"enum": ["publish", "reject"]}, "reason": {"type": "string", "maxLength": 20}}
}`

type verdict struct{ Verdict, Reason string }

func TestJSON(t *testing.T) {
	t.Parallel()
	const good = `{"verdict":"publish","reason":"kind"}`
	for name, test := range map[string]struct {
		answers []string
		want    error
		told    string // what the model hears of its first answer
	}{
		"valid":            {answers: []string{good}},
		"no JSON":          {answers: []string{"Sure! Here you are", good}, told: "no JSON"},
		"cut off":          {answers: []string{`{"verdict":"publi`, good}, told: "no JSON"},
		"trailing words":   {answers: []string{good + " Anything else?", good}, told: "no JSON"},
		"not in the enum":  {answers: []string{`{"verdict":"maybe","reason":"x"}`, good}, told: "/verdict"},
		"missing property": {answers: []string{`{"verdict":"publish"}`, good}, told: "reason"},
		"more properties":  {answers: []string{`{"verdict":"publish","reason":"x","admin":true}`, good}, told: "admin"},
		"too long":         {answers: []string{`{"verdict":"publish","reason":"` + secret + `"}`, good}, told: "/reason"},
		"nothing":          {answers: []string{"", good}, told: "no JSON"},
		"never valid":      {answers: []string{"{", `{"verdict":"` + secret + `","reason":"x"}`}, want: ErrInvalidAnswer, told: "no JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				var request struct {
					Messages []struct {
						Role    string  `json:"role"`
						Content *string `json:"content"`
					} `json:"messages"`
					Format struct {
						Type   string `json:"type"`
						Schema struct {
							Name   string          `json:"name"`
							Strict bool            `json:"strict"`
							Schema json.RawMessage `json:"schema"`
						} `json:"json_schema"`
					} `json:"response_format"`
				}
				if err := json.Unmarshal(body, &request); err != nil {
					t.Error(err)
				}
				if f := request.Format; f.Type != "json_schema" || f.Schema.Name != "verdict" || !f.Schema.Strict || !strings.Contains(string(f.Schema.Schema), "publish") {
					t.Errorf("format = %+v", f)
				}
				if calls == 1 {
					if n := len(request.Messages); n != 3 || request.Messages[1].Role != "assistant" || request.Messages[1].Content == nil || !strings.Contains(*request.Messages[2].Content, test.told) {
						t.Errorf("repair is asked for with %s", body)
					}
				}
				calls++
				say(test.answers[calls-1])(w, r)
			}).URL, nil)
			var out verdict
			usage, err := c.JSON(t.Context(), question("Review?"), "verdict", json.RawMessage(verdictSchema), &out)
			if !errors.Is(err, test.want) || calls != len(test.answers) {
				t.Fatalf("after %d calls: %v", calls, err)
			}
			if want := (Usage{Input: int64(7 * calls), Output: int64(2 * calls)}); usage != want {
				t.Errorf("usage = %v, want %v", usage, want)
			}
			switch {
			case err == nil && out != verdict{"publish", "kind"}, err != nil && out != verdict{}:
				t.Errorf("answer = %+v with error %v", out, err)
			case err != nil && strings.Contains(err.Error(), secret):
				t.Errorf("the error repeats the answer: %v", err)
			}
		})
	}
}

func TestJSONWithoutStrictness(t *testing.T) {
	t.Parallel()
	c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err != nil || !strings.Contains(string(body), `"strict":false`) {
			t.Errorf("%s %v", body, err)
		}
		say(`{"a":1}`)(w, r)
	}).URL, nil)
	var out map[string]int
	if _, err := c.JSON(t.Context(), question("?"), "loose", json.RawMessage(`{"type":"object"}`), &out); err != nil || out["a"] != 1 {
		t.Errorf("%v %v", out, err)
	}
}

func TestJSONRefusesABrokenSchema(t *testing.T) {
	t.Parallel()
	c := newClient(t, "http://model.invalid", nil)
	elsewhere := filepath.Join(t.TempDir(), "schema.json")
	if err := os.WriteFile(elsewhere, []byte(`{"type":"object"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, schema := range []string{`{"$ref":"file://` + elsewhere + `"}`, "", "{", `{"type":"nope"}`, `{"$ref":"http://elsewhere.example/schema"}`} {
		if _, err := c.JSON(t.Context(), question("?"), "x", json.RawMessage(schema), new(any)); err == nil || !strings.Contains(err.Error(), "schema") {
			t.Errorf("%s: %v", schema, err)
		}
	}
}
