package identity

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// A token is exchanged as Keycloak does it: only an access token for the shop's API,
// only into another one, for the same person with the same roles, and issued to the
// service that asks. There is no session here that could have ended, so instead the
// new token ends no later than the old one.

// ValidateTokenExchangeRequest implements op.TokenExchangeStorage. The op package has
// verified the token and the service's secret.
func (st *store) ValidateTokenExchangeRequest(_ context.Context, r op.TokenExchangeRequest) error {
	if r.GetRequestedTokenType() == "" {
		r.SetRequestedTokenType(oidc.AccessTokenType)
	}
	switch {
	case r.GetRequestedTokenType() != oidc.AccessTokenType:
		return oidc.ErrInvalidRequest().WithDescription("requested_token_type unsupported")
	case r.GetExchangeSubjectTokenType() != oidc.AccessTokenType:
		return oidc.ErrInvalidRequest().WithDescription("Parameter 'subject_token' supports access tokens only")
	case r.GetExchangeActorTokenType() != "":
		return oidc.ErrInvalidRequest().WithDescription("Parameter 'actor_token' is not supported")
	case !isForShop(r.GetExchangeSubjectTokenClaims()["aud"]):
		return oidc.ErrAccessDenied().WithDescription("Client is not within the token audience")
	}
	return nil
}

// isForShop reads an aud claim: one name, or several.
func isForShop(aud any) bool {
	several, _ := aud.([]any)
	return aud == Audience || slices.Contains(several, any(Audience))
}

// endOf is when a token of these claims ends.
func endOf(claims map[string]any) time.Time {
	seconds, _ := claims["exp"].(float64)
	return time.Unix(int64(seconds), 0).UTC()
}

// CreateTokenExchangeRequest implements op.TokenExchangeStorage. Nothing is kept.
func (st *store) CreateTokenExchangeRequest(context.Context, op.TokenExchangeRequest) error {
	return nil
}

// GetPrivateClaimsFromTokenExchangeRequest implements op.TokenExchangeStorage: what
// the old token says, but for the client. The op package puts the new token's own
// times and id over it.
func (st *store) GetPrivateClaimsFromTokenExchangeRequest(_ context.Context, r op.TokenExchangeRequest) (map[string]any, error) {
	claims := maps.Clone(r.GetExchangeSubjectTokenClaims())
	claims["azp"] = r.GetClientID()
	return claims, nil
}

// SetUserinfoFromTokenExchangeRequest implements op.TokenExchangeStorage. It is for
// ID tokens, which are not exchanged.
func (st *store) SetUserinfoFromTokenExchangeRequest(context.Context, *oidc.UserInfo, op.TokenExchangeRequest) error {
	return errors.New("ID tokens are not exchanged")
}
