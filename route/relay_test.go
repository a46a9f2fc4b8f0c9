package route

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ripstop/crypto"
)

// walk forwards a datagram from src over everybody's own table, as relays do, and
// returns the hosts it visited. alive says whether a datagram can pass a link.
func walk(t *testing.T, tables []*Table, src, dst int, flow uint16, alive func(a, b int) bool) (visited []int, arrived bool) {
	limit := int(tables[src].HopLimit(PeerID(dst + 1)))
	visited = []int{src}
	from, at := PeerID(0), src
	for at != dst {
		next, ok := tables[at].Relay(host(src).Short(), host(dst).Short(), flow, from)
		if !ok || limit == 0 {
			return visited, false
		}
		if next == from && from != 0 {
			t.Fatalf("%d gives a datagram back to where it came from", at)
		}
		limit--
		if !alive(at, int(next)-1) {
			return visited, false
		}
		from, at = PeerID(at+1), int(next)-1
		visited = append(visited, at)
	}
	return visited, true
}

func TestRecordsAgreeNoLoop(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	walks, relayed := 0, 0
	for range 60 {
		hosts := 3 + r.IntN(20)
		links := randomLinks(r, hosts, 0.25)
		costs := modelCosts(hosts, links)
		dist := costs.distances(-1)
		tables := make([]*Table, hosts)
		for n := range tables {
			r.Shuffle(len(links), func(i, j int) { links[i], links[j] = links[j], links[i] })
			tables[n] = table(n, hosts, links, nil)
		}
		for src := range hosts {
			for dst := range hosts {
				if src == dst {
					continue
				}
				visited, arrived := walk(t, tables, src, dst, uint16(r.Uint32()), func(a, b int) bool { return costs[a][b] < far })
				if arrived != (dist[src][dst] < far) {
					t.Fatalf("%d to %d: arrived %v over %v, distance %d", src, dst, arrived, visited, dist[src][dst])
				}
				for i := 1; i < len(visited); i++ {
					if dist[visited[i]][dst] >= dist[visited[i-1]][dst] {
						t.Fatalf("%d to %d over %v comes no nearer at %d", src, dst, visited, visited[i])
					}
				}
				walks++
				relayed += max(0, len(visited)-2)
			}
		}
	}
	if relayed < walks/2 {
		t.Errorf("only %d relays in %d walks", relayed, walks)
	}
}

// Tables made of different records, with links failing that some don't know of yet:
// nothing goes on longer than the hop limit, nothing straight back.
func TestDisagreeingTablesAreBounded(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	looped, detours := 0, 0
	for range 60 {
		hosts := 4 + r.IntN(14)
		links := randomLinks(r, hosts, 0.35)
		costs := modelCosts(hosts, links)
		cut := map[[2]int]bool{}
		for range 1 + r.IntN(hosts) {
			a, b := r.IntN(hosts), r.IntN(hosts)
			cut[[2]int{min(a, b), max(a, b)}] = true
		}
		alive := func(a, b int) bool { return costs[a][b] < far && !cut[[2]int{min(a, b), max(a, b)}] }
		tables := make([]*Table, hosts)
		for n := range tables {
			some := slices.DeleteFunc(slices.Clone(links), func(Link) bool { return r.IntN(8) == 0 })
			g := BuildGraph(host(n), some)
			up := make(map[crypto.Name]bool)
			for m := range hosts {
				up[host(m)] = alive(n, m) // each end notices its own links
			}
			tables[n] = Build(TableConfig{Self: host(n), Peers: numbers(hosts), Graph: g, LinksUp: up})
		}
		for range 200 {
			src, dst := r.IntN(hosts), r.IntN(hosts)
			if src == dst {
				continue
			}
			visited, arrived := walk(t, tables, src, dst, uint16(r.Uint32()), alive)
			if len(visited)-1 > MaxHopLimit || len(visited)-1 > int(tables[src].HopLimit(PeerID(dst+1))) {
				t.Fatalf("%d to %d went over %v", src, dst, visited)
			}
			seen := map[int]bool{}
			for _, v := range visited {
				if seen[v] {
					looped++
					break
				}
				seen[v] = true
			}
			if arrived && len(visited)-1 > tables[src].Graph().Hops(host(dst)) {
				detours++
			}
		}
	}
	if looped == 0 || detours == 0 {
		t.Errorf("%d loops and %d detours: the tables don't disagree enough", looped, detours)
	}
}

// A ring of four, in which the link 1-2 fails and only 1 knows: what 0 sends to 2
// by way of 1 comes back to nobody but goes on if 1 has another way.
func TestPrimaryFails(t *testing.T) {
	ms := time.Millisecond
	ring := slices.Concat(both(0, 1, ms), both(1, 2, ms), both(2, 3, 5*ms), both(3, 0, 5*ms), both(1, 3, 5*ms))
	up := func(names ...int) map[crypto.Name]bool {
		m := map[crypto.Name]bool{}
		for _, n := range names {
			m[host(n)] = true
		}
		return m
	}
	at := func(self int, links ...int) *Table {
		return Build(TableConfig{Self: host(self), Peers: numbers(4), Graph: BuildGraph(host(self), ring), LinksUp: up(links...)})
	}
	zero, one := at(0, 1, 3), at(1, 0, 3)
	short := host(2).Short()
	for _, c := range []struct {
		name string
		t    *Table
		from PeerID
		want PeerID
	}{
		{"0 has its primary", zero, 0, 2},
		{"0 uses the alternate for what the primary sends", zero, 2, 4},
		{"1 without 1-2", one, 0, 4},
		{"1 gives nothing back to 3", one, 4, 1},
		{"0 with no link up", at(0), 0, 0},
		{"0 with 0-1 down", at(0, 3), 0, 4},
		{"0 with 0-1 down, from 3", at(0, 3), 4, 0},
		{"3 gets what 3 wants itself", zero, 3, 0},
	} {
		if got, ok := c.t.NextHop(short, 7, c.from); got != c.want || ok != (c.want != 0) {
			t.Errorf("%s: %d %v, want %d", c.name, got, ok, c.want)
		}
	}
	if got, ok := zero.NextHop(host(0).Short(), 7, 0); ok {
		t.Errorf("a next hop to oneself: %d", got)
	}
	if got, ok := zero.NextHopTo(3, 7); !ok || got != 2 {
		t.Errorf("NextHopTo: %d %v", got, ok)
	}
	if got, ok := zero.NextHopTo(77, 7); ok {
		t.Errorf("NextHopTo of nobody: %d", got)
	}
	if got := zero.HopLimit(3); got != 2+HopSlack {
		t.Errorf("hop limit %d", got)
	}
	routes := zero.Routes()
	if len(routes) != 3 || routes[1].Destination != host(2) || routes[1].Peer != 3 || routes[1].Next[0] != host(1) ||
		routes[1].Alternate != host(3) || routes[1].Hops != 2 || routes[1].Cost != 6*ms {
		t.Errorf("routes %+v", routes)
	}
}

func TestHopLimitIsBounded(t *testing.T) {
	var links []Link
	for n := range 40 {
		links = append(links, both(n, n+1, time.Millisecond)...)
	}
	tb := table(0, 41, links, nil)
	for _, c := range []struct{ to, want int }{{1, 5}, {10, 14}, {28, 32}, {29, 32}, {40, 32}, {41, 0}} {
		if got := tb.HopLimit(PeerID(c.to + 1)); int(got) != c.want {
			t.Errorf("hop limit to %d is %d, want %d", c.to, got, c.want)
		}
	}
}

// Flows spread over equal ways, stay on theirs, and only those of a way that goes move.
func TestEqualPathsSpread(t *testing.T) {
	ms := time.Millisecond
	var links []Link
	for via := 1; via <= 4; via++ {
		links = append(links, both(0, via, ms)...)
		links = append(links, both(via, 9, ms)...)
	}
	all := table(0, 10, links, nil)
	less := Build(TableConfig{Self: host(0), Peers: numbers(10), Graph: all.Graph(),
		LinksUp: map[crypto.Name]bool{host(1): true, host(2): true, host(4): true}})
	count := map[PeerID]int{}
	for flow := range uint16(4000) {
		before, _ := all.NextHop(host(9).Short(), flow, 0)
		count[before]++
		again, _ := all.NextHop(host(9).Short(), flow, 0)
		after, _ := less.NextHop(host(9).Short(), flow, 0)
		if again != before || after == 4 || before != 4 && after != before {
			t.Fatalf("flow %d: %d, again %d, without peer 4: %d", flow, before, again, after)
		}
		if other, ok := all.NextHop(host(9).Short(), flow, before); !ok || other == before {
			t.Fatalf("flow %d from %d goes to %d", flow, before, other)
		}
	}
	for via := PeerID(2); via <= 5; via++ {
		if count[via] < 800 || count[via] > 1200 {
			t.Errorf("peer %d has %d of 4000 flows", via, count[via])
		}
	}
}

func TestNextHopDoesNotAllocate(t *testing.T) {
	tb := table(0, 10, slices.Concat(both(0, 1, 0), both(0, 2, 0), both(1, 3, 0), both(2, 3, 0)), nil)
	if n := testing.AllocsPerRun(100, func() {
		tb.NextHop(host(3).Short(), 9, 0)
		tb.Relay(host(1).Short(), host(3).Short(), 9, 2)
		tb.NextHopTo(4, 9)
		tb.HopLimit(4)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
