package identity_test

import (
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	"bookworm/dev/identity"
	"bookworm/internal/personal"
)

// provider is an OpenID provider that the conformance tests run against.
type provider interface {
	// issuer is the public address, without a trailing slash, and inside the one at
	// which the shop's services reach the same realm.
	issuer() string
	inside() string
	// secret is that of a service.
	secret(client string) personal.Text
	// person returns somebody with the role, and of customers somebody else than bob.
	person(t *testing.T, role string) account
	// unverified returns an access token of somebody whose e-mail address nobody has
	// verified.
	unverified(t *testing.T) string
	// rotate signs with a new key from now on and goes on publishing the old one;
	// withdraw publishes it no more.
	rotate(t *testing.T)
	withdraw(t *testing.T)
}

// account is a person who can sign in.
type account struct {
	username, password string
	subject, email     string
}

// kind says which realm a test needs.
type kind string

const (
	ordinary kind = "bookworm"
	rotating kind = "bookworm-rotating" // one whose keys the test may change
	brief    kind = "bookworm-brief"    // one whose access tokens last briefLife
)

const briefLife = 3 * time.Second

// everywhere runs a test against the embedded provider and, where KEYCLOAK_HOME says
// where one is, against a real Keycloak.
func everywhere(t *testing.T, which kind, test func(*testing.T, provider)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t, newEmbedded(t, which))
	})
	t.Run("keycloak", func(t *testing.T) {
		t.Parallel()
		test(t, theKeycloak(t).realm(which))
	})
}

// embedded is a provider of its own for each test.
type embedded struct {
	*identity.Server

	door string
}

func newEmbedded(t *testing.T, which kind) *embedded {
	t.Helper()
	options := identity.Options{}
	if which == brief {
		options.AccessTokenLifetime = briefLife
	}
	server := start(t, options)
	// The same server under another address, as from inside a cluster.
	at, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	door := httptest.NewServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: at.Scheme, Host: at.Host}))
	t.Cleanup(door.Close)
	return &embedded{server, door.URL + at.Path}
}

func (e *embedded) issuer() string              { return e.URL() }
func (e *embedded) inside() string              { return e.door }
func (e *embedded) secret(string) personal.Text { return identity.DefaultServiceSecret }

func (e *embedded) person(t *testing.T, role string) account {
	t.Helper()
	name, ok := map[string]string{"customer": "alice", "admin": "ops", "support": "sam", "reporter": "rita"}[role]
	if !ok {
		t.Fatalf("nobody is %s", role)
	}
	for _, p := range identity.People() {
		if p.Username == name {
			return account{username: name, password: name, subject: p.Subject, email: p.Email}
		}
	}
	t.Fatalf("there is no %s", name)
	return account{}
}

func (e *embedded) unverified(t *testing.T) string {
	t.Helper()
	token, err := e.IssueWith("alice", map[string]any{"email_verified": false})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (e *embedded) rotate(t *testing.T) {
	t.Helper()
	if err := e.RotateKey(); err != nil {
		t.Fatal(err)
	}
}

func (e *embedded) withdraw(*testing.T) { e.WithdrawKeys() }
