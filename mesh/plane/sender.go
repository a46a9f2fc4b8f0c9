package plane

import (
	"net/netip"
	"syscall"

	"ripstop/crypto"
	"ripstop/transport"
)

// sender collects sealed datagrams and hands them to the socket in one call.
// The datagrams' bytes must stay as they are until flush.
type sender struct {
	p    *Plane
	msgs []transport.Message
	// count is how many datagrams the last of msgs holds, queued how many they all do.
	count, queued int
	ad            [transport.RelayADLen]byte // associated data of a relay header
	aead          *crypto.Scratch
	// own marks what the node sends by itself: it is no traffic that a link would
	// have to be watched closely for.
	own bool
	// refused is set when a datagram was longer than this host sends on its path.
	refused bool
}

// send queues b for the outlet's direct path.
func (s *sender) send(to *Outlet, b []byte, now int64) {
	if !s.own && to.Peer.sent.Load() != now && now-to.Peer.sent.Swap(now) > Idle {
		s.p.cfg.Events.Wake()
	}
	if to.Path.Kind == transport.PathTCP {
		if to.Carrier == nil || !to.Carrier.SendDatagram(b) {
			s.p.counters.add(dropCarrier, 1)
			return
		}
		s.p.counters.add(datagramsOut, 1)
		return
	}
	s.queued++
	if n := len(s.msgs); n > 0 && s.join(&s.msgs[n-1], to, b) {
		return
	}
	s.msgs = append(s.msgs, transport.Message{Buf: b, N: len(b), Remote: to.Path.Remote})
	s.count = 1
}

// join makes b part of the train that m is, or begins, if it lies right behind it in
// memory, goes to the same address and is no longer than its datagrams: one call to
// the kernel for all of them (UDP_SEGMENT).
func (s *sender) join(m *transport.Message, to *Outlet, b []byte) bool {
	segment := m.Segment
	if segment == 0 {
		segment = m.N
	}
	if s.count >= to.Train || m.Remote != to.Path.Remote || len(b) > segment || m.N != s.count*segment ||
		m.N+len(b) > transport.MaxTrain || !adjacent(m.Buf, m.N, b) {
		return false
	}
	m.Buf = m.Buf[:m.N+len(b)]
	m.N += len(b)
	m.Segment = segment
	s.count++
	return true
}

// adjacent reports whether b begins right behind the first n bytes of a.
func adjacent(a []byte, n int, b []byte) bool {
	return cap(a) >= n+len(b) && len(b) > 0 && &a[:n+1][n] == &b[0]
}

// relay queues b, whose first RelayLen bytes are free, for the neighbour hop to
// carry to destination.
func (s *sender) relay(hop *Outlet, destination crypto.ShortName, flow uint16, limit uint8, b []byte, now int64) {
	h := transport.RelayHeader{HopLimit: limit, Flow: flow, Destination: destination, Source: s.p.cfg.Self.Short()}
	h.Put(b)
	transport.RelayAD(b, s.ad[:])
	s.pass(hop, limit, b, now)
}

// pass writes what is hop's own into the relay header of b, whose associated data is in
// s.ad, and queues it: all else stays as the source wrote it.
func (s *sender) pass(hop *Outlet, limit uint8, b []byte, now int64) {
	counter, err := hop.Session.Hop.Next()
	if err != nil {
		s.p.counters.add(dropExhausted, 1)
		return
	}
	transport.PutRelayHop(s.ad[:], limit, hop.Session.Remote, counter)
	transport.PutRelayHop(b, limit, hop.Session.Remote, counter)
	transport.PutRelayMAC(b, hop.Session.Hop.Tag(s.aead, counter, s.ad[:]))
	s.send(hop, b, now)
}

// flush sends what is queued.
func (s *sender) flush() {
	if len(s.msgs) == 0 {
		return
	}
	lost := 0
	if s.p.cfg.Socket.Send(s.msgs) < len(s.msgs) {
		lost = s.lost()
		s.noteRefused()
		if !s.own { // what the node says is said again; the socket counts why it failed
			s.p.counters.add(dropSend, lost)
		}
	}
	s.p.counters.add(datagramsOut, s.queued-lost)
	clear(s.msgs)
	s.msgs, s.queued = s.msgs[:0], 0
}

// lost is how many datagrams did not leave; a train of which one did not counts as a whole.
func (s *sender) lost() (n int) {
	for i := range s.msgs {
		if s.msgs[i].Err != nil {
			for range s.msgs[i].Datagrams {
				n++
			}
		}
	}
	return n
}

// noteRefused tells the node of datagrams that were too long for their path, but for its
// own: it tries sizes out.
func (s *sender) noteRefused() {
	for i := range s.msgs {
		m := &s.msgs[i]
		if m.Err != syscall.EMSGSIZE {
			continue
		}
		s.refused = true
		if s.own {
			continue
		}
		size := m.N
		if m.Segment > 0 {
			size = min(size, m.Segment)
		}
		s.p.tooBig(m.Remote, size)
	}
}

// tooBigEvery is how often, in nanoseconds, the node is told that datagrams are too long.
const tooBigEvery = 5e6

func (p *Plane) tooBig(remote netip.AddrPort, size int) {
	now, told := p.Now()+1, p.toldTooBig.Load()
	if (told == 0 || now-told > tooBigEvery) && p.toldTooBig.CompareAndSwap(told, now) {
		p.cfg.Events.TooBig(remote, size)
	}
}

// SendControl seals body under session's control keys and sends it on one direct
// path: probes and their answers. carrier is needed for a path over TCP. The datagram is
// padded to size bytes, if it would be shorter. It reports whether this host sends
// datagrams of that size on the path.
func (p *Plane) SendControl(peer *Peer, session *crypto.Session, path transport.Path, carrier Carrier, body []byte, size int) bool {
	p.control.Lock()
	defer p.control.Unlock()
	b, ok := p.sealControl(session, body, 0, size)
	if !ok {
		return true
	}
	s := sender{p: p, msgs: p.control.msgs[:0], aead: &p.control.aead, own: true}
	to := Outlet{Peer: peer, Session: session, Path: path, Carrier: carrier}
	s.send(&to, b, p.Now())
	s.flush()
	return !s.refused
}

// SendTrain sends a numbered train under session by one call to the socket. It reports
// whether this host sends datagrams of that size on the path.
func (p *Plane) SendTrain(peer *Peer, session *crypto.Session, train transport.TrainOut) bool {
	p.control.Lock()
	defer p.control.Unlock()
	s := sender{p: p, msgs: p.control.msgs[:0], aead: &p.control.aead, own: true}
	to := Outlet{Peer: peer, Session: session, Path: train.Path, Train: train.Count}
	var body [transport.TrainPieceLen]byte
	for place, at := 0, 0; place < train.Count; place++ {
		size := train.Size
		if place == train.Count-1 {
			size = train.Last
		}
		piece := transport.TrainPiece{ID: train.ID, Place: uint8(place), Count: uint8(train.Count)}
		b, ok := p.sealControl(session, piece.Append(body[:0]), at, size)
		if !ok {
			break
		}
		s.send(&to, b, p.Now())
		at += len(b)
	}
	s.flush()
	return !s.refused
}

// SendRequest seals body under the control keys of the session with the peer
// called name and sends it as a frame would go, relayed where that is the way.
// It reports whether there was a session and a way.
func (p *Plane) SendRequest(name crypto.Name, body []byte) bool {
	to := p.find(name)
	if to == nil || to.Session == nil {
		return false
	}
	p.control.Lock()
	defer p.control.Unlock()
	b, ok := p.sealControl(to.Session, body, 0, 0)
	return ok && p.routeControl(to, b)
}

// SendHandshake sends a session message to the peer called name over relays, and
// reports whether there was a way.
func (p *Plane) SendHandshake(name crypto.Name, body []byte) bool {
	to := p.find(name)
	if to == nil || len(body) < transport.TagLen || len(body) > maxControl {
		return false
	}
	p.control.Lock()
	defer p.control.Unlock()
	b := p.control.buf[transport.RelayLen:]
	transport.Header{Type: transport.TypeHandshake}.Put(b)
	n := copy(b[transport.HeaderLen:], body)
	return p.routeControl(to, b[:transport.HeaderLen+n])
}

// maxControl bounds what the node may send itself: it must pass every underlay, behind a
// relay header, too.
const maxControl = transport.BaseLimit - transport.RelayLen - transport.HeaderLen - transport.TagLen

// sealControl makes a control datagram in the control buffer, at bytes behind the room
// for a relay header, and pads it to size bytes. p.control must be held.
func (p *Plane) sealControl(session *crypto.Session, body []byte, at, size int) ([]byte, bool) {
	at += transport.RelayLen
	if len(body) > maxControl || at+size > len(p.control.buf) {
		return nil, false
	}
	counter, err := session.Control.Next()
	if err != nil {
		p.counters.add(dropExhausted, 1)
		return nil, false
	}
	b := p.control.buf[at:]
	header := b[:transport.HeaderLen]
	transport.Header{Type: transport.TypeControl, Index: session.Remote, Counter: counter}.Put(header)
	n := copy(b[transport.HeaderLen:], body)
	if padded := size - transport.HeaderLen - transport.TagLen; n < padded {
		clear(b[transport.HeaderLen+n : transport.HeaderLen+padded])
		n = padded
	}
	body = b[transport.HeaderLen : transport.HeaderLen+n]
	sealed := session.Control.Seal(&p.control.aead, body[:0], counter, header, body)
	return b[:transport.HeaderLen+len(sealed)], true
}

// routeControl sends b, which stands in the control buffer behind RelayLen bytes,
// as a frame for to would go. p.control must be held.
func (p *Plane) routeControl(to *Outlet, b []byte) bool {
	snapshot := p.snapshot.Load()
	hop := snapshot.hop(to, 0)
	if hop == nil {
		return false
	}
	s := sender{p: p, msgs: p.control.msgs[:0], aead: &p.control.aead, own: true}
	now := p.Now()
	if hop.Peer == to.Peer && b[0] != byte(transport.TypeHandshake) {
		s.send(hop, b, now)
	} else {
		s.relay(hop, to.Peer.Short, 0, snapshot.Table.HopLimit(to.Peer.ID), p.control.buf[:transport.RelayLen+len(b)], now)
	}
	s.flush()
	return true
}

// find returns the outlet of the peer called name in the current snapshot.
func (p *Plane) find(name crypto.Name) *Outlet {
	s := p.snapshot.Load()
	if s.Table == nil {
		return nil
	}
	for _, o := range s.Outlets {
		if o != nil && o.Peer.Name == name {
			return o
		}
	}
	return nil
}
