package mesh

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/gossip"
	"ripstop/route"
	"ripstop/transport"
)

// Topology tells who links with whom, as all hosts' records have it.
func (b *backend) Topology(context.Context) (api.Topology, error) {
	n := (*node)(b)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.topology(), nil
}

// topology is what the records tell. n.mu must be held.
func (n *node) topology() (t api.Topology) {
	nicknames, alive := n.nicknames(), n.aliveHosts()
	self := n.identity.Name()
	alive[self] = true
	reachable := map[crypto.Name]bool{self: true}
	for _, r := range n.table.Routes() {
		reachable[r.Destination] = true
	}
	for name := range alive {
		t.Hosts = append(t.Hosts, api.TopologyHost{Name: name.String(), Nickname: nicknames[name], Alive: alive[name], Reachable: reachable[name]})
	}
	slices.SortFunc(t.Hosts, func(a, b api.TopologyHost) int { return strings.Compare(a.Name, b.Name) })
	for _, l := range n.toldLinks() {
		if _, member := alive[l.to]; !member {
			continue // its record went with it
		}
		told := api.TopologyLink{From: l.from.String(), To: l.to.String(), State: api.TopologyHalf,
			RTTMicro: l.rtt.Microseconds(), Loss: float64(l.loss) / 100, CostMicro: l.cost.Microseconds()}
		switch {
		case !alive[l.from] && !alive[l.to]:
			told.State = api.TopologyOld
		case l.both:
			told.State = api.TopologyUp
		}
		if l.path != 0 {
			told.Path = l.path.String()
		}
		t.Links = append(t.Links, told)
	}
	slices.SortFunc(t.Links, func(a, b api.TopologyLink) int {
		return cmp.Or(strings.Compare(a.From, b.From), strings.Compare(a.To, b.To))
	})
	return t
}

// toldLink is a link as one or both of its ends tell of it.
type toldLink struct {
	from, to crypto.Name
	both     bool
	path     transport.PathKind
	rtt      time.Duration
	loss     uint8 // percent
	cost     time.Duration
}

// toldLinks are the links of all hosts' records, each once. n.mu must be held.
func (n *node) toldLinks() map[[2]crypto.Name]*toldLink {
	all := make(map[[2]crypto.Name]*toldLink)
	for r := range n.gossip.Records(gossip.KindLinks) {
		body, err := gossip.ParseLinksBody(r.Body)
		if err != nil {
			continue
		}
		for _, l := range body.Links {
			figure := route.Link{RTT: l.RTT, Loss: float64(l.Loss) / 100}
			ends := [2]crypto.Name{r.Origin, l.Peer}
			if ends[1].Compare(ends[0]) < 0 {
				ends[0], ends[1] = ends[1], ends[0]
			}
			told, twice := all[ends]
			if !twice {
				told = &toldLink{from: r.Origin, to: l.Peer}
				all[ends] = told
			} else {
				told.from, told.to, told.both = ends[0], ends[1], true
			}
			told.rtt, told.loss = max(told.rtt, l.RTT), max(told.loss, l.Loss)
			told.cost = max(told.cost, figure.Cost())
			told.path = max(told.path, slower(l.Path))
		}
	}
	return all
}

// slower is a path's kind as a link's record has it, such that the greater is the slower;
// 0 for one that is not known here.
func slower(path uint8) transport.PathKind {
	switch kind := transport.PathKind(path); kind {
	case transport.PathDirect, transport.PathTCP:
		return kind
	}
	return 0
}
