// Package api holds the description of the shop's REST API. The contracts it is
// made from are in proto.
package api

import _ "embed" // of the document

// OpenAPI is the OpenAPI 3.1 document of the REST API, as JSON. It is made from
// the contracts by `make update-docs`.
//
//go:embed openapi.json
var OpenAPI []byte
