package transport

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// pathsWorld joins two Paths by a network that the test shapes. Time is a number;
// events happen in order of time, then of their making.
type pathsWorld struct {
	t      testing.TB
	random *rand.Rand
	now    time.Time
	start  time.Time
	serial int
	queue  []worldEvent
	end    [2]*worldEnd

	// delay gives the way of a datagram from an end on a path; false: lost.
	delay func(from int, on Path) (time.Duration, bool)
	// room gives how many bytes of UDP payload an end sends at all on a path, and how
	// many pass; nil: as many as there may be.
	room func(from int, on Path) (device, way int)
	// damaged says that place of a train does not arrive as it was sent; nil: nothing is.
	damaged func(out TrainOut, place int) bool
}

type worldEvent struct {
	at     time.Time
	serial int
	do     func()
}

type worldEnd struct {
	*Paths
	addr     netip.AddrPort // where the other end sees datagrams come from
	addr6    netip.AddrPort // likewise over IPv6
	probes   []time.Time    // sent, without padding
	padded   int            // bytes of probes and trains sent beside them
	biggest  int            // probe that was answered
	trained  []TrainOut     // sent
	answered map[Path]bool  // an answer has come on it
	log      []string
	was      string
	paused   bool
	held     []func()
}

func worldAddr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func newPathsWorld(t testing.TB, seed uint64) *pathsWorld {
	w := &pathsWorld{t: t, random: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1e9, 0)}
	w.start = w.now
	for i := range w.end {
		w.end[i] = &worldEnd{
			Paths:    NewPaths(PathsConfig{Random: rand.New(rand.NewPCG(seed, uint64(i)+2))}),
			addr:     netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 6783),
			addr6:    netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i + 1)}), 6783),
			answered: make(map[Path]bool),
		}
	}
	w.delay = func(int, Path) (time.Duration, bool) { return time.Millisecond, true }
	return w
}

// introduce tells each end the other's address.
func (w *pathsWorld) introduce() {
	for i, e := range w.end {
		e.SetCandidates(w.now, []netip.AddrPort{w.end[1-i].addr})
		w.pump(i)
	}
}

func (w *pathsWorld) at(t time.Time, do func()) {
	w.serial++
	w.queue = append(w.queue, worldEvent{t, w.serial, do})
}

func (w *pathsWorld) after(d time.Duration, do func()) { w.at(w.now.Add(d), do) }

// carry brings something from an end to the other, which sees it on the path back.
func (w *pathsWorld) carry(from int, on Path, do func(back Path)) {
	d, ok := w.delay(from, on)
	if !ok {
		return
	}
	back := on
	switch {
	case on.Remote.Addr().Is6():
		back = DirectPath(w.end[from].addr6)
	case on.Kind == PathDirect:
		back = DirectPath(w.end[from].addr)
	}
	w.after(d, func() {
		to := w.end[1-from]
		handle := func() {
			do(back)
			w.pump(1 - from)
		}
		if to.paused {
			to.held = append(to.held, handle)
		} else {
			handle()
		}
	})
}

// pump sends what an end wants sent.
func (w *pathsWorld) pump(i int) {
	e, o := w.end[i], w.end[1-i]
	for _, probe := range e.Probes() {
		if probe.Pad == 0 {
			e.probes = append(e.probes, w.now)
		} else if !w.fits(i, probe.Path, probe.Pad) {
			continue
		}
		w.carry(i, probe.Path, func(back Path) {
			o.Probed(w.now, back, probe.HearsYou)
			// The answer leaves to where the probe came from, and arrives from where
			// the answering end is seen.
			w.carry(1-i, back, func(from Path) {
				e.answered[from] = true
				e.biggest = max(e.biggest, probe.Pad)
				e.Answered(w.now, from, probe.ID, o.Hears(back))
			})
		})
	}
	for _, train := range e.Trains() {
		e.trained = append(e.trained, train)
		for place := range train.Count {
			size := train.Size
			if place == train.Count-1 {
				size = train.Last
			}
			if !w.fits(i, train.Path, size) || w.damaged != nil && w.damaged(train, place) {
				continue
			}
			w.carry(i, train.Path, func(back Path) {
				o.TrainPiece(w.now, back, TrainPiece{ID: train.ID, Place: uint8(place), Count: uint8(train.Count)})
			})
		}
	}
	for _, report := range e.Reports() {
		w.carry(i, report.Path, func(back Path) { o.TrainReport(w.now, back, report.TrainReport) })
	}
	best, ok := e.Best()
	state := "none"
	if ok {
		state = best.String()
	}
	if e.Up() {
		state += " up"
	}
	if state != e.was {
		e.was = state
		e.log = append(e.log, fmt.Sprintf("%v %s", w.now.Sub(w.start), state))
	}
	w.check(i)
}

// fits reports whether a datagram of size bytes gets through, and tells its end when it
// was not even sent.
func (w *pathsWorld) fits(i int, on Path, size int) bool {
	if w.room == nil {
		w.end[i].padded += size
		return true
	}
	device, way := w.room(i, on)
	if size > device {
		w.end[i].TooBig(w.now, on, size)
		return false
	}
	w.end[i].padded += size
	return size <= way
}

// check holds what must be true at every moment.
func (w *pathsWorld) check(i int) {
	e := w.end[i]
	if best, ok := e.Best(); ok && !e.answered[best] {
		w.t.Fatalf("%v: end %d uses %v, which has never answered", w.now.Sub(w.start), i, best)
	}
	if e.Up() {
		if _, ok := e.Best(); !ok {
			w.t.Fatalf("%v: end %d is up without a path", w.now.Sub(w.start), i)
		}
	}
	recent := 0
	for k := len(e.probes) - 1; k >= 0 && w.now.Sub(e.probes[k]) < time.Second; k-- {
		recent++
	}
	if recent > probeRate+probeBurst {
		w.t.Fatalf("%v: end %d has sent %d probes within a second", w.now.Sub(w.start), i, recent)
	}
	direct := 0
	for _, s := range e.Status() {
		if s.Kind == PathDirect {
			direct++
		}
	}
	if direct > maxCandidates {
		w.t.Fatalf("end %d keeps %d candidates", i, direct)
	}
}

// run lets d pass.
func (w *pathsWorld) run(d time.Duration) {
	until := w.now.Add(d)
	for steps := 0; ; steps++ {
		if steps > 1e6 {
			w.t.Fatalf("%v: time stands still", w.now.Sub(w.start))
		}
		next := until
		who := -1
		for i, e := range w.end {
			if at := e.Next(); !at.IsZero() && !e.paused && at.Before(next) {
				next, who = at, i
			}
		}
		k := -1
		for j, ev := range w.queue {
			if ev.at.After(next) {
				continue
			}
			if k < 0 || cmp.Or(ev.at.Compare(w.queue[k].at), cmp.Compare(ev.serial, w.queue[k].serial)) < 0 {
				k = j
			}
		}
		if k >= 0 {
			ev := w.queue[k]
			w.queue = slices.Delete(w.queue, k, k+1)
			if ev.at.After(w.now) {
				w.now = ev.at
			}
			ev.do()
			continue
		}
		if next.After(w.now) {
			w.now = next
		}
		if who < 0 {
			return
		}
		w.end[who].Tick(w.now)
		w.pump(who)
	}
}

// traffic makes an end send a datagram every period on its best path, for ever.
func (w *pathsWorld) traffic(i int, period time.Duration) {
	var send func()
	send = func() {
		e := w.end[i]
		if !e.paused {
			if best, ok := e.Best(); ok {
				e.Sent(w.now)
				w.pump(i)
				w.carry(i, best, func(back Path) { w.end[1-i].Heard(w.now, back) })
			}
		}
		w.after(period, send)
	}
	send()
}

// states is what an end's log says since from, without the times.
func (e *worldEnd) states(since int) string {
	var s []string
	for _, l := range e.log[since:] {
		_, state, _ := strings.Cut(l, " ")
		s = append(s, state)
	}
	return strings.Join(s, ", ")
}

func TestPathsLinkComesUpBothWays(t *testing.T) {
	w := newPathsWorld(t, 1)
	w.delay = func(int, Path) (time.Duration, bool) { return 10 * time.Millisecond, true }
	w.introduce()
	w.run(time.Second)
	for i, e := range w.end {
		// One round trip shows that we are answered, the next ones tell the other end so.
		ends := strings.TrimPrefix(e.states(0), fmt.Sprintf("none, udp 10.0.0.%d:6783", 2-i))
		if ends != " up" && ends != fmt.Sprintf(", udp 10.0.0.%d:6783 up", 2-i) {
			t.Fatalf("end %d: %v", i, e.log)
		}
		at, _ := time.ParseDuration(strings.Fields(e.log[len(e.log)-1])[0])
		if at > 60*time.Millisecond {
			t.Errorf("end %d is up after %v, not within three round trips", i, at)
		}
		if rtt, loss := e.Cost(); rtt != 20*time.Millisecond || loss != 0 {
			t.Errorf("end %d: cost %v, %v", i, rtt, loss)
		}
	}
}

func TestPathsNeverUpOneWay(t *testing.T) {
	for dead := range 2 {
		w := newPathsWorld(t, 2)
		w.delay = func(from int, _ Path) (time.Duration, bool) { return time.Millisecond, from != dead }
		w.introduce()
		w.traffic(0, 20*time.Millisecond)
		w.traffic(1, 20*time.Millisecond)
		w.run(time.Minute)
		for i, e := range w.end {
			if len(e.log) != 1 || e.log[0] != "0s none" {
				t.Errorf("cut from %d: end %d: %v", dead, i, e.log)
			}
		}
	}
}

// A dead link is noticed in less than a second while traffic leaves, and within
// idle probing otherwise.
func TestPathsDeathIsNoticed(t *testing.T) {
	for _, c := range []struct {
		name  string
		rtt   time.Duration
		usual time.Duration // pause of the traffic
		most  time.Duration
	}{
		{"busy", time.Millisecond, 10 * time.Millisecond, time.Second},
		{"busy, 100 ms", 100 * time.Millisecond, 10 * time.Millisecond, 1100 * time.Millisecond},
		{"a ping a second", time.Millisecond, time.Second, 1400 * time.Millisecond},
		{"idle", time.Millisecond, 0, 6*time.Second + time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newPathsWorld(t, 3)
			w.delay = func(int, Path) (time.Duration, bool) { return c.rtt / 2, true }
			w.introduce()
			w.run(time.Second)
			if c.usual > 0 {
				w.traffic(0, c.usual)
				w.traffic(1, c.usual)
			}
			w.run(20 * time.Second)
			if !w.end[0].Up() || !w.end[1].Up() {
				t.Fatal("not up")
			}
			w.delay = func(int, Path) (time.Duration, bool) { return 0, false }
			cut := w.now
			for w.end[0].Up() || w.end[1].Up() {
				w.run(time.Millisecond)
				if w.now.Sub(cut) > c.most {
					t.Fatalf("up for %v after the cut", w.now.Sub(cut))
				}
			}
			t.Logf("noticed after %v", w.now.Sub(cut))
			if w.now.Sub(cut) < 400*time.Millisecond && c.usual > 0 {
				t.Errorf("given up after %v already", w.now.Sub(cut))
			}
			w.delay = func(int, Path) (time.Duration, bool) { return c.rtt / 2, true }
			healed := w.now
			for !w.end[0].Up() || !w.end[1].Up() {
				w.run(time.Millisecond)
				if w.now.Sub(healed) > 7*time.Second {
					t.Fatal("not back after 7 s")
				}
			}
		})
	}
}

// A busy link is probed only where nothing is heard.
func TestPathsProbesOnlySilence(t *testing.T) {
	w := newPathsWorld(t, 4)
	w.introduce()
	w.run(time.Second)
	w.traffic(0, 50*time.Millisecond)
	w.traffic(1, 50*time.Millisecond)
	for _, e := range w.end {
		e.probes = nil
	}
	w.run(100 * time.Second)
	both := 0
	for i, e := range w.end {
		both += len(e.probes)
		if n := len(e.probes); n < 5 {
			t.Errorf("end %d sent %d probes in 100 s: it measures nothing for itself", i, n)
		}
	}
	if both < 16 || both > 26 {
		t.Errorf("two ends that hear something every 50 ms sent %d probes in 100 s, not one in 4 to 6 s", both)
	}

	// One direction only: the sender asks every 200 ms.
	w = newPathsWorld(t, 4)
	w.introduce()
	w.run(time.Second)
	w.traffic(0, 50*time.Millisecond)
	w.end[0].probes, w.end[1].probes = nil, nil
	w.run(100 * time.Second)
	if n := len(w.end[0].probes); n < 480 || n > 505 {
		t.Errorf("the sender that hears nothing else sent %d probes in 100 s, not one in 200 ms", n)
	}
	if n := len(w.end[1].probes); n > 26 {
		t.Errorf("the receiver sent %d probes in 100 s", n)
	}
}

// A cut in one direction ends the path at both ends within 3 s, though one of them
// hears the other all the time.
func TestPathsOneWayCut(t *testing.T) {
	for dead := range 2 {
		w := newPathsWorld(t, 5)
		w.introduce()
		w.run(time.Second)
		w.traffic(0, 20*time.Millisecond)
		w.traffic(1, 20*time.Millisecond)
		w.run(10 * time.Second)
		w.delay = func(from int, _ Path) (time.Duration, bool) { return time.Millisecond, from != dead }
		w.run(1500 * time.Millisecond)
		for i, e := range w.end {
			if e.Up() {
				t.Errorf("cut from %d: end %d is still up after 1.5 s", dead, i)
			}
		}
		before := [2]int{len(w.end[0].log), len(w.end[1].log)}
		w.run(time.Minute)
		for i, e := range w.end {
			if len(e.log) != before[i] {
				t.Errorf("cut from %d: end %d goes on changing: %v", dead, i, e.log[before[i]:])
			}
		}
	}
}

func TestPathsTCPGone(t *testing.T) {
	w := newPathsWorld(t, 6)
	w.introduce()
	for i, e := range w.end {
		e.SetTCP(w.now, true)
		w.pump(i)
	}
	w.run(20 * time.Second)

	// The peer lives: three probes within 100 ms, and the link stays.
	e := w.end[0]
	logged := len(e.log)
	e.probes = nil
	e.SetTCP(w.now, false)
	w.pump(0)
	from := w.now
	w.run(150 * time.Millisecond)
	n := 0
	for _, at := range e.probes {
		if at.Sub(from) <= 100*time.Millisecond {
			n++
		}
	}
	if n != 3 {
		t.Errorf("%d probes within 100 ms", n)
	}
	w.run(180 * time.Second)
	if !e.Up() || len(e.log) != logged {
		t.Errorf("not up all the time after TCP ended: %v", e.log[logged:])
	}

	// The peer is dead: down in half a second, on an idle link.
	e.SetTCP(w.now, true)
	w.pump(0)
	w.run(20 * time.Second)
	w.delay = func(int, Path) (time.Duration, bool) { return 0, false }
	e.SetTCP(w.now, false)
	w.pump(0)
	w.run(500 * time.Millisecond)
	if e.Up() {
		t.Error("still up half a second after TCP ended and nothing answers")
	}
}

// Where UDP does not pass, the TCP connection is the path, and only until UDP passes.
func TestPathsTCPInsteadOfUDP(t *testing.T) {
	w := newPathsWorld(t, 7)
	udp := false
	w.delay = func(_ int, on Path) (time.Duration, bool) {
		return 2 * time.Millisecond, on.Kind == PathTCP || udp
	}
	w.introduce()
	for i, e := range w.end {
		e.SetTCP(w.now, true)
		w.pump(i)
	}
	w.traffic(0, 50*time.Millisecond)
	w.traffic(1, 50*time.Millisecond)
	w.run(10 * time.Second)
	for i, e := range w.end {
		if best, _ := e.Best(); best.Kind != PathTCP || !e.Up() {
			t.Fatalf("end %d: %v", i, e.log)
		}
		if rtt, _ := e.Cost(); rtt != 29*time.Millisecond {
			t.Errorf("end %d: cost %v, not 4 ms and the penalty", i, rtt)
		}
	}
	udp = true
	w.run(61 * time.Second)
	for i, e := range w.end {
		if best, _ := e.Best(); best.Kind != PathDirect || !e.Up() {
			t.Fatalf("end %d: not back on UDP: %v", i, e.log)
		}
	}
	before := [2]int{len(w.end[0].log), len(w.end[1].log)}
	udp = false
	w.run(2 * time.Second)
	for i, e := range w.end {
		if best, _ := e.Best(); best.Kind != PathTCP || !e.Up() {
			t.Errorf("end %d: not on TCP 2 s after UDP ended: %v", i, e.log)
		}
		for _, l := range e.log[before[i]:] {
			if !strings.HasSuffix(l, " up") {
				t.Errorf("end %d: the link went down in between: %v", i, e.log[before[i]:])
			}
		}
	}
}

// A peer whose address changes is followed when the new address has answered, and not
// on the word of a datagram alone.
func TestPathsRoaming(t *testing.T) {
	w := newPathsWorld(t, 8)
	w.introduce()
	w.run(time.Second)
	w.traffic(0, 20*time.Millisecond)
	w.traffic(1, 20*time.Millisecond)
	w.run(5 * time.Second)

	// A datagram diverted by somebody in between: its address never answers.
	fake := DirectPath(worldAddr("192.0.2.66:666"))
	real := w.delay
	w.delay = func(from int, on Path) (time.Duration, bool) {
		if on.Remote.Addr() == fake.Remote.Addr() {
			return 0, false
		}
		return real(from, on)
	}
	e := w.end[0]
	logged := len(e.log)
	e.probes = nil
	for i := range 500 {
		e.Heard(w.now, DirectPath(netip.AddrPortFrom(fake.Remote.Addr(), uint16(600+i%100))))
		w.pump(0)
		w.run(10 * time.Millisecond)
		if n := len(e.Status()); n > 1+maxLearnt {
			t.Fatalf("%d addresses are probed for datagrams that anybody can have diverted", n-1)
		}
	}
	if n := len(e.probes); n > 5*3*maxLearnt+30 {
		t.Errorf("%d probes for diverted datagrams in 5 s", n)
	}
	w.run(5 * time.Second)
	if len(e.log) != logged {
		t.Errorf("moved: %v", e.log[logged:])
	}
	if slices.ContainsFunc(e.Status(), func(s PathStatus) bool { return s.Remote.Addr() == fake.Remote.Addr() && s.Up }) {
		t.Error("the address that never answered counts as up")
	}

	// The peer really moves.
	w.delay = func(from int, on Path) (time.Duration, bool) {
		if from == 0 && on.Remote == worldAddr("10.0.0.2:6783") {
			return 0, false
		}
		return real(from, on)
	}
	w.end[1].addr = worldAddr("10.9.9.9:1024")
	w.run(time.Second)
	if best, _ := e.Best(); best != DirectPath(w.end[1].addr) || !e.Up() {
		t.Errorf("1 s after the move: %v", e.log[logged:])
	}
	if s := e.states(logged); s != "udp 10.9.9.9:1024 up" {
		t.Errorf("states in between: %s", s)
	}
}

// A process that slept does not take its own sleep for its peers' death.
func TestPathsLateTick(t *testing.T) {
	w := newPathsWorld(t, 9)
	w.introduce()
	w.run(time.Second)
	w.traffic(0, 20*time.Millisecond)
	w.traffic(1, 20*time.Millisecond)
	w.run(5 * time.Second)
	e := w.end[0]
	logged := len(e.log)
	// It falls asleep when four probes are on their way, and only these are lost.
	whole := w.delay
	w.delay = func(int, Path) (time.Duration, bool) { return 0, false }
	w.run(850 * time.Millisecond)
	e.paused = true
	w.delay = whole
	w.run(30 * time.Second)
	e.paused = false
	e.Tick(w.now)
	w.pump(0)
	w.run(3 * time.Second)
	if len(e.log) != logged {
		t.Errorf("asleep with probes on their way: %v", e.log[logged:])
	}
	e.held = nil
	for range 20 {
		e.paused = true
		w.run(30 * time.Second)
		e.paused = false
		// What comes first after a pause is the timer, or what the kernel has kept.
		e.Tick(w.now)
		w.pump(0)
		e.held = nil
		w.run(3 * time.Second)
	}
	if len(e.log) != logged {
		t.Errorf("the sleeper's view changed: %v", e.log[logged:])
	}
}

// Loss is not death: ten minutes at 20 % each way, busy and idle.
func TestPathsUnderLoss(t *testing.T) {
	for _, busy := range []bool{true, false} {
		downs := 0
		for seed := range uint64(10) {
			w := newPathsWorld(t, 100+seed)
			w.introduce()
			w.run(2 * time.Second)
			if busy {
				w.traffic(0, 100*time.Millisecond)
			}
			// Loss grows in a while, so that it can be learnt.
			loss := 0.0
			w.delay = func(int, Path) (time.Duration, bool) { return 5 * time.Millisecond, w.random.Float64() >= loss }
			w.run(10 * time.Second)
			loss = 0.05
			w.run(5 * time.Minute)
			loss = 0.2
			w.run(10 * time.Minute)
			for _, e := range w.end {
				for _, l := range e.log[2:] {
					if !strings.HasSuffix(l, "up") {
						downs++
					}
				}
			}
		}
		if downs > 2 {
			t.Errorf("busy %v: %d times down in 100 min of 20 %% loss", busy, downs)
		}
	}
}

// A cheaper path is taken, not at once and not for little; a dead one is left quickly.
func TestPathsChoice(t *testing.T) {
	w := newPathsWorld(t, 10)
	second := [2]netip.AddrPort{worldAddr("10.1.0.1:6783"), worldAddr("10.1.0.2:6783")}
	rtt := map[string]time.Duration{"10.0": 20 * time.Millisecond, "10.1": 19 * time.Millisecond}
	dead := ""
	w.delay = func(from int, on Path) (time.Duration, bool) {
		net := on.Remote.String()[:4]
		return rtt[net] / 2, dead == "" || !strings.HasPrefix(net, dead)
	}
	e := w.end[0]
	answer := func() {
		for _, probe := range e.Probes() {
			if d, ok := w.delay(0, probe.Path); ok {
				w.after(2*d, func() {
					e.answered[probe.Path] = true
					e.Answered(w.now, probe.Path, probe.ID, true)
				})
			}
		}
	}
	run := func(d time.Duration) {
		for until := w.now.Add(d); w.now.Before(until); w.now = w.now.Add(time.Millisecond) {
			due := w.queue
			w.queue = nil
			for _, ev := range due {
				if ev.at.After(w.now) {
					w.queue = append(w.queue, ev)
				} else {
					ev.do()
				}
			}
			if at := e.Next(); !at.IsZero() && !at.After(w.now) {
				e.Tick(w.now)
			}
			answer()
			w.check(0)
		}
	}
	e.SetCandidates(w.now, []netip.AddrPort{worldAddr("10.0.0.2:6783"), second[1]})
	run(5 * time.Second)
	first, _ := e.Best()
	run(10 * time.Minute)
	if best, _ := e.Best(); best != first {
		t.Errorf("changed from %v to %v for 1 ms", first, best)
	}
	rtt["10.0"], rtt["10.1"] = 30*time.Millisecond, 30*time.Millisecond
	other := "10.1"
	if strings.HasPrefix(first.Remote.String(), "10.1") {
		other = "10.0"
	}
	rtt[other] = 5 * time.Millisecond
	run(5 * time.Minute)
	best, _ := e.Best()
	if best == first {
		t.Errorf("stays with %v at 30 ms beside 5 ms", first)
	}
	// The one in use dies under traffic.
	e.Sent(w.now)
	run(time.Second)
	dead = best.Remote.String()[:4]
	cut := w.now
	for {
		e.Sent(w.now)
		run(time.Millisecond)
		if b, _ := e.Best(); b == first {
			break
		}
		if !e.Up() || w.now.Sub(cut) > 600*time.Millisecond {
			t.Fatalf("not on the other path after %v", w.now.Sub(cut))
		}
	}
	t.Logf("on the other path after %v", w.now.Sub(cut))

	// Then both: the link does not last longer for having two dead paths.
	dead = ""
	for range 20000 {
		e.Sent(w.now)
		run(time.Millisecond)
	}
	if !slices.ContainsFunc(e.Status(), func(s PathStatus) bool { return s.Up && !s.Best }) {
		t.Fatal("the other path is not up again")
	}
	dead = "10."
	for cut = w.now; e.Up(); run(time.Millisecond) {
		e.Sent(w.now)
		if w.now.Sub(cut) > time.Second {
			t.Fatalf("up for %v with two dead paths", w.now.Sub(cut))
		}
	}
}

func TestPathsCandidates(t *testing.T) {
	w := newPathsWorld(t, 11)
	e := w.end[0]
	var many []netip.AddrPort
	for i := range 40 {
		many = append(many, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}), 6783))
	}
	many = append([]netip.AddrPort{{}, worldAddr("0.0.0.0:1"), worldAddr("224.0.0.1:1"), worldAddr("10.3.0.1:0"), worldAddr("[::ffff:10.2.0.0]:6783")}, many...)
	e.SetCandidates(w.now, many)
	status := e.Status()
	if len(status) != maxCandidates || status[0].Remote != worldAddr("10.2.0.0:6783") {
		t.Fatalf("%d kept: %v", len(status), status)
	}
	w.delay = func(int, Path) (time.Duration, bool) { return 0, false }
	w.run(10 * time.Minute)
	if n := len(e.probes); n > 16*(3+15) {
		t.Errorf("%d probes in 10 min to 16 dead addresses", n)
	}
	// Lists that change all the time do not make it probe without end: check counts.
	for i := range 100 {
		e.SetCandidates(w.now, many[5+i%20:][:16])
		w.pump(0)
		w.run(20 * time.Millisecond)
	}
	e.SetCandidates(w.now, nil)
	if len(e.Status()) != 0 || !e.Next().IsZero() {
		t.Errorf("left: %v, due %v", e.Status(), e.Next())
	}
}

// Whatever happens, the rules of check hold; and when the network is whole again both
// ends come up by themselves.
func TestPathsRandom(t *testing.T) {
	for seed := range uint64(40) {
		w := newPathsWorld(t, 1000+seed)
		r := w.random
		loss := [2]float64{}
		tcp := true
		slow := time.Duration(0)
		w.delay = func(from int, on Path) (time.Duration, bool) {
			d := time.Millisecond + slow + time.Duration(r.Int64N(int64(5*time.Millisecond)))
			if on.Kind == PathTCP {
				return d, tcp
			}
			if on.Remote != w.end[1-from].addr {
				return 0, false
			}
			return d, r.Float64() >= loss[from]
		}
		w.introduce()
		for range 60 {
			i := r.IntN(2)
			e := w.end[i]
			switch r.IntN(11) {
			case 0:
				loss[i] = []float64{0, 0, 0.1, 0.5, 1}[r.IntN(5)]
			case 1:
				tcp = r.IntN(2) == 0
				for i, e := range w.end {
					e.SetTCP(w.now, tcp)
					w.pump(i)
				}
			case 2:
				w.end[i].addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 5, byte(i), byte(r.IntN(8))}), 6783)
			case 3:
				e.Heard(w.now, DirectPath(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(256))}), 9)))
				w.pump(i)
			case 4:
				e.Sent(w.now)
				w.pump(i)
			case 5:
				e.Answered(w.now, DirectPath(w.end[1-i].addr), r.Uint64(), true)
				w.pump(i)
			case 6:
				e.Tick(w.now.Add(-time.Second))
				w.pump(i)
			case 7:
				e.paused = true
				w.run(time.Duration(r.Int64N(int64(10 * time.Second))))
				e.paused = false
				for _, do := range e.held {
					do()
				}
				e.held = nil
				e.Tick(w.now)
				w.pump(i)
			case 8:
				slow = time.Duration(r.Int64N(int64(300 * time.Millisecond)))
			case 9:
				e.SetCandidates(w.now, []netip.AddrPort{w.end[1-i].addr, worldAddr("203.0.113.9:6783")})
				w.pump(i)
			}
			w.run(time.Duration(r.Int64N(int64(3 * time.Second))))
		}
		loss, slow = [2]float64{}, 0
		w.introduce()
		w.run(70 * time.Second)
		for i, e := range w.end {
			if best, _ := e.Best(); !e.Up() || best.Kind != PathDirect {
				t.Fatalf("seed %d: end %d is not up over UDP at the end: %v", seed, i, e.log[max(0, len(e.log)-5):])
			}
		}
	}
}

func TestPathsSameInputSameOutput(t *testing.T) {
	trace := func() string {
		w := newPathsWorld(t, 12)
		w.introduce()
		w.traffic(0, 30*time.Millisecond)
		w.delay = func(int, Path) (time.Duration, bool) { return 3 * time.Millisecond, w.random.Float64() > 0.3 }
		w.run(2 * time.Minute)
		return fmt.Sprint(w.end[0].log, w.end[1].log, w.end[0].probes)
	}
	if a, b := trace(), trace(); a != b {
		t.Error("two runs differ")
	}
}
