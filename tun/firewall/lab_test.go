package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/tun/netns"
	"ripstop/tun/tuntest"
)

const bridgeName = "br0"

// lab is a host with a bridge, in a namespace of its own, and its containers.
type lab struct {
	t    testing.TB
	host *netns.NS
}

// container is a namespace with one interface, eth0, whose other end is the port.
type container struct {
	ns   *netns.NS
	port string
	mac  [6]byte
	ip4  netip.Addr
	ip6  netip.Addr
	sock int // a packet socket on eth0
}

func newLab(t testing.TB) *lab {
	t.Helper()
	tuntest.NeedRoot(t)
	l := &lab{t: t, host: newNS(t)}
	l.in(l.host, func() error {
		la := netlink.NewLinkAttrs()
		la.Name = bridgeName
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: la}); err != nil {
			return err
		}
		// br_netfilter would cut what stands behind the packet, where the tests put
		// their marks.
		for _, f := range []string{"iptables", "ip6tables", "arptables"} {
			err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+f, []byte("0"), 0)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return up(bridgeName)
	})
	return l
}

func newNS(t testing.TB) *netns.NS {
	t.Helper()
	ns, err := netns.NewAnonymous()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// in runs fn in a namespace and fails the test on an error.
func (l *lab) in(ns *netns.NS, fn func() error) {
	l.t.Helper()
	if err := ns.Do(fn); err != nil {
		l.t.Fatal(err)
	}
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

// container makes container number n (1 to 250): 10.32.0.n, fd00::n, MAC 02:…:n.
func (l *lab) container(n byte) *container {
	l.t.Helper()
	c := &container{
		ns: newNS(l.t), port: fmt.Sprintf("p%d", n),
		mac: [6]byte{2, 0, 0, 0, 0, n},
		ip4: netip.AddrFrom4([4]byte{10, 32, 0, n}),
		ip6: netip.AddrFrom16([16]byte{0: 0xfd, 15: n}),
	}
	l.in(l.host, func() error {
		la := netlink.NewLinkAttrs()
		la.Name = c.port
		bridge, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		la.MasterIndex = bridge.Attrs().Index
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: la, PeerName: "eth0", PeerNamespace: netlink.NsFd(c.ns.FD()), PeerHardwareAddr: c.mac[:],
		})
	})
	l.in(l.host, func() error { return up(c.port) })
	l.in(c.ns, func() error {
		// No duplicate detection, no solicitation of routers: only our frames.
		for _, s := range []string{"accept_dad", "router_solicitations"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/eth0/"+s, []byte("0"), 0); err != nil {
				return err
			}
		}
		if err := up("eth0"); err != nil {
			return err
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, p := range []netip.Prefix{netip.PrefixFrom(c.ip4, 24), netip.PrefixFrom(c.ip6, 64)} {
			n := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: n, Flags: unix.IFA_F_NODAD}); err != nil {
				return err
			}
		}
		c.sock, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(c.sock, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(c.sock, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
			return err
		}
		return unix.Bind(c.sock, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: link.Attrs().Index})
	})
	l.t.Cleanup(func() { unix.Close(c.sock) })
	return c
}

func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// rule is the port rule that a container gets.
func (c *container) rule() PortRule {
	return PortRule{Port: c.port, MAC: c.mac, Addresses: []netip.Addr{c.ip4, c.ip6}}
}

func (c *container) send(t testing.TB, frame []byte) {
	t.Helper()
	if _, err := unix.Write(c.sock, frame); err != nil {
		t.Fatalf("send: %v", err)
	}
}

// Marks stand behind the packet, at the end of the frame.
var (
	markTest = []byte("~~test~~")
	markEnd  = []byte("~~last~~")
)

// received reads what came until the frame marked as the last and returns how many
// were marked as test frames.
func (c *container) received(t testing.TB) (n int) {
	t.Helper()
	buf := make([]byte, 4096)
	for {
		size, err := unix.Read(c.sock, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("the last frame did not come: %v", err)
		}
		switch frame := buf[:size]; {
		case bytes.HasSuffix(frame, markTest):
			n++
		case bytes.HasSuffix(frame, markEnd):
			return n
		}
	}
}

// trial sends count frames from one container and returns how many reached another.
func trial(t testing.TB, from, to *container, frame []byte, count int) int {
	t.Helper()
	marked := append(bytes.Clone(frame), markTest...)
	for range count {
		from.send(t, marked)
	}
	from.send(t, append(ether(to.mac, from.mac, 0x88b5, make([]byte, 50)), markEnd...))
	return to.received(t)
}

// neighbours is a container's neighbour table as text.
func (l *lab) neighbours(c *container) string {
	l.t.Helper()
	var lines []string
	l.in(c.ns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			entries, err := netlink.NeighList(link.Attrs().Index, family)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if !e.IP.IsMulticast() {
					lines = append(lines, fmt.Sprintf("%s=%s", e.IP, e.HardwareAddr))
				}
			}
		}
		return nil
	})
	sort.Strings(lines)
	return strings.Join(lines, " ")
}

// setNeighbour puts an entry into a container's table that the kernel may overwrite.
func (l *lab) setNeighbour(c *container, ip netip.Addr, mac [6]byte) {
	l.t.Helper()
	l.in(c.ns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_STALE, IP: ip.AsSlice(), HardwareAddr: mac[:],
		})
	})
}
