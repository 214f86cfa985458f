package client

import (
	"errors"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
)

// Field is what is wrong with one field of a request.
type Field struct {
	// Name is the field's path, as the contract names it.
	Name string
	// Problem is what is wrong with it, for people.
	Problem string
}

// Reason returns the shop's reason for an error, for example OUT_OF_STOCK; "" for
// what is no answer of the shop, such as a connection that fails. Branch on the
// reason, not on the text. docs/api.md lists them.
func Reason(err error) string { return info(err).GetReason() }

// Metadata returns what the shop says beside the reason, by name; nil when there
// is nothing.
func Metadata(err error) map[string]string { return info(err).GetMetadata() }

// Fields returns the fields of the request that an error names; none when it names
// none.
func Fields(err error) []Field {
	var fields []Field
	for _, detail := range details[*errdetails.BadRequest](err) {
		for _, violation := range detail.GetFieldViolations() {
			fields = append(fields, Field{Name: violation.GetField(), Problem: violation.GetDescription()})
		}
	}
	return fields
}

func info(err error) *errdetails.ErrorInfo {
	for _, detail := range details[*errdetails.ErrorInfo](err) {
		if detail.GetDomain() == "bookworm" {
			return detail
		}
	}
	return nil
}

// details returns an error's details of one type. One that cannot be read is of a
// later version and says nothing.
func details[T proto.Message](err error) []T {
	coded, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return nil
	}
	var found []T
	for _, detail := range coded.Details() {
		message, err := connectproto.UnmarshalErrorDetail(detail)
		if typed, ok := message.(T); ok && err == nil {
			found = append(found, typed)
		}
	}
	return found
}
