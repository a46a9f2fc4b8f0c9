package plane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"ripstop/crypto"
	"ripstop/transport"
	"ripstop/transport/transporttest"
	"ripstop/tun"
	"ripstop/tun/tuntest"
)

// What containers send crosses planes with any offloads on or off, and is the same
// frames at the other end:
//
//	packet ── reference kernel of the sender ──▶ device │ planes │ device ──▶ reference kernel of the receiver ──▶ frames
//	            super-frames, open sums: its mask                    segments, finishes: what was written    │
//	packet ── cut by the reference at what the path carries, exact sums ─────────────────────────────────── =
//
// The reference is slow, and nothing of the package offload takes part in it.

// packet is a frame by its headers: lengths, IDs and sums are written into copies.
type packet struct {
	link    []byte // Ethernet, tags
	ip      []byte // header with its options, or extension headers
	l4      []byte // TCP or UDP header
	id      uint16
	payload []byte
	padding []byte
}

// sums are how a frame's layer 4 checksum leaves the kernel.
type sums int

const (
	left     sums = iota // to the device, if that takes it
	finished             // by the container itself
	absent               // 0 of UDP over IPv4
	damaged
)

// envelope is what a tunnel puts around a packet: a UDP datagram, whose sum is exact or
// absent.
type envelope struct {
	packet        // its payload comes of the rest
	encap  []byte // between its UDP header and the packet inside
	summed bool
}

// at is where the frame inside begins.
func (e *envelope) at() int { return e.headers() + len(e.encap) }

// around is the frame with another inside, the n-th of a train.
func (e *envelope) around(inside []byte, n int, exact bool) []byte {
	outer := e.packet
	outer.id += uint16(n)
	outer.payload = slices.Concat(e.encap, inside)
	b, o := outer.frame(exact)
	if !e.summed {
		clear(b[o.ChecksumStart+o.ChecksumOffset:][:2])
	}
	return b
}

// sent is one write of a container to its interface.
type sent struct {
	packet
	tunnel *envelope // around packet; nil: none
	size   int       // payload of each segment; 0: a single frame
	sums   sums
	raw    []byte      // instead of a packet
	open   tun.Offload // of raw: what is left
}

// stream is the writes of one MAC, whose order has to stay.
type stream struct {
	to     int  // host; 0: all
	within bool // no segment is longer than its path
	sent   []sent
}

func (p *packet) tcp() bool { return len(p.l4) > 8 }
func (p *packet) v6() bool  { return p.ip[0]>>4 == 6 }

func (p *packet) headers() int { return len(p.link) + len(p.ip) + len(p.l4) }

// sumSlow is the folded sum of bytes, one after the other.
func sumSlow(parts ...[]byte) uint16 {
	s := uint32(0)
	b := slices.Concat(parts...)
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i]) << 8
		if i+1 < len(b) {
			s += uint32(b[i+1])
		}
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// frame is the packet with an exact sum, or with that of its pseudo-header only and
// what the virtio header says then.
func (p *packet) frame(exact bool) ([]byte, tun.Offload) {
	b := slices.Concat(p.link, p.ip, p.l4, p.payload)
	ip, l4 := b[len(p.link):], b[len(p.link)+len(p.ip):]
	proto, field := byte(17), 6
	if p.tcp() {
		proto, field = 6, 16
	} else {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
	addresses := ip[12:20]
	if p.v6() {
		addresses = ip[8:40]
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		binary.BigEndian.PutUint16(ip[4:], p.id)
		binary.BigEndian.PutUint16(ip[10:], ^sumSlow(ip[:len(p.ip)]))
	}
	binary.BigEndian.PutUint16(l4[field:], sumSlow(addresses, []byte{0, proto, byte(len(l4) >> 8), byte(len(l4))}))
	start := len(p.link) + len(p.ip)
	if exact {
		finish(b, start, field)
	}
	return append(b, p.padding...), tun.Offload{NeedsChecksum: true, ChecksumStart: uint16(start), ChecksumOffset: uint16(field)}
}

// finish does what a kernel does about an open sum.
func finish(b []byte, start, field int) {
	s := ^sumSlow(b[start:])
	if s == 0 && field == 6 {
		s = 0xffff
	}
	binary.BigEndian.PutUint16(b[start+field:], s)
}

// cut is the packets that carry at most size bytes each.
func (p *packet) cut(size int) []packet {
	var train []packet
	for from := 0; from == 0 || from < len(p.payload); from += size {
		s := *p
		s.payload = p.payload[from:min(from+size, len(p.payload))]
		s.id += uint16(len(train))
		s.l4 = slices.Clone(p.l4)
		if p.tcp() {
			binary.BigEndian.PutUint32(s.l4[4:], binary.BigEndian.Uint32(p.l4[4:])+uint32(from))
			if from > 0 {
				s.l4[13] &^= 0x80
			}
			if from+size < len(p.payload) {
				s.l4[13] &^= 0x09
			}
		}
		train = append(train, s)
	}
	return train
}

// single is what the kernel makes of the packet for a device that has or has not
// checksum offload.
func (s *sent) single(p *packet, checksum bool) tuntest.Written {
	b, o := p.frame(s.sums != left || !checksum)
	if s.sums != left || !checksum {
		o = tun.Offload{}
	}
	field := p.headers() - 2
	if p.tcp() {
		field = len(p.link) + len(p.ip) + 16
	}
	switch s.sums {
	case absent:
		b[field], b[field+1] = 0, 0
	case damaged:
		b[field] ^= 0x40
	}
	return tuntest.Written{Bytes: b, Offload: o}
}

// leaves is what the device is given, and each of it as the container at the other end
// has to see it, over a path whose datagrams carry room bytes of frame.
func (s *sent) leaves(m tun.Capabilities, room int) (given []tuntest.Written, seen [][][]byte) {
	if s.raw != nil {
		w := tuntest.Written{Bytes: s.raw, Offload: s.open}
		done := bytes.Clone(s.raw)
		if s.open.NeedsChecksum {
			finish(done, int(s.open.ChecksumStart), int(s.open.ChecksumOffset))
		}
		if !m.Checksum {
			w = tuntest.Written{Bytes: done}
		}
		return []tuntest.Written{w}, [][][]byte{{done}}
	}
	if s.tunnel != nil {
		return s.leavesTunnel(m, room)
	}
	fits := room - s.headers()
	exact := func(train []packet) (frames [][]byte) {
		for _, p := range train {
			frames = append(frames, s.single(&p, false).Bytes)
		}
		return frames
	}
	if s.size > 0 && m.Checksum && (s.tcp() && m.TCP || !s.tcp() && m.UDP) {
		b, o := s.frame(false)
		o.HeaderLen, o.SegmentSize, o.Type = uint16(s.headers()), uint16(s.size), tun.GSOUDP
		step := s.size
		if s.tcp() {
			step, o.ECN, o.Type = min(s.size, fits), s.l4[13]&0x80 != 0, tun.GSOTCPv4
			if s.v6() {
				o.Type = tun.GSOTCPv6
			}
		}
		return []tuntest.Written{{Bytes: b, Offload: o}}, [][][]byte{exact(s.cut(step))}
	}
	train := []packet{s.packet}
	if s.size > 0 {
		train = s.cut(s.size)
	}
	for _, p := range train {
		given = append(given, s.single(&p, m.Checksum))
		// SYN, RST, URG and signed segments mean something else in parts.
		parts := p.tcp() && s.sums != damaged && p.l4[13]&0x26 == 0 && (len(p.l4) < 22 || p.l4[22] != 19)
		if parts && len(p.payload) > fits {
			seen = append(seen, exact(p.cut(fits)))
		} else {
			seen = append(seen, exact([]packet{p}))
		}
	}
	return given, seen
}

// leavesTunnel is leaves for what a tunnel's device of the container wraps.
func (s *sent) leavesTunnel(m tun.Capabilities, room int) (given []tuntest.Written, seen [][][]byte) {
	e := s.tunnel
	exact := func(train []packet) (frames [][]byte) {
		for i, p := range train {
			inside, _ := p.frame(true)
			frames = append(frames, e.around(inside, i, true))
		}
		return frames
	}
	if m.Checksum && m.TCP && m.Tunnel && (m.TunnelChecksum || !e.summed) {
		inside, o := s.frame(false)
		o.HeaderLen, o.SegmentSize, o.ECN, o.Type = uint16(e.at()+s.headers()), uint16(s.size), s.l4[13]&0x80 != 0, tun.GSOTCPv4
		if s.v6() {
			o.Type = tun.GSOTCPv6
		}
		o.ChecksumStart += uint16(e.at())
		o.OuterL4, o.InnerL3 = uint16(e.headers()-len(e.l4)), uint16(e.at()+len(s.link))
		step := min(s.size, room-e.at()-s.headers())
		return []tuntest.Written{{Bytes: e.around(inside, 0, false), Offload: o}}, [][][]byte{exact(s.cut(step))}
	}
	for _, f := range exact(s.cut(s.size)) {
		given, seen = append(given, tuntest.Written{Bytes: f}), append(seen, [][]byte{f})
	}
	return given, seen
}

// arrives is what a kernel makes of a frame that was written to its device. It goes by
// the sum that it is given: of a wrong one come wrong ones.
func arrives(t *testing.T, m tun.Capabilities, w tuntest.Written) [][]byte {
	t.Helper()
	b, o := w.Bytes, w.Offload
	start, field := int(o.ChecksumStart), int(o.ChecksumOffset)
	switch {
	case o == tun.Offload{}:
		return [][]byte{b}
	case !m.Checksum || !o.NeedsChecksum:
		t.Fatalf("%+v is written to a device with %+v", o, m)
	case o.Type == tun.GSONone:
		finish(b, start, field)
		return [][]byte{b}
	}
	l3 := 14
	for b[l3-2] == 0x81 || b[l3-2] == 0x88 {
		l3 += 4
	}
	outer, inner := l3, o.OuterL4 != 0
	if inner {
		l3 = int(o.InnerL3)
	}
	head, want, takes := start+8, tun.GSOUDP, m.UDP
	v6, tcp := b[l3]>>4 == 6, field == 16
	if tcp {
		head, want, takes = start+int(b[start+12]>>4)*4, tun.GSOTCPv4, m.TCP
		if v6 {
			want = tun.GSOTCPv6
		}
	}
	size := int(o.SegmentSize)
	if o.Type != want || !takes || int(o.HeaderLen) != head || size == 0 || len(b)-head <= size ||
		o.ECN != (tcp && b[start+13]&0x80 != 0) || !v6 && sumSlow(b[l3:start]) != 0xffff ||
		inner && (!tcp || !m.Tunnel || !m.TunnelChecksum && (b[o.OuterL4+6] != 0 || b[o.OuterL4+7] != 0)) {
		t.Fatalf("%+v is written to a device with %+v\n%x", o, m, b[:head])
	}
	var frames [][]byte
	for from := head; from < len(b); from += size {
		s := append(bytes.Clone(b[:head]), b[from:min(from+size, len(b))]...)
		ip, l4 := s[l3:], s[start:]
		if v6 {
			binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		} else {
			binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
			binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(len(frames)))
			ip[10], ip[11] = 0, 0
			binary.BigEndian.PutUint16(ip[10:], ^sumSlow(s[l3:start]))
		}
		if tcp {
			binary.BigEndian.PutUint32(l4[4:], binary.BigEndian.Uint32(l4[4:])+uint32(from-head))
			if from > head {
				l4[13] &^= 0x80
			}
			if from+size < len(b) {
				l4[13] &^= 0x09
			}
		} else {
			binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
		}
		was, is := ^uint16(len(b)-start), uint16(len(l4))
		binary.BigEndian.PutUint16(l4[field:], sumSlow(l4[field:field+2], []byte{byte(was >> 8), byte(was), byte(is >> 8), byte(is)}))
		finish(s, start, field)
		if inner {
			wrap(t, b, s, outer, int(o.OuterL4), len(frames))
		}
		frames = append(frames, s)
	}
	return frames
}

// wrap makes the outer headers of segment n, which are those of the super-frame, its own.
func wrap(t *testing.T, super, s []byte, l3, l4, n int) {
	t.Helper()
	field := l4 + 6
	sum := func(b []byte) uint16 {
		addresses := b[l3+12 : l3+20]
		if b[l3]>>4 == 6 {
			addresses = b[l3+8 : l3+40]
		}
		return sumSlow(addresses, []byte{0, 17, byte((len(b) - l4) >> 8), byte(len(b) - l4)})
	}
	switch summed := super[field] != 0 || super[field+1] != 0; {
	case summed && sumSlow(super[field:field+2]) != sum(super):
		t.Fatalf("the outer sum of a super-frame is %x, not that of its pseudo-header, %x", super[field:field+2], sum(super))
	case summed:
		binary.BigEndian.PutUint16(s[field:], sum(s))
	}
	binary.BigEndian.PutUint16(s[l4+4:], uint16(len(s)-l4))
	if s[l3]>>4 == 6 {
		binary.BigEndian.PutUint16(s[l3+4:], uint16(len(s)-l3-40))
	} else {
		binary.BigEndian.PutUint16(s[l3+2:], uint16(len(s)-l3))
		binary.BigEndian.PutUint16(s[l3+4:], binary.BigEndian.Uint16(s[l3+4:])+uint16(n))
		s[l3+10], s[l3+11] = 0, 0
		binary.BigEndian.PutUint16(s[l3+10:], ^sumSlow(s[l3:l4]))
	}
	if s[field] != 0 || s[field+1] != 0 {
		finish(s, l4, 6)
	}
}

// streams is traffic of every kind from one host, each stream from a MAC of its own.
func streams(r *rand.Rand, hosts []*host) []stream {
	var all []stream
	for n := range 64 {
		s := stream{to: []int{1, 2, 1, 2, 0}[n%5], within: n%2 == 0}
		link := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 1, 0, byte(n)}
		if s.to > 0 {
			copy(link, hosts[s.to].mac[:])
		}
		for range r.IntN(3) {
			link = append(link, [][]byte{{0x81, 0}, {0x88, 0xa8}}[r.IntN(2)]...)
			link = append(link, byte(r.IntN(256)), byte(r.IntN(256)))
		}
		if n%12 == 11 || n == 44 { // no IP, or what nobody can cut
			for i := range 6 {
				s.sent = append(s.sent, foreign(r, link, n, i))
			}
			all = append(all, s)
			continue
		}
		if n >= 48 {
			s.sent = tunnelled(r, link, n, s.within)
		} else {
			s.sent = conversation(r, link, n, s.within)
		}
		all = append(all, s)
	}
	return all
}

// tunnelled is a TCP connection inside a tunnel: VXLAN, GENEVE with options, or without an
// Ethernet header inside.
func tunnelled(r *rand.Rand, link []byte, n int, within bool) []sent {
	outer := datagram4(append(slices.Clone(link), 8, 0), 4789, 0, r)
	if n%4 >= 2 {
		outer.link[len(link)], outer.link[len(link)+1] = 0x86, 0xdd
		outer.ip = append([]byte{0x60, 0, 0, 0, 0, 0, 17, 64}, make([]byte, 32)...)
		outer.ip[8], outer.ip[23], outer.ip[24], outer.ip[39] = 0xfd, 1, 0xfd, 2
	}
	e := &envelope{packet: outer, encap: [][]byte{{8, 0, 0, 0, 0, 0, 7, 0}, {2, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 1, 0, 0, 0, 9}, {0x0c, 0, 0, 1, 0, 0, 7, 0, 5}}[n%3], summed: r.IntN(2) == 0}
	inside := []byte{2, 0, 0, 9, 0, 1, 2, 0, 0, 9, 0, 2}
	var all []sent
	for _, s := range conversation(r, inside, []int{49, 50, 53, 58}[n%4], within) { // all of TCP
		if s.size == 0 {
			continue
		}
		if n%3 == 2 {
			s.link = nil
		}
		// Each write is its own train of the envelope: the IDs go on.
		s.tunnel, s.padding = e, nil
		all = append(all, s)
		next := *e
		next.id += uint16((len(s.payload) + s.size - 1) / s.size)
		e = &next
	}
	return all
}

// foreign is a frame without TCP or UDP of its own: another EtherType, or a datagram
// of a tunnel whose inner sum is open.
func foreign(r *rand.Rand, link []byte, n, i int) sent {
	if i%2 == 0 {
		b := append(append(slices.Clone(link), 0x88, 0xb5), make([]byte, []int{46, 700, 1474, 3000}[r.IntN(4)])...)
		for k := range b[len(link)+2:] {
			b[len(link)+2+k] = byte(r.Uint32())
		}
		return sent{raw: b}
	}
	inner := datagram4([]byte{2, 0, 0, 9, 0, 1, 2, 0, 0, 9, 0, 2, 8, 0}, 5000, 1+r.IntN(1200), r)
	b, o := inner.frame(false)
	outer := datagram4(append(slices.Clone(link), 8, 0), 4789, 0, r)
	outer.payload = append([]byte{8, 0, 0, 0, 0, 0, byte(n), 0}, b...)
	at := outer.headers() + 8
	whole := (&sent{packet: outer, sums: absent}).single(&outer, false)
	o.ChecksumStart += uint16(at)
	return sent{raw: whole.Bytes, open: o}
}

// datagram4 is a plain UDP datagram.
func datagram4(link []byte, port uint16, size int, r *rand.Rand) packet {
	p := packet{link: link, ip: []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 32, 0, 1, 10, 32, 1, 2},
		l4: []byte{0x30, 0x39, byte(port >> 8), byte(port), 0, 0, 0, 0}, payload: make([]byte, size)}
	for i := range p.payload {
		p.payload[i] = byte(r.Uint32())
	}
	return p
}

// conversation is the writes of one TCP connection or pair of UDP ports, which go on
// from one another.
func conversation(r *rand.Rand, link []byte, n int, within bool) []sent {
	p := packet{link: append(slices.Clone(link), 8, 0), id: uint16(r.Uint32())}
	tcp, v6 := n%3 != 0, n%4 >= 2
	proto := byte(17)
	p.l4 = []byte{byte(n), 80, 0x1f, byte(r.Uint32()), 0, 0, 0, 0}
	if tcp {
		proto = 6
		p.l4 = append(p.l4, 1, 2, 3, 4, 5<<4, 0x10, 0xff, 0xee, 0, 0, 0, 0)
		binary.BigEndian.PutUint32(p.l4[4:], r.Uint32())
		p.l4 = append(p.l4, [][]byte{nil, {1, 1, 8, 10, 0, 0, 1, 2, 0, 0, 0, 9}, {1, 1, 1, 0}, nil}[r.IntN(4)]...)
		if n%16 == 7 { // signed by MD5
			p.l4 = append(p.l4[:20], append([]byte{1, 1, 19, 18}, make([]byte, 16)...)...)
		}
		p.l4[12] = byte(len(p.l4)) / 4 << 4
	}
	if v6 {
		p.link[len(link)], p.link[len(link)+1] = 0x86, 0xdd
		p.ip = append([]byte{0x60, 3, 0x12, 0x34, 0, 0, proto, 64}, 0xfd, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 1, 0xfd, 0xff, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 2)
		switch r.IntN(4) {
		case 0: // hop-by-hop, router alert
			p.ip[6] = 0
			p.ip = append(p.ip, proto, 0, 5, 2, 0, 0, 1, 0)
		case 1: // destination options of 16 bytes
			p.ip[6] = 60
			p.ip = append(p.ip, proto, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		}
	} else {
		p.ip = []byte{0x45, byte(r.IntN(256)), 0, 0, 0, 0, []byte{0, 0x40}[r.IntN(2)], 0, byte(1 + r.IntN(255)), proto, 0, 0, 10, 32, 0, 1, 10, 32, 255, 254}
		if r.IntN(3) == 0 {
			p.ip = append(p.ip, [][]byte{{0x94, 4, 0, 0}, {1, 1, 1, 0}, {7, 7, 4, 1, 2, 3, 4, 0}}[r.IntN(3)]...)
			p.ip[0] = 0x40 | byte(len(p.ip)/4)
		}
	}
	size := 1 + r.IntN(1150)
	if !within {
		size = []int{1448, 1400, 1340 + r.IntN(60), 3000, 8948}[r.IntN(5)]
	}
	var all []sent
	for i := range 7 {
		s := sent{packet: p}
		length := 0
		switch i {
		case 0, 1, 4: // on from each other, the last short
			s.size = size
			length = size * (1 + r.IntN(min(12, 60000/size)))
			if i > 0 {
				length = max(length-r.IntN(size), 1)
			}
		case 2:
			length = size
		case 3:
			length = r.IntN(min(30, size))
		default:
			length = r.IntN(size + 1)
			s.sums = []sums{finished, damaged, absent, left}[r.IntN(4)]
			if s.sums == absent && (tcp || v6) {
				s.sums = finished
			}
		}
		s.payload = make([]byte, length)
		switch r.IntN(8) {
		case 0: // zeroes
		case 1:
			s.payload = bytes.Repeat([]byte{0xff}, length)
		default:
			for k := range s.payload {
				s.payload[k] = byte(r.Uint32())
			}
		}
		if short := 60 - s.headers() - length; s.size == 0 && short > 0 {
			s.padding = make([]byte, short)
			if r.IntN(2) == 0 {
				s.padding[short-1] = 0xee
			}
		}
		if tcp {
			s.l4 = slices.Clone(p.l4)
			s.l4[13] |= []byte{0, 0, 8, 9, 0x40, 0x80, 0xc8}[r.IntN(7)]
			if s.size == 0 && i > 3 && r.IntN(3) == 0 {
				s.l4[13] |= 0x20 // urgent
			}
			if s.size > 0 && n%16 == 7 {
				s.size = 0 // nobody asks to cut what is signed
				s.payload = s.payload[:min(len(s.payload), size)]
				length = len(s.payload)
			}
			binary.BigEndian.PutUint32(p.l4[4:], binary.BigEndian.Uint32(p.l4[4:])+uint32(length))
		}
		all = append(all, s)
		if s.size > 0 {
			p.id += uint16((length + size - 1) / size)
		} else {
			p.id++
		}
	}
	return all
}

// masks are what a device may be told to leave to us, and to take from us.
var masks = map[string]tun.Capabilities{
	"all":       {VirtioHeader: 24, Checksum: true, TCP: true, UDP: true, Tunnel: true, TunnelChecksum: true},
	"no tnlsum": {VirtioHeader: 24, Checksum: true, TCP: true, UDP: true, Tunnel: true},
	"no tunnel": {VirtioHeader: 10, Checksum: true, TCP: true, UDP: true},
	"no uso":    {VirtioHeader: 10, Checksum: true, TCP: true},
	"no tso":    {VirtioHeader: 10, Checksum: true, UDP: true},
	"checksum":  {VirtioHeader: 10, Checksum: true},
	"none":      {VirtioHeader: 10},
}

// TestOffloadsDiffer: for every pair of masks, with trains on the wire and without,
// made and gathered, directly and over a relay, the containers see the same frames.
func TestOffloadsDiffer(t *testing.T) {
	for _, sender := range slices.Sorted(maps.Keys(masks)) {
		for _, receiver := range slices.Sorted(maps.Keys(masks)) {
			for trains := range 4 {
				made, gathered := trains&1 == 0, trains&2 == 0
				if made != gathered && sender != receiver {
					continue // each end's part in them knows nothing of masks
				}
				t.Run(fmt.Sprintf("%s to %s, gso %v, gro %v", sender, receiver, made, gathered), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { differ(t, masks[sender], masks[receiver], made, gathered) })
				})
			}
		}
	}
}

func differ(t *testing.T, sender, receiver tun.Capabilities, made, gathered bool) {
	l := newLab(t, 3, crypto.CipherAuto)
	l.net.Close()
	l.net = transporttest.NewNetwork(transporttest.Config{Seed: 1, MTU: 1500, Queue: 1 << 14, Gather: gathered})
	for i, h := range l.hosts {
		device := tuntest.Config{Capabilities: receiver, Queues: 2, Depth: 1 << 14}
		if i == 0 {
			device.Capabilities, device.Queues = sender, 1
		}
		h.device = tuntest.NewDevice(device)
		var err error
		if h.socket, err = l.net.Socket(h.addr); err != nil {
			t.Fatal(err)
		}
		cfg := h.cfg
		cfg.Device, cfg.Socket = h.device, h.socket
		h.Plane = New(cfg)
	}
	a, relay, end := l.hosts[0], l.hosts[1], l.hosts[2]
	l.session(a, relay, true)
	l.session(relay, end, true)
	l.session(a, end, false)
	room := []int{1: 1472 - overhead, 2: 1472 - overhead - transport.RelayLen}
	if l.trains(64); !made {
		l.trains(1)
	}
	l.publish()

	// The same traffic in every run, its streams among each other.
	random := rand.New(rand.NewPCG(7, 9))
	all := streams(random, l.hosts)
	var turns []int
	for n := range all {
		turns = append(turns, slices.Repeat([]int{n}, len(all[n].sent))...)
	}
	random.Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
	want, got := make([]map[string][][]byte, 3), make([]map[string][][]byte, 3)
	for i := range want {
		want[i], got[i] = make(map[string][][]byte), make(map[string][][]byte)
	}
	l.run(func() {
		frames, supers := 0, 0
		for step, n := range turns {
			s := &all[n].sent[0]
			all[n].sent = all[n].sent[1:]
			for host := 1; host < 3; host++ {
				if all[n].to != 0 && all[n].to != host {
					continue
				}
				given, seen := s.leaves(sender, room[host])
				if all[n].within {
					// What is not cut smaller than asked is the same whatever was left to us.
					plain, _ := s.leaves(tun.Capabilities{}, 1<<20)
					if flat := slices.Concat(seen...); !slices.EqualFunc(flat, plain, func(a []byte, b tuntest.Written) bool { return bytes.Equal(a, b.Bytes) }) {
						t.Fatal("the reference differs from itself")
					}
				}
				for _, frames := range seen {
					for _, f := range frames {
						want[host][string(f[6:12])] = append(want[host][string(f[6:12])], f)
					}
				}
				if all[n].to == host || host == 1 {
					for _, w := range given {
						frames++
						if !a.device.InjectOffload(0, w.Bytes, w.Offload) {
							t.Fatal("not injected")
						}
					}
				}
			}
			if step%24 == 0 || step == len(turns)-1 {
				synctest.Wait()
			}
		}
		for host := 1; host < 3; host++ {
			for {
				w, ok := l.hosts[host].device.Taken()
				if !ok {
					break
				}
				if w.Offload.Type != tun.GSONone {
					supers++
				}
				for _, f := range arrives(t, receiver, w) {
					got[host][string(f[6:12])] = append(got[host][string(f[6:12])], f)
				}
			}
			for mac, frames := range want[host] {
				same(t, fmt.Sprintf("host %d, stream %x", host, mac[5]), got[host][mac], frames)
			}
			if len(got[host]) != len(want[host]) {
				t.Errorf("host %d has frames of %d streams, want %d", host, len(got[host]), len(want[host]))
			}
		}
		for i, h := range l.hosts {
			for name, n := range h.Counters().All() {
				if strings.HasPrefix(name, "drop_") && n > 0 {
					t.Errorf("host %d: %s %d", i, name, n)
				}
			}
			if h.device.Lost() > 0 {
				t.Errorf("host %d: no room in its device for %d frames", i, h.device.Lost())
			}
		}
		if w, ok := a.device.Taken(); ok {
			t.Errorf("the sender is given %x", w.Bytes)
		}
		if n := a.Counters().All()["frames_fragmented"]; n < 50 || (supers > 0) != (receiver.TCP || receiver.UDP && sender.Checksum) {
			t.Errorf("%d frames went in pieces, %d super-frames came of %d frames: the test shows nothing", n, supers, frames)
		}
	})
}

// same compares what was seen of a stream with what has to be.
func same(t *testing.T, of string, got, want [][]byte) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("%s: frame %d of %d is %d bytes\n%x\nwant %d bytes\n%x", of, i, len(want), len(got[i]), got[i][:min(len(got[i]), 140)], len(want[i]), want[i][:min(len(want[i]), 140)])
			return
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d frames, want %d", of, len(got), len(want))
	}
}
