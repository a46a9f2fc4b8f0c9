package route

import "encoding/binary"

const (
	ndSolicitation  = 135
	ndAdvertisement = 136
	ndLen           = 24 // type, code, checksum, flags, target
	ndSourceOption  = 1
	ndTargetOption  = 2
	ndHopLimit      = 255
	ndSolicited     = 0x40
	ndOverride      = 0x20
	ndAnswerLen     = ethernetLen + ipv6Len + ndLen + 8
)

// allNodes is ff02::1.
var allNodes = [16]byte{0: 0xff, 1: 0x02, 15: 1}

// ND is a neighbour solicitation or advertisement (RFC 4861 sections 4.3 and 4.4)
// with its IPv6 addresses.
//
//	0    1    2        4              8                24
//	+----+----+--------+--------------+----------------+-----------------
//	|type|code|checksum| flags        | target         | options: type 1,
//	+----+----+--------+--------------+----------------+ length in 8 bytes 1, ...
type ND struct {
	Type                uint8
	Source, Destination [16]byte
	Target              [16]byte
	// LinkLayer is the source link-layer address of a solicitation, the target
	// link-layer address of an advertisement; zero when absent. Ambiguous: there
	// are several that differ, and receivers don't agree which one counts.
	LinkLayer MAC
	Ambiguous bool
}

// ParseND reads an IPv6 packet that is a neighbour solicitation or advertisement,
// also behind hop-by-hop, routing and destination options headers. It reports false
// for everything else, for what RFC 4861 section 7.1 tells hosts to discard (hop
// limit, code, an option without length or past the end, a group as target) and for
// a fragment (RFC 6980). The checksum is not verified: who is answered is the local
// sender itself. It does not allocate.
func ParseND(packet []byte) (ND, bool) {
	proto, b, ok := ipv6Upper(packet)
	if !ok || proto != protoICMPv6 || packet[7] != ndHopLimit || len(b) < ndLen || b[1] != 0 {
		return ND{}, false
	}
	n := ND{
		Type:        b[0],
		Source:      [16]byte(packet[8:24]),
		Destination: [16]byte(packet[24:40]),
		Target:      [16]byte(b[8:24]),
	}
	var want uint8
	switch n.Type {
	case ndSolicitation:
		want = ndSourceOption
	case ndAdvertisement:
		want = ndTargetOption
	default:
		return ND{}, false
	}
	if n.Target[0] == 0xff {
		return ND{}, false
	}
	for options := b[ndLen:]; len(options) > 0; {
		if len(options) < 2 {
			return ND{}, false
		}
		length := 8 * int(options[1])
		if length == 0 || length > len(options) {
			return ND{}, false
		}
		if options[0] == want && options[1] == 1 {
			found := MAC(options[2:8])
			n.Ambiguous = n.Ambiguous || !n.LinkLayer.IsZero() && n.LinkLayer != found
			n.LinkLayer = found
		}
		options = options[length:]
	}
	return n, true
}

// Probe reports whether the sender asks before using the address (duplicate
// address detection, RFC 4862).
func (n ND) Probe() bool { return n.Source == [16]byte{} }

// putND writes a neighbour advertisement frame that says that target is at mac,
// and returns its length. b must have ReplySize bytes.
func putND(b []byte, destinationMAC, mac MAC, destination, target [16]byte, flags uint8) int {
	putEthernet(b, destinationMAC, mac, typeIPv6)
	ip := b[ethernetLen : ethernetLen+ipv6Len]
	binary.BigEndian.PutUint32(ip[0:4], 6<<28)
	binary.BigEndian.PutUint16(ip[4:6], ndLen+8)
	ip[6], ip[7] = protoICMPv6, ndHopLimit
	copy(ip[8:24], target[:])
	copy(ip[24:40], destination[:])
	icmp := b[ethernetLen+ipv6Len : ndAnswerLen]
	clear(icmp[:8])
	icmp[0], icmp[4] = ndAdvertisement, flags
	copy(icmp[8:24], target[:])
	icmp[24], icmp[25] = ndTargetOption, 1
	copy(icmp[26:32], mac[:])
	binary.BigEndian.PutUint16(icmp[2:4], icmpv6Sum(ip, icmp))
	return ndAnswerLen
}

// putNDAnswer answers a solicitation. A probe's answer is addressed to all nodes
// (RFC 4861 section 7.2.4) but still sent to the asking port alone.
func putNDAnswer(b []byte, asker MAC, ask ND, mac MAC) int {
	if ask.Probe() {
		return putND(b, asker, mac, allNodes, ask.Target, ndOverride)
	}
	return putND(b, asker, mac, ask.Source, ask.Target, ndSolicited|ndOverride)
}

// icmpv6Sum is the checksum of message, whose checksum field is zero, over the
// pseudo-header of ip (RFC 4443 section 2.3, RFC 8200 section 8.1). The message's
// length is even.
func icmpv6Sum(ip, message []byte) uint16 {
	sum := uint32(len(message)) + protoICMPv6
	for i := 8; i < ipv6Len; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	return internetSum(sum, message)
}

// internetSum is the checksum of RFC 1071 over message, whose length is even, and what
// was summed before.
func internetSum(sum uint32, message []byte) uint16 {
	for i := 0; i < len(message); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(message[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
