package rpc

import (
	"context"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	"bookworm/internal/identity"
)

// Verifier tells whose an access token is. Its errors are faults.
type Verifier interface {
	Verify(ctx context.Context, rawToken string) (identity.Caller, error)
}

// RolesOf returns the roles that may call a procedure; none when it has no rule.
func RolesOf(method protoreflect.MethodDescriptor) []accessv1.Role {
	rule, ok := proto.GetExtension(method.Options(), accessv1.E_Rule).(*accessv1.Rule)
	if !ok {
		return nil
	}
	return rule.GetRoles()
}

// LimitOf returns the class of calls that a procedure is counted with, never
// LIMIT_UNSPECIFIED.
func LimitOf(method protoreflect.MethodDescriptor) accessv1.Limit {
	rule, _ := proto.GetExtension(method.Options(), accessv1.E_Rule).(*accessv1.Rule)
	if class := rule.GetLimit(); class != accessv1.Limit_LIMIT_UNSPECIFIED {
		return class
	}
	options, _ := method.Options().(*descriptorpb.MethodOptions)
	if options.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS {
		return accessv1.Limit_LIMIT_BROWSE
	}
	return accessv1.Limit_LIMIT_WRITE
}

// Authenticate returns the caller that an Authorization header names; the
// anonymous one for an empty header. Errors: TOKEN_INVALID, UNAVAILABLE.
func Authenticate(ctx context.Context, verifier Verifier, authorization string) (identity.Caller, error) {
	if authorization == "" {
		return identity.Caller{}, nil
	}
	token, err := bearer(authorization)
	if err != nil {
		return identity.Caller{}, err
	}
	return verifier.Verify(ctx, token)
}

// bearer returns the access token of an Authorization header.
func bearer(authorization string) (string, error) {
	scheme, token, _ := strings.Cut(authorization, " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", fault.New(fault.ReasonTokenInvalid, "The Authorization header carries no bearer token.")
	}
	return token, nil
}

// Authorize says whether the caller may call the procedure: nil, TOKEN_MISSING
// or ACCESS_DENIED. A procedure that states no rule is refused.
func Authorize(caller identity.Caller, method protoreflect.MethodDescriptor) error {
	allowed := RolesOf(method)
	if len(allowed) == 0 {
		return fault.New(fault.ReasonAccessDenied, "Nobody may call %s.", method.FullName())
	}
	for _, role := range allowed {
		if role != accessv1.Role_ROLE_UNSPECIFIED && caller.Has(role) {
			return nil
		}
	}
	if caller.Anonymous() {
		return fault.New(fault.ReasonTokenMissing, "Send an access token in the Authorization header.")
	}
	return fault.New(fault.ReasonAccessDenied, "You may not call %s.", method.FullName())
}

// access lets a call through only where the procedure's rule does, and puts the
// caller in the context.
func access(verifier Verifier) connect.ServerInterceptor {
	return func(next connect.ServerFunc) connect.ServerFunc {
		return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
			method, ok := spec.Schema.(protoreflect.MethodDescriptor)
			if !ok {
				return connect.Errorf(connect.CodeUnimplemented, "There is no procedure %s.", spec.Procedure)
			}
			caller, err := Authenticate(ctx, verifier, Header(ctx, "Authorization"))
			if err != nil {
				return err
			}
			if err := Authorize(caller, method); err != nil {
				return err
			}
			return next(identity.WithCaller(ctx, caller), spec, stream)
		}
	}
}
