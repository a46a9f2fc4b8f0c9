package route

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// TestFit: what is longer than its receiver takes is answered, where an answer is due.
func TestFit(t *testing.T) {
	const mtu = 1400
	v4 := func(proto uint8, payload []byte) []byte { return ipv4Packet(addr4(1), addr4(11), proto, payload) }
	v6 := func(next uint8, payload []byte) []byte { return ipv6Packet(addr6(1), addr6(11), next, payload) }
	eth := func(etherType uint16, packet []byte) []byte {
		return ethernetFrame(mac(11), mac(1), etherType, packet)
	}
	long := func(first ...byte) []byte { return append(first, bytes.Repeat([]byte{7}, 1500)...) }
	with := func(packet []byte, at int, value byte) []byte { packet[at] = value; return packet }
	for _, c := range []struct {
		name  string
		frame []byte
		mtu   uint16
		want  string
	}{
		{"IPv4 that just fits", eth(typeIPv4, v4(protoUDP, make([]byte, mtu-20))), mtu, "peer 2"},
		{"the same with two tags", tagged(tagged(eth(typeIPv4, v4(protoUDP, make([]byte, mtu-20))), typeVLAN, 5), typeQinQ, 7), mtu, "peer 2"},
		{"IPv4 of one byte more", eth(typeIPv4, v4(protoUDP, make([]byte, mtu-19))), mtu, "answer"},
		{"the same with two tags", tagged(tagged(eth(typeIPv4, v4(protoUDP, make([]byte, mtu-19))), typeVLAN, 5), typeQinQ, 7), mtu, "answer"},
		{"nothing is known", eth(typeIPv4, v4(protoUDP, long())), 0, "peer 2"},
		{"an echo", eth(typeIPv4, v4(protoICMP, long(icmpEcho))), mtu, "answer"},
		{"an echo's answer", eth(typeIPv4, v4(protoICMP, long(icmpEchoReply))), mtu, "answer"},
		{"an ICMP error", eth(typeIPv4, v4(protoICMP, long(icmpUnreachable))), mtu, "longer-than-receiver"},
		{"the first fragment", eth(typeIPv4, with(v4(protoUDP, long()), 6, 0x20)), mtu, "answer"},
		{"a later fragment", eth(typeIPv4, with(v4(protoUDP, long()), 7, 1)), mtu, "longer-than-receiver"},
		{"from nobody's address", eth(typeIPv4, ipv4Packet(netip.IPv4Unspecified(), addr4(11), protoUDP, long())), mtu, "longer-than-receiver"},
		{"from a group", eth(typeIPv4, ipv4Packet(netip.MustParseAddr("224.0.0.1"), addr4(11), protoUDP, long())), mtu, "longer-than-receiver"},
		{"a header that is too short", eth(typeIPv4, with(v4(protoUDP, long()), 0, 0x44)), mtu, "longer-than-receiver"},
		{"options", eth(typeIPv4, with(v4(protoUDP, long()), 0, 0x4f)), mtu, "answer"},
		{"IPv6 that just fits", eth(typeIPv6, v6(protoUDP, make([]byte, mtu-40))), mtu, "peer 2"},
		{"IPv6 of one byte more", eth(typeIPv6, v6(protoUDP, make([]byte, mtu-39))), mtu, "answer"},
		{"the same with two tags", tagged(tagged(eth(typeIPv6, v6(protoUDP, make([]byte, mtu-39))), typeVLAN, 5), typeQinQ, 7), mtu, "answer"},
		{"an ICMPv6 error", eth(typeIPv6, v6(protoICMPv6, long(icmpv6TooBig))), mtu, "longer-than-receiver"},
		{"an ICMPv6 echo", eth(typeIPv6, v6(protoICMPv6, long(128))), mtu, "answer"},
		{"IPv6 from nobody's address", eth(typeIPv6, ipv6Packet(netip.IPv6Unspecified(), addr6(11), protoUDP, long())), mtu, "longer-than-receiver"},
		{"IPv6 to where there can be none", eth(typeIPv6, v6(protoUDP, long())), 1279, "longer-than-receiver"},
		{"neither", eth(0x88b5, long()), mtu, "longer-than-receiver"},
	} {
		before := bytes.Clone(c.frame)
		reply := make([]byte, ReplySize)
		ask := Decision{Verdict: ToPeer, Peer: 2, MTU: c.mtu}
		d, n := ask.Fit(c.frame, reply)
		if got := text(d); got != c.want || (n > 0) != (d.Verdict == Answer) || !bytes.Equal(before, c.frame) {
			t.Errorf("%s: %s of %d bytes, want %s", c.name, got, n, c.want)
		}
		if d.Verdict == Answer {
			checkTooBig(t, c.name, reply[:n], c.frame, c.mtu)
			if d, _ := ask.Fit(c.frame, reply[:ReplySize-1]); d.Drop != DropReplyRoom {
				t.Errorf("%s: %s in too little room", c.name, text(d))
			}
		}
		if allocs := testing.AllocsPerRun(10, func() { ask.Fit(c.frame, reply) }); allocs != 0 {
			t.Errorf("%s: %v allocations", c.name, allocs)
		}
	}
}

// checkTooBig wants answer to be what a router says of the frame.
func checkTooBig(t *testing.T, name string, answer, frame []byte, mtu uint16) {
	t.Helper()
	got, _ := ParseEthernet(answer)
	asked, _ := ParseEthernet(frame)
	if got.Source != asked.Destination || got.Destination != asked.Source || got.Tags != asked.Tags || got.VLAN != asked.VLAN || got.Type != asked.Type {
		t.Errorf("%s: header %+v for %+v", name, got, asked)
	}
	packet, about := answer[got.Payload:], frame[asked.Payload:]
	var icmp []byte
	if got.Type == typeIPv4 {
		icmp = packet[ipv4Len:]
		if int(binary.BigEndian.Uint16(packet[2:])) != len(packet) || internetSum(0, packet[:ipv4Len]) != 0 || internetSum(0, icmp) != 0 {
			t.Errorf("%s: length or sums: %x", name, packet)
		}
		if !bytes.Equal(packet[12:16], about[16:20]) || !bytes.Equal(packet[16:20], about[12:16]) || packet[9] != protoICMP {
			t.Errorf("%s: addresses: %x", name, packet)
		}
		if icmp[0] != 3 || icmp[1] != 4 || binary.BigEndian.Uint16(icmp[6:]) != mtu {
			t.Errorf("%s: %x", name, icmp[:8])
		}
	} else {
		icmp = packet[ipv6Len:]
		if int(binary.BigEndian.Uint16(packet[4:])) != len(icmp) || icmpv6Sum(packet[:ipv6Len], icmp) != 0 {
			t.Errorf("%s: length or sum: %x", name, packet)
		}
		if !bytes.Equal(packet[8:24], about[24:40]) || !bytes.Equal(packet[24:40], about[8:24]) || packet[6] != protoICMPv6 {
			t.Errorf("%s: addresses: %x", name, packet)
		}
		if icmp[0] != 2 || icmp[1] != 0 || binary.BigEndian.Uint32(icmp[4:]) != uint32(mtu) {
			t.Errorf("%s: %x", name, icmp[:8])
		}
	}
	if quoted := icmp[8:]; len(quoted) < 28 || !bytes.HasPrefix(about, quoted) {
		t.Errorf("%s: it quotes %x", name, quoted)
	}
}

// TestFitOfEndpoints: the switch knows how long a packet an endpoint takes.
func TestFitOfEndpoints(t *testing.T) {
	tb, s := scene(t, func(cfg *TableConfig) { cfg.Endpoints[2].MTU = 1400 })
	for n, want := range map[int]uint16{11: 1400, 12: 0} {
		if d, _ := s.FromLocal(tb, 0, 0, udp4(mac(n), 1, n, 5), make([]byte, ReplySize)); d.MTU != want {
			t.Errorf("station %d: MTU %d, want %d", n, d.MTU, want)
		}
	}
}
