package rpc

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	"bookworm/internal/identity"
)

// Decoding and ParseIdempotencyKey are open to the tests.
var (
	Decoding            = decoding
	ParseIdempotencyKey = parseIdempotencyKey
)

// Recorded says how the audit log records a role's call to a procedure; "" when it
// does not.
func Recorded(role string, method protoreflect.MethodDescriptor) string {
	roles := []accessv1.Role{accessv1.Role(accessv1.Role_value["ROLE_"+strings.ToUpper(role)])}
	return map[recording]string{reading: "reading", acting: "acting"}[recorded(identity.Caller{Subject: "x", Roles: roles}, method)]
}
