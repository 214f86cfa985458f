package health

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func probe(t *testing.T, h *Health, path string) (int, Report, string) {
	t.Helper()
	mux := http.NewServeMux()
	h.Register(mux)
	recorder := httptest.NewRecorder()
	mux.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	var answer Report
	body := recorder.Body.String()
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatalf("%s answered %q: %v", path, body, err)
	}
	return recorder.Code, answer, body
}

func TestReadyTellsWhichCheckFailsButNotWhy(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := New(map[string]Check{
		"postgres": func(context.Context) error { return nil },
		"redis":    func(context.Context) error { return errors.New("password hunter2 refused") },
		"temporal": func(context.Context) error { panic("nil map") },
	}, slog.New(slog.NewTextHandler(&log, nil)))
	code, answer, body := probe(t, h, "/health/ready")
	if code != http.StatusServiceUnavailable || answer.Status != StatusFailing {
		t.Errorf("got %d %s", code, answer.Status)
	}
	if answer.Checks["postgres"].Status != StatusOK || answer.Checks["redis"].Status != StatusFailing || answer.Checks["temporal"].Status != StatusFailing {
		t.Errorf("checks: %v", answer.Checks)
	}
	if strings.Contains(body, "hunter2") || !strings.Contains(log.String(), "hunter2") {
		t.Errorf("the error belongs in the log and not in %s", body)
	}
	if code, answer, _ := probe(t, h, "/health/live"); code != http.StatusOK || answer.Status != StatusOK {
		t.Errorf("live: %d %s", code, answer.Status)
	}
}

func TestDrainEndsReadiness(t *testing.T) {
	t.Parallel()
	h := New(nil, nil)
	if code, _, _ := probe(t, h, "/health/ready"); code != http.StatusOK {
		t.Fatalf("got %d before", code)
	}
	h.Drain()
	if code, answer, _ := probe(t, h, "/health/ready"); code != http.StatusServiceUnavailable || answer.Status != StatusDraining {
		t.Errorf("got %d %s", code, answer.Status)
	}
	if code, _, _ := probe(t, h, "/health/live"); code != http.StatusOK {
		t.Errorf("live: %d", code)
	}
}

func TestReadyAsksOnceASecondAndWaitsASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		var healthy atomic.Bool
		h := New(map[string]Check{"slow": func(ctx context.Context) error {
			asked.Add(1)
			if healthy.Load() {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}}, slog.New(slog.DiscardHandler))
		start := time.Now()
		if code, _, _ := probe(t, h, "/health/ready"); code != http.StatusServiceUnavailable || time.Since(start) != checkTimeout {
			t.Errorf("got %d after %v", code, time.Since(start))
		}
		healthy.Store(true)
		if code, _, _ := probe(t, h, "/health/ready"); code != http.StatusServiceUnavailable || asked.Load() != 1 {
			t.Errorf("not cached: %d after %d checks", code, asked.Load())
		}
		time.Sleep(cacheTime) //nolint:forbidigo // of the bubble's clock, which only moves when everybody waits
		if code, _, _ := probe(t, h, "/health/ready"); code != http.StatusOK || asked.Load() != 2 {
			t.Errorf("got %d after %d checks", code, asked.Load())
		}
	})
}

func TestAHungCheckDoesNotHoldTheAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		h := New(map[string]Check{"hung": func(context.Context) error { <-release; return nil }}, slog.New(slog.DiscardHandler))
		start := time.Now()
		if code, _, _ := probe(t, h, "/health/ready"); code != http.StatusServiceUnavailable || time.Since(start) != checkTimeout {
			t.Errorf("got %d after %v", code, time.Since(start))
		}
		close(release)
	})
}

func TestOptionalChecksDegradeAndDoNotHoldTheAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		broken.Store(true)
		h := New(map[string]Check{"postgres": func(context.Context) error { return nil }}, slog.New(slog.DiscardHandler))
		h.Version("v1")
		h.Optional(map[string]Check{"model": func(ctx context.Context) error {
			if broken.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}})
		start := time.Now()
		code, answer, _ := probe(t, h, "/health/ready")
		if code != http.StatusOK || answer.Status != StatusOK || answer.Checks["model"].Status != StatusUnknown || time.Since(start) != 0 {
			t.Errorf("at first: %d %v after %v", code, answer, time.Since(start))
		}
		time.Sleep(optionalTimeout) //nolint:forbidigo // of the bubble's clock
		synctest.Wait()
		code, answer, _ = probe(t, h, "/health/ready")
		model := answer.Checks["model"]
		if code != http.StatusOK || answer.Status != StatusDegraded || model.Status != StatusFailing || !model.Optional || model.Millis != 2000 {
			t.Errorf("without the model: %d %v", code, answer)
		}
		failedSince := model.Since
		broken.Store(false)
		time.Sleep(optionalTime) //nolint:forbidigo // as above
		probe(t, h, "/health/ready")
		synctest.Wait()
		code, answer, _ = probe(t, h, "/health/ready")
		if model = answer.Checks["model"]; code != http.StatusOK || answer.Status != StatusOK || !model.Since.After(failedSince) {
			t.Errorf("with the model again: %d %v", code, answer)
		}
		if answer.Version != "v1" || answer.Started.IsZero() || answer.Checks["postgres"].Optional || answer.Checks["postgres"].Since.IsZero() {
			t.Errorf("the report is %v", answer)
		}
	})
}

func TestAFailedCheckWinsOverAnOptionalOne(t *testing.T) {
	t.Parallel()
	fails := func(context.Context) error { return errors.New("no") }
	h := New(map[string]Check{"postgres": fails}, slog.New(slog.DiscardHandler))
	h.Optional(map[string]Check{"model": fails})
	for range 2 {
		if code, answer, _ := probe(t, h, "/health/ready"); code != http.StatusServiceUnavailable || answer.Status != StatusFailing {
			t.Errorf("got %d %s", code, answer.Status)
		}
	}
}
