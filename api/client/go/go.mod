module bookworm/client

go 1.26.0

require (
	connectrpc.com/connect/v2 v2.0.2
	github.com/google/uuid v1.6.0
	github.com/hashicorp/go-retryablehttp v0.7.8
	golang.org/x/oauth2 v0.37.0
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261019180522-ce908d29299b
	google.golang.org/protobuf v1.36.12
)

require github.com/hashicorp/go-cleanhttp v0.5.2 // indirect
