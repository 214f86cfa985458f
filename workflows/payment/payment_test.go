package payment

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/testsuite"

	activities "bookworm/activities/finance"
	"bookworm/internal/finance"
	"bookworm/internal/money"
)

// cashier stands for the finance activities: each Charge answers the next of the
// given states, the last one again and again.
type cashier struct {
	mu      sync.Mutex
	answers []any // finance.Status or error
	charges int
	log     []string
}

func (c *cashier) Charge(context.Context, activities.Payment) (activities.State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, "Charge")
	answer := c.answers[min(c.charges, len(c.answers)-1)]
	c.charges++
	if err, failed := answer.(error); failed {
		return activities.State{}, err
	}
	status, _ := answer.(finance.Status)
	return activities.State{Status: status}, nil
}

func (c *cashier) Reverse(context.Context, activities.Payment) (activities.State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, "Reverse")
	return activities.State{Status: finance.Voided}, nil
}

var order = activities.Payment{OrderID: "0b0e7f0a-3a0c-5d0e-9d52-7d1f5c6a0001", Amount: money.New("USD", 2598)}

func run(t *testing.T, c *cashier, steer func(*testsuite.TestWorkflowEnvironment)) Result {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.RegisterActivity(c)
	if steer != nil {
		steer(env)
	}
	env.ExecuteWorkflow(Workflow, order)
	var result Result
	if err := env.GetWorkflowResult(&result); err != nil {
		t.Fatal(err)
	}
	return result
}

func TestChargeEndsWithWhatTheProviderSays(t *testing.T) {
	t.Parallel()
	for _, status := range []finance.Status{finance.Captured, finance.Declined, finance.Voided} {
		c := &cashier{answers: []any{status}}
		if result := run(t, c, nil); result.Status != status || c.charges != 1 {
			t.Errorf("got %v after %d charges, want %s", result, c.charges, status)
		}
	}
}

func TestM3_UnknownIsRetriedNotFailed(t *testing.T) {
	t.Parallel()
	c := &cashier{answers: append(slices.Repeat([]any{errors.New("connection lost")}, 8), finance.Captured)}
	if result := run(t, c, nil); result.Status != finance.Captured || c.charges != 9 {
		t.Errorf("got %v after %d charges", result, c.charges)
	}
}

func TestShopperActsAtTheProvider(t *testing.T) {
	t.Parallel()
	c := &cashier{answers: []any{finance.RequiresAction, finance.Captured}}
	var asked time.Duration
	result := run(t, c, func(env *testsuite.TestWorkflowEnvironment) {
		began := env.Now()
		env.RegisterDelayedCallback(func() {
			env.SignalWorkflow(ProviderEventSignal, nil)
			asked = env.Now().Sub(began)
		}, 10*time.Second)
	})
	if result.Status != finance.Captured || c.charges != 2 || asked != 10*time.Second {
		t.Errorf("got %v after %d charges at %s", result, c.charges, asked)
	}
}

func TestProviderIsPolledWhenItsEventsAreLost(t *testing.T) {
	t.Parallel()
	c := &cashier{answers: []any{finance.RequiresAction, finance.Pending, finance.RequiresAction, finance.Captured}}
	if result := run(t, c, nil); result.Status != finance.Captured || c.charges != 4 {
		t.Errorf("got %v after %d charges", result, c.charges)
	}
}

func TestCancellationReverses(t *testing.T) {
	t.Parallel()
	for name, answers := range map[string][]any{
		"while the shopper acts":     {finance.RequiresAction},
		"while the provider is away": {errors.New("connection refused")},
	} {
		c := &cashier{answers: answers}
		result := run(t, c, func(env *testsuite.TestWorkflowEnvironment) {
			env.RegisterDelayedCallback(env.CancelWorkflow, 30*time.Second)
		})
		if result.Status != finance.Voided || c.log[len(c.log)-1] != "Reverse" {
			t.Errorf("%s: got %v after %q", name, result, c.log)
		}
	}
}
