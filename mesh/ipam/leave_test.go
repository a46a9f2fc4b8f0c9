package ipam

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"ripstop/crypto"
)

// talk lets two hosts exchange messages for a while, but for those of one type, which
// are lost, and returns what was answered at each.
func talk(t testing.TB, a, b *Machine, lost byte) map[*Machine][]Answer {
	t.Helper()
	answers := make(map[*Machine][]Answer)
	a.Peers(a.now, []crypto.Name{b.self}, []crypto.Name{b.self})
	b.Peers(b.now, []crypto.Name{a.self}, []crypto.Name{a.self})
	for range 20 {
		now := later(a.now, b.now).Add(300 * time.Millisecond)
		for _, p := range [][2]*Machine{{a, b}, {b, a}} {
			p[0].Tick(now)
			for r := p[0].Ready(now); !r.Empty(); r = p[0].Ready(now) {
				p[0].Done(now, nil)
				answers[p[0]] = append(append(answers[p[0]], r.Refusals...), r.Answers...)
				for _, s := range r.Send {
					if s.Bytes[1] == lost {
						continue
					}
					if err := p[1].Step(now, p[0].self, s.Bytes); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	return answers
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// TestLeavingHostGivesNothing: what is asked for during a hand-over is refused, also
// where blocks are not offered yet.
func TestLeavingHostGivesNothing(t *testing.T) {
	a, b, _, _ := pair(t)
	leave := b.Leave(b.now, 0)
	id := b.Allocate(b.now, Request{ID: "late"})
	claim := b.Allocate(b.now, Request{ID: "named", Addr: b.lay.addr(b.ownOrder[0] * b.lay.size)})
	left := false
	for _, r := range talk(t, a, b, 0)[b] {
		var e *Error
		if (r.Request == id || r.Request == claim) && (!errors.As(r.Err, &e) || e.Cause != CauseLeft) {
			t.Errorf("a host that is leaving answers %+v", r)
		}
		left = left || r.Request == leave && r.Err == nil && r.Count > 0
	}
	if !left {
		t.Error("the host did not leave")
	}
	// What a host that is gone said last of its free addresses is shown of none that it has not.
	a.hints[b.self] = &hint{keys: b.cfg.Identity.Public(), origin: b.self, free: 100}
	for _, h := range a.Status().Hosts {
		if h.Host == b.self && (h.Blocks != 0 || h.Free != 0) {
			t.Errorf("of the host that left: %+v", h)
		}
	}
}

// TestHeirKnowsWhatStays: an address that is found attached after Leave is noted by the
// heir of its block from the beginning, and not only when the host's own claim gets
// through: what rests may be had by a claim.
func TestHeirKnowsWhatStays(t *testing.T) {
	a, b, _, _ := pair(t)
	b, err := Restore(b.cfg, b.now, b.encodeSnapshot(b.seq))
	if err != nil {
		t.Fatal(err)
	}
	addr := b.lay.addr(b.ownOrder[0] * b.lay.size)
	b.Peers(b.now, []crypto.Name{a.self}, []crypto.Name{a.self})
	b.Leave(b.now, 0)
	b.Listed(b.now, []Attached{{"stays", netip.PrefixFrom(addr, 24)}})
	for _, lost := range []byte{msgClaim, 0} {
		talk(t, a, b, lost)
		if e := a.entries[addr]; e == nil || e.kind != kindHeld || e.holder != b.self {
			t.Errorf("at the heir: %+v", e)
		}
	}
	if e := b.entries[addr]; e == nil || e.kind != kindForeign || !e.confirmed {
		t.Errorf("on the host: %+v", e)
	}
}
