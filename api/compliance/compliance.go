// Package compliance serves people's requests for their own data, shoppers' keys,
// and the log of what the shop's staff did.
package compliance

import (
	"connectrpc.com/connect/v2"

	"bookworm/internal/compliance"
)

// Deps is what the handlers need.
type Deps struct {
	Store *compliance.Store
}

// Register adds the context's services to a server.
func Register(server *connect.Server, deps Deps) {
	registerAudit(server, deps.Store)
}
