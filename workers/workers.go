// Package workers says what runs on each context's task queue, and how it is
// tuned. It is the map from a queue's name to code: one file for each context,
// and nothing but registration in it.
package workers

import (
	"time"

	"go.temporal.io/sdk/worker"
)

const (
	// pollers is how many polls of each kind a worker keeps open. With the
	// server's single partition for a queue, 8 is enough for a task to meet a
	// waiting poll at once; with the SDK's default of 2 it goes through the
	// server's database first.
	pollers = 8

	// stopTimeout is how long a worker that stops waits for what it is doing. It
	// must stay below the grace period of the pod (30 s), or the kill comes first;
	// the SDK's own default of 0 would drop running activities.
	stopTimeout = 20 * time.Second
)

// options is what all workers share. Each one's file adds its own limits.
//
// Left at the SDK's defaults on purpose: the identity (the client's, so that the
// Web UI names the process), the sticky cache (one for the process, 10,000
// workflows), and the panic policy, which blocks a workflow whose code is broken
// until a fixed worker comes instead of failing an order.
func options() worker.Options {
	return worker.Options{
		WorkflowTaskPollerBehavior: worker.NewPollerBehaviorSimpleMaximum(
			worker.PollerBehaviorSimpleMaximumOptions{MaximumNumberOfPollers: pollers}),
		ActivityTaskPollerBehavior: worker.NewPollerBehaviorSimpleMaximum(
			worker.PollerBehaviorSimpleMaximumOptions{MaximumNumberOfPollers: pollers}),
		WorkerStopTimeout: stopTimeout,
		// Workflows are registered under names of their own, which is what histories
		// refer to; the Go function's name must not work beside it.
		DisableRegistrationAliasing: true,
	}
}
