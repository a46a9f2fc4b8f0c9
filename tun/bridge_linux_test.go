package tun

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// portOption and bridgeOption read back from the kernel what it was told.
func portOption(t *testing.T, name string, option int) []byte {
	t.Helper()
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	request.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		attrs := nftNested(m[unix.SizeofIfInfomsg:])
		if cString(attrs[unix.IFLA_IFNAME]) == name {
			return nftNested(attrs[unix.IFLA_PROTINFO])[option]
		}
	}
	t.Fatalf("%s is no port", name)
	return nil
}

func bridgeOption(t *testing.T, index, option int) uint32 {
	t.Helper()
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(index)
	request.AddData(message)
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		t.Fatal(err)
	}
	attrs := nftNested(messages[0][unix.SizeofIfInfomsg:])
	value := nftNested(nftNested(attrs[unix.IFLA_LINKINFO])[nl.IFLA_INFO_DATA])[option]
	switch len(value) {
	case 2:
		return uint32(binary.NativeEndian.Uint16(value))
	case 4:
		return binary.NativeEndian.Uint32(value)
	}
	t.Fatalf("bridge option %d has %d bytes", option, len(value))
	return 0
}

var bridgeMAC = [6]byte{0x0a, 0x11, 0x22, 0x33, 0x44, 0x55}

func TestSetUpBridge(t *testing.T) {
	inNamespace(t)
	mustTAP(t, Config{Name: "rs0", Queues: 1})
	cfg := BridgeConfig{Name: "ripstop", MAC: bridgeMAC, TAP: "rs0"}
	b := mustBridge(t, cfg)
	look := func(when string) {
		t.Helper()
		attrs := attrsOf(t, "ripstop")
		if !b.Made() || attrs.MTU != MaxMTU || attrs.Alias != Alias || attrs.Flags&net.FlagUp == 0 ||
			!bytes.Equal(attrs.HardwareAddr, bridgeMAC[:]) {
			t.Errorf("%s: made %v, attributes %+v", when, b.Made(), attrs)
		}
		if got := attrsOf(t, "rs0").MasterIndex; got != attrs.Index {
			t.Errorf("%s: the TAP is on %d, want %d", when, got, attrs.Index)
		}
		if got := portOption(t, "rs0", unix.IFLA_BRPORT_MULTICAST_ROUTER); !bytes.Equal(got, []byte{2}) {
			t.Errorf("%s: mcast_router %v", when, got)
		}
		for option, want := range map[int]uint32{nl.IFLA_BR_STP_STATE: 0, nl.IFLA_BR_AGEING_TIME: 30000, nl.IFLA_BR_GROUP_FWD_MASK: 0} {
			if got := bridgeOption(t, b.Index(), option); got != want {
				t.Errorf("%s: bridge option %d is %d, want %d", when, option, got, want)
			}
		}
		for key, want := range map[string]string{"accept_ra": "0", "addr_gen_mode": "1"} {
			if got := sysctl(t, "/proc/sys/net/ipv6/conf/ripstop/"+key); got != want {
				t.Errorf("%s: %s is %s, want %s", when, key, got, want)
			}
		}
		if addresses, err := netlink.AddrList(&netlink.Bridge{LinkAttrs: *attrs}, netlink.FAMILY_ALL); err != nil || len(addresses) != 0 {
			t.Errorf("%s: addresses %v, %v", when, addresses, err)
		}
	}
	look("made")
	// A daemon that died and came back: what a hand changed meanwhile is put right.
	command(t, "ip", "link", "set", "ripstop", "mtu", "1400", "address", "0a:00:00:00:00:99", "type", "bridge", "stp_state", "1", "ageing_time", "100")
	b = mustBridge(t, cfg)
	look("adopted")

	ports, err := b.Ports()
	if err != nil || len(ports) != 1 || ports[0].Name != "rs0" || !ports[0].TAP || ports[0].MTU != MaxMTU || !ports[0].Up {
		t.Errorf("ports %+v, %v", ports, err)
	}
}

// TestBridgeMTU: the bridge's MTU is fixed, whatever ports come.
func TestBridgeMTU(t *testing.T) {
	inNamespace(t)
	mustTAP(t, Config{Name: "rs0", Queues: 1})
	mustBridge(t, BridgeConfig{Name: "ripstop", TAP: "rs0"})
	mustBridge(t, BridgeConfig{Name: "ripstop", TAP: "rs0"})
	veth(t, "ripstop", "small", "inner", 1400)
	if got := attrsOf(t, "ripstop").MTU; got != MaxMTU {
		t.Errorf("a port of 1400 made the bridge's MTU %d", got)
	}
	// A bridge that was made with that MTU, and so had none set, would follow.
	command(t, "ip", "link", "add", "plain", "mtu", "65521", "type", "bridge")
	link, err := netlink.LinkByName("plain")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetAlias(link, Alias); err != nil {
		t.Fatal(err)
	}
	mustTAP(t, Config{Name: "rs1", Queues: 1})
	mustBridge(t, BridgeConfig{Name: "plain", TAP: "rs1"})
	veth(t, "plain", "small2", "inner2", 1400)
	if got := attrsOf(t, "plain").MTU; got != MaxMTU {
		t.Errorf("an adopted bridge follows its ports: MTU %d", got)
	}
}

// TestBridgeTold: a bridge of somebody else keeps all it has.
func TestBridgeTold(t *testing.T) {
	inNamespace(t)
	veth(t, "", "up0", "up1", 1500)
	command(t, "ip", "link", "add", "br0", "type", "bridge")
	command(t, "ip", "link", "set", "up0", "master", "br0")
	command(t, "ip", "link", "set", "br0", "up")
	before := attrsOf(t, "br0")
	// Of the lowest MAC: the bridge would take it.
	mustTAP(t, Config{Name: "rs0", Queues: 1, MAC: [6]byte{0x02}})
	b := mustBridge(t, BridgeConfig{Name: "br0", MAC: bridgeMAC, TAP: "rs0"})
	after := attrsOf(t, "br0")
	if b.Made() || !bytes.Equal(before.HardwareAddr, after.HardwareAddr) || before.MTU != after.MTU || after.Alias != "" {
		t.Errorf("made %v, before %+v, after %+v", b.Made(), before, after)
	}
	if got := portOption(t, "rs0", unix.IFLA_BRPORT_MULTICAST_ROUTER); !bytes.Equal(got, []byte{2}) {
		t.Errorf("mcast_router %v", got)
	}
	command(t, "ip", "link", "delete", "up0")
	if err := b.RemoveIfUnused(); err != nil {
		t.Error(err)
	}
	attrsOf(t, "br0") // still there
}

func TestBridgeErrors(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T)
		cfg     BridgeConfig
		is      error
		says    []string
	}{
		{"other kind", func(t *testing.T) { veth(t, "", "ripstop", "inner", 1500) },
			BridgeConfig{Name: "ripstop", TAP: "rs0"}, ErrNameTaken, []string{"by a veth device", "--bridge"}},
		{"mtu", nil, BridgeConfig{Name: "ripstop", TAP: "rs0", MTU: 67}, ErrMTU, []string{"67", "68 to 65521"}},
		{"no tap", nil, BridgeConfig{Name: "ripstop", TAP: "rs9"}, errNoLink, []string{"rs9"}},
		{"no capability", dropNetAdmin, BridgeConfig{Name: "ripstop", TAP: "rs0"}, ErrPrivilege, []string{"run as root"}},
		{"tap cannot be a port", func(t *testing.T) { command(t, "ip", "link", "add", "b2", "type", "bridge") },
			BridgeConfig{Name: "ripstop", TAP: "b2"}, nil, []string{"put b2 on it"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inNamespace(t)
			mustTAP(t, Config{Name: "rs0", Queues: 1})
			if c.prepare != nil {
				c.prepare(t)
			}
			_, err := SetUpBridge(c.cfg)
			check(t, err, c.is, c.says)
			if link, err := netlink.LinkByName("ripstop"); err == nil && link.Type() == "bridge" {
				t.Error("a bridge was left behind")
			}
		})
	}
}

// TestRemoveIfUnused: with a port, an address, or without our alias it stays.
func TestRemoveIfUnused(t *testing.T) {
	inNamespace(t)
	tap := mustTAP(t, Config{Name: "rs0", Queues: 1})
	b := mustBridge(t, BridgeConfig{Name: "ripstop", TAP: "rs0"})
	there := func() bool {
		t.Helper()
		if err := b.RemoveIfUnused(); err != nil {
			t.Fatal(err)
		}
		_, err := netlink.LinkByName("ripstop")
		return err == nil
	}
	veth(t, "ripstop", "port", "inner", 1500)
	if !there() {
		t.Fatal("a bridge with a port was removed")
	}
	command(t, "ip", "link", "delete", "port")
	command(t, "ip", "address", "add", "10.32.0.9/12", "dev", "ripstop")
	if !there() {
		t.Fatal("an exposed host's bridge was removed")
	}
	command(t, "ip", "address", "flush", "dev", "ripstop")
	command(t, "ip", "link", "set", "ripstop", "alias", "mine")
	if !there() {
		t.Fatal("a bridge that lost our alias was removed")
	}
	command(t, "ip", "link", "set", "ripstop", "alias", Alias)
	tap.Close()
	if there() {
		t.Fatal("an unused bridge stays")
	}
	if there() {
		t.Fatal("removed twice")
	}
}

// TestWatch: deletion, down, MTU and leaving the bridge are noticed, and only of
// what is watched.
func TestWatch(t *testing.T) {
	inNamespace(t)
	mustTAP(t, Config{Name: "rs0", Queues: 1})
	mustTAP(t, Config{Name: "other", Queues: 1})
	b := mustBridge(t, BridgeConfig{Name: "ripstop", TAP: "rs0"})
	w, err := b.Watch()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	events, ended := make(chan LinkEvent, 100), make(chan error, 1)
	go func() { ended <- w.Run(ctx, func(e LinkEvent) { events <- e }) }()
	expect := func(want LinkEvent) {
		t.Helper()
		for {
			select {
			case got := <-events:
				if got.Name == "other" {
					t.Errorf("not watched: %+v", got)
				}
				if got == want {
					return
				}
				// On the way to one state the kernel may tell of several.
			case <-time.After(5 * time.Second):
				t.Fatalf("%+v did not come", want)
			}
		}
	}
	command(t, "ip", "link", "set", "other", "down")
	command(t, "ip", "link", "set", "rs0", "down")
	expect(LinkEvent{"rs0", LinkDown, b.Index(), MaxMTU})
	command(t, "ip", "link", "set", "rs0", "up", "mtu", "1500")
	expect(LinkEvent{"rs0", LinkUp, b.Index(), 1500})
	command(t, "ip", "link", "set", "rs0", "nomaster")
	expect(LinkEvent{"rs0", LinkUp, 0, 1500})
	command(t, "ip", "link", "set", "ripstop", "down")
	expect(LinkEvent{"ripstop", LinkDown, 0, MaxMTU})
	command(t, "ip", "link", "delete", "ripstop")
	expect(LinkEvent{Name: "ripstop", State: LinkGone})
	// The name comes back as another device: that is no news of ours.
	command(t, "ip", "link", "add", "ripstop", "type", "bridge")
	command(t, "ip", "link", "delete", "rs0")
	expect(LinkEvent{Name: "rs0", State: LinkGone})
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if len(events) != 0 {
		t.Errorf("also told: %+v", <-events)
	}
	if _, err := Watch("nothing"); !errors.Is(err, errNoLink) {
		t.Errorf("Watch of nothing: %v", err)
	}
}

// TestWatchRename: under another name it is not ours any more, and its end is no
// second piece of news.
func TestWatchRename(t *testing.T) {
	inNamespace(t)
	mustTAP(t, Config{Name: "rs0", Queues: 1})
	w, err := Watch("rs0")
	if err != nil {
		t.Fatal(err)
	}
	events, ended := make(chan LinkEvent, 100), make(chan error, 1)
	go func() { ended <- w.Run(context.Background(), func(e LinkEvent) { events <- e }) }()
	command(t, "ip", "link", "set", "rs0", "down")
	command(t, "ip", "link", "set", "rs0", "name", "rs1")
	command(t, "ip", "link", "delete", "rs1")
	command(t, "ip", "link", "add", "last", "type", "bridge")
	for _, want := range []LinkEvent{{"rs0", LinkDown, 0, MaxMTU}, {Name: "rs0", State: LinkGone}} {
		select {
		case got := <-events:
			if got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%+v did not come", want)
		}
	}
	w.Close()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if len(events) != 0 {
		t.Errorf("also told: %+v", <-events)
	}
}

// TestLargeFrames: frames of more than 1500 bytes pass from a port to the TAP and
// back, and a TAP with a small MTU loses them without a word, which is why it
// never has one.
func TestLargeFrames(t *testing.T) {
	inNamespace(t)
	tap := mustTAP(t, Config{Name: "rs0", Queues: 1})
	mustBridge(t, BridgeConfig{Name: "ripstop", TAP: "rs0"})
	veth(t, "ripstop", "port", "inner", MaxMTU)
	w := newWire(t, "inner")
	frames := make(chan []byte, 100)
	go func() {
		in := []Frame{{Buf: make([]byte, BufferSize)}}
		for {
			n, err := tap.queues[0].ReadBatch(in)
			if err != nil {
				return
			}
			if b := in[0].Bytes(); n == 1 && b[12] == 0x88 && b[13] == 0xb5 {
				frames <- bytes.Clone(b)
			}
		}
	}()
	for _, size := range []int{1514, 1515, 9014, 65535} {
		frame := experimental(farMAC, hereMAC, size)
		if err := w.send(frame); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-frames:
			if !bytes.Equal(got, frame) {
				t.Errorf("a frame of %d bytes came as one of %d, or changed", size, len(got))
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("a frame of %d bytes did not reach the TAP", size)
		}
		back := experimental(broadcast, farMAC, size)
		out := Frame{Buf: append(make([]byte, Headroom), back...), Off: Headroom, Len: size}
		if n, err := tap.queues[0].WriteBatch([]Frame{out}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if got, ok := w.receive(5*time.Second, isExperimental); !ok || !bytes.Equal(got, back) {
			t.Errorf("a frame of %d bytes did not reach the container", size)
		}
	}
	command(t, "ip", "link", "set", "rs0", "mtu", "1400")
	for _, size := range []int{1414 + 5, 1414} { // 4 bytes are allowed for a tag
		if err := w.send(experimental(broadcast, hereMAC, size)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case got := <-frames:
		if len(got) != 1414 {
			t.Errorf("a frame of %d bytes passed a TAP of MTU 1400", len(got))
		}
	case <-time.After(5 * time.Second):
		t.Error("the frame that fits did not come")
	}
}

// experimental is a frame with the ethertype kept for experiments (IEEE 802).
func experimental(to, from [6]byte, size int) []byte {
	b := make([]byte, size)
	putEthernet(b, to, from, 0x88b5)
	for i := etherHeader; i < size; i++ {
		b[i] = byte(i * 11)
	}
	return b
}

func isExperimental(b []byte) bool { return len(b) > 14 && b[12] == 0x88 && b[13] == 0xb5 }

// TestMulticastWithQuerier: the bridge is a querier, and after its delay of 10 s
// forwards multicast only where routers or listeners are. The TAP's port, as
// SetUpBridge makes it, still gets the container's multicast; another TAP beside
// it on the same bridge, left as the kernel makes it, no longer does: so the test
// sees the difference.
func TestMulticastWithQuerier(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the querier's 10 s")
	}
	t.Parallel()
	inNamespace(t)
	ours, plain := mustTAP(t, Config{Name: "rs0", Queues: 1}), mustTAP(t, Config{Name: "rs1", Queues: 1})
	mustBridge(t, BridgeConfig{Name: "ripstop", TAP: "rs0"})
	command(t, "ip", "link", "set", "rs1", "master", "ripstop")
	command(t, "ip", "address", "add", "10.32.0.9/12", "dev", "ripstop")
	command(t, "ip", "link", "set", "ripstop", "type", "bridge", "mcast_snooping", "1", "mcast_querier", "1")
	veth(t, "ripstop", "port", "inner", 1500)
	w := newWire(t, "inner")
	got := make(chan *TAP, 1000)
	for _, tap := range []*TAP{ours, plain} {
		go func() {
			in := []Frame{{Buf: make([]byte, BufferSize)}}
			for {
				if _, err := tap.queues[0].ReadBatch(in); err != nil {
					return
				}
				if p := in[0].Bytes(); len(p) > 34 && p[23] == 253 {
					got <- tap
				}
			}
		}()
	}
	// A packet to 239.1.2.3, once every 100 ms for 11.5 s.
	group := multicastFrame()
	var sent, atOurs, atPlain, late int
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	begin := time.Now()
	for time.Since(begin) < 11500*time.Millisecond {
		<-tick.C
		if err := w.send(group); err != nil {
			t.Fatal(err)
		}
		sent++
		for wait := time.After(50 * time.Millisecond); ; {
			select {
			case tap := <-got:
				if tap == ours {
					atOurs++
				} else if atPlain++; time.Since(begin) > 10500*time.Millisecond {
					late++
				}
				continue
			case <-wait:
			}
			break
		}
	}
	if atOurs != sent {
		t.Errorf("%d of %d reached the TAP of the overlay", atOurs, sent)
	}
	if atPlain == 0 || late != 0 {
		t.Errorf("the plain port got %d, %d of them after the delay: the querier did not act, so nothing is shown", atPlain, late)
	}
}

func multicastFrame() []byte {
	b := make([]byte, 60)
	putEthernet(b, [6]byte{0x01, 0x00, 0x5e, 1, 2, 3}, hereMAC, etherIPv4)
	p := b[etherHeader:]
	p[0], p[8], p[9] = 0x45, 1, 253
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], []byte{10, 32, 0, 1, 239, 1, 2, 3})
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	return b
}

// TestSilence: neither TAP nor bridge says anything of IPv6 that a container would
// hear as a router's or host's, and a router advertisement written to the TAP
// leaves no trace.
func TestSilence(t *testing.T) {
	inNamespace(t)
	tap := mustTAP(t, Config{Name: "rs0", Queues: 1})
	mustBridge(t, BridgeConfig{Name: "ripstop", TAP: "rs0"})
	ra := routerAdvertisement()
	out := Frame{Buf: append(make([]byte, Headroom), ra...), Off: Headroom, Len: len(ra)}
	veth(t, "ripstop", "port", "inner", 1500)
	w := newWire(t, "inner")
	if n, err := tap.queues[0].WriteBatch([]Frame{out}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if _, ok := w.receive(5*time.Second, func(b []byte) bool { return bytes.Equal(b, ra) }); !ok {
		t.Fatal("the advertisement did not pass the bridge")
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range routes {
		if route.Gw != nil {
			t.Errorf("the host took a route: %v", route)
		}
	}
}
