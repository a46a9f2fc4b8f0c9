package offload

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"

	"ripstop/tun"
)

// packet describes one frame field by field. Its frames are marshalled from the
// description alone, with slow sums, so nothing of the package takes part in them.
type packet struct {
	tags       [][2]uint16 // EtherType and control word
	v6         bool
	tos, hops  byte
	id, frag   uint16
	ipOptions  []byte // a multiple of 4
	extensions []extension
	tcp        bool
	ports      [2]uint16
	sequence   uint32
	ack        uint32
	flags      byte
	reserved   byte // low half of the data offset byte
	window     uint16
	urgent     uint16
	tcpOptions []byte // a multiple of 4
	payload    []byte
	padding    []byte
}

// extension is an IPv6 extension header: its own number and all but its first
// byte, which is the next one's number.
type extension struct {
	number byte
	rest   []byte
}

// The forms of the layer 4 checksum.
type form int

const (
	exact   form = iota // the checksum
	partial             // 0
	pseudo              // folded sum of the pseudo-header
)

func slowSum(b []byte) uint16 {
	var s uint32
	for i, c := range b {
		if i%2 == 0 {
			s += uint32(c) << 8
		} else {
			s += uint32(c)
		}
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

func (p *packet) addresses() []byte {
	if p.v6 {
		return []byte{0xfd, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 1, 0xfd, 0xff, 0xee, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 2}
	}
	return []byte{10, 32, 0, 1, 10, 32, 255, 254}
}

// layer4 is the TCP or UDP part.
func (p *packet) layer4(f form) []byte {
	var b []byte
	proto, field := byte(17), 6
	b = binary.BigEndian.AppendUint16(b, p.ports[0])
	b = binary.BigEndian.AppendUint16(b, p.ports[1])
	if p.tcp {
		proto, field = 6, 16
		b = binary.BigEndian.AppendUint32(b, p.sequence)
		b = binary.BigEndian.AppendUint32(b, p.ack)
		b = append(b, byte(20+len(p.tcpOptions))/4<<4|p.reserved, p.flags)
		b = binary.BigEndian.AppendUint16(b, p.window)
		b = append(b, 0, 0)
		b = binary.BigEndian.AppendUint16(b, p.urgent)
		b = append(b, p.tcpOptions...)
	} else {
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(p.payload)))
		b = append(b, 0, 0)
	}
	b = append(b, p.payload...)
	over := append(slices.Clone(p.addresses()), 0, proto, byte(len(b)>>8), byte(len(b)))
	switch f {
	case exact:
		s := ^slowSum(append(over, b...))
		if s == 0 && !p.tcp {
			s = 0xffff
		}
		binary.BigEndian.PutUint16(b[field:], s)
	case pseudo:
		binary.BigEndian.PutUint16(b[field:], slowSum(over))
	}
	return b
}

// frame is the whole frame and the place of its layer 4 checksum.
func (p *packet) frame(f form) (frame []byte, start, field int) {
	b := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}
	for _, tag := range p.tags {
		b = binary.BigEndian.AppendUint16(b, tag[0])
		b = binary.BigEndian.AppendUint16(b, tag[1])
	}
	proto := byte(17)
	field = 6
	if p.tcp {
		proto, field = 6, 16
	}
	l4 := p.layer4(f)
	if p.v6 {
		b = append(b, 0x86, 0xdd, 0x60|p.tos>>4, p.tos<<4|3, 0x12, 0x34)
		var chain []byte
		next := proto
		for _, e := range slices.Backward(p.extensions) {
			chain = append(append([]byte{next}, e.rest...), chain...)
			next = e.number
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(chain)+len(l4)))
		b = append(b, next, p.hops)
		b = append(b, p.addresses()...)
		b = append(b, chain...)
	} else {
		b = append(b, 0x08, 0x00)
		ip := []byte{0x40 | byte(20+len(p.ipOptions))/4, p.tos}
		ip = binary.BigEndian.AppendUint16(ip, uint16(20+len(p.ipOptions)+len(l4)))
		ip = binary.BigEndian.AppendUint16(ip, p.id)
		ip = binary.BigEndian.AppendUint16(ip, p.frag)
		ip = append(ip, p.hops, proto, 0, 0)
		ip = append(ip, p.addresses()...)
		ip = append(ip, p.ipOptions...)
		binary.BigEndian.PutUint16(ip[10:], ^slowSum(ip))
		b = append(b, ip...)
	}
	start = len(b)
	b = append(b, l4...)
	return append(b, p.padding...), start, field
}

// super is the packet as a super-frame that asks for segments of size bytes.
func (p *packet) super(size int) ([]byte, tun.Offload) {
	frame, o := p.single()
	o.SegmentSize = uint16(size)
	o.HeaderLen = uint16(len(frame) - len(p.payload))
	switch {
	case !p.tcp:
		o.Type = tun.GSOUDP
	case p.v6:
		o.Type = tun.GSOTCPv6
	default:
		o.Type = tun.GSOTCPv4
	}
	o.ECN = p.tcp && p.flags&0x80 != 0
	return frame, o
}

// single is the packet as an unfinished frame.
func (p *packet) single() ([]byte, tun.Offload) {
	frame, start, field := p.frame(pseudo)
	return frame, tun.Offload{NeedsChecksum: true, ChecksumStart: uint16(start), ChecksumOffset: uint16(field)}
}

// cut is the slow segmenter: the packets of the train, described.
func (p *packet) cut(size int) []*packet {
	var train []*packet
	for from := 0; from == 0 || from < len(p.payload); from += size {
		s := *p
		s.padding = nil
		s.payload = p.payload[from:min(from+size, len(p.payload))]
		s.sequence += uint32(from)
		s.id += uint16(len(train))
		if from > 0 {
			s.flags &^= 0x80
		}
		if from+size < len(p.payload) {
			s.flags &^= 0x09
		}
		train = append(train, &s)
	}
	return train
}

// randomPacket is any packet that may be cut, with payload bytes behind its
// headers.
func randomPacket(r *rand.Rand, payload int) *packet {
	p := &packet{
		v6: r.IntN(2) == 0, tcp: r.IntN(3) > 0,
		tos: byte(r.Uint32()), hops: byte(r.Uint32()), id: uint16(r.Uint32()),
		frag:  []uint16{0, 0x4000, 0x8000}[r.IntN(3)],
		ports: [2]uint16{uint16(r.Uint32()), uint16(r.Uint32())},
		ack:   r.Uint32(), window: uint16(r.Uint32()), sequence: r.Uint32(),
	}
	for range r.IntN(3) {
		p.tags = append(p.tags, [2]uint16{[]uint16{0x8100, 0x88a8}[r.IntN(2)], uint16(r.Uint32())})
	}
	if p.tcp {
		p.flags = 0x10 | byte(r.Uint32())&(0x80|0x40|0x08|0x01)
		p.reserved = byte(r.IntN(16))
		p.tcpOptions = slices.Concat([][]byte{
			{}, {1, 1, 8, 10, 0, 0, byte(r.Uint32()), 4, 0, 0, 0, 9}, {1, 1, 1, 0},
			{1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2}, {254, 4, 0xf9, 0x89},
		}[r.IntN(5)])
	}
	if r.IntN(3) == 0 {
		p.ipOptions = slices.Clone([][]byte{{0x94, 4, 0, 0}, {1, 1, 1, 0}, {7, 7, 4, 1, 2, 3, 4, 0}}[r.IntN(3)])
	}
	for range r.IntN(3) {
		p.extensions = append(p.extensions, extension{
			[]byte{0, 60, 43}[r.IntN(3)],
			slices.Clone([][]byte{{0, 5, 2, 0, 0, 1, 0}, {0, 4, 0, 0, 0, 0, 0}, {1, 4, 0, 0, 0, 0, 0, 0, 1, 5, 1, 2, 3, 4, 5}}[r.IntN(3)]),
		})
		if e := &p.extensions[len(p.extensions)-1]; e.number == 43 {
			e.rest[2] = 0 // no segments left
		}
	}
	p.payload = make([]byte, payload)
	switch r.IntN(8) {
	case 0: // all zero
	case 1:
		p.payload = bytes.Repeat([]byte{0xff}, payload)
	default:
		for i := range p.payload {
			p.payload[i] = byte(r.Uint32())
		}
	}
	return p
}

// shifted copies b to a place with another alignment and nothing behind it.
func shifted(r *rand.Rand, b []byte) []byte {
	off := r.IntN(8)
	return append(make([]byte, off, off+len(b)), b...)[off:]
}

// whole is the frame with its pieces, as the kernel reads it.
func whole(f *tun.Frame) []byte {
	return slices.Concat(append([][]byte{f.Bytes()}, f.More...)...)
}

// buffered is a Frame whose buffer has room in front.
func buffered(frame []byte) tun.Frame {
	return tun.Frame{Buf: append(make([]byte, tun.Headroom), frame...), Off: tun.Headroom, Len: len(frame)}
}
