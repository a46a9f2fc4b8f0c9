package gossip

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
)

// dialPlan is whom this host should link with, until membership changes.
type dialPlan struct {
	peers map[crypto.Name][]netip.AddrPort
}

// Dial returns the hosts that this one should have a link with, beside the
// user's targets, and the addresses where each says it can be dialled; hosts
// that say none are left out. The result is for reading only.
//
// Up to FullMesh hosts everybody links with everybody. Beyond, all hosts stand
// on ceil(log2 n) rings, in the order of a hash of ring number and name, and
// each links with its two neighbours on each ring. One ring alone connects all;
// together they are a random graph of about 2·log2 n links a host, which one
// host's coming or going changes in one place a ring. Both ends of a link find
// it, whichever of them can dial.
//
// The rings are made twice: of the members, so that they are connected however
// many others have died, and of all hosts known, so that the two sides of a
// partition keep dialling each other.
func (s *State) Dial(now time.Time) map[crypto.Name][]netip.AddrPort {
	s.at(now)
	if s.stale && !now.Before(s.fresh) {
		s.refresh()
	}
	if s.dial == nil {
		s.dial = &dialPlan{peers: make(map[crypto.Name][]netip.AddrPort)}
		var known, alive []crypto.Name
		for _, o := range s.order {
			if _, there := s.Get(o.name, KindPeer, ""); !there && o != s.own {
				continue
			}
			known = append(known, o.name)
			if o.alive {
				alive = append(alive, o.name)
			}
		}
		wanted := ringNeighbours(s.cfg.Network, s.self, alive, s.cfg.FullMesh)
		if len(alive) != len(known) {
			wanted = append(wanted, ringNeighbours(s.cfg.Network, s.self, known, s.cfg.FullMesh)...)
		}
		for _, name := range wanted {
			r, _ := s.Get(name, KindPeer, "")
			if p, err := ParsePeerBody(r.Body); err == nil && len(p.Addresses) > 0 {
				s.dial.peers[name] = p.Addresses
			}
		}
	}
	return s.dial.peers
}

// ringNeighbours returns with whom self links among names (self is one of
// them). Names may come twice.
func ringNeighbours(network crypto.NetworkID, self crypto.Name, names []crypto.Name, fullMesh int) []crypto.Name {
	var wanted []crypto.Name
	if len(names) <= fullMesh {
		for _, n := range names {
			if n != self {
				wanted = append(wanted, n)
			}
		}
		return wanted
	}
	type place struct {
		at   uint64
		name crypto.Name
	}
	before := func(a, b place) bool {
		return cmp.Or(cmp.Compare(a.at, b.at), a.name.Compare(b.name)) < 0
	}
	places := make([]place, len(names))
	for ring := range bits.Len(uint(len(names) - 1)) {
		me := place{mixName(network, self, ring), self}
		for i, n := range names {
			places[i] = place{mixName(network, n, ring), n}
		}
		first := slices.MinFunc(places, func(a, b place) int { return cmp.Or(cmp.Compare(a.at, b.at), a.name.Compare(b.name)) })
		last := slices.MaxFunc(places, func(a, b place) int { return cmp.Or(cmp.Compare(a.at, b.at), a.name.Compare(b.name)) })
		next, previous := first, last // where the ring closes
		foundNext, foundPrevious := false, false
		for _, p := range places {
			if before(me, p) && (!foundNext || before(p, next)) {
				next, foundNext = p, true
			}
			if before(p, me) && (!foundPrevious || before(previous, p)) {
				previous, foundPrevious = p, true
			}
		}
		wanted = append(wanted, next.name, previous.name)
	}
	return wanted
}

// mixName scatters names over a ring: another order for every number, the same
// on all hosts of a network. Names are hashes already, so mixing is enough.
func mixName(network crypto.NetworkID, name crypto.Name, number int) uint64 {
	x := binary.BigEndian.Uint64(name[:]) ^ binary.BigEndian.Uint64(network[:])
	x += uint64(number+1) * 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x ^= binary.BigEndian.Uint64(name[8:]) ^ binary.BigEndian.Uint64(network[8:])
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
