package app

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"bookworm/internal/personal"
)

func TestConfigReportsAllMistakesAtOnce(t *testing.T) {
	t.Parallel()
	_, err := LoadConfig([]string{
		"BOOKWORM_TEMPORAL_TLS=maybe", "BOOKWORM_ISSUER_URL=not an address", "BOOKWORM_PERSONAL_DATA_KEY=short", "BOOKWORM_LOG_FORMAT=xml",
		"BOOKWORM_PAYMENT_WINDOW=0s", "BOOKWORM_REDIS_URL=a", "BOOKWORM_REDIS_URL_FILE=/b", "BOOKWORM_SMTP_URL_FILE=/there/is/no/such/file", "BOOKWORM_WAF=on",
		"BOOKWORM_TLS_CERT_FILE=/tls.crt", "BOOKWORM_LIMIT_CHAT=-1", "BOOKWORM_LIMIT_BROWSE=1000001", "BOOKWORM_LIMIT_KEY=short",
		"BOOKWORM_MAX_CONNECTIONS=0",
	})
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{
		"TLS", "ISSUER_URL", "PERSONAL_DATA_KEY", "LOG_FORMAT", "PAYMENT_WINDOW", "REDIS_URL_FILE", "SMTP_URL_FILE",
		"TLS_KEY_FILE", "LIMIT_CHAT", "LIMIT_BROWSE", "LIMIT_KEY", "MAX_CONNECTIONS",
	} {
		if !strings.Contains(strings.ReplaceAll(err.Error(), "TemporalTLS", "TLS"), want) {
			t.Errorf("%s is not named in:\n%v", want, err)
		}
	}
}

func TestSecretsComeFromFilesAndDoNotPrint(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("sk_live_1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig([]string{"BOOKWORM_STRIPE_SECRET_KEY_FILE=" + file})
	if err != nil || string(c.StripeSecretKey) != "sk_live_1" || c.StripeSecretKey.String() != "***" {
		t.Errorf("got %q (%s), %v", string(c.StripeSecretKey), c.StripeSecretKey, err)
	}
	if c.PaymentWindow != 15*time.Minute || c.Audience != "bookworm-api" || c.LogFormat != "json" {
		t.Errorf("the defaults are %v", c)
	}
}

func TestRequireNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	err := Config{RedisURL: "redis://x"}.require("REDIS_URL", "SMTP_URL", "DATABASE_URL", "SMTP_URL")
	if err == nil || err.Error() != "BOOKWORM_DATABASE_URL is not set\nBOOKWORM_SMTP_URL is not set" {
		t.Errorf("got %v", err)
	}
}

func TestUnknownContextsAreRefused(t *testing.T) {
	t.Parallel()
	all := func(yield func(string) bool) { _ = yield("ordering") && yield("finance") }
	for _, names := range [][]string{nil, {"catalogue"}, {"ordering", "ordering"}} {
		if known("worker", names, all) == nil {
			t.Errorf("%q was taken", names)
		}
	}
	if err := known("worker", []string{"finance", "ordering"}, all); err != nil {
		t.Error(err)
	}
}

func TestTheDoorsSettings(t *testing.T) {
	t.Parallel()
	c, err := LoadConfig([]string{
		"BOOKWORM_TLS_CERT_FILE=/no/such/tls.crt", "BOOKWORM_TLS_KEY_FILE=/no/such/tls.key", "BOOKWORM_TRUSTED_PROXIES=10.0.0.0/8,2001:db8::/32",
		"BOOKWORM_LIMIT_SEARCH=0",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.TLSCertFile != "/no/such/tls.crt" || c.TLSKeyFile != "/no/such/tls.key" {
		t.Errorf("the certificate's files are %q and %q", c.TLSCertFile, c.TLSKeyFile)
	}
	if len(c.TrustedProxies) != 2 || c.TrustedProxies[1].String() != "2001:db8::/32" {
		t.Errorf("the proxies are %v", c.TrustedProxies)
	}
	if got := [...]int{c.LimitBrowse, c.LimitSearch, c.LimitWrite, c.LimitCheckout, c.LimitChat}; got != [...]int{600, 0, 60, 20, 20} {
		t.Errorf("the limits are %v", got)
	}
	if _, err := LoadConfig([]string{"BOOKWORM_TRUSTED_PROXIES=10.0.0.1"}); err == nil {
		t.Error("an address was taken for a network")
	}
}

// TestEverySecretMayComeFromAFile walks the settings that print as ***.
func TestEverySecretMayComeFromAFile(t *testing.T) {
	t.Parallel()
	key := base64.StdEncoding.EncodeToString(make([]byte, personal.KeySize)) // good for all of them
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(key+"\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	secrets := 0
	config := reflect.TypeFor[Config]()
	for i := range config.NumField() {
		field := config.Field(i)
		if field.Type != reflect.TypeFor[personal.Text]() {
			continue
		}
		secrets++
		name := "BOOKWORM_" + strings.Split(field.Tag.Get("env"), ",")[0]
		c, err := LoadConfig([]string{name + "_FILE=" + file})
		if got := reflect.ValueOf(c).Field(i).String(); err != nil || got != key {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		if text := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(text, key) {
			t.Errorf("%s prints", name)
		}
	}
	if secrets < 11 {
		t.Errorf("walked %d secrets", secrets)
	}
}

func TestStatusURLsAreChecked(t *testing.T) {
	t.Parallel()
	c, err := LoadConfig([]string{"BOOKWORM_STATUS_URLS=worker=http://worker:8080,relay=https://relay"})
	if targets := c.targets(map[string]string{}); err != nil || len(targets) != 10 || targets[8].Name != "worker" || targets[8].Kind != "worker" || targets[9].URL != "https://relay" {
		t.Errorf("got %v, %v", targets, err)
	}
	for _, bad := range []string{"worker", "=http://x", "worker=x:1", "worker=ftp://x"} {
		if _, err := LoadConfig([]string{"BOOKWORM_STATUS_URLS=" + bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
