// Package identitytest is an OpenID provider for tests: it serves discovery and
// keys over real HTTP, answers services that know the Secret, and signs whatever
// tokens a test asks for.
package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Audience is the audience of the tokens that Token makes.
const Audience = "bookworm"

// Secret is the secret of every service, whatever its client id.
const Secret = "secret"

// Provider is a running provider. It is safe for concurrent use.
type Provider struct {
	// Issuer is the provider's address and the iss of its tokens.
	Issuer string
	// Fetches counts how often the keys were asked for.
	Fetches atomic.Int64
	// Exchanges counts how often a token was exchanged.
	Exchanges atomic.Int64

	t    testing.TB
	down atomic.Bool

	mu     sync.Mutex
	signer jose.SigningKey
	public jose.JSONWebKeySet
}

// New starts a provider with an RSA key, for as long as the test runs.
func New(t testing.TB) *Provider {
	t.Helper()
	p := &Provider{t: t}
	p.Rotate("first", jose.RS256)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		p.answer(w, map[string]any{
			"issuer": p.Issuer, "jwks_uri": p.KeysURL(), "token_endpoint": p.Issuer + "/token",
			"authorization_endpoint":                p.Issuer + "/authorize",
			"id_token_signing_alg_values_supported": []string{"RS256", "ES256", "HS256", "none"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		p.Fetches.Add(1)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.answer(w, p.public)
	})
	mux.HandleFunc("POST /token", p.serveToken)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	p.Issuer = server.URL
	return p
}

// serveToken gives services tokens of their own (client credentials) and of the
// people they serve (token exchange).
func (p *Provider) serveToken(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	client, secret, ok := r.BasicAuth()
	if !ok || secret != Secret {
		refuse(w, http.StatusUnauthorized, "invalid_client")
		return
	}
	switch r.FormValue("grant_type") {
	case "client_credentials":
		p.answer(w, map[string]any{"access_token": p.Token("service-account-"+client, "service"), "token_type": "Bearer", "expires_in": 300})
	case "urn:ietf:params:oauth:grant-type:token-exchange":
		p.Exchanges.Add(1)
		claims, err := p.read(r.FormValue("subject_token"))
		if err != nil {
			refuse(w, http.StatusBadRequest, "invalid_request")
			return
		}
		claims["azp"] = client
		p.answer(w, map[string]any{"access_token": p.Sign(claims), "token_type": "Bearer", "expires_in": 300})
	default:
		refuse(w, http.StatusBadRequest, "unsupported_grant_type")
	}
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `{"error":"`+code+`"}`)
}

// read returns the claims of a token of this provider.
func (p *Provider) read(raw string) (map[string]any, error) {
	token, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		return nil, err
	}
	claims := make(map[string]any)
	return claims, token.Claims(p.PublicKey(), &claims)
}

// KeysURL is where the provider's keys are.
func (p *Provider) KeysURL() string { return p.Issuer + "/keys" }

// SetDown makes the provider answer 503 to everything, or no longer.
func (p *Provider) SetDown(down bool) { p.down.Store(down) }

func (p *Provider) answer(w http.ResponseWriter, v any) {
	if p.down.Load() {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		p.t.Logf("the provider's answer was not sent: %v", err)
	}
}

// Rotate replaces the provider's key by a new one of that id, for RS256 or ES256.
func (p *Provider) Rotate(keyID string, algorithm jose.SignatureAlgorithm) {
	p.t.Helper()
	private := NewKey(p.t, algorithm)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signer = jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: private, KeyID: keyID}}
	p.public = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: private.Public(), KeyID: keyID, Algorithm: string(algorithm), Use: "sig"}}}
}

// NewKey makes a private key for RS256 or ES256.
func NewKey(t testing.TB, algorithm jose.SignatureAlgorithm) crypto.Signer {
	t.Helper()
	var private crypto.Signer
	var err error
	if algorithm == jose.ES256 {
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	return private
}

// PublicKey is the provider's current public key.
func (p *Provider) PublicKey() crypto.PublicKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.public.Keys[0].Key
}

// Claims are those of a good token of that subject and those roles, ending in an
// hour, for a test to spoil.
func (p *Provider) Claims(subject string, roles ...string) map[string]any {
	return map[string]any{
		"iss": p.Issuer, "sub": subject, "aud": Audience,
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		"email": subject + "@bookworm.example", "email_verified": true, "name": "Name of " + subject,
		"realm_access": map[string]any{"roles": roles},
	}
}

// Token returns a good token.
func (p *Provider) Token(subject string, roles ...string) string {
	p.t.Helper()
	return p.Sign(p.Claims(subject, roles...))
}

// Sign returns a token of these claims under the provider's current key.
func (p *Provider) Sign(claims map[string]any) string {
	p.t.Helper()
	p.mu.Lock()
	key := p.signer
	p.mu.Unlock()
	return SignWith(p.t, key, claims)
}

// SignAs returns a token of these claims under the provider's current RSA key,
// but by another algorithm.
func (p *Provider) SignAs(algorithm jose.SignatureAlgorithm, claims map[string]any) string {
	p.t.Helper()
	p.mu.Lock()
	key := p.signer
	p.mu.Unlock()
	key.Algorithm = algorithm
	return SignWith(p.t, key, claims)
}

// SignWith returns a token of these claims under any key.
func SignWith(t testing.TB, key jose.SigningKey, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatalf("make a signer: %v", err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatalf("sign a token: %v", err)
	}
	return token
}
