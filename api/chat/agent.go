package chat

import (
	"bytes"
	"net/http"
	"regexp"
	"strings"

	"bookworm/internal/fault"
)

// libraryWords is what the libraries of MCP and A2A say of a message that they
// cannot decode, up to the end of the JSON string: it names their Go types.
var libraryWords = regexp.MustCompile(`(?:json: |unmarshaling |malformed payload: )(?:[^"\\]|\\.)*`)

const unreadable = "it cannot be read"

// agentWriter keeps what the libraries say out of the answers to other people's
// agents: a refusal outside of the protocol, which they write as text with the
// message in it, becomes a problem, and their words about types are replaced.
type agentWriter struct {
	http.ResponseWriter

	begun, refused bool
}

// WriteHeader implements http.ResponseWriter.
func (w *agentWriter) WriteHeader(status int) {
	if w.begun {
		return
	}
	w.begun = true
	header := w.Header()
	if status < http.StatusBadRequest || !strings.HasPrefix(header.Get("Content-Type"), "text/plain") {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.refused = true
	f := fault.New(fault.ReasonMalformedRequest, "This is no request of the protocol.")
	if status >= http.StatusInternalServerError {
		f = fault.New(fault.ReasonInternal, "")
	}
	header.Del("Content-Length")
	writeAgentProblem(w.ResponseWriter, status, f)
}

// Write implements http.ResponseWriter.
func (w *agentWriter) Write(p []byte) (int, error) {
	if !w.begun {
		if bytes.HasPrefix(p, []byte("{")) { // A2A's errors come without a type
			w.Header().Set("Content-Type", "application/json")
		}
		w.WriteHeader(http.StatusOK)
	}
	if w.refused {
		return len(p), nil
	}
	out := p
	if bytes.Contains(p, []byte(`"error":`)) && libraryWords.Match(p) {
		w.Header().Del("Content-Length")
		out = libraryWords.ReplaceAll(p, []byte(unreadable))
	}
	if _, err := w.ResponseWriter.Write(out); err != nil {
		return 0, err //nolint:wrapcheck // a writer in a chain
	}
	return len(p), nil
}

// Flush implements http.Flusher, which A2A's streams ask for by name.
func (w *agentWriter) Flush() {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	_ = http.NewResponseController(w.ResponseWriter).Flush() // a connection that is gone shows when it is written to
}

// Unwrap lets http.ResponseController reach the connection.
func (w *agentWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
