// Package identity is an OpenID provider with a sign-in page and five people, for
// development and tests. Keycloak takes its place in production, with the realm in
// deploy/keycloak: addresses, grants and the names of claims are the same, and one
// suite of tests runs against both.
//
// People: alice and bob (role customer), ops (roles admin and customer), sam
// (support) and rita (reporter). A person's password is the username; after 5 wrong
// ones nobody gets in under that name for a minute.
//
// Clients: bookworm-web (public, authorization code with PKCE), bookworm-cli
// (public, password grant) and the services (confidential, client credentials with
// role service, token exchange): bookworm-service, and one for each context.
//
// What differs from Keycloak, on purpose:
//   - There is no session: each authorization shows the sign-in page, and an access
//     token can be exchanged after its person has signed out.
//   - An exchanged token ends no later than the one it was made from.
//   - A sign-in that was under way is lost in a restart; tokens are not.
package identity
