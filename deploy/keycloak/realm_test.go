// Package keycloak_test reads the realm file as Keycloak would, without Keycloak:
// what must never be in it, and what must.
package keycloak_test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	accessv1 "bookworm/internal/gen/bookworm/access/v1"
)

type realm struct {
	Realm                    string `json:"realm"`
	SSLRequired              string `json:"sslRequired"`
	VerifyEmail              bool   `json:"verifyEmail"`
	PasswordPolicy           string `json:"passwordPolicy"`
	BruteForceProtected      bool   `json:"bruteForceProtected"`
	PermanentLockout         bool   `json:"permanentLockout"`
	FailureFactor            int    `json:"failureFactor"`
	DefaultSignature         string `json:"defaultSignatureAlgorithm"`
	AccessTokenLifespan      int    `json:"accessTokenLifespan"` // this and the next in seconds
	SSOSessionIdleTimeout    int    `json:"ssoSessionIdleTimeout"`
	SSOSessionMaxLifespan    int    `json:"ssoSessionMaxLifespan"`
	RevokeRefreshToken       bool   `json:"revokeRefreshToken"`
	RefreshTokenMaxReuse     int    `json:"refreshTokenMaxReuse"`
	EventsEnabled            bool   `json:"eventsEnabled"`
	AdminEventsEnabled       bool   `json:"adminEventsEnabled"`
	AdminEventsDetailEnabled bool   `json:"adminEventsDetailsEnabled"`
	Roles                    struct {
		Realm []role `json:"realm"`
	} `json:"roles"`
	DefaultRole struct {
		Name string `json:"name"`
	} `json:"defaultRole"`
	ClientScopes  []scope `json:"clientScopes"`
	ScopeMappings []struct {
		Client string   `json:"client"`
		Roles  []string `json:"roles"`
	} `json:"scopeMappings"`
	Clients []client `json:"clients"`
	Users   []user   `json:"users"`
}

type role struct {
	Name       string `json:"name"`
	Composites struct {
		Realm []string `json:"realm"`
	} `json:"composites"`
}

type scope struct {
	Name    string `json:"name"`
	Mappers []struct {
		Kind   string            `json:"protocolMapper"`
		Config map[string]string `json:"config"`
	} `json:"protocolMappers"`
}

type client struct {
	ID             string            `json:"clientId"`
	Public         bool              `json:"publicClient"`
	Code           bool              `json:"standardFlowEnabled"`
	Implicit       bool              `json:"implicitFlowEnabled"`
	Password       bool              `json:"directAccessGrantsEnabled"`
	ServiceAccount bool              `json:"serviceAccountsEnabled"`
	FullScope      bool              `json:"fullScopeAllowed"`
	Secret         string            `json:"secret"`
	RedirectURIs   []string          `json:"redirectUris"`
	WebOrigins     []string          `json:"webOrigins"`
	Attributes     map[string]string `json:"attributes"`
	DefaultScopes  []string          `json:"defaultClientScopes"`
	OptionalScopes []string          `json:"optionalClientScopes"`
	Authenticator  string            `json:"clientAuthenticatorType"`
}

type user struct {
	Username string   `json:"username"`
	Client   string   `json:"serviceAccountClientId"`
	Roles    []string `json:"realmRoles"`
	Password []any    `json:"credentials"`
}

const file = "bookworm-realm.json"

func read(t *testing.T) (string, realm) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r realm
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	return string(raw), r
}

// roleNames are the roles of the access rules, as tokens name them.
func roleNames() []string {
	var names []string
	for number, name := range accessv1.Role_name {
		if role := accessv1.Role(number); role != accessv1.Role_ROLE_UNSPECIFIED && role != accessv1.Role_ROLE_ANONYMOUS {
			names = append(names, strings.ToLower(strings.TrimPrefix(name, "ROLE_")))
		}
	}
	slices.Sort(names)
	return names
}

func TestRealmIsStrict(t *testing.T) {
	t.Parallel()
	_, r := read(t)
	for what, ok := range map[string]bool{
		"its name":                           r.Realm == "bookworm",
		"TLS from outside":                   r.SSLRequired == "external",
		"verified e-mail":                    r.VerifyEmail,
		"a password of 12":                   strings.Contains(r.PasswordPolicy, "length(12)"),
		"brute-force detection":              r.BruteForceProtected && !r.PermanentLockout && r.FailureFactor > 0 && r.FailureFactor <= 10,
		"an algorithm that the shop takes":   r.DefaultSignature == "RS256" || r.DefaultSignature == "ES256",
		"access tokens of 5 minutes at most": r.AccessTokenLifespan > 0 && r.AccessTokenLifespan <= 300,
		"sessions that end":                  r.SSOSessionIdleTimeout > 0 && r.SSOSessionIdleTimeout <= 1800 && r.SSOSessionMaxLifespan > 0 && r.SSOSessionMaxLifespan <= 12*3600,
		"refresh tokens that work once":      r.RevokeRefreshToken && r.RefreshTokenMaxReuse == 0,
		"events, without personal data":      r.EventsEnabled && r.AdminEventsEnabled && !r.AdminEventsDetailEnabled,
	} {
		if !ok {
			t.Errorf("the realm lacks %s", what)
		}
	}
}

func TestRolesAreTheShops(t *testing.T) {
	t.Parallel()
	_, r := read(t)
	var names []string
	for _, role := range r.Roles.Realm {
		if role.Name == r.DefaultRole.Name {
			if !slices.Equal(role.Composites.Realm, []string{"customer"}) {
				t.Errorf("who registers gets %v", role.Composites.Realm)
			}
			continue
		}
		names = append(names, role.Name)
	}
	slices.Sort(names)
	if want := roleNames(); !slices.Equal(names, want) {
		t.Errorf("roles %v, want %v", names, want)
	}
	// Whose tokens may carry which roles.
	may := make(map[string][]string)
	for _, m := range r.ScopeMappings {
		may[m.Client] = m.Roles
	}
	for _, c := range r.Clients {
		if c.FullScope {
			t.Errorf("%s may carry every role", c.ID)
		}
		if slices.Contains(may[c.ID], "service") != c.ServiceAccount {
			t.Errorf("%s may carry %v", c.ID, may[c.ID])
		}
		if c.Public && len(may[c.ID]) != len(roleNames())-1 {
			t.Errorf("%s may carry %v", c.ID, may[c.ID])
		}
	}
}

var placeholder = regexp.MustCompile(`^\$\{BOOKWORM_[A-Z_]+\}$`)

func TestClientsAreStrict(t *testing.T) {
	t.Parallel()
	_, r := read(t)
	clients := make(map[string]client)
	for _, c := range r.Clients {
		clients[c.ID] = c
		if c.Implicit || c.Password {
			t.Errorf("%s has a grant that nobody needs", c.ID)
		}
		if c.Code && c.Attributes["pkce.code.challenge.method"] != "S256" {
			t.Errorf("%s signs in without PKCE", c.ID)
		}
		if c.Public == c.ServiceAccount || c.Public != (c.Secret == "") || c.Code && !c.Public {
			t.Errorf("%s is neither a page nor a service", c.ID)
		}
		if !c.Public && (!placeholder.MatchString(c.Secret) || c.Authenticator != "client-secret") {
			t.Errorf("%s has the secret %q", c.ID, c.Secret)
		}
		if !slices.Contains(c.DefaultScopes, "bookworm-api") || slices.Contains(append(c.OptionalScopes, c.DefaultScopes...), "offline_access") {
			t.Errorf("%s has the scopes %v %v", c.ID, c.DefaultScopes, c.OptionalScopes)
		}
		addresses := slices.Concat(c.RedirectURIs, c.WebOrigins, strings.Split(c.Attributes["post.logout.redirect.uris"], "##"))
		for _, address := range addresses {
			if strings.ContainsAny(address, "*+") || strings.HasPrefix(address, "/") {
				t.Errorf("%s may go to %q", c.ID, address)
			}
		}
	}
	if c := clients["bookworm-web"]; len(c.RedirectURIs) == 0 || len(c.WebOrigins) == 0 || c.Attributes["post.logout.redirect.uris"] == "" {
		t.Errorf("the shop's page is %+v", c)
	}
}

// TestEveryContextIsAService: each API has a client, with token exchange, and each
// token may be exchanged by it; each service account has the service's role alone.
func TestEveryContextIsAService(t *testing.T) {
	t.Parallel()
	_, r := read(t)
	folders, err := filepath.Glob("../../internal/*/migrations")
	if err != nil || len(folders) == 0 {
		t.Fatalf("no contexts: %v", err)
	}
	contexts := []string{"basket"} // the one without a schema
	for _, folder := range folders {
		contexts = append(contexts, filepath.Base(filepath.Dir(folder)))
	}
	i := slices.IndexFunc(r.ClientScopes, func(s scope) bool { return s.Name == "bookworm-api" })
	if i < 0 {
		t.Fatal("there is no scope bookworm-api")
	}
	audience := make(map[string]bool)
	for _, m := range r.ClientScopes[i].Mappers {
		if m.Kind == "oidc-audience-mapper" && m.Config["access.token.claim"] == "true" {
			audience[m.Config["included.custom.audience"]+m.Config["included.client.audience"]] = true
		}
		if m.Kind == "oidc-usermodel-realm-role-mapper" && m.Config["claim.name"] != "realm_access.roles" {
			t.Errorf("roles are in %q", m.Config["claim.name"])
		}
	}
	if !audience["bookworm-api"] {
		t.Error("tokens are not for bookworm-api")
	}
	clients := make(map[string]client)
	for _, c := range r.Clients {
		clients[c.ID] = c
	}
	for _, name := range contexts {
		id := "bookworm-" + name
		if c := clients[id]; !c.ServiceAccount || c.Attributes["standard.token.exchange.enabled"] != "true" || !audience[id] {
			t.Errorf("%s cannot call for people", id)
		}
	}
	accounts := make(map[string]bool)
	for _, u := range r.Users {
		accounts[u.Client] = true
		if u.Client == "" || len(u.Password) > 0 || !slices.Equal(u.Roles, []string{"service"}) {
			t.Errorf("user %s of %q has roles %v", u.Username, u.Client, u.Roles)
		}
	}
	for id, c := range clients {
		if c.ServiceAccount != accounts[id] {
			t.Errorf("the service account of %s: %v, %v", id, c.ServiceAccount, accounts[id])
		}
	}
}

func TestRealmHoldsNoSecret(t *testing.T) {
	t.Parallel()
	raw, _ := read(t)
	for _, match := range regexp.MustCompile(`(?i)"(secret|password|privateKey|certificate|value|credentialData|secretData)": *("[^"]*")`).FindAllStringSubmatch(raw, -1) {
		if !regexp.MustCompile(`^"\$\{BOOKWORM_[A-Z_]+:?\}"$`).MatchString(match[2]) {
			t.Errorf("the file has %s", match[0])
		}
	}
	if strings.Contains(raw, "BEGIN ") || strings.Contains(raw, `"components"`) {
		t.Error("the file has keys of its own")
	}
}

// TestStartRefusesMissingVariables runs the script without Keycloak.
func TestStartRefusesMissingVariables(t *testing.T) {
	t.Parallel()
	raw, _ := read(t)
	all := make(map[string]string)
	for _, match := range regexp.MustCompile(`\$\{(BOOKWORM_[A-Z_]+)\}`).FindAllStringSubmatch(raw, -1) {
		all[match[1]] = "a value that is longer than any guess is"
	}
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	// What stands for Keycloak says how it was called.
	if err := os.WriteFile(filepath.Join(home, "bin", "kc.sh"), []byte("#!/bin/sh\necho \"$@\" \"$BOOKWORM_CHAT_CLIENT_SECRET\"\n"), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	start := func(change func(map[string]string)) (string, error) {
		environ := maps.Clone(all)
		change(environ)
		command := exec.CommandContext(t.Context(), "./start", "start")
		command.Env = []string{"KEYCLOAK_HOME=" + home, "PATH=" + os.Getenv("PATH")}
		for name, value := range environ {
			command.Env = append(command.Env, name+"="+value)
		}
		said, err := command.CombinedOutput()
		return string(said), err
	}
	const secret = "BOOKWORM_CHAT_CLIENT_SECRET"
	if said, err := start(func(map[string]string) {}); err != nil || said != "start --import-realm "+all[secret]+"\n" {
		t.Errorf("got %q, %v", said, err)
	}
	if _, err := os.Stat(filepath.Join(home, "data", "import", file)); err != nil {
		t.Error(err)
	}
	kept := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(kept, []byte("the secret in a file, long enough too\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := start(func(e map[string]string) { delete(e, secret); e[secret+"_FILE"] = kept })
	if err != nil || !strings.HasSuffix(said, "the secret in a file, long enough too\n") {
		t.Errorf("got %q, %v", said, err)
	}
	for name := range all {
		if said, err := start(func(e map[string]string) { delete(e, name) }); err == nil || said != name+" is not set\n" {
			t.Errorf("without %s: %q, %v", name, said, err)
		}
	}
	if said, err := start(func(e map[string]string) { e[secret] = "short" }); err == nil || said != secret+" has fewer than 32 characters\n" {
		t.Errorf("with a short secret: %q, %v", said, err)
	}
}
