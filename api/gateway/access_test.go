package gateway_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	"bookworm/internal/rpc"
)

// reasonOf returns the reason of a Connect or gRPC client's error.
func reasonOf(err error) string {
	if coded, ok := errors.AsType[*connect.Error](err); ok {
		for _, detail := range coded.Details() {
			message, err := connectproto.UnmarshalErrorDetail(detail)
			if info, ok := message.(*errdetails.ErrorInfo); ok && err == nil {
				return info.GetReason()
			}
		}
		return ""
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

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

// call calls a procedure with an empty request and returns the code and reason of
// the error, "" for none.
func call(t *testing.T, base string, method protoreflect.MethodDescriptor, authorization string) (code, reason string) {
	t.Helper()
	kind, body := "application/json", []byte("{}")
	stream := method.IsStreamingServer()
	if stream {
		kind, body = "application/connect+json", append(binary.BigEndian.AppendUint32([]byte{0}, 2), "{}"...)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		fmt.Sprintf("%s/%s/%s", base, method.Parent().FullName(), method.Name()), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", kind)
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	type wireError struct {
		Code    string `json:"code"`
		Details []struct {
			Type  string `json:"type"`
			Debug struct {
				Reason string `json:"reason"`
			} `json:"debug"`
		} `json:"details"`
	}
	var answer struct {
		wireError
		Error wireError `json:"error"`
	}
	for stream && len(raw) > 5 { // up to the last message, the end of the stream
		size := 5 + int(binary.BigEndian.Uint32(raw[1:]))
		if len(raw) <= size {
			raw = raw[5:]
			break
		}
		raw = raw[size:]
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		t.Fatalf("%s answered %d %q", method.FullName(), response.StatusCode, raw)
	}
	found := answer.wireError
	if stream {
		found = answer.Error
	}
	for _, detail := range found.Details {
		if detail.Type == "google.rpc.ErrorInfo" {
			reason = detail.Debug.Reason
		}
	}
	return found.Code, reason
}

var everyRole = map[string]accessv1.Role{
	"":         accessv1.Role_ROLE_ANONYMOUS,
	"none":     accessv1.Role_ROLE_ANONYMOUS, // signed in, without a role of the shop
	"customer": accessv1.Role_ROLE_CUSTOMER,
	"admin":    accessv1.Role_ROLE_ADMIN,
	"service":  accessv1.Role_ROLE_SERVICE,
}

func TestA2_EveryProcedureByEveryRole(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for role, is := range everyRole {
		authorization := ""
		if role != "" {
			authorization = "Bearer " + b.provider.Token("somebody", role)
		}
		for _, method := range methods() {
			roles := rpc.RolesOf(method)
			allowed := slices.Contains(roles, is) || slices.Contains(roles, accessv1.Role_ROLE_ANONYMOUS)
			want := "ACCESS_DENIED"
			if role == "" {
				want = "TOKEN_MISSING"
			}
			code, reason := call(t, b.backend, method, authorization)
			if refused := code == "unauthenticated" || code == "permission_denied"; refused == allowed || refused && reason != want {
				t.Errorf("%s as %q at the service: %s %s", method.FullName(), role, code, reason)
			}
			b.behind.Store(0)
			code, reason = call(t, b.url, method, authorization)
			internal := slices.Equal(roles, []accessv1.Role{accessv1.Role_ROLE_SERVICE})
			if through := b.behind.Load() != 0; through != (allowed && !internal) {
				t.Errorf("%s as %q went through the door: %t", method.FullName(), role, through)
			}
			if internal {
				if code != "unimplemented" || reason != "NOT_FOUND" {
					t.Errorf("%s as %q can be told to exist at the door: %s %s", method.FullName(), role, code, reason)
				}
				continue
			}
			if refused := code == "unauthenticated" || code == "permission_denied"; refused == allowed || refused && reason != want {
				t.Errorf("%s as %q at the door: %s %s", method.FullName(), role, code, reason)
			}
		}
	}
}

func TestA2_InternalProceduresAreNotReachable(t *testing.T) {
	t.Parallel()
	b := setup(t)
	service := b.as("checkout", "service", "admin", "customer")
	for _, path := range []string{
		"/bookworm.catalog.v1.StockService/HoldStock",
		"/bookworm.basket.v1.BasketCheckoutService/GetBasketSnapshot",
		"//bookworm.catalog.v1.StockService/HoldStock",
		"/bookworm.catalog.v1.StockService/./HoldStock",
		"/bookworm.catalog.v1.CatalogService/../bookworm.catalog.v1.StockService/HoldStock",
		"/bookworm%2Ecatalog.v1.StockService/HoldStock",
		"/bookworm.catalog.v1.StockService%2FHoldStock",
		"/bookworm.catalog.v1.StockService/HoldStock/",
		"/api/v1/../../bookworm.catalog.v1.StockService/HoldStock",
		"/webhooks/stripe/../../bookworm.catalog.v1.StockService/HoldStock",
	} {
		for _, kind := range []string{"application/json", "application/proto", "application/grpc", "application/grpc-web+proto", "text/plain"} {
			got := b.send(t, http.MethodPost, path, "{}", append(service, "Content-Type", kind)...)
			if behind := b.behind.Swap(0); behind != 0 {
				t.Errorf("%s as %s went through: %d %s", path, kind, got.status, got.body)
			}
		}
	}
}

func TestA2_EveryRESTRouteByEveryRole(t *testing.T) {
	t.Parallel()
	b := setup(t)
	routes := 0
	for _, method := range methods() {
		rule, ok := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
		if !ok || rule == nil {
			continue
		}
		routes++
		verb, path := http.MethodGet, rule.GetGet()
		for v, p := range map[string]string{http.MethodPost: rule.GetPost(), http.MethodPut: rule.GetPut(), http.MethodPatch: rule.GetPatch(), http.MethodDelete: rule.GetDelete()} {
			if p != "" {
				verb, path = v, p
			}
		}
		path = regexp.MustCompile(`\{\w+\}`).ReplaceAllString(path, aBook)
		for role, is := range everyRole {
			headers, refusal := []string{}, "TOKEN_MISSING"
			if role != "" {
				headers, refusal = b.as("somebody", role), "ACCESS_DENIED"
			}
			b.behind.Store(0)
			got := b.send(t, verb, path, "", headers...)
			roles := rpc.RolesOf(method)
			allowed := slices.Contains(roles, is) || slices.Contains(roles, accessv1.Role_ROLE_ANONYMOUS)
			if through := b.behind.Load() != 0; through != allowed {
				t.Errorf("%s %s as %q went through the door: %t", verb, path, role, through)
			}
			refused := got.status == http.StatusUnauthorized || got.status == http.StatusForbidden
			if refused == allowed || refused && problemOf(t, got)["reason"] != refusal || got.status == http.StatusInternalServerError || got.status == http.StatusMethodNotAllowed {
				t.Errorf("%s %s as %q: got %d %s", verb, path, role, got.status, got.body)
			}
		}
	}
	if routes < 44 {
		t.Errorf("walked %d routes", routes)
	}
}
