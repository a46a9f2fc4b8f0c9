package ipam

import (
	"testing"
	"time"

	"ripstop/crypto"
)

// TestBigTakeoverSpreads: the proof of a removal costs its bytes once a delta, not
// once a block, and a chain that is too long for a message is told by its last step.
func TestBigTakeoverSpreads(t *testing.T) {
	start := func(i int) *Machine {
		m, err := newMachine(realConfig(i, "10.32.0.0/12"), fakeHooks(bugNone), simEpoch)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range simIdentities[:4] {
			m.know(id.Public())
		}
		m.Listed(simEpoch, nil)
		return m
	}
	a, b := start(0), start(1)
	a.Start(simEpoch)
	save := func(m *Machine) {
		for r := m.Ready(m.now); !r.Empty(); r = m.Ready(m.now) {
			m.Done(m.now, nil)
		}
	}
	const blocks = 1500
	for round, victim := range []crypto.Name{simIdentities[2].Name(), simIdentities[3].Name()} {
		for n := range uint32(blocks) { // the second time upon the takeover
			a.advance(n, victim)
		}
		a.Tick(a.now.Add(61 * time.Second))
		a.Remove(a.now, victim, true)
		if c := a.held(7); c.last().owner != a.self || c.last().term != uint32(round+1) {
			t.Fatalf("not taken: %+v", c.last())
		}
		save(a)
		u := a.newBundler()
		for n := range uint32(blocks) {
			c, before := a.held(n), u.size()
			want := u.cost(c)
			if u.add(c); u.size() != before+want {
				t.Fatalf("block %d costs %d, %d were foreseen", n, u.size()-before, want)
			}
		}
		deltas := 0
		for a.groups != b.groups {
			delta := a.Delta(b.Digest())
			if len(delta) > maxDelta || deltas == 40 {
				t.Fatalf("after %d deltas: %d bytes", deltas, len(delta))
			}
			if _, err := b.Merge(a.now, a.self, delta); err != nil {
				t.Fatal(err)
			}
			save(b)
			deltas++
		}
		t.Logf("%d blocks in %d deltas", blocks, deltas)
		r := &reader{b: a.appendFitting(nil, []uint32{1, 2, 3})}
		if b.readBundle(r); r.end() != nil {
			t.Error(r.err)
		}
	}
}
