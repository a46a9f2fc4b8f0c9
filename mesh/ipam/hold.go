package ipam

import (
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
)

const maxHoldings = 64 // of one message

// holding is an address under the number that its holder gave for it. A holder's
// numbers rise, so that what is late and what is repeated can be told.
type holding struct {
	addr  netip.Addr
	claim uint64
}

// refusal says why an owner does not note an address.
type refusal struct {
	holding
	holder crypto.Name
	id     string
}

// askClaim asks the owner of a given address for it.
func (m *Machine) askClaim(p *pending) {
	b, _ := m.lay.block(p.req.Addr)
	owner := m.owner(b)
	if owner == m.self || !m.reachable[owner] {
		return
	}
	p.next = m.now.Add(retryAsk)
	m.sendClaim(owner, false, []holding{{p.req.Addr, p.claim}})
}

func (m *Machine) sendClaim(to crypto.Name, live bool, list []holding) {
	for len(list) > 0 {
		n := min(len(list), maxHoldings)
		m.post(to, putHold(putBool(m.message(msgClaim), live), list[:n]))
		list = list[n:]
	}
}

// reclaim makes this host ask again for all that it holds of others.
func (m *Machine) reclaim() {
	for _, e := range m.entries {
		m.reclaimOne(e)
	}
}

// reclaimBlock makes this host ask again for what it holds in one block.
func (m *Machine) reclaimBlock(b uint32) {
	for i := range m.lay.size {
		m.reclaimOne(m.entries[m.lay.addr(b*m.lay.size+i)])
	}
}

func (m *Machine) reclaimOne(e *entry) {
	if e != nil && (e.kind == kindForeign || e.kind == kindReturning) {
		e.confirmed, e.asked = false, time.Time{}
		m.nextClaim = m.now
	}
}

// confirmHeld asks owners for what this host holds of theirs, and gives back what
// it does not need any more.
func (m *Machine) confirmHeld() {
	if m.genesis == nil || !m.listed || m.now.Before(m.nextClaim) {
		return
	}
	m.nextClaim = m.now.Add(time.Second)
	claims := make(map[crypto.Name][]holding)
	returns := make(map[crypto.Name][]holding)
	for _, a := range sortedAddrs(m.entries) {
		e := m.entries[a]
		b, inside := m.lay.block(a)
		if e.kind != kindForeign && e.kind != kindReturning || !inside {
			continue
		}
		every := time.Second
		if e.fenced {
			every = fencedEvery
		} else if e.confirmed {
			every = refreshEvery
		}
		owner := m.owner(b)
		if !e.asked.IsZero() && m.now.Sub(e.asked) < every || !m.reachable[owner] {
			continue
		}
		e.asked = m.now
		if e.kind == kindForeign {
			claims[owner] = append(claims[owner], holding{a, e.claim})
		} else {
			returns[owner] = append(returns[owner], holding{a, e.claim})
		}
	}
	for _, n := range sortedNames(claims) {
		m.sendClaim(n, true, claims[n])
	}
	for _, n := range sortedNames(returns) {
		m.sendReturns(n, returns[n])
	}
}

// onClaim notes addresses for a host, or says who has them. A live claim is of a
// workload that has the address already.
func (m *Machine) onClaim(from crypto.Name, r *reader) error {
	live := r.u8() == 1
	list := r.holdings()
	if err := r.end(); err != nil {
		return err
	}
	if m.granting() != nil && !m.left {
		return nil
	}
	var held []holding
	var refused []refusal
	var unknown []uint32
	for _, h := range list {
		b, inside := m.lay.block(h.addr)
		if !inside {
			continue
		}
		o := m.own[b]
		if o == nil {
			if !slices.Contains(unknown, b) {
				unknown = append(unknown, b)
			}
			continue
		}
		if o.frozen {
			continue // whoever gets the block answers
		}
		e := m.entries[h.addr]
		switch {
		case e != nil && e.kind == kindHeld && e.holder == from:
			if h.claim > e.claim {
				m.set(h.addr, &entry{kind: kindHeld, holder: from, claim: h.claim, asked: m.now})
			}
			held = append(held, holding{h.addr, max(h.claim, e.claim)})
		case e != nil && (e.kind == kindUsed || e.kind == kindHeld):
			who := e.holder
			if e.kind == kindUsed {
				who = m.self
			}
			refused = append(refused, refusal{h, who, e.id})
		default:
			if host, there := m.cfg.Elsewhere(h.addr); there && host != from && !live && m.reachable[host] {
				refused = append(refused, refusal{h, host, ""})
				continue
			}
			if !live && !o.until.IsZero() {
				continue // it may be in use; the asker tries again
			}
			if !m.planted(bugForgetHeld) {
				m.set(h.addr, &entry{kind: kindHeld, holder: from, claim: h.claim, asked: m.now})
			}
			m.markGranted()
			held = append(held, h)
		}
	}
	if len(held) > 0 {
		m.post(from, putHold(put64(m.message(msgHeld), 0), held))
	}
	if len(refused) > 0 {
		b := put16(m.message(msgRefused), len(refused))
		for _, f := range refused {
			b = putAddr(put64(b, f.claim), f.addr)
			b = putText(append(b, f.holder[:]...), f.id[:min(len(f.id), 16)])
		}
		m.post(from, b)
	}
	if len(unknown) > 0 {
		m.post(from, m.appendFitting(m.message(msgChains), unknown))
	}
	return nil
}

// onHeld learns that an owner has noted addresses for this host.
func (m *Machine) onHeld(from crypto.Name, r *reader) error {
	r.u64() // the request that it answers; the claim numbers say it as well
	list := r.holdings()
	if err := r.end(); err != nil {
		return err
	}
	if m.granting() != nil {
		return nil
	}
	var returns, again []holding
	var ask []uint32
	for _, h := range list {
		b, inside := m.lay.block(h.addr)
		if !inside {
			continue
		}
		if m.owner(b) != from {
			ask = append(ask, b)
			continue
		}
		e := m.entries[h.addr]
		switch {
		case e != nil && e.kind == kindForeign && e.claim == h.claim:
			e.confirmed, e.asked = true, m.now
			if e.fenced {
				n := *e
				n.fenced = false
				m.set(h.addr, &n)
				m.event(EventUnfenced, from, h.addr, "%v may be used again", h.addr)
			}
		case e != nil && e.kind == kindForeign:
			if h.claim > e.claim { // numbers of a life that this host forgot
				m.skipClaims(h.claim)
				n := *e
				n.claim = m.claimNumber()
				m.set(h.addr, &n)
				e = &n
			}
			again = append(again, holding{h.addr, e.claim})
		case !m.useHeld(h):
			returns = append(returns, h)
		}
	}
	m.sendReturns(from, returns)
	m.sendClaim(from, true, again)
	if len(ask) > 0 {
		m.askChains(from, ask[:min(len(ask), maxGiven)])
	}
	return nil
}

// skipClaims goes on above a claim number of a life that this host forgot.
func (m *Machine) skipClaims(seen uint64) {
	if boot := uint32(seen >> 32); boot >= m.boot && boot < 1<<31 {
		m.newBoot(boot + 1)
	}
}

// useHeld gives a noted address to the request that asked under that number.
func (m *Machine) useHeld(h holding) bool {
	at := slices.IndexFunc(m.pendings, func(p *pending) bool {
		return p.claim == h.claim && (p.req.Addr == h.addr || !p.req.Addr.IsValid() && p.req.Subnet.Contains(h.addr))
	})
	if at < 0 {
		return false
	}
	p := m.pendings[at]
	m.pendings = slices.Delete(m.pendings, at, at+1)
	m.take(p, h.addr, kindForeign)
	m.entries[h.addr].asked = m.now
	return true
}

// onRefused ends requests for addresses that others have, and fences what is in
// use here.
func (m *Machine) onRefused(from crypto.Name, r *reader) error {
	n := r.count("refusals", maxHoldings, 8+5+16+2)
	var list []refusal
	for range n {
		var f refusal
		f.claim, f.addr = r.u64(), r.addr()
		f.holder, f.id = r.name(), r.text(16)
		list = append(list, f)
	}
	if err := r.end(); err != nil {
		return err
	}
	for _, f := range list {
		b, inside := m.lay.block(f.addr)
		if !inside || m.owner(b) != from {
			continue
		}
		if e := m.entries[f.addr]; e != nil && e.kind == kindForeign && e.claim == f.claim && !e.fenced {
			n := *e
			n.fenced, n.confirmed = true, false
			m.set(f.addr, &n)
			m.event(EventFenced, f.holder, f.addr, "%v, in use here by %q, belongs to %v: it is fenced", f.addr, e.id, f.holder)
		}
		at := slices.IndexFunc(m.pendings, func(p *pending) bool { return p.claim == f.claim && p.req.Addr == f.addr })
		if at >= 0 {
			m.refuse(m.pendings[at], fail(CauseInUse, "%v is in use on %v%s", f.addr, f.holder, by(f.id)))
			m.pendings = slices.Delete(m.pendings, at, at+1)
		}
	}
	return nil
}

// sendReturn tells the owner of an address that it is not needed any more.
func (m *Machine) sendReturn(a netip.Addr) {
	b, inside := m.lay.block(a)
	if m.genesis == nil || !inside || !m.reachable[m.owner(b)] {
		return
	}
	e := m.entries[a]
	e.asked = m.now
	m.sendReturns(m.owner(b), []holding{{a, e.claim}})
}

func (m *Machine) sendReturns(to crypto.Name, list []holding) {
	for len(list) > 0 {
		n := min(len(list), maxHoldings)
		m.post(to, putHold(m.message(msgReturn), list[:n]))
		list = list[n:]
	}
}

// onReturn puts to rest what a holder does not need any more.
func (m *Machine) onReturn(from crypto.Name, r *reader) error {
	list := r.holdings()
	if err := r.end(); err != nil {
		return err
	}
	if !m.listed {
		return nil
	}
	var done []holding
	var unknown []uint32
	for _, h := range list {
		b, inside := m.lay.block(h.addr)
		o := m.own[b]
		switch {
		case !inside || o != nil && o.frozen:
		case o == nil:
			unknown = append(unknown, b)
		default:
			e := m.entries[h.addr]
			if e != nil && e.kind == kindHeld && (e.holder == from && e.claim == h.claim || m.planted(bugReturnAny)) ||
				e != nil && m.planted(bugReturnAny) && e.kind == kindUsed {
				m.rest(h.addr)
			}
			done = append(done, h)
		}
	}
	if len(done) > 0 {
		m.post(from, putHold(m.message(msgReturned), done))
	}
	if len(unknown) > 0 && m.genesis != nil {
		m.post(from, m.appendFitting(m.message(msgChains), unknown))
	}
	return nil
}

func (m *Machine) onReturned(from crypto.Name, r *reader) error {
	list := r.holdings()
	if err := r.end(); err != nil {
		return err
	}
	for _, h := range list {
		e := m.entries[h.addr]
		if b, inside := m.lay.block(h.addr); inside && e != nil && e.kind == kindReturning && e.claim == h.claim && m.owner(b) == from {
			m.set(h.addr, nil)
		}
	}
	return nil
}

// audit reminds holders of what is noted for them and was not confirmed for long:
// what they do not know they give back.
func (m *Machine) audit() {
	if m.now.Before(m.nextAudit) || m.granting() != nil {
		return
	}
	m.nextAudit = m.now.Add(auditEvery)
	list := make(map[crypto.Name][]holding)
	for _, a := range sortedAddrs(m.entries) {
		if e := m.entries[a]; e.kind == kindHeld && m.reachable[e.holder] {
			list[e.holder] = append(list[e.holder], holding{a, e.claim})
		}
	}
	for _, n := range sortedNames(list) {
		for h := list[n]; len(h) > 0; {
			k := min(len(h), maxHoldings)
			m.post(n, putHold(put64(m.message(msgHeld), 0), h[:k]))
			h = h[k:]
		}
	}
}

// Attached is an address that something really has on this host.
type Attached struct {
	ID   string
	Addr netip.Prefix
}

// Listed says what is attached, before the first grant of a run. What was not known
// here becomes known: the state is older than what was attached.
func (m *Machine) Listed(now time.Time, list []Attached) {
	m.at(now)
	for _, l := range list {
		a := l.Addr.Addr()
		if checkID(l.ID) != nil || !a.IsValid() {
			continue
		}
		e := m.entries[a]
		if e != nil && (e.kind == kindUsed || e.kind == kindForeign || e.kind == kindOutside) {
			continue
		}
		if e != nil && e.kind == kindHeld { // what is noted is old: nothing else could be attached here
			m.event(EventConflict, e.holder, a, "%v, attached here to %q, was noted as held by %v: it stays here", a, l.ID, e.holder)
		}
		n := &entry{kind: kindOutside, bits: uint8(l.Addr.Bits()), id: l.ID}
		if b, inside := m.lay.block(a); inside && m.own[b] != nil {
			n.kind = kindUsed
		} else if inside {
			n.kind, n.claim = kindForeign, m.claimNumber()
		}
		m.set(a, n)
	}
	m.listed = true
	m.nextClaim = m.now
	m.evaluate()
	m.workRequests()
}
