package offload

import (
	"encoding/binary"

	"ripstop/tun"
)

// EtherTypes (IANA "IEEE 802 numbers") and IP protocol numbers looked into.
const (
	etherIPv4        = 0x0800
	etherVLAN        = 0x8100
	etherServiceVLAN = 0x88a8
	etherIPv6        = 0x86dd

	protoHopByHop    = 0
	protoTCP         = 6
	protoUDP         = 17
	protoRouting     = 43
	protoDestination = 60
)

// Lengths of headers in bytes, and where the fields that change stand in them.
const (
	etherLen = 14
	tagLen   = 4
	maxTags  = 2

	ipv4Len      = 20
	ipv4Total    = 2
	ipv4ID       = 4
	ipv4Fragment = 6
	ipv4Protocol = 9
	ipv4Checksum = 10
	ipv4Source   = 12

	ipv6Len     = 40
	ipv6Payload = 4
	ipv6Next    = 6
	ipv6Source  = 8

	tcpLen      = 20
	tcpSequence = 4
	tcpAck      = 8
	tcpOffset   = 12
	tcpFlags    = 13
	tcpWindow   = 14
	tcpChecksum = 16
	tcpUrgent   = 18

	udpLen      = 8
	udpLength   = 4
	udpChecksum = 6
)

// TCP flags.
const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagPSH = 0x08
	flagURG = 0x20
	flagCWR = 0x80
)

const (
	// maxHeader bounds the headers of what is cut or joined, so that a path that
	// carries more than that always carries some payload too.
	maxHeader = 256
	// maxSegments bounds what one super-frame may ask for: 64 KiB at the smallest
	// TCP segment of the kernel (TCP_MIN_SND_MSS, 48) are 1366.
	maxSegments = 2048
)

// headers are the offsets of one frame's parts.
type headers struct {
	l3, l4  int
	payload int // behind the TCP or UDP header
	end     int // of the IP packet; padding may follow
	tcp, v6 bool
}

// parse finds a whole TCP segment or UDP datagram in a frame. It is false for
// everything else, also where the sum's pseudo-header isn't what the IP header
// shows (source routes, Mobile IPv6).
func parse(frame []byte) (headers, bool) { return parseAt(frame, 0, maxHeader) }

// parseAt is parse of the IP packet at l3, or of the frame's own where that is 0; the
// headers end at limit at most.
func parseAt(frame []byte, l3, limit int) (headers, bool) {
	var h headers
	var proto byte
	var ok bool
	if l3 == 0 {
		h.l3, h.end, h.v6, ok = network(frame)
	} else {
		h.l3 = l3
		h.end, h.v6, ok = bounds(frame, l3)
	}
	if !ok {
		return headers{}, false
	}
	if h.v6 {
		if h.l4, proto, ok = extensions(frame[:h.end], h.l3, limit); !ok {
			return headers{}, false
		}
	} else {
		ip := frame[h.l3:h.end]
		length := int(ip[0]&0x0f) * 4
		if length < ipv4Len || length > len(ip) ||
			binary.BigEndian.Uint16(ip[ipv4Fragment:])&0x3fff != 0 ||
			length > ipv4Len && !plainOptions(ip[ipv4Len:length]) {
			return headers{}, false
		}
		h.l4, proto = h.l3+length, ip[ipv4Protocol]
	}
	l4 := frame[h.l4:h.end]
	switch proto {
	case protoTCP:
		if len(l4) < tcpLen {
			return headers{}, false
		}
		length := int(l4[tcpOffset]>>4) * 4
		if length < tcpLen || length > len(l4) {
			return headers{}, false
		}
		h.tcp, h.payload = true, h.l4+length
	case protoUDP:
		if len(l4) < udpLen || int(binary.BigEndian.Uint16(l4[udpLength:])) != len(l4) {
			return headers{}, false
		}
		h.payload = h.l4 + udpLen
	default:
		return headers{}, false
	}
	return h, h.payload <= limit
}

// network finds the IP packet of a frame behind at most two VLAN tags: where it
// starts and ends, its fixed header being inside.
func network(frame []byte) (l3, end int, v6, ok bool) {
	if len(frame) < etherLen+ipv4Len {
		return 0, 0, false, false
	}
	kind := binary.BigEndian.Uint16(frame[etherLen-2:])
	l3 = etherLen
	for tags := 0; tags < maxTags && (kind == etherVLAN || kind == etherServiceVLAN); tags++ {
		l3 += tagLen
		if len(frame) < l3+ipv4Len {
			return 0, 0, false, false
		}
		kind = binary.BigEndian.Uint16(frame[l3-2:])
	}
	switch kind {
	case etherIPv4:
		end = l3 + int(binary.BigEndian.Uint16(frame[l3+ipv4Total:]))
		return l3, end, false, frame[l3]>>4 == 4 && end >= l3+ipv4Len && end <= len(frame)
	case etherIPv6:
		if len(frame) < l3+ipv6Len {
			return 0, 0, false, false
		}
		end = l3 + ipv6Len + int(binary.BigEndian.Uint16(frame[l3+ipv6Payload:]))
		return l3, end, true, frame[l3]>>4 == 6 && end <= len(frame)
	}
	return 0, 0, false, false
}

// extensions walks the extension headers of the IPv6 packet that starts at l3 and
// ends with the frame (RFC 8200 section 4), up to what it carries, to limit at most.
func extensions(frame []byte, l3, limit int) (l4 int, proto byte, ok bool) {
	at, proto := l3+ipv6Len, frame[l3+ipv6Next]
	for {
		switch proto {
		case protoTCP, protoUDP:
			return at, proto, true
		case protoHopByHop, protoDestination, protoRouting:
		default: // fragments, authentication and what is not known
			return 0, 0, false
		}
		if at+8 > len(frame) {
			return 0, 0, false
		}
		length := 8 + 8*int(frame[at+1])
		if at+length > len(frame) || at+length > limit { // the latter bounds the walk
			return 0, 0, false
		}
		switch proto {
		case protoRouting:
			if frame[at+3] != 0 { // segments left: the sum is that of the final destination
				return 0, 0, false
			}
		case protoDestination:
			if homeAddress(frame[at+2 : at+length]) {
				return 0, 0, false
			}
		}
		at, proto = at+length, frame[at]
	}
}

// homeAddress tells whether destination options hold, or may hold, a Home Address
// (RFC 6275 section 6.3), which takes the source's place in the sum.
func homeAddress(options []byte) bool {
	for i := 0; i < len(options); {
		switch {
		case options[i] == 0: // Pad1
			i++
		case options[i] == 0xc9 || i+1 >= len(options):
			return true
		default:
			i += 2 + int(options[i+1])
		}
	}
	return false
}

// plainOptions tells whether IPv4 options are well formed and hold no source route
// (RFC 791 section 3.1), under which the sum is that of the final destination.
func plainOptions(options []byte) bool {
	for i := 0; i < len(options); {
		switch options[i] {
		case 0: // end of options
			return true
		case 1: // no operation
			i++
			continue
		case 131, 137: // loose and strict source route
			return false
		}
		if i+1 >= len(options) || options[i+1] < 2 {
			return false
		}
		i += int(options[i+1])
		if i > len(options) {
			return false
		}
	}
	return true
}

// signed tells whether TCP options hold a signature over the segment, MD5 (RFC
// 2385) or AO (RFC 5925), or are malformed so that nobody can tell.
func signed(options []byte) bool {
	for i := 0; i < len(options); {
		switch options[i] {
		case 0: // end of options
			return false
		case 1: // no operation
			i++
			continue
		case 19, 29:
			return true
		}
		if i+1 >= len(options) || options[i+1] < 2 {
			return true
		}
		i += int(options[i+1])
	}
	return false
}

// headerSum is the folded sum of an IPv4 header without its total length, ID and
// checksum, a few bits wider than a word.
func headerSum(ip []byte) uint64 {
	s := uint64(fold(sum(ip, 0)))
	for _, field := range [...]int{ipv4Total, ipv4ID, ipv4Checksum} {
		// Adding the complement takes a word away.
		s += uint64(^binary.BigEndian.Uint16(ip[field:]))
	}
	return s
}

// headerRight tells whether an IPv4 header's checksum is right, rest being what
// headerSum says of it.
func headerRight(ip []byte, rest uint64) bool {
	return fold(rest+uint64(binary.BigEndian.Uint16(ip[ipv4Total:]))+
		uint64(binary.BigEndian.Uint16(ip[ipv4ID:]))+
		uint64(binary.BigEndian.Uint16(ip[ipv4Checksum:]))) == 0xffff
}

// Super is what was parsed of a super-frame, or of a single TCP or UDP frame. A
// value, without pointers into the frame.
type Super struct {
	HeaderLen   int // Ethernet, tags, IP and TCP or UDP headers with their options, bytes
	Payload     int // bytes behind them
	SegmentSize int // payload bytes of each segment, as the sender asked; of a single frame all it has
	// ChecksumStart and ChecksumOffset are the place of the layer 4 checksum, as in
	// tun.Offload.
	ChecksumStart, ChecksumOffset int
	// Whole: it may be cut at SegmentSize only, never smaller. Datagrams are, and
	// single TCP segments that mean something else in pieces (SYN, RST, URG, signed).
	Whole bool

	l3       int
	tcp, v6  bool
	rest     uint64 // headerSum of an IPv4 header
	id       uint16
	sequence uint32
	around   envelope
}

// Parse reads the headers of a frame and compares them with what o says of it. The
// frame is a super-frame, a single frame with an unfinished checksum (TCP or UDP),
// or a finished single TCP frame that is too big for its path; a finished single
// UDP frame has nothing that could be cut and is refused.
//
// It is false when the frame can't be cut or contradicts o: another protocol,
// three tags, IP fragments, a source route, a single frame of a tunnel (the checksum
// isn't the outer layer 4's), lengths that don't fit each other or the frame, a wrong
// IPv4 header checksum, a type for another protocol, a super-frame without
// NeedsChecksum, without segment size, with more than 2048 segments, or with SYN, RST
// or URG.
// HeaderLen of o is not looked at: the kernel's is wrong for forwarded frames.
func Parse(frame []byte, o tun.Offload) (Super, bool) {
	var around envelope
	innerL3, limit := 0, maxHeader
	if o.OuterL4 != 0 || o.InnerL3 != 0 {
		if innerL3 = around.surround(frame, o); innerL3 == 0 {
			return Super{}, false
		}
		limit = maxTunnelHeader
	}
	h, ok := parseAt(frame, innerL3, limit)
	if !ok {
		return Super{}, false
	}
	s := Super{
		HeaderLen:      h.payload,
		Payload:        h.end - h.payload,
		ChecksumStart:  h.l4,
		ChecksumOffset: h.checksumOffset(),
		l3:             h.l3,
		tcp:            h.tcp,
		v6:             h.v6,
		around:         around,
	}
	if o.NeedsChecksum && (int(o.ChecksumStart) != s.ChecksumStart || int(o.ChecksumOffset) != s.ChecksumOffset) {
		return Super{}, false
	}
	if !h.v6 {
		ip := frame[h.l3:h.l4]
		s.rest, s.id = headerSum(ip), binary.BigEndian.Uint16(ip[ipv4ID:])
		if !headerRight(ip, s.rest) {
			return Super{}, false
		}
	}
	odd := false // a segment that is not of the plain middle of a connection
	if h.tcp {
		s.sequence = binary.BigEndian.Uint32(frame[h.l4+tcpSequence:])
		odd = frame[h.l4+tcpFlags]&(flagSYN|flagRST|flagURG) != 0
	}
	if o.Type == tun.GSONone {
		s.SegmentSize = s.Payload
		s.Whole = odd || !h.tcp || signed(frame[h.l4+tcpLen:h.payload])
		return s, !o.ECN && (h.tcp || o.NeedsChecksum)
	}
	s.SegmentSize = int(o.SegmentSize)
	s.Whole = !h.tcp
	if !o.NeedsChecksum || o.Type != h.kind() || odd || o.ECN && !h.tcp ||
		h.end != len(frame) || s.SegmentSize == 0 || s.Payload > s.SegmentSize*maxSegments {
		return Super{}, false
	}
	return s, true
}

// kind is the type of a super-frame with these headers.
func (h *headers) kind() tun.GSOType {
	switch {
	case !h.tcp:
		return tun.GSOUDP
	case h.v6:
		return tun.GSOTCPv6
	}
	return tun.GSOTCPv4
}

// checksumOffset is where the checksum stands in the layer 4 header.
func (h *headers) checksumOffset() int {
	if h.tcp {
		return tcpChecksum
	}
	return udpChecksum
}
