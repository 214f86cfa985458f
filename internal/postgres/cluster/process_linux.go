package cluster

import (
	"context"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// procAttr makes a program run as the given user and shut down by itself when
// the thread that started it ends. Its own process group keeps a Ctrl-C in the
// terminal from reaching it before the programs that use it have drained.
func procAttr(owner *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: owner, Pdeathsig: syscall.SIGINT, Setpgid: true}
}

// commandLine returns the command line of a living process, or "".
func commandLine(_ context.Context, pid int) string {
	args, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return "" // no such process
	}
	return strings.ReplaceAll(string(args), "\x00", " ")
}
