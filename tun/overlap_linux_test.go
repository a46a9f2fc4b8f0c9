package tun

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestOverlap: routes and addresses of others are found, with what they lead through;
// default routes and our own interface's are none.
func TestOverlap(t *testing.T) {
	inNamespace(t)
	veth(t, "", "eth0", "eth1", 1500)
	for _, line := range []string{
		"link set lo up", "link set eth0 up", "link set eth1 up", "link add rs0 type bridge", "link set rs0 up",
		"address add 192.0.2.1/24 dev eth0", "route add default via 192.0.2.254", "route add 10.50.0.0/24 via 192.0.2.254",
		"route add 10.60.0.0/16 via 192.0.2.254 table 7", "address add 10.32.0.1/12 dev rs0", "address add 10.70.0.1/32 dev eth1",
	} {
		command(t, "ip", strings.Fields(line)...)
	}
	for prefix, want := range map[string]string{
		"10.32.0.0/12":   "",
		"10.99.0.0/16":   "",
		"10.48.0.0/13":   "route to 10.50.0.0/24 on eth0",
		"10.50.0.128/25": "route to 10.50.0.0/24 on eth0",
		"10.60.1.0/24":   "route to 10.60.0.0/16 on eth0",
		"10.70.0.0/16":   "address 10.70.0.1 on eth1",
		"192.0.2.0/28":   "route to 192.0.2.0/24 on eth0",
		"fd12:3456::/64": "",
	} {
		got, err := Overlap(netip.MustParsePrefix(prefix), "rs0", "nosuch")
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", prefix, got, err, want)
		}
	}
}

// TestInterfaceAddrs: those of interfaces that are up, and no loopback's.
func TestInterfaceAddrs(t *testing.T) {
	inNamespace(t)
	for _, line := range []string{
		"link add eth0 type veth peer name eth1", "link set lo up", "link set eth0 up", "link set eth1 up", "link add down0 type bridge", "address add 198.51.100.1/24 dev down0",
		"address add 192.0.2.1/24 dev eth0", "address add 2001:db8::1/64 dev eth1 nodad", "address add 10.0.0.1/8 dev lo",
	} {
		command(t, "ip", strings.Fields(line)...)
	}
	got, err := InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	got = slices.DeleteFunc(got, func(a InterfaceAddr) bool { return a.Addr.IsLinkLocalUnicast() })
	want := []InterfaceAddr{{"eth0", netip.MustParseAddr("192.0.2.1")}, {"eth1", netip.MustParseAddr("2001:db8::1")}}
	slices.SortFunc(got, func(a, b InterfaceAddr) int { return strings.Compare(a.Interface, b.Interface) })
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
