package mesh

import (
	"errors"
	"maps"
	"math"
	"net/netip"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/gossip"
	"ripstop/mesh/plane"
	"ripstop/route"
	"ripstop/transport"
)

// wantAll is up to how many members a host keeps a session with every one of
// them. Beyond it sessions with hosts that are not neighbours are made when a
// frame wants one.
const wantAll = 128

// publishLinks publishes the links that are up, when they changed by more than
// jitter. n.mu must be held.
func (n *node) publishLinks(now time.Time) {
	var links []gossip.LinkInfo
	for _, p := range n.peers {
		if !p.linkUp(now) {
			continue
		}
		rtt, loss := p.paths.Cost()
		best, _ := p.paths.Best()
		links = append(links, gossip.LinkInfo{Peer: p.Name, RTT: rtt, Loss: uint8(min(loss*100+0.5, 100)),
			MTU: uint16(min(p.paths.Limit(), math.MaxUint16)), Path: uint8(best.Kind)})
	}
	if changed, due := n.damping.Update(now, links); due {
		n.publish(now, gossip.KindLinks, "", gossip.LinksBody{Links: changed})
	}
}

// rebuild makes graph, table and snapshot anew from what is known, and tells the
// switch's neighbours what moved. n.mu must be held.
func (n *node) rebuild(now time.Time) {
	self := n.identity.Name()
	up := make(map[crypto.Name]bool)
	ids := make(map[crypto.Name]route.PeerID, len(n.peers))
	for name, p := range n.peers {
		ids[name] = p.ID
		if p.linkUp(now) {
			up[name] = true
		}
	}
	directory := n.table.Directory()
	if n.moved {
		directory = route.BuildDirectory(n.endpoints())
	}
	n.table = route.Build(route.TableConfig{
		Self:      self,
		Peers:     ids,
		Graph:     route.BuildGraph(self, n.publishedLinks()),
		LinksUp:   up,
		Directory: directory,
		Strict:    n.cfg.StrictPorts,
		HostOnly:  n.cfg.DNSAddress,
	})
	n.names.stale = true
	n.relayed = n.relayLimit()
	members := n.gossip.Members()
	for _, p := range n.peers {
		reachable := n.table.Reachable(p.ID)
		if reachable && len(members) <= wantAll {
			p.exchange.Want(now, true)
		} else if !reachable && p.conn == nil {
			p.exchange.Want(now, false)
		}
	}
	n.publishSnapshot(now)
	n.followPeers(now)
	if n.moved {
		n.moved = false
		n.followEndpoints(now)
	}
}

// publishSnapshot gives the plane the table, and sessions and paths as they are now. A new
// session, or another path with a peer, changes nothing else. n.mu must be held.
func (n *node) publishSnapshot(now time.Time) {
	snapshot := &plane.Snapshot{
		Table:    n.table,
		Outlets:  make([]*plane.Outlet, n.highestID()+1),
		Sessions: maps.Clone(n.receivers),
	}
	for _, p := range n.peers {
		o := &plane.Outlet{Peer: p.Peer, Session: p.exchange.Sending(), RelayLimit: n.relayed}
		if p.paths != nil {
			if best, ok := p.paths.Best(); ok {
				o.Path, o.Limit, o.Train = best, p.paths.Limit(), p.paths.Train()
				o.Direct = p.direct(now)
			}
		}
		if o.Path.Kind == transport.PathTCP {
			o.Carrier = p.carrier()
		}
		o.Verified = p.verified
		snapshot.Outlets[p.ID] = o
	}
	n.plane.SetSnapshot(snapshot)
}

// highestID is the greatest peer number in use.
func (n *node) highestID() route.PeerID {
	highest := route.PeerID(0)
	for _, p := range n.peers {
		highest = max(highest, p.ID)
	}
	return highest
}

// relayLimit is how many bytes a datagram may have, without its relay header, to pass
// every link that is published by both its ends.
func (n *node) relayLimit() int {
	type edge struct{ from, to crypto.Name }
	least := math.MaxUint16
	limits := make(map[edge]int)
	for r := range n.gossip.Records(gossip.KindLinks) {
		body, err := gossip.ParseLinksBody(r.Body)
		if err != nil {
			continue
		}
		for _, l := range body.Links {
			limit := int(l.MTU)
			if limit == 0 {
				limit = transport.BaseLimit
			}
			limits[edge{r.Origin, l.Peer}] = limit
			if back, both := limits[edge{l.Peer, r.Origin}]; both {
				least = min(least, limit, back)
			}
		}
	}
	if least == math.MaxUint16 {
		return 0 // no link is known
	}
	return least - transport.RelayLen
}

// publishedLinks are all hosts' published links, as the graph takes them.
func (n *node) publishedLinks() []route.Link {
	var links []route.Link
	for r := range n.gossip.Records(gossip.KindLinks) {
		body, err := gossip.ParseLinksBody(r.Body)
		if err != nil {
			continue
		}
		for _, l := range body.Links {
			links = append(links, route.Link{A: r.Origin, B: l.Peer, RTT: l.RTT, Loss: float64(l.Loss) / 100})
		}
	}
	return links
}

// endpoints are all hosts' published endpoints. n.mu must be held.
func (n *node) endpoints() []route.Endpoint {
	var all []route.Endpoint
	for r := range n.gossip.Records(gossip.KindEndpoint) {
		body, err := gossip.ParseEndpointBody(r.Body)
		if err != nil {
			continue
		}
		e := route.Endpoint{
			VNI: route.VNI(body.VNI), MAC: body.MAC, MTU: body.MTU, Addresses: body.Addresses, Names: body.Names,
			Host: r.Origin, Claim: body.Claim,
		}
		if r.Origin == n.identity.Name() {
			n.addOptOuts(&e)
		}
		all = append(all, e)
	}
	return all
}

// addOptOuts adds what this host's own ports may send beside their own. It is known
// here only: port rules are the first wall, and stand here too.
func (n *node) addOptOuts(e *route.Endpoint) {
	for _, a := range n.attachments {
		if a.mac() != e.MAC {
			continue
		}
		rule := a.rule()
		e.AllowAnyMAC, e.AllowAddresses = rule.AnyMAC, rule.AllowAddresses
		for _, m := range rule.AllowMACs {
			e.AllowMACs = append(e.AllowMACs, m)
		}
		if rule.AnyAddress {
			e.AllowAddresses = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
		}
	}
}

// aliveHosts are the hosts with which some host has a link.
func (n *node) aliveHosts() map[crypto.Name]bool {
	alive := make(map[crypto.Name]bool)
	for _, m := range n.gossip.Members() {
		alive[m.Name] = m.Alive
	}
	return alive
}

// followEndpoints tells the local bridge where addresses moved to, keeps the
// port rules' list of foreign endpoints, and notes which addresses are the
// overlay's. n.mu must be held.
func (n *node) followEndpoints(now time.Time) {
	for _, moved := range n.announcer.Update(now, n.table) {
		if err := n.plane.Inject(route.AppendAnnouncement(nil, moved.MAC, moved.Address)); err != nil {
			n.log.Debug("announcement not written", "mac", moved.MAC, "address", moved.Address, "error", err)
		}
	}
	space := &overlaySpace{addresses: make(map[netip.Addr]struct{})}
	var macs [][6]byte
	var addresses []netip.Addr
	for _, e := range n.table.Endpoints() {
		for _, a := range e.Addresses {
			space.addresses[a] = struct{}{}
		}
		if e.Host != n.identity.Name() {
			macs = append(macs, e.MAC)
			addresses = append(addresses, e.Addresses...)
		}
	}
	var hostMACs [][6]byte
	var hostAddresses []netip.Addr
	if a := n.exposed(); a != nil {
		for _, p := range a.Plan.Addresses {
			space.prefixes = append(space.prefixes, p.Masked())
		}
		hostMACs, hostAddresses = [][6]byte{a.mac()}, a.addrs()
	}
	if n.names.server != nil {
		n.listenForNames(hostAddresses)
		hostAddresses = append(hostAddresses, n.cfg.DNSAddress)
	}
	n.overlay.Store(space)
	if n.firewall == nil {
		return
	}
	if err := errors.Join(n.firewall.SetRemote(macs, addresses), n.firewall.SetHost(hostMACs, hostAddresses)); err != nil {
		n.log.Error("port rules cannot be updated", "error", err)
	}
}
