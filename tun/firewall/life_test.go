package firewall

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/tun/netns"
	"ripstop/tun/tuntest"
)

// elements is what the kernel's sets hold, read afresh.
func elements(t testing.TB, l *lab, table *Table) (have map[string]map[string]bool) {
	t.Helper()
	l.in(l.host, func() (err error) { have, err = table.readLocked(); return err })
	return have
}

func TestCostDoesNotGrowWithPorts(t *testing.T) {
	l, table, c := guarded(t, 2)
	rules, chains := ruleCount(t, l, table)
	l.in(l.host, func() error { return fill(table, 200) })
	if r, ch := ruleCount(t, l, table); r != rules || ch != chains {
		t.Errorf("200 ports: %d rules in %d chains, with 2 ports %d in %d", r, ch, rules, chains)
	}
	if n := len(elements(t, l, table)[setPorts]); n != 200 {
		t.Errorf("%d ports", n)
	}
	if n := trial(t, c[0], c[1], goodKinds(c[0], c[1])[0].frame, 10); n != 10 {
		t.Errorf("%d of 10 delivered", n)
	}
	if n := trial(t, c[0], c[1], forgedKinds(c[0], c[1], c[1])[0].frame, 10); n != 0 {
		t.Errorf("%d forged delivered", n)
	}
	t.Logf("%d rules in %d chains, whatever the ports", rules, chains)
}

// fill sets rules for ports up to n, besides the lab's first two containers.
func fill(table *Table, n int) error {
	for i := 3; i <= n; i++ {
		c := container{
			port: fmt.Sprintf("q%d", i), mac: [6]byte{2, 0, 0, 0, 1, byte(i)},
			ip4: netip.AddrFrom4([4]byte{10, 32, 1, byte(i)}),
			ip6: netip.AddrFrom16([16]byte{0: 0xfd, 14: 1, 15: byte(i)}),
		}
		if err := table.SetPort(c.rule()); err != nil {
			return err
		}
	}
	return nil
}

// TestRestart takes the rules over as a daemon does that was started again.
func TestRestart(t *testing.T) {
	l, first, c := guarded(t, 3)
	a, v, o := c[0], c[1], c[2]
	far := [6]byte{2, 5, 5, 5, 5, 5}
	r := a.rule()
	r.AllowAddresses = []netip.Prefix{netip.MustParsePrefix("10.32.9.0/24"), netip.MustParsePrefix("fd00::9:0/112")}
	r.AllowMACs = [][6]byte{{2, 7, 7, 7, 7, 7}}
	l.in(l.host, func() error { return first.SetPort(r) })
	l.in(l.host, func() error { return first.SetRemote([][6]byte{far}, nil) })
	forged := forgedKinds(a, v, o)[3].frame
	trial(t, a, v, forged, 5)
	before := elements(t, l, first)

	second, err := New(bridgeName)
	if err != nil {
		t.Fatal(err)
	}
	l.in(l.host, second.Ensure)
	l.in(l.host, second.Ensure)
	if after := elements(t, l, second); !reflect.DeepEqual(before, after) {
		t.Errorf("elements changed by Ensure:\n%v\n%v", before, after)
	}
	if n := trial(t, a, v, forged, 5); n != 0 {
		t.Errorf("%d forged frames delivered after the restart", n)
	}
	ports, total := counters(t, l, second)
	if total[CauseIPv4] != 10 || ports[a.port][CauseIPv4] != 10 {
		t.Errorf("counters did not go on: %v, %v", total.Map(), ports[a.port].Map())
	}
	if got, want := second.Ports(), []string{a.port, v.port, o.port}; !slices.Equal(got, want) {
		t.Errorf("ports %q, want %q", got, want)
	}
	// The same rules again change nothing; one that says less takes elements away.
	l.in(l.host, func() error { return second.SetPort(r) })
	l.in(l.host, func() error { return second.SetPort(v.rule()) })
	if after := elements(t, l, second); !reflect.DeepEqual(before, after) {
		t.Errorf("elements changed by the same rules:\n%v\n%v", before, after)
	}
	l.in(l.host, func() error { return second.SetPort(a.rule()) })
	if have := elements(t, l, second); len(have[setNet4])+len(have[setNet6]) != 0 || len(have[setMACs]) != 3 {
		t.Errorf("elements of the former rule stayed: %v", have)
	}
	// A port that is gone, and endpoints of others that are gone.
	l.in(l.host, func() error { return second.DeletePort(o.port) })
	if have := elements(t, l, second); !have[setEndpointMAC][string(far[:])] || !have[setEndpointMAC][string(o.mac[:])] {
		t.Error("endpoints of the former run are forgotten before SetRemote")
	}
	l.in(l.host, func() error { return second.SetRemote(nil, nil) })
	if have := elements(t, l, second); len(have[setEndpointMAC]) != 2 || len(have[setEndpointIPv4]) != 2 || len(have[setEndpointIPv6]) != 4 {
		t.Errorf("endpoints are %v, want those of two ports", have)
	}
	l.in(l.host, func() error { return second.DeletePort(a.port) })
	l.in(l.host, func() error { return second.DeletePort(a.port) })
	l.in(l.host, func() error { return second.DeletePort(v.port) })
	for set, have := range elements(t, l, second) {
		if len(have) != 0 {
			t.Errorf("set %s still has %v", set, have)
		}
	}
	if ports, total := counters(t, l, second); len(ports) != 0 || total[CauseIPv4] != 10 {
		t.Errorf("counters after the last port: %v, %v", ports, total.Map())
	}
}

// TestFlushed: somebody ran `nft flush ruleset`.
func TestFlushed(t *testing.T) {
	l, table, c := guarded(t, 2)
	a, v := c[0], c[1]
	far := [6]byte{2, 5, 5, 5, 5, 5}
	l.in(l.host, func() error { return table.SetRemote([][6]byte{far}, nil) })
	want := elements(t, l, table)
	flush := func() {
		l.in(l.host, func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			c.FlushRuleset()
			return c.Flush()
		})
	}
	forged := forgedKinds(a, v, v)[3].frame
	present := func(want bool) {
		t.Helper()
		l.in(l.host, func() error {
			if there, err := table.Present(); there != want || err != nil {
				t.Errorf("present %v, %v, want %v", there, err, want)
			}
			return nil
		})
	}
	present(true)
	flush()
	present(false)
	if n := trial(t, a, v, forged, 5); n != 5 {
		t.Errorf("without rules %d of 5 delivered", n)
	}
	l.in(l.host, table.Ensure)
	if have := elements(t, l, table); !reflect.DeepEqual(have, want) {
		t.Errorf("Ensure put back\n%v\nwant\n%v", have, want)
	}
	flush()
	r := v.rule()
	r.AnyMAC = true
	l.in(l.host, func() error { return table.SetPort(r) }) // meets the loss by itself
	if n := trial(t, a, v, forged, 5); n != 0 {
		t.Errorf("%d forged delivered", n)
	}
	if have := elements(t, l, table); !have[setAnyMAC][string(ifname(v.port))] || !have[setEndpointMAC][string(far[:])] {
		t.Errorf("put back %v", have)
	}
}

// TestOlderShape: the sets of an earlier version cannot be changed, so the table is
// made anew.
func TestOlderShape(t *testing.T) {
	l := newLab(t)
	table, err := New(bridgeName)
	if err != nil {
		t.Fatal(err)
	}
	l.in(l.host, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.AddTable(table.table)
		if err := c.AddSet(&nftables.Set{Table: table.table, Name: setMACs, ID: 1, KeyType: nftables.TypeEtherAddr}, nil); err != nil {
			return err
		}
		return c.Flush()
	})
	l.in(l.host, table.Ensure)
	l.in(l.host, func() error { return table.SetPort(l.container(1).rule()) })
}

func TestTrunkIsNotChecked(t *testing.T) {
	l, table, c := guarded(t, 2)
	v, o := c[0], c[1]
	tap := l.container(3)
	frame := forgedKinds(tap, v, o)[3].frame
	l.in(l.host, func() error { return table.SetStrict(true) })
	for range 2 {
		l.in(l.host, func() error { return table.SetTrunk(tap.port) })
		if n := trial(t, tap, v, frame, 5); n != 5 {
			t.Errorf("trunk: %d of 5 delivered", n)
		}
	}
	if got, want := table.Ports(), []string{v.port, o.port}; !slices.Equal(got, want) {
		t.Errorf("ports %q, want %q", got, want)
	}
	l.in(l.host, table.Ensure)
	if n := trial(t, tap, v, frame, 5); n != 5 {
		t.Errorf("trunk after Ensure: %d of 5 delivered", n)
	}
	l.in(l.host, func() error { return table.SetTrunk("") })
	tap.send(t, append(frame, markTest...))
	if n := silent(t, v); n != 0 {
		t.Errorf("former trunk: %d delivered", n)
	}
}

func TestOtherBridgesAreLeftAlone(t *testing.T) {
	l, table, _ := guarded(t, 1)
	l.in(l.host, func() error { return table.SetStrict(true) })
	a, v := l.container(10), l.container(11)
	l.in(l.host, func() error {
		la := netlink.NewLinkAttrs()
		la.Name = "br1"
		other := &netlink.Bridge{LinkAttrs: la}
		if err := netlink.LinkAdd(other); err != nil {
			return err
		}
		for _, port := range []string{a.port, v.port} {
			link, err := netlink.LinkByName(port)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(link, other); err != nil {
				return err
			}
		}
		return up("br1")
	})
	if n := trial(t, a, v, forgedKinds(a, v, v)[3].frame, 5); n != 5 {
		t.Errorf("%d of 5 delivered", n)
	}
}

// TestManyRemoteEndpoints: more elements than a message or a transaction holds.
func TestManyRemoteEndpoints(t *testing.T) {
	l, table, _ := guarded(t, 1)
	var macs [][6]byte
	var addresses []netip.Addr
	for i := range 4096 {
		macs = append(macs, [6]byte{2, 1, 0, 0, byte(i >> 8), byte(i)})
		addresses = append(addresses, netip.AddrFrom4([4]byte{10, 40, byte(i >> 8), byte(i)}), netip.AddrFrom16([16]byte{0: 0xfd, 1: 1, 14: byte(i >> 8), 15: byte(i)}))
	}
	l.in(l.host, func() error { return table.SetRemote(macs, addresses) })
	have := elements(t, l, table)
	if len(have[setEndpointMAC]) != 4097 || len(have[setEndpointIPv4]) != 4097 || len(have[setEndpointIPv6]) != 2*4097 {
		t.Errorf("%d MACs, %d IPv4, %d IPv6", len(have[setEndpointMAC]), len(have[setEndpointIPv4]), len(have[setEndpointIPv6]))
	}
	l.in(l.host, func() error { return table.SetRemote(macs[:10], addresses[:20]) })
	have = elements(t, l, table)
	if len(have[setEndpointMAC]) != 11 || len(have[setEndpointIPv4]) != 11 || len(have[setEndpointIPv6]) != 22 {
		t.Errorf("%d MACs, %d IPv4, %d IPv6", len(have[setEndpointMAC]), len(have[setEndpointIPv4]), len(have[setEndpointIPv6]))
	}
}

func TestUnderlayGuard(t *testing.T) {
	l, table, c := guarded(t, 2)
	a, v := c[0], c[1]
	host4 := netip.MustParseAddr("10.32.0.254")
	var hostMAC [6]byte
	sockets := make(map[uint16]int)
	l.in(l.host, func() error {
		link, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		hostMAC = [6]byte(link.Attrs().HardwareAddr)
		p, err := netlink.ParseAddr(host4.String() + "/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, p); err != nil {
			return err
		}
		for _, port := range []uint16{6783, 6784} {
			s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return err
			}
			sockets[port] = s
			if err := unix.Bind(s, &unix.SockaddrInet4{Port: int(port)}); err != nil {
				return err
			}
		}
		return nil
	})
	defer func() {
		for _, s := range sockets {
			unix.Close(s)
		}
	}()
	// got sends five datagrams to each port of the host and says how many arrived.
	got := func() map[uint16]int {
		n := make(map[uint16]int)
		for port, s := range sockets {
			for range 5 {
				a.send(t, ether(hostMAC, a.mac, unix.ETH_P_IP, ipv4(a.ip4, host4, unix.IPPROTO_UDP, udp(1, port))))
			}
			// What was sent last to a container has passed the bridge behind it.
			trial(t, a, v, goodKinds(a, v)[0].frame, 1)
			buf := make([]byte, 100)
			for {
				if _, _, err := unix.Recvfrom(s, buf, 0); err != nil {
					break
				}
				n[port]++
			}
		}
		return n
	}
	guardedPackets := func() (n uint64) {
		l.in(l.host, func() (err error) { n, err = table.Guarded(); return err })
		return n
	}
	if n := got(); n[6783] != 5 || n[6784] != 5 {
		t.Errorf("without a guard %v arrived", n)
	}
	if n := guardedPackets(); n != 0 {
		t.Errorf("without a guard %d counted", n)
	}
	for range 2 {
		l.in(l.host, func() error { return table.SetUnderlayGuard(6783) })
	}
	if n := got(); n[6783] != 0 || n[6784] != 5 {
		t.Errorf("6783 guarded: %v arrived", n)
	}
	// TCP too: a SYN is answered by nobody, not even by a reset.
	syn := make([]byte, 20)
	copy(syn, []byte{0, 1, 6783 >> 8, 6783 & 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0})
	a.send(t, ether(hostMAC, a.mac, unix.ETH_P_IP, ipv4(a.ip4, host4, unix.IPPROTO_TCP, syn)))
	if n := guardedPackets(); n != 6 {
		t.Errorf("%d counted, want 6", n)
	}
	// The same port of another container is not the host's.
	if n := trial(t, a, v, ether(v.mac, a.mac, unix.ETH_P_IP, ipv4(a.ip4, v.ip4, unix.IPPROTO_UDP, udp(1, 6783))), 5); n != 5 {
		t.Errorf("another container's port: %d of 5 delivered", n)
	}
	l.in(l.host, func() error { return table.SetUnderlayGuard(6784) })
	if n := got(); n[6783] != 5 || n[6784] != 0 {
		t.Errorf("6784 guarded: %v arrived", n)
	}
	l.in(l.host, func() error { return table.SetUnderlayGuard(0) })
	l.in(l.host, func() error { return table.SetUnderlayGuard(0) })
	if n := got(); n[6783] != 5 || n[6784] != 5 {
		t.Errorf("guard ended: %v arrived", n)
	}
}

func TestDeleteLeavesNothing(t *testing.T) {
	l, table, _ := guarded(t, 1)
	l.in(l.host, func() error { return table.SetUnderlayGuard(6783) })
	l.in(l.host, func() error { return table.SetGateway(netip.MustParsePrefix("10.32.0.0/12"), 6783) })
	for range 2 {
		l.in(l.host, table.Delete)
		l.in(l.host, func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			tables, err := c.ListTables()
			if err != nil {
				return err
			}
			for _, left := range tables {
				t.Errorf("left: %s", left.Name)
			}
			return nil
		})
	}
	l.in(l.host, table.Ensure)
	if have := elements(t, l, table); len(have[setPorts]) != 0 {
		t.Errorf("ports came back: %v", have[setPorts])
	}
}

// TestForwardHookUntilMembersAreKnown: where the kernel cannot tell the bridge, a
// port that SetMembers has not named yet reaches no port that has rules.
func TestForwardHookUntilMembersAreKnown(t *testing.T) {
	l, table, c := guarded(t, 2)
	if !table.byMembers {
		t.Skip("this kernel tells a port's bridge by itself")
	}
	u := l.container(3)
	frame := forgedKinds(u, c[0], c[1])[3].frame
	if n := trial(t, u, c[0], frame, 5); n != 0 {
		t.Errorf("%d delivered", n)
	}
	if ports, _ := counters(t, l, table); ports[u.port][CauseEndpoint] != 5 {
		t.Errorf("counted %v", ports[u.port].Map())
	}
}

func TestNotPermitted(t *testing.T) {
	tuntest.NeedRoot(t)
	ns, err := netns.NewAnonymous()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	table, err := New(bridgeName)
	if err != nil {
		t.Fatal(err)
	}
	err = ns.Do(func() error {
		// The thread is this function's own and its credentials die with it, since it
		// cannot return to its first namespace without them.
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			return err
		}
		return table.Ensure()
	})
	if err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("without capabilities: %v", err)
	}
}

func TestAddresses(t *testing.T) {
	if got, want := linkLocal([6]byte{0x02, 0x42, 0xac, 0x11, 0, 2}), netip.MustParseAddr("fe80::42:acff:fe11:2"); got != want {
		t.Errorf("link-local %s, want %s", got, want)
	}
	for p, want := range map[string]string{
		"10.1.2.3/8": "10.255.255.255", "10.1.2.3/32": "10.1.2.3", "0.0.0.0/0": "255.255.255.255", "10.0.0.0/9": "10.127.255.255",
		"fd00::/8": "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1/128": "::1",
	} {
		if got := last(netip.MustParsePrefix(p)); got.String() != want {
			t.Errorf("last of %s is %s, want %s", p, got, want)
		}
	}
	var got []string
	for _, p := range disjoint([]netip.Prefix{
		netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("::/0"), netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("::ffff:11.0.0.0/104"),
	}) {
		got = append(got, p.String())
	}
	if want := []string{"::/0", "10.0.0.0/8", "11.0.0.0/8"}; !slices.Equal(got, want) {
		t.Errorf("disjoint %q, want %q", got, want)
	}
}

// BenchmarkFrame sends frames from one container to another, a hundred at a time;
// the time is that of the whole way, sending system call included. min-ns/frame is
// the best hundred, which other work on the machine disturbs least.
func BenchmarkFrame(b *testing.B) {
	for _, ports := range []int{0, 2, 200} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			l := newLab(b)
			a, v := l.container(1), l.container(2)
			if ports > 0 {
				table, err := New(bridgeName)
				if err != nil {
					b.Fatal(err)
				}
				l.in(l.host, table.Ensure)
				l.in(l.host, func() error { return table.SetPort(a.rule()) })
				l.in(l.host, func() error { return table.SetPort(v.rule()) })
				l.in(l.host, func() error { return fill(table, ports) })
			}
			frame := goodKinds(a, v)[0].frame
			best := time.Hour
			for b.Loop() {
				start := time.Now()
				for range 100 {
					a.send(b, frame)
				}
				best = min(best, time.Since(start))
			}
			b.ReportMetric(float64(best.Nanoseconds())/100, "min-ns/frame")
		})
	}
}
