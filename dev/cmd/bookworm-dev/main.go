// Command bookworm-dev is the embedded stack: the whole shop on one machine,
// with nothing else running.
//
//	bookworm-dev run           runs everything until Ctrl-C
//	bookworm-dev infra         runs only what keeps data (PostgreSQL, Redis, Temporal, Qdrant), for tests
//	bookworm-dev token <user>  prints an access token of alice, bob, ops, sam or rita
//	bookworm-dev demo          buys two books from the stack that runs
//	bookworm-dev demo-chat     talks with the bookseller of the stack that runs
//	bookworm-dev bench         measures stacks of its own
//	bookworm-dev bench-chat    measures the bookseller on a stack of its own
//	bookworm-dev bench-door    measures the gateway on a stack of its own
//	bookworm-dev eval          evaluates search and answers on parts of its own
//
// BOOKWORM_DATA names the data folder, .bookworm unless set.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"text/tabwriter"
	"time"

	"bookworm/dev/bench"
	"bookworm/dev/demo"
	"bookworm/dev/eval"
	"bookworm/dev/folder"
	"bookworm/dev/infra"
	"bookworm/dev/shop"
	"bookworm/dev/shopper"
)

func main() {
	began := time.Now()
	// Five parts share this heap, and collecting it was a tenth of the load. It may
	// grow further before that, within what the whole stack may take.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300)
		debug.SetMemoryLimit(400 << 20)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C kills
	err := run(ctx, os.Args[1:], os.Stdout, began)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bookworm:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: bookworm-dev run | infra | token <user> | demo | demo-chat | bench | bench-chat | bench-door | eval")

func run(ctx context.Context, args []string, stdout io.Writer, began time.Time) error {
	data := os.Getenv("BOOKWORM_DATA")
	if data == "" {
		data = folder.Default
	}
	command := ""
	if len(args) > 0 {
		command = args[0]
	}
	switch {
	case command == "run" && len(args) == 1:
		return everything(ctx, data, stdout, began)
	case command == "infra" && len(args) == 1:
		return onlyInfra(ctx, data)
	case command == "token" && len(args) == 2:
		return token(ctx, data, args[1], stdout)
	case command == "demo" && len(args) == 1:
		return withStack(data, func(a folder.Addresses) error { return demo.Run(ctx, a, stdout) })
	case command == "demo-chat" && len(args) == 1:
		return withStack(data, func(a folder.Addresses) error { return demo.Chat(ctx, a, stdout) })
	case command == "bench-chat" && len(args) == 1:
		return bench.Chat(ctx, stdout)
	case command == "bench-door" && len(args) == 1:
		return bench.Door(ctx, stdout)
	case command == "eval" && len(args) == 1:
		endpoint, err := eval.EndpointFrom(os.Getenv)
		if err != nil {
			return err
		}
		return eval.Run(ctx, endpoint, "docs/evaluation.md", stdout)
	case command == "bench" && len(args) == 1:
		program, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		return bench.Run(ctx, program, stdout)
	default:
		return errUsage
	}
}

func withStack(data string, do func(folder.Addresses) error) error {
	addresses, err := folder.Lookup(data)
	if err != nil {
		return err
	}
	return do(addresses)
}

func token(ctx context.Context, data, user string, stdout io.Writer) error {
	return withStack(data, func(a folder.Addresses) error {
		text, err := shopper.Token(ctx, a["BOOKWORM_ISSUER_URL"], user)
		if err == nil {
			_, err = fmt.Fprintln(stdout, text)
		}
		return err
	})
}

// take opens the folder, or says who has it.
func take(data string) (*folder.Folder, error) {
	f, err := folder.Open(data)
	if !errors.Is(err, folder.ErrInUse) {
		return f, err
	}
	if a, lookupErr := folder.Lookup(data); lookupErr == nil {
		return nil, fmt.Errorf("a stack runs here already, at %s (another one needs another folder: BOOKWORM_DATA=...)", a["BOOKWORM_GATEWAY_URL"])
	}
	return nil, fmt.Errorf("a stack is starting or stopping in %s", data)
}

func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func everything(ctx context.Context, data string, stdout io.Writer, began time.Time) (err error) {
	f, err := take(data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Withdraw(), f.Close()) }()
	i, err := infra.Start(ctx, f, logger())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.Stop()) }()
	s, err := shop.Start(ctx, f, i.Addresses, shop.Options{Logger: logger(), Environ: os.Environ()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	if err := f.Publish(s.Addresses); err != nil {
		return err
	}
	if err := table(stdout, f, s.Addresses, i.RedisKind, time.Since(began)); err != nil {
		return err
	}
	err = s.Wait(ctx)
	fmt.Fprintln(stdout, "\nstopping")
	return err
}

func table(w io.Writer, f *folder.Folder, a folder.Addresses, redis string, took time.Duration) error {
	fmt.Fprintf(w, "BookWorm is open, after %.1f s.\n\n", took.Seconds())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{
		{"shop (REST, Connect, gRPC)", a["BOOKWORM_GATEWAY_URL"] + "/api/v1/books"},
		{"status", a["BOOKWORM_GATEWAY_URL"] + "/status"},
		{"orders as workflows", a["BOOKWORM_TEMPORAL_UI_URL"] + "/namespaces/" + a["BOOKWORM_TEMPORAL_NAMESPACE"] + "/workflows"},
		{"e-mail inbox", a["BOOKWORM_INBOX_URL"]},
		{"payments (stands in for Stripe)", a["BOOKWORM_PSP_URL"]},
		{"sign-in (alice, bob, ops, sam, rita)", a["BOOKWORM_ISSUER_URL"]},
		{"metrics", a["BOOKWORM_METRICS_URL"]},
		{"Temporal", a["BOOKWORM_TEMPORAL_ADDRESS"]},
		{"PostgreSQL", "see " + f.Sub("env")},
		{redis, a["BOOKWORM_REDIS_URL"]},
		{"Qdrant (stands in, gRPC)", a["BOOKWORM_QDRANT_ADDRESS"]},
		{"model (stands in for OpenAI)", a["BOOKWORM_MODEL_URL"]},
		{"MCP, for other assistants", a["BOOKWORM_GATEWAY_URL"] + "/mcp"},
		{"RabbitMQ", "not part of this stack yet"},
		{"data", f.Path},
	} {
		fmt.Fprintf(t, "  %s\t%s\n", row[0], row[1])
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print addresses: %w", err)
	}
	_, err := fmt.Fprint(w, "\nTry `make demo` or `make demo-chat` in another terminal. Ctrl-C stops; the data stays.\n")
	return err
}

// onlyInfra runs the infrastructure until ctx ends, for tests that run the shop
// themselves.
func onlyInfra(ctx context.Context, data string) (err error) {
	f, err := take(data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Withdraw(), f.Close()) }()
	i, err := infra.Start(ctx, f, logger())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.Stop()) }()
	if err := f.Publish(i.Addresses); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
