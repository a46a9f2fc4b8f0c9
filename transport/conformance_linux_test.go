package transport_test

import (
	"net/netip"
	"testing"

	"ripstop/transport"
	"ripstop/transport/transporttest"
)

// families are the addresses of newNamespace.
var families = []struct{ name, first, second string }{
	{"IPv4", "10.9.0.1", "10.9.0.2"},
	{"IPv6", "fd00:9::1", "fd00:9::2"},
}

func TestLinuxBindConformance(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			ns := newNamespace(t, 1500)
			transporttest.Conformance(t, transporttest.Kit{
				Open:   ns.opener(family.first, func() (transport.Socket, error) { return transport.Bind(transport.BindConfig{Batch: 16}) }),
				Second: netip.MustParseAddr(family.second),
				MTU:    1500,
			})
		})
	}
}

// TestLinuxBindLoopback is the part of the suite that needs no privilege.
func TestLinuxBindLoopback(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		t.Run(addr, func(t *testing.T) {
			kit := transporttest.Kit{Open: func(t *testing.T) (transport.Socket, netip.AddrPort) {
				s := bind(t, transport.BindConfig{Addresses: []netip.Addr{netip.MustParseAddr(addr)}})
				return s, netip.AddrPortFrom(netip.MustParseAddr(addr), s.Port())
			}}
			transporttest.Conformance(t, kit)
		})
	}
}

func TestStdSocketConformance(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			ns := newNamespace(t, 1500)
			transporttest.Conformance(t, transporttest.Kit{
				Open:          ns.opener(family.first, func() (transport.Socket, error) { return transport.StdSocket(0) }),
				NoDF:          true,
				NoLocal:       true,
				NoBufferSizes: true,
			})
		})
	}
}

// opener makes sockets in the namespace, reached at addr.
func (ns *namespace) opener(addr string, open func() (transport.Socket, error)) func(t *testing.T) (transport.Socket, netip.AddrPort) {
	return func(t *testing.T) (transport.Socket, netip.AddrPort) {
		var s transport.Socket
		var err error
		ns.do(func() { s, err = open() })
		if err != nil {
			t.Fatal(err)
		}
		return s, netip.AddrPortFrom(netip.MustParseAddr(addr), s.Port())
	}
}

// bind opens a LinuxBind that ends with the test.
func bind(t testing.TB, cfg transport.BindConfig) *transport.LinuxBind {
	t.Helper()
	b, err := transport.Bind(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}
