package telemetry

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/trace"
)

const masked = "***"

// sensitive are parts of the names of attributes that are never written out. The
// first line of defence is personal.Text, which prints as *** by itself.
var sensitive = []string{
	"authorization", "password", "passwd", "secret", "token", "email", "cookie", "apikey", "credential",
}

// address finds an e-mail address inside a longer text, and also the credentials
// in a URL, for the errors of libraries that quote what they were given.
var address = regexp.MustCompile(`[^\s"'<>(){},;:/\\=\[\]]+@[^\s"'<>(){},;:/\\=\[\]]+`)

func newLogger(c Config) (*slog.Logger, error) {
	writer := c.LogWriter
	if writer == nil {
		writer = os.Stderr
	}
	options := &slog.HandlerOptions{Level: c.LogLevel, ReplaceAttr: redact}
	var handler slog.Handler
	switch c.LogFormat {
	case "", "json":
		handler = slog.NewJSONHandler(writer, options)
	case "text":
		handler = slog.NewTextHandler(writer, options)
	default:
		return nil, fmt.Errorf(`the log format is %q, not "json" or "text"`, c.LogFormat)
	}
	return slog.New(traced{handler}), nil
}

// redact masks attributes by name, and addresses in any text. Counts, times and
// truth values pass: "prompt_tokens=12" gives nothing away.
func redact(groups []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindBool, slog.KindInt64, slog.KindUint64, slog.KindFloat64, slog.KindDuration, slog.KindTime:
		return a
	case slog.KindString, slog.KindAny, slog.KindGroup, slog.KindLogValuer:
	}
	if isSensitive(a.Key) || slices.ContainsFunc(groups, isSensitive) {
		return slog.String(a.Key, masked)
	}
	switch v := a.Value.Any().(type) {
	case string:
		return slog.String(a.Key, maskAddresses(v))
	case error:
		return slog.String(a.Key, maskAddresses(v.Error()))
	case fmt.Stringer:
		return slog.String(a.Key, maskAddresses(v.String()))
	}
	return a
}

func isSensitive(key string) bool {
	key = strings.NewReplacer("_", "", "-", "", ".", "").Replace(strings.ToLower(key))
	return slices.ContainsFunc(sensitive, func(s string) bool { return strings.Contains(key, s) })
}

func maskAddresses(s string) string {
	if !strings.Contains(s, "@") {
		return s
	}
	return address.ReplaceAllLiteralString(s, masked)
}

// traced adds the trace and the span of the context to each record.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, record slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		record = record.Clone()
		record.AddAttrs(
			slog.String("trace_id", span.TraceID().String()),
			slog.String("span_id", span.SpanID().String()),
		)
	}
	return h.Handler.Handle(ctx, record)
}

func (h traced) WithAttrs(attrs []slog.Attr) slog.Handler { return traced{h.Handler.WithAttrs(attrs)} }

func (h traced) WithGroup(name string) slog.Handler { return traced{h.Handler.WithGroup(name)} }

// EnsureTrace returns ctx with a trace id, a new random one when it has none, so
// that an answer and its log lines can be matched while nothing is exported. Call
// it inside the server's span: with an exporter, the span's own id stays.
func EnsureTrace(ctx context.Context) context.Context {
	if trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	var id [24]byte
	if _, err := rand.Read(id[:]); err != nil {
		panic(err) // crypto/rand.Read never fails on the systems Go supports
	}
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(id[:16]),
		SpanID:  trace.SpanID(id[16:]),
	}))
}

// Untraced returns ctx such that what is done under it makes no spans, for what
// repeats all day and would fill the traces.
func Untraced(ctx context.Context) context.Context {
	parent := trace.SpanContextFromContext(EnsureTrace(ctx))
	return trace.ContextWithSpanContext(ctx, parent.WithTraceFlags(parent.TraceFlags().WithSampled(false)))
}

// TraceID returns the id of the context's trace, or "" when it has none.
func TraceID(ctx context.Context) string {
	if id := trace.SpanContextFromContext(ctx).TraceID(); id.IsValid() {
		return id.String()
	}
	return ""
}
