package rpc

import (
	"net"
	"net/netip"
	"sync"
)

// share is the part of a process's connections that one peer may have, so that
// nobody takes them all.
const share = 4

// bounded is a listener that closes at once what is more than it may hold. A client
// that waits for its turn in silence, as behind a listener that stops accepting,
// learns nothing; one that is cut tries another replica.
type bounded struct {
	net.Listener
	most    int
	trusted func(netip.Addr) bool // peers that speak for many, may have all; nil for none

	mu     sync.Mutex
	open   int
	byPeer map[netip.Prefix]int
}

func bound(listener net.Listener, most int, trusted func(netip.Addr) bool) net.Listener {
	return &bounded{Listener: listener, most: most, trusted: trusted, byPeer: make(map[netip.Prefix]int)}
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		connection, err := b.Listener.Accept()
		if err != nil {
			return nil, err //nolint:wrapcheck // the HTTP server reads it as it is
		}
		peer, counted := b.peer(connection)
		if b.take(peer, counted) {
			return &held{Conn: connection, release: sync.OnceFunc(func() { b.release(peer) })}, nil
		}
		if tcp, ok := connection.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // nothing of it stays in the kernel
		}
		_ = connection.Close() // it was never used
	}
}

// peer returns the network that a connection is counted with: the address, or its
// /64 in IPv6; and whether its share is bounded.
func (b *bounded) peer(connection net.Conn) (network netip.Prefix, counted bool) {
	from, err := netip.ParseAddrPort(connection.RemoteAddr().String())
	if err != nil {
		return netip.Prefix{}, false
	}
	address, bits := from.Addr().Unmap().WithZone(""), 32
	if address.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(address, bits).Masked(), b.trusted == nil || !b.trusted(address)
}

func (b *bounded) take(peer netip.Prefix, counted bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open >= b.most || counted && b.byPeer[peer] >= max(b.most/share, 1) {
		return false
	}
	b.open++
	b.byPeer[peer]++
	return true
}

func (b *bounded) release(peer netip.Prefix) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open--
	if b.byPeer[peer]--; b.byPeer[peer] == 0 {
		delete(b.byPeer, peer)
	}
}

// held is a connection that gives its place back when it is closed.
type held struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (h *held) Close() error {
	h.release()
	return h.Conn.Close() //nolint:wrapcheck // as above
}
