package status

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bookworm/internal/health"
)

// process is a part of the shop that says what the test wants.
type process struct {
	mu     sync.Mutex
	report health.Report
	away   bool
	asked  atomic.Int32
}

func (p *process) say(change func(*process)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *process) answer() (*http.Response, error) {
	p.asked.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		return nil, fmt.Errorf("dial tcp 10.1.2.3:8081: secret %w", context.DeadlineExceeded)
	}
	recorder := httptest.NewRecorder()
	if p.report.Status == health.StatusFailing || p.report.Status == health.StatusDraining {
		recorder.WriteHeader(http.StatusServiceUnavailable)
	}
	if err := json.NewEncoder(recorder).Encode(p.report); err != nil {
		return nil, err
	}
	return recorder.Result(), nil
}

// network answers without one, so that the clock of a bubble moves.
type network map[string]*process

func (n network) RoundTrip(r *http.Request) (*http.Response, error) { return n[r.URL.Host].answer() }

var began = time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)

func check(status string, optional bool) health.State {
	return health.State{Status: status, Optional: optional, Millis: 1.25, Since: began}
}

// theShop is a process of the contexts' APIs and one of the workers.
func theShop() (api, worker *process, board *Board) {
	api = &process{report: health.Report{Status: "ok", Version: "5f1c9a7d3b2e", Started: began, Checks: map[string]health.State{
		"postgres catalog": check("ok", false), "postgres rating": check("ok", false), "redis": check("ok", false), "temporal": check("ok", false),
		"search index": check("ok", true), "model": check("ok", true), "identity provider": check("ok", true),
	}}}
	worker = &process{report: health.Report{Status: "ok", Version: "5f1c9a7d3b2e", Started: began, Checks: map[string]health.State{
		"postgres catalog": check("ok", false), "temporal": check("ok", false), "mail": check("ok", true), "payment provider": check("ok", true), "search index": check("ok", true),
	}}}
	var targets []Target
	for _, name := range []string{"catalog", "basket", "ordering", "finance", "rating", "chat"} {
		targets = append(targets, Target{Name: name, Kind: "api", URL: "http://api:1"})
	}
	targets = append(targets, Target{Name: "workers", Kind: "worker", URL: "http://worker:1/"})
	board = New(Options{
		Targets: targets, Version: "5f1c9a7d3b2e44", Started: began, Client: &http.Client{Transport: network{"api:1": api, "worker:1": worker}},
		Logger: slog.New(slog.DiscardHandler), Breakers: func() map[string]string { return map[string]string{"catalog": "closed"} },
	})
	return api, worker, board
}

func get(t *testing.T, b *Board, path, accept string) *httptest.ResponseRecorder {
	t.Helper()
	recorder := httptest.NewRecorder()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	request.Header.Set("Accept", accept)
	b.ServeHTTP(recorder, request)
	return recorder
}

func reportOf(t *testing.T, b *Board) (int, Report) {
	t.Helper()
	got := get(t, b, "/status.json", "")
	var r Report
	if err := json.Unmarshal(got.Body.Bytes(), &r); err != nil {
		t.Fatalf("%s: %v", got.Body, err)
	}
	return got.Code, r
}

func (r Report) service(name string) Service {
	return r.Services[slices.IndexFunc(r.Services, func(s Service) bool { return s.Name == name })]
}

func (r Report) dependency(name string) Dependency {
	return r.Dependencies[slices.IndexFunc(r.Dependencies, func(d Dependency) bool { return d.Name == name })]
}

func TestTheLevels(t *testing.T) {
	t.Parallel()
	set := func(p **process, checkName, status string, optional bool) func(api, worker *process) {
		return func(api, worker *process) {
			target := api
			if p == nil {
				target = worker
			}
			target.say(func(p *process) { p.report.Checks[checkName] = check(status, optional) })
		}
	}
	inAPI := new(*process)
	for name, tc := range map[string]struct {
		change   func(api, worker *process)
		code     int
		overall  Level
		services map[string]Level
		systems  map[string]Level
		says     string
	}{
		"nothing":  {func(*process, *process) {}, 200, OK, map[string]Level{"catalog": OK, "workers": OK}, map[string]Level{"postgresql": OK, "mail": OK}, "Every part"},
		"no model": {set(inAPI, "model", "failing", true), 200, Degraded, map[string]Level{"catalog": Degraded, "chat": Degraded, "basket": OK, "workers": OK}, map[string]Level{"model": Down}, "search results"},
		"no index for one": {
			set(inAPI, "search index", "failing", true), 200, Degraded,
			map[string]Level{"catalog": Degraded, "workers": OK},
			map[string]Level{"search-index": Degraded},
			"words alone",
		},
		"no mail":  {set(nil, "mail", "failing", true), 200, Degraded, map[string]Level{"workers": Degraded, "catalog": OK}, map[string]Level{"mail": Down}, "sent later"},
		"no redis": {set(inAPI, "redis", "failing", false), 503, Down, map[string]Level{"basket": Down, "catalog": OK, "workers": OK}, map[string]Level{"redis": Down}, "cannot be bought"},
		"no schema of ratings": {
			set(inAPI, "postgres rating", "failing", false), 200, Degraded,
			map[string]Level{"rating": Down, "catalog": OK},
			map[string]Level{"postgresql": Degraded},
			"Away: rating",
		},
		"no workers":   {func(_, worker *process) { worker.say(func(p *process) { p.away = true }) }, 503, Down, map[string]Level{"workers": Down, "catalog": OK}, nil, "cannot be bought"},
		"no API":       {func(api, _ *process) { api.say(func(p *process) { p.away = true }) }, 503, Down, map[string]Level{"catalog": Down, "chat": Down}, nil, "cannot be bought"},
		"it drains":    {func(api, _ *process) { api.say(func(p *process) { p.report.Status = health.StatusDraining }) }, 503, Down, map[string]Level{"catalog": Down}, nil, ""},
		"not yet seen": {set(inAPI, "model", "unknown", true), 200, OK, map[string]Level{"catalog": OK}, map[string]Level{"model": Unknown}, "Every part"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api, worker, board := theShop()
			tc.change(api, worker)
			if err := board.look(t.Context()); err != nil {
				t.Fatal(err)
			}
			code, r := reportOf(t, board)
			if code != tc.code || r.Status != tc.overall || !strings.Contains(r.Summary, tc.says) {
				t.Errorf("got %d %s %q, want %d %s %q", code, r.Status, r.Summary, tc.code, tc.overall, tc.says)
			}
			for name, level := range tc.services {
				if got := r.service(name).Status; got != level {
					t.Errorf("%s is %s, want %s", name, got, level)
				}
			}
			for name, level := range tc.systems {
				d := r.dependency(name)
				if d.Status != level || (d.Effect != "") != (level == Down || level == Degraded) {
					t.Errorf("%s is %s (%q), want %s", name, d.Status, d.Effect, level)
				}
			}
		})
	}
}

func TestThePageTellsNoAddressAndNoError(t *testing.T) {
	t.Parallel()
	_, worker, board := theShop()
	worker.say(func(p *process) { p.away = true })
	if err := board.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	html, program := get(t, board, "/status", "text/html,application/xhtml+xml,*/*;q=0.8"), get(t, board, "/status", "application/json")
	for _, got := range []*httptest.ResponseRecorder{html, program} {
		body := got.Body.String()
		for _, secret := range []string{"http://api", "api:1", "worker:1", "10.1.2.3", "secret", "dial", "deadline"} {
			if strings.Contains(body, secret) {
				t.Errorf("the answer has %q", secret)
			}
		}
		if got.Code != http.StatusServiceUnavailable || got.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("got %d %v", got.Code, got.Header())
		}
	}
	if kind := html.Header().Get("Content-Type"); kind != "text/html; charset=utf-8" || !strings.Contains(html.Body.String(), "<h1>Down</h1>") {
		t.Errorf("the page is %s %s", kind, html.Body)
	}
	if policy := html.Header().Get("Content-Security-Policy"); !strings.Contains(policy, "style-src 'sha256-") || strings.Contains(policy, "unsafe") {
		t.Errorf("the policy is %s", policy)
	}
	for _, banned := range []string{"<script", " style=", " onclick", "http://"} {
		if strings.Contains(html.Body.String(), banned) {
			t.Errorf("the page has %q", banned)
		}
	}
	if kind := program.Header().Get("Content-Type"); kind != "application/json" {
		t.Errorf("a program got %s", kind)
	}
}

func TestAFloodOfReadersAsksNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api, _, board := theShop()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- board.Run(ctx) }()
		for range 1_000 {
			if code, _ := reportOf(t, board); code != http.StatusOK {
				t.Fatalf("got %d", code)
			}
		}
		if n := api.asked.Load(); n != 1 {
			t.Errorf("1,000 readers made %d looks", n)
		}
		time.Sleep(watched + time.Millisecond) //nolint:forbidigo // of the bubble's clock
		if n := api.asked.Load(); n != 2 {
			t.Errorf("%d looks after %v", n, watched)
		}
		// Nobody reads any more.
		time.Sleep(watching + quiet) //nolint:forbidigo // as above
		before := api.asked.Load()
		time.Sleep(10 * quiet) //nolint:forbidigo // as above
		if n := api.asked.Load() - before; n != 10 {
			t.Errorf("%d looks in %v with no reader", n, 10*quiet)
		}
		// The next reader makes the next look come soon.
		reportOf(t, board)
		before = api.asked.Load()
		time.Sleep(watched) //nolint:forbidigo // as above
		synctest.Wait()
		if n := api.asked.Load() - before; n < 1 {
			t.Errorf("%d looks after somebody came", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestOneLostAnswerIsNoOutage(t *testing.T) {
	t.Parallel()
	api, _, board := theShop()
	flaky := &flaky{next: board.client.Transport}
	board.client.Transport = flaky
	flaky.lose.Store(1)
	if err := board.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, r := reportOf(t, board); r.Status != OK {
		t.Errorf("after one lost answer: %s", r.Status)
	}
	if api.asked.Load() < 1 {
		t.Error("nobody was asked")
	}
}

type flaky struct {
	next http.RoundTripper
	lose atomic.Int32
}

func (f *flaky) RoundTrip(r *http.Request) (*http.Response, error) {
	if f.lose.Add(-1) >= 0 {
		return nil, context.DeadlineExceeded
	}
	return f.next.RoundTrip(r)
}

func TestHistoryIsOfTheLastHour(t *testing.T) {
	t.Parallel()
	var p past
	now := began
	p.add(now, OK)
	p.add(now.Add(time.Second), Down)
	p.add(now.Add(2*time.Second), OK) // the worst of a minute stays
	p.add(now.Add(time.Minute), OK)
	levels := p.levels(now.Add(2 * time.Minute))
	if len(levels) != minutes || levels[57] != Down || levels[58] != OK || levels[59] != Unknown || levels[0] != Unknown {
		t.Errorf("got %v", levels)
	}
	if levels := p.levels(now.Add(3 * time.Hour)); slices.ContainsFunc(levels, func(l Level) bool { return l != Unknown }) {
		t.Errorf("three hours later: %v", levels)
	}
}

func TestSinceIsKeptWhileALevelHolds(t *testing.T) {
	t.Parallel()
	_, _, board := theShop()
	first := board.note(began, "x", OK)
	if again := board.note(began.Add(time.Minute), "x", OK); !again.Equal(first) {
		t.Errorf("since %v, then %v", first, again)
	}
	if later := board.note(began.Add(2*time.Minute), "x", Down); !later.After(first) {
		t.Errorf("down since %v", later)
	}
}
