package gossip

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ripstop/crypto"
)

// world is many whole control planes in virtual time: states, connections with
// delay, dialling by State.Dial, links measured and damped. One goroutine.
type world struct {
	t      testing.TB
	now    time.Time
	start  time.Time
	random *rand.Rand
	cache  *Cache
	hosts  []*host
	byName map[crypto.Name]*host
	conns  map[[2]int]*conn
	cut    func(a, b *host) bool // true: they cannot reach each other
	events events
	serial uint64
	cfg    Config // MaxMembers, FullMesh and so on for new states

	messages, bytes uint64
	trace           func(from, to *host, message []byte)
	corrupt         func(from, to *host, message []byte) [][]byte // what arrives instead
}

type host struct {
	*State
	w       *world
	index   int
	nick    string
	id      *crypto.Identity
	uid     crypto.UID
	addr    netip.AddrPort
	up      bool
	dialing bool // links with whom Dial says
	targets []*host
	damping *Damping
	links   map[crypto.Name]time.Duration
	tick    time.Time // an event is there for then
	trying  map[crypto.Name]bool
	changes int
	shown   map[Change]bool // live records as Changed tells them
}

type conn struct {
	ends [2]*host
	open bool
	rtt  time.Duration
	last [2]time.Time // arrival of the last message in each direction
}

type event struct {
	at     time.Time
	serial uint64
	do     func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if !e[i].at.Equal(e[j].at) {
		return e[i].at.Before(e[j].at)
	}
	return e[i].serial < e[j].serial
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	old[len(old)-1] = event{}
	*e = old[:len(old)-1]
	return x
}

func newWorld(t testing.TB, seed uint64) *world {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	return &world{
		t: t, now: start, start: start,
		random: rand.New(rand.NewPCG(seed, 1)),
		cache:  NewCache(1 << 20),
		byName: make(map[crypto.Name]*host),
		conns:  make(map[[2]int]*conn),
		cut:    func(a, b *host) bool { return false },
	}
}

// identity makes the i-th host's keys, always the same.
func identity(t testing.TB, i int) *crypto.Identity {
	seed, err := crypto.NewSeed(&counting{uint64(i)})
	if err != nil {
		t.Fatal(err)
	}
	id, err := crypto.NewIdentity(seed)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// counting is a reader of bytes that depend on a number.
type counting struct{ n uint64 }

func (c *counting) Read(b []byte) (int, error) {
	clear(b)
	if len(b) < 8 {
		return 0, io.ErrShortBuffer
	}
	binary.BigEndian.PutUint64(b, c.n)
	return len(b), nil
}

func (w *world) add(nick string, dialing bool) *host {
	i := len(w.hosts)
	h := &host{w: w, index: i, nick: nick, dialing: dialing, id: identity(w.t, i+1)}
	h.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 6783)
	w.hosts = append(w.hosts, h)
	w.byName[h.id.Name()] = h
	h.boot()
	return h
}

// boot starts a host with nothing but its keys.
func (h *host) boot() {
	w := h.w
	h.up = true
	h.uid = crypto.UID(w.random.Uint64() | 1)
	cfg := w.cfg
	cfg.Identity, cfg.UID, cfg.Cache = h.id, h.uid, w.cache
	cfg.Random = rand.New(rand.NewPCG(w.random.Uint64(), 2))
	h.State = New(cfg, w.now)
	h.damping = NewDamping(DampingConfig{})
	h.links = make(map[crypto.Name]time.Duration)
	h.trying = make(map[crypto.Name]bool)
	h.shown = make(map[Change]bool)
	h.tick = time.Time{}
	body, err := PeerBody{
		Nickname: h.nick, UID: h.uid, Keys: h.id.Public(), Addresses: []netip.AddrPort{h.addr}, Software: "test",
	}.Append(nil)
	if err == nil {
		err = h.Publish(w.now, KindPeer, "", body)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	h.act()
	h.redial()
}

func (w *world) after(d time.Duration, do func()) {
	w.serial++
	heap.Push(&w.events, event{w.now.Add(d), w.serial, do})
}

// run lets d pass.
func (w *world) run(d time.Duration) {
	end := w.now.Add(d)
	for len(w.events) > 0 && !w.events[0].at.After(end) {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = end
}

// act does what the state wants done.
func (h *host) act() {
	w := h.w
	r := h.Ready()
	for _, c := range r.Changed {
		h.changes++
		key := c
		key.Deleted = false
		if c.Deleted {
			delete(h.shown, key)
		} else {
			h.shown[key] = true
		}
	}
	for _, m := range r.Messages {
		if len(m.Bytes) > MaxMessage {
			w.t.Errorf("message of %d bytes", len(m.Bytes))
		}
		to := w.byName[m.To]
		c := w.conns[pair(h, to)]
		if c == nil {
			w.t.Fatalf("message to %s without connection", to.nick)
		}
		w.send(c, h, to, m.Bytes)
	}
	if r.Members && h.dialing {
		h.redial()
	}
	h.schedule()
}

func (w *world) send(c *conn, from, to *host, b []byte) {
	w.messages++
	w.bytes += uint64(len(b))
	if w.trace != nil {
		w.trace(from, to, b)
	}
	state, toState := from.State, to.State
	w.after(5*time.Millisecond, func() {
		if c.open && from.State == state {
			from.Sent(to.id.Name())
			from.act()
		}
	})
	dir := 0
	if c.ends[0] != from {
		dir = 1
	}
	at := w.now.Add(c.rtt / 2)
	if at.Before(c.last[dir]) {
		at = c.last[dir]
	}
	c.last[dir] = at
	arriving := [][]byte{b}
	if w.corrupt != nil {
		arriving = w.corrupt(from, to, b)
	}
	w.after(at.Sub(w.now), func() {
		if !c.open || to.State != toState {
			return
		}
		for _, b := range arriving {
			if err := to.Step(w.now, from.id.Name(), b); err != nil && w.corrupt == nil {
				w.t.Errorf("%s: %v", to.nick, err)
			}
		}
		to.act()
	})
}

// schedule makes sure that Tick comes at Next.
func (h *host) schedule() {
	w := h.w
	next := h.Next()
	if d := h.damping.Next(); !d.IsZero() && d.Before(next) {
		next = d
	}
	if next.Before(w.now) {
		next = w.now
	}
	if !h.tick.IsZero() && !h.tick.After(next) {
		return
	}
	h.tick = next
	state := h.State
	w.after(next.Sub(w.now), func() {
		if h.State != state || !h.up || !h.tick.Equal(next) {
			return
		}
		h.tick = time.Time{}
		if d := h.damping.Next(); !d.IsZero() && !w.now.Before(d) {
			h.publishLinks()
		}
		h.Tick(w.now)
		h.act()
	})
}

func (h *host) publishLinks() {
	var list []LinkInfo
	for name, rtt := range h.links {
		list = append(list, LinkInfo{Peer: name, RTT: rtt, MTU: 1500, Path: 1})
	}
	if links, news := h.damping.Update(h.w.now, list); news {
		body, err := LinksBody{links}.Append(nil)
		if err == nil {
			err = h.Publish(h.w.now, KindLinks, "", body)
		}
		if err != nil {
			h.w.t.Fatal(err)
		}
	}
}

func pair(a, b *host) [2]int { return [2]int{min(a.index, b.index), max(a.index, b.index)} }

// redial tries to connect to whom Dial and targets name.
func (h *host) redial() {
	if !h.up {
		return
	}
	if h.dialing {
		peers := h.Dial(h.w.now)
		names := make([]crypto.Name, 0, len(peers))
		for name := range peers {
			names = append(names, name)
		}
		slices.SortFunc(names, crypto.Name.Compare)
		for _, name := range names {
			h.try(h.w.byName[name], 0)
		}
	}
	for _, t := range h.targets {
		h.try(t, 0)
	}
}

// try dials after a while, and again every 5 s until it is connected or nobody wants it.
func (h *host) try(to *host, failures int) {
	if to == h || h.trying[to.id.Name()] || h.w.conns[pair(h, to)] != nil {
		return
	}
	state := h.State
	h.trying[to.id.Name()] = true
	wait := time.Duration(20+h.w.random.IntN(80)) * time.Millisecond
	if failures > 0 {
		wait = min(5*time.Second, 200*time.Millisecond<<min(failures, 8))
		wait += time.Duration(h.w.random.Int64N(int64(wait / 5)))
	}
	h.w.after(wait, func() {
		if h.State != state || !h.up {
			return
		}
		h.trying[to.id.Name()] = false
		if h.w.conns[pair(h, to)] != nil {
			return
		}
		if to.up && !h.w.cut(h, to) {
			h.w.connect(h, to)
			return
		}
		wanted := slices.Contains(h.targets, to)
		if !wanted {
			_, wanted = h.Dial(h.w.now)[to.id.Name()]
		}
		if wanted {
			h.try(to, failures+1)
		}
	})
}

// connect makes a control connection; the link is up 50 ms later.
func (w *world) connect(a, b *host) {
	if w.conns[pair(a, b)] != nil {
		return
	}
	c := &conn{ends: [2]*host{a, b}, open: true, rtt: time.Duration(2+w.random.IntN(38)) * time.Millisecond}
	w.conns[pair(a, b)] = c
	for i, h := range c.ends {
		other := c.ends[1-i]
		h.NeighbourUp(w.now, other.id.Name(), other.id.Public())
		h.act()
		w.after(50*time.Millisecond, func() {
			if c.open {
				h.links[other.id.Name()] = c.rtt
				h.publishLinks()
				h.act()
			}
		})
	}
}

// disconnect breaks the connection; both ends notice at once.
func (w *world) disconnect(a, b *host) {
	c := w.conns[pair(a, b)]
	if c == nil {
		return
	}
	c.open = false
	delete(w.conns, pair(a, b))
	for i, h := range c.ends {
		other := c.ends[1-i]
		if !h.up {
			continue
		}
		h.NeighbourDown(w.now, other.id.Name())
		delete(h.links, other.id.Name())
		h.publishLinks()
		h.act()
		h.redial()
	}
}

// stop ends a host; start it again with boot.
func (h *host) stop() {
	h.up = false
	for _, o := range h.w.hosts {
		h.w.disconnect(h, o)
	}
}

// partition cuts every pair whose hosts side puts on different sides.
func (w *world) partition(side func(*host) int) {
	w.cut = func(a, b *host) bool { return side(a) != side(b) }
	for _, a := range w.hosts {
		for _, b := range w.hosts[a.index+1:] {
			if w.cut(a, b) {
				w.disconnect(a, b)
			}
		}
	}
}

func (w *world) heal() {
	w.cut = func(a, b *host) bool { return false }
}

// differences lists what hosts hold otherwise than its origin, among hosts that
// are up and on one side.
func (w *world) differences() []string {
	var list []string
	for _, h := range w.hosts {
		if !h.up {
			continue
		}
		for _, x := range w.hosts {
			if !x.up || w.cut(h, x) {
				continue
			}
			o := h.origins[x.id.Name()]
			switch {
			case o == nil:
				list = append(list, fmt.Sprintf("%s has nothing of %s", h.nick, x.nick))
			case o.complete() != x.own.complete() || o.hash() != x.own.hash():
				list = append(list, fmt.Sprintf("%s has %s at %d of %d", h.nick, x.nick, o.complete(), x.own.complete()))
			case !o.alive:
				list = append(list, fmt.Sprintf("%s holds %s dead", h.nick, x.nick))
			}
			if len(list) > 20 {
				return list
			}
		}
	}
	return list
}

// converge lets time pass until all agree, and returns how long that took.
func (w *world) converge(limit time.Duration) time.Duration {
	w.t.Helper()
	begin := w.now
	for {
		d := w.differences()
		if len(d) == 0 {
			return w.now.Sub(begin)
		}
		if w.now.Sub(begin) >= limit {
			w.t.Fatalf("not converged after %v: %v", limit, d)
		}
		w.run(100 * time.Millisecond)
	}
}

// endpoint publishes an endpoint record under a key.
func (h *host) endpoint(key string, claim uint64) {
	sum := idOf([]byte(key), crypto.Signature{})
	body, err := EndpointBody{
		MAC: [6]byte{2, sum[0], sum[1], sum[2], sum[3], sum[4]}, Claim: claim,
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 32, sum[5], sum[6]})},
	}.Append(nil)
	if err == nil {
		err = h.Publish(h.w.now, KindEndpoint, key, body)
	}
	if err != nil {
		h.w.t.Fatal(err)
	}
	h.act()
}

func (h *host) withdraw(kind Kind, key string) {
	h.Withdraw(h.w.now, kind, key)
	h.act()
}
