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
// connection. They come in blocks, and a process uses only blocks it has claimed,
// so neither the system nor another process takes a port between this check and
// the server's start.
const (
	firstBlock = 20000
	blockSize  = 100
	blocks     = 120
)

// own is what this process has claimed.
var own struct {
	sync.Mutex
	locks map[int]net.Listener // on each block's first port; the system closes them with the process
	first int                  // of the block that free ports come from, 0 before there is one
	last  int                  // the port given out last
}

// Listen opens a port; 0 opens any.
func Listen(ctx context.Context, port int) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", HostPort(port))
}

// Port returns the given port if it is free, and a free one for 0. It does not
// give out the same one again soon. Errors: somebody listens on the port, or
// another process may be about to; none is free.
func Port(ctx context.Context, port int) (int, error) {
	own.Lock()
	defer own.Unlock()
	if port != 0 {
		return port, take(ctx, port)
	}
	start := rand.IntN(blocks) //nolint:gosec // any will do
	for i := 0; own.first == 0; i++ {
		if i == blocks {
			return 0, errors.New("all blocks of ports are taken")
		}
		_ = claim(ctx, firstBlock+(start+i)%blocks*blockSize) // where it fails, another process has the block
	}
	for range blockSize - 1 {
		own.last = own.first + (own.last-own.first)%(blockSize-1) + 1
		if try(ctx, own.last) == nil {
			return own.last, nil
		}
	}
	return 0, fmt.Errorf("all ports from %d to %d are taken", own.first, own.first+blockSize-1)
}

// take checks a port that the caller had before, in this process or in an earlier
// one. In a block it is this process's only with the block.
func take(ctx context.Context, port int) error {
	if first := port - (port-firstBlock)%blockSize; firstBlock <= first && first < firstBlock+blocks*blockSize {
		if err := claim(ctx, first); err != nil {
			return err
		}
		if first == own.first {
			own.last = max(own.last, port) // free ones come after it
		}
	}
	return try(ctx, port)
}

// claim takes a block for as long as the process lives.
func claim(ctx context.Context, first int) error {
	if own.locks[first] != nil {
		return nil
	}
	lock, err := Listen(ctx, first)
	if err != nil {
		return err
	}
	if own.locks == nil {
		own.locks = make(map[int]net.Listener)
	}
	own.locks[first] = lock
	if own.first == 0 {
		own.first, own.last = first, first
	}
	return nil
}

func try(ctx context.Context, port int) error {
	l, err := Listen(ctx, port)
	if err != nil {
		return err
	}
	return l.Close()
}
