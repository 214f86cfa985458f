package chat

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"bookworm/internal/llm"
)

type meters struct {
	turns   metric.Int64Counter
	first   metric.Float64Histogram
	lasted  metric.Float64Histogram
	tokens  metric.Int64Counter
	cost    metric.Int64Counter
	uncited metric.Int64Counter
	tools   metric.Int64Counter
	running metric.Int64UpDownCounter
}

func newMeters(m metric.Meter) (meters, error) {
	var errs [8]error
	var s meters
	s.turns, errs[0] = m.Int64Counter("bookworm_chat_turns", metric.WithDescription("Turns that ended, by outcome."))
	s.first, errs[1] = m.Float64Histogram("bookworm_chat_first_word", metric.WithUnit("s"),
		metric.WithDescription("Time from the message to the first word of the answer."))
	s.lasted, errs[2] = m.Float64Histogram("bookworm_chat_turn_duration", metric.WithUnit("s"), metric.WithDescription("Time of a turn, by outcome."))
	s.tokens, errs[3] = m.Int64Counter("bookworm_chat_tokens", metric.WithUnit("{token}"), metric.WithDescription("Tokens of turns, by direction."))
	s.cost, errs[4] = m.Int64Counter("bookworm_chat_cost_micros", metric.WithDescription("What turns cost, in millionths of a US dollar."))
	s.uncited, errs[5] = m.Int64Counter("bookworm_chat_uncited_sentences", metric.WithDescription("Sentences of facts that were marked as unverified."))
	s.tools, errs[6] = m.Int64Counter("bookworm_chat_tool_calls", metric.WithDescription("Calls of tools, by tool and state."))
	s.running, errs[7] = m.Int64UpDownCounter("bookworm_chat_turns_running", metric.WithDescription("Turns that run in this process."))
	if err := errors.Join(errs[:]...); err != nil {
		return meters{}, fmt.Errorf("make the chat's meters: %w", err)
	}
	return s, nil
}

// turn records a turn that ended.
func (m meters) turn(ctx context.Context, d Done, lasted time.Duration, cost int64) {
	outcome := metric.WithAttributes(attribute.String("outcome", string(d.Outcome)))
	m.turns.Add(ctx, 1, outcome)
	m.lasted.Record(ctx, lasted.Seconds(), outcome)
	m.tokens.Add(ctx, d.Input, metric.WithAttributes(attribute.String("direction", "input")))
	m.tokens.Add(ctx, d.Output, metric.WithAttributes(attribute.String("direction", "output")))
	m.cost.Add(ctx, cost)
	m.uncited.Add(ctx, int64(d.Uncited))
}

// tool records a call. The name is one of ours, or "unknown".
func (m meters) tool(ctx context.Context, name string, state UseState) {
	m.tools.Add(ctx, 1, metric.WithAttributes(attribute.String("tool", name), attribute.String("state", string(state))))
}

// cost is what tokens cost, in millionths of a US dollar, rounded up.
func (l Limits) cost(u llm.Usage) int64 {
	const million = 1_000_000
	return (u.Input*l.InputPrice + u.Output*l.OutputPrice + million - 1) / million
}
