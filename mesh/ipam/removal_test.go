package ipam

import (
	"slices"
	"testing"
	"time"
)

// TestRemovalOfManyBlocks: a host that had nearly all of the widest default range is
// removed. All have the same map soon after, and the host that comes back learns it,
// and says once what it lost.
func TestRemovalOfManyBlocks(t *testing.T) {
	c := newCrowd(t, 5, DefaultRange.String())
	victim, taker := c.hosts[0], c.hosts[1]
	victim.m.Start(c.now)
	c.until("all have a share", time.Minute, func() bool {
		return !slices.ContainsFunc(c.hosts, func(h *crowdHost) bool { return len(h.m.own) == 0 })
	})
	c.until("all maps are equal", time.Minute, c.equal)
	c.end(victim)
	c.now = c.now.Add(61 * time.Second)
	c.meet()
	taker.ends = nil
	began := time.Now()
	taker.m.Remove(c.now, victim.id.Name(), false)
	c.until("the blocks are taken over", 10*time.Second, func() bool { return len(taker.ends) > 0 })
	if taker.ends[0] != nil {
		t.Fatal(taker.ends[0])
	}
	c.until("all maps are equal", 10*time.Second, c.equal)
	t.Logf("%d of %d blocks are moved; that took five hosts %v in all", len(victim.m.own), victim.m.lay.blocks, time.Since(began))

	began = time.Now()
	c.back(victim)
	c.until("the victim has the same map", 10*time.Second, func() bool { return len(victim.m.own) == 0 && c.equal() })
	t.Logf("that took %v", time.Since(began))
	lost := slices.DeleteFunc(victim.events, func(e Event) bool { return e.Kind != EventLost })
	if len(lost) == 0 || len(lost) > 100 {
		t.Errorf("%d events of lost blocks", len(lost))
	}
}
