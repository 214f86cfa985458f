package llm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"bookworm/internal/fault"
)

// operation is gen_ai.operation.name of OpenTelemetry's conventions for
// generative AI.
type operation string

const (
	operationChat       operation = "chat"
	operationEmbeddings operation = "embeddings"
)

type meters struct {
	tokens   metric.Int64Counter
	duration metric.Float64Histogram
}

func newMeters(m metric.Meter) (meters, error) {
	tokens, err := m.Int64Counter("bookworm_llm_tokens", metric.WithUnit("{token}"),
		metric.WithDescription("Tokens sent to models and written by them, by model and direction."))
	if err != nil {
		return meters{}, fmt.Errorf("make the token counter: %w", err)
	}
	duration, err := m.Float64Histogram("gen_ai.client.operation.duration", metric.WithUnit("s"),
		metric.WithDescription("Time of calls to models, retries included, by model, operation and error."))
	if err != nil {
		return meters{}, fmt.Errorf("make the duration histogram: %w", err)
	}
	return meters{tokens: tokens, duration: duration}, nil
}

// call records a call that ended.
func (m meters) call(ctx context.Context, op operation, model string, started time.Time, u Usage, err error) {
	ctx = context.WithoutCancel(ctx)
	attributes := []attribute.KeyValue{
		attribute.String("gen_ai.operation.name", string(op)), attribute.String("gen_ai.request.model", model),
	}
	for direction, n := range map[string]int64{"input": u.Input, "output": u.Output} {
		if n > 0 {
			m.tokens.Add(ctx, n, metric.WithAttributes(append(attributes, attribute.String("gen_ai.token.type", direction))...))
		}
	}
	if err != nil {
		attributes = append(attributes, attribute.String("error.type", errorType(err)))
	}
	m.duration.Record(ctx, time.Since(started).Seconds(), metric.WithAttributes(attributes...))
}

func errorType(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case fault.Is(err, fault.ReasonUnavailable):
		return "unavailable"
	case errors.Is(err, ErrCut):
		return "cut"
	case errors.Is(err, ErrTooLong):
		return "too_long"
	case statusOf(err) != 0:
		return fmt.Sprint(statusOf(err))
	}
	return "_OTHER"
}
