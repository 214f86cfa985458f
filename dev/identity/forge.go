package identity

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/zitadel/oidc/v3/pkg/crypto"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// IssueWith returns an access token as the token endpoint issues it to the
// person, with the given claims put in place of its own; a nil value removes a
// claim. With it tests make tokens that are expired or of another audience,
// issuer, subject or role. It is for Go callers alone: nothing on HTTP leads here.
func (s *Server) IssueWith(username string, claims map[string]any) (string, error) {
	return s.issueWith(s.store.signingKey(), username, claims)
}

// IssueForged is IssueWith, signed by a key that isn't this provider's under the id of the one that is.
func (s *Server) IssueForged(username string, claims map[string]any) (string, error) {
	key, err := newKey(s.store.signingKey().ID())
	if err != nil {
		return "", err
	}
	return s.issueWith(key, username, claims)
}

func (s *Server) issueWith(key *signingKey, username string, claims map[string]any) (string, error) {
	who, ok := personByUsername(username)
	if !ok {
		return "", fmt.Errorf("identity: no person %q", username)
	}
	g := &grant{Client: ClientCLI, Subject: who.Subject, Scopes: knownScopes(nil)}
	genuine := oidc.NewAccessTokenClaims(s.issuer, g.Subject, g.GetAudience(), time.Now().UTC().Add(s.store.lifetime),
		uuid.NewString(), g.Client, 0)
	genuine.Claims = privateClaims(g)
	raw, err := json.Marshal(genuine)
	if err != nil {
		return "", fmt.Errorf("encode claims: %w", err)
	}
	var merged map[string]any
	if err := json.Unmarshal(raw, &merged); err != nil {
		return "", fmt.Errorf("decode claims: %w", err)
	}
	for name, value := range claims {
		if value == nil {
			delete(merged, name)
			continue
		}
		if t, ok := value.(time.Time); ok {
			value = t.Unix()
		}
		merged[name] = value
	}
	signer, err := op.SignerFromKey(key)
	if err != nil {
		return "", fmt.Errorf("prepare signature: %w", err)
	}
	token, err := crypto.Sign(merged, signer)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return token, nil
}
