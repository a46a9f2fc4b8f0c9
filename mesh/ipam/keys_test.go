package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"ripstop/crypto"
)

// TestKeysAreBounded: who sends keys of hosts that there are not fills no memory, and the
// keys of those that what is kept is about stay.
func TestKeysAreBounded(t *testing.T) {
	cfg := realConfig(0, "10.32.0.0/29")
	m, journal := one(t, cfg)
	allocate(t, m, journal, Request{ID: "x"})
	owner, known, nobody := simIdentities[1], simIdentities[2], simIdentities[3]
	m.know(owner.Public())
	m.Known(known.Public())
	m.know(nobody.Public())
	ask := putPrefix(put16(put64(put64(m.message(msgAsk), 1), 0), 1), m.cfg.Range)
	if err := m.Step(m.now, owner.Name(), ask); err != nil {
		t.Fatal(err)
	}
	settleOne(t, m, journal)
	r := rand.New(rand.NewPCG(1, 2))
	const each = 60
	for range 1000 {
		b := put16(m.message(msgChains), each)
		for range each * 8 {
			b = put64(b, r.Uint64())
		}
		if err := m.Step(m.now, simIdentities[4].Name(), put16(put16(b, 0), 0)); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.keys) > maxKeys+each {
		t.Errorf("%d keys", len(m.keys))
	}
	for name, want := range map[crypto.Name]bool{m.self: true, owner.Name(): true, known.Name(): true, nobody.Name(): false} {
		if _, there := m.keys[name]; there != want {
			t.Errorf("the keys of %v: %t, want %t", name, there, want)
		}
	}
	m.rewrite = true
	settleOne(t, m, journal)
	again, err := Restore(cfg, m.now, *journal)
	if err != nil {
		t.Fatal(err)
	}
	given := 0
	for b := range m.lay.blocks {
		if again.owner(b) != m.owner(b) {
			t.Errorf("block %d is %v's, was %v's", b, again.owner(b), m.owner(b))
		}
		if m.owner(b) == owner.Name() {
			given++
		}
	}
	if given == 0 {
		t.Error("no block was given: the test shows nothing")
	}
}

// TestReportsAreBounded: who numbers another range each time is told of only so often.
func TestReportsAreBounded(t *testing.T) {
	m, _ := one(t, realConfig(0, "10.32.0.0/29"))
	for i := range 10 * maxReported {
		m.otherRange(simIdentities[1].Name(), netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)))
	}
	if events := m.Ready(m.now).Events; len(events) != maxReported || len(m.refused) != maxReported {
		t.Errorf("%d events, %d noted", len(events), len(m.refused))
	}
}
