package transport

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

func TestAdmission(t *testing.T) {
	now := time.Unix(1e9, 0)
	v4 := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}) }
	t.Run("prefix", func(t *testing.T) {
		for _, pair := range [][2]string{{"192.0.2.1", "::ffff:192.0.2.1"}, {"2001:db8::1", "2001:db8::ffff:1"}, {"fe80::1%a", "fe80::2%b"}} {
			var a admission
			for i := range maxPendingPrefix {
				if why := a.admit(now, netip.MustParseAddr(pair[i%2])); why != 0 {
					t.Fatalf("%s: %d refused: %v", pair[0], i, why)
				}
			}
			if why := a.admit(now, netip.MustParseAddr(pair[1])); why != refusedPrefix {
				t.Errorf("%s: one more: %v", pair[0], why)
			}
			a.release(netip.MustParseAddr(pair[1]))
			if why := a.admit(now, netip.MustParseAddr(pair[0])); why != 0 {
				t.Errorf("%s: after one left: %v", pair[0], why)
			}
		}
	})
	t.Run("total", func(t *testing.T) {
		var a admission
		for i := range maxPending {
			if why := a.admit(now, v4(i)); why != 0 {
				t.Fatalf("%d refused: %v", i, why)
			}
		}
		if why := a.admit(now, v4(9999)); why != refusedTotal {
			t.Errorf("one more: %v", why)
		}
	})
	t.Run("rate", func(t *testing.T) {
		var a admission
		for i := range crowded {
			a.admit(now, v4(i))
		}
		try := func(n int) (admitted int) {
			for range n {
				if a.admit(now, v4(500)) == 0 {
					admitted++
					a.release(v4(500))
				}
			}
			return admitted
		}
		if n := try(100); n != admissionBurst {
			t.Errorf("%d at once, not %d", n, admissionBurst)
		}
		now = now.Add(time.Second)
		if n := try(100); n != admissionRate {
			t.Errorf("%d a second later, not %d", n, admissionRate)
		}
		for range 100 {
			now = now.Add(time.Minute)
			if n := try(100); n != admissionBurst {
				t.Fatalf("%d a minute later", n)
			}
		}
	})
	t.Run("memory", func(t *testing.T) {
		var a admission
		r := rand.New(rand.NewPCG(1, 2))
		for i := range crowded {
			a.admit(now, v4(i))
		}
		for range 100000 {
			now = now.Add(time.Duration(r.IntN(1000)) * time.Microsecond)
			addr := v4(1000 + r.IntN(60000))
			if a.admit(now, addr) == 0 {
				a.release(addr)
			}
			if len(a.prefixes) > maxPrefixes {
				t.Fatalf("%d prefixes remembered", len(a.prefixes))
			}
		}
		if a.total != crowded {
			t.Errorf("%d places taken", a.total)
		}
	})
}
