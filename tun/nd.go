package tun

import (
	"encoding/binary"
	"net/netip"
)

// A neighbour solicitation or advertisement (RFC 4861 4.3, 4.4) in its IPv6 packet:
//
//	0                        40    41     42       44               48        64
//	+------------------------+-----+------+--------+----------------+---------+---------+
//	| IPv6, hop limit 255    |type | code |checksum| flags, reserved| target  | options |
//	+------------------------+-----+------+--------+----------------+---------+---------+
//
// An option is type 1, length 1 (in units of 8 bytes), value.
const (
	ipv6Header        = 40
	ipv6NextHeader    = 6
	ipv6HopLimit      = 7
	protocolICMPv6    = 58
	ndLen             = 24 // of the ICMPv6 message without options
	ndSolicitation    = 135
	ndAdvertisement   = 136
	ndFirst           = 133 // router solicitation
	ndLast            = 137 // redirect
	ndFlagSolicited   = 0x40
	ndFlagOverride    = 0x20
	ndOptionSourceMAC = 1
	ndOptionTargetMAC = 2
)

// allNodes is the group of every IPv6 node of a link.
var allNodes = netip.MustParseAddr("ff02::1")

type ndMessage struct {
	kind        byte
	source      netip.Addr // unspecified in duplicate address detection
	destination netip.Addr
	target      netip.Addr
	flags       byte
	mac         [6]byte // source link-layer address of a solicitation, target's of an advertisement
	hasMAC      bool
}

// isND tells whether an IPv6 packet is of neighbour discovery (solicitations,
// advertisements, routers', redirects): those concern the link, not the host's
// network layer.
func isND(p []byte) bool {
	return len(p) > ipv6Header && p[ipv6NextHeader] == protocolICMPv6 && p[ipv6Header] >= ndFirst && p[ipv6Header] <= ndLast
}

// parseND reads a solicitation or advertisement and checks what RFC 4861 7.1 asks
// to be checked. p is the IPv6 packet, cut to its own length.
func parseND(p []byte) (m ndMessage, ok bool) {
	if len(p) < ipv6Header+ndLen || p[0]>>4 != 6 || p[ipv6NextHeader] != protocolICMPv6 || p[ipv6HopLimit] != 255 ||
		int(binary.BigEndian.Uint16(p[4:])) != len(p)-ipv6Header {
		return m, false
	}
	b := p[ipv6Header:]
	m.kind = b[0]
	m.source = netip.AddrFrom16([16]byte(p[8:24]))
	m.destination = netip.AddrFrom16([16]byte(p[24:40]))
	m.target = netip.AddrFrom16([16]byte(b[8:24]))
	m.flags = b[4]
	var option byte
	switch m.kind {
	case ndSolicitation:
		option = ndOptionSourceMAC
	case ndAdvertisement:
		option = ndOptionTargetMAC
		if m.destination.IsMulticast() && m.flags&ndFlagSolicited != 0 {
			return m, false
		}
	default:
		return m, false
	}
	if b[1] != 0 || m.target.IsMulticast() || checksumICMPv6(p) != 0 {
		return m, false
	}
	for options := b[ndLen:]; len(options) > 0; {
		if len(options) < 8 || options[1] == 0 || int(options[1])*8 > len(options) {
			return m, false
		}
		if options[0] == option {
			copy(m.mac[:], options[2:8])
			m.hasMAC = true
		}
		options = options[int(options[1])*8:]
	}
	if m.source.IsUnspecified() && m.hasMAC && m.kind == ndSolicitation {
		return m, false
	}
	return m, true
}

// frame is the message as an Ethernet frame from the MAC address from.
func (m ndMessage) frame(to, from [6]byte) []byte {
	length := ndLen
	if m.hasMAC {
		length += 8
	}
	f := make([]byte, etherHeader+ipv6Header+length)
	putEthernet(f, to, from, etherIPv6)
	p := f[etherHeader:]
	p[0] = 6 << 4
	binary.BigEndian.PutUint16(p[4:], uint16(length))
	p[ipv6NextHeader], p[ipv6HopLimit] = protocolICMPv6, 255
	source, destination, target := m.source.As16(), m.destination.As16(), m.target.As16()
	copy(p[8:], source[:])
	copy(p[24:], destination[:])
	b := p[ipv6Header:]
	b[0], b[4] = m.kind, m.flags
	copy(b[8:], target[:])
	if m.hasMAC {
		b[ndLen] = ndOptionSourceMAC
		if m.kind == ndAdvertisement {
			b[ndLen] = ndOptionTargetMAC
		}
		b[ndLen+1] = 1
		copy(b[ndLen+2:], m.mac[:])
	}
	binary.BigEndian.PutUint16(b[2:], checksumICMPv6(p))
	return f
}

// solicitedNode is the group at which an address is asked for (RFC 4291 2.7.1).
func solicitedNode(address netip.Addr) netip.Addr {
	group := [16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff}
	a := address.As16()
	copy(group[13:], a[13:])
	return netip.AddrFrom16(group)
}

// checksumICMPv6 is the sum over pseudo-header and message of an IPv6 packet
// without extension headers: what belongs in an empty field, or 0 when the field
// is filled rightly (RFC 4443 2.3).
func checksumICMPv6(p []byte) uint16 {
	sum := uint32(len(p)-ipv6Header) + protocolICMPv6
	for b := p[8:]; len(b) > 0; {
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
			break
		}
		sum += uint32(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
