package rpc_test

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	_ "bookworm/internal/gen/bookworm/chat/v1"
	_ "bookworm/internal/gen/bookworm/compliance/v1"
	_ "bookworm/internal/gen/bookworm/finance/v1"
	_ "bookworm/internal/gen/bookworm/notification/v1"
	_ "bookworm/internal/gen/bookworm/ordering/v1"
	_ "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/identity"
	"bookworm/internal/rpc"
)

// methods returns every procedure of the shop's contracts.
func methods() []protoreflect.MethodDescriptor {
	var all []protoreflect.MethodDescriptor
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			for j := range file.Services().Get(i).Methods().Len() {
				if strings.HasPrefix(string(file.Package()), "bookworm.") {
					all = append(all, file.Services().Get(i).Methods().Get(j))
				}
			}
		}
		return true
	})
	return all
}

func TestA2_EveryProcedureHasRule(t *testing.T) {
	t.Parallel()
	contexts := make(map[protoreflect.FullName]bool)
	for _, method := range methods() {
		contexts[method.ParentFile().Package()] = true
		roles := rpc.RolesOf(method)
		if len(roles) == 0 {
			t.Errorf("%s says nobody may call it", method.FullName())
		}
		if slices.Contains(roles, accessv1.Role_ROLE_UNSPECIFIED) {
			t.Errorf("%s names no role", method.FullName())
		}
		if slices.Contains(roles, accessv1.Role_ROLE_SERVICE) && len(roles) > 1 {
			t.Errorf("%s is for services and people; the gateway must know which", method.FullName())
		}
	}
	if len(contexts) != 8 {
		t.Errorf("walked %d contexts, not eight", len(contexts))
	}
}

func TestA1_OwnershipFitsTheRoles(t *testing.T) {
	t.Parallel()
	const anonymous, customer, service = accessv1.Role_ROLE_ANONYMOUS, accessv1.Role_ROLE_CUSTOMER, accessv1.Role_ROLE_SERVICE
	kinds := make(map[accessv1.Ownership]int)
	for _, method := range methods() {
		rule := rpc.RuleOf(method)
		roles, ownership := rule.GetRoles(), rule.GetOwnership()
		kinds[ownership]++
		if slices.Contains(roles, anonymous) && (len(roles) > 1 || ownership != accessv1.Ownership_OWNERSHIP_UNSPECIFIED) {
			t.Errorf("%s is for anyone, who owns nothing, and says more: %v", method.FullName(), rule)
		}
		if slices.Contains(roles, service) && (ownership != accessv1.Ownership_OWNERSHIP_UNSPECIFIED || rule.GetLimit() != accessv1.Limit_LIMIT_UNSPECIFIED) {
			t.Errorf("%s is for services, which own nothing and are not limited: %v", method.FullName(), rule)
		}
		switch ownership {
		case accessv1.Ownership_OWNERSHIP_UNSPECIFIED: // the shop's
		case accessv1.Ownership_OWNERSHIP_CALLER:
			// Staff would find only their own, and take that for all there is.
			if !slices.Equal(roles, []accessv1.Role{customer}) {
				t.Errorf("%s reaches what is the caller's own, so it is for customers alone: %v", method.FullName(), rule)
			}
		case accessv1.Ownership_OWNERSHIP_CALLER_OR_STAFF:
			if !slices.Contains(roles, customer) || len(roles) < 2 {
				t.Errorf("%s tells customers and staff apart, so it needs both: %v", method.FullName(), rule)
			}
		}
	}
	for number, name := range accessv1.Ownership_name {
		if kinds[accessv1.Ownership(number)] == 0 {
			t.Errorf("no procedure has %s", name)
		}
	}
}

// methodWithoutRule is a procedure whose contract forgot to say who may call.
func methodWithoutRule(t *testing.T) protoreflect.MethodDescriptor {
	t.Helper()
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: new("bookworm/test/v1/test.proto"), Package: new("bookworm.test.v1"), Syntax: new("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: new("Empty")}},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name: new("TestService"),
			Method: []*descriptorpb.MethodDescriptorProto{{
				Name: new("NoRule"), InputType: new(".bookworm.test.v1.Empty"), OutputType: new(".bookworm.test.v1.Empty"),
			}},
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Services().Get(0).Methods().Get(0)
}

func TestEveryKindHasItsCode(t *testing.T) {
	t.Parallel()
	for reason, entry := range fault.Reasons {
		if code := rpc.Coded(fault.New(reason, "x")).Code(); code == 0 {
			t.Errorf("kind %d of %s has no code", entry.Kind, reason)
		}
	}
}

func TestA2_AuthorizeWithNoRoleButUnspecified(t *testing.T) {
	t.Parallel()
	// A caller cannot slip in through the zero role.
	caller := identity.Caller{Subject: "x", Roles: []accessv1.Role{accessv1.Role_ROLE_UNSPECIFIED}}
	if err := rpc.Authorize(caller, methodWithoutRule(t)); !fault.Is(err, fault.ReasonAccessDenied) {
		t.Errorf("got %v", err)
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		"a1": "a1", `"a1"`: "a1", " " + `"a1"` + "\t": "a1", `"a\"b\\c"`: `a"b\c`, `a"b`: `a"b`, strings.Repeat("k", 255): strings.Repeat("k", 255),
	} {
		if key, err := rpc.ParseIdempotencyKey(header); err != nil || key != want {
			t.Errorf("%q: got %q, %v", header, key, err)
		}
	}
	for _, header := range []string{"", " ", "\t"} {
		if _, err := rpc.ParseIdempotencyKey(header); !fault.Is(err, fault.ReasonKeyMissing) {
			t.Errorf("%q: got %v", header, err)
		}
	}
	for _, header := range []string{`""`, `"`, `"a`, `"a"b`, `"a\`, `"a\n"`, "a b", "a\x00", "ключ", strings.Repeat("k", 256), `"` + strings.Repeat("k", 256) + `"`, "\x7f"} {
		if _, err := rpc.ParseIdempotencyKey(header); !fault.Is(err, fault.ReasonInvalidArgument) {
			t.Errorf("%q: got %v", header, err)
		}
	}
}

// FuzzIdempotencyKey asserts that a key that is taken is one the shop can store.
func FuzzIdempotencyKey(f *testing.F) {
	for _, seed := range []string{"", "a", `"a"`, `"\"`, `"\\"`, "é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		key, err := rpc.ParseIdempotencyKey(header)
		if err != nil {
			return
		}
		if key == "" || len(key) > 255 || strings.ContainsFunc(key, func(r rune) bool { return r < '!' || r > '~' }) {
			t.Errorf("%q gave %q", header, key)
		}
	})
}
