package tun

import (
	"net/netip"
	"slices"
	"time"
)

// Bounds of what a station remembers and keeps.
const (
	maxNeighbours = 1024
	maxUnresolved = 128     // neighbours being asked for at once
	maxKept       = 64      // packets kept for one of them
	maxKeptBytes  = 2 << 20 // bytes kept for all of them

	refreshAfter = 30 * time.Second // a neighbour that is used is asked again (REACHABLE_TIME, RFC 4861 10)
	retryAfter   = time.Second      // RETRANS_TIMER
	maxTries     = 3                // MAX_MULTICAST_SOLICIT
)

// neighbour is one IP address on the overlay and where it is.
type neighbour struct {
	address   netip.Addr
	mac       [6]byte
	known     bool      // mac is right as far as we know
	confirmed time.Time // when it last said so
	used      time.Time // when a packet last went there
	tries     int       // questions since it last answered
	next      time.Time // when the next question may or must be asked
	kept      [][]byte  // frames waiting for the MAC
}

// due tells whether a known neighbour is to be asked whether it is still there.
func (n *neighbour) due(now time.Time) bool {
	return n.known && now.Sub(n.confirmed) >= refreshAfter && !n.next.After(now)
}

// neighbours is the station's table. What it holds is bounded in every way.
type neighbours struct {
	all        map[netip.Addr]*neighbour
	unresolved []*neighbour // in the order in which they were asked for
	bytes      int          // kept for all
}

func newNeighbours() neighbours {
	return neighbours{all: make(map[netip.Addr]*neighbour)}
}

func (t *neighbours) find(a netip.Addr) *neighbour { return t.all[a] }

// add makes an entry, in place of the one unused for longest when the table is
// full. The caller makes it known or unresolved.
func (t *neighbours) add(a netip.Addr) *neighbour {
	if len(t.all) >= maxNeighbours {
		var oldest *neighbour
		for _, n := range t.all {
			if n.known && (oldest == nil || n.used.Before(oldest.used)) {
				oldest = n
			}
		}
		t.remove(oldest) // there is one: at most maxUnresolved are not known
	}
	n := &neighbour{address: a}
	t.all[a] = n
	return n
}

// unresolve puts a neighbour on the list of those being asked for. When the list
// is full the result is the one to give up for it.
func (t *neighbours) unresolve(n *neighbour) (old *neighbour) {
	if len(t.unresolved) >= maxUnresolved {
		old = t.unresolved[0]
	}
	t.unresolved = append(t.unresolved, n)
	return old
}

// resolve takes a neighbour off the list; the result is what was kept for it.
func (t *neighbours) resolve(n *neighbour) [][]byte {
	if i := slices.Index(t.unresolved, n); i >= 0 {
		t.unresolved = slices.Delete(t.unresolved, i, i+1)
	}
	kept := n.kept
	n.kept = nil
	for _, frame := range kept {
		t.bytes -= len(frame)
	}
	return kept
}

func (t *neighbours) remove(n *neighbour) {
	t.resolve(n)
	delete(t.all, n.address)
}
