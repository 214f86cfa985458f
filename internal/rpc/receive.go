package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	validatepb "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"bookworm/internal/fault"
)

// maxElements bounds a list or map of a request whose contract does not: each
// element costs a validation, and a body of 1 MiB can hold half a million.
const maxElements = 1000

// receiving looks at each message of a call before it is validated. What the RPC
// library cannot read of it is the caller's mistake, whatever code the library gives
// it: INTERNAL is for the shop's own. A list with more elements than its contract
// allows is refused at once, because the validator would look at all of them.
func receiving(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		return next(ctx, spec, &receivingStream{stream})
	}
}

type receivingStream struct{ connect.ServerStream }

// Receive implements connect.ServerStream.
func (s *receivingStream) Receive(message any) error {
	if err := s.ServerStream.Receive(message); err != nil {
		coded, ok := errors.AsType[*connect.Error](err)
		if ok && !errors.Is(err, io.EOF) && (coded.Code() == connect.CodeInternal || coded.Code() == connect.CodeUnknown) {
			return fault.New(fault.ReasonMalformedRequest, "The request's message cannot be read.").WithCause(err)
		}
		return err //nolint:wrapcheck // coding reads it as it is
	}
	if m, ok := message.(proto.Message); ok {
		if f := crowded(m.ProtoReflect(), ""); f != nil {
			return f
		}
	}
	return nil
}

// crowded names the first list or map in a message that has too many elements.
func crowded(message protoreflect.Message, path string) (found *fault.Error) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		name := path + string(field.Name())
		switch {
		case field.IsList():
			limit := uint64(maxElements)
			if rules, ok := proto.GetExtension(field.Options(), validatepb.E_Field).(*validatepb.FieldRules); ok && rules.GetRepeated().HasMaxItems() {
				limit = rules.GetRepeated().GetMaxItems()
			}
			list := value.List()
			if uint64(list.Len()) > limit { //nolint:gosec // a length
				found = tooMany(name, limit)
			}
			for i := 0; found == nil && field.Message() != nil && i < list.Len(); i++ {
				found = crowded(list.Get(i).Message(), fmt.Sprintf("%s[%d].", name, i))
			}
		case field.IsMap():
			if value.Map().Len() > maxElements {
				found = tooMany(name, maxElements)
			}
		case field.Message() != nil:
			found = crowded(value.Message(), name+".")
		}
		return found == nil
	})
	return found
}

func tooMany(field string, limit uint64) *fault.Error {
	problem := fmt.Sprintf("must have at most %d elements", limit)
	return fault.New(fault.ReasonInvalidArgument, "%s %s", field, problem).WithField(field, problem)
}
