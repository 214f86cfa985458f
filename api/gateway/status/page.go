package status

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"time"
)

//go:embed page.css
var style string

//go:embed page.html
var layout string

// pagePolicy lets the page have its own style and nothing else: no script, no image,
// no frame around it.
var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

var words = map[Level]string{OK: "Works", Degraded: "Degraded", Down: "Down", Unknown: "Unknown"}

var titles = map[Level]string{OK: "All good", Degraded: "Degraded", Down: "Down", Unknown: "Unknown"}

var marks = map[Level]string{OK: "✓", Degraded: "▲", Down: "✕", Unknown: "?"}

// looks is the page; it is parsed once, and a mistake in it shows at the first start.
var looks = template.Must(template.New("status").Funcs(template.FuncMap{
	"style": func() template.CSS { return template.CSS(style) }, //nolint:gosec // our own file
	"word":  func(l Level) string { return words[l] },
	"title": func(l Level) string { return titles[l] },
	"mark":  func(l Level) string { return marks[l] },
	"past":  told,
	"span":  span,
	"for":   func(since, now time.Time) string { return span(int64(now.Sub(since).Seconds())) },
	"short": func(version string) string { return version[:min(len(version), 10)] },
	"ms": func(v float64) string {
		switch {
		case v == 0:
			return ""
		case v < 10:
			return fmt.Sprintf("%.1f ms", v)
		default:
			return fmt.Sprintf("%.0f ms", v)
		}
	},
	"clock": func(t time.Time) string { return t.Format("15:04:05 UTC, 2 January 2006") },
	"stamp": func(t time.Time) string { return t.Format(time.RFC3339) },
	"failing": func(checks []Check) (failing []Check) {
		for _, c := range checks {
			if c.Status == Down {
				failing = append(failing, c)
			}
		}
		return failing
	},
}).Parse(layout))

func render(report Report, past []Level) ([]byte, error) {
	var b bytes.Buffer
	if err := looks.Execute(&b, struct {
		Report

		Past    []Level
		Refresh int
	}{report, past, int(watched.Seconds()) * 2}); err != nil {
		return nil, fmt.Errorf("render the page: %w", err)
	}
	return b.Bytes(), nil
}

// told says a history in words, for those who do not see its colours.
func told(past []Level) string {
	count := make(map[Level]int)
	for _, level := range past {
		count[level]++
	}
	text := fmt.Sprintf("The last hour: %d minutes good", count[OK])
	if n := count[Degraded]; n > 0 {
		text += fmt.Sprintf(", %d degraded", n)
	}
	if n := count[Down]; n > 0 {
		text += fmt.Sprintf(", %d down", n)
	}
	if n := count[Unknown]; n > 0 {
		text += fmt.Sprintf(", %d not seen", n)
	}
	return text
}

// span is a number of seconds as people say it.
func span(seconds int64) string {
	switch d := time.Duration(seconds) * time.Second; {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(seconds, 0))
	case d < time.Hour:
		return fmt.Sprintf("%d min", seconds/60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", seconds/3600, seconds%3600/60)
	default:
		return fmt.Sprintf("%d days", seconds/86400)
	}
}
