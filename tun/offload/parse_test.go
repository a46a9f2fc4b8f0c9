package offload

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"ripstop/tun"
)

// vxlan wraps a frame in UDP with VXLAN's port and header, in the forms of the
// kernel: the outer sum is 0, the inner is unfinished.
func vxlan(inner []byte) *packet {
	return &packet{hops: 64, ports: [2]uint16{4444, 4789}, payload: append([]byte{8, 0, 0, 0, 0, 0, 7, 0}, inner...)}
}

// TestParseKernel has a row for each kind of frame that a TAP's reader was seen to
// get: what comes of it, and how many segments at a path of 1300.
func TestParseKernel(t *testing.T) {
	r := func(n int) []byte { return bytes.Repeat([]byte{0xa5, 1, 2}, n/3+1)[:n] }
	tag := [][2]uint16{{0x8100, 7}}
	hop := []extension{{0, make([]byte, 7)}}
	destination := []extension{{60, []byte{0, 1, 4, 0, 0, 0, 0}}}
	type row struct {
		name  string
		frame []byte
		o     tun.Offload
		ok    bool
		count int
	}
	super := func(name string, p *packet, size, start, count int) row {
		frame, o := p.super(size)
		if int(o.ChecksumStart) != start {
			t.Fatalf("%s: the checksum starts at %d, the table says %d", name, o.ChecksumStart, start)
		}
		return row{name, frame, o, true, count}
	}
	single := func(name string, p *packet, ok bool) row {
		frame, o := p.single()
		return row{name, frame, o, ok, 1}
	}
	finished := func(name string, p *packet, ok bool) row {
		frame, _, _ := p.frame(exact)
		return row{name, frame, tun.Offload{}, ok, 1}
	}
	rows := []row{
		super("TCP over IPv4", &packet{tcp: true, flags: 0x10, payload: r(65160)}, 1448, 34, 51),
		super("TCP over IPv6", &packet{v6: true, tcp: true, flags: 0x10, payload: r(65140)}, 1428, 54, 51),
		single("acknowledgement", &packet{tcp: true, flags: 0x10}, true),
		single("acknowledgement over IPv6", &packet{v6: true, tcp: true, flags: 0x10}, true),
		single("SYN", &packet{tcp: true, flags: 0x02, tcpOptions: []byte{2, 4, 5, 180}}, true),
		super("TCP with a mark", &packet{tcp: true, flags: 0x90, payload: r(14480)}, 1448, 34, 12),
		super("UDP_SEGMENT", &packet{payload: r(128 * 500)}, 500, 34, 128),
		super("UDP_SEGMENT over IPv6", &packet{v6: true, payload: r(45*1200 + 1)}, 1200, 54, 46),
		super("tagged", &packet{tags: tag, tcp: true, flags: 0x10, payload: r(2896)}, 1448, 38, 3),
		super("tagged UDP", &packet{tags: tag, v6: true, payload: r(2400)}, 1200, 58, 2),
		super("tagged twice", &packet{tags: [][2]uint16{{0x88a8, 1}, {0x8100, 7}}, tcp: true, payload: r(2896)}, 1448, 42, 3),
		super("hop-by-hop options", &packet{v6: true, extensions: hop, tcp: true, payload: r(2896)}, 1448, 62, 3),
		super("destination options", &packet{v6: true, extensions: destination, payload: r(2400)}, 1200, 62, 2),
		super("odd headers and sizes", &packet{v6: true, tags: tag, extensions: slices.Concat(hop, destination), tcp: true, payload: r(3001)}, 1111, 74, 3),
		finished("IP fragment, first", &packet{frag: 0x2000, payload: r(1472)}, false),
		finished("IP fragment, last", &packet{frag: 0x00b9, payload: r(100)}, false),
		finished("IP fragment of TCP", &packet{frag: 0x2000, tcp: true, payload: r(1400)}, false),
		finished("IPv6 fragment", &packet{v6: true, extensions: []extension{{44, []byte{0, 0, 1, 0, 0, 0, 5}}}, payload: r(1448)}, false),
		finished("IPv6 atomic fragment", &packet{v6: true, extensions: []extension{{44, make([]byte, 7)}}, tcp: true, payload: r(1400)}, false),
		single("BIG TCP, cut by the kernel", &packet{tcp: true, flags: 0x10, payload: r(1300)}, true),
		finished("finished datagram", &packet{payload: r(1400)}, false),
		finished("finished TCP", &packet{tcp: true, flags: 0x10, payload: r(1300)}, true),
	}
	inner, innerOffload := (&packet{hops: 64, tcp: true, flags: 0x10, payload: r(1300)}).single()
	nested, _, _ := vxlan(inner).frame(partial)
	innerOffload.ChecksumStart += 50
	if innerOffload.ChecksumStart != 84 {
		t.Fatal(innerOffload)
	}
	rows = append(rows, row{"VXLAN, cut by the kernel", nested, innerOffload, false, 0})
	inner, innerOffload = (&packet{hops: 64, tcp: true, flags: 0x10, payload: r(62000)}).super(1398)
	nested, _, _ = vxlan(inner).frame(partial)
	innerOffload.ChecksumStart, innerOffload.OuterL4, innerOffload.InnerL3 = 84, 34, 64
	rows = append(rows, row{"VXLAN super-frame", nested, innerOffload, true, 48})
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			s, ok := Parse(c.frame, c.o)
			if ok != c.ok {
				t.Fatalf("%v, want %v", ok, c.ok)
			}
			if !ok {
				return
			}
			if n := s.Count(1300); n != c.count {
				t.Errorf("%d segments, want %d", n, c.count)
			}
			if c.o.Type != tun.GSONone && s.SegmentSize != int(c.o.SegmentSize) {
				t.Errorf("segments of %d, want %d", s.SegmentSize, c.o.SegmentSize)
			}
			if c.o.NeedsChecksum && (s.ChecksumStart != int(c.o.ChecksumStart) || s.ChecksumOffset != int(c.o.ChecksumOffset)) {
				t.Errorf("checksum at %d+%d", s.ChecksumStart, s.ChecksumOffset)
			}
			// No truncation is taken for the frame, and none is read past.
			for n := range len(c.frame) {
				if _, ok := Parse(slices.Clip(c.frame[:n]), c.o); ok {
					t.Fatalf("taken at %d of %d bytes", n, len(c.frame))
				}
				if n > 200 {
					break
				}
			}
		})
	}
}

// TestParseContradictions has a row for each header that the kernel refuses or,
// worse, accepts, and for frames that don't agree with themselves.
func TestParseContradictions(t *testing.T) {
	tcp4 := func() *packet { return &packet{hops: 9, tcp: true, flags: 0x10, payload: make([]byte, 3000)} }
	tcp6 := func() *packet { p := tcp4(); p.v6 = true; return p }
	udp4 := func() *packet { return &packet{hops: 9, payload: make([]byte, 3000)} }
	for _, c := range []struct {
		name   string
		p      *packet
		change func(frame []byte, o *tun.Offload) []byte
	}{
		{"checksum start past the end", tcp4(), func(f []byte, o *tun.Offload) []byte { o.ChecksumStart = uint16(len(f)); return f }},
		{"checksum field past the end", tcp4(), func(f []byte, o *tun.Offload) []byte { o.ChecksumOffset = uint16(len(f)); return f }},
		{"checksum of 65535", tcp4(), func(f []byte, o *tun.Offload) []byte { o.ChecksumStart, o.ChecksumOffset = 65535, 65535; return f }},
		{"segments of 0", tcp4(), func(f []byte, o *tun.Offload) []byte { o.SegmentSize = 0; return f }},
		{"segments of 1", tcp4(), func(f []byte, o *tun.Offload) []byte { o.SegmentSize = 1; return f }},
		{"unknown type", tcp4(), func(f []byte, o *tun.Offload) []byte { o.Type = 6; return f }},
		{"old UDP fragmentation", udp4(), func(f []byte, o *tun.Offload) []byte { o.Type = 3; return f }},
		{"TCPv6 type on IPv4", tcp4(), func(f []byte, o *tun.Offload) []byte { o.Type = tun.GSOTCPv6; return f }},
		{"TCPv4 type on IPv6", tcp6(), func(f []byte, o *tun.Offload) []byte { o.Type = tun.GSOTCPv4; return f }},
		{"ECN bit alone", tcp4(), func(f []byte, o *tun.Offload) []byte { o.Type, o.ECN = tun.GSONone, true; return f }},
		{"ECN bit with UDP", udp4(), func(f []byte, o *tun.Offload) []byte { o.ECN = true; return f }},
		{"13 bytes", tcp4(), func(f []byte, o *tun.Offload) []byte { return f[:13] }},
		{"nothing", tcp4(), func(f []byte, o *tun.Offload) []byte { return nil }},
		{"UDP type on TCP", tcp4(), func(f []byte, o *tun.Offload) []byte { o.Type = tun.GSOUDP; return f }},
		{"UDP type and field on TCP", tcp4(), func(f []byte, o *tun.Offload) []byte { o.Type, o.ChecksumOffset = tun.GSOUDP, 6; return f }},
		{"TCP type on UDP", udp4(), func(f []byte, o *tun.Offload) []byte { o.Type = tun.GSOTCPv4; return f }},
		{"TCP type without NEEDS_CSUM", tcp4(), func(f []byte, o *tun.Offload) []byte { o.NeedsChecksum = false; return f }},
		{"UDP type without NEEDS_CSUM", udp4(), func(f []byte, o *tun.Offload) []byte { o.NeedsChecksum = false; return f }},
		{"TCP type on ARP", tcp4(), func(f []byte, o *tun.Offload) []byte { f[12], f[13] = 8, 6; return f }},
		{"TCP type on 802.3", tcp4(), func(f []byte, o *tun.Offload) []byte { f[12], f[13] = 5, 0xdc; return f }},
		{"checksum start inside the IP header", tcp4(), func(f []byte, o *tun.Offload) []byte { o.ChecksumStart = 20; return f }},
		{"checksum start behind", tcp4(), func(f []byte, o *tun.Offload) []byte { o.ChecksumStart += 2; return f }},
		{"tunnel", tcp4(), func(f []byte, o *tun.Offload) []byte { o.OuterL4 = 34; return f }},
		{"half a tunnel", tcp4(), func(f []byte, o *tun.Offload) []byte { o.InnerL3 = 64; return f }},
		{"IPv6 inside the IPv4 type", tcp4(), func(f []byte, o *tun.Offload) []byte { f[14] = 0x65; return f }},
		{"header length below 5", tcp4(), func(f []byte, o *tun.Offload) []byte { f[14] = 0x44; return f }},
		{"total length longer", tcp4(), func(f []byte, o *tun.Offload) []byte { return f[:len(f)-1] }},
		{"total length shorter", tcp4(), func(f []byte, o *tun.Offload) []byte { return append(f, 0) }},
		{"total length 0", tcp4(), func(f []byte, o *tun.Offload) []byte { return fixIP(f, 14, 2, 0) }},
		{"total length below the header", tcp4(), func(f []byte, o *tun.Offload) []byte { return fixIP(f, 14, 2, 19) }},
		{"IPv6 length longer", tcp6(), func(f []byte, o *tun.Offload) []byte { return f[:len(f)-1] }},
		{"IPv6 length shorter", tcp6(), func(f []byte, o *tun.Offload) []byte { return append(f, 0) }},
		{"jumbogram", tcp6(), func(f []byte, o *tun.Offload) []byte { f[18], f[19] = 0, 0; return f }},
		{"IPv4 header checksum", tcp4(), func(f []byte, o *tun.Offload) []byte { f[24]++; return f }},
		{"fragment", tcp4(), func(f []byte, o *tun.Offload) []byte { return fixIP(f, 14, 6, 0x2000) }},
		{"TCP header of 4 words", tcp4(), func(f []byte, o *tun.Offload) []byte { f[46] = 0x40; return f }},
		{"UDP length longer", udp4(), func(f []byte, o *tun.Offload) []byte { f[39]++; return f }},
		{"UDP length of a segment", udp4(), func(f []byte, o *tun.Offload) []byte { f[38], f[39] = 1308>>8, 1308&255; return f }},
		{"UDP length 0", udp4(), func(f []byte, o *tun.Offload) []byte { f[38], f[39] = 0, 0; return f }},
		{"SYN", tcp4(), func(f []byte, o *tun.Offload) []byte { f[47] |= flagSYN; return f }},
		{"RST", tcp4(), func(f []byte, o *tun.Offload) []byte { f[47] |= flagRST; return f }},
		{"URG", tcp4(), func(f []byte, o *tun.Offload) []byte { f[47] |= flagURG; return f }},
		{"ICMP", udp4(), func(f []byte, o *tun.Offload) []byte { f[23] = 1; return fixIP(f, 14, 4, 0) }},
		{"SCTP", udp4(), func(f []byte, o *tun.Offload) []byte { f[23] = 132; return fixIP(f, 14, 4, 0) }},
		{"three tags", withTags(tcp4(), 3), nil},
		{"another tag", func() *packet { p := tcp4(); p.tags = [][2]uint16{{0x9100, 1}}; return p }(), nil},
		{"loose source route", withOptions(tcp4(), 131, 3, 4, 0), nil},
		{"strict source route behind others", withOptions(tcp4(), 1, 0x94, 4, 0, 0, 137, 3, 4), nil},
		{"IPv4 option of no length", withOptions(tcp4(), 0x94, 0, 0, 0), nil},
		{"IPv4 option too long", withOptions(tcp4(), 0x94, 5, 0, 0), nil},
		{"IPv4 option cut off", withOptions(tcp4(), 1, 1, 1, 0x94), nil},
		{"segments left", withExtension(tcp6(), 43, 0, 0, 1, 0, 0, 0, 0), nil},
		{"home address", withExtension(tcp6(), 60, append([]byte{2, 1, 2, 0, 0, 0xc9, 16}, make([]byte, 17)...)[:23]...), nil},
		{"destination option cut off", withExtension(tcp6(), 60, 0, 1, 3, 0, 0, 0, 9), nil},
		{"authentication", withExtension(tcp6(), 51, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0), nil},
		{"encrypted", withExtension(tcp6(), 50, 2, 0, 0, 0, 0, 0, 0), nil},
		{"no next header", withExtension(tcp6(), 59, 0, 0, 0, 0, 0, 0, 0), nil},
		{"another protocol", withExtension(tcp6(), 135, 0, 0, 0, 0, 0, 0, 0), nil},
		{"headers longer than 256", withExtension(tcp6(), 0, append([]byte{24}, make([]byte, 198)...)...), nil},
		{"options longer than 256", withExtension(tcp6(), 0, append([]byte{31}, make([]byte, 254)...)...), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			frame, o := c.p.super(1300)
			if c.change != nil {
				frame = c.change(slices.Clip(frame), &o)
			}
			if s, ok := Parse(frame, o); ok {
				t.Errorf("taken: %+v", s)
			}
		})
	}
}

// fixIP sets a word of an IPv4 header and makes its checksum right again.
func fixIP(frame []byte, l3, at int, value uint16) []byte {
	binary.BigEndian.PutUint16(frame[l3+at:], value)
	binary.BigEndian.PutUint16(frame[l3+10:], 0)
	binary.BigEndian.PutUint16(frame[l3+10:], ^slowSum(frame[l3:l3+20]))
	return frame
}

func withTags(p *packet, n int) *packet {
	for range n {
		p.tags = append(p.tags, [2]uint16{0x8100, 5})
	}
	return p
}

func withOptions(p *packet, options ...byte) *packet { p.ipOptions = options; return p }

func withExtension(p *packet, number byte, rest ...byte) *packet {
	p.extensions = []extension{{number, rest}}
	return p
}

// TestParseTruncated: whatever the layers are, a frame cut short anywhere is
// refused, by every entry, and unchanged.
func TestParseTruncated(t *testing.T) {
	for _, p := range []*packet{
		{tcp: true, flags: 0x10, payload: []byte("data"), tcpOptions: []byte{1, 1, 1, 0}},
		{tcp: true, v6: true, payload: []byte("data"), extensions: []extension{{0, make([]byte, 7)}, {60, append([]byte{1}, make([]byte, 14)...)}}},
		{payload: []byte("data"), ipOptions: []byte{1, 1, 1, 0}, tags: [][2]uint16{{0x88a8, 1}, {0x8100, 2}}},
		{payload: []byte("data"), v6: true, tags: [][2]uint16{{0x8100, 2}}},
	} {
		frame, o := p.single()
		if _, ok := Parse(frame, o); !ok {
			t.Fatal("the whole is refused")
		}
		for n := range len(frame) {
			short := slices.Clone(frame[:n:n])
			if _, ok := Parse(short, o); ok {
				t.Errorf("Parse takes %d of %d bytes", n, len(frame))
			}
			if _, ok := Partial(short); ok {
				t.Errorf("Partial takes %d of %d bytes", n, len(frame))
			}
			if CompleteSegment(short) {
				t.Errorf("CompleteSegment takes %d of %d bytes", n, len(frame))
			}
			var j Joiner
			if j.Add(short) {
				t.Errorf("a Joiner takes %d of %d bytes", n, len(frame))
			}
			if !bytes.Equal(short, frame[:n]) {
				t.Errorf("%d of %d bytes were changed", n, len(frame))
			}
		}
	}
}

// TestParsePadding: padding belongs to single frames only and is no payload.
func TestParsePadding(t *testing.T) {
	p := &packet{tcp: true, flags: 0x10, payload: []byte("data"), padding: make([]byte, 6)}
	frame, o := p.single()
	s, ok := Parse(frame, o)
	if !ok || s.Payload != 4 {
		t.Fatalf("%v, %d bytes of payload", ok, s.Payload)
	}
	train := cutAll(t, frame, o, 1300)
	if want, _, _ := p.cut(4)[0].frame(partial); len(train) != 1 || !bytes.Equal(train[0], want) {
		t.Errorf("%x\nwant\n%x", train, want)
	}
	frame, o = p.super(2)
	if _, ok := Parse(frame, o); ok {
		t.Error("a padded super-frame is taken")
	}
}
