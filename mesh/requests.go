package mesh

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
	"ripstop/route"
	"ripstop/transport"
)

// What one host asks of another, inside their session. Never reused.
const (
	requestWord      = 1 // nothing: the sender makes itself heard, the answer does the same
	requestRelease   = 2 // give up the endpoints with this MAC and these addresses: they moved to the asker
	requestAddresses = 3 // a piece of a message about addresses; there is no reply
)

// controlEvent handles one event of the plane.
func (n *node) controlEvent(e controlEvent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if e.tooBig > 0 {
		for _, p := range n.peers {
			if p.paths != nil {
				p.touched = true
				p.paths.TooBig(now, e.path, e.tooBig)
			}
		}
		return
	}
	if e.peer == nil {
		if p := n.byShort[e.handshake]; p != nil {
			n.exchangeMessage(p, now, e.body)
		}
		return
	}
	p := n.peers[e.peer.Name]
	if p == nil {
		return
	}
	p.touched = true
	if e.body == nil {
		if p.paths != nil {
			p.paths.Heard(now, e.path)
		}
		return
	}
	p.exchange.Heard(now, e.local)
	switch transport.ControlKind(e.body[0]) {
	case transport.ControlProbe:
		n.probe(p, now, e)
	case transport.ControlTrain:
		if piece, err := transport.ParseTrainPiece(e.body); err == nil && p.paths != nil {
			p.paths.TrainPiece(now, e.path, piece)
		}
	case transport.ControlTrainReport:
		if report, err := transport.ParseTrainReport(e.body); err == nil && p.paths != nil {
			p.paths.TrainReport(now, e.path, report)
		}
	case transport.ControlRequest:
		n.request(p, now, e.body)
	case transport.ControlReply:
		reply, err := transport.ParseReply(e.body)
		if err != nil {
			return
		}
		if wait := n.requests[reply.ID]; wait != nil {
			delete(n.requests, reply.ID)
			wait <- reply
		}
		n.pong(p, now, e.path, reply.ID)
	}
}

// probe answers a probe, or takes the answer to one of ours.
func (n *node) probe(p *peer, now time.Time, e controlEvent) {
	probe, err := transport.ParseProbe(e.body)
	if err != nil || p.paths == nil || e.path.Kind == 0 {
		return
	}
	if probe.Answer {
		if e.path.Kind == transport.PathDirect {
			n.seen(p, now, probe.Observed)
		}
		n.pong(p, now, e.path, probe.ID)
		p.paths.Answered(now, e.path, probe.ID, probe.HearsYou)
		return
	}
	p.paths.Probed(now, e.path, probe.HearsYou)
	session := p.exchange.Sending()
	if session == nil {
		return
	}
	answer := transport.Probe{
		ID: probe.ID, Answer: true, HearsYou: p.paths.Hears(e.path),
		Observed: e.path.Remote, Path: e.path.Kind,
	}
	n.plane.SendControl(p.Peer, session, e.path, p.carrier(), answer.Append(nil), 0)
}

// seen takes p's word on where a probe of ours came from.
func (n *node) seen(p *peer, now time.Time, observed netip.AddrPort) {
	way := byUDP6
	if observed.Addr().Unmap().Is4() {
		way = byUDP4
	}
	n.observed.note(now, p.Name, way, observed, p.conn != nil && p.conn.Dialled())
}

// request does what a peer asks for, and replies.
func (n *node) request(p *peer, now time.Time, body []byte) {
	q, err := transport.ParseRequest(body)
	if err != nil {
		return
	}
	switch q.Kind {
	case requestWord:
	case requestRelease:
		mac, addrs, ok := parseRelease(q.Body)
		if !ok {
			return
		}
		n.release(p.Name, mac, addrs)
	case requestAddresses:
		n.addressMessage(p, now, q.Body)
		return
	default:
		return
	}
	if reply, err := (transport.Reply{ID: q.ID, Kind: q.Kind}).Append(nil); err == nil {
		n.plane.SendRequest(p.Name, reply)
	}
}

// release gives up the containers' endpoints that moved to another host, interface and
// all. The host's own it keeps: only its operator takes that away, and until then the
// greater claim decides.
func (n *node) release(to crypto.Name, mac route.MAC, addrs []netip.Addr) {
	for _, a := range slices.Clone(n.attachments) {
		if a.Exposed || !a.holds(mac, addrs) {
			continue
		}
		for _, l := range a.Leases {
			if !isOurs(l.ID) { // who holds it gives it up, too
				n.machine.Release(time.Now(), l.ID, l.Addr)
			}
		}
		n.log.Info("endpoint moved away", "endpoint", a.Name, "mac", a.Plan.MAC, "peer", to)
		if err := n.drop(a); err != nil {
			n.log.Error("attachments cannot be saved", "error", err)
		}
		n.unplug(a.Plan.HostInterface)
	}
}

// say sends p a request to which no answer is waited for. n.mu must be held.
func (n *node) say(p *peer, kind uint8) {
	body, err := transport.Request{ID: n.random.Uint64(), Kind: kind}.Append(nil)
	if err != nil {
		return
	}
	if p.paths != nil {
		if best, ok := p.paths.Best(); ok {
			n.plane.SendControl(p.Peer, p.exchange.Sending(), best, p.carrier(), body, 0)
			return
		}
	}
	n.plane.SendRequest(p.Name, body)
}

// askRelease asks the host of an endpoint to give it up, and waits for its word
// or two seconds. n.mu must be held; it is let go of meanwhile.
func (n *node) askRelease(ctx context.Context, host crypto.Name, mac route.MAC, addrs []netip.Addr) {
	id := n.random.Uint64()
	body, err := transport.Request{ID: id, Kind: requestRelease, Body: appendRelease(nil, mac, addrs)}.Append(nil)
	if err != nil {
		return
	}
	wait := make(chan transport.Reply, 1)
	n.requests[id] = wait
	n.mu.Unlock()
	defer n.mu.Lock()
	ctx, cancel := context.WithTimeout(ctx, releaseWait)
	defer cancel()
	again := time.NewTicker(releaseWait / 8)
	defer again.Stop()
	for {
		n.plane.SendRequest(host, body)
		select {
		case <-wait:
			return
		case <-ctx.Done():
			n.log.Warn("the old host did not answer; the greater claim decides", "peer", host)
			n.mu.Lock()
			delete(n.requests, id)
			n.mu.Unlock()
			return
		case <-again.C:
		}
	}
}

// appendRelease writes the body of a release request: VNI 2, MAC 6, then each
// address behind its length (4 or 16).
func appendRelease(b []byte, mac route.MAC, addrs []netip.Addr) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(vni))
	b = append(b, mac[:]...)
	for _, a := range addrs {
		s := a.AsSlice()
		b = append(append(b, byte(len(s))), s...)
	}
	return b
}

// parseRelease reads what appendRelease wrote.
func parseRelease(b []byte) (mac route.MAC, addrs []netip.Addr, ok bool) {
	if len(b) < 8 || route.VNI(binary.BigEndian.Uint16(b)) != vni {
		return mac, nil, false
	}
	mac = route.MAC(b[2:8])
	for b = b[8:]; len(b) > 0; b = b[1+int(b[0]):] {
		if len(b) < 1+int(b[0]) || len(addrs) == maxAddresses {
			return mac, nil, false
		}
		a, isAddr := netip.AddrFromSlice(b[1 : 1+int(b[0])])
		if !isAddr {
			return mac, nil, false
		}
		addrs = append(addrs, a)
	}
	return mac, addrs, true
}
