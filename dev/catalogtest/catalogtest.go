// Package catalogtest proves the catalogue's search index and its processes on
// PostgreSQL, Temporal and the stand-ins for Qdrant and the embedding model. It holds
// tests only.
package catalogtest
