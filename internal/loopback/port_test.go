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
	"testing"

	"bookworm/internal/loopback"
)

// childEnv makes the test binary print a free port and live until its standard
// input ends.
const childEnv = "BOOKWORM_TEST_LOOPBACK_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	port, err := loopback.Port(context.Background(), 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, port)
	_, _ = io.Copy(io.Discard, os.Stdin)
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

// TestProcessesHaveBlocksOfTheirOwn starts processes that ask for a port at once
// and do not listen on it.
func TestProcessesHaveBlocksOfTheirOwn(t *testing.T) {
	t.Parallel()
	blocks := make(map[int]bool)
	for range 8 {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), childEnv+"=1")
		child.Stderr = t.Output()
		if _, err := child.StdinPipe(); err != nil { // ends with this process
			t.Fatal(err)
		}
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = child.Process.Kill()
			_ = child.Wait() // reports the kill
		})
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		port, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		if block := port / 100; blocks[block] {
			t.Errorf("two processes have port %d's block", port)
		} else {
			blocks[block] = true
		}
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
