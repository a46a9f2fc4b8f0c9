package offload

import (
	"encoding/binary"
	"math/bits"

	"ripstop/tun"
)

// A tunnelled frame is a UDP datagram that carries a packet: VXLAN, GENEVE or anything
// else, with or without an inner Ethernet header.
//
//	| Ethernet tags | IP | UDP | encapsulation, inner Ethernet | IP | TCP | payload |
//	0               |    e.l4  e.l4+8                          |    h.l4
//	                e.l3                                       h.l3 = InnerL3
//	                |<---------- envelope -------------------->|<---- headers ---->|
//
// Where the inner packet stands the frame does not say, and need not: what is between
// the outer UDP header and the inner packet is copied as it is, as the kernel does
// (__skb_udp_tunnel_segment in net/ipv4/udp_offload.c). The place comes from the virtio
// header or from who sent the frame, and holds only if there is a whole TCP segment or
// UDP datagram at it, with lengths and IPv4 header checksum that fit, which ends where
// the frame ends.
//
// The outer UDP checksum is 0 where there is none. One that is used is 0xffff in a
// partial frame, and is computed by whoever takes the frame out of the overlay: from the
// headers alone, because what the inner segment adds to it is known beforehand.

// maxTunnelHeader bounds the headers of a tunnelled frame: 252 bytes of GENEVE options
// and the longest of all the others fit.
const maxTunnelHeader = 576

// summedMark is the outer checksum of a partial frame that is to have one.
const summedMark = 0xffff

// envelope is what is around a tunnelled packet. Its zero value is around none. It is
// small, because every Super has one.
type envelope struct {
	rest   uint32 // headerSum of an IPv4 header
	id     uint16
	l3, l4 uint16
	v6     bool
	summed bool // the UDP checksum is used
}

// set describes the envelope in a frame that ends with the UDP datagram, or is false.
func (e *envelope) set(frame []byte, outer *headers) bool {
	if outer.tcp || outer.end != len(frame) {
		return false
	}
	*e = envelope{l3: uint16(outer.l3), l4: uint16(outer.l4), v6: outer.v6}
	e.summed = binary.BigEndian.Uint16(frame[outer.l4+udpChecksum:]) != 0
	if !e.v6 {
		ip := frame[outer.l3:outer.l4]
		e.rest, e.id = uint32(headerSum(ip)), binary.BigEndian.Uint16(ip[ipv4ID:])
	}
	return true
}

// surround describes the envelope of a super-frame of which o tells. It returns where the
// inner packet is to be looked for, 0 when there is no such envelope.
func (e *envelope) surround(frame []byte, o tun.Offload) (innerL3 int) {
	outer, ok := parse(frame)
	// The kernel does not count a tag that it had apart and put into the frame for the
	// reader (virtio_net_hdr_tnl_from_skb in include/linux/virtio_net.h).
	shift := outer.l4 - int(o.OuterL4)
	innerL3 = int(o.InnerL3) + shift
	if !ok || o.Type == tun.GSONone || shift != 0 && (shift != tagLen || outer.l3 == etherLen) ||
		innerL3 < outer.payload || !e.set(frame, &outer) || !e.right(frame) {
		return 0
	}
	return innerL3
}

// open finds a tunnelled packet at innerL3, in a frame that ends with it.
func open(frame []byte, innerL3 int) (e envelope, h headers, ok bool) {
	outer, ok := parse(frame)
	if !ok || innerL3 < outer.payload || !e.set(frame, &outer) {
		return envelope{}, headers{}, false
	}
	h, ok = parseAt(frame, innerL3, maxTunnelHeader)
	return e, h, ok && h.end == len(frame)
}

// bounds finds the end and the version of the IP packet at l3, its fixed header being
// inside the frame.
func bounds(frame []byte, l3 int) (end int, v6, ok bool) {
	if len(frame) < l3+ipv4Len {
		return 0, false, false
	}
	switch frame[l3] >> 4 {
	case 4:
		end = l3 + int(binary.BigEndian.Uint16(frame[l3+ipv4Total:]))
		return end, false, end >= l3+ipv4Len && end <= len(frame)
	case 6:
		if len(frame) < l3+ipv6Len {
			return 0, false, false
		}
		end = l3 + ipv6Len + int(binary.BigEndian.Uint16(frame[l3+ipv6Payload:]))
		return end, true, end <= len(frame)
	}
	return 0, false, false
}

// right tells whether the outer IP header has no checksum or a right one.
func (e *envelope) right(frame []byte) bool {
	return e.v6 || headerRight(frame[e.l3:e.l4], uint64(e.rest))
}

// put writes what differs between the envelopes of segments: of segment i, whose frame
// has length bytes.
func (e *envelope) put(frame []byte, i, length int) {
	l3, l4 := int(e.l3), int(e.l4)
	ip, udp := frame[l3:l4], frame[l4:]
	if e.v6 {
		binary.BigEndian.PutUint16(ip[ipv6Payload:], uint16(length-l3-ipv6Len))
	} else {
		putIPv4(ip, length-l3, e.id+uint16(i), uint64(e.rest))
	}
	_ = udp[udpLen-1]
	binary.BigEndian.PutUint16(udp[udpLength:], uint16(length-l4))
	if e.summed {
		binary.BigEndian.PutUint16(udp[udpChecksum:], summedMark)
	}
}

// pseudo is the sum of the outer pseudo-header for a frame of length bytes.
func (e *envelope) pseudo(frame []byte, length int) uint64 {
	return addresses(frame, int(e.l3), e.v6) + uint64(protoUDP+length-int(e.l4))
}

// finish writes the exact outer checksum if there is to be one. The segment inside, its
// checksum being right or made right by a kernel, sums up to the complement of its
// pseudo-header's sum (segmentation-offloads and checksum-offloads in the kernel's
// Documentation/networking call this LCO).
func (e *envelope) finish(frame []byte, h *headers) {
	if !e.summed {
		return
	}
	l4 := int(e.l4)
	inside := ^fold(h.pseudo(frame, h.end-h.l4))
	if (h.l4-l4)%2 == 1 {
		inside = bits.ReverseBytes16(inside)
	}
	field := frame[l4+udpChecksum:][:2]
	binary.BigEndian.PutUint16(field, 0)
	s := ^fold(sum(frame[l4:h.l4], e.pseudo(frame, len(frame))+uint64(inside)))
	if s == 0 {
		s = 0xffff
	}
	binary.BigEndian.PutUint16(field, s)
}

// follows tells whether the envelope of a frame is that of segment n of first, which has
// this one: equal but for lengths that fit the frame, and the ID.
func (e *envelope) follows(first, frame []byte, n, innerL3 int) bool {
	if len(frame) < innerL3 {
		return false
	}
	l3, l4 := int(e.l3), int(e.l4)
	ip, udp := frame[l3:l4], frame[l4:]
	if e.v6 {
		if !same(first, frame, 0, l3+ipv6Payload) ||
			!same(first, frame, l3+ipv6Next, l4+udpLength) ||
			int(binary.BigEndian.Uint16(ip[ipv6Payload:])) != len(frame)-l3-ipv6Len {
			return false
		}
	} else if !same(first, frame, 0, l3+ipv4Total) ||
		!same(first, frame, l3+ipv4Fragment, l3+ipv4Checksum) ||
		!same(first, frame, l3+ipv4Source, l4+udpLength) ||
		int(binary.BigEndian.Uint16(ip[ipv4Total:])) != len(frame)-l3 ||
		binary.BigEndian.Uint16(ip[ipv4ID:]) != e.id+uint16(n) ||
		!headerRight(ip, uint64(e.rest)) {
		return false
	}
	return int(binary.BigEndian.Uint16(udp[udpLength:])) == len(udp) &&
		same(first, frame, l4+udpChecksum, innerL3)
}

// InnerL3 is where the packet stands that a UDP tunnel carries and that is cut: what
// Joiner.AddTunnelled and CompleteTunnelled must be told of each segment. It is 0 when
// there is no tunnel.
func (s *Super) InnerL3() int {
	if s.around.l4 == 0 {
		return 0
	}
	return s.l3
}

// CompleteTunnelled writes the exact checksums of a partial frame with a tunnelled packet
// at innerL3: the inner one, and the outer UDP datagram's if it has one. It is false, and
// the frame unchanged, when there is no such packet.
func CompleteTunnelled(frame []byte, innerL3 int) bool {
	e, h, ok := open(frame, innerL3)
	if ok {
		h.complete(frame)
		e.finish(frame, &h)
	}
	return ok
}
