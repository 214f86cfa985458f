// Package identity is an OpenID provider with a sign-in page and three people,
// for development and tests. Keycloak takes its place in production: addresses,
// grants and the names of claims are those of a Keycloak realm called bookworm.
//
// People: alice and bob (role customer) and ops (roles admin and customer). A
// person's password is the username.
//
// Clients: bookworm-web (public, authorization code with PKCE), bookworm-cli
// (public, password grant) and bookworm-service (confidential, client
// credentials, role service).
//
// What differs from Keycloak, on purpose:
//   - There is no session cookie: each authorization shows the sign-in page.
//   - A refresh token needs the scope offline_access and works once.
//   - A sign-in that was under way is lost in a restart; tokens are not.
package identity
