package ipam

import (
	"encoding/hex"
	"net/netip"
	"strings"

	"ripstop/crypto"
)

// HostStatus is what is known of one host's share.
type HostStatus struct {
	Host      crypto.Name
	Blocks    int
	Addresses int    // in its blocks
	Free      uint32 // as it said last, but no more than it has; of this host: now
	Reachable bool   // always true of this host
}

// Run is a range of addresses with one owner.
type Run struct {
	First, Last netip.Addr
	Owner       crypto.Name
}

// Use is one address that is not simply free here.
type Use struct {
	Addr   netip.Prefix
	ID     string      // of the workload here
	State  string      // used, held, resting, kept, foreign, returning, outside, fenced
	Holder crypto.Name // State held: who has it
	Owner  crypto.Name // whose block it is in; zero without a map or outside
}

// Status is a picture of what one host knows.
type Status struct {
	Range    netip.Prefix
	Range6   netip.Prefix // zero without twins
	Map      string       // the genesis' hash, 8 digits; empty: none yet
	Founders []crypto.Name
	Waiting  string // why there is no map yet, or why this host gives out nothing
	Hosts    []HostStatus
	Used     int // here, in own and others' blocks
	Held     int // of own blocks, by other hosts
	Resting  int
	Fenced   int
	Pending  int // requests
	Stats    Stats
}

// Status describes the present state.
func (m *Machine) Status() Status {
	s := Status{Range: m.lay.prefix, Stats: m.stats, Pending: len(m.pendings)}
	if !m.cfg.NoIPv6 && m.lay.prefix.Addr().Is4() {
		s.Range6 = ULA(m.cfg.Network)
	}
	for _, e := range m.entries {
		switch e.kind {
		case kindUsed, kindForeign, kindOutside:
			s.Used++
			if e.fenced {
				s.Fenced++
			}
		case kindHeld:
			s.Held++
		case kindRest, kindKept:
			s.Resting++
		}
	}
	if err := m.granting(); err != nil {
		s.Waiting = strings.TrimPrefix(err.Error(), "ipam: ")
	}
	if m.genesis == nil {
		s.Waiting = strings.TrimPrefix(m.reason(&pending{}, new(round)).Error(), "ipam: ")
		return s
	}
	s.Map = hex.EncodeToString(m.genesis.hash[:4])
	s.Founders = m.genesis.founders
	blocks := map[crypto.Name]int{m.self: len(m.ownOrder)}
	for b := range m.lay.blocks {
		if o := m.owner(b); o != m.self {
			blocks[o]++
		}
	}
	for n := range m.hints {
		blocks[n] += 0
	}
	for _, n := range sortedNames(blocks) {
		h := HostStatus{Host: n, Blocks: blocks[n], Addresses: blocks[n] * int(m.lay.size), Reachable: n == m.self || m.reachable[n]}
		if n == m.self {
			h.Free, _ = m.free()
		} else if m.hints[n] != nil {
			h.Free = min(m.hints[n].free, uint32(h.Addresses))
		}
		s.Hosts = append(s.Hosts, h)
	}
	return s
}

// Runs are the ranges with one owner, in address order.
func (m *Machine) Runs() (runs []Run) {
	if m.genesis == nil {
		return nil
	}
	for b := range m.lay.blocks {
		o, last := m.owner(b), m.lay.addr(b*m.lay.size+m.lay.size-1)
		if n := len(runs); n > 0 && runs[n-1].Owner == o {
			runs[n-1].Last = last
		} else {
			runs = append(runs, Run{m.lay.addr(b * m.lay.size), last, o})
		}
	}
	return runs
}

// kindNames are the states that a Use shows.
var kindNames = [...]string{kindUsed: "used", kindHeld: "held", kindRest: "resting", kindKept: "kept",
	kindForeign: "foreign", kindReturning: "returning", kindOutside: "outside"}

// Uses are the addresses that are not simply free here, in order.
func (m *Machine) Uses() (uses []Use) {
	for _, a := range sortedAddrs(m.entries) {
		u, _ := m.Use(a)
		uses = append(uses, u)
	}
	return uses
}

// Use is what an address is to this host. An address that it knows nothing of is in
// State "" and has an Owner, if it is in somebody's block; false: it is in nobody's.
func (m *Machine) Use(a netip.Addr) (Use, bool) {
	u := Use{Addr: netip.PrefixFrom(a, a.BitLen()), Owner: m.Owner(a)}
	e := m.entries[a]
	if e == nil {
		return u, !u.Owner.IsZero()
	}
	u.Addr, u.ID, u.State, u.Holder = netip.PrefixFrom(a, int(e.bits)), e.id, kindNames[e.kind], e.holder
	if e.fenced {
		u.State = "fenced"
	}
	return u, true
}

// Owner is the host that owns the block of an address; zero when there is none.
func (m *Machine) Owner(a netip.Addr) crypto.Name {
	b, inside := m.lay.block(a)
	if !inside || m.genesis == nil {
		return crypto.Name{}
	}
	return m.owner(b)
}

// Conflicts counts the places of which two records are known.
func (m *Machine) Conflicts() int { return len(m.proofs) }
