package chat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"bookworm/internal/fault"
	"bookworm/internal/llm"
)

// Tool is something that the bookseller can look up, or propose.
type Tool struct {
	Name, Description string
	// Parameters is the JSON schema of the arguments, an object.
	Parameters json.RawMessage
	// Doing says what a call does, for people, for example "Searching the catalogue".
	Doing string
	// Run makes a call. Its context is the one of the shopper's message: it carries
	// the caller and the caller's credential, and no other may be used. The arguments
	// fit Parameters but come from the model: they are as good as a stranger's. A
	// fault's message is told to the model.
	Run func(ctx context.Context, arguments json.RawMessage) (Found, error)
}

// The tools that also answer when the model cannot: SearchBooks with a "query",
// StorePolicy with a "question", MyOrders with nothing.
const (
	SearchBooks = "search_books"
	StorePolicy = "store_policy"
	MyOrders    = "my_orders"
)

// Found is what a call has found.
type Found struct {
	Results []Result
	Note    string // for the model
	Summary string // for people, for example "5 books"
	// Proposal is what the shopper is asked to confirm.
	Proposal *Proposal
}

// Proposal is something that happens only if the shopper confirms it: putting
// copies of a book into the basket.
type Proposal struct {
	BookID   uuid.UUID
	Quantity int32
	Text     string // for people
}

// Kind says what a result is.
type Kind string

// The kinds of results.
const (
	KindBook   Kind = "book"
	KindReview Kind = "review"
	KindOrder  Kind = "order"
	KindPolicy Kind = "policy"
)

// Result is one thing that was found.
type Result struct {
	Kind  Kind
	ID    string
	Title string
	// Text is prose about it. That of books and reviews was written by strangers.
	Text string
	// Fields are the shop's own records of it: strings, numbers, booleans and lists of
	// strings. Amounts of money are text such as "USD 12.99".
	Fields map[string]any
	// Card is shown when the answer cites the result.
	Card *Card

	ref    int // its number in the turn, from 1
	callID string
	proof  *evidence
}

// Available is the field that says how many copies of a book can be ordered.
const Available = "available_quantity"

// maxResultText bounds one result's text, in characters.
const maxResultText = 700

// clean makes a result fit to be read by a model: what strangers wrote loses
// everything that could pass for something else than text.
func (r *Result) clean() {
	r.Title = beginning(inert(strings.ReplaceAll(r.Title, "\n", " ")), 300)
	r.Text = beginning(inert(r.Text), maxResultText)
	for name, value := range r.Fields {
		switch v := value.(type) {
		case string:
			r.Fields[name] = inert(v)
		case []string:
			cleaned := make([]string, len(v))
			for i := range v {
				cleaned[i] = inert(v[i])
			}
			r.Fields[name] = cleaned
		}
	}
}

func beginning(text string, limit int) string {
	if runes := []rune(text); len(runes) > limit {
		return string(runes[:limit]) + "…"
	}
	return text
}

// MarshalJSON writes a result as the model reads it.
func (r *Result) MarshalJSON() ([]byte, error) {
	flat := map[string]any{"ref": r.ref, "kind": r.Kind, "id": r.ID, "title": r.Title, "text": r.Text}
	for name, value := range r.Fields {
		if _, taken := flat[name]; !taken {
			flat[name] = value
		}
	}
	return json.Marshal(flat)
}

// toolMessage is what the model gets as the answer to a call.
type toolMessage struct {
	CallID  string    `json:"call_id"`
	Results []*Result `json:"results"`
	Note    string    `json:"note,omitempty"`
}

// toolbox is the tools that are offered.
type toolbox struct {
	offered []llm.Tool
	tools   map[string]checkedTool
}

type checkedTool struct {
	Tool

	schema *jsonschema.Schema
}

func newToolbox(tools []Tool) (*toolbox, error) {
	box := &toolbox{tools: make(map[string]checkedTool)}
	for _, tool := range tools {
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(tool.Parameters))
		if err != nil {
			return nil, fmt.Errorf("tool %s: read its schema: %w", tool.Name, err)
		}
		compiler := jsonschema.NewCompiler()
		address := "tool:" + tool.Name
		if err := compiler.AddResource(address, document); err != nil {
			return nil, fmt.Errorf("tool %s: read its schema: %w", tool.Name, err)
		}
		schema, err := compiler.Compile(address)
		if err != nil {
			return nil, fmt.Errorf("tool %s: compile its schema: %w", tool.Name, err)
		}
		if _, twice := box.tools[tool.Name]; twice {
			return nil, fmt.Errorf("two tools are named %s", tool.Name)
		}
		box.tools[tool.Name] = checkedTool{tool, schema}
		box.offered = append(box.offered, llm.Tool{Name: tool.Name, Description: tool.Description, Parameters: tool.Parameters})
	}
	return box, nil
}

// maxArguments bounds the arguments of a call, in bytes.
const maxArguments = 4096

// find returns the tool that the model asks for, if it is offered and its
// arguments are what it takes. The error is for the model to read.
func (b *toolbox) find(call llm.ToolCall) (checkedTool, error) {
	tool, ok := b.tools[call.Name]
	if !ok {
		return checkedTool{}, fmt.Errorf("there is no tool of this name; use %s", b.names())
	}
	if len(call.Arguments) > maxArguments {
		return checkedTool{}, fmt.Errorf("the arguments are longer than %d bytes", maxArguments)
	}
	arguments, err := jsonschema.UnmarshalJSON(strings.NewReader(call.Arguments))
	if err != nil {
		return checkedTool{}, errors.New("the arguments are not valid JSON")
	}
	if err := tool.schema.Validate(arguments); err != nil {
		return checkedTool{}, fmt.Errorf("the arguments do not fit: %s", beginning(strings.Join(strings.Fields(err.Error()), " "), 300))
	}
	return tool, nil
}

func (b *toolbox) names() string {
	names := make([]string, len(b.offered))
	for i, tool := range b.offered {
		names[i] = tool.Name
	}
	return strings.Join(names, ", ")
}

// toldModel is what the model learns of a call that failed.
func toldModel(err error) string {
	if f := fault.As(err); f != nil && f.Kind() != fault.Internal && f.Message != "" {
		return f.Message
	}
	return "The look-up failed."
}
