//go:build !linux

package identity_test

import "syscall"

// processGroup puts a program into a group of its own.
func processGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
