package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"ripstop/integration/lab"
)

// What a host costs that has nothing to carry.
const (
	idlePeers  = 20
	idleSettle = 20 * time.Second // after all reach each other: sizes, trains and gossip are done
	idleTime   = time.Minute
	idleMost   = 0.02 // of a processor; the goal is a quarter of it, where not all hosts are on one machine
)

// TestIdle: a host with 20 idle peers, each with an idle container, costs next to nothing.
// It prints what; -long because it takes two minutes, most of them waiting.
func TestIdle(t *testing.T) {
	if !*long {
		t.Skip("it waits a minute and a half: -long")
	}
	var hosts []string
	for n := range idlePeers + 1 {
		hosts = append(hosts, fmt.Sprintf("h%02d", n))
	}
	s := tell(t, lab.Config{Hosts: hosts, Containers: 1, Links: []lab.LinkConfig{{Hosts: hosts}}})
	for i, h := range hosts {
		s.up(h, lab.StartConfig{Peers: hosts[:min(i, 3)]})
	}
	s.reach(hosts...)
	var containers []string
	for _, h := range hosts {
		containers = append(containers, h+"1")
	}
	s.attach(containers...)
	s.known(len(containers))
	time.Sleep(idleSettle)
	before := make([]time.Duration, len(hosts))
	for i, h := range hosts {
		before[i] = s.ran(h)
	}
	time.Sleep(idleTime)
	var shares []float64
	for i, h := range hosts {
		shares = append(shares, 100*(s.ran(h)-before[i]).Seconds()/idleTime.Seconds())
	}
	slices.Sort(shares)
	n := len(shares)
	t.Logf("%d links a host; a daemon uses %.2f %% of a processor (%.2f-%.2f)", len(s.links(hosts[0])), shares[n/2], shares[0], shares[n-1])
	if shares[n/2] > 100*idleMost {
		t.Errorf("that is more than %.0f %%", 100*idleMost)
	}
}

// ran is for how long a host's daemon has had a processor, by the scheduler's own count:
// the ticks of /proc/PID/stat are too coarse here.
func (s *story) ran(host string) (total time.Duration) {
	s.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.Host(host).Daemon().PID()))
	if err != nil || len(threads) == 0 {
		s.Fatalf("%s: no threads, %v", host, err)
	}
	for _, name := range threads {
		text, err := os.ReadFile(name)
		if err != nil {
			s.Fatal(err)
		}
		var ns int64
		if _, err := fmt.Sscan(string(text), &ns); err != nil {
			s.Fatalf("%s: %v", name, err)
		}
		total += time.Duration(ns)
	}
	return total
}
