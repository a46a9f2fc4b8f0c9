package offload

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"ripstop/tun"
)

// joinAll does what the receiving loop does: frames in order, each run written as
// one super-frame.
func joinAll(t testing.TB, j *Joiner, frames [][]byte) []tun.Frame {
	t.Helper()
	return joinEach(t, j, frames, func(i int, frame []byte) bool { return j.Add(frame) })
}

// joinEach is joinAll with another way to add frame i.
func joinEach(t testing.TB, j *Joiner, frames [][]byte, add func(i int, frame []byte) bool) []tun.Frame {
	t.Helper()
	var out []tun.Frame
	var first tun.Frame
	flush := func() {
		if j.Len() == 0 {
			return
		}
		f := first
		if !j.Frame(&f) {
			t.Fatal("no frame")
		}
		f.More = slices.Clone(f.More)
		out = append(out, f)
		j.Reset()
	}
	j.Reset()
	for i, b := range frames {
		f := buffered(b)
		if !add(i, f.Bytes()) {
			flush()
			if !add(i, f.Bytes()) {
				t.Fatalf("refused by an empty Joiner: %x", b)
			}
		}
		if j.Len() == 1 {
			first = f
		}
	}
	flush()
	return out
}

// recut is what a kernel makes of a written frame, exact sums and all.
func recut(t testing.TB, f *tun.Frame) [][]byte {
	t.Helper()
	frame := whole(f)
	if len(frame) > tun.MaxFrame {
		t.Fatalf("%d bytes", len(frame))
	}
	if f.Offload.Type == tun.GSONone {
		if !Complete(frame, f.Offload) {
			t.Fatal("can't be completed")
		}
		return [][]byte{frame}
	}
	train := cutAll(t, frame, f.Offload, 1<<16)
	for _, segment := range train {
		if in := int(f.Offload.InnerL3); in != 0 && !CompleteTunnelled(segment, in) || in == 0 && !CompleteSegment(segment) {
			t.Fatal("can't be completed")
		}
	}
	return train
}

// checkWritten compares the header that is written with what the slow description
// says: nothing but the sum of the pseudo-header over exactly this write is right.
func checkWritten(t testing.TB, f *tun.Frame, p *packet, size int) {
	t.Helper()
	want, o := p.super(size)
	if len(p.payload) <= size {
		want, o = p.single()
	}
	if got := whole(f); !bytes.Equal(got, want) || f.Offload != o {
		t.Fatalf("written %+v\n%x\nwant %+v\n%x", f.Offload, got[:min(len(got), 120)], o, want[:min(len(want), 120)])
	}
}

// TestJoinRoundTrip: a super-frame cut, joined and cut again is the same train, and
// what is written in between is the super-frame that was cut, at the step of the
// path.
func TestJoinRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	var j Joiner
	for round := range 800 {
		payload := 1 + r.IntN(9000)
		if round%50 == 0 {
			payload = 60000 + r.IntN(5300)
		}
		p := randomPacket(r, payload)
		most := MaxJoin
		if !p.tcp {
			most = MaxJoinUDP
		}
		size := (payload+most-1)/most + r.IntN(1500)
		frame, o := p.super(size)
		train := cutAll(t, frame, o, size)
		for _, segment := range train { // the field of a partial frame may hold anything
			segment[int(o.ChecksumStart)+int(o.ChecksumOffset)] = byte(r.Uint32())
		}
		out := joinAll(t, &j, train)
		if len(out) != 1 {
			t.Fatalf("round %d: %d segments became %d frames", round, len(train), len(out))
		}
		checkWritten(t, &out[0], p, size)
		var want [][]byte
		for _, s := range p.cut(size) {
			b, _, _ := s.frame(exact)
			want = append(want, b)
		}
		if !slices.EqualFunc(recut(t, &out[0]), want, bytes.Equal) {
			t.Fatalf("round %d: another train", round)
		}
	}
}

// TestJoinDisorder: trains that are shuffled, thinned, doubled and mixed with each
// other come out as the same frames in the same order, and never as others.
func TestJoinDisorder(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	var j Joiner
	joined := 0
	for round := range 1000 {
		size := 1 + r.IntN(200)
		var frames []*packet
		base := randomPacket(r, 1+r.IntN(20*size))
		for range 1 + r.IntN(3) {
			p := *base
			switch r.IntN(4) {
			case 0:
				p = *randomPacket(r, 1+r.IntN(20*size))
			case 1:
				p.ports[0] ^= 1 // another flow that looks alike
			case 2: // goes on where the other ended
				p.sequence += uint32(len(base.payload))
				p.id += uint16(len(base.cut(size)))
			}
			frames = append(frames, p.cut(size)...)
		}
		for range r.IntN(4) {
			switch i, k := r.IntN(len(frames)), r.IntN(len(frames)); r.IntN(4) {
			case 0:
				frames[i], frames[k] = frames[k], frames[i]
			case 1:
				frames = slices.Delete(frames, i, min(i+1+r.IntN(2), len(frames)))
			case 2:
				frames = slices.Insert(frames, k, frames[i])
			case 3:
				r.Shuffle(len(frames), func(i, k int) { frames[i], frames[k] = frames[k], frames[i] })
			}
			if len(frames) == 0 {
				break
			}
		}
		var in, want [][]byte
		for _, s := range frames {
			b, _, _ := s.frame(partial)
			in = append(in, b)
			b, _, _ = s.frame(exact)
			want = append(want, b)
		}
		var got [][]byte
		for _, f := range joinAll(t, &j, in) {
			if len(f.More) > 0 {
				joined++
			}
			got = append(got, recut(t, &f)...)
		}
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Fatalf("round %d: %d frames in, %d out, or not the same", round, len(want), len(got))
		}
	}
	if joined < 1000 {
		t.Errorf("only %d super-frames: the test shows little", joined)
	}
}

// TestJoinGap: a lost segment splits the train once, and each part carries the sum
// of its own length.
func TestJoinGap(t *testing.T) {
	for _, p := range []*packet{
		{tcp: true, flags: 0x18, hops: 64, id: 65530, sequence: 1<<32 - 3000, payload: bytes.Repeat([]byte("abc"), 3400)},
		{v6: true, tcp: true, flags: 0x99, hops: 64, payload: bytes.Repeat([]byte("abc"), 3400)},
		{hops: 64, payload: bytes.Repeat([]byte("abc"), 3400)},
		{v6: true, tags: [][2]uint16{{0x8100, 9}}, payload: bytes.Repeat([]byte("abc"), 3400)},
	} {
		train := p.cut(1000)
		for lost := range train {
			var in [][]byte
			for i, s := range train {
				if i != lost {
					b, _, _ := s.frame(partial)
					in = append(in, b)
				}
			}
			var j Joiner
			out := joinAll(t, &j, in)
			var parts []*packet
			split := [][]*packet{train[:lost], train[lost+1:]}
			if p.v6 && !p.tcp { // nothing in a datagram tells its place
				split = [][]*packet{slices.Delete(slices.Clone(train), lost, lost+1)}
			}
			for _, part := range split {
				if len(part) == 0 {
					continue
				}
				s := *part[0]
				s.payload = nil
				for _, x := range part {
					s.payload = append(s.payload, x.payload...)
					s.flags |= x.flags & (flagFIN | flagPSH)
				}
				parts = append(parts, &s)
			}
			if len(out) != len(parts) {
				t.Fatalf("%d lost: %d frames, want %d", lost, len(out), len(parts))
			}
			for i := range out {
				checkWritten(t, &out[i], parts[i], 1000)
			}
		}
	}
}

// TestJoinRefuses has a row for each thing that ends a run.
func TestJoinRefuses(t *testing.T) {
	base := func() *packet {
		return &packet{hops: 64, tcp: true, flags: 0x10, id: 7, ports: [2]uint16{1, 2}, sequence: 1000, ack: 5, window: 9,
			tcpOptions: []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}, payload: make([]byte, 100)}
	}
	for _, c := range []struct {
		name   string
		change func(first, next *packet)
		ok     bool
	}{
		{"nothing changed", func(a, b *packet) {}, true},
		{"PSH on the last", func(a, b *packet) { b.flags |= flagPSH }, true},
		{"FIN on the last", func(a, b *packet) { b.flags |= flagFIN }, true},
		{"CWR on the first", func(a, b *packet) { a.flags |= flagCWR }, true},
		{"ECE on both", func(a, b *packet) { a.flags |= 0x40; b.flags |= 0x40 }, true},
		{"shorter last", func(a, b *packet) { b.payload = b.payload[:1] }, true},
		{"without IPv4 options", func(a, b *packet) { a.ipOptions, b.ipOptions = []byte{1, 1, 1, 0}, []byte{1, 1, 1, 0} }, true},
		{"PSH on the first", func(a, b *packet) { a.flags |= flagPSH }, false},
		{"FIN on the first", func(a, b *packet) { a.flags |= flagFIN }, false},
		{"CWR on the next", func(a, b *packet) { b.flags |= flagCWR }, false},
		{"CWR on both", func(a, b *packet) { a.flags |= flagCWR; b.flags |= flagCWR }, false},
		{"ECE on one", func(a, b *packet) { b.flags |= 0x40 }, false},
		{"SYN", func(a, b *packet) { a.flags |= flagSYN; b.flags |= flagSYN }, false},
		{"RST", func(a, b *packet) { a.flags |= flagRST; b.flags |= flagRST }, false},
		{"RST next", func(a, b *packet) { b.flags |= flagRST }, false},
		{"URG", func(a, b *packet) { a.flags |= flagURG; b.flags |= flagURG }, false},
		{"no ACK next", func(a, b *packet) { b.flags = 0 }, false},
		{"reserved bits", func(a, b *packet) { b.reserved = 1 }, false},
		{"longer next", func(a, b *packet) { b.payload = make([]byte, 101) }, false},
		{"empty next", func(a, b *packet) { b.payload = nil }, false},
		{"empty first", func(a, b *packet) { a.payload = nil; b.payload = nil; b.sequence = a.sequence }, false},
		{"sequence of before", func(a, b *packet) { b.sequence-- }, false},
		{"sequence of after", func(a, b *packet) { b.sequence++ }, false},
		{"same again", func(a, b *packet) { b.sequence, b.id = a.sequence, a.id }, false},
		{"same ID", func(a, b *packet) { b.id = a.id }, false},
		{"ID left out", func(a, b *packet) { b.id++ }, false},
		{"port", func(a, b *packet) { b.ports[1]++ }, false},
		{"acknowledged more", func(a, b *packet) { b.ack++ }, false},
		{"window", func(a, b *packet) { b.window++ }, false},
		{"urgent pointer", func(a, b *packet) { b.urgent++ }, false},
		{"time stamp", func(a, b *packet) { b.tcpOptions[7]++ }, false},
		{"fewer options", func(a, b *packet) { b.tcpOptions = nil }, false},
		{"more options", func(a, b *packet) { b.tcpOptions = append(b.tcpOptions, 1, 1, 1, 0); b.payload = b.payload[4:] }, false},
		{"type of service", func(a, b *packet) { b.tos = 3 }, false},
		{"hops", func(a, b *packet) { b.hops-- }, false},
		{"may be fragmented", func(a, b *packet) { b.frag = 0x4000 }, false},
		{"is a fragment", func(a, b *packet) { b.frag = 0x2000 }, false},
		{"IPv4 options", func(a, b *packet) { b.ipOptions = []byte{1, 1, 1, 0} }, false},
		{"tag", func(a, b *packet) { b.tags = [][2]uint16{{0x8100, 1}} }, false},
		{"other tag", func(a, b *packet) { a.tags = [][2]uint16{{0x8100, 1}}; b.tags = [][2]uint16{{0x8100, 2}} }, false},
		{"other protocol", func(a, b *packet) { b.tcp = false }, false},
		{"other version", func(a, b *packet) { b.v6 = true }, false},
		{"padded first", func(a, b *packet) { a.padding = []byte{0} }, false},
		{"padded next", func(a, b *packet) { b.payload = b.payload[:50]; b.padding = []byte{0} }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := base(), base()
			b.sequence += 100
			b.id++
			c.change(a, b)
			first, _, _ := a.frame(partial)
			next, _, _ := b.frame(partial)
			var j Joiner
			if !j.Add(first) {
				t.Fatal("the first is refused")
			}
			if got := j.Add(next); got != c.ok {
				t.Errorf("%v, want %v", got, c.ok)
			}
		})
	}
	// IPv6 has a flow label and extension headers to differ in.
	for at, name := range map[int]string{17: "flow label", 15: "traffic class", 21: "hop limit", 30: "address", 56: "option"} {
		a := &packet{v6: true, extensions: []extension{{0, make([]byte, 7)}}, payload: make([]byte, 100)}
		first, _, _ := a.frame(partial)
		next := slices.Clone(first)
		var j Joiner
		if !j.Add(first) || !j.Add(next) {
			t.Fatal("equal datagrams are not joined")
		}
		j.Reset()
		next[at]++
		if !j.Add(first) || j.Add(next) {
			t.Errorf("joined in spite of another %s", name)
		}
	}
	// A wrong IPv4 header checksum would come out right.
	for _, damaged := range []int{0, 1} {
		a, b := base(), base()
		b.sequence, b.id = b.sequence+100, b.id+1
		first, _, _ := a.frame(partial)
		next, _, _ := b.frame(partial)
		[][]byte{first, next}[damaged][24]++
		var j Joiner
		if !j.Add(first) || j.Add(next) {
			t.Errorf("frame %d with a wrong header checksum is joined", damaged)
		}
	}
}

// TestJoinBounds: after the last nothing follows; bytes and frames are bounded.
func TestJoinBounds(t *testing.T) {
	for _, c := range []struct {
		name string
		p    packet
		size int
		most int
	}{
		{"TCP frames", packet{tcp: true}, 10, MaxJoin},
		{"UDP frames", packet{}, 10, MaxJoinUDP},
		{"TCP bytes", packet{tcp: true}, 1448, (65535 - 40) / 1448},
		{"TCP bytes, all used", packet{tcp: true}, 13099, 5},
		{"TCP over IPv6 bytes", packet{v6: true, tcp: true}, 13099, 4},
		{"TCP over IPv6 bytes, all used", packet{v6: true, tcp: true}, 13095, 5},
		{"UDP bytes", packet{}, 1472, (65535 - 28) / 1472},
		{"twice tagged", packet{tcp: true, tags: [][2]uint16{{0x88a8, 1}, {0x8100, 2}}}, 13099, 4},
		{"twice tagged, all used", packet{tcp: true, tags: [][2]uint16{{0x88a8, 1}, {0x8100, 2}}}, 13098, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			var j Joiner
			var first tun.Frame
			for n := 0; ; n++ {
				s := c.p
				s.payload = make([]byte, c.size)
				s.sequence += uint32(n * c.size)
				s.id += uint16(n)
				b, _, _ := s.frame(partial)
				f := buffered(b)
				if n == 0 {
					first = f
				}
				if j.Add(f.Bytes()) {
					continue
				}
				if n != c.most || j.Len() != n {
					t.Fatalf("%d frames, want %d", n, c.most)
				}
				break
			}
			if !j.Frame(&first) {
				t.Fatal("no frame")
			}
			all := c.p
			all.payload = make([]byte, c.size*c.most)
			checkWritten(t, &first, &all, c.size)
			if n := len(whole(&first)); n > tun.MaxFrame {
				t.Errorf("%d bytes", n)
			}
		})
	}
	for name, last := range map[string]func(p *packet){
		"shorter": func(p *packet) { p.payload = p.payload[:99] },
		"PSH":     func(p *packet) { p.flags |= flagPSH },
		"FIN":     func(p *packet) { p.flags |= flagFIN },
	} {
		p := packet{tcp: true, flags: 0x10, payload: make([]byte, 100)}
		var j Joiner
		for n := range 3 {
			s := p
			s.sequence, s.id = uint32(n*100), uint16(n)
			if n == 1 {
				last(&s)
			}
			if n == 2 && name == "shorter" {
				s.sequence--
			}
			b, _, _ := s.frame(partial)
			if got := j.Add(b); got != (n < 2) {
				t.Errorf("%s: frame %d: %v", name, n, got)
			}
		}
	}
}

// TestJoinFrame: Frame takes the first frame only, leaves the Joiner closed, and
// may be called again.
func TestJoinFrame(t *testing.T) {
	p := &packet{hops: 64, tcp: true, flags: 0x18, payload: bytes.Repeat([]byte("x"), 300)}
	var frames []tun.Frame
	for _, s := range p.cut(100) {
		b, _, _ := s.frame(partial)
		frames = append(frames, buffered(b))
	}
	var j Joiner
	var none tun.Frame
	if j.Frame(&none) || j.Frame(&frames[0]) {
		t.Error("a frame out of nothing")
	}
	if j.Add([]byte("no frame")) || j.Len() != 0 {
		t.Error("an empty Joiner takes anything")
	}
	j.Add(frames[0].Bytes())
	j.Add(frames[1].Bytes())
	for name, f := range map[string]tun.Frame{
		"zero":    {},
		"second":  frames[1],
		"shorter": {Buf: frames[0].Buf, Off: frames[0].Off, Len: frames[0].Len - 1},
		"shifted": {Buf: frames[0].Buf, Off: frames[0].Off - 1, Len: frames[0].Len},
		"outside": {Buf: frames[0].Buf[:10], Off: frames[0].Off, Len: frames[0].Len},
		"before":  {Buf: frames[0].Buf, Off: -1, Len: frames[0].Len},
		"copy":    buffered(frames[0].Bytes()),
	} {
		if j.Frame(&f) {
			t.Errorf("%s is taken for the first frame", name)
		}
	}
	two := *p
	two.payload, two.flags = p.payload[:200], 0x10
	for range 2 {
		f := frames[0]
		if !j.Frame(&f) {
			t.Fatal("refused")
		}
		checkWritten(t, &f, &two, 100)
		if &f.More[0][0] != &frames[1].Bytes()[54] {
			t.Error("the payload was copied")
		}
	}
	if j.Add(frames[2].Bytes()) {
		t.Error("a frame is added behind Frame")
	}
	j.Reset()
	if j.Len() != 0 || !j.Add(frames[2].Bytes()) {
		t.Error("Reset does not make it ready")
	}
}

// TestJoinSwitches: a device without such super-frames gets single ones.
func TestJoinSwitches(t *testing.T) {
	for _, tcp := range []bool{false, true} {
		for _, j := range []*Joiner{{NoTCP: true}, {NoUDP: true}, {NoTCP: true, NoUDP: true}} {
			p := &packet{hops: 64, tcp: tcp, payload: make([]byte, 1000)}
			var in [][]byte
			for _, s := range p.cut(100) {
				b, _, _ := s.frame(partial)
				in = append(in, b)
			}
			want := 1
			if tcp && j.NoTCP || !tcp && j.NoUDP {
				want = 10
			}
			out := joinAll(t, j, in)
			if len(out) != want {
				t.Errorf("TCP %v, NoTCP %v, NoUDP %v: %d frames, want %d", tcp, j.NoTCP, j.NoUDP, len(out), want)
			}
		}
	}
}

func TestJoinNoAllocation(t *testing.T) {
	frames := benchTrain(t)
	var j Joiner
	if n := testing.AllocsPerRun(100, func() {
		j.Reset()
		for i := range frames {
			if !j.Add(frames[i].Bytes()) {
				t.Fatal("refused")
			}
		}
		f := frames[0]
		if !j.Frame(&f) {
			t.Fatal("refused")
		}
		restore(frames[0].Bytes(), frames[1].Bytes())
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
