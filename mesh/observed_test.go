package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ripstop/crypto"
)

func witness(n byte) crypto.Name { return crypto.Name{n} }

func at(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 6783)
}

func TestObserved(t *testing.T) {
	start := time.Unix(1e9, 0)
	all := func(netip.AddrPort) bool { return true }
	type word struct {
		after   time.Duration
		witness byte
		way     witnessed
		addr    netip.AddrPort
		dialled bool
	}
	lies := func(n int) (words []word) {
		for w := range byte(n) {
			for way := range witnessedWays {
				words = append(words, word{0, 100 + w, way, at(100 + int(w)*3 + int(way)), false})
			}
		}
		return words
	}
	for _, c := range []struct {
		name  string
		words []word
		at    time.Duration
		pass  func(netip.AddrPort) bool
		want  []netip.AddrPort
	}{
		{"nobody", nil, 0, all, nil},
		{"one", []word{{0, 1, byUDP4, at(1), true}}, time.Second, all, []netip.AddrPort{at(1)}},
		{"a host that dialled us", []word{{0, 1, byUDP4, at(1), false}}, time.Second, all, []netip.AddrPort{at(1)}},
		{"an IPv4 address in IPv6 form", []word{{0, 1, byUDP4, netip.MustParseAddrPort("[::ffff:192.0.2.1]:6783"), true}}, 0, all, []netip.AddrPort{at(1)}},
		{"one that nobody repeats is gone", []word{{0, 1, byUDP4, at(1), true}}, observedFor + 1, all, nil},
		{"one that is repeated stays", []word{{0, 1, byUDP4, at(1), true}, {observedFor, 1, byUDP4, at(1), true}}, 2 * observedFor, all, []netip.AddrPort{at(1)}},
		{"another of the same witness waits", []word{{0, 1, byUDP4, at(1), true}, {observedHold - 1, 1, byUDP4, at(2), true}}, observedHold, all, []netip.AddrPort{at(1)}},
		{"and takes its place", []word{{0, 1, byUDP4, at(1), true}, {observedHold, 1, byUDP4, at(2), true}}, observedHold, all, []netip.AddrPort{at(2)}},
		{"what two say goes before what one says", []word{
			{0, 1, byUDP4, at(1), true}, {0, 2, byUDP4, at(2), true}, {time.Second, 3, byUDP4, at(2), false}}, time.Second, all,
			[]netip.AddrPort{at(2), at(1)}},
		{"one witness in two ways is one", []word{
			{0, 1, byUDP4, at(1), false}, {0, 1, byTCP, at(1), false}, {0, 2, byUDP4, at(2), true}}, time.Second, all,
			[]netip.AddrPort{at(2), at(1)}},
		{"whom we dialled goes before who dialled us", []word{
			{0, 1, byUDP4, at(1), false}, {time.Second, 2, byUDP4, at(2), true}}, time.Second, all,
			[]netip.AddrPort{at(2), at(1)}},
		{"a crowd of liars does not push out what two agree on", append(lies(9), word{time.Second, 1, byUDP4, at(1), true}, word{time.Second, 2, byUDP4, at(1), true}), time.Second, all,
			[]netip.AddrPort{at(1), at(100), at(101), at(102)}},
		{"nor what was known before", append([]word{{-time.Second, 1, byUDP4, at(1), false}}, lies(9)...), time.Second, all,
			[]netip.AddrPort{at(1), at(100), at(101), at(102)}},
		{"what does not pass takes no place", append(lies(9), word{time.Second, 1, byUDP4, at(1), false}), time.Second,
			func(a netip.AddrPort) bool { return a.Addr().As4()[3] < 100 }, []netip.AddrPort{at(1)}},
		{"what is no address of a host", []word{
			{0, 1, byUDP4, netip.MustParseAddrPort("127.0.0.1:1"), true},
			{0, 2, byUDP4, netip.MustParseAddrPort("224.0.0.1:1"), true},
			{0, 3, byUDP4, netip.MustParseAddrPort("0.0.0.0:1"), true},
			{0, 4, byUDP6, netip.MustParseAddrPort("[fe80::1]:1"), true},
			{0, 5, byUDP4, netip.AddrPortFrom(at(1).Addr(), 0), true},
			{0, 6, byTCP, netip.AddrPort{}, true}}, 0, all, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var o observations
			for _, w := range c.words {
				o.note(start.Add(w.after), witness(w.witness), w.way, w.addr, w.dialled)
			}
			if got := o.best(start.Add(c.at), c.pass); !slices.Equal(got, c.want) {
				t.Errorf("got  %v\nwant %v", got, c.want)
			}
		})
	}
}

// TestObservedIsBounded: whatever witnesses say, each takes three places, and none once
// it is silent.
func TestObservedIsBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	var o observations
	for i := range 100_000 {
		now = now.Add(time.Millisecond)
		o.note(now, witness(byte(i%10)), witnessed(i%int(witnessedWays)), at(i%256), i%2 == 0)
	}
	if n := len(o.witnesses); n != 10 {
		t.Errorf("%d witnesses are kept, want 10", n)
	}
	if best := o.best(now.Add(observedFor+time.Second), func(netip.AddrPort) bool { return true }); len(best) != 0 || len(o.witnesses) != 0 {
		t.Error(fmt.Sprint(best, " and ", len(o.witnesses), " witnesses are left"))
	}
}
