package gateway

import (
	"net/http"
	"regexp"
	"strings"

	"bookworm/internal/fault"
)

// headerForms are headers that the libraries of the protocols read, and what they
// look like: what they say of another form tells how they are made.
var headerForms = map[string]struct {
	form    *regexp.Regexp
	problem string
}{
	// Milliseconds, of the Connect protocol; and a number and a unit, of gRPC.
	"Connect-Timeout-Ms": {regexp.MustCompile(`^[0-9]{1,10}$`), "must be a number of milliseconds"},
	"Grpc-Timeout":       {regexp.MustCompile(`^[0-9]{1,8}[HMSmun]$`), "must be a number and a unit"},
}

// checkHeaders returns nil or the fault of a header that cannot be read. What is
// wrong with the trace of a caller is dropped, because it is of no effect.
func checkHeaders(r *http.Request) *fault.Error {
	if r.Host == "" {
		return fault.New(fault.ReasonMalformedRequest, "Send a Host header.").WithField("Host", "is missing")
	}
	for name, known := range headerForms {
		for i, value := range r.Header.Values(name) {
			if i > 0 || !known.form.MatchString(value) {
				return fault.New(fault.ReasonMalformedRequest, "The %s header %s.", name, known.problem).WithField(name, known.problem)
			}
		}
	}
	for _, name := range []string{"Traceparent", "Tracestate"} {
		for _, value := range r.Header.Values(name) {
			if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c > '~' }) {
				r.Header.Del(name)
				break
			}
		}
	}
	return nil
}
