package compliance

// Digest is open to the tests.
func (e *AuditEntry) Digest() Hash { return e.digest() }
