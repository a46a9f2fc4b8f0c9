package transport

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// onePath is paths of one candidate, and the time at which it was told.
func onePath() (*Paths, Path, time.Time) {
	now := time.Unix(0, 0)
	p := NewPaths(PathsConfig{Random: rand.New(rand.NewPCG(1, 1))})
	at := netip.MustParseAddrPort("192.0.2.1:6783")
	p.SetCandidates(now, []netip.AddrPort{at})
	return p, DirectPath(at), now
}

// TestPathsFirstAnswersLate: a path whose first answer came late, and whose first
// probes met a peer that was not ready, is soon known for what it is.
func TestPathsFirstAnswersLate(t *testing.T) {
	p, path, now := onePath()
	answers := 0
	for end := now.Add(20 * time.Second); now.Before(end); now = now.Add(time.Millisecond) {
		if due := p.Next(); due.IsZero() || due.After(now) {
			continue
		}
		p.Tick(now)
		for _, probe := range p.Probes() {
			if probe.Pad > 0 || probe.Path != path {
				continue
			}
			if answers++; answers == 1 || answers == 4 {
				continue // the peer has no session yet, or makes another one
			}
			back := now.Add(300 * time.Microsecond)
			if answers == 2 {
				back = now.Add(180 * time.Millisecond)
			}
			p.Answered(back, path, probe.ID, true)
		}
	}
	rtt, loss := p.Cost()
	if rtt > 5*time.Millisecond || loss > 0 {
		t.Errorf("after %d probes the round trip is %v and the loss %.2f", answers, rtt, loss)
	}
}

// TestPathsLateAnswers: an answer that comes when it is not waited for any more takes the
// loss back; one that never comes stays a loss.
func TestPathsLateAnswers(t *testing.T) {
	for _, c := range []struct {
		name string
		late bool
		want float64
	}{{"late", true, 0}, {"never", false, 2}} {
		p, path, now := onePath()
		var missed []uint64
		probes := 0
		for ; probes < 24; now = now.Add(time.Millisecond) {
			p.Sent(now) // and nothing is heard but answers
			p.Tick(now)
			for _, probe := range p.Probes() {
				if probe.Pad > 0 || probe.Path != path {
					continue
				}
				if probes++; probes == 12 || probes == 13 {
					missed = append(missed, probe.ID)
					continue
				}
				p.Answered(now.Add(300*time.Microsecond), path, probe.ID, true)
			}
		}
		now = now.Add(forgetAfter)
		p.Tick(now)
		p.Probes()
		if _, loss := p.Cost(); loss < 0.05 {
			t.Fatalf("%s: two probes missed, and the loss is %.3f", c.name, loss)
		}
		if c.late {
			for _, id := range append(missed, missed...) {
				p.Answered(now, path, id, true)
			}
		}
		if q := p.find(path); int(q.loss()*float64(q.counted)+0.5) != int(c.want) {
			t.Errorf("%s: the loss is %.3f of %d", c.name, q.loss(), q.counted)
		}
	}
}

// TestPathsSlow: a path whose answers all come after they were given up has lost none, and
// is told of as what it has become.
func TestPathsSlow(t *testing.T) {
	p, path, now := onePath()
	type answer struct {
		at time.Time
		id uint64
	}
	var answers []answer
	back, began := time.Millisecond, now
	for end := now.Add(3 * time.Minute); now.Before(end); now = now.Add(10 * time.Millisecond) {
		if now.Sub(began) > time.Minute {
			back = 2500 * time.Millisecond
			p.Heard(now, path) // what the peer sends goes on coming
		}
		for len(answers) > 0 && !answers[0].at.After(now) {
			p.Answered(answers[0].at, path, answers[0].id, true)
			answers = answers[1:]
		}
		p.Tick(now)
		for _, probe := range p.Probes() {
			answers = append(answers, answer{now.Add(back), probe.ID})
		}
	}
	if rtt, loss := p.Cost(); rtt < 2*time.Second || loss > 0.1 {
		t.Errorf("the round trip is %v, the loss %.2f", rtt, loss)
	}
}

// TestPathsNoise: two paths that are the same but for what hosts take to wake up stay as
// they are chosen, and the round trip told of the one in use does not move.
func TestPathsNoise(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Unix(0, 0)
	p := NewPaths(PathsConfig{Random: random})
	p.SetCandidates(now, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:6783"), netip.MustParseAddrPort("[2001:db8::1]:6783")})
	type answer struct {
		at time.Time
		ProbeOut
	}
	var answers []answer
	var first Path
	changes, moved, ticks := 0, 0, 0
	began := now
	for ; now.Sub(began) < 6*time.Hour; now = now.Add(time.Millisecond) {
		for len(answers) > 0 && !answers[0].at.After(now) {
			p.Answered(answers[0].at, answers[0].Path, answers[0].ID, true)
			answers = answers[1:]
		}
		if due := p.Next(); due.IsZero() || due.After(now) {
			continue
		}
		ticks++
		p.Tick(now)
		for _, probe := range p.Probes() {
			if probe.Pad == 0 {
				late := time.Duration(random.ExpFloat64() * float64(time.Millisecond))
				answers = append(answers, answer{now.Add(300*time.Microsecond + late), probe})
			}
		}
		slices.SortFunc(answers, func(a, b answer) int { return a.at.Compare(b.at) })
		if now.Sub(began) < 5*time.Minute {
			continue // until there are figures
		}
		if best, _ := p.Best(); best != first {
			if first, changes = best, changes+1; changes > 1 {
				t.Logf("after %v: %v", now.Sub(began), best)
			}
		}
		if rtt, _ := p.Cost(); rtt > 1500*time.Microsecond {
			moved++
		}
	}
	if ticks > 6*60*60 { // one a second: probes alone are one in four
		t.Errorf("%d ticks in six hours", ticks)
	}
	if changes != 1 || moved > 10 { // what gossip tells has to last for ten seconds
		t.Errorf("the path changed %d times in six hours; its round trip was told to be above 1.5 ms %d times", changes-1, moved)
	}
}

// twoPaths is a world in which IPv4 takes 10 ms there and back, and IPv6 20 ms, after it
// has settled.
func twoPaths(t *testing.T, seed uint64, traffic bool) (w *pathsWorld, rtt4 *time.Duration) {
	w = newPathsWorld(t, seed)
	rtt4 = new(10 * time.Millisecond)
	w.delay = func(_ int, on Path) (time.Duration, bool) {
		if on.Remote.Addr().Is6() {
			return 10 * time.Millisecond, true
		}
		return *rtt4 / 2, *rtt4 > 0
	}
	for i, e := range w.end {
		e.SetCandidates(w.now, []netip.AddrPort{w.end[1-i].addr, w.end[1-i].addr6})
		w.pump(i)
		if traffic {
			w.traffic(i, 20*time.Millisecond)
		}
	}
	w.run(5 * time.Minute)
	for i, e := range w.end {
		if best, _ := e.Best(); !best.Remote.Addr().Is4() {
			t.Fatalf("end %d uses %v", i, best)
		}
	}
	return w, rtt4
}

// A path that becomes slow is left within a minute, in traffic too, in which the peer's
// probes say that all is well.
func TestPathsSlower(t *testing.T) {
	for seed := range uint64(4) {
		for _, traffic := range []bool{false, true} {
			w, rtt4 := twoPaths(t, seed, traffic)
			*rtt4 = 300 * time.Millisecond
			w.run(time.Minute)
			for i, e := range w.end {
				if best, _ := e.Best(); !best.Remote.Addr().Is6() {
					t.Errorf("with traffic %v end %d still uses the path of 300 ms beside one of 20 ms", traffic, i)
				}
			}
		}
	}
}

// A path that failed and comes back slow is not taken for what it was.
func TestPathsBackSlower(t *testing.T) {
	for seed := range uint64(4) {
		w, rtt4 := twoPaths(t, seed, seed%2 == 0)
		*rtt4 = 0
		w.run(time.Minute)
		*rtt4 = 300 * time.Millisecond
		logged := [2]int{len(w.end[0].log), len(w.end[1].log)}
		w.run(5 * time.Minute)
		for i, e := range w.end {
			if changes := e.log[logged[i]:]; len(changes) > 0 {
				t.Errorf("end %d: %v", i, changes)
			}
			if !slices.ContainsFunc(e.Status(), func(s PathStatus) bool { return s.Up && s.Remote.Addr().Is4() }) {
				t.Errorf("end %d: the path is not up again", i)
			}
		}
	}
}
