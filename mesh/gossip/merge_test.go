package gossip

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ripstop/crypto"
)

// piece is something that an origin once told: a record alone, as it is pushed,
// or a head with its list and all its records, as it is pulled.
type piece struct {
	head    *head
	records []*stored
}

// history makes an origin publish and withdraw, and returns all that it told.
func history(t *rapid.T, w *world, id *crypto.Identity) []piece {
	s := New(Config{Identity: id, Random: rand.New(rand.NewPCG(1, 1)), Cache: w.cache}, w.now)
	var all []piece
	for range rapid.IntRange(1, 8).Draw(t, "batches") {
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			key := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")
			before := s.version
			if rapid.Bool().Draw(t, "withdraw") {
				s.Withdraw(w.now, KindHint, key)
			} else {
				body, _ := HintBody{FreeBlocks: rapid.Uint32Range(0, 3).Draw(t, "value")}.Append(nil)
				if err := s.Publish(w.now, KindHint, key, body); err != nil {
					t.Fatal(err)
				}
			}
			if s.version > before {
				all = append(all, piece{records: s.own.above(before)})
			}
		}
		before := s.own.head
		if s.flush(); s.own.head != before {
			all = append(all, piece{head: s.own.head, records: s.own.covered()})
		}
	}
	return all
}

// tell brings a piece to s from a neighbour.
func tell(t *rapid.T, w *world, s *State, from *crypto.Identity, origin crypto.PublicKeys, p piece) {
	s.NeighbourUp(w.now, from.Name(), from.Public())
	step := func(b []byte) {
		if err := s.Step(w.now, from.Name(), b); err != nil {
			t.Fatal(err)
		}
	}
	b := appendOrigin([]byte{format}, origin, 0)
	if p.head != nil {
		b = appendHead(b, p.head)
		step(b) // now it asks for more
		b = appendList(b, p.head.Version, p.records)
	}
	for _, r := range p.records {
		b = appendRecord(b, &r.Record)
	}
	step(b)
	s.NeighbourDown(w.now, from.Name())
	s.Ready()
}

// join connects two states until they have nothing more to say for a while.
func join(t *rapid.T, w *world, a, b *State) {
	a.NeighbourUp(w.now, b.self, b.cfg.Identity.Public())
	b.NeighbourUp(w.now, a.self, a.cfg.Identity.Public())
	for range 60 {
		for range 20 {
			quiet := true
			for _, p := range [][2]*State{{a, b}, {b, a}} {
				for _, m := range p[0].Ready().Messages {
					quiet = false
					p[0].Sent(m.To)
					if err := p[1].Step(w.now, p[0].self, m.Bytes); err != nil {
						t.Fatal(err)
					}
				}
			}
			if quiet {
				break
			}
		}
		w.now = w.now.Add(time.Second)
		a.Tick(w.now)
		b.Tick(w.now)
	}
	a.NeighbourDown(w.now, b.self)
	b.NeighbourDown(w.now, a.self)
	a.Ready()
	b.Ready()
}

// view is what a state holds of an origin.
func view(s *State, name crypto.Name) string {
	text := "complete 0:"
	if o := s.origins[name]; o != nil {
		text = fmt.Sprintf("complete %d:", o.complete())
		for _, r := range o.records {
			if !r.Deleted {
				text += fmt.Sprintf(" %s@%d", r.Key, r.Version)
			}
		}
	}
	return text
}

// TestMerge gives three hosts any pieces of an origin's history in any order,
// also twice, and lets them meet in several orders: what they know in the end
// does not depend on the order, and meeting again changes nothing.
func TestMerge(t *testing.T) {
	t.Parallel()
	ids := make([]*crypto.Identity, 6)
	for i := range ids {
		ids[i] = identity(t, 100+i)
	}
	w0 := newWorld(t, 1)
	rapid.Check(t, func(t *rapid.T) {
		w := &world{now: w0.now, cache: w0.cache}
		origin := ids[0]
		all := history(t, w, origin)
		if len(all) == 0 {
			return
		}
		var given [3][]piece
		for i := range given {
			given[i] = rapid.SliceOfN(rapid.SampledFrom(all), 0, 2*len(all)).Draw(t, "given")
		}
		build := func(i int) *State {
			s := New(Config{Identity: ids[1+i], Random: rand.New(rand.NewPCG(uint64(i), 1)), Cache: w.cache}, w.now)
			for _, p := range given[i] {
				tell(t, w, s, ids[5], origin.Public(), p)
			}
			return s
		}
		orders := [][][2]int{
			{{0, 1}, {0, 2}},         // (A+B)+C
			{{1, 2}, {0, 1}},         // A+(B+C)
			{{2, 1}, {1, 0}, {1, 0}}, // (C+B)+A, twice
		}
		var want string
		for i, order := range orders {
			states := []*State{build(0), build(1), build(2)}
			var last [2]int
			for _, p := range order {
				join(t, w, states[p[0]], states[p[1]])
				last = p
			}
			a, b := view(states[last[0]], origin.Name()), view(states[last[1]], origin.Name())
			if a != b {
				t.Fatalf("order %d: after they met one holds %q, the other %q", i, a, b)
			}
			if i == 0 {
				want = a
			} else if a != want {
				t.Fatalf("order %d: %q, but order 0: %q", i, a, want)
			}
		}
	})
}

// TestRandomWorlds lets hosts publish, withdraw, link, part, restart without
// state and hear old messages again. A deletion once covered by complete is
// never undone, Changed tells the truth, and in the end all agree with every origin.
func TestRandomWorlds(t *testing.T) {
	t.Parallel()
	type deletion struct {
		origin int
		key    string
	}
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, rapid.Uint64().Draw(rt, "seed"))
		const n = 4
		for i := range n {
			w.add(fmt.Sprintf("h%d", i), false)
		}
		type old struct {
			from crypto.Name
			b    []byte
		}
		var heard []old
		w.trace = func(from, to *host, b []byte) { heard = append(heard, old{from.id.Name(), slices.Clone(b)}) }
		deleted := make(map[deletion][]uint64)
		var forgotten [n]uint64 // versions of earlier runs: until a host is above them they mean nothing
		check := func() {
			for _, h := range w.hosts {
				for _, o := range h.order {
					for _, r := range o.records {
						for _, v := range deleted[deletion{w.byName[o.name].index, r.Key}] {
							if !r.Deleted && r.Version < v && v <= o.complete() && o != h.own {
								rt.Fatalf("%s holds %s@%d of %s, deleted at %d, complete to %d",
									h.nick, r.Key, r.Version, w.nickOf(o.name), v, o.complete())
							}
						}
					}
				}
			}
		}
		any := func(what string) *host { return w.hosts[rapid.IntRange(0, n-1).Draw(rt, what)] }
		keys := rapid.SampledFrom([]string{"a", "b", "c"})
		for range rapid.IntRange(5, 60).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0, 1:
				any("host").endpoint(keys.Draw(rt, "key"), rapid.Uint64Range(0, 5).Draw(rt, "claim"))
			case 2, 3:
				h, key := any("host"), keys.Draw(rt, "key")
				if _, there := h.Get(h.id.Name(), KindEndpoint, key); there {
					h.withdraw(KindEndpoint, key)
					d := deletion{h.index, key}
					if h.version > forgotten[h.index] {
						deleted[d] = append(deleted[d], h.version)
					}
				}
			case 4, 5, 6:
				if a, b := any("a"), any("b"); a != b {
					w.connect(a, b)
				}
			case 7:
				w.disconnect(any("a"), any("b"))
			case 8:
				if h := any("host"); rapid.IntRange(0, 3).Draw(rt, "restart") == 0 {
					forgotten[h.index] = max(forgotten[h.index], h.version)
					maps.DeleteFunc(deleted, func(d deletion, _ []uint64) bool { return d.origin == h.index })
					h.stop()
					h.boot()
				}
			case 9:
				if len(heard) > 0 {
					m := heard[rapid.IntRange(0, len(heard)-1).Draw(rt, "old message")]
					for _, h := range w.hosts {
						if h.neighbours[m.from] != nil {
							if err := h.Step(w.now, m.from, m.b); err != nil {
								rt.Fatal(err)
							}
							h.act()
						}
					}
				}
			}
			w.run(time.Duration(rapid.IntRange(0, 300).Draw(rt, "ms")) * time.Millisecond)
			check()
		}
		for i := range w.hosts {
			w.connect(w.hosts[i], w.hosts[(i+1)%n])
		}
		begin := w.now
		for len(w.differences()) > 0 {
			if w.now.Sub(begin) > 2*time.Minute {
				rt.Fatalf("not converged: %v", w.differences())
			}
			w.run(500 * time.Millisecond)
			check()
		}
		for _, h := range w.hosts {
			live := 0
			for kind := KindPeer; kind <= KindHint; kind++ {
				for r := range h.Records(kind) {
					live++
					if !h.shown[Change{Kind: kind, Origin: r.Origin, Key: r.Key}] {
						rt.Fatalf("%s: Changed never told of %s %q", h.nick, r.Kind, r.Key)
					}
				}
			}
			if live != len(h.shown) {
				rt.Fatalf("%s: Changed tells of %d live records, held are %d", h.nick, len(h.shown), live)
			}
		}
	})
}
