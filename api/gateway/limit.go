package gateway

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/protobuf/reflect/protoreflect"

	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	"bookworm/internal/identity"
	"bookworm/internal/limit"
	"bookworm/internal/rpc"
)

// Limits are how many calls a minute one caller may make of each class: a subject,
// or an address when it calls without a token. 0 turns a class off.
type Limits struct {
	Browse, Search, Write, Checkout, Chat int
	// Webhook is for an address that reports as the payment provider does.
	Webhook int
	// Token is how many bad tokens a minute an address may send.
	Token int
}

// classes are the limits by what is counted together.
type classes struct {
	byRule         map[accessv1.Limit]limit.Class
	webhook, token limit.Class
}

func classesOf(l Limits) classes {
	return classes{
		byRule: map[accessv1.Limit]limit.Class{
			accessv1.Limit_LIMIT_BROWSE:   {Name: "browse", Calls: l.Browse},
			accessv1.Limit_LIMIT_SEARCH:   {Name: "search", Calls: l.Search},
			accessv1.Limit_LIMIT_WRITE:    {Name: "write", Calls: l.Write},
			accessv1.Limit_LIMIT_CHECKOUT: {Name: "checkout", Calls: l.Checkout},
			accessv1.Limit_LIMIT_CHAT:     {Name: "chat", Calls: l.Chat},
		},
		webhook: limit.Class{Name: "webhook", Calls: l.Webhook},
		token:   limit.Class{Name: "token", Calls: l.Token},
	}
}

// crowd is how many times one subject's limit an address may use with tokens: an
// office behind one address fits in, a farm of accounts does not. It is counted by
// each replica alone, which costs no round trip.
const crowd = 20

func crowded(class limit.Class) limit.Class {
	return limit.Class{Name: class.Name + "-address", Calls: crowd * class.Calls}
}

// counter counts who calls how often. Without a limiter nothing is counted.
type counter struct {
	limiter *limit.Limiter
	classes classes
	// barred are addresses that sent too many bad tokens, until when; good are
	// digests of Authorization headers that were good here lately, whose senders are
	// not barred with the rest of their address.
	barred *lru.Cache[string, time.Time]
	good   *lru.Cache[[sha256.Size]byte, struct{}]
}

// remembered bounds what a replica remembers of addresses and of tokens.
const remembered = 1 << 14

func newCounter(limiter *limit.Limiter, limits Limits) (*counter, error) {
	barred, err := lru.New[string, time.Time](remembered)
	if err != nil {
		return nil, fmt.Errorf("make the list of barred addresses: %w", err)
	}
	good, err := lru.New[[sha256.Size]byte, struct{}](remembered)
	if err != nil {
		return nil, fmt.Errorf("make the list of good tokens: %w", err)
	}
	return &counter{limiter: limiter, classes: classesOf(limits), barred: barred, good: good}, nil
}

// addressOf is the caller of a request whose subject is not known.
func addressOf(r *http.Request) string {
	address, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "address unknown"
	}
	return "address " + household(address.Addr())
}

// access says whether the request's caller may call the procedure: nil or the
// fault to answer with. Whoever has a good token counts as its subject, anybody
// else as an address, which also has each bad token counted against it. A nil
// procedure is for everybody whose token is good or who sends none.
func (g *gateway) access(w http.ResponseWriter, r *http.Request, method protoreflect.MethodDescriptor, class limit.Class) (identity.Caller, *fault.Error) {
	address, authorization := addressOf(r), r.Header.Get("Authorization")
	token := sha256.Sum256([]byte(authorization))
	if wait := g.counter.bar(address, authorization, token); wait > 0 {
		return identity.Caller{}, g.limited(w, limit.Decision{Class: g.counter.classes.token, RetryAfter: wait})
	}
	caller, err := rpc.Authenticate(r.Context(), g.verifier, authorization)
	switch {
	case fault.KindOf(err) == fault.Unauthenticated && err != nil:
		if f := g.badToken(w, r, address); f != nil {
			return identity.Caller{}, f
		}
		return identity.Caller{}, fault.As(err)
	case err != nil:
		return identity.Caller{}, asFault(err)
	case caller.Anonymous():
		if f := g.count(w, r, class, address); f != nil {
			return identity.Caller{}, f
		}
	default:
		g.counter.good.Add(token, struct{}{})
		if f := g.countSubject(w, r, class, address, caller.Subject); f != nil {
			return identity.Caller{}, f
		}
	}
	if method == nil {
		return caller, nil
	}
	if err := rpc.Authorize(caller, method); err != nil {
		return identity.Caller{}, asFault(err)
	}
	return caller, nil
}

func asFault(err error) *fault.Error {
	if f := fault.As(err); f != nil {
		return f
	}
	return fault.New(fault.ReasonInternal, "").WithCause(err)
}

// bar returns how long the address's tokens are not even looked at.
func (c *counter) bar(address, authorization string, token [sha256.Size]byte) time.Duration {
	if authorization == "" || c.limiter == nil {
		return 0
	}
	until, ok := c.barred.Get(address)
	if !ok {
		return 0
	}
	wait := time.Until(until)
	if wait <= 0 || c.good.Contains(token) {
		return 0
	}
	return wait
}

// badToken counts one against the address, and bars it when there were too many.
func (g *gateway) badToken(w http.ResponseWriter, r *http.Request, address string) *fault.Error {
	c := g.counter
	if c.limiter == nil {
		return nil
	}
	decision := c.limiter.Take(context.WithoutCancel(r.Context()), c.classes.token, address)
	if decision.Allowed {
		showLimit(w.Header(), decision)
		return nil
	}
	c.barred.Add(address, time.Now().Add(decision.RetryAfter))
	return g.limited(w, decision)
}

// count counts one call of a caller: nil, or RATE_LIMITED.
func (g *gateway) count(w http.ResponseWriter, r *http.Request, class limit.Class, caller string) *fault.Error {
	if g.counter.limiter == nil {
		return nil
	}
	decision := g.counter.limiter.Take(r.Context(), class, caller)
	if !decision.Allowed {
		return g.limited(w, decision)
	}
	showLimit(w.Header(), decision)
	return nil
}

func (g *gateway) countSubject(w http.ResponseWriter, r *http.Request, class limit.Class, address, subject string) *fault.Error {
	if g.counter.limiter == nil {
		return nil
	}
	if decision := g.counter.limiter.TakeHere(r.Context(), crowded(class), address); !decision.Allowed {
		return g.limited(w, decision)
	}
	return g.count(w, r, class, "subject "+subject)
}

// countStranger counts a request for what is none of the procedures.
func (g *gateway) countStranger(w http.ResponseWriter, r *http.Request) *fault.Error {
	return g.count(w, r, g.counter.classes.byRule[accessv1.Limit_LIMIT_BROWSE], addressOf(r))
}

// classOf returns the class that a procedure is counted with.
func (g *gateway) classOf(method protoreflect.MethodDescriptor) limit.Class {
	return g.counter.classes.byRule[rpc.LimitOf(method)]
}

// limited says when to come back, and returns the fault.
func (g *gateway) limited(w http.ResponseWriter, d limit.Decision) *fault.Error {
	showLimit(w.Header(), d)
	seconds := wholeSeconds(d.RetryAfter)
	w.Header().Set("Retry-After", seconds)
	return fault.New(fault.ReasonRateLimited, "You ask too often. Ask again in %s s.", seconds)
}

// The headers of a limit, as Go spells them.
const (
	limitPolicy = "Ratelimit-Policy"
	limitLeft   = "Ratelimit"
)

// showLimit sets the headers of draft-ietf-httpapi-ratelimit-headers, section 3:
// the policy (q calls in w seconds) and what is left of it (r calls; t seconds
// until all are back, or until the next is where none is left).
func showLimit(header http.Header, d limit.Decision) {
	if d.Calls <= 0 {
		return
	}
	reset := d.Reset
	if !d.Allowed {
		reset = d.RetryAfter
	}
	header.Set(limitPolicy, fmt.Sprintf("%q;q=%d;w=%d", d.Name, d.Calls, int(limit.Window.Seconds())))
	header.Set(limitLeft, fmt.Sprintf("%q;r=%d;t=%s", d.Name, d.Remaining, wholeSeconds(reset)))
}

// wholeSeconds rounds up, to 1 at least: a client that waits so long waits enough.
func wholeSeconds(d time.Duration) string {
	return strconv.Itoa(max(int(math.Ceil(d.Seconds())), 1))
}

// streams bounds how many answers go on at once, for all and for each caller.
type streams struct {
	most, each int

	mu       sync.Mutex
	open     int
	byCaller map[string]int
}

// begin takes a stream's place. Whoever may begin calls end.
func (s *streams) begin(caller string) (end func(), f *fault.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.byCaller[caller] >= s.each:
		return nil, fault.New(fault.ReasonRateLimited, "You have %d answers under way. Let one end first.", s.each)
	case s.open >= s.most:
		return nil, fault.New(fault.ReasonOverloaded, "")
	}
	s.open++
	s.byCaller[caller]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
		if s.byCaller[caller]--; s.byCaller[caller] == 0 {
			delete(s.byCaller, caller)
		}
	}, nil
}
