package firewall

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

var broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func ether(dst, src [6]byte, proto uint16, payload []byte) []byte {
	b := append(append(bytes.Clone(dst[:]), src[:]...), 0, 0)
	binary.BigEndian.PutUint16(b[12:], proto)
	return append(b, payload...)
}

// tagged puts a VLAN tag behind the addresses.
func tagged(frame []byte, tpid uint16) []byte {
	b := bytes.Clone(frame[:12])
	b = binary.BigEndian.AppendUint16(b, tpid)
	b = binary.BigEndian.AppendUint16(b, 7) // VLAN 7
	return append(b, frame[12:]...)
}

func arp(op uint16, sha [6]byte, spa netip.Addr, tha [6]byte, tpa netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, sha[:]...), spa.AsSlice()...)
	b = append(append(b, tha[:]...), tpa.AsSlice()...)
	return append(b, make([]byte, 18)...) // the shortest Ethernet frame's padding
}

// sum is the Internet checksum, RFC 1071.
func sum(parts ...[]byte) uint16 {
	var s uint32
	for _, b := range parts {
		for i := 0; i+1 < len(b); i += 2 {
			s += uint32(b[i])<<8 | uint32(b[i+1])
		}
		if len(b)%2 == 1 {
			s += uint32(b[len(b)-1]) << 8
		}
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

func ipv4(src, dst netip.Addr, proto byte, payload []byte) []byte {
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], sum(b))
	return append(b, payload...)
}

// udp has no checksum, which IPv4 allows; nothing here receives it over IPv6.
func udp(sport, dport uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	return append(b, 0, 28, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)
}

func ipv6(src, dst netip.Addr, next byte, payload []byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, next, 255
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, payload...)
}

// icmpv6 is a whole IPv6 packet with a right checksum.
func icmpv6(src, dst netip.Addr, kind byte, body []byte) []byte {
	m := append([]byte{kind, 0, 0, 0}, body...)
	length := binary.BigEndian.AppendUint32(nil, uint32(len(m)))
	binary.BigEndian.PutUint16(m[2:], sum(src.AsSlice(), dst.AsSlice(), length, []byte{0, 0, 0, unix.IPPROTO_ICMPV6}, m))
	return ipv6(src, dst, unix.IPPROTO_ICMPV6, m)
}

// behindOptions puts a destination-options header in front of what an IPv6 packet
// carries.
func behindOptions(packet []byte) []byte {
	b := append(bytes.Clone(packet[:40]), packet[6], 0, 1, 4, 0, 0, 0, 0)
	b[6] = unix.IPPROTO_DSTOPTS
	binary.BigEndian.PutUint16(b[4:], binary.BigEndian.Uint16(b[4:])+8)
	return append(b, packet[40:]...)
}

// nd is the body of a solicitation (flags 0) or advertisement (override) behind the
// ICMPv6 header.
func nd(flags byte, target netip.Addr, options ...[]byte) []byte {
	return append(append([]byte{flags, 0, 0, 0}, target.AsSlice()...), bytes.Join(options, nil)...)
}

const (
	override  = 0x20
	solicited = 0x60
)

func linkAddress(kind byte, mac [6]byte) []byte { return append([]byte{kind, 1}, mac[:]...) }

var nonce = []byte{14, 1, 1, 2, 3, 4, 5, 6}
