package transport

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// TestRefusals: an address is remembered for a minute, others are not meant; too many
// are forgotten for the newest.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r refusals
		a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		expect := func(inA, inB bool, count int) {
			t.Helper()
			if r.has(a) != inA || r.has(b) != inB || r.count(time.Now()) != count {
				t.Errorf("%v, %v, %d in all; want %v, %v, %d", r.has(a), r.has(b), r.count(time.Now()), inA, inB, count)
			}
		}
		expect(false, false, 0)
		r.add(a, time.Now())
		expect(true, false, 1)
		time.Sleep(refusalTime / 2)
		r.add(b, time.Now())
		expect(true, true, 2)
		time.Sleep(refusalTime / 2)
		expect(false, true, 1)
		r.add(a, time.Now())
		expect(true, true, 2)
		time.Sleep(refusalTime)
		expect(false, false, 0)
		for i := range maxRefusals {
			r.add(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), time.Now())
		}
		expect(false, false, maxRefusals)
		r.add(a, time.Now())
		expect(true, false, 1)
	})
}
