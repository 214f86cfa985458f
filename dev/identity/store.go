package identity

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const (
	signInLimit  = 30 * time.Minute // from the authorization request to its sign-in
	codeLimit    = time.Minute      // from the code to its exchange
	refreshLimit = 30 * 24 * time.Hour
)

// store implements op.Storage. Signing key and refresh tokens are in files, the rest is short-lived.
type store struct {
	keyFile       string
	lifetime      time.Duration // of an access token
	postLogout    []string
	serviceSecret string

	mu        sync.Mutex    // guards what follows
	keys      []*signingKey // published; the last one signs
	redirects []string
	requests  map[string]*authRequest // by id
	codes     map[string]issuedCode
	refresh   map[string]grant // by digest of the token
	journal   *os.File
	size      int64
}

var (
	_ op.Storage                        = (*store)(nil)
	_ op.ClientCredentialsStorage       = (*store)(nil)
	_ op.CanGetPrivateClaimsFromRequest = (*store)(nil)
	_ op.CanSetUserinfoFromRequest      = (*store)(nil)
	_ op.TokenExchangeStorage           = (*store)(nil)
)

// grant is what someone allowed a client: the part that all kinds of token requests share.
type grant struct {
	Client   string    `json:"client"`
	Subject  string    `json:"subject"`
	Scopes   []string  `json:"scopes"`
	AuthTime time.Time `json:"auth_time"`
	Expires  time.Time `json:"expires"`

	// accessIssued says that the access token of this answer is made. What the
	// audience is depends on it: the op package asks for that of the access
	// token first and then for that of the ID token, which is the client's alone.
	accessIssued bool
}

func (g *grant) self() *grant           { return g }
func (g *grant) GetSubject() string     { return g.Subject }
func (g *grant) GetScopes() []string    { return g.Scopes }
func (g *grant) GetClientID() string    { return g.Client }
func (g *grant) GetAuthTime() time.Time { return g.AuthTime }
func (g *grant) GetAMR() []string       { return []string{"pwd"} }

func (g *grant) GetAudience() []string {
	if g.accessIssued {
		return []string{g.Client}
	}
	return []string{Audience}
}

// refreshRequest implements op.RefreshTokenRequest.
type refreshRequest struct{ grant }

func (r *refreshRequest) SetCurrentScopes(scopes []string) { r.Scopes = scopes }

// authRequest is an authorization under way; it implements op.AuthRequest.
type authRequest struct {
	grant
	id        string
	created   time.Time
	redirect  string
	state     string
	nonce     string
	hint      string
	challenge *oidc.CodeChallenge
	mode      oidc.ResponseMode
	signed    bool
}

// GetScopes has offline_access in it, by which the op package knows that a refresh
// token is wanted: who signs in on the page gets one unasked, as from Keycloak.
func (r *authRequest) GetScopes() []string {
	if r.id == "" || slices.Contains(r.Scopes, oidc.ScopeOfflineAccess) {
		return r.Scopes
	}
	return append(slices.Clone(r.Scopes), oidc.ScopeOfflineAccess)
}

func (r *authRequest) GetID() string                         { return r.id }
func (r *authRequest) GetACR() string                        { return "1" }
func (r *authRequest) GetCodeChallenge() *oidc.CodeChallenge { return r.challenge }
func (r *authRequest) GetNonce() string                      { return r.nonce }
func (r *authRequest) GetRedirectURI() string                { return r.redirect }
func (r *authRequest) GetResponseType() oidc.ResponseType    { return oidc.ResponseTypeCode }
func (r *authRequest) GetResponseMode() oidc.ResponseMode    { return r.mode }
func (r *authRequest) GetState() string                      { return r.state }
func (r *authRequest) Done() bool                            { return r.signed }

type issuedCode struct {
	request string
	created time.Time
}

// signingKey implements op.SigningKey and op.Key.
type signingKey struct{ jwk jose.JSONWebKey }

func (k *signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k *signingKey) Algorithm() jose.SignatureAlgorithm          { return jose.RS256 }
func (k *signingKey) ID() string                                  { return k.jwk.KeyID }
func (k *signingKey) Use() string                                 { return "sig" }
func (k *signingKey) Key() any                                    { return k.jwk.Key }

// publicKey is the part of a signingKey that everyone may see.
type publicKey struct{ *signingKey }

func (k publicKey) Key() any { return k.jwk.Public().Key }

func newKey(id string) (*signingKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("generate signing key: %w", err)
	}
	return &signingKey{jose.JSONWebKey{Key: key, KeyID: id, Algorithm: string(jose.RS256), Use: "sig"}}, nil
}

// loadKey reads the key in path, or makes one. The file appears whole or not at all.
func loadKey(path string) (*signingKey, error) {
	raw, err := os.ReadFile(path) //nolint:gosec // in the data folder
	if err == nil {
		k := &signingKey{}
		if err := json.Unmarshal(raw, &k.jwk); err != nil {
			return nil, fmt.Errorf("decode signing key: %w", err)
		}
		return k, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	return makeKey(path)
}

// makeKey makes a key and keeps it in path.
func makeKey(path string) (*signingKey, error) {
	k, err := newKey(uuid.NewString())
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(k.jwk)
	if err != nil {
		return nil, fmt.Errorf("encode signing key: %w", err)
	}
	return k, replaceFile(path, raw)
}

// replaceFile writes path, readable by its owner only, by way of a rename.
func replaceFile(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("replace %s: %w", filepath.Base(path), err)
	}
	return nil
}

// refreshRecord is a line of the file of refresh tokens: one was issued, or one ended.
type refreshRecord struct {
	Issued string `json:"issued,omitempty"` // digest
	Ended  string `json:"ended,omitempty"`  // digest
	Grant  *grant `json:"grant,omitempty"`
}

func openStore(opts Options) (*store, error) {
	if err := os.MkdirAll(opts.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("create data folder: %w", err)
	}
	st := &store{
		keyFile:  filepath.Join(opts.DataDir, "signing-key.json"),
		lifetime: opts.AccessTokenLifetime, postLogout: opts.PostLogoutRedirectURIs, redirects: opts.RedirectURIs,
		serviceSecret: opts.ServiceSecret,
		requests:      map[string]*authRequest{}, codes: map[string]issuedCode{}, refresh: map[string]grant{},
	}
	key, err := loadKey(st.keyFile)
	if err != nil {
		return nil, err
	}
	st.keys = []*signingKey{key}
	path := filepath.Join(opts.DataDir, "refresh-tokens.jsonl")
	old, err := os.ReadFile(path) //nolint:gosec // in the data folder
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read refresh tokens: %w", err)
	}
	if err := st.replay(old); err != nil {
		return nil, fmt.Errorf("read refresh tokens: %w", err)
	}
	// Start anew with what is still valid; a torn last line goes with it.
	current, err := st.snapshot()
	if err != nil {
		return nil, err
	}
	if err := replaceFile(path, current); err != nil {
		return nil, err
	}
	st.size = int64(len(current))
	if st.journal, err = os.OpenFile(path, os.O_WRONLY, 0o600); err != nil { //nolint:gosec // in the data folder
		return nil, fmt.Errorf("open refresh tokens: %w", err)
	}
	return st, nil
}

func (st *store) replay(lines []byte) error {
	for r := bufio.NewReader(bytes.NewReader(lines)); ; {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var rec refreshRecord
		if err := json.Unmarshal(line, &rec); err != nil {
			return fmt.Errorf("decode record: %w", err)
		}
		delete(st.refresh, rec.Ended)
		if rec.Grant != nil && time.Now().Before(rec.Grant.Expires) {
			st.refresh[rec.Issued] = *rec.Grant
		}
	}
}

func (st *store) snapshot() ([]byte, error) {
	var out bytes.Buffer
	lines := json.NewEncoder(&out)
	for digest, g := range st.refresh {
		if err := lines.Encode(refreshRecord{Issued: digest, Grant: &g}); err != nil {
			return nil, fmt.Errorf("encode refresh token: %w", err)
		}
	}
	return out.Bytes(), nil
}

// record appends to the file of refresh tokens and then applies. mu is held.
func (st *store) record(rec refreshRecord) error {
	line, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode refresh token: %w", err)
	}
	n, err := st.journal.WriteAt(append(line, '\n'), st.size)
	if err != nil {
		// What was written of the line must not stay in front of the next one.
		return errors.Join(fmt.Errorf("write refresh token: %w", err), st.journal.Truncate(st.size))
	}
	st.size += int64(n)
	delete(st.refresh, rec.Ended)
	if rec.Grant != nil {
		st.refresh[rec.Issued] = *rec.Grant
	}
	return nil
}

func (st *store) close() error { return st.journal.Close() }

// digest is how a refresh token is kept.
func digest(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func (st *store) client(id string) (*client, bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if slices.Contains(services, id) {
		return &client{id: id, auth: oidc.AuthMethodBasic, grants: []oidc.GrantType{oidc.GrantTypeClientCredentials, oidc.GrantTypeTokenExchange}}, true
	}
	switch id {
	case ClientWeb:
		return &client{
			id: id, auth: oidc.AuthMethodNone, redirects: st.redirects, postLogout: st.postLogout,
			grants: []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken},
		}, true
	case ClientCLI:
		return &client{id: id, auth: oidc.AuthMethodNone, grants: []oidc.GrantType{grantTypePassword, oidc.GrantTypeRefreshToken}}, true
	}
	return nil, false
}

var errUnknownClient = errors.New("unknown client")

func (st *store) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	c, ok := st.client(id)
	if !ok {
		return nil, errUnknownClient
	}
	return c, nil
}

func (st *store) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	if !slices.Contains(services, id) || subtle.ConstantTimeCompare([]byte(secret), []byte(st.serviceSecret)) != 1 {
		return errUnknownClient
	}
	return nil
}

func (st *store) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	if err := st.AuthorizeClientIDSecret(ctx, id, secret); err != nil {
		return nil, err
	}
	return st.GetClientByClientID(ctx, id)
}

func (st *store) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	return &grant{Client: id, Subject: serviceSubject(id), Scopes: knownScopes(scopes)}, nil
}

func (st *store) CreateAuthRequest(_ context.Context, r *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	if len(r.Prompt) == 1 && r.Prompt[0] == oidc.PromptNone {
		return nil, oidc.ErrLoginRequired()
	}
	if r.CodeChallenge == "" || r.CodeChallengeMethod != oidc.CodeChallengeMethodS256 {
		return nil, oidc.ErrInvalidRequest().WithDescription("Missing parameter: code_challenge with code_challenge_method S256")
	}
	request := &authRequest{
		grant: grant{Client: r.ClientID, Scopes: knownScopes(r.Scopes)},
		id:    uuid.NewString(), created: time.Now(), redirect: r.RedirectURI, state: r.State, nonce: r.Nonce, hint: r.LoginHint,
		challenge: &oidc.CodeChallenge{Challenge: r.CodeChallenge, Method: r.CodeChallengeMethod}, mode: r.ResponseMode,
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for id, old := range st.requests {
		if time.Since(old.created) > signInLimit {
			delete(st.requests, id)
		}
	}
	st.requests[request.id] = request
	return request.copied(), nil
}

func (r *authRequest) copied() *authRequest {
	c := *r
	return &c
}

var errUnknownRequest = errors.New("unknown or expired authorization request")

func (st *store) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	r, ok := st.requests[id]
	if !ok || time.Since(r.created) > signInLimit {
		return nil, errUnknownRequest
	}
	return r.copied(), nil
}

func (st *store) SaveAuthCode(_ context.Context, id, code string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	for old, c := range st.codes {
		if time.Since(c.created) > codeLimit {
			delete(st.codes, old)
		}
	}
	st.codes[code] = issuedCode{request: id, created: time.Now()}
	return nil
}

// AuthRequestByCode uses up the code, whatever becomes of its exchange.
func (st *store) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	st.mu.Lock()
	c, ok := st.codes[code]
	delete(st.codes, code)
	st.mu.Unlock()
	if !ok || time.Since(c.created) > codeLimit {
		return nil, errUnknownRequest
	}
	return st.AuthRequestByID(ctx, c.request)
}

func (st *store) DeleteAuthRequest(_ context.Context, id string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.requests, id)
	return nil
}

// waiting says whether the request waits for a sign-in.
func (st *store) waiting(id string) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	r, ok := st.requests[id]
	return ok && !r.signed && time.Since(r.created) <= signInLimit
}

func (st *store) loginHint(id string) string {
	st.mu.Lock()
	defer st.mu.Unlock()
	if r, ok := st.requests[id]; ok {
		return r.hint
	}
	return ""
}

func (st *store) completeSignIn(id, subject string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	r, ok := st.requests[id]
	if !ok || r.signed {
		return errUnknownRequest
	}
	r.Subject, r.AuthTime, r.signed = subject, time.Now().UTC(), true
	return nil
}

func (st *store) CreateAccessToken(_ context.Context, r op.TokenRequest) (id string, expires time.Time, err error) {
	expires = time.Now().UTC().Add(st.lifetime)
	if exchange, ok := r.(op.TokenExchangeRequest); ok {
		if end := endOf(exchange.GetExchangeSubjectTokenClaims()); end.Before(expires) {
			expires = end
		}
	}
	return uuid.NewString(), expires, nil
}

// CreateAccessAndRefreshTokens ends the current refresh token, if any, and issues its successor.
func (st *store) CreateAccessAndRefreshTokens(ctx context.Context, r op.TokenRequest, current string) (id, refresh string, expires time.Time, err error) {
	g := *grantOf(r)
	g.Expires = time.Now().UTC().Add(refreshLimit)
	refresh = rand.Text()
	rec := refreshRecord{Issued: digest(refresh), Grant: &g}
	st.mu.Lock()
	defer st.mu.Unlock()
	if current != "" {
		rec.Ended = digest(current)
		if _, ok := st.refresh[rec.Ended]; !ok { // another request was faster
			return "", "", time.Time{}, oidc.ErrInvalidGrant().WithDescription("Invalid refresh token")
		}
	}
	if err := st.record(rec); err != nil {
		return "", "", time.Time{}, err
	}
	id, expires, err = st.CreateAccessToken(ctx, r)
	return id, refresh, expires, err
}

// grantOf is the grant within one of this package's token requests; the op package knows no others.
func grantOf(r any) *grant {
	if own, ok := r.(interface{ self() *grant }); ok {
		return own.self()
	}
	return &grant{}
}

func (st *store) TokenRequestByRefreshToken(_ context.Context, token string) (op.RefreshTokenRequest, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	g, ok := st.refresh[digest(token)]
	if !ok || time.Now().After(g.Expires) {
		return nil, op.ErrInvalidRefreshToken
	}
	return &refreshRequest{g}, nil
}

// TerminateSession ends the refresh tokens that the person gave the client.
func (st *store) TerminateSession(_ context.Context, subject, clientID string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	for d, g := range st.refresh {
		if g.Subject != subject || g.Client != clientID {
			continue
		}
		if err := st.record(refreshRecord{Ended: d}); err != nil {
			return err
		}
	}
	return nil
}

// RevokeToken ends a refresh token. An access token, named by its id, stays
// valid until it expires: no one asks here before accepting it.
func (st *store) RevokeToken(_ context.Context, token, _, clientID string) *oidc.Error {
	st.mu.Lock()
	defer st.mu.Unlock()
	d := digest(token)
	g, ok := st.refresh[d]
	switch {
	case !ok:
		return nil
	case g.Client != clientID:
		return oidc.ErrInvalidClient().WithDescription("token was not issued for this client")
	}
	if err := st.record(refreshRecord{Ended: d}); err != nil {
		return oidc.ErrServerError().WithParent(err)
	}
	return nil
}

func (st *store) GetRefreshTokenInfo(_ context.Context, _, token string) (subject, tokenID string, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	g, ok := st.refresh[digest(token)]
	if !ok {
		return "", "", op.ErrInvalidRefreshToken
	}
	return g.Subject, token, nil
}

func (st *store) SigningKey(context.Context) (op.SigningKey, error) { return st.signingKey(), nil }

func (st *store) signingKey() *signingKey {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.keys[len(st.keys)-1]
}

func (st *store) rotate() error {
	key, err := makeKey(st.keyFile)
	if err != nil {
		return err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.keys = append(st.keys, key)
	return nil
}

func (st *store) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

func (st *store) KeySet(context.Context) ([]op.Key, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	var published []op.Key
	for _, k := range st.keys {
		published = append(published, publicKey{k})
	}
	return published, nil
}

// GetPrivateClaimsFromRequest fills the access token.
func (st *store) GetPrivateClaimsFromRequest(_ context.Context, r op.TokenRequest, _ []string) (map[string]any, error) {
	g := grantOf(r)
	g.accessIssued = true
	return privateClaims(g), nil
}

func (st *store) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil //nolint:nilnil // no claims
}

// SetUserinfoFromRequest fills the ID token.
func (st *store) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, r op.IDTokenRequest, _ []string) error {
	info.AppendClaims("typ", "ID")
	return describe(info, r.GetSubject())
}

// SetUserinfoFromToken answers the userinfo endpoint. The op package has verified the token.
func (st *store) SetUserinfoFromToken(_ context.Context, info *oidc.UserInfo, _, subject, _ string) error {
	return describe(info, subject)
}

func describe(info *oidc.UserInfo, subject string) error {
	p, ok := personBySubject(subject)
	if !ok {
		return errors.New("unknown person")
	}
	info.Subject = p.Subject
	info.Email, info.EmailVerified = p.Email, true
	info.PreferredUsername, info.Name, info.GivenName, info.FamilyName = p.Username, p.Name(), p.GivenName, p.FamilyName
	return nil
}

func (st *store) SetIntrospectionFromToken(_ context.Context, answer *oidc.IntrospectionResponse, _, subject, _ string) error {
	info := &oidc.UserInfo{}
	if err := describe(info, subject); err != nil {
		return err
	}
	answer.SetUserInfo(info)
	return nil
}

func (st *store) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

func (st *store) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errors.New("no client signs assertions")
}

func (st *store) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errors.New("no client signs assertions")
}

func (st *store) Health(context.Context) error { return nil }
