package redis

import "syscall"

// procAttr makes a program end by itself when the thread that started it does.
// Its own process group keeps a Ctrl-C in the terminal from reaching it before
// the programs that use it have drained.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
}
