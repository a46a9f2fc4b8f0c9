package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"ripstop/crypto"
)

const (
	hintLabel   = "ripstop ipam hint v1"
	hintEvery   = 5 * time.Second
	digestHints = 16
	maxHints    = 8192
)

// hint is what a host says about itself: how often it started and saved, which
// tells whether it lost its state, and how much it has free, which is worth
// nothing but to know whom to ask first.
//
//	keys 64 | boot 4 | count 4 | uid 8 | saves 8 | free addresses 4 | free blocks 4 | signature 64
type hint struct {
	keys         crypto.PublicKeys
	origin       crypto.Name
	boot, count  uint32 // start of this host, hint of this start
	uid          crypto.UID
	seq          uint64
	free, blocks uint32
	sig          crypto.Signature
}

func (h *hint) text() []byte {
	b := putKeys(nil, h.keys)
	b = put32(put32(b, h.boot), h.count)
	b = put64(put64(b, uint64(h.uid)), h.seq)
	return put32(put32(b, h.free), h.blocks)
}

func (h *hint) sum() uint64 {
	s := sha256.Sum256(h.text())
	return binary.BigEndian.Uint64(s[:])
}

// later reports whether h was said after o.
func (h *hint) later(o *hint) bool {
	if h.boot != o.boot {
		return h.boot > o.boot
	}
	return h.count > o.count
}

// newBoot begins the numbers of another start of this host.
func (m *Machine) newBoot(boot uint32) {
	// Numbers of another start must not look like this one's, also where that start is
	// forgotten and had the same boot.
	first := m.cfg.Random.Uint32() >> 8
	m.boot, m.claims, m.bootSaved = boot, first, false
	m.requests = uint64(boot)<<32 | uint64(first)
	m.touch(saveKey{kind: saveBoot})
}

// publishHint says what this host has, when that changed.
func (m *Machine) publishHint() {
	if !m.bootSaved || m.genesis == nil || m.now.Sub(m.hinted) < hintEvery ||
		m.restored && !m.contact && m.now.Sub(m.start) < contactWait { // hear first what others remember
		return
	}
	m.hinted = m.now
	free, blocks := m.free()
	h := &hint{keys: m.cfg.Identity.Public(), origin: m.self, boot: m.boot, count: 1, uid: m.cfg.UID, seq: m.seq, free: free, blocks: blocks}
	if old := m.hints[m.self]; old != nil && old.boot == m.boot {
		if old.seq == h.seq && old.free == free && old.blocks == blocks {
			return
		}
		h.count = old.count + 1
	}
	h.sig = m.sign(hintLabel, h.text())
	m.putHint(h)
}

func (m *Machine) putHint(h *hint) {
	g := h.origin[0] % digestHints
	if old := m.hints[h.origin]; old != nil {
		m.hintSum[g] ^= old.sum()
	}
	m.hintSum[g] ^= h.sum()
	m.hints[h.origin] = h
	m.newsHint[h.origin] = true
}

// mergeHint takes what a host said of itself, and finds out when that host is this
// one in another life.
func (m *Machine) mergeHint(h *hint) bool {
	if h.origin == m.self {
		m.meetSelf(h)
		return false
	}
	old := m.hints[h.origin]
	if old != nil && !h.later(old) || old == nil && len(m.hints) >= maxHints {
		return false
	}
	m.know(h.keys)
	if !m.verify(h.origin, h.sig, hintLabel, h.text()) {
		m.stats.RefusedRecords++
		return false
	}
	m.putHint(h)
	return true
}

// meetSelf compares what others remember of this host with what it knows. A later
// start or save than the journal's means that its state was lost or an old one was put
// back; when the other life answers to this one's next start, it lives: a clone. It is
// not compared with m.boot, which rises in a run (skipClaims).
func (m *Machine) meetSelf(h *hint) {
	later := h.boot > m.diskBoot || h.boot == m.diskBoot && h.seq > m.diskSeq
	if !later || h.uid == m.cfg.UID || !m.verify(m.self, h.sig, hintLabel, h.text()) {
		return
	}
	if m.otherLife == h.uid {
		if m.cloned == 0 {
			m.cloned = h.uid
			m.event(EventClone, m.self, netip.Addr{}, "another machine runs with this host's identity (run %v): this one gives out nothing more", h.uid)
		}
		return
	}
	m.otherLife = h.uid
	m.lostState("others know of a later run of this host")
	if h.boot >= m.boot && h.boot < 1<<31 {
		m.newBoot(h.boot + 1)
	}
	m.diskBoot, m.diskSeq = h.boot, math.MaxUint64 // what else is remembered of that start is no news
	m.hinted = time.Time{}
	for _, a := range sortedAddrs(m.entries) {
		if e := m.entries[a]; e.kind == kindForeign || e.kind == kindReturning {
			n := *e
			n.claim = m.claimNumber()
			m.set(a, &n)
		}
	}
	m.reclaim()
}

// lostState counts all of this host's addresses as used until others have had
// time to say what they hold.
func (m *Machine) lostState(why string) {
	if m.planted(bugNoQuarantine) {
		return
	}
	m.recover = m.now.Add(m.cfg.Rest)
	for b, o := range m.own {
		m.quarantine(b, o, m.recover)
	}
	m.touch(saveKey{kind: saveBoot})
	m.event(EventRecovery, m.self, netip.Addr{}, "%s: its address table was lost or is old; nothing is given out for %v", why, m.cfg.Rest)
}
