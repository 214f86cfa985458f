package rpc

import (
	"context"
	"slices"
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

// RuleOf returns a procedure's access rule; nil when it states none.
func RuleOf(method protoreflect.MethodDescriptor) *accessv1.Rule {
	rule, _ := proto.GetExtension(method.Options(), accessv1.E_Rule).(*accessv1.Rule)
	return rule
}

// RolesOf returns the roles that may call a procedure; none when it has no rule.
func RolesOf(method protoreflect.MethodDescriptor) []accessv1.Role { return RuleOf(method).GetRoles() }

// Reaches reports whether the call being served may reach what belongs to the
// subject: always where that is the caller, and as staff where the procedure's
// ownership is OWNERSHIP_CALLER_OR_STAFF and the caller has one of its roles that is
// not a customer's. What it does not reach must look as if it did not exist.
func Reaches(ctx context.Context, owner string) bool {
	caller := identity.FromContext(ctx)
	if caller.Anonymous() {
		return false
	}
	if caller.Subject == owner {
		return true
	}
	call, ok := connect.CallInfoForServerContext(ctx)
	if !ok {
		return false
	}
	method, ok := call.Spec.Schema.(protoreflect.MethodDescriptor)
	if !ok || RuleOf(method).GetOwnership() != accessv1.Ownership_OWNERSHIP_CALLER_OR_STAFF {
		return false
	}
	return slices.ContainsFunc(RolesOf(method), func(role accessv1.Role) bool {
		return role != accessv1.Role_ROLE_CUSTOMER && caller.Has(role)
	})
}

// LimitOf returns the class of calls that a procedure is counted with, never
// LIMIT_UNSPECIFIED.
func LimitOf(method protoreflect.MethodDescriptor) accessv1.Limit {
	if class := RuleOf(method).GetLimit(); class != accessv1.Limit_LIMIT_UNSPECIFIED {
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
