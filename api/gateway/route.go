package gateway

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	basketv1 "bookworm/internal/gen/bookworm/basket/v1"
	catalogv1 "bookworm/internal/gen/bookworm/catalog/v1"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
	financev1 "bookworm/internal/gen/bookworm/finance/v1"
	notificationv1 "bookworm/internal/gen/bookworm/notification/v1"
	orderingv1 "bookworm/internal/gen/bookworm/ordering/v1"
	ratingv1 "bookworm/internal/gen/bookworm/rating/v1"
	"bookworm/internal/rpc"
)

// contract is what the gateway knows of a context at compile time.
type contract struct {
	file protoreflect.FileDescriptor
	rest []register // of its services with REST routes
}

// register puts the REST routes of one service on the translator.
type register = func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error

// contracts holds every context of the shop by name.
var contracts = map[string]contract{
	"catalog": {
		catalogv1.File_bookworm_catalog_v1_catalog_proto,
		[]register{catalogv1.RegisterCatalogServiceHandler, catalogv1.RegisterCatalogAdminServiceHandler},
	},
	"basket":       {basketv1.File_bookworm_basket_v1_basket_proto, []register{basketv1.RegisterBasketServiceHandler}},
	"ordering":     {orderingv1.File_bookworm_ordering_v1_ordering_proto, []register{orderingv1.RegisterOrderServiceHandler}},
	"finance":      {financev1.File_bookworm_finance_v1_finance_proto, []register{financev1.RegisterPaymentServiceHandler}},
	"notification": {notificationv1.File_bookworm_notification_v1_notification_proto, []register{notificationv1.RegisterPreferenceServiceHandler}},
	"rating": {
		ratingv1.File_bookworm_rating_v1_rating_proto,
		[]register{ratingv1.RegisterRatingServiceHandler, ratingv1.RegisterModerationServiceHandler},
	},
	"chat": {chatv1.File_bookworm_chat_v1_chat_proto, []register{chatv1.RegisterChatServiceHandler}},
	"compliance": {
		compliancev1.File_bookworm_compliance_v1_compliance_proto,
		[]register{compliancev1.RegisterPrivacyServiceHandler, compliancev1.RegisterAuditServiceHandler},
	},
}

// methods returns the procedures of a contract that may be called from outside:
// all but those that only the shop's own services call.
func (c contract) methods() []protoreflect.MethodDescriptor {
	var public []protoreflect.MethodDescriptor
	for i := range c.file.Services().Len() {
		methods := c.file.Services().Get(i).Methods()
		for j := range methods.Len() {
			roles := rpc.RolesOf(methods.Get(j))
			if !slices.Equal(roles, []accessv1.Role{accessv1.Role_ROLE_SERVICE}) {
				public = append(public, methods.Get(j))
			}
		}
	}
	return public
}

// procedureOf returns the path of a procedure, "/package.Service/Method".
func procedureOf(method protoreflect.MethodDescriptor) string {
	return "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
}

// isPublic reports whether anyone may call, so that an answer is nobody's own.
func isPublic(method protoreflect.MethodDescriptor) bool {
	return slices.Contains(rpc.RolesOf(method), accessv1.Role_ROLE_ANONYMOUS)
}

// route is one way into a procedure over REST, as its contract says.
type route struct {
	method   protoreflect.MethodDescriptor
	verb     string // HTTP method
	template string // "/api/v1/books/{id}"
	body     string // "*", the name of a field, or "" for a request without body
	backend  grpc.ClientConnInterface
}

// streams reports whether the procedure answers a stream of messages.
func (r route) streams() bool { return r.method.IsStreamingServer() }

// routeOf returns the REST route of a procedure at a backend, or false when it has
// none.
func routeOf(method protoreflect.MethodDescriptor, backend grpc.ClientConnInterface) (route, bool) {
	rule, ok := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	if !ok || rule == nil {
		return route{}, false
	}
	r := route{method: method, body: rule.GetBody(), backend: backend}
	switch pattern := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		r.verb, r.template = http.MethodGet, pattern.Get
	case *annotations.HttpRule_Put:
		r.verb, r.template = http.MethodPut, pattern.Put
	case *annotations.HttpRule_Post:
		r.verb, r.template = http.MethodPost, pattern.Post
	case *annotations.HttpRule_Delete:
		r.verb, r.template = http.MethodDelete, pattern.Delete
	case *annotations.HttpRule_Patch:
		r.verb, r.template = http.MethodPatch, pattern.Patch
	default:
		return route{}, false
	}
	return r, true
}

var variable = regexp.MustCompile(`\{(\w+)\}`)

// key is how the translator names the route's pattern.
func (r route) key() string {
	return r.verb + " " + variable.ReplaceAllString(r.template, "{$1=*}")
}

// matches reports whether a path is one of the route's, whatever the HTTP method.
func (r route) matches(path string) bool {
	want, got := strings.Split(r.template, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		name, verb, _ := strings.Cut(want[i], ":")
		segment, ok := got[i], true
		if verb != "" {
			segment, ok = strings.CutSuffix(got[i], ":"+verb)
		}
		isVariable := variable.MatchString(name)
		if !ok || segment == "" && name != "" || !isVariable && segment != name {
			return false
		}
		if _, other, _ := strings.Cut(segment, ":"); isVariable && i == len(want)-1 && other != "" { // another verb, or none
			return false
		}
	}
	return true
}

// hasQuery reports whether a query parameter names a field of the request that
// the query may set.
func (r route) hasQuery(parameter string) bool {
	if r.body == "*" {
		return false
	}
	message := r.method.Input()
	for name := range strings.SplitSeq(parameter, ".") {
		if message == nil {
			return false
		}
		field := message.Fields().ByTextName(name)
		if field == nil {
			field = message.Fields().ByJSONName(name)
		}
		if field == nil || string(field.Name()) == r.body || strings.Contains(r.template, "{"+string(field.Name())+"}") {
			return false
		}
		message = field.Message()
	}
	return true
}
