package route

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

func TestParseEthernet(t *testing.T) {
	plain := ethernetFrame(mac(1), mac(2), 0x88b5, []byte("payload"))
	header := Ethernet{Destination: mac(1), Source: mac(2), Type: 0x88b5, Payload: 14}
	with := func(tags, payload int, vlan uint16) Ethernet {
		h := header
		h.Tags, h.Payload, h.VLAN = tags, payload, vlan
		return h
	}
	third := with(2, 22, 7)
	third.Type = typeVLAN
	for _, c := range []struct {
		name  string
		frame []byte
		want  Ethernet
		ok    bool
	}{
		{"untagged", plain, header, true},
		{"no payload", plain[:14], header, true},
		{"priority tag", tagged(plain, typeVLAN, 0xe000), with(1, 18, 0), true},
		{"VLAN 4095", tagged(plain, typeVLAN, 0xffff), with(1, 18, 4095), true},
		{"two tags", tagged(tagged(plain, typeVLAN, 5), typeQinQ, 7), with(2, 22, 7), true},
		{"priority tag outside", tagged(tagged(plain, typeVLAN, 5), typeQinQ, 0xe000), with(2, 22, 5), true},
		{"third tag is a type", tagged(tagged(tagged(plain, typeVLAN, 5), typeQinQ, 7), typeQinQ, 7), third, true},
		{"cut address", plain[:11], Ethernet{}, false},
		{"cut type", plain[:13], Ethernet{}, false},
		{"empty", nil, Ethernet{}, false},
		{"cut tag", tagged(plain, typeVLAN, 5)[:17], Ethernet{}, false},
	} {
		got, ok := ParseEthernet(c.frame)
		if got != c.want || ok != c.ok {
			t.Errorf("%s: %+v %v, want %+v %v", c.name, got, ok, c.want, c.ok)
		}
	}
}

func TestParseARP(t *testing.T) {
	frame := arpFrame(Broadcast, mac(1), arpRequest, mac(1), addr4(1), mac(9), addr4(2))
	want := []byte{
		0, 1, 8, 0, 6, 4, 0, 1,
		2, 0, 0, 0, 0, 1, 10, 32, 0, 1,
		2, 0, 0, 0, 0, 9, 10, 32, 0, 2,
	}
	packet := frame[ethernetLen:]
	if !bytes.Equal(packet, want) {
		t.Fatalf("packet %x, want %x", packet, want)
	}
	a, ok := ParseARP(append(packet[:len(packet):len(packet)], make([]byte, 18)...))
	if !ok || a != (ARP{arpRequest, mac(1), mac(9), addr4(1).As4(), addr4(2).As4()}) {
		t.Errorf("parsed %+v %v", a, ok)
	}
	for n := range packet {
		if _, ok := ParseARP(packet[:n]); ok {
			t.Errorf("%d bytes are taken for a packet", n)
		}
	}
	for _, at := range []int{0, 1, 2, 3, 4, 5} {
		other := bytes.Clone(packet)
		other[at] ^= 1
		if _, ok := ParseARP(other); ok {
			t.Errorf("another kind at byte %d is taken", at)
		}
	}
	if a.Probe() || a.Gratuitous() {
		t.Error("a plain request is taken for a probe or gratuitous")
	}
}

func TestIPSources(t *testing.T) {
	four := ipv4Packet(addr4(1), addr4(2), protoUDP, nil)
	six := ipv6Packet(addr6(1), addr6(2), protoUDP, nil)
	if a, ok := IPv4Source(four); !ok || netip.AddrFrom4(a) != addr4(1) {
		t.Errorf("IPv4 source %v %v", a, ok)
	}
	if a, ok := IPv6Source(six); !ok || netip.AddrFrom16(a) != addr6(1) {
		t.Errorf("IPv6 source %v %v", a, ok)
	}
	for n := range four {
		if _, ok := IPv4Source(four[:n]); ok {
			t.Errorf("IPv4 of %d bytes is taken", n)
		}
	}
	for n := range six {
		if _, ok := IPv6Source(six[:n]); ok {
			t.Errorf("IPv6 of %d bytes is taken", n)
		}
	}
	if _, ok := IPv4Source(six); ok {
		t.Error("IPv6 is taken for IPv4")
	}
	if _, ok := IPv6Source(append(four, make([]byte, 40)...)); ok {
		t.Error("IPv4 is taken for IPv6")
	}
}

// extension puts an extension header of 8*(1+extra) bytes in front of an IPv6
// packet's payload.
func extension(packet []byte, kind uint8, extra int) []byte {
	header := make([]byte, 8*(1+extra))
	header[0], header[1] = packet[6], byte(extra)
	b := bytes.Clone(packet[:ipv6Len])
	b[6] = kind
	b = append(append(b, header...), packet[ipv6Len:]...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6Len))
	return b
}

func TestParseND(t *testing.T) {
	group := netip.MustParseAddr("ff02::1:ff00:2")
	source := linkLayer(ndSourceOption, mac(1))
	target := linkLayer(ndTargetOption, mac(1))
	nonce := []byte{14, 1, 1, 2, 3, 4, 5, 6}
	ask := ndPacket(ndSolicitation, addr6(1), group, addr6(2), append(nonce, source...)...)
	want := ND{Type: ndSolicitation, Source: addr6(1).As16(), Destination: group.As16(), Target: addr6(2).As16(), LinkLayer: mac(1)}
	tell := ndPacket(ndAdvertisement, addr6(1), group, addr6(1), target...)
	wantTell := ND{Type: ndAdvertisement, Source: addr6(1).As16(), Destination: group.As16(), Target: addr6(1).As16(), LinkLayer: mac(1)}
	bare := want
	bare.LinkLayer = MAC{}
	twice := want
	twice.LinkLayer, twice.Ambiguous = mac(5), true
	many := ask
	for range maxExtensions {
		many = extension(many, extDestOpts, 0)
	}
	change := func(packet []byte, at int, value byte) []byte {
		b := bytes.Clone(packet)
		b[at] = value
		return b
	}
	for _, c := range []struct {
		name   string
		packet []byte
		want   ND
		ok     bool
	}{
		{"solicitation", ask, want, true},
		{"advertisement", tell, wantTell, true},
		{"padding behind", append(bytes.Clone(ask), 0, 0, 0), want, true},
		{"without options", ndPacket(ndSolicitation, addr6(1), group, addr6(2)), bare, true},
		{"other option only", ndPacket(ndSolicitation, addr6(1), group, addr6(2), target...), bare, true},
		{"same option twice", ndPacket(ndSolicitation, addr6(1), group, addr6(2), append(bytes.Clone(source), source...)...), want, true},
		{"two that differ", ndPacket(ndSolicitation, addr6(1), group, addr6(2), append(bytes.Clone(source), linkLayer(1, mac(5))...)...), twice, true},
		{"behind hop-by-hop and options", extension(extension(ask, extDestOpts, 2), extHopByHop, 0), want, true},
		{"behind too many headers", many, ND{}, false},
		{"header longer than the packet", change(extension(ask, extDestOpts, 2), ipv6Len+1, 255), ND{}, false},
		{"fragment", extension(ask, 44, 0), ND{}, false},
		{"hop limit 254", change(ask, 7, 254), ND{}, false},
		{"code 1", change(ask, ipv6Len+1, 1), ND{}, false},
		{"echo", change(ask, ipv6Len, 128), ND{}, false},
		{"group as target", ndPacket(ndSolicitation, addr6(1), group, group), ND{}, false},
		{"option without length", change(ask, ipv6Len+ndLen+1, 0), ND{}, false},
		{"option past the end", change(ask, ipv6Len+ndLen+8+1, 2), ND{}, false},
		{"one byte of option", ndPacket(ndSolicitation, addr6(1), group, addr6(2), 1), ND{}, false},
		{"not ICMPv6", change(ask, 6, protoUDP), ND{}, false},
	} {
		got, ok := ParseND(c.packet)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %+v %v, want %+v %v", c.name, got, ok, c.want, c.ok)
		}
	}
	for n := range ask {
		if _, ok := ParseND(ask[:n]); ok {
			t.Errorf("%d of %d bytes are taken", n, len(ask))
		}
	}
}

// checksumOK adds up an ICMPv6 frame byte by byte, as a receiver does (RFC 1071).
func checksumOK(frame []byte) bool {
	ip := frame[ethernetLen:]
	message := ip[ipv6Len:]
	all := append(bytes.Clone(ip[8:40]), 0, 0, byte(len(message)>>8), byte(len(message)), 0, 0, 0, protoICMPv6)
	all = append(all, message...)
	sum := 0
	for i, b := range all {
		if i%2 == 0 {
			sum += int(b) * 256
		} else {
			sum += int(b)
		}
	}
	return sum%0xffff == 0 && sum != 0
}

func TestFlow(t *testing.T) {
	flow := func(frame []byte) uint16 {
		e, ok := ParseEthernet(frame)
		if !ok {
			t.Fatal("cut frame")
		}
		return flowOf(&e, frame)
	}
	labels := map[uint16]int{}
	for port := range uint16(200) {
		labels[flow(udp4(mac(2), 1, 2, port))]++
	}
	if len(labels) < 190 {
		t.Errorf("200 ports have %d labels", len(labels))
	}
	if flow(udp4(mac(2), 1, 2, 5)) != flow(udp4(mac(9), 1, 2, 5)) {
		t.Error("a packet's label depends on the MAC it is sent to")
	}
	first, later := udp4(mac(2), 1, 2, 5), udp4(mac(2), 1, 2, 6)
	first[ethernetLen+6] = 0x20 // more fragments
	later[ethernetLen+7] = 9    // offset
	if flow(first) != flow(later) {
		t.Error("fragments of one packet have two labels")
	}
	for n := ethernetLen; n < len(first); n++ { // no cut frame makes it look too far
		flow(first[:n])
		flow(ask6(1, addr6(2))[:n])
	}
	if flow(ethernetFrame(mac(1), mac(2), 0x88b5, nil)) == flow(ethernetFrame(mac(1), mac(3), 0x88b5, nil)) {
		t.Error("two stations share a label")
	}
}

func TestViewsDoNotAllocate(t *testing.T) {
	arp, nd := ask4(1, addr4(2)), ask6(1, addr6(2))
	if n := testing.AllocsPerRun(100, func() {
		e, _ := ParseEthernet(arp)
		flowOf(&e, arp)
		ParseARP(arp[e.Payload:])
		IPv4Source(arp[e.Payload:])
		IPv6Source(nd[ethernetLen:])
		ParseND(nd[ethernetLen:])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzViews(f *testing.F) {
	f.Add(ask4(1, addr4(2)))
	f.Add(ask6(1, addr6(2)))
	f.Add(tagged(tagged(ask6(1, addr6(2)), typeVLAN, 5), typeQinQ, 7))
	f.Add(ethernetFrame(mac(1), mac(2), typeIPv6, extension(ask6(1, addr6(2))[ethernetLen:], extHopByHop, 1)))
	f.Add(udp4(mac(2), 1, 2, 5))
	f.Fuzz(func(t *testing.T, frame []byte) {
		e, ok := ParseEthernet(frame)
		if !ok {
			return
		}
		if e.Payload != ethernetLen+vlanLen*e.Tags || e.Payload > len(frame) || e.Tags > maxTags || e.VLAN > 4095 {
			t.Fatalf("header %+v of %d bytes", e, len(frame))
		}
		flowOf(&e, frame)
		packet := frame[e.Payload:]
		if a, ok := ParseARP(packet); ok {
			again := make([]byte, arpLen)
			a.put(again)
			if !bytes.Equal(again, packet[:arpLen]) {
				t.Fatalf("ARP %x became %x", packet[:arpLen], again)
			}
		}
		IPv4Source(packet)
		source, six := IPv6Source(packet)
		if nd, ok := ParseND(packet); ok && (!six || nd.Source != source) {
			t.Fatalf("ND %+v, IPv6 source %x %v", nd, source, six)
		}
	})
}
