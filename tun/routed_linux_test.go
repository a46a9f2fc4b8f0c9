package tun

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func routedConfig() RoutedConfig {
	return RoutedConfig{Name: "rs0", MAC: hereMAC, Addresses: []netip.Prefix{netip.PrefixFrom(hereIP, 12), netip.PrefixFrom(ip6, 64)}}
}

func TestOpenTUN(t *testing.T) {
	inNamespace(t)
	cfg := routedConfig()
	cfg.Routes = []netip.Prefix{netip.MustParsePrefix("192.168.77.0/24"), netip.MustParsePrefix("fd77::/64")}
	device, err := OpenTUN(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	attrs := attrsOf(t, "rs0")
	if attrs.MTU != ContainerMTU || attrs.Flags&net.FlagUp == 0 || attrs.Alias != Alias {
		t.Errorf("attributes %+v", attrs)
	}
	if got := sysctl(t, "/proc/sys/net/ipv6/conf/rs0/accept_ra"); got != "0" {
		t.Errorf("accept_ra %s", got)
	}
	link, err := netlink.LinkByName("rs0")
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil || len(addresses) != 2 || addresses[0].IPNet.String() != "10.32.0.1/12" || addresses[1].IPNet.String() != "fd00::1/64" {
		t.Errorf("addresses %v, %v", addresses, err)
	}
	for _, to := range []string{"10.40.1.1", "192.168.77.3", "fd77::5", "fd00::9"} {
		routes, err := netlink.RouteGet(net.ParseIP(to))
		if err != nil || len(routes) != 1 || routes[0].LinkIndex != attrs.Index {
			t.Errorf("route to %s: %v, %v", to, routes, err)
		}
	}
	if len(device.Queues()) != 1 || device.Capabilities() != (Capabilities{}) {
		t.Errorf("%d queues, %+v", len(device.Queues()), device.Capabilities())
	}
}

func TestOpenTUNErrors(t *testing.T) {
	with := func(f func(*RoutedConfig)) RoutedConfig {
		cfg := routedConfig()
		f(&cfg)
		return cfg
	}
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T)
		cfg     RoutedConfig
		is      error
		says    []string
	}{
		{"mtu", nil, with(func(c *RoutedConfig) { c.MTU = 70000 }), ErrMTU, []string{"70000"}},
		{"small mtu", nil, with(func(c *RoutedConfig) { c.MTU = 500 }), ErrMTU, []string{"500", "576"}},
		{"ipv6 mtu", nil, with(func(c *RoutedConfig) { c.MTU = 1000 }), ErrMTU, []string{"1280"}},
		{"group mac", nil, with(func(c *RoutedConfig) { c.MAC[0] = 1 }), nil, []string{"cannot be a host's MAC"}},
		{"bad route", nil, with(func(c *RoutedConfig) { c.Routes = []netip.Prefix{{}} }), nil, []string{"prefix length"}},
		{"taken", func(t *testing.T) { command(t, "ip", "link", "add", "rs0", "type", "bridge") }, routedConfig(), ErrNameTaken, []string{"bridge"}},
		{"no device", hideTunnelDevice, routedConfig(), ErrNoTunnelDevice, []string{"modprobe tun"}},
		{"no capability", dropNetAdmin, routedConfig(), ErrPrivilege, []string{"run as root"}},
		{"route there", func(t *testing.T) {
			veth(t, "", "eth0", "eth1", 1500)
			command(t, "ip", "route", "add", "192.168.7.0/24", "dev", "eth0")
		}, with(func(c *RoutedConfig) { c.Routes = []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")} }), nil, []string{"a route there already", "ip route show 192.168.7.0/24"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inNamespace(t)
			if c.prepare != nil {
				c.prepare(t)
			}
			before := len(openDescriptors(t))
			_, err := OpenTUN(c.cfg)
			check(t, err, c.is, c.says)
			if after := len(openDescriptors(t)); after != before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
			if link, err := netlink.LinkByName("rs0"); err == nil && link.Type() != "bridge" {
				t.Error("a device was left behind")
			}
		})
	}
}

// pump carries frames from one device to another until either ends: an overlay of
// two hosts.
func pump(wg *sync.WaitGroup, from, to Device) {
	wg.Go(func() {
		frames := make([]Frame, 8) // fewer than a super-frame has segments
		for i := range frames {
			frames[i].Buf = make([]byte, BufferSize)
		}
		for {
			n, err := from.Queues()[0].ReadBatch(frames)
			if err != nil {
				return
			}
			to.Queues()[0].WriteBatch(frames[:n])
		}
	})
}

// TestRoutedTalksToBridged: a routed host and a container on a bridged host find
// each other by ARP and ND, and carry TCP in both directions.
func TestRoutedTalksToBridged(t *testing.T) {
	inNamespace(t)
	routed, err := OpenTUN(routedConfig())
	if err != nil {
		t.Fatal(err)
	}
	listen := func(address string) net.Listener {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	servers := []net.Listener{listen("10.32.0.1:7"), listen("[fd00::1]:7")}
	first, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(first)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil { // the other host
		t.Fatal(err)
	}
	tap := mustTAP(t, Config{Name: "rs0", Queues: 1})
	mustBridge(t, BridgeConfig{Name: "ripstop", MAC: farMAC, TAP: "rs0"})
	command(t, "ip", "address", "add", "10.32.0.2/12", "dev", "ripstop")
	command(t, "ip", "address", "add", "fd00::2/64", "dev", "ripstop", "nodad")
	command(t, "ip", "link", "set", "ripstop", "mtu", "1500")
	servers = append(servers, listen("10.32.0.2:7"), listen("[fd00::2]:7"))
	var wg sync.WaitGroup
	pump(&wg, routed, tap)
	pump(&wg, tap, routed)
	t.Cleanup(func() {
		routed.Close()
		tap.Close()
		wg.Wait()
	})
	for _, l := range servers {
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				buf := make([]byte, 1<<20)
				sum := 0
				for sum < len(buf) {
					n, err := c.Read(buf[sum:])
					if err != nil {
						break
					}
					sum += n
				}
				c.Write(buf[:sum])
				c.Close()
			}
		})
		defer l.Close()
	}
	// From the bridged host to the routed one: a megabyte there and back.
	for _, to := range []string{"10.32.0.1:7", "[fd00::1]:7"} {
		if err := echo(to); err != nil {
			t.Errorf("to %s: %v", to, err)
		}
	}
	if err := unix.Setns(first, unix.CLONE_NEWNET); err != nil { // and from the routed host
		t.Fatal(err)
	}
	for _, to := range []string{"10.32.0.2:7", "[fd00::2]:7"} {
		if err := echo(to); err != nil {
			t.Errorf("to %s: %v", to, err)
		}
	}
	drops := routed.(Dropped).Dropped()
	for _, reason := range []string{"routed_malformed", "routed_conflict", "routed_queue_full", "routed_unreachable"} {
		if drops[reason] != 0 {
			t.Errorf("%s: %d", reason, drops[reason])
		}
	}
}

// echo sends a megabyte and wants it back.
func echo(to string) error {
	c, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	sent := make(chan error, 1)
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i * 31)
	}
	go func() {
		_, err := c.Write(data)
		sent <- err
	}()
	got, n := make([]byte, len(data)), 0
	for n < len(got) {
		m, err := c.Read(got[n:])
		if err != nil {
			return err
		}
		n += m
	}
	if string(got) != string(data) {
		return errors.New("what came back is not what was sent")
	}
	return <-sent
}

// TestRoutedAsks: the host sends to one who does not answer; requests leave
// once a second without anything else waking the reader, and the wait is bounded.
func TestRoutedAsks(t *testing.T) {
	inNamespace(t)
	device, err := OpenTUN(RoutedConfig{Name: "rs0", MAC: hereMAC, Addresses: []netip.Prefix{netip.PrefixFrom(hereIP, 12)}})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	frames := []Frame{{Buf: make([]byte, BufferSize)}}
	next := func() arpMessage {
		t.Helper()
		for {
			n, err := device.Queues()[0].ReadBatch(frames)
			if n != 1 || err != nil {
				t.Fatal(n, err)
			}
			if m, ok := parseARP(frames[0].Bytes()[etherHeader:]); ok {
				return m
			}
		}
	}
	if m := next(); m.target != hereIP || m.sender != hereIP {
		t.Errorf("first of all the announcement: %+v", m)
	}
	// A reader with nothing due is woken by what the station answers.
	asked := make(chan arpMessage)
	go func() { asked <- next() }()
	<-time.After(20 * time.Millisecond) // else it may find the answer before it waits, and nothing is shown
	asker := netip.MustParseAddr("10.32.0.3")
	request := arpMessage{op: arpRequest, senderMAC: farMAC, sender: asker, target: hereIP}.frame(broadcast)
	in := Frame{Buf: append(make([]byte, Headroom), request...), Off: Headroom, Len: len(request)}
	if n, err := device.Queues()[0].WriteBatch([]Frame{in}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	select {
	case m := <-asked:
		if m.op != arpReply || m.target != asker || m.targetMAC != farMAC {
			t.Errorf("%+v", m)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the reader was not woken")
	}
	w := newWire(t, "rs0")
	if err := w.send(packetTo(thereIP, "to nobody")); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for range 3 {
		if m := next(); m.op != arpRequest || m.target != thereIP || m.sender != hereIP {
			t.Errorf("%+v", m)
		}
	}
	if took := time.Since(begin); took < 1900*time.Millisecond || took > 4*time.Second {
		t.Errorf("three questions took %v", took)
	}
}

// TestRoutedSpill: a super-frame of more packets than the batch has room for comes
// out whole and in order over several reads.
func TestRoutedSpill(t *testing.T) {
	inNamespace(t)
	device, err := OpenTUN(RoutedConfig{Name: "rs0", MAC: hereMAC, Addresses: []netip.Prefix{netip.PrefixFrom(hereIP, 12)},
		Resolve: func(netip.Addr) ([6]byte, bool) { return farMAC, true }})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 100); err != nil {
		t.Skipf("this kernel has no UDP_SEGMENT: %v", err)
	}
	payload := make([]byte, 2000)
	for i := range payload {
		payload[i] = byte(i / 100)
	}
	if err := unix.Sendto(fd, payload, 0, &unix.SockaddrInet4{Port: 9, Addr: thereIP.As4()}); err != nil {
		t.Fatal(err)
	}
	frames := make([]Frame, 3)
	for i := range frames {
		frames[i].Buf = make([]byte, BufferSize)
	}
	for got := 0; got < 20; {
		n, err := device.Queues()[0].ReadBatch(frames)
		if err != nil {
			t.Fatal(err)
		}
		for i := range frames[:n] {
			b := frames[i].Bytes()
			if b[12] != 0x08 || b[13] != 0 {
				continue // the announcement
			}
			if len(b) != etherHeader+28+100 || b[len(b)-1] != byte(got) || [6]byte(b) != farMAC {
				t.Fatalf("packet %d: %x", got, b)
			}
			got++
		}
	}
}

// TestRoutedDeleted: a reader that waits, and a writer, learn that the device is gone.
func TestRoutedDeleted(t *testing.T) {
	inNamespace(t)
	device, err := OpenTUN(routedConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	reading, ended := make(chan int, 10), make(chan error, 1)
	go func() {
		frames := []Frame{{Buf: make([]byte, BufferSize)}}
		for {
			n, err := device.Queues()[0].ReadBatch(frames)
			if err != nil {
				ended <- err
				return
			}
			reading <- n
		}
	}()
	<-reading
	<-reading // both announcements; then it waits
	command(t, "ip", "link", "delete", "rs0")
	select {
	case err := <-ended:
		if !errors.Is(err, ErrDeleted) {
			t.Errorf("read: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the reader still waits")
	}
	packet := packetTo(hereIP, "x")
	putEthernet(packet, hereMAC, farMAC, etherIPv4)
	in := Frame{Buf: append(make([]byte, Headroom), packet...), Off: Headroom, Len: len(packet)}
	if n, err := device.Queues()[0].WriteBatch([]Frame{in}); n != 0 || !errors.Is(err, ErrDeleted) {
		t.Errorf("write: %d, %v", n, err)
	}
}

func TestRoutedNoAllocation(t *testing.T) {
	inNamespace(t)
	device, err := OpenTUN(RoutedConfig{Name: "rs0", MAC: hereMAC, Addresses: []netip.Prefix{netip.PrefixFrom(hereIP, 12)},
		Resolve: func(netip.Addr) ([6]byte, bool) { return farMAC, true }})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	q := device.Queues()[0]
	in := make([]Frame, 4)
	for i := range in {
		in[i].Buf = make([]byte, BufferSize)
	}
	if _, err := q.ReadBatch(in); err != nil { // the announcement
		t.Fatal(err)
	}
	w := newWire(t, "rs0")
	packet := packetTo(thereIP, string(make([]byte, 80)))
	putEthernet(packet, farMAC, hereMAC, etherIPv4)
	if n := testing.AllocsPerRun(100, func() {
		w.send(packet)
		if n, err := q.ReadBatch(in); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}); n > 1 { // the packet socket's address is the test's own
		t.Errorf("ReadBatch: %v allocations", n-1)
	}
	back := make([]byte, Headroom+len(packet))
	frames := make([]Frame, 4)
	if n := testing.AllocsPerRun(100, func() {
		copy(back[Headroom:], packet)
		putEthernet(back[Headroom:], hereMAC, farMAC, etherIPv4)
		frames[0] = Frame{Buf: back, Off: Headroom, Len: len(packet)}
		if n, err := q.WriteBatch(frames[:1]); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}); n != 0 {
		t.Errorf("WriteBatch: %v allocations", n)
	}
}
