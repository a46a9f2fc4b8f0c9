package transporttest

import (
	"bytes"
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"testing"

	"ripstop/transport"
)

// train is a message to e of count datagrams of segment bytes and, if last is not 0,
// one of last bytes. Each differs from the others, as far as its length allows.
func (e *end) train(segment, count, last int) transport.Message {
	b := make([]byte, segment*count+last)
	for i := range b {
		k := i / segment
		b[i] = byte(k + k>>8 + 7*(i%segment))
	}
	m := e.message(b)
	m.Segment = segment
	return m
}

// expect receives the datagrams of msgs one by one.
func (e *end) expect(t *testing.T, from netip.AddrPort, msgs ...transport.Message) {
	t.Helper()
	for k := range msgs {
		i := 0
		for want := range msgs[k].Datagrams {
			m := e.next(t)
			if !bytes.Equal(m.Buf, want) {
				t.Fatalf("message %d of %d bytes in segments of %d: datagram %d of %d bytes is not what was sent, of %d",
					k, msgs[k].N, msgs[k].Segment, i, m.N, len(want))
			}
			if m.Remote != from || m.Err != nil {
				t.Fatalf("message %d: datagram %d from %v, error %v", k, i, m.Remote, m.Err)
			}
			i++
		}
	}
}

func testTrain(t *testing.T, kit Kit) {
	a, b := open(t, kit, 2048, 8), open(t, kit, 65536, 8)
	most := a.MaxSegments()
	if most < 1 || a.Stats().Segmentation != (most > 1) {
		t.Fatalf("at most %d segments, segmentation %v", most, a.Stats().Segmentation)
	}
	for _, size := range []struct{ segment, count, last int }{
		{1400, 45, 0},
		{1400, 45, 1},
		{1400, 45, 1399},
		{1200, 1, 7},
		{1200, 2, 0},
		{1200, 1, 0}, // a train of one
		{1, 300, 0},
		{3, 40, 2},
		{100, most, 0},
		{100, most, 100},
		{100, 3*most + 1, 50},
		{1400, 46, 0},
		{1400, 47, 0},     // longer than MaxTrain
		{1401, 100, 1000}, // twice
	} {
		m := b.train(size.segment, size.count, size.last)
		before := bytes.Clone(m.Buf)
		// What lies behind N is not touched.
		m.Buf = append(m.Buf, "spare"...)
		m.Err = errStale
		a.send(t, m)
		if !bytes.Equal(m.Bytes(), before) || string(m.Buf[m.N:]) != "spare" {
			t.Errorf("%v: Send wrote to the buffer", size)
		}
		b.expect(t, a.addr, m)
	}
	// A segment longer than the message is one datagram.
	long := b.message([]byte("one datagram"))
	long.Segment = 70000
	a.send(t, long)
	b.expect(t, a.addr, long)
	b.none(t)
	local := b.addr.Addr()
	if kit.NoLocal {
		local = netip.Addr{}
	}
	a.send(t, b.train(1000, 3, 0))
	for range 3 {
		if m := b.next(t); m.Local != local {
			t.Errorf("came to %v, want %v", m.Local, local)
		}
	}
}

func testTrainBatch(t *testing.T, kit Kit) {
	from := open(t, kit, 2048, 8)
	to := []*end{open(t, kit, 65536, 2), open(t, kit, 65536, 8), open(t, kit, 65536, 64)}
	for range 3 {
		var msgs []transport.Message
		of := make([][]transport.Message, len(to))
		for i := range 24 {
			e := to[i%len(to)]
			var m transport.Message
			switch i / len(to) % 6 {
			case 0:
				m = e.train(200, 5, 50)
			case 1:
				m = e.message(bytes.Repeat([]byte{byte(i)}, 20+i))
			case 2:
				m = e.train(1000, 2, 0)
			case 3:
				m = e.train(300, 1, 0)
			case 4:
				m = e.train(1000, 70, 1)
			case 5:
				m = e.train(200, 5, 0)
			}
			msgs = append(msgs, m)
			of[i%len(to)] = append(of[i%len(to)], m)
		}
		from.send(t, msgs...)
		for k, e := range to {
			e.expect(t, from.addr, of[k]...)
			e.none(t)
		}
	}
}

func testTrainLarge(t *testing.T, kit Kit) {
	a, b := open(t, kit, 2048, 8), open(t, kit, 65536, 8)
	large := max(kit.MTU, 1500) + 100
	for range 2 {
		msgs := []transport.Message{
			b.message([]byte("before")),
			b.train(large, 3, 5),
			b.train(300, 4, 0),
			b.train(large, 2, 0),
			b.train(large, 2*transport.MaxTrain/large+3, 5), // leaves as several trains, each refused
			b.message([]byte("behind")),
		}
		a.send(t, msgs...)
		b.expect(t, a.addr, msgs...)
	}
	b.none(t)
}

func testTrainDF(t *testing.T, kit Kit) {
	if kit.NoDF || kit.MTU == 0 {
		t.Skip("no don't-fragment, or no interface of known MTU")
	}
	a, b := open(t, kit, 2048, 8), open(t, kit, 65536, 8)
	fits := kit.MTU - overhead4
	if b.addr.Addr().Is6() {
		fits = kit.MTU - overhead6
	}
	for _, on := range []bool{true, false, true} {
		if err := a.SetDF(on); err != nil {
			t.Fatal(err)
		}
		msgs := []transport.Message{b.train(fits, 5, 0), b.train(fits+1, 3, 10), b.train(fits, 2, 1)}
		want := []transport.Message{msgs[0], msgs[1], msgs[2]}
		sent, wantSent := a.Send(msgs), 3
		if on { // only the short one of the second train
			short := b.message(msgs[1].Buf[3*(fits+1):])
			want[1], wantSent = short, 2
		}
		if sent != wantSent || msgs[0].Err != nil || msgs[2].Err != nil || errors.Is(msgs[1].Err, syscall.EMSGSIZE) != on {
			t.Errorf("df %v: sent %d, errors %v, %v, %v", on, sent, msgs[0].Err, msgs[1].Err, msgs[2].Err)
		}
		b.expect(t, a.addr, want...)
	}
	b.none(t)
	if st := a.Stats(); st.TooBig != 6 || st.Sent != 2*9+12 {
		t.Errorf("stats %+v", st)
	}
}

func testTrainErrors(t *testing.T, kit Kit) {
	a, b := open(t, kit, 2048, 8), open(t, kit, 65536, 8)
	negative := b.train(100, 3, 0)
	negative.Segment = -1
	beyond := b.train(100, 2, 0)
	beyond.N = 300
	nowhere := b.train(100, 3, 0)
	nowhere.Remote = netip.AddrPort{}
	empty := b.message(nil)
	empty.Segment = 100
	// The first datagram is longer than IP carries, and longer than 16 bits tell.
	long := b.train(66000, 1, 10)
	good := b.train(100, 3, 0)
	msgs := []transport.Message{negative, beyond, nowhere, empty, long, good}
	if sent := a.Send(msgs); sent != 1 {
		t.Errorf("sent %d of 1", sent)
	}
	for i, want := range []error{syscall.EINVAL, syscall.EINVAL, syscall.EAFNOSUPPORT, syscall.EINVAL, syscall.EMSGSIZE, nil} {
		if !errors.Is(msgs[i].Err, want) {
			t.Errorf("message %d: error %v, want %v", i, msgs[i].Err, want)
		}
	}
	b.expect(t, a.addr, b.message(long.Buf[66000:]), good)
	b.none(t)
	if st := a.Stats(); st.TooBig != 1 || st.Unreachable != 3 || st.SendErrors != 3 || st.Sent != 4 {
		t.Errorf("stats %+v", st)
	}
}

func testTrainTruncated(t *testing.T, kit Kit) {
	const count, end = 11, "end"
	for _, test := range []struct{ buffer, least int }{
		{1000, 3}, {900, 3}, {599, 1}, {300, 1}, {299, 0}, // the last of a train is shorter, and may have room
	} {
		a, b := open(t, kit, 2048, 8), open(t, kit, test.buffer, 8)
		train := b.train(300, count-1, 100)
		a.send(t, train)
		a.send(t, b.message([]byte(end)))
		var want [][]byte
		for d := range train.Datagrams {
			want = append(want, d)
		}
		arrived := 0
		for {
			m := b.next(t)
			if string(m.Buf) == end {
				break
			}
			if m.N == 0 {
				continue
			}
			if test.least > 0 && !bytes.Equal(m.Buf, want[arrived]) {
				t.Errorf("%d bytes of buffer: datagram %d is not what was sent", test.buffer, arrived)
			}
			arrived++
		}
		st := b.Stats()
		if arrived < test.least || st.Truncated+uint64(arrived) != count || st.Received != uint64(arrived+1) {
			t.Errorf("%d bytes of buffer: %d arrived of %d, at least %d do; stats %+v", test.buffer, arrived, count, test.least, st)
		}
		if st.Gathering && st.Truncated == 0 && a.MaxSegments() > 1 && test.buffer < 300 {
			t.Errorf("%d bytes of buffer: nothing was lost", test.buffer)
		}
	}
}

func testTrainPin(t *testing.T, kit Kit) {
	a, b := open(t, kit, 2048, 4), open(t, kit, 65536, 4)
	pinned, free := b.train(500, 4, 20), b.train(400, 3, 0)
	if kit.NoLocal {
		pinned.Local = a.addr.Addr()
		msgs := []transport.Message{pinned, free}
		if sent := a.Send(msgs); sent != 1 || !errors.Is(msgs[0].Err, syscall.EADDRNOTAVAIL) {
			t.Errorf("sent %d, error %v", sent, msgs[0].Err)
		}
		b.expect(t, a.addr, free)
		b.none(t)
		return
	}
	if !kit.Second.IsValid() {
		t.Skip("no second address")
	}
	pinned.Local = kit.Second
	foreign := b.train(300, 2, 0)
	foreign.Local = netip.MustParseAddr("192.0.2.77")
	if b.addr.Addr().Is6() {
		foreign.Local = netip.MustParseAddr("2001:db8::77")
	}
	msgs := []transport.Message{pinned, foreign, free, pinned}
	if sent := a.Send(msgs); sent != 3 || msgs[1].Err == nil {
		t.Errorf("sent %d, errors %v, %v, %v, %v", sent, msgs[0].Err, msgs[1].Err, msgs[2].Err, msgs[3].Err)
	}
	second := netip.AddrPortFrom(kit.Second, a.Port())
	b.expect(t, second, pinned)
	b.expect(t, a.addr, free)
	b.expect(t, second, pinned)
	b.none(t)
	// A train to the second address tells where it came.
	free.Remote = netip.AddrPortFrom(kit.Second, b.Port())
	a.send(t, free)
	for range 3 {
		if m := b.next(t); m.Local != kit.Second {
			t.Errorf("came to %v, want %v", m.Local, kit.Second)
		}
	}
}

func testTrainConcurrent(t *testing.T, kit Kit) {
	a, b := open(t, kit, 2048, 8), open(t, kit, 65536, 64)
	const senders, each, count, size = 4, 10, 6, 300
	var done sync.WaitGroup
	for s := range senders {
		done.Go(func() {
			for i := range each {
				m := b.train(size, count-1, 100)
				at := 0
				for d := range m.Datagrams {
					d[0], d[1], d[2] = byte(s), byte(i), byte(at)
					at++
				}
				a.send(t, m)
			}
		})
	}
	done.Wait()
	var next [senders]int
	for range senders * each * count {
		m := b.next(t)
		s := m.Buf[0]
		if want := next[s]; int(m.Buf[1]) != want/count || int(m.Buf[2]) != want%count {
			t.Fatalf("sender %d: datagram %d of train %d in place of %d of %d", s, m.Buf[2], m.Buf[1], want%count, want/count)
		}
		next[s]++
	}
	b.none(t)
}

func testTrainStats(t *testing.T, kit Kit) {
	a, b := open(t, kit, 2048, 8), open(t, kit, 65536, 8)
	msgs := []transport.Message{b.train(100, 7, 0), b.message([]byte("x")), b.train(100, 4, 1), b.train(1000, 70, 0)}
	a.send(t, msgs...)
	b.expect(t, a.addr, msgs...)
	const all = 7 + 1 + 5 + 70
	sa, sb := a.Stats(), b.Stats()
	if sa.Sent != all || sb.Received != all || sb.Truncated != 0 || sb.KernelDrops != 0 || sa.SendErrors != 0 {
		t.Errorf("sender %+v, receiver %+v, want %d", sa, sb, all)
	}
}
