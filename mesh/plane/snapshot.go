package plane

import (
	"net/netip"
	"sync/atomic"
	"time"

	"ripstop/crypto"
	"ripstop/route"
	"ripstop/transport"
)

// Snapshot is everything the loops need to know, immutable once it is published.
// The zero Snapshot knows nobody.
type Snapshot struct {
	Table    *route.Table
	Outlets  []*Outlet            // by route.PeerID; nil where there is no such peer
	Sessions map[uint32]*Receiver // by receive index
}

// outlet returns the peer's outlet, nil when there is none.
func (s *Snapshot) outlet(id route.PeerID) *Outlet {
	if int(id) >= len(s.Outlets) {
		return nil
	}
	return s.Outlets[id]
}

// Way is how a frame for a peer would leave this host now.
type Way struct {
	To  *Outlet // the peer; nil: it is not known, and the frame is dropped
	Hop *Outlet // who is handed its datagrams, the peer itself or a relay; nil: nobody can be, and it is dropped
	// Datagram is how many bytes of UDP payload one may have, without a relay header, and
	// Frame how long a frame goes in one: a longer one is cut, or goes in pieces.
	Datagram, Frame int
}

// Way is how a frame with that flow label would leave for a peer, as the outbound loops
// decide it. Without To.Session it is dropped, too, and a session is asked for.
func (s *Snapshot) Way(id route.PeerID, flow uint16) Way {
	w := Way{To: s.outlet(id)}
	if w.To == nil {
		return w
	}
	if w.Hop = s.hop(w.To, flow); w.Hop != nil {
		w.Datagram = limit(w.To, w.Hop)
		w.Frame = w.Datagram - overhead
	}
	return w
}

// Outlet is how one peer is reached now: the session to seal under, and the
// direct path if there is one. Immutable once published.
type Outlet struct {
	Peer    *Peer
	Session *crypto.Session // nil: no session yet
	Path    transport.Path  // zero: no direct path
	Direct  bool            // what is for the peer itself takes Path though there is no link
	Carrier Carrier         // the TCP connection, when Path is the one over TCP
	// Limit is how many bytes of UDP payload the path carries in one packet, as far as
	// is known; 0: nothing better than every path's.
	Limit int
	// RelayLimit is how many bytes a datagram that goes to the peer over relays may
	// have, without the relay header; 0 as above.
	RelayLimit int
	// Train is how many datagrams may leave for the path in one call (UDP_SEGMENT);
	// 0 and 1: each by itself.
	Train int
	// Verified are the addresses at which the peer has answered a probe of late: in
	// a network without a cipher frames are taken from nowhere else.
	Verified []netip.AddrPort
}

// Carrier is a control connection as far as it carries datagrams.
type Carrier interface {
	// SendDatagram queues a copy of b and reports whether it was taken.
	SendDatagram(b []byte) bool
}

// Receiver is one session that may be received under. It lives as long as its
// session and stands in every Snapshot of that time.
type Receiver struct {
	Session *crypto.Session
	Peer    *Peer

	confirmed atomic.Bool
}

// Confirmed reports whether a datagram was opened under the session: its other
// end has the keys, so it may be sent under.
func (r *Receiver) Confirmed() bool { return r.confirmed.Load() }

// Idle is how many nanoseconds after the last datagram for a peer the next one
// wakes the node: the link is in use again, and is to be watched closely.
const Idle = int64(time.Second)

// Peer is one other host, as long as it is known: what the loops note about it.
type Peer struct {
	ID    route.PeerID
	Name  crypto.Name
	Short crypto.ShortName

	heard   atomic.Int64 // plane clock: last authenticated datagram on the path in use
	sent    atomic.Int64 // plane clock: last datagram sent to it on its direct path
	strange atomic.Int64 // plane clock: last Events.Strange
	wanted  atomic.Bool  // a frame found no session

	confirmations atomic.Uint32

	window   atomic.Int64 // plane clock: when the second began in which requests were counted
	requests atomic.Int64 // session messages in that second

	stream *inbound // of the peer's TCP connection, whose datagrams come one at a time

	FramesOut, BytesOut atomic.Uint64 // frames sealed for it, their bytes
	FramesIn, BytesIn   atomic.Uint64 // frames opened from it, their bytes
	Relayed             atomic.Uint64 // datagrams relayed that it handed to this host
}

// NewPeer makes the peer that is called name.
func NewPeer(id route.PeerID, name crypto.Name) *Peer {
	return &Peer{ID: id, Name: name, Short: name.Short()}
}

// Heard is when the last authenticated datagram came on the path in use, by the
// plane's clock; 0: never.
func (p *Peer) Heard() int64 { return p.heard.Load() }

// Sent is when the last datagram was sent on the direct path, by the plane's
// clock; 0: never.
func (p *Peer) Sent() int64 { return p.sent.Load() }

// Confirmations counts the sessions that the other end was found to have.
func (p *Peer) Confirmations() uint32 { return p.confirmations.Load() }

// maxRequests is how many session messages one neighbour may hand over in a second:
// each costs the node two Diffie-Hellman operations.
const maxRequests = 20

// AllowRequest reports whether a session message that came by way of p may be looked
// at now, by the plane's clock.
func (p *Peer) AllowRequest(now int64) bool {
	if began := p.window.Load(); now-began >= 1e9 && p.window.CompareAndSwap(began, now) {
		p.requests.Store(0)
	}
	return p.requests.Add(1) <= maxRequests
}

// Wanted reports whether TakeWanted would.
func (p *Peer) Wanted() bool { return p.wanted.Load() }

// TakeWanted reports whether a frame found no session since the last call.
func (p *Peer) TakeWanted() bool { return p.wanted.Load() && p.wanted.Swap(false) }
