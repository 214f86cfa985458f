package limit_test

import "syscall"

// dieWithUs ends a server that a test which was killed could not end.
func dieWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
