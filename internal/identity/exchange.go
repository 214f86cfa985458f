package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/sync/singleflight"

	"bookworm/internal/fault"
)

const (
	// exchangesSize bounds the remembered exchanges; one costs about 2 KiB.
	exchangesSize = 8192
	// exchangeMargin is how long before its end a token is exchanged anew, so that it
	// does not end on its way.
	exchangeMargin = 10 * time.Second
)

// The names of OAuth 2.0 Token Exchange, RFC 8693.
const (
	grantTypeExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	accessTokenType   = "urn:ietf:params:oauth:token-type:access_token" //nolint:gosec // a name
)

// Exchanger exchanges the access token of a call being served for one of the same
// person that was issued to this service, for calls of other services. The provider
// answers only to the service's own credential, so such a token says both for whom
// and by whom a call is made.
//
// It remembers what it was given until shortly before its end; while the provider is
// away that goes on. It is safe for concurrent use.
type Exchanger struct {
	config  clientcredentials.Config
	client  *http.Client
	known   *lru.Cache[[sha256.Size]byte, exchanged]
	flights singleflight.Group
}

type exchanged struct {
	token string
	until time.Time
}

// NewExchanger returns an Exchanger of a service. It does not wait for the provider.
func NewExchanger(config ServiceConfig) *Exchanger {
	known, _ := lru.New[[sha256.Size]byte, exchanged](exchangesSize) // fails for sizes below 1
	transport := http.DefaultTransport.(*http.Transport).Clone()     //nolint:forcetypeassert // it is one, documented
	transport.MaxIdleConnsPerHost = 32                               // many people arrive at once; the default is 2
	return &Exchanger{
		config: clientcredentials.Config{
			ClientID: config.ClientID, ClientSecret: string(config.ClientSecret), TokenURL: config.TokenURL,
			AuthStyle: oauth2.AuthStyleInHeader,
		},
		client: &http.Client{Timeout: providerTimeout, Transport: transport},
		known:  known,
	}
}

// Exchange returns the token with which to call other services for the person whose
// token is given. Errors: TOKEN_INVALID when the provider no longer takes the
// person's token, UNAVAILABLE when it does not answer, and unclassified ones when it
// refuses this service.
func (e *Exchanger) Exchange(ctx context.Context, token string) (string, error) {
	key := sha256.Sum256([]byte(token))
	if known, ok := e.known.Get(key); ok && time.Now().Before(known.until) {
		return known.token, nil
	}
	// The request outlives a caller who leaves: others wait for the same.
	flight := e.flights.DoChan(string(key[:]), func() (any, error) {
		fresh, err := e.request(context.WithoutCancel(ctx), token)
		if err != nil {
			return "", err
		}
		e.known.Add(key, exchanged{token: fresh.AccessToken, until: fresh.Expiry.Add(-exchangeMargin)})
		return fresh.AccessToken, nil
	})
	select {
	case <-ctx.Done():
		return "", fmt.Errorf("exchange the caller's token: %w", ctx.Err())
	case answer := <-flight:
		if answer.Err != nil {
			return "", exchangeFault(answer.Err)
		}
		return answer.Val.(string), nil //nolint:forcetypeassert // from above
	}
}

func (e *Exchanger) request(ctx context.Context, token string) (*oauth2.Token, error) {
	config := e.config
	config.EndpointParams = url.Values{
		"grant_type": {grantTypeExchange}, "requested_token_type": {accessTokenType},
		"subject_token": {token}, "subject_token_type": {accessTokenType},
	}
	fresh, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, e.client))
	if err != nil {
		return nil, err
	}
	if !strings.EqualFold(fresh.TokenType, "Bearer") {
		return nil, fmt.Errorf("the identity provider answered with a token of type %q", fresh.TokenType)
	}
	return fresh, nil
}

// exchangeFault tells whose fault it is that there is no token.
func exchangeFault(err error) error {
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	switch {
	case ok && (refused.ErrorCode == "invalid_request" || refused.ErrorCode == "invalid_token" || refused.ErrorCode == "invalid_grant"):
		// Which code it is depends on the provider; nothing but the person's token varies.
		return fault.New(fault.ReasonTokenInvalid, "The access token is no longer good. Sign in again.").WithCause(err)
	case ok && refused.Response.StatusCode < http.StatusInternalServerError && refused.Response.StatusCode != http.StatusTooManyRequests:
		return fmt.Errorf("exchange the caller's token: %w", err)
	default:
		return fault.New(fault.ReasonUnavailable, "A part of the shop cannot be reached.").
			WithCause(fmt.Errorf("exchange the caller's token: %w", err))
	}
}
