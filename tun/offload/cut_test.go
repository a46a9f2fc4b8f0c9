package offload

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"ripstop/tun"
)

// cutAll cuts a frame as a caller does.
func cutAll(t testing.TB, frame []byte, o tun.Offload, size int) [][]byte {
	t.Helper()
	s, ok := Parse(frame, o)
	if !ok {
		t.Fatalf("refused: %+v\n%x", o, frame[:min(len(frame), 120)])
	}
	// What Lay makes in the frame is what Put makes beside it, and it writes nowhere else.
	laid := append(bytes.Clone(frame), 0xa5)
	head := bytes.Clone(frame[:s.HeaderLen])
	var train [][]byte
	for i := range s.Count(size) {
		dst := make([]byte, s.HeaderLen+s.Step(size))
		n := s.Put(dst, frame, i, size)
		if n <= 0 {
			t.Fatalf("segment %d of %d: nothing", i, s.Count(size))
		}
		train = append(train, dst[:n])
		behind := s.HeaderLen + i*s.Step(size)
		rest := bytes.Clone(laid[behind:])
		if from, to := s.Lay(laid[:len(frame)], head, i, size); !bytes.Equal(laid[from:to], dst[:n]) || !bytes.Equal(laid[behind:], rest) {
			t.Fatalf("segment %d of %d is laid as\n%x, not\n%x", i, s.Count(size), laid[from:to], dst[:n])
		}
	}
	if _, to := s.Lay(laid[:len(frame)], head, len(train), size); to != 0 {
		t.Fatalf("a segment behind the last is laid, to %d", to)
	}
	if n := s.Put(make([]byte, 1<<16), frame, len(train), size); n != 0 {
		t.Fatalf("%d bytes of a segment behind the last", n)
	}
	return train
}

// TestCutAgainstSlow: over generated traffic every segment equals, byte for byte,
// what the slow segmenter makes: partial as it leaves Put, exact after
// CompleteSegment, and exact by Complete of what Partial made of it.
func TestCutAgainstSlow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 1500 {
		payload := 1 + r.IntN(6000)
		if round%100 == 0 {
			payload = 60000 + r.IntN(5300)
		}
		p := randomPacket(r, payload)
		asked := 1 + r.IntN(2000)
		asked = max(asked, payload/maxSegments+1)
		size := asked
		if r.IntN(2) == 0 {
			size = max(1+r.IntN(3000), payload/1000+1)
		}
		frame, o := p.super(asked)
		if r.IntN(4) == 0 {
			o.HeaderLen = uint16(r.Uint32()) // the kernel's is wrong for forwarded frames
		}
		step := min(asked, size)
		if !p.tcp {
			step = asked // datagrams are never cut smaller
		} else if r.IntN(3) == 0 {
			frame, o = p.single() // one unfinished segment too big for the path
			step = min(size, payload)
		}
		frame = shifted(r, frame)
		before := bytes.Clone(frame)
		train := cutAll(t, frame, o, size)
		if !bytes.Equal(frame, before) {
			t.Fatal("the super-frame was changed")
		}
		want := p.cut(step)
		if len(train) != len(want) {
			t.Fatalf("%d segments of %d bytes, want %d", len(train), step, len(want))
		}
		for i, got := range train {
			if frame, _, _ := want[i].frame(partial); !bytes.Equal(got, frame) {
				t.Fatalf("round %d: segment %d of %d\n%x\nwant\n%x", round, i, len(train), got[:min(len(got), 120)], frame[:min(len(frame), 120)])
			}
			exactly, start, field := want[i].frame(exact)
			segment := shifted(r, got)
			segment[start+field] = byte(r.Uint32()) // whatever the field held
			if !CompleteSegment(segment) || !bytes.Equal(segment, exactly) {
				t.Fatalf("round %d: segment %d completed\n%x\nwant\n%x", round, i, segment, exactly)
			}
			toKernel, _ := want[i].single()
			segment = shifted(r, got)
			segment[start+field] = byte(r.Uint32())
			single, ok := Partial(segment)
			if !ok || !bytes.Equal(segment, toKernel) || single != (tun.Offload{NeedsChecksum: true, ChecksumStart: uint16(start), ChecksumOffset: uint16(field)}) {
				t.Fatalf("round %d: segment %d for the kernel: %+v\n%x\nwant\n%x", round, i, single, segment, toKernel)
			}
			if !Complete(segment, single) || !bytes.Equal(segment, exactly) {
				t.Fatalf("round %d: segment %d finished\n%x\nwant\n%x", round, i, segment, exactly)
			}
		}
	}
}

// TestCutSizes: what Step and Count say for each kind of frame.
func TestCutSizes(t *testing.T) {
	data := func(n int) []byte { return bytes.Repeat([]byte("data"), n/4+1)[:n] }
	tcp := func(n int, flags byte, options ...byte) *packet {
		return &packet{tcp: true, flags: flags, payload: data(n), tcpOptions: options}
	}
	for _, c := range []struct {
		name        string
		p           *packet
		asked       int // 0: a single frame
		finished    bool
		size        int
		step, count int
	}{
		{"as asked", tcp(2896, 0x10), 1448, false, 1448, 1448, 2},
		{"path larger", tcp(2896, 0x10), 1448, false, 9000, 1448, 2},
		{"path smaller", tcp(2896, 0x10), 1448, false, 1300, 1300, 3},
		{"no path", tcp(2896, 0x10), 1448, false, 0, 1448, 2},
		{"shorter last", tcp(2897, 0x10), 1448, false, 1448, 1448, 3},
		{"one segment", tcp(1448, 0x10), 1448, false, 1448, 1448, 1},
		{"datagrams", &packet{payload: data(2600)}, 1300, false, 1300, 1300, 2},
		{"datagrams, path smaller", &packet{payload: data(2600)}, 1300, false, 1200, 1300, 2},
		{"single", tcp(1448, 0x18), 0, false, 1300, 1300, 2},
		{"single that fits", tcp(1448, 0x18), 0, false, 1448, 1448, 1},
		{"acknowledgement", tcp(0, 0x10), 0, false, 1300, 0, 1},
		{"acknowledgement, no path", tcp(0, 0x10), 0, false, -1, 0, 1},
		{"single finished", tcp(8000, 0x18), 0, true, 1300, 1300, 7},
		{"single datagram", &packet{payload: data(1448)}, 0, false, 1300, 1448, 1},
		{"SYN with data", tcp(1448, 0x02), 0, false, 1300, 1448, 1},
		{"RST with text", tcp(1448, 0x14), 0, false, 1300, 1448, 1},
		{"urgent", tcp(1448, 0x30), 0, false, 1300, 1448, 1},
		{"signed by MD5", tcp(1448, 0x18, append([]byte{1, 1, 19, 18}, make([]byte, 16)...)...), 0, false, 1300, 1448, 1},
		{"signed by AO", tcp(1448, 0x18, append([]byte{29, 16}, make([]byte, 14)...)...), 0, false, 1300, 1448, 1},
		{"time stamps", tcp(1448, 0x18, 1, 1, 8, 10, 0, 0, 0, 19, 0, 0, 0, 29), 0, false, 1300, 1300, 2},
		{"malformed options", tcp(1448, 0x18, 8, 0, 0, 0), 0, false, 1300, 1448, 1},
		{"options cut off", tcp(1448, 0x18, 1, 1, 1, 8), 0, false, 1300, 1448, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			frame, o := c.p.single()
			if c.asked > 0 {
				frame, o = c.p.super(c.asked)
			}
			if c.finished {
				frame, _, _ = c.p.frame(exact)
				o = tun.Offload{}
			}
			s, ok := Parse(frame, o)
			if !ok {
				t.Fatal("refused")
			}
			if s.Step(c.size) != c.step || s.Count(c.size) != c.count {
				t.Errorf("%d segments of %d, want %d of %d", s.Count(c.size), s.Step(c.size), c.count, c.step)
			}
			if s.Payload != len(c.p.payload) || s.HeaderLen+s.Payload != len(frame) {
				t.Errorf("%d bytes of headers, %d of payload, want %d together, %d", s.HeaderLen, s.Payload, len(frame), len(c.p.payload))
			}
			if train := cutAll(t, frame, o, c.size); len(train) != c.count {
				t.Errorf("%d segments", len(train))
			}
		})
	}
}

// TestCutFlags: FIN and PSH go with the last, CWR with the first, ECE with all.
func TestCutFlags(t *testing.T) {
	p := &packet{tcp: true, flags: 0xd9, payload: make([]byte, 3000)}
	frame, o := p.super(1000)
	if !o.ECN {
		t.Fatal("not marked")
	}
	for _, marked := range []bool{true, false} { // a sender may leave out the mark
		o.ECN = marked
		train := cutAll(t, frame, o, 1000)
		for i, want := range []byte{0xd0, 0x50, 0x59} {
			if got := train[i][34+13]; got != want {
				t.Errorf("segment %d: flags %#x, want %#x", i, got, want)
			}
		}
	}
}

// TestPutBounds: numbers outside the train give nothing, a short dst panics rather
// than writing elsewhere.
func TestPutBounds(t *testing.T) {
	p := &packet{tcp: true, flags: 0x10, payload: make([]byte, 3000)}
	frame, o := p.super(1000)
	s, _ := Parse(frame, o)
	dst := make([]byte, 2000)
	for _, i := range []int{-1, 3, 4, 3000, 3001, 1 << 40, -1 << 63, 1<<63 - 1} {
		if n := s.Put(dst, frame, i, 1000); n != 0 {
			t.Errorf("segment %d: %d bytes", i, n)
		}
	}
	mustPanic := func(name string, f func()) {
		defer func() {
			if recover() == nil {
				t.Errorf("%s: no panic", name)
			}
		}()
		f()
	}
	mustPanic("short dst", func() { s.Put(make([]byte, s.HeaderLen+999, 2000), frame, 0, 1000) })
	mustPanic("other frame", func() { s.Put(dst, frame[:s.HeaderLen+500], 0, 1000) })
}

// TestNormalise: a single frame made partial in place is what Put makes of it.
func TestNormalise(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		p := randomPacket(r, r.IntN(1400))
		frame, o := p.single()
		s, ok := Parse(frame, o)
		if !ok {
			t.Fatal("refused")
		}
		dst := make([]byte, len(frame))
		n := s.Put(dst, frame, 0, 1<<16)
		s.Normalise(frame)
		if want, _, _ := p.frame(partial); !bytes.Equal(frame, want) || !bytes.Equal(dst[:n], want) {
			t.Fatalf("%x\nwant\n%x", frame, want)
		}
	}
}

// TestSound: a damaged frame is told from a sound one.
func TestSound(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		p := randomPacket(r, 1+r.IntN(3000))
		p.tcp, p.flags = true, 0x18
		p.padding = make([]byte, r.IntN(5))
		frame, start, _ := p.frame(exact)
		s, ok := Parse(frame, tun.Offload{})
		if !ok || !s.Sound(frame) {
			t.Fatalf("%v: a sound frame is refused", ok)
		}
		frame[start+20+r.IntN(len(frame)-len(p.padding)-start-20)] ^= 1 << r.IntN(8)
		if s.Sound(frame) {
			t.Fatal("a damaged frame is sound")
		}
	}
}

// TestCutNoAllocation: neither parsing nor cutting nor finishing allocates.
func TestCutNoAllocation(t *testing.T) {
	p := &packet{v6: true, tcp: true, flags: 0x10, payload: make([]byte, 60000), extensions: []extension{{0, make([]byte, 7)}}}
	frame, o := p.super(1288)
	dst := make([]byte, 1500)
	if n := testing.AllocsPerRun(100, func() {
		s, ok := Parse(frame, o)
		if !ok {
			t.Fatal("refused")
		}
		for i := range s.Count(1288) {
			n := s.Put(dst, frame, i, 1288)
			if single, ok := Partial(dst[:n]); !ok || !Complete(dst[:n], single) || !CompleteSegment(dst[:n]) {
				t.Fatal("refused")
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
