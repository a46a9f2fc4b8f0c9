package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
)

// kind says what an address is to this host.
type kind uint8

const (
	kindUsed      kind = iota + 1 // own block: of a workload here
	kindHeld                      // own block: held by another host
	kindRest                      // own block: released, not given again for a while
	kindKept                      // own block: released, kept for its name
	kindForeign                   // another host's block: of a workload here
	kindReturning                 // another host's block: released here, the owner has not heard it yet
	kindOutside                   // no block: of a workload here
)

// entry is one address that is not simply free.
type entry struct {
	kind   kind
	bits   uint8  // prefix length it was given with
	sticky bool   // keep it for its name after release
	id     string // kindUsed, kindKept, kindForeign, kindOutside
	holder crypto.Name
	claim  uint64    // kindHeld, kindForeign, kindReturning: number that the holder gave
	until  time.Time // kindRest, kindKept: may be given again from then

	confirmed bool      // kindForeign: its owner has noted it
	fenced    bool      // kindForeign: its owner refused it
	asked     time.Time // kindForeign, kindReturning: last message about it
}

// ownBlock is a block of this host.
type ownBlock struct {
	busy     uint64    // bit per address: it has an entry
	reserved uint64    // bit per address: not given out unless claimed
	until    time.Time // quarantine: whatever is not known of it may be in use
	frozen   bool      // being handed over
}

type rest struct {
	addr  netip.Addr
	until time.Time
}

// acquire makes b a block of this host. A fresh one is certainly unused but for
// what the entries say.
func (m *Machine) acquire(b uint32, fresh bool) {
	if m.own[b] != nil {
		return
	}
	o := &ownBlock{reserved: m.reserved(b)}
	m.own[b] = o
	at, _ := slices.BinarySearch(m.ownOrder, b)
	m.ownOrder = slices.Insert(m.ownOrder, at, b)
	for i := range m.lay.size {
		a := m.lay.addr(b*m.lay.size + i)
		e := m.entries[a]
		if e == nil {
			continue
		}
		switch e.kind {
		case kindForeign:
			e = &entry{kind: kindUsed, bits: e.bits, sticky: e.sticky, id: e.id}
		case kindReturning:
			e = &entry{kind: kindRest, until: m.now.Add(m.cfg.Rest)}
		}
		m.set(a, e)
	}
	if (!fresh || m.now.Before(m.recover)) && !m.planted(bugNoQuarantine) {
		m.quarantine(b, o, m.now.Add(m.cfg.Rest))
	}
}

// reserved has a bit for each address of a block that is not given out by itself.
func (m *Machine) reserved(b uint32) (mask uint64) {
	for _, p := range m.cfg.Reserved {
		lo, hi := m.lay.span(p)
		mask |= m.lay.mask(b, lo, hi)
	}
	return mask
}

// surrender turns what is in a block that is another host's now into claims.
func (m *Machine) surrender(b uint32) {
	for i := range m.lay.size {
		a := m.lay.addr(b*m.lay.size + i)
		e := m.entries[a]
		if e == nil {
			continue
		}
		if e.kind == kindUsed {
			m.set(a, &entry{kind: kindForeign, bits: e.bits, sticky: e.sticky, id: e.id, claim: m.claimNumber()})
		} else if e.kind == kindHeld || e.kind == kindRest || e.kind == kindKept {
			m.set(a, nil)
		}
	}
}

// moved follows a block that has another owner now.
func (m *Machine) moved(b uint32, was, is crypto.Name) {
	head := m.held(b)
	switch {
	case was == m.self && is != m.self:
		if m.planted(bugKeepAfterLoss) && head.last().num == 0 {
			return
		}
		if m.own[b] != nil {
			m.surrender(b)
			delete(m.own, b)
			at, _ := slices.BinarySearch(m.ownOrder, b)
			m.ownOrder = slices.Delete(m.ownOrder, at, at+1)
		}
		if head.last().num == 0 {
			m.lost[is] = append(m.lost[is], b)
		}
	case is == m.self && m.own[b] == nil:
		o := m.offers[b]
		fresh := m.expected[b] == head.head() || head.last().take != nil || o != nil && head.hashBefore(len(head.steps)-1) == o.head
		m.acquire(b, fresh)
		if o != nil && o.head == head.hashBefore(len(head.steps)-1) {
			m.takeNotes(b, o)
		}
		m.stats.Received++
	}
	if m.offers[b] != nil && is == m.self {
		delete(m.offers, b)
		m.touch(saveKey{kind: saveOffer, n: b})
	}
	if was != is {
		m.reclaimBlock(b)
	}
}

// tellLost makes one event of all blocks that a host took: they may be thousands.
func (m *Machine) tellLost() {
	for _, taker := range sortedNames(m.lost) {
		blocks := m.lost[taker]
		first := m.lay.addr(slices.Min(blocks) * m.lay.size)
		what := fmt.Sprintf("the block at %v", first)
		if len(blocks) > 1 {
			what = fmt.Sprintf("%d blocks of this host, the first at %v", len(blocks), first)
		}
		m.event(EventLost, taker, first, "%v took %s; what is in use there is claimed from it", taker, what)
	}
	clear(m.lost)
}

// quarantine keeps the own block b from being given out of until then.
func (m *Machine) quarantine(b uint32, o *ownBlock, until time.Time) {
	o.until, m.waiting = until, true
	m.touch(saveKey{kind: saveWait, n: b})
}

// liftQuarantine ends what has waited long enough.
func (m *Machine) liftQuarantine() {
	if m.waiting && m.listed { // an own block may be one of many thousands
		m.waiting = false
		for b, o := range m.own {
			if !o.until.IsZero() && !m.now.Before(o.until) {
				o.until = time.Time{}
				m.touchLazy(saveKey{kind: saveWait, n: b})
			}
			m.waiting = m.waiting || !o.until.IsZero()
		}
	}
	if !m.recover.IsZero() && m.listed && !m.now.Before(m.recover) {
		m.recover = time.Time{}
		m.touchLazy(saveKey{kind: saveBoot})
	}
}

// set writes an entry, nil for none, with all that follows from it.
func (m *Machine) set(a netip.Addr, e *entry) {
	if old := m.entries[a]; old != nil && old.id != "" && (e == nil || e.id != old.id) {
		m.ids[old.id] = slices.DeleteFunc(m.ids[old.id], func(b netip.Addr) bool { return a == b })
		if len(m.ids[old.id]) == 0 {
			delete(m.ids, old.id)
		}
	}
	if e != nil && e.id != "" && !slices.Contains(m.ids[e.id], a) {
		m.ids[e.id] = append(m.ids[e.id], a)
	}
	offset, inside := m.lay.offset(a)
	if o := m.own[offset/m.lay.size]; inside && o != nil {
		bit := uint64(1) << (offset % m.lay.size)
		o.busy &^= bit
		if e != nil {
			o.busy |= bit
		}
	}
	if delete(m.kept, a); e != nil && e.kind == kindKept {
		m.kept[a] = true
	}
	if e == nil {
		delete(m.entries, a)
		m.touchLazy(saveKey{kind: saveEntry, addr: a})
		return
	}
	m.entries[a] = e
	if e.kind == kindRest {
		m.rests = append(m.rests, rest{a, e.until})
	}
	m.touch(saveKey{kind: saveEntry, addr: a})
}

// expireRests frees what has rested.
func (m *Machine) expireRests() {
	i := 0
	for ; i < len(m.rests) && !m.now.Before(m.rests[i].until); i++ {
		r := m.rests[i]
		if e := m.entries[r.addr]; e != nil && e.kind == kindRest && e.until.Equal(r.until) {
			m.set(r.addr, nil)
		}
	}
	m.rests = m.rests[i:]
	if len(m.rests) == 0 {
		m.rests = nil
	}
}

// granting says why this host may give out nothing at all, or is nil.
func (m *Machine) granting() error {
	switch {
	case m.left:
		return fail(CauseLeft, "this host has left the network and gave its blocks away: `ripstop reset`, then `ripstop up`, makes a new host of it")
	case m.cloned != 0:
		return fail(CauseClone, "another machine runs with this host's identity (run %v): stop one of them, and give it a state directory of its own", m.cloned)
	case m.planted(bugGrantBeforeList):
		return nil
	case !m.listed:
		return fail(CauseStarting, "this host is starting: what is attached is not listed yet")
	case m.restored && !m.contact && m.now.Sub(m.start) < contactWait && len(m.others()) > 0:
		return fail(CauseStarting, "this host is starting: it has not compared maps with another host yet")
	}
	return nil
}

// pick finds a free address of subnet in this host's own blocks, from the place of
// the last one on; without a free one, the longest kept one that has rested.
func (m *Machine) pick(subnet netip.Prefix) (netip.Addr, bool) {
	lo, hi := m.lay.usable(subnet)
	n := len(m.ownOrder)
	start, _ := slices.BinarySearch(m.ownOrder, m.cursor/m.lay.size)
	for i := range n + 1 { // the first block twice: its part behind the cursor, then the rest
		if n == 0 {
			break
		}
		m.stats.Looked++
		b := m.ownOrder[(start+i)%n]
		o := m.own[b]
		if o.frozen || !o.until.IsZero() {
			continue
		}
		free := m.lay.mask(b, lo, hi) &^ o.busy &^ o.reserved
		if i == 0 {
			free &= m.lay.mask(b, m.cursor, m.lay.total)
		}
		for ; free != 0; free &= free - 1 {
			a := m.lay.addr(b*m.lay.size + lowest(free))
			if _, there := m.cfg.Elsewhere(a); !there {
				m.cursor = b*m.lay.size + lowest(free) + 1
				return a, true
			}
		}
	}
	return m.pickKept(lo, hi)
}

func (m *Machine) pickKept(lo, hi uint32) (best netip.Addr, ok bool) {
	m.stats.Looked += uint64(len(m.kept))
	for a := range m.kept {
		e := m.entries[a]
		offset, in := m.lay.offset(a)
		if !in || offset < lo || offset >= hi || m.now.Before(e.until) || m.unsafe(offset) {
			continue
		}
		if _, there := m.cfg.Elsewhere(a); there {
			continue
		}
		if !ok || e.until.Before(m.entries[best].until) || e.until.Equal(m.entries[best].until) && a.Less(best) {
			best, ok = a, true
		}
	}
	return best, ok
}

// unsafe reports whether an offset is in no block that this host may give from now.
func (m *Machine) unsafe(offset uint32) bool {
	o := m.own[offset/m.lay.size]
	return o == nil || o.frozen || !o.until.IsZero()
}

// free counts the addresses and the whole blocks that this host could give.
func (m *Machine) free() (addresses, blocks uint32) {
	for _, b := range m.ownOrder {
		o := m.own[b]
		if o.frozen || !o.until.IsZero() {
			continue
		}
		f := m.lay.whole() &^ o.busy &^ o.reserved
		for ; f != 0; f &= f - 1 {
			addresses++
		}
		if o.busy == 0 {
			blocks++
		}
	}
	return addresses, blocks
}

// rest puts an address of an own block to rest.
func (m *Machine) rest(a netip.Addr) {
	if m.planted(bugNoRest) {
		m.set(a, nil)
		return
	}
	m.set(a, &entry{kind: kindRest, until: m.now.Add(m.cfg.Rest)})
}
