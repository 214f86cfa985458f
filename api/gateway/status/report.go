package status

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"bookworm/internal/health"
)

// Level is how a part is.
type Level string

// The levels, from good to bad. An unknown part was never looked at.
const (
	OK       Level = "ok"
	Unknown  Level = "unknown"
	Degraded Level = "degraded"
	Down     Level = "down"
)

var severity = map[Level]int{OK: 0, Unknown: 1, Degraded: 2, Down: 3}

func worse(a, b Level) Level {
	if severity[b] > severity[a] {
		return b
	}
	return a
}

// Report is /status.json. Names and levels are stable; fields are only added.
type Report struct {
	// Status is ok, degraded or down. Degraded is not down: the shop sells books.
	Status Level `json:"status"`
	// Summary says it in a sentence.
	Summary string `json:"summary"`
	// Time is that of the look, in UTC.
	Time time.Time `json:"time"`
	// Version and StartTime are the gateway's; UptimeSeconds is as of Time.
	Version       string    `json:"version"`
	StartTime     time.Time `json:"start_time"`
	UptimeSeconds int64     `json:"uptime_seconds"`
	// Services are the shop's own processes, Dependencies what they stand on.
	Services     []Service    `json:"services"`
	Dependencies []Dependency `json:"dependencies"`
	// Breakers are the gateway's circuit breakers, where it has some.
	Breakers []Breaker `json:"breakers,omitempty"`
}

// Service is a part of the shop.
type Service struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Status Level  `json:"status"`
	// Essential tells that nobody can buy a book without it.
	Essential bool `json:"essential"`
	// Since is when Status began, as far as the gateway has seen.
	Since time.Time `json:"since"`
	// LatencyMillis is how long the process took to answer; 0 where it did not.
	LatencyMillis float64 `json:"latency_ms"`
	// Version and UptimeSeconds are the process's; empty where it does not answer.
	Version       string  `json:"version,omitempty"`
	UptimeSeconds int64   `json:"uptime_seconds,omitempty"`
	Checks        []Check `json:"checks"`
	// History has a level for each of the last 60 minutes, the oldest first; "unknown"
	// where nobody looked.
	History []Level `json:"history"`
}

// Check is what a process said of something that it uses.
type Check struct {
	Name          string    `json:"name"`
	Status        Level     `json:"status"`
	Optional      bool      `json:"optional"`
	LatencyMillis float64   `json:"latency_ms"`
	Since         time.Time `json:"since,omitzero"`
}

// Dependency is a system that the shop stands on, as all processes see it together:
// degraded where some reach it, down where none does.
type Dependency struct {
	Name          string    `json:"name"`
	Title         string    `json:"title"`
	Status        Level     `json:"status"`
	LatencyMillis float64   `json:"latency_ms"` // the slowest check
	Since         time.Time `json:"since"`
	// Effect says what shoppers notice while it is not ok.
	Effect  string  `json:"effect,omitempty"`
	History []Level `json:"history"`
}

// Breaker is a circuit breaker of the gateway.
type Breaker struct {
	Name  string `json:"name"`
	State string `json:"state"`
}

// minor are the parts without which books are sold all the same.
var minor = []string{"rating", "notification", "chat", "compliance"}

// systems are the dependencies in the order in which the page shows them. Checks are
// told apart by the beginning of their names.
var systems = []struct{ name, check, title, effect string }{
	{"postgresql", "postgres", "PostgreSQL", "Orders, stock and accounts cannot be read or written."},
	{"redis", "redis", "Redis", "Baskets cannot be changed."},
	{"temporal", "temporal", "Temporal", "Orders are not taken, and those under way wait."},
	{"payment-provider", "payment provider", "Payment provider", "Payments wait and are tried again. Orders are kept."},
	{"search-index", "search index", "Search index (Qdrant)", "Search goes by words alone."},
	{"model", "model", "Language model", "The bookseller answers with search results."},
	{"mail", "mail", "Mail relay", "Mails wait and are sent later."},
	{"identity-provider", "identity provider", "Identity provider", "Nobody new can sign in. Who is signed in stays so for a while."},
}

// draw makes a page of what the processes said.
func (b *Board) draw(now time.Time, answers map[string]answer) (*page, error) {
	report := Report{
		Time: now.UTC().Truncate(time.Second), Version: b.options.Version,
		StartTime: b.options.Started.UTC().Truncate(time.Second), UptimeSeconds: int64(now.Sub(b.options.Started).Seconds()),
	}
	for _, target := range b.options.Targets {
		report.Services = append(report.Services, b.service(now, target, answers[target.URL]))
	}
	for _, system := range systems {
		if d, asked := b.dependency(now, system.check, answers); asked {
			d.Name, d.Title = system.name, system.title
			if d.Status == Degraded || d.Status == Down {
				d.Effect = system.effect
			}
			report.Dependencies = append(report.Dependencies, d)
		}
	}
	if b.options.Breakers != nil {
		states := b.options.Breakers()
		for _, name := range slices.Sorted(maps.Keys(states)) {
			report.Breakers = append(report.Breakers, Breaker{name, states[name]})
		}
	}
	report.Status, report.Summary = overall(report)
	b.note(now, "shop", report.Status)

	code := http.StatusOK
	if report.Status == Down {
		code = http.StatusServiceUnavailable
	}
	body, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the report: %w", err)
	}
	html, err := render(report, b.past["shop"].levels(now))
	if err != nil {
		return nil, err
	}
	return &page{at: now, code: code, html: html, json: append(body, '\n')}, nil
}

// overall is how the shop is as a whole.
func overall(r Report) (Level, string) {
	var away, impaired []string
	essential := false
	for _, s := range r.Services {
		switch s.Status {
		case Down:
			away = append(away, s.Name)
			essential = essential || s.Essential
		case Degraded:
			impaired = append(impaired, s.Name)
		case OK, Unknown:
		}
	}
	lost := ""
	for _, d := range r.Dependencies {
		if d.Status == Down || d.Status == Degraded {
			impaired = append(impaired, d.Title)
			lost = cmp.Or(lost, d.Effect)
		}
	}
	for _, breaker := range r.Breakers {
		if breaker.State != "closed" {
			impaired = append(impaired, breaker.Name)
		}
	}
	switch {
	case essential:
		return Down, strings.TrimSpace("Books cannot be bought at the moment. " + lost)
	case len(away) > 0:
		return Degraded, "Books are sold. Away: " + strings.Join(away, ", ") + "."
	case lost != "":
		return Degraded, "Books are sold. " + lost
	case len(impaired) > 0:
		return Degraded, "Books are sold. Not at its best: " + strings.Join(impaired, ", ") + "."
	}
	return OK, "Every part of the shop works."
}

// service is how one part is.
func (b *Board) service(now time.Time, t Target, a answer) Service {
	s := Service{
		Name: t.Name, Kind: t.Kind, Status: OK, Checks: []Check{},
		Essential: !slices.ContainsFunc(minor, func(name string) bool { return strings.Contains(t.Name, name) }),
	}
	if a.err != nil {
		s.Status = Down
		if b.known[t.Kind+" "+t.Name] != Down {
			b.logger.Warn("a part of the shop does not answer", "part", t.Name, "error", a.err)
		}
	} else {
		b.fill(&s, now, t, a)
	}
	s.Since = b.note(now, t.Kind+" "+t.Name, s.Status)
	s.History = b.past[t.Kind+" "+t.Name].levels(now)
	return s
}

// fill says what a process said that answered.
func (b *Board) fill(s *Service, now time.Time, t Target, a answer) {
	s.LatencyMillis, s.Version = millis(a.took), a.report.Version
	if !a.report.Started.IsZero() {
		s.UptimeSeconds = int64(now.Sub(a.report.Started).Seconds())
	}
	if a.report.Status == health.StatusDraining {
		s.Status = Down
	}
	for _, name := range slices.Sorted(maps.Keys(a.report.Checks)) {
		if !b.concerns(t, name) {
			continue
		}
		state := a.report.Checks[name]
		check := Check{Name: name, Status: OK, Optional: state.Optional, LatencyMillis: state.Millis, Since: state.Since.Truncate(time.Second)}
		switch state.Status {
		case health.StatusOK:
		case health.StatusUnknown:
			check.Status = Unknown
		default:
			check.Status = Down
			effect := Down
			if state.Optional {
				effect = Degraded
			}
			s.Status = worse(s.Status, effect)
		}
		s.Checks = append(s.Checks, check)
	}
}

// users are the contexts that use a system, as far as only some do. It tells the
// parts of one process apart.
var users = map[string][]string{
	"redis": {"basket"}, "search index": {"catalog"}, "model": {"catalog", "rating", "chat"},
	"temporal": {"catalog", "ordering", "finance", "rating", "compliance"}, "mail": {"notification"}, "payment provider": {"finance"},
}

// concerns reports whether a check of a process that holds several parts is this
// part's: what only another part uses is not.
func (b *Board) concerns(t Target, check string) bool {
	using := users[check]
	if schema, ok := strings.CutPrefix(check, "postgres "); ok {
		using = []string{schema}
	}
	if using == nil || slices.Contains(using, t.Name) {
		return true
	}
	return !slices.ContainsFunc(b.options.Targets, func(other Target) bool { // nobody else in this process is known to use it
		return other.URL == t.URL && slices.Contains(using, other.Name)
	})
}

// dependency is how a system is, as those see it who use it. asked is false where
// nobody does.
func (b *Board) dependency(now time.Time, beginning string, answers map[string]answer) (d Dependency, asked bool) {
	reached, failed := 0, 0
	for _, a := range answers {
		for name, state := range a.report.Checks {
			if a.err != nil || !strings.HasPrefix(name, beginning) {
				continue
			}
			asked = true
			switch state.Status {
			case health.StatusOK:
				reached++
			case health.StatusUnknown:
			default:
				failed++
			}
			d.LatencyMillis = max(d.LatencyMillis, state.Millis)
		}
	}
	key := "dependency " + beginning
	if _, seen := b.past[key]; !asked && !seen {
		return d, false
	}
	switch {
	case failed > 0 && reached > 0:
		d.Status = Degraded
	case failed > 0:
		d.Status = Down
	case reached > 0:
		d.Status = OK
	default: // those who use it do not answer
		d.Status = Unknown
	}
	d.Since = b.note(now, key, d.Status)
	d.History = b.past[key].levels(now)
	return d, true
}

// note keeps a level for the history, and returns since when it holds.
func (b *Board) note(now time.Time, key string, level Level) time.Time {
	p := b.past[key]
	if p == nil {
		p = &past{}
		b.past[key] = p
	}
	p.add(now, level)
	if b.known[key] != level {
		if before, seen := b.known[key]; seen {
			b.logger.Info("status changed", "part", key, "from", string(before), "to", string(level))
		}
		b.known[key], b.since[key] = level, now.UTC().Truncate(time.Second)
	}
	return b.since[key]
}

// past is the worst level of each of the last minutes.
type past struct {
	minute int64 // of the newest, since 1970
	worst  [minutes]Level
}

func (p *past) add(now time.Time, level Level) {
	p.advance(now)
	last := &p.worst[minutes-1]
	if *last == "" || severity[level] > severity[*last] {
		*last = level
	}
}

func (p *past) advance(now time.Time) {
	minute := now.Unix() / 60
	if gone := minute - p.minute; gone > 0 {
		gone = min(gone, minutes)
		copy(p.worst[:], p.worst[gone:])
		clear(p.worst[minutes-gone:])
		p.minute = minute
	}
}

func (p *past) levels(now time.Time) []Level {
	p.advance(now)
	levels := slices.Clone(p.worst[:])
	for i, level := range levels {
		levels[i] = cmp.Or(level, Unknown)
	}
	return levels
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
