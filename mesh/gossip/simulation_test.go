package gossip

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

var (
	boundedFlag = flag.Int("bounded", 200, "hosts of the simulation with bounded degree")
	meshFlag    = flag.Int("fullmesh", 64, "hosts of the simulation in full mesh; 200 takes minutes on a busy machine")
	longFlag    = flag.Bool("long", false, "the death and return of a tenth also with more than 100 hosts")
)

// TestSimulation runs many whole control planes that join over one target,
// change, partition, heal, lose hosts and state, and must agree after each.
func TestSimulation(t *testing.T) {
	debug.SetGCPercent(400) // many small hosts share one heap
	t.Run("bounded degree", func(t *testing.T) { t.Parallel(); simulate(t, *boundedFlag, 16) })
	t.Run("full mesh", func(t *testing.T) { t.Parallel(); simulate(t, *meshFlag, 1<<20) })
}

func simulate(t *testing.T, n, fullMesh int) {
	if testing.Short() || raced {
		n = min(n, 40)
	}
	w := newWorld(t, 7)
	w.cfg.FullMesh = fullMesh
	wall := time.Now()
	report := func(what string, took time.Duration) {
		t.Logf("%-44s %6.1f s  %7d messages %9.1f KB a host  %4d connections  (wall %v)",
			what, took.Seconds(), w.messages, float64(w.bytes)/1024/float64(n), len(w.conns), time.Since(wall).Round(10*time.Millisecond))
		w.messages, w.bytes = 0, 0
		wall = time.Now()
	}
	for i := range n {
		h := w.add(fmt.Sprintf("h%d", i), true)
		if i > 0 {
			h.targets = w.hosts[:1]
			h.redial()
		}
	}
	w.run(2 * time.Second)
	report("all joined over one target", 2*time.Second+w.converge(60*time.Second))
	w.run(10 * time.Second)
	w.converge(60 * time.Second)
	report("and settled", 10*time.Second)

	w.run(60 * time.Second)
	report("idle for a minute", 60*time.Second)

	for _, h := range w.hosts {
		h.endpoint("c1", 1)
	}
	report("an endpoint on every host", w.converge(30*time.Second))
	w.hosts[1].endpoint("c2", 1)
	report("one endpoint", w.converge(30*time.Second))
	w.hosts[1].withdraw(KindEndpoint, "c2")
	report("one endpoint withdrawn", w.converge(30*time.Second))

	half := func(h *host) int { return h.index % 2 }
	w.partition(half)
	report("partition in halves", w.converge(60*time.Second))
	for _, h := range w.hosts {
		h.endpoint("c1", 2)
	}
	w.run(20 * time.Second)
	report("changes in both halves", 20*time.Second+w.converge(30*time.Second))
	for _, h := range w.hosts {
		for _, x := range w.hosts {
			if o := h.origins[x.id.Name()]; half(h) != half(x) && (o == nil || o.alive) {
				t.Fatalf("%s holds %s of the other half for a member, or forgot it", h.nick, x.nick)
			}
		}
	}
	w.heal()
	w.run(time.Second)
	report("heal", time.Second+w.converge(60*time.Second))

	if n <= 100 || *longFlag {
		for _, h := range w.hosts[:n/10] {
			h.stop()
		}
		w.run(5 * time.Second)
		report("a tenth dies at once", 5*time.Second+w.converge(30*time.Second))
		for _, h := range w.hosts[:n/10] {
			h.boot()
		}
		w.run(time.Second)
		report("they return without state", time.Second+w.converge(60*time.Second))
		for _, h := range w.hosts {
			if _, there := h.Get(w.hosts[0].id.Name(), KindEndpoint, "c1"); there {
				t.Fatalf("%s still shows an endpoint of before the restart", h.nick)
			}
		}
	}

	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	st := w.hosts[n-1].Stats()
	t.Logf("one host holds %d records of %d origins, %.1f KB; the process %.1f MB for %d hosts; %d signatures checked, %d known to the shared cache",
		st.Records, st.Origins, float64(st.Bytes)/1024, float64(mem.HeapAlloc)/(1<<20), n, w.cache.Misses, w.cache.Hits)
	t.Logf("one host's counters: %+v", st)
	runtime.KeepAlive(w)
}
