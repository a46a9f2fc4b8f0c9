package ipam

import (
	"crypto/sha256"
	"slices"
	"time"

	"ripstop/crypto"
)

// removal is an `rmpeer` that goes on.
type removal struct {
	id       uint64
	victim   crypto.Name
	forced   bool
	deadline time.Time
	started  time.Time
	next     time.Time
	parts    []*takeover
	digest   hash
	signed   []witness
	no       map[crypto.Name]string
}

// promise is a witness's word that it signs for one taker only.
type promise struct {
	taker  crypto.Name
	digest hash
	at     time.Time
}

// Remove takes the blocks of a host that the operator says is destroyed. Witnesses
// that have not heard it for 60 s must sign: three, or all hosts in reach if they
// are fewer; with none in reach only force helps.
func (m *Machine) Remove(now time.Time, victim crypto.Name, force bool) uint64 {
	m.at(now)
	m.requests++
	p := &pending{id: m.requests}
	n := 0
	if m.genesis != nil {
		n = len(m.blocksOf(victim))
	}
	_, named := m.keys[victim]
	switch {
	case victim == m.self:
		m.refuse(p, fail(CauseRefused, "a host does not remove itself: run `ripstop leave` here"))
	case m.genesis == nil:
		m.refuse(p, m.reason(p, new(round)))
	case n == 0 && !named && m.hints[victim] == nil:
		m.refuse(p, fail(CauseUnknown, "no host %v is known", victim))
	case m.removal != nil:
		m.refuse(p, fail(CauseRefused, "the removal of %v goes on already", m.removal.victim))
	case m.granting() != nil:
		m.refuse(p, m.granting())
	case m.silence(victim) < silentFor:
		m.refuse(p, fail(CauseRefused, "%v was heard %v ago, and may only be removed after %v of silence: while it runs, `ripstop leave` on it hands its blocks over", victim, m.silence(victim).Round(time.Second), silentFor))
	case n == 0:
		m.answers = append(m.answers, Answer{Request: p.id})
	case len(m.reachable) == 0 && !force:
		m.refuse(p, fail(CauseRefused, "no other host is in reach to witness that %v is gone: if it is this host that is cut off, both sides would give out the same addresses; --force if not", victim))
	default:
		m.removal = &removal{id: p.id, victim: victim, forced: force && len(m.reachable) == 0,
			started: m.now, deadline: m.now.Add(m.cfg.Deadline), no: make(map[crypto.Name]string)}
		m.workRemoval()
	}
	return p.id
}

func (m *Machine) blocksOf(host crypto.Name) (list []uint32) {
	for b := range m.lay.blocks {
		if m.owner(b) == host {
			list = append(list, b)
		}
	}
	return list
}

// plan is the takeover of what victim owns in this host's view.
func (m *Machine) plan(victim, taker crypto.Name, forced bool) []*takeover {
	var parts []*takeover
	var roots []hash
	blocks := m.blocksOf(victim)
	for len(blocks) > 0 {
		n := min(len(blocks), takePart)
		t := &takeover{victim: victim, taker: taker, forced: forced, part: len(parts)}
		for _, b := range blocks[:n] {
			term, _, h := m.place(b)
			t.entries = append(t.entries, takeEntry{b, term + 1, h})
		}
		roots = append(roots, t.partRoot(m.genesis.hash))
		parts = append(parts, t)
		blocks = blocks[n:]
	}
	for _, t := range parts {
		t.roots = roots
	}
	return parts
}

// workRemoval asks witnesses, and takes the blocks when enough have signed.
func (m *Machine) workRemoval() {
	r := m.removal
	if r == nil || m.now.Before(r.next) {
		return
	}
	end := func(err error) {
		m.refuse(&pending{id: r.id}, err)
		m.removal = nil
	}
	if m.silence(r.victim) < silentFor {
		end(fail(CauseRefused, "%v was heard meanwhile", r.victim))
		return
	}
	if !m.now.Before(r.deadline) {
		text := "of the hosts in reach too few answered"
		if names := sortedNames(r.no); len(names) > 0 {
			text = names[0].String() + " " + r.no[names[0]]
		}
		end(fail(CauseRefused, "%v is not removed: %s", r.victim, text))
		return
	}
	r.next = m.now.Add(retryAsk)
	parts := m.plan(r.victim, m.self, r.forced)
	if len(parts) == 0 {
		m.answers = append(m.answers, Answer{Request: r.id})
		m.removal = nil
		return
	}
	text := parts[0].text(m.genesis.hash)
	if digest := sha256.Sum256(text); digest != r.digest {
		r.digest, r.parts, r.signed = digest, parts, nil
	}
	able := sortedNames(m.reachable)
	able = slices.DeleteFunc(able, func(n crypto.Name) bool { return n == r.victim })
	need := min(maxWitnesses, len(able))
	if r.forced {
		need = 0
	} else if need == 0 {
		return // they went out of reach meanwhile
	}
	if len(r.signed) >= need {
		m.takeOver(r)
		return
	}
	if m.now.Sub(r.started) < 3*time.Second {
		able = able[:need] // all takers ask the same ones first: one of two cannot succeed
	}
	for _, n := range able {
		if !slices.ContainsFunc(r.signed, func(w witness) bool { return w.name == n }) {
			b := append(m.message(msgWitness), r.victim[:]...)
			m.post(n, append(b, r.digest[:]...))
		}
	}
}

// takeOver makes this host the owner of the victim's blocks.
func (m *Machine) takeOver(r *removal) {
	own := m.sign(takeoverLabel, r.parts[0].text(m.genesis.hash))
	witnesses := append(slices.Clone(r.signed), witness{m.self, own})
	slices.SortFunc(witnesses, func(a, b witness) int { return a.name.Compare(b.name) })
	n := 0
	for _, t := range r.parts {
		t.witnesses = witnesses
		for _, e := range t.entries {
			s := step{term: e.term, owner: m.self, take: t}
			if m.planted(bugTermByHundred) {
				_, num, _ := m.place(e.block)
				s = step{term: e.term - 1, num: num + 100, owner: m.self}
			}
			c := &chain{block: e.block, prior: r.victim, before: e.before, steps: []step{s}}
			m.accept(m.joined(c.seal(m.genesis.hash), -1))
			n++
		}
	}
	word := ""
	if r.forced {
		word = ", forced, without a witness"
	}
	m.event(EventTaken, r.victim, m.lay.addr(r.parts[0].entries[0].block*m.lay.size), "took %d blocks of %v%s", n, r.victim, word)
	m.answers = append(m.answers, Answer{Request: r.id, Count: n})
	m.removal = nil
	m.workRequests()
}

// onWitness signs that this host has not heard the victim, if its view of the
// victim's blocks is the taker's.
func (m *Machine) onWitness(from crypto.Name, r *reader) error {
	victim, digest := crypto.Name(r.take(16)), r.hash()
	if err := r.end(); err != nil {
		return err
	}
	no := func(text string) { m.post(from, putText(append(m.message(msgWitnessNo), victim[:]...), text)) }
	if m.granting() != nil {
		return nil
	}
	if victim == m.self {
		no("is the host itself, and lives")
		return nil
	}
	if s := m.silence(victim); s < silentFor {
		no("has heard or awaited it within " + silentFor.String())
		return nil
	}
	if m.removal != nil && m.removal.victim == victim && m.self.Compare(from) < 0 { // of two takers the lower name goes on
		no("is removing it itself")
		return nil
	}
	p := m.promises[victim]
	if p != nil && p.taker != from && m.now.Sub(p.at) < promiseFor {
		no("has signed for " + p.taker.String())
		return nil
	}
	parts := m.plan(victim, from, false)
	if len(parts) == 0 {
		no("knows no block of it")
		return nil
	}
	text := parts[0].text(m.genesis.hash)
	if sha256.Sum256(text) != digest {
		no("sees its blocks otherwise; the maps need a moment to be the same")
		m.post(from, m.appendFitting(m.message(msgChains), m.movedOf(victim)))
		return nil
	}
	if p == nil || p.taker != from || p.digest != digest {
		m.promises[victim] = &promise{from, digest, m.now}
		m.touch(saveKey{kind: savePromise, name: victim})
	}
	sig := m.sign(takeoverLabel, text)
	b := append(m.message(msgWitnessed), victim[:]...)
	b = append(append(b, digest[:]...), sig[:]...)
	m.post(from, putKeys(b, m.cfg.Identity.Public()))
	return nil
}

// movedOf are some blocks that a host has or had, newest facts first, for another
// host that sees them otherwise.
func (m *Machine) movedOf(host crypto.Name) (list []uint32) {
	for _, b := range sortedKeys(m.registers) {
		c := m.held(b)
		if c.prior == host || slices.ContainsFunc(c.steps, func(s step) bool { return s.owner == host }) {
			list = append(list, b)
		}
	}
	if len(list) > 8 {
		m.turn += 8
		list = turned(list, m.turn)[:8]
	}
	return list
}

func (m *Machine) onWitnessed(from crypto.Name, r *reader) error {
	victim, digest, sig := crypto.Name(r.take(16)), r.hash(), r.sig()
	keys := r.keys()
	if err := r.end(); err != nil {
		return err
	}
	q := m.removal
	if q == nil || q.victim != victim || q.digest != digest || keys.Name() != from ||
		slices.ContainsFunc(q.signed, func(w witness) bool { return w.name == from }) {
		return nil
	}
	m.know(keys)
	if !m.verify(from, sig, takeoverLabel, q.parts[0].text(m.genesis.hash)) {
		m.stats.RefusedRecords++
		return nil
	}
	if len(q.signed) < maxWitnesses {
		q.signed = append(q.signed, witness{from, sig})
	}
	q.next = m.now
	m.workRemoval()
	return nil
}

func (m *Machine) onWitnessNo(from crypto.Name, r *reader) error {
	victim := r.name()
	text := r.text(128)
	if err := r.end(); err != nil {
		return err
	}
	if q := m.removal; q != nil && q.victim == victim {
		q.no[from] = text
	}
	return nil
}
