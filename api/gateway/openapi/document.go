// Package openapi makes the OpenAPI 3.1 document of the shop's REST API from its
// contracts: routes, limits, access rules, and what the comments say. It runs when
// the document is made, not in the shop, which serves the result.
package openapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
	"google.golang.org/protobuf/reflect/protoreflect"

	"bookworm/internal/fault"
)

// Operation is one way into a procedure over REST.
type Operation struct {
	Method protoreflect.MethodDescriptor
	Verb   string // HTTP method
	Path   string // "/api/v1/books/{id}"
	Body   string // "*", the name of a field, or "" for a request without body
}

// Source is what a document is made from.
type Source struct {
	Operations []Operation
	Comments   Comments
	// Status returns the HTTP status in which the gateway gives a reason.
	Status func(fault.Reason) int
	// Description says what the document cannot say of single operations; CommonMark.
	Description string
	// Examples are real bodies, by the name of the procedure.
	Examples map[string]Example
}

// Example is what one call of a procedure asked and was answered. A body that is
// not JSON is a JSON string.
type Example struct {
	Request  json.RawMessage `json:"request,omitempty"`
	Response json.RawMessage `json:"response"`
}

// Document returns the document as indented JSON. It is the same for the same
// source.
func Document(source Source) ([]byte, error) {
	m := &maker{
		Source:  source,
		schemas: &schemas{source.Comments, make(map[string]*jsonschema.Schema), make(map[string]protoreflect.FullName)},
	}
	slices.SortFunc(m.Operations, func(a, b Operation) int {
		return strings.Compare(string(a.Method.FullName()), string(b.Method.FullName()))
	})
	made := document{
		OpenAPI: "3.1.0",
		Info:    info{Title: "BookWorm", Version: "1", Summary: "The public REST API of the BookWorm bookshop.", Description: m.Description},
		Servers: []server{{URL: "/", Description: "The gateway that serves this document."}},
		Paths:   make(map[string]map[string]*operation),
	}
	if err := m.writtenFirst(); err != nil {
		return nil, err
	}
	named := make(map[string]bool)
	for _, o := range m.Operations {
		described, err := m.operation(o)
		if err != nil {
			return nil, fmt.Errorf("describe %s: %w", o.Method.FullName(), err)
		}
		if named[described.ID] {
			return nil, fmt.Errorf("two procedures have the name %s", described.ID)
		}
		named[described.ID] = true
		if made.Paths[o.Path] == nil {
			made.Paths[o.Path] = make(map[string]*operation)
		}
		made.Paths[o.Path][strings.ToLower(o.Verb)] = described
		if service := tagOf(o.Method); !slices.ContainsFunc(made.Tags, func(t tag) bool { return t.Name == service }) {
			made.Tags = append(made.Tags, tag{service, m.Comments[o.Method.Parent().FullName()]})
		}
	}
	made.Components = m.components()
	out, err := json.MarshalIndent(made, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the document: %w", err)
	}
	return append(out, '\n'), nil
}

// maker holds a document in the making.
type maker struct {
	Source
	schemas *schemas
}

// writtenFirst makes the schemas of all answers, before those of the requests.
func (m *maker) writtenFirst() error {
	for _, o := range m.Operations {
		if _, err := m.answer(o); err != nil {
			return fmt.Errorf("describe the answer of %s: %w", o.Method.FullName(), err)
		}
	}
	return nil
}

func (m *maker) components() components {
	c := components{
		Schemas: maps.Clone(m.schemas.components), Headers: headers, Responses: make(map[string]*response), Examples: make(map[string]*instance),
		SecuritySchemes: map[string]security{bearer: {
			Type: "http", Scheme: "bearer", BearerFormat: "JWT",
			Description: "An access token of the shop's identity provider.",
		}},
	}
	c.Schemas["Problem"] = problemSchema()
	for reason := range fault.Reasons {
		c.Examples[string(reason)] = m.problem(reason)
	}
	for status, shared := range m.shared() {
		c.Responses[shared.name] = m.refusal(status, shared.reasons)
	}
	return c
}

// problemSchema is the schema of every error: RFC 9457 with the shop's reason.
func problemSchema() *jsonschema.Schema {
	reasons := make([]any, 0, len(fault.Reasons))
	for _, reason := range slices.Sorted(maps.Keys(fault.Reasons)) {
		reasons = append(reasons, string(reason))
	}
	say := func(description string) *jsonschema.Schema {
		return &jsonschema.Schema{Type: "string", Description: description}
	}
	problemType := say("The kind of problem; its last part is the reason in lower case.")
	problemType.Format = "uri"
	reason := say("A stable word to branch on. It is never renamed and never changes its status.")
	reason.Enum = reasons
	return &jsonschema.Schema{
		Type: "object", Description: "An error, as RFC 9457 says.",
		Required: []string{"type", "title", "status", "detail", "reason"},
		Properties: map[string]*jsonschema.Schema{
			"type":     problemType,
			"title":    say("The kind of problem in a sentence, the same for every occurrence."),
			"status":   {Type: "integer", Description: "The HTTP status, once more.", Minimum: new(400.0), Maximum: new(599.0)},
			"detail":   say("What happened here, for people."),
			"reason":   reason,
			"trace_id": say("The id under which the shop finds this request in its logs and traces; X-Request-Id says the same."),
			"errors": {
				Type: "array", Description: "The fields of the request that are not valid.",
				Items: &jsonschema.Schema{
					Type: "object", Required: []string{"field", "message"},
					Properties: map[string]*jsonschema.Schema{
						"field":   say("Path of the field in the request, or name of the header or parameter."),
						"message": say("What is wrong with it."),
					},
					PropertyOrder: []string{"field", "message"},
				},
			},
			"metadata": {
				Type: "object", Description: "What a program may want to know of the occurrence, such as the id of a book.",
				AdditionalProperties: &jsonschema.Schema{Type: "string"},
			},
		},
		PropertyOrder: []string{"type", "title", "status", "detail", "reason", "trace_id", "errors", "metadata"},
	}
}

// bearer is the name of the one security scheme.
const bearer = "bearer"

// What follows is the part of OpenAPI 3.1 that the document uses, by its own names.
type (
	document struct {
		OpenAPI    string                           `json:"openapi"`
		Info       info                             `json:"info"`
		Servers    []server                         `json:"servers"`
		Tags       []tag                            `json:"tags"`
		Paths      map[string]map[string]*operation `json:"paths"`
		Components components                       `json:"components"`
	}
	info struct {
		Title       string `json:"title"`
		Summary     string `json:"summary"`
		Description string `json:"description"`
		Version     string `json:"version"`
	}
	server struct {
		URL         string `json:"url"`
		Description string `json:"description"`
	}
	tag struct {
		Name        string `json:"name"`
		Description string `json:"description"`
	}
	operation struct {
		Tags        []string              `json:"tags"`
		ID          string                `json:"operationId"`
		Summary     string                `json:"summary"`
		Description string                `json:"description"`
		Parameters  []parameter           `json:"parameters,omitempty"`
		RequestBody *requestBody          `json:"requestBody,omitempty"`
		Responses   map[string]*response  `json:"responses"`
		Security    []map[string][]string `json:"security"`
		Procedure   string                `json:"x-bookworm-procedure"`
		Access      access                `json:"x-bookworm-access"`
	}
	access struct {
		Roles     []string `json:"roles"`
		Ownership string   `json:"ownership,omitempty"`
		Limit     string   `json:"limit"`
	}
	parameter struct {
		Name        string             `json:"name"`
		In          string             `json:"in"`
		Description string             `json:"description"`
		Required    bool               `json:"required,omitempty"`
		Schema      *jsonschema.Schema `json:"schema"`
	}
	requestBody struct {
		Required bool             `json:"required"`
		Content  map[string]media `json:"content"`
	}
	media struct {
		Schema   *jsonschema.Schema   `json:"schema"`
		Example  json.RawMessage      `json:"example,omitempty"`
		Examples map[string]*instance `json:"examples,omitempty"`
	}
	response struct {
		Ref         string            `json:"$ref,omitempty"`
		Description string            `json:"description,omitempty"`
		Headers     map[string]header `json:"headers,omitempty"`
		Content     map[string]media  `json:"content,omitempty"`
	}
	header struct {
		Ref         string             `json:"$ref,omitempty"`
		Description string             `json:"description,omitempty"`
		Required    bool               `json:"required,omitempty"`
		Schema      *jsonschema.Schema `json:"schema,omitempty"`
	}
	instance struct {
		Ref     string `json:"$ref,omitempty"`
		Summary string `json:"summary,omitempty"`
		Value   any    `json:"value,omitempty"`
	}
	security struct {
		Type         string `json:"type"`
		Scheme       string `json:"scheme"`
		BearerFormat string `json:"bearerFormat"`
		Description  string `json:"description"`
	}
	components struct {
		Schemas         map[string]*jsonschema.Schema `json:"schemas"`
		Responses       map[string]*response          `json:"responses"`
		Headers         map[string]header             `json:"headers"`
		Examples        map[string]*instance          `json:"examples"`
		SecuritySchemes map[string]security           `json:"securitySchemes"`
	}
)
