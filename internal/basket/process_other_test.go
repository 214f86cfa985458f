//go:build !linux

package basket_test

import "syscall"

// dieWithUs has no counterpart outside Linux.
func dieWithUs() *syscall.SysProcAttr { return nil }
