package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"ripstop/crypto"
)

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

// Name implements gossip.Dataset.
func (m *Machine) Name() string { return datasetName }

// Merge implements gossip.Dataset. What is news is announced once it is saved, by
// Ready; so nothing is ever returned to be passed on.
func (m *Machine) Merge(now time.Time, from crypto.Name, delta []byte) ([]byte, error) {
	m.at(now)
	m.sweepKeys()
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
		if r := m.registers[n]; r != nil && r.saved != nil && !u.addFitting(r.saved, maxDelta-len(b)-9) {
			break
		}
	}
	if u.n == 0 {
		return b
	}
	b = append(append(b, sectionChains), m.genesis.hash[:8]...)
	return u.append(b)
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
