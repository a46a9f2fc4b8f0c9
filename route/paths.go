package route

// MaxEqual is how many equal paths to one destination are used.
const MaxEqual = 8

// paths are the ways from the graph's self to every node.
type paths struct {
	to []way // by node
}

// way is how to reach one node. For self and for unreachable nodes next is empty.
type way struct {
	next      []int32 // first hops of all best ways, ascending, at most MaxEqual
	alternate int32   // if there is one best way: first hop of the next best; else -1
	cost      uint64  // microseconds
	hops      int     // links on the longest of the best ways
}

// second is the first hop to use when the first of next can't be: -1 if there is none.
func (w *way) second() int32 {
	if len(w.next) > 1 {
		return w.next[1]
	}
	return w.alternate
}

// label says: node can be reached at dist by going to first. Labels are taken in
// the order of (dist, first, node), which no input order can change.
type label struct {
	dist        uint64
	first, node int32
}

func (a label) less(b label) bool {
	if a.dist != b.dist {
		return a.dist < b.dist
	}
	if a.first != b.first {
		return a.first < b.first
	}
	return a.node < b.node
}

// paths is Dijkstra's algorithm with several labels a node, one for each first hop,
// over the graph without self, started at self's neighbours. A node keeps the labels
// of least distance (at most MaxEqual) and, if that is only one, the next best: what
// a node doesn't keep could not be kept by any node behind it, so nothing is lost
// and the work is that of two searches, whatever the number of neighbours.
// up says which neighbours may be a first hop; nil allows all.
func (g *Graph) paths(up func(node int32) bool) *paths {
	nodes := len(g.names)
	p := &paths{to: make([]way, nodes)}
	settled := make([]settled, nodes)
	heap := labels{}
	for _, e := range g.out(g.self) {
		if up == nil || up(e.to) {
			heap.push(label{uint64(e.cost), e.to, e.to})
		}
	}
	order := make([]int32, 0, nodes) // nodes as they are reached first
	for len(heap) > 0 {
		l := heap.pop()
		s := &settled[l.node]
		if !s.wants(l) || s.has(l.first) {
			continue
		}
		if s.n == 0 {
			order = append(order, l.node)
		}
		s.take(l)
		for _, e := range g.out(l.node) {
			next := label{l.dist + uint64(e.cost), l.first, e.to}
			if e.to != g.self && settled[e.to].offer(next) {
				heap.push(next)
			}
		}
	}
	g.collect(p, settled, order)
	return p
}

// collect turns settled labels into ways; order lists the reached nodes by distance.
func (g *Graph) collect(p *paths, settled []settled, order []int32) {
	for n := range p.to {
		p.to[n].alternate = -1
	}
	total := 0
	for _, n := range order {
		total += int(settled[n].equal)
	}
	next := make([]int32, 0, total)
	for _, n := range order {
		s, w := &settled[n], &p.to[n]
		from := len(next)
		next = append(next, s.first[:s.equal]...)
		w.next = next[from:len(next):len(next)]
		w.cost = s.dist
		if s.equal == 1 && s.n == 2 {
			w.alternate = s.first[1]
		}
		// The longest of the best ways: one hop more than the longest to any node
		// before it on such a way. Those are reached earlier, as no edge is free.
		for _, e := range g.out(n) {
			if e.to == g.self {
				if uint64(e.cost) == w.cost {
					w.hops = max(w.hops, 1)
				}
			} else if before := &p.to[e.to]; len(before.next) > 0 && before.cost+uint64(e.cost) == w.cost {
				w.hops = max(w.hops, before.hops+1)
			}
		}
	}
}

// settled are the labels that one node keeps, and a bound on those still wanted.
type settled struct {
	n, equal uint8           // labels kept; of these, of least distance
	offered  bool            // bound is valid
	first    [MaxEqual]int32 // their first hops, in the order taken
	dist     uint64          // least distance
	bound    [2]label        // best two offers of different first hops
	twoBound bool            // bound[1] is valid
}

// wants reports whether a label, taken in order, is to be kept.
func (s *settled) wants(l label) bool {
	switch {
	case s.n == 0:
		return true
	case l.dist == s.dist:
		return s.n < MaxEqual
	}
	return s.n == 1
}

// has reports whether first has a label here.
func (s *settled) has(first int32) bool {
	for _, f := range s.first[:s.n] {
		if f == first {
			return true
		}
	}
	return false
}

func (s *settled) take(l label) {
	if s.n == 0 {
		s.dist = l.dist
	}
	if l.dist == s.dist {
		s.equal++
	}
	s.first[s.n] = l.first
	s.n++
}

// offer reports whether l may still come to be kept here. It bounds the heap: an
// offer worse than two of other first hops, and than the best, is useless.
func (s *settled) offer(l label) bool {
	if s.n > 0 && (!s.wants(l) || s.has(l.first)) {
		return false
	}
	switch {
	case !s.offered:
		s.bound[0], s.offered = l, true
	case l.first == s.bound[0].first:
		if !l.less(s.bound[0]) {
			return false
		}
		s.bound[0] = l
	case l.less(s.bound[0]):
		s.bound[1], s.twoBound = s.bound[0], true
		s.bound[0] = l
	case !s.twoBound || l.less(s.bound[1]):
		s.bound[1], s.twoBound = l, true
	default:
		return l.dist == s.bound[0].dist
	}
	return true
}

// labels is a binary heap, least label first.
type labels []label

func (h *labels) push(l label) {
	*h = append(*h, l)
	s := *h
	i := len(s) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !l.less(s[up]) {
			break
		}
		s[i] = s[up]
		i = up
	}
	s[i] = l
}

func (h *labels) pop() label {
	s := *h
	top, last := s[0], s[len(s)-1]
	s = s[:len(s)-1]
	*h = s
	if len(s) == 0 {
		return top
	}
	i := 0
	for {
		down := 2*i + 1
		if down >= len(s) {
			break
		}
		if down+1 < len(s) && s[down+1].less(s[down]) {
			down++
		}
		if !s[down].less(last) {
			break
		}
		s[i] = s[down]
		i = down
	}
	s[i] = last
	return top
}
