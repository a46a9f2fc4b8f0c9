package ipam

import (
	"slices"
	"testing"
	"time"

	"ripstop/crypto"
)

// pair is two hosts with real signatures and one map, and what the first would tell.
func pair(t testing.TB) (a, b *Machine, delta []byte, messages [][]byte) {
	a, ja := one(t, realConfig(0, "10.32.0.0/24"))
	allocate(t, a, ja, Request{ID: "x"})
	b, err := New(realConfig(1, "10.32.0.0/24"), simEpoch)
	if err != nil {
		t.Fatal(err)
	}
	b.Listed(simEpoch, nil)
	a.Known(simIdentities[1].Public())
	if _, err := b.Merge(simEpoch, a.self, a.Delta(b.Digest())); err != nil {
		t.Fatal(err)
	}
	jb := new([]byte)
	a.Peers(a.now, []crypto.Name{b.self}, []crypto.Name{b.self})
	b.Peers(b.now, []crypto.Name{a.self}, []crypto.Name{a.self})
	now := a.now
	for range 20 {
		now = now.Add(300 * time.Millisecond)
		for _, p := range [][2]*Machine{{a, b}, {b, a}} {
			p[0].Tick(now)
			for r := p[0].Ready(now); !r.Empty(); r = p[0].Ready(now) {
				p[0].Done(now, nil)
				for _, s := range r.Send {
					messages = append(messages, s.Bytes)
					if err := p[1].Step(now, p[0].self, s.Bytes); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	settleOne(t, b, jb)
	if len(b.own) == 0 {
		t.Fatal("the joiner got no share")
	}
	fresh, err := New(realConfig(2, "10.32.0.0/24"), simEpoch)
	if err != nil {
		t.Fatal(err)
	}
	return a, b, a.Delta(fresh.Digest()), messages
}

// TestJoinWithSignatures: what two hosts did is believed by a third one, and not
// when one bit of it is changed.
func TestJoinWithSignatures(t *testing.T) {
	a, _, delta, messages := pair(t)
	merge := func(d []byte) *Machine {
		m, err := New(realConfig(2, "10.32.0.0/24"), simEpoch)
		if err != nil {
			t.Fatal(err)
		}
		m.Merge(simEpoch, a.self, d)
		return m
	}
	m := merge(delta)
	if m.genesis == nil {
		t.Fatal("no map")
	}
	settleOne(t, m, new([]byte))
	m.Merge(simEpoch, a.self, a.Delta(m.Digest()))
	settleOne(t, m, new([]byte))
	if m.groups != a.groups {
		t.Error("the maps differ")
	}
	for n := 0; n < len(delta); n += 1 + n%23 { // each check costs signatures
		d := slices.Clone(delta)
		d[n] ^= 1
		x := merge(d)
		if x.genesis != nil && x.genesis.hash != a.genesis.hash {
			t.Fatalf("byte %d changed: another map is believed", n)
		}
		for b, r := range x.registers {
			if h := a.held(b); h == nil || r.latest.head() != h.head() {
				t.Fatalf("byte %d changed: another record of block %d is believed", n, b)
			}
		}
		if n%5 == 0 {
			merge(delta[:n])
		}
	}
	for _, b := range messages {
		for n := range b {
			if err := a.Step(a.now, simIdentities[2].Name(), b[:n]); err == nil && a.stats.Malformed == 0 && n >= 10 {
				t.Fatalf("message of type %d cut to %d of %d bytes has the right form", b[1], n, len(b))
			}
		}
	}
}

func FuzzMerge(f *testing.F) {
	a, _, delta, _ := pair(f)
	f.Add(delta)
	f.Add(a.Digest())
	f.Fuzz(func(t *testing.T, d []byte) {
		m := cloneMachine(a)
		m.Merge(m.now, simIdentities[2].Name(), d)
		m.Delta(d)
		m.Tick(m.now.Add(time.Second))
		m.Ready(m.now)
	})
}

func FuzzStep(f *testing.F) {
	a, _, _, messages := pair(f)
	for _, m := range messages {
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := cloneMachine(a)
		if len(b) > 10 {
			b = append(slices.Clone(messages[0][:1]), b[1:]...)
			copy(b[2:], m.genesis.hash[:8])
		}
		m.Step(m.now, simIdentities[1].Name(), b)
		m.Tick(m.now.Add(time.Second))
		m.Ready(m.now)
	})
}

func FuzzRestore(f *testing.F) {
	cfg := realConfig(0, "10.32.0.0/24")
	m, journal := one(f, cfg)
	allocate(f, m, journal, Request{ID: "x"})
	f.Add(m.snapshotText(3))
	f.Fuzz(func(t *testing.T, plain []byte) {
		x, err := newMachine(cfg, nil, simEpoch)
		if err != nil {
			t.Fatal(err)
		}
		if x.replay(plain, true) == nil {
			x.revive()
			x.Tick(simEpoch)
		}
	})
}
