package openapi

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"github.com/google/jsonschema-go/jsonschema"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// digits is how JSON carries an int64: as text, because a number loses in many
// readers what is above 2^53. With 18 digits it never overflows.
const digits = "^-?[0-9]{1,18}$"

// schemas makes the schemas of messages. A message that the shop writes and one
// that it reads differ: what is written is complete, what is read may leave out
// what it need not say, keeps the limits of the contract, and has no other fields.
type schemas struct {
	comments   Comments
	components map[string]*jsonschema.Schema
	owner      map[string]protoreflect.FullName // of each component's name
}

func reference(name string) *jsonschema.Schema {
	return &jsonschema.Schema{Ref: "#/components/schemas/" + name}
}

// nameOf returns the name of a message's or enum's component: its name without the
// package, so that Order.Status is OrderStatus.
func nameOf(thing protoreflect.Descriptor) string {
	within := strings.TrimPrefix(string(thing.FullName()), string(thing.ParentFile().Package())+".")
	return strings.ReplaceAll(within, ".", "")
}

// claim reports whether a component is still to be made, and fails where another
// thing has its name.
func (s *schemas) claim(name string, thing protoreflect.Descriptor) (bool, error) {
	switch s.owner[name] {
	case "":
		s.owner[name] = thing.FullName()
		return true, nil
	case thing.FullName():
		return false, nil
	}
	return false, fmt.Errorf("%s and %s would both be the schema %s", s.owner[name], thing.FullName(), name)
}

// written returns the schema of a message as the shop writes it: every field is
// there, and a message that is not set is null; of a oneof only the field that is
// set is there.
func (s *schemas) written(message protoreflect.MessageDescriptor) (*jsonschema.Schema, error) {
	if known := wellKnown(message); known != nil {
		return known, nil
	}
	name := nameOf(message)
	fresh, err := s.claim(name, message)
	if err != nil || !fresh {
		return reference(name), err
	}
	schema := s.object(message)
	s.components[name] = schema
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		property, err := s.field(field, s.written, s.writtenEnum)
		if err != nil {
			return nil, err
		}
		inOneof := field.ContainingOneof() != nil
		if field.Message() != nil && !field.IsList() && !field.IsMap() && !inOneof {
			property = nullable(property)
		}
		s.describe(property, field)
		schema.Properties[string(field.Name())] = property
		schema.PropertyOrder = append(schema.PropertyOrder, string(field.Name()))
		if !inOneof {
			schema.Required = append(schema.Required, string(field.Name()))
		}
	}
	return reference(name), nil
}

// read returns the schema of a message as the shop reads it. Call it when all
// written messages are known: a message that is also written gets a name of its
// own for what is read.
func (s *schemas) read(message protoreflect.MessageDescriptor) (*jsonschema.Schema, error) {
	if known := wellKnown(message); known != nil {
		return known, nil
	}
	name := nameOf(message)
	if _, taken := s.components[name]; taken && !s.isRead(name) {
		name += "Input"
	}
	fresh, err := s.claim(name, message)
	if err != nil || !fresh {
		return reference(name), err
	}
	schema, err := s.readExcept(message)
	if err != nil {
		return nil, err
	}
	s.components[name] = schema
	return reference(name), nil
}

func (s *schemas) isRead(name string) bool { return s.components[name].AdditionalProperties != nil }

// readExcept returns the schema of a message without some of its fields.
func (s *schemas) readExcept(message protoreflect.MessageDescriptor, elsewhere ...string) (*jsonschema.Schema, error) {
	schema := s.object(message)
	schema.AdditionalProperties = &jsonschema.Schema{Not: &jsonschema.Schema{}}
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		if slices.Contains(elsewhere, string(field.Name())) {
			continue
		}
		property, required, err := s.readField(field)
		if err != nil {
			return nil, err
		}
		schema.Properties[string(field.Name())] = property
		schema.PropertyOrder = append(schema.PropertyOrder, string(field.Name()))
		if required {
			schema.Required = append(schema.Required, string(field.Name()))
		}
	}
	return schema, nil
}

// readField returns the schema of a field that the shop reads, and whether it must
// be there: when the contract does not allow the value that is understood when it
// is not.
func (s *schemas) readField(field protoreflect.FieldDescriptor) (*jsonschema.Schema, bool, error) {
	property, err := s.field(field, s.read, s.readEnum)
	if err != nil {
		return nil, false, err
	}
	rules, err := protovalidate.ResolveFieldRules(field)
	if err != nil {
		return nil, false, fmt.Errorf("read the rules of %s: %w", field.FullName(), err)
	}
	if property.Format == "int32" {
		property.Minimum, property.Maximum = new(float64(math.MinInt32)), new(float64(math.MaxInt32))
	}
	required, err := limit(property, rules)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", field.FullName(), err)
	}
	if names := maskable(field); len(names) > 0 {
		one := "(" + strings.Join(names, "|") + ")"
		property.Pattern = "^" + one + "(," + one + ")*$"
	}
	s.describe(property, field)
	return property, required, nil
}

// maskable returns the names that a field mask may have: the fields of the message
// that stands beside it in the request, but for its version.
func maskable(field protoreflect.FieldDescriptor) []string {
	if field.Message() == nil || field.Message().FullName() != fieldMask {
		return nil
	}
	var names []string
	beside := field.ContainingMessage().Fields()
	for i := range beside.Len() {
		changed := beside.Get(i).Message()
		if changed == nil || changed == field.Message() {
			continue
		}
		for j := range changed.Fields().Len() {
			if name := string(changed.Fields().Get(j).Name()); name != "etag" {
				names = append(names, name)
			}
		}
	}
	return names
}

const fieldMask = "google.protobuf.FieldMask"

func (s *schemas) object(message protoreflect.MessageDescriptor) *jsonschema.Schema {
	sentences := []string{s.comments[message.FullName()]}
	for i := range message.Oneofs().Len() {
		var names []string
		fields := message.Oneofs().Get(i).Fields()
		for j := range fields.Len() {
			names = append(names, string(fields.Get(j).Name()))
		}
		sentences = append(sentences, "It has one of: "+strings.Join(names, ", ")+".")
	}
	return &jsonschema.Schema{Type: "object", Description: strings.Join(sentences, " "), Properties: make(map[string]*jsonschema.Schema)}
}

// describe adds what the contract says of a field in words.
func (s *schemas) describe(property *jsonschema.Schema, field protoreflect.FieldDescriptor) {
	comment := s.comments[field.FullName()]
	property.Description = strings.TrimSpace(comment + " " + property.Description)
	if said := example(comment); said != "" && property.Type == "string" {
		property.Examples = []any{said}
	} else if said != "" && property.Items != nil && property.Items.Type == "string" {
		property.Examples = []any{[]any{said}}
	}
}

// field returns the schema of a field's value, without its limits.
func (s *schemas) field(
	field protoreflect.FieldDescriptor,
	message func(protoreflect.MessageDescriptor) (*jsonschema.Schema, error),
	enum func(protoreflect.EnumDescriptor) (*jsonschema.Schema, error),
) (*jsonschema.Schema, error) {
	if field.IsMap() {
		value, err := s.field(field.MapValue(), message, enum)
		return &jsonschema.Schema{Type: "object", AdditionalProperties: value}, err
	}
	var one *jsonschema.Schema
	var err error
	switch field.Kind() {
	case protoreflect.MessageKind:
		one, err = message(field.Message())
	case protoreflect.EnumKind:
		one, err = enum(field.Enum())
	case protoreflect.StringKind:
		one = &jsonschema.Schema{Type: "string"}
	case protoreflect.BoolKind:
		one = &jsonschema.Schema{Type: "boolean"}
	case protoreflect.Int32Kind:
		one = &jsonschema.Schema{Type: "integer", Format: "int32"}
	case protoreflect.Int64Kind:
		one = &jsonschema.Schema{Type: "string", Format: "int64", Pattern: digits}
	case protoreflect.DoubleKind:
		one = &jsonschema.Schema{Type: "number", Format: "double"}
	default:
		return nil, fmt.Errorf("%s: no schema is known for %s", field.FullName(), field.Kind())
	}
	if err != nil || !field.IsList() {
		return one, err
	}
	return &jsonschema.Schema{Type: "array", Items: one}, nil
}

// writtenEnum returns the schema of an enum in answers.
func (s *schemas) writtenEnum(enum protoreflect.EnumDescriptor) (*jsonschema.Schema, error) {
	name := nameOf(enum)
	fresh, err := s.claim(name, enum)
	if err != nil || !fresh {
		return reference(name), err
	}
	s.components[name] = s.enumeration(enum)
	return reference(name), nil
}

// readEnum returns the schema of an enum in requests, where limits may take values
// away.
func (s *schemas) readEnum(enum protoreflect.EnumDescriptor) (*jsonschema.Schema, error) {
	schema := s.enumeration(enum)
	schema.Description = strings.TrimPrefix(schema.Description, s.comments[enum.FullName()]+" ")
	return schema, nil
}

func (s *schemas) enumeration(enum protoreflect.EnumDescriptor) *jsonschema.Schema {
	schema := &jsonschema.Schema{Type: "string"}
	meanings := []string{s.comments[enum.FullName()]}
	for i := range enum.Values().Len() {
		value := enum.Values().Get(i)
		schema.Enum = append(schema.Enum, string(value.Name()))
		meanings = append(meanings, fmt.Sprintf("`%s`: %s", value.Name(), s.comments[value.FullName()]))
	}
	schema.Description = strings.Join(meanings, " ")
	return schema
}

func nullable(schema *jsonschema.Schema) *jsonschema.Schema {
	if schema.Type != "" {
		schema.Types, schema.Type = []string{schema.Type, "null"}, ""
		return schema
	}
	return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{schema, {Type: "null"}}}
}

// wellKnown returns the schema of a message that protobuf's JSON writes in a form
// of its own, or nil.
func wellKnown(message protoreflect.MessageDescriptor) *jsonschema.Schema {
	switch message.FullName() {
	case "google.protobuf.Timestamp":
		return &jsonschema.Schema{Type: "string", Format: "date-time"}
	case fieldMask:
		return &jsonschema.Schema{Type: "string", Description: "Names with commas between them."}
	case "google.protobuf.Struct":
		return &jsonschema.Schema{Type: "object"}
	}
	return nil
}

// limit puts the contract's limits of a field on its schema. It reports whether
// the field must be there. A rule that it does not know is an error: a limit is
// never left out in silence.
func limit(schema *jsonschema.Schema, rules *validate.FieldRules) (required bool, err error) {
	if rules == nil {
		return false, nil
	}
	if rules.GetRequired() {
		required = true
	}
	emptyIsFine := rules.GetIgnore() == validate.Ignore_IGNORE_IF_ZERO_VALUE
	rules.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.ContainingOneof() == nil {
			switch field.Name() {
			case "required", "ignore":
			default:
				err = fmt.Errorf("no keyword is known for %s", field.FullName())
			}
			return err == nil
		}
		value.Message().Range(func(rule protoreflect.FieldDescriptor, value protoreflect.Value) bool {
			var needed bool
			if needed, err = keyword(schema, rule, value); err != nil {
				return false
			}
			required = required || needed && !emptyIsFine
			return true
		})
		return err == nil
	})
	if emptyIsFine && schema.Format == "uuid" {
		schema.Format = ""
		schema.AnyOf = []*jsonschema.Schema{{Format: "uuid", MinLength: new(1)}, {MaxLength: new(0)}}
	}
	return required, err
}

// keyword puts one rule on a schema, and reports whether it forbids the value that
// is understood when a field is not there.
func keyword(schema *jsonschema.Schema, rule protoreflect.FieldDescriptor, value protoreflect.Value) (required bool, err error) {
	switch kind, name := rule.Parent().Name(), rule.Name(); kind {
	case "StringRules":
		switch name {
		case "min_len":
			schema.MinLength = new(int(value.Uint())) //nolint:gosec // a limit of the contract
			return value.Uint() > 0, nil
		case "max_len":
			schema.MaxLength = new(int(value.Uint())) //nolint:gosec // a limit of the contract
			return false, nil
		case "pattern":
			schema.Pattern = value.String()
			empty, err := regexp.MatchString(schema.Pattern, "")
			return !empty, err
		case "uuid":
			schema.Format = "uuid"
			return value.Bool(), nil
		}
	case "BoolRules":
		if name == "const" {
			schema.Const = new(any(value.Bool()))
			return value.Bool(), nil
		}
	case "Int32Rules", "DoubleRules":
		number := numberOf(value)
		switch name {
		case "gte":
			schema.Minimum = &number
			return number > 0, nil
		case "lte":
			schema.Maximum = &number
			return number < 0, nil
		}
	case "Int64Rules":
		if name == "gte" && value.Int() == 0 {
			schema.Pattern = strings.Replace(digits, "-?", "", 1)
			return false, nil
		}
	case "EnumRules":
		switch name {
		case "defined_only":
			return false, nil
		case "not_in":
			if value.List().Len() == 1 && value.List().Get(0).Int() == 0 {
				schema.Enum = schema.Enum[1:]
				return true, nil
			}
		}
	case "RepeatedRules":
		switch name {
		case "min_items":
			schema.MinItems = new(int(value.Uint())) //nolint:gosec // a limit of the contract
			return value.Uint() > 0, nil
		case "max_items":
			schema.MaxItems = new(int(value.Uint())) //nolint:gosec // a limit of the contract
			return false, nil
		case "unique":
			schema.UniqueItems = value.Bool()
			return false, nil
		case "items":
			rules, ok := value.Message().Interface().(*validate.FieldRules)
			if ok {
				_, err := limit(schema.Items, rules)
				return false, err
			}
		}
	}
	return false, fmt.Errorf("no keyword is known for %s", rule.FullName())
}

func numberOf(value protoreflect.Value) float64 {
	if number, ok := value.Interface().(float64); ok {
		return number
	}
	return float64(value.Int())
}
