package rpc

// Decoding and ParseIdempotencyKey are open to the tests.
var (
	Decoding            = decoding
	ParseIdempotencyKey = parseIdempotencyKey
)
