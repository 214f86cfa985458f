// Package identity says who is calling: it verifies the access tokens of people
// and services, carries the verified caller in the context, fetches the shop's
// own service tokens, and exchanges a caller's token for one with which a service
// calls another for the same person.
package identity

import (
	"context"
	"slices"

	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	"bookworm/internal/personal"
)

// Caller is who makes a call, as a verified access token says. The zero Caller
// is anonymous.
type Caller struct {
	// Subject is the provider's stable id of the person or service; it owns
	// baskets and orders.
	Subject string
	// Client is the application that the token was issued to: the shop's page, or a
	// service that calls for the subject or for itself. Rules don't depend on it; logs
	// and records may name it.
	Client string
	// Roles are the roles the shop knows; others in the token are ignored.
	Roles []accessv1.Role
	// Email is empty where the token does not carry a verified one, Name where it
	// does not carry it.
	Email, Name personal.Text
}

// Anonymous reports whether nobody is signed in.
func (c Caller) Anonymous() bool { return c.Subject == "" }

// Has reports whether the caller has the role. Everybody has ROLE_ANONYMOUS.
func (c Caller) Has(role accessv1.Role) bool {
	return role == accessv1.Role_ROLE_ANONYMOUS || slices.Contains(c.Roles, role)
}

type callerKey struct{}

// WithCaller returns a context that carries the caller.
func WithCaller(ctx context.Context, caller Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, caller)
}

// FromContext returns the caller that WithCaller stored, or the anonymous one.
func FromContext(ctx context.Context) Caller {
	caller, _ := ctx.Value(callerKey{}).(Caller)
	return caller
}
