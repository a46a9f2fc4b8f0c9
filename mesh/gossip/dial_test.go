package gossip

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ripstop/crypto"
)

// TestRings checks for many sizes that the wishes of all hosts form one
// connected graph, that both ends of each link wish it, that the degree is about
// 2·log2 n, and that one more host changes little.
func TestRings(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 4))
	names := make([]crypto.Name, 0, 1001)
	for range cap(names) {
		var n crypto.Name
		for i := range n {
			n[i] = byte(random.Uint32())
		}
		names = append(names, n)
	}
	var network crypto.NetworkID
	wishes := func(names []crypto.Name, fullMesh int) map[crypto.Name]map[crypto.Name]bool {
		graph := make(map[crypto.Name]map[crypto.Name]bool)
		for _, n := range names {
			graph[n] = make(map[crypto.Name]bool)
			for _, p := range ringNeighbours(network, n, names, fullMesh) {
				graph[n][p] = true
			}
		}
		return graph
	}
	for _, n := range []int{1, 2, 3, 64, 65, 66, 100, 300, 1000} {
		graph := wishes(names[:n], 64)
		most, sum := 0, 0
		for a, peers := range graph {
			if peers[a] {
				t.Fatalf("%d hosts: one wishes to link with itself", n)
			}
			for b := range peers {
				if !graph[b][a] {
					t.Fatalf("%d hosts: only one end wishes a link", n)
				}
			}
			most, sum = max(most, len(peers)), sum+len(peers)
		}
		seen := map[crypto.Name]bool{names[0]: true}
		for queue := names[:1]; len(queue) > 0; {
			a := queue[0]
			queue = queue[1:]
			for b := range graph[a] {
				if !seen[b] {
					seen[b] = true
					queue = append(slices.Clip(queue), b)
				}
			}
		}
		if len(seen) != n {
			t.Errorf("%d hosts: %d reached", n, len(seen))
		}
		if n <= 64 && sum != n*(n-1) {
			t.Errorf("%d hosts: %d ends of links in a full mesh", n, sum)
		}
		if n > 64 && (most > 20 || sum/n < 10) {
			t.Errorf("%d hosts: %d links on average, %d at most", n, sum/n, most)
		}
	}
	before, after := wishes(names[:300], 64), wishes(names[:301], 64)
	changed := 0
	for a := range before {
		for b := range before[a] {
			if !after[a][b] {
				changed++
			}
		}
	}
	if changed > 2*9 {
		t.Errorf("one more host ends %d wishes", changed)
	}
}

// TestDial: addresses come from peer records, dead hosts are still dialled, and
// a host without addresses is not.
func TestDial(t *testing.T) {
	w := newWorld(t, 3)
	a, b, c := w.add("a", false), w.add("b", false), w.add("c", false)
	w.connect(a, b)
	w.connect(b, c)
	w.run(2 * time.Second)
	if d := a.Dial(w.now); len(d) != 2 || !slices.Equal(d[c.id.Name()], []netipAddrPort{c.addr}) {
		t.Errorf("a dials %v", d)
	}
	c.stop()
	w.run(time.Minute)
	if d := a.Dial(w.now); len(d) != 2 {
		t.Errorf("a does not dial a dead host: %v", d)
	}
	w.run(25 * time.Hour)
	if d := a.Dial(w.now); len(d) != 1 {
		t.Errorf("a still dials a host that was purged: %v", d)
	}
}
