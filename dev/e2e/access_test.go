package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	"bookworm/internal/rpc"
)

// procedures returns every procedure of the shop's contracts.
func procedures() []protoreflect.MethodDescriptor {
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
	slices.SortFunc(all, func(a, b protoreflect.MethodDescriptor) int {
		return strings.Compare(string(a.FullName()), string(b.FullName()))
	})
	return all
}

// answer is what a procedure answered over Connect.
type answer struct {
	messages     []proto.Message // one, or those of the stream
	code, reason string          // of an error; "" where there is none
	text         string
}

func (a *answer) String() string {
	if a.code != "" {
		return fmt.Sprintf("%s %s: %s", a.code, a.reason, a.text)
	}
	return fmt.Sprint(a.messages)
}

// call calls a procedure at an address with a request in JSON. Header pairs are
// name, value, name, value...
func call(t *testing.T, base string, method protoreflect.MethodDescriptor, token, body string, headers ...string) *answer {
	t.Helper()
	kind, sent := "application/json", []byte(body)
	if method.IsStreamingServer() {
		kind, sent = "application/connect+json", append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		fmt.Sprintf("%s/%s/%s", base, method.Parent().FullName(), method.Name()), bytes.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", kind)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
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
	a := &answer{}
	switch {
	case !method.IsStreamingServer() || response.Header.Get("Content-Type") != kind:
		if response.StatusCode == http.StatusOK {
			a.add(t, method, raw)
		} else {
			a.fail(t, raw)
		}
	default:
		for len(raw) >= 5 {
			end := raw[0]&2 != 0
			size := binary.BigEndian.Uint32(raw[1:5])
			envelope := raw[5 : 5+size]
			raw = raw[5+size:]
			if !end {
				a.add(t, method, envelope)
				continue
			}
			var last struct {
				Error json.RawMessage `json:"error"`
			}
			if err := json.Unmarshal(envelope, &last); err != nil {
				t.Fatalf("%s ended with %q: %v", method.FullName(), envelope, err)
			}
			if last.Error != nil {
				a.fail(t, last.Error)
			}
		}
	}
	return a
}

func (a *answer) add(t *testing.T, method protoreflect.MethodDescriptor, raw []byte) {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		t.Fatal(err)
	}
	message := kind.New().Interface()
	if err := protojson.Unmarshal(raw, message); err != nil {
		t.Fatalf("%s answered %q: %v", method.FullName(), raw, err)
	}
	a.messages = append(a.messages, message)
}

func (a *answer) fail(t *testing.T, raw []byte) {
	t.Helper()
	var failure struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Details []struct {
			Type  string `json:"type"`
			Value string `json:"value"`
		} `json:"details"`
	}
	if err := json.Unmarshal(raw, &failure); err != nil || failure.Code == "" {
		t.Fatalf("an error is no Connect error: %q, %v", raw, err)
	}
	a.code, a.text = failure.Code, failure.Message
	for _, detail := range failure.Details {
		if detail.Type != "google.rpc.ErrorInfo" {
			continue
		}
		var info errdetails.ErrorInfo
		value, err := base64.RawStdEncoding.DecodeString(detail.Value)
		if err == nil {
			err = proto.Unmarshal(value, &info)
		}
		if err != nil {
			t.Fatal(err)
		}
		a.reason = info.GetReason()
	}
}

// person is somebody who calls, with the roles that the rules know.
type person struct {
	token string
	roles []accessv1.Role
}

// everyKindOfCaller returns one of each, with tokens of the identity provider.
func everyKindOfCaller(t *testing.T) map[string]person {
	t.Helper()
	signedIn := func(name string) string {
		token, err := theShop.Identity.Token(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	with := func(roles ...string) string {
		return issue(t, map[string]any{"realm_access": map[string]any{"roles": roles}})
	}
	service, err := theShop.Identity.ServiceToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return map[string]person{
		"no token":           {},
		"no role":            {with("offline_access"), nil},
		"customer":           {signedIn("bob"), []accessv1.Role{accessv1.Role_ROLE_CUSTOMER}},
		"support":            {signedIn("sam"), []accessv1.Role{accessv1.Role_ROLE_SUPPORT}},
		"reporter":           {signedIn("rita"), []accessv1.Role{accessv1.Role_ROLE_REPORTER}},
		"admin":              {with("admin"), []accessv1.Role{accessv1.Role_ROLE_ADMIN}},
		"admin and customer": {signedIn("ops"), []accessv1.Role{accessv1.Role_ROLE_ADMIN, accessv1.Role_ROLE_CUSTOMER}},
		"service":            {service, []accessv1.Role{accessv1.Role_ROLE_SERVICE}},
	}
}

// TestA2_EveryProcedureByEveryoneAtEveryDoor calls every procedure of every contract
// as every kind of caller, at the gateway and past it. What is sent cannot be read,
// so a call that the rule lets through has no effect, and says so.
func TestA2_EveryProcedureByEveryoneAtEveryDoor(t *testing.T) {
	t.Parallel()
	const unreadable = `{"there_is_no_such_field": true}`
	everyone, contexts := everyKindOfCaller(t), make(map[string]int)
	for _, method := range procedures() {
		rule := rpc.RolesOf(method)
		name := strings.Split(string(method.FullName()), ".")[1]
		contexts[name]++
		service := theSettings["BOOKWORM_"+strings.ToUpper(name)+"_URL"]
		if service == "" {
			t.Fatalf("nobody serves %s", name)
		}
		for who, caller := range everyone {
			want := "ACCESS_DENIED"
			switch {
			case slices.Contains(rule, accessv1.Role_ROLE_ANONYMOUS),
				slices.ContainsFunc(caller.roles, func(role accessv1.Role) bool { return slices.Contains(rule, role) }):
				want = "MALFORMED_REQUEST"
			case caller.token == "":
				want = "TOKEN_MISSING"
			}
			if got := call(t, service, method, caller.token, unreadable); got.reason != want {
				t.Errorf("%s as %s at the service: %s, want %s", method.FullName(), who, got, want)
			}
			if slices.Contains(rule, accessv1.Role_ROLE_SERVICE) {
				want = "NOT_FOUND" // the door does not know it, whoever asks
			}
			if got := call(t, theShop.Addresses["BOOKWORM_GATEWAY_URL"], method, caller.token, unreadable); got.reason != want {
				t.Errorf("%s as %s at the gateway: %s, want %s", method.FullName(), who, got, want)
			}
		}
	}
	if len(contexts) != 8 {
		t.Errorf("walked %v, not eight contexts", contexts)
	}
}
