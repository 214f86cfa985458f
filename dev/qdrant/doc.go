// Package qdrant is an in-process server for the part of Qdrant's gRPC API that
// bookworm/internal/vector uses: collections, aliases, points and queries.
//
// It speaks the wire format of github.com/qdrant/go-client, so the shop runs its
// production client against it. The same conformance suite runs against this server
// and, when QDRANT_TEST_ADDRESS is set, against a real one.
//
// What it answers, it answers as Qdrant 1.17 does: dense vectors by cosine, sparse
// ones with the IDF modifier, fusion by reciprocal rank, filters by keywords,
// integers, booleans, ranges and ids, and the same gRPC codes. What it does not know
// is Unimplemented, with the name of the field; there is no wrong answer.
//
// What differs from Qdrant, on purpose:
//   - Every search is exact: vectors are compared one by one. That serves some ten
//     thousand points; payload indexes are remembered and change nothing.
//   - Points with equal scores come in the order of their ids.
//   - A vector with NaN or infinity is refused. Qdrant takes it, and it comes first
//     in every search (github.com/qdrant/qdrant/issues/9201).
package qdrant
