package identity

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Audience is what access tokens are for.
const Audience = "bookworm-api"

// The clients.
const (
	ClientWeb     = "bookworm-web"
	ClientCLI     = "bookworm-cli"
	ClientService = "bookworm-service"
)

// services are the confidential clients: one for a shop that runs in one process,
// and one for each process of the realm in deploy/keycloak.
var services = []string{
	ClientService, "bookworm-catalog", "bookworm-basket", "bookworm-ordering", "bookworm-finance", "bookworm-notification",
	"bookworm-rating", "bookworm-chat", "bookworm-compliance", "bookworm-gateway",
}

const grantTypePassword = "password"

// serviceSubject is the sub of a service's own tokens.
func serviceSubject(client string) string {
	if client == ClientService {
		return "0b00c000-0000-4000-8000-000000000004"
	}
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(client)).String()
}

// Person is someone who can sign in. The password is the username.
type Person struct {
	Username   string
	Subject    string // a UUID, the same on every machine
	Email      string
	GivenName  string
	FamilyName string
	Roles      []string
}

// Name is the full name.
func (p Person) Name() string { return p.GivenName + " " + p.FamilyName }

var people = []Person{
	{
		Username: "alice", Subject: "0b00c000-0000-4000-8000-000000000001", Email: "alice@bookworm.example",
		GivenName: "Alice", FamilyName: "Appleby", Roles: []string{"customer"},
	},
	{
		Username: "bob", Subject: "0b00c000-0000-4000-8000-000000000002", Email: "bob@bookworm.example",
		GivenName: "Bob", FamilyName: "Baker", Roles: []string{"customer"},
	},
	{
		Username: "ops", Subject: "0b00c000-0000-4000-8000-000000000003", Email: "ops@bookworm.example",
		GivenName: "Olivia", FamilyName: "Park", Roles: []string{"admin", "customer"},
	},
	{
		Username: "sam", Subject: "0b00c000-0000-4000-8000-000000000005", Email: "sam@bookworm.example",
		GivenName: "Sam", FamilyName: "Porter", Roles: []string{"support"},
	},
	{
		Username: "rita", Subject: "0b00c000-0000-4000-8000-000000000006", Email: "rita@bookworm.example",
		GivenName: "Rita", FamilyName: "Reed", Roles: []string{"reporter"},
	},
}

// People returns those who can sign in.
func People() []Person { return slices.Clone(people) }

func personByUsername(username string) (Person, bool) {
	i := slices.IndexFunc(people, func(p Person) bool { return p.Username == username })
	if i < 0 {
		return Person{}, false
	}
	return people[i], true
}

func personBySubject(subject string) (Person, bool) {
	i := slices.IndexFunc(people, func(p Person) bool { return p.Subject == subject })
	if i < 0 {
		return Person{}, false
	}
	return people[i], true
}

// privateClaims are the claims of an access token beyond the registered ones, named and shaped as Keycloak's.
func privateClaims(g *grant) map[string]any {
	claims := map[string]any{"typ": "Bearer", "azp": g.Client, "scope": strings.Join(g.Scopes, " ")}
	if g.Subject == serviceSubject(g.Client) {
		claims["preferred_username"] = "service-account-" + g.Client
		claims["email_verified"] = false
		claims["realm_access"] = map[string]any{"roles": []string{"service"}}
		return claims
	}
	p, ok := personBySubject(g.Subject)
	if !ok {
		return claims
	}
	claims["preferred_username"] = p.Username
	claims["name"] = p.Name()
	claims["given_name"] = p.GivenName
	claims["family_name"] = p.FamilyName
	claims["email"] = p.Email
	claims["email_verified"] = true
	claims["realm_access"] = map[string]any{"roles": p.Roles}
	return claims
}

// client is one of the clients; it implements op.Client.
type client struct {
	id         string
	auth       oidc.AuthMethod
	grants     []oidc.GrantType
	redirects  []string
	postLogout []string
}

func (c *client) GetID() string                    { return c.id }
func (c *client) RedirectURIs() []string           { return c.redirects }
func (c *client) PostLogoutRedirectURIs() []string { return c.postLogout }
func (c *client) ApplicationType() op.ApplicationType {
	return op.ApplicationTypeUserAgent // native would accept any port at a loopback address
}
func (c *client) AuthMethod() oidc.AuthMethod { return c.auth }
func (c *client) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}
func (c *client) GrantTypes() []oidc.GrantType         { return c.grants }
func (c *client) LoginURL(id string) string            { return signInPath + "?id=" + id }
func (c *client) AccessTokenType() op.AccessTokenType  { return op.AccessTokenTypeJWT }
func (c *client) IDTokenLifetime() time.Duration       { return time.Hour }
func (c *client) DevMode() bool                        { return true } // http redirects on loopback
func (c *client) IsScopeAllowed(string) bool           { return false }
func (c *client) IDTokenUserinfoClaimsAssertion() bool { return true }
func (c *client) ClockSkew() time.Duration             { return 0 }

//nolint:revive,staticcheck // the name is the op package's
func (c *client) RestrictAdditionalIdTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}

func (c *client) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}

// knownScopes are those of the requested scopes that exist; none requested means Keycloak's default.
func knownScopes(requested []string) []string {
	if len(requested) == 0 {
		return []string{oidc.ScopeProfile, oidc.ScopeEmail}
	}
	known := []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeEmail, oidc.ScopeOfflineAccess}
	return slices.DeleteFunc(slices.Clone(requested), func(s string) bool { return !slices.Contains(known, s) })
}
