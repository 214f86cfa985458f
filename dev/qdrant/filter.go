package qdrant

import (
	"slices"
	"strings"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// predicate tests a point.
type predicate func(*point) bool

// compileFilter makes a filter a test: all of must hold, none of must_not, and at
// least one of should, where there is any. No filter holds for every point.
func compileFilter(f *qdrant.Filter) (predicate, error) {
	if err := only(f, "must", "must_not", "should"); err != nil {
		return nil, err
	}
	must, err := compileConditions(f.GetMust())
	if err != nil {
		return nil, err
	}
	mustNot, err := compileConditions(f.GetMustNot())
	if err != nil {
		return nil, err
	}
	should, err := compileConditions(f.GetShould())
	if err != nil {
		return nil, err
	}
	return func(p *point) bool {
		for _, holds := range must {
			if !holds(p) {
				return false
			}
		}
		for _, holds := range mustNot {
			if holds(p) {
				return false
			}
		}
		for _, holds := range should {
			if holds(p) {
				return true
			}
		}
		return len(should) == 0
	}, nil
}

func compileConditions(conditions []*qdrant.Condition) ([]predicate, error) {
	compiled := make([]predicate, len(conditions))
	for i, c := range conditions {
		var err error
		if compiled[i], err = compileCondition(c); err != nil {
			return nil, err
		}
	}
	return compiled, nil
}

func compileCondition(c *qdrant.Condition) (predicate, error) {
	if err := only(c, "field", "has_id", "filter"); err != nil {
		return nil, err
	}
	switch v := c.GetConditionOneOf().(type) {
	case *qdrant.Condition_Field:
		return compileField(v.Field)
	case *qdrant.Condition_HasId:
		keys, err := toKeys(v.HasId.GetHasId())
		if err != nil {
			return nil, err
		}
		wanted := make(map[pointKey]bool, len(keys))
		for _, key := range keys {
			wanted[key] = true
		}
		return func(p *point) bool { return wanted[p.key] }, nil
	case *qdrant.Condition_Filter:
		return compileFilter(v.Filter)
	default:
		return nil, status.Error(codes.InvalidArgument, "Malformed Condition type")
	}
}

// compileField tests the value of a payload field, or each element of one that is a
// list: one that passes is enough.
func compileField(f *qdrant.FieldCondition) (predicate, error) {
	if err := only(f, "key", "match", "range"); err != nil {
		return nil, err
	}
	if err := checkKey(f.GetKey()); err != nil {
		return nil, err
	}
	if f.GetMatch() != nil && f.GetRange() != nil {
		return nil, unimplemented("FieldCondition with both match and range")
	}
	var passes func(*qdrant.Value) bool
	switch {
	case f.GetMatch() != nil:
		var err error
		if passes, err = compileMatch(f.GetMatch()); err != nil {
			return nil, err
		}
	case f.GetRange() != nil:
		passes = func(v *qdrant.Value) bool { return inRange(f.GetRange(), v) }
	default:
		return nil, status.Error(codes.InvalidArgument, "Malformed Condition type")
	}
	return func(p *point) bool {
		value := p.payload[f.GetKey()]
		if list, ok := value.GetKind().(*qdrant.Value_ListValue); ok {
			return slices.ContainsFunc(list.ListValue.GetValues(), passes)
		}
		return passes(value)
	}, nil
}

// checkKey refuses paths into nested payloads, which are written with these.
func checkKey(key string) error {
	if key == "" {
		return status.Error(codes.InvalidArgument, "Validation error in body: [key: empty]")
	}
	if strings.ContainsAny(key, `.[]"`) {
		return unimplemented("the payload key " + key)
	}
	return nil
}

func compileMatch(m *qdrant.Match) (func(*qdrant.Value) bool, error) {
	if err := only(m, "keyword", "keywords", "integer", "integers", "boolean"); err != nil {
		return nil, err
	}
	switch want := m.GetMatchValue().(type) {
	case *qdrant.Match_Keyword:
		return anyOf(want.Keyword), nil
	case *qdrant.Match_Keywords:
		return anyOf(want.Keywords.GetStrings()...), nil
	case *qdrant.Match_Integer:
		return anyInteger(want.Integer), nil
	case *qdrant.Match_Integers:
		return anyInteger(want.Integers.GetIntegers()...), nil
	case *qdrant.Match_Boolean:
		return func(v *qdrant.Value) bool {
			got, ok := v.GetKind().(*qdrant.Value_BoolValue)
			return ok && got.BoolValue == want.Boolean
		}, nil
	default:
		return nil, status.Error(codes.InvalidArgument, "Malformed Match condition")
	}
}

func anyOf(wanted ...string) func(*qdrant.Value) bool {
	members := make(map[string]bool, len(wanted))
	for _, w := range wanted {
		members[w] = true
	}
	return func(v *qdrant.Value) bool {
		got, ok := v.GetKind().(*qdrant.Value_StringValue)
		return ok && members[got.StringValue]
	}
}

func anyInteger(wanted ...int64) func(*qdrant.Value) bool {
	members := make(map[int64]bool, len(wanted))
	for _, w := range wanted {
		members[w] = true
	}
	return func(v *qdrant.Value) bool {
		got, ok := v.GetKind().(*qdrant.Value_IntegerValue)
		return ok && members[got.IntegerValue]
	}
}

func inRange(r *qdrant.Range, v *qdrant.Value) bool {
	var x float64
	switch number := v.GetKind().(type) {
	case *qdrant.Value_IntegerValue:
		x = float64(number.IntegerValue)
	case *qdrant.Value_DoubleValue:
		x = number.DoubleValue
	default:
		return false
	}
	return (r.Lt == nil || x < r.GetLt()) && (r.Lte == nil || x <= r.GetLte()) &&
		(r.Gt == nil || x > r.GetGt()) && (r.Gte == nil || x >= r.GetGte())
}

// both joins two filters, either of which may be missing.
func both(a, b *qdrant.Filter) *qdrant.Filter {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return &qdrant.Filter{Must: []*qdrant.Condition{
		qdrant.NewFilterAsCondition(proto.CloneOf(a)), qdrant.NewFilterAsCondition(proto.CloneOf(b)),
	}}
}
