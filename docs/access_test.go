package docs_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	"bookworm/internal/rpc"
)

// services returns every service of the shop's contracts, by name. The gateway,
// which this package imports, knows them all.
func services() []protoreflect.ServiceDescriptor {
	var all []protoreflect.ServiceDescriptor
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			if strings.HasPrefix(string(file.Package()), "bookworm.") {
				all = append(all, file.Services().Get(i))
			}
		}
		return true
	})
	slices.SortFunc(all, func(a, b protoreflect.ServiceDescriptor) int {
		return strings.Compare(string(a.FullName()), string(b.FullName()))
	})
	return all
}

// internal reports whether only the shop's own services call it.
func internal(service protoreflect.ServiceDescriptor) bool {
	return slices.Contains(rpc.RolesOf(service.Methods().Get(0)), accessv1.Role_ROLE_SERVICE)
}

func TestA2_TheTableOfRulesIsCurrent(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	table.WriteString("| context | procedure | REST | roles | reaches | counted as |\n|---|---|---|---|---|---|\n")
	for _, service := range services() {
		for i := range service.Methods().Len() {
			method := service.Methods().Get(i)
			rule := rpc.RuleOf(method)
			var roles []string
			for _, role := range rule.GetRoles() {
				roles = append(roles, word(role, "ROLE_"))
			}
			fmt.Fprintf(&table, "| %s | `%s/%s` | %s | %s | %s | %s |\n", strings.Split(string(service.FullName()), ".")[1], service.Name(), method.Name(),
				route(method), strings.Join(roles, ", "), reaches[rule.GetOwnership()], class(method))
		}
	}
	compare(t, "access.md", map[string]string{"access": table.String()})
}

var reaches = map[accessv1.Ownership]string{
	accessv1.Ownership_OWNERSHIP_CALLER:          "the caller's own",
	accessv1.Ownership_OWNERSHIP_CALLER_OR_STAFF: "own, or any as staff",
}

// word is an enum's value in lower case, without what all of its values begin with.
func word(value fmt.Stringer, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(value.String(), prefix))
}

// class is what a procedure is counted with; services are not counted.
func class(method protoreflect.MethodDescriptor) string {
	if slices.Contains(rpc.RolesOf(method), accessv1.Role_ROLE_SERVICE) {
		return ""
	}
	return word(rpc.LimitOf(method), "LIMIT_")
}

func route(method protoreflect.MethodDescriptor) string {
	rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	for verb, path := range map[string]string{
		http.MethodGet: rule.GetGet(), http.MethodPost: rule.GetPost(), http.MethodPut: rule.GetPut(),
		http.MethodPatch: rule.GetPatch(), http.MethodDelete: rule.GetDelete(),
	} {
		if path != "" {
			return fmt.Sprintf("`%s %s`", verb, path)
		}
	}
	return ""
}
