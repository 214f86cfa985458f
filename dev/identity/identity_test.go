package identity_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"bookworm/dev/identity"
)

const (
	redirectURI  = "http://127.0.0.1:8080/auth/callback"
	signedOutURI = "http://127.0.0.1:8080/goodbye"
)

// TestMain silences the op package, which logs each refusal to the default logger,
// and ends Keycloak.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	code := m.Run()
	if theOne.keycloak != nil {
		if err := theOne.keycloak.stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

func start(t *testing.T, opts identity.Options) *identity.Server {
	t.Helper()
	if opts.DataDir == "" {
		opts.DataDir = t.TempDir()
	}
	opts.Logger = slog.New(slog.DiscardHandler)
	opts.RedirectURIs = []string{redirectURI}
	opts.PostLogoutRedirectURIs = []string{signedOutURI}
	server, err := identity.Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(server.Stop)
	return server
}

// shop is the relying party: the web client and the API's verifier.
type shop struct {
	oauth    oauth2.Config
	provider *oidc.Provider
	api      *oidc.IDTokenVerifier // of access tokens
	web      *oidc.IDTokenVerifier // of ID tokens
}

func newShop(t *testing.T, server *identity.Server) shop {
	t.Helper()
	provider, err := oidc.NewProvider(t.Context(), server.URL())
	if err != nil {
		t.Fatalf("discover: %v", err)
	}
	return shop{
		oauth: oauth2.Config{
			ClientID: identity.ClientWeb, Endpoint: provider.Endpoint(), RedirectURL: redirectURI,
			Scopes: []string{oidc.ScopeOpenID, "profile", "email", oidc.ScopeOfflineAccess},
		},
		provider: provider,
		api:      provider.Verifier(&oidc.Config{ClientID: identity.Audience}),
		web:      provider.Verifier(&oidc.Config{ClientID: identity.ClientWeb}),
	}
}

// claims are those of an access token, as a resource server behind Keycloak reads them.
type claims struct {
	Subject           string `json:"sub"`
	Scope             string `json:"scope"`
	Type              string `json:"typ"`
	AuthorizedParty   string `json:"azp"`
	Email             string `json:"email"`
	EmailVerified     bool   `json:"email_verified"`
	Name              string `json:"name"`
	PreferredUsername string `json:"preferred_username"`
	RealmAccess       struct {
		Roles []string `json:"roles"`
	} `json:"realm_access"`
}

func (s shop) accept(t *testing.T, token string) (*oidc.IDToken, claims) {
	t.Helper()
	verified, err := s.api.Verify(t.Context(), token)
	if err != nil {
		t.Fatalf("verify access token: %v", err)
	}
	var c claims
	if err := verified.Claims(&c); err != nil {
		t.Fatal(err)
	}
	return verified, c
}

// browser keeps cookies and stops where the shop would take over.
func browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: loopbackJar{jar}, CheckRedirect: func(req *http.Request, _ []*http.Request) error {
		if req.URL.Host == "127.0.0.1:8080" {
			return http.ErrUseLastResponse
		}
		return nil
	}}
}

// loopbackJar takes and gives cookies for encrypted connections at loopback
// addresses, as browsers do: they are trustworthy without.
type loopbackJar struct{ http.CookieJar }

func (j loopbackJar) SetCookies(u *url.URL, cookies []*http.Cookie) {
	j.CookieJar.SetCookies(encrypted(u), cookies)
}
func (j loopbackJar) Cookies(u *url.URL) []*http.Cookie { return j.CookieJar.Cookies(encrypted(u)) }

func encrypted(u *url.URL) *url.URL {
	same := *u
	same.Scheme = "https"
	return &same
}

type response struct {
	status   int
	body     string
	location string
	url      *url.URL
	header   http.Header
}

func send(t *testing.T, client *http.Client, method, address string, form url.Values) response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // it has been read
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{res.StatusCode, string(body), res.Header.Get("Location"), res.Request.URL, res.Header}
}

var idField = regexp.MustCompile(`name="id" value="([^"]+)"`)

// signIn fills in the sign-in page that address leads to and returns the answer to its form.
func signIn(t *testing.T, client *http.Client, address, username, password string) response {
	t.Helper()
	shown := send(t, client, http.MethodGet, address, nil)
	field := idField.FindStringSubmatch(shown.body)
	if shown.status != http.StatusOK || field == nil {
		t.Fatalf("no sign-in page: %d %s", shown.status, shown.body)
	}
	action := shown.url.ResolveReference(&url.URL{Path: "sign-in"})
	return send(t, client, http.MethodPost, action.String(), url.Values{"id": {field[1]}, "username": {username}, "password": {password}})
}

// code signs alice in and returns the code and the verifier that it needs.
func (s shop) code(t *testing.T) (code, verifier string) {
	t.Helper()
	verifier = oauth2.GenerateVerifier()
	back := signIn(t, browser(t), s.oauth.AuthCodeURL("the-state", oauth2.S256ChallengeOption(verifier), oidc.Nonce("the-nonce")), "alice", "alice")
	at, err := url.Parse(back.location)
	if err != nil || !strings.HasPrefix(back.location, redirectURI+"?") {
		t.Fatalf("sent back to %q (%d): %v", back.location, back.status, err)
	}
	if at.Query().Get("state") != "the-state" {
		t.Errorf("state = %q", at.Query().Get("state"))
	}
	return at.Query().Get("code"), verifier
}

func (s shop) tokens(t *testing.T) *oauth2.Token {
	t.Helper()
	code, verifier := s.code(t)
	token, err := s.oauth.Exchange(t.Context(), code, oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatalf("exchange code: %v", err)
	}
	return token
}

func TestAuthorizationCodeWithPKCE(t *testing.T) {
	t.Parallel()
	server := start(t, identity.Options{})
	s := newShop(t, server)
	before := time.Now()
	token := s.tokens(t)

	verified, c := s.accept(t, token.AccessToken)
	alice := identity.People()[0]
	want := claims{
		Subject: alice.Subject, Scope: "openid profile email offline_access", Type: "Bearer", AuthorizedParty: identity.ClientWeb,
		Email: "alice@bookworm.example", EmailVerified: true, Name: "Alice Appleby", PreferredUsername: "alice",
	}
	want.RealmAccess.Roles = []string{"customer"}
	if got, wanted := encode(t, c), encode(t, want); got != wanted {
		t.Errorf("claims\n got %s\nwant %s", got, wanted)
	}
	if !slices.Equal(verified.Audience, []string{identity.Audience}) {
		t.Errorf("audience = %v", verified.Audience)
	}
	if left := verified.Expiry.Sub(before); left < 4*time.Minute || left > 6*time.Minute {
		t.Errorf("access token lasts %v, want about 5 minutes", left)
	}

	raw, ok := token.Extra("id_token").(string)
	if !ok {
		t.Fatal("no ID token")
	}
	id, err := s.web.Verify(t.Context(), raw)
	if err != nil {
		t.Fatalf("verify ID token: %v", err)
	}
	if id.Nonce != "the-nonce" || id.Subject != alice.Subject {
		t.Errorf("nonce %q, subject %q", id.Nonce, id.Subject)
	}
	if err := id.VerifyAccessToken(token.AccessToken); err != nil {
		t.Errorf("at_hash: %v", err)
	}
	if _, err := s.api.Verify(t.Context(), raw); err == nil {
		t.Error("the API accepts an ID token as an access token")
	}

	info, err := s.provider.UserInfo(t.Context(), oauth2.StaticTokenSource(token))
	if err != nil {
		t.Fatalf("userinfo: %v", err)
	}
	if info.Subject != alice.Subject || info.Email != alice.Email || !info.EmailVerified {
		t.Errorf("userinfo = %+v", info)
	}
}

func encode(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestCodeIsGuarded(t *testing.T) {
	t.Parallel()
	s := newShop(t, start(t, identity.Options{}))
	// Copied before any of them is used: an exchange writes into its configuration.
	elsewhere, another := s.oauth, s.oauth
	elsewhere.RedirectURL += "/other"
	another.ClientID = identity.ClientCLI
	for name, exchange := range map[string]func(code, verifier string) error{
		"no verifier": func(code, _ string) error { _, err := s.oauth.Exchange(t.Context(), code); return err },
		"wrong verifier": func(code, _ string) error {
			_, err := s.oauth.Exchange(t.Context(), code, oauth2.VerifierOption(oauth2.GenerateVerifier()))
			return err
		},
		"used twice": func(code, verifier string) error {
			if _, err := s.oauth.Exchange(t.Context(), code, oauth2.VerifierOption(verifier)); err != nil {
				return nil //nolint:nilerr // fails the test: the first use has to work
			}
			_, err := s.oauth.Exchange(t.Context(), code, oauth2.VerifierOption(verifier))
			return err
		},
		"other redirect": func(code, verifier string) error {
			_, err := elsewhere.Exchange(t.Context(), code, oauth2.VerifierOption(verifier))
			return err
		},
		"other client": func(code, verifier string) error {
			_, err := another.Exchange(t.Context(), code, oauth2.VerifierOption(verifier))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, verifier := s.code(t)
			if exchange(code, verifier) == nil {
				t.Error("the code was exchanged")
			}
		})
	}
}

func TestAuthorizationIsRefused(t *testing.T) {
	t.Parallel()
	s := newShop(t, start(t, identity.Options{}))
	pkce := oauth2.S256ChallengeOption(oauth2.GenerateVerifier())
	t.Run("no PKCE", func(t *testing.T) {
		t.Parallel()
		got := send(t, browser(t), http.MethodGet, s.oauth.AuthCodeURL("x"), nil)
		if !strings.Contains(got.location, "error=invalid_request") {
			t.Errorf("answer: %d %s", got.status, got.location)
		}
	})
	for _, uri := range []string{"http://evil.example/", redirectURI + "/", redirectURI + "?x=1", "http://127.0.0.1:9999/auth/callback", "http://localhost:8080/auth/callback"} {
		t.Run("redirect to "+uri, func(t *testing.T) {
			t.Parallel()
			other := s.oauth
			other.RedirectURL = uri
			got := send(t, browser(t), http.MethodGet, other.AuthCodeURL("x", pkce), nil)
			if got.status != http.StatusBadRequest || got.location != "" {
				t.Errorf("answer: %d %s %s", got.status, got.location, got.body)
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		got := send(t, browser(t), http.MethodGet, s.oauth.AuthCodeURL("x", pkce, oauth2.SetAuthURLParam("prompt", "none")), nil)
		if !strings.Contains(got.location, "error=login_required") {
			t.Errorf("answer: %d %s", got.status, got.location)
		}
	})
}

func TestSignInPage(t *testing.T) {
	t.Parallel()
	server := start(t, identity.Options{})
	s := newShop(t, server)
	address := s.oauth.AuthCodeURL("x", oauth2.S256ChallengeOption(oauth2.GenerateVerifier()), oauth2.SetAuthURLParam("login_hint", "bob"))
	client := browser(t)
	for _, password := range []string{"wrong", "", "ALICE"} {
		got := signIn(t, client, address, "alice", password)
		if got.status != http.StatusUnauthorized || !strings.Contains(got.body, `role="alert"`) || !strings.Contains(got.body, `value="alice"`) {
			t.Errorf("password %q: %d %s", password, got.status, got.body)
		}
	}
	if shown := send(t, client, http.MethodGet, address, nil); !strings.Contains(shown.body, `value="bob"`) || shown.header.Get("Content-Security-Policy") == "" {
		t.Errorf("page: %s", shown.body)
	}
	if got := send(t, client, http.MethodGet, server.URL()+"/sign-in?id=nope", nil); got.status != http.StatusGone {
		t.Errorf("unknown sign-in: %d", got.status)
	}
	server.AllowRedirect("http://127.0.0.1:8080/second")
	s.oauth.RedirectURL = "http://127.0.0.1:8080/second"
	s.tokensAt(t, "http://127.0.0.1:8080/second?")
	home := send(t, client, http.MethodGet, strings.TrimSuffix(server.URL(), "/realms/bookworm"), nil)
	if home.status != http.StatusOK || !strings.Contains(home.body, server.URL()) {
		t.Errorf("home: %d", home.status)
	}
}

// tokensAt signs in and checks where it leads.
func (s shop) tokensAt(t *testing.T, prefix string) {
	t.Helper()
	back := signIn(t, browser(t), s.oauth.AuthCodeURL("x", oauth2.S256ChallengeOption(oauth2.GenerateVerifier())), "bob", "bob")
	if !strings.HasPrefix(back.location, prefix) {
		t.Errorf("sent to %q, want %s", back.location, prefix)
	}
}

func (s shop) refresh(ctx context.Context, token string) (*oauth2.Token, error) {
	return s.oauth.TokenSource(ctx, &oauth2.Token{RefreshToken: token}).Token()
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	s := newShop(t, start(t, identity.Options{}))
	first := s.tokens(t)
	second, err := s.refresh(t.Context(), first.RefreshToken)
	if err != nil {
		t.Fatalf("refresh: %v", err)
	}
	if _, c := s.accept(t, second.AccessToken); c.PreferredUsername != "alice" {
		t.Errorf("claims = %+v", c)
	}
	if second.RefreshToken == first.RefreshToken {
		t.Error("the refresh token stays the same")
	}
	if _, err := s.refresh(t.Context(), first.RefreshToken); err == nil {
		t.Error("a refresh token worked twice")
	}
	if _, err := s.refresh(t.Context(), "nope"); err == nil {
		t.Error("an unknown refresh token worked")
	}

	var won atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := s.refresh(t.Context(), second.RefreshToken); err == nil {
				won.Add(1)
			}
		})
	}
	group.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 8 concurrent refreshes worked, want 1", won.Load())
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, identity.Options{DataDir: dir})
	s := newShop(t, first)
	kept, ended := s.tokens(t), s.tokens(t)
	if _, err := s.refresh(t.Context(), ended.RefreshToken); err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(first.URL())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(at.Port())
	if err != nil {
		t.Fatal(err)
	}
	first.Stop()
	first.Stop()
	journal := filepath.Join(dir, "refresh-tokens.jsonl")
	raw, err := os.ReadFile(journal) //nolint:gosec // the test's own file
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), kept.RefreshToken) {
		t.Error("a refresh token is kept in clear")
	}
	if err := os.WriteFile(journal, append(raw, `{"issued":"torn`...), 0o600); err != nil {
		t.Fatal(err)
	}

	second := start(t, identity.Options{DataDir: dir, Port: port})
	s = newShop(t, second)
	s.accept(t, kept.AccessToken)
	if _, err := s.refresh(t.Context(), kept.RefreshToken); err != nil {
		t.Errorf("refresh after a restart: %v", err)
	}
	if _, err := s.refresh(t.Context(), ended.RefreshToken); err == nil {
		t.Error("an ended refresh token came back")
	}
	info, err := os.Stat(filepath.Join(dir, "signing-key.json"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the signing key = %v", info.Mode())
	}
}

func TestSignOut(t *testing.T) {
	t.Parallel()
	server := start(t, identity.Options{})
	s := newShop(t, server)
	token := s.tokens(t)
	var discovered struct {
		EndSession string `json:"end_session_endpoint"`
		Revocation string `json:"revocation_endpoint"`
	}
	if err := s.provider.Claims(&discovered); err != nil {
		t.Fatal(err)
	}
	hint, ok := token.Extra("id_token").(string)
	if !ok {
		t.Fatal("no ID token")
	}
	got := send(t, browser(t), http.MethodGet, discovered.EndSession+"?"+url.Values{
		"id_token_hint": {hint}, "post_logout_redirect_uri": {signedOutURI}, "state": {"s"},
	}.Encode(), nil)
	if got.location != signedOutURI+"?state=s" {
		t.Errorf("sent to %q", got.location)
	}
	if _, err := s.refresh(t.Context(), token.RefreshToken); err == nil {
		t.Error("the refresh token outlives the sign-out")
	}
	if got := send(t, browser(t), http.MethodGet, discovered.EndSession, nil); got.status != http.StatusOK || !strings.Contains(got.body, "signed out") {
		t.Errorf("plain sign-out: %d %s", got.status, got.body)
	}
	got = send(t, browser(t), http.MethodGet, discovered.EndSession+"?"+url.Values{
		"id_token_hint": {hint}, "post_logout_redirect_uri": {"http://evil.example/"},
	}.Encode(), nil)
	if got.status != http.StatusBadRequest {
		t.Errorf("foreign redirect: %d", got.status)
	}

	token = s.tokens(t)
	if got := send(t, http.DefaultClient, http.MethodPost, discovered.Revocation, url.Values{"client_id": {identity.ClientWeb}, "token": {token.RefreshToken}}); got.status != http.StatusOK {
		t.Errorf("revoke: %d %s", got.status, got.body)
	}
	if _, err := s.refresh(t.Context(), token.RefreshToken); err == nil {
		t.Error("the refresh token outlives its revocation")
	}
}

func TestPasswordGrant(t *testing.T) {
	t.Parallel()
	server := start(t, identity.Options{})
	s := newShop(t, server)
	for _, person := range identity.People() {
		token, err := server.Token(t.Context(), person.Username)
		if err != nil {
			t.Fatalf("token of %s: %v", person.Username, err)
		}
		verified, c := s.accept(t, token)
		if verified.Subject != person.Subject || c.Email != person.Email || !slices.Equal(c.RealmAccess.Roles, person.Roles) {
			t.Errorf("claims of %s = %+v", person.Username, c)
		}
	}
	if _, err := server.Token(t.Context(), "mallory"); err == nil {
		t.Error("mallory has a token")
	}
	ask := func(t *testing.T, form url.Values) (int, map[string]any) {
		t.Helper()
		got := send(t, http.DefaultClient, http.MethodPost, s.oauth.Endpoint.TokenURL, form)
		var body map[string]any
		if err := json.Unmarshal([]byte(got.body), &body); err != nil {
			t.Fatalf("answer %q: %v", got.body, err)
		}
		return got.status, body
	}
	alice := func(change func(url.Values)) url.Values {
		form := url.Values{"grant_type": {"password"}, "client_id": {identity.ClientCLI}, "username": {"alice"}, "password": {"alice"}}
		change(form)
		return form
	}
	for name, test := range map[string]struct {
		change func(url.Values)
		status int
		code   string
	}{
		"wrong password": {func(f url.Values) { f.Set("password", "bob") }, http.StatusUnauthorized, "invalid_grant"},
		"no password":    {func(f url.Values) { f.Del("password") }, http.StatusUnauthorized, "invalid_grant"},
		"web client":     {func(f url.Values) { f.Set("client_id", identity.ClientWeb) }, http.StatusBadRequest, "unauthorized_client"},
		"unknown client": {func(f url.Values) { f.Set("client_id", "nope") }, http.StatusUnauthorized, "invalid_client"},
		"unknown grant":  {func(f url.Values) { f.Set("grant_type", "guess") }, http.StatusBadRequest, "unsupported_grant_type"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, body := ask(t, alice(test.change))
			if status != test.status || body["error"] != test.code {
				t.Errorf("answer: %d %v, want %d %s", status, body, test.status, test.code)
			}
		})
	}
	status, body := ask(t, alice(func(url.Values) {}))
	if status != http.StatusOK || body["id_token"] != nil || body["scope"] != "profile email" || body["token_type"] != "Bearer" {
		t.Errorf("answer without scope: %d %v", status, body)
	}
	status, body = ask(t, alice(func(f url.Values) { f.Set("scope", "openid offline_access") }))
	if status != http.StatusOK || body["id_token"] == nil || body["refresh_token"] == nil {
		t.Errorf("answer with scopes: %d %v", status, body)
	}
}

func TestClientCredentials(t *testing.T) {
	t.Parallel()
	server := start(t, identity.Options{ServiceSecret: "a secret"})
	s := newShop(t, server)
	token, err := server.ServiceToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, c := s.accept(t, token); !slices.Equal(c.RealmAccess.Roles, []string{"service"}) || c.AuthorizedParty != identity.ClientService || c.Email != "" {
		t.Errorf("claims = %+v", c)
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {identity.ClientService}, "client_secret": {"wrong"}}
	if got := send(t, http.DefaultClient, http.MethodPost, s.oauth.Endpoint.TokenURL, form); got.status != http.StatusUnauthorized {
		t.Errorf("wrong secret: %d %s", got.status, got.body)
	}
	form.Set("client_id", identity.ClientWeb)
	if got := send(t, http.DefaultClient, http.MethodPost, s.oauth.Endpoint.TokenURL, form); got.status != http.StatusUnauthorized {
		t.Errorf("public client: %d %s", got.status, got.body)
	}
}

func TestIssueWith(t *testing.T) {
	t.Parallel()
	server := start(t, identity.Options{AccessTokenLifetime: time.Minute})
	s := newShop(t, server)
	genuine, err := server.IssueWith("bob", map[string]any{"realm_access": map[string]any{"roles": []string{"admin"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, c := s.accept(t, genuine); c.PreferredUsername != "bob" || !slices.Equal(c.RealmAccess.Roles, []string{"admin"}) {
		t.Errorf("claims = %+v", c)
	}
	for name, change := range map[string]map[string]any{
		"expired":        {"exp": time.Now().Add(-time.Minute)},
		"other audience": {"aud": []string{"someone-else"}},
		"no audience":    {"aud": nil},
		"other issuer":   {"iss": "http://evil.example"},
	} {
		token, err := server.IssueWith("alice", change)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.api.Verify(t.Context(), token); err == nil {
			t.Errorf("%s: the token was accepted", name)
		}
	}
	forged, err := server.IssueForged("alice", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.api.Verify(t.Context(), forged); err == nil {
		t.Error("a forged token was accepted")
	}
	if _, err := server.IssueWith("mallory", nil); err == nil {
		t.Error("mallory has a token")
	}
}

func TestExchangeKeepsTheTokensLimits(t *testing.T) {
	t.Parallel()
	server := start(t, identity.Options{})
	s := newShop(t, server)
	exchange := func(change map[string]any) (int, map[string]any) {
		token, err := server.IssueWith("alice", change)
		if err != nil {
			t.Fatal(err)
		}
		got := send(t, http.DefaultClient, http.MethodPost, strings.Replace(s.oauth.Endpoint.TokenURL, "://", "://bookworm-chat:"+identity.DefaultServiceSecret+"@", 1), url.Values{
			"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {token},
			"subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		})
		answer := make(map[string]any)
		if err := json.Unmarshal([]byte(got.body), &answer); err != nil {
			t.Fatal(err)
		}
		return got.status, answer
	}
	end := time.Now().Add(20 * time.Second).Truncate(time.Second)
	status, answer := exchange(map[string]any{"exp": end, "sub": "somebody else", "email": "somebody@bookworm.example"})
	raw, _ := answer["access_token"].(string)
	verified, c := s.accept(t, raw)
	if status != http.StatusOK || !verified.Expiry.Equal(end) || c.Subject != "somebody else" || c.Email != "somebody@bookworm.example" || c.AuthorizedParty != "bookworm-chat" {
		t.Errorf("got %d %v until %v", status, c, verified.Expiry)
	}
	if _, ok := answer["refresh_token"]; ok {
		t.Error("an exchange gives a refresh token")
	}
	for name, change := range map[string]map[string]any{
		"another audience": {"aud": []string{"another-api"}}, "no audience": {"aud": nil}, "expired": {"exp": time.Now().Add(-time.Second)},
	} {
		if status, answer := exchange(change); status < http.StatusBadRequest || answer["access_token"] != nil {
			t.Errorf("%s: %d %v", name, status, answer)
		}
	}
}

func TestJWKSHoldsNoPrivateKey(t *testing.T) {
	t.Parallel()
	server := start(t, identity.Options{})
	got := send(t, http.DefaultClient, http.MethodGet, server.URL()+"/protocol/openid-connect/certs", nil)
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal([]byte(got.body), &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 1 {
		t.Fatalf("%d keys, want 1", len(set.Keys))
	}
	for _, secret := range []string{"d", "p", "q"} {
		if set.Keys[0][secret] != nil {
			t.Errorf("the key shows %s", secret)
		}
	}
}
