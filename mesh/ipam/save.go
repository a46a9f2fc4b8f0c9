package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
)

// A journal is a file that begins with a snapshot and grows by saves:
//
//	"ripstop ipam" 12 | format 2 | frame (snapshot) | frame (save) | frame (save) | …
//	frame   length 4 | box: sealed by the host's key, so it is checked as well
//	text    kind 1 | number 8 | network 16 | puts: kind of thing 1 | its fields
//
// A put sets one thing to a value or removes it, so the last one counts. Numbers
// rise by one from frame to frame. A frame that is cut off at the end is a write
// that was interrupted, and whatever depended on it was not told to anybody.
const (
	journalMagic  = "ripstop ipam"
	journalFormat = 1
	frameSnapshot = 1
	frameSave     = 2
	maxFrame      = 16 << 20
)

var (
	// ErrDamaged: no journal that was handed over can be read from its beginning.
	ErrDamaged = errors.New("damaged")
	// ErrForeign: the journal is of another network, or of another range.
	ErrForeign = errors.New("not of this network and range")
)

// The kinds of things that are saved.
const (
	saveBoot byte = iota + 1
	saveStatement
	saveGenesis
	saveChain
	saveEntry
	saveWait
	saveOffer
	savePromise
	saveProof
)

// saveKey names one thing that is saved.
type saveKey struct {
	kind byte
	n    uint32
	name crypto.Name
	addr netip.Addr
}

func (k saveKey) compare(o saveKey) int {
	return cmp.Or(cmp.Compare(k.kind, o.kind), cmp.Compare(k.n, o.n), k.name.Compare(o.name), k.addr.Compare(o.addr))
}

// flight is a save that is on its way to the disk.
type flight struct {
	seq       uint64
	keys      []saveKey
	chains    []*chain
	statement *statement
	genesis   *genesis
	boot      uint32
	answers   []Answer
	bytes     int
	whole     bool
}

// touch makes a thing part of the next save, and that save come before anything else.
func (m *Machine) touch(k saveKey) { m.dirty[k] = true }

// touchLazy makes it part of the next save there is.
func (m *Machine) touchLazy(k saveKey) { m.lazy[k] = true }

// depart begins a save of all that has changed.
func (m *Machine) depart() *flight {
	f := &flight{seq: m.next, boot: m.boot, genesis: m.genesis, statement: m.statements[m.self]}
	m.next++
	for k := range m.lazy {
		m.dirty[k] = true
	}
	for k := range m.dirty {
		f.keys = append(f.keys, k)
		if r := m.registers[k.n]; k.kind == saveChain && r != nil {
			f.chains = append(f.chains, r.latest)
		}
	}
	slices.SortFunc(f.keys, saveKey.compare)
	slices.SortFunc(f.chains, func(a, b *chain) int { return cmp.Compare(a.block, b.block) })
	clear(m.dirty)
	clear(m.lazy)
	m.flight = f
	return f
}

// landed shows others what is durable now.
func (m *Machine) landed(f *flight) {
	if f.genesis == m.genesis {
		for _, c := range f.chains {
			m.showSaved(c)
		}
		if m.genesis != nil && !m.genesis.saved {
			m.genesis.saved, m.newsMap = true, true
		}
	}
	if f.statement != nil && !f.statement.saved {
		f.statement.saved, m.newsMap = true, true
	}
	if f.boot == m.boot {
		m.bootSaved = true
	}
}

func (m *Machine) encodeSave(seq uint64, keys []saveKey) []byte {
	b := m.head(frameSave, seq)
	u := m.newBundler()
	for _, k := range keys {
		b = m.put(b, u, k)
	}
	return m.frame(m.putBundle(b, u))
}

func (m *Machine) head(kind byte, seq uint64) []byte {
	return append(put64([]byte{kind}, seq), m.cfg.Network[:]...)
}

// encodeSnapshot writes everything.
func (m *Machine) encodeSnapshot(seq uint64) []byte {
	plain := m.snapshotText(seq)
	b := append([]byte(journalMagic), 0, journalFormat)
	return append(b, m.frame(plain)...)
}

func (m *Machine) snapshotText(seq uint64) []byte {
	b := m.head(frameSnapshot, seq)
	u := m.newBundler()
	b = m.put(b, u, saveKey{kind: saveBoot})
	b = m.put(b, u, saveKey{kind: saveStatement})
	b = m.put(b, u, saveKey{kind: saveGenesis})
	for _, a := range sortedAddrs(m.entries) {
		b = m.put(b, u, saveKey{kind: saveEntry, addr: a})
	}
	for _, n := range m.ownOrder {
		if !m.own[n].until.IsZero() {
			b = m.put(b, u, saveKey{kind: saveWait, n: n})
		}
	}
	for _, n := range sortedKeys(m.offers) {
		b = m.put(b, u, saveKey{kind: saveOffer, n: n})
	}
	for _, n := range sortedNames(m.promises) {
		b = m.put(b, u, saveKey{kind: savePromise, name: n})
	}
	for i := range m.proofs {
		b = m.put(b, u, saveKey{kind: saveProof, n: uint32(i)})
	}
	for _, n := range sortedKeys(m.registers) {
		b = m.put(b, u, saveKey{kind: saveChain, n: n})
	}
	return m.putBundle(b, u)
}

func (m *Machine) putBundle(b []byte, u *bundler) []byte {
	if u.n == 0 {
		return b
	}
	return u.append(append(b, saveChain, 1))
}

func (m *Machine) frame(plain []byte) []byte {
	box := m.sealState(plain)
	return append(put32(nil, uint32(len(box))), box...)
}

// put appends the present value of a thing; chains go to the bundle.
func (m *Machine) put(b []byte, u *bundler, k saveKey) []byte {
	switch k.kind {
	case saveBoot:
		b = append(b, saveBoot)
		return putBool(put32(b, m.boot), m.now.Before(m.recover))
	case saveStatement:
		if s := m.statements[m.self]; s != nil {
			b = s.append(append(b, saveStatement))
		}
	case saveGenesis:
		if m.genesis != nil {
			b = m.putGenesis(append(b, saveGenesis), m.genesis)
		}
	case saveChain:
		if r := m.registers[k.n]; r != nil {
			u.add(r.latest)
		} else {
			b = put32(append(b, saveChain, 0), k.n)
		}
	case saveEntry:
		b = putAddr(append(b, saveEntry), k.addr)
		e := m.entries[k.addr]
		if e == nil {
			return append(b, 0)
		}
		b = append(b, byte(e.kind), e.bits)
		b = putText(putBool(putBool(b, e.sticky), e.fenced), e.id)
		return put64(append(b, e.holder[:]...), e.claim)
	case saveWait:
		o := m.own[k.n]
		return putBool(put32(append(b, saveWait), k.n), o != nil && !o.until.IsZero())
	case saveOffer:
		b = put32(append(b, saveOffer), k.n)
		o := m.offers[k.n]
		b = putBool(b, o != nil)
		if o == nil {
			return b
		}
		b = append(put64(append(b, o.from[:]...), o.req), o.head[:]...)
		b = put16(b, len(o.notes))
		for _, n := range o.notes {
			b = put64(append(putAddr(b, n.addr), n.holder[:]...), n.claim)
		}
	case savePromise:
		if p := m.promises[k.name]; p != nil {
			b = append(append(b, savePromise), k.name[:]...)
			b = append(append(b, p.taker[:]...), p.digest[:]...)
		}
	case saveProof:
		p, v := m.proofs[k.n], m.newBundler()
		if p.a != nil {
			v.add(p.a)
		}
		v.add(p.b)
		b = v.append(append(b, saveProof))
	}
	return b
}

// Restore makes the machine of a host from its journals, the newest first. One
// that was written by a newer version is crypto.ErrNewerFormat, and one of another
// network or range ErrForeign: both must be left as they are. When none can be
// read, ErrDamaged.
func Restore(cfg Config, now time.Time, journals ...[]byte) (*Machine, error) {
	return restore(cfg, nil, now, journals...)
}

func restore(cfg Config, h *hooks, now time.Time, journals ...[]byte) (*Machine, error) {
	var last error
	for i, j := range journals {
		m, err := newMachine(cfg, h, now)
		if err != nil {
			return nil, err
		}
		lost, err := m.load(j)
		if errors.Is(err, crypto.ErrNewerFormat) || errors.Is(err, ErrForeign) {
			return nil, err
		}
		if err != nil {
			last = err
			continue
		}
		m.revive()
		if lost || i > 0 {
			m.lostState("the journal is damaged or was replaced by an older one")
		}
		return m, nil
	}
	return nil, last
}

// load reads one journal, and reports whether something within it is lost.
func (m *Machine) load(b []byte) (lost bool, err error) {
	damaged := func(what string) error { return fmt.Errorf("ipam: journal: %s: %w", what, ErrDamaged) }
	if len(b) < len(journalMagic)+2 || string(b[:len(journalMagic)]) != journalMagic {
		return false, damaged("no journal")
	}
	b = b[len(journalMagic):]
	if f := int(b[0])<<8 | int(b[1]); f > journalFormat {
		return false, fmt.Errorf("ipam: journal of format %d, this version knows %d: %w", f, journalFormat, crypto.ErrNewerFormat)
	}
	if b = b[2:]; len(b) == 0 {
		return false, damaged("empty")
	}
	for first := true; len(b) > 0; first = false {
		r := &reader{b: b}
		n := int(r.u32())
		if r.err != nil || n > maxFrame || n > len(r.b) {
			if first {
				return false, damaged("cut off")
			}
			return n > maxFrame && r.err == nil, nil
		}
		plain, err := m.openState(r.take(n))
		if err == nil {
			err = m.replay(plain, first)
		}
		if errors.Is(err, crypto.ErrNewerFormat) || errors.Is(err, ErrForeign) {
			return false, err
		}
		if err != nil {
			if first {
				return false, damaged(err.Error())
			}
			return len(r.b) > 0, nil
		}
		b = r.b
	}
	return false, nil
}

// replay applies one frame.
func (m *Machine) replay(plain []byte, first bool) error {
	r := &reader{b: plain}
	kind, seq := r.u8(), r.u64()
	if network := crypto.NetworkID(r.take(16)); r.err == nil && network != m.cfg.Network {
		return fmt.Errorf("ipam: journal of the network %v, this one is %v: %w", network, m.cfg.Network, ErrForeign)
	}
	if first != (kind == frameSnapshot) || !first && seq != m.seq+1 {
		return fmt.Errorf("frame %d of kind %d behind %d", seq, kind, m.seq)
	}
	for len(r.b) > 0 && r.err == nil {
		m.replayPut(r)
	}
	if r.err == nil {
		m.seq = seq
	}
	return r.err
}

func (m *Machine) replayPut(r *reader) {
	switch kind := r.u8(); kind {
	case saveBoot:
		m.boot = r.u32()
		if r.u8() == 1 {
			m.recover = m.now.Add(m.cfg.Rest)
		} else {
			m.recover = time.Time{}
		}
	case saveStatement:
		s := r.statement()
		s.saved = true
		m.statements[m.self] = s
	case saveGenesis:
		g := m.readGenesis(r)
		if r.err != nil {
			return
		}
		if g.prefix != m.lay.prefix {
			r.fail(fmt.Errorf("ipam: journal of the range %v, this host is to number %v: %w", g.prefix, m.lay.prefix, ErrForeign))
			return
		}
		g.saved = true
		m.genesis = g
	case saveChain:
		if r.u8() == 0 {
			delete(m.registers, r.u32())
			return
		}
		for _, c := range m.readBundle(r) {
			if r.err == nil && c.block < m.lay.blocks {
				m.registers[c.block] = &register{c, c}
				for _, s := range c.steps {
					if s.take != nil && m.genesis != nil && m.check(s.take) {
						m.takeovers[s.take.roots[s.take.part]] = s.take
					}
				}
			}
		}
	case saveEntry:
		m.replayEntry(r)
	case saveWait:
		b := r.u32()
		if r.u8() == 1 {
			m.own[b] = &ownBlock{until: m.now.Add(m.cfg.Rest)}
		} else {
			delete(m.own, b)
		}
	case saveOffer:
		b := r.u32()
		delete(m.offers, b)
		if r.u8() == 0 {
			return
		}
		o := &offer{from: r.name(), req: r.u64(), head: r.hash()}
		for range r.count("notes", maxNotes, 5+16+8) {
			o.notes = append(o.notes, note{r.addr(), r.name(), r.u64()})
		}
		m.offers[b] = o
	case savePromise:
		n := r.name()
		m.promises[n] = &promise{r.name(), r.hash(), m.now}
	case saveProof:
		if l := m.readBundle(r); len(l) == 2 {
			m.proofs = append(m.proofs, proof{l[0], l[1]})
		} else if len(l) == 1 {
			m.proofs = append(m.proofs, proof{b: l[0]})
		}
	default:
		r.fail(fmt.Errorf("ipam: journal: thing of kind %d", kind))
	}
}

func (m *Machine) replayEntry(r *reader) {
	a := r.addr()
	k := kind(r.u8())
	if k == 0 {
		delete(m.entries, a)
		return
	}
	e := &entry{kind: k, bits: r.u8(), sticky: r.u8() == 1, fenced: r.u8() == 1}
	e.id, e.holder, e.claim = r.text(MaxID), r.name(), r.u64()
	if k > kindOutside || k == kindKept && e.id == "" {
		r.fail(fmt.Errorf("ipam: journal: entry of kind %d", k))
	}
	if k == kindRest || k == kindKept {
		e.until = m.now.Add(m.cfg.Rest)
	}
	m.entries[a] = e
}

// revive computes what is not saved, and begins another start of this host.
func (m *Machine) revive() {
	entries := m.entries
	waits := m.own
	m.entries, m.own = make(map[netip.Addr]*entry), make(map[uint32]*ownBlock)
	if m.genesis != nil {
		for _, b := range sortedKeys(m.registers) {
			c := m.registers[b].saved
			m.extra += len(c.steps) - 1
			m.registers[b].saved = nil
			m.showSaved(c)
		}
		clear(m.news)
		for b := range m.lay.blocks {
			if m.owner(b) == m.self {
				o := &ownBlock{reserved: m.reserved(b)}
				if w := waits[b]; w != nil {
					o.until, m.waiting = w.until, true
				}
				m.own[b] = o
				m.ownOrder = append(m.ownOrder, b)
			}
		}
	}
	if !m.planted(bugForgetUsed) {
		for _, a := range sortedAddrs(entries) {
			m.set(a, entries[a])
		}
	}
	m.foundAsked = false
	m.restored, m.rewrite = true, true
	m.next = m.seq + 1
	m.diskBoot, m.diskSeq = m.boot, m.seq
	m.newBoot(m.boot + 1)
}
