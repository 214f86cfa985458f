package identity_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"bookworm/dev/inbox"
	"bookworm/internal/loopback"
	"bookworm/internal/personal"
)

const (
	keycloakPassword = "correct horse battery staple"
	// keycloakStart bounds the first start, which makes a database and three realms: a
	// minute, or several on a busy machine.
	keycloakStart = 10 * time.Minute
)

// keycloak is a real Keycloak with the realm of deploy/keycloak, started by the
// script there, and twice again under other names.
type keycloak struct {
	public, inner string // addresses: localhost in tokens, 127.0.0.1 for services
	mails         *inbox.Server
	command       *exec.Cmd
	ended         chan struct{}
	dir           string
}

// The one Keycloak of this package's tests. TestMain ends it.
var theOne struct {
	sync.Once

	keycloak *keycloak
	err      error
}

func theKeycloak(t *testing.T) *keycloak {
	t.Helper()
	home := os.Getenv("KEYCLOAK_HOME")
	if home == "" {
		t.Skip("KEYCLOAK_HOME is not set; make test-keycloak sets it")
	}
	theOne.Do(func() { theOne.keycloak, theOne.err = startKeycloak(home) })
	if theOne.err != nil {
		t.Fatalf("start Keycloak: %v", theOne.err)
	}
	return theOne.keycloak
}

func keycloakSecret(client string) string {
	return "the secret of " + client + ", long enough for the start"
}

func startKeycloak(home string) (_ *keycloak, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), keycloakStart)
	defer cancel()
	k := &keycloak{ended: make(chan struct{})}
	if k.dir, err = os.MkdirTemp("", "bookworm-keycloak-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.stop())
		}
	}()
	k.mails, err = inbox.Start(ctx, inbox.Options{DataDir: filepath.Join(k.dir, "inbox"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	// A copy, since Keycloak writes into its own folder.
	own := filepath.Join(k.dir, "keycloak")
	if err := os.CopyFS(own, os.DirFS(home)); err != nil {
		return nil, fmt.Errorf("copy %s: %w", home, err)
	}
	for _, other := range []kind{rotating, brief} {
		if err := copyRealm(own, other); err != nil {
			return nil, err
		}
	}
	port, err := loopback.Port(ctx, 0)
	if err != nil {
		return nil, err
	}
	management, err := loopback.Port(ctx, 0)
	if err != nil {
		return nil, err
	}
	k.public, k.inner = fmt.Sprintf("http://localhost:%d", port), "http://"+loopback.HostPort(port)
	log, err := os.Create(filepath.Join(k.dir, "log"))
	if err != nil {
		return nil, err
	}
	// Not CommandContext: it outlives its start. The script becomes Java, in a group of
	// its own, which dies with the test.
	k.command = exec.Command("../../deploy/keycloak/start", "start-dev", //nolint:noctx // see above
		"--http-host="+loopback.Host, fmt.Sprintf("--http-port=%d", port), fmt.Sprintf("--http-management-port=%d", management),
		"--hostname="+k.public, "--hostname-backchannel-dynamic=true")
	k.command.Env = append(os.Environ(), "KEYCLOAK_HOME="+own, "KC_BOOTSTRAP_ADMIN_USERNAME=root", "KC_BOOTSTRAP_ADMIN_PASSWORD="+keycloakPassword,
		"BOOKWORM_WEB_URL="+strings.TrimSuffix(redirectURI, "/auth/callback"), "BOOKWORM_SMTP_FROM=shop@bookworm.example",
		"BOOKWORM_SMTP_AUTH=false", "BOOKWORM_SMTP_STARTTLS=false")
	host, smtpPort, _ := strings.Cut(k.mails.SMTPAddress(), ":")
	k.command.Env = append(k.command.Env, "BOOKWORM_SMTP_HOST="+host, "BOOKWORM_SMTP_PORT="+smtpPort)
	for _, context := range []string{"catalog", "basket", "ordering", "finance", "notification", "rating", "chat", "compliance", "gateway"} {
		k.command.Env = append(k.command.Env, "BOOKWORM_"+strings.ToUpper(context)+"_CLIENT_SECRET="+keycloakSecret("bookworm-"+context))
	}
	k.command.Stdout, k.command.Stderr = log, log
	k.command.SysProcAttr = processGroup()
	if err := k.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = k.command.Wait() // the log says why
		close(k.ended)
	}()
	return k, k.awaitReady(ctx)
}

// copyRealm puts a realm like the shop's where Keycloak imports it from.
func copyRealm(home string, name kind) error {
	raw, err := os.ReadFile("../../deploy/keycloak/bookworm-realm.json")
	if err != nil {
		return err
	}
	var realm map[string]any
	if err := json.Unmarshal(raw, &realm); err != nil {
		return err
	}
	realm["realm"] = string(name)
	if name == brief {
		realm["accessTokenLifespan"] = briefLife.Seconds()
	}
	if raw, err = json.Marshal(realm); err != nil {
		return err
	}
	folder := filepath.Join(home, "data", "import")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, string(name)+"-realm.json"), raw, 0o600)
}

func (k *keycloak) awaitReady(ctx context.Context) error {
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.inner+"/realms/bookworm/.well-known/openid-configuration", http.NoBody)
		if err != nil {
			return err
		}
		if answer, err := http.DefaultClient.Do(request); err == nil {
			if err := answer.Body.Close(); err == nil && answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it did not become ready: %w\n%s", ctx.Err(), k.log())
		case <-k.ended:
			return fmt.Errorf("it ended: %s", k.log())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// log is the end of what Keycloak said.
func (k *keycloak) log() string {
	raw, err := os.ReadFile(filepath.Join(k.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-4000):])
}

// stop ends Keycloak's process group, and what it left.
func (k *keycloak) stop() error {
	if k.command != nil && k.command.Process != nil {
		group := -k.command.Process.Pid
		_ = syscall.Kill(group, syscall.SIGTERM) // it may have ended by itself
		select {
		case <-k.ended:
		case <-time.After(20 * time.Second):
			_ = syscall.Kill(group, syscall.SIGKILL)
			<-k.ended
		}
	}
	if k.mails != nil {
		k.mails.Stop()
	}
	return os.RemoveAll(k.dir)
}

func (k *keycloak) realm(name kind) *keycloakRealm {
	return &keycloakRealm{k, "/realms/" + string(name)}
}

type keycloakRealm struct {
	*keycloak

	path string
}

func (r *keycloakRealm) issuer() string { return r.public + r.path }
func (r *keycloakRealm) inside() string { return r.inner + r.path }

func (r *keycloakRealm) secret(client string) personal.Text {
	return personal.Text(keycloakSecret(client))
}

// admin calls the administrators' API of the realm, decodes the answer into out,
// unless that is nil, and returns the Location.
func (r *keycloakRealm) admin(t *testing.T, method, path string, in, out any) string {
	t.Helper()
	got := send(t, http.DefaultClient, http.MethodPost, r.inner+"/realms/master/protocol/openid-connect/token", url.Values{
		"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {"root"}, "password": {keycloakPassword},
	})
	var token struct {
		Access string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(got.body), &token); err != nil || token.Access == "" {
		t.Fatalf("sign in as Keycloak's administrator: %d %s", got.status, got.body)
	}
	var body io.Reader = http.NoBody
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(raw)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, r.inner+"/admin"+r.path+path, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token.Access)
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode >= http.StatusBadRequest {
		t.Fatalf("%s %s: %s %s, %v", method, path, answer.Status, raw, err)
	}
	if out != nil {
		if err := json.Unmarshal(raw, out); err != nil {
			t.Fatal(err)
		}
	}
	return answer.Header.Get("Location")
}

func (r *keycloakRealm) person(t *testing.T, role string) account {
	t.Helper()
	who := account{username: "reader-" + uuid.NewString(), password: keycloakPassword}
	who.email = who.username + "@bookworm.example"
	who.subject = path.Base(r.admin(t, http.MethodPost, "/users", map[string]any{
		"username": who.username, "email": who.email, "emailVerified": true, "enabled": true, "firstName": "Rhea", "lastName": "Der",
		"credentials": []any{map[string]any{"type": "password", "value": who.password, "temporary": false}},
	}, nil))
	if role != "customer" { // which everybody is
		var known map[string]any
		r.admin(t, http.MethodGet, "/roles/"+role, nil, &known)
		r.admin(t, http.MethodPost, "/users/"+who.subject+"/role-mappings/realm", []any{known}, nil)
	}
	return who
}

func (r *keycloakRealm) unverified(t *testing.T) string {
	t.Helper()
	who := r.person(t, "customer")
	s := newRelyingParty(t, r)
	token := s.signIn(t, who)
	r.admin(t, http.MethodPut, "/users/"+who.subject, map[string]any{"emailVerified": false}, nil)
	token, err := s.refresh(t.Context(), token.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	return token.AccessToken
}

func (r *keycloakRealm) rotate(t *testing.T) {
	t.Helper()
	r.admin(t, http.MethodPost, "/components", map[string]any{
		"name": "the new key", "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider",
		"config": map[string]any{"priority": []string{"200"}, "algorithm": []string{"RS256"}},
	}, nil)
}

func (r *keycloakRealm) withdraw(t *testing.T) {
	t.Helper()
	var keys []struct{ ID, Name, ProviderID string }
	r.admin(t, http.MethodGet, "/components?type=org.keycloak.keys.KeyProvider", nil, &keys)
	for _, key := range keys {
		if key.ProviderID == "rsa-generated" && key.Name != "the new key" {
			r.admin(t, http.MethodDelete, "/components/"+key.ID, nil, nil)
		}
	}
}
