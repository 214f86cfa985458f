// Package loopback finds ports of this machine for servers that open their ports
// by themselves, such as PostgreSQL. Whoever can listen for itself should: a
// listener cannot be overtaken.
package loopback

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Host is the address that everything embedded listens on.
const Host = "127.0.0.1"

// HostPort returns the address of a port.
func HostPort(port int) string { return net.JoinHostPort(Host, strconv.Itoa(port)) }

// The ports that Port gives out are below those that operating systems give to
// whoever asks for any port (from 32768 on Linux, from 49152 elsewhere), or to a
// connection. They come in blocks, and a process uses its own block only, so
// neither the system nor another process takes a port between this check and the
// server's start.
const (
	firstBlock = 20000
	blockSize  = 100
	blocks     = 120
)

// own is this process's block.
var own struct {
	sync.Mutex
	first int          // its first port, 0 before the block is claimed
	lock  net.Listener // on the first port; the system closes it with the process
	next  int          // what to try next, counted from the first port
}

// Listen opens a port; 0 opens any.
func Listen(ctx context.Context, port int) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", HostPort(port))
}

// Port returns the given port if nobody listens on it, and a free one for 0. It
// does not give out the same one again soon. Errors: the port is taken; none is
// free.
func Port(ctx context.Context, port int) (int, error) {
	if port != 0 {
		return port, try(ctx, port)
	}
	own.Lock()
	defer own.Unlock()
	if own.first == 0 {
		if err := claim(ctx); err != nil {
			return 0, err
		}
	}
	for range blockSize - 1 {
		own.next = own.next%(blockSize-1) + 1
		if port := own.first + own.next; try(ctx, port) == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("all ports from %d to %d are taken", own.first, own.first+blockSize-1)
}

// claim takes a block for as long as the process lives.
func claim(ctx context.Context) error {
	start := rand.IntN(blocks) //nolint:gosec // any will do
	for i := range blocks {
		first := firstBlock + (start+i)%blocks*blockSize
		lock, err := Listen(ctx, first)
		if err == nil {
			own.first, own.lock = first, lock
			return nil
		}
	}
	return errors.New("all blocks of ports are taken")
}

func try(ctx context.Context, port int) error {
	l, err := Listen(ctx, port)
	if err != nil {
		return err
	}
	return l.Close()
}
