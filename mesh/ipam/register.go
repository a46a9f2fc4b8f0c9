package ipam

import (
	"encoding/binary"
	"slices"
	"time"

	"ripstop/crypto"
)

const (
	digestGroups = 256
	gapWait      = 10 * time.Second // a chain with a gap that nobody else confirms waits as long
	maxGaps      = 1024
	maxProofs    = 64
)

// register holds a block's chain: the newest one, by which this host acts, and the
// newest one that is saved, which others are told.
type register struct{ latest, saved *chain }

// gap is a chain whose kept steps do not reach back to the record held here.
type gap struct {
	chain *chain
	since time.Time
	from  []crypto.Name
}

// proof is two different records with one place in a block's history.
type proof struct{ a, b *chain }

// held is the chain by which this host acts; nil before a block's first step.
func (m *Machine) held(b uint32) *chain {
	if r := m.registers[b]; r != nil {
		return r.latest
	}
	return nil
}

// owner is the host that a block belongs to; there must be a genesis.
func (m *Machine) owner(b uint32) crypto.Name {
	if c := m.held(b); c != nil {
		return c.last().owner
	}
	return m.genesis.owner(m.lay, b)
}

// place is (term, step) and hash of the record held.
func (m *Machine) place(b uint32) (term, num uint32, h hash) {
	if c := m.held(b); c != nil {
		s := c.last()
		return s.term, s.num, c.head()
	}
	return 0, 0, m.genesis.record(m.lay, b)
}

// merge takes a chain that somebody gave, and reports whether it is news.
func (m *Machine) merge(from crypto.Name, c *chain) bool {
	if c.block >= m.lay.blocks {
		m.stats.RefusedRecords++
		return false
	}
	ht, hn, hh := m.place(c.block)
	s := c.last()
	if c.head() == hh {
		return false
	}
	equal := s.term == ht && s.num == hn
	greater := compareHeads(s.term, s.num, c.head(), ht, hn, hh) > 0
	if equal && m.planted(bugTieByFree) {
		greater = true
	}
	if !greater && !equal {
		return false
	}
	link, ok := m.link(c)
	if !ok {
		m.stats.RefusedRecords++
		return false
	}
	if equal {
		m.conflict(c)
	}
	if !greater {
		return false
	}
	if link == noLink {
		m.hold(from, c)
		return false
	}
	m.accept(m.joined(c, link))
	return true
}

const noLink = -2

// link finds the newest record of c that is known here, and verifies what follows.
// It returns the position of that record (-1 is the one before steps[0]), or noLink.
func (m *Machine) link(c *chain) (int, bool) {
	known := func(h hash) bool {
		if h == m.genesis.record(m.lay, c.block) {
			return true
		}
		held := m.held(c.block)
		return held != nil && (h == held.before || slices.Contains(held.hashes, h))
	}
	at := noLink
	for i := len(c.steps) - 1; i >= -1 && at == noLink; i-- {
		if known(c.hashBefore(i + 1)) {
			at = i
		}
	}
	if at == -1 && !m.follows(c) {
		return 0, false
	}
	from := at + 1
	if at == noLink {
		for i := len(c.steps) - 1; i >= 0 && at == noLink; i-- {
			if t := c.steps[i].take; t != nil && m.proves(t, c.block, &c.steps[i], c.hashBefore(i)) {
				at, from = i, i+1
			}
		}
	}
	if at == noLink {
		if first := c.steps[0]; first.term == 0 && first.num <= 1 {
			return 0, false // it should follow on the genesis
		}
		from = 1 // the first step's signer cannot be checked
	}
	for i := from; i < len(c.steps); i++ {
		if !m.verifyStep(c, i) {
			return 0, false
		}
	}
	return at, true
}

// follows reports whether the first step of c, whose record before is known here,
// says the right owner and has the next place.
func (m *Machine) follows(c *chain) bool {
	held, first := m.held(c.block), c.steps[0]
	fits := func(owner crypto.Name, term, num uint32) bool {
		if first.take != nil {
			return c.prior == owner && first.term == term+1
		}
		return c.prior == owner && first.term == term && first.num == num+1 || m.planted(bugTermByHundred)
	}
	switch {
	case c.before == m.genesis.record(m.lay, c.block):
		return fits(m.genesis.owner(m.lay, c.block), 0, 0)
	case c.before == held.before:
		next := held.steps[0]
		if next.take != nil { // the step before the term is not kept; the term itself says enough
			return c.prior == held.prior && first.term <= next.term
		}
		return fits(held.prior, next.term, next.num-1)
	}
	s := held.steps[slices.Index(held.hashes, c.before)]
	return fits(s.owner, s.term, s.num)
}

// joined is c with the older steps held here, if they end where c's known part ends.
func (m *Machine) joined(c *chain, link int) *chain {
	held := m.held(c.block)
	if held == nil || link >= 0 && link >= len(held.steps) || c.hashBefore(link+1) != held.head() {
		return c
	}
	return &chain{
		block: c.block, prior: held.prior, before: held.before,
		steps:  append(slices.Clone(held.steps), c.steps[link+1:]...),
		hashes: append(slices.Clone(held.hashes), c.hashes[link+1:]...),
	}
}

// conflict keeps both of two records with one place.
func (m *Machine) conflict(c *chain) {
	held := m.held(c.block)
	same := func(p proof) bool { return p.b.head() == c.head() || p.a != nil && p.a.head() == c.head() }
	if slices.ContainsFunc(m.proofs, same) {
		return
	}
	m.stats.Conflicts++
	if len(m.proofs) == maxProofs {
		return
	}
	m.touchLazy(saveKey{kind: saveProof, n: uint32(len(m.proofs))})
	m.proofs = append(m.proofs, proof{held, c})
	m.event(EventConflict, c.last().owner, m.lay.addr(c.block*m.lay.size),
		"two records of the block at %v, of %v and %v, have one place: the one with the lower hash holds",
		m.lay.addr(c.block*m.lay.size), m.owner(c.block), c.last().owner)
}

// hold keeps a chain with a gap until others confirm it.
func (m *Machine) hold(from crypto.Name, c *chain) {
	g := m.gaps[c.block]
	if g == nil || g.chain.head() != c.head() {
		if g != nil {
			a, b := c.last(), g.chain.last()
			if compareHeads(a.term, a.num, c.head(), b.term, b.num, g.chain.head()) < 0 {
				return
			}
		} else if len(m.gaps) >= maxGaps {
			return
		}
		g = &gap{chain: c, since: m.now}
		m.gaps[c.block] = g
	}
	if !slices.Contains(g.from, from) {
		g.from = append(g.from, from)
	}
	m.settleGap(g)
}

// settleGap accepts a chain that two neighbours gave, or a single one for long enough.
func (m *Machine) settleGap(g *gap) {
	if len(g.from) < max(1, min(2, len(m.neighbours))) && m.now.Sub(g.since) < gapWait {
		return
	}
	delete(m.gaps, g.chain.block)
	t, n, h := m.place(g.chain.block)
	s := g.chain.last()
	if compareHeads(s.term, s.num, g.chain.head(), t, n, h) > 0 {
		m.stats.Gaps++
		m.accept(g.chain)
	}
}

func (m *Machine) settleGaps() {
	for _, b := range sortedKeys(m.gaps) {
		m.settleGap(m.gaps[b])
	}
}

// accept makes c the chain of its block, cut to what is to be kept.
func (m *Machine) accept(c *chain) {
	delete(m.gaps, c.block)
	r := m.registers[c.block]
	was := m.owner(c.block)
	if r == nil {
		r = new(register)
		m.registers[c.block] = r
	} else {
		m.extra -= len(r.latest.steps) - 1
	}
	keep := min(len(c.steps), maxSteps, max(1, len(m.registers)+1-m.extra))
	if cut := len(c.steps) - keep; cut > 0 {
		c = &chain{block: c.block, prior: c.ownerBefore(cut), before: c.hashBefore(cut), steps: c.steps[cut:], hashes: c.hashes[cut:]}
	}
	m.extra += len(c.steps) - 1
	r.latest = c
	for _, s := range c.steps {
		if s.take != nil {
			m.takeovers[s.take.roots[s.take.part]] = s.take
		}
	}
	m.touch(saveKey{kind: saveChain, n: c.block})
	m.stats.Merged++
	m.moved(c.block, was, c.last().owner)
}

// showSaved lets gossip see a chain that is durable now.
func (m *Machine) showSaved(c *chain) {
	r := m.registers[c.block]
	if r == nil {
		return
	}
	g := m.group(c.block)
	if r.saved != nil {
		h := r.saved.head()
		m.groups[g] ^= binary.BigEndian.Uint64(h[:])
	}
	h := c.head()
	m.groups[g] ^= binary.BigEndian.Uint64(h[:])
	r.saved = c
	m.news[c.block] = true
}

func (m *Machine) group(b uint32) int { return int(uint64(b) * digestGroups / uint64(m.lay.blocks)) }

// advance signs the step that gives a block to another host and takes it here.
func (m *Machine) advance(b uint32, to crypto.Name) *chain {
	term, num, before := m.place(b)
	c := &chain{block: b, prior: m.self, before: before, steps: []step{{term: term, num: num + 1, owner: to}}}
	c.seal(m.genesis.hash)
	h := c.head()
	c.steps[0].sig = m.sign(stepLabel, h[:])
	m.accept(m.joined(c, -1))
	return m.held(b)
}

// forgetMap drops all that belongs to a genesis.
func (m *Machine) forgetMap() {
	for b := range m.registers {
		m.touch(saveKey{kind: saveChain, n: b})
	}
	for b := range m.offers {
		m.touch(saveKey{kind: saveOffer, n: b})
	}
	m.registers = make(map[uint32]*register)
	m.takeovers = make(map[hash]*takeover)
	m.offers = make(map[uint32]*offer)
	m.gaps = make(map[uint32]*gap)
	m.expected = make(map[uint32]hash)
	m.lastGiven = make(map[crypto.Name]*given)
	m.extra, m.groups = 0, [digestGroups]uint64{}
	clear(m.news)
}
