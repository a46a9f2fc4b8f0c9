package ipam

import (
	"fmt"
	"slices"

	"ripstop/crypto"
)

// A bundle of registers, each with its steps as far as they are kept:
//
//	names 2 | names × keys 64 | takeovers 2 | takeovers × takeover | chains 2 | chains × chain
//	takeover   victim 2 | taker 2 | forced 1 | part 2 | roots 2 | roots × 32 |
//	           entries 2 | entries × (block 4 | term 4 | before 32) | witnesses 1 | witnesses × (name 2 | signature 64)
//	chain      block 4 | prior 2 | before 32 | steps 1 | steps × (kind 1 | term 4 | step 4 | owner 2 | signature 64 or takeover 2)
//
// bundler collects what belongs to some chains.
type bundler struct {
	m      *Machine
	at     map[crypto.Name]int
	names  []byte
	parts  map[*takeover]int
	proofs []byte
	chains []byte
	n      int
}

func (m *Machine) newBundler() *bundler {
	return &bundler{m: m, at: make(map[crypto.Name]int), parts: make(map[*takeover]int)}
}

func (u *bundler) name(n crypto.Name) int {
	i, ok := u.at[n]
	if !ok {
		i = len(u.at)
		u.at[n] = i
		u.names = putKeys(u.names, u.m.keys[n])
	}
	return i
}

func (u *bundler) add(c *chain) {
	u.n++
	b := put32(u.chains, c.block)
	b = append(put16(b, u.name(c.prior)), c.before[:]...)
	b = append(b, byte(len(c.steps)))
	for i := range c.steps {
		s := &c.steps[i]
		b = putBool(b, s.take != nil)
		b = put16(put32(put32(b, s.term), s.num), u.name(s.owner))
		if s.take == nil {
			b = append(b, s.sig[:]...)
			continue
		}
		at, ok := u.parts[s.take]
		if !ok {
			at = len(u.parts)
			u.parts[s.take] = at
			u.takeover(s.take)
		}
		b = put16(b, at)
	}
	u.chains = b
}

func (u *bundler) takeover(t *takeover) {
	b := put16(put16(u.proofs, u.name(t.victim)), u.name(t.taker))
	b = put16(put16(putBool(b, t.forced), t.part), len(t.roots))
	for _, r := range t.roots {
		b = append(b, r[:]...)
	}
	b = put16(b, len(t.entries))
	for _, e := range t.entries {
		b = append(put32(put32(b, e.block), e.term), e.before[:]...)
	}
	b = append(b, byte(len(t.witnesses)))
	for _, w := range t.witnesses {
		b = append(put16(b, u.name(w.name)), w.sig[:]...)
	}
	u.proofs = b
}

func (u *bundler) size() int { return 6 + len(u.names) + len(u.proofs) + len(u.chains) }

func (u *bundler) append(b []byte) []byte {
	b = append(put16(b, len(u.at)), u.names...)
	b = append(put16(b, len(u.parts)), u.proofs...)
	return append(put16(b, u.n), u.chains...)
}

// cost is what a chain would add.
func (u *bundler) cost(c *chain) int {
	n := 4 + 2 + 32 + 1
	names, parts := []crypto.Name{c.prior}, []*takeover(nil)
	for i := range c.steps {
		s := &c.steps[i]
		names = append(names, s.owner)
		if n += 1 + 4 + 4 + 2; s.take == nil {
			n += 64
			continue
		}
		t := s.take
		_, there := u.parts[t]
		if n += 2; there || slices.Contains(parts, t) {
			continue
		}
		parts, names = append(parts, t), append(names, t.victim, t.taker)
		n += 2 + 2 + 1 + 2 + 2 + 32*len(t.roots) + 2 + 40*len(t.entries) + 1 + (2+64)*len(t.witnesses)
		for _, w := range t.witnesses {
			names = append(names, w.name)
		}
	}
	for i, name := range names {
		if _, ok := u.at[name]; !ok && !slices.Contains(names[:i], name) {
			n += 64
		}
	}
	return n
}

// addFitting adds a chain, or at least its last step, if there is room.
func (u *bundler) addFitting(c *chain, limit int) bool {
	for ; c != nil; c = lastSteps(c) {
		if u.size()+u.cost(c) <= limit {
			u.add(c)
			return true
		}
	}
	return false
}

// appendFitting appends the chains of as many blocks as fit into a message.
// Blocks before their first step have none.
func (m *Machine) appendFitting(b []byte, blocks []uint32) []byte {
	u := m.newBundler()
	for _, n := range blocks {
		if c := m.held(n); c != nil {
			u.addFitting(c, MaxMessage-len(b))
		}
	}
	return u.append(b)
}

// lastSteps is a chain cut to its last step, or nil if it is that short.
func lastSteps(c *chain) *chain {
	n := len(c.steps) - 1
	if n == 0 {
		return nil
	}
	return &chain{block: c.block, prior: c.ownerBefore(n), before: c.hashBefore(n), steps: c.steps[n:], hashes: c.hashes[n:]}
}

// readBundle reads the rest of a message. Names come with their keys, so nothing
// of it needs to be believed.
func (m *Machine) readBundle(r *reader) []*chain {
	var names []crypto.Name
	for range r.count("keys", 1<<16-1, 64) {
		k := r.keys()
		if r.err == nil {
			m.know(k)
		}
		names = append(names, k.Name())
	}
	name := func() crypto.Name {
		if i := int(r.u16()); i < len(names) {
			return names[i]
		}
		r.fail(errTruncated)
		return crypto.Name{}
	}
	var parts []*takeover
	for range r.count("takeovers", 1<<16-1, 11) {
		t := &takeover{victim: name(), taker: name(), forced: r.u8() == 1, part: int(r.u16())}
		for range r.count("roots", maxTakeParts, 32) {
			t.roots = append(t.roots, r.hash())
		}
		for i := range r.count("entries", takePart, 40) {
			t.entries = append(t.entries, takeEntry{r.u32(), r.u32(), r.hash()})
			if i > 0 && t.entries[i-1].block >= t.entries[i].block {
				r.fail(errOrder)
			}
		}
		n := int(r.u8())
		if n > maxWitnesses+1 {
			r.fail(fmt.Errorf("ipam: %d witnesses, at most %d", n, maxWitnesses+1))
		}
		for range n {
			if r.err == nil {
				t.witnesses = append(t.witnesses, witness{name(), r.sig()})
			}
		}
		if r.err != nil {
			return nil
		}
		if t.part < len(t.roots) && m.takeovers[t.roots[t.part]] != nil {
			t = m.takeovers[t.roots[t.part]]
		}
		parts = append(parts, t)
	}
	var list []*chain
	for range r.count("chains", 1<<16-1, 40) {
		c := &chain{block: r.u32(), prior: name(), before: r.hash()}
		n := int(r.u8())
		if n == 0 || n > maxSteps {
			r.fail(fmt.Errorf("ipam: %d steps, at most %d", n, maxSteps))
		}
		for range n {
			if r.err != nil {
				return nil
			}
			take := r.u8() == 1
			s := step{term: r.u32(), num: r.u32(), owner: name()}
			if !take {
				s.sig = r.sig()
			} else if at := int(r.u16()); at < len(parts) {
				s.take = parts[at]
			} else {
				r.fail(errTruncated)
			}
			c.steps = append(c.steps, s)
		}
		if r.err != nil {
			return nil
		}
		list = append(list, c)
	}
	if r.err == nil && m.genesis != nil {
		for _, c := range list {
			c.seal(m.genesis.hash)
		}
	}
	return list
}

func (m *Machine) mergeAll(from crypto.Name, list []*chain) {
	for _, c := range list {
		m.merge(from, c)
	}
}
