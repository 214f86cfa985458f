package identity_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/net/html"
	"golang.org/x/oauth2"

	"bookworm/dev/identity"
	"bookworm/dev/inbox"
	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	shopidentity "bookworm/internal/identity"
)

// patience is how long a test waits for what comes by itself.
const patience = 30 * time.Second

const endpoints = "/protocol/openid-connect/"

// relyingParty is the shop as a provider sees it: its page, and its services, which
// know the provider by the inside address.
type relyingParty struct {
	t        *testing.T
	provider provider
	page     oauth2.Config
	verifier *shopidentity.Verifier
}

func newRelyingParty(t *testing.T, p provider) *relyingParty {
	t.Helper()
	discovered, err := oidc.NewProvider(t.Context(), p.issuer())
	if err != nil {
		t.Fatalf("discover: %v", err)
	}
	return &relyingParty{
		t: t, provider: p, verifier: newVerifier(t, p, nil),
		page: oauth2.Config{
			ClientID: identity.ClientWeb, Endpoint: discovered.Endpoint(), RedirectURL: redirectURI,
			Scopes: []string{oidc.ScopeOpenID, "profile", "email"},
		},
	}
}

// newVerifier returns the production verifier, configured as in a cluster: the
// public issuer, and the keys from inside.
func newVerifier(t *testing.T, p provider, change func(*shopidentity.VerifierConfig)) *shopidentity.Verifier {
	t.Helper()
	config := shopidentity.VerifierConfig{Issuer: p.issuer(), JWKSURL: p.inside() + endpoints + "certs", Audience: identity.Audience}
	if change != nil {
		change(&config)
	}
	verifier, err := shopidentity.NewVerifier(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return verifier
}

func (s *relyingParty) exchanger(client string) *shopidentity.Exchanger {
	return shopidentity.NewExchanger(shopidentity.ServiceConfig{
		TokenURL: s.provider.inside() + endpoints + "token", ClientID: client, ClientSecret: s.provider.secret(client),
	})
}

// accept returns whom the shop takes the token for.
func (s *relyingParty) accept(token string) shopidentity.Caller {
	s.t.Helper()
	caller, err := s.verifier.Verify(s.t.Context(), token)
	if err != nil {
		s.t.Fatalf("the token is refused: %v", err)
	}
	return caller
}

// signIn signs a person in on the page and returns what the shop's page gets.
func (s *relyingParty) signIn(t *testing.T, who account) *oauth2.Token {
	t.Helper()
	verifier := oauth2.GenerateVerifier()
	answer := s.fillIn(t, browser(t), verifier, who)
	at, err := url.Parse(answer.location)
	if err != nil || !strings.HasPrefix(answer.location, redirectURI+"?") || at.Query().Get("state") != "the-state" {
		t.Fatalf("sent to %q (%d), %v\n%s", answer.location, answer.status, err, words(answer.body))
	}
	page := s.page // an exchange writes into it
	token, err := page.Exchange(t.Context(), at.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatalf("exchange the code: %v", err)
	}
	return token
}

// fillIn opens the sign-in page and sends its form.
func (s *relyingParty) fillIn(t *testing.T, client *http.Client, verifier string, who account) response {
	t.Helper()
	address := s.page.AuthCodeURL("the-state", oauth2.S256ChallengeOption(verifier), oidc.Nonce("the-nonce"))
	shown := send(t, client, http.MethodGet, address, nil)
	return submit(t, client, shown, url.Values{"username": {who.username}, "password": {who.password}})
}

// submit fills the one form of a page in and sends it.
func submit(t *testing.T, client *http.Client, page response, values url.Values) response {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page.body))
	if err != nil {
		t.Fatal(err)
	}
	var action string
	form := url.Values{}
	for n := range root.Descendants() {
		attribute := func(name string) string {
			i := slices.IndexFunc(n.Attr, func(a html.Attribute) bool { return a.Key == name })
			if i < 0 {
				return ""
			}
			return n.Attr[i].Val
		}
		switch n.Data {
		case "form":
			action = attribute("action")
		case "input":
			if attribute("type") == "hidden" {
				form.Set(attribute("name"), attribute("value"))
			} else if value, ok := values[attribute("name")]; ok {
				form[attribute("name")] = value
			}
		}
	}
	for name := range values {
		if !form.Has(name) {
			t.Fatalf("the page asks for no %s (%d):\n%s", name, page.status, words(page.body))
		}
	}
	to, err := page.url.Parse(action)
	if err != nil {
		t.Fatal(err)
	}
	return send(t, client, http.MethodPost, to.String(), form)
}

var tags = regexp.MustCompile(`(?s)<script.*?</script>|<style.*?</style>|<[^>]*>|\s+`)

// words is a page without its markup, for messages.
func words(body string) string { return tags.ReplaceAllString(body, " ") }

func (s *relyingParty) refresh(ctx context.Context, token string) (*oauth2.Token, error) {
	page := s.page
	return page.TokenSource(ctx, &oauth2.Token{RefreshToken: token}).Token()
}

// until waits for a condition.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); {
		if time.Now().After(end) {
			t.Fatalf("after %v: not %s", patience, what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestConformanceSignIn(t *testing.T) {
	t.Parallel()
	everywhere(t, ordinary, func(t *testing.T, p provider) {
		for role, want := range map[string]accessv1.Role{
			"customer": accessv1.Role_ROLE_CUSTOMER, "admin": accessv1.Role_ROLE_ADMIN,
			"support": accessv1.Role_ROLE_SUPPORT, "reporter": accessv1.Role_ROLE_REPORTER,
		} {
			t.Run(role, func(t *testing.T) {
				t.Parallel()
				s, who := newRelyingParty(t, p), p.person(t, role)
				token := s.signIn(t, who)
				caller := s.accept(token.AccessToken)
				if caller.Subject != who.subject || string(caller.Email) != who.email || caller.Name == "" || caller.Client != identity.ClientWeb {
					t.Errorf("the shop sees %v %q %q", caller, string(caller.Email), string(caller.Name))
				}
				for _, other := range []accessv1.Role{accessv1.Role_ROLE_ADMIN, accessv1.Role_ROLE_SUPPORT, accessv1.Role_ROLE_REPORTER, accessv1.Role_ROLE_SERVICE} {
					if caller.Has(other) != (other == want) {
						t.Errorf("%s: roles %v", role, caller.Roles)
					}
				}
				if want == accessv1.Role_ROLE_CUSTOMER && !slices.Equal(caller.Roles, []accessv1.Role{want}) {
					t.Errorf("roles %v", caller.Roles)
				}
				raw, _ := token.Extra("id_token").(string)
				if _, err := s.verifier.Verify(t.Context(), raw); !fault.Is(err, fault.ReasonTokenInvalid) {
					t.Errorf("the ID token as an access token: %v", err)
				}
				keys := oidc.NewRemoteKeySet(t.Context(), p.inside()+endpoints+"certs")
				id, err := oidc.NewVerifier(p.issuer(), keys, &oidc.Config{ClientID: identity.ClientWeb}).Verify(t.Context(), raw)
				if err != nil || id.Nonce != "the-nonce" || id.Subject != who.subject {
					t.Errorf("the ID token: %v, %v", id, err)
				}
			})
		}
	})
}

func TestConformanceSignInIsGuarded(t *testing.T) {
	t.Parallel()
	everywhere(t, ordinary, func(t *testing.T, p provider) {
		s := newRelyingParty(t, p)
		ask := func(change func(*oauth2.Config), options ...oauth2.AuthCodeOption) response {
			page := s.page
			change(&page)
			return send(t, browser(t), http.MethodGet, page.AuthCodeURL("the-state", options...), nil)
		}
		pkce := oauth2.S256ChallengeOption(oauth2.GenerateVerifier())
		if got := ask(func(*oauth2.Config) {}); !strings.Contains(got.location, "error=invalid_request") {
			t.Errorf("without PKCE: %d %s", got.status, got.location)
		}
		plain := []oauth2.AuthCodeOption{oauth2.SetAuthURLParam("code_challenge", strings.Repeat("a", 43)), oauth2.SetAuthURLParam("code_challenge_method", "plain")}
		if got := ask(func(*oauth2.Config) {}, plain...); !strings.Contains(got.location, "error=invalid_request") {
			t.Errorf("with plain PKCE: %d %s", got.status, got.location)
		}
		for _, uri := range []string{"http://evil.example/", redirectURI + "/", redirectURI + "?x=1", redirectURI + "/../x", "http://127.0.0.1:9999/auth/callback"} {
			if got := ask(func(c *oauth2.Config) { c.RedirectURL = uri }, pkce); got.status != http.StatusBadRequest || got.location != "" {
				t.Errorf("redirect to %s: %d %s", uri, got.status, got.location)
			}
		}
		who := p.person(t, "customer")
		answer := s.fillIn(t, browser(t), oauth2.GenerateVerifier(), who)
		at, err := url.Parse(answer.location)
		if err != nil || at.Query().Get("code") == "" {
			t.Fatalf("sent to %q, %v", answer.location, err)
		}
		page := s.page
		if _, err := page.Exchange(t.Context(), at.Query().Get("code"), oauth2.VerifierOption(oauth2.GenerateVerifier())); err == nil {
			t.Error("the code was exchanged with another verifier")
		}
		who.password += "x"
		if got := s.fillIn(t, browser(t), oauth2.GenerateVerifier(), who); got.location != "" {
			t.Errorf("with a wrong password: sent to %s", got.location)
		}
	})
}

func TestConformanceRefresh(t *testing.T) {
	t.Parallel()
	everywhere(t, ordinary, func(t *testing.T, p provider) {
		s, who := newRelyingParty(t, p), p.person(t, "customer")
		first := s.signIn(t, who)
		second, err := s.refresh(t.Context(), first.RefreshToken)
		if err != nil {
			t.Fatal(err)
		}
		if caller := s.accept(second.AccessToken); caller.Subject != who.subject || !caller.Has(accessv1.Role_ROLE_CUSTOMER) {
			t.Errorf("the shop sees %v", caller)
		}
		if second.RefreshToken == first.RefreshToken {
			t.Error("the refresh token stays the same")
		}
		if _, err := s.refresh(t.Context(), first.RefreshToken); err == nil {
			t.Error("a refresh token worked twice")
		}
		if _, err := s.verifier.Verify(t.Context(), second.RefreshToken); !fault.Is(err, fault.ReasonTokenInvalid) {
			t.Errorf("the refresh token as an access token: %v", err)
		}
	})
}

func TestConformanceExpiry(t *testing.T) {
	t.Parallel()
	everywhere(t, brief, func(t *testing.T, p provider) {
		s, who := newRelyingParty(t, p), p.person(t, "customer")
		token := s.signIn(t, who)
		s.accept(token.AccessToken)
		var end time.Time
		until(t, "refused", func() bool {
			_, err := s.verifier.Verify(t.Context(), token.AccessToken)
			end = time.Now()
			if err != nil && !fault.Is(err, fault.ReasonTokenInvalid) {
				t.Fatal(err)
			}
			return err != nil
		})
		if end.Before(expiry(t, token.AccessToken)) {
			t.Errorf("refused %v before its end", time.Until(expiry(t, token.AccessToken)))
		}
		// Keycloak counts whole seconds, so its end may come a moment later.
		until(t, "refused by the exchange", func() bool {
			_, err := s.exchanger("bookworm-chat").Exchange(t.Context(), token.AccessToken)
			if err != nil && !fault.Is(err, fault.ReasonTokenInvalid) {
				t.Fatal(err)
			}
			return err != nil
		})
	})
}

// part decodes the header (0) or the claims (1) of a token.
func part(t *testing.T, token string, i int) map[string]any {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[i])
	if err != nil {
		t.Fatal(err)
	}
	decoded := make(map[string]any)
	if err := json.Unmarshal(raw, &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

func expiry(t *testing.T, token string) time.Time {
	t.Helper()
	seconds, _ := part(t, token, 1)["exp"].(float64)
	return time.Unix(int64(seconds), 0)
}

func TestConformanceKeyRotation(t *testing.T) {
	t.Parallel()
	everywhere(t, rotating, func(t *testing.T, p provider) {
		s, who := newRelyingParty(t, p), p.person(t, "customer")
		s.verifier = newVerifier(t, p, func(c *shopidentity.VerifierConfig) { c.KeysFor = 5 * time.Second })
		old := s.signIn(t, who)
		s.accept(old.AccessToken)

		p.rotate(t)
		var fresh *oauth2.Token
		until(t, "signed with the new key", func() bool {
			fresh = s.signIn(t, who)
			return part(t, fresh.AccessToken, 0)["kid"] != part(t, old.AccessToken, 0)["kid"]
		})
		until(t, "accepted under the new key", func() bool {
			_, err := s.verifier.Verify(t.Context(), fresh.AccessToken)
			return err == nil
		})
		s.accept(old.AccessToken)
		s.accept(newRelyingParty(t, p).signIn(t, who).AccessToken)

		p.withdraw(t)
		until(t, "refused under the withdrawn key", func() bool {
			_, err := s.verifier.Verify(t.Context(), old.AccessToken)
			if err != nil && !fault.Is(err, fault.ReasonTokenInvalid) {
				t.Fatal(err)
			}
			return err != nil
		})
		if time.Now().After(expiry(t, old.AccessToken)) {
			t.Error("the token ended before its key was refused")
		}
		s.accept(fresh.AccessToken)
	})
}

func TestConformanceForgeries(t *testing.T) {
	t.Parallel()
	everywhere(t, ordinary, func(t *testing.T, p provider) {
		s := newRelyingParty(t, p)
		genuine := s.signIn(t, p.person(t, "customer")).AccessToken
		s.accept(genuine)
		refused := func(name string, v *shopidentity.Verifier, token string) {
			t.Helper()
			if caller, err := v.Verify(t.Context(), token); !fault.Is(err, fault.ReasonTokenInvalid) || !caller.Anonymous() {
				t.Errorf("%s: got %v, %v", name, caller, err)
			}
		}
		refused("another audience", newVerifier(t, p, func(c *shopidentity.VerifierConfig) { c.Audience = "another-api" }), genuine)
		refused("another issuer", newVerifier(t, p, func(c *shopidentity.VerifierConfig) { c.Issuer = "https://id.example/realms/bookworm" }), genuine)
		refused("the inside address as issuer", newVerifier(t, p, func(c *shopidentity.VerifierConfig) { c.Issuer = p.inside() }), genuine)

		encoded := func(v map[string]any) string {
			raw, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return base64.RawURLEncoding.EncodeToString(raw)
		}
		parts := strings.Split(genuine, ".")
		claims, header := part(t, genuine, 1), part(t, genuine, 0)
		claims["realm_access"] = map[string]any{"roles": []string{"admin"}}
		refused("another role", s.verifier, parts[0]+"."+encoded(claims)+"."+parts[2])
		header["alg"] = "none"
		refused("none", s.verifier, encoded(header)+"."+encoded(claims)+".")
		refused("none with a signature", s.verifier, encoded(header)+"."+encoded(claims)+"."+parts[2])

		kid, _ := part(t, genuine, 0)["kid"].(string)
		key := publicKey(t, p, kid)
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		for name, secret := range map[string][]byte{"the key's PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "the key's DER": der} {
			signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: secret, KeyID: kid}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			signed, err := signer.Sign(raw)
			if err != nil {
				t.Fatal(err)
			}
			token, err := signed.CompactSerialize()
			if err != nil {
				t.Fatal(err)
			}
			refused("HS256 with "+name, s.verifier, token)
		}
	})
}

// publicKey returns a key of those that the provider publishes.
func publicKey(t *testing.T, p provider, kid string) any {
	t.Helper()
	var set jose.JSONWebKeySet
	got := send(t, http.DefaultClient, http.MethodGet, p.inside()+endpoints+"certs", nil)
	if err := json.Unmarshal([]byte(got.body), &set); err != nil {
		t.Fatal(err)
	}
	keys := set.Key(kid)
	if len(keys) != 1 || !keys[0].IsPublic() {
		t.Fatalf("%d keys %q", len(keys), kid)
	}
	return keys[0].Key
}

func TestConformanceAnotherRealm(t *testing.T) {
	t.Parallel()
	everywhere(t, brief, func(t *testing.T, p provider) {
		other := newRelyingParty(t, newEmbedded(t, ordinary))
		token := newRelyingParty(t, p).signIn(t, p.person(t, "customer")).AccessToken
		if _, err := other.verifier.Verify(t.Context(), token); !fault.Is(err, fault.ReasonTokenInvalid) {
			t.Errorf("got %v", err)
		}
	})
}

func TestConformanceLogout(t *testing.T) {
	t.Parallel()
	everywhere(t, ordinary, func(t *testing.T, p provider) {
		s := newRelyingParty(t, p)
		token := s.signIn(t, p.person(t, "customer"))
		hint, _ := token.Extra("id_token").(string)
		end := func(redirect string) response {
			return send(t, browser(t), http.MethodGet, p.issuer()+endpoints+"logout?"+url.Values{
				"id_token_hint": {hint}, "post_logout_redirect_uri": {redirect}, "state": {"s"},
			}.Encode(), nil)
		}
		for _, elsewhere := range []string{"http://evil.example/", signedOutURI + "/", redirectURI} {
			if got := end(elsewhere); got.status != http.StatusBadRequest || got.location != "" {
				t.Errorf("sign out to %s: %d %s", elsewhere, got.status, got.location)
			}
		}
		if got := end(signedOutURI); got.location != signedOutURI+"?state=s" {
			t.Errorf("sent to %q (%d)", got.location, got.status)
		}
		if _, err := s.refresh(t.Context(), token.RefreshToken); err == nil {
			t.Error("the refresh token outlives the sign-out")
		}
		s.accept(token.AccessToken) // until its end, minutes away: nobody asks the provider

		_, err := s.exchanger("bookworm-chat").Exchange(t.Context(), token.AccessToken)
		if _, sessions := p.(*keycloakRealm); sessions && !fault.Is(err, fault.ReasonTokenInvalid) {
			t.Errorf("the token of a session that ended was exchanged: %v", err)
		}
	})
}

func TestConformanceLockOut(t *testing.T) {
	t.Parallel()
	everywhere(t, ordinary, func(t *testing.T, p provider) {
		s, who, other := newRelyingParty(t, p), p.person(t, "customer"), p.person(t, "support")
		wrong := who
		wrong.password += "x"
		for range 5 {
			if got := s.fillIn(t, browser(t), oauth2.GenerateVerifier(), wrong); got.location != "" {
				t.Fatalf("with a wrong password: sent to %s", got.location)
			}
		}
		if got := s.fillIn(t, browser(t), oauth2.GenerateVerifier(), who); got.location != "" {
			t.Errorf("after 5 wrong passwords the right one still works: sent to %s", got.location)
		}
		s.signIn(t, other)
	})
}

func TestConformanceServiceAccount(t *testing.T) {
	t.Parallel()
	everywhere(t, ordinary, func(t *testing.T, p provider) {
		s := newRelyingParty(t, p)
		ask := func(client, secret string) (string, error) {
			token, err := shopidentity.ServiceTokens(t.Context(), shopidentity.ServiceConfig{
				TokenURL: p.inside() + endpoints + "token", ClientID: client, ClientSecret: p.secret(secret),
			}).Token()
			if err != nil {
				return "", err
			}
			return token.AccessToken, nil
		}
		subjects := make(map[string]bool)
		for _, client := range []string{"bookworm-ordering", "bookworm-rating", "bookworm-gateway"} {
			token, err := ask(client, client)
			if err != nil {
				t.Fatal(err)
			}
			caller := s.accept(token)
			if !slices.Equal(caller.Roles, []accessv1.Role{accessv1.Role_ROLE_SERVICE}) || caller.Client != client || caller.Email != "" {
				t.Errorf("%s is %v", client, caller)
			}
			subjects[caller.Subject] = true
		}
		if len(subjects) != 3 {
			t.Errorf("three services have %d subjects", len(subjects))
		}
		for _, client := range []string{identity.ClientWeb, identity.ClientCLI, "nobody"} {
			if _, err := ask(client, "bookworm-ordering"); err == nil {
				t.Errorf("%s got a service's token", client)
			}
		}
	})
}

func TestConformanceTokenExchange(t *testing.T) {
	t.Parallel()
	everywhere(t, ordinary, func(t *testing.T, p provider) {
		s := newRelyingParty(t, p)
		for _, role := range []string{"customer", "admin"} {
			who := p.person(t, role)
			token := s.signIn(t, who).AccessToken
			before := s.accept(token)
			// Through two services, each in its own name.
			for _, client := range []string{"bookworm-chat", "bookworm-basket"} {
				var err error
				if token, err = s.exchanger(client).Exchange(t.Context(), token); err != nil {
					t.Fatalf("%s: %v", client, err)
				}
				after := s.accept(token)
				if after.Client != client || after.Subject != who.subject || string(after.Email) != who.email || after.Name != before.Name {
					t.Errorf("%s calls as %v %q", client, after, string(after.Email))
				}
				slices.Sort(after.Roles)
				slices.Sort(before.Roles)
				if !slices.Equal(after.Roles, before.Roles) || after.Has(accessv1.Role_ROLE_SERVICE) {
					t.Errorf("roles became %v from %v", after.Roles, before.Roles)
				}
				if left := time.Until(expiry(t, token)); left <= 0 || left > 6*time.Minute {
					t.Errorf("the exchanged token lasts %v", left)
				}
			}
		}
		if _, err := s.exchanger("bookworm-chat").Exchange(t.Context(), "forged"); !fault.Is(err, fault.ReasonTokenInvalid) {
			t.Errorf("a forged token: %v", err)
		}
		genuine := s.signIn(t, p.person(t, "customer"))
		raw, _ := genuine.Extra("id_token").(string)
		if _, err := s.exchanger("bookworm-chat").Exchange(t.Context(), raw); err == nil {
			t.Error("an ID token was exchanged")
		}
		for _, client := range []string{identity.ClientWeb, "bookworm-chat", "nobody"} {
			wrong := shopidentity.NewExchanger(shopidentity.ServiceConfig{
				TokenURL: p.inside() + endpoints + "token", ClientID: client, ClientSecret: "a guess",
			})
			_, err := wrong.Exchange(t.Context(), genuine.AccessToken)
			// Keycloak says of a client without a secret what it says of a wrong token.
			if err == nil || fault.As(err) != nil && client != identity.ClientWeb {
				t.Errorf("%s exchanged, or the person is told: %v", client, err)
			}
		}
	})
}

func TestConformanceUnverifiedEmail(t *testing.T) {
	t.Parallel()
	everywhere(t, ordinary, func(t *testing.T, p provider) {
		s := newRelyingParty(t, p)
		if caller := s.accept(p.unverified(t)); caller.Email != "" || caller.Subject == "" {
			t.Errorf("the shop believes %q of %v", string(caller.Email), caller)
		}
	})
}

// TestKeycloakRegistration registers somebody: they have to verify their address
// before anything else, choose a password, and are customers from then on. The embedded provider registers nobody.
func TestKeycloakRegistration(t *testing.T) {
	t.Parallel()
	k := theKeycloak(t)
	s := newRelyingParty(t, k.realm(ordinary))
	client, verifier := browser(t), oauth2.GenerateVerifier()
	address := s.page.AuthCodeURL("the-state", oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("prompt", "create"))
	shown := send(t, client, http.MethodGet, address, nil)
	const email = "new.reader@bookworm.example"
	waits := submit(t, client, shown, url.Values{"username": {"new.reader"}, "email": {email}, "firstName": {"Nora"}, "lastName": {"New"}})
	if waits.location != "" || !strings.Contains(words(waits.body), "verify your email") {
		t.Fatalf("an address that nobody verified: sent to %q\n%s", waits.location, words(waits.body))
	}
	var mails []inbox.Summary
	until(t, "mailed", func() bool {
		mails = k.mails.Messages(email, "")
		return len(mails) == 1
	})
	mail, err := k.mails.Message(mails[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`http://localhost\S+`).FindString(mail.Text)
	shown = send(t, client, http.MethodGet, link, nil)
	password := func(text string) response {
		return submit(t, client, shown, url.Values{"password-new": {text}, "password-confirm": {text}})
	}
	if shown = password("short"); !strings.Contains(shown.body, "minimum length 12") {
		t.Errorf("a short password: %d %s", shown.status, words(shown.body))
	}
	back := password(keycloakPassword)
	at, err := url.Parse(back.location)
	if err != nil || at.Query().Get("code") == "" {
		t.Fatalf("the mail's link leads to %q (%d)\n%s", back.location, back.status, words(back.body))
	}
	page := s.page
	token, err := page.Exchange(t.Context(), at.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	caller := s.accept(token.AccessToken)
	if string(caller.Email) != email || !slices.Equal(caller.Roles, []accessv1.Role{accessv1.Role_ROLE_CUSTOMER}) {
		t.Errorf("registered as %v %q", caller, string(caller.Email))
	}
}
