package route

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"ripstop/crypto"
)

const far = math.MaxInt64 / 4

// slowGraph is the model: a cost matrix, and Floyd and Warshall's distances in it.
type slowGraph [][]int64

// modelCosts reads links into a matrix, far where not both ends publish.
func modelCosts(hosts int, links []Link) slowGraph {
	published := make(map[[2]crypto.Name]int64)
	for _, l := range links {
		figure := int64(l.RTT/time.Microsecond) + int64(math.Round(l.Loss*1000))*1000
		published[[2]crypto.Name{l.A, l.B}] = max(figure, published[[2]crypto.Name{l.A, l.B}])
	}
	m := make(slowGraph, hosts)
	for a := range hosts {
		m[a] = make([]int64, hosts)
		for b := range hosts {
			there, ok1 := published[[2]crypto.Name{host(a), host(b)}]
			back, ok2 := published[[2]crypto.Name{host(b), host(a)}]
			if m[a][b] = far; ok1 && ok2 && a != b {
				m[a][b] = max(there, back) + 2000
			}
		}
	}
	return m
}

// distances leaves out one host (-1: none).
func (m slowGraph) distances(without int) slowGraph {
	d := make(slowGraph, len(m))
	for a := range m {
		d[a] = slices.Clone(m[a])
		d[a][a] = 0
	}
	for via := range m {
		if via == without {
			continue
		}
		for a := range m {
			for b := range m {
				d[a][b] = min(d[a][b], d[a][via]+d[via][b])
			}
		}
	}
	return d
}

// longest is the number of links on the longest of the best ways from a to b.
func (m slowGraph) longest(d slowGraph, a, b int) int {
	hops := 0
	for n := range m {
		if a != b && m[a][n] < far && d[a][b] < far && m[a][n]+d[n][b] == d[a][b] {
			hops = max(hops, 1+m.longest(d, n, b))
		}
	}
	return hops
}

func TestGraphLikeModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	equals, alternates, capped := 0, 0, 0
	for round := range 300 {
		hosts := 2 + r.IntN(18)
		links := randomLinks(r, hosts, []float64{0.15, 0.3, 0.7}[round%3])
		costs := modelCosts(hosts, links)
		dist := costs.distances(-1)
		for self := range hosts {
			g := BuildGraph(host(self), links)
			onward := costs.distances(self) // ways that never come back here
			for dst := range hosts {
				if dst == self {
					continue
				}
				var next []crypto.Name
				var alternate crypto.Name
				best := int64(far)
				for n := range hosts {
					if n != self && costs[self][n] < far && dist[self][dst] < far && costs[self][n]+dist[n][dst] == dist[self][dst] {
						next = append(next, host(n))
					}
				}
				for n := range hosts {
					way := costs[self][n] + onward[n][dst]
					if n != self && len(next) > 0 && host(n) != next[0] && way < best {
						best, alternate = way, host(n)
					}
				}
				equals += max(0, len(next)-1)
				if len(next) > MaxEqual {
					next = next[:MaxEqual]
					capped++
				}
				if alternate != (crypto.Name{}) {
					alternates++
				}
				what := fmt.Sprintf("round %d, %d to %d of %d", round, self, dst, hosts)
				if got := g.NextHops(host(dst)); !slices.Equal(got, next) {
					t.Fatalf("%s: next hops %v, want %v", what, got, next)
				}
				if got, _ := g.Alternate(host(dst)); got != alternate {
					t.Fatalf("%s: alternate %v, want %v", what, got, alternate)
				}
				if got := g.Reachable(host(dst)); got != (len(next) > 0) {
					t.Fatalf("%s: reachable %v, want %v", what, got, len(next) > 0)
				}
				if len(next) == 0 {
					continue
				}
				if got := g.Cost(host(dst)); got != time.Duration(dist[self][dst])*time.Microsecond {
					t.Fatalf("%s: cost %v, want %d µs", what, got, dist[self][dst])
				}
				if got, want := g.Hops(host(dst)), costs.longest(dist, self, dst); got != want {
					t.Fatalf("%s: %d hops, want %d", what, got, want)
				}
			}
		}
	}
	if equals < 1000 || alternates < 1000 || capped < 100 {
		t.Errorf("only %d equal ways, %d alternates and %d sets too large were compared", equals, alternates, capped)
	}
}

func TestGraphOrderOfInput(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		links := randomLinks(r, 20, 0.3)
		links = append(links, links[:len(links)/4]...) // and repeats
		g := BuildGraph(host(3), links)
		r.Shuffle(len(links), func(i, j int) { links[i], links[j] = links[j], links[i] })
		if other := BuildGraph(host(3), links); !reflect.DeepEqual(g, other) {
			t.Fatal("the order of the links changes the graph")
		}
	}
}

func TestGraphScenarios(t *testing.T) {
	ms := time.Millisecond
	join := func(links ...[]Link) []Link { return slices.Concat(links...) }
	line := join(both(0, 1, ms), both(1, 2, ms), both(2, 3, ms))
	oneSided := append(slices.Clone(line), Link{A: host(0), B: host(3)})
	lossy := join(both(0, 1, ms), both(1, 3, ms), both(0, 3, ms))
	lossy[4].Loss = 0.02 // only what 0 publishes towards 3
	for _, c := range []struct {
		name      string
		links     []Link
		next      []crypto.Name // from 0 to 3
		alternate crypto.Name
		hops      int
		cost      time.Duration
	}{
		{"line", line, []crypto.Name{host(1)}, crypto.Name{}, 3, 9 * ms},
		{"one end alone publishes", oneSided, []crypto.Name{host(1)}, crypto.Name{}, 3, 9 * ms},
		{"a short cut", append(slices.Clone(line), both(0, 3, 6*ms)...), []crypto.Name{host(3)}, host(1), 1, 8 * ms},
		{"an equal way of other length", append(slices.Clone(line), both(0, 3, 7*ms)...), []crypto.Name{host(1), host(3)}, host(3), 3, 9 * ms},
		{"a dead end", append(slices.Clone(line), both(0, 4, 0)...), []crypto.Name{host(1)}, crypto.Name{}, 3, 9 * ms},
		{"loss at one end", lossy, []crypto.Name{host(1)}, host(3), 2, 6 * ms},
		{"nobody", nil, nil, crypto.Name{}, 0, 0},
		{"only oneself", []Link{{A: host(0), B: host(0)}, {A: crypto.Name{}, B: host(0)}, {A: host(0), B: crypto.Name{}}}, nil, crypto.Name{}, 0, 0},
	} {
		g := BuildGraph(host(0), c.links)
		alternate, _ := g.Alternate(host(3))
		if got := g.NextHops(host(3)); !slices.Equal(got, c.next) || alternate != c.alternate ||
			g.Hops(host(3)) != c.hops || g.Cost(host(3)) != c.cost {
			t.Errorf("%s: next %v alternate %v hops %d cost %v", c.name, got, alternate, g.Hops(host(3)), g.Cost(host(3)))
		}
	}
	g := BuildGraph(host(0), oneSided)
	if got := g.Members(); len(got) != 4 || !g.Reachable(host(0)) || g.Reachable(host(9)) {
		t.Errorf("members %v", got)
	}
	if got := BuildGraph(host(9), line).Members(); len(got) != 5 || got[4] != host(9) {
		t.Errorf("a host without links knows %v", got)
	}
}

func TestFigure(t *testing.T) {
	for _, c := range []struct {
		link Link
		want uint32
	}{
		{Link{}, 0},
		{Link{RTT: -time.Second, Loss: -1}, 0},
		{Link{RTT: 1500 * time.Nanosecond}, 1},
		{Link{RTT: time.Hour}, 60_000_000},
		{Link{Loss: 0.01}, 10_000},
		{Link{Loss: 1}, 1_000_000},
		{Link{Loss: 7}, 1_000_000},
		{Link{Loss: math.NaN()}, 1_000_000},
		{Link{Loss: math.Inf(-1)}, 0},
	} {
		if got := c.link.figure(); got != c.want {
			t.Errorf("%+v: %d, want %d", c.link, got, c.want)
		}
	}
}

// TestGraphOfOthers: as another host sees it a graph is as that host builds it, and a way
// goes where each host on it would send what came from the one before.
func TestGraphOfOthers(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	turned := 0
	for round := range 100 {
		hosts := 3 + r.IntN(12)
		links := randomLinks(r, hosts, []float64{0.2, 0.35, 0.7}[round%3])
		built := make([]*Graph, hosts)
		for n := range hosts {
			built[n] = BuildGraph(host(n), links)
		}
		g := built[0]
		for to := 1; to < hosts; to++ {
			if view, ok := g.From(host(to)); ok {
				for n := range hosts {
					alternate, _ := view.Alternate(host(n))
					want, _ := built[to].Alternate(host(n))
					if !slices.Equal(view.NextHops(host(n)), built[to].NextHops(host(n))) || alternate != want || view.Cost(host(n)) != built[to].Cost(host(n)) {
						t.Fatalf("round %d: from %d to %d: %v else %v, want %v else %v", round, to, n, view.NextHops(host(n)), alternate, built[to].NextHops(host(n)), want)
					}
				}
			} else if len(built[to].Neighbours()) > 0 {
				t.Fatalf("round %d: %d has links, and is not in the graph", round, to)
			}
			for _, first := range g.Neighbours() {
				var want []crypto.Name
				for from, at := host(0), first; len(want) < MaxHopLimit; {
					want = append(want, at)
					if at == host(to) {
						break
					}
					on := built[at[15]]
					next, ok := on.Primary(host(to))
					if ok && next == from {
						turned++
						next, ok = on.Alternate(host(to))
					}
					if !ok {
						want = nil
						break
					}
					from, at = at, next
				}
				if len(want) > 0 && want[len(want)-1] != host(to) {
					want = nil
				}
				if got := g.Way(first, host(to)); !slices.Equal(got, want) {
					t.Fatalf("round %d: over %v to %d: %v, want %v", round, first, to, got, want)
				}
			}
		}
	}
	if turned < 50 {
		t.Errorf("only %d times the way back was avoided", turned)
	}
	if _, ok := BuildGraph(host(0), nil).From(host(1)); ok {
		t.Error("a host that no link names is in the graph")
	}
}
