package temporal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"bookworm/internal/loopback"
)

var testAttributes = map[string]enums.IndexedValueType{"TestStatus": enums.INDEXED_VALUE_TYPE_KEYWORD}

const (
	taskQueue = "test"
	greetID   = "greet/1"
	// childEnv makes the test binary run a server on the folder it names, until
	// its standard input ends: that is a server that can be killed.
	childEnv = "BOOKWORM_TEST_TEMPORAL_CHILD"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := serveChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serveChild(dir string) error {
	s, err := Start(context.Background(), Options{DataDir: dir, SearchAttributes: testAttributes, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, s.Address())
	if err == nil {
		_, err = io.Copy(io.Discard, os.Stdin)
	}
	s.Stop()
	return err
}

// greet is started by an update, waits for a signal and returns what came.
func greet(ctx workflow.Context) (string, error) {
	var greeted string
	status := temporal.NewSearchAttributeKeyKeyword("TestStatus")
	err := workflow.SetUpdateHandler(ctx, "greet", func(ctx workflow.Context, name string) (string, error) {
		greeted = "hello " + name
		if err := workflow.UpsertTypedSearchAttributes(ctx, status.ValueSet("greeted")); err != nil {
			return "", err
		}
		return greeted, nil
	})
	if err != nil {
		return "", err
	}
	var farewell string
	workflow.GetSignalChannel(ctx, "leave").Receive(ctx, &farewell)
	return greeted + ", " + farewell, nil
}

func startServer(t *testing.T, dir string, attributes map[string]enums.IndexedValueType) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	start := time.Now()
	s, err := Start(ctx, Options{
		DataDir: dir, Namespace: "shop", SearchAttributes: attributes,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	t.Logf("started in %v", time.Since(start).Round(time.Millisecond))
	return s
}

func dial(t *testing.T, address, namespace string) client.Client {
	t.Helper()
	c, err := client.DialContext(t.Context(), client.Options{
		HostPort: address, Namespace: namespace, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func runWorker(t *testing.T, c client.Client) {
	t.Helper()
	w := worker.New(c, taskQueue, worker.Options{})
	w.RegisterWorkflow(greet)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
}

func addSearchAttribute(t *testing.T, c client.Client, namespace string) {
	t.Helper()
	_, err := c.OperatorService().AddSearchAttributes(t.Context(), &operatorservice.AddSearchAttributesRequest{
		Namespace:        namespace,
		SearchAttributes: testAttributes,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// greetByUpdate starts the workflow and greets it in one call, as checkout does.
func greetByUpdate(ctx context.Context, c client.Client) (string, error) {
	handle, err := c.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: c.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
			ID:                       greetID,
			TaskQueue:                taskQueue,
			WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		}, greet),
		UpdateOptions: client.UpdateWorkflowOptions{
			UpdateID: "greet-1", UpdateName: "greet", Args: []any{"reader"},
			WaitForStage: client.WorkflowUpdateStageCompleted,
		},
	})
	if err != nil {
		return "", err
	}
	var greeting string
	err = handle.Get(ctx, &greeting)
	return greeting, err
}

// eventually repeats a check until it passes.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := retry(ctx, func(context.Context) error { return check() }); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s: %s", url, resp.Status, body)
	}
	return string(body)
}

func TestServer(t *testing.T) { //nolint:tparallel // the steps share one server, which the last one stops
	t.Parallel()
	s := startServer(t, t.TempDir(), testAttributes)
	c := dial(t, s.Address(), "shop")
	runWorker(t, c)

	greeting, err := greetByUpdate(t.Context(), c)
	if err != nil || greeting != "hello reader" {
		t.Fatalf("update with start: %q, %v", greeting, err)
	}

	t.Run("search attributes are listed", func(t *testing.T) { //nolint:paralleltest // in turn
		eventually(t, func() error { return isListed(t.Context(), c) })
	})
	t.Run("adding a search attribute again changes nothing", func(t *testing.T) { //nolint:paralleltest // in turn
		addSearchAttribute(t, c, "shop")
	})
	t.Run("metrics count writes", func(t *testing.T) { //nolint:paralleltest // in turn
		body := get(t, s.MetricsURL())
		for _, operation := range []string{"CreateWorkflowExecution", "UpdateWorkflowExecution"} {
			if !strings.Contains(body, `operation="`+operation+`"`) || !strings.Contains(body, "persistence_requests{") {
				t.Errorf("no persistence_requests of %s", operation)
			}
		}
	})
	t.Run("web ui is the real one", func(t *testing.T) { //nolint:paralleltest // in turn
		if page := get(t, s.UIURL()); !strings.Contains(strings.ToLower(page), "<!doctype html>") {
			t.Errorf("front page: %.200s", page)
		}
		if body := get(t, s.UIURL()+"/api/v1/namespaces/shop/workflows"); !strings.Contains(body, greetID) {
			t.Errorf("workflows in the web ui: %.300s", body)
		}
	})
	t.Run("a taken port is an error", func(t *testing.T) { //nolint:paralleltest // in turn
		l, err := loopback.Listen(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		taken := l.Addr().(*net.TCPAddr).Port
		if other, err := Start(t.Context(), Options{DataDir: t.TempDir(), FrontendPort: taken}); err == nil {
			other.Stop()
			t.Error("started on a taken port")
		}
	})
	t.Run("stopping again does nothing", func(*testing.T) { //nolint:paralleltest // in turn
		s.Stop()
		s.Stop()
	})
}

func isListed(ctx context.Context, c client.Client) error {
	list, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: `TestStatus = "greeted"`})
	if err != nil {
		return err
	}
	if n := len(list.GetExecutions()); n != 1 {
		return fmt.Errorf("found %d workflows, want 1", n)
	}
	return nil
}

// TestAddSearchAttributeLater adds a search attribute to a running server, as
// production code does, and at the next start.
func TestAddSearchAttributeLater(t *testing.T) {
	t.Parallel()
	t.Run("through the operator service", func(t *testing.T) {
		t.Parallel()
		c := dial(t, startServer(t, t.TempDir(), nil).Address(), "shop")
		addSearchAttribute(t, c, "shop")
		runWorker(t, c)
		eventually(t, func() error {
			_, err := greetByUpdate(t.Context(), c)
			return err
		})
		eventually(t, func() error { return isListed(t.Context(), c) })
	})
	t.Run("at the next start", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		startServer(t, dir, nil).Stop()
		c := dial(t, startServer(t, dir, testAttributes).Address(), "shop")
		runWorker(t, c)
		if _, err := greetByUpdate(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error { return isListed(t.Context(), c) })
	})
}

// TestKillAndRestart kills a server in the middle of a workflow and goes on
// with another one on the same folder.
func TestKillAndRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	address, kill := startChild(t, dir)
	c := dial(t, address, "default")
	runWorker(t, c)
	if _, err := greetByUpdate(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	kill()

	address, _ = startChild(t, dir)
	c = dial(t, address, "default")
	runWorker(t, c)
	// The same update id finds its stored outcome.
	if greeting, err := greetByUpdate(t.Context(), c); err != nil || greeting != "hello reader" {
		t.Fatalf("update after the restart: %q, %v", greeting, err)
	}
	if err := c.SignalWorkflow(t.Context(), greetID, "", "leave", "goodbye"); err != nil {
		t.Fatal(err)
	}
	var result string
	if err := c.GetWorkflow(t.Context(), greetID, "").Get(t.Context(), &result); err != nil {
		t.Fatal(err)
	}
	if want := "hello reader, goodbye"; result != want {
		t.Errorf("workflow returned %q, want %q", result, want)
	}
}

// startChild runs a server in a process of its own and returns its address and
// what kills it.
func startChild(t *testing.T, dir string) (address string, kill func()) {
	t.Helper()
	start := time.Now()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = t.Output()
	if _, err := cmd.StdinPipe(); err != nil { // ends with this process
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill() // has ended already when this fails
		_ = cmd.Wait()         // reports the kill
	}
	t.Cleanup(kill)
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("child ended before it served")
	}
	t.Logf("child serves after %v", time.Since(start).Round(time.Millisecond))
	return lines.Text(), kill
}

// TestInterruptedSetup starts on what a kill during the very first start leaves
// behind.
func TestInterruptedSetup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/temporal.db", []byte("SQLite for"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := dial(t, startServer(t, dir, nil).Address(), "shop")
	_, err := c.DescribeWorkflowExecution(t.Context(), "nobody", "")
	if _, ok := errors.AsType[*serviceerror.NotFound](err); !ok {
		t.Errorf("describe on a fresh server: %v", err)
	}
}

func TestOtherSchemaVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/schema.version", []byte("0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Start(t.Context(), Options{DataDir: dir}); err == nil {
		s.Stop()
		t.Error("started on data of another version")
	}
}
