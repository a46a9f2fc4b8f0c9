package ipam

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/gossip"
)

var hundredFlag = flag.Bool("hundred", false, "100 hosts with 100 000 addresses: memory, and how long maps take to be equal; a minute")

// crowd is many machines with real gossip between them, in steps of 50 ms: what is
// said in one is heard in the next. Nothing is lost, and disks are fast.
type crowd struct {
	t     *testing.T
	now   time.Time
	hosts []*crowdHost
	at    map[crypto.Name]*crowdHost
	bytes int // that gossip has sent
	asked int // messages between machines
}

type crowdHost struct {
	id    *crypto.Identity
	m     *Machine
	g     *gossip.State
	near  []crypto.Name
	gone  bool
	heard []said
	due   time.Time // the machine's next tick
	ends  []error   // of requests

	events []Event
}

type said struct {
	from   crypto.Name
	bytes  []byte
	gossip bool
}

// newCrowd makes n hosts, each linked to about twelve others.
func newCrowd(t *testing.T, n int, prefix string) *crowd {
	c := &crowd{t: t, now: simEpoch, at: make(map[crypto.Name]*crowdHost)}
	random := rand.New(rand.NewPCG(1, 2))
	source, cache := rand.NewChaCha8([32]byte{9}), gossip.NewCache(1<<16)
	for i := range n {
		seed, err := crypto.NewSeed(source)
		if err != nil {
			t.Fatal(err)
		}
		h := new(crowdHost)
		if h.id, err = crypto.NewIdentity(seed); err != nil {
			t.Fatal(err)
		}
		uid := crypto.UID(i + 1)
		h.m, err = newMachine(Config{Identity: h.id, UID: uid, Random: rand.New(rand.NewPCG(uint64(i), 3)), Range: netip.MustParsePrefix(prefix)}, fakeHooks(bugNone), c.now)
		if err != nil {
			t.Fatal(err)
		}
		h.g = gossip.New(gossip.Config{Identity: h.id, UID: uid, Random: rand.New(rand.NewPCG(uint64(i), 4)), Datasets: []gossip.Dataset{h.m}, Cache: cache}, c.now)
		c.hosts, c.at[h.id.Name()] = append(c.hosts, h), h
	}
	link := func(a, b *crowdHost) {
		if a != b && !slices.Contains(a.near, b.id.Name()) {
			a.near, b.near = append(a.near, b.id.Name()), append(b.near, a.id.Name())
		}
	}
	for i, h := range c.hosts {
		link(h, c.hosts[(i+1)%n])
		for range 5 {
			link(h, c.hosts[random.IntN(n)])
		}
	}
	for i, h := range c.hosts {
		for _, o := range c.hosts {
			h.m.know(o.id.Public())
		}
		var links []gossip.LinkInfo
		for _, name := range h.near {
			h.g.NeighbourUp(c.now, name, c.at[name].id.Public())
			links = append(links, gossip.LinkInfo{Peer: name, RTT: time.Millisecond, MTU: 1500, Path: 1})
		}
		peer, err := gossip.PeerBody{Nickname: fmt.Sprint("h", i), UID: h.m.cfg.UID, Keys: h.id.Public(), Software: "test"}.Append(nil)
		if err == nil {
			err = h.g.Publish(c.now, gossip.KindPeer, "", peer)
		}
		if err == nil {
			peer, err = gossip.LinksBody{Links: links}.Append(nil)
		}
		if err == nil {
			err = h.g.Publish(c.now, gossip.KindLinks, "", peer)
		}
		if err != nil {
			t.Fatal(err)
		}
		h.m.Listed(c.now, nil)
		h.m.Targets(c.now, []crypto.Name{c.hosts[0].id.Name()}, nil)
	}
	c.meet()
	return c
}

// meet tells each host who is there.
func (c *crowd) meet() {
	there := func(n crypto.Name) bool { return !c.at[n].gone }
	for _, h := range c.hosts {
		var near, all []crypto.Name
		for _, o := range c.hosts {
			if n := o.id.Name(); there(n) && o != h {
				all = append(all, n)
				if slices.Contains(h.near, n) {
					near = append(near, n)
				}
			}
		}
		h.m.Peers(c.now, near, all)
	}
}

// end takes a host away for good.
func (c *crowd) end(h *crowdHost) {
	h.gone = true
	for _, n := range h.near {
		o := c.at[n]
		o.g.NeighbourDown(c.now, h.id.Name())
		o.heard = slices.DeleteFunc(o.heard, func(s said) bool { return s.from == h.id.Name() })
	}
	c.meet()
}

// back brings it back.
func (c *crowd) back(h *crowdHost) {
	h.gone, h.heard = false, nil
	c.meet()
	for _, n := range h.near {
		o := c.at[n]
		o.g.NeighbourUp(c.now, h.id.Name(), h.id.Public())
		h.g.NeighbourDown(c.now, n)
		h.g.NeighbourUp(c.now, n, o.id.Public())
	}
}

// step lets 50 ms pass.
func (c *crowd) step() {
	c.now = c.now.Add(50 * time.Millisecond)
	var heard [][]said
	for _, h := range c.hosts {
		heard = append(heard, h.heard)
		h.heard = nil
	}
	for i, h := range c.hosts {
		if h.gone {
			continue
		}
		for _, s := range heard[i] {
			if err := c.hear(h, s); err != nil {
				c.t.Fatal(err)
			}
		}
		if !c.now.Before(h.due) {
			h.m.Tick(c.now)
		}
		h.g.Tick(c.now)
		c.act(h)
		if next := h.m.Next(); !c.now.Before(h.due) || next.Before(h.due) {
			h.due = next
		}
	}
}

func (c *crowd) hear(h *crowdHost, s said) error {
	if s.gossip {
		return h.g.Step(c.now, s.from, s.bytes)
	}
	return h.m.Step(c.now, s.from, s.bytes)
}

// act does what a host's machine and gossip want done.
func (c *crowd) act(h *crowdHost) {
	name := h.id.Name()
	for r := h.m.Ready(c.now); !r.Empty(); r = h.m.Ready(c.now) {
		h.m.Done(c.now, nil)
		h.events = append(h.events, r.Events...)
		c.asked += len(r.Send)
		for _, q := range r.Send {
			if o := c.at[q.To]; !o.gone {
				o.heard = append(o.heard, said{name, q.Bytes, false})
			}
		}
		for _, a := range append(r.Answers, r.Refusals...) {
			h.ends = append(h.ends, a.Err)
		}
		for _, d := range r.Announce {
			if err := h.g.Announce(c.now, datasetName, d); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	for _, q := range h.g.Ready().Messages {
		c.bytes += len(q.Bytes)
		if o := c.at[q.To]; !o.gone {
			o.heard = append(o.heard, said{name, q.Bytes, true})
		}
		h.g.Sent(q.To)
	}
}

// equal reports whether all hosts have the same registers.
func (c *crowd) equal() bool {
	var first *Machine
	for _, h := range c.hosts {
		if h.gone || first == nil && h.m.genesis == nil {
			continue
		}
		if first == nil {
			first = h.m
		}
		if h.m.genesis == nil || h.m.groups != first.groups {
			return false
		}
	}
	return first != nil
}

// until lets time pass until check holds, and says what that took.
func (c *crowd) until(what string, limit time.Duration, check func() bool) time.Duration {
	c.t.Helper()
	began, bytes, steps := c.now, c.bytes, 0
	for ; !check(); steps++ {
		if c.now.Sub(began) > limit {
			c.t.Fatalf("not within %v: %s", limit, what)
		}
		c.step()
	}
	c.t.Logf("%s after %v, %d steps; gossip sent %.1f MB a host", what, c.now.Sub(began), steps, float64(c.bytes-bytes)/1e6/float64(len(c.hosts)))
	return c.now.Sub(began)
}

// TestHundredHosts: 99 hosts join one that has the whole range and get their
// shares, each gives out 1000 addresses; then the first, which has the most blocks,
// is removed. What each of them holds stays under 20 MB.
func TestHundredHosts(t *testing.T) {
	if !*hundredFlag {
		t.Skip("run it by -hundred")
	}
	c := newCrowd(t, 100, "10.32.0.0/14") // 4096 blocks of 64 addresses
	first, taker := c.hosts[0], c.hosts[1]
	first.m.Start(c.now)
	c.until("all have a share", 5*time.Minute, func() bool {
		return !slices.ContainsFunc(c.hosts, func(h *crowdHost) bool { return len(h.m.own) == 0 })
	})
	c.until("all maps are equal", time.Minute, c.equal)
	first.ends = nil // the answer to Start
	asked := make([]int, len(c.hosts))
	c.until("100 000 addresses are given out", time.Minute, func() bool {
		all := true
		for i, h := range c.hosts {
			for asked[i] < 1000 && asked[i]-len(h.ends) < 16 {
				asked[i]++
				h.m.Allocate(c.now, Request{ID: fmt.Sprintf("container-%032d", asked[i])})
				c.act(h)
			}
			all = all && len(h.ends) == 1000
		}
		return all
	})
	c.until("all maps are equal", time.Minute, c.equal)
	who := make(map[netip.Addr]bool)
	for _, h := range c.hosts {
		if i := slices.IndexFunc(h.ends, func(err error) bool { return err != nil }); i >= 0 {
			t.Fatal(h.ends[i])
		}
		for a, e := range h.m.entries {
			if who[a] && e.kind != kindHeld {
				t.Errorf("%v is given out twice", a)
			}
			who[a] = who[a] || e.kind != kindHeld
		}
	}

	c.end(first)
	c.now = c.now.Add(61 * time.Second) // in silence; what others would say meanwhile matters to nobody
	c.meet()
	blocks := len(first.m.own)
	taker.ends = nil
	taker.m.Remove(c.now, first.id.Name(), false)
	c.until(fmt.Sprintf("%d blocks are taken over", blocks), 10*time.Second, func() bool { return len(taker.ends) > 0 })
	if taker.ends[0] != nil {
		t.Fatal(taker.ends[0])
	}
	c.until("all maps are equal", time.Minute, c.equal)

	heap := func() float64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return float64(s.HeapAlloc) / (1 << 20)
	}
	registers := len(taker.m.registers)
	for _, h := range c.hosts {
		h.g, h.heard = nil, nil
	}
	with := heap()
	for _, h := range c.hosts {
		h.m = nil
	}
	each := (with - heap()) / float64(len(c.hosts))
	runtime.KeepAlive(c)
	t.Logf("%.1f MB a host for %d registers and 1000 addresses", each, registers)
	if each > 20 {
		t.Errorf("%.1f MB a host, want 20", each)
	}
}
