package ipam

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
)

const (
	maxShare   = 256 // blocks of a joiner's share
	maxGiven   = 64  // blocks of one donation
	askExpires = time.Minute
)

// given is the last donation to a host, repeated when it asks again.
type given struct {
	req    uint64
	blocks []uint32
	lent   netip.Addr
	claim  uint64
}

// others are the hosts that own blocks, without this one.
func (m *Machine) others() []crypto.Name {
	if m.genesis == nil {
		return nil
	}
	all := make(map[crypto.Name]bool)
	for _, n := range m.genesis.founders {
		all[n] = true
	}
	for _, r := range m.registers {
		all[r.latest.last().owner] = true
	}
	delete(all, m.self)
	return sortedNames(all)
}

// donors are the hosts in reach, those first that said they have most free; with
// what they said as a hint only.
func (m *Machine) donors() []crypto.Name {
	names := sortedNames(m.reachable)
	m.cfg.Random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	free := func(n crypto.Name) uint32 {
		if h := m.hints[n]; h != nil {
			return h.free + 1
		}
		return 1
	}
	slices.SortStableFunc(names, func(a, b crypto.Name) int { return cmp.Compare(free(b), free(a)) })
	return names
}

// askDonor asks the next host for blocks, or for one address where none is whole.
func (m *Machine) askDonor(p *pending, want int) {
	p.next = m.now.Add(retryAsk)
	donors := m.donors()
	m.stats.Looked += uint64(len(donors))
	if len(donors) == 0 {
		return
	}
	for _, n := range donors { // whoever has refused least, then in order
		if p.denied[n] < p.denied[donors[p.turn%len(donors)]] {
			p.turn = slices.Index(donors, n)
			break
		}
	}
	to := donors[p.turn%len(donors)]
	p.turn++
	p.last = to
	if p.ask == 0 {
		m.requests++
		p.ask, p.asked = m.requests, m.now
	}
	m.asks[p.ask] = m.now
	m.postAsk(p, to, want)
}

// exhausted reports whether everybody has said twice that there is nothing.
func (m *Machine) exhausted(p *pending) bool {
	if len(m.reachable) == 0 || m.now.Before(m.recover) {
		return false
	}
	m.stats.Looked += uint64(len(m.reachable))
	for n := range m.reachable {
		if p.denied[n] < 2 {
			return false
		}
	}
	m.stats.Looked += uint64(len(m.registers))
	for _, n := range m.others() {
		if !m.reachable[n] {
			return false // it may come back before the deadline
		}
	}
	return true
}

func (m *Machine) expireAsks() {
	for id, t := range m.asks {
		if m.now.Sub(t) > askExpires {
			delete(m.asks, id)
		}
	}
}

// askShare asks for blocks while this host has none, so that the first address
// needs no message.
func (m *Machine) askShare() {
	p := &m.share
	if m.genesis == nil || m.leaving != nil || m.granting() != nil || m.now.Before(p.next) {
		return
	}
	if len(m.own) > 0 {
		m.askShareAgain()
		return
	}
	p.req.Subnet = m.cfg.Subnet
	if p.denied == nil || p.claim != 0 {
		*p = pending{req: p.req, denied: make(map[crypto.Name]int)}
	}
	m.askDonor(p, min(max(int(m.lay.blocks)/(len(m.others())+2), 1), maxShare))
	p.next = m.now.Add(2 * time.Second)
}

// askShareAgain has the donor repeat what it gave, when gossip brought the blocks and the
// donor's word that nothing in them is in use was lost: without it they would wait as if
// this host had lost its state.
func (m *Machine) askShareAgain() {
	p := &m.share
	asked, open := m.asks[p.ask]
	if !open || !m.reachable[p.last] || m.now.Sub(asked) > askExpires/2 {
		return
	}
	p.next = m.now.Add(2 * time.Second)
	m.postAsk(p, p.last, 1)
}

// insist is how many donors are asked for a whole block, and no single address, where
// the address is to be kept for its name: only an owner can keep one.
const insist = 8

// postAsk asks a donor, under the number that p has.
func (m *Machine) postAsk(p *pending, to crypto.Name, want int) {
	claim := p.claim
	if p.req.Sticky && p.turn <= min(len(m.reachable), insist) {
		claim = 0
	}
	b := m.message(msgAsk)
	b = put64(put64(b, p.ask), claim)
	b = put16(b, want)
	m.post(to, putPrefix(b, p.req.Subnet))
}

// onAsk gives what is free: whole blocks, about half of them, or one address.
func (m *Machine) onAsk(from crypto.Name, r *reader) error {
	req, claim, want := r.u64(), r.u64(), int(r.u16())
	subnet := r.prefix()
	if err := r.end(); err != nil {
		return err
	}
	if g := m.lastGiven[from]; g != nil && g.req == req && m.stillGiven(from, g) {
		m.tellGiven(from, g)
		return nil
	}
	if m.granting() != nil || m.leaving != nil || m.now.Before(m.recover) {
		return nil
	}
	lo, hi := m.lay.usable(subnet)
	var whole []uint32
	m.stats.Looked += uint64(len(m.ownOrder))
	for _, b := range m.ownOrder {
		if m.lay.mask(b, lo, hi)&^m.own[b].reserved != 0 && m.donatable(b) {
			whole = append(whole, b)
		}
	}
	half := (len(whole) + 1) / 2
	if claim == 0 { // a share is no need: the last block would only go to and fro
		half = len(whole) / 2
	}
	n := min(want, half, maxGiven)
	g := &given{req: req}
	if n > 0 {
		g.blocks = slices.Clone(whole[len(whole)-n:])
		for _, b := range g.blocks {
			m.advance(b, from)
		}
		m.stats.Donated += uint64(n)
	} else if claim != 0 {
		a, ok := m.pick(subnet)
		if ok {
			if !m.planted(bugForgetHeld) {
				m.set(a, &entry{kind: kindHeld, holder: from, claim: claim, asked: m.now})
			}
			m.markGranted()
			m.stats.Lent++
			g.lent, g.claim = a, claim
		}
	}
	if len(g.blocks) == 0 && !g.lent.IsValid() {
		m.post(from, put64(m.message(msgDeny), req))
		return nil
	}
	m.lastGiven[from] = g
	m.tellGiven(from, g)
	return nil
}

// donatable reports whether nothing of a block is in use or may be.
func (m *Machine) donatable(b uint32) bool {
	o := m.own[b]
	if m.planted(bugDonateUsed) {
		return true
	}
	if o.busy != 0 || o.frozen || !o.until.IsZero() {
		return false
	}
	for i := range m.lay.size {
		if _, there := m.cfg.Elsewhere(m.lay.addr(b*m.lay.size + i)); there {
			return false
		}
	}
	return true
}

// stillGiven reports whether a donation is still as it was made.
func (m *Machine) stillGiven(to crypto.Name, g *given) bool {
	for _, b := range g.blocks {
		if m.owner(b) != to {
			return false
		}
	}
	if g.lent.IsValid() {
		e := m.entries[g.lent]
		return e != nil && e.kind == kindHeld && e.holder == to && e.claim == g.claim
	}
	return true
}

// tellGiven says what was given: the heads of all blocks, and as many chains as
// fit; the others come by gossip, or when asked for.
func (m *Machine) tellGiven(to crypto.Name, g *given) {
	if g.lent.IsValid() {
		m.post(to, putHold(put64(m.message(msgHeld), g.req), []holding{{g.lent, g.claim}}))
		return
	}
	b := put16(put64(m.message(msgDonate), g.req), len(g.blocks))
	for _, n := range g.blocks {
		_, _, h := m.place(n)
		b = append(put32(b, n), h[:]...)
	}
	m.post(to, m.appendFitting(b, g.blocks))
}

// onDonate takes blocks that this run asked for.
func (m *Machine) onDonate(from crypto.Name, r *reader) error {
	req := r.u64()
	n := r.count("blocks", maxGiven, 36)
	var blocks []uint32
	var heads []hash
	for range n {
		blocks, heads = append(blocks, r.u32()), append(heads, r.hash())
	}
	bundle := m.readBundle(r)
	if err := r.end(); err != nil {
		return err
	}
	if _, ours := m.asks[req]; !ours {
		return nil
	}
	var want []uint32
	for i, b := range blocks {
		if b < m.lay.blocks {
			m.expected[b] = heads[i]
		}
	}
	m.mergeAll(from, bundle)
	for i, b := range blocks {
		if b >= m.lay.blocks {
			continue
		}
		_, _, h := m.place(b)
		if h != heads[i] {
			want = append(want, b)
		} else if o := m.own[b]; o != nil && !o.until.IsZero() && o.busy == 0 && !m.now.Before(m.recover) {
			o.until = time.Time{} // it came by gossip before
			m.touchLazy(saveKey{kind: saveWait, n: b})
		}
	}
	if len(want) > 0 {
		m.askChains(from, want)
	}
	if req == m.share.ask {
		m.share.ask = 0 // answered
	}
	m.share.next = m.now.Add(2 * time.Second)
	m.workRequests()
	return nil
}

// askChains asks a host for the registers of some blocks.
func (m *Machine) askChains(to crypto.Name, blocks []uint32) {
	b := put16(m.message(msgWant), len(blocks))
	for _, n := range blocks {
		b = put32(b, n)
	}
	m.post(to, b)
}

func (m *Machine) onWant(from crypto.Name, r *reader) error {
	n := r.count("blocks", maxGiven, 4)
	var blocks []uint32
	for range n {
		blocks = append(blocks, r.u32())
	}
	if err := r.end(); err != nil {
		return err
	}
	for len(blocks) > 0 {
		done := min(len(blocks), 8)
		m.post(from, m.appendFitting(m.message(msgChains), blocks[:done]))
		blocks = blocks[done:]
	}
	return nil
}

func (m *Machine) onChains(from crypto.Name, r *reader) error {
	bundle := m.readBundle(r)
	if err := r.end(); err != nil {
		return err
	}
	m.mergeAll(from, bundle)
	m.workRequests()
	return nil
}

func (m *Machine) onDeny(from crypto.Name, r *reader) error {
	req := r.u64()
	if err := r.end(); err != nil {
		return err
	}
	if m.denied(&m.share, from, req) {
		m.share.next = m.now
	}
	at := slices.IndexFunc(m.pendings, func(p *pending) bool { return p.ask == req })
	if at >= 0 && m.denied(m.pendings[at], from, req) && m.granting() == nil {
		m.askDonor(m.pendings[at], wanted(len(m.pendings)-at, m.lay))
	}
	return nil
}

// denied notes that a host has nothing for p, and reports whether somebody who has
// said so less often may have some. A repeated word is none.
func (m *Machine) denied(p *pending, from crypto.Name, req uint64) bool {
	if p.ask != req || p.last != from {
		return false
	}
	p.last = crypto.Name{}
	p.denied[from]++
	for n := range m.reachable {
		if p.denied[n] < p.denied[from] {
			return true
		}
	}
	return false
}
