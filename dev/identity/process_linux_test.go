package identity_test

import "syscall"

// processGroup puts a program into a group of its own, and ends it with this one.
func processGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
