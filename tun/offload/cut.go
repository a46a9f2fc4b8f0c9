package offload

import "encoding/binary"

// Step is how many payload bytes each segment but the last carries when the path
// takes at most size: the lesser of size and SegmentSize, but SegmentSize when
// Whole. More than size means that the segments don't fit the path as they are.
func (s *Super) Step(size int) int {
	if s.Whole || size >= s.SegmentSize || size < 1 {
		return s.SegmentSize
	}
	return size
}

// Count is the number of segments, at least 1, when each carries Step(size)
// payload bytes.
func (s *Super) Count(size int) int {
	step := s.Step(size)
	if s.Payload <= step {
		return 1
	}
	return (s.Payload + step - 1) / step
}

// Put writes segment i of the frame that was parsed, with its headers, to dst and
// returns its length, at most HeaderLen+Step(size), for which dst must have room;
// 0 when there is no such segment. Its layer 4 checksum is partial: the field is
// 0. frame and dst must not overlap; frame is not changed. Padding behind the IP
// packet is left out.
func (s *Super) Put(dst, frame []byte, i, size int) int {
	from, n, ok := s.segment(i, size)
	if !ok {
		return 0
	}
	_, _ = dst[s.HeaderLen+n-1], frame[s.HeaderLen+from+n-1] // slicing alone would allow up to the capacity
	copy(dst[:s.HeaderLen], frame[:s.HeaderLen])
	copy(dst[s.HeaderLen:s.HeaderLen+n], frame[s.HeaderLen+from:s.HeaderLen+from+n])
	s.put(dst[:s.HeaderLen], i, from, n)
	return s.HeaderLen + n
}

// Lay is Put in the frame itself: segment i becomes frame[from:to], its headers where the
// end of the segment before it stood, which is lost. The segments are laid in order, and
// head is a copy of the frame's first HeaderLen bytes as they were. to is 0 when there is
// no such segment.
//
//	| headers | aaaaaaa | bbbbbbb |    segment 0 | headers 0 | aaaaaaa |
//	                                   segment 1         | headers 1 | bbbbbbb |
func (s *Super) Lay(frame, head []byte, i, size int) (from, to int) {
	from, n, ok := s.segment(i, size)
	if !ok {
		return 0, 0
	}
	to = from + s.HeaderLen + n
	_, _ = head[s.HeaderLen-1], frame[to-1]
	copy(frame[from:from+s.HeaderLen], head)
	s.put(frame[from:from+s.HeaderLen], i, from, n)
	return from, to
}

// segment is where the payload of segment i begins, from the frame's first payload byte
// on, and how long it is.
func (s *Super) segment(i, size int) (from, n int, ok bool) {
	step := s.Step(size)
	if i < 0 || i > s.Payload || i > 0 && i*step >= s.Payload {
		return 0, 0, false
	}
	from = i * step
	return from, min(step, s.Payload-from), true
}

// put writes what differs between the headers of segments: of segment i, whose n bytes of
// payload begin at from.
func (s *Super) put(head []byte, i, from, n int) {
	if s.around.l4 != 0 {
		s.around.put(head, i, s.HeaderLen+n)
	}
	ip, l4 := head[s.l3:s.ChecksumStart], head[s.ChecksumStart:]
	if s.v6 {
		binary.BigEndian.PutUint16(ip[ipv6Payload:], uint16(s.HeaderLen-s.l3-ipv6Len+n))
	} else {
		putIPv4(ip, s.HeaderLen-s.l3+n, s.id+uint16(i), s.rest)
	}
	if !s.tcp {
		_ = l4[udpLen-1]
		binary.BigEndian.PutUint16(l4[udpLength:], uint16(udpLen+n))
		binary.BigEndian.PutUint16(l4[udpChecksum:], 0)
		return
	}
	_ = l4[tcpLen-1]
	binary.BigEndian.PutUint32(l4[tcpSequence:], s.sequence+uint32(from))
	if i > 0 {
		l4[tcpFlags] &^= flagCWR
	}
	if from+n < s.Payload {
		l4[tcpFlags] &^= flagFIN | flagPSH
	}
	binary.BigEndian.PutUint16(l4[tcpChecksum:], 0)
}

// putIPv4 writes the fields of an IPv4 header that differ between segments, rest
// being what headerSum says of it.
func putIPv4(ip []byte, total int, id uint16, rest uint64) {
	_ = ip[ipv4Len-1]
	binary.BigEndian.PutUint16(ip[ipv4Total:], uint16(total))
	binary.BigEndian.PutUint16(ip[ipv4ID:], id)
	binary.BigEndian.PutUint16(ip[ipv4Checksum:], ^fold(rest+uint64(total)+uint64(id)))
}

// Normalise makes the layer 4 checksum of the frame that was parsed partial, in
// place: the field becomes 0, as Put leaves it.
func (s *Super) Normalise(frame []byte) {
	binary.BigEndian.PutUint16(frame[s.ChecksumStart+s.ChecksumOffset:], 0)
}

// Sound reports whether the layer 4 checksum of the frame that was parsed, a
// finished one, is right. A finished frame with a wrong one must not be cut: the
// segments would get right ones, and what was damaged would pass for sound.
func (s *Super) Sound(frame []byte) bool {
	end := s.HeaderLen + s.Payload
	proto := uint64(protoUDP)
	if s.tcp {
		proto = protoTCP
	}
	return fold(sum(frame[s.ChecksumStart:end], addresses(frame, s.l3, s.v6)+proto+uint64(end-s.ChecksumStart))) == 0xffff
}
