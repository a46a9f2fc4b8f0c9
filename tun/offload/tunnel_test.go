package offload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"ripstop/tun"
)

// tunnelled describes a frame with a packet inside another's UDP datagram. As packet it
// is marshalled from the description alone.
type tunnelled struct {
	outer  packet // UDP; its payload comes of the rest
	encap  []byte // between the outer UDP header and the inner packet
	inner  packet
	summed bool // the outer checksum is used
}

// frame is the whole frame, the place of the inner packet, and that of the inner
// checksum. The outer sum of a partial frame is a mark.
func (p *tunnelled) frame(f form) (frame []byte, innerL3, start, field int) {
	inside, start, field := p.inner.frame(f)
	from := 14 + 4*len(p.inner.tags)
	outer := p.outer
	outer.payload = slices.Concat(p.encap, inside[from:])
	if !p.summed {
		f = partial
	}
	frame, l4, sum := outer.frame(f)
	if p.summed && f == partial {
		frame[l4+sum], frame[l4+sum+1] = 0xff, 0xff
	}
	innerL3 = l4 + 8 + len(p.encap)
	return frame, innerL3, innerL3 + start - from, field
}

// super is a super-frame that asks for segments of size bytes.
func (p *tunnelled) super(size int) ([]byte, tun.Offload) {
	frame, innerL3, start, field := p.frame(pseudo)
	_, o := p.inner.super(size)
	o.ChecksumStart, o.ChecksumOffset = uint16(start), uint16(field)
	o.HeaderLen = uint16(len(frame) - len(p.inner.payload))
	o.InnerL3, o.OuterL4 = uint16(innerL3), uint16(innerL3-len(p.encap)-8)
	return frame, o
}

// single is an unfinished frame: the inner sum is left to the kernel, the outer is that
// of the frame when it is finished.
func (p *tunnelled) single() ([]byte, tun.Offload) {
	frame, _, start, field := p.frame(exact)
	inside, at, _ := p.inner.frame(pseudo)
	copy(frame[start+field:start+field+2], inside[at+field:])
	return frame, tun.Offload{NeedsChecksum: true, ChecksumStart: uint16(start), ChecksumOffset: uint16(field)}
}

// cut is the slow segmenter.
func (p *tunnelled) cut(size int) []*tunnelled {
	var train []*tunnelled
	for i, inner := range p.inner.cut(size) {
		s := *p
		s.inner = *inner
		s.outer.id += uint16(i)
		train = append(train, &s)
	}
	return train
}

var encapsulations = map[string][]byte{
	"VXLAN":                       append([]byte{8, 0, 0, 0, 0, 0, 7, 0}, inner(0x0800)...),
	"VXLAN, tag inside":           append([]byte{8, 0, 0, 0, 0, 0, 7, 0}, append(inner(0x8100), 0, 5, 8, 0)...),
	"VXLAN-GPE without Ethernet":  {0x0c, 0, 0, 1, 0, 0, 7, 0},
	"GENEVE with options":         append([]byte{2, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 1, 0, 0, 0, 9}, inner(0x86dd)...),
	"GENEVE with all its options": append(append([]byte{63, 0, 0x65, 0x58, 0, 0, 7, 0}, make([]byte, 252)...), inner(0x0800)...),
	"odd":                         {1, 2, 3, 4, 5, 6, 7, 8, 9},
	"none":                        {},
}

// inner is an Ethernet header.
func inner(kind uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{2, 1, 0, 0, 0, 2, 2, 1, 0, 0, 0, 1}, kind)
}

func randomTunnelled(r *rand.Rand, payload int) *tunnelled {
	names := slices.Sorted(maps.Keys(encapsulations))
	outer := randomPacket(r, 0)
	for outer.tcp {
		outer = randomPacket(r, 0)
	}
	in := randomPacket(r, payload)
	in.tags = nil
	return &tunnelled{outer: *outer, encap: encapsulations[names[r.IntN(len(names))]], inner: *in, summed: r.IntN(2) == 0}
}

// joinTunnelled does what the receiving loop does with tunnelled frames.
func joinTunnelled(t testing.TB, j *Joiner, frames [][]byte, innerL3 []int) []tun.Frame {
	t.Helper()
	return joinEach(t, j, frames, func(i int, frame []byte) bool {
		if innerL3[i] == 0 {
			return j.Add(frame)
		}
		return j.AddTunnelled(frame, innerL3[i])
	})
}

// finishedFrames is what a kernel makes of written frames, one by one.
func finishedFrames(t testing.TB, out []tun.Frame) (frames [][]byte) {
	t.Helper()
	for i := range out {
		frames = append(frames, recut(t, &out[i])...)
	}
	return frames
}

// TestTunnelRoundTrip: over generated traffic every segment equals what the slow
// segmenter makes, partial and exact; joined again it is the super-frame, at the step of
// the path, and what the kernel makes of that is the exact train.
func TestTunnelRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	var j Joiner
	for round := range 1500 {
		payload := 1 + r.IntN(9000)
		if round%50 == 0 {
			payload = 60000 + r.IntN(4800)
		}
		p := randomTunnelled(r, payload)
		asked := (payload+MaxJoin-1)/MaxJoin + r.IntN(1500)
		size := asked
		if p.inner.tcp {
			size = min(asked, (payload+MaxJoin-1)/MaxJoin+r.IntN(1500))
		}
		frame, o := p.super(asked)
		before := bytes.Clone(frame)
		train := cutAll(t, frame, o, size)
		if !bytes.Equal(frame, before) {
			t.Fatal("the super-frame was changed")
		}
		want := p.cut(size)
		if len(train) != len(want) {
			t.Fatalf("%d segments, want %d", len(train), len(want))
		}
		var exactly [][]byte
		places := make([]int, len(train))
		for i, got := range train {
			segment, innerL3, start, field := want[i].frame(partial)
			if !bytes.Equal(got, segment) {
				t.Fatalf("round %d: segment %d of %d\n%x\nwant\n%x", round, i, len(train), got[:min(len(got), 160)], segment[:min(len(segment), 160)])
			}
			finished, _, _, _ := want[i].frame(exact)
			exactly = append(exactly, finished)
			segment = shifted(r, got)
			segment[start+field] = byte(r.Uint32()) // whatever the field held
			if !CompleteTunnelled(segment, innerL3) || !bytes.Equal(segment, finished) {
				t.Fatalf("round %d: segment %d completed\n%x\nwant\n%x", round, i, segment, finished)
			}
			// One by one, for any device.
			single := joinTunnelled(t, &j, [][]byte{got}, []int{innerL3})
			toKernel, so := want[i].single()
			if !bytes.Equal(whole(&single[0]), toKernel) || single[0].Offload != so {
				t.Fatalf("round %d: segment %d for the kernel: %+v\n%x\nwant %+v\n%x", round, i, single[0].Offload, whole(&single[0]), so, toKernel)
			}
			if !Complete(toKernel, so) || !bytes.Equal(toKernel, finished) {
				t.Fatal("the test's own unfinished frame is wrong")
			}
			places[i] = innerL3
		}
		out := joinTunnelled(t, &j, train, places)
		if !p.inner.tcp {
			if len(out) != len(train) {
				t.Fatalf("round %d: %d datagrams became %d frames", round, len(train), len(out))
			}
		} else {
			if len(out) != 1 {
				t.Fatalf("round %d: %d segments became %d frames", round, len(train), len(out))
			}
			super, so := p.super(size)
			if payload <= size {
				super, so = p.single()
			}
			if got := whole(&out[0]); !bytes.Equal(got, super) || out[0].Offload != so {
				t.Fatalf("round %d: written %+v\n%x\nwant %+v\n%x", round, out[0].Offload, got[:min(len(got), 160)], so, super[:min(len(super), 160)])
			}
		}
		if !slices.EqualFunc(finishedFrames(t, out), exactly, bytes.Equal) {
			t.Fatalf("round %d: another train", round)
		}
	}
}

// TestTunnelDisorder: trains of tunnels that look alike, mixed with each other and with
// frames that have no tunnel, shuffled and thinned, come out as the same frames in the
// same order.
func TestTunnelDisorder(t *testing.T) {
	r := rand.New(rand.NewPCG(23, 24))
	var j Joiner
	joined := 0
	for round := range 1000 {
		size := 1 + r.IntN(200)
		base := randomTunnelled(r, 1+r.IntN(20*size))
		base.inner.tcp = base.inner.tcp || r.IntN(2) == 0
		var in, want [][]byte
		var places []int
		for range 1 + r.IntN(4) {
			p := *base
			switch r.IntN(6) {
			case 0:
				p = *randomTunnelled(r, 1+r.IntN(20*size))
			case 1:
				p.outer.ports[0] ^= 1
			case 2:
				p.encap = slices.Clone(p.encap)
				if len(p.encap) > 0 {
					p.encap[r.IntN(len(p.encap))] ^= 1
				}
			case 3: // goes on where the other ended
				p.inner.sequence += uint32(len(base.inner.payload))
				n := uint16(len(base.cut(size)))
				p.inner.id, p.outer.id = p.inner.id+n, p.outer.id+n
			case 4: // the tunnel's own datagrams, as frames of no tunnel
				for _, s := range p.cut(size) {
					f, _, _, _ := s.frame(exact)
					h, ok := parse(f)
					if !ok {
						t.Fatal("not a datagram")
					}
					open := slices.Clone(f)
					binary.BigEndian.PutUint16(open[h.l4+udpChecksum:], 0)
					h.complete(f)
					in, want, places = append(in, open), append(want, f), append(places, 0)
				}
				continue
			}
			for _, s := range p.cut(size) {
				f, innerL3, _, _ := s.frame(partial)
				in, places = append(in, f), append(places, innerL3)
				f, _, _, _ = s.frame(exact)
				want = append(want, f)
			}
		}
		for range r.IntN(4) {
			i, k := r.IntN(len(in)), r.IntN(len(in))
			in[i], in[k] = in[k], in[i]
			want[i], want[k] = want[k], want[i]
			places[i], places[k] = places[k], places[i]
			if len(in) > 1 && r.IntN(2) == 0 {
				in, want, places = slices.Delete(in, i, i+1), slices.Delete(want, i, i+1), slices.Delete(places, i, i+1)
			}
		}
		out := joinTunnelled(t, &j, in, places)
		for _, f := range out {
			if len(f.More) > 0 {
				joined++
			}
		}
		if got := finishedFrames(t, out); !slices.EqualFunc(got, want, bytes.Equal) {
			t.Fatalf("round %d: %d frames in, %d out, or not the same", round, len(want), len(got))
		}
	}
	if joined < 1000 {
		t.Errorf("only %d super-frames: the test shows little", joined)
	}
}

func plainTunnel() *tunnelled {
	return &tunnelled{
		outer:  packet{hops: 64, id: 3, ports: [2]uint16{4444, 4789}},
		encap:  encapsulations["VXLAN"],
		inner:  packet{hops: 64, id: 9, tcp: true, flags: 0x10, sequence: 1000, payload: make([]byte, 100)},
		summed: true,
	}
}

// TestTunnelRefuses has a row for each thing of the envelope that ends a run.
func TestTunnelRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(first, next *tunnelled)
		ok     bool
	}{
		{"nothing changed", func(a, b *tunnelled) {}, true},
		{"no outer sum", func(a, b *tunnelled) { a.summed, b.summed = false, false }, true},
		{"shorter last", func(a, b *tunnelled) { b.inner.payload = b.inner.payload[:1] }, true},
		{"outer IPv6", func(a, b *tunnelled) { a.outer.v6, b.outer.v6 = true, true }, true},
		{"outer sum of one", func(a, b *tunnelled) { b.summed = false }, false},
		{"outer ID of before", func(a, b *tunnelled) { b.outer.id-- }, false},
		{"inner ID of before", func(a, b *tunnelled) { b.inner.id-- }, false},
		{"sequence", func(a, b *tunnelled) { b.inner.sequence++ }, false},
		{"outer port", func(a, b *tunnelled) { b.outer.ports[0]++ }, false},
		{"outer hops", func(a, b *tunnelled) { b.outer.hops-- }, false},
		{"outer type of service", func(a, b *tunnelled) { b.outer.tos = 3 }, false},
		{"outer tag", func(a, b *tunnelled) { b.outer.tags = [][2]uint16{{0x8100, 1}} }, false},
		{"network", func(a, b *tunnelled) { b.encap = slices.Clone(b.encap); b.encap[6]++ }, false},
		{"inner MAC", func(a, b *tunnelled) { b.encap = slices.Clone(b.encap); b.encap[19]++ }, false},
		{"longer encapsulation", func(a, b *tunnelled) { b.encap = append(slices.Clone(b.encap), 0, 0, 0, 0) }, false},
		{"inner version", func(a, b *tunnelled) { b.inner.v6 = true }, false},
		{"inner datagrams", func(a, b *tunnelled) { a.inner.tcp, b.inner.tcp = false, false }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := plainTunnel(), plainTunnel()
			b.inner.sequence, b.inner.id, b.outer.id = 1100, 10, 4
			c.change(a, b)
			first, at, _, _ := a.frame(partial)
			next, atNext, _, _ := b.frame(partial)
			var j Joiner
			if !j.AddTunnelled(first, at) {
				t.Fatal("the first is refused")
			}
			if got := j.AddTunnelled(next, atNext); got != c.ok {
				t.Errorf("%v, want %v", got, c.ok)
			}
			if j.Add(next) {
				t.Error("joined as a frame of no tunnel")
			}
		})
	}
	train := plainTunnel().cut(50)
	first, at, _, _ := train[0].frame(partial)
	next, _, _, _ := train[1].frame(partial)
	for name, damage := range map[string]func(){
		"outer header sum of the first": func() { first[24]++ },
		"outer header sum of the next":  func() { next[24]++ },
		"outer length of the next":      func() { next[39]++ },
	} {
		a, b := slices.Clone(first), slices.Clone(next)
		damage()
		var j Joiner
		if !j.AddTunnelled(first, at) || j.AddTunnelled(next, at) {
			t.Errorf("joined in spite of a wrong %s", name)
		}
		copy(first, a)
		copy(next, b)
	}
	for _, j := range []*Joiner{{NoTunnel: true}, {NoTunnelChecksum: true}, {NoTCP: true}} {
		if !j.AddTunnelled(first, at) || j.AddTunnelled(next, at) {
			t.Errorf("joined for a device that doesn't take it: NoTunnel %v, NoTunnelChecksum %v", j.NoTunnel, j.NoTunnelChecksum)
		}
	}
	var mixed Joiner
	if !mixed.Add(first) || mixed.AddTunnelled(next, at) {
		t.Error("joined with a frame of no tunnel")
	}
	unsummed := plainTunnel()
	unsummed.summed = false
	j := Joiner{NoTunnelChecksum: true}
	for i, s := range unsummed.cut(50) {
		if f, at, _, _ := s.frame(partial); !j.AddTunnelled(f, at) {
			t.Errorf("frame %d without outer sum is not joined", i)
		}
	}
}

// TestTunnelPlace: a place is taken only where a whole packet stands that ends with the
// frame, and the header's places only if they are the frame's.
func TestTunnelPlace(t *testing.T) {
	for name, encap := range encapsulations {
		p := plainTunnel()
		p.encap = encap
		p.inner.payload = bytes.Repeat([]byte{0x45, 0, 0x60}, 400)
		segment, right, _, _ := p.frame(partial)
		for at := range len(segment) + 3 {
			var j Joiner
			before := slices.Clone(segment)
			if got := j.AddTunnelled(segment, at); got != (at == right) {
				t.Errorf("%s: place %d, right is %d: %v", name, at, right, got)
			}
			if at != right && (CompleteTunnelled(segment, at) || !bytes.Equal(segment, before)) {
				t.Errorf("%s: completed at %d, or changed", name, at)
			}
		}
		frame, o := p.super(500)
		if s, ok := Parse(frame, o); !ok || s.InnerL3() != right {
			t.Errorf("%s: refused, or at %d", name, s.InnerL3())
		}
		for n := range len(frame) {
			if _, ok := Parse(slices.Clip(frame[:n]), o); ok {
				t.Fatalf("%s: taken at %d of %d bytes", name, n, len(frame))
			}
		}
		for what, change := range map[string]func(o *tun.Offload){
			"outer place":       func(o *tun.Offload) { o.OuterL4++ },
			"outer place, tag":  func(o *tun.Offload) { o.OuterL4, o.InnerL3 = o.OuterL4-4, o.InnerL3-4 },
			"inner place":       func(o *tun.Offload) { o.InnerL3++ },
			"no inner place":    func(o *tun.Offload) { o.InnerL3 = 0 },
			"no outer place":    func(o *tun.Offload) { o.OuterL4 = 0 },
			"place of the sum":  func(o *tun.Offload) { o.ChecksumStart++ },
			"inner type":        func(o *tun.Offload) { o.Type = tun.GSOTCPv6 },
			"no type":           func(o *tun.Offload) { o.Type = tun.GSONone },
			"nothing to finish": func(o *tun.Offload) { o.NeedsChecksum = false },
		} {
			changed := o
			change(&changed)
			if _, ok := Parse(frame, changed); ok {
				t.Errorf("%s: taken with a wrong %s", name, what)
			}
		}
	}
	// The kernel leaves the tag out of the places that it tells.
	p := plainTunnel()
	p.outer.tags = [][2]uint16{{0x8100, 7}}
	frame, o := p.super(50)
	told := o
	told.OuterL4, told.InnerL3 = told.OuterL4-4, told.InnerL3-4
	for _, o := range []tun.Offload{o, told} {
		if s, ok := Parse(frame, o); !ok || s.InnerL3() != 68 {
			t.Errorf("tagged: refused, or at %d", s.InnerL3())
		}
	}
	for i, at := range []int{24, 74} { // the IPv4 header checksums
		frame, o := plainTunnel().super(50)
		frame[at]++
		if _, ok := Parse(frame, o); ok {
			t.Errorf("wrong header checksum %d is taken", i)
		}
	}
}

// TestTunnelBounds: the outer packet is at most as long as a packet may be.
func TestTunnelBounds(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		p := plainTunnel()
		p.outer.v6 = v6
		p.inner.payload = make([]byte, 1000)
		var j Joiner
		var first tun.Frame
		n := 0
		for ; ; n++ {
			s := *p
			s.inner.sequence += uint32(n * 1000)
			s.inner.id, s.outer.id = s.inner.id+uint16(n), s.outer.id+uint16(n)
			b, at, _, _ := s.frame(partial)
			f := buffered(b)
			if n == 0 {
				first = f
			}
			if !j.AddTunnelled(f.Bytes(), at) {
				break
			}
		}
		if n != 65 || !j.Frame(&first) || len(whole(&first)) > tun.MaxFrame {
			t.Errorf("IPv6 %v: %d frames", v6, n)
		}
		p.inner.payload = make([]byte, n*1000)
		if want, o := p.super(1000); !bytes.Equal(whole(&first), want) || first.Offload != o {
			t.Error("another super-frame")
		}
	}
}

func TestTunnelNoAllocation(t *testing.T) {
	p := plainTunnel()
	p.inner.payload = make([]byte, 5000)
	frame, o := p.super(1000)
	var segments [8][]byte
	for i := range segments {
		segments[i] = make([]byte, tun.Headroom+1200)
	}
	var j Joiner
	if n := testing.AllocsPerRun(100, func() {
		s, ok := Parse(frame, o)
		if !ok {
			t.Fatal("refused")
		}
		j.Reset()
		var first tun.Frame
		for i := range s.Count(900) {
			n := s.Put(segments[i][tun.Headroom:], frame, i, 900)
			f := tun.Frame{Buf: segments[i], Off: tun.Headroom, Len: n}
			if !j.AddTunnelled(f.Bytes(), s.InnerL3()) {
				t.Fatal("not joined")
			}
			if i == 0 {
				first = f
			}
		}
		if !j.Frame(&first) || !CompleteTunnelled(segments[1][tun.Headroom:tun.Headroom+s.HeaderLen+900], s.InnerL3()) {
			t.Fatal("no frame")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkTunnel cuts and joins a VXLAN super-frame of 64 KiB.
func BenchmarkTunnel(b *testing.B) {
	for _, summed := range []bool{false, true} {
		b.Run(fmt.Sprintf("outer checksum %v", summed), func(b *testing.B) {
			p := plainTunnel()
			p.summed = summed
			p.inner.payload = make([]byte, 45*1400)
			frame, o := p.super(1400)
			segments := make([]tun.Frame, 64)
			for i := range segments {
				segments[i] = tun.Frame{Buf: make([]byte, 2048), Off: tun.Headroom}
			}
			var j Joiner
			b.SetBytes(int64(len(p.inner.payload)))
			b.ReportAllocs()
			for b.Loop() {
				s, ok := Parse(frame, o)
				if !ok {
					b.Fatal("refused")
				}
				j.Reset()
				for i := range s.Count(1238) {
					f := &segments[i]
					f.Len = s.Put(f.Buf[f.Off:], frame, i, 1238)
					if !j.AddTunnelled(f.Bytes(), s.InnerL3()) {
						b.Fatal("not joined")
					}
				}
				first := segments[0]
				if !j.Frame(&first) {
					b.Fatal("no frame")
				}
			}
		})
	}
}
