package plane

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"ripstop/crypto"
	"ripstop/transport"
)

// TestLongFrames: whatever a path carries in one packet, frames of every length
// arrive whole, directly and over a relay.
func TestLongFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, crypto.CipherAuto)
		a, b, c := l.hosts[0], l.hosts[1], l.hosts[2]
		l.session(a, b, true)
		l.session(b, c, true)
		l.session(a, c, false)
		for _, h := range l.hosts {
			for _, o := range h.outlets {
				if o != nil {
					o.Limit, o.Train = 1232, 64
				}
			}
		}
		l.publish()
		l.run(func() {
			for n, size := range []int{46, 1188, 1189, 1190, 1354, 1514, 2400, 9014, 65000} {
				for _, to := range []*host{b, c} {
					f := frame(a, to, uint32(n), size)
					a.device.Inject(f)
					l.expect(to, f)
				}
			}
			if got := a.Counters().All()["frames_fragmented"]; got == 0 {
				t.Errorf("nothing was fragmented: %v", a.Counters().All())
			}
		})
	})
}

// pieces takes a frame apart as outbound.fragment does.
func pieces(frame []byte, number uint16, size int) (records []transport.Record, parts [][]byte) {
	for off := 0; off < len(frame); off += size {
		p := frame[off:min(off+size, len(frame))]
		r := transport.Record{Length: uint16(len(p)), Flags: transport.RecordFragment, Aux: uint16(off), ChecksumStart: uint16(len(frame) - 1), ChecksumOffset: number}
		if off+len(p) == len(frame) {
			r.Flags |= transport.RecordLast
		}
		records, parts = append(records, r), append(parts, p)
	}
	return records, parts
}

// TestAssemblerAnyOrder: pieces of several frames in any order make those frames,
// and a missing one makes none.
func TestAssemblerAnyOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var as assembler
	p, q := NewPeer(1, crypto.Name{1}), NewPeer(2, crypto.Name{2})
	for round := range 2000 {
		type step struct {
			peer   *Peer
			record transport.Record
			part   []byte
			frame  []byte
		}
		var steps []step
		missing := make(map[uint16]bool)
		for i := range uint16(3) {
			f := make([]byte, 100+random.IntN(9000))
			for k := range f {
				f[k] = byte(random.Uint32())
			}
			number := uint16(round)*4 + i
			records, parts := pieces(f, number, 150+random.IntN(800))
			if len(records) > maxFragments {
				continue
			}
			drop := -1
			if random.IntN(4) == 0 {
				drop = random.IntN(len(records))
				missing[number] = true
			}
			for k := range records {
				if k != drop {
					steps = append(steps, step{[]*Peer{p, q}[i%2], records[k], parts[k], f})
				}
			}
		}
		random.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
		left := make(map[uint16]int)
		for _, s := range steps {
			left[s.record.ChecksumOffset]++
		}
		for _, s := range steps {
			number := s.record.ChecksumOffset
			left[number]--
			got, _, ok := as.add(int64(round)*1e10, s.peer, s.record, s.part)
			if !ok {
				t.Fatalf("a right piece was refused: %+v", s.record)
			}
			if want := left[number] == 0 && !missing[number]; (got != nil) != want {
				t.Fatalf("frame %d: complete %v, want %v", number, got != nil, want)
			}
			if got != nil && !bytes.Equal(got[frameRoom:], s.frame) {
				t.Fatalf("frame %d was put together wrongly", number)
			}
		}
	}
}

// TestAssemblerRefuses: pieces that contradict each other or themselves make no frame.
func TestAssemblerRefuses(t *testing.T) {
	const fragment, last = transport.RecordFragment, transport.RecordFragment | transport.RecordLast
	p := NewPeer(1, crypto.Name{1})
	for name, steps := range map[string][]transport.Record{
		"behind the end":       {{Flags: last, Length: 16, Aux: 16, ChecksumStart: 23}},
		"last but not the end": {{Flags: last, Length: 16, ChecksumStart: 99}},
		"the end but not last": {{Flags: fragment, Length: 16, ChecksumStart: 15}},
		"twice":                {{Flags: fragment, Length: 16, ChecksumStart: 39}, {Flags: fragment, Length: 16, ChecksumStart: 39}, {Flags: last, Length: 8, Aux: 32, ChecksumStart: 39}},
		"overlapping":          {{Flags: fragment, Length: 16, ChecksumStart: 39}, {Flags: last, Length: 25, Aux: 15, ChecksumStart: 39}},
		"overlapping the next": {{Flags: last, Length: 24, Aux: 16, ChecksumStart: 39}, {Flags: fragment, Length: 17, ChecksumStart: 39}},
		"two lasts":            {{Flags: last, Length: 8, Aux: 8, ChecksumStart: 15}, {Flags: last, Length: 8, Aux: 8, ChecksumStart: 15}},
		"two lengths":          {{Flags: fragment, Length: 16, ChecksumStart: 39}, {Flags: last, Length: 8, Aux: 16, ChecksumStart: 23}},
	} {
		var as assembler
		for _, r := range steps {
			if got, _, _ := as.add(1, p, r, make([]byte, r.Length)); got != nil {
				t.Errorf("%s: made a frame", name)
			}
		}
	}
}

// TestAssemblerOfGaps: parts that leave more gaps than there is room for are given up, and
// the same in another order are a frame.
func TestAssemblerOfGaps(t *testing.T) {
	p := NewPeer(1, crypto.Name{1})
	records, parts := pieces(make([]byte, 2*maxSpans+2), 1, 1)
	for _, even := range []bool{true, false} {
		var as assembler
		lost := 0
		var frame []byte
		for pass := range 2 {
			for i := range records {
				if even && i%2 == pass || !even && pass == 0 {
					got, l, ok := as.add(1, p, records[i], parts[i])
					if !ok {
						t.Fatalf("piece %d is refused", i)
					}
					lost += l
					if got != nil {
						frame = got
					}
				}
			}
		}
		if even == (frame != nil) || even != (lost > 0) {
			t.Errorf("with gaps %v: a frame %v, %d given up", even, frame != nil, lost)
		}
	}
}

// TestFragmentsShareDatagrams: frames in pieces make full datagrams, each frame in no more
// of them than it needs, and every one arrives, also when the device takes them joined.
func TestFragmentsShareDatagrams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, crypto.CipherAuto)
		a, b := l.hosts[0], l.hosts[1]
		l.session(a, b, true)
		l.publish()
		const count, size = 50, 1514
		var want [][]byte
		for i := range uint32(count) {
			want = append(want, frame(a, b, i, size))
			a.device.Inject(want[i])
		}
		l.run(func() { l.expect(b, want...) })
		all := a.Counters().All()
		// One or two turns of the worker, by how the frames lie in its batches.
		most := uint64(count*size/(1472-overhead-transport.RecordLen)) + 10
		if all["frames_fragmented"] < count-10 || all["datagrams_out"] > most {
			t.Errorf("%v, at most %d datagrams are wanted", all, most)
		}
	})
}

// TestAssemblerKeeps: whole frames stay until they are released, as many as there is room
// for.
func TestAssemblerKeeps(t *testing.T) {
	var as assembler
	p := NewPeer(1, crypto.Name{1})
	for range 2 {
		var kept [][]byte
		for n := range 200 {
			f := bytes.Repeat([]byte{byte(n)}, 1514)
			records, parts := pieces(f, uint16(n), 1000)
			as.add(1, p, records[0], parts[0])
			got, _, _ := as.add(1, p, records[1], parts[1])
			if got == nil {
				t.Fatal("no frame")
			}
			b := as.keep(got)
			if b == nil {
				break
			}
			kept = append(kept, b)
		}
		if len(kept) != keptFrames/(1514+frameRoom) {
			t.Errorf("%d are kept", len(kept))
		}
		for n, b := range kept {
			if !bytes.Equal(b[frameRoom:], bytes.Repeat([]byte{byte(n)}, 1514)) {
				t.Fatalf("frame %d has changed", n)
			}
		}
		as.release()
	}
}

// TestAssemblerIsBounded: one peer's unfinished frames do not push out another's,
// and take a fixed number of places.
func TestAssemblerIsBounded(t *testing.T) {
	var as assembler
	p, q := NewPeer(1, crypto.Name{1}), NewPeer(2, crypto.Name{2})
	records, parts := pieces(make([]byte, 3000), 7, 1000)
	if _, _, ok := as.add(1, q, records[0], parts[0]); !ok {
		t.Fatal("refused")
	}
	lost := 0
	for n := range uint16(1000) {
		_, l, _ := as.add(2, p, transport.Record{Flags: transport.RecordFragment, Length: 8, ChecksumStart: 99, ChecksumOffset: n}, make([]byte, 8))
		lost += l
	}
	if lost != 1000-fragmentsEach {
		t.Errorf("%d frames given up, want %d", lost, 1000-fragmentsEach)
	}
	as.add(3, q, records[1], parts[1])
	if got, _, _ := as.add(3, q, records[2], parts[2]); got == nil {
		t.Error("the other peer's frame was pushed out")
	}
}

func FuzzAssembler(f *testing.F) {
	f.Add([]byte{8, 0, 0, 0, 40, 0, 0, 16})
	f.Fuzz(func(t *testing.T, b []byte) {
		var as assembler
		p := NewPeer(1, crypto.Name{1})
		for len(b) >= 8 {
			r := transport.Record{
				Flags: transport.RecordFlags(b[0]) | transport.RecordFragment, Aux: uint16(b[1])<<8 | uint16(b[2]),
				ChecksumStart: uint16(b[3])<<8 | uint16(b[4]), ChecksumOffset: uint16(b[5] & 3), Length: uint16(b[6]&7)<<8 | uint16(b[7]),
			}
			b = b[8:]
			if r.Length == 0 {
				continue // ParseRecord refuses it
			}
			if frame, _, _ := as.add(int64(len(b)), p, r, make([]byte, r.Length)); frame != nil && len(frame) != int(r.ChecksumStart)+1+frameRoom {
				t.Fatalf("a frame of %d bytes for %+v", len(frame), r)
			}
		}
	})
}

// TestFragmentsOfAnotherNetwork: pieces of another virtual network's frame make no frame of
// this one, as its whole frames don't.
func TestFragmentsOfAnotherNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, crypto.CipherAuto)
		a, b := l.hosts[0], l.hosts[1]
		l.session(a, b, true)
		sent := wired(a)
		l.publish()
		out := a.newOutbound(0)
		out.s = a.snapshot.Load()
		a.cfg.VNI = 7
		to := out.s.outlet(a.peers[b.id.Name()].ID)
		out.plain(to, to, 0, frame(a, b, 1, 100), 0)
		out.plain(to, to, 0, frame(a, b, 2, 3000), 0)
		out.close()
		out.flush()
		receive(b, a, sent.msgs)
		l.expect(b)
		if n := b.Counters().All()["drop_record_network"]; n < 2 {
			t.Errorf("counters %v", b.Counters().All())
		}
	})
}

// TestFragmentsTwice: a network that brings every datagram twice does not keep long frames
// back, where no replay window hides that.
func TestFragmentsTwice(t *testing.T) {
	for _, policy := range policies() {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, 2, policy)
			a, b := l.hosts[0], l.hosts[1]
			l.session(a, b, true)
			sent := wired(a)
			l.publish()
			out := a.newOutbound(0)
			out.s = a.snapshot.Load()
			to := out.s.outlet(a.peers[b.id.Name()].ID)
			for n := range uint32(10) {
				sent.msgs = nil
				f := frame(a, b, n, 4000)
				out.plain(to, to, 0, f, 0)
				out.close()
				out.flush()
				var twice []transport.Message
				for i := range sent.msgs {
					for d := range sent.msgs[i].Datagrams {
						m := transport.Message{Buf: d, N: len(d)}
						twice = append(twice, m, m)
					}
				}
				receive(b, a, twice)
				l.expect(b, f)
			}
		})
	}
}
