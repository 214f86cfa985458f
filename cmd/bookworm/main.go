// Command bookworm is the whole shop in one binary:
//
//	bookworm api <context>...     serves the APIs of the contexts
//	bookworm worker <context>...  runs their workflows and activities
//	bookworm gateway              the one public door
//	bookworm migrate [-seed]      prepares the database and the Temporal namespace
//
// Its configuration is environment variables, see app.Config.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"bookworm/cmd/bookworm/app"
)

func main() {
	// The orchestrator asks with SIGTERM, a person with Ctrl-C; a second one kills.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := app.Main(ctx, os.Args[1:], os.Environ(), os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bookworm:", err)
		os.Exit(1)
	}
}
