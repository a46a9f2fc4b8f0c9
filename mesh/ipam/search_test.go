package ipam

import (
	"flag"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ripstop/crypto"
)

// The search tries every order of what can happen to three real machines with four
// blocks of one address: messages are delivered or not, once or twice, in any order;
// a write ends or the host crashes before; one host is cut off for a while; hosts
// compare maps. After each action no address may have two holders and no record may
// fall; where a branch ends, all faults end, and all maps must be equal.

// situation is one node of the search.
type situation struct {
	now      time.Time
	ms       []*Machine
	sums     []uint64 // their hashes, 0: not known
	disks    [][]byte
	saving   []*Ready
	listed   []bool
	messages []*flying
	work     map[netip.Addr][]holderOf // who was told that it has an address
	dead     int                       // host that is gone, -1: none
	cutOff   int                       // host that reaches nobody, -1: none
	crashes  int                       // that may still happen
	cuts     int
	leaps    int    // times that a minute may pass
	ops      uint32 // operations that are still to come
	places   []map[uint32]simPlace
	path     []string
}

type holderOf struct {
	host int
	id   string
}

type flying struct {
	from, to int
	bytes    []byte
	left     int // deliveries that may still happen
}

// scenario is where a search begins and what is done in it.
type scenario struct {
	name                 string
	crashes, cuts, leaps int
	depth                int
	lazy                 int  // the host whose writes take time, -1: none; what the others write is durable at once
	older                bool // the crash may also put an old disk back
	begin                func(*search, *situation)
	ops                  []func(*situation)
	excuse               bool // an assertion may be wrong: clashes only until all have met
}

var searchFlag = flag.Int("search", 2000, "situations of each scenario of the search; 60000 goes through most of them wholly")

type search struct {
	bug    bug
	sc     *scenario
	limit  int // situations
	seen   map[uint64]int
	err    error
	at     int
	ends   int
	depth  int      // of this round
	old    [][]byte // disks at the beginning
	hooks  *hooks
	random *rand.Rand
}

type zeroSource struct{}

func (zeroSource) Uint64() uint64 { return 0 }

var searchRange = netip.MustParsePrefix("10.9.0.0/30")

func (s *search) config(i int) Config {
	return Config{Identity: simIdentities[i], UID: crypto.UID(i + 1), Random: s.random, Range: searchRange}
}

func (s *search) fail(x *situation, format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("%s, after %s", fmt.Sprintf(format, args...), strings.Join(x.path, ", "))
	}
}

func (x *situation) copy() *situation {
	c := *x
	c.ms, c.sums = slices.Clone(x.ms), slices.Clone(x.sums) // machines are shared until own
	c.disks, c.saving, c.listed = slices.Clone(x.disks), slices.Clone(x.saving), slices.Clone(x.listed)
	c.messages = nil
	for _, f := range x.messages {
		g := *f
		c.messages = append(c.messages, &g)
	}
	c.work = make(map[netip.Addr][]holderOf)
	for a, l := range x.work {
		c.work[a] = slices.Clone(l)
	}
	c.places = nil
	for _, p := range x.places {
		c.places = append(c.places, maps.Clone(p))
	}
	c.path = slices.Clone(x.path)
	return &c
}

// own makes host i a machine of this situation alone.
func (x *situation) own(list ...int) {
	for _, i := range list {
		x.ms[i], x.sums[i] = cloneMachine(x.ms[i]), 0
	}
}

func (x *situation) hash() uint64 {
	h := fnv.New64a()
	for i, m := range x.ms {
		if x.sums[i] == 0 {
			x.sums[i] = stateHash(m)
		}
	}
	fmt.Fprint(h, x.sums, x.now.Sub(simEpoch), x.cutOff, x.crashes, x.cuts, x.leaps, x.ops, x.listed)
	for _, f := range x.messages {
		fmt.Fprint(h, f.from, f.to, f.left)
		h.Write(f.bytes)
	}
	for i, r := range x.saving {
		h.Write(x.disks[i])
		fmt.Fprint(h, r != nil)
	}
	for _, a := range sortedAddrs(x.work) {
		fmt.Fprint(h, a, x.work[a])
	}
	return h.Sum64()
}

func (x *situation) meets(a, b int) bool {
	return a != b && x.dead != a && x.dead != b && x.cutOff != a && x.cutOff != b
}

func (x *situation) peers(i int) {
	var names []crypto.Name
	for j, m := range x.ms {
		if x.meets(i, j) {
			names = append(names, m.self)
		}
	}
	slices.SortFunc(names, crypto.Name.Compare)
	x.ms[i].Peers(x.now, names, names)
}

// pump collects what a machine wants; a save waits for its own action.
func (s *search) pump(x *situation, i int) {
	m := x.ms[i]
	for x.saving[i] == nil {
		r := m.Ready(x.now)
		if r.Empty() {
			break
		}
		if (r.Save != nil || r.Snapshot != nil) && s.sc.lazy != i {
			if r.Snapshot != nil {
				x.disks[i] = nil
			}
			x.disks[i] = journalAfter(x.disks[i], &r)
			m.Done(x.now, nil)
			s.release(x, i, &r)
			continue
		}
		if r.Save == nil && r.Snapshot == nil {
			s.release(x, i, &r)
			continue
		}
		if s.bug == bugSendBeforeSave {
			s.release(x, i, &r)
		}
		x.saving[i] = &r
	}
}

func (s *search) release(x *situation, i int, r *Ready) {
	for _, q := range r.Send {
		to := slices.IndexFunc(x.ms, func(m *Machine) bool { return m.self == q.To })
		same := func(f *flying) bool { return f.from == i && f.to == to && string(f.bytes) == string(q.Bytes) }
		if to >= 0 && !slices.ContainsFunc(x.messages, same) && len(x.messages) < 12 {
			x.messages = append(x.messages, &flying{i, to, q.Bytes, 2})
		}
	}
	for _, a := range r.Answers {
		if a.Err == nil && a.Addr.IsValid() {
			h := holderOf{i, fmt.Sprint("w", a.Request&0xff)}
			if e := x.ms[i].entries[a.Addr.Addr()]; e != nil && e.id != "" {
				h.id = e.id
			}
			if !slices.Contains(x.work[a.Addr.Addr()], h) {
				x.work[a.Addr.Addr()] = append(x.work[a.Addr.Addr()], h)
			}
		}
	}
}

// write ends a save that waits.
func (s *search) write(x *situation, i int) {
	r := x.saving[i]
	x.saving[i] = nil
	if r.Snapshot != nil {
		x.disks[i] = slices.Clone(r.Snapshot)
	} else {
		x.disks[i] = append(slices.Clone(x.disks[i]), r.Save...)
	}
	x.ms[i].Done(x.now, nil)
	if s.bug != bugSendBeforeSave {
		s.release(x, i, r)
	}
	s.pump(x, i)
}

// crash restarts a host from its disk; what is attached stays.
func (s *search) crash(x *situation, i int) {
	x.saving[i], x.listed[i] = nil, false
	var m *Machine
	var err error
	if x.disks[i] == nil {
		m, err = newMachine(s.config(i), s.hooks, x.now)
	} else {
		m, err = restore(s.config(i), s.hooks, x.now, x.disks[i])
	}
	if err != nil {
		s.fail(x, "host %d does not start: %v", i, err)
		return
	}
	for _, id := range simIdentities[:3] {
		m.know(id.Public())
	}
	old := x.ms[i]
	x.ms[i] = m
	x.peers(i)
	if t := old.statements[old.self]; t != nil {
		m.Targets(x.now, t.targets, nil)
	}
	s.pump(x, i)
}

func (s *search) list(x *situation, i int) {
	var have []Attached
	for _, a := range sortedAddrs(x.work) {
		for _, h := range x.work[a] {
			if h.host == i {
				have = append(have, Attached{h.id, netip.PrefixFrom(a, 30)})
			}
		}
	}
	x.listed[i] = true
	x.ms[i].Listed(x.now, have)
	s.pump(x, i)
}

func (s *search) sync(x *situation, from, to int) bool {
	delta := x.ms[from].Delta(x.ms[to].Digest())
	if len(delta) == 0 {
		return false
	}
	x.ms[to].Merge(x.now, x.ms[from].self, delta)
	s.pump(x, to)
	return true
}

func (s *search) tick(x *situation, d time.Duration) {
	x.now = x.now.Add(d)
	for i := range x.ms {
		if i != x.dead {
			x.peers(i)
			x.ms[i].Tick(x.now)
			s.pump(x, i)
		}
	}
}

// check: no address has two holders, no record falls.
func (s *search) check(x *situation, strict bool) {
	for a, list := range x.work {
		n := 0
		var who []holderOf
		for _, h := range list {
			if e := x.ms[h.host].entries[a]; h.host != x.dead && (e == nil || !e.fenced) {
				n++
				who = append(who, h)
			}
		}
		if n > 1 && (strict || !s.sc.excuse) {
			s.fail(x, "%v has the holders %v", a, who)
		}
	}
	var founders []crypto.Name
	for i, m := range x.ms {
		if m.genesis == nil {
			continue
		}
		if founders != nil && !slices.Equal(founders, m.genesis.founders) && slices.ContainsFunc(founders, func(n crypto.Name) bool { return slices.Contains(m.genesis.founders, n) }) {
			s.fail(x, "there are maps of %v and of %v", founders, m.genesis.founders)
		}
		founders = m.genesis.founders
		for b, r := range m.registers {
			if r.saved == nil || i == x.dead {
				continue
			}
			l := r.saved.last()
			if p, ok := x.places[i][b]; ok && compareHeads(l.term, l.num, r.saved.head(), p.term, p.num, p.hash) < 0 {
				s.fail(x, "host %d: block %d falls from (%d,%d) to (%d,%d)", i, b, p.term, p.num, l.term, l.num)
			}
			if l.take == nil && l.num >= 100 {
				s.fail(x, "host %d: block %d was taken without a term", i, b)
			}
			x.places[i][b] = simPlace{l.term, l.num, r.saved.head()}
		}
		for b := range x.places[i] {
			if m.registers[b] == nil && i != x.dead {
				s.fail(x, "host %d: block %d falls to its genesis", i, b)
			}
		}
	}
}

// settle ends all faults and lets all meet.
func (s *search) settle(x *situation) {
	s.ends++
	x.cutOff = -1
	for round := range 6 {
		for i := range x.ms {
			if i == x.dead {
				continue
			}
			if !x.listed[i] {
				s.list(x, i)
			}
			for x.saving[i] != nil {
				s.write(x, i)
			}
			for j := range x.ms {
				if x.meets(i, j) {
					s.sync(x, i, j)
					for x.saving[j] != nil {
						s.write(x, j)
					}
				}
			}
		}
		s.deliverAll(x)
		if round < 2 { // then what is under way comes to its end
			s.tick(x, 2*time.Second)
		}
	}
	s.check(x, true)
	for i, m := range x.ms {
		for j, o := range x.ms {
			if i == x.dead || j == x.dead || m.genesis == nil || o.genesis == nil || m.genesis.hash != o.genesis.hash {
				continue
			}
			for b := range m.lay.blocks {
				if _, _, h := m.place(b); h != second3(o.place(b)) {
					s.fail(x, "after all met, hosts %d and %d see block %d otherwise", i, j, b)
				}
			}
		}
	}
}

func second3(_, _ uint32, h hash) hash { return h }

// explore goes through all that can happen from x on.
func (s *search) explore(x *situation, depth int) {
	s.check(x, false)
	if s.err != nil || s.at >= s.limit {
		return
	}
	h := x.hash()
	if s.seen[h] >= depth+1 {
		return
	}
	s.seen[h] = depth + 1
	s.at++
	if depth == 0 {
		if s.depth == s.sc.depth { // the deepest round: its ends are settled
			x = x.copy()
			x.own(0, 1, 2)
			s.settle(x)
		}
		return
	}
	any := false
	try := func(name string, do func(*situation)) {
		if s.err != nil {
			return
		}
		c := x.copy()
		c.path = append(c.path, name)
		do(c)
		any = true
		s.explore(c, depth-1)
	}
	for k := range s.sc.ops {
		if x.ops>>k&1 == 1 {
			try(fmt.Sprint("operation ", k), func(c *situation) {
				c.own(0, 1, 2)
				c.ops &^= 1 << k
				s.sc.ops[k](c)
				for i := range c.ms {
					if i != c.dead {
						s.pump(c, i)
					}
				}
			})
		}
	}
	for i := range x.ms {
		if i == x.dead {
			continue
		}
		if x.saving[i] != nil {
			try(fmt.Sprint("write ", i), func(c *situation) { c.own(i); s.write(c, i) })
			if x.crashes > 0 {
				try(fmt.Sprint("crash ", i, " after the write"), func(c *situation) {
					c.own(i)
					c.crashes--
					c.disks[i] = journalAfter(c.disks[i], c.saving[i])
					s.crash(c, i)
				})
			}
		}
		if x.crashes > 0 {
			if s.sc.older && s.old[i] != nil {
				try(fmt.Sprint("crash to the old disk ", i), func(c *situation) {
					c.own(i)
					c.crashes--
					c.disks[i], c.places[i] = s.old[i], make(map[uint32]simPlace)
					s.crash(c, i)
				})
			}
			try(fmt.Sprint("crash ", i), func(c *situation) { c.own(i); c.crashes--; s.crash(c, i) })
		}
		if !x.listed[i] {
			try(fmt.Sprint("list ", i), func(c *situation) { c.own(i); s.list(c, i) })
		}
		for j := range x.ms {
			if x.meets(i, j) && len(x.ms[i].Delta(x.ms[j].Digest())) > 0 {
				try(fmt.Sprint(j, " hears the map of ", i), func(c *situation) { c.own(i, j); s.sync(c, i, j) })
			}
		}
		if x.cuts > 0 && x.cutOff < 0 {
			try(fmt.Sprint("cut off ", i), func(c *situation) { c.cuts--; c.cutOff = i })
		}
	}
	for k, f := range x.messages {
		if f.left > 0 && x.meets(f.from, f.to) {
			try(fmt.Sprintf("message %d from %d to %d", f.bytes[1], f.from, f.to), func(c *situation) {
				g := c.messages[k]
				c.own(g.to)
				g.left--
				c.ms[g.to].Step(c.now, c.ms[g.from].self, g.bytes)
				s.pump(c, g.to)
			})
		}
	}
	if x.cutOff >= 0 {
		try("heal", func(c *situation) { c.cutOff = -1 })
	}
	if x.leaps > 0 {
		try("a minute passes", func(c *situation) { c.own(0, 1, 2); c.leaps--; s.tick(c, 61*time.Second) })
	}
	if !any {
		x = x.copy()
		x.own(0, 1, 2)
		s.settle(x)
	}
}

func journalAfter(disk []byte, r *Ready) []byte {
	if r.Snapshot != nil {
		return slices.Clone(r.Snapshot)
	}
	return append(slices.Clone(disk), r.Save...)
}

func (s *search) run() {
	s.seen, s.hooks, s.random = make(map[uint64]int), fakeHooks(s.bug), rand.New(zeroSource{})
	x := &situation{now: simEpoch, work: make(map[netip.Addr][]holderOf), dead: -1, cutOff: -1,
		crashes: s.sc.crashes, cuts: s.sc.cuts, leaps: s.sc.leaps, ops: 1<<len(s.sc.ops) - 1}
	for i := range 3 {
		m, err := newMachine(s.config(i), s.hooks, x.now)
		if err != nil {
			panic(err)
		}
		for _, id := range simIdentities[:3] {
			m.know(id.Public())
		}
		x.ms, x.sums = append(x.ms, m), append(x.sums, 0)
		x.disks, x.saving, x.listed = append(x.disks, nil), append(x.saving, nil), append(x.listed, false)
		x.places = append(x.places, make(map[uint32]simPlace))
	}
	s.sc.begin(s, x)
	s.old = slices.Clone(x.disks)
	for s.depth = s.sc.depth % 3; ; s.depth += 3 { // short histories first
		y := x.copy()
		y.own(0, 1, 2)
		s.explore(y, s.depth)
		if s.depth == s.sc.depth || s.err != nil || s.at >= s.limit {
			break
		}
	}
}
