package identity

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	"bookworm/internal/identity/identitytest"
)

func setup(t testing.TB) (*identitytest.Provider, *Verifier) {
	t.Helper()
	provider := identitytest.New(t)
	return provider, newVerifier(t, VerifierConfig{Issuer: provider.Issuer, Audience: identitytest.Audience})
}

func newVerifier(t testing.TB, config VerifierConfig) *Verifier {
	t.Helper()
	verifier, err := NewVerifier(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return verifier
}

func TestVerifyReadsTheCaller(t *testing.T) {
	t.Parallel()
	provider, verifier := setup(t)
	for range 2 { // the second time from memory
		caller, err := verifier.Verify(t.Context(), provider.Token("alice", "customer", "offline_access", "admin", "customer"))
		if err != nil {
			t.Fatal(err)
		}
		if caller.Subject != "alice" || string(caller.Email) != "alice@bookworm.example" || string(caller.Name) != "Name of alice" {
			t.Errorf("got %q %q %q", caller.Subject, string(caller.Email), string(caller.Name))
		}
		if want := []accessv1.Role{accessv1.Role_ROLE_CUSTOMER, accessv1.Role_ROLE_ADMIN}; !slices.Equal(caller.Roles, want) {
			t.Errorf("roles %v, want %v", caller.Roles, want)
		}
	}
}

func TestServiceRoleComesOnlyFromTheRole(t *testing.T) {
	t.Parallel()
	provider, verifier := setup(t)
	claims := provider.Claims("service-account-ordering")
	claims["client_id"], claims["preferred_username"] = "bookworm-ordering", "service-account-ordering"
	claims["resource_access"] = map[string]any{"account": map[string]any{"roles": []string{"service", "admin"}}}
	claims["roles"] = []string{"service"}
	caller, err := verifier.Verify(t.Context(), provider.Sign(claims))
	if err != nil || len(caller.Roles) != 0 || caller.Client != "bookworm-ordering" {
		t.Errorf("got %v, %v", caller, err)
	}
	caller, err = verifier.Verify(t.Context(), provider.Token("service-account-ordering", "service"))
	if err != nil || !caller.Has(accessv1.Role_ROLE_SERVICE) {
		t.Errorf("got %v, %v", caller.Roles, err)
	}
}

func TestEveryRoleHasItsName(t *testing.T) {
	t.Parallel()
	for number, name := range accessv1.Role_name {
		role := accessv1.Role(number)
		if role == accessv1.Role_ROLE_UNSPECIFIED || role == accessv1.Role_ROLE_ANONYMOUS {
			continue
		}
		if roles[strings.ToLower(strings.TrimPrefix(name, "ROLE_"))] != role {
			t.Errorf("no token can carry %s", name)
		}
	}
}

func TestForgedTokensAreRefused(t *testing.T) {
	t.Parallel()
	provider, verifier := setup(t)
	good := provider.Token("alice", "customer")
	if _, err := verifier.Verify(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	claims := func(key string, value any) map[string]any {
		c := provider.Claims("alice", "customer")
		c[key] = value
		return c
	}
	public, err := x509.MarshalPKIXPublicKey(provider.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	stranger := jose.JSONWebKey{Key: identitytest.NewKey(t, jose.RS256), KeyID: "first"}
	unknown := jose.JSONWebKey{Key: identitytest.NewKey(t, jose.RS256), KeyID: "unknown"}
	header := func(h string) string { return base64.RawURLEncoding.EncodeToString([]byte(h)) }
	admin, err := json.Marshal(provider.Claims("alice", "admin"))
	if err != nil {
		t.Fatal(err)
	}
	other := provider.Claims("alice", "customer")

	for name, token := range map[string]string{
		"empty":                 "",
		"garbage":               "garbage",
		"three dots":            "...",
		"half":                  parts[0] + "." + parts[1],
		"expired":               provider.Sign(claims("exp", time.Now().Add(-time.Second).Unix())),
		"never ends":            provider.Sign(claims("exp", nil)),
		"not yet":               provider.Sign(claims("nbf", time.Now().Add(time.Hour).Unix())),
		"other audience":        provider.Sign(claims("aud", "account")),
		"no audience":           provider.Sign(claims("aud", nil)),
		"other issuer":          provider.Sign(claims("iss", "https://evil.example")),
		"issuer with a slash":   provider.Sign(claims("iss", provider.Issuer+"/")),
		"no subject":            provider.Sign(claims("sub", "")),
		"long subject":          provider.Sign(claims("sub", strings.Repeat("a", 256))),
		"roles of another kind": provider.Sign(claims("realm_access", map[string]any{"roles": "admin"})),
		"none":                  header(`{"alg":"none","typ":"JWT"}`) + "." + parts[1] + ".",
		"none with signature":   header(`{"alg":"none","typ":"JWT"}`) + "." + parts[1] + "." + parts[2],
		"HS256 with the public key": identitytest.SignWith(t,
			jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: publicPEM, KeyID: "first"}}, other),
		"HS256 with the key's DER": identitytest.SignWith(t,
			jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: public, KeyID: "first"}}, other),
		"PS256 with the right key": provider.SignAs(jose.PS256, other),
		"RS512 with the right key": provider.SignAs(jose.RS512, other),
		"a stranger's key":         identitytest.SignWith(t, jose.SigningKey{Algorithm: jose.RS256, Key: stranger}, other),
		"an unknown key":           identitytest.SignWith(t, jose.SigningKey{Algorithm: jose.RS256, Key: unknown}, other),
		"other claims":             parts[0] + "." + base64.RawURLEncoding.EncodeToString(admin) + "." + parts[2],
		"signature of another one": parts[0] + "." + parts[1] + "." + strings.Split(provider.Token("bob", "customer"), ".")[2],
	} {
		if caller, err := verifier.Verify(t.Context(), token); !fault.Is(err, fault.ReasonTokenInvalid) || !caller.Anonymous() {
			t.Errorf("%s: got %v, %v", name, caller, err)
		}
	}
}

func TestForgedTokensDoNotFloodTheProvider(t *testing.T) {
	t.Parallel()
	provider, verifier := setup(t)
	unknown := jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: identitytest.NewKey(t, jose.RS256), KeyID: "unknown"}}
	for i := range 50 {
		if _, err := verifier.Verify(t.Context(), identitytest.SignWith(t, unknown, provider.Claims(fmt.Sprint(i)))); err == nil {
			t.Fatal("a forged token was taken")
		}
	}
	if fetches := provider.Fetches.Load(); fetches > 2 {
		t.Errorf("the keys were fetched %d times", fetches)
	}
}

func TestKeysRotate(t *testing.T) {
	t.Parallel()
	provider, verifier := setup(t)
	unthrottle(verifier)
	old := provider.Token("alice", "customer")
	for _, algorithm := range []jose.SignatureAlgorithm{jose.ES256, jose.RS256} {
		provider.Rotate("key of "+string(algorithm), algorithm)
		if _, err := verifier.Verify(t.Context(), provider.Token("alice", "customer")); err != nil {
			t.Fatalf("%s: %v", algorithm, err)
		}
	}
	if _, err := verifier.Verify(t.Context(), old); !fault.Is(err, fault.ReasonTokenInvalid) {
		t.Errorf("a withdrawn key still counts: %v", err)
	}
}

func unthrottle(v *Verifier) { v.client.Transport.(*throttle).interval = 0 }

func TestAWithdrawnKeyStopsWorking(t *testing.T) {
	t.Parallel()
	provider := identitytest.New(t)
	verifier := newVerifier(t, VerifierConfig{Issuer: provider.Issuer, Audience: identitytest.Audience, KeysFor: 500 * time.Millisecond})
	unthrottle(verifier)
	token := provider.Token("alice", "customer")
	if _, err := verifier.Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	// No token of the new key comes, so nothing but time says that the old one is gone.
	withdrawn := time.Now()
	provider.Rotate("second", jose.RS256)
	for {
		_, err := verifier.Verify(t.Context(), token)
		if fault.Is(err, fault.ReasonTokenInvalid) {
			return
		}
		if err != nil || time.Since(withdrawn) > 10*time.Second {
			t.Fatalf("a withdrawn key still counts: %v", err)
		}
	}
}

func TestKnownKeysOutliveTheProvider(t *testing.T) {
	t.Parallel()
	provider := identitytest.New(t)
	verifier := newVerifier(t, VerifierConfig{Issuer: provider.Issuer, Audience: identitytest.Audience, KeysFor: time.Millisecond})
	unthrottle(verifier)
	token := provider.Token("alice", "customer")
	if _, err := verifier.Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	provider.SetDown(true)
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); { // many looks at old keys
		if _, err := verifier.Verify(t.Context(), token); err != nil {
			t.Fatalf("the provider is away: %v", err)
		}
	}
}

func TestOnlyAVerifiedEmailIsBelieved(t *testing.T) {
	t.Parallel()
	provider, verifier := setup(t)
	for _, said := range []any{false, nil} {
		claims := provider.Claims("alice", "customer")
		claims["email_verified"] = said
		caller, err := verifier.Verify(t.Context(), provider.Sign(claims))
		if err != nil || caller.Email != "" || caller.Name == "" {
			t.Errorf("email_verified %v: got %q, %v", said, string(caller.Email), err)
		}
	}
}

func TestRememberedTokensEnd(t *testing.T) {
	t.Parallel()
	provider, verifier := setup(t)
	claims := provider.Claims("alice")
	end := time.Now().Truncate(time.Second).Add(2 * time.Second)
	claims["exp"] = end.Unix()
	token := provider.Sign(claims)
	if _, err := verifier.Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	for { // until the token's end, which is the condition
		_, err := verifier.Verify(t.Context(), token)
		if err != nil {
			if !fault.Is(err, fault.ReasonTokenInvalid) || time.Now().Before(end) {
				t.Errorf("at %v: %v", time.Until(end), err)
			}
			return
		}
		if time.Now().After(end.Add(5 * time.Second)) {
			t.Fatal("an expired token is still believed")
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	_, verifier := setup(t)
	for i := range cacheSize + 10 {
		var key [32]byte
		key[0], key[1], key[2] = byte(i), byte(i>>8), 1
		verifier.remember(key, verified{until: time.Now().Add(time.Hour)})
	}
	if len(verifier.cache) > cacheSize {
		t.Errorf("%d tokens are remembered", len(verifier.cache))
	}
	for _, entry := range verifier.cache {
		if time.Until(entry.until) > time.Hour {
			t.Fatal("a token is remembered for too long")
		}
		break
	}
}

func TestProviderMayComeLater(t *testing.T) {
	t.Parallel()
	for name, jwks := range map[string]bool{"by discovery": false, "by key address": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			provider := identitytest.New(t)
			provider.SetDown(true)
			config := VerifierConfig{Issuer: provider.Issuer, Audience: identitytest.Audience}
			if jwks {
				config.JWKSURL = provider.KeysURL()
			}
			verifier := newVerifier(t, config)
			token := provider.Token("alice", "customer")
			if _, err := verifier.Verify(t.Context(), token); !fault.Is(err, fault.ReasonUnavailable) {
				t.Fatalf("got %v while the provider is down", err)
			}
			provider.SetDown(false)
			for end := time.Now().Add(10 * time.Second); ; {
				_, err := verifier.Verify(t.Context(), token)
				if err == nil {
					return
				}
				if !fault.Is(err, fault.ReasonUnavailable) || time.Now().After(end) {
					t.Fatalf("the provider is back: %v", err)
				}
			}
		})
	}
}

func TestKeysFromInsideUnderThePublicIssuer(t *testing.T) {
	t.Parallel()
	provider := identitytest.New(t)
	inside := provider.KeysURL()
	const public = "https://id.bookworm.example/realms/bookworm"
	verifier := newVerifier(t, VerifierConfig{Issuer: public, JWKSURL: inside, Audience: identitytest.Audience})
	claims := provider.Claims("alice", "customer")
	if _, err := verifier.Verify(t.Context(), provider.Sign(claims)); !fault.Is(err, fault.ReasonTokenInvalid) {
		t.Errorf("a token of the inside name was taken: %v", err)
	}
	claims["iss"] = public
	if _, err := verifier.Verify(t.Context(), provider.Sign(claims)); err != nil {
		t.Error(err)
	}
}

func TestVerifyIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	provider, verifier := setup(t)
	var group sync.WaitGroup
	for i := range 32 {
		token := provider.Token(fmt.Sprint("subject-", i%4), "customer")
		group.Go(func() {
			if _, err := verifier.Verify(t.Context(), token); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func TestNewVerifierRefusesBadConfiguration(t *testing.T) {
	t.Parallel()
	for _, config := range []VerifierConfig{
		{},
		{Issuer: "https://id.example"},
		{Issuer: "id.example", Audience: "bookworm"},
		{Issuer: "https://id.example", JWKSURL: "/keys", Audience: "bookworm"},
		{Issuer: "ht tp://id", Audience: "bookworm"},
	} {
		if _, err := NewVerifier(t.Context(), config); err == nil {
			t.Errorf("%+v was taken", config)
		}
	}
}

func TestServiceTokens(t *testing.T) {
	t.Parallel()
	provider, verifier := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	source := ServiceTokens(ctx, ServiceConfig{TokenURL: provider.Issuer + "/token", ClientID: "ordering", ClientSecret: identitytest.Secret})
	cancel() // a process that ends still finishes its calls
	token, err := source.Token()
	if err != nil {
		t.Fatal(err)
	}
	caller, err := verifier.Verify(t.Context(), token.AccessToken)
	if err != nil || caller.Subject != "service-account-ordering" || !caller.Has(accessv1.Role_ROLE_SERVICE) {
		t.Errorf("got %v, %v", caller, err)
	}
	wrong := ServiceTokens(t.Context(), ServiceConfig{TokenURL: provider.Issuer + "/token", ClientID: "ordering", ClientSecret: "hunter2"})
	if _, err := wrong.Token(); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestA3_CallerNeverPrintsPersonalData(t *testing.T) {
	t.Parallel()
	caller := Caller{Subject: "s-1", Email: "alice@bookworm.example", Name: "Alice Liddell"}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "caller", caller)
	printed := log.String() + fmt.Sprintf("%v %+v %#v", caller, caller, caller)
	if strings.Contains(printed, "alice@") || strings.Contains(printed, "Liddell") {
		t.Errorf("printed %s", printed)
	}
	if FromContext(WithCaller(t.Context(), caller)).Subject != "s-1" || !FromContext(t.Context()).Anonymous() {
		t.Error("the context does not carry the caller")
	}
}

// FuzzVerify asserts that no outside input is taken or brings the process down.
func FuzzVerify(f *testing.F) {
	provider, verifier := setup(f)
	good := provider.Token("alice", "customer")
	for _, seed := range []string{"", "a.b.c", good, good[:len(good)-2], "eyJhbGciOiJub25lIn0.e30."} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if caller, err := verifier.Verify(t.Context(), token); err == nil && token != good && caller.Subject != "alice" {
			t.Errorf("%q was taken", token)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	provider, verifier := setup(b)
	token := provider.Token("alice", "customer")
	b.Run("remembered", func(b *testing.B) {
		for b.Loop() {
			if _, err := verifier.Verify(b.Context(), token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("fresh", func(b *testing.B) {
		for b.Loop() {
			clear(verifier.cache)
			if _, err := verifier.Verify(b.Context(), token); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestOneFormOfToken: the library takes the JSON forms of a signature too.
func TestOneFormOfToken(t *testing.T) {
	t.Parallel()
	provider := identitytest.New(t)
	verifier, err := NewVerifier(t.Context(), VerifierConfig{Issuer: provider.Issuer, Audience: identitytest.Audience})
	if err != nil {
		t.Fatal(err)
	}
	good := provider.Token("alice", "customer")
	parts := strings.Split(good, ".")
	for name, token := range map[string]string{
		"JSON":    `{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` + parts[2] + `"}`,
		"a blank": parts[0] + ". " + parts[1] + "." + parts[2], "padding": parts[0] + "=." + parts[1] + "." + parts[2],
		"four parts": good + ".x", "17 KB": strings.Repeat("a", 17<<10) + "." + parts[1] + "." + parts[2],
	} {
		if _, err := verifier.Verify(t.Context(), token); !fault.Is(err, fault.ReasonTokenInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := verifier.Verify(t.Context(), good); err != nil {
		t.Error(err)
	}
}
