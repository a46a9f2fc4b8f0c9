package mesh

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/gossip"
	"ripstop/mesh/plane"
	"ripstop/transport"
)

const (
	// watchEvery is how often the loop looks what the plane noted while a link is in
	// use: its traffic must be seen within one probe interval. The first datagram
	// after a pause wakes the loop.
	watchEvery = 100 * time.Millisecond
	// restEvery is how often the loop looks by itself when no link is in use, and how
	// often what changes rarely is looked at: interface addresses, attachments whose
	// namespace ended.
	restEvery = 2 * time.Second
	// wordEvery is how often we make ourselves heard under a session that its other
	// end does not know to be complete.
	wordEvery = time.Second
)

// loop turns events into messages, probes and snapshots until ctx ends.
func (n *node) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var housekept time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-n.wake:
		case e := <-n.datagrams:
			n.controlEvent(e)
			n.moreEvents()
		}
		now := time.Now()
		if now.Sub(housekept) >= restEvery {
			housekept = now
			n.housekeep(now)
		}
		n.mu.Lock()
		n.turn(now)
		timer.Reset(n.pause(now, housekept.Add(restEvery)))
		n.mu.Unlock()
	}
}

// moreEvents takes what else the plane has queued: trains come at once.
func (n *node) moreEvents() {
	for range cap(n.datagrams) {
		select {
		case e := <-n.datagrams:
			n.controlEvent(e)
		default:
			return
		}
	}
}

// pause is how long the loop may wait for events: until something is due, or it looks by
// itself, and while a link is in use no longer than until its traffic must be seen.
func (n *node) pause(now, look time.Time) time.Duration {
	next := look
	idleFrom := n.plane.Now() - 2*plane.Idle
	for _, p := range n.peers {
		if p.Sent() > idleFrom {
			next = sooner(next, now.Add(watchEvery))
		}
		next = sooner(next, p.next())
	}
	for _, due := range []time.Time{n.gossip.Next(), n.damping.Next(), n.tick} {
		next = sooner(next, due)
	}
	return max(next.Sub(now), time.Millisecond)
}

// turn takes every state machine that is due to now, and does what they ask for. n.mu
// must be held.
func (n *node) turn(now time.Time) {
	for _, p := range n.peers {
		if p.due(now) {
			p.visited, p.touched, p.confirmed = now, false, p.Confirmations()
			n.turnPeer(p, now)
		}
	}
	if due := n.damping.Next(); n.dirty || n.outdated || now.Sub(n.measured) >= restEvery || !due.IsZero() && !due.After(now) {
		n.measured = now
		n.publishLinks(now)
	}
	n.turnAddresses(now)
	n.gossip.Tick(now)
	n.drainGossip(now)
	dirty, outdated := n.dirty, n.outdated
	n.dirty, n.outdated = false, false
	if dirty {
		n.rebuild(now)
	} else if outdated {
		n.publishSnapshot(now)
	}
	n.followNames()
}

// turnPeer looks what the plane noted about p, and moves its session and its paths on.
func (n *node) turnPeer(p *peer, now time.Time) {
	for local, r := range p.active {
		if r.Confirmed() {
			p.exchange.Heard(now, local)
		}
	}
	if p.TakeWanted() {
		p.exchange.Want(now, true)
	}
	p.exchange.Tick(now)
	for _, message := range p.exchange.Outgoing() {
		if p.conn != nil {
			if err := p.conn.Send(transport.MessageSession, message); err != nil {
				n.log.Debug("session message not sent", "peer", p.Name, "error", err)
			}
		} else {
			n.plane.SendHandshake(p.Name, message)
		}
	}
	if err := p.exchange.Failure(); err != nil {
		n.log.Warn("no session can be made", "peer", p.Name, "error", err)
	}
	if p.exchange.Changed() {
		n.updateReceivers(p)
	}
	if p.exchange.Unconfirmed() && now.Sub(p.lastWord) >= wordEvery {
		p.lastWord = now
		n.say(p, requestWord)
	}
	if n.seek(p, now); p.paths == nil {
		return
	}
	if heard := p.Heard(); heard != p.lastHeard {
		p.lastHeard = heard
		if best, ok := p.paths.Best(); ok {
			p.paths.Heard(n.plane.Time(heard), best)
		}
	}
	if sent := p.Sent(); sent != p.lastSent {
		p.lastSent = sent
		p.paths.Sent(n.plane.Time(sent))
	}
	p.paths.Tick(now)
	if session := p.exchange.Sending(); session != nil {
		n.ask(p, session, now)
	}
	used := usedPath{limit: p.paths.Limit(), train: p.paths.Train(), direct: p.direct(now)}
	if used.Path, _ = p.paths.Best(); used != p.used {
		p.used = used
		n.outdated = true
	}
	if n.network.Policy() == crypto.CipherNone {
		n.verify(p)
	}
	n.noteLink(p, now)
}

// seek looks for a direct path to a peer that is no neighbour, as long as there is a
// session with it: what two hosts that only others can dial have to say to each other
// need not be relayed if UDP passes, through holes in NATs that both their probes make.
func (n *node) seek(p *peer, now time.Time) {
	wanted := p.linked(now) || p.exchange.Sending() != nil && !n.cfg.NoDiscovery
	switch {
	case p.paths == nil && wanted:
		p.paths = n.newPaths()
		n.setCandidates(p, now)
	case p.paths != nil && !wanted:
		p.paths = nil
		n.dirty = true
	}
}

// ask sends what p's paths want to know of the other end, or it of us.
func (n *node) ask(p *peer, session *crypto.Session, now time.Time) {
	for _, probe := range p.paths.Probes() {
		body := transport.Probe{ID: probe.ID, HearsYou: probe.HearsYou, Path: probe.Path.Kind}.Append(nil)
		if !n.plane.SendControl(p.Peer, session, probe.Path, p.carrier(), body, probe.Pad) {
			p.paths.TooBig(now, probe.Path, probe.Pad)
		}
	}
	for _, train := range p.paths.Trains() {
		if !n.plane.SendTrain(p.Peer, session, train) {
			p.paths.TooBig(now, train.Path, train.Size)
		}
	}
	for _, report := range p.paths.Reports() {
		n.plane.SendControl(p.Peer, session, report.Path, p.carrier(), report.TrainReport.Append(nil), 0)
	}
}

// verify notes at which addresses p answers probes.
func (n *node) verify(p *peer) {
	var verified []netip.AddrPort
	for _, path := range p.paths.Status() {
		if path.Up && path.Kind == transport.PathDirect {
			verified = append(verified, path.Remote)
		}
	}
	if !slices.Equal(verified, p.verified) {
		p.verified = verified
		n.outdated = true
	}
}

// carrier is p's connection as the plane wants it: nil when there is none.
func (p *peer) carrier() plane.Carrier {
	if p.conn == nil {
		return nil
	}
	return p.conn
}

// noteLink notices that the link with p came up or went down.
func (n *node) noteLink(p *peer, now time.Time) {
	up := p.linkUp(now)
	if up == !p.since.IsZero() {
		return
	}
	n.dirty = true
	if !up {
		p.since = time.Time{}
		n.log.Info("link down", "peer", p.Name)
		return
	}
	p.since = now
	best, _ := p.paths.Best()
	n.log.Info("link up", "peer", p.Name, "path", best)
}

// updateReceivers makes the sessions that are received under those that p's
// exchange has now.
func (n *node) updateReceivers(p *peer) {
	live := make(map[uint32]*plane.Receiver)
	for _, s := range p.exchange.Receiving() {
		r := p.active[s.Local]
		if r == nil {
			r = &plane.Receiver{Session: s, Peer: p.Peer}
			n.receivers[s.Local] = r
		}
		live[s.Local] = r
	}
	for local := range p.active {
		if live[local] == nil {
			delete(n.receivers, local)
		}
	}
	p.active = live
	n.outdated = true
}

// drainGossip sends what gossip wants sent and takes up what it learned.
func (n *node) drainGossip(now time.Time) {
	ready := n.gossip.Ready()
	for _, m := range ready.Messages {
		p := n.peers[m.To]
		if p == nil || p.conn == nil {
			continue
		}
		p.gossip = m.Bytes
	}
	for _, p := range n.peers {
		// What the connection's queue has no room for waits; gossip gives no second
		// message before the first is gone.
		if p.gossip != nil && p.conn != nil && p.conn.Send(transport.MessageGossip, p.gossip) == nil {
			p.gossip = nil
			n.gossip.Sent(p.Name)
		}
	}
	for _, c := range ready.Changed {
		switch c.Kind {
		case gossip.KindLinks:
			n.dirty = true
		case gossip.KindEndpoint:
			n.dirty, n.moved = true, true
			n.touchName(c)
		case gossip.KindName:
			n.touchName(c)
		case gossip.KindPeer:
			n.learnPeer(c.Origin, now)
			n.dirty = true
		}
	}
	if ready.Members {
		n.dirty = true
	}
	if !n.cfg.NoDiscovery && (len(ready.Changed) > 0 || ready.Members) {
		n.control.SetWanted(n.gossip.Dial(now))
	}
}

// learnPeer takes up a peer record that is new.
func (n *node) learnPeer(origin crypto.Name, now time.Time) {
	if origin == n.identity.Name() {
		return
	}
	r, ok := n.gossip.Get(origin, gossip.KindPeer, "")
	if !ok {
		return
	}
	body, err := gossip.ParsePeerBody(r.Body)
	if err != nil || body.Keys.Name() != origin {
		return
	}
	p := n.peer(body.Keys)
	if p.conn == nil {
		n.setUID(p, body.UID)
	}
	n.setCandidates(p, now)
}

// publishSelf publishes this host's peer record. n.mu must be held.
func (n *node) publishSelf(now time.Time) {
	n.publish(now, gossip.KindPeer, "", gossip.PeerBody{
		Nickname:  n.cfg.Nickname,
		UID:       n.uid,
		Keys:      n.identity.Public(),
		Addresses: n.advertised,
		Software:  n.cfg.Software,
	})
}

// publish publishes a fact about this host. A body that has no form is a fault of
// ours, and logged as one.
func (n *node) publish(now time.Time, kind gossip.Kind, key string, body interface {
	Append([]byte) ([]byte, error)
}) {
	b, err := body.Append(nil)
	if err == nil {
		err = n.gossip.Publish(now, kind, key, b)
	}
	if err != nil {
		n.log.Error("record not published", "kind", kind, "error", err)
	}
}

// housekeep looks at what changes rarely: the host's own addresses, attachments
// that ended.
func (n *node) housekeep(now time.Time) {
	addresses, known := n.underlayAddresses(now)
	n.watchRules(now)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.peers {
		if p.conn != nil && !p.conn.Dialled() { // who dialled us says where
			n.observed.note(now, p.Name, byTCP, p.conn.Hello().Observed, false)
		}
	}
	if known {
		n.advertise(now, addresses)
	}
	n.watchPorts(now)
	n.forgetPeers(now)
}

// advertise publishes where this host may be reached: at addresses of its own, and where
// others see it. n.mu must be held.
func (n *node) advertise(now time.Time, addresses []netip.AddrPort) {
	slices.SortFunc(addresses[min(len(n.cfg.Advertise), len(addresses)):], netip.AddrPort.Compare)
	observed := n.observed.best(now, func(a netip.AddrPort) bool {
		return !n.inOverlay(a.Addr()) && !slices.Contains(addresses, a)
	})
	slices.SortFunc(observed, netip.AddrPort.Compare)
	addresses = append(addresses, observed[:min(len(observed), maxAdvertised-len(addresses))]...)
	if !slices.Equal(addresses, n.advertised) {
		n.advertised = addresses
		n.publishSelf(now)
	}
}

// planeEvents are the plane's callbacks.
type planeEvents node

// controlEvent is a control datagram, or a sign of life, on its way to the loop.
type controlEvent struct {
	peer      *plane.Peer
	local     uint32 // index of the session it came under
	path      transport.Path
	body      []byte // nil: a sign of life from a strange address
	handshake crypto.ShortName
	tooBig    int // size of a datagram that this host refused to send on path
}

// Control queues an opened control datagram.
func (e *planeEvents) Control(p *plane.Peer, s *crypto.Session, path transport.Path, body []byte) {
	e.queue(controlEvent{peer: p, local: s.Local, path: path, body: append([]byte(nil), transport.WithoutPadding(body)...)})
}

// Handshake queues a session message that was relayed.
func (e *planeEvents) Handshake(from crypto.ShortName, body []byte) {
	e.queue(controlEvent{handshake: from, body: append([]byte(nil), body...)})
}

// Strange queues the news that a peer was heard from an unknown address.
func (e *planeEvents) Strange(p *plane.Peer, remote netip.AddrPort) {
	e.queue(controlEvent{peer: p, path: transport.DirectPath(remote)})
}

// TooBig queues the news that a path carries less than was thought.
func (e *planeEvents) TooBig(remote netip.AddrPort, size int) {
	e.queue(controlEvent{path: transport.DirectPath(remote), tooBig: size})
}

// Wake wakes the loop.
func (e *planeEvents) Wake() { (*node)(e).poke() }

func (e *planeEvents) queue(c controlEvent) {
	select {
	case e.datagrams <- c:
	default: // as if it had been lost on the way; probes come again
		e.plane.Counters().CountEvent()
	}
}
