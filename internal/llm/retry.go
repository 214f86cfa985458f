package llm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sashabaranov/go-openai"
	"github.com/sony/gobreaker/v2"

	"bookworm/internal/fault"
)

const (
	maxTries  = 3
	firstWait = 200 * time.Millisecond
	// maxWait bounds all waiting of a call. An endpoint that asks for more is told
	// that nobody waits.
	maxWait = 30 * time.Second
	// maxAnswer bounds what is read of an answer, in bytes: 96 vectors of 4,096
	// numbers written out take 8 MB.
	maxAnswer = 32 << 20

	breakerFailures = 5
	breakerOpen     = 10 * time.Second
)

type breaker = gobreaker.CircuitBreaker[struct{}]

func newBreaker(name string, logger *slog.Logger) *breaker {
	return gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        name,
		Timeout:     breakerOpen,
		ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= breakerFailures },
		// A rate limit says nothing of the endpoint's health either way.
		IsExcluded: func(err error) bool {
			return errors.Is(err, context.Canceled) || statusOf(err) == http.StatusTooManyRequests
		},
		IsSuccessful: func(err error) bool { return err == nil || errors.Is(err, errFinal) },
		OnStateChange: func(name string, _, to gobreaker.State) {
			logger.Warn("model breaker changed", "breaker", name, "state", to.String())
		},
	})
}

// errFinal marks an error that another try would meet again and that says nothing
// against the endpoint's health.
var errFinal = errors.New("not retryable")

// retry runs call until it succeeds, fails for good or nothing is left to try.
// call gets a context that must be used for its request.
//
// The error is a fault (UNAVAILABLE) when the endpoint is to blame, the context's
// own when the caller cancelled, else what the endpoint refused.
func retry(ctx context.Context, b *breaker, call func(context.Context) error) error {
	if ctx.Err() != nil { // no fault of the endpoint's
		return gaveUp(ctx, nil)
	}
	limit := maxWait
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval = firstWait
	waits.MaxInterval = maxWait
	waits.Multiplier = 2
	var last error // backoff.Retry's own error may be one of its markers
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		var seen exchange
		_, last = b.Execute(func() (struct{}, error) {
			return struct{}{}, seen.classify(ctx, call(context.WithValue(ctx, exchangeKey{}, &seen)))
		})
		switch {
		case last == nil:
			return struct{}{}, nil
		case ctx.Err() != nil || errors.Is(last, errFinal) || isOpen(last):
			return struct{}{}, backoff.Permanent(last)
		case seen.retryAfter > 0:
			return struct{}{}, &backoff.RetryAfterError{Duration: seen.retryAfter}
		}
		return struct{}{}, last
	}, backoff.WithBackOff(waits), backoff.WithMaxTries(maxTries), backoff.WithMaxElapsedTime(max(limit, 1)))
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return gaveUp(ctx, last)
	case errors.Is(last, errFinal) && statusOf(last) != http.StatusTooManyRequests:
		return last
	}
	return unavailable(last)
}

// gaveUp is the error of a call whose context ended, last what it met before.
func gaveUp(ctx context.Context, last error) error {
	if err := stopped(ctx); errors.Is(err, context.Canceled) {
		return err
	}
	return unavailable(errors.Join(context.DeadlineExceeded, last))
}

func unavailable(cause error) error {
	return fault.New(fault.ReasonUnavailable, "The model cannot answer right now.").WithCause(cause)
}

// stopped tells the two ends of a context apart: the caller lost interest, or the
// endpoint took too long, which also a cancellation with that cause says.
func stopped(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return context.DeadlineExceeded
	}
	return context.Canceled
}

func isOpen(err error) bool {
	return errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests)
}

// refusal is an error answer of the endpoint, without its message: endpoints
// repeat parts of the request in it.
type refusal struct {
	Status           int // 0 inside a stream
	Type, Code, Name string
}

func (r *refusal) Error() string {
	return strings.Join(strings.Fields(fmt.Sprintf("the endpoint answered %d %s %s %s", r.Status, r.Type, r.Code, r.Name)), " ")
}

func statusOf(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.Status
	}
	return 0
}

// refusalOf makes go-openai's errors a refusal; nil when err is none.
func refusalOf(err error) *refusal {
	// A RequestError may wrap an APIError that knows less.
	if e, ok := errors.AsType[*openai.RequestError](err); ok {
		return &refusal{Status: e.HTTPStatusCode}
	}
	if e, ok := errors.AsType[*openai.APIError](err); ok {
		r := &refusal{Status: e.HTTPStatusCode, Type: e.Type}
		if e.Code != nil {
			r.Code = fmt.Sprint(e.Code)
		}
		if e.Param != nil {
			r.Name = *e.Param
		}
		return r
	}
	return nil
}

// refuses reports whether the endpoint's answer to a request is that it does not
// know a parameter. Endpoints name it in param, or only in the text.
func refuses(err error, parameter string) bool {
	r := refusalOf(err)
	if r == nil || (r.Status != http.StatusBadRequest && r.Status != http.StatusUnprocessableEntity) {
		return false
	}
	text := r.Name
	if e, ok := errors.AsType[*openai.APIError](err); ok {
		text += " " + e.Message
	}
	if e, ok := errors.AsType[*openai.RequestError](err); ok {
		text += " " + string(e.Body)
	}
	return strings.Contains(text, parameter)
}

// exchange is what the HTTP layer saw of one try.
type exchange struct {
	sent       bool
	retryAfter time.Duration
}

type exchangeKey struct{}

// classify strips err of content and marks it with errFinal where it is.
func (e *exchange) classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return stopped(ctx)
	}
	if r := refusalOf(err); r != nil {
		switch {
		case r.Code == "context_length_exceeded" || refuses(err, "maximum context length"):
			return fmt.Errorf("%w: %w: %w", errFinal, ErrTooLong, r)
		case r.Status == http.StatusTooManyRequests && r.Code != "insufficient_quota", r.Status >= http.StatusInternalServerError:
			return r
		case r.Status != 0:
			return fmt.Errorf("%w: %w", errFinal, r)
		}
		return r
	}
	if !e.sent {
		return fmt.Errorf("%w: the request is not valid: %w", errFinal, err)
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fmt.Errorf("%w: %w: %w", errFinal, ErrInvalidAnswer, err)
	}
	return err
}

// doer is the HTTP side of a try: it notes what go-openai does not hand on, and
// bounds what is read.
type doer struct{ client *http.Client }

func (d doer) Do(r *http.Request) (*http.Response, error) {
	seen, ok := r.Context().Value(exchangeKey{}).(*exchange)
	if ok {
		seen.sent = true
	}
	resp, err := d.client.Do(r) //nolint:gosec // the address is configured
	if err != nil {
		return nil, err
	}
	if ok && resp.StatusCode >= http.StatusBadRequest {
		seen.retryAfter = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	return resp, nil
}

// retryAfter reads the header of RFC 9110, section 10.2.3: seconds or a date. It
// is 0 when there is none, or none that makes sense.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseFloat(header, 64); err == nil && seconds > 0 && seconds < 1e6 {
		return time.Duration(seconds * float64(time.Second))
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// cut says that a stream ended too early; cause is io.EOF or what broke it.
func cut(cause error) error {
	if errors.Is(cause, io.EOF) {
		return ErrCut
	}
	return fmt.Errorf("%w: %w", ErrCut, cause)
}
