package transporttest

import (
	"net/netip"
	"testing"

	"ripstop/transport"
)

func TestConformance(t *testing.T) {
	for _, family := range []struct {
		name   string
		first  string
		second string
	}{
		{"IPv4", "10.0.0.1", "10.0.1.0"},
		{"IPv6", "2001:db8::1:0", "2001:db8::2:0"},
	} {
		t.Run(family.name, func(t *testing.T) {
			n := NewNetwork(Config{MTU: 1500})
			defer n.Close()
			addr := netip.MustParseAddr(family.first)
			second := netip.MustParseAddr(family.second)
			Conformance(t, Kit{
				Open: func(t *testing.T) (transport.Socket, netip.AddrPort) {
					s, err := n.Socket(netip.AddrPortFrom(addr, 0), second)
					if err != nil {
						t.Fatal(err)
					}
					return s, s.AddrPort()
				},
				Second:        second,
				MTU:           1500,
				NoBufferSizes: true,
			})
		})
	}
}
