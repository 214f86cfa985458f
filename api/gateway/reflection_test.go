package gateway_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"bookworm/api/gateway"
)

// gRPC reflection tells of the services that can be called from outside, and of no
// other.
func TestReflectionListsThePublicServices(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *gateway.Options) { o.Backends["compliance"] = o.Backends["chat"] })
	connection, err := grpc.NewClient(strings.TrimPrefix(b.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	stream, err := reflectionv1.NewServerReflectionClient(connection).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	request := &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(request); err != nil && !errors.Is(err, io.EOF) { // where it ended, Recv says why
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, service := range answer.GetListServicesResponse().GetService() {
		got = append(got, service.GetName())
	}
	var want []string
	for _, o := range gateway.Operations() {
		want = append(want, string(o.Method.Parent().FullName()))
	}
	slices.Sort(want)
	if want = slices.Compact(want); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
