package openapi

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
)

const (
	asJSON    = "application/json"
	asProblem = "application/problem+json"
	asEvents  = "text/event-stream"
)

func (m *maker) operation(o Operation) (*operation, error) {
	comment := m.Comments[o.Method.FullName()]
	if comment == "" {
		return nil, fmt.Errorf("nothing is said of %s; are the comments those of the contracts?", o.Method.FullName())
	}
	described := &operation{
		Tags: []string{tagOf(o.Method)}, ID: string(o.Method.Name()), Summary: sentence(comment, o.Method.Name()),
		Procedure: "/" + string(o.Method.Parent().FullName()) + "/" + string(o.Method.Name()),
		Access:    accessOf(o.Method), Security: []map[string][]string{},
	}
	described.Description = strings.Join([]string{comment, described.Access.words()}, "\n\n")
	if !described.Access.anonymous() {
		described.Security = append(described.Security, map[string][]string{bearer: {}})
	}
	var err error
	if described.Parameters, err = m.parameters(o); err != nil {
		return nil, err
	}
	if described.RequestBody, err = m.requestBody(o); err != nil {
		return nil, err
	}
	described.Responses, err = m.responses(o, described.Access)
	return described, err
}

// tagOf returns the heading of a procedure: the words of its service's name.
func tagOf(method protoreflect.MethodDescriptor) string {
	name := strings.TrimSuffix(string(method.Parent().Name()), "Service")
	return regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(name, "$1 $2")
}

// accessOf reads the rule of a procedure.
func accessOf(method protoreflect.MethodDescriptor) access {
	rule, _ := proto.GetExtension(method.Options(), accessv1.E_Rule).(*accessv1.Rule)
	var is access
	for _, role := range rule.GetRoles() {
		is.Roles = append(is.Roles, word(role.String(), "ROLE_"))
	}
	switch rule.GetOwnership() {
	case accessv1.Ownership_OWNERSHIP_CALLER, accessv1.Ownership_OWNERSHIP_CALLER_OR_STAFF:
		is.Ownership = word(rule.GetOwnership().String(), "OWNERSHIP_")
	case accessv1.Ownership_OWNERSHIP_UNSPECIFIED:
	}
	limit := rule.GetLimit()
	if limit == accessv1.Limit_LIMIT_UNSPECIFIED {
		limit = accessv1.Limit_LIMIT_WRITE
		if withoutEffects(method) {
			limit = accessv1.Limit_LIMIT_BROWSE
		}
	}
	is.Limit = word(limit.String(), "LIMIT_")
	return is
}

func withoutEffects(method protoreflect.MethodDescriptor) bool {
	options, _ := method.Options().(*descriptorpb.MethodOptions)
	return options.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
}

func word(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

func (a access) anonymous() bool { return slices.Contains(a.Roles, "anonymous") }

// words says the rule for people.
func (a access) words() string {
	who := "Anybody may call it, without a token."
	if !a.anonymous() {
		who = "It needs a token with the role " + strings.Join(a.Roles, " or ") + "."
	}
	switch a.Ownership {
	case "caller":
		who += " It reaches only what is the caller's own; anything else looks as if it did not exist."
	case "caller_or_staff":
		who += " A customer reaches only what is their own, and anything else looks as if it did not exist; staff reaches everybody's."
	}
	return who + " It counts as `" + a.Limit + "` against the caller's limits."
}

var variables = regexp.MustCompile(`\{(\w+)\}`)

// parameters are those of the path, the query, and the headers that matter.
func (m *maker) parameters(o Operation) ([]parameter, error) {
	var all []parameter
	add := func(field protoreflect.FieldDescriptor, in string) error {
		schema, required, err := m.schemas.readField(field)
		if err != nil {
			return err
		}
		description := schema.Description
		schema.Description = ""
		// The translator takes the fields to change from the body where the mask is left out.
		masked := o.Verb == http.MethodPatch && o.Body != "*" && field.Message() != nil
		all = append(all, parameter{
			Name: string(field.Name()), In: in, Description: description, Schema: schema, Required: in == "path" || required && !masked,
		})
		return nil
	}
	fields := o.Method.Input().Fields()
	inPath := pathFields(o)
	for _, name := range inPath {
		if err := add(fields.ByName(protoreflect.Name(name)), "path"); err != nil {
			return nil, err
		}
	}
	for i := range fields.Len() {
		name := string(fields.Get(i).Name())
		if o.Body == "*" || name == o.Body || slices.Contains(inPath, name) {
			continue
		}
		if err := add(fields.Get(i), "query"); err != nil {
			return nil, err
		}
	}
	return append(all, m.headerParameters(o)...), nil
}

func pathFields(o Operation) []string {
	var names []string
	for _, found := range variables.FindAllStringSubmatch(o.Path, -1) {
		names = append(names, found[1])
	}
	return names
}

func (m *maker) headerParameters(o Operation) []parameter {
	var all []parameter
	if slices.Contains(m.named(o), fault.ReasonKeyMissing) {
		all = append(all, parameter{
			Name: "Idempotency-Key", In: "header", Required: true,
			Description: "A key of the caller's own, for example a UUID, bare or in double quotes. The same key with the same request has the same answer, " +
				"with Idempotent-Replayed: true; with another request it is an error. It belongs to the caller and this procedure. A refusal leaves it free.",
			Schema: &jsonschema.Schema{
				Type: "string", MinLength: new(1), MaxLength: new(255), Pattern: "^[!#-~][!-~]*$",
				Examples: []any{"b1d8a4f0-6a0a-4d7c-9f2f-2f6b1f0f9f33"},
			},
		})
	}
	if changesVersion(o) {
		all = append(all, parameter{
			Name: "If-Match", In: "header",
			Description: "The ETag of the version that is meant, or * for whichever there is. It says the same as the field etag. Another version is STALE_VERSION.",
			Schema:      &jsonschema.Schema{Type: "string"},
		})
	}
	if m.versioned(o) && o.Verb == http.MethodGet {
		all = append(all, parameter{
			Name: "If-None-Match", In: "header",
			Description: "ETags of versions that the caller has. If the answer would be one of them, it is 304 without a body.",
			Schema:      &jsonschema.Schema{Type: "string"},
		})
	}
	if resumed := o.Method.Input().Fields().ByName("after_sequence"); resumed != nil && o.Method.IsStreamingServer() {
		all = append(all, parameter{
			Name: "Last-Event-ID", In: "header",
			Description: "The id of the last event that was seen, as a browser's EventSource sends it by itself. It counts more than " + string(resumed.Name()) + ".",
			Schema:      &jsonschema.Schema{Type: "string", Pattern: "^[0-9]{0,19}$"},
		})
	}
	return all
}

// changesVersion reports whether an operation takes the version of what it changes:
// its request has an etag, or the part of it that is the body has.
func changesVersion(o Operation) bool {
	if o.Verb == http.MethodGet {
		return false
	}
	message := o.Method.Input()
	if field := message.Fields().ByName(protoreflect.Name(o.Body)); field != nil && field.Message() != nil {
		message = field.Message()
	}
	return message.Fields().ByName("etag") != nil
}

// versioned reports whether an answer has an ETag. The
// gateway gives every public answer one, and every other that is a thing with an
// etag of its own.
func (m *maker) versioned(o Operation) bool {
	if o.Method.IsStreamingServer() {
		return false
	}
	public := o.Verb == http.MethodGet && accessOf(o.Method).anonymous()
	message := o.Method.Output()
	if field := message.Fields().ByName(responseField(o.Method)); field != nil && field.Message() != nil {
		message = field.Message()
	}
	return public || message.Fields().ByName("etag") != nil
}

// responseField names the field of the answer that is the whole body, or "".
func responseField(method protoreflect.MethodDescriptor) protoreflect.Name {
	rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	return protoreflect.Name(rule.GetResponseBody())
}

func (m *maker) requestBody(o Operation) (*requestBody, error) {
	if o.Body == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	var schema *jsonschema.Schema
	var err error
	var required bool
	if o.Body == "*" {
		name := nameOf(o.Method.Input())
		if _, err := m.schemas.claim(name, o.Method.Input()); err != nil {
			return nil, err
		}
		if m.schemas.components[name], err = m.schemas.readExcept(o.Method.Input(), pathFields(o)...); err != nil {
			return nil, err
		}
		schema, required = reference(name), len(m.schemas.components[name].Required) > 0
	} else {
		field := o.Method.Input().Fields().ByName(protoreflect.Name(o.Body))
		if schema, required, err = m.schemas.readField(field); err != nil {
			return nil, err
		}
	}
	return &requestBody{Required: required, Content: map[string]media{asJSON: {Schema: schema, Example: m.Examples[string(o.Method.Name())].Request}}}, nil
}

// answer returns the schema of an operation's answer.
func (m *maker) answer(o Operation) (*jsonschema.Schema, error) {
	if field := o.Method.Output().Fields().ByName(responseField(o.Method)); field != nil {
		return m.schemas.field(field, m.schemas.written, m.schemas.writtenEnum)
	}
	if event := o.Method.Output().Fields().ByName("event"); o.Method.IsStreamingServer() && event != nil {
		return m.event(event.Message())
	}
	return m.schemas.written(o.Method.Output())
}

const conversation = "conversation_id"

// event returns the schema of one server-sent event whose data is a message with
// the conversation's id.
func (m *maker) event(message protoreflect.MessageDescriptor) (*jsonschema.Schema, error) {
	data, err := m.schemas.written(message)
	if err != nil {
		return nil, err
	}
	// On a stream the event says of which conversation it is.
	component := m.schemas.components[nameOf(message)]
	if component.Properties[conversation] == nil {
		component.Properties[conversation] = &jsonschema.Schema{Type: "string", Description: "The conversation's UUID."}
		component.PropertyOrder = append([]string{conversation}, component.PropertyOrder...)
		component.Required = append([]string{conversation}, component.Required...)
	}
	var kinds []any
	for i := range message.Oneofs().Len() {
		fields := message.Oneofs().Get(i).Fields()
		for j := range fields.Len() {
			kinds = append(kinds, string(fields.Get(j).Name()))
		}
	}
	return &jsonschema.Schema{
		Type: "object", Description: "One event.", Required: []string{"data"},
		Properties: map[string]*jsonschema.Schema{
			"id":    {Type: "string", Description: "The event's number; none on an error that broke the stream off.", Pattern: "^[0-9]+$"},
			"event": {Type: "string", Description: "Its kind.", Enum: kinds},
			"data":  {Type: "string", Description: "Its JSON.", ContentMediaType: asJSON, ContentSchema: data},
		},
		PropertyOrder: []string{"id", "event", "data"},
	}, nil
}

func (m *maker) responses(o Operation, access access) (map[string]*response, error) {
	success, err := m.success(o)
	if err != nil {
		return nil, err
	}
	all := map[string]*response{"200": success}
	if m.versioned(o) && o.Verb == http.MethodGet {
		all["304"] = &response{Description: "The caller has this version.", Headers: headersOf("ETag", "Cache-Control", "X-Request-Id")}
	}
	shared := m.shared()
	byStatus := make(map[int][]fault.Reason)
	for _, reason := range m.named(o) {
		status := m.Status(reason)
		byStatus[status] = append(byStatus[status], reason)
	}
	for status, other := range shared {
		switch {
		case status == http.StatusUnauthorized && access.anonymous():
			byStatus[status] = []fault.Reason{fault.ReasonTokenInvalid}
		case status == http.StatusForbidden && access.anonymous():
			byStatus[status] = []fault.Reason{fault.ReasonRequestBlocked}
		case status == http.StatusUnsupportedMediaType && o.Body == "", status == http.StatusRequestEntityTooLarge && o.Body == "":
		default:
			byStatus[status] = append(byStatus[status], other.reasons...)
		}
	}
	for status, reasons := range byStatus {
		slices.Sort(reasons)
		reasons = slices.Compact(reasons)
		code := strconv.Itoa(status)
		if known, ok := shared[status]; ok && slices.Equal(reasons, known.reasons) {
			all[code] = &response{Ref: "#/components/responses/" + known.name}
		} else {
			all[code] = m.refusal(status, reasons)
		}
	}
	return all, nil
}

func (m *maker) success(o Operation) (*response, error) {
	schema, err := m.answer(o)
	if err != nil {
		return nil, err
	}
	names := []string{"Cache-Control", "X-Request-Id", "RateLimit", "RateLimit-Policy"}
	if slices.Contains(m.named(o), fault.ReasonKeyMissing) {
		names = append(names, "Idempotent-Replayed")
	}
	if m.versioned(o) {
		names = append(names, "ETag")
	}
	body := media{Schema: schema, Example: m.Examples[string(o.Method.Name())].Response}
	kind, description := asJSON, m.Comments[o.Method.Output().FullName()]
	if field := o.Method.Output().Fields().ByName(responseField(o.Method)); field != nil {
		description = m.Comments[field.FullName()]
	}
	if o.Method.IsStreamingServer() {
		kind, description = asEvents, "The events, one by one as they happen, as server-sent events. `id` is the event's number, `event` its kind, "+
			"`data` its JSON. A comment every 15 seconds shows that the stream is alive."
	}
	return &response{Description: description, Headers: headersOf(names...), Content: map[string]media{kind: body}}, nil
}

var reasonWords = regexp.MustCompile(`\b[A-Z]+(?:_[A-Z]+)+\b`)

// named returns the reasons that a procedure's comment names after "Errors:".
func (m *maker) named(o Operation) []fault.Reason {
	var reasons []fault.Reason
	_, errors, _ := strings.Cut(m.Comments[o.Method.FullName()], "Errors:")
	for _, found := range reasonWords.FindAllString(errors, -1) {
		if _, known := fault.Reasons[fault.Reason(found)]; known {
			reasons = append(reasons, fault.Reason(found))
		}
	}
	return reasons
}

// sharedRefusal is an error that every call can get.
type sharedRefusal struct {
	name    string
	reasons []fault.Reason
}

// shared returns the errors that a call can get whatever it asks for, by status.
func (m *maker) shared() map[int]sharedRefusal {
	all := map[int]sharedRefusal{
		http.StatusUnsupportedMediaType: {"UnsupportedMediaType", []fault.Reason{fault.ReasonMalformedRequest}},
	}
	for name, reasons := range map[string][]fault.Reason{
		"BadRequest":          {fault.ReasonInvalidArgument, fault.ReasonMalformedRequest},
		"Unauthorized":        {fault.ReasonTokenInvalid, fault.ReasonTokenMissing},
		"Forbidden":           {fault.ReasonAccessDenied, fault.ReasonRequestBlocked},
		"TooLarge":            {fault.ReasonRequestTooLarge},
		"TooManyRequests":     {fault.ReasonRateLimited},
		"InternalServerError": {fault.ReasonInternal},
		"ServiceUnavailable":  {fault.ReasonOverloaded, fault.ReasonUnavailable},
	} {
		all[m.Status(reasons[0])] = sharedRefusal{name, reasons}
	}
	return all
}

// refusal is the answer in a status for certain reasons.
func (m *maker) refusal(status int, reasons []fault.Reason) *response {
	names := []string{"Cache-Control", "X-Request-Id", "RateLimit", "RateLimit-Policy"}
	switch status {
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		names = append(names, "Retry-After")
	case http.StatusUnauthorized:
		names = append(names, "WWW-Authenticate")
	}
	examples := make(map[string]*instance)
	words := make([]any, 0, len(reasons))
	titles := make([]string, 0, len(reasons))
	for _, reason := range reasons {
		words = append(words, string(reason))
		titles = append(titles, fmt.Sprintf("`%s`: %s", reason, fault.Reasons[reason].Title))
		if m.Status(reason) == status {
			examples[string(reason)] = &instance{Ref: "#/components/examples/" + string(reason)}
		}
	}
	schema := &jsonschema.Schema{AllOf: []*jsonschema.Schema{
		reference("Problem"),
		{Properties: map[string]*jsonschema.Schema{"reason": {Enum: words}, "status": {Const: new(any(status))}}},
	}}
	return &response{
		Description: http.StatusText(status) + ". " + strings.Join(titles, " "), Headers: headersOf(names...),
		Content: map[string]media{asProblem: {Schema: schema, Examples: examples}},
	}
}

// problem is the example of an error.
func (m *maker) problem(reason fault.Reason) *instance {
	title := fault.Reasons[reason].Title
	value := struct {
		Type    string       `json:"type"`
		Title   string       `json:"title"`
		Status  int          `json:"status"`
		Detail  string       `json:"detail"`
		Reason  fault.Reason `json:"reason"`
		TraceID string       `json:"trace_id"`
	}{
		"https://bookworm.example/problems/" + strings.ReplaceAll(strings.ToLower(string(reason)), "_", "-"),
		title, m.Status(reason), title, reason, "4bf92f3577b34da6a3ce929d0e0e4736",
	}
	return &instance{Summary: title, Value: value}
}

// headers are those of answers.
var headers = map[string]header{
	"Cache-Control":       {Description: "Who may keep the answer, and for how long.", Required: true, Schema: text("")},
	"ETag":                {Description: "Version of the answer; opaque.", Schema: text(`^"[^"]*"$`)},
	"Idempotent-Replayed": {Description: "true when the answer was given before, to the same key.", Schema: text("^true$")},
	"RateLimit":           {Description: "What is left of the limits that the call counts against, and the seconds until there is more.", Schema: text("")},
	"RateLimit-Policy":    {Description: "The limits that the call counts against, and their windows in seconds.", Schema: text("")},
	"Retry-After":         {Description: "Seconds to wait before trying again.", Required: true, Schema: text("^[0-9]+$")},
	"WWW-Authenticate":    {Description: "How to authenticate.", Required: true, Schema: text("")},
	"X-Request-Id":        {Description: "The trace id, under which the shop finds the request in its logs.", Required: true, Schema: text("^[0-9a-f]{32}$")},
}

func text(pattern string) *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: pattern}
}

func headersOf(names ...string) map[string]header {
	some := maps.Clone(headers)
	for name := range some {
		if some[name] = (header{Ref: "#/components/headers/" + name}); !slices.Contains(names, name) {
			delete(some, name)
		}
	}
	return some
}
