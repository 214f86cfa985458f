//go:build !linux

package limit_test

import "syscall"

// dieWithUs has no counterpart outside Linux.
func dieWithUs() *syscall.SysProcAttr { return nil }
