//go:build unix && !linux

package cluster

import (
	"context"
	"os/exec"
	"strconv"
	"syscall"
)

// procAttr makes a program run as the given user, in a process group of its own
// so that a Ctrl-C in the terminal does not reach it before the programs that
// use it have drained. There is no death signal
// here: what a killed process leaves running is stopped at the next start.
func procAttr(owner *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: owner, Setpgid: true}
}

// commandLine returns the command line of a living process, or "".
func commandLine(ctx context.Context, pid int) string {
	out, err := exec.CommandContext(ctx, "ps", "-o", "args=", "-p", strconv.Itoa(pid)).Output() //nolint:gosec // a number
	if err != nil {
		return "" // no such process
	}
	return string(out)
}
