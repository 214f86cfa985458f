package identity

import (
	"context"
	"net/http"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"bookworm/internal/personal"
)

// ServiceConfig is the credential with which a service of the shop calls another.
type ServiceConfig struct {
	// TokenURL is the provider's token endpoint, as this process reaches it.
	TokenURL string
	// ClientID and ClientSecret are the service's own.
	ClientID     string
	ClientSecret personal.Text
}

// ServiceTokens returns a source of the service's own access tokens (OAuth 2.0
// client credentials). A token is fetched when first needed and again shortly
// before it ends. The source goes on working after ctx ends, so that calls in
// flight can finish. It is safe for concurrent use.
func ServiceTokens(ctx context.Context, config ServiceConfig) oauth2.TokenSource {
	credentials := clientcredentials.Config{
		ClientID:     config.ClientID,
		ClientSecret: string(config.ClientSecret),
		TokenURL:     config.TokenURL,
	}
	ctx = context.WithValue(context.WithoutCancel(ctx), oauth2.HTTPClient, &http.Client{Timeout: providerTimeout})
	return credentials.TokenSource(ctx)
}

// providerTimeout bounds each request to the identity provider.
const providerTimeout = 5 * time.Second
