package temporal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/log/tag"
)

// serverLog passes the server's warnings and errors on to slog. What the server
// says below that is far more than anyone reads.
type serverLog struct {
	slog  *slog.Logger
	muted *atomic.Bool
}

// fatalError is the panic with which a fatal log ends the server, for Start to
// return. After the start nobody catches it and the process ends, as the server
// expects of a fatal log.
type fatalError struct{ error }

var (
	_ log.Logger     = (*serverLog)(nil)
	_ log.WithLogger = (*serverLog)(nil)
)

func newServerLog(logger *slog.Logger) *serverLog {
	return &serverLog{slog: logger.With("part", "temporal"), muted: new(atomic.Bool)}
}

// mute drops everything from now on.
func (l *serverLog) mute() { l.muted.Store(true) }

func (*serverLog) Debug(string, ...tag.Tag) {}

func (*serverLog) Info(string, ...tag.Tag) {}

func (l *serverLog) Warn(msg string, tags ...tag.Tag) { l.write(slog.LevelWarn, msg, tags) }

func (l *serverLog) Error(msg string, tags ...tag.Tag) { l.write(slog.LevelError, msg, tags) }

func (l *serverLog) DPanic(msg string, tags ...tag.Tag) { l.write(slog.LevelError, msg, tags) }

func (l *serverLog) Panic(msg string, tags ...tag.Tag) {
	l.write(slog.LevelError, msg, tags)
	panic(msg)
}

func (l *serverLog) Fatal(msg string, tags ...tag.Tag) {
	err := errors.New(msg)
	for _, t := range tags {
		if cause, ok := t.Value().(error); ok {
			err = fmt.Errorf("%w: %w", err, cause)
		}
	}
	panic(fatalError{err})
}

// With returns a logger that adds the tags to each line.
func (l *serverLog) With(tags ...tag.Tag) log.Logger {
	return &serverLog{slog: slog.New(l.slog.Handler().WithAttrs(attrs(tags))), muted: l.muted}
}

func (l *serverLog) write(level slog.Level, msg string, tags []tag.Tag) {
	ctx := context.Background()
	if l.muted.Load() || !l.slog.Enabled(ctx, level) {
		return
	}
	l.slog.LogAttrs(ctx, level, msg, attrs(tags)...)
}

func attrs(tags []tag.Tag) []slog.Attr {
	as := make([]slog.Attr, len(tags))
	for i, t := range tags {
		as[i] = slog.Any(t.Key(), t.Value())
	}
	return as
}
