package ipam

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
)

// begin is when a workload has an address: property 1.
func (w *world) begin(k *workload) {
	for _, o := range w.live[k.addr] {
		if !o.fenced && !w.excused(k, o) {
			w.fail(1, "%v is given to %s on host %d, and %s on host %d has it", k.addr, k.id, k.host.i, o.id, o.host.i)
		}
	}
	w.live[k.addr] = append(w.live[k.addr], k)
}

// excused reports whether two holders may exist until their hosts meet: in a block
// that was taken on an operator's word, or that an old disk knew otherwise, or of two
// maps, or where one host is two.
func (w *world) excused(a, b *workload) bool {
	l, _ := newLayout(w.prefix)
	n, _ := l.block(a.addr)
	return w.tainted[n] || w.twofold || a.origin != b.origin
}

// taint excuses clashes in a block until the next quiet point.
func (w *world) taint(b uint32) { w.tainted[b] = true }

// follow sees which workloads are fenced now.
func (h *simHost) follow() {
	if h.m == nil {
		return
	}
	changed := make(map[netip.Addr]bool) // mostly none
	for a, k := range h.work {
		if e := h.m.entries[a]; k.fenced != (e != nil && e.fenced) {
			changed[a] = true
		}
	}
	for _, a := range sortedAddrs(changed) {
		k := h.work[a]
		k.fenced = !k.fenced
		if !k.fenced {
			for _, o := range h.w.live[a] {
				if o != k && !o.fenced && !h.w.excused(k, o) {
					h.w.fail(1, "%v is unfenced on host %d, and %s on host %d has it", a, h.i, o.id, o.host.i)
				}
			}
		}
	}
	if len(changed) > 0 {
		h.publish()
	}
}

// checkSurvived is property 4 and 6 at a start: what was acknowledged is there.
func (h *simHost) checkSurvived() {
	for _, a := range sortedAddrs(h.work) {
		e := h.m.entries[a]
		if h.work[a].older {
			continue
		}
		if e == nil || e.kind != kindUsed && e.kind != kindForeign || e.id != h.work[a].id {
			h.w.fail(4, "host %d: %v of %s was acknowledged and is not on its disk: %+v", h.i, a, h.work[a].id, e)
		}
	}
	h.checkPlaces()
}

// check looks at one host after each step: properties 2, 3, 6, 7, 13.
func (h *simHost) check() {
	m := h.m
	if m == nil || m.genesis == nil || h.w.err != nil {
		return
	}
	h.checkMaps()
	for a, e := range m.entries {
		b, inside := m.lay.block(a)
		own := inside && m.own[b] != nil
		if e.kind <= kindKept != own {
			h.w.fail(7, "host %d: %v is of kind %d, own block %v", h.i, a, e.kind, own)
		}
	}
	h.next++
	if h.next%16 == 0 {
		h.checkPlaces()
		h.checkSpace()
		h.checkRecords()
	}
	if h.next%128 == 0 {
		h.checkSize()
	}
}

// checkMaps: two maps have no founder in common, unless one lost its state.
func (h *simHost) checkMaps() {
	g, w := h.m.genesis, h.w
	if _, known := w.maps[g.hash]; known {
		return
	}
	for _, other := range w.maps {
		for _, n := range g.founders {
			if slices.Contains(other, n) && !w.lost {
				w.fail(3, "host %d has a map of %v while there is one of %v", h.i, g.founders, other)
			}
		}
	}
	w.maps[g.hash] = g.founders
}

// checkSpace: the words of a block say what its entries say.
func (h *simHost) checkSpace() {
	m := h.m
	if len(m.own) != len(m.ownOrder) || !slices.IsSorted(m.ownOrder) {
		h.w.fail(7, "host %d: %d own blocks, %d in order", h.i, len(m.own), len(m.ownOrder))
	}
	for b, o := range m.own {
		var busy uint64
		for i := range m.lay.size {
			if m.entries[m.lay.addr(b*m.lay.size+i)] != nil {
				busy |= 1 << i
			}
		}
		if busy != o.busy {
			h.w.fail(7, "host %d: block %d has entries %b and the word %b", h.i, b, busy, o.busy)
		}
		if m.owner(b) != m.self {
			h.w.fail(2, "host %d acts as the owner of block %d, which is %v's", h.i, b, m.owner(b))
		}
	}
	for b := range m.lay.blocks {
		n := m.owner(b)
		if n == m.self && m.own[b] == nil {
			h.w.fail(2, "host %d owns block %d and does not know", h.i, b)
		}
		if h.w.byName[n] == nil {
			h.w.fail(2, "block %d is owned by nobody: %v", b, n)
		}
	}
}

// checkPlaces: what was saved never falls, also across restarts.
func (h *simHost) checkPlaces() {
	m := h.m
	if m.genesis == nil {
		return
	}
	same := m.genesis.hash == h.lastMap // another map is another history
	h.lastMap = m.genesis.hash
	if !same {
		clear(h.places)
	}
	kept, had := 0, len(h.places)
	for b, r := range m.registers {
		if r.saved == nil {
			continue
		}
		l := r.saved.last()
		p := simPlace{l.term, l.num, r.saved.head()}
		old, ok := h.places[b]
		if ok {
			kept++
		}
		if ok && p == old {
			continue
		}
		if ok && compareHeads(p.term, p.num, p.hash, old.term, old.num, old.hash) < 0 {
			h.w.fail(6, "host %d: block %d was at (%d,%d) and is at (%d,%d)", h.i, b, old.term, old.num, p.term, p.num)
		}
		h.places[b] = p
	}
	if kept < had {
		h.w.fail(6, "host %d: %d of %d blocks that had moved are as the genesis has them", h.i, had-kept, had)
	}
}

// checkRecords: each record is made by its owner before, or by a takeover with its
// witnesses, upon a record that exists.
func (h *simHost) checkRecords() {
	m := h.m
	hk := fakeHooks(bugNone)
	for b, r := range m.registers {
		c := r.latest
		if h.w.ledger[c.head()] {
			continue
		}
		for i := range c.steps {
			s := &c.steps[i]
			before := c.hashBefore(i)
			g := recordHash(m.genesis.hash, b, s, before)
			if g != c.hashes[i] {
				h.w.fail(3, "host %d: block %d: a hash is wrong", h.i, b)
			}
			if h.w.ledger[g] {
				continue
			}
			known := before == m.genesis.record(m.lay, b) || h.w.ledger[before]
			if i > 0 && !known || i == 0 && !known && len(c.steps) < 2 && m.stats.Gaps == 0 && m.extra == 0 {
				h.w.fail(3, "host %d: block %d: a record follows on none", h.i, b)
			}
			if s.take == nil {
				if i > 0 && (s.num != c.steps[i-1].num+1 || s.term != c.steps[i-1].term) {
					h.w.fail(3, "host %d: block %d: step (%d,%d) follows on (%d,%d)", h.i, b, s.term, s.num, c.steps[i-1].term, c.steps[i-1].num)
				}
				if !hk.verify(c.ownerBefore(i), s.sig, stepLabel, g[:]) {
					h.w.fail(3, "host %d: block %d: step (%d,%d) is not signed by the owner before", h.i, b, s.term, s.num)
				}
			} else if !m.proves(s.take, b, s, before) {
				h.w.fail(3, "host %d: block %d: a takeover is not proven", h.i, b)
			}
			h.w.ledger[g] = true
		}
	}
}

// checkSize: 200 bytes a block that ever moved, 512 a peer.
func (h *simHost) checkSize() {
	m := h.m
	u := m.newBundler()
	for _, b := range sortedKeys(m.registers) {
		u.add(m.registers[b].latest)
	}
	limit := 200*len(m.registers) + 512*(len(h.w.hosts)+1)
	for t := range u.parts { // a removal costs its proof once
		limit += 350 + 40*len(t.entries)
	}
	if u.size() > limit {
		h.w.fail(13, "host %d: %d bytes for %d registers of %d hosts", h.i, u.size(), len(m.registers), len(h.w.hosts))
	}
}

// quiet lets faults end, everything up, and then all must agree: property 8, and
// property 1 without any excuse.
func (w *world) quiet() {
	w.loss, w.duplicate, w.slow, w.calm, w.busy = 0, 0, 0, true, false
	clear(w.cut)
	for _, h := range w.hosts {
		if h.paused {
			w.resume[h.i]()
		}
		h.paused, h.disk.Full = false, false
		w.endClone(h)
		h.up()
	}
	for range 4 { // an operator decides between two maps that are both in use
		w.runFor(20 * time.Second)
		for _, h := range w.hosts {
			if h.m != nil && h.m.met != nil && h.m.genesis != nil && bytes.Compare(h.m.met.hash[:], h.m.genesis.hash[:]) < 0 {
				h.pending[h.m.Adopt(w.now)] = &simRequest{kind: "adopt", made: w.now, deadline: w.now.Add(defaultDeadline)}
				h.pump()
			}
		}
	}
	w.runFor(50 * time.Second) // 10 rounds
	w.checkEqual()
	w.runFor(80 * time.Second) // what was refused is asked for again once
	w.checkEqual()
	if w.err != nil {
		return
	}
	for _, a := range sortedAddrs(w.live) {
		var holders []*workload
		for _, k := range w.live[a] {
			if !k.fenced && !k.host.destroyed {
				holders = append(holders, k)
			}
		}
		if len(holders) > 1 && holders[0].host.m != nil && holders[1].host.m != nil &&
			holders[0].host.m.genesis.hash == holders[1].host.m.genesis.hash {
			x, y := holders[0], holders[1]
			w.fail(1, "after all met, %v is on host %d (%s, %+v) and on host %d (%s, %+v)", a,
				x.host.i, x.id, x.host.m.entries[a], y.host.i, y.id, y.host.m.entries[a])
		}
	}
	w.checkLent()
	for i, h := range w.hosts {
		if h.m != nil && h.m.genesis != nil {
			h.checkJoin(rand.New(rand.NewPCG(uint64(w.steps), uint64(i)))) // not w.rng: this is no part of the history
			break
		}
	}
	for _, h := range w.hosts {
		for _, r := range h.pending {
			if w.now.Sub(r.deadline) > time.Second {
				w.fail(9, "host %d: %s was never answered", h.i, r.kind)
			}
		}
	}
	clear(w.tainted)
	w.twofold = false
}

// checkEqual: all have one map.
func (w *world) checkEqual() {
	var first *simHost
	for _, h := range w.hosts {
		if h.m == nil || h.m.genesis == nil {
			continue
		}
		if first == nil {
			first = h
		} else if h.m.genesis.hash != first.m.genesis.hash {
			w.fail(8, "hosts %d and %d have two maps", first.i, h.i)
			continue
		}
		for b := range h.m.lay.blocks {
			t1, n1, h1 := h.m.place(b)
			t2, n2, h2 := first.m.place(b)
			if h1 != h2 {
				w.fail(8, "hosts %d and %d see block %d at (%d,%d) and (%d,%d)", h.i, first.i, b, t1, n1, t2, n2)
			}
		}
		if h.m.groups != first.m.groups { // hints may be on their way
			w.fail(8, "hosts %d and %d have different digests", h.i, first.i)
		}
	}
}

// checkJoin is property 5: what a host knows, and knew, gives one map, in whatever order
// and however often it is heard.
func (h *simHost) checkJoin(random *rand.Rand) {
	var chains []*chain
	for _, b := range sortedKeys(h.m.registers) {
		c := h.m.held(b)
		for n := 1; n <= len(c.steps); n++ { // also what was true earlier
			chains = append(chains, &chain{block: b, prior: c.prior, before: c.before, steps: c.steps[:n], hashes: c.hashes[:n]})
		}
	}
	var first [digestGroups]uint64
	for order := range 3 {
		random.Shuffle(len(chains), func(i, j int) { chains[i], chains[j] = chains[j], chains[i] })
		cfg := Config{Identity: h.id, UID: 1, Random: random, Range: h.w.prefix}
		m, err := newMachine(cfg, fakeHooks(h.w.bug), simEpoch)
		if err != nil {
			h.w.fail(5, "%v", err)
			return
		}
		g := *h.m.genesis
		m.found(&g, true)
		for _, c := range append(slices.Clone(chains), chains...) {
			m.merge(h.name, c)
		}
		for _, r := range m.registers {
			m.showSaved(r.latest)
		}
		if order == 0 {
			first = m.groups
		} else if m.groups != first {
			h.w.fail(5, "host %d: two orders give two maps", h.i)
		}
	}
}

// checkLent: when all have met, what an owner notes as held is held, and what is
// held is noted: no address is lost.
func (w *world) checkLent() {
	for _, h := range w.hosts {
		if h.m == nil || h.m.genesis == nil {
			continue
		}
		for _, a := range sortedAddrs(h.m.entries) {
			e := h.m.entries[a]
			if e.kind == kindHeld {
				o := w.machineOf(e.holder)
				if o == nil {
					continue
				}
				if f := o.m.entries[a]; f == nil || f.kind != kindForeign {
					w.fail(7, "host %d notes %v as held by host %d, which does not have it: %+v", h.i, a, o.i, f)
				}
			}
			if e.kind == kindForeign && !e.fenced {
				b, _ := h.m.lay.block(a)
				if o := w.machineOf(h.m.owner(b)); o != nil {
					if f := o.m.entries[a]; f == nil || f.kind != kindHeld || f.holder != h.name {
						w.fail(7, "host %d has %v of host %d, which does not note it: %+v", h.i, a, o.i, f)
					}
				}
			}
		}
	}
}

func (w *world) machineOf(n crypto.Name) *simHost {
	for _, h := range w.byName[n] {
		if h.m != nil && h.m.cloned == 0 && !h.m.left {
			return h
		}
	}
	return nil
}

func freeHere(m *Machine, subnet netip.Prefix) bool {
	lo, hi := m.lay.usable(subnet)
	for b, o := range m.own {
		if o.frozen || !o.until.IsZero() {
			continue
		}
		for i := range m.lay.size {
			n := b*m.lay.size + i
			a := m.lay.addr(n)
			if _, there := m.cfg.Elsewhere(a); n >= lo && n < hi && m.entries[a] == nil && !there {
				return true
			}
		}
	}
	return false
}
