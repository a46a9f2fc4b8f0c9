package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"ripstop/crypto"
)

// A bundle of registers, each with its steps as far as they are kept:
//
//	names 2 | names × keys 64 | takeovers 2 | takeovers × takeover | chains 2 | chains × chain
//	takeover   victim 2 | taker 2 | forced 1 | part 2 | roots 2 | roots × 32 |
//	           entries 2 | entries × (block 4 | term 4 | before 32) | witnesses 1 | witnesses × (name 2 | signature 64)
//	chain      block 4 | prior 2 | before 32 | steps 1 | steps × (kind 1 | term 4 | step 4 | owner 2 | signature 64 or takeover 2)
//
// A delta of the data set, sections in this order, each behind its type:
//
//	1 hint | 2 statement | 3 genesis: granted 1 | range | founders | founders × (keys 64 | signature 64) | 4 genesis 8 | bundle
const (
	sectionHint byte = iota + 1
	sectionStatement
	sectionGenesis
	sectionChains

	datasetName  = "ipam"
	maxDelta     = 48 << 10
	deltaRoom    = maxDelta - 2048
	deltaVersion = 1
	digestLen    = 1 + 32 + 1 + 8 + 8*digestHints + 8*digestGroups
)

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

// appendFitting appends the saved chains of as many blocks as fit into a message.
// Blocks before their first step have none.
func (m *Machine) appendFitting(b []byte, blocks []uint32) []byte {
	u := m.newBundler()
	for _, n := range blocks {
		c := m.held(n)
		if c == nil {
			continue
		}
		try := *u
		try.at, try.parts = cloneMap(u.at), cloneMap(u.parts)
		try.add(c)
		if len(b)+try.size() <= MaxMessage {
			*u = try
		} else if short := lastSteps(c); short != nil {
			try = *u
			try.at, try.parts = cloneMap(u.at), cloneMap(u.parts)
			try.add(short)
			if len(b)+try.size() <= MaxMessage {
				*u = try
			}
		}
	}
	return u.append(b)
}

func cloneMap[K comparable, V any](m map[K]V) map[K]V {
	n := make(map[K]V, len(m))
	for k, v := range m {
		n[k] = v
	}
	return n
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

// Name implements gossip.Dataset.
func (m *Machine) Name() string { return datasetName }

// Merge implements gossip.Dataset. What is news is announced once it is saved, by
// Ready; so nothing is ever returned to be passed on.
func (m *Machine) Merge(now time.Time, from crypto.Name, delta []byte) ([]byte, error) {
	m.at(now)
	r := &reader{b: delta}
	if v := r.u8(); r.err == nil && v != deltaVersion {
		m.stats.Malformed++
		return nil, fmt.Errorf("ipam: delta of version %d", v)
	}
	for len(r.b) > 0 && r.err == nil {
		switch kind := r.u8(); kind {
		case sectionHint:
			if h := r.hint(); r.err == nil {
				m.mergeHint(h)
			}
		case sectionStatement:
			if s := r.statement(); r.err == nil {
				m.mergeStatement(s)
			}
		case sectionGenesis:
			if g := m.readGenesis(r); r.err == nil {
				m.mergeGenesis(from, g)
			}
		case sectionChains:
			head := [8]byte(r.take(8))
			if m.genesis == nil || head != [8]byte(m.genesis.hash[:8]) {
				r.b = nil // of another map
				break
			}
			list := m.readBundle(r)
			if r.err == nil {
				m.mergeAll(from, list)
			}
		default:
			r.fail(fmt.Errorf("ipam: section of type %d", kind))
		}
	}
	if r.err != nil {
		m.stats.Malformed++
		return nil, r.err
	}
	m.contact = true
	m.evaluate()
	m.workRequests()
	return nil, nil
}

func (r *reader) hint() *hint {
	h := &hint{keys: r.keys(), boot: r.u32(), count: r.u32(), uid: crypto.UID(r.u64()), seq: r.u64(), free: r.u32(), blocks: r.u32(), sig: r.sig()}
	h.origin = h.keys.Name()
	return h
}

func (h *hint) append(b []byte) []byte { return append(append(b, h.text()...), h.sig[:]...) }

func (r *reader) statement() *statement {
	s := &statement{keys: r.keys(), count: r.u32(), prefix: r.prefix()}
	s.origin = s.keys.Name()
	s.targets, s.missing = r.names(maxFounders), r.text(maxMissing)
	s.list, s.listSig, s.sig = r.names(maxFounders), r.sig(), r.sig()
	return s
}

func (s *statement) append(b []byte) []byte { return append(append(b, s.text()...), s.sig[:]...) }

func (m *Machine) readGenesis(r *reader) *genesis {
	g := &genesis{granted: r.u8() == 1, prefix: r.prefix(), founders: r.names(maxFounders)}
	if len(g.founders) == 0 {
		r.fail(errTruncated)
	}
	for _, n := range g.founders {
		k := r.keys()
		if r.err == nil && k.Name() != n {
			r.fail(fmt.Errorf("ipam: genesis: keys are not those of %v", n))
		}
		g.sigs = append(g.sigs, r.sig())
		if r.err != nil {
			return nil
		}
		m.know(k)
	}
	g.hash = genesisHash(m.cfg.Network, g.prefix, g.founders)
	return g
}

func (m *Machine) putGenesis(b []byte, g *genesis) []byte {
	b = putNames(putPrefix(putBool(b, g.granted), g.prefix), g.founders)
	for i, n := range g.founders {
		b = append(putKeys(b, m.keys[n]), g.sigs[i][:]...)
	}
	return b
}

// Digest implements gossip.Dataset: the genesis, then sums over what belongs together.
func (m *Machine) Digest() []byte {
	b := make([]byte, 0, digestLen)
	b = append(b, deltaVersion)
	var g hash
	granted := false
	var founding uint64
	if m.genesis != nil && m.genesis.saved {
		g, granted = m.genesis.hash, m.genesis.granted
	} else {
		for _, s := range m.statements {
			if s.origin != m.self || s.saved {
				h := sha256.Sum256(s.text())
				founding ^= binary.BigEndian.Uint64(h[:])
			}
		}
	}
	b = put64(putBool(append(b, g[:]...), granted), founding)
	for _, s := range m.hintSum {
		b = put64(b, s)
	}
	for _, s := range m.groups {
		b = put64(b, s)
	}
	return b
}

// Delta implements gossip.Dataset.
func (m *Machine) Delta(digest []byte) []byte {
	own := m.Digest()
	if len(digest) != len(own) || digest[0] != own[0] || string(digest) == string(own) {
		return nil
	}
	m.turn += 97 // begin elsewhere each time: what is refused must not keep back the rest
	b := []byte{deltaVersion}
	const hints = 1 + 32 + 1 + 8
	for _, n := range turned(sortedNames(m.hints), m.turn) {
		at := hints + 8*int(n[0]%digestHints)
		if len(b) < maxDelta/6 && string(digest[at:at+8]) != string(own[at:at+8]) {
			b = m.hints[n].append(append(b, sectionHint))
		}
	}
	if m.genesis == nil || !m.genesis.saved {
		for _, n := range sortedNames(m.statements) {
			if s := m.statements[n]; s.origin != m.self || s.saved {
				if t := s.append([]byte{sectionStatement}); len(b)+len(t) <= deltaRoom {
					b = append(b, t...)
				}
			}
		}
		return nonEmpty(b)
	}
	if string(digest[1:34]) != string(own[1:34]) {
		b = m.putGenesis(append(b, sectionGenesis), m.genesis)
	}
	if string(digest[1:33]) != string(own[1:33]) && hash(digest[1:33]) != (hash{}) || len(b) > deltaRoom {
		return nonEmpty(b) // another map's registers are of no use
	}
	var blocks []uint32
	for _, n := range sortedKeys(m.registers) {
		at := hints + 8*digestHints + 8*m.group(n)
		if string(digest[at:at+8]) != string(own[at:at+8]) {
			blocks = append(blocks, n)
		}
	}
	return nonEmpty(m.appendChains(b, turned(blocks, m.turn)))
}

// turned begins a list at another place.
func turned[T any](list []T, turn int) []T {
	if len(list) == 0 {
		return nil
	}
	at := turn % len(list)
	return append(slices.Clone(list[at:]), list[:at]...)
}

// appendChains appends a section with as many saved chains as have room.
func (m *Machine) appendChains(b []byte, blocks []uint32) []byte {
	u := m.newBundler()
	for _, n := range blocks {
		r := m.registers[n]
		if r == nil || r.saved == nil {
			continue
		}
		if len(b)+u.size()+maxChainBytes(r.saved) > maxDelta {
			break
		}
		u.add(r.saved)
	}
	if u.n == 0 {
		return b
	}
	b = append(append(b, sectionChains), m.genesis.hash[:8]...)
	return u.append(b)
}

// maxChainBytes is what a chain may add to a bundle.
func maxChainBytes(c *chain) int {
	n := 64 + 39
	for _, s := range c.steps {
		n += 75 + 64
		if s.take != nil {
			n += 11 + 32*len(s.take.roots) + 40*len(s.take.entries) + (66+64)*len(s.take.witnesses) + 128
		}
	}
	return n
}

func nonEmpty(b []byte) []byte {
	if len(b) == 1 {
		return nil
	}
	return b
}

// announce is what became durable or was heard since the last time.
func (m *Machine) announce() (list [][]byte) {
	b := []byte{deltaVersion}
	flush := func() {
		if len(b) > 1 {
			list = append(list, b)
		}
		b = []byte{deltaVersion}
	}
	for _, n := range sortedNames(m.newsHint) {
		if h := m.hints[n]; h != nil && len(b) < deltaRoom {
			b = h.append(append(b, sectionHint))
		}
	}
	if m.newsMap {
		if m.genesis != nil && m.genesis.saved {
			flush()
			b = m.putGenesis(append(b, sectionGenesis), m.genesis)
		} else if m.genesis == nil {
			for _, n := range sortedNames(m.statements) {
				if s := m.statements[n]; s.origin != m.self || s.saved {
					t := s.append([]byte{sectionStatement})
					if len(b)+len(t) > deltaRoom {
						flush()
					}
					b = append(b, t...)
				}
			}
		}
	}
	flush()
	if m.genesis != nil && m.genesis.saved && len(m.news) > 0 {
		b = m.appendChains(b, sortedKeys(m.news))
		flush()
	}
	clear(m.newsHint)
	clear(m.news)
	m.newsMap = m.newsMap && m.genesis != nil && !m.genesis.saved
	return list
}
