package ipam

import (
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
)

const (
	leaveChunk = 16 // blocks offered in one message
	maxNotes   = 64
)

// leaving is a hand-over of all blocks. The heir first saves what is noted in them
// (offer), then they are signed over, then the heir acknowledges that it has them.
type leaving struct {
	id       uint64
	heir     crypto.Name
	tried    []crypto.Name
	since    time.Time // with this heir, without progress
	deadline time.Time
	next     time.Time
	offer    uint64   // number of the offer that goes on
	offered  []uint32 // its blocks
	signed   map[uint32]crypto.Name
	moved    int
}

// offer is what this host knows about a block that it is about to get.
type offer struct {
	from  crypto.Name
	req   uint64 // number that from gave: a later one replaces it
	head  hash   // of the record on which the step to this host follows
	notes []note
}

// note is an address in it: held by a host, or resting when there is no holder.
type note struct {
	addr   netip.Addr
	holder crypto.Name
	claim  uint64
}

// Leave hands all blocks over to other hosts. The answer comes when they have
// acknowledged, or at the deadline (30 s when zero) with what is lacking.
func (m *Machine) Leave(now time.Time, deadline time.Duration) uint64 {
	m.at(now)
	m.requests++
	p := &pending{id: m.requests}
	used, example := 0, netip.Addr{}
	for _, a := range sortedAddrs(m.entries) {
		if e := m.entries[a]; e.kind == kindUsed || e.kind == kindForeign {
			if used++; used == 1 {
				example = a
			}
		}
	}
	switch {
	case m.left:
		m.answers = append(m.answers, Answer{Request: p.id})
	case m.leaving != nil:
		m.refuse(p, fail(CauseRefused, "this host is leaving already"))
	case used == 1:
		m.refuse(p, fail(CauseRefused, "%v is in use here%s: detach or release it first", example, by(m.entries[example].id)))
	case used > 0:
		m.refuse(p, fail(CauseRefused, "%d addresses are in use here, among them %v%s: detach and release first", used, example, by(m.entries[example].id)))
	case m.genesis == nil || len(m.own) == 0:
		m.left = true
		m.answers = append(m.answers, Answer{Request: p.id})
	case len(m.reachable) == 0:
		m.refuse(p, fail(CauseRefused, "no other host is in reach to take this host's %d blocks; on the last host of a network use `ripstop reset`", len(m.own)))
	default:
		if deadline <= 0 {
			deadline = defaultLeave
		}
		m.leaving = &leaving{id: p.id, since: m.now, deadline: m.now.Add(deadline), signed: make(map[uint32]crypto.Name)}
		for _, q := range m.pendings {
			m.refuse(q, fail(CauseLeft, "this host is leaving the network"))
		}
		m.pendings = nil
		m.workLeave()
	}
	return p.id
}

// workLeave goes on with the hand-over.
func (m *Machine) workLeave() {
	l := m.leaving
	if l == nil || m.granting() != nil {
		return
	}
	returning := 0
	for _, e := range m.entries {
		if e.kind == kindReturning {
			returning++
		}
	}
	if len(m.own) == 0 && len(l.signed) == 0 && returning == 0 {
		m.answers = append(m.answers, Answer{Request: l.id, Count: l.moved})
		m.leaving, m.left = nil, true
		return
	}
	if !m.now.Before(l.deadline) {
		m.thaw(l)
		m.leaving = nil
		m.refuse(&pending{id: l.id}, fail(CauseUnreachable, "%d blocks were handed over, %d more not acknowledged by %v, %d remain here, %d addresses not given back", l.moved, len(l.signed), l.heir, len(m.own), returning))
		return
	}
	if m.now.Before(l.next) {
		return
	}
	l.next = m.now.Add(500 * time.Millisecond)
	if len(l.signed) > 0 {
		m.tellHanded(l)
	}
	if len(m.own) == 0 {
		return
	}
	if l.heir.IsZero() || !m.reachable[l.heir] || m.now.Sub(l.since) > 5*time.Second {
		m.thaw(l)
		l.since, l.heir = m.now, crypto.Name{}
		for _, n := range m.donors() {
			if !slices.Contains(l.tried, n) {
				l.heir = n
				break
			}
		}
		if l.heir.IsZero() {
			l.tried = nil // all again
			return
		}
		l.tried = append(l.tried, l.heir)
	}
	if l.offered == nil {
		m.requests++
		l.offer = m.requests
		l.offered = slices.Clone(m.ownOrder[:min(leaveChunk, len(m.ownOrder))])
		for _, b := range l.offered {
			m.own[b].frozen = true
		}
	}
	m.tellOffer(l)
}

// thaw takes back an offer that was not signed.
func (m *Machine) thaw(l *leaving) {
	for _, b := range l.offered {
		if o := m.own[b]; o != nil {
			o.frozen = false
		}
	}
	l.offered = nil
}

// tellOffer sends the notes of the offered blocks, a message a block where they are many.
func (m *Machine) tellOffer(l *leaving) {
	b := put16(put64(m.message(msgOffer), l.offer), len(l.offered))
	for i, n := range l.offered {
		notes := m.notes(n)
		if i > 0 && len(b)+38+len(notes)*41 > MaxMessage {
			for _, rest := range l.offered[i:] {
				m.own[rest].frozen = false
			}
			l.offered = l.offered[:i:i]
			m.tellOffer(l)
			return
		}
		_, _, h := m.place(n)
		b = put16(append(put32(b, n), h[:]...), len(notes))
		for _, k := range notes {
			b = put64(append(putAddr(b, k.addr), k.holder[:]...), k.claim)
		}
	}
	m.post(l.heir, b)
}

// notes is what is to be known about a block by its next owner.
func (m *Machine) notes(b uint32) (list []note) {
	for i := range m.lay.size {
		a := m.lay.addr(b*m.lay.size + i)
		e := m.entries[a]
		if e == nil {
			continue
		}
		k := note{a, e.holder, e.claim}
		if e.kind == kindUsed { // listed after Leave: it stays here, in a block of the heir
			k.holder = m.self
		}
		list = append(list, k)
	}
	if m.planted(bugHandOverNoNotes) {
		return nil
	}
	return list
}

// onOffer saves what is noted in blocks that this host is to get.
func (m *Machine) onOffer(from crypto.Name, r *reader) error {
	req := r.u64()
	n := r.count("blocks", leaveChunk, 38)
	got := make(map[uint32]*offer)
	var blocks []uint32
	for range n {
		b := r.u32()
		o := &offer{from: from, req: req, head: r.hash()}
		for range r.count("notes", maxNotes, 5+16+8) {
			k := note{addr: r.addr(), holder: r.name(), claim: r.u64()}
			if at, inside := m.lay.block(k.addr); !inside || at != b {
				r.fail(errOrder)
			}
			o.notes = append(o.notes, k)
		}
		got[b], blocks = o, append(blocks, b)
	}
	if err := r.end(); err != nil {
		return err
	}
	if m.granting() != nil || m.leaving != nil {
		return nil
	}
	for _, b := range blocks {
		old := m.offers[b]
		late := old != nil && old.from == from && old.head == got[b].head && old.req > req
		if b < m.lay.blocks && m.owner(b) != m.self && !late {
			m.offers[b] = got[b]
			m.touch(saveKey{kind: saveOffer, n: b})
		}
	}
	m.post(from, put64(m.message(msgOfferAck), req))
	return nil
}

// onOfferAck signs the offered blocks over.
func (m *Machine) onOfferAck(from crypto.Name, r *reader) error {
	req := r.u64()
	if err := r.end(); err != nil {
		return err
	}
	l := m.leaving
	if l == nil || from != l.heir || req != l.offer {
		return nil
	}
	for _, b := range l.offered {
		if m.own[b] != nil {
			m.advance(b, from)
			l.signed[b] = from
		}
	}
	l.offered, l.since, l.offer = nil, m.now, 0
	m.tellHanded(l)
	l.next = m.now
	m.workLeave()
	return nil
}

// tellHanded shows the heirs the blocks that were signed over.
func (m *Machine) tellHanded(l *leaving) {
	to := make(map[crypto.Name][]uint32)
	for _, b := range sortedKeys(l.signed) {
		if h := l.signed[b]; len(to[h]) < 8 {
			to[h] = append(to[h], b)
		}
	}
	for _, n := range sortedNames(to) {
		m.post(n, m.appendFitting(m.message(msgHanded), to[n]))
	}
}

// onHanded takes blocks over and says so.
func (m *Machine) onHanded(from crypto.Name, r *reader) error {
	bundle := m.readBundle(r)
	if err := r.end(); err != nil {
		return err
	}
	m.mergeAll(from, bundle)
	var have []uint32
	for _, c := range bundle {
		if c.block >= m.lay.blocks {
			continue
		}
		// Also whatever came after: the hand-over is known here.
		if _, _, h := m.place(c.block); h == c.head() || slices.Contains(m.heldHashes(c.block), c.head()) {
			have = append(have, c.block)
		}
	}
	b := put16(m.message(msgHandedAck), len(have))
	for _, n := range have {
		b = put32(b, n)
	}
	m.post(from, b)
	return nil
}

func (m *Machine) heldHashes(b uint32) []hash {
	if c := m.held(b); c != nil {
		return c.hashes
	}
	return nil
}

func (m *Machine) onHandedAck(from crypto.Name, r *reader) error {
	n := r.count("blocks", maxGiven, 4)
	var blocks []uint32
	for range n {
		blocks = append(blocks, r.u32())
	}
	if err := r.end(); err != nil {
		return err
	}
	if l := m.leaving; l != nil {
		was := l.moved
		for _, b := range blocks {
			if l.signed[b] == from {
				delete(l.signed, b)
				l.moved++
			}
		}
		if l.moved > was { // not when it is repeated
			m.tellHanded(l)
			m.workLeave()
		}
	}
	return nil
}

// takeNotes applies what the owner before said about a block.
func (m *Machine) takeNotes(b uint32, o *offer) {
	for _, k := range o.notes {
		if m.entries[k.addr] != nil {
			continue
		}
		if k.holder.IsZero() || k.holder == m.self { // given back, but the owner had not heard it
			m.rest(k.addr)
		} else {
			m.set(k.addr, &entry{kind: kindHeld, holder: k.holder, claim: k.claim, asked: m.now})
		}
	}
}
