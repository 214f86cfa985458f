// Package histories runs the shop's workflows on the real Temporal server, one
// test for each path, and records their histories for the replay tests:
//
//	go test ./histories -record
//
// Recordings are made once, when a path is new. A changed workflow must replay
// those that are there; see CONTRIBUTING.md.
package histories
