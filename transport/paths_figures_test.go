package transport

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// TestPathsFirstAnswersLate: a path whose first answer came late, and whose first
// probes met a peer that was not ready, is soon known for what it is.
func TestPathsFirstAnswersLate(t *testing.T) {
	now := time.Unix(0, 0)
	p := NewPaths(PathsConfig{Random: rand.New(rand.NewPCG(1, 1))})
	at := netip.MustParseAddrPort("192.0.2.1:6783")
	p.SetCandidates(now, []netip.AddrPort{at})
	path := DirectPath(at)
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
			if answers++; answers == 1 {
				continue // the peer has no session yet
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
