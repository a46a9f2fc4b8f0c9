package transport

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// wire sets a delay of half an rtt each way, and the payload bytes that pass from each
// end; both can be changed later.
type sizedWire struct {
	rtt    time.Duration
	device [2]int
	way    [2]int
	lost   func() bool
}

func (w *pathsWorld) wire(s *sizedWire) {
	w.delay = func(int, Path) (time.Duration, bool) { return s.rtt / 2, s.lost == nil || !s.lost() }
	w.room = func(from int, _ Path) (int, int) { return s.device[from], s.way[from] }
}

// bulk makes end 0 send datagrams as long as its limit says, every period; each that
// arrives is answered by a short one. It returns how many arrived.
func (w *pathsWorld) bulk(period time.Duration) *int {
	arrived := new(int)
	var send func()
	send = func() {
		e := w.end[0]
		if best, ok := e.Best(); ok {
			size := e.Limit()
			device, way := w.room(0, best)
			e.Sent(w.now)
			switch {
			case size > device:
				e.TooBig(w.now, best, size)
			case size <= way:
				w.carry(0, best, func(back Path) {
					*arrived++
					w.end[1].Heard(w.now, back)
					w.end[1].Sent(w.now)
					w.carry(1, back, func(from Path) { e.Heard(w.now, from) })
				})
			}
			w.pump(0)
		}
		w.after(period, send)
	}
	send()
	return arrived
}

// until runs until end i has the limit, at most for most.
func (w *pathsWorld) until(i, limit int, most time.Duration) time.Duration {
	w.t.Helper()
	from := w.now
	for w.end[i].Limit() != limit {
		if w.now.Sub(from) >= most {
			w.t.Fatalf("end %d has limit %d after %v, not %d", i, w.end[i].Limit(), most, limit)
		}
		w.run(time.Millisecond)
	}
	return w.now.Sub(from)
}

func TestPathSizeIsFound(t *testing.T) {
	for _, c := range []struct {
		mtu, device int
		v6          bool
		want        int
	}{
		{1280, 1280, false, 1252}, {1400, 1400, false, 1372}, {1500, 1500, false, 1472}, {9000, 9000, false, 8972},
		{1280, 1500, false, 1252}, {1400, 9000, false, 1372}, {1500, 9000, false, 1472}, {1430, 1500, false, 1392},
		{65535, 65535, false, 64972}, {600, 1500, false, 548}, {600, 600, false, 548},
		{1280, 1280, true, 1232}, {1400, 1400, true, 1352}, {1500, 1500, true, 1452}, {9000, 9000, true, 8952},
		{1280, 9000, true, 1232}, {1500, 9000, true, 1452},
	} {
		w := newPathsWorld(t, 20)
		header := 28
		if c.v6 {
			header = 48
			for i := range w.end {
				w.end[i].addr = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i + 1)}), 6783)
			}
		}
		w.wire(&sizedWire{rtt: 20 * time.Millisecond, device: [2]int{c.device - header, c.device - header}, way: [2]int{c.mtu - header, c.mtu - header}})
		if w.end[0].Limit() != BaseLimit {
			t.Fatalf("limit %d without a path", w.end[0].Limit())
		}
		w.introduce()
		w.run(time.Second)
		for i, e := range w.end {
			if !e.Up() {
				t.Fatal("not up")
			}
			if e.Limit() != c.want {
				t.Errorf("MTU %d, interface %d: end %d has limit %d, want %d", c.mtu, c.device, i, e.Limit(), c.want)
			}
			if s := e.Status()[0]; s.Limit != e.Limit() {
				t.Errorf("status shows limit %d of %d", s.Limit, e.Limit())
			}
		}
	}
}

// What is answered counts at once: two round trips after the first answer are enough.
func TestPathSizeIsFoundSoon(t *testing.T) {
	w := newPathsWorld(t, 21)
	w.wire(&sizedWire{rtt: 100 * time.Millisecond, device: [2]int{8972, 8972}, way: [2]int{1472, 1472}})
	w.introduce()
	for i, e := range w.end {
		for !e.Up() {
			w.run(time.Millisecond)
		}
		t.Logf("end %d: %v after it came up", i, w.until(i, 1472, 201*time.Millisecond))
	}
}

func TestPathSizeOfEachWay(t *testing.T) {
	w := newPathsWorld(t, 22)
	w.wire(&sizedWire{rtt: 10 * time.Millisecond, device: [2]int{1472, 1472}, way: [2]int{1372, 1472}})
	w.introduce()
	w.run(time.Second)
	if a, b := w.end[0].Limit(), w.end[1].Limit(); a != 1372 || b != 1472 {
		t.Errorf("limits %d and %d", a, b)
	}
}

func TestPathSizeOverTCP(t *testing.T) {
	w := newPathsWorld(t, 23)
	w.delay = func(_ int, on Path) (time.Duration, bool) { return time.Millisecond, on.Kind == PathTCP }
	for i, e := range w.end {
		e.SetTCP(w.now, true)
		w.pump(i)
	}
	w.run(time.Minute)
	e := w.end[0]
	if !e.Up() || e.Limit() != TCPLimit || e.Train() != 1 || e.padded != 0 {
		t.Errorf("limit %d, train %d, %d bytes of padded probes", e.Limit(), e.Train(), e.padded)
	}
}

// A path that comes to carry less is noticed while data leaves: at once when this host
// knows, else within 2 s.
func TestPathSizeFalls(t *testing.T) {
	for _, c := range []struct {
		name    string
		from    int
		device  bool // of this host
		chatter bool // something is heard all the time
		most    time.Duration
	}{
		{"stalled", 1472, false, false, 1500 * time.Millisecond},
		{"stalled, from 9000", 8972, false, false, 1500 * time.Millisecond},
		{"with other traffic", 1472, false, true, 2500 * time.Millisecond},
		{"interface", 1472, true, false, 100 * time.Millisecond},
		{"interface, from 9000", 8972, true, true, 100 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newPathsWorld(t, 24)
			s := &sizedWire{rtt: 10 * time.Millisecond, device: [2]int{c.from, c.from}, way: [2]int{c.from, c.from}}
			w.wire(s)
			w.introduce()
			w.run(time.Second)
			arrived := w.bulk(10 * time.Millisecond)
			if c.chatter {
				w.traffic(1, 20*time.Millisecond)
			}
			w.run(time.Minute)
			if w.end[0].Limit() != c.from {
				t.Fatalf("limit %d", w.end[0].Limit())
			}
			s.way = [2]int{1252, 1252}
			if c.device {
				s.device = s.way
			}
			t.Logf("noticed after %v", w.until(0, 1252, c.most))
			before := *arrived
			w.run(time.Second)
			if *arrived-before < 90 {
				t.Errorf("%d of 100 datagrams arrive", *arrived-before)
			}
			if !w.end[0].Up() {
				t.Error("down")
			}
			// And grows again: looked for after a minute.
			s.way, s.device = [2]int{c.from, c.from}, [2]int{c.from, c.from}
			t.Logf("grown after %v", w.until(0, c.from, 80*time.Second))
		})
	}
}

// What this host refuses to send is not sent once more: the limit falls before the search
// for a better one has an answer.
func TestPathSizeRefusedHere(t *testing.T) {
	w := newPathsWorld(t, 29)
	w.wire(&sizedWire{rtt: 10 * time.Millisecond, device: [2]int{1472, 1472}, way: [2]int{1472, 1472}})
	w.introduce()
	w.run(time.Second)
	e, on := w.end[0], DirectPath(w.end[1].addr)
	for _, c := range []struct{ refused, want int }{
		{0, 1472}, {-5, 1472}, {1473, 1472}, {1472, BaseLimit}, {BaseLimit, 1172}, {1172, 548}, {548, 548}, {1, 548},
	} {
		if e.TooBig(w.now, on, c.refused); e.Limit() != c.want {
			t.Errorf("%d bytes refused: limit %d, want %d", c.refused, e.Limit(), c.want)
		}
	}
	e.TooBig(w.now, DirectPath(worldAddr("192.0.2.9:9")), 100)
	e.TooBig(w.now, Path{Kind: PathTCP}, 100)
	t.Logf("right again after %v", w.until(0, 1472, time.Second))
}

// A path that never fell is looked at every 10 minutes.
func TestPathSizeGrows(t *testing.T) {
	w := newPathsWorld(t, 25)
	s := &sizedWire{rtt: 10 * time.Millisecond, device: [2]int{8972, 8972}, way: [2]int{1472, 1472}}
	w.wire(s)
	w.introduce()
	w.run(time.Minute)
	s.way = [2]int{8972, 8972}
	if took := w.until(0, 8972, 13*time.Minute); took < 5*time.Minute {
		t.Errorf("looked after %v already", took)
	}
}

// Loss is not taken for size.
func TestPathSizeUnderLoss(t *testing.T) {
	for _, loss := range []float64{0.02, 0.1, 0.3} {
		w := newPathsWorld(t, 26)
		s := &sizedWire{rtt: 10 * time.Millisecond, device: [2]int{1472, 1472}, way: [2]int{1472, 1472}}
		s.lost = func() bool { return w.random.Float64() < loss }
		w.wire(s)
		w.introduce()
		w.run(5 * time.Second)
		w.bulk(10 * time.Millisecond)
		right, most := 0, 6000
		for range most {
			w.run(100 * time.Millisecond)
			if w.end[0].Limit() == 1472 {
				right++
			}
		}
		t.Logf("loss %.0f %%: right %.2f %% of the time", 100*loss, 100*float64(right)/float64(most))
		if share := float64(right) / float64(most); share < 0.9 || loss <= 0.1 && share < 0.99 {
			t.Errorf("loss %.0f %%: right in %.2f %% of the time only", 100*loss, 100*share)
		}
	}
}

// An idle link sends next to nothing.
func TestPathSizeIdleCost(t *testing.T) {
	w := newPathsWorld(t, 27)
	w.wire(&sizedWire{rtt: 10 * time.Millisecond, device: [2]int{1472, 1472}, way: [2]int{1472, 1472}})
	w.introduce()
	w.run(time.Minute)
	w.end[0].padded = 0
	w.run(time.Hour)
	if n := w.end[0].padded; n > 8*30000 {
		t.Errorf("%d bytes of probes in an idle hour", n)
	}
}

// All paths that are up are measured, one after the other, so that the limit is known
// when another is taken into use.
func TestPathSizeOfOtherPaths(t *testing.T) {
	w := newPathsWorld(t, 28)
	e := w.end[0]
	room := map[Path]int{DirectPath(worldAddr("10.0.0.2:1")): 1472, DirectPath(worldAddr("10.1.0.2:1")): 1352}
	rtt := map[Path]time.Duration{DirectPath(worldAddr("10.0.0.2:1")): 10 * time.Millisecond, DirectPath(worldAddr("10.1.0.2:1")): 12 * time.Millisecond}
	dead := false
	run := func(d time.Duration) {
		for until := w.now.Add(d); w.now.Before(until); {
			searching := 0
			for _, q := range e.paths {
				if q.size.searching {
					searching++
				}
			}
			if searching > 1 {
				t.Fatal("two paths are searched at once")
			}
			for _, probe := range e.Probes() {
				if probe.Pad <= room[probe.Path] && !(dead && room[probe.Path] == 1472) {
					w.after(rtt[probe.Path], func() { e.Answered(w.now, probe.Path, probe.ID, true) })
				}
			}
			w.now = w.now.Add(time.Millisecond)
			w.queue = slices.DeleteFunc(w.queue, func(ev worldEvent) bool {
				due := !ev.at.After(w.now)
				if due {
					ev.do()
				}
				return due
			})
			if at := e.Next(); !at.IsZero() && !at.After(w.now) {
				e.Tick(w.now)
			}
		}
	}
	e.SetCandidates(w.now, []netip.AddrPort{worldAddr("10.0.0.2:1"), worldAddr("10.1.0.2:1")})
	run(3 * time.Second)
	for _, s := range e.Status() {
		if s.Limit != room[s.Path] {
			t.Errorf("%v has limit %d, not %d", s.Path, s.Limit, room[s.Path])
		}
	}
	if e.Limit() != 1472 {
		t.Fatalf("limit %d", e.Limit())
	}
	dead = true
	e.Sent(w.now)
	run(time.Second)
	if best, _ := e.Best(); room[best] != 1352 || e.Limit() != 1352 {
		t.Errorf("%v in use with limit %d", best, e.Limit())
	}
}

// Whatever the network does, the limit is right again soon after, and nothing is
// believed that was not answered.
func TestPathSizeRandom(t *testing.T) {
	for seed := range uint64(12) {
		w := newPathsWorld(t, 2000+seed)
		s := &sizedWire{rtt: 10 * time.Millisecond, device: [2]int{8972, 8972}, way: [2]int{1472, 1472}}
		loss := 0.0
		s.lost = func() bool { return w.random.Float64() < loss }
		w.wire(s)
		w.introduce()
		w.bulk(50 * time.Millisecond)
		r := w.random
		for range 40 {
			switch r.IntN(5) {
			case 0:
				loss = []float64{0, 0, 0.1, 0.4}[r.IntN(4)]
			case 1, 2:
				s.way[r.IntN(2)] = 548 + r.IntN(9000)
			case 3:
				s.device[r.IntN(2)] = 1252 + r.IntN(8000)
			case 4:
				w.end[0].TooBig(w.now, DirectPath(w.end[1].addr), r.IntN(10000)-500)
				w.pump(0)
			}
			w.run(time.Duration(r.Int64N(int64(5 * time.Second))))
			if e := w.end[0]; e.Limit() > max(e.biggest, BaseLimit) {
				t.Fatalf("seed %d: limit %d, but no more than %d were ever answered", seed, e.Limit(), e.biggest)
			}
		}
		loss = 0
		s.way, s.device = [2]int{1312, 1312}, [2]int{1472, 1472}
		w.run(3 * time.Second)
		if n := w.end[0].Limit(); n > 1312 {
			t.Fatalf("seed %d: limit %d after 3 s", seed, n)
		}
		w.run(12 * time.Minute)
		if n := w.end[0].Limit(); n != 1312 {
			t.Fatalf("seed %d: limit %d at the end", seed, n)
		}
	}
}
