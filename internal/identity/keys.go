package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// keysInterval is the shortest time between two fetches of the keys. Without it
// every forged token would cause one.
const keysInterval = 5 * time.Second

// keySet is the provider's keys, read anew when they are old: the library alone
// would keep a withdrawn key until a token names a new one.
type keySet struct {
	lifetime time.Duration
	read     func() oidc.KeySet // returns a set that fetches the keys when first used

	mu    sync.Mutex
	keys  oidc.KeySet
	until time.Time // when they are old
}

func newKeySet(lifetime time.Duration, read func() oidc.KeySet) *keySet {
	return &keySet{lifetime: lifetime, read: read}
}

type outageKey struct{}

// VerifySignature implements oidc.KeySet. It notes in the context's outage when
// the keys could not be had, because the library flattens that error into text.
func (k *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	current, old := k.current()
	if old {
		fresh := k.read()
		payload, err := fresh.VerifySignature(ctx, token)
		if !unreachable(err) {
			k.replace(fresh)
			return payload, err
		}
		if current == nil {
			noteOutage(ctx, err)
			return nil, err
		}
	}
	payload, err := current.VerifySignature(ctx, token)
	if unreachable(err) { // for a key that is not known
		noteOutage(ctx, err)
	}
	return payload, err
}

// current returns the known keys, and whether the caller is to read them anew.
// Where keys are known one caller in an interval is, and the others need not wait.
func (k *keySet) current() (keys oidc.KeySet, old bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil {
		return nil, true
	}
	if time.Now().Before(k.until) {
		return k.keys, false
	}
	k.until = time.Now().Add(min(keysInterval, k.lifetime))
	return k.keys, true
}

func (k *keySet) replace(keys oidc.KeySet) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys, k.until = keys, time.Now().Add(k.lifetime)
}

// believedUntil is when the keys are old.
func (k *keySet) believedUntil() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.until
}

// unreachable says whether an error is that the provider could not be asked.
func unreachable(err error) bool {
	_, failed := errors.AsType[*url.Error](err)
	return failed || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func noteOutage(ctx context.Context, err error) {
	if outage, ok := ctx.Value(outageKey{}).(*error); ok {
		*outage = err
	}
}

// throttle is an HTTP transport that fetches the same address at most once in
// an interval and otherwise repeats the last answer.
type throttle struct {
	interval time.Duration

	mu   sync.Mutex // held during a fetch, so that others wait for its answer
	last map[string]*fetched
}

type fetched struct {
	at     time.Time
	status int
	header http.Header
	body   []byte
}

// errProvider is an answer of the provider that is of no use.
var errProvider = errors.New("the identity provider failed")

// maxAnswer bounds what is read of the provider's answer, in bytes.
const maxAnswer = 1 << 20

// RoundTrip implements http.RoundTripper. Failures are not repeated.
func (t *throttle) RoundTrip(request *http.Request) (*http.Response, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	address := request.URL.String()
	last := t.last[address]
	if last == nil || time.Since(last.at) >= t.interval {
		var err error
		if last, err = fetch(request); err != nil {
			return nil, err
		}
		t.last[address] = last
	}
	return &http.Response{
		Status: http.StatusText(last.status), StatusCode: last.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: last.header.Clone(), ContentLength: int64(len(last.body)),
		Body: io.NopCloser(bytes.NewReader(last.body)), Request: request,
	}, nil
}

func fetch(request *http.Request) (_ *fetched, err error) {
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the provider's answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: %s", errProvider, response.Status)
	}
	return &fetched{at: time.Now(), status: response.StatusCode, header: response.Header, body: body}, nil
}
