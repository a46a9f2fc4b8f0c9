package ipam

import (
	"math/rand/v2"
	"testing"
	"time"

	"ripstop/crypto"
)

// oldDisk is a host that starts from a journal older than what others remember of it,
// the owner of some of the range beside it, and a way to tell it such a memory.
func oldDisk(t *testing.T) (m, owner *Machine, remember func(uid crypto.UID, boot uint32, seq uint64)) {
	a, b, _, _ := pair(t)
	m = startAgain(t, b, b.encodeSnapshot(b.seq), 77)
	return m, a, func(uid crypto.UID, boot uint32, seq uint64) {
		h := &hint{keys: b.cfg.Identity.Public(), origin: b.self, boot: boot, count: 1, uid: uid, seq: seq}
		h.sig = b.sign(hintLabel, h.text())
		m.mergeHint(h)
	}
}

// startAgain is another run of a host from a journal.
func startAgain(t *testing.T, m *Machine, journal []byte, uid crypto.UID) *Machine {
	t.Helper()
	cfg := m.cfg
	cfg.UID, cfg.Random = uid, rand.New(rand.NewPCG(uint64(uid), 3))
	m, err := Restore(cfg, m.now, journal)
	if err != nil {
		t.Fatal(err)
	}
	m.Listed(m.now, nil)
	return m
}

// TestOldDiskIsNoticed: whatever start of this host others remember, one that its journal
// does not know says that the journal is old.
func TestOldDiskIsNoticed(t *testing.T) {
	for _, c := range []struct {
		what  string
		skip  uint32 // boot of a claim number that an owner answered before
		boot  uint32 // less the journal's
		seq   uint64 // less the journal's
		is    bool
		after uint32 // boot at the least, less the journal's
	}{
		{what: "the journal's own start and save", is: false, after: 1},
		{what: "a later save of that start", seq: 1, is: true, after: 1},
		{what: "the next start", boot: 1, is: true, after: 2},
		{what: "a later start", boot: 5, is: true, after: 6},
		{what: "a start below a number that an owner remembers", skip: 3, boot: 2, is: true, after: 4},
		{what: "the start of that number", skip: 3, boot: 3, is: true, after: 4},
	} {
		m, _, remember := oldDisk(t)
		disk, seq := m.diskBoot, m.diskSeq
		if c.skip > 0 {
			m.skipClaims(uint64(disk+c.skip)<<32 | 9)
		}
		remember(5, disk+c.boot, seq+c.seq)
		if is := !m.recover.IsZero(); is != c.is || m.boot < disk+c.after {
			t.Errorf("%s: old %v, boot %d after %d", c.what, is, m.boot, disk)
		}
		for n := range m.own {
			if o := m.own[n]; o.until.IsZero() == c.is {
				t.Fatalf("%s: block %d waits until %v", c.what, n, o.until)
			}
		}
	}
}

// TestMemoriesOfOneStart: what several neighbours remember of one forgotten start does not
// make a clone of it; a start above this one's does.
func TestMemoriesOfOneStart(t *testing.T) {
	m, _, remember := oldDisk(t)
	for n := range uint64(3) {
		remember(5, m.boot-1, m.seq+1+n)
	}
	if m.recover.IsZero() || m.cloned != 0 {
		t.Errorf("until %v, clone %v", m.recover, m.cloned)
	}
	remember(5, m.boot+1, 1)
	if m.cloned != 5 {
		t.Error("a clone that goes on is not noticed")
	}
}

// TestNumbersOfAForgottenStart: what an owner noted for a start that this host forgot is
// not taken for an answer to a request of this start, though both had one boot.
func TestNumbersOfAForgottenStart(t *testing.T) {
	now, owner, _ := oldDisk(t)
	forgotten := startAgain(t, now, now.encodeSnapshot(now.seq), 78)
	now = startAgain(t, now, now.encodeSnapshot(now.seq), 79)
	addr := owner.lay.addr(owner.ownOrder[5] * owner.lay.size)
	forgotten.Allocate(forgotten.now, Request{ID: "gone", Addr: addr})
	talk(t, owner, forgotten, 0)
	if e := owner.entries[addr]; e == nil || e.kind != kindHeld {
		t.Fatalf("at the owner: %+v", e)
	}
	for _, n := range now.ownOrder { // nothing here: it has to ask
		now.own[n].until = owner.now.Add(time.Hour)
	}
	now.Allocate(owner.now, Request{ID: "new", Deadline: time.Hour})
	now.at(owner.now)
	owner.nextAudit = owner.now
	talk(t, owner, now, msgAsk)
	if e := now.entries[addr]; e != nil {
		t.Errorf("on the host: %+v", e)
	}
	if e := owner.entries[addr]; e == nil || e.kind != kindRest {
		t.Errorf("at the owner: %+v", e)
	}
}

// TestQuarantineEnds: blocks that wait are free again after Rest, of a host that ran on and
// of one that was started again meanwhile.
func TestQuarantineEnds(t *testing.T) {
	m, journal := one(t, realConfig(0, "10.32.0.0/16"))
	allocate(t, m, journal, Request{ID: "first"}) // makes the map
	waiting := func(m *Machine) (n int) {
		for _, o := range m.own {
			if !o.until.IsZero() {
				n++
			}
		}
		return n
	}
	m.lostState("a test")
	settleOne(t, m, journal)
	again := startAgain(t, m, m.encodeSnapshot(m.seq), 7)
	for what, m := range map[string]*Machine{"running on": m, "started again": again} {
		if n := waiting(m); n == 0 || n != len(m.own) {
			t.Fatalf("%s: %d of %d blocks wait", what, n, len(m.own))
		}
		m.Tick(m.now.Add(m.cfg.Rest / 2))
		if n := waiting(m); n != len(m.own) {
			t.Errorf("%s: after half the time %d of %d blocks wait", what, n, len(m.own))
		}
		m.Tick(m.now.Add(m.cfg.Rest))
		if n := waiting(m); n != 0 {
			t.Errorf("%s: %d blocks wait for ever", what, n)
		}
	}
}
