package e2e

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"bookworm/dev/identity"
)

var b64 = base64.RawURLEncoding

// hostileTokens are tokens for alice that must not be believed, by name, and those
// of alice, bob and ops.
func hostileTokens(t *testing.T, provider *identity.Server, issuer string) map[string]string {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	tokens := make(map[string]string)
	issue := func(name, person string, claims map[string]any) {
		token, err := provider.IssueWith(person, claims)
		must(err)
		tokens[name] = token
	}
	for _, person := range []string{"alice", "bob", "ops"} {
		issue(person, person, nil)
	}

	// Signed by the provider, and still nobody's.
	now := time.Now()
	for name, claims := range map[string]map[string]any{
		"expired": {"exp": now.Add(-time.Hour)}, "epoch": {"exp": 1}, "nbf": {"nbf": now.Add(time.Hour)}, "no-exp": {"exp": nil}, "exp-text": {"exp": "tomorrow"},
		"exp-negative": {"exp": -1}, "aud": {"aud": "elsewhere"}, "no-aud": {"aud": nil}, "aud-empty": {"aud": []string{}}, "aud-almost": {"aud": "bookworm-api2"},
		"iss": {"iss": "https://evil.example"}, "no-iss": {"iss": nil}, "iss-slash": {"iss": issuer + "/"}, "iss-upper": {"iss": strings.ToUpper(issuer)},
		"no-sub": {"sub": nil}, "sub-empty": {"sub": ""}, "sub-list": {"sub": []string{"alice"}}, "sub-number": {"sub": 1}, "sub-object": {"sub": map[string]any{"a": 1}},
		"sub-long": {"sub": strings.Repeat("a", 300)}, "roles-text": {"realm_access": map[string]any{"roles": "admin"}}, "roles-number": {"realm_access": 1},
		"no-roles": {"realm_access": nil}, "roles-elsewhere": {"realm_access": nil, "resource_access": map[string]any{"bookworm": map[string]any{"roles": []string{"admin"}}}, "roles": []string{"admin"}},
		"huge": {"filler": strings.Repeat("a", 60_000)},
	} {
		issue(name, "alice", claims)
	}
	var err error
	tokens["other-key"], err = provider.IssueForged("alice", nil)
	must(err)

	// Made by hand, around the claims of a good one.
	good := strings.Split(tokens["alice"], ".")
	head, claims := decodePart(t, good[0]), decodePart(t, good[1])
	key, public := providerKey(t, issuer)
	own, err := rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	mac := func(header map[string]any, secret []byte) string {
		signed := encodePart(t, header) + "." + good[1]
		h := hmac.New(sha256.New, secret)
		_, _ = io.WriteString(h, signed)
		return signed + "." + b64.EncodeToString(h.Sum(nil))
	}
	with := func(changes map[string]any) map[string]any {
		changed := maps.Clone(head)
		maps.Copy(changed, changes)
		maps.DeleteFunc(changed, func(_ string, v any) bool { return v == nil })
		return changed
	}
	sign := func(header map[string]any, payload string) string {
		signed := encodePart(t, header) + "." + payload
		sum := sha256.Sum256([]byte(signed))
		signature, err := rsa.SignPKCS1v15(rand.Reader, own, 5, sum[:]) // 5 is crypto.SHA256
		must(err)
		return signed + "." + b64.EncodeToString(signature)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	must(err)
	for name, alg := range map[string]string{"none": "none", "None": "None", "nOnE": "nOnE"} {
		tokens[name] = encodePart(t, with(map[string]any{"alg": alg})) + "." + good[1] + "."
	}
	tokens["none-signed"] = encodePart(t, with(map[string]any{"alg": "none"})) + "." + good[1] + "." + good[2]
	tokens["no-alg"] = encodePart(t, with(map[string]any{"alg": nil})) + "." + good[1] + "." + good[2]
	hs := with(map[string]any{"alg": "HS256"})
	tokens["hs256-pem"] = mac(hs, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	tokens["hs256-der"], tokens["hs256-modulus"] = mac(hs, der), mac(hs, public.N.Bytes())
	tokens["hs256-empty"], tokens["hs256-secret"] = mac(hs, nil), mac(hs, []byte("secret"))
	jwk, err := json.Marshal(jose.JSONWebKey{Key: &own.PublicKey, KeyID: "mine", Algorithm: "RS256", Use: "sig"})
	must(err)
	for name, changes := range map[string]map[string]any{
		"other-kid": {"kid": "mine"}, "jwk": {"kid": "mine", "jwk": json.RawMessage(jwk)}, "jku": {"kid": "mine", "jku": "https://evil.example/keys"},
		"x5u": {"kid": "mine", "x5u": "https://evil.example/cert"}, "x5c": {"kid": "mine", "x5c": []string{base64.StdEncoding.EncodeToString(der)}},
		"kid-path": {"kid": "../../../../etc/passwd"}, "kid-null": {"kid": "/dev/null"}, "kid-sql": {"kid": "' UNION SELECT 'key' --"}, "kid-crlf": {"kid": "a\r\nX-Injected: yes"},
		"kid-shell": {"kid": "$(id)"}, "kid-long": {"kid": strings.Repeat("k", 10_000)}, "kid-number": {"kid": 1}, "kid-none": {"kid": nil},
		"crit": {"crit": []string{"evil"}, "evil": true}, "b64": {"b64": false, "crit": []string{"b64"}}, "ps256": {"alg": "PS256"}, "es256": {"alg": "ES256"},
	} {
		tokens[name] = sign(with(changes), good[1])
	}
	_ = key
	admin := maps.Clone(claims)
	admin["realm_access"] = map[string]any{"roles": []string{"admin"}}
	signatureOfBob := strings.Split(tokens["bob"], ".")[2]
	tokens["tampered"] = good[0] + "." + encodePart(t, admin) + "." + good[2]
	tokens["swapped"] = good[0] + "." + good[1] + "." + signatureOfBob
	tokens["stripped"] = good[0] + "." + good[1] + "."
	tokens["cut"] = tokens["alice"][:len(tokens["alice"])-10]
	tokens["zeros"] = good[0] + "." + good[1] + "." + b64.EncodeToString(make([]byte, 256))
	raw, err := b64.DecodeString(good[1])
	must(err)
	tokens["duplicate"] = sign(head, b64.EncodeToString(append([]byte(`{"sub":"admin",`), raw[1:]...)))
	tokens["two"], tokens["four"], tokens["five"] = good[0]+"."+good[1], tokens["alice"]+"."+good[2], tokens["alice"]+"."+good[2]+"."+good[2]
	tokens["dots"], tokens["padded"] = "..", good[0]+"=."+good[1]+"==."+good[2]+"="
	tokens["json"] = `{"protected":"` + good[0] + `","payload":"` + good[1] + `","signature":"` + good[2] + `"}`
	signature, err := b64.DecodeString(good[2])
	must(err)
	tokens["standard"] = good[0] + "." + good[1] + "." + base64.StdEncoding.EncodeToString(signature)
	tokens["garbage"], tokens["list"] = sign(head, b64.EncodeToString([]byte("not JSON"))), sign(head, b64.EncodeToString([]byte("[]")))
	tokens["deep"] = sign(head, b64.EncodeToString([]byte(`{"sub":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)+`}`)))
	tokens["header-nul"] = b64.EncodeToString([]byte("{\"alg\":\"RS256\",\"kid\":\"\x00\"}")) + "." + good[1] + "." + good[2]
	tokens["id"] = identityToken(t, issuer)
	return tokens
}

func decodePart(t *testing.T, part string) map[string]any {
	t.Helper()
	raw, err := b64.DecodeString(part)
	var decoded map[string]any
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		err = d.Decode(&decoded)
	}
	if err != nil {
		t.Fatal(err)
	}
	return decoded
}

func encodePart(t *testing.T, part map[string]any) string {
	t.Helper()
	raw, err := json.Marshal(part)
	if err != nil {
		t.Fatal(err)
	}
	return b64.EncodeToString(raw)
}

func subjectOf(t *testing.T, token string) string {
	t.Helper()
	subject, _ := decodePart(t, strings.Split(token, ".")[1])["sub"].(string)
	return subject
}

// ask gets JSON of the provider.
func ask(t *testing.T, request *http.Request, into any) {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// providerKey returns the key with which everybody can check the provider's tokens.
func providerKey(t *testing.T, issuer string) (id string, public *rsa.PublicKey) {
	t.Helper()
	get := func(address string, into any) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		ask(t, request, into)
	}
	var discovered struct {
		Keys string `json:"jwks_uri"`
	}
	get(issuer+"/.well-known/openid-configuration", &discovered)
	var set jose.JSONWebKeySet
	get(discovered.Keys, &set)
	for _, key := range set.Keys {
		if rsaKey, ok := key.Key.(*rsa.PublicKey); ok {
			return key.KeyID, rsaKey
		}
	}
	t.Fatal("the provider publishes no RSA key")
	return "", nil
}

// identityToken signs alice in and returns the token that is for the client, and not
// for the shop.
func identityToken(t *testing.T, issuer string) string {
	t.Helper()
	form := "grant_type=password&client_id=bookworm-cli&username=alice&password=alice&scope=openid+profile+email"
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, issuer+"/protocol/openid-connect/token", strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	var answer struct {
		Token string `json:"id_token"`
	}
	ask(t, request, &answer)
	if answer.Token == "" {
		t.Fatal("no identity token")
	}
	return answer.Token
}
