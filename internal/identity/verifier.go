package identity

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	"bookworm/internal/personal"
)

// VerifierConfig says whose access tokens are accepted.
type VerifierConfig struct {
	// Issuer is the provider's public address and must equal a token's iss claim.
	Issuer string
	// JWKSURL is where this process fetches the provider's keys, for a provider
	// that is reached under another name from inside. Empty: the address that
	// discovery at the Issuer names.
	JWKSURL string
	// Audience must be among a token's aud claim.
	Audience string
	// KeysFor is how long the provider's keys, and what they verified, are believed
	// without another look, so that a key the provider withdraws stops working soon.
	// A minute when 0.
	KeysFor time.Duration
}

const (
	// cacheSize bounds the remembered tokens; a verified token costs about 300 bytes.
	cacheSize      = 8192
	defaultKeysFor = time.Minute
	// maxToken is the longest access token, in bytes.
	maxToken = 16 << 10
	// discoveryInterval is the shortest time between two failed discoveries.
	discoveryInterval = time.Second
)

// compact is the one form of an access token (RFC 7515, section 7.1). The library
// takes the JSON forms too, in which part of the header is not signed.
var compact = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// Verifier verifies access tokens (JWT, RS256 or ES256) against the provider's
// keys, which are fetched when first needed, again when a token names a new one,
// and again when they are old. While the provider is away the keys that are known
// go on. Verified tokens are remembered until the keys are old, and never beyond
// their end. A Verifier is safe for concurrent use.
type Verifier struct {
	config VerifierConfig
	client *http.Client

	mu        sync.Mutex // held during discovery, so that it happens once
	keys      *keySet
	tokens    *oidc.IDTokenVerifier // over keys
	lastError error
	nextTry   time.Time

	cacheMu sync.Mutex
	cache   map[[sha256.Size]byte]verified
}

type verified struct {
	caller Caller
	until  time.Time
}

// NewVerifier checks the configuration. It does not wait for the provider: one
// that is not there yet is looked for again when a token comes, and until then
// Verify fails with UNAVAILABLE. Requests to the provider outlive ctx.
func NewVerifier(ctx context.Context, config VerifierConfig) (*Verifier, error) {
	if err := checkURL("issuer", config.Issuer); err != nil {
		return nil, err
	}
	if config.JWKSURL != "" {
		if err := checkURL("key address", config.JWKSURL); err != nil {
			return nil, err
		}
	}
	if config.Audience == "" {
		return nil, errors.New("the audience of access tokens is not set")
	}
	if config.KeysFor == 0 {
		config.KeysFor = defaultKeysFor
	}
	v := &Verifier{
		config: config,
		client: &http.Client{Timeout: providerTimeout, Transport: &throttle{interval: keysInterval, last: make(map[string]*fetched)}},
		cache:  make(map[[sha256.Size]byte]verified),
	}
	if config.JWKSURL != "" {
		v.readKeysFrom(ctx, config.JWKSURL)
	}
	return v, nil
}

func checkURL(what, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("parse the %s: %w", what, err)
	}
	if u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("the %s %q is not an http address", what, address)
	}
	return nil
}

func (v *Verifier) readKeysFrom(ctx context.Context, keysURL string) {
	ctx = v.providerContext(ctx)
	v.keys = newKeySet(v.config.KeysFor, func() oidc.KeySet { return oidc.NewRemoteKeySet(ctx, keysURL) })
	v.tokens = oidc.NewVerifier(v.config.Issuer, v.keys, &oidc.Config{
		ClientID:             v.config.Audience,
		SupportedSigningAlgs: []string{oidc.RS256, oidc.ES256},
	})
}

// providerContext carries the HTTP client; the key set keeps it for good.
func (v *Verifier) providerContext(ctx context.Context) context.Context {
	return oidc.ClientContext(context.WithoutCancel(ctx), v.client)
}

// Verify returns whose the token is. Errors: TOKEN_INVALID, and UNAVAILABLE when
// the provider cannot be asked for its keys.
func (v *Verifier) Verify(ctx context.Context, rawToken string) (Caller, error) {
	if len(rawToken) > maxToken || !compact.MatchString(rawToken) {
		return Caller{}, fault.New(fault.ReasonTokenInvalid, "The access token is not one of this shop.")
	}
	key := sha256.Sum256([]byte(rawToken))
	if caller, ok := v.remembered(key); ok {
		return caller, nil
	}
	tokens, keys, err := v.discover(ctx)
	if err != nil {
		return Caller{}, fault.New(fault.ReasonUnavailable, "Access tokens cannot be checked right now.").WithCause(err)
	}
	var outage error
	token, err := tokens.Verify(context.WithValue(ctx, outageKey{}, &outage), rawToken)
	if err != nil {
		return Caller{}, refusal(err, outage)
	}
	caller, err := callerOf(token)
	if err != nil {
		return Caller{}, err
	}
	v.remember(key, verified{caller: caller, until: earlier(token.Expiry, keys.believedUntil())})
	return caller, nil
}

// refusal tells a token that is wrong from a provider that does not answer. The
// messages of the library name claims of the token, so they stay in the cause.
func refusal(err, outage error) error {
	if outage != nil {
		return fault.New(fault.ReasonUnavailable, "Access tokens cannot be checked right now.").WithCause(outage)
	}
	if _, expired := errors.AsType[*oidc.TokenExpiredError](err); expired {
		return fault.New(fault.ReasonTokenInvalid, "The access token has expired.").WithCause(err)
	}
	return fault.New(fault.ReasonTokenInvalid, "The access token is not one of this shop.").WithCause(err)
}

// roles are the names of roles in a token.
var roles = map[string]accessv1.Role{
	"customer": accessv1.Role_ROLE_CUSTOMER,
	"admin":    accessv1.Role_ROLE_ADMIN,
	"service":  accessv1.Role_ROLE_SERVICE,
	"support":  accessv1.Role_ROLE_SUPPORT,
	"reporter": accessv1.Role_ROLE_REPORTER,
}

// maxSubject is what the shop's tables and contracts hold, in bytes.
const maxSubject = 255

func callerOf(token *oidc.IDToken) (Caller, error) {
	var claims struct {
		AuthorizedParty string `json:"azp"`
		ClientID        string `json:"client_id"` // RFC 9068; providers send one or both
		Email           string `json:"email"`
		EmailVerified   bool   `json:"email_verified"`
		Name            string `json:"name"`
		RealmAccess     struct {
			Roles []string `json:"roles"`
		} `json:"realm_access"`
	}
	if err := token.Claims(&claims); err != nil {
		return Caller{}, fault.New(fault.ReasonTokenInvalid, "The access token cannot be read.").WithCause(err)
	}
	if token.Subject == "" || len(token.Subject) > maxSubject {
		return Caller{}, fault.New(fault.ReasonTokenInvalid, "The access token names nobody.")
	}
	caller := Caller{
		Subject: token.Subject, Client: cmp.Or(claims.AuthorizedParty, claims.ClientID), Name: personal.Text(claims.Name),
	}
	if claims.EmailVerified {
		caller.Email = personal.Text(claims.Email)
	}
	for _, name := range claims.RealmAccess.Roles {
		if role, known := roles[name]; known && !caller.Has(role) {
			caller.Roles = append(caller.Roles, role)
		}
	}
	return caller, nil
}

// discover returns the verifier of the provider's tokens, asking the provider
// for its addresses the first time.
func (v *Verifier) discover(ctx context.Context) (*oidc.IDTokenVerifier, *keySet, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.tokens != nil {
		return v.tokens, v.keys, nil
	}
	if time.Now().Before(v.nextTry) {
		return nil, nil, v.lastError
	}
	provider, err := oidc.NewProvider(v.providerContext(ctx), v.config.Issuer)
	if err != nil {
		v.lastError = fmt.Errorf("discover the identity provider: %w", err)
		v.nextTry = time.Now().Add(discoveryInterval)
		return nil, nil, v.lastError
	}
	var addresses struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&addresses); err != nil {
		return nil, nil, fmt.Errorf("read the identity provider's addresses: %w", err)
	}
	v.readKeysFrom(ctx, addresses.Keys)
	return v.tokens, v.keys, nil
}

func (v *Verifier) remembered(key [sha256.Size]byte) (Caller, bool) {
	v.cacheMu.Lock()
	defer v.cacheMu.Unlock()
	entry, ok := v.cache[key]
	if !ok {
		return Caller{}, false
	}
	if !time.Now().Before(entry.until) {
		delete(v.cache, key)
		return Caller{}, false
	}
	return entry.caller, true
}

func (v *Verifier) remember(key [sha256.Size]byte, entry verified) {
	v.cacheMu.Lock()
	defer v.cacheMu.Unlock()
	if len(v.cache) >= cacheSize {
		clear(v.cache) // rare, and the price is one verification for each token
	}
	v.cache[key] = entry
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
