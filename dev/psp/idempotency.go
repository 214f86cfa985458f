package psp

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
)

// fingerprint identifies the request that a key was first used with.
func (c *call) fingerprint() string {
	sum := sha256.Sum256([]byte(c.method + " " + c.path + "?" + url.Values(c.form).Encode()))
	return hex.EncodeToString(sum[:])
}

// acquireKey locks the request's idempotency key until releaseKey. It returns
// the first answer when the key has one.
func (s *Server) acquireKey(c *call) (*answer, *apiError) {
	if c.key == "" {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inFlight[c.key] {
		return nil, &apiError{
			Status: http.StatusConflict, Type: typeIdempotency, Code: "idempotency_key_in_use",
			Message: "There is currently another in-progress request using this Idempotent Key (that probably means you submitted twice, and the other request is still going through). Please try again later.",
		}
	}
	kept, ok := s.state.answers[c.key]
	if ok && kept.Fingerprint != c.fingerprint() {
		return nil, &apiError{
			Status: http.StatusBadRequest, Type: typeIdempotency,
			Message: "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key other than '" + c.key + "' if you meant to execute a different request.",
		}
	}
	s.inFlight[c.key] = true
	if ok {
		return &kept, nil
	}
	return nil, nil
}

func (s *Server) releaseKey(c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.inFlight, c.key)
}
