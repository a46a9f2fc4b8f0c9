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

// offloads are the ways to open a LinuxBind. Batches of 16, so that trains span several.
var offloads = []struct {
	name string
	cfg  transport.BindConfig
}{
	{"both", transport.BindConfig{Batch: 16}},
	{"no segmentation", transport.BindConfig{Batch: 16, NoSegmentation: true}},
	{"no gathering", transport.BindConfig{Batch: 16, NoGathering: true}},
	{"neither, one at a time", transport.BindConfig{Batch: 1, NoSegmentation: true, NoGathering: true}},
}

func TestLinuxBindConformance(t *testing.T) {
	for _, family := range families {
		for _, offload := range offloads {
			t.Run(family.name+"/"+offload.name, func(t *testing.T) {
				ns := newNamespace(t, 1500)
				transporttest.Conformance(t, transporttest.Kit{
					Open:   ns.opener(family.first, func() (transport.Socket, error) { return transport.Bind(offload.cfg) }),
					Second: netip.MustParseAddr(family.second),
					MTU:    1500,
				})
			})
		}
	}
}

// TestLinuxBindDevice is the suite over a device between two namespaces, whose offloads
// differ: what it can't do the kernel does, or refuses.
func TestLinuxBindDevice(t *testing.T) {
	for _, device := range []struct {
		name string
		off  []uint32 // ethtool's settings that are turned off at both ends
	}{
		{"offloads as they are", nil},
		{"no checksum offload", []uint32{ethtoolSetTxChecksum}},
		{"no segmentation offload", []uint32{ethtoolSetGSO}},
		{"none", []uint32{ethtoolSetTxChecksum, ethtoolSetScatterGather, ethtoolSetGSO}},
	} {
		for i, family := range families {
			t.Run(device.name+"/"+family.name, func(t *testing.T) {
				left, right := newNamespace(t, 1500), newNamespace(t, 1500)
				join(left, right, device.off)
				next := 0
				addrs := [][2]string{{"10.40.0.1", "10.40.0.2"}, {"fd00:40::1", "fd00:40::2"}}[i]
				open := func() (transport.Socket, error) { return transport.Bind(transport.BindConfig{}) }
				transporttest.Conformance(t, transporttest.Kit{
					// The first socket of a test is at the left end, the others at the right.
					Open: func(t *testing.T) (transport.Socket, netip.AddrPort) {
						ns, addr := left, addrs[0]
						if next > 0 {
							ns, addr = right, addrs[1]
						}
						if next++; next == 1 {
							t.Cleanup(func() { next = 0 })
						}
						return ns.opener(addr, open)(t)
					},
					MTU: 1500,
				})
			})
		}
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
