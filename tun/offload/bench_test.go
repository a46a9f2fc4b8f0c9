package offload

import (
	"testing"

	"ripstop/tun"
)

// BenchmarkCut cuts one super-frame of 64 KiB into segments of 1288 bytes.
func BenchmarkCut(b *testing.B) {
	p := &packet{hops: 64, tcp: true, flags: 0x10, tcpOptions: []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}, payload: make([]byte, 45*1448)}
	frame, o := p.super(1448)
	out := make([]byte, 64*2048)
	b.SetBytes(int64(len(p.payload)))
	b.ReportAllocs()
	for b.Loop() {
		s, ok := Parse(frame, o)
		if !ok {
			b.Fatal("refused")
		}
		for i := range s.Count(1288) {
			s.Put(out[i*2048:], frame, i, 1288)
		}
	}
}

// BenchmarkCopy is what the bytes of BenchmarkCut cost alone.
func BenchmarkCopy(b *testing.B) {
	frame := make([]byte, 45*1448+66)
	out := make([]byte, 64*2048)
	b.SetBytes(45 * 1448)
	for b.Loop() {
		for i, at := 0, 0; at < len(frame); i, at = i+1, at+1288 {
			copy(out[i*2048+66:], frame[at:min(at+1288, len(frame))])
		}
	}
}

// BenchmarkJoin joins 45 segments of 1288 bytes.
func BenchmarkJoin(b *testing.B) {
	frames := benchTrain(b)
	var j Joiner
	b.ReportAllocs()
	for b.Loop() {
		j.Reset()
		for i := range frames {
			if !j.Add(frames[i].Bytes()) {
				b.Fatal("refused")
			}
		}
		f := frames[0]
		if !j.Frame(&f) {
			b.Fatal("refused")
		}
		restore(frames[0].Bytes(), frames[1].Bytes())
	}
}

func BenchmarkParse(b *testing.B) {
	for name, p := range map[string]*packet{
		"TCPv4": {hops: 64, tcp: true, payload: make([]byte, 2576)},
		"UDPv6": {hops: 64, v6: true, payload: make([]byte, 2576)},
	} {
		frame, o := p.super(1288)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := Parse(frame, o); !ok {
					b.Fatal("refused")
				}
			}
		})
	}
}

// BenchmarkPartial is what a single frame costs on its way to a TAP.
func BenchmarkPartial(b *testing.B) {
	for name, p := range map[string]*packet{
		"TCPv4": {hops: 64, tcp: true, payload: make([]byte, 1288)},
		"UDPv6": {hops: 64, v6: true, payload: make([]byte, 1288)},
	} {
		frame, _ := p.single()
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := Partial(frame); !ok {
					b.Fatal("refused")
				}
			}
		})
	}
}

// BenchmarkComplete is what a single frame costs where no kernel finishes it.
func BenchmarkComplete(b *testing.B) {
	p := &packet{hops: 64, tcp: true, payload: make([]byte, 1288)}
	frame, _ := p.single()
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		if !CompleteSegment(frame) {
			b.Fatal("refused")
		}
	}
}

// benchTrain is 45 segments of 1288 bytes of TCP over IPv4 with time stamps.
func benchTrain(t testing.TB) []tun.Frame {
	p := &packet{hops: 64, tcp: true, flags: 0x10, tcpOptions: []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}, payload: make([]byte, 45*1288)}
	frame, o := p.super(1288)
	var frames []tun.Frame
	for _, segment := range cutAll(t, frame, o, 1288) {
		frames = append(frames, buffered(segment))
	}
	if len(frames) != 45 {
		t.Fatalf("%d segments", len(frames))
	}
	return frames
}

// restore makes a first frame that Frame rewrote a segment again: its length is
// that of the next, its ID and header checksum follow from it.
func restore(first, next []byte) {
	copy(first[14:34], next[14:34])
	fixIP(first, 14, 4, 0)
}
