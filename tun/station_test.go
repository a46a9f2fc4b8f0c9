package tun

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var (
	hereIP  = netip.MustParseAddr("10.32.0.1")
	thereIP = netip.MustParseAddr("10.32.0.2")
	hereMAC = [6]byte{0x0a, 0, 0, 0, 0, 1}
	farMAC  = [6]byte{0x0a, 0, 0, 0, 0, 2}
)

var (
	start = time.Unix(1000, 0)
	ip6   = netip.MustParseAddr("fd00::1")
	far6  = netip.MustParseAddr("fd00::2")
)

func testStation() *station {
	return newStation(hereMAC, []netip.Prefix{netip.PrefixFrom(hereIP, 12), netip.PrefixFrom(ip6, 64)}, nil)
}

// packetTo is an IP packet behind room for an Ethernet header.
func packetTo(to netip.Addr, payload string) []byte {
	if to.Is4() {
		b := make([]byte, etherHeader+20, etherHeader+20+len(payload))
		p := b[etherHeader:]
		p[0], p[8], p[9] = 0x45, 64, 253
		binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
		from, dst := hereIP.As4(), to.As4()
		copy(p[12:], from[:])
		copy(p[16:], dst[:])
		return append(b, payload...)
	}
	b := make([]byte, etherHeader+ipv6Header, etherHeader+ipv6Header+len(payload))
	p := b[etherHeader:]
	p[0], p[6], p[7] = 0x60, 253, 64
	binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
	from, dst := ip6.As16(), to.As16()
	copy(p[8:], from[:])
	copy(p[24:], dst[:])
	return append(b, payload...)
}

// sent drains what the station has to say.
func (s *station) sent() [][]byte {
	out := s.out
	s.out = nil
	return out
}

func TestStationGroups(t *testing.T) {
	s := testStation()
	for _, c := range []struct{ to, mac string }{
		{"224.0.0.251", "01:00:5e:00:00:fb"},
		{"239.129.2.3", "01:00:5e:01:02:03"},
		{"255.255.255.255", "ff:ff:ff:ff:ff:ff"},
		{"10.47.255.255", "ff:ff:ff:ff:ff:ff"}, // of 10.32.0.0/12
		{"ff02::1:ff00:2", "33:33:ff:00:00:02"},
	} {
		b := packetTo(netip.MustParseAddr(c.to), "x")
		if !s.fromHost(start, b) {
			t.Errorf("%s: not sent", c.to)
		} else if got := fmt.Sprintf("%x", b[:6]); got != bytesOf(c.mac) {
			t.Errorf("%s went to %s, want %s", c.to, got, c.mac)
		} else if !bytes.Equal(b[6:12], hereMAC[:]) {
			t.Errorf("%s came from %x", c.to, b[6:12])
		}
	}
	if out := s.sent(); len(out) != 0 {
		t.Errorf("asked for groups: %x", out)
	}
}

func bytesOf(mac string) string { return string(bytes.ReplaceAll([]byte(mac), []byte(":"), nil)) }

// TestStationResolves: the first packets wait for the answer and leave in order;
// then packets leave at once.
func TestStationResolves(t *testing.T) {
	for _, to := range []netip.Addr{thereIP, far6} {
		s := testStation()
		for i := range 3 {
			if s.fromHost(start, packetTo(to, fmt.Sprint("packet ", i))) {
				t.Fatal("a packet left before its destination was known")
			}
		}
		out := s.sent()
		if len(out) != 1 {
			t.Fatalf("%d requests, want 1", len(out))
		}
		var answer []byte
		if to.Is4() {
			m, ok := parseARP(out[0][etherHeader:])
			if !ok || m.op != arpRequest || m.target != to || m.sender != hereIP || m.senderMAC != hereMAC || [6]byte(out[0]) != broadcast {
				t.Fatalf("request %x", out[0])
			}
			answer = arpMessage{op: arpReply, senderMAC: farMAC, sender: to, targetMAC: hereMAC, target: hereIP}.frame(hereMAC)
		} else {
			m, ok := parseND(out[0][etherHeader:])
			if !ok || m.kind != ndSolicitation || m.target != to || m.source != ip6 || m.mac != hereMAC ||
				fmt.Sprintf("%x", out[0][:6]) != "3333ff000002" || m.destination.String() != "ff02::1:ff00:2" {
				t.Fatalf("request %x: %+v %v", out[0], m, ok)
			}
			answer = ndMessage{kind: ndAdvertisement, source: to, destination: ip6, target: to, flags: ndFlagSolicited, mac: farMAC, hasMAC: true}.frame(hereMAC, farMAC)
		}
		s.fromOverlay(start.Add(time.Millisecond), answer)
		for i, frame := range s.sent() {
			want := packetTo(to, fmt.Sprint("packet ", i))
			if !bytes.Equal(frame[etherHeader:], want[etherHeader:]) || [6]byte(frame) != farMAC || [6]byte(frame[6:]) != hereMAC {
				t.Errorf("kept packet %d: %x", i, frame)
			}
		}
		b := packetTo(to, "later")
		if !s.fromHost(start.Add(time.Second), b) || [6]byte(b) != farMAC {
			t.Errorf("a packet to a known neighbour: %x", b)
		}
		if s.table.bytes != 0 || len(s.table.unresolved) != 0 {
			t.Errorf("%d bytes kept, %d unresolved", s.table.bytes, len(s.table.unresolved))
		}
	}
}

// TestStationGivesUp: three questions, one a second, then the packets are dropped
// and counted, and the next packet asks again.
func TestStationGivesUp(t *testing.T) {
	s := testStation()
	s.fromHost(start, packetTo(thereIP, "a"))
	s.fromHost(start, packetTo(thereIP, "b"))
	asked := len(s.sent())
	now := start
	for range 2 {
		due := s.tick(now)
		if want := now.Add(time.Second); !due.Equal(want) {
			t.Fatalf("due %v, want %v", due, want)
		}
		s.tick(due.Add(-time.Nanosecond))
		if out := s.sent(); len(out) != 0 {
			t.Fatal("asked too early")
		}
		now = due
		s.tick(now)
		asked += len(s.sent())
	}
	if asked != 3 {
		t.Errorf("asked %d times, want 3", asked)
	}
	if due := s.tick(now.Add(time.Second)); !due.IsZero() {
		t.Errorf("due %v after giving up", due)
	}
	if got := s.dropped[dropUnreachable]; got != 2 || s.table.bytes != 0 || len(s.table.all) != 0 {
		t.Errorf("%d dropped, %d bytes, %d neighbours", got, s.table.bytes, len(s.table.all))
	}
	s.fromHost(now.Add(2*time.Second), packetTo(thereIP, "c"))
	if len(s.sent()) != 1 {
		t.Error("a later packet does not ask again")
	}
}

// TestStationRefreshes: a neighbour in use is asked again after 30 s, by unicast
// and without holding packets up; one that stopped answering is asked for anew.
func TestStationRefreshes(t *testing.T) {
	s := testStation()
	s.fromHost(start, packetTo(thereIP, "a"))
	reply := arpMessage{op: arpReply, senderMAC: farMAC, sender: thereIP, targetMAC: hereMAC, target: hereIP}.frame(hereMAC)
	s.fromOverlay(start, reply)
	s.sent()
	if !s.fromHost(start.Add(29*time.Second), packetTo(thereIP, "b")) || len(s.sent()) != 0 {
		t.Error("asked before the time")
	}
	for i := range 3 {
		now := start.Add(30*time.Second + time.Duration(i)*time.Second)
		if !s.fromHost(now, packetTo(thereIP, "c")) {
			t.Fatal("a packet was held up")
		}
		if out := s.sent(); len(out) != 1 || [6]byte(out[0]) != farMAC {
			t.Fatalf("question %d: %x", i, out)
		}
		if !s.fromHost(now, packetTo(thereIP, "c")) || len(s.sent()) != 0 {
			t.Fatal("asked twice in a second")
		}
	}
	if s.fromHost(start.Add(33*time.Second), packetTo(thereIP, "d")) {
		t.Error("a neighbour that does not answer is still used")
	}
	if out := s.sent(); len(out) != 1 || [6]byte(out[0]) != broadcast {
		t.Errorf("asked %x", out)
	}
	moved := [6]byte{0x0a, 9, 9, 9, 9, 9}
	s.fromOverlay(start.Add(33*time.Second), arpMessage{op: arpReply, senderMAC: moved, sender: thereIP, targetMAC: hereMAC, target: hereIP}.frame(hereMAC))
	if out := s.sent(); len(out) != 1 || [6]byte(out[0]) != moved {
		t.Errorf("the packet left as %x", out)
	}
}

func TestStationAnswers(t *testing.T) {
	other := netip.MustParseAddr("10.32.0.77")
	none := netip.IPv4Unspecified()
	dad := netip.IPv6Unspecified()
	for _, c := range []struct {
		name  string
		frame []byte
		want  []byte // nil: no answer
		learn netip.Addr
	}{
		{"request", arpMessage{op: arpRequest, senderMAC: farMAC, sender: thereIP, target: hereIP}.frame(broadcast),
			arpMessage{op: arpReply, senderMAC: hereMAC, sender: hereIP, targetMAC: farMAC, target: thereIP}.frame(farMAC), thereIP},
		{"probe", arpMessage{op: arpRequest, senderMAC: farMAC, sender: none, target: hereIP}.frame(broadcast),
			arpMessage{op: arpReply, senderMAC: hereMAC, sender: hereIP, targetMAC: farMAC, target: none}.frame(farMAC), netip.Addr{}},
		{"request for another", arpMessage{op: arpRequest, senderMAC: farMAC, sender: thereIP, target: other}.frame(broadcast), nil, netip.Addr{}},
		{"gratuitous", arpMessage{op: arpRequest, senderMAC: farMAC, sender: thereIP, target: thereIP}.frame(broadcast), nil, netip.Addr{}},
		{"unasked reply", arpMessage{op: arpReply, senderMAC: farMAC, sender: thereIP, targetMAC: hereMAC, target: hereIP}.frame(hereMAC), nil, netip.Addr{}},
		{"our address claimed", arpMessage{op: arpRequest, senderMAC: farMAC, sender: hereIP, target: hereIP}.frame(broadcast), nil, netip.Addr{}},
		{"group as sender", arpMessage{op: arpRequest, senderMAC: [6]byte{1}, sender: thereIP, target: other}.frame(broadcast), nil, netip.Addr{}},
		{"to another station", arpMessage{op: arpRequest, senderMAC: farMAC, sender: thereIP, target: hereIP}.frame(farMAC), nil, netip.Addr{}},
		{"solicitation", ndMessage{kind: ndSolicitation, source: far6, destination: solicitedNode(ip6), target: ip6, mac: farMAC, hasMAC: true}.frame(groupMAC(solicitedNode(ip6)), farMAC),
			ndMessage{kind: ndAdvertisement, source: ip6, destination: far6, target: ip6, flags: 0x60, mac: hereMAC, hasMAC: true}.frame(farMAC, hereMAC), far6},
		{"duplicate detection", ndMessage{kind: ndSolicitation, source: dad, destination: solicitedNode(ip6), target: ip6}.frame(groupMAC(solicitedNode(ip6)), farMAC),
			ndMessage{kind: ndAdvertisement, source: ip6, destination: allNodes, target: ip6, flags: 0x20, mac: hereMAC, hasMAC: true}.frame(groupMAC(allNodes), hereMAC), netip.Addr{}},
		{"solicitation for another", ndMessage{kind: ndSolicitation, source: far6, destination: solicitedNode(far6), target: netip.MustParseAddr("fd00::3"), mac: farMAC, hasMAC: true}.frame(broadcast, farMAC), nil, netip.Addr{}},
		{"router advertisement", routerAdvertisement(), nil, netip.Addr{}},
	} {
		s := testStation()
		if !concernsLink(c.frame) {
			t.Errorf("%s: would reach the host", c.name)
		}
		s.fromOverlay(start, c.frame)
		out := s.sent()
		switch {
		case c.want == nil && len(out) != 0:
			t.Errorf("%s: answered %x", c.name, out)
		case c.want != nil && (len(out) != 1 || !bytes.Equal(out[0], c.want)):
			t.Errorf("%s:\n got %x\nwant %x", c.name, out, c.want)
		}
		if known := s.table.find(c.learn); c.learn.IsValid() != (len(s.table.all) == 1) || c.learn.IsValid() && known.mac != farMAC {
			t.Errorf("%s: knows %v", c.name, s.table.all)
		}
	}
}

// TestStationAnnounces: ours are told, and who hears of a neighbour's move follows.
func TestStationAnnounces(t *testing.T) {
	s := testStation()
	s.announce()
	out := s.sent()
	if len(out) != 2 {
		t.Fatalf("%d announcements", len(out))
	}
	peer := newStation(farMAC, []netip.Prefix{netip.PrefixFrom(thereIP, 12)}, nil)
	peer.heard(start, hereIP, [6]byte{2, 2, 2, 2, 2, 2}, true)
	peer.fromOverlay(start, out[0])
	if got := peer.table.find(hereIP).mac; got != hereMAC {
		t.Errorf("after the announcement %x", got)
	}
	if m, ok := parseND(out[1][etherHeader:]); !ok || m.target != ip6 || m.mac != hereMAC || m.flags != ndFlagOverride {
		t.Errorf("announcement %+v, %v", m, ok)
	}
}

func TestStationResolveHook(t *testing.T) {
	known := false
	s := newStation(hereMAC, []netip.Prefix{netip.PrefixFrom(hereIP, 12)}, func(a netip.Addr) ([6]byte, bool) {
		return farMAC, known && a == thereIP
	})
	s.fromHost(start, packetTo(thereIP, "a"))
	s.sent()
	known = true
	s.tick(start.Add(time.Second))
	if out := s.sent(); len(out) != 1 || [6]byte(out[0]) != farMAC || out[0][12] != 0x08 || out[0][13] != 0 {
		t.Errorf("the packet left as %x", out)
	}
	s = newStation(hereMAC, s.addresses, s.resolve)
	b := packetTo(thereIP, "b")
	if !s.fromHost(start, b) || [6]byte(b) != farMAC || len(s.sent()) != 0 {
		t.Errorf("%x", b)
	}
	if s.fromHost(start, packetTo(far6, "c")) || s.dropped[dropOwnNetwork] != 1 {
		t.Error("an IPv6 packet of a host without an IPv6 address")
	}
}

// TestStationBounds: whoever sends to everybody, or speaks for everybody, costs a
// bounded amount of memory.
func TestStationBounds(t *testing.T) {
	s := testStation()
	sent := 0
	for i := range 5000 {
		to := netip.AddrFrom4([4]byte{10, 33, byte(i >> 8), byte(i)})
		for range 3 {
			s.fromHost(start, packetTo(to, string(make([]byte, 1000))))
			sent++
		}
		s.sent()
	}
	if len(s.table.unresolved) > maxUnresolved || s.table.bytes > maxKeptBytes || len(s.table.all) > maxUnresolved {
		t.Errorf("%d unresolved, %d bytes, %d entries", len(s.table.unresolved), s.table.bytes, len(s.table.all))
	}
	kept := 0
	for _, n := range s.table.unresolved {
		kept += len(n.kept)
	}
	if lost := int(s.dropped[dropUnreachable] + s.dropped[dropQueueFull]); kept+lost != sent {
		t.Errorf("%d kept and %d counted of %d", kept, lost, sent)
	}
	for range 200 {
		s.fromHost(start, packetTo(thereIP, string(make([]byte, 60000))))
	}
	if s.table.bytes > maxKeptBytes || len(s.table.find(thereIP).kept) > maxKept {
		t.Errorf("%d bytes, %d packets", s.table.bytes, len(s.table.find(thereIP).kept))
	}
	for i := range 5000 {
		from := netip.AddrFrom4([4]byte{10, 34, byte(i >> 8), byte(i)})
		s.fromOverlay(start.Add(time.Duration(i)), arpMessage{op: arpRequest, senderMAC: farMAC, sender: from, target: hereIP}.frame(broadcast))
	}
	if len(s.table.all) > maxNeighbours || len(s.out) > maxOut {
		t.Errorf("%d neighbours, %d frames to send", len(s.table.all), len(s.out))
	}
}

func TestPacketIn(t *testing.T) {
	s := testStation()
	frame := func(to [6]byte, kind uint16, p []byte) []byte {
		b := append(make([]byte, etherHeader), p...)
		putEthernet(b, to, farMAC, kind)
		return b
	}
	four, six := packetTo(thereIP, "hello")[etherHeader:], packetTo(far6, "hello")[etherHeader:]
	padded := append(bytes.Clone(four), make([]byte, 30)...)
	for _, c := range []struct {
		name  string
		frame []byte
		want  int
		drop  stationDrop
	}{
		{"v4", frame(hereMAC, etherIPv4, four), 25, 0},
		{"v4 padded", frame(hereMAC, etherIPv4, padded), 25, 0},
		{"v4 to all", frame(broadcast, etherIPv4, four), 25, 0},
		{"v6", frame(hereMAC, etherIPv6, six), 45, 0},
		{"v4 cut", frame(hereMAC, etherIPv4, four[:24]), 0, dropMalformed},
		{"v6 cut", frame(hereMAC, etherIPv6, six[:44]), 0, dropMalformed},
		{"v6 as v4", frame(hereMAC, etherIPv4, six), 0, dropMalformed},
		{"v4 as v6", frame(hereMAC, etherIPv6, append(bytes.Clone(four), make([]byte, 40)...)), 0, dropMalformed},
		{"another's", frame(farMAC, etherIPv4, four), 0, dropOtherStation},
		{"tagged", frame(hereMAC, etherVLAN, four), 0, dropNotIP},
		{"empty", nil, 0, dropMalformed},
	} {
		got, drop, ok := s.packetIn(c.frame)
		if ok != (c.want != 0) || got != c.want || !ok && drop != c.drop {
			t.Errorf("%s: %d, %s, %v", c.name, got, stationDropNames[drop], ok)
		}
	}
}

// TestNDOutsidePacket: a packet whose own length leaves the message out, as padding.
func TestNDOutsidePacket(t *testing.T) {
	frame := ndMessage{kind: ndSolicitation, source: far6, destination: ip6, target: ip6, mac: farMAC, hasMAC: true}.frame(hereMAC, farMAC)
	for length := range 33 {
		s := testStation()
		binary.BigEndian.PutUint16(frame[etherHeader+4:], uint16(length))
		s.fromOverlay(start, frame)
		if answered := len(s.sent()) == 1; answered != (length == 32) || answered == (s.dropped[dropMalformed] == 1) {
			t.Errorf("length %d: answered %v, %d counted", length, answered, s.dropped[dropMalformed])
		}
	}
}

func TestParsersTruncated(t *testing.T) {
	arp := arpMessage{op: arpReply, senderMAC: farMAC, sender: thereIP, targetMAC: hereMAC, target: hereIP}
	b := arp.frame(hereMAC)[etherHeader:]
	if got, ok := parseARP(b); !ok || got != arp {
		t.Errorf("%+v, %v", got, ok)
	}
	for n := range b {
		if _, ok := parseARP(b[:n]); ok {
			t.Errorf("ARP of %d bytes was taken", n)
		}
	}
	nd := ndMessage{kind: ndSolicitation, source: far6, destination: ip6, target: ip6, mac: farMAC, hasMAC: true}
	b = nd.frame(hereMAC, farMAC)[etherHeader:]
	if got, ok := parseND(b); !ok || got != nd {
		t.Errorf("%+v, %v", got, ok)
	}
	for n := range b {
		cut := bytes.Clone(b[:n])
		if _, ok := parseND(cut); ok {
			t.Errorf("ND of %d bytes was taken", n)
		}
		if n >= ipv6Header { // with lengths and sum that fit
			binary.BigEndian.PutUint16(cut[4:], uint16(n-ipv6Header))
			if n >= ipv6Header+ndLen {
				cut[ipv6Header+2], cut[ipv6Header+3] = 0, 0
				binary.BigEndian.PutUint16(cut[ipv6Header+2:], checksumICMPv6(cut))
			}
			if m, ok := parseND(cut); ok && (n != ipv6Header+ndLen || m.hasMAC) {
				t.Errorf("ND of %d bytes was taken as %+v", n, m)
			}
		}
	}
	for i := range b {
		if i == 1 || i == 2 || i == 3 || i == 0 { // traffic class and flow label are free
			continue
		}
		flipped := bytes.Clone(b)
		flipped[i] ^= 1
		if _, ok := parseND(flipped); ok {
			t.Errorf("ND with byte %d changed was taken", i)
		}
	}
}

func FuzzStation(f *testing.F) {
	f.Add(arpMessage{op: arpRequest, senderMAC: farMAC, sender: thereIP, target: hereIP}.frame(broadcast))
	f.Add(ndMessage{kind: ndSolicitation, source: far6, destination: ip6, target: ip6, mac: farMAC, hasMAC: true}.frame(hereMAC, farMAC))
	f.Add(ndMessage{kind: ndAdvertisement, source: far6, destination: ip6, target: far6, flags: 0x60, mac: farMAC, hasMAC: true}.frame(hereMAC, farMAC))
	f.Add(packetTo(thereIP, "x"))
	f.Add(packetTo(far6, "x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := testStation()
		s.fromHost(start, packetTo(thereIP, "kept"))
		s.fromHost(start, packetTo(far6, "kept"))
		if concernsLink(b) {
			s.fromOverlay(start, b)
		}
		if length, _, ok := s.packetIn(b); ok && (length < 20 || etherHeader+length > len(b)) {
			t.Errorf("a packet of %d bytes in a frame of %d", length, len(b))
		}
		if len(b) >= etherHeader {
			s.fromHost(start, bytes.Clone(b))
		}
		s.tick(start.Add(time.Second))
		for _, frame := range s.out {
			if len(frame) < etherHeader || [6]byte(frame[etherSource:]) != hereMAC {
				t.Errorf("sent %x", frame)
			}
		}
	})
}

// routerAdvertisement offers a default route for an hour.
func routerAdvertisement() []byte {
	f := make([]byte, etherHeader+ipv6Header+16)
	putEthernet(f, groupMAC(allNodes), farMAC, etherIPv6)
	p := f[etherHeader:]
	p[0] = 6 << 4
	p[5], p[ipv6NextHeader], p[ipv6HopLimit] = 16, protocolICMPv6, 255
	copy(p[8:], []byte{0xfe, 0x80, 15: 1})
	all := allNodes.As16()
	copy(p[24:], all[:])
	b := p[ipv6Header:]
	b[0], b[4] = 134, 64
	binary.BigEndian.PutUint16(b[6:], 3600)
	binary.BigEndian.PutUint16(b[2:], checksumICMPv6(p))
	return f
}
