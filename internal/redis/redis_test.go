package redis_test

import (
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"bookworm/internal/redis"
)

func TestOpenAnswers(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	client, err := redis.Open(t.Context(), "redis://"+server.Addr()+"/0")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Set(t.Context(), "a", "b", time.Minute).Err(); err != nil {
		t.Error(err)
	}
}

func TestOpenSaysWhatIsWrongWithoutThePassword(t *testing.T) {
	t.Parallel()
	for _, address := range []string{
		"redis://user:hunter2@127.0.0.1:1/0", // nobody there
		"http://user:hunter2@127.0.0.1:1",
		"redis://user:hunter2@127.0.0.1:1/x",
		"redis://user:hunter2@127.0.0.1:port",
		"redis://user:hunter2@127.0.0.1:1?addr=127.0.0.1:2&nonsense=1",
		"",
	} {
		_, err := redis.Open(t.Context(), address)
		if err == nil {
			t.Errorf("%s was opened", address)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the password is in %v", err)
		}
	}
}

func TestA3_TracesHoldNoArguments(t *testing.T) { //nolint:paralleltest // the tracer is the process's
	recorder := tracetest.NewSpanRecorder()
	before := otel.GetTracerProvider()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)))
	defer otel.SetTracerProvider(before)
	server := miniredis.RunT(t)
	client, err := redis.Open(t.Context(), "redis://"+server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Set(t.Context(), "whose", "personal", time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	pipe := client.Pipeline()
	pipe.Get(t.Context(), "whose")
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := recorder.Ended()
	if len(spans) < 2 {
		t.Fatalf("%d spans", len(spans))
	}
	for _, span := range spans {
		if text := span.Name(); strings.Contains(text, "whose") {
			t.Errorf("span is named %q", text)
		}
		for _, attribute := range span.Attributes() {
			if value := attribute.Value.String(); strings.Contains(value, "whose") || strings.Contains(value, "personal") {
				t.Errorf("span %q has %s = %q", span.Name(), attribute.Key, value)
			}
		}
	}
}
