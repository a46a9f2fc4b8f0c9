package route

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ripstop/crypto"
)

// scene: host 0 with stations 1 and 2 and the unmanaged 50; host 1 with station 11
// (and the unmanaged 51); host 2 with 12, reached over 1; host 3 with 13, not reachable.
func scene(t testing.TB, change func(*TableConfig)) (*Table, *Switch) {
	t.Helper()
	links := slices.Concat(both(0, 1, time.Millisecond), both(1, 2, time.Millisecond))
	g := BuildGraph(host(0), links)
	cfg := TableConfig{Self: host(0), Peers: numbers(4), Graph: g, LinksUp: allUp(g), Endpoints: []Endpoint{
		endpoint(1, 0), endpoint(2, 0), endpoint(11, 1), endpoint(12, 2), endpoint(13, 3),
	}}
	if change != nil {
		change(&cfg)
	}
	return Build(cfg), NewSwitch(SwitchConfig{Seed: 1})
}

func TestFromLocalScenarios(t *testing.T) {
	zero4, zero6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	group := netip.MustParseAddr("ff02::1:ff00:b")
	unknown, multicast := mac(70), MAC{0x01, 0, 0x5e, 1, 2, 3}
	nd := func(from int, kind uint8, src, target netip.Addr, options ...byte) []byte {
		return ethernetFrame(MAC{0x33, 0x33, 0xff, 0, 0, 0xb}, mac(from), typeIPv6, ndPacket(kind, src, group, target, options...))
	}
	for _, c := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"to an endpoint one hop away", udp4(mac(11), 1, 11, 5), "peer 2"},
		{"to an endpoint two hops away", udp4(mac(12), 1, 12, 5), "peer 3"},
		{"to an endpoint not reachable", udp4(mac(13), 1, 13, 5), "unreachable"},
		{"to an endpoint here", udp4(mac(2), 1, 2, 5), "destination-here"},
		{"to an unknown station", udp4(unknown, 1, 70, 5), "copies"},
		{"broadcast", udp4(Broadcast, 1, 70, 5), "copies"},
		{"multicast", udp4(multicast, 1, 70, 5), "copies"},
		{"another EtherType", ethernetFrame(mac(11), mac(1), 0x88b5, nil), "peer 2"},
		{"behind two tags", tagged(tagged(udp4(mac(11), 1, 11, 5), typeVLAN, 5), typeQinQ, 7), "peer 2"},
		{"LLDP", ethernetFrame(MAC{0x01, 0x80, 0xc2, 0, 0, 0x0e}, mac(1), 0x88cc, nil), "link-local-group"},
		{"spanning tree", ethernetFrame(MAC{0x01, 0x80, 0xc2, 0, 0, 0}, mac(1), 39, nil), "link-local-group"},
		{"01:80:c2:00:00:10 may cross", ethernetFrame(MAC{0x01, 0x80, 0xc2, 0, 0, 0x10}, mac(1), 39, nil), "copies"},
		{"runt", make([]byte, 13), "runt"},
		{"group as source", ethernetFrame(mac(11), multicast, 0x88b5, nil), "bad-source"},
		{"zero as source", ethernetFrame(mac(11), MAC{}, 0x88b5, nil), "bad-source"},

		{"source MAC of an endpoint elsewhere", udp4(mac(12), 11, 12, 5), "forged-mac"},
		{"source MAC of an endpoint not reachable", udp4(mac(12), 13, 12, 5), "forged-mac"},
		{"source IPv4 of an endpoint elsewhere", ethernetFrame(mac(12), mac(1), typeIPv4, ipv4Packet(addr4(11), addr4(12), 17, nil)), "forged-address"},
		{"the same behind a tag", tagged(ethernetFrame(mac(12), mac(1), typeIPv4, ipv4Packet(addr4(11), addr4(12), 17, nil)), typeQinQ, 3), "forged-address"},
		{"source IPv6 of an endpoint elsewhere", ethernetFrame(mac(12), mac(1), typeIPv6, ipv6Packet(addr6(11), addr6(12), 17, nil)), "forged-address"},
		{"source IPv4 of another endpoint here", ethernetFrame(mac(12), mac(1), typeIPv4, ipv4Packet(addr4(2), addr4(12), 17, nil)), "forged-address"},
		{"unmanaged port with an endpoint's address", ethernetFrame(mac(12), mac(50), typeIPv4, ipv4Packet(addr4(1), addr4(12), 17, nil)), "forged-address"},
		{"an address of nobody's", ethernetFrame(mac(11), mac(1), typeIPv4, ipv4Packet(addr4(99), addr4(12), 17, nil)), "peer 2"},
		{"ARP reply for an endpoint elsewhere", arpFrame(mac(12), mac(1), arpReply, mac(1), addr4(11), mac(12), addr4(12)), "forged-address"},
		{"ARP with another's hardware address inside", arpFrame(mac(12), mac(1), arpReply, mac(11), addr4(1), mac(12), addr4(12)), "forged-address"},
		{"ARP binding one's address to nobody's MAC", arpFrame(mac(12), mac(1), arpReply, mac(99), addr4(1), mac(12), addr4(12)), "forged-address"},
		{"NA for another's address", nd(1, ndAdvertisement, addr6(1), addr6(11), linkLayer(2, mac(1))...), "forged-address"},
		{"NA with another's MAC", nd(1, ndAdvertisement, addr6(1), addr6(1), linkLayer(2, mac(11))...), "forged-address"},
		{"NA with two MACs", nd(1, ndAdvertisement, addr6(1), addr6(1), append(linkLayer(2, mac(99)), linkLayer(2, mac(1))...)...), "forged-address"},
		{"NA for another's address behind an option header", ethernetFrame(mac(12), mac(1), typeIPv6,
			extension(ndPacket(ndAdvertisement, addr6(1), group, addr6(11), linkLayer(2, mac(1))...), extHopByHop, 0)), "forged-address"},
		{"one's own NA", nd(1, ndAdvertisement, addr6(1), addr6(1), linkLayer(2, mac(1))...), "copies"},

		{"ARP for an endpoint elsewhere", ask4(1, addr4(11)), "answer"},
		{"ARP for an endpoint two hops away", ask4(1, addr4(12)), "answer"},
		{"ARP from an unmanaged port", ask4(50, addr4(11)), "answer"},
		{"unicast ARP", arpFrame(mac(11), mac(1), arpRequest, mac(1), addr4(1), MAC{}, addr4(11)), "answer"},
		{"ARP with a priority tag", tagged(ask4(1, addr4(11)), typeVLAN, 0xa000), "answer"},
		{"ARP in a VLAN", tagged(ask4(1, addr4(11)), typeVLAN, 5), "copies"},
		{"ARP for an endpoint not reachable", ask4(1, addr4(13)), "unreachable"},
		{"ARP for an endpoint here", ask4(1, addr4(2)), "destination-here"},
		{"ARP for nobody", ask4(1, addr4(99)), "copies"},
		{"ARP for one's own address", arpFrame(Broadcast, mac(1), arpRequest, mac(1), addr4(99), MAC{}, addr4(1)), "copies"},
		{"gratuitous ARP", ask4(1, addr4(1)), "copies"},
		{"gratuitous ARP for another's address", arpFrame(Broadcast, mac(1), arpRequest, mac(1), addr4(11), MAC{}, addr4(11)), "forged-address"},
		{"ARP probe for another's address", arpFrame(Broadcast, mac(1), arpRequest, mac(1), zero4, MAC{}, addr4(11)), "answer"},
		{"ARP probe for one's own address", arpFrame(Broadcast, mac(1), arpRequest, mac(1), zero4, MAC{}, addr4(1)), "copies"},
		{"ARP probe for nobody's address", arpFrame(Broadcast, mac(1), arpRequest, mac(1), zero4, MAC{}, addr4(99)), "copies"},
		{"NS for an endpoint elsewhere", ask6(1, addr6(11)), "answer"},
		{"NS for an endpoint not reachable", ask6(1, addr6(13)), "unreachable"},
		{"NS for nobody", ask6(1, addr6(99)), "copies"},
		{"NS in a VLAN", tagged(ask6(1, addr6(11)), typeVLAN, 5), "copies"},
		{"NS for one's own address", ask6(1, addr6(1)), "copies"},
		{"DAD for another's address", nd(1, ndSolicitation, zero6, addr6(11)), "answer"},
		{"DAD for one's own address", nd(1, ndSolicitation, zero6, addr6(1)), "copies"},
		{"DAD for a link-local address", nd(1, ndSolicitation, zero6, netip.MustParseAddr("fe80::1")), "copies"},
	} {
		tb, s := scene(t, nil)
		reply := make([]byte, ReplySize)
		before := slices.Clone(c.frame)
		d, n := s.FromLocal(tb, 0, 0, c.frame, reply)
		if got := text(d); got != c.want || (n > 0) != (d.Verdict == Answer) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if !slices.Equal(before, c.frame) {
			t.Errorf("%s: the frame was changed", c.name)
		}
	}
}

func text(d Decision) string {
	switch d.Verdict {
	case DropFrame:
		return d.Drop.String()
	case ToPeer:
		return fmt.Sprint("peer ", d.Peer)
	}
	return d.Verdict.String()
}

func TestFromPeerScenarios(t *testing.T) {
	for _, c := range []struct {
		name  string
		src   PeerID
		frame []byte
		want  string
	}{
		{"its endpoint to ours", 2, udp4(mac(1), 11, 1, 5), "deliver"},
		{"its endpoint to all", 2, udp4(Broadcast, 11, 1, 5), "deliver"},
		{"its unmanaged station to ours", 2, udp4(mac(1), 51, 1, 5), "deliver"},
		{"to a station unknown here", 2, udp4(mac(70), 11, 70, 5), "deliver"},
		{"our endpoint's MAC", 2, udp4(mac(2), 1, 2, 5), "forged-mac"},
		{"a third host's endpoint", 2, udp4(mac(1), 12, 1, 5), "forged-mac"},
		{"the endpoint of a host not reachable", 2, udp4(mac(1), 13, 1, 5), "forged-mac"},
		{"that host itself", 4, udp4(mac(1), 13, 1, 5), "deliver"},
		{"to an endpoint elsewhere", 2, udp4(mac(12), 11, 12, 5), "destination-elsewhere"},
		{"to an endpoint of the sender", 2, udp4(mac(11), 51, 11, 5), "destination-elsewhere"},
		{"ARP for our endpoint", 2, ask4(11, addr4(1)), "deliver"},
		{"LLDP", 2, ethernetFrame(MAC{0x01, 0x80, 0xc2, 0, 0, 0x0e}, mac(11), 0x88cc, nil), "link-local-group"},
		{"group as source", 2, ethernetFrame(mac(1), Broadcast, 0x88b5, nil), "bad-source"},
		{"runt", 2, make([]byte, 10), "runt"},
		{"nobody", 0, udp4(mac(1), 11, 1, 5), "unknown-peer"},
	} {
		tb, s := scene(t, nil)
		if got := text(s.FromPeer(tb, 0, 0, c.src, c.frame)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	tb, s := scene(t, nil)
	if d := s.FromPeer(tb, 0, 9, 2, udp4(mac(12), 1, 12, 5)); d.Verdict != Deliver {
		t.Errorf("the endpoints of VNI 0 count in VNI 9: %s", text(d))
	}
}

func TestUnmanagedStationsMove(t *testing.T) {
	tb, s := scene(t, nil)
	to50 := udp4(mac(50), 1, 50, 5)
	check := func(what string, now int64, want string) {
		t.Helper()
		if d, _ := s.FromLocal(tb, now, 0, to50, nil); text(d) != want {
			t.Errorf("%s: %s, want %s", what, text(d), want)
		}
	}
	check("before anything is heard", 0, "copies")
	s.FromLocal(tb, 0, 0, udp4(mac(11), 50, 11, 5), nil)
	check("seen here", 0, "destination-here")
	s.FromPeer(tb, sec, 0, 3, udp4(Broadcast, 50, 11, 5))
	check("moved to host 2", sec, "peer 3")
	s.FromPeer(tb, 2*sec, 0, 4, udp4(Broadcast, 50, 11, 5))
	check("moved to host 3, which can't be reached", 2*sec, "unreachable")
	check("aged", 700*sec, "copies")
	s.FromPeer(tb, 700*sec, 0, 2, udp4(mac(12), 50, 12, 5)) // refused, so nothing is learned
	check("a refused frame", 700*sec, "copies")
	s.FromLocal(tb, 700*sec, 0, ethernetFrame(mac(12), mac(50), typeIPv4, ipv4Packet(addr4(11), addr4(12), 17, nil)), nil)
	check("a forged frame", 700*sec, "copies")
}

func TestStrictAndOptOuts(t *testing.T) {
	vmac := MAC{0, 0, 0x5e, 0, 1, 7}
	vip := netip.MustParseAddr("10.32.200.1")
	fromVMAC := func(src netip.Addr) []byte {
		return ethernetFrame(mac(11), vmac, typeIPv4, ipv4Packet(src, addr4(11), 17, nil))
	}
	foreign := ethernetFrame(mac(12), mac(1), typeIPv4, ipv4Packet(addr4(11), addr4(12), 17, nil))
	for _, c := range []struct {
		name   string
		strict bool
		port   func(*Endpoint) // station 1's opt-outs
		frame  []byte
		want   string
	}{
		{"unmanaged", false, nil, fromVMAC(vip), "peer 2"},
		{"unmanaged, strict", true, nil, fromVMAC(vip), "unmanaged-port"},
		{"managed, strict", true, nil, udp4(mac(11), 1, 11, 5), "peer 2"},
		{"allowed MAC, strict", true, func(e *Endpoint) { e.AllowMACs = []MAC{vmac} }, fromVMAC(vip), "peer 2"},
		{"another allowed MAC, strict", true, func(e *Endpoint) { e.AllowMACs = []MAC{mac(60)} }, fromVMAC(vip), "unmanaged-port"},
		{"any MAC, strict", true, func(e *Endpoint) { e.AllowAnyMAC = true }, fromVMAC(vip), "peer 2"},
		{"allowed MAC with the port's own address", false, func(e *Endpoint) { e.AllowMACs = []MAC{vmac} }, fromVMAC(addr4(1)), "peer 2"},
		{"allowed MAC with another's address", false, func(e *Endpoint) { e.AllowMACs = []MAC{vmac} }, fromVMAC(addr4(2)), "forged-address"},
		{"any MAC is not the MAC of an endpoint elsewhere", false, func(e *Endpoint) { e.AllowAnyMAC = true }, udp4(mac(12), 11, 12, 5), "forged-mac"},
		{"a router's frame", false, nil, foreign, "forged-address"},
		{"a router's frame, allowed", false, func(e *Endpoint) { e.AllowAddresses = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} }, foreign, "peer 3"},
		{"a router's frame, other range", false, func(e *Endpoint) { e.AllowAddresses = []netip.Prefix{netip.MustParsePrefix("10.33.0.0/16")} }, foreign, "forged-address"},
	} {
		tb, s := scene(t, func(cfg *TableConfig) {
			cfg.Strict = c.strict
			if c.port != nil {
				c.port(&cfg.Endpoints[0])
			}
		})
		if d, _ := s.FromLocal(tb, 0, 0, c.frame, nil); text(d) != c.want {
			t.Errorf("%s: %s, want %s", c.name, text(d), c.want)
		}
		// An opt-out on another host counts for nothing here.
		if c.port != nil && !c.strict {
			elsewhere, s := scene(t, func(cfg *TableConfig) { c.port(&cfg.Endpoints[2]) })
			if d, _ := s.FromLocal(elsewhere, 0, 0, foreign, nil); text(d) != "forged-address" {
				t.Errorf("%s, on another host: %s", c.name, text(d))
			}
		}
	}
}

func TestFenced(t *testing.T) {
	tb, s := scene(t, func(cfg *TableConfig) {
		winner := endpoint(21, 1)
		winner.Claim, winner.Addresses = 9, []netip.Addr{addr4(1)}
		cfg.Endpoints = append(cfg.Endpoints, winner)
	})
	reply := make([]byte, ReplySize)
	for _, c := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"from the loser", udp4(mac(11), 1, 11, 5), "fenced"},
		{"to the loser", udp4(mac(1), 2, 1, 5), "fenced"},
		{"to the winner", udp4(mac(21), 2, 1, 5), "peer 2"},
		{"who has the address", ask4(2, addr4(1)), "answer"},
		{"who has the loser's other address", ask6(2, addr6(1)), "copies"},
	} {
		if d, _ := s.FromLocal(tb, 0, 0, c.frame, reply); text(d) != c.want {
			t.Errorf("%s: %s, want %s", c.name, text(d), c.want)
		}
	}
	if list := tb.Fenced(); len(list) != 1 || list[0].MAC != mac(1) || list[0].Peer != 0 {
		t.Errorf("fenced %+v", list)
	}
	if list := tb.Endpoints(); len(list) != 5 || list[4].MAC != mac(21) || list[4].Peer != 2 {
		t.Errorf("endpoints %+v", list)
	}
	if m, at, ok := tb.LookupAddress(0, addr4(1)); !ok || m != mac(21) || at.Peer != 2 || !at.Reachable {
		t.Errorf("the address is at %v %+v %v", m, at, ok)
	}
}

func TestCopiesGoWhereTheVNIIs(t *testing.T) {
	tb, s := scene(t, func(cfg *TableConfig) {
		for n, on := range []int{0, 2, 2, 3} {
			e := endpoint(30+n, on)
			e.VNI = 7
			cfg.Endpoints = append(cfg.Endpoints, e)
		}
	})
	for _, c := range []struct {
		vni  VNI
		want []PeerID
		says string
	}{{0, []PeerID{2, 3}, "copies"}, {7, []PeerID{3}, "copies"}, {8, nil, "no-other-host"}} {
		if got := tb.Copies(c.vni); !slices.Equal(got, c.want) {
			t.Errorf("copies of VNI %d go to %v, want %v", c.vni, got, c.want)
		}
		if d, _ := s.FromLocal(tb, 0, c.vni, udp4(Broadcast, 60, 61, 5), nil); text(d) != c.says {
			t.Errorf("broadcast in VNI %d: %s, want %s", c.vni, text(d), c.says)
		}
	}
}

// TestHostOnly: ARP about the address that every host answers itself, whoever asks or
// tells, stays on its host.
func TestHostOnly(t *testing.T) {
	own := netip.AddrFrom4([4]byte{169, 254, 83, 53})
	for _, set := range []bool{true, false} {
		tb, s := scene(t, func(c *TableConfig) {
			if set {
				c.HostOnly = own
			}
		})
		reply := make([]byte, ReplySize)
		for name, frame := range map[string][]byte{
			"asked for":  arpFrame(Broadcast, mac(900), arpRequest, mac(900), addr4(900), MAC{}, own),
			"asks":       arpFrame(Broadcast, mac(900), arpRequest, mac(900), own, MAC{}, addr4(900)),
			"announced":  arpFrame(Broadcast, mac(900), arpRequest, mac(900), own, MAC{}, own),
			"told to it": arpFrame(Broadcast, mac(900), arpReply, mac(900), addr4(900), mac(901), own),
		} {
			d, _ := s.FromLocal(tb, 0, 0, frame, reply)
			if stays := d.Verdict == DropFrame && d.Drop == DropHere; stays != set {
				t.Errorf("%s, set %v: leaves the host as %+v", name, set, d)
			}
			d = s.FromPeer(tb, 0, 0, 1, frame)
			if refused := d.Verdict == DropFrame; refused != set {
				t.Errorf("%s, set %v: enters a host as %+v", name, set, d)
			}
		}
	}
}

func TestReplyRoom(t *testing.T) {
	tb, s := scene(t, nil)
	for _, n := range []int{0, ReplySize - 1} {
		if d, _ := s.FromLocal(tb, 0, 0, ask6(1, addr6(11)), make([]byte, n)); text(d) != "reply-room" {
			t.Errorf("%d bytes: %s", n, text(d))
		}
	}
}

func TestSwitchCaps(t *testing.T) {
	tb, s := scene(t, nil)
	count := map[string]int{}
	for range 300 {
		d, _ := s.FromLocal(tb, 0, 0, udp4(Broadcast, 1, 2, 5), nil)
		count[text(d)]++
	}
	if count["copies"] == 0 || count["source-copy-cap"] == 0 || len(count) != 2 {
		t.Errorf("300 broadcasts at once: %v", count)
	}
	if d, _ := s.FromLocal(tb, 0, 0, udp4(mac(11), 1, 11, 5), nil); text(d) != "peer 2" {
		t.Errorf("unicast of a source beyond its cap: %s", text(d))
	}
}

// An onlooker decides as its Switch does, and changes nothing of it.
func TestOnlooker(t *testing.T) {
	tb, s := scene(t, nil)
	onlooker := s.Onlooker()
	check := func(what string, frame []byte, want string) {
		t.Helper()
		for range 2000 { // more than a source may copy
			if d, _ := onlooker.FromLocal(tb, 0, 0, frame, nil); text(d) != want {
				t.Fatalf("%s: %s, want %s", what, text(d), want)
			}
		}
	}
	check("to an endpoint", udp4(mac(11), 1, 11, 5), "peer 2")
	check("to nobody", udp4(mac(50), 1, 50, 5), "copies")
	check("of a station", udp4(mac(11), 51, 11, 5), "peer 2")
	onlooker.FromPeer(tb, 0, 0, 3, udp4(Broadcast, 52, 11, 5))
	check("to a station that it has seen itself", udp4(mac(52), 1, 52, 5), "copies")
	if n := s.Learned().CountLocal(0); n != 0 {
		t.Errorf("%d stations were learned", n)
	}
	if d, _ := s.FromLocal(tb, 0, 0, udp4(mac(50), 1, 50, 5), nil); text(d) != "copies" {
		t.Errorf("the switch itself: %s", text(d))
	}
	s.FromPeer(tb, 0, 0, 3, udp4(Broadcast, 50, 11, 5))
	check("to a station the switch has learned", udp4(mac(50), 1, 50, 5), "peer 3")
}

// The same records in any order, and through a shared Directory, decide alike.
func TestTableOrderOfInput(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	for range 20 {
		links := randomLinks(r, 8, 0.4)
		var list []Endpoint
		for range 60 {
			e := endpoint(r.IntN(50), r.IntN(8))
			e.Claim, e.VNI = uint64(r.IntN(3)), VNI(r.IntN(2))
			list = append(list, e)
		}
		one := table(0, 8, links, slices.Clone(list))
		r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		r.Shuffle(len(links), func(i, j int) { links[i], links[j] = links[j], links[i] })
		two := table(0, 8, links, list)
		g := BuildGraph(host(0), links)
		three := Build(TableConfig{Self: host(0), Peers: numbers(8), Graph: g, LinksUp: allUp(g), Directory: two.Directory()})
		for _, other := range []*Table{two, three} {
			a, b := NewSwitch(SwitchConfig{Seed: 1}), NewSwitch(SwitchConfig{Seed: 1})
			for range 300 {
				k := randomSketch(r, 50)
				frame := k.frame()
				got1, got2 := make([]byte, ReplySize), make([]byte, ReplySize)
				d1, n1 := a.FromLocal(one, 0, k.vni, frame, got1)
				d2, n2 := b.FromLocal(other, 0, k.vni, frame, got2)
				if d1 != d2 || !slices.Equal(got1[:n1], got2[:n2]) {
					t.Fatalf("%+v: %s and %s", k, text(d1), text(d2))
				}
			}
			for vni := range VNI(2) {
				if !slices.Equal(one.Copies(vni), other.Copies(vni)) {
					t.Fatalf("copies to %v and %v", one.Copies(vni), other.Copies(vni))
				}
			}
		}
	}
}

func TestEmptyTable(t *testing.T) {
	s := NewSwitch(SwitchConfig{})
	for _, cfg := range []TableConfig{
		{Self: host(0)},
		{Self: host(0), Peers: numbers(2), Graph: BuildGraph(host(0), both(0, 1, 0))},                                                     // no link up
		{Self: host(0), Graph: BuildGraph(host(0), both(0, 1, 0)), LinksUp: map[crypto.Name]bool{host(1): true}},                          // no number
		{Self: host(0), Peers: numbers(2), Graph: BuildGraph(host(1), both(0, 1, 0)), LinksUp: allUp(BuildGraph(host(0), both(0, 1, 0)))}, // another's graph
	} {
		tb := Build(cfg)
		if d, _ := s.FromLocal(tb, 0, 0, udp4(Broadcast, 1, 2, 5), nil); text(d) != "no-other-host" {
			t.Errorf("%+v: %s", cfg, text(d))
		}
		if _, ok := tb.NextHop(host(1).Short(), 0, 0); ok || tb.HopLimit(2) != 0 || tb.Reachable(2) || tb.Reachable(0) {
			t.Errorf("%+v: somebody is reachable", cfg)
		}
		if d := s.FromPeer(tb, 0, 0, 9, udp4(Broadcast, 1, 2, 5)); d.Verdict != Deliver {
			t.Errorf("%+v: %s", cfg, text(d))
		}
	}
}

func TestSwitchDoesNotAllocate(t *testing.T) {
	tb, s := scene(t, nil)
	reply := make([]byte, ReplySize)
	frames := [][]byte{
		udp4(mac(11), 1, 11, 5), udp4(Broadcast, 1, 11, 5), udp4(mac(70), 50, 70, 5), ask4(1, addr4(11)), ask6(1, addr6(11)),
		udp4(mac(12), 11, 12, 5), ethernetFrame(mac(12), mac(1), typeIPv4, ipv4Packet(addr4(11), addr4(12), 17, nil)),
		tagged(udp4(mac(11), 1, 11, 5), typeVLAN, 5), make([]byte, 5),
	}
	now := int64(0)
	if n := testing.AllocsPerRun(200, func() {
		now += sec / 100
		for i, f := range frames {
			s.FromLocal(tb, now, 0, f, reply)
			s.FromPeer(tb, now, 0, PeerID(i%4), f)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNamesOfReasons(t *testing.T) {
	seen := map[string]bool{}
	for d := range Drop(NumDrops) {
		if s := d.String(); s == "" || s == "unknown" || seen[s] {
			t.Errorf("reason %d is called %q", d, s)
		}
		seen[d.String()] = true
	}
	if Drop(NumDrops).String() != "unknown" || Verdict(99).String() != "unknown" {
		t.Error("what doesn't exist has a name")
	}
}

func FuzzSwitch(f *testing.F) {
	for _, frame := range [][]byte{udp4(mac(11), 1, 11, 5), ask4(1, addr4(11)), ask6(1, addr6(11)), ask6(50, addr6(12)),
		tagged(ask4(1, addr4(12)), typeVLAN, 0), udp4(mac(11), 11, 1, 5),
		ethernetFrame(mac(11), mac(1), typeIPv6, extension(ask6(1, addr6(11))[ethernetLen:], extHopByHop, 1))} {
		f.Add(frame, uint16(0), uint16(2))
		f.Add(frame, uint16(7), uint16(0))
	}
	tb, _ := scene(f, nil)
	s := NewSwitch(SwitchConfig{FramesPerSource: 1e9, CopiesPerHost: 1e9}) // what it has learned changes none of the rules below
	f.Fuzz(func(t *testing.T, frame []byte, vni, peer uint16) {
		reply := make([]byte, ReplySize)
		before := slices.Clone(frame)
		d, n := s.FromLocal(tb, 0, VNI(vni), frame, reply)
		e, ok := ParseEthernet(frame)
		switch d.Verdict {
		case DropFrame:
			if d.Drop == DropNone {
				t.Fatal("a drop without reason")
			}
		case ToPeer:
			if !tb.Reachable(d.Peer) || !ok || e.Destination.IsGroup() {
				t.Fatalf("to peer %d", d.Peer)
			}
		case Answer:
			r, ok := ParseEthernet(reply[:n])
			at, known := tb.Lookup(VNI(vni), r.Source)
			if !ok || r.Destination != e.Source || !known || at.Here || !at.Reachable {
				t.Fatalf("answered with %x", reply[:n])
			}
			if r.Type == typeIPv6 && !checksumOK(reply[:n]) {
				t.Fatalf("checksum of %x", reply[:n])
			}
		case Deliver:
			t.Fatal("a local frame is delivered here")
		}
		if d.Verdict != DropFrame {
			if at, known := tb.Lookup(VNI(vni), e.Source); known && !at.Here {
				t.Fatalf("a frame with the MAC of %+v passed", at)
			}
		}
		d = s.FromPeer(tb, 0, VNI(vni), PeerID(peer), frame)
		if d.Verdict != Deliver && d.Verdict != DropFrame {
			t.Fatalf("from a peer: %v", d.Verdict)
		}
		if d.Verdict == Deliver {
			if at, known := tb.Lookup(VNI(vni), e.Source); known && (at.Here || at.Peer != PeerID(peer)) {
				t.Fatalf("a frame with the MAC of %+v was delivered", at)
			}
		}
		if !slices.Equal(before, frame) {
			t.Fatal("the frame was changed")
		}
	})
}
