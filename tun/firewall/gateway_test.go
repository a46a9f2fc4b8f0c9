package firewall

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/tun/netns"
)

// behind is a namespace that the host reaches by another interface than the bridge, and
// that knows a way to the containers.
func (l *lab) behind() *netns.NS {
	l.t.Helper()
	ns := newNS(l.t)
	address := func(name, address string) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	}
	l.in(l.host, func() error {
		la := netlink.NewLinkAttrs()
		la.Name = "w0"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: "w1", PeerNamespace: netlink.NsFd(ns.FD())}); err != nil {
			return err
		}
		if err := address("w0", "203.0.113.1/24"); err != nil {
			return err
		}
		if err := address(bridgeName, "10.32.0.254/24"); err != nil {
			return err
		}
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	})
	l.in(ns, func() error {
		if err := address("w1", "203.0.113.2/24"); err != nil {
			return err
		}
		return route("10.32.0.0/12", "203.0.113.1")
	})
	return ns
}

func route(to, by string) error {
	dst, err := netlink.ParseIPNet(to)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: netip.MustParseAddr(by).AsSlice()})
}

// bound is a socket for datagrams at a port, 0 for any, that does not wait long.
func (l *lab) bound(ns *netns.NS, port int) (s int) {
	l.t.Helper()
	l.in(ns, func() (err error) {
		if s, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		wait := unix.NsecToTimeval((300 * time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
			return err
		}
		return unix.Bind(s, &unix.SockaddrInet4{Port: port})
	})
	return s
}

// datagram sends one and says from whom it came; invalid: it did not come.
func (l *lab) datagram(from, to *netns.NS, at netip.Addr) (seen netip.Addr) {
	l.t.Helper()
	const port = 4000
	receiver, sender := l.bound(to, port), l.bound(from, 0)
	defer unix.Close(receiver)
	defer unix.Close(sender)
	if err := unix.Sendto(sender, []byte("hello"), 0, &unix.SockaddrInet4{Port: port, Addr: at.As4()}); err != nil {
		l.t.Fatal(err)
	}
	_, source, err := unix.Recvfrom(receiver, make([]byte, 100), 0)
	if s, ok := source.(*unix.SockaddrInet4); err == nil && ok {
		return netip.AddrFrom4(s.Addr)
	}
	return netip.Addr{}
}

// reach waits until datagrams get from one to the other: links and neighbours take a moment.
func (l *lab) reach(from, to *netns.NS, at netip.Addr) {
	l.t.Helper()
	for range 20 {
		if l.datagram(from, to, at).IsValid() {
			return
		}
	}
	l.t.Fatalf("%v is not reached", at)
}

// kernel changes the host's rules as somebody else does.
func (l *lab) kernel(change func(*nftables.Conn)) {
	l.t.Helper()
	l.in(l.host, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		change(c)
		return c.Flush()
	})
}

// TestGateway: what leaves the bridge from the network has the host's address, what stays
// inside its own; from outside nothing comes in. Flushed rules come back.
func TestGateway(t *testing.T) {
	l, table, c := guarded(t, 2)
	a, b := c[0], c[1]
	outside := l.behind()
	for _, x := range c {
		l.in(x.ns, func() error { return route("0.0.0.0/0", "10.32.0.254") })
	}
	world, host := netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("203.0.113.1")
	network := netip.MustParsePrefix("10.32.0.0/12")
	l.reach(a.ns, outside, world)
	l.reach(outside, b.ns, b.ip4)
	expect := func(what string, out, in netip.Addr) {
		t.Helper()
		if got := l.datagram(a.ns, outside, world); got != out {
			t.Errorf("%s: the world sees %v, want %v", what, got, out)
		}
		if got := l.datagram(outside, b.ns, b.ip4); got != in {
			t.Errorf("%s: a container sees %v of the world, want %v", what, got, in)
		}
		if got := l.datagram(a.ns, b.ns, b.ip4); got != a.ip4 {
			t.Errorf("%s: a container sees %v, want %v", what, got, a.ip4)
		}
	}
	present := func(want bool) {
		t.Helper()
		l.in(l.host, func() error {
			there, err := table.Present()
			if there != want {
				t.Errorf("present %v, want %v", there, want)
			}
			return err
		})
	}
	expect("no gateway", a.ip4, world)
	for range 2 {
		l.in(l.host, func() error { return table.SetGateway(network, 6783) })
	}
	present(true)
	expect("a gateway", host, netip.Addr{})
	l.in(l.host, func() error { return table.SetGateway(netip.MustParsePrefix("10.64.0.0/12"), 6783) })
	expect("a gateway of another network", a.ip4, world)
	l.in(l.host, func() error { return table.SetGateway(network, 6783) })

	leaving := &nftables.Chain{Name: chainLeaving, Table: table.gatewayTable()}
	prerouting := &nftables.Chain{Name: chainBase, Table: table.table}
	for _, spoil := range []func(*nftables.Conn){
		func(c *nftables.Conn) { c.DelTable(table.gatewayTable()) },
		func(c *nftables.Conn) { c.FlushTable(table.gatewayTable()) },
		func(c *nftables.Conn) { c.FlushChain(leaving) },
		func(c *nftables.Conn) { c.FlushChain(prerouting) },
	} {
		l.kernel(spoil)
		present(false)
		l.in(l.host, table.Ensure)
		present(true)
	}
	expect("flushed and mended", host, netip.Addr{})

	// What failed is tried again.
	l.in(l.host, func() error { return table.SetGateway(netip.Prefix{}, 0) })
	l.kernel(func(c *nftables.Conn) {
		c.AddTable(table.gatewayTable())
		c.AddChain(&nftables.Chain{Name: chainLeaving, Table: table.gatewayTable(), Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	})
	l.in(l.host, func() error {
		if err := table.SetGateway(network, 6783); err == nil {
			t.Error("a chain of another kind became the gateway's")
		}
		return nil
	})
	present(false)
	l.kernel(func(c *nftables.Conn) { c.DelTable(table.gatewayTable()) })
	l.in(l.host, table.Ensure)
	present(true)
	expect("failed and mended", host, netip.Addr{})

	// What is inside does not leave, though the host has a way for it.
	l.in(l.host, func() error { return route("10.33.0.0/16", "203.0.113.2") })
	l.in(outside, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		inside, err := netlink.ParseAddr("10.33.0.1/32")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, inside)
	})
	if got := l.datagram(a.ns, outside, netip.MustParseAddr("10.33.0.1")); got.IsValid() {
		t.Errorf("an address of the network is reached outside, as %v", got)
	}

	if err := table.SetGateway(netip.MustParsePrefix("fd00::/64"), 6783); err == nil {
		t.Error("a network of IPv6 was taken")
	}
	for range 2 {
		l.in(l.host, func() error { return table.SetGateway(netip.Prefix{}, 6783) })
	}
	present(true)
	expect("no gateway any more", a.ip4, world)
}

// TestGatewaySparesTheDaemonsPort: a container that sends from the daemon's port to a peer's
// gets another, and so neither the peer's datagrams nor the port that the daemon's own have.
func TestGatewaySparesTheDaemonsPort(t *testing.T) {
	for _, port := range []int{6783, 50000} {
		l, table, c := guarded(t, 1)
		outside := l.behind()
		l.in(c[0].ns, func() error { return route("0.0.0.0/0", "10.32.0.254") })
		l.reach(c[0].ns, outside, netip.MustParseAddr("203.0.113.2"))
		l.in(l.host, func() error { return table.SetGateway(netip.MustParsePrefix("10.32.0.0/12"), uint16(port)) })
		peer, host := unix.SockaddrInet4{Port: port, Addr: [4]byte{203, 0, 113, 2}}, unix.SockaddrInet4{Port: port, Addr: [4]byte{203, 0, 113, 1}}
		remote, thief, daemon := l.bound(outside, port), l.bound(c[0].ns, port), l.bound(l.host, port)
		defer func() {
			for _, s := range []int{remote, thief, daemon} {
				unix.Close(s)
			}
		}()
		send := func(s int, to unix.SockaddrInet4) {
			t.Helper()
			if err := unix.Sendto(s, []byte("hello"), 0, &to); err != nil {
				t.Fatal(err)
			}
		}
		from := func(s int) (port int) {
			_, source, _ := unix.Recvfrom(s, make([]byte, 100), 0)
			if s, ok := source.(*unix.SockaddrInet4); ok {
				port = s.Port
			}
			return port
		}
		send(thief, peer)
		if got := from(remote); got == port || got == 0 {
			t.Errorf("the container's datagram comes from port %d", got)
		}
		send(remote, host)
		if got := from(daemon); got != port {
			t.Errorf("the peer's datagram came from port %d, want %d", got, port)
		}
		send(daemon, peer)
		if got := from(remote); got != port {
			t.Errorf("the daemon's datagram comes from port %d, want %d", got, port)
		}
		send(thief, peer)
		if got := from(remote); got == port || got == 0 {
			t.Errorf("the container's second datagram comes from port %d", got)
		}
	}
}

// TestGatewayLetsOutNoOtherSource: what connection tracking makes nothing of, and so is not
// masqueraded, stays inside.
func TestGatewayLetsOutNoOtherSource(t *testing.T) {
	l, table, c := guarded(t, 1)
	a, outside, world := c[0], l.behind(), netip.MustParseAddr("203.0.113.2")
	l.in(a.ns, func() error { return route("0.0.0.0/0", "10.32.0.254") })
	l.reach(a.ns, outside, world)
	var host [6]byte
	l.in(l.host, func() error {
		link, err := netlink.LinkByName(bridgeName)
		if err == nil {
			host = [6]byte(link.Attrs().HardwareAddr)
		}
		return err
	})
	tcp := func(flags byte) []byte {
		return []byte{16, 0, 16, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0}
	}
	for _, gateway := range []bool{false, true} {
		if gateway {
			l.in(l.host, func() error { return table.SetGateway(netip.MustParsePrefix("10.32.0.0/12"), 6783) })
		}
		for _, k := range []struct {
			name    string
			proto   byte
			payload []byte
		}{
			{"SYN with ACK", unix.IPPROTO_TCP, tcp(0x12)},
			{"RST", unix.IPPROTO_TCP, tcp(4)},
			{"answer to no echo", unix.IPPROTO_ICMP, []byte{0, 0, 0xff, 0xff, 0, 0, 0, 0}},
		} {
			var s int
			l.in(outside, func() (err error) {
				s, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(k.proto))
				return err
			})
			wait := unix.NsecToTimeval((300 * time.Millisecond).Nanoseconds())
			if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
				t.Fatal(err)
			}
			a.send(t, ether(host, a.mac, unix.ETH_P_IP, ipv4(a.ip4, world, k.proto, k.payload)))
			_, source, err := unix.Recvfrom(s, make([]byte, 100), 0)
			unix.Close(s)
			if out := err == nil; out == gateway {
				t.Errorf("%s, gateway %v: out %v, from %+v", k.name, gateway, out, source)
			}
		}
	}
}
