package offload

import (
	"encoding/binary"
	"math/bits"

	"ripstop/tun"
)

// Complete finishes, in place, a checksum that the virtio header says is
// unfinished: the field holds the folded sum of the pseudo-header, and the bytes
// from ChecksumStart to the end of the packet are added to it. The place is o's and
// may be inside a tunnel. A frame that is finished already stays as it is.
//
// It is false, and the frame unchanged, for a super-frame and for a place that is
// outside the packet or inside its first IP header.
func Complete(frame []byte, o tun.Offload) bool {
	if o.Type != tun.GSONone {
		return false
	}
	if !o.NeedsChecksum {
		return true
	}
	start, end := int(o.ChecksumStart), len(frame)
	first := etherLen
	if l3, packetEnd, v6, ok := network(frame); ok {
		end = packetEnd // padding is no part of any sum
		if first = l3 + int(frame[l3]&0x0f)*4; v6 {
			first = l3 + ipv6Len
		}
	}
	field := start + int(o.ChecksumOffset)
	if start < first || field+2 > end {
		return false
	}
	s := ^fold(sum(frame[start:end], 0))
	if s == 0 && o.ChecksumOffset == udpChecksum {
		s = 0xffff
	}
	binary.BigEndian.PutUint16(frame[field:], s)
	return true
}

// CompleteSegment writes the exact layer 4 checksum of a partial frame, whatever
// its field held. It is false, and the frame unchanged, when the frame is no whole
// TCP segment or UDP datagram.
func CompleteSegment(frame []byte) bool {
	h, ok := parse(frame)
	if ok {
		h.complete(frame)
	}
	return ok
}

// complete writes the exact layer 4 checksum.
func (h *headers) complete(frame []byte) {
	field := frame[h.l4+h.checksumOffset():][:2]
	binary.BigEndian.PutUint16(field, 0)
	s := ^fold(sum(frame[h.l4:h.end], h.pseudo(frame, h.end-h.l4)))
	if s == 0 && !h.tcp {
		s = 0xffff // 0 means that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(field, s)
}

// Partial makes of a partial frame, in place, one that a kernel finishes, and
// returns what its virtio header must say: the field holds the folded, not inverted
// sum of the pseudo-header with the layer 4 length of this frame. A frame with
// padding that isn't zero is finished here instead, and what is returned says so:
// the kernel would add the padding to the sum.
//
// It is false, and the frame unchanged, when the frame is no whole TCP segment or
// UDP datagram.
func Partial(frame []byte) (tun.Offload, bool) {
	h, ok := parse(frame)
	if !ok {
		return tun.Offload{}, false
	}
	for _, b := range frame[h.end:] {
		if b != 0 {
			h.complete(frame)
			return tun.Offload{}, true
		}
	}
	return h.partial(frame, h.end-h.l4), true
}

// partial writes the sum of the pseudo-header for length bytes from l4 on.
func (h *headers) partial(frame []byte, length int) tun.Offload {
	offset := h.checksumOffset()
	binary.BigEndian.PutUint16(frame[h.l4+offset:], fold(h.pseudo(frame, length)))
	return tun.Offload{NeedsChecksum: true, ChecksumStart: uint16(h.l4), ChecksumOffset: uint16(offset)}
}

// pseudo is the sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section
// 8.1) for length bytes of layer 4.
func (h *headers) pseudo(frame []byte, length int) uint64 {
	proto := protoUDP
	if h.tcp {
		proto = protoTCP
	}
	return addresses(frame, h.l3, h.v6) + uint64(proto+length)
}

// addresses is the sum of the IP addresses.
func addresses(frame []byte, l3 int, v6 bool) uint64 {
	if v6 {
		return uint64(fold(sum(frame[l3+ipv6Source:l3+ipv6Len], 0)))
	}
	source := binary.BigEndian.Uint64(frame[l3+ipv4Source:])
	return source>>32 + source&0xffffffff
}

// sum adds big-endian 16-bit words to s in ones' complement (RFC 1071); a last odd
// byte is the high half of a word. The result is as wide as s and is to be folded.
func sum(b []byte, s uint64) uint64 {
	var carry uint64
	for len(b) >= 32 {
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b), 0)
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b[8:]), carry)
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b[16:]), carry)
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b[24:]), carry)
		s += carry // no overflow: after a carry s is never all ones
		b = b[32:]
	}
	for len(b) >= 8 {
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b), 0)
		s += carry
		b = b[8:]
	}
	// What is left, in the high bytes of one word.
	var rest uint64
	for i, c := range b {
		rest |= uint64(c) << (56 - 8*i)
	}
	s, carry = bits.Add64(s, rest, 0)
	return s + carry
}

// fold makes 16 bits of a sum. It is 0 only of 0.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s)
}
