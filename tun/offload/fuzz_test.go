package offload

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"ripstop/tun"
)

// exactly tells, slowly and by its own reading, whether a frame's layer 4 checksum
// is exact. The frame is one that parse took.
func exactly(frame []byte) bool {
	h, _ := parse(frame)
	return exactlyAt(frame, h)
}

// exactlyTunnelled is exactly of both checksums of a frame that open took; a UDP
// checksum that is not used counts as exact.
func exactlyTunnelled(frame []byte, innerL3 int) bool {
	e, h, _ := open(frame, innerL3)
	outer, _ := parse(frame)
	return exactlyAt(frame, h) && (!e.summed || exactlyAt(frame, outer))
}

func exactlyAt(frame []byte, h headers) bool {
	over := slices.Clone(frame[h.l3+12 : h.l3+20])
	if h.v6 {
		over = slices.Clone(frame[h.l3+8 : h.l3+40])
	}
	proto, field := byte(17), frame[h.l4+6:h.l4+8]
	if h.tcp {
		proto, field = 6, frame[h.l4+16:h.l4+18]
	}
	length := h.end - h.l4
	over = append(over, 0, proto, byte(length>>8), byte(length))
	return slowSum(append(over, frame[h.l4:h.end]...)) == 0xffff && (h.tcp || field[0]|field[1] != 0)
}

func seeds(f *testing.F, add func(p *packet)) {
	r := rand.New(rand.NewPCG(13, 14))
	for range 40 {
		add(randomPacket(r, r.IntN(300)))
	}
}

func tunnelSeeds(f *testing.F, add func(p *tunnelled)) {
	r := rand.New(rand.NewPCG(25, 26))
	for range 40 {
		add(randomTunnelled(r, r.IntN(300)))
	}
}

// FuzzParse: no frame and no header lead out of bounds; what is cut is sound and
// is all of the payload.
func FuzzParse(f *testing.F) {
	seeds(f, func(p *packet) {
		frame, o := p.super(max(1, len(p.payload)/3))
		f.Add(frame, uint8(o.Type), true, o.ECN, o.SegmentSize, o.ChecksumStart, o.ChecksumOffset, uint16(0), uint16(0), 50)
		frame, o = p.single()
		f.Add(frame, uint8(0), true, false, uint16(0), o.ChecksumStart, o.ChecksumOffset, uint16(0), uint16(0), 7)
	})
	tunnelSeeds(f, func(p *tunnelled) {
		frame, o := p.super(max(1, len(p.inner.payload)/3))
		f.Add(frame, uint8(o.Type), true, o.ECN, o.SegmentSize, o.ChecksumStart, o.ChecksumOffset, o.OuterL4, o.InnerL3, 50)
	})
	dst := make([]byte, 1<<17)
	f.Fuzz(func(t *testing.T, frame []byte, kind uint8, needs, ecn bool, asked, start, offset, outerL4, innerL3 uint16, size int) {
		o := tun.Offload{NeedsChecksum: needs, Type: tun.GSOType(kind), ECN: ecn, SegmentSize: asked, ChecksumStart: start, ChecksumOffset: offset, OuterL4: outerL4, InnerL3: innerL3}
		frame = slices.Clip(frame)
		s, ok := Parse(frame, o)
		if !ok {
			return
		}
		if s.Count(size) < 1 || s.Count(size) > max(s.Payload, 1) || s.HeaderLen+s.Payload > len(frame) {
			t.Fatalf("%+v: %d segments of %d bytes", s, s.Count(size), len(frame))
		}
		var payload []byte
		for i := range s.Count(size) {
			n := s.Put(dst, frame, i, size)
			if n < s.HeaderLen || n > s.HeaderLen+s.Step(size) {
				t.Fatalf("segment %d: %d bytes", i, n)
			}
			segment := slices.Clone(dst[:n])
			if in := s.InnerL3(); in != 0 {
				if !CompleteTunnelled(segment, in) || !exactlyTunnelled(segment, in) {
					t.Fatalf("segment %d of a tunnel is not sound: %x", i, segment)
				}
			} else if !CompleteSegment(segment) || !exactly(segment) {
				t.Fatalf("segment %d is not sound: %x", i, segment)
			}
			payload = append(payload, segment[s.HeaderLen:]...)
		}
		if !bytes.Equal(payload, frame[s.HeaderLen:s.HeaderLen+s.Payload]) {
			t.Fatal("another payload")
		}
		if s.Put(dst, frame, s.Count(size), size) != 0 {
			t.Fatal("a segment too many")
		}
		s.Sound(frame)
		s.Normalise(frame)
	})
}

// FuzzComplete: no place leads out of bounds or is summed wrongly, and nothing but
// the checksum is changed.
func FuzzComplete(f *testing.F) {
	seeds(f, func(p *packet) {
		frame, o := p.single()
		f.Add(frame, o.ChecksumStart, o.ChecksumOffset)
		nested, _, _ := vxlan(frame).frame(partial)
		f.Add(nested, o.ChecksumStart+50, o.ChecksumOffset)
		p.padding = []byte{1}
		frame, o = p.single()
		f.Add(frame, o.ChecksumStart, o.ChecksumOffset)
	})
	tunnelSeeds(f, func(p *tunnelled) {
		frame, innerL3, _, _ := p.frame(partial)
		f.Add(frame, uint16(innerL3), uint16(0))
	})
	f.Fuzz(func(t *testing.T, frame []byte, start, offset uint16) {
		before := slices.Clone(frame)
		if CompleteTunnelled(frame, int(start)) {
			if !exactlyTunnelled(frame, int(start)) {
				t.Fatalf("tunnel not exact: %x", frame)
			}
			copy(frame, before)
		} else if !bytes.Equal(frame, before) {
			t.Fatal("tunnel refused and changed")
		}
		field := int(start) + int(offset)
		unchanged := func(field int) {
			t.Helper()
			for i := range frame {
				if frame[i] != before[i] && i != field && i != field+1 {
					t.Fatalf("byte %d was changed", i)
				}
			}
		}
		if Complete(frame, tun.Offload{NeedsChecksum: true, ChecksumStart: start, ChecksumOffset: offset}) {
			unchanged(field)
		} else if !bytes.Equal(frame, before) {
			t.Fatal("refused and changed")
		}
		copy(frame, before)
		if !CompleteSegment(frame) {
			if _, ok := Partial(frame); ok || !bytes.Equal(frame, before) {
				t.Fatal("refused and changed, or half refused")
			}
			return
		}
		if !exactly(frame) {
			t.Fatalf("not exact: %x", frame)
		}
		finished := slices.Clone(frame)
		h, _ := parse(frame)
		unchanged(h.l4 + h.checksumOffset())
		o, ok := Partial(frame)
		if !ok || !Complete(frame, o) || !bytes.Equal(frame, finished) {
			t.Fatalf("by way of the kernel %+v\n%x\nnot\n%x", o, frame, finished)
		}
	})
}

// FuzzJoin: whatever frames come in whatever order, what is written is, cut again,
// the same frames in the same order.
func FuzzJoin(f *testing.F) {
	join := func(frames [][]byte, innerL3 ...int) []byte {
		var b []byte
		for i, frame := range frames {
			in := 0
			if i < len(innerL3) {
				in = innerL3[i]
			}
			b = binary.BigEndian.AppendUint16(b, uint16(len(frame)))
			b = append(binary.BigEndian.AppendUint16(b, uint16(in)), frame...)
		}
		return b
	}
	seeds(f, func(p *packet) {
		var frames [][]byte
		for _, s := range p.cut(max(1, len(p.payload)/4)) {
			b, _, _ := s.frame(partial)
			frames = append(frames, b)
		}
		f.Add(join(frames))
		f.Add(join(append(frames[1:], frames...)))
	})
	tunnelSeeds(f, func(p *tunnelled) {
		var frames [][]byte
		var places []int
		for _, s := range p.cut(max(1, len(p.inner.payload)/4)) {
			b, in, _, _ := s.frame(partial)
			frames, places = append(frames, b), append(places, in)
		}
		f.Add(join(frames, places...))
		f.Add(join(append(frames, frames...), places...))
	})
	var j Joiner
	f.Fuzz(func(t *testing.T, input []byte) {
		var in, want [][]byte
		var places []int
		for len(input) >= 4 {
			n := min(int(binary.BigEndian.Uint16(input)), len(input)-4)
			frame, place := input[4:4+n], int(binary.BigEndian.Uint16(input[2:]))
			input = input[4+n:]
			finished := slices.Clone(frame)
			if place != 0 && CompleteTunnelled(finished, place) || place == 0 && CompleteSegment(finished) {
				in, want, places = append(in, frame), append(want, finished), append(places, place)
			}
		}
		got := finishedFrames(t, joinTunnelled(t, &j, in, places))
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Fatalf("%x\nwant\n%x", got, want)
		}
	})
}
