package route

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// sketch is a frame by its meaning. The model decides on the sketch, the Switch on
// the bytes made from it.
type sketch struct {
	vni      VNI
	src, dst MAC
	vlans    []uint16
	kind     int // one of the kinds below
	from     netip.Addr
	to       netip.Addr // target of ARP and ND
	inside   MAC        // hardware address inside ARP or ND; zero: none
}

const (
	kindOther = iota
	kindIPv4
	kindIPv6
	kindARPRequest
	kindARPReply
	kindNS
	kindNA
	kinds
)

func (s sketch) frame() []byte {
	var b []byte
	group := netip.MustParseAddr("ff02::1")
	var option []byte
	switch s.kind {
	case kindOther:
		b = ethernetFrame(s.dst, s.src, 0x88b5, []byte("other"))
	case kindIPv4:
		b = ethernetFrame(s.dst, s.src, typeIPv4, ipv4Packet(s.from, s.to, protoUDP, make([]byte, 8)))
	case kindIPv6:
		b = ethernetFrame(s.dst, s.src, typeIPv6, ipv6Packet(s.from, s.to, protoUDP, make([]byte, 8)))
	case kindARPRequest:
		b = arpFrame(s.dst, s.src, arpRequest, s.inside, s.from, MAC{}, s.to)
	case kindARPReply:
		b = arpFrame(s.dst, s.src, arpReply, s.inside, s.from, mac(1), s.to)
	case kindNS:
		if s.inside != (MAC{}) {
			option = linkLayer(ndSourceOption, s.inside)
		}
		b = ethernetFrame(s.dst, s.src, typeIPv6, ndPacket(ndSolicitation, s.from, group, s.to, option...))
	case kindNA:
		if s.inside != (MAC{}) {
			option = linkLayer(ndTargetOption, s.inside)
		}
		b = ethernetFrame(s.dst, s.src, typeIPv6, ndPacket(ndAdvertisement, s.from, group, s.to, option...))
	}
	for _, v := range s.vlans {
		b = tagged(b, typeVLAN, v)
	}
	return b
}

// slowSwitch decides by walking lists.
type slowSwitch struct {
	self            int
	holding, fenced []Endpoint
	reach           map[PeerID]bool
	strict          bool
	learned         map[uint64]PeerID
}

func (m *slowSwitch) byMAC(vni VNI, a MAC) (e *Endpoint, fenced bool) {
	for i := range m.holding {
		if m.holding[i].VNI == vni && m.holding[i].MAC == a {
			return &m.holding[i], false
		}
	}
	for i := range m.fenced {
		if m.fenced[i].VNI == vni && m.fenced[i].MAC == a {
			return &m.fenced[i], true
		}
	}
	return nil, false
}

func (m *slowSwitch) byAddress(vni VNI, a netip.Addr) *Endpoint {
	for i := range m.holding {
		if m.holding[i].VNI == vni && slices.Contains(m.holding[i].Addresses, a) {
			return &m.holding[i]
		}
	}
	return nil
}

func (m *slowSwitch) here(e *Endpoint) bool { return e.Host == host(m.self) }

// mayClaim: nobody's address, one's own, or a port's opt-out.
func (m *slowSwitch) mayClaim(vni VNI, who MAC, a netip.Addr) bool {
	owner := m.byAddress(vni, a)
	if owner == nil || owner.MAC == who && m.here(owner) {
		return true
	}
	for i := range m.holding {
		port := &m.holding[i]
		if port.VNI != vni || !m.here(port) || port.MAC != who && !port.AllowAnyMAC && !slices.Contains(port.AllowMACs, who) {
			continue
		}
		optedOut := port.AllowAnyMAC || len(port.AllowMACs) > 0 || len(port.AllowAddresses) > 0
		if optedOut && port == owner {
			return true
		}
		for _, p := range port.AllowAddresses {
			if p.Contains(a) {
				return true
			}
		}
	}
	return false
}

func (m *slowSwitch) mayName(s sketch) bool {
	e, _ := m.byMAC(s.vni, s.inside)
	return s.inside == s.src || s.inside == (MAC{}) || e == nil
}

func (m *slowSwitch) copies(vni VNI) int {
	n := 0
	for peer := range m.reach {
		has := vni == 0
		for i := range m.holding {
			has = has || m.holding[i].VNI == vni && m.holding[i].Host == host(int(peer)-1)
		}
		if m.reach[peer] && has {
			n++
		}
	}
	return n
}

func (m *slowSwitch) to(peer PeerID, here bool) Decision {
	if here {
		return drop(DropHere)
	}
	if !m.reach[peer] {
		return drop(DropUnreachable)
	}
	return Decision{Verdict: ToPeer, Peer: peer}
}

func (m *slowSwitch) fromLocal(s sketch) (d Decision, answer MAC) {
	src, fenced := m.byMAC(s.vni, s.src)
	switch {
	case s.src[0]&1 == 1:
		return drop(DropSource), MAC{}
	case s.dst.IsLinkLocal():
		return drop(DropLinkLocal), MAC{}
	case src != nil && fenced:
		return drop(DropFenced), MAC{}
	case src != nil && !m.here(src):
		return drop(DropForgedMAC), MAC{}
	case src == nil && m.strict:
		allowed := false
		for i := range m.holding {
			port := &m.holding[i]
			allowed = allowed || port.VNI == s.vni && m.here(port) && (port.AllowAnyMAC || slices.Contains(port.AllowMACs, s.src))
		}
		if !allowed {
			return drop(DropUnmanaged), MAC{}
		}
	}
	untagged := !slices.ContainsFunc(s.vlans, func(v uint16) bool { return v != 0 })
	readable := len(s.vlans) <= 2
	claimed := s.from
	if s.kind == kindNA {
		claimed = s.to
	}
	ip, arp, nd := s.kind != kindOther, s.kind == kindARPRequest || s.kind == kindARPReply, s.kind == kindNS || s.kind == kindNA
	if readable && ip && !m.mayClaim(s.vni, s.src, s.from) {
		return drop(DropForgedAddress), MAC{}
	}
	if readable && (arp || nd) {
		if !m.mayName(s) || !m.mayClaim(s.vni, s.src, claimed) || s.inside != (MAC{}) && !m.mayClaim(s.vni, s.inside, claimed) {
			return drop(DropForgedAddress), MAC{}
		}
	}
	if readable && untagged && (s.kind == kindARPRequest || s.kind == kindNS) && s.from != s.to {
		if owner := m.byAddress(s.vni, s.to); owner != nil && owner.MAC != s.src {
			if d := m.to(peerOf(owner.Host), m.here(owner)); d.Verdict != ToPeer {
				return d, MAC{}
			}
			return Decision{Verdict: Answer}, owner.MAC
		}
	}
	if src == nil {
		m.learned[macKey(s.vni, s.src)] = 0
	}
	if s.dst[0]&1 == 0 {
		if e, fenced := m.byMAC(s.vni, s.dst); fenced {
			return drop(DropFenced), MAC{}
		} else if e != nil {
			return m.to(peerOf(e.Host), m.here(e)), MAC{}
		}
		if peer, ok := m.learned[macKey(s.vni, s.dst)]; ok {
			return m.to(peer, peer == 0), MAC{}
		}
	}
	if m.copies(s.vni) == 0 {
		return drop(DropAlone), MAC{}
	}
	return Decision{Verdict: Copies}, MAC{}
}

func (m *slowSwitch) fromPeer(s sketch, peer PeerID) Decision {
	src, srcFenced := m.byMAC(s.vni, s.src)
	dst, dstFenced := m.byMAC(s.vni, s.dst)
	switch {
	case s.src[0]&1 == 1:
		return drop(DropSource)
	case s.dst.IsLinkLocal():
		return drop(DropLinkLocal)
	case srcFenced, src != nil && src.Host == host(int(peer)-1) && dstFenced:
		return drop(DropFenced)
	case src != nil && src.Host != host(int(peer)-1):
		return drop(DropForgedMAC)
	case dstFenced:
		return drop(DropFenced)
	case dst != nil && !m.here(dst):
		return drop(DropElsewhere)
	}
	if src == nil {
		m.learned[macKey(s.vni, s.src)] = peer
	}
	return Decision{Verdict: Deliver}
}

func peerOf(name [16]byte) PeerID { return PeerID(name[7]) } // as host and numbers make them

func TestSwitchLikeModel(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	verdicts := map[Verdict]int{}
	drops := map[Drop]int{}
	for range 150 {
		const hosts, stations = 6, 24
		links := randomLinks(r, hosts, 0.5)
		self := r.IntN(hosts)
		var list []Endpoint
		for n := range r.IntN(stations) {
			e := endpoint(n, r.IntN(hosts))
			e.VNI, e.Claim = VNI(r.IntN(2)), uint64(n)
			if r.IntN(4) == 0 {
				e.MAC = mac(r.IntN(stations))
			}
			if r.IntN(4) == 0 {
				e.Addresses[0] = addr4(r.IntN(stations))
			}
			switch r.IntN(12) {
			case 0:
				e.AllowAnyMAC = true
			case 1:
				e.AllowMACs = []MAC{mac(r.IntN(stations)), mac(stations + 1)}
			case 2:
				e.AllowAddresses = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
			}
			list = append(list, e)
		}
		m := &slowSwitch{self: self, reach: map[PeerID]bool{}, strict: r.IntN(4) == 0, learned: map[uint64]PeerID{}}
		m.holding, m.fenced = modelSettle(list)
		dist := modelCosts(hosts, links).distances(-1)
		for n := range hosts {
			m.reach[PeerID(n+1)] = n != self && dist[self][n] < far
		}
		g := BuildGraph(host(self), links)
		tb := Build(TableConfig{Self: host(self), Peers: numbers(hosts), Graph: g, LinksUp: allUp(g), Endpoints: list, Strict: m.strict})
		s := NewSwitch(SwitchConfig{FramesPerSource: 1e9, CopiesPerHost: 1e9})
		reply := make([]byte, ReplySize)
		for range 1000 {
			k := randomSketch(r, stations)
			frame := k.frame()
			if r.IntN(3) == 0 {
				peer := PeerID(1 + r.IntN(hosts))
				if int(peer)-1 == self {
					continue
				}
				got, want := s.FromPeer(tb, 0, k.vni, peer, frame), m.fromPeer(k, peer)
				got.Flow = 0
				if got != want {
					t.Fatalf("from %d: %+v\n got %+v, want %+v\nholding %v\nfenced %v", peer, k, got, want, m.holding, m.fenced)
				}
				verdicts[got.Verdict]++
				drops[got.Drop]++
				continue
			}
			got, n := s.FromLocal(tb, 0, k.vni, frame, reply)
			want, answer := m.fromLocal(k)
			got.Flow = 0
			if got != want {
				t.Fatalf("from local at %d: %+v\n got %+v (%v), want %+v (%v)\nholding %v\nfenced %v", self, k, got, got.Drop, want, want.Drop, m.holding, m.fenced)
			}
			verdicts[got.Verdict]++
			drops[got.Drop]++
			if (n > 0) != (got.Verdict == Answer) {
				t.Fatalf("%+v: verdict %v with a reply of %d bytes", k, got.Verdict, n)
			}
			if n > 0 {
				checkAnswer(t, k, reply[:n], answer)
			}
		}
	}
	for v := DropFrame; v <= Answer; v++ {
		if verdicts[v] < 100 {
			t.Errorf("verdict %v only %d times", v, verdicts[v])
		}
	}
	for _, d := range []Drop{DropSource, DropLinkLocal, DropForgedMAC, DropForgedAddress, DropFenced, DropUnmanaged, DropHere, DropUnreachable, DropAlone, DropElsewhere} {
		if drops[d] < 50 {
			t.Errorf("reason %v only %d times", d, drops[d])
		}
	}
}

func randomSketch(r *rand.Rand, stations int) sketch {
	station := func() int { return r.IntN(stations + 3) }
	who := station()
	k := sketch{vni: VNI(r.IntN(2)), src: mac(who), dst: mac(station()), kind: r.IntN(kinds), inside: mac(who)}
	switch r.IntN(12) {
	case 0, 1, 2, 3:
		k.dst = Broadcast
	case 4:
		k.dst = MAC{0x01, 0x80, 0xc2, 0, 0, byte(r.IntN(20))}
	case 5:
		k.src = MAC{3}
	}
	other := who
	if r.IntN(4) == 0 {
		other = station()
	}
	if r.IntN(6) == 0 {
		k.inside = mac(station())
	}
	target := station()
	if r.IntN(6) == 0 {
		target = other
	}
	six := k.kind == kindIPv6 || k.kind == kindNS || k.kind == kindNA
	if k.from, k.to = addr4(other), addr4(target); six {
		k.from, k.to = addr6(other), addr6(target)
	}
	switch {
	case r.IntN(8) == 0 && six:
		k.from, k.inside = netip.IPv6Unspecified(), MAC{} // duplicate address detection
	case r.IntN(8) == 0:
		if k.from = netip.IPv4Unspecified(); six {
			k.from = netip.IPv6Unspecified()
		}
	}
	for range max(0, r.IntN(8)-4) {
		k.vlans = append(k.vlans, []uint16{0, 0, 5, 9}[r.IntN(4)])
	}
	return k
}

func checkAnswer(t *testing.T, k sketch, reply []byte, from MAC) {
	t.Helper()
	e, ok := ParseEthernet(reply)
	if !ok || e.Destination != k.src || e.Source != from || e.Tags != 0 {
		t.Fatalf("%+v is answered by %x", k, reply)
	}
	if k.kind == kindARPRequest {
		a, ok := ParseARP(reply[e.Payload:])
		want := ARP{arpReply, from, k.inside, k.to.As4(), k.from.As4()}
		if !ok || a != want || len(reply) != 42 {
			t.Fatalf("%+v is answered by %+v", k, a)
		}
		return
	}
	nd, ok := ParseND(reply[e.Payload:])
	want := ND{Type: ndAdvertisement, Source: k.to.As16(), Destination: k.from.As16(), Target: k.to.As16(), LinkLayer: from}
	flags := reply[ethernetLen+ipv6Len+4]
	wantFlags := uint8(ndSolicited | ndOverride)
	if k.from.IsUnspecified() {
		want.Destination, wantFlags = netip.MustParseAddr("ff02::1").As16(), ndOverride
	}
	if !ok || nd != want || !checksumOK(reply) || flags != wantFlags {
		t.Fatalf("%+v is answered by %+v flags %x, checksum %v", k, nd, flags, checksumOK(reply))
	}
}
