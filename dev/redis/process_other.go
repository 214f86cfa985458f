//go:build unix && !linux

package redis

import "syscall"

// procAttr gives a program its own process group, so that a Ctrl-C in the
// terminal does not reach it before the programs that use it have drained.
// There is no death signal here: what a killed process leaves running is
// stopped at the next start.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
