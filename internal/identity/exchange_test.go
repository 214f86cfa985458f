package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"bookworm/internal/fault"
	"bookworm/internal/identity/identitytest"
	"bookworm/internal/personal"
)

func newExchanger(tokenURL string, secret personal.Text) *Exchanger {
	return NewExchanger(ServiceConfig{TokenURL: tokenURL, ClientID: "bookworm-chat", ClientSecret: secret})
}

func TestExchangeNamesTheServiceForThePerson(t *testing.T) {
	t.Parallel()
	provider, verifier := setup(t)
	exchanger := newExchanger(provider.Issuer+"/token", identitytest.Secret)
	given := provider.Token("alice", "customer")
	var first string
	for range 3 {
		token, err := exchanger.Exchange(t.Context(), given)
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = token
		}
		if token != first {
			t.Error("the token was exchanged again")
		}
	}
	if n := provider.Exchanges.Load(); n != 1 {
		t.Errorf("%d exchanges, want 1", n)
	}
	before, err := verifier.Verify(t.Context(), given)
	if err != nil {
		t.Fatal(err)
	}
	after, err := verifier.Verify(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	before.Client = "bookworm-chat"
	if got, want := fmt.Sprint(after, string(after.Email)), fmt.Sprint(before, string(before.Email)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	other, err := exchanger.Exchange(t.Context(), provider.Token("bob", "customer"))
	if err != nil {
		t.Fatal(err)
	}
	if caller, err := verifier.Verify(t.Context(), other); err != nil || caller.Subject != "bob" {
		t.Errorf("got %v, %v", caller, err)
	}
}

func TestExchangesAtOnceAreOne(t *testing.T) {
	t.Parallel()
	provider := identitytest.New(t)
	arrived, answer := make(chan struct{}, 8), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-answer
		answerToken(w, "exchanged", 300)
	}))
	t.Cleanup(slow.Close)
	exchanger := newExchanger(slow.URL, identitytest.Secret)
	token := provider.Token("alice")

	leaving, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := exchanger.Exchange(leaving, token)
		left <- err
	}()
	<-arrived
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if got, err := exchanger.Exchange(t.Context(), token); err != nil || got != "exchanged" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	leave() // the one that began: the others still get their answer
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	close(answer)
	group.Wait()
	if n := len(arrived); n != 0 {
		t.Errorf("%d requests more than one", n)
	}
}

func answerToken(w http.ResponseWriter, token string, seconds int) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":%d}`, token, seconds)
}

func TestAnExchangedTokenIsNotUsedToItsEnd(t *testing.T) {
	t.Parallel()
	served := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		served++
		answerToken(w, fmt.Sprint("token ", served), int(exchangeMargin/time.Second)-1)
	}))
	t.Cleanup(server.Close)
	exchanger := newExchanger(server.URL, identitytest.Secret)
	for i := 1; i <= 2; i++ {
		if got, err := exchanger.Exchange(t.Context(), "given"); err != nil || got != fmt.Sprint("token ", i) {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

func TestWhoseFaultARefusedExchangeIs(t *testing.T) {
	t.Parallel()
	provider := identitytest.New(t)
	answering := func(status int, body string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	const unclassified = ""
	for name, test := range map[string]struct {
		exchanger *Exchanger
		token     string
		want      fault.Reason
	}{
		"a stranger's token":     {newExchanger(provider.Issuer+"/token", identitytest.Secret), "forged", fault.ReasonTokenInvalid},
		"a session that ended":   {newExchanger(answering(400, `{"error":"invalid_token"}`), "s"), "t", fault.ReasonTokenInvalid},
		"the service's secret":   {newExchanger(provider.Issuer+"/token", "wrong"), provider.Token("alice"), unclassified},
		"the service's rights":   {newExchanger(answering(403, `{"error":"access_denied"}`), "s"), "t", unclassified},
		"a token of another use": {newExchanger(answering(200, `{"access_token":"x","token_type":"N_A","expires_in":300}`), "s"), "t", fault.ReasonUnavailable},
		"the provider's failure": {newExchanger(answering(503, `down`), "s"), "t", fault.ReasonUnavailable},
		"the provider's haste":   {newExchanger(answering(429, `{"error":"slow_down"}`), "s"), "t", fault.ReasonUnavailable},
		"nobody there":           {newExchanger(gone.URL, "s"), "t", fault.ReasonUnavailable},
		"no address":             {newExchanger("", "s"), "t", fault.ReasonUnavailable},
	} {
		token, err := test.exchanger.Exchange(t.Context(), test.token)
		if token != "" || err == nil {
			t.Errorf("%s: got %q, %v", name, token, err)
			continue
		}
		if f := fault.As(err); test.want == unclassified && f != nil || test.want != unclassified && !fault.Is(err, test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

func BenchmarkExchange(b *testing.B) {
	provider := identitytest.New(b)
	exchanger := newExchanger(provider.Issuer+"/token", identitytest.Secret)
	token := provider.Token("alice", "customer")
	b.Run("remembered", func(b *testing.B) {
		for b.Loop() {
			if _, err := exchanger.Exchange(b.Context(), token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("fresh", func(b *testing.B) {
		for b.Loop() {
			exchanger.known.Purge()
			if _, err := exchanger.Exchange(b.Context(), token); err != nil {
				b.Fatal(err)
			}
		}
	})
}
