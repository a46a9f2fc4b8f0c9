package mesh

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
)

// What is kept of what peers see this host as.
const (
	// maxObserved is how many such addresses are advertised.
	maxObserved = 4
	// observedFor is how long an address counts that its witness does not repeat.
	observedFor = 3 * time.Minute
	// observedHold is for how long an address must not have been repeated before
	// another of the same witness takes its place: a witness that changes its mind
	// at each probe, or sees two, is no news to all hosts each time.
	observedHold = 30 * time.Second
)

// witnessed is the way in which a peer saw an address; it has one word for each.
type witnessed uint8

const (
	byUDP4 witnessed = iota // source of a probe over IPv4: behind a NAT, its mapping
	byUDP6                  // the same over IPv6
	byTCP                   // where it dialled this host
	witnessedWays
)

// observations are the addresses at which peers see this host. Pure: time is an
// argument; not safe for concurrent use.
//
//	witness ─┬─ UDP over IPv4 ─▶ address, since, until
//	         ├─ UDP over IPv6 ─▶ …
//	         └─ TCP           ─▶ …        same address from several witnesses: first in best
//
// A witness may lie. It has three words, so alone it cannot keep out what two others
// agree on, nor what was known before; and whoever tries a wrong address loses a few
// probes to it, no more than the liar's own record could cost.
type observations struct {
	witnesses map[crypto.Name]*[witnessedWays]observation
}

// observation is one word of one witness.
type observation struct {
	addr    netip.AddrPort
	dialled bool // this host had chosen to ask the witness
	since   time.Time
	last    time.Time
}

// note takes a witness's word.
func (o *observations) note(now time.Time, witness crypto.Name, way witnessed, addr netip.AddrPort, dialled bool) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	if !addr.Addr().IsGlobalUnicast() || addr.Port() == 0 {
		return
	}
	words := o.witnesses[witness]
	if words == nil {
		if o.witnesses == nil {
			o.witnesses = make(map[crypto.Name]*[witnessedWays]observation)
		}
		words = new([witnessedWays]observation)
		o.witnesses[witness] = words
	}
	switch w := &words[way]; {
	case w.addr == addr:
		w.last, w.dialled = now, dialled
	case !w.addr.IsValid() || now.Sub(w.last) >= observedHold:
		*w = observation{addr: addr, dialled: dialled, since: now, last: now}
	}
}

// best forgets what has not been repeated, and returns at most maxObserved of the
// addresses that pass the filter: those of two and more witnesses first, then those of
// one that this host dialled, the longest known of equals first.
func (o *observations) best(now time.Time, pass func(netip.AddrPort) bool) []netip.AddrPort {
	type candidate struct {
		addr      netip.AddrPort
		witnesses int
		dialled   bool
		since     time.Time
	}
	var all []candidate
	for name, words := range o.witnesses {
		var said []netip.AddrPort // by this witness: the same by TCP and UDP counts once
		for i := range words {
			w := &words[i]
			if w.addr.IsValid() && now.Sub(w.last) > observedFor {
				*w = observation{}
			}
			if !w.addr.IsValid() || slices.Contains(said, w.addr) {
				continue
			}
			said = append(said, w.addr)
			at := slices.IndexFunc(all, func(c candidate) bool { return c.addr == w.addr })
			if at < 0 {
				at = len(all)
				all = append(all, candidate{addr: w.addr, since: w.since})
			}
			c := &all[at]
			c.witnesses++
			c.dialled = c.dialled || w.dialled
			if w.since.Before(c.since) {
				c.since = w.since
			}
		}
		if len(said) == 0 {
			delete(o.witnesses, name)
		}
	}
	all = slices.DeleteFunc(all, func(c candidate) bool { return !pass(c.addr) })
	weight := func(c candidate) int {
		switch {
		case c.witnesses > 1:
			return 2
		case c.dialled:
			return 1
		}
		return 0
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(weight(b)-weight(a), a.since.Compare(b.since), a.addr.Compare(b.addr))
	})
	var best []netip.AddrPort
	for _, c := range all[:min(len(all), maxObserved)] {
		best = append(best, c.addr)
	}
	return best
}
