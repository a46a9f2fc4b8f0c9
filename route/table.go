package route

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
)

// The hop limit of a relayed datagram is the source's own hop count and some slack
// for the way round a failure, bounded.
const (
	HopSlack    = 4
	MaxHopLimit = 32
)

// TableConfig is all that a Table is made of. Its slices and maps must not change
// while Build runs, Endpoints never.
type TableConfig struct {
	Self  crypto.Name            // required: this host
	Peers map[crypto.Name]PeerID // numbers of other hosts; one without a number (or 0) is not used
	Graph *Graph                 // topology; nil: no other host is reachable
	// LinksUp are self's own links that are up now. A neighbour that is missing or
	// false is no first hop, whatever the graph says. nil: none is up.
	LinksUp   map[crypto.Name]bool
	Endpoints []Endpoint // records of all hosts, fenced ones too
	// Directory, if set, is used in place of Endpoints: when only the topology has
	// changed, the endpoint map need not be made again (Table.Directory).
	Directory *Directory
	Strict    bool // local frames from a MAC that is no endpoint's are dropped
	// HostOnly is an IPv4 address that every host answers by itself: ARP that names it
	// neither leaves a host nor enters one. Zero: none.
	HostOnly netip.Addr
}

// Table is everything that forwarding reads, for one moment. It is immutable.
//
//	MAC, address --Directory--> host number --places--> here | peer --routes--> next hops
type Table struct {
	self      crypto.Name
	selfShort crypto.ShortName
	graph     *Graph
	directory *Directory
	strict    bool
	hostOnly  [4]byte // 0.0.0.0: none
	places    []place // by the directory's host number
	routes    []path  // by PeerID
	short     map[crypto.ShortName]PeerID
	everyone  []PeerID            // reachable hosts, by name
	copies    map[VNI][]PeerID    // of VNIs other than 0
	grants    map[VNI][]*Endpoint // local endpoints with opt-outs
}

// place is where a host is, seen from here.
type place struct {
	peer      PeerID
	here      bool
	reachable bool // it is another host and there is a next hop
}

// path is how to reach a peer; without next it can't be reached.
type path struct {
	name      crypto.Name
	next      []hop
	alternate hop // peer 0: none
	hops      int
	cost      uint64
}

type hop struct {
	peer PeerID
	word uint64 // the name's first 8 bytes
}

// Build makes the table. It reads nothing but cfg, and equal cfg (in any order of
// endpoints and links) gives tables that decide alike.
func Build(cfg TableConfig) *Table {
	t := &Table{
		self:      cfg.Self,
		selfShort: cfg.Self.Short(),
		graph:     cfg.Graph,
		directory: cfg.Directory,
		strict:    cfg.Strict,
		hostOnly:  hostOnly(cfg.HostOnly),
		short:     make(map[crypto.ShortName]PeerID),
		copies:    make(map[VNI][]PeerID),
		grants:    make(map[VNI][]*Endpoint),
	}
	if t.directory == nil {
		t.directory = BuildDirectory(cfg.Endpoints)
	}
	if t.graph == nil || t.graph.Self() != cfg.Self {
		t.graph = BuildGraph(cfg.Self, nil)
	}
	t.setRoutes(cfg)
	t.setPlaces(cfg)
	for _, i := range t.directory.granted {
		if e := &t.directory.endpoints[i]; e.Host == t.self {
			t.grants[e.VNI] = append(t.grants[e.VNI], e)
		}
	}
	return t
}

// setRoutes finds the ways to all peers over the links that are up.
func (t *Table) setRoutes(cfg TableConfig) {
	g := t.graph
	highest := PeerID(0)
	for _, id := range cfg.Peers {
		highest = max(highest, id)
	}
	t.routes = make([]path, int(highest)+1)
	usable := func(n int32) bool { return cfg.LinksUp[g.names[n]] && cfg.Peers[g.names[n]] != 0 }
	best := g.best
	for _, e := range g.out(g.self) {
		if !usable(e.to) { // then the graph's own ways, made for all links, don't hold
			best = g.paths(usable)
			break
		}
	}
	toHop := func(n int32) hop {
		return hop{cfg.Peers[g.names[n]], word(g.names[n].Short())}
	}
	total := 0
	for n := range best.to {
		total += len(best.to[n].next)
	}
	hops := make([]hop, 0, total)
	for n := range best.to {
		w, id := &best.to[n], cfg.Peers[g.names[n]]
		if len(w.next) == 0 || id == 0 {
			continue
		}
		from := len(hops)
		for _, first := range w.next {
			hops = append(hops, toHop(first))
		}
		r := path{name: g.names[n], next: hops[from:len(hops):len(hops)], hops: w.hops, cost: w.cost}
		if w.alternate >= 0 {
			r.alternate = toHop(w.alternate)
		}
		t.routes[id] = r
		if _, taken := t.short[r.name.Short()]; !taken { // nodes are sorted: the lower name keeps it
			t.short[r.name.Short()] = id
		}
		t.everyone = append(t.everyone, id)
	}
}

// setPlaces says of each host of the directory where it is.
func (t *Table) setPlaces(cfg TableConfig) {
	t.places = make([]place, len(t.directory.hosts))
	for i, name := range t.directory.hosts {
		if name == t.self {
			t.places[i] = place{here: true}
			continue
		}
		id := cfg.Peers[name]
		t.places[i] = place{peer: id, reachable: t.Reachable(id)}
	}
	for n := range t.directory.networks {
		if p := t.places[n.host]; p.reachable {
			t.copies[n.vni] = append(t.copies[n.vni], p.peer)
		}
	}
	for _, list := range t.copies {
		slices.SortFunc(list, func(a, b PeerID) int { return t.routes[a].name.Compare(t.routes[b].name) })
	}
}

// Directory is the endpoint map, for the next Build.
func (t *Table) Directory() *Directory { return t.directory }

// Graph is the topology the table was built from.
func (t *Table) Graph() *Graph { return t.graph }

// Self is this host.
func (t *Table) Self() crypto.Name { return t.self }

// Copies are the hosts that a frame for everyone in vni goes to: every reachable
// host for VNI 0, which all hosts have; for others those with an endpoint in it.
// They are in the order of names. The slice must not be changed.
func (t *Table) Copies(vni VNI) []PeerID {
	if vni == 0 {
		return t.everyone
	}
	return t.copies[vni]
}

// Reachable reports whether there is a next hop to peer.
func (t *Table) Reachable(peer PeerID) bool {
	return int(peer) < len(t.routes) && len(t.routes[peer].next) > 0
}

// HopLimit is what a datagram from this host to peer starts with; 0 if unreachable.
func (t *Table) HopLimit(peer PeerID) uint8 {
	if !t.Reachable(peer) {
		return 0
	}
	return uint8(min(t.routes[peer].hops+HopSlack, MaxHopLimit))
}

// Peer is the number of the reachable host whose name begins with short.
func (t *Table) Peer(short crypto.ShortName) (PeerID, bool) {
	id, ok := t.short[short]
	return id, ok
}

// NextHop is Relay for a datagram made here; from is 0 then, or the neighbour that
// must not be used. It does not allocate.
func (t *Table) NextHop(dst crypto.ShortName, flow uint16, from PeerID) (PeerID, bool) {
	return t.Relay(t.selfShort, dst, flow, from)
}

// NextHopTo is NextHop for a peer's number and a datagram made here.
func (t *Table) NextHopTo(peer PeerID, flow uint16) (PeerID, bool) {
	if !t.Reachable(peer) {
		return 0, false
	}
	r := &t.routes[peer]
	return r.choose(pathHash(t.selfShort, r.name.Short(), flow), 0)
}

// Relay is the neighbour that a datagram of source src goes to on its way to dst,
// having come from the neighbour from. Of equal paths one is chosen by a hash of
// source, destination and flow label, so that a set that changes moves only the
// flows it must. It never returns from: what comes from the primary goes to the
// alternate. It reports false when there is no way, or dst is from or this host.
// It does not allocate.
func (t *Table) Relay(src, dst crypto.ShortName, flow uint16, from PeerID) (PeerID, bool) {
	id, ok := t.short[dst]
	if !ok || id == from {
		return 0, false
	}
	return t.routes[id].choose(pathHash(src, dst, flow), from)
}

func (r *path) choose(hash uint64, from PeerID) (PeerID, bool) {
	if len(r.next) == 1 && r.next[0].peer != from {
		return r.next[0].peer, true
	}
	var chosen PeerID
	var most uint64
	for _, h := range r.next {
		if weight := mix(hash, h.word); h.peer != from && (chosen == 0 || weight > most) {
			chosen, most = h.peer, weight
		}
	}
	if chosen == 0 { // from is the only best way, which the alternate is not
		chosen = r.alternate.peer
	}
	return chosen, chosen != 0
}

func pathHash(src, dst crypto.ShortName, flow uint16) uint64 {
	return mix(word(src)^uint64(flow)*hashC, word(dst))
}

func word(s crypto.ShortName) uint64 { return binary.BigEndian.Uint64(s[:]) }

// Location is where an endpoint is.
type Location struct {
	Peer      PeerID // 0 if here, or if its host has no number
	Here      bool
	Reachable bool   // here, or on a host with a next hop
	Fenced    bool   // it lost its claim: nothing goes to or comes from it
	MTU       uint16 // of its interface, when looked up by MAC; 0: any, or not known
}

func (t *Table) location(p macPlace) Location {
	at := t.places[p.host]
	return Location{Peer: at.peer, Here: at.here, Reachable: at.here || at.reachable, Fenced: p.fenced, MTU: p.mtu}
}

// Lookup returns where the endpoint with a MAC is. It does not allocate.
func (t *Table) Lookup(vni VNI, mac MAC) (Location, bool) {
	p, ok := t.directory.macs[macKey(vni, mac)]
	if !ok {
		return Location{}, false
	}
	return t.location(p), true
}

// LookupAddress returns the MAC and the place of the endpoint that holds an
// address. It does not allocate.
func (t *Table) LookupAddress(vni VNI, address netip.Addr) (MAC, Location, bool) {
	p, ok := t.directory.find(vni, plain(address))
	if !ok {
		return MAC{}, Location{}, false
	}
	return p.mac, t.location(macPlace{host: p.host}), true
}

// Endpoint is the endpoint whose place Lookup tells of a MAC, with Peer filled in.
func (t *Table) Endpoint(vni VNI, mac MAC) (Endpoint, bool) {
	p, ok := t.directory.macs[macKey(vni, mac)]
	if !ok {
		return Endpoint{}, false
	}
	e := t.directory.endpoints[p.endpoint]
	e.Peer = t.places[p.host].peer
	return e, true
}

// Endpoints are the endpoints that hold what they claim, sorted by VNI, MAC and
// host, with Peer filled in.
func (t *Table) Endpoints() []Endpoint { return t.withPeers(t.directory.Holding()) }

// Fenced are the endpoints that lost a claim, sorted alike on every host, with
// Peer filled in.
func (t *Table) Fenced() []Endpoint { return t.withPeers(t.directory.Fenced()) }

func (t *Table) withPeers(list []Endpoint) []Endpoint {
	for i := range list {
		list[i].Peer = t.places[t.directory.hostNumbers[list[i].Host]].peer
	}
	return list
}

// Route is the way to one host, for people.
type Route struct {
	Destination crypto.Name
	Peer        PeerID
	Next        []crypto.Name // first hops of equal best paths, sorted
	Alternate   crypto.Name   // zero: none
	Hops        int
	Cost        time.Duration
}

// Route is the way to one host; false when there is none.
func (t *Table) Route(peer PeerID) (Route, bool) {
	if !t.Reachable(peer) {
		return Route{}, false
	}
	r := &t.routes[peer]
	route := Route{Destination: r.name, Peer: peer, Hops: r.hops, Cost: time.Duration(r.cost) * time.Microsecond}
	for _, h := range r.next {
		route.Next = append(route.Next, t.routes[h.peer].name)
	}
	switch {
	case len(route.Next) > 1:
		route.Alternate = route.Next[1]
	case r.alternate.peer != 0:
		route.Alternate = t.routes[r.alternate.peer].name
	}
	return route, true
}

// Routes are the ways to all reachable hosts, sorted by name.
func (t *Table) Routes() []Route {
	var list []Route
	for _, id := range t.everyone {
		route, _ := t.Route(id)
		list = append(list, route)
	}
	slices.SortFunc(list, func(a, b Route) int { return a.Destination.Compare(b.Destination) })
	return list
}
