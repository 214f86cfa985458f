package gateway_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"bookworm/api"
	"bookworm/api/gateway"
	"bookworm/api/gateway/openapi"
)

var update = flag.Bool("update", false, "write the OpenAPI document anew")

// describe makes the OpenAPI document of every public REST route.
func describe(t *testing.T) []byte {
	t.Helper()
	const contracts = "../proto"
	var files []string
	for _, o := range gateway.Operations() {
		files = append(files, o.Method.ParentFile().Path())
	}
	comments, err := openapi.ReadComments(t.Context(), []string{contracts, "../../third_party"}, append(files, "bookworm/type/v1/money.proto"))
	if err != nil {
		t.Fatal(err)
	}
	source := openapi.Source{
		Operations: gateway.Operations(), Comments: comments, Status: gateway.StatusOf,
		Description: string(read(t, "openapi/description.md")), Examples: make(map[string]openapi.Example),
	}
	examples, err := filepath.Glob("openapi/examples/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range examples {
		var example openapi.Example
		if err := json.Unmarshal(read(t, file), &example); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		source.Examples[strings.TrimSuffix(filepath.Base(file), ".json")] = example
	}
	document, err := openapi.Document(source)
	if err != nil {
		t.Fatal(err)
	}
	return document
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestOpenAPIDocumentIsCurrent(t *testing.T) {
	t.Parallel()
	made := describe(t)
	if *update {
		if err := os.WriteFile(filepath.Join("..", "openapi.json"), made, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(made, api.OpenAPI) {
		t.Error("api/openapi.json is not what the contracts say: run make update-docs")
	}
}

// contract is the OpenAPI document as a client reads it.
type contract struct {
	*jsonschema.Compiler

	document any
}

const documentURL = "https://bookworm.example/api/openapi.json"

// readContract reads the document. Strict: an answer may have no field that its
// schema does not name, so that none is forgotten there.
func readContract(t *testing.T) *contract {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(api.OpenAPI))
	if err != nil {
		t.Fatal(err)
	}
	c := &contract{jsonschema.NewCompiler(), document}
	for _, schema := range c.at(t, "components", "schemas").(map[string]any) {
		object := schema.(map[string]any)
		if _, open := object["additionalProperties"]; object["properties"] != nil && !open {
			object["additionalProperties"] = false
		}
	}
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	c.AssertContent()
	if err := c.AddResource(documentURL, document); err != nil {
		t.Fatal(err)
	}
	return c
}

// at returns a part of the document, following a reference there.
func (c *contract) at(t *testing.T, path ...string) any {
	t.Helper()
	part := c.document
	for _, name := range path {
		object, ok := part.(map[string]any)
		if !ok || object[name] == nil {
			t.Fatalf("the document has no %s", strings.Join(path, " "))
		}
		part = object[name]
		if object, ok = part.(map[string]any); ok {
			if to, ok := object["$ref"].(string); ok && name != "schema" {
				part = c.at(t, strings.Split(strings.TrimPrefix(to, "#/"), "/")...)
			}
		}
	}
	return part
}

// check validates a value against the schema at a place of the document.
func (c *contract) check(t *testing.T, value any, path ...string) error {
	t.Helper()
	c.at(t, path[:len(path)-1]...)
	for i, name := range path {
		path[i] = strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
	}
	schema, err := c.Compile(documentURL + "#/" + strings.Join(path, "/"))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(value)
}

func TestOpenAPIDocumentIsOpenAPI(t *testing.T) {
	t.Parallel()
	meta, err := jsonschema.UnmarshalJSON(bytes.NewReader(read(t, "testdata/openapi-3.1.json")))
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(api.OpenAPI))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("openapi-3.1.json", meta); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("openapi-3.1.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(document); err != nil {
		t.Error(err)
	}
	document.(map[string]any)["info"].(map[string]any)["version"] = 1
	if schema.Validate(document) == nil {
		t.Error("the check lets everything through")
	}
}

func TestOpenAPIHasEveryRoute(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	described := 0
	for _, path := range c.document.(map[string]any)["paths"].(map[string]any) {
		described += len(path.(map[string]any))
	}
	routes := gateway.Operations()
	if described != len(routes) {
		t.Errorf("the document has %d operations, the gateway %d routes", described, len(routes))
	}
	for _, route := range routes {
		c.at(t, "paths", route.Path, strings.ToLower(route.Verb))
	}
	for _, name := range slices.Sorted(maps.Keys(c.at(t, "components", "schemas").(map[string]any))) {
		if _, err := c.Compile(documentURL + "#/components/schemas/" + name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every example must be one of what it is an example of.
func TestOpenAPIExamplesAreValid(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	checked := 0
	for path, operations := range c.document.(map[string]any)["paths"].(map[string]any) {
		for verb, operation := range operations.(map[string]any) {
			at := []string{"paths", path, verb}
			if operation.(map[string]any)["requestBody"] != nil {
				checked += c.checkExamples(t, append(at, "requestBody", "content", "application/json"))
			}
			for status, response := range operation.(map[string]any)["responses"].(map[string]any) {
				if response.(map[string]any)["$ref"] != nil {
					continue
				}
				content, _ := response.(map[string]any)["content"].(map[string]any)
				for kind := range content {
					checked += c.checkExamples(t, append(at, "responses", status, "content", kind))
				}
			}
		}
	}
	for name := range c.at(t, "components", "responses").(map[string]any) {
		checked += c.checkExamples(t, []string{"components", "responses", name, "content", "application/problem+json"})
	}
	if checked < 100 {
		t.Errorf("only %d examples", checked)
	}
}

func (c *contract) checkExamples(t *testing.T, at []string) int {
	t.Helper()
	media := c.at(t, at...).(map[string]any)
	var values []any
	if value, ok := media["example"]; ok && at[len(at)-1] == "text/event-stream" {
		for _, event := range eventsOf(t, value.(string)) {
			values = append(values, event)
		}
	} else if ok {
		values = append(values, value)
	}
	examples, _ := media["examples"].(map[string]any)
	for reason := range examples {
		values = append(values, c.at(t, "components", "examples", reason, "value"))
	}
	for _, value := range values {
		if err := c.check(t, value, append(slices.Clone(at), "schema")...); err != nil {
			t.Errorf("the example of %v: %v", at, err)
		}
	}
	return len(values)
}

// eventsOf reads server-sent events as the document describes them.
func eventsOf(t *testing.T, stream string) []map[string]any {
	t.Helper()
	var events []map[string]any
	for block := range strings.SplitSeq(strings.TrimSpace(stream), "\n\n") {
		event := make(map[string]any)
		for line := range strings.SplitSeq(block, "\n") {
			if name, value, ok := strings.Cut(line, ": "); ok && name != "" {
				event[name] = value
			}
		}
		if len(event) > 0 {
			events = append(events, event)
		}
	}
	return events
}

// conform checks what was asked and answered against the document: the status, the
// headers that must be there, and both bodies.
func (c *contract) conform(t *testing.T, verb, path, sent string, got answer) {
	t.Helper()
	at := []string{"paths", path, strings.ToLower(verb)}
	if sent != "" && got.status < http.StatusBadRequest {
		if err := c.check(t, decoded(t, sent), append(slices.Clone(at), "requestBody", "content", "application/json", "schema")...); err != nil {
			t.Errorf("%s %s: a request that was taken does not fit: %v", verb, path, err)
		}
	}
	response := append(slices.Clone(at), "responses", strconv.Itoa(got.status))
	if to, shared := c.document.(map[string]any)["paths"].(map[string]any)[path].(map[string]any)[strings.ToLower(verb)].(map[string]any)["responses"].(map[string]any)[strconv.Itoa(got.status)].(map[string]any)["$ref"].(string); shared {
		response = strings.Split(strings.TrimPrefix(to, "#/"), "/")
	}
	headers, _ := c.at(t, response...).(map[string]any)["headers"].(map[string]any)
	for name := range headers {
		described := c.at(t, append(slices.Clone(response), "headers", name)...).(map[string]any)
		if described["required"] == true && got.header.Get(name) == "" {
			t.Errorf("%s %s: %d without %s", verb, path, got.status, name)
		}
	}
	if got.status == http.StatusNotModified {
		return
	}
	kind, _, _ := strings.Cut(got.header.Get("Content-Type"), ";")
	values := []any{}
	if kind == "text/event-stream" {
		for _, event := range eventsOf(t, got.body) {
			values = append(values, event)
		}
	} else {
		values = append(values, decoded(t, got.body))
	}
	for _, value := range values {
		if err := c.check(t, value, append(slices.Clone(response), "content", kind, "schema")...); err != nil {
			t.Errorf("%s %s answered %d: %v", verb, path, got.status, err)
		}
	}
}

func decoded(t *testing.T, text string) any {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return value
}

func TestAnswersAreAsTheDocumentSays(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := readContract(t)
	alice, ops := b.as("alice", "customer"), b.as("ops", "admin")
	key := append(slices.Clone(alice), "Idempotency-Key", "k1")
	for _, test := range []struct {
		verb, path, query, body string
		headers                 []string
		status                  int
	}{
		{"GET", "/api/v1/books/{id}", "", "", nil, 200},
		{"GET", "/api/v1/books/{id}", "", "", []string{"If-None-Match", `"v7"`}, 304},
		{"GET", "/api/v1/books/{id}", "?zoom=1", "", nil, 400},
		{"GET", "/api/v1/books", "?page_size=5&sort=PRICE_ASC", "", nil, 200},
		{"GET", "/api/v1/books", "?page_size=500", "", nil, 400},
		{"GET", "/api/v1/basket", "", "", alice, 200},
		{"GET", "/api/v1/basket", "", "", nil, 401},
		{"GET", "/api/v1/basket", "", "", ops, 403},
		{"PUT", "/api/v1/basket/items/{book_id}", "", `{"quantity":2,"etag":"v3"}`, alice, 200},
		{"PUT", "/api/v1/basket/items/{book_id}", "", `{"quantity":"many"}`, alice, 400},
		{"POST", "/api/v1/orders", "", order, key, 200},
		{"POST", "/api/v1/orders", "", order, alice, 400},
		{"POST", "/api/v1/orders", "", `{"payment_method":"` + strings.Repeat("x", 1<<20) + `"}`, key, 413},
		{"POST", "/api/v1/orders", "", order, append(slices.Clone(key), "Content-Type", "text/plain"), 415},
		{"PATCH", "/api/v1/preferences", "?update_mask=order_emails", `{"order_emails":true}`, alice, 200},
		{"POST", "/api/v1/chat/messages", "", `{"text":"Hello"}`, key, 200},
		{"GET", "/api/v1/chat/turns/{turn_id}/events", "", "", append(slices.Clone(alice), "Last-Event-ID", "1"), 200},
	} {
		got := b.send(t, test.verb, strings.NewReplacer("{id}", aBook, "{book_id}", aBook, "{turn_id}", aTurn).Replace(test.path)+test.query, test.body, test.headers...)
		if got.status != test.status {
			t.Errorf("%s %s: got %d %s, want %d", test.verb, test.path, got.status, got.body, test.status)
			continue
		}
		c.conform(t, test.verb, test.path, test.body, got)
	}
}
