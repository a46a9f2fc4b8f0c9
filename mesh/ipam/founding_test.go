package ipam

import (
	"testing"
	"time"

	"ripstop/crypto"
)

// TestFounderThatSignedOn: a founder that signed a longer list since has the blocks of
// the shorter one at once, when others completed that.
func TestFounderThatSignedOn(t *testing.T) {
	now := simEpoch
	var ms [3]*Machine
	for i := range ms {
		m, err := New(realConfig(i, "10.32.0.0/24"), now)
		if err != nil {
			t.Fatal(err)
		}
		m.Listed(now, nil)
		ms[i] = m
	}
	a, b, c := ms[0], ms[1], ms[2]
	for _, m := range ms {
		for _, o := range ms {
			m.Known(o.cfg.Identity.Public())
		}
	}
	settle := func(m *Machine) {
		now = now.Add(time.Second)
		m.Tick(now)
		settleOne(t, m, new([]byte))
	}
	hears := func(m, from *Machine) {
		t.Helper()
		if _, err := m.Merge(now, from.self, from.Delta(m.Digest())); err != nil {
			t.Fatal(err)
		}
		settle(m)
	}
	a.Targets(now, []crypto.Name{b.self}, nil)
	b.Targets(now, []crypto.Name{a.self}, nil)
	c.Targets(now, []crypto.Name{a.self}, nil)
	for _, m := range ms {
		settle(m)
	}
	hears(b, a) // signs {a, b}
	hears(a, b) // completes it
	if a.genesis == nil {
		t.Fatal("two founders who know each other made no map")
	}
	hears(b, c) // signs {a, b, c}
	if own := b.statements[b.self]; b.genesis != nil || len(own.list) != 3 {
		t.Fatalf("b has a map, or a list of %d founders", len(own.list))
	}
	hears(b, a)
	if len(b.own) == 0 {
		t.Fatal("b has no blocks")
	}
	for n, o := range b.own {
		if !o.until.IsZero() {
			t.Fatalf("block %d waits until %v", n, o.until)
		}
	}
}

// TestShareWhoseAnswerIsLost: blocks of a share that came by gossip are free as soon as
// the donor has said so again.
func TestShareWhoseAnswerIsLost(t *testing.T) {
	a, _ := one(t, realConfig(0, "10.32.0.0/24"))
	a.Start(a.now)
	b, err := New(realConfig(1, "10.32.0.0/24"), a.now)
	if err != nil {
		t.Fatal(err)
	}
	b.Listed(a.now, nil)
	a.Known(b.cfg.Identity.Public())
	b.Known(a.cfg.Identity.Public())
	a.Peers(a.now, []crypto.Name{b.self}, []crypto.Name{b.self})
	b.Peers(a.now, []crypto.Name{a.self}, []crypto.Name{a.self})
	waits := func() (n int) {
		for _, o := range b.own {
			if !o.until.IsZero() {
				n++
			}
		}
		return n
	}
	lost, waited := 0, 0
	for now := a.now; now.Before(simEpoch.Add(20 * time.Second)); now = now.Add(300 * time.Millisecond) {
		for _, p := range [][2]*Machine{{a, b}, {b, a}} {
			p[0].Tick(now)
			for r := p[0].Ready(now); !r.Empty(); r = p[0].Ready(now) {
				p[0].Done(now, nil)
				for _, s := range r.Send {
					if p[0] == a && lost < 2 { // the first answer, and its first repetition
						lost++
						continue
					}
					if err := p[1].Step(now, p[0].self, s.Bytes); err != nil {
						t.Fatal(err)
					}
				}
			}
			if delta := p[0].Delta(p[1].Digest()); len(delta) > 0 {
				if _, err := p[1].Merge(now, p[0].self, delta); err != nil {
					t.Fatal(err)
				}
			}
		}
		waited = max(waited, waits())
	}
	if lost != 2 || waited == 0 {
		t.Fatalf("%d answers lost, %d blocks waited: nothing was shown", lost, waited)
	}
	if len(b.own) == 0 || waits() > 0 {
		t.Errorf("%d of %d blocks still wait", waits(), len(b.own))
	}
	if given := a.stats.Donated; int(given) != len(b.own) {
		t.Errorf("%d blocks were given, %d are there", given, len(b.own))
	}
}

// TestStickyWantsABlock: an address that is to be kept is not borrowed from a host that
// has no whole block, while another one has.
func TestStickyWantsABlock(t *testing.T) {
	for _, alone := range []bool{false, true} {
		var ms [3]*Machine
		for i := range ms {
			m, err := New(realConfig(i, "10.32.0.0/16"), simEpoch)
			if err != nil {
				t.Fatal(err)
			}
			m.Listed(simEpoch, nil)
			ms[i] = m
		}
		a, r, b := ms[0], ms[1], ms[2]
		a.Start(a.now)
		settleOne(t, a, new([]byte))
		names := make(map[crypto.Name]*Machine)
		for _, m := range ms {
			names[m.self] = m
			for _, o := range ms {
				m.Known(o.cfg.Identity.Public())
			}
		}
		now := a.now
		answers := make(map[*Machine][]Answer)
		run := func(hosts ...*Machine) {
			for range 30 {
				now = now.Add(300 * time.Millisecond)
				for _, m := range hosts {
					m.Tick(now)
					for r := m.Ready(now); !r.Empty(); r = m.Ready(now) {
						m.Done(now, nil)
						answers[m] = append(append(answers[m], r.Refusals...), r.Answers...)
						for _, s := range r.Send {
							if err := names[s.To].Step(now, m.self, s.Bytes); err != nil {
								t.Fatal(err)
							}
						}
					}
				}
			}
		}
		hear := func(m, from *Machine) {
			for delta := from.Delta(m.Digest()); len(delta) > 0; delta = from.Delta(m.Digest()) {
				before := m.stats
				if _, err := m.Merge(now, from.self, delta); err != nil {
					t.Fatal(err)
				}
				settleOne(t, m, new([]byte))
				if before == m.stats {
					return
				}
			}
		}
		// r uses an address of each of its blocks.
		hear(r, a)
		a.Peers(now, []crypto.Name{r.self}, []crypto.Name{r.self})
		r.Peers(now, []crypto.Name{a.self}, []crypto.Name{a.self})
		r.Allocate(now, Request{ID: "vm"})
		run(a, r)
		if len(r.own) == 0 {
			t.Fatal("r has no block")
		}
		for _, n := range r.ownOrder {
			if r.own[n].busy == 0 {
				r.set(r.lay.addr(n*r.lay.size), &entry{kind: kindUsed, bits: 16, id: "other"})
			}
		}
		// b has heard only of r that there is something free.
		hear(b, r)
		hosts := []*Machine{r, b}
		reach := []crypto.Name{r.self}
		if !alone {
			hosts, reach = []*Machine{a, r, b}, append(reach, a.self)
			a.Peers(now, []crypto.Name{b.self, r.self}, []crypto.Name{b.self, r.self})
		}
		r.Peers(now, []crypto.Name{b.self}, []crypto.Name{b.self})
		b.Peers(now, reach, reach)
		b.Allocate(now, Request{ID: "web", Sticky: true})
		run(hosts...)
		got := answers[b]
		if len(got) != 1 || got[0].Err != nil {
			t.Fatalf("alone %v: answers %+v", alone, got)
		}
		want := kindUsed
		if alone {
			want = kindForeign // better than none
		}
		if e := b.entries[got[0].Addr.Addr()]; e.kind != want {
			t.Errorf("alone %v: an address of kind %v, want %v", alone, e.kind, want)
		}
	}
}
