// Package catalogtest proves the catalogue's search index and its processes on
// PostgreSQL, Temporal and the stand-ins for Qdrant and the embedding model. It holds
// tests only. Those of the processes record their histories for the replay tests:
//
//	go test ./catalogtest -record
//
// Recordings are made once, when a path is new; see CONTRIBUTING.md.
package catalogtest
