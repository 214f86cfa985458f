// Package compliance serves people's requests for their own data, shoppers' keys,
// and the log of what the shop's staff did.
package compliance

import (
	"connectrpc.com/connect/v2"
	"go.temporal.io/sdk/client"

	"bookworm/internal/compliance"
	"bookworm/internal/gen/bookworm/compliance/v1/compliancev1connect"
)

// Deps is what the handlers need.
type Deps struct {
	Store    *compliance.Store
	Privacy  *compliance.PrivacyStore
	Temporal client.Client
}

// Register adds the context's services to a server.
func Register(server *connect.Server, d Deps) {
	compliancev1connect.RegisterPrivacyServiceHandler(server, &privacy{d})
	compliancev1connect.RegisterShopperKeyServiceHandler(server, &keys{d.Privacy})
	registerAudit(server, d.Store)
}
