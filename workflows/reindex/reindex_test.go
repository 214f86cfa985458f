package reindex

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	activities "bookworm/activities/catalog"
)

// world stands for the index. Its methods have the names of the activities they
// stand for; each takes its next answer from a list, and the good one after that.
type world struct {
	mu    sync.Mutex
	log   []string
	tags  []string
	errs  map[string][]error
	left  []int64
	drift []activities.Drift
}

func (w *world) did(what string) error {
	w.log = append(w.log, what)
	if errs := w.errs[what]; len(errs) > 0 {
		w.errs[what] = errs[1:]
		return errs[0]
	}
	return nil
}

func (w *world) BeginRebuild(_ context.Context, tag string) (activities.Rebuild, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tags = append(w.tags, tag)
	return activities.Rebuild{Collection: "books-" + tag, Books: 300}, w.did("begin")
}

func (w *world) FillIndex(context.Context, string) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.did("fill")
	if err != nil || len(w.left) == 0 {
		return 0, err
	}
	left := w.left[0]
	w.left = w.left[1:]
	return left, nil
}

func (w *world) VerifyIndex(context.Context, string) (activities.Drift, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.did("verify")
	if err != nil || len(w.drift) == 0 {
		return activities.Drift{}, err
	}
	drift := w.drift[0]
	w.drift = w.drift[1:]
	return drift, nil
}

func (w *world) SwitchIndex(_ context.Context, collection string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if collection != "books-"+w.tags[len(w.tags)-1] {
		return errors.New("another collection")
	}
	return w.did("switch")
}

func (w *world) CheckIndex(context.Context) (activities.Drift, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return activities.Drift{Checked: 7, Missing: 1}, w.did("check")
}

func gone() error {
	return temporal.NewNonRetryableApplicationError("the collection is gone", activities.ErrRebuild, nil)
}

func setup(t *testing.T, w *world) *testsuite.TestWorkflowEnvironment {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.RegisterActivity(w)
	return env
}

func TestRebuild(t *testing.T) {
	t.Parallel()
	away := errors.New("the index does not answer")
	for name, test := range map[string]struct {
		world *world
		want  string // what is done
		fails bool
	}{
		"straight": {&world{}, "begin fill verify switch", false},
		"in parts": {&world{left: []int64{200, 100}}, "begin fill fill fill verify switch", false}, //nolint:dupword // in this order
		"index away": {
			&world{errs: map[string][]error{"begin": {away, away}, "fill": {away}, "verify": {away}, "switch": {away}}},
			"begin begin begin fill fill verify verify switch switch", false, //nolint:dupword // in this order
		},
		"mended":          {&world{drift: []activities.Drift{{Missing: 2}}}, "begin fill verify fill verify switch", false},
		"lost on filling": {&world{errs: map[string][]error{"fill": {gone()}}}, "begin fill begin fill verify switch", false},
		"lost at the end": {&world{errs: map[string][]error{"switch": {gone()}}}, "begin fill verify switch begin fill verify switch", false},
		"lost for ever": {
			&world{errs: map[string][]error{"fill": slices.Repeat([]error{gone()}, 9)}},
			strings.TrimSpace(strings.Repeat("begin fill ", maxCollections)), true,
		},
		"never right": {
			&world{drift: slices.Repeat([]activities.Drift{{Stale: 1}}, 9)},
			"begin " + strings.TrimSpace(strings.Repeat("fill verify ", maxRounds)), true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := setup(t, test.world)
			env.ExecuteWorkflow(Workflow)
			if !env.IsWorkflowCompleted() || (env.GetWorkflowError() != nil) != test.fails {
				t.Fatalf("completed %t, %v", env.IsWorkflowCompleted(), env.GetWorkflowError())
			}
			if got := strings.Join(test.world.log, " "); got != test.want {
				t.Errorf("did %q, want %q", got, test.want)
			}
			// The retry of a lost beginning goes on with the same collection, a new
			// beginning makes another.
			if name == "index away" && len(slices.Compact(test.world.tags)) != 1 {
				t.Errorf("tags %q", test.world.tags)
			}
			if name == "lost on filling" && test.world.tags[0] == test.world.tags[1] {
				t.Errorf("tags %q", test.world.tags)
			}
			if test.fails {
				return
			}
			var progress Progress
			value, err := env.QueryWorkflow(ProgressQuery)
			if err == nil {
				err = value.Get(&progress)
			}
			if err != nil || progress.Books != 300 || progress.Left != 0 || progress.Collection == "" {
				t.Errorf("%+v, %v", progress, err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		errs     []error
		rebuilds int
		fails    bool
	}{
		"mended":        {nil, 0, false},
		"away a while":  {[]error{errors.New("away"), errors.New("away")}, 0, false},
		"needs rebuild": {[]error{gone()}, 1, false},
		"away":          {slices.Repeat([]error{errors.New("away")}, 1000), 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := setup(t, &world{errs: map[string][]error{"check": test.errs}})
			rebuilds := 0
			env.RegisterWorkflowWithOptions(func(workflow.Context) (Progress, error) {
				rebuilds++
				return Progress{}, nil
			}, workflow.RegisterOptions{Name: Name})
			env.ExecuteWorkflow(Check)
			if !env.IsWorkflowCompleted() || (env.GetWorkflowError() != nil) != test.fails {
				t.Fatalf("completed %t, %v", env.IsWorkflowCompleted(), env.GetWorkflowError())
			}
			if rebuilds != test.rebuilds {
				t.Errorf("%d rebuilds were begun, want %d", rebuilds, test.rebuilds)
			}
		})
	}
}
