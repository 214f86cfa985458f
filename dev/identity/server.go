package identity

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/sync/errgroup"
	"golang.org/x/text/language"

	"bookworm/internal/loopback"
)

const (
	realmPath     = "/realms/bookworm"
	endpoints     = "protocol/openid-connect/"
	tokenPath     = realmPath + "/" + endpoints + "token"
	signInPath    = realmPath + "/sign-in"
	signedOutPath = realmPath + "/signed-out"

	maxBody = 1 << 20 // bytes of a request
)

// Options configure a Server. The zero value of each field but DataDir works.
type Options struct {
	// DataDir is the folder that keeps the signing key and the refresh tokens; it is created when missing.
	DataDir string
	// Port to listen on at 127.0.0.1; 0 picks a free one. It is part of the
	// issuer: tokens outlive a restart only on the same port.
	Port int
	// Logger gets failures. It defaults to slog.Default.
	Logger *slog.Logger
	// AccessTokenLifetime defaults to 5 minutes.
	AccessTokenLifetime time.Duration
	// RedirectURIs are where bookworm-web may send people back to, compared exactly.
	RedirectURIs []string
	// PostLogoutRedirectURIs are where people may be sent after signing out, compared exactly.
	PostLogoutRedirectURIs []string
	// ServiceSecret is the secret of every service. It defaults to DefaultServiceSecret.
	ServiceSecret string
}

// DefaultServiceSecret is the secret of every service unless Options say otherwise.
const DefaultServiceSecret = "bookworm-service-secret"

// Server is a running provider. Its methods are safe for concurrent use.
type Server struct {
	log      *slog.Logger
	issuer   string
	store    *store
	lock     *lock
	provider *op.Provider

	http   *http.Server
	cancel context.CancelFunc
	group  *errgroup.Group
	stop   sync.Once
}

// Start loads the keys and tokens kept in opts.DataDir and serves until Stop.
// ctx bounds the start alone: cancelling it later has no effect.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.DataDir == "" {
		return nil, errors.New("identity: DataDir is empty")
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.AccessTokenLifetime == 0 {
		opts.AccessTokenLifetime = 5 * time.Minute
	}
	if opts.ServiceSecret == "" {
		opts.ServiceSecret = DefaultServiceSecret
	}
	s := &Server{log: opts.Logger.With("part", "identity"), lock: newLock()}
	var err error
	if s.store, err = openStore(opts); err != nil {
		return nil, fmt.Errorf("open identity store: %w", err)
	}
	listener, err := loopback.Listen(ctx, opts.Port)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for sign-ins: %w", err), s.store.close())
	}
	s.issuer = "http://" + listener.Addr().String() + realmPath
	if s.provider, err = newProvider(s.issuer, s.store); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare OpenID provider: %w", err), listener.Close(), s.store.close())
	}
	lifetime, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return lifetime },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.group = &errgroup.Group{}
	s.group.Go(func() error { return s.http.Serve(listener) })
	return s, nil
}

func newProvider(issuer string, storage op.Storage) (*op.Provider, error) {
	return op.NewProvider(&op.Config{
		DefaultLogoutRedirectURI: signedOutPath,
		CodeMethodS256:           true,
		AuthMethodPost:           true,
		GrantTypeRefreshToken:    true,
		SupportedUILocales:       []language.Tag{language.English},
		SupportedScopes:          []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeEmail, oidc.ScopeOfflineAccess},
	}, storage, op.StaticIssuer(issuer),
		op.WithAllowInsecure(),
		op.WithCustomEndpoints(
			op.NewEndpoint(endpoints+"auth"), op.NewEndpoint(endpoints+"token"), op.NewEndpoint(endpoints+"userinfo"),
			op.NewEndpoint(endpoints+"revoke"), op.NewEndpoint(endpoints+"logout"), op.NewEndpoint(endpoints+"certs"),
		),
		op.WithCustomIntrospectionEndpoint(op.NewEndpoint(endpoints+"token/introspect")),
		op.WithCustomDeviceAuthorizationEndpoint(op.NewEndpoint(endpoints+"auth/device")),
	)
}

// URL is the issuer, without a trailing slash: where discovery starts and what tokens carry as iss.
func (s *Server) URL() string { return s.issuer }

// Stop ends the server and waits for its goroutines. Further calls do nothing.
func (s *Server) Stop() {
	s.stop.Do(func() {
		s.cancel()
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		if err := s.http.Shutdown(ctx); err != nil {
			err = errors.Join(err, s.http.Close())
			s.log.Warn("sign-ins stopped with open connections", "error", err)
		}
		if err := s.group.Wait(); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("serve sign-ins", "error", err)
		}
		if err := s.store.close(); err != nil {
			s.log.Error("close identity store", "error", err)
		}
	})
}

// AllowRedirect adds addresses that bookworm-web may send people back to.
func (s *Server) AllowRedirect(uris ...string) {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.store.redirects = append(slices.Clone(s.store.redirects), uris...)
}

// RotateKey signs from now on with a new key. The old ones stay published, so their
// tokens stay good, until WithdrawKeys or a restart.
func (s *Server) RotateKey() error { return s.store.rotate() }

// WithdrawKeys publishes the signing key alone.
func (s *Server) WithdrawKeys() {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.store.keys = s.store.keys[len(s.store.keys)-1:]
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(realmPath+"/", http.StripPrefix(realmPath, s.provider))
	mux.HandleFunc("POST "+tokenPath, s.serveToken)
	mux.HandleFunc("GET "+signInPath, s.showSignIn)
	mux.HandleFunc("POST "+signInPath, s.signIn)
	mux.HandleFunc("GET "+signedOutPath, func(w http.ResponseWriter, _ *http.Request) {
		s.render(w, http.StatusOK, "signed-out.html", page{})
	})
	for _, home := range []string{"GET /{$}", "GET " + realmPath, "GET " + realmPath + "/{$}"} {
		mux.HandleFunc(home, func(w http.ResponseWriter, _ *http.Request) {
			s.render(w, http.StatusOK, "home.html", page{Issuer: s.issuer, People: people})
		})
	}
	return mux
}

// serveToken answers the password grant, which the op package leaves out, and passes on all others.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		s.refuseToken(w, http.StatusBadRequest, "invalid_request", "the body is no form")
		return
	}
	if r.PostForm.Get("grant_type") == string(oidc.GrantTypeTokenExchange) {
		r.Form.Set("audience", Audience) // what Keycloak's mapper adds to every token
	}
	if r.PostForm.Get("grant_type") != grantTypePassword {
		http.StripPrefix(realmPath, s.provider).ServeHTTP(w, r)
		return
	}
	c, ok := s.store.client(r.PostForm.Get("client_id"))
	switch {
	case !ok:
		s.refuseToken(w, http.StatusUnauthorized, "invalid_client", "Invalid client or Invalid client credentials")
		return
	case !slices.Contains(c.grants, grantTypePassword):
		s.refuseToken(w, http.StatusBadRequest, "unauthorized_client", "Client not allowed for direct access grants")
		return
	}
	who, ok := s.lock.authenticate(r.PostForm.Get("username"), r.PostForm.Get("password"))
	if !ok {
		s.refuseToken(w, http.StatusUnauthorized, "invalid_grant", "Invalid user credentials")
		return
	}
	scopes := knownScopes(strings.Fields(r.PostForm.Get("scope")))
	request := &authRequest{
		grant:  grant{Client: c.id, Subject: who.Subject, Scopes: scopes, AuthTime: time.Now().UTC()},
		signed: true,
	}
	ctx := op.ContextWithIssuer(r.Context(), s.issuer)
	response, err := op.CreateTokenResponse(ctx, request, c, s.provider, true, "", "")
	if err != nil {
		s.log.Error("issue tokens", "client", c.id, "error", err)
		s.refuseToken(w, http.StatusInternalServerError, "server_error", "the token could not be issued")
		return
	}
	if !slices.Contains(scopes, oidc.ScopeOpenID) {
		response.IDToken = ""
	}
	s.writeJSON(w, http.StatusOK, response)
}

func (s *Server) refuseToken(w http.ResponseWriter, status int, code, description string) {
	s.writeJSON(w, status, map[string]string{"error": code, "error_description": description})
}

func (s *Server) writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		s.log.Debug("answer not delivered", "error", err)
	}
}

//go:embed templates
var templateFiles embed.FS

var pages = template.Must(template.ParseFS(templateFiles, "templates/*.html"))

// page is what the templates show.
type page struct {
	Issuer   string
	ID       string // of the authorization request
	Username string
	Problem  string
	People   []Person
}

func (s *Server) showSignIn(w http.ResponseWriter, r *http.Request) {
	s.offerSignIn(w, http.StatusOK, r.FormValue("id"), s.store.loginHint(r.FormValue("id")), "")
}

func (s *Server) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	id, username := r.PostFormValue("id"), r.PostFormValue("username")
	who, ok := s.lock.authenticate(username, r.PostFormValue("password"))
	if !ok {
		s.offerSignIn(w, http.StatusUnauthorized, id, username, "That username and password don't match.")
		return
	}
	if err := s.store.completeSignIn(id, who.Subject); err != nil {
		s.offerSignIn(w, http.StatusGone, id, "", "")
		return
	}
	ctx := op.ContextWithIssuer(r.Context(), s.issuer)
	http.Redirect(w, r, op.AuthCallbackURL(s.provider)(ctx, id), http.StatusSeeOther)
}

// offerSignIn shows the form, or that there is nothing to sign in to.
func (s *Server) offerSignIn(w http.ResponseWriter, status int, id, username, problem string) {
	if !s.store.waiting(id) {
		s.render(w, http.StatusGone, "expired.html", page{})
		return
	}
	s.render(w, status, "sign-in.html", page{ID: id, Username: username, Problem: problem, People: people})
}

func (s *Server) render(w http.ResponseWriter, status int, name string, data page) {
	var body bytes.Buffer
	if err := pages.ExecuteTemplate(&body, name, data); err != nil {
		s.log.Error("render page", "page", name, "error", err)
		http.Error(w, "page not available", http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	header.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(status)
	if _, err := body.WriteTo(w); err != nil {
		s.log.Debug("page not delivered", "page", name, "error", err)
	}
}

// Token returns an access token for a person, from the token endpoint over HTTP,
// as `make token` does. It fails for an unknown username.
func (s *Server) Token(ctx context.Context, username string) (string, error) {
	return s.requestToken(ctx, url.Values{
		"grant_type": {grantTypePassword}, "client_id": {ClientCLI}, "username": {username}, "password": {username},
		"scope": {"openid profile email"},
	})
}

// ServiceToken returns an access token of bookworm-service, from the token endpoint over HTTP.
func (s *Server) ServiceToken(ctx context.Context) (string, error) {
	return s.requestToken(ctx, url.Values{
		"grant_type": {"client_credentials"}, "client_id": {ClientService}, "client_secret": {s.store.serviceSecret},
	})
}

func (s *Server) requestToken(ctx context.Context, form url.Values) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.issuer+"/"+endpoints+"token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("prepare token request: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("request token: %w", err)
	}
	defer res.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
		Error       string `json:"error"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return "", fmt.Errorf("read token answer: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("request token: %s: %s", res.Status, answer.Error)
	}
	return answer.AccessToken, nil
}
