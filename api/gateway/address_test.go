package gateway

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

func TestClientAddress(t *testing.T) {
	t.Parallel()
	trusted := proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/48")}
	for name, test := range map[string]struct {
		peer      string
		forwarded []string
		want      string
	}{
		"no proxy":                        {"192.0.2.1:5000", nil, "192.0.2.1"},
		"a client that lies":              {"192.0.2.1:5000", []string{"10.0.0.1"}, "192.0.2.1"},
		"a proxy that says nothing":       {"10.0.0.1:5000", nil, "10.0.0.1"},
		"one proxy":                       {"10.0.0.1:5000", []string{"192.0.2.1"}, "192.0.2.1"},
		"two proxies":                     {"10.0.0.1:5000", []string{"192.0.2.1, 10.0.0.2"}, "192.0.2.1"},
		"two proxies, two lines":          {"10.0.0.1:5000", []string{"192.0.2.1", "10.0.0.2"}, "192.0.2.1"},
		"a lie through a proxy":           {"10.0.0.1:5000", []string{"198.51.100.7, 192.0.2.1"}, "192.0.2.1"},
		"a lie in a line of its own":      {"10.0.0.1:5000", []string{"198.51.100.7", "192.0.2.1"}, "192.0.2.1"},
		"a lie that names a proxy":        {"10.0.0.1:5000", []string{"10.0.0.9, 192.0.2.1"}, "192.0.2.1"},
		"only proxies":                    {"10.0.0.1:5000", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		"garbage":                         {"10.0.0.1:5000", []string{"unknown"}, "10.0.0.1"},
		"garbage behind a proxy":          {"10.0.0.1:5000", []string{"192.0.2.1, x, 10.0.0.2"}, "10.0.0.2"},
		"empty entries":                   {"10.0.0.1:5000", []string{"192.0.2.1,,"}, "10.0.0.1"},
		"a port":                          {"10.0.0.1:5000", []string{"192.0.2.1:4711"}, "192.0.2.1"},
		"IPv6 with a port":                {"10.0.0.1:5000", []string{"[2001:db8::7]:4711"}, "2001:db8::7"},
		"IPv6 proxy":                      {"[2001:db8:1::1]:5000", []string{"2001:db8::7"}, "2001:db8::7"},
		"IPv4 in IPv6 is IPv4":            {"[::ffff:10.0.0.1]:5000", []string{"::ffff:192.0.2.1"}, "192.0.2.1"},
		"a zone is the machine's own":     {"[fe80::1%eth0]:5000", nil, "fe80::1"},
		"no address at all":               {"@", []string{"192.0.2.1"}, "invalid IP"},
		"quotes as Forwarded has them":    {"10.0.0.1:5000", []string{`"192.0.2.1"`}, "10.0.0.1"},
		"an entry of another kind":        {"10.0.0.1:5000", []string{"for=192.0.2.1"}, "10.0.0.1"},
		"a number that is not an address": {"10.0.0.1:5000", []string{"3221225985"}, "10.0.0.1"},
	} {
		if got := trusted.client(test.peer, test.forwarded); got.String() != test.want {
			t.Errorf("%s: got %s, want %s", name, got, test.want)
		}
	}
}

func TestHouseholds(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::/64", "2001:db8::ffff:1": "2001:db8::/64", "2001:db8:0:1::1": "2001:db8:0:1::/64",
	} {
		if got := household(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is counted as %s, not %s", address, got, want)
		}
	}
}

func TestWhatAClientSaysOfItselfGoesNoFurther(t *testing.T) {
	t.Parallel()
	r := &http.Request{RemoteAddr: "10.0.0.1:5000", Header: http.Header{"X-Forwarded-For": {"192.0.2.1"}, "Accept": {"x"}}}
	for _, name := range unspoken {
		r.Header[name] = append(r.Header[name], "198.51.100.7, 192.0.2.1")
	}
	got := proxies{netip.MustParsePrefix("10.0.0.0/8")}.decided(r)
	if got.RemoteAddr != "192.0.2.1:0" || len(got.Header) != 1 || got.Header.Get("Accept") != "x" {
		t.Errorf("got %s %v", got.RemoteAddr, got.Header)
	}
	if len(r.Header) != len(unspoken)+1 {
		t.Error("the request itself was changed")
	}
	for _, name := range unspoken {
		if http.CanonicalHeaderKey(name) != name {
			t.Errorf("%s is not found in a header", name)
		}
	}
}

func FuzzClientAddress(f *testing.F) {
	f.Add("10.0.0.1:5000", "192.0.2.1, 10.0.0.2", "198.51.100.7")
	f.Add("192.0.2.1:5000", "10.0.0.1,,", "[::1]:x")
	f.Add("[::1%lo]:1", "::ffff:10.0.0.1", "fe80::1%25")
	trusted := proxies{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, peer, first, second string) {
		got := trusted.client(peer, []string{first, second})
		from := parseAddress(peer)
		if !trusted.trusts(from) && got != from {
			t.Errorf("a stranger at %q is believed: %v", peer, got)
		}
		// Whatever stands to the left of an address that is no proxy's changes nothing.
		if got.IsValid() && !trusted.trusts(got) && strings.HasSuffix(second, ", 192.0.2.1") && from != got && got.String() != "192.0.2.1" {
			t.Errorf("%q, %q makes %v", first, second, got)
		}
		if got.Is4In6() || got.Zone() != "" {
			t.Errorf("%v is another spelling", got)
		}
	})
}
