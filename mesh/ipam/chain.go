package ipam

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"slices"

	"ripstop/crypto"
)

type hash = [32]byte

const (
	maxSteps = 8 // of a chain that are kept

	recordLabel   = "ripstop ipam record v1"
	stepLabel     = "ripstop ipam step v1"
	takeoverLabel = "ripstop ipam takeover v1"
)

// step is one change of a block's owner: the fields that a record has beside the
// block, the genesis and the hash of the record before.
type step struct {
	term, num uint32
	owner     crypto.Name
	sig       crypto.Signature // of the owner before; unused when take is set
	take      *takeover        // the proof of a step that begins a term
}

// chain is the newest records of a block's register, oldest first. It is never
// changed once made.
type chain struct {
	block  uint32
	prior  crypto.Name // owner in the record before steps[0]
	before hash        // of that record
	steps  []step      // at least one
	hashes []hash      // of the records that steps made; the last one is the head
}

func (c *chain) last() *step { return &c.steps[len(c.steps)-1] }
func (c *chain) head() hash  { return c.hashes[len(c.hashes)-1] }

// ownerBefore is the owner in the record that step i follows.
func (c *chain) ownerBefore(i int) crypto.Name {
	if i == 0 {
		return c.prior
	}
	return c.steps[i-1].owner
}

// hashBefore is the hash of the record that step i follows.
func (c *chain) hashBefore(i int) hash {
	if i == 0 {
		return c.before
	}
	return c.hashes[i-1]
}

// seal computes the hashes.
func (c *chain) seal(genesis hash) *chain {
	c.hashes = make([]hash, len(c.steps))
	for i := range c.steps {
		c.hashes[i] = recordHash(genesis, c.block, &c.steps[i], c.hashBefore(i))
	}
	return c
}

// recordHash is what a record is called: SHA-256 over label, genesis 32, block 4,
// term 4, step 4, flags 1 (bit 0 reserved for `active`), owner 16, hash before 32.
func recordHash(genesis hash, block uint32, s *step, before hash) hash {
	b := make([]byte, 0, 128)
	b = append(b, recordLabel...)
	b = append(b, genesis[:]...)
	b = put32(put32(put32(b, block), s.term), s.num)
	b = append(b, 0)
	b = append(b, s.owner[:]...)
	b = append(b, before[:]...)
	return sha256.Sum256(b)
}

// genesisRecord is the hash of a block's record before its first step.
func genesisRecord(genesis hash, block uint32, owner crypto.Name) hash {
	return recordHash(genesis, block, &step{owner: owner}, hash{})
}

// compareHeads orders two records of one block: the greater holds. A later term,
// then a later step, then the lower hash.
func compareHeads(at, an uint32, ah hash, bt, bn uint32, bh hash) int {
	switch {
	case at != bt:
		return order(at, bt)
	case an != bn:
		return order(an, bn)
	}
	return -bytes.Compare(ah[:], bh[:])
}

func order(a, b uint32) int {
	if a < b {
		return -1
	}
	return 1
}

// takeover is the proof that the blocks of a host went to another one by the next
// term: the operator's word, and signatures of hosts that had not heard the victim.
// A big one is cut into parts; a witness signs over the roots of all parts.
type takeover struct {
	victim, taker crypto.Name
	forced        bool   // the taker was alone on its side
	roots         []hash // of all parts
	part          int    // which of them this is
	entries       []takeEntry
	witnesses     []witness // by name

	checked, valid bool
}

type takeEntry struct {
	block, term uint32
	before      hash
}

type witness struct {
	name crypto.Name
	sig  crypto.Signature
}

const (
	takePart     = 512 // blocks of one part
	maxTakeParts = 1 << maxRangeBits / takePart / maxBlockSize
	maxWitnesses = 3
)

// partRoot is the hash over the records that a part makes.
func (t *takeover) partRoot(genesis hash) hash {
	h := sha256.New()
	h.Write([]byte(takeoverLabel))
	for _, e := range t.entries {
		r := recordHash(genesis, e.block, &step{term: e.term, owner: t.taker}, e.before)
		h.Write(r[:])
	}
	return hash(h.Sum(nil))
}

// text is what the witnesses sign.
func (t *takeover) text(genesis hash) []byte {
	b := append([]byte(nil), genesis[:]...)
	b = append(b, t.victim[:]...)
	b = append(b, t.taker[:]...)
	b = putBool(b, t.forced)
	for _, r := range t.roots {
		b = append(b, r[:]...)
	}
	return b
}

// check verifies a part by itself: its root and its witnesses.
func (m *Machine) check(t *takeover) bool {
	if t.checked {
		return t.valid
	}
	t.checked = true
	if t.part >= len(t.roots) || t.roots[t.part] != t.partRoot(m.genesis.hash) {
		return false
	}
	others := 0
	text := t.text(m.genesis.hash)
	for i, w := range t.witnesses {
		if i > 0 && t.witnesses[i-1].name.Compare(w.name) >= 0 || w.name == t.victim || !m.verify(w.name, w.sig, takeoverLabel, text) {
			return false
		}
		if w.name != t.taker {
			others++
		}
	}
	t.valid = others > 0 || t.forced
	return t.valid
}

// proves reports whether t makes step s of a block upon the record before.
func (m *Machine) proves(t *takeover, block uint32, s *step, before hash) bool {
	if s.num != 0 || s.owner != t.taker || !m.check(t) {
		return false
	}
	i, ok := slices.BinarySearchFunc(t.entries, block, func(e takeEntry, b uint32) int { return cmp.Compare(e.block, b) })
	return ok && t.entries[i].term == s.term && t.entries[i].before == before
}

// verifyStep checks step i of c against the record it follows.
func (m *Machine) verifyStep(c *chain, i int) bool {
	s := &c.steps[i]
	if m.planted(bugTermByHundred) && s.num >= 100 {
		return true
	}
	if i > 0 {
		p := c.steps[i-1]
		if s.take == nil && (s.term != p.term || s.num != p.num+1) || s.take != nil && s.term != p.term+1 {
			return false
		}
	}
	if s.take != nil {
		return m.proves(s.take, c.block, s, c.hashBefore(i))
	}
	h := c.hashes[i]
	return s.num > 0 && m.verify(c.ownerBefore(i), s.sig, stepLabel, h[:])
}
