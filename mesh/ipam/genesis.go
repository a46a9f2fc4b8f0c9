package ipam

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ripstop/crypto"
)

const (
	maxFounders = 256
	maxReported = 64  // geneses and ranges of others that are told of in one run
	maxMissing  = 256 // bytes of the text about targets that were never reached

	statementLabel = "ripstop ipam statement v1"
	founderLabel   = "ripstop ipam founder v1"
	genesisLabel   = "ripstop ipam genesis v1"
)

// statement is what a host says before there is a map: whom it was told to dial,
// and its latest list of founders. Its list only ever grows.
//
//	origin's keys 64 | count 4 | range | targets | missing | list | list signature 64 | signature 64
type statement struct {
	keys    crypto.PublicKeys
	origin  crypto.Name
	count   uint32 // of this origin's statements
	prefix  netip.Prefix
	targets []crypto.Name // by name, without the origin
	missing string        // targets whose name is not known yet; empty: none
	list    []crypto.Name // founders, by name; empty: none signed yet
	listSig crypto.Signature
	sig     crypto.Signature

	saved bool // one's own only: may be told
}

// genesis is where the map begins: a pure function of the range and the founders.
type genesis struct {
	prefix   netip.Prefix
	founders []crypto.Name
	sigs     []crypto.Signature // of the founders
	hash     hash
	granted  bool // somebody has an address by it
	saved    bool
}

func (g *genesis) owner(l layout, b uint32) crypto.Name {
	return g.founders[l.founder(b, len(g.founders))]
}

func (g *genesis) record(l layout, b uint32) hash { return genesisRecord(g.hash, b, g.owner(l, b)) }

// listText is what a founder signs.
func listText(prefix netip.Prefix, list []crypto.Name) []byte {
	return putNames(putPrefix(nil, prefix), list)
}

func genesisHash(network crypto.NetworkID, prefix netip.Prefix, list []crypto.Name) hash {
	b := append([]byte(genesisLabel), network[:]...)
	return sha256.Sum256(append(b, listText(prefix, list)...))
}

// Targets says whom this host was told to dial: the names it has learned, and a
// text for each target that it never reached.
func (m *Machine) Targets(now time.Time, names []crypto.Name, missing []string) {
	m.at(now)
	targets := slices.Clone(names)
	targets = slices.DeleteFunc(targets, func(n crypto.Name) bool { return n == m.self || n.IsZero() })
	slices.SortFunc(targets, crypto.Name.Compare)
	targets = slices.Compact(targets)
	text := strings.Join(missing, ", ")
	if len(targets) > maxFounders-1 {
		targets, text = nil, "more than 256 targets: run `ripstop ipam start` on one host"
	}
	text = text[:min(len(text), maxMissing)]
	old := m.statements[m.self]
	if old != nil && slices.Equal(old.targets, targets) && old.missing == text {
		return
	}
	s := &statement{targets: targets, missing: text}
	if old != nil {
		s.list, s.listSig = old.list, old.listSig
	}
	m.state(s)
	m.evaluate()
}

// state makes s this host's statement.
func (m *Machine) state(s *statement) {
	s.origin, s.keys, s.prefix, s.count = m.self, m.cfg.Identity.Public(), m.lay.prefix, 1
	if old := m.statements[m.self]; old != nil {
		s.count = old.count + 1
	}
	s.sig = m.sign(statementLabel, s.text())
	m.statements[m.self] = s
	m.touch(saveKey{kind: saveStatement})
}

// text is what the statement's signature covers.
func (s *statement) text() []byte {
	b := putKeys(nil, s.keys)
	b = put32(b, s.count)
	b = putPrefix(b, s.prefix)
	b = putNames(b, s.targets)
	b = putText(b, s.missing)
	b = putNames(b, s.list)
	return append(b, s.listSig[:]...)
}

// mergeStatement takes another host's statement, and reports whether it is news.
func (m *Machine) mergeStatement(s *statement) bool {
	old := m.statements[s.origin]
	if s.origin == m.self {
		m.mergeOwn(s)
		return false
	}
	if m.genesis != nil || old != nil && old.count >= s.count || len(m.statements) >= maxFounders*2 && old == nil {
		return false
	}
	if s.prefix != m.lay.prefix {
		m.otherRange(s.origin, s.prefix)
		return false
	}
	m.know(s.keys)
	if !m.verify(s.origin, s.sig, statementLabel, s.text()) ||
		len(s.list) > 0 && !m.verify(s.origin, s.listSig, founderLabel, listText(s.prefix, s.list)) {
		m.stats.RefusedRecords++
		return false
	}
	m.statements[s.origin] = s
	m.newsMap = true
	return true
}

// mergeOwn takes what others remember of this host's statement: one that this host
// does not know is a sign that its state was lost, and its list still binds.
func (m *Machine) mergeOwn(s *statement) {
	own := m.statements[m.self]
	if m.genesis != nil || own != nil && (own.count > s.count || bytes.Equal(own.text(), s.text())) ||
		s.prefix != m.lay.prefix || !m.verify(m.self, s.sig, statementLabel, s.text()) {
		return
	}
	m.lostState("another host remembers a statement that this one does not know")
	list := s.list
	now := &statement{targets: s.targets, missing: s.missing}
	if own != nil {
		list = union(s.list, own.list)
		now.targets, now.missing = own.targets, own.missing
	}
	m.statements[m.self] = s
	if len(list) > 0 {
		now.list, now.listSig = list, m.sign(founderLabel, listText(m.lay.prefix, list))
	}
	m.state(now)
}

// otherRange tells once that somebody numbers another range.
func (m *Machine) otherRange(host crypto.Name, prefix netip.Prefix) {
	key := sha256.Sum256(putPrefix([]byte("range"), prefix))
	if !m.refused[key] && len(m.refused) < maxReported {
		m.refused[key] = true
		m.strange = fmt.Sprintf("%v numbers the range %v, this host %v: start all with one --ipalloc-range", host, prefix, m.lay.prefix)
		m.event(EventRange, host, netip.Addr{}, "%s", m.strange)
	}
}

// component are the hosts that targets connect with this one, by name, and the
// host whose word is still lacking, with the reason.
func (m *Machine) component() (all []crypto.Name, lacks string) {
	back := make(map[crypto.Name][]crypto.Name)
	for _, s := range m.statements {
		for _, t := range s.targets {
			back[t] = append(back[t], s.origin)
		}
	}
	seen := map[crypto.Name]bool{m.self: true}
	queue := []crypto.Name{m.self}
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		all = append(all, n)
		next := back[n]
		if s := m.statements[n]; s != nil {
			next = append(slices.Clone(next), s.targets...)
		}
		for _, t := range next {
			if !seen[t] {
				seen[t] = true
				queue = append(queue, t)
			}
		}
	}
	slices.SortFunc(all, crypto.Name.Compare)
	for _, n := range all {
		if s := m.statements[n]; s == nil {
			return all, n.String() + ", which was never heard"
		} else if s.missing != "" {
			return all, s.missing + ", which " + n.String() + " never reached"
		}
	}
	return all, ""
}

// evaluate signs this host's list of founders when it is known, and completes the
// genesis when all founders have signed the same one.
func (m *Machine) evaluate() {
	own := m.statements[m.self]
	if m.genesis != nil || own == nil || !m.contactable() {
		return
	}
	all, lacks := m.component()
	if lacks == "" && len(all) <= maxFounders {
		list := union(own.list, all)
		if m.planted(bugListShrinks) {
			list = all
		}
		alone := len(list) == 1
		if !slices.Equal(list, own.list) && (!alone || m.foundAsked) {
			m.signList(list)
		}
	}
	m.complete()
}

// contactable reports whether this host may found or grant at all.
func (m *Machine) contactable() bool { return !m.left && m.cloned == 0 }

// signList states a new list of founders.
func (m *Machine) signList(list []crypto.Name) {
	own := m.statements[m.self]
	m.signed[genesisHash(m.cfg.Network, m.lay.prefix, list)] = true
	m.state(&statement{
		targets: own.targets, missing: own.missing, list: list,
		listSig: m.sign(founderLabel, listText(m.lay.prefix, list)),
	})
}

// complete makes the genesis of this host's latest list if every founder has
// signed exactly that list. After that this host signs no more.
func (m *Machine) complete() {
	own := m.statements[m.self]
	if own == nil || len(own.list) == 0 {
		return
	}
	g := &genesis{prefix: m.lay.prefix, founders: own.list}
	for _, n := range own.list {
		s := m.statements[n]
		if s == nil || !slices.Equal(s.list, own.list) {
			return
		}
		g.sigs = append(g.sigs, s.listSig)
	}
	g.hash = genesisHash(m.cfg.Network, g.prefix, g.founders)
	m.found(g, true)
}

// found makes g this host's genesis. Fresh: this host certainly never gave out
// anything by it.
func (m *Machine) found(g *genesis, fresh bool) {
	m.genesis = g
	m.touch(saveKey{kind: saveGenesis})
	first := slices.Index(g.founders, m.self)
	for b := range m.lay.blocks {
		if first >= 0 && m.lay.founder(b, len(g.founders)) == first {
			m.acquire(b, fresh)
		}
	}
	m.newsMap = true
	m.event(EventJoined, crypto.Name{}, netip.Addr{}, "the address map of %d founders holds", len(g.founders))
	m.workRequests()
}

// Start makes a map with this host as the only founder: the operator's word that
// no other host makes one. The answer comes when the map is durable.
func (m *Machine) Start(now time.Time) uint64 {
	m.at(now)
	m.requests++
	p := &pending{id: m.requests}
	list := []crypto.Name{m.self}
	g := &genesis{prefix: m.lay.prefix, founders: list, hash: genesisHash(m.cfg.Network, m.lay.prefix, list)}
	switch {
	case !m.contactable():
		m.refuse(p, m.granting())
	case m.genesis != nil && (m.genesis.saved || m.genesis.hash != g.hash):
		m.refuse(p, fail(CauseRefused, "there is an address map already, begun by %d founders", len(m.genesis.founders)))
	default:
		if m.genesis == nil { // else it is this one, which could not be saved yet
			g.sigs = []crypto.Signature{m.sign(founderLabel, listText(m.lay.prefix, list))}
			m.found(g, true)
		}
		m.answers = append(m.answers, Answer{Request: p.id})
	}
	return p.id
}

// mergeGenesis takes a genesis that somebody told.
func (m *Machine) mergeGenesis(from crypto.Name, g *genesis) {
	if m.genesis != nil && m.genesis.hash == g.hash {
		if g.granted && !m.genesis.granted {
			m.genesis.granted = true
			m.touch(saveKey{kind: saveGenesis})
			m.newsMap = true
		}
		return
	}
	if g.prefix != m.lay.prefix {
		m.otherRange(from, g.prefix)
		return
	}
	text := listText(g.prefix, g.founders)
	for i, n := range g.founders {
		if !m.verify(n, g.sigs[i], founderLabel, text) {
			m.stats.RefusedRecords++
			return
		}
	}
	if m.genesis == nil {
		// Of a list that this run signed, maybe a longer one since, nothing can have been
		// given out before the genesis was heard.
		own := m.statements[m.self]
		m.found(g, m.signed[g.hash] || own != nil && slices.Equal(own.list, g.founders))
		return
	}
	mine := m.genesis.granted || m.inUse() > 0
	switch {
	case mine && g.granted:
		m.met = g
		if !m.refused[g.hash] && len(m.refused) < maxReported {
			m.refused[g.hash] = true
			m.event(EventMeeting, from, netip.Addr{},
				"%v belongs to another address map (%x…, this one is %x…) and both have given out addresses: both go on; decide for one and run `ripstop ipam adopt` on the hosts of the other", from, g.hash[:4], m.genesis.hash[:4])
		}
	case mine:
	case g.granted || bytes.Compare(g.hash[:], m.genesis.hash[:]) < 0:
		m.change(from, g)
	}
}

// Adopt leaves this host's map for the one that was met: what is in use here is
// claimed there, and fenced where it clashes. The answer comes when that is durable.
func (m *Machine) Adopt(now time.Time) uint64 {
	m.at(now)
	m.requests++
	p := &pending{id: m.requests}
	same := m.met != nil && m.genesis != nil && m.met.hash == m.genesis.hash
	if m.met == nil || same && m.genesis.saved {
		m.refuse(p, fail(CauseRefused, "no other address map was met"))
		return p.id
	}
	if !same { // else it could not be saved yet
		m.change(crypto.Name{}, m.met)
	}
	m.answers = append(m.answers, Answer{Request: p.id})
	return p.id
}

// change goes over to another genesis.
func (m *Machine) change(from crypto.Name, g *genesis) {
	m.event(EventMeeting, from, netip.Addr{}, "this host goes over to the address map %x…", g.hash[:4])
	if m.genesis != nil {
		for _, b := range m.ownOrder {
			m.surrender(b)
		}
		m.own, m.ownOrder = make(map[uint32]*ownBlock), nil
	}
	m.forgetMap()
	m.found(&genesis{prefix: g.prefix, founders: g.founders, sigs: g.sigs, hash: g.hash, granted: g.granted}, false)
	m.reclaim()
}

// inUse counts addresses that workloads have by this host's word.
func (m *Machine) inUse() int {
	n := 0
	for _, e := range m.entries {
		if e.kind == kindUsed || e.kind == kindHeld || e.kind == kindForeign {
			n++
		}
	}
	return n
}

// markGranted notes for all that the genesis has been used.
func (m *Machine) markGranted() {
	if !m.genesis.granted {
		m.genesis.granted = true
		m.touch(saveKey{kind: saveGenesis})
		m.newsMap = true
	}
}

// union joins two sorted lists.
func union(a, b []crypto.Name) []crypto.Name {
	all := append(slices.Clone(a), b...)
	slices.SortFunc(all, crypto.Name.Compare)
	return slices.Compact(all)
}
