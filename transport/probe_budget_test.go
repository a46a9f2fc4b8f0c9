package transport

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// TestProbesOfAHost: 4000 peers, each with a path that answers, would be probed 800
// times a second. Never more than 500 are sent in a second, by asking the idle ones less
// often, and all alike; one that traffic leaves on and that falls silent is down as soon
// as if it were alone.
func TestProbesOfAHost(t *testing.T) {
	const peers, step = 4000, 10 * time.Millisecond
	random := rand.New(rand.NewPCG(1, 2))
	budget := new(ProbeBudget)
	all := make([]*Paths, peers)
	probed := make([]time.Time, peers)
	now := time.Unix(1e9, 0)
	for i := range all {
		all[i] = NewPaths(PathsConfig{Random: random, Budget: budget, Fragmenting: true})
		all[i].SetCandidates(now, []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 6783)})
	}
	var sent []time.Time
	dead := -1
	run := func(d time.Duration, each func()) {
		for until := now.Add(d); now.Before(until); now = now.Add(step) {
			each()
			for i, p := range all {
				if p.Next().IsZero() || p.Next().After(now) {
					continue
				}
				p.Tick(now)
				for _, probe := range p.Probes() {
					sent = append(sent, now)
					probed[i] = now
					if i != dead {
						p.Answered(now, probe.Path, probe.ID, true)
					}
				}
			}
			for len(sent) > 0 && now.Sub(sent[0]) >= time.Second {
				sent = sent[1:]
			}
			if len(sent) > MaxProbes {
				t.Fatalf("%d probes in a second", len(sent))
			}
		}
	}
	run(60*time.Second, func() {})
	for i, p := range all {
		if !p.Up() || now.Sub(probed[i]) > 25*time.Second {
			t.Fatalf("peer %d: up %v, asked %v ago", i, p.Up(), now.Sub(probed[i]))
		}
	}
	dead = 7
	died := now
	var down time.Duration
	run(2*time.Second, func() {
		all[dead].Sent(now)
		if down == 0 && !all[dead].Up() {
			down = now.Sub(died)
		}
	})
	if down == 0 || down > 1200*time.Millisecond {
		t.Errorf("the dead one was down after %v (0: never)", down)
	}
}
