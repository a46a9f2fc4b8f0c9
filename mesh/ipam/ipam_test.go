package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"ripstop/crypto"
)

func realConfig(i int, prefix string) Config {
	return Config{Identity: simIdentities[i], UID: crypto.UID(i + 1), Random: rand.New(rand.NewPCG(uint64(i), 2)), Range: netip.MustParsePrefix(prefix)}
}

// one is a host that founded its own map, with real signatures and a real journal.
func one(t testing.TB, cfg Config) (*Machine, *[]byte) {
	t.Helper()
	m, err := New(cfg, simEpoch)
	if err != nil {
		t.Fatal(err)
	}
	m.Targets(simEpoch, nil, nil)
	m.Listed(simEpoch, nil)
	journal := new([]byte)
	settleOne(t, m, journal)
	return m, journal
}

func settleOne(t testing.TB, m *Machine, journal *[]byte) (answers []Answer) {
	t.Helper()
	for {
		r := m.Ready(m.now)
		if r.Empty() {
			return answers
		}
		*journal = append(*journal, r.Save...)
		if r.Snapshot != nil {
			*journal = slices.Clone(r.Snapshot)
		}
		answers = append(append(answers, r.Refusals...), r.Answers...)
		m.Done(m.now, nil)
	}
}

func allocate(t testing.TB, m *Machine, journal *[]byte, r Request) Answer {
	t.Helper()
	id := m.Allocate(m.now, r)
	for range 12 {
		for _, a := range settleOne(t, m, journal) {
			if a.Request == id {
				return a
			}
		}
		m.Tick(m.now.Add(time.Second))
	}
	t.Fatalf("%+v was never answered", r)
	return Answer{}
}

// TestTwins: an address of the network's ULA is never taken for one outside the range,
// with IPv6 or without, since some host's IPv4 address has it beside it.
func TestTwins(t *testing.T) {
	for _, noIPv6 := range []bool{false, true} {
		cfg := realConfig(0, "10.32.0.0/16")
		cfg.NoIPv6 = noIPv6
		m, journal := one(t, cfg)
		v4 := netip.MustParseAddr("10.32.0.9")
		twin := Twin(cfg.Network, v4).Addr()
		if a, ok := TwinOf(cfg.Network, twin); a != v4 || !ok {
			t.Errorf("%v is the twin of %v, %v", twin, a, ok)
		}
		ula := ULA(cfg.Network).Addr()
		for _, c := range []struct {
			addr netip.Addr
			says string
		}{
			{twin, "belongs to 10.32.0.9"},
			{ula.Next(), "only the twins of addresses of 10.32.0.0/16"},
			{Twin(cfg.Network, netip.MustParseAddr("10.33.0.1")).Addr(), "only the twins"},
			{netip.MustParseAddr("fd00::9"), ""},
			{netip.MustParseAddr("192.0.2.9"), ""},
		} {
			a := allocate(t, m, journal, Request{ID: c.addr.String(), Addr: c.addr})
			if c.says == "" && a.Err != nil || c.says != "" && (a.Err == nil || !strings.Contains(a.Err.Error(), c.says)) {
				t.Errorf("without IPv6 %v, %v: %+v", noIPv6, c.addr, a)
			}
		}
	}
}

func TestLayout(t *testing.T) {
	for _, c := range []struct {
		prefix       string
		size, blocks uint32
		fails        string
	}{
		{"10.32.0.0/12", 64, 16384, ""}, {"10.32.0.0/16", 64, 1024, ""}, {"10.32.0.0/24", 1, 256, ""},
		{"10.32.0.0/20", 4, 1024, ""}, {"10.0.0.0/8", 64, 262144, ""}, {"10.32.0.0/30", 1, 4, ""}, {"fd00::/112", 64, 1024, ""},
		{"10.32.0.0/31", 0, 0, "must have 4 to"}, {"0.0.0.0/0", 0, 0, "must have 4 to"}, {"10.32.0.1/24", 0, 0, "host bits"}, {"fd00::/64", 0, 0, "must have 4 to"},
	} {
		l, err := newLayout(netip.MustParsePrefix(c.prefix))
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s: %v, want %q", c.prefix, err, c.fails)
			}
			continue
		}
		if err != nil || l.size != c.size || l.blocks != c.blocks {
			t.Errorf("%s: %d blocks of %d, %v", c.prefix, l.blocks, l.size, err)
		}
		for _, o := range []uint32{0, 1, l.size, l.total / 3, l.total - 1} {
			if back, ok := l.offset(l.addr(o)); !ok || back != o {
				t.Errorf("%s: offset %d is %v is %d", c.prefix, o, l.addr(o), back)
			}
		}
		if _, ok := l.offset(l.addr(l.total - 1).Next()); ok {
			t.Errorf("%s: holds the address behind its end", c.prefix)
		}
	}
}

func TestUsable(t *testing.T) {
	l, _ := newLayout(netip.MustParsePrefix("10.32.0.0/16"))
	for _, c := range []struct{ subnet, first, last string }{
		{"10.32.0.0/16", "10.32.0.1", "10.32.255.254"}, {"10.32.1.0/24", "10.32.1.1", "10.32.1.254"}, {"10.32.1.4/31", "10.32.1.4", "10.32.1.5"},
		{"10.32.1.4/32", "10.32.1.4", "10.32.1.4"}, {"10.32.1.4/30", "10.32.1.5", "10.32.1.6"}, {"10.0.0.0/8", "10.32.0.0", "10.32.255.255"},
	} {
		lo, hi := l.usable(netip.MustParsePrefix(c.subnet))
		if l.addr(lo).String() != c.first || l.addr(hi-1).String() != c.last {
			t.Errorf("%s: from %v to %v", c.subnet, l.addr(lo), l.addr(hi-1))
		}
		var all int // the masks of the blocks add up to the interval
		for b := range l.blocks {
			for m := l.mask(b, lo, hi); m != 0; m &= m - 1 {
				if n := b*l.size + lowest(m); n < lo || n >= hi {
					t.Fatalf("%s: mask of block %d has %d", c.subnet, b, n)
				}
				all++
			}
		}
		if all != int(hi-lo) {
			t.Errorf("%s: masks have %d addresses of %d", c.subnet, all, hi-lo)
		}
	}
}

func TestRequests(t *testing.T) {
	cfg := realConfig(0, "10.32.0.0/16")
	cfg.Reserved = []netip.Prefix{netip.MustParsePrefix("10.32.0.0/28")}
	m, journal := one(t, cfg)
	a := allocate(t, m, journal, Request{ID: "web"})
	if a.Err != nil || a.Addr.String() != "10.32.0.16/16" || !a.Addr6.IsValid() || a.Addr6.Bits() != 64 {
		t.Fatalf("first address: %+v", a)
	}
	if b := allocate(t, m, journal, Request{ID: "web"}); b.Addr != a.Addr {
		t.Errorf("asked again: %v, want %v", b.Addr, a.Addr)
	}
	if b := allocate(t, m, journal, Request{ID: "web", Subnet: netip.MustParsePrefix("10.32.9.0/24")}); b.Err != nil || b.Addr.String() != "10.32.9.1/24" {
		t.Errorf("in another subnet: %+v", b)
	}
	if b := allocate(t, m, journal, Request{ID: "gw", Addr: netip.MustParseAddr("10.32.0.1")}); b.Err != nil || b.Addr.String() != "10.32.0.1/16" {
		t.Errorf("a reserved address by name: %+v", b)
	}
	if b := allocate(t, m, journal, Request{ID: "out", Addr: netip.MustParseAddr("192.168.7.7"), Subnet: netip.MustParsePrefix("192.168.7.0/24")}); b.Err != nil || b.Addr.String() != "192.168.7.7/24" || b.Addr6.IsValid() {
		t.Errorf("outside the range: %+v", b)
	}
	for _, c := range []struct {
		req   Request
		cause Cause
		text  string
	}{
		{Request{ID: ""}, CauseInvalid, "printable name"},
		{Request{ID: "a\nb"}, CauseInvalid, "printable name"},
		{Request{ID: "x", Subnet: netip.MustParsePrefix("172.16.0.0/24")}, CauseInvalid, "no address of the range"},
		{Request{ID: "x", Subnet: netip.MustParsePrefix("10.32.1.1/24")}, CauseInvalid, "host bits"},
		{Request{ID: "x", Addr: netip.MustParseAddr("224.0.0.1")}, CauseInvalid, "no address for a host"},
		{Request{ID: "x", Addr: netip.MustParseAddr("10.32.0.0")}, CauseInvalid, "network or broadcast"},
		{Request{ID: "x", Addr: netip.MustParseAddr("10.32.5.5"), Subnet: netip.MustParsePrefix("10.32.6.0/24")}, CauseInvalid, "is not in"},
		{Request{ID: "x", Addr: netip.MustParseAddr("10.32.0.16")}, CauseInUse, `by "web"`},
		{Request{ID: "x", Addr: netip.MustParseAddr("192.168.7.7")}, CauseInUse, `by "out"`},
	} {
		b := allocate(t, m, journal, c.req)
		var e *Error
		if !errors.As(b.Err, &e) || e.Cause != c.cause || !strings.Contains(e.Text, c.text) {
			t.Errorf("%+v: %v, want %q", c.req, b.Err, c.text)
		}
	}
	m.Release(m.now, "web", netip.Addr{})
	settleOne(t, m, journal)
	if b := allocate(t, m, journal, Request{ID: "next"}); b.Addr == a.Addr {
		t.Errorf("%v is given again at once", b.Addr)
	}
	s := allocate(t, m, journal, Request{ID: "sticky", Sticky: true})
	m.Release(m.now, "sticky", netip.Addr{})
	allocate(t, m, journal, Request{ID: "between"})
	if b := allocate(t, m, journal, Request{ID: "sticky", Sticky: true}); b.Addr != s.Addr {
		t.Errorf("sticky: %v, had %v", b.Addr, s.Addr)
	}
}

func TestFullRangeSaysSo(t *testing.T) {
	m, journal := one(t, realConfig(0, "10.32.0.0/28"))
	seen := make(map[netip.Addr]bool)
	for i := range 14 {
		a := allocate(t, m, journal, Request{ID: fmt.Sprint("c", i)})
		if a.Err != nil || seen[a.Addr.Addr()] {
			t.Fatalf("address %d: %+v", i, a)
		}
		seen[a.Addr.Addr()] = true
	}
	start := m.now
	a := allocate(t, m, journal, Request{ID: "more"})
	var e *Error
	if !errors.As(a.Err, &e) || e.Cause != CauseFull || m.now.Sub(start) > 11*time.Second {
		t.Errorf("after %v: %v", m.now.Sub(start), a.Err)
	}
}

// TestAttachedOutlivesAnOldNote: what an old disk notes as held by another host stays
// with the workload that really has it.
func TestAttachedOutlivesAnOldNote(t *testing.T) {
	cfg := realConfig(0, "10.32.0.0/28")
	m, journal := one(t, cfg)
	allocate(t, m, journal, Request{ID: "x"})
	a := netip.MustParseAddr("10.32.0.5")
	m.set(a, &entry{kind: kindHeld, holder: simIdentities[1].Name(), claim: 7})
	settleOne(t, m, journal)
	m, err := Restore(cfg, simEpoch, *journal)
	if err != nil {
		t.Fatal(err)
	}
	m.Listed(simEpoch, []Attached{{"web", netip.PrefixFrom(a, 28)}})
	if e := m.entries[a]; e.kind != kindUsed || e.id != "web" {
		t.Errorf("%+v", e)
	}
}

// TestShareLeavesTheLastBlock: two hosts do not pass one block to and fro because
// each wants a share; an address that is wanted now gets it.
func TestShareLeavesTheLastBlock(t *testing.T) {
	m, journal := one(t, realConfig(0, "10.32.0.0/29")) // six addresses for hosts
	allocate(t, m, journal, Request{ID: "x"})
	other := simIdentities[1].Name()
	m.know(simIdentities[1].Public())
	ask := func(req, claim uint64) {
		b := put64(put64(m.message(msgAsk), req), claim)
		if err := m.Step(m.now, other, putPrefix(put16(b, 9), m.cfg.Range)); err != nil {
			t.Fatal(err)
		}
		settleOne(t, m, journal)
	}
	for req := range uint64(5) {
		ask(req+1, 0)
	}
	if len(m.own) != 4 { // the network's and the broadcast address, the one in use, and one
		t.Errorf("%d blocks are left after asking for a share", len(m.own))
	}
	if ask(9, 1); len(m.own) != 3 {
		t.Error("the last block was not given for an address")
	}
}

func TestNoMapSaysWhoWaits(t *testing.T) {
	m, err := New(realConfig(0, "10.32.0.0/16"), simEpoch)
	if err != nil {
		t.Fatal(err)
	}
	m.Listed(simEpoch, nil)
	m.Targets(simEpoch, []crypto.Name{simIdentities[1].Name()}, []string{"vm3:6783"})
	journal := new([]byte)
	a := allocate(t, m, journal, Request{ID: "x"})
	if a.Err == nil || !strings.Contains(a.Err.Error(), "vm3:6783") || !strings.Contains(a.Err.Error(), "ipam start") {
		t.Errorf("%v", a.Err)
	}
	m.Start(m.now)
	if a := settleOne(t, m, journal); len(a) != 1 || a[0].Err != nil {
		t.Fatalf("start: %+v", a)
	}
	if a := allocate(t, m, journal, Request{ID: "x"}); a.Err != nil {
		t.Errorf("after start: %v", a.Err)
	}
	m.Start(m.now)
	if a := settleOne(t, m, journal); len(a) != 1 || a[0].Err == nil {
		t.Errorf("a second start: %+v", a)
	}
}

func TestLastHostAndUnknownHost(t *testing.T) {
	m, journal := one(t, realConfig(0, "10.32.0.0/16"))
	allocate(t, m, journal, Request{ID: "x"})
	for what, id := range map[string]uint64{
		"detach or release it first": m.Leave(m.now, 0),
		"does not remove itself":     m.Remove(m.now, m.self, true),
		"no host":                    m.Remove(m.now, crypto.Name{9}, false),
	} {
		found := false
		for _, a := range m.refusals {
			found = found || a.Request == id && strings.Contains(a.Err.Error(), what)
		}
		if !found {
			t.Errorf("%q is not among %v", what, m.refusals)
		}
	}
	m.Release(m.now, "x", netip.Addr{})
	id := m.Leave(m.now, 0)
	for _, a := range settleOne(t, m, journal) {
		if a.Request == id && (a.Err == nil || !strings.Contains(a.Err.Error(), "no other host is in reach")) {
			t.Errorf("leave on the last host: %v", a.Err)
		}
	}
}

// TestJournal: every prefix of a journal is an earlier state of it, and nothing that
// was durable before the cut is missing.
func TestJournal(t *testing.T) {
	cfg := realConfig(0, "10.32.0.0/16")
	m, journal := one(t, cfg)
	var lengths []int
	var addrs []netip.Addr
	for i := range 6 {
		addrs = append(addrs, allocate(t, m, journal, Request{ID: fmt.Sprint("c", i)}).Addr.Addr())
		lengths = append(lengths, len(*journal))
	}
	for n := lengths[0]; n <= len(*journal); n++ {
		r, err := Restore(cfg, simEpoch, (*journal)[:n])
		if err != nil {
			t.Fatalf("%d of %d bytes: %v", n, len(*journal), err)
		}
		for i, a := range addrs {
			if there := r.entries[a] != nil; there != (n >= lengths[i]) {
				t.Fatalf("%d bytes: %v of the save that ends at %d: %v", n, a, lengths[i], there)
			}
		}
		if !r.recover.IsZero() {
			t.Fatalf("%d bytes: a cut-off end counts as a loss", n)
		}
	}
	for n := range 40 {
		if _, err := Restore(cfg, simEpoch, (*journal)[:n]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	newer := slices.Clone(*journal)
	newer[len(journalMagic)+1] = journalFormat + 1
	if _, err := Restore(cfg, simEpoch, newer, *journal); !errors.Is(err, crypto.ErrNewerFormat) {
		t.Errorf("newer format: %v", err)
	}
	middle := slices.Clone(*journal)
	middle[lengths[2]+20] ^= 1
	if r, err := Restore(cfg, simEpoch, middle); err != nil || r.recover.IsZero() {
		t.Errorf("damage in the middle: %v, and recovery %v", err, r.recover)
	}
	damaged := slices.Clone(*journal)
	damaged[30] ^= 1
	if r, err := Restore(cfg, simEpoch, damaged, (*journal)[:lengths[3]]); err != nil || r.recover.IsZero() || r.entries[addrs[3]] == nil {
		t.Errorf("the generation before: %v", err)
	}
	moved := cfg
	moved.Range = netip.MustParsePrefix("10.40.0.0/16")
	if _, err := Restore(moved, simEpoch, *journal); !errors.Is(err, ErrForeign) {
		t.Errorf("another range: %v", err)
	}
	moved = cfg
	moved.Network[0] = 1
	if _, err := Restore(moved, simEpoch, *journal); !errors.Is(err, ErrForeign) {
		t.Errorf("another network: %v", err)
	}
	other := cfg
	other.Identity = simIdentities[1]
	if _, err := Restore(other, simEpoch, *journal); !errors.Is(err, ErrDamaged) {
		t.Errorf("another host's journal: %v", err)
	}
}

// TestJoinIsASemilattice: the order in which chains are heard does not matter.
func TestJoinIsASemilattice(t *testing.T) {
	looked := 0
	for round := range 10 {
		w := simulate(uint64(1000+round), bugNone)
		for _, h := range w.hosts {
			if h.m != nil && h.m.genesis != nil && len(h.m.registers) > 0 {
				h.checkJoin(rand.New(rand.NewPCG(5, uint64(round))))
				looked++
				break
			}
		}
		if w.err != nil {
			t.Fatalf("round %d: %v", round, w.err)
		}
	}
	if looked < 5 {
		t.Errorf("only %d hosts had something to join", looked)
	}
}

func BenchmarkAllocate(b *testing.B) {
	m, journal := one(b, realConfig(0, "10.32.0.0/12"))
	i := 0
	for b.Loop() {
		id := fmt.Sprint(i)
		m.Allocate(m.now, Request{ID: id})
		if i++; i%16 == 0 { // a group that is saved at once
			*journal = (*journal)[:0]
			settleOne(b, m, journal)
		}
		if i > 10000 {
			m.Release(m.now, fmt.Sprint(i-10000), netip.Addr{})
		}
		m.at(m.now.Add(10 * time.Millisecond))
		m.expireRests()
	}
}

// BenchmarkTick is what a second costs a host that owns the whole range and has nothing to do.
func BenchmarkTick(b *testing.B) {
	m, journal := one(b, realConfig(0, "10.32.0.0/12"))
	allocate(b, m, journal, Request{ID: "first"}) // makes the map
	for b.Loop() {
		m.Tick(m.now.Add(time.Second))
	}
}

// BenchmarkMemory is what ipam holds on one of 100 hosts with 100 000 addresses.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		cfg := realConfig(0, "10.32.0.0/12")
		m, err := newMachine(cfg, fakeHooks(bugNone), simEpoch)
		if err != nil {
			b.Fatal(err)
		}
		m.Targets(simEpoch, nil, nil)
		m.Listed(simEpoch, nil)
		m.Start(simEpoch)
		for n := uint32(100); n < m.lay.blocks; n++ { // each of 99 others has its share
			var to crypto.Name
			to[0], to[1] = 1, byte(n%99)
			m.advance(n, to)
		}
		for i := range 1000 {
			m.Allocate(simEpoch, Request{ID: fmt.Sprintf("container-%032d", i)})
		}
		for r := m.Ready(simEpoch); !r.Empty(); r = m.Ready(simEpoch) {
			m.Done(simEpoch, nil)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MB/host")
		b.ReportMetric(float64(len(m.snapshotText(1)))/(1<<20), "MB-saved")
		runtime.KeepAlive(m)
	}
}

// TestUse: of one address is told what Uses tells of it, and of one that nothing is known
// of, whose block it is in.
func TestUse(t *testing.T) {
	m, err := New(realConfig(0, "10.32.0.0/24"), simEpoch)
	if err != nil {
		t.Fatal(err)
	}
	free := netip.MustParseAddr("10.32.0.77")
	if u, ok := m.Use(free); ok {
		t.Errorf("without a map: %+v", u)
	}
	m, journal := one(t, realConfig(0, "10.32.0.0/24"))
	allocate(t, m, journal, Request{ID: "vm"})
	a := allocate(t, m, journal, Request{ID: "gone"})
	m.Release(m.now, "gone", a.Addr.Addr())
	settleOne(t, m, journal)
	uses := m.Uses()
	if len(uses) != 2 || uses[0].State != "used" || uses[1].State != "resting" {
		t.Fatalf("%+v", uses)
	}
	for _, want := range uses {
		if u, ok := m.Use(want.Addr.Addr()); !ok || u != want {
			t.Errorf("%+v, want %+v", u, want)
		}
	}
	if u, ok := m.Use(free); !ok || u != (Use{Addr: netip.PrefixFrom(free, 32), Owner: simIdentities[0].Name()}) {
		t.Errorf("free: %+v, %v", u, ok)
	}
	if u, ok := m.Use(netip.MustParseAddr("192.0.2.1")); ok {
		t.Errorf("outside: %+v", u)
	}
}
