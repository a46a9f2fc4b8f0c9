package offload

import (
	"encoding/binary"

	"ripstop/tun"
)

// Most frames of one super-frame. Kernels before 6.9 refuse more than 64 datagrams
// (UDP_MAX_SEGMENTS in include/linux/udp.h).
const (
	MaxJoin    = 128
	MaxJoinUDP = 64
)

// maxExpected is how long headers may be of which it is worked out how they go on.
const maxExpected = 128

// maxPacket is the longest IP packet, its header included, in bytes.
const maxPacket = 65535

// Joiner gathers consecutive segments of one train, partial frames all, into one
// super-frame for one write. The zero value is ready; Reset makes it ready again.
// The frames stay where they are and must not change until the super-frame is
// written.
type Joiner struct {
	// NoTCP and NoUDP: such frames are not joined, because the device does not take
	// super-frames of that kind. They stay as they are over Reset.
	NoTCP, NoUDP bool
	// NoTunnel and NoTunnelChecksum: the device takes no tunnelled super-frames, or none
	// whose outer UDP checksum is used.
	NoTunnel, NoTunnelChecksum bool

	head     headers  // of the first frame; of a tunnelled one those of the inner packet
	around   envelope // of the first frame
	first    []byte
	n        int    // frames gathered
	closed   bool   // nothing may follow
	size     int    // payload bytes of each but the last
	payload  int    // bytes gathered
	room     int    // most payload bytes
	most     int    // most frames
	rest     uint64 // headerSum of an IPv4 header
	id       uint16
	sequence uint32
	last     byte              // FIN and PSH of the last frame
	next     [maxExpected]byte // headers of the frame that would follow with as much payload; known when two are there
	pieces   [MaxJoin - 1][]byte
}

// Reset forgets what was gathered.
func (j *Joiner) Reset() { j.n, j.closed = 0, false }

// Len is how many frames are gathered.
func (j *Joiner) Len() int { return j.n }

// Add takes a frame when it continues what is gathered: the same headers but for
// what cutting changes, the next sequence number and IPv4 ID, as much payload as
// the first or, in the last, less; FIN and PSH on the last only, CWR on the first
// only; within 65535 bytes of IP packet and the greatest number of frames. Else it
// is false, and what is gathered must be written first. A lost datagram over IPv6
// leaves no gap to be seen, and does no harm: the others come out the same.
//
// An empty Joiner takes every whole TCP segment or UDP datagram; false then means
// that the frame is none, so that it can't be partial and is to be dropped.
func (j *Joiner) Add(frame []byte) bool {
	if j.n == 0 {
		h, ok := parse(frame)
		if ok {
			j.around = envelope{}
			j.begin(frame, &h, h.l3)
		}
		return ok
	}
	if j.closed || j.around.l4 != 0 {
		return false
	}
	return j.follow(frame, 0)
}

// AddTunnelled is Add for frames with a tunnelled packet at innerL3. The envelope must
// continue that of the first as well: equal but for its lengths, and the next IPv4 ID.
// Tunnelled datagrams are not joined: not every receiver of a tunnel takes them so.
func (j *Joiner) AddTunnelled(frame []byte, innerL3 int) bool {
	if j.n == 0 {
		e, h, ok := open(frame, innerL3)
		if ok {
			j.around = e
			j.begin(frame, &h, int(e.l3))
			j.closed = j.closed || !h.tcp || j.NoTunnel || e.summed && j.NoTunnelChecksum || !e.right(frame)
		}
		return ok
	}
	if j.closed || j.around.l4 == 0 || innerL3 != j.head.l3 || !j.around.follows(j.first, frame, j.n, innerL3) {
		return false
	}
	return j.follow(frame, innerL3)
}

// begin takes the first frame, whose first IP header stands at ip.
func (j *Joiner) begin(frame []byte, h *headers, ip int) {
	j.head, j.first, j.n = *h, frame, 1
	j.size = h.end - h.payload
	j.payload = j.size
	j.room = min(maxPacket-(h.payload-ip), tun.MaxFrame-h.payload)
	j.most, j.last = MaxJoin, 0
	j.closed = j.size == 0 || h.end != len(frame)
	if !h.v6 {
		ip := frame[h.l3:h.l4]
		j.rest, j.id = headerSum(ip), binary.BigEndian.Uint16(ip[ipv4ID:])
		j.closed = j.closed || !headerRight(ip, j.rest)
	}
	if h.tcp {
		j.sequence = binary.BigEndian.Uint32(frame[h.l4+tcpSequence:])
		j.closed = j.closed || j.NoTCP || frame[h.l4+tcpFlags]&(flagFIN|flagPSH|flagSYN|flagRST|flagURG) != 0
	} else {
		j.most = MaxJoinUDP
		j.closed = j.closed || j.NoUDP
	}
}

// follow takes a frame that continues the train, from from on. Most have the headers that
// were worked out; the last, and any in doubt, are compared field by field.
func (j *Joiner) follow(frame []byte, from int) bool {
	h := &j.head
	n := len(frame) - h.payload
	if n <= 0 || n > j.size || n > j.room-j.payload || j.n >= j.most {
		return false
	}
	if j.n < 2 || n < j.size || h.payload > maxExpected || !same(j.next[:], frame, from, h.payload) {
		if !j.continues(frame, from, n) {
			return false
		}
		copy(j.next[:], frame[:h.payload])
	}
	j.pieces[j.n-1] = frame[h.payload:]
	j.n++
	j.payload += n
	if !j.closed && h.payload <= maxExpected {
		j.expect()
	}
	return true
}

// expect makes of the headers of a frame in next those of the one behind it.
func (j *Joiner) expect() {
	h := &j.head
	if !h.v6 {
		putIPv4(j.next[h.l3:h.l4], h.payload-h.l3+j.size, j.id+uint16(j.n), j.rest)
	}
	if h.tcp {
		binary.BigEndian.PutUint32(j.next[h.l4+tcpSequence:], j.sequence+uint32(j.payload))
	}
}

// continues compares a frame of n bytes of payload with the first, from from on. Equal
// bytes have equal lengths of headers, so the frame need not be parsed.
func (j *Joiner) continues(frame []byte, from, n int) bool {
	h, first := &j.head, j.first
	if h.v6 {
		if !same(first, frame, from, h.l3+ipv6Payload) ||
			!same(first, frame, h.l3+ipv6Next, h.l4+tcpSequence) ||
			int(binary.BigEndian.Uint16(frame[h.l3+ipv6Payload:])) != len(frame)-h.l3-ipv6Len {
			return false
		}
	} else {
		ip := frame[h.l3:h.l4]
		if !same(first, frame, from, h.l3+ipv4Total) ||
			!same(first, frame, h.l3+ipv4Fragment, h.l3+ipv4Checksum) ||
			!same(first, frame, h.l3+ipv4Source, h.l4+tcpSequence) ||
			int(binary.BigEndian.Uint16(ip[ipv4Total:])) != len(frame)-h.l3 ||
			binary.BigEndian.Uint16(ip[ipv4ID:]) != j.id+uint16(j.n) ||
			!headerRight(ip, j.rest) {
			return false
		}
	}
	last := n < j.size
	if h.tcp {
		flags := frame[h.l4+tcpFlags]
		if binary.BigEndian.Uint32(frame[h.l4+tcpSequence:]) != j.sequence+uint32(j.payload) ||
			!same(first, frame, h.l4+tcpAck, h.l4+tcpFlags) ||
			!same(first, frame, h.l4+tcpWindow, h.l4+tcpChecksum) ||
			!same(first, frame, h.l4+tcpUrgent, h.payload) ||
			(flags^first[h.l4+tcpFlags])&^(flagFIN|flagPSH|flagCWR) != 0 || flags&flagCWR != 0 {
			return false
		}
		j.last = flags & (flagFIN | flagPSH)
		last = last || j.last != 0
	} else if int(binary.BigEndian.Uint16(frame[h.l4+udpLength:])) != udpLen+n {
		return false
	}
	j.closed = last
	return true
}

// same tells whether two frames have the same bytes from one place to another,
// which both have.
func same(a, b []byte, from, to int) bool {
	return string(a[from:to]) == string(b[from:to])
}

// Frame makes f the super-frame of what is gathered. f.Buf, f.Off and f.Len must
// show the first frame that was added; its headers are rewritten in place. f.More
// becomes the other frames' payloads, without copying, in memory of the Joiner: it
// holds until Reset. A single frame becomes what Partial makes of it; a tunnelled one
// the same with the place of its inner checksum, which any device takes that takes
// unfinished ones. Nothing can be added afterwards before Reset.
//
// It is false when nothing is gathered or f does not show the first frame.
func (j *Joiner) Frame(f *tun.Frame) bool {
	if j.n == 0 || f.Len != len(j.first) || f.Off < 0 || f.Off+f.Len > len(f.Buf) || &f.Buf[f.Off] != &j.first[0] {
		return false
	}
	j.closed = true
	h, first, e := &j.head, j.first, &j.around
	if j.n == 1 {
		f.More = nil
		if e.l4 != 0 {
			f.Offload = h.partial(first, h.end-h.l4)
			e.finish(first, h)
			return true
		}
		var ok bool
		f.Offload, ok = Partial(first)
		return ok
	}
	length := h.payload - h.l4 + j.payload
	if h.v6 {
		binary.BigEndian.PutUint16(first[h.l3+ipv6Payload:], uint16(h.l4-h.l3-ipv6Len+length))
	} else {
		putIPv4(first[h.l3:h.l4], h.l4-h.l3+length, j.id, j.rest)
	}
	f.Offload = h.partial(first, length)
	f.Offload.Type = h.kind()
	f.Offload.HeaderLen = uint16(h.payload)
	f.Offload.SegmentSize = uint16(j.size)
	if h.tcp {
		first[h.l4+tcpFlags] |= j.last
		f.Offload.ECN = first[h.l4+tcpFlags]&flagCWR != 0
	} else {
		binary.BigEndian.PutUint16(first[h.l4+udpLength:], uint16(length))
	}
	if e.l4 != 0 {
		e.put(first, 0, h.l4+length)
		if e.summed {
			// As the inner one: each segment's is made of it.
			binary.BigEndian.PutUint16(first[e.l4+udpChecksum:], fold(e.pseudo(first, h.l4+length)))
		}
		f.Offload.OuterL4, f.Offload.InnerL3 = e.l4, uint16(h.l3)
	}
	f.More = j.pieces[:j.n-1]
	return true
}
