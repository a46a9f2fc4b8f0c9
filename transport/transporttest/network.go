// Package transporttest is a network of UDP sockets in memory, and the suite that every
// transport.Socket passes.
//
//	Socket.Send --> NAT out --> cut? partition? MTU? loss? --> delay, jitter, reorder --> NAT in --> inbox --> ReceiveFunc
//	                              |        drawn from a generator for each direction of each pair
//	                              +--> Counts, by reason
//
// A train is taken apart as it is sent: each of its datagrams meets all this by itself,
// and counts as one. With Config.Gather what waits in an inbox is put together again.
//
// What happens to the n-th datagram from one address to another depends on Config.Seed,
// the two addresses and n alone, whatever other goroutines send meanwhile. All waits are
// on channels and timers, so that a network made inside a testing/synctest bubble runs on
// the bubble's clock. Without delay a datagram is in the receiver's inbox when Send
// returns.
//
// It does not limit bandwidth, has no ICMP, and its packets have no identity on the
// link: fragmenting means that the datagram passes and is counted.
//
// Read network.go first, then carry.go and nat.go; conformance.go is the suite.
package transporttest

import (
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Config says what a new Network is like. The zero value loses and delays nothing.
type Config struct {
	Seed uint64 // of all that is random
	Link Link   // between all pairs of addresses that SetLink does not name
	// MTU is that of every host's own interface, in bytes of IP packet: with SetDF what
	// is longer fails with EMSGSIZE. 0 = no limit.
	MTU int
	// Queue is how many datagrams wait in a socket's inbox; more are dropped and
	// counted as its kernel drops. 0 = 1024.
	Queue int
	// Gather has sockets hand over datagrams of one sender that wait one behind the other
	// as trains: equal lengths, the last of which may be shorter, what has room in Buf.
	Gather bool
}

// Link is what datagrams meet in one direction between two addresses.
type Link struct {
	Delay  time.Duration
	Jitter time.Duration // up to as much again, evenly spread; order is kept
	// Probabilities, from 0 to 1.
	Loss      float64
	Duplicate float64 // a second one follows at once
	Reorder   float64 // held back by ReorderBy, so that later ones overtake it
	ReorderBy time.Duration
	// MTU in bytes of IP packet: longer datagrams vanish if their sender has set
	// don't-fragment, and pass otherwise. 0 = no limit.
	MTU int
	Cut bool // nothing passes
	// Corrupt is which datagram of each train of equal lengths arrives with its last 8
	// bytes altered, as from a kernel that cuts trains wrongly: 1 = the first, 0 = none.
	// A train whose last one is shorter arrives as it was sent.
	Corrupt int
}

// Counts say what became of all datagrams.
type Counts struct {
	Sent        uint64 // that the network took
	Delivered   uint64 // that reached an inbox, duplicates included
	Lost        uint64 // by Link.Loss
	Cut         uint64 // by Link.Cut or Partition
	TooBig      uint64 // by Link.MTU
	NAT         uint64 // by a NAT that has no mapping or does not know the sender
	Unreachable uint64 // no open socket there
	Overflow    uint64 // inbox full
	Duplicated  uint64
	Reordered   uint64
	Fragmented  uint64
	Corrupted   uint64 // by Link.Corrupt
}

// Network carries datagrams between its Sockets.
type Network struct {
	cfg Config

	mu      sync.Mutex // guards all below
	sockets map[netip.AddrPort]*Socket
	links   map[pair]*linkState
	groups  map[netip.Addr]int // of Partition; nil = whole
	nats    []*NAT
	counts  Counts
	events  eventHeap
	seq     uint64
	timer   *time.Timer // runs deliverDue at the first event; nil before the first
	closed  bool
	free    [][]byte // buffers of delivered datagrams
	port    uint16   // the last one given for port 0
}

// pair is one direction between two hosts' own addresses.
type pair struct{ from, to netip.Addr }

// linkState is a Link at work.
type linkState struct {
	pair    pair
	link    Link
	random  *rand.Rand
	last    time.Time // when the last datagram kept in order arrives
	waiting int       // datagrams on their way
}

// NewNetwork makes a network without sockets.
func NewNetwork(cfg Config) *Network {
	if cfg.Queue == 0 {
		cfg.Queue = 1024
	}
	return &Network{
		cfg:     cfg,
		sockets: make(map[netip.AddrPort]*Socket),
		links:   make(map[pair]*linkState),
		port:    49151,
	}
}

// SetLink says what datagrams from one address to another meet from now on. Behind a
// NAT the inner address counts.
func (n *Network) SetLink(from, to netip.Addr, link Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.linkLocked(from, to).link = link
}

// SetLinks is SetLink in both directions.
func (n *Network) SetLinks(a, b netip.Addr, link Link) {
	n.SetLink(a, b, link)
	n.SetLink(b, a, link)
}

// Cut stops or restores one direction and leaves the rest of the link as it is.
func (n *Network) Cut(from, to netip.Addr, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.linkLocked(from, to).link.Cut = cut
}

// Partition divides the network: datagrams pass only inside a group. Addresses that no
// group names are together in one further group. No groups: the network is whole again.
func (n *Network) Partition(groups ...[]netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.groups = nil
	for i, group := range groups {
		for _, addr := range group {
			if n.groups == nil {
				n.groups = make(map[netip.Addr]int)
			}
			n.groups[addr] = i + 1
		}
	}
}

// Counts are the counters so far.
func (n *Network) Counts() Counts {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.counts
}

// Close closes all sockets; what is on its way is gone.
func (n *Network) Close() {
	n.mu.Lock()
	n.closed = true
	n.events = nil
	if n.timer != nil {
		n.timer.Stop()
	}
	sockets := make([]*Socket, 0, len(n.sockets))
	for _, s := range n.sockets {
		sockets = append(sockets, s)
	}
	n.mu.Unlock()
	for _, s := range sockets {
		s.Close()
	}
}

// linkLocked is the state of one direction, made at its first use.
func (n *Network) linkLocked(from, to netip.Addr) *linkState {
	key := pair{from, to}
	l := n.links[key]
	if l == nil {
		h := fnv.New64a()
		a, b := from.As16(), to.As16()
		h.Write(a[:])
		h.Write(b[:])
		l = &linkState{pair: key, link: n.cfg.Link, random: rand.New(rand.NewPCG(n.cfg.Seed, h.Sum64()))}
		n.links[key] = l
	}
	return l
}
