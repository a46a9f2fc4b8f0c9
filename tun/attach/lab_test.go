package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/tun"
	"ripstop/tun/firewall"
	"ripstop/tun/netns"
	"ripstop/tun/tuntest"
)

const bridgeName = "br0"

// lab is a host, in a namespace of its own, with a bridge.
type lab struct {
	t    testing.TB
	host *netns.NS
	dir  string // of named namespaces
	fw   *firewall.Table
}

func newLab(t testing.TB) *lab {
	t.Helper()
	tuntest.NeedRoot(t)
	ns, err := netns.NewAnonymous()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	l := &lab{t: t, host: ns, dir: t.TempDir()}
	if l.fw, err = firewall.New(bridgeName); err != nil {
		t.Fatal(err)
	}
	l.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = bridgeName
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		// As tun.SetUpBridge has it.
		if err := netlink.LinkSetHardwareAddr(bridge, []byte{2, 0, 0, 0, 0, 0xbb}); err != nil {
			return err
		}
		if err := netlink.LinkSetMTU(bridge, tun.MaxMTU); err != nil {
			return err
		}
		if err := netlink.LinkSetIP6AddrGenMode(bridge, 1); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(bridge); err != nil {
			return err
		}
		return l.fw.Ensure()
	})
	return l
}

// do runs fn on the host and fails the test on an error.
func (l *lab) do(fn func() error) {
	l.t.Helper()
	if err := l.host.Do(fn); err != nil {
		l.t.Fatal(err)
	}
}

// try runs fn on the host and returns its error.
func (l *lab) try(fn func() error) error { return l.host.Do(fn) }

// plan makes a namespace and returns the plan of its attachment, number n.
func (l *lab) plan(n byte) (Plan, *netns.NS) {
	l.t.Helper()
	name := fmt.Sprintf("c%d", n)
	ns, err := netns.NewNamed(l.dir, name)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		ns.Close()
		if err := netns.Delete(l.dir, name); err != nil {
			l.t.Error(err)
		}
	})
	dev, inode := ns.ID()
	return Plan{
		Netns: filepath.Join(l.dir, name), NetnsDev: dev, NetnsInode: inode,
		Interface: "rip0", HostInterface: fmt.Sprintf("%s%02x", HostPrefix, n),
		MAC:       [6]byte{2, 0, 0, 0, 0, n},
		Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 32, 0, n}), 24), netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: n}), 64)},
		Routes:    []netip.Prefix{netip.MustParsePrefix("10.40.0.0/16"), netip.MustParsePrefix("fd40::/64")},
	}, ns
}

func (p Plan) rule() firewall.PortRule {
	r := firewall.PortRule{Port: p.HostInterface, MAC: p.MAC}
	for _, a := range p.Addresses {
		r.Addresses = append(r.Addresses, a.Addr())
	}
	return r
}

// attach does all of it.
func (l *lab) attach(p Plan) {
	l.t.Helper()
	l.do(func() error { return Plug(context.Background(), p) })
	l.do(func() error { return EnslavePort(bridgeName, p.HostInterface, p.MAC, l.fw, p.rule()) })
	l.do(func() error { return Announce(p) })
}

// state is what is in a namespace, as text: links, addresses, routes, fixed MACs.
func state(t testing.TB, ns *netns.NS) string {
	t.Helper()
	var lines []string
	err := ns.Do(func() error {
		links, err := dump(netlink.LinkList)
		if err != nil {
			return err
		}
		for _, link := range links {
			a := link.Attrs()
			lines = append(lines, fmt.Sprintf("link %s mtu %d mac %s alias %q master %d flags %s", a.Name, a.MTU, a.HardwareAddr, a.Alias, a.MasterIndex,
				a.Flags&^net.FlagRunning)) // which follows some time later
			addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
			if err != nil {
				return err
			}
			for _, addr := range addrs {
				lines = append(lines, fmt.Sprintf("addr %s %s flags %x", a.Name, addr.IPNet, addr.Flags))
			}
			fdb, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(a.Index, unix.AF_BRIDGE) })
			if err != nil {
				return err
			}
			for _, e := range fdb {
				if e.State == netlink.NUD_NOARP {
					lines = append(lines, fmt.Sprintf("fdb %s %s flags %x", a.Name, e.HardwareAddr, e.Flags))
				}
			}
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
			if err != nil {
				return err
			}
			for _, r := range routes {
				lines = append(lines, fmt.Sprintf("route %s link %d src %s mtu %d proto %d", r.Dst, r.LinkIndex, r.Src, r.MTU, r.Protocol))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// udp opens a socket on an address in a namespace.
func udp(t testing.TB, ns *netns.NS, addr netip.Addr) int {
	t.Helper()
	var s int
	err := ns.Do(func() (err error) {
		family, sa := unix.AF_INET, sockaddr(addr)
		if addr.Is6() {
			family = unix.AF_INET6
		}
		if s, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3}); err != nil {
			return err
		}
		return unix.Bind(s, sa)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const testPort = 4000

func sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: testPort, Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: testPort, Addr: a.As16()}
}

// talk sends a datagram from one address to another and waits for it.
func talk(t testing.TB, from *netns.NS, src netip.Addr, to *netns.NS, dst netip.Addr, size int) error {
	t.Helper()
	a, b := udp(t, from, src), udp(t, to, dst)
	if err := unix.Sendto(a, make([]byte, size), 0, sockaddr(dst)); err != nil {
		return fmt.Errorf("send %s to %s: %w", src, dst, err)
	}
	buf := make([]byte, size+1)
	n, _, err := unix.Recvfrom(b, buf, 0)
	unix.Close(a)
	unix.Close(b)
	if err != nil || n != size {
		return fmt.Errorf("%s to %s: %d bytes of %d arrived: %w", src, dst, n, size, errors.Join(err))
	}
	return nil
}
