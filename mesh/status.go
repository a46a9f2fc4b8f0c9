package mesh

import (
	"cmp"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/gossip"
	"ripstop/route"
	"ripstop/transport"
	"ripstop/tun"
	"ripstop/tun/attach"
)

// status is what the node knows, for people and programs. The kernel is asked while
// nobody waits for the node's lock.
func (n *node) status() api.Status {
	targets := n.control.Targets()
	counters := n.counters()
	s := n.known(targets)
	s.Offloads = n.statusOffloads()
	for name, count := range counters {
		s.Counters[name] += count
	}
	maps.DeleteFunc(s.Counters, func(_ string, count uint64) bool { return count == 0 })
	for i, e := range s.Endpoints {
		if e.State == api.EndpointHere && e.Netns != "" && !attach.PortExists(e.HostPort) {
			s.Endpoints[i].State = api.EndpointOrphan
		}
	}
	return s
}

// known is status without what others than the node have to be asked for.
func (n *node) known(targets []transport.TargetStatus) api.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	nicknames := n.nicknames()
	id, _ := n.identity.Name().MarshalText()
	network := n.network.ID()
	s := api.Status{
		Version:  api.Version,
		Software: n.cfg.Software,
		Name:     n.identity.Name().String(),
		ID:       string(id),
		Nickname: n.cfg.Nickname,
		UID:      n.uid.String(),
		Network:  network.String(),
		Cipher:   n.network.Policy().String(),
		Mode:     n.cfg.Mode,
		Device:   n.deviceName,
		MTU:      n.cfg.MTU,
		Port:     n.port,
		PID:      os.Getpid(),
		Started:  n.started,

		UptimeSec: int64(now.Sub(n.started) / time.Second),

		StateDir:   absolute(n.cfg.StateDir),
		SecretFile: absolute(n.cfg.SecretFile),

		Warnings: append(slices.Clone(n.warnings), n.names.warnings()...),
		Counters: n.peerCounters(),
	}
	if n.bridge != nil {
		s.Bridge = n.cfg.Bridge
	}
	if n.metrics != nil {
		s.Metrics = n.metrics.Addr().String()
	}
	if a := n.exposed(); a != nil {
		s.Addresses, s.Masquerade = a.Plan.Addresses, a.Masquerade
	}
	for _, a := range n.advertised {
		s.Advertise = append(s.Advertise, a.String())
	}
	for _, t := range targets {
		s.Targets = append(s.Targets, api.Target{Target: t.Target, State: string(t.State), Peer: nameOrNone(t.Peer), Error: t.LastError, NextTry: t.NextTry})
	}
	s.Peers, s.Routes = n.statusPeers(now, nicknames)
	s.Links = n.statusLinks(now, nicknames)
	s.Endpoints = n.statusEndpoints(nicknames)
	all := n.statusIPAM(nicknames)
	s.IPAM = &all
	return s
}

// absolute is a path as other processes of this host can follow it; none stays none.
func absolute(path string) string {
	if whole, err := filepath.Abs(path); err == nil && path != "" {
		return whole
	}
	return path
}

// nameOrNone is a name's text, empty for nobody's.
func nameOrNone(n crypto.Name) string {
	if n.IsZero() {
		return ""
	}
	return n.String()
}

// peerCounters are what is counted for each peer, summed up. n.mu must be held.
func (n *node) peerCounters() map[string]uint64 {
	t := n.traffic()
	return map[string]uint64{"frames_out": t.framesOut, "bytes_out": t.bytesOut, "frames_in": t.framesIn, "bytes_in": t.bytesIn}
}

// counters are what is counted by the plane and switch, the sockets, the device and
// the port rules. n.mu need not be held.
func (n *node) counters() map[string]uint64 {
	all := n.plane.Counters().All()
	if d, ok := n.device.(tun.Dropped); ok {
		for reason, count := range d.Dropped() {
			all["drop_"+reason] += count
		}
	}
	maps.Copy(all, n.control.Counters())
	if n.names.server != nil {
		maps.Copy(all, n.names.server.Counters())
	}
	socket := n.socket.Stats()
	for name, count := range map[string]uint64{
		"drop_receive_buffer_full": socket.KernelDrops, "drop_datagram_truncated": socket.Truncated, "udp_receive_errors": socket.ReceiveErrors,
		"udp_too_big": socket.TooBig, "udp_no_buffers": socket.NoBuffers, "udp_refused": socket.Refused,
		"udp_unreachable": socket.Unreachable, "udp_send_errors": socket.SendErrors,
	} {
		all[name] = count
	}
	if n.firewall != nil {
		if drops, err := n.firewall.Counters(); err == nil {
			for cause, count := range drops {
				all["port_rule_"+cause] += count
			}
		}
	}
	return all
}

// nickname is the nickname of the host called name, with its name behind it when
// another host has the same. n.mu must be held.
func (n *node) nickname(name crypto.Name) string {
	if name == n.identity.Name() {
		return n.cfg.Nickname
	}
	nicknames := n.nicknames()
	return nicknames[name]
}

// nicknames are the nicknames of all hosts; two alike are told apart by their names.
func (n *node) nicknames() map[crypto.Name]string {
	all := map[crypto.Name]string{n.identity.Name(): n.cfg.Nickname}
	for r := range n.gossip.Records(gossip.KindPeer) {
		if body, err := gossip.ParsePeerBody(r.Body); err == nil && r.Origin != n.identity.Name() {
			all[r.Origin] = body.Nickname
		}
	}
	times := make(map[string]int)
	for _, nickname := range all {
		times[nickname]++
	}
	for name, nickname := range all {
		if times[nickname] > 1 {
			all[name] = nickname + "(" + name.String() + ")"
		}
	}
	return all
}

// statusPeers are the members and the ways to them.
func (n *node) statusPeers(now time.Time, nicknames map[crypto.Name]string) (peers []api.Peer, routes []api.Route) {
	ways := make(map[crypto.Name]route.Route)
	for _, r := range n.table.Routes() {
		ways[r.Destination] = r
	}
	for _, m := range n.gossip.Members() {
		if m.Name == n.identity.Name() {
			continue
		}
		id, _ := m.Name.MarshalText()
		e := api.Peer{Name: m.Name.String(), ID: string(id), Nickname: nicknames[m.Name], UID: m.Peer.UID.String(), Software: m.Peer.Software, Alive: m.Alive}
		for _, a := range m.Peer.Addresses {
			e.Addresses = append(e.Addresses, a.String())
		}
		p := n.peers[m.Name]
		if p != nil {
			t := trafficWith(p.Peer)
			e.FramesOut, e.BytesOut, e.FramesIn, e.BytesIn = t.framesOut, t.bytesOut, t.framesIn, t.bytesIn
		}
		if p != nil && p.exchange.Sending() != nil {
			e.Session = p.exchange.Sending().Cipher.String()
		}
		if way, ok := ways[m.Name]; ok {
			e.Reachable, e.Hops = true, way.Hops
			r := api.Route{Peer: e.Name, Nickname: e.Nickname, Next: way.Next[0].String(), Alternate: nameOrNone(way.Alternate), Hops: way.Hops, CostMicro: way.Cost.Microseconds()}
			if p != nil && p.direct(now) {
				e.Hops, e.Path = 1, transport.PathDirect.String()
			} else if way.Next[0] != m.Name {
				e.Via, e.Path = nicknames[way.Next[0]], transport.PathRelay.String()
			} else if p != nil && p.paths != nil {
				if best, ok := p.paths.Best(); ok {
					e.Path = best.Kind.String()
				}
			}
			routes = append(routes, r)
		}
		peers = append(peers, e)
	}
	return peers, routes
}

// statusLinks are the neighbours, and the paths to each.
func (n *node) statusLinks(now time.Time, nicknames map[crypto.Name]string) []api.Link {
	var links []api.Link
	for _, p := range n.peers {
		if p.paths == nil || !p.linked(now) {
			continue
		}
		l := api.Link{Peer: p.Name.String(), Nickname: nicknames[p.Name], State: api.LinkConnecting, Since: p.since}
		if p.conn != nil {
			l.Dialled = p.conn.Dialled()
			if l.Nickname == "" {
				l.Nickname = p.conn.Hello().Nickname
			}
		}
		switch {
		case !p.since.IsZero():
			l.State = api.LinkUp
		case p.conn == nil:
			l.State = api.LinkDown
		}
		for _, path := range p.paths.Status() {
			s := api.Path{Path: path.Kind.String(), Remote: remoteOf(path.Path), Up: path.Up, Best: path.Best, RTTMicro: path.RTT.Microseconds(), Loss: path.Loss,
				MTU: path.Limit, Train: min(path.Train, n.socket.MaxSegments())}
			if path.Best {
				l.Path, l.Remote, l.RTTMicro, l.Loss, l.MTU, l.Train = s.Path, s.Remote, s.RTTMicro, s.Loss, s.MTU, s.Train
			}
			l.Paths = append(l.Paths, s)
		}
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b api.Link) int { return strings.Compare(a.Peer, b.Peer) })
	return links
}

// remoteOf is the address of a path over UDP.
func remoteOf(p transport.Path) string {
	if p.Kind != transport.PathDirect {
		return ""
	}
	return p.Remote.String()
}

// statusEndpoints are all endpoints of the network, those of this host first.
func (n *node) statusEndpoints(nicknames map[crypto.Name]string) []api.Endpoint {
	alive := n.aliveHosts()
	self := n.identity.Name()
	var all []api.Endpoint
	fenced := make(map[string]bool)
	for _, e := range n.table.Fenced() {
		fenced[e.Host.String()+macOf(e.MAC)] = true
	}
	for _, a := range n.attachments {
		e := n.endpointOf(a)
		if e.Fenced = n.fencedOf(a); fenced[e.Host+e.MAC] || len(e.Fenced) > 0 {
			e.State = api.EndpointFenced
		}
		all = append(all, e)
	}
	remote := func(e route.Endpoint, state string) {
		if e.Host == self {
			return
		}
		out := api.Endpoint{MAC: macOf(e.MAC), Host: e.Host.String(), HostNickname: nicknames[e.Host], State: state, Claim: e.Claim}
		if len(e.Names) > 0 {
			out.Name, out.Aliases = e.Names[0], e.Names[1:]
		}
		for _, a := range e.Addresses {
			out.Addresses = append(out.Addresses, netip.PrefixFrom(a, a.BitLen()))
		}
		if state == api.EndpointRemote && !alive[e.Host] {
			out.State = api.EndpointOrphan
		}
		all = append(all, out)
	}
	for _, e := range n.table.Endpoints() {
		remote(e, api.EndpointRemote)
	}
	for _, e := range n.table.Fenced() {
		remote(e, api.EndpointFenced)
	}
	slices.SortStableFunc(all[len(n.attachments):], func(a, b api.Endpoint) int {
		return cmp.Or(strings.Compare(a.HostNickname, b.HostNickname), strings.Compare(a.MAC, b.MAC))
	})
	return all
}
