package gateway_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
