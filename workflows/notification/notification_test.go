package notification_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/api/sdk/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/notification"
	"bookworm/internal/fault"
	domain "bookworm/internal/notification"
	"bookworm/internal/process"
	"bookworm/workflows/notification"
)

var (
	activity *activities.Activities

	sent    = notification.Result{State: string(domain.Sent), MessageID: "id@bookworm.example"}
	unknown = notification.Result{State: string(domain.Unknown), MessageID: "id@bookworm.example"}
	refused = process.Refused(fault.New(fault.ReasonRecipientMalformed, "mail refused at recipient with 550 5.1.1"))
)

func orderMail() notification.Mail {
	return notification.Mail{OrderID: "order-1", Subject: "alice", Template: notification.OrderConfirmed, EventID: "order-1/confirmed"}
}

func setup(t *testing.T) *testsuite.TestWorkflowEnvironment {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(10 * time.Second)
	env.RegisterWorkflowWithOptions(notification.Workflow, workflow.RegisterOptions{Name: notification.Name})
	env.RegisterActivity(&activities.Activities{})
	t.Cleanup(func() { env.AssertExpectations(t) })
	return env
}

// finish runs the workflow and returns its result.
func finish(t *testing.T, env *testsuite.TestWorkflowEnvironment) (notification.Result, error) {
	t.Helper()
	env.ExecuteWorkflow(notification.Name, orderMail())
	if !env.IsWorkflowCompleted() {
		t.Fatal("the workflow did not end")
	}
	if err := env.GetWorkflowError(); err != nil {
		return notification.Result{}, err
	}
	var result notification.Result
	return result, env.GetWorkflowResult(&result)
}

// after lets something happen in the workflow's time. Everything that is due
// earlier has happened by then.
func after(t *testing.T, env *testsuite.TestWorkflowEnvironment, d time.Duration, f func(details string)) {
	t.Helper()
	env.RegisterDelayedCallback(func() { f(details(t, env)) }, d)
}

// details returns what operators read.
func details(t *testing.T, env *testsuite.TestWorkflowEnvironment) string {
	t.Helper()
	value, err := env.QueryWorkflow("__temporal_workflow_metadata")
	if err != nil {
		t.Error(err)
		return ""
	}
	var metadata sdk.WorkflowMetadata
	if err := value.Get(&metadata); err != nil {
		t.Error(err)
	}
	return metadata.GetCurrentDetails()
}

func TestSent(t *testing.T) {
	t.Parallel()
	env := setup(t)
	env.OnActivity(activity.SendOrderMail, mock.Anything, orderMail()).Return(sent, nil).Once()
	if result, err := finish(t, env); err != nil || result != sent {
		t.Errorf("%+v, %v", result, err)
	}
	if got := details(t, env); got != "**order_confirmed** of order `order-1`: sent" {
		t.Errorf("details %q", got)
	}
}

func TestSuppressed(t *testing.T) {
	t.Parallel()
	env := setup(t)
	suppressed := notification.Result{State: string(domain.Suppressed)}
	env.OnActivity(activity.SendOrderMail, mock.Anything, orderMail()).Return(suppressed, nil).Once()
	if result, err := finish(t, env); err != nil || result != suppressed {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestRetriedUntilTheRelayIsBack(t *testing.T) {
	t.Parallel()
	env := setup(t)
	start := env.Now()
	attempts := 0
	env.OnActivity(activity.SendOrderMail, mock.Anything, orderMail()).Return(
		func(context.Context, notification.Mail) (notification.Result, error) {
			attempts++
			if env.Now().Sub(start) < 24*time.Hour {
				return notification.Result{}, errors.New("mail deferred at connection")
			}
			return sent, nil
		})
	if result, err := finish(t, env); err != nil || result != sent {
		t.Errorf("%+v, %v", result, err)
	}
	// 1, 2, 4, ... 1024 s, then one in half an hour.
	if attempts < 50 || attempts > 65 {
		t.Errorf("%d attempts in a day", attempts)
	}
}

// TestN4_PoisonMessageParksWhereOpsSeeIt is a mail that can never be sent: it is
// neither dropped nor tried for ever.
func TestN4_PoisonMessageParksWhereOpsSeeIt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		result notification.Result
		err    error
		parks  time.Duration // after this long at the latest
		why    string
	}{
		"refused for good":   {err: refused, parks: time.Minute, why: "550 5.1.1"},
		"nobody knows":       {result: unknown, parks: time.Minute, why: "`id@bookworm.example`"},
		"deferred for days":  {err: errors.New("mail deferred at connection"), parks: 73 * time.Hour, why: "Not sent in 72 hours: "},
		"cannot be written":  {err: process.Refused(fault.New(fault.ReasonInvalidArgument, "unknown mail template")), parks: time.Minute, why: "unknown mail template"},
		"panics on each try": {err: temporal.NewNonRetryableApplicationError("index out of range", "PanicError", nil), parks: time.Minute, why: "index out of range"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := setup(t)
			parked := true
			env.OnActivity(activity.SendOrderMail, mock.Anything, orderMail()).Return(
				func(context.Context, notification.Mail) (notification.Result, error) {
					if parked {
						return test.result, test.err
					}
					return sent, nil
				})
			if test.result == unknown {
				env.OnActivity(activity.ReleaseOrderMail, mock.Anything, orderMail()).Return(nil).Once()
			}
			env.OnUpsertTypedSearchAttributes(temporal.NewSearchAttributes(process.Step.ValueSet("mail is parked"))).Return(nil).Once()
			env.OnUpsertTypedSearchAttributes(temporal.NewSearchAttributes(process.Step.ValueSet("mail is sent again"))).Return(nil).Once()
			check := func(details string) {
				t.Helper()
				if env.IsWorkflowCompleted() || !strings.Contains(details, "parked") || !strings.Contains(details, test.why) {
					t.Errorf("completed %t, details %q", env.IsWorkflowCompleted(), details)
				}
			}
			after(t, env, test.parks, check)
			after(t, env, test.parks+30*24*time.Hour, func(details string) { // nobody looks for a month
				check(details)
				parked = false
				env.SignalWorkflow(notification.RetrySignal, nil)
			})
			if result, err := finish(t, env); err != nil || result != sent {
				t.Errorf("%+v, %v", result, err)
			}
		})
	}
}

func TestRetryBeforeItIsParkedHasNoEffect(t *testing.T) {
	t.Parallel()
	env := setup(t)
	calls := 0
	env.OnActivity(activity.SendOrderMail, mock.Anything, orderMail()).Return(
		func(context.Context, notification.Mail) (notification.Result, error) {
			if calls++; calls < 8 {
				return notification.Result{}, errors.New("mail deferred at connection")
			}
			return unknown, nil
		})
	after(t, env, 20*time.Second, func(string) { env.SignalWorkflow(notification.RetrySignal, nil) })
	after(t, env, time.Hour, func(details string) {
		if !strings.Contains(details, "parked") {
			t.Errorf("details %q", details)
		}
		env.CancelWorkflow()
	})
	// ReleaseOrderMail is not expected and would fail the test.
	if result, err := finish(t, env); !temporal.IsCanceledError(err) {
		t.Errorf("%+v, %v", result, err)
	}
	if got := details(t, env); !strings.Contains(got, "left unsent by an operator") {
		t.Errorf("details %q", got)
	}
}
