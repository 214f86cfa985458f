package loopback_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"bookworm/internal/loopback"
)

// childEnv makes the test binary a process that asks for the ports it names, 0 or
// a number each, prints what it gets, and lives until its standard input ends.
const childEnv = "BOOKWORM_TEST_LOOPBACK_CHILD"

func TestMain(m *testing.M) {
	wanted := os.Getenv(childEnv)
	if wanted == "" {
		os.Exit(m.Run())
	}
	for text := range strings.FieldsSeq(wanted) {
		port, err := strconv.Atoi(text)
		if err == nil {
			port, err = loopback.Port(context.Background(), port)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stdout, port)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// child runs a process that asks for ports and does not listen on them, until the
// test or end ends it. Tests with one are not parallel: a process that is being
// started has this one's listeners for a moment, also those that are closed then.
func child(t *testing.T, wanted ...int) (got []int, end func()) {
	t.Helper()
	process := exec.CommandContext(t.Context(), os.Args[0])
	process.Env = append(os.Environ(), childEnv+"="+strings.Trim(fmt.Sprint(wanted), "[]"))
	process.Stderr = t.Output()
	if _, err := process.StdinPipe(); err != nil { // ends with this process
		t.Fatal(err)
	}
	out, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = process.Process.Kill() // has ended already when this fails
		_ = process.Wait()         // reports the kill
	})
	t.Cleanup(end)
	lines := bufio.NewScanner(out)
	for range wanted {
		if !lines.Scan() {
			t.Fatal("the process got no port")
		}
		port, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, port)
	}
	return got, end
}

func TestPortIsFreeAndNotGivenTwice(t *testing.T) {
	t.Parallel()
	seen := make(map[int]bool)
	for range 20 {
		port, err := loopback.Port(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] {
			t.Errorf("port %d was given twice", port)
		}
		seen[port] = true
		l, err := loopback.Listen(t.Context(), port)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
}

// TestPortIsOutOfReachOfTheSystem looks for ports that the system could give to a
// connection or a listener between the choice and the server's start.
func TestPortIsOutOfReachOfTheSystem(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		content = []byte("49152 65535") // what IANA leaves to systems
	}
	lowest, err := strconv.Atoi(strings.Fields(string(content))[0])
	if err != nil {
		t.Fatal(err)
	}
	port, err := loopback.Port(t.Context(), 0)
	if err != nil || port >= lowest {
		t.Errorf("got port %d, %v; the system gives out ports from %d", port, err, lowest)
	}
}

func TestProcessesHaveBlocksOfTheirOwn(t *testing.T) { //nolint:paralleltest // see child
	blocks := make(map[int]bool)
	for range 8 {
		ports, _ := child(t, 0)
		if block := ports[0] / 100; blocks[block] {
			t.Errorf("two processes have port %d's block", ports[0])
		} else {
			blocks[block] = true
		}
	}
}

// TestRememberedPort asks for a port that an earlier process had, as a stack does
// that starts again.
func TestRememberedPort(t *testing.T) { //nolint:paralleltest // see child
	earlier, end := child(t, 0)
	// While that process lives, it may be about to listen there.
	if port, err := loopback.Port(t.Context(), earlier[0]); err == nil {
		t.Errorf("port %d passes for free in the block of another process", port)
	}
	end()
	got, _ := child(t, earlier[0], 0, 0)
	if got[0] != earlier[0] || got[1] == earlier[0] || got[2] == earlier[0] || got[1]/100 != earlier[0]/100 {
		t.Errorf("a process that asked for %d and two free ones got %v", earlier[0], got)
	}
}

func TestTakenPort(t *testing.T) {
	t.Parallel()
	port, err := loopback.Port(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := loopback.Listen(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := loopback.Port(t.Context(), port); err == nil {
		t.Errorf("port %d passes for free although somebody listens on it", port)
	}
	l.Close()
	if got, err := loopback.Port(t.Context(), port); err != nil || got != port {
		t.Errorf("got %d, %v for the free port %d", got, err, port)
	}
}
