package mesh

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/gossip"
	"ripstop/mesh/plane"
	"ripstop/route"
	"ripstop/transport"
)

// linkGrace is how long a link lives on without its TCP connection while probes
// are answered.
const linkGrace = 180 * time.Second

// peer is one other host, as far as this one deals with it.
type peer struct {
	*plane.Peer
	keys     crypto.PublicKeys
	uid      crypto.UID
	exchange *transport.Exchange
	active   map[uint32]*plane.Receiver // by local index: this peer's part of node.receivers

	conn     *transport.Conn
	connLost time.Time // when the last connection ended; zero while there is one, or never was
	since    time.Time // when the link came up, zero when it is down
	paths    *transport.Paths
	verified []netip.AddrPort // where p answers probes; kept in a network without a cipher only
	pieces   joiner           // of messages about addresses
	gossip   []byte           // a message that conn has not taken yet

	used usedPath // as the plane knows it

	visited   time.Time // by the loop, last
	touched   bool      // something has happened since
	confirmed uint32    // Confirmations then

	lastSent, lastHeard int64     // plane clock, as last seen
	lastWord            time.Time // when we last made ourselves heard under an unconfirmed session
}

// usedPath is the path in use and what the plane is told of it.
type usedPath struct {
	transport.Path
	limit, train int
	direct       bool
}

// linked reports whether p is or was just a neighbour: it has a connection, or
// had one not long ago.
func (p *peer) linked(now time.Time) bool {
	return p.conn != nil || !p.connLost.IsZero() && now.Sub(p.connLost) < linkGrace
}

// linkUp reports whether frames may take the direct path to p.
func (p *peer) linkUp(now time.Time) bool {
	return p.paths != nil && p.paths.Up() && p.linked(now) && p.exchange.Sending() != nil
}

// direct reports whether frames for p take a direct path though there is no link with
// p: nobody else is told of it, and nothing is relayed over it.
func (p *peer) direct(now time.Time) bool {
	if p.paths == nil || !p.paths.Up() || p.linkUp(now) {
		return false
	}
	best, ok := p.paths.Best()
	return ok && best.Kind == transport.PathDirect
}

// next is when session or paths have something to do, or a word is due; zero: not before
// something happens.
func (p *peer) next() time.Time {
	next := p.exchange.Next()
	if p.paths != nil {
		next = sooner(next, p.paths.Next())
	}
	if p.exchange.Unconfirmed() {
		next = sooner(next, p.lastWord.Add(wordEvery))
	}
	return next
}

// sooner is the earlier of two times, where the zero time is none.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// due reports whether the loop is to visit p now: something has happened since the last
// visit, or is due, or may leave with what others have to say; or was restEvery ago, for
// what is seen by looking only.
func (p *peer) due(now time.Time) bool {
	if p.touched || now.Sub(p.visited) >= restEvery || p.Sent() != p.lastSent || p.Heard() != p.lastHeard || p.Wanted() || p.Confirmations() != p.confirmed {
		return true
	}
	next := p.next()
	return !next.IsZero() && !next.After(now.Add(transport.EarlyProbe))
}

// peer returns the peer that is called by the keys' name, and makes it when it
// was not known. n.mu must be held.
func (n *node) peer(keys crypto.PublicKeys) *peer {
	name := keys.Name()
	if p := n.peers[name]; p != nil {
		return p
	}
	p := &peer{
		Peer:   plane.NewPeer(n.newID(), name),
		keys:   keys,
		active: make(map[uint32]*plane.Receiver),
		exchange: transport.NewExchange(transport.ExchangeConfig{
			Identity: n.identity,
			Network:  n.network,
			UID:      n.uid,
			Peer:     keys,
			Random:   rand.Reader,
			Jitter:   n.random,
			Index:    n.newIndex,
		}),
	}
	n.peers[name] = p
	n.machine.Known(keys)
	n.byShort[name.Short()] = p
	return p
}

// newID is the lowest peer number that nobody has.
func (n *node) newID() route.PeerID {
	used := make(map[route.PeerID]bool, len(n.peers))
	for _, p := range n.peers {
		used[p.ID] = true
	}
	id := route.PeerID(1)
	for used[id] {
		id++
	}
	return id
}

// forgetPeers forgets the hosts that gossip has forgotten. n.mu must be held.
func (n *node) forgetPeers(now time.Time) {
	for name, p := range n.peers {
		if _, known := n.gossip.Get(name, gossip.KindPeer, ""); known || p.linked(now) || p.paths != nil && p.paths.Up() {
			continue
		}
		for local := range p.active {
			delete(n.receivers, local)
		}
		n.forgotten = n.forgotten.plus(trafficWith(p.Peer))
		delete(n.peers, name)
		delete(n.byShort, name.Short())
		n.carriers.Delete(name)
		n.swtch.Learned().Forget(p.ID) // the number will be another's
		n.dirty = true
	}
}

// newIndex draws a receive index that no live session has.
func (n *node) newIndex() uint32 {
	var b [4]byte
	for {
		rand.Read(b[:])
		if index := binary.BigEndian.Uint32(b[:]); index != 0 && n.receivers[index] == nil {
			return index
		}
	}
}

// setUID notes which run of p there is.
func (n *node) setUID(p *peer, uid crypto.UID) {
	if uid == 0 || p.uid == uid {
		return
	}
	if p.uid != 0 && p.paths != nil {
		// Another run: nothing proven with the last one holds.
		p.paths = n.newPaths()
		if p.conn != nil {
			p.paths.SetTCP(time.Now(), true)
		}
	}
	p.uid, p.touched = uid, true
	p.exchange.SetPeer(uid)
	n.dirty = true
}

func (n *node) newPaths() *transport.Paths {
	return transport.NewPaths(transport.PathsConfig{Random: n.random, Budget: &n.probes, Fragmenting: n.fragmenting})
}

// connEvents are the control connections' callbacks.
type connEvents node

// ConnUp takes a connection that was authenticated and settled.
func (e *connEvents) ConnUp(c *transport.Conn) {
	n := (*node)(e)
	defer n.poke()
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	p := n.peer(c.PublicKeys())
	hello := c.Hello()
	p.conn, p.connLost, p.gossip, p.touched = c, time.Time{}, nil, true
	if p.paths == nil {
		p.paths = n.newPaths()
	}
	n.setUID(p, hello.UID)
	p.paths.SetTCP(now, true)
	p.exchange.Want(now, true)
	n.setCandidates(p, now)
	n.carriers.Store(p.Name, p.Peer)
	n.gossip.NeighbourUp(now, p.Name, p.keys)
	n.dirty = true
	n.log.Info("connected", "peer", p.Name, "nickname", hello.Nickname, "address", c.RemoteAddr(), "dialled", c.Dialled())
}

// ConnMessage takes a message from a neighbour.
func (e *connEvents) ConnMessage(c *transport.Conn, kind transport.MessageKind, body []byte) {
	n := (*node)(e)
	if kind == transport.MessageDatagram {
		if p, ok := n.carriers.Load(c.Name()); ok {
			n.plane.Datagram(p.(*plane.Peer), body)
		}
		return
	}
	defer n.poke()
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	p := n.peers[c.Name()]
	if p == nil {
		return
	}
	switch kind {
	case transport.MessageGossip:
		if err := n.gossip.Step(now, p.Name, body); err != nil {
			n.log.Debug("gossip refused", "peer", p.Name, "error", err)
		}
	case transport.MessageSession:
		if !p.AllowRequest(n.plane.Now()) {
			n.plane.Counters().CountRequest()
			return
		}
		n.exchangeMessage(p, now, body)
	}
}

// ConnDown takes the end of a connection.
func (e *connEvents) ConnDown(c *transport.Conn, cause error) {
	n := (*node)(e)
	defer n.poke()
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.peers[c.Name()]
	if p == nil || p.conn != c {
		return
	}
	now := time.Now()
	p.conn, p.connLost, p.gossip, p.touched = nil, now, nil, true
	p.paths.SetTCP(now, false)
	n.gossip.NeighbourDown(now, p.Name)
	n.dirty = true
	n.log.Info("connection lost", "peer", p.Name, "nickname", c.Hello().Nickname, "error", cause)
}

// CloneSuspected ends this host: another has its identity and was first.
func (e *connEvents) CloneSuspected(name crypto.Name, other crypto.UID) {
	(*node)(e).stop(&ExitError{Code: 6, Err: errors.New("another running host has this host's identity " + name.String() +
		" (run " + other.String() + "): a copied state directory? start this one with a directory of its own (--state, or remove the copy) and the network's secret")})
}

// hello is what this host tells a peer that has proven the secret.
func (n *node) hello() transport.Hello {
	n.mu.Lock()
	defer n.mu.Unlock()
	return transport.Hello{
		UID:       n.uid,
		Nickname:  n.cfg.Nickname,
		Software:  n.cfg.Software,
		Port:      n.port,
		Addresses: n.advertised,
	}
}

// exchangeMessage takes a session message that came in p's name.
func (n *node) exchangeMessage(p *peer, now time.Time, body []byte) {
	p.touched = true
	if err := p.exchange.Receive(now, body); err != nil {
		n.log.Debug("session message refused", "peer", p.Name, "error", err)
	}
}

// setCandidates tells p's paths every address that p may be reached at.
func (n *node) setCandidates(p *peer, now time.Time) {
	var all []netip.AddrPort
	add := func(a netip.AddrPort) {
		a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		if a.IsValid() && a.Port() != 0 && !n.inOverlay(a.Addr()) && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	if p.conn != nil {
		remote := p.conn.RemoteAddr()
		if p.conn.Dialled() {
			add(remote)
		} else {
			add(netip.AddrPortFrom(remote.Addr(), p.conn.Hello().Port))
		}
		for _, a := range p.conn.Hello().Addresses {
			add(a)
		}
	}
	if r, ok := n.gossip.Get(p.Name, gossip.KindPeer, ""); ok {
		if body, err := gossip.ParsePeerBody(r.Body); err == nil {
			for _, a := range body.Addresses {
				add(a)
			}
		}
	}
	if p.paths != nil {
		p.touched = true
		p.paths.SetCandidates(now, all)
	}
}
