package mesh

import (
	"cmp"
	"context"
	"net/netip"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/transport"
)

// What pings may take of a host and of the underlay.
const (
	maxPings  = 16                    // that wait at once
	pingSpace = 10 * time.Millisecond // between two that leave, whoever asks for them
)

// pinging is the part of a node that asks other hosts for answers because somebody wants to
// see them. A ping is what the node itself sends, under a number of its own: on a path a
// probe, which tells the other end no more than any other; over relays, where there are no
// probes, a word. So every host answers that knows these two.
type pinging struct {
	pings    map[uint64]*ping // that have left and wait, by number
	pingers  int              // callers that wait
	pingFree time.Time        // when the next may leave
}

// ping is a question that has left.
type ping struct {
	to   crypto.Name
	sent time.Time
	pong chan pong // of capacity 1
}

// pong is its answer: after how long it came, and by which path. The zero Path: relayed.
type pong struct {
	after time.Duration
	path  transport.Path
}

// pingWay is how a ping leaves: on a path of the pair, or handed to a relay.
type pingWay struct {
	path transport.Path // zero: relayed
	via  crypto.Name    // the relay
}

// Ping asks another host for one answer and waits for it.
func (b *backend) Ping(ctx context.Context, q api.PingRequest) (api.Pong, error) {
	n := (*node)(b)
	timeout := cmp.Or(q.Timeout.Duration(), api.DefaultPingTimeout)
	if timeout < 0 || timeout > api.MaxPingTimeout {
		return api.Pong{}, api.Errorf(api.CodeInvalid, "an answer is waited for up to %v, not %v", api.MaxPingTimeout, timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	n.mu.Lock()
	defer n.mu.Unlock()
	to, err := n.pingTarget(q.Host)
	if err != nil {
		return api.Pong{}, err
	}
	if n.pingers >= maxPings {
		return api.Pong{}, api.Errorf(api.CodeConflict, "%d pings wait for answers on this host already, the most at once: ask again when one has ended", maxPings)
	}
	n.pingers++
	defer func() { n.pingers-- }()
	id := n.random.Uint64()
	way, err := n.leave(ctx, id, to, q.Path)
	if err != nil {
		return api.Pong{}, err
	}
	out := api.Pong{Host: to.String(), Nickname: n.nickname(to), Way: shownWay(way.path)}
	if !way.via.IsZero() {
		out.Way.Via = cmp.Or(n.nickname(way.via), way.via.String())
	}
	if answer, ok := n.awaitPong(ctx, id); ok {
		back := shownWay(answer.path)
		out.Answered, out.RTTMicro, out.Back = true, max(answer.after.Microseconds(), 1), &back
	}
	return out, nil
}

// shownWay is a path as the API shows it.
func shownWay(path transport.Path) api.PingWay {
	if path.Kind == 0 {
		return api.PingWay{Path: transport.PathRelay.String()}
	}
	return api.PingWay{Path: path.Kind.String(), Remote: remoteOf(path)}
}

// pingTarget finds the host to ask. n.mu must be held.
func (n *node) pingTarget(word string) (crypto.Name, error) {
	if word == "" || len(word) > api.MaxPlace {
		return crypto.Name{}, api.Errorf(api.CodeInvalid, "a host's nickname or name has 1 to %d characters", api.MaxPlace)
	}
	to, err := n.peerCalled(word)
	switch {
	case api.IsCode(err, api.CodeNotFound):
		return to, api.Errorf(api.CodeNotFound, "no host %s: `ripstop status peers` lists them; of what is attached, `ripstop explain` tells the host", word)
	case err == nil && to == n.identity.Name():
		return to, api.Errorf(api.CodeInvalid, "%s is this host: ping another", word)
	}
	return to, err
}

// leave sends a ping as soon as there is a session to send it under, and its turn has come.
// n.mu must be held; it is let go of meanwhile.
func (n *node) leave(ctx context.Context, id uint64, to crypto.Name, path string) (pingWay, error) {
	for {
		way, err := n.pingWay(to, path)
		if err != nil {
			return way, err
		}
		why := n.sendPing(time.Now(), id, to, way)
		if why == nil {
			return way, nil
		}
		n.mu.Unlock()
		late := time.NewTimer(pingSpace)
		select {
		case <-late.C:
		case <-ctx.Done():
		}
		late.Stop()
		n.mu.Lock()
		if ctx.Err() != nil {
			return way, why
		}
	}
}

// pingWay chooses the path that was asked for, of those of the pair, or how a frame would
// leave now. n.mu must be held.
func (n *node) pingWay(to crypto.Name, path string) (w pingWay, err error) {
	p := n.peers[to]
	if path == "" && p != nil {
		switch way := n.plane.Snapshot().Way(p.ID, 0); {
		case way.Hop == nil:
		case way.Hop == way.To && way.Hop.Path.Kind != 0:
			return pingWay{path: way.Hop.Path}, nil
		default:
			return pingWay{via: way.Hop.Peer.Name}, nil
		}
	}
	who := cmp.Or(n.nickname(to), to.String())
	if path == "" {
		return w, api.Errorf(api.CodeUnavailable, "there is no way to %s now: `ripstop explain %s` says where it ends", who, who)
	}
	wanted, err := parsePathWord(path)
	if err != nil {
		return w, err
	}
	var paths []transport.PathStatus
	if p != nil && p.paths != nil {
		paths = p.paths.Status()
	}
	if w.path = choosePath(paths, wanted); w.path.Kind != 0 {
		return w, nil
	}
	all := []string{"none: it is reached over others, if at all"}
	if len(paths) > 0 {
		all = texts(pathsOf(paths))
	}
	return w, api.Errorf(api.CodeNotFound, "%s is no path between this host and %s; there is %s", path, who, listed(all))
}

// parsePathWord reads what path is asked for. Without an address any path over UDP will do.
func parsePathWord(word string) (transport.Path, error) {
	switch word {
	case transport.PathDirect.String():
		return transport.Path{Kind: transport.PathDirect}, nil
	case transport.PathTCP.String():
		return transport.Path{Kind: transport.PathTCP}, nil
	}
	remote, err := netip.ParseAddrPort(word)
	if err != nil {
		return transport.Path{}, api.Errorf(api.CodeInvalid, "%.60q: a path is udp, tcp, or an underlay address with its port, such as 192.0.2.7:6783", word)
	}
	return transport.DirectPath(remote), nil
}

// choosePath finds the wanted path: of several over UDP the one in use, else one that is
// up, else the first. The zero Path: there is none.
func choosePath(paths []transport.PathStatus, wanted transport.Path) (chosen transport.Path) {
	rank := 0
	for _, p := range paths {
		if p.Kind != wanted.Kind || wanted.Remote.IsValid() && p.Path != wanted {
			continue
		}
		own := 1
		switch {
		case p.Best:
			own = 3
		case p.Up:
			own = 2
		}
		if own > rank {
			rank, chosen = own, p.Path
		}
	}
	return chosen
}

// pathsOf are the paths alone.
func pathsOf(all []transport.PathStatus) (paths []transport.Path) {
	for _, p := range all {
		paths = append(paths, p.Path)
	}
	return paths
}

// sendPing sends a ping, or says why it cannot leave yet. n.mu must be held.
func (n *node) sendPing(now time.Time, id uint64, to crypto.Name, way pingWay) error {
	p := n.peers[to]
	session := p.exchange.Sending()
	who := cmp.Or(n.nickname(to), to.String())
	none := api.Errorf(api.CodeUnavailable, "there is no session with %s yet: ask again, and `ripstop explain %s` says how it stands", who, who)
	if session == nil {
		p.exchange.Want(now, true)
		p.touched = true
		n.poke()
		return none
	}
	if now.Before(n.pingFree) || !n.probes.Take(now) {
		return api.Errorf(api.CodeConflict, "this host sends as many probes as it may: ask again, with a longer pause between pings")
	}
	n.pingFree = now.Add(pingSpace)
	n.pings[id] = &ping{to: to, sent: now, pong: make(chan pong, 1)}
	if way.path.Kind == 0 {
		body, err := transport.Request{ID: id, Kind: requestWord}.Append(nil)
		if err != nil || !n.plane.SendRequest(to, body) {
			delete(n.pings, id)
			return none
		}
		return nil
	}
	hears := p.paths != nil && p.paths.Hears(way.path)
	n.plane.SendControl(p.Peer, session, way.path, p.carrier(), transport.Probe{ID: id, HearsYou: hears, Path: way.path.Kind}.Append(nil), 0)
	return nil
}

// awaitPong waits for the answer to a ping until ctx ends. n.mu must be held; it is let go
// of meanwhile.
func (n *node) awaitPong(ctx context.Context, id uint64) (pong, bool) {
	answer := n.pings[id].pong
	n.mu.Unlock()
	select {
	case <-ctx.Done():
	case a := <-answer:
		n.mu.Lock()
		return a, true
	}
	n.mu.Lock()
	delete(n.pings, id)
	select {
	case a := <-answer: // it came just now
		return a, true
	default:
		return pong{}, false
	}
}

// pong takes an answer of p that came on path, if it is one to a ping. n.mu must be held.
func (n *node) pong(p *peer, now time.Time, path transport.Path, id uint64) {
	if g := n.pings[id]; g != nil && g.to == p.Name {
		delete(n.pings, id)
		g.pong <- pong{now.Sub(g.sent), path}
	}
}
