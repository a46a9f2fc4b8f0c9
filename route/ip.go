package route

import "encoding/binary"

const (
	ipv4Len       = 20
	ipv6Len       = 40
	protoTCP      = 6
	protoUDP      = 17
	protoICMPv6   = 58
	extHopByHop   = 0
	extRouting    = 43
	extDestOpts   = 60
	maxExtensions = 8 // more extension headers than this are not looked behind
)

// IPv4Source returns the source address of an IPv4 packet; false when the header
// is cut or not of version 4. It does not allocate.
func IPv4Source(packet []byte) ([4]byte, bool) {
	if len(packet) < ipv4Len || packet[0]>>4 != 4 {
		return [4]byte{}, false
	}
	return [4]byte(packet[12:16]), true
}

// IPv6Source returns the source address of an IPv6 packet; false when the header
// is cut or not of version 6. It does not allocate.
func IPv6Source(packet []byte) ([16]byte, bool) {
	if len(packet) < ipv6Len || packet[0]>>4 != 6 {
		return [16]byte{}, false
	}
	return [16]byte(packet[8:24]), true
}

// ipv6Upper skips hop-by-hop, routing and destination options headers and returns
// the upper protocol and its bytes, cut to the packet's payload length. It reports
// false when a length leads out of the packet, when there are more than
// maxExtensions headers, and for a packet longer than what is there.
func ipv6Upper(packet []byte) (proto uint8, upper []byte, ok bool) {
	if len(packet) < ipv6Len || packet[0]>>4 != 6 {
		return 0, nil, false
	}
	proto, upper = packet[6], packet[ipv6Len:]
	length := int(binary.BigEndian.Uint16(packet[4:6]))
	if length > len(upper) {
		return 0, nil, false
	}
	upper = upper[:length]
	for range maxExtensions {
		if proto != extHopByHop && proto != extRouting && proto != extDestOpts {
			return proto, upper, true
		}
		if len(upper) < 8 {
			return 0, nil, false
		}
		skip := 8 * (1 + int(upper[1]))
		if skip > len(upper) {
			return 0, nil, false
		}
		proto, upper = upper[0], upper[skip:]
	}
	return 0, nil, false
}

// flowOf is the flow label of a frame: a hash over its addresses, protocol and
// ports, or over the MAC addresses when it is not IP. Fragments have no ports; a
// packet's fragments share one label. It is the same whether the frame goes out as
// unicast or as copies, so that the two keep their order.
func flowOf(e *Ethernet, frame []byte) uint16 {
	packet := frame[e.Payload:]
	h := uint64(0)
	switch {
	case e.Type == typeIPv4 && len(packet) >= ipv4Len && packet[0]>>4 == 4:
		h = mix(binary.BigEndian.Uint64(packet[12:20]), uint64(packet[9]))
		header := 4 * int(packet[0]&0x0f)
		whole := binary.BigEndian.Uint16(packet[6:8])&0x3fff == 0
		if whole && (packet[9] == protoTCP || packet[9] == protoUDP) && len(packet) >= header+4 {
			h = mix(h, uint64(binary.BigEndian.Uint32(packet[header:])))
		}
	case e.Type == typeIPv6 && len(packet) >= ipv6Len && packet[0]>>4 == 6:
		h = mix(binary.BigEndian.Uint64(packet[8:16]), binary.BigEndian.Uint64(packet[24:32]))
		h = mix(h^binary.BigEndian.Uint64(packet[16:24]), binary.BigEndian.Uint64(packet[32:40])+uint64(packet[6]))
		if (packet[6] == protoTCP || packet[6] == protoUDP) && len(packet) >= ipv6Len+4 {
			h = mix(h, uint64(binary.BigEndian.Uint32(packet[ipv6Len:])))
		}
	default:
		h = mix(e.Destination.word(), e.Source.word())
	}
	return uint16(h ^ h>>16 ^ h>>32 ^ h>>48)
}
