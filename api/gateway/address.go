package gateway

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// proxies are the networks whose proxies stand before the gateway and are
// believed when they say for whom they ask.
type proxies []netip.Prefix

// trusts reports whether an address is one of the proxies'.
func (p proxies) trusts(address netip.Addr) bool {
	return slices.ContainsFunc(p, func(network netip.Prefix) bool { return network.Contains(address) })
}

// client returns the address of the client: the peer's, or what the proxies say in
// X-Forwarded-For. Each proxy appends whom it heard from, so the list is read from
// the right, for as long as whoever wrote an entry is trusted: the first that is
// not a proxy's is the client's, and everything left of it may be made up. Where an
// entry cannot be read, the proxy that wrote it is as far as we know. Nothing else
// is believed: Forwarded, X-Real-IP and the like pass through proxies that do not
// know them as the client made them up. The zero address: the peer has none.
func (p proxies) client(peer string, forwarded []string) netip.Addr {
	client := parseAddress(peer)
	for _, line := range slices.Backward(forwarded) {
		for rest, more := line, true; more; {
			if !client.IsValid() || !p.trusts(client) {
				return client
			}
			var entry string
			if at := strings.LastIndexByte(rest, ','); at >= 0 {
				rest, entry = rest[:at], rest[at+1:]
			} else {
				entry, more = rest, false
			}
			next := parseAddress(strings.TrimSpace(entry))
			if !next.IsValid() {
				return client
			}
			client = next
		}
	}
	return client
}

// parseAddress reads an address, which may have a port, and then brackets around
// IPv6. The zero address is none.
func parseAddress(text string) netip.Addr {
	address, err := netip.ParseAddr(text)
	if err != nil {
		withPort, err := netip.ParseAddrPort(text)
		if err != nil {
			return netip.Addr{}
		}
		address = withPort.Addr()
	}
	return address.Unmap().WithZone("")
}

// household is whom an address is counted as: itself, or its /64 in IPv6, all of
// which one customer of a provider has.
func household(address netip.Addr) string {
	if address.Is6() {
		network, err := address.Prefix(64)
		if err == nil {
			return network.String()
		}
	}
	return address.String()
}

// unspoken are headers by which others would say who the client is. Backends learn
// what was decided here, in X-Forwarded-For, and nothing of what the client said.
var unspoken = []string{
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Forwarded-Server", "X-Real-Ip",
	"X-Client-Ip", "X-Cluster-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip",
}

// decided returns the request as if its client had come without proxies: its
// address is RemoteAddr, and no header says otherwise. Everything behind reads
// only that.
func (p proxies) decided(r *http.Request) *http.Request {
	client := p.client(r.RemoteAddr, r.Header["X-Forwarded-For"])
	out := r.WithContext(r.Context())
	if client.IsValid() {
		out.RemoteAddr = netip.AddrPortFrom(client, 0).String()
	}
	if slices.ContainsFunc(unspoken, func(name string) bool { return len(r.Header[name]) > 0 }) {
		out.Header = r.Header.Clone()
		for _, name := range unspoken {
			delete(out.Header, name)
		}
	}
	return out
}
