package route

import (
	"slices"
	"time"

	"ripstop/crypto"
)

// What a link costs beside its round trip time. Costs are whole microseconds, so
// that every host adds them up to the same sum.
const (
	// HopPenalty is what each hop costs: a relay's work and another queue.
	HopPenalty = 2 * time.Millisecond
	// LossPenalty is what each percent of loss costs.
	LossPenalty = 10 * time.Millisecond
	maxRTT      = time.Minute
)

// Link is what host A publishes of its link to B.
type Link struct {
	A, B crypto.Name
	RTT  time.Duration
	Loss float64 // 0 to 1
}

// figure is what the link's end publishes, as a cost in microseconds without hop
// penalty. Out of range values are brought into range.
func (l *Link) figure() uint32 {
	rtt := min(max(l.RTT, 0), maxRTT)
	permille := int64(1000) // also when Loss is no number
	if l.Loss < 1 {
		permille = int64(max(l.Loss, 0)*1000 + 0.5)
	}
	return uint32(rtt.Microseconds() + permille*(LossPenalty/10).Microseconds())
}

// Cost is what the link costs on a way, as far as this end has a say: the greater of both
// ends' figures counts.
func (l *Link) Cost() time.Duration {
	return time.Duration(l.figure())*time.Microsecond + HopPenalty
}

// Graph is the topology as one host sees it, with that host's best paths. It is
// immutable, and equal for equal sets of links in whatever order they come.
//
//	names   sorted: a node is its position here
//	start   node n's edges are start[n] to start[n+1]
//	edges   (to, cost), sorted by to
type Graph struct {
	self  int32
	names []crypto.Name
	start []int32
	edges []edge
	index map[crypto.Name]int32
	best  *paths // with all of self's edges up
}

// edge is one direction of a link that both ends publish; both directions cost the same.
type edge struct {
	to   int32
	cost uint32 // microseconds, hop penalty included, so never 0
}

// claim is one published figure, by node numbers.
type claim struct {
	a, b   int32
	figure uint32
}

// BuildGraph makes the graph that self routes by. An edge exists only if both ends
// publish it; it costs the greater of their two figures plus HopPenalty. Of several
// figures of one end the worst counts; links of a host with itself and of the zero
// name are ignored. Time and memory grow with the number of links.
func BuildGraph(self crypto.Name, links []Link) *Graph {
	g := &Graph{}
	claims := g.number(self, links)
	byA := orderClaims(claims, len(g.names), func(c *claim) int32 { return c.b }, func(c *claim) int32 { return c.a })
	byB := orderClaims(claims, len(g.names), func(c *claim) int32 { return c.a }, func(c *claim) int32 { return c.b })

	g.start = make([]int32, len(g.names)+1)
	g.edges = make([]edge, 0, len(byA))
	for i, j := 0, 0; i < len(byA); {
		c := byA[i]
		for ; i < len(byA) && byA[i].a == c.a && byA[i].b == c.b; i++ {
			c.figure = max(c.figure, byA[i].figure)
		}
		for j < len(byB) && (byB[j].b < c.a || byB[j].b == c.a && byB[j].a < c.b) {
			j++
		}
		both := false
		for ; j < len(byB) && byB[j].b == c.a && byB[j].a == c.b; j++ {
			c.figure = max(c.figure, byB[j].figure)
			both = true
		}
		if both {
			g.edges = append(g.edges, edge{to: c.b, cost: c.figure + uint32(HopPenalty.Microseconds())})
			g.start[c.a+1]++
		}
	}
	for n := range g.names {
		g.start[n+1] += g.start[n]
	}
	g.best = g.paths(nil)
	return g
}

// number gives each name its node number, in the order of names, and returns the
// links by numbers.
func (g *Graph) number(self crypto.Name, links []Link) []claim {
	seen := map[crypto.Name]int32{self: 0}
	first := []crypto.Name{self} // in the order of appearance
	node := func(n crypto.Name) int32 {
		at, ok := seen[n]
		if !ok {
			at = int32(len(first))
			seen[n] = at
			first = append(first, n)
		}
		return at
	}
	claims := make([]claim, 0, len(links))
	lastName, last := self, int32(0)
	for i := range links {
		l := &links[i]
		if l.A == l.B || l.A.IsZero() || l.B.IsZero() {
			continue
		}
		if l.A != lastName { // an end's links mostly come together
			lastName, last = l.A, node(l.A)
		}
		claims = append(claims, claim{last, node(l.B), l.figure()})
	}
	g.names = slices.Clone(first)
	slices.SortFunc(g.names, crypto.Name.Compare)
	rank := make([]int32, len(first))
	for i, n := range g.names {
		rank[seen[n]] = int32(i)
		seen[n] = int32(i)
	}
	for i := range claims {
		claims[i].a, claims[i].b = rank[claims[i].a], rank[claims[i].b]
	}
	g.index, g.self = seen, rank[0]
	return claims
}

// orderClaims sorts by second, then stably by first: each a counting sort over the
// node numbers.
func orderClaims(claims []claim, nodes int, first, second func(*claim) int32) []claim {
	sorted := func(in []claim, key func(*claim) int32) []claim {
		at := make([]int32, nodes+1)
		for i := range in {
			at[key(&in[i])+1]++
		}
		for n := range nodes {
			at[n+1] += at[n]
		}
		out := make([]claim, len(in))
		for i := range in {
			k := key(&in[i])
			out[at[k]] = in[i]
			at[k]++
		}
		return out
	}
	return sorted(sorted(claims, first), second)
}

// out are node n's edges.
func (g *Graph) out(n int32) []edge { return g.edges[g.start[n]:g.start[n+1]] }

// Self is the host whose paths the graph holds.
func (g *Graph) Self() crypto.Name { return g.names[g.self] }

// Members are the names with at least one edge, and self, sorted.
func (g *Graph) Members() []crypto.Name {
	var members []crypto.Name
	for n := range int32(len(g.names)) {
		if n == g.self || len(g.out(n)) > 0 {
			members = append(members, g.names[n])
		}
	}
	return members
}

// Neighbours are the names that self has an edge to, sorted.
func (g *Graph) Neighbours() []crypto.Name {
	var names []crypto.Name
	for _, e := range g.out(g.self) {
		names = append(names, g.names[e.to])
	}
	return names
}

// Reachable reports whether there is a path to name; to self there is.
func (g *Graph) Reachable(name crypto.Name) bool {
	n, ok := g.index[name]
	return ok && (n == g.self || len(g.best.to[n].next) > 0)
}

// Hops is the number of links on the way to name, on the longest of equal ways; 0
// for self and for what is not reachable.
func (g *Graph) Hops(name crypto.Name) int {
	if n, ok := g.index[name]; ok {
		return g.best.to[n].hops
	}
	return 0
}

// Cost is the cost of the best way to name; 0 for self and for what is not reachable.
func (g *Graph) Cost(name crypto.Name) time.Duration {
	if n, ok := g.index[name]; ok {
		return time.Duration(g.best.to[n].cost) * time.Microsecond
	}
	return 0
}

// NextHops are the first hops of all best ways to name, at most MaxEqual, sorted.
func (g *Graph) NextHops(name crypto.Name) []crypto.Name {
	n, ok := g.index[name]
	if !ok {
		return nil
	}
	var names []crypto.Name
	for _, h := range g.best.to[n].next {
		names = append(names, g.names[h])
	}
	return names
}

// Primary is the first hop of the best way to name; of equal ones the lowest name.
func (g *Graph) Primary(name crypto.Name) (crypto.Name, bool) {
	n, ok := g.index[name]
	if !ok || len(g.best.to[n].next) == 0 {
		return crypto.Name{}, false
	}
	return g.names[g.best.to[n].next[0]], true
}

// Alternate is the first hop of the best way to name that doesn't begin with the
// primary and doesn't come back through self.
func (g *Graph) Alternate(name crypto.Name) (crypto.Name, bool) {
	n, ok := g.index[name]
	if !ok {
		return crypto.Name{}, false
	}
	a := g.best.to[n].second()
	if a < 0 {
		return crypto.Name{}, false
	}
	return g.names[a], true
}

// From is the graph as another of its hosts has it: the same edges, with the best paths
// from there. ok is false when no link names that host.
func (g *Graph) From(host crypto.Name) (other *Graph, ok bool) {
	n, ok := g.index[host]
	if !ok || n == g.self {
		return g, ok
	}
	other = &Graph{self: n, names: g.names, start: g.start, edges: g.edges, index: g.index}
	other.best = other.paths(nil)
	return other, true
}

// Way is the hosts that a datagram passes once self has handed it to the neighbour
// first, from first to its destination to, as each of them chooses by the same links:
// its primary, or its alternate where it came from there. nil: it does not arrive. Each
// host costs a search of the graph.
func (g *Graph) Way(first, to crypto.Name) []crypto.Name {
	way := []crypto.Name{first}
	for from, at := g.Self(), first; at != to; {
		view, ok := g.From(at)
		if !ok || len(way) == MaxHopLimit {
			return nil
		}
		next, ok := view.Primary(to)
		if ok && next == from {
			next, ok = view.Alternate(to)
		}
		if !ok {
			return nil
		}
		from, at = at, next
		way = append(way, at)
	}
	return way
}
