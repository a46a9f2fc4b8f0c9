package offload

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"ripstop/tun"
)

// TestSum compares with the slow sum at every length and alignment.
func TestSum(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	b := make([]byte, 400)
	for _, fill := range []func() byte{
		func() byte { return byte(r.Uint32()) },
		func() byte { return 0xff },
		func() byte { return 0 },
		func() byte { return byte(r.IntN(2)) * 0xff },
	} {
		for i := range b {
			b[i] = fill()
		}
		for from := range 9 {
			for to := from; to <= len(b); to++ {
				if got, want := fold(sum(b[from:to], 0)), slowSum(b[from:to]); got != want {
					t.Fatalf("bytes %d to %d: %#x, want %#x", from, to, got, want)
				}
			}
		}
	}
	// What is given to begin with is added, however great.
	for range 1000 {
		start := r.Uint64() | uint64(r.IntN(2))*0xffffffff00000000
		head := []byte{byte(start >> 56), byte(start >> 48), byte(start >> 40), byte(start >> 32), byte(start >> 24), byte(start >> 16), byte(start >> 8), byte(start)}
		n := r.IntN(100)
		if got, want := fold(sum(b[:n], start)), slowSum(append(head, b[:n]...)); got != want {
			t.Fatalf("from %#x: %#x, want %#x", start, got, want)
		}
	}
}

// TestComplete: wherever the kernel left a sum open, and nowhere else.
func TestComplete(t *testing.T) {
	p := &packet{hops: 3, tcp: true, flags: 0x10, payload: []byte("odd")}
	frame, o := p.single()
	finished, _, _ := p.frame(exact)
	if !Complete(frame, o) || !bytes.Equal(frame, finished) {
		t.Errorf("single:\n%x\nwant\n%x", frame, finished)
	}
	if !Complete(frame, tun.Offload{}) || !bytes.Equal(frame, finished) {
		t.Error("a finished frame is refused or changed")
	}

	// Inside a tunnel, whose outer sum is 0.
	inner, innerOffload := p.single()
	nested, _, _ := vxlan(inner).frame(partial)
	want, _, _ := vxlan(finished).frame(partial)
	innerOffload.ChecksumStart += 50
	if !Complete(nested, innerOffload) || !bytes.Equal(nested, want) {
		t.Errorf("nested:\n%x\nwant\n%x", nested, want)
	}

	// A datagram whose sum is 0 says 0xffff.
	for _, v6 := range []bool{false, true} {
		zero := &packet{v6: v6, payload: []byte{0, 0, 'x'}}
		b, start, _ := zero.frame(exact)
		zero.payload[0], zero.payload[1] = b[start+6], b[start+7]
		b, start, _ = zero.frame(exact)
		if b[start+6] != 0xff || b[start+7] != 0xff {
			t.Fatalf("the test's frame has %x", b[start+6:start+8])
		}
		single, o := zero.single()
		if !Complete(single, o) || !bytes.Equal(single, b) {
			t.Errorf("zero: %x, want %x", single, b)
		}
		single, _ = zero.single()
		if !CompleteSegment(single) || !bytes.Equal(single, b) {
			t.Errorf("zero: %x, want %x", single, b)
		}
	}

	// A kind of frame that is not known is summed to its end.
	other := append(make([]byte, 12), 0x88, 0xb5, 1, 2, 3, 4, 0, 0, 5)
	if !Complete(other, tun.Offload{NeedsChecksum: true, ChecksumStart: 14, ChecksumOffset: 4}) {
		t.Error("another EtherType is refused")
	}
	if s := ^slowSum([]byte{1, 2, 3, 4, 0, 0, 5}); other[18] != byte(s>>8) || other[19] != byte(s) {
		t.Errorf("another EtherType: %x", other)
	}
}

func TestCompleteRefuses(t *testing.T) {
	p := &packet{hops: 3, ipOptions: []byte{1, 1, 1, 0}, tcp: true, flags: 0x10, payload: []byte("data"), padding: []byte{1, 2}}
	v6 := &packet{hops: 3, v6: true, payload: []byte("data")}
	for _, c := range []struct {
		name   string
		p      *packet
		change func(o *tun.Offload)
	}{
		{"super-frame", p, func(o *tun.Offload) { o.Type, o.SegmentSize = tun.GSOTCPv4, 2 }},
		{"start in Ethernet", p, func(o *tun.Offload) { o.ChecksumStart = 12 }},
		{"start 0", p, func(o *tun.Offload) { o.ChecksumStart = 0 }},
		{"start in the IPv4 header", p, func(o *tun.Offload) { o.ChecksumStart = 30 }},
		{"start in the IPv4 options", p, func(o *tun.Offload) { o.ChecksumStart = 36 }},
		{"start in the IPv6 header", v6, func(o *tun.Offload) { o.ChecksumStart = 52 }},
		{"field past the end", v6, func(o *tun.Offload) { o.ChecksumOffset = 11 }},
		{"field in the padding", p, func(o *tun.Offload) { o.ChecksumOffset = 24 }},
		{"start past the end", p, func(o *tun.Offload) { o.ChecksumStart = 100 }},
		{"far away", p, func(o *tun.Offload) { o.ChecksumStart, o.ChecksumOffset = 65535, 65535 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			frame, o := c.p.single()
			before := bytes.Clone(frame)
			c.change(&o)
			if Complete(frame, o) {
				t.Error("taken")
			}
			if !bytes.Equal(frame, before) {
				t.Error("changed")
			}
		})
	}
	for _, short := range [][]byte{nil, make([]byte, 15)} {
		if Complete(short, tun.Offload{NeedsChecksum: true, ChecksumStart: 14}) {
			t.Errorf("%d bytes are taken", len(short))
		}
	}
}

// TestPadding: padding is no part of a sum, and where the kernel would add it the
// frame is finished here.
func TestPadding(t *testing.T) {
	for _, padding := range [][]byte{{0, 0, 0}, {0, 0, 9}} {
		p := &packet{tcp: true, flags: 0x10, payload: []byte("odd"), padding: padding}
		finished, start, _ := p.frame(exact)
		toKernel, o := p.single()
		frame, _, _ := p.frame(partial)
		if !CompleteSegment(frame) || !bytes.Equal(frame, finished) {
			t.Errorf("%x: CompleteSegment\n%x\nwant\n%x", padding, frame, finished)
		}
		frame, _ = p.single()
		if !Complete(frame, o) || !bytes.Equal(frame, finished) {
			t.Errorf("%x: Complete\n%x\nwant\n%x", padding, frame, finished)
		}
		frame, _, _ = p.frame(partial)
		got, ok := Partial(frame)
		want, wantFrame := o, toKernel
		if padding[2] != 0 {
			want, wantFrame = tun.Offload{}, finished
		}
		if !ok || got != want || !bytes.Equal(frame, wantFrame) {
			t.Errorf("%x: Partial %+v, want %+v\n%x\nwant\n%x", padding, got, want, frame, wantFrame)
		}
		// What the kernel makes of it, which adds all bytes to the end.
		if got.NeedsChecksum {
			if s := ^slowSum(frame[start:]); s != uint16(finished[start+16])<<8|uint16(finished[start+17]) {
				t.Errorf("%x: the kernel makes %#x", padding, s)
			}
		}
	}
}
